/* Opening models: from a path, from memory, through the application's own reader; every refusal by
 * name; nothing held afterwards. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/stat.h>

#include "test_session.h"

#define N_IDS 7

static const int32_t ids[N_IDS] = { 5, 70, 3, 3, 299, 41, 260 };

/* ---- The application's own reader ---------------------------------------------------------- */

typedef struct reader {
    const unsigned char *data;
    uint64_t n_bytes;
    uint64_t expected;     /* where the next read should begin, after one of the header */
    long n_reads, fail_at; /* fail_at: the read that fails, -1 for none */
    ernie_cancel *cancel;  /* set by each read */
} reader;

static int read_bytes(void *user, uint64_t offset, void *buffer, size_t n)
{
    reader *r = user;
    if (r->n_reads == 1 && offset == 0) r->expected = 0;
    if (offset != r->expected || n == 0 || n > r->n_bytes || offset > r->n_bytes - n) return 1;
    if (r->n_reads++ == r->fail_at) {
        memset(buffer, 0xee, n / 2);
        return 1;
    }
    memcpy(buffer, r->data + offset, n);
    r->expected = offset + n;
    ernie_cancel_request(r->cancel);
    return 0;
}

static ernie_status open_reader(ernie_model **model, reader *r, const ernie_model_options *options,
                                ernie_error *error)
{
    const ernie_source source = { read_bytes, r->n_bytes, r };
    return ernie_model_open_source(model, &source, options, error);
}

/* ---- Every way in -------------------------------------------------------------------------- */

static void logits_of(const ernie_model *model, float *logits, uint32_t vocab)
{
    ernie_session *session = test_session(model, 16);
    OK(ernie_session_feed(session, ids, N_IDS, &error));
    memcpy(logits, ernie_session_logits(session), vocab * sizeof *logits);
    ernie_session_free(session);
}

/* Open in one of four ways, compute, close; all of the allocator's bytes must come back. */
static void open_and_compute(const test_world *w, int way, const char *path, float *logits)
{
    test_allocator counter;
    ernie_allocator allocator;
    ernie_model *model = NULL;
    reader r = { .data = w->image, .n_bytes = w->n_bytes, .fail_at = -1 };
    ernie_model_options options = ERNIE_MODEL_OPTIONS_INIT;
    test_allocator_begin(&counter, &allocator);
    options.allocator = &allocator;
    options.no_mmap = way == 1;
    if (way < 2) OK(ernie_model_open(&model, path, &options, &error));
    if (way == 2) OK(ernie_model_open_memory(&model, w->image, w->n_bytes, &options, &error));
    if (way == 3) OK(open_reader(&model, &r, &options, &error));
    const bool copied = way == 1 || way == 3;
    assert_int_equal(atomic_load(&counter.live) >= (long long)w->n_bytes, copied);
    logits_of(model, logits, w->vocab);
    ernie_model_close(model);
    assert_int_equal(atomic_load(&counter.live), 0);
    assert_int_equal(atomic_load(&counter.n_wrong_sizes), 0);
}

static void every_way_in_gives_the_same_logits(void **state)
{
    (void)state;
    float expected[320], logits[320];
    test_world w;
    test_world_open(&w, &test_moe_spec);
    unsigned char *copy = malloc(w.n_bytes);
    memcpy(copy, w.image, w.n_bytes);
    logits_of(w.model, expected, w.vocab);
    const char *path = test_path("model.ernie");
    test_write_file(path, w.image, w.n_bytes);
    for (int way = 0; way < 4; way++) {
        memset(logits, 0, sizeof logits);
        open_and_compute(&w, way, path, logits);
        assert_memory_equal(logits, expected, sizeof logits);
    }
    assert_memory_equal(copy, w.image, w.n_bytes);
    logits_of(w.model, logits, w.vocab); /* the memory of a closed model is still the caller's */
    assert_memory_equal(logits, expected, sizeof logits);
    free(copy);
    unlink(path);
    test_world_close(&w);
}

/* How many mappings of this process belong to a file of this name; -1 where nobody says. */
static int n_mappings(const char *path)
{
    char line[1024];
    int n = 0;
    FILE *maps = fopen("/proc/self/maps", "r");
    if (!maps) return -1;
    while (fgets(line, sizeof line, maps)) n += strstr(line, path) != NULL;
    fclose(maps);
    return n;
}

static void mapped_file_is_unmapped(void **state)
{
    (void)state;
    size_t n;
    unsigned char *image = test_model_build(&test_dense_spec, &n);
    const char *path = test_path("mapped.ernie");
    test_write_file(path, image, n);
    if (n_mappings(path) < 0) skip();
    for (int damaged = 0; damaged < 2; damaged++) {
        ernie_model *model = NULL;
        if (!damaged) {
            OK(ernie_model_open(&model, path, NULL, &error));
            assert_int_equal(n_mappings(path), 1);
        } else {
            truncate(path, (off_t)n / 2);
            assert_int_not_equal(ernie_model_open(&model, path, NULL, NULL), ERNIE_OK);
            assert_null(model);
        }
        ernie_model_close(model);
        assert_int_equal(n_mappings(path), 0);
    }
    unlink(path);
    test_model_free(image);
}

/* ---- Refusals ------------------------------------------------------------------------------ */

static void bad_paths_are_named(void **state)
{
    (void)state;
    ernie_model *model = (ernie_model *)(void *)&model;
    for (int no_mmap = 0; no_mmap < 2; no_mmap++) {
        ernie_model_options options = ERNIE_MODEL_OPTIONS_INIT;
        options.no_mmap = no_mmap;
        FAILS(ERNIE_IO, ernie_model_open(&model, "/no/such/model.ernie", &options, &error),
              "/no/such/model.ernie", "No such file");
        assert_null(model);
        FAILS(ERNIE_IO, ernie_model_open(&model, test_folder, &options, &error), "ernie-test-",
              "is a directory");
        const char *path = test_path("bad.ernie");
        test_write_file(path, "", 0);
        FAILS(ERNIE_FORMAT, ernie_model_open(&model, path, &options, &error), "0 bytes");
        test_write_file(path, "{ \"not\": \"a model\" }", 20);
        FAILS(ERNIE_FORMAT, ernie_model_open(&model, path, &options, &error), "20");
        unlink(path);
    }
}

/* Every length from nothing to all but the last byte, in steps that reach each section. */
static void every_truncation_is_refused(void **state)
{
    (void)state;
    size_t n;
    unsigned char *image = test_model_build(&test_moe_spec, &n);
    const char *path = test_path("short.ernie");
    test_write_file(path, image, n);
    for (size_t length = n; length-- > 0; length -= length > 9000 ? length % 4999 : length % 61) {
        ernie_error error = { ERNIE_OK, "" };
        ernie_model *model = NULL;
        assert_int_equal(truncate(path, (off_t)length), 0);
        const ernie_status status = ernie_model_open(&model, path, NULL, &error);
        if (status != ERNIE_FORMAT) fail_msg("%zu bytes: %d %s", length, status, error.message);
        assert_null(model);
        reader r = { .data = image, .n_bytes = length, .fail_at = -1 };
        assert_int_equal(open_reader(&model, &r, NULL, &error), ERNIE_FORMAT);
        assert_null(model);
    }
    unlink(path);
    test_model_free(image);
}

static void newer_version_is_refused(void **state)
{
    (void)state;
    size_t n;
    ernie_model *model = NULL;
    unsigned char *image = test_model_build(&test_dense_spec, &n);
    ern_header h;
    memcpy(&h, image, sizeof h);
    h.version = h.version_min = 8;
    memcpy(image, &h, sizeof h);
    test_model_seal(image, n, true);
    FAILS(ERNIE_UNSUPPORTED, ernie_model_open_memory(&model, image, n, NULL, &error), "version 8",
          "up to 2");
    assert_null(model);
    test_model_free(image);
}

/* No byte of the file can change unnoticed when it is verified while opening; a model that opens
 * without looking at its weights says so when asked. */
static void every_flipped_byte_is_found(void **state)
{
    (void)state;
    size_t n, n_open = 0, n_flipped = 0;
    unsigned char *image = test_model_build(&test_moe_spec, &n);
    ernie_model_options verify = ERNIE_MODEL_OPTIONS_INIT;
    verify.verify = true;
    for (size_t i = 0; i < n; i += i < 8192 ? 23 : 1009, n_flipped++) {
        ernie_error why = { ERNIE_OK, "" };
        ernie_model *model = NULL;
        image[i] ^= (unsigned char)(1u << i % 8);
        const ernie_status status = ernie_model_open_memory(&model, image, n, &verify, &why);
        if (status != ERNIE_CORRUPT && status != ERNIE_FORMAT && status != ERNIE_UNSUPPORTED)
            fail_msg("byte %zu: %d %s", i, status, why.message);
        assert_null(model);
        if (ernie_model_open_memory(&model, image, n, NULL, NULL) == ERNIE_OK) {
            FAILS(ERNIE_CORRUPT, ernie_model_verify(model, NULL, NULL, NULL, &error), "");
            ernie_model_close(model);
            n_open++;
        }
        image[i] ^= (unsigned char)(1u << i % 8);
    }
    assert_true(n_open > 20 && n_open < n_flipped - 20); /* both kinds were met */
    test_model_free(image);
}

static void damaged_record_is_named(void **state)
{
    (void)state;
    test_world w;
    test_world_open(&w, &test_moe_spec);
    ernie_record_info info = { .size = sizeof info };
    char at[32];
    for (size_t i = 0; i < ernie_model_record_count(w.model); i += 5) {
        ernie_error why = { ERNIE_OK, "" };
        assert_int_equal(ernie_model_record(w.model, i, &info), ERNIE_OK);
        w.image[info.offset + info.n_bytes / 2] ^= 4;
        assert_int_equal(ernie_model_verify(w.model, NULL, NULL, NULL, &why), ERNIE_CORRUPT);
        w.image[info.offset + info.n_bytes / 2] ^= 4;
        snprintf(at, sizeof at, "%llu", (unsigned long long)info.offset);
        assert_non_null(strstr(why.message, info.name));
        assert_non_null(strstr(why.message, at));
        OK(ernie_model_verify(w.model, NULL, NULL, NULL, &error));
    }
    test_world_close(&w);
}

static void broken_source_is_named(void **state)
{
    (void)state;
    enum { BIG = 9 << 20 }; /* three reads, and one of the header */
    unsigned char *zeros = calloc(1, BIG);
    ernie_model *model = NULL;
    reader r = { .data = zeros, .n_bytes = BIG, .fail_at = 3 };
    FAILS(ERNIE_IO, open_reader(&model, &r, NULL, &error), "8388608", "1048576", "9437184");
    assert_int_equal(r.n_reads, 4);
    assert_null(model);
    r = (reader){ .data = zeros, .n_bytes = BIG, .fail_at = 0 };
    FAILS(ERNIE_IO, open_reader(&model, &r, NULL, &error), "4096 bytes at offset 0");
    r = (reader){ .data = zeros, .n_bytes = BIG, .fail_at = -1 };
    FAILS(ERNIE_FORMAT, open_reader(&model, &r, NULL, &error), "");
    assert_int_equal(r.expected, BIG);
    r = (reader){ .data = zeros, .n_bytes = 0, .fail_at = -1 };
    FAILS(ERNIE_FORMAT, open_reader(&model, &r, NULL, &error), "0 bytes");
    assert_int_equal(r.n_reads, 0);
    r = (reader){ .data = zeros, .n_bytes = BIG, .fail_at = -1 };
    const ernie_source huge = { read_bytes, UINT64_MAX / 4, &r };
    FAILS(ERNIE_NO_MEMORY, ernie_model_open_source(&model, &huge, NULL, &error),
          "4611686018427387903");
    assert_null(model);
    free(zeros);
}

static void missing_arguments_are_refused(void **state)
{
    (void)state;
    test_world w;
    ernie_model *model = (ernie_model *)(void *)&w;
    const ernie_source no_read = { NULL, 100, NULL };
    const ernie_allocator no_resize = { NULL, NULL };
    test_world_open(&w, &test_dense_spec);
    FAILS(ERNIE_INVALID, ernie_model_open(NULL, "x", NULL, &error), "\"out\"");
    FAILS(ERNIE_INVALID, ernie_model_open(&model, NULL, NULL, &error), "\"path\"");
    assert_null(model);
    FAILS(ERNIE_INVALID, ernie_model_open_memory(NULL, w.image, 1, NULL, &error), "\"out\"");
    FAILS(ERNIE_INVALID, ernie_model_open_memory(&model, NULL, 1, NULL, &error), "\"data\"");
    FAILS(ERNIE_INVALID, ernie_model_open_memory(&model, w.image + 8, 1, NULL, &error), " 8 bytes",
          "64");
    FAILS(ERNIE_FORMAT, ernie_model_open_memory(&model, w.image, 0, NULL, &error), "0 bytes");
    FAILS(ERNIE_INVALID, ernie_model_open_source(NULL, &no_read, NULL, &error), "\"out\"");
    FAILS(ERNIE_INVALID, ernie_model_open_source(&model, NULL, NULL, &error), "\"source\"");
    FAILS(ERNIE_INVALID, ernie_model_open_source(&model, &no_read, NULL, &error), "source->read");
    FAILS(ERNIE_INVALID, ernie_model_verify(NULL, NULL, NULL, NULL, &error), "\"model\"");
    ernie_model_options options = ERNIE_MODEL_OPTIONS_INIT;
    options.allocator = &no_resize;
    FAILS(ERNIE_INVALID, ernie_model_open_memory(&model, w.image, w.n_bytes, &options, &error),
          "resize");
    assert_int_equal(ernie_model_open(&model, NULL, NULL, NULL), ERNIE_INVALID);
    assert_int_equal(ernie_model_get_info(NULL, NULL), ERNIE_INVALID);
    assert_int_equal(ernie_model_record_count(NULL), 0);
    assert_int_equal(ernie_model_record(NULL, 0, NULL), ERNIE_INVALID);
    assert_int_equal(ernie_model_record(w.model, 0, NULL), ERNIE_INVALID);
    ernie_model_close(NULL);
    test_world_close(&w);
}

/* ---- Progress and cancelling --------------------------------------------------------------- */

typedef struct progress {
    const char *what;
    uint64_t last, total;
    long n_calls, stop_at; /* stop_at: the call that cancels, -1 for none */
    ernie_cancel *cancel;  /* set by that call instead of returning non-zero */
} progress;

static int on_progress(const char *what, uint64_t done, uint64_t total, void *user)
{
    progress *p = user;
    assert_string_equal(what, p->what);
    assert_true(done >= p->last && done <= total && (p->total == 0 || total == p->total));
    p->last = done;
    p->total = total;
    if (p->n_calls++ != p->stop_at) return 0;
    ernie_cancel_request(p->cancel);
    return p->cancel == NULL;
}

static void opening_can_be_cancelled(void **state)
{
    (void)state;
    test_world w;
    ernie_model *model = NULL;
    ernie_cancel cancel = { 0 };
    ernie_model_options options = ERNIE_MODEL_OPTIONS_INIT;
    test_world_open(&w, &test_moe_spec);
    options.cancel = &cancel;
    ernie_cancel_request(&cancel); /* before */
    FAILS(ERNIE_CANCELLED, ernie_model_open_memory(&model, w.image, w.n_bytes, &options, &error),
          "");
    assert_null(model);
    ernie_cancel_clear(&cancel);
    reader r = { .data = w.image, .n_bytes = w.n_bytes, .fail_at = -1, .cancel = &cancel };
    FAILS(ERNIE_CANCELLED, open_reader(&model, &r, &options, &error), "cancelled");
    ernie_cancel_clear(&cancel);
    options.progress = on_progress;
    for (int by_flag = 0; by_flag < 2; by_flag++) {
        progress p = { .what = "reading", .stop_at = 0, .cancel = by_flag ? &cancel : NULL };
        options.progress_user = &p;
        r = (reader){ .data = w.image, .n_bytes = w.n_bytes, .fail_at = -1 };
        FAILS(ERNIE_CANCELLED, open_reader(&model, &r, &options, &error), "cancelled");
        assert_null(model);
        ernie_cancel_clear(&cancel);
        p = (progress){ .what = "verifying", .stop_at = 3, .cancel = by_flag ? &cancel : NULL };
        options.verify = true;
        FAILS(ERNIE_CANCELLED,
              ernie_model_open_memory(&model, w.image, w.n_bytes, &options, &error), "cancelled");
        assert_int_equal(p.n_calls, 4);
        assert_null(model);
        ernie_cancel_clear(&cancel);
        options.verify = false;
    }
    ernie_cancel_request(NULL);
    ernie_cancel_clear(NULL);
    test_world_close(&w);
}

static void verifying_can_be_cancelled(void **state)
{
    (void)state;
    test_world w;
    ernie_cancel cancel = { 0 };
    test_world_open(&w, &test_moe_spec);
    for (int by_flag = 0; by_flag < 2; by_flag++) {
        progress p = { .what = "verifying", .stop_at = 2, .cancel = by_flag ? &cancel : NULL };
        FAILS(ERNIE_CANCELLED, ernie_model_verify(w.model, on_progress, &p, &cancel, &error),
              "cancelled");
        assert_int_equal(p.n_calls, 3);
        ernie_cancel_clear(&cancel);
        p = (progress){ .what = "verifying", .stop_at = -1 };
        OK(ernie_model_verify(w.model, on_progress, &p, &cancel, &error)); /* still usable */
        assert_int_equal(p.last, w.n_bytes);
        assert_int_equal(p.total, w.n_bytes);
    }
    test_world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_way_in_gives_the_same_logits),
        cmocka_unit_test(mapped_file_is_unmapped),
        cmocka_unit_test(bad_paths_are_named),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(newer_version_is_refused),
        cmocka_unit_test(every_flipped_byte_is_found),
        cmocka_unit_test(damaged_record_is_named),
        cmocka_unit_test(broken_source_is_named),
        cmocka_unit_test(missing_arguments_are_refused),
        cmocka_unit_test(opening_can_be_cancelled),
        cmocka_unit_test(verifying_can_be_cancelled),
        cmocka_unit_test(test_folder_is_empty),
    };
    return cmocka_run_group_tests_name("model", tests, test_folder_begin, NULL);
}
