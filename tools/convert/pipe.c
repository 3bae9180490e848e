/* The pipeline: per chunk one parallel region, in which the first task is to hash and write the
 * chunk before. Two buffers take turns. Checksums grow in file order, so one writer at a time is
 * enough. */
#include "pipe.h"
#include "../../src/os.h"

#define PIPE_PROGRESS_SECONDS 0.1

/* Consecutive units of one record in a buffer. */
typedef struct pipe_chunk {
    unsigned char *data;
    uint32_t record, first_unit, n_units; /* n_units 0: nothing in it */
    uint64_t offset;                      /* of data in the record */
    size_t n_bytes;
    bool last; /* of its record */
} pipe_chunk;

typedef struct pipe_failure {
    ernie_error error;
    unsigned task; /* which task failed first; tasks are handed out in order */
} pipe_failure;

struct conv_pipe {
    const conv_job *job;
    conv_out out;
    ern_pool *pool;
    pipe_chunk chunk[2];
    pipe_chunk *making, *writing;
    size_t chunk_bytes;
    ern_hash hash;          /* of the record that is being written */
    pipe_failure *failures; /* [n_threads] */
    atomic_uint next_task;
    atomic_bool stop;
    atomic_ullong n_done;
    double last_report;
};

/* ---- Tasks ----------------------------------------------------------------------------------- */

static ernie_status pipe_write(conv_pipe *pipe, ernie_error *error)
{
    const pipe_chunk *chunk = pipe->writing;
    if (chunk->n_units == 0) return ERNIE_OK;
    ern_record *record = &pipe->job->plan->records[chunk->record];
    if (chunk->first_unit == 0) ern_hash_begin(&pipe->hash);
    ern_hash_add(&pipe->hash, chunk->data, chunk->n_bytes);
    if (chunk->last) record->checksum = ern_hash_end64(&pipe->hash);
    return conv_out_write(&pipe->out, record->offset + chunk->offset, chunk->data, chunk->n_bytes,
                          pipe->job->cancel, error);
}

static ernie_status pipe_make(conv_pipe *pipe, unsigned worker, uint32_t i, ernie_error *error)
{
    uint64_t n_done = 0;
    const pipe_chunk *chunk = pipe->making;
    const ern_record *record = &pipe->job->plan->records[chunk->record];
    const conv_unit unit = conv_unit_at(record, chunk->first_unit + i);
    unsigned char *dst = chunk->data + (unit.offset - chunk->offset);
    memset(dst, 0, (size_t)unit.n_bytes);
    const ernie_status status =
        pipe->job->make(pipe->job->user, worker, chunk->record, &unit, dst, &n_done, error);
    atomic_fetch_add(&pipe->n_done, n_done);
    return status;
}

/* Callbacks come on the caller's thread only, which is worker 0. */
static ernie_status pipe_report(conv_pipe *pipe, bool always, ernie_error *error)
{
    const conv_job *job = pipe->job;
    const double now = ern_seconds();
    if (!job->progress || (!always && now - pipe->last_report < PIPE_PROGRESS_SECONDS))
        return ERNIE_OK;
    pipe->last_report = now;
    const uint64_t n_done = atomic_load(&pipe->n_done);
    ERN_FAIL_IF(job->progress(job->what, n_done, job->n_total, job->progress_user) != 0, error,
                ERNIE_CANCELLED, "%s: cancelled", pipe->out.path.text);
    return ERNIE_OK;
}

static ernie_status pipe_task(conv_pipe *pipe, unsigned worker, unsigned task, ernie_error *error)
{
    ERN_FAIL_IF(ern_cancelled(pipe->job->cancel), error, ERNIE_CANCELLED, "%s: cancelled",
                pipe->out.path.text);
    ernie_status status =
        task == 0 ? pipe_write(pipe, error) : pipe_make(pipe, worker, task - 1, error);
    if (status == ERNIE_OK && worker == 0) status = pipe_report(pipe, false, error);
    return status;
}

static void pipe_work(ern_worker *worker, void *arg)
{
    conv_pipe *pipe = arg;
    pipe_failure *failure = &pipe->failures[worker->index];
    const unsigned n_tasks = pipe->making->n_units + 1;
    while (!atomic_load(&pipe->stop)) {
        const unsigned task = atomic_fetch_add(&pipe->next_task, 1);
        if (task >= n_tasks) break;
        if (pipe_task(pipe, worker->index, task, &failure->error) == ERNIE_OK) continue;
        failure->task = task;
        atomic_store(&pipe->stop, true);
    }
}

/* One region: write pipe->writing, make pipe->making. Of several failures the earliest is told, so
 * that the same input gives the same message on any number of threads. */
static ernie_status pipe_turn(conv_pipe *pipe, ernie_error *error)
{
    const pipe_failure *first = NULL;
    atomic_store(&pipe->next_task, 0);
    ern_pool_run(pipe->pool, pipe_work, pipe);
    for (unsigned i = 0; i < pipe->job->n_threads; i++) {
        const pipe_failure *failure = &pipe->failures[i];
        if (failure->error.code != ERNIE_OK && (!first || failure->task < first->task))
            first = failure;
    }
    if (!first) return ERNIE_OK;
    return ern_error_set(error, first->error.code, "%s", first->error.message);
}

/* ---- Records --------------------------------------------------------------------------------- */

/* Fill pipe->making with as many units from first_unit on as the buffer takes. */
static void pipe_take_units(conv_pipe *pipe, uint32_t i, uint32_t first_unit)
{
    pipe_chunk *chunk = pipe->making;
    const ern_record *record = &pipe->job->plan->records[i];
    const uint32_t n_units = conv_n_units(record);
    chunk->record = i;
    chunk->first_unit = first_unit;
    chunk->n_units = 0;
    chunk->n_bytes = 0;
    chunk->offset = conv_unit_at(record, first_unit).offset;
    while (first_unit + chunk->n_units < n_units) {
        const conv_unit unit = conv_unit_at(record, first_unit + chunk->n_units);
        if (chunk->n_bytes + unit.n_bytes > pipe->chunk_bytes) break;
        chunk->n_bytes += (size_t)unit.n_bytes;
        chunk->n_units++;
    }
    chunk->last = first_unit + chunk->n_units == n_units;
}

static void pipe_swap(conv_pipe *pipe)
{
    pipe_chunk *made = pipe->making;
    pipe->making = pipe->writing;
    pipe->writing = made;
    pipe->making->n_units = 0;
}

static ernie_status pipe_records(conv_pipe *pipe, ernie_error *error)
{
    const conv_plan *plan = pipe->job->plan;
    for (uint32_t i = 0; i < plan->header.n_records; i++) {
        for (uint32_t unit = 0; unit < conv_n_units(&plan->records[i]);) {
            pipe_take_units(pipe, i, unit);
            unit += pipe->making->n_units;
            const ernie_status status = pipe_turn(pipe, error);
            if (status != ERNIE_OK) return status;
            pipe_swap(pipe);
        }
    }
    return pipe_turn(pipe, error); /* writes the last chunk */
}

/* ---- The file around the records ------------------------------------------------------------- */

static ernie_status pipe_write_section(conv_pipe *pipe, unsigned i, const void *data,
                                       ernie_error *error)
{
    ern_section *section = &pipe->job->plan->header.section[i];
    if (section->n_bytes == 0) return ERNIE_OK;
    section->checksum = ern_hash64(data, (size_t)section->n_bytes);
    return conv_out_write(&pipe->out, section->offset, data, (size_t)section->n_bytes,
                          pipe->job->cancel, error);
}

/* What makes the file a model comes last: until then its first bytes are zero. */
static ernie_status pipe_finish(conv_pipe *pipe, ernie_error *error)
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
    status = conv_out_write(&pipe->out, 0, header, sizeof *header, pipe->job->cancel, error);
    if (status == ERNIE_OK) status = pipe_report(pipe, true, error);
    return status == ERNIE_OK ? conv_out_commit(&pipe->out, error) : status;
}

static size_t pipe_chunk_bytes(const conv_plan *plan)
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
    return ern_max_size(largest_unit, ern_min_size(largest_record, CONV_CHUNK_BYTES));
}

static ernie_status pipe_open(conv_pipe *pipe, const char *path, ernie_error *error)
{
    const conv_job *job = pipe->job;
    pipe->chunk_bytes = pipe_chunk_bytes(job->plan);
    pipe->making = &pipe->chunk[0];
    pipe->writing = &pipe->chunk[1];
    pipe->failures = ern_alloc_zero(job->allocator, job->n_threads * sizeof *pipe->failures);
    for (unsigned i = 0; i < 2; i++)
        pipe->chunk[i].data = ern_alloc_aligned(job->allocator, pipe->chunk_bytes);
    ERN_FAIL_IF(!pipe->failures || !pipe->chunk[0].data || !pipe->chunk[1].data, error,
                ERNIE_NO_MEMORY, "no memory for two buffers of %zu bytes", pipe->chunk_bytes);
    ernie_status status = ern_pool_open(&pipe->pool, job->allocator, job->n_threads, error);
    if (status == ERNIE_OK)
        status = conv_out_open(&pipe->out, path, job->plan->header.file_bytes, error);
    return status;
}

static void pipe_close(conv_pipe *pipe)
{
    const conv_job *job = pipe->job;
    conv_out_abandon(&pipe->out);
    ern_pool_close(pipe->pool);
    for (unsigned i = 0; i < 2; i++)
        if (pipe->chunk[i].data)
            ern_free_aligned(job->allocator, pipe->chunk[i].data, pipe->chunk_bytes);
    if (pipe->failures)
        ern_free(job->allocator, pipe->failures, job->n_threads * sizeof *pipe->failures);
    ern_free_aligned(job->allocator, pipe, sizeof *pipe);
}

ERN_FN ernie_status conv_pipe_run(const conv_job *job, const char *path, ernie_error *error)
{
    uint64_t section_bytes[ERN_N_SECTIONS] = { 0 };
    for (unsigned i = 0; i < ERN_N_SECTIONS; i++)
        if (job->sections[i]) section_bytes[i] = job->sections[i]->n;
    conv_plan_place(job->plan, section_bytes);

    conv_pipe *pipe = ern_alloc_aligned(job->allocator, sizeof *pipe);
    ERN_FAIL_IF(!pipe, error, ERNIE_NO_MEMORY, "no memory for the conversion's state");
    memset(pipe, 0, sizeof *pipe);
    pipe->job = job;
    ernie_status status = pipe_open(pipe, path, error);
    if (status == ERNIE_OK) status = pipe_report(pipe, true, error);
    if (status == ERNIE_OK) status = pipe_records(pipe, error);
    if (status == ERNIE_OK) status = pipe_finish(pipe, error);
    pipe_close(pipe);
    return status;
}
