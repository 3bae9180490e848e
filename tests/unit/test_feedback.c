/* Feedback of errors: the coefficients are those of a plain computation, they make errors cost
 * less, and moments that are none are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../tools/convert/feedback.c"
#include "group_values.h"

enum { BLOCK = ERN_BLOCK_COLS };

static const uint32_t widths[] = { 1, 20, 32, 33, 96, 200 };

static float *moments(uint32_t n, double shared)
{
    float *h = malloc((size_t)n * n * sizeof *h);
    assert_non_null(h);
    values_moments(h, n, shared);
    return h;
}

static float *weights(uint32_t n)
{
    float *w = malloc(ERN_GROUP_ROWS * (size_t)n * sizeof *w);
    assert_non_null(w);
    for (size_t i = 0; i < ERN_GROUP_ROWS * (size_t)n; i++) w[i] = 0.02f * values_gauss();
    return w;
}

/* ---- A plain computation --------------------------------------------------------------------- */

/* R [n][n], upper triangular, with R R' = h scaled to a mean diagonal of 1 and damped; padding
 * columns stand by themselves. */
static double *plain_factor(const float *h, size_t n_cols, size_t n, double damping)
{
    double *r = calloc(n * n, sizeof *r), trace = 0;
    assert_non_null(r);
    for (size_t i = 0; i < n_cols; i++) trace += (double)h[i * n_cols + i];
    for (size_t c = n; c-- > 0;)
        for (size_t i = c + 1; i-- > 0;) {
            double left = i == c ? damping : 0;
            if (c < n_cols) left += (double)h[i * n_cols + c] * (double)n_cols / trace;
            else left = i == c;
            for (size_t k = c + 1; k < n; k++) left -= r[i * n + k] * r[c * n + k];
            r[i * n + c] = i == c ? sqrt(left) : left / r[c * n + c];
        }
    return r;
}

/* x with x R_bb = row j's part of R in block b. */
static void plain_pull(const double *r, size_t n, size_t b, size_t j, double x[BLOCK])
{
    for (size_t c = 0; c < BLOCK; c++) {
        const size_t column = b * BLOCK + c;
        x[c] = r[j * n + column];
        for (size_t k = 0; k < c; k++) x[c] -= x[k] * r[(b * BLOCK + k) * n + column];
        x[c] /= r[column * n + column];
    }
}

/* The least of |f R_bb|^2 with f_c = 1 and the rest of the block free: by elimination,
 * f_k for k != c solves the normal equations of S = R_bb R_bb'. */
static double plain_alone(const double *r, size_t n, size_t b, size_t c)
{
    double s[BLOCK][BLOCK];
    for (size_t i = 0; i < BLOCK; i++)
        for (size_t j = 0; j < BLOCK; j++) {
            s[i][j] = 0;
            for (size_t k = 0; k < BLOCK; k++)
                s[i][j] += r[(b * BLOCK + i) * n + b * BLOCK + k]
                           * r[(b * BLOCK + j) * n + b * BLOCK + k];
        }
    for (size_t k = 0; k < BLOCK; k++) { /* eliminate all but c */
        if (k == c) continue;
        for (size_t i = 0; i < BLOCK; i++) {
            const double by = i == k ? 0 : s[i][k] / s[k][k];
            for (size_t j = 0; j < BLOCK; j++) s[i][j] -= by * s[k][j];
        }
    }
    return s[c][c];
}

static void within(double tolerance, const char *what, double got, double wanted)
{
    if (fabs(got - wanted) > tolerance * (1 + fabs(wanted)))
        fail_msg("%s: %.7g, wanted %.7g", what, got, wanted);
}

static void near(const char *what, double got, double wanted)
{
    within(2e-4, what, got, wanted);
}

static void check_coefficients(const conv_feedback *f, const double *r, size_t n_cols, size_t n)
{
    const float *pull = f->pull;
    assert_int_equal(f->n_blocks, n / BLOCK);
    for (size_t b = 0; b < n / BLOCK; b++)
        for (size_t j = 0; j < b * BLOCK; j++, pull += BLOCK) {
            double x[BLOCK];
            plain_pull(r, n, b, j, x);
            for (size_t c = 0; c < BLOCK; c++) near("pull", (double)pull[c], x[c]);
        }
    for (size_t column = 0; column < n; column++) {
        const size_t b = column / BLOCK, c = column % BLOCK;
        const double own = r[column * n + column];
        near("single", (double)f->single[column], column < n_cols ? own * own : 0);
        near("weight", (double)f->weight[column], column < n_cols ? plain_alone(r, n, b, c) : 0);
        for (size_t j = 0; j < BLOCK; j++)
            near("inner", (double)f->inner[(b * BLOCK + j) * BLOCK + c],
                 j < c ? r[(b * BLOCK + j) * n + column] / own : 0);
    }
}

static void coefficients_are_those_of_the_factor(void **state)
{
    (void)state;
    static const double shared[] = { 0, 0.5, 0.9 };
    static const float dampings[] = { 0.01f, 0.3f };
    for (size_t w = 0; w < ERN_COUNT(widths); w++)
        for (size_t s = 0; s < ERN_COUNT(shared); s++)
            for (size_t d = 0; d < ERN_COUNT(dampings); d++) {
                const uint32_t n_cols = widths[w];
                const size_t n = ern_round_up(n_cols, BLOCK);
                values_feedback f;
                values_seed = 100 * w + s;
                float *h = moments(n_cols, shared[s]);
                double *r = plain_factor(h, n_cols, n, (double)dampings[d]);
                assert_true(values_feedback_make(&f, h, n_cols, dampings[d]));
                check_coefficients(&f.feedback, r, n_cols, n);
                free(f.memory);
                free(r);
                free(h);
            }
}

#if defined(__x86_64__) && defined(__GNUC__)
static void all_sets_factor_the_same(void **state)
{
    (void)state;
    for (size_t w = 0; w < ERN_COUNT(widths); w++) {
        const uint32_t n_cols = widths[w];
        const size_t n = ern_round_up(n_cols, BLOCK), n_bytes = n * n * sizeof(float);
        float *h = moments(n_cols, 0.7), *panel = malloc(n * BLOCK * sizeof *panel);
        float *first = malloc(n_bytes), *other = malloc(n_bytes), *start = malloc(n_bytes);
        memcpy(start, h, (size_t)n_cols * n_cols * sizeof *h);
        assert_true(feedback_prepare(start, n_cols, n, 0.05f));
        memcpy(first, start, n_bytes);
        assert_true(feedback_factor_base(first, n, panel));
        if (__builtin_cpu_supports("avx2")) {
            memcpy(other, start, n_bytes);
            assert_true(feedback_factor_avx2(other, n, panel));
            assert_memory_equal(first, other, n_bytes);
        }
        if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
            && __builtin_cpu_supports("avx512dq")) {
            memcpy(other, start, n_bytes);
            assert_true(feedback_factor_avx512(other, n, panel));
            assert_memory_equal(first, other, n_bytes);
        }
        free(h);
        free(panel);
        free(first);
        free(other);
        free(start);
    }
}
#endif

/* ---- What it is for -------------------------------------------------------------------------- */

static double cost_with(unsigned type, const float *w, uint32_t n, const float *h,
                        const conv_feedback *feedback)
{
    unsigned char *group = values_encode(conv_group_best(), type, w, n, feedback);
    const double cost = values_group_cost(type, group, w, n, h);
    free(group);
    return cost;
}

static void errors_cost_less(void **state)
{
    (void)state;
    static const uint32_t sizes[] = { 24, 40, 96, 200, 256 };
    for (size_t i = 0; i < ERN_COUNT(sizes); i++)
        for (unsigned type = ERN_W4; type <= ERN_C2; type++) {
            const uint32_t n = sizes[i];
            values_feedback f, squares;
            values_seed = 7 * i + type;
            float *h = moments(n, 0.9), *w = weights(n);
            assert_true(values_feedback_make(&f, h, n, 0.01f));
            values_feedback_squares(&squares, h, n);
            const double without = cost_with(type, w, n, h, &squares.feedback);
            const double with = cost_with(type, w, n, h, &f.feedback);
            print_message("%s, %u columns: %.2f of the cost without feedback\n",
                          ern_type_name(type), (unsigned)n, with / without);
            /* A single block of a c type has no earlier columns to make good. */
            assert_true(with < without * (n > BLOCK || type == ERN_W4 ? 0.8 : 1.25));
            free(f.memory);
            free(squares.memory);
            free(h);
            free(w);
        }
}

/* What a column of w4 is asked for inside its block is what the plain computation asks for: coded
 * one after the other with exact feedback, errors cost the same within a few percent. */
static void w4_follows_the_factor(void **state)
{
    (void)state;
    const uint32_t n = 32;
    double ours = 0, plain = 0;
    for (unsigned i = 0; i < 20; i++) {
        values_feedback f;
        values_seed = 50 + i;
        float *h = moments(n, 0.95), *w = weights(n);
        double *r = plain_factor(h, n, n, 0.01);
        assert_true(values_feedback_make(&f, h, n, 0.01f));
        unsigned char *group = values_encode(conv_group_best(), ERN_W4, w, n, &f.feedback);
        ours += values_group_cost(ERN_W4, group, w, n, h);
        for (uint32_t row = 0; row < ERN_GROUP_ROWS; row++) {
            float scale;
            double e[32];
            memcpy(&scale, group + 4 * row, 4);
            scale *= (float)ern_block_scale(ERN_W4, group + 64, 0, row);
            for (uint32_t c = 0; c < n; c++) {
                double wanted = (double)w[row * n + c], best = INFINITY;
                for (uint32_t j = 0; j < c; j++) wanted += e[j] * r[j * n + c] / r[c * n + c];
                for (unsigned k = 0; k < 16; k++) {
                    const double value = (double)scale * (double)ern_w4_level[k];
                    if (fabs(wanted - value) > fabs(wanted - best)) continue;
                    best = value;
                }
                e[c] = (double)w[row * n + c] - best;
            }
            plain += values_cost(h, n, e);
        }
        free(group);
        free(f.memory);
        free(r);
        free(h);
        free(w);
    }
    print_message("w4: %.4f of a plain computation's cost\n", ours / plain);
    assert_true(ours < 1.02 * plain && ours > 0.98 * plain);
}

/* ---- Stretching ------------------------------------------------------------------------------ */

static float *stretches(uint32_t n)
{
    const size_t padded = ern_round_up(n, BLOCK);
    float *stretch = malloc(padded * sizeof *stretch);
    assert_non_null(stretch);
    for (size_t i = 0; i < padded; i++)
        stretch[i] = i < n ? (float)exp(2 * values_unit() - 1) : 1.0f;
    return stretch;
}

/* An input of other sizes with the same correlations has the same factor but for the sizes. */
static void stretched_is_as_made_from_the_stretched(void **state)
{
    (void)state;
    static const uint32_t sizes[] = { 40, 128 };
    for (size_t i = 0; i < ERN_COUNT(sizes); i++) {
        const uint32_t n = sizes[i];
        values_feedback common, own;
        values_seed = 9 + i;
        float *h = moments(n, 0.8), *w = weights(n), *stretch = stretches(n);
        float *stretched = malloc((size_t)n * n * sizeof *stretched);
        for (size_t a = 0; a < n; a++)
            for (size_t b = 0; b < n; b++)
                stretched[a * n + b] = h[a * n + b] * stretch[a] * stretch[b];
        assert_true(values_feedback_make(&common, h, n, 1e-5f));
        assert_true(values_feedback_make(&own, stretched, n, 1e-5f));
        const float *pull = common.feedback.pull, *own_pull = own.feedback.pull;
        for (size_t b = 1; b < ern_n_blocks(n); b++)
            for (size_t j = 0; j < b * BLOCK; j++, pull += BLOCK, own_pull += BLOCK)
                for (size_t c = 0; c < BLOCK && b * BLOCK + c < n; c++)
                    within(5e-3, "stretched pull",
                           (double)(pull[c] * stretch[j] / stretch[b * BLOCK + c]),
                           (double)own_pull[c]);
        common.feedback.stretch = stretch;
        for (unsigned type = ERN_W4; type <= ERN_C2; type++) {
            const double a = cost_with(type, w, n, stretched, &common.feedback);
            const double b = cost_with(type, w, n, stretched, &own.feedback);
            print_message("%s, %u columns: stretched costs %.3f of its own\n", ern_type_name(type),
                          (unsigned)n, a / b);
            assert_true(a < 1.1 * b && b < 1.1 * a);
        }
        free(common.memory);
        free(own.memory);
        free(h);
        free(w);
        free(stretch);
        free(stretched);
    }
}

/* ---- What is refused, sizes ------------------------------------------------------------------ */

static void refused(const float *h, uint32_t n)
{
    values_feedback f;
    assert_false(values_feedback_make(&f, h, n, 0.01f));
    free(f.memory);
}

static void what_is_not_positive_is_refused(void **state)
{
    (void)state;
    enum { N = 70 };
    for (unsigned k = 0; k < 7; k++) {
        values_feedback f;
        values_seed = k;
        float *h = moments(N, 0.5);
        const size_t a = k % 2 ? 3 : 50, b = k % 2 ? 68 : 51;
        const float bad[] = { 2 * sqrtf(h[a * N + a] * h[b * N + b]), -1e30f, NAN, INFINITY };
        if (k < 4) h[a * N + b] = h[b * N + a] = bad[k];
        if (k == 4) h[a * N + a] = -1;
        for (size_t i = 0; i < N * N && k == 5; i++) h[i] *= 1e-43f; /* subnormal, mostly 0 */
        for (size_t i = 0; i < N * N && k == 6; i++) h[i] = 1;       /* one cause of all */
        if (k < 5) refused(h, N);
        else if (values_feedback_make(&f, h, N, 0.01f)) {
            for (size_t i = 0; i < N; i++)
                assert_true(isfinite(f.feedback.weight[i]) && isfinite(f.feedback.single[i]));
            free(f.memory);
        } else
            free(f.memory);
        free(h);
    }
}

/* A refusal leaves memory in which a stronger damping can be tried. */
static void more_damping_helps(void **state)
{
    (void)state;
    enum { N = 40 };
    values_feedback f, again;
    values_seed = 1;
    float *h = moments(N, 0.5);
    h[5 * N + 9] = h[9 * N + 5] = 1.1f * sqrtf(h[5 * N + 5] * h[9 * N + 9]);
    refused(h, N);
    assert_true(values_feedback_make(&f, h, N, 10));
    void *work = values_aligned(conv_feedback_work_bytes(N));
    again.memory = values_aligned(conv_feedback_bytes(N));
    conv_feedback_set(&again.feedback, again.memory, N);
    memcpy(conv_feedback_moments(work), h, N * N * sizeof *h);
    assert_false(conv_feedback_make(&again.feedback, work, N, 0.01f));
    memcpy(conv_feedback_moments(work), h, N * N * sizeof *h);
    assert_true(conv_feedback_make(&again.feedback, work, N, 10));
    const size_t n = ern_round_up(N, BLOCK);
    assert_memory_equal(f.feedback.pull, again.feedback.pull, BLOCK * BLOCK * sizeof(float));
    assert_memory_equal(f.feedback.weight, again.feedback.weight, n * sizeof(float));
    free(work);
    free(f.memory);
    free(again.memory);
    free(h);
}

static void squares_alone_are_weights(void **state)
{
    (void)state;
    float square[45];
    conv_feedback f;
    for (unsigned i = 0; i < 45; i++) square[i] = (float)i + 0.5f;
    void *memory = values_aligned(conv_feedback_diagonal_bytes(45));
    conv_feedback_diagonal(&f, memory, 45, square);
    assert_null(f.pull);
    assert_null(f.inner);
    assert_null(f.stretch);
    assert_int_equal(f.n_blocks, 2);
    for (unsigned i = 0; i < 64; i++) {
        assert_true(f.weight[i] == (i < 45 ? square[i] : 0));
        assert_true(f.single[i] == (i < 45 ? square[i] : 0));
    }
    free(memory);
}

static void sizes_grow_and_end(void **state)
{
    (void)state;
    for (uint32_t n = 1; n < 300; n++) {
        const size_t padded = ern_round_up(n, BLOCK), n_blocks = padded / BLOCK;
        conv_feedback f;
        assert_int_equal(conv_feedback_bytes(n) % 64, 0);
        assert_int_equal(conv_feedback_diagonal_bytes(n) % 64, 0);
        assert_int_equal(conv_feedback_work_bytes(n) % 64, 0);
        assert_true(conv_feedback_work_bytes(n) >= (size_t)n * n * sizeof(float));
        char *memory = values_aligned(conv_feedback_bytes(n));
        conv_feedback_set(&f, memory, n);
        const size_t n_pull = BLOCK * BLOCK * (n_blocks * (n_blocks - 1) / 2);
        assert_ptr_equal(f.weight, memory);
        assert_ptr_equal(f.single, f.weight + padded);
        assert_true((char *)f.inner >= (char *)(f.single + padded));
        assert_ptr_equal(f.pull, f.inner + padded * BLOCK);
        assert_true((char *)(f.pull + n_pull) <= memory + conv_feedback_bytes(n));
        free(memory);
    }
    assert_true(conv_feedback_bytes(1u << 16) > 0);
    assert_int_equal(conv_feedback_bytes((1u << 16) + 1), 0);
    assert_int_equal(conv_feedback_bytes(ERN_DIM_MAX), 0);
    assert_true(conv_feedback_diagonal_bytes(ERN_DIM_MAX) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(coefficients_are_those_of_the_factor),
#if defined(__x86_64__) && defined(__GNUC__)
        cmocka_unit_test(all_sets_factor_the_same),
#endif
        cmocka_unit_test(errors_cost_less),
        cmocka_unit_test(w4_follows_the_factor),
        cmocka_unit_test(stretched_is_as_made_from_the_stretched),
        cmocka_unit_test(what_is_not_positive_is_refused),
        cmocka_unit_test(more_damping_helps),
        cmocka_unit_test(squares_alone_are_weights),
        cmocka_unit_test(sizes_grow_and_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
