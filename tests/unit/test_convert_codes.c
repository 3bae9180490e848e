/* Conversions to few bits, with and without a calibration file: every type and preset makes a whole
 * file that answers much as the original does, the same for any number of threads, and statistics
 * reach the weights that they were collected for. Argument: the folder of tests/data/micro-moe. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "convert_run.h"
#include "../../tools/convert/calibrate.h"
#include "../../tools/convert/imatrix_file.h"

static const char *micro;
static char statistics[3][320], other[320], base_file[320];

enum { OWN, COMMON, SQUARES, NONE, N_KNOWN };

static const char *imatrix_of(int known)
{
    return known == NONE ? NULL : statistics[known];
}

static const char *const names[] = { "w4", "c4", "c3", "c2", "tiny", "small", "medium", "large" };

/* ---- Setup ----------------------------------------------------------------------------------- */

enum { N_DOCUMENTS = 4, N_TOKENS = 60 };

static void random_ids(int32_t *ids, size_t n, uint64_t seed, uint32_t vocab)
{
    for (size_t i = 0; i < n; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (int32_t)((seed >> 33) % vocab);
    }
}

static void convert_to(const char *source, const char *path, const ern_convert_options *options)
{
    ernie_error error = { ERNIE_OK, "" };
    if (ern_convert(source, path, options, &error) != ERNIE_OK) fail_msg("%s", error.message);
}

/* What ernie calibrate collects from a file in bf16. */
static void calibrate(const char *file, const char *path, int known)
{
    int32_t ids[N_DOCUMENTS * N_TOKENS];
    uint32_t n_ids[N_DOCUMENTS];
    ernie_error error = { ERNIE_OK, "" };
    ernie_model *opened = NULL;
    if (ernie_model_open(&opened, file, NULL, &error) != ERNIE_OK) fail_msg("%s", error.message);
    random_ids(ids, ERN_COUNT(ids), 5, 300);
    for (unsigned i = 0; i < N_DOCUMENTS; i++) n_ids[i] = N_TOKENS;
    const ern_documents documents = { ids, n_ids, N_DOCUMENTS };
    const ern_calibrate_options options = { .common = known == COMMON,
                                            .diagonal = known == SQUARES,
                                            .n_threads = 1 };
    if (ern_calibrate(opened, &documents, path, &options, NULL, &error) != ERNIE_OK)
        fail_msg("%s", error.message);
    ernie_model_close(opened);
}

/* The micro model in bf16 and its statistics beside the checkpoint of convert_run.h, whose sizes
 * are odd. */
static int setup(void **state)
{
    static const char *const kinds[] = { "own", "common", "squares" };
    const ern_convert_options options = { .type = "bf16", .n_threads = 1 };
    if (run_setup(state) != 0) return -1;
    good_model();
    snprintf(base_file, sizeof base_file, "%s/base", top);
    snprintf(other, sizeof other, "%s/other.imatrix", top);
    convert_to(in_dir, base_file, &options);
    calibrate(base_file, other, OWN);
    convert_to(micro, base_file, &options);
    for (int known = OWN; known <= SQUARES; known++) {
        snprintf(statistics[known], sizeof statistics[known], "%s/%s.imatrix", top, kinds[known]);
        calibrate(base_file, statistics[known], known);
    }
    return 0;
}

/* ---- Whole files, answers -------------------------------------------------------------------- */

/* The logits after each of some tokens. */
static float *logits_of(const char *path, size_t *n)
{
    enum { N = 40 };
    int32_t ids[N];
    ernie_error error = { ERNIE_OK, "" };
    ernie_model *opened = NULL;
    ernie_session *session = NULL;
    ernie_model_info info;
    ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
    options.n_ctx = N;
    options.n_threads = 1;
    memset(&info, 0, sizeof info);
    info.size = sizeof info;
    if (ernie_model_open(&opened, path, NULL, &error) != ERNIE_OK
        || ernie_session_create(&session, opened, &options, &error) != ERNIE_OK)
        fail_msg("%s", error.message);
    assert_int_equal(ernie_model_get_info(opened, &info), ERNIE_OK);
    float *logits = malloc(N * (size_t)info.vocab_size * sizeof *logits);
    assert_non_null(logits);
    random_ids(ids, N, 99, info.vocab_size);
    if (ernie_session_feed_logits(session, ids, N, logits, &error) != ERNIE_OK)
        fail_msg("%s", error.message);
    ernie_session_free(session);
    ernie_model_close(opened);
    *n = N * (size_t)info.vocab_size;
    return logits;
}

/* Decibels of the original's logits over what was changed. */
static double logits_sqnr(const float *wanted, const char *path)
{
    size_t n;
    double signal = 0, noise = 0;
    float *got = logits_of(path, &n);
    for (size_t i = 0; i < n; i++) {
        const double d = (double)got[i] - (double)wanted[i];
        assert_true(isfinite(got[i]));
        signal += (double)wanted[i] * (double)wanted[i];
        noise += d * d;
    }
    free(got);
    return 10 * log10(signal / noise);
}

/* The version that the file asks of readers is that of its newest type. */
static void check_file(const char *path)
{
    const file_bytes bytes = read_file(path);
    const ern_format format = read_format(&bytes);
    uint32_t version = 1;
    for (uint32_t i = 0; i < format.header->n_records; i++) {
        const ern_record *r = &format.records[i];
        if (ern_type_version(r->type) > version) version = ern_type_version(r->type);
        if (ern_type_version(r->type2) > version) version = ern_type_version(r->type2);
    }
    assert_int_equal(format.header->version_min, version);
    free(bytes.data);
}

static void every_type_answers(void **state)
{
    (void)state;
    size_t n;
    float *wanted = logits_of(base_file, &n);
    checkpoint_clear(out_dir);
    for (size_t i = 0; i < ERN_COUNT(names); i++)
        for (int known = OWN; known < N_KNOWN; known++) {
            const ern_convert_options options = { .type = names[i],
                                                  .imatrix = imatrix_of(known),
                                                  .n_threads = 2 };
            convert_to(micro, out_file, &options);
            assert_int_equal(count_files(out_dir), 1);
            check_file(out_file);
            const double sqnr = logits_sqnr(wanted, out_file);
            print_message("%s, statistics %d: %.1f dB\n", names[i], known, sqnr);
            const bool coarse = strcmp(names[i], "c2") == 0 || strcmp(names[i], "tiny") == 0
                                || strcmp(names[i], "small") == 0;
            assert_true(sqnr > (coarse ? 10 : 18));
        }
    free(wanted);
}

/* ---- The same file --------------------------------------------------------------------------- */

static file_bytes converted(const char *source, const ern_convert_options *options)
{
    convert_to(source, out_file, options);
    return read_file(out_file);
}

static void assert_equal_files(const file_bytes *a, const file_bytes *b, bool equal)
{
    assert_int_equal(a->n, b->n);
    assert_int_equal(memcmp(a->data, b->data, a->n) == 0, equal);
}

static void threads_do_not_matter(void **state)
{
    (void)state;
    static const unsigned n_threads[] = { 2, 5 };
    for (size_t i = 0; i < ERN_COUNT(names); i += 2) {
        for (int odd = 0; odd < 2; odd++) {
            const char *source = odd ? in_dir : micro;
            ern_convert_options options = { .type = names[i],
                                            .name = "x",
                                            .n_threads = 1,
                                            .imatrix = odd ? other : imatrix_of((int)i / 2 % 3) };
            const file_bytes first = converted(source, &options);
            for (size_t t = 0; t < ERN_COUNT(n_threads); t++) {
                options.n_threads = n_threads[t];
                const file_bytes again = converted(source, &options);
                assert_equal_files(&first, &again, true);
                free(again.data);
            }
            free(first.data);
        }
    }
}

/* What each option changes, and what it leaves. */
static void options_are_heard(void **state)
{
    (void)state;
    static const struct {
        const char *type;
        bool of_statistics, of_fast;
    } cases[] = { { "f32", false, false }, { "bf16", false, false }, { "w8", false, false },
                  { "w4", true, false },   { "c4", true, true },     { "c3", true, true },
                  { "c2", true, true } };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        ern_convert_options options = { .type = cases[i].type, .n_threads = 2 };
        const file_bytes plain = converted(micro, &options);
        options.fast = true;
        const file_bytes fast = converted(micro, &options);
        options.fast = false;
        options.imatrix = statistics[OWN];
        const file_bytes own = converted(micro, &options);
        options.imatrix = statistics[SQUARES];
        const file_bytes squares = converted(micro, &options);
        assert_equal_files(&plain, &fast, !cases[i].of_fast);
        assert_equal_files(&plain, &own, !cases[i].of_statistics);
        assert_equal_files(&own, &squares, !cases[i].of_statistics);
        free(plain.data);
        free(fast.data);
        free(own.data);
        free(squares.data);
    }
}

/* ---- Statistics reach their weights ---------------------------------------------------------- */

static uint32_t columns(const ern_record *r, unsigned matrix)
{
    return matrix ? r->n_cols2 : r->n_cols;
}

static ern_matrix matrix_of(const ern_format *format, uint32_t i, unsigned matrix)
{
    const ern_record *r = &format->records[i];
    const unsigned char *data = format->data + r->offset;
    if (!matrix) return (ern_matrix){ data, r->type, r->n_rows, r->n_cols };
    return (ern_matrix){ data + ern_expert_down_offset(r), r->type2, r->n_rows2, r->n_cols2 };
}

/* What the errors of some rows cost under the moments h of the input. */
static double cost_of(const ern_matrix *wanted, const ern_matrix *got, const float *h)
{
    double cost = 0;
    const uint32_t n = wanted->n_cols;
    double *e = malloc(n * sizeof *e);
    assert_non_null(e);
    for (uint32_t row = 0; row < wanted->n_rows; row++) {
        for (uint32_t c = 0; c < n; c++)
            e[c] = (double)weight_at(wanted, row, c) - (double)weight_at(got, row, c);
        for (uint32_t i = 0; i < n; i++)
            for (uint32_t j = 0; j < n; j++) cost += e[i] * (double)h[i * n + j] * e[j];
    }
    free(e);
    return cost;
}

/* Every kind of matrix costs less under its own moments when they were known: statistics of another
 * linear would do no good. */
static void statistics_reach_their_weights(void **state)
{
    (void)state;
    double plain[ERN_N_KINDS][2] = { { 0 } }, with[ERN_N_KINDS][2] = { { 0 } };
    static float h[128 * 128 * 4];
    conv_imatrix *im;
    ernie_error error = { ERNIE_OK, "" };
    for (unsigned type = 0; type < 2; type++) {
        ern_convert_options options = { .type = type ? "c3" : "tiny", .n_threads = 2 };
        const file_bytes wanted_bytes = read_file(base_file);
        const file_bytes plain_bytes = converted(micro, &options);
        options.imatrix = statistics[OWN];
        const file_bytes with_bytes = converted(micro, &options);
        const ern_format wanted = read_format(&wanted_bytes), a = read_format(&plain_bytes);
        const ern_format b = read_format(&with_bytes);
        assert_int_equal(conv_imatrix_open(&im, statistics[OWN], NULL, &error), ERNIE_OK);
        for (uint32_t i = 0; i < wanted.header->n_records; i++)
            for (unsigned m = 0; m < 2; m++) {
                const ern_record *r = &wanted.records[i];
                const conv_moments *of =
                    conv_imatrix_find(im, r->kind, r->layer, r->expert, m != 0);
                if (!of || r->kind == ERN_ROUTER || columns(r, m) == 0) continue;
                if (of->moment == CONV_MOMENT_NONE || (m && r->kind != ERN_EXPERT)) continue;
                assert_true((size_t)of->n_cols * of->n_cols <= ERN_COUNT(h));
                assert_int_equal(conv_imatrix_read(im, of, h, &error), ERNIE_OK);
                const ern_matrix w = matrix_of(&wanted, i, m), pa = matrix_of(&a, i, m);
                const ern_matrix pb = matrix_of(&b, i, m);
                if (pa.type == ERN_W8) continue;
                plain[r->kind][m] += cost_of(&w, &pa, h);
                with[r->kind][m] += cost_of(&w, &pb, h);
            }
        conv_imatrix_close(im);
        free(wanted_bytes.data);
        free(plain_bytes.data);
        free(with_bytes.data);
    }
    for (unsigned kind = 0; kind < ERN_N_KINDS; kind++)
        for (unsigned m = 0; m < 2; m++) {
            if (plain[kind][m] == 0) continue;
            print_message("kind %u, matrix %u: %.2f of the cost\n", kind, m,
                          with[kind][m] / plain[kind][m]);
            assert_true(with[kind][m] < 0.97 * plain[kind][m]);
        }
    assert_true(plain[ERN_EXPERT][1] > 0 && plain[ERN_QKV][0] > 0);
}

/* ---- What is refused ------------------------------------------------------------------------- */

static void statistics_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    char path[340];
    checkpoint_clear(out_dir);
    ern_convert_options options = { .type = "c3", .imatrix = other };
    refuse(micro, out_file, &options, ERNIE_INVALID,
           "other.imatrix: was made with another model: its hidden_size is 50, here it is 64");
    options.type = "f32"; /* which would not use it */
    refuse(micro, out_file, &options, ERNIE_INVALID, "other.imatrix: was made with another model");
    snprintf(path, sizeof path, "%s/none.imatrix", top);
    options.imatrix = path;
    refuse(micro, out_file, &options, ERNIE_IO, "none.imatrix");
    checkpoint_put_text(top, "none.imatrix", "no statistics at all");
    refuse(micro, out_file, &options, ERNIE_FORMAT, "none.imatrix");

    /* One bit of the last matrix but the head's: found when it is reached, and nothing is left of the
     * output. */
    const file_bytes good = read_file(statistics[OWN]);
    good.data[good.n - conv_triangle_bytes(64) - 100] ^= 1;
    checkpoint_put(top, "none.imatrix", good.data, good.n);
    free(good.data);
    options.type = "c2";
    for (options.n_threads = 1; options.n_threads <= 4; options.n_threads += 3)
        refuse(micro, out_file, &options, ERNIE_CORRUPT,
               "none.imatrix: layers.2.experts.7.down: the checksum of its");
    unlink(path);
}

static void unknown_types_are_listed(void **state)
{
    (void)state;
    checkpoint_clear(out_dir);
    static const char *const wrong[] = { "c5", "TINY", "", "w4 ", "ccq2" };
    for (size_t i = 0; i < ERN_COUNT(wrong); i++) {
        const ern_convert_options options = { .type = wrong[i] };
        refuse(micro, out_file, &options, ERNIE_INVALID, "tiny");
        refuse(micro, out_file, &options, ERNIE_INVALID, wrong[i]);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_answers),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(options_are_heard),
        cmocka_unit_test(statistics_reach_their_weights),
        cmocka_unit_test(statistics_that_do_not_fit_are_refused),
        cmocka_unit_test(unknown_types_are_listed),
    };
    if (argc < 2 || access(argv[1], R_OK) != 0) {
        print_message("usage: test_convert_codes MICRO_MOE\n");
        return 77;
    }
    micro = argv[1];
    return cmocka_run_group_tests(tests, setup, run_teardown);
}
