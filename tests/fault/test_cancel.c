/* Stopping what is in progress: from every callback in turn, at every allocation, and from another
 * thread at random moments. The status is ERNIE_CANCELLED, the session stands where the header says,
 * goes on as if nothing had been, and nothing leaks. test_latency.c measures how soon. */
#include "stage.h"

#include "raiser.h"

static stage_file file;

/* ---- At the k-th event --------------------------------------------------------------------- */

/* Where patience ends: event number `at`, whatever it is. Then a flag goes up, or the callback
 * says stop. */
typedef struct trip {
    long at, n;
    ernie_cancel *flag;     /* NULL: none */
    ernie_session *session; /* NULL: none */
    bool says_stop;
    const ernie_allocator *below;
} trip;

static int trip_step(trip *t)
{
    if (t->n++ != t->at) return 0;
    ernie_cancel_request(t->flag);
    ernie_session_cancel(t->session);
    return t->says_stop;
}

static int trip_progress(const char *what, uint64_t done, uint64_t total, void *user)
{
    assert_non_null(what);
    assert_true(done <= total);
    return trip_step(user);
}

static void trip_log(ernie_log_level level, const char *line, void *user)
{
    (void)level;
    assert_non_null(line);
    trip_step(user);
}

static void *trip_resize(void *user, void *ptr, size_t old_size, size_t new_size)
{
    trip *t = user;
    if (new_size) trip_step(t);
    return t->below->resize(t->below->user, ptr, old_size, new_size);
}

static int trip_token(const ernie_token *token, void *user)
{
    (void)token;
    return trip_step(user);
}

static void trip_route(uint32_t layer, uint32_t n_tokens, uint32_t k, const int32_t *experts,
                       const float *weights, void *user)
{
    (void)layer;
    (void)n_tokens;
    (void)k;
    (void)experts;
    (void)weights;
    trip_step(user);
}

/* ---- Opening ------------------------------------------------------------------------------- */

typedef enum way { WAY_MAPPED, WAY_READ, WAY_SOURCE, WAY_MEMORY, WAY_COUNT } way;

static ernie_status open_way(way how, ernie_model **model, const ernie_model_options *options,
                             ernie_error *error)
{
    ernie_model_options o = *options;
    const ernie_source source = { stage_source_read, file.n_bytes, &file };
    o.no_mmap = how == WAY_READ;
    switch (how) {
    case WAY_SOURCE: return ernie_model_open_source(model, &source, &o, error);
    case WAY_MEMORY: return ernie_model_open_memory(model, file.data, file.n_bytes, &o, error);
    default: return ernie_model_open(model, file.path, &o, error);
    }
}

/* Every allocation, log line and progress call is an event. Returns how many there were. */
static long open_tripped(way how, long at, bool by_flag, ernie_status *status)
{
    test_allocator counter;
    ernie_allocator allocator;
    ernie_cancel flag = { 0 };
    ernie_error error = { ERNIE_OK, "" };
    ernie_model *model = (ernie_model *)8;
    test_allocator_begin(&counter, &allocator);
    trip t = {
        .at = at, .flag = by_flag ? &flag : NULL, .says_stop = !by_flag, .below = &allocator
    };
    const ernie_allocator tripping = { trip_resize, &t };
    ernie_model_options options = ernie_model_options_init();
    options.verify = true;
    options.allocator = by_flag ? &tripping : &allocator;
    options.progress = trip_progress;
    options.progress_user = &t;
    options.log = by_flag ? trip_log : NULL;
    options.log_user = &t;
    options.cancel = &flag;
    *status = open_way(how, &model, &options, &error);
    if (*status != ERNIE_OK) assert_null(model);
    assert_int_equal(error.code, *status);
    ernie_model_close(model);
    assert_int_equal(atomic_load(&counter.live), 0);
    assert_int_equal(atomic_load(&counter.n_wrong_sizes), 0);
    return t.n;
}

static void opening_stops_at_every_event(void **state)
{
    (void)state;
    for (way how = WAY_MAPPED; how < WAY_COUNT; how++)
        for (int by_flag = 0; by_flag < 2; by_flag++) {
            ernie_status status;
            const long n = open_tripped(how, -1, by_flag != 0, &status);
            assert_int_equal(status, ERNIE_OK);
            assert_true(n > 5);
            /* The last event says that all is done. */
            for (long k = 0; k < n; k++) {
                open_tripped(how, k, by_flag != 0, &status);
                if (status != (k < n - 1 ? ERNIE_CANCELLED : ERNIE_OK))
                    fail_msg("way %d, event %ld of %ld: status %d", (int)how, k, n, (int)status);
            }
        }
}

static void verifying_stops_and_leaves_the_model(void **state)
{
    (void)state;
    stage s;
    ernie_error error = { ERNIE_OK, "" };
    stage_begin(&s, &file);
    trip t = { .at = -1 };
    stage_ok(ernie_model_verify(s.model, trip_progress, &t, NULL, &error), &error);
    const long n = t.n;
    assert_true(n > 5);
    /* The last call says that all is done. */
    for (int by_flag = 0; by_flag < 2; by_flag++)
        for (long k = 0; k < n - 1; k++) {
            ernie_cancel flag = { 0 };
            t = (trip){ .at = k, .flag = by_flag ? &flag : NULL, .says_stop = !by_flag };
            assert_int_equal(ernie_model_verify(s.model, trip_progress, &t, &flag, &error),
                             ERNIE_CANCELLED);
            assert_int_equal(t.n, k + 1);
        }
    stage_check_goes_on(&s, s.session);
    stage_end(&s);
}

/* ---- Feeding ------------------------------------------------------------------------------- */

/* A session of one thread or two that reads the prompt after its first token; progress and routes
 * are events. */
static ernie_status feed_tripped(trip *t, bool by_session, unsigned n_threads)
{
    stage s;
    int32_t ids[STAGE_PROMPT];
    ernie_session *session = NULL;
    ernie_error error = { ERNIE_OK, "" };
    stage_prompt(&file, ids);
    stage_begin(&s, &file);
    s.options.n_threads = n_threads;
    s.options.progress = trip_progress;
    s.options.progress_user = t;
    s.options.route = by_session ? trip_route : NULL;
    s.options.route_user = t;
    const long at = t->at;
    t->at = -1;
    stage_ok(ernie_session_create(&session, s.model, &s.options, &error), &error);
    stage_ok(ernie_session_feed(session, ids, 1, &error), &error);
    t->n = 0;
    t->at = at;
    t->session = by_session ? session : NULL;
    t->says_stop = !by_session;
    const ernie_status status = ernie_session_feed(session, ids + 1, STAGE_PROMPT - 1, &error);
    const long n = t->n;
    t->at = -1;
    if (status != ERNIE_OK) {
        assert_int_equal(error.code, ERNIE_CANCELLED);
        assert_int_equal(ernie_session_length(session), 1);
        assert_null(ernie_session_logits(session));
    } else if (at >= 0) {
        /* Asked too late for this call, so it stops the next. */
        assert_int_equal(ernie_session_feed(session, ids, 1, &error), ERNIE_CANCELLED);
        assert_string_equal(error.message, "cancelled while 1 token was computed");
    }
    stage_check_recovers(&s, session);
    t->n = n;
    ernie_session_free(session);
    stage_end(&s);
    return status;
}

static void feeding_stops_at_every_event(void **state)
{
    (void)state;
    for (unsigned n_threads = 1; n_threads <= 2; n_threads++)
        for (int by_session = 0; by_session < 2; by_session++) {
            trip t = { .at = -1 };
            assert_int_equal(feed_tripped(&t, by_session != 0, n_threads), ERNIE_OK);
            const long n = t.n;
            assert_true(n >= 3);
            for (long k = 0; k < n; k++) {
                t = (trip){ .at = k };
                const ernie_status status = feed_tripped(&t, by_session != 0, n_threads);
                /* The last event is the progress of the last batch: nothing is left to stop. */
                const ernie_status wanted = by_session && k == n - 1 ? ERNIE_OK : ERNIE_CANCELLED;
                if (status != wanted)
                    fail_msg("%u threads, event %ld of %ld: status %d", n_threads, k, n,
                             (int)status);
            }
        }
}

static void request_before_a_call_stops_one_call(void **state)
{
    (void)state;
    stage s;
    int32_t ids[STAGE_PROMPT];
    ernie_error error = { ERNIE_OK, "" };
    ernie_result result = { .size = sizeof result };
    stage_prompt(&file, ids);
    stage_begin(&s, &file);
    ernie_session_cancel(s.session);
    assert_int_equal(ernie_session_generate(s.session, NULL, NULL, NULL, &result, &error),
                     ERNIE_CANCELLED);
    assert_int_equal(result.n_generated, 0);
    stage_check_goes_on(&s, s.session);
    ernie_session_cancel(s.session);
    ernie_session_cancel(s.session);
    assert_int_equal(ernie_session_feed(s.session, ids, 1, &error), ERNIE_CANCELLED);
    stage_check_recovers(&s, s.session);
    ernie_session_cancel(s.session);
    assert_int_equal(ernie_session_ask(s.session, "the end", NULL, NULL, NULL, NULL, &error),
                     ERNIE_CANCELLED);
    stage_check_recovers(&s, s.session);
    ernie_session_cancel(NULL);
    ernie_cancel_request(NULL);
    stage_end(&s);
}

/* ---- Generating ---------------------------------------------------------------------------- */

/* The session holds the prompt and the first tokens of what follows it, and n_generated says how
 * many. */
static void check_beginning(const stage *s, const ernie_result *result)
{
    const size_t n = ernie_session_length(s->session) - STAGE_PROMPT;
    assert_int_equal(n, result->n_generated);
    assert_true(n <= STAGE_ENCORE);
    assert_memory_equal(ernie_session_tokens(s->session) + STAGE_PROMPT, file.encore,
                        n * sizeof *file.encore);
}

static void generating_stops_at_every_token(void **state)
{
    (void)state;
    for (int by_session = 0; by_session < 2; by_session++)
        for (long k = 0; k < STAGE_ENCORE; k++) {
            stage s;
            ernie_error error = { ERNIE_OK, "" };
            ernie_result result = { .size = sizeof result };
            ernie_sampling params = ernie_sampling_init();
            stage_begin(&s, &file);
            trip t = { .at = k,
                       .session = by_session ? s.session : NULL,
                       .says_stop = !by_session };
            params.greedy = params.ignore_eos = true;
            params.n_max = STAGE_ENCORE;
            const ernie_status status =
                ernie_session_generate(s.session, &params, trip_token, &t, &result, &error);
            check_beginning(&s, &result);
            if (by_session) {
                assert_int_equal(status, ERNIE_CANCELLED);
                assert_int_equal(result.stop, ERNIE_STOP_CANCELLED);
                assert_true(result.n_generated >= (size_t)k);
            } else {
                assert_int_equal(status, ERNIE_OK);
                assert_int_equal(result.stop, ERNIE_STOP_CALLBACK);
                assert_int_equal(result.n_generated, k + 1);
            }
            stage_check_recovers(&s, s.session);
            stage_end(&s);
        }
}

/* ---- From another thread ------------------------------------------------------------------- */

static void feeding_and_generating_stop_at_any_moment(void **state)
{
    (void)state;
    uint64_t seed = 1;
    stage s;
    int32_t ids[STAGE_PROMPT];
    unsigned n_cancelled = 0;
    stage_prompt(&file, ids);
    stage_begin(&s, &file);
    for (unsigned i = 0; i < 120; i++) {
        ernie_error error = { ERNIE_OK, "" };
        ernie_result result = { .size = sizeof result };
        ernie_sampling params = ernie_sampling_init();
        raiser r = { .delay = raiser_random_delay(&seed, 2e-3), .session = s.session };
        params.greedy = params.ignore_eos = true;
        params.n_max = STAGE_ENCORE;
        const bool generates = i % 2 == 0;
        if (generates)
            stage_ok(ernie_session_sync(s.session, ids, STAGE_PROMPT, &error), &error);
        else
            stage_ok(ernie_session_rewind(s.session, 0, &error), &error);
        raiser_start(&r);
        const ernie_status status =
            generates ? ernie_session_generate(s.session, &params, NULL, NULL, &result, &error)
                      : ernie_session_feed(s.session, ids, STAGE_PROMPT, &error);
        raiser_join(&r);
        n_cancelled += status == ERNIE_CANCELLED;
        if (status != ERNIE_CANCELLED) {
            stage_ok(status, &error);
            /* The request is still there; use it up. */
            assert_int_equal(ernie_session_generate(s.session, &params, NULL, NULL, NULL, &error),
                             ERNIE_CANCELLED);
        }
        if (generates)
            check_beginning(&s, &result);
        else
            assert_int_equal(ernie_session_length(s.session),
                             status == ERNIE_OK ? STAGE_PROMPT : 0);
        stage_check_recovers(&s, s.session);
    }
    printf("%u of 120 feeds and generations were stopped under way\n", n_cancelled);
    stage_end(&s);
}

static void opening_stops_at_any_moment(void **state)
{
    (void)state;
    uint64_t seed = 2;
    unsigned n_cancelled = 0;
    stage_file large = { .dir = "" };
    large.data = stage_large_image(&large.n_bytes);
    const ernie_source source = { stage_source_read, large.n_bytes, &large };
    for (unsigned i = 0; i < 100; i++) {
        test_allocator counter;
        ernie_allocator allocator;
        ernie_cancel flag = { 0 };
        ernie_error error = { ERNIE_OK, "" };
        ernie_model *model = NULL;
        ernie_model_options options = ernie_model_options_init();
        raiser r = { .delay = raiser_random_delay(&seed, 2e-3), .flag = &flag };
        test_allocator_begin(&counter, &allocator);
        options.allocator = &allocator;
        options.cancel = &flag;
        options.verify = true;
        raiser_start(&r);
        const ernie_status status =
            i % 2 ? ernie_model_open_source(&model, &source, &options, &error)
                  : ernie_model_open_memory(&model, large.data, large.n_bytes, &options, &error);
        raiser_join(&r);
        n_cancelled += status == ERNIE_CANCELLED;
        assert_true(status == ERNIE_OK || status == ERNIE_CANCELLED);
        assert_true((status == ERNIE_OK) == (model != NULL));
        ernie_model_close(model);
        assert_int_equal(atomic_load(&counter.live), 0);
    }
    printf("%u of 100 openings were stopped under way\n", n_cancelled);
    test_model_free(large.data);
}

/* ---- Main ---------------------------------------------------------------------------------- */

static int setup(void **state)
{
    (void)state;
    stage_file_tiny(&file);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    stage_file_remove(&file);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(opening_stops_at_every_event),
        cmocka_unit_test(verifying_stops_and_leaves_the_model),
        cmocka_unit_test(feeding_stops_at_every_event),
        cmocka_unit_test(request_before_a_call_stops_one_call),
        cmocka_unit_test(generating_stops_at_every_token),
        cmocka_unit_test(feeding_and_generating_stop_at_any_moment),
        cmocka_unit_test(opening_stops_at_any_moment),
    };
    return cmocka_run_group_tests_name("cancel", tests, setup, teardown);
}
