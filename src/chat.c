/* Conversations as the models were trained on them. Owns the two formats of the ERNIE 4.5 text
 * models and what they write; chat_template.c recognises them in a checkpoint. Runs no model.
 *
 * One renderer serves text and ids. It writes a conversation as one text in spans: the template's
 * words, in which special tokens are found; the messages' words, in which they are not; and tokens
 * known by their id. The tokenizer reads that text as a whole, so the last word of the template
 * merges with the first of a message exactly as in training.
 *
 *     plain      <|begin_of_sentence|>{system}\n
 *                User: {content}\n
 *                Assistant: {content}TURN_END
 *                Assistant:␠                                          (generation)
 *
 *     thinking   <|im_start|>system\n[<system_setting>\n{system}\n</system_setting>\n\n]
 *                <global_setting>\nthink_mode=True\n</global_setting><|im_end|>\n\n
 *                <|im_start|>user\n{content}<|im_end|>\n\n
 *                <|im_start|>assistant\n[<think>\n{reasoning}\n</think>\n\n]
 *                <response>\n{content}\n</response>\n<|im_end|>\n\n
 *                <|im_start|>assistant\n<think>\n                      (generation) */
#include "chat.h"

/* ---- A growing text ------------------------------------------------------------------------ */

ERN_FN bool ern_text_add(ern_text *text, const char *bytes, size_t n)
{
    size_t need, capacity = ern_max_size(text->capacity, 64);
    if (n == 0) return true;
    if (!ern_add_size(&need, text->n, n)) return false;
    if (need > text->capacity) {
        while (capacity < need) {
            if (capacity > SIZE_MAX / 2) return false;
            capacity *= 2;
        }
        char *data = ern_resize(text->allocator, text->data, text->capacity, capacity);
        if (!data) return false;
        text->data = data;
        text->capacity = capacity;
    }
    ERN_ASSERT(text->data);
    memcpy(text->data + text->n, bytes, n);
    text->n = need;
    return true;
}

ERN_FN void ern_text_free(ern_text *text)
{
    ern_free(text->allocator, text->data, text->capacity);
    text->data = NULL;
    text->n = text->capacity = 0;
}

/* ---- Writing in spans ---------------------------------------------------------------------- */

typedef struct chat_writer {
    const ern_chat *chat;
    int32_t start_id, end_id; /* thinking: <|im_start|>, <|im_end|> */
    ern_text *text;
    bool keeps_spans; /* for ids */
    ern_span *spans;
    size_t n_spans, span_capacity;
} chat_writer;

static bool chat_add_span(chat_writer *w, ernie_tokenize_mode mode, int32_t id)
{
    if (!w->keeps_spans) return true;
    if (w->n_spans == w->span_capacity) {
        const size_t capacity = w->span_capacity ? 2 * w->span_capacity : 16;
        ern_span *spans = ern_resize(w->text->allocator, w->spans, w->span_capacity * sizeof *spans,
                                     capacity * sizeof *spans);
        if (!spans) return false;
        w->spans = spans;
        w->span_capacity = capacity;
    }
    w->spans[w->n_spans++] = (ern_span){ .end = w->text->n, .mode = mode, .id = id };
    return true;
}

/* Words of the template. */
static bool chat_write(chat_writer *w, const char *words)
{
    return ern_text_add(w->text, words, strlen(words))
           && chat_add_span(w, ERNIE_TOKENIZE_SPECIAL, -1);
}

/* Words of a person or of the model. */
static bool chat_quote(chat_writer *w, const char *words)
{
    return ern_text_add(w->text, words, strlen(words))
           && chat_add_span(w, ERNIE_TOKENIZE_LITERAL, -1);
}

static bool chat_token(chat_writer *w, int32_t id)
{
    size_t n = 0;
    const char *piece = ern_tokenizer_piece(w->chat->tokenizer, id, &n);
    return ern_text_add(w->text, piece, n) && chat_add_span(w, ERNIE_TOKENIZE_SPECIAL, id);
}

/* ---- The plain format ------------------------------------------------------------------------ */

static bool chat_plain_user(chat_writer *w, const char *content)
{
    return chat_write(w, "User: ") && chat_quote(w, content) && chat_write(w, "\n");
}

static bool chat_plain_message(chat_writer *w, const ernie_message *message)
{
    switch (message->role) {
    case ERNIE_ROLE_SYSTEM: return chat_quote(w, message->content) && chat_write(w, "\n");
    case ERNIE_ROLE_USER: return chat_plain_user(w, message->content);
    default:
        return chat_write(w, "Assistant: ") && chat_quote(w, message->content)
               && chat_token(w, w->chat->turn_end_id);
    }
}

static bool chat_plain_opening(chat_writer *w)
{
    return chat_write(w, "Assistant: ");
}

static bool chat_plain(chat_writer *w, const ernie_message *messages, size_t n)
{
    if (w->chat->begin_id >= 0 && !chat_token(w, w->chat->begin_id)) return false;
    for (size_t i = 0; i < n; i++)
        if (!chat_plain_message(w, &messages[i])) return false;
    return true;
}

/* ---- The thinking format --------------------------------------------------------------------- */

static bool chat_turn_begin(chat_writer *w, const char *role)
{
    return chat_token(w, w->start_id) && chat_write(w, role) && chat_write(w, "\n");
}

static bool chat_turn_end(chat_writer *w)
{
    return chat_token(w, w->end_id) && chat_write(w, "\n\n");
}

static bool chat_thinking_system(chat_writer *w, const char *content)
{
    if (!chat_turn_begin(w, "system")) return false;
    if (content
        && (!chat_write(w, "<system_setting>\n") || !chat_quote(w, content)
            || !chat_write(w, "\n</system_setting>\n\n")))
        return false;
    return chat_write(w, "<global_setting>\nthink_mode=True\n</global_setting>")
           && chat_turn_end(w);
}

static bool chat_thinking_user(chat_writer *w, const char *content)
{
    return chat_turn_begin(w, "user") && chat_quote(w, content) && chat_turn_end(w);
}

static bool chat_thinking_assistant(chat_writer *w, const char *reasoning, const char *content)
{
    if (!chat_turn_begin(w, "assistant")) return false;
    if (reasoning && *reasoning
        && (!chat_write(w, "<think>\n") || !chat_quote(w, reasoning)
            || !chat_write(w, "\n</think>\n\n")))
        return false;
    return chat_write(w, "<response>\n") && chat_quote(w, content)
           && chat_write(w, "\n</response>\n") && chat_turn_end(w);
}

static bool chat_thinking_opening(chat_writer *w)
{
    return chat_turn_begin(w, "assistant") && chat_write(w, "<think>\n");
}

static bool chat_thinking(chat_writer *w, const ernie_message *messages, size_t n)
{
    const bool has_system = messages[0].role == ERNIE_ROLE_SYSTEM;
    size_t last_user = 0;
    for (size_t i = 0; i < n; i++)
        if (messages[i].role == ERNIE_ROLE_USER) last_user = i;
    if (!chat_thinking_system(w, has_system ? messages[0].content : NULL)) return false;
    for (size_t i = has_system; i < n; i++) {
        const ernie_message *message = &messages[i];
        const bool done = message->role == ERNIE_ROLE_USER
                              ? chat_thinking_user(w, message->content)
                              : chat_thinking_assistant(
                                  w, i > last_user ? message->reasoning : NULL, message->content);
        if (!done) return false;
    }
    return true;
}

/* ---- Checks -------------------------------------------------------------------------------- */

static ernie_status chat_check_messages(const ernie_message *messages, size_t n, ernie_error *error)
{
    ERN_FAIL_IF(!messages || n == 0, error, ERNIE_INVALID, "a conversation without messages");
    for (size_t i = 0; i < n; i++) {
        const ernie_message *message = &messages[i];
        ERN_FAIL_IF((int)message->role < ERNIE_ROLE_SYSTEM || message->role > ERNIE_ROLE_ASSISTANT,
                    error, ERNIE_INVALID, "message %zu has role %d, expected 0 to 2", i,
                    (int)message->role);
        ERN_FAIL_IF(message->role == ERNIE_ROLE_SYSTEM && i > 0, error, ERNIE_INVALID,
                    "message %zu is a system message, which must be message 0", i);
        ERN_FAIL_IF(!message->content, error, ERNIE_INVALID, "message %zu has no content", i);
    }
    return ERNIE_OK;
}

static ernie_status chat_find_token(const ern_chat *chat, const char *piece, int32_t *id,
                                    ernie_error *error)
{
    *id = ern_tokenizer_find(chat->tokenizer, piece, strlen(piece));
    ERN_FAIL_IF(*id < 0, error, ERNIE_UNSUPPORTED,
                "the thinking chat format needs the token %s, which the vocabulary lacks", piece);
    return ERNIE_OK;
}

static ernie_status chat_check_id(const ern_chat *chat, int32_t id, ernie_error *error)
{
    const uint32_t n_tokens = ern_tokenizer_n_tokens(chat->tokenizer);
    ERN_FAIL_IF(id >= 0 && (uint32_t)id >= n_tokens, error, ERNIE_UNSUPPORTED,
                "the chat format uses token %d, the tokenizer has %u", (int)id, (unsigned)n_tokens);
    return ERNIE_OK;
}

/* A writer for this format, with the tokens that it needs; closes_turns: an assistant's turn will
 * have to be closed. */
static ernie_status chat_begin(chat_writer *w, const ern_chat *chat, bool closes_turns,
                               ernie_error *error)
{
    ernie_status status;
    *w = (chat_writer){ .chat = chat, .start_id = -1, .end_id = -1 };
    if (chat->format == ERNIE_CHAT_THINKING) {
        status = chat_find_token(chat, "<|im_start|>", &w->start_id, error);
        return status != ERNIE_OK ? status : chat_find_token(chat, "<|im_end|>", &w->end_id, error);
    }
    ERN_FAIL_IF(chat->format != ERNIE_CHAT_PLAIN, error, ERNIE_UNSUPPORTED,
                "the model's chat template is unknown: only raw prompts are possible");
    ERN_FAIL_IF(
        closes_turns && chat->turn_end_id < 0, error, ERNIE_UNSUPPORTED,
        "the model names no token that closes an assistant's turn: only first questions and "
        "raw prompts are possible");
    status = chat_check_id(chat, chat->begin_id, error);
    return status != ERNIE_OK ? status : chat_check_id(chat, chat->turn_end_id, error);
}

static bool chat_has_assistant(const ernie_message *messages, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (messages[i].role == ERNIE_ROLE_ASSISTANT) return true;
    return false;
}

/* ---- Whole conversations --------------------------------------------------------------------- */

static bool chat_render(chat_writer *w, const ernie_message *messages, size_t n, bool opening)
{
    if (w->chat->format == ERNIE_CHAT_PLAIN)
        return chat_plain(w, messages, n) && (!opening || chat_plain_opening(w));
    return chat_thinking(w, messages, n) && (!opening || chat_thinking_opening(w));
}

static ernie_status chat_no_memory(ernie_error *error)
{
    return ern_error_set(error, ERNIE_NO_MEMORY, "no memory to write out a conversation");
}

/* Tokenize what was written, and drop it. `written`: memory sufficed. */
static ernie_status chat_finish_ids(chat_writer *w, bool written, bool begins, ern_ids *ids,
                                    ernie_error *error)
{
    const ernie_status status = written
                                    ? ern_tokenize_spans(w->chat->tokenizer, w->text->data,
                                                         w->spans, w->n_spans, begins, ids, error)
                                    : chat_no_memory(error);
    ern_free(w->text->allocator, w->spans, w->span_capacity * sizeof *w->spans);
    ern_text_free(w->text);
    return status;
}

ERN_FN ernie_status ern_chat_ids(const ern_chat *chat, const ernie_message *messages, size_t n,
                                 bool add_generation_prompt, ern_ids *ids, ernie_error *error)
{
    chat_writer w;
    ern_text text = { .allocator = ids->allocator };
    ernie_status status = chat_check_messages(messages, n, error);
    if (status == ERNIE_OK) status = chat_begin(&w, chat, chat_has_assistant(messages, n), error);
    if (status != ERNIE_OK) return status;
    w.text = &text;
    w.keeps_spans = true;
    const bool written = chat_render(&w, messages, n, add_generation_prompt);
    return chat_finish_ids(&w, written, true, ids, error);
}

ERN_FN ernie_status ern_chat_text(const ern_chat *chat, const ernie_message *messages, size_t n,
                                  bool add_generation_prompt, ern_text *text, ernie_error *error)
{
    chat_writer w;
    const size_t n_before = text->n;
    ernie_status status = chat_check_messages(messages, n, error);
    if (status == ERNIE_OK) status = chat_begin(&w, chat, chat_has_assistant(messages, n), error);
    if (status != ERNIE_OK) return status;
    w.text = text;
    if (chat_render(&w, messages, n, add_generation_prompt)) return ERNIE_OK;
    text->n = n_before;
    return chat_no_memory(error);
}

/* ---- One more turn --------------------------------------------------------------------------- */

static bool chat_continue(chat_writer *w, int32_t last_id, const char *question)
{
    if (w->chat->format == ERNIE_CHAT_PLAIN) {
        const int32_t end = w->chat->turn_end_id;
        return (last_id == end || chat_token(w, end)) && chat_plain_user(w, question)
               && chat_plain_opening(w);
    }
    return (last_id == w->end_id || chat_token(w, w->end_id)) && chat_write(w, "\n\n")
           && chat_thinking_user(w, question) && chat_thinking_opening(w);
}

ERN_FN ernie_status ern_chat_continue_ids(const ern_chat *chat, int32_t last_id,
                                          const char *question, ern_ids *ids, ernie_error *error)
{
    chat_writer w;
    ern_text text = { .allocator = ids->allocator };
    ERN_FAIL_IF(!question, error, ERNIE_INVALID, "the question is NULL");
    const ernie_status status = chat_begin(&w, chat, true, error);
    if (status != ERNIE_OK) return status;
    w.text = &text;
    w.keeps_spans = true;
    const bool written = chat_continue(&w, last_id, question);
    return chat_finish_ids(&w, written, false, ids, error);
}
