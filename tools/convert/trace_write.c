/* Writing a trace: a batch is gathered layer by layer and goes to the file when it is complete. */
#include "trace.h"
#include "../../src/hash.h"
#include "../../src/model.h"

struct ern_trace_out {
    ernie_allocator allocator;
    ern_file_out *file;
    ern_hash hash;
    ern_trace_head head;
    uint16_t *layers;  /* [n_layers] */
    uint16_t *experts; /* [n_layers][batch_max][moe_k] room for a batch */
    uint32_t batch_max;
    ern_trace_mark batch; /* under way */
    uint32_t n_gathered;  /* layers of it */
    uint64_t n_batches, n_tokens;
    ernie_error failure; /* the first one; code ERNIE_OK while there is none */
};

static size_t trace_out_choices(const ern_trace_out *out, size_t n_tokens)
{
    return (size_t)out->head.n_layers * n_tokens * out->head.moe_k;
}

static void trace_out_put(ern_trace_out *out, const void *data, size_t n)
{
    if (out->failure.code != ERNIE_OK) return;
    ern_hash_add(&out->hash, data, n);
    ern_file_out_write(out->file, data, n, &out->failure);
}

static void trace_out_free(ern_trace_out *out)
{
    const ernie_allocator allocator = out->allocator;
    if (out->layers) ern_free(&allocator, out->layers, out->head.n_layers * sizeof *out->layers);
    if (out->experts)
        ern_free(&allocator, out->experts,
                 trace_out_choices(out, out->batch_max) * sizeof *out->experts);
    ern_free_aligned(&allocator, out, sizeof *out);
}

ERN_FN void ern_trace_out_abandon(ern_trace_out *out)
{
    if (!out) return;
    if (out->file) ern_file_out_abandon(out->file);
    trace_out_free(out);
}

static void trace_out_begin_file(ern_trace_out *out, const uint16_t *layers)
{
    ern_trace_head *head = &out->head;
    memcpy(head->magic, ERN_TRACE_MAGIC, sizeof head->magic);
    head->version = head->version_min = ERN_TRACE_VERSION;
    head->name[sizeof head->name - 1] = 0;
    head->checksum = ern_hash64(head, offsetof(ern_trace_head, checksum));
    memcpy(out->layers, layers, head->n_layers * sizeof *layers);
    ern_hash_begin(&out->hash);
    trace_out_put(out, head, sizeof *head);
    trace_out_put(out, out->layers, head->n_layers * sizeof *out->layers);
}

ERN_FN ernie_status ern_trace_out_begin(ern_trace_out **result, const char *path,
                                        const ern_trace_head *head, const uint16_t *layers,
                                        uint32_t batch_max, const ernie_allocator *allocator,
                                        ernie_error *error)
{
    if (!allocator) allocator = ern_allocator_default();
    *result = NULL;
    ern_trace_out *out = ern_alloc_aligned(allocator, sizeof *out);
    ERN_FAIL_IF(!out, error, ERNIE_NO_MEMORY, "no memory for a trace");
    memset(out, 0, sizeof *out);
    out->allocator = *allocator;
    out->head = *head;
    out->batch_max = batch_max;
    out->layers = ern_alloc(allocator, head->n_layers * sizeof *out->layers);
    out->experts = ern_alloc(allocator, trace_out_choices(out, batch_max) * sizeof *out->experts);
    ernie_status status = ERNIE_OK;
    if (!out->layers || !out->experts)
        status = ern_error_set(error, ERNIE_NO_MEMORY, "no memory to trace batches of %u tokens",
                               batch_max);
    else
        status = ern_file_out_open(&out->file, path, &out->allocator, error);
    if (status != ERNIE_OK) {
        ern_trace_out_abandon(out);
        return status;
    }
    trace_out_begin_file(out, layers);
    *result = out;
    return ERNIE_OK;
}

ERN_FN ernie_status ern_trace_out_open(ern_trace_out **out, const char *path,
                                       const ernie_model *model, uint32_t batch_max,
                                       const ernie_allocator *allocator, ernie_error *error)
{
    const ern_header *header = model->format.header;
    const ern_hparams *hp = &header->hparams;
    uint16_t layers[ERN_LAYERS_MAX];
    *out = NULL;
    ERN_FAIL_IF(hp->n_experts == 0, error, ERNIE_INVALID,
                "the model has no experts: there is nothing to trace");
    ern_trace_head head = { .n_model_layers = hp->n_layers,
                            .n_experts = hp->n_experts,
                            .moe_k = hp->moe_k };
    memcpy(head.weights_id, header->weights_id, sizeof head.weights_id);
    memcpy(head.name, header->name, sizeof head.name);
    for (uint32_t i = 0; i < hp->n_layers; i++)
        if (ern_layer_is_moe(hp, i)) layers[head.n_layers++] = (uint16_t)i;
    return ern_trace_out_begin(out, path, &head, layers, batch_max, allocator, error);
}

static void trace_out_write_batch(ern_trace_out *out)
{
    const size_t n = trace_out_choices(out, (size_t)out->batch.n_tokens);
    trace_out_put(out, &out->batch, sizeof out->batch);
    trace_out_put(out, out->experts, n * sizeof *out->experts);
    out->n_batches++;
    out->n_tokens += out->batch.n_tokens;
    out->n_gathered = 0;
}

ERN_FN void ern_trace_out_route(ern_trace_out *out, uint32_t position, bool decoded, uint32_t layer,
                                uint32_t n_tokens, const int32_t *experts)
{
    const size_t n = (size_t)n_tokens * out->head.moe_k;
    if (layer == out->layers[0]) {
        out->n_gathered = 0;
        out->batch = (ern_trace_mark){ .kind = decoded ? ERN_TRACE_DECODED : ERN_TRACE_PROMPT,
                                       .position = position,
                                       .n_tokens = n_tokens };
    }
    if (out->failure.code != ERNIE_OK) return;
    if (n_tokens > out->batch_max || n_tokens != out->batch.n_tokens
        || layer != out->layers[out->n_gathered]) {
        ern_error_set(&out->failure, ERNIE_INVALID,
                      "layer %u of %u tokens does not belong to the trace's batch of %llu", layer,
                      n_tokens, (unsigned long long)out->batch.n_tokens);
        return;
    }
    uint16_t *to = out->experts + out->n_gathered * n;
    for (size_t i = 0; i < n; i++) to[i] = (uint16_t)experts[i];
    if (++out->n_gathered == out->head.n_layers) trace_out_write_batch(out);
}

ERN_FN ernie_status ern_trace_out_commit(ern_trace_out *out, ernie_error *error)
{
    const ern_trace_mark end = { .kind = ERN_TRACE_END, .n_tokens = out->n_tokens };
    const uint64_t tail[2] = { out->n_batches, ern_hash_end64(&out->hash) };
    trace_out_put(out, &end, sizeof end);
    trace_out_put(out, tail, sizeof tail);
    ernie_status status = out->failure.code;
    if (status == ERNIE_OK) {
        status = ern_file_out_commit(out->file, error);
        out->file = NULL;
    } else if (error) {
        *error = out->failure;
    }
    ern_trace_out_abandon(out);
    return status;
}
