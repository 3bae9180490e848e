/* Every allocation of the library fails once, and from then on: each call gives a status and a
 * sentence, nothing leaks, and what was there before goes on. */
#include "actions.h"
#include "calls.h"

static stage_file file;

/* ---- The caller's allocator ---------------------------------------------------------------- */

/* Let request k of the action fail; false when it did not come to that many. */
static bool fail_at(const action *a, const stage_file *f, long k, bool sticky)
{
    stage s;
    ernie_error error = { ERNIE_OK, "" };
    stage_begin(&s, f);
    const long long live = atomic_load(&s.counter.live);
    test_allocator_fail_at(&s.counter, k, sticky);
    calls_begin(CALLS_COUNT, 0, false);
    const ernie_status status = a->run(&s, &error);
    calls_end();
    assert_int_equal(atomic_load(&calls.n_held), 0);
    test_allocator_fail_at(&s.counter, TEST_ALLOCATOR_NEVER, false);
    const bool failed = atomic_load(&s.counter.n_failed) > 0;
    assert_int_equal(atomic_load(&s.counter.live), live);
    if (status != (failed ? ERNIE_NO_MEMORY : ERNIE_OK))
        fail_msg("%s, request %ld: status %d, \"%s\"", a->name, k, (int)status, error.message);
    assert_int_equal(error.code, status);
    if (failed) assert_non_null(strstr(error.message, "memory"));
    if (failed)
        action_check_after_failure(a, &s);
    else if (!a->moves)
        stage_check_goes_on(&s, s.session);
    stage_end(&s);
    return failed;
}

/* Every request, or every `step`-th one. */
static void requests_fail(const stage_file *f, long step)
{
    for (size_t i = 0; i < ERN_COUNT(actions); i++) {
        long n = 0;
        for (int sticky = 0; sticky < 2; sticky++)
            for (n = 0; fail_at(&actions[i], f, n, sticky != 0); n += step) assert_true(n < 1000);
        if (step == 1) printf("%s: %ld requests\n", actions[i].name, n);
        assert_true(n > 0);
        /* Neither the model nor saved.session, and no third. */
        assert_true(stage_count_files(f) <= 2);
    }
}

static void requests_fail_on_a_tiny_model(void **state)
{
    (void)state;
    requests_fail(&file, 1);
}

static void requests_fail_on_the_demo_model(void **state)
{
    (void)state;
    stage_file demo;
    if (!stage_file_given(&demo, FAULT_DEMO_MODEL)) skip();
    requests_fail(&demo, 5);
    stage_file_remove(&demo);
}

/* An older file stays whole when saving fails. */
static void failed_save_keeps_the_older_file(void **state)
{
    (void)state;
    stage s;
    ernie_error error = { ERNIE_OK, "" };
    stage_begin(&s, &file);
    stage_ok(ernie_session_save(s.session, file.saved, &error), &error);
    stage_ok(ernie_session_rewind(s.session, 1, &error), &error);
    test_allocator_fail_at(&s.counter, 1, true);
    assert_int_equal(ernie_session_save(s.session, file.saved, &error), ERNIE_NO_MEMORY);
    test_allocator_fail_at(&s.counter, TEST_ALLOCATOR_NEVER, false);
    stage_ok(ernie_session_load(s.session, file.saved, &error), &error);
    stage_check_goes_on(&s, s.session);
    stage_end(&s);
}

static int ignore_token(const ernie_token *token, void *user)
{
    (void)token;
    (void)user;
    return 0;
}

/* Feeding, sampling, going back, verifying and planning ask for nothing. */
static void these_need_no_memory(void **state)
{
    (void)state;
    stage s;
    ernie_error error = { ERNIE_OK, "" };
    ernie_sampling params = ernie_sampling_init();
    ernie_logprob chosen, top[ERNIE_TOP_MAX];
    ernie_memory memory = { .size = (uint32_t)sizeof memory };
    ernie_result result = { .size = sizeof result };
    const ernie_logit_bias bias = { 5, -1.0f };
    const char *const stops[] = { "zzzz", "the" };
    int32_t ids[STAGE_PROMPT];
    float *logits = malloc(4 * 320 * sizeof *logits);
    stage_prompt(&file, ids);
    stage_begin(&s, &file);
    params = (ernie_sampling){ .size = params.size,
                               .temperature = 0.9f,
                               .top_k = 20,
                               .top_p = 0.9f,
                               .min_p = 0.01f,
                               .repetition_penalty = 1.1f,
                               .frequency_penalty = 0.1f,
                               .seed = 7,
                               .n_max = 8,
                               .n_top = ERNIE_TOP_MAX,
                               .bias = &bias,
                               .n_bias = 1,
                               .stop = stops,
                               .n_stop = 2 };
    const long n = atomic_load(&s.counter.n_requests);
    test_allocator_fail_at(&s.counter, 0, true);
    stage_ok(ernie_session_generate(s.session, &params, ignore_token, NULL, &result, &error),
             &error);
    stage_ok(ernie_session_rewind(s.session, 4, &error), &error);
    stage_ok(ernie_session_feed_logits(s.session, ids + 4, 4, logits, &error), &error);
    stage_ok(ernie_session_sample(s.session, &params, &chosen, top, &error), &error);
    stage_ok(ernie_session_sync(s.session, ids, STAGE_PROMPT, &error), &error);
    stage_ok(ernie_session_plan(s.model, &s.options, &memory, &error), &error);
    stage_ok(ernie_model_verify(s.model, NULL, NULL, NULL, &error), &error);
    stage_check_goes_on(&s, s.session);
    assert_int_equal(atomic_load(&s.counter.n_requests), n);
    stage_end(&s);
    free(logits);
}

/* ---- The C library's allocator ------------------------------------------------------------- */

/* The linker sends realloc and free of everything that is linked in here. The library has one use
 * of each; the counts are kept only while it is on trial. */
static struct {
    bool on, sticky;
    long budget; /* requests that still succeed; negative: all do */
    long n_failed, n_live;
} heap;

void *__real_realloc(void *ptr, size_t size);
void *__wrap_realloc(void *ptr, size_t size);
void __real_free(void *ptr);
void __wrap_free(void *ptr);

void *__wrap_realloc(void *ptr, size_t size)
{
    if (!heap.on) return __real_realloc(ptr, size);
    if (heap.budget == 0) {
        heap.n_failed++;
        if (!heap.sticky) heap.budget = -1;
        return NULL;
    }
    if (heap.budget > 0) heap.budget--;
    void *moved = __real_realloc(ptr, size);
    if (moved && !ptr) heap.n_live++;
    return moved;
}

void __wrap_free(void *ptr)
{
    if (heap.on && ptr) heap.n_live--;
    __real_free(ptr);
}

/* A search prompt takes no allocator, and a model may be opened without one. */
static ernie_status whole_visit(ernie_error *error)
{
    ernie_model *model = NULL;
    ernie_session *session = NULL, *fork = NULL;
    ernie_session_options options = ernie_session_options_init();
    ernie_sampling params = ernie_sampling_init();
    const ernie_reference reference = { "t", "2025-04-20", action_text, "u", "s" };
    char prompt[8000];
    size_t n = 0;
    options.n_ctx = 64;
    options.n_threads = 1;
    params.n_max = 2;
    ernie_status status = ernie_search_prompt(ERNIE_LANGUAGE_ZH, "2025-04-20", "?", &reference, 1,
                                              prompt, sizeof prompt, &n, error);
    if (status == ERNIE_OK) status = ernie_model_open(&model, file.path, NULL, error);
    if (status == ERNIE_OK) status = ernie_session_create(&session, model, &options, error);
    if (status == ERNIE_OK)
        status = ernie_session_ask(session, "the end", &params, NULL, NULL, NULL, error);
    if (status == ERNIE_OK) status = ernie_session_fork(&fork, session, error);
    if (status == ERNIE_OK) status = ernie_session_save(fork, file.saved, error);
    if (status == ERNIE_OK) status = ernie_session_load(session, file.saved, error);
    ernie_session_free(fork);
    ernie_session_free(session);
    ernie_model_close(model);
    return status;
}

static void default_allocator_may_fail(void **state)
{
    (void)state;
    for (int sticky = 0; sticky < 2; sticky++) {
        bool failed = true;
        for (long k = 0; failed; k++) {
            ernie_error error = { ERNIE_OK, "" };
            heap.n_failed = heap.n_live = 0;
            heap.sticky = sticky != 0;
            heap.budget = k;
            heap.on = true;
            const ernie_status status = whole_visit(&error);
            heap.on = false;
            failed = heap.n_failed > 0;
            if (status != (failed ? ERNIE_NO_MEMORY : ERNIE_OK))
                fail_msg("request %ld: status %d, \"%s\"", k, (int)status, error.message);
            assert_int_equal(heap.n_live, 0);
            assert_true(k < 1000);
            if (!failed && !sticky) printf("a whole visit: %ld requests\n", k);
        }
    }
}

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
        cmocka_unit_test(requests_fail_on_a_tiny_model),
        cmocka_unit_test(requests_fail_on_the_demo_model),
        cmocka_unit_test(failed_save_keeps_the_older_file),
        cmocka_unit_test(these_need_no_memory),
        cmocka_unit_test(default_allocator_may_fail),
    };
    return cmocka_run_group_tests_name("no_memory", tests, setup, teardown);
}
