/* One timeline of tokens: planned memory, feeding in any portions, going back, forking, and what a
 * refused call leaves behind. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "test_session.h"

#define N_IDS 23
#define VOCAB 320

static const test_model_spec *const specs[] = { &test_dense_spec, &test_moe_spec, &test_coded_spec };

static int32_t ids[N_IDS];

static int make_ids(void **state)
{
    (void)state;
    test_ids(ids, N_IDS, 4, 300);
    return 0;
}

/* ---- Memory -------------------------------------------------------------------------------- */

static const ernie_kv_type kv_types[] = { ERNIE_KV_F16, ERNIE_KV_F32, ERNIE_KV_Q8,
                                          ERNIE_KV_Q4 };

static uint64_t kv_bytes(uint32_t n_ctx, ernie_kv_type type)
{
    /* 2 layers, 1 head of 32: values, and keys in groups of 16 where they are quantized */
    const uint64_t n_groups = (n_ctx + 15) / 16;
    if (type == ERNIE_KV_Q8)
        return 2 * n_groups * ern_round_up_u64(16 * 34, 64) + ern_round_up_u64(2 * n_ctx * 34, 64);
    if (type == ERNIE_KV_Q4)
        return 2 * n_groups * ern_round_up_u64(16 * 22, 64) + ern_round_up_u64(2 * n_ctx * 18, 64);
    return 2 * ern_round_up_u64(2 * n_ctx * (type == ERNIE_KV_F32 ? 128 : 64), 64);
}

static void plan_is_what_is_taken(void **state)
{
    (void)state;
    static const ernie_session_options all[] = {
        { .n_ctx = 1, .n_threads = 1 },
        { .n_ctx = 17, .n_batch = 5, .n_threads = 2, .kv_type = ERNIE_KV_F32 },
        { .n_batch = 1, .n_threads = 3, .kv_type = ERNIE_KV_F16 },
        { .n_ctx = 100, .n_batch = 100000, .n_threads = 8 },
        { .n_ctx = 100, .n_threads = 2, .kv_type = ERNIE_KV_Q8 },
        { .n_ctx = 97, .n_threads = 3, .kv_type = ERNIE_KV_Q4 },
        { .n_ctx = 0 },
    };
    for (size_t m = 0; m < ERN_COUNT(specs); m++) {
        test_world w;
        test_world_open(&w, specs[m]);
        for (size_t i = 0; i < ERN_COUNT(all); i++) {
            ernie_session_options options = all[i];
            ernie_memory plan = { .size = (uint32_t)sizeof plan };
            options.size = sizeof options;
            const long n_requests = atomic_load(&w.counter.n_requests);
            const long long before = atomic_load(&w.counter.live);
            OK(ernie_session_plan(w.model, &options, &plan, &error));
            assert_int_equal(atomic_load(&w.counter.n_requests), n_requests);
            ernie_session *session = test_session_with(w.model, &options);
            assert_int_equal(atomic_load(&w.counter.live) - before, plan.total_bytes);
            assert_int_equal(plan.kv_bytes + plan.scratch_bytes, plan.total_bytes);
            const uint32_t n_ctx = options.n_ctx ? options.n_ctx : 256;
            assert_int_equal(plan.kv_bytes, kv_bytes(n_ctx, options.kv_type));
            assert_int_equal(plan.weight_bytes, w.n_bytes);
            assert_int_equal(plan.n_threads,
                             options.n_threads ? options.n_threads : ern_cpu_count());
            assert_int_equal(ernie_session_room(session), n_ctx);
            ernie_session_free(session);
            assert_int_equal(atomic_load(&w.counter.live), before);
        }
        test_world_close(&w);
    }
}

static void running_allocates_nothing(void **state)
{
    (void)state;
    test_world w;
    ernie_logprob chosen, top[5];
    ernie_sampling params = ERNIE_SAMPLING_INIT;
    params.n_top = 5;
    params.n_max = 9;
    params.frequency_penalty = 0.1f;
    params.top_k = 40;
    test_world_open(&w, &test_moe_spec);
    ernie_session *session = test_session(w.model, 64);
    const long n_requests = atomic_load(&w.counter.n_requests);
    OK(ernie_session_feed(session, ids, N_IDS, &error));
    OK(ernie_session_sample(session, &params, &chosen, top, &error));
    OK(ernie_session_generate(session, &params, NULL, NULL, NULL, &error));
    OK(ernie_session_rewind(session, 3, &error));
    OK(ernie_session_sync(session, ids, N_IDS, &error));
    assert_int_equal(atomic_load(&w.counter.n_requests), n_requests);
    ernie_session_free(session);
    test_world_close(&w);
}

static void memory_that_is_missing(void **state)
{
    (void)state;
    test_world w;
    ernie_session *fork = NULL;
    test_world_open(&w, &test_moe_spec);
    ernie_session *session = test_session(w.model, 64);
    OK(ernie_session_feed(session, ids, N_IDS, &error));
    const float first = ernie_session_logits(session)[0];
    const long long before = atomic_load(&w.counter.live);
    for (int what = 0; what < 2; what++)
        for (long n = 0;; n++) {
            ernie_error why = { ERNIE_OK, "" };
            fork = session;
            test_allocator_fail_at(&w.counter, n, false);
            const ernie_status status = what ? ernie_session_fork(&fork, session, &why)
                                             : ernie_session_create(&fork, w.model, NULL, &why);
            test_allocator_fail_at(&w.counter, TEST_ALLOCATOR_NEVER, false);
            if (status == ERNIE_OK) {
                assert_true(n >= 4);
                ernie_session_free(fork);
                break;
            }
            assert_int_equal(status, ERNIE_NO_MEMORY);
            assert_true(strpbrk(why.message, "0123456789") != NULL);
            assert_null(fork);
            assert_int_equal(atomic_load(&w.counter.live), before);
            assert_int_equal(ernie_session_length(session), N_IDS);
            assert_true(ernie_session_logits(session)[0] == first);
        }
    ernie_session_free(session);
    test_world_close(&w);
}

/* ---- Feeding ------------------------------------------------------------------------------- */

/* Logits after each id of ids [N_IDS], fed in portions of at most `portion`. */
static void logits_in_portions(ernie_session *session, size_t portion, float *logits)
{
    OK(ernie_session_rewind(session, 0, &error));
    for (size_t at = 0; at < N_IDS; at += portion) {
        const size_t n = ern_min_size(portion, N_IDS - at);
        OK(ernie_session_feed_logits(session, ids + at, n, logits + at * VOCAB, &error));
        test_same_logits(session, logits + (at + n - 1) * VOCAB, VOCAB);
        assert_int_equal(ernie_session_length(session), at + n);
    }
    assert_memory_equal(ernie_session_tokens(session), ids, sizeof ids);
}

static void portions_change_nothing_on(const test_world *w, ernie_kv_type kv_type)
{
    static float expected[N_IDS * VOCAB], logits[N_IDS * VOCAB];
    static const uint32_t batches[] = { 0, 1, 7, 16 };
    for (size_t b = 0; b < ERN_COUNT(batches); b++) {
        ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
        options.n_ctx = 40;
        options.n_batch = batches[b];
        options.n_threads = 1;
        options.kv_type = kv_type;
        ernie_session *session = test_session_with(w->model, &options);
        if (b == 0) logits_in_portions(session, N_IDS, expected);
        for (size_t portion = 1; portion <= N_IDS; portion += portion < 3 ? 1 : 4) {
            logits_in_portions(session, portion, logits);
            assert_memory_equal(logits, expected, sizeof logits);
        }
        OK(ernie_session_rewind(session, 0, &error));
        OK(ernie_session_feed(session, ids, N_IDS, &error)); /* without the logits of the others */
        test_same_logits(session, expected + (N_IDS - 1) * VOCAB, VOCAB);
        for (size_t kept = 1; kept < N_IDS; kept += 3) { /* later keys of the same group are replaced */
            OK(ernie_session_rewind(session, kept, &error));
            OK(ernie_session_feed(session, ids + kept, N_IDS - kept, &error));
            test_same_logits(session, expected + (N_IDS - 1) * VOCAB, VOCAB);
        }
        ernie_session_free(session);
    }
}

static void portions_change_nothing(void **state)
{
    (void)state;
    static const char *const sets[] = { "base",       "avx2", "avxvnni", "avx512",
                                            "avx512vbmi", "amx",  "neon",    "i8mm" };
    int n = 0;
    for (size_t i = 0; i < ERN_COUNT(sets); i++)
        for (size_t m = 0; m < ERN_COUNT(specs); m++) {
            test_world w;
            ernie_model *model = NULL;
            ernie_model_options options = ERNIE_MODEL_OPTIONS_INIT;
            test_world_open(&w, specs[m]);
            options.cpu = sets[i];
            options.allocator = &w.allocator;
            if (ernie_model_open_memory(&model, w.image, w.n_bytes, &options, NULL) == ERNIE_OK) {
                ernie_model_close(w.model);
                w.model = model;
                for (size_t k = 0; k < ERN_COUNT(kv_types); k++)
                    portions_change_nothing_on(&w, kv_types[k]);
                n++;
            }
            test_world_close(&w);
        }
    assert_true(n >= 2);
}

static void padding_is_masked(void **state)
{
    (void)state;
    static float logits[N_IDS * VOCAB];
    test_world w;
    test_world_open(&w, &test_dense_spec);
    ernie_model_info info = { .size = sizeof info };
    assert_int_equal(ernie_model_get_info(w.model, &info), ERNIE_OK);
    ernie_session *session = test_session(w.model, 64);
    OK(ernie_session_feed_logits(session, ids, N_IDS, logits, &error));
    for (size_t i = 0; i < N_IDS * VOCAB; i++)
        assert_int_equal(logits[i] == -INFINITY, i % VOCAB >= info.n_tokens);
    const int32_t padding = VOCAB - 1; /* may be fed all the same */
    OK(ernie_session_feed(session, &padding, 1, &error));
    assert_true(ernie_session_logits(session)[VOCAB - 1] == -INFINITY);
    ernie_session_free(session);
    test_world_close(&w);
}

static void caches_of_all_types_agree(void **state)
{
    (void)state;
    test_world w;
    test_world_open(&w, &test_moe_spec);
    ernie_session *session[ERN_COUNT(kv_types)];
    for (size_t i = 0; i < ERN_COUNT(kv_types); i++) {
        ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
        options.n_threads = 1;
        options.kv_type = kv_types[i];
        session[i] = test_session_with(w.model, &options);
        OK(ernie_session_feed(session[i], ids, N_IDS, &error));
    }
    const float *a = ernie_session_logits(session[0]);
    for (size_t k = 1; k < ERN_COUNT(kv_types); k++) {
        const float *b = ernie_session_logits(session[k]);
        float most = 0.0f, size = 0.0f;
        for (int i = 0; i < 300; i++) {
            most = fmaxf(most, fabsf(a[i] - b[i]));
            size = fmaxf(size, fabsf(a[i]));
        }
        const float part = kv_types[k] == ERNIE_KV_Q4   ? 0.4f /* seen 0.134 */
                           : kv_types[k] == ERNIE_KV_Q8 ? 0.05f /* seen 0.011 */
                                                        : 0.01f;
        const float most_allowed = part * size;
        if (!(most > 0.0f && most < most_allowed))
            fail_msg("type %zu: logits up to %g differ by %g", k, (double)size, (double)most);
    }
    for (size_t i = 0; i < ERN_COUNT(kv_types); i++) ernie_session_free(session[i]);
    test_world_close(&w);
}

/* ---- Refusals ------------------------------------------------------------------------------ */

static void refused_tokens_change_nothing(void **state)
{
    (void)state;
    test_world w;
    float before[VOCAB], all[VOCAB];
    test_world_open(&w, &test_dense_spec);
    ernie_session *session = test_session(w.model, N_IDS + 2);
    const int32_t late[] = { 1, 2, VOCAB, 4 }, early = -1;
    assert_null(ernie_session_logits(session));
    FAILS(ERNIE_INVALID, ernie_session_feed(session, late, 4, &error), "token 2", "320", "319");
    FAILS(ERNIE_FULL, ernie_session_feed(session, ids, N_IDS + 3, &error), "26", "25");
    assert_int_equal(ernie_session_length(session), 0);
    OK(ernie_session_feed(session, ids, N_IDS, &error));
    memcpy(before, ernie_session_logits(session), sizeof before);
    FAILS(ERNIE_INVALID, ernie_session_feed(session, &early, 1, &error), "id -1");
    FAILS(ERNIE_INVALID, ernie_session_feed(session, late + 1, 2, &error), "token 1", "320", "319");
    FAILS(ERNIE_INVALID, ernie_session_feed(session, ids, 0, &error), "no tokens");
    FAILS(ERNIE_FULL, ernie_session_feed(session, ids, 3, &error), "3 tokens", "room of 2", "25");
    FAILS(ERNIE_FULL, ernie_session_feed_logits(session, ids, 3, all, &error), "room of 2");
    FAILS(ERNIE_FULL, ernie_session_feed(session, ids, SIZE_MAX, &error), "room of 2");
    FAILS(ERNIE_INVALID, ernie_session_sync(session, late, 4, &error), "token 2", "320");
    FAILS(ERNIE_INVALID, ernie_session_sync(session, late, 0, &error), "no tokens");
    FAILS(ERNIE_FULL, ernie_session_sync(session, ids, N_IDS + 3, &error), "26", "25");
    FAILS(ERNIE_INVALID, ernie_session_rewind(session, N_IDS + 1, &error), "24", "23");
    FAILS(ERNIE_INVALID, ernie_session_feed(session, NULL, 3, &error), "\"tokens\"");
    FAILS(ERNIE_INVALID, ernie_session_feed_logits(session, ids, 1, NULL, &error), "\"logits\"");
    assert_int_equal(ernie_session_length(session), N_IDS);
    assert_int_equal(ernie_session_room(session), 2);
    assert_memory_equal(ernie_session_tokens(session), ids, sizeof ids);
    test_same_logits(session, before, VOCAB);
    OK(ernie_session_feed(session, ids, 2, &error)); /* the room is usable to the last token */
    assert_int_equal(ernie_session_room(session), 0);
    FAILS(ERNIE_FULL, ernie_session_feed(session, ids, 1, &error), "room of 0");
    ernie_session_free(session);
    test_world_close(&w);
}

static void missing_arguments_are_refused(void **state)
{
    (void)state;
    test_world w;
    ernie_memory plan = { .size = (uint32_t)sizeof plan };
    test_world_open(&w, &test_dense_spec);
    ernie_session *session = test_session(w.model, 4), *out = session;
    FAILS(ERNIE_INVALID, ernie_session_plan(NULL, NULL, &plan, &error), "\"model\"");
    FAILS(ERNIE_INVALID, ernie_session_plan(w.model, NULL, NULL, &error), "\"memory\"");
    plan = (ernie_memory){ .size = offsetof(ernie_memory, total_bytes) }; /* an older caller's */
    OK(ernie_session_plan(w.model, NULL, &plan, &error));
    assert_true(plan.kv_bytes > 0 && plan.total_bytes == 0);
    plan.size = 0;
    FAILS(ERNIE_INVALID, ernie_session_plan(w.model, NULL, &plan, &error), "ernie_memory.size");
    FAILS(ERNIE_INVALID, ernie_session_create(NULL, w.model, NULL, &error), "\"out\"");
    FAILS(ERNIE_INVALID, ernie_session_create(&out, NULL, NULL, &error), "\"model\"");
    assert_null(out);
    FAILS(ERNIE_INVALID, ernie_session_fork(NULL, session, &error), "\"out\"");
    FAILS(ERNIE_INVALID, ernie_session_fork(&out, NULL, &error), "\"session\"");
    FAILS(ERNIE_INVALID, ernie_session_feed(NULL, ids, 1, &error), "\"session\"");
    FAILS(ERNIE_INVALID, ernie_session_feed_logits(NULL, ids, 1, NULL, &error), "\"session\"");
    FAILS(ERNIE_INVALID, ernie_session_sync(NULL, ids, 1, &error), "\"session\"");
    FAILS(ERNIE_INVALID, ernie_session_sync(session, NULL, 1, &error), "\"tokens\"");
    FAILS(ERNIE_INVALID, ernie_session_rewind(NULL, 0, &error), "\"session\"");
    assert_int_equal(ernie_session_feed(NULL, NULL, 0, NULL), ERNIE_INVALID);
    assert_null(ernie_session_logits(NULL));
    assert_null(ernie_session_tokens(NULL));
    assert_int_equal(ernie_session_length(NULL), 0);
    assert_int_equal(ernie_session_room(NULL), 0);
    ernie_session_cancel(NULL);
    ernie_session_free(NULL);
    ernie_session_free(session);
    test_world_close(&w);
}

static void options_out_of_range_are_named(void **state)
{
    (void)state;
    test_world w;
    ernie_memory plan = { .size = (uint32_t)sizeof plan };
    ernie_session *session = NULL;
    test_world_open(&w, &test_dense_spec);
#define REFUSED(status, field, value, ...)                                                     \
    do {                                                                                       \
        ernie_session_options options = ernie_session_options_init();                          \
        options.field = value;                                                                 \
        FAILS(status, ernie_session_plan(w.model, &options, &plan, &error), __VA_ARGS__);      \
        FAILS(status, ernie_session_create(&session, w.model, &options, &error), __VA_ARGS__); \
        assert_null(session);                                                                  \
    } while (0)
    REFUSED(ERNIE_INVALID, n_ctx, 257, "257", "256");
    REFUSED(ERNIE_INVALID, n_ctx, UINT32_MAX, "4294967295", "256");
    REFUSED(ERNIE_INVALID, n_threads, 1025, "1025", "1024");
    REFUSED(ERNIE_INVALID, kv_type, (ernie_kv_type)5, "5", "0 to 4");
    REFUSED(ERNIE_INVALID, kv_type, (ernie_kv_type)-1, "4294967295");
    REFUSED(ERNIE_INVALID, size, 0, "ernie_session_options", "size");
    REFUSED(ERNIE_INVALID, size, 100000, "100000");
#undef REFUSED
    struct {
        ernie_session_options options;
        unsigned char newer[16];
    } o = { .options = { .size = sizeof o, .n_ctx = 9, .n_batch = 2 } };
    session = test_session_with(w.model, &o.options);
    assert_int_equal(ernie_session_room(session), 9);
    ernie_session_free(session);
    o.newer[15] = 1;
    FAILS(ERNIE_UNSUPPORTED, ernie_session_create(&session, w.model, &o.options, &error), "newer");
    o.options.size = 8; /* an older caller knew n_ctx only */
    o.options.n_threads = 9999;
    session = test_session_with(w.model, &o.options);
    assert_int_equal(ernie_session_room(session), 9);
    ernie_session_free(session);
    test_world_close(&w);
}

/* ---- Going back, forking, syncing ---------------------------------------------------------- */

static void rewound_sessions_continue_the_same(void **state)
{
    (void)state;
    static float expected[N_IDS * VOCAB];
    test_world w;
    test_world_open(&w, &test_moe_spec);
    ernie_session *session = test_session(w.model, 64);
    OK(ernie_session_feed_logits(session, ids, N_IDS, expected, &error));
    OK(ernie_session_rewind(session, N_IDS, &error)); /* nothing to drop */
    test_same_logits(session, expected + (N_IDS - 1) * VOCAB, VOCAB);
    for (size_t n = N_IDS; n-- > 0;) {
        const int32_t other[] = { 11, 12, 13 };
        OK(ernie_session_rewind(session, n, &error));
        assert_null(ernie_session_logits(session));
        assert_int_equal(ernie_session_length(session), n);
        OK(ernie_session_feed(session, other, 3, &error)); /* overwrites what was behind */
        OK(ernie_session_rewind(session, n, &error));
        OK(ernie_session_feed(session, ids + n, N_IDS - n, &error));
        test_same_logits(session, expected + (N_IDS - 1) * VOCAB, VOCAB);
    }
    ernie_session_free(session);
    test_world_close(&w);
}

static void forks_go_their_own_ways(void **state)
{
    (void)state;
    float logits[VOCAB];
    for (size_t k = 0; k < ERN_COUNT(kv_types); k++) {
        test_world w;
        ernie_session *fork = NULL, *alone[2];
        const int32_t ways[2][2] = { { 17, 90 }, { 200, 33 } };
        ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
        options.n_ctx = 64;
        options.kv_type = kv_types[k];
        test_world_open(&w, &test_moe_spec);
        ernie_session *session = test_session_with(w.model, &options);
        OK(ernie_session_fork(&fork, session, &error)); /* of an empty one */
        assert_null(ernie_session_logits(fork));
        assert_int_equal(ernie_session_length(fork), 0);
        ernie_session_free(fork);
        OK(ernie_session_feed(session, ids, N_IDS, &error));
        memcpy(logits, ernie_session_logits(session), sizeof logits);
        OK(ernie_session_fork(&fork, session, &error));
        assert_int_equal(ernie_session_length(fork), N_IDS);
        assert_int_equal(ernie_session_room(fork), 64 - N_IDS);
        assert_memory_equal(ernie_session_tokens(fork), ids, sizeof ids);
        test_same_logits(fork, logits, VOCAB);
        ernie_session *const both[2] = { session, fork };
        for (int step = 0; step < 2; step++) /* in turns */
            for (int i = 0; i < 2; i++) OK(ernie_session_feed(both[i], &ways[i][step], 1, &error));
        for (int i = 0; i < 2; i++) {
            alone[i] = test_session_with(w.model, &options);
            OK(ernie_session_feed(alone[i], ids, N_IDS, &error));
            OK(ernie_session_feed(alone[i], ways[i], 2, &error));
            test_same_logits(both[i], ernie_session_logits(alone[i]), VOCAB);
            ernie_session_free(alone[i]);
        }
        ernie_session_free(session); /* the fork does not need it */
        OK(ernie_session_feed(fork, ids, 3, &error));
        ernie_session_free(fork);
        test_world_close(&w);
    }
}

static void forks_draw_the_same_numbers(void **state)
{
    (void)state;
    test_world w;
    ernie_session *fork = NULL;
    ernie_logprob a, b;
    ernie_sampling params = ERNIE_SAMPLING_INIT;
    params.seed = 77;
    params.top_p = 1.0f;
    test_world_open(&w, &test_dense_spec);
    ernie_session *session = test_session(w.model, 64);
    OK(ernie_session_feed(session, ids, N_IDS, &error));
    for (int i = 0; i < 5; i++) OK(ernie_session_sample(session, &params, &a, NULL, &error));
    OK(ernie_session_fork(&fork, session, &error));
    for (int i = 0; i < 20; i++) {
        OK(ernie_session_sample(session, &params, &a, NULL, &error));
        OK(ernie_session_sample(fork, &params, &b, NULL, &error));
        assert_int_equal(a.id, b.id);
    }
    ernie_session_free(fork);
    ernie_session_free(session);
    test_world_close(&w);
}

static void count_route(uint32_t layer, uint32_t n_tokens, uint32_t moe_k, const int32_t *experts,
                        const float *weights, void *user)
{
    (void)layer;
    (void)moe_k;
    (void)experts;
    (void)weights;
    *(size_t *)user += n_tokens;
}

static void sync_feeds_what_differs(void **state)
{
    (void)state;
    test_world w;
    size_t n_computed = 0;
    int32_t list[N_IDS];
    ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
    options.n_threads = 1;
    options.n_ctx = N_IDS;
    options.route = count_route;
    options.route_user = &n_computed;
    test_world_open(&w, &test_moe_spec);
    ernie_session *session = test_session_with(w.model, &options), *fresh;
    const struct {
        size_t n, change, n_computed; /* the list's length, where it differs, what is left to do */
    } cases[] = { { N_IDS, N_IDS, N_IDS }, { N_IDS, N_IDS, 0 }, { N_IDS, 20, 3 }, { 10, 10, 1 },
                  { N_IDS, 10, 13 },       { 5, 0, 5 },         { 5, 5, 0 },      { 6, 6, 1 } };
    memcpy(list, ids, sizeof list);
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        for (size_t j = cases[i].change; j < N_IDS; j++) list[j] = (list[j] + 1 + (int32_t)i) % 300;
        n_computed = 0;
        OK(ernie_session_sync(session, list, cases[i].n, &error));
        assert_int_equal(n_computed, cases[i].n_computed);
        assert_int_equal(ernie_session_length(session), cases[i].n);
        fresh = test_session(w.model, 64);
        OK(ernie_session_feed(fresh, list, cases[i].n, &error));
        test_same_logits(session, ernie_session_logits(fresh), VOCAB);
        ernie_session_free(fresh);
    }
    OK(ernie_session_sync(session, ernie_session_tokens(session), 4, &error)); /* its own list */
    OK(ernie_session_feed(session, ernie_session_tokens(session), 4, &error));
    assert_memory_equal(ernie_session_tokens(session), ernie_session_tokens(session) + 4, 16);
    ernie_session_free(session);
    test_world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plan_is_what_is_taken),
        cmocka_unit_test(running_allocates_nothing),
        cmocka_unit_test(memory_that_is_missing),
        cmocka_unit_test(portions_change_nothing),
        cmocka_unit_test(padding_is_masked),
        cmocka_unit_test(caches_of_all_types_agree),
        cmocka_unit_test(refused_tokens_change_nothing),
        cmocka_unit_test(missing_arguments_are_refused),
        cmocka_unit_test(options_out_of_range_are_named),
        cmocka_unit_test(rewound_sessions_continue_the_same),
        cmocka_unit_test(forks_go_their_own_ways),
        cmocka_unit_test(forks_draw_the_same_numbers),
        cmocka_unit_test(sync_feeds_what_differs),
    };
    return cmocka_run_group_tests_name("session", tests, make_ids, NULL);
}
