/* What the tests of the encoder share: weights and second moments at random, groups of the file read
 * back by the letter of format.h, and what errors cost. */
#ifndef GROUP_VALUES_H
#define GROUP_VALUES_H

#include <math.h>
#include <stdlib.h>

#include "../../src/format.h"

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

/* h [n][n]: moments of an input whose channels have sizes between 0.4 and 2.7 and share `shared` (0 ..
 * 1) of their variance through n / 8 + 1 common causes. */
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
            for (size_t k = 0; k < n_causes; k++) sum += mix[i * n_causes + k] * mix[j * n_causes + k];
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

#endif
