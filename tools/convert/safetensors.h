/* A checkpoint directory in safetensors: its shards and their headers. Knows no model. */
#ifndef ERN_CONVERT_SAFETENSORS_H
#define ERN_CONVERT_SAFETENSORS_H

#include "tensors.h"

#define CONV_HEADER_BYTES_MAX ((uint64_t)16 << 20)

/* Open the shards that model.safetensors.index.json names, else model.safetensors, else every
 * *.safetensors of the directory, and read their headers. Checks that every tensor lies inside its
 * file, that shape, type and bytes agree, that tensors neither overlap nor leave holes, and that no
 * name comes twice. Close it also after failure. */
ERN_FN ernie_status conv_tensors_open(conv_tensors *tensors, const char *dir,
                                      const ernie_allocator *allocator, ernie_error *error);

/* One shard's header (without the 8 length bytes): append its tensors. data_offset: where the data
 * begin in the file; data_bytes: how many there are. For the fuzzer and for conv_tensors_open. */
ERN_FN ernie_status conv_tensors_add_header(conv_tensors *tensors, uint32_t shard,
                                            const char *shard_name, const unsigned char *header,
                                            size_t n, uint64_t data_offset, uint64_t data_bytes,
                                            ernie_error *error);

#endif
