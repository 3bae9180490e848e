/* The CPU backend: opening, recording, running, and the vtable. The maths is in kernels, the phases
 * of attention and feed-forward layers in cpu_attention.c, cpu_ffn.c and cpu_moe.c. */
#include "../../src/os.h"
#include "cpu.h"

/* ---- Phases shared by the operations ------------------------------------------------------- */

ERN_FN void cpu_phase_end(const cpu_run *run, cpu_phase phase)
{
    cpu_profile *profile = run->state->profile;
    if (!profile) {
        ern_pool_barrier(run->worker);
        return;
    }
    profile += run->worker->index;
    const double done = ern_seconds();
    ern_pool_barrier(run->worker);
    const double passed = ern_seconds();
    profile->work[phase] += done - profile->since;
    profile->wait[phase] += passed - done;
    profile->since = passed;
}

ERN_FN ern_act cpu_act(const cpu_rows *rows, size_t first, size_t n)
{
    return (ern_act){ .x = rows->x ? rows->x + first * rows->x_stride : NULL,
                      .x_stride = rows->x_stride,
                      .q = rows->q ? rows->q + first * rows->q_stride : NULL,
                      .q_stride = rows->q_stride,
                      .q_scale = rows->q ? rows->q_scale + first * rows->s_stride : NULL,
                      .q_sum = rows->q ? rows->q_sum + first * rows->s_stride : NULL,
                      .s_stride = rows->s_stride,
                      .n_tokens = n };
}

ERN_FN void cpu_quantize_row(const ern_backend_state *s, cpu_rows *rows, size_t row)
{
    s->k->quantize(rows->x + row * rows->x_stride, rows->width, rows->q + row * rows->q_stride,
                   rows->q_scale + row * rows->s_stride, rows->q_sum + row * rows->s_stride);
}

/* normed = rmsnorm(x) for the tokens from `first` on, shared between workers. */
ERN_FN void cpu_norm(const cpu_run *run, const float *norm, size_t first)
{
    ern_backend_state *s = run->state;
    size_t begin, end;
    cpu_share(run, s->batch.n_tokens - first, &begin, &end);
    for (size_t t = first + begin; t < first + end; t++) {
        s->k->rmsnorm(s->x + t * s->x_stride, norm, s->hp->hidden_size, s->hp->rms_norm_eps,
                      s->normed.x + t * s->normed.x_stride);
        if (s->normed.q) cpu_quantize_row(s, &s->normed, t);
    }
}

/* y = w a, or y += w a, in tiles of 64 rows. */
ERN_FN void cpu_product(const cpu_run *run, unsigned phase, const ern_matrix *w, const ern_act *a,
                        float *y, size_t y_stride, bool add)
{
    const ern_backend_state *s = run->state;
    const uint32_t groups = ern_n_groups(w->n_rows);
    const size_t stride = 16 * (size_t)CPU_TILE_GROUPS;
    float *tile = run->scratch->tile;
    size_t i;
    while (cpu_tile_next(run, phase, (groups + CPU_TILE_GROUPS - 1) / CPU_TILE_GROUPS, &i)) {
        const uint32_t begin = (uint32_t)i * CPU_TILE_GROUPS;
        const uint32_t end = begin + CPU_TILE_GROUPS < groups ? begin + CPU_TILE_GROUPS : groups;
        const size_t width = ern_min_size(16 * (size_t)(end - begin), w->n_rows - 16 * begin);
        for (size_t r = 0; r < a->n_tokens && !cpu_stopped(s); r += CPU_TILE_ROWS) {
            ern_act part = *a;
            part.x = a->x ? a->x + r * a->x_stride : NULL;
            part.q = a->q ? a->q + r * a->q_stride : NULL;
            part.q_scale = a->q ? a->q_scale + r * a->s_stride : NULL;
            part.q_sum = a->q ? a->q_sum + r * a->s_stride : NULL;
            part.n_tokens = ern_min_size(CPU_TILE_ROWS, a->n_tokens - r);
            s->k->matmul[w->type](w, begin, end, &part, tile, stride);
            for (size_t t = 0; t < part.n_tokens; t++) {
                float *to = y + (r + t) * y_stride + 16 * (size_t)begin;
                if (add) s->k->add(to, tile + t * stride, width);
                else memcpy(to, tile + t * stride, width * sizeof *to);
            }
        }
    }
}

/* ---- Embedding and head -------------------------------------------------------------------- */

/* Angles in double precision: p * theta^(-2j/d) of position 131071 would lose its digits in
 * float. */
static void cpu_angles(ern_backend_state *s, size_t t)
{
    const size_t half = s->hp->head_dim / 2;
    float *to = s->cos_sin + t * 2 * half;
    for (size_t j = 0; j < half; j++) {
        const double angle = (double)(s->batch.position + t) * s->freq[j];
        to[2 * j] = (float)cos(angle);
        to[2 * j + 1] = (float)sin(angle);
    }
}

static void cpu_run_embed(const cpu_run *run)
{
    ern_backend_state *s = run->state;
    const ern_matrix *w = run->op->matrix;
    size_t begin, end;
    cpu_share(run, s->batch.n_tokens, &begin, &end);
    for (size_t t = begin; t < end; t++) {
        s->k->row[w->type](w, (uint32_t)s->batch.tokens[t], s->x + t * s->x_stride);
        cpu_angles(s, t);
    }
    cpu_phase_end(run, CPU_PHASE_EMBED);
}

static void cpu_run_head(const cpu_run *run)
{
    ern_backend_state *s = run->state;
    if (s->batch.n_logits == 0) return;
    const size_t first = s->batch.n_tokens - s->batch.n_logits;
    cpu_norm(run, run->op->norm, first);
    cpu_phase_end(run, CPU_PHASE_NORM);
    const ern_act a = cpu_act(&s->normed, first, s->batch.n_logits);
    cpu_product(run, 0, run->op->matrix, &a, s->batch.logits, s->hp->vocab_size, false);
    cpu_phase_end(run, CPU_PHASE_HEAD);
}

/* ---- Recording and running ----------------------------------------------------------------- */

static void cpu_begin(ern_backend_state *s, const ern_batch *batch)
{
    s->batch = *batch;
    s->n_ops = 0;
}

static cpu_op *cpu_record(ern_backend_state *s, cpu_op_kind kind)
{
    ERN_ASSERT(s->n_ops < 2 * (size_t)s->hp->n_layers + 2);
    cpu_op *op = &s->ops[s->n_ops++];
    op->kind = kind;
    op->i_layer = 0;
    op->layer = NULL;
    op->matrix = NULL;
    op->norm = NULL;
    for (unsigned i = 0; i < CPU_COUNTERS; i++) atomic_init(&op->next[i], 0);
    return op;
}

static void cpu_embed(ern_backend_state *s, const ern_matrix *embed)
{
    cpu_record(s, CPU_EMBED)->matrix = embed;
}

static void cpu_record_layer(ern_backend_state *s, cpu_op_kind kind, uint32_t i_layer,
                             const ern_layer *layer)
{
    cpu_op *op = cpu_record(s, kind);
    op->i_layer = i_layer;
    op->layer = layer;
}

static void cpu_attention(ern_backend_state *s, uint32_t i_layer, const ern_layer *layer)
{
    cpu_record_layer(s, CPU_ATTENTION, i_layer, layer);
}

static void cpu_ffn(ern_backend_state *s, uint32_t i_layer, const ern_layer *layer)
{
    cpu_record_layer(s, CPU_FFN, i_layer, layer);
}

static void cpu_moe(ern_backend_state *s, uint32_t i_layer, const ern_layer *layer)
{
    cpu_record_layer(s, CPU_MOE, i_layer, layer);
}

static void cpu_head(ern_backend_state *s, const float *norm, const ern_matrix *head)
{
    cpu_op *op = cpu_record(s, CPU_HEAD);
    op->matrix = head;
    op->norm = norm;
}

static void cpu_work(ern_worker *worker, void *arg)
{
    static void (*const run_op[])(const cpu_run *) = {
        [CPU_EMBED] = cpu_run_embed, [CPU_ATTENTION] = cpu_run_attention, [CPU_FFN] = cpu_run_ffn,
        [CPU_MOE] = cpu_run_moe,     [CPU_HEAD] = cpu_run_head,
    };
    ern_backend_state *s = arg;
    if (s->profile) s->profile[worker->index].since = ern_seconds();
    for (size_t i = 0; i < s->n_ops; i++) {
        const cpu_run run = { s, worker, &s->ops[i], &s->scratch[worker->index] };
        run_op[run.op->kind](&run);
    }
}

static ernie_status cpu_submit(ern_backend_state *s, ernie_error *error)
{
    atomic_store_explicit(&s->failed, false, memory_order_relaxed);
    ern_pool_run(s->pool, cpu_work, s);
    if (atomic_load_explicit(&s->failed, memory_order_relaxed))
        return ern_error_set(error, s->failure.code, "%s", s->failure.message);
    ERN_FAIL_IF(cpu_stopped(s), error, ERNIE_CANCELLED, "cancelled while %u token%s computed",
                s->batch.n_tokens, s->batch.n_tokens == 1 ? " was" : "s were");
    if (s->stream) ern_experts_tick(s->backend->experts);
    return ERNIE_OK;
}

static void cpu_experts_stats(const ern_backend_state *s, ern_experts_stats *stats)
{
    *stats = s->stream ? s->stream->stats : (ern_experts_stats){ 0 };
}

/* ---- What products have read --------------------------------------------------------------- */

static ern_input cpu_input(const cpu_rows *rows)
{
    return (ern_input){ .x = rows->x, .stride = rows->x_stride, .width = rows->width };
}

static void cpu_inputs(ern_backend_state *s, ern_inputs *inputs)
{
    ERN_ASSERT(s->options.keep_inputs);
    *inputs = (ern_inputs){ .stream = s->x,
                            .stream_stride = s->x_stride,
                            .normed = cpu_input(&s->normed),
                            .attn = cpu_input(&s->attn),
                            .hidden = cpu_input(&s->dense),
                            .shared = cpu_input(&s->shared),
                            .expert = cpu_input(&s->expert),
                            .expert_begin = s->expert_begin,
                            .entry_token = s->entry_token,
                            .entry_weight = s->entry_weight };
}

/* ---- Keys and values in and out ------------------------------------------------------------ */

static size_t cpu_kv_head(const ern_backend_state *s, uint32_t i_layer, uint32_t i_head)
{
    return (size_t)i_layer * s->hp->n_kv_heads + i_head;
}

static void cpu_kv_read(const ern_backend_state *s, uint32_t i_layer, uint32_t n, void *out)
{
    unsigned char *to = out;
    for (uint32_t i = 0; i < s->hp->n_kv_heads; i++) {
        const unsigned char *keys = s->keys + cpu_kv_head(s, i_layer, i) * s->keys_bytes;
        for (uint32_t p = 0; p < n; p++, to += s->key_row)
            ern_kv_key_get(s->options.kv, s->hp->head_dim, keys, p, to);
    }
    const size_t bytes = n * s->value_row;
    for (uint32_t i = 0; i < s->hp->n_kv_heads; i++, to += bytes)
        memcpy(to, s->values + cpu_kv_head(s, i_layer, i) * s->values_bytes, bytes);
}

static void cpu_kv_write(ern_backend_state *s, uint32_t i_layer, uint32_t n, const void *in)
{
    const unsigned char *from = in;
    for (uint32_t i = 0; i < s->hp->n_kv_heads; i++) {
        unsigned char *keys = s->keys + cpu_kv_head(s, i_layer, i) * s->keys_bytes;
        for (uint32_t p = 0; p < n; p++, from += s->key_row)
            ern_kv_key_put(s->options.kv, s->hp->head_dim, keys, p, from);
    }
    const size_t bytes = n * s->value_row;
    for (uint32_t i = 0; i < s->hp->n_kv_heads; i++, from += bytes)
        memcpy(s->values + cpu_kv_head(s, i_layer, i) * s->values_bytes, from, bytes);
}

/* ---- Opening ------------------------------------------------------------------------------- */

static void cpu_note_type(ern_backend *b, const ern_matrix *w, bool expert)
{
    if (w->n_rows == 0) return;
    const bool quantized = cpu_quantized(w);
    b->has_quantized |= quantized;
    b->has_plain |= !quantized;
    if (!expert) return;
    b->experts_quantized |= quantized;
    b->experts_plain |= !quantized;
}

static void cpu_note_types(ern_backend *b)
{
    const ern_weights *w = b->weights;
    cpu_note_type(b, &w->head, false);
    for (uint32_t i = 0; i < w->hparams->n_layers; i++) {
        const ern_layer *layer = &w->layers[i];
        const ern_matrix *const all[] = { &layer->qkv,  &layer->attn_out,       &layer->gate_up,
                                          &layer->down, &layer->shared_gate_up, &layer->shared_down };
        for (size_t j = 0; j < ERN_COUNT(all); j++) cpu_note_type(b, all[j], false);
        for (uint32_t e = 0; layer->moe && e < w->hparams->n_experts; e++) {
            const ern_expert expert = ern_weights_expert_at(layer, e, NULL);
            cpu_note_type(b, &expert.gate_up, true);
            cpu_note_type(b, &expert.down, true);
        }
    }
}

static ernie_status cpu_open(ern_backend **out, const ern_weights *weights,
                             const ern_backend_options *options, ernie_error *error)
{
    const ern_kernels *kernels = ern_kernels_find(options->cpu);
    ERN_FAIL_IF(!kernels, error, ERNIE_UNSUPPORTED,
                "instruction set \"%s\" is unknown or absent on this processor",
                options->cpu ? options->cpu : "auto");
    ern_backend *b = ern_alloc_zero(options->allocator, sizeof *b);
    ERN_FAIL_IF(!b, error, ERNIE_NO_MEMORY, "no memory for the CPU backend of %zu bytes", sizeof *b);
    b->allocator = *options->allocator;
    b->kernels = kernels;
    b->weights = weights;
    b->experts = options->experts;
    b->look_ahead = options->look_ahead;
    cpu_note_types(b);
    ern_log_write(options->log, ERNIE_LOG_INFO, "cpu backend, instruction set %s", kernels->name);
    *out = b;
    return ERNIE_OK;
}

static void cpu_close(ern_backend *b)
{
    if (!b) return;
    const ernie_allocator allocator = b->allocator;
    ern_free(&allocator, b, sizeof *b);
}

static const char *cpu_describe(const ern_backend *b) { return b->kernels->name; }

static const ern_backend_ops cpu_backend_ops = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .describe = cpu_describe,
    .state_plan = cpu_state_plan,
    .state_open = cpu_state_open,
    .state_close = cpu_state_close,
    .begin = cpu_begin,
    .embed = cpu_embed,
    .attention = cpu_attention,
    .ffn = cpu_ffn,
    .moe = cpu_moe,
    .head = cpu_head,
    .submit = cpu_submit,
    .inputs = cpu_inputs,
    .experts_stats = cpu_experts_stats,
    .kv_read = cpu_kv_read,
    .kv_write = cpu_kv_write,
};

ERN_FN const ern_backend_ops *ern_backend_find(const char *name)
{
    static const ern_backend_ops *const all[] = { &cpu_backend_ops, NULL };
    if (!name || strcmp(name, "auto") == 0) return all[0];
    for (size_t i = 0; all[i]; i++)
        if (strcmp(all[i]->name, name) == 0) return all[i];
    return NULL;
}
