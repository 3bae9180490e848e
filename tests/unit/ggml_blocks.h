/* Blocks of ggml for tests, made the other way round: from codes, scales and minima to bytes, as
 * spec and quantizers lay them out; and what each weight is then worth. Nothing here is shared with
 * the reader under test. */
#ifndef GGML_BLOCKS_H
#define GGML_BLOCKS_H

#include <math.h>
#include <stdlib.h>

#include "../../tools/convert/ggml.h"

typedef struct block_parts {
    uint32_t type;
    uint16_t d, m;          /* halves; MXFP4: the exponent byte in d */
    int scale[16], min[16]; /* of 16 or 32 weights */
    int code[256];
} block_parts;

static const uint32_t block_types[] = {
    CONV_GGML_F32,  CONV_GGML_F16,    CONV_GGML_BF16,   CONV_GGML_Q8_0,
    CONV_GGML_Q4_0, CONV_GGML_Q4_1,   CONV_GGML_Q5_0,   CONV_GGML_Q5_1,
    CONV_GGML_Q2_K, CONV_GGML_Q3_K,   CONV_GGML_Q4_K,   CONV_GGML_Q5_K,
    CONV_GGML_Q6_K, CONV_GGML_IQ4_NL, CONV_GGML_IQ4_XS, CONV_GGML_MXFP4,
};

static inline int block_random(uint64_t *seed, int min, int max)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return min + (int)((*seed >> 33) % (uint64_t)(max - min + 1));
}

/* Codes, scales and minima over their whole ranges; a positive or negative step near 2^-7. */
static inline void block_fill(block_parts *p, uint32_t type, uint64_t *seed)
{
    static const struct {
        uint32_t type;
        int code_min, code_max, scale_min, scale_max, min_max;
    } ranges[] = { { CONV_GGML_Q8_0, -128, 127, 0, 0, 0 }, { CONV_GGML_Q4_0, 0, 15, 0, 0, 0 },
                   { CONV_GGML_Q4_1, 0, 15, 0, 0, 0 },     { CONV_GGML_Q5_0, 0, 31, 0, 0, 0 },
                   { CONV_GGML_Q5_1, 0, 31, 0, 0, 0 },     { CONV_GGML_Q2_K, 0, 3, 0, 15, 15 },
                   { CONV_GGML_Q3_K, 0, 7, 0, 63, 0 },     { CONV_GGML_Q4_K, 0, 15, 0, 63, 63 },
                   { CONV_GGML_Q5_K, 0, 31, 0, 63, 63 },   { CONV_GGML_Q6_K, 0, 63, -128, 127, 0 },
                   { CONV_GGML_IQ4_NL, 0, 15, 0, 0, 0 },   { CONV_GGML_IQ4_XS, 0, 15, 0, 63, 0 },
                   { CONV_GGML_MXFP4, 0, 15, 0, 0, 0 },    { CONV_GGML_F32, -999, 999, 0, 0, 0 },
                   { CONV_GGML_F16, -999, 999, 0, 0, 0 },  { CONV_GGML_BF16, -127, 127, 0, 0, 0 } };
    size_t r = 0;
    while (ranges[r].type != type) r++;
    p->type = type;
    p->d = (uint16_t)(block_random(seed, 0x1c00, 0x2000) | block_random(seed, 0, 1) << 15);
    p->m = (uint16_t)(block_random(seed, 0x1c00, 0x2000) | block_random(seed, 0, 1) << 15);
    if (type == CONV_GGML_MXFP4) p->d = (uint16_t)block_random(seed, 110, 126);
    for (int i = 0; i < 16; i++) {
        p->scale[i] = block_random(seed, ranges[r].scale_min, ranges[r].scale_max);
        p->min[i] = block_random(seed, 0, ranges[r].min_max);
    }
    for (int i = 0; i < 256; i++)
        p->code[i] = block_random(seed, ranges[r].code_min, ranges[r].code_max);
}

/* What weight i is worth. */
static inline float block_value(const block_parts *p, int i)
{
    static const float iq4[] = { -127, -104, -83, -65, -49, -35, -22, -10,
                                 1,    13,   25,  38,  53,  69,  89,  113 };
    static const float e2m1[] = {
        0, 0.5f, 1, 1.5f, 2, 3, 4, 6, 0, -0.5f, -1, -1.5f, -2, -3, -4, -6
    };
    const float d = ern_f16_to_f32(p->d), m = ern_f16_to_f32(p->m), code = (float)p->code[i];
    const int s16 = p->scale[i / 16], m16 = p->min[i / 16], s32 = p->scale[i / 32],
              m32 = p->min[i / 32];
    switch (p->type) {
    case CONV_GGML_F32: return code / 1024;
    case CONV_GGML_F16:
    case CONV_GGML_BF16: return code / 256;
    case CONV_GGML_Q8_0: return code * d;
    case CONV_GGML_Q4_0: return (code - 8) * d;
    case CONV_GGML_Q4_1:
    case CONV_GGML_Q5_1: return code * d + m;
    case CONV_GGML_Q5_0: return (code - 16) * d;
    case CONV_GGML_Q2_K: return d * (float)s16 * code - m * (float)m16;
    case CONV_GGML_Q3_K: return d * (float)(s16 - 32) * (code - 4);
    case CONV_GGML_Q4_K:
    case CONV_GGML_Q5_K: return d * (float)s32 * code - m * (float)m32;
    case CONV_GGML_Q6_K: return d * (float)s16 * (code - 32);
    case CONV_GGML_IQ4_NL: return d * iq4[p->code[i]];
    case CONV_GGML_IQ4_XS: return d * (float)(s32 - 32) * iq4[p->code[i]];
    case CONV_GGML_MXFP4: return ldexpf(e2m1[p->code[i]], p->d - 127);
    default: abort();
    }
}

/* ---- Packing --------------------------------------------------------------------------------- */

static inline size_t block_put_half(unsigned char *dst, uint16_t half)
{
    dst[0] = (unsigned char)half;
    dst[1] = (unsigned char)(half >> 8);
    return 2;
}

/* 32 codes: byte j is weight j and weight j + 16 */
static inline void block_put_nibbles(unsigned char *dst, const int *code)
{
    for (int j = 0; j < 16; j++)
        dst[j] = (unsigned char)((code[j] & 15) | (code[j + 16] & 15) << 4);
}

static inline void block_put_fifth(unsigned char *dst, const int *code)
{
    uint32_t bits = 0;
    for (int i = 0; i < 32; i++) bits |= (uint32_t)(code[i] >> 4 & 1) << i;
    for (int i = 0; i < 4; i++) dst[i] = (unsigned char)(bits >> (8 * i));
}

/* `width` bits of each of n codes, side by side in bytes `stride` weights apart: the codes of k,
 * k + stride, k + 2 stride share a byte. */
static inline void block_put_planes(unsigned char *dst, const int *code, int n, int stride,
                                    int width, int shift)
{
    const int per_byte = 8 / width;
    for (int i = 0; i < n; i++) {
        const int span = stride * per_byte, at = i / span * stride + i % stride;
        const int lane = i % span / stride;
        dst[at] =
            (unsigned char)(dst[at] | (code[i] >> shift & ((1 << width) - 1)) << (lane * width));
    }
}

/* As the quantizer of Q4_K writes its eight scales and minima. */
static inline void block_put_k_scales(unsigned char *dst, const int *scale, const int *min)
{
    for (int j = 0; j < 8; j++) {
        if (j < 4) {
            dst[j] = (unsigned char)(dst[j] | scale[j]);
            dst[j + 4] = (unsigned char)(dst[j + 4] | min[j]);
        } else {
            dst[j + 4] = (unsigned char)((scale[j] & 15) | (min[j] & 15) << 4);
            dst[j - 4] = (unsigned char)(dst[j - 4] | scale[j] >> 4 << 6);
            dst[j] = (unsigned char)(dst[j] | min[j] >> 4 << 6);
        }
    }
}

static inline void block_pack_small(const block_parts *p, unsigned char *dst)
{
    unsigned char *at = dst;
    if (p->type == CONV_GGML_MXFP4)
        *at++ = (unsigned char)p->d;
    else
        at += block_put_half(at, p->d);
    if (p->type == CONV_GGML_Q4_1 || p->type == CONV_GGML_Q5_1) at += block_put_half(at, p->m);
    if (p->type == CONV_GGML_Q5_0 || p->type == CONV_GGML_Q5_1) {
        block_put_fifth(at, p->code);
        at += 4;
    }
    if (p->type != CONV_GGML_Q8_0) {
        block_put_nibbles(at, p->code);
        return;
    }
    for (int i = 0; i < 32; i++) at[i] = (unsigned char)p->code[i];
}

static inline void block_pack_k(const block_parts *p, unsigned char *dst)
{
    switch (p->type) {
    case CONV_GGML_Q2_K:
        for (int i = 0; i < 16; i++) dst[i] = (unsigned char)(p->scale[i] | p->min[i] << 4);
        block_put_planes(dst + 16, p->code, 256, 32, 2, 0);
        block_put_half(dst + 80, p->d);
        block_put_half(dst + 82, p->m);
        return;
    case CONV_GGML_Q3_K:
        block_put_planes(dst, p->code, 256, 32, 1, 2);
        block_put_planes(dst + 32, p->code, 256, 32, 2, 0);
        for (int i = 0; i < 16; i++) {
            unsigned char *low = dst + 96 + i % 8, *high = dst + 104 + i % 4;
            *low = (unsigned char)(*low | (p->scale[i] & 15) << (i < 8 ? 0 : 4));
            *high = (unsigned char)(*high | p->scale[i] >> 4 << (i / 4 * 2));
        }
        block_put_half(dst + 108, p->d);
        return;
    case CONV_GGML_Q4_K:
    case CONV_GGML_Q5_K:
        block_put_half(dst, p->d);
        block_put_half(dst + 2, p->m);
        block_put_k_scales(dst + 4, p->scale, p->min);
        if (p->type == CONV_GGML_Q5_K) block_put_planes(dst + 16, p->code, 256, 32, 1, 4);
        block_put_planes(dst + (p->type == CONV_GGML_Q5_K ? 48 : 16), p->code, 256, 32, 4, 0);
        return;
    case CONV_GGML_Q6_K:
        block_put_planes(dst, p->code, 256, 64, 4, 0);
        block_put_planes(dst + 128, p->code, 256, 32, 2, 4);
        for (int i = 0; i < 16; i++) dst[192 + i] = (unsigned char)p->scale[i];
        block_put_half(dst + 208, p->d);
        return;
    default: /* IQ4_XS */
        block_put_half(dst, p->d);
        for (int i = 0; i < 8; i++) {
            dst[2 + i / 4] = (unsigned char)(dst[2 + i / 4] | p->scale[i] >> 4 << (i % 4 * 2));
            dst[4 + i / 2] = (unsigned char)(dst[4 + i / 2] | (p->scale[i] & 15) << (i % 2 * 4));
            block_put_nibbles(dst + 8 + 16 * i, p->code + 32 * i);
        }
    }
}

/* dst [block_bytes] */
static inline void block_pack(const block_parts *p, unsigned char *dst)
{
    const conv_ggml_info *info = conv_ggml_find(p->type);
    const float value = info->block_values == 1 ? block_value(p, 0) : 0;
    memset(dst, 0, info->block_bytes);
    if (p->type == CONV_GGML_F32)
        memcpy(dst, &value, sizeof value);
    else if (p->type == CONV_GGML_F16)
        block_put_half(dst, ern_f32_to_f16(value));
    else if (p->type == CONV_GGML_BF16)
        block_put_half(dst, ern_f32_to_bf16(value));
    else if (info->block_values == 32)
        block_pack_small(p, dst);
    else
        block_pack_k(p, dst);
}

/* Random whole blocks for n values: bytes, and what they are worth. */
static inline void block_make(uint32_t type, size_t n, uint64_t seed, unsigned char *bytes,
                              float *values)
{
    block_parts parts;
    const conv_ggml_info *info = conv_ggml_find(type);
    for (size_t i = 0; i < n; i += info->block_values) {
        block_fill(&parts, type, &seed);
        block_pack(&parts, bytes);
        for (size_t k = 0; k < info->block_values; k++) values[i + k] = block_value(&parts, (int)k);
        bytes += info->block_bytes;
    }
}

#endif
