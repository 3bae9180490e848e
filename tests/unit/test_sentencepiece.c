/* tokenizer.model byte by byte, and the files beside it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../src/token.h"
#include "../../tools/convert/sentencepiece.h"
#include "../../tools/convert/tokenizer_files.h"
#include "checkpoint.h"
#include "test_allocator.h"

#define VOCAB_SIZE 300u
#define N_PIECES   262u

static char sp_dir[256];

static int setup(void **state)
{
    (void)state;
    return checkpoint_make_dir(sp_dir, "sentencepiece");
}

static int teardown(void **state)
{
    (void)state;
    checkpoint_clear(sp_dir);
    return rmdir(sp_dir);
}

static ernie_status read_model(conv_vocab *vocab, const unsigned char *data, size_t n,
                               uint32_t n_max, ernie_error *error)
{
    conv_vocab_begin(vocab, ern_allocator_default());
    return conv_sentencepiece_read(vocab, data, n, n_max, "tokenizer.model", error);
}

/* ---- The model ------------------------------------------------------------------------------- */

static void pieces_are_read(void **state)
{
    (void)state;
    conv_vocab vocab;
    checkpoint_bytes model;
    ernie_error error = { ERNIE_OK, "" };
    checkpoint_tokenizer(&model, 2);
    assert_int_equal(read_model(&vocab, model.data, model.n, VOCAB_SIZE, &error), ERNIE_OK);
    assert_int_equal(vocab.n, N_PIECES);
    assert_int_equal(vocab.flags, ERN_TOKENIZER_ESCAPE_SPACES | ERN_TOKENIZER_BYTE_FALLBACK);
    const conv_piece *b = &vocab.pieces[260];
    assert_int_equal(b->n_text, 1);
    assert_memory_equal(vocab.text.data + b->text, "b", 1);
    assert_float_equal(b->score, -2, 0);
    assert_int_equal(b->type, ERN_TOKEN_NORMAL);
    assert_int_equal(vocab.pieces[0].type, ERN_TOKEN_UNKNOWN);
    assert_int_equal(vocab.pieces[1].type, ERN_TOKEN_CONTROL);
    assert_int_equal(vocab.pieces[3].type, ERN_TOKEN_BYTE);
    conv_vocab_free(&vocab);
}

static void flags_follow_the_specs(void **state)
{
    (void)state;
    /* trainer: 3 type, 24 suffix, 35 bytes; normalizer: 3 prefix, 4 spaces, 5 escape. -1: left
     * out */
    const struct {
        int suffix, bytes, prefix, spaces, escape;
        uint32_t flags;
    } cases[] = {
        { -1, -1, -1, -1, -1, 1 | 2 | 4 },
        { 1, 1, 0, 0, 0, 8 | 16 },
        { 0, 0, 1, 0, 1, 1 | 4 },
        { 0, 1, 0, 1, 1, 2 | 4 | 8 },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        conv_vocab vocab;
        ernie_error error = { ERNIE_OK, "" };
        checkpoint_bytes model = { .n = 0 }, trainer = { .n = 0 }, normalizer = { .n = 0 };
        checkpoint_piece(&model, "<unk>", 0, ERN_TOKEN_UNKNOWN);
        checkpoint_number(&trainer, 3, 2);
        if (cases[i].suffix >= 0) checkpoint_number(&trainer, 24, (uint64_t)cases[i].suffix);
        if (cases[i].bytes >= 0) checkpoint_number(&trainer, 35, (uint64_t)cases[i].bytes);
        if (cases[i].prefix >= 0) checkpoint_number(&normalizer, 3, (uint64_t)cases[i].prefix);
        if (cases[i].spaces >= 0) checkpoint_number(&normalizer, 4, (uint64_t)cases[i].spaces);
        if (cases[i].escape >= 0) checkpoint_number(&normalizer, 5, (uint64_t)cases[i].escape);
        checkpoint_message(&normalizer, 2, "map", 3);
        checkpoint_message(&model, 2, trainer.data, trainer.n);
        checkpoint_message(&model, 3, normalizer.data, normalizer.n);
        assert_int_equal(read_model(&vocab, model.data, model.n, 10, &error), ERNIE_OK);
        assert_int_equal(vocab.flags, cases[i].flags);
        assert_int_equal(vocab.charsmap.n, 3);
        assert_memory_equal(vocab.charsmap.data, "map", 3);
        conv_vocab_free(&vocab);
    }
}

static void other_model_types_are_refused(void **state)
{
    (void)state;
    const struct {
        unsigned type;
        const char *says;
    } cases[] = { { 1, "type 1 (unigram), only 2 (bpe)" },
                  { 3, "(word)" },
                  { 4, "(char)" },
                  { 9, "(unknown)" } };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        conv_vocab vocab;
        checkpoint_bytes model;
        ernie_error error = { ERNIE_OK, "" };
        checkpoint_tokenizer(&model, cases[i].type);
        assert_int_equal(read_model(&vocab, model.data, model.n, VOCAB_SIZE, &error),
                         ERNIE_UNSUPPORTED);
        assert_non_null(strstr(error.message, cases[i].says));
        conv_vocab_free(&vocab);
    }
}

static void bad_bytes_are_refused(void **state)
{
    (void)state;
#define BYTES(text)                                  \
    {                                                \
        (const unsigned char *)text, sizeof text - 1 \
    }
    const struct {
        struct {
            const unsigned char *data;
            size_t n;
        } model;
        const char *says;
    } cases[] = {
        { BYTES(""), "holds no pieces" },
        { BYTES("\x00"), "no protobuf field at byte 1" },
        { BYTES("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), "no protobuf field" },
        { BYTES("\x0b"), "unknown protobuf wire type" },
        { BYTES("\x0a"), "longer than what holds it" },
        { BYTES("\x0a\x05"
                "ab"),
          "longer than what holds it" },
        { BYTES("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), "longer than what holds it" },
        { BYTES("\x08\x01"), "wrong protobuf type" }, /* pieces = 1 */
        { BYTES("\x0a\x00"), "a piece without text" },
        { BYTES("\x0a\x02\x0a\x00"), "empty or overlong piece" },
        { BYTES("\x0a\x02\x08\x01"), "wrong protobuf type" }, /* text = 1 */
        { BYTES("\x0a\x05\x0a\x01"
                "a\x10\x01"),
          "wrong protobuf type" }, /* score = 1 */
        { BYTES("\x0a\x06\x0a\x01"
                "a\x15\x00\x00"),
          "cut off" }, /* half a score */
        { BYTES("\x0a\x05\x0a\x01"
                "a\x18\x00"),
          "piece of unknown type" },
        { BYTES("\x0a\x05\x0a\x01"
                "a\x18\x07"),
          "piece of unknown type" },
        { BYTES("\x0a\x05\x0a\x01"
                "a\x18\x80"),
          "no protobuf number" },
        { BYTES("\x0a\x03\x0a\x01"
                "a\x12\x03\x1a\x01\x02"),
          "wrong protobuf type" }, /* model_type = "\2" */
        { BYTES("\x0a\x03\x0a\x01"
                "a\x1a\x02\x10\x01"),
          "wrong protobuf type" }, /* charsmap = 1 */
        { BYTES("\x0a\x03\x0a\x01"
                "a\x19"
                "1234"),
          "cut off" },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        conv_vocab vocab;
        ernie_error error = { ERNIE_OK, "" };
        unsigned char *copy = malloc(cases[i].model.n + 1);
        memcpy(copy, cases[i].model.data, cases[i].model.n);
        assert_int_equal(read_model(&vocab, copy, cases[i].model.n, VOCAB_SIZE, &error),
                         ERNIE_FORMAT);
        if (!strstr(error.message, cases[i].says) || !strstr(error.message, "tokenizer.model"))
            fail_msg("case %zu says \"%s\", not \"%s\"", i, error.message, cases[i].says);
        conv_vocab_free(&vocab);
        free(copy);
    }
}

/* Unknown fields of every wire type are skipped; a denormalizer with a map is not. */
static void unknown_fields_are_skipped(void **state)
{
    (void)state;
    conv_vocab vocab;
    checkpoint_bytes model, empty = { .n = 0 };
    ernie_error error = { ERNIE_OK, "" };
    checkpoint_tokenizer(&model, 2);
    checkpoint_number(&model, 100, 5);
    checkpoint_message(&model, 101, "text", 4);
    memcpy(model.data + model.n,
           "\xb1\x06"
           "12345678"
           "\xb5\x06"
           "1234",
           16); /* 102 fixed64, 102 fixed32 */
    model.n += 16;
    checkpoint_message(&model, 5, empty.data, empty.n);
    assert_int_equal(read_model(&vocab, model.data, model.n, VOCAB_SIZE, &error), ERNIE_OK);
    conv_vocab_free(&vocab);
    checkpoint_message(&empty, 2, "map", 3);
    checkpoint_message(&model, 5, empty.data, empty.n);
    assert_int_equal(read_model(&vocab, model.data, model.n, VOCAB_SIZE, &error),
                     ERNIE_UNSUPPORTED);
    assert_non_null(strstr(error.message, "denormalizer"));
    conv_vocab_free(&vocab);
}

static void cut_models_do_no_harm(void **state)
{
    (void)state;
    checkpoint_bytes model;
    checkpoint_tokenizer(&model, 2);
    for (size_t n = 0; n < model.n; n++) {
        conv_vocab vocab;
        ernie_error error = { ERNIE_OK, "" };
        unsigned char *copy = malloc(n + 1);
        memcpy(copy, model.data, n);
        const ernie_status status = read_model(&vocab, copy, n, VOCAB_SIZE, &error);
        assert_true(status == ERNIE_FORMAT || status == ERNIE_UNSUPPORTED || n + 30 > model.n);
        conv_vocab_free(&vocab);
        free(copy);
    }
}

static void too_many_pieces_are_refused(void **state)
{
    (void)state;
    conv_vocab vocab;
    checkpoint_bytes model;
    ernie_error error = { ERNIE_OK, "" };
    checkpoint_tokenizer(&model, 2);
    assert_int_equal(read_model(&vocab, model.data, model.n, N_PIECES, &error), ERNIE_OK);
    conv_vocab_free(&vocab);
    assert_int_equal(read_model(&vocab, model.data, model.n, N_PIECES - 1, &error), ERNIE_FORMAT);
    assert_non_null(strstr(error.message, "more than 261 pieces, which is the model's vocab_size"));
    conv_vocab_free(&vocab);
}

/* ---- The files beside it --------------------------------------------------------------------- */

typedef struct text_case {
    const char *added, *config, *jinja; /* NULL: not there */
    const char *chat;
    ernie_status status;
    const char *says;
} text_case;

static ernie_status load_text(conv_text_files *files, const text_case *c,
                              const ernie_allocator *allocator, ernie_error *error)
{
    checkpoint_bytes model;
    const ern_log silent = { NULL, NULL };
    checkpoint_clear(sp_dir);
    checkpoint_tokenizer(&model, 2);
    checkpoint_put(sp_dir, "tokenizer.model", model.data, model.n);
    if (c->added) checkpoint_put_text(sp_dir, "added_tokens.json", c->added);
    if (c->config) checkpoint_put_text(sp_dir, "tokenizer_config.json", c->config);
    if (c->jinja) checkpoint_put_text(sp_dir, "chat_template.jinja", c->jinja);
    return conv_text_files_load(files, sp_dir, VOCAB_SIZE, c->chat, allocator, &silent, error);
}

static ern_tokenizer *open_section(const conv_text_files *files)
{
    ern_tokenizer *tokenizer = NULL;
    ernie_error error = { ERNIE_OK, "" };
    if (ern_tokenizer_open(&tokenizer, files->tokenizer.data, files->tokenizer.n,
                           ern_allocator_default(), &error)
        != ERNIE_OK)
        fail_msg("%s", error.message);
    return tokenizer;
}

static void added_tokens_are_appended(void **state)
{
    (void)state;
    conv_text_files files;
    ernie_error error = { ERNIE_OK, "" };
    const text_case c = {
        .added = "{\"<|x|>\": 264, \"a\": 259}",
        .config =
            "{\"added_tokens_decoder\": {\"264\": {\"content\": \"<|x|>\", \"special\": true},"
            "\"266\": {\"content\": \"<|y|>\"},"
            "\"261\": {\"content\": \"ab\", \"special\": true},"
            "\"260\": {\"content\": \"b\", \"special\": true}}}"
    };
    const ernie_status status = load_text(&files, &c, ern_allocator_default(), &error);
    if (status != ERNIE_OK) fail_msg("%s", error.message);
    ern_tokenizer *tokenizer = open_section(&files);
    assert_int_equal(ern_tokenizer_n_tokens(tokenizer), 267);
    assert_int_equal(ern_tokenizer_find(tokenizer, "<|x|>", 5), 264);
    assert_int_equal(ern_tokenizer_find(tokenizer, "<|y|>", 5), 266);
    const struct {
        int32_t id;
        unsigned type;
    } types[] = { { 259, ERN_TOKEN_NORMAL }, { 260, ERN_TOKEN_NORMAL }, { 261, ERN_TOKEN_ADDED },
                  { 262, ERN_TOKEN_UNUSED }, { 263, ERN_TOKEN_UNUSED }, { 264, ERN_TOKEN_ADDED },
                  { 265, ERN_TOKEN_UNUSED }, { 266, ERN_TOKEN_ADDED } };
    for (size_t i = 0; i < ERN_COUNT(types); i++)
        assert_int_equal(ern_tokenizer_type(tokenizer, types[i].id), types[i].type);
    ern_tokenizer_close(tokenizer);
    conv_text_files_free(&files);
}

#define PLAIN_TEMPLATE                                                                            \
    "{{ '<|begin_of_sentence|>' }}{%- for message in messages -%}{%- if message['role'] == "      \
    "'user' -%}"                                                                                  \
    "{{- 'User: ' + message['content'] + '\\n' -}}{%- elif message['role'] == 'assistant' -%}"    \
    "{{- 'Assistant: ' + message['content'] + '<|end_of_sentence|>' -}}{%- elif message['role'] " \
    "== "                                                                                         \
    "'system' -%}{{- message['content'] + '\\n' -}}{%- endif -%}{%- endfor -%}"                   \
    "{%- if add_generation_prompt -%}{{- 'Assistant: ' -}}{%- endif -%}"
#define MARKS "{\"<|begin_of_sentence|>\": 270, \"<|end_of_sentence|>\": 271, \"<|im_end|>\": 272}"

static char *config_with_template(const char *text, bool list)
{
    static char config[4096];
    size_t n = (size_t)snprintf(config, sizeof config, "{\"chat_template\": %s\"",
                                list ? "[{\"name\": \"tool_use\", \"template\": \"x\"}, {\"name\": "
                                       "\"default\", \"template\": "
                                     : "");
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') config[n++] = '\\';
        config[n++] = *text;
    }
    snprintf(config + n, sizeof config - n, "\"%s}", list ? "}]" : "");
    return config;
}

static void assert_chat(const text_case *c, uint32_t format, int32_t begin, int32_t end,
                        size_t n_template)
{
    conv_text_files files;
    ern_chat_head head;
    ernie_error error = { ERNIE_OK, "" };
    const ernie_status status = load_text(&files, c, ern_allocator_default(), &error);
    if (status != ERNIE_OK) fail_msg("%s", error.message);
    memcpy(&head, files.chat.data, sizeof head);
    assert_int_equal(head.format, format);
    assert_int_equal(head.begin_id, begin);
    assert_int_equal(head.turn_end_id, end);
    assert_int_equal(head.template_bytes, n_template);
    assert_int_equal(files.chat.n, sizeof head + n_template);
    assert_int_equal(files.turn_end_id, end);
    conv_text_files_free(&files);
}

static void chat_templates_are_found(void **state)
{
    (void)state;
    const size_t n = strlen(PLAIN_TEMPLATE);
    text_case c = { .added = MARKS, .config = config_with_template(PLAIN_TEMPLATE, false) };
    assert_chat(&c, ERNIE_CHAT_PLAIN, 270, 271, n);
    c.config = config_with_template(PLAIN_TEMPLATE, true);
    assert_chat(&c, ERNIE_CHAT_PLAIN, 270, 271, n);
    c.config = config_with_template("{{ messages[0].content }}", false);
    assert_chat(&c, ERNIE_CHAT_NONE, -1, -1, 25);
    c.jinja = PLAIN_TEMPLATE; /* a file of its own counts */
    assert_chat(&c, ERNIE_CHAT_PLAIN, 270, 271, n);
    c.chat = "none";
    assert_chat(&c, ERNIE_CHAT_NONE, -1, -1, n);
    c.chat = "thinking";
    assert_chat(&c, ERNIE_CHAT_THINKING, -1, 272, n);
    c = (text_case){ .added = MARKS };
    assert_chat(&c, ERNIE_CHAT_NONE, -1, -1, 0);
    c.chat = "plain";
    assert_chat(&c, ERNIE_CHAT_PLAIN, 270, 271, 0);
    c.added = NULL; /* marks that the vocabulary does not have */
    assert_chat(&c, ERNIE_CHAT_PLAIN, -1, -1, 0);
}

static void bad_files_are_named(void **state)
{
    (void)state;
    const text_case cases[] = {
        { .added = "{", .status = ERNIE_FORMAT, .says = "added_tokens.json: line 1 is not JSON" },
        { .added = "[1]",
          .status = ERNIE_FORMAT,
          .says = "added_tokens.json: is not a JSON object" },
        { .added = "{\"x\": \"5\"}",
          .status = ERNIE_FORMAT,
          .says = "the id of \"x\" is not a number" },
        { .added = "{\"x\": 300}",
          .status = ERNIE_FORMAT,
          .says = "\"x\" has id 300, vocab_size is 300" },
        { .added = "{\"x\": -1}", .status = ERNIE_FORMAT, .says = "has id -1" },
        { .added = "{\"\": 270}", .status = ERNIE_FORMAT, .says = "token 270 has 0 bytes" },
        { .added = "{\"x\": 259}",
          .status = ERNIE_FORMAT,
          .says = "id 259 is \"x\", but \"a\" before" },
        { .added = "{\"x\": 270, \"y\": 270}",
          .status = ERNIE_FORMAT,
          .says = "id 270 is \"y\", but \"x\" before" },
        { .added = "{\"ab\": 270}", .status = ERNIE_FORMAT, .says = "261 and 270 are the same" },
        { .config = "{\"added_tokens_decoder\": 3}",
          .status = ERNIE_FORMAT,
          .says = "is not an object" },
        { .config = "{\"added_tokens_decoder\": {\"x\": {\"content\": \"y\"}}}",
          .status = ERNIE_FORMAT,
          .says = "added_tokens_decoder[\"x\"]" },
        { .config = "{\"added_tokens_decoder\": {\"270\": {}}}",
          .status = ERNIE_FORMAT,
          .says = "[\"270\"]" },
        { .config = "{\"added_tokens_decoder\": {\"99999999999\": {\"content\": \"y\"}}}",
          .status = ERNIE_FORMAT,
          .says = "[\"99999999999\"]" },
        { .config = "{\"chat_template\": 3}",
          .status = ERNIE_FORMAT,
          .says = "neither a string nor a list" },
        { .chat = "chatml",
          .status = ERNIE_INVALID,
          .says = "\"chatml\" is unknown: plain, thinking or none" },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        conv_text_files files;
        ernie_error error = { ERNIE_OK, "" };
        const ernie_status status = load_text(&files, &cases[i], ern_allocator_default(), &error);
        if (!strstr(error.message, cases[i].says))
            fail_msg("case %zu: \"%s\" does not say \"%s\"", i, error.message, cases[i].says);
        assert_int_equal(status, cases[i].status);
        conv_text_files_free(&files);
    }
}

static void no_tokenizer_is_fine(void **state)
{
    (void)state;
    conv_text_files files;
    ernie_error error = { ERNIE_OK, "" };
    const ern_log silent = { NULL, NULL };
    checkpoint_clear(sp_dir);
    checkpoint_put_text(sp_dir, "added_tokens.json", "{\"x\": 999}"); /* of no use without pieces */
    assert_int_equal(conv_text_files_load(&files, sp_dir, VOCAB_SIZE, NULL, ern_allocator_default(),
                                          &silent, &error),
                     ERNIE_OK);
    assert_int_equal(files.tokenizer.n, 0);
    conv_text_files_free(&files);
}

static void memory_failures_unwind(void **state)
{
    (void)state;
    const text_case c = { .added = MARKS, .config = config_with_template(PLAIN_TEMPLATE, false) };
    for (int sticky = 0; sticky < 2; sticky++) {
        for (long n = 0;; n++) {
            test_allocator counter;
            ernie_allocator allocator;
            conv_text_files files;
            ernie_error error = { ERNIE_OK, "" };
            test_allocator_begin(&counter, &allocator);
            test_allocator_fail_at(&counter, n, sticky);
            const ernie_status status = load_text(&files, &c, &allocator, &error);
            conv_text_files_free(&files);
            assert_int_equal(counter.live, 0);
            assert_int_equal(counter.n_wrong_sizes, 0);
            if (status == ERNIE_OK) break;
            assert_int_equal(status, ERNIE_NO_MEMORY);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_read),
        cmocka_unit_test(flags_follow_the_specs),
        cmocka_unit_test(other_model_types_are_refused),
        cmocka_unit_test(bad_bytes_are_refused),
        cmocka_unit_test(unknown_fields_are_skipped),
        cmocka_unit_test(cut_models_do_no_harm),
        cmocka_unit_test(too_many_pieces_are_refused),
        cmocka_unit_test(added_tokens_are_appended),
        cmocka_unit_test(chat_templates_are_found),
        cmocka_unit_test(bad_files_are_named),
        cmocka_unit_test(no_tokenizer_is_fine),
        cmocka_unit_test(memory_failures_unwind),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
