/* How the error of one column is made good by those that follow: from the second moments of a
 * linear's input to the coefficients that the encoder of a group uses. Knows numbers, not
 * tensors. */
#ifndef ERN_CONVERT_FEEDBACK_H
#define ERN_CONVERT_FEEDBACK_H

#include "../../src/format.h"

/* For a matrix of n = n_blocks * 32 columns (those beyond the linear's own weigh nothing). Errors
 * e are wanted value minus decoded value, in the order of the columns. */
typedef struct conv_feedback {
    uint32_t n_blocks;
    /* Block b wants its values changed by the sum over earlier columns j of e[j] * pull[b][j][c].
     */
    float *pull;   /* block b at 32 * 32 * b (b - 1) / 2: [32 b][32] */
    float *inner;  /* [n_blocks][32][32]: the same from column j to column c > j of one block */
    float *weight; /* [n_blocks][32] of a column's squared error when its block is chosen as one */
    float *single; /* [n_blocks][32] of one that is chosen after the columns before it */
    /* [n_blocks][32] or NULL: the input's size in each column, in terms of the input that pull
     * and inner were made from. Errors are multiplied by it, what is pulled is divided by it. */
    const float *stretch;
} conv_feedback;

/* Bytes of a feedback's arrays, and of the memory that making it takes beside them. 0: too many. */
ERN_FN size_t conv_feedback_bytes(uint32_t n_cols);
ERN_FN size_t conv_feedback_work_bytes(uint32_t n_cols);

/* Cut memory [conv_feedback_bytes(n_cols)], 64-byte aligned, into a feedback. */
ERN_FN void conv_feedback_set(conv_feedback *feedback, void *memory, uint32_t n_cols);

/* The same for squares alone: weights without feedback; pull and inner are NULL. */
ERN_FN size_t conv_feedback_diagonal_bytes(uint32_t n_cols);
ERN_FN void conv_feedback_diagonal(conv_feedback *feedback, void *memory, uint32_t n_cols,
                                   const float *square);

/* Where the matrix of moments [n_cols][n_cols] is to be put: in the working memory, whose rest is
 * used on the way. */
ERN_FN float *conv_feedback_moments(void *work);

/* Fill a feedback from the moments in `work`, symmetric with a positive diagonal. `damping`: what
 * is added to the diagonal, as a part of its mean. false when the matrix is not positive definite
 * even so; the feedback then holds nothing of use. */
ERN_FN bool conv_feedback_make(conv_feedback *feedback, void *work, uint32_t n_cols, float damping);

#endif
