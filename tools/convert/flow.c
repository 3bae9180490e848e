/* One parallel region a batch, in which the first task is to write the batch before. Two buffers take
 * turns. */
#include "flow.h"
#include "../../src/os.h"
#include "../../src/pool.h"

#define FLOW_PROGRESS_SECONDS 0.1

typedef struct flow_failure {
    ernie_error error;
    unsigned task; /* which task failed first; tasks are handed out in order */
} flow_failure;

struct conv_flow {
    const conv_flow_job *job;
    conv_out out;
    ern_pool *pool;
    conv_batch batch[2];
    conv_batch *making, *writing;
    size_t batch_bytes;
    flow_failure *failures; /* [n_threads] */
    atomic_uint next_task;
    atomic_bool stop;
    atomic_ullong n_done;
    double last_report;
};

/* ---- Tasks ----------------------------------------------------------------------------------- */

static ernie_status flow_write(conv_flow *flow, ernie_error *error)
{
    const conv_batch *batch = flow->writing;
    if (batch->n_bytes == 0) return ERNIE_OK;
    if (flow->job->before_write) flow->job->before_write(flow->job->user, batch);
    return conv_out_write(&flow->out, batch->offset, batch->data, batch->n_bytes, flow->job->cancel,
                          error);
}

static ernie_status flow_make(conv_flow *flow, unsigned worker, uint32_t i, ernie_error *error)
{
    uint64_t n_done = 0;
    const ernie_status status =
        flow->job->make(flow->job->user, worker, flow->making, i, &n_done, error);
    atomic_fetch_add(&flow->n_done, n_done);
    return status;
}

/* Callbacks come on the caller's thread only, which is worker 0. */
static ernie_status flow_report(conv_flow *flow, bool always, ernie_error *error)
{
    const conv_flow_job *job = flow->job;
    const double now = ern_seconds();
    if (!job->progress || (!always && now - flow->last_report < FLOW_PROGRESS_SECONDS))
        return ERNIE_OK;
    flow->last_report = now;
    const uint64_t n_done = atomic_load(&flow->n_done);
    ERN_FAIL_IF(job->progress(job->what, n_done, job->n_total, job->progress_user) != 0, error,
                ERNIE_CANCELLED, "%s: cancelled", flow->out.path.text);
    return ERNIE_OK;
}

static ernie_status flow_task(conv_flow *flow, unsigned worker, unsigned task, ernie_error *error)
{
    ERN_FAIL_IF(ern_cancelled(flow->job->cancel), error, ERNIE_CANCELLED, "%s: cancelled",
                flow->out.path.text);
    ernie_status status =
        task == 0 ? flow_write(flow, error) : flow_make(flow, worker, task - 1, error);
    if (status == ERNIE_OK && worker == 0) status = flow_report(flow, false, error);
    return status;
}

static void flow_work(ern_worker *worker, void *arg)
{
    conv_flow *flow = arg;
    flow_failure *failure = &flow->failures[worker->index];
    const unsigned n_tasks = flow->making->n_pieces + 1;
    while (!atomic_load(&flow->stop)) {
        const unsigned task = atomic_fetch_add(&flow->next_task, 1);
        if (task >= n_tasks) break;
        if (flow_task(flow, worker->index, task, &failure->error) == ERNIE_OK) continue;
        failure->task = task;
        atomic_store(&flow->stop, true);
    }
}

/* One region: write flow->writing, make flow->making. Of several failures the earliest is told, so
 * that the same input gives the same message on any number of threads. */
static ernie_status flow_turn(conv_flow *flow, ernie_error *error)
{
    const flow_failure *first = NULL;
    atomic_store(&flow->next_task, 0);
    ern_pool_run(flow->pool, flow_work, flow);
    for (unsigned i = 0; i < flow->job->n_threads; i++) {
        const flow_failure *failure = &flow->failures[i];
        if (failure->error.code != ERNIE_OK && (!first || failure->task < first->task))
            first = failure;
    }
    if (!first) return ERNIE_OK;
    return ern_error_set(error, first->error.code, "%s", first->error.message);
}

/* ---- Batches --------------------------------------------------------------------------------- */

static ernie_status flow_next(conv_flow *flow, const conv_batch *batch, ernie_error *error)
{
    unsigned char *data = flow->making->data;
    *flow->making = *batch;
    flow->making->data = data;
    const ernie_status status = flow_turn(flow, error);
    conv_batch *made = flow->making;
    flow->making = flow->writing;
    flow->writing = made;
    return status;
}

ERN_FN ernie_status conv_flow_push(conv_flow *flow, const conv_batch *batch, ernie_error *error)
{
    ERN_ASSERT(batch->n_bytes <= flow->batch_bytes);
    return flow_next(flow, batch, error);
}

ERN_FN ernie_status conv_flow_drain(conv_flow *flow, ernie_error *error)
{
    const conv_batch none = { .n_pieces = 0 };
    return flow_next(flow, &none, error);
}

ERN_FN ernie_status conv_flow_write(conv_flow *flow, uint64_t offset, const void *data, size_t n,
                                    ernie_error *error)
{
    return conv_out_write(&flow->out, offset, data, n, flow->job->cancel, error);
}

ERN_FN ernie_status conv_flow_commit(conv_flow *flow, ernie_error *error)
{
    const ernie_status status = flow_report(flow, true, error);
    return status == ERNIE_OK ? conv_out_commit(&flow->out, error) : status;
}

/* ---- Opening --------------------------------------------------------------------------------- */

static ernie_status flow_fill(conv_flow *flow, const char *path, uint64_t file_bytes,
                              ernie_error *error)
{
    const conv_flow_job *job = flow->job;
    flow->making = &flow->batch[0];
    flow->writing = &flow->batch[1];
    flow->failures = ern_alloc_zero(job->allocator, job->n_threads * sizeof *flow->failures);
    for (unsigned i = 0; i < 2; i++)
        flow->batch[i].data = ern_alloc_aligned(job->allocator, flow->batch_bytes);
    ERN_FAIL_IF(!flow->failures || !flow->batch[0].data || !flow->batch[1].data, error,
                ERNIE_NO_MEMORY, "no memory for two buffers of %zu bytes", flow->batch_bytes);
    ernie_status status = ern_pool_open(&flow->pool, job->allocator, job->n_threads, error);
    if (status == ERNIE_OK) status = conv_out_open(&flow->out, path, file_bytes, error);
    return status == ERNIE_OK ? flow_report(flow, true, error) : status;
}

ERN_FN ernie_status conv_flow_open(conv_flow **out, const conv_flow_job *job, const char *path,
                                   uint64_t file_bytes, size_t batch_bytes, ernie_error *error)
{
    *out = NULL;
    conv_flow *flow = ern_alloc_aligned(job->allocator, sizeof *flow);
    ERN_FAIL_IF(!flow, error, ERNIE_NO_MEMORY, "no memory for the state of an output file");
    memset(flow, 0, sizeof *flow);
    flow->job = job;
    flow->batch_bytes = batch_bytes;
    const ernie_status status = flow_fill(flow, path, file_bytes, error);
    if (status != ERNIE_OK) {
        conv_flow_close(flow);
        return status;
    }
    *out = flow;
    return ERNIE_OK;
}

ERN_FN void conv_flow_close(conv_flow *flow)
{
    if (!flow) return;
    const conv_flow_job *job = flow->job;
    conv_out_abandon(&flow->out);
    ern_pool_close(flow->pool);
    for (unsigned i = 0; i < 2; i++)
        if (flow->batch[i].data)
            ern_free_aligned(job->allocator, flow->batch[i].data, flow->batch_bytes);
    if (flow->failures)
        ern_free(job->allocator, flow->failures, job->n_threads * sizeof *flow->failures);
    ern_free_aligned(job->allocator, flow, sizeof *flow);
}
