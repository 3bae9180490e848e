/* Choosing the next token: penalties and biases, temperature, top-k, top-p, min-p, in this order;
 * the log-probabilities reported are the model's own, before any of them. Allocates nothing. */
#include "session.h"

#define SAMPLE_FACTOR_MAX 1e6f  /* temperature, repetition penalty and its inverse */
#define SAMPLE_SUM_MAX    1e30f /* what is added to a logit: a whole context of it stays finite */

/* ---- Random numbers: xoshiro256** seeded through splitmix64 (Blackman and Vigna) ------------- */

static uint64_t sample_mix(uint64_t *x)
{
    uint64_t z = *x += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t sample_rotate(uint64_t x, int k)
{
    return (x << k) | (x >> (64 - k));
}

static uint64_t sample_next(uint64_t s[4])
{
    const uint64_t result = sample_rotate(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = sample_rotate(s[3], 45);
    return result;
}

ERN_FN void ern_sample_seed(ernie_session *s, uint64_t seed)
{
    uint64_t x = seed;
    for (size_t i = 0; i < 4; i++) s->rng[i] = sample_mix(&x);
    s->seed = seed;
    s->seeded = true;
}

/* ---- Parameters ---------------------------------------------------------------------------- */

static ernie_status sample_check_lists(const ernie_model *model, const ernie_sampling *p,
                                       ernie_error *error)
{
    const uint32_t vocab = model->format.header->hparams.vocab_size;
    const struct {
        const char *name;
        size_t n;
        const void *list;
    } lists[] = { { "bias", p->n_bias, p->bias },
                  { "stop", p->n_stop, p->stop },
                  { "stop_ids", p->n_stop_ids, p->stop_ids } };
    for (size_t i = 0; i < ERN_COUNT(lists); i++)
        ERN_FAIL_IF(lists[i].n && !lists[i].list, error, ERNIE_INVALID,
                    "%s is NULL but has %zu entries", lists[i].name, lists[i].n);
    for (size_t i = 0; i < p->n_bias; i++) {
        const ernie_logit_bias b = p->bias[i];
        ERN_FAIL_IF(b.id < 0 || (uint32_t)b.id >= vocab, error, ERNIE_INVALID,
                    "bias %zu is for id %d; ids are 0 to %u", i, (int)b.id, vocab - 1);
        ERN_FAIL_IF(!(b.bias <= SAMPLE_SUM_MAX), error, ERNIE_INVALID,
                    "bias %zu for id %d is %g, must be at most %g", i, (int)b.id, (double)b.bias,
                    (double)SAMPLE_SUM_MAX);
    }
    return ERNIE_OK;
}

/* Comparisons are written so that a NaN fails. */
static ernie_status sample_check(const ernie_model *model, const ernie_sampling *p,
                                 ernie_error *error)
{
    ERN_FAIL_IF(!(p->temperature > 0.0f && p->temperature <= SAMPLE_FACTOR_MAX), error,
                ERNIE_INVALID, "temperature is %g, must be above 0 and at most %g",
                (double)p->temperature, (double)SAMPLE_FACTOR_MAX);
    ERN_FAIL_IF(!(p->top_p > 0.0f && p->top_p <= 1.0f), error, ERNIE_INVALID,
                "top_p is %g, must be above 0 and at most 1", (double)p->top_p);
    ERN_FAIL_IF(!(p->min_p >= 0.0f && p->min_p <= 1.0f), error, ERNIE_INVALID,
                "min_p is %g, must be 0 to 1", (double)p->min_p);
    ERN_FAIL_IF(!(p->repetition_penalty >= 1.0f / SAMPLE_FACTOR_MAX
                  && p->repetition_penalty <= SAMPLE_FACTOR_MAX),
                error, ERNIE_INVALID, "repetition_penalty is %g, must be %g to %g",
                (double)p->repetition_penalty, 1.0 / (double)SAMPLE_FACTOR_MAX,
                (double)SAMPLE_FACTOR_MAX);
    ERN_FAIL_IF(!(fabsf(p->frequency_penalty) <= SAMPLE_SUM_MAX), error, ERNIE_INVALID,
                "frequency_penalty is %g, must be -%g to %g", (double)p->frequency_penalty,
                (double)SAMPLE_SUM_MAX, (double)SAMPLE_SUM_MAX);
    ERN_FAIL_IF(!(fabsf(p->presence_penalty) <= SAMPLE_SUM_MAX), error, ERNIE_INVALID,
                "presence_penalty is %g, must be -%g to %g", (double)p->presence_penalty,
                (double)SAMPLE_SUM_MAX, (double)SAMPLE_SUM_MAX);
    ERN_FAIL_IF(p->n_top > ERNIE_TOP_MAX, error, ERNIE_INVALID, "n_top is %u, must be at most %d",
                p->n_top, ERNIE_TOP_MAX);
    return sample_check_lists(model, p, error);
}

ERN_FN ernie_status ern_sampling_resolve(const ernie_model *model, const ernie_sampling *params,
                                         ernie_sampling *r, ernie_error *error)
{
    const ern_generation *g = model->format.generation;
    memset(r, 0, sizeof *r);
    r->size = (uint32_t)sizeof *r;
    const ernie_status status = ern_options_copy(r, sizeof *r, params, "ernie_sampling", error);
    if (status != ERNIE_OK) return status;
    const bool unsaid = r->temperature == 0.0f && r->top_p == 0.0f && r->top_k == 0 && r->min_p == 0.0f;
    if (g && !g->do_sample && unsaid) r->greedy = true;
    if (r->temperature == 0.0f) r->temperature = g && g->temperature > 0.0f ? g->temperature : 1.0f;
    if (r->top_p == 0.0f) r->top_p = g && g->top_p > 0.0f ? g->top_p : 1.0f;
    if (r->top_k == 0 && g) r->top_k = g->top_k;
    if (r->repetition_penalty == 0.0f)
        r->repetition_penalty = g && g->repetition_penalty > 0.0f ? g->repetition_penalty : 1.0f;
    return sample_check(model, r, error);
}

/* ---- Choosing ------------------------------------------------------------------------------ */

/* Higher logit first, lower id among equals. */
static bool sample_before(const ern_candidate *a, const ern_candidate *b)
{
    return a->logit > b->logit || (a->logit == b->logit && a->id < b->id);
}

static void sample_sift(ern_candidate *heap, size_t n, size_t i)
{
    for (;;) {
        size_t best = i;
        const size_t left = 2 * i + 1, right = left + 1;
        if (left < n && sample_before(&heap[left], &heap[best])) best = left;
        if (right < n && sample_before(&heap[right], &heap[best])) best = right;
        if (best == i) return;
        const ern_candidate t = heap[i];
        heap[i] = heap[best];
        heap[best] = t;
        i = best;
    }
}

static void sample_heap(ern_candidate *heap, size_t n)
{
    for (size_t i = n / 2; i-- > 0;) sample_sift(heap, n, i);
}

/* Move the best of the heap's n to its end; repeated, the array's end grows downward, sorted. */
static void sample_pop(ern_candidate *heap, size_t n)
{
    const ern_candidate t = heap[0];
    heap[0] = heap[n - 1];
    heap[n - 1] = t;
    sample_sift(heap, n - 1, 0);
}

static void sample_collect(ernie_session *s, uint32_t vocab)
{
    for (uint32_t i = 0; i < vocab; i++)
        s->candidates[i] = (ern_candidate){ (int32_t)i, s->logits[i] };
}

/* Repetition as in CTRL (divide or multiply by sign), frequency and presence subtracted. */
static void sample_penalize(ernie_session *s, const ernie_sampling *p)
{
    if (p->repetition_penalty == 1.0f && p->frequency_penalty == 0.0f
        && p->presence_penalty == 0.0f)
        return;
    const size_t first =
        p->penalty_window && p->penalty_window < s->n_tokens ? s->n_tokens - p->penalty_window : 0;
    for (size_t i = first; i < s->n_tokens; i++) s->counts[s->tokens[i]]++;
    for (size_t i = first; i < s->n_tokens; i++) {
        ern_candidate *c = &s->candidates[s->tokens[i]];
        const uint32_t count = s->counts[c->id];
        if (!count) continue; /* its first occurrence has done it */
        s->counts[c->id] = 0;
        c->logit =
            c->logit > 0.0f ? c->logit / p->repetition_penalty : c->logit * p->repetition_penalty;
        c->logit -= p->frequency_penalty * (float)count + p->presence_penalty;
    }
}

/* Move the candidates that may be chosen to the front; *n receives their number. Infinities and NaN
 * of damaged weights have come through penalties and biases as such. */
static ernie_status sample_pack(ernie_session *s, uint32_t vocab, size_t *n, ernie_error *error)
{
    *n = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        const ern_candidate c = s->candidates[i];
        ERN_FAIL_IF(!(c.logit < INFINITY), error, ERNIE_FORMAT,
                    "the logit of id %u is %g, not a finite number: the weights are damaged", i,
                    (double)s->logits[i]);
        if (c.logit > -INFINITY) s->candidates[(*n)++] = c;
    }
    ERN_FAIL_IF(*n == 0, error, ERNIE_INVALID, "the biases forbid all of the %u tokens",
                ern_model_n_tokens(s->model));
    return ERNIE_OK;
}

static ernie_status sample_candidates(ernie_session *s, const ernie_sampling *p, size_t *n,
                                      ernie_error *error)
{
    const uint32_t vocab = s->model->format.header->hparams.vocab_size;
    sample_collect(s, vocab);
    sample_penalize(s, p);
    for (size_t i = 0; i < p->n_bias; i++) s->candidates[p->bias[i].id].logit += p->bias[i].bias;
    return sample_pack(s, vocab, n, error);
}

static const ern_candidate *sample_best(const ern_candidate *c, size_t n)
{
    const ern_candidate *best = c;
    for (size_t i = 1; i < n; i++)
        if (sample_before(&c[i], best)) best = &c[i];
    return best;
}

/* How likely a candidate is, the best being 1. */
static double sample_weight(const ern_candidate *c, float max, const ernie_sampling *p)
{
    return exp(((double)c->logit - (double)max) / (double)p->temperature);
}

static double sample_total(const ern_candidate *c, size_t n, float max, const ernie_sampling *p)
{
    double total = 0.0;
    for (size_t i = 0; i < n; i++) total += sample_weight(&c[i], max, p);
    return total;
}

/* Leave out what top-p and min-p cannot keep: below min-p of the best, or so unlikely that all like
 * it together are within what top-p leaves out. Both bounds are drawn a little low; the filters
 * themselves decide. A heap of the whole vocabulary took 1.4 ms a token of 103 424 at 0.8/0.8, this
 * takes 0.8 (one core of an EPYC with AVX-512). Returns how many remain. */
static size_t sample_drop_tail(ern_candidate *c, size_t n, float max, const ernie_sampling *p,
                               double total)
{
    const double least = fmax((double)p->min_p, (1.0 - (double)p->top_p) * total / (double)n);
    const double bound = (double)max + (double)p->temperature * log(0.99 * least);
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if ((double)c[i].logit >= bound) c[kept++] = c[i];
    return kept;
}

/* What the filters keep of c [n]: *kept candidates, the likeliest last unless nothing was filtered,
 * and their weight in *mass. */
static const ern_candidate *sample_filter(ern_candidate *c, size_t n, float max,
                                          const ernie_sampling *p, size_t *kept, double *mass)
{
    const bool cut = p->top_k && p->top_k < n;
    double total = cut ? 0.0 : sample_total(c, n, max, p);
    *mass = total;
    *kept = n;
    if (!cut && p->top_p >= 1.0f && p->min_p <= 0.0f) return c;
    if (!cut) n = sample_drop_tail(c, n, max, p, total);
    const size_t k = cut ? p->top_k : n;
    sample_heap(c, n);
    for (size_t i = 0; cut && i < k; i++) sample_pop(c, n - i);
    if (cut) total = sample_total(c + n - k, k, max, p);
    *mass = 0.0;
    for (*kept = 0; *kept < k; ++*kept) {
        if (!cut) sample_pop(c, n - *kept);
        const double weight = sample_weight(&c[n - 1 - *kept], max, p);
        const bool enough = p->top_p < 1.0f && *mass >= (double)p->top_p * total;
        if (*kept > 0 && (enough || weight < (double)p->min_p)) break;
        *mass += weight;
    }
    return c + n - *kept;
}

static int32_t sample_draw(ernie_session *s, const ernie_sampling *p, size_t n)
{
    size_t kept;
    double mass, at = 0.0;
    const float max = sample_best(s->candidates, n)->logit;
    const ern_candidate *c = sample_filter(s->candidates, n, max, p, &kept, &mass);
    const double u = (double)(sample_next(s->rng) >> 11) * 0x1p-53 * mass;
    for (size_t i = kept; i-- > 0;) {
        at += sample_weight(&c[i], max, p);
        if (u < at) return c[i].id;
    }
    return sample_best(c, kept)->id; /* rounding has left u at the very end */
}

/* ---- Reporting ----------------------------------------------------------------------------- */

/* log(sum(exp(logits))) of the model's own distribution. */
static double sample_log_sum(const float *logits, uint32_t vocab)
{
    float max = -INFINITY;
    double sum = 0.0;
    for (uint32_t i = 0; i < vocab; i++)
        if (logits[i] > max) max = logits[i];
    for (uint32_t i = 0; i < vocab; i++) sum += exp((double)logits[i] - (double)max);
    return (double)max + log(sum);
}

static ernie_logprob sample_logprob(const float *logits, int32_t id, double log_sum)
{
    return (ernie_logprob){ id, (float)((double)logits[id] - log_sum) };
}

/* The n_top likeliest; what a small vocabulary leaves empty gets id -1. */
static void sample_top(const float *logits, uint32_t vocab, double log_sum, size_t n_top,
                       ernie_logprob *top)
{
    size_t n = 0;
    for (uint32_t i = 0; n_top && i < vocab; i++) {
        if (!(logits[i] > -INFINITY)) continue;
        if (n == n_top && !(logits[i] > logits[top[n - 1].id])) continue;
        size_t at = n < n_top ? n++ : n - 1;
        for (; at > 0 && logits[i] > logits[top[at - 1].id]; at--) top[at] = top[at - 1];
        top[at] = sample_logprob(logits, (int32_t)i, log_sum);
    }
    for (; n < n_top; n++) top[n] = (ernie_logprob){ -1, -INFINITY };
}

ERN_FN ernie_status ern_sample(ernie_session *s, const ernie_sampling *p, ernie_logprob *chosen,
                               ernie_logprob *top, ernie_error *error)
{
    const uint32_t vocab = s->model->format.header->hparams.vocab_size;
    size_t n;
    const ernie_status status = sample_candidates(s, p, &n, error);
    if (status != ERNIE_OK) return status;
    const double log_sum = sample_log_sum(s->logits, vocab);
    const int32_t id = p->greedy ? sample_best(s->candidates, n)->id : sample_draw(s, p, n);
    *chosen = sample_logprob(s->logits, id, log_sum);
    if (top) sample_top(s->logits, vocab, log_sum, p->n_top, top);
    return ERNIE_OK;
}

#undef SAMPLE_FACTOR_MAX
#undef SAMPLE_SUM_MAX
