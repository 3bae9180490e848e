/* The worker team: regions, barriers, idleness, failures, more workers than processors. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "../../src/os.h"
#include "../../src/pool.h"
#include "test_allocator.h"

#define WORKERS_MAX 64

static const unsigned sizes[] = { 1, 2, 3, 4, 8, 17 };

static void open_pool(ern_pool **pool, unsigned n)
{
    ernie_error error = { ERNIE_OK, "" };
    if (ern_pool_open(pool, ern_allocator_default(), n, &error) != ERNIE_OK)
        fail_msg("%s", error.message);
}

typedef struct visits {
    atomic_uint n_by_index[WORKERS_MAX];
    atomic_uint n_wrong;
    unsigned n_last;
} visits;

static void visit(ern_worker *worker, void *arg)
{
    visits *v = arg;
    if (worker->index >= worker->n || worker->n > WORKERS_MAX) atomic_fetch_add(&v->n_wrong, 1);
    atomic_fetch_add(&v->n_by_index[worker->index], 1);
    if (worker->index == 0) v->n_last = worker->n;
}

static void every_worker_runs_once(void **state)
{
    (void)state;
    for (size_t i = 0; i < ERN_COUNT(sizes); i++) {
        ern_pool *pool;
        visits v;
        open_pool(&pool, sizes[i]);
        for (unsigned round = 0; round < 50; round++) {
            memset(&v, 0, sizeof v);
            ern_pool_run(pool, visit, &v);
            assert_int_equal(atomic_load(&v.n_wrong), 0);
            assert_true(v.n_last >= 1 && v.n_last <= sizes[i]);
            for (unsigned w = 0; w < WORKERS_MAX; w++)
                assert_int_equal(atomic_load(&v.n_by_index[w]), w < v.n_last);
        }
        ern_pool_close(pool);
    }
    ern_pool_close(NULL);
}

/* Each worker writes its cell, waits, and sums the cells of all, phase after phase: a barrier that
 * lets anybody through early or hides a write gives a wrong sum. */
typedef struct phases {
    unsigned cell[2][WORKERS_MAX];
    unsigned n_phases;
    atomic_uint n_wrong;
} phases;

static void sum_cells(ern_worker *worker, void *arg)
{
    phases *p = arg;
    for (unsigned phase = 0; phase < p->n_phases; phase++) {
        unsigned *cell = p->cell[phase % 2];
        unsigned sum = 0;
        cell[worker->index] = phase + worker->index;
        ern_pool_barrier(worker);
        for (unsigned w = 0; w < worker->n; w++) sum += cell[w];
        if (sum != worker->n * phase + worker->n * (worker->n - 1) / 2)
            atomic_fetch_add(&p->n_wrong, 1);
    }
}

static void barriers_order_phases(void **state)
{
    (void)state;
    for (size_t i = 0; i < ERN_COUNT(sizes); i++) {
        ern_pool *pool;
        phases p;
        memset(&p, 0, sizeof p);
        p.n_phases = 200;
        open_pool(&pool, sizes[i]);
        for (unsigned round = 0; round < 5; round++) ern_pool_run(pool, sum_cells, &p);
        assert_int_equal(atomic_load(&p.n_wrong), 0);
        ern_pool_close(pool);
    }
}

/* Workers that fall asleep inside a region and between regions must be woken. */
static void be_late(ern_worker *worker, void *arg)
{
    phases *p = arg;
    for (unsigned phase = 0; phase < 3; phase++) {
        if (worker->index == phase % worker->n) usleep(3000);
        p->cell[phase % 2][worker->index]++;
        ern_pool_barrier(worker);
    }
}

static void sleepers_are_woken(void **state)
{
    (void)state;
    ern_pool *pool;
    phases p;
    memset(&p, 0, sizeof p);
    open_pool(&pool, 4);
    for (unsigned round = 0; round < 10; round++) {
        ern_pool_run(pool, be_late, &p);
        usleep(1000);
    }
    for (unsigned w = 0; w < 4; w++) assert_true(p.cell[0][w] == 20 || p.cell[0][w] == 0);
    assert_int_equal(p.cell[0][0], 20);
    ern_pool_close(pool);
}

static double cpu_seconds(void)
{
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (double)used.tv_sec + 1e-9 * (double)used.tv_nsec;
}

static void idle_team_uses_no_cpu(void **state)
{
    (void)state;
    ern_pool *pool;
    visits v;
    memset(&v, 0, sizeof v);
    open_pool(&pool, 8);
    ern_pool_run(pool, visit, &v);
    usleep(50000); /* OpenMP's own workers spin for a while before they sleep */
    const double before = cpu_seconds();
    usleep(200000);
    assert_true(cpu_seconds() - before < 0.02);
    ern_pool_close(pool);
}

/* 2000 phases of 16 workers on any machine: microseconds each, not scheduler ticks. */
static void crowded_team_does_not_crawl(void **state)
{
    (void)state;
    ern_pool *pool;
    phases p;
    memset(&p, 0, sizeof p);
    p.n_phases = 2000;
    open_pool(&pool, 16);
    const double start = ern_seconds();
    ern_pool_run(pool, sum_cells, &p);
    assert_true(ern_seconds() - start < 10.0);
    assert_int_equal(atomic_load(&p.n_wrong), 0);
    ern_pool_close(pool);
}

static void bad_sizes_are_refused(void **state)
{
    (void)state;
    static const unsigned bad[] = { 0, 1025, 0xffffffffu };
    for (size_t i = 0; i < ERN_COUNT(bad); i++) {
        ern_pool *pool = (ern_pool *)8;
        ernie_error error;
        assert_int_equal(ern_pool_open(&pool, ern_allocator_default(), bad[i], &error),
                         ERNIE_INVALID);
        assert_null(pool);
        assert_non_null(strstr(error.message, "1 .. 1024"));
    }
}

static void no_memory_unwinds(void **state)
{
    (void)state;
    test_allocator counter;
    ernie_allocator allocator;
    ern_pool *pool = (ern_pool *)8;
    test_allocator_begin(&counter, &allocator);
    test_allocator_fail_at(&counter, 0, true);
    assert_int_equal(ern_pool_open(&pool, &allocator, 4, NULL), ERNIE_NO_MEMORY);
    assert_null(pool);
    test_allocator_begin(&counter, &allocator);
    assert_int_equal(ern_pool_open(&pool, &allocator, 4, NULL), ERNIE_OK);
    assert_true(atomic_load(&counter.live) > 0);
    ern_pool_close(pool);
    assert_int_equal(atomic_load(&counter.live), 0);
    assert_int_equal(atomic_load(&counter.n_wrong_sizes), 0);
}

/* Starve the address space until a thread's stack does not fit: the team unwinds. Done in a child,
 * whose limits die with it; the sanitizers need the address space for themselves. */
#if !defined(ERNIE_OPENMP) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define POOL_TEST_NO_STARVING
#endif
#endif
#else
#define POOL_TEST_NO_STARVING
#endif

#ifndef POOL_TEST_NO_STARVING
#include <sys/wait.h>

static int starved_child(void)
{
    test_allocator counter;
    ernie_allocator allocator;
    ernie_error error = { ERNIE_OK, "" };
    ern_pool *pool = NULL;
    const struct rlimit limit = { 128 << 20, 128 << 20 };
    test_allocator_begin(&counter, &allocator);
    if (setrlimit(RLIMIT_AS, &limit) != 0) return 77;
    const ernie_status status = ern_pool_open(&pool, &allocator, 400, &error);
    if (status != ERNIE_NO_MEMORY || pool) return 1;
    if (!strstr(error.message, "of 400 could not be started")) return 2;
    if (atomic_load(&counter.live)) return 3;
    return 0;
}

static void thread_that_cannot_start_unwinds(void **state)
{
    (void)state;
    int status = 0;
    const pid_t child = fork();
    if (child == 0) _exit(starved_child());
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) skip();
    assert_int_equal(WEXITSTATUS(status), 0);
}
#else
static void thread_that_cannot_start_unwinds(void **state)
{
    (void)state;
    skip();
}
#endif

static void shares_cover_all_items_once(void **state)
{
    (void)state;
    static const size_t n_items[] = { 0, 1, 15, 16, 17, 1000, 4096 }, tiles[] = { 1, 16, 32 };
    for (size_t i = 0; i < ERN_COUNT(n_items); i++) {
        for (size_t j = 0; j < ERN_COUNT(tiles); j++) {
            for (unsigned n = 1; n < 9; n++) {
                size_t next = 0;
                for (unsigned w = 0; w < n; w++) {
                    const ern_worker worker = { .index = w, .n = n };
                    size_t begin, end;
                    ern_worker_share(&worker, n_items[i], tiles[j], &begin, &end);
                    assert_int_equal(begin, next);
                    assert_true(end >= begin && (begin % tiles[j] == 0 || begin == n_items[i]));
                    next = end;
                }
                assert_int_equal(next, n_items[i]);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_worker_runs_once),
        cmocka_unit_test(barriers_order_phases),
        cmocka_unit_test(sleepers_are_woken),
        cmocka_unit_test(idle_team_uses_no_cpu),
        cmocka_unit_test(crowded_team_does_not_crawl),
        cmocka_unit_test(bad_sizes_are_refused),
        cmocka_unit_test(no_memory_unwinds),
        cmocka_unit_test(thread_that_cannot_start_unwinds),
        cmocka_unit_test(shares_cover_all_items_once),
    };
    return cmocka_run_group_tests_name("pool", tests, NULL, NULL);
}
