/* What a session read from disk, told apart into prompt and decoding, for the line of statistics
 * and for JSON. Does nothing where the model is not streamed. */
#ifndef ERNIE_STREAMING_H
#define ERNIE_STREAMING_H

#include "../../ernie.h"

#include <jansson.h>

/* Sums over some steps, or of all up to a moment; n_slots is what it was last. */
typedef struct streaming_phase {
    ernie_stream_stats stats;
    double seconds;
    size_t n_tokens;
} streaming_phase;

typedef struct streaming {
    const ernie_session *session; /* NULL: nothing is streamed */
    uint32_t n_layers, n_experts; /* layers with experts, experts of each */
    uint64_t expert_bytes;
    streaming_phase prompt, decode;
    streaming_phase since;
    bool decodes;
} streaming;

enum { STREAMING_TEXT_MAX = 200, STREAMING_BYTES_MAX = 24 };

/* ---- A turn -------------------------------------------------------------------------------- */

/* The turn begins, a prompt first. */
void streaming_begin(streaming *s, const ernie_model *model, const ernie_session *session);
/* A token is there: the first one of a turn ends its prompt. */
void streaming_token(streaming *s);
/* The turn is over; the session still lives. */
void streaming_end(streaming *s);

/* " | experts 81.2% in memory, ... | 17.6 of 64 experts a layer kept" of what was decoded, else of
 * the prompt; empty when nothing is streamed. */
void streaming_turn_text(const streaming *s, char text[STREAMING_TEXT_MAX]);

/* slots, ..., prompt and decode. */
json_t *streaming_turn_json(const streaming *s);

/* ---- Single phases ------------------------------------------------------------------------- */

streaming_phase streaming_now(const ernie_session *session);
/* Add what has happened since then. */
void streaming_add(streaming_phase *phase, const ernie_session *session,
                   const streaming_phase *since);

double streaming_hit_rate(const streaming_phase *phase);
double streaming_bytes_per_token(const streaming_phase *phase); /* read from disk */

/* "experts 81.2% in memory, 34.0 read a token, 0.23 GB a token at 2.90 GB/s, waited 41%" */
void streaming_phase_text(const streaming_phase *phase, char text[STREAMING_TEXT_MAX]);
json_t *streaming_phase_json(const streaming_phase *phase);

/* 11850000000 as "11.85 GB", 230000 as "0.23 MB". */
const char *streaming_bytes_text(double bytes, char text[STREAMING_BYTES_MAX]);

#endif
