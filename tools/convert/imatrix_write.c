/* Places first, matrices as they come, index, squares and head last: the part file is complete
 * before it is renamed. */
#include "imatrix_write.h"

ERN_FN ernie_status conv_imatrix_out_begin(conv_imatrix_out *out, const ern_hparams *hparams,
                                           const ernie_allocator *allocator, ernie_error *error)
{
    memset(out, 0, sizeof *out);
    out->allocator = *allocator;
    memcpy(out->head.magic, CONV_IMATRIX_MAGIC, sizeof out->head.magic);
    out->head.version = out->head.version_min = CONV_IMATRIX_VERSION;
    out->head.hparams = *hparams;
    out->head.n_entries = (uint32_t)conv_entries_count(hparams);
    const size_t n = out->head.n_entries;
    out->entries = ern_alloc_zero(allocator, (size_t)conv_index_bytes(n));
    out->square_at = ern_alloc(allocator, n * sizeof *out->square_at);
    out->moment_at = ern_alloc(allocator, n * sizeof *out->moment_at);
    if (out->entries && out->square_at && out->moment_at) {
        conv_entries at;
        conv_entries_begin(&at, hparams);
        for (size_t i = 0; i < n && conv_entries_next(&at, &out->entries[i]); i++) {
            out->square_at[i] = out->n_squares;
            out->n_squares += out->entries[i].n_cols;
        }
        out->squares = ern_alloc_zero(allocator, (size_t)conv_squares_bytes(out->n_squares));
    }
    if (out->squares) return ERNIE_OK;
    conv_imatrix_out_close(out);
    return ern_error_set(error, ERNIE_NO_MEMORY, "no memory for the statistics of %zu inputs", n);
}

ERN_FN ernie_status conv_imatrix_out_open(conv_imatrix_out *out, const char *path,
                                          ernie_error *error)
{
    const size_t n = out->head.n_entries;
    uint64_t at = sizeof out->head + conv_index_bytes(n) + conv_squares_bytes(out->n_squares);
    for (size_t i = 0; i < n; i++) {
        ERN_ASSERT(conv_moment_allowed(&out->entries[i], out->entries[i].moment));
        out->moment_at[i] = at;
        if (out->entries[i].moment == CONV_MOMENT_OWN)
            at += conv_triangle_bytes(out->entries[i].n_cols);
    }
    out->head.file_bytes = at;
    return conv_out_open(&out->out, path, at, error);
}

ERN_FN ernie_status conv_imatrix_out_put(conv_imatrix_out *out, size_t i, double n,
                                         const float *square, const float *triangle,
                                         const ernie_cancel *cancel, ernie_error *error)
{
    static const unsigned char zeros[64] = { 0 };
    conv_imatrix_entry *entry = &out->entries[i];
    entry->n = n;
    memcpy(out->squares + out->square_at[i], square, entry->n_cols * sizeof *square);
    if (entry->moment != CONV_MOMENT_OWN) return ERNIE_OK;
    const size_t n_bytes = (size_t)conv_triangle(entry->n_cols) * sizeof *triangle;
    ern_hash hash;
    ern_hash_begin(&hash);
    ern_hash_add(&hash, triangle, n_bytes);
    ern_hash_add(&hash, zeros, (size_t)conv_triangle_bytes(entry->n_cols) - n_bytes);
    entry->checksum = ern_hash_end64(&hash);
    return conv_out_write(&out->out, out->moment_at[i], triangle, n_bytes, cancel, error);
}

ERN_FN ernie_status conv_imatrix_out_commit(conv_imatrix_out *out, ernie_error *error)
{
    conv_imatrix_head *head = &out->head;
    const size_t index = (size_t)conv_index_bytes(head->n_entries);
    const size_t squares = (size_t)conv_squares_bytes(out->n_squares);
    head->index_checksum = ern_hash64(out->entries, index);
    head->squares_checksum = ern_hash64(out->squares, squares);
    ern_hash128(head, sizeof *head - sizeof head->checksum, head->checksum);
    ernie_status status = conv_out_write(&out->out, 0, head, sizeof *head, NULL, error);
    if (status == ERNIE_OK)
        status = conv_out_write(&out->out, sizeof *head, out->entries, index, NULL, error);
    if (status == ERNIE_OK)
        status =
            conv_out_write(&out->out, sizeof *head + index, out->squares, squares, NULL, error);
    return status == ERNIE_OK ? conv_out_commit(&out->out, error) : status;
}

ERN_FN void conv_imatrix_out_close(conv_imatrix_out *out)
{
    const size_t n = out->head.n_entries;
    conv_out_abandon(&out->out);
    if (out->entries) ern_free(&out->allocator, out->entries, (size_t)conv_index_bytes(n));
    if (out->square_at) ern_free(&out->allocator, out->square_at, n * sizeof *out->square_at);
    if (out->moment_at) ern_free(&out->allocator, out->moment_at, n * sizeof *out->moment_at);
    if (out->squares)
        ern_free(&out->allocator, out->squares, (size_t)conv_squares_bytes(out->n_squares));
    memset(out, 0, sizeof *out);
}
