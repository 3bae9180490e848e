/* What the two halves of calibration share: calibrate_plan.c settles what fits into memory,
 * calibrate.c runs the model. */
#ifndef ERN_CALIBRATE_INNER_H
#define ERN_CALIBRATE_INNER_H

#include "../../backends/backend.h"
#include "../../src/model.h"
#include "blend.h"
#include "calibrate.h"

/* How much of a layer fits, worst first. */
typedef enum calib_level {
    CALIB_SQUARES, /* no moments */
    CALIB_INPUTS,  /* moments of all inputs of width h; experts share theirs; no down matrices */
    CALIB_COMMON,  /* and of down matrices */
    CALIB_EXPERTS, /* every expert has its own */
    CALIB_N_LEVELS
} calib_level;

typedef struct calib {
    const ernie_model *model;
    const ern_hparams *hp;
    const ern_documents *documents;
    ern_calibrate_options options;
    ernie_allocator allocator;
    atomic_int never;
    size_t n_tokens, longest;
    uint64_t n_steps, step; /* of the progress */

    ern_state_options state_options;
    ern_backend_state *state;
    float *stream; /* [n_tokens][h] between layers */
    size_t stream_bytes;

    conv_imatrix_out out;
    uint8_t *levels; /* [n_layers + 1], the head last */
    conv_gram_team *team;
    conv_gram *grams; /* [grams_max] of the layer under way */
    size_t grams_max;
    conv_gram pool[2];
    void *sums; /* the block that grams' sums lie in, as large as the largest layer's */
    size_t sums_bytes;
    float *square, *triangle; /* scratch of conv_blend */
    size_t square_bytes, triangle_bytes;
} calib;

/* Entries of layer i; of the head for i = n_layers. */
ERN_FN size_t calib_n_entries(const calib *c, uint32_t layer);
ERN_FN uint32_t calib_widest(const calib *c); /* columns of the widest entry */

/* Choose each layer's level and every size; allocates the small tables. */
ERN_FN ernie_status calib_plan(calib *c, ernie_error *error);
/* Tell the log what was chosen. */
ERN_FN void calib_say(const calib *c);

/* Cut the sums of one layer's grams, and of its pools, out of the arena; or measure them (base
 * NULL). */
ERN_FN void calib_take(calib *c, ern_arena *arena, const conv_imatrix_entry *entries, size_t n,
                       calib_level level);

#endif
