/* Reasoning and answer told apart, however the tokens cut the text; what a terminal may be shown. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "../../tools/ernie/answer.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Give `text` to an answer in pieces of n_piece bytes. */
static void push(model_answer *answer, const char *text, size_t n_piece)
{
    const size_t n = strlen(text);
    for (size_t at = 0; at < n; at += n_piece) {
        const ernie_token token = { .id = -1,
                                    .text = text + at,
                                    .n_text = n - at < n_piece ? n - at : n_piece };
        assert_int_equal(answer_token(&token, answer), 0);
    }
    answer_end(answer);
}

static void reasoning_is_split_off(void **state)
{
    (void)state;
    static const struct {
        const char *text, *reasoning, *answer;
    } cases[] = {
        { "why\n</think>\n\n<response>\nbecause\n</response>\n", "why", "because" },
        { "why\n</think>\nbecause", "why", "because" },
        { "</think>because", "", "because" },
        { "two\n\nlines </think> a\n\nb \n", "two\n\nlines", "a\n\nb" },
        { "never closed", "never closed", "" },
        { "a < b </ c </thin </think>x < y </resp", "a < b </ c </thin", "x < y </resp" },
        { "a<</think>b", "a<", "b" },
        { "a</think></think>b", "a", "</think>b" },
        { "a</think><response><response>b</response>tail", "a", "b" },
        { "a</think><respond>b", "a", "<respond>b" },
        { "\xe8\xaf\x97</think>\xe8\xaf\x97\xe8\xaf\x97</response>", "\xe8\xaf\x97",
          "\xe8\xaf\x97\xe8\xaf\x97" },
        { "", "", "" },
        { " \n ", "", "" },
    };
    for (size_t i = 0; i < COUNT(cases); i++)
        for (size_t n_piece = 1; n_piece < 60; n_piece++) {
            model_answer answer;
            answer_begin(&answer, NULL, NULL, true);
            push(&answer, cases[i].text, n_piece);
            assert_string_equal(buffer_text(&answer.reasoning), cases[i].reasoning);
            assert_string_equal(buffer_text(&answer.text), cases[i].answer);
            answer_free(&answer);
        }
}

/* Blanks are held back because a tag may follow; more than the room for them are given on. */
static void long_blanks_pass(void **state)
{
    (void)state;
    char text[400];
    memset(text, ' ', sizeof text);
    text[0] = 'a';
    memcpy(text + 300, "b</think>c", 11);
    model_answer answer;
    answer_begin(&answer, NULL, NULL, true);
    push(&answer, text, 7);
    assert_int_equal(answer.reasoning.n, 301);
    assert_string_equal(buffer_text(&answer.text), "c");
    answer_free(&answer);
}

static void plain_answers_keep_every_byte(void **state)
{
    (void)state;
    static const char text[] = "a</think>b <response> \n";
    model_answer answer;
    answer_begin(&answer, NULL, NULL, false);
    push(&answer, text, 3);
    assert_string_equal(buffer_text(&answer.text), text);
    assert_int_equal(answer.reasoning.n, 0);
    answer_free(&answer);
}

/* What is streamed for a text, to a terminal or elsewhere. */
static void streams(const char *text, bool splits, bool terminal, const char *expected)
{
    output out;
    FILE *file = tmpfile();
    assert_non_null(file);
    output_open(&out, file);
    out.terminal = terminal;
    model_answer answer;
    answer_begin(&answer, NULL, &out, splits);
    answer.dims = terminal;
    push(&answer, text, 1);
    char shown[300];
    rewind(file);
    const size_t n = fread(shown, 1, sizeof shown - 1, file);
    shown[n] = 0;
    assert_string_equal(shown, expected);
    answer_free(&answer);
    assert_true(output_close(&out));
}

static void the_stream_marks_reasoning(void **state)
{
    (void)state;
    streams("why\n</think>\n\nso", true, false, "<think>\nwhy\n</think>\n\nso");
    streams("why\n</think>\n\nso", true, true, "\033[2mwhy\033[0m\n\nso");
    streams("why", true, true, "\033[2mwhy\033[0m");
    streams("</think>so", true, false, "so");
}

/* Escape sequences of a model stay text on a terminal; a file gets the bytes as they are. */
static void terminals_get_no_control_characters(void **state)
{
    (void)state;
    streams("a\033[2Jb\r\a\x7f\tc\n", false, true, "a?[2Jb???\tc\n");
    streams("\xc2\x9b"
            "31m \xc2\xa9 \xc3\xa9",
            false, true, "?31m \xc2\xa9 \xc3\xa9");
    streams("a\033[2J", false, false, "a\033[2J");
}

static void a_failed_stream_stops_the_answer(void **state)
{
    (void)state;
    FILE *full = fopen("/dev/full", "wb");
    if (!full) skip();
    output out;
    output_open(&out, full);
    model_answer answer;
    answer_begin(&answer, NULL, &out, false);
    const ernie_token token = { .id = -1, .text = "text", .n_text = 4 };
    assert_int_not_equal(answer_token(&token, &answer), 0);
    assert_int_not_equal(out.error, 0);
    answer_free(&answer);
    assert_false(output_close(&out));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reasoning_is_split_off),
        cmocka_unit_test(long_blanks_pass),
        cmocka_unit_test(plain_answers_keep_every_byte),
        cmocka_unit_test(the_stream_marks_reasoning),
        cmocka_unit_test(terminals_get_no_control_characters),
        cmocka_unit_test(a_failed_stream_stops_the_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
