/* The calibration file as it lies on disk, shared by its reader and its writer. docs/IMATRIX.md is
 * the prose. Little endian, no padding inside structs, reserved bytes zero.
 *
 *     head      512 bytes
 *     index     conv_imatrix_entry [n_entries], in the order of conv_entries_next
 *     squares   f32, all entries' in index order, without gaps
 *     moments   for each entry with moments of its own, in index order: the upper triangle of its
 *               matrix row by row, f32
 *
 * Index, squares and each matrix are followed by zeros up to a multiple of 64, which their
 * checksums cover. Every place follows from what stands before it: the file holds no offsets that
 * could lie. */
#ifndef ERN_CONVERT_IMATRIX_FILE_H
#define ERN_CONVERT_IMATRIX_FILE_H

#include "imatrix.h"

#define CONV_IMATRIX_MAGIC   "ERNIM\r\n\x1a"
#define CONV_IMATRIX_VERSION 1u

typedef struct conv_imatrix_head {
    char magic[8];
    uint32_t version, version_min; /* of the writer; the least that a reader must know */
    uint64_t file_bytes;
    uint32_t n_entries;
    uint32_t reserved1;
    ern_hparams hparams;    /* of the model that was run */
    char name[64];          /* its name, zero-terminated */
    uint8_t weights_id[16]; /* its weights */
    uint64_t n_documents, n_tokens;
    double prior; /* samples that the layer's average counts in an expert's statistics */
    uint64_t index_checksum, squares_checksum; /* XXH3-64 */
    unsigned char reserved2[512 - 272];
    uint8_t checksum[16]; /* XXH3-128, canonical form, of the bytes before it */
} conv_imatrix_head;

typedef struct conv_imatrix_entry {
    uint16_t kind;   /* ern_kind of the record whose input it is */
    uint16_t layer;  /* ERN_NO_LAYER: the head */
    uint16_t expert; /* ERN_EXPERT only, else 0 */
    uint8_t second;  /* 1: the down matrix of an ERN_EXPERT, else 0 */
    uint8_t moment;  /* CONV_MOMENT_... */
    uint32_t n_cols;
    uint32_t reserved;
    double n;          /* samples */
    uint64_t checksum; /* XXH3-64 of its matrix; 0 unless the moments are its own */
} conv_imatrix_entry;

_Static_assert(sizeof(conv_imatrix_head) == 512, "head");
_Static_assert(sizeof(conv_imatrix_entry) == 32, "entry");

/* The entries that a model has, one after the other: kind, layer, expert, second and n_cols are
 * filled in, the rest is zero.
 *
 *     each layer:  QKV  ATTN_OUT, then
 *                  dense:    FFN_GATE_UP  FFN_DOWN
 *                  mixture:  ROUTER, SHARED_GATE_UP  SHARED_DOWN with shared experts, then
 *                            EXPERT 0 gate_up, EXPERT 0 down, EXPERT 1 gate_up ...
 *     HEAD */
typedef struct conv_entries {
    const ern_hparams *hparams;
    uint32_t layer, step;
} conv_entries;

ERN_FN void conv_entries_begin(conv_entries *entries, const ern_hparams *hparams);
ERN_FN bool conv_entries_next(conv_entries *entries, conv_imatrix_entry *expected);
ERN_FN uint64_t conv_entries_count(const ern_hparams *hparams);
ERN_FN uint32_t conv_entries_of_layer(const ern_hparams *hparams, uint32_t layer);

/* May this entry have those moments? Only what reads the layer's common input can share its. */
ERN_FN bool conv_moment_allowed(const conv_imatrix_entry *entry, unsigned moment);

/* "layers.3.experts.17.down", "head" into name [64]. */
ERN_FN void conv_entry_name(const conv_imatrix_entry *entry, char name[64]);

static ERN_INLINE uint64_t conv_index_bytes(uint64_t n_entries)
{
    return ern_round_up_u64(n_entries * sizeof(conv_imatrix_entry), 64);
}
static ERN_INLINE uint64_t conv_squares_bytes(uint64_t n)
{
    return ern_round_up_u64(n * sizeof(float), 64);
}
/* Floats of the upper triangle, and its bytes with the zeros behind; n_cols up to ERN_DIM_MAX. */
static ERN_INLINE uint64_t conv_triangle(uint32_t n_cols)
{
    return (uint64_t)n_cols * ((uint64_t)n_cols + 1) / 2;
}
static ERN_INLINE uint64_t conv_triangle_bytes(uint32_t n_cols)
{
    return ern_round_up_u64(conv_triangle(n_cols) * sizeof(float), 64);
}

#endif
