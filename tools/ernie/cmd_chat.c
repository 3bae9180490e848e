/* ernie chat: a conversation. The history is kept as messages and written out anew for each turn; the
 * session keeps the common beginning, so only the new turn is computed. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "answer.h"
#include "conversation.h"
#include "interrupt.h"
#include "line_reader.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* Room that an answer should find behind the prompt: an eighth of the context, at most so many. */
enum { CHAT_ANSWER_ROOM_MAX = 512 };

static const char CHAT_HELP[] = "/reset         forget the conversation, keep the system message\n"
                                "/system TEXT   set the system message, without TEXT remove it\n"
                                "/save FILE     write the conversation as JSON\n"
                                "/load FILE     continue such a conversation\n"
                                "/exit          leave (so does Ctrl-D)\n"
                                "A line that ends with a backslash goes on with the next one.\n";

typedef struct chat_state {
    cli_context *cli;
    ernie_model *model;
    ernie_session *session;
    line_reader *reader;
    conversation talk;
    ernie_sampling sampling;
    model_answer answer;
    uint64_t n_ctx;
    size_t interruptions; /* Ctrl-C since the last line that was read */
    bool leaving;
} chat_state;

/* One line beside the conversation, for whoever types; scripts get none. */
__attribute__((format(printf, 2, 3))) static void chat_notice(const chat_state *chat,
                                                              const char *format, ...)
{
    if (!line_reader_interactive(chat->reader)) return;
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

/* Something went wrong that the conversation survives: someone at the terminal reads it and goes on, a
 * script must not, so there it is a failure. */
__attribute__((format(printf, 2, 3))) static int chat_complain(const chat_state *chat,
                                                               const char *format, ...)
{
    char line[600];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (!line_reader_interactive(chat->reader)) return cli_fail(chat->cli, CLI_FAILED, "%s", line);
    chat_notice(chat, "%s", line);
    return CLI_OK;
}

/* ---- A turn -------------------------------------------------------------------------------- */

/* The ids of the conversation; turns are dropped from its beginning until an answer has room. With
 * only the question left, *fits says whether it leaves room for at least one token. */
static ernie_status chat_make_ids(chat_state *chat, id_list *ids, bool *fits, ernie_error *error)
{
    const uint64_t eighth = chat->n_ctx / 8;
    const uint64_t room = eighth < CHAT_ANSWER_ROOM_MAX ? eighth : CHAT_ANSWER_ROOM_MAX;
    bool dropped = false;
    ernie_status status;
    for (;;) {
        status = cli_chat_tokenize(chat->model, chat->talk.messages, chat->talk.n, ids, error);
        if (status != ERNIE_OK || ids->n + room <= chat->n_ctx) break;
        if (!conversation_drop_oldest(&chat->talk)) break;
        dropped = true;
    }
    if (dropped)
        chat_notice(chat, "(the context of %llu tokens is full: the oldest turns are forgotten)",
                    (unsigned long long)chat->n_ctx);
    *fits = ids->n < chat->n_ctx;
    return status;
}

static int chat_on_token(const ernie_token *token, void *user)
{
    chat_state *chat = user;
    progress_erase(&chat->cli->bar);
    return answer_token(token, &chat->answer);
}

/* Feed what is new and generate. A Ctrl-C that came just after the last answer has left a request in
 * the session, which stops the first call at once: with no signal pending, that call is repeated. */
static ernie_status chat_answer(chat_state *chat, const id_list *ids, ernie_result *result,
                                ernie_error *error)
{
    ernie_status status = ERNIE_OK;
    progress_begin(&chat->cli->bar, PROGRESS_TOKENS);
    interrupt_watch(chat->session);
    for (int i = 0; i < 2; i++) {
        cli_trace_stopped(chat->cli); /* perhaps the last one was */
        status = ernie_session_sync(chat->session, ids->ids, ids->n, error);
        if (status != ERNIE_CANCELLED || interrupt_signal()) break;
    }
    if (status == ERNIE_OK)
        status = ernie_session_generate(chat->session, &chat->sampling, chat_on_token, chat, result,
                                        error);
    interrupt_watch(NULL);
    progress_erase(&chat->cli->bar);
    answer_end(&chat->answer);
    return status;
}

static void chat_print_statistics(const chat_state *chat, const ernie_result *result)
{
    if (chat->cli->options.quiet || !line_reader_interactive(chat->reader)) return;
    const double tps =
        result->decode_seconds > 0 ? (double)result->n_generated / result->decode_seconds : 0;
    chat_notice(chat, "[%zu tokens %.2f s (%.0f t/s) | context %zu of %llu | stop: %s]",
                result->n_generated, result->decode_seconds, tps,
                ernie_session_length(chat->session), (unsigned long long)chat->n_ctx,
                cli_stop_text(result->stop));
}

/* What the answer's end means for the conversation: an answer that was stopped stays as far as it
 * came, a question that got none is taken back. */
static int chat_finish_turn(chat_state *chat, ernie_status status, const ernie_result *result,
                            const ernie_error *error)
{
    cli_context *cli = chat->cli;
    output_write(&cli->out, "\n", 1);
    if (!output_flush(&cli->out)) return cli_fail_output(cli);
    const int number = interrupt_signal();
    const bool stopped =
        status == ERNIE_CANCELLED && number == SIGINT && line_reader_interactive(chat->reader);
    if (status != ERNIE_OK && !stopped) return cli_fail_error(cli, NULL, error);
    if (chat->answer.text.n)
        conversation_add(&chat->talk, ERNIE_ROLE_ASSISTANT, buffer_text(&chat->answer.text));
    else
        conversation_drop_last(&chat->talk);
    if (stopped) {
        chat->interruptions = 1;
        interrupt_clear();
        chat_notice(chat, "(stopped)");
    } else {
        chat_print_statistics(chat, result);
    }
    return CLI_OK;
}

static int chat_turn(chat_state *chat, const char *question)
{
    conversation_add(&chat->talk, ERNIE_ROLE_USER, question);
    id_list ids = { 0 };
    bool fits = false;
    ernie_error error = { ERNIE_OK, "" };
    ernie_result result = { .size = (uint32_t)sizeof result };
    int status;
    ernie_status ended = chat_make_ids(chat, &ids, &fits, &error);
    if (ended != ERNIE_OK) {
        status = cli_fail_error(chat->cli, chat->cli->options.positional[0], &error);
    } else if (!fits) {
        conversation_drop_last(&chat->talk);
        status =
            chat_complain(chat, "the message makes a prompt of %zu tokens, the context holds %llu",
                          ids.n, (unsigned long long)chat->n_ctx);
    } else {
        const bool thinks = cli_model_info(chat->model).chat_format == ERNIE_CHAT_THINKING;
        answer_begin(&chat->answer, chat->model, &chat->cli->out, thinks);
        ended = chat_answer(chat, &ids, &result, &error);
        status = chat_finish_turn(chat, ended, &result, &error);
        answer_free(&chat->answer);
    }
    id_list_free(&ids);
    return status;
}

/* ---- Commands ------------------------------------------------------------------------------ */

/* Only for whoever types at a terminal: text that comes from elsewhere must not be able to write
 * files or to change the conversation. */

static void chat_save(chat_state *chat, const char *path)
{
    file_error error;
    if (!*path)
        chat_notice(chat, "/save needs the name of a file");
    else if (!conversation_save(&chat->talk, path, &error))
        chat_notice(chat, "%s: %s", path, error.reason);
    else
        chat_notice(chat, "(saved to %s)", path);
}

static void chat_load(chat_state *chat, const char *path)
{
    file_error error;
    if (!*path)
        chat_notice(chat, "/load needs the name of a file");
    else if (!conversation_load(&chat->talk, path, &error))
        chat_notice(chat, "%s: %s", path, error.reason);
    else
        chat_notice(chat, "(continuing %s, %zu messages)", path, chat->talk.n);
}

static void chat_command(chat_state *chat, const char *line)
{
    const size_t n_name = strcspn(line, " \t");
    const char *argument = line + n_name + strspn(line + n_name, " \t");
    char name[16] = "";
    if (n_name < sizeof name) memcpy(name, line, n_name);
    if (!strcmp(name, "/help")) {
        fputs(CHAT_HELP, stderr);
    } else if (!strcmp(name, "/reset")) {
        conversation_clear(&chat->talk);
        chat_notice(chat, "(a new conversation)");
    } else if (!strcmp(name, "/system")) {
        conversation_set_system(&chat->talk, *argument ? argument : NULL);
        chat_notice(chat, *argument ? "(system message set)" : "(system message removed)");
    } else if (!strcmp(name, "/save")) {
        chat_save(chat, argument);
    } else if (!strcmp(name, "/load")) {
        chat_load(chat, argument);
    } else if (!strcmp(name, "/exit")) {
        chat->leaving = true;
    } else {
        chat_notice(chat,
                    "unknown command %.40s, /help lists them; a message may begin with a blank and "
                    "a slash",
                    line);
    }
}

/* ---- The loop ------------------------------------------------------------------------------ */

/* Ctrl-C at the prompt: the second in a row leaves. */
static void chat_interrupted(chat_state *chat)
{
    if (++chat->interruptions >= 2)
        chat->leaving = true;
    else
        chat_notice(chat, "(Ctrl-C again or Ctrl-D leaves)");
}

/* Read a message: lines that end with a backslash and the one behind them. */
static line_status chat_read(chat_state *chat, text_buffer *message)
{
    text_buffer line = { 0 };
    const char *prompt = "> ";
    line_status status;
    buffer_clear(message);
    while ((status = line_reader_read(chat->reader, prompt, &line)) == LINE_READ) {
        chat->interruptions = 0;
        const bool more = line.n && line.data[line.n - 1] == '\\';
        buffer_add(message, buffer_text(&line), line.n - more);
        if (!more) break;
        buffer_add_text(message, "\n");
        prompt = ". ";
    }
    buffer_free(&line);
    return status;
}

static int chat_message(chat_state *chat, const text_buffer *message)
{
    const char *text = buffer_text(message);
    if (!buffer_is_text(message)) return chat_complain(chat, "the message holds a NUL byte");
    if (text[strspn(text, " \t\r\n")] == 0) return CLI_OK;
    if (text[0] != '/' || !line_reader_interactive(chat->reader)) return chat_turn(chat, text);
    chat_command(chat, text);
    return CLI_OK;
}

/* What became of reading a message decides what is done next. */
static int chat_step(chat_state *chat, line_status read, const text_buffer *message)
{
    const int number = interrupt_signal();
    if (number && (number != SIGINT || !line_reader_interactive(chat->reader)))
        return cli_fail(chat->cli, CLI_SIGNAL + number, "stopped by a signal");
    interrupt_clear(); /* a Ctrl-C between the answer and the prompt is settled by reading on */
    switch (read) {
    case LINE_READ: return chat_message(chat, message);
    case LINE_END: chat->leaving = true; return CLI_OK;
    case LINE_INTERRUPTED: chat_interrupted(chat); return CLI_OK;
    case LINE_FAILED: break;
    }
    return cli_fail(chat->cli, CLI_FAILED, "standard input cannot be read: %s", strerror(errno));
}

static int chat_loop(chat_state *chat)
{
    text_buffer message = { 0 };
    int status = CLI_OK;
    while (status == CLI_OK && !chat->leaving) {
        const line_status read = chat_read(chat, &message);
        status = chat_step(chat, read, &message);
    }
    buffer_free(&message);
    return status;
}

static int chat_open(chat_state *chat)
{
    cli_context *cli = chat->cli;
    int status = cli_open_model(cli, &chat->model);
    if (status != CLI_OK) return status;
    if (cli_model_info(chat->model).chat_format == ERNIE_CHAT_NONE)
        return cli_fail(cli, CLI_FAILED, "%s: the file has no chat format, use ernie run --raw",
                        cli->options.positional[0]);
    status = cli_check_ids(cli, chat->model);
    if (status == CLI_OK) status = cli_choose_context(cli, chat->model, 0, 0, &chat->n_ctx);
    if (status != CLI_OK) return status;
    const cli_session wanted = { .n_ctx = chat->n_ctx, .shows_feeding = true, .traced = true };
    return cli_open_session(cli, chat->model, &wanted, NULL, &chat->session);
}

int cmd_chat(cli_context *cli)
{
    chat_state chat = { .cli = cli };
    chat.sampling = cli_sampling(&cli->options);
    int status = chat_open(&chat);
    if (status == CLI_OK) {
        chat.reader = line_reader_open();
        if (cli->options.system_message)
            conversation_set_system(&chat.talk, cli->options.system_message);
        chat_notice(&chat, "%s, context %llu. /help lists the commands, Ctrl-D leaves.",
                    cli_model_info(chat.model).name, (unsigned long long)chat.n_ctx);
        status = chat_loop(&chat);
        if (status == CLI_OK) status = cli_trace_finish(cli);
    }
    line_reader_close(chat.reader);
    conversation_free(&chat.talk);
    ernie_session_free(chat.session);
    ernie_model_close(chat.model);
    return status;
}
