/* What the tests of the encoder share: weights and second moments at random, groups encoded and
 * read back by the letter of format.h, and what errors cost. */
#ifndef GROUP_VALUES_H
#define GROUP_VALUES_H

#include <math.h>
#include <stdlib.h>

#include "../../tools/convert/group.h"

static uint64_t values_seed;

static inline double values_unit(void)
{
    values_seed = values_seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(values_seed >> 11) * 0x1p-53;
}

static inline uint64_t values_bits(void)
{
    const uint64_t high = (uint64_t)(values_unit() * 0x1p32);
    return high << 32 | (uint64_t)(values_unit() * 0x1p32);
}

static inline float values_gauss(void)
{
    const double u = values_unit() + 1e-300, v = values_unit();
    return (float)(sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
}

/* h [n][n]: moments of an input whose channels have sizes between 0.4 and 2.7 and share `shared`
 * (0 .. 1) of their variance through n / 8 + 1 common causes. */
static inline void values_moments(float *h, size_t n, double shared)
{
    const size_t n_causes = n / 8 + 1;
    double *mix = malloc(n * n_causes * sizeof *mix), *size = malloc(n * sizeof *size);
    if (!mix || !size) abort();
    for (size_t i = 0; i < n; i++) {
        double square = 0;
        size[i] = exp(2 * values_unit() - 1);
        for (size_t k = 0; k < n_causes; k++) {
            mix[i * n_causes + k] = (double)values_gauss();
            square += mix[i * n_causes + k] * mix[i * n_causes + k];
        }
        for (size_t k = 0; k < n_causes; k++) mix[i * n_causes + k] *= sqrt(shared / square);
    }
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = i == j ? 1 - shared : 0;
            for (size_t k = 0; k < n_causes; k++)
                sum += mix[i * n_causes + k] * mix[j * n_causes + k];
            h[i * n + j] = (float)(size[i] * size[j] * sum);
        }
    free(mix);
    free(size);
}

/* e h e' of one row of errors. */
static inline double values_cost(const float *h, size_t n, const double *e)
{
    double cost = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) cost += e[i] * (double)h[i * n + j] * e[j];
    return cost;
}

static inline void *values_aligned(size_t n)
{
    void *memory = aligned_alloc(64, ern_round_up(n + 1, 64));
    if (!memory) abort();
    memset(memory, 0xa5, ern_round_up(n + 1, 64));
    return memory;
}

/* A feedback from moments h [n][n]; false as conv_feedback_make says. */
typedef struct values_feedback {
    conv_feedback feedback;
    void *memory;
} values_feedback;

static inline bool values_feedback_make(values_feedback *f, const float *h, uint32_t n,
                                        float damping)
{
    void *work = values_aligned(conv_feedback_work_bytes(n));
    f->memory = values_aligned(conv_feedback_bytes(n));
    conv_feedback_set(&f->feedback, f->memory, n);
    memcpy(conv_feedback_moments(work), h, (size_t)n * n * sizeof *h);
    const bool made = conv_feedback_make(&f->feedback, work, n, damping);
    free(work);
    return made;
}

/* The diagonal of h [n][n] alone. */
static inline void values_feedback_squares(values_feedback *f, const float *h, uint32_t n)
{
    float *square = malloc(n * sizeof *square);
    if (!square) abort();
    for (size_t i = 0; i < n; i++) square[i] = h[i * n + i];
    f->memory = values_aligned(conv_feedback_diagonal_bytes(n));
    conv_feedback_diagonal(&f->feedback, f->memory, n, square);
    free(square);
}

/* Encode w [16][n]; the group [ern_group_bytes] is the caller's to free. */
static inline unsigned char *values_encode(unsigned set, unsigned type, const float *w, uint32_t n,
                                           const conv_feedback *feedback)
{
    conv_group group;
    void *memory = values_aligned(conv_group_bytes(n));
    unsigned char *out = values_aligned((size_t)ern_group_bytes(type, n));
    memset(out, 0, (size_t)ern_group_bytes(type, n));
    conv_group_set(&group, memory, n);
    memset(group.row, 0, ERN_GROUP_ROWS * group.stride * sizeof(float));
    for (size_t r = 0; r < ERN_GROUP_ROWS; r++)
        memcpy(group.row + r * group.stride, w + r * n, n * sizeof *w);
    conv_group_encode(set, &group, type, n, feedback, 5, out);
    free(memory);
    return out;
}

/* A weight of a group of w8, w4, c4, c3 or c2. */
static inline float values_decode(unsigned type, const unsigned char *group, uint32_t n_cols,
                                  uint32_t row, uint32_t col)
{
    float scale;
    const uint32_t b = col / 32, k = col % 32;
    const unsigned char *scales = group + 64;
    const unsigned char *codes = scales + ern_group_scale_bytes(type, ern_n_blocks(n_cols));
    memcpy(&scale, group + 4 * row, 4);
    if (type >= ERN_C4)
        return scale * (float)ern_block_scale(type, scales, b, row)
               * (float)ern_block_level(type, codes + b * ern_block_bytes(type), row, k);
    scale *= (float)scales[b * 16 + row];
    if (type == ERN_W8)
        return scale * (float)(int8_t)codes[((b * 8 + k / 4) * 16 + row) * 4 + k % 4];
    const unsigned char pair = codes[((b * 4 + k / 8) * 16 + row) * 4 + k % 4];
    return scale * (float)ern_w4_level[k % 8 < 4 ? pair & 15 : pair >> 4];
}

/* The cost of a group's errors under h [n][n], all rows. */
static inline double values_group_cost(unsigned type, const unsigned char *group, const float *w,
                                       uint32_t n, const float *h)
{
    double cost = 0, *e = malloc(n * sizeof *e);
    if (!e) abort();
    for (uint32_t r = 0; r < ERN_GROUP_ROWS; r++) {
        for (uint32_t c = 0; c < n; c++)
            e[c] = (double)w[r * n + c] - (double)values_decode(type, group, n, r, c);
        cost += values_cost(h, n, e);
    }
    free(e);
    return cost;
}

#endif
