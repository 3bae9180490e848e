/* Text to ids and back, on vocabularies small enough to check by hand. The comparison with the
 * sentencepiece library is token_vs_sentencepiece; bad sections are test_token_section. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "test_token.h"
#include "test_token_golden.h"

/* Ids as "piece piece piece". */
static void pieces_of(const ern_tokenizer *t, const ern_ids *ids, char *out, size_t capacity)
{
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < ids->n; i++) {
        size_t n;
        const char *piece = ern_tokenizer_piece(t, ids->data[i], &n);
        assert_non_null(piece);
        used +=
            (size_t)snprintf(out + used, capacity - used, "%s%.*s", i ? " " : "", (int)n, piece);
        assert_true(used < capacity);
    }
}

static void check_bytes(const fixture *f, const char *text, size_t n, ernie_tokenize_mode mode,
                        const char *expected)
{
    char got[4096];
    ern_ids ids = { .allocator = ern_allocator_default() };
    assert_int_equal(ern_tokenize(f->t, text, n, mode, &ids, NULL), ERNIE_OK);
    pieces_of(f->t, &ids, got, sizeof got);
    if (strcmp(got, expected) != 0)
        fail_msg("\"%.*s\" in mode %d: \"%s\", expected \"%s\"", (int)n, text, (int)mode, got,
                 expected);
    ern_ids_free(&ids);
}

static void check(const fixture *f, const char *text, ernie_tokenize_mode mode,
                  const char *expected)
{
    check_bytes(f, text, strlen(text), mode, expected);
}

typedef struct text_case {
    const char *text, *expected;
} text_case;

static void check_all(const fixture *f, const text_case *cases, size_t n, ernie_tokenize_mode mode)
{
    for (size_t i = 0; i < n; i++) check(f, cases[i].text, mode, cases[i].expected);
}

/* ---- Plain text ---------------------------------------------------------------------------- */

static void text_merges_by_score_then_leftmost(void **state)
{
    (void)state;
    static const text_case cases[] = {
        { "", "" },
        { "a", "a" },
        { "abc", "abc" },
        { "abcd", "abc d" }, /* ab before bc; cd would need c */
        { "bcd", "bc d" },
        { "cd", "cd" },
        { "aaa", "aa a" }, /* leftmost of equals */
        { "aaaaaaa", "aaaa aa a" },
        { " a", SP "a" },
        { " ab", SP " ab" },      /* ab is better than ▁a */
        { "  a", SP " " SP "a" }, /* ▁a is better than ▁▁ */
        { "   ", SP SP " " SP },
        { "床前", "床 前" },
        { SP "a", SP "a" }, /* an input ▁ is a space */
        { "the", "th <0x65>" },
        { "thi", "thi" },
    };
    fixture f;
    small_open(&f, 0, true);
    check_all(&f, cases, ERN_COUNT(cases), ERNIE_TOKENIZE_TEXT);
    fixture_close(&f);
}

static void text_keeps_user_pieces_whole(void **state)
{
    (void)state;
    static const text_case cases[] = {
        { "112", "1 12" },
        { "12a1", "12 a 1" },
        { "a\n\nb", "a \n \n b" },
        { "a<think>b", "a <think> b" },
        { "<thin", "<t h i n" },        /* <t is better than thi */
        { "</s><s>", "< / s > < s >" }, /* control pieces are never found in plain text */
        { "<|x|>", "< | x | >" },
        { "<unk>", "< <0x75> n k >" },
        { "<0x41>", "< <0x30> x <0x34> 1 >" },
        { "<>", "<>" },
    };
    fixture f;
    small_open(&f, 0, true);
    check_all(&f, cases, ERN_COUNT(cases), ERNIE_TOKENIZE_TEXT);
    fixture_close(&f);
}

static void text_falls_back_to_bytes(void **state)
{
    (void)state;
    static const text_case cases[] = {
        { "霜", "<0xE9> <0x9C> <0x9C>" },
        { "a😀b", "a <0xF0> <0x9F> <0x98> <0x80> b" },
        /* broken UTF-8: one U+FFFD for each bad byte, as the library does */
        { "\xff", "<0xEF> <0xBF> <0xBD>" },
        { "\xe5\xba", "<0xEF> <0xBF> <0xBD> <0xEF> <0xBF> <0xBD>" },
        { "\xed\xa0\x80", "<0xEF> <0xBF> <0xBD> <0xEF> <0xBF> <0xBD> <0xEF> <0xBF> <0xBD>" },
        { "a\xc3"
          "b",
          "a <0xEF> <0xBF> <0xBD> b" },
        { FFFD, "<0xEF> <0xBF> <0xBD>" },
    };
    fixture f;
    small_open(&f, 0, true);
    check_all(&f, cases, ERN_COUNT(cases), ERNIE_TOKENIZE_TEXT);
    check_bytes(&f, "a\0b", 3, ERNIE_TOKENIZE_TEXT, "a <0x00> b");
    fixture_close(&f);
}

static void text_without_fallback_is_unknown(void **state)
{
    (void)state;
    static const text_case cases[] = {
        { "霜", "<unk>" },
        { "地上霜", "<unk>" }, /* one for a whole run */
        { "霜a霜", "<unk> a <unk>" },
        { "霜1霜", "<unk> 1 <unk>" },
        { "\xff\xff", "<unk>" },
    };
    fixture f;
    small_open(&f, 0, false);
    check_all(&f, cases, ERN_COUNT(cases), ERNIE_TOKENIZE_TEXT);
    fixture_close(&f);
}

static void text_takes_unused_pieces_apart(void **state)
{
    (void)state;
    static const struct {
        const char *piece;
        unsigned type;
    } pieces[] = { { "ab", ERN_TOKEN_NORMAL },   { "abc", ERN_TOKEN_UNUSED },
                   { "abcd", ERN_TOKEN_UNUSED }, { "abcde", ERN_TOKEN_NORMAL },
                   { "u", ERN_TOKEN_UNUSED },    { "a", ERN_TOKEN_NORMAL },
                   { "b", ERN_TOKEN_NORMAL },    { "c", ERN_TOKEN_NORMAL },
                   { "d", ERN_TOKEN_NORMAL },    { "e", ERN_TOKEN_NORMAL } };
    static const text_case cases[] = {
        { "abc", "ab c" },          { "abcd", "ab c d" },
        { "abcde", "abcde" },       { "u", "u" }, /* a single character was never made of parts */
        { "1abcd1", "1 ab c d 1" },
    };
    test_vocab v;
    fixture f;
    test_vocab_begin(&v, ERN_TOKENIZER_ESCAPE_SPACES);
    test_vocab_add(&v, "<unk>", ERN_TOKEN_UNKNOWN, 0);
    test_vocab_add(&v, "1", ERN_TOKEN_USER, 0);
    for (size_t i = 0; i < ERN_COUNT(pieces); i++)
        test_vocab_add(&v, pieces[i].piece, pieces[i].type, -(float)i);
    fixture_open(&f, &v);
    check_all(&f, cases, ERN_COUNT(cases), ERNIE_TOKENIZE_TEXT);
    fixture_close(&f);
}

static void text_equal_scores_merge_leftmost(void **state)
{
    (void)state;
    test_vocab v;
    fixture f;
    test_vocab_begin(&v, ERN_TOKENIZER_ESCAPE_SPACES);
    test_vocab_add(&v, "<unk>", ERN_TOKEN_UNKNOWN, 0);
    test_vocab_add(&v, "ab", ERN_TOKEN_NORMAL, -0.0f);
    test_vocab_add(&v, "bc", ERN_TOKEN_NORMAL, 0.0f);
    test_vocab_add(&v, "ca", ERN_TOKEN_NORMAL, 0.0f);
    test_vocab_add(&v, "da", ERN_TOKEN_NORMAL, 1.5f);
    for (const char *c = "abcd"; *c; c++) test_vocab_add_bytes(&v, c, 1, ERN_TOKEN_NORMAL, -9);
    fixture_open(&f, &v);
    check(&f, "abca", ERNIE_TOKENIZE_TEXT, "ab ca");
    check(&f, "bcab", ERNIE_TOKENIZE_TEXT, "bc ab");
    check(&f, "dabc", ERNIE_TOKENIZE_TEXT, "da bc");
    fixture_close(&f);
}

/* ---- Normalization ------------------------------------------------------------------------- */

static void normal_spaces(void **state)
{
    (void)state;
    static const struct {
        uint32_t flags;
        const char *text, *expected;
    } cases[] = {
        { ERN_TOKENIZER_DUMMY_PREFIX, "a", SP "a" },
        { ERN_TOKENIZER_DUMMY_PREFIX, " a", SP " " SP "a" },
        { ERN_TOKENIZER_DUMMY_PREFIX, "", "" },
        { ERN_TOKENIZER_DUMMY_PREFIX | ERN_TOKENIZER_SPACE_SUFFIX, "a", "a " SP },
        { ERN_TOKENIZER_REMOVE_EXTRA_SPACES, "  a   b ", "a " SP " b" },
        { ERN_TOKENIZER_REMOVE_EXTRA_SPACES, "   ", "" },
        { ERN_TOKENIZER_REMOVE_EXTRA_SPACES, "a " SP " ", "a" },
        { ERN_TOKENIZER_DUMMY_PREFIX | ERN_TOKENIZER_REMOVE_EXTRA_SPACES, "  a  ", SP "a" },
        { ERN_TOKENIZER_DUMMY_PREFIX | ERN_TOKENIZER_REMOVE_EXTRA_SPACES, "   ", "" },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        fixture f;
        small_open(&f, cases[i].flags, true);
        check(&f, cases[i].text, ERNIE_TOKENIZE_TEXT, cases[i].expected);
        fixture_close(&f);
    }
}

static void normal_rules(void **state)
{
    (void)state;
    static const text_case cases[] = {
        { "A", "a" },
        { "ABc", "abc" },  /* the longest rule, then merges */
        { "AAB", "a ab" }, /* equal to a, ab: aa would be worse than ab */
        { "ﬁ", "i" },
        { "床", "床" },
        { "床床床", "前 床" },
        { "a\tb", "a " SP " b" },
        { "e\xcc\x81", "é" },
        { "a\x7f"
          "b",
          "ab" }, /* a rule that writes nothing */
        { "\xef\xbc", "<0xEF> <0xBF> <0xBD> <0xEF> <0xBF> <0xBD>" },
        { "＜think＞", "<think>" }, /* as the library does in plain text */
    };
    test_vocab v;
    fixture f;
    small_vocab(&v, 0, true);
    test_vocab_set_rules(&v, some_rules, ERN_COUNT(some_rules));
    fixture_open(&f, &v);
    check_all(&f, cases, ERN_COUNT(cases), ERNIE_TOKENIZE_TEXT);
    check(&f, "＜think＞", ERNIE_TOKENIZE_LITERAL, "<t h i n k >");
    check(&f, "＜/s＞", ERNIE_TOKENIZE_SPECIAL, "< / s >");
    fixture_close(&f);
}

/* ---- Modes --------------------------------------------------------------------------------- */

static void special_tokens_become_ids(void **state)
{
    (void)state;
    static const text_case cases[] = {
        { "</s><s>", "</s> <s>" },
        { "a</s>b", "a </s> b" },
        { "a<think>1", "a <think> 1" },
        { "<|x|><|x|><|x|>", "<|x|><|x|> <|x|>" }, /* longest */
        { "<|x|", "< | x |" },
        { "<<s>>", "< <s> >" },
        { "<unk>", "< <0x75> n k >" },
        { " </s> a", SP " </s> " SP "a" },
        { "\xff</s>\xff", "<0xEF> <0xBF> <0xBD> </s> <0xEF> <0xBF> <0xBD>" },
    };
    fixture f;
    small_open(&f, 0, true);
    check_all(&f, cases, ERN_COUNT(cases), ERNIE_TOKENIZE_SPECIAL);
    fixture_close(&f);
}

/* The dummy space belongs to the text, not to each run between special tokens. */
static void special_tokens_and_dummy_spaces(void **state)
{
    (void)state;
    static const struct {
        uint32_t flags;
        const char *text, *expected;
    } cases[] = {
        { ERN_TOKENIZER_DUMMY_PREFIX, "a</s>a", SP "a </s> a" },
        { ERN_TOKENIZER_DUMMY_PREFIX, "</s>a", "</s> a" },
        { ERN_TOKENIZER_DUMMY_PREFIX, "<think>a", "<think> a" },
        { ERN_TOKENIZER_DUMMY_PREFIX, "1</s>", SP " 1 </s>" },
        { ERN_TOKENIZER_DUMMY_PREFIX | ERN_TOKENIZER_SPACE_SUFFIX, "a</s>a", "a </s> a " SP },
        { ERN_TOKENIZER_DUMMY_PREFIX | ERN_TOKENIZER_SPACE_SUFFIX, "a</s>", "a </s>" },
        { ERN_TOKENIZER_REMOVE_EXTRA_SPACES, " a </s> a ", "a </s> a" },
        { ERN_TOKENIZER_REMOVE_EXTRA_SPACES | ERN_TOKENIZER_DUMMY_PREFIX, "  </s>", "</s>" },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        fixture f;
        small_open(&f, cases[i].flags, true);
        check(&f, cases[i].text, ERNIE_TOKENIZE_SPECIAL, cases[i].expected);
        fixture_close(&f);
    }
}

static void literal_text_makes_no_special_tokens(void **state)
{
    (void)state;
    static const text_case cases[] = {
        { "</s><s>", "< / s > < s >" },
        { "<|x|>", "< | x | >" },
        { "a<think>b", "a <t h i n k > b" },
        { "<think>12\n", "<t h i n k > 12 \n" }, /* plain user pieces stay whole */
        { "<>", "<>" },                          /* too short to be marked */
        { "<0x0A>", "< <0x30> x <0x30> <0x41> >" },
    };
    fixture f;
    small_open(&f, 0, true);
    check_all(&f, cases, ERN_COUNT(cases), ERNIE_TOKENIZE_LITERAL);
    fixture_close(&f);
}

/* Pieces that would merge into a marked one must stop before it. */
static void literal_text_does_not_merge_into_marked_pieces(void **state)
{
    (void)state;
    static const char *const normal[] = { "<x", "y>", "<", "x", "y", ">" };
    test_vocab v;
    fixture f;
    test_vocab_begin(&v, ERN_TOKENIZER_ESCAPE_SPACES);
    test_vocab_add(&v, "<unk>", ERN_TOKEN_UNKNOWN, 0);
    test_vocab_add(&v, "<xy>", ERN_TOKEN_USER, 0);
    for (size_t i = 0; i < ERN_COUNT(normal); i++)
        test_vocab_add(&v, normal[i], ERN_TOKEN_NORMAL, -1 - (float)i);
    fixture_open(&f, &v);
    check(&f, "<xy>", ERNIE_TOKENIZE_LITERAL, "<x y>");
    check(&f, "<xy>", ERNIE_TOKENIZE_TEXT, "<xy>");
    fixture_close(&f);
}

static void check_spans(const fixture *f, const char *text, const ern_span *spans, size_t n,
                        bool begins, const char *expected)
{
    char got[1024];
    ern_ids ids = { .allocator = ern_allocator_default() };
    assert_int_equal(ern_tokenize_spans(f->t, text, spans, n, begins, &ids, NULL), ERNIE_OK);
    pieces_of(f->t, &ids, got, sizeof got);
    assert_string_equal(got, expected);
    ern_ids_free(&ids);
}

static void spans_are_one_text(void **state)
{
    (void)state;
    const ernie_tokenize_mode special = ERNIE_TOKENIZE_SPECIAL, literal = ERNIE_TOKENIZE_LITERAL;
    fixture f, dummy;
    small_open(&f, 0, true);
    small_open(&dummy, ERN_TOKENIZER_DUMMY_PREFIX, true);
    /* merges cross borders, and so do characters and plain user pieces */
    check_spans(&f, "abc",
                (ern_span[]){ { 1, special, -1 }, { 2, literal, -1 }, { 3, special, -1 } }, 3, true,
                "abc");
    check_spans(&f, "12", (ern_span[]){ { 1, special, -1 }, { 2, literal, -1 } }, 2, true, "12");
    check_spans(&f, "床", (ern_span[]){ { 1, special, -1 }, { 3, literal, -1 } }, 2, true, "床");
    /* special tokens do not: not into literal text, not out of it */
    check_spans(&f, "</s></s>", (ern_span[]){ { 4, special, -1 }, { 8, literal, -1 } }, 2, true,
                "</s> < / s >");
    check_spans(&f, "</s></s>", (ern_span[]){ { 4, literal, -1 }, { 8, special, -1 } }, 2, true,
                "< / s > </s>");
    check_spans(&f, "</s>", (ern_span[]){ { 2, special, -1 }, { 4, literal, -1 } }, 2, true,
                "< / s >");
    check_spans(&f, "<think>", (ern_span[]){ { 3, special, -1 }, { 7, special, -1 } }, 2, true,
                "<t h i n k >");
    /* empty spans, and tokens given by their id */
    check_spans(&f, "ab",
                (ern_span[]){ { 0, literal, -1 },
                              { 1, special, -1 },
                              { 1, literal, -1 },
                              { 2, special, -1 },
                              { 2, literal, -1 } },
                5, true, "ab");
    check_spans(&f, "a?b",
                (ern_span[]){ { 1, literal, -1 }, { 2, special, 2 }, { 3, literal, -1 } }, 3, true,
                "a </s> b");
    check_spans(&f, "", (ern_span[]){ { 0, special, 2 }, { 0, special, 1 } }, 2, true, "</s> <s>");
    check_spans(&f, "", NULL, 0, true, "");
    /* the dummy space is due at the text's beginning only */
    check_spans(&dummy, "a", (ern_span[]){ { 1, literal, -1 } }, 1, true, SP "a");
    check_spans(&dummy, "a", (ern_span[]){ { 1, literal, -1 } }, 1, false, "a");
    check_spans(&dummy, "?a", (ern_span[]){ { 1, special, 2 }, { 2, literal, -1 } }, 2, true,
                "</s> a");
    fixture_close(&f);
    fixture_close(&dummy);
}

/* ---- Long text ----------------------------------------------------------------------------- */

static void text_long_runs_stay_fast(void **state)
{
    (void)state;
    static const struct {
        const char *unit;
        size_t n_ids; /* for each 64 units */
    } cases[] = { { "a", 16 }, { "\n", 64 },    { "<", 64 },
                  { " ", 32 }, { "\xff", 192 }, { "abc", 64 } };
    const size_t n_units = 64 * 16384; /* a quadratic method would need hours */
    fixture f;
    small_open(&f, 0, true);
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        const size_t n_unit = strlen(cases[i].unit);
        char *text = test_vocab_alloc(NULL, n_units * n_unit);
        ern_ids ids = { .allocator = ern_allocator_default() };
        for (size_t k = 0; k < n_units; k++) memcpy(text + k * n_unit, cases[i].unit, n_unit);
        assert_int_equal(
            ern_tokenize(f.t, text, n_units * n_unit, ERNIE_TOKENIZE_SPECIAL, &ids, NULL),
            ERNIE_OK);
        assert_int_equal(ids.n, n_units / 64 * cases[i].n_ids);
        ern_ids_free(&ids);
        free(text);
    }
    fixture_close(&f);
}

/* ---- Decoding ------------------------------------------------------------------------------ */

static void token_bytes_of_every_type(void **state)
{
    (void)state;
    static const struct {
        const char *piece, *plain, *special;
    } cases[] = { { "a", "a", "a" },
                  { SP "a", " a", " a" },
                  { SP SP, "  ", "  " },
                  { "</s>", "", "</s>" },
                  { "<|x|>", "", "<|x|>" },
                  { "<think>", "<think>", "<think>" },
                  { "\n", "\n", "\n" },
                  { "<0x41>", "A", "A" },
                  { "<0xE5>", "\xe5", "\xe5" },
                  { "<unk>", " \xe2\x81\x87 ", "<unk>" } };
    fixture f;
    small_open(&f, ERN_TOKENIZER_DUMMY_PREFIX, true);
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        char bytes[ERN_TOKEN_TEXT_MAX];
        const int32_t id = ern_tokenizer_find(f.t, cases[i].piece, strlen(cases[i].piece));
        assert_true(id >= 0);
        for (int special = 0; special < 2; special++) {
            const char *expected = special ? cases[i].special : cases[i].plain;
            assert_int_equal(ern_token_bytes(f.t, id, special, false, bytes), strlen(expected));
            assert_memory_equal(bytes, expected, strlen(expected));
        }
    }
    char bytes[ERN_TOKEN_TEXT_MAX];
    assert_int_equal(ern_token_bytes(f.t, ern_tokenizer_find(f.t, SP "a", 4), false, true, bytes),
                     1);
    assert_int_equal(ern_token_bytes(f.t, -1, true, false, bytes), 0);
    assert_int_equal(ern_token_bytes(f.t, 1 << 20, true, false, bytes), 0);
    assert_int_equal(ern_tokenizer_find(f.t, "absent", 6), -1);
    assert_int_equal(ern_tokenizer_find(f.t, "", 0), -1);
    assert_int_equal(ern_tokenizer_type(f.t, 1), ERN_TOKEN_CONTROL);
    assert_int_equal(ern_tokenizer_type(f.t, -1), 0);
    assert_null(ern_tokenizer_piece(f.t, -1, NULL));
    assert_null(ern_tokenizer_piece(f.t, (int32_t)ern_tokenizer_n_tokens(f.t), NULL));
    fixture_close(&f);
}

/* What the library strips from the beginning depends on both flags. */
static void decoding_strips_the_dummy_space(void **state)
{
    (void)state;
    const uint32_t dummy = ERN_TOKENIZER_DUMMY_PREFIX, trim = ERN_TOKENIZER_REMOVE_EXTRA_SPACES;
    const struct {
        uint32_t flags;
        const char *pieces[4], *expected;
    } cases[] = {
        { 0, { SP "a", SP "a" }, " a a" },         { dummy, { SP "a", SP "a" }, "a a" },
        { dummy, { "</s>", SP "a" }, "a" },        { dummy, { SP, SP "a" }, " a" },
        { dummy, { SP SP, "a" }, " a" },           { dummy, { "a", SP "a" }, "a a" },
        { dummy, { "<0x41>", SP "a" }, "A a" },    { trim, { SP, SP "a" }, "a" },
        { trim | dummy, { SP, SP, SP "a" }, "a" },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        fixture f;
        ern_decoding decoding = { { { 0 }, 0 }, false };
        char text[4 * ERNIE_STREAM_TEXT_MAX];
        size_t n = 0;
        small_open(&f, cases[i].flags, true);
        for (size_t k = 0; k < 4 && cases[i].pieces[k]; k++) {
            const char *piece = cases[i].pieces[k];
            n += ern_decode(f.t, &decoding, ern_tokenizer_find(f.t, piece, strlen(piece)), false,
                            text + n);
        }
        text[n] = '\0';
        assert_string_equal(text, cases[i].expected);
        fixture_close(&f);
    }
}

static void stream_replaces_maximal_subparts(void **state)
{
    (void)state;
    static const text_case cases[] = {
        { "", "" },
        { "a床😀", "a床😀" },
        { "\xff", FFFD },
        { "\x80", FFFD },
        { "\xc3", FFFD },
        { "\xe5\xba", FFFD },
        { "\xf0\x9f\x98", FFFD },
        { "\xf0\x9f\x98"
          "A",
          FFFD "A" },
        { "\xf0\x9f\xe5\xba\x8a", FFFD "床" },
        { "\xe0\x80\x80", FFFD FFFD FFFD }, /* overlong: E0 wants A0..BF next */
        { "\xed\xa0\x80", FFFD FFFD FFFD }, /* a surrogate */
        { "\xf4\x90\x80\x80", FFFD FFFD FFFD FFFD },
        { "\xc0\xaf", FFFD FFFD },
        { "\xf1\x80\x80\xe1\x80\xc2"
          "b",
          FFFD FFFD FFFD "b" }, /* Unicode's table 3-8, abridged */
        { "\xed\x9f\xbf", "\xed\x9f\xbf" },
        { "\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf" },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        const size_t n = strlen(cases[i].text);
        for (size_t split = 0; split <= n; split++) {
            for (size_t second = split; second <= n; second++) {
                ernie_text_stream stream = { { 0 }, 0 };
                char out[256];
                size_t n_out = ern_utf8_stream(&stream, cases[i].text, split, out);
                n_out +=
                    ern_utf8_stream(&stream, cases[i].text + split, second - split, out + n_out);
                n_out += ern_utf8_stream(&stream, cases[i].text + second, n - second, out + n_out);
                n_out += ern_utf8_finish(&stream, out + n_out);
                out[n_out] = '\0';
                assert_string_equal(out, cases[i].expected);
                assert_int_equal(ern_utf8_finish(&stream, out), 0);
            }
        }
    }
}

/* ---- The demo model's tokenizer -------------------------------------------------------------- */

static bool demo_open(fixture *f)
{
    size_t n = 0;
    unsigned char *model = test_read_shared("ernie-demo-moe/tokenizer.model", &n);
    if (!model) return false;
    test_vocab v;
    test_vocab_read_model(&v, model, n);
    free(model);
    fixture_open(f, &v);
    return true;
}

static void demo_equals_golden_values(void **state)
{
    (void)state;
    fixture f;
    if (!demo_open(&f)) {
        skip();
        return;
    }
    assert_int_equal(ern_tokenizer_n_tokens(f.t), 12288);
    for (size_t i = 0; i < ERN_COUNT(golden_cases); i++) {
        const golden_case *golden = &golden_cases[i];
        ern_ids ids = { .allocator = ern_allocator_default() };
        ern_decoding decoding = { { { 0 }, 0 }, false };
        char text[32 * ERNIE_STREAM_TEXT_MAX];
        size_t n_text = 0, n_ids = 0;
        while (n_ids < 32 && golden->ids[n_ids]) n_ids++;
        assert_int_equal(
            ern_tokenize(f.t, golden->text, strlen(golden->text), golden->mode, &ids, NULL),
            ERNIE_OK);
        assert_int_equal(ids.n, n_ids);
        if (n_ids) assert_memory_equal(ids.data, golden->ids, n_ids * sizeof *ids.data);
        for (size_t k = 0; k < n_ids; k++)
            n_text += ern_decode(f.t, &decoding, ids.data[k], false, text + n_text);
        text[n_text] = '\0';
        assert_string_equal(text, golden->decoded);
        ern_ids_free(&ids);
    }
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_merges_by_score_then_leftmost),
        cmocka_unit_test(text_keeps_user_pieces_whole),
        cmocka_unit_test(text_falls_back_to_bytes),
        cmocka_unit_test(text_without_fallback_is_unknown),
        cmocka_unit_test(text_takes_unused_pieces_apart),
        cmocka_unit_test(text_equal_scores_merge_leftmost),
        cmocka_unit_test(normal_spaces),
        cmocka_unit_test(normal_rules),
        cmocka_unit_test(special_tokens_become_ids),
        cmocka_unit_test(special_tokens_and_dummy_spaces),
        cmocka_unit_test(literal_text_makes_no_special_tokens),
        cmocka_unit_test(literal_text_does_not_merge_into_marked_pieces),
        cmocka_unit_test(spans_are_one_text),
        cmocka_unit_test(text_long_runs_stay_fast),
        cmocka_unit_test(token_bytes_of_every_type),
        cmocka_unit_test(decoding_strips_the_dummy_space),
        cmocka_unit_test(stream_replaces_maximal_subparts),
        cmocka_unit_test(demo_equals_golden_values),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
