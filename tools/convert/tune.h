/* Norms refitted to what rounding did: a copy of a quantized model whose normalized states come as
 * near to those of a better model as a factor a channel can bring them.
 *
 * The idea: errors of the weights are noise in the residual stream, and what a norm makes of a
 * noisy stream is, channel by channel, best multiplied by f = sum x_base x / sum x x, the least
 * squares of f x - x_base. The norms' weights are f32 and take the factor for nothing. Both models
 * walk through the documents layer by layer, and a norm is refitted before its layer runs, so
 * that every fit sees what the fits before it have made better. Last, one factor on the final
 * norm, which is a temperature: noisy logits are too sure of themselves. */
#ifndef ERN_TUNE_H
#define ERN_TUNE_H

#include "calibrate.h"

typedef struct ern_tune_options {
    unsigned n_threads;         /* 0: one per core that this process may use */
    ernie_progress_fn progress; /* in steps of no unit, then bytes written; NULL: none */
    void *progress_user;
    const atomic_int *stop;           /* another thread or a signal sets it; NULL: never */
    const ernie_allocator *allocator; /* NULL: malloc family */
} ern_tune_options;

typedef struct ern_tune_report {
    uint64_t n_tokens, file_bytes;
    uint32_t n_norms, n_factors; /* refitted norms, and their channels */
    uint32_t n_clamped;          /* factors that would have left 0.5 .. 1.5 */
    double factor_mean, factor_min, factor_max;
    double scale;                 /* that the final norm took besides */
    double kl_norms, kl_expected; /* nats a token on the documents: at scale 1, at `scale` */
} ern_tune_report;

/* Can `model` be tuned to `base`? ERNIE_INVALID names what differs in their shapes. */
ERN_FN ernie_status ern_tune_check(const ernie_model *model, const ernie_model *base,
                                   ernie_error *error);

/* Refit the norms of `model` on the documents and write it to out_path, which appears whole or not
 * at all; whatever is no norm stays byte for byte, MTP blocks too. Needs 8 bytes a token and
 * channel. `options` and `report` may be NULL. Returns ERNIE_OK, ERNIE_INVALID (models that do not
 * match, a document, no tokens at all), ERNIE_IO, ERNIE_FORMAT (activations that are no finite
 * numbers), ERNIE_UNSUPPORTED (a backend that cannot), ERNIE_NO_MEMORY, ERNIE_CANCELLED. */
ERN_FN ernie_status ern_tune(const ernie_model *model, const ernie_model *base,
                             const ern_documents *documents, const char *out_path,
                             const ern_tune_options *options, ern_tune_report *report,
                             ernie_error *error);

#endif
