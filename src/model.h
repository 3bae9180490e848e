/* An open model: the checked file as typed tables, its tokenizer, its backend. Immutable after open
 * but for where its weights lie (`in_use`), shared by sessions on any thread. */
#ifndef ERN_MODEL_H
#define ERN_MODEL_H

#include "chat.h"
#include "experts.h"
#include "huge.h"
#include "os.h"
#include "plan.h"
#include "token.h"
#include "weights.h"

struct ern_backend;
struct ern_backend_ops;

/* What changes in a model after it was opened, where there is a ceiling. */
typedef struct ern_budget {
    ern_mutex lock; /* sessions are created one after the other */
    uint64_t lent;  /* bytes that calls under way may take and will give back */
    bool warmed;
} ern_budget;

struct ernie_model {
    ern_meter meter;           /* everything of model and sessions goes through it */
    ernie_allocator allocator; /* the meter's */
    uint64_t ceiling;          /* bytes; ERN_PLAN_UNLIMITED: none */
    bool streams;              /* the view ends where the experts begin */
    ern_experts *experts;      /* NULL: all are in memory */
    char *warm_path;           /* NULL: none */
    ern_budget *budget;
    ern_log log;
    ern_file_view view; /* of the file's n_bytes, or of what is resident of a streamed model */
    uint64_t n_bytes;
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

/* Options checked by api.c; `stream` may be NULL. */
ERN_FN ernie_status ern_model_open(ernie_model **out, const char *path, const void *memory,
                                   size_t memory_bytes, const ernie_source *source,
                                   const ernie_model_options *options, ernie_error *error);
ERN_FN void ern_model_close(ernie_model *model);
ERN_FN void ern_model_info(const ernie_model *model, ernie_model_info *info);
ERN_FN void ern_model_record_info(const ernie_model *model, size_t index, ernie_record_info *info);
ERN_FN ernie_status ern_model_read_rate(const ernie_model *model, double seconds,
                                        const ernie_cancel *cancel, double *rate,
                                        ernie_error *error);
ERN_FN ernie_status ern_model_verify(const ernie_model *model, ernie_progress_fn progress,
                                     void *user, const ernie_cancel *cancel, ernie_error *error);

/* The weights to compute with, for one forward step: they may move between two. Any thread. */
static ERN_INLINE const ern_weights *ern_model_weights(const ernie_model *model)
{
    return atomic_load_explicit(&model->in_use, memory_order_acquire);
}

/* Bytes that model and sessions hold, experts on slots not counted. */
ERN_FN uint64_t ern_model_held(const ernie_model *model);

/* The most slots that fit under the ceiling once `more` bytes are taken and what is lent (or
 * some spare memory) stays free; 0 when even that is too much. The budget's lock is held. */
ERN_FN uint64_t ern_model_slots(const ernie_model *model, uint64_t more);

/* Before a call takes memory that it will give back, much of it: experts make room where the
 * ceiling asks for it, and get it back. ERNIE_NO_MEMORY when too few would stay. A model in
 * memory lends nothing. */
ERN_FN ernie_status ern_model_borrow(const ernie_model *model, uint64_t n_bytes,
                                     ernie_error *error);
ERN_FN void ern_model_give_back(const ernie_model *model, uint64_t n_bytes);

/* Ids from here on are padding rows of the vocabulary and never sampled. */
ERN_FN uint32_t ern_model_n_tokens(const ernie_model *model);

#endif
