/* The worker team: one parallel region per forward step, a barrier between its phases.
 *
 * The calling thread is worker 0. Workers spin briefly for the next region, then sleep, so that an
 * idle session uses no CPU. With OpenMP (ERNIE_OPENMP) the region is an `omp parallel`; otherwise a
 * team of our own threads. The barrier is ours in both: sense reversing, spin then sleep. */
#ifndef ERN_POOL_H
#define ERN_POOL_H

#include "ern.h"

typedef struct ern_pool ern_pool;

typedef struct ern_worker {
    ern_pool *pool;
    unsigned index;   /* 0 .. n - 1 */
    unsigned n;       /* workers in this region */
} ern_worker;

typedef void (*ern_pool_fn)(ern_worker *worker, void *arg);

/* n_threads 1 .. 1024; with 1 no thread is made. ERNIE_INVALID names both numbers, ERNIE_NO_MEMORY
 * the thread that could not start. (OpenMP's runtime ends the process itself when it cannot.) */
ERN_FN ernie_status ern_pool_open(ern_pool **out, const ernie_allocator *allocator,
                                  unsigned n_threads, ernie_error *error);
ERN_FN void ern_pool_close(ern_pool *pool); /* joins; NULL is fine */
ERN_FN size_t ern_pool_bytes(unsigned n_threads); /* that ern_pool_open allocates */

/* Run fn on every worker and return when all are done. One caller at a time. */
ERN_FN void ern_pool_run(ern_pool *pool, ern_pool_fn fn, void *arg);

/* All workers of the region must call it; writes before it are seen after it. */
ERN_FN void ern_pool_barrier(ern_worker *worker);

/* Worker i's share of n items in whole tiles of `tile`: [*begin, *end), possibly empty. A single
 * tile is worker 0's. */
static ERN_INLINE void ern_worker_share(const ern_worker *worker, size_t n, size_t tile,
                                        size_t *begin, size_t *end)
{
    const size_t n_tiles = (n + tile - 1) / tile;
    const size_t i = worker->index, w = worker->n;
    *begin = ern_min_size(n, (n_tiles * i + w - 1) / w * tile);
    *end = ern_min_size(n, (n_tiles * (i + 1) + w - 1) / w * tile);
}

#endif
