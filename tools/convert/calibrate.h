/* Running documents through a model to learn what its linears are fed: the file that imatrix.h
 * reads.
 *
 * The idea: layer by layer. All documents pass through one layer before any enters the next, and
 * the residual stream of all tokens waits in between. So only one layer's statistics are in
 * memory, each weight is read once whatever the number of documents, and experts see large
 * batches. */
#ifndef ERN_CALIBRATE_H
#define ERN_CALIBRATE_H

#include <stdatomic.h>

#include "../../src/ern.h"

/* Samples that the layer's average counts in the statistics of an expert. */
#define ERN_CALIBRATE_PRIOR 32.0

typedef struct ern_documents {
    const int32_t *ids;    /* all documents' tokens, one document after the other */
    const uint32_t *n_ids; /* [n] tokens of each, at most the model's context */
    size_t n;
} ern_documents;

typedef struct ern_calibrate_options {
    uint64_t memory_max; /* bytes it may hold, weights not counted; 0: half of what is free */
    bool common;         /* the experts of a layer share the moments of their input */
    bool diagonal;       /* squares only */
    const char *cpu;     /* instruction set for the statistics; NULL: the best */
    unsigned n_threads;  /* 0: one per core that this process may use */
    ernie_progress_fn progress; /* in steps of no unit; NULL: none */
    void *progress_user;
    const atomic_int *stop;           /* another thread or a signal sets it; NULL: never */
    const ernie_allocator *allocator; /* NULL: malloc family */
    ern_log log;                      /* what was collected, a line for each run of like layers */
} ern_calibrate_options;

typedef struct ern_calibrate_report {
    uint64_t n_tokens, file_bytes;
    uint32_t n_inputs;                   /* in the file, of which have */
    uint32_t n_own, n_common, n_squares; /* moments of their own, common ones, none */
    uint32_t n_experts, n_experts_rare, n_experts_unseen; /* of all layers; rare: below the prior */
} ern_calibrate_report;

/* Collect and write out_path, which appears whole or not at all. The model is best opened with
 * no_copy: its weights are read once. `options` and `report` may be NULL. Returns ERNIE_OK,
 * ERNIE_INVALID (a document, no tokens at all), ERNIE_IO, ERNIE_FORMAT (activations that are no
 * finite numbers), ERNIE_UNSUPPORTED (a backend that cannot), ERNIE_NO_MEMORY (memory_max says no,
 * too), ERNIE_CANCELLED. */
ERN_FN ernie_status ern_calibrate(const ernie_model *model, const ern_documents *documents,
                                  const char *out_path, const ern_calibrate_options *options,
                                  ern_calibrate_report *report, ernie_error *error);

#endif
