/* Rows of the cache from floats (src/kv.h), written once in lane operations: the rotation that
 * spreads a key's large dimensions over all of them, and rounding.
 *
 * Keys in q4 take the scale that holds their peak; a search for a better one changed nothing (demo
 * model, KL divergence 0.0125 with, 0.0129 without). Values, which have four bits only, take the
 * best of eight scales by squared error. */

static void KN(store_f16_row)(const float *x, size_t n, void *row)
{
    uint16_t *h = (uint16_t *)row;
    size_t i = 0;
    for (; i + 16 <= n; i += 16) KN(store_f16)(h + i, KN(load)(x + i));
    if (i < n) KN(store_f16_n)(h + i, KN(load_n)(x + i, n - i), n - i);
}

/* ---- Rotation -------------------------------------------------------------------------------- */

/* The Walsh-Hadamard transform of n numbers, a power of two of at least 16. */
static void KN(hadamard_piece)(float *x, size_t n)
{
    const V16 factor = KN(set1)(1.0f / sqrtf((float)n));
    for (size_t w = n / 2; w >= 16; w /= 2)
        for (size_t i = 0; i < n; i += 2 * w)
            for (size_t j = i; j < i + w; j += 16) {
                const V16 a = KN(load)(x + j), b = KN(load)(x + j + w);
                KN(store)(x + j, KN(add)(a, b));
                KN(store)(x + j + w, KN(sub)(a, b));
            }
    for (size_t i = 0; i < n; i += 16) {
        V16 a = KN(load)(x + i);
        a = KN(butterfly)(KN(butterfly)(a, 8), 4);
        a = KN(butterfly)(KN(butterfly)(a, 2), 1);
        KN(store)(x + i, KN(mul)(a, factor));
    }
}

static void KN(hadamard)(float *x, size_t n_heads, size_t head_dim)
{
    for (size_t h = 0; h < n_heads; h++)
        for (size_t rest = head_dim, n; rest; rest -= n, x += n) {
            for (n = 1; 2 * n <= rest;) n *= 2;
            if (n >= 16) KN(hadamard_piece)(x, n);
            else kernels_hadamard_short(x, n);
        }
}

/* ---- Rounding -------------------------------------------------------------------------------- */

/* A block below 1e-30 counts as zero, as in KN(quantize). */
static ERN_INLINE uint16_t KN(kv_scale)(float peak, float top)
{
    return peak < 1e-30f ? 0 : ern_f32_to_bf16(peak / top);
}

static ERN_INLINE V16 KN(kv_inverse)(uint16_t scale, float unit)
{
    return KN(set1)(scale ? unit / ern_bf16_to_f32(scale) : 0.0f);
}

static void KN(store_q8)(const float *x, size_t n, void *row)
{
    unsigned char *code = (unsigned char *)row;
    unsigned char *to = code + ern_kv_blocks(n) * ERN_KV_BLOCK;
    for (size_t i = 0; i < n; i += ERN_KV_BLOCK, to += sizeof(uint16_t)) {
        V16 block[2];
        KN(load_block)(x, n, i, block);
        const uint16_t scale = KN(kv_scale)(KN(peak)(block), 127.0f);
        KN(quantize32)(block[0], block[1], KN(kv_inverse)(scale, 1.0f), (int8_t *)(code + i));
        memcpy(to, &scale, sizeof scale);
    }
}

/* Codes 0 .. 31 of a block: number / (2 scale) + 15.5, rounded. */
static void KN(store_key_q4)(const float *x, size_t n, void *row)
{
    const size_t n_blocks = ern_kv_blocks(n);
    unsigned char *code = (unsigned char *)row, *fifth = code + n_blocks * 16, *to = fifth + n_blocks * 4;
    for (size_t i = 0; i < n; i += ERN_KV_BLOCK, code += 16, fifth += 4, to += sizeof(uint16_t)) {
        V16 block[2];
        int8_t five[ERN_KV_BLOCK];
        KN(load_block)(x, n, i, block);
        const uint16_t scale = KN(kv_scale)(KN(peak)(block), 31.0f);
        const V16 inverse = KN(kv_inverse)(scale, 0.5f), middle = KN(set1)(15.5f);
        for (size_t j = 0; j < 2; j++) {
            const V16 at = KN(fma)(block[j], inverse, middle);
            block[j] = KN(min)(KN(max)(at, KN(set1)(0.0f)), KN(set1)(31.0f));
        }
        KN(quantize32)(block[0], block[1], KN(set1)(1.0f), five);
        kernels_pack_key_q4(five, code, fifth);
        memcpy(to, &scale, sizeof scale);
    }
}

/* How magnitudes are rounded to the levels of ern_w4_level: above `above` the level is `more`
 * greater. The table has 37 beside -36; 36.5 stands for both. */
#define KERNELS_Q4_STEPS(STEP) \
    STEP(6.0f, 6.0f) STEP(12.0f, 6.0f) STEP(18.5f, 7.0f) STEP(25.5f, 7.0f) STEP(32.75f, 7.5f) \
    STEP(41.25f, 9.5f) STEP(53.0f, 14.0f)

static ERN_INLINE V16 KN(q4_level)(V16 magnitude)
{
    V16 level = KN(set1)(3.0f);
#define KERNELS_STEP(above_, more) \
    level = KN(add)(level, KN(above)(magnitude, KN(set1)(above_), KN(set1)(more)));
    KERNELS_Q4_STEPS(KERNELS_STEP)
#undef KERNELS_STEP
    return level;
}

/* Codes as floats: 8 .. 15 for what is above 0, 7 .. 0 below. */
static ERN_INLINE V16 KN(q4_code)(V16 x)
{
    const V16 magnitude = KN(abs)(x), one = KN(set1)(1.0f);
    V16 rank = KN(set1)(0.5f);
#define KERNELS_STEP(above_, more) rank = KN(add)(rank, KN(above)(magnitude, KN(set1)(above_), one));
    KERNELS_Q4_STEPS(KERNELS_STEP)
#undef KERNELS_STEP
    const V16 sign = KN(sub)(KN(above)(x, KN(set1)(0.0f), KN(set1)(2.0f)), one);
    return KN(fma)(sign, rank, KN(set1)(7.5f));
}

#undef KERNELS_Q4_STEPS

/* Squared error of the n real numbers of a block at this scale, in units of the peak, whose own
 * square may be no float. */
static ERN_INLINE float KN(q4_error)(const V16 block[2], size_t n, float peak, uint16_t scale)
{
    const V16 inverse = KN(kv_inverse)(scale, 1.0f);
    float end[16];
    V16 sum = KN(set1)(0.0f);
    for (size_t j = 0; j < 2 && 16 * j < n; j++) {
        const V16 at = KN(mul)(KN(abs)(block[j]), inverse);
        V16 off = KN(sub)(at, KN(q4_level)(at));
        if (n - 16 * j < 16) {
            KN(store)(end, off);
            off = KN(load_n)(end, n - 16 * j);
        }
        sum = KN(fma)(off, off, sum);
    }
    const float unit = ern_bf16_to_f32(scale) / peak;
    return KN(sum)(sum) * (unit * unit);
}

static void KN(store_value_q4)(const float *x, size_t n, void *row)
{
    /* The peak in scales. */
    static const float top[] = { 75.0f, 70.4f, 66.0f, 62.0f, 58.1f, 54.5f, 51.2f, 48.0f };
    unsigned char *code = (unsigned char *)row, *to = code + ern_kv_blocks(n) * 16;
    for (size_t i = 0; i < n; i += ERN_KV_BLOCK, code += 16, to += sizeof(uint16_t)) {
        V16 block[2];
        int8_t four[ERN_KV_BLOCK];
        KN(load_block)(x, n, i, block);
        const float peak = KN(peak)(block);
        uint16_t best = KN(kv_scale)(peak, top[0]);
        float least = KN(q4_error)(block, ern_min_size(n - i, 32), peak, best);
        for (size_t t = 1; t < ERN_COUNT(top) && best; t++) {
            const uint16_t scale = KN(kv_scale)(peak, top[t]);
            const float error = KN(q4_error)(block, ern_min_size(n - i, 32), peak, scale);
            best = error < least ? scale : best;
            least = error < least ? error : least;
        }
        const V16 inverse = KN(kv_inverse)(best, 1.0f);
        for (size_t j = 0; j < 2; j++) block[j] = KN(q4_code)(KN(mul)(block[j], inverse));
        KN(quantize32)(block[0], block[1], KN(set1)(1.0f), four);
        for (size_t j = 0; j < 16; j++) code[j] = (unsigned char)(four[j] | four[16 + j] << 4);
        memcpy(to, &best, sizeof best);
    }
}
