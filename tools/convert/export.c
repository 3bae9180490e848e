/* The export from end to end. Workers decode rows of our matrices to floats and encode them as ggml's
 * blocks; before the first tensor that is made of some records, their checksums are checked, by all
 * workers as well, so that damage is not carried over. */
#include "export.h"
#include "encode.h"
#include "export_text.h"
#include "flow.h"
#include "../../backends/cpu/kernels.h"
#include "../../src/os.h"

#include <sys/stat.h>

#define EXPORT_PIECE_ROWS  16u /* what one task makes; a group of our interleaved rows */
#define EXPORT_THREADS_MAX 1024u

typedef struct export_state {
    ern_export_options options;
    const conv_export_type *type;
    const ern_kernels *kernels;
    const conv_encoder *encoder;
    ernie_model *model;
    conv_gguf_out out;
    conv_export_list list;
    conv_bytes head;
    unsigned n_threads;
    size_t row_floats; /* of the longest row, rounded up */
    float *rows;       /* [n_threads][row_floats] */
} export_state;

/* ---- Rows ------------------------------------------------------------------------------------ */

/* Name the first weight of a row that is no number or does not fit. */
static ernie_status export_bad_weight(const conv_export_tensor *t, uint32_t slice, uint32_t row,
                                      const float *values, ernie_error *error)
{
    char place[64];
    uint32_t column = 0;
    const float limit = conv_ggml_limit(t->type);
    while (column + 1 < t->n_cols && fabsf(values[column]) < limit) column++;
    const float value = values[column];
    if (t->n_slices > 1)
        snprintf(place, sizeof place, "[%u, %u, %u]", (unsigned)slice, (unsigned)row,
                 (unsigned)column);
    else
        snprintf(place, sizeof place, "[%u, %u]", (unsigned)row, (unsigned)column);
    if (isfinite(value))
        return ern_error_set(error, ERNIE_UNSUPPORTED,
                             "tensor \"%s\": weight %s is %g, which does not fit type %s", t->name,
                             place, (double)value, conv_ggml_find(t->type)->name);
    return ern_error_set(error, ERNIE_FORMAT, "tensor \"%s\": weight %s is %s", t->name, place,
                         isnan(value) ? "not a number" : "infinite");
}

static uint32_t export_pieces_per_slice(const conv_export_tensor *t)
{
    return (t->n_rows + EXPORT_PIECE_ROWS - 1) / EXPORT_PIECE_ROWS;
}

/* Up to 16 rows of one slice. */
typedef struct export_piece {
    uint32_t slice, row, n_rows;
    uint64_t offset; /* in the tensor */
} export_piece;

static export_piece export_piece_at(const conv_export_tensor *t, uint32_t i)
{
    const uint32_t n = export_pieces_per_slice(t);
    export_piece piece = { .slice = i / n, .row = i % n * EXPORT_PIECE_ROWS };
    piece.n_rows = (uint32_t)ern_min_size(EXPORT_PIECE_ROWS, t->n_rows - piece.row);
    piece.offset = ((uint64_t)piece.slice * t->n_rows + piece.row) * t->row_bytes;
    return piece;
}

static ernie_status export_make_rows(const export_state *state, float *values,
                                     const conv_export_tensor *t, const export_piece *piece,
                                     unsigned char *dst, ernie_error *error)
{
    ern_matrix matrix;
    const uint32_t last_bits = 0x7f800000u; /* infinity and what follows is no number */
    for (uint32_t i = 0; i < piece->n_rows; i++, dst += t->row_bytes) {
        const uint32_t row =
            conv_export_row(t, &state->model->format, piece->slice, piece->row + i, &matrix);
        state->kernels->row[matrix.type](&matrix, row, values);
        const uint32_t bits = conv_peak_bits(state->encoder, values, t->n_cols);
        float peak;
        memcpy(&peak, &bits, sizeof peak);
        if (bits >= last_bits || peak >= conv_ggml_limit(t->type))
            return export_bad_weight(t, piece->slice, piece->row + i, values, error);
        conv_ggml_encode(t->type, values, t->n_cols, dst);
    }
    return ERNIE_OK;
}

/* A batch's kind is the number of its tensor; one without bytes checks the tensor's records. */
static ernie_status export_make(void *user, unsigned worker, const conv_batch *batch, uint32_t i,
                                uint64_t *n_done, ernie_error *error)
{
    const export_state *state = user;
    const conv_export_tensor *t = &state->list.items[batch->kind];
    if (batch->n_bytes == 0)
        return ern_format_verify_record(&state->model->format, t->record + i, state->options.cancel,
                                        error);
    const export_piece first = export_piece_at(t, batch->first);
    const export_piece piece = export_piece_at(t, batch->first + i);
    *n_done = piece.n_rows * t->row_bytes;
    return export_make_rows(state, state->rows + worker * state->row_floats, t, &piece,
                            batch->data + (piece.offset - first.offset), error);
}

/* ---- Tensors --------------------------------------------------------------------------------- */

static ernie_status export_tensor(const export_state *state, conv_flow *flow, uint32_t i,
                                  size_t batch_bytes, ernie_error *error)
{
    const conv_export_tensor *t = &state->list.items[i];
    const uint32_t n_pieces = export_pieces_per_slice(t) * t->n_slices;
    ernie_status status = ERNIE_OK;
    if (t->first) {
        const conv_batch check = { .kind = i, .n_pieces = t->n_slices };
        status = conv_flow_push(flow, &check, error);
    }
    for (uint32_t at = 0; at < n_pieces && status == ERNIE_OK;) {
        conv_batch batch = { .kind = i,
                             .first = at,
                             .offset = state->head.n + t->offset + export_piece_at(t, at).offset };
        for (; at < n_pieces; at++, batch.n_pieces++) {
            const size_t n_bytes = (size_t)(export_piece_at(t, at).n_rows * t->row_bytes);
            if (batch.n_bytes + n_bytes > batch_bytes) break;
            batch.n_bytes += n_bytes;
        }
        status = conv_flow_push(flow, &batch, error);
    }
    return status;
}

/* The largest piece must fit; small models need no more than their largest tensor. */
static size_t export_batch_bytes(const conv_export_list *list)
{
    size_t piece = 0, tensor = 0;
    for (size_t i = 0; i < list->n; i++) {
        tensor = ern_max_size(tensor, (size_t)list->items[i].n_bytes);
        piece = ern_max_size(piece, (size_t)list->items[i].row_bytes * EXPORT_PIECE_ROWS);
    }
    return ern_max_size(piece, ern_min_size(tensor, CONV_BATCH_BYTES));
}

static ernie_status export_write(export_state *state, const char *path, ernie_error *error)
{
    conv_flow *flow;
    const size_t batch_bytes = export_batch_bytes(&state->list);
    const conv_flow_job job = { .make = export_make,
                                .user = state,
                                .n_threads = state->n_threads,
                                .what = "exporting",
                                .n_total = state->out.data_bytes,
                                .progress = state->options.progress,
                                .progress_user = state->options.progress_user,
                                .cancel = state->options.cancel,
                                .allocator = state->options.allocator };
    ernie_status status = conv_flow_open(&flow, &job, path, state->head.n + state->out.data_bytes,
                                         batch_bytes, error);
    if (status == ERNIE_OK)
        status = conv_flow_write(flow, 0, state->head.data, state->head.n, error);
    for (size_t i = 0; i < state->list.n && status == ERNIE_OK; i++)
        status = export_tensor(state, flow, (uint32_t)i, batch_bytes, error);
    if (status == ERNIE_OK) status = conv_flow_drain(flow, error);
    if (status == ERNIE_OK) status = conv_flow_commit(flow, error);
    conv_flow_close(flow);
    return status;
}

/* ---- Before a byte is written ---------------------------------------------------------------- */

static ernie_status export_refuse_same(const char *model_path, const char *out_path,
                                       ernie_error *error)
{
    struct stat model, out;
    const bool same = stat(model_path, &model) == 0 && stat(out_path, &out) == 0
                      && model.st_dev == out.st_dev && model.st_ino == out.st_ino;
    ERN_FAIL_IF(same, error, ERNIE_INVALID, "%s: is the model itself", ern_path_end(out_path));
    return ERNIE_OK;
}

static ernie_status export_open(export_state *state, const char *path, ernie_error *error)
{
    ernie_model_options options = ERNIE_MODEL_OPTIONS_INIT;
    options.allocator = state->options.allocator;
    options.no_copy = true;
    const ernie_status status = ern_model_open(&state->model, path, NULL, 0, NULL, &options, error);
    if (status != ERNIE_OK) return status;
    return conv_export_check(&state->model->format.header->hparams, error);
}

static void export_log(const export_state *state)
{
    const ern_log *log = &state->options.log;
    const uint32_t n_mtp = state->model->format.header->hparams.n_mtp_layers;
    if (n_mtp > 0)
        ern_log_write(log, ERNIE_LOG_WARN,
                      "%u MTP block%s left out: a GGUF file has no names for %s", (unsigned)n_mtp,
                      n_mtp == 1 ? " is" : "s are", n_mtp == 1 ? "it" : "them");
    if (state->list.n_halves > 0)
        ern_log_write(log, ERNIE_LOG_WARN,
                      "%zu tensors are f16: their rows are not whole blocks of 32",
                      state->list.n_halves);
}

static ernie_status export_plan(export_state *state, ernie_error *error)
{
    const ern_format *format = &state->model->format;
    conv_export_pairs(&state->out, state->model, state->type, &state->options.log);
    const ernie_status status =
        conv_export_tensors(&state->list, &state->out, format, state->type, error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(!conv_gguf_out_finish(&state->out, &state->head), error, ERNIE_NO_MEMORY,
                "no memory for the head of a GGUF file with %zu tensors", state->list.n);
    export_log(state);
    return ERNIE_OK;
}

static ernie_status export_open_workers(export_state *state, ernie_error *error)
{
    size_t widest = 0;
    const unsigned n = state->options.n_threads ? state->options.n_threads : ern_cpu_count();
    state->n_threads = n < EXPORT_THREADS_MAX ? n : EXPORT_THREADS_MAX;
    for (size_t i = 0; i < state->list.n; i++)
        widest = ern_max_size(widest, state->list.items[i].n_cols);
    state->row_floats = ern_round_up(widest, ERN_BLOCK_COLS);
    state->rows = ern_alloc_aligned(state->options.allocator,
                                    state->n_threads * state->row_floats * sizeof *state->rows);
    ERN_FAIL_IF(!state->rows, error, ERNIE_NO_MEMORY,
                "no memory for the rows of %u threads, %zu weights each", state->n_threads,
                state->row_floats);
    return ERNIE_OK;
}

static void export_close(export_state *state)
{
    const ernie_allocator *allocator = state->options.allocator;
    if (state->rows)
        ern_free_aligned(allocator, state->rows,
                         state->n_threads * state->row_floats * sizeof *state->rows);
    conv_bytes_free(&state->head);
    conv_export_list_free(&state->list);
    conv_gguf_out_free(&state->out);
    ern_model_close(state->model);
}

ERN_FN ernie_status ern_export(const char *model_path, const char *out_path,
                               const ern_export_options *options, ernie_error *error)
{
    export_state state;
    memset(&state, 0, sizeof state);
    if (options) state.options = *options;
    if (!state.options.allocator) state.options.allocator = ern_allocator_default();
    state.head.allocator = state.list.allocator = state.options.allocator;
    conv_gguf_out_begin(&state.out, state.options.allocator);
    state.kernels = ern_kernels_find(NULL);
    state.encoder = conv_encoder_best();
    ERN_FAIL_IF(!model_path || !out_path, error, ERNIE_INVALID,
                "the model and the output need a path");

    ernie_status status = conv_export_type_find(&state.type, state.options.type, error);
    if (status == ERNIE_OK) status = export_refuse_same(model_path, out_path, error);
    if (status == ERNIE_OK) status = export_open(&state, model_path, error);
    if (status == ERNIE_OK) status = export_plan(&state, error);
    if (status == ERNIE_OK) status = export_open_workers(&state, error);
    if (status == ERNIE_OK) status = export_write(&state, out_path, error);
    export_close(&state);
    if (status != ERNIE_OK && error) conv_text_clean(error->message);
    return status;
}
