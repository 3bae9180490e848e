/* The safetensors format: u64 header length, JSON header, data. */
#include "safetensors.h"
#include "json.h"

/* ---- One header ------------------------------------------------------------------------------ */

static const struct {
    const char *name;
    uint32_t n_bytes, dtype;
} st_dtypes[] = {
    { "F32", 4, CONV_F32 },   { "F16", 2, CONV_F16 },       { "BF16", 2, CONV_BF16 },
    { "F64", 8, CONV_OTHER }, { "F8_E4M3", 1, CONV_OTHER }, { "F8_E5M2", 1, CONV_OTHER },
    { "I64", 8, CONV_OTHER }, { "I32", 4, CONV_OTHER },     { "I16", 2, CONV_OTHER },
    { "I8", 1, CONV_OTHER },  { "U64", 8, CONV_OTHER },     { "U32", 4, CONV_OTHER },
    { "U16", 2, CONV_OTHER }, { "U8", 1, CONV_OTHER },      { "BOOL", 1, CONV_OTHER },
};

/* Bytes of one value; 0 when the name is unknown. */
static uint32_t st_read_dtype(const json_t *value, conv_tensor *tensor)
{
    const char *name = json_string_value(value);
    for (size_t i = 0; name && i < ERN_COUNT(st_dtypes); i++) {
        if (strcmp(name, st_dtypes[i].name) != 0) continue;
        tensor->dtype = st_dtypes[i].dtype;
        tensor->dtype_name = st_dtypes[i].name;
        tensor->block_values = 1;
        tensor->block_bytes = st_dtypes[i].n_bytes;
        return st_dtypes[i].n_bytes;
    }
    return 0;
}

static bool st_read_size(const json_t *value, uint64_t *size)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0) return false;
    *size = (uint64_t)json_integer_value(value);
    return true;
}

static bool st_read_shape(const json_t *value, conv_tensor *tensor)
{
    if (!json_is_array(value) || json_array_size(value) > CONV_DIMS_MAX) return false;
    tensor->n_dims = (uint32_t)json_array_size(value);
    for (uint32_t i = 0; i < tensor->n_dims; i++)
        if (!st_read_size(json_array_get(value, i), &tensor->dims[i])) return false;
    return true;
}

/* Bytes that shape and value size ask for; false on overflow. */
static bool st_shape_bytes(const conv_tensor *tensor, uint32_t value_bytes, uint64_t *n_bytes)
{
    *n_bytes = value_bytes;
    for (uint32_t i = 0; i < tensor->n_dims; i++)
        if (!ern_mul_u64(n_bytes, *n_bytes, tensor->dims[i])) return false;
    return true;
}

static ernie_status st_read_entry(conv_tensor *tensor, const char *shard, const char *name,
                                  const json_t *entry, uint64_t data_bytes, ernie_error *error)
{
    char shape[128];
    uint64_t begin, end, needed;
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const uint32_t value_bytes = st_read_dtype(json_object_get(entry, "dtype"), tensor);
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    ERN_FAIL_IF(value_bytes == 0, error, ERNIE_FORMAT,
                "%s: tensor \"%.128s\": unknown dtype \"%.16s\"", shard, name, dtype ? dtype : "");
    ERN_FAIL_IF(!st_read_shape(json_object_get(entry, "shape"), tensor), error, ERNIE_FORMAT,
                "%s: tensor \"%.128s\": its shape is not a list of up to %u sizes", shard, name,
                CONV_DIMS_MAX);
    ERN_FAIL_IF(json_array_size(offsets) != 2 || !st_read_size(json_array_get(offsets, 0), &begin)
                    || !st_read_size(json_array_get(offsets, 1), &end) || begin > end,
                error, ERNIE_FORMAT,
                "%s: tensor \"%.128s\": data_offsets are not two ascending numbers", shard, name);
    ERN_FAIL_IF(!st_shape_bytes(tensor, value_bytes, &needed) || needed != end - begin, error,
                ERNIE_FORMAT, "%s: tensor \"%.96s\": %s of %s does not fill its %llu bytes", shard,
                name, conv_shape_text(tensor->dims, tensor->n_dims, shape), tensor->dtype_name,
                (unsigned long long)(end - begin));
    ERN_FAIL_IF(end > data_bytes, error, ERNIE_FORMAT,
                "%s: is truncated: tensor \"%.96s\" ends at data byte %llu, the file has %llu",
                shard, name, (unsigned long long)end, (unsigned long long)data_bytes);
    tensor->offset = begin;
    tensor->n_bytes = end - begin;
    return ERNIE_OK;
}

static ernie_status st_add_entry(conv_tensors *tensors, uint32_t shard, const char *shard_name,
                                 const char *name, const json_t *entry, uint64_t data_bytes,
                                 ernie_error *error)
{
    conv_tensor tensor = { .shard = shard };
    const ernie_status status = st_read_entry(&tensor, shard_name, name, entry, data_bytes, error);
    return status == ERNIE_OK ? conv_tensors_add(tensors, &tensor, name, strlen(name), error)
                              : status;
}

ERN_FN ernie_status conv_tensors_add_header(conv_tensors *tensors, uint32_t shard,
                                            const char *shard_name, const unsigned char *header,
                                            size_t n, uint64_t data_offset, uint64_t data_bytes,
                                            ernie_error *error)
{
    json_t *root;
    void *walk;
    const size_t first = tensors->n;
    ernie_status status = conv_json_parse(&root, header, n, shard_name, error);
    if (status != ERNIE_OK) return status;
    for (walk = json_object_iter(root); walk && status == ERNIE_OK;
         walk = json_object_iter_next(root, walk)) {
        const char *name = json_object_iter_key(walk);
        if (strcmp(name, "__metadata__") == 0) continue;
        status = st_add_entry(tensors, shard, shard_name, name, json_object_iter_value(walk),
                              data_bytes, error);
    }
    json_decref(root);
    if (status == ERNIE_OK && tensors->n > first)
        status = conv_tensors_check_tiling(tensors, first, shard_name, data_bytes, 1, error);
    for (size_t i = first; i < tensors->n; i++) tensors->items[i].offset += data_offset;
    return status;
}

/* ---- Shards ---------------------------------------------------------------------------------- */

static ernie_status st_read_shard(conv_tensors *tensors, uint32_t i, ernie_error *error)
{
    unsigned char length[8];
    uint64_t n = 0;
    const conv_shard *shard = &tensors->shards[i];
    ERN_FAIL_IF(shard->file.n_bytes < sizeof length, error, ERNIE_FORMAT,
                "%s: is truncated: %llu bytes hold no safetensors header", shard->name,
                (unsigned long long)shard->file.n_bytes);
    ernie_status status =
        conv_file_read(&shard->file, shard->name, 0, length, sizeof length, error);
    if (status != ERNIE_OK) return status;
    for (unsigned k = 0; k < 8; k++) n |= (uint64_t)length[k] << (8 * k);
    ERN_FAIL_IF(n > CONV_HEADER_BYTES_MAX, error, ERNIE_FORMAT,
                "%s: says its header has %llu bytes, at most %llu are accepted", shard->name,
                (unsigned long long)n, (unsigned long long)CONV_HEADER_BYTES_MAX);
    ERN_FAIL_IF(n > shard->file.n_bytes - sizeof length, error, ERNIE_FORMAT,
                "%s: is truncated: its header of %llu bytes does not fit the file's %llu",
                shard->name, (unsigned long long)n, (unsigned long long)shard->file.n_bytes);

    const uint64_t data_offset = sizeof length + n;
    unsigned char *header = ern_alloc(tensors->allocator, (size_t)n + 1);
    ERN_FAIL_IF(!header, error, ERNIE_NO_MEMORY, "%s: no memory for its header of %llu bytes",
                shard->name, (unsigned long long)n);
    status = conv_file_read(&shard->file, shard->name, sizeof length, header, (size_t)n, error);
    if (status == ERNIE_OK)
        status = conv_tensors_add_header(tensors, i, shard->name, header, (size_t)n, data_offset,
                                         shard->file.n_bytes - data_offset, error);
    ern_free(tensors->allocator, header, (size_t)n + 1);
    return status;
}

static ernie_status st_add_shard(conv_tensors *tensors, const char *dir, const char *name,
                                 ernie_error *error)
{
    conv_path path;
    const uint32_t i = (uint32_t)tensors->n_shards;
    ERN_FAIL_IF(strpbrk(name, "/\\") != NULL || name[0] == '.' || name[0] == '\0', error,
                ERNIE_FORMAT, "shard \"%.128s\": is not the name of a file in the directory", name);
    ernie_status status = conv_path_join(&path, dir, name, error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(!conv_file_exists(path.text), error, ERNIE_IO, "%s: shard \"%.128s\" is missing",
                dir, name);
    status = conv_tensors_add_shard(tensors, name, path.text, error);
    return status == ERNIE_OK ? st_read_shard(tensors, i, error) : status;
}

/* ---- Which files are shards ------------------------------------------------------------------ */

static const char st_index_name[] = "model.safetensors.index.json";

static uint32_t st_find_shard(const conv_tensors *tensors, const char *name)
{
    uint32_t i = 0;
    while (i < tensors->n_shards && strcmp(tensors->shards[i].name, name) != 0) i++;
    return i;
}

static ernie_status st_open_indexed(conv_tensors *tensors, const char *dir, const json_t *map,
                                    ernie_error *error)
{
    json_t *entries = (json_t *)(uintptr_t)map; /* jansson's iteration takes no const */
    uint32_t last = 0;                          /* neighbours usually share a shard */
    ERN_FAIL_IF(!json_is_object(map) || json_object_size(map) == 0, error, ERNIE_FORMAT,
                "%s: has no weight_map", st_index_name);
    for (void *walk = json_object_iter(entries); walk;
         walk = json_object_iter_next(entries, walk)) {
        const char *shard = json_string_value(json_object_iter_value(walk));
        ERN_FAIL_IF(!shard, error, ERNIE_FORMAT, "%s: the shard of \"%.128s\" is not a string",
                    st_index_name, json_object_iter_key(walk));
        if (last < tensors->n_shards && strcmp(tensors->shards[last].name, shard) == 0) continue;
        last = st_find_shard(tensors, shard);
        if (last < tensors->n_shards) continue;
        const ernie_status status = st_add_shard(tensors, dir, shard, error);
        if (status != ERNIE_OK) return status;
    }
    return ERNIE_OK;
}

/* Every tensor of the index must be in the shard where the index puts it. */
static ernie_status st_check_index(const conv_tensors *tensors, const json_t *map,
                                   ernie_error *error)
{
    json_t *entries = (json_t *)(uintptr_t)map;
    for (void *walk = json_object_iter(entries); walk;
         walk = json_object_iter_next(entries, walk)) {
        const char *name = json_object_iter_key(walk);
        const char *shard = json_string_value(json_object_iter_value(walk));
        const conv_tensor *tensor = conv_tensors_find(tensors, name);
        ERN_FAIL_IF(!tensor || strcmp(tensors->shards[tensor->shard].name, shard) != 0, error,
                    ERNIE_FORMAT, "%s: tensor \"%.96s\" is not in %.96s, where the index puts it",
                    st_index_name, name, shard);
    }
    return ERNIE_OK;
}

/* Does the name say "i of n"? model-00002-of-00006.safetensors */
static bool st_shard_number(const char *name, unsigned *number, unsigned *count)
{
    const char *of = strstr(name, "-of-");
    if (!of || of - name < 5) return false;
    return sscanf(of - 5, "%5u-of-%5u.safetensors", number, count) == 2;
}

/* No safetensors: Paddle's own files, pickles, are told by their names, and so are the folders of
 * checkpoints that are cut for several GPUs. */
static ernie_status st_fail_empty(const ernie_allocator *allocator, const char *dir,
                                  ernie_error *error)
{
    size_t n = 0;
    conv_path rank;
    conv_bytes names = { .allocator = allocator };
    ernie_status status = conv_path_join(&rank, dir, "rank0", error);
    if (status == ERNIE_OK) status = conv_dir_list(&names, &n, dir, ".pdparams", error);
    if (status == ERNIE_OK && conv_file_exists(rank.text))
        status = ern_error_set(error, ERNIE_UNSUPPORTED,
                               "%s: is split for tensor-parallel runs (rank0), only whole "
                               "checkpoints can be converted",
                               dir);
    else if (status == ERNIE_OK && n > 0)
        status =
            ern_error_set(error, ERNIE_UNSUPPORTED,
                          "%s: holds Paddle pickles (%.64s), only safetensors can be converted",
                          dir, (const char *)names.data);
    else if (status == ERNIE_OK)
        status = ern_error_set(error, ERNIE_IO, "%s: holds no *.safetensors file", dir);
    conv_bytes_free(&names);
    return status;
}

static ernie_status st_open_all(conv_tensors *tensors, const char *dir, ernie_error *error)
{
    size_t n = 0;
    unsigned number, count, expected = 0;
    conv_bytes names = { .allocator = tensors->allocator };
    ernie_status status = conv_dir_list(&names, &n, dir, ".safetensors", error);
    const char *name = (const char *)names.data;
    for (size_t i = 0; i < n && status == ERNIE_OK; i++, name += strlen(name) + 1) {
        if (st_shard_number(name, &number, &count) && number != ++expected)
            status =
                ern_error_set(error, ERNIE_IO, "%s: shard %u of %u is missing before \"%.96s\"",
                              dir, expected, count, name);
        else
            status = st_add_shard(tensors, dir, name, error);
        if (status == ERNIE_OK && i + 1 == n && st_shard_number(name, &number, &count)
            && number != count)
            status =
                ern_error_set(error, ERNIE_IO, "%s: shards %u to %u are missing after \"%.96s\"",
                              dir, number + 1, count, name);
    }
    conv_bytes_free(&names);
    return status == ERNIE_OK && n == 0 ? st_fail_empty(tensors->allocator, dir, error) : status;
}

ERN_FN ernie_status conv_tensors_open(conv_tensors *tensors, const char *dir,
                                      const ernie_allocator *allocator, ernie_error *error)
{
    static const char single[] = "model.safetensors";
    conv_path path;
    json_t *index = NULL;
    memset(tensors, 0, sizeof *tensors);
    tensors->allocator = allocator;
    ernie_status status = conv_json_load(&index, dir, st_index_name, false, allocator, error);
    if (status == ERNIE_OK) status = conv_path_join(&path, dir, single, error);
    if (status != ERNIE_OK) goto done;

    const json_t *map = json_object_get(index, "weight_map");
    if (index)
        status = st_open_indexed(tensors, dir, map, error);
    else if (conv_file_exists(path.text))
        status = st_add_shard(tensors, dir, single, error);
    else
        status = st_open_all(tensors, dir, error);
    if (status == ERNIE_OK) status = conv_tensors_sort(tensors, error);
    if (status == ERNIE_OK && index) status = st_check_index(tensors, map, error);
done:
    json_decref(index);
    return status;
}
