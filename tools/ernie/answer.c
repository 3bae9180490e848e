/* One answer while it is made: the token callback, and the splitter of reasoning and answer. */
#include "answer.h"

#include <stdlib.h>
#include <string.h>

enum {
    ANSWER_REASONING, /* up to </think> */
    ANSWER_BEFORE,    /* blanks and <response> are dropped */
    ANSWER_TEXT,      /* up to </response> */
    ANSWER_AFTER      /* all is dropped */
};

/* The tag that each part looks for. */
static const char *const answer_tags[ANSWER_TAGS] = { "</think>", "<response>", "</response>" };

/* ---- The stream ---------------------------------------------------------------------------- */

/* Text for a terminal: what a model writes must not be able to move the cursor or rename the window.
 * Control characters become "?", those of two bytes (C2 80 to C2 9F) included. */
static void answer_show(model_answer *answer, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const unsigned char byte = (unsigned char)bytes[i];
        const bool control = (byte < 0x20 && byte != '\n' && byte != '\t') || byte == 0x7f
                             || (answer->held_c2 && byte >= 0x80 && byte <= 0x9f);
        if (answer->held_c2 && !control) output_write(answer->out, "\xc2", 1);
        answer->held_c2 = byte == 0xc2;
        if (!answer->held_c2) output_write(answer->out, control ? "?" : bytes + i, 1);
    }
}

static void answer_stream(model_answer *answer, const char *bytes, size_t n)
{
    if (!answer->out) return;
    if (answer->out->terminal)
        answer_show(answer, bytes, n);
    else
        output_write(answer->out, bytes, n);
}

static void answer_open_reasoning(model_answer *answer)
{
    const char *mark = answer->dims ? "\033[2m" : "<think>\n";
    if (answer->out && !answer->opened) output_write(answer->out, mark, strlen(mark));
    answer->opened = true;
}

static void answer_close_reasoning(model_answer *answer)
{
    const char *mark = answer->dims ? "\033[0m\n\n" : "\n</think>\n\n";
    if (answer->out && answer->opened) output_write(answer->out, mark, strlen(mark));
    answer->opened = false;
}

static void answer_emit(model_answer *answer, const char *bytes, size_t n)
{
    if (answer->part == ANSWER_AFTER) return;
    if (answer->part == ANSWER_REASONING) {
        answer_open_reasoning(answer);
        buffer_add(&answer->reasoning, bytes, n);
    } else {
        buffer_add(&answer->text, bytes, n);
    }
    answer_stream(answer, bytes, n);
}

/* ---- The splitter -------------------------------------------------------------------------- */

static bool answer_is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

static void answer_drop_held(model_answer *answer, size_t n)
{
    answer->n_held -= n;
    memmove(answer->held, answer->held + n, answer->n_held);
}

static void answer_enter_next_part(model_answer *answer)
{
    if (answer->part == ANSWER_REASONING) answer_close_reasoning(answer);
    /* <response> only ends the blanks before it; the blanks behind it are dropped as well. */
    if (answer->part != ANSWER_BEFORE) answer->part++;
    answer->n_held = 0;
}

/* The first held character that is not blank cannot begin the part's tag: give it on, and the blanks
 * before it, unless they stand before the answer. */
static void answer_release(model_answer *answer, size_t n_blank)
{
    if (answer->part == ANSWER_BEFORE) {
        answer->part = ANSWER_TEXT;
        answer_drop_held(answer, n_blank);
        n_blank = 0;
    }
    answer_emit(answer, answer->held, n_blank + 1);
    answer_drop_held(answer, n_blank + 1);
}

/* Give on what is certain to be text. What stays held are blanks, which vanish before a tag, and the
 * beginning of a tag behind them. */
static void answer_resolve(model_answer *answer)
{
    while (answer->part < ANSWER_AFTER) {
        size_t n_blank = 0;
        while (n_blank < answer->n_held && answer_is_blank(answer->held[n_blank])) n_blank++;
        const char *tag = answer_tags[answer->part];
        const size_t n_rest = answer->n_held - n_blank;
        if (n_rest == 0) break;
        if (memcmp(answer->held + n_blank, tag, n_rest) != 0)
            answer_release(answer, n_blank);
        else if (n_rest == strlen(tag))
            answer_enter_next_part(answer);
        else
            break;
    }
    if (answer->part == ANSWER_AFTER) answer->n_held = 0;
}

static void answer_split(model_answer *answer, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (answer->n_held == ANSWER_HELD_MAX) {
            answer_emit(answer, answer->held, 1);
            answer_drop_held(answer, 1);
        }
        answer->held[answer->n_held++] = bytes[i];
        answer_resolve(answer);
    }
}

/* ---- The callback -------------------------------------------------------------------------- */

void answer_begin(model_answer *answer, const ernie_model *model, output *out, bool splits)
{
    *answer = (model_answer){ .model = model, .out = out, .splits = splits };
    answer->part = splits ? ANSWER_REASONING : ANSWER_TEXT;
    answer->dims = out && out->terminal && !getenv("NO_COLOR");
    for (size_t i = 0; i < ANSWER_TAGS; i++)
        answer->tag_ids[i] = ernie_token_find(model, answer_tags[i]);
}

static json_t *answer_logprob(const model_answer *answer, int32_t id, float logprob)
{
    text_buffer text = { 0 };
    cli_detokenize(answer->model, &id, 1, true, &text, NULL);
    json_t *entry = json_object();
    json_object_set_new(entry, "id", json_integer(id));
    json_object_set_new(entry, "text", json_stringn(buffer_text(&text), text.n));
    json_object_set_new(entry, "logprob", output_number((double)logprob));
    buffer_free(&text);
    return entry;
}

static void answer_add_logprobs(model_answer *answer, const ernie_token *token)
{
    json_t *entry = answer_logprob(answer, token->id, token->logprob);
    json_t *top = json_array();
    for (size_t i = 0; i < token->n_top; i++)
        json_array_append_new(top, answer_logprob(answer, token->top[i].id, token->top[i].logprob));
    json_object_set_new(entry, "top", top);
    json_array_append_new(answer->logprobs, entry);
}

/* The text of a tag's token, which the library gives no text. */
static const char *answer_tag_text(const model_answer *answer, const ernie_token *token)
{
    for (size_t i = 0; i < ANSWER_TAGS; i++)
        if (token->n_text == 0 && token->id >= 0 && token->id == answer->tag_ids[i])
            return answer_tags[i];
    return NULL;
}

int answer_token(const ernie_token *token, void *user)
{
    model_answer *answer = user;
    if (token->id >= 0) id_list_push(&answer->ids, token->id);
    if (token->id >= 0 && answer->logprobs) answer_add_logprobs(answer, token);
    if (!answer->splits) {
        answer_emit(answer, token->text, token->n_text);
    } else {
        const char *tag = answer_tag_text(answer, token);
        if (tag)
            answer_split(answer, tag, strlen(tag));
        else
            answer_split(answer, token->text, token->n_text);
    }
    return answer->out && !output_flush(answer->out);
}

void answer_end(model_answer *answer)
{
    size_t n_blank = 0;
    while (n_blank < answer->n_held && answer_is_blank(answer->held[n_blank])) n_blank++;
    if (n_blank < answer->n_held) answer_emit(answer, answer->held, answer->n_held);
    answer->n_held = 0;
    if (answer->opened && answer->dims) output_write(answer->out, "\033[0m", 4);
    answer->opened = false;
}

void answer_free(model_answer *answer)
{
    json_decref(answer->logprobs);
    id_list_free(&answer->ids);
    buffer_free(&answer->text);
    buffer_free(&answer->reasoning);
}
