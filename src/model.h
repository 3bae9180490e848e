/* An open model: the checked file as typed tables, its tokenizer, its backend. Immutable after open,
 * shared by sessions on any thread. */
#ifndef ERN_MODEL_H
#define ERN_MODEL_H

#include "chat.h"
#include "format.h"
#include "os.h"
#include "token.h"

/* One decoder layer's weights. */
typedef struct ern_layer {
    const float *attn_norm; /* [h] */
    const float *ffn_norm;  /* [h] */
    ern_matrix qkv;         /* [(nq + 2 nkv) d][h] */
    ern_matrix attn_out;    /* [h][nq d] */
    bool moe;
    ern_matrix gate_up, down;               /* dense: [2 I][h], [h][I] */
    ern_matrix router;                      /* moe: [E][h] f32 */
    const float *router_bias;               /* moe: [E], or NULL */
    ern_matrix shared_gate_up, shared_down; /* moe: absent (data NULL) without shared experts */
    const ern_record *experts;              /* moe: [E] records */
} ern_layer;

typedef struct ern_weights {
    const unsigned char *file; /* the mapping that records point into */
    const ern_hparams *hparams;
    ern_matrix embed, head; /* head is embed when tied */
    const float *final_norm;
    const ern_layer *layers; /* [n_layers] */
} ern_weights;

/* One expert's two matrices, in place. */
typedef struct ern_expert {
    ern_matrix gate_up, down;
} ern_expert;
ERN_FN ern_expert ern_weights_expert(const ern_weights *weights, const ern_layer *layer,
                                     uint32_t expert);

struct ern_backend;
struct ern_backend_ops;

struct ernie_model {
    ernie_allocator allocator;
    ern_log log;
    ern_file_view view;
    ern_format format;
    ern_layer *layers; /* [n_layers], owner of weights.layers */
    ern_weights weights;
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

/* Ids from here on are padding rows of the vocabulary and never sampled. */
ERN_FN uint32_t ern_model_n_tokens(const ernie_model *model);

#endif
