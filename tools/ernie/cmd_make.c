/* ernie convert, export and synth: the commands that write model files. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "buffer.h"
#include "cli.h"
#include "interrupt.h"
#include "../convert/convert.h"
#include "../convert/export.h"
#include "../convert/synth.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static const double MAKE_MIB = 1024.0 * 1024.0;

/* A preset is a choice of types. */
static int make_check_types(cli_context *cli)
{
    const program_options *options = &cli->options;
    if (!options->type || !options->preset) return CLI_OK;
    return cli_fail(cli, CLI_USAGE, "options --type %s and --preset %s exclude each other",
                    options->type, options->preset);
}

/* "OUT: 26.0 MiB from 78.1 MiB in 2.3 s", without the source where there is none. */
static int make_report(cli_context *cli, const char *path, uint64_t n_source, double seconds)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return cli_fail(cli, CLI_FAILED, "%s: cannot be opened: %s", path, strerror(errno));
    char from[48] = "";
    if (n_source) snprintf(from, sizeof from, " from %.1f MiB", (double)n_source / MAKE_MIB);
    output_print(&cli->out, "%s: %.1f MiB%s in %.1f s\n", path, (double)info.st_size / MAKE_MIB,
                 from, seconds);
    return CLI_OK;
}

/* The progress bar, and the size of what is read, which only the progress tells. */
typedef struct make_progress {
    progress *bar;
    uint64_t total;
} make_progress;

static int make_update(const char *what, uint64_t done, uint64_t total, void *user)
{
    make_progress *state = user;
    if (total > state->total) state->total = total;
    return progress_update(what, done, total, state->bar);
}

/* Keep what the converter settled by itself and the user should know, a line each: shown only
 * when the conversion succeeds, since a failure is one line. */
static void make_remember(ernie_log_level level, const char *line, void *user)
{
    text_buffer *notes = user;
    if (level < ERNIE_LOG_WARN) return;
    buffer_add_text(notes, line);
    buffer_add_text(notes, "\n");
}

static void make_show(cli_context *cli, char *notes)
{
    for (char *line = notes, *end; line && (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        cli_note(cli, "%s", line);
    }
}

/* The sentence is led by the input's path unless it is about the output or the statistics. */
static int make_fail(cli_context *cli, const char *source, const char *out,
                     const ernie_error *error)
{
    const char *const others[] = { out, cli->options.imatrix };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (others[i] && strncmp(error->message, others[i], strlen(others[i])) == 0)
            source = others[i];
    return cli_fail_error(cli, source, error);
}

int cmd_convert(cli_context *cli)
{
    const program_options *options = &cli->options;
    const char *source = options->positional[0], *out = options->positional[1];
    int status = make_check_types(cli);
    if (status == CLI_OK) status = cli_check_new_out(cli, out);
    if (status != CLI_OK) return status;
    make_progress state = { .bar = &cli->bar };
    text_buffer notes = { 0 };
    const ern_convert_options convert = {
        .type = options->preset ? options->preset : options->type,
        .imatrix = options->imatrix,
        .fast = options->fast,
        .chat = options->chat,
        .name = options->name,
        .n_threads = options->n_threads,
        .log = { .fn = make_remember, .user = &notes },
        .progress = make_update,
        .progress_user = &state,
        .cancel = interrupt_flag(),
    };
    const double start = progress_clock();
    ernie_error error;
    progress_begin(&cli->bar, PROGRESS_BYTES);
    const ernie_status made = ern_convert(source, out, &convert, &error);
    if (made == ERNIE_OK) make_show(cli, notes.data);
    buffer_free(&notes);
    if (made != ERNIE_OK) return make_fail(cli, source, out, &error);
    progress_erase(&cli->bar);
    return make_report(cli, out, state.total, progress_clock() - start);
}

int cmd_export(cli_context *cli)
{
    const program_options *options = &cli->options;
    const char *model = options->positional[0], *out = options->positional[1];
    const int status = cli_check_new_out(cli, out);
    if (status != CLI_OK) return status;
    text_buffer notes = { 0 };
    const ern_export_options export = {
        .type = options->type,
        .n_threads = options->n_threads,
        .log = { .fn = make_remember, .user = &notes },
        .progress = progress_update,
        .progress_user = &cli->bar,
        .cancel = interrupt_flag(),
    };
    const double start = progress_clock();
    ernie_error error;
    progress_begin(&cli->bar, PROGRESS_BYTES);
    const ernie_status made = ern_export(model, out, &export, &error);
    if (made == ERNIE_OK) make_show(cli, notes.data);
    buffer_free(&notes);
    if (made != ERNIE_OK) return make_fail(cli, model, out, &error);
    progress_erase(&cli->bar);
    return make_report(cli, out, 0, progress_clock() - start);
}

int cmd_synth(cli_context *cli)
{
    const program_options *options = &cli->options;
    const char *out = options->positional[0];
    if (!options->shape)
        return cli_fail(cli, CLI_USAGE,
                        "option --shape is missing, expected 21b, 300b, 0.3b or demo");
    int status = make_check_types(cli);
    if (status == CLI_OK) status = cli_check_new_out(cli, out);
    if (status != CLI_OK) return status;
    const ern_synth_options synth = {
        .shape = options->shape,
        .n_layers = options->n_layers,
        .type = options->preset ? options->preset : options->type,
        .n_threads = options->n_threads,
        .progress = progress_update,
        .progress_user = &cli->bar,
        .cancel = interrupt_flag(),
    };
    const double start = progress_clock();
    ernie_error error;
    progress_begin(&cli->bar, PROGRESS_BYTES);
    if (ern_synth(out, &synth, &error) != ERNIE_OK) return cli_fail_error(cli, NULL, &error);
    progress_erase(&cli->bar);
    return make_report(cli, out, 0, progress_clock() - start);
}
