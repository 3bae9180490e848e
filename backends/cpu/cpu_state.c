/* The memory of a session on the CPU: planned from the architecture numbers, taken once in one
 * arena. Measuring and taking run the same code, so the plan is what is spent. */
#include "cpu.h"

/* Reserve n rows of `width` numbers. */
static void cpu_rows_take(ern_arena *arena, cpu_rows *rows, size_t n, size_t width, bool want_x,
                          bool want_q)
{
    const size_t blocks = (width + ERN_BLOCK_COLS - 1) / ERN_BLOCK_COLS;
    rows->width = width;
    rows->x_stride = ern_round_up(width, 16);
    rows->q_stride = ern_round_up(blocks * ERN_BLOCK_COLS, 64);
    rows->s_stride = ern_round_up(blocks, 16);
    rows->x = want_x ? ern_arena_take(arena, n, rows->x_stride * sizeof(float)) : NULL;
    rows->q = want_q ? ern_arena_take(arena, n, rows->q_stride) : NULL;
    rows->q_scale = want_q ? ern_arena_take(arena, n, rows->s_stride * sizeof(float)) : NULL;
    rows->q_sum = want_q ? ern_arena_take(arena, n, rows->s_stride * sizeof(int32_t)) : NULL;
}

/* Rows that experts read and leave at once: of all that are chosen or, where they come in waves, of
 * one wave, which holds an expert's rows at least. */
static size_t cpu_expert_rows(const ern_backend_state *s)
{
    const size_t n = s->options.n_batch, n_entries = n * s->hp->moe_k;
    return s->backend->experts ? ern_max_size(n, s->hp->moe_k) : n_entries;
}

static void cpu_take_stream(ern_backend_state *s, ern_arena *a)
{
    const ern_hparams *hp = s->hp;
    const size_t n = (size_t)hp->n_experts + 1;
    cpu_stream stream = { .rows_max = cpu_expert_rows(s) };
    s->stream = ern_arena_take(a, 1, sizeof stream);
    stream.planned = ern_arena_take(a, n, sizeof *stream.planned);
    stream.arrivals = ern_arena_take(a, n, sizeof *stream.arrivals);
    stream.wave = ern_arena_take(a, n, sizeof *stream.wave);
    stream.parts = ern_arena_take(a, (size_t)hp->moe_k + 1, s->x_stride * sizeof(float));
    stream.ahead_normed = ern_arena_take(a, 1, s->x_stride * sizeof(float));
    stream.ahead_router = ern_arena_take(a, 1, s->router_stride * sizeof(float));
    stream.ahead_chosen = ern_arena_take(a, hp->moe_k, sizeof(int32_t));
    stream.ahead_weight = ern_arena_take(a, hp->moe_k, sizeof(float));
    if (s->stream) *s->stream = stream;
}

static void cpu_take_moe(ern_backend_state *s, ern_arena *a)
{
    const ern_hparams *hp = s->hp;
    const ern_backend *b = s->backend;
    const size_t n = s->options.n_batch, n_entries = n * hp->moe_k;
    if (hp->n_experts == 0) {
        s->segments = ern_arena_take(a, 1, sizeof(cpu_segment));
        return;
    }
    s->router_stride = ern_round_up(hp->n_experts, 16);
    s->router = ern_arena_take(a, n, s->router_stride * sizeof(float));
    s->chosen = ern_arena_take(a, n_entries, sizeof(int32_t));
    s->chosen_weight = ern_arena_take(a, n_entries, sizeof(float));
    const size_t n_rows = cpu_expert_rows(s);
    cpu_rows_take(a, &s->gathered, n > 1 ? n_rows : 0, hp->hidden_size, b->experts_plain,
                  b->experts_quantized);
    cpu_rows_take(a, &s->expert, n_rows, hp->moe_intermediate_size,
                  b->experts_plain || s->options.keep_inputs, b->experts_quantized);
    if (hp->n_shared_experts)
        cpu_rows_take(a, &s->shared, n, hp->shared_intermediate_size,
                      b->has_plain || s->options.keep_inputs, b->has_quantized);
    s->entry_token = ern_arena_take(a, n_entries, sizeof(int32_t));
    s->entry_weight = ern_arena_take(a, n_entries, sizeof(float));
    s->expert_begin = ern_arena_take(a, (size_t)hp->n_experts + 1, sizeof(uint32_t));
    s->segments = ern_arena_take(a, (size_t)hp->n_experts + 1, sizeof(cpu_segment));
    if (b->experts) cpu_take_stream(s, a);
}

static void cpu_take_attention(ern_backend_state *s, ern_arena *a)
{
    const ern_hparams *hp = s->hp;
    const size_t n = s->options.n_batch, d = hp->head_dim;
    const size_t group = hp->n_heads / hp->n_kv_heads;
    s->tile_tokens = ern_max_size(1, CPU_ATTN_ROWS / group);
    s->rows_max = s->tile_tokens * group;
    s->freq = ern_arena_take(a, d / 2, sizeof(double));
    s->cos_sin = ern_arena_take(a, n, d * sizeof(float));
    s->qkv_stride = ern_round_up((hp->n_heads + 2 * (size_t)hp->n_kv_heads) * d, 16);
    s->qkv = ern_arena_take(a, n, s->qkv_stride * sizeof(float));
    s->head_dim_padded = ern_round_up(d, ERN_KV_BLOCK);
    cpu_rows_take(a, &s->queries, n, hp->n_heads * s->head_dim_padded, false,
                  ern_kv_quantized(s->options.kv));
    cpu_rows_take(a, &s->attn, n, hp->n_heads * d, true, s->backend->has_quantized);
    s->n_blocks = (s->options.n_ctx + CPU_ATTN_BLOCK - 1) / CPU_ATTN_BLOCK;
    s->split = ern_arena_take(a, hp->n_heads * s->n_blocks, d * sizeof(float));
    s->split_max = ern_arena_take(a, hp->n_heads * s->n_blocks, sizeof(float));
    s->split_sum = ern_arena_take(a, hp->n_heads * s->n_blocks, sizeof(float));
}

static void cpu_take_scratch(ern_backend_state *s, ern_arena *a)
{
    const size_t rows = s->rows_max, d = ern_round_up(s->hp->head_dim, 16);
    const bool quantized = ern_kv_quantized(s->options.kv);
    s->scratch = ern_arena_take(a, s->options.n_threads, sizeof(cpu_scratch));
    for (uint32_t i = 0; i < s->options.n_threads; i++) {
        cpu_scratch c;
        c.tile = ern_arena_take(a, CPU_TILE_ROWS * 16 * CPU_TILE_GROUPS, sizeof(float));
        cpu_rows_take(a, &c.queries, rows, s->hp->head_dim, !quantized, quantized);
        c.row = ern_arena_take(a, 1, s->key_row);
        c.scores = ern_arena_take(a, rows * CPU_ATTN_BLOCK, sizeof(float));
        c.part = ern_arena_take(a, rows * d, sizeof(float));
        c.out = ern_arena_take(a, rows * d, sizeof(float));
        c.part_max = ern_arena_take(a, rows, sizeof(float));
        c.part_sum = ern_arena_take(a, rows, sizeof(float));
        c.out_max = ern_arena_take(a, rows, sizeof(float));
        c.out_sum = ern_arena_take(a, rows, sizeof(float));
        if (s->scratch) s->scratch[i] = c;
    }
}

/* Everything but the cache of keys and values. */
static void cpu_take_all(ern_backend_state *s, ern_arena *a)
{
    const ern_hparams *hp = s->hp;
    const size_t n = s->options.n_batch;
    s->ops = ern_arena_take(a, 2 * (size_t)hp->n_layers + 2, sizeof(cpu_op));
    s->x_stride = ern_round_up(hp->hidden_size, 16);
    s->x = ern_arena_take(a, n, s->x_stride * sizeof(float));
    cpu_rows_take(a, &s->normed, n, hp->hidden_size, true, s->backend->has_quantized);
    cpu_rows_take(a, &s->dense, n, hp->intermediate_size,
                  s->backend->has_plain || s->options.keep_inputs, s->backend->has_quantized);
    cpu_take_attention(s, a);
    cpu_take_moe(s, a);
    cpu_take_scratch(s, a);
}

static void cpu_take_kv(ern_backend_state *s, ern_arena *a)
{
    const ern_hparams *hp = s->hp;
    const ern_kv kv = s->options.kv;
    const size_t n_heads = (size_t)hp->n_layers * hp->n_kv_heads, n_ctx = s->options.n_ctx;
    const size_t n_groups = (n_ctx + ern_kv_group(kv) - 1) / ern_kv_group(kv);
    const size_t group_bytes = ern_kv_group_bytes(kv, hp->head_dim);
    s->key_row = ern_kv_key_bytes(kv, hp->head_dim);
    s->value_row = ern_kv_value_bytes(kv, hp->head_dim);
    s->keys_bytes = n_groups * group_bytes;
    s->values_bytes = n_ctx * s->value_row;
    s->keys = ern_arena_take(a, n_heads * n_groups, group_bytes);
    s->values = ern_arena_take(a, n_heads * n_ctx, s->value_row);
}

static void cpu_state_shape(ern_backend_state *s, const ern_backend *backend,
                            const ern_state_options *options)
{
    memset(s, 0, sizeof *s);
    s->backend = backend;
    s->k = backend->kernels;
    s->hp = backend->weights->hparams;
    s->options = *options;
    s->allocator = *options->allocator;
    atomic_init(&s->failed, false);
}

/* Measure into two counts; the state is only a shape here. */
static ernie_status cpu_measure(ern_backend_state *s, size_t *kv, size_t *scratch,
                                ernie_error *error)
{
    ern_arena a = { 0 }, b = { 0 };
    cpu_take_kv(s, &a);
    cpu_take_all(s, &b);
    ERN_FAIL_IF(a.overflow || b.overflow || a.used > SIZE_MAX - b.used - ERN_CACHE_LINE, error,
                ERNIE_NO_MEMORY,
                "a context of %u tokens and a batch of %u need more memory than can be addressed",
                s->options.n_ctx, s->options.n_batch);
    *kv = a.used;
    *scratch = b.used;
    return ERNIE_OK;
}

ERN_FN ernie_status cpu_state_plan(const ern_backend *backend, const ern_state_options *options,
                                   uint64_t *kv_bytes, uint64_t *scratch_bytes, ernie_error *error)
{
    ern_backend_state shape;
    size_t kv = 0, scratch = 0;
    cpu_state_shape(&shape, backend, options);
    const ernie_status status = cpu_measure(&shape, &kv, &scratch, error);
    *kv_bytes = kv;
    *scratch_bytes =
        ern_aligned_bytes(scratch) + sizeof shape + ern_pool_bytes(options->n_threads);
    return status;
}

static void cpu_frequencies(ern_backend_state *s)
{
    const uint32_t d = s->hp->head_dim;
    for (uint32_t j = 0; j < d / 2; j++) s->freq[j] = pow(s->hp->rope_theta, -2.0 * j / d);
}

ERN_FN ernie_status cpu_state_open(ern_backend_state **out, const ern_backend *backend,
                                   const ern_state_options *options, ernie_error *error)
{
    size_t kv = 0, scratch = 0;
    ern_backend_state *s = ern_alloc(options->allocator, sizeof *s);
    *out = NULL;
    ERN_FAIL_IF(!s, error, ERNIE_NO_MEMORY, "no memory for a session's state of %zu bytes",
                sizeof *s);
    cpu_state_shape(s, backend, options);
    ernie_status status = cpu_measure(s, &kv, &scratch, error);
    if (status != ERNIE_OK) goto done;
    s->block = ern_alloc_aligned(&s->allocator, kv + scratch);
    if (!s->block) {
        status = ern_error_set(error, ERNIE_NO_MEMORY,
                               "no memory for a session of %zu bytes (%zu of keys and values for "
                               "%u tokens, %zu of scratch for batches of %u)",
                               kv + scratch, kv, options->n_ctx, scratch, options->n_batch);
        goto done;
    }
    s->block_bytes = kv + scratch;
    ern_arena arena = { .base = s->block, .size = s->block_bytes };
    cpu_take_kv(s, &arena);
    cpu_take_all(s, &arena);
    ERN_ASSERT(arena.used == arena.size && !arena.overflow);
    cpu_frequencies(s);
    if (s->chosen)
        memset(s->chosen, 0, sizeof(int32_t) * s->options.n_batch * s->hp->moe_k);
    status = ern_pool_open(&s->pool, &s->allocator, options->n_threads, error);

done:
    if (status != ERNIE_OK) {
        cpu_state_close(s);
        return status;
    }
    *out = s;
    return ERNIE_OK;
}

ERN_FN void cpu_state_close(ern_backend_state *s)
{
    if (!s) return;
    const ernie_allocator allocator = s->allocator;
    ern_pool_close(s->pool);
    ern_free_aligned(&allocator, s->block, s->block_bytes);
    ern_free(&allocator, s, sizeof *s);
}
