/* The search for codes of c2, c3 and c4: which of the 2^64 tail-biting paths through a block of 32
 * columns comes nearest to its weights. Knows numbers, not tensors; what the codes mean is
 * src/format.h's. */
#ifndef ERN_CONVERT_TRELLIS_H
#define ERN_CONVERT_TRELLIS_H

#include "../../src/format.h"

enum { CONV_TRELLIS_ROWS = ERN_GROUP_ROWS, CONV_TRELLIS_COLS = ERN_BLOCK_COLS };

/* One block of 16 rows. Rows are independent; they are searched side by side. */
typedef struct conv_trellis_block {
    /* in */
    float target[CONV_TRELLIS_COLS][CONV_TRELLIS_ROWS];
    float weight[CONV_TRELLIS_COLS];    /* of a column's squared error, at least 0, not all 0 */
    float row_scale[CONV_TRELLIS_ROWS]; /* above 0 */
    /* out */
    uint8_t q[CONV_TRELLIS_ROWS];       /* 0 .. 15: a level is worth row_scale * (q + 4) */
    uint32_t word[4][CONV_TRELLIS_ROWS]; /* as the group holds them */
    float value[CONV_TRELLIS_COLS][CONV_TRELLIS_ROWS]; /* what the codes decode to */
    float error[CONV_TRELLIS_ROWS];     /* sum over columns of weight * (target - value)^2 */
} conv_trellis_block;

/* The code paths, all with the same results to the last bit; [0] is plain C. NULL after the last
 * that this processor has. Memory: conv_trellis_bytes(), 64-byte aligned, one for each thread. */
typedef struct conv_trellis conv_trellis;
ERN_FN const conv_trellis *conv_trellis_at(unsigned i);
ERN_FN const conv_trellis *conv_trellis_best(void);
ERN_FN size_t conv_trellis_bytes(void);

/* The row_scale whose block scales q reach from 1/3 to 8/5 of a row's root mean square. */
ERN_FN float conv_trellis_row_scale(unsigned type, float rms);

/* Search the codes of a block of type c2, c3 or c4. n_tries scales around the root mean square of
 * each row are tried, at least 1. The result is exact for a scale but for the closing of the
 * circle: the path's ends are those of the best open path that starts half a block away. */
ERN_FN void conv_trellis_encode(const conv_trellis *set, void *memory, unsigned type,
                                unsigned n_tries, conv_trellis_block *block);

/* The same with the scales q given: nothing is searched but the codes. */
ERN_FN void conv_trellis_encode_at(const conv_trellis *set, void *memory, unsigned type,
                                   const uint8_t *q, conv_trellis_block *block);

#endif
