/* From a published checkpoint or a GGUF file to one .ernie file. The whole of what the `ernie`
 * program sees.
 *
 * Owns the reading of other people's formats: safetensors, config.json, SentencePiece, GGUF. All of
 * it is treated as hostile: a wrong input is a status and one sentence that names the file, tensor
 * or field. */
#ifndef ERN_CONVERT_H
#define ERN_CONVERT_H

#include "../../src/ern.h"

typedef struct ern_convert_options {
    const char *type; /* as conv_types_find takes it, a preset too; NULL: "w4" */
    const char *imatrix; /* a calibration file (docs/IMATRIX.md) whose statistics say which errors of
                            w4, c4, c3 and c2 weigh how much; NULL: all the same */
    bool fast; /* c types: search fewer scales, less than half of the time */
    const char *chat; /* "plain", "thinking", "none"; NULL: as the checkpoint's own template says */
    const char *name; /* what the file calls itself, up to 63 bytes; NULL: the directory's name, or
                         what a GGUF file calls itself */
    unsigned n_threads; /* 0: one per core that this process may use */
    uint64_t memory_max; /* bytes of buffers that the conversion may hold; 0: 1 GiB. More threads
                            than fit are not started */
    ernie_progress_fn progress; /* in bytes of the checkpoint; NULL: none */
    void *progress_user;
    const ernie_cancel *cancel;       /* NULL: never */
    const ernie_allocator *allocator; /* NULL: malloc family */
    ern_log log;
} ern_convert_options;

/* Convert the checkpoint in directory `source` (Transformers layout, "-PT", or Baidu's "-Paddle",
 * quantized or not), or the GGUF file `source` (the first part of several), into `out_path`.
 * `options` may be NULL. The file appears whole or not at all; an older file at out_path is
 * replaced only by a finished one. While it runs, OUT.part beside it holds what is done.
 *
 * Returns ERNIE_OK, ERNIE_INVALID (an option), ERNIE_IO (a file, named), ERNIE_FORMAT (the
 * checkpoint is damaged or incomplete), ERNIE_UNSUPPORTED (an architecture, field or tensor that is
 * not known), ERNIE_NO_MEMORY, ERNIE_CANCELLED. */
ERN_FN ernie_status ern_convert(const char *source, const char *out_path,
                                const ern_convert_options *options, ernie_error *error);

#endif
