/* What the files of the tokenizer (token*.c) share, and nobody else includes. */
#ifndef ERN_TOKEN_INNER_H
#define ERN_TOKEN_INNER_H

#include "token.h"
#include "unicode.h"

/* A push of a text stream may give one U+FFFD before a piece and must fit ERNIE_STREAM_TEXT_MAX. */
#define ERN_PIECE_BYTES_MAX (ERN_TOKEN_TEXT_MAX - 4u)
#define ERN_RULE_BYTES_MAX  512u /* of what a normalization rule matches, and of what it writes */

#define ERN_TOKEN_SPACE       "\xe2\x96\x81" /* U+2581, how pieces write a space */
#define ERN_TOKEN_SPACE_BYTES 3u

typedef struct ern_token_slot {
    uint32_t tag; /* high half of the piece's hash */
    int32_t id;   /* -1: empty */
} ern_token_slot;

struct ern_tokenizer {
    const ernie_allocator *allocator;

    /* The section, in place. */
    uint32_t n_tokens, flags;
    int32_t unk_id;
    const float *score;     /* [n_tokens] */
    const uint32_t *offset; /* [n_tokens + 1] */
    const uint8_t *type;    /* [n_tokens] */
    const char *text;

    /* The precompiled charsmap: a double array over bytes, and the zero-terminated strings that its
     * values point to. */
    const uint32_t *rules; /* [n_rules] */
    uint32_t n_rules;
    const char *replacements; /* [replacement_bytes] */
    uint32_t replacement_bytes;

    /* Open addressing over all pieces, at most half full. */
    ern_token_slot *slots; /* [n_slots], a power of two */
    size_t n_slots;

    /* Pieces that are found in text as a whole (USER, CONTROL, ADDED), sorted by their bytes; those
     * that begin with byte b are atoms[atom_first[b] .. atom_first[b + 1]). */
    int32_t *atoms; /* [n_atoms] */
    uint32_t n_atoms;
    uint32_t atom_first[257];

    int32_t *unused; /* [n_unused], ascending ids of UNUSED pieces */
    uint32_t n_unused;

    int32_t byte_id[256]; /* -1: none */
};

static ERN_INLINE const char *ern_piece_text(const ern_tokenizer *tokenizer, int32_t id)
{
    return tokenizer->text + tokenizer->offset[id];
}

static ERN_INLINE uint32_t ern_piece_bytes(const ern_tokenizer *tokenizer, int32_t id)
{
    return tokenizer->offset[id + 1] - tokenizer->offset[id];
}

/* Room for `need` items, doubling; NULL: out of memory, *data is as it was. */
ERN_FN void *ern_token_grow(const ernie_allocator *allocator, void *data, size_t *capacity,
                            size_t need, size_t item_bytes);

/* The id of a piece of any type, or -1. */
ERN_FN int32_t ern_token_lookup(const ern_tokenizer *tokenizer, const char *text, size_t n);

/* Does the piece look like a special token: "<", at least two bytes, ">"? */
ERN_FN bool ern_token_is_marked(const ern_tokenizer *tokenizer, int32_t id);

/* The longest atomic piece that text [n] begins with, or -1. USER pieces always count, marked ones
 * only outside ERNIE_TOKENIZE_LITERAL, CONTROL and ADDED ones only in ERNIE_TOKENIZE_SPECIAL; all
 * but plain USER pieces must end within the first n_span bytes. */
ERN_FN int32_t ern_token_match(const ern_tokenizer *tokenizer, const char *text, size_t n,
                               size_t n_span, ernie_tokenize_mode mode, size_t *n_match);

/* One symbol of a text being merged; symbols form a list from left to right. */
typedef struct ern_symbol {
    uint32_t start;      /* in the normalized text; it ends where the next one starts */
    uint32_t prev, next; /* indices */
    int32_t id;          /* of the piece, -1 while it is a single character not looked up */
    int32_t pair;        /* the piece that this symbol and the next one make; -1: none */
} ern_symbol;

/* Buffers of one ern_tokenize_spans, reused from run to run. */
typedef struct ern_token_work {
    const ern_tokenizer *tokenizer;

    char *text; /* normalized text of the run */
    size_t n_text, text_capacity;
    ern_span *spans; /* of the normalized text */
    size_t n_spans, span_capacity;

    ern_symbol *symbols;
    size_t n_symbols, symbol_capacity;
    uint64_t *heap; /* of pairs: the better score, then the leftmost, is the smaller key */
    size_t n_heap, heap_capacity;
    uint16_t *splits; /* [n_unused] bytes of the left part of each, once it was made */

    ern_ids *ids;
    bool last_unknown; /* the run's last id is the unknown one */
} ern_token_work;

/* The raw text of one run: from position to end, or to the first special token. */
typedef struct ern_token_input {
    const char *text;
    const ern_span *spans; /* spans[0].end > position */
    size_t position, end;
    bool prefix, suffix; /* where a dummy space would belong to this run */
} ern_token_input;

/* Normalize into work->text and work->spans; advances input behind what it read, a special token
 * included, whose id goes to *special (-1: none). False: out of memory. */
ERN_FN bool ern_token_normalize(ern_token_work *work, ern_token_input *input, int32_t *special);

/* Merge work->text into pieces and append their ids. False: out of memory. */
ERN_FN bool ern_token_merge(ern_token_work *work);

#endif
