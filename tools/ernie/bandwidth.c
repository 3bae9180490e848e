/* How fast threads can read memory. A plain loop over 64-bit words in eight independent sums: two
 * loads a cycle are several times what a core gets from memory, so the loop is never what limits. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bandwidth.h"
#include "progress.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BANDWIDTH_LANES = 8, BANDWIDTH_PASSES = 6, BANDWIDTH_LEAVE = INT_MAX };

/* What a pass reads: several times all caches, so that little of it is still there from the pass
 * before, and long enough for the clock. */
static const uint64_t BANDWIDTH_BYTES_MIN = UINT64_C(128) << 20;
static const uint64_t BANDWIDTH_BYTES_MAX = UINT64_C(4) << 30;
enum { BANDWIDTH_CACHES = 4, BANDWIDTH_MEMORY_PART = 4 };

/* Threads that live for all passes: starting them would be measured. */
typedef struct bandwidth_team {
    atomic_int pass;      /* the last one that may run; -1 at first */
    atomic_uint n_slices; /* finished, in all passes together */
} bandwidth_team;

typedef struct bandwidth_slice {
    bandwidth_team *team;
    uint64_t *words;
    size_t n; /* a multiple of BANDWIDTH_LANES */
    uint64_t sum;
} bandwidth_slice;

static void bandwidth_read(bandwidth_slice *slice)
{
    const uint64_t *words = slice->words;
    uint64_t a = 0, b = 0, c = 0, d = 0, e = 0, f = 0, g = 0, h = 0;
    for (size_t i = 0; i < slice->n; i += BANDWIDTH_LANES) {
        a += words[i], b += words[i + 1], c += words[i + 2], d += words[i + 3];
        e += words[i + 4], f += words[i + 5], g += words[i + 6], h += words[i + 7];
    }
    slice->sum += a + b + c + d + e + f + g + h;
}

/* Pass 0 touches, so that the pages are there and near the thread that reads them. */
static void bandwidth_pass(bandwidth_slice *slice, int pass)
{
    if (pass == 0)
        memset(slice->words, 0x5a, slice->n * sizeof *slice->words);
    else
        bandwidth_read(slice);
    atomic_fetch_add(&slice->team->n_slices, 1);
}

static void *bandwidth_work(void *arg)
{
    bandwidth_slice *slice = arg;
    for (int pass = 0; pass <= BANDWIDTH_PASSES; pass++) {
        while (atomic_load(&slice->team->pass) < pass) sched_yield();
        if (atomic_load(&slice->team->pass) == BANDWIDTH_LEAVE) break;
        bandwidth_pass(slice, pass);
    }
    return NULL;
}

/* The best rate of all passes; the caller's thread reads the first slice. */
static double bandwidth_passes(bandwidth_slice *slices, unsigned n)
{
    bandwidth_team *team = slices->team;
    double best = 0;
    uint64_t sum = 0;
    for (int pass = 0; pass <= BANDWIDTH_PASSES; pass++) {
        const double start = progress_clock();
        atomic_store(&team->pass, pass);
        bandwidth_pass(slices, pass);
        while (atomic_load(&team->n_slices) < n * (unsigned)(pass + 1)) sched_yield();
        const double bytes = (double)slices->n * sizeof *slices->words * n;
        const double rate = bytes / (progress_clock() - start);
        if (pass > 0 && rate > best) best = rate;
    }
    /* The sums are looked at, so that the compiler cannot leave the reading out. */
    for (unsigned i = 0; i < n; i++) sum += slices[i].sum;
    return sum ? best : 0;
}

/* Start the other threads, measure, end them. 0 when not all could be started. */
static double bandwidth_run(bandwidth_slice *slices, pthread_t *threads, unsigned n)
{
    unsigned n_started = 1;
    while (n_started < n
           && pthread_create(&threads[n_started], NULL, bandwidth_work, &slices[n_started]) == 0)
        n_started++;
    double rate = 0;
    if (n_started == n)
        rate = bandwidth_passes(slices, n);
    else
        atomic_store(&slices->team->pass, BANDWIDTH_LEAVE);
    for (unsigned i = 1; i < n_started; i++) pthread_join(threads[i], NULL);
    return rate;
}

/* Every thread may sit beside a last-level cache of its own. Never more than a part of the machine's
 * memory, and as if the caches were small where the system does not tell. */
static size_t bandwidth_bytes(unsigned n_threads, uint64_t most)
{
    long cache = 0;
#ifdef _SC_LEVEL3_CACHE_SIZE
    cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
    uint64_t bytes = cache > 0 ? BANDWIDTH_CACHES * (uint64_t)cache * n_threads : 0;
    if (bytes > most) bytes = most;
    if (bytes < BANDWIDTH_BYTES_MIN) bytes = BANDWIDTH_BYTES_MIN;
    if (bytes > BANDWIDTH_BYTES_MAX) bytes = BANDWIDTH_BYTES_MAX;
    const long n_pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    if (n_pages > 0 && page > 0
        && bytes > (uint64_t)n_pages * (uint64_t)page / BANDWIDTH_MEMORY_PART)
        bytes = (uint64_t)n_pages * (uint64_t)page / BANDWIDTH_MEMORY_PART;
    return bytes <= SIZE_MAX / 2 ? (size_t)bytes : SIZE_MAX / 2;
}

double bandwidth_measure(unsigned n_threads, uint64_t most_bytes)
{
    const size_t n_bytes = bandwidth_bytes(n_threads, most_bytes);
    uint64_t *block = malloc(n_bytes);
    pthread_t *threads = calloc(n_threads, sizeof *threads);
    bandwidth_slice *slices = calloc(n_threads, sizeof *slices);
    bandwidth_team team;
    atomic_init(&team.pass, -1);
    atomic_init(&team.n_slices, 0);
    double rate = 0;
    if (block && threads && slices) {
        const size_t unit = BANDWIDTH_LANES * sizeof *block;
        const size_t n_words = n_bytes / unit / n_threads * BANDWIDTH_LANES;
        for (unsigned i = 0; i < n_threads; i++)
            slices[i] = (bandwidth_slice){ &team, block + i * n_words, n_words, 0 };
        rate = bandwidth_run(slices, threads, n_threads);
    }
    free(block);
    free(threads);
    free(slices);
    return rate;
}
