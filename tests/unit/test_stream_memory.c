/* The ceiling: what the allocator gives never exceeds it, whatever is called; ceilings that are
 * too low are refused with one that would do, and that one does; from the least on every ceiling
 * works. The last test asks the system what the process takes (Linux only). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/wait.h>

#include "../../tools/convert/synth.h"
#include "fake_disk.h"
#include "test_session.h"
#include "stream_model.h"

static fake_disk disk;
static char file_path[640], warm_path[640], saved_path[640];
static int32_t prompt[200];

static int setup(void **state)
{
    const ern_hparams h = stream_hparams();
    const test_model_spec spec = { .moe = true, .hparams = &h };
    if (test_folder_begin(state) != 0) return -1;
    fake_begin_spec(&disk, &spec);
    snprintf(file_path, sizeof file_path, "%s", test_path("model.ernie"));
    snprintf(warm_path, sizeof warm_path, "%s", test_path("model.warm"));
    snprintf(saved_path, sizeof saved_path, "%s", test_path("saved.session"));
    test_write_file(file_path, disk.image, disk.n_bytes);
    test_ids(prompt, 200, 5, 300);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fake_end(&disk);
    remove(file_path);
    remove(warm_path);
    remove(saved_path);
    return rmdir(test_folder);
}

/* ---- The peak ------------------------------------------------------------------------------ */

/* The C library's memory, counted: now and at most. */
typedef struct watch {
    atomic_llong now, peak;
} watch;

static void *watch_resize(void *user, void *ptr, size_t old_size, size_t new_size)
{
    watch *w = user;
    if (new_size == 0) {
        atomic_fetch_sub(&w->now, (long long)old_size);
        free(ptr);
        return NULL;
    }
    void *block = realloc(ptr, new_size);
    if (!block) return NULL;
    const long long more = (long long)new_size - (ptr ? (long long)old_size : 0);
    const long long now = atomic_fetch_add(&w->now, more) + more;
    for (long long peak = atomic_load(&w->peak); now > peak;)
        if (atomic_compare_exchange_weak(&w->peak, &peak, now)) break;
    return block;
}

static void do_everything(ernie_model *model, const ernie_session_options *options, bool fork_too)
{
    static const char text[] = "the rain in the mountains and the river, in the end";
    ernie_session *session = NULL, *fork = NULL;
    ernie_sampling params = ERNIE_SAMPLING_INIT;
    int32_t ids[200];
    size_t n;
    double rate;
    params.greedy = params.ignore_eos = true;
    params.n_max = 5;
    OK(ernie_session_create(&session, model, options, &error));
    OK(ernie_session_feed(session, prompt, 150, &error));
    if (fork_too) OK(ernie_session_fork(&fork, session, &error));
    OK(ernie_session_generate(session, &params, NULL, NULL, NULL, &error));
    OK(ernie_session_ask(session, text, &params, NULL, NULL, NULL, &error));
    OK(ernie_session_save(session, saved_path, &error));
    OK(ernie_session_load(session, saved_path, &error));
    OK(ernie_model_verify(model, NULL, NULL, NULL, &error));
    OK(ernie_model_read_rate(model, 0.01, NULL, &rate, &error));
    OK(ernie_tokenize(model, text, sizeof text - 1, ERNIE_TOKENIZE_TEXT, ids, 200, &n, &error));
    ernie_session_free(fork);
    OK(ernie_session_feed(session, prompt, 10, &error));
    ernie_session_free(session);
}

static void the_peak_is_under_the_ceiling(void **state)
{
    static const uint32_t slots[] = { STREAM_LEAST, STREAM_LEAST + 1, 25, STREAM_EXPERTS - 1 };
    (void)state;
    for (unsigned k = 0; k < 2 * ERN_COUNT(slots); k++) {
        watch w;
        const ernie_allocator allocator = { watch_resize, &w };
        stream_how how = stream_from(k % 2 ? NULL : file_path, &disk.source);
        how.stream.n_readers = k % 3 ? 1 : 8;
        how.stream.warm_path = warm_path;
        how.allocator = &allocator;
        atomic_init(&w.now, 0);
        atomic_init(&w.peak, 0);
        const bool fork_too = k % 4 < 2;
        const uint64_t ceiling = stream_ceiling(&how, fork_too ? 2 : 1, slots[k / 2]);
        atomic_store(&w.peak, 0);
        ernie_model *model = stream_open_with(&how, ceiling);
        for (unsigned i = 0; i < 2; i++) do_everything(model, &how.session, fork_too);
        ernie_model_close(model);
        assert_int_equal(atomic_load(&w.now), 0);
        const long long peak = atomic_load(&w.peak);
        if ((uint64_t)peak > ceiling)
            fail_msg("trial %u: %lld bytes at most under a ceiling of %llu", k, peak,
                     (unsigned long long)ceiling);
        /* And it is made use of: but for the spare bytes and less than an expert. */
        assert_true((uint64_t)peak + ERN_PLAN_SPARE + disk.format.header->expert_bytes >= ceiling);
    }
}

/* A hundred sessions leave as much room as one. */
static void sessions_give_everything_back(void **state)
{
    const stream_how how = stream_from(NULL, &disk.source);
    (void)state;
    ernie_model *model = stream_open(&how, 1, 20);
    for (unsigned i = 0; i < 100; i++) {
        ernie_session *session = test_session_with(model, &how.session);
        assert_int_equal(stream_n_slots(session), 20);
        ernie_session_free(session);
    }
    ernie_model_close(model);
}

/* ---- The least ----------------------------------------------------------------------------- */

/* Open and create with one ceiling; the planned session is the one that comes. */
static ernie_status try_ceiling(const stream_how *how, uint64_t memory, bool *streams,
                                ernie_error *error)
{
    ernie_model_options options = ERNIE_MODEL_OPTIONS_INIT;
    ernie_model_info info = { .size = sizeof info };
    ernie_model *model = NULL;
    ernie_session *session = NULL;
    options.memory = memory;
    options.stream = &how->stream;
    options.session = &how->session;
    ernie_status status = how->path
                              ? ernie_model_open(&model, how->path, &options, error)
                              : ernie_model_open_source(&model, how->source, &options, error);
    if (status == ERNIE_OK) {
        ernie_model_get_info(model, &info);
        *streams = info.streams;
        status = ernie_session_create(&session, model, &how->session, error);
    }
    if (status == ERNIE_OK) status = ernie_session_feed(session, prompt, 3, error);
    ernie_session_free(session);
    ernie_model_close(model);
    return status;
}

/* The number before " would do". */
static uint64_t number_that_would_do(const char *sentence)
{
    char unit[8] = "";
    double number = 0;
    const char *at = strstr(sentence, " would do");
    if (!at) fail_msg("no ceiling that would do: %s", sentence);
    while (at > sentence && !(at[-1] == ' ' && (at[-2] == ';' || at[-2] == ','))) at--;
    if (sscanf(at, "%lf %7s", &number, unit) != 2) fail_msg("no number at \"%s\"", at);
    const double factor = strcmp(unit, "GB") == 0 ? 1e9 : strcmp(unit, "MB") == 0 ? 1e6 : 1;
    return (uint64_t)(number * factor + 0.5);
}

static void check_ladder(const stream_how *how, uint64_t step)
{
    ernie_error error;
    bool streams = false, worked = false, streamed = true;
    const uint64_t end = stream_file_bytes(how) + (8u << 20);
    for (uint64_t memory = 1000; memory < end; memory += step) {
        const ernie_status status = try_ceiling(how, memory, &streams, &error);
        if (status == ERNIE_OK) {
            assert_true(streamed || !streams);
            streamed = streams;
            worked = true;
            continue;
        }
        assert_int_equal(status, ERNIE_NO_MEMORY);
        if (worked) fail_msg("%llu: %s", (unsigned long long)memory, error.message);
        const uint64_t enough = number_that_would_do(error.message);
        assert_true(enough > memory);
        if (try_ceiling(how, enough, &streams, &error) != ERNIE_OK)
            fail_msg("%llu would do, but %s", (unsigned long long)enough, error.message);
    }
    assert_true(worked && !streamed);
}

/* From the least ceiling on all of them work, up to where the model is in memory; below it each
 * refusal names one that works. */
static void every_ceiling_works_or_names_one_that_does(void **state)
{
    stream_how how = stream_from(file_path, NULL);
    (void)state;
    check_ladder(&how, 77777);
    how = stream_from(NULL, &disk.source);
    how.session.n_batch = 0; /* grows with the room there is */
    how.session.n_ctx = 1000;
    check_ladder(&how, 99991);
    how.stream.n_readers = 64;
    how.session.n_ctx = 16;
    how.session.n_threads = 7;
    check_ladder(&how, 199999);
}

/* To the byte. */
static void the_least_is_exact(void **state)
{
    const stream_how how = stream_from(NULL, &disk.source);
    const uint64_t least = stream_ceiling(&how, 1, STREAM_LEAST);
    ernie_session *session = NULL;
    (void)state;
    ernie_model *model = stream_open_with(&how, least);
    session = test_session_with(model, &how.session);
    assert_int_equal(stream_n_slots(session), STREAM_LEAST);
    FAILS(ERNIE_NO_MEMORY, ernie_session_create(&session, model, &how.session, &error),
          "is too low", "would do");
    assert_null(session);
    ernie_model_close(model);
}

static void one_byte_less_is_refused(void **state)
{
    const stream_how how = stream_from(NULL, &disk.source);
    const uint64_t least = stream_ceiling(&how, 1, STREAM_LEAST);
    ernie_session *session = NULL;
    ernie_session_options options = how.session;
    ernie_error why;
    unsigned fits = 0;
    (void)state;
    ernie_model *model = stream_open_with(&how, least - 1);
    assert_int_equal(ernie_session_create(&session, model, &options, &why), ERNIE_NO_MEMORY);
    assert_null(session);
    const char *advice = strstr(why.message, "a context of ");
    assert_non_null(advice);
    assert_int_equal(sscanf(advice, "a context of %u tokens would fit", &fits), 1);
    assert_true(fits > 0 && fits < options.n_ctx);
    options.n_ctx = fits + 1;
    assert_int_equal(ernie_session_create(&session, model, &options, &why), ERNIE_NO_MEMORY);
    options.n_ctx = fits;
    OK(ernie_session_create(&session, model, &options, &error));
    OK(ernie_session_feed(session, prompt, fits < 40 ? fits : 40, &error));
    ernie_session_free(session);
    ernie_model_close(model);
}

static void dense_models_have_a_ceiling_too(void **state)
{
    const test_model_spec spec = { .type_ffn = ERN_W8 };
    ernie_error error;
    bool streams;
    size_t n;
    (void)state;
    unsigned char *image = test_model_build(&spec, &n);
    test_write_file(test_path("dense.ernie"), image, n);
    char path[640];
    snprintf(path, sizeof path, "%s", test_path("dense.ernie"));
    stream_how how = stream_from(path, NULL);
    assert_int_equal(try_ceiling(&how, 1000, &streams, &error), ERNIE_NO_MEMORY);
    assert_non_null(strstr(error.message, "no experts"));
    const uint64_t enough = number_that_would_do(error.message);
    assert_int_equal(try_ceiling(&how, enough, &streams, &error), ERNIE_OK);
    assert_false(streams);
    assert_int_equal(try_ceiling(&how, n + 1, &streams, &error), ERNIE_NO_MEMORY); /* no session */
    assert_int_equal(
        try_ceiling(&how, number_that_would_do(error.message), &streams, &error), ERNIE_OK);
    assert_int_equal(try_ceiling(&how, ERNIE_MEMORY_UNLIMITED, &streams, &error), ERNIE_OK);
    assert_int_equal(try_ceiling(&how, ERNIE_MEMORY_UNLIMITED - 1, &streams, &error), ERNIE_OK);
    remove(path);
    test_model_free(image);
}

static void options_out_of_range(void **state)
{
    stream_how how = stream_from(NULL, &disk.source);
    ernie_model *model = (ernie_model *)8;
    const uint64_t memory = disk.n_bytes;
    (void)state;
    how.stream.n_readers = 65;
    FAILS(ERNIE_INVALID, stream_try(&model, &how, memory, &error), "65", "64");
    assert_null(model);
    how.stream.n_readers = 64;
    OK(stream_try(&model, &how, memory, &error));
    ernie_model_close(model);
    how.stream.policy = (ernie_stream_policy)9;
    FAILS(ERNIE_INVALID, stream_try(&model, &how, memory, &error), "policy 9");
    how.stream.policy = ERNIE_STREAM_LRU;
    how.stream.size = 3;
    FAILS(ERNIE_INVALID, stream_try(&model, &how, memory, &error), "ernie_stream_options");

    /* A newer caller's struct is longer: what this library does not know must be zero. */
    struct {
        ernie_stream_options known;
        unsigned char newer[16];
    } longer = { .known = ERNIE_STREAM_OPTIONS_INIT };
    ernie_model_options options = ERNIE_MODEL_OPTIONS_INIT;
    longer.known.size = sizeof longer;
    options.memory = memory;
    options.stream = &longer.known;
    OK(ernie_model_open_source(&model, &disk.source, &options, &error));
    assert_true(model->experts != NULL);
    ernie_model_close(model);
    longer.newer[5] = 1;
    FAILS(ERNIE_UNSUPPORTED, ernie_model_open_source(&model, &disk.source, &options, &error),
          "newer");
    /* An older one's is shorter. */
    longer.known.size = (uint32_t)offsetof(ernie_stream_options, policy);
    longer.known.policy = (ernie_stream_policy)9; /* not looked at */
    OK(ernie_model_open_source(&model, &disk.source, &options, &error));
    ernie_model_close(model);

    ernie_session_options session = ERNIE_SESSION_OPTIONS_INIT;
    options.stream = NULL;
    options.session = &session;
    session.size = 2;
    FAILS(ERNIE_INVALID, ernie_model_open_source(&model, &disk.source, &options, &error),
          "ernie_session_options");
}

/* ---- The process --------------------------------------------------------------------------- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

#ifndef SANITIZED

/* What the process has in memory, whoever the pages belong to; 0: the system does not tell. */
static uint64_t resident_bytes(void)
{
    char line[256];
    unsigned long long kb, sum = 0;
    FILE *file = fopen("/proc/self/status", "r");
    if (!file) return 0;
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "RssAnon: %llu kB", &kb) == 1 || sscanf(line, "RssFile: %llu kB", &kb) == 1
            || sscanf(line, "RssShmem: %llu kB", &kb) == 1)
            sum += kb;
    fclose(file);
    return 1024 * sum;
}

static int note_token(const ernie_token *token, void *user)
{
    uint64_t *most = user;
    const uint64_t now = resident_bytes();
    (void)token;
    if (now > *most) *most = now;
    return 0;
}

static int make_large(const char *path)
{
    const ern_synth_options options = { .shape = "demo", .type = "f16", .n_layers = 24,
                                        .n_threads = 2 };
    return ern_synth(path, &options, NULL) == ERNIE_OK ? 0 : 1;
}

/* A third of the model. */
static int measure(const char *path)
{
    const uint64_t ceiling = 100u << 20;
    ernie_model_options options = ERNIE_MODEL_OPTIONS_INIT;
    ernie_session_options session_options = ERNIE_SESSION_OPTIONS_INIT;
    ernie_sampling params = ERNIE_SAMPLING_INIT;
    ernie_model *model = NULL;
    ernie_session *session = NULL;
    ernie_error error = { ERNIE_OK, "" };
    const uint64_t before = resident_bytes();
    uint64_t most = before;
    if (!before) return 77;
    options.memory = ceiling;
    session_options.n_ctx = 512;
    session_options.n_threads = 2;
    params.greedy = params.ignore_eos = true;
    params.n_max = 40;
    if (ernie_model_open(&model, path, &options, &error) != ERNIE_OK
        || ernie_session_create(&session, model, &session_options, &error) != ERNIE_OK
        || ernie_session_feed(session, prompt, 200, &error) != ERNIE_OK
        || ernie_session_generate(session, &params, note_token, &most, NULL, &error) != ERNIE_OK) {
        printf("%s\n", error.message);
        return 1;
    }
    const uint32_t n_slots = stream_n_slots(session);
    ernie_session_free(session);
    ernie_model_close(model);
    printf("ceiling %.1f MB, %u experts: the process grew by %.1f MB\n", 1e-6 * (double)ceiling,
           n_slots, 1e-6 * (double)(most - before));
    return most - before > ceiling + (64u << 20);
}

/* In a process of its own, so that nothing given back earlier is there to be used again. */
static int in_a_child(int (*run)(const char *path), const char *path)
{
    int status = 0;
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        const int result = run(path);
        fflush(stdout);
        _exit(result);
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

#endif

static void the_process_keeps_to_the_ceiling(void **state)
{
    (void)state;
#ifdef SANITIZED
    skip();
#else
    char path[640];
    snprintf(path, sizeof path, "%s", test_path("large.ernie")); /* 300 MB */
    const int made = in_a_child(make_large, path);
    const int result = made == 0 ? in_a_child(measure, path) : -1;
    remove(path);
    assert_int_equal(made, 0);
    if (result == 77) skip();
    assert_int_equal(result, 0);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_peak_is_under_the_ceiling),
        cmocka_unit_test(sessions_give_everything_back),
        cmocka_unit_test(every_ceiling_works_or_names_one_that_does),
        cmocka_unit_test(the_least_is_exact),
        cmocka_unit_test(one_byte_less_is_refused),
        cmocka_unit_test(dense_models_have_a_ceiling_too),
        cmocka_unit_test(options_out_of_range),
        cmocka_unit_test(the_process_keeps_to_the_ceiling),
    };
    return cmocka_run_group_tests_name("stream_memory", tests, setup, teardown);
}
