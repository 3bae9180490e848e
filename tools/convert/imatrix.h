/* What calibration saw: for the input of every linear the mean square of each channel and, where it
 * was collected, the mean of every product of two channels. docs/IMATRIX.md is the prose.
 *
 * The file is one header, an index that follows from the architecture numbers entry by entry, all
 * squares, then the matrices of moments, so that a reader holds the squares (small) and reads one
 * matrix (large) when it is wanted. Files are hostile: every number is checked before it is used.
 * Knows no weights and no tokens. */
#ifndef ERN_CONVERT_IMATRIX_H
#define ERN_CONVERT_IMATRIX_H

#include "../../src/format.h"
#include "file.h"

/* ---- Reading --------------------------------------------------------------------------------- */

/* Which moments an entry has. */
enum {
    CONV_MOMENT_NONE = 0,   /* squares only */
    CONV_MOMENT_OWN = 1,    /* collected from this linear's own inputs */
    CONV_MOMENT_COMMON = 2, /* the matrix of the layer's common input, which its ROUTER entry has */
    CONV_N_MOMENTS = 3
};

/* One linear's input. Nothing here is zero or absent: what was seen seldom is blended with the
 * layer's own average when the file is made. Scales of different entries are comparable, but for
 * experts each sample counts by the square of its routing weight. */
typedef struct conv_moments {
    double n; /* samples; of an expert, each by its weight, an average one counts 1 */
    uint32_t n_cols;
    uint32_t moment;     /* CONV_MOMENT_... */
    const float *square; /* [n_cols] mean of x_j^2, finite and above 0; lives until close */
} conv_moments;

typedef struct conv_imatrix conv_imatrix;

/* Open and check everything but the matrices of moments, whose checksums are looked at when they
 * are read. ERNIE_IO, ERNIE_FORMAT, ERNIE_UNSUPPORTED (a newer version), ERNIE_CORRUPT (a
 * checksum), ERNIE_NO_MEMORY. After failure *out is NULL. */
ERN_FN ernie_status conv_imatrix_open(conv_imatrix **out, const char *path,
                                      const ernie_allocator *allocator, ernie_error *error);
ERN_FN void conv_imatrix_close(conv_imatrix *imatrix); /* NULL is fine */

/* Was it collected from a model of this shape? ERNIE_INVALID names the number that differs. */
ERN_FN ernie_status conv_imatrix_check(const conv_imatrix *imatrix, const ern_hparams *hparams,
                                       ernie_error *error);

/* The input of record (kind, layer, expert); `second`: of an EXPERT its down matrix, else false.
 * Kinds that have one: QKV, ATTN_OUT, FFN_GATE_UP, FFN_DOWN, ROUTER, SHARED_GATE_UP, SHARED_DOWN,
 * EXPERT and HEAD; EMBED too where it is the head (a tied model). NULL for everything else, MTP
 * blocks among it. Any thread. */
ERN_FN const conv_moments *conv_imatrix_find(const conv_imatrix *imatrix, unsigned kind,
                                             unsigned layer, unsigned expert, bool second);

/* Read the matrix of moments into out [n_cols][n_cols], symmetric, its diagonal equal to `square`
 * (a common matrix is scaled to it: out_ij = m_ij sqrt(square_i / m_ii) sqrt(square_j / m_jj)).
 * ERNIE_INVALID when the entry has none, ERNIE_IO, ERNIE_CORRUPT, ERNIE_FORMAT (a number that
 * cannot be). `moments` is one that find returned. Any thread; takes time: two passes over
 * n_cols^2. */
ERN_FN ernie_status conv_imatrix_read(const conv_imatrix *imatrix, const conv_moments *moments,
                                      float *out, ernie_error *error);

#endif
