/* Sixteen float lanes in two AVX registers. Meanings: kernels_lane_base.h. */

typedef struct V16 {
    __m256 lo, hi;
} V16;

static ERN_INLINE V16 KN(pair)(__m256 lo, __m256 hi)
{
    const V16 y = { lo, hi };
    return y;
}

static ERN_INLINE V16 KN(set1)(float x) { return KN(pair)(_mm256_set1_ps(x), _mm256_set1_ps(x)); }

static ERN_INLINE V16 KN(load)(const float *p)
{
    return KN(pair)(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}

/* Lanes below n, as a mask of 8 lanes that start at `first`. */
static ERN_INLINE __m256i KN(mask)(size_t n, int first)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n - first), lane);
}

static ERN_INLINE V16 KN(load_n)(const float *p, size_t n)
{
    return KN(pair)(_mm256_maskload_ps(p, KN(mask)(n, 0)),
                    n > 8 ? _mm256_maskload_ps(p + 8, KN(mask)(n, 8)) : _mm256_setzero_ps());
}

static ERN_INLINE V16 KN(load_f16)(const uint16_t *p)
{
    return KN(pair)(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)),
                    _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(p + 8))));
}

static ERN_INLINE V16 KN(load_f16_n)(const uint16_t *p, size_t n)
{
    uint16_t h[16] = { 0 };
    memcpy(h, p, n * sizeof *p);
    return KN(load_f16)(h);
}

static ERN_INLINE __m256 KN(half_i8)(const int8_t *p)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}

static ERN_INLINE V16 KN(load_i8)(const int8_t *p)
{
    return KN(pair)(KN(half_i8)(p), KN(half_i8)(p + 8));
}

static ERN_INLINE V16 KN(load_q4)(const unsigned char *block, bool high)
{
    const __m128i level = _mm_loadu_si128((const __m128i *)(const void *)ern_w4_level);
    const __m128i byte = _mm_loadu_si128((const __m128i *)(const void *)block);
    const __m128i four = _mm_and_si128(high ? _mm_srli_epi16(byte, 4) : byte, _mm_set1_epi8(15));
    const __m128i x = _mm_shuffle_epi8(level, four);
    return KN(pair)(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)),
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(x, 8))));
}

static ERN_INLINE __m256 KN(half_bf16)(const uint16_t *p)
{
    const __m128i h = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

static ERN_INLINE V16 KN(load_bf16)(const uint16_t *p)
{
    return KN(pair)(KN(half_bf16)(p), KN(half_bf16)(p + 8));
}

static ERN_INLINE void KN(store)(float *p, V16 x)
{
    _mm256_storeu_ps(p, x.lo);
    _mm256_storeu_ps(p + 8, x.hi);
}

static ERN_INLINE void KN(store_n)(float *p, V16 x, size_t n)
{
    _mm256_maskstore_ps(p, KN(mask)(n, 0), x.lo);
    if (n > 8) _mm256_maskstore_ps(p + 8, KN(mask)(n, 8), x.hi);
}

static ERN_INLINE void KN(store_f16)(uint16_t *p, V16 x)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(x.lo, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(void *)(p + 8), _mm256_cvtps_ph(x.hi, _MM_FROUND_TO_NEAREST_INT));
}

static ERN_INLINE void KN(store_f16_n)(uint16_t *p, V16 x, size_t n)
{
    uint16_t h[16];
    KN(store_f16)(h, x);
    memcpy(p, h, n * sizeof *p);
}

static ERN_INLINE V16 KN(add)(V16 a, V16 b)
{
    return KN(pair)(_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi));
}

static ERN_INLINE V16 KN(sub)(V16 a, V16 b)
{
    return KN(pair)(_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi));
}

static ERN_INLINE V16 KN(mul)(V16 a, V16 b)
{
    return KN(pair)(_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi));
}

static ERN_INLINE V16 KN(div)(V16 a, V16 b)
{
    return KN(pair)(_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi));
}

static ERN_INLINE V16 KN(fma)(V16 a, V16 b, V16 c)
{
    return KN(pair)(_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi));
}

static ERN_INLINE V16 KN(max)(V16 a, V16 b)
{
    return KN(pair)(_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi));
}

static ERN_INLINE V16 KN(min)(V16 a, V16 b)
{
    return KN(pair)(_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi));
}

static ERN_INLINE V16 KN(abs)(V16 x)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return KN(pair)(_mm256_andnot_ps(sign, x.lo), _mm256_andnot_ps(sign, x.hi));
}

static ERN_INLINE V16 KN(above)(V16 x, V16 t, V16 y)
{
    return KN(pair)(_mm256_and_ps(_mm256_cmp_ps(x.lo, t.lo, _CMP_GT_OQ), y.lo),
                    _mm256_and_ps(_mm256_cmp_ps(x.hi, t.hi, _CMP_GT_OQ), y.hi));
}

static ERN_INLINE __m256 KN(half_power)(__m256i n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

static ERN_INLINE __m256 KN(half_scale2)(__m256 p, __m256 t)
{
    const __m256i magic = _mm256_castps_si256(_mm256_set1_ps(12582912.0f));
    const __m256i n = _mm256_sub_epi32(_mm256_castps_si256(t), magic);
    const __m256i half = _mm256_srai_epi32(n, 1);
    p = _mm256_mul_ps(p, KN(half_power)(half));
    return _mm256_mul_ps(p, KN(half_power)(_mm256_sub_epi32(n, half)));
}

static ERN_INLINE V16 KN(scale2)(V16 p, V16 t)
{
    return KN(pair)(KN(half_scale2)(p.lo, t.lo), KN(half_scale2)(p.hi, t.hi));
}

static ERN_INLINE __m256 KN(half_rotate)(__m256 x, __m256 cs)
{
    const __m256 swapped = _mm256_permute_ps(x, 0xb1);
    return _mm256_fmaddsub_ps(x, _mm256_moveldup_ps(cs),
                              _mm256_mul_ps(swapped, _mm256_movehdup_ps(cs)));
}

static ERN_INLINE V16 KN(rotate)(V16 x, V16 cs)
{
    return KN(pair)(KN(half_rotate)(x.lo, cs.lo), KN(half_rotate)(x.hi, cs.hi));
}

static ERN_INLINE __m256 KN(half_butterfly)(__m256 x, unsigned w)
{
    const __m256 y = w == 1   ? _mm256_permute_ps(x, 0xb1)
                     : w == 2 ? _mm256_permute_ps(x, 0x4e)
                              : _mm256_permute2f128_ps(x, x, 1);
    const __m256 sum = _mm256_add_ps(x, y), difference = _mm256_sub_ps(y, x);
    return w == 1   ? _mm256_blend_ps(sum, difference, 0xaa)
           : w == 2 ? _mm256_blend_ps(sum, difference, 0xcc)
                    : _mm256_blend_ps(sum, difference, 0xf0);
}

static ERN_INLINE V16 KN(butterfly)(V16 x, unsigned w)
{
    if (w == 8) return KN(pair)(_mm256_add_ps(x.lo, x.hi), _mm256_sub_ps(x.lo, x.hi));
    return KN(pair)(KN(half_butterfly)(x.lo, w), KN(half_butterfly)(x.hi, w));
}

/* x and y of 8 lanes as [x j + x j+4, y j + y j+4], j < 4. */
static ERN_INLINE __m256 KN(fold4)(__m256 x, __m256 y)
{
    return _mm256_add_ps(_mm256_permute2f128_ps(x, y, 0x20), _mm256_permute2f128_ps(x, y, 0x31));
}

static ERN_INLINE __m256 KN(fold8)(V16 x) { return _mm256_add_ps(x.lo, x.hi); }

static ERN_INLINE void KN(sum4)(const V16 *x, float *out)
{
    const __m256 ac = KN(fold4)(KN(fold8)(x[0]), KN(fold8)(x[2]));
    const __m256 bd = KN(fold4)(KN(fold8)(x[1]), KN(fold8)(x[3]));
    const __m256 pairs = _mm256_add_ps(_mm256_shuffle_ps(ac, bd, 0x44), _mm256_shuffle_ps(ac, bd, 0xee));
    const __m256 sums = _mm256_add_ps(pairs, _mm256_movehdup_ps(pairs)); /* a . b . | c . d . */
    _mm_storeu_ps(out, _mm_shuffle_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1), 0x88));
}

static ERN_INLINE float KN(sum)(V16 x)
{
    const __m256 eight = KN(fold8)(x);
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static ERN_INLINE float KN(max_all)(V16 x)
{
    const __m256 eight = _mm256_max_ps(x.lo, x.hi);
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

static ERN_INLINE __m256i KN(round)(__m256 x, __m256 inv)
{
    return _mm256_max_epi32(_mm256_cvtps_epi32(_mm256_mul_ps(x, inv)), _mm256_set1_epi32(-127));
}

/* The packs work on 128-bit halves, so their result is put in order at the end. */
static ERN_INLINE int32_t KN(quantize32)(V16 a, V16 b, V16 inv, int8_t *q)
{
    const __m256i i0 = KN(round)(a.lo, inv.lo), i1 = KN(round)(a.hi, inv.lo);
    const __m256i i2 = KN(round)(b.lo, inv.lo), i3 = KN(round)(b.hi, inv.lo);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(i0, i1), _mm256_packs_epi32(i2, i3));
    _mm256_storeu_si256((__m256i *)(void *)q, _mm256_permutevar8x32_epi32(bytes, order));
    const __m256i eight = _mm256_add_epi32(_mm256_add_epi32(i0, i1), _mm256_add_epi32(i2, i3));
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

/* ---- Integer sums --------------------------------------------------------------------------- */

/* vpmaddubsw adds pairs of products in 16 bits. q8 multiplies |code| by the activation with the
 * code's sign: 2 * 128 * 127 < 2^15. Codes of q4 are twice their five bits, 31 more than the
 * number: two quads may be added before they are widened, 4 * 62 * 127 < 2^15. */
typedef struct W16 {
    __m256i lo, hi;
} W16;

typedef struct K64 {
    __m256i half[2];
} K64;

static ERN_INLINE W16 KN(start_keys)(ern_kv kv, int32_t sum)
{
    const __m256i start = _mm256_set1_epi32(kv == ERN_KV_Q8 ? 0 : -31 * sum);
    const W16 y = { start, start };
    return y;
}

/* 4 bits of each byte from the right place, one more from a bit of `fifth`. */
static ERN_INLINE __m256i KN(five_bits)(__m256i four, const unsigned char *fifth)
{
    const __m256i byte = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2,
                                          2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    int32_t mask;
    memcpy(&mask, fifth, sizeof mask);
    const __m256i x = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(mask), byte), bit);
    const __m256i set = _mm256_and_si256(_mm256_cmpeq_epi8(x, bit), _mm256_set1_epi8(32));
    return _mm256_or_si256(_mm256_and_si256(four, _mm256_set1_epi8(0x1e)), set);
}

static ERN_INLINE void KN(load_keys)(ern_kv kv, const unsigned char *code, const unsigned char *fifth,
                                     size_t v, K64 *x)
{
    KERNELS_UNROLL for (size_t h = 0; h < 2; h++) {
        if (kv == ERN_KV_Q8) {
            const unsigned char *p = code + v * 128 + h * 32;
            x[0].half[h] = _mm256_loadu_si256((const __m256i *)(const void *)p);
            x[1].half[h] = _mm256_loadu_si256((const __m256i *)(const void *)(p + 64));
        } else {
            const unsigned char *p = code + v * 64 + h * 32, *f = fifth + v * 16 + h * 4;
            const __m256i byte = _mm256_loadu_si256((const __m256i *)(const void *)p);
            x[0].half[h] = KN(five_bits)(_mm256_slli_epi16(byte, 1), f);
            x[1].half[h] = KN(five_bits)(_mm256_srli_epi16(byte, 3), f + 8);
        }
    }
}

static ERN_INLINE __m256i KN(four_queries)(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}

static ERN_INLINE __m256i KN(half_dot)(ern_kv kv, __m256i acc, __m256i x, __m256i y, __m256i q, __m256i r)
{
    const __m256i one = _mm256_set1_epi16(1);
    if (kv == ERN_KV_Q8) {
        x = _mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(q, x));
        y = _mm256_maddubs_epi16(_mm256_abs_epi8(y), _mm256_sign_epi8(r, y));
        return _mm256_add_epi32(acc, _mm256_add_epi32(_mm256_madd_epi16(x, one), _mm256_madd_epi16(y, one)));
    }
    x = _mm256_add_epi16(_mm256_maddubs_epi16(x, q), _mm256_maddubs_epi16(y, r));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(x, one));
}

static ERN_INLINE W16 KN(dot_keys)(ern_kv kv, W16 acc, const K64 *x, const int8_t *q)
{
    const __m256i a = KN(four_queries)(q), b = KN(four_queries)(q + 4);
    acc.lo = KN(half_dot)(kv, acc.lo, x[0].half[0], x[1].half[0], a, b);
    acc.hi = KN(half_dot)(kv, acc.hi, x[0].half[1], x[1].half[1], a, b);
    return acc;
}

static ERN_INLINE V16 KN(to_floats)(W16 x)
{
    return KN(pair)(_mm256_cvtepi32_ps(x.lo), _mm256_cvtepi32_ps(x.hi));
}
