/* The frame of GGUF: a reader that takes one field after the other, and refuses by name what does
 * not fit. The header's length stands nowhere, so it is read as far as its fields ask for. */
#include "gguf.h"

#define GGUF_READ_BYTES       ((size_t)1 << 20) /* at least, when more of the header is needed */
#define GGUF_PAIR_BYTES_MIN   13u               /* a key's length, one letter, a type */
#define GGUF_TENSOR_BYTES_MIN 33u /* a name's length, one letter, dims, type, offset */
#define GGUF_ALIGN_MAX        ((uint64_t)1 << 20)

typedef struct gguf_reader {
    conv_gguf *gguf;
    const conv_file *file; /* NULL: no more than gguf->header */
    uint64_t n_file;
    size_t at;
    const char *name; /* of the file */
    const char *what; /* is being read: "pair", "tensor" */
    uint64_t i;       /* which one */
    ernie_error *error;
} gguf_reader;

/* ---- Fields ---------------------------------------------------------------------------------- */

static uint64_t gguf_left(const gguf_reader *reader)
{
    return reader->n_file - reader->at;
}

/* The next n bytes are there, or the file is too short. */
static ernie_status gguf_need(gguf_reader *reader, uint64_t n)
{
    conv_bytes *header = &reader->gguf->header;
    const uint64_t n_there = (reader->file ? reader->n_file : header->n) - reader->at;
    ERN_FAIL_IF(n > n_there, reader->error, ERNIE_FORMAT,
                "%s: is truncated: %s %llu at byte %zu needs %llu bytes, %llu are left",
                reader->name, reader->what, (unsigned long long)reader->i, reader->at,
                (unsigned long long)n, (unsigned long long)n_there);
    ERN_FAIL_IF(reader->at + n > CONV_GGUF_HEADER_MAX, reader->error, ERNIE_UNSUPPORTED,
                "%s: its header exceeds %llu bytes in %s %llu", reader->name,
                (unsigned long long)CONV_GGUF_HEADER_MAX, reader->what,
                (unsigned long long)reader->i);
    const size_t end = reader->at + (size_t)n;
    if (end <= header->n) return ERNIE_OK;
    const size_t more = ern_max_size(end - header->n, ern_max_size(GGUF_READ_BYTES, header->n));
    const uint64_t unread = reader->n_file - header->n;
    return conv_file_append(header, reader->file, reader->name,
                            more < unread ? more : (size_t)unread, reader->error);
}

static uint64_t gguf_load(const unsigned char *src, size_t n)
{
    uint64_t value = 0;
    for (size_t i = 0; i < n; i++) value |= (uint64_t)src[i] << (8 * i);
    return value;
}

static ernie_status gguf_number(gguf_reader *reader, size_t n, uint64_t *value)
{
    const ernie_status status = gguf_need(reader, n);
    *value = 0;
    if (status != ERNIE_OK) return status;
    *value = gguf_load(reader->gguf->header.data + reader->at, n);
    reader->at += n;
    return ERNIE_OK;
}

static ernie_status gguf_u32(gguf_reader *reader, uint32_t *value)
{
    uint64_t wide;
    const ernie_status status = gguf_number(reader, sizeof *value, &wide);
    *value = (uint32_t)wide;
    return status;
}

/* Its length and where its bytes begin; the reader goes behind it. */
static ernie_status gguf_string(gguf_reader *reader, size_t *begin, uint64_t *n)
{
    ernie_status status = gguf_number(reader, sizeof *n, n);
    if (status == ERNIE_OK) status = gguf_need(reader, *n);
    if (status != ERNIE_OK) return status;
    *begin = reader->at;
    reader->at += (size_t)*n;
    return ERNIE_OK;
}

/* ---- Pairs ----------------------------------------------------------------------------------- */

static const char *gguf_key(const conv_gguf *gguf, const conv_gguf_pair *pair)
{
    return (const char *)gguf->header.data + pair->key;
}

static ernie_status gguf_array(gguf_reader *reader, conv_gguf_pair *pair)
{
    ernie_status status = gguf_u32(reader, &pair->item);
    if (status == ERNIE_OK) status = gguf_number(reader, sizeof pair->n, &pair->n);
    if (status != ERNIE_OK) return status;
    const char *key = gguf_key(reader->gguf, pair);
    const int n_bytes = conv_gguf_value_bytes(pair->item);
    ERN_FAIL_IF(n_bytes < 0 || pair->item == CONV_GGUF_ARRAY, reader->error, ERNIE_UNSUPPORTED,
                "%s: %.*s is an array of the unknown value type %u", reader->name, (int)pair->n_key,
                key, (unsigned)pair->item);
    const uint64_t item_bytes = n_bytes ? (uint64_t)n_bytes : sizeof(uint64_t);
    ERN_FAIL_IF(pair->n > gguf_left(reader) / item_bytes, reader->error, ERNIE_FORMAT,
                "%s: %.*s says it has %llu values, the %llu bytes that are left hold fewer",
                reader->name, (int)pair->n_key, key, (unsigned long long)pair->n,
                (unsigned long long)gguf_left(reader));
    pair->value = reader->at;
    if (n_bytes) {
        status = gguf_need(reader, pair->n * item_bytes);
        if (status == ERNIE_OK) reader->at += (size_t)(pair->n * item_bytes);
        return status;
    }
    for (uint64_t i = 0; i < pair->n && status == ERNIE_OK; i++) {
        size_t begin;
        uint64_t n;
        status = gguf_string(reader, &begin, &n);
    }
    return status;
}

static ernie_status gguf_value(gguf_reader *reader, conv_gguf_pair *pair)
{
    pair->n = 1;
    if (pair->type == CONV_GGUF_STRING) return gguf_string(reader, &pair->value, &pair->n);
    if (pair->type == CONV_GGUF_ARRAY) return gguf_array(reader, pair);
    const int n_bytes = conv_gguf_value_bytes(pair->type);
    ERN_FAIL_IF(n_bytes < 0, reader->error, ERNIE_UNSUPPORTED,
                "%s: %.*s has the unknown value type %u", reader->name, (int)pair->n_key,
                gguf_key(reader->gguf, pair), (unsigned)pair->type);
    const ernie_status status = gguf_need(reader, (uint64_t)n_bytes);
    pair->value = reader->at;
    if (status == ERNIE_OK) reader->at += (size_t)n_bytes;
    return status;
}

static bool gguf_grow_pairs(conv_gguf *gguf)
{
    if (gguf->n_pairs < gguf->capacity) return true;
    const size_t more = ern_max_size(64, 2 * gguf->capacity);
    conv_gguf_pair *grown = ern_resize(gguf->allocator, gguf->pairs, gguf->capacity * sizeof *grown,
                                       more * sizeof *grown);
    if (!grown) return false;
    gguf->pairs = grown;
    gguf->capacity = more;
    return true;
}

static ernie_status gguf_pair(gguf_reader *reader)
{
    uint64_t n_key;
    conv_gguf *gguf = reader->gguf;
    conv_gguf_pair pair = { 0 };
    ernie_status status = gguf_string(reader, &pair.key, &n_key);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(n_key == 0 || n_key > CONV_GGUF_KEY_MAX, reader->error, ERNIE_FORMAT,
                "%s: the key of pair %llu has %llu bytes, expected 1 to %u", reader->name,
                (unsigned long long)reader->i, (unsigned long long)n_key, CONV_GGUF_KEY_MAX);
    pair.n_key = (uint32_t)n_key;
    ERN_FAIL_IF(conv_gguf_find_bytes(gguf, gguf_key(gguf, &pair), pair.n_key), reader->error,
                ERNIE_FORMAT, "%s: the key %.*s is there twice", reader->name, (int)pair.n_key,
                gguf_key(gguf, &pair));
    status = gguf_u32(reader, &pair.type);
    if (status == ERNIE_OK) status = gguf_value(reader, &pair);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(!gguf_grow_pairs(gguf), reader->error, ERNIE_NO_MEMORY,
                "%s: no memory for %zu pairs", reader->name, gguf->n_pairs);
    gguf->pairs[gguf->n_pairs++] = pair;
    return ERNIE_OK;
}

/* ---- Tensors --------------------------------------------------------------------------------- */

static uint32_t gguf_dtype(const conv_ggml_info *info)
{
    switch (info->type) {
    case CONV_GGML_F32: return CONV_F32;
    case CONV_GGML_F16: return CONV_F16;
    case CONV_GGML_BF16: return CONV_BF16;
    default: return conv_ggml_readable(info->type) ? CONV_GGML + info->type : CONV_OTHER;
    }
}

/* Shape and type, and the bytes that they ask for. `name` is terminated. */
static ernie_status gguf_tensor_shape(gguf_reader *reader, const char *name, conv_tensor *tensor)
{
    char text[128];
    uint32_t type;
    uint64_t dim;
    ernie_status status = gguf_u32(reader, &tensor->n_dims);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(tensor->n_dims == 0 || tensor->n_dims > CONV_GGUF_DIMS_MAX, reader->error,
                ERNIE_FORMAT, "%s: tensor \"%.96s\" has %u dimensions, expected 1 to %u",
                reader->name, name, (unsigned)tensor->n_dims, CONV_GGUF_DIMS_MAX);
    for (uint32_t i = tensor->n_dims; i-- > 0 && status == ERNIE_OK;) {
        status = gguf_number(reader, sizeof dim, &dim);
        tensor->dims[i] = dim; /* innermost last */
    }
    if (status == ERNIE_OK) status = gguf_u32(reader, &type);
    if (status == ERNIE_OK) status = gguf_number(reader, sizeof tensor->offset, &tensor->offset);
    if (status != ERNIE_OK) return status;
    const conv_ggml_info *info = conv_ggml_find(type);
    ERN_FAIL_IF(!info, reader->error, ERNIE_UNSUPPORTED, "%s: tensor \"%.96s\": type %u is unknown",
                reader->name, name, (unsigned)type);
    tensor->dtype = gguf_dtype(info);
    tensor->dtype_name = info->name;
    tensor->block_values = info->block_values;
    tensor->block_bytes = info->block_bytes;

    const uint64_t row = tensor->dims[tensor->n_dims - 1];
    bool fits = row > 0 && row % info->block_values == 0;
    ERN_FAIL_IF(!fits, reader->error, ERNIE_FORMAT,
                "%s: tensor \"%.80s\": rows of %llu values are no whole blocks of %u (%s)",
                reader->name, name, (unsigned long long)row, (unsigned)info->block_values,
                info->name);
    tensor->n_bytes = row / info->block_values;
    for (uint32_t i = 0; i + 1 < tensor->n_dims; i++)
        fits = fits && tensor->dims[i] > 0
               && ern_mul_u64(&tensor->n_bytes, tensor->n_bytes, tensor->dims[i]);
    fits = fits && ern_mul_u64(&tensor->n_bytes, tensor->n_bytes, info->block_bytes);
    ERN_FAIL_IF(!fits, reader->error, ERNIE_FORMAT,
                "%s: tensor \"%.80s\": %s of %s is empty or has more bytes than can be counted",
                reader->name, name, conv_shape_text(tensor->dims, tensor->n_dims, text),
                info->name);
    return ERNIE_OK;
}

static ernie_status gguf_tensor(gguf_reader *reader, conv_tensors *tensors, uint32_t shard,
                                uint64_t align)
{
    size_t begin;
    uint64_t n;
    char name[CONV_TENSOR_NAME_MAX + 1];
    conv_tensor tensor = { .shard = shard };
    ernie_status status = gguf_string(reader, &begin, &n);
    if (status != ERNIE_OK) return status;
    const unsigned char *text = reader->gguf->header.data + begin;
    ERN_FAIL_IF(
        n == 0 || n > CONV_TENSOR_NAME_MAX || memchr(text, 0, (size_t)n), reader->error,
        ERNIE_FORMAT, "%s: the name of tensor %llu has %llu bytes, expected 1 to %u without zeros",
        reader->name, (unsigned long long)reader->i, (unsigned long long)n, CONV_TENSOR_NAME_MAX);
    memcpy(name, text, (size_t)n);
    name[n] = '\0';
    status = gguf_tensor_shape(reader, name, &tensor);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(tensor.offset % align != 0, reader->error, ERNIE_FORMAT,
                "%s: tensor \"%.96s\" lies at data byte %llu, not a multiple of %llu", reader->name,
                name, (unsigned long long)tensor.offset, (unsigned long long)align);
    return conv_tensors_add(tensors, &tensor, name, (size_t)n, reader->error);
}

/* Where the data begin, and that every tensor lies in them. */
static ernie_status gguf_place(const gguf_reader *reader, conv_tensors *tensors, size_t first,
                               uint64_t align)
{
    const uint64_t begin = ern_round_up_u64(reader->at, align);
    const uint64_t n_data = reader->n_file > begin ? reader->n_file - begin : 0;
    if (tensors->n == first) return ERNIE_OK;
    for (size_t i = first; i < tensors->n; i++) {
        const conv_tensor *tensor = &tensors->items[i];
        ERN_FAIL_IF(tensor->offset > n_data || tensor->n_bytes > n_data - tensor->offset,
                    reader->error, ERNIE_FORMAT,
                    "%s: is truncated: tensor \"%.96s\" has %llu bytes at data byte %llu, the file "
                    "has %llu",
                    reader->name, tensor->name, (unsigned long long)tensor->n_bytes,
                    (unsigned long long)tensor->offset, (unsigned long long)n_data);
    }
    const ernie_status status =
        conv_tensors_check_tiling(tensors, first, reader->name, n_data, align, reader->error);
    for (size_t i = first; i < tensors->n; i++) tensors->items[i].offset += begin;
    return status;
}

/* ---- One header ------------------------------------------------------------------------------ */

static ernie_status gguf_magic(gguf_reader *reader)
{
    uint64_t magic;
    uint32_t version;
    ERN_FAIL_IF(reader->n_file < CONV_GGUF_HEADER_BYTES, reader->error, ERNIE_FORMAT,
                "%s: is truncated: %llu bytes hold no GGUF header", reader->name,
                (unsigned long long)reader->n_file);
    ernie_status status = gguf_number(reader, 4, &magic);
    if (status == ERNIE_OK) status = gguf_u32(reader, &version);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(memcmp(reader->gguf->header.data, CONV_GGUF_MAGIC, 4) != 0, reader->error,
                ERNIE_FORMAT, "%s: is no GGUF file: its first bytes are not \"%s\"", reader->name,
                CONV_GGUF_MAGIC);
    ERN_FAIL_IF(version != 0 && (version & 0xffffu) == 0, reader->error, ERNIE_UNSUPPORTED,
                "%s: is big endian, only little endian is supported", reader->name);
    ERN_FAIL_IF(version < CONV_GGUF_VERSION_MIN || version > CONV_GGUF_VERSION, reader->error,
                ERNIE_UNSUPPORTED, "%s: is GGUF of version %u, supported are %u and %u",
                reader->name, (unsigned)version, CONV_GGUF_VERSION_MIN, CONV_GGUF_VERSION);
    return ERNIE_OK;
}

static ernie_status gguf_counts(gguf_reader *reader, uint64_t *n_tensors, uint64_t *n_pairs)
{
    ernie_status status = gguf_number(reader, sizeof *n_tensors, n_tensors);
    if (status == ERNIE_OK) status = gguf_number(reader, sizeof *n_pairs, n_pairs);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(*n_tensors > gguf_left(reader) / GGUF_TENSOR_BYTES_MIN
                    || *n_pairs > gguf_left(reader) / GGUF_PAIR_BYTES_MIN,
                reader->error, ERNIE_FORMAT,
                "%s: says it has %llu tensors and %llu pairs, more than its %llu bytes hold",
                reader->name, (unsigned long long)*n_tensors, (unsigned long long)*n_pairs,
                (unsigned long long)reader->n_file);
    ERN_FAIL_IF(*n_tensors > CONV_TENSORS_MAX || *n_pairs > CONV_GGUF_PAIRS_MAX, reader->error,
                ERNIE_UNSUPPORTED, "%s: has %llu tensors and %llu pairs, at most %u and %u",
                reader->name, (unsigned long long)*n_tensors, (unsigned long long)*n_pairs,
                CONV_TENSORS_MAX, CONV_GGUF_PAIRS_MAX);
    return ERNIE_OK;
}

static ernie_status gguf_alignment(const gguf_reader *reader, uint64_t *align)
{
    int64_t value = CONV_GGUF_ALIGN_DEFAULT;
    const ernie_status status = conv_gguf_integer(reader->gguf, CONV_GGUF_ALIGN_KEY, 1,
                                                  GGUF_ALIGN_MAX, &value, reader->error);
    *align = (uint64_t)value;
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF((*align & (*align - 1)) != 0, reader->error, ERNIE_FORMAT,
                "%s: %s is %llu, not a power of two", reader->name, CONV_GGUF_ALIGN_KEY,
                (unsigned long long)*align);
    return ERNIE_OK;
}

ERN_FN ernie_status conv_gguf_read(conv_gguf *gguf, conv_tensors *tensors, uint32_t shard,
                                   const conv_file *file, uint64_t n_file, ernie_error *error)
{
    uint64_t n_tensors, n_pairs, align;
    const size_t first = tensors->n;
    gguf_reader reader = { .gguf = gguf,
                           .file = file,
                           .n_file = n_file,
                           .name = tensors->shards[shard].name,
                           .what = "pair",
                           .error = error };
    ernie_status status = gguf_magic(&reader);
    if (status == ERNIE_OK) status = gguf_counts(&reader, &n_tensors, &n_pairs);
    if (status != ERNIE_OK) return status;
    for (; reader.i < n_pairs && status == ERNIE_OK; reader.i++) status = gguf_pair(&reader);
    if (status == ERNIE_OK) status = gguf_alignment(&reader, &align);
    if (status != ERNIE_OK) return status;
    reader.what = "tensor";
    for (reader.i = 0; reader.i < n_tensors && status == ERNIE_OK; reader.i++)
        status = gguf_tensor(&reader, tensors, shard, align);
    return status == ERNIE_OK ? gguf_place(&reader, tensors, first, align) : status;
}

/* ---- Files ----------------------------------------------------------------------------------- */

ERN_FN bool conv_gguf_is(const char *path)
{
    return conv_file_is(path, ".gguf", CONV_GGUF_MAGIC);
}

ERN_FN void conv_gguf_close(conv_gguf *gguf)
{
    if (gguf->pairs) ern_free(gguf->allocator, gguf->pairs, gguf->capacity * sizeof *gguf->pairs);
    conv_bytes_free(&gguf->header);
    gguf->pairs = NULL;
    gguf->n_pairs = gguf->capacity = 0;
}

static void gguf_begin(conv_gguf *gguf, const char *name, const ernie_allocator *allocator)
{
    memset(gguf, 0, sizeof *gguf);
    gguf->allocator = gguf->header.allocator = allocator;
    snprintf(gguf->name, sizeof gguf->name, "%s", name);
}

static ernie_status gguf_add_file(conv_gguf *gguf, conv_tensors *tensors, const char *path,
                                  ernie_error *error)
{
    const uint32_t shard = (uint32_t)tensors->n_shards;
    const ernie_status status = conv_tensors_add_shard(tensors, conv_path_base(path), path, error);
    if (status != ERNIE_OK) return status;
    const conv_file *file = &tensors->shards[shard].file;
    return conv_gguf_read(gguf, tensors, shard, file, file->n_bytes, error);
}

/* What a part says of itself: number from 0, and count; 0 of 1 when it is the whole. */
static ernie_status gguf_split(const conv_gguf *gguf, int64_t *number, int64_t *count,
                               ernie_error *error)
{
    *number = 0;
    *count = 1;
    const ernie_status status =
        conv_gguf_integer(gguf, "split.count", 0, CONV_SHARDS_MAX, count, error);
    if (*count == 0) *count = 1;
    return status == ERNIE_OK ? conv_gguf_integer(gguf, "split.no", 0, *count - 1, number, error)
                              : status;
}

/* PREFIX-00001-of-00003.gguf with another number; false when `path` is not of that form. */
static bool gguf_part_path(conv_path *part, const char *path, int64_t number, int64_t count)
{
    char end[32];
    snprintf(end, sizeof end, "-00001-of-%05u.gguf", (unsigned)count);
    const size_t n = strlen(path), n_end = strlen(end);
    if (n >= sizeof part->text || !conv_text_ends_in(path, end)) return false;
    snprintf(part->text, sizeof part->text, "%.*s-%05u-of-%05u.gguf", (int)(n - n_end), path,
             (unsigned)(number + 1), (unsigned)count);
    return true;
}

static ernie_status gguf_add_part(conv_tensors *tensors, const char *path, int64_t number,
                                  int64_t count, const ernie_allocator *allocator,
                                  ernie_error *error)
{
    conv_gguf part;
    int64_t is_number, is_count;
    gguf_begin(&part, conv_path_base(path), allocator);
    ernie_status status = gguf_add_file(&part, tensors, path, error);
    if (status == ERNIE_OK) status = gguf_split(&part, &is_number, &is_count, error);
    if (status == ERNIE_OK && (is_number != number || is_count != count))
        status = ern_error_set(error, ERNIE_FORMAT,
                               "%s: says it is part %lld of %lld, expected %lld of %lld", part.name,
                               (long long)is_number + 1, (long long)is_count, (long long)number + 1,
                               (long long)count);
    conv_gguf_close(&part);
    return status;
}

static ernie_status gguf_add_parts(conv_gguf *gguf, conv_tensors *tensors, const char *path,
                                   ernie_error *error)
{
    conv_path part;
    int64_t number, count, n_tensors = -1;
    ernie_status status = gguf_split(gguf, &number, &count, error);
    if (status != ERNIE_OK || count == 1) return status;
    ERN_FAIL_IF(number != 0 || !gguf_part_path(&part, path, 0, count), error, ERNIE_INVALID,
                "%s: is part %lld of %lld; give the first, whose name ends in "
                "-00001-of-%05lld.gguf, with the others beside it",
                gguf->name, (long long)number + 1, (long long)count, (long long)count);
    for (int64_t i = 1; i < count && status == ERNIE_OK; i++) {
        gguf_part_path(&part, path, i, count);
        status = gguf_add_part(tensors, part.text, i, count, gguf->allocator, error);
    }
    if (status == ERNIE_OK)
        status =
            conv_gguf_integer(gguf, "split.tensors.count", 0, CONV_TENSORS_MAX, &n_tensors, error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(n_tensors >= 0 && (uint64_t)n_tensors != tensors->n, error, ERNIE_FORMAT,
                "%s: says that the %lld parts hold %lld tensors, they hold %zu", gguf->name,
                (long long)count, (long long)n_tensors, tensors->n);
    return ERNIE_OK;
}

ERN_FN ernie_status conv_gguf_open(conv_gguf *gguf, conv_tensors *tensors, const char *path,
                                   const ernie_allocator *allocator, ernie_error *error)
{
    memset(tensors, 0, sizeof *tensors);
    tensors->allocator = allocator;
    tensors->gguf = true;
    gguf_begin(gguf, conv_path_base(path), allocator);
    ernie_status status = gguf_add_file(gguf, tensors, path, error);
    if (status == ERNIE_OK) status = gguf_add_parts(gguf, tensors, path, error);
    return status == ERNIE_OK ? conv_tensors_sort(tensors, error) : status;
}
