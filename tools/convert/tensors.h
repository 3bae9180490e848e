/* The tensors of a model as other people's files hold them: where each lies, what it is. One table
 * for every kind of source; safetensors.c and gguf.c fill it from headers, names.c looks things up,
 * the data are read later, piece by piece. Knows no model. */
#ifndef ERN_CONVERT_TENSORS_H
#define ERN_CONVERT_TENSORS_H

#include "file.h"

#define CONV_DIMS_MAX        8u
#define CONV_SHARDS_MAX      4096u
#define CONV_TENSORS_MAX     (1u << 22)
#define CONV_TENSOR_NAME_MAX 1024u

typedef enum conv_dtype {
    CONV_F32 = 0,
    CONV_F16 = 1,
    CONV_BF16 = 2,
    CONV_OTHER = 3, /* known to the source's format, not to us */
    CONV_GGML = 256 /* and above: this plus a conv_ggml_type, values in blocks */
} conv_dtype;

typedef struct conv_tensor {
    char *name;
    const char *dtype_name;             /* "BF16" */
    uint32_t dtype;                     /* conv_dtype */
    uint32_t block_values, block_bytes; /* 1 and the bytes of a value, but for blocks of ggml */
    uint32_t shard;
    uint32_t n_dims;
    bool used;                    /* some record takes its values */
    uint64_t dims[CONV_DIMS_MAX]; /* the last one is the row's length, the contiguous one */
    uint64_t offset;              /* in the shard's file */
    uint64_t n_bytes;
} conv_tensor;

typedef struct conv_shard {
    conv_file file;
    char *name; /* without the directory */
} conv_shard;

typedef struct conv_tensors {
    const ernie_allocator *allocator;
    bool gguf;          /* names and layouts are those of GGUF */
    conv_shard *shards; /* [shard_capacity], n_shards in use */
    size_t n_shards, shard_capacity;
    conv_tensor *items; /* in file order, shard by shard */
    size_t n, capacity;
    const conv_tensor **sorted; /* [n] by name; NULL until all shards are read */
} conv_tensors;

ERN_FN void conv_tensors_close(conv_tensors *tensors); /* zeroed is fine */

/* Append a shard and open its file `path`. */
ERN_FN ernie_status conv_tensors_add_shard(conv_tensors *tensors, const char *name,
                                           const char *path, ernie_error *error);
/* Append a copy of *tensor (its shard set), called name [n]. */
ERN_FN ernie_status conv_tensors_add(conv_tensors *tensors, const conv_tensor *tensor,
                                     const char *name, size_t n, ernie_error *error);

/* Tensors items[first .. n) of one shard, whose offsets are still those in its data: put them into
 * file order. They must tile the data_bytes exactly, each but the first at the first multiple of
 * `align` behind the one before. */
ERN_FN ernie_status conv_tensors_check_tiling(conv_tensors *tensors, size_t first,
                                              const char *shard_name, uint64_t data_bytes,
                                              uint64_t align, ernie_error *error);
/* After the last shard: sort by name and refuse doubles. */
ERN_FN ernie_status conv_tensors_sort(conv_tensors *tensors, ernie_error *error);

ERN_FN conv_tensor *conv_tensors_find(const conv_tensors *tensors, const char *name);

/* Bytes of n_cols values: a row, or any part of one that begins with a block. */
ERN_FN uint64_t conv_row_bytes(const conv_tensor *tensor, uint64_t n_cols);

/* "[64, 2560]" */
ERN_FN const char *conv_shape_text(const uint64_t *dims, uint32_t n_dims, char text[128]);

#endif
