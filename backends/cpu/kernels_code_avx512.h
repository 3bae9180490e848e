/* Words of codes in AVX-512 registers, for kernels_mm_codes.h: 16 rows a register. With
 * KERNELS_VBMI also VBMI and VBMI2: a funnel shift is one instruction, and vpermb looks up 64
 * levels and ignores the bits above. Without them a funnel shift is two rotations, which two of
 * them share, and a selection; vpshufb looks up 16 levels, and further bits of an index become
 * masks. */

typedef __m512i KN(words);
typedef __m512 KN(lanes);

#define KERNELS_CODE_ROWS 16
#define KERNELS_RIGHT(x, n) _mm512_srli_epi32((x), (n))
#ifdef KERNELS_VBMI
#define KERNELS_FUNNEL(high, low, n) _mm512_shrdi_epi32((low), (high), (n))
#else
#define KERNELS_FUNNEL(high, low, n)                                                       \
    _mm512_ternarylogic_epi32(_mm512_set1_epi32((int)(0xffffffffu << (32 - (n)))),         \
                              _mm512_ror_epi32((high), (n)), _mm512_ror_epi32((low), (n)), 0xca)
#endif

static ERN_INLINE KN(words) KN(code_load)(const unsigned char *p) { return _mm512_loadu_si512(p); }
static ERN_INLINE void KN(code_save)(unsigned char *p, KN(words) x) { _mm512_storeu_si512(p, x); }

static ERN_INLINE KN(words) KN(code_xor)(KN(words) x, KN(words) y)
{
    return _mm512_xor_si512(x, y);
}

/* x ^ (y & 0x33..33) */
static ERN_INLINE KN(words) KN(code_change)(KN(words) x, KN(words) y)
{
    return _mm512_ternarylogic_epi32(x, y, _mm512_set1_epi8(0x33), 0x78);
}

/* Levels are raised by 64, for vpdpbusd wants one side unsigned. */
static ERN_INLINE __m512i KN(code_raised)(__m512i level)
{
    return _mm512_add_epi8(level, _mm512_set1_epi8(64));
}

static ERN_INLINE __m512i KN(code_table)(const int8_t *level) /* 16 of them */
{
    return KN(code_raised)(
        _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)level)));
}

#ifdef KERNELS_VBMI

/* Bits 2 m and 2 m + 1 of each byte at bits 4 and 5. */
static ERN_INLINE __m512i KN(code_bits)(__m512i plane, size_t m)
{
    switch (m) {
    case 0: return _mm512_slli_epi32(plane, 4);
    case 1: return _mm512_slli_epi32(plane, 2);
    case 2: return plane;
    default: return _mm512_srli_epi32(plane, 2);
    }
}

/* Levels of vector v. One bit of a plane of c3 lands on bit 4 of the index, the next on bit 5, so
 * that they share a shift; each has a table that is blind to the other bit. */
static ERN_INLINE KN(words)
    KN(code_levels)(unsigned type, KN(words) x, const KN(words) plane[2], size_t v)
{
    if (type == ERN_C2) return _mm512_permutexvar_epi8(x, KN(code_table)(ern_c2_level));
    if (type == ERN_C4) {
        x = _mm512_ternarylogic_epi32(_mm512_set1_epi8(0x30), KN(code_bits)(plane[v / 4], v % 4), x,
                                      0xca);
        return _mm512_permutexvar_epi8(x, KN(code_raised)(_mm512_loadu_si512(ern_c4_level)));
    }
    const __m512i twice = 
        _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)ern_c3_level));
    const __m512i mask = _mm512_set1_epi8(v % 2 ? 0x20 : 0x10);
    x = _mm512_ternarylogic_epi32(mask, KN(code_bits)(plane[0], v / 2), x, 0xca);
    const __m512i table = v % 2 ? _mm512_shuffle_i32x4(twice, twice, 0x50) : twice;
    return _mm512_permutexvar_epi8(x, KN(code_raised)(table));
}

#else

/* Which bytes have bit n set. */
static ERN_INLINE __mmask64 KN(code_bit)(__m512i plane, size_t n)
{
    return _mm512_test_epi8_mask(plane, _mm512_set1_epi8((char)(1 << n)));
}

/* Levels of vector v. */
static ERN_INLINE KN(words)
    KN(code_levels)(unsigned type, KN(words) x, const KN(words) plane[2], size_t v)
{
    x = _mm512_and_si512(x, _mm512_set1_epi8(15));
    if (type == ERN_C2) return _mm512_shuffle_epi8(KN(code_table)(ern_c2_level), x);
    if (type == ERN_C3) {
        const __m512i low = _mm512_shuffle_epi8(KN(code_table)(ern_c3_level), x);
        return _mm512_mask_shuffle_epi8(low, KN(code_bit)(plane[0], v),
                                        KN(code_table)(ern_c3_level + 16), x);
    }
    const __mmask64 bit = KN(code_bit)(plane[v / 4], v % 4 * 2),
                    high = KN(code_bit)(plane[v / 4], v % 4 * 2 + 1);
    __m512i a = _mm512_shuffle_epi8(KN(code_table)(ern_c4_level), x);
    __m512i b = _mm512_shuffle_epi8(KN(code_table)(ern_c4_level + 32), x);
    a = _mm512_mask_shuffle_epi8(a, bit, KN(code_table)(ern_c4_level + 16), x);
    b = _mm512_mask_shuffle_epi8(b, bit, KN(code_table)(ern_c4_level + 48), x);
    return _mm512_mask_mov_epi8(a, high, b);
}

#endif

/* Four activations in every lane. */
static ERN_INLINE KN(words) KN(code_four)(const int8_t *q)
{
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm512_set1_epi32(four);
}

/* The sums of a block whose activations add up to `sum`, before its products. */
static ERN_INLINE KN(words) KN(code_start)(int32_t sum) { return _mm512_set1_epi32(-64 * sum); }

static ERN_INLINE KN(words) KN(code_dot)(KN(words) acc, KN(words) levels, KN(words) four)
{
    return _mm512_dpbusd_epi32(acc, levels, four);
}

static ERN_INLINE KN(lanes) KN(code_zero)(void) { return _mm512_setzero_ps(); }
static ERN_INLINE KN(lanes) KN(code_sums)(const float *p) { return _mm512_loadu_ps(p); }

static ERN_INLINE void KN(code_store)(float *p, KN(lanes) f, const float *factor)
{
    _mm512_storeu_ps(p, _mm512_mul_ps(f, _mm512_loadu_ps(factor)));
}

/* q + 4 of each row, from low or high nibbles; vpermps looks at the low 4 bits of a lane. */
static ERN_INLINE KN(lanes) KN(code_scales)(const unsigned char *scale, unsigned odd)
{
    const __m512 table = _mm512_setr_ps(4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19);
    const __m512i x = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)scale));
    return _mm512_permutexvar_ps(odd ? _mm512_srli_epi32(x, 4) : x, table);
}

/* f + acc * (w * d) */
static ERN_INLINE KN(lanes) KN(code_add)(KN(words) acc, KN(lanes) w, float d, KN(lanes) f)
{
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), _mm512_mul_ps(w, _mm512_set1_ps(d)), f);
}
