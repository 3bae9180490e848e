/* Can the header of a GGUF file hurt the converter? The last four bytes of the input say how much
 * data follow it. What passes must lie inside the file; then the metadata are read as those of a
 * model with its vocabulary. */
#include "../../tools/convert/gguf_model.h"
#include "../../tools/convert/gguf_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void fuzz_gguf_walk(const conv_tensors *tensors, uint64_t n_file)
{
    char text[128];
    for (size_t i = 0; i < tensors->n; i++) {
        const conv_tensor *tensor = &tensors->items[i];
        if (tensor->offset > n_file || tensor->n_bytes > n_file - tensor->offset) abort();
        if (tensor->n_bytes == 0 || tensor->block_values == 0) abort();
        if (conv_tensors_find(tensors, tensor->name) != tensor) abort();
        conv_shape_text(tensor->dims, tensor->n_dims, text);
    }
}

static void fuzz_gguf_model(const conv_gguf *gguf, const conv_tensors *tensors)
{
    conv_config config;
    ern_generation generation;
    char name[256];
    const ern_log log = { 0 };
    const ernie_allocator *allocator = ern_allocator_default();
    conv_text_files files;
    ernie_error error = { ERNIE_OK, "" };
    conv_gguf_model_name(gguf, name);
    if (conv_gguf_config(&config, gguf, tensors, &log, &error) != ERNIE_OK) return;
    if (config.hparams.vocab_size == 0 || config.hparams.n_heads == 0) abort();
    const ernie_status status = conv_gguf_text_load(&files, gguf, config.hparams.vocab_size, NULL,
                                                    allocator, &log, &error);
    if (status == ERNIE_OK) conv_gguf_generation(&generation, gguf, &config, -1, &error);
    if (status == ERNIE_OK && files.chat.n < sizeof(ern_chat_head)) abort();
    conv_text_files_free(&files);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint32_t data_bytes;
    char name[] = "x.gguf";
    conv_shard shard = { .name = name };
    ernie_error error = { ERNIE_OK, "" };
    const ernie_allocator *allocator = ern_allocator_default();
    if (n < sizeof data_bytes) return 0;
    n -= sizeof data_bytes;
    memcpy(&data_bytes, data + n, sizeof data_bytes);

    const uint64_t n_file = n + (uint64_t)data_bytes;
    conv_gguf gguf = { .allocator = allocator, .header = { .allocator = allocator } };
    conv_tensors tensors = { .allocator = allocator, .gguf = true, .shards = &shard };
    if (!conv_bytes_add(&gguf.header, data, n)) abort();
    ernie_status status = conv_gguf_read(&gguf, &tensors, 0, NULL, n_file, &error);
    if (status == ERNIE_OK) status = conv_tensors_sort(&tensors, &error);
    if ((status == ERNIE_OK) != (error.message[0] == '\0')) abort();
    if (status == ERNIE_OK) fuzz_gguf_walk(&tensors, n_file);
    if (status == ERNIE_OK) fuzz_gguf_model(&gguf, &tensors);
    tensors.shards = NULL; /* not the list's own */
    conv_tensors_close(&tensors);
    conv_gguf_close(&gguf);
    return 0;
}
