/* Text to ids and back: SentencePiece BPE with byte fallback. Knows the tokenizer section of the
 * file and nothing else of the model. */
#ifndef ERN_TOKEN_H
#define ERN_TOKEN_H

#include "format.h"

typedef struct ern_tokenizer ern_tokenizer;

/* Check the section (a multiple of 4 in memory) and build the lookup tables (a hash of pieces, a
 * sorted list of those found whole) in memory of `allocator`; the section itself must stay mapped.
 * ERNIE_FORMAT names what is wrong: a count, an offset, a type, a score, a piece that is too long,
 * not UTF-8 or there twice, more than one unknown piece, no unknown piece and no byte fallback,
 * byte fallback without all 256 byte pieces, a broken charsmap. */
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

/* Append the ids of text [n] to *ids (its allocator set). Only ERNIE_OK and ERNIE_NO_MEMORY, after
 * which *ids is as it was.
 *
 * TEXT     what sentencepiece's Encode gives. SPECIAL  at each place the longest of the CONTROL,
 * ADDED and USER pieces counts. CONTROL, ADDED and
 *          marked USER pieces ("<...>", see LITERAL) become ids; what lies between two of them is
 *          encoded as TEXT, but a model's dummy space is added only where the whole text begins (or
 *          ends), as the Hugging Face tokenizers do, not after every special token.
 * LITERAL  as TEXT, but marked USER pieces, those that begin with '<', end with '>' and have at
 * least
 *          two bytes between, are neither found nor made by merging: their text becomes ordinary
 *          pieces. Other USER pieces (digits, newlines) stay whole. */
ERN_FN ernie_status ern_tokenize(const ern_tokenizer *tokenizer, const char *text, size_t n,
                                 ernie_tokenize_mode mode, ern_ids *ids, ernie_error *error);

/* A stretch of one text, read in its own mode; it begins where the one before it ends. */
typedef struct ern_span {
    size_t end;
    ernie_tokenize_mode mode;
    int32_t id; /* not -1: the stretch is this token, whatever its text */
} ern_span;

/* As ern_tokenize over text [spans[n_spans - 1].end], as one text: merges, plain USER pieces and
 * normalization reach across the borders of spans; special tokens lie within one span.
 * `begins`: the text begins here (a dummy space may be due), else it continues another. */
ERN_FN ernie_status ern_tokenize_spans(const ern_tokenizer *tokenizer, const char *text,
                                       const ern_span *spans, size_t n_spans, bool begins,
                                       ern_ids *ids, ernie_error *error);

/* Text of one id as raw bytes ("▁" as space, byte tokens as their byte) into bytes
 * [ERN_TOKEN_TEXT_MAX]. Returns their number. CONTROL and ADDED pieces give nothing, the unknown
 * one " ⁇ " as sentencepiece does; with_special all three are written out as their pieces. `first`:
 * leave out the leading space of a piece where the model adds one or trims them. */
ERN_FN size_t ern_token_bytes(const ern_tokenizer *tokenizer, int32_t id, bool with_special,
                              bool first, char *bytes);

/* Move whole characters from raw bytes into text: the held beginning plus bytes [n] -> text (needs
 * 3 * (n + 4) bytes of room; n + 3 when bytes are a token's). What may still become a character is
 * held; U+FFFD stands for each maximal beginning of a character that cannot be finished, and for
 * each byte that begins none (Unicode's and WHATWG's practice; sentencepiece writes one for every
 * byte). ern_utf8_finish gives what is still held as U+FFFD: text needs 3 bytes. Both return bytes
 * written. */
ERN_FN size_t ern_utf8_stream(ernie_text_stream *stream, const char *bytes, size_t n, char *text);
ERN_FN size_t ern_utf8_finish(ernie_text_stream *stream, char *text);

/* The text of a whole list of ids, one id at a time: ern_token_bytes and ern_utf8_stream with the
 * model's dummy space left out where the text begins. Zero-initialise; text needs
 * ERNIE_STREAM_TEXT_MAX bytes; end with ern_utf8_finish(&decoding->stream, text). */
typedef struct ern_decoding {
    ernie_text_stream stream;
    bool begun; /* something was given, or the dummy space was left out */
} ern_decoding;
ERN_FN size_t ern_decode(const ern_tokenizer *tokenizer, ern_decoding *decoding, int32_t id,
                         bool with_special, char *text);

#endif
