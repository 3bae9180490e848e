/* Attention's two products over cached keys and values, written once in lane operations.
 *
 * Both walk tiles: a key or value that is loaded serves up to KERNELS_ATTN_Q queries.
 *
 * Scores of f16 and f32 keys take KERNELS_ATTN_P(nq) keys together, one 16-lane sum for each
 * (query, key) over the head's dimensions. Quantized keys lie in groups of 16 (src/kv.h), one a
 * lane, and meet queries in int8: the sum of 32 dimensions is exact, and then one fused
 * multiply-add joins it to the float sum, blocks in rising order.
 *
 * In values, KERNELS_ATTN_D(nq) vectors of 16 dimensions of each query's output stay in registers
 * while the positions pass in rising order.
 *
 * A result depends only on its own query: never on the tile it fell into. */

/* ---- Scores of plain keys -------------------------------------------------------------------- */

/* n numbers (16, or less at a row's end) from number d of a plain row. */
static ERN_INLINE V16 KN(load_plain)(ern_kv kv, const unsigned char *row, size_t d, size_t n)
{
    if (kv == ERN_KV_F32) {
        const float *p = (const float *)(const void *)row + d;
        return n == 16 ? KN(load)(p) : KN(load_n)(p, n);
    }
    const uint16_t *p = (const uint16_t *)(const void *)row + d;
    return n == 16 ? KN(load_f16)(p) : KN(load_f16_n)(p, n);
}

/* Add the products of dimensions d .. d + n - 1 (n <= 16) with the keys k [np] to acc [nq][np]. */
static ERN_INLINE void KN(scores_step)(ern_kv kv, size_t nq, size_t np, const float *q, size_t q_stride,
                                       const unsigned char *const *k, size_t d, size_t n, V16 *acc)
{
    V16 key[KERNELS_ATTN_P(1)];
    KERNELS_UNROLL for (size_t j = 0; j < np; j++) key[j] = KN(load_plain)(kv, k[j], d, n);
    KERNELS_UNROLL for (size_t i = 0; i < nq; i++) {
        const float *p = q + i * q_stride + d;
        const V16 x = n == 16 ? KN(load)(p) : KN(load_n)(p, n);
        KERNELS_UNROLL for (size_t j = 0; j < np; j++)
            acc[i * np + j] = KN(fma)(x, key[j], acc[i * np + j]);
    }
}

/* The keys from p0 on, at most np and at most n_pos, against nq queries. Places behind
 * the last key repeat it and are not stored. */
static ERN_INLINE void KN(scores_tile)(ern_kv kv, size_t nq, size_t np, const float *q,
                                       size_t q_stride, const unsigned char *k, size_t p0,
                                       size_t n_pos, size_t head_dim, float scale, float *s,
                                       size_t s_stride)
{
    const size_t stride = ern_kv_key_bytes(kv, head_dim);
    V16 acc[KERNELS_ATTN_Q * KERNELS_ATTN_P(1) + 3];
    const unsigned char *key[KERNELS_ATTN_P(1)];
    const size_t count = nq * np;
    KERNELS_UNROLL for (size_t j = 0; j < np; j++)
        key[j] = k + (p0 + j < n_pos ? p0 + j : n_pos - 1) * stride;
    KERNELS_UNROLL for (size_t i = 0; i < count; i++) acc[i] = KN(set1)(0.0f);
    size_t d = 0;
    for (; d + 16 <= head_dim; d += 16)
        KN(scores_step)(kv, nq, np, q, q_stride, key, d, 16, acc);
    if (d < head_dim)
        KN(scores_step)(kv, nq, np, q, q_stride, key, d, head_dim - d, acc);

    float sum[KERNELS_ATTN_Q * KERNELS_ATTN_P(1) + 3];
    KERNELS_UNROLL for (size_t i = count; i < (count + 3) / 4 * 4; i++) acc[i] = KN(set1)(0.0f);
    KERNELS_UNROLL for (size_t i = 0; i < count; i += 4) KN(sum4)(acc + i, sum + i);
    for (size_t i = 0; i < nq; i++)
        for (size_t j = 0; j < np && p0 + j < n_pos; j++)
            s[i * s_stride + p0 + j] = scale * sum[i * np + j];
}

/* ---- Scores of quantized keys ---------------------------------------------------------------- */

/* The n keys of one group against nq queries from query i0 on. */
static ERN_INLINE void KN(scores_group)(ern_kv kv, size_t nq, const ern_act *q, size_t i0,
                                        const unsigned char *group, size_t n_blocks, float scale,
                                        float *s, size_t s_stride, size_t n)
{
    const unsigned char *code = group, *fifth = group + n_blocks * 256;
    const unsigned char *key_scale = group + ern_kv_group_scales(kv, n_blocks);
    const int8_t *x = q->q + i0 * q->q_stride;
    const float *x_scale = q->q_scale + i0 * q->s_stride;
    const int32_t *x_sum = q->q_sum + i0 * q->s_stride;
    V16 sum[KERNELS_ATTN_Q];
    KERNELS_UNROLL for (size_t i = 0; i < nq; i++) sum[i] = KN(set1)(0.0f);
    for (size_t b = 0; b < n_blocks; b++, x += 32, key_scale += 32) {
        W16 acc[KERNELS_ATTN_Q];
        KERNELS_UNROLL for (size_t i = 0; i < nq; i++)
            acc[i] = KN(start_keys)(kv, x_sum[i * q->s_stride + b]);
        KERNELS_UNROLL for (size_t v = 0; v < 4; v++) {
            K64 key[2];
            KN(load_keys)(kv, code, fifth, v, key);
            KERNELS_UNROLL for (size_t i = 0; i < nq; i++)
                acc[i] = KN(dot_keys)(kv, acc[i], key, x + i * q->q_stride + v * 8);
        }
        const V16 w = KN(load_bf16)((const uint16_t *)(const void *)key_scale);
        KERNELS_UNROLL for (size_t i = 0; i < nq; i++) {
            const V16 unit = KN(mul)(w, KN(set1)(x_scale[i * q->s_stride + b]));
            sum[i] = KN(fma)(KN(to_floats)(acc[i]), unit, sum[i]);
        }
        code += kv == ERN_KV_Q8 ? 512 : 256;
        fifth += 64;
    }
    KERNELS_UNROLL for (size_t i = 0; i < nq; i++) {
        const V16 y = KN(mul)(sum[i], KN(set1)(scale));
        if (n == 16) KN(store)(s + i * s_stride, y);
        else KN(store_n)(s + i * s_stride, y, n);
    }
}

static ERN_INLINE void KN(scores_rows)(ern_kv kv, size_t nq, const ern_act *q, size_t i0,
                                       const unsigned char *k, size_t n_pos, size_t head_dim,
                                       float scale, float *s, size_t s_stride)
{
    size_t p = 0;
    if (!ern_kv_quantized(kv)) {
        for (; p < n_pos; p += KERNELS_ATTN_P(nq))
            KN(scores_tile)(kv, nq, KERNELS_ATTN_P(nq), q->x + i0 * q->x_stride, q->x_stride, k, p,
                            n_pos, head_dim, scale, s, s_stride);
        return;
    }
    const size_t n_blocks = ern_kv_blocks(head_dim), group_bytes = ern_kv_group_bytes(kv, head_dim);
    for (; p < n_pos; p += ERN_KV_GROUP, k += group_bytes) {
        for (size_t i = 0; i < group_bytes; i += 64) KERNELS_PREFETCH(k + KERNELS_AHEAD + i);
        KN(scores_group)(kv, nq, q, i0, k, n_blocks, scale, s + p, s_stride,
                         ern_min_size(ERN_KV_GROUP, n_pos - p));
    }
}

/* ---- Scores ---------------------------------------------------------------------------------- */

#define KERNELS_CASE(nq)                                                                        \
    case nq: KN(scores_rows)(kv, nq, q, i, k, n_pos, head_dim, scale, s, s_stride); break;

static ERN_INLINE void KN(scores)(ern_kv kv, const ern_act *q, const unsigned char *k, size_t n_pos,
                                  size_t head_dim, float scale, float *s, size_t s_stride)
{
    for (size_t i = 0, n; i < q->n_tokens; i += n, s += n * s_stride) {
        n = kernels_share(q->n_tokens - i, KERNELS_ATTN_Q);
        switch (n) {
            KERNELS_ATTN_CASES
        default: break;
        }
    }
}

#undef KERNELS_CASE

/* ---- Values ---------------------------------------------------------------------------------- */

/* n numbers (16, or less at the end of a plain row) from number d of a value; a quantized number is
 * rounded once, when its scale is applied. */
static ERN_INLINE V16 KN(load_value)(ern_kv kv, const unsigned char *row, size_t head_dim, size_t d,
                                     size_t n)
{
    if (!ern_kv_quantized(kv)) return KN(load_plain)(kv, row, d, n);
    const size_t block = d / ERN_KV_BLOCK, n_blocks = ern_kv_blocks(head_dim);
    uint16_t scale;
    memcpy(&scale, row + n_blocks * (kv == ERN_KV_Q8 ? 32 : 16) + block * sizeof scale, sizeof scale);
    const V16 x = kv == ERN_KV_Q8 ? KN(load_i8)((const int8_t *)row + d)
                                  : KN(load_q4)(row + block * 16, d % ERN_KV_BLOCK != 0);
    return KN(mul)(x, KN(set1)(ern_bf16_to_f32(scale)));
}

/* nd vectors of 16 dimensions from number d of each value and output; with nd 1, n of the 16. The
 * first of the passes over a block asks for whole rows ahead: decode at 16384 tokens on two Zen 5
 * cores, f16 25 tokens/s without, 31 with (medians of 5 in turn), q8 32 in both. */
static ERN_INLINE void KN(values_tile)(ern_kv kv, size_t nq, size_t nd, size_t n, const float *s,
                                       size_t s_stride, const unsigned char *v, size_t n_pos,
                                       size_t head_dim, size_t d, float *o, size_t o_stride)
{
    const size_t stride = ern_kv_value_bytes(kv, head_dim), ahead = d == 0 ? stride : 0;
    V16 acc[KERNELS_ATTN_Q * KERNELS_ATTN_D(1)];
    KERNELS_UNROLL for (size_t i = 0; i < nq * nd; i++) {
        const float *p = o + i / nd * o_stride + d + i % nd * 16;
        acc[i] = n == 16 ? KN(load)(p) : KN(load_n)(p, n);
    }
    for (size_t p = 0; p < n_pos; p++) {
        V16 x[KERNELS_ATTN_D(1)];
        for (size_t b = 0; b < ahead; b += 64) KERNELS_PREFETCH(v + p * stride + KERNELS_AHEAD + b);
        KERNELS_UNROLL for (size_t j = 0; j < nd; j++)
            x[j] = KN(load_value)(kv, v + p * stride, head_dim, d + j * 16, n);
        KERNELS_UNROLL for (size_t i = 0; i < nq; i++) {
            const V16 weight = KN(set1)(s[i * s_stride + p]);
            KERNELS_UNROLL for (size_t j = 0; j < nd; j++)
                acc[i * nd + j] = KN(fma)(weight, x[j], acc[i * nd + j]);
        }
    }
    KERNELS_UNROLL for (size_t i = 0; i < nq * nd; i++) {
        float *p = o + i / nd * o_stride + d + i % nd * 16;
        if (n == 16) KN(store)(p, acc[i]);
        else KN(store_n)(p, acc[i], n);
    }
}

static ERN_INLINE void KN(values_rows)(ern_kv kv, size_t nq, size_t nd, const float *s,
                                       size_t s_stride, const unsigned char *v, size_t n_pos,
                                       size_t head_dim, float *o, size_t o_stride)
{
    size_t d = 0;
    for (; d + 16 * nd <= head_dim; d += 16 * nd)
        KN(values_tile)(kv, nq, nd, 16, s, s_stride, v, n_pos, head_dim, d, o, o_stride);
    for (; d + 16 <= head_dim; d += 16)
        KN(values_tile)(kv, nq, 1, 16, s, s_stride, v, n_pos, head_dim, d, o, o_stride);
    if (d < head_dim)
        KN(values_tile)(kv, nq, 1, head_dim - d, s, s_stride, v, n_pos, head_dim, d, o,
                        o_stride);
}

#define KERNELS_CASE(nq)                                                                       \
    case nq:                                                                                   \
        KN(values_rows)(kv, nq, KERNELS_ATTN_D(nq), s, s_stride, v, n_pos, head_dim, o,        \
                        o_stride);                                                             \
        break;

static ERN_INLINE void KN(values)(ern_kv kv, const float *s, size_t n_q, size_t s_stride,
                                  const unsigned char *v, size_t n_pos, size_t head_dim,
                                  float *o, size_t o_stride)
{
    for (size_t n; n_q; n_q -= n, s += n * s_stride, o += n * o_stride) {
        n = kernels_share(n_q, KERNELS_ATTN_Q);
        switch (n) {
            KERNELS_ATTN_CASES
        default: break;
        }
    }
}

#undef KERNELS_CASE

#define KERNELS_KV(kv, name)                                                                     \
    static void KN(scores_##name)(const ern_act *q, const void *k, size_t n_pos, size_t head_dim, \
                                  float scale, float *s, size_t s_stride)                        \
    {                                                                                            \
        KN(scores)(kv, q, k, n_pos, head_dim, scale, s, s_stride);                               \
    }                                                                                            \
    static void KN(values_##name)(const float *s, size_t n_q, size_t s_stride, const void *v,    \
                                  size_t n_pos, size_t head_dim, float *o, size_t o_stride)      \
    {                                                                                            \
        KN(values)(kv, s, n_q, s_stride, v, n_pos, head_dim, o, o_stride);                       \
    }

KERNELS_KV(ERN_KV_F16, f16)
KERNELS_KV(ERN_KV_F32, f32)
KERNELS_KV(ERN_KV_Q8, q8)
KERNELS_KV(ERN_KV_Q4, q4)

#undef KERNELS_KV
