/* Where the values of each record come from: tensor names and layouts of ERNIE 4.5 checkpoints, and of
 * GGUF files by way of gguf_model.c. One room for all spellings; what comes out is rows of tensors
 * (slice.h). */
#ifndef ERN_CONVERT_NAMES_H
#define ERN_CONVERT_NAMES_H

#include "../../src/format.h"
#include "paddle.h"

/* One matrix: its slices one below the other, or, with gate_up, slice 0 and slice 1 in turns of 16
 * rows. Rows beyond the slices are zero. */
typedef struct conv_source {
    conv_slice slices[3];
    uint32_t n_slices;
    uint32_t n_cols;
    bool gate_up;
} conv_source;

/* Find row `row` of the matrix: the slice and the row inside it; NULL for a padding row. */
ERN_FN const conv_slice *conv_source_row(const conv_source *source, uint32_t row,
                                         uint32_t *slice_row);

/* The sources of a record as ern_layout_next gives it: [0], and [1] for an expert's down matrix.
 * Checks names, shapes and dtypes, and marks the tensors as used. *absent: an optional record whose
 * tensor is not there. */
ERN_FN ernie_status conv_names_find(conv_source sources[2], conv_tensors *tensors,
                                    const ern_hparams *hparams, const conv_paddle *paddle,
                                    const ern_record *record, bool optional, bool *absent,
                                    ernie_error *error);

/* What the tensors say that config.json may leave open. */
ERN_FN uint32_t conv_names_count_mtp(const conv_tensors *tensors);
ERN_FN bool conv_names_has_head(const conv_tensors *tensors);
ERN_FN uint32_t conv_names_moe_start(const conv_tensors *tensors, uint32_t n_layers);
ERN_FN uint32_t conv_names_shared_width(const conv_tensors *tensors, const conv_paddle *paddle,
                                        uint32_t n_layers);

/* The first tensor that only a vision-language model has; NULL in text models. */
ERN_FN const conv_tensor *conv_names_find_vision(const conv_tensors *tensors);

/* After all records: refuse the first tensor that nothing used and that cannot be ignored. */
ERN_FN ernie_status conv_names_check_rest(const conv_tensors *tensors, const ern_hparams *hparams,
                                          ernie_error *error);

#endif
