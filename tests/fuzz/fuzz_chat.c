/* Can a message slip a special token into a conversation, or a chat template hurt its reader?
 *
 * The first byte chooses the format and the opening; what follows is messages, separated by 0xff, each
 * with a byte for its role. The same bytes are then read as a Jinja template and put into the search
 * prompts. */
#include "../unit/test_vocab.h"
#include "../../src/chat.h"
#include "../../src/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define FUZZ_MESSAGES_MAX 8

static unsigned char *fuzz_chat_vocab(void)
{
    static const char *const specials[] = { "</s>",
                                            "<|begin_of_sentence|>",
                                            "<|end_of_sentence|>",
                                            "<|im_start|>",
                                            "<|im_end|>",
                                            "<think>",
                                            "</think>",
                                            "<response>" };
    static const char *const pieces[] = { "\xe2\x96\x81",
                                          "\xe2\x96\x81h",
                                          "he",
                                          ":\xe2\x96\x81",
                                          "\nU",
                                          "<|",
                                          "|>",
                                          "<|im",
                                          "im",
                                          "<t",
                                          "th",
                                          "k>",
                                          "nk>",
                                          "</",
                                          "s>" };
    test_vocab v;
    size_t n;
    test_vocab_begin(&v, ERN_TOKENIZER_ESCAPE_SPACES);
    test_vocab_add(&v, "<unk>", ERN_TOKEN_UNKNOWN, 0);
    for (size_t i = 0; i < ERN_COUNT(specials); i++)
        test_vocab_add(&v, specials[i], i % 2 ? ERN_TOKEN_USER : ERN_TOKEN_CONTROL, 0);
    for (size_t i = 0; i < ERN_COUNT(pieces); i++)
        test_vocab_add(&v, pieces[i], ERN_TOKEN_NORMAL, -(float)i);
    for (char c = '\n'; c <= '~'; c++)
        test_vocab_add_bytes(&v, &c, 1, c >= '0' && c <= '9' ? ERN_TOKEN_USER : ERN_TOKEN_NORMAL,
                             -99);
    test_vocab_add_fallback(&v);
    unsigned char *section = test_vocab_section(&v, &n);
    test_vocab_free(&v);
    return section;
}

/* The vocabulary is the same for every input and is built once. */
static const ern_tokenizer *fuzz_chat_tokenizer(void)
{
    static ern_tokenizer *tokenizer;
    static unsigned char *section;
    if (tokenizer) return tokenizer;
    section = fuzz_chat_vocab();
    const ern_tokenizer_head *head = (const void *)section;
    const size_t n = sizeof *head + 8 * (size_t)head->n_tokens + 4 + ern_round_up(head->n_tokens, 4)
                     + ern_round_up(head->text_bytes, 4);
    if (ern_tokenizer_open(&tokenizer, section, n, ern_allocator_default(), NULL) != ERNIE_OK)
        abort();
    return tokenizer;
}

static size_t fuzz_count_specials(const ern_tokenizer *t, const ern_ids *ids)
{
    size_t n_specials = 0;
    for (size_t i = 0; i < ids->n; i++) n_specials += ids->data[i] >= 1 && ids->data[i] <= 8;
    (void)t;
    return n_specials;
}

/* Ids decode to the text again, U+2581 read as a space. */
static void fuzz_chat_check_text(const ern_tokenizer *t, const ern_ids *ids, const ern_text *text)
{
    ern_decoding decoding = { { { 0 }, 0 }, false };
    size_t at = 0;
    for (size_t i = 0; i < ids->n; i++) {
        char piece[ERNIE_STREAM_TEXT_MAX];
        const size_t n = ern_decode(t, &decoding, ids->data[i], true, piece);
        for (size_t k = 0; k < n; k++) {
            const bool space = text->n - at >= 3 && memcmp(text->data + at, "\xe2\x96\x81", 3) == 0;
            if (at >= text->n || piece[k] != (space ? ' ' : text->data[at])) abort();
            at += space ? 3 : 1;
        }
    }
    if (at != text->n) abort();
}

static ernie_status fuzz_chat_ids(const ern_chat *chat, const ernie_message *messages, size_t n,
                                  bool opening, size_t *n_specials)
{
    ern_text text = { .allocator = ern_allocator_default() };
    ern_ids ids = { .allocator = ern_allocator_default() };
    const ernie_status status = ern_chat_ids(chat, messages, n, opening, &ids, NULL);
    if (ern_chat_text(chat, messages, n, opening, &text, NULL) != status) abort();
    if (status == ERNIE_OK && ern_utf8_valid(text.data, text.n))
        fuzz_chat_check_text(chat->tokenizer, &ids, &text);
    *n_specials = fuzz_count_specials(chat->tokenizer, &ids);
    ern_ids_free(&ids);
    ern_text_free(&text);
    return status;
}

/* What is special does not depend on what the messages say. */
static void fuzz_chat_conversation(const ern_chat *chat, ernie_message *messages, size_t n,
                                   bool opening)
{
    size_t n_specials, n_expected;
    const ernie_status status = fuzz_chat_ids(chat, messages, n, opening, &n_specials);
    if (status != ERNIE_OK && status != ERNIE_INVALID) abort();
    for (size_t i = 0; i < n; i++) {
        messages[i].content = "x";
        if (messages[i].reasoning && *messages[i].reasoning) messages[i].reasoning = "x";
    }
    if (fuzz_chat_ids(chat, messages, n, opening, &n_expected) != status) abort();
    if (n_specials != n_expected) abort();
}

static void fuzz_chat_continue(const ern_chat *chat, const char *question)
{
    size_t n_specials[2];
    for (int i = 0; i < 2; i++) {
        ern_ids ids = { .allocator = ern_allocator_default() };
        if (ern_chat_continue_ids(chat, 5, i ? "x" : question, &ids, NULL) != ERNIE_OK) abort();
        n_specials[i] = fuzz_count_specials(chat->tokenizer, &ids);
        ern_ids_free(&ids);
    }
    if (n_specials[0] != n_specials[1]) abort();
}

/* The prompt grows by what is filled in, whatever that says. */
static void fuzz_search(const char *a, const char *b)
{
    const ernie_reference reference = { a, b, b, a, NULL },
                          empty = { NULL, NULL, NULL, NULL, NULL };
    for (int language = 0; language < 2; language++) {
        ern_text text = { .allocator = ern_allocator_default() };
        const ernie_language l = (ernie_language)language;
        if (ern_search_text(l, "", "", &empty, 1, &text, NULL) != ERNIE_OK) abort();
        const size_t n_empty = text.n;
        text.n = 0;
        if (ern_search_text(l, a, b, &reference, 1, &text, NULL) != ERNIE_OK) abort();
        if (text.n != n_empty + 3 * (strlen(a) + strlen(b))) abort();
        ern_text_free(&text);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const ern_tokenizer *t = fuzz_chat_tokenizer();
    ernie_message messages[FUZZ_MESSAGES_MAX];
    size_t n_messages = 0;
    const char *turn_end = NULL;
    if (n == 0) return 0;
    if ((ern_chat_recognise((const char *)data + 1, n - 1, &turn_end) != ERNIE_CHAT_NONE)
        != !!turn_end)
        abort();

    char *copy = test_vocab_alloc(NULL, n);
    memcpy(copy, data + 1, n - 1);
    copy[n - 1] = '\0';
    for (char *at = copy, *end = copy + n - 1; at < end && n_messages < FUZZ_MESSAGES_MAX;) {
        char *stop = memchr(at, 0xff, (size_t)(end - at));
        if (!stop) stop = end;
        *stop = '\0';
        const unsigned role = (unsigned char)*at;
        const char *content = *at ? at + 1 : at;
        messages[n_messages++] =
            (ernie_message){ (ernie_role)(role % 4), content, role & 4 ? content : NULL };
        at = stop + 1;
    }
    const ern_chat chat = { .tokenizer = t,
                            .format = data[0] & 1 ? ERNIE_CHAT_PLAIN : ERNIE_CHAT_THINKING,
                            .begin_id = data[0] & 4 ? 2 : -1,
                            .turn_end_id = data[0] & 8 ? 1 : 3 };
    if (n_messages) {
        fuzz_chat_continue(&chat, messages[0].content);
        fuzz_search(messages[0].content, messages[n_messages - 1].content);
    }
    fuzz_chat_conversation(&chat, messages, n_messages, data[0] & 2);
    free(copy);
    return 0;
}
