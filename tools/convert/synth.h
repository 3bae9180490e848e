/* Random models of real shapes, for benchmarks: written in the target layout at once, as fast as
 * the disk takes them. Knows no checkpoint. */
#ifndef ERN_SYNTH_H
#define ERN_SYNTH_H

#include "../../src/ern.h"

typedef struct ern_synth_options {
    const char *shape;          /* "0.3b", "21b", "300b", "demo" */
    uint32_t n_layers;          /* 0: as the shape has them */
    const char *type;           /* as ern_convert_options.type; NULL: "w4" */
    uint64_t seed;              /* same seed, same file */
    unsigned n_threads;         /* 0: one per core that this process may use */
    ernie_progress_fn progress; /* in bytes of the file; NULL: none */
    void *progress_user;
    const ernie_cancel *cancel;       /* NULL: never */
    const ernie_allocator *allocator; /* NULL: malloc family */
} ern_synth_options;

/* Write a random model to out_path, atomically as ern_convert does. Statuses as ern_convert. */
ERN_FN ernie_status ern_synth(const char *out_path, const ern_synth_options *options,
                              ernie_error *error);

#endif
