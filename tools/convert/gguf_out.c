/* Numbers are written byte by byte, little endian whatever the machine. Running out of memory is
 * remembered and told once, so that a list of pairs reads as a list. */
#include "gguf_out.h"

static void gguf_out_put(conv_gguf_out *out, conv_bytes *bytes, const void *data, size_t n)
{
    if (!out->no_memory && !conv_bytes_add(bytes, data, n)) out->no_memory = true;
}

static void gguf_out_u32(conv_gguf_out *out, conv_bytes *bytes, uint32_t value)
{
    unsigned char text[4];
    for (unsigned i = 0; i < 4; i++) text[i] = (unsigned char)(value >> 8 * i);
    gguf_out_put(out, bytes, text, sizeof text);
}

static void gguf_out_u64(conv_gguf_out *out, conv_bytes *bytes, uint64_t value)
{
    gguf_out_u32(out, bytes, (uint32_t)value);
    gguf_out_u32(out, bytes, (uint32_t)(value >> 32));
}

static void gguf_out_f32(conv_gguf_out *out, conv_bytes *bytes, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    gguf_out_u32(out, bytes, bits);
}

static void gguf_out_text(conv_gguf_out *out, conv_bytes *bytes, const char *text, size_t n)
{
    gguf_out_u64(out, bytes, n);
    gguf_out_put(out, bytes, text, n);
}

/* ---- Pairs ----------------------------------------------------------------------------------- */

static void gguf_out_key(conv_gguf_out *out, const char *key, conv_gguf_value type)
{
    gguf_out_text(out, &out->pairs, key, strlen(key));
    gguf_out_u32(out, &out->pairs, type);
    out->n_pairs++;
}

ERN_FN void conv_gguf_out_u32(conv_gguf_out *out, const char *key, uint32_t value)
{
    gguf_out_key(out, key, CONV_GGUF_U32);
    gguf_out_u32(out, &out->pairs, value);
}

ERN_FN void conv_gguf_out_i32(conv_gguf_out *out, const char *key, int32_t value)
{
    gguf_out_key(out, key, CONV_GGUF_I32);
    gguf_out_u32(out, &out->pairs, (uint32_t)value);
}

ERN_FN void conv_gguf_out_f32(conv_gguf_out *out, const char *key, float value)
{
    gguf_out_key(out, key, CONV_GGUF_F32);
    gguf_out_f32(out, &out->pairs, value);
}

ERN_FN void conv_gguf_out_bool(conv_gguf_out *out, const char *key, bool value)
{
    const unsigned char byte = value;
    gguf_out_key(out, key, CONV_GGUF_BOOL);
    gguf_out_put(out, &out->pairs, &byte, 1);
}

ERN_FN void conv_gguf_out_text(conv_gguf_out *out, const char *key, const char *text, size_t n)
{
    gguf_out_key(out, key, CONV_GGUF_STRING);
    gguf_out_text(out, &out->pairs, text, n);
}

ERN_FN void conv_gguf_out_array(conv_gguf_out *out, const char *key, conv_gguf_value type,
                                uint64_t n)
{
    gguf_out_key(out, key, CONV_GGUF_ARRAY);
    gguf_out_u32(out, &out->pairs, type);
    gguf_out_u64(out, &out->pairs, n);
}

ERN_FN void conv_gguf_out_item_text(conv_gguf_out *out, const char *text, size_t n)
{
    gguf_out_text(out, &out->pairs, text, n);
}

ERN_FN void conv_gguf_out_item_u32(conv_gguf_out *out, uint32_t value)
{
    gguf_out_u32(out, &out->pairs, value);
}

ERN_FN void conv_gguf_out_item_f32(conv_gguf_out *out, float value)
{
    gguf_out_f32(out, &out->pairs, value);
}

/* ---- Tensors --------------------------------------------------------------------------------- */

ERN_FN uint64_t conv_gguf_out_tensor(conv_gguf_out *out, const char *name, uint32_t type,
                                     const uint32_t *dims, uint32_t n_dims, uint64_t n_bytes)
{
    const uint64_t offset = out->data_bytes;
    gguf_out_text(out, &out->tensors, name, strlen(name));
    gguf_out_u32(out, &out->tensors, n_dims);
    for (uint32_t i = 0; i < n_dims; i++) gguf_out_u64(out, &out->tensors, dims[i]);
    gguf_out_u32(out, &out->tensors, type);
    gguf_out_u64(out, &out->tensors, offset);
    out->n_tensors++;
    out->data_bytes += ern_round_up_u64(n_bytes, CONV_GGUF_ALIGN_DEFAULT);
    return offset;
}

/* ---- The whole ------------------------------------------------------------------------------- */

ERN_FN void conv_gguf_out_begin(conv_gguf_out *out, const ernie_allocator *allocator)
{
    memset(out, 0, sizeof *out);
    out->pairs.allocator = out->tensors.allocator = allocator;
}

ERN_FN void conv_gguf_out_free(conv_gguf_out *out)
{
    conv_bytes_free(&out->pairs);
    conv_bytes_free(&out->tensors);
}

ERN_FN bool conv_gguf_out_finish(conv_gguf_out *out, conv_bytes *head)
{
    gguf_out_put(out, head, CONV_GGUF_MAGIC, strlen(CONV_GGUF_MAGIC));
    gguf_out_u32(out, head, CONV_GGUF_VERSION);
    gguf_out_u64(out, head, out->n_tensors);
    gguf_out_u64(out, head, out->n_pairs);
    gguf_out_put(out, head, out->pairs.data, out->pairs.n);
    gguf_out_put(out, head, out->tensors.data, out->tensors.n);
    return !out->no_memory && conv_bytes_align(head, CONV_GGUF_ALIGN_DEFAULT);
}
