/* Tensors that do not hold a matrix as rows: which of their bytes some rows need, and the rows out
 * of these bytes. Knows layouts, reads nothing. */
#ifndef ERN_CONVERT_COLUMNS_H
#define ERN_CONVERT_COLUMNS_H

#include "encode.h"
#include "slice.h"

#define CONV_RECTS_MAX (CONV_COMPANIONS_MAX + 1u) /* the tensor's and its companions' */

/* Lines of n_bytes in a shard's file, pitch bytes apart, and their place in memory, where they lie
 * without gaps. */
typedef struct conv_rect {
    const conv_tensor *tensor;
    uint64_t offset, pitch;
    size_t n_bytes, n_lines;
    const unsigned char *data; /* [n_lines][n_bytes] */
} conv_rect;

/* Rows first .. first + n - 1 of a slice whose matrix has n_cols columns. */
typedef struct conv_columns {
    const conv_slice *slice;
    uint32_t n_cols, first, n;
    unsigned n_rects;
    conv_rect rects[CONV_RECTS_MAX];
} conv_columns;

/* Names the rects; their data is NULL until the caller has read them. coding is not CONV_ROWS. */
ERN_FN void conv_columns_set(conv_columns *columns, const conv_slice *slice, uint32_t n_cols,
                             uint32_t first, uint32_t n);
/* For the codings: one more rect, values at .. at + n - 1 of the first n_lines lines of a tensor
 * whose lines have `width` values of value_bytes. */
ERN_FN void conv_columns_need(conv_columns *columns, const conv_tensor *tensor, size_t value_bytes,
                              uint64_t width, uint64_t at, size_t n, size_t n_lines);

/* Rows row .. row + n - 1 of the slice, among those of `columns`, n at most 16: row i to
 * values + i * stride, which is at least n_cols. */
ERN_FN ernie_status conv_columns_rows(const conv_columns *columns, const conv_encoder *encoder,
                                      uint32_t row, uint32_t n, float *values, size_t stride,
                                      ernie_error *error);

/* Bytes of the tensor that a row of the slice stands for, whatever the coding: for progress. */
ERN_FN size_t conv_slice_row_bytes(const conv_slice *slice, uint32_t n_cols);

#endif
