/* The loop from logits to text: sample, turn into whole characters, hold back what may begin a stop
 * string, report, feed. Owns no state between calls. */
#include "session.h"
#include "unicode.h"

#define GENERATE_STOPS_MAX      16u
#define GENERATE_STOP_BYTES_MAX 256u
/* Text that is held back is shorter than the longest stop string; one token adds this much. */
#define GENERATE_PENDING_MAX    (GENERATE_STOP_BYTES_MAX + ERNIE_STREAM_TEXT_MAX * 4)

typedef struct generate_run {
    ernie_session *session;
    ernie_sampling params;
    ernie_token_fn fn;
    void *user;
    ernie_result result;
    ernie_text_stream stream;
    char pending[GENERATE_PENDING_MAX]; /* text not reported yet */
    size_t n_pending;
    ernie_logprob top[ERNIE_TOP_MAX];
} generate_run;

/* ---- Stops --------------------------------------------------------------------------------- */

static ernie_status generate_check_stops(const ernie_sampling *p, ernie_error *error)
{
    ERN_FAIL_IF(p->n_stop > GENERATE_STOPS_MAX, error, ERNIE_INVALID,
                "%zu stop strings exceed the limit of %u", p->n_stop, GENERATE_STOPS_MAX);
    for (size_t i = 0; i < p->n_stop; i++) {
        const size_t n = p->stop[i] ? strlen(p->stop[i]) : 0;
        ERN_FAIL_IF(n == 0 || n > GENERATE_STOP_BYTES_MAX, error, ERNIE_INVALID,
                    "stop string %zu has %zu bytes; 1 to %u are allowed", i, n,
                    GENERATE_STOP_BYTES_MAX);
        ERN_FAIL_IF(!ern_utf8_valid(p->stop[i], n), error, ERNIE_INVALID,
                    "stop string %zu of %zu bytes is not UTF-8", i, n);
    }
    return ERNIE_OK;
}

/* Does `id` end the turn? */
static ernie_stop generate_stop_of(const generate_run *g, int32_t id)
{
    const ernie_model *m = g->session->model;
    for (size_t i = 0; i < g->params.n_stop_ids; i++)
        if (g->params.stop_ids[i] == id) return ERNIE_STOP_ID;
    if (g->params.ignore_eos) return ERNIE_STOP_NONE;
    if (id == m->format.header->hparams.eos_id) return ERNIE_STOP_END;
    if (m->chat.turn_end_id >= 0 && id == m->chat.turn_end_id) return ERNIE_STOP_END;
    const ern_generation *d = m->format.generation;
    for (uint32_t i = 0; d && i < d->n_stop_ids; i++)
        if (d->stop_ids[i] == id) return ERNIE_STOP_END;
    return ERNIE_STOP_NONE;
}

/* The earliest stop string in the pending text, or n_pending; otherwise how much of its end may be
 * the beginning of one is left in *held. */
static bool generate_find_stop(const generate_run *g, size_t *at, size_t *held)
{
    *at = g->n_pending;
    *held = 0;
    bool found = false;
    for (size_t i = 0; i < g->params.n_stop; i++) {
        const char *stop = g->params.stop[i];
        const size_t n = strlen(stop);
        for (size_t from = 0; from < g->n_pending; from++) {
            const size_t have = ern_min_size(n, g->n_pending - from);
            if (memcmp(g->pending + from, stop, have) != 0) continue;
            if (have == n) {
                found = true;
                if (from < *at) *at = from;
            } else if (g->n_pending - from > *held) {
                *held = g->n_pending - from;
            }
            break;
        }
    }
    return found;
}

/* ---- Reporting ----------------------------------------------------------------------------- */

/* Hand n pending bytes to the callback; true when it wants to stop. */
static bool generate_report(generate_run *g, int32_t id, float logprob, size_t n)
{
    const ernie_token token = { .id = id,
                                .text = g->pending,
                                .n_text = n,
                                .logprob = logprob,
                                .top = id < 0 ? NULL : g->top,
                                .n_top = id < 0 ? 0 : g->params.n_top,
                                .index = g->result.n_generated - (id >= 0) };
    const bool stop = g->fn && g->fn(&token, g->user) != 0;
    memmove(g->pending, g->pending + n, g->n_pending - n);
    g->n_pending -= n;
    return stop;
}

/* Take the text of a token in and report what is certain. */
static ernie_stop generate_text(generate_run *g, const ernie_logprob *chosen)
{
    const ern_tokenizer *t = g->session->model->tokenizer;
    size_t at, held;
    if (t) {
        char bytes[ERN_TOKEN_TEXT_MAX];
        const size_t n = ern_token_bytes(t, chosen->id, false, false, bytes);
        g->n_pending += ern_utf8_stream(&g->stream, bytes, n, g->pending + g->n_pending);
    }
    const bool found = generate_find_stop(g, &at, &held);
    const bool stop =
        generate_report(g, chosen->id, chosen->logprob, found ? at : g->n_pending - held);
    return found ? ERNIE_STOP_STRING : stop ? ERNIE_STOP_CALLBACK : ERNIE_STOP_NONE;
}

/* What is still held when generation ends by itself: not after a stop string, whose beginning it
 * is, and not for a callback that wants no more. */
static void generate_flush(generate_run *g)
{
    g->n_pending += ern_utf8_finish(&g->stream, g->pending + g->n_pending);
    if (g->n_pending) generate_report(g, -1, 0.0f, g->n_pending);
}

/* ---- The loop ------------------------------------------------------------------------------ */

static ernie_status generate_loop(generate_run *g, ernie_error *error)
{
    ernie_session *s = g->session;
    for (;;) {
        ernie_logprob chosen;
        if (ern_session_take_cancel(s)) {
            g->result.stop = ERNIE_STOP_CANCELLED;
            return ern_error_set(error, ERNIE_CANCELLED, "cancelled after %zu token%s",
                                 g->result.n_generated, g->result.n_generated == 1 ? "" : "s");
        }
        if (g->params.n_max && g->result.n_generated >= g->params.n_max) {
            g->result.stop = ERNIE_STOP_LENGTH;
            return ERNIE_OK;
        }
        if (s->n_tokens >= s->state_options.n_ctx) {
            g->result.stop = ERNIE_STOP_CONTEXT;
            return ERNIE_OK;
        }
        ernie_status status = ern_sample(s, &g->params, &chosen, g->top, error);
        if (status != ERNIE_OK) {
            g->result.stop = ERNIE_STOP_CANCELLED;
            return status;
        }
        g->result.stop = generate_stop_of(g, chosen.id);
        if (g->result.stop != ERNIE_STOP_NONE) {
            g->result.stop_id = chosen.id;
            return ERNIE_OK;
        }
        g->result.n_generated++;
        const ernie_stop stop = generate_text(g, &chosen);
        status = ern_session_feed(s, &chosen.id, 1, NULL, error);
        if (status != ERNIE_OK) {
            g->result.stop = ERNIE_STOP_CANCELLED;
            g->result.n_generated--; /* reported, but the session does not hold it */
            return status;
        }
        g->result.stop = stop;
        if (stop != ERNIE_STOP_NONE) return ERNIE_OK;
    }
}

static ernie_status generate_begin(generate_run *g, ernie_session *s, const ernie_sampling *params,
                                   ernie_token_fn fn, void *user, ernie_error *error)
{
    memset(g, 0, sizeof *g);
    g->session = s;
    g->fn = fn;
    g->user = user;
    g->result.size = (uint32_t)sizeof g->result;
    g->result.stop_id = -1;
    ernie_status status = ern_sampling_resolve(s->model, params, &g->params, error);
    if (status == ERNIE_OK) status = generate_check_stops(&g->params, error);
    g->result.seed = g->params.seed ? g->params.seed : ern_entropy() | 1;
    return status;
}

static ernie_status generate_run_all(generate_run *g, ernie_error *error)
{
    ERN_FAIL_IF(!g->session->has_logits, error, ERNIE_INVALID,
                "the session has no logits: feed a prompt first");
    const double start = ern_seconds();
    ern_sample_seed(g->session, g->result.seed);
    const ernie_status status = generate_loop(g, error);
    if (g->result.stop != ERNIE_STOP_STRING && g->result.stop != ERNIE_STOP_CALLBACK)
        generate_flush(g);
    g->result.decode_seconds = ern_seconds() - start;
    return status;
}

ERN_FN ernie_status ern_generate(ernie_session *s, const ernie_sampling *params, ernie_token_fn fn,
                                 void *user, ernie_result *result, ernie_error *error)
{
    generate_run g;
    ernie_status status = generate_begin(&g, s, params, fn, user, error);
    if (status == ERNIE_OK) status = generate_run_all(&g, error);
    *result = g.result;
    return status;
}

ERN_FN ernie_status ern_ask(ernie_session *s, const char *question, const ernie_sampling *params,
                            ernie_token_fn fn, void *user, ernie_result *result, ernie_error *error)
{
    generate_run g;
    ern_ids ids = { .allocator = &s->allocator };
    const ernie_message first = { ERNIE_ROLE_USER, question, NULL };
    ernie_status status = generate_begin(&g, s, params, fn, user, error);
    const double start = ern_seconds();
    if (status == ERNIE_OK)
        status = s->n_tokens == 0
                     ? ern_chat_ids(&s->model->chat, &first, 1, true, &ids, error)
                     : ern_chat_continue_ids(&s->model->chat, s->tokens[s->n_tokens - 1], question,
                                             &ids, error);
    if (status == ERNIE_OK) status = ern_session_feed(s, ids.data, ids.n, NULL, error);
    if (status == ERNIE_OK) {
        g.result.n_prompt = ids.n;
        g.result.prompt_seconds = ern_seconds() - start;
        status = generate_run_all(&g, error);
    }
    ern_ids_free(&ids);
    *result = g.result;
    return status;
}
