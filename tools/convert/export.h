/* From a .ernie file to a GGUF file that other programs run: architectures ernie4_5 and ernie4_5-moe
 * as llama.cpp defines them. The whole of what the `ernie` program sees. */
#ifndef ERN_CONVERT_EXPORT_H
#define ERN_CONVERT_EXPORT_H

#include "../../src/ern.h"

typedef struct ern_export_options {
    const char *type;           /* "f16", "bf16", "q8_0", "q4_0"; NULL: "bf16" */
    unsigned n_threads;         /* 0: one per core that this process may use */
    ernie_progress_fn progress; /* in bytes of the tensors written; NULL: none */
    void *progress_user;
    const ernie_cancel *cancel;       /* NULL: never */
    const ernie_allocator *allocator; /* NULL: malloc family */
    ern_log log;
} ern_export_options;

/* Write the model at `model_path` as `out_path`; `options` may be NULL. Every record's checksum is
 * checked on the way. Norms, routers and their biases stay f32; q4_0 keeps embedding and output layer
 * at q8_0, and rows that are not whole blocks of 32 become f16. MTP blocks are left out: no key or name
 * of these architectures says them. The file appears whole or not at all; an older file at out_path
 * is replaced only by a finished one.
 *
 * Returns ERNIE_OK, ERNIE_INVALID (an option, or out_path is the model itself), ERNIE_IO (a file,
 * named), ERNIE_FORMAT (not a model, or a weight is no number), ERNIE_CORRUPT (a checksum),
 * ERNIE_UNSUPPORTED (a newer file; a model that GGUF's keys cannot say; a weight that does not fit the
 * type), ERNIE_NO_MEMORY, ERNIE_CANCELLED. */
ERN_FN ernie_status ern_export(const char *model_path, const char *out_path,
                               const ern_export_options *options, ernie_error *error);

#endif
