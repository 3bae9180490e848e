/* Quantized -Paddle checkpoints: linears whose codes and scales are made up, and the weights that
 * they mean, by the letter of the formats and one at a time. The tiled forms are made as a GPU's
 * loader makes them, step by step. */
#ifndef CHECKPOINT_PADDLE_H
#define CHECKPOINT_PADDLE_H

#include <math.h>

#include "checkpoint.h"

typedef enum paddle_form {
    FORM_WINT8,
    FORM_WINT8_TILED,
    FORM_WINT4,
    FORM_WINT4_TILED,
    FORM_W4A8,
    FORM_W4A8_TILED,
    FORM_FP8,
    FORM_WINT2,
    FORM_WINT2_BARE, /* without super_scales */
    FORM_WINT2_5,
    FORM_N
} paddle_form;

/* A linear [k][n] of a form: what is stored, and what it means. */
typedef struct paddle_linear {
    char stem[100];
    paddle_form form;
    size_t k, n;
    unsigned hadamard; /* block; 0: not rotated */
    bool unscaled;     /* 1 / sqrt(block) is in the scales */
} paddle_linear;

/* ---- Made-up numbers ------------------------------------------------------------------------- */

static inline unsigned paddle_hash(const char *stem, const char *what, size_t i)
{
    uint64_t z = (i + 1) * 0x9e3779b97f4a7c15u;
    for (; *stem; stem++) z = (z ^ (unsigned char)*stem) * 0x100000001b3u;
    for (; *what; what++) z = (z ^ (unsigned char)*what) * 0x100000001b3u;
    z = (z ^ z >> 29) * 0xbf58476d1ce4e5b9u;
    return (unsigned)(z >> 32);
}

/* Exact in bf16, and small multiples of it in f32: 1/1024 .. 1/512. */
static inline float paddle_scale(const paddle_linear *l, const char *what, size_t i)
{
    return (1.0f + (float)(paddle_hash(l->stem, what, i) % 128) / 128.0f) / 1024.0f;
}

/* Exact after the division by 7, so that sums of any order are. */
static inline float paddle_w4a8_scale(const paddle_linear *l, size_t n)
{
    const float down = l->unscaled ? 1.0f / 16 : 1.0f;
    return 7.0f / (float)(1u << (8 + paddle_hash(l->stem, "scale", n) % 3)) * down;
}

static inline unsigned paddle_code(const paddle_linear *l, size_t i)
{
    return paddle_hash(l->stem, "code", i);
}

/* ---- What they mean -------------------------------------------------------------------------- */

static inline float paddle_e4m3(unsigned b)
{
    const int e = (int)(b >> 3 & 15), m = (int)(b & 7);
    const float v = e == 0 ? ldexpf((float)m, -9) : ldexpf((float)(8 + m), e - 10);
    return b & 0x80 ? -v : v;
}

/* Finite ones only. */
static inline unsigned paddle_e4m3_code(const paddle_linear *l, size_t i)
{
    const unsigned b = paddle_code(l, i) & 255;
    return (b & 127) == 127 ? b - 1 : b;
}

static inline int paddle_int4(const paddle_linear *l, size_t k, size_t n)
{
    const int least = l->form == FORM_W4A8 || l->form == FORM_W4A8_TILED ? 8 : 7;
    return (int)(paddle_code(l, k * l->n + n) % (unsigned)(8 + least)) - least;
}

static inline float paddle_code_scale(const paddle_linear *l, size_t n)
{
    return 123.0952f - (float)(paddle_hash(l->stem, "cs", n) % 1000) / 64.0f;
}

static inline float paddle_code_zp(const paddle_linear *l, size_t n)
{
    return 617.82f - (float)(paddle_hash(l->stem, "zp", n) % 1000) / 3.0f;
}

/* Before any rotation is turned back. */
static inline float paddle_stored(const paddle_linear *l, size_t k, size_t n)
{
    switch (l->form) {
    case FORM_WINT8:
    case FORM_WINT8_TILED:
        return (float)((int)(paddle_code(l, k * l->n + n) % 255) - 127)
               * paddle_scale(l, "scale", n);
    case FORM_WINT4:
    case FORM_WINT4_TILED: return (float)paddle_int4(l, k, n) * paddle_scale(l, "scale", n);
    case FORM_W4A8:
    case FORM_W4A8_TILED: return (float)paddle_int4(l, k, n) * (paddle_w4a8_scale(l, n) / 7);
    case FORM_FP8:
        return paddle_e4m3(paddle_e4m3_code(l, k * l->n + n))
               * paddle_scale(l, "scale", k / 128 * 1000 + n / 128);
    case FORM_WINT2:
    case FORM_WINT2_BARE: {
        const unsigned byte = paddle_code(l, k / 4 * l->n + n) & 255;
        const unsigned v = (unsigned)(int)floorf(
            fmaf((float)byte, paddle_code_scale(l, n), paddle_code_zp(l, n) + 0.5f));
        const unsigned pair = paddle_hash(l->stem, "local", k / 128 * l->n + n) & 255;
        const float s = (float)(k / 64 % 2 == 0 ? pair >> 4 : pair & 15);
        const float scale = l->form == FORM_WINT2 ? s * paddle_scale(l, "super", n) : s;
        return (float)((int)(v >> (9 - 3 * (k % 4)) & 63) - 32) * scale;
    }
    case FORM_WINT2_5: {
        static const unsigned shifts[7] = { 13, 11, 9, 6, 4, 2, 0 };
        const size_t first = k / 64 * 10, i = k % 64;
        const unsigned last = paddle_code(l, (first + 9) * l->n + n) & 0xffff;
        const unsigned word = i == 63 ? last : paddle_code(l, (first + i / 7) * l->n + n) & 0xffff;
        const float scale = (float)(last & 0x1fff) * paddle_scale(l, "super", n);
        return (float)((int)(word >> (i == 63 ? 13 : shifts[i % 7]) & 7) - 4) * scale;
    }
    case FORM_N: break;
    }
    return 0;
}

/* [k][n]: what the linear means. */
static inline void paddle_meant(const paddle_linear *l, float *meant)
{
    const size_t block = l->hadamard ? l->hadamard : 1;
    float *stored = malloc(l->k * sizeof *stored); /* one column */
    if (!stored) abort();
    for (size_t n = 0; n < l->n; n++) {
        for (size_t k = 0; k < l->k; k++) stored[k] = paddle_stored(l, k, n);
        for (size_t k = 0; k < l->k; k++) {
            float sum = block == 1 ? stored[k] : 0; /* -0 stays what it is */
            for (size_t i = 0; i < block && block > 1; i++) {
                unsigned both = (unsigned)(i & k % block), odd = 0;
                for (; both; both &= both - 1) odd ^= 1;
                const float w = stored[k / block * block + i];
                sum += odd ? -w : w;
            }
            meant[k * l->n + n] = l->unscaled ? sum : sum / sqrtf((float)block);
        }
    }
    free(stored);
}

/* ---- Tiled codes ----------------------------------------------------------------------------- */

/* [k][n] of codes becomes [n][k] with each group of `rows` input channels in a new order, then
 * `side` columns side by side in pieces of 64 channels. */
static inline void paddle_interleave(const paddle_linear *l, const unsigned char *codes,
                                     unsigned rows, unsigned side, unsigned char *out)
{
    for (size_t n = 0; n < l->n; n++)
        for (size_t k = 0; k < l->k; k++) {
            /* 0 1 8 9 (16 17 24 25) 2 3 10 11 .. */
            const size_t p = k % rows, from = p % 2 + p / 2 % (rows / 8) * 8 + p / (rows / 4) * 2;
            const unsigned char code = codes[(k / rows * rows + from) * l->n + n];
            out[n / side * side * l->k + k / 64 * 64 * side + n % side * 64 + k % 64] = code;
        }
}

static inline void paddle_tile_int8(const paddle_linear *l, const unsigned char *codes,
                                    unsigned char *out)
{
    paddle_interleave(l, codes, 16, 2, out);
    for (size_t i = 0; i < l->k * l->n; i += 4) {
        const unsigned char second = out[i + 1];
        out[i + 1] = out[i + 2];
        out[i + 2] = second;
    }
    for (size_t i = 0; i < l->k * l->n; i++) out[i] = (unsigned char)(out[i] + 128);
}

/* codes: one a byte; out: two */
static inline void paddle_tile_int4(const paddle_linear *l, const unsigned char *codes,
                                    unsigned char *out)
{
    static const unsigned from[8] = { 0, 2, 4, 6, 1, 3, 5, 7 };
    unsigned char *turned = calloc(l->k, l->n);
    if (!turned) abort();
    paddle_interleave(l, codes, 32, 4, turned);
    for (size_t i = 0; i < l->k * l->n; i++) {
        const unsigned code = (turned[i / 8 * 8 + from[i % 8]] + 8u) & 15u;
        out[i / 2] = (unsigned char)(i % 2 ? out[i / 2] | code << 4 : code);
    }
    free(turned);
}

/* packed: [k / 2][n] */
static inline void paddle_tile_w4a8(const paddle_linear *l, const unsigned char *packed,
                                    unsigned char *out)
{
    static const unsigned to[8] = { 0, 2, 4, 6, 1, 3, 5, 7 };
    for (size_t four = 0; four < l->k / 4; four++)
        for (size_t n = 0; n < l->n; n++) {
            const size_t at =
                to[four % 8] + four % 16 / 8 * 8 + n % 4 * 16 + four / 16 * 64 + n / 4 * l->k;
            out[2 * at] = packed[2 * four * l->n + n];
            out[2 * at + 1] = packed[(2 * four + 1) * l->n + n];
        }
    for (size_t i = 0; i < l->k * l->n / 2; i += 4) {
        uint32_t word = 0, turned = 0;
        for (unsigned b = 0; b < 4; b++) word |= (uint32_t)out[i + b] << 8 * b;
        for (unsigned b = 0; b < 8; b++) turned |= (word >> 4 * b & 15) << 4 * to[b];
        for (unsigned b = 0; b < 4; b++) out[i + b] = (unsigned char)(turned >> 8 * b);
    }
}

/* ---- Tensors --------------------------------------------------------------------------------- */

static inline checkpoint_tensor *paddle_add_bytes(checkpoint *c, const paddle_linear *l,
                                                  const char *suffix, const char *dtype,
                                                  size_t value_bytes, size_t rows, size_t cols)
{
    char name[128];
    snprintf(name, sizeof name, "%.99s%.20s", l->stem, suffix);
    checkpoint_tensor *t = checkpoint_add(c, name, 2, rows, cols, 0);
    t->dtype = dtype;
    t->n_bytes = rows * cols * value_bytes;
    t->bytes = calloc(t->n_bytes, 1);
    if (!t->bytes) abort();
    return t;
}

static inline checkpoint_tensor *paddle_add_scales(checkpoint *c, const paddle_linear *l,
                                                   const char *suffix, const char *dtype)
{
    char name[128];
    snprintf(name, sizeof name, "%.99s%.20s", l->stem, suffix);
    checkpoint_tensor *t = checkpoint_add(c, name, 1, l->n, 0, 0);
    t->dtype = dtype;
    return t;
}

static inline void paddle_add_int4(checkpoint *c, const paddle_linear *l)
{
    const bool tiled = l->form == FORM_WINT4_TILED || l->form == FORM_W4A8_TILED;
    checkpoint_tensor *t = l->form == FORM_WINT4_TILED
                               ? paddle_add_bytes(c, l, ".quant_weight", "I8", 1, l->n / 2, l->k)
                               : paddle_add_bytes(c, l, ".quant_weight", "I8", 1, l->k / 2, l->n);
    unsigned char *codes = calloc(l->k, l->n), *packed = calloc(l->k, l->n);
    if (!codes || !packed) abort();
    for (size_t i = 0; i < l->k * l->n; i++)
        codes[i] = (unsigned char)(paddle_int4(l, i / l->n, i % l->n) & 15);
    for (size_t i = 0; i < l->k / 2 * l->n; i++) {
        const size_t k = i / l->n * 2, n = i % l->n;
        packed[i] = (unsigned char)(codes[k * l->n + n] | codes[(k + 1) * l->n + n] << 4);
    }
    if (l->form == FORM_WINT4_TILED)
        paddle_tile_int4(l, codes, t->bytes);
    else if (tiled)
        paddle_tile_w4a8(l, packed, t->bytes);
    else
        memcpy(t->bytes, packed, t->n_bytes);
    free(codes);
    free(packed);
}

static inline void paddle_add_w4a8_scales(checkpoint *c, const paddle_linear *l)
{
    char name[128];
    checkpoint_tensor *t = paddle_add_scales(c, l, ".weight_scale", "F32");
    const float input = 4.0f; /* the largest activation */
    const bool tiled = l->form == FORM_W4A8_TILED;
    for (size_t n = 0; n < l->n; n++)
        t->values[n] = paddle_w4a8_scale(l, n) * (tiled ? input / (127 * 112) : 1);
    snprintf(name, sizeof name, "%.99s.activation_scale", l->stem);
    t = checkpoint_add(c, name, 1, 1, 0, 0);
    t->dtype = "F32";
    t->values[0] = tiled ? 1 / input : input;
}

static inline void paddle_add_wint2(checkpoint *c, const paddle_linear *l)
{
    checkpoint_tensor *t = paddle_add_bytes(c, l, ".quant_weight", "U8", 1, l->k / 4, l->n);
    for (size_t i = 0; i < t->n_bytes; i++) t->bytes[i] = (unsigned char)paddle_code(l, i);
    t = paddle_add_bytes(c, l, ".weight_scale", "U8", 1, (l->k + 127) / 128, l->n);
    for (size_t i = 0; i < t->n_bytes; i++)
        t->bytes[i] = (unsigned char)paddle_hash(l->stem, "local", i);
    t = l->form == FORM_WINT2 ? paddle_add_scales(c, l, ".super_scales", "BF16") : NULL;
    for (size_t n = 0; t && n < l->n; n++) t->values[n] = paddle_scale(l, "super", n);
    t = paddle_add_scales(c, l, ".code_scale", "F32");
    for (size_t n = 0; n < l->n; n++) t->values[n] = paddle_code_scale(l, n);
    t = paddle_add_scales(c, l, ".code_zp", "F32");
    for (size_t n = 0; n < l->n; n++) t->values[n] = paddle_code_zp(l, n);
}

static inline void paddle_add_fp8(checkpoint *c, const paddle_linear *l)
{
    char name[128];
    const size_t rows = (l->k + 127) / 128, cols = (l->n + 127) / 128;
    checkpoint_tensor *t = paddle_add_bytes(c, l, ".quant_weight", "F8_E4M3", 1, l->k, l->n);
    for (size_t i = 0; i < t->n_bytes; i++) t->bytes[i] = (unsigned char)paddle_e4m3_code(l, i);
    snprintf(name, sizeof name, "%.99s.weight_scale", l->stem);
    t = checkpoint_add(c, name, 2, rows, cols, 0);
    t->dtype = "F32";
    for (size_t i = 0; i < t->n; i++)
        t->values[i] = paddle_scale(l, "scale", i / cols * 1000 + i % cols);
}

/* The linear's tensors, in its form. */
static inline void paddle_add_linear(checkpoint *c, const paddle_linear *l)
{
    checkpoint_tensor *t;
    switch (l->form) {
    case FORM_WINT8:
    case FORM_WINT8_TILED: {
        unsigned char *codes = calloc(l->k, l->n);
        if (!codes) abort();
        for (size_t i = 0; i < l->k * l->n; i++)
            codes[i] = (unsigned char)((int)(paddle_code(l, i) % 255) - 127);
        const bool tiled = l->form == FORM_WINT8_TILED;
        t = paddle_add_bytes(c, l, ".quant_weight", "I8", 1, tiled ? l->n : l->k,
                             tiled ? l->k : l->n);
        if (tiled)
            paddle_tile_int8(l, codes, t->bytes);
        else
            memcpy(t->bytes, codes, t->n_bytes);
        free(codes);
        break;
    }
    case FORM_WINT4:
    case FORM_WINT4_TILED:
    case FORM_W4A8:
    case FORM_W4A8_TILED: paddle_add_int4(c, l); break;
    case FORM_FP8: paddle_add_fp8(c, l); return;
    case FORM_WINT2:
    case FORM_WINT2_BARE: paddle_add_wint2(c, l); return;
    case FORM_WINT2_5:
        t = paddle_add_bytes(c, l, ".quant_weight", "I16", 2, l->k / 64 * 10, l->n);
        for (size_t i = 0; i < t->n; i++) {
            t->bytes[2 * i] = (unsigned char)paddle_code(l, i);
            t->bytes[2 * i + 1] = (unsigned char)(paddle_code(l, i) >> 8);
        }
        t = paddle_add_scales(c, l, ".super_scales", "F16");
        for (size_t n = 0; n < l->n; n++) t->values[n] = paddle_scale(l, "super", n);
        return;
    case FORM_N: break;
    }
    if (l->form == FORM_W4A8 || l->form == FORM_W4A8_TILED) {
        paddle_add_w4a8_scales(c, l);
        return;
    }
    t = paddle_add_scales(c, l, ".weight_scale", "BF16");
    for (size_t n = 0; n < l->n; n++) t->values[n] = paddle_scale(l, "scale", n);
}

/* ---- Checkpoints ----------------------------------------------------------------------------- */

/* The forms of a checkpoint's linears; FORM_N: plain. */
typedef struct paddle_forms {
    paddle_form dense, experts[2];
    unsigned split; /* experts of layers up to this one have experts[0], later ones experts[1] */
    unsigned hadamard;
    bool unscaled;
} paddle_forms;

/* Of a built checkpoint: every linear's plain tensor becomes its form (`stored`), or keeps its name
 * and takes the values that the form means. */
static inline void paddle_quantize(checkpoint *c, const paddle_forms *forms, bool stored)
{
    const unsigned n = c->n;
    for (unsigned i = 0; i < n; i++) {
        checkpoint_tensor *t = &c->tensors[i];
        char *end = strstr(t->name, "_proj.weight");
        if (!end || strstr(t->name, "mtp_linear_proj")) continue;
        paddle_linear l = { .form = forms->dense, .k = t->dims[0], .n = t->dims[1] };
        snprintf(l.stem, sizeof l.stem, "%.*s", (int)(end + 5 - t->name), t->name);
        const char *layer = strstr(t->name, "layers."), *expert = strstr(t->name, ".experts.");
        if (expert) l.form = forms->experts[atoi(layer + 7) > (int)forms->split];
        const bool w4a8 = l.form == FORM_W4A8 || l.form == FORM_W4A8_TILED;
        if (expert && w4a8 && strstr(t->name, "down_proj")) {
            l.hadamard = forms->hadamard;
            l.unscaled = forms->unscaled;
        }
        if (l.form == FORM_N) continue;
        if (stored) {
            free(t->values);
            t->values = NULL;
            paddle_add_linear(c, &l);
            continue;
        }
        t->dtype = "F32";
        paddle_meant(&l, t->values);
    }
    for (unsigned i = 0; i < c->n;) /* those that their forms have replaced */
        if (!c->tensors[i].values)
            c->tensors[i] = c->tensors[--c->n];
        else
            i++;
}

/* Widths that every form takes. */
static inline void paddle_begin(checkpoint *c)
{
    checkpoint_begin(c, true);
    c->ernie_prefix = c->fused = c->transposed_router = c->paddle = true;
    c->hidden = 192;
    c->n_heads = 2;
    c->head_dim = 64;
    c->width = 128;
    c->expert_width = 64;
    c->n_experts = 3;
    c->n_mtp = 1;
}

#endif
