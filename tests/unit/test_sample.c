/* Choosing a token, on logits made by hand: each filter against what its definition keeps, frequencies
 * against the probabilities, log-probabilities against a log-softmax in double precision. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "test_session.h"

#define VOCAB 320

static test_world world;
static ernie_session *session;
static uint32_t n_tokens; /* of the tokenizer; the rows behind are padding */

static int begin(void **state)
{
    (void)state;
    const int32_t ids[] = { 9, 5, 9, 7 }; /* what the penalties see */
    test_world_open(&world, &test_dense_spec);
    session = test_session(world.model, 16);
    OK(ernie_session_feed(session, ids, ERN_COUNT(ids), &error));
    n_tokens = ern_model_n_tokens(world.model);
    return 0;
}

static int end(void **state)
{
    (void)state;
    ernie_session_free(session);
    test_world_close(&world);
    return 0;
}

/* ---- Logits made by hand ------------------------------------------------------------------- */

/* Ids 0 .. n - 1 have these logits, all others none. */
static void set_logits(const float *logits, size_t n)
{
    for (size_t i = 0; i < VOCAB; i++) session->logits[i] = i < n ? logits[i] : -INFINITY;
    session->has_logits = true;
}

/* The same for probabilities. */
static void set_probabilities(const double *p, size_t n)
{
    float logits[VOCAB];
    for (size_t i = 0; i < n; i++) logits[i] = 3.0f + (float)log(p[i]);
    set_logits(logits, n);
}

static ernie_sampling plain_params(void)
{
    ernie_sampling params = ernie_sampling_init();
    params.temperature = 1.0f;
    params.top_p = 1.0f;
    params.seed = 12345;
    return params;
}

static int32_t choose(const ernie_sampling *params)
{
    ernie_logprob chosen;
    OK(ernie_session_sample(session, params, &chosen, NULL, &error));
    return chosen.id;
}

/* Draw and hold against the probabilities p [n] (0: must never come) with a chi-square test whose
 * bound is passed by one seed in a hundred thousand; the seed is fixed. */
static void check_frequencies(const ernie_sampling *params, const double *p, size_t n)
{
    enum { N_DRAWS = 20000 };
    size_t count[VOCAB] = { 0 };
    double chi = 0.0, sum = 0.0;
    int free_bins = -1;
    for (int i = 0; i < N_DRAWS; i++) count[choose(params)]++;
    for (size_t i = 0; i < n; i++) sum += p[i];
    for (size_t i = 0; i < VOCAB; i++) {
        const double expected = i < n ? N_DRAWS * p[i] / sum : 0.0;
        if (expected == 0.0 && count[i]) fail_msg("id %zu was drawn %zu times", i, count[i]);
        if (expected == 0.0) continue;
        free_bins++;
        chi += ((double)count[i] - expected) * ((double)count[i] - expected) / expected;
    }
    if (chi > free_bins + 4.3 * sqrt(2.0 * free_bins) + 10.0)
        fail_msg("chi-square %.1f for %d degrees of freedom", chi, free_bins);
}

/* ---- Filters ------------------------------------------------------------------------------- */

static void greedy_takes_the_likeliest(void **state)
{
    (void)state;
    const float logits[] = { 1.0f, 4.0f, 4.0f, -2.0f, 3.9f };
    ernie_sampling params = plain_params();
    params.greedy = true;
    params.temperature = 50.0f; /* neither this nor the filters matter */
    params.top_k = 1;
    params.min_p = 1.0f;
    set_logits(logits, 5);
    assert_int_equal(choose(&params), 1); /* of equals the first */
    const ernie_logit_bias bias[] = { { 4, 0.2f }, { 1, -INFINITY } };
    params.bias = bias;
    params.n_bias = 2;
    assert_int_equal(choose(&params), 4);
}

static void temperature_shapes_frequencies(void **state)
{
    (void)state;
    const float logits[] = { 2.0f, 1.0f, 0.0f, -1.0f, 1.5f };
    static const float temperatures[] = { 0.3f, 0.7f, 1.0f, 2.0f };
    ernie_sampling params = plain_params();
    set_logits(logits, 5);
    for (size_t t = 0; t < ERN_COUNT(temperatures); t++) {
        double p[5];
        for (int i = 0; i < 5; i++) p[i] = exp((double)logits[i] / (double)temperatures[t]);
        params.temperature = temperatures[t];
        check_frequencies(&params, p, 5);
    }
    params.temperature = 1e-30f; /* as good as greedy, and still numbers */
    for (int i = 0; i < 50; i++) assert_int_equal(choose(&params), 0);
}

static void every_token_comes_as_often_as_it_should(void **state)
{
    (void)state;
    double p[300];
    for (int i = 0; i < 300; i++) p[i] = 1.0 + i % 7;
    ernie_sampling params = plain_params();
    set_probabilities(p, 300);
    check_frequencies(&params, p, 300);
}

typedef struct filter_case {
    uint32_t top_k;
    float top_p, min_p;
    size_t n_kept; /* of the probabilities below, likeliest first */
} filter_case;

static void filters_keep_what_they_say(void **state)
{
    (void)state;
    static const double p[] = { 0.05, 0.5, 0.15, 0.3 }; /* in no order */
    static const int order[] = { 1, 3, 2, 0 };
    static const filter_case
        cases[] = {
            { 0, 1.0f, 0.0f, 4 },  { 1, 1.0f, 0.0f, 1 },  { 2, 1.0f, 0.0f, 2 },
            { 3, 1.0f, 0.0f, 3 },  { 4, 1.0f, 0.0f, 4 },  { 99, 1.0f, 0.0f, 4 },
            { 0, 0.01f, 0.0f, 1 }, { 0, 0.49f, 0.0f, 1 }, { 0, 0.51f, 0.0f, 2 },
            { 0, 0.79f, 0.0f, 2 }, { 0, 0.81f, 0.0f, 3 }, { 0, 0.96f, 0.0f, 4 },
            { 0, 1.0f, 0.09f, 4 }, { 0, 1.0f, 0.11f, 3 }, { 0, 1.0f, 0.31f, 2 },
            { 0, 1.0f, 0.61f, 1 }, { 0, 1.0f, 1.0f, 1 },  { 0, 0.81f, 0.31f, 2 },
            { 3, 0.83f, 0.0f, 2 }, /* of what top-k left, 0.8 of 0.95 is 0.842 */
            { 2, 0.99f, 0.7f, 1 },
        };
    set_probabilities(p, 4);
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        double kept[4] = { 0 };
        ernie_sampling params = plain_params();
        params.top_k = cases[i].top_k;
        params.top_p = cases[i].top_p;
        params.min_p = cases[i].min_p;
        for (size_t j = 0; j < cases[i].n_kept; j++) kept[order[j]] = p[order[j]];
        check_frequencies(&params, kept, 4);
    }
}

/* top-p and min-p look at the probabilities after temperature. */
static void filters_come_after_temperature(void **state)
{
    (void)state;
    static const double p[] = { 0.6, 0.3, 0.1 };
    double hot[3] = { sqrt(0.6), sqrt(0.3), 0.0 };
    ernie_sampling params = plain_params();
    set_probabilities(p, 3);
    params.temperature = 2.0f;
    params.top_p = 0.7f; /* 0.47, 0.33, 0.19 */
    check_frequencies(&params, hot, 3);
    params.top_p = 1.0f;
    params.min_p = 0.45f; /* 1, 0.71, 0.41 of the likeliest */
    check_frequencies(&params, hot, 3);
    params.min_p = 0.35f;
    hot[2] = sqrt(0.1);
    check_frequencies(&params, hot, 3);
}

/* ---- Penalties and biases ------------------------------------------------------------------ */

/* What became of a logit: greedy choice leaves the candidates in their order. */
static float changed_logit(const ernie_sampling *params, int32_t id)
{
    ernie_sampling greedy = *params;
    greedy.greedy = true;
    choose(&greedy);
    for (size_t i = 0; i < VOCAB; i++)
        if (session->candidates[i].id == id) return session->candidates[i].logit;
    return NAN;
}

static void penalties_change_what_was_seen(void **state)
{
    (void)state;
    const float logits[10] = { [0] = 1.0f, [5] = -2.0f, [7] = 3.0f, [8] = 3.0f, [9] = 4.0f };
    const struct { /* the session holds 9 5 9 7 */
        float repetition, frequency, presence;
        uint32_t window;
        float of_5, of_7, of_9;
    } cases[] = {
        { 2.0f, 0.0f, 0.0f, 0, -4.0f, 1.5f, 2.0f },
        { 0.5f, 0.0f, 0.0f, 0, -1.0f, 6.0f, 8.0f },
        { 1.0f, 0.5f, 0.0f, 0, -2.5f, 2.5f, 3.0f },
        { 1.0f, 0.0f, 0.25f, 0, -2.25f, 2.75f, 3.75f },
        { 2.0f, 0.5f, 0.25f, 0, -4.75f, 0.75f, 0.75f },
        { 2.0f, 0.5f, 0.25f, 4, -4.75f, 0.75f, 0.75f },
        { 2.0f, 0.5f, 0.25f, 9, -4.75f, 0.75f, 0.75f },
        { 1.0f, 0.5f, 0.0f, 3, -2.5f, 2.5f, 3.5f },
        { 1.0f, 0.5f, 0.0f, 2, -2.0f, 2.5f, 3.5f },
        { 1.0f, 0.5f, 0.0f, 1, -2.0f, 2.5f, 4.0f },
        { 1.0f, -0.5f, 0.0f, 0, -1.5f, 3.5f, 5.0f },
    };
    set_logits(logits, 10);
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        ernie_sampling params = plain_params();
        params.repetition_penalty = cases[i].repetition;
        params.frequency_penalty = cases[i].frequency;
        params.presence_penalty = cases[i].presence;
        params.penalty_window = cases[i].window;
        for (int twice = 0; twice < 2; twice++) { /* nothing is left over from the first time */
            assert_true(changed_logit(&params, 5) == cases[i].of_5);
            assert_true(changed_logit(&params, 7) == cases[i].of_7);
            assert_true(changed_logit(&params, 9) == cases[i].of_9);
            assert_true(changed_logit(&params, 8) == 3.0f && changed_logit(&params, 0) == 1.0f);
        }
        for (size_t id = 0; id < 10; id++) assert_true(session->logits[id] == logits[id]);
    }
}

static void biases_are_added(void **state)
{
    (void)state;
    static const double p[] = { 0.4, 0.3, 0.2, 0.1 };
    const double biased[] = { 0.4, 0.0, 0.2 * exp(1.0), 0.1 };
    const ernie_logit_bias bias[] = {
        { 1, -INFINITY }, { 2, 0.75f }, { 2, 0.25f }, { VOCAB - 1, 1e30f }
    };
    ernie_sampling params = plain_params();
    set_probabilities(p, 4);
    params.bias = bias;
    params.n_bias = 4; /* padding cannot be asked for */
    check_frequencies(&params, biased, 4);
    const ernie_logit_bias strong[] = { { 3, 1e30f }, { 0, -3.4e38f }, { 0, -3.4e38f } };
    params.bias = strong;
    params.n_bias = 3;
    for (int i = 0; i < 20; i++) assert_int_equal(choose(&params), 3);
}

static void forbidden_tokens_never_come(void **state)
{
    (void)state;
    ernie_logit_bias bias[VOCAB];
    ernie_sampling params = plain_params();
    ernie_logprob chosen = { -7, 0.0f };
    float logits[VOCAB];
    for (int i = 0; i < VOCAB; i++) {
        logits[i] = (float)(i % 11);
        bias[i] = (ernie_logit_bias){ i, -INFINITY };
    }
    set_logits(logits, n_tokens);
    params.bias = bias;
    params.n_bias = n_tokens - 1; /* one is left */
    for (int i = 0; i < 20; i++) assert_int_equal(choose(&params), n_tokens - 1);
    params.n_bias = n_tokens;
    FAILS(ERNIE_INVALID, ernie_session_sample(session, &params, &chosen, NULL, &error), "forbid");
    params.greedy = true;
    FAILS(ERNIE_INVALID, ernie_session_sample(session, &params, &chosen, NULL, &error), "forbid");
    assert_int_equal(chosen.id, -7);
}

static void padding_is_never_chosen(void **state)
{
    (void)state;
    const int32_t id = 3;
    ernie_sampling params = plain_params();
    params.temperature = 1e6f; /* all the same */
    OK(ernie_session_rewind(session, 3, &error));
    OK(ernie_session_feed(session, &id, 1, &error)); /* logits of the model itself */
    for (int i = 0; i < 5000; i++) assert_true(choose(&params) < (int32_t)n_tokens);
    const int32_t back = 7;
    OK(ernie_session_rewind(session, 3, &error));
    OK(ernie_session_feed(session, &back, 1, &error));
}

/* ---- Seeds --------------------------------------------------------------------------------- */

static void draw(uint64_t seed, int32_t *ids, size_t n)
{
    ernie_sampling params = plain_params();
    params.seed = seed;
    for (size_t i = 0; i < n; i++) ids[i] = choose(&params);
}

static void seeds_reproduce(void **state)
{
    (void)state;
    int32_t first[40], other[40], again[40];
    float logits[300] = { 0 };
    set_logits(logits, 300);
    draw(1001, first, 40);
    draw(1002, other, 40);
    draw(1001, again, 40);
    assert_memory_equal(first, again, sizeof first);
    assert_memory_not_equal(first, other, sizeof first);
    draw(1002, again, 10);
    draw(0, again + 10, 10); /* 0 and the seed in use go on */
    draw(1002, again + 20, 20);
    assert_memory_equal(other, again, sizeof other);
    ernie_session *fresh[2];
    for (int i = 0; i < 2; i++) { /* seeded by the clock: not the same twice */
        ernie_sampling params = plain_params();
        ernie_logprob chosen;
        params.seed = 0;
        fresh[i] = test_session(world.model, 4);
        memcpy(fresh[i]->logits, session->logits, VOCAB * sizeof(float));
        fresh[i]->has_logits = true;
        for (int j = 0; j < 20; j++) {
            OK(ernie_session_sample(fresh[i], &params, &chosen, NULL, &error));
            (i ? again : first)[j] = chosen.id;
        }
    }
    assert_memory_not_equal(first, again, 20 * sizeof first[0]);
    for (int i = 0; i < 2; i++) ernie_session_free(fresh[i]);
}

/* ---- Log-probabilities --------------------------------------------------------------------- */

static void log_probabilities_are_the_models_own(void **state)
{
    (void)state;
    float logits[VOCAB];
    ernie_logprob chosen, top[ERNIE_TOP_MAX];
    const ernie_logit_bias bias[] = { { 17, 5.0f } };
    ernie_sampling params = plain_params();
    params.temperature = 0.3f; /* none of these is in what is reported */
    params.top_k = 7;
    params.repetition_penalty = 3.0f;
    params.bias = bias;
    params.n_bias = 1;
    params.n_top = ERNIE_TOP_MAX;
    for (uint64_t seed = 1; seed < 30; seed++) {
        uint64_t random = seed;
        double sum = 0.0;
        const float scale = seed % 3 ? 12.0f : 80.0f, shift = seed % 4 ? 0.0f : -300.0f;
        for (uint32_t i = 0; i < n_tokens; i++) {
            logits[i] = shift + scale * test_random_float(&random);
            if (i % 20 == 0) logits[i] = shift + scale; /* equals */
        }
        for (uint32_t i = 0; i < n_tokens; i++)
            sum += exp((double)logits[i] - (double)(shift + scale));
        const double log_sum = (double)(shift + scale) + log(sum);
        set_logits(logits, n_tokens);
        OK(ernie_session_sample(session, &params, &chosen, top, &error));
        assert_true(fabs((double)chosen.logprob - ((double)logits[chosen.id] - log_sum)) < 1e-5);
        for (int i = 0; i < ERNIE_TOP_MAX; i++) {
            const double expected = (double)logits[top[i].id] - log_sum;
            if (!(fabs((double)top[i].logprob - expected) <= 1e-6 * (1.0 + fabs(expected))))
                fail_msg("id %d: %.9g, not %.9g", top[i].id, (double)top[i].logprob, expected);
            const float before = i ? logits[top[i - 1].id] : INFINITY, own = logits[top[i].id];
            assert_true(own < before || (own == before && top[i].id > top[i - 1].id));
        }
        uint32_t better = 0; /* exactly the best ones are there */
        for (uint32_t i = 0; i < n_tokens; i++) better += logits[i] > logits[top[19].id];
        assert_true(better < ERNIE_TOP_MAX);
    }
}

static void top_is_filled_up(void **state)
{
    (void)state;
    static const double p[] = { 0.25, 0.75 };
    ernie_logprob chosen, top[4] = { { 0, 0 } };
    ernie_sampling params = plain_params();
    params.n_top = 3;
    set_probabilities(p, 2);
    OK(ernie_session_sample(session, &params, &chosen, top, &error));
    assert_true(top[0].id == 1 && fabsf(top[0].logprob - logf(0.75f)) < 1e-6f);
    assert_true(top[1].id == 0 && fabsf(top[1].logprob - logf(0.25f)) < 1e-6f);
    assert_true(top[2].id == -1 && top[2].logprob == -INFINITY);
    assert_true(top[3].id == 0 && top[3].logprob == 0.0f); /* not asked for */
}

/* ---- Refusals ------------------------------------------------------------------------------ */

static void logits_that_are_no_numbers(void **state)
{
    (void)state;
    static const float bad[] = { NAN, -NAN, INFINITY };
    const ernie_logit_bias bias[] = { { 40, -INFINITY } };
    ernie_logprob chosen = { -7, 0.0f };
    float logits[60] = { 0 };
    for (size_t i = 0; i < ERN_COUNT(bad); i++)
        for (int how = 0; how < 3; how++) {
            ernie_sampling params = plain_params();
            params.greedy = how == 1;
            params.bias = bias;
            params.n_bias = how == 2; /* forbidding it is no cure */
            logits[40] = bad[i];
            set_logits(logits, 60);
            FAILS(ERNIE_FORMAT, ernie_session_sample(session, &params, &chosen, NULL, &error),
                  "id 40");
            assert_int_equal(chosen.id, -7);
        }
    logits[40] = 3e38f; /* large, but numbers */
    logits[41] = -3e38f;
    set_logits(logits, 60);
    ernie_sampling params = plain_params();
    OK(ernie_session_sample(session, &params, &chosen, NULL, &error));
    assert_true(chosen.id == 40 && chosen.logprob == 0.0f);
}

static void parameters_out_of_range_are_named(void **state)
{
    (void)state;
    const float logits[] = { 1.0f, 2.0f };
    const ernie_logit_bias no_id[] = { { 1, 0.5f }, { VOCAB, 0.5f } }, negative = { -1, 0.0f };
    const ernie_logit_bias no_number = { 1, NAN }, infinite = { 1, INFINITY };
    ernie_logprob chosen = { -7, 0.0f };
    set_logits(logits, 2);
#define REFUSED(field, value, ...)                                                          \
    do {                                                                                    \
        ernie_sampling params = plain_params();                                             \
        params.n_bias = 1;                                                                  \
        params.bias = &(const ernie_logit_bias){ 0, 0.0f };                                 \
        params.field = value;                                                               \
        FAILS(ERNIE_INVALID, ernie_session_sample(session, &params, &chosen, NULL, &error), \
              __VA_ARGS__);                                                                 \
        assert_int_equal(chosen.id, -7);                                                    \
    } while (0)
    REFUSED(temperature, -0.5f, "temperature", "-0.5");
    REFUSED(temperature, NAN, "temperature", "nan");
    REFUSED(temperature, INFINITY, "temperature", "inf");
    REFUSED(top_p, 1.5f, "top_p", "1.5");
    REFUSED(top_p, -0.1f, "top_p", "-0.1");
    REFUSED(top_p, NAN, "top_p", "nan");
    REFUSED(min_p, 1.01f, "min_p", "1.01");
    REFUSED(min_p, -0.01f, "min_p", "-0.01");
    REFUSED(min_p, NAN, "min_p", "nan");
    REFUSED(repetition_penalty, -1.0f, "repetition_penalty", "-1");
    REFUSED(repetition_penalty, 1e-9f, "repetition_penalty", "1e-09");
    REFUSED(repetition_penalty, NAN, "repetition_penalty", "nan");
    REFUSED(frequency_penalty, NAN, "frequency_penalty", "nan");
    REFUSED(frequency_penalty, -INFINITY, "frequency_penalty", "-inf");
    REFUSED(presence_penalty, 1e31f, "presence_penalty", "1e+31", "1e+30");
    REFUSED(presence_penalty, NAN, "presence_penalty", "nan");
    REFUSED(n_top, 21, "n_top", "21", "20");
    REFUSED(n_bias, 2; params.bias = no_id, "bias 1", "id 320", "319");
    REFUSED(bias, &negative, "bias 0", "id -1");
    REFUSED(bias, &no_number, "bias 0", "id 1", "nan");
    REFUSED(bias, &infinite, "bias 0", "id 1", "inf", "1e+30");
    REFUSED(bias, NULL, "bias is NULL", "1");
    REFUSED(n_stop, 2, "stop is NULL", "2");
    REFUSED(n_stop_ids, 3, "stop_ids is NULL", "3");
    REFUSED(size, 0, "ernie_sampling", "size");
#undef REFUSED
}

static void missing_things_are_refused(void **state)
{
    (void)state;
    ernie_logprob chosen;
    ernie_session *empty = test_session(world.model, 4);
    FAILS(ERNIE_INVALID, ernie_session_sample(empty, NULL, &chosen, NULL, &error), "no logits");
    FAILS(ERNIE_INVALID, ernie_session_sample(NULL, NULL, &chosen, NULL, &error), "\"session\"");
    FAILS(ERNIE_INVALID, ernie_session_sample(session, NULL, NULL, NULL, &error), "\"chosen\"");
    ernie_session_free(empty);
}

/* ---- Defaults ------------------------------------------------------------------------------ */

static void zero_means_the_files_default(void **state)
{
    (void)state;
    ernie_sampling r, params = ERNIE_SAMPLING_INIT;
    OK(ern_sampling_resolve(world.model, NULL, &r, &error));
    assert_true(r.temperature == 0.8f && r.top_p == 0.8f); /* the test image's own */
    assert_true(r.repetition_penalty == 1.0f && r.top_k == 0 && r.min_p == 0.0f);
    params.temperature = 0.5f;
    params.top_p = 1.0f;
    params.top_k = 3;
    params.repetition_penalty = 1.5f;
    OK(ern_sampling_resolve(world.model, &params, &r, &error));
    assert_true(r.temperature == 0.5f && r.top_p == 1.0f && r.top_k == 3);
    assert_true(r.repetition_penalty == 1.5f);
    params.size = offsetof(ernie_sampling, top_k); /* an older caller */
    OK(ern_sampling_resolve(world.model, &params, &r, &error));
    assert_true(r.temperature == 0.5f && r.top_k == 0 && r.top_p == 0.8f);
    test_model_spec spec = test_dense_spec;
    spec.no_sections = true;
    test_world bare;
    test_world_open(&bare, &spec);
    OK(ern_sampling_resolve(bare.model, NULL, &r, &error));
    assert_true(r.temperature == 1.0f && r.top_p == 1.0f && r.repetition_penalty == 1.0f);
    test_world_close(&bare);
}

static void a_greedy_file_is_greedy_until_asked_otherwise(void **state)
{
    (void)state;
    test_model_spec spec = test_dense_spec;
    spec.generation_greedy = true;
    test_world greedy;
    test_world_open(&greedy, &spec);
    ernie_sampling r, params = ERNIE_SAMPLING_INIT;
    OK(ern_sampling_resolve(world.model, NULL, &r, &error));
    assert_false(r.greedy);
    OK(ern_sampling_resolve(greedy.model, NULL, &r, &error));
    assert_true(r.greedy);
    params.repetition_penalty = 1.2f; /* says nothing about drawing */
    OK(ern_sampling_resolve(greedy.model, &params, &r, &error));
    assert_true(r.greedy);
    ernie_sampling asked[4] = { params, params, params, params };
    asked[0].temperature = 0.7f;
    asked[1].top_k = 5;
    asked[2].top_p = 0.5f;
    asked[3].min_p = 0.1f;
    for (size_t i = 0; i < ERN_COUNT(asked); i++) {
        OK(ern_sampling_resolve(greedy.model, &asked[i], &r, &error));
        assert_false(r.greedy);
    }
    test_world_close(&greedy);
}

static void sampling_leaves_the_session_alone(void **state)
{
    (void)state;
    float logits[VOCAB];
    ernie_sampling params = plain_params();
    params.top_k = 5;
    params.presence_penalty = 1.0f;
    uint64_t random = 3;
    for (int i = 0; i < VOCAB; i++) logits[i] = test_random_float(&random);
    set_logits(logits, n_tokens);
    for (int i = 0; i < 10; i++) choose(&params);
    assert_memory_equal(ernie_session_logits(session), logits, n_tokens * sizeof logits[0]);
    assert_int_equal(ernie_session_length(session), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_likeliest),
        cmocka_unit_test(temperature_shapes_frequencies),
        cmocka_unit_test(every_token_comes_as_often_as_it_should),
        cmocka_unit_test(filters_keep_what_they_say),
        cmocka_unit_test(filters_come_after_temperature),
        cmocka_unit_test(penalties_change_what_was_seen),
        cmocka_unit_test(biases_are_added),
        cmocka_unit_test(forbidden_tokens_never_come),
        cmocka_unit_test(padding_is_never_chosen),
        cmocka_unit_test(seeds_reproduce),
        cmocka_unit_test(log_probabilities_are_the_models_own),
        cmocka_unit_test(top_is_filled_up),
        cmocka_unit_test(logits_that_are_no_numbers),
        cmocka_unit_test(parameters_out_of_range_are_named),
        cmocka_unit_test(missing_things_are_refused),
        cmocka_unit_test(zero_means_the_files_default),
        cmocka_unit_test(a_greedy_file_is_greedy_until_asked_otherwise),
        cmocka_unit_test(sampling_leaves_the_session_alone),
    };
    return cmocka_run_group_tests_name("sample", tests, begin, end);
}
