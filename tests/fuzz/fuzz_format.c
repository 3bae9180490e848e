/* Can the bytes of a model file hurt the reader? Half of the inputs get right checksums first, so
 * that the fuzzer reaches what lies behind them. Whatever opens is then walked as the model does:
 * every record's bytes, every gap. */
#include "../unit/test_model_bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Touch the first and last byte of each matrix as a kernel would find it. */
static unsigned fuzz_format_touch(const ern_format *format)
{
    unsigned sum = 0;
    for (uint32_t i = 0; i < format->header->n_records; i++) {
        const ern_record *r = &format->records[i];
        const unsigned char *first = format->data + r->offset;
        if (((uintptr_t)first & 63) != 0) abort();
        sum += first[0] + first[r->n_bytes - 1];
        if (r->kind == ERN_EXPERT) sum += first[ern_expert_down_offset(r)];
    }
    return sum;
}

/* The last byte of an input, which no valid image needs, chooses. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n == 0) return 0;
    const bool seal = data[--n] & 1;
    ern_format format;
    ernie_error error = { ERNIE_OK, "" };
    unsigned char *image = aligned_alloc(64, ern_round_up(n + 1, 64));
    if (!image) return 0;
    memcpy(image, data, n);
    if (seal) test_model_seal(image, n, true);
    const ernie_status status = ern_format_read(&format, image, n, &error);
    if ((status == ERNIE_OK) != (error.message[0] == '\0')) abort();
    if (status == ERNIE_OK) {
        volatile unsigned sum = fuzz_format_touch(&format);
        (void)sum;
        for (uint32_t i = 0; i < format.header->n_records; i++)
            if (ern_format_verify_record(&format, i, NULL, &error) != ERNIE_OK && seal) abort();
        ern_format_verify_gaps(&format, format.n_bytes, NULL, &error);
    }
    free(image);
    return 0;
}
