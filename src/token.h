/* Text to ids and back: SentencePiece BPE with byte fallback. Knows the tokenizer section of the
 * file and nothing else of the model. */
#ifndef ERN_TOKEN_H
#define ERN_TOKEN_H

#include "format.h"

typedef struct ern_tokenizer ern_tokenizer;

/* Check the section and build the lookup tables (a hash of pieces, tries of atomic pieces) in
 * memory of `allocator`; the section itself must stay mapped. ERNIE_FORMAT names what is wrong: a
 * count, an offset, a type, a piece that is not UTF-8 or appears twice, more than one unknown piece,
 * byte fallback without all 256 byte pieces. */
ERN_FN ernie_status ern_tokenizer_open(ern_tokenizer **out, const unsigned char *section,
                                       uint64_t n_bytes, const ernie_allocator *allocator,
                                       ernie_error *error);
ERN_FN void ern_tokenizer_close(ern_tokenizer *tokenizer);

ERN_FN uint32_t ern_tokenizer_n_tokens(const ern_tokenizer *tokenizer);
ERN_FN const char *ern_tokenizer_piece(const ern_tokenizer *tokenizer, int32_t id, size_t *n);
ERN_FN unsigned ern_tokenizer_type(const ern_tokenizer *tokenizer, int32_t id); /* ERN_TOKEN_* */
ERN_FN int32_t ern_tokenizer_find(const ern_tokenizer *tokenizer, const char *piece, size_t n);

/* Ids are appended to a growing list in memory of the tokenizer's allocator. */
typedef struct ern_ids {
    int32_t *data;
    size_t n, capacity;
    const ernie_allocator *allocator;
} ern_ids;
ERN_FN bool ern_ids_push(ern_ids *ids, int32_t id); /* false: out of memory */
ERN_FN void ern_ids_free(ern_ids *ids);

/* Append the ids of text [n] to *ids (its allocator set). Only ERNIE_OK and ERNIE_NO_MEMORY. */
ERN_FN ernie_status ern_tokenize(const ern_tokenizer *tokenizer, const char *text, size_t n,
                                 ernie_tokenize_mode mode, ern_ids *ids, ernie_error *error);

/* Text of one id as raw bytes ("▁" as space, byte tokens as their byte) into bytes
 * [ERN_TOKEN_TEXT_MAX]; control, unknown and unused pieces and ADDED tokens give nothing unless
 * with_special. Returns the number of bytes. `first` strips the dummy prefix where the model adds one.
 * The unknown piece gives " ⁇ " as sentencepiece does. */
ERN_FN size_t ern_token_bytes(const ern_tokenizer *tokenizer, int32_t id, bool with_special,
                              bool first, char *bytes);

/* Move whole characters from raw bytes into text: the held beginning plus bytes [n] -> text (needs
 * 3 * (n + 4) bytes of room), invalid bytes as U+FFFD; what may still become a character is held. */
ERN_FN size_t ern_utf8_stream(ernie_text_stream *stream, const char *bytes, size_t n, char *text);

#endif
