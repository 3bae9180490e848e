/* The cache of keys and values: what sessions, their files and kernels must agree on. A row is one
 * position of one key head.
 *
 *     f16, f32   [head_dim] numbers, keys and values alike
 *
 * q8 and q4 take a row in n_blocks = ceil(head_dim / 32) blocks of 32 numbers, padded at the end,
 * and each block has a bf16 scale. Keys are stored rotated (kernels.h), queries are rotated alike.
 *
 *     q8         i8 code[n_blocks][32], bf16 scale[n_blocks]: number = scale * code
 *     q4 value   u8 code[n_blocks][16], bf16 scale[n_blocks]: number j of a block is the low, number
 *                16 + j the high half of byte j; number = scale * ern_w4_level[code]
 *     q4 key     u8 code[n_blocks][16], u8 fifth[n_blocks][4], bf16 scale[n_blocks]: five bits a number,
 *                the fifth of number i is bit i % 8 of byte i / 8, the others of number 8 v + j (j < 4) the
 *                low and of number 8 v + 4 + j the high half of byte 4 v + j; number = scale * (2 code - 31)
 *
 * Rows follow each other without padding, so a scale may lie at any address; but in memory,
 * quantized keys of 16 positions are one group, so that 64 bytes hold 4 numbers of each, the way
 * weights lie (format.h), and a product with them needs no sum across lanes. A group starts at a
 * multiple of 64 bytes:
 *
 *     q8         i8 code[n_blocks][8][16][4], bf16 scale[n_blocks][16]
 *     q4         u8 code[n_blocks][4][16][4], u8 fifth[n_blocks][8][8], bf16 scale[n_blocks][16]; bit
 *                4 (r % 2) + j of byte r / 2 of fifth's quad q is that of number 4 q + j, position r
 *
 * Why five bits for keys and four for values: bench/RESULTS.md. */
#ifndef ERN_KV_H
#define ERN_KV_H

#include "ern.h"

#define ERN_KV_BLOCK 32u /* numbers of a scale */
#define ERN_KV_GROUP 16u /* positions of a group of quantized keys */

/* As in session files: values stay, new ones are appended. */
typedef enum ern_kv { ERN_KV_F16, ERN_KV_F32, ERN_KV_Q8, ERN_KV_Q4, ERN_N_KV } ern_kv;

ERN_FN ern_kv ern_kv_of(ernie_kv_type type); /* of what an application asks for, checked */

static ERN_INLINE bool ern_kv_quantized(ern_kv kv) { return kv == ERN_KV_Q8 || kv == ERN_KV_Q4; }

static ERN_INLINE size_t ern_kv_blocks(size_t head_dim)
{
    return (head_dim + ERN_KV_BLOCK - 1) / ERN_KV_BLOCK;
}

/* Bytes of a row. */
ERN_FN size_t ern_kv_key_bytes(ern_kv kv, size_t head_dim);
ERN_FN size_t ern_kv_value_bytes(ern_kv kv, size_t head_dim);

/* Positions of a group of keys (1 where they are not grouped) and its bytes. */
static ERN_INLINE size_t ern_kv_group(ern_kv kv) { return ern_kv_quantized(kv) ? ERN_KV_GROUP : 1; }
ERN_FN size_t ern_kv_group_bytes(ern_kv kv, size_t head_dim);

/* The first of a group's scales, from its beginning. */
static ERN_INLINE size_t ern_kv_group_scales(ern_kv kv, size_t n_blocks)
{
    return n_blocks * (kv == ERN_KV_Q8 ? 512 : 256 + 64);
}

/* Copy one key's row into or out of the keys of a head, which begin with position 0. The first of a
 * group makes the others zero. */
ERN_FN void ern_kv_key_put(ern_kv kv, size_t head_dim, unsigned char *keys, size_t position,
                           const unsigned char *row);
ERN_FN void ern_kv_key_get(ern_kv kv, size_t head_dim, const unsigned char *keys, size_t position,
                           unsigned char *row);

#endif
