/* The kernels over plain vectors, written once in lane operations: norms, sums, softmax, SwiGLU,
 * rotation, quantization, conversion. A number's place i always falls into lane i % 16, a short end
 * is filled with zeros, so every set adds in the same order. */

/* exp(x) for x <= 0, relative error below 1e-7; -infinity gives 0, no number gives no number.
 * x = n ln 2 + r, |r| <= ln 2 / 2: adding 1.5 * 2^23 rounds x / ln 2 to n, exp(r) is a minimax
 * polynomial. Below -104 the result rounds to 0, so x is held there. */
static ERN_INLINE V16 KN(exp)(V16 x)
{
    const V16 magic = KN(set1)(12582912.0f);
    x = KN(max)(KN(set1)(-104.0f), x);
    const V16 t = KN(fma)(x, KN(set1)(1.44269504f), magic);
    const V16 n = KN(sub)(t, magic);
    V16 r = KN(fma)(n, KN(set1)(-0.693147182f), x);
    r = KN(fma)(n, KN(set1)(1.90465421e-9f), r);
    V16 p = KN(fma)(KN(set1)(0.0013814539f), r, KN(set1)(0.008368745f));
    p = KN(fma)(p, r, KN(set1)(0.04166839f));
    p = KN(fma)(p, r, KN(set1)(0.16666521f));
    p = KN(fma)(p, r, KN(set1)(0.49999994f));
    p = KN(fma)(p, r, KN(set1)(1.0f));
    p = KN(fma)(p, r, KN(set1)(1.0f));
    return KN(scale2)(p, t);
}

static float KN(exp_sum)(float *s, size_t n, float max)
{
    const V16 top = KN(set1)(max);
    V16 sum = KN(set1)(0.0f);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const V16 e = KN(exp)(KN(sub)(KN(load)(s + i), top));
        KN(store)(s + i, e);
        sum = KN(add)(sum, e);
    }
    if (i < n) {
        float end[16];
        KN(store)(end, KN(exp)(KN(sub)(KN(load_n)(s + i, n - i), top)));
        memcpy(s + i, end, (n - i) * sizeof *s);
        sum = KN(add)(sum, KN(load_n)(end, n - i));
    }
    return KN(sum)(sum);
}

static float KN(max_of)(const float *s, size_t n)
{
    V16 max = KN(set1)(s[0]);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) max = KN(max)(KN(load)(s + i), max);
    float top = KN(max_all)(max);
    for (; i < n; i++) top = s[i] > top ? s[i] : top;
    return top;
}

static void KN(rmsnorm)(const float *x, const float *weight, size_t n, float eps, float *y)
{
    V16 sum = KN(set1)(0.0f);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const V16 v = KN(load)(x + i);
        sum = KN(fma)(v, v, sum);
    }
    if (i < n) {
        const V16 v = KN(load_n)(x + i, n - i);
        sum = KN(fma)(v, v, sum);
    }
    const float mean = KN(sum)(sum) / (float)n;
    const float factor = 1.0f / sqrtf(mean + eps);
    const V16 f = KN(set1)(factor);
    for (i = 0; i + 16 <= n; i += 16)
        KN(store)(y + i, KN(mul)(KN(mul)(KN(load)(x + i), f), KN(load)(weight + i)));
    for (; i < n; i++) y[i] = x[i] * factor * weight[i];
}

static void KN(add_to)(float *y, const float *x, size_t n)
{
    size_t i = 0;
    for (; i + 16 <= n; i += 16) KN(store)(y + i, KN(add)(KN(load)(y + i), KN(load)(x + i)));
    for (; i < n; i++) y[i] += x[i];
}

static void KN(add_scaled)(float *y, const float *x, float s, size_t n)
{
    const V16 f = KN(set1)(s);
    size_t i = 0;
    for (; i + 16 <= n; i += 16)
        KN(store)(y + i, KN(fma)(f, KN(load)(x + i), KN(load)(y + i)));
    if (i < n)
        KN(store_n)(y + i, KN(fma)(f, KN(load_n)(x + i, n - i), KN(load_n)(y + i, n - i)), n - i);
}

static void KN(scale_by)(float *y, float f, size_t n)
{
    const V16 factor = KN(set1)(f);
    size_t i = 0;
    for (; i + 16 <= n; i += 16) KN(store)(y + i, KN(mul)(KN(load)(y + i), factor));
    for (; i < n; i++) y[i] *= f;
}

/* With e = exp(-|z|), which cannot overflow: silu(z) is z / (1 + e) for z >= 0 and z e / (1 + e)
 * below; the numerator is max(z, 0) + min(z, 0) e. */
static void KN(swiglu)(const float *in, size_t n_groups, float *out)
{
    const V16 zero = KN(set1)(0.0f), one = KN(set1)(1.0f);
    for (size_t g = 0; g < n_groups; g++, in += 32, out += 16) {
        const V16 z = KN(load)(in), up = KN(load)(in + 16);
        const V16 e = KN(exp)(KN(sub)(zero, KN(abs)(z)));
        const V16 top = KN(fma)(KN(min)(zero, z), e, KN(max)(zero, z));
        KN(store)(out, KN(mul)(KN(div)(top, KN(add)(one, e)), up));
    }
}

static void KN(rope)(float *x, size_t n_heads, size_t head_dim, const float *cos_sin)
{
    for (size_t h = 0; h < n_heads; h++, x += head_dim) {
        size_t i = 0;
        for (; i + 16 <= head_dim; i += 16)
            KN(store)(x + i, KN(rotate)(KN(load)(x + i), KN(load)(cos_sin + i)));
        const size_t n = head_dim - i;
        if (n)
            KN(store_n)(x + i, KN(rotate)(KN(load_n)(x + i, n), KN(load_n)(cos_sin + i, n)), n);
    }
}

/* Numbers i .. i + 31 of x [n], zeros behind the last. */
static ERN_INLINE void KN(load_block)(const float *x, size_t n, size_t i, V16 block[2])
{
    const size_t rest = n - i;
    block[0] = rest >= 16 ? KN(load)(x + i) : KN(load_n)(x + i, rest);
    block[1] = rest >= 32   ? KN(load)(x + i + 16)
               : rest >= 16 ? KN(load_n)(x + i + 16, rest - 16)
                            : KN(set1)(0.0f);
}

static ERN_INLINE float KN(peak)(const V16 block[2])
{
    return KN(max_all)(KN(max)(KN(abs)(block[0]), KN(abs)(block[1])));
}

/* A block whose greatest number is below 1e-30 counts as zero: 127 / max would overflow near 0. */
static void KN(quantize)(const float *x, size_t n, int8_t *q, float *scale, int32_t *sum)
{
    for (size_t i = 0; i < n; i += 32, q += 32, scale++, sum++) {
        V16 block[2];
        KN(load_block)(x, n, i, block);
        const float max = KN(peak)(block);
        const bool zero = max < 1e-30f;
        *scale = zero ? 0.0f : max / 127.0f;
        *sum = KN(quantize32)(block[0], block[1], KN(set1)(zero ? 0.0f : 127.0f / max), q);
    }
}

static void KN(row_f16)(const ern_matrix *w, uint32_t row, float *out)
{
    const uint16_t *h = (const uint16_t *)(const void *)(w->data + row * ern_row_bytes(ERN_F16, w->n_cols));
    const size_t n = w->n_cols;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) KN(store)(out + i, KN(load_f16)(h + i));
    if (i < n) KN(store_n)(out + i, KN(load_f16)(h + i), n - i);
}

static void KN(row_bf16)(const ern_matrix *w, uint32_t row, float *out)
{
    const uint16_t *h = (const uint16_t *)(const void *)(w->data + row * ern_row_bytes(ERN_BF16, w->n_cols));
    const size_t n = w->n_cols;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) KN(store)(out + i, KN(load_bf16)(h + i));
    if (i < n) KN(store_n)(out + i, KN(load_bf16)(h + i), n - i);
}
