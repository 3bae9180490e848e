/* Sixteen float lanes in one AVX-512 register. Meanings: kernels_lane_base.h. */

typedef __m512 V16;

static ERN_INLINE __mmask16 KN(mask)(size_t n) { return (__mmask16)((1u << n) - 1); }
static ERN_INLINE V16 KN(set1)(float x) { return _mm512_set1_ps(x); }
static ERN_INLINE V16 KN(load)(const float *p) { return _mm512_loadu_ps(p); }

static ERN_INLINE V16 KN(load_n)(const float *p, size_t n)
{
    return _mm512_maskz_loadu_ps(KN(mask)(n), p);
}

static ERN_INLINE V16 KN(load_f16)(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

static ERN_INLINE V16 KN(load_f16_n)(const uint16_t *p, size_t n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(KN(mask)(n), p));
}

static ERN_INLINE V16 KN(load_i8)(const int8_t *p)
{
    const __m128i q = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(q));
}

/* A permutation looks at the low four bits of an index only. */
static ERN_INLINE V16 KN(load_q4)(const unsigned char *block, bool high)
{
    const __m128i signed_level = _mm_loadu_si128((const __m128i *)(const void *)ern_w4_level);
    const V16 level = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(signed_level));
    const __m512i x = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)block));
    return _mm512_permutexvar_ps(high ? _mm512_srli_epi32(x, 4) : x, level);
}

static ERN_INLINE V16 KN(load_bf16)(const uint16_t *p)
{
    const __m256i h = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

static ERN_INLINE void KN(store)(float *p, V16 x) { _mm512_storeu_ps(p, x); }

static ERN_INLINE void KN(store_n)(float *p, V16 x, size_t n)
{
    _mm512_mask_storeu_ps(p, KN(mask)(n), x);
}

/* The masked form with a full mask: the plain one is a macro that warns in unoptimised builds. */
static ERN_INLINE __m256i KN(to_f16)(V16 x)
{
    return _mm512_maskz_cvtps_ph(0xffff, x, _MM_FROUND_TO_NEAREST_INT);
}

static ERN_INLINE void KN(store_f16)(uint16_t *p, V16 x)
{
    _mm256_storeu_si256((__m256i *)(void *)p, KN(to_f16)(x));
}

static ERN_INLINE void KN(store_f16_n)(uint16_t *p, V16 x, size_t n)
{
    _mm256_mask_storeu_epi16(p, KN(mask)(n), KN(to_f16)(x));
}

static ERN_INLINE V16 KN(add)(V16 a, V16 b) { return _mm512_add_ps(a, b); }
static ERN_INLINE V16 KN(sub)(V16 a, V16 b) { return _mm512_sub_ps(a, b); }
static ERN_INLINE V16 KN(mul)(V16 a, V16 b) { return _mm512_mul_ps(a, b); }
static ERN_INLINE V16 KN(div)(V16 a, V16 b) { return _mm512_div_ps(a, b); }
static ERN_INLINE V16 KN(fma)(V16 a, V16 b, V16 c) { return _mm512_fmadd_ps(a, b, c); }
static ERN_INLINE V16 KN(max)(V16 a, V16 b) { return _mm512_max_ps(a, b); }
static ERN_INLINE V16 KN(min)(V16 a, V16 b) { return _mm512_min_ps(a, b); }
static ERN_INLINE V16 KN(abs)(V16 x) { return _mm512_abs_ps(x); }

static ERN_INLINE V16 KN(above)(V16 x, V16 t, V16 y)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, t, _CMP_GT_OQ), y);
}

static ERN_INLINE V16 KN(scale2)(V16 p, V16 t)
{
    return _mm512_scalef_ps(p, _mm512_sub_ps(t, _mm512_set1_ps(12582912.0f)));
}

static ERN_INLINE V16 KN(rotate)(V16 x, V16 cs)
{
    const __m512 swapped = _mm512_permute_ps(x, 0xb1);
    return _mm512_fmaddsub_ps(x, _mm512_moveldup_ps(cs),
                              _mm512_mul_ps(swapped, _mm512_movehdup_ps(cs)));
}

static ERN_INLINE V16 KN(butterfly)(V16 x, unsigned w)
{
    const V16 y = w == 1   ? _mm512_permute_ps(x, 0xb1)
                  : w == 2 ? _mm512_permute_ps(x, 0x4e)
                  : w == 4 ? _mm512_shuffle_f32x4(x, x, 0xb1)
                           : _mm512_shuffle_f32x4(x, x, 0x4e);
    const __mmask16 odd = w == 1 ? 0xaaaa : w == 2 ? 0xcccc : w == 4 ? 0xf0f0 : 0xff00;
    return _mm512_mask_sub_ps(_mm512_add_ps(x, y), odd, y, x);
}

/* x and y of 16 lanes as [x j + x j+8, y j + y j+8], j < 8. */
static ERN_INLINE V16 KN(fold8)(V16 x, V16 y)
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee));
}

static ERN_INLINE void KN(sum4)(const V16 *x, float *out)
{
    const __m512 ab = KN(fold8)(x[0], x[1]), cd = KN(fold8)(x[2], x[3]);
    const __m512 quads = _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88),
                                       _mm512_shuffle_f32x4(ab, cd, 0xdd));
    const __m512 pairs = _mm512_add_ps(quads, _mm512_permute_ps(quads, 0x4e));
    const __m512 sums = _mm512_add_ps(pairs, _mm512_permute_ps(pairs, 0xb1));
    const __m512i firsts = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0);
    _mm_storeu_ps(out, _mm512_castps512_ps128(_mm512_permutexvar_ps(firsts, sums)));
}

static ERN_INLINE float KN(sum)(V16 x)
{
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

static ERN_INLINE float KN(max_all)(V16 x) { return _mm512_reduce_max_ps(x); }

static ERN_INLINE int32_t KN(quantize32)(V16 a, V16 b, V16 inv, int8_t *q)
{
    const __m512i low = _mm512_set1_epi32(-127);
    const __m512i i = _mm512_max_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(a, inv)), low);
    const __m512i j = _mm512_max_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(b, inv)), low);
    _mm_storeu_si128((__m128i *)(void *)q, _mm512_cvtsepi32_epi8(i));
    _mm_storeu_si128((__m128i *)(void *)(q + 16), _mm512_cvtsepi32_epi8(j));
    return _mm512_reduce_add_epi32(_mm512_add_epi32(i, j));
}

/* ---- Integer sums --------------------------------------------------------------------------- */

/* vpdpbusd wants one side unsigned: codes of q8 are raised by 128, those of q4 are twice their five
 * bits, which is 31 more than the number. */
typedef __m512i W16;
typedef __m512i K64;

static ERN_INLINE W16 KN(start_keys)(ern_kv kv, int32_t sum)
{
    return _mm512_set1_epi32((kv == ERN_KV_Q8 ? -128 : -31) * sum);
}

/* 4 bits of each byte from the right place, one more from a mask. */
static ERN_INLINE K64 KN(five_bits)(__m512i four, const unsigned char *fifth)
{
    uint64_t mask;
    memcpy(&mask, fifth, sizeof mask);
    const __m512i low = _mm512_and_si512(four, _mm512_set1_epi8(0x1e));
    return _mm512_mask_add_epi8(low, mask, low, _mm512_set1_epi8(32));
}

static ERN_INLINE void KN(load_keys)(ern_kv kv, const unsigned char *code, const unsigned char *fifth,
                                     size_t v, K64 *x)
{
    if (kv == ERN_KV_Q8) {
        const __m512i raise = _mm512_set1_epi8(-128);
        x[0] = _mm512_xor_si512(_mm512_loadu_si512(code + v * 128), raise);
        x[1] = _mm512_xor_si512(_mm512_loadu_si512(code + v * 128 + 64), raise);
        return;
    }
    const __m512i byte = _mm512_loadu_si512(code + v * 64);
    x[0] = KN(five_bits)(_mm512_slli_epi16(byte, 1), fifth + v * 16);
    x[1] = KN(five_bits)(_mm512_srli_epi16(byte, 3), fifth + v * 16 + 8);
}

static ERN_INLINE __m512i KN(four_queries)(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm512_set1_epi32(four);
}

static ERN_INLINE W16 KN(dot_keys)(ern_kv kv, W16 acc, const K64 *x, const int8_t *q)
{
    (void)kv;
    acc = _mm512_dpbusd_epi32(acc, x[0], KN(four_queries)(q));
    return _mm512_dpbusd_epi32(acc, x[1], KN(four_queries)(q + 4));
}

static ERN_INLINE V16 KN(to_floats)(W16 x) { return _mm512_cvtepi32_ps(x); }
