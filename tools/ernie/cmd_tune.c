/* ernie tune: the norms of a model of few bits, refitted to what its base makes of documents. */
#include "cli.h"
#include "documents.h"
#include "interrupt.h"
#include "../convert/tune.h"

static const double TUNE_MIB = 1024.0 * 1024.0;

static void tune_print(cli_context *cli, const char *out, size_t n_documents,
                       const ern_tune_report *report, double seconds)
{
    if (!cli->options.json) {
        output_print(&cli->out,
                     "%s: %.1f MiB, %u norms from %zu documents, %llu tokens in %.1f s\n", out,
                     (double)report->file_bytes / TUNE_MIB, report->n_norms, n_documents,
                     (unsigned long long)report->n_tokens, seconds);
        return;
    }
    json_t *root = json_object();
    json_object_set_new(root, "documents", output_count(n_documents));
    json_object_set_new(root, "tokens", output_count(report->n_tokens));
    json_object_set_new(root, "seconds", output_number(seconds));
    json_object_set_new(root, "bytes", output_count(report->file_bytes));
    json_object_set_new(root, "norms", output_count(report->n_norms));
    json_object_set_new(root, "factor_mean", output_number(report->factor_mean));
    json_object_set_new(root, "factor_min", output_number(report->factor_min));
    json_object_set_new(root, "factor_max", output_number(report->factor_max));
    json_object_set_new(root, "clamped", output_count(report->n_clamped));
    json_object_set_new(root, "scale", output_number(report->scale));
    json_object_set_new(root, "kl_norms", output_number(report->kl_norms));
    json_object_set_new(root, "kl_expected", output_number(report->kl_expected));
    output_json(&cli->out, root);
}

static void tune_say(cli_context *cli, const ern_tune_report *report)
{
    cli_note(cli, "factors %.3f to %.3f, on average %.3f; all logits times %.3f",
             report->factor_min, report->factor_max, report->factor_mean, report->scale);
    if (report->n_clamped)
        cli_note(cli,
                 "%u of %u factors were held within 0.5 and 1.5: is BASE what MODEL was made "
                 "from?",
                 report->n_clamped, report->n_factors);
}

static int tune_run(cli_context *cli, const ernie_model *model, const ernie_model *base,
                    const document_list *texts)
{
    const char *out = cli->options.positional[3];
    atomic_int stop;
    atomic_init(&stop, 0);
    const ern_documents documents = { texts->ids, texts->n_each, texts->n };
    const ern_tune_options options = { .n_threads = cli->options.n_threads,
                                       .progress = progress_update,
                                       .progress_user = &cli->bar,
                                       .stop = &stop };
    ern_tune_report report;
    ernie_error error;
    const double start = progress_clock();
    progress_begin(&cli->bar, PROGRESS_PASSES);
    interrupt_watch_flag(&stop);
    const ernie_status made = ern_tune(model, base, &documents, out, &options, &report, &error);
    interrupt_watch_flag(NULL);
    progress_erase(&cli->bar);
    if (made != ERNIE_OK) return cli_fail_error(cli, NULL, &error);
    tune_say(cli, &report);
    tune_print(cli, out, texts->n, &report, progress_clock() - start);
    return CLI_OK;
}

/* Both models, which must match before a document is read. */
static int tune_open(cli_context *cli, ernie_model **model, ernie_model **base)
{
    const char *base_path = cli->options.positional[1];
    ernie_error error;
    int status = cli_open_model(cli, model);
    if (status == CLI_OK) status = cli_open_model_at(cli, base_path, base);
    if (status == CLI_OK) status = cli_check_vocabulary(cli, "BASE", *model, *base, base_path);
    if (status == CLI_OK && ern_tune_check(*model, *base, &error) != ERNIE_OK)
        status = cli_fail_error(cli, base_path, &error);
    return status;
}

int cmd_tune(cli_context *cli)
{
    ernie_model *model = NULL, *base = NULL;
    document_list texts = { 0 };
    int status = cli_check_new_out(cli, cli->options.positional[3]);
    if (status == CLI_OK) status = tune_open(cli, &model, &base);
    if (status == CLI_OK) {
        const size_t a = documents_tokens_max(model), b = documents_tokens_max(base);
        status = documents_collect(cli, model, a < b ? a : b, cli->options.positional[2], &texts);
    }
    if (status == CLI_OK) status = tune_run(cli, model, base, &texts);
    documents_free(&texts);
    ernie_model_close(model);
    ernie_model_close(base);
    return status;
}
