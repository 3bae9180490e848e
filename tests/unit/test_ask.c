/* Answers that fail or are cancelled, results for callers of other versions, and questions to the demo
 * model, whose path is the argument. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "test_script.h"

static const char *demo_path = "models/ernie-demo.ernie";

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
        FAILS(ERNIE_CANCELLED, ernie_session_generate(session, NULL, on_token, &a, &result, &error),
              "cancelled");
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
    FAILS(ERNIE_INVALID, ernie_session_generate(NULL, NULL, NULL, NULL, NULL, &error),
          "\"session\"");
    FAILS(ERNIE_INVALID, ernie_session_ask(NULL, "x", NULL, NULL, NULL, NULL, &error),
          "\"session\"");
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
        cmocka_unit_test(cancelled_answers_keep_what_was_made),
        cmocka_unit_test(failures_fill_the_result),
        cmocka_unit_test(results_of_other_versions),
        cmocka_unit_test(questions_need_a_tokenizer),
        cmocka_unit_test(the_same_seed_gives_the_same_text),
        cmocka_unit_test(conversations_go_on),
        cmocka_unit_test(refused_questions_change_nothing),
    };
    if (argc > 1) demo_path = argv[1];
    if (argc <= 1 && access(demo_path, R_OK) != 0) return 77; /* not started from the tree's root */
    return cmocka_run_group_tests_name("ask", tests, NULL, NULL);
}
