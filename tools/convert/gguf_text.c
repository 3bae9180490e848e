/* Undoing what llama.cpp's converter does to a SentencePiece vocabulary, so that texts become the
 * same ids as with the checkpoint's own files:
 *
 * - ids without a piece are "[PAD7]" of type unused there: holes, and cut off at the end;
 * - tokens of the JSON files have the score -1000, those called special the type control, <unk> and
 *   digits among them: the unknown id is named by a key, and one character is never special;
 * - user-defined pieces have become normal ones. Those that no two other pieces make were never
 *   merged, so they are user-defined. */
#include "gguf_text.h"
#include "../../src/token.h"

#define GGUF_TEXT_ADDED_SCORE (-1000.0f)

typedef struct gguf_text {
    const conv_gguf *gguf;
    const conv_gguf_pair *tokens, *scores, *types;
    conv_vocab vocab;
    int64_t unknown_id; /* -1: none */
    ernie_error *error;
} gguf_text;

/* ---- Pieces ---------------------------------------------------------------------------------- */

static ernie_status gguf_text_find(gguf_text *text, uint32_t vocab_size)
{
    const struct {
        const char *key;
        uint32_t item;
        const conv_gguf_pair **pair;
    } arrays[] = { { "tokenizer.ggml.tokens", CONV_GGUF_STRING, &text->tokens },
                   { "tokenizer.ggml.scores", CONV_GGUF_F32, &text->scores },
                   { "tokenizer.ggml.token_type", CONV_GGUF_I32, &text->types } };
    const char *file = text->gguf->name;
    for (size_t i = 0; i < ERN_COUNT(arrays); i++) {
        const ernie_status status =
            conv_gguf_array(text->gguf, arrays[i].key, arrays[i].item, arrays[i].pair, text->error);
        if (status != ERNIE_OK) return status;
        const conv_gguf_pair *pair = *arrays[i].pair;
        ERN_FAIL_IF(!pair, text->error, ERNIE_FORMAT, "%s: %s is missing", file, arrays[i].key);
        ERN_FAIL_IF(pair->n != text->tokens->n, text->error, ERNIE_FORMAT,
                    "%s: %s has %llu values, %s has %llu", file, arrays[i].key,
                    (unsigned long long)pair->n, arrays[0].key,
                    (unsigned long long)text->tokens->n);
    }
    ERN_FAIL_IF(text->tokens->n > vocab_size, text->error, ERNIE_FORMAT,
                "%s: %s has %llu values, the embedding only %u rows", file, arrays[0].key,
                (unsigned long long)text->tokens->n, (unsigned)vocab_size);
    text->unknown_id = -1;
    return conv_gguf_integer(text->gguf, "tokenizer.ggml.unknown_token_id", -1,
                             (int64_t)vocab_size - 1, &text->unknown_id, text->error);
}

static bool gguf_text_is_pad(const char *piece, size_t n)
{
    static const char begin[] = "[PAD";
    const size_t n_begin = sizeof begin - 1;
    if (n < n_begin + 2 || memcmp(piece, begin, n_begin) != 0 || piece[n - 1] != ']') return false;
    for (size_t i = n_begin; i < n - 1; i++)
        if (piece[i] < '0' || piece[i] > '9') return false;
    return true;
}

static size_t gguf_text_characters(const char *piece, size_t n)
{
    size_t n_characters = 0;
    for (size_t i = 0; i < n; i++) n_characters += ((unsigned char)piece[i] & 0xc0) != 0x80;
    return n_characters;
}

/* ERN_TOKEN_* of a piece; the numbers of GGUF are SentencePiece's, as ours are. */
static unsigned gguf_text_type(const gguf_text *text, uint64_t id, const char *piece, size_t n,
                               uint32_t type, float score)
{
    const bool added = score == GGUF_TEXT_ADDED_SCORE;
    if ((int64_t)id == text->unknown_id) return ERN_TOKEN_UNKNOWN;
    if (type == CONV_GGUF_TOKEN_USER_DEFINED && added) return ERN_TOKEN_ADDED;
    if (type == CONV_GGUF_TOKEN_CONTROL && gguf_text_characters(piece, n) < 2)
        return ERN_TOKEN_NORMAL;
    return type;
}

static ernie_status gguf_text_read(gguf_text *text)
{
    const conv_gguf *gguf = text->gguf;
    size_t at = text->tokens->value, n;
    for (uint64_t id = 0; id < text->tokens->n; id++) {
        float score;
        const char *piece = conv_gguf_next_text(gguf, &at, &n);
        const uint32_t type = conv_gguf_bits(gguf, text->types, id),
                       bits = conv_gguf_bits(gguf, text->scores, id);
        memcpy(&score, &bits, sizeof score);
        ERN_FAIL_IF(type < CONV_GGUF_TOKEN_NORMAL || type > CONV_GGUF_TOKEN_BYTE, text->error,
                    ERNIE_FORMAT, "%s: token %llu has type %d, expected %d to %d", gguf->name,
                    (unsigned long long)id, (int)type, CONV_GGUF_TOKEN_NORMAL,
                    CONV_GGUF_TOKEN_BYTE);
        ERN_FAIL_IF(n == 0 || n > ERN_TOKEN_TEXT_MAX, text->error, ERNIE_FORMAT,
                    "%s: token %llu has %zu bytes, expected 1 to %u", gguf->name,
                    (unsigned long long)id, n, ERN_TOKEN_TEXT_MAX);
        if (type == CONV_GGUF_TOKEN_UNUSED && gguf_text_is_pad(piece, n)) continue;
        const unsigned ours = gguf_text_type(text, id, piece, n, type, score);
        if (ours != ERN_TOKEN_NORMAL && score == GGUF_TEXT_ADDED_SCORE) score = 0;
        ERN_FAIL_IF(!conv_vocab_set(&text->vocab, (size_t)id, piece, n, score, ours), text->error,
                    ERNIE_NO_MEMORY, "%s: no memory for %zu tokens", gguf->name, text->vocab.n);
    }
    return ERNIE_OK;
}

/* ---- Rules ----------------------------------------------------------------------------------- */

static bool gguf_text_has_type(const gguf_text *text, unsigned type)
{
    for (size_t i = 0; i < text->vocab.n; i++)
        if (text->vocab.pieces[i].type == type) return true;
    return false;
}

/* A vocabulary without a word on its unknown piece: it is the first one, as in every loader. */
static void gguf_text_settle(gguf_text *text)
{
    conv_vocab *vocab = &text->vocab;
    vocab->flags = ERN_TOKENIZER_ESCAPE_SPACES;
    if (gguf_text_has_type(text, ERN_TOKEN_BYTE)) vocab->flags |= ERN_TOKENIZER_BYTE_FALLBACK;
    if (vocab->n > 0 && vocab->pieces[0].type == ERN_TOKEN_CONTROL
        && !gguf_text_has_type(text, ERN_TOKEN_UNKNOWN))
        vocab->pieces[0].type = ERN_TOKEN_UNKNOWN;
}

/* May merging give this text? One character always, several when they are a piece that merges. */
static bool gguf_text_merges(const ern_tokenizer *tokenizer, const char *text, size_t n)
{
    if (gguf_text_characters(text, n) < 2) return true;
    const unsigned type = ern_tokenizer_type(tokenizer, ern_tokenizer_find(tokenizer, text, n));
    return type == ERN_TOKEN_NORMAL || type == ERN_TOKEN_UNUSED;
}

static bool gguf_text_is_made(const ern_tokenizer *tokenizer, const char *text, size_t n)
{
    if (gguf_text_characters(text, n) < 2) return true;
    for (size_t k = 1; k < n; k++)
        if (((unsigned char)text[k] & 0xc0) != 0x80 && gguf_text_merges(tokenizer, text, k)
            && gguf_text_merges(tokenizer, text + k, n - k))
            return true;
    return false;
}

static ernie_status gguf_text_find_user_defined(gguf_text *text)
{
    conv_vocab *vocab = &text->vocab;
    conv_bytes section = { .allocator = vocab->allocator };
    ern_tokenizer *tokenizer = NULL;
    ernie_status status = ERNIE_OK;
    if (!conv_vocab_write(vocab, &section))
        status = ern_error_set(text->error, ERNIE_NO_MEMORY,
                               "no memory for a tokenizer of %zu pieces", vocab->n);
    if (status == ERNIE_OK)
        status =
            ern_tokenizer_open(&tokenizer, section.data, section.n, vocab->allocator, text->error);
    for (size_t i = 0; i < vocab->n && status == ERNIE_OK; i++) {
        conv_piece *piece = &vocab->pieces[i];
        const char *bytes = (const char *)vocab->text.data + piece->text;
        if (piece->type == ERN_TOKEN_NORMAL && !gguf_text_is_made(tokenizer, bytes, piece->n_text))
            piece->type = ERN_TOKEN_USER;
    }
    ern_tokenizer_close(tokenizer);
    conv_bytes_free(&section);
    return status;
}

/* ---- The whole ------------------------------------------------------------------------------- */

/* Is there a vocabulary, and is it one of SentencePiece's BPE? */
static ernie_status gguf_text_kind(const conv_gguf *gguf, bool *found, const ern_log *log,
                                   ernie_error *error)
{
    size_t n;
    const char *kind;
    const ernie_status status = conv_gguf_text(gguf, "tokenizer.ggml.model", &kind, &n, error);
    *found = false;
    if (status != ERNIE_OK) return status;
    if (!kind || conv_gguf_text_is(kind, n, "none") || conv_gguf_text_is(kind, n, "no_vocab")) {
        ern_log_write(log, ERNIE_LOG_WARN,
                      "no tokenizer in the metadata: the model will take and give token ids only");
        return ERNIE_OK;
    }
    ERN_FAIL_IF(!conv_gguf_text_is(kind, n, "llama"), error, ERNIE_UNSUPPORTED,
                "%s: tokenizer.ggml.model is \"%.*s\", only \"llama\" (SentencePiece) is supported",
                gguf->name, (int)ern_min_size(n, 64), kind);
    *found = true;
    return ERNIE_OK;
}

static ernie_status gguf_text_template(const conv_gguf *gguf, conv_bytes *out, ernie_error *error)
{
    static const char key[] = "tokenizer.chat_template";
    size_t n;
    const char *text;
    const ernie_status status = conv_gguf_text(gguf, key, &text, &n, error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(n > CONV_TEMPLATE_BYTES_MAX, error, ERNIE_FORMAT,
                "%s: %s has %zu bytes, at most %llu are accepted", gguf->name, key, n,
                (unsigned long long)CONV_TEMPLATE_BYTES_MAX);
    ERN_FAIL_IF(!conv_bytes_add(out, text, n), error, ERNIE_NO_MEMORY,
                "no memory for the chat template");
    return ERNIE_OK;
}

ERN_FN ernie_status conv_gguf_text_load(conv_text_files *files, const conv_gguf *gguf,
                                        uint32_t vocab_size, const char *chat,
                                        const ernie_allocator *allocator, const ern_log *log,
                                        ernie_error *error)
{
    bool found;
    conv_bytes chat_template = { .allocator = allocator };
    gguf_text text = { .gguf = gguf, .error = error };
    conv_text_files_begin(files, allocator);
    conv_vocab_begin(&text.vocab, allocator);
    ernie_status status = gguf_text_kind(gguf, &found, log, error);
    if (status == ERNIE_OK && found) status = gguf_text_find(&text, vocab_size);
    if (status == ERNIE_OK && found) status = gguf_text_read(&text);
    if (status == ERNIE_OK && found) {
        gguf_text_settle(&text);
        status = gguf_text_find_user_defined(&text);
    }
    if (status == ERNIE_OK) status = gguf_text_template(gguf, &chat_template, error);
    if (status == ERNIE_OK)
        status = conv_text_files_write(files, found ? &text.vocab : NULL, &chat_template, chat,
                                       allocator, log, error);
    conv_bytes_free(&chat_template);
    conv_vocab_free(&text.vocab);
    return status;
}

#undef GGUF_TEXT_ADDED_SCORE
