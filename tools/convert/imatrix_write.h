/* Writing the calibration file: which moments each entry will have is settled first, so that places
 * are known and entries can be put in any order, each as soon as it is complete. */
#ifndef ERN_CONVERT_IMATRIX_WRITE_H
#define ERN_CONVERT_IMATRIX_WRITE_H

#include "imatrix_file.h"

typedef struct conv_imatrix_out {
    ernie_allocator allocator;
    conv_out out;
    conv_imatrix_head head;
    conv_imatrix_entry *entries; /* [head.n_entries] */
    uint64_t *square_at;         /* [head.n_entries] first float in squares */
    uint64_t *moment_at;         /* [head.n_entries] byte in the file */
    float *squares;              /* all entries' */
    uint64_t n_squares;
} conv_imatrix_out;

/* Make the list of a model's entries; the caller then chooses `moment` of each and fills in what
 * the head says of the run. ERNIE_NO_MEMORY. */
ERN_FN ernie_status conv_imatrix_out_begin(conv_imatrix_out *out, const ern_hparams *hparams,
                                           const ernie_allocator *allocator, ernie_error *error);
/* Settle the places, open PATH.part and reserve its room on the disk. */
ERN_FN ernie_status conv_imatrix_out_open(conv_imatrix_out *out, const char *path,
                                          ernie_error *error);
/* Entry i: samples, squares [n_cols], and with moments of its own the upper triangle, packed row by
 * row. Any order, one thread. */
ERN_FN ernie_status conv_imatrix_out_put(conv_imatrix_out *out, size_t i, double n,
                                         const float *square, const float *triangle,
                                         const ernie_cancel *cancel, ernie_error *error);
/* After the last entry: index, squares and head, then the file gets its name. */
ERN_FN ernie_status conv_imatrix_out_commit(conv_imatrix_out *out, ernie_error *error);
/* Frees everything; what is not committed leaves no file. Zeroed ones are fine. */
ERN_FN void conv_imatrix_out_close(conv_imatrix_out *out);

#endif
