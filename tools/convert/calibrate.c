/* Layer by layer through the model: attention for each document, feed-forward networks for slices
 * of tokens whatever document they are of. The backend runs one operation a step and is then asked
 * for the rows that its products read. */
#include "calibrate_inner.h"

#define CALIB_SLICE ((size_t)2048) /* tokens of a feed-forward step */

/* ---- Opening --------------------------------------------------------------------------------- */

static ernie_status calib_check_documents(calib *c, ernie_error *error)
{
    const ern_documents *d = c->documents;
    const int32_t *ids = d->ids;
    for (size_t i = 0; i < d->n; i++) {
        ERN_FAIL_IF(d->n_ids[i] > c->hp->context_max, error, ERNIE_INVALID,
                    "document %zu has %u tokens, the model's context %u", i, d->n_ids[i],
                    c->hp->context_max);
        for (uint32_t j = 0; j < d->n_ids[i]; j++, ids++)
            ERN_FAIL_IF(*ids < 0 || (uint32_t)*ids >= c->hp->vocab_size, error, ERNIE_INVALID,
                        "document %zu: token %u has id %d; ids are 0 to %u", i, j, (int)*ids,
                        c->hp->vocab_size - 1);
        c->n_tokens += d->n_ids[i];
        c->longest = ern_max_size(c->longest, d->n_ids[i]);
    }
    ERN_FAIL_IF(c->n_tokens == 0, error, ERNIE_INVALID, "there are no tokens to learn from");
    /* Embedding and head count as a step a token, a layer as two. */
    c->n_steps = (uint64_t)c->n_tokens * (2 + 2 * (uint64_t)c->hp->n_layers);
    return ERNIE_OK;
}

static ernie_status calib_allocate(calib *c, ernie_error *error)
{
    const ernie_allocator *a = &c->allocator;
    c->stream = ern_alloc_aligned(a, c->stream_bytes);
    c->sums = ern_alloc_aligned(a, c->sums_bytes);
    c->square = ern_alloc(a, c->square_bytes);
    c->triangle = c->triangle_bytes ? ern_alloc_aligned(a, c->triangle_bytes) : NULL;
    ERN_FAIL_IF(!c->stream || !c->sums || !c->square || (c->triangle_bytes && !c->triangle), error,
                ERNIE_NO_MEMORY, "no memory for %zu tokens and the statistics of a layer, %zu MiB",
                c->n_tokens, (c->stream_bytes + c->sums_bytes + c->triangle_bytes) >> 20);
    const ernie_status status =
        conv_gram_team_open(&c->team, c->state_options.n_threads, calib_widest(c), c->options.cpu,
                            c->options.stop, a, error);
    if (status != ERNIE_OK) return status;
    return c->model->ops->state_open(&c->state, c->model->backend, &c->state_options, error);
}

static ernie_status calib_open(calib *c, ernie_error *error)
{
    const ern_header *header = c->model->format.header;
    ERN_FAIL_IF(!c->model->ops->inputs, error, ERNIE_UNSUPPORTED,
                "backend \"%s\" does not show what its products read", c->model->ops->name);
    ernie_status status = calib_check_documents(c, error);
    if (status != ERNIE_OK) return status;
    const size_t slice = ern_max_size(c->longest, ern_min_size(c->n_tokens, CALIB_SLICE));
    c->state_options = (ern_state_options){
        .n_ctx = (uint32_t)c->longest,
        .n_batch = (uint32_t)slice,
        .n_threads = c->options.n_threads ? c->options.n_threads : ern_cpu_count(),
        .kv = ERN_KV_F32,
        .allocator = &c->allocator,
        .cancel = c->options.stop,
        .keep_inputs = true,
    };
    status = conv_imatrix_out_begin(&c->out, c->hp, &c->allocator, error);
    if (status != ERNIE_OK) return status;
    memcpy(c->out.head.name, header->name, sizeof header->name);
    memcpy(c->out.head.weights_id, header->weights_id, sizeof header->weights_id);
    c->out.head.n_documents = c->documents->n;
    c->out.head.n_tokens = c->n_tokens;
    c->out.head.prior = ERN_CALIBRATE_PRIOR;
    status = calib_plan(c, error);
    return status == ERNIE_OK ? calib_allocate(c, error) : status;
}

static void calib_close(calib *c)
{
    const ernie_allocator *a = &c->allocator;
    c->model->ops->state_close(c->state);
    conv_gram_team_close(c->team);
    conv_imatrix_out_close(&c->out);
    if (c->levels) ern_free(a, c->levels, c->hp->n_layers + (size_t)1);
    if (c->grams) ern_free(a, c->grams, c->grams_max * sizeof *c->grams);
    if (c->square) ern_free(a, c->square, c->square_bytes);
    ern_free_aligned(a, c->stream, c->stream_bytes);
    ern_free_aligned(a, c->sums, c->sums_bytes);
    ern_free_aligned(a, c->triangle, c->triangle_bytes);
}

/* ---- Running --------------------------------------------------------------------------------- */

static ernie_status calib_advance(calib *c, size_t n, ernie_error *error)
{
    c->step += n;
    const bool stop =
        c->options.progress
        && c->options.progress("calibrating", c->step, c->n_steps, c->options.progress_user);
    ERN_FAIL_IF(stop || atomic_load(c->options.stop), error, ERNIE_CANCELLED,
                "cancelled after %llu of %llu steps", (unsigned long long)c->step,
                (unsigned long long)c->n_steps);
    return ERNIE_OK;
}

static void calib_copy_in(const calib *c, const ern_inputs *in, size_t first, size_t n)
{
    const size_t h = c->hp->hidden_size;
    for (size_t t = 0; t < n; t++)
        memcpy(in->stream + t * in->stream_stride, c->stream + (first + t) * h,
               h * sizeof *c->stream);
}

static void calib_copy_out(calib *c, const ern_inputs *in, size_t first, size_t n)
{
    const size_t h = c->hp->hidden_size;
    for (size_t t = 0; t < n; t++)
        memcpy(c->stream + (first + t) * h, in->stream + t * in->stream_stride,
               h * sizeof *c->stream);
}

static void calib_begin(calib *c, const int32_t *ids, size_t n)
{
    const ern_batch batch = { .tokens = ids, .n_tokens = (uint32_t)n };
    c->model->ops->begin(c->state, &batch);
}

/* All documents begin at position 0, so the angles of the longest one serve every attention step
 * after the last embedding. */
static ernie_status calib_embed(calib *c, ernie_error *error)
{
    const ern_backend_ops *ops = c->model->ops;
    const ern_weights *w = ern_model_weights(c->model);
    size_t first = 0;
    for (size_t i = 0; i < c->documents->n; i++) {
        const size_t n = c->documents->n_ids[i];
        ern_inputs in;
        if (n == 0) continue;
        calib_begin(c, c->documents->ids + first, n);
        ops->embed(c->state, &w->embed);
        ernie_status status = ops->submit(c->state, error);
        if (status != ERNIE_OK) return status;
        ops->inputs(c->state, &in);
        calib_copy_out(c, &in, first, n);
        first += n;
        status = calib_advance(c, n, error);
        if (status != ERNIE_OK) return status;
    }
    return ERNIE_OK;
}

/* Add the first n rows of what a product read. */
static void calib_add(calib *c, conv_gram *gram, const ern_input *input, size_t n)
{
    const conv_rows rows = { .x = input->x, .stride = input->stride, .n = n };
    ERN_ASSERT(input->width == gram->n_cols);
    conv_gram_add(c->team, gram, &rows);
}

/* The cache of one layer is enough: every layer takes the first's. */
static ernie_status calib_attention(calib *c, const ern_layer *layer, ernie_error *error)
{
    const ern_backend_ops *ops = c->model->ops;
    size_t first = 0;
    for (size_t i = 0; i < c->documents->n; i++) {
        const size_t n = c->documents->n_ids[i];
        ern_inputs in;
        if (n == 0) continue;
        ops->inputs(c->state, &in);
        calib_copy_in(c, &in, first, n);
        calib_begin(c, c->documents->ids + first, n);
        ops->attention(c->state, 0, layer);
        ernie_status status = ops->submit(c->state, error);
        if (status != ERNIE_OK) return status;
        ops->inputs(c->state, &in);
        calib_add(c, &c->grams[0], &in.normed, n);
        calib_add(c, &c->grams[1], &in.attn, n);
        calib_copy_out(c, &in, first, n);
        first += n;
        status = calib_advance(c, n, error);
        if (status != ERNIE_OK) return status;
    }
    return ERNIE_OK;
}

static void calib_add_dense(calib *c, const ern_inputs *in, size_t n)
{
    calib_add(c, &c->grams[2], &in->normed, n);
    calib_add(c, &c->grams[3], &in->hidden, n);
}

/* A layer's common input, which the router reads; its shared experts; each expert's own share. */
static void calib_add_moe(calib *c, const ern_inputs *in, size_t n)
{
    conv_gram *gram = &c->grams[2];
    calib_add(c, gram++, &in->normed, n);
    if (c->hp->shared_intermediate_size) {
        calib_add(c, gram++, &in->normed, n);
        calib_add(c, gram++, &in->shared, n);
    }
    for (uint32_t e = 0; e < c->hp->n_experts; e++) {
        const size_t begin = in->expert_begin[e];
        conv_rows rows = { .x = in->normed.x,
                           .stride = in->normed.stride,
                           .index = in->entry_token + begin,
                           .scale = in->entry_weight + begin,
                           .n = in->expert_begin[e + 1] - begin };
        conv_gram_add(c->team, gram++, &rows);
        rows.x = in->expert.x + begin * in->expert.stride;
        rows.stride = in->expert.stride;
        rows.index = NULL;
        conv_gram_add(c->team, gram++, &rows);
    }
}

static ernie_status calib_ffn(calib *c, const ern_layer *layer, ernie_error *error)
{
    const ern_backend_ops *ops = c->model->ops;
    for (size_t first = 0; first < c->n_tokens; first += c->state_options.n_batch) {
        const size_t n = ern_min_size(c->n_tokens - first, c->state_options.n_batch);
        ern_inputs in;
        ops->inputs(c->state, &in);
        calib_copy_in(c, &in, first, n);
        calib_begin(c, c->documents->ids + first, n);
        if (layer->moe)
            ops->moe(c->state, 0, layer);
        else
            ops->ffn(c->state, 0, layer);
        ernie_status status = ops->submit(c->state, error);
        if (status != ERNIE_OK) return status;
        ops->inputs(c->state, &in);
        if (layer->moe)
            calib_add_moe(c, &in, n);
        else
            calib_add_dense(c, &in, n);
        calib_copy_out(c, &in, first, n);
        status = calib_advance(c, n, error);
        if (status != ERNIE_OK) return status;
    }
    return ERNIE_OK;
}

/* The final norm in place of the stream, which nobody needs any more. */
static void calib_final_norm(calib *c, const float *weight)
{
    const size_t h = c->hp->hidden_size;
    for (size_t t = 0; t < c->n_tokens; t++) {
        float *x = c->stream + t * h;
        double sum = 0;
        for (size_t j = 0; j < h; j++) sum += (double)x[j] * (double)x[j];
        const double factor = 1.0 / sqrt(sum / (double)h + (double)c->hp->rms_norm_eps);
        for (size_t j = 0; j < h; j++) x[j] = (float)((double)x[j] * factor) * weight[j];
    }
}

static ernie_status calib_head(calib *c, ernie_error *error)
{
    const ern_input input = { c->stream, c->hp->hidden_size, c->hp->hidden_size };
    calib_final_norm(c, ern_model_weights(c->model)->final_norm);
    calib_add(c, &c->grams[0], &input, c->n_tokens);
    return calib_advance(c, c->n_tokens, error);
}

/* Layer i from empty sums to its entries in the file; the head for i = n_layers. */
static ernie_status calib_layer(calib *c, uint32_t i, size_t first_entry, ernie_error *error)
{
    const size_t n = calib_n_entries(c, i);
    const bool is_head = i == c->hp->n_layers;
    const ern_layer *layer = is_head ? NULL : &ern_model_weights(c->model)->layers[i];
    const bool moe = layer && layer->moe;
    ern_arena arena = { .base = c->sums, .size = c->sums_bytes };
    calib_take(c, &arena, c->out.entries + first_entry, n, c->levels[i]);
    for (size_t j = 0; j < n; j++) conv_gram_clear(&c->grams[j]);
    ernie_status status;
    if (is_head) {
        status = calib_head(c, error);
    } else {
        status = calib_attention(c, layer, error);
        if (status == ERNIE_OK) status = calib_ffn(c, layer, error);
    }
    if (status != ERNIE_OK) return status;
    const conv_blend blend = { .out = &c->out,
                               .first = first_entry,
                               .n = n,
                               .grams = c->grams,
                               .pool = moe ? c->pool : NULL,
                               .square = c->square,
                               .triangle = c->triangle,
                               .prior = ERN_CALIBRATE_PRIOR };
    return conv_blend_put(&blend, error);
}

static ernie_status calib_run(calib *c, const char *out_path, ernie_error *error)
{
    size_t first = 0;
    ernie_status status = conv_imatrix_out_open(&c->out, out_path, error);
    if (status == ERNIE_OK) status = calib_embed(c, error);
    for (uint32_t i = 0; status == ERNIE_OK && i <= c->hp->n_layers; i++) {
        status = calib_layer(c, i, first, error);
        first += calib_n_entries(c, i);
    }
    return status == ERNIE_OK ? conv_imatrix_out_commit(&c->out, error) : status;
}

static void calib_report(const calib *c, ern_calibrate_report *report)
{
    *report = (ern_calibrate_report){ .n_tokens = c->n_tokens,
                                      .file_bytes = c->out.head.file_bytes,
                                      .n_inputs = c->out.head.n_entries };
    for (size_t i = 0; i < c->out.head.n_entries; i++) {
        const conv_imatrix_entry *e = &c->out.entries[i];
        report->n_own += e->moment == CONV_MOMENT_OWN;
        report->n_common += e->moment == CONV_MOMENT_COMMON;
        report->n_squares += e->moment == CONV_MOMENT_NONE;
        if (e->kind != ERN_EXPERT || e->second) continue;
        report->n_experts++;
        report->n_experts_rare += e->n < ERN_CALIBRATE_PRIOR;
        report->n_experts_unseen += !(e->n > 0);
    }
}

ERN_FN ernie_status ern_calibrate(const ernie_model *model, const ern_documents *documents,
                                  const char *out_path, const ern_calibrate_options *options,
                                  ern_calibrate_report *report, ernie_error *error)
{
    calib c = { .model = model, .hp = &model->format.header->hparams, .documents = documents };
    if (options) c.options = *options;
    atomic_init(&c.never, 0);
    if (!c.options.stop) c.options.stop = &c.never;
    c.allocator = c.options.allocator ? *c.options.allocator : *ern_allocator_default();
    ernie_status status = calib_open(&c, error);
    if (status == ERNIE_OK) {
        calib_say(&c);
        status = calib_run(&c, out_path, error);
    }
    if (status == ERNIE_OK && report) calib_report(&c, report);
    calib_close(&c);
    return status;
}
