/* Can a tokenizer.model hurt the converter? What passes is written as a section, which the
 * library's own reader then opens or refuses. */
#include "../../src/token.h"
#include "../../tools/convert/sentencepiece.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define FUZZ_VOCAB_SIZE 2000u

static void fuzz_sentencepiece_open(const conv_vocab *vocab)
{
    conv_bytes section = { .allocator = ern_allocator_default() };
    ern_tokenizer *tokenizer = NULL;
    ernie_error error = { ERNIE_OK, "" };
    if (!conv_vocab_write(vocab, &section)) abort();
    const ernie_status status =
        ern_tokenizer_open(&tokenizer, section.data, section.n, ern_allocator_default(), &error);
    if (status == ERNIE_OK && ern_tokenizer_n_tokens(tokenizer) != vocab->n) abort();
    if (status != ERNIE_OK && status != ERNIE_FORMAT) abort();
    ern_tokenizer_close(tokenizer);
    conv_bytes_free(&section);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    conv_vocab vocab;
    ernie_error error = { ERNIE_OK, "" };
    conv_vocab_begin(&vocab, ern_allocator_default());
    const ernie_status status =
        conv_sentencepiece_read(&vocab, data, n, FUZZ_VOCAB_SIZE, "x.model", &error);
    if ((status == ERNIE_OK) != (error.message[0] == '\0')) abort();
    if (vocab.n > FUZZ_VOCAB_SIZE) abort();
    if (status == ERNIE_OK) fuzz_sentencepiece_open(&vocab);
    conv_vocab_free(&vocab);
    return 0;
}
