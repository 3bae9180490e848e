/* Words of codes in AVX2 registers, for kernels_mm_codes.h: 8 rows a register; the products are
 * those of kernels_mm_avx2.h, by vpdpbusd where KERNELS_VNNI is set. */

typedef __m256i KN(words);
typedef __m256 KN(lanes);

#define KERNELS_CODE_ROWS 8
#define KERNELS_RIGHT(x, n) _mm256_srli_epi32((x), (n))
#define KERNELS_FUNNEL(high, low, n) \
    _mm256_or_si256(_mm256_srli_epi32((low), (n)), _mm256_slli_epi32((high), 32 - (n)))

static ERN_INLINE KN(words) KN(code_load)(const unsigned char *p) { return KN(load_bytes)(p); }

static ERN_INLINE void KN(code_save)(unsigned char *p, KN(words) x)
{
    _mm256_storeu_si256((__m256i *)(void *)p, x);
}

static ERN_INLINE KN(words) KN(code_xor)(KN(words) x, KN(words) y)
{
    return _mm256_xor_si256(x, y);
}

/* x ^ (y & 0x33..33) */
static ERN_INLINE KN(words) KN(code_change)(KN(words) x, KN(words) y)
{
    return KN(code_xor)(x, _mm256_and_si256(y, _mm256_set1_epi8(0x33)));
}

/* Levels are raised by 64, so that they are unsigned and pairs of products fit 16 bits. */
static ERN_INLINE __m256i KN(code_table)(const int8_t *level) /* 16 of them */
{
    const __m128i x = _mm_loadu_si128((const __m128i *)(const void *)level);
    return _mm256_broadcastsi128_si256(_mm_add_epi8(x, _mm_set1_epi8(64)));
}

/* Bit n of each byte at bit 7, where vpblendvb looks. */
static ERN_INLINE __m256i KN(code_bit)(__m256i plane, size_t n)
{
    switch (n) {
    case 0: return _mm256_slli_epi32(plane, 7);
    case 1: return _mm256_slli_epi32(plane, 6);
    case 2: return _mm256_slli_epi32(plane, 5);
    case 3: return _mm256_slli_epi32(plane, 4);
    case 4: return _mm256_slli_epi32(plane, 3);
    case 5: return _mm256_slli_epi32(plane, 2);
    case 6: return _mm256_slli_epi32(plane, 1);
    default: return plane;
    }
}

/* Levels of 32, those with the bit from the second 16. */
static ERN_INLINE __m256i KN(code_half)(const int8_t *level, __m256i x, __m256i bit)
{
    return _mm256_blendv_epi8(_mm256_shuffle_epi8(KN(code_table)(level), x),
                              _mm256_shuffle_epi8(KN(code_table)(level + 16), x), bit);
}

/* Levels of vector v. */
static ERN_INLINE KN(words)
    KN(code_levels)(unsigned type, KN(words) x, const KN(words) plane[2], size_t v)
{
    x = _mm256_and_si256(x, _mm256_set1_epi8(15));
    if (type == ERN_C2) return _mm256_shuffle_epi8(KN(code_table)(ern_c2_level), x);
    if (type == ERN_C3) return KN(code_half)(ern_c3_level, x, KN(code_bit)(plane[0], v));
    const __m256i bit = KN(code_bit)(plane[v / 4], v % 4 * 2);
    return _mm256_blendv_epi8(KN(code_half)(ern_c4_level, x, bit),
                              KN(code_half)(ern_c4_level + 32, x, bit),
                              KN(code_bit)(plane[v / 4], v % 4 * 2 + 1));
}

static ERN_INLINE KN(words) KN(code_four)(const int8_t *q) { return KN(broadcast4)(q); }
static ERN_INLINE KN(words) KN(code_start)(int32_t sum) { return _mm256_set1_epi32(-64 * sum); }

static ERN_INLINE KN(words) KN(code_dot)(KN(words) acc, KN(words) levels, KN(words) four)
{
    return KN(dot_bytes)(acc, levels, four);
}

static ERN_INLINE KN(lanes) KN(code_zero)(void) { return _mm256_setzero_ps(); }
static ERN_INLINE KN(lanes) KN(code_sums)(const float *p) { return _mm256_loadu_ps(p); }

static ERN_INLINE void KN(code_store)(float *p, KN(lanes) f, const float *factor)
{
    _mm256_storeu_ps(p, _mm256_mul_ps(f, _mm256_loadu_ps(factor)));
}

/* q + 4 of each row, from low or high nibbles. */
static ERN_INLINE KN(lanes) KN(code_scales)(const unsigned char *scale, unsigned odd)
{
    const __m256i x = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)scale));
    const __m256i q = odd ? _mm256_srli_epi32(x, 4) : _mm256_and_si256(x, _mm256_set1_epi32(15));
    return _mm256_cvtepi32_ps(_mm256_add_epi32(q, _mm256_set1_epi32(4)));
}

/* f + acc * (w * d) */
static ERN_INLINE KN(lanes) KN(code_add)(KN(words) acc, KN(lanes) w, float d, KN(lanes) f)
{
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc), _mm256_mul_ps(w, _mm256_set1_ps(d)), f);
}
