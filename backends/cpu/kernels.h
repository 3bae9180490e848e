/* The maths of the CPU backend, once per instruction set. Plain pointers and counts; knows matrices
 * as format.h lays them out, nothing of models, sessions or threads.
 *
 * The base set (portable C) is the oracle of all others:
 *   - matmul of w8, w4, c4, c3 and c2 is bit-identical in every set, for any number of tokens in a call: the
 *     integer sum of a block is exact, and its addition to the float accumulator is one fused
 *     multiply-add per (row, token, block), blocks in rising order;
 *   - everything else keeps one order of additions and the same fused multiply-adds in every set
 *     (kernels_lane_base.h), whatever the number of tokens and threads: bit-identical as well. */
#ifndef ERN_KERNELS_H
#define ERN_KERNELS_H

#include "../../src/format.h"
#include "../../src/kv.h"

/* Activations of a batch, as a product wants them: floats always, int8 blocks for the
 * grouped types.
 * Per token t and block b of 32 columns: scale = max|x| / 127 (0 for a zero block),
 * q = round-to-nearest-even(x / scale) computed as x * (127 / max|x|), sum = sum of the q. */
typedef struct ern_act {
    const float *x;       /* [n_tokens][x_stride] */
    size_t x_stride;      /* floats, a multiple of 16 */
    const int8_t *q;      /* [n_tokens][q_stride], columns padded with zeros to n_blocks * 32 */
    size_t q_stride;      /* bytes, a multiple of 64 */
    const float *q_scale; /* [n_tokens][s_stride] */
    const int32_t *q_sum; /* [n_tokens][s_stride] */
    size_t s_stride;      /* a multiple of 16 */
    size_t n_tokens;
} ern_act;

typedef struct ern_kernels {
    const char *name; /* "base", "avx2", "avxvnni", "avx512", "avx512vbmi", "amx", "neon", "i8mm" */

    /* Quantize x [n] to q [n_blocks * 32], scale and sum [n_blocks]; n_blocks = ceil(n / 32). */
    void (*quantize)(const float *x, size_t n, int8_t *q, float *scale, int32_t *sum);

    /* y[t][16 * g - 16 * group_begin + r] for groups g in [group_begin, group_end), rows r in 0 ..
     * 15, all tokens: the product of the matrix' rows 16 g + r with the activations. y_stride in
     * floats, y 64-byte aligned, y_stride a multiple of 16. Rows at and beyond n_rows give 0. One
     * entry a type (ern_type). The grouped types read q, the others x. */
    void (*matmul[ERN_N_TYPES])(const ern_matrix *w, uint32_t group_begin, uint32_t group_end,
                                const ern_act *a, float *y, size_t y_stride);

    /* Row `row` of w as floats: out [n_cols]. One entry a type. */
    void (*row[ERN_N_TYPES])(const ern_matrix *w, uint32_t row, float *out);

    /* y = x / sqrt(mean(x^2) + eps) * weight, [n] each; y may be x. */
    void (*rmsnorm)(const float *x, const float *weight, size_t n, float eps, float *y);

    /* y[i] += x[i], and y[i] += s * x[i], [n]. */
    void (*add)(float *y, const float *x, size_t n);
    void (*add_scaled)(float *y, const float *x, float s, size_t n);

    /* SwiGLU over the gate_up order: in holds n_groups pairs of 16 gates then 16 ups;
     * out[16 g + r] = silu(gate) * up, silu(z) = z / (1 + exp(-z)). */
    void (*swiglu)(const float *in, size_t n_groups, float *out);

    /* Rotate adjacent pairs: x [n_heads][head_dim], cos_sin [head_dim / 2][2] of this position. */
    void (*rope)(float *x, size_t n_heads, size_t head_dim, const float *cos_sin);

    /* The Walsh-Hadamard transform over sqrt(n), its own inverse, of each head x
     * [n_heads][head_dim]; where head_dim is no power of two, of the largest that fits, then of
     * what is left, and so on. Keys that are quantized and their queries go through it: products
     * stay, and no dimension is much larger than the others. */
    void (*hadamard)(float *x, size_t n_heads, size_t head_dim);

    /* The cache as kv.h lays it out, floats and halves at their natural addresses. One entry a type
     * (ern_kv). */

    /* Round head_dim floats to a key's or a value's row. */
    void (*key_store[ERN_N_KV])(const float *x, size_t head_dim, void *row);
    void (*value_store[ERN_N_KV])(const float *x, size_t head_dim, void *row);

    /* s[i][p] = scale * dot(query i, key p), s [n_tokens][s_stride], for the rows of q and n_pos
     * keys from `k` on, where a group begins. Quantized types read q's int8 form, the others its
     * floats. */
    void (*attn_scores[ERN_N_KV])(const ern_act *q, const void *k, size_t n_pos, size_t head_dim,
                                  float scale, float *s, size_t s_stride);

    /* o[i] += sum over p of s[i][p] * v[p]; o [n_q][o_stride]. */
    void (*attn_values[ERN_N_KV])(const float *s, size_t n_q, size_t s_stride, const void *v,
                                  size_t n_pos, size_t head_dim, float *o, size_t o_stride);

    /* In place: s[i] = exp(s[i] - max), [n]; returns the sum. -INFINITY gives 0; n >= 1. */
    float (*exp_sum)(float *s, size_t n, float max);
    float (*max)(const float *s, size_t n);

    /* y[i] *= f, [n] */
    void (*scale)(float *y, float f, size_t n);
} ern_kernels;

/* The table for `name` (NULL or "auto": the best that this processor and build have), or NULL when
 * the set is unknown or absent, or needs a permission that the system refuses; the system is asked
 * only for amx, which auto never is (feat.h). ern_kernels_at lists the available sets, worst
 * first, NULL at the end. Any thread. */
ERN_FN const ern_kernels *ern_kernels_find(const char *name);
ERN_FN const ern_kernels *ern_kernels_at(size_t index) ERN_UNUSED; /* the tests go through all */

#endif
