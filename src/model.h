/* An open model: the checked file as typed tables, its tokenizer, its backend. Immutable after open
 * but for where its weights lie (`in_use`), shared by sessions on any thread. */
#ifndef ERN_MODEL_H
#define ERN_MODEL_H

#include "chat.h"
#include "huge.h"
#include "os.h"
#include "token.h"
#include "weights.h"

struct ern_backend;
struct ern_backend_ops;

struct ernie_model {
    ernie_allocator allocator;
    ern_log log;
    ern_file_view view;
    ern_format format;
    ern_layer *layers; /* [2][n_layers]: of weights, of copied */
    ern_weights weights;
    ern_huge *huge;    /* NULL: the file is not mapped, or stays so */
    ern_weights copied; /* the same once they lie on huge pages */
    _Atomic(const ern_weights *) in_use; /* one of the two; see ern_model_weights */
    ern_tokenizer *tokenizer; /* NULL when the file has none */
    ern_chat chat;
    const struct ern_backend_ops *ops;
    struct ern_backend *backend;
    char types[160]; /* weight types by class */
};

/* What the options say, read into one place by api.c. */
ERN_FN ernie_status ern_model_open(ernie_model **out, const char *path, const void *memory,
                                   size_t memory_bytes, const ernie_source *source,
                                   const ernie_model_options *options, ernie_error *error);
ERN_FN void ern_model_close(ernie_model *model);
ERN_FN void ern_model_info(const ernie_model *model, ernie_model_info *info);
ERN_FN void ern_model_record_info(const ernie_model *model, size_t index, ernie_record_info *info);
ERN_FN ernie_status ern_model_verify(const ernie_model *model, ernie_progress_fn progress,
                                     void *user, const ernie_cancel *cancel, ernie_error *error);

/* The weights to compute with, for one forward step: they may move between two. Any thread. */
static ERN_INLINE const ern_weights *ern_model_weights(const ernie_model *model)
{
    return atomic_load_explicit(&model->in_use, memory_order_acquire);
}

/* Ids from here on are padding rows of the vocabulary and never sampled. */
ERN_FN uint32_t ern_model_n_tokens(const ernie_model *model);

#endif
