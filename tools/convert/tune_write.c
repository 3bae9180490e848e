/* The tuned file: the model's bytes with other norms, and the checksums that follow from them. */
#include "tune_inner.h"

#define WRITE_PIECE ((uint64_t)4 << 20)

/* The refitted weights of a record; NULL for all that is no norm of a layer. */
static const float *write_norm_of(const tune *t, const ern_record *record)
{
    const uint32_t n_layers = t->hp->n_layers;
    if (record->kind == ERN_FINAL_NORM) return tune_norm(t, 2 * (size_t)n_layers);
    if (record->layer >= n_layers) return NULL;
    if (record->kind == ERN_ATTN_NORM) return tune_norm(t, 2 * (size_t)record->layer);
    if (record->kind == ERN_FFN_NORM) return tune_norm(t, 2 * (size_t)record->layer + 1);
    return NULL;
}

/* Everything behind the header as it was. */
static ernie_status write_copy(tune *t, const ern_format *format, ernie_error *error)
{
    for (uint64_t at = ERN_HEADER_BYTES; at < format->n_bytes;) {
        const uint64_t rest = format->n_bytes - at;
        const size_t n = (size_t)(rest < WRITE_PIECE ? rest : WRITE_PIECE);
        ernie_status status = conv_out_write(&t->out, at, format->data + at, n, NULL, error);
        if (status != ERNIE_OK) return status;
        at += n;
        const bool stop =
            t->options.progress
            && t->options.progress("writing", at, format->n_bytes, t->options.progress_user);
        ERN_FAIL_IF(stop || atomic_load(t->options.stop), error, ERNIE_CANCELLED, "%s: cancelled",
                    t->out.path.text);
    }
    return ERNIE_OK;
}

/* The norms' records, over what the copy brought. `row`: room for the largest of them. */
static ernie_status write_norms(tune *t, ern_record *records, uint32_t n, unsigned char *row,
                                size_t row_bytes, ernie_error *error)
{
    memset(row, 0, row_bytes);
    for (uint32_t i = 0; i < n; i++) {
        const float *norm = write_norm_of(t, &records[i]);
        if (!norm) continue;
        ERN_ASSERT(records[i].n_bytes == row_bytes);
        memcpy(row, norm, t->hp->hidden_size * sizeof *norm);
        records[i].checksum = ern_hash64(row, row_bytes);
        const ernie_status status =
            conv_out_write(&t->out, records[i].offset, row, row_bytes, NULL, error);
        if (status != ERNIE_OK) return status;
    }
    return ERNIE_OK;
}

/* What makes the file a model comes last: until then its first bytes are zero. */
static ernie_status write_head(tune *t, const ern_header *from, const ern_record *records,
                               ernie_error *error)
{
    ern_header header = *from;
    ern_section *index = &header.section[ERN_SECTION_INDEX];
    index->checksum = ern_hash64(records, (size_t)index->n_bytes);
    ern_weights_id(records, header.n_records, header.weights_id);
    ern_hash128(&header, sizeof header - sizeof header.checksum, header.checksum);
    ernie_status status =
        conv_out_write(&t->out, index->offset, records, (size_t)index->n_bytes, NULL, error);
    if (status == ERNIE_OK)
        status = conv_out_write(&t->out, 0, &header, sizeof header, NULL, error);
    return status == ERNIE_OK ? conv_out_commit(&t->out, error) : status;
}

ERN_FN ernie_status tune_write(tune *t, ernie_error *error)
{
    const ern_format *format = &t->side[TUNE_MODEL].model->format;
    const size_t index_bytes = (size_t)format->header->section[ERN_SECTION_INDEX].n_bytes;
    const size_t row_bytes = (size_t)ern_row_bytes(ERN_F32, t->hp->hidden_size);
    ern_record *records = ern_alloc(&t->allocator, index_bytes);
    unsigned char *row = ern_alloc(&t->allocator, row_bytes);
    ernie_status status = ERNIE_OK;
    if (!records || !row) {
        status = ern_error_set(error, ERNIE_NO_MEMORY, "no memory for an index of %zu bytes",
                               index_bytes);
    } else {
        memcpy(records, format->records, index_bytes);
        status = write_copy(t, format, error);
        if (status == ERNIE_OK)
            status = write_norms(t, records, format->header->n_records, row, row_bytes, error);
        if (status == ERNIE_OK) status = write_head(t, format->header, records, error);
    }
    if (records) ern_free(&t->allocator, records, index_bytes);
    if (row) ern_free(&t->allocator, row, row_bytes);
    return status;
}
