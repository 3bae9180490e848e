/* The profile of a step's phases: it accounts for time that passed, in the phases that a model has,
 * and changes nothing of what is computed. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../backends/cpu/cpu.h"
#include "../../src/os.h"
#include "test_session.h"

enum { N_IDS = 9, N_THREADS = 2, VOCAB = 320 };

/* A prompt, then a token: all phases of both. */
static void feed(ernie_session *session)
{
    int32_t ids[N_IDS];
    test_ids(ids, N_IDS, 7, 300);
    OK(ernie_session_rewind(session, 0, &error));
    OK(ernie_session_feed(session, ids, N_IDS - 1, &error));
    OK(ernie_session_feed(session, ids + N_IDS - 1, 1, &error));
}

static void profile_of(const test_model_spec *spec, cpu_profile profile[N_THREADS])
{
    test_world w;
    float expected[VOCAB];
    ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
    options.n_ctx = N_IDS;
    options.n_threads = N_THREADS;
    test_world_open(&w, spec);
    ernie_session *session = test_session_with(w.model, &options);
    feed(session);
    assert_int_equal(w.vocab, VOCAB);
    memcpy(expected, ernie_session_logits(session), sizeof expected);

    memset(profile, 0, N_THREADS * sizeof *profile);
    session->state->profile = profile;
    const double start = ern_seconds();
    feed(session);
    const double seconds = ern_seconds() - start;
    test_same_logits(session, expected, VOCAB);
    for (size_t i = 0; i < N_THREADS; i++) {
        double sum = 0;
        for (size_t p = 0; p < CPU_PHASES; p++) sum += profile[i].work[p] + profile[i].wait[p];
        assert_true(sum > 0 && sum <= seconds);
    }
    ernie_session_free(session);
    test_world_close(&w);
}

static double total(const cpu_profile profile[N_THREADS], cpu_phase phase)
{
    double sum = 0;
    for (size_t i = 0; i < N_THREADS; i++) {
        assert_true(profile[i].work[phase] >= 0 && profile[i].wait[phase] >= 0);
        sum += profile[i].work[phase] + profile[i].wait[phase];
    }
    return sum;
}

static void a_mixture_loads_nothing(void **state)
{
    cpu_profile profile[N_THREADS];
    (void)state;
    profile_of(&test_moe_spec, profile);
    for (unsigned p = 0; p < CPU_PHASES; p++)
        assert_true((total(profile, (cpu_phase)p) > 0) != (p == CPU_PHASE_LOAD));
}

static void a_dense_model_has_no_router(void **state)
{
    cpu_profile profile[N_THREADS];
    (void)state;
    profile_of(&test_dense_spec, profile);
    for (unsigned p = 0; p < CPU_PHASES; p++) {
        const bool absent =
            p == CPU_PHASE_ROUTER || p == CPU_PHASE_GATHER || p == CPU_PHASE_LOAD;
        assert_true((total(profile, (cpu_phase)p) > 0) != absent);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_mixture_loads_nothing),
        cmocka_unit_test(a_dense_model_has_no_router),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
