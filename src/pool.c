/* The worker team. Knows threads and nothing of what they compute.
 *
 * One mechanism does everything: the barrier. Idle workers stand in it; the caller sets the work
 * and arrives last, which releases them; a second barrier ends the region. So a region costs two
 * barriers and a sleeping team costs nothing.
 *
 * A waiter first spins, then lets others run on its processor, then sleeps: phases of a forward
 * step are microseconds apart, but a machine with fewer free processors than workers must hand its
 * time to whoever is still computing. */
#include "os.h"
#include "pool.h"

#ifdef ERNIE_OPENMP
#include <omp.h>
#endif

#define POOL_THREADS_MAX   1024u
#define POOL_SPINS         200u  /* pauses before the first look at the clock, a few microseconds */
#define POOL_YIELD_SECONDS 50e-6 /* from there on the processor is offered to others, then sleep */

struct ern_pool {
    alignas(ERN_CACHE_LINE) atomic_uint arrived; /* workers in the barrier */
    alignas(ERN_CACHE_LINE) atomic_uint phase;   /* barriers passed */
    atomic_uint n_asleep;                        /* in ern_wait on `phase` */
    alignas(ERN_CACHE_LINE) ern_pool_fn fn;      /* NULL tells the team to end */
    void *arg;
    const ernie_allocator *allocator;
    size_t block_bytes;
    unsigned n;
    unsigned n_spins; /* 0 when there are more workers than processors */
    struct pool_member {
        ern_thread thread;
        ern_worker worker;
    } member[]; /* [n]; the caller's thread is member 0 */
};

/* ---- Barrier ------------------------------------------------------------------------------- */

static bool pool_passed(ern_pool *pool, unsigned phase)
{
    return atomic_load_explicit(&pool->phase, memory_order_acquire) != phase;
}

/* Wait awake for a while; false when it is time to sleep. */
static bool pool_spin(ern_pool *pool, unsigned phase)
{
    for (unsigned i = 0; i < pool->n_spins; i++) {
        if (pool_passed(pool, phase)) return true;
        ern_cpu_relax();
    }
    const double until = ern_seconds() + POOL_YIELD_SECONDS;
    do {
        if (pool_passed(pool, phase)) return true;
        ern_thread_yield();
    } while (ern_seconds() < until);
    return pool_passed(pool, phase);
}

/* The order of n_asleep and phase is what keeps a sleeper from being missed: a waiter announces
 * itself before the kernel compares the phase; the last arrival changes the phase before it looks
 * for sleepers. Both are sequentially consistent, so at least one sees the other. */
static void pool_sleep(ern_pool *pool, unsigned phase)
{
    atomic_fetch_add(&pool->n_asleep, 1);
    while (atomic_load(&pool->phase) == phase) ern_wait(&pool->phase, phase);
    atomic_fetch_sub(&pool->n_asleep, 1);
}

static void pool_release(ern_pool *pool)
{
    atomic_store_explicit(&pool->arrived, 0, memory_order_relaxed);
    atomic_fetch_add(&pool->phase, 1);
    if (atomic_load(&pool->n_asleep)) ern_wake_all(&pool->phase);
}

ERN_FN void ern_pool_barrier(ern_worker *worker)
{
    ern_pool *pool = worker->pool;
    if (worker->n == 1) return;
    /* Cannot change before this worker has arrived. */
    const unsigned phase = atomic_load_explicit(&pool->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&pool->arrived, 1, memory_order_acq_rel) + 1 == worker->n)
        pool_release(pool);
    else if (!pool_spin(pool, phase))
        pool_sleep(pool, phase);
}

/* ---- Team ---------------------------------------------------------------------------------- */

static size_t pool_block_bytes(unsigned n)
{
    return sizeof(ern_pool) + n * sizeof(struct pool_member);
}

ERN_FN size_t ern_pool_bytes(unsigned n_threads)
{
    return ern_aligned_bytes(pool_block_bytes(n_threads));
}

static ern_pool *pool_alloc(const ernie_allocator *allocator, unsigned n)
{
    const size_t block_bytes = pool_block_bytes(n);
    ern_pool *pool = ern_alloc_aligned(allocator, block_bytes);
    if (!pool) return NULL;
    memset(pool, 0, block_bytes);
    atomic_init(&pool->arrived, 0);
    atomic_init(&pool->phase, 0);
    atomic_init(&pool->n_asleep, 0);
    pool->allocator = allocator;
    pool->block_bytes = block_bytes;
    pool->n = n;
    pool->n_spins = n <= ern_cpu_threads() ? POOL_SPINS : 0;
    for (unsigned i = 0; i < n; i++)
        pool->member[i].worker = (ern_worker){ .pool = pool, .index = i, .n = n };
    return pool;
}

#ifdef ERNIE_OPENMP

static ernie_status pool_start(ern_pool *pool, ernie_error *error)
{
    (void)pool;
    (void)error;
    return ERNIE_OK;
}

static void pool_stop(ern_pool *pool)
{
    (void)pool;
}

/* OpenMP may give fewer threads than asked for; the region works with those it gave. */
ERN_FN void ern_pool_run(ern_pool *pool, ern_pool_fn fn, void *arg)
{
#pragma omp parallel num_threads((int)pool->n)
    {
        ern_worker worker = { .pool = pool,
                              .index = (unsigned)omp_get_thread_num(),
                              .n = (unsigned)omp_get_num_threads() };
        fn(&worker, arg);
    }
}

#else

static void pool_member_main(void *arg)
{
    ern_worker *worker = arg;
    ern_pool *pool = worker->pool;
    for (;;) {
        ern_pool_barrier(worker);
        if (!pool->fn) return;
        pool->fn(worker, pool->arg);
        ern_pool_barrier(worker);
    }
}

/* End the first n_started members: the caller arrives for itself and for those that never came. */
static void pool_dismiss(ern_pool *pool, unsigned n_started)
{
    pool->fn = NULL;
    atomic_fetch_add_explicit(&pool->arrived, pool->n - n_started, memory_order_acq_rel);
    if (n_started > 1) ern_pool_barrier(&pool->member[0].worker);
    for (unsigned i = 1; i < n_started; i++) ern_thread_join(&pool->member[i].thread);
}

static ernie_status pool_start(ern_pool *pool, ernie_error *error)
{
    for (unsigned i = 1; i < pool->n; i++) {
        struct pool_member *member = &pool->member[i];
        if (ern_thread_start(&member->thread, pool_member_main, &member->worker)) continue;
        pool_dismiss(pool, i);
        return ern_error_set(error, ERNIE_NO_MEMORY, "thread %u of %u could not be started", i + 1,
                             pool->n);
    }
    return ERNIE_OK;
}

static void pool_stop(ern_pool *pool)
{
    pool_dismiss(pool, pool->n);
}

ERN_FN void ern_pool_run(ern_pool *pool, ern_pool_fn fn, void *arg)
{
    ern_worker *worker = &pool->member[0].worker;
    pool->fn = fn;
    pool->arg = arg;
    ern_pool_barrier(worker);
    fn(worker, arg);
    ern_pool_barrier(worker);
}

#endif

ERN_FN ernie_status ern_pool_open(ern_pool **out, const ernie_allocator *allocator,
                                  unsigned n_threads, ernie_error *error)
{
    *out = NULL;
    ERN_FAIL_IF(n_threads == 0 || n_threads > POOL_THREADS_MAX, error, ERNIE_INVALID,
                "%u threads asked for, 1 .. %u can be had", n_threads, POOL_THREADS_MAX);
    ern_pool *pool = pool_alloc(allocator, n_threads);
    ERN_FAIL_IF(!pool, error, ERNIE_NO_MEMORY, "no memory for a team of %u threads", n_threads);
    const ernie_status status = pool_start(pool, error);
    if (status != ERNIE_OK) {
        ern_free_aligned(allocator, pool, pool->block_bytes);
        return status;
    }
    *out = pool;
    return ERNIE_OK;
}

ERN_FN void ern_pool_close(ern_pool *pool)
{
    if (!pool) return;
    pool_stop(pool);
    ern_free_aligned(pool->allocator, pool, pool->block_bytes);
}

#undef POOL_THREADS_MAX
#undef POOL_SPINS
#undef POOL_YIELD_SECONDS
