/* What every command of the program shares: its options, its checked output, its progress bar, and
 * the one way to fail. A command is a function from this to an exit status.
 *
 * The rule that the callers of the program rely on: status 0, or another status and exactly one line
 * on standard error. cli_fail prints that line, the first time only. The one exception is a reader
 * of standard output that has gone away: status 141 and no line, as of other programs. */
#ifndef ERNIE_CLI_H
#define ERNIE_CLI_H

#include "../../ernie.h"
#include "buffer.h"
#include "options.h"
#include "output.h"
#include "progress.h"

enum {
    CLI_OK = 0,
    CLI_FAILED = 1,
    CLI_USAGE = 2,
    CLI_SIGNAL = 128 /* plus the number of the signal */
};

typedef struct cli_context cli_context;
struct ern_trace_out;

typedef struct cli_command {
    command_shape shape;
    int (*run)(cli_context *cli);
    const char *arguments; /* of the usage line, behind the name */
    const char *summary;   /* one line of the overview */
    const char *details;   /* the help's text between usage and options */
} cli_command;

/* A trace under way (cli_trace.c). */
typedef struct cli_trace {
    struct ern_trace_out *out; /* NULL: none */
    const ernie_session *session;
    bool only_prompts;
    size_t n_fed;               /* tokens of the prompt under way before the present batch */
    ernie_progress_fn progress; /* the session's own */
    void *progress_user;
} cli_trace;

struct cli_context {
    const cli_command *command; /* NULL before it is known */
    program_options options;
    output out;
    progress bar;
    cli_trace trace;
    bool failed;
};

/* The commands, ended by one without a name (main.c). */
extern const cli_command cli_commands[];

/* Print "ernie COMMAND: sentence" as one line, control characters and broken UTF-8 replaced. Returns
 * the status, so that a command can return cli_fail(...). */
int cli_fail(cli_context *cli, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Say something about a command that succeeds, in the same form; nothing with --quiet. */
void cli_note(cli_context *cli, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Fail with the library's sentence, which is led by `what` (a path) unless it names that itself. */
int cli_fail_error(cli_context *cli, const char *what, const ernie_error *error);

/* Fail because standard output could not be written; without a line when nobody reads it any more. */
int cli_fail_output(cli_context *cli);

/* Before work begins whose result is to be written to `path`: fail when that is a directory, or when
 * the folder around it is missing or closed. */
int cli_check_out(cli_context *cli, const char *path);

/* The same for what only --force may replace. */
int cli_check_new_out(cli_context *cli, const char *path);

/* ---- Models and sessions (cli_model.c) ----------------------------------------------------- */

/* Open the model named by the first argument, as --cpu says. The caller closes it. */
int cli_open_model(cli_context *cli, ernie_model **model);
int cli_open_model_at(cli_context *cli, const char *path, ernie_model **model); /* another one */

/* What a command wants of its session, beside what --kv, --threads and --memory say. */
typedef struct cli_session {
    uint64_t n_ctx;
    ernie_kv_type kv;   /* where --kv does not speak */
    bool shows_feeding; /* the bar moves while a prompt is fed; otherwise it is the command's own */
    bool traced;        /* it is the one that --trace means */
    bool only_prompts;  /* a token fed alone is not decoded either */
} cli_session;

/* Create a session. `memory`, which may be NULL, receives the plan. */
int cli_open_session(cli_context *cli, const ernie_model *model, const cli_session *wanted,
                     ernie_memory *memory, ernie_session **session);

/* The context for a prompt of n_prompt tokens and n_new more: --ctx if given, else enough for both
 * within the model's limit and at least 4096 or that limit. Fails when the prompt cannot fit. */
int cli_choose_context(cli_context *cli, const ernie_model *model, size_t n_prompt, uint64_t n_new,
                       uint64_t *n_ctx);

ernie_model_info cli_model_info(const ernie_model *model);

/* Fail, led by `what`, unless `other`, the model in the file at `path`, has the same vocabulary. */
int cli_check_vocabulary(cli_context *cli, const char *what, const ernie_model *model,
                         const ernie_model *other, const char *path);

/* How many positions of n_vocab logits to ask for at once: 1 .. 512, in about 64 MiB. */
size_t cli_logits_piece(size_t n_vocab);

/* ---- The trace of --trace (cli_trace.c) ---------------------------------------------------- */

/* Without the option these do nothing. */

/* Open the trace; the session that is made with *options, n_batch given, fills it. */
int cli_trace_begin(cli_context *cli, const ernie_model *model, bool only_prompts,
                    ernie_session_options *options);

/* A prompt was stopped: what comes next does not go on with it. */
void cli_trace_stopped(cli_context *cli);

/* Give the file its name: when all has gone well, and before the result is printed. */
int cli_trace_finish(cli_context *cli);

/* Leave no file, if there is one under way. */
void cli_trace_abandon(cli_context *cli);

/* ---- Text and ids (cli_text.c) ------------------------------------------------------------- */

/* Fail when an id in --ids, --stop-id or --logit-bias is not one of the model's. */
int cli_check_ids(cli_context *cli, const ernie_model *model);

ernie_status cli_tokenize(const ernie_model *model, const char *text, size_t n,
                          ernie_tokenize_mode mode, id_list *ids, ernie_error *error);
ernie_status cli_chat_tokenize(const ernie_model *model, const ernie_message *messages, size_t n,
                               id_list *ids, ernie_error *error);
ernie_status cli_detokenize(const ernie_model *model, const int32_t *ids, size_t n,
                            bool with_special, text_buffer *text, ernie_error *error);

/* ---- Sampling (cli_sampling.c) ------------------------------------------------------------- */

/* Sampling as the options say; its arrays live in the options. The seed is chosen here where the
 * options leave it open, so that it can be reported. */
ernie_sampling cli_sampling(const program_options *options);

const char *cli_stop_text(ernie_stop stop); /* for people: "end of turn" */
const char *cli_stop_name(ernie_stop stop); /* for JSON: "end" */

/* ---- The help (help.c) --------------------------------------------------------------------- */

void help_print_overview(output *out);
void help_print_command(output *out, const cli_command *command);

/* ---- The commands -------------------------------------------------------------------------- */

int cmd_run(cli_context *cli);
int cmd_chat(cli_context *cli);
int cmd_convert(cli_context *cli);
int cmd_synth(cli_context *cli);
int cmd_export(cli_context *cli);
int cmd_info(cli_context *cli);
int cmd_verify(cli_context *cli);
int cmd_logits(cli_context *cli);
int cmd_tokenize(cli_context *cli);
int cmd_detokenize(cli_context *cli);
int cmd_eval(cli_context *cli);
int cmd_bench(cli_context *cli);
int cmd_calibrate(cli_context *cli);
int cmd_tune(cli_context *cli);
int cmd_replay(cli_context *cli);

#endif
