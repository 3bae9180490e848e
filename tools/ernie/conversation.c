/* The turns of a chat, and their JSON file: {"messages": [{"role": "user", "content": "..."}, ...]}. */
#include "conversation.h"

#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const char *const conversation_roles[] = { "system", "user", "assistant" };

static char *conversation_copy(const char *text)
{
    const size_t n = strlen(text) + 1;
    return memcpy(memory_resize(NULL, n, 1), text, n);
}

static bool conversation_has_system(const conversation *talk)
{
    return talk->n && talk->messages[0].role == ERNIE_ROLE_SYSTEM;
}

static void conversation_insert(conversation *talk, size_t at, ernie_role role, const char *content)
{
    if (talk->n == talk->capacity) {
        talk->capacity = talk->capacity ? 2 * talk->capacity : 16;
        talk->messages = memory_resize(talk->messages, talk->capacity, sizeof *talk->messages);
    }
    memmove(talk->messages + at + 1, talk->messages + at, (talk->n - at) * sizeof *talk->messages);
    talk->messages[at] = (ernie_message){ role, conversation_copy(content), NULL };
    talk->n++;
}

static void conversation_remove(conversation *talk, size_t at)
{
    free((char *)talk->messages[at].content);
    talk->n--;
    memmove(talk->messages + at, talk->messages + at + 1, (talk->n - at) * sizeof *talk->messages);
}

void conversation_add(conversation *talk, ernie_role role, const char *content)
{
    conversation_insert(talk, talk->n, role, content);
}

void conversation_drop_last(conversation *talk)
{
    if (talk->n) conversation_remove(talk, talk->n - 1);
}

void conversation_set_system(conversation *talk, const char *content)
{
    if (conversation_has_system(talk)) conversation_remove(talk, 0);
    if (content) conversation_insert(talk, 0, ERNIE_ROLE_SYSTEM, content);
}

bool conversation_drop_oldest(conversation *talk)
{
    const size_t first = conversation_has_system(talk) ? 1 : 0;
    if (talk->n < first + 2) return false;
    conversation_remove(talk, first);
    while (talk->n > first + 1 && talk->messages[first].role != ERNIE_ROLE_USER)
        conversation_remove(talk, first);
    return true;
}

void conversation_clear(conversation *talk)
{
    const size_t first = conversation_has_system(talk) ? 1 : 0;
    while (talk->n > first) conversation_drop_last(talk);
}

void conversation_free(conversation *talk)
{
    while (talk->n) conversation_drop_last(talk);
    free(talk->messages);
    *talk = (conversation){ 0 };
}

/* ---- The file ------------------------------------------------------------------------------ */

__attribute__((format(printf, 2, 3))) static bool conversation_fail(file_error *error,
                                                                    const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error->reason, sizeof error->reason, format, args);
    va_end(args);
    return false;
}

static json_t *conversation_to_json(const conversation *talk)
{
    json_t *list = json_array();
    for (size_t i = 0; i < talk->n; i++) {
        json_t *message = json_object();
        json_object_set_new(message, "role",
                            json_string(conversation_roles[talk->messages[i].role]));
        json_object_set_new(message, "content", json_string(talk->messages[i].content));
        json_array_append_new(list, message);
    }
    json_t *root = json_object();
    json_object_set_new(root, "messages", list);
    return root;
}

bool conversation_save(const conversation *talk, const char *path, file_error *error)
{
    text_buffer beside = { 0 };
    buffer_add_text(&beside, path);
    buffer_add_text(&beside, ".part");
    json_t *root = conversation_to_json(talk);
    FILE *file = fopen(buffer_text(&beside), "wb");
    bool fine = file && json_dumpf(root, file, JSON_INDENT(1)) == 0 && fputc('\n', file) != EOF;
    if (file && fclose(file) != 0) fine = false;
    if (fine) fine = rename(buffer_text(&beside), path) == 0;
    if (!fine) {
        conversation_fail(error, "cannot be written: %s", strerror(errno ? errno : EIO));
        if (file) remove(buffer_text(&beside));
    }
    json_decref(root);
    buffer_free(&beside);
    return fine;
}

/* Append one message; it must be a system message at the start, or the other side's turn. */
static bool conversation_add_json(conversation *talk, const json_t *message)
{
    const char *role = json_string_value(json_object_get(message, "role"));
    const char *content = json_string_value(json_object_get(message, "content"));
    if (!role || !content) return false;
    const bool answers = talk->n && talk->messages[talk->n - 1].role == ERNIE_ROLE_USER;
    ernie_role expected = answers ? ERNIE_ROLE_ASSISTANT : ERNIE_ROLE_USER;
    if (!talk->n && strcmp(role, "system") == 0) expected = ERNIE_ROLE_SYSTEM;
    if (strcmp(role, conversation_roles[expected]) != 0) return false;
    conversation_add(talk, expected, content);
    return true;
}

static bool conversation_from_json(conversation *talk, const json_t *root, file_error *error)
{
    const json_t *list = json_object_get(root, "messages");
    if (!json_is_array(list)) return conversation_fail(error, "messages is not an array");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!conversation_add_json(talk, json_array_get(list, i)))
            return conversation_fail(error, "messages[%zu] is not the next turn with its text", i);
    if (talk->n && talk->messages[talk->n - 1].role == ERNIE_ROLE_USER)
        return conversation_fail(error, "the last message has no answer");
    return true;
}

bool conversation_load(conversation *talk, const char *path, file_error *error)
{
    text_buffer text = { 0 };
    conversation loaded = { 0 };
    json_error_t json_error;
    json_t *root = NULL;
    bool fine = false;
    if (buffer_read_file(&text, path, error)) {
        root = json_loadb(buffer_text(&text), text.n, 0, &json_error);
        fine = root ? conversation_from_json(&loaded, root, error)
                    : conversation_fail(error, "line %d is not JSON: %s", json_error.line,
                                        json_error.text);
    }
    if (fine) {
        conversation_free(talk);
        *talk = loaded;
    } else {
        conversation_free(&loaded);
    }
    json_decref(root);
    buffer_free(&text);
    return fine;
}
