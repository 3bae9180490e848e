/* Calibration files for tests: a small valid one with values that tell their place, written by the
 * writer itself, and checksums put right again after bytes were changed. */
#ifndef IMATRIX_BYTES_H
#define IMATRIX_BYTES_H

#include "../../tools/convert/imatrix_write.h"
#include "test_model_bytes.h"

/* The value of one square or moment: m_ij = sqrt(square_i square_j) * (1 when i == j, else 1/4). */
static inline float imatrix_square(size_t entry, uint32_t column)
{
    return (float)(1 + entry % 7) + (float)(column % 5) / 8.0f;
}

static inline float imatrix_moment(size_t entry, uint32_t i, uint32_t j)
{
    const float a = imatrix_square(entry, i), b = imatrix_square(entry, j);
    return i == j ? a : sqrtf(a * b) / 4.0f;
}

/* Every entry has what it may have: its own moments, or the common ones where `common`. */
static inline unsigned imatrix_choose(const conv_imatrix_entry *entry, bool common)
{
    if (common && conv_moment_allowed(entry, CONV_MOMENT_COMMON)) return CONV_MOMENT_COMMON;
    return conv_moment_allowed(entry, CONV_MOMENT_OWN) ? CONV_MOMENT_OWN : CONV_MOMENT_COMMON;
}

static inline ernie_status imatrix_put_all(conv_imatrix_out *out, ernie_error *error)
{
    ernie_status status = ERNIE_OK;
    for (size_t i = 0; status == ERNIE_OK && i < out->head.n_entries; i++) {
        const uint32_t n = out->entries[i].n_cols;
        float *square = malloc(n * sizeof *square);
        float *triangle = malloc((size_t)conv_triangle(n) * sizeof *triangle), *to = triangle;
        if (!square || !triangle) abort();
        for (uint32_t r = 0; r < n; r++) {
            square[r] = imatrix_square(i, r);
            for (uint32_t c = r; c < n; c++) *to++ = imatrix_moment(i, r, c);
        }
        status = conv_imatrix_out_put(out, i, 10.0 + (double)i, square, triangle, NULL, error);
        free(square);
        free(triangle);
    }
    return status;
}

/* Write such a file for the models of test_model_bytes.h. */
static inline ernie_status imatrix_write(const char *path, const ern_hparams *hparams, bool common,
                                         const ernie_allocator *allocator, ernie_error *error)
{
    conv_imatrix_out out;
    ernie_status status = conv_imatrix_out_begin(&out, hparams, allocator, error);
    if (status != ERNIE_OK) return status;
    for (size_t i = 0; i < out.head.n_entries; i++)
        out.entries[i].moment = (uint8_t)imatrix_choose(&out.entries[i], common);
    out.head.prior = 32;
    out.head.n_documents = 3;
    out.head.n_tokens = 99;
    memcpy(out.head.name, "test", 5);
    status = conv_imatrix_out_open(&out, path, error);
    if (status == ERNIE_OK) status = imatrix_put_all(&out, error);
    if (status == ERNIE_OK) status = conv_imatrix_out_commit(&out, error);
    conv_imatrix_out_close(&out);
    return status;
}

/* Recompute the checksums of head, index and squares, and with `matrices` those of the matrices.
 * Safe on any bytes, so that a fuzzer gets past the checksums. */
static inline void imatrix_seal(unsigned char *data, size_t n, bool matrices)
{
    conv_imatrix_head head;
    if (n < sizeof head) return;
    memcpy(&head, data, sizeof head);
    size_t at = sizeof head, n_squares = 0;
    if (head.n_entries <= (n - at) / sizeof(conv_imatrix_entry)) {
        const size_t index = (size_t)conv_index_bytes(head.n_entries);
        conv_imatrix_entry *entries = malloc(index + 64);
        if (!entries || index > n - at) {
            free(entries);
            return;
        }
        memcpy(entries, data + at, index);
        for (uint32_t i = 0; i < head.n_entries; i++) n_squares += entries[i].n_cols;
        const size_t squares = (size_t)conv_squares_bytes(n_squares);
        size_t matrix = at + index + squares;
        for (uint32_t i = 0; matrices && i < head.n_entries; i++) {
            if (entries[i].moment != CONV_MOMENT_OWN) continue;
            const size_t bytes = (size_t)conv_triangle_bytes(entries[i].n_cols);
            if (matrix > n || bytes > n - matrix) break;
            entries[i].checksum = ern_hash64(data + matrix, bytes);
            matrix += bytes;
        }
        memcpy(data + at, entries, index);
        head.index_checksum = ern_hash64(data + at, index);
        at += index;
        if (at <= n && squares <= n - at) head.squares_checksum = ern_hash64(data + at, squares);
        free(entries);
    }
    ern_hash128(&head, sizeof head - sizeof head.checksum, head.checksum);
    memcpy(data, &head, sizeof head);
}

#endif
