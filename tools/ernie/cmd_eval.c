/* ernie eval: how well the model predicts text it is given, as the mean negative log-likelihood of a
 * token. Every document starts from an empty session. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "cli.h"
#include "interrupt.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { EVAL_TOKENS_MAX = 1024 }; /* of a document; what follows is not scored */

typedef struct eval_state {
    cli_context *cli;
    const char *path;
    ernie_model *model;
    ernie_session *session;
    size_t n_vocab, n_document_max, piece_max;
    float *logits; /* [piece_max][n_vocab] */
    id_list ids;   /* of one document */
    uint64_t n_documents, n_tokens;
    double nll;
} eval_state;

/* -log of the softmax of logits [n] at `id`. Padding rows are -infinity and add nothing. */
static double eval_nll(const float *logits, size_t n, int32_t id)
{
    float largest = -INFINITY;
    for (size_t i = 0; i < n; i++)
        if (logits[i] > largest) largest = logits[i];
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)expf(logits[i] - largest);
    return log(sum) + (double)largest - (double)logits[id];
}

/* The last token is predicted and not fed. */
static int eval_score(eval_state *eval)
{
    const size_t n = eval->ids.n < eval->n_document_max ? eval->ids.n : eval->n_document_max;
    const int32_t *ids = eval->ids.ids;
    ernie_error error;
    ernie_status status = ernie_session_rewind(eval->session, 0, &error);
    for (size_t at = 0; at + 1 < n && status == ERNIE_OK; at += eval->piece_max) {
        const size_t rest = n - 1 - at;
        const size_t n_piece = rest < eval->piece_max ? rest : eval->piece_max;
        status = ernie_session_feed_logits(eval->session, ids + at, n_piece, eval->logits, &error);
        for (size_t i = 0; i < n_piece && status == ERNIE_OK; i++)
            eval->nll += eval_nll(eval->logits + i * eval->n_vocab, eval->n_vocab, ids[at + i + 1]);
    }
    if (status != ERNIE_OK) return cli_fail_error(eval->cli, NULL, &error);
    eval->n_documents++;
    if (n) eval->n_tokens += n - 1;
    return CLI_OK;
}

/* A line of the file: tokenize its text and score it. */
static int eval_line(eval_state *eval, const char *line, size_t n_line, size_t number)
{
    json_error_t json_error;
    json_t *root = json_loadb(line, n_line, 0, &json_error);
    const json_t *text = json_object_get(root, "text");
    ernie_error error;
    int status = CLI_OK;
    if (!root)
        status = cli_fail(eval->cli, CLI_FAILED, "%s: line %zu is not JSON: %s", eval->path, number,
                          json_error.text);
    else if (!json_is_string(text))
        status =
            cli_fail(eval->cli, CLI_FAILED,
                     "%s: line %zu has no \"text\", expected {\"text\": ...}", eval->path, number);
    else if (cli_tokenize(eval->model, json_string_value(text), json_string_length(text),
                          ERNIE_TOKENIZE_SPECIAL, &eval->ids, &error)
             != ERNIE_OK)
        status = cli_fail_error(eval->cli, eval->cli->options.positional[0], &error);
    json_decref(root);
    return status == CLI_OK ? eval_score(eval) : status;
}

/* The bar goes by bytes of the file, or by documents when a limit says how many there will be. */
static int eval_progress(eval_state *eval, uint64_t n_read, uint64_t n_bytes)
{
    const uint64_t limit = eval->cli->options.n_limit;
    const int stop = limit ? progress_update("scoring", eval->n_documents, limit, &eval->cli->bar)
                           : progress_update("scoring", n_read, n_bytes, &eval->cli->bar);
    if (!stop) return CLI_OK;
    return cli_fail(eval->cli, CLI_SIGNAL + interrupt_signal(), "stopped by a signal");
}

static int eval_lines(eval_state *eval, FILE *file, uint64_t n_bytes)
{
    const uint64_t limit = eval->cli->options.n_limit;
    char *line = NULL;
    size_t capacity = 0, number = 0;
    uint64_t n_read = 0;
    int status = eval_progress(eval, 0, n_bytes); /* the clock starts before the first document */
    while (status == CLI_OK && !(limit && eval->n_documents == limit)) {
        const ssize_t n = getline(&line, &capacity, file);
        if (n < 0) break;
        number++;
        n_read += (uint64_t)n;
        if (strspn(line, " \t\r\n") == (size_t)n) continue;
        status = eval_line(eval, line, (size_t)n, number);
        if (status == CLI_OK) status = eval_progress(eval, n_read, n_bytes);
    }
    if (status == CLI_OK && ferror(file))
        status =
            cli_fail(eval->cli, CLI_FAILED, "%s: cannot be read: %s", eval->path, strerror(errno));
    free(line);
    return status;
}

static int eval_file(eval_state *eval)
{
    file_error error;
    struct stat info = { 0 };
    const int descriptor = file_open_reading(eval->path, &error);
    if (descriptor < 0) return cli_fail(eval->cli, CLI_FAILED, "%s: %s", eval->path, error.reason);
    FILE *file = fdopen(descriptor, "rb");
    if (!file || fstat(descriptor, &info) != 0) {
        const int reason = errno;
        file ? (void)fclose(file) : (void)close(descriptor);
        return cli_fail(eval->cli, CLI_FAILED, "%s: cannot be read: %s", eval->path,
                        strerror(reason));
    }
    progress_begin(&eval->cli->bar,
                   eval->cli->options.n_limit ? PROGRESS_DOCUMENTS : PROGRESS_BYTES);
    interrupt_watch(eval->session);
    int status = eval_lines(eval, file, (uint64_t)info.st_size);
    interrupt_watch(NULL);
    progress_erase(&eval->cli->bar);
    fclose(file);
    if (status == CLI_OK && eval->n_tokens == 0)
        status =
            cli_fail(eval->cli, CLI_FAILED,
                     "%s: nothing to score, expected a document of two tokens or more", eval->path);
    return status;
}

static int eval_open(eval_state *eval)
{
    int status = cli_open_model(eval->cli, &eval->model);
    if (status != CLI_OK) return status;
    const ernie_model_info info = cli_model_info(eval->model);
    eval->n_vocab = info.vocab_size;
    eval->n_document_max = info.context_max < EVAL_TOKENS_MAX ? info.context_max : EVAL_TOKENS_MAX;
    eval->piece_max = cli_logits_piece(eval->n_vocab);
    eval->logits = memory_resize(NULL, eval->piece_max * eval->n_vocab, sizeof *eval->logits);
    const cli_session wanted = { .n_ctx = eval->n_document_max };
    return cli_open_session(eval->cli, eval->model, &wanted, NULL, &eval->session);
}

int cmd_eval(cli_context *cli)
{
    eval_state eval = { .cli = cli, .path = cli->options.positional[1] };
    int status = eval_open(&eval);
    if (status == CLI_OK) status = eval_file(&eval);
    if (status == CLI_OK) {
        json_t *root = json_object();
        json_object_set_new(root, "documents", output_count(eval.n_documents));
        json_object_set_new(root, "tokens", output_count(eval.n_tokens));
        json_object_set_new(root, "nll_per_token", output_number(eval.nll / (double)eval.n_tokens));
        output_json(&cli->out, root);
    }
    free(eval.logits);
    id_list_free(&eval.ids);
    ernie_session_free(eval.session);
    ernie_model_close(eval.model);
    return status;
}
