/* The calibration file: what is written is read, and every lie is refused by name. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "checkpoint.h"
#include "imatrix_bytes.h"
#include "test_allocator.h"

static char dir[256], path[300];
static const test_model_spec moe_spec = { .moe = true, .untied = true }, dense_spec = { 0 };

static int setup(void **state)
{
    (void)state;
    if (checkpoint_make_dir(dir, "imatrix") != 0) return -1;
    snprintf(path, sizeof path, "%s/x.imatrix", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    checkpoint_clear(dir);
    return rmdir(dir);
}

typedef struct image {
    unsigned char *data;
    size_t n;
} image;

static image load(void)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    image i = { .n = (size_t)ftell(file) };
    rewind(file);
    i.data = malloc(i.n + 4096);
    assert_non_null(i.data);
    assert_int_equal(fread(i.data, 1, i.n, file), i.n);
    fclose(file);
    return i;
}

static void store(const image *i)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(i->data, 1, i->n, file), i->n);
    fclose(file);
}

static ern_hparams write_file(const test_model_spec *spec, bool common)
{
    const ern_hparams hp = test_hparams(spec);
    ernie_error error = { ERNIE_OK, "" };
    if (imatrix_write(path, &hp, common, ern_allocator_default(), &error) != ERNIE_OK)
        fail_msg("%s", error.message);
    return hp;
}

static conv_imatrix *open_file(void)
{
    conv_imatrix *im;
    ernie_error error = { ERNIE_OK, "" };
    if (conv_imatrix_open(&im, path, NULL, &error) != ERNIE_OK) fail_msg("%s", error.message);
    return im;
}

/* ---- What is written is read ----------------------------------------------------------------- */

static void check_entry(const conv_imatrix *im, size_t i, const conv_imatrix_entry *e, bool common,
                        size_t router)
{
    ernie_error error = { ERNIE_OK, "" };
    const conv_moments *m = conv_imatrix_find(im, e->kind, e->layer, e->expert, e->second);
    assert_non_null(m);
    assert_int_equal(m->n_cols, e->n_cols);
    assert_true(m->n == 10.0 + (double)i);
    assert_int_equal(m->moment, imatrix_choose(e, common));
    for (uint32_t c = 0; c < m->n_cols; c++) assert_true(m->square[c] == imatrix_square(i, c));

    float *out = malloc(m->n_cols * (size_t)m->n_cols * sizeof *out);
    if (conv_imatrix_read(im, m, out, &error) != ERNIE_OK) fail_msg("%s", error.message);
    const size_t source = m->moment == CONV_MOMENT_COMMON ? router : i;
    for (uint32_t r = 0; r < m->n_cols; r++)
        for (uint32_t c = 0; c < m->n_cols; c++) {
            const uint32_t a = r < c ? r : c, b = r < c ? c : r;
            const double scale = sqrt((double)m->square[a] / (double)imatrix_square(source, a)
                                      * (double)m->square[b] / (double)imatrix_square(source, b));
            const double expected = (double)imatrix_moment(source, a, b) * scale;
            assert_true(fabs((double)out[r * m->n_cols + c] - expected) < 1e-5 * expected);
            if (r == c) assert_true(out[r * m->n_cols + c] == m->square[r]);
        }
    free(out);
}

static void check_file(const test_model_spec *spec, bool common)
{
    const ern_hparams hp = write_file(spec, common);
    conv_imatrix *im = open_file();
    conv_entries at;
    conv_imatrix_entry e;
    size_t i = 0, router = 0;
    conv_entries_begin(&at, &hp);
    for (; conv_entries_next(&at, &e); i++) {
        if (e.kind == ERN_ROUTER) router = i;
        check_entry(im, i, &e, common, router);
    }
    assert_int_equal(i, conv_entries_count(&hp));
    assert_int_equal(conv_imatrix_check(im, &hp, NULL), ERNIE_OK);
    conv_imatrix_close(im);
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    check_file(&moe_spec, false);
    check_file(&moe_spec, true);
    check_file(&dense_spec, false);
}

static void what_has_no_input_is_not_found(void **state)
{
    (void)state;
    write_file(&moe_spec, false);
    conv_imatrix *im = open_file();
    static const struct {
        unsigned kind, layer, expert;
        bool second, found;
    } cases[] = {
        { ERN_QKV, 0, 0, false, true },
        { ERN_QKV, 2, 0, false, false },
        { ERN_QKV, ERN_NO_LAYER, 0, 0, false },
        { ERN_FFN_DOWN, 0, 0, false, true },
        { ERN_FFN_DOWN, 1, 0, false, false },
        { ERN_SHARED_GATE_UP, 0, 0, false, false },
        { ERN_SHARED_DOWN, 0, 0, false, false },
        { ERN_SHARED_DOWN, 1, 0, false, true },
        { ERN_ROUTER, 0, 0, false, false },
        { ERN_ROUTER, 1, 0, false, true },
        { ERN_EXPERT, 0, 0, false, false },
        { ERN_EXPERT, 1, 3, true, true },
        { ERN_EXPERT, 1, 4, false, false },
        { ERN_EXPERT, 1, UINT32_MAX, true, false },
        { ERN_FFN_NORM, 0, 0, false, false },
        { ERN_MTP_PROJ, 2, 0, false, false },
        { ERN_HEAD, ERN_NO_LAYER, 0, 0, true },
        { ERN_EMBED, ERN_NO_LAYER, 0, 0, false },
        { 999, 0, 0, false, false },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        const conv_moments *m =
            conv_imatrix_find(im, cases[i].kind, cases[i].layer, cases[i].expert, cases[i].second);
        if ((m != NULL) != cases[i].found) fail_msg("case %zu", i);
    }
    conv_imatrix_close(im);

    /* A tied embedding is the head. */
    write_file(&dense_spec, false);
    im = open_file();
    assert_non_null(conv_imatrix_find(im, ERN_EMBED, ERN_NO_LAYER, 0, false));
    assert_ptr_equal(conv_imatrix_find(im, ERN_EMBED, ERN_NO_LAYER, 0, false),
                     conv_imatrix_find(im, ERN_HEAD, ERN_NO_LAYER, 0, false));
    conv_imatrix_close(im);
}

static void another_model_is_refused(void **state)
{
    (void)state;
    ern_hparams hp = write_file(&moe_spec, false);
    conv_imatrix *im = open_file();
    ernie_error error = { ERNIE_OK, "" };
    hp.moe_intermediate_size = 64;
    assert_int_equal(conv_imatrix_check(im, &hp, &error), ERNIE_INVALID);
    assert_non_null(strstr(error.message, "moe_intermediate_size is 48, here it is 64"));
    hp.moe_intermediate_size = 48;
    hp.n_mtp_layers = 1; /* not run, not of interest */
    assert_int_equal(conv_imatrix_check(im, &hp, &error), ERNIE_OK);
    conv_imatrix_close(im);
}

/* ---- Lies ------------------------------------------------------------------------------------ */

static void refused(ernie_status expected, const char *says)
{
    conv_imatrix *im = (conv_imatrix *)dir;
    ernie_error error = { ERNIE_OK, "" };
    const ernie_status status = conv_imatrix_open(&im, path, NULL, &error);
    assert_null(im);
    if (status != expected || !strstr(error.message, says))
        fail_msg("status %d: \"%s\", expected %d and \"%s\"", (int)status, error.message,
                 (int)expected, says);
    assert_non_null(strstr(error.message, "x.imatrix"));
}

#define HEAD(field)     offsetof(conv_imatrix_head, field)
#define NUMBER(field)   (offsetof(conv_imatrix_head, hparams) + offsetof(ern_hparams, field))
#define ENTRY(i, field) (512 + 32 * (i) + offsetof(conv_imatrix_entry, field))

static void lies_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        size_t at;
        uint64_t value;
        unsigned n_bytes;
        bool sealed;
        ernie_status status;
        const char *says;
    } cases[] = {
        { 0, 'X', 1, true, ERNIE_FORMAT, "is not a calibration file" },
        { HEAD(version_min), 2, 4, false, ERNIE_UNSUPPORTED, "version 2, this one knows 1" },
        { HEAD(version_min), 0, 4, true, ERNIE_FORMAT, "that cannot be" },
        { HEAD(version), 0, 4, true, ERNIE_FORMAT, "that cannot be" },
        { HEAD(n_tokens), 77, 8, false, ERNIE_CORRUPT, "the head's checksum" },
        { HEAD(file_bytes), 1024, 8, true, ERNIE_FORMAT, "its head says 1024" },
        { HEAD(n_entries), 3, 4, true, ERNIE_FORMAT, "has 3 entries, its architecture calls for" },
        { HEAD(n_entries), 0xffffffff, 4, true, ERNIE_FORMAT, "its architecture calls for" },
        { HEAD(reserved1), 1, 4, true, ERNIE_FORMAT, "reserved" },
        { HEAD(reserved2) + 239, 1, 1, true, ERNIE_FORMAT, "reserved" },
        { HEAD(prior), 0x7ff8000000000000, 8, true, ERNIE_FORMAT, "a prior of" },
        { HEAD(prior), 0xbff0000000000000, 8, true, ERNIE_FORMAT, "a prior of -1" },
        { HEAD(name) + 63, 'x', 1, true, ERNIE_FORMAT, "name has no end" },
        { NUMBER(n_layers), 0, 4, true, ERNIE_FORMAT, "layers" },
        { NUMBER(n_layers), 1024, 4, true, ERNIE_FORMAT, "its architecture calls for" },
        { NUMBER(n_experts), 4097, 4, true, ERNIE_FORMAT, "experts" },
        { NUMBER(hidden_size), 128, 4, true, ERNIE_FORMAT, "layers.0.qkv: 64 columns" },
        { ENTRY(0, kind), 5, 2, true, ERNIE_FORMAT, "entry 0 is of kind 5, layer 0, expected" },
        { ENTRY(1, layer), 1, 2, true, ERNIE_FORMAT, "entry 1 is of kind 5, layer 1, expected" },
        { ENTRY(9, expert), 1, 2, true, ERNIE_FORMAT, "entry 9 " },
        { ENTRY(9, second), 1, 1, true, ERNIE_FORMAT, "entry 9 " },
        { ENTRY(2, n_cols), 65, 4, true, ERNIE_FORMAT, "layers.0.ffn_gate_up: 65 columns" },
        { ENTRY(0, moment), 2, 1, true, ERNIE_FORMAT, "moments of kind 2" },
        { ENTRY(0, moment), 3, 1, true, ERNIE_FORMAT, "moments of kind 3" },
        { ENTRY(0, moment), 0, 1, true, ERNIE_FORMAT, "reserved" },
        { ENTRY(7, moment), 1, 1, true, ERNIE_FORMAT, "layers.1.shared_gate_up: moments of" },
        { ENTRY(0, reserved), 1, 4, true, ERNIE_FORMAT, "reserved" },
        { ENTRY(0, n), 0x7ff0000000000000, 8, true, ERNIE_FORMAT, "inf samples" },
        { ENTRY(0, n), 0xbff0000000000000, 8, true, ERNIE_FORMAT, "-1 samples" },
        { ENTRY(0, n), 1, 1, false, ERNIE_CORRUPT, "checksum of the index" },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        write_file(&moe_spec, true);
        image file = load();
        memcpy(file.data + cases[i].at, &cases[i].value, cases[i].n_bytes);
        if (cases[i].sealed) imatrix_seal(file.data, file.n, false);
        store(&file);
        free(file.data);
        refused(cases[i].status, cases[i].says);
    }
}

/* A layer may not share what it does not have: the router's own matrix is taken away. */
static void missing_common_moments_are_refused(void **state)
{
    (void)state;
    write_file(&moe_spec, true);
    image file = load();
    conv_imatrix_entry router;
    memcpy(&router, file.data + 512 + 32 * 6, sizeof router);
    assert_int_equal(router.kind, ERN_ROUTER);
    router.moment = CONV_MOMENT_NONE;
    router.checksum = 0;
    memcpy(file.data + 512 + 32 * 6, &router, sizeof router);
    imatrix_seal(file.data, file.n, false);
    store(&file);
    free(file.data);
    refused(ERNIE_FORMAT, "layer 1 shares moments that it does not have");
}

static void squares_that_cannot_be_are_refused(void **state)
{
    (void)state;
    static const float values[] = { 0.0f, -1.0f, INFINITY, NAN };
    for (size_t i = 0; i < ERN_COUNT(values); i++) {
        const ern_hparams hp = write_file(&dense_spec, false);
        const size_t at = 512 + (size_t)conv_index_bytes(conv_entries_count(&hp)) + 4 * 70;
        image file = load();
        memcpy(file.data + at, &values[i], sizeof values[i]);
        store(&file);
        refused(ERNIE_CORRUPT, "checksum of the squares");
        imatrix_seal(file.data, file.n, false);
        store(&file);
        free(file.data);
        refused(ERNIE_FORMAT, "layers.0.attn_out: the mean square of column 6 is");
    }
}

static void cut_files_are_refused(void **state)
{
    (void)state;
    write_file(&dense_spec, false);
    image file = load();
    const size_t whole = file.n;
    static const size_t keep[] = { 0, 7, 511, 512, 600, 4096 };
    for (size_t i = 0; i < ERN_COUNT(keep); i++) {
        file.n = keep[i];
        store(&file);
        refused(ERNIE_FORMAT, "bytes");
    }
    file.n = whole - 1;
    store(&file);
    refused(ERNIE_FORMAT, "its head says");
    /* The head may agree with the length, the entries then do not. */
    for (int more = -1; more <= 1; more += 2) {
        file.n = whole + (size_t)(64 * more);
        const uint64_t n = file.n;
        memset(file.data + whole, 0, 64);
        memcpy(file.data + HEAD(file_bytes), &n, sizeof n);
        imatrix_seal(file.data, file.n, false);
        store(&file);
        refused(ERNIE_FORMAT, "its entries call for");
    }
    free(file.data);
    unlink(path);
    refused(ERNIE_IO, "cannot be opened");
    assert_int_equal(mkdir(path, 0777), 0);
    refused(ERNIE_IO, "is a directory");
    rmdir(path);
}

static void damaged_matrices_are_named(void **state)
{
    (void)state;
    static const struct {
        float value;
        bool sealed;
        ernie_status status;
        const char *says;
    } cases[] = {
        { 2.0f, false, ERNIE_CORRUPT, "layers.0.qkv: the checksum of its moments at byte" },
        { NAN, true, ERNIE_FORMAT, "layers.0.qkv: a moment of columns 0 to 31 is no finite" },
        { INFINITY, true, ERNIE_FORMAT, "layers.0.qkv: a moment of columns 0 to 31" },
        { -1.0f, true, ERNIE_FORMAT, "layers.0.qkv: the second moment of column 1 is -1" },
        { 0.0f, true, ERNIE_FORMAT, "layers.0.qkv: the second moment of column 1 is 0" },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        const ern_hparams hp = write_file(&dense_spec, false);
        uint64_t n_squares = 0;
        conv_entries at;
        conv_imatrix_entry e;
        for (conv_entries_begin(&at, &hp); conv_entries_next(&at, &e);) n_squares += e.n_cols;
        size_t to = 512 + (size_t)conv_index_bytes(conv_entries_count(&hp))
                    + (size_t)conv_squares_bytes(n_squares);
        if (i >= 3)
            to += 4 * 64; /* (1, 1); else (0, 1) */
        else
            to += 4;
        image file = load();
        memcpy(file.data + to, &cases[i].value, sizeof cases[i].value);
        if (cases[i].sealed) imatrix_seal(file.data, file.n, true);
        store(&file);
        free(file.data);
        conv_imatrix *im = open_file();
        float *out = malloc(64 * 64 * sizeof *out);
        ernie_error error = { ERNIE_OK, "" };
        const conv_moments *m = conv_imatrix_find(im, ERN_QKV, 0, 0, false);
        assert_int_equal(conv_imatrix_read(im, m, out, &error), cases[i].status);
        if (!strstr(error.message, cases[i].says)) fail_msg("case %zu: %s", i, error.message);
        /* The others are whole. */
        m = conv_imatrix_find(im, ERN_ATTN_OUT, 1, 0, false);
        assert_int_equal(conv_imatrix_read(im, m, out, &error), ERNIE_OK);
        free(out);
        conv_imatrix_close(im);
    }
}

static void squares_alone_have_no_moments(void **state)
{
    (void)state;
    const ern_hparams hp = test_hparams(&dense_spec);
    conv_imatrix_out out;
    ernie_error error = { ERNIE_OK, "" };
    assert_int_equal(conv_imatrix_out_begin(&out, &hp, ern_allocator_default(), &error), ERNIE_OK);
    assert_int_equal(conv_imatrix_out_open(&out, path, &error), ERNIE_OK);
    assert_int_equal(imatrix_put_all(&out, &error), ERNIE_OK);
    assert_int_equal(conv_imatrix_out_commit(&out, &error), ERNIE_OK);
    conv_imatrix_out_close(&out);
    conv_imatrix *im = open_file();
    float one;
    assert_int_equal(
        conv_imatrix_read(im, conv_imatrix_find(im, ERN_QKV, 0, 0, false), &one, &error),
        ERNIE_INVALID);
    assert_non_null(strstr(error.message, "no second moments"));
    conv_imatrix_close(im);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static void failing_memory_leaves_nothing(void **state)
{
    (void)state;
    test_allocator counter;
    ernie_allocator allocator;
    const ern_hparams hp = write_file(&moe_spec, true);
    test_allocator_begin(&counter, &allocator);
    for (long n = 0;; n++) {
        conv_imatrix *im;
        ernie_error error = { ERNIE_OK, "" };
        test_allocator_fail_at(&counter, n, true);
        const ernie_status status = conv_imatrix_open(&im, path, &allocator, &error);
        conv_imatrix_close(im);
        assert_int_equal(atomic_load(&counter.live), 0);
        if (status == ERNIE_OK) break;
        assert_int_equal(status, ERNIE_NO_MEMORY);
    }
    checkpoint_clear(dir);
    for (long n = 0;; n++) {
        ernie_error error = { ERNIE_OK, "" };
        test_allocator_fail_at(&counter, n, true);
        const ernie_status status = imatrix_write(path, &hp, true, &allocator, &error);
        assert_int_equal(atomic_load(&counter.live), 0);
        if (status == ERNIE_OK) break;
        assert_int_equal(status, ERNIE_NO_MEMORY);
        assert_int_equal(access(path, F_OK), -1);
    }
    assert_int_equal(atomic_load(&counter.n_wrong_sizes), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(what_has_no_input_is_not_found),
        cmocka_unit_test(another_model_is_refused),
        cmocka_unit_test(lies_are_refused_by_name),
        cmocka_unit_test(missing_common_moments_are_refused),
        cmocka_unit_test(squares_that_cannot_be_are_refused),
        cmocka_unit_test(cut_files_are_refused),
        cmocka_unit_test(damaged_matrices_are_named),
        cmocka_unit_test(squares_alone_have_no_moments),
        cmocka_unit_test(failing_memory_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
