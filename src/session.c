/* Sessions: memory planned and taken at creation, tokens fed in batches, going back, forking. The
 * forward step itself is a list of the backend's operations, written down here once. */
#include "session.h"

#define SESSION_CTX_DEFAULT   4096u
#define SESSION_BATCH_DEFAULT 512u
#define SESSION_THREADS_MAX   1024u
#define SESSION_STREAM_BATCH  4096u /* the most that is chosen where experts are streamed, */
#define SESSION_STREAM_PART   8u    /* with at most this part of the memory that they could have */

/* ---- What is asked for ---------------------------------------------------------------------- */

static void session_take(ernie_session *s, ern_arena *a, uint32_t n_ctx, uint32_t vocab)
{
    s->tokens = ern_arena_take(a, n_ctx, sizeof *s->tokens);
    s->logits = ern_arena_take(a, vocab, sizeof *s->logits);
    s->candidates = ern_arena_take(a, vocab, sizeof *s->candidates);
    s->counts = ern_arena_take(a, vocab, sizeof *s->counts);
}

/* What a session takes, all of it. */
static ernie_status session_measure(const ernie_model *model, const ern_state_options *state,
                                    ernie_memory *memory, ernie_error *error)
{
    ernie_session shape;
    ern_arena arena = { 0 };
    memset(memory, 0, sizeof *memory);
    const ernie_status status = model->ops->state_plan(model->backend, state, &memory->kv_bytes,
                                                       &memory->scratch_bytes, error);
    if (status != ERNIE_OK) return status;
    session_take(&shape, &arena, state->n_ctx, model->format.header->hparams.vocab_size);
    memory->scratch_bytes += ern_aligned_bytes(arena.used) + sizeof shape;
    memory->total_bytes = memory->kv_bytes + memory->scratch_bytes;
    return ERNIE_OK;
}

/* Where experts are streamed, a long prompt reads each once a batch: the larger the better, while
 * the scratch stays small beside the memory that keeps experts. */
static void session_grow_batch(const ernie_model *model, ern_state_options *state)
{
    const uint64_t held = ern_model_held(model);
    ernie_memory memory;
    for (;;) {
        ern_state_options more = *state;
        more.n_batch = 2 * state->n_batch < state->n_ctx ? 2 * state->n_batch : state->n_ctx;
        if (more.n_batch > SESSION_STREAM_BATCH || more.n_batch == state->n_batch) return;
        if (session_measure(model, &more, &memory, NULL) != ERNIE_OK) return;
        if (held + memory.kv_bytes > model->ceiling
            || memory.scratch_bytes
                   > (model->ceiling - held - memory.kv_bytes) / SESSION_STREAM_PART
            || ern_model_slots(model, memory.total_bytes)
                   < ern_plan_slots_min(model->format.header))
            return;
        *state = more;
    }
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
                                  .kv = ern_kv_of(o->kv_type),
                                  .allocator = &model->allocator,
                                  .route = o->route,
                                  .route_user = o->route_user };
    if (model->experts && !o->n_batch) session_grow_batch(model, state);
    return ERNIE_OK;
}

/* ---- The ceiling --------------------------------------------------------------------------- */

static const ern_hparams *session_hparams(const ernie_model *model)
{
    return &model->format.header->hparams;
}

static uint64_t session_slots_min(const ernie_model *model)
{
    return model->experts ? ern_plan_slots_min(model->format.header) : 0;
}

static uint64_t session_slots_bytes(const ernie_model *model, uint64_t n_slots)
{
    return n_slots ? ern_experts_slot_bytes(&model->format, n_slots) : 0;
}

/* What a streamed model needs beside its sessions and what it holds. */
static uint64_t session_least_bytes(const ernie_model *model)
{
    if (!model->experts) return 0;
    return session_slots_bytes(model, session_slots_min(model)) + ERN_PLAN_SPARE;
}

/* The longest context that fits under the ceiling, 0 when none does. */
static uint32_t session_context_that_fits(const ernie_model *model, ern_state_options state)
{
    const uint64_t held = ern_model_held(model) + session_least_bytes(model);
    uint32_t low = 0, high = state.n_ctx;
    ernie_memory memory;
    while (held < model->ceiling && low < high) {
        const uint32_t n_batch = state.n_batch;
        state.n_ctx = low + (high - low + 1) / 2;
        state.n_batch = n_batch < state.n_ctx ? n_batch : state.n_ctx;
        if (session_measure(model, &state, &memory, NULL) == ERNIE_OK
            && memory.total_bytes <= model->ceiling - held)
            low = state.n_ctx;
        else
            high = state.n_ctx - 1;
        state.n_batch = n_batch;
    }
    return low;
}

static ernie_status session_refuse(const ernie_model *model, const ern_state_options *state,
                                   const ernie_memory *need, ernie_error *error)
{
    const uint64_t slots = session_slots_bytes(model, session_slots_min(model));
    const uint64_t held = ern_model_held(model);
    const uint64_t least = held + session_least_bytes(model) + need->total_bytes;
    const uint32_t fits = session_context_that_fits(model, *state);
    char experts[64] = "", advice[64] = "";
    if (slots) snprintf(experts, sizeof experts, ", experts %s", ern_bytes(slots).text);
    if (fits) snprintf(advice, sizeof advice, ", and a context of %u tokens would fit", fits);
    return ern_error_set(error, ERNIE_NO_MEMORY,
                         "a ceiling of %s is too low: %s are held, a session of %u tokens needs "
                         "%s%s; %s would do%s",
                         ern_bytes(model->ceiling).text, ern_bytes(held).text, state->n_ctx,
                         ern_bytes(need->total_bytes).text, experts, ern_bytes_up(least).text,
                         advice);
}

/* Make room for a session under the ceiling: experts get what is left. The budget's lock is
 * held. */
static ernie_status session_make_room(const ernie_model *model, const ern_state_options *state,
                                      ernie_error *error)
{
    ernie_memory need;
    if (model->ceiling == ERN_PLAN_UNLIMITED) return ERNIE_OK;
    const ernie_status status = session_measure(model, state, &need, error);
    if (status != ERNIE_OK) return status;
    const uint64_t held = ern_model_held(model);
    if (!model->experts) {
        if (held <= model->ceiling && need.total_bytes <= model->ceiling - held) return ERNIE_OK;
        return session_refuse(model, state, &need, error);
    }
    const uint64_t n_slots = ern_model_slots(model, need.total_bytes);
    if (n_slots < session_slots_min(model)) return session_refuse(model, state, &need, error);
    const uint32_t per_layer = (uint32_t)(n_slots / ern_n_moe_layers(session_hparams(model)));
    if (per_layer < 2 * session_hparams(model)->moe_k)
        ern_log_write(&model->log, ERNIE_LOG_WARN,
                      "memory has room for %u experts a layer of %u; below %u most of them are read "
                      "again for each token",
                      per_layer, session_hparams(model)->n_experts,
                      2 * session_hparams(model)->moe_k);
    return ern_experts_resize(model->experts, session_slots_bytes(model, n_slots), error);
}

/* Once, when there are slots: what memory held at the end of the last run. */
static void session_warm(const ernie_model *model)
{
    ernie_error error;
    if (!model->warm_path || model->budget->warmed) return;
    model->budget->warmed = true;
    if (ern_experts_load(model->experts, model->warm_path, &error) == ERNIE_OK) return;
    ern_log_write(&model->log, error.code == ERNIE_IO ? ERNIE_LOG_INFO : ERNIE_LOG_WARN,
                  "no experts are read ahead: %s", error.message);
}

/* ---- Creation ------------------------------------------------------------------------------ */

static ernie_status session_open(ernie_session **out, const ernie_model *model,
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

/* The budget's lock is held. */
static ernie_status session_create(ernie_session **out, const ernie_model *model,
                                   const ern_state_options *state, ernie_error *error)
{
    ernie_status status = session_make_room(model, state, error);
    if (status == ERNIE_OK) status = session_open(out, model, state, error);
    if (status == ERNIE_OK) session_warm(model);
    return status;
}

ERN_FN ernie_status ern_session_create(ernie_session **out, const ernie_model *model,
                                       const ernie_session_options *options, ernie_error *error)
{
    ern_state_options state;
    *out = NULL;
    ern_mutex_lock(&model->budget->lock);
    ernie_status status = session_resolve(model, options, &state, error);
    if (status == ERNIE_OK) status = session_create(out, model, &state, error);
    ern_mutex_unlock(&model->budget->lock);
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

static ernie_status session_plan(const ernie_model *model, const ernie_session_options *options,
                                 ernie_memory *memory, ernie_error *error)
{
    ern_state_options state;
    ernie_status status = session_resolve(model, options, &state, error);
    if (status == ERNIE_OK) status = session_measure(model, &state, memory, error);
    if (status != ERNIE_OK) return status;
    memory->weight_bytes = model->format.n_bytes;
    memory->n_threads = state.n_threads;
    memory->n_ctx = state.n_ctx;
    memory->n_batch = state.n_batch;
    memory->ceiling_bytes = model->ceiling;
    memory->held_bytes = ern_model_held(model);
    memory->least_bytes =
        memory->held_bytes + session_least_bytes(model) + memory->total_bytes;
    if (!model->experts) return ERNIE_OK;
    memory->n_slots = (uint32_t)ern_model_slots(model, memory->total_bytes);
    memory->n_slots_min = (uint32_t)session_slots_min(model);
    return ERNIE_OK;
}

/* What is held may be changing hands. */
ERN_FN ernie_status ern_session_plan(const ernie_model *model, const ernie_session_options *options,
                                     ernie_memory *memory, ernie_error *error)
{
    ern_mutex_lock(&model->budget->lock);
    const ernie_status status = session_plan(model, options, memory, error);
    ern_mutex_unlock(&model->budget->lock);
    return status;
}

ERN_FN void ern_session_stream_stats(const ernie_session *s, ernie_stream_stats *stats)
{
    ern_experts_stats from;
    if (!s->model->experts) return;
    s->model->ops->experts_stats(s->state, &from);
    stats->n_slots = ern_experts_n_slots(s->model->experts);
    stats->n_used = from.n_pins;
    stats->n_hits = from.n_hits;
    stats->n_joined = from.n_joined;
    stats->n_misses = from.n_misses;
    stats->n_ahead = from.n_ahead;
    stats->n_ahead_used = from.n_ahead_used;
    stats->bytes_read = from.bytes_read;
    stats->wait_seconds = from.wait_seconds;
    stats->disk_seconds = ern_experts_busy_seconds(s->model->experts);
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

/* Keys and values, tokens, logits and random numbers of s; layer: room for those of one layer. */
static void session_copy(const ernie_session *s, ernie_session *f, void *layer)
{
    const ern_hparams *hp = &s->model->format.header->hparams;
    const ern_backend_ops *ops = s->model->ops;
    for (uint32_t i = 0; i < hp->n_layers; i++) {
        ops->kv_read(s->state, i, (uint32_t)s->n_tokens, layer);
        ops->kv_write(f->state, i, (uint32_t)s->n_tokens, layer);
    }
    memcpy(f->tokens, s->tokens, s->n_tokens * sizeof *s->tokens);
    if (s->has_logits) memcpy(f->logits, s->logits, hp->vocab_size * sizeof *s->logits);
    f->n_tokens = s->n_tokens;
    f->has_logits = s->has_logits;
    f->progress = s->progress;
    f->progress_user = s->progress_user;
    memcpy(f->rng, s->rng, sizeof f->rng);
    f->seed = s->seed;
    f->seeded = s->seeded;
}

static ernie_status session_fork(ernie_session **out, ernie_session *s, size_t layer_bytes,
                                 ernie_error *error)
{
    ern_mutex_lock(&s->model->budget->lock);
    const ernie_status status = session_create(out, s->model, &s->state_options, error);
    ern_mutex_unlock(&s->model->budget->lock);
    if (status != ERNIE_OK) return status;
    void *layer = ern_alloc(&s->allocator, layer_bytes);
    if (!layer) {
        ern_session_free(*out);
        *out = NULL;
        return ern_error_set(error, ERNIE_NO_MEMORY, "no memory for %zu bytes of keys and values",
                             layer_bytes);
    }
    session_copy(s, *out, layer);
    ern_free(&s->allocator, layer, layer_bytes);
    return ERNIE_OK;
}

ERN_FN ernie_status ern_session_fork(ernie_session **out, ernie_session *s, ernie_error *error)
{
    const ern_hparams *hp = &s->model->format.header->hparams;
    const ern_kv kv = s->state_options.kv;
    const size_t bytes =
        (size_t)hp->n_kv_heads * s->n_tokens
        * (ern_kv_key_bytes(kv, hp->head_dim) + ern_kv_value_bytes(kv, hp->head_dim));
    *out = NULL;
    ernie_status status = ern_model_borrow(s->model, bytes + 1, error);
    if (status != ERNIE_OK) return status;
    status = session_fork(out, s, bytes ? bytes : 1, error);
    ern_model_give_back(s->model, bytes + 1);
    return status;
}
