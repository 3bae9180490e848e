/* Which tensors a GGUF of ERNIE 4.5 has, and which rows of our matrices each is made of: the layouts
 * of format.h undone. Reads no weights. */
#ifndef ERN_CONVERT_EXPORT_TENSORS_H
#define ERN_CONVERT_EXPORT_TENSORS_H

#include "../../src/format.h"
#include "gguf_out.h"

/* What a user asks for, and the types it stands for. */
typedef struct conv_export_type {
    const char *name;
    uint32_t type, wide; /* conv_ggml_type; wide: of embedding and output layer */
    uint32_t file_type;  /* as general.file_type numbers them */
} conv_export_type;

/* NULL: "bf16"; ERNIE_INVALID lists them. */
ERN_FN ernie_status conv_export_type_find(const conv_export_type **out, const char *name,
                                          ernie_error *error);

/* Rows of a tensor in terms of our matrix' rows. */
typedef enum conv_export_part {
    CONV_EXPORT_ROWS, /* first_row + r */
    CONV_EXPORT_GATE, /* of a gate_up matrix: 16 of gate, 16 of up, and so on */
    CONV_EXPORT_UP,
    CONV_EXPORT_DOWN /* an expert's second matrix, row r */
} conv_export_part;

typedef struct conv_export_tensor {
    char name[48];
    uint32_t type;                     /* conv_ggml_type */
    uint32_t n_cols, n_rows, n_slices; /* n_slices: experts, else 1 */
    uint32_t n_dims;
    uint32_t record; /* the first of n_slices records, one a slice */
    conv_export_part part;
    uint32_t first_row;
    bool first;      /* of the tensors that are made of these records */
    uint64_t offset; /* in the data */
    uint64_t row_bytes, n_bytes;
} conv_export_tensor;

typedef struct conv_export_list {
    const ernie_allocator *allocator;
    conv_export_tensor *items; /* [capacity], n in use */
    size_t n, capacity;
    size_t n_halves; /* tensors that the type did not fit: f16 */
} conv_export_list;

/* ERNIE_UNSUPPORTED when GGUF's keys have no words for where the mixtures are. */
ERN_FN ernie_status conv_export_check(const ern_hparams *hparams, ernie_error *error);

/* Fill *list (zero but for its allocator) and announce every tensor to *out. */
ERN_FN ernie_status conv_export_tensors(conv_export_list *list, conv_gguf_out *out,
                                        const ern_format *format, const conv_export_type *type,
                                        ernie_error *error);
ERN_FN void conv_export_list_free(conv_export_list *list); /* zeroed is fine */

/* Row `row` of slice `slice`: *matrix and the number of the row in it. */
ERN_FN uint32_t conv_export_row(const conv_export_tensor *tensor, const ern_format *format,
                                uint32_t slice, uint32_t row, ern_matrix *matrix);

#endif
