/* Both block types have 32 weights and one scale, a half float. The scale is rounded to a half only when
 * it is stored; codes are chosen with the float, as ggml's reference does. Nothing is fused
 * (-ffp-contract=off), so the bytes are the same. */
#include "ggml_encode.h"

enum { GGML_ENCODE_BLOCK = 32 };

static void ggml_encode_half(unsigned char *dst, uint16_t half)
{
    dst[0] = (unsigned char)half;
    dst[1] = (unsigned char)(half >> 8);
}

/* ---- Plain values ---------------------------------------------------------------------------- */

static void ggml_encode_f32(const float *src, uint32_t n, unsigned char *dst)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &src[i], sizeof bits);
        for (unsigned k = 0; k < 4; k++) dst[4 * i + k] = (unsigned char)(bits >> 8 * k);
    }
}

static void ggml_encode_f16(const float *src, uint32_t n, unsigned char *dst)
{
    for (uint32_t i = 0; i < n; i++) ggml_encode_half(dst + 2 * i, ern_f32_to_f16(src[i]));
}

static void ggml_encode_bf16(const float *src, uint32_t n, unsigned char *dst)
{
    for (uint32_t i = 0; i < n; i++) ggml_encode_half(dst + 2 * i, ern_f32_to_bf16(src[i]));
}

/* ---- Blocks ---------------------------------------------------------------------------------- */

/* The weight of largest magnitude, the first among equals, with its sign. */
static float ggml_encode_peak(const float *src)
{
    float peak = 0;
    for (size_t i = 0; i < GGML_ENCODE_BLOCK; i++)
        if (fabsf(peak) < fabsf(src[i])) peak = src[i];
    return peak;
}

/* Codes -127 .. 127, halves rounded away from zero. */
static void ggml_encode_q8_0(const float *src, unsigned char *dst)
{
    const float d = fabsf(ggml_encode_peak(src)) / 127.0f;
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    ggml_encode_half(dst, ern_f32_to_f16(d));
    for (size_t i = 0; i < GGML_ENCODE_BLOCK; i++)
        dst[2 + i] = (unsigned char)(int8_t)roundf(src[i] * inverse);
}

/* The peak becomes code 0, which stands for -8; 0.5 more than 8 makes truncation round. */
static unsigned ggml_encode_nibble(float scaled)
{
    const int code = (int)(scaled + 8.5f);
    return code > 15 ? 15u : (unsigned)code;
}

static void ggml_encode_q4_0(const float *src, unsigned char *dst)
{
    const float d = ggml_encode_peak(src) / -8.0f;
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    ggml_encode_half(dst, ern_f32_to_f16(d));
    for (size_t i = 0; i < GGML_ENCODE_BLOCK / 2; i++) {
        const unsigned low = ggml_encode_nibble(src[i] * inverse);
        const unsigned high = ggml_encode_nibble(src[i + GGML_ENCODE_BLOCK / 2] * inverse);
        dst[2 + i] = (unsigned char)(low | high << 4);
    }
}

/* ---- Rows ------------------------------------------------------------------------------------ */

ERN_FN uint64_t conv_ggml_row_bytes(uint32_t type, uint32_t n)
{
    const conv_ggml_info *info = conv_ggml_find(type);
    ERN_ASSERT(info && n % info->block_values == 0);
    return (uint64_t)(n / info->block_values) * info->block_bytes;
}

/* 65520 is the first number that rounds to an infinite half. */
ERN_FN float conv_ggml_limit(uint32_t type)
{
    switch (type) {
    case CONV_GGML_F16: return 65520.0f;
    case CONV_GGML_Q8_0: return 65520.0f * 127.0f;
    case CONV_GGML_Q4_0: return 65520.0f * 8.0f;
    case CONV_GGML_BF16: return 0x1.ffp127f; /* half a step above the largest */
    default: return INFINITY;
    }
}

ERN_FN void conv_ggml_encode(uint32_t type, const float *src, uint32_t n, unsigned char *dst)
{
    const size_t block_bytes = conv_ggml_find(type)->block_bytes;
    switch (type) {
    case CONV_GGML_F32: ggml_encode_f32(src, n, dst); break;
    case CONV_GGML_F16: ggml_encode_f16(src, n, dst); break;
    case CONV_GGML_BF16: ggml_encode_bf16(src, n, dst); break;
    case CONV_GGML_Q8_0:
        for (uint32_t i = 0; i < n; i += GGML_ENCODE_BLOCK, dst += block_bytes)
            ggml_encode_q8_0(src + i, dst);
        break;
    case CONV_GGML_Q4_0:
        for (uint32_t i = 0; i < n; i += GGML_ENCODE_BLOCK, dst += block_bytes)
            ggml_encode_q4_0(src + i, dst);
        break;
    default: ERN_ASSERT(false);
    }
}
