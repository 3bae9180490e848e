/* An output file with all cores busy: workers make the pieces of one batch while one of them writes
 * the batch before. Holds two batches, whatever the size of the file. Knows neither formats nor what
 * the pieces are. */
#ifndef ERN_CONVERT_FLOW_H
#define ERN_CONVERT_FLOW_H

#include "file.h"

#define CONV_BATCH_BYTES ((size_t)16 << 20)

/* Pieces that are made at once and lie one after the other in the file. */
typedef struct conv_batch {
    unsigned char *data; /* [n_bytes], the flow's; whatever was in it before */
    size_t n_bytes;      /* 0: the pieces are work that writes nothing */
    uint64_t offset;     /* in the file */
    uint32_t n_pieces;
    uint32_t kind, first; /* the maker's own: what the batch is of, and from where on */
    bool last;
} conv_batch;

typedef struct conv_flow_job {
    /* Make piece i of the batch. Called on any worker, for many pieces at once. `worker`: 0 ..
     * n_threads - 1. *n_done: what to add to the progress. */
    ernie_status (*make)(void *user, unsigned worker, const conv_batch *batch, uint32_t i,
                         uint64_t *n_done, ernie_error *error);
    void (*before_write)(void *user, const conv_batch *batch); /* in file order; NULL: nothing */
    void *user;
    unsigned n_threads;
    const char *what;           /* for progress */
    uint64_t n_total;           /* of n_done */
    ernie_progress_fn progress; /* may be NULL */
    void *progress_user;
    const ernie_cancel *cancel; /* may be NULL */
    const ernie_allocator *allocator;
} conv_flow_job;

typedef struct conv_flow conv_flow;

/* Begin the file at `path`; no batch exceeds batch_bytes. `job` stays the caller's and must outlive
 * the flow. */
ERN_FN ernie_status conv_flow_open(conv_flow **out, const conv_flow_job *job, const char *path,
                                   uint64_t file_bytes, size_t batch_bytes, ernie_error *error);
/* Make a batch (its data is set here) and write the one before it. */
ERN_FN ernie_status conv_flow_push(conv_flow *flow, const conv_batch *batch, ernie_error *error);
/* Write the last batch. */
ERN_FN ernie_status conv_flow_drain(conv_flow *flow, ernie_error *error);
/* Write bytes that no worker makes. */
ERN_FN ernie_status conv_flow_write(conv_flow *flow, uint64_t offset, const void *data, size_t n,
                                    ernie_error *error);
/* The file appears under its name. */
ERN_FN ernie_status conv_flow_commit(conv_flow *flow, ernie_error *error);
/* NULL is fine. What was not committed is removed. */
ERN_FN void conv_flow_close(conv_flow *flow);

#endif
