/* The rows of Baidu's quantized tensors, out of their bytes. Knows layouts and numbers; no files,
 * no names. */
#ifndef ERN_CONVERT_PADDLE_DECODE_H
#define ERN_CONVERT_PADDLE_DECODE_H

#include "columns.h"

/* As the functions of columns.h, which hand the codings from CONV_INT8 on to these. */
ERN_FN void conv_paddle_columns_set(conv_columns *columns);
ERN_FN ernie_status conv_paddle_columns_rows(const conv_columns *columns,
                                             const conv_encoder *encoder, uint32_t row, uint32_t n,
                                             float *values, size_t stride, ernie_error *error);

/* Bits of the weight's tensor for one weight, times 16: whole for 2.5 bits as well. */
ERN_FN unsigned conv_paddle_bits16(uint32_t coding);

#endif
