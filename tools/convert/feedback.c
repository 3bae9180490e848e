/* With the second moments H of a linear's input, errors e of one row of weights cost e H e'.
 * Factored as H = R R', R upper triangular, the cost is |e R|^2: column c adds (e_c R_cc + sum of
 * e_j R_jc, j < c)^2. Chosen in this order, a column therefore does best when its value is raised
 * by the sum of e_j R_jc / R_cc (GPTQ and LDLQ; docs/QUANTIZATION.md section 3). Blocks of 32
 * columns that are chosen as one do the same with 32 x 32 pieces of R: they want the sum of
 * e_j R_jb inv(R_bb), and what is left costs |f R_bb|^2.
 *
 * A code of c2 chooses its 32 columns at once but can only weigh each by itself: with one over
 * the diagonal of inv(R_bb R_bb'), what a column's error costs when the others of its block make
 * it good as well as they can. */
#include "feedback.h"

#include <math.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define FEEDBACK_X86 1
#else
#define FEEDBACK_X86 0
#endif

enum { FEEDBACK_BLOCK = ERN_BLOCK_COLS, FEEDBACK_TILE = 64 };

static size_t feedback_padded(uint32_t n_cols) { return ern_round_up(n_cols, FEEDBACK_BLOCK); }

static size_t feedback_pull_at(size_t block)
{
    return (size_t)FEEDBACK_BLOCK * FEEDBACK_BLOCK * (block * (block ? block - 1 : 0) / 2);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

ERN_FN size_t conv_feedback_diagonal_bytes(uint32_t n_cols)
{
    return ern_round_up(2 * feedback_padded(n_cols) * sizeof(float), 64);
}

ERN_FN size_t conv_feedback_bytes(uint32_t n_cols)
{
    const size_t n = feedback_padded(n_cols), n_blocks = n / FEEDBACK_BLOCK;
    if (n_cols > 1u << 16) return 0; /* 16 GiB of moments */
    return conv_feedback_diagonal_bytes(n_cols)
           + (feedback_pull_at(n_blocks) + n * FEEDBACK_BLOCK) * sizeof(float);
}

/* The matrix, rounded up to blocks, and a panel of 32 of its columns turned. */
ERN_FN size_t conv_feedback_work_bytes(uint32_t n_cols)
{
    const size_t n = feedback_padded(n_cols);
    return (n * n + n * FEEDBACK_BLOCK) * sizeof(float);
}

static void feedback_set_weights(conv_feedback *feedback, void *memory, uint32_t n_cols)
{
    const size_t n = feedback_padded(n_cols);
    memset(feedback, 0, sizeof *feedback);
    feedback->n_blocks = (uint32_t)(n / FEEDBACK_BLOCK);
    feedback->weight = memory;
    feedback->single = feedback->weight + n;
}

ERN_FN void conv_feedback_set(conv_feedback *feedback, void *memory, uint32_t n_cols)
{
    const size_t n = feedback_padded(n_cols);
    feedback_set_weights(feedback, memory, n_cols);
    feedback->inner = (float *)((char *)memory + conv_feedback_diagonal_bytes(n_cols));
    feedback->pull = feedback->inner + n * FEEDBACK_BLOCK;
}

ERN_FN void conv_feedback_diagonal(conv_feedback *feedback, void *memory, uint32_t n_cols,
                                   const float *square)
{
    feedback_set_weights(feedback, memory, n_cols);
    for (size_t i = 0; i < feedback_padded(n_cols); i++)
        feedback->weight[i] = feedback->single[i] = i < n_cols ? square[i] : 0;
}

ERN_FN float *conv_feedback_moments(void *work) { return work; }

/* ---- Factoring ------------------------------------------------------------------------------- */

/* Spread the rows of [n_cols][n_cols] to [n][n], scale to a mean diagonal of 1 and damp. Padding
 * columns get a diagonal of 1 and touch nothing. false when the moments are too small for that. */
static bool feedback_prepare(float *h, size_t n_cols, size_t n, float damping)
{
    double trace = 0;
    for (size_t i = 0; i < n_cols; i++) trace += (double)h[i * n_cols + i];
    const float scale = (float)((double)n_cols / trace);
    if (!isfinite(scale)) return false;
    for (size_t i = n; i-- > 0;) {
        float *row = h + i * n;
        if (i < n_cols) {
            memmove(row, h + i * n_cols, n_cols * sizeof *row);
            for (size_t j = 0; j < n_cols; j++) row[j] *= scale;
            row[i] += damping;
        }
        for (size_t j = i < n_cols ? n_cols : 0; j < n; j++) row[j] = i == j ? 1.0f : 0.0f;
    }
    return true;
}

/* The 32 x 32 corner at p of h [n][n]: R with R R' = corner, zeros below the diagonal. */
static bool feedback_corner(float *h, size_t n, size_t p)
{
    for (size_t c = FEEDBACK_BLOCK; c-- > 0;) {
        double left = (double)h[(p + c) * n + p + c];
        for (size_t k = c + 1; k < FEEDBACK_BLOCK; k++) {
            const double r = (double)h[(p + c) * n + p + k];
            left -= r * r;
        }
        if (!(left > 1e-12)) return false;
        const double root = sqrt(left);
        h[(p + c) * n + p + c] = (float)root;
        for (size_t j = 0; j < c; j++) {
            double sum = (double)h[(p + j) * n + p + c];
            for (size_t k = c + 1; k < FEEDBACK_BLOCK; k++)
                sum -= (double)h[(p + j) * n + p + k] * (double)h[(p + c) * n + p + k];
            h[(p + j) * n + p + c] = (float)(sum / root);
        }
        for (size_t j = c + 1; j < FEEDBACK_BLOCK; j++) h[(p + j) * n + p + c] = 0;
    }
    return true;
}

/* Rows above the corner: R_jp with R_jp R_pp' = h_jp. */
static ERN_INLINE void feedback_column(float *h, size_t n, size_t p, float *panel)
{
    for (size_t j = 0; j < p; j++) {
        float *row = h + j * n + p;
        for (size_t c = FEEDBACK_BLOCK; c-- > 0;) {
            float sum = row[c];
            const float *r = h + (p + c) * n + p;
            for (size_t k = c + 1; k < FEEDBACK_BLOCK; k++) sum -= row[k] * r[k];
            row[c] = sum / r[c];
        }
        for (size_t c = 0; c < FEEDBACK_BLOCK; c++) panel[c * n + j] = row[c];
    }
}

/* h_jk -= R_jp R_kp' for rows j < p and columns k from j's tile on; panel holds R_kp turned. */
static ERN_INLINE void feedback_update(float *h, size_t n, size_t p, const float *panel)
{
    for (size_t j = 0; j < p; j++) {
        const float *r = h + j * n + p;
        for (size_t k = j / FEEDBACK_TILE * FEEDBACK_TILE; k < p; k += FEEDBACK_TILE) {
            float sum[FEEDBACK_TILE] = { 0 };
            const size_t width = ern_min_size(FEEDBACK_TILE, p - k);
            float *row = h + j * n + k;
            if (width == FEEDBACK_TILE) {
                for (size_t c = 0; c < FEEDBACK_BLOCK; c++)
                    for (size_t i = 0; i < FEEDBACK_TILE; i++)
                        sum[i] += r[c] * panel[c * n + k + i];
            } else {
                for (size_t c = 0; c < FEEDBACK_BLOCK; c++)
                    for (size_t i = 0; i < width; i++) sum[i] += r[c] * panel[c * n + k + i];
            }
            for (size_t i = 0; i < width; i++) row[i] -= sum[i];
        }
    }
}

static ERN_INLINE bool feedback_factor_body(float *h, size_t n, float *panel)
{
    for (size_t p = n; p > 0;) {
        p -= FEEDBACK_BLOCK;
        if (!feedback_corner(h, n, p)) return false;
        feedback_column(h, n, p, panel);
        feedback_update(h, n, p, panel);
    }
    return true;
}

static bool feedback_factor_base(float *h, size_t n, float *panel)
{
    return feedback_factor_body(h, n, panel);
}

#if FEEDBACK_X86
__attribute__((target("avx2"))) static bool feedback_factor_avx2(float *h, size_t n, float *panel)
{
    return feedback_factor_body(h, n, panel);
}

__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) static bool
feedback_factor_avx512(float *h, size_t n, float *panel)
{
    return feedback_factor_body(h, n, panel);
}
#endif

/* All with the same result to the last bit: elementwise floats, no sums across lanes. */
static bool feedback_factor(float *h, size_t n, float *panel)
{
#if FEEDBACK_X86
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
        && __builtin_cpu_supports("avx512dq"))
        return feedback_factor_avx512(h, n, panel);
    if (__builtin_cpu_supports("avx2")) return feedback_factor_avx2(h, n, panel);
#endif
    return feedback_factor_base(h, n, panel);
}

/* ---- Coefficients ---------------------------------------------------------------------------- */

/* inverse [32][32] of the corner at p, upper triangular. */
static void feedback_invert(const float *h, size_t n, size_t p,
                            double inverse[FEEDBACK_BLOCK][FEEDBACK_BLOCK])
{
    memset(inverse, 0, FEEDBACK_BLOCK * sizeof inverse[0]);
    for (size_t c = 0; c < FEEDBACK_BLOCK; c++) {
        inverse[c][c] = 1 / (double)h[(p + c) * n + p + c];
        for (size_t j = c; j-- > 0;) {
            double sum = 0;
            for (size_t k = j + 1; k <= c; k++)
                sum += (double)h[(p + j) * n + p + k] * inverse[k][c];
            inverse[j][c] = -sum / (double)h[(p + j) * n + p + j];
        }
    }
}

/* What block b = p / 32 needs, from R. */
static void feedback_block(conv_feedback *feedback, const float *h, size_t n, size_t p)
{
    double inverse[FEEDBACK_BLOCK][FEEDBACK_BLOCK];
    feedback_invert(h, n, p, inverse);
    float *pull = feedback->pull + feedback_pull_at(p / FEEDBACK_BLOCK);
    for (size_t j = 0; j < p; j++) {
        double sum[FEEDBACK_BLOCK] = { 0 };
        for (size_t k = 0; k < FEEDBACK_BLOCK; k++)
            for (size_t c = k; c < FEEDBACK_BLOCK; c++)
                sum[c] += (double)h[j * n + p + k] * inverse[k][c];
        for (size_t c = 0; c < FEEDBACK_BLOCK; c++) pull[j * FEEDBACK_BLOCK + c] = (float)sum[c];
    }
    for (size_t c = 0; c < FEEDBACK_BLOCK; c++) {
        const double own = (double)h[(p + c) * n + p + c];
        double alone = 0; /* of inv(R R') = inv(R)' inv(R) */
        for (size_t k = 0; k <= c; k++) alone += inverse[k][c] * inverse[k][c];
        feedback->weight[p + c] = (float)(1 / alone);
        feedback->single[p + c] = (float)(own * own);
        for (size_t j = 0; j < FEEDBACK_BLOCK; j++)
            feedback->inner[(p + j) * FEEDBACK_BLOCK + c] =
                j < c ? (float)((double)h[(p + j) * n + p + c] / own) : 0;
    }
}

ERN_FN bool conv_feedback_make(conv_feedback *feedback, void *work, uint32_t n_cols, float damping)
{
    const size_t n = feedback_padded(n_cols);
    float *h = work, *panel = h + n * n;
    if (!feedback_prepare(h, n_cols, n, damping) || !feedback_factor(h, n, panel)) return false;
    for (size_t p = 0; p < n; p += FEEDBACK_BLOCK) feedback_block(feedback, h, n, p);
    for (size_t i = n_cols; i < n; i++) feedback->weight[i] = feedback->single[i] = 0;
    return true;
}

#undef FEEDBACK_X86
