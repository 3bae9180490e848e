/* ernie tokenize, ernie detokenize and ernie logits: the model's parts, one at a time. */
#include "cli.h"
#include "interrupt.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int tokens_read_text(cli_context *cli, text_buffer *text)
{
    const char *argument = cli->options.positional[1];
    if (strcmp(argument, "-") != 0) {
        buffer_add_text(text, argument);
        return CLI_OK;
    }
    if (buffer_read_all(text, STDIN_FILENO)) return CLI_OK;
    if (interrupt_signal())
        return cli_fail(cli, CLI_SIGNAL + interrupt_signal(), "stopped by a signal");
    return cli_fail(cli, CLI_FAILED, "standard input cannot be read: %s", strerror(errno));
}

static void tokens_print_ids(output *out, const id_list *ids)
{
    output_write(out, "[", 1);
    for (size_t i = 0; i < ids->n; i++) output_print(out, "%s%d", i ? "," : "", (int)ids->ids[i]);
    output_write(out, "]\n", 2);
}

int cmd_tokenize(cli_context *cli)
{
    ernie_model *model = NULL;
    text_buffer text = { 0 };
    id_list ids = { 0 };
    ernie_error error;
    int status = tokens_read_text(cli, &text);
    if (status == CLI_OK) status = cli_open_model(cli, &model);
    const ernie_tokenize_mode mode =
        cli->options.literal_text ? ERNIE_TOKENIZE_TEXT : ERNIE_TOKENIZE_SPECIAL;
    if (status == CLI_OK
        && cli_tokenize(model, buffer_text(&text), text.n, mode, &ids, &error) != ERNIE_OK)
        status = cli_fail_error(cli, cli->options.positional[0], &error);
    if (status == CLI_OK) tokens_print_ids(&cli->out, &ids);
    id_list_free(&ids);
    buffer_free(&text);
    ernie_model_close(model);
    return status;
}

static int tokens_need_ids(cli_context *cli)
{
    if (cli->options.ids.n) return CLI_OK;
    return cli_fail(cli, CLI_USAGE, "option --ids is missing, expected a list such as 17,4,302");
}

int cmd_detokenize(cli_context *cli)
{
    ernie_model *model = NULL;
    text_buffer text = { 0 };
    ernie_error error;
    const program_options *options = &cli->options;
    int status = tokens_need_ids(cli);
    if (status == CLI_OK) status = cli_open_model(cli, &model);
    if (status == CLI_OK) status = cli_check_ids(cli, model);
    if (status == CLI_OK
        && cli_detokenize(model, options->ids.ids, options->ids.n, options->special, &text, &error)
               != ERNIE_OK)
        status = cli_fail_error(cli, options->positional[0], &error);
    if (status == CLI_OK) {
        buffer_add_text(&text, "\n");
        output_write(&cli->out, text.data, text.n);
    }
    buffer_free(&text);
    ernie_model_close(model);
    return status;
}

/* ---- Logits -------------------------------------------------------------------------------- */

static void tokens_print_logits(output *out, const float *logits, size_t n)
{
    output_write(out, "[", 1);
    for (size_t i = 0; i < n; i++) {
        if (i) output_write(out, ",", 1);
        if (isfinite(logits[i]))
            output_print(out, "%.9g", (double)logits[i]);
        else
            output_write(out, "null", 4);
    }
    output_write(out, "]", 1);
}

static int tokens_print_last(cli_context *cli, ernie_session *session, size_t n_vocab)
{
    const id_list *ids = &cli->options.ids;
    ernie_error error;
    interrupt_watch(session);
    const ernie_status status = ernie_session_feed(session, ids->ids, ids->n, &error);
    interrupt_watch(NULL);
    progress_erase(&cli->bar);
    if (status != ERNIE_OK) return cli_fail_error(cli, NULL, &error);
    tokens_print_logits(&cli->out, ernie_session_logits(session), n_vocab);
    output_write(&cli->out, "\n", 1);
    return CLI_OK;
}

/* In pieces, so that the memory does not grow with the number of positions. */
static int tokens_print_all(cli_context *cli, ernie_session *session, size_t n_vocab)
{
    const id_list *ids = &cli->options.ids;
    const size_t piece_max = cli_logits_piece(n_vocab);
    float *logits = memory_resize(NULL, piece_max * n_vocab, sizeof *logits);
    ernie_error error;
    ernie_status status = ERNIE_OK;
    interrupt_watch(session);
    for (size_t at = 0; at < ids->n && status == ERNIE_OK; at += piece_max) {
        const size_t n = ids->n - at < piece_max ? ids->n - at : piece_max;
        status = ernie_session_feed_logits(session, ids->ids + at, n, logits, &error);
        for (size_t i = 0; i < n && status == ERNIE_OK; i++) {
            output_write(&cli->out, at + i ? ",\n" : "[", at + i ? 2 : 1);
            tokens_print_logits(&cli->out, logits + i * n_vocab, n_vocab);
        }
    }
    interrupt_watch(NULL);
    free(logits);
    if (status != ERNIE_OK) return cli_fail_error(cli, NULL, &error);
    output_write(&cli->out, "]\n", 2);
    return CLI_OK;
}

int cmd_logits(cli_context *cli)
{
    ernie_model *model = NULL;
    ernie_session *session = NULL;
    uint64_t n_ctx = 0;
    int status = tokens_need_ids(cli);
    if (status == CLI_OK) status = cli_open_model(cli, &model);
    if (status == CLI_OK) status = cli_check_ids(cli, model);
    const size_t n_ids = cli->options.ids.n;
    if (status == CLI_OK) status = cli_choose_context(cli, model, n_ids, 0, &n_ctx);
    const cli_session wanted = { .n_ctx = n_ids, .kv = ERNIE_KV_F32, .shows_feeding = true };
    if (status == CLI_OK) status = cli_open_session(cli, model, &wanted, NULL, &session);
    if (status == CLI_OK) {
        const size_t n_vocab = cli_model_info(model).vocab_size;
        status = cli->options.all ? tokens_print_all(cli, session, n_vocab)
                                  : tokens_print_last(cli, session, n_vocab);
    }
    ernie_session_free(session);
    ernie_model_close(model);
    return status;
}
