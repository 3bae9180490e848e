/* The CPU backend's own structs, shared by its files. A forward step is a list of recorded
 * operations; submit runs the list on every worker of the team, with a barrier between phases.
 * Inside a phase, work is taken in tiles from an atomic counter; what a tile computes never depends
 * on who computes it, so the output is the same for any number of threads. */
#ifndef ERN_CPU_H
#define ERN_CPU_H

#include "../../src/pool.h"
#include "../backend.h"
#include "kernels.h"

#define CPU_ATTN_BLOCK 256u /* keys per softmax block */
#define CPU_ATTN_ROWS 32u   /* query rows (tokens x group) per tile, at least one token */
#define CPU_TILE_GROUPS 4u  /* 16-row groups per tile of a product */
#define CPU_TILE_ROWS 128u  /* activations per product call */
#define CPU_COUNTERS 4u

struct ern_backend {
    ernie_allocator allocator;
    const ern_kernels *kernels;
    const ern_weights *weights;
    bool has_quantized, has_plain;               /* types of any matrix */
    bool experts_quantized, experts_plain;       /* types of any expert */
    ern_experts *experts; /* NULL: in the weights' bytes */
    bool look_ahead;
};

/* Rows of activations in the two forms that products read. Either may be absent (NULL). */
typedef struct cpu_rows {
    float *x; /* [n][x_stride] */
    size_t x_stride;
    int8_t *q; /* [n][q_stride] */
    size_t q_stride;
    float *q_scale; /* [n][s_stride] */
    int32_t *q_sum; /* [n][s_stride] */
    size_t s_stride;
    size_t width;
} cpu_rows;

typedef enum cpu_op_kind { CPU_EMBED, CPU_ATTENTION, CPU_FFN, CPU_MOE, CPU_HEAD } cpu_op_kind;

typedef struct cpu_op {
    cpu_op_kind kind;
    uint32_t i_layer;
    const ern_layer *layer;
    const ern_matrix *matrix; /* embed, head */
    const float *norm;        /* head */
    atomic_size_t next[CPU_COUNTERS]; /* tile counters of the phases */
} cpu_op;

/* One feed-forward network over some rows: a dense layer, a chosen expert, the shared experts. */
typedef struct cpu_segment {
    ern_matrix gate_up, down;
    cpu_rows *in, *hidden;
    size_t in_row, hidden_row; /* first row in each */
    size_t n_rows;
    const int32_t *token;   /* [n_rows] token of each row; NULL: row i is token i */
    const float *weight;    /* [n_rows]; NULL: 1 */
    float *part; /* one row: where down leaves its product, not yet added; NULL: it adds */
    size_t tile_begin;      /* of its gate_up tiles in the flat list */
} cpu_segment;

/* What a phase does, and how a profile calls it. */
#define CPU_PHASE_MAP(X)             \
    X(EMBED, "embedding and angles") \
    X(NORM, "norms and rounding")    \
    X(QKV, "queries, keys, values")  \
    X(APPEND, "rotation and append") \
    X(ATTENTION, "attention")        \
    X(OUT, "attention output")       \
    X(ROUTER, "router")              \
    X(GATHER, "gathering by expert") \
    X(LOAD, "waiting for experts")   \
    X(GATE_UP, "gate and up")        \
    X(DOWN, "down")                  \
    X(HEAD, "head")

#define CPU_PHASE_ENUM(id, text) CPU_PHASE_##id,
typedef enum cpu_phase { CPU_PHASE_MAP(CPU_PHASE_ENUM) CPU_PHASES } cpu_phase;
#undef CPU_PHASE_ENUM

/* Seconds of one worker, by phase: computing, and waiting for the others at its end. */
typedef struct cpu_profile {
    double work[CPU_PHASES], wait[CPU_PHASES];
    double since; /* when the phase under way began */
} cpu_profile;

/* Scratch that one worker owns. */
typedef struct cpu_scratch {
    float *tile;   /* [CPU_TILE_ROWS][16 * CPU_TILE_GROUPS] */
    cpu_rows queries; /* [rows] of an attention tile: floats, or int8 where keys are quantized */
    unsigned char *row; /* of a key, on its way into the cache */
    float *scores; /* [rows][CPU_ATTN_BLOCK] */
    float *part;   /* [rows][head_dim] values of one block */
    float *part_max, *part_sum; /* [rows] */
    float *out;                 /* [rows][head_dim] merged values */
    float *out_max, *out_sum;   /* [rows] */
} cpu_scratch;

/* An expert that a layer has chosen, while it comes from disk. */
typedef struct cpu_arrival {
    uint32_t expert, slot;
    bool pinned, done;
    bool recent; /* the use counts for what is kept */
} cpu_arrival;

/* A layer's experts that come in waves (cpu_stream.c). */
typedef struct cpu_stream {
    cpu_segment *planned; /* [n_experts + 1] the layer's segments in the order of their sum */
    cpu_arrival *arrivals; /* [n_experts + 1] of each */
    size_t n_planned, n_pinned, n_done; /* n_pinned: the first so many are or were pinned */
    uint32_t *wave;       /* [n_experts + 1] which of them run now: s->segments */
    size_t n_wave, rows_max;
    bool one, parts_used; /* a single token: they run as they land, and are added at the end */
    float *parts;         /* [moe_k + 1][x_stride] */
    float *ahead_normed, *ahead_router; /* [h], [router_stride] looking ahead */
    int32_t *ahead_chosen;              /* [moe_k] */
    float *ahead_weight;
    ern_experts_stats stats;
} cpu_stream;

struct ern_backend_state {
    const ern_backend *backend;
    const ern_kernels *k;
    const ern_hparams *hp;
    ern_state_options options;
    ernie_allocator allocator;
    ern_pool *pool;
    void *block; /* the arena that everything below lies in */
    size_t block_bytes;

    ern_batch batch; /* of the step being recorded or run */
    cpu_op *ops;     /* [2 * n_layers + 2] */
    size_t n_ops;

    double *freq;    /* [head_dim / 2] rope frequencies */
    float *cos_sin;  /* [n_batch][head_dim / 2][2] */
    float *x;        /* [n_batch][x_stride] the residual stream */
    size_t x_stride;
    cpu_rows normed; /* [n_batch] of h */
    float *qkv;      /* [n_batch][qkv_stride] */
    size_t qkv_stride;
    cpu_rows queries; /* [n_batch] of n_heads * head_dim_padded in int8, where keys are quantized */
    size_t head_dim_padded; /* to whole blocks of 32 */
    cpu_rows attn;   /* [n_batch] of n_heads * head_dim */
    cpu_rows dense;  /* [n_batch] of intermediate_size */

    size_t rows_max;   /* query rows of an attention tile */
    size_t tile_tokens; /* tokens of an attention tile */
    size_t n_blocks;    /* softmax blocks of the whole context */
    float *split;       /* decode: [n_heads][n_blocks][head_dim] values of each block */
    float *split_max, *split_sum; /* [n_heads][n_blocks] */

    float *router;     /* [n_batch][router_stride] logits, then probabilities */
    size_t router_stride;
    int32_t *chosen;   /* [n_batch][moe_k] */
    float *chosen_weight;
    cpu_rows gathered; /* [n_batch * moe_k] of h, by expert */
    cpu_rows expert;   /* [n_batch * moe_k] of moe_intermediate_size, by expert */
    cpu_rows shared;   /* [n_batch] of shared_intermediate_size */
    int32_t *entry_token; /* [n_batch * moe_k] */
    float *entry_weight;
    uint32_t *expert_begin; /* [n_experts + 1] first entry of each expert */
    cpu_segment *segments;  /* [n_experts + 1] */
    size_t n_segments, n_gate_up_tiles;
    cpu_stream *stream; /* experts from disk; NULL: all are in memory */

    unsigned char *keys;   /* [n_layers][n_kv_heads] groups of n_ctx positions (kv.h) */
    unsigned char *values; /* [n_layers][n_kv_heads][n_ctx] rows */
    size_t keys_bytes, values_bytes; /* of one head */
    size_t key_row, value_row;       /* bytes of a row */
    cpu_scratch *scratch;         /* [n_threads] */
    atomic_bool failed;   /* an expert could not be read; */
    ernie_error failure;  /* why */
    cpu_profile *profile;         /* [n_threads], whoever measures sets it; NULL: nobody does */
};

/* What every operation gets: the state, its worker, its operation. */
typedef struct cpu_run {
    ern_backend_state *state;
    ern_worker *worker;
    cpu_op *op;
    cpu_scratch *scratch;
} cpu_run;

static ERN_INLINE bool cpu_stopped(const ern_backend_state *state)
{
    return atomic_load_explicit(state->options.cancel, memory_order_relaxed) != 0
           || atomic_load_explicit(&state->failed, memory_order_relaxed);
}

/* Take the next of n tiles of this operation's phase; false when none is left or on cancellation.
 * After a cancellation the remaining phases run empty, all workers alike. */
static ERN_INLINE bool cpu_tile_next(const cpu_run *run, unsigned phase, size_t n, size_t *tile)
{
    if (cpu_stopped(run->state)) return false;
    *tile = atomic_fetch_add_explicit(&run->op->next[phase], 1, memory_order_relaxed);
    return *tile < n;
}

/* This worker's share of n tokens, heads or pairs; nothing once the step is cancelled. */
static ERN_INLINE void cpu_share(const cpu_run *run, size_t n, size_t *begin, size_t *end)
{
    *begin = *end = 0;
    if (!cpu_stopped(run->state)) ern_worker_share(run->worker, n, 1, begin, end);
}

static ERN_INLINE bool cpu_quantized(const ern_matrix *w)
{
    return ern_type_is_grouped(w->type);
}

/* Rows first .. first + n - 1 as a product's operand. */
ERN_FN ern_act cpu_act(const cpu_rows *rows, size_t first, size_t n);
ERN_FN void cpu_quantize_row(const ern_backend_state *state, cpu_rows *rows, size_t row);

/* Phases shared by the operations (cpu.c). */

/* The barrier at the end of a phase. */
ERN_FN void cpu_phase_end(const cpu_run *run, cpu_phase phase);
ERN_FN void cpu_norm(const cpu_run *run, const float *norm, size_t first);
ERN_FN void cpu_product(const cpu_run *run, unsigned phase, const ern_matrix *w, const ern_act *a,
                        float *y, size_t y_stride, bool add);

ERN_FN void cpu_run_attention(const cpu_run *run);
ERN_FN void cpu_run_ffn(const cpu_run *run);
ERN_FN void cpu_run_moe(const cpu_run *run);

/* Parts of a mixture layer that experts from disk need as well (cpu_moe.c): choose from one token's
 * logits p, which become probabilities; copy a row of normed to gathered. */
ERN_FN void cpu_moe_choose(const ern_backend_state *state, const ern_layer *layer, float *p,
                           int32_t *chosen, float *weight);
ERN_FN void cpu_moe_gather_row(ern_backend_state *state, size_t to, size_t from);

/* Experts from disk (cpu_stream.c): plan the layer's arrivals once it is routed (worker 0), then
 * run them all (every worker). */
ERN_FN void cpu_stream_plan(const cpu_run *run);
ERN_FN void cpu_stream_run(const cpu_run *run);

/* gate_up and down over the state's segments (cpu_ffn.c). */
ERN_FN void cpu_segments_begin(ern_backend_state *state);
ERN_FN void cpu_segments_gate_up(const cpu_run *run, unsigned phase);
ERN_FN void cpu_segments_down(const cpu_run *run, unsigned phase);

/* Memory of a state (cpu_state.c). */
ERN_FN ernie_status cpu_state_plan(const ern_backend *backend, const ern_state_options *options,
                                   uint64_t *kv_bytes, uint64_t *scratch_bytes, ernie_error *error);
ERN_FN ernie_status cpu_state_open(ern_backend_state **out, const ern_backend *backend,
                                   const ern_state_options *options, ernie_error *error);
ERN_FN void cpu_state_close(ern_backend_state *state);

#endif
