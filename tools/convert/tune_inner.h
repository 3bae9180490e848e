/* What the files of ern_tune share: tune.c walks, tune_fit.c finds factors, tune_write.c writes. */
#ifndef ERN_TUNE_INNER_H
#define ERN_TUNE_INNER_H

#include "tune.h"
#include "file.h"
#include "../../backends/backend.h"
#include "../../src/model.h"
#include "../../src/pool.h"

#include <math.h>

#define TUNE_FACTOR_MIN 0.5
#define TUNE_FACTOR_MAX 1.5

/* One of the two models on its way through the layers. */
typedef struct tune_side {
    const ernie_model *model;
    ern_backend_state *state;
    float *stream;   /* [n_tokens][h] between layers */
    double *inverse; /* [n_tokens] one over each token's root mean square */
    float *logits;   /* [n_rows][vocab] of the scale's rows under way */
} tune_side;

typedef struct tune {
    tune_side side[2]; /* the model, its base */
    const ern_hparams *hp;
    const ern_documents *documents;
    ern_tune_options options;
    ernie_allocator allocator;
    atomic_int never;
    ern_state_options state_options;
    ern_pool *pool;
    size_t n_tokens, longest, stream_bytes;
    uint64_t n_steps, step;  /* of the progress */
    size_t n_scaled, stride; /* every stride-th token serves to find the scale */
    size_t n_rows;           /* tokens whose logits are held at a time */
    size_t logits_bytes;
    float *norms; /* [2 n_layers + 1][h] the refitted weights, in order of use */
    size_t norms_bytes;
    double *sums; /* [2][h] of a fit; [n_rows][TUNE_N_SUMS] of the scale */
    size_t sums_bytes;
    ern_tune_report report;
    double factor_sum;
    conv_out out;
} tune;

enum { TUNE_MODEL = 0, TUNE_BASE = 1 };

/* Scales that are tried; the best lies between two of them. */
enum { TUNE_N_SCALES = 9, TUNE_N_SUMS = 2 * TUNE_N_SCALES };

/* Report n more steps; ERNIE_CANCELLED when someone wants to stop. */
ERN_FN ernie_status tune_advance(tune *t, size_t n, ernie_error *error);

/* The refitted weights of a norm: 2 i and 2 i + 1 of layer i, 2 n_layers the final one. */
static ERN_INLINE float *tune_norm(const tune *t, size_t i)
{
    return t->norms + i * t->hp->hidden_size;
}

/* Fit norm i, whose weights are `weight` and in the base `base_weight`, to both streams. */
ERN_FN ernie_status tune_fit(tune *t, size_t i, const float *weight, const float *base_weight,
                             ernie_error *error);
/* Scale the final norm. */
ERN_FN ernie_status tune_fit_scale(tune *t, ernie_error *error);

ERN_FN ernie_status tune_write(tune *t, ernie_error *error);

#endif
