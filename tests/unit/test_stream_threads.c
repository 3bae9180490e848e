/* Streamed models on several threads: sessions that share few slots say what each says alone,
 * while others come and go and the cache shrinks and grows; a step that waits for the disk stops
 * at once when it is asked to. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>

#include "fake_disk.h"
#include "test_session.h"
#include "stream_model.h"

#define N_PROMPT   90u
#define N_SESSIONS 4u
#define N_ROUNDS   3u
#define PATIENCE   20.0 /* seconds; a request is heard within 50 ms */

static fake_disk disk;
static int32_t prompts[N_SESSIONS][N_PROMPT];
static stream_answer expected[N_SESSIONS];

static int setup(void **state)
{
    const ern_hparams h = stream_hparams();
    const test_model_spec spec = stream_spec(&h);
    const stream_how how = stream_from(NULL, &disk.source);
    (void)state;
    fake_begin_spec(&disk, &spec);
    for (unsigned i = 0; i < N_SESSIONS; i++) {
        test_ids(prompts[i], N_PROMPT, i + 1, 300);
        stream_ask_resident(disk.image, disk.n_bytes, &how.session, prompts[i], N_PROMPT,
                            &expected[i]);
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fake_end(&disk);
    return 0;
}

static int calm(void **state)
{
    (void)state;
    fake_permit(&disk, -1);
    return 0;
}

/* ---- Together ------------------------------------------------------------------------------ */

/* Asserts belong to the main thread: others report. */
typedef struct speaker {
    pthread_t thread;
    ernie_session *session;
    unsigned i;
    bool wrong;
    ernie_error error;
} speaker;

static void *speak(void *arg)
{
    speaker *s = arg;
    ernie_sampling params = ERNIE_SAMPLING_INIT;
    const stream_answer *want = &expected[s->i];
    params.greedy = params.ignore_eos = true;
    params.n_max = STREAM_GREEDY;
    for (unsigned round = 0; round < N_ROUNDS && !s->wrong; round++) {
        s->wrong = ernie_session_rewind(s->session, 0, &s->error) != ERNIE_OK
                   || ernie_session_feed(s->session, prompts[s->i], N_PROMPT, &s->error) != ERNIE_OK
                   || memcmp(ernie_session_logits(s->session), want->logits, sizeof want->logits)
                   || ernie_session_generate(s->session, &params, NULL, NULL, NULL, &s->error)
                          != ERNIE_OK
                   || memcmp(ernie_session_tokens(s->session) + N_PROMPT, want->ids,
                             sizeof want->ids)
                   || memcmp(ernie_session_logits(s->session), want->last, sizeof want->last);
    }
    return NULL;
}

static void begin_speaking(speaker *s, const ernie_model *model, const stream_how *how, unsigned i)
{
    memset(s, 0, sizeof *s);
    s->i = i;
    s->session = test_session_with(model, &how->session);
    assert_int_equal(pthread_create(&s->thread, NULL, speak, s), 0);
}

static void end_speaking(speaker *s)
{
    pthread_join(s->thread, NULL);
    if (s->wrong) fail_msg("session %u: %s", s->i, s->error.message);
    ernie_session_free(s->session);
}

static void share(unsigned n, uint32_t n_slots, stream_how *how)
{
    speaker speakers[N_SESSIONS];
    ernie_model *model = stream_open(how, n, n_slots);
    for (unsigned i = 0; i < n; i++) begin_speaking(&speakers[i], model, how, i);
    for (unsigned i = 0; i < n; i++) end_speaking(&speakers[i]);
    ernie_model_close(model);
}

static void two_sessions_share_few_slots(void **state)
{
    stream_how how = stream_from(NULL, &disk.source);
    (void)state;
    share(2, STREAM_LEAST, &how);
    how.stream.n_readers = 1;
    how.stream.look_ahead = true;
    share(2, STREAM_LEAST + 3, &how);
}

static void four_sessions_share_few_slots(void **state)
{
    stream_how how = stream_from(NULL, &disk.source);
    (void)state;
    how.session.n_threads = 1;
    share(4, STREAM_LEAST, &how);
    how.stream.policy = ERNIE_STREAM_LFRU;
    how.stream.n_readers = 8;
    share(4, 30, &how);
}

/* While two speak, sessions of all sizes are created, forked and freed, the model is verified
 * and the disk measured, each of which takes memory from the experts. */
static void sessions_come_and_go(void **state)
{
    stream_how how = stream_from(NULL, &disk.source);
    speaker speakers[2];
    ernie_memory memory = { .size = sizeof memory };
    uint32_t least = UINT32_MAX, most = 0;
    (void)state;
    how.session.n_threads = 1;
    ernie_model *model = stream_open(&how, 3, 24);
    for (unsigned i = 0; i < 2; i++) begin_speaking(&speakers[i], model, &how, i);
    for (unsigned i = 0; i < 12; i++) {
        ernie_session_options options = how.session;
        ernie_session *session = NULL, *fork = NULL;
        double rate;
        options.n_ctx = i % 3 == 0 ? 16 : i % 3 == 1 ? 256 : 100;
        OK(ernie_session_create(&session, model, &options, &error));
        const uint32_t n = stream_n_slots(session);
        least = n < least ? n : least;
        most = n > most ? n : most;
        OK(ernie_session_feed(session, prompts[2], 10, &error));
        OK(ernie_session_plan(model, &options, &memory, &error));
        assert_true(memory.held_bytes + memory.n_slots < memory.ceiling_bytes);
        if (i % 3 == 0) OK(ernie_session_fork(&fork, session, &error));
        if (i % 4 == 1) OK(ernie_model_verify(model, NULL, NULL, NULL, &error));
        if (i % 4 == 2) OK(ernie_model_read_rate(model, 0.01, NULL, &rate, &error));
        ernie_session_free(fork);
        ernie_session_free(session);
    }
    for (unsigned i = 0; i < 2; i++) end_speaking(&speakers[i]);
    assert_true(least >= 24 && most > least);
    ernie_model_close(model);
}

/* ---- Stopping ------------------------------------------------------------------------------ */

typedef struct stopper {
    pthread_t thread;
    ernie_session *session;
    ernie_cancel *flag;
    double delay;
    double since; /* of the request */
} stopper;

static void *stop(void *arg)
{
    stopper *s = arg;
    ern_sleep(s->delay);
    s->since = ern_seconds();
    ernie_session_cancel(s->session);
    ernie_cancel_request(s->flag);
    return NULL;
}

static void begin_stopping(stopper *s, ernie_session *session, ernie_cancel *flag, double delay)
{
    *s = (stopper){ .session = session, .flag = flag, .delay = delay };
    assert_int_equal(pthread_create(&s->thread, NULL, stop, s), 0);
}

static double end_stopping(stopper *s)
{
    const double now = ern_seconds();
    pthread_join(s->thread, NULL);
    assert_true(now - s->since < PATIENCE);
    return now - s->since;
}

/* The disk lets so many reads pass and then no more: only a request ends the call. */
static void a_blocked_disk_holds_nobody(void **state)
{
    stream_how how = stream_from(NULL, &disk.source);
    uint64_t seed = 3;
    double worst = 0;
    (void)state;
    ernie_model *model = stream_open(&how, 1, STREAM_LEAST);
    ernie_session *session = test_session_with(model, &how.session);
    for (unsigned i = 0; i < 24; i++) {
        stopper s;
        const size_t n = i % 2 ? 1 : 40;
        OK(ernie_session_rewind(session, 0, &error));
        fake_permit(&disk, (long)(test_random(&seed) % 8));
        begin_stopping(&s, session, NULL, 1e-3 * (double)(test_random(&seed) % 20));
        ernie_status status = ERNIE_OK;
        for (unsigned k = 0; k < 200 && status == ERNIE_OK; k++) {
            status = ernie_session_feed(session, &prompts[0][k % 50], n, NULL);
            if (status == ERNIE_OK) OK(ernie_session_rewind(session, 0, &error));
        }
        const double heard = end_stopping(&s);
        worst = heard > worst ? heard : worst;
        assert_int_equal(status, ERNIE_CANCELLED);
        assert_int_equal(ernie_session_length(session), 0);
        assert_null(ernie_session_logits(session));
        if (i % 6) continue; /* what was begun lands some time */
        stream_answer answer;
        fake_permit(&disk, -1);
        stream_ask(session, prompts[0], N_PROMPT, &answer);
        assert_true(stream_same(&answer, &expected[0]));
    }
    printf("a request to stop was heard after at most %.1f ms\n", 1e3 * worst);
    fake_permit(&disk, -1);
    ernie_session_free(session);
    ernie_model_close(model);
}

/* While one waits for a disk that gives nothing, whoever finds its experts in memory goes on. */
static void one_that_waits_does_not_hold_the_others(void **state)
{
    stream_how how = stream_from(NULL, &disk.source);
    speaker s;
    (void)state;
    ernie_model *model = stream_open(&how, 2, STREAM_EXPERTS - 1);
    ernie_session *session = test_session_with(model, &how.session);
    OK(ernie_session_feed(session, prompts[1], 1, &error));
    fake_permit(&disk, 0);
    const unsigned before = fake_n_reads(&disk);
    begin_speaking(&s, model, &how, 0);
    fake_wait_reads(&disk, before + 1);
    for (unsigned i = 0; i < 5; i++) {
        OK(ernie_session_rewind(session, 0, &error));
        OK(ernie_session_feed(session, prompts[1], 1, &error)); /* its sixteen are there */
    }
    fake_permit(&disk, -1);
    end_speaking(&s);
    ernie_session_free(session);
    ernie_model_close(model);
}

static void measuring_and_verifying_stop(void **state)
{
    stream_how how = stream_from(NULL, &disk.source);
    (void)state;
    how.stream.io_latency_us = 20000;
    ernie_model *model = stream_open(&how, 1, STREAM_LEAST);
    for (unsigned i = 0; i < 6; i++) {
        ernie_cancel flag = { 0 };
        stopper s;
        double rate;
        begin_stopping(&s, NULL, &flag, 0.005 * i);
        const ernie_status status = i % 2 ? ernie_model_read_rate(model, 60, &flag, &rate, NULL)
                                          : ernie_model_verify(model, NULL, NULL, &flag, NULL);
        end_stopping(&s);
        assert_int_equal(status, ERNIE_CANCELLED);
    }
    ernie_model_close(model);
}

/* Closing does not wait for what a throttle holds back. */
static void closing_does_not_wait(void **state)
{
    stream_how how = stream_from(NULL, &disk.source);
    (void)state;
    how.stream.io_latency_us = 1000000000;
    ernie_model *model = stream_open(&how, 1, STREAM_LEAST);
    ernie_session *session = test_session_with(model, &how.session);
    stopper s;
    begin_stopping(&s, session, NULL, 0.02);
    FAILS(ERNIE_CANCELLED, ernie_session_feed(session, prompts[0], N_PROMPT, &error), "cancelled");
    end_stopping(&s);
    const double since = ern_seconds();
    ernie_session_free(session);
    ernie_model_close(model);
    assert_true(ern_seconds() - since < PATIENCE);
}

#define T(name) cmocka_unit_test_setup(name, calm)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(two_sessions_share_few_slots),
        T(four_sessions_share_few_slots),
        T(sessions_come_and_go),
        T(a_blocked_disk_holds_nobody),
        T(one_that_waits_does_not_hold_the_others),
        T(measuring_and_verifying_stop),
        T(closing_does_not_wait),
    };
    return cmocka_run_group_tests_name("stream_threads", tests, setup, teardown);
}
