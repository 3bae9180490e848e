/* A model that recites a script, and what a token callback collects. Every token of the script has one
 * successor, far likelier than all others, so that texts, stops and counts are known beforehand. */
#ifndef TEST_SCRIPT_H
#define TEST_SCRIPT_H

#include "../../src/unicode.h"
#include "test_session.h"

#define VOCAB     320
#define END       2
#define START     4 /* the byte token 0x01: the whole prompt */
#define BYTE(c)   (3 + (unsigned char)(c))
#define LETTER(c) (267 + (c) - 'a')
#define THE       260
#define N_SCRIPT  64

/* ---- The reciting model -------------------------------------------------------------------- */

static inline float *record_rows(unsigned char *image, uint32_t kind, size_t *n)
{
    const ern_header *h = (const ern_header *)(void *)image;
    ern_record *r = (ern_record *)(void *)(image + h->section[ERN_SECTION_INDEX].offset);
    while (r->kind != kind) r++;
    *n = (size_t)r->n_bytes / sizeof(float);
    return (float *)(void *)(image + r->offset);
}

/* Layers add nothing, so the last token's embedding is what the head sees; the head's row of a token
 * is the embedding of its predecessor. */
static inline void script_open(test_world *w, const int32_t *script, size_t n)
{
    const ern_hparams shape = { .n_layers = 1,
                                .hidden_size = 64,
                                .n_heads = 1,
                                .n_kv_heads = 1,
                                .head_dim = 64,
                                .intermediate_size = 16,
                                .vocab_size = VOCAB,
                                .context_max = 256,
                                .bos_id = 1,
                                .eos_id = END,
                                .rms_norm_eps = 1e-5f,
                                .moe_norm_min = 1e-12f,
                                .rope_theta = 500000.0 };
    const test_model_spec spec = { .hparams = &shape, .untied = true };
    static const uint32_t silent[] = { ERN_ATTN_OUT, ERN_FFN_DOWN, ERN_HEAD };
    size_t n_bytes, n_floats;
    uint64_t random = 1;
    unsigned char *image = test_model_build(&spec, &n_bytes);
    for (size_t i = 0; i < ERN_COUNT(silent); i++) {
        float *rows = record_rows(image, silent[i], &n_floats);
        memset(rows, 0, n_floats * sizeof *rows);
    }
    float *norm = record_rows(image, ERN_FINAL_NORM, &n_floats);
    for (size_t i = 0; i < 64; i++) norm[i] = 1.0f;
    float *embed = record_rows(image, ERN_EMBED, &n_floats);
    for (size_t i = 0; i < (size_t)VOCAB * 64; i++)
        embed[i] = test_random(&random) & 1 ? 1.0f : -1.0f;
    float *head = record_rows(image, ERN_HEAD, &n_floats);
    for (size_t i = 0; i < n; i++)
        memcpy(head + script[i] * 64, embed + (i ? script[i - 1] : START) * 64, 64 * sizeof *head);
    test_model_seal(image, n_bytes, true);
    test_world_open_image(w, image, n_bytes);
}

/* A script of byte tokens: the text, then the end. No byte may come twice. */
static inline size_t script_of(const char *text, int32_t *script)
{
    size_t n = 0;
    for (; text[n]; n++) script[n] = BYTE(text[n]);
    script[n++] = END;
    return n;
}

/* ---- What the callback sees ---------------------------------------------------------------- */

typedef struct answer {
    ernie_session *session;
    char text[512];
    size_t n_text, n_calls, n_ids;
    int32_t ids[256];
    size_t stop_at, cancel_at; /* the call that does so, from 1; 0: none */
    size_t n_empty;            /* calls without text */
    bool broken, flushed,
        late; /* half characters; a call with id -1; a call after it or after a stop */
} answer;

static inline int on_token(const ernie_token *token, void *user)
{
    answer *a = user;
    a->n_calls++;
    a->broken |= !ern_utf8_valid(token->text, token->n_text);
    a->late |= a->flushed || (a->stop_at && a->n_calls > a->stop_at);
    a->flushed = token->id == -1;
    a->n_empty += token->n_text == 0;
    if (token->id >= 0) {
        a->late |= token->index != a->n_ids;
        a->ids[a->n_ids++] = token->id;
    }
    memcpy(a->text + a->n_text, token->text, token->n_text);
    a->n_text += token->n_text;
    if (a->n_calls == a->cancel_at) ernie_session_cancel(a->session);
    return a->n_calls == a->stop_at;
}

static inline ernie_session *prompted(const test_world *w, uint32_t n_ctx)
{
    const int32_t start = START;
    ernie_session *session = test_session(w->model, n_ctx);
    OK(ernie_session_feed(session, &start, 1, &error));
    return session;
}

/* Recite, and check what must hold whatever the parameters are. */
static inline ernie_result recite(ernie_session *session, const ernie_sampling *params, answer *a)
{
    ernie_result result = { .size = sizeof result };
    const size_t before = ernie_session_length(session);
    a->session = session;
    OK(ernie_session_generate(session, params, on_token, a, &result, &error));
    assert_false(a->broken);
    assert_false(a->late);
    assert_int_equal(result.n_generated, a->n_ids);
    assert_int_equal(ernie_session_length(session), before + a->n_ids);
    assert_memory_equal(ernie_session_tokens(session) + before, a->ids,
                        a->n_ids * sizeof a->ids[0]);
    assert_non_null(ernie_session_logits(session));
    assert_true(result.seed != 0 && result.decode_seconds >= 0.0);
    return result;
}

static inline void check_text(const answer *a, const char *expected)
{
    if (a->n_text != strlen(expected) || memcmp(a->text, expected, a->n_text) != 0)
        fail_msg("\"%.*s\", not \"%s\"", (int)a->n_text, a->text, expected);
}

#endif
