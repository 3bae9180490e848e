/* Words of codes in NEON registers, for kernels_mm_codes.h: 4 rows a register. Levels are signed;
 * tables of 16, 32 and 64 are one lookup each, which gives 0 for an index beyond, so indices are
 * clean. */

typedef uint32x4_t KN(words);
typedef float32x4_t KN(lanes);

#define KERNELS_CODE_ROWS 4
#define KERNELS_RIGHT(x, n) vshrq_n_u32((x), (n))
#define KERNELS_FUNNEL(high, low, n) vsliq_n_u32(vshrq_n_u32((low), (n)), (high), 32 - (n))

static ERN_INLINE KN(words) KN(code_load)(const unsigned char *p)
{
    return vreinterpretq_u32_u8(vld1q_u8(p));
}
static ERN_INLINE void KN(code_save)(unsigned char *p, KN(words) x)
{
    vst1q_u8(p, vreinterpretq_u8_u32(x));
}

static ERN_INLINE KN(words) KN(code_xor)(KN(words) x, KN(words) y) { return veorq_u32(x, y); }

/* x ^ (y & 0x33..33) */
static ERN_INLINE KN(words) KN(code_change)(KN(words) x, KN(words) y)
{
    return KN(code_xor)(x, vandq_u32(y, vdupq_n_u32(0x33333333u)));
}

/* Bit n of each byte at bit 4. */
static ERN_INLINE KN(words) KN(code_bit)(KN(words) plane, size_t n)
{
    switch (n) {
    case 0: return vshlq_n_u32(plane, 4);
    case 1: return vshlq_n_u32(plane, 3);
    case 2: return vshlq_n_u32(plane, 2);
    case 3: return vshlq_n_u32(plane, 1);
    case 4: return plane;
    case 5: return vshrq_n_u32(plane, 1);
    case 6: return vshrq_n_u32(plane, 2);
    default: return vshrq_n_u32(plane, 3);
    }
}

/* The low nibble of x and, above it, those bits of y that `mask` leaves. */
static ERN_INLINE uint8x16_t KN(code_join)(KN(words) x, KN(words) y, int mask)
{
    const uint8x16_t low = vdupq_n_u8(15);
    return vandq_u8(vbslq_u8(low, vreinterpretq_u8_u32(x), vreinterpretq_u8_u32(y)),
                    vdupq_n_u8((uint8_t)mask));
}

/* Levels of vector v. */
static ERN_INLINE KN(words)
    KN(code_levels)(unsigned type, KN(words) x, const KN(words) plane[2], size_t v)
{
    if (type == ERN_C2) {
        const uint8x16_t index = vandq_u8(vreinterpretq_u8_u32(x), vdupq_n_u8(15));
        return vreinterpretq_u32_s8(vqtbl1q_s8(vld1q_s8(ern_c2_level), index));
    }
    if (type == ERN_C3) {
        const int8x16x2_t table = { { vld1q_s8(ern_c3_level), vld1q_s8(ern_c3_level + 16) } };
        const uint8x16_t index = KN(code_join)(x, KN(code_bit)(plane[0], v), 31);
        return vreinterpretq_u32_s8(vqtbl2q_s8(table, index));
    }
    const int8x16x4_t table = { { vld1q_s8(ern_c4_level), vld1q_s8(ern_c4_level + 16),
                                  vld1q_s8(ern_c4_level + 32), vld1q_s8(ern_c4_level + 48) } };
    const uint8x16_t index = KN(code_join)(x, KN(code_bit)(plane[v / 4], v % 4 * 2), 63);
    return vreinterpretq_u32_s8(vqtbl4q_s8(table, index));
}

/* Four activations in every lane. */
static ERN_INLINE KN(words) KN(code_four)(const int8_t *q)
{
    uint32_t four;
    memcpy(&four, q, sizeof four);
    return vdupq_n_u32(four);
}

/* The sums of a block before its products: nothing was added to the levels. */
static ERN_INLINE KN(words) KN(code_start)(int32_t sum)
{
    (void)sum;
    return vdupq_n_u32(0);
}

static ERN_INLINE KN(words) KN(code_dot)(KN(words) acc, KN(words) levels, KN(words) four)
{
    return vreinterpretq_u32_s32(vdotq_s32(vreinterpretq_s32_u32(acc), vreinterpretq_s8_u32(levels),
                                           vreinterpretq_s8_u32(four)));
}

static ERN_INLINE KN(lanes) KN(code_zero)(void) { return vdupq_n_f32(0.0f); }
static ERN_INLINE KN(lanes) KN(code_sums)(const float *p) { return vld1q_f32(p); }

static ERN_INLINE void KN(code_store)(float *p, KN(lanes) f, const float *factor)
{
    vst1q_f32(p, vmulq_f32(f, vld1q_f32(factor)));
}

/* q + 4 of each row, from low or high nibbles. */
static ERN_INLINE KN(lanes) KN(code_scales)(const unsigned char *scale, unsigned odd)
{
    uint32_t four;
    memcpy(&four, scale, sizeof four);
    const uint8x8_t x = vreinterpret_u8_u32(vdup_n_u32(four));
    const uint8x8_t q = odd ? vshr_n_u8(x, 4) : vand_u8(x, vdup_n_u8(15));
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vaddl_u8(q, vdup_n_u8(4)))));
}

/* f + acc * (w * d) */
static ERN_INLINE KN(lanes) KN(code_add)(KN(words) acc, KN(lanes) w, float d, KN(lanes) f)
{
    return vfmaq_f32(f, vcvtq_f32_s32(vreinterpretq_s32_u32(acc)), vmulq_n_f32(w, d));
}
