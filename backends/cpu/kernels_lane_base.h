/* Sixteen float lanes in portable C: the meaning of every lane operation, which the other
 * kernels_lane_*.h repeat with their registers to the last bit.
 *
 * Rules that make this possible: a product that is added is one fused multiply-add; every other
 * operation rounds on its own; the sum of 16 lanes adds lane j + 8 to lane j, then j + 4, j + 2, j + 1. */

typedef struct V16 {
    float lane[16];
} V16;

#define KERNELS_EACH for (size_t j = 0; j < 16; j++)

static ERN_INLINE V16 KN(set1)(float x)
{
    V16 y;
    KERNELS_EACH y.lane[j] = x;
    return y;
}

static ERN_INLINE V16 KN(load)(const float *p)
{
    V16 y;
    KERNELS_EACH y.lane[j] = p[j];
    return y;
}

/* The first n numbers (0 .. 15), zeros behind; reads nothing beyond them. */
static ERN_INLINE V16 KN(load_n)(const float *p, size_t n)
{
    V16 y;
    KERNELS_EACH y.lane[j] = j < n ? p[j] : 0.0f;
    return y;
}

static ERN_INLINE V16 KN(load_f16)(const uint16_t *p)
{
    V16 y;
    KERNELS_EACH y.lane[j] = ern_f16_to_f32(p[j]);
    return y;
}

static ERN_INLINE V16 KN(load_f16_n)(const uint16_t *p, size_t n)
{
    V16 y;
    KERNELS_EACH y.lane[j] = j < n ? ern_f16_to_f32(p[j]) : 0.0f;
    return y;
}

/* The integers as floats. */
static ERN_INLINE V16 KN(load_i8)(const int8_t *p)
{
    V16 y;
    KERNELS_EACH y.lane[j] = (float)p[j];
    return y;
}

/* 16 numbers of a block of values in q4 (kv.h): the low halves of its bytes, or the high ones. */
static ERN_INLINE V16 KN(load_q4)(const unsigned char *block, bool high)
{
    V16 y;
    KERNELS_EACH y.lane[j] = ern_w4_level[high ? block[j] >> 4 : block[j] & 15];
    return y;
}

static ERN_INLINE V16 KN(load_bf16)(const uint16_t *p)
{
    V16 y;
    KERNELS_EACH y.lane[j] = ern_bf16_to_f32(p[j]);
    return y;
}

static ERN_INLINE void KN(store)(float *p, V16 x) { KERNELS_EACH p[j] = x.lane[j]; }

static ERN_INLINE void KN(store_n)(float *p, V16 x, size_t n)
{
    for (size_t j = 0; j < n; j++) p[j] = x.lane[j];
}

static ERN_INLINE void KN(store_f16)(uint16_t *p, V16 x)
{
    KERNELS_EACH p[j] = ern_f32_to_f16(x.lane[j]);
}

static ERN_INLINE void KN(store_f16_n)(uint16_t *p, V16 x, size_t n)
{
    for (size_t j = 0; j < n; j++) p[j] = ern_f32_to_f16(x.lane[j]);
}

static ERN_INLINE V16 KN(add)(V16 a, V16 b)
{
    KERNELS_EACH a.lane[j] += b.lane[j];
    return a;
}

static ERN_INLINE V16 KN(sub)(V16 a, V16 b)
{
    KERNELS_EACH a.lane[j] -= b.lane[j];
    return a;
}

static ERN_INLINE V16 KN(mul)(V16 a, V16 b)
{
    KERNELS_EACH a.lane[j] *= b.lane[j];
    return a;
}

static ERN_INLINE V16 KN(div)(V16 a, V16 b)
{
    KERNELS_EACH a.lane[j] /= b.lane[j];
    return a;
}

/* a * b + c, rounded once. */
static ERN_INLINE V16 KN(fma)(V16 a, V16 b, V16 c)
{
    KERNELS_EACH c.lane[j] = kernels_fmaf(a.lane[j], b.lane[j], c.lane[j]);
    return c;
}

/* The greater or lesser; b when one is no number, as x86 has it. */
static ERN_INLINE V16 KN(max)(V16 a, V16 b)
{
    KERNELS_EACH b.lane[j] = a.lane[j] > b.lane[j] ? a.lane[j] : b.lane[j];
    return b;
}

static ERN_INLINE V16 KN(min)(V16 a, V16 b)
{
    KERNELS_EACH b.lane[j] = a.lane[j] < b.lane[j] ? a.lane[j] : b.lane[j];
    return b;
}

static ERN_INLINE V16 KN(abs)(V16 x)
{
    KERNELS_EACH x.lane[j] = fabsf(x.lane[j]);
    return x;
}

/* y where x > t, else 0. */
static ERN_INLINE V16 KN(above)(V16 x, V16 t, V16 y)
{
    KERNELS_EACH y.lane[j] = x.lane[j] > t.lane[j] ? y.lane[j] : 0.0f;
    return y;
}

static ERN_INLINE uint32_t KN(bits)(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static ERN_INLINE float KN(power)(int32_t n) /* 2^n, n in -126 .. 127 */
{
    const uint32_t bits = (uint32_t)(n + 127) << 23;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* p * 2^n, n in -252 .. 254, where t = 1.5 * 2^23 + n. Two factors, so that a subnormal result is
 * rounded once. */
static ERN_INLINE V16 KN(scale2)(V16 p, V16 t)
{
    KERNELS_EACH {
        const int32_t n = (int32_t)(KN(bits)(t.lane[j]) - KN(bits)(12582912.0f));
        const int32_t half = (n - (n < 0)) / 2;
        p.lane[j] = p.lane[j] * KN(power)(half) * KN(power)(n - half);
    }
    return p;
}

/* x holds pairs, cs holds (cos, sin): (a, b) becomes (a cos - b sin, b cos + a sin). */
static ERN_INLINE V16 KN(rotate)(V16 x, V16 cs)
{
    V16 y;
    for (size_t j = 0; j < 16; j += 2) {
        const float a = x.lane[j], b = x.lane[j + 1], c = cs.lane[j], s = cs.lane[j + 1];
        y.lane[j] = kernels_fmaf(a, c, -(b * s));
        y.lane[j + 1] = kernels_fmaf(b, c, a * s);
    }
    return y;
}

/* x[j] + x[j ^ w] where bit w of j is 0, x[j ^ w] - x[j] where it is 1; w is 1, 2, 4 or 8. */
static ERN_INLINE V16 KN(butterfly)(V16 x, unsigned w)
{
    V16 y;
    KERNELS_EACH y.lane[j] = j & w ? x.lane[j ^ w] - x.lane[j] : x.lane[j] + x.lane[j ^ w];
    return y;
}

static ERN_INLINE float KN(sum)(V16 x)
{
    for (size_t w = 8; w; w /= 2)
        for (size_t j = 0; j < w; j++) x.lane[j] += x.lane[j + w];
    return x.lane[0];
}

/* The sums of x[0] .. x[3] to out [4]. */
static ERN_INLINE void KN(sum4)(const V16 *x, float *out)
{
    for (size_t i = 0; i < 4; i++) out[i] = KN(sum)(x[i]);
}

static ERN_INLINE float KN(max_all)(V16 x)
{
    for (size_t w = 8; w; w /= 2)
        for (size_t j = 0; j < w; j++)
            if (x.lane[j + w] > x.lane[j]) x.lane[j] = x.lane[j + w];
    return x.lane[0];
}

/* 32 numbers a, b times inv, rounded to the nearest even, as int8 to q; returns their sum. */
static ERN_INLINE int32_t KN(quantize32)(V16 a, V16 b, V16 inv, int8_t *q)
{
    int32_t sum = 0;
    a = KN(mul)(a, inv);
    b = KN(mul)(b, inv);
    for (size_t j = 0; j < 32; j++) {
        const float x = rintf(j < 16 ? a.lane[j] : b.lane[j - 16]);
        q[j] = (int8_t)(x > -127.0f ? x < 127.0f ? x : 127.0f : -127.0f);
        sum += q[j];
    }
    return sum;
}

/* ---- Integer sums: lane r is position r of a group of keys (kv.h) --------------------------- */

typedef struct W16 {
    int32_t lane[16];
} W16;

/* 4 numbers of each of 16 keys. */
typedef struct K64 {
    int8_t code[64];
} K64;

/* Where the sum of a block begins, which takes back what load_keys may add to every code; `sum` is
 * that of the block's 32 activations. */
static ERN_INLINE W16 KN(start_keys)(ern_kv kv, int32_t sum)
{
    W16 y;
    (void)kv;
    (void)sum;
    KERNELS_EACH y.lane[j] = 0;
    return y;
}

/* Numbers 8 v .. 8 v + 3 of a block to x[0], 8 v + 4 .. 8 v + 7 to x[1]. */
static ERN_INLINE void KN(load_keys)(ern_kv kv, const unsigned char *code, const unsigned char *fifth,
                                     size_t v, K64 *x)
{
    for (size_t i = 0; i < 128; i++) {
        if (kv == ERN_KV_Q8) {
            x[i / 64].code[i % 64] = (int8_t)code[v * 128 + i];
            continue;
        }
        const unsigned byte = code[v * 64 + i % 64], four = i < 64 ? byte & 15u : byte >> 4;
        const unsigned bit = (unsigned)fifth[v * 16 + i / 8] >> i % 8 & 1u;
        x[i / 64].code[i % 64] = (int8_t)(2 * (int)(four | bit << 4) - 31);
    }
}

/* acc + the products of x with 8 activations. */
static ERN_INLINE W16 KN(dot_keys)(ern_kv kv, W16 acc, const K64 *x, const int8_t *q)
{
    (void)kv;
    for (size_t i = 0; i < 128; i++) acc.lane[i % 64 / 4] += x[i / 64].code[i % 64] * q[i / 64 * 4 + i % 4];
    return acc;
}

static ERN_INLINE V16 KN(to_floats)(W16 x)
{
    V16 y;
    KERNELS_EACH y.lane[j] = (float)x.lane[j];
    return y;
}

#undef KERNELS_EACH
