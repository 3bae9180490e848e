/* Callbacks, cancelling, several threads: a call that is stopped leaves what was held; any number of
 * workers gives the same bits; sessions share a model. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <sched.h>

#include "test_session.h"

#define N_IDS 23
#define VOCAB 320

static int32_t ids[N_IDS];

static int make_ids(void **state)
{
    (void)state;
    test_ids(ids, N_IDS, 4, 300);
    return 0;
}

/* ---- Callbacks ----------------------------------------------------------------------------- */

typedef struct watcher {
    ernie_session *session;
    uint64_t done[16];
    size_t n_calls;
    size_t stop_at;           /* the progress call that returns non-zero; 99: none */
    long n_routes, cancel_at; /* the route call that cancels; -1: none */
} watcher;

static int on_progress(const char *what, uint64_t done, uint64_t total, void *user)
{
    watcher *o = user;
    assert_string_equal(what, "reading the prompt");
    assert_true(done <= total);
    o->done[o->n_calls] = done;
    return o->n_calls++ == o->stop_at;
}

static void on_route(uint32_t layer, uint32_t n_tokens, uint32_t moe_k, const int32_t *experts,
                     const float *weights, void *user)
{
    watcher *o = user;
    assert_int_equal(layer, 1);
    assert_int_equal(moe_k, 2);
    for (uint32_t t = 0; t < n_tokens; t++) {
        const int32_t *e = experts + t * moe_k;
        assert_true(e[0] >= 0 && e[0] < 4 && e[1] >= 0 && e[1] < 4 && e[0] != e[1]);
        assert_true(fabsf(weights[t * moe_k] + weights[t * moe_k + 1] - 1.0f) < 1e-5f);
    }
    if (o->n_routes++ == o->cancel_at) ernie_session_cancel(o->session);
}

static ernie_session *watched_session(const ernie_model *model, watcher *o)
{
    ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
    options.n_ctx = 64;
    options.n_batch = 10;
    options.progress = on_progress;
    options.progress_user = o;
    options.route = on_route;
    options.route_user = o;
    o->session = test_session_with(model, &options);
    return o->session;
}

static void callbacks_are_told(void **state)
{
    (void)state;
    test_world w;
    watcher o = { .stop_at = 99, .cancel_at = -1 };
    test_world_open(&w, &test_moe_spec);
    ernie_session *session = watched_session(w.model, &o);
    OK(ernie_session_feed(session, ids, N_IDS, &error));
    assert_int_equal(o.n_calls, 3);
    assert_true(o.done[0] == 10 && o.done[1] == 20 && o.done[2] == N_IDS);
    assert_int_equal(o.n_routes, 3);
    OK(ernie_session_feed(session, ids, 1, &error)); /* a single token is no prompt */
    assert_int_equal(o.n_calls, 3);
    ernie_session_free(session);
    test_world_close(&w);
}

/* Cancelled before, by the progress callback, or in the middle of a step: what was held stays. */
static void cancelled_feeds_leave_what_was_held(void **state)
{
    (void)state;
    test_world w;
    float before[VOCAB];
    static float all[N_IDS * VOCAB];
    test_world_open(&w, &test_moe_spec);
    for (int how = 0; how < 8; how++) {
        watcher o = { .stop_at = 99, .cancel_at = -1 };
        ernie_session *session = watched_session(w.model, &o);
        OK(ernie_session_feed(session, ids, N_IDS, &error));
        memcpy(before, ernie_session_logits(session), sizeof before);
        OK(ernie_session_rewind(session, 4, &error));
        OK(ernie_session_feed(session, ids + 4, 1, &error));
        o = (watcher){ session, { 0 }, 0, 99, 0, -1 };
        if (how < 2)
            ernie_session_cancel(session);
        else if (how < 5)
            o.stop_at = (size_t)how - 2;
        else
            o.cancel_at = how - 5;
        if (how % 2)
            FAILS(ERNIE_CANCELLED, ernie_session_feed(session, ids, N_IDS, &error), "cancelled");
        else
            FAILS(ERNIE_CANCELLED, ernie_session_feed_logits(session, ids, N_IDS, all, &error), "");
        assert_int_equal(ernie_session_length(session), 5);
        assert_memory_equal(ernie_session_tokens(session), ids, 5 * sizeof ids[0]);
        assert_null(ernie_session_logits(session));
        o.stop_at = 99;
        o.cancel_at = -1;
        OK(ernie_session_feed(session, ids + 5, N_IDS - 5, &error)); /* the request is used up */
        test_same_logits(session, before, VOCAB);
        ernie_session_free(session);
    }
    test_world_close(&w);
}

static void cancelled_sync_keeps_the_beginning(void **state)
{
    (void)state;
    test_world w;
    watcher o = { .stop_at = 99, .cancel_at = -1 };
    int32_t list[N_IDS];
    ernie_session *fork = NULL;
    test_world_open(&w, &test_moe_spec);
    ernie_session *session = watched_session(w.model, &o);
    OK(ernie_session_feed(session, ids, N_IDS, &error));
    memcpy(list, ids, sizeof list);
    list[7] ^= 1;
    ernie_session_cancel(session);
    OK(ernie_session_fork(&fork, session, &error)); /* the request is not the fork's */
    OK(ernie_session_feed(fork, ids, N_IDS, &error));
    FAILS(ERNIE_CANCELLED, ernie_session_sync(session, list, N_IDS, &error), "");
    assert_int_equal(ernie_session_length(session), 7);
    assert_null(ernie_session_logits(session));
    OK(ernie_session_sync(session, list, N_IDS, &error));
    ernie_session_free(fork);
    ernie_session_free(session);
    test_world_close(&w);
}

/* ---- Threads ------------------------------------------------------------------------------- */

/* Logits after each of ids [N_IDS], then of some single steps, on n threads. */
static void logits_on(const ernie_model *model, uint32_t n_threads, ernie_kv_type kv_type,
                      float *logits)
{
    ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
    options.n_threads = n_threads;
    options.kv_type = kv_type;
    options.n_ctx = 64;
    options.n_batch = 16;
    ernie_session *session = test_session_with(model, &options);
    OK(ernie_session_feed_logits(session, ids, N_IDS, logits, &error));
    for (size_t i = 0; i < 4; i++)
        OK(ernie_session_feed_logits(session, ids + i, 1, logits + (N_IDS + i) * VOCAB, &error));
    ernie_session_free(session);
}

static void threads_change_nothing(void **state)
{
    (void)state;
    static const test_model_spec *const specs[] = { &test_dense_spec, &test_moe_spec };
    static const uint32_t n_threads[] = { 2, 3, 8 };
    static float expected[(N_IDS + 4) * VOCAB], logits[(N_IDS + 4) * VOCAB];
    static const ernie_kv_type kv_types[] = { ERNIE_KV_F16, ERNIE_KV_Q8, ERNIE_KV_Q4 };
    for (size_t m = 0; m < ERN_COUNT(kv_types) * ERN_COUNT(specs); m++) {
        test_world w;
        const ernie_kv_type kv_type = kv_types[m % ERN_COUNT(kv_types)];
        test_world_open(&w, specs[m / ERN_COUNT(kv_types)]);
        logits_on(w.model, 1, kv_type, expected);
        for (size_t i = 0; i < ERN_COUNT(n_threads); i++) {
            logits_on(w.model, n_threads[i], kv_type, logits);
            assert_memory_equal(logits, expected, sizeof logits);
        }
        test_world_close(&w);
    }
}

typedef struct job {
    const ernie_model *model;
    pthread_t thread;
    uint32_t seed;
    bool ok; /* assertions end a test by longjmp, which must not leave a thread's stack */
    int32_t made[24];
    size_t n_made;
} job;

static int keep_token(const ernie_token *token, void *user)
{
    job *j = user;
    if (token->id >= 0) j->made[j->n_made++] = token->id;
    return 0;
}

/* A session's whole life: create, feed, generate, fork, rewind, free. */
static void *live(void *arg)
{
    job *j = arg;
    ernie_session *session = NULL, *fork = NULL;
    ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
    ernie_sampling params = ERNIE_SAMPLING_INIT;
    options.n_threads = 1 + j->seed % 2;
    options.n_ctx = 64;
    params.seed = j->seed;
    params.n_max = 12;
    params.ignore_eos = true;
    j->n_made = 0;
    j->ok = ernie_session_create(&session, j->model, &options, NULL) == ERNIE_OK
            && ernie_session_feed(session, ids, 5 + j->seed, NULL) == ERNIE_OK
            && ernie_session_fork(&fork, session, NULL) == ERNIE_OK
            && ernie_session_generate(session, &params, keep_token, j, NULL, NULL) == ERNIE_OK
            && ernie_session_rewind(session, 3, NULL) == ERNIE_OK
            && ernie_session_generate(fork, &params, keep_token, j, NULL, NULL) == ERNIE_OK
            && ernie_model_verify(j->model, NULL, NULL, NULL, NULL) == ERNIE_OK;
    ernie_session_free(session);
    ernie_session_free(fork);
    return NULL;
}

static void sessions_share_a_model(void **state)
{
    (void)state;
    enum { N_JOBS = 4 };
    test_world w;
    job together[N_JOBS], alone[N_JOBS];
    memset(together, 0, sizeof together);
    test_world_open(&w, &test_moe_spec);
    for (uint32_t i = 0; i < N_JOBS; i++) {
        together[i].model = w.model;
        together[i].seed = i + 1;
        alone[i] = together[i];
        live(&alone[i]);
        assert_true(alone[i].ok && alone[i].n_made == 24);
        assert_memory_equal(alone[i].made, alone[i].made + 12, 12 * sizeof(int32_t)); /* the fork */
    }
    for (int i = 0; i < N_JOBS; i++)
        assert_int_equal(pthread_create(&together[i].thread, NULL, live, &together[i]), 0);
    for (int i = 0; i < N_JOBS; i++) pthread_join(together[i].thread, NULL);
    for (int i = 0; i < N_JOBS; i++) {
        assert_true(together[i].ok);
        assert_memory_equal(together[i].made, alone[i].made, sizeof alone[i].made);
    }
    test_world_close(&w);
}

/* ---- Cancelling from another thread -------------------------------------------------------- */

typedef struct stopper {
    ernie_session *session;
    pthread_t thread;
    atomic_int started, done;
} stopper;

/* Presses the button once the call has begun. */
static void *stop_when_started(void *arg)
{
    stopper *s = arg;
    while (!atomic_load(&s->started)) sched_yield();
    ernie_session_cancel(s->session);
    atomic_store(&s->done, 1);
    return NULL;
}

static int say_started(const ernie_token *token, void *user)
{
    stopper *s = user;
    (void)token;
    atomic_store(&s->started, 1);
    return 0;
}

static int say_progress(const char *what, uint64_t done, uint64_t total, void *user)
{
    stopper *s = user;
    (void)what;
    (void)done;
    (void)total;
    atomic_store(&s->started, 1);
    while (!atomic_load(&s->done)) sched_yield(); /* the request comes between two batches */
    return 0;
}

static void another_thread_stops_a_feed(void **state)
{
    (void)state;
    test_world w;
    stopper s = { 0 };
    ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
    options.n_ctx = 64;
    options.n_batch = 4;
    options.n_threads = 2;
    options.progress = say_progress;
    options.progress_user = &s;
    test_world_open(&w, &test_dense_spec);
    s.session = test_session_with(w.model, &options);
    OK(ernie_session_feed(s.session, ids, 1, &error));
    assert_int_equal(pthread_create(&s.thread, NULL, stop_when_started, &s), 0);
    FAILS(ERNIE_CANCELLED, ernie_session_feed(s.session, ids, N_IDS, &error), "cancelled");
    pthread_join(s.thread, NULL);
    assert_int_equal(ernie_session_length(s.session), 1);
    assert_null(ernie_session_logits(s.session));
    OK(ernie_session_feed(s.session, ids, N_IDS, &error));
    ernie_session_free(s.session);
    test_world_close(&w);
}

/* Generates without end until stopped; what it says to have made is what the session has grown by. */
static void another_thread_stops_an_answer(void **state)
{
    (void)state;
    test_world w;
    stopper s = { 0 };
    ernie_sampling params = ERNIE_SAMPLING_INIT;
    ernie_result result = { .size = sizeof result };
    params.ignore_eos = true;
    params.greedy = true;
    const ern_hparams shape = { .n_layers = 2,
                                .hidden_size = 64,
                                .n_heads = 2,
                                .n_kv_heads = 1,
                                .head_dim = 32,
                                .intermediate_size = 96,
                                .vocab_size = VOCAB,
                                .context_max = 1u << 17,
                                .bos_id = 1,
                                .eos_id = 2,
                                .rms_norm_eps = 1e-5f,
                                .moe_norm_min = 1e-12f,
                                .rope_theta = 500000.0,
                                .tied = 1 };
    const test_model_spec spec = { .hparams = &shape, .type_embed = ERN_W4 };
    test_world_open(&w, &spec);
    ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
    options.n_ctx = shape.context_max; /* too long to be filled before the request comes */
    options.n_threads = 2;
    s.session = test_session_with(w.model, &options);
    OK(ernie_session_feed(s.session, ids, N_IDS, &error));
    assert_int_equal(pthread_create(&s.thread, NULL, stop_when_started, &s), 0);
    FAILS(ERNIE_CANCELLED,
          ernie_session_generate(s.session, &params, say_started, &s, &result, &error),
          "cancelled");
    pthread_join(s.thread, NULL);
    assert_int_equal(result.stop, ERNIE_STOP_CANCELLED);
    assert_int_equal(ernie_session_length(s.session), N_IDS + result.n_generated);
    OK(ernie_session_feed(s.session, ids, 1, &error));
    ernie_session_free(s.session);
    test_world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(callbacks_are_told),
        cmocka_unit_test(cancelled_feeds_leave_what_was_held),
        cmocka_unit_test(cancelled_sync_keeps_the_beginning),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(sessions_share_a_model),
        cmocka_unit_test(another_thread_stops_a_feed),
        cmocka_unit_test(another_thread_stops_an_answer),
    };
    return cmocka_run_group_tests_name("session_threads", tests, make_ids, NULL);
}
