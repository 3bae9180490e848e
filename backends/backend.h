/* What a backend offers to the model: a few coarse operations on one residual stream.
 *
 * A forward step is begin, embed, one attention and one ffn or moe a layer, head, submit. The
 * operations before submit only record and cannot fail; submit runs them and can. Every operation
 * reads and adds to the residual stream x [n_tokens][h] that the state owns. */
#ifndef ERN_BACKEND_H
#define ERN_BACKEND_H

#include "../src/experts.h"
#include "../src/kv.h"
#include "../src/weights.h"

/* Per model: device, kernels, weights where the device wants them. Immutable after open. */
typedef struct ern_backend ern_backend;
/* Per session: keys and values, scratch, workers. */
typedef struct ern_backend_state ern_backend_state;

typedef struct ern_backend_options {
    const char *cpu; /* instruction set, NULL for the best */
    const ernie_allocator *allocator;
    const ern_log *log;
    ern_experts *experts; /* where the experts are to be had; NULL: in the weights' bytes */
    bool look_ahead;      /* read what the next layer will likely choose */
} ern_backend_options;

typedef struct ern_state_options {
    uint32_t n_ctx, n_batch, n_threads;
    ern_kv kv;
    const ernie_allocator *allocator;
    const atomic_int *cancel; /* non-zero stops submit within 50 ms */
    ernie_route_fn route;     /* NULL: none */
    void *route_user;
    bool keep_inputs; /* for `inputs` below: products leave what they read as floats */
} ern_state_options;

/* One forward step. */
typedef struct ern_batch {
    const int32_t *tokens; /* [n_tokens], checked */
    uint32_t n_tokens;     /* 1 .. n_batch */
    uint32_t position;     /* of the first token; keys and values before it are in the cache */
    float *logits;         /* [n_logits][vocab_size] of the last n_logits tokens, or NULL */
    uint32_t n_logits;     /* 0 .. n_tokens */
} ern_batch;

/* Rows that a product has read. */
typedef struct ern_input {
    const float *x; /* [n][stride] */
    size_t stride, width;
} ern_input;

/* The residual stream, and what the products of the last submitted step read: calibration runs a
 * step of one operation and looks. Rows are tokens, but for the experts'. */
typedef struct ern_inputs {
    float *stream; /* [n_batch][stream_stride] x; whoever runs single operations may write it */
    size_t stream_stride;
    ern_input normed; /* of QKV after attention; of router, gate and up after ffn and moe */
    ern_input attn;   /* of the attention's output product */
    ern_input hidden; /* ffn: of down */
    ern_input shared; /* moe: of the shared experts' down */
    ern_input expert; /* moe: of the experts' down: rows [n_tokens * moe_k], expert after expert */
    const uint32_t *expert_begin; /* moe: [n_experts + 1] first row of each expert in that order */
    const int32_t *entry_token;   /* moe: [n_tokens * moe_k] token of each row */
    const float *entry_weight;    /* moe: and the expert's weight for it */
} ern_inputs;

typedef struct ern_backend_ops {
    const char *name;

    ernie_status (*open)(ern_backend **out, const ern_weights *weights,
                         const ern_backend_options *options, ernie_error *error);
    void (*close)(ern_backend *backend); /* NULL is fine */
    const char *(*describe)(const ern_backend *backend); /* "avx512" */

    /* Bytes that state_open would allocate; ERNIE_NO_MEMORY when they overflow. */
    ernie_status (*state_plan)(const ern_backend *backend, const ern_state_options *options,
                               uint64_t *kv_bytes, uint64_t *scratch_bytes, ernie_error *error);
    ernie_status (*state_open)(ern_backend_state **out, const ern_backend *backend,
                               const ern_state_options *options, ernie_error *error);
    void (*state_close)(ern_backend_state *state); /* NULL is fine */

    void (*begin)(ern_backend_state *state, const ern_batch *batch);
    void (*embed)(ern_backend_state *state, const ern_matrix *embed);
    /* x += Wo attention(rope(Wqkv rmsnorm(x))); appends keys and values */
    void (*attention)(ern_backend_state *state, uint32_t i_layer, const ern_layer *layer);
    /* x += Wdown(silu(Wgate m) * (Wup m)), m = rmsnorm(x) */
    void (*ffn)(ern_backend_state *state, uint32_t i_layer, const ern_layer *layer);
    /* x += sum over the k chosen experts of w_e FFN_e(m), + FFN_shared(m) */
    void (*moe)(ern_backend_state *state, uint32_t i_layer, const ern_layer *layer);
    /* logits = Whead rmsnorm(x) */
    void (*head)(ern_backend_state *state, const float *norm, const ern_matrix *head);
    /* Run what was recorded. ERNIE_OK, ERNIE_CANCELLED, or why an expert could not be read:
     * ERNIE_IO, ERNIE_CORRUPT. */
    ernie_status (*submit)(ern_backend_state *state, ernie_error *error);

    /* Places inside the state that hold the above until the next submit; the state was opened with
     * keep_inputs. NULL when the backend does not offer it. */
    void (*inputs)(ern_backend_state *state, ern_inputs *inputs);

    /* What the state has asked of the experts so far; zeros where they are in memory. */
    void (*experts_stats)(const ern_backend_state *state, ern_experts_stats *stats);

    /* Keys and values of one layer, positions 0 .. n - 1, as rows of the cache's type (kv.h):
     * [n_kv_heads][n] keys, then as many values. */
    void (*kv_read)(const ern_backend_state *state, uint32_t i_layer, uint32_t n, void *out);
    void (*kv_write)(ern_backend_state *state, uint32_t i_layer, uint32_t n, const void *in);
} ern_backend_ops;

ERN_FN const ern_backend_ops *ern_backend_find(const char *name); /* NULL or "auto": cpu */

#endif
