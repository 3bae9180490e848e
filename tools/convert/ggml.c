/* The values of ggml's blocks. Each is one product, or one product and one sum or difference, in
 * the order in which ggml's reference takes them; nothing is fused (-ffp-contract=off), so the
 * floats are the same to the last bit. The scales of a block are halves, widened exactly. */
#include "ggml.h"

typedef void (*ggml_block_fn)(const unsigned char *src, float *dst);

static uint32_t ggml_load16(const unsigned char *src)
{
    return (uint32_t)src[0] | (uint32_t)src[1] << 8;
}

static float ggml_half(const unsigned char *src)
{
    return ern_f16_to_f32((uint16_t)ggml_load16(src));
}

/* ---- Plain values ---------------------------------------------------------------------------- */

static void ggml_f32(const unsigned char *src, float *dst)
{
    const uint32_t bits = ggml_load16(src) | ggml_load16(src + 2) << 16;
    memcpy(dst, &bits, sizeof bits);
}

static void ggml_f16(const unsigned char *src, float *dst)
{
    *dst = ggml_half(src);
}

static void ggml_bf16(const unsigned char *src, float *dst)
{
    *dst = ern_bf16_to_f32((uint16_t)ggml_load16(src));
}

/* ---- Blocks of 32 ---------------------------------------------------------------------------- */

/* In all of them byte j of the 16 bytes of codes has weight j in its low nibble and weight j + 16
 * in its high one. */
enum { GGML_HALF_BLOCK = 16 };

static void ggml_q8_0(const unsigned char *src, float *dst)
{
    const float d = ggml_half(src);
    for (size_t j = 0; j < 32; j++) dst[j] = (float)(int8_t)src[2 + j] * d;
}

static void ggml_q4_0(const unsigned char *src, float *dst)
{
    const float d = ggml_half(src);
    for (size_t j = 0; j < GGML_HALF_BLOCK; j++) {
        dst[j] = (float)((src[2 + j] & 15) - 8) * d;
        dst[j + GGML_HALF_BLOCK] = (float)((src[2 + j] >> 4) - 8) * d;
    }
}

static void ggml_q4_1(const unsigned char *src, float *dst)
{
    const float d = ggml_half(src), m = ggml_half(src + 2);
    for (size_t j = 0; j < GGML_HALF_BLOCK; j++) {
        dst[j] = (float)(src[4 + j] & 15) * d + m;
        dst[j + GGML_HALF_BLOCK] = (float)(src[4 + j] >> 4) * d + m;
    }
}

/* The fifth bits: bit i of the 32 belongs to weight i. */
static unsigned ggml_fifth_bit(const unsigned char *bits, size_t i)
{
    return (unsigned)(bits[i / 8] >> (i % 8) & 1) << 4;
}

static void ggml_q5_0(const unsigned char *src, float *dst)
{
    const float d = ggml_half(src);
    const unsigned char *bits = src + 2, *codes = src + 6;
    for (size_t j = 0; j < GGML_HALF_BLOCK; j++) {
        const unsigned low = (codes[j] & 15u) | ggml_fifth_bit(bits, j);
        const unsigned high = codes[j] >> 4 | ggml_fifth_bit(bits, j + GGML_HALF_BLOCK);
        dst[j] = (float)((int)low - 16) * d;
        dst[j + GGML_HALF_BLOCK] = (float)((int)high - 16) * d;
    }
}

static void ggml_q5_1(const unsigned char *src, float *dst)
{
    const float d = ggml_half(src), m = ggml_half(src + 2);
    const unsigned char *bits = src + 4, *codes = src + 8;
    for (size_t j = 0; j < GGML_HALF_BLOCK; j++) {
        const unsigned low = (codes[j] & 15u) | ggml_fifth_bit(bits, j);
        const unsigned high = codes[j] >> 4 | ggml_fifth_bit(bits, j + GGML_HALF_BLOCK);
        dst[j] = (float)low * d + m;
        dst[j + GGML_HALF_BLOCK] = (float)high * d + m;
    }
}

static const float ggml_iq4_levels[16] = { -127, -104, -83, -65, -49, -35, -22, -10,
                                           1,    13,   25,  38,  53,  69,  89,  113 };

static void ggml_levels(const float levels[16], float d, const unsigned char *codes, float *dst)
{
    for (size_t j = 0; j < GGML_HALF_BLOCK; j++) {
        dst[j] = d * levels[codes[j] & 15];
        dst[j + GGML_HALF_BLOCK] = d * levels[codes[j] >> 4];
    }
}

static void ggml_iq4_nl(const unsigned char *src, float *dst)
{
    ggml_levels(ggml_iq4_levels, ggml_half(src), src + 2, dst);
}

/* The shared exponent e stands for 2^(e - 128), and the levels of e2m1 are doubled to be whole. */
static void ggml_mxfp4(const unsigned char *src, float *dst)
{
    static const float levels[16] = { 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12 };
    const uint32_t bits = src[0] < 2 ? 0x00200000u << src[0] : (uint32_t)(src[0] - 1) << 23;
    float d;
    memcpy(&d, &bits, sizeof d);
    ggml_levels(levels, d, src + 1, dst);
}

/* ---- Superblocks of 256 ---------------------------------------------------------------------- */

/* Q2_K and Q3_K: 32 bytes hold two bits each of 128 weights, the lowest two of weights 0 to 31, the
 * next two of 32 to 63, and so on. Scales are those of 16 weights. */

static void ggml_q2_k(const unsigned char *src, float *dst)
{
    const unsigned char *scales = src, *codes = src + 16;
    const float d = ggml_half(src + 80), d_min = ggml_half(src + 82);
    for (size_t i = 0; i < 16; i++) {
        const unsigned char *at = codes + i / 8 * 32 + i % 2 * 16;
        const unsigned shift = (unsigned)(i % 8 / 2 * 2);
        const float scale = d * (float)(scales[i] & 15), min = d_min * (float)(scales[i] >> 4);
        for (size_t k = 0; k < 16; k++) dst[16 * i + k] = scale * (float)(at[k] >> shift & 3) - min;
    }
}

/* Six bits of scale i: four of the first eight bytes, two of the last four. */
static int ggml_q3_k_scale(const unsigned char *scales, size_t i)
{
    const int low = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4;
    return low | (scales[8 + i % 4] >> (i / 4 * 2) & 3) << 4;
}

static void ggml_q3_k(const unsigned char *src, float *dst)
{
    const unsigned char *masks = src, *codes = src + 32, *scales = src + 96;
    const float d = ggml_half(src + 108);
    for (size_t i = 0; i < 16; i++) {
        const unsigned char *at = codes + i / 8 * 32 + i % 2 * 16, *mask = masks + i % 2 * 16;
        const unsigned shift = (unsigned)(i % 8 / 2 * 2), bit = (unsigned)(i / 2);
        const float scale = d * (float)(ggml_q3_k_scale(scales, i) - 32);
        for (size_t k = 0; k < 16; k++) {
            const int code = (at[k] >> shift & 3) - (mask[k] >> bit & 1 ? 0 : 4);
            dst[16 * i + k] = scale * (float)code;
        }
    }
}

/* Q4_K and Q5_K: eight scales and eight minima of six bits in twelve bytes. */
static void ggml_k_scales(const unsigned char *packed, size_t i, float *scale, float *min)
{
    if (i < 4) {
        *scale = (float)(packed[i] & 63);
        *min = (float)(packed[i + 4] & 63);
    } else {
        *scale = (float)((packed[i + 4] & 15) | packed[i - 4] >> 6 << 4);
        *min = (float)(packed[i + 4] >> 4 | packed[i] >> 6 << 4);
    }
}

static void ggml_q4_k(const unsigned char *src, float *dst)
{
    const float d = ggml_half(src), d_min = ggml_half(src + 2);
    for (size_t i = 0; i < 8; i++) {
        const unsigned char *codes = src + 16 + i / 2 * 32;
        const unsigned shift = (unsigned)(i % 2 * 4);
        float scale, min;
        ggml_k_scales(src + 4, i, &scale, &min);
        scale = d * scale;
        min = d_min * min;
        for (size_t k = 0; k < 32; k++)
            dst[32 * i + k] = scale * (float)(codes[k] >> shift & 15) - min;
    }
}

static void ggml_q5_k(const unsigned char *src, float *dst)
{
    const unsigned char *bits = src + 16;
    const float d = ggml_half(src), d_min = ggml_half(src + 2);
    for (size_t i = 0; i < 8; i++) {
        const unsigned char *codes = src + 48 + i / 2 * 32;
        const unsigned shift = (unsigned)(i % 2 * 4);
        float scale, min;
        ggml_k_scales(src + 4, i, &scale, &min);
        scale = d * scale;
        min = d_min * min;
        for (size_t k = 0; k < 32; k++) {
            const unsigned code = (codes[k] >> shift & 15u) | (bits[k] >> i & 1u) << 4;
            dst[32 * i + k] = scale * (float)code - min;
        }
    }
}

/* Halves of 128: 64 bytes of low nibbles, 32 bytes with two high bits each for weights k, k + 32,
 * k + 64 and k + 96; signed scales of 16 weights. */
static void ggml_q6_k(const unsigned char *src, float *dst)
{
    const float d = ggml_half(src + 208);
    for (size_t i = 0; i < 16; i++) {
        const size_t half = i / 8, quarter = i % 8 / 2, first = i % 2 * 16;
        const unsigned char *low = src + half * 64 + quarter % 2 * 32 + first;
        const unsigned char *high = src + 128 + half * 32 + first;
        const unsigned low_shift = (unsigned)(quarter / 2 * 4), shift = (unsigned)(quarter * 2);
        const float scale = d * (float)(int8_t)src[192 + i];
        for (size_t k = 0; k < 16; k++) {
            const int code = (low[k] >> low_shift & 15) | (high[k] >> shift & 3) << 4;
            dst[16 * i + k] = scale * (float)(code - 32);
        }
    }
}

static void ggml_iq4_xs(const unsigned char *src, float *dst)
{
    const float d = ggml_half(src);
    const uint32_t high = ggml_load16(src + 2);
    for (size_t i = 0; i < 8; i++) {
        const int low = src[4 + i / 2] >> (i % 2 * 4) & 15;
        const int scale = low | (int)(high >> (2 * i) & 3) << 4;
        ggml_levels(ggml_iq4_levels, d * (float)(scale - 32), src + 8 + 16 * i, dst + 32 * i);
    }
}

/* ---- Rows ------------------------------------------------------------------------------------ */

static ggml_block_fn ggml_block_of(uint32_t type)
{
    switch (type) {
    case CONV_GGML_F32: return ggml_f32;
    case CONV_GGML_F16: return ggml_f16;
    case CONV_GGML_BF16: return ggml_bf16;
    case CONV_GGML_Q8_0: return ggml_q8_0;
    case CONV_GGML_Q4_0: return ggml_q4_0;
    case CONV_GGML_Q4_1: return ggml_q4_1;
    case CONV_GGML_Q5_0: return ggml_q5_0;
    case CONV_GGML_Q5_1: return ggml_q5_1;
    case CONV_GGML_Q2_K: return ggml_q2_k;
    case CONV_GGML_Q3_K: return ggml_q3_k;
    case CONV_GGML_Q4_K: return ggml_q4_k;
    case CONV_GGML_Q5_K: return ggml_q5_k;
    case CONV_GGML_Q6_K: return ggml_q6_k;
    case CONV_GGML_IQ4_NL: return ggml_iq4_nl;
    case CONV_GGML_IQ4_XS: return ggml_iq4_xs;
    case CONV_GGML_MXFP4: return ggml_mxfp4;
    default: return NULL;
    }
}

ERN_FN bool conv_ggml_readable(uint32_t type)
{
    return ggml_block_of(type) != NULL;
}

ERN_FN void conv_ggml_decode(uint32_t type, const unsigned char *src, float *dst, size_t n)
{
    const conv_ggml_info *info = conv_ggml_find(type);
    const ggml_block_fn block = ggml_block_of(type);
    ERN_ASSERT(info && block && n % info->block_values == 0);
    for (; n > 0; n -= info->block_values) {
        block(src, dst);
        src += info->block_bytes;
        dst += info->block_values;
    }
}
