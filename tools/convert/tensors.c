/* The table of tensors. Whatever the format, the same three things are refused here: doubles, data
 * that two tensors share, and data that no tensor describes. */
#include "tensors.h"

/* ---- Memory ---------------------------------------------------------------------------------- */

static char *tensors_copy_text(const ernie_allocator *allocator, const char *text, size_t n)
{
    char *copy = ern_alloc(allocator, n + 1);
    if (!copy) return NULL;
    memcpy(copy, text, n);
    copy[n] = '\0';
    return copy;
}

static void tensors_free_text(const ernie_allocator *allocator, char *text)
{
    if (text) ern_free(allocator, text, strlen(text) + 1);
}

/* Room for one more item in a growing array. */
static bool tensors_grow(const ernie_allocator *allocator, void **items, size_t n, size_t *capacity,
                         size_t item_size)
{
    if (n < *capacity) return true;
    const size_t more = ern_max_size(16, *capacity + *capacity / 2);
    void *grown = ern_resize(allocator, *items, *capacity * item_size, more * item_size);
    if (!grown) return false;
    *items = grown;
    *capacity = more;
    return true;
}

ERN_FN void conv_tensors_close(conv_tensors *tensors)
{
    for (size_t i = 0; i < tensors->n; i++)
        tensors_free_text(tensors->allocator, tensors->items[i].name);
    for (size_t i = 0; i < tensors->n_shards; i++) {
        conv_file_close(&tensors->shards[i].file);
        tensors_free_text(tensors->allocator, tensors->shards[i].name);
    }
    if (tensors->sorted)
        ern_free(tensors->allocator, (void *)(uintptr_t)tensors->sorted,
                 tensors->n * sizeof *tensors->sorted);
    if (tensors->items)
        ern_free(tensors->allocator, tensors->items, tensors->capacity * sizeof *tensors->items);
    if (tensors->shards)
        ern_free(tensors->allocator, tensors->shards,
                 tensors->shard_capacity * sizeof *tensors->shards);
    memset(tensors, 0, sizeof *tensors);
}

/* ---- Growing --------------------------------------------------------------------------------- */

ERN_FN ernie_status conv_tensors_add_shard(conv_tensors *tensors, const char *name,
                                           const char *path, ernie_error *error)
{
    conv_shard shard = { .name = NULL };
    ERN_FAIL_IF(tensors->n_shards == CONV_SHARDS_MAX, error, ERNIE_FORMAT,
                "%s: the model has more than %u shards", path, CONV_SHARDS_MAX);
    void *shards = tensors->shards;
    const bool grown = tensors_grow(tensors->allocator, &shards, tensors->n_shards,
                                    &tensors->shard_capacity, sizeof shard);
    tensors->shards = shards;
    if (grown) shard.name = tensors_copy_text(tensors->allocator, name, strlen(name));
    ERN_FAIL_IF(!shard.name, error, ERNIE_NO_MEMORY, "no memory for the list of shards");
    tensors->shards[tensors->n_shards++] = shard;
    return conv_file_open(&tensors->shards[tensors->n_shards - 1].file, path, error);
}

ERN_FN ernie_status conv_tensors_add(conv_tensors *tensors, const conv_tensor *tensor,
                                     const char *name, size_t n, ernie_error *error)
{
    const char *shard = tensors->shards[tensor->shard].name;
    ERN_FAIL_IF(n > CONV_TENSOR_NAME_MAX || tensors->n == CONV_TENSORS_MAX, error, ERNIE_FORMAT,
                "%s: tensor \"%.64s\": name longer than %u bytes, or more than %u tensors", shard,
                name, CONV_TENSOR_NAME_MAX, CONV_TENSORS_MAX);
    void *items = tensors->items;
    const bool grown =
        tensors_grow(tensors->allocator, &items, tensors->n, &tensors->capacity, sizeof *tensor);
    tensors->items = items;
    char *copy = grown ? tensors_copy_text(tensors->allocator, name, n) : NULL;
    ERN_FAIL_IF(!copy, error, ERNIE_NO_MEMORY, "no memory for the list of tensors");
    tensors->items[tensors->n] = *tensor;
    tensors->items[tensors->n++].name = copy;
    return ERNIE_OK;
}

/* ---- One after the other --------------------------------------------------------------------- */

static int tensors_compare_offsets(const void *a, const void *b)
{
    const conv_tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return x->n_bytes < y->n_bytes ? -1 : x->n_bytes > y->n_bytes;
}

ERN_FN ernie_status conv_tensors_check_tiling(conv_tensors *tensors, size_t first,
                                              const char *shard_name, uint64_t data_bytes,
                                              uint64_t align, ernie_error *error)
{
    uint64_t end = 0;
    conv_tensor *items = tensors->items + first;
    const size_t n = tensors->n - first;
    qsort(items, n, sizeof *items, tensors_compare_offsets);
    for (size_t i = 0; i < n; i++) {
        ERN_FAIL_IF(items[i].offset < end, error, ERNIE_FORMAT,
                    "%s: tensor \"%.80s\" at data byte %llu overlaps \"%.80s\"", shard_name,
                    items[i].name, (unsigned long long)items[i].offset, items[i - 1].name);
        ERN_FAIL_IF(items[i].offset > ern_round_up_u64(end, align), error, ERNIE_FORMAT,
                    "%s: no tensor covers data bytes %llu to %llu", shard_name,
                    (unsigned long long)end, (unsigned long long)items[i].offset);
        end = items[i].offset + items[i].n_bytes;
    }
    ERN_FAIL_IF(data_bytes < end || data_bytes > ern_round_up_u64(end, align), error, ERNIE_FORMAT,
                "%s: holds %llu bytes of data, its header describes %llu", shard_name,
                (unsigned long long)data_bytes, (unsigned long long)end);
    return ERNIE_OK;
}

/* ---- Names ----------------------------------------------------------------------------------- */

static int tensors_compare_names(const void *a, const void *b)
{
    return strcmp((*(const conv_tensor *const *)a)->name, (*(const conv_tensor *const *)b)->name);
}

ERN_FN ernie_status conv_tensors_sort(conv_tensors *tensors, ernie_error *error)
{
    if (tensors->n == 0) return ERNIE_OK;
    tensors->sorted = ern_alloc(tensors->allocator, tensors->n * sizeof *tensors->sorted);
    ERN_FAIL_IF(!tensors->sorted, error, ERNIE_NO_MEMORY, "no memory for the list of tensors");
    for (size_t i = 0; i < tensors->n; i++) tensors->sorted[i] = &tensors->items[i];
    qsort(tensors->sorted, tensors->n, sizeof *tensors->sorted, tensors_compare_names);
    for (size_t i = 1; i < tensors->n; i++) {
        const conv_tensor *a = tensors->sorted[i - 1], *b = tensors->sorted[i];
        ERN_FAIL_IF(strcmp(a->name, b->name) == 0, error, ERNIE_FORMAT,
                    "tensor \"%.96s\" is there twice, in %.64s and in %.64s", a->name,
                    tensors->shards[a->shard].name, tensors->shards[b->shard].name);
    }
    return ERNIE_OK;
}

ERN_FN conv_tensor *conv_tensors_find(const conv_tensors *tensors, const char *name)
{
    const conv_tensor key = { .name = (char *)(uintptr_t)name };
    const conv_tensor *wanted = &key;
    if (!tensors->sorted) return NULL;
    const conv_tensor **found = bsearch(&wanted, tensors->sorted, tensors->n,
                                        sizeof *tensors->sorted, tensors_compare_names);
    return found ? &tensors->items[*found - tensors->items] : NULL;
}

/* ---- Sizes ----------------------------------------------------------------------------------- */

ERN_FN uint64_t conv_row_bytes(const conv_tensor *tensor, uint64_t n_cols)
{
    return n_cols / tensor->block_values * tensor->block_bytes;
}

ERN_FN const char *conv_shape_text(const uint64_t *dims, uint32_t n_dims, char text[128])
{
    int n = snprintf(text, 128, "[");
    for (uint32_t i = 0; i < n_dims && n < 100; i++)
        n += snprintf(text + n, 128 - (size_t)n, "%s%llu", i ? ", " : "",
                      (unsigned long long)dims[i]);
    if (n < 127) snprintf(text + n, 128 - (size_t)n, "]");
    return text;
}
