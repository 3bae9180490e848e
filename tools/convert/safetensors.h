/* The tensors of a checkpoint directory: where each lies, what it is. Reads headers only; the data
 * is read later, piece by piece. Knows no model. */
#ifndef ERN_CONVERT_SAFETENSORS_H
#define ERN_CONVERT_SAFETENSORS_H

#include "file.h"

#define CONV_DIMS_MAX         8u
#define CONV_HEADER_BYTES_MAX ((uint64_t)16 << 20)
#define CONV_SHARDS_MAX       4096u
#define CONV_TENSORS_MAX      (1u << 22)

typedef enum conv_dtype {
    CONV_F32 = 0,
    CONV_F16 = 1,
    CONV_BF16 = 2,
    CONV_OTHER = 3 /* known to safetensors, not to us: integers, f64, f8 */
} conv_dtype;

typedef struct conv_tensor {
    char *name;
    const char *dtype_name; /* "BF16" */
    uint32_t dtype;         /* conv_dtype */
    uint32_t shard;
    uint32_t n_dims;
    bool used; /* some record takes its values */
    uint64_t dims[CONV_DIMS_MAX];
    uint64_t offset; /* in the shard's file */
    uint64_t n_bytes;
} conv_tensor;

typedef struct conv_shard {
    conv_file file;
    char *name; /* without the directory */
} conv_shard;

typedef struct conv_tensors {
    const ernie_allocator *allocator;
    conv_shard *shards; /* [shard_capacity], n_shards in use */
    size_t n_shards, shard_capacity;
    conv_tensor *items; /* in file order, shard by shard */
    size_t n, capacity;
    const conv_tensor **sorted; /* [n] by name; NULL until all shards are read */
} conv_tensors;

/* Open the shards that model.safetensors.index.json names, else model.safetensors, else every
 * *.safetensors of the directory, and read their headers. Checks that every tensor lies inside its
 * file, that shape, type and bytes agree, that tensors neither overlap nor leave holes, and that no
 * name comes twice. Close it also after failure. */
ERN_FN ernie_status conv_tensors_open(conv_tensors *tensors, const char *dir,
                                      const ernie_allocator *allocator, ernie_error *error);
ERN_FN void conv_tensors_close(conv_tensors *tensors); /* zeroed is fine */

ERN_FN conv_tensor *conv_tensors_find(const conv_tensors *tensors, const char *name);

/* "[64, 2560]" */
ERN_FN const char *conv_shape_text(const uint64_t *dims, uint32_t n_dims, char text[128]);

/* One shard's header (without the 8 length bytes): append its tensors. data_offset: where the data
 * begin in the file; data_bytes: how many there are. For the fuzzer and for conv_tensors_open. */
ERN_FN ernie_status conv_tensors_add_header(conv_tensors *tensors, uint32_t shard,
                                            const char *shard_name, const unsigned char *header,
                                            size_t n, uint64_t data_offset, uint64_t data_bytes,
                                            ernie_error *error);

/* After the last header: sort by name and refuse doubles. */
ERN_FN ernie_status conv_tensors_sort(conv_tensors *tensors, ernie_error *error);

#endif
