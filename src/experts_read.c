/* The readers: whose turn it is, pieces, checks, second tries, throttles; and who reads for other
 * ends than slots, the probe and the check of records (experts.h).
 *
 * What someone waits for goes before what is read ahead, in the order it was asked for, and reads
 * ahead begin only while nothing of the former is left to read. An expert is read in pieces so that
 * a single miss occupies several readers; whoever ends the last piece checks the whole. */
#include "experts_inner.h"

#define READING_PIECE_BYTES ((uint64_t)2 << 20)
#define READING_NAP         5e-3 /* seconds between two looks at whether it is time to end */
#define READING_PROBES_MAX  72u  /* experts under way at once while the speed is measured */

static unsigned long long reading_ull(uint64_t x)
{
    return (unsigned long long)x;
}

static size_t reading_piece_bytes(const ern_experts *e, uint64_t at)
{
    const uint64_t left = e->expert_bytes - at;
    return (size_t)(left < READING_PIECE_BYTES ? left : READING_PIECE_BYTES);
}

/* ---- Queues -------------------------------------------------------------------------------- */

static void reading_enter(ern_experts *e, ern_experts_job *job)
{
    ern_experts_queue *queue = job->demand ? &e->demand : &e->ahead;
    job->before = queue->last;
    job->after = NULL;
    if (queue->last)
        queue->last->after = job;
    else
        queue->first = job;
    queue->last = job;
    job->queued = true;
    e->has_work = true;
}

static void reading_leave(ern_experts *e, ern_experts_job *job)
{
    ern_experts_queue *queue = job->demand ? &e->demand : &e->ahead;
    if (job->before)
        job->before->after = job->after;
    else
        queue->first = job->after;
    if (job->after)
        job->after->before = job->before;
    else
        queue->last = job->before;
    job->queued = false;
}

/* All of a job that someone waits for has been read, or nobody waits any more. */
static void reading_demand_ends(ern_experts *e)
{
    if (--e->n_demand == 0) e->has_work = true;
}

ERN_FN void ern_experts_submit(ern_experts *e, ern_experts_job *job, bool demand)
{
    job->n_taken = job->n_done = 0;
    job->spoiled = job->dropped = job->over = false;
    job->demand = demand;
    e->n_demand += demand;
    reading_enter(e, job);
}

ERN_FN void ern_experts_hurry(ern_experts *e, ern_experts_job *job)
{
    if (job->demand || job->over) return;
    const bool queued = job->queued;
    if (queued) reading_leave(e, job);
    job->demand = true;
    if (job->n_done < e->n_pieces) e->n_demand++;
    if (queued) reading_enter(e, job);
}

ERN_FN bool ern_experts_withdraw(ern_experts *e, ern_experts_job *job)
{
    if (!job->queued || job->n_taken) return false;
    reading_leave(e, job);
    if (job->demand) reading_demand_ends(e);
    return true;
}

/* No more of it shall be begun; true when nothing of it is under way any more. */
static bool reading_drop(ern_experts *e, ern_experts_job *job)
{
    if (job->queued) {
        reading_leave(e, job);
        if (job->demand) reading_demand_ends(e);
        job->dropped = true;
    }
    return job->over || (job->dropped && job->n_done == job->n_taken);
}

/* The job whose next piece is to be read, NULL when there is nothing to do. */
static ern_experts_job *reading_next(ern_experts *e)
{
    if (e->demand.first) return e->demand.first;
    if (e->n_demand) return NULL;
    if (!e->ahead.first && !ern_experts_warm_next(e)) return NULL;
    return e->ahead.first;
}

/* ---- Throttles ----------------------------------------------------------------------------- */

/* When a read of n bytes that begins now may have ended at the earliest: all readers share one
 * clock. */
static double reading_earliest(ern_experts *e, size_t n)
{
    const double now = ern_seconds();
    if (!(e->io_limit > 0)) return now;
    ern_experts_lock(e);
    if (e->throttle_until < now) e->throttle_until = now;
    e->throttle_until += (double)n / e->io_limit;
    const double until = e->throttle_until;
    ern_experts_unlock(e);
    return until;
}

static void reading_delay(ern_experts *e, double earliest)
{
    if (!(e->io_limit > 0) && !(e->io_latency > 0)) return;
    double now = ern_seconds();
    const double until = (earliest > now ? earliest : now) + e->io_latency;
    for (; now < until && !atomic_load(&e->closing); now = ern_seconds())
        ern_sleep(until - now < READING_NAP ? until - now : READING_NAP);
}

/* ---- Reading ------------------------------------------------------------------------------- */

static ernie_status reading_bytes(ern_experts *e, unsigned reader, uint64_t offset,
                                  unsigned char *data, size_t n, bool again, ernie_error *error)
{
    if (e->disk && again) return ern_disk_reread(e->disk, reader, offset, data, n, error);
    if (e->disk) return ern_disk_read(e->disk, reader, offset, data, n, error);
    ERN_FAIL_IF(e->source.read(e->source.user, offset, data, n) != 0, error, ERNIE_IO,
                "the source could not read %zu bytes at %llu", n, reading_ull(offset));
    return ERNIE_OK;
}

/* Without the lock. */
static ernie_status reading_piece(ern_experts *e, unsigned reader, const ern_experts_job *job,
                                  uint64_t at, bool again, ernie_error *error)
{
    const size_t n = reading_piece_bytes(e, at);
    const double earliest = reading_earliest(e, n);
    const ernie_status status = reading_bytes(e, reader, e->records[job->expert].offset + at,
                                              job->data + at, n, again, error);
    reading_delay(e, earliest);
    return status;
}

static void reading_begins(ern_experts *e)
{
    if (e->n_reading++ == 0) e->busy_since = ern_seconds();
}

static void reading_ends(ern_experts *e)
{
    if (--e->n_reading == 0) e->busy_seconds += ern_seconds() - e->busy_since;
}

static bool reading_is_sound(const ern_experts *e, const ern_experts_job *job)
{
    const ern_record *r = &e->records[job->expert];
    return ern_hash64(job->data, (size_t)r->n_bytes) == r->checksum;
}

/* The whole expert once more, by one reader. */
static ernie_status reading_again(ern_experts *e, unsigned reader, const ern_experts_job *job,
                                  ernie_error *error)
{
    ernie_status status = ERNIE_OK;
    ern_experts_lock(e);
    reading_begins(e);
    ern_experts_unlock(e);
    for (uint64_t at = 0; status == ERNIE_OK && at < e->expert_bytes; at += READING_PIECE_BYTES) {
        status = reading_piece(e, reader, job, at, true, error);
        if (atomic_load(&e->closing))
            status = ern_error_set(error, ERNIE_CANCELLED, "the model is being closed");
    }
    ern_experts_lock(e);
    reading_ends(e);
    ern_experts_unlock(e);
    return status;
}

/* Everything has been read: is it what the record says? The failed job's bytes, which nobody will
 * want any more, keep the sentence. */
static ernie_status reading_check(ern_experts *e, unsigned reader, ern_experts_job *job)
{
    const ern_record *r = &e->records[job->expert];
    ernie_error inner, error;
    if (!job->spoiled && reading_is_sound(e, job)) return ERNIE_OK;
    ernie_status status = reading_again(e, reader, job, &inner);
    if (status == ERNIE_OK && reading_is_sound(e, job)) return ERNIE_OK;
    if (status == ERNIE_OK)
        status = ern_error_set(&inner, ERNIE_CORRUPT,
                               "the checksum of %llu bytes does not match, read twice",
                               reading_ull(r->n_bytes));
    ern_error_set(&error, status, "layer %u expert %u at offset %llu: %s", (unsigned)r->layer,
                  (unsigned)r->expert, reading_ull(r->offset), inner.message);
    memcpy(job->data, error.message, sizeof error.message);
    return status;
}

/* One piece of the job; begun and ended with the lock held. */
static void reading_work(ern_experts *e, unsigned reader, ern_experts_job *job)
{
    const uint64_t at = job->n_taken * READING_PIECE_BYTES;
    if (++job->n_taken == e->n_pieces) reading_leave(e, job);
    reading_begins(e);
    ern_experts_unlock(e);
    const ernie_status piece = reading_piece(e, reader, job, at, false, NULL);
    ern_experts_lock(e);
    reading_ends(e);
    if (piece != ERNIE_OK) job->spoiled = true;
    job->n_done++;
    e->has_events |= job->dropped;
    if (job->n_done < e->n_pieces) return;
    if (job->demand) reading_demand_ends(e);
    ern_experts_unlock(e);
    const ernie_status status = reading_check(e, reader, job);
    ern_experts_lock(e);
    ern_experts_landed(e, job, status);
}

static void reading_sleep(ern_experts *e)
{
    const unsigned work = atomic_load(&e->work); /* changes under the lock only */
    e->n_idle++;
    ern_experts_unlock(e);
    ern_wait(&e->work, work);
    ern_experts_lock(e);
    e->n_idle--;
}

static void reading_main(void *arg)
{
    const ern_experts_reader *reader = arg;
    ern_experts *e = reader->experts;
    ern_experts_lock(e);
    while (!atomic_load(&e->closing)) {
        ern_experts_job *job = reading_next(e);
        if (job)
            reading_work(e, reader->i, job);
        else
            reading_sleep(e);
    }
    ern_experts_unlock(e);
}

ERN_FN ernie_status ern_experts_start(ern_experts *e, unsigned n_readers, ernie_error *error)
{
    e->n_pieces = (uint32_t)((e->expert_bytes + READING_PIECE_BYTES - 1) / READING_PIECE_BYTES);
    for (unsigned i = 0; i < n_readers; i++) {
        ern_experts_reader *reader = &e->readers[i];
        reader->experts = e;
        reader->i = i;
        ERN_FAIL_IF(!ern_thread_start(&reader->thread, reading_main, reader), error,
                    ERNIE_NO_MEMORY, "reader %u of %u could not be started", i + 1, n_readers);
        e->n_readers++;
    }
    return ERNIE_OK;
}

ERN_FN void ern_experts_stop(ern_experts *e)
{
    ern_experts_lock(e);
    atomic_store(&e->closing, true);
    e->has_work = true;
    ern_experts_unlock(e);
    for (unsigned i = 0; i < e->n_readers; i++) ern_thread_join(&e->readers[i].thread);
}

ERN_FN double ern_experts_busy_seconds(ern_experts *e)
{
    ern_experts_lock(e);
    const double since = e->n_reading ? ern_seconds() - e->busy_since : 0;
    const double seconds = e->busy_seconds + since;
    ern_experts_unlock(e);
    return seconds;
}

/* ---- Reading for other ends ---------------------------------------------------------------- */

static uint64_t reading_block_bytes(const ern_experts *e, unsigned n)
{
    return n * e->expert_bytes + ERN_DISK_ALIGN + ERN_CACHE_LINE;
}

static unsigned reading_n_probes(const ern_experts *e)
{
    const unsigned n = e->n_readers / e->n_pieces + 2;
    return n > e->n_experts ? e->n_experts : n;
}

ERN_FN uint64_t ern_experts_probe_bytes(const ern_experts *e)
{
    return reading_block_bytes(e, reading_n_probes(e));
}

ERN_FN uint64_t ern_experts_verify_bytes(const ern_experts *e)
{
    return reading_block_bytes(e, 1);
}

/* Memory for n experts, each read into a place of its own. */
static void *reading_alloc(ern_experts *e, unsigned n, ern_experts_job *jobs, size_t *n_bytes,
                           ernie_error *error)
{
    const uint64_t expert_bytes = e->expert_bytes;
    void *block = NULL;
    if (expert_bytes <= (SIZE_MAX - ERN_DISK_ALIGN) / n) {
        *n_bytes = n * (size_t)expert_bytes + ERN_DISK_ALIGN;
        block = ern_alloc_filled(e->allocator, *n_bytes);
    }
    if (!block) {
        ern_error_set(error, ERNIE_NO_MEMORY, "no memory to read %u experts of %llu bytes into", n,
                      reading_ull(expert_bytes));
        return NULL;
    }
    unsigned char *data = block;
    data += -(uintptr_t)data % ERN_DISK_ALIGN;
    for (unsigned i = 0; i < n; i++)
        jobs[i] =
            (ern_experts_job){ .slot = ERN_EXPERTS_NONE, .data = data + i * (size_t)expert_bytes };
    return block;
}

static ernie_status reading_failure(const ern_experts_job *job, ernie_error *error)
{
    char sentence[sizeof error->message];
    memcpy(sentence, job->data, sizeof sentence);
    return ern_error_set(error, job->status, "%s", sentence);
}

/* What one measurement of the speed has come to. */
typedef struct reading_probe {
    ern_experts_job jobs[READING_PROBES_MAX];
    unsigned n;
    uint32_t expert, step;
    uint64_t n_bytes;
    ernie_status status;
} reading_probe;

/* A step that visits all of n experts, far from one to the next. */
static uint32_t reading_step(uint32_t n)
{
    uint32_t step = (uint32_t)(0.618 * n) | 1u;
    for (;; step += 2) {
        uint32_t a = n, b = step;
        while (b) {
            const uint32_t rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1) return step;
    }
}

static void reading_probe_submit(ern_experts *e, reading_probe *probe, ern_experts_job *job)
{
    job->expert = probe->expert;
    probe->expert = (uint32_t)(((uint64_t)probe->expert + probe->step) % e->n_experts);
    ern_experts_submit(e, job, true);
}

/* Take what has landed, put something new in its place unless `last`; false when nothing is under
 * way. With the lock held. */
static bool reading_probe_turn(ern_experts *e, reading_probe *probe, bool last, ernie_error *error)
{
    bool any = false;
    for (unsigned i = 0; i < probe->n; i++) {
        ern_experts_job *job = &probe->jobs[i];
        if (job->slot != ERN_EXPERTS_NONE) continue;
        if (last && !job->over && reading_drop(e, job)) {
            job->slot = 0; /* done with */
            continue;
        }
        if (!job->over) {
            any = true;
            continue;
        }
        if (job->status == ERNIE_OK)
            probe->n_bytes += e->expert_bytes;
        else if (probe->status == ERNIE_OK)
            probe->status = reading_failure(job, error);
        job->slot = 0;
        if (last || probe->status != ERNIE_OK) continue;
        job->slot = ERN_EXPERTS_NONE;
        reading_probe_submit(e, probe, job);
        any = true;
    }
    return any;
}

static void reading_probe_run(ern_experts *e, reading_probe *probe, double seconds,
                              const ernie_cancel *cancel, ernie_error *error)
{
    const double end = ern_seconds() + seconds;
    ern_experts_lock(e);
    for (unsigned i = 0; i < probe->n; i++) reading_probe_submit(e, probe, &probe->jobs[i]);
    ern_experts_unlock(e);
    for (bool any = true; any;) {
        const unsigned events = ern_experts_events(e);
        const bool last = ern_seconds() >= end || ern_cancelled(cancel);
        ern_experts_lock(e);
        any = reading_probe_turn(e, probe, last || probe->status != ERNIE_OK, error);
        ern_experts_unlock(e);
        if (any) ern_experts_wait(e, events, READING_NAP);
    }
}

ERN_FN ernie_status ern_experts_probe(ern_experts *e, double seconds, const ernie_cancel *cancel,
                                      double *rate, ernie_error *error)
{
    reading_probe probe = { .status = ERNIE_OK };
    size_t block_bytes = 0;
    *rate = 0;
    probe.n = reading_n_probes(e);
    probe.step = reading_step(e->n_experts);
    void *block = reading_alloc(e, probe.n, probe.jobs, &block_bytes, error);
    if (!block) return ERNIE_NO_MEMORY;
    memset(block, 0, block_bytes); /* the system's work for fresh pages is not the disk's */
    const double begin = ern_seconds();
    reading_probe_run(e, &probe, seconds, cancel, error);
    *rate = (double)probe.n_bytes / (ern_seconds() - begin);
    ern_free_aligned(e->allocator, block, block_bytes);
    if (probe.status != ERNIE_OK) return probe.status;
    ERN_FAIL_IF(ern_cancelled(cancel), error, ERNIE_CANCELLED,
                "cancelled while measuring the disk's speed");
    return ERNIE_OK;
}

/* Until the job is over or, once cancelled, nothing of it is under way: then false. */
static bool reading_await(ern_experts *e, ern_experts_job *job, const ernie_cancel *cancel)
{
    for (;;) {
        const unsigned events = ern_experts_events(e);
        ern_experts_lock(e);
        const bool ended = ern_cancelled(cancel) ? reading_drop(e, job) : job->over;
        const bool over = job->over;
        ern_experts_unlock(e);
        if (ended) return over;
        ern_experts_wait(e, events, READING_NAP);
    }
}

/* What lies between an expert and the next one; a newer version may have put something there. */
static ernie_status reading_check_padding(const ern_experts *e, const ern_experts_job *job,
                                          ernie_error *error)
{
    const ern_record *r = &e->records[job->expert];
    if (e->format->header->version > ERN_FORMAT_VERSION) return ERNIE_OK;
    for (uint64_t i = r->n_bytes; i < e->expert_bytes; i++)
        ERN_FAIL_IF(job->data[i] != 0, error, ERNIE_CORRUPT,
                    "layer %u expert %u: byte %llu, which belongs to nothing, is %u, must be 0",
                    (unsigned)r->layer, (unsigned)r->expert, reading_ull(r->offset + i),
                    job->data[i]);
    return ERNIE_OK;
}

ERN_FN ernie_status ern_experts_verify(ern_experts *e, uint32_t i_record,
                                       const ernie_cancel *cancel, ernie_error *error)
{
    const uint32_t first = (uint32_t)(e->records - e->format->records);
    ernie_status status;
    ern_experts_job job;
    size_t block_bytes = 0;
    ERN_ASSERT(i_record >= first && i_record - first < e->n_experts);
    void *block = reading_alloc(e, 1, &job, &block_bytes, error);
    if (!block) return ERNIE_NO_MEMORY;
    job.expert = i_record - first;
    ern_experts_lock(e);
    ern_experts_submit(e, &job, true);
    ern_experts_unlock(e);
    if (!reading_await(e, &job, cancel))
        status = ern_error_set(error, ERNIE_CANCELLED, "cancelled while an expert was checked");
    else if (job.status != ERNIE_OK)
        status = reading_failure(&job, error);
    else
        status = reading_check_padding(e, &job, error);
    ern_free_aligned(e->allocator, block, block_bytes);
    return status;
}

#undef READING_PIECE_BYTES
#undef READING_NAP
#undef READING_PROBES_MAX
