/* Groups of sixteen rows: every type in every width, the same bytes on every instruction set, zeros
 * where the format wants them, and values near those that went in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "group_values.h"

enum { ROWS = ERN_GROUP_ROWS, BLOCK = ERN_BLOCK_COLS };

static const uint32_t widths[] = { 1, 31, 32, 33, 64, 100, 257 };

/* What a linear may be known by. */
typedef enum knowledge { NOTHING, SQUARES, MOMENTS, STRETCHED, N_KNOWLEDGE } knowledge;

typedef struct known {
    values_feedback made;
    float *stretch;
    const conv_feedback *use; /* NULL: nothing */
} known;

static void know(known *k, knowledge what, uint32_t n)
{
    memset(k, 0, sizeof *k);
    float *h = malloc((size_t)n * n * sizeof *h);
    assert_non_null(h);
    values_moments(h, n, 0.7);
    if (what == SQUARES) values_feedback_squares(&k->made, h, n);
    if (what >= MOMENTS) assert_true(values_feedback_make(&k->made, h, n, 0.05f));
    free(h);
    if (what == STRETCHED) {
        const size_t padded = ern_round_up(n, BLOCK);
        k->stretch = malloc(padded * sizeof *k->stretch);
        assert_non_null(k->stretch);
        for (size_t i = 0; i < padded; i++)
            k->stretch[i] = i < n ? (float)exp(2 * values_unit() - 1) : 1.0f;
        k->made.feedback.stretch = k->stretch;
    }
    k->use = what == NOTHING ? NULL : &k->made.feedback;
}

static void forget(known *k)
{
    if (k->use) free(k->made.memory);
    free(k->stretch);
}

static float *fill(uint32_t n, float size)
{
    float *w = malloc(ROWS * (size_t)n * sizeof *w);
    assert_non_null(w);
    for (size_t i = 0; i < ROWS * (size_t)n; i++) w[i] = size * values_gauss();
    return w;
}

/* Decibels of a row's weights over its errors. */
static double row_sqnr(unsigned type, const unsigned char *group, const float *w, uint32_t n,
                       uint32_t row)
{
    double signal = 0, noise = 0;
    for (uint32_t c = 0; c < n; c++) {
        const double x = (double)w[row * n + c];
        const double d = x - (double)values_decode(type, group, n, row, c);
        signal += x * x;
        noise += d * d;
    }
    return 10 * log10(signal / noise);
}

static double mean_sqnr(unsigned type, const unsigned char *group, const float *w, uint32_t n)
{
    double sum = 0;
    for (uint32_t r = 0; r < ROWS; r++) sum += row_sqnr(type, group, w, n, r);
    return sum / ROWS;
}

/* ---- Every type, every width ----------------------------------------------------------------- */

/* Bytes that belong to nothing, and all of rows that are zero, but for their codes. */
static void assert_zeros(unsigned type, const unsigned char *group, uint32_t n, unsigned n_live)
{
    const uint32_t n_blocks = ern_n_blocks(n);
    const unsigned char *scales = group + 64;
    const size_t n_lines = type >= ERN_C4 ? (n_blocks + 1) / 2 : n_blocks;
    for (size_t i = 16 * n_lines; i < ern_group_scale_bytes(type, n_blocks); i++)
        assert_int_equal(scales[i], 0);
    for (unsigned r = 0; r < ROWS && type >= ERN_C4 && n_blocks % 2; r++)
        assert_int_equal(scales[(n_lines - 1) * 16 + r] >> 4, 0);
    for (unsigned r = n_live; r < ROWS; r++) {
        float row_scale;
        memcpy(&row_scale, group + 4 * r, 4);
        assert_true(row_scale == 0);
        for (size_t i = 0; i < n_lines; i++) assert_int_equal(scales[16 * i + r], 0);
    }
}

static void assert_group(unsigned type, uint32_t n, knowledge what)
{
    static const unsigned n_live = 13; /* the rows after these pad a matrix */
    values_seed = 1000 * type + 10 * n + (unsigned)what;
    known k;
    know(&k, what, n);
    float *w = fill(n, 0.02f);
    memset(w + n_live * n, 0, (ROWS - n_live) * (size_t)n * sizeof *w);
    const size_t n_bytes = (size_t)ern_group_bytes(type, n);
    unsigned char *group = values_encode(0, type, w, n, k.use);
    for (unsigned set = 1; set <= conv_group_best(); set++) {
        unsigned char *other = values_encode(set, type, w, n, k.use);
        assert_memory_equal(group, other, n_bytes);
        free(other);
    }
    assert_zeros(type, group, n, n_live);
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t c = 0; c < n; c++) {
            const float value = values_decode(type, group, n, r, c);
            assert_true(r < n_live ? fabsf(value) < 0.15f : value == 0);
        }
    free(group);
    free(w);
    forget(&k);
}

static void all_sets_write_the_same(void **state)
{
    (void)state;
    for (unsigned type = ERN_W4; type <= ERN_C2; type++)
        for (size_t i = 0; i < ERN_COUNT(widths); i++)
            for (knowledge what = NOTHING; what < N_KNOWLEDGE; what++)
                if (type != ERN_W4 || what != NOTHING) assert_group(type, widths[i], what);
}

/* Rows of zeros leave no errors, however much the first columns' errors would ask of the others. */
static void zero_rows_ask_nothing(void **state)
{
    (void)state;
    enum { N = 100 };
    for (unsigned type = ERN_W4; type <= ERN_C2; type++) {
        known k;
        values_seed = type;
        know(&k, STRETCHED, N);
        for (size_t i = 0; i < ern_round_up(N, BLOCK); i++) k.stretch[i] = i < BLOCK ? 1e4f : 1;
        float *w = fill(N, 0.02f);
        memset(w + 3 * N, 0, (ROWS - 3) * (size_t)N * sizeof *w);
        unsigned char *group = values_encode(conv_group_best(), type, w, N, k.use);
        assert_zeros(type, group, N, 3);
        free(group);
        free(w);
        forget(&k);
    }
}

static void types_made_as_groups(void **state)
{
    (void)state;
    const conv_feedback feedback = { 0 };
    for (unsigned type = 0; type <= ERN_C2; type++) {
        assert_int_equal(conv_group_makes(type, NULL), type >= ERN_C4);
        assert_int_equal(conv_group_makes(type, &feedback), type >= ERN_W4);
    }
}

/* Rows do not know of each other. */
static void rows_are_independent(void **state)
{
    (void)state;
    enum { N = 96, ROW = 5 };
    for (unsigned type = ERN_W4; type <= ERN_C2; type++) {
        values_seed = type;
        known k;
        know(&k, MOMENTS, N);
        float *w = fill(N, 1);
        unsigned char *group = values_encode(conv_group_best(), type, w, N, k.use);
        for (size_t i = 0; i < N; i++) w[ROW * N + i] = -100 * w[ROW * N + i];
        unsigned char *other = values_encode(conv_group_best(), type, w, N, k.use);
        for (uint32_t r = 0; r < ROWS; r++)
            for (uint32_t c = 0; c < N; c++)
                assert_int_equal(values_decode(type, group, N, r, c)
                                     == values_decode(type, other, N, r, c),
                                 r != ROW);
        free(group);
        free(other);
        free(w);
        forget(&k);
    }
}

/* ---- Quality --------------------------------------------------------------------------------- */

static const double least_sqnr[ERN_N_TYPES] = {
    [ERN_W4] = 21.5, [ERN_C4] = 22.5, [ERN_C3] = 16.7, [ERN_C2] = 10.9
};

/* A last block of few columns is as good as the others. */
static void noise_is_small(void **state)
{
    (void)state;
    for (unsigned type = ERN_W4; type <= ERN_C2; type++)
        for (size_t i = 1; i < ERN_COUNT(widths); i++) {
            const uint32_t n = widths[i];
            values_seed = type;
            float *ones = calloc((size_t)n * n, sizeof *ones), *w = fill(n, 0.02f);
            values_feedback flat;
            for (size_t c = 0; c < n; c++) ones[c * n + c] = 1;
            values_feedback_squares(&flat, ones, n);
            unsigned char *group = values_encode(conv_group_best(), type, w, n, &flat.feedback);
            const double sqnr = mean_sqnr(type, group, w, n);
            print_message("%s, %u columns: %.2f dB\n", ern_type_name(type), (unsigned)n, sqnr);
            assert_true(sqnr > least_sqnr[type]);
            if (type != ERN_W4) { /* nothing known is all the same */
                unsigned char *plain = values_encode(conv_group_best(), type, w, n, NULL);
                assert_memory_equal(plain, group, (size_t)ern_group_bytes(type, n));
                free(plain);
            }
            free(group);
            free(flat.memory);
            free(ones);
            free(w);
        }
}

/* A row whose blocks differ twentyfold keeps the loud ones. Scales of c types reach over a factor
 * of five, so the silent ones may drown. */
static void loud_blocks_are_kept(void **state)
{
    (void)state;
    enum { N = 160 };
    for (unsigned type = ERN_W4; type <= ERN_C2; type++) {
        values_seed = 77;
        known k;
        know(&k, SQUARES, N);
        float *w = fill(N, 1);
        for (size_t r = 0; r < ROWS; r++)
            for (size_t c = 0; c < N; c++) w[r * N + c] *= c / BLOCK == r % 5 ? 10.0f : 0.5f;
        unsigned char *group = values_encode(conv_group_best(), type, w, N, k.use);
        const double sqnr = mean_sqnr(type, group, w, N);
        print_message("%s, a loud block: %.2f dB\n", ern_type_name(type), sqnr);
        assert_true(sqnr > least_sqnr[type] - (type == ERN_W4 ? 0 : 3));
        free(group);
        free(w);
        forget(&k);
    }
}

/* Weights of any size that the converter lets through are as good as those near 1. */
static void values_have_no_unit(void **state)
{
    (void)state;
    enum { N = 70 };
    static const float units[] = { 0x1p-62f, 0x1p-40f, 0x1p40f, 0x1p120f };
    for (unsigned type = ERN_W4; type <= ERN_C2; type++)
        for (knowledge what = SQUARES; what < N_KNOWLEDGE; what++)
            for (size_t i = 0; i < ERN_COUNT(units); i++) {
                values_seed = type + i;
                known k;
                know(&k, what, N);
                float *w = fill(N, 1);
                unsigned char *group = values_encode(conv_group_best(), type, w, N, k.use);
                const double wanted = mean_sqnr(type, group, w, N);
                free(group);
                for (size_t c = 0; c < ROWS * N; c++) w[c] *= units[i];
                group = values_encode(conv_group_best(), type, w, N, k.use);
                const double got = mean_sqnr(type, group, w, N);
                if (!(fabs(got - wanted) < 0.1))
                    fail_msg("%s at %g: %.2f dB, at 1 %.2f", ern_type_name(type), (double)units[i],
                             got, wanted);
                free(group);
                free(w);
                forget(&k);
            }
}

/* Only how squares compare counts. */
static void squares_have_no_unit(void **state)
{
    (void)state;
    enum { N = 96 };
    static const float units[] = { 0x1p-125f, 0x1p100f };
    for (unsigned type = ERN_W4; type <= ERN_C2; type++)
        for (size_t i = 0; i < ERN_COUNT(units); i++) {
            values_seed = type;
            known k;
            know(&k, SQUARES, N);
            float *w = fill(N, 1);
            unsigned char *group = values_encode(conv_group_best(), type, w, N, k.use);
            for (size_t c = 0; c < N; c++) {
                k.made.feedback.weight[c] *= units[i];
                k.made.feedback.single[c] *= units[i];
            }
            unsigned char *other = values_encode(conv_group_best(), type, w, N, k.use);
            assert_memory_equal(group, other, (size_t)ern_group_bytes(type, N));
            free(group);
            free(other);
            free(w);
            forget(&k);
        }
}

/* A weight far from all others: nothing overflows, and some of it stays. The scales of c types
 * follow a block's root mean square, which cuts it. */
static void outliers_do_no_harm(void **state)
{
    (void)state;
    enum { N = 128 };
    for (unsigned type = ERN_W4; type <= ERN_C2; type++)
        for (knowledge what = SQUARES; what < N_KNOWLEDGE; what++) {
            values_seed = 9 + type;
            known k;
            know(&k, what, N);
            float *w = fill(N, 1e-4f);
            for (size_t r = 0; r < ROWS; r++) w[r * N + 40 + r] = r % 2 ? 1.0f : -1.0f;
            unsigned char *group = values_encode(conv_group_best(), type, w, N, k.use);
            for (uint32_t r = 0; r < ROWS; r++)
                for (uint32_t c = 0; c < N; c++) {
                    const float value = values_decode(type, group, N, r, c);
                    const float d = fabsf(value - w[r * N + c]);
                    assert_true(isfinite(value));
                    if (what == SQUARES) assert_true(d < 0.9f);
                    if (c == 40 + r) assert_true(value * w[r * N + c] > 0.1f);
                }
            free(group);
            free(w);
            forget(&k);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_made_as_groups), cmocka_unit_test(all_sets_write_the_same),
        cmocka_unit_test(zero_rows_ask_nothing),
        cmocka_unit_test(rows_are_independent), cmocka_unit_test(noise_is_small),
        cmocka_unit_test(loud_blocks_are_kept), cmocka_unit_test(values_have_no_unit),
        cmocka_unit_test(squares_have_no_unit), cmocka_unit_test(outliers_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
