/* From tokens to text: whole characters, stop strings across tokens, every way in which an answer
 * ends. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "test_script.h"

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
    static const int32_t script[] = { BYTE('a'), LETTER('a'), BYTE('b'),  BYTE('c'),  THE,
                                      BYTE('x'), BYTE(0xe4),  BYTE(0xb8), BYTE(0xad), BYTE('\n'),
                                      BYTE('u'), BYTE('v'),   END };
    static const char *const text = "aabcthex\u4e2d\nuv";
    static const struct {
        const char *stop[3];
        const char *text;
        size_t n_made;
    } cases[] = {
        { { "bc" }, "aa", 4 },
        { { "ab" }, "a", 3 },   /* the first a is held, then given */
        { { "aac" }, NULL, 0 }, /* both are held, then given */
        { { "a" }, "", 1 },     /* at the very beginning */
        { { "aabcthex\u4e2d\nuv" }, "", 12 },
        { { "hex" }, "aabct", 6 }, /* begins inside a token */
        { { "th" }, "aabc", 5 },   /* inside one */
        { { "h" }, "aabct", 5 },
        { { "\u4e2d" }, "aabcthex", 9 }, /* spans tokens that give no text */
        { { "x\u4e2d\n" }, "aabcthe", 10 },
        { { "v" }, "aabcthex\u4e2d\nu", 12 },
        { { "uvw" }, NULL, 0 },           /* held to the end, then flushed */
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
    } cases[] = {
        { NULL, "0 bytes" }, { "", "0 bytes" }, { "\xb8\xad", "UTF-8" }, { "a\xe4", "UTF-8" }
    };
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
        params.stop_ids =
            n == 3 ? ids + 2 : ids; /* the model's own may be listed: it counts as such */
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
        static const char *const texts[] = { "a",        "ab",        "ab\ufffd",  "ab\ufffd",
                                             "ab\u4e2d", "ab\u4e2dc", "ab\u4e2dcd" };
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
    static const int32_t script[] = {
        BYTE('a'), END, BYTE('b'), BYTE('c'), START,
    };
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
        params.stop =
            stops; /* "d" is held when the fourth call says stop: it is not called again */
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

int main(void)
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
    };
    return cmocka_run_group_tests_name("generate", tests, NULL, NULL);
}
