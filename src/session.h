/* One timeline of tokens on a model: what it holds, its logits, its random numbers. */
#ifndef ERN_SESSION_H
#define ERN_SESSION_H

#include "../backends/backend.h"
#include "model.h"

/* A token that the sampler may choose. */
typedef struct ern_candidate {
    int32_t id;
    float logit;
} ern_candidate;

struct ernie_session {
    const ernie_model *model;
    ernie_allocator allocator;
    ern_state_options state_options;
    ernie_progress_fn progress;
    void *progress_user;
    ern_backend_state *state;
    atomic_int cancel;

    void *block; /* the arena of what follows */
    size_t block_bytes;
    int32_t *tokens;             /* [n_ctx] */
    size_t n_tokens;
    float *logits;               /* [vocab_size] after the last token */
    bool has_logits;
    ern_candidate *candidates;   /* [vocab_size] scratch of the sampler */
    uint32_t *counts;            /* [vocab_size] occurrences, zero between calls of the sampler */

    uint64_t rng[4];
    uint64_t seed; /* that rng was seeded with */
    bool seeded;
};

ERN_FN ernie_status ern_session_plan(const ernie_model *model, const ernie_session_options *options,
                                     ernie_memory *memory, ernie_error *error);
ERN_FN ernie_status ern_session_create(ernie_session **out, const ernie_model *model,
                                       const ernie_session_options *options, ernie_error *error);
ERN_FN void ern_session_free(ernie_session *session);
ERN_FN void ern_session_stream_stats(const ernie_session *session, ernie_stream_stats *stats);
ERN_FN ernie_status ern_session_fork(ernie_session **out, ernie_session *session,
                                     ernie_error *error);

/* Feed n tokens; all_logits [n][vocab_size] or NULL. */
ERN_FN ernie_status ern_session_feed(ernie_session *session, const int32_t *tokens, size_t n,
                                     float *all_logits, ernie_error *error);
ERN_FN ernie_status ern_session_sync(ernie_session *session, const int32_t *tokens, size_t n,
                                     ernie_error *error);
ERN_FN void ern_session_rewind(ernie_session *session, size_t n);

/* Rows of the vocabulary beyond the tokenizer's tokens can never be chosen: logits
 * [n_rows][vocab_size] become -INFINITY there. */
ERN_FN void ern_session_mask(const ernie_model *model, float *logits, size_t n_rows);

/* A request to cancel that ends the call which reports it (session.c). */
ERN_FN bool ern_session_take_cancel(ernie_session *session);

/* session_file.c */
ERN_FN ernie_status ern_session_save(const ernie_session *session, const char *path,
                                     ernie_error *error);
ERN_FN ernie_status ern_session_load(ernie_session *session, const char *path, ernie_error *error);

/* sample.c: fill what is zero in *params from the model's defaults and check it. */
ERN_FN ernie_status ern_sampling_resolve(const ernie_model *model, const ernie_sampling *params,
                                         ernie_sampling *resolved, ernie_error *error);
/* Seed when needed; then choose from the session's logits by resolved params. ERNIE_INVALID when
 * everything is forbidden, ERNIE_FORMAT when a logit is no finite number. */
ERN_FN void ern_sample_seed(ernie_session *session, uint64_t seed);
ERN_FN ernie_status ern_sample(ernie_session *session, const ernie_sampling *params,
                               ernie_logprob *chosen, ernie_logprob *top, ernie_error *error);

/* generate.c */
ERN_FN ernie_status ern_generate(ernie_session *session, const ernie_sampling *params,
                                 ernie_token_fn fn, void *user, ernie_result *result,
                                 ernie_error *error);
ERN_FN ernie_status ern_ask(ernie_session *session, const char *question,
                            const ernie_sampling *params, ernie_token_fn fn, void *user,
                            ernie_result *result, ernie_error *error);

#endif
