/* Choosing the next token: penalties and biases, temperature, top-k, top-p, min-p, in this order; the
 * log-probabilities reported are the model's own, before any of them. Allocates nothing. */
#include "session.h"

/* ---- Random numbers: xoshiro256** seeded through splitmix64 (Blackman and Vigna) ------------- */

static uint64_t sample_mix(uint64_t *x)
{
    uint64_t z = *x += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t sample_rotate(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

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

static ernie_status sample_check(const ernie_model *model, const ernie_sampling *p,
                                 ernie_error *error)
{
    const uint32_t vocab = model->format.header->hparams.vocab_size;
    ERN_FAIL_IF(!(p->temperature > 0.0f && p->temperature < 1e6f), error, ERNIE_INVALID,
                "temperature %g must be above 0 (use greedy for 0)", (double)p->temperature);
    ERN_FAIL_IF(!(p->top_p > 0.0f && p->top_p <= 1.0f), error, ERNIE_INVALID,
                "top_p %g must be in (0, 1]", (double)p->top_p);
    ERN_FAIL_IF(!(p->min_p >= 0.0f && p->min_p <= 1.0f), error, ERNIE_INVALID,
                "min_p %g must be in [0, 1]", (double)p->min_p);
    ERN_FAIL_IF(!(p->repetition_penalty > 0.0f && p->repetition_penalty < 1e6f), error,
                ERNIE_INVALID, "repetition_penalty %g must be above 0",
                (double)p->repetition_penalty);
    ERN_FAIL_IF(!isfinite(p->frequency_penalty) || !isfinite(p->presence_penalty), error,
                ERNIE_INVALID, "frequency and presence penalties must be finite numbers");
    ERN_FAIL_IF(p->n_top > ERNIE_TOP_MAX, error, ERNIE_INVALID, "n_top %u exceeds %d", p->n_top,
                ERNIE_TOP_MAX);
    ERN_FAIL_IF((p->n_bias && !p->bias) || (p->n_stop && !p->stop) || (p->n_stop_ids && !p->stop_ids),
                error, ERNIE_INVALID, "a list of biases, stop strings or stop ids is NULL");
    for (size_t i = 0; i < p->n_bias; i++)
        ERN_FAIL_IF(p->bias[i].id < 0 || (uint32_t)p->bias[i].id >= vocab || isnan(p->bias[i].bias),
                    error, ERNIE_INVALID, "logit bias %zu: id %d (0 to %u), bias %g", i,
                    (int)p->bias[i].id, vocab - 1, (double)p->bias[i].bias);
    return ERNIE_OK;
}

ERN_FN ernie_status ern_sampling_resolve(const ernie_model *model, const ernie_sampling *params,
                                         ernie_sampling *r, ernie_error *error)
{
    const ern_generation *g = model->format.generation;
    memset(r, 0, sizeof *r);
    r->size = (uint32_t)sizeof *r;
    const ernie_status status = ern_options_copy(r, sizeof *r, params, "ernie_sampling", error);
    if (status != ERNIE_OK) return status;
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

/* Candidates of finite logits; returns their number. */
static size_t sample_collect(ernie_session *s)
{
    const uint32_t vocab = s->model->format.header->hparams.vocab_size;
    size_t n = 0;
    for (uint32_t i = 0; i < vocab; i++)
        if (s->logits[i] > -INFINITY)
            s->candidates[n++] = (ern_candidate){ (int32_t)i, s->logits[i] };
    return n;
}

static size_t sample_window(const ernie_session *s, const ernie_sampling *p)
{
    return p->penalty_window && p->penalty_window < s->n_tokens ? s->n_tokens - p->penalty_window : 0;
}

/* Repetition as in CTRL (divide or multiply by sign), frequency and presence subtracted. */
static void sample_penalize(ernie_session *s, const ernie_sampling *p, size_t n)
{
    if (p->repetition_penalty == 1.0f && p->frequency_penalty == 0.0f && p->presence_penalty == 0.0f)
        return;
    const size_t first = sample_window(s, p);
    for (size_t i = first; i < s->n_tokens; i++) s->counts[s->tokens[i]]++;
    for (size_t i = 0; i < n; i++) {
        ern_candidate *c = &s->candidates[i];
        const uint32_t count = s->counts[c->id];
        if (!count) continue;
        c->logit = c->logit > 0.0f ? c->logit / p->repetition_penalty
                                   : c->logit * p->repetition_penalty;
        c->logit -= p->frequency_penalty * (float)count + p->presence_penalty;
    }
    for (size_t i = first; i < s->n_tokens; i++) s->counts[s->tokens[i]] = 0;
}

/* Add the biases; candidates forbidden by -INFINITY leave. Returns how many remain. */
static size_t sample_bias(ernie_session *s, const ernie_sampling *p, size_t n)
{
    if (!p->n_bias) return n;
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        ern_candidate c = s->candidates[i];
        for (size_t j = 0; j < p->n_bias; j++)
            if (p->bias[j].id == c.id) c.logit += p->bias[j].bias;
        if (c.logit > -INFINITY) s->candidates[kept++] = c;
    }
    return kept;
}

static int32_t sample_best(const ern_candidate *c, size_t n)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (sample_before(&c[i], &c[best])) best = i;
    return c[best].id;
}

/* Keep what the filters keep, sorted at the array's end, and draw from it. */
static int32_t sample_draw(ernie_session *s, const ernie_sampling *p, size_t n)
{
    ern_candidate *c = s->candidates;
    const double t = 1.0 / (double)p->temperature;
    double total = 0.0, mass = 0.0;
    sample_heap(c, n);
    const double max = (double)c[0].logit;
    size_t k = p->top_k && p->top_k < n ? p->top_k : n, kept = 0;
    if (k == n)
        for (size_t i = 0; i < n; i++) total += exp(((double)c[i].logit - max) * t);
    const bool sorted_whole = k < n;
    if (sorted_whole) {
        for (size_t i = 0; i < k; i++) sample_pop(c, n - i);
        for (size_t i = 0; i < k; i++) total += exp(((double)c[n - 1 - i].logit - max) * t);
    }
    while (kept < k) {
        if (!sorted_whole) sample_pop(c, n - kept);
        const double e = exp(((double)c[n - 1 - kept].logit - max) * t);
        if (kept > 0 && e < (double)p->min_p) break;
        mass += e;
        kept++;
        if (p->top_p < 1.0f && mass >= (double)p->top_p * total) break;
    }
    const double u = (double)(sample_next(s->rng) >> 11) * 0x1p-53 * mass;
    double at = 0.0;
    for (size_t i = 0; i < kept; i++) {
        at += exp(((double)c[n - 1 - i].logit - max) * t);
        if (u < at) return c[n - 1 - i].id;
    }
    return c[n - kept].id;
}

/* ---- Reporting ----------------------------------------------------------------------------- */

/* log(sum(exp(logits))) of the model's own distribution. */
static double sample_log_sum(const ernie_session *s)
{
    const uint32_t vocab = s->model->format.header->hparams.vocab_size;
    float max = -INFINITY;
    double sum = 0.0;
    for (uint32_t i = 0; i < vocab; i++)
        if (s->logits[i] > max) max = s->logits[i];
    for (uint32_t i = 0; i < vocab; i++)
        if (s->logits[i] > -INFINITY) sum += exp((double)(s->logits[i] - max));
    return (double)max + log(sum);
}

static void sample_top(const ernie_session *s, double log_sum, size_t n_top, ernie_logprob *top)
{
    const uint32_t vocab = s->model->format.header->hparams.vocab_size;
    size_t n = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        const float v = (float)((double)s->logits[i] - log_sum);
        if (n == n_top && !(v > top[n - 1].logprob)) continue;
        size_t at = n < n_top ? n++ : n - 1;
        for (; at > 0 && v > top[at - 1].logprob; at--) top[at] = top[at - 1];
        top[at] = (ernie_logprob){ (int32_t)i, v };
    }
}

ERN_FN void ern_sample(ernie_session *s, const ernie_sampling *p, ernie_logprob *chosen,
                       ernie_logprob *top)
{
    const double log_sum = sample_log_sum(s);
    size_t n = sample_collect(s);
    sample_penalize(s, p, n);
    n = sample_bias(s, p, n);
    /* Everything forbidden: the biases are void. */
    if (n == 0) n = sample_collect(s);
    chosen->id = n == 0 ? 0 : p->greedy ? sample_best(s->candidates, n) : sample_draw(s, p, n);
    chosen->logprob = (float)((double)s->logits[chosen->id] - log_sum);
    if (top && p->n_top) sample_top(s, log_sum, p->n_top, top);
}
