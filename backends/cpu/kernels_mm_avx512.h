/* Products with w8 and w4 matrices for AVX-512 VNNI. Meaning: kernels_mm_base.h.
 *
 * 64 decoded bytes are 16 rows x 4 columns, one 32-bit lane a row, and vpdpbusd multiplies them
 * with 4 activations broadcast from memory. It wants one side unsigned, so levels are raised by 64
 * (w4) or 128 (w8) and the block's sum starts at minus that many times the sum of the activations.
 *
 * With several tokens a pair of groups shares each broadcast. Its tile of 2 groups x 8 tokens keeps
 * the float sums in memory, once a block, and still wins over 2 x 4. One Zen 5 server core, 3072 x
 * 2560, G multiply-adds/s at 8, 32 and 128 tokens, medians of 5 to 9 runs in turn:
 *
 *     w4 gcc    2 x 4   267 355 385   2 x 8   298 361 392
 *     w4 clang          280 375 411           291 375 409
 *     w8 gcc            197 321 385           252 345 404
 *     w8 clang          201 332 401           263 347 401
 *
 * vpdpbusd alone could do 554, but the multiplication and the fused addition that follow each 8 of
 * them share its two pipes, which leaves 443. Decoding by vpermb, which needs no mask, instead of
 * vpshufb gained 0 to 3 % and nothing for one token from memory: not worth a further set. */

static ERN_INLINE __m512i KN(broadcast4)(const int8_t *p)
{
    int32_t four;
    memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
}

/* acc [ng][nt] += 16 rows x 4 columns of each group's u, times 4 activations of each token. */
static ERN_INLINE void KN(dot4)(size_t ng, size_t nt, const __m512i *u, const int8_t *q,
                                size_t q_stride, __m512i *acc)
{
    KERNELS_UNROLL for (size_t t = 0; t < nt; t++) {
        const __m512i a = KN(broadcast4)(q + t * q_stride);
        KERNELS_UNROLL for (size_t g = 0; g < ng; g++)
            acc[g * nt + t] = _mm512_dpbusd_epi32(acc[g * nt + t], u[g], a);
    }
}

/* 64 bytes of codes of each group. */
static ERN_INLINE void KN(load_codes)(size_t ng, const unsigned char *code, size_t group_bytes,
                                      __m512i *x)
{
    KERNELS_UNROLL for (size_t g = 0; g < ng; g++) x[g] = _mm512_loadu_si512(code + g * group_bytes);
}

static ERN_INLINE void KN(block_w4)(size_t ng, size_t nt, const unsigned char *code,
                                    size_t group_bytes, const int8_t *q, size_t q_stride,
                                    __m512i *acc)
{
    const __m512i low = _mm512_set1_epi8(15);
    const __m128i signed_level = _mm_loadu_si128((const __m128i *)(const void *)ern_w4_level);
    const __m512i level = _mm512_broadcast_i32x4(_mm_add_epi8(signed_level, _mm_set1_epi8(64)));
    KERNELS_UNROLL for (size_t v = 0; v < 4; v++) {
        __m512i x[2], lo[2], hi[2];
        KN(load_codes)(ng, code + v * 64, group_bytes, x);
        KERNELS_UNROLL for (size_t g = 0; g < ng; g++) {
            lo[g] = _mm512_shuffle_epi8(level, _mm512_and_si512(x[g], low));
            hi[g] = _mm512_shuffle_epi8(level, _mm512_and_si512(_mm512_srli_epi16(x[g], 4), low));
        }
        KN(dot4)(ng, nt, lo, q + v * 8, q_stride, acc);
        KN(dot4)(ng, nt, hi, q + v * 8 + 4, q_stride, acc);
    }
}

static ERN_INLINE void KN(block_w8)(size_t ng, size_t nt, const unsigned char *code,
                                    size_t group_bytes, const int8_t *q, size_t q_stride,
                                    __m512i *acc)
{
    KERNELS_UNROLL for (size_t v = 0; v < 8; v++) {
        __m512i x[2];
        KN(load_codes)(ng, code + v * 64, group_bytes, x);
        KERNELS_UNROLL for (size_t g = 0; g < ng; g++)
            x[g] = _mm512_xor_si512(x[g], _mm512_set1_epi8(-128));
        KN(dot4)(ng, nt, x, q + v * 4, q_stride, acc);
    }
}

/* ng groups, nt tokens from token t0 on. */
static ERN_INLINE void KN(tile)(unsigned type, size_t ng, size_t nt, const kernels_group *first,
                                const ern_act *a, size_t t0, float *y, size_t y_stride)
{
    const size_t code_bytes = type == ERN_W4 ? 256 : 512, group_bytes = first->n_bytes;
    const int32_t raised = type == ERN_W4 ? -64 : -128;
    const size_t q_stride = a->q_stride, s_stride = a->s_stride;
    const int8_t *q = a->q + t0 * q_stride;
    const float *d = a->q_scale + t0 * s_stride;
    const int32_t *sum = a->q_sum + t0 * s_stride;
    const unsigned char *code = first->code, *scale = first->scale, *wish = kernels_group_begin(first);
    __m512 f[2 * KERNELS_PAIR_TOKENS];
    KERNELS_UNROLL for (size_t i = 0; i < ng * nt; i++) f[i] = _mm512_setzero_ps();
    for (size_t b = 0; b < first->n_blocks; b++, code += code_bytes, scale += 16, q += 32) {
        __m512i acc[2 * KERNELS_PAIR_TOKENS];
        KERNELS_UNROLL for (size_t t = 0; t < nt; t++) {
            const __m512i start = _mm512_set1_epi32(raised * sum[t * s_stride + b]);
            KERNELS_UNROLL for (size_t g = 0; g < ng; g++) acc[g * nt + t] = start;
        }
        KERNELS_UNROLL for (size_t g = 0; g < ng; g++)
            kernels_wish(wish + b * (code_bytes + 16) + g * group_bytes, code_bytes + 16);
        if (type == ERN_W4) KN(block_w4)(ng, nt, code, group_bytes, q, q_stride, acc);
        else KN(block_w8)(ng, nt, code, group_bytes, q, q_stride, acc);
        KERNELS_UNROLL for (size_t g = 0; g < ng; g++) {
            const void *p = scale + g * group_bytes;
            const __m512i bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
            const __m512 w = _mm512_cvtepi32_ps(bytes);
            KERNELS_UNROLL for (size_t t = 0; t < nt; t++)
                f[g * nt + t] = _mm512_fmadd_ps(
                    _mm512_cvtepi32_ps(acc[g * nt + t]),
                    _mm512_mul_ps(w, _mm512_set1_ps(d[t * s_stride + b])), f[g * nt + t]);
        }
    }
    KERNELS_UNROLL for (size_t g = 0; g < ng; g++) {
        const void *p = (const char *)first->row_scale + g * group_bytes;
        const __m512 row_scale = _mm512_loadu_ps(p);
        KERNELS_UNROLL for (size_t t = 0; t < nt; t++)
            _mm512_storeu_ps(y + t * y_stride + g * 16, _mm512_mul_ps(f[g * nt + t], row_scale));
    }
}
