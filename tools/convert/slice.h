/* Where rows of a matrix lie: in which tensor, from which row on, coded how. */
#ifndef ERN_CONVERT_SLICE_H
#define ERN_CONVERT_SLICE_H

#include "tensors.h"

#define CONV_COMPANIONS_MAX 4u

/* How a tensor holds the rows of a matrix of n_cols columns. All but CONV_ROWS hold them as
 * columns; those from CONV_INT8 on are Baidu's quantized forms (docs/PADDLE.md). */
typedef enum conv_coding {
    CONV_ROWS = 0,       /* rows of the tensor's dtype */
    CONV_COLUMNS = 1,    /* columns of the tensor's dtype: the tensor is [n_cols][rows] */
    CONV_INT8 = 2,       /* i8 [n_cols][rows] */
    CONV_INT4 = 3,       /* two nibbles of signed codes a byte, [n_cols / 2][rows] */
    CONV_INT8_TILED = 4, /* as a GPU reads them: permuted columns side by side, codes + 128 */
    CONV_INT4_TILED = 5, /* the same for nibbles, codes + 8 */
    CONV_W4A8_TILED = 6, /* another permutation, signed nibbles */
    CONV_E4M3 = 7,       /* f8 [n_cols][rows] */
    CONV_CCQ2 = 8,       /* four weights a byte, [n_cols / 4][rows] */
    CONV_CCQ2_5 = 9,     /* 64 weights in ten u16, [n_cols / 64 * 10][rows] */
    CONV_N_CODINGS = 10
} conv_coding;

/* A run of matrix rows inside a tensor. */
typedef struct conv_slice {
    const conv_tensor *tensor;
    uint64_t offset; /* CONV_ROWS: of row 0, in the shard's file */
    uint32_t n_rows;
    uint32_t first_row;                                 /* the tensor's own number of row 0 */
    uint32_t coding;                                    /* conv_coding */
    const conv_tensor *companions[CONV_COMPANIONS_MAX]; /* scales, as the coding orders them */
    float divisor;                                      /* of the scales */
    uint32_t hadamard; /* columns of a block that was rotated; 0: none */
    float gain;        /* what turning it back multiplies by */
} conv_slice;

#endif
