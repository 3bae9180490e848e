/* Lines of JSON become documents of tokens. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "documents.h"
#include "interrupt.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct documents {
    cli_context *cli;
    const ernie_model *model;
    const char *path, *what;
    document_fn fn;
    void *user;
    size_t n_max;
    id_list ids; /* of one document */
    uint64_t n_skipped, n;
} documents;

size_t documents_tokens_max(const ernie_model *model)
{
    const uint32_t limit = cli_model_info(model).context_max;
    return limit < DOCUMENTS_TOKENS_MAX ? limit : DOCUMENTS_TOKENS_MAX;
}

/* A line of the file: tokenize its text and hand it over. */
static int documents_line(documents *d, const char *line, size_t n_line, size_t number)
{
    json_error_t json_error;
    json_t *root = json_loadb(line, n_line, 0, &json_error);
    const json_t *text = json_object_get(root, "text");
    ernie_error error;
    int status = CLI_OK;
    if (!root)
        status = cli_fail(d->cli, CLI_FAILED, "%s: line %zu is not JSON: %s", d->path, number,
                          json_error.text);
    else if (!json_is_string(text))
        status =
            cli_fail(d->cli, CLI_FAILED, "%s: line %zu has no \"text\", expected {\"text\": ...}",
                     d->path, number);
    else if (cli_tokenize(d->model, json_string_value(text), json_string_length(text),
                          ERNIE_TOKENIZE_SPECIAL, &d->ids, &error)
             != ERNIE_OK)
        status = cli_fail_error(d->cli, d->cli->options.positional[0], &error);
    json_decref(root);
    if (status != CLI_OK) return status;
    d->n++;
    return d->fn(d->ids.ids, d->ids.n < d->n_max ? d->ids.n : d->n_max, d->user);
}

/* The bar goes by bytes of the file, or by documents when a limit says how many there will be. */
static int documents_progress(documents *d, uint64_t n_read, uint64_t n_bytes)
{
    const uint64_t limit = d->cli->options.n_limit;
    const int stop = limit ? progress_update(d->what, d->n, limit, &d->cli->bar)
                           : progress_update(d->what, n_read, n_bytes, &d->cli->bar);
    if (!stop) return CLI_OK;
    return cli_fail(d->cli, CLI_SIGNAL + interrupt_signal(), "stopped by a signal");
}

static int documents_lines(documents *d, FILE *file, uint64_t n_bytes)
{
    const uint64_t limit = d->cli->options.n_limit;
    char *line = NULL;
    size_t capacity = 0, number = 0;
    uint64_t n_read = 0;
    int status = documents_progress(d, 0, n_bytes); /* the clock starts before the first document */
    while (status == CLI_OK && !(limit && d->n == limit)) {
        const ssize_t n = getline(&line, &capacity, file);
        if (n < 0) break;
        number++;
        n_read += (uint64_t)n;
        if (strspn(line, " \t\r\n") == (size_t)n) continue;
        if (d->n_skipped < d->cli->options.n_skip) {
            d->n_skipped++;
            continue;
        }
        status = documents_line(d, line, (size_t)n, number);
        if (status == CLI_OK) status = documents_progress(d, n_read, n_bytes);
    }
    if (status == CLI_OK && ferror(file))
        status = cli_fail(d->cli, CLI_FAILED, "%s: cannot be read: %s", d->path, strerror(errno));
    free(line);
    return status;
}

int documents_read(cli_context *cli, const ernie_model *model, size_t n_max, const char *path,
                   const char *what, document_fn fn, void *user, uint64_t *n_documents)
{
    file_error error;
    struct stat info = { 0 };
    documents d = { .cli = cli,
                    .model = model,
                    .path = path,
                    .what = what,
                    .fn = fn,
                    .user = user,
                    .n_max = n_max };
    const int descriptor = file_open_reading(path, &error);
    if (descriptor < 0) return cli_fail(cli, CLI_FAILED, "%s: %s", path, error.reason);
    FILE *file = fdopen(descriptor, "rb");
    if (!file || fstat(descriptor, &info) != 0) {
        const int reason = errno;
        file ? (void)fclose(file) : (void)close(descriptor);
        return cli_fail(cli, CLI_FAILED, "%s: cannot be read: %s", path, strerror(reason));
    }
    progress_begin(&cli->bar, cli->options.n_limit ? PROGRESS_DOCUMENTS : PROGRESS_BYTES);
    const int status = documents_lines(&d, file, (uint64_t)info.st_size);
    progress_erase(&cli->bar);
    fclose(file);
    id_list_free(&d.ids);
    *n_documents = d.n;
    return status;
}

/* ---- All of them ----------------------------------------------------------------------------- */

static int documents_add(const int32_t *ids, size_t n, void *user)
{
    document_list *list = user;
    while (list->ids_capacity - list->n_ids < n) {
        list->ids_capacity = list->ids_capacity ? 2 * list->ids_capacity : 65536;
        list->ids = memory_resize(list->ids, list->ids_capacity, sizeof *list->ids);
    }
    if (list->n == list->capacity) {
        list->capacity = list->capacity ? 2 * list->capacity : 256;
        list->n_each = memory_resize(list->n_each, list->capacity, sizeof *list->n_each);
    }
    if (n) memcpy(list->ids + list->n_ids, ids, n * sizeof *ids);
    list->n_ids += n;
    list->n_each[list->n++] = (uint32_t)n;
    return CLI_OK;
}

int documents_collect(cli_context *cli, const ernie_model *model, size_t n_max, const char *path,
                      document_list *list)
{
    uint64_t n_documents = 0;
    const int status =
        documents_read(cli, model, n_max, path, "reading", documents_add, list, &n_documents);
    if (status != CLI_OK || list->n_ids > 0) return status;
    return cli_fail(cli, CLI_FAILED, "%s: nothing to learn from, expected a document", path);
}

void documents_free(document_list *list)
{
    free(list->ids);
    free(list->n_each);
}
