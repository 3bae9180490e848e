/* The tokenizer section as hostile input, and memory that runs out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "test_allocator.h"
#include "test_token.h"

/* ---- Hostile sections ---------------------------------------------------------------------- */

static void expect_refusal(const unsigned char *section, size_t n, const char *words)
{
    ernie_error error = { ERNIE_OK, "" };
    ern_tokenizer *t = (ern_tokenizer *)(void *)&error;
    assert_int_equal(ern_tokenizer_open(&t, section, n, ern_allocator_default(), &error),
                     ERNIE_FORMAT);
    assert_null(t);
    if (!strstr(error.message, words)) fail_msg("\"%s\" lacks \"%s\"", error.message, words);
}

static void expect_vocab_refusal(test_vocab *v, const char *words)
{
    size_t n;
    unsigned char *section = test_vocab_section(v, &n);
    test_vocab_free(v);
    expect_refusal(section, n, words);
    free(section);
}

static void open_refuses_bad_heads(void **state)
{
    (void)state;
    static const struct {
        size_t offset; /* of a u32 in the section */
        uint32_t value;
        const char *words;
    } cases[] = {
        { offsetof(ern_tokenizer_head, n_tokens), 0, "0 tokens" },
        { offsetof(ern_tokenizer_head, n_tokens), 0xffffffffu, "4294967295 tokens" },
        { offsetof(ern_tokenizer_head, n_tokens), 4000000, "add up to" },
        { offsetof(ern_tokenizer_head, flags), 0x100, "flags 0x100" },
        { offsetof(ern_tokenizer_head, unk_id), 5, "names 5 as the unknown piece" },
        { offsetof(ern_tokenizer_head, unk_id), 0xffffffffu, "names -1 as the unknown piece" },
        { offsetof(ern_tokenizer_head, text_bytes), 0xfffffffcu, "add up to" },
        { offsetof(ern_tokenizer_head, charsmap_bytes), 0xffffffffu, "add up to" },
        { offsetof(ern_tokenizer_head, reserved), 1, "reserved" },
        { sizeof(ern_tokenizer_head), 0x7fc00000u, "score of piece 0" }, /* NaN */
        { sizeof(ern_tokenizer_head) + 4, 0xff800000u, "score of piece 1" },
    };
    test_vocab v;
    size_t n;
    small_vocab(&v, 0, true);
    unsigned char *section = test_vocab_section(&v, &n);
    test_vocab_free(&v);
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        unsigned char *bad = test_vocab_alloc(NULL, n);
        memcpy(bad, section, n);
        memcpy(bad + cases[i].offset, &cases[i].value, 4);
        expect_refusal(bad, n, cases[i].words);
        free(bad);
    }
    for (size_t cut = 0; cut < n; cut += 1 + cut / 8) {
        unsigned char *bad = test_vocab_alloc(NULL, cut);
        memcpy(bad, section, cut);
        expect_refusal(bad, cut, cut < sizeof(ern_tokenizer_head) ? "head alone" : "add up to");
        free(bad);
    }
    expect_refusal(section + 1, n - 1, "multiple of 4");
    free(section);
}

static void open_refuses_bad_offsets(void **state)
{
    (void)state;
    static const struct {
        uint32_t index, value;
        const char *words;
    } cases[] = { { 0, 1, "first piece is at byte 1" },
                  { 1, 0, "piece 0 has 0 bytes" },
                  { 1, 20, "piece 1 is bytes 20 to 8" },
                  { 1, 0x7fffffff, "piece 0 is bytes 0 to 2147483647" },
                  { 2, 3, "piece 1 is bytes 5 to 3" } };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        test_vocab v;
        small_vocab(&v, 0, false);
        v.offset[cases[i].index] = cases[i].value;
        expect_vocab_refusal(&v, cases[i].words);
    }
}

static void open_refuses_bad_pieces(void **state)
{
    (void)state;
    static char text[1024];
    static const struct {
        const char *piece;
        size_t n;
        unsigned type;
        const char *words;
    } cases[] = {
        { "ab", 2, ERN_TOKEN_NORMAL, "are the same" },
        { "<s>", 3, ERN_TOKEN_NORMAL, "are the same" },
        { "zz", 2, 0, "has type 0" },
        { "zz", 2, 8, "has type 8" },
        { "zz", 2, ERN_TOKEN_UNKNOWN, "both the unknown one" },
        { "\xff", 1, ERN_TOKEN_NORMAL, "not UTF-8" },
        { "z\xe5\xba", 3, ERN_TOKEN_NORMAL, "not UTF-8" },
        { "z\0z", 3, ERN_TOKEN_NORMAL, "not UTF-8 without zeros" },
        { "<0x4g>", 6, ERN_TOKEN_BYTE, "not written" },
        { "<0x4a>", 6, ERN_TOKEN_BYTE, "not written" },
        { "<0x4A", 5, ERN_TOKEN_BYTE, "not written" },
        { text, 509, ERN_TOKEN_NORMAL, "has 509 bytes" },
    };
    memset(text, 'z', sizeof text);
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        test_vocab v;
        small_vocab(&v, 0, false);
        test_vocab_add_bytes(&v, cases[i].piece, cases[i].n, cases[i].type, 0);
        if (cases[i].type == ERN_TOKEN_UNKNOWN) v.unk_id = 0;
        expect_vocab_refusal(&v, cases[i].words);
    }
    test_vocab v;
    small_vocab(&v, ERN_TOKENIZER_BYTE_FALLBACK, false);
    test_vocab_add(&v, "<0x00>", ERN_TOKEN_BYTE, 0);
    expect_vocab_refusal(&v, "<0x01> is missing");
    test_vocab_begin(&v, 0);
    test_vocab_add(&v, "a", ERN_TOKEN_NORMAL, 0);
    expect_vocab_refusal(&v, "neither an unknown piece nor byte fallback");
}

static void open_refuses_bad_charsmaps(void **state)
{
    (void)state;
    static const struct {
        const char *data;
        size_t n;
        const char *words;
    } cases[] = {
        { "\4", 1, "charsmap of 1 bytes" },
        { "\0\0\0\0", 4, "array has 0 bytes" },
        { "\3\0\0\0abcdefg", 11, "array has 3 bytes" },
        { "\x10\0\0\0abcdefg", 11, "array has 16 bytes, 7 are there" },
        { "\xfc\xff\xff\xff"
          "abcdefg",
          11, "array has 4294967292 bytes" },
        { "\4\0\0\0abcdefg", 11, "no end" },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        test_vocab v;
        small_vocab(&v, 0, true);
        test_vocab_set_charsmap(&v, cases[i].data, cases[i].n);
        expect_vocab_refusal(&v, cases[i].words);
    }
    char long_string[4 + 4 + 600] = "\4";
    memset(long_string + 8, 'z', 598);
    test_vocab v;
    small_vocab(&v, 0, true);
    test_vocab_set_charsmap(&v, long_string, sizeof long_string);
    expect_vocab_refusal(&v, "longer than 512");
}

/* Whatever a damaged section still opens as must tokenize and detokenize without harm (the sanitizer
 * builds watch), and must give ids of the vocabulary. */
static void damaged_sections_do_no_harm(void **state)
{
    (void)state;
    static const char text[] = "  aABabc12\n<think></s>床床e\xcc\x81\xff<|x|>\tA\x7f ﬁ ";
    test_vocab v;
    size_t n;
    uint32_t random = 1;
    small_vocab(&v, ERN_TOKENIZER_DUMMY_PREFIX, true);
    test_vocab_set_rules(&v, some_rules, ERN_COUNT(some_rules));
    unsigned char *section = test_vocab_section(&v, &n), *bad = test_vocab_alloc(NULL, n);
    test_vocab_free(&v);
    for (unsigned round = 0; round < 4000; round++) {
        memcpy(bad, section, n);
        for (unsigned k = 0; k < 1 + round % 3; k++) {
            random = random * 1664525u + 1013904223u;
            bad[(random >> 8) % n] ^= (unsigned char)(1u << (random & 7));
        }
        ern_tokenizer *t;
        if (ern_tokenizer_open(&t, bad, n, ern_allocator_default(), NULL) != ERNIE_OK) continue;
        for (int mode = 0; mode < 3; mode++) {
            ern_ids ids = { .allocator = ern_allocator_default() };
            ern_decoding decoding = { { { 0 }, 0 }, false };
            char out[ERNIE_STREAM_TEXT_MAX];
            assert_int_equal(
                ern_tokenize(t, text, sizeof text, (ernie_tokenize_mode)mode, &ids, NULL),
                ERNIE_OK);
            for (size_t i = 0; i < ids.n; i++) {
                assert_in_range(ids.data[i], 0, ern_tokenizer_n_tokens(t) - 1);
                const size_t n_out = ern_decode(t, &decoding, ids.data[i], true, out);
                assert_true(n_out <= sizeof out && ern_utf8_valid(out, n_out));
            }
            ern_ids_free(&ids);
        }
        ern_tokenizer_close(t);
    }
    free(bad);
    free(section);
}

/* ---- Memory -------------------------------------------------------------------------------- */

static ernie_status open_and_tokenize(const ernie_allocator *allocator,
                                      const unsigned char *section, size_t n, ern_ids *ids)
{
    static const char text[] =
        "abcABabcd 12 <think>\n aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa</s>床";
    ern_tokenizer *t;
    ernie_status status = ern_tokenizer_open(&t, section, n, allocator, NULL);
    if (status == ERNIE_OK)
        status = ern_tokenize(t, text, sizeof text - 1, ERNIE_TOKENIZE_SPECIAL, ids, NULL);
    else
        assert_null(t);
    ern_tokenizer_close(t);
    return status;
}

static void failing_allocations_unwind(void **state)
{
    (void)state;
    test_vocab v;
    size_t n;
    small_vocab(&v, 0, true);
    test_vocab_set_rules(&v, some_rules, ERN_COUNT(some_rules));
    test_vocab_add(&v, "abcd", ERN_TOKEN_UNUSED, -1);
    unsigned char *section = test_vocab_section(&v, &n);
    test_vocab_free(&v);
    for (int sticky = 0; sticky < 2; sticky++) {
        for (long k = 0;; k++) {
            test_allocator counting;
            ernie_allocator allocator;
            test_allocator_begin(&counting, &allocator);
            ern_ids ids = { .allocator = &allocator };
            assert_true(ern_ids_push(&ids, 42));
            test_allocator_fail_at(&counting, k, sticky);
            const ernie_status status = open_and_tokenize(&allocator, section, n, &ids);
            assert_true(status == ERNIE_OK || status == ERNIE_NO_MEMORY);
            assert_int_equal(ids.data[0], 42);
            if (status != ERNIE_OK) assert_int_equal(ids.n, 1);
            ern_ids_free(&ids);
            assert_int_equal(atomic_load(&counting.live), 0);
            assert_int_equal(atomic_load(&counting.n_wrong_sizes), 0);
            if (status == ERNIE_OK) {
                assert_true(k > 8); /* the loop did reach what it is for */
                break;
            }
        }
    }
    free(section);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(open_refuses_bad_heads),      cmocka_unit_test(open_refuses_bad_offsets),
        cmocka_unit_test(open_refuses_bad_pieces),     cmocka_unit_test(open_refuses_bad_charsmaps),
        cmocka_unit_test(damaged_sections_do_no_harm), cmocka_unit_test(failing_allocations_unwind),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
