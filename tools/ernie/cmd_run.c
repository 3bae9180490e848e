/* ernie run: one prompt, one answer. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "answer.h"
#include "interrupt.h"
#include "search_context.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* What one run works on. */
typedef struct run_state {
    cli_context *cli;
    ernie_model *model;
    ernie_session *session;
    text_buffer prompt; /* the question, or the raw text */
    id_list ids;        /* what is fed before the answer; empty when the library builds it */
    double fed_seconds; /* for the ids */
    size_t n_fed;
    model_answer answer;
    ernie_result result;
} run_state;

/* ---- Checking the options ------------------------------------------------------------------ */

static int run_refuse_pair(cli_context *cli, const char *first, const char *second,
                           const char *reason)
{
    if (!options_given(&cli->options, first) || !options_given(&cli->options, second))
        return CLI_OK;
    return cli_fail(cli, CLI_USAGE, "option --%s cannot be combined with --%s: %s", first, second,
                    reason);
}

static int run_check_options(cli_context *cli)
{
    static const char *const pairs[][3] = {
        { "prompt", "ids", "both are the prompt" },
        { "system", "ids", "ids are fed as they are" },
        { "search-context", "ids", "ids are fed as they are" },
        { "system", "raw", "raw text has no system message" },
        { "search-context", "raw", "search results need the chat format" },
        { "system", "load-session", "a system message comes first in a conversation" },
    };
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        const int status = run_refuse_pair(cli, pairs[i][0], pairs[i][1], pairs[i][2]);
        if (status != CLI_OK) return status;
    }
    const program_options *options = &cli->options;
    if (!options->prompt && !options->ids.n && !options->load_session)
        return cli_fail(cli, CLI_USAGE,
                        "a prompt is missing: give -p TEXT, --ids LIST or "
                        "--load-session FILE");
    if (!options->prompt && options->search_context)
        return cli_fail(cli, CLI_USAGE, "option --search-context needs the question: give -p TEXT");
    if (options_given(options, "logprobs") && !options->json)
        return cli_fail(cli, CLI_USAGE, "option --logprobs needs --json");
    return CLI_OK;
}

/* ---- The prompt ---------------------------------------------------------------------------- */

static int run_read_stdin(cli_context *cli, text_buffer *text)
{
    if (buffer_read_all(text, STDIN_FILENO)) return CLI_OK;
    if (interrupt_signal())
        return cli_fail(cli, CLI_SIGNAL + interrupt_signal(), "stopped by a signal");
    return cli_fail(cli, CLI_FAILED, "standard input cannot be read: %s", strerror(errno));
}

/* A question that was typed or echoed ends with a newline that nobody meant. */
static void run_drop_newline(text_buffer *text)
{
    if (text->n && text->data[text->n - 1] == '\n') text->data[--text->n] = 0;
    if (text->n && text->data[text->n - 1] == '\r') text->data[--text->n] = 0;
}

static int run_read_prompt(cli_context *cli, text_buffer *prompt)
{
    const program_options *options = &cli->options;
    if (!options->prompt) return CLI_OK;
    text_buffer question = { 0 };
    int status = CLI_OK;
    if (strcmp(options->prompt, "-") == 0)
        status = run_read_stdin(cli, &question);
    else
        buffer_add_text(&question, options->prompt);
    if (status == CLI_OK && !options->raw) {
        if (options->prompt[0] == '-' && !options->prompt[1]) run_drop_newline(&question);
        if (!buffer_is_text(&question))
            status = cli_fail(cli, CLI_FAILED, "the prompt holds a NUL byte, expected text");
    }
    if (status == CLI_OK && !question.n) status = cli_fail(cli, CLI_FAILED, "the prompt is empty");
    if (status == CLI_OK && options->search_context)
        status =
            search_context_prompt(cli, options->search_context, buffer_text(&question), prompt);
    else if (status == CLI_OK)
        buffer_add(prompt, buffer_text(&question), question.n);
    buffer_free(&question);
    return status;
}

/* A conversation of its own, unless it continues one: then ernie_session_ask knows what the session
 * holds and builds the turn. */
static bool run_asks(const program_options *options)
{
    return options->load_session && options->prompt && !options->raw;
}

static bool run_has_tokenizer(const ernie_model *model)
{
    size_t n = 0;
    return ernie_tokenize(model, "", 0, ERNIE_TOKENIZE_TEXT, NULL, 0, &n, NULL) == ERNIE_OK;
}

static int run_make_ids(cli_context *cli, run_state *run)
{
    const program_options *options = &cli->options;
    ernie_error error;
    ernie_status status = ERNIE_OK;
    if (options->ids.n) {
        for (size_t i = 0; i < options->ids.n; i++) id_list_push(&run->ids, options->ids.ids[i]);
    } else if (options->prompt && options->raw) {
        status = cli_tokenize(run->model, buffer_text(&run->prompt), run->prompt.n,
                              ERNIE_TOKENIZE_SPECIAL, &run->ids, &error);
        if (status == ERNIE_OK && !run->ids.n && !options->load_session)
            return cli_fail(cli, CLI_FAILED, "the prompt is empty, expected at least one token");
    } else if (options->prompt && !run_asks(options)) {
        const ernie_message messages[] = {
            { ERNIE_ROLE_SYSTEM, options->system_message, NULL },
            { ERNIE_ROLE_USER, buffer_text(&run->prompt), NULL },
        };
        const size_t skip = options->system_message ? 0 : 1;
        status = cli_chat_tokenize(run->model, messages + skip, 2 - skip, &run->ids, &error);
    }
    if (status == ERNIE_UNSUPPORTED)
        return cli_fail(cli, CLI_FAILED, "%s: %s; %s works without one", options->positional[0],
                        error.message, run_has_tokenizer(run->model) ? "--raw" : "--ids");
    return status == ERNIE_OK ? CLI_OK : cli_fail_error(cli, options->positional[0], &error);
}

/* ---- The answer ---------------------------------------------------------------------------- */

static int run_feed(cli_context *cli, run_state *run)
{
    if (!run->ids.n) return CLI_OK;
    ernie_error error;
    const double start = progress_clock();
    interrupt_watch(run->session);
    const ernie_status status = ernie_session_feed(run->session, run->ids.ids, run->ids.n, &error);
    interrupt_watch(NULL);
    progress_erase(&cli->bar);
    run->fed_seconds = progress_clock() - start;
    run->n_fed = run->ids.n;
    return status == ERNIE_OK ? CLI_OK : cli_fail_error(cli, NULL, &error);
}

/* Erases the prompt's progress bar before the first token appears. */
static int run_on_token(const ernie_token *token, void *user)
{
    run_state *run = user;
    progress_erase(&run->cli->bar);
    return answer_token(token, &run->answer);
}

static int run_generate(cli_context *cli, run_state *run)
{
    const program_options *options = &cli->options;
    const ernie_sampling sampling = cli_sampling(options);
    const bool chat = options->prompt && !options->raw;
    const bool thinks = chat && cli_model_info(run->model).chat_format == ERNIE_CHAT_THINKING;
    answer_begin(&run->answer, run->model, options->json ? NULL : &cli->out, thinks);
    if (options_given(options, "logprobs")) run->answer.logprobs = json_array();
    run->result.size = (uint32_t)sizeof run->result;
    ernie_error error = { ERNIE_OK, "" };
    interrupt_watch(run->session);
    const ernie_status status =
        run_asks(options) ? ernie_session_ask(run->session, buffer_text(&run->prompt), &sampling,
                                              run_on_token, run, &run->result, &error)
                          : ernie_session_generate(run->session, &sampling, run_on_token, run,
                                                   &run->result, &error);
    interrupt_watch(NULL);
    progress_erase(&cli->bar);
    answer_end(&run->answer);
    if (!options->json && (status == ERNIE_OK || status == ERNIE_CANCELLED)) {
        output_write(&cli->out, "\n", 1);
        output_flush(&cli->out);
    }
    if (cli->out.error) return cli_fail_output(cli);
    if (status == ERNIE_CANCELLED && interrupt_signal())
        return cli_fail(cli, CLI_SIGNAL + interrupt_signal(),
                        "stopped by a signal after %zu token%s", run->answer.ids.n,
                        run->answer.ids.n == 1 ? "" : "s");
    return status == ERNIE_OK ? CLI_OK : cli_fail_error(cli, NULL, &error);
}

/* ---- The report ---------------------------------------------------------------------------- */

static double run_rate(size_t n, double seconds)
{
    return seconds > 0 ? (double)n / seconds : 0;
}

static void run_print_statistics(const cli_context *cli, const run_state *run)
{
    if (cli->options.quiet) return;
    const ernie_result *result = &run->result;
    const size_t n_prompt = run->n_fed + result->n_prompt;
    const double prompt_seconds = run->fed_seconds + result->prompt_seconds;
    fputc('[', stderr);
    if (n_prompt) /* a session that was loaded may go on without one */
        fprintf(stderr, "%zu prompt tokens %.2f s (%.0f t/s) | ", n_prompt, prompt_seconds,
                run_rate(n_prompt, prompt_seconds));
    fprintf(stderr, "%zu tokens %.2f s (%.0f t/s) | stop: %s]\n", result->n_generated,
            result->decode_seconds, run_rate(result->n_generated, result->decode_seconds),
            cli_stop_text(result->stop));
}

static void run_print_json(cli_context *cli, run_state *run)
{
    const ernie_result *result = &run->result;
    const model_answer *answer = &run->answer;
    json_t *ids = json_array();
    for (size_t i = 0; i < answer->ids.n; i++)
        json_array_append_new(ids, json_integer(answer->ids.ids[i]));
    json_t *root = json_object();
    json_object_set_new(root, "ids", ids);
    json_object_set_new(root, "text", json_stringn(buffer_text(&answer->text), answer->text.n));
    if (answer->splits)
        json_object_set_new(root, "reasoning",
                            json_stringn(buffer_text(&answer->reasoning), answer->reasoning.n));
    json_object_set_new(root, "stop", json_string(cli_stop_name(result->stop)));
    const size_t n_prompt = run->n_fed + result->n_prompt;
    json_object_set_new(root, "prompt_tokens", output_count(n_prompt));
    json_object_set_new(root, "generated_tokens", output_count(result->n_generated));
    json_object_set_new(
        root, "prefill_tps",
        output_number(run_rate(n_prompt, run->fed_seconds + result->prompt_seconds)));
    json_object_set_new(root, "decode_tps",
                        output_number(run_rate(result->n_generated, result->decode_seconds)));
    json_object_set_new(root, "seed", output_count(result->seed));
    json_object_set_new(root, "pages", json_string(cli_model_info(run->model).pages));
    if (answer->logprobs) json_object_set(root, "logprobs", answer->logprobs);
    output_json(&cli->out, root);
}

static int run_open(cli_context *cli, run_state *run)
{
    const program_options *options = &cli->options;
    int status = cli_open_model(cli, &run->model);
    if (status == CLI_OK) status = cli_check_ids(cli, run->model);
    if (status == CLI_OK) status = run_make_ids(cli, run);
    uint64_t n_ctx = 0;
    if (status == CLI_OK)
        status = cli_choose_context(cli, run->model, run->ids.n, options->n_tokens, &n_ctx);
    const cli_session wanted = { .n_ctx = n_ctx, .shows_feeding = true, .traced = true };
    if (status == CLI_OK) status = cli_open_session(cli, run->model, &wanted, NULL, &run->session);
    ernie_error error;
    if (status == CLI_OK && options->load_session
        && ernie_session_load(run->session, options->load_session, &error) != ERNIE_OK)
        status = cli_fail_error(cli, options->load_session, &error);
    return status;
}

static int run_save(cli_context *cli, const run_state *run)
{
    const char *path = cli->options.save_session;
    ernie_error error;
    if (!path || ernie_session_save(run->session, path, &error) == ERNIE_OK) return CLI_OK;
    return cli_fail_error(cli, path, &error);
}

int cmd_run(cli_context *cli)
{
    run_state run = { .cli = cli };
    const char *saved = cli->options.save_session;
    int status = run_check_options(cli);
    if (status == CLI_OK && saved) status = cli_check_out(cli, saved);
    if (status == CLI_OK) status = run_read_prompt(cli, &run.prompt);
    if (status == CLI_OK) status = run_open(cli, &run);
    if (status == CLI_OK) status = run_feed(cli, &run);
    if (status == CLI_OK) status = run_generate(cli, &run);
    if (status == CLI_OK) status = run_save(cli, &run);
    if (status == CLI_OK) status = cli_trace_finish(cli);
    if (status == CLI_OK && cli->options.json)
        run_print_json(cli, &run);
    else if (status == CLI_OK)
        run_print_statistics(cli, &run);
    answer_free(&run.answer);
    buffer_free(&run.prompt);
    id_list_free(&run.ids);
    ernie_session_free(run.session);
    ernie_model_close(run.model);
    return status;
}
