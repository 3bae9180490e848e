/* The web-search prompts: byte for byte, places filled in once, references in their form. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "test_allocator.h"
#include "test_vocab.h"
#include "../../src/chat.h"

static void build(ern_text *text, ernie_language language, const char *date, const char *question,
                  const ernie_reference *references, size_t n)
{
    *text = (ern_text){ .allocator = ern_allocator_default() };
    assert_int_equal(ern_search_text(language, date, question, references, n, text, NULL),
                     ERNIE_OK);
    assert_true(ern_text_add(text, "", 1));
}

/* Places that are filled with their own names, and no references, give back the published texts but
 * for "{references}": their hashes were taken of the published files without those 12 bytes. */
static void prompts_are_the_published_ones(void **state)
{
    (void)state;
    static const struct {
        ernie_language language;
        size_t n;
        uint64_t hash;
    } cases[] = {
        { ERNIE_LANGUAGE_ZH, 1231, 0xf9f157e9fe0ec8b0 },
        { ERNIE_LANGUAGE_EN, 1511, 0x30b84ea990357ec9 },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        ern_text text;
        build(&text, cases[i].language, "{date}", "{question}", NULL, 0);
        assert_int_equal(text.n - 1, cases[i].n);
        assert_true(ern_hash64(text.data, text.n - 1) == cases[i].hash);
        ern_text_free(&text);
    }
}

/* The same against the files themselves. */
static void prompts_equal_the_shared_files(void **state)
{
    (void)state;
    static const char *const names[] = { "search_prompts/zh.txt", "search_prompts/en.txt" };
    static const char place[] = "{references}";
    for (int i = 0; i < 2; i++) {
        size_t n;
        char *file = (char *)test_read_shared(names[i], &n);
        if (!file) {
            skip();
            return;
        }
        file = test_vocab_alloc(file, n + 1);
        file[n] = '\0';
        char *at = strstr(file, place);
        assert_non_null(at);
        memmove(at, at + sizeof place - 1, strlen(at + sizeof place - 1) + 1);
        ern_text text;
        build(&text, (ernie_language)i, "{date}", "{question}", NULL, 0);
        assert_string_equal(text.data, file);
        ern_text_free(&text);
        free(file);
    }
}

static void places_are_filled_in_once(void **state)
{
    (void)state;
    static const ernie_reference reference = { "{question}", "{date}", "{references}{", "}", "{" };
    for (int i = 0; i < 2; i++) {
        ern_text text;
        build(&text, (ernie_language)i, "{references}", "{date} {question}", &reference, 1);
        assert_non_null(
            strstr(text.data, i ? "#Current Time\n{references}\n" : "#当前时间\n{references}\n"));
        assert_non_null(strstr(
            text.data, "\n##参考文章1\n标题：{question}\n文章发布时间：{date}\n"
                       "内容：{references}{\n来源网站网址：}\n来源网站的网站名：{\n\n---------\n"));
        const char *end = "{date} {question}";
        assert_string_equal(text.data + text.n - 1 - strlen(end), end);
        ern_text_free(&text);
    }
}

static void references_have_their_form(void **state)
{
    (void)state;
    static const ernie_reference references[] = {
        { "秋夜", "2025-04-20", "第一行\n第二行", "https://example.org/1", "例" },
        { NULL, NULL, NULL, NULL, NULL },
    };
    static const char expected[] =
        "References\n##参考文章1\n标题：秋夜\n文章发布时间：2025-04-20\n内容：第一行\n第二行\n"
        "来源网站网址：https://example.org/"
        "1\n来源网站的网站名：例\n\n##参考文章2\n标题：\n文章发布时间：\n"
        "内容：\n来源网站网址：\n来源网站的网站名：\n\n---------\n";
    ern_text text;
    build(&text, ERNIE_LANGUAGE_EN, "2025-04-20 12:00:00, Sunday, Beijing/China.", "?", references,
          2);
    assert_non_null(strstr(text.data, expected));
    ern_text_free(&text);
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    static const struct {
        int language;
        const char *date, *question;
        size_t n_references;
        const char *words;
    } cases[] = { { 2, "d", "q", 0, "language 2" },
                  { -1, "d", "q", 0, "language -1" },
                  { 0, NULL, "q", 0, "date" },
                  { 1, "d", NULL, 0, "question" },
                  { 1, "d", "q", 3, "3 references at NULL" } };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        ernie_error error = { ERNIE_OK, "" };
        ern_text text = { .allocator = ern_allocator_default() };
        assert_int_equal(ern_search_text((ernie_language)cases[i].language, cases[i].date,
                                         cases[i].question, NULL, cases[i].n_references, &text,
                                         &error),
                         ERNIE_INVALID);
        if (!strstr(error.message, cases[i].words)) fail_msg("\"%s\"", error.message);
        assert_int_equal(text.n, 0);
    }
}

static void failing_allocations_unwind(void **state)
{
    (void)state;
    static const ernie_reference reference = { "t", "p", "c", "u", "s" };
    for (int sticky = 0; sticky < 2; sticky++) {
        for (long k = 0;; k++) {
            test_allocator counting;
            ernie_allocator allocator;
            test_allocator_begin(&counting, &allocator);
            ern_text text = { .allocator = &allocator };
            assert_true(ern_text_add(&text, "kept", 4));
            test_allocator_fail_at(&counting, k, sticky);
            const ernie_status status =
                ern_search_text(ERNIE_LANGUAGE_ZH, "d", "q", &reference, 1, &text, NULL);
            assert_true(status == ERNIE_OK || status == ERNIE_NO_MEMORY);
            if (status != ERNIE_OK) assert_int_equal(text.n, 4);
            ern_text_free(&text);
            assert_int_equal(atomic_load(&counting.live), 0);
            assert_int_equal(atomic_load(&counting.n_wrong_sizes), 0);
            if (status == ERNIE_OK) break;
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_are_the_published_ones),
        cmocka_unit_test(prompts_equal_the_shared_files),
        cmocka_unit_test(places_are_filled_in_once),
        cmocka_unit_test(references_have_their_form),
        cmocka_unit_test(bad_arguments_are_refused),
        cmocka_unit_test(failing_allocations_unwind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
