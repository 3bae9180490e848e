/* Attention on the CPU: QKV as one product, rotary positions, the cache of keys and values, softmax
 * over blocks of 256 keys, the output product (spec: causal grouped-query attention, scale
 * 1 / sqrt(head_dim); query head g reads key head g / (n_heads / n_kv_heads)).
 *
 * A block's softmax is computed against its own maximum; blocks are merged in rising order with the
 * same formula whether one tile walks all blocks (prefill) or each block is its own tile (decode),
 * so both give the same bits.
 *
 * Where keys are quantized, keys and queries are spread over their dimensions by a Hadamard
 * transform after the rotation, and queries are rounded to int8 like any product's input. */
#include "cpu.h"

static size_t attn_head(const cpu_run *run, size_t i_kv_head)
{
    return (size_t)run->op->i_layer * run->state->hp->n_kv_heads + i_kv_head;
}

static unsigned char *attn_value_row(const cpu_run *run, size_t i_kv_head, size_t position)
{
    const ern_backend_state *s = run->state;
    return s->values + attn_head(run, i_kv_head) * s->values_bytes + position * s->value_row;
}

/* The keys of one head; those from a position on that begins a group. */
static unsigned char *attn_keys(const cpu_run *run, size_t i_kv_head, size_t position)
{
    const ern_backend_state *s = run->state;
    const ern_kv kv = s->options.kv;
    return s->keys + attn_head(run, i_kv_head) * s->keys_bytes
           + position / ern_kv_group(kv) * ern_kv_group_bytes(kv, s->hp->head_dim);
}

/* Rotate and round one token's queries that read one key head. */
static void attn_round_queries(const cpu_run *run, size_t i_kv_head, size_t t)
{
    ern_backend_state *s = run->state;
    const size_t d = s->hp->head_dim, group = s->hp->n_heads / s->hp->n_kv_heads;
    const size_t padded = s->head_dim_padded, n_blocks = padded / ERN_KV_BLOCK;
    float *q = s->qkv + t * s->qkv_stride + i_kv_head * group * d;
    s->k->hadamard(q, group, d);
    for (size_t i = i_kv_head * group; i < (i_kv_head + 1) * group; i++, q += d)
        s->k->quantize(q, d, s->queries.q + t * s->queries.q_stride + i * padded,
                       s->queries.q_scale + t * s->queries.s_stride + i * n_blocks,
                       s->queries.q_sum + t * s->queries.s_stride + i * n_blocks);
}

/* Rotate one token's queries and keys of one key head, store its key and value. */
static void attn_append(const cpu_run *run, size_t i_kv_head, size_t t)
{
    ern_backend_state *s = run->state;
    const ern_hparams *hp = s->hp;
    const size_t d = hp->head_dim, position = s->batch.position + t;
    const size_t group = hp->n_heads / hp->n_kv_heads;
    const ern_kv kv = s->options.kv;
    float *q = s->qkv + t * s->qkv_stride;
    float *k = q + (hp->n_heads + i_kv_head) * d, *v = k + hp->n_kv_heads * d;
    s->k->rope(q + i_kv_head * group * d, group, d, s->cos_sin + t * d);
    s->k->rope(k, 1, d, s->cos_sin + t * d);
    if (ern_kv_quantized(kv)) {
        attn_round_queries(run, i_kv_head, t);
        s->k->hadamard(k, 1, d);
    }
    s->k->key_store[kv](k, d, run->scratch->row);
    ern_kv_key_put(kv, d, attn_keys(run, i_kv_head, 0), position, run->scratch->row);
    s->k->value_store[kv](v, d, attn_value_row(run, i_kv_head, position));
}

/* Tokens whose positions share a group of keys are appended by one worker, head by head. */
static void attn_append_all(const cpu_run *run)
{
    const ern_backend_state *s = run->state;
    const size_t n = s->batch.n_tokens, n_heads = s->hp->n_kv_heads;
    const size_t early = s->batch.position % ERN_KV_GROUP; /* positions of the first group before */
    const size_t n_groups = (early + n + ERN_KV_GROUP - 1) / ERN_KV_GROUP;
    size_t begin, end;
    cpu_share(run, n_groups * n_heads, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        const size_t last = (i / n_heads + 1) * ERN_KV_GROUP - early;
        size_t t = last > ERN_KV_GROUP ? last - ERN_KV_GROUP : 0;
        for (; t < n && t < last; t++) attn_append(run, i % n_heads, t);
    }
}

/* Softmax and values of one block: keys [begin, begin + n_keys) of one key head against `rows`
 * query rows, of which row r sees keys below limit(r) = first_limit + r / group. Fills part, max
 * and sum; a row that sees nothing has max -INFINITY. */
static void attn_block(const cpu_run *run, size_t i_kv_head, size_t begin, size_t n_keys,
                       size_t rows, size_t group, size_t first_limit, float *part, size_t stride,
                       float *max, float *sum)
{
    ern_backend_state *s = run->state;
    const size_t d = s->hp->head_dim;
    const ern_kv kv = s->options.kv;
    float *scores = run->scratch->scores;
    const ern_act queries = cpu_act(&run->scratch->queries, 0, rows);
    s->k->attn_scores[kv](&queries, attn_keys(run, i_kv_head, begin), n_keys, d,
                          1.0f / sqrtf((float)d), scores, CPU_ATTN_BLOCK);
    for (size_t r = 0; r < rows; r++) {
        float *row = scores + r * CPU_ATTN_BLOCK;
        const size_t limit = first_limit + r / group;
        for (size_t p = limit > begin ? limit - begin : 0; p < n_keys; p++) row[p] = -INFINITY;
        max[r] = s->k->max(row, n_keys);
        sum[r] = max[r] == -INFINITY ? 0.0f : s->k->exp_sum(row, n_keys, max[r]);
        if (max[r] == -INFINITY) memset(row, 0, n_keys * sizeof *row);
        memset(part + r * stride, 0, d * sizeof *part);
    }
    s->k->attn_values[kv](scores, rows, CPU_ATTN_BLOCK, attn_value_row(run, i_kv_head, begin),
                          n_keys, d, part, stride);
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

/* Queries of `n_tokens` tokens and one key head, [n_tokens * group] rows, into the scratch. */
static void attn_gather(const cpu_run *run, size_t i_kv_head, size_t t, size_t n_tokens,
                        size_t group)
{
    const ern_backend_state *s = run->state;
    const cpu_rows *to = &run->scratch->queries, *from = &s->queries;
    const size_t d = s->hp->head_dim, padded = s->head_dim_padded, n_blocks = padded / ERN_KV_BLOCK;
    for (size_t r = 0; r < n_tokens * group; r++) {
        const size_t i_token = t + r / group, i_head = i_kv_head * group + r % group;
        if (to->x) {
            memcpy(to->x + r * to->x_stride, s->qkv + i_token * s->qkv_stride + i_head * d,
                   d * sizeof(float));
            continue;
        }
        const size_t at = i_token * from->s_stride + i_head * n_blocks;
        memcpy(to->q + r * to->q_stride, from->q + i_token * from->q_stride + i_head * padded, padded);
        memcpy(to->q_scale + r * to->s_stride, from->q_scale + at, n_blocks * sizeof(float));
        memcpy(to->q_sum + r * to->s_stride, from->q_sum + at, n_blocks * sizeof(int32_t));
    }
}

/* Divide a row's merged values by its sum into the attention output of token t, query head
 * i_head. */
static void attn_finish(const ern_backend_state *s, size_t t, size_t i_head, const float *out,
                        float sum)
{
    const size_t d = s->hp->head_dim;
    float *y = s->attn.x + t * s->attn.x_stride + i_head * d;
    memcpy(y, out, d * sizeof *y);
    s->k->scale(y, 1.0f / sum, d);
}

/* Prefill: one key head, a few tokens, all of their keys. */
static void attn_tile(const cpu_run *run, size_t i_kv_head, size_t t, size_t n_tokens)
{
    ern_backend_state *s = run->state;
    const cpu_scratch *c = run->scratch;
    const size_t d = s->hp->head_dim, group = s->hp->n_heads / s->hp->n_kv_heads;
    const size_t rows = n_tokens * group, first_limit = s->batch.position + t + 1;
    const size_t n_keys = first_limit + n_tokens - 1;
    attn_gather(run, i_kv_head, t, n_tokens, group);
    memset(c->out, 0, rows * d * sizeof *c->out);
    for (size_t r = 0; r < rows; r++) {
        c->out_max[r] = -INFINITY;
        c->out_sum[r] = 0.0f;
    }
    for (size_t begin = 0; begin < n_keys && !cpu_stopped(s); begin += CPU_ATTN_BLOCK) {
        const size_t n = ern_min_size(CPU_ATTN_BLOCK, n_keys - begin);
        attn_block(run, i_kv_head, begin, n, rows, group, first_limit, c->part, d, c->part_max,
                   c->part_sum);
        for (size_t r = 0; r < rows; r++)
            attn_merge(s->k, d, c->out + r * d, &c->out_max[r], &c->out_sum[r], c->part + r * d,
                       c->part_max[r], c->part_sum[r]);
    }
    for (size_t r = 0; r < rows; r++)
        attn_finish(s, t + r / group, i_kv_head * group + r % group, c->out + r * d, c->out_sum[r]);
}

static void attn_prefill(const cpu_run *run)
{
    const ern_backend_state *s = run->state;
    const size_t n = s->batch.n_tokens;
    const size_t n_tiles = (n + s->tile_tokens - 1) / s->tile_tokens;
    size_t i;
    while (cpu_tile_next(run, 1, n_tiles * s->hp->n_kv_heads, &i)) {
        /* The last tokens see the most keys: they go first. */
        const size_t t = (n_tiles - 1 - i / s->hp->n_kv_heads) * s->tile_tokens;
        attn_tile(run, i % s->hp->n_kv_heads, t, ern_min_size(s->tile_tokens, n - t));
    }
}

/* Decode, first phase: every block of every key head is a tile of its own. */
static void attn_decode_blocks(const cpu_run *run)
{
    ern_backend_state *s = run->state;
    const size_t d = s->hp->head_dim, group = s->hp->n_heads / s->hp->n_kv_heads;
    const size_t n_keys = (size_t)s->batch.position + 1;
    const size_t n_blocks = (n_keys + CPU_ATTN_BLOCK - 1) / CPU_ATTN_BLOCK;
    const cpu_scratch *c = run->scratch;
    size_t i;
    while (cpu_tile_next(run, 1, n_blocks * s->hp->n_kv_heads, &i)) {
        const size_t i_kv_head = i % s->hp->n_kv_heads, block = i / s->hp->n_kv_heads;
        const size_t begin = block * CPU_ATTN_BLOCK;
        attn_gather(run, i_kv_head, 0, 1, group);
        attn_block(run, i_kv_head, begin, ern_min_size(CPU_ATTN_BLOCK, n_keys - begin), group, group,
                   n_keys, c->part, d, c->part_max, c->part_sum);
        for (size_t r = 0; r < group; r++) {
            const size_t to = (i_kv_head * group + r) * s->n_blocks + block;
            memcpy(s->split + to * d, c->part + r * d, d * sizeof(float));
            s->split_max[to] = c->part_max[r];
            s->split_sum[to] = c->part_sum[r];
        }
    }
}

/* Decode, second phase: merge the blocks of each query head. */
static void attn_decode_merge(const cpu_run *run)
{
    ern_backend_state *s = run->state;
    const size_t d = s->hp->head_dim;
    const size_t n_blocks = (s->batch.position + CPU_ATTN_BLOCK) / CPU_ATTN_BLOCK;
    float *out = run->scratch->out;
    size_t begin, end;
    cpu_share(run, s->hp->n_heads, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        float max = -INFINITY, sum = 0.0f;
        memset(out, 0, d * sizeof *out);
        for (size_t b = 0; b < n_blocks; b++) {
            const size_t from = i * s->n_blocks + b;
            attn_merge(s->k, d, out, &max, &sum, s->split + from * d, s->split_max[from],
                       s->split_sum[from]);
        }
        attn_finish(s, 0, i, out, sum);
    }
}

ERN_FN void cpu_run_attention(const cpu_run *run)
{
    ern_backend_state *s = run->state;
    const ern_layer *layer = run->op->layer;
    const size_t n = s->batch.n_tokens;
    size_t begin, end;
    cpu_norm(run, layer->attn_norm, 0);
    cpu_phase_end(run, CPU_PHASE_NORM);
    const ern_act in = cpu_act(&s->normed, 0, n);
    cpu_product(run, 0, &layer->qkv, &in, s->qkv, s->qkv_stride, false);
    cpu_phase_end(run, CPU_PHASE_QKV);
    attn_append_all(run);
    cpu_phase_end(run, CPU_PHASE_APPEND);
    if (n == 1) {
        attn_decode_blocks(run);
        cpu_phase_end(run, CPU_PHASE_ATTENTION);
        attn_decode_merge(run);
    } else {
        attn_prefill(run);
    }
    cpu_phase_end(run, CPU_PHASE_ATTENTION);
    if (cpu_quantized(&layer->attn_out)) {
        cpu_share(run, n, &begin, &end);
        for (size_t t = begin; t < end; t++) cpu_quantize_row(s, &s->attn, t);
        cpu_phase_end(run, CPU_PHASE_NORM);
    }
    const ern_act mid = cpu_act(&s->attn, 0, n);
    cpu_product(run, 2, &layer->attn_out, &mid, s->x, s->x_stride, true);
    cpu_phase_end(run, CPU_PHASE_OUT);
}
