/* Rows of the cache of keys and values: what sessions, their files and kernels must agree on. A row is
 * one position of one key head.
 *
 *     f16, f32   [head_dim] numbers
 *     q8         i8 code[head_dim], then f32 scale[ceil(head_dim / 32)]: number d is
 *                code[d] * scale[d / 32]; rows follow each other without padding, so a scale may lie
 *                at any address
 *
 * A scale for 32 numbers, not for a row: keys have dimensions that are many times larger than the
 * others, whose steps they would set. */
#ifndef ERN_KV_H
#define ERN_KV_H

#include "ern.h"

#define ERN_KV_BLOCK 32u /* numbers of a q8 scale; the last block of a row may be shorter */

/* As in session files: values stay, new ones are appended. */
typedef enum ern_kv { ERN_KV_F16, ERN_KV_F32, ERN_KV_Q8, ERN_N_KV } ern_kv;

static ERN_INLINE size_t ern_kv_row_bytes(ern_kv kv, size_t head_dim)
{
    if (kv == ERN_KV_F32) return head_dim * sizeof(float);
    if (kv == ERN_KV_F16) return head_dim * sizeof(uint16_t);
    return head_dim + (head_dim + ERN_KV_BLOCK - 1) / ERN_KV_BLOCK * sizeof(float);
}

#endif
