/* Can a safetensors header hurt the converter? The input is the file's JSON header; the last four
 * bytes say how much data follow it. What passes must tile the data exactly. */
#include "../../tools/convert/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void fuzz_safetensors_walk(const conv_tensors *tensors, uint64_t data_bytes)
{
    char text[128];
    uint64_t total = 0;
    for (size_t i = 0; i < tensors->n; i++) {
        const conv_tensor *tensor = &tensors->items[i];
        if (tensor->offset < 8 || tensor->offset - 8 > data_bytes) abort();
        if (tensor->n_bytes > data_bytes - (tensor->offset - 8)) abort();
        if (conv_tensors_find(tensors, tensor->name) != tensor) abort();
        conv_shape_text(tensor->dims, tensor->n_dims, text);
        total += tensor->n_bytes;
    }
    if (tensors->n > 0 && total != data_bytes) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint32_t data_bytes;
    char name[] = "x.safetensors";
    conv_shard shard = { .name = name };
    ernie_error error = { ERNIE_OK, "" };
    if (n < sizeof data_bytes) return 0;
    n -= sizeof data_bytes;
    memcpy(&data_bytes, data + n, sizeof data_bytes);

    conv_tensors tensors = { .allocator = ern_allocator_default(), .shards = &shard };
    ernie_status status =
        conv_tensors_add_header(&tensors, 0, name, data, n, 8, data_bytes, &error);
    if (status == ERNIE_OK) status = conv_tensors_sort(&tensors, &error);
    if ((status == ERNIE_OK) != (error.message[0] == '\0')) abort();
    if (status == ERNIE_OK) fuzz_safetensors_walk(&tensors, data_bytes);
    tensors.shards = NULL; /* not the list's own */
    conv_tensors_close(&tensors);
    return 0;
}
