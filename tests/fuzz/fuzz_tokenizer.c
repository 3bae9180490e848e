/* Can a tokenizer section, or text, hurt the tokenizer? And does text survive the way there and back?
 *
 * The first byte chooses. Odd: a u16 length, that many bytes of a section as it lies in a file, and
 * text. Even: flags, a count, a small vocabulary in few bytes (see fuzz_tokenizer_vocab), which the
 * fuzzer can mutate without breaking it, and text. */
#include "../unit/test_vocab.h"
#include "../../src/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

typedef struct fuzz_input {
    const uint8_t *data;
    size_t n;
} fuzz_input;

static unsigned fuzz_byte(fuzz_input *in)
{
    if (in->n == 0) return 0;
    in->n--;
    return *in->data++;
}

static fuzz_input fuzz_take(fuzz_input *in, size_t n)
{
    const fuzz_input taken = { in->data, ern_min_size(n, in->n) };
    in->data += taken.n;
    in->n -= taken.n;
    return taken;
}

/* A piece: type in the high and length in the low bits of a byte, a score, the text. */
static unsigned char *fuzz_tokenizer_vocab(fuzz_input *in, size_t *n_bytes)
{
    static const test_rule rules[] = {
        { "A", "a" }, { "AB", "ab" }, { "\xe3\x80\x80", " " }, { "x", "" }, { "\xef\xac\x81", "fi" }
    };
    test_vocab v;
    const unsigned flags = fuzz_byte(in), n_pieces = fuzz_byte(in) % 64;
    test_vocab_begin(&v, flags & 31 & ~ERN_TOKENIZER_BYTE_FALLBACK);
    test_vocab_add(&v, "<unk>", ERN_TOKEN_UNKNOWN, 0);
    if (flags & ERN_TOKENIZER_BYTE_FALLBACK) test_vocab_add_fallback(&v);
    if (flags & 32) test_vocab_set_rules(&v, rules, ERN_COUNT(rules));
    for (unsigned i = 0; i < n_pieces; i++) {
        const unsigned head = fuzz_byte(in);
        const float score = (float)(int8_t)fuzz_byte(in);
        const fuzz_input text = fuzz_take(in, head & 31);
        test_vocab_add_bytes(&v, (const char *)text.data, text.n, head >> 5, score);
    }
    v.unk_id = 0;
    unsigned char *section = test_vocab_section(&v, n_bytes);
    test_vocab_free(&v);
    return section;
}

static unsigned char *fuzz_tokenizer_section(fuzz_input *in, size_t *n_bytes)
{
    if (!(fuzz_byte(in) & 1)) return fuzz_tokenizer_vocab(in, n_bytes);
    const unsigned low = fuzz_byte(in), high = fuzz_byte(in);
    const fuzz_input raw = fuzz_take(in, low | high << 8);
    unsigned char *section = test_vocab_alloc(NULL, raw.n);
    if (raw.n) memcpy(section, raw.data, raw.n);
    *n_bytes = raw.n;
    return section;
}

static size_t fuzz_decode(const ern_tokenizer *t, const ern_ids *ids, char *text)
{
    ern_decoding decoding = { { { 0 }, 0 }, false };
    size_t n = 0;
    for (size_t i = 0; i < ids->n; i++) {
        if (ids->data[i] < 0 || (uint32_t)ids->data[i] >= ern_tokenizer_n_tokens(t)) abort();
        const size_t n_token = ern_decode(t, &decoding, ids->data[i], true, text + n);
        if (n_token > ERNIE_STREAM_TEXT_MAX || !ern_utf8_valid(text + n, n_token)) abort();
        n += n_token;
    }
    return n + ern_utf8_finish(&decoding.stream, text + n);
}

/* The next byte of a text in which U+2581 is a space. */
static char fuzz_next(const char *text, size_t n, size_t *at)
{
    const bool space = n - *at >= 3 && memcmp(text + *at, "\xe2\x96\x81", 3) == 0;
    const char c = space ? ' ' : text[*at];
    *at += space ? 3 : 1;
    return c;
}

/* Are two texts the same but for U+2581 and spaces? (A vocabulary that lacks U+2581 spells a space out
 * in its bytes.) */
static bool fuzz_same(const char *a, size_t n_a, const char *b, size_t n_b)
{
    size_t i = 0, k = 0;
    while (i < n_a && k < n_b)
        if (fuzz_next(a, n_a, &i) != fuzz_next(b, n_b, &k)) return false;
    return i == n_a && k == n_b;
}

/* Nothing is lost when normalization changes nothing and no character is unknown. */
static bool fuzz_is_lossless(const unsigned char *section, const char *text, size_t n)
{
    const ern_tokenizer_head *head = (const void *)section;
    const uint32_t changes = ERN_TOKENIZER_DUMMY_PREFIX | ERN_TOKENIZER_REMOVE_EXTRA_SPACES;
    return !(head->flags & changes) && (head->flags & ERN_TOKENIZER_BYTE_FALLBACK)
           && head->charsmap_bytes == 0 && ern_utf8_valid(text, n);
}

static void fuzz_tokenizer_text(const ern_tokenizer *t, const unsigned char *section,
                                const char *text, size_t n, ernie_tokenize_mode mode)
{
    ern_ids ids = { .allocator = ern_allocator_default() };
    if (ern_tokenize(t, text, n, mode, &ids, NULL) != ERNIE_OK) abort();
    char *decoded = test_vocab_alloc(NULL, (ids.n + 1) * ERNIE_STREAM_TEXT_MAX);
    const size_t n_decoded = fuzz_decode(t, &ids, decoded);
    if (fuzz_is_lossless(section, text, n) && !fuzz_same(decoded, n_decoded, text, n)) abort();
    for (size_t i = 0; i < ids.n; i++) {
        const unsigned type = ern_tokenizer_type(t, ids.data[i]);
        const bool special = type == ERN_TOKEN_CONTROL || type == ERN_TOKEN_ADDED;
        if (special && mode != ERNIE_TOKENIZE_SPECIAL) abort();
    }
    free(decoded);
    ern_ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    fuzz_input in = { data, n };
    size_t n_bytes;
    ern_tokenizer *t;
    ernie_error error = { ERNIE_OK, "" };
    unsigned char *section = fuzz_tokenizer_section(&in, &n_bytes);
    const ernie_status status =
        ern_tokenizer_open(&t, section, n_bytes, ern_allocator_default(), &error);
    if ((status == ERNIE_OK) != (error.message[0] == '\0')) abort();
    for (int mode = 0; status == ERNIE_OK && mode < 3; mode++)
        fuzz_tokenizer_text(t, section, (const char *)in.data, in.n, (ernie_tokenize_mode)mode);
    ern_tokenizer_close(t);
    free(section);
    return 0;
}
