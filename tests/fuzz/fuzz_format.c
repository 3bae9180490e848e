/* Can the bytes of a model file hurt the reader? Half of the inputs get right checksums first,
 * so that the fuzzer reaches what lies behind them. Whatever opens is then walked as the model
 * does: every record's bytes, every gap; and once more with nothing in memory but what is
 * resident when experts stay on disk. */
#include "../../src/plan.h"
#include "../unit/test_model_bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* Touch the first and last byte of each matrix as a kernel would find it; without experts, if
 * asked to. */
static unsigned fuzz_format_touch(const ern_format *format, bool experts)
{
    unsigned sum = 0;
    for (uint32_t i = 0; i < format->header->n_records; i++) {
        const ern_record *r = &format->records[i];
        if (r->kind == ERN_EXPERT && !experts) continue;
        const unsigned char *first = format->data + r->offset;
        if (((uintptr_t)first & 63) != 0) abort();
        sum += first[0] + first[r->n_bytes - 1];
        if (r->kind == ERN_EXPERT) sum += first[ern_expert_down_offset(r)];
    }
    return sum;
}

/* Does the plan leave in memory what the reader and a session without experts will look at? */
static void fuzz_format_streamed(const unsigned char *image, size_t n)
{
    const ern_plan_session session = { .n_threads = 1 };
    ern_plan plan;
    ern_format format;
    ernie_error error = { ERNIE_OK, "" };
    if (n < sizeof(ern_header)) return;
    const ern_header *header = (const ern_header *)(const void *)image;
    const ernie_status planned = ern_plan_make(&plan, header, n, 1, &session, 64, &error);
    if ((planned == ERNIE_OK) != (error.message[0] == '\0')) abort();
    if (!plan.streams) return;
    if (plan.resident_bytes < sizeof *header || plan.resident_bytes > n) abort();
    unsigned char *part = aligned_alloc(64, ern_round_up((size_t)plan.resident_bytes, 64));
    if (!part) abort();
    memcpy(part, image, (size_t)plan.resident_bytes);
    if (ern_format_read(&format, part, n, NULL) == ERNIE_OK) {
        volatile unsigned sum = fuzz_format_touch(&format, false);
        (void)sum;
        ern_format_verify_gaps(&format, plan.resident_bytes, NULL, NULL);
    }
    free(part);
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
        volatile unsigned sum = fuzz_format_touch(&format, true);
        (void)sum;
        for (uint32_t i = 0; i < format.header->n_records; i++)
            if (ern_format_verify_record(&format, i, NULL, &error) != ERNIE_OK && seal) abort();
        ern_format_verify_gaps(&format, format.n_bytes, NULL, &error);
    }
    fuzz_format_streamed(image, n);
    free(image);
    return 0;
}
