/* Both models layer by layer through the documents, as calibration goes (calibrate.c), and each
 * norm fitted on the way. */
#include "tune_inner.h"

#define TUNE_SLICE        ((size_t)2048) /* tokens of a feed-forward step */
#define TUNE_SCALE_TOKENS ((size_t)4096) /* are enough for one number */
#define TUNE_LOGITS_BYTES ((size_t)32 << 20)

/* ---- What is refused ------------------------------------------------------------------------- */

ERN_FN ernie_status ern_tune_check(const ernie_model *model, const ernie_model *base,
                                   ernie_error *error)
{
    static const struct {
        const char *name;
        size_t offset;
    } fields[] = {
        { "n_layers", offsetof(ern_hparams, n_layers) },
        { "hidden_size", offsetof(ern_hparams, hidden_size) },
        { "n_heads", offsetof(ern_hparams, n_heads) },
        { "n_kv_heads", offsetof(ern_hparams, n_kv_heads) },
        { "head_dim", offsetof(ern_hparams, head_dim) },
        { "intermediate_size", offsetof(ern_hparams, intermediate_size) },
        { "vocab_size", offsetof(ern_hparams, vocab_size) },
        { "n_experts", offsetof(ern_hparams, n_experts) },
        { "moe_k", offsetof(ern_hparams, moe_k) },
        { "moe_intermediate_size", offsetof(ern_hparams, moe_intermediate_size) },
        { "shared_intermediate_size", offsetof(ern_hparams, shared_intermediate_size) },
        { "moe_layer_start", offsetof(ern_hparams, moe_layer_start) },
        { "moe_layer_end", offsetof(ern_hparams, moe_layer_end) },
        { "moe_layer_interval", offsetof(ern_hparams, moe_layer_interval) },
    };
    const ern_header *a = model->format.header, *b = base->format.header;
    ERN_FAIL_IF(strcmp(a->architecture, b->architecture) != 0, error, ERNIE_INVALID,
                "the models have different shapes: architecture %s, and in the base %s",
                a->architecture, b->architecture);
    for (size_t i = 0; i < ERN_COUNT(fields); i++) {
        uint32_t x, y;
        memcpy(&x, (const char *)&a->hparams + fields[i].offset, sizeof x);
        memcpy(&y, (const char *)&b->hparams + fields[i].offset, sizeof y);
        ERN_FAIL_IF(x != y, error, ERNIE_INVALID,
                    "the models have different shapes: %s is %u, and in the base %u",
                    fields[i].name, x, y);
    }
    const uint32_t x = ern_model_n_tokens(model), y = ern_model_n_tokens(base);
    ERN_FAIL_IF(x != y, error, ERNIE_INVALID,
                "the models have different vocabularies: %u tokens, and in the base %u", x, y);
    return ERNIE_OK;
}

static ernie_status tune_check_documents(tune *t, ernie_error *error)
{
    const ern_documents *d = t->documents;
    const uint32_t context = (uint32_t)ern_min_size(
        t->hp->context_max, t->side[TUNE_BASE].model->format.header->hparams.context_max);
    const int32_t *ids = d->ids;
    for (size_t i = 0; i < d->n; i++) {
        ERN_FAIL_IF(d->n_ids[i] > context, error, ERNIE_INVALID,
                    "document %zu has %u tokens, the models' context %u", i, d->n_ids[i], context);
        for (uint32_t j = 0; j < d->n_ids[i]; j++, ids++)
            ERN_FAIL_IF(*ids < 0 || (uint32_t)*ids >= t->hp->vocab_size, error, ERNIE_INVALID,
                        "document %zu: token %u has id %d; ids are 0 to %u", i, j, (int)*ids,
                        t->hp->vocab_size - 1);
        t->n_tokens += d->n_ids[i];
        t->longest = ern_max_size(t->longest, d->n_ids[i]);
    }
    ERN_FAIL_IF(t->n_tokens == 0, error, ERNIE_INVALID, "there are no tokens to learn from");
    return ERNIE_OK;
}

/* ---- Opening --------------------------------------------------------------------------------- */

static ernie_status tune_plan(tune *t, ernie_error *error)
{
    const size_t h = t->hp->hidden_size, vocab = t->hp->vocab_size;
    const size_t n_norms = 2 * (size_t)t->hp->n_layers + 1;
    t->stride = (t->n_tokens + TUNE_SCALE_TOKENS - 1) / TUNE_SCALE_TOKENS;
    t->n_scaled = (t->n_tokens + t->stride - 1) / t->stride;
    const size_t slice = ern_max_size(t->longest, ern_min_size(t->n_tokens, TUNE_SLICE));
    t->n_rows = ern_max_size(1, ern_min_size(TUNE_LOGITS_BYTES / sizeof(float) / vocab, slice));
    t->n_steps = (uint64_t)t->n_tokens * (2 + 4 * (uint64_t)t->hp->n_layers) + 2 * t->n_scaled;
    t->state_options = (ern_state_options){
        .n_ctx = (uint32_t)t->longest,
        .n_batch = (uint32_t)slice,
        .n_threads = t->options.n_threads ? t->options.n_threads : ern_cpu_count(),
        .kv = ERN_KV_F32,
        .allocator = &t->allocator,
        .cancel = t->options.stop,
        .keep_inputs = true,
    };
    t->sums_bytes = ern_max_size(2 * h, t->n_rows * TUNE_N_SUMS) * sizeof *t->sums;
    t->norms_bytes = n_norms * h * sizeof *t->norms;
    ERN_FAIL_IF(!ern_mul_size(&t->stream_bytes, t->n_tokens, h * sizeof(float))
                    || !ern_mul_size(&t->logits_bytes, t->n_rows * sizeof(float), vocab),
                error, ERNIE_NO_MEMORY, "%zu tokens of %zu channels cannot be addressed",
                t->n_tokens, h);
    return ERNIE_OK;
}

static ernie_status tune_open_side(tune *t, tune_side *side, ernie_error *error)
{
    const ernie_allocator *a = &t->allocator;
    const ern_backend_ops *ops = side->model->ops;
    ERN_FAIL_IF(!ops->inputs, error, ERNIE_UNSUPPORTED,
                "backend \"%s\" does not show what its products read", ops->name);
    side->stream = ern_alloc_aligned(a, t->stream_bytes);
    side->logits = ern_alloc_aligned(a, t->logits_bytes);
    side->inverse = ern_alloc(a, t->n_tokens * sizeof *side->inverse);
    ERN_FAIL_IF(!side->stream || !side->logits || !side->inverse, error, ERNIE_NO_MEMORY,
                "no memory for the states of %zu tokens, %zu MiB: fewer documents need less",
                t->n_tokens, t->stream_bytes >> 20);
    return ops->state_open(&side->state, side->model->backend, &t->state_options, error);
}

static ernie_status tune_open(tune *t, const char *path, ernie_error *error)
{
    const ernie_allocator *a = &t->allocator;
    ernie_status status =
        ern_tune_check(t->side[TUNE_MODEL].model, t->side[TUNE_BASE].model, error);
    if (status == ERNIE_OK) status = tune_check_documents(t, error);
    if (status == ERNIE_OK) status = tune_plan(t, error);
    if (status != ERNIE_OK) return status;
    t->norms = ern_alloc(a, t->norms_bytes);
    t->sums = ern_alloc(a, t->sums_bytes);
    ERN_FAIL_IF(!t->norms || !t->sums, error, ERNIE_NO_MEMORY, "no memory for %zu norms",
                2 * (size_t)t->hp->n_layers + 1);
    status = ern_pool_open(&t->pool, a, t->state_options.n_threads, error);
    for (unsigned i = 0; i < 2 && status == ERNIE_OK; i++)
        status = tune_open_side(t, &t->side[i], error);
    return status == ERNIE_OK
               ? conv_out_open(&t->out, path, t->side[TUNE_MODEL].model->format.n_bytes, error)
               : status;
}

static void tune_close(tune *t)
{
    const ernie_allocator *a = &t->allocator;
    conv_out_abandon(&t->out);
    for (unsigned i = 0; i < 2; i++) {
        tune_side *side = &t->side[i];
        side->model->ops->state_close(side->state);
        ern_free_aligned(a, side->stream, t->stream_bytes);
        ern_free_aligned(a, side->logits, t->logits_bytes);
        if (side->inverse) ern_free(a, side->inverse, t->n_tokens * sizeof *side->inverse);
    }
    ern_pool_close(t->pool);
    if (t->norms) ern_free(a, t->norms, t->norms_bytes);
    if (t->sums) ern_free(a, t->sums, t->sums_bytes);
}

/* ---- Walking --------------------------------------------------------------------------------- */

ERN_FN ernie_status tune_advance(tune *t, size_t n, ernie_error *error)
{
    t->step += n;
    const bool stop =
        t->options.progress
        && t->options.progress("tuning", t->step, t->n_steps, t->options.progress_user);
    ERN_FAIL_IF(stop || atomic_load(t->options.stop), error, ERNIE_CANCELLED,
                "cancelled after %llu of %llu steps", (unsigned long long)t->step,
                (unsigned long long)t->n_steps);
    return ERNIE_OK;
}

typedef enum tune_op { TUNE_EMBED, TUNE_ATTENTION, TUNE_FFN } tune_op;

/* One operation on n tokens of a side's stream. */
static ernie_status tune_step(tune *t, tune_side *side, tune_op op, const ern_layer *layer,
                              size_t first, size_t n, ernie_error *error)
{
    const ern_backend_ops *ops = side->model->ops;
    const size_t h = t->hp->hidden_size;
    const ern_batch batch = { .tokens = t->documents->ids + first, .n_tokens = (uint32_t)n };
    ern_inputs in;
    ops->inputs(side->state, &in);
    for (size_t i = 0; i < n && op != TUNE_EMBED; i++)
        memcpy(in.stream + i * in.stream_stride, side->stream + (first + i) * h,
               h * sizeof *side->stream);
    ops->begin(side->state, &batch);
    if (op == TUNE_EMBED)
        ops->embed(side->state, &ern_model_weights(side->model)->embed);
    else if (op == TUNE_ATTENTION)
        ops->attention(side->state, 0, layer); /* every layer takes the first's cache */
    else if (layer->moe)
        ops->moe(side->state, 0, layer);
    else
        ops->ffn(side->state, 0, layer);
    const ernie_status status = ops->submit(side->state, error);
    if (status != ERNIE_OK) return status;
    ops->inputs(side->state, &in);
    for (size_t i = 0; i < n; i++)
        memcpy(side->stream + (first + i) * h, in.stream + i * in.stream_stride,
               h * sizeof *side->stream);
    return tune_advance(t, n, error);
}

/* All tokens: a document a step, but for feed-forward networks, which do not mind. All documents
 * begin at position 0, so the angles of the longest one serve after the last embedding. */
static ernie_status tune_pass(tune *t, tune_side *side, tune_op op, const ern_layer *layer,
                              ernie_error *error)
{
    ernie_status status = ERNIE_OK;
    size_t first = 0;
    for (size_t i = 0; first < t->n_tokens && status == ERNIE_OK; i++) {
        const size_t n = op == TUNE_FFN
                             ? ern_min_size(t->n_tokens - first, t->state_options.n_batch)
                             : t->documents->n_ids[i];
        if (n) status = tune_step(t, side, op, layer, first, n, error);
        first += n;
    }
    return status;
}

static ernie_status tune_passes(tune *t, tune_op op, const ern_layer *layer,
                                const ern_layer *base_layer, ernie_error *error)
{
    const ernie_status status = tune_pass(t, &t->side[TUNE_MODEL], op, layer, error);
    return status == ERNIE_OK ? tune_pass(t, &t->side[TUNE_BASE], op, base_layer, error) : status;
}

static ernie_status tune_layer(tune *t, uint32_t i, ernie_error *error)
{
    ern_layer layer = ern_model_weights(t->side[TUNE_MODEL].model)->layers[i];
    const ern_layer *base = &ern_model_weights(t->side[TUNE_BASE].model)->layers[i];
    const size_t norm = 2 * (size_t)i;
    ernie_status status = tune_fit(t, norm, layer.attn_norm, base->attn_norm, error);
    layer.attn_norm = tune_norm(t, norm);
    if (status == ERNIE_OK) status = tune_passes(t, TUNE_ATTENTION, &layer, base, error);
    if (status == ERNIE_OK) status = tune_fit(t, norm + 1, layer.ffn_norm, base->ffn_norm, error);
    layer.ffn_norm = tune_norm(t, norm + 1);
    if (status == ERNIE_OK) status = tune_passes(t, TUNE_FFN, &layer, base, error);
    return status;
}

static ernie_status tune_run(tune *t, ernie_error *error)
{
    const uint32_t n_layers = t->hp->n_layers;
    ernie_status status = tune_passes(t, TUNE_EMBED, NULL, NULL, error);
    for (uint32_t i = 0; i < n_layers && status == ERNIE_OK; i++) status = tune_layer(t, i, error);
    if (status == ERNIE_OK)
        status = tune_fit(t, 2 * (size_t)n_layers,
                          ern_model_weights(t->side[TUNE_MODEL].model)->final_norm,
                          ern_model_weights(t->side[TUNE_BASE].model)->final_norm, error);
    if (status == ERNIE_OK) status = tune_fit_scale(t, error);
    return status == ERNIE_OK ? tune_write(t, error) : status;
}

ERN_FN ernie_status ern_tune(const ernie_model *model, const ernie_model *base,
                             const ern_documents *documents, const char *out_path,
                             const ern_tune_options *options, ern_tune_report *report,
                             ernie_error *error)
{
    tune t = { .side = { { .model = model }, { .model = base } },
               .hp = &model->format.header->hparams,
               .documents = documents };
    if (options) t.options = *options;
    atomic_init(&t.never, 0);
    if (!t.options.stop) t.options.stop = &t.never;
    t.allocator = t.options.allocator ? *t.options.allocator : *ern_allocator_default();
    ernie_status status = tune_open(&t, out_path, error);
    if (status == ERNIE_OK) status = tune_run(&t, error);
    if (status == ERNIE_OK && report) {
        *report = t.report;
        report->n_tokens = t.n_tokens;
        report->file_bytes = model->format.n_bytes;
        report->factor_mean = t.factor_sum / t.report.n_factors;
    }
    tune_close(&t);
    return status;
}
