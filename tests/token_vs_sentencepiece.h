/* Our tokenizer as the comparison sees it: a SentencePiece model file goes in, ids and text come out. */
#ifndef TOKEN_VS_SENTENCEPIECE_H
#define TOKEN_VS_SENTENCEPIECE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ours ours;

/* NULL on failure, with the reason in message [256]. */
ours *ours_open(const void *model, size_t n, char *message);
void ours_close(ours *tokenizer);

/* Ids of a text in TEXT mode, or its text back; owned by the tokenizer until the next call. */
const int32_t *ours_encode(ours *tokenizer, const char *text, size_t n, size_t *n_ids);
const char *ours_decode(ours *tokenizer, const int32_t *ids, size_t n, size_t *n_text);

#ifdef __cplusplus
}
#endif
#endif
