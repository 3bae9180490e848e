/* Opening what a command works on: the model, and a session that keeps within --memory. */
#include "bandwidth.h"
#include "buffer.h"
#include "cli.h"
#include "interrupt.h"

#include <string.h>

enum { CLI_CONTEXT_DEFAULT = 4096, CLI_CONTEXT_UNIT = 256 };

static const double CLI_PROBE_SECONDS = 1;

int cli_open_model(cli_context *cli, ernie_model **model)
{
    return cli_open_model_at(cli, cli->options.positional[0], model);
}

static ernie_kv_type cli_kv_type(const cli_context *cli, ernie_kv_type kv)
{
    const char *name = cli->options.kv;
    if (!name) return kv;
    if (strcmp(name, "q8") == 0) return ERNIE_KV_Q8;
    if (strcmp(name, "q4") == 0) return ERNIE_KV_Q4;
    return strcmp(name, "f32") == 0 ? ERNIE_KV_F32 : ERNIE_KV_F16;
}

/* The list of experts as --warm says, by default beside the model where people talk with it; NULL:
 * none. It lies in `text` or on the command line. */
static const char *cli_warm_path(const cli_context *cli, const char *path, text_buffer *text)
{
    const char *given = cli->options.warm;
    const bool talks = (cli->command->shape.bit & (COMMAND_RUN | COMMAND_CHAT)) != 0;
    if (given ? strcmp(given, "none") == 0 : !talks) return NULL;
    if (given) return given;
    buffer_add_text(text, path);
    buffer_add_text(text, ".warm");
    return buffer_text(text);
}

static ernie_stream_options cli_stream(const cli_context *cli)
{
    const program_options *o = &cli->options;
    ernie_stream_options stream = ERNIE_STREAM_OPTIONS_INIT;
    stream.n_readers = o->n_readers;
    stream.buffered = o->buffered;
    stream.look_ahead = o->look_ahead;
    stream.policy =
        o->policy && strcmp(o->policy, "lru") == 0 ? ERNIE_STREAM_LRU : ERNIE_STREAM_LFRU;
    stream.io_limit = (uint64_t)(1e9 * (double)o->io_limit);
    stream.io_latency_us = o->io_latency_us;
    return stream;
}

/* Weights that are to lie somewhere by name are not streamed unless a ceiling is given as well.
 * What makes no session looks into the mapped file, or has a --memory of another meaning. */
static uint64_t cli_ceiling(const cli_context *cli, const char *pages)
{
    const unsigned planned = COMMAND_RUN | COMMAND_CHAT | COMMAND_LOGITS | COMMAND_EVAL
                             | COMMAND_BENCH | COMMAND_PLAN;
    if (!(cli->command->shape.bit & planned)) return ERNIE_MEMORY_UNLIMITED;
    if (cli->options.memory) return cli->options.memory;
    return strcmp(pages, "auto") == 0 ? 0 : ERNIE_MEMORY_UNLIMITED;
}

/* What the library warns of is worth a line; the rest of its log is not. */
static void cli_warn(ernie_log_level level, const char *line, void *user)
{
    cli_context *cli = user;
    if (level != ERNIE_LOG_WARN) return;
    progress_erase(&cli->bar);
    cli_note(cli, "note: %s", line);
}

int cli_open_model_at(cli_context *cli, const char *path, ernie_model **model)
{
    ernie_model_options options = ERNIE_MODEL_OPTIONS_INIT;
    ernie_session_options session = ERNIE_SESSION_OPTIONS_INIT;
    ernie_stream_options stream = cli_stream(cli);
    text_buffer warm = { 0 };
    const char *pages = cli->options.pages ? cli->options.pages : "auto";
    options.no_mmap = strcmp(pages, "read") == 0;
    options.no_copy = strcmp(pages, "mapped") == 0;
    options.memory = cli_ceiling(cli, pages);
    session.n_ctx = cli->options.n_ctx;
    session.kv_type = cli_kv_type(cli, ERNIE_KV_DEFAULT);
    options.session = &session;
    stream.warm_path = cli_warm_path(cli, path, &warm);
    options.stream = &stream;
    options.cpu = cli->options.cpu;
    options.backend = cli->options.backend;
    options.log = cli_warn;
    options.log_user = cli;
    options.progress = progress_update;
    options.progress_user = &cli->bar;
    options.cancel = interrupt_flag();
    ernie_error error;
    progress_begin(&cli->bar, PROGRESS_BYTES);
    const ernie_status status = ernie_model_open(model, path, &options, &error);
    buffer_free(&warm);
    if (status != ERNIE_OK) return cli_fail_error(cli, path, &error);
    progress_erase(&cli->bar);
    return CLI_OK;
}

ernie_model_info cli_model_info(const ernie_model *model)
{
    ernie_model_info info = { .size = (uint32_t)sizeof info };
    ernie_model_get_info(model, &info);
    return info;
}

size_t cli_logits_piece(size_t n_vocab)
{
    enum { PIECE_BYTES = 64 * 1024 * 1024, PIECE_MAX = 512 };
    const size_t n = PIECE_BYTES / sizeof(float) / (n_vocab ? n_vocab : 1);
    return n < 1 ? 1 : n > PIECE_MAX ? PIECE_MAX : n;
}

int cli_choose_context(cli_context *cli, const ernie_model *model, size_t n_prompt, uint64_t n_new,
                       uint64_t *n_ctx)
{
    const uint64_t limit = cli_model_info(model).context_max;
    const bool given = options_given(&cli->options, "ctx");
    uint64_t n = cli->options.n_ctx;
    if (!given) {
        n = (uint64_t)n_prompt + n_new + CLI_CONTEXT_UNIT - 1;
        n -= n % CLI_CONTEXT_UNIT;
        if (n < CLI_CONTEXT_DEFAULT) n = CLI_CONTEXT_DEFAULT;
        if (n > limit) n = limit;
    }
    if (n > limit)
        return cli_fail(cli, CLI_FAILED, "option --ctx: %llu tokens, the model's limit is %llu",
                        (unsigned long long)n, (unsigned long long)limit);
    if (n_prompt > n)
        return cli_fail(cli, CLI_FAILED, "the prompt has %zu tokens, the context holds %llu%s",
                        n_prompt, (unsigned long long)n,
                        given ? " (option --ctx)" : ", the model's limit");
    *n_ctx = n;
    return CLI_OK;
}

static ernie_session_options cli_session_options(cli_context *cli, const cli_session *wanted)
{
    ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
    options.n_ctx = wanted->n_ctx <= UINT32_MAX ? (uint32_t)wanted->n_ctx : UINT32_MAX;
    options.n_threads = cli->options.n_threads;
    options.kv_type = cli_kv_type(cli, wanted->kv);
    options.progress = wanted->shows_feeding ? progress_update : NULL;
    options.progress_user = &cli->bar;
    options.n_batch = wanted->n_batch;
    return options;
}

int cli_plan_session(cli_context *cli, const ernie_model *model, const cli_session *wanted,
                     ernie_memory *memory)
{
    const ernie_session_options options = cli_session_options(cli, wanted);
    ernie_error error;
    *memory = (ernie_memory){ .size = (uint32_t)sizeof *memory };
    if (ernie_session_plan(model, &options, memory, &error) == ERNIE_OK) return CLI_OK;
    return cli_fail_error(cli, NULL, &error);
}

int cli_open_session(cli_context *cli, const ernie_model *model, const cli_session *wanted,
                     ernie_memory *memory, ernie_session **session)
{
    ernie_session_options options = cli_session_options(cli, wanted);
    ernie_memory plan;
    ernie_error error;
    const int planned = cli_plan_session(cli, model, wanted, &plan);
    if (planned != CLI_OK) return planned;
    if (wanted->traced) {
        options.n_batch = plan.n_batch; /* the trace has room for as many */
        const int status = cli_trace_begin(cli, model, wanted->only_prompts, &options);
        if (status != CLI_OK) return status;
    }
    if (ernie_session_create(session, model, &options, &error) != ERNIE_OK)
        return cli_fail_error(cli, NULL, &error);
    if (wanted->traced) cli->trace.session = *session;
    progress_begin(&cli->bar, PROGRESS_TOKENS);
    if (memory) *memory = plan;
    return CLI_OK;
}

int cli_disk_rate(cli_context *cli, const ernie_model *model, double *rate)
{
    ernie_error error;
    *rate = 1e9 * (double)cli->options.io_limit;
    if (*rate > 0) return CLI_OK;
    if (ernie_model_read_rate(model, CLI_PROBE_SECONDS, interrupt_flag(), rate, &error) == ERNIE_OK)
        return CLI_OK;
    return cli_fail_error(cli, cli->options.positional[0], &error);
}

double cli_memory_rate(const ernie_memory *plan)
{
    const uint64_t held = plan->held_bytes, ceiling = plan->ceiling_bytes;
    return bandwidth_measure(plan->n_threads, ceiling > held ? ceiling - held : 0);
}

/* ---- Two models ------------------------------------------------------------------------------ */

/* The first token that two models of as many tokens do not share; -1: they share all. */
static int32_t cli_token_apart(const ernie_model *a, const ernie_model *b, uint32_t n_tokens)
{
    for (uint32_t id = 0; id < n_tokens; id++) {
        size_t n_a, n_b;
        const char *piece_a = ernie_token_piece(a, (int32_t)id, &n_a);
        const char *piece_b = ernie_token_piece(b, (int32_t)id, &n_b);
        if (!piece_a || !piece_b || n_a != n_b || memcmp(piece_a, piece_b, n_a) != 0)
            return (int32_t)id;
    }
    return -1;
}

int cli_check_vocabulary(cli_context *cli, const char *what, const ernie_model *model,
                         const ernie_model *other, const char *path)
{
    const ernie_model_info info = cli_model_info(model), base = cli_model_info(other);
    if (info.vocab_size != base.vocab_size || info.n_tokens != base.n_tokens)
        return cli_fail(cli, CLI_FAILED,
                        "%s: %s has a vocabulary of %u rows for %u tokens, the model one of %u for "
                        "%u",
                        what, path, base.vocab_size, base.n_tokens, info.vocab_size, info.n_tokens);
    const int32_t id = cli_token_apart(model, other, info.n_tokens);
    if (id < 0) return CLI_OK;
    const char *theirs = ernie_token_piece(other, id, NULL);
    const char *ours = ernie_token_piece(model, id, NULL);
    return cli_fail(cli, CLI_FAILED,
                    "%s: %s has another vocabulary: token %d is \"%.40s\" there and \"%.40s\" in "
                    "the model",
                    what, path, (int)id, theirs ? theirs : "", ours ? ours : "");
}
