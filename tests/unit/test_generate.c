/* From tokens to an answer. Most tests run a model that recites a script: every token has one
 * successor, far likelier than all others, so that texts, stops and counts are known beforehand. The
 * rest asks the demo model, whose path is the argument. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../src/unicode.h"
#include "test_session.h"

#define VOCAB      320
#define END        2
#define START      4 /* the byte token 0x01: the whole prompt */
#define BYTE(c)    (3 + (unsigned char)(c))
#define LETTER(c)  (267 + (c) - 'a')
#define THE        260
#define N_SCRIPT   64

static const char *demo_path = "models/ernie-demo.ernie";

/* ---- The reciting model -------------------------------------------------------------------- */

static float *record_rows(unsigned char *image, uint32_t kind, size_t *n)
{
    const ern_header *h = (const ern_header *)(void *)image;
    ern_record *r = (ern_record *)(void *)(image + h->section[ERN_SECTION_INDEX].offset);
    while (r->kind != kind) r++;
    *n = (size_t)r->n_bytes / sizeof(float);
    return (float *)(void *)(image + r->offset);
}

/* Layers add nothing, so the last token's embedding is what the head sees; the head's row of a token
 * is the embedding of its predecessor. */
static void script_open(test_world *w, const int32_t *script, size_t n)
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
    for (size_t i = 0; i < (size_t)VOCAB * 64; i++) embed[i] = test_random(&random) & 1 ? 1.0f : -1.0f;
    float *head = record_rows(image, ERN_HEAD, &n_floats);
    for (size_t i = 0; i < n; i++)
        memcpy(head + script[i] * 64, embed + (i ? script[i - 1] : START) * 64, 64 * sizeof *head);
    test_model_seal(image, n_bytes, true);
    test_world_open_image(w, image, n_bytes);
}

/* A script of byte tokens: the text, then the end. No byte may come twice. */
static size_t script_of(const char *text, int32_t *script)
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
    bool broken, flushed, late; /* half characters; a call with id -1; a call after it or after a stop */
} answer;

static int on_token(const ernie_token *token, void *user)
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

static ernie_session *prompted(const test_world *w, uint32_t n_ctx)
{
    const int32_t start = START;
    ernie_session *session = test_session(w->model, n_ctx);
    OK(ernie_session_feed(session, &start, 1, &error));
    return session;
}

/* Recite, and check what must hold whatever the parameters are. */
static ernie_result recite(ernie_session *session, const ernie_sampling *params, answer *a)
{
    ernie_result result = { .size = sizeof result };
    const size_t before = ernie_session_length(session);
    a->session = session;
    OK(ernie_session_generate(session, params, on_token, a, &result, &error));
    assert_false(a->broken);
    assert_false(a->late);
    assert_int_equal(result.n_generated, a->n_ids);
    assert_int_equal(ernie_session_length(session), before + a->n_ids);
    assert_memory_equal(ernie_session_tokens(session) + before, a->ids, a->n_ids * sizeof a->ids[0]);
    assert_non_null(ernie_session_logits(session));
    assert_true(result.seed != 0 && result.decode_seconds >= 0.0);
    return result;
}

static void check_text(const answer *a, const char *expected)
{
    if (a->n_text != strlen(expected) || memcmp(a->text, expected, a->n_text) != 0)
        fail_msg("\"%.*s\", not \"%s\"", (int)a->n_text, a->text, expected);
}

/* ---- Characters ---------------------------------------------------------------------------- */

static void characters_come_whole(void **state)
{
    (void)state;
    const char *text = "a\u00e9\u4e2d\U0001f600z"; /* 1, 2, 3, 4 and 1 bytes */
    int32_t script[N_SCRIPT];
    test_world w;
    answer a = { 0 };
    const size_t n = script_of(text, script);
    script_open(&w, script, n);
    ernie_session *session = prompted(&w, 64);
    const ernie_result result = recite(session, NULL, &a);
    check_text(&a, text);
    assert_int_equal(a.n_calls, 11);
    assert_int_equal(a.n_empty, 1 + 2 + 3);
    assert_false(a.flushed);
    assert_int_equal(result.stop, ERNIE_STOP_END);
    assert_int_equal(result.stop_id, END);
    assert_int_equal(result.n_prompt, 0);
    ernie_session_free(session);
    test_world_close(&w);
}

static void broken_characters_are_replaced(void **state)
{
    (void)state;
    int32_t script[N_SCRIPT];
    test_world w;
    answer a = { 0 };
    script_open(&w, script, script_of("x\xe4\xb8y\xffz\xf0\x9f", script));
    ernie_session *session = prompted(&w, 64);
    recite(session, NULL, &a);
    check_text(&a, "x\ufffdy\ufffdz\ufffd");
    assert_true(a.flushed); /* the last one could have become a character until the end */
    ernie_session_free(session);
    test_world_close(&w);
}

/* ---- Stop strings -------------------------------------------------------------------------- */

static void stop_strings_end_the_text(void **state)
{
    (void)state;
    static const int32_t script[] = { BYTE('a'), LETTER('a'), BYTE('b'), BYTE('c'), THE,
                                      BYTE('x'), BYTE(0xe4), BYTE(0xb8), BYTE(0xad), BYTE('\n'),
                                      BYTE('u'), BYTE('v'), END };
    static const char *const text = "aabcthex\u4e2d\nuv";
    static const struct {
        const char *stop[3];
        const char *text;
        size_t n_made;
    } cases[] = {
        { { "bc" }, "aa", 4 },
        { { "ab" }, "a", 3 },            /* the first a is held, then given */
        { { "aac" }, NULL, 0 },          /* both are held, then given */
        { { "a" }, "", 1 },              /* at the very beginning */
        { { "aabcthex\u4e2d\nuv" }, "", 12 },
        { { "hex" }, "aabct", 6 },       /* begins inside a token */
        { { "th" }, "aabc", 5 },         /* inside one */
        { { "h" }, "aabct", 5 },
        { { "\u4e2d" }, "aabcthex", 9 }, /* spans tokens that give no text */
        { { "x\u4e2d\n" }, "aabcthe", 10 },
        { { "v" }, "aabcthex\u4e2d\nu", 12 },
        { { "uvw" }, NULL, 0 },          /* held to the end, then flushed */
        { { "zzz", "\u4e01" }, NULL, 0 }, /* shares two of three bytes */
        { { "ex", "bct", "the" }, "aa", 5 },
        { { "cthey", "the" }, "aabc", 5 },
        { { "hex\u4e2d!", "ex" }, "aabcth", 6 },
        { { "abct", "b" }, "aa", 3 },    /* whichever is complete first */
        { { "c", "abc" }, "a", 4 },      /* both at once: the one that begins first */
        { { "abcthex", "cq" }, "a", 6 }, /* the longer of two beginnings is held */
    };
    test_world w;
    script_open(&w, script, ERN_COUNT(script));
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        answer a = { 0 };
        ernie_sampling params = ERNIE_SAMPLING_INIT;
        params.stop = cases[i].stop;
        while (params.n_stop < 3 && cases[i].stop[params.n_stop]) params.n_stop++;
        ernie_session *session = prompted(&w, 64);
        const ernie_result result = recite(session, &params, &a);
        check_text(&a, cases[i].text ? cases[i].text : text);
        assert_int_equal(result.stop, cases[i].text ? ERNIE_STOP_STRING : ERNIE_STOP_END);
        assert_int_equal(result.stop_id, cases[i].text ? -1 : END);
        assert_int_equal(result.n_generated, cases[i].text ? cases[i].n_made : 12);
        assert_int_equal(a.flushed, strcmp(cases[i].stop[0], "uvw") == 0);
        ernie_session_free(session);
    }
    test_world_close(&w);
}

static void bad_stop_strings_are_refused(void **state)
{
    (void)state;
    int32_t script[N_SCRIPT];
    char longest[258];
    const char *stops[17];
    test_world w;
    script_open(&w, script, script_of("abc", script));
    ernie_session *session = prompted(&w, 64);
    memset(longest, 'q', 257);
    longest[257] = '\0';
    for (int i = 0; i < 17; i++) stops[i] = "zz";
    static const struct {
        const char *stop;
        const char *words;
    } cases[] = { { NULL, "0 bytes" }, { "", "0 bytes" }, { "\xb8\xad", "UTF-8" }, { "a\xe4", "UTF-8" } };
    ernie_sampling params = ERNIE_SAMPLING_INIT;
    answer a = { 0 };
    params.stop = stops;
    params.n_stop = 17;
    FAILS(ERNIE_INVALID, ernie_session_generate(session, &params, on_token, &a, NULL, &error), "17",
          "16");
    params.n_stop = 3;
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        ernie_error why = { ERNIE_OK, "" };
        stops[2] = cases[i].stop;
        assert_int_equal(ernie_session_generate(session, &params, on_token, &a, NULL, &why),
                         ERNIE_INVALID);
        assert_non_null(strstr(why.message, "stop string 2"));
        assert_non_null(strstr(why.message, cases[i].words));
    }
    stops[2] = longest;
    FAILS(ERNIE_INVALID, ernie_session_generate(session, &params, on_token, &a, NULL, &error),
          "257 bytes", "256");
    FAILS(ERNIE_INVALID, ernie_session_ask(session, "abc", &params, on_token, &a, NULL, &error),
          "257 bytes");
    assert_int_equal(a.n_calls, 0);
    assert_int_equal(ernie_session_length(session), 1);
    stops[2] = longest + 1; /* 256 are fine */
    recite(session, &params, &a);
    check_text(&a, "abc");
    ernie_session_free(session);
    test_world_close(&w);
}

/* ---- Other ends ---------------------------------------------------------------------------- */

static void stop_ids_end_before_the_token(void **state)
{
    (void)state;
    const int32_t ids[] = { 300, BYTE('d'), END };
    int32_t script[N_SCRIPT];
    test_world w;
    script_open(&w, script, script_of("abcdef", script));
    for (size_t n = 1; n <= 3; n++) {
        answer a = { 0 };
        ernie_sampling params = ERNIE_SAMPLING_INIT;
        params.stop_ids = n == 3 ? ids + 2 : ids; /* the model's own may be listed: it counts as such */
        params.n_stop_ids = n == 3 ? 1 : n;
        ernie_session *session = prompted(&w, 64);
        const ernie_result result = recite(session, &params, &a);
        check_text(&a, n == 2 ? "abc" : "abcdef");
        assert_int_equal(result.stop, n == 1 ? ERNIE_STOP_END : ERNIE_STOP_ID);
        assert_int_equal(result.stop_id, n == 2 ? BYTE('d') : END);
        ernie_session_free(session);
    }
    test_world_close(&w);
}

static void lengths_end_it(void **state)
{
    (void)state;
    int32_t script[N_SCRIPT];
    test_world w;
    script_open(&w, script, script_of("ab\u4e2dcd", script));
    for (uint32_t n = 1; n <= 7; n++) {
        static const char *const texts[] = { "a", "ab", "ab\ufffd", "ab\ufffd", "ab\u4e2d",
                                             "ab\u4e2dc", "ab\u4e2dcd" };
        for (int by_context = 0; by_context < 2; by_context++) {
            answer a = { 0 };
            ernie_sampling params = ERNIE_SAMPLING_INIT;
            params.n_max = by_context ? 0 : n;
            ernie_session *session = prompted(&w, by_context ? n + 1 : 64);
            const ernie_result result = recite(session, &params, &a);
            check_text(&a, texts[n - 1]);
            assert_int_equal(result.stop, by_context ? ERNIE_STOP_CONTEXT : ERNIE_STOP_LENGTH);
            assert_int_equal(result.n_generated, n);
            assert_int_equal(result.stop_id, -1);
            if (by_context) { /* nothing more fits */
                a = (answer){ 0 };
                assert_int_equal(recite(session, NULL, &a).stop, ERNIE_STOP_CONTEXT);
                assert_int_equal(a.n_calls, 0);
            }
            ernie_session_free(session);
        }
    }
    test_world_close(&w);
}

static void the_end_can_be_ignored(void **state)
{
    (void)state;
    static const int32_t script[] = { BYTE('a'), END, BYTE('b'), BYTE('c'), START, };
    test_world w;
    answer a = { 0 };
    ernie_sampling params = ERNIE_SAMPLING_INIT;
    params.ignore_eos = true;
    params.n_max = 4;
    script_open(&w, script, ERN_COUNT(script));
    ernie_session *session = prompted(&w, 64);
    assert_int_equal(recite(session, &params, &a).stop, ERNIE_STOP_LENGTH);
    check_text(&a, "abc"); /* the end token has no text */
    assert_int_equal(a.ids[1], END);
    ernie_session_free(session);
    test_world_close(&w);
}

static void callbacks_stop_it(void **state)
{
    (void)state;
    static const char *const stops[] = { "dq" };
    int32_t script[N_SCRIPT];
    test_world w;
    script_open(&w, script, script_of("abcdef", script));
    for (size_t n = 1; n <= 6; n++) {
        answer a = { .stop_at = n };
        ernie_sampling params = ERNIE_SAMPLING_INIT;
        params.stop = stops; /* "d" is held when the fourth call says stop: it is not called again */
        params.n_stop = 1;
        ernie_session *session = prompted(&w, 64);
        const ernie_result result = recite(session, &params, &a);
        assert_int_equal(result.stop, ERNIE_STOP_CALLBACK);
        assert_int_equal(a.n_calls, n);
        assert_int_equal(a.n_text, n - (n == 4));
        ernie_session_free(session);
    }
    test_world_close(&w);
}

/* ---- Cancelling and failing ---------------------------------------------------------------- */

static void cancelled_answers_keep_what_was_made(void **state)
{
    (void)state;
    int32_t script[N_SCRIPT];
    test_world w;
    script_open(&w, script, script_of("abcdef", script));
    for (size_t n = 0; n <= 4; n++) {
        answer a = { .cancel_at = n };
        ernie_result result = { .size = sizeof result };
        ernie_session *session = prompted(&w, 64);
        a.session = session;
        if (n == 0) ernie_session_cancel(session);
        FAILS(ERNIE_CANCELLED,
              ernie_session_generate(session, NULL, on_token, &a, &result, &error), "cancelled");
        assert_int_equal(result.stop, ERNIE_STOP_CANCELLED);
        assert_int_equal(a.n_ids, n);
        assert_int_equal(result.n_generated, n ? n - 1 : 0); /* the step of the last was cut */
        assert_int_equal(ernie_session_length(session), 1 + result.n_generated);
        assert_int_equal(ernie_session_logits(session) != NULL, n == 0);
        const size_t held = ernie_session_length(session);
        const int32_t last = ernie_session_tokens(session)[held - 1];
        OK(ernie_session_rewind(session, held - 1, &error)); /* go on from there */
        OK(ernie_session_feed(session, &last, 1, &error));
        a = (answer){ 0 };
        recite(session, NULL, &a);
        check_text(&a, &"abcdef"[n ? n - 1 : 0]);
        ernie_session_free(session);
    }
    test_world_close(&w);
}

static void failures_fill_the_result(void **state)
{
    (void)state;
    int32_t script[N_SCRIPT];
    test_world w;
    answer a = { 0 };
    ernie_sampling params = ERNIE_SAMPLING_INIT;
    script_open(&w, script, script_of("abc", script));
    ernie_session *session = test_session(w.model, 64);
    ernie_result result;
    memset(&result, 0x5a, sizeof result);
    result.size = sizeof result;
    FAILS(ERNIE_INVALID, ernie_session_generate(session, NULL, on_token, &a, &result, &error),
          "no logits");
    assert_true(result.n_generated == 0 && result.n_prompt == 0 && result.stop_id == -1);
    assert_int_equal(result.stop, ERNIE_STOP_NONE);
    params.top_p = 2.0f;
    FAILS(ERNIE_INVALID, ernie_session_ask(session, "abc", &params, on_token, &a, &result, &error),
          "top_p", "2");
    assert_int_equal(ernie_session_length(session), 0);
    result.size = 0;
    FAILS(ERNIE_INVALID, ernie_session_generate(session, NULL, on_token, &a, &result, &error),
          "ernie_result", "size");
    FAILS(ERNIE_INVALID, ernie_session_ask(session, "abc", NULL, on_token, &a, &result, &error),
          "ernie_result", "size");
    FAILS(ERNIE_INVALID, ernie_session_generate(NULL, NULL, NULL, NULL, NULL, &error), "\"session\"");
    FAILS(ERNIE_INVALID, ernie_session_ask(NULL, "x", NULL, NULL, NULL, NULL, &error), "\"session\"");
    FAILS(ERNIE_INVALID, ernie_session_ask(session, NULL, NULL, NULL, NULL, NULL, &error),
          "\"question\"");
    assert_int_equal(a.n_calls, 0);
    ernie_session_free(session);
    test_world_close(&w);
}

static void results_of_other_versions(void **state)
{
    (void)state;
    int32_t script[N_SCRIPT];
    struct {
        ernie_result result;
        unsigned char newer[16];
    } r;
    test_world w;
    script_open(&w, script, script_of("abc", script));
    static const size_t sizes[] = { offsetof(ernie_result, seed), sizeof r };
    for (size_t i = 0; i < ERN_COUNT(sizes); i++) {
        ernie_session *session = prompted(&w, 64);
        memset(&r, 0x5a, sizeof r);
        r.result.size = (uint32_t)sizes[i];
        OK(ernie_session_generate(session, NULL, NULL, NULL, &r.result, &error));
        assert_int_equal(r.result.size, sizes[i]);
        assert_int_equal(r.result.stop, ERNIE_STOP_END);
        const unsigned char *bytes = (const unsigned char *)&r;
        for (size_t b = ern_min_size(sizes[i], sizeof r.result); b < sizeof r; b++)
            assert_int_equal(bytes[b], 0x5a);
        ernie_session_free(session);
    }
    ernie_session *session = prompted(&w, 64);
    OK(ernie_session_generate(session, NULL, NULL, NULL, NULL, &error)); /* nobody listens */
    assert_int_equal(ernie_session_length(session), 4);
    ernie_session_free(session);
    test_world_close(&w);
}

static void questions_need_a_tokenizer(void **state)
{
    (void)state;
    test_world w;
    ernie_result result = { .size = sizeof result };
    test_model_spec spec = test_dense_spec;
    spec.no_sections = true;
    test_world_open(&w, &spec);
    ernie_session *session = test_session(w.model, 64);
    FAILS(ERNIE_UNSUPPORTED, ernie_session_ask(session, "abc", NULL, NULL, NULL, &result, &error),
          "tokenizer");
    assert_int_equal(result.n_generated, 0);
    ernie_session_free(session);
    test_world_close(&w);
}

/* ---- The demo model ------------------------------------------------------------------------ */

static ernie_model *open_demo(void)
{
    ernie_model *model = NULL;
    OK(ernie_model_open(&model, demo_path, NULL, &error));
    return model;
}

static ernie_session *demo_session(const ernie_model *model, uint32_t n_ctx, uint32_t n_threads)
{
    ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
    options.n_ctx = n_ctx;
    options.n_threads = n_threads;
    return test_session_with(model, &options);
}

static ernie_result ask_demo(ernie_session *session, const char *question, uint64_t seed, answer *a)
{
    ernie_result result = { .size = sizeof result };
    ernie_sampling params = ERNIE_SAMPLING_INIT;
    params.seed = seed;
    params.n_max = 24;
    OK(ernie_session_ask(session, question, &params, on_token, a, &result, &error));
    assert_false(a->broken);
    return result;
}

static void the_same_seed_gives_the_same_text(void **state)
{
    (void)state;
    ernie_model *model = open_demo();
    const char *question = "\u4f60\u597d\uff0c\u5199\u4e00\u9996\u8bd7";
    answer a[5];
    uint64_t seeds[] = { 7, 7, 8, 0, 0 }; /* the last becomes the one that the clock gave */
    memset(a, 0, sizeof a);
    for (int i = 0; i < 5; i++) {
        ernie_session *session = demo_session(model, 256, i == 1 ? 2 : 1);
        const ernie_result result = ask_demo(session, question, seeds[i], &a[i]);
        assert_true(result.seed != 0 && (seeds[i] == 0 || result.seed == seeds[i]));
        if (i == 3) seeds[4] = result.seed;
        assert_int_equal(ernie_session_length(session), result.n_prompt + result.n_generated);
        ernie_session_free(session);
    }
    assert_true(a[0].n_text > 0 && a[0].n_text == a[1].n_text);
    assert_memory_equal(a[0].text, a[1].text, a[0].n_text);
    assert_true(a[2].n_ids != a[0].n_ids || memcmp(a[2].ids, a[0].ids, 4 * a[0].n_ids) != 0);
    assert_int_equal(a[3].n_ids, a[4].n_ids);
    assert_memory_equal(a[3].ids, a[4].ids, 4 * a[3].n_ids);
    ernie_model_close(model);
}

/* Turns follow each other as the chat format writes them; the text is that of the tokens. */
static void conversations_go_on(void **state)
{
    (void)state;
    ernie_model *model = open_demo();
    ernie_session *session = demo_session(model, 256, 1);
    answer a[2];
    char rendered[4096], held[4096];
    size_t n_rendered, n_held, n_prompt;
    int32_t prompt[128];
    memset(a, 0, sizeof a);
    const ernie_result first = ask_demo(session, "Hello!", 3, &a[0]);
    const ernie_message one = { ERNIE_ROLE_USER, "Hello!", NULL };
    OK(ernie_chat_tokenize(model, &one, 1, true, prompt, 128, &n_prompt, &error));
    assert_int_equal(first.n_prompt, n_prompt);
    assert_memory_equal(ernie_session_tokens(session), prompt, n_prompt * sizeof prompt[0]);
    const size_t before = ernie_session_length(session);
    const ernie_result second = ask_demo(session, "</s> <mask:1> ok?", 4, &a[1]);
    assert_int_equal(ernie_session_length(session), before + second.n_prompt + second.n_generated);
    a[0].text[a[0].n_text] = '\0';
    const ernie_message turns[] = { one,
                                    { ERNIE_ROLE_ASSISTANT, a[0].text, NULL },
                                    { ERNIE_ROLE_USER, "</s> <mask:1> ok?", NULL } };
    OK(ernie_chat_render(model, turns, 3, true, rendered, sizeof rendered, &n_rendered, &error));
    OK(ernie_detokenize(model, ernie_session_tokens(session), ernie_session_length(session), true,
                        held, sizeof held, &n_held, &error));
    assert_int_equal(n_held, n_rendered + a[1].n_text);
    assert_memory_equal(held, rendered, n_rendered);
    assert_memory_equal(held + n_rendered, a[1].text, a[1].n_text);
    ernie_session_free(session);
    ernie_model_close(model);
}

static void refused_questions_change_nothing(void **state)
{
    (void)state;
    ernie_model *model = open_demo();
    ernie_session *session = demo_session(model, 80, 1);
    answer a = { 0 };
    char question[600];
    ask_demo(session, "Hi", 3, &a);
    const size_t length = ernie_session_length(session);
    a.n_calls = 0;
    memset(question, 0, sizeof question);
    for (int i = 0; i < 99; i++) memcpy(question + 6 * i, "hello ", 6);
    FAILS(ERNIE_FULL, ernie_session_ask(session, question, NULL, on_token, &a, NULL, &error), "80");
    assert_int_equal(ernie_session_length(session), length);
    assert_non_null(ernie_session_logits(session));
    ernie_session_cancel(session);
    FAILS(ERNIE_CANCELLED, ernie_session_ask(session, "Hi", NULL, on_token, &a, NULL, &error), "");
    assert_int_equal(ernie_session_length(session), length);
    assert_int_equal(a.n_calls, 0);
    ernie_session_free(session);
    ernie_model_close(model);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(characters_come_whole),
        cmocka_unit_test(broken_characters_are_replaced),
        cmocka_unit_test(stop_strings_end_the_text),
        cmocka_unit_test(bad_stop_strings_are_refused),
        cmocka_unit_test(stop_ids_end_before_the_token),
        cmocka_unit_test(lengths_end_it),
        cmocka_unit_test(the_end_can_be_ignored),
        cmocka_unit_test(callbacks_stop_it),
        cmocka_unit_test(cancelled_answers_keep_what_was_made),
        cmocka_unit_test(failures_fill_the_result),
        cmocka_unit_test(results_of_other_versions),
        cmocka_unit_test(questions_need_a_tokenizer),
        cmocka_unit_test(the_same_seed_gives_the_same_text),
        cmocka_unit_test(conversations_go_on),
        cmocka_unit_test(refused_questions_change_nothing),
    };
    if (argc > 1) demo_path = argv[1];
    return cmocka_run_group_tests_name("generate", tests, NULL, NULL);
}
