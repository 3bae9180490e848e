/* ernie eval: how well the model predicts text it is given, as the mean negative log-likelihood of
 * a token, and how far it is from another model of the same vocabulary. Every document starts from
 * an empty session. */
#include "cli.h"
#include "documents.h"
#include "interrupt.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct eval_model {
    ernie_model *model;
    ernie_session *session;
    float *logits; /* [piece_max][n_vocab] */
} eval_model;

/* Sums over tokens of what the two models say. */
typedef struct eval_distance {
    double base_nll;
    double difference, difference_squared; /* of the two models' losses */
    uint64_t n_same;                       /* tokens of which the likeliest is the same */
    double kl;
    float *kl_of; /* [n of capacity] each token's */
    size_t n, capacity;
} eval_distance;

typedef struct eval_state {
    cli_context *cli;
    eval_model subject, base; /* base.model is NULL without --against */
    size_t n_vocab, piece_max;
    size_t n_max; /* tokens of a document: what both models hold */
    uint64_t n_documents, n_tokens;
    double nll;
    eval_distance distance;
} eval_state;

/* The logarithm of the sum of exp(logits), and the first of the largest. Padding rows are
 * -infinity and add nothing. */
typedef struct eval_row {
    const float *logits; /* [n_vocab] */
    double log_sum;
    size_t best;
} eval_row;

static eval_row eval_look(const float *logits, size_t n)
{
    eval_row row = { .logits = logits };
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[row.best]) row.best = i;
    const float largest = logits[row.best];
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)expf(logits[i] - largest);
    row.log_sum = log(sum) + (double)largest;
    return row;
}

static double eval_nll(const eval_row *row, int32_t id)
{
    return row->log_sum - (double)row->logits[id];
}

/* Kullback-Leibler divergence: what the base's own choice loses when the other's probabilities are
 * taken for it. */
static double eval_kl(const eval_row *base, const eval_row *row, size_t n)
{
    const double shift = row->log_sum - base->log_sum;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        const float p = expf(base->logits[i] - (float)base->log_sum);
        if (p > 0.0f) sum += (double)p * ((double)base->logits[i] - (double)row->logits[i] + shift);
    }
    return sum > 0 ? sum : 0; /* rounding may leave it just below */
}

static void eval_compare(eval_state *eval, const eval_row *base, const eval_row *row, int32_t id)
{
    eval_distance *d = &eval->distance;
    const double base_nll = eval_nll(base, id), difference = eval_nll(row, id) - base_nll;
    const double kl = eval_kl(base, row, eval->n_vocab);
    if (d->n == d->capacity) {
        d->capacity = d->capacity ? 2 * d->capacity : 4096;
        d->kl_of = memory_resize(d->kl_of, d->capacity, sizeof *d->kl_of);
    }
    d->kl_of[d->n++] = (float)kl;
    d->kl += kl;
    d->base_nll += base_nll;
    d->difference += difference;
    d->difference_squared += difference * difference;
    d->n_same += base->best == row->best;
}

static ernie_status eval_feed(eval_model *m, const int32_t *ids, size_t n, ernie_error *error)
{
    interrupt_watch(m->session);
    const ernie_status status = ernie_session_feed_logits(m->session, ids, n, m->logits, error);
    interrupt_watch(NULL);
    return status;
}

/* Score n tokens, which ids[1] .. ids[n] follow. */
static ernie_status eval_piece(eval_state *eval, const int32_t *ids, size_t n, ernie_error *error)
{
    ernie_status status = eval_feed(&eval->subject, ids, n, error);
    if (status == ERNIE_OK && eval->base.model) status = eval_feed(&eval->base, ids, n, error);
    for (size_t i = 0; i < n && status == ERNIE_OK; i++) {
        const size_t at = i * eval->n_vocab;
        const eval_row row = eval_look(eval->subject.logits + at, eval->n_vocab);
        eval->nll += eval_nll(&row, ids[i + 1]);
        if (!eval->base.model) continue;
        const eval_row base = eval_look(eval->base.logits + at, eval->n_vocab);
        eval_compare(eval, &base, &row, ids[i + 1]);
    }
    return status;
}

/* The last token is predicted and not fed. */
static int eval_document(const int32_t *ids, size_t n, void *user)
{
    eval_state *eval = user;
    ernie_error error;
    ernie_status status = ernie_session_rewind(eval->subject.session, 0, &error);
    if (status == ERNIE_OK && eval->base.model)
        status = ernie_session_rewind(eval->base.session, 0, &error);
    for (size_t at = 0; at + 1 < n && status == ERNIE_OK; at += eval->piece_max) {
        const size_t rest = n - 1 - at;
        status =
            eval_piece(eval, ids + at, rest < eval->piece_max ? rest : eval->piece_max, &error);
    }
    if (status != ERNIE_OK) return cli_fail_error(eval->cli, NULL, &error);
    if (n) eval->n_tokens += n - 1;
    return CLI_OK;
}

/* ---- Opening --------------------------------------------------------------------------------- */

static int eval_open_session(eval_state *eval, eval_model *m)
{
    const cli_session wanted = { .n_ctx = eval->n_max, .traced = m == &eval->subject,
                                 .only_prompts = true };
    m->logits = memory_resize(NULL, eval->piece_max * eval->n_vocab, sizeof *m->logits);
    return cli_open_session(eval->cli, m->model, &wanted, NULL, &m->session);
}

static int eval_open(eval_state *eval)
{
    const char *against = eval->cli->options.against;
    int status = cli_open_model(eval->cli, &eval->subject.model);
    if (status != CLI_OK) return status;
    eval->n_vocab = cli_model_info(eval->subject.model).vocab_size;
    eval->piece_max = cli_logits_piece(eval->n_vocab);
    eval->n_max = documents_tokens_max(eval->subject.model);
    if (against) {
        status = cli_open_model_at(eval->cli, against, &eval->base.model);
        if (status == CLI_OK)
            status = cli_check_vocabulary(eval->cli, "option --against", eval->subject.model,
                                          eval->base.model, against);
        if (status != CLI_OK) return status;
        const size_t n_max = documents_tokens_max(eval->base.model);
        if (n_max < eval->n_max) eval->n_max = n_max;
        status = eval_open_session(eval, &eval->base);
    }
    return status == CLI_OK ? eval_open_session(eval, &eval->subject) : status;
}

static void eval_close(eval_model *m)
{
    free(m->logits);
    ernie_session_free(m->session);
    ernie_model_close(m->model);
}

/* ---- The result ------------------------------------------------------------------------------ */

static int eval_ascending(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* The least number that 99 of 100 tokens do not exceed is the value at this rank. */
static size_t eval_rank_99(size_t n)
{
    return (99 * n + 99) / 100 - 1;
}

static void eval_print_distance(json_t *root, eval_distance *d)
{
    const double n = (double)d->n, mean = d->difference / n;
    const double variance = n > 1 ? (d->difference_squared - n * mean * mean) / (n - 1) : 0;
    qsort(d->kl_of, d->n, sizeof *d->kl_of, eval_ascending);
    json_object_set_new(root, "base_nll_per_token", output_number(d->base_nll / n));
    json_object_set_new(root, "nll_difference", output_number(mean));
    json_object_set_new(root, "nll_difference_error",
                        output_number(sqrt((variance > 0 ? variance : 0) / n)));
    json_object_set_new(root, "kl_mean", output_number(d->kl / n));
    json_object_set_new(root, "kl_p99", output_number((double)d->kl_of[eval_rank_99(d->n)]));
    json_object_set_new(root, "kl_max", output_number((double)d->kl_of[d->n - 1]));
    json_object_set_new(root, "top1_agreement", output_number((double)d->n_same / n));
}

static void eval_print(eval_state *eval)
{
    json_t *root = json_object();
    json_object_set_new(root, "documents", output_count(eval->n_documents));
    json_object_set_new(root, "tokens", output_count(eval->n_tokens));
    json_object_set_new(root, "nll_per_token", output_number(eval->nll / (double)eval->n_tokens));
    if (eval->base.model) eval_print_distance(root, &eval->distance);
    output_json(&eval->cli->out, root);
}

int cmd_eval(cli_context *cli)
{
    const char *path = cli->options.positional[1];
    eval_state eval = { .cli = cli };
    int status = eval_open(&eval);
    if (status == CLI_OK)
        status = documents_read(cli, eval.subject.model, eval.n_max, path, "scoring", eval_document,
                                &eval, &eval.n_documents);
    if (status == CLI_OK && eval.n_tokens == 0)
        status = cli_fail(cli, CLI_FAILED,
                          "%s: nothing to score, expected a document of two tokens or more", path);
    if (status == CLI_OK) status = cli_trace_finish(cli);
    if (status == CLI_OK) eval_print(&eval);
    free(eval.distance.kl_of);
    eval_close(&eval.subject);
    eval_close(&eval.base);
    return status;
}
