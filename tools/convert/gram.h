/* Sums of squares and of products over many rows of activations: sum of s^2 x x^T, in tiles of the
 * upper triangle, on all cores. The products are those of the CPU backend's own f32 kernels: a
 * tile is the transposed rows times themselves. Knows rows, not models. */
#ifndef ERN_CONVERT_GRAM_H
#define ERN_CONVERT_GRAM_H

#include <stdatomic.h>

#include "../../src/pool.h"

#define CONV_GRAM_TILE ((size_t)128)
#define CONV_GRAM_ROWS ((size_t)256) /* that are transposed and multiplied at once */

/* What was added up for one input. */
typedef struct conv_gram {
    uint32_t n_cols;
    uint64_t n_rows;
    double weight;  /* sum of the scales' squares */
    double *square; /* [n_cols] sum of (scale * x_j)^2 */
    float *tiles;   /* [conv_gram_tiles(n_cols)][128][128] rows of the upper triangle; NULL: none */
} conv_gram;

ERN_FN size_t conv_gram_tiles(uint32_t n_cols);   /* number of them */
ERN_FN uint64_t conv_gram_bytes(uint32_t n_cols); /* of the tiles */
ERN_FN void conv_gram_clear(conv_gram *gram);     /* all sums to zero */
/* Row i of the triangle, columns i .. n_cols - 1, times `scale`, into or onto out [n_cols - i]. */
ERN_FN void conv_gram_row(const conv_gram *gram, uint32_t i, float scale, float *out);
ERN_FN void conv_gram_row_add(const conv_gram *gram, uint32_t i, float scale, float *out);
/* Add all sums of `from`, of as many columns; tiles where both have them. */
ERN_FN void conv_gram_merge(conv_gram *to, const conv_gram *from);

typedef struct conv_rows {
    const float *x; /* [..][stride] */
    size_t stride;
    const int32_t *index; /* [n] rows of x; NULL: 0 .. n - 1 */
    const float *scale;   /* [n]; NULL: 1 */
    size_t n;
} conv_rows;

typedef struct conv_gram_team conv_gram_team;

/* Room for grams of up to n_cols_max columns. `cpu` names the kernels as everywhere. */
ERN_FN ernie_status conv_gram_team_open(conv_gram_team **out, unsigned n_threads,
                                        uint32_t n_cols_max, const char *cpu,
                                        const atomic_int *stop, const ernie_allocator *allocator,
                                        ernie_error *error);
ERN_FN uint64_t conv_gram_team_bytes(unsigned n_threads, uint32_t n_cols_max);
ERN_FN void conv_gram_team_close(conv_gram_team *team); /* NULL is fine */

/* Add rows to a gram. Sums are the same for any number of threads. When *stop is set they are left
 * unfinished. */
ERN_FN void conv_gram_add(conv_gram_team *team, conv_gram *gram, const conv_rows *rows);

#endif
