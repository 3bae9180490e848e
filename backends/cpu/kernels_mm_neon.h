/* Products with w8 and w4 matrices for NEON with sdot. Meaning: kernels_mm_base.h.
 *
 * 16 decoded bytes are 4 rows x 4 columns, and sdot multiplies them, signed by signed, with 4
 * activations picked by lane from a register that holds 16. Float sums of a tile pass through
 * memory once a block: 32 registers hold the integer sums of 4 tokens and little else. */

/* acc[t][i] += rows 4 i .. 4 i + 3 of one token's 4 columns in lane `lane` of a[t]. */
#define KERNELS_DOT4(x, lane)                                                      \
    KERNELS_UNROLL for (size_t t = 0; t < nt; t++)                                 \
        KERNELS_UNROLL for (size_t i = 0; i < 4; i++)                              \
            acc[t * 4 + i] = vdotq_laneq_s32(acc[t * 4 + i], (x)[i], a[t], (lane))

/* Columns 0 .. 7 of a vector of codes; their activations are lanes `lane` and lane + 1. */
#define KERNELS_VECTOR_W4(code, lane)                                              \
    do {                                                                           \
        int8x16_t lo[4], hi[4];                                                    \
        KERNELS_UNROLL for (size_t i = 0; i < 4; i++) {                            \
            const uint8x16_t x = vld1q_u8((code) + i * 16);                        \
            lo[i] = vqtbl1q_s8(level, vandq_u8(x, vdupq_n_u8(15)));                \
            hi[i] = vqtbl1q_s8(level, vshrq_n_u8(x, 4));                           \
        }                                                                          \
        KERNELS_DOT4(lo, (lane));                                                  \
        KERNELS_DOT4(hi, (lane) + 1);                                              \
    } while (0)

#define KERNELS_VECTOR_W8(code, lane)                                              \
    do {                                                                           \
        int8x16_t x[4];                                                            \
        KERNELS_UNROLL for (size_t i = 0; i < 4; i++)                              \
            x[i] = vreinterpretq_s8_u8(vld1q_u8((code) + i * 16));                 \
        KERNELS_DOT4(x, (lane));                                                   \
    } while (0)

/* Half a block, 16 columns. */
static ERN_INLINE void KN(half_block)(unsigned type, size_t nt, const unsigned char *code,
                                      const int8_t *q, size_t q_stride, int32x4_t *acc)
{
    const int8x16_t level = vld1q_s8(ern_w4_level);
    int8x16_t a[KERNELS_TOKENS];
    KERNELS_UNROLL for (size_t t = 0; t < nt; t++) a[t] = vld1q_s8(q + t * q_stride);
    if (type == ERN_W4) {
        KERNELS_VECTOR_W4(code, 0);
        KERNELS_VECTOR_W4(code + 64, 2);
    } else {
        KERNELS_VECTOR_W8(code, 0);
        KERNELS_VECTOR_W8(code + 64, 1);
        KERNELS_VECTOR_W8(code + 128, 2);
        KERNELS_VECTOR_W8(code + 192, 3);
    }
}

#undef KERNELS_DOT4
#undef KERNELS_VECTOR_W4
#undef KERNELS_VECTOR_W8

/* 16 scales as floats in 4 registers. */
static ERN_INLINE void KN(scales)(const unsigned char *scale, float32x4_t *w)
{
    const uint8x16_t x = vld1q_u8(scale);
    const uint16x8_t lo = vmovl_u8(vget_low_u8(x)), hi = vmovl_u8(vget_high_u8(x));
    w[0] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(lo)));
    w[1] = vcvtq_f32_u32(vmovl_u16(vget_high_u16(lo)));
    w[2] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(hi)));
    w[3] = vcvtq_f32_u32(vmovl_u16(vget_high_u16(hi)));
}

static ERN_INLINE void KN(tile)(unsigned type, size_t ng, size_t nt, const kernels_group *g,
                                const ern_act *a, size_t t0, float *y, size_t y_stride)
{
    (void)ng; /* always 1 */
    const size_t code_bytes = type == ERN_W4 ? 256 : 512;
    const size_t q_stride = a->q_stride, s_stride = a->s_stride;
    const int8_t *q = a->q + t0 * q_stride;
    const float *d = a->q_scale + t0 * s_stride;
    const unsigned char *code = g->code, *wish = kernels_group_begin(g);
    float32x4_t f[4 * KERNELS_TOKENS];
    KERNELS_UNROLL for (size_t i = 0; i < 4 * nt; i++) f[i] = vdupq_n_f32(0.0f);
    for (size_t b = 0; b < g->n_blocks; b++, code += code_bytes, q += 32) {
        int32x4_t acc[4 * KERNELS_TOKENS];
        float32x4_t w[4];
        KERNELS_UNROLL for (size_t i = 0; i < 4 * nt; i++) acc[i] = vdupq_n_s32(0);
        kernels_wish(wish + b * (code_bytes + 16), code_bytes + 16);
        KN(half_block)(type, nt, code, q, q_stride, acc);
        KN(half_block)(type, nt, code + code_bytes / 2, q + 16, q_stride, acc);
        KN(scales)(g->scale + b * 16, w);
        KERNELS_UNROLL for (size_t i = 0; i < 4 * nt; i++) {
            const float32x4_t scale = vmulq_n_f32(w[i % 4], d[i / 4 * s_stride + b]);
            f[i] = vfmaq_f32(f[i], vcvtq_f32_s32(acc[i]), scale);
        }
    }
    KERNELS_UNROLL for (size_t i = 0; i < 4 * nt; i++)
        vst1q_f32(y + i / 4 * y_stride + i % 4 * 4, vmulq_f32(f[i], vld1q_f32(g->row_scale + i % 4 * 4)));
}
