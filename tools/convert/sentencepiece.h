/* tokenizer.model: SentencePiece's protobuf, read by hand, and the vocabulary that comes of it.
 * Knows neither models nor how text is tokenized. */
#ifndef ERN_CONVERT_SENTENCEPIECE_H
#define ERN_CONVERT_SENTENCEPIECE_H

#include "../../src/format.h"
#include "file.h"

/* A vocabulary that is being put together: from tokenizer.model, then added tokens. */
typedef struct conv_piece {
    size_t text; /* offset into conv_vocab.text */
    uint32_t n_text;
    uint32_t type; /* ERN_TOKEN_*; 0: a hole */
    float score;
} conv_piece;

typedef struct conv_vocab {
    const ernie_allocator *allocator;
    conv_piece *pieces; /* [capacity], n in use */
    size_t n, capacity;
    conv_bytes text, charsmap;
    uint32_t flags; /* ERN_TOKENIZER_* */
} conv_vocab;

ERN_FN void conv_vocab_begin(conv_vocab *vocab, const ernie_allocator *allocator);
ERN_FN void conv_vocab_free(conv_vocab *vocab);

/* Set piece `id`; holes up to it are made as needed. False: no memory. */
ERN_FN bool conv_vocab_set(conv_vocab *vocab, size_t id, const char *text, size_t n, float score,
                           unsigned type);

/* Read a whole tokenizer.model of at most n_max pieces. `name` is for the message. Only BPE models
 * are taken: ERNIE_UNSUPPORTED names what is not. */
ERN_FN ernie_status conv_sentencepiece_read(conv_vocab *vocab, const unsigned char *data, size_t n,
                                            uint32_t n_max, const char *name, ernie_error *error);

/* The file's tokenizer section, appended to *section (empty). Holes become unused pieces. */
ERN_FN bool conv_vocab_write(const conv_vocab *vocab, conv_bytes *section);

#endif
