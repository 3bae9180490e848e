/* The conversion from end to end: what the checkpoint is, which record takes its values from where,
 * and the rows themselves. Everything that can be refused is refused before a byte is written,
 * except weights that are not numbers. */
#include "convert.h"
#include "calibration.h"
#include "config.h"
#include "encode.h"
#include "generation.h"
#include "gguf_model.h"
#include "gguf_text.h"
#include "group.h"
#include "names.h"
#include "pipe.h"
#include "safetensors.h"
#include "stage.h"
#include "tokenizer_files.h"
#include "../../src/os.h"

#define CONVERT_READ_BYTES  ((size_t)256 << 10) /* one read of consecutive rows, at least one row */
#define CONVERT_MEMORY_MAX  ((uint64_t)1 << 30)
#define CONVERT_THREADS_MAX 1024u

/* Scales tried for each block of a c type. Gaussian weights at c2: 11.28 dB with 5, 11.16 with 3.
 * With the weights and targets of calibration the best scale lies further off: the demo model's
 * experts at c2 lose 0.208 nats a token with 5, 0.195 with 9. */
#define CONVERT_TRIES      9u
#define CONVERT_TRIES_FAST 3u

/* What one worker reads into and encodes from. */
typedef struct convert_worker {
    unsigned char *raw; /* [raw_bytes]: rows as the shard has them */
    float *rows;        /* [16][row_stride]: rows out of columns; NULL when there are no columns */
    conv_scratch scratch;
    void *group_memory; /* [conv_group_bytes(n_cols_max)] */
    conv_group group;   /* of the unit, when it is made as a whole */
    bool grouped;
} convert_worker;

typedef struct convert_state {
    ern_convert_options options;
    const conv_encoder *encoder;
    conv_config config;
    conv_tensors tensors;
    conv_gguf gguf; /* its metadata, when tensors.gguf */
    conv_paddle paddle;
    conv_plan plan;
    conv_source (*sources)[2]; /* [n_sources], beside plan.records */
    size_t n_sources;
    conv_text_files text;
    conv_bytes generation;
    unsigned n_threads;
    convert_worker *workers; /* [n_threads] */
    unsigned char *memory;   /* [n_threads][worker_bytes] */
    size_t worker_bytes, raw_bytes, rows_bytes, row_stride;
    uint32_t n_cols_max;
    conv_calibration calibration;
    conv_stage stage;
} convert_state;

/* ---- Rows ------------------------------------------------------------------------------------ */

/* How many rows from `row` on lie one after the other in one tensor and fit one read. */
static uint32_t convert_run(const convert_state *state, const conv_source *source, uint32_t row,
                            uint32_t n_rows)
{
    uint32_t first, next, n = 1;
    const conv_slice *slice = conv_source_row(source, row, &first);
    if (!slice) return 1;
    const size_t fit = slice->coding == CONV_ROWS
                           ? state->raw_bytes / conv_slice_row_bytes(slice, source->n_cols)
                           : ERN_GROUP_ROWS;
    while (n < n_rows && n < fit && conv_source_row(source, row + n, &next) == slice) n++;
    return n;
}

/* Name the first weight of a row that is no number or does not fit. */
static ernie_status convert_bad_weight(const conv_slice *slice, uint32_t slice_row, unsigned type,
                                       const float *row, uint32_t n_cols, uint32_t limit,
                                       ernie_error *error)
{
    uint32_t column = 0;
    while (column + 1 < n_cols && conv_peak_bits(conv_encoder_at(0), row + column, 1) < limit)
        column++;
    const bool turned = slice->coding != CONV_ROWS;
    const uint64_t tensor_row = (uint64_t)slice->first_row + slice_row,
                   at[2] = { turned ? column : tensor_row, turned ? tensor_row : column };
    const double value = (double)row[column];
    if (isfinite(value))
        return ern_error_set(
            error, ERNIE_UNSUPPORTED,
            "tensor \"%.96s\": weight [%llu, %llu] is %g, which does not fit type %s",
            slice->tensor->name, (unsigned long long)at[0], (unsigned long long)at[1], value,
            ern_type_name(type));
    return ern_error_set(error, ERNIE_FORMAT, "tensor \"%.128s\": weight [%llu, %llu] is %s",
                         slice->tensor->name, (unsigned long long)at[0], (unsigned long long)at[1],
                         isnan(value) ? "not a number" : "infinite");
}

/* Encode the values in the worker's scratch as row `row` of the unit, or keep them for it. */
static ernie_status convert_encode(const convert_state *state, convert_worker *worker,
                                   const conv_unit *unit, const conv_slice *slice,
                                   uint32_t slice_row, uint32_t row, unsigned char *dst,
                                   ernie_error *error)
{
    float *values = worker->scratch.row;
    const uint32_t n_cols = unit->n_cols, limit = conv_type_limit(unit->type);
    const uint32_t peak = conv_peak_bits(state->encoder, values, n_cols);
    if (peak >= limit)
        return convert_bad_weight(slice, slice_row, unit->type, values, n_cols, limit, error);
    for (uint32_t i = n_cols; i % ERN_BLOCK_COLS != 0; i++) values[i] = 0;
    if (worker->grouped) {
        const size_t stride = worker->group.stride;
        memcpy(worker->group.row + row * stride, values, stride * sizeof *values);
        return ERNIE_OK;
    }
    conv_encode_row(state->encoder, unit->type, &worker->scratch, n_cols, peak, row, dst);
    return ERNIE_OK;
}

/* Rows slice_row .. + n of a slice that holds columns, into the worker's rows. */
static ernie_status convert_turn_rows(const convert_state *state, convert_worker *worker,
                                      const conv_slice *slice, uint32_t slice_row, uint32_t n,
                                      ernie_error *error)
{
    const conv_columns *columns = conv_stage_find(&state->stage, slice);
    ERN_ASSERT(columns && worker->rows);
    return conv_columns_rows(columns, state->encoder, slice_row, n, worker->rows, state->row_stride,
                             error);
}

/* Read and encode rows first_row + row .. + n of a unit, which one run covers. */
static ernie_status convert_rows(const convert_state *state, convert_worker *worker,
                                 const conv_source *source, const conv_unit *unit, uint32_t row,
                                 uint32_t n, unsigned char *dst, ernie_error *error)
{
    uint32_t slice_row;
    ernie_status status = ERNIE_OK;
    const conv_slice *slice = conv_source_row(source, unit->first_row + row, &slice_row);
    if (!slice) return ERNIE_OK; /* padding: dst is zero */
    const size_t row_bytes = conv_slice_row_bytes(slice, source->n_cols);
    const conv_shard *shard = &state->tensors.shards[slice->tensor->shard];
    if (slice->coding != CONV_ROWS)
        status = convert_turn_rows(state, worker, slice, slice_row, n, error);
    else
        status = conv_file_read(&shard->file, shard->name,
                                slice->offset + slice_row * (uint64_t)row_bytes, worker->raw,
                                n * row_bytes, error);
    for (uint32_t i = 0; i < n && status == ERNIE_OK; i++) {
        if (slice->coding != CONV_ROWS)
            memcpy(worker->scratch.row, worker->rows + i * state->row_stride,
                   source->n_cols * sizeof(float));
        else
            conv_decode(state->encoder, slice->tensor->dtype, worker->raw + i * row_bytes,
                        worker->scratch.row, source->n_cols);
        status = convert_encode(state, worker, unit, slice, slice_row + i, row + i, dst, error);
    }
    return status;
}

/* Read all rows of a unit, each encoded as it comes unless the unit is made as a whole. */
static ernie_status convert_unit(const convert_state *state, convert_worker *worker, uint32_t i,
                                 const conv_unit *unit, unsigned char *dst, uint64_t *n_done,
                                 ernie_error *error)
{
    const conv_source *source = &state->sources[i][unit->matrix];
    for (uint32_t row = 0; row < unit->n_rows;) {
        uint32_t slice_row;
        const uint32_t n = convert_run(state, source, unit->first_row + row, unit->n_rows - row);
        const conv_slice *slice = conv_source_row(source, unit->first_row + row, &slice_row);
        const ernie_status status = convert_rows(state, worker, source, unit, row, n, dst, error);
        if (status != ERNIE_OK) return status;
        if (slice) *n_done += n * (uint64_t)conv_slice_row_bytes(slice, source->n_cols);
        row += n;
    }
    return ERNIE_OK;
}

static ernie_status convert_make(void *user, unsigned worker_index, uint32_t i,
                                 const conv_unit *unit, unsigned char *dst, uint64_t *n_done,
                                 ernie_error *error)
{
    convert_state *state = user;
    convert_worker *worker = &state->workers[worker_index];
    conv_calibration_use use = { 0 };
    worker->grouped = unit->type == ERN_W4 || unit->type >= ERN_C4;
    if (worker->grouped) {
        const ernie_status status = conv_calibration_take(
            &state->calibration, &state->plan.records[i], unit->matrix, &use, error);
        if (status != ERNIE_OK) return status;
    }
    const conv_feedback *feedback = conv_calibration_feedback(&use);
    worker->grouped = conv_group_makes(unit->type, feedback);
    if (worker->grouped) {
        conv_group_set(&worker->group, worker->group_memory, unit->n_cols);
        memset(worker->group.row, 0, ERN_GROUP_ROWS * worker->group.stride * sizeof(float));
    }
    const ernie_status status = convert_unit(state, worker, i, unit, dst, n_done, error);
    if (status == ERNIE_OK && worker->grouped)
        conv_group_encode(conv_group_best(), &worker->group, unit->type, unit->n_cols, feedback,
                          state->options.fast ? CONVERT_TRIES_FAST : CONVERT_TRIES, dst);
    conv_calibration_give(&state->calibration, &use);
    return status;
}

/* ---- What columns need in memory ------------------------------------------------------------- */

static size_t convert_stage_need(void *user, uint32_t i, const conv_unit *unit)
{
    const convert_state *state = user;
    return conv_stage_need(&state->sources[i][unit->matrix], unit);
}

static ernie_status convert_stage_begin(void *user, uint32_t i, uint32_t first, uint32_t n,
                                        uint32_t *n_tasks, ernie_error *error)
{
    convert_state *state = user;
    return conv_stage_begin(&state->stage, state->sources[i], &state->plan.records[i], first, n,
                            n_tasks, error);
}

static ernie_status convert_stage_task(void *user, uint32_t task, ernie_error *error)
{
    const convert_state *state = user;
    return conv_stage_task(&state->stage, task, error);
}

/* ---- What the checkpoint is ------------------------------------------------------------------ */

static ernie_status convert_refuse_vision(const convert_state *state, const char *dir,
                                          ernie_error *error)
{
    const conv_tensor *tensor = conv_names_find_vision(&state->tensors);
    ERN_FAIL_IF(
        tensor, error, ERNIE_UNSUPPORTED,
        "%s: is a vision-language checkpoint (tensor \"%.96s\"), only text models are supported",
        dir, tensor->name);
    ERN_FAIL_IF(
        state->config.vision[0], error, ERNIE_UNSUPPORTED,
        "%s: is a vision-language checkpoint (%s in config.json), only text models are supported",
        dir, state->config.vision);
    return ERNIE_OK;
}

static void convert_settle_mixture(convert_state *state)
{
    ern_hparams *hparams = &state->config.hparams;
    if (state->config.moe_start_unsaid)
        hparams->moe_layer_start = conv_names_moe_start(&state->tensors, hparams->n_layers);
    if (!state->config.shared_unsaid) return;
    const uint32_t width =
        conv_names_shared_width(&state->tensors, &state->paddle, hparams->n_layers);
    hparams->shared_intermediate_size = width;
    hparams->n_shared_experts =
        (uint32_t)ern_max_size(width / hparams->moe_intermediate_size, width > 0);
}

/* Settle what config.json leaves to the tensors: whether the head is tied, how many MTP blocks
 * there are (some repositories announce one and leave it out, others have one unannounced), and
 * what it does not say of the mixture. */
static void convert_settle(convert_state *state)
{
    ern_hparams *hparams = &state->config.hparams;
    const ern_log *log = &state->options.log;
    const bool has_head = conv_names_has_head(&state->tensors);
    /* Paddle ties nothing unless told to. */
    if (state->paddle.turned && !state->config.tie_said) state->config.tie = false;
    hparams->tied = state->config.tie || !has_head;
    if (hparams->n_experts > 0) convert_settle_mixture(state);
    if (!state->config.tie && state->config.tie_said && !has_head)
        ern_log_write(
            log, ERNIE_LOG_WARN,
            "tie_word_embeddings is false, but there is no lm_head.weight: the embedding serves");
    if (state->config.unknown[0])
        ern_log_write(log, ERNIE_LOG_WARN, "config.json: unknown and left out: %s",
                      state->config.unknown);
    conv_paddle_say(&state->paddle, log);
    if (has_head && state->config.tie && !state->config.tie_said)
        ern_log_write(log, ERNIE_LOG_WARN,
                      "lm_head.weight is left out: config.json does not say tie_word_embeddings, "
                      "whose default is true");
    const uint32_t n_mtp = conv_names_count_mtp(&state->tensors);
    if (n_mtp != hparams->n_mtp_layers)
        ern_log_write(log, ERNIE_LOG_INFO,
                      "num_nextn_predict_layers is %u, the tensors hold %u MTP blocks",
                      (unsigned)hparams->n_mtp_layers, (unsigned)n_mtp);
    hparams->n_mtp_layers = n_mtp;
}

static ernie_status convert_open_gguf(convert_state *state, const char *path, ernie_error *error)
{
    ernie_status status =
        conv_gguf_open(&state->gguf, &state->tensors, path, state->options.allocator, error);
    if (status == ERNIE_OK)
        status = conv_gguf_config(&state->config, &state->gguf, &state->tensors,
                                  &state->options.log, error);
    if (status == ERNIE_OK) convert_settle(state);
    return status;
}

static ernie_status convert_open(convert_state *state, const char *dir, ernie_error *error)
{
    const ernie_allocator *allocator = state->options.allocator;
    if (conv_gguf_is(dir)) return convert_open_gguf(state, dir, error);
    ernie_status status = conv_dir_check(dir, error);
    if (status == ERNIE_OK) status = conv_config_load(&state->config, dir, allocator, error);
    if (status != ERNIE_OK) return status;
    status = conv_tensors_open(&state->tensors, dir, allocator, error);
    if (status == ERNIE_OK || state->config.vision[0]) {
        const ernie_status vision = convert_refuse_vision(state, dir, error);
        if (vision != ERNIE_OK) return vision;
    }
    if (status == ERNIE_OK)
        status = conv_paddle_detect(&state->paddle, &state->tensors, &state->config.quant,
                                    &state->config.hparams, error);
    if (status == ERNIE_OK) convert_settle(state);
    return status;
}

/* ---- The plan -------------------------------------------------------------------------------- */

static bool convert_grow_sources(convert_state *state)
{
    const size_t n = state->plan.record_capacity, pair = sizeof *state->sources;
    if (n == state->n_sources) return true;
    void *grown =
        ern_resize(state->options.allocator, state->sources, state->n_sources * pair, n * pair);
    if (!grown) return false;
    state->sources = grown;
    state->n_sources = n;
    return true;
}

static ernie_status convert_add_record(convert_state *state, const ern_record *record,
                                       bool optional, const conv_types *types, ernie_error *error)
{
    bool absent;
    conv_source sources[2];
    const uint32_t i = state->plan.header.n_records;
    ernie_status status = conv_names_find(sources, &state->tensors, &state->config.hparams,
                                          &state->paddle, record, optional, &absent, error);
    if (status != ERNIE_OK || absent) return status;
    status = conv_plan_add(&state->plan, record, types, error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(!convert_grow_sources(state), error, ERNIE_NO_MEMORY,
                "no memory for the sources of %u tensors", (unsigned)i);
    memcpy(state->sources[i], sources, sizeof sources);
    const uint32_t widest = record->n_cols > record->n_cols2 ? record->n_cols : record->n_cols2;
    if (widest > state->n_cols_max) state->n_cols_max = widest;
    return ERNIE_OK;
}

/* A file without a given name is called as its directory, whatever slashes follow, or as a GGUF
 * file calls itself. */
static ernie_status convert_begin_plan(convert_state *state, const char *dir, ernie_error *error)
{
    conv_path path;
    char gguf_name[256];
    const char *name = state->options.name;
    if (!name && state->tensors.gguf) name = conv_gguf_model_name(&state->gguf, gguf_name);
    if (!name) {
        const ernie_status status = conv_path_join(&path, dir, "", error);
        if (status != ERNIE_OK) return status;
        for (size_t n = strlen(path.text); n > 1 && path.text[n - 1] == '/'; n--)
            path.text[n - 1] = '\0';
        name = conv_path_base(path.text);
    }
    return conv_plan_begin(&state->plan, &state->config.hparams, state->config.architecture, name,
                           state->options.allocator, error);
}

static ernie_status convert_plan(convert_state *state, const char *dir, ernie_error *error)
{
    ern_layout layout;
    ern_record record;
    bool optional;
    const conv_types *types;
    const ern_hparams *hparams = &state->config.hparams;
    ernie_status status = conv_types_find(&types, state->options.type, error);
    if (status != ERNIE_OK) return status;
    status = convert_begin_plan(state, dir, error);
    if (status != ERNIE_OK) return status;
    ern_layout_begin(&layout, hparams);
    while (ern_layout_next(&layout, &record, &optional)) {
        status = convert_add_record(state, &record, optional, types, error);
        if (status != ERNIE_OK) return status;
    }
    return conv_names_check_rest(&state->tensors, hparams, error);
}

static ernie_status convert_load_text(convert_state *state, const char *dir,
                                      ern_generation *generation, ernie_error *error)
{
    const ern_convert_options *options = &state->options;
    const uint32_t vocab_size = state->config.hparams.vocab_size;
    if (state->tensors.gguf) {
        const ernie_status status =
            conv_gguf_text_load(&state->text, &state->gguf, vocab_size, options->chat,
                                options->allocator, &options->log, error);
        if (status != ERNIE_OK) return status;
        return conv_gguf_generation(generation, &state->gguf, &state->config,
                                    state->text.turn_end_id, error);
    }
    const ernie_status status = conv_text_files_load(&state->text, dir, vocab_size, options->chat,
                                                     options->allocator, &options->log, error);
    if (status != ERNIE_OK) return status;
    return conv_generation_load(generation, dir, &state->config, state->text.turn_end_id,
                                options->allocator, error);
}

static ernie_status convert_read_text(convert_state *state, const char *dir, ernie_error *error)
{
    ern_generation generation;
    const ernie_status status = convert_load_text(state, dir, &generation, error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(!conv_bytes_add(&state->generation, &generation, sizeof generation), error,
                ERNIE_NO_MEMORY, "no memory for the generation defaults");
    return ERNIE_OK;
}

/* ---- Workers --------------------------------------------------------------------------------- */

static uint64_t convert_memory_max(const convert_state *state)
{
    return state->options.memory_max ? state->options.memory_max : CONVERT_MEMORY_MAX;
}

static bool convert_has_columns(const convert_state *state)
{
    for (uint32_t i = 0; i < state->plan.header.n_records; i++)
        for (uint32_t m = 0; m < 2; m++)
            for (uint32_t k = 0; k < state->sources[i][m].n_slices; k++)
                if (state->sources[i][m].slices[k].coding != CONV_ROWS) return true;
    return false;
}

/* Buffers per worker, and how many workers fit beside the batches and what they are made of. */
static void convert_size_workers(convert_state *state)
{
    uint64_t taken = 2 * CONV_BATCH_BYTES;
    const uint64_t limit = convert_memory_max(state);
    uint64_t n = state->options.n_threads ? state->options.n_threads : ern_cpu_count();
    state->row_stride = ern_round_up(state->n_cols_max, ERN_BLOCK_COLS);
    if (convert_has_columns(state)) {
        state->stage.n_max = (size_t)ern_min_size(CONV_STAGE_BYTES, (size_t)(limit / 4));
        state->rows_bytes = ERN_GROUP_ROWS * state->row_stride * sizeof(float);
        taken += state->stage.n_max;
    }
    state->raw_bytes =
        ern_round_up(ern_max_size(CONVERT_READ_BYTES, (size_t)state->n_cols_max * 4), 64);
    state->worker_bytes = state->raw_bytes + state->rows_bytes
                          + conv_scratch_bytes(state->n_cols_max)
                          + conv_group_bytes(state->n_cols_max);
    const uint64_t fit = limit > taken ? (limit - taken) / state->worker_bytes : 1;
    if (n > fit) n = fit > 0 ? fit : 1;
    state->n_threads = n > CONVERT_THREADS_MAX ? CONVERT_THREADS_MAX : (unsigned)n;
}

static ernie_status convert_open_workers(convert_state *state, ernie_error *error)
{
    const ernie_allocator *allocator = state->options.allocator;
    convert_size_workers(state);
    state->stage.tensors = &state->tensors;
    state->workers = ern_alloc_zero(allocator, state->n_threads * sizeof *state->workers);
    state->memory = ern_alloc_aligned(allocator, state->n_threads * state->worker_bytes);
    ERN_FAIL_IF(!state->workers || !state->memory, error, ERNIE_NO_MEMORY,
                "no memory for the buffers of %u threads, %zu bytes each", state->n_threads,
                state->worker_bytes);
    for (unsigned i = 0; i < state->n_threads; i++) {
        convert_worker *worker = &state->workers[i];
        unsigned char *memory = state->memory + i * state->worker_bytes;
        worker->raw = memory;
        memory += state->raw_bytes;
        if (state->rows_bytes > 0) worker->rows = (float *)(void *)memory;
        conv_scratch_set(&worker->scratch, memory + state->rows_bytes, state->n_cols_max);
        worker->group_memory = memory + state->rows_bytes + conv_scratch_bytes(state->n_cols_max);
    }
    return ERNIE_OK;
}

static uint64_t convert_source_bytes(const convert_state *state)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < state->plan.header.n_records; i++)
        for (uint32_t m = 0; m < 2; m++) {
            const conv_source *source = &state->sources[i][m];
            for (uint32_t k = 0; k < source->n_slices; k++)
                total += source->slices[k].n_rows
                         * (uint64_t)conv_slice_row_bytes(&source->slices[k], source->n_cols);
        }
    return total;
}

static ernie_status convert_run_pipe(convert_state *state, const char *path, ernie_error *error)
{
    const conv_stager stager = { .n_max = state->stage.n_max,
                                 .need = convert_stage_need,
                                 .begin = convert_stage_begin,
                                 .task = convert_stage_task };
    conv_job job = { .plan = &state->plan,
                     .stager = state->rows_bytes > 0 ? &stager : NULL,
                     .make = convert_make,
                     .user = state,
                     .n_threads = state->n_threads,
                     .what = "converting",
                     .n_total = convert_source_bytes(state),
                     .progress = state->options.progress,
                     .progress_user = state->options.progress_user,
                     .cancel = state->options.cancel,
                     .allocator = state->options.allocator };
    if (state->text.tokenizer.n > 0) job.sections[ERN_SECTION_TOKENIZER] = &state->text.tokenizer;
    job.sections[ERN_SECTION_CHAT] = &state->text.chat;
    job.sections[ERN_SECTION_GENERATION] = &state->generation;
    return conv_pipe_run(&job, path, error);
}

static void convert_close(convert_state *state)
{
    const ernie_allocator *allocator = state->options.allocator;
    if (state->memory)
        ern_free_aligned(allocator, state->memory, state->n_threads * state->worker_bytes);
    if (state->workers)
        ern_free(allocator, state->workers, state->n_threads * sizeof *state->workers);
    if (state->sources)
        ern_free(allocator, state->sources, state->n_sources * sizeof *state->sources);
    conv_calibration_close(&state->calibration);
    conv_stage_close(&state->stage);
    conv_bytes_free(&state->generation);
    conv_text_files_free(&state->text);
    conv_plan_free(&state->plan);
    conv_tensors_close(&state->tensors);
    conv_gguf_close(&state->gguf);
}

ERN_FN ernie_status ern_convert(const char *source, const char *out_path,
                                const ern_convert_options *options, ernie_error *error)
{
    convert_state state;
    memset(&state, 0, sizeof state);
    if (options) state.options = *options;
    if (!state.options.allocator) state.options.allocator = ern_allocator_default();
    state.plan.allocator = state.generation.allocator = state.options.allocator;
    state.stage.allocator = state.options.allocator;
    state.text.tokenizer.allocator = state.text.chat.allocator = state.options.allocator;
    state.encoder = conv_encoder_best();
    ERN_FAIL_IF(!source || !out_path, error, ERNIE_INVALID,
                "the source and the output need a path");

    ernie_status status = convert_open(&state, source, error);
    if (status == ERNIE_OK) status = convert_plan(&state, source, error);
    if (status == ERNIE_OK) status = convert_read_text(&state, source, error);
    if (status == ERNIE_OK)
        status = conv_calibration_open(&state.calibration, state.options.imatrix,
                                       &state.config.hparams, convert_memory_max(&state) / 2,
                                       state.options.allocator, error);
    if (status == ERNIE_OK) status = convert_open_workers(&state, error);
    if (status == ERNIE_OK) status = convert_run_pipe(&state, out_path, error);
    const unsigned n_diagonal = atomic_load(&state.calibration.n_diagonal);
    if (status == ERNIE_OK && n_diagonal > 0)
        ern_log_write(&state.options.log, ERNIE_LOG_WARN,
                      "second moments of %u linears did not fit in memory or were no use, their squares "
                      "count alone",
                      n_diagonal);
    convert_close(&state);
    if (status != ERNIE_OK && error) conv_text_clean(error->message);
    return status;
}
