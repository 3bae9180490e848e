/* Opening a model: bytes to a checked file, the file to typed tables, tables to a backend. Owns
 * nothing of sessions; refuses to know how products are computed. */
#include "model.h"

#include "../backends/backend.h"

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

static ernie_status model_read_source(ernie_model *m, const ernie_source *source,
                                      const ernie_model_options *o, ernie_error *error)
{
    const size_t piece = (size_t)4 << 20;
    ERN_FAIL_IF(source->n_bytes == 0 || source->n_bytes > SIZE_MAX - ERN_CACHE_LINE, error,
                ERNIE_FORMAT, "a source of %llu bytes holds no model",
                (unsigned long long)source->n_bytes);
    unsigned char *data = ern_alloc_filled(&m->allocator, (size_t)source->n_bytes);
    ERN_FAIL_IF(!data, error, ERNIE_NO_MEMORY, "no memory for a model of %llu bytes",
                (unsigned long long)source->n_bytes);
    m->view = (ern_file_view){ data, source->n_bytes, false, &m->allocator };
    for (uint64_t at = 0; at < source->n_bytes; at += piece) {
        const size_t n = (size_t)(source->n_bytes - at < piece ? source->n_bytes - at : piece);
        ERN_FAIL_IF(source->read(source->user, at, data + at, n) != 0, error, ERNIE_IO,
                    "the source failed to read %zu bytes at offset %llu of %llu", n,
                    (unsigned long long)at, (unsigned long long)source->n_bytes);
        const bool stop =
            o->progress && o->progress("reading", at + n, source->n_bytes, o->progress_user) != 0;
        ERN_FAIL_IF(stop || ern_cancelled(o->cancel), error, ERNIE_CANCELLED,
                    "cancelled after reading %llu of %llu bytes", (unsigned long long)(at + n),
                    (unsigned long long)source->n_bytes);
    }
    return ERNIE_OK;
}

static ernie_status model_open_bytes(ernie_model *m, const char *path, const void *memory,
                                     size_t memory_bytes, const ernie_source *source,
                                     const ernie_model_options *o, ernie_error *error)
{
    ERN_FAIL_IF(ern_cancelled(o->cancel), error, ERNIE_CANCELLED, "opening was cancelled");
    if (path)
        return ern_file_view_open(&m->view, path, o->no_mmap, &m->allocator, o->progress,
                                  o->progress_user, o->cancel, error);
    if (source) return model_read_source(m, source, o, error);
    ERN_FAIL_IF((uintptr_t)memory % ERN_CACHE_LINE != 0, error, ERNIE_INVALID,
                "the model in memory starts %zu bytes after a multiple of 64",
                (size_t)((uintptr_t)memory % ERN_CACHE_LINE));
    /* Neither mapped nor allocated: closing the view leaves the caller's memory alone. */
    m->view = (ern_file_view){ .data = memory, .n_bytes = memory_bytes };
    return ERNIE_OK;
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
                                          .log = &m->log };
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
    if (!m->view.mapped || o->no_copy || o->allocator) return ERNIE_OK;
    const ern_huge_options options = { .data = m->view.data,
                                       .n_bytes = (size_t)m->view.n_bytes,
                                       .mapped = true,
                                       .allocator = &m->allocator,
                                       .done = model_move,
                                       .user = m };
    return ern_huge_open(&m->huge, &options, error);
}

static ernie_status model_fill(ernie_model *m, const ernie_model_options *o, ernie_error *error)
{
    ernie_status status = ern_format_read(&m->format, m->view.data, m->view.n_bytes, error);
    if (status != ERNIE_OK) return status;
    const uint32_t n = m->format.header->hparams.n_layers;
    m->layers = ern_alloc_zero(&m->allocator, 2 * n * sizeof *m->layers);
    ERN_FAIL_IF(!m->layers, error, ERNIE_NO_MEMORY, "no memory for the table of %u layers", n);
    ern_weights_place(&m->weights, &m->format, m->view.data, m->layers);
    atomic_init(&m->in_use, &m->weights);
    model_describe_types(m);
    status = model_open_text(m, error);
    if (status == ERNIE_OK) status = model_open_backend(m, o, error);
    if (status == ERNIE_OK) status = model_open_huge(m, o, error);
    if (status == ERNIE_OK && o->verify)
        status = ern_model_verify(m, o->progress, o->progress_user, o->cancel, error);
    return status;
}

ERN_FN ernie_status ern_model_open(ernie_model **out, const char *path, const void *memory,
                                   size_t memory_bytes, const ernie_source *source,
                                   const ernie_model_options *o, ernie_error *error)
{
    const ernie_allocator *allocator = o->allocator ? o->allocator : ern_allocator_default();
    ernie_model *m = ern_alloc_zero(allocator, sizeof *m);
    *out = NULL;
    ERN_FAIL_IF(!m, error, ERNIE_NO_MEMORY, "no memory for a model's %zu bytes", sizeof *m);
    m->allocator = *allocator;
    m->log = (ern_log){ o->log, o->log_user };
    ernie_status status = model_open_bytes(m, path, memory, memory_bytes, source, o, error);
    if (status == ERNIE_OK) status = model_fill(m, o, error);
    if (status != ERNIE_OK) {
        ern_model_close(m);
        return status;
    }
    *out = m;
    return ERNIE_OK;
}

ERN_FN void ern_model_close(ernie_model *m)
{
    if (!m) return;
    const ernie_allocator allocator = m->allocator;
    ern_huge_close(m->huge); /* its thread writes the tables */
    if (m->ops) m->ops->close(m->backend);
    ern_tokenizer_close(m->tokenizer);
    if (m->layers)
        ern_free(&allocator, m->layers,
                 2 * m->format.header->hparams.n_layers * sizeof *m->layers);
    ern_file_view_close(&m->view);
    ern_free(&allocator, m, sizeof *m);
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
    i->pages = m->huge ? ern_huge_state(m->huge) : m->view.mapped ? "mapped" : "memory";
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

ERN_FN ernie_status ern_model_verify(const ernie_model *m, ernie_progress_fn progress, void *user,
                                     const ernie_cancel *cancel, ernie_error *error)
{
    const ern_format *f = &m->format;
    ern_format again;
    uint64_t done = 0;
    ernie_status status = ern_format_read(&again, f->data, f->n_bytes, error);
    for (uint32_t i = 0; status == ERNIE_OK && i < f->header->n_records; i++) {
        status = ern_format_verify_record(f, i, cancel, error);
        done += f->records[i].n_bytes;
        if (status == ERNIE_OK && progress && progress("verifying", done, f->n_bytes, user))
            status =
                ern_error_set(error, ERNIE_CANCELLED, "cancelled after checking %llu of %llu bytes",
                              (unsigned long long)done, (unsigned long long)f->n_bytes);
    }
    if (status == ERNIE_OK) status = ern_format_verify_gaps(f, cancel, error);
    if (status == ERNIE_OK && progress) progress("verifying", f->n_bytes, f->n_bytes, user);
    return status;
}
