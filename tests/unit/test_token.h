/* What the tests of the tokenizer share: a small vocabulary with tokens of every kind, opened. */
#ifndef TEST_TOKEN_H
#define TEST_TOKEN_H

#include "test_vocab.h"
#include "../../src/unicode.h"

#define SP   "\xe2\x96\x81" /* U+2581 */
#define FFFD "\xef\xbf\xbd"

/* ---- A vocabulary -------------------------------------------------------------------------- */

typedef struct fixture {
    unsigned char *section;
    size_t n_bytes;
    ern_tokenizer *t;
} fixture;

static inline void fixture_open(fixture *f, test_vocab *v)
{
    ernie_error error = { ERNIE_OK, "" };
    f->section = test_vocab_section(v, &f->n_bytes);
    test_vocab_free(v);
    const ernie_status status =
        ern_tokenizer_open(&f->t, f->section, f->n_bytes, ern_allocator_default(), &error);
    if (status != ERNIE_OK) fail_msg("%s", error.message);
}

static inline void fixture_close(fixture *f)
{
    ern_tokenizer_close(f->t);
    free(f->section);
}

/* Specials of every kind and pieces whose merges are easy to follow. */
static inline void small_vocab(test_vocab *v, uint32_t flags, bool fallback)
{
    static const char *const merges[] = { "ab", "bc", "abc", SP "a", "aa", "aaaa", "cd", SP SP };
    static const char *const letters[] = { SP,  "a", "b", "c", "d", "<", ">",  "/",  "s", "t",
                                           "h", "i", "n", "k", "7", "é", "床", "前", "|", "x" };
    test_vocab_begin(v, flags | ERN_TOKENIZER_ESCAPE_SPACES);
    test_vocab_add(v, "<unk>", ERN_TOKEN_UNKNOWN, 0);
    test_vocab_add(v, "<s>", ERN_TOKEN_CONTROL, 0);
    test_vocab_add(v, "</s>", ERN_TOKEN_CONTROL, 0);
    test_vocab_add(v, "<think>", ERN_TOKEN_USER, 0);
    test_vocab_add(v, "1", ERN_TOKEN_USER, 0);
    test_vocab_add(v, "12", ERN_TOKEN_USER, 0);
    test_vocab_add(v, "\n", ERN_TOKEN_USER, 0);
    test_vocab_add(v, "<>", ERN_TOKEN_USER, 0);
    test_vocab_add(v, "<|x|>", ERN_TOKEN_ADDED, 0);
    test_vocab_add(v, "<|x|><|x|>", ERN_TOKEN_ADDED, 0);
    for (size_t i = 0; i < ERN_COUNT(merges); i++)
        test_vocab_add(v, merges[i], ERN_TOKEN_NORMAL, -(float)i);
    for (size_t i = 0; i < ERN_COUNT(letters); i++)
        test_vocab_add(v, letters[i], ERN_TOKEN_NORMAL, -100 - (float)i);
    test_vocab_add(v, "<t", ERN_TOKEN_NORMAL, -50);
    test_vocab_add(v, "thi", ERN_TOKEN_NORMAL, -51);
    test_vocab_add(v, "th", ERN_TOKEN_NORMAL, -52);
    if (fallback) test_vocab_add_fallback(v);
}

static inline void small_open(fixture *f, uint32_t flags, bool fallback)
{
    test_vocab v;
    small_vocab(&v, flags, fallback);
    fixture_open(f, &v);
}

/* Rules of a charsmap for it. */
static const test_rule some_rules[] = {
    { "A", "a" },
    { "AB", "ab" },
    { "ﬁ", "i" },
    { "\xef\xbc\x9c", "<" },
    { "\xef\xbc\x9e", ">" },
    { "床床", "前" },
    { "\t", " " },
    { "e\xcc\x81", "é" },
    { "\x7f", "" },
};

#endif
