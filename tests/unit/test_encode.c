/* The quantizers: exact where they can be, close where they cannot, the same on every instruction
 * set. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../tools/convert/encode.h"

#define ROWS ERN_GROUP_ROWS

/* ---- Data ------------------------------------------------------------------------------------ */

static uint64_t encode_seed;

static double random_unit(void)
{
    encode_seed = encode_seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(encode_seed >> 11) * 0x1p-53;
}

static float random_gauss(void)
{
    const double u = random_unit() + 1e-300, v = random_unit();
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

/* Student t with 5 degrees of freedom: now and then a far outlier. */
static float random_heavy(void)
{
    double chi = 0;
    const double z = (double)random_gauss();
    for (int i = 0; i < 5; i++) {
        const double g = (double)random_gauss();
        chi += g * g;
    }
    return (float)(z / sqrt(chi / 5));
}

/* ---- A group and its values back, by the letter of format.h ---------------------------------- */

typedef struct group {
    uint32_t n_cols;
    size_t n_bytes;
    unsigned char *data;
    float *wanted, *got; /* [16][n_cols] */
    void *memory;
    conv_scratch scratch;
} group;

static void group_begin(group *g, uint32_t n_cols)
{
    g->n_cols = n_cols;
    g->n_bytes = (size_t)ern_group_bytes(ERN_F32, n_cols) + (size_t)ern_group_bytes(ERN_W8, n_cols);
    g->data = aligned_alloc(64, ern_round_up(g->n_bytes, 64));
    g->wanted = calloc(ROWS * n_cols, sizeof(float));
    g->got = calloc(ROWS * n_cols, sizeof(float));
    g->memory = aligned_alloc(64, conv_scratch_bytes(n_cols));
    conv_scratch_set(&g->scratch, g->memory, n_cols);
}

static void group_end(group *g)
{
    free(g->data);
    free(g->wanted);
    free(g->got);
    free(g->memory);
}

static void group_encode(group *g, const conv_encoder *encoder, unsigned type)
{
    const uint32_t padded = (uint32_t)ern_round_up(g->n_cols, ERN_BLOCK_COLS);
    memset(g->data, 0, g->n_bytes);
    for (unsigned row = 0; row < ROWS; row++) {
        memcpy(g->scratch.row, g->wanted + row * g->n_cols, g->n_cols * sizeof(float));
        for (uint32_t i = g->n_cols; i < padded; i++) g->scratch.row[i] = 0;
        const uint32_t peak = conv_peak_bits(encoder, g->scratch.row, g->n_cols);
        conv_encode_row(encoder, type, &g->scratch, g->n_cols, peak, row, g->data);
    }
}

static float group_weight(const group *g, unsigned type, unsigned row, uint32_t col)
{
    float row_scale;
    const uint32_t n_blocks = ern_n_blocks(g->n_cols), b = col / 32, k = col % 32;
    const unsigned char *scales = g->data + 64, *codes = scales + ern_group_scale_bytes(type, n_blocks);
    memcpy(&row_scale, g->data + 4 * row, 4);
    const float scale = row_scale * (float)scales[b * 16 + row];
    if (type == ERN_W8)
        return scale * (float)(int8_t)codes[((b * 8 + k / 4) * 16 + row) * 4 + k % 4];
    const unsigned char pair = codes[((b * 4 + k / 8) * 16 + row) * 4 + k % 4];
    return scale * (float)ern_w4_level[k % 8 < 4 ? pair & 15 : pair >> 4];
}

static void group_decode(group *g, unsigned type)
{
    for (unsigned row = 0; row < ROWS; row++)
        for (uint32_t col = 0; col < g->n_cols; col++)
            g->got[row * g->n_cols + col] = group_weight(g, type, row, col);
}

static double group_sqnr(const group *g)
{
    double signal = 0, noise = 0;
    for (size_t i = 0; i < ROWS * g->n_cols; i++) {
        const double d = (double)g->got[i] - (double)g->wanted[i];
        signal += (double)g->wanted[i] * (double)g->wanted[i];
        noise += d * d;
    }
    return 10 * log10(signal / noise);
}

/* ---- Source values --------------------------------------------------------------------------- */

static void decode_reads_every_half(void **state)
{
    (void)state;
    enum { N = 65536 };
    unsigned char *bytes = malloc(2 * N + 1);
    float *values = malloc(N * sizeof *values);
    for (unsigned i = 0; i < N; i++) {
        bytes[1 + 2 * i] = (unsigned char)i;
        bytes[2 + 2 * i] = (unsigned char)(i >> 8);
    }
    for (unsigned e = 0; conv_encoder_at(e); e++) {
        conv_decode(conv_encoder_at(e), CONV_F16, bytes + 1, values, N); /* an odd address */
        for (unsigned i = 0; i < N; i++) {
            const float wanted = ern_f16_to_f32((uint16_t)i);
            if (isnan(wanted))
                assert_true(isnan(values[i]));
            else
                assert_memory_equal(&values[i], &wanted, sizeof wanted);
        }
        conv_decode(conv_encoder_at(e), CONV_BF16, bytes + 1, values, N);
        for (unsigned i = 0; i < N; i++) {
            const float wanted = ern_bf16_to_f32((uint16_t)i);
            assert_memory_equal(&values[i], &wanted, sizeof wanted);
        }
    }
    free(bytes);
    free(values);
}

static void decode_reads_floats(void **state)
{
    (void)state;
    unsigned char bytes[1 + 7 * 4];
    float wanted[7] = { 0, -0.0f, 1.5f, -3e38f, 1e-45f, 0.1f, 7 }, values[7];
    memcpy(bytes + 1, wanted, sizeof wanted);
    for (unsigned e = 0; conv_encoder_at(e); e++) {
        conv_decode(conv_encoder_at(e), CONV_F32, bytes + 1, values, 7);
        assert_memory_equal(values, wanted, sizeof wanted);
    }
}

static void peak_sees_what_is_no_number(void **state)
{
    (void)state;
    const float bad[] = { NAN, -NAN, INFINITY, -INFINITY };
    for (unsigned e = 0; conv_encoder_at(e); e++) {
        for (size_t k = 0; k < ERN_COUNT(bad); k++) {
            for (size_t at = 0; at < 70; at++) {
                float row[70] = { 1, -2 };
                assert_true(conv_peak_bits(conv_encoder_at(e), row, 70) == 0x40000000u);
                row[at] = bad[k];
                assert_true(conv_peak_bits(conv_encoder_at(e), row, 70) >= 0x7f800000u);
            }
        }
    }
}

static void limits_are_where_types_end(void **state)
{
    (void)state;
    const struct {
        unsigned type;
        float fits, too_large;
    } cases[] = { { ERN_F16, 65519.996f, 65520.0f },
                  { ERN_BF16, 3.3895e38f, 3.4e38f },
                  { ERN_W8, 9.9e37f, 1.1e38f },
                  { ERN_W4, 9.9e37f, 1.1e38f } };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        const uint32_t limit = conv_type_limit(cases[i].type);
        assert_true(conv_peak_bits(conv_encoder_at(0), &cases[i].fits, 1) < limit);
        assert_true(conv_peak_bits(conv_encoder_at(0), &cases[i].too_large, 1) >= limit);
    }
    assert_true(isfinite(ern_f16_to_f32(ern_f32_to_f16(65519.996f))));
    assert_true(conv_type_limit(ERN_F32) == 0x7f800000u);
}

/* ---- Instruction sets ------------------------------------------------------------------------ */

typedef float (*value_fn)(void);

static float value_small(void)
{
    return 1e-6f * random_gauss();
}
static float value_huge(void)
{
    return 2e37f * random_gauss();
}
static float value_sparse(void)
{
    return random_unit() < 0.9 ? 0.0f : random_gauss();
}
static float value_spread(void)
{
    return random_gauss() * (float)exp(12 * random_unit() - 6);
}
static float value_tiny(void)
{
    return 1e-25f * random_gauss();
}

static const value_fn value_fns[] = { random_gauss, random_heavy, value_small, value_huge,
                                      value_sparse, value_spread, value_tiny };

static void all_sets_write_the_same(void **state)
{
    (void)state;
    const uint32_t widths[] = { 1, 31, 32, 33, 64, 100, 257, 2560 };
    for (size_t w = 0; w < ERN_COUNT(widths); w++) {
        group g;
        group_begin(&g, widths[w]);
        unsigned char *first = malloc(g.n_bytes);
        for (size_t f = 0; f < ERN_COUNT(value_fns); f++) {
            encode_seed = 7 * w + f;
            for (size_t i = 0; i < ROWS * g.n_cols; i++) g.wanted[i] = value_fns[f]();
            for (unsigned type = 0; type <= ERN_W4; type++) {
                group_encode(&g, conv_encoder_at(0), type);
                memcpy(first, g.data, g.n_bytes);
                for (unsigned e = 1; conv_encoder_at(e); e++) {
                    group_encode(&g, conv_encoder_at(e), type);
                    assert_memory_equal(first, g.data, g.n_bytes);
                }
            }
        }
        free(first);
        group_end(&g);
    }
}

/* ---- Quality --------------------------------------------------------------------------------- */

static void assert_sqnr(unsigned type, value_fn fn, uint32_t n_cols, double least)
{
    group g;
    group_begin(&g, n_cols);
    encode_seed = 42;
    for (size_t i = 0; i < ROWS * n_cols; i++) g.wanted[i] = 0.02f * fn();
    group_encode(&g, conv_encoder_best(), type);
    group_decode(&g, type);
    const double sqnr = group_sqnr(&g);
    print_message("%s, %u columns: %.2f dB\n", ern_type_name(type), (unsigned)n_cols, sqnr);
    assert_true(sqnr > least);
    group_end(&g);
}

static void noise_is_small(void **state)
{
    (void)state;
    assert_sqnr(ERN_W8, random_gauss, 4096, 45.0);
    assert_sqnr(ERN_W8, random_gauss, 1000, 45.0);
    assert_sqnr(ERN_W8, random_heavy, 4096, 40.0);
    assert_sqnr(ERN_W4, random_gauss, 4096, 22.25);
    assert_sqnr(ERN_W4, random_gauss, 1000, 22.2);
    assert_sqnr(ERN_W4, random_gauss, 33, 22.0);
    assert_sqnr(ERN_W4, random_heavy, 4096, 19.5);
}

static void w8_errs_by_half_a_step(void **state)
{
    (void)state;
    group g;
    group_begin(&g, 640);
    for (size_t f = 0; f < ERN_COUNT(value_fns) - 1; f++) { /* the last rounds to zero */
        encode_seed = f;
        for (size_t i = 0; i < ROWS * g.n_cols; i++) g.wanted[i] = value_fns[f]();
        group_encode(&g, conv_encoder_best(), ERN_W8);
        group_decode(&g, ERN_W8);
        for (unsigned row = 0; row < ROWS; row++) {
            for (uint32_t b = 0; b < g.n_cols / 32; b++) {
                float row_scale;
                memcpy(&row_scale, g.data + 4 * row, 4);
                const double step = (double)row_scale * g.data[64 + b * 16 + row];
                for (uint32_t i = row * g.n_cols + b * 32, end = i + 32; i < end; i++)
                    assert_true(fabs((double)g.got[i] - (double)g.wanted[i]) <= 0.5001 * step);
            }
        }
    }
    group_end(&g);
}

static void w4_finds_levels_that_are_there(void **state)
{
    (void)state;
    group g;
    group_begin(&g, 256);
    for (unsigned row = 0; row < ROWS; row++)
        for (uint32_t col = 0; col < 256;
             col++) /* blocks of different scales, all levels in each */
            g.wanted[row * 256 + col] = ern_w4_level[(col * 5 + row) % 16] * 0.001f
                                        * (float)(20 + (col / 32 * 7 + row) % 31);
    group_encode(&g, conv_encoder_best(), ERN_W4);
    group_decode(&g, ERN_W4);
    assert_true(group_sqnr(&g) > 45);
    for (unsigned row = 0; row < ROWS; row++)
        for (uint32_t col = 0; col < 256; col++)
            assert_float_equal(g.got[row * 256 + col] / g.wanted[row * 256 + col], 1, 0.02);
    group_end(&g);
}

/* A block's scale must not be worse than any other step by more than the search's grain. */
static void w4_scale_is_near_the_best(void **state)
{
    (void)state;
    group g;
    double chosen = 0, best = 0;
    group_begin(&g, 512);
    encode_seed = 3;
    for (size_t i = 0; i < ROWS * g.n_cols; i++) g.wanted[i] = random_gauss();
    group_encode(&g, conv_encoder_best(), ERN_W4);
    group_decode(&g, ERN_W4);
    for (unsigned row = 0; row < ROWS; row++) {
        float row_scale;
        memcpy(&row_scale, g.data + 4 * row, 4);
        for (uint32_t b = 0; b < 16; b++) {
            const float *x = g.wanted + row * 512 + b * 32, *y = g.got + row * 512 + b * 32;
            double error = 0, least = 1e300;
            for (unsigned i = 0; i < 32; i++) error += pow((double)x[i] - (double)y[i], 2);
            for (unsigned step = 1; step < 256; step++) {
                double sum = 0;
                for (unsigned i = 0; i < 32; i++) {
                    double nearest = 1e300;
                    for (unsigned c = 0; c < 16; c++)
                        nearest = fmin(nearest, fabs((double)x[i]
                                                     - (double)row_scale * step * ern_w4_level[c]));
                    sum += nearest * nearest;
                }
                least = fmin(least, sum);
            }
            chosen += error;
            best += least;
        }
    }
    print_message("w4: %.2f %% above the least possible error\n", 100 * (chosen / best - 1));
    assert_true(chosen < 1.02 * best);
    group_end(&g);
}

/* ---- Corners --------------------------------------------------------------------------------- */

static void zeros_stay_zeros(void **state)
{
    (void)state;
    group g;
    group_begin(&g, 100);
    for (uint32_t col = 32; col < 64; col++)
        g.wanted[3 * 100 + col] = 0.25f; /* one block of one row */
    for (unsigned type = ERN_W8; type <= ERN_W4; type++) {
        group_encode(&g, conv_encoder_best(), type);
        group_decode(&g, type);
        for (unsigned row = 0; row < ROWS; row++) {
            float row_scale;
            memcpy(&row_scale, g.data + 4 * row, 4);
            assert_true((row_scale != 0) == (row == 3));
            for (uint32_t col = 0; col < 100; col++) {
                const bool there = row == 3 && col >= 32 && col < 64;
                assert_float_equal(g.got[row * 100 + col], there ? 0.25f : 0, there ? 0.002f : 0);
            }
        }
    }
    group_end(&g);
}

static void padding_holds_zero_scales(void **state)
{
    (void)state;
    group g;
    group_begin(&g, 5 * 32); /* 80 scale bytes in a table of 128 */
    encode_seed = 1;
    for (size_t i = 0; i < ROWS * g.n_cols; i++) g.wanted[i] = random_gauss();
    for (unsigned type = ERN_W8; type <= ERN_W4; type++) {
        group_encode(&g, conv_encoder_best(), type);
        for (size_t i = 64 + 80; i < 64 + 128; i++) assert_int_equal(g.data[i], 0);
        for (size_t i = (size_t)ern_group_bytes(type, g.n_cols); i < g.n_bytes; i++)
            assert_int_equal(g.data[i], 0);
    }
    group_end(&g);
}

/* One weight 10,000 times the others: it stays, they vanish or stay, nothing overflows. w4 has no
 * level at zero, so the least squared error takes 7 % of the outlier to keep the other 31 small. */
static void outliers_do_no_harm(void **state)
{
    (void)state;
    group g;
    group_begin(&g, 128);
    encode_seed = 9;
    for (size_t i = 0; i < ROWS * g.n_cols; i++) g.wanted[i] = 1e-4f * random_gauss();
    for (unsigned row = 0; row < ROWS; row++)
        g.wanted[row * 128 + 40 + row] = row % 2 ? 1.0f : -1.0f;
    for (unsigned type = ERN_W8; type <= ERN_W4; type++) {
        group_encode(&g, conv_encoder_best(), type);
        group_decode(&g, type);
        for (size_t i = 0; i < ROWS * g.n_cols; i++)
            assert_float_equal(g.got[i], g.wanted[i], type == ERN_W8 ? 0.005f : 0.075f);
    }
    group_end(&g);
}

static void plain_types_keep_values(void **state)
{
    (void)state;
    group g;
    group_begin(&g, 33);
    encode_seed = 5;
    for (size_t i = 0; i < ROWS * g.n_cols; i++) g.wanted[i] = random_heavy();
    for (unsigned type = ERN_F32; type <= ERN_BF16; type++) {
        const size_t row_bytes = (size_t)ern_row_bytes(type, 33), size = type == ERN_F32 ? 4 : 2;
        group_encode(&g, conv_encoder_best(), type);
        for (unsigned row = 0; row < ROWS; row++) {
            const unsigned char *at = g.data + row * row_bytes;
            for (uint32_t col = 0; col < 33; col++) {
                const float x = g.wanted[row * 33 + col];
                const uint16_t half = type == ERN_F16 ? ern_f32_to_f16(x) : ern_f32_to_bf16(x);
                assert_memory_equal(at + col * size, type == ERN_F32 ? (const void *)&x : &half,
                                    size);
            }
            for (size_t i = 33 * size; i < row_bytes; i++) assert_int_equal(at[i], 0);
        }
    }
    group_end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_reads_every_half),
        cmocka_unit_test(decode_reads_floats),
        cmocka_unit_test(peak_sees_what_is_no_number),
        cmocka_unit_test(limits_are_where_types_end),
        cmocka_unit_test(all_sets_write_the_same),
        cmocka_unit_test(noise_is_small),
        cmocka_unit_test(w8_errs_by_half_a_step),
        cmocka_unit_test(w4_finds_levels_that_are_there),
        cmocka_unit_test(w4_scale_is_near_the_best),
        cmocka_unit_test(zeros_stay_zeros),
        cmocka_unit_test(padding_holds_zero_scales),
        cmocka_unit_test(outliers_do_no_harm),
        cmocka_unit_test(plain_types_keep_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
