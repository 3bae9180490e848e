/* Sixteen float lanes in four NEON registers. Meanings: kernels_lane_base.h. */

typedef float32x4x4_t V16;

#define KERNELS_EACH for (int j = 0; j < 4; j++)

static ERN_INLINE V16 KN(set1)(float x)
{
    const float32x4_t q = vdupq_n_f32(x);
    const V16 y = { { q, q, q, q } };
    return y;
}

static ERN_INLINE V16 KN(load)(const float *p)
{
    const V16 y = { { vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12) } };
    return y;
}

static ERN_INLINE V16 KN(load_n)(const float *p, size_t n)
{
    float x[16] = { 0 };
    memcpy(x, p, n * sizeof *p);
    return KN(load)(x);
}

static ERN_INLINE float32x4_t KN(quad_f16)(const uint16_t *p)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

static ERN_INLINE V16 KN(load_f16)(const uint16_t *p)
{
    const V16 y = { { KN(quad_f16)(p), KN(quad_f16)(p + 4), KN(quad_f16)(p + 8),
                      KN(quad_f16)(p + 12) } };
    return y;
}

static ERN_INLINE V16 KN(load_f16_n)(const uint16_t *p, size_t n)
{
    uint16_t h[16] = { 0 };
    memcpy(h, p, n * sizeof *p);
    return KN(load_f16)(h);
}

static ERN_INLINE V16 KN(widen)(int8x16_t q)
{
    const int16x8_t lo = vmovl_s8(vget_low_s8(q)), hi = vmovl_s8(vget_high_s8(q));
    const V16 y = { { vcvtq_f32_s32(vmovl_s16(vget_low_s16(lo))),
                      vcvtq_f32_s32(vmovl_s16(vget_high_s16(lo))),
                      vcvtq_f32_s32(vmovl_s16(vget_low_s16(hi))),
                      vcvtq_f32_s32(vmovl_s16(vget_high_s16(hi))) } };
    return y;
}

static ERN_INLINE V16 KN(load_i8)(const int8_t *p) { return KN(widen)(vld1q_s8(p)); }

static ERN_INLINE V16 KN(load_q4)(const unsigned char *block, bool high)
{
    const uint8x16_t byte = vld1q_u8(block);
    const uint8x16_t four = high ? vshrq_n_u8(byte, 4) : vandq_u8(byte, vdupq_n_u8(15));
    return KN(widen)(vqtbl1q_s8(vld1q_s8(ern_w4_level), four));
}

static ERN_INLINE float32x4_t KN(quad_bf16)(const uint16_t *p)
{
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
}

static ERN_INLINE V16 KN(load_bf16)(const uint16_t *p)
{
    const V16 y = { { KN(quad_bf16)(p), KN(quad_bf16)(p + 4), KN(quad_bf16)(p + 8),
                      KN(quad_bf16)(p + 12) } };
    return y;
}

static ERN_INLINE void KN(store)(float *p, V16 x) { KERNELS_EACH vst1q_f32(p + 4 * j, x.val[j]); }

static ERN_INLINE void KN(store_n)(float *p, V16 x, size_t n)
{
    float y[16];
    KN(store)(y, x);
    memcpy(p, y, n * sizeof *p);
}

static ERN_INLINE void KN(store_f16)(uint16_t *p, V16 x)
{
    KERNELS_EACH vst1_u16(p + 4 * j, vreinterpret_u16_f16(vcvt_f16_f32(x.val[j])));
}

static ERN_INLINE void KN(store_f16_n)(uint16_t *p, V16 x, size_t n)
{
    uint16_t h[16];
    KN(store_f16)(h, x);
    memcpy(p, h, n * sizeof *p);
}

static ERN_INLINE V16 KN(add)(V16 a, V16 b)
{
    KERNELS_EACH a.val[j] = vaddq_f32(a.val[j], b.val[j]);
    return a;
}

static ERN_INLINE V16 KN(sub)(V16 a, V16 b)
{
    KERNELS_EACH a.val[j] = vsubq_f32(a.val[j], b.val[j]);
    return a;
}

static ERN_INLINE V16 KN(mul)(V16 a, V16 b)
{
    KERNELS_EACH a.val[j] = vmulq_f32(a.val[j], b.val[j]);
    return a;
}

static ERN_INLINE V16 KN(div)(V16 a, V16 b)
{
    KERNELS_EACH a.val[j] = vdivq_f32(a.val[j], b.val[j]);
    return a;
}

static ERN_INLINE V16 KN(fma)(V16 a, V16 b, V16 c)
{
    KERNELS_EACH c.val[j] = vfmaq_f32(c.val[j], a.val[j], b.val[j]);
    return c;
}

static ERN_INLINE V16 KN(max)(V16 a, V16 b)
{
    KERNELS_EACH b.val[j] = vbslq_f32(vcgtq_f32(a.val[j], b.val[j]), a.val[j], b.val[j]);
    return b;
}

static ERN_INLINE V16 KN(min)(V16 a, V16 b)
{
    KERNELS_EACH b.val[j] = vbslq_f32(vcltq_f32(a.val[j], b.val[j]), a.val[j], b.val[j]);
    return b;
}

static ERN_INLINE V16 KN(abs)(V16 x)
{
    KERNELS_EACH x.val[j] = vabsq_f32(x.val[j]);
    return x;
}

static ERN_INLINE V16 KN(above)(V16 x, V16 t, V16 y)
{
    KERNELS_EACH {
        const uint32x4_t set = vcgtq_f32(x.val[j], t.val[j]);
        y.val[j] = vreinterpretq_f32_u32(vandq_u32(set, vreinterpretq_u32_f32(y.val[j])));
    }
    return y;
}

static ERN_INLINE float32x4_t KN(quad_power)(int32x4_t n)
{
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}

static ERN_INLINE V16 KN(scale2)(V16 p, V16 t)
{
    const int32x4_t magic = vreinterpretq_s32_f32(vdupq_n_f32(12582912.0f));
    KERNELS_EACH {
        const int32x4_t n = vsubq_s32(vreinterpretq_s32_f32(t.val[j]), magic);
        const int32x4_t half = vshrq_n_s32(n, 1);
        p.val[j] = vmulq_f32(p.val[j], KN(quad_power)(half));
        p.val[j] = vmulq_f32(p.val[j], KN(quad_power)(vsubq_s32(n, half)));
    }
    return p;
}

static ERN_INLINE V16 KN(rotate)(V16 x, V16 cs)
{
    const uint32x4_t odd = { 0, 0xffffffffu, 0, 0xffffffffu };
    KERNELS_EACH {
        const float32x4_t c = vtrn1q_f32(cs.val[j], cs.val[j]), s = vtrn2q_f32(cs.val[j], cs.val[j]);
        const float32x4_t product = vmulq_f32(vrev64q_f32(x.val[j]), s);
        x.val[j] = vfmaq_f32(vbslq_f32(odd, product, vnegq_f32(product)), x.val[j], c);
    }
    return x;
}

static ERN_INLINE V16 KN(butterfly)(V16 x, unsigned w)
{
    const uint32x4_t odd = { 0, 0xffffffffu, 0, 0xffffffffu }, late = { 0, 0, 0xffffffffu, 0xffffffffu };
    V16 y;
    if (w < 4) {
        KERNELS_EACH {
            const float32x4_t a = x.val[j], b = w == 1 ? vrev64q_f32(a) : vextq_f32(a, a, 2);
            y.val[j] = vbslq_f32(w == 1 ? odd : late, vsubq_f32(b, a), vaddq_f32(a, b));
        }
        return y;
    }
    KERNELS_EACH {
        const unsigned i = (unsigned)j, other = i ^ w / 4;
        y.val[j] = i & w / 4 ? vsubq_f32(x.val[other], x.val[j]) : vaddq_f32(x.val[j], x.val[other]);
    }
    return y;
}

static ERN_INLINE float32x4_t KN(fold)(V16 x)
{
    return vaddq_f32(vaddq_f32(x.val[0], x.val[2]), vaddq_f32(x.val[1], x.val[3]));
}

/* x and y of 4 lanes as [x0 + x2, x1 + x3, y0 + y2, y1 + y3]. */
static ERN_INLINE float32x4_t KN(fold2)(float32x4_t x, float32x4_t y)
{
    return vaddq_f32(vcombine_f32(vget_low_f32(x), vget_low_f32(y)),
                     vcombine_f32(vget_high_f32(x), vget_high_f32(y)));
}

static ERN_INLINE void KN(sum4)(const V16 *x, float *out)
{
    const float32x4_t ab = KN(fold2)(KN(fold)(x[0]), KN(fold)(x[1]));
    const float32x4_t cd = KN(fold2)(KN(fold)(x[2]), KN(fold)(x[3]));
    vst1q_f32(out, vpaddq_f32(ab, cd));
}

static ERN_INLINE float KN(sum)(V16 x)
{
    const float32x4_t four = KN(fold)(x), two = KN(fold2)(four, four);
    return vgetq_lane_f32(two, 0) + vgetq_lane_f32(two, 1);
}

static ERN_INLINE float KN(max_all)(V16 x)
{
    const float32x4_t m = vmaxq_f32(vmaxq_f32(x.val[0], x.val[1]), vmaxq_f32(x.val[2], x.val[3]));
    return vmaxvq_f32(m);
}

static ERN_INLINE int32x4_t KN(round)(float32x4_t x, float32x4_t inv)
{
    return vmaxq_s32(vcvtnq_s32_f32(vmulq_f32(x, inv)), vdupq_n_s32(-127));
}

static ERN_INLINE int32_t KN(quantize16)(V16 x, V16 inv, int8_t *q)
{
    int32x4_t i[4];
    KERNELS_EACH i[j] = KN(round)(x.val[j], inv.val[j]);
    const int16x8_t lo = vcombine_s16(vqmovn_s32(i[0]), vqmovn_s32(i[1]));
    const int16x8_t hi = vcombine_s16(vqmovn_s32(i[2]), vqmovn_s32(i[3]));
    vst1q_s8(q, vcombine_s8(vqmovn_s16(lo), vqmovn_s16(hi)));
    return vaddvq_s32(vaddq_s32(vaddq_s32(i[0], i[1]), vaddq_s32(i[2], i[3])));
}

static ERN_INLINE int32_t KN(quantize32)(V16 a, V16 b, V16 inv, int8_t *q)
{
    return KN(quantize16)(a, inv, q) + KN(quantize16)(b, inv, q + 16);
}

/* ---- Integer sums --------------------------------------------------------------------------- */

/* Codes of q4 are twice their five bits, 31 more than the number. */
typedef int32x4x4_t W16;
typedef int8x16x4_t K64;

static ERN_INLINE W16 KN(start_keys)(ern_kv kv, int32_t sum)
{
    const int32x4_t start = vdupq_n_s32(kv == ERN_KV_Q8 ? 0 : -31 * sum);
    const W16 y = { { start, start, start, start } };
    return y;
}

/* 4 bits of each byte from the right place, one more from a bit of `fifth`. */
static ERN_INLINE int8x16_t KN(five_bits)(uint8x16_t four, const unsigned char *fifth)
{
    const uint8x8_t bit = { 1, 2, 4, 8, 16, 32, 64, 128 };
    const uint8x16_t mask = vcombine_u8(vdup_n_u8(fifth[0]), vdup_n_u8(fifth[1]));
    const uint8x16_t set = vandq_u8(vtstq_u8(mask, vcombine_u8(bit, bit)), vdupq_n_u8(32));
    return vreinterpretq_s8_u8(vorrq_u8(vandq_u8(four, vdupq_n_u8(0x1e)), set));
}

static ERN_INLINE void KN(load_keys)(ern_kv kv, const unsigned char *code, const unsigned char *fifth,
                                     size_t v, K64 *x)
{
    KERNELS_EACH {
        if (kv == ERN_KV_Q8) {
            x[0].val[j] = vreinterpretq_s8_u8(vld1q_u8(code + v * 128 + j * 16));
            x[1].val[j] = vreinterpretq_s8_u8(vld1q_u8(code + v * 128 + j * 16 + 64));
        } else {
            const uint8x16_t byte = vld1q_u8(code + v * 64 + j * 16);
            x[0].val[j] = KN(five_bits)(vshlq_n_u8(byte, 1), fifth + v * 16 + j * 2);
            x[1].val[j] = KN(five_bits)(vshrq_n_u8(byte, 3), fifth + v * 16 + j * 2 + 8);
        }
    }
}

static ERN_INLINE W16 KN(dot_keys)(ern_kv kv, W16 acc, const K64 *x, const int8_t *q)
{
    const int8x8_t eight = vld1_s8(q);
    (void)kv;
    KERNELS_EACH {
        acc.val[j] = vdotq_lane_s32(acc.val[j], x[0].val[j], eight, 0);
        acc.val[j] = vdotq_lane_s32(acc.val[j], x[1].val[j], eight, 1);
    }
    return acc;
}

static ERN_INLINE V16 KN(to_floats)(W16 x)
{
    V16 y;
    KERNELS_EACH y.val[j] = vcvtq_f32_s32(x.val[j]);
    return y;
}

#undef KERNELS_EACH
