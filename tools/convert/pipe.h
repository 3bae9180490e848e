/* From a plan to a finished .ernie file: units of records are made by all workers and written in
 * order, with their checksums. */
#ifndef ERN_CONVERT_PIPE_H
#define ERN_CONVERT_PIPE_H

#include "flow.h"
#include "plan.h"

/* Make one unit of record i: write unit->n_bytes to dst, which is zero before. Called on any
 * worker, for many units at once. `worker`: 0 .. n_threads - 1. *n_done: what to add to the
 * progress. */
typedef ernie_status (*conv_make_fn)(void *user, unsigned worker, uint32_t i, const conv_unit *unit,
                                     unsigned char *dst, uint64_t *n_done, ernie_error *error);

/* What the units of a batch need in memory before they are made, brought by all workers at once. */
typedef struct conv_stager {
    size_t n_max; /* bytes that the units of a batch may need together; one alone may need more */
    size_t (*need)(void *user, uint32_t i, const conv_unit *unit); /* 0: nothing */
    /* Units first .. first + n - 1 of record i come next; what was brought before is used up. Sets
     * how many tasks bring what they need, on any worker and in any order. */
    ernie_status (*begin)(void *user, uint32_t i, uint32_t first, uint32_t n, uint32_t *n_tasks,
                          ernie_error *error);
    ernie_status (*task)(void *user, uint32_t task, ernie_error *error);
} conv_stager;

typedef struct conv_job {
    conv_plan *plan;
    const conv_bytes *sections[ERN_N_SECTIONS]; /* tokenizer, chat, generation; NULL: none */
    const conv_stager *stager;                  /* NULL: none */
    conv_make_fn make;
    void *user;
    unsigned n_threads;
    const char *what;           /* for progress */
    uint64_t n_total;           /* of n_done */
    ernie_progress_fn progress; /* may be NULL */
    void *progress_user;
    const ernie_cancel *cancel; /* may be NULL */
    const ernie_allocator *allocator;
} conv_job;

/* Place the plan, make every record, write the file at `path`. Nothing is left behind on
 * failure. */
ERN_FN ernie_status conv_pipe_run(const conv_job *job, const char *path, ernie_error *error);

#endif
