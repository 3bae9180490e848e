/* Do all instruction sets compute what format.h and kernels.h say?
 *
 * Every set that this machine has is held against base to the last bit on random shapes, and base
 * is held against sums in double precision that are written here from the format's description.
 * Matrices come from a packer of this file's own. Padding that a kernel must not use is filled with
 * no-numbers, so a wrong end shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#ifdef ERNIE_TEST_NO_CMOCKA
#include <string.h>
#include "mini_cmocka.h"
#else
#include <cmocka.h>
#endif

#include "../../backends/cpu/kernels.h"

enum { TOKENS_MAX = 35, ROWS_MAX = 80, COLS_MAX = 1088 };

/* ---- Random numbers ------------------------------------------------------------------------ */

static uint64_t random_state = 0x243f6a8885a308d3u;

static uint32_t random_word(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

static uint32_t random_below(uint32_t n) { return random_word() % n; }

static float random_float(void) /* -1 .. 1, bell shaped enough */
{
    float sum = 0;
    for (int i = 0; i < 4; i++) sum += (float)random_below(65536) / 65536.0f - 0.5f;
    return sum / 2;
}

static void random_floats(float *x, size_t n)
{
    for (size_t i = 0; i < n; i++) x[i] = random_float();
}

static void *new_bytes(size_t n) /* 64-byte aligned, every float in it no number */
{
    void *p = ern_alloc_aligned(ern_allocator_default(), n);
    assert_non_null(p);
    memset(p, 0xff, n);
    return p;
}

static void free_bytes(void *p, size_t n) { ern_free_aligned(ern_allocator_default(), p, n); }

static bool same_bits(const void *a, const void *b, size_t n) { return memcmp(a, b, n) == 0; }

/* ---- Matrices ------------------------------------------------------------------------------ */

typedef struct test_matrix {
    ern_matrix m;
    unsigned char *bytes;
    size_t n_bytes;
    double *value; /* [n_rows][n_cols] */
} test_matrix;

typedef enum test_kind { TEST_RANDOM, TEST_EXTREME, TEST_ZERO_SCALES } test_kind;

static void put_float(unsigned char *p, float x) { memcpy(p, &x, sizeof x); }

/* Pack one weight of a quantized matrix and return it. */
static double put_code(unsigned char *code, unsigned type, uint32_t b, uint32_t r, uint32_t c,
                       test_kind kind)
{
    if (type == ERN_W8) {
        int q = (int)random_below(255) - 127;
        if (kind == TEST_EXTREME) q = random_below(2) ? 127 : -127;
        code[((b * 8 + c / 4) * 16 + r) * 4 + c % 4] = (unsigned char)(q & 255);
        return q;
    }
    uint32_t q = random_below(16);
    if (kind == TEST_EXTREME) q = random_below(2) ? 15 : 0;
    unsigned char *byte = &code[((b * 4 + c / 8) * 16 + r) * 4 + c % 4];
    *byte = (unsigned char)(c % 8 < 4 ? (*byte & 0xf0) | q : (*byte & 0x0f) | q << 4);
    return ern_w4_level[q];
}

/* Bit n of a code whose end is its beginning. */
static unsigned code_bit(uint64_t code, unsigned n) { return code >> n % 64 & 1; }

/* Pack one row of a block of c2, c3 or c4, which is any bits, and return its levels as the prose has
 * them. Extremes: windows that repeat, so that neighbouring columns have the largest levels. */
static void put_words(unsigned char *block, unsigned type, uint32_t r, test_kind kind, double level[32])
{
    static const uint64_t extreme[] = { 0x00, 0x01, 0x04, 0x05, 0x08, 0x83 };
    const uint32_t n_words = type == ERN_C2 ? 2 : type == ERN_C3 ? 3 : 4;
    uint32_t word[4];
    for (uint32_t i = 0; i < 4; i++) word[i] = random_word();
    if (kind == TEST_EXTREME) {
        word[0] = word[1] = 0x01010101u * (uint32_t)extreme[random_below(ERN_COUNT(extreme))];
        word[2] = word[3] = random_below(2) ? UINT32_MAX : 0;
    }
    for (uint32_t i = 0; i < n_words; i++) memcpy(block + 64 * i + 4 * r, &word[i], 4);
    const uint64_t code = (uint64_t)word[1] << 32 | word[0];
    for (unsigned c = 0; c < 32; c++) {
        const unsigned at = c % 8 * 8 + c / 8 * 2, v = c / 4, j = c % 4;
        const unsigned index = (code_bit(code, at) ^ code_bit(code, at + 5))
                               + 2 * (code_bit(code, at + 1) ^ code_bit(code, at + 6))
                               + 4 * code_bit(code, at + 2) + 8 * code_bit(code, at + 3);
        const unsigned u2 = word[2 + v / 4] >> (8 * j + v % 4 * 2) & 3;
        if (type == ERN_C2) level[c] = ern_c2_level[index];
        if (type == ERN_C3) level[c] = ern_c3_level[index + 16 * (word[2] >> (8 * j + v) & 1)];
        if (type == ERN_C4) level[c] = ern_c4_level[index + 16 * u2];
    }
}

static unsigned put_scale(unsigned char *scale, unsigned type, uint32_t b, uint32_t r, test_kind kind,
                          bool real_row)
{
    uint32_t s = kind == TEST_EXTREME ? 255 : random_below(256);
    if ((kind == TEST_ZERO_SCALES && random_below(2)) || !real_row) s = 0;
    if (type <= ERN_W4) return scale[b * 16 + r] = (unsigned char)s;
    scale[b / 2 * 16 + r] |= (unsigned char)(b % 2 ? s & 0xf0 : s >> 4);
    return (s >> 4) + 4;
}

static void fill_group(test_matrix *t, uint32_t group, test_kind kind)
{
    const uint32_t n_blocks = ern_n_blocks(t->m.n_cols);
    const unsigned type = t->m.type;
    unsigned char *p = t->bytes + group * ern_group_bytes(type, t->m.n_cols);
    unsigned char *scale = p + 64, *code = scale + ern_group_scale_bytes(type, n_blocks);
    for (uint32_t r = 0; r < 16; r++) {
        const bool real_row = 16 * group + r < t->m.n_rows;
        const float row_scale = real_row ? 1e-4f * (1.5f + random_float()) : 0.0f;
        put_float(p + 4 * r, row_scale);
        for (uint32_t b = 0; b < n_blocks; b++) {
            const unsigned s = put_scale(scale, type, b, r, kind, real_row);
            double q[32];
            if (type > ERN_W4) put_words(code + b * ern_block_bytes(type), type, r, kind, q);
            for (uint32_t c = 0; c < 32; c++) {
                const uint32_t col = 32 * b + c;
                if (type <= ERN_W4) q[c] = put_code(code, type, b, r, c, kind);
                if (real_row && col < t->m.n_cols)
                    t->value[(16 * group + r) * t->m.n_cols + col] = (double)row_scale * s * q[c];
            }
        }
    }
}

static void fill_row(test_matrix *t, uint32_t row)
{
    unsigned char *p = t->bytes + row * ern_row_bytes(t->m.type, t->m.n_cols);
    for (uint32_t c = 0; c < t->m.n_cols; c++) {
        const float x = random_float();
        double *value = &t->value[row * t->m.n_cols + c];
        if (t->m.type == ERN_F32) {
            put_float(p + 4 * c, x);
            *value = (double)x;
        } else {
            const bool f16 = t->m.type == ERN_F16;
            const uint16_t h = f16 ? ern_f32_to_f16(x) : ern_f32_to_bf16(x);
            memcpy(p + 2 * c, &h, sizeof h);
            *value = (double)(f16 ? ern_f16_to_f32(h) : ern_bf16_to_f32(h));
        }
    }
}

static test_matrix new_matrix(unsigned type, uint32_t n_rows, uint32_t n_cols, test_kind kind)
{
    test_matrix t = { .m = { .type = type, .n_rows = n_rows, .n_cols = n_cols } };
    t.n_bytes = ern_matrix_bytes(type, n_rows, n_cols);
    t.bytes = new_bytes(t.n_bytes);
    memset(t.bytes, 0, t.n_bytes);
    t.value = new_bytes(sizeof(double) * n_rows * n_cols);
    t.m.data = t.bytes;
    if (ern_type_is_grouped(type))
        for (uint32_t g = 0; g < ern_n_groups(n_rows); g++) fill_group(&t, g, kind);
    else
        for (uint32_t r = 0; r < n_rows; r++) fill_row(&t, r);
    return t;
}

static void free_matrix(test_matrix *t)
{
    free_bytes(t->value, sizeof(double) * t->m.n_rows * t->m.n_cols);
    free_bytes(t->bytes, t->n_bytes);
}

/* ---- Activations --------------------------------------------------------------------------- */

typedef struct test_act {
    ern_act a;
    float *x, *q_scale;
    int8_t *q;
    int32_t *q_sum;
} test_act;

enum { X_STRIDE = COLS_MAX + 16, Q_STRIDE = COLS_MAX + 64, S_STRIDE = 48 };

static test_act new_act(const ern_kernels *k, size_t n_tokens, size_t n_cols, test_kind kind)
{
    test_act t;
    t.x = new_bytes(sizeof(float) * n_tokens * X_STRIDE);
    t.q = new_bytes(n_tokens * Q_STRIDE);
    t.q_scale = new_bytes(sizeof(float) * n_tokens * S_STRIDE);
    t.q_sum = new_bytes(sizeof(int32_t) * n_tokens * S_STRIDE);
    for (size_t i = 0; i < n_tokens; i++) {
        float *x = t.x + i * X_STRIDE;
        random_floats(x, n_cols);
        if (kind == TEST_EXTREME)
            for (size_t c = 0; c < n_cols; c++) x[c] = x[c] < 0 ? -2.0f : 2.0f; /* q is +-127 */
        if (kind == TEST_ZERO_SCALES)
            for (size_t c = 0; c < n_cols; c++)
                if (c / 32 % 2) x[c] = 0;
        k->quantize(x, n_cols, t.q + i * Q_STRIDE, t.q_scale + i * S_STRIDE, t.q_sum + i * S_STRIDE);
    }
    const ern_act a = { t.x, X_STRIDE, t.q, Q_STRIDE, t.q_scale, t.q_sum, S_STRIDE, n_tokens };
    t.a = a;
    return t;
}

static void free_act(test_act *t)
{
    const size_t n = t->a.n_tokens;
    free_bytes(t->x, sizeof(float) * n * X_STRIDE);
    free_bytes(t->q, n * Q_STRIDE);
    free_bytes(t->q_scale, sizeof(float) * n * S_STRIDE);
    free_bytes(t->q_sum, sizeof(int32_t) * n * S_STRIDE);
}

/* ---- Products ------------------------------------------------------------------------------ */

enum { Y_STRIDE = ROWS_MAX + 16 };

/* y[t][r] against the sum in double precision; what the integer path sees is q * q_scale. */
static void check_product(const test_matrix *m, const test_act *t, const float *y)
{
    const bool quantized = ern_type_is_grouped(m->m.type);
    for (size_t i = 0; i < t->a.n_tokens; i++)
        for (uint32_t r = 0; r < 16 * ern_n_groups(m->m.n_rows); r++) {
            double sum = 0, size = 0;
            for (uint32_t c = 0; r < m->m.n_rows && c < m->m.n_cols; c++) {
                const double x = quantized ? (double)t->q_scale[i * S_STRIDE + c / 32] * t->q[i * Q_STRIDE + c]
                                           : (double)t->x[i * X_STRIDE + c];
                sum += m->value[r * m->m.n_cols + c] * x;
                size += fabs(m->value[r * m->m.n_cols + c] * x);
            }
            const double error = fabs(sum - (double)y[i * Y_STRIDE + r]);
            if (!(error <= 2e-6 * size))
                fail_msg("type %u, %u x %u: row %u token %zu is %g, not %g", (unsigned)m->m.type,
                         m->m.n_rows, m->m.n_cols, r, i, (double)y[i * Y_STRIDE + r], sum);
        }
}

/* Group by group, token by token: neither may change a bit. */
static void check_parts(const ern_kernels *k, const test_matrix *m, const test_act *t, const float *y)
{
    float *part = new_bytes(sizeof(float) * Y_STRIDE);
    const uint32_t group = random_below(ern_n_groups(m->m.n_rows));
    const size_t token = random_below((uint32_t)t->a.n_tokens);
    ern_act one = t->a;
    one.n_tokens = 1;
    one.x += token * one.x_stride;
    one.q += token * one.q_stride;
    one.q_scale += token * one.s_stride;
    one.q_sum += token * one.s_stride;
    k->matmul[m->m.type](&m->m, group, group + 1, &one, part, Y_STRIDE);
    assert_true(same_bits(part, y + token * Y_STRIDE + 16 * group, 16 * sizeof *part));
    free_bytes(part, sizeof(float) * Y_STRIDE);
}

static void check_matmul(unsigned type, uint32_t n_rows, uint32_t n_cols, size_t n_tokens,
                         test_kind kind)
{
    const size_t y_bytes = sizeof(float) * TOKENS_MAX * Y_STRIDE;
    const uint32_t n_groups = ern_n_groups(n_rows);
    test_matrix m = new_matrix(type, n_rows, n_cols, kind);
    test_act t = new_act(ern_kernels_find("base"), n_tokens, n_cols, kind);
    float *base = new_bytes(y_bytes), *y = new_bytes(y_bytes);
    ern_kernels_at(0)->matmul[type](&m.m, 0, n_groups, &t.a, base, Y_STRIDE);
    check_product(&m, &t, base);
    const ern_kernels *k;
    for (size_t i = 0; (k = ern_kernels_at(i)) != NULL; i++) {
        memset(y, 0xff, y_bytes);
        k->matmul[type](&m.m, 0, n_groups, &t.a, y, Y_STRIDE);
        if (!same_bits(y, base, y_bytes))
            fail_msg("%s, type %u, %u x %u, %zu tokens: not as base", k->name, type, n_rows, n_cols,
                     n_tokens);
        check_parts(k, &m, &t, y);
    }
    free_bytes(base, y_bytes);
    free_bytes(y, y_bytes);
    free_act(&t);
    free_matrix(&m);
}

/* One draw a statement: the order of evaluation of arguments is the compiler's choice, and all
 * compilers shall test the same shapes. */
static void check_random_matmul(unsigned type, test_kind kind)
{
    const uint32_t n_rows = 1 + random_below(70);
    const uint32_t n_cols = 1 + random_below(300);
    const size_t n_tokens = 1 + random_below(19);
    check_matmul(type, n_rows, n_cols, n_tokens, kind);
}

static void test_matmul_random(void **state)
{
    (void)state;
    for (unsigned type = 0; type < ERN_N_TYPES; type++)
        for (int i = 0; i < 40; i++) check_random_matmul(type, TEST_RANDOM);
}

static void test_matmul_edges(void **state)
{
    (void)state;
    static const uint32_t size[] = { 1, 2, 15, 16, 17, 31, 32, 33, 64 };
    for (unsigned type = 0; type < ERN_N_TYPES; type++)
        for (size_t i = 0; i < ERN_COUNT(size); i++)
            for (size_t n = 1; n <= 19; n++)
                check_matmul(type, size[(i + n) % ERN_COUNT(size)], size[i], n, TEST_RANDOM);
}

/* Sets that cut the columns or the tokens of a call in parts. */
static void test_matmul_wide(void **state)
{
    (void)state;
    static const uint32_t n_cols[] = { 480, 512, 513, 1024, 1025, COLS_MAX };
    static const size_t n_tokens[] = { 1, 2, 4, 16, 17, 31, 32, TOKENS_MAX };
    for (unsigned type = ERN_W8; type < ERN_N_TYPES; type++)
        for (size_t i = 0; i < ERN_COUNT(n_cols); i++)
            for (size_t n = 0; n < ERN_COUNT(n_tokens); n++)
                check_matmul(type, 33, n_cols[i], n_tokens[n], TEST_RANDOM);
}

static void test_matmul_extremes(void **state)
{
    (void)state;
    for (unsigned type = ERN_W8; type < ERN_N_TYPES; type++)
        for (int i = 0; i < 10; i++) {
            check_random_matmul(type, TEST_EXTREME);
            check_random_matmul(type, TEST_ZERO_SCALES);
        }
}

static void test_row(void **state)
{
    (void)state;
    for (unsigned type = 0; type < ERN_N_TYPES; type++)
        for (int n = 0; n < 20; n++) {
            const uint32_t n_rows = 1 + random_below(40);
            const uint32_t n_cols = 1 + random_below(100);
            test_matrix m = new_matrix(type, n_rows, n_cols, TEST_RANDOM);
            const ern_kernels *k;
            const uint32_t row = random_below(n_rows);
            float base[104];
            for (size_t i = 0; (k = ern_kernels_at(i)) != NULL; i++) {
                float out[104];
                for (size_t c = 0; c < 104; c++) out[c] = 77.0f;
                k->row[type](&m.m, row, out);
                for (uint32_t c = 0; c < n_cols; c++) {
                    const double want = m.value[row * n_cols + c];
                    assert_true(fabs((double)out[c] - want) <= 2e-7 * fabs(want));
                }
                for (uint32_t c = n_cols; c < 104; c++) assert_true(out[c] == 77.0f);
                if (i == 0) memcpy(base, out, sizeof base);
                assert_int_equal(memcmp(out, base, sizeof base), 0);
            }
            free_matrix(&m);
        }
}

/* ---- Quantization -------------------------------------------------------------------------- */

static void check_quantize(const float *x, size_t n)
{
    const size_t n_blocks = (n + 31) / 32;
    int8_t q[2][COLS_MAX];
    float scale[2][COLS_MAX / 32];
    int32_t sum[2][COLS_MAX / 32];
    ern_kernels_at(0)->quantize(x, n, q[0], scale[0], sum[0]);
    for (size_t b = 0; b < n_blocks; b++) {
        float max = 0;
        int32_t total = 0;
        for (size_t i = 32 * b; i < 32 * b + 32; i++) {
            const float v = i < n ? x[i] : 0;
            max = fabsf(v) > max ? fabsf(v) : max;
            total += q[0][i];
            assert_true(fabsf((float)q[0][i] * scale[0][b] - v) <= 0.501f * scale[0][b] + 1e-30f);
            assert_true(i < n || q[0][i] == 0);
            assert_true(q[0][i] >= -127);
        }
        assert_true(scale[0][b] == (max < 1e-30f ? 0.0f : max / 127));
        assert_int_equal(sum[0][b], total);
    }
    const ern_kernels *k;
    for (size_t i = 1; (k = ern_kernels_at(i)) != NULL; i++) {
        k->quantize(x, n, q[1], scale[1], sum[1]);
        assert_true(same_bits(q[0], q[1], 32 * n_blocks));
        assert_true(same_bits(scale[0], scale[1], n_blocks * sizeof(float)));
        assert_true(same_bits(sum[0], sum[1], n_blocks * sizeof(int32_t)));
    }
}

static void test_quantize(void **state)
{
    (void)state;
    float x[COLS_MAX];
    for (int i = 0; i < 500; i++) {
        const size_t n = 1 + random_below(COLS_MAX);
        const float factor = ldexpf(1.0f, (int)random_below(200) - 110);
        random_floats(x, n);
        for (size_t j = 0; j < n; j++) x[j] *= factor;
        check_quantize(x, n);
    }
    for (size_t i = 0; i < COLS_MAX; i++) x[i] = (float)((int)(i * 37 % 255) - 127) / 2; /* ties */
    x[0] = 127;
    check_quantize(x, COLS_MAX);
    memset(x, 0, sizeof x);
    check_quantize(x, 33);
    x[0] = 1e-31f;
    x[32] = -1e-30f;
    x[64] = -3e38f;
    check_quantize(x, 65);
}

/* ---- Plain vectors ------------------------------------------------------------------------- */

/* Run `call` for each set k on a copy y of x [n], compare with base's bits; leaves base's y. */
#define FOR_EACH_SET(x, y, n, call)                                                  \
    do {                                                                             \
        float base_[1024];                                                           \
        const ern_kernels *k;                                                        \
        for (size_t i_ = 0; (k = ern_kernels_at(i_)) != NULL; i_++) {                \
            memcpy((y), (x), (n) * sizeof(float));                                   \
            call;                                                                    \
            if (i_ == 0) memcpy(base_, (y), (n) * sizeof(float));                    \
            assert_true(same_bits(base_, (y), (n) * sizeof(float)));                 \
        }                                                                            \
    } while (0)

static bool is_near(float got, double want, double relative)
{
    return fabs((double)got - want) <= relative * fabs(want);
}

static void test_rmsnorm(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 100; n++) {
        float x[128], w[128], y[128];
        double sum = 0;
        random_floats(x, 128);
        random_floats(w, 128);
        for (size_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
        FOR_EACH_SET(x, y, 128, k->rmsnorm(x, w, n, 1e-5f, y)); /* beyond n: untouched, as x */
        FOR_EACH_SET(x, y, 128, k->rmsnorm(y, w, n, 1e-5f, y));
        for (size_t i = 0; i < n; i++)
            assert_true(is_near(y[i], (double)x[i] / sqrt(sum / (double)n + (double)1e-5f) * (double)w[i], 1e-6));
        assert_true(same_bits(x + n, y + n, (128 - n) * sizeof(float)));
    }
}

static void test_sums(void **state)
{
    (void)state;
    for (size_t n = 0; n <= 100; n++) {
        float x[128], y0[128], y[128];
        random_floats(x, 128);
        random_floats(y0, 128);
        FOR_EACH_SET(y0, y, 128, k->add(y, x, n));
        for (size_t i = 0; i < 128; i++) assert_true(y[i] == (i < n ? y0[i] + x[i] : y0[i]));
        FOR_EACH_SET(y0, y, 128, k->add_scaled(y, x, 0.3f, n));
        for (size_t i = 0; i < 128; i++) assert_true(y[i] == (i < n ? fmaf(0.3f, x[i], y0[i]) : y0[i]));
        FOR_EACH_SET(y0, y, 128, k->scale(y, -0.7f, n));
        for (size_t i = 0; i < 128; i++) assert_true(y[i] == (i < n ? y0[i] * -0.7f : y0[i]));
        if (n == 0) continue;
        float top = y0[0];
        for (size_t i = 1; i < n; i++) top = y0[i] > top ? y0[i] : top;
        FOR_EACH_SET(y0, y, 128, y[0] = k->max(y, n));
        assert_true(y[0] == top);
    }
}

static void test_max_infinite(void **state)
{
    (void)state;
    float x[40];
    for (size_t i = 0; i < 40; i++) x[i] = -INFINITY;
    const ern_kernels *k;
    for (size_t i = 0; (k = ern_kernels_at(i)) != NULL; i++) {
        assert_true(k->max(x, 40) == -INFINITY);
        assert_true(k->max(x, 3) == -INFINITY);
    }
}

static double silu(double z) { return z < 0 ? z * exp(z) / (1 + exp(z)) : z / (1 + exp(-z)); }

static void test_swiglu(void **state)
{
    (void)state;
    static const float edge[] = { 0, 1e-30f, -1e-30f, 20, -20, 80, -80, 88.5f, -88.5f, 1e4f, -1e4f };
    for (int n = 0; n < 200; n++) {
        float in[96], y[48];
        random_floats(in, 96);
        for (size_t i = 0; i < 96; i++) in[i] *= n % 2 ? 1 : 30;
        if (n == 0) memcpy(in, edge, sizeof edge);
        FOR_EACH_SET(in, y, 48, k->swiglu(in, 3, y));
        for (size_t i = 0; i < 48; i++) {
            const size_t at = i / 16 * 32 + i % 16;
            const double want = silu((double)in[at]) * (double)in[at + 16];
            assert_true(fabs((double)y[i] - want) <= 5e-7 * fabs(want) + 1e-37);
        }
    }
}

/* Below the least normal float a number may be off by half its last place, 7e-46 with the rounding
 * of the polynomial 8e-46, and a sum by that for each of its numbers. */
static void test_exp(void **state)
{
    (void)state;
    for (float x = 0; x > -110; x -= 0.37f) {
        float s[21], y[21];
        double sum = 0;
        const size_t n = 1 + random_below(20);
        for (size_t i = 0; i < 21; i++) s[i] = 3.0f + x - 0.37f * (float)random_below(65536) / 65536;
        s[0] = n == 7 ? -INFINITY : s[0];
        FOR_EACH_SET(s, y, 21, y[20] = k->exp_sum(y, n, 3.0f));
        for (size_t i = 0; i < n; i++) {
            const double want = exp((double)(s[i] - 3.0f));
            assert_true(fabs((double)y[i] - want) <= 1.2e-7 * want + 8e-46);
            sum += want;
        }
        assert_true(fabs((double)y[20] - sum) <= 5e-7 * sum + 8e-46 * (double)n);
        assert_true(n == 20 || y[n] == s[n]);
    }
}

static void test_exp_ends(void **state)
{
    (void)state;
    const ern_kernels *k;
    for (size_t i = 0; (k = ern_kernels_at(i)) != NULL; i++) {
        float s[18] = { 0.0f, -0.0f, -INFINITY, -104.5f, -1e30f, -103.0f, NAN };
        k->exp_sum(s, 7, 0.0f);
        assert_true(s[0] == 1 && s[1] == 1 && s[2] == 0 && s[3] == 0 && s[4] == 0);
        assert_true(s[5] > 0 && s[6] != s[6]);
        for (size_t j = 0; j < 18; j++) s[j] = -INFINITY;
        s[17] = 2.0f;
        assert_true(k->exp_sum(s, 18, 2.0f) == 1.0f);
        assert_true(s[0] == 0 && s[16] == 0 && s[17] == 1);
    }
}

static void test_rope(void **state)
{
    (void)state;
    for (size_t head_dim = 2; head_dim <= 128; head_dim += head_dim < 40 ? 2 : 8) {
        float x[400], y[400], cs[128];
        random_floats(x, 400);
        for (size_t i = 0; i < head_dim / 2; i++) {
            cs[2 * i] = cosf((float)i);
            cs[2 * i + 1] = sinf((float)i);
        }
        FOR_EACH_SET(x, y, 400, k->rope(y, 3, head_dim, cs));
        for (size_t i = 0; i < 3 * head_dim; i += 2) {
            const float c = cs[i % head_dim], s = cs[i % head_dim + 1];
            assert_true(fabsf(y[i] - (x[i] * c - x[i + 1] * s)) < 1e-6f);
            assert_true(fabsf(y[i + 1] - (x[i + 1] * c + x[i] * s)) < 1e-6f);
        }
        assert_true(same_bits(x + 3 * head_dim, y + 3 * head_dim, (400 - 3 * head_dim) * sizeof(float)));
    }
}

static void test_kv_store(void **state)
{
    (void)state;
    const ern_kernels *k;
    for (size_t i = 0; (k = ern_kernels_at(i)) != NULL; i++)
        for (size_t n = 0; n <= 70; n++) {
            float x[72], same[72] = { 0 };
            uint16_t h[72];
            for (size_t j = 0; j < 72; j++) {
                const int exponent = (int)random_below(50) - 30;
                x[j] = ldexpf(random_float(), exponent);
            }
            memset(h, 0x55, sizeof h);
            k->kv_store[ERN_KV_F16](x, n, h);
            k->kv_store[ERN_KV_F32](x, n, same);
            for (size_t j = 0; j < 72; j++) {
                assert_int_equal(h[j], j < n ? ern_f32_to_f16(x[j]) : 0x5555);
                assert_true(same[j] == (j < n ? x[j] : 0));
            }
        }
}

/* Codes and scales are those of quantized activations, and not a byte more is written. */
static void test_kv_store_q8(void **state)
{
    (void)state;
    const ern_kernels *k;
    for (size_t i = 0; (k = ern_kernels_at(i)) != NULL; i++)
        for (size_t n = 1; n <= 150; n++) {
            float x[150], scale[5];
            int8_t q[160];
            int32_t sum[5];
            unsigned char row[176];
            const int exponent = (int)random_below(160) - 110; /* some blocks are too small to store */
            for (size_t j = 0; j < n; j++) x[j] = ldexpf(random_float(), exponent + 20 * (int)(j / 32));
            const size_t n_bytes = ern_kv_row_bytes(ERN_KV_Q8, n);
            assert_int_equal(n_bytes, n + (n + 31) / 32 * 4);
            memset(row, 0x55, sizeof row);
            k->kv_store[ERN_KV_Q8](x, n, row);
            ern_kernels_at(0)->quantize(x, n, q, scale, sum);
            assert_true(same_bits(row, q, n));
            assert_true(same_bits(row + n, scale, n_bytes - n));
            for (size_t j = n_bytes; j < sizeof row; j++) assert_int_equal(row[j], 0x55);
        }
}

/* ---- Attention ----------------------------------------------------------------------------- */

typedef struct test_attention {
    size_t n_q, n_pos, head_dim, q_stride, stride /* bytes */, s_stride;
    float q[20 * 168], s[20 * 64], o[20 * 168];
    float kv[60 * 150]; /* [n_pos][head_dim] as numbers; rows at `cache`, which ends with the last */
    size_t cache_bytes;
    unsigned char *cache;
    ern_kv type;
} test_attention;

/* Random rows of the cache; t->kv becomes what they hold. */
static void new_cache(test_attention *t)
{
    const size_t d = t->head_dim, row_bytes = ern_kv_row_bytes(t->type, d);
    const size_t unit = t->type == ERN_KV_F32 ? 4 : t->type == ERN_KV_F16 ? 2 : 1;
    t->stride = row_bytes + unit * random_below(50);
    t->cache_bytes = (t->n_pos - 1) * t->stride + row_bytes;
    t->cache = new_bytes(t->cache_bytes);
    random_floats(t->kv, t->n_pos * d);
    for (size_t p = 0; p < t->n_pos; p++) {
        float *x = t->kv + p * d, scale;
        unsigned char *row = t->cache + p * t->stride;
        ern_kernels_at(0)->kv_store[t->type](x, d, row);
        for (size_t i = 0; i < d && t->type == ERN_KV_F16; i++)
            x[i] = ern_f16_to_f32(ern_f32_to_f16(x[i]));
        for (size_t i = 0; i < d && t->type == ERN_KV_Q8; i++) {
            memcpy(&scale, row + d + i / 32 * sizeof scale, sizeof scale);
            assert_true(fabsf(x[i] - scale * (float)(int8_t)row[i]) <= 0.501f * scale);
            x[i] = scale * (float)(int8_t)row[i];
        }
    }
}

static void new_attention(test_attention *t, ern_kv type)
{
    static const size_t dims[] = { 2, 6, 16, 24, 32, 40, 64, 80, 90, 96, 128, 130, 144, 150 };
    t->n_q = 1 + random_below(20);
    t->n_pos = 1 + random_below(60);
    t->head_dim = dims[random_below(ERN_COUNT(dims))];
    t->q_stride = t->head_dim + random_below(16);
    t->s_stride = t->n_pos + random_below(4);
    t->type = type;
    random_floats(t->q, ERN_COUNT(t->q));
    random_floats(t->s, ERN_COUNT(t->s));
    random_floats(t->o, ERN_COUNT(t->o));
    new_cache(t);
}

static void check_scores(const test_attention *t, const float *s)
{
    for (size_t i = 0; i < t->n_q; i++)
        for (size_t p = 0; p < t->n_pos; p++) {
            double sum = 0, size = 0;
            for (size_t d = 0; d < t->head_dim; d++) {
                const double x = (double)t->q[i * t->q_stride + d] * (double)t->kv[p * t->head_dim + d];
                sum += x;
                size += fabs(x);
            }
            assert_true(fabs((double)s[i * t->s_stride + p] - 0.125 * sum) <= 1e-6 * size);
        }
}

static void check_values(const test_attention *t, const float *o)
{
    for (size_t i = 0; i < t->n_q; i++)
        for (size_t d = 0; d < t->head_dim; d++) {
            double sum = (double)t->o[i * t->q_stride + d], size = fabs(sum);
            for (size_t p = 0; p < t->n_pos; p++) {
                const double x = (double)t->s[i * t->s_stride + p] * (double)t->kv[p * t->head_dim + d];
                sum += x;
                size += fabs(x);
            }
            assert_true(fabs((double)o[i * t->q_stride + d] - sum) <= 1e-6 * size);
        }
}

static void check_attention(const test_attention *t)
{
    float s[2][20 * 64], o[2][20 * 168], one[160];
    const ern_kernels *k;
    for (size_t i = 0; (k = ern_kernels_at(i)) != NULL; i++) {
        const size_t j = i > 0, last = t->n_q - 1;
        memset(s[j], 0, sizeof s[j]);
        memcpy(o[j], t->o, sizeof o[j]);
        k->attn_scores[t->type](t->q, t->n_q, t->q_stride, t->cache, t->n_pos, t->stride, t->head_dim,
                               0.125f, s[j], t->s_stride);
        k->attn_values[t->type](t->s, t->n_q, t->s_stride, t->cache, t->n_pos, t->stride, t->head_dim,
                               o[j], t->q_stride);
        assert_true(same_bits(s[0], s[j], sizeof s[0]));
        assert_true(same_bits(o[0], o[j], sizeof o[0]));
        k->attn_scores[t->type](t->q + last * t->q_stride, 1, t->q_stride, t->cache, t->n_pos,
                               t->stride, t->head_dim, 0.125f, one, t->s_stride);
        assert_true(same_bits(one, s[j] + last * t->s_stride, t->n_pos * sizeof *one));
    }
    check_scores(t, s[0]);
    check_values(t, o[0]);
}

static void test_attention_random(void **state)
{
    (void)state;
    static test_attention t;
    for (int i = 0; i < 450; i++) {
        new_attention(&t, (ern_kv)(i % ERN_N_KV));
        check_attention(&t);
        free_bytes(t.cache, t.cache_bytes);
    }
}

/* ---- The choice of a set ------------------------------------------------------------------- */

static void test_find(void **state)
{
    (void)state;
    size_t n = 0;
    const ern_kernels *k, *best = NULL;
    for (; (k = ern_kernels_at(n)) != NULL; n++) {
        assert_ptr_equal(ern_kernels_find(k->name), k);
        best = k;
    }
    printf("%zu sets, best %s\n", n, best->name);
    assert_string_equal(ern_kernels_at(0)->name, "base");
    assert_ptr_equal(ern_kernels_find(NULL), best);
    assert_ptr_equal(ern_kernels_find("auto"), best);
    assert_null(ern_kernels_find("sse9"));
    assert_null(ern_kernels_find(""));
    assert_null(ern_kernels_at(n + 5));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find),           cmocka_unit_test(test_matmul_random),
        cmocka_unit_test(test_matmul_edges),   cmocka_unit_test(test_matmul_wide),
        cmocka_unit_test(test_matmul_extremes),
        cmocka_unit_test(test_row),            cmocka_unit_test(test_quantize),
        cmocka_unit_test(test_rmsnorm),        cmocka_unit_test(test_sums),
        cmocka_unit_test(test_max_infinite),   cmocka_unit_test(test_swiglu),
        cmocka_unit_test(test_exp),            cmocka_unit_test(test_exp_ends),
        cmocka_unit_test(test_rope),           cmocka_unit_test(test_kv_store),
        cmocka_unit_test(test_kv_store_q8),    cmocka_unit_test(test_attention_random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
