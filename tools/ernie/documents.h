/* A file of documents, one JSON object {"text": ...} a line, as eval, calibrate and tune read it:
 * special tokens in the text count, only the first 1024 tokens of a document are looked at, --skip
 * and --limit choose. */
#ifndef ERNIE_DOCUMENTS_H
#define ERNIE_DOCUMENTS_H

#include "cli.h"

enum { DOCUMENTS_TOKENS_MAX = 1024 };

/* One document: ids [n]; returns an exit status, CLI_OK to go on. */
typedef int (*document_fn)(const int32_t *ids, size_t n, void *user);

/* Tokens of a document that are looked at. */
size_t documents_tokens_max(const ernie_model *model);

/* Call fn for each document of the file at `path` in turn, with its first n_max tokens; `what` is
 * for the progress bar. Fails when the file cannot be read or a line of it is no document.
 * *n_documents: those that fn was called for. */
int documents_read(cli_context *cli, const ernie_model *model, size_t n_max, const char *path,
                   const char *what, document_fn fn, void *user, uint64_t *n_documents);

/* All documents of a file, one after the other. */
typedef struct document_list {
    int32_t *ids;     /* [n_ids] */
    uint32_t *n_each; /* [n] */
    size_t n_ids, ids_capacity, n, capacity;
} document_list;

/* documents_read into *list, which was zeroed; a file without a token fails. The caller frees. */
int documents_collect(cli_context *cli, const ernie_model *model, size_t n_max, const char *path,
                      document_list *list);
void documents_free(document_list *list);

#endif
