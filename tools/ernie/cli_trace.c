/* --trace: the choices of a session's experts go to a file. Prompts are told from decoded tokens by
 * how they are fed: the library reports the progress of what is more than one token. */
#include "cli.h"
#include "../convert/trace.h"

static void cli_trace_route(uint32_t layer, uint32_t n_tokens, uint32_t moe_k,
                            const int32_t *experts, const float *weights, void *user)
{
    const cli_trace *trace = user;
    const size_t position = ernie_session_length(trace->session) + trace->n_fed;
    (void)moe_k;
    (void)weights;
    const bool decoded = n_tokens == 1 && trace->n_fed == 0 && !trace->only_prompts;
    ern_trace_out_route(trace->out, (uint32_t)position, decoded, layer, n_tokens, experts);
}

static int cli_trace_progress(const char *what, uint64_t done, uint64_t total, void *user)
{
    cli_trace *trace = user;
    trace->n_fed = done < total ? (size_t)done : 0;
    return trace->progress ? trace->progress(what, done, total, trace->progress_user) : 0;
}

int cli_trace_begin(cli_context *cli, const ernie_model *model, bool only_prompts,
                    ernie_session_options *options)
{
    const char *path = cli->options.trace;
    cli_trace *trace = &cli->trace;
    ernie_error error;
    if (!path) return CLI_OK;
    int status = cli_check_out(cli, path);
    if (status == CLI_OK
        && ern_trace_out_open(&trace->out, path, model, options->n_batch, NULL, &error) != ERNIE_OK)
        status = cli_fail_error(cli, "option --trace", &error);
    if (status != CLI_OK) return status;
    trace->only_prompts = only_prompts;
    trace->progress = options->progress;
    trace->progress_user = options->progress_user;
    options->progress = cli_trace_progress;
    options->progress_user = trace;
    options->route = cli_trace_route;
    options->route_user = trace;
    return CLI_OK;
}

void cli_trace_stopped(cli_context *cli)
{
    cli->trace.n_fed = 0;
}

int cli_trace_finish(cli_context *cli)
{
    ern_trace_out *out = cli->trace.out;
    ernie_error error;
    cli->trace.out = NULL;
    if (!out || ern_trace_out_commit(out, &error) == ERNIE_OK) return CLI_OK;
    return cli_fail_error(cli, cli->options.trace, &error);
}

void cli_trace_abandon(cli_context *cli)
{
    ern_trace_out_abandon(cli->trace.out);
    cli->trace.out = NULL;
}
