/* Rows of the cache of keys and values: their sizes, and quantized keys in and out of their groups
 * of 16 positions (kv.h). Knows bytes, no floats: rounding is the kernels'. */
#include "kv.h"

ERN_FN size_t ern_kv_value_bytes(ern_kv kv, size_t head_dim)
{
    const size_t n_blocks = ern_kv_blocks(head_dim);
    switch (kv) {
    case ERN_KV_F32: return head_dim * sizeof(float);
    case ERN_KV_Q8: return n_blocks * (32 + sizeof(uint16_t));
    case ERN_KV_Q4: return n_blocks * (16 + sizeof(uint16_t));
    default: return head_dim * sizeof(uint16_t);
    }
}

ERN_FN ern_kv ern_kv_of(ernie_kv_type type)
{
    if (type == ERNIE_KV_Q8) return ERN_KV_Q8;
    if (type == ERNIE_KV_Q4) return ERN_KV_Q4;
    return type == ERNIE_KV_F32 ? ERN_KV_F32 : ERN_KV_F16;
}

ERN_FN size_t ern_kv_key_bytes(ern_kv kv, size_t head_dim)
{
    return ern_kv_value_bytes(kv, head_dim) + (kv == ERN_KV_Q4 ? 4 * ern_kv_blocks(head_dim) : 0);
}

ERN_FN size_t ern_kv_group_bytes(ern_kv kv, size_t head_dim)
{
    const size_t row = ern_kv_key_bytes(kv, head_dim);
    return ern_kv_quantized(kv) ? ern_round_up(ERN_KV_GROUP * row, 64) : row;
}

/* A row's codes of four bytes each lie 64 bytes apart. */
static size_t kv_n_quads(ern_kv kv, size_t n_blocks) { return n_blocks * (kv == ERN_KV_Q8 ? 8 : 4); }

/* The half byte of row r in quad i of the fifth bits. */
static size_t kv_fifth_byte(size_t i, size_t r) { return i * 8 + r / 2; }

ERN_FN void ern_kv_key_put(ern_kv kv, size_t head_dim, unsigned char *keys, size_t position,
                           const unsigned char *row)
{
    const size_t group_bytes = ern_kv_group_bytes(kv, head_dim), r = position % ERN_KV_GROUP;
    if (!ern_kv_quantized(kv)) {
        memcpy(keys + position * group_bytes, row, group_bytes);
        return;
    }
    const size_t n_blocks = ern_kv_blocks(head_dim), n_quads = kv_n_quads(kv, n_blocks);
    unsigned char *group = keys + position / ERN_KV_GROUP * group_bytes;
    if (r == 0) memset(group, 0, group_bytes);
    for (size_t i = 0; i < n_quads; i++, row += 4) memcpy(group + i * 64 + r * 4, row, 4);
    if (kv == ERN_KV_Q4) {
        unsigned char *fifth = group + n_quads * 64;
        const unsigned shift = r % 2 * 4;
        for (size_t i = 0; i < 8 * n_blocks; i++) {
            unsigned char *to = fifth + kv_fifth_byte(i, r);
            const unsigned bits = (unsigned)row[i / 2] >> i % 2 * 4 & 15u;
            *to = (unsigned char)((*to & ~(15u << shift)) | bits << shift);
        }
        row += 4 * n_blocks;
    }
    unsigned char *scale = group + ern_kv_group_scales(kv, n_blocks) + r * sizeof(uint16_t);
    for (size_t b = 0; b < n_blocks; b++, row += sizeof(uint16_t))
        memcpy(scale + b * ERN_KV_GROUP * sizeof(uint16_t), row, sizeof(uint16_t));
}

ERN_FN void ern_kv_key_get(ern_kv kv, size_t head_dim, const unsigned char *keys, size_t position,
                           unsigned char *row)
{
    const size_t group_bytes = ern_kv_group_bytes(kv, head_dim), r = position % ERN_KV_GROUP;
    if (!ern_kv_quantized(kv)) {
        memcpy(row, keys + position * group_bytes, group_bytes);
        return;
    }
    const size_t n_blocks = ern_kv_blocks(head_dim), n_quads = kv_n_quads(kv, n_blocks);
    const unsigned char *group = keys + position / ERN_KV_GROUP * group_bytes;
    for (size_t i = 0; i < n_quads; i++, row += 4) memcpy(row, group + i * 64 + r * 4, 4);
    if (kv == ERN_KV_Q4) {
        const unsigned char *fifth = group + n_quads * 64;
        const unsigned shift = r % 2 * 4;
        memset(row, 0, 4 * n_blocks);
        for (size_t i = 0; i < 8 * n_blocks; i++) {
            const unsigned bits = (unsigned)fifth[kv_fifth_byte(i, r)] >> shift & 15u;
            row[i / 2] = (unsigned char)(row[i / 2] | bits << i % 2 * 4);
        }
        row += 4 * n_blocks;
    }
    const unsigned char *scale = group + ern_kv_group_scales(kv, n_blocks) + r * sizeof(uint16_t);
    for (size_t b = 0; b < n_blocks; b++, row += sizeof(uint16_t))
        memcpy(row, scale + b * ERN_KV_GROUP * sizeof(uint16_t), sizeof(uint16_t));
}
