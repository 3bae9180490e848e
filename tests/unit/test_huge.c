/* Weights that move to huge pages while sessions run: the copy is whole before it is used, gives the
 * same results to the last bit, waits for who computes, and ends at once when the model is closed. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "../../src/huge.h"
#include "../../src/os.h"
#include "../../tools/convert/synth.h"
#include "convert_run.h"
#include "test_allocator.h"

#define SOURCE_BYTES (((size_t)80 << 20) + 4711)
#define WAIT_SECONDS 120.0

static const ern_log no_log;

/* Machines without huge pages or with little memory make no copy, rightly. */
static void need_huge_pages(void)
{
    if (!ern_huge_pages_offered() || ern_memory_available() < (uint64_t)3 << 30) {
        print_message("no huge pages, or too little memory for a copy\n");
        skip();
    }
}

typedef struct copied {
    atomic_int n_calls;
    const unsigned char *bytes;
} copied;

static void note_copy(void *user, const unsigned char *copy)
{
    copied *c = user;
    c->bytes = copy;
    atomic_fetch_add(&c->n_calls, 1);
}

static ern_huge *open_huge(const unsigned char *data, size_t n, copied *c)
{
    ern_huge *h;
    ernie_error error;
    const ern_huge_options options = { .data = data,
                                       .n_bytes = n,
                                       .allocator = ern_allocator_default(),
                                       .done = note_copy,
                                       .user = c };
    assert_int_equal(ern_huge_open(&h, &options, &error), ERNIE_OK);
    assert_string_equal(ern_huge_state(h), "mapped");
    return h;
}

static unsigned char *make_source(void)
{
    unsigned char *data = malloc(SOURCE_BYTES);
    assert_non_null(data);
    for (size_t i = 0; i < SOURCE_BYTES; i++) data[i] = (unsigned char)(i * 2654435761u >> 13);
    return data;
}

static void wait_for(const ern_huge *h, const char *state)
{
    const double until = ern_seconds() + WAIT_SECONDS;
    while (strcmp(ern_huge_state(h), state) != 0) {
        if (ern_seconds() > until) fail_msg("still %s, not %s", ern_huge_state(h), state);
        ern_sleep(1e-3);
    }
}

static void the_copy_is_whole(void **state)
{
    (void)state;
    need_huge_pages();
    copied c = { 0 };
    unsigned char *data = make_source();
    ern_huge *h = open_huge(data, SOURCE_BYTES, &c);
    ern_huge_start(h, &no_log);
    ern_huge_start(h, &no_log); /* once is enough */
    wait_for(h, "copied");
    assert_int_equal(atomic_load(&c.n_calls), 1);
    assert_ptr_not_equal(c.bytes, data);
    assert_int_equal((uintptr_t)c.bytes % ERN_CACHE_LINE, 0);
    assert_memory_equal(c.bytes, data, SOURCE_BYTES);
    ern_huge_close(h);
    free(data);
}

/* For ten seconds only idle time is used; 80 MB in 2 MiB pieces take longer than that at half of
 * the time only on slow machines, so nothing is said about afterwards. */
static void who_computes_goes_first(void **state)
{
    (void)state;
    need_huge_pages();
    copied c = { 0 };
    unsigned char *data = make_source();
    ern_huge *h = open_huge(data, SOURCE_BYTES, &c);
    ern_huge_enter(h);
    ern_huge_start(h, &no_log);
    const double until = ern_seconds() + 1.0;
    while (ern_seconds() < until) {
        assert_string_not_equal(ern_huge_state(h), "copied");
        ern_sleep(0.02);
    }
    ern_huge_leave(h);
    wait_for(h, "copied");
    assert_memory_equal(c.bytes, data, SOURCE_BYTES);
    ern_huge_close(h);
    free(data);
}

static void closing_ends_it(void **state)
{
    (void)state;
    unsigned char *data = make_source();
    for (unsigned i = 0; i < 8; i++) {
        copied c = { 0 };
        ern_huge *h = open_huge(data, SOURCE_BYTES, &c);
        if (i % 2) ern_huge_enter(h); /* it waits */
        if (i) ern_huge_start(h, &no_log);
        ern_sleep(1e-3 * i);
        ern_huge_close(h);
    }
    free(data);
    ern_huge_close(NULL);
    ern_huge_start(NULL, &no_log);
    ern_huge_enter(NULL);
    ern_huge_leave(NULL);
}

static void small_files_stay(void **state)
{
    (void)state;
    static const unsigned char few[4096];
    copied c = { 0 };
    ern_huge *h = open_huge(few, sizeof few, &c);
    ern_huge_start(h, &no_log);
    ern_sleep(0.05);
    assert_string_equal(ern_huge_state(h), "mapped");
    assert_int_equal(atomic_load(&c.n_calls), 0);
    ern_huge_close(h);
}

/* ---- A model ------------------------------------------------------------------------------- */

static ernie_model *open_model(const ernie_model_options *options)
{
    ernie_model *m;
    ernie_error error;
    if (ernie_model_open(&m, out_file, options, &error) != ERNIE_OK)
        fail_msg("%s", error.message);
    return m;
}

static const char *pages_of(const ernie_model *m)
{
    ernie_model_info info = { .size = (uint32_t)sizeof info };
    assert_int_equal(ernie_model_get_info(m, &info), ERNIE_OK);
    return info.pages;
}

/* Logits [vocab] after a few tokens, to be freed. */
static float *logits_of(const ernie_model *m, size_t *n)
{
    static const int32_t ids[] = { 5, 99, 1234, 77, 3, 42, 8 };
    ernie_session_options options = ernie_session_options_init();
    ernie_model_info info = { .size = (uint32_t)sizeof info };
    ernie_session *session;
    ernie_error error;
    options.n_ctx = 64;
    options.n_threads = 2;
    ernie_model_get_info(m, &info);
    *n = info.vocab_size;
    float *logits = malloc(*n * sizeof *logits);
    if (ernie_session_create(&session, m, &options, &error) != ERNIE_OK
        || ernie_session_feed(session, ids, ERN_COUNT(ids), &error) != ERNIE_OK)
        fail_msg("%s", error.message);
    memcpy(logits, ernie_session_logits(session), *n * sizeof *logits);
    ernie_session_free(session);
    return logits;
}

static void models_move_and_say_the_same(void **state)
{
    (void)state;
    need_huge_pages();
    ernie_error error;
    size_t n;
    const ern_synth_options synth = {
        .shape = "0.3b", .type = "w4", .n_layers = 2, .n_threads = 2, .seed = 3
    };
    if (ern_synth(out_file, &synth, &error) != ERNIE_OK) fail_msg("%s", error.message);

    ernie_model_options stays = ernie_model_options_init();
    stays.no_copy = true;
    ernie_model *m = open_model(&stays);
    float *expected = logits_of(m, &n);
    assert_string_equal(pages_of(m), "mapped");
    ernie_model_close(m);

    stays = ernie_model_options_init();
    stays.no_mmap = true;
    m = open_model(&stays);
    float *logits = logits_of(m, &n);
    assert_memory_equal(logits, expected, n * sizeof *logits);
    assert_string_equal(pages_of(m), "memory");
    free(logits);
    ernie_model_close(m);

    test_allocator counting;
    ernie_allocator own;
    test_allocator_begin(&counting, &own);
    stays = ernie_model_options_init();
    stays.allocator = &own;
    m = open_model(&stays);
    free(logits_of(m, &n));
    assert_string_equal(pages_of(m), "mapped");
    ernie_model_close(m);

    m = open_model(NULL);
    assert_string_equal(pages_of(m), "mapped"); /* nothing is copied before there is a session */
    const double until = ern_seconds() + WAIT_SECONDS;
    bool over = false;
    for (bool last = false; !last;) {
        last = over; /* once more after it has moved */
        logits = logits_of(m, &n);
        assert_memory_equal(logits, expected, n * sizeof *logits);
        free(logits);
        const char *pages = pages_of(m);
        over = strcmp(pages, "copied") == 0 || strcmp(pages, "mapped, huge pages") == 0;
        if (ern_seconds() > until) fail_msg("still %s", pages);
    }
    print_message("the weights lie: %s\n", pages_of(m));
    assert_int_equal(ernie_model_verify(m, NULL, NULL, NULL, &error), ERNIE_OK);
    ernie_model_close(m);

    m = open_model(NULL); /* closed in the middle of it */
    free(logits_of(m, &n));
    ernie_model_close(m);
    free(expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_copy_is_whole),          cmocka_unit_test(who_computes_goes_first),
        cmocka_unit_test(closing_ends_it),            cmocka_unit_test(small_files_stay),
        cmocka_unit_test(models_move_and_say_the_same),
    };
    return cmocka_run_group_tests_name("huge", tests, run_setup, run_teardown);
}
