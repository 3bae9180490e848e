/* From sums over samples to the statistics of the file: means, with what was seen seldom blended
 * with its layer's average. docs/IMATRIX.md has the formulas. Knows grams and entries, runs
 * nothing. */
#ifndef ERN_CONVERT_BLEND_H
#define ERN_CONVERT_BLEND_H

#include "gram.h"
#include "imatrix_write.h"

/* The entries of one layer (or the head alone) and what was added up for each. */
typedef struct conv_blend {
    conv_imatrix_out *out;
    size_t first, n;  /* entries */
    conv_gram *grams; /* [n]; those with common moments have no tiles */
    conv_gram *pool;  /* [2] sums over a layer's experts: of gate_up, of down (no tiles) */
    float *square;    /* [n_cols of the widest] scratch */
    float *triangle;  /* of the widest with moments of its own; NULL when none has any */
    double prior;
} conv_blend;

/* Put all of them. ERNIE_FORMAT names an input that is no finite number; else as
 * conv_imatrix_out_put. */
ERN_FN ernie_status conv_blend_put(const conv_blend *blend, ernie_error *error);

#endif
