/* Floats into ggml's blocks, by the rounding of ggml's own reference: the same bytes. Knows numbers,
 * not tensors. */
#ifndef ERN_CONVERT_GGML_ENCODE_H
#define ERN_CONVERT_GGML_ENCODE_H

#include "ggml.h"

/* F32, F16, BF16, Q8_0 and Q4_0 are the types written. Bytes of a row, n a multiple of the type's
 * block. */
ERN_FN uint64_t conv_ggml_row_bytes(uint32_t type, uint32_t n);

/* |value| from here on does not fit the type; infinity where every finite value does. */
ERN_FN float conv_ggml_limit(uint32_t type);

/* n finite values within the limit to dst [conv_ggml_row_bytes], which need not be aligned. */
ERN_FN void conv_ggml_encode(uint32_t type, const float *src, uint32_t n, unsigned char *dst);

#endif
