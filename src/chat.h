/* Conversations as the models were trained on them, and the web-search prompts. Knows tokens and
 * the file's chat section; builds ids, never runs a model. */
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
 * a static string, or NULL. A plain template is recognised only when it writes
 * "<|begin_of_sentence|>" first; a thinking one needs no begin token. Used at conversion. */
ERN_FN ernie_chat_format ern_chat_recognise(const char *chat_template, size_t n,
                                            const char **turn_end);

/* A chat format with its tokens. What a vocabulary lacks is refused when it is needed, with
 * ERNIE_UNSUPPORTED and its name: turn_end_id -1 once an assistant's turn must be closed (plain),
 * "<|im_start|>" and "<|im_end|>" always (thinking, where both other ids are not looked at). */
typedef struct ern_chat {
    const ern_tokenizer *tokenizer;
    uint32_t format;     /* ernie_chat_format */
    int32_t begin_id;    /* plain: the first token; -1: none */
    int32_t turn_end_id; /* plain: closes an assistant's turn; -1: none */
} ern_chat;

/* The ids of a whole conversation. Statuses as ernie_chat_tokenize. Appends to *ids, which after a
 * failure is as it was. The template's words and a message's words are one text, so they merge
 * where they meet; special tokens come out of the template only. Thinking: the reasoning of
 * assistant turns before the last user message is left out. */
ERN_FN ernie_status ern_chat_ids(const ern_chat *chat, const ernie_message *messages, size_t n,
                                 bool add_generation_prompt, ern_ids *ids, ernie_error *error);

/* The same as text with special tokens written out. Appends to *text, which after a failure is as
 * it was. */
ERN_FN ernie_status ern_chat_text(const ern_chat *chat, const ernie_message *messages, size_t n,
                                  bool add_generation_prompt, ern_text *text, ernie_error *error);

/* The ids that continue a session which already holds turns: what closes the last assistant turn
 * (unless last_id is that already), the user's turn and the opening of the answer. */
ERN_FN ernie_status ern_chat_continue_ids(const ern_chat *chat, int32_t last_id,
                                          const char *question, ern_ids *ids, ernie_error *error);

/* The published search prompt with its three places filled in; a place's name inside what is filled
 * in stays as it is. Appends to *text, which after a failure is as it was. Returns ERNIE_OK,
 * ERNIE_INVALID (NULL date, question or references; unknown language), ERNIE_NO_MEMORY. */
ERN_FN ernie_status ern_search_text(ernie_language language, const char *date, const char *question,
                                    const ernie_reference *references, size_t n, ern_text *text,
                                    ernie_error *error);

#endif
