/* Sessions: memory planned and taken at creation, tokens fed in batches, going back, forking. The
 * forward step itself is a list of the backend's operations, written down here once. */
#include "session.h"

#define SESSION_CTX_DEFAULT   4096u
#define SESSION_BATCH_DEFAULT 512u
#define SESSION_THREADS_MAX   1024u

/* ---- Creation ------------------------------------------------------------------------------ */

static ern_kv session_kv(ernie_kv_type type)
{
    if (type == ERNIE_KV_Q8) return ERN_KV_Q8;
    if (type == ERNIE_KV_Q4) return ERN_KV_Q4;
    return type == ERNIE_KV_F32 ? ERN_KV_F32 : ERN_KV_F16;
}

static ernie_status session_resolve(const ernie_model *model, const ernie_session_options *o,
                                    ern_state_options *state, ernie_error *error)
{
    const uint32_t limit = model->format.header->hparams.context_max;
    const uint32_t n_ctx = o->n_ctx                      ? o->n_ctx
                           : limit < SESSION_CTX_DEFAULT ? limit
                                                         : SESSION_CTX_DEFAULT;
    const uint32_t n_batch = o->n_batch ? o->n_batch : SESSION_BATCH_DEFAULT;
    ERN_FAIL_IF(n_ctx > limit, error, ERNIE_INVALID,
                "a context of %u tokens exceeds the model's limit of %u", n_ctx, limit);
    ERN_FAIL_IF(o->n_threads > SESSION_THREADS_MAX, error, ERNIE_INVALID,
                "%u threads exceed the limit of %u", o->n_threads, SESSION_THREADS_MAX);
    ERN_FAIL_IF((unsigned)o->kv_type > ERNIE_KV_Q4, error, ERNIE_INVALID,
                "cache type %u is unknown; known are 0 to %u", (unsigned)o->kv_type,
                (unsigned)ERNIE_KV_Q4);
    *state = (ern_state_options){ .n_ctx = n_ctx,
                                  .n_batch = n_batch < n_ctx ? n_batch : n_ctx,
                                  .n_threads = o->n_threads ? o->n_threads : ern_cpu_count(),
                                  .kv = session_kv(o->kv_type),
                                  .allocator = &model->allocator,
                                  .route = o->route,
                                  .route_user = o->route_user };
    return ERNIE_OK;
}

static void session_take(ernie_session *s, ern_arena *a, uint32_t n_ctx, uint32_t vocab)
{
    s->tokens = ern_arena_take(a, n_ctx, sizeof *s->tokens);
    s->logits = ern_arena_take(a, vocab, sizeof *s->logits);
    s->candidates = ern_arena_take(a, vocab, sizeof *s->candidates);
    s->counts = ern_arena_take(a, vocab, sizeof *s->counts);
}

static ernie_status session_create(ernie_session **out, const ernie_model *model,
                                   const ern_state_options *state, ernie_error *error)
{
    const uint32_t vocab = model->format.header->hparams.vocab_size;
    ernie_session *s = ern_alloc_zero(&model->allocator, sizeof *s);
    *out = NULL;
    ERN_FAIL_IF(!s, error, ERNIE_NO_MEMORY, "no memory for a session of %zu bytes", sizeof *s);
    s->model = model;
    s->allocator = model->allocator;
    s->state_options = *state;
    s->state_options.cancel = &s->cancel;
    atomic_init(&s->cancel, 0);
    ern_arena arena = { 0 };
    session_take(s, &arena, state->n_ctx, vocab);
    s->block_bytes = arena.used;
    s->block = arena.overflow ? NULL : ern_alloc_aligned(&s->allocator, s->block_bytes);
    if (!s->block) {
        ern_session_free(s);
        return ern_error_set(error, ERNIE_NO_MEMORY,
                             "no memory for %u tokens and %u logits, %zu bytes", state->n_ctx,
                             vocab, arena.used);
    }
    arena = (ern_arena){ .base = s->block, .size = s->block_bytes };
    session_take(s, &arena, state->n_ctx, vocab);
    memset(s->counts, 0, vocab * sizeof *s->counts);
    const ernie_status status =
        model->ops->state_open(&s->state, model->backend, &s->state_options, error);
    if (status != ERNIE_OK) {
        ern_session_free(s);
        return status;
    }
    ern_huge_start(model->huge, &model->log);
    *out = s;
    return ERNIE_OK;
}

ERN_FN ernie_status ern_session_create(ernie_session **out, const ernie_model *model,
                                       const ernie_session_options *options, ernie_error *error)
{
    ern_state_options state;
    *out = NULL;
    ernie_status status = session_resolve(model, options, &state, error);
    if (status == ERNIE_OK) status = session_create(out, model, &state, error);
    if (status != ERNIE_OK) return status;
    (*out)->progress = options->progress;
    (*out)->progress_user = options->progress_user;
    return ERNIE_OK;
}

ERN_FN void ern_session_free(ernie_session *s)
{
    if (!s) return;
    const ernie_allocator allocator = s->allocator;
    s->model->ops->state_close(s->state);
    ern_free_aligned(&allocator, s->block, s->block_bytes);
    ern_free(&allocator, s, sizeof *s);
}

ERN_FN ernie_status ern_session_plan(const ernie_model *model, const ernie_session_options *options,
                                     ernie_memory *memory, ernie_error *error)
{
    const uint32_t vocab = model->format.header->hparams.vocab_size;
    ern_state_options state;
    ernie_status status = session_resolve(model, options, &state, error);
    if (status != ERNIE_OK) return status;
    memset(memory, 0, sizeof *memory);
    status = model->ops->state_plan(model->backend, &state, &memory->kv_bytes,
                                    &memory->scratch_bytes, error);
    if (status != ERNIE_OK) return status;
    ernie_session shape;
    ern_arena arena = { 0 };
    session_take(&shape, &arena, state.n_ctx, vocab);
    memory->scratch_bytes += ern_aligned_bytes(arena.used) + sizeof shape;
    memory->total_bytes = memory->kv_bytes + memory->scratch_bytes;
    memory->weight_bytes = model->format.n_bytes;
    memory->n_threads = state.n_threads;
    return ERNIE_OK;
}

/* ---- Forward ------------------------------------------------------------------------------- */

static ernie_status session_step(ernie_session *s, const ern_batch *batch, ernie_error *error)
{
    const ern_backend_ops *ops = s->model->ops;
    const ern_weights *w = ern_model_weights(s->model);
    ops->begin(s->state, batch);
    ops->embed(s->state, &w->embed);
    for (uint32_t i = 0; i < w->hparams->n_layers; i++) {
        ops->attention(s->state, i, &w->layers[i]);
        if (w->layers[i].moe)
            ops->moe(s->state, i, &w->layers[i]);
        else
            ops->ffn(s->state, i, &w->layers[i]);
    }
    ops->head(s->state, w->final_norm, &w->head);
    ern_huge_enter(s->model->huge);
    const ernie_status status = ops->submit(s->state, error);
    ern_huge_leave(s->model->huge);
    return status;
}

ERN_FN void ern_session_mask(const ernie_model *model, float *logits, size_t n_rows)
{
    const uint32_t vocab = model->format.header->hparams.vocab_size;
    const uint32_t n_tokens = ern_model_n_tokens(model);
    for (size_t r = 0; r < n_rows; r++)
        for (uint32_t i = n_tokens; i < vocab; i++) logits[r * vocab + i] = -INFINITY;
}

/* May `tokens` be fed after the first `n_kept` that the session holds? */
static ernie_status session_check_tokens(const ernie_session *s, size_t n_kept,
                                         const int32_t *tokens, size_t n, ernie_error *error)
{
    const uint32_t vocab = s->model->format.header->hparams.vocab_size;
    const size_t room = s->state_options.n_ctx - n_kept;
    ERN_FAIL_IF(n == 0, error, ERNIE_INVALID, "no tokens to feed");
    ERN_FAIL_IF(n > room, error, ERNIE_FULL,
                "%zu tokens do not fit into the room of %zu: %zu of the context's %u are taken", n,
                room, n_kept, s->state_options.n_ctx);
    for (size_t i = 0; i < n; i++)
        ERN_FAIL_IF(tokens[i] < 0 || (uint32_t)tokens[i] >= vocab, error, ERNIE_INVALID,
                    "token %zu has id %d; ids are 0 to %u", i, (int)tokens[i], vocab - 1);
    return ERNIE_OK;
}

ERN_FN bool ern_session_take_cancel(ernie_session *s)
{
    return atomic_exchange_explicit(&s->cancel, 0, memory_order_acq_rel) != 0;
}

static ernie_status session_feed_batches(ernie_session *s, size_t n, float *all_logits,
                                         ernie_error *error)
{
    const uint32_t vocab = s->model->format.header->hparams.vocab_size;
    const size_t first = s->n_tokens;
    for (size_t done = 0; done < n;) {
        const size_t take = ern_min_size(s->state_options.n_batch, n - done);
        const bool last = done + take == n;
        const ern_batch batch = { .tokens = s->tokens + first + done,
                                  .n_tokens = (uint32_t)take,
                                  .position = (uint32_t)(first + done),
                                  .logits = all_logits ? all_logits + done * vocab : s->logits,
                                  .n_logits = all_logits ? (uint32_t)take : last };
        const ernie_status status = session_step(s, &batch, error);
        if (status != ERNIE_OK) return status;
        done += take;
        ERN_FAIL_IF(s->progress && n > 1
                        && s->progress("reading the prompt", done, n, s->progress_user),
                    error, ERNIE_CANCELLED, "cancelled after %zu of %zu tokens", done, n);
    }
    return ERNIE_OK;
}

ERN_FN ernie_status ern_session_feed(ernie_session *s, const int32_t *tokens, size_t n,
                                     float *all_logits, ernie_error *error)
{
    const uint32_t vocab = s->model->format.header->hparams.vocab_size;
    ernie_status status = session_check_tokens(s, s->n_tokens, tokens, n, error);
    if (status != ERNIE_OK) return status;
    s->has_logits = false;
    memmove(s->tokens + s->n_tokens, tokens, n * sizeof *tokens);
    status = session_feed_batches(s, n, all_logits, error);
    if (status == ERNIE_CANCELLED) ern_session_take_cancel(s);
    if (status != ERNIE_OK) return status;
    if (all_logits) {
        ern_session_mask(s->model, all_logits, n);
        memcpy(s->logits, all_logits + (n - 1) * vocab, vocab * sizeof *s->logits);
    } else {
        ern_session_mask(s->model, s->logits, 1);
    }
    s->n_tokens += n;
    s->has_logits = true;
    return ERNIE_OK;
}

ERN_FN ernie_status ern_session_sync(ernie_session *s, const int32_t *tokens, size_t n,
                                     ernie_error *error)
{
    size_t same = 0;
    const ernie_status status = session_check_tokens(s, 0, tokens, n, error);
    if (status != ERNIE_OK) return status;
    while (same < n && same < s->n_tokens && s->tokens[same] == tokens[same]) same++;
    if (same == n && same == s->n_tokens && s->has_logits) return ERNIE_OK;
    if (same == n) same--;
    ern_session_rewind(s, same);
    return ern_session_feed(s, tokens + same, n - same, NULL, error);
}

ERN_FN void ern_session_rewind(ernie_session *s, size_t n)
{
    ERN_ASSERT(n <= s->n_tokens);
    if (n < s->n_tokens) s->has_logits = false;
    s->n_tokens = n;
}

/* ---- Fork ---------------------------------------------------------------------------------- */

ERN_FN ernie_status ern_session_fork(ernie_session **out, ernie_session *s, ernie_error *error)
{
    const ern_hparams *hp = &s->model->format.header->hparams;
    const ern_backend_ops *ops = s->model->ops;
    const ern_kv kv = s->state_options.kv;
    const size_t bytes =
        (size_t)hp->n_kv_heads * s->n_tokens
        * (ern_kv_key_bytes(kv, hp->head_dim) + ern_kv_value_bytes(kv, hp->head_dim));
    ernie_session *f = NULL;
    *out = NULL;
    const ernie_status status = session_create(&f, s->model, &s->state_options, error);
    if (status != ERNIE_OK) return status;
    void *layer = ern_alloc(&s->allocator, bytes ? bytes : 1);
    if (!layer) {
        ern_session_free(f);
        return ern_error_set(error, ERNIE_NO_MEMORY, "no memory for %zu bytes of keys and values",
                             bytes);
    }
    for (uint32_t i = 0; i < hp->n_layers; i++) {
        ops->kv_read(s->state, i, (uint32_t)s->n_tokens, layer);
        ops->kv_write(f->state, i, (uint32_t)s->n_tokens, layer);
    }
    ern_free(&s->allocator, layer, bytes ? bytes : 1);
    memcpy(f->tokens, s->tokens, s->n_tokens * sizeof *s->tokens);
    if (s->has_logits) memcpy(f->logits, s->logits, hp->vocab_size * sizeof *s->logits);
    f->n_tokens = s->n_tokens;
    f->has_logits = s->has_logits;
    f->progress = s->progress;
    f->progress_user = s->progress_user;
    memcpy(f->rng, s->rng, sizeof f->rng);
    f->seed = s->seed;
    f->seeded = s->seeded;
    *out = f;
    return ERNIE_OK;
}
