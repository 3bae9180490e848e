/* Values into the file's weight types: rows of floats become rows of f32, f16, bf16, or one of the
 * 16 rows of a w8 or w4 group. Knows numbers, not tensors. */
#ifndef ERN_CONVERT_ENCODE_H
#define ERN_CONVERT_ENCODE_H

#include "../../src/format.h"
#include "tensors.h"

/* What one worker needs for rows of up to n_cols values. */
typedef struct conv_scratch {
    float *row;          /* [round_up(n_cols, 32)]: the values, zeros after them */
    uint16_t *magnitude; /* [round_up(n_cols, 32)] of w4: |value| / block peak, in 1/65535 */
    float *peak, *scale; /* [n_blocks] of a row, in units of the row's peak */
} conv_scratch;

ERN_FN size_t conv_scratch_bytes(uint32_t n_cols);
/* Cut memory [conv_scratch_bytes(n_cols)], 64-byte aligned, into a scratch. */
ERN_FN void conv_scratch_set(conv_scratch *scratch, void *memory, uint32_t n_cols);

/* The code paths, all with the same results to the last bit; [0] is plain C. NULL after the last
 * that this processor has. */
typedef struct conv_encoder conv_encoder;
ERN_FN const conv_encoder *conv_encoder_at(unsigned i);
ERN_FN const conv_encoder *conv_encoder_best(void);

/* n values of a conv_dtype, little endian and unaligned, as floats; of ggml's blocks whole ones. */
ERN_FN void conv_decode(const conv_encoder *encoder, unsigned dtype, const unsigned char *src,
                        float *dst, size_t n);

/* The largest |value| of a row as the bits of a float: what is 0x7f800000 or above is no number,
 * and what is conv_type_limit(type) or above does not fit the type. */
ERN_FN uint32_t conv_peak_bits(const conv_encoder *encoder, const float *row, size_t n);
ERN_FN uint32_t conv_type_limit(unsigned type);

/* Encode scratch->row [n_cols] (finite, zeros up to a multiple of 32) as row `row` of a matrix
 * whose group of 16 rows begins at `group`, which was zero before: row 0 .. 15. For f32, f16 and
 * bf16 a "group" is 16 rows of ern_row_bytes. */
ERN_FN void conv_encode_row(const conv_encoder *encoder, unsigned type, conv_scratch *scratch,
                            uint32_t n_cols, uint32_t peak_bits, unsigned row,
                            unsigned char *group);

#endif
