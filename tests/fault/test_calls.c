/* Every call to the operating system, and every read of a caller's source, fails once or for ever,
 * is cut short, finds nothing or is interrupted: a status that names what was read or written, or
 * the same result as ever. Nothing leaks, nothing is left behind, older files stay whole. */
#include "actions.h"
#include "calls.h"

static stage_file file;

/* ---- System calls -------------------------------------------------------------------------- */

static bool call_fails_at(const action *a, long k, calls_mode mode, bool sticky)
{
    stage s;
    ernie_error error = { ERNIE_OK, "" };
    stage_begin(&s, &file);
    const long long live = atomic_load(&s.counter.live);
    calls_begin(mode, k, sticky);
    const ernie_status status = a->run(&s, &error);
    const calls_kind *hit = calls_end();
    const bool over = atomic_load(&calls.n) <= k;
    assert_int_equal(atomic_load(&calls.n_held), 0);
    assert_int_equal(atomic_load(&s.counter.live), live);
    if (!calls_explain(hit, mode, sticky, status))
        fail_msg("%s, call %ld, mode %d (%s): status %d, \"%s\"", a->name, k, (int)mode,
                 hit ? hit->name : "none", (int)status, error.message);
    assert_int_equal(error.code, status);
    if (status != ERNIE_OK) assert_true(strlen(error.message) > 10);
    if (status != ERNIE_OK)
        action_check_after_failure(a, &s);
    else if (!a->moves)
        stage_check_goes_on(&s, s.session);
    stage_end(&s);
    return !over;
}

static void every_system_call_fails(void **state)
{
    (void)state;
    for (size_t i = 0; i < ERN_COUNT(actions); i++) {
        long n = 0;
        for (calls_mode mode = CALLS_FAIL; mode <= CALLS_SIGNAL; mode++)
            for (int sticky = 0; sticky < 2; sticky++) {
                if (mode == CALLS_SIGNAL && sticky) continue; /* would be tried for ever */
                for (n = 0; call_fails_at(&actions[i], n, mode, sticky != 0); n++)
                    assert_true(n < 2000);
            }
        if (n) printf("%s: %ld calls\n", actions[i].name, n);
        assert_true(stage_count_files(&file) <= 2);
    }
}

/* An error of the system is told with its reason and the path. */
static void reasons_are_named(void **state)
{
    (void)state;
    stage s;
    ernie_error error = { ERNIE_OK, "" };
    stage_begin(&s, &file);
    s.open.no_mmap = true;
    for (long k = 2; k <= 6; k += 4) { /* open, fstat, pread of the header, close, and again */
        calls_begin(CALLS_FAIL, k, false);
        assert_int_equal(action_open_read(&s, &error), ERNIE_IO);
        assert_ptr_equal(calls_end(), &calls_read);
        assert_non_null(strstr(error.message, strerror(EIO)));
        assert_non_null(strstr(error.message, "model.ernie"));
    }
    calls_begin(CALLS_EMPTY, 2, false);
    assert_int_equal(action_open_read(&s, &error), ERNIE_FORMAT);
    assert_ptr_equal(calls_end(), &calls_read);
    assert_non_null(strstr(error.message, "ends at byte 0"));
    calls_begin(CALLS_EMPTY, 6, false);
    assert_int_equal(action_open_read(&s, &error), ERNIE_IO);
    assert_ptr_equal(calls_end(), &calls_read);
    assert_non_null(strstr(error.message, "ended at byte 0 of"));
    stage_end(&s);
}

/* Folders and devices are opened before they are refused. */
static void what_is_no_file_is_let_go(void **state)
{
    (void)state;
    stage s;
    const char *const paths[] = { file.dir, "/dev/null", "/dev/null/none" };
    stage_begin(&s, &file);
    for (size_t i = 0; i < ERN_COUNT(paths); i++) {
        ernie_model *model = NULL;
        ernie_error error = { ERNIE_OK, "" };
        calls_begin(CALLS_COUNT, 0, false);
        assert_int_equal(ernie_model_open(&model, paths[i], &s.open, &error), ERNIE_IO);
        assert_int_equal(ernie_session_save(s.session, paths[i], &error), ERNIE_IO);
        assert_int_equal(ernie_session_load(s.session, paths[i], &error), ERNIE_IO);
        calls_end();
        assert_int_equal(atomic_load(&calls.n_held), 0);
        assert_non_null(strstr(error.message, paths[i]));
        stage_check_recovers(&s, s.session);
        stage_ok(ernie_session_rewind(s.session, STAGE_PROMPT, &error), &error);
    }
    stage_end(&s);
}

/* A thread of five cannot be started: those before it are sent home. */
static void team_that_cannot_be_raised(void **state)
{
    (void)state;
#ifdef ERNIE_OPENMP
    skip();
#endif
    for (long k = 0; k < 4; k++) {
        stage s;
        ernie_session *session = NULL;
        ernie_error error = { ERNIE_OK, "" };
        char wanted[64];
        stage_begin(&s, &file);
        s.options.n_threads = 5;
        const long long live = atomic_load(&s.counter.live);
        calls_begin(CALLS_FAIL, k, false);
        assert_int_equal(ernie_session_create(&session, s.model, &s.options, &error),
                         ERNIE_NO_MEMORY);
        assert_ptr_equal(calls_end(), &calls_thread);
        assert_null(session);
        assert_int_equal(atomic_load(&s.counter.live), live);
        snprintf(wanted, sizeof wanted, "thread %ld of 5", k + 2);
        assert_non_null(strstr(error.message, wanted));
        stage_ok(ernie_session_create(&session, s.model, &s.options, &error), &error);
        stage_check_recovers(&s, session);
        ernie_session_free(session);
        stage_end(&s);
    }
}

/* ---- Sources ------------------------------------------------------------------------------- */

typedef enum source_fault { SOURCE_FAILS, SOURCE_SHORT, SOURCE_ENDS, SOURCE_NOISE } source_fault;

typedef struct source {
    const unsigned char *data;
    size_t n_bytes;
    source_fault fault;
    long at, n; /* which read is hit; reads so far */
    bool sticky;
} source;

/* A source that returns 0 has promised all n bytes, whatever it wrote. */
static int source_read(void *user, uint64_t offset, void *buffer, size_t n)
{
    source *s = user;
    unsigned char *to = buffer;
    const long i = s->n++;
    const size_t left = offset < s->n_bytes ? s->n_bytes - (size_t)offset : 0;
    const size_t give = n < left ? n : left;
    memcpy(to, s->data + (give ? offset : 0), give);
    memset(to + give, 0, n - give);
    if (s->sticky ? i < s->at : i != s->at) return 0;
    switch (s->fault) {
    case SOURCE_FAILS: return 1;
    case SOURCE_SHORT: memset(to + n / 2, 0, n - n / 2); return 0;
    case SOURCE_ENDS: memset(to, 0, n); return 0;
    case SOURCE_NOISE: to[n / 2] ^= 0x10; return 0;
    }
    return 0;
}

static void sources_that_fail(void **state)
{
    (void)state;
    size_t n;
    unsigned char *image = stage_large_image(&n);
    const long n_reads = 1 + (long)((n + (4u << 20) - 1) / (4u << 20)); /* the header comes first */
    assert_true(n_reads >= 4);
    for (source_fault fault = SOURCE_FAILS; fault <= SOURCE_NOISE; fault++)
        for (long k = 0; k <= n_reads; k++)
            for (int sticky = 0; sticky < 2; sticky++) {
                test_allocator counter;
                ernie_allocator allocator;
                ernie_model *model = (ernie_model *)8;
                ernie_error error = { ERNIE_OK, "" };
                ernie_model_options options = ernie_model_options_init();
                source s = { image, n, fault, k, 0, sticky != 0 };
                const ernie_source from = { source_read, n, &s };
                test_allocator_begin(&counter, &allocator);
                options.allocator = &allocator;
                options.verify = true;
                const ernie_status status =
                    ernie_model_open_source(&model, &from, &options, &error);
                char wanted[64];
                snprintf(wanted, sizeof wanted, "at offset %ld", k ? (k - 1) * (4 << 20) : 0);
                const bool only_plans = k == 0 && fault != SOURCE_FAILS && !sticky;
                if (k == n_reads || only_plans)
                    assert_int_equal(status, ERNIE_OK);
                else if (fault == SOURCE_FAILS)
                    assert_int_equal(status, ERNIE_IO);
                else if (status != ERNIE_CORRUPT && status != ERNIE_FORMAT)
                    fail_msg("fault %d in read %ld: status %d", (int)fault, k, (int)status);
                if (status == ERNIE_IO) assert_non_null(strstr(error.message, wanted));
                if (status != ERNIE_OK) assert_null(model);
                assert_int_equal(error.code, status);
                ernie_model_close(model);
                assert_int_equal(atomic_load(&counter.live), 0);
                assert_int_equal(atomic_load(&counter.n_wrong_sizes), 0);
            }
    test_model_free(image);
}

/* Damage in a weight is found by verify, later, and the model stays usable. */
static void unverified_damage_is_found_later(void **state)
{
    (void)state;
    size_t n;
    unsigned char *image = stage_large_image(&n);
    ernie_model *model = NULL;
    ernie_error error = { ERNIE_OK, "" };
    source s = { image, n, SOURCE_NOISE, 2, 0, false };
    const ernie_source from = { source_read, n, &s };
    stage_ok(ernie_model_open_source(&model, &from, NULL, &error), &error);
    assert_int_equal(ernie_model_verify(model, NULL, NULL, NULL, &error), ERNIE_CORRUPT);
    assert_int_equal(ernie_model_verify(model, NULL, NULL, NULL, &error), ERNIE_CORRUPT);
    ernie_model_close(model);
    test_model_free(image);
}

/* n_bytes says less, more, nothing, or more than there is memory. */
static void sources_that_lie_about_their_size(void **state)
{
    (void)state;
    const uint64_t n = file.n_bytes;
    const uint64_t lies[] = { 0,
                              1,
                              63,
                              64,
                              4095,
                              4096,
                              n / 2,
                              n - 64,
                              n - 1,
                              n + 1,
                              n + 4096,
                              2 * n,
                              (uint64_t)1 << 62,
                              UINT64_MAX / 2,
                              UINT64_MAX - 127,
                              UINT64_MAX - 64,
                              UINT64_MAX - 63,
                              UINT64_MAX };
    for (size_t i = 0; i < ERN_COUNT(lies); i++) {
        test_allocator counter;
        ernie_allocator allocator;
        ernie_model *model = (ernie_model *)8;
        ernie_error error = { ERNIE_OK, "" };
        ernie_model_options options = ernie_model_options_init();
        source s = { file.data, file.n_bytes, SOURCE_FAILS, -1, 0, false };
        const ernie_source from = { source_read, lies[i], &s };
        test_allocator_begin(&counter, &allocator);
        options.allocator = &allocator;
        const ernie_status status = ernie_model_open_source(&model, &from, &options, &error);
        if (lies[i] < 8 * n)
            assert_int_equal(status, ERNIE_FORMAT);
        else
            assert_true(status == ERNIE_FORMAT || status == ERNIE_NO_MEMORY);
        assert_int_equal(error.code, status);
        assert_null(model);
        assert_int_equal(atomic_load(&counter.live), 0);
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
        cmocka_unit_test(every_system_call_fails),
        cmocka_unit_test(reasons_are_named),
        cmocka_unit_test(what_is_no_file_is_let_go),
        cmocka_unit_test(team_that_cannot_be_raised),
        cmocka_unit_test(sources_that_fail),
        cmocka_unit_test(unverified_damage_is_found_later),
        cmocka_unit_test(sources_that_lie_about_their_size),
    };
    return cmocka_run_group_tests_name("calls", tests, setup, teardown);
}
