/* How fast threads can read memory: the limit that decoding is measured against. */
#ifndef ERNIE_BANDWIDTH_H
#define ERNIE_BANDWIDTH_H

#include <stdint.h>

/* Bytes per second that n_threads (1 or more) reach together on a block far larger than the caches,
 * touched before; the best of several passes. The block takes most_bytes at most, but as much as
 * small caches need. 0 when the block or the threads cannot be had. */
double bandwidth_measure(unsigned n_threads, uint64_t most_bytes);

#endif
