/* Records become batches of units. Checksums grow in file order, as batches are written. Before a
 * batch whose units need something staged goes one that writes nothing and brings it. */
#include "pipe.h"

typedef struct pipe_state {
    const conv_job *job;
    conv_flow *flow;
    size_t batch_bytes;
    ern_hash hash; /* of the record that is being written */
} pipe_state;

/* ---- Records: the kind of a batch is its record, `first` its first unit ---------------------- */

static ernie_status pipe_make(void *user, unsigned worker, const conv_batch *batch, uint32_t i,
                              uint64_t *n_done, ernie_error *error)
{
    const pipe_state *pipe = user;
    if (batch->n_bytes == 0) return pipe->job->stager->task(pipe->job->user, i, error);
    const ern_record *record = &pipe->job->plan->records[batch->kind];
    const conv_unit unit = conv_unit_at(record, batch->first + i);
    unsigned char *dst = batch->data + (record->offset + unit.offset - batch->offset);
    memset(dst, 0, (size_t)unit.n_bytes);
    return pipe->job->make(pipe->job->user, worker, batch->kind, &unit, dst, n_done, error);
}

static void pipe_hash(void *user, const conv_batch *batch)
{
    pipe_state *pipe = user;
    if (batch->first == 0) ern_hash_begin(&pipe->hash);
    ern_hash_add(&pipe->hash, batch->data, batch->n_bytes);
    if (batch->last) pipe->job->plan->records[batch->kind].checksum = ern_hash_end64(&pipe->hash);
}

/* As many units of record i from first_unit on as a batch and the stager take. */
static conv_batch pipe_take_units(const pipe_state *pipe, uint32_t i, uint32_t first_unit)
{
    size_t needed = 0;
    const conv_stager *stager = pipe->job->stager;
    const ern_record *record = &pipe->job->plan->records[i];
    const uint32_t n_units = conv_n_units(record);
    conv_batch batch = { .kind = i,
                         .first = first_unit,
                         .offset = record->offset + conv_unit_at(record, first_unit).offset };
    while (first_unit + batch.n_pieces < n_units) {
        const conv_unit unit = conv_unit_at(record, first_unit + batch.n_pieces);
        if (batch.n_bytes + unit.n_bytes > pipe->batch_bytes) break;
        if (stager) needed += stager->need(pipe->job->user, i, &unit);
        if (stager && needed > stager->n_max && batch.n_pieces > 0) break;
        batch.n_bytes += (size_t)unit.n_bytes;
        batch.n_pieces++;
    }
    batch.last = first_unit + batch.n_pieces == n_units;
    return batch;
}

static ernie_status pipe_stage(const pipe_state *pipe, const conv_batch *batch, ernie_error *error)
{
    const conv_job *job = pipe->job;
    conv_batch staging = { .kind = batch->kind };
    if (!job->stager) return ERNIE_OK;
    const ernie_status status = job->stager->begin(job->user, batch->kind, batch->first,
                                                   batch->n_pieces, &staging.n_pieces, error);
    if (status != ERNIE_OK || staging.n_pieces == 0) return status;
    return conv_flow_push(pipe->flow, &staging, error);
}

static ernie_status pipe_records(const pipe_state *pipe, ernie_error *error)
{
    const conv_plan *plan = pipe->job->plan;
    for (uint32_t i = 0; i < plan->header.n_records; i++) {
        for (uint32_t unit = 0; unit < conv_n_units(&plan->records[i]);) {
            const conv_batch batch = pipe_take_units(pipe, i, unit);
            ernie_status status = pipe_stage(pipe, &batch, error);
            if (status == ERNIE_OK) status = conv_flow_push(pipe->flow, &batch, error);
            if (status != ERNIE_OK) return status;
            unit += batch.n_pieces;
        }
    }
    return conv_flow_drain(pipe->flow, error);
}

/* ---- The file around the records ------------------------------------------------------------- */

static ernie_status pipe_write_section(const pipe_state *pipe, unsigned i, const void *data,
                                       ernie_error *error)
{
    ern_section *section = &pipe->job->plan->header.section[i];
    if (section->n_bytes == 0) return ERNIE_OK;
    section->checksum = ern_hash64(data, (size_t)section->n_bytes);
    return conv_flow_write(pipe->flow, section->offset, data, (size_t)section->n_bytes, error);
}

/* What makes the file a model comes last: until then its first bytes are zero. */
static ernie_status pipe_finish(const pipe_state *pipe, ernie_error *error)
{
    conv_plan *plan = pipe->job->plan;
    ern_header *header = &plan->header;
    ernie_status status = pipe_write_section(pipe, ERN_SECTION_INDEX, plan->records, error);
    for (unsigned i = ERN_SECTION_TOKENIZER; i <= ERN_SECTION_GENERATION && status == ERNIE_OK; i++)
        if (pipe->job->sections[i])
            status = pipe_write_section(pipe, i, pipe->job->sections[i]->data, error);
    if (status != ERNIE_OK) return status;
    ern_weights_id(plan->records, header->n_records, header->weights_id);
    ern_hash128(header, sizeof *header - sizeof header->checksum, header->checksum);
    status = conv_flow_write(pipe->flow, 0, header, sizeof *header, error);
    return status == ERNIE_OK ? conv_flow_commit(pipe->flow, error) : status;
}

/* The largest unit must fit; small models need no more than their largest record. */
static size_t pipe_batch_bytes(const conv_plan *plan)
{
    size_t largest_unit = 0, largest_record = 0;
    for (uint32_t i = 0; i < plan->header.n_records; i++) {
        const ern_record *record = &plan->records[i];
        largest_record = ern_max_size(largest_record, (size_t)record->n_bytes);
        largest_unit = ern_max_size(largest_unit, (size_t)conv_unit_at(record, 0).n_bytes);
        if (record->n_rows2 == 0) continue;
        const uint32_t second = ern_n_groups(record->n_rows);
        largest_unit = ern_max_size(largest_unit, (size_t)conv_unit_at(record, second).n_bytes);
    }
    return ern_max_size(largest_unit, ern_min_size(largest_record, CONV_BATCH_BYTES));
}

ERN_FN ernie_status conv_pipe_run(const conv_job *job, const char *path, ernie_error *error)
{
    uint64_t section_bytes[ERN_N_SECTIONS] = { 0 };
    for (unsigned i = 0; i < ERN_N_SECTIONS; i++)
        if (job->sections[i]) section_bytes[i] = job->sections[i]->n;
    conv_plan_place(job->plan, section_bytes);

    pipe_state pipe = { .job = job, .batch_bytes = pipe_batch_bytes(job->plan) };
    const conv_flow_job flow = { .make = pipe_make,
                                 .before_write = pipe_hash,
                                 .user = &pipe,
                                 .n_threads = job->n_threads,
                                 .what = job->what,
                                 .n_total = job->n_total,
                                 .progress = job->progress,
                                 .progress_user = job->progress_user,
                                 .cancel = job->cancel,
                                 .allocator = job->allocator };
    ernie_status status = conv_flow_open(&pipe.flow, &flow, path, job->plan->header.file_bytes,
                                         pipe.batch_bytes, error);
    if (status == ERNIE_OK) status = pipe_records(&pipe, error);
    if (status == ERNIE_OK) status = pipe_finish(&pipe, error);
    conv_flow_close(pipe.flow);
    return status;
}
