/* Conversations as the models were trained on them, and the web-search prompts. Knows tokens and the
 * file's chat section; builds ids, never runs a model. */
#ifndef ERN_CHAT_H
#define ERN_CHAT_H

#include "token.h"

/* A growing byte string. */
typedef struct ern_text {
    char *data;
    size_t n, capacity;
    const ernie_allocator *allocator;
} ern_text;
ERN_FN bool ern_text_add(ern_text *text, const char *bytes, size_t n); /* false: out of memory */
ERN_FN void ern_text_free(ern_text *text);

/* The format of a Jinja chat template, recognised by what it writes: ERNIE_CHAT_NONE when unknown.
 * *turn_end receives what closes an assistant's turn ("</s>", "<|end_of_sentence|>", "<|im_end|>"),
 * a static string, or NULL. Used at conversion. */
ERN_FN ernie_chat_format ern_chat_recognise(const char *chat_template, size_t n,
                                            const char **turn_end);

typedef struct ern_chat {
    const ern_tokenizer *tokenizer;
    uint32_t format; /* ernie_chat_format */
    int32_t begin_id, turn_end_id;
} ern_chat;

/* The ids of a whole conversation. Statuses as ernie_chat_tokenize. Appends to *ids. */
ERN_FN ernie_status ern_chat_ids(const ern_chat *chat, const ernie_message *messages, size_t n,
                                 bool add_generation_prompt, ern_ids *ids, ernie_error *error);

/* The same as text with special tokens written out. Appends to *text. */
ERN_FN ernie_status ern_chat_text(const ern_chat *chat, const ernie_message *messages, size_t n,
                                  bool add_generation_prompt, ern_text *text, ernie_error *error);

/* The ids that continue a session which already holds turns: what closes the last assistant turn
 * (unless last_id is that already), the user's turn and the opening of the answer. */
ERN_FN ernie_status ern_chat_continue_ids(const ern_chat *chat, int32_t last_id,
                                          const char *question, ern_ids *ids, ernie_error *error);

ERN_FN ernie_status ern_search_text(ernie_language language, const char *date, const char *question,
                                    const ernie_reference *references, size_t n, ern_text *text,
                                    ernie_error *error);

#endif
