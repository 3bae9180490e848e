/* Do all instruction sets compute what format.h and kernels.h say?
 *
 * Every set that this machine has is held against base to the last bit on random shapes, and base
 * is held against sums in double precision that are written here from the format's description.
 * Matrices come from a packer of this file's own. Padding that a kernel must not use is filled with
 * no-numbers, so a wrong end shows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "../../backends/cpu/kernels.h"

enum { TOKENS_MAX = 35, ROWS_MAX = 80, COLS_MAX = 1088 };

/* a * b + c rounded once; mingw-w64's fmaf rounds twice, its long double has digits to spare. */
static float rounded_once(float a, float b, float c)
{
#ifdef _WIN32
    return (float)((long double)a * b + c);
#else
    return fmaf(a, b, c);
#endif
}

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
        for (size_t i = 0; i < 128; i++) assert_true(y[i] == (i < n ? rounded_once(0.3f, x[i], y0[i]) : y0[i]));
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

/* ---- Rows of the cache --------------------------------------------------------------------- */

/* (-1)^(bits that i and j share) / sqrt(n), over pieces that are powers of two. */
static void test_hadamard(void **state)
{
    (void)state;
    for (size_t d = 2; d <= 260; d += d < 40 ? 2 : 22) {
        float x[600], y[600], back[600];
        random_floats(x, 600);
        FOR_EACH_SET(x, y, 600, k->hadamard(y, 2, d));
        for (size_t h = 0; h < 2; h++)
            for (size_t begin = 0, n; begin < d; begin += n) {
                for (n = 1; 2 * n <= d - begin;) n *= 2;
                for (size_t i = 0; i < n; i++) {
                    double sum = 0;
                    for (size_t j = 0; j < n; j++) {
                        unsigned shared = (unsigned)(i & j), odd = 0;
                        for (; shared; shared &= shared - 1) odd ^= 1;
                        sum += (odd ? -1.0 : 1.0) * (double)x[h * d + begin + j];
                    }
                    assert_true(fabs((double)y[h * d + begin + i] - sum / sqrt((double)n)) < 1e-5);
                }
            }
        assert_true(same_bits(x + 2 * d, y + 2 * d, (600 - 2 * d) * sizeof(float)));
        memcpy(back, y, sizeof back);
        ern_kernels_at(0)->hadamard(back, 2, d);
        for (size_t i = 0; i < 2 * d; i++) assert_true(fabsf(back[i] - x[i]) < 1e-5f);
    }
}

static void test_store_plain(void **state)
{
    (void)state;
    const ern_kernels *k;
    for (size_t i = 0; (k = ern_kernels_at(i)) != NULL; i++)
        for (size_t n = 0; n <= 70; n++) {
            float x[72], same[72] = { 0 };
            uint16_t h[72], other[72];
            for (size_t j = 0; j < 72; j++) {
                const int exponent = (int)random_below(50) - 30;
                x[j] = ldexpf(random_float(), exponent);
            }
            memset(h, 0x55, sizeof h);
            memset(other, 0x55, sizeof other);
            k->key_store[ERN_KV_F16](x, n, h);
            k->value_store[ERN_KV_F16](x, n, other);
            k->key_store[ERN_KV_F32](x, n, same);
            assert_true(same_bits(h, other, sizeof h));
            for (size_t j = 0; j < 72; j++) {
                assert_int_equal(h[j], j < n ? ern_f32_to_f16(x[j]) : 0x5555);
                assert_true(same[j] == (j < n ? x[j] : 0));
            }
            k->value_store[ERN_KV_F32](x, n, same);
            assert_true(same_bits(same, x, n * sizeof *x));
        }
}

/* The scale of a number of a quantized row, and the number, as kv.h describes them. */
static float row_scale(ern_kv kv, bool is_key, const unsigned char *row, size_t n, size_t i)
{
    const size_t n_blocks = (n + 31) / 32, width = kv == ERN_KV_Q8 ? 32 : is_key ? 20 : 16;
    uint16_t scale;
    memcpy(&scale, row + n_blocks * width + i / 32 * 2, sizeof scale);
    return ern_bf16_to_f32(scale);
}

static float row_number(ern_kv kv, bool is_key, const unsigned char *row, size_t n, size_t i)
{
    const float scale = row_scale(kv, is_key, row, n, i);
    const unsigned char *block = row + i / 32 * 16;
    if (kv == ERN_KV_Q8) return scale * (float)(int8_t)row[i];
    if (!is_key) {
        const unsigned code = i % 32 < 16 ? block[i % 16] & 15u : block[i % 16] >> 4;
        return scale * (float)ern_w4_level[code];
    }
    const unsigned byte = block[i % 32 / 8 * 4 + i % 4], four = i / 4 % 2 ? byte >> 4 : byte & 15u;
    const unsigned fifth = (unsigned)row[(n + 31) / 32 * 16 + i / 8] >> i % 8 & 1u;
    return scale * (float)(2 * (int)(four | fifth << 4) - 31);
}

/* Every set writes the row that base writes, and not a byte more. Some blocks are too small to store. */
static void store_everywhere(ern_kv kv, bool is_key, const float *x, size_t n, unsigned char row[256])
{
    const size_t n_bytes = is_key ? ern_kv_key_bytes(kv, n) : ern_kv_value_bytes(kv, n);
    const ern_kernels *k;
    for (size_t i = 0; (k = ern_kernels_at(i)) != NULL; i++) {
        unsigned char got[256];
        memset(got, 0x55, sizeof got);
        (is_key ? k->key_store : k->value_store)[kv](x, n, got);
        for (size_t j = n_bytes; j < sizeof got; j++) assert_int_equal(got[j], 0x55);
        if (i > 0) assert_true(same_bits(got, row, sizeof got));
        memcpy(row, got, sizeof got);
    }
}

static float block_peak(const float *x, size_t n)
{
    float peak = 0;
    for (size_t i = 0; i < n; i++) peak = fabsf(x[i]) > peak ? fabsf(x[i]) : peak;
    return peak;
}

/* q8, and keys of q4: the scale is the peak over the greatest code, numbers are off by half of a step, the
 * peak by what rounding the scale to bf16 adds. */
static void test_store_linear(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 150; n++)
        for (int part = 0; part < 3; part++) {
            const ern_kv kv = part < 2 ? ERN_KV_Q8 : ERN_KV_Q4;
            const bool is_key = part != 1;
            const float top = kv == ERN_KV_Q8 ? 127.0f : 31.0f, half = kv == ERN_KV_Q8 ? 0.5f : 1.0f;
            const int exponent = (int)random_below(160) - 110;
            unsigned char row[256];
            float x[150];
            for (size_t j = 0; j < n; j++) x[j] = ldexpf(random_float(), exponent + 20 * (int)(j / 32));
            if (n % 3 == 0) memset(x, 0, ern_min_size(n, 32) * sizeof *x);
            store_everywhere(kv, is_key, x, n, row);
            for (size_t b = 0; b < n; b += 32) {
                const float peak = block_peak(x + b, ern_min_size(32, n - b));
                const float scale = row_scale(kv, is_key, row, n, b);
                if (peak < 1e-30f) assert_true(scale == 0);
                else assert_true(fabsf(scale * top - peak) <= peak / 256);
                for (size_t j = b; j < n && j < b + 32 && scale > 0; j++)
                    assert_true(fabsf(row_number(kv, is_key, row, n, j) - x[j])
                                <= 1.001f * half * scale + (fabsf(x[j]) == peak ? peak / 256 : 0));
            }
        }
}

/* Values of q4: each number takes the nearest level (37 and -36 change places at 36.5), and no scale that the
 * peak at 48, 66 or 75 gives is better by more than
 * rounding costs. */
static void test_store_q4_values(void **state)
{
    (void)state;
    for (size_t n = 1; n <= 150; n++) {
        unsigned char row[256];
        float x[150];
        const int exponent = (int)random_below(90) - 60;
        for (size_t j = 0; j < n; j++) x[j] = ldexpf(random_float(), exponent + 20 * (int)(j / 32));
        store_everywhere(ERN_KV_Q4, false, x, n, row);
        for (size_t b = 0; b < n; b += 32) {
            const size_t end = ern_min_size(n, b + 32);
            const float scale = row_scale(ERN_KV_Q4, false, row, n, b);
            const double peak = (double)block_peak(x + b, end - b);
            double error = 0, least = INFINITY;
            assert_true(scale > 0);
            for (size_t j = b; j < end; j++) {
                const double off = (double)row_number(ERN_KV_Q4, false, row, n, j) - (double)x[j];
                error += off * off;
                for (int l = 0; l < 16; l++)
                    assert_true(fabs(off) <= fabs((double)(scale * (float)ern_w4_level[l] - x[j]))
                                                 + 0.6 * (double)scale);
            }
            for (double top = 48; top <= 75; top = top == 48 ? 66 : top + 9) {
                double sum = 0;
                for (size_t j = b; j < end; j++) {
                    double off = INFINITY;
                    for (int l = 0; l < 16; l++)
                        off = fmin(off, fabs(peak / top * ern_w4_level[l] - (double)x[j]));
                    sum += off * off;
                }
                least = fmin(least, sum);
            }
            assert_true(error <= least + 4e-3 * peak * peak);
        }
    }
}

/* ---- Attention ----------------------------------------------------------------------------- */

typedef struct test_attention {
    ern_act q; /* its floats are what its int8 form holds, where keys are quantized */
    size_t n_pos, head_dim, s_stride;
    float x[20 * 192], s[20 * 64], o[20 * 168];
    int8_t code[20 * 192];
    float scale[20 * 16];
    int32_t sum[20 * 16];
    float keys[60 * 150], values[60 * 150]; /* [n_pos][head_dim] as numbers */
    size_t keys_bytes, values_bytes;        /* of the cache, which ends with its last row or group */
    unsigned char *key_cache, *value_cache;
    ern_kv type;
} test_attention;

/* Random rows; x becomes what the cache holds. */
static void new_row(ern_kv kv, bool is_key, float *x, size_t d, unsigned char row[1024])
{
    const ern_kernels *k = ern_kernels_at(0);
    (is_key ? k->key_store : k->value_store)[kv](x, d, row);
    for (size_t i = 0; i < d; i++)
        if (kv == ERN_KV_F16) x[i] = ern_f16_to_f32(ern_f32_to_f16(x[i]));
        else if (kv != ERN_KV_F32) x[i] = row_number(kv, is_key, row, d, i);
}

static void new_cache(test_attention *t)
{
    const size_t d = t->head_dim, group = ern_kv_group(t->type);
    const size_t value_bytes = ern_kv_value_bytes(t->type, d);
    t->keys_bytes = (t->n_pos + group - 1) / group * ern_kv_group_bytes(t->type, d);
    t->values_bytes = t->n_pos * value_bytes;
    t->key_cache = new_bytes(t->keys_bytes);
    t->value_cache = new_bytes(t->values_bytes);
    random_floats(t->keys, t->n_pos * d);
    random_floats(t->values, t->n_pos * d);
    for (size_t p = 0; p < t->n_pos; p++) {
        unsigned char row[1024];
        new_row(t->type, true, t->keys + p * d, d, row);
        ern_kv_key_put(t->type, d, t->key_cache, p, row);
        new_row(t->type, false, t->values + p * d, d, row);
        memcpy(t->value_cache + p * value_bytes, row, value_bytes);
    }
}

static void new_queries(test_attention *t)
{
    const size_t d = t->head_dim, n_blocks = ern_kv_blocks(d);
    t->q = (ern_act){ .x = t->x,         .x_stride = d + random_below(16),
                      .q = t->code,      .q_stride = ern_round_up(d, 32) + random_below(16),
                      .q_scale = t->scale, .q_sum = t->sum, .s_stride = n_blocks + random_below(4),
                      .n_tokens = 1 + random_below(20) };
    random_floats(t->x, ERN_COUNT(t->x));
    for (size_t i = 0; i < t->q.n_tokens && ern_kv_quantized(t->type); i++) {
        float *x = t->x + i * t->q.x_stride, *scale = t->scale + i * t->q.s_stride;
        int8_t *q = t->code + i * t->q.q_stride;
        ern_kernels_at(0)->quantize(x, d, q, scale, t->sum + i * t->q.s_stride);
        for (size_t j = 0; j < d; j++) x[j] = scale[j / 32] * (float)q[j];
    }
}

static void new_attention(test_attention *t, ern_kv type)
{
    static const size_t dims[] = { 2, 6, 16, 24, 32, 40, 64, 80, 90, 96, 128, 130, 144, 150 };
    t->n_pos = 1 + random_below(60);
    t->head_dim = dims[random_below(ERN_COUNT(dims))];
    t->s_stride = t->n_pos + random_below(4);
    t->type = type;
    random_floats(t->s, ERN_COUNT(t->s));
    random_floats(t->o, ERN_COUNT(t->o));
    new_queries(t);
    new_cache(t);
}

static void check_scores(const test_attention *t, const float *s)
{
    for (size_t i = 0; i < t->q.n_tokens; i++)
        for (size_t p = 0; p < t->n_pos; p++) {
            double sum = 0, size = 0;
            for (size_t d = 0; d < t->head_dim; d++) {
                const double x = (double)t->x[i * t->q.x_stride + d] * (double)t->keys[p * t->head_dim + d];
                sum += x;
                size += fabs(x);
            }
            assert_true(fabs((double)s[i * t->s_stride + p] - 0.125 * sum) <= 1e-6 * size);
        }
}

/* The output's stride is the queries'. */
static void check_values(const test_attention *t, const float *o)
{
    for (size_t i = 0; i < t->q.n_tokens; i++)
        for (size_t d = 0; d < t->head_dim; d++) {
            double sum = (double)t->o[i * t->q.x_stride + d], size = fabs(sum);
            for (size_t p = 0; p < t->n_pos; p++) {
                const double x = (double)t->s[i * t->s_stride + p] * (double)t->values[p * t->head_dim + d];
                sum += x;
                size += fabs(x);
            }
            assert_true(fabs((double)o[i * t->q.x_stride + d] - sum) <= 1e-6 * size);
        }
}

static void check_attention(const test_attention *t)
{
    float s[2][20 * 64], o[2][20 * 168], one[160];
    const ern_kernels *k;
    for (size_t i = 0; (k = ern_kernels_at(i)) != NULL; i++) {
        const size_t j = i > 0, n = t->q.n_tokens, last = n - 1;
        memset(s[j], 0, sizeof s[j]);
        memcpy(o[j], t->o, sizeof o[j]);
        k->attn_scores[t->type](&t->q, t->key_cache, t->n_pos, t->head_dim, 0.125f, s[j], t->s_stride);
        k->attn_values[t->type](t->s, n, t->s_stride, t->value_cache, t->n_pos, t->head_dim, o[j],
                                t->q.x_stride);
        assert_true(same_bits(s[0], s[j], sizeof s[0]));
        assert_true(same_bits(o[0], o[j], sizeof o[0]));
        ern_act q = t->q;
        q.x += last * q.x_stride;
        q.q += last * q.q_stride;
        q.q_scale += last * q.s_stride;
        q.q_sum += last * q.s_stride;
        q.n_tokens = 1;
        k->attn_scores[t->type](&q, t->key_cache, t->n_pos, t->head_dim, 0.125f, one, t->s_stride);
        assert_true(same_bits(one, s[j] + last * t->s_stride, t->n_pos * sizeof *one));
    }
    check_scores(t, s[0]);
    check_values(t, o[0]);
}

static void test_attention_random(void **state)
{
    (void)state;
    static test_attention t;
    for (int i = 0; i < 600; i++) {
        new_attention(&t, (ern_kv)(i % ERN_N_KV));
        check_attention(&t);
        free_bytes(t.key_cache, t.keys_bytes);
        free_bytes(t.value_cache, t.values_bytes);
    }
}

/* The extremes of every code and query, where sums of 16 bits would end. */
static void test_attention_extremes(void **state)
{
    (void)state;
    static const unsigned char bytes[] = { 0x80, 0x7f, 0xff, 0x00 };
    for (size_t b = 0; b < sizeof bytes; b++)
        for (int sign = -1; sign <= 1; sign += 2)
            for (unsigned kv = ERN_KV_Q8; kv <= ERN_KV_Q4; kv++) {
                unsigned char keys[4096];
                int8_t q[64];
                const float scale[2] = { 1, 1 };
                const int32_t sum[2] = { sign * 127 * 32, sign * 127 * 32 };
                const uint16_t one = ern_f32_to_bf16(1);
                const size_t scales = ern_kv_group_scales((ern_kv)kv, 2);
                memset(keys, bytes[b], sizeof keys);
                memset(q, sign * 127, sizeof q);
                for (size_t i = 0; i < 32; i++) memcpy(keys + scales + 2 * i, &one, sizeof one);
                const ern_act act = { NULL, 0, q, 64, scale, sum, 2, 1 };
                const int low = kv == ERN_KV_Q8 ? (int8_t)bytes[b]
                                                : 2 * (int)((bytes[b] & 15u) | (bytes[b] & 1u) << 4) - 31;
                const ern_kernels *k;
                for (size_t i = 0; (k = ern_kernels_at(i)) != NULL; i++) {
                    float s[16];
                    k->attn_scores[kv](&act, keys, 16, 64, 1.0f, s, 16);
                    if (kv == ERN_KV_Q8 || bytes[b] == 0 || bytes[b] == 0xff)
                        for (size_t r = 0; r < 16; r++) assert_true(s[r] == (float)(sign * 127 * 64 * low));
                }
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
        cmocka_unit_test(test_rope),           cmocka_unit_test(test_hadamard),
        cmocka_unit_test(test_store_plain),    cmocka_unit_test(test_store_linear),
        cmocka_unit_test(test_store_q4_values),
        cmocka_unit_test(test_attention_random),
        cmocka_unit_test(test_attention_extremes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
