/* How fast threads can read memory. A plain loop over 64-bit words in eight independent sums: two
 * loads a cycle are several times what a core gets from memory, so the loop is never what limits. */
#include "bandwidth.h"
#include "progress.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { BANDWIDTH_LANES = 8, BANDWIDTH_PASSES = 6 };
static const size_t BANDWIDTH_BYTES = (size_t)512 << 20;

typedef struct bandwidth_slice {
    uint64_t *words;
    size_t n; /* a multiple of BANDWIDTH_LANES */
    uint64_t sum;
} bandwidth_slice;

static void *bandwidth_touch(void *arg)
{
    bandwidth_slice *slice = arg;
    memset(slice->words, 0x5a, slice->n * sizeof *slice->words);
    return NULL;
}

static void *bandwidth_read(void *arg)
{
    bandwidth_slice *slice = arg;
    const uint64_t *words = slice->words;
    uint64_t lane[BANDWIDTH_LANES] = { 0 };
    for (size_t i = 0; i < slice->n; i += BANDWIDTH_LANES)
        for (size_t j = 0; j < BANDWIDTH_LANES; j++) lane[j] += words[i + j];
    for (size_t j = 0; j < BANDWIDTH_LANES; j++) slice->sum += lane[j];
    return NULL;
}

/* Run fn on every slice, each on a thread of its own; starting them costs microseconds and a pass
 * takes many milliseconds. False when not all could be started. */
static int bandwidth_run(void *(*fn)(void *), pthread_t *threads, bandwidth_slice *slices,
                         unsigned n)
{
    unsigned n_started = 0;
    while (n_started < n && pthread_create(&threads[n_started], NULL, fn, &slices[n_started]) == 0)
        n_started++;
    for (unsigned i = 0; i < n_started; i++) pthread_join(threads[i], NULL);
    return n_started == n;
}

static double bandwidth_passes(uint64_t *block, pthread_t *threads, bandwidth_slice *slices,
                               unsigned n)
{
    const size_t n_words = BANDWIDTH_BYTES / sizeof *block / n / BANDWIDTH_LANES * BANDWIDTH_LANES;
    for (unsigned i = 0; i < n; i++)
        slices[i] = (bandwidth_slice){ block + i * n_words, n_words, 0 };
    if (!bandwidth_run(bandwidth_touch, threads, slices, n)) return 0;
    double best = 0;
    for (int pass = 0; pass < BANDWIDTH_PASSES; pass++) {
        const double start = progress_clock();
        if (!bandwidth_run(bandwidth_read, threads, slices, n)) return 0;
        const double rate = (double)(n_words * sizeof *block * n) / (progress_clock() - start);
        if (rate > best) best = rate;
    }
    /* The sums are looked at, so that the compiler cannot leave the reading out. */
    uint64_t sum = 0;
    for (unsigned i = 0; i < n; i++) sum += slices[i].sum;
    return sum ? best : 0;
}

double bandwidth_measure(unsigned n_threads)
{
    uint64_t *block = malloc(BANDWIDTH_BYTES);
    pthread_t *threads = calloc(n_threads, sizeof *threads);
    bandwidth_slice *slices = calloc(n_threads, sizeof *slices);
    double rate = 0;
    if (block && threads && slices) rate = bandwidth_passes(block, threads, slices, n_threads);
    free(block);
    free(threads);
    free(slices);
    return rate;
}
