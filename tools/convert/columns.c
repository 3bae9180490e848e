/* A column is never read alone: rows are made sixteen at a time, as the encoder wants them, out of
 * lines that hold these sixteen columns side by side. */
#include "columns.h"
#include "paddle_decode.h"

#define COLUMNS_TILE 16u /* lines that are turned at once */

ERN_FN size_t conv_slice_row_bytes(const conv_slice *slice, uint32_t n_cols)
{
    if (slice->coding > CONV_COLUMNS)
        return (size_t)n_cols * conv_paddle_bits16(slice->coding) / 128;
    return (size_t)conv_row_bytes(slice->tensor, n_cols);
}

ERN_FN void conv_columns_need(conv_columns *columns, const conv_tensor *tensor, size_t value_bytes,
                              uint64_t width, uint64_t at, size_t n, size_t n_lines)
{
    ERN_ASSERT(columns->n_rects < CONV_RECTS_MAX);
    columns->rects[columns->n_rects++] = (conv_rect){ .tensor = tensor,
                                                      .offset = tensor->offset + at * value_bytes,
                                                      .pitch = width * value_bytes,
                                                      .n_bytes = n * value_bytes,
                                                      .n_lines = n_lines };
}

ERN_FN void conv_columns_set(conv_columns *columns, const conv_slice *slice, uint32_t n_cols,
                             uint32_t first, uint32_t n)
{
    const conv_tensor *tensor = slice->tensor;
    *columns = (conv_columns){ .slice = slice, .n_cols = n_cols, .first = first, .n = n };
    if (slice->coding > CONV_COLUMNS)
        conv_paddle_columns_set(columns);
    else
        conv_columns_need(columns, tensor, tensor->block_bytes, tensor->dims[1],
                          (uint64_t)slice->first_row + first, n, n_cols);
}

/* Plain values: lines [n_cols][n] become rows, a tile of lines at a time. */
static void columns_turn(const conv_columns *columns, const conv_encoder *encoder, uint32_t row,
                         uint32_t n, float *values, size_t stride)
{
    float tile[COLUMNS_TILE][ERN_GROUP_ROWS];
    const conv_rect *rect = &columns->rects[0];
    const uint32_t dtype = rect->tensor->dtype;
    const unsigned char *src = rect->data + (row - columns->first) * rect->tensor->block_bytes;
    for (uint32_t line = 0; line < columns->n_cols; line += COLUMNS_TILE) {
        const size_t n_lines = ern_min_size(COLUMNS_TILE, columns->n_cols - line);
        for (size_t i = 0; i < n_lines; i++)
            conv_decode(encoder, dtype, src + (line + i) * rect->n_bytes, tile[i], n);
        for (uint32_t r = 0; r < n; r++)
            for (size_t i = 0; i < n_lines; i++) values[r * stride + line + i] = tile[i][r];
    }
}

ERN_FN ernie_status conv_columns_rows(const conv_columns *columns, const conv_encoder *encoder,
                                      uint32_t row, uint32_t n, float *values, size_t stride,
                                      ernie_error *error)
{
    if (columns->slice->coding > CONV_COLUMNS)
        return conv_paddle_columns_rows(columns, encoder, row, n, values, stride, error);
    columns_turn(columns, encoder, row, n, values, stride);
    return ERNIE_OK;
}

#undef COLUMNS_TILE
