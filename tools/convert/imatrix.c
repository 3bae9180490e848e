/* Reading the calibration file. Head, index and squares are checked and held; a matrix of moments
 * is read straight into the caller's memory, row by row, when it is asked for. */
#include "imatrix_file.h"
#include "../../src/os.h"

#define IMATRIX_BLOCK ((size_t)32)

struct conv_imatrix {
    ernie_allocator allocator;
    conv_file file;
    char name[256]; /* the path's end, for messages */
    conv_imatrix_head head;
    conv_imatrix_entry *entries; /* [n_entries] */
    conv_moments *moments;       /* [n_entries] */
    uint64_t *offset;            /* [n_entries] of the entry's own matrix in the file, or 0 */
    uint64_t *layer_begin;       /* [n_layers + 1] first entry of each layer */
    float *squares;              /* [n_squares] */
    uint64_t n_squares;
};

/* ---- Opening --------------------------------------------------------------------------------- */

static bool imatrix_zero(const void *data, size_t n)
{
    const unsigned char *bytes = data;
    for (size_t i = 0; i < n; i++)
        if (bytes[i]) return false;
    return true;
}

static ernie_status imatrix_check_versions(const conv_imatrix *im, ernie_error *error)
{
    const conv_imatrix_head *head = &im->head;
    uint8_t checksum[16];
    ERN_FAIL_IF(memcmp(head->magic, CONV_IMATRIX_MAGIC, sizeof head->magic) != 0, error,
                ERNIE_FORMAT, "%s: is not a calibration file of ernie calibrate", im->name);
    ERN_FAIL_IF(head->version_min > CONV_IMATRIX_VERSION, error, ERNIE_UNSUPPORTED,
                "%s: needs a reader of version %u, this one knows %u", im->name, head->version_min,
                CONV_IMATRIX_VERSION);
    ern_hash128(head, sizeof *head - sizeof checksum, checksum);
    ERN_FAIL_IF(memcmp(checksum, head->checksum, sizeof checksum) != 0, error, ERNIE_CORRUPT,
                "%s: the head's checksum is wrong: the file is damaged", im->name);
    ERN_FAIL_IF(head->version_min == 0 || head->version < head->version_min, error, ERNIE_FORMAT,
                "%s: version %u, at least version %u is needed: that cannot be", im->name,
                head->version, head->version_min);
    return ERNIE_OK;
}

static ernie_status imatrix_check_head(const conv_imatrix *im, ernie_error *error)
{
    const conv_imatrix_head *head = &im->head;
    ernie_error why;
    ERN_FAIL_IF(head->file_bytes != im->file.n_bytes, error, ERNIE_FORMAT,
                "%s: has %llu bytes, its head says %llu", im->name,
                (unsigned long long)im->file.n_bytes, (unsigned long long)head->file_bytes);
    ERN_FAIL_IF(ern_hparams_check(&head->hparams, &why) != ERNIE_OK, error, ERNIE_FORMAT, "%s: %s",
                im->name, why.message);
    const uint64_t n_entries = conv_entries_count(&head->hparams);
    ERN_FAIL_IF(n_entries != head->n_entries, error, ERNIE_FORMAT,
                "%s: has %u entries, its architecture calls for %llu", im->name, head->n_entries,
                (unsigned long long)n_entries);
    ERN_FAIL_IF(conv_index_bytes(n_entries) > im->file.n_bytes - sizeof *head, error, ERNIE_FORMAT,
                "%s: an index of %u entries does not fit into %llu bytes", im->name,
                head->n_entries, (unsigned long long)im->file.n_bytes);
    ERN_FAIL_IF(head->name[sizeof head->name - 1] != 0, error, ERNIE_FORMAT,
                "%s: the model's name has no end", im->name);
    ERN_FAIL_IF(!(head->prior >= 0 && head->prior <= 1e9), error, ERNIE_FORMAT,
                "%s: a prior of %g samples is not one", im->name, head->prior);
    ERN_FAIL_IF(head->version == CONV_IMATRIX_VERSION
                    && (head->reserved1 || !imatrix_zero(head->reserved2, sizeof head->reserved2)),
                error, ERNIE_FORMAT, "%s: reserved bytes of the head are not zero", im->name);
    return ERNIE_OK;
}

static ernie_status imatrix_load_head(conv_imatrix *im, const char *path, ernie_error *error)
{
    snprintf(im->name, sizeof im->name, "%s", ern_path_end(path));
    ernie_status status = conv_file_open(&im->file, path, error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(im->file.n_bytes < sizeof im->head, error, ERNIE_FORMAT,
                "%s: has %llu bytes, a calibration file at least %zu", im->name,
                (unsigned long long)im->file.n_bytes, sizeof im->head);
    status = conv_file_read(&im->file, im->name, 0, &im->head, sizeof im->head, error);
    if (status == ERNIE_OK) status = imatrix_check_versions(im, error);
    return status == ERNIE_OK ? imatrix_check_head(im, error) : status;
}

/* One block with the zeros behind it, checked. */
static ernie_status imatrix_load_block(const conv_imatrix *im, const char *what, uint64_t offset,
                                       void *data, uint64_t n_bytes, uint64_t checksum,
                                       ernie_error *error)
{
    const ernie_status status =
        conv_file_read(&im->file, im->name, offset, data, (size_t)n_bytes, error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(ern_hash64(data, (size_t)n_bytes) != checksum, error, ERNIE_CORRUPT,
                "%s: the checksum of the %s at byte %llu is wrong: the file is damaged", im->name,
                what, (unsigned long long)offset);
    return ERNIE_OK;
}

static ernie_status imatrix_check_entry(const conv_imatrix *im, size_t i,
                                        const conv_imatrix_entry *expected, ernie_error *error)
{
    const conv_imatrix_entry *e = &im->entries[i];
    char name[64];
    conv_entry_name(expected, name);
    ERN_FAIL_IF(e->kind != expected->kind || e->layer != expected->layer
                    || e->expert != expected->expert || e->second != expected->second,
                error, ERNIE_FORMAT, "%s: entry %zu is of kind %u, layer %u, expected %s", im->name,
                i, e->kind, e->layer, name);
    ERN_FAIL_IF(e->n_cols != expected->n_cols, error, ERNIE_FORMAT,
                "%s: %s: %u columns, its architecture calls for %u", im->name, name, e->n_cols,
                expected->n_cols);
    ERN_FAIL_IF(!conv_moment_allowed(expected, e->moment), error, ERNIE_FORMAT,
                "%s: %s: moments of kind %u are not possible here", im->name, name, e->moment);
    ERN_FAIL_IF(!(e->n >= 0 && isfinite(e->n)), error, ERNIE_FORMAT, "%s: %s: %g samples", im->name,
                name, e->n);
    ERN_FAIL_IF(e->reserved || (e->moment != CONV_MOMENT_OWN && e->checksum), error, ERNIE_FORMAT,
                "%s: %s: reserved bytes are not zero", im->name, name);
    return ERNIE_OK;
}

static size_t imatrix_router(const conv_imatrix *im, uint32_t layer)
{
    return (size_t)im->layer_begin[layer] + 2;
}

/* Walk the canonical order beside the index: entries are what they must be, places follow. */
static ernie_status imatrix_check_index(conv_imatrix *im, uint64_t *end, ernie_error *error)
{
    conv_entries at;
    conv_imatrix_entry expected;
    uint64_t n_squares = 0;
    size_t i = 0;
    conv_entries_begin(&at, &im->head.hparams);
    for (; conv_entries_next(&at, &expected); i++) {
        const ernie_status status = imatrix_check_entry(im, i, &expected, error);
        if (status != ERNIE_OK) return status;
        if (expected.kind == ERN_QKV) im->layer_begin[expected.layer] = i;
        const bool common = im->entries[i].moment == CONV_MOMENT_COMMON;
        ERN_FAIL_IF(
            common && im->entries[imatrix_router(im, expected.layer)].moment != CONV_MOMENT_OWN,
            error, ERNIE_FORMAT, "%s: layer %u shares moments that it does not have", im->name,
            expected.layer);
        im->moments[i] =
            (conv_moments){ im->entries[i].n, expected.n_cols, im->entries[i].moment, NULL };
        n_squares += expected.n_cols;
    }
    im->layer_begin[im->head.hparams.n_layers] = i - 1;
    im->n_squares = n_squares;
    *end = sizeof im->head + conv_index_bytes(i) + conv_squares_bytes(n_squares);
    for (i = 0; i < im->head.n_entries; i++) {
        if (im->entries[i].moment != CONV_MOMENT_OWN) continue;
        im->offset[i] = *end;
        ERN_FAIL_IF(!ern_add_u64(end, *end, conv_triangle_bytes(im->entries[i].n_cols)), error,
                    ERNIE_FORMAT, "%s: its matrices exceed every file", im->name);
    }
    ERN_FAIL_IF(*end != im->file.n_bytes, error, ERNIE_FORMAT,
                "%s: has %llu bytes, its entries call for %llu", im->name,
                (unsigned long long)im->file.n_bytes, (unsigned long long)*end);
    return ERNIE_OK;
}

static ernie_status imatrix_load_index(conv_imatrix *im, ernie_error *error)
{
    const size_t n = im->head.n_entries, bytes = (size_t)conv_index_bytes(n);
    im->entries = ern_alloc(&im->allocator, bytes);
    im->moments = ern_alloc_zero(&im->allocator, n * sizeof *im->moments);
    im->offset = ern_alloc_zero(&im->allocator, n * sizeof *im->offset);
    im->layer_begin = ern_alloc_zero(&im->allocator, (im->head.hparams.n_layers + (size_t)1)
                                                         * sizeof *im->layer_begin);
    ERN_FAIL_IF(!im->entries || !im->moments || !im->offset || !im->layer_begin, error,
                ERNIE_NO_MEMORY, "%s: no memory for %zu entries", im->name, n);
    return imatrix_load_block(im, "index", sizeof im->head, im->entries, bytes,
                              im->head.index_checksum, error);
}

static ernie_status imatrix_load_squares(conv_imatrix *im, ernie_error *error)
{
    const size_t bytes = (size_t)conv_squares_bytes(im->n_squares);
    im->squares = ern_alloc_aligned(&im->allocator, bytes);
    ERN_FAIL_IF(!im->squares, error, ERNIE_NO_MEMORY, "%s: no memory for %zu bytes of squares",
                im->name, bytes);
    const uint64_t offset = sizeof im->head + conv_index_bytes(im->head.n_entries);
    const ernie_status status = imatrix_load_block(im, "squares", offset, im->squares, bytes,
                                                   im->head.squares_checksum, error);
    if (status != ERNIE_OK) return status;
    const float *square = im->squares;
    for (size_t i = 0; i < im->head.n_entries; i++) {
        im->moments[i].square = square;
        for (uint32_t j = 0; j < im->moments[i].n_cols; j++, square++) {
            char name[64];
            if (*square > 0 && isfinite(*square)) continue;
            conv_entry_name(&im->entries[i], name);
            return ern_error_set(error, ERNIE_FORMAT, "%s: %s: the mean square of column %u is %g",
                                 im->name, name, j, (double)*square);
        }
    }
    return ERNIE_OK;
}

ERN_FN ernie_status conv_imatrix_open(conv_imatrix **out, const char *path,
                                      const ernie_allocator *allocator, ernie_error *error)
{
    uint64_t end;
    *out = NULL;
    if (!allocator) allocator = ern_allocator_default();
    conv_imatrix *im = ern_alloc_zero(allocator, sizeof *im);
    ERN_FAIL_IF(!im, error, ERNIE_NO_MEMORY, "no memory for a calibration file's %zu bytes",
                sizeof *im);
    im->allocator = *allocator;
    ernie_status status = imatrix_load_head(im, path, error);
    if (status == ERNIE_OK) status = imatrix_load_index(im, error);
    if (status == ERNIE_OK) status = imatrix_check_index(im, &end, error);
    if (status == ERNIE_OK) status = imatrix_load_squares(im, error);
    if (status != ERNIE_OK) {
        conv_imatrix_close(im);
        return status;
    }
    *out = im;
    return ERNIE_OK;
}

ERN_FN void conv_imatrix_close(conv_imatrix *im)
{
    if (!im) return;
    const ernie_allocator allocator = im->allocator;
    const size_t n = im->head.n_entries;
    conv_file_close(&im->file);
    if (im->entries) ern_free(&allocator, im->entries, (size_t)conv_index_bytes(n));
    if (im->moments) ern_free(&allocator, im->moments, n * sizeof *im->moments);
    if (im->offset) ern_free(&allocator, im->offset, n * sizeof *im->offset);
    if (im->layer_begin)
        ern_free(&allocator, im->layer_begin,
                 (im->head.hparams.n_layers + (size_t)1) * sizeof *im->layer_begin);
    if (im->squares)
        ern_free_aligned(&allocator, im->squares, (size_t)conv_squares_bytes(im->n_squares));
    ern_free(&allocator, im, sizeof *im);
}

/* ---- Does it belong to a model? -------------------------------------------------------------- */

ERN_FN ernie_status conv_imatrix_check(const conv_imatrix *im, const ern_hparams *hp,
                                       ernie_error *error)
{
    const ern_hparams *own = &im->head.hparams;
#define IMATRIX_SAME(field)           \
    {                                 \
#field, own->field, hp->field \
    }
    const struct {
        const char *name;
        uint32_t own, wanted;
    } numbers[] = { IMATRIX_SAME(n_layers),
                    IMATRIX_SAME(hidden_size),
                    IMATRIX_SAME(n_heads),
                    IMATRIX_SAME(n_kv_heads),
                    IMATRIX_SAME(head_dim),
                    IMATRIX_SAME(intermediate_size),
                    IMATRIX_SAME(vocab_size),
                    IMATRIX_SAME(n_experts),
                    IMATRIX_SAME(moe_k),
                    IMATRIX_SAME(moe_intermediate_size),
                    IMATRIX_SAME(shared_intermediate_size),
                    IMATRIX_SAME(moe_layer_start),
                    IMATRIX_SAME(moe_layer_end),
                    IMATRIX_SAME(moe_layer_interval),
                    IMATRIX_SAME(tied) };
#undef IMATRIX_SAME
    for (size_t i = 0; i < ERN_COUNT(numbers); i++)
        ERN_FAIL_IF(numbers[i].own != numbers[i].wanted, error, ERNIE_INVALID,
                    "%s: was made with another model: its %s is %u, here it is %u", im->name,
                    numbers[i].name, numbers[i].own, numbers[i].wanted);
    return ERNIE_OK;
}

/* ---- Looking up ------------------------------------------------------------------------------ */

/* Where an entry would be; the caller compares what is there. */
static size_t imatrix_place(const conv_imatrix *im, unsigned kind, unsigned layer, unsigned expert,
                            bool second)
{
    const ern_hparams *hp = &im->head.hparams;
    const size_t begin = (size_t)im->layer_begin[layer], end = (size_t)im->layer_begin[layer + 1];
    switch (kind) {
    case ERN_QKV: return begin;
    case ERN_ATTN_OUT: return begin + 1;
    case ERN_ROUTER:
    case ERN_FFN_GATE_UP: return begin + 2;
    case ERN_FFN_DOWN:
    case ERN_SHARED_GATE_UP: return begin + 3;
    case ERN_SHARED_DOWN: return begin + 4;
    case ERN_EXPERT:
        if (expert >= hp->n_experts || !ern_layer_is_moe(hp, layer)) break;
        return end - 2 * (size_t)hp->n_experts + 2 * (size_t)expert + second;
    default: break;
    }
    return SIZE_MAX;
}

ERN_FN const conv_moments *conv_imatrix_find(const conv_imatrix *im, unsigned kind, unsigned layer,
                                             unsigned expert, bool second)
{
    const ern_hparams *hp = &im->head.hparams;
    if (kind == ERN_HEAD || (kind == ERN_EMBED && hp->tied))
        return &im->moments[im->head.n_entries - 1];
    if (layer >= hp->n_layers) return NULL;
    const size_t i = imatrix_place(im, kind, layer, expert, second);
    if (i >= im->layer_begin[layer + 1] || im->entries[i].kind != kind) return NULL;
    return &im->moments[i];
}

/* ---- Moments --------------------------------------------------------------------------------- */

static ernie_status imatrix_damaged(const conv_imatrix *im, size_t i, ernie_error *error)
{
    char name[64];
    conv_entry_name(&im->entries[i], name);
    return ern_error_set(error, ERNIE_CORRUPT,
                         "%s: %s: the checksum of its moments at byte %llu is wrong: the file is "
                         "damaged",
                         im->name, name, (unsigned long long)im->offset[i]);
}

/* The upper triangle of the matrix that entry i owns, each row at its place in out [n][n]. */
static ernie_status imatrix_read_triangle(const conv_imatrix *im, size_t i, float *out,
                                          ernie_error *error)
{
    const size_t n = im->entries[i].n_cols;
    const uint64_t n_bytes = conv_triangle(im->entries[i].n_cols) * sizeof(float);
    uint64_t at = im->offset[i];
    unsigned char zeros[64] = { 0 };
    ern_hash hash;
    ern_hash_begin(&hash);
    for (size_t r = 0; r < n; r++) {
        float *row = out + r * n + r;
        const size_t bytes = (n - r) * sizeof *row;
        const ernie_status status = conv_file_read(&im->file, im->name, at, row, bytes, error);
        if (status != ERNIE_OK) return status;
        ern_hash_add(&hash, row, bytes);
        at += bytes;
    }
    const size_t n_pad = (size_t)(conv_triangle_bytes(im->entries[i].n_cols) - n_bytes);
    const ernie_status status = conv_file_read(&im->file, im->name, at, zeros, n_pad, error);
    if (status != ERNIE_OK) return status;
    ern_hash_add(&hash, zeros, n_pad);
    if (ern_hash_end64(&hash) != im->entries[i].checksum) return imatrix_damaged(im, i, error);
    return ERNIE_OK;
}

/* Scale a block of the upper triangle by its diagonal, and mirror it; a block at a time, since the
 * mirror image is written column by column. */
static bool imatrix_mirror(float *out, size_t n, size_t i_begin, size_t j_begin)
{
    const size_t i_end = ern_min_size(n, i_begin + IMATRIX_BLOCK);
    const size_t j_end = ern_min_size(n, j_begin + IMATRIX_BLOCK);
    bool finite = true;
    for (size_t i = i_begin; i < i_end; i++)
        for (size_t j = ern_max_size(j_begin, i + 1); j < j_end; j++) {
            const float value = out[i * n + j] * (out[i * n + i] * out[j * n + j]);
            finite = finite && isfinite(value);
            out[i * n + j] = out[j * n + i] = value;
        }
    return finite;
}

/* Scale the triangle to the diagonal `square` and mirror it. The scales wait in the diagonal,
 * which is written last. */
static ernie_status imatrix_finish(const conv_imatrix *im, const conv_moments *moments, float *out,
                                   ernie_error *error)
{
    const size_t n = moments->n_cols;
    char name[64];
    conv_entry_name(&im->entries[moments - im->moments], name);
    for (size_t i = 0; i < n; i++) {
        float *m = &out[i * n + i];
        ERN_FAIL_IF(!(*m > 0 && isfinite(*m)), error, ERNIE_FORMAT,
                    "%s: %s: the second moment of column %zu is %g", im->name, name, i, (double)*m);
        *m = (float)sqrt((double)moments->square[i] / (double)*m);
    }
    for (size_t ib = 0; ib < n; ib += IMATRIX_BLOCK)
        for (size_t jb = ib; jb < n; jb += IMATRIX_BLOCK)
            ERN_FAIL_IF(!imatrix_mirror(out, n, ib, jb), error, ERNIE_FORMAT,
                        "%s: %s: a moment of columns %zu to %zu is no finite number", im->name,
                        name, ib, jb + IMATRIX_BLOCK - 1);
    for (size_t i = 0; i < n; i++) out[i * n + i] = moments->square[i];
    return ERNIE_OK;
}

ERN_FN ernie_status conv_imatrix_read(const conv_imatrix *im, const conv_moments *moments,
                                      float *out, ernie_error *error)
{
    size_t i = (size_t)(moments - im->moments);
    ERN_FAIL_IF(moments->moment == CONV_MOMENT_NONE, error, ERNIE_INVALID,
                "%s: entry %zu has no second moments", im->name, i);
    if (moments->moment == CONV_MOMENT_COMMON) i = imatrix_router(im, im->entries[i].layer);
    const ernie_status status = imatrix_read_triangle(im, i, out, error);
    return status == ERNIE_OK ? imatrix_finish(im, moments, out, error) : status;
}
