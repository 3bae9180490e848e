/* The C half of the comparison with the sentencepiece library. */
#include "token_vs_sentencepiece.h"

#include "unit/test_vocab.h"

struct ours {
    unsigned char *section;
    ern_tokenizer *tokenizer;
    ern_ids ids;
    char *text;
};

ours *ours_open(const void *model, size_t n, char *message)
{
    ours *o = test_vocab_alloc(NULL, sizeof *o);
    ernie_error error = { ERNIE_OK, "" };
    test_vocab vocab;
    size_t n_bytes;
    memset(o, 0, sizeof *o);
    test_vocab_read_model(&vocab, model, n);
    o->section = test_vocab_section(&vocab, &n_bytes);
    test_vocab_free(&vocab);
    o->ids.allocator = ern_allocator_default();
    if (ern_tokenizer_open(&o->tokenizer, o->section, n_bytes, ern_allocator_default(), &error)
        == ERNIE_OK)
        return o;
    snprintf(message, 256, "%s", error.message);
    ours_close(o);
    return NULL;
}

void ours_close(ours *o)
{
    if (!o) return;
    ern_tokenizer_close(o->tokenizer);
    ern_ids_free(&o->ids);
    free(o->section);
    free(o->text);
    free(o);
}

const int32_t *ours_encode(ours *o, const char *text, size_t n, size_t *n_ids)
{
    o->ids.n = 0;
    if (ern_tokenize(o->tokenizer, text, n, ERNIE_TOKENIZE_TEXT, &o->ids, NULL) != ERNIE_OK)
        abort();
    *n_ids = o->ids.n;
    return o->ids.data;
}

const char *ours_decode(ours *o, const int32_t *ids, size_t n, size_t *n_text)
{
    ern_decoding decoding = { { { 0 }, 0 }, false };
    *n_text = 0;
    o->text = test_vocab_alloc(o->text, (n + 1) * ERNIE_STREAM_TEXT_MAX);
    for (size_t i = 0; i < n; i++)
        *n_text += ern_decode(o->tokenizer, &decoding, ids[i], false, o->text + *n_text);
    *n_text += ern_utf8_finish(&decoding.stream, o->text + *n_text);
    return o->text;
}
