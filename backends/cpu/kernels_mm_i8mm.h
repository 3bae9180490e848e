/* Products with w8 and w4 matrices for NEON with smmla. Meaning: kernels_mm_base.h.
 *
 * smmla multiplies 2 tokens x 8 columns with 2 rows x 8 columns. 16 decoded bytes are 4 rows x 4
 * columns, so two neighbouring vectors, zipped by 32-bit lanes, give two pairs of rows. A sum's
 * lanes are token 0 of rows 0 and 1, token 1 of rows 0 and 1, and stay so until the end.
 *
 * A tile is half a group, 8 rows, of up to 8 tokens: a code's decoding and zip then serve 4 pairs
 * of tokens. Vector instructions for a block of 16 rows and 8 tokens of w4: 128 smmla, 96 to
 * decode, 32 to join pairs of tokens, 112 for the float sums; two sdot tiles of 4 tokens take 256,
 * 128, 0 and 112. All instructions in gcc's output: 710 against 960. Counted, not timed. One token
 * is a matter of memory, and sdot's (kernels_mm_neon.h). */

/* Two vectors of 4 rows x 4 columns, left and right of each other, as pairs of rows. */
static ERN_INLINE void KN(zip)(int8x16_t left, int8x16_t right, int8x16_t *pair)
{
    const int32x4_t l = vreinterpretq_s32_s8(left), r = vreinterpretq_s32_s8(right);
    pair[0] = vreinterpretq_s8_s32(vzip1q_s32(l, r));
    pair[1] = vreinterpretq_s8_s32(vzip2q_s32(l, r));
}

/* 8 rows x 8 columns as 4 pairs of rows; v counts these columns in the block. */
static ERN_INLINE void KN(weights)(unsigned type, const unsigned char *code, size_t v, int8x16_t *w)
{
    const int8x16_t level = vld1q_s8(ern_w4_level);
    KERNELS_UNROLL for (size_t j = 0; j < 2; j++) {
        if (type == ERN_W4) {
            const uint8x16_t x = vld1q_u8(code + v * 64 + j * 16);
            KN(zip)(vqtbl1q_s8(level, vandq_u8(x, vdupq_n_u8(15))),
                    vqtbl1q_s8(level, vshrq_n_u8(x, 4)), w + 2 * j);
        } else {
            const unsigned char *p = code + v * 128 + j * 16;
            KN(zip)(vreinterpretq_s8_u8(vld1q_u8(p)), vreinterpretq_s8_u8(vld1q_u8(p + 64)), w + 2 * j);
        }
    }
}

/* An odd token is its own partner; the partner's sums are not stored. */
#define KERNELS_PARTNER(p) (2 * (p) + 1 < nt ? 2 * (p) + 1 : 2 * (p))

/* acc [pairs of tokens][4] += 8 rows x 32 columns. A loop that stays one: unrolled, gcc mixes its
 * parts until half of the sums live in memory. */
static ERN_INLINE void KN(block)(unsigned type, size_t nt, const unsigned char *code, const int8_t *q,
                                 size_t q_stride, int32x4_t *acc)
{
    KERNELS_NO_UNROLL for (size_t v = 0; v < 4; v++) {
        int8x16_t w[4];
        KN(weights)(type, code, v, w);
        KERNELS_UNROLL for (size_t p = 0; p < (nt + 1) / 2; p++) {
            const int8_t *a = q + 8 * v;
            const int8x16_t pair = vcombine_s8(vld1_s8(a + 2 * p * q_stride),
                                               vld1_s8(a + KERNELS_PARTNER(p) * q_stride));
            KERNELS_UNROLL for (size_t i = 0; i < 4; i++)
                acc[p * 4 + i] = vmmlaq_s32(acc[p * 4 + i], pair, w[i]);
        }
    }
}

/* 8 scales as floats, each pair of rows twice. */
static ERN_INLINE void KN(scales)(const unsigned char *scale, float32x4_t *w)
{
    const uint16x8_t x = vmovl_u8(vld1_u8(scale));
    const float32x4_t lo = vcvtq_f32_u32(vmovl_u16(vget_low_u16(x)));
    const float32x4_t hi = vcvtq_f32_u32(vmovl_u16(vget_high_u16(x)));
    w[0] = vcombine_f32(vget_low_f32(lo), vget_low_f32(lo));
    w[1] = vcombine_f32(vget_high_f32(lo), vget_high_f32(lo));
    w[2] = vcombine_f32(vget_low_f32(hi), vget_low_f32(hi));
    w[3] = vcombine_f32(vget_high_f32(hi), vget_high_f32(hi));
}

/* Row pairs back to rows, times the rows' scales. */
static ERN_INLINE void KN(store)(size_t nt, const float32x4_t *f, const float *row_scale, float *y,
                                 size_t y_stride)
{
    KERNELS_UNROLL for (size_t t = 0; t < nt; t++)
        KERNELS_UNROLL for (size_t j = 0; j < 2; j++) {
            const float32x4_t a = f[t / 2 * 4 + 2 * j], b = f[t / 2 * 4 + 2 * j + 1];
            const float32x4_t rows = t % 2 ? vcombine_f32(vget_high_f32(a), vget_high_f32(b))
                                           : vcombine_f32(vget_low_f32(a), vget_low_f32(b));
            vst1q_f32(y + t * y_stride + 4 * j, vmulq_f32(rows, vld1q_f32(row_scale + 4 * j)));
        }
}

/* Rows 8 half .. 8 half + 7 of the group. */
static ERN_INLINE void KN(half_tile)(unsigned type, size_t nt, const kernels_group *g, size_t half,
                                     const ern_act *a, size_t t0, float *y, size_t y_stride)
{
    const size_t code_bytes = type == ERN_W4 ? 256 : 512, n_pairs = (nt + 1) / 2;
    const int8_t *q = a->q + t0 * a->q_stride;
    const float *d = a->q_scale + t0 * a->s_stride;
    const unsigned char *code = g->code + 32 * half, *scale = g->scale + 8 * half;
    const unsigned char *wish = kernels_group_begin(g);
    float32x4_t f[2 * KERNELS_TOKENS];
    KERNELS_UNROLL for (size_t i = 0; i < 4 * n_pairs; i++) f[i] = vdupq_n_f32(0.0f);
    for (size_t b = 0; b < g->n_blocks; b++, code += code_bytes, scale += 16, q += 32, d++) {
        int32x4_t acc[2 * KERNELS_TOKENS];
        float32x4_t w[4];
        KERNELS_UNROLL for (size_t i = 0; i < 4 * n_pairs; i++) acc[i] = vdupq_n_s32(0);
        if (half == 0) kernels_wish(wish + b * (code_bytes + 16), code_bytes + 16);
        KN(block)(type, nt, code, q, a->q_stride, acc);
        KN(scales)(scale, w);
        KERNELS_UNROLL for (size_t p = 0; p < n_pairs; p++) {
            const float32x4_t pair = vcombine_f32(vld1_dup_f32(d + 2 * p * a->s_stride),
                                                  vld1_dup_f32(d + KERNELS_PARTNER(p) * a->s_stride));
            KERNELS_UNROLL for (size_t i = 0; i < 4; i++)
                f[p * 4 + i] = vfmaq_f32(f[p * 4 + i], vcvtq_f32_s32(acc[p * 4 + i]),
                                         vmulq_f32(w[i], pair));
        }
    }
    KN(store)(nt, f, g->row_scale + 8 * half, y + 8 * half, y_stride);
}

#undef KERNELS_PARTNER

static ERN_INLINE void KN(tile)(unsigned type, size_t ng, size_t nt, const kernels_group *g,
                                const ern_act *a, size_t t0, float *y, size_t y_stride)
{
    if (nt == 1) {
        kernels_tile_neon(type, ng, nt, g, a, t0, y, y_stride);
        return;
    }
    KN(half_tile)(type, nt, g, 0, a, t0, y, y_stride);
    KN(half_tile)(type, nt, g, 1, a, t0, y, y_stride);
}
