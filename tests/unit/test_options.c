/* Numbers and command lines as people type them, the wrong ones above all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "../../tools/ernie/options.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- Numbers ------------------------------------------------------------------------------- */

static void counts_are_digits_in_range(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t min, max;
        bool fine;
        uint64_t value;
    } cases[] = {
        { "0", 0, 10, true, 0 },
        { "10", 0, 10, true, 10 },
        { "007", 0, 10, true, 7 },
        { "18446744073709551615", 0, UINT64_MAX, true, UINT64_MAX },
        { "18446744073709551616", 0, UINT64_MAX, false, 0 },
        { "99999999999999999999999", 0, UINT64_MAX, false, 0 },
        { "11", 0, 10, false, 0 },
        { "0", 1, 10, false, 0 },
        { "", 0, 10, false, 0 },
        { " 1", 0, 10, false, 0 },
        { "1 ", 0, 10, false, 0 },
        { "+1", 0, 10, false, 0 },
        { "-1", 0, UINT64_MAX, false, 0 },
        { "1.0", 0, 10, false, 0 },
        { "1e1", 0, 10, false, 0 },
        { "0x1", 0, 10, false, 0 },
        { "one", 0, 10, false, 0 },
        { "\xef\xbc\x91", 0, 10, false, 0 }, /* a full-width digit */
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint64_t value = 77;
        const bool fine = number_count(cases[i].text, cases[i].min, cases[i].max, &value);
        if (fine != cases[i].fine) fail_msg("\"%s\" was read as %d", cases[i].text, fine);
        assert_true(value == (fine ? cases[i].value : 77));
    }
}

static void reals_are_decimal(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool infinite, fine;
        float value;
    } cases[] = {
        { "0", false, true, 0 },
        { "0.8", false, true, 0.8f },
        { ".5", false, true, 0.5f },
        { "5.", false, true, 5 },
        { "-2.5e-1", false, true, -0.25f },
        { "+3", false, true, 3 },
        { "1e-300", false, true, 0 },
        { "inf", true, true, INFINITY },
        { "-inf", true, true, -INFINITY },
        { "inf", false, false, 0 },
        { "-inf", false, false, 0 },
        { "nan", true, false, 0 },
        { "infinity", true, false, 0 },
        { "1e39", true, false, 0 },
        { "", false, false, 0 },
        { "-", false, false, 0 },
        { ".", false, false, 0 },
        { "--1", false, false, 0 },
        { " 1", false, false, 0 },
        { "1 ", false, false, 0 },
        { "0x10", false, false, 0 },
        { "1,5", false, false, 0 },
        { "1e", false, false, 0 },
        { "1.2.3", false, false, 0 },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        float value = 77;
        const bool fine = number_real(cases[i].text, cases[i].infinite, &value);
        if (fine != cases[i].fine) fail_msg("\"%s\" was read as %d", cases[i].text, fine);
        const float expected = fine ? cases[i].value : 77;
        assert_memory_equal(&value, &expected, sizeof value);
    }
}

static void sizes_have_binary_suffixes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        bool fine;
        uint64_t value;
    } cases[] = {
        { "0", true, 0 },
        { "1073741824", true, 1073741824 },
        { "1K", true, 1024 },
        { "512M", true, UINT64_C(512) << 20 },
        { "4G", true, UINT64_C(4) << 30 },
        { "2T", true, UINT64_C(2) << 40 },
        { "4g", true, UINT64_C(4) << 30 },
        { "4GB", true, UINT64_C(4) << 30 },
        { "4GiB", true, UINT64_C(4) << 30 },
        { "16777215T", true, UINT64_C(16777215) << 40 },
        { "16777216T", false, 0 },
        { "99999999999999999999", false, 0 },
        { "", false, 0 },
        { "M", false, 0 },
        { "-1M", false, 0 },
        { "1 M", false, 0 },
        { "1.5G", false, 0 },
        { "1P", false, 0 },
        { "1B", false, 0 },
        { "1MM", false, 0 },
        { "1Gib", false, 0 },
        { "1GiBs", false, 0 },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint64_t value = 77;
        const bool fine = number_size(cases[i].text, &value);
        if (fine != cases[i].fine) fail_msg("\"%s\" was read as %d", cases[i].text, fine);
        assert_true(value == (fine ? cases[i].value : 77));
    }
}

static void id_lists_name_the_bad_item(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t n;
        const char *bad; /* NULL: all fine */
    } cases[] = {
        { "5", 1, NULL },
        { "1,2,3", 3, NULL },
        { " 1 , 2,\n3 ", 3, NULL },
        { "2147483647", 1, NULL },
        { "2147483648", 0, "2147483648" },
        { "", 0, "" },
        { " ", 0, "" },
        { ",", 0, "" },
        { "1,", 1, "" },
        { "1,,2", 1, "" },
        { "1,-2,3", 1, "-2" },
        { "1,2 3,4", 1, "2 3" },
        { "1,x7", 1, "x7" },
        { "[1]", 0, "[1]" },
        { "1;2", 0, "1;2" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        id_list list = { 0 };
        const char *bad = NULL;
        size_t n_bad = 0;
        const bool fine = number_ids(cases[i].text, &list, &bad, &n_bad);
        if (fine != !cases[i].bad) fail_msg("\"%s\" was read as %d", cases[i].text, fine);
        assert_int_equal(list.n, cases[i].n);
        if (!fine) {
            assert_int_equal(n_bad, strlen(cases[i].bad));
            assert_memory_equal(bad, cases[i].bad, n_bad);
        }
        id_list_free(&list);
    }
}

static void ids_with_values(void **state)
{
    (void)state;
    int32_t id = 0;
    float value = 0;
    assert_true(number_id_value("17=-2.5", &id, &value));
    assert_int_equal(id, 17);
    assert_true(value < -2.4f && value > -2.6f);
    assert_true(number_id_value("0=-inf", &id, &value));
    assert_true(isinf(value));
    static const char *const bad[] = { "",      "17",     "=1",     "17=",          "17=x", "-1=1",
                                       "17==1", "17=1=1", "17=nan", "2147483648=1", "17 =1" };
    for (size_t i = 0; i < COUNT(bad); i++)
        if (number_id_value(bad[i], &id, &value)) fail_msg("\"%s\" was accepted", bad[i]);
}

/* ---- Command lines ------------------------------------------------------------------------- */

static const char *const model_only[] = { "MODEL", NULL };
static const char *const model_and_text[] = { "MODEL", "TEXT", NULL };
static const command_shape run_shape = { "run", COMMAND_RUN, model_only };
static const command_shape tokenize_shape = { "tokenize", COMMAND_TOKENIZE, model_and_text };
static const command_shape bench_shape = { "bench", COMMAND_BENCH, model_only };
static const command_shape export_shape = { "export", COMMAND_EXPORT, model_and_text };
static const command_shape convert_shape = { "convert", COMMAND_CONVERT, model_and_text };

enum { WORDS_MAX = 24 };

/* Split a line at "|" (arguments may hold blanks) and parse it. */
static bool parse(program_options *options, const command_shape *shape, char *line,
                  usage_error *error)
{
    char *words[WORDS_MAX + 1];
    int n = 0;
    *options = (program_options){ 0 };
    words[n++] = line;
    for (char *at = line; *at; at++) {
        if (*at != '|') continue;
        *at = 0;
        assert_true(n < WORDS_MAX);
        words[n++] = at + 1;
    }
    words[n] = NULL;
    return options_parse(options, shape, n, words, error);
}

static void run_lines_fill_the_options(void **state)
{
    (void)state;
    program_options options;
    usage_error error;
    char line[] =
        "run|-p|two words|m.ernie|-n|9|--temp=0|--top-k|40|--seed|9007199254740991|--stop|a|"
        "--stop=b|--logit-bias|3=-inf|--stop-id|5,6|--memory|2G|--json|-q";
    assert_true(parse(&options, &run_shape, line, &error));
    assert_int_equal(options.n_positional, 1);
    assert_string_equal(options.positional[0], "m.ernie");
    assert_string_equal(options.prompt, "two words");
    assert_int_equal(options.n_tokens, 9);
    assert_int_equal(options.top_k, 40);
    assert_true(options.seed == UINT64_C(9007199254740991));
    assert_int_equal(options.stop.n, 2);
    assert_string_equal(options.stop.items[1], "b");
    assert_int_equal(options.bias.n, 1);
    assert_int_equal(options.bias.items[0].id, 3);
    assert_int_equal(options.stop_ids.n, 2);
    assert_true(options.memory == UINT64_C(2) << 30);
    assert_true(options.json && options.quiet && !options.raw);
    assert_true(options_given(&options, "temp"));
    assert_false(options_given(&options, "top-p"));
    options_free(&options);
}

/* The same letters mean other things elsewhere, and "--" lets a text begin with a dash. */
static void commands_have_their_own_options(void **state)
{
    (void)state;
    program_options options;
    usage_error error;
    char bench[] = "bench|m.ernie|-p|64|-p|512|-c|0|-n|8";
    assert_true(parse(&options, &bench_shape, bench, &error));
    assert_int_equal(options.prompts.n, 2);
    assert_int_equal(options.prompts.ids[0], 64);
    assert_int_equal(options.prompts.ids[1], 512);
    assert_int_equal(options.contexts.n, 1);
    assert_int_equal(options.contexts.ids[0], 0);
    assert_int_equal(options.n_tokens, 8);
    assert_null(options.prompt);
    options_free(&options);

    char dash[] = "tokenize|m.ernie|--text|--|-5";
    assert_true(parse(&options, &tokenize_shape, dash, &error));
    assert_string_equal(options.positional[1], "-5");
    assert_true(options.literal_text);
    options_free(&options);

    char minus[] = "tokenize|m.ernie|-";
    assert_true(parse(&options, &tokenize_shape, minus, &error));
    assert_string_equal(options.positional[1], "-");
    options_free(&options);

    char help[] = "run|--help|--no-such-option";
    assert_true(parse(&options, &run_shape, help, &error));
    assert_true(options.help);
    options_free(&options);
}

static void bad_lines_have_their_sentence(void **state)
{
    (void)state;
    static const struct {
        const command_shape *shape;
        const char *line, *fragment;
    } cases[] = {
        { &run_shape, "run", "MODEL is missing" },
        { &run_shape, "run|m|more", "unexpected argument \"more\"" },
        { &run_shape, "run|m|--", NULL },
        { &run_shape, "run|m|--|-x", "unexpected argument \"-x\"" },
        { &run_shape, "run|m|--frobnicate", "unknown option --frobnicate" },
        { &run_shape, "run|m|--frobnicate=3", "unknown option --frobnicate, see" },
        { &run_shape, "run|m|-Z", "unknown option -Z" },
        { &run_shape, "run|m|--shape|21b", "option --shape does not belong to this command" },
        { &run_shape, "run|m|--json=yes", "option --json takes no value" },
        { &run_shape, "run|m|-p", "option --prompt needs a value (TEXT)" },
        { &run_shape, "run|m|--temp", "option --temp needs a value (T)" },
        { &run_shape, "run|m|--temp|warm",
          "option --temp: \"warm\" is not a number from 0 to 100" },
        { &run_shape, "run|m|--temp|-0.1", "from 0 to 100" },
        { &run_shape, "run|m|--temp|100.1", "from 0 to 100" },
        { &run_shape, "run|m|--top-p|0", "above 0 and at most 1" },
        { &run_shape, "run|m|--top-p|1e-60", "above 0 and at most 1" },
        { &run_shape, "run|m|-n|0", "option --tokens: \"0\" is not a whole number from 1" },
        { &run_shape, "run|m|-n|3x", "is not a whole number" },
        { &run_shape, "run|m|--seed|9007199254740992", "from 0 to 9007199254740991" },
        { &run_shape, "run|m|--threads|0", "from 1 to 1024" },
        { &run_shape, "run|m|--logprobs|21", "from 0 to 20" },
        { &run_shape, "run|m|--kv|f64", "\"f64\" is not one of f16, f32" },
        { &run_shape, "run|m|--kv|", "is not one of f16, f32" },
        { &run_shape, "run|m|--kv|f", "\"f\" is not one of" },
        { &run_shape, "run|m|--backend|cuda", "\"cuda\" is not one of auto, cpu" },
        { &run_shape, "run|m|-p|hi|-p|ho", "option --prompt: given twice" },
        { &run_shape, "run|m|-n|1|--tokens=1", "option --tokens: given twice" },
        { &run_shape, "run|m|--temp|0|--temp|0", "option --temp: given twice" },
        { &run_shape, "run|m|--seed|1|--seed|1", "option --seed: given twice" },
        { &run_shape, "run|m|--kv|f16|--kv|f16", "option --kv: given twice" },
        { &run_shape, "run|m|--memory|1|--memory|1", "option --memory: given twice" },
        { &run_shape, "run|m|-q|-q|--stop|a|--stop|b|--ids|1|--ids|2|--stop-id|1|--stop-id|2",
          NULL },
        { &run_shape, "run|m|--memory|lots", "\"lots\" is not a size" },
        { &run_shape, "run|m|--ids|1,b,3", "option --ids: \"b\" is not a token id" },
        { &run_shape, "run|m|--logit-bias|3", "\"3\" is not ID=VALUE" },
        { &run_shape, "run|m|--stop|", "the text is empty" },
        { &convert_shape, "convert|a|b|--type|q4", "is not one of f32, f16, bf16, w8, w4" },
        { &convert_shape, "convert|a|b|--preset|small", NULL },
        { &convert_shape, "convert|a|b|--preset|huge", "is not one of tiny, small, medium, large" },
        { &convert_shape, "convert|a|b|--imatrix=f", NULL },
        { &export_shape, "export|a|b|--imatrix=f", "option --imatrix does not belong" },
        { &convert_shape, "convert|a", "TEXT is missing" },
        { &export_shape, "export|a|b|--type|w4", "is not one of f16, bf16, q8_0, q4_0" },
        { &export_shape, "export|a|b|--chat|none", "option --chat does not belong to this command" },
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char line[200];
        program_options options;
        usage_error error = { "" };
        snprintf(line, sizeof line, "%s", cases[i].line);
        const bool fine = parse(&options, cases[i].shape, line, &error);
        if (fine != !cases[i].fragment) fail_msg("\"%s\" was accepted: %d", cases[i].line, fine);
        if (!fine && !strstr(error.message, cases[i].fragment))
            fail_msg("\"%s\" says: %s", cases[i].line, error.message);
        options_free(&options);
    }
}

static void seventeen_stops_are_too_many(void **state)
{
    (void)state;
    char line[400] = "run|m";
    for (int i = 0; i < 17; i++) strcat(line, "|--stop=x");
    char *words[20];
    int n = 0;
    for (char *word = strtok(line, "|"); word; word = strtok(NULL, "|")) words[n++] = word;
    words[n] = NULL;
    program_options options = { 0 };
    usage_error error;
    assert_false(options_parse(&options, &run_shape, n, words, &error));
    assert_non_null(strstr(error.message, "more than 16 times"));
    options_free(&options);
}

/* Long values are cut in the sentence, which stays one of bounded length. */
static void long_values_are_cut(void **state)
{
    (void)state;
    char value[3000];
    memset(value, '9', sizeof value - 1);
    value[sizeof value - 1] = 0;
    char name[] = "run", model[] = "m", option[] = "--seed";
    char *words[] = { name, model, option, value, NULL };
    program_options options = { 0 };
    usage_error error;
    assert_false(options_parse(&options, &run_shape, 4, words, &error));
    assert_true(strlen(error.message) < 200);
    options_free(&options);
}

static void help_lists_what_the_command_takes(void **state)
{
    (void)state;
    size_t n = 0, i_row = 0;
    option_help help;
    bool has_text = false;
    for (; options_help(&tokenize_shape, &i_row, &help); n++) {
        assert_true(strlen(help.text) > 0);
        if (strstr(help.left, "--text")) has_text = true;
        assert_null(strstr(help.left, "--temp"));
    }
    assert_true(has_text && n >= 3);
    bool has_preset = false;
    for (i_row = 0; options_help(&convert_shape, &i_row, &help);)
        if (strstr(help.left, "--preset")) has_preset = true;
    assert_true(has_preset);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_are_digits_in_range),
        cmocka_unit_test(reals_are_decimal),
        cmocka_unit_test(sizes_have_binary_suffixes),
        cmocka_unit_test(id_lists_name_the_bad_item),
        cmocka_unit_test(ids_with_values),
        cmocka_unit_test(run_lines_fill_the_options),
        cmocka_unit_test(commands_have_their_own_options),
        cmocka_unit_test(bad_lines_have_their_sentence),
        cmocka_unit_test(seventeen_stops_are_too_many),
        cmocka_unit_test(long_values_are_cut),
        cmocka_unit_test(help_lists_what_the_command_takes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
