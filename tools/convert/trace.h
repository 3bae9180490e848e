/* Traces: which experts each token chose in each layer, written while a model runs and read by the
 * replay (replay.h). docs/TRACE.md is the prose.
 *
 * A file is a head, the numbers of the mixture layers, one batch after the other with two bytes a
 * choice, and an end that counts them: what was cut off is told from what is whole. Files are
 * hostile: every number is checked before it is used. Knows no weights and no policies. */
#ifndef ERN_CONVERT_TRACE_H
#define ERN_CONVERT_TRACE_H

#include "../../src/ern.h"

#define ERN_TRACE_MAGIC   "ERNTR\r\n\x1a"
#define ERN_TRACE_VERSION 1u

/* ---- The file ------------------------------------------------------------------------------ */

typedef struct ern_trace_head {
    char magic[8];
    uint32_t version, version_min; /* of the writer; the least that a reader must know */
    uint8_t weights_id[16];        /* of the model that ran */
    char name[64];                 /* its name, zero-terminated */
    uint32_t n_model_layers, n_layers; /* all; those with experts */
    uint32_t n_experts, moe_k;     /* of a layer; chosen by a token */
    uint64_t checksum;             /* XXH3-64 of the bytes before it */
} ern_trace_head;

/* Before the choices of a batch, u16 [n_layers][n_tokens][moe_k]; and, of kind END, the last. */
typedef struct ern_trace_mark {
    uint32_t kind;     /* ERN_TRACE_... */
    uint32_t position; /* of the first token in its session; of END 0 */
    uint64_t n_tokens; /* of END: of all batches */
} ern_trace_mark;

enum {
    ERN_TRACE_PROMPT = 1,  /* tokens of a prompt */
    ERN_TRACE_DECODED = 2, /* one token, fed alone */
    ERN_TRACE_END = 3      /* followed by u64 n_batches, u64 XXH3-64 of all bytes before the mark */
};

_Static_assert(sizeof(ern_trace_head) == 120, "head");
_Static_assert(sizeof(ern_trace_mark) == 16, "mark");

/* ---- Writing (trace_write.c) --------------------------------------------------------------- */

typedef struct ern_trace_out ern_trace_out;

/* Begin the trace of a model's sessions beside `path`; batches have at most batch_max tokens.
 * ERNIE_INVALID (the model has no experts), ERNIE_IO, ERNIE_NO_MEMORY; *out is NULL then. */
ERN_FN ernie_status ern_trace_out_open(ern_trace_out **out, const char *path,
                                       const ernie_model *model, uint32_t batch_max,
                                       const ernie_allocator *allocator, ernie_error *error);
/* The same for a model that is described: `head` with the fields from weights_id to moe_k, and the
 * numbers of its mixture layers [head->n_layers], ascending. */
ERN_FN ernie_status ern_trace_out_begin(ern_trace_out **out, const char *path,
                                        const ern_trace_head *head, const uint16_t *layers,
                                        uint32_t batch_max, const ernie_allocator *allocator,
                                        ernie_error *error);
/* What ernie_route_fn tells of a layer: experts [n_tokens][moe_k]. A batch is written when its last
 * layer is told; one that was stopped before leaves nothing. Allocates nothing; failures are kept
 * for commit. */
ERN_FN void ern_trace_out_route(ern_trace_out *out, uint32_t position, bool decoded, uint32_t layer,
                                uint32_t n_tokens, const int32_t *experts);
/* Write the end; the file gets its name. Frees `out` in any case. */
ERN_FN ernie_status ern_trace_out_commit(ern_trace_out *out, ernie_error *error);
ERN_FN void ern_trace_out_abandon(ern_trace_out *out); /* leaves no file; NULL is fine */

/* ---- Reading (trace.c) --------------------------------------------------------------------- */

typedef struct ern_trace_batch {
    uint32_t position, n_tokens;
    bool decoded;
    const uint16_t *experts; /* [n_layers][n_tokens][moe_k] below n_experts, of a token distinct */
} ern_trace_batch;

typedef struct ern_trace {
    ern_trace_head head;
    const uint16_t *layers;   /* [head.n_layers] numbers in the model, ascending */
    ern_trace_batch *batches; /* [n_batches] */
    size_t n_batches, n_room;
    uint64_t n_prompt, n_decoded; /* tokens */
    ernie_allocator allocator;
    unsigned char *bytes; /* [n_bytes of bytes_capacity] the file */
    size_t n_bytes, bytes_capacity;
} ern_trace;

/* Read and check a whole trace. ERNIE_IO, ERNIE_FORMAT (not a trace, cut off, or its numbers
 * contradict each other), ERNIE_UNSUPPORTED (a newer version), ERNIE_CORRUPT, ERNIE_NO_MEMORY.
 * *trace is zero after failure. */
ERN_FN ernie_status ern_trace_open(ern_trace *trace, const char *path,
                                   const ernie_allocator *allocator, ernie_error *error);
ERN_FN void ern_trace_close(ern_trace *trace); /* zeroed or closed ones are fine */

#endif
