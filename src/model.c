/* Opening a model: bytes to a checked file, the file to typed tables, tables to a backend. Owns
 * nothing of sessions; refuses to know how products are computed. */
#include "model.h"

#include "../backends/backend.h"

#define MODEL_READERS 4u /* threads that read experts, unless told otherwise */

/* ---- Description ---------------------------------------------------------------------------- */

/* "embedding w8, attention w4, experts w4": the type of the first record of each class. */
static void model_describe_types(ernie_model *m)
{
    static const struct {
        ern_kind kind;
        const char *name;
    } classes[] = { { ERN_EMBED, "embedding" },       { ERN_HEAD, "head" },
                    { ERN_QKV, "attention" },         { ERN_FFN_GATE_UP, "dense" },
                    { ERN_SHARED_GATE_UP, "shared" }, { ERN_EXPERT, "experts" } };
    size_t at = 0;
    for (size_t c = 0; c < ERN_COUNT(classes); c++)
        for (uint32_t i = 0; i < m->format.header->n_records; i++) {
            if (m->format.records[i].kind != classes[c].kind) continue;
            at += (size_t)snprintf(m->types + at, sizeof m->types - at, "%s%s %s", at ? ", " : "",
                                   classes[c].name, ern_type_name(m->format.records[i].type));
            break;
        }
}

/* ---- Opening ------------------------------------------------------------------------------- */

/* Where a model's bytes come from: exactly one of the three. */
typedef struct model_origin {
    const char *path;
    const ernie_source *source;
    const void *memory;
    size_t memory_bytes;
} model_origin;

static ernie_status model_told(const ernie_model_options *o, uint64_t done, uint64_t n_bytes,
                               ernie_error *error)
{
    const bool stop = o->progress && o->progress("reading", done, n_bytes, o->progress_user) != 0;
    ERN_FAIL_IF(stop || ern_cancelled(o->cancel), error, ERNIE_CANCELLED,
                "cancelled after reading %llu of %llu bytes", (unsigned long long)done,
                (unsigned long long)n_bytes);
    return ERNIE_OK;
}

static ernie_status model_read_piece(const ernie_source *source, uint64_t at, void *data, size_t n,
                                     ernie_error *error)
{
    ERN_FAIL_IF(source->read(source->user, at, data, n) != 0, error, ERNIE_IO,
                "the source failed to read %zu bytes at offset %llu of %llu", n,
                (unsigned long long)at, (unsigned long long)source->n_bytes);
    return ERNIE_OK;
}

/* The first n_bytes into memory of the model, from the source or from the file that `in` has open at its
 * beginning. */
static ernie_status model_read_in(ernie_model *m, const ernie_source *source, ern_file_in *in,
                                  uint64_t n_bytes, const ernie_model_options *o,
                                  ernie_error *error)
{
    const size_t piece = (size_t)4 << 20;
    ernie_status status = ERNIE_OK;
    ERN_FAIL_IF(n_bytes == 0 || n_bytes > SIZE_MAX - ERN_CACHE_LINE, error, ERNIE_FORMAT,
                "a source of %llu bytes holds no model", (unsigned long long)n_bytes);
    unsigned char *data = ern_alloc_filled(&m->allocator, (size_t)n_bytes);
    ERN_FAIL_IF(!data, error, ERNIE_NO_MEMORY, "no memory for a model's %llu bytes",
                (unsigned long long)n_bytes);
    m->view = (ern_file_view){ data, n_bytes, false, &m->allocator };
    for (uint64_t at = 0; at < n_bytes && status == ERNIE_OK; at += piece) {
        const size_t n = (size_t)(n_bytes - at < piece ? n_bytes - at : piece);
        status = source ? model_read_piece(source, at, data + at, n, error)
                        : ern_file_in_read(in, data + at, n, error);
        if (status == ERNIE_OK) status = model_told(o, at + n, n_bytes, error);
    }
    return status;
}

static unsigned model_n_readers(const ernie_stream_options *o)
{
    return o->n_readers ? o->n_readers : MODEL_READERS;
}

static ernie_status model_plan(ernie_model *m, const ern_header *header, uint64_t n_bytes,
                               const ernie_model_options *o, ern_plan *plan, ernie_error *error)
{
    const ernie_session_options *session = o->session;
    const ern_plan_session wanted = { .n_ctx = session ? session->n_ctx : 0,
                                      .n_batch = session ? session->n_batch : 0,
                                      .n_threads = session ? session->n_threads : 0,
                                      .kv_type =
                                          session ? session->kv_type : ERNIE_KV_DEFAULT };
    const ernie_status status = ern_plan_make(plan, header, n_bytes, o->memory, &wanted,
                                              model_n_readers(o->stream), error);
    m->ceiling = plan->ceiling;
    m->streams = plan->streams;
    if (status == ERNIE_OK && plan->streams)
        ern_log_write(&m->log, ERNIE_LOG_INFO,
                      "%s of weights do not fit into %s: %s are resident, experts come from disk",
                      ern_bytes(n_bytes).text, ern_bytes(plan->ceiling).text,
                      ern_bytes(plan->resident_bytes).text);
    return status;
}

/* What is resident was decided by a header that was read before: only if it still is the same,
 * everything that it speaks of is there. */
static ernie_status model_check_unchanged(const ernie_model *m, const ern_header *header,
                                          ernie_error *error)
{
    ERN_FAIL_IF(memcmp(m->view.data, header, sizeof *header) != 0, error, ERNIE_IO,
                "the model's header, its first %zu bytes, changed while it was opened",
                sizeof *header);
    return ERNIE_OK;
}

/* The header decides how the rest is held. */
static ernie_status model_open_path(ernie_model *m, const char *path, const ernie_model_options *o,
                                    ernie_error *error)
{
    ern_header header;
    ern_file_in *in = NULL;
    uint64_t n_bytes = 0;
    ern_plan plan = { .ceiling = ERN_PLAN_UNLIMITED };
    ernie_status status = ern_file_in_open(&in, path, &m->allocator, &n_bytes, error);
    if (status == ERNIE_OK && n_bytes >= sizeof header) {
        status = ern_file_in_read(in, &header, sizeof header, error);
        if (status == ERNIE_OK) status = model_plan(m, &header, n_bytes, o, &plan, error);
    }
    ern_file_in_close(in);
    if (status != ERNIE_OK) return status;
    if (!plan.streams) {
        status = ern_file_view_open(&m->view, path, o->no_mmap, &m->allocator, o->progress,
                                    o->progress_user, o->cancel, error);
        m->n_bytes = m->view.n_bytes;
        return status;
    }
    status = ern_file_in_open(&in, path, &m->allocator, &m->n_bytes, error);
    if (status == ERNIE_OK) status = model_read_in(m, NULL, in, plan.resident_bytes, o, error);
    ern_file_in_close(in);
    return status == ERNIE_OK ? model_check_unchanged(m, &header, error) : status;
}

static ernie_status model_open_source(ernie_model *m, const ernie_source *source,
                                      const ernie_model_options *o, ernie_error *error)
{
    ern_header header;
    ern_plan plan = { .ceiling = ERN_PLAN_UNLIMITED, .resident_bytes = source->n_bytes };
    ernie_status status = ERNIE_OK;
    if (source->n_bytes >= sizeof header) {
        status = model_read_piece(source, 0, &header, sizeof header, error);
        if (status == ERNIE_OK) status = model_plan(m, &header, source->n_bytes, o, &plan, error);
    }
    m->n_bytes = source->n_bytes;
    if (status == ERNIE_OK) status = model_read_in(m, source, NULL, plan.resident_bytes, o, error);
    return status == ERNIE_OK && plan.streams ? model_check_unchanged(m, &header, error) : status;
}

static ernie_status model_open_bytes(ernie_model *m, const model_origin *from,
                                     const ernie_model_options *o, ernie_error *error)
{
    ERN_FAIL_IF(ern_cancelled(o->cancel), error, ERNIE_CANCELLED, "opening was cancelled");
    m->ceiling = o->memory ? o->memory : ERN_PLAN_UNLIMITED;
    if (from->path) return model_open_path(m, from->path, o, error);
    if (from->source) return model_open_source(m, from->source, o, error);
    ERN_FAIL_IF((uintptr_t)from->memory % ERN_CACHE_LINE != 0, error, ERNIE_INVALID,
                "the model in memory starts %zu bytes after a multiple of 64",
                (size_t)((uintptr_t)from->memory % ERN_CACHE_LINE));
    /* Neither mapped nor allocated: closing the view leaves the caller's memory alone. */
    m->view = (ern_file_view){ .data = from->memory, .n_bytes = from->memory_bytes };
    m->n_bytes = from->memory_bytes;
    return ERNIE_OK;
}

/* ---- Experts on disk ----------------------------------------------------------------------- */

static ernie_status model_keep_warm_path(ernie_model *m, const char *path, ernie_error *error)
{
    if (!path) return ERNIE_OK;
    const size_t n = strlen(path) + 1;
    m->warm_path = ern_alloc(&m->allocator, n);
    ERN_FAIL_IF(!m->warm_path, error, ERNIE_NO_MEMORY, "no memory for a path of %zu bytes", n);
    memcpy(m->warm_path, path, n);
    return ERNIE_OK;
}

static ernie_status model_open_experts(ernie_model *m, const model_origin *from,
                                       const ernie_model_options *o, ernie_error *error)
{
    const ernie_stream_options *s = o->stream;
    const ern_experts_options options = { .path = from->path,
                                          .source = from->source,
                                          .format = &m->format,
                                          .allocator = &m->allocator,
                                          .log = &m->log,
                                          .n_readers = model_n_readers(s),
                                          .buffered = s->buffered,
                                          .policy = s->policy == ERNIE_STREAM_LRU ? ERN_POLICY_LRU
                                                                                  : ERN_POLICY_LFRU,
                                          .io_limit = (double)s->io_limit,
                                          .io_latency = 1e-6 * s->io_latency_us };
    if (!m->streams) return ERNIE_OK;
    const ernie_status status = model_keep_warm_path(m, s->warm_path, error);
    return status == ERNIE_OK ? ern_experts_open(&m->experts, &options, error) : status;
}

ERN_FN uint64_t ern_model_held(const ernie_model *m)
{
    const uint64_t slots = m->experts ? ern_experts_bytes(m->experts) : 0;
    return ern_meter_bytes((ern_meter *)&m->meter) - slots + (m->view.mapped ? m->n_bytes : 0);
}

ERN_FN uint64_t ern_model_slots(const ernie_model *m, uint64_t more)
{
    const ern_header *h = m->format.header;
    const uint64_t lent = m->budget->lent, spare = lent > ERN_PLAN_SPARE ? lent : ERN_PLAN_SPARE;
    const uint64_t held = ern_model_held(m), most = m->ceiling - spare;
    if (m->ceiling < spare || held > most || more > most - held) return 0;
    uint64_t low = 0, high = ern_plan_n_experts(h);
    while (low < high) {
        const uint64_t middle = (low + high + 1) / 2;
        if (ern_experts_slot_bytes(&m->format, middle) <= most - held - more) low = middle;
        else high = middle - 1;
    }
    return low;
}

/* The spare memory goes first, then slots, down to half of those that a session asks for. The
 * budget's lock is held. */
static ernie_status model_make_room(const ernie_model *m, uint64_t n_bytes, ernie_error *error)
{
    const uint64_t n = ern_model_slots(m, 0), now = ern_experts_n_slots(m->experts);
    if (n >= now) return ERNIE_OK;
    ERN_FAIL_IF(n < (ern_plan_slots_min(m->format.header) + 1) / 2, error, ERNIE_NO_MEMORY,
                "no memory for %s under a ceiling of %s: %s are held, %s of experts",
                ern_bytes(n_bytes).text, ern_bytes(m->ceiling).text,
                ern_bytes(ern_model_held(m)).text, ern_bytes(ern_experts_bytes(m->experts)).text);
    return ern_experts_resize(m->experts, ern_experts_slot_bytes(&m->format, n), error);
}

ERN_FN ernie_status ern_model_borrow(const ernie_model *m, uint64_t n_bytes, ernie_error *error)
{
    if (!m->experts) return ERNIE_OK;
    ern_mutex_lock(&m->budget->lock);
    m->budget->lent += n_bytes;
    const ernie_status status = model_make_room(m, n_bytes, error);
    if (status != ERNIE_OK) m->budget->lent -= n_bytes;
    ern_mutex_unlock(&m->budget->lock);
    return status;
}

/* Experts get the memory back as far as it is to be had. */
ERN_FN void ern_model_give_back(const ernie_model *m, uint64_t n_bytes)
{
    if (!m->experts) return;
    ern_mutex_lock(&m->budget->lock);
    m->budget->lent -= n_bytes;
    const uint64_t n = ern_model_slots(m, 0), now = ern_experts_n_slots(m->experts);
    if (now && n > now)
        ern_experts_resize(m->experts, ern_experts_slot_bytes(&m->format, n), NULL);
    ern_mutex_unlock(&m->budget->lock);
}

static ernie_status model_open_text(ernie_model *m, ernie_error *error)
{
    const ern_header *h = m->format.header;
    if (m->format.tokenizer) {
        const ern_section *s = &h->section[ERN_SECTION_TOKENIZER];
        const ernie_status status = ern_tokenizer_open(&m->tokenizer, m->format.data + s->offset,
                                                       s->n_bytes, &m->allocator, error);
        if (status != ERNIE_OK) return status;
        const uint32_t n = ern_tokenizer_n_tokens(m->tokenizer);
        ERN_FAIL_IF(n > h->hparams.vocab_size, error, ERNIE_FORMAT,
                    "the tokenizer has %u tokens, the model's vocabulary %u", n,
                    h->hparams.vocab_size);
    }
    m->chat = (ern_chat){ .tokenizer = m->tokenizer, .begin_id = -1, .turn_end_id = -1 };
    if (m->format.chat) {
        m->chat.format = m->format.chat->format;
        m->chat.begin_id = m->format.chat->begin_id;
        m->chat.turn_end_id = m->format.chat->turn_end_id;
    }
    return ERNIE_OK;
}

static ernie_status model_open_backend(ernie_model *m, const ernie_model_options *o,
                                       ernie_error *error)
{
    m->ops = ern_backend_find(o->backend);
    ERN_FAIL_IF(!m->ops, error, ERNIE_UNSUPPORTED,
                "backend \"%s\" is not part of this build; it offers \"cpu\"", o->backend);
    const ern_backend_options options = { .cpu = o->cpu,
                                          .allocator = &m->allocator,
                                          .log = &m->log,
                                          .experts = m->experts,
                                          .look_ahead = m->experts && o->stream->look_ahead };
    return m->ops->open(&m->backend, &m->weights, &options, error);
}

/* The file's bytes lie on huge pages now. What a forward step under way still reads stays mapped. */
static void model_move(void *user, const unsigned char *copy)
{
    ernie_model *m = user;
    ern_weights_place(&m->copied, &m->format, copy, m->layers + m->format.header->hparams.n_layers);
    atomic_store_explicit(&m->in_use, &m->copied, memory_order_release);
}

/* An application with its own allocator has its own ideas about memory: nothing is copied there. */
static ernie_status model_open_huge(ernie_model *m, const ernie_model_options *o,
                                    ernie_error *error)
{
    if (!m->view.mapped || o->no_copy || o->allocator || o->memory) return ERNIE_OK;
    const ern_huge_options options = { .data = m->view.data,
                                       .n_bytes = (size_t)m->view.n_bytes,
                                       .mapped = true,
                                       .allocator = &m->allocator,
                                       .done = model_move,
                                       .user = m };
    return ern_huge_open(&m->huge, &options, error);
}

static ernie_status model_fill(ernie_model *m, const model_origin *from,
                               const ernie_model_options *o, ernie_error *error)
{
    ernie_status status = ern_format_read(&m->format, m->view.data, m->n_bytes, error);
    if (status != ERNIE_OK) return status;
    m->budget = ern_alloc_zero(&m->allocator, sizeof *m->budget);
    ERN_FAIL_IF(!m->budget, error, ERNIE_NO_MEMORY, "no memory for a model's %zu bytes",
                sizeof *m->budget);
    const uint32_t n = m->format.header->hparams.n_layers;
    m->layers = ern_alloc_zero(&m->allocator, 2 * n * sizeof *m->layers);
    ERN_FAIL_IF(!m->layers, error, ERNIE_NO_MEMORY, "no memory for the table of %u layers", n);
    ern_weights_place(&m->weights, &m->format, m->view.data, m->layers);
    atomic_init(&m->in_use, &m->weights);
    model_describe_types(m);
    status = model_open_text(m, error);
    if (status == ERNIE_OK) status = model_open_experts(m, from, o, error);
    if (status == ERNIE_OK) status = model_open_backend(m, o, error);
    if (status == ERNIE_OK) status = model_open_huge(m, o, error);
    if (status == ERNIE_OK && o->verify)
        status = ern_model_verify(m, o->progress, o->progress_user, o->cancel, error);
    return status;
}

ERN_FN ernie_status ern_model_open(ernie_model **out, const char *path, const void *memory,
                                   size_t memory_bytes, const ernie_source *source,
                                   const ernie_model_options *options, ernie_error *error)
{
    static const ernie_stream_options stream = ERNIE_STREAM_OPTIONS_INIT;
    ernie_model_options given = *options;
    const ernie_model_options *o = &given;
    if (!given.stream) given.stream = &stream;
    const ernie_allocator *allocator = o->allocator ? o->allocator : ern_allocator_default();
    const model_origin from = { path, source, memory, memory_bytes };
    ernie_model *m = ern_alloc_zero(allocator, sizeof *m);
    *out = NULL;
    ERN_FAIL_IF(!m, error, ERNIE_NO_MEMORY, "no memory for a model's %zu bytes", sizeof *m);
    ern_meter_begin(&m->meter, allocator);
    m->allocator = m->meter.allocator;
    m->log = (ern_log){ o->log, o->log_user };
    ernie_status status = model_open_bytes(m, &from, o, error);
    if (status == ERNIE_OK) status = model_fill(m, &from, o, error);
    if (status != ERNIE_OK) {
        ern_model_close(m);
        return status;
    }
    *out = m;
    return ERNIE_OK;
}

/* A list that cannot be written is no reason to fail: the next start is slower for a while. */
static void model_close_experts(ernie_model *m)
{
    ernie_error error;
    if (m->experts && m->warm_path && m->budget->warmed
        && ern_experts_save(m->experts, m->warm_path, &error) != ERNIE_OK)
        ern_log_write(&m->log, ERNIE_LOG_WARN, "the list of experts was not kept: %s",
                      error.message);
    ern_experts_close(m->experts);
    if (m->warm_path) ern_free(&m->allocator, m->warm_path, strlen(m->warm_path) + 1);
}

ERN_FN void ern_model_close(ernie_model *m)
{
    if (!m) return;
    const ernie_allocator own = m->meter.inner, allocator = m->allocator;
    ern_huge_close(m->huge); /* its thread writes the tables */
    if (m->ops) m->ops->close(m->backend);
    model_close_experts(m);
    ern_tokenizer_close(m->tokenizer);
    if (m->layers)
        ern_free(&allocator, m->layers,
                 2 * m->format.header->hparams.n_layers * sizeof *m->layers);
    ern_file_view_close(&m->view);
    ern_free(&allocator, m->budget, m->budget ? sizeof *m->budget : 0);
    ern_free(&own, m, sizeof *m);
}

/* ---- What the file says -------------------------------------------------------------------- */

static uint64_t model_record_weights(const ern_record *r)
{
    return (uint64_t)r->n_rows * r->n_cols + (uint64_t)r->n_rows2 * r->n_cols2;
}

/* Parameters and bytes, all of them and those that one token uses. */
static void model_count(const ernie_model *m, ernie_model_info *info)
{
    const ern_hparams *hp = &m->format.header->hparams;
    uint64_t expert_weights = 0, expert_bytes = 0;
    for (uint32_t i = 0; i < m->format.header->n_records; i++) {
        const ern_record *r = &m->format.records[i];
        if (r->layer != ERN_NO_LAYER && r->layer >= hp->n_layers) continue;
        info->n_parameters += model_record_weights(r);
        if (r->kind == ERN_EXPERT) {
            expert_weights += model_record_weights(r);
            expert_bytes += r->n_bytes;
            continue;
        }
        info->n_parameters_active += model_record_weights(r);
        /* One row of an untied embedding is read; a tied one is the head and read whole. */
        info->bytes_per_token +=
            r->kind == ERN_EMBED && !hp->tied ? r->n_bytes / r->n_rows : r->n_bytes;
    }
    if (hp->n_experts == 0) return;
    info->n_parameters_active += expert_weights / hp->n_experts * hp->moe_k;
    info->bytes_per_token += expert_bytes / hp->n_experts * hp->moe_k;
}

ERN_FN uint32_t ern_model_n_tokens(const ernie_model *m)
{
    const uint32_t vocab = m->format.header->hparams.vocab_size;
    return m->tokenizer ? ern_tokenizer_n_tokens(m->tokenizer) : vocab;
}

static void model_info_shape(const ern_hparams *hp, ernie_model_info *i)
{
    i->n_layers = hp->n_layers;
    i->hidden_size = hp->hidden_size;
    i->intermediate_size = hp->intermediate_size;
    i->n_heads = hp->n_heads;
    i->n_kv_heads = hp->n_kv_heads;
    i->head_dim = hp->head_dim;
    i->vocab_size = hp->vocab_size;
    i->context_max = hp->context_max;
    i->n_experts = hp->n_experts;
    i->moe_k = hp->moe_k;
    i->moe_intermediate_size = hp->moe_intermediate_size;
    i->n_shared_experts = hp->n_shared_experts;
    i->moe_layer_start = hp->moe_layer_start;
    i->moe_layer_end = hp->moe_layer_end;
    i->moe_layer_interval = hp->moe_layer_interval;
    i->n_mtp_layers = hp->n_mtp_layers;
    i->tied = hp->tied != 0;
    i->rope_theta = hp->rope_theta;
    i->rms_norm_eps = hp->rms_norm_eps;
    i->bos_id = hp->bos_id;
    i->eos_id = hp->eos_id;
    i->pad_id = hp->pad_id;
}

ERN_FN void ern_model_info(const ernie_model *m, ernie_model_info *i)
{
    const ern_header *h = m->format.header;
    i->format_version = h->version;
    i->name = h->name;
    i->architecture = h->architecture;
    i->types = m->types;
    i->cpu = m->ops->describe(m->backend);
    model_info_shape(&h->hparams, i);
    i->n_tokens = ern_model_n_tokens(m);
    i->chat_format = (ernie_chat_format)m->chat.format;
    if (m->format.generation) {
        i->temperature = m->format.generation->temperature;
        i->top_p = m->format.generation->top_p;
    }
    i->n_bytes = m->format.n_bytes;
    model_count(m, i);
    memcpy(i->id, h->weights_id, sizeof i->id);
    i->pages = m->experts       ? "streamed"
               : m->huge        ? ern_huge_state(m->huge)
               : m->view.mapped ? "mapped"
                                : "memory";
    i->expert_bytes = h->expert_bytes;
    i->n_moe_layers = ern_n_moe_layers(&h->hparams);
    i->streams = m->experts != NULL;
}

ERN_FN void ern_model_record_info(const ernie_model *m, size_t index, ernie_record_info *info)
{
    static const char *const pairs[ERN_N_TYPES][ERN_N_TYPES] = {
        { "f32", "f32+f16", "f32+bf16", "f32+w8", "f32+w4", "f32+c4", "f32+c3", "f32+c2" },
        { "f16+f32", "f16", "f16+bf16", "f16+w8", "f16+w4", "f16+c4", "f16+c3", "f16+c2" },
        { "bf16+f32", "bf16+f16", "bf16", "bf16+w8", "bf16+w4", "bf16+c4", "bf16+c3", "bf16+c2" },
        { "w8+f32", "w8+f16", "w8+bf16", "w8", "w8+w4", "w8+c4", "w8+c3", "w8+c2" },
        { "w4+f32", "w4+f16", "w4+bf16", "w4+w8", "w4", "w4+c4", "w4+c3", "w4+c2" },
        { "c4+f32", "c4+f16", "c4+bf16", "c4+w8", "c4+w4", "c4", "c4+c3", "c4+c2" },
        { "c3+f32", "c3+f16", "c3+bf16", "c3+w8", "c3+w4", "c3+c4", "c3", "c3+c2" },
        { "c2+f32", "c2+f16", "c2+bf16", "c2+w8", "c2+w4", "c2+c4", "c2+c3", "c2" },
    };
    const ern_record *r = &m->format.records[index];
    ern_record_name(r, m->format.header->hparams.n_layers, info->name_buffer);
    info->name = info->name_buffer;
    info->type = pairs[r->type][r->kind == ERN_EXPERT ? r->type2 : r->type];
    info->n_rows = r->n_rows;
    info->n_cols = r->n_cols;
    info->offset = r->offset;
    info->n_bytes = r->n_bytes;
    info->checksum = r->checksum;
}

ERN_FN ernie_status ern_model_read_rate(const ernie_model *m, double seconds,
                                        const ernie_cancel *cancel, double *rate,
                                        ernie_error *error)
{
    ERN_FAIL_IF(!m->experts, error, ERNIE_UNSUPPORTED,
                "the model is in memory: nothing is read from disk");
    const uint64_t bytes = ern_experts_probe_bytes(m->experts);
    ernie_status status = ern_model_borrow(m, bytes, error);
    if (status != ERNIE_OK) return status;
    status = ern_experts_probe(m->experts, seconds, cancel, rate, error);
    ern_model_give_back(m, bytes);
    return status;
}

static ernie_status model_verify(const ernie_model *m, ernie_progress_fn progress, void *user,
                                 const ernie_cancel *cancel, ernie_error *error)
{
    const ern_format *f = &m->format;
    ern_format again;
    uint64_t done = 0;
    ernie_status status = ern_format_read(&again, f->data, f->n_bytes, error);
    for (uint32_t i = 0; status == ERNIE_OK && i < f->header->n_records; i++) {
        const bool on_disk = m->experts && f->records[i].kind == ERN_EXPERT;
        ERN_FAIL_IF(ern_cancelled(cancel), error, ERNIE_CANCELLED,
                    "cancelled after checking %llu of %llu bytes", (unsigned long long)done,
                    (unsigned long long)f->n_bytes);
        status = on_disk ? ern_experts_verify(m->experts, i, cancel, error)
                         : ern_format_verify_record(f, i, cancel, error);
        done += f->records[i].n_bytes;
        if (status == ERNIE_OK && progress && progress("verifying", done, f->n_bytes, user))
            status =
                ern_error_set(error, ERNIE_CANCELLED, "cancelled after checking %llu of %llu bytes",
                              (unsigned long long)done, (unsigned long long)f->n_bytes);
    }
    if (status == ERNIE_OK)
        status = ern_format_verify_gaps(f, m->experts ? m->view.n_bytes : f->n_bytes, cancel, error);
    if (status == ERNIE_OK && progress) progress("verifying", f->n_bytes, f->n_bytes, user);
    return status;
}

ERN_FN ernie_status ern_model_verify(const ernie_model *m, ernie_progress_fn progress, void *user,
                                     const ernie_cancel *cancel, ernie_error *error)
{
    const uint64_t bytes = m->experts ? ern_experts_verify_bytes(m->experts) : 0;
    ernie_status status = ern_model_borrow(m, bytes, error);
    if (status != ERNIE_OK) return status;
    status = model_verify(m, progress, user, cancel, error);
    ern_model_give_back(m, bytes);
    return status;
}

#undef MODEL_READERS
