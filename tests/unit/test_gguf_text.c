/* The vocabulary of a GGUF file: the same texts become the same ids as with the checkpoint's own
 * files, although llama.cpp's converter forgets some types and scores on the way. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "convert_run.h"
#include "gguf_file.h"
#include "../../src/token.h"

static gguf_file g;

/* ---- One vocabulary, told twice -------------------------------------------------------------- */

enum { VOCAB = 300, ADDED = -1000 };

/* As tokenizer.model has it. */
typedef struct told_piece {
    const char *text;
    float score;
    unsigned type;
    bool special; /* listed as such in tokenizer_config.json */
} told_piece;

static told_piece pieces[] = {
    { "<unk>", 0, ERN_TOKEN_UNKNOWN, true },
    { "<s>", 0, ERN_TOKEN_CONTROL, true },
    { "</s>", 0, ERN_TOKEN_CONTROL, false },
    { "1", -9, ERN_TOKEN_NORMAL, true }, /* digits are listed, and are ordinary text */
    { "2", -9, ERN_TOKEN_NORMAL, true },
    { "\n", 0, ERN_TOKEN_USER, false },
    { "<|x|>", 0, ERN_TOKEN_USER, false },
    { "abc", 0, ERN_TOKEN_USER, false },      /* no two pieces make it */
    { "ab", -1000, ERN_TOKEN_NORMAL, false }, /* a score, not a mark */
    { "\xe2\x96\x81"
      "a",
      -2, ERN_TOKEN_NORMAL, false },
    { "\xe5\xa4\xa9\xe5\xa4\xa9", -3, ERN_TOKEN_NORMAL, false },
    { "dd", -4, ERN_TOKEN_UNUSED, false },
    { "dda", -5, ERN_TOKEN_NORMAL, false },
    { "a", -6, ERN_TOKEN_NORMAL, false },
    { "b", -7, ERN_TOKEN_NORMAL, false },
    { "d", -8, ERN_TOKEN_NORMAL, false },
    { "\xe2\x96\x81", -9, ERN_TOKEN_NORMAL, false },
    { "\xe5\xa4\xa9", -10, ERN_TOKEN_NORMAL, false },
    { "<|im_end|>", 0, ERN_TOKEN_CONTROL, true },
};

/* In added_tokens.json, from id 290 on. */
static const char *const added[] = { "<|begin_of_sentence|>", "<|im_start|>", "new line" };
enum { FIRST_ADDED = 290 };

static const char template[] = "<|im_start|><|im_end|><global_setting>think_mode=True<think>"
                               "<response>";

/* Pieces, then the 256 bytes. */
static unsigned n_pieces(void)
{
    return (unsigned)ERN_COUNT(pieces) + 256;
}

static void tell_checkpoint(void)
{
    char byte[8], json[4096] = "{\"added_tokens_decoder\": {";
    checkpoint_bytes sp = { .n = 0 };
    for (unsigned i = 0; i < n_pieces(); i++) {
        snprintf(byte, sizeof byte, "<0x%02X>", (i - (unsigned)ERN_COUNT(pieces)) & 0xff);
        const told_piece *p = i < ERN_COUNT(pieces) ? &pieces[i] : NULL;
        checkpoint_piece(&sp, p ? p->text : byte, p ? p->score : 0, p ? p->type : ERN_TOKEN_BYTE);
        if (p && p->special)
            sprintf(json + strlen(json), "\"%u\": {\"content\": \"%s\", \"special\": true}, ", i,
                    p->text);
    }
    checkpoint_specs(&sp, 2);
    checkpoint_put(in_dir, "tokenizer.model", sp.data, sp.n);
    json[strlen(json) - 2] = '\0'; /* the last comma */
    sprintf(json + strlen(json), "}, \"chat_template\": \"%s\"}", template);
    checkpoint_put_text(in_dir, "tokenizer_config.json", json);
    json[0] = '\0';
    for (unsigned i = 0; i < ERN_COUNT(added); i++)
        sprintf(json + strlen(json), "%s\"%s\": %u", i ? ", " : "{", added[i], FIRST_ADDED + i);
    strcat(json, "}");
    checkpoint_put_text(in_dir, "added_tokens.json", json);
}

/* By the rules of llama.cpp's converter: what it cannot ask SentencePiece is normal, what the JSON
 * files list has the score -1000, what they call special is control, ids between are padding. */
static void tell_id(unsigned id, char text[64], float *score, int32_t *type)
{
    *score = -10000;
    *type = CONV_GGUF_TOKEN_UNUSED;
    snprintf(text, 64, "[PAD%u]", id);
    if (id < ERN_COUNT(pieces)) {
        const told_piece *p = &pieces[id];
        snprintf(text, 64, "%s", p->text);
        *score = p->special ? ADDED : p->score;
        *type = p->special                  ? CONV_GGUF_TOKEN_CONTROL
                : p->type == ERN_TOKEN_USER ? CONV_GGUF_TOKEN_NORMAL
                                            : (int32_t)p->type;
    } else if (id < n_pieces()) {
        snprintf(text, 64, "<0x%02X>", (id - (unsigned)ERN_COUNT(pieces)) & 0xff);
        *score = 0;
        *type = CONV_GGUF_TOKEN_BYTE;
    } else if (id >= FIRST_ADDED && id < FIRST_ADDED + ERN_COUNT(added)) {
        snprintf(text, 64, "%s", added[id - FIRST_ADDED]);
        *score = ADDED;
        *type = CONV_GGUF_TOKEN_USER_DEFINED;
    }
}

static void tell_gguf(bool unknown_id)
{
    char text[64];
    float score;
    int32_t type;
    gguf_text(&g, "tokenizer.ggml.model", "llama");
    gguf_text(&g, "tokenizer.ggml.pre", "default");
    gguf_array(&g, "tokenizer.ggml.tokens", CONV_GGUF_STRING, VOCAB);
    for (unsigned id = 0; id < VOCAB; id++) {
        tell_id(id, text, &score, &type);
        gguf_put_text(&g.pairs, text, strlen(text));
    }
    gguf_array(&g, "tokenizer.ggml.scores", CONV_GGUF_F32, VOCAB);
    for (unsigned id = 0; id < VOCAB; id++) {
        tell_id(id, text, &score, &type);
        gguf_put(&g.pairs, &score, sizeof score);
    }
    gguf_array(&g, "tokenizer.ggml.token_type", CONV_GGUF_I32, VOCAB);
    for (unsigned id = 0; id < VOCAB; id++) {
        tell_id(id, text, &score, &type);
        gguf_put_number(&g.pairs, (uint64_t)type, 4);
    }
    if (unknown_id) gguf_u32(&g, "tokenizer.ggml.unknown_token_id", 2);
    gguf_text(&g, "tokenizer.chat_template", template);
}

/* ---- The same ids ---------------------------------------------------------------------------- */

static const char *gguf_path(void)
{
    return checkpoint_path(in_dir, "x.gguf");
}

static void build_gguf(void)
{
    gguf_free(&g);
    gguf_begin(&g);
    gguf_metadata(&g, &model);
    gguf_tensors(&g, &model);
}

static ern_tokenizer *open_tokenizer(const file_bytes *bytes)
{
    ern_tokenizer *tokenizer;
    ernie_error error = { ERNIE_OK, "" };
    const ern_section *section = &read_format(bytes).header->section[ERN_SECTION_TOKENIZER];
    if (ern_tokenizer_open(&tokenizer, bytes->data + section->offset, section->n_bytes,
                           ern_allocator_default(), &error)
        != ERNIE_OK)
        fail_msg("%s", error.message);
    return tokenizer;
}

static void assert_same_ids(const ern_tokenizer *a, const ern_tokenizer *b, const char *text,
                            ernie_tokenize_mode mode)
{
    ern_ids x = { .allocator = ern_allocator_default() }, y = x;
    assert_int_equal(ern_tokenize(a, text, strlen(text), mode, &x, NULL), ERNIE_OK);
    assert_int_equal(ern_tokenize(b, text, strlen(text), mode, &y, NULL), ERNIE_OK);
    if (x.n != y.n || (x.n && memcmp(x.data, y.data, x.n * sizeof *x.data) != 0))
        fail_msg("\"%s\" in mode %d: %zu ids and %zu ids", text, (int)mode, x.n, y.n);
    ern_ids_free(&x);
    ern_ids_free(&y);
}

static void assert_same_pieces(const ern_tokenizer *a, const ern_tokenizer *b)
{
    char x[ERN_TOKEN_TEXT_MAX], y[ERN_TOKEN_TEXT_MAX];
    assert_int_equal(ern_tokenizer_n_tokens(a), FIRST_ADDED + ERN_COUNT(added));
    assert_int_equal(ern_tokenizer_n_tokens(a), ern_tokenizer_n_tokens(b));
    for (int32_t id = 0; id < (int32_t)ern_tokenizer_n_tokens(a); id++)
        for (int with_special = 0; with_special < 2; with_special++) {
            const size_t n = ern_token_bytes(a, id, with_special, false, x);
            assert_int_equal(ern_token_bytes(b, id, with_special, false, y), n);
            assert_memory_equal(x, y, n);
        }
}

static void texts_become_the_same_ids(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        "a",
        " a",
        "ab ab  ba",
        "abc",
        "xabcx",
        "12 21",
        "a\nb\n",
        "<|x|>a<|x",
        "dd dda ddd",
        "\xe5\xa4\xa9\xe5\xa4\xa9\xe5\xa4\xa9",
        "\xe5\xa4\xa8 \xf0\x9f\x98\x80",
        "<s>a</s><unk>",
        "<|begin_of_sentence|>User: a<|im_end|>",
        "new line<|im_start|>",
        "[PAD289]",
    };
    const ern_convert_options named = { .name = "x" };
    ernie_error error = { ERNIE_OK, "" };
    for (int unknown_id = 0; unknown_id < 2; unknown_id++) {
        const told_piece first_piece = pieces[0];
        pieces[0] = pieces[unknown_id * 2]; /* the second time <unk> is id 2, which a key says */
        pieces[unknown_id * 2] = first_piece;
        checkpoint_begin(&model, false);
        checkpoint_build(&model);
        write_model();
        tell_checkpoint();
        convert_good(&named);
        const file_bytes wanted = read_file(out_file);
        ern_tokenizer *a = open_tokenizer(&wanted);

        build_gguf();
        tell_gguf(unknown_id != 0);
        /* what old converters leave out and wrong ones say: ERNIE's rules hold */
        if (unknown_id) gguf_bool(&g, "tokenizer.ggml.add_space_prefix", true);
        if (unknown_id) gguf_bool(&g, "tokenizer.ggml.add_bos_token", true);
        gguf_write(&g, gguf_path());
        if (ern_convert(gguf_path(), out_file, &named, &error) != ERNIE_OK)
            fail_msg("%s", error.message);
        const file_bytes bytes = read_file(out_file);
        ern_tokenizer *b = open_tokenizer(&bytes);
        assert_same_pieces(a, b);
        for (size_t i = 0; i < ERN_COUNT(texts); i++) {
            assert_same_ids(a, b, texts[i], ERNIE_TOKENIZE_TEXT);
            assert_same_ids(a, b, texts[i], ERNIE_TOKENIZE_SPECIAL);
            assert_same_ids(a, b, texts[i], ERNIE_TOKENIZE_LITERAL);
        }
        const ern_format format = read_format(&bytes), first = read_format(&wanted);
        assert_int_equal(format.tokenizer->unk_id, unknown_id * 2);
        assert_int_equal(format.chat->format, ERNIE_CHAT_THINKING);
        assert_int_equal(format.header->section[ERN_SECTION_CHAT].checksum,
                         first.header->section[ERN_SECTION_CHAT].checksum);
        assert_int_equal(format.header->section[ERN_SECTION_GENERATION].checksum,
                         first.header->section[ERN_SECTION_GENERATION].checksum);
        ern_tokenizer_close(a);
        ern_tokenizer_close(b);
        free(bytes.data);
        free(wanted.data);
    }
}

/* ---- Bad twins ------------------------------------------------------------------------------- */

static unsigned char *find_in_pairs(const void *bytes, size_t n)
{
    unsigned char *at = memmem(g.pairs.data, g.pairs.n, bytes, n);
    assert_non_null(at);
    return at;
}

static void hide(const char *key)
{
    *find_in_pairs(key, strlen(key)) = '_';
}

/* The values of an array of GGUF lie behind key, type, item type and count. */
static unsigned char *array_values(const char *key)
{
    return find_in_pairs(key, strlen(key)) + strlen(key) + 16;
}

static void twin_no_tokens(void)
{
    hide("tokenizer.ggml.tokens");
}
static void twin_no_scores(void)
{
    hide("tokenizer.ggml.scores");
}
static void twin_no_types(void)
{
    hide("tokenizer.ggml.token_type");
}
static void twin_few_scores(void)
{
    hide("tokenizer.ggml.scores");
    gguf_array(&g, "tokenizer.ggml.scores", CONV_GGUF_F32, 2);
    gguf_more(&g.pairs, 8);
}
static void twin_wide_scores(void)
{
    hide("tokenizer.ggml.scores");
    gguf_array(&g, "tokenizer.ggml.scores", CONV_GGUF_F64, VOCAB);
    gguf_more(&g.pairs, 8 * VOCAB);
}
static void twin_one_token_more(void)
{
    hide("tokenizer.ggml.tokens");
    hide("tokenizer.ggml.scores");
    hide("tokenizer.ggml.token_type");
    gguf_array(&g, "tokenizer.ggml.tokens", CONV_GGUF_STRING, VOCAB + 1);
    gguf_more(&g.pairs, 8 * (VOCAB + 1));
    gguf_array(&g, "tokenizer.ggml.scores", CONV_GGUF_F32, VOCAB + 1);
    gguf_more(&g.pairs, 4 * (VOCAB + 1));
    gguf_array(&g, "tokenizer.ggml.token_type", CONV_GGUF_I32, VOCAB + 1);
    gguf_more(&g.pairs, 4 * (VOCAB + 1));
}
static void twin_type_0(void)
{
    array_values("tokenizer.ggml.token_type")[4 * 9] = 0;
}
static void twin_type_7(void)
{
    array_values("tokenizer.ggml.token_type")[4 * 9] = 7;
}
static void twin_infinite_score(void)
{
    memcpy(array_values("tokenizer.ggml.scores") + 4 * 9, "\0\0\x80\x7f", 4);
}
static void twin_not_utf8(void)
{
    *find_in_pairs("dda", 3) = 0xff;
}
static void twin_double(void)
{
    memcpy(find_in_pairs("dda", 3), "abc", 3);
}
static void twin_byte_missing(void)
{
    memcpy(find_in_pairs("<0x41>", 6), "<0xxx>", 6);
}
static void twin_unknown_id(void)
{
    hide("tokenizer.ggml.unknown_token_id"), gguf_u32(&g, "tokenizer.ggml.unknown_token_id", VOCAB);
}
static void twin_empty_token(void)
{
    hide("tokenizer.ggml.tokens");
    gguf_array(&g, "tokenizer.ggml.tokens", CONV_GGUF_STRING, VOCAB);
    gguf_more(&g.pairs, 8 * VOCAB);
}
static void twin_long_template(void)
{
    hide("tokenizer.chat_template");
    gguf_pair(&g, "tokenizer.chat_template", CONV_GGUF_STRING);
    gguf_put_number(&g.pairs, (1u << 20) + 1, 8);
    gguf_more(&g.pairs, (1u << 20) + 1);
}

static void twins_are_refused(void **state)
{
    (void)state;
    static const struct {
        void (*damage)(void);
        const char *says;
    } twins[] = {
        { twin_no_tokens, "x.gguf: tokenizer.ggml.tokens is missing" },
        { twin_no_scores, "x.gguf: tokenizer.ggml.scores is missing" },
        { twin_no_types, "x.gguf: tokenizer.ggml.token_type is missing" },
        { twin_few_scores, "tokenizer.ggml.scores has 2 values, tokenizer.ggml.tokens has 300" },
        { twin_wide_scores, "tokenizer.ggml.scores is an array of f64, expected an array of f32" },
        { twin_one_token_more,
          "tokenizer.ggml.tokens has 301 values, the embedding only 300 rows" },
        { twin_type_0, "x.gguf: token 9 has type 0, expected 1 to 6" },
        { twin_type_7, "x.gguf: token 9 has type 7, expected 1 to 6" },
        { twin_infinite_score, "tokenizer: the score of piece 9 is not a finite number" },
        { twin_not_utf8, "tokenizer: piece 12 is not UTF-8" },
        { twin_double, "tokenizer: pieces 7 and 12 are the same" },
        { twin_byte_missing, "is not written <0x00> to <0xFF>" },
        { twin_unknown_id, "tokenizer.ggml.unknown_token_id is 300, expected -1 to 299" },
        { twin_long_template, "tokenizer.chat_template has 1048577 bytes, at most 1048576" },
        { twin_empty_token, "x.gguf: token 0 has 0 bytes, expected 1 to 512" },
    };
    checkpoint_clear(out_dir);
    mkdir(in_dir, 0777);
    checkpoint_begin(&model, false);
    for (size_t i = 0; i < ERN_COUNT(twins); i++) {
        build_gguf();
        tell_gguf(true);
        twins[i].damage();
        gguf_write(&g, gguf_path());
        refuse(gguf_path(), out_file, NULL, ERNIE_FORMAT, twins[i].says);
    }
}

static void setup_files(void)
{
    checkpoint_begin(&model, false);
    build_gguf();
    mkdir(in_dir, 0777);
}

/* Neither a vocabulary nor a word of it: a model of ids. */
static void no_vocabulary_is_fine(void **state)
{
    (void)state;
    ernie_error error = { ERNIE_OK, "" };
    for (int i = 0; i < 3; i++) {
        setup_files();
        if (i) gguf_text(&g, "tokenizer.ggml.model", i == 1 ? "none" : "no_vocab");
        gguf_write(&g, gguf_path());
        if (ern_convert(gguf_path(), out_file, NULL, &error) != ERNIE_OK)
            fail_msg("%s", error.message);
        const file_bytes bytes = read_file(out_file);
        assert_null(read_format(&bytes).tokenizer);
        assert_int_equal(read_format(&bytes).chat->format, ERNIE_CHAT_NONE);
        free(bytes.data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(texts_become_the_same_ids),
        cmocka_unit_test(twins_are_refused),
        cmocka_unit_test(no_vocabulary_is_fine),
    };
    const int failed = cmocka_run_group_tests_name("gguf_text", tests, run_setup, run_teardown);
    gguf_free(&g);
    return failed;
}
