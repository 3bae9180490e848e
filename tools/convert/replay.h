/* Replaying a trace (trace.h) against caches of other sizes and other rules of forgetting: what
 * part of the experts asked for would have been in memory. Uses the engine's own rules
 * (src/policy.h); knows no disk and no time. */
#ifndef ERN_CONVERT_REPLAY_H
#define ERN_CONVERT_REPLAY_H

#include "trace.h"

typedef enum ern_replay_policy {
    ERN_REPLAY_LRU = 0,  /* as ern_policy */
    ERN_REPLAY_LFRU = 1,
    ERN_REPLAY_OPT = 2, /* knows what will be asked for: no rule does better */
    ERN_N_REPLAYS = 3
} ern_replay_policy;

/* The last tokens of a prompt whose choices count as used; those of earlier ones pass through. */
#define ERN_REPLAY_RECENT 32u

typedef struct ern_replay_count {
    uint64_t n_pins, n_hits;
} ern_replay_count;

typedef struct ern_replay_result {
    ern_replay_count decoded, prompt;
    ern_replay_count later; /* of decoded, the second half of the tokens: the cache is full by then.
                               Not counted by OPT */
} ern_replay_result;

/* How tokens choose. Each run of tokens at consecutive positions, decoded or a prompt's, counts on
 * its own. -1: too few tokens to say. */
typedef struct ern_replay_choices {
    double overlap;        /* part of a token's experts that the token before chose, too */
    double reuse_distance; /* median of the tokens since an expert was last chosen in the run */
    double distinct;       /* experts of a layer that eight tokens choose together */
} ern_replay_choices;

typedef struct ern_replay ern_replay;

/* Turn a trace into the experts asked for one after the other: layer by layer, those that a decoded
 * token chose, or each that any token of a prompt's batch chose, once.
 * ERNIE_NO_MEMORY; ERNIE_INVALID when there is nothing to replay or too much. */
ERN_FN ernie_status ern_replay_open(ern_replay **out, const ern_trace *trace, ernie_error *error);
ERN_FN void ern_replay_close(ern_replay *replay); /* NULL is fine */

/* ERNIE_NO_MEMORY. */
ERN_FN ernie_status ern_replay_look(const ern_trace *trace, bool decoded,
                                    ern_replay_choices *choices, ernie_error *error);

/* Begin with an empty cache of n_slots (1 and up) and count. `progress`, which may be NULL, is told
 * the experts asked for. ERNIE_NO_MEMORY, ERNIE_CANCELLED. */
ERN_FN ernie_status ern_replay_run(const ern_replay *replay, ern_replay_policy policy,
                                   uint32_t n_slots, ernie_progress_fn progress, void *user,
                                   ern_replay_result *result, ernie_error *error);

#endif
