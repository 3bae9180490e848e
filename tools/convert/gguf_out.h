/* The head of a GGUF file as it is built up: key-value pairs, then the names, shapes, types and places
 * of tensors. Knows neither models nor what keys mean. */
#ifndef ERN_CONVERT_GGUF_OUT_H
#define ERN_CONVERT_GGUF_OUT_H

#include "file.h"
#include "ggml_encode.h"

typedef struct conv_gguf_out {
    conv_bytes pairs, tensors;
    uint64_t n_pairs, n_tensors;
    uint64_t data_bytes; /* of the tensors, each padded to the alignment */
    bool no_memory;      /* sticks; conv_gguf_out_finish tells */
} conv_gguf_out;

ERN_FN void conv_gguf_out_begin(conv_gguf_out *out, const ernie_allocator *allocator);
ERN_FN void conv_gguf_out_free(conv_gguf_out *out); /* zeroed is fine */

ERN_FN void conv_gguf_out_u32(conv_gguf_out *out, const char *key, uint32_t value);
ERN_FN void conv_gguf_out_i32(conv_gguf_out *out, const char *key, int32_t value);
ERN_FN void conv_gguf_out_f32(conv_gguf_out *out, const char *key, float value);
ERN_FN void conv_gguf_out_bool(conv_gguf_out *out, const char *key, bool value);
ERN_FN void conv_gguf_out_text(conv_gguf_out *out, const char *key, const char *text, size_t n);

/* An array of n items of this type; exactly n calls of the item function of that type follow. */
ERN_FN void conv_gguf_out_array(conv_gguf_out *out, const char *key, conv_gguf_value type,
                                uint64_t n);
ERN_FN void conv_gguf_out_item_text(conv_gguf_out *out, const char *text, size_t n);
ERN_FN void conv_gguf_out_item_u32(conv_gguf_out *out, uint32_t value); /* U32 and I32 */
ERN_FN void conv_gguf_out_item_f32(conv_gguf_out *out, float value);

/* The next tensor, dims[0] the length of a row, n_bytes of data. Returns its place in the data. */
ERN_FN uint64_t conv_gguf_out_tensor(conv_gguf_out *out, const char *name, uint32_t type,
                                     const uint32_t *dims, uint32_t n_dims, uint64_t n_bytes);

/* The whole head, padded so that the data may follow. False: out of memory. */
ERN_FN bool conv_gguf_out_finish(conv_gguf_out *out, conv_bytes *head);

#endif
