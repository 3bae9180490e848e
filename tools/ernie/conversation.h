/* The turns of a chat: an optional system message, then user and assistant in turn. Owns its texts;
 * knows no model. Can be written to and read from a file as JSON. */
#ifndef ERNIE_CONVERSATION_H
#define ERNIE_CONVERSATION_H

#include "../../ernie.h"
#include "buffer.h"

typedef struct conversation {
    ernie_message *messages; /* [n], contents owned */
    size_t n, capacity;
} conversation;

void conversation_add(conversation *talk, ernie_role role, const char *content);
void conversation_drop_last(conversation *talk);

/* Set or, with NULL, remove the system message; the turns stay. */
void conversation_set_system(conversation *talk, const char *content);

/* Forget the oldest question and its answer. False when only the newest question is left. */
bool conversation_drop_oldest(conversation *talk);

/* Forget the turns; the system message stays. */
void conversation_clear(conversation *talk);
void conversation_free(conversation *talk);

/* Write to a file beside `path` and rename it, so that a failure leaves an older file as it was; or
 * replace the conversation by the file's. On failure *error says why in a few words; a failed load
 * leaves the conversation as it was. */
bool conversation_save(const conversation *talk, const char *path, file_error *error);
bool conversation_load(conversation *talk, const char *path, file_error *error);

#endif
