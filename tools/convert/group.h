/* Sixteen rows at once into a group of c2, c3, c4 or w4, with errors weighted by what the linear's
 * input is like and made good by later columns. Knows numbers, not tensors. */
#ifndef ERN_CONVERT_GROUP_H
#define ERN_CONVERT_GROUP_H

#include "feedback.h"

/* What one worker needs for rows of up to n_cols values. */
typedef struct conv_group {
    float *row;         /* [16][stride]: the values, finite, zeros after them */
    float *error;       /* [stride][16]: wanted minus decoded, by column */
    void *trellis;      /* conv_trellis_bytes() */
    void *block;        /* of conv_trellis_encode */
    size_t stride;      /* n_cols, rounded up to whole blocks */
} conv_group;

ERN_FN size_t conv_group_bytes(uint32_t n_cols);
/* Cut memory [conv_group_bytes(n_cols)], 64-byte aligned, into a group for rows of n_cols values.
 */
ERN_FN void conv_group_set(conv_group *group, void *memory, uint32_t n_cols);

/* Which types are made this way: c2, c3, c4 always, w4 where there is a feedback. */
ERN_FN bool conv_group_makes(unsigned type, const conv_feedback *feedback);

/* Encode group->row [16][stride] of n_cols columns into `out` [ern_group_bytes], which was zero
 * before. `feedback`: of the same n_cols; NULL: all columns weigh the same. n_tries: of scales
 * for each block of a c type, 5 finds the best one nearly always. All instruction sets give the
 * same bytes; `set` 0 is plain C, conv_group_best() the fastest. */
ERN_FN void conv_group_encode(unsigned set, conv_group *group, unsigned type, uint32_t n_cols,
                              const conv_feedback *feedback, unsigned n_tries, unsigned char *out);
ERN_FN unsigned conv_group_best(void);

#endif
