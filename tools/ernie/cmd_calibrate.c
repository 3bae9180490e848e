/* ernie calibrate: what the model's linears are fed, measured on documents, for ernie convert. */
#include "cli.h"
#include "documents.h"
#include "interrupt.h"
#include "../convert/calibrate.h"

#include <string.h>

static const double CALIBRATE_MIB = 1024.0 * 1024.0;

/* What was collected is said when all went well: a failure is one line. */
static void calibrate_remember(ernie_log_level level, const char *line, void *user)
{
    (void)level;
    buffer_add_text(user, line);
    buffer_add_text(user, "\n");
}

static void calibrate_show(cli_context *cli, const text_buffer *notes,
                           const ern_calibrate_report *report)
{
    char *line = notes->data;
    for (char *end; line && (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        cli_note(cli, "%s", line);
    }
    if (report->n_experts_rare)
        cli_note(cli,
                 "%u of %u experts got less than %.0f samples (%u of them none) and lean on their "
                 "layer's average: more text would help",
                 report->n_experts_rare, report->n_experts, ERN_CALIBRATE_PRIOR,
                 report->n_experts_unseen);
}

static void calibrate_print(cli_context *cli, const char *out, size_t n_documents,
                            const ern_calibrate_report *report, double seconds)
{
    if (!cli->options.json) {
        output_print(&cli->out, "%s: %.1f MiB from %zu documents, %llu tokens in %.1f s\n", out,
                     (double)report->file_bytes / CALIBRATE_MIB, n_documents,
                     (unsigned long long)report->n_tokens, seconds);
        return;
    }
    json_t *root = json_object();
    json_object_set_new(root, "documents", output_count(n_documents));
    json_object_set_new(root, "tokens", output_count(report->n_tokens));
    json_object_set_new(root, "seconds", output_number(seconds));
    json_object_set_new(root, "bytes", output_count(report->file_bytes));
    json_object_set_new(root, "inputs", output_count(report->n_inputs));
    json_object_set_new(root, "moments_own", output_count(report->n_own));
    json_object_set_new(root, "moments_common", output_count(report->n_common));
    json_object_set_new(root, "squares_only", output_count(report->n_squares));
    json_object_set_new(root, "experts", output_count(report->n_experts));
    json_object_set_new(root, "experts_rare", output_count(report->n_experts_rare));
    json_object_set_new(root, "experts_unseen", output_count(report->n_experts_unseen));
    output_json(&cli->out, root);
}

static int calibrate_run(cli_context *cli, const ernie_model *model, const document_list *texts)
{
    const program_options *o = &cli->options;
    const char *out = o->positional[2];
    atomic_int stop;
    text_buffer notes = { 0 };
    atomic_init(&stop, 0);
    const ern_documents documents = { texts->ids, texts->n_each, texts->n };
    const ern_calibrate_options options = {
        .memory_max = o->memory,
        .common = o->common,
        .diagonal = o->diagonal,
        .cpu = o->cpu,
        .n_threads = o->n_threads,
        .progress = progress_update,
        .progress_user = &cli->bar,
        .stop = &stop,
        .log = { .fn = calibrate_remember, .user = &notes },
    };
    ern_calibrate_report report;
    ernie_error error;
    const double start = progress_clock();
    progress_begin(&cli->bar, PROGRESS_PASSES);
    interrupt_watch_flag(&stop);
    const ernie_status made = ern_calibrate(model, &documents, out, &options, &report, &error);
    interrupt_watch_flag(NULL);
    progress_erase(&cli->bar);
    if (made == ERNIE_OK) {
        calibrate_show(cli, &notes, &report);
        calibrate_print(cli, out, texts->n, &report, progress_clock() - start);
    }
    buffer_free(&notes);
    return made == ERNIE_OK ? CLI_OK : cli_fail_error(cli, NULL, &error);
}

int cmd_calibrate(cli_context *cli)
{
    const char *path = cli->options.positional[1];
    ernie_model *model = NULL;
    document_list texts = { 0 };
    if (cli->options.common && cli->options.diagonal)
        return cli_fail(
            cli, CLI_USAGE,
            "options --common and --diagonal exclude each other: without second moments "
            "there are none to share");
    int status = cli_check_new_out(cli, cli->options.positional[2]);
    if (status == CLI_OK) status = cli_open_model(cli, &model);
    if (status == CLI_OK)
        status = documents_collect(cli, model, documents_tokens_max(model), path, &texts);
    if (status == CLI_OK) status = calibrate_run(cli, model, &texts);
    documents_free(&texts);
    ernie_model_close(model);
    return status;
}
