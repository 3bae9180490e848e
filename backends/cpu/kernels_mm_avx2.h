/* Products with w8 and w4 matrices for AVX2, and for AVX-VNNI where KERNELS_VNNI is set. Meaning:
 * kernels_mm_base.h.
 *
 * 32 decoded bytes are 8 rows x 4 columns. vpmaddubsw multiplies unsigned by signed bytes and adds
 * pairs in 16 bits, saturating; these operands never come near: w4 levels raised by 64 are at most
 * 124, and 2 * 124 * 127 < 2^15; w8 multiplies |code| by the activation with the code's sign, and
 * 2 * 127 * 127 < 2^15. With vpdpbusd nothing saturates, and w8 is raised by 128 instead.
 * What the raise added is subtracted in the block's start value. */

static ERN_INLINE __m256i KN(load_bytes)(const void *p)
{
    return _mm256_loadu_si256((const __m256i *)p);
}

static ERN_INLINE __m256i KN(broadcast4)(const int8_t *p)
{
    int32_t four;
    memcpy(&four, p, sizeof four);
    return _mm256_set1_epi32(four);
}

/* acc + u . a over 4 columns; u unsigned with sums of pairs below 2^15 in magnitude. */
static ERN_INLINE __m256i KN(dot_bytes)(__m256i acc, __m256i u, __m256i a)
{
#ifdef KERNELS_VNNI
    return _mm256_dpbusd_avx_epi32(acc, u, a);
#else
    const __m256i pairs = _mm256_maddubs_epi16(u, a);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}

/* acc[h][t] += (8 rows of half h) x 4 columns, for w4; x[h] holds decoded, raised levels. */
static ERN_INLINE void KN(dot4_w4)(size_t nh, size_t nt, const __m256i *x, const int8_t *q,
                                   size_t q_stride, __m256i *acc)
{
    KERNELS_UNROLL for (size_t t = 0; t < nt; t++) {
        const __m256i a = KN(broadcast4)(q + t * q_stride);
        KERNELS_UNROLL for (size_t h = 0; h < nh; h++)
            acc[h * nt + t] = KN(dot_bytes)(acc[h * nt + t], x[h], a);
    }
}

static ERN_INLINE void KN(block_w4)(size_t nh, size_t nt, const unsigned char *code, const int8_t *q,
                                    size_t q_stride, __m256i *acc)
{
    const __m256i low = _mm256_set1_epi8(15);
    const __m128i signed_level = _mm_loadu_si128((const __m128i *)(const void *)ern_w4_level);
    const __m256i level = _mm256_broadcastsi128_si256(_mm_add_epi8(signed_level, _mm_set1_epi8(64)));
    KERNELS_UNROLL for (size_t v = 0; v < 4; v++) {
        __m256i x[2], lo[2], hi[2];
        KERNELS_UNROLL for (size_t h = 0; h < nh; h++) {
            x[h] = KN(load_bytes)(code + v * 64 + h * 32);
            lo[h] = _mm256_shuffle_epi8(level, _mm256_and_si256(x[h], low));
            hi[h] = _mm256_shuffle_epi8(level, _mm256_and_si256(_mm256_srli_epi16(x[h], 4), low));
        }
        KN(dot4_w4)(nh, nt, lo, q + v * 8, q_stride, acc);
        KN(dot4_w4)(nh, nt, hi, q + v * 8 + 4, q_stride, acc);
    }
}

static ERN_INLINE void KN(block_w8)(size_t nh, size_t nt, const unsigned char *code, const int8_t *q,
                                    size_t q_stride, __m256i *acc)
{
    KERNELS_UNROLL for (size_t v = 0; v < 8; v++) {
        __m256i x[2];
        KERNELS_UNROLL for (size_t h = 0; h < nh; h++) x[h] = KN(load_bytes)(code + v * 64 + h * 32);
#ifdef KERNELS_VNNI
        KERNELS_UNROLL for (size_t h = 0; h < nh; h++)
            x[h] = _mm256_xor_si256(x[h], _mm256_set1_epi8(-128));
        KN(dot4_w4)(nh, nt, x, q + v * 4, q_stride, acc);
#else
        KERNELS_UNROLL for (size_t h = 0; h < nh; h++) {
            const __m256i size = _mm256_abs_epi8(x[h]);
            KERNELS_UNROLL for (size_t t = 0; t < nt; t++) {
                const __m256i a = _mm256_sign_epi8(KN(broadcast4)(q + v * 4 + t * q_stride), x[h]);
                acc[h * nt + t] = KN(dot_bytes)(acc[h * nt + t], size, a);
            }
        }
#endif
    }
}

#ifdef KERNELS_VNNI
#define KERNELS_RAISED_W8 -128
#else
#define KERNELS_RAISED_W8 0
#endif

/* nh halves of 8 rows of one group from half `first` on, nt tokens from token t0 on. */
static ERN_INLINE void KN(half_tile)(unsigned type, size_t nh, size_t first, size_t nt,
                                     const kernels_group *g, const ern_act *a, size_t t0, float *y,
                                     size_t y_stride)
{
    const size_t code_bytes = type == ERN_W4 ? 256 : 512;
    const int32_t raised = type == ERN_W4 ? -64 : KERNELS_RAISED_W8;
    const size_t q_stride = a->q_stride, s_stride = a->s_stride;
    const int8_t *q = a->q + t0 * q_stride;
    const float *d = a->q_scale + t0 * s_stride;
    const int32_t *sum = a->q_sum + t0 * s_stride;
    const unsigned char *code = g->code + first * 32;
    const unsigned char *scale = g->scale + first * 8, *wish = kernels_group_begin(g);
    __m256 f[2 * KERNELS_TOKENS];
    KERNELS_UNROLL for (size_t i = 0; i < nh * nt; i++) f[i] = _mm256_setzero_ps();
    for (size_t b = 0; b < g->n_blocks; b++, code += code_bytes, q += 32, scale += 16) {
        __m256i acc[2 * KERNELS_TOKENS];
        KERNELS_UNROLL for (size_t i = 0; i < nh * nt; i++)
            acc[i] = _mm256_set1_epi32(raised * sum[i % nt * s_stride + b]);
        if (first == 0) kernels_wish(wish + b * (code_bytes + 16), code_bytes + 16);
        if (type == ERN_W4) KN(block_w4)(nh, nt, code, q, q_stride, acc);
        else KN(block_w8)(nh, nt, code, q, q_stride, acc);
        KERNELS_UNROLL for (size_t h = 0; h < nh; h++) {
            const __m128i bytes = _mm_loadl_epi64((const __m128i *)(const void *)(scale + h * 8));
            const __m256 w = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes));
            KERNELS_UNROLL for (size_t t = 0; t < nt; t++)
                f[h * nt + t] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[h * nt + t]),
                                                _mm256_mul_ps(w, _mm256_set1_ps(d[t * s_stride + b])),
                                                f[h * nt + t]);
        }
    }
    KERNELS_UNROLL for (size_t h = 0; h < nh; h++) {
        const __m256 row_scale = _mm256_loadu_ps(g->row_scale + (first + h) * 8);
        KERNELS_UNROLL for (size_t t = 0; t < nt; t++)
            _mm256_storeu_ps(y + t * y_stride + (first + h) * 8,
                             _mm256_mul_ps(f[h * nt + t], row_scale));
    }
}

#undef KERNELS_RAISED_W8

/* Few tokens: both halves at once, so that a line of codes is read once. More: one half after the
 * other, so that all sums stay in the 16 registers. */
static ERN_INLINE void KN(tile)(unsigned type, size_t ng, size_t nt, const kernels_group *g,
                                const ern_act *a, size_t t0, float *y, size_t y_stride)
{
    (void)ng; /* always 1 */
    if (nt <= 2) {
        KN(half_tile)(type, 2, 0, nt, g, a, t0, y, y_stride);
    } else {
        KN(half_tile)(type, 1, 0, nt, g, a, t0, y, y_stride);
        KN(half_tile)(type, 1, 1, nt, g, a, t0, y, y_stride);
    }
}
