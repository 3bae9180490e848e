/* What ggml and its GGUF files number and measure: tensor types with their blocks, value types, the
 * frame of a file. Facts only, for the reader and the writer of GGUF; knows no model. */
#ifndef ERN_CONVERT_GGML_H
#define ERN_CONVERT_GGML_H

#include "../../src/ern.h"

/* ---- The frame of a GGUF file ---------------------------------------------------------------- */

/* Magic, u32 version, u64 tensor count, u64 count of key-value pairs; then the pairs, the tensors'
 * names, shapes, types and offsets, zeros up to the alignment, and the data. Little endian; strings
 * are a u64 length and bytes without a terminator. */
#define CONV_GGUF_MAGIC         "GGUF"
#define CONV_GGUF_VERSION_MIN   2u /* version 1 had 32-bit counts */
#define CONV_GGUF_VERSION       3u /* 3 allows big endian as well */
#define CONV_GGUF_HEADER_BYTES  24u
#define CONV_GGUF_DIMS_MAX      4u /* dims[0] is the row's length, the contiguous one */
#define CONV_GGUF_ALIGN_KEY     "general.alignment" /* u32, a power of two */
#define CONV_GGUF_ALIGN_DEFAULT 32u /* of the data's start and of each tensor's offset in it */

typedef enum conv_gguf_value {
    CONV_GGUF_U8 = 0,
    CONV_GGUF_I8 = 1,
    CONV_GGUF_U16 = 2,
    CONV_GGUF_I16 = 3,
    CONV_GGUF_U32 = 4,
    CONV_GGUF_I32 = 5,
    CONV_GGUF_F32 = 6,
    CONV_GGUF_BOOL = 7, /* one byte */
    CONV_GGUF_STRING = 8,
    CONV_GGUF_ARRAY = 9, /* u32 value type, u64 count, values */
    CONV_GGUF_U64 = 10,
    CONV_GGUF_I64 = 11,
    CONV_GGUF_F64 = 12
} conv_gguf_value;

/* tokenizer.ggml.token_type */
typedef enum conv_gguf_token {
    CONV_GGUF_TOKEN_NORMAL = 1,
    CONV_GGUF_TOKEN_UNKNOWN = 2,
    CONV_GGUF_TOKEN_CONTROL = 3,
    CONV_GGUF_TOKEN_USER_DEFINED = 4,
    CONV_GGUF_TOKEN_UNUSED = 5,
    CONV_GGUF_TOKEN_BYTE = 6
} conv_gguf_token;

/* ---- Tensor types ---------------------------------------------------------------------------- */

/* X(name, number, values of a block, bytes of a block). Numbers that are missing belong to types
 * that ggml has given up (4, 5, 31 to 33, 36 to 38). */
#define CONV_GGML_TYPES(X)  \
    X(F32, 0, 1, 4)         \
    X(F16, 1, 1, 2)         \
    X(Q4_0, 2, 32, 18)      \
    X(Q4_1, 3, 32, 20)      \
    X(Q5_0, 6, 32, 22)      \
    X(Q5_1, 7, 32, 24)      \
    X(Q8_0, 8, 32, 34)      \
    X(Q8_1, 9, 32, 36)      \
    X(Q2_K, 10, 256, 84)    \
    X(Q3_K, 11, 256, 110)   \
    X(Q4_K, 12, 256, 144)   \
    X(Q5_K, 13, 256, 176)   \
    X(Q6_K, 14, 256, 210)   \
    X(Q8_K, 15, 256, 292)   \
    X(IQ2_XXS, 16, 256, 66) \
    X(IQ2_XS, 17, 256, 74)  \
    X(IQ3_XXS, 18, 256, 98) \
    X(IQ1_S, 19, 256, 50)   \
    X(IQ4_NL, 20, 32, 18)   \
    X(IQ3_S, 21, 256, 110)  \
    X(IQ2_S, 22, 256, 82)   \
    X(IQ4_XS, 23, 256, 136) \
    X(I8, 24, 1, 1)         \
    X(I16, 25, 1, 2)        \
    X(I32, 26, 1, 4)        \
    X(I64, 27, 1, 8)        \
    X(F64, 28, 1, 8)        \
    X(IQ1_M, 29, 256, 56)   \
    X(BF16, 30, 1, 2)       \
    X(TQ1_0, 34, 256, 54)   \
    X(TQ2_0, 35, 256, 66)   \
    X(MXFP4, 39, 32, 17)    \
    X(NVFP4, 40, 64, 36)

#define CONV_GGML_NUMBER(name, number, values, bytes) CONV_GGML_##name = (number),
typedef enum conv_ggml_type { CONV_GGML_TYPES(CONV_GGML_NUMBER) } conv_ggml_type;
#undef CONV_GGML_NUMBER

typedef struct conv_ggml_info {
    const char *name; /* "Q4_K" */
    uint32_t type;    /* conv_ggml_type */
    uint32_t block_values, block_bytes;
} conv_ggml_info;

/* NULL when the number is unknown. */
static inline const conv_ggml_info *conv_ggml_find(uint32_t type)
{
#define CONV_GGML_ROW(name, number, values, bytes) { #name, (number), (values), (bytes) },
    static const conv_ggml_info infos[] = { CONV_GGML_TYPES(CONV_GGML_ROW) };
#undef CONV_GGML_ROW
    for (size_t i = 0; i < ERN_COUNT(infos); i++)
        if (infos[i].type == type) return &infos[i];
    return NULL;
}

/* ---- Blocks (ggml.c) ------------------------------------------------------------------------- */

/* The types whose values can be read, as messages list them. */
#define CONV_GGML_READABLE                                                                 \
    "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, " \
    "IQ4_XS and MXFP4"
ERN_FN bool conv_ggml_readable(uint32_t type);

/* n values of a readable type, whole blocks, as floats: bit for bit those of ggml's own reference.
 * src need not be aligned. */
ERN_FN void conv_ggml_decode(uint32_t type, const unsigned char *src, float *dst, size_t n);

#endif
