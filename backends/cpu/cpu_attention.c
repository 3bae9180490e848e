/* Attention on the CPU: QKV as one product, rotary positions, the cache of keys and values, softmax
 * over blocks of 256 keys, the output product (spec: causal grouped-query attention, scale
 * 1 / sqrt(head_dim); query head g reads key head g / (n_heads / n_kv_heads)).
 *
 * A block's softmax is computed against its own maximum; blocks are merged in rising order with the
 * same formula whether one tile walks all blocks (prefill) or each block is its own tile (decode), so
 * both give the same bits. */
#include "cpu.h"

static unsigned char *attn_cache_row(const ern_backend_state *s, unsigned char *cache,
                                     uint32_t i_layer, size_t i_kv_head, size_t position)
{
    const size_t head = (size_t)i_layer * s->hp->n_kv_heads + i_kv_head;
    return cache + (head * s->options.n_ctx + position) * s->hp->head_dim * s->kv_item;
}

/* Rotate one token's queries and keys, store its keys and values. */
static void attn_append(const cpu_run *run, size_t t)
{
    ern_backend_state *s = run->state;
    const ern_hparams *hp = s->hp;
    const size_t d = hp->head_dim, position = s->batch.position + t;
    const unsigned kv = s->options.kv_f32;
    float *q = s->qkv + t * s->qkv_stride;
    float *k = q + hp->n_heads * d, *v = k + hp->n_kv_heads * d;
    s->k->rope(q, hp->n_heads + hp->n_kv_heads, d, s->cos_sin + t * d);
    for (size_t i = 0; i < hp->n_kv_heads; i++) {
        s->k->kv_store[kv](k + i * d, d, attn_cache_row(s, s->keys, run->op->i_layer, i, position));
        s->k->kv_store[kv](v + i * d, d, attn_cache_row(s, s->values, run->op->i_layer, i, position));
    }
}

/* Softmax and values of one block: keys [begin, begin + n_keys) of one key head against `rows` query
 * rows, of which row r sees keys below limit(r) = first_limit + r / group. Fills part, max and sum;
 * a row that sees nothing has max -INFINITY. */
static void attn_block(const cpu_run *run, size_t i_kv_head, size_t begin, size_t n_keys,
                       size_t rows, size_t group, size_t first_limit, float *part, size_t stride,
                       float *max, float *sum)
{
    ern_backend_state *s = run->state;
    const size_t d = s->hp->head_dim;
    const unsigned kv = s->options.kv_f32;
    float *scores = run->scratch->scores;
    s->k->attn_scores[kv](run->scratch->q, rows, d,
                          attn_cache_row(s, s->keys, run->op->i_layer, i_kv_head, begin), n_keys, d,
                          d, 1.0f / sqrtf((float)d), scores, CPU_ATTN_BLOCK);
    for (size_t r = 0; r < rows; r++) {
        float *row = scores + r * CPU_ATTN_BLOCK;
        const size_t limit = first_limit + r / group;
        for (size_t p = limit > begin ? limit - begin : 0; p < n_keys; p++) row[p] = -INFINITY;
        max[r] = s->k->max(row, n_keys);
        sum[r] = max[r] == -INFINITY ? 0.0f : s->k->exp_sum(row, n_keys, max[r]);
        if (max[r] == -INFINITY) memset(row, 0, n_keys * sizeof *row);
        memset(part + r * stride, 0, d * sizeof *part);
    }
    s->k->attn_values[kv](scores, rows, CPU_ATTN_BLOCK,
                          attn_cache_row(s, s->values, run->op->i_layer, i_kv_head, begin), n_keys,
                          d, d, part, stride);
}

/* Merge a block's (part, max, sum) into the running (out, max, sum) of one row. */
static void attn_merge(const ern_kernels *k, size_t d, float *out, float *out_max, float *out_sum,
                       const float *part, float part_max, float part_sum)
{
    if (part_max == -INFINITY) return;
    const float max = *out_max > part_max ? *out_max : part_max;
    const float old_factor = expf(*out_max - max), part_factor = expf(part_max - max);
    k->scale(out, old_factor, d);
    k->add_scaled(out, part, part_factor, d);
    *out_sum = *out_sum * old_factor + part_sum * part_factor;
    *out_max = max;
}

/* Queries of `n_tokens` tokens and one key head, [n_tokens * group][d], into the scratch. */
static void attn_gather(const cpu_run *run, size_t i_kv_head, size_t t, size_t n_tokens,
                        size_t group)
{
    const ern_backend_state *s = run->state;
    const size_t width = group * s->hp->head_dim;
    for (size_t i = 0; i < n_tokens; i++)
        memcpy(run->scratch->q + i * width, s->qkv + (t + i) * s->qkv_stride + i_kv_head * width,
               width * sizeof(float));
}

/* Prefill: one key head, a few tokens, all of their keys. */
static void attn_tile(const cpu_run *run, size_t i_kv_head, size_t t, size_t n_tokens)
{
    ern_backend_state *s = run->state;
    const size_t d = s->hp->head_dim, group = s->hp->n_heads / s->hp->n_kv_heads;
    const size_t rows = n_tokens * group, first_limit = s->batch.position + t + 1;
    const size_t n_keys = first_limit + n_tokens - 1;
    float max[CPU_ATTN_ROWS], sum[CPU_ATTN_ROWS];
    float *out = run->scratch->out, *out_max = run->scratch->max, *out_sum = run->scratch->sum;
    attn_gather(run, i_kv_head, t, n_tokens, group);
    memset(out, 0, rows * d * sizeof *out);
    for (size_t r = 0; r < rows; r++) {
        out_max[r] = -INFINITY;
        out_sum[r] = 0.0f;
    }
    for (size_t r0 = 0; r0 < rows; r0 += CPU_ATTN_ROWS) assert(rows <= s->rows_max);
    for (size_t begin = 0; begin < n_keys; begin += CPU_ATTN_BLOCK) {
        const size_t n = ern_min_size(CPU_ATTN_BLOCK, n_keys - begin);
        attn_block(run, i_kv_head, begin, n, rows, group, first_limit, run->scratch->part, d, max,
                   sum);
        for (size_t r = 0; r < rows; r++)
            attn_merge(s->k, d, out + r * d, &out_max[r], &out_sum[r], run->scratch->part + r * d,
                       max[r], sum[r]);
    }
    for (size_t r = 0; r < rows; r++) {
        float *y = s->attn.x + (t + r / group) * s->attn.x_stride
                   + (i_kv_head * group + r % group) * d;
        memcpy(y, out + r * d, d * sizeof *y);
        s->k->scale(y, 1.0f / out_sum[r], d);
    }
}
