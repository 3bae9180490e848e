/* GGUF files in, files out: the same file as from the checkpoint, and one sentence for each thing
 * that metadata and tensors can get wrong. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "convert_run.h"
#include "gguf_file.h"

static gguf_file g;

static const char *gguf_path(void)
{
    return checkpoint_path(in_dir, "x.gguf");
}

/* `model`, its fields set, as one GGUF file with matrices of `type`. */
static void build_gguf(uint32_t type)
{
    gguf_free(&g);
    gguf_begin(&g);
    g.type = type;
    gguf_metadata(&g, &model);
    gguf_tensors(&g, &model);
}

static file_bytes convert_path(const char *path, const ern_convert_options *options)
{
    ernie_error error = { ERNIE_OK, "" };
    if (ern_convert(path, out_file, options, &error) != ERNIE_OK) fail_msg("%s", error.message);
    assert_int_equal(count_files(out_dir), 1);
    return read_file(out_file);
}

static file_bytes convert_gguf(const ern_convert_options *options)
{
    mkdir(in_dir, 0777);
    gguf_write(&g, gguf_path());
    return convert_path(gguf_path(), options);
}

static void assert_same(file_bytes a, file_bytes b, const char *what, unsigned i)
{
    if (a.n != b.n || memcmp(a.data, b.data, a.n) != 0)
        fail_msg("%s %u: the files differ", what, i);
    free(a.data);
    free(b.data);
}

/* ---- Weights --------------------------------------------------------------------------------- */

static void plain_files_give_the_checkpoint_s_file(void **state)
{
    (void)state;
    static const struct {
        uint32_t type;
        const char *dtype;
    } types[] = { { CONV_GGML_F32, "F32" }, { CONV_GGML_F16, "F16" }, { CONV_GGML_BF16, "BF16" } };
    static const char *const to[] = { "w4", "f32", "w8" };
    for (unsigned i = 0; i < 24; i++) {
        const ern_convert_options options = { .type = to[i % 3], .n_threads = 1 + i % 2 };
        checkpoint_begin(&model, i / 12);
        model.tied = i % 2;
        model.no_bias = i / 2 % 2;
        if (model.moe) model.n_shared = i / 4 % 3;
        if (model.moe) model.moe_start = i / 3 % 3;
        model.dtype = types[i / 3 % 3].dtype;
        checkpoint_build(&model);
        checkpoint_clear(in_dir);
        checkpoint_write(&model, in_dir);
        checkpoint_free(&model);
        const file_bytes wanted = convert_path(in_dir, &options);
        build_gguf(types[i / 3 % 3].type);
        assert_same(convert_gguf(&options), wanted, "model", i);
    }
}

/* Blocks of every type give the file that their values give. */
static void blocks_give_the_file_of_their_values(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2 * ERN_COUNT(block_types); i++) {
        const ern_convert_options options = { .type = i % 2 ? "w4" : "f32" };
        const conv_ggml_info *info = conv_ggml_find(block_types[i / 2]);
        if (info->block_values == 1) continue;
        checkpoint_begin(&model, true);
        model.hidden = model.width = model.expert_width = 256;
        model.n_layers = 2;
        model.n_heads = 4;
        model.head_dim = 64;
        model.vocab = 40;
        model.n_experts = 3;
        model.n_shared = 1;
        build_gguf(info->type);
        const file_bytes blocks = convert_gguf(&options);
        gguf_free(&g);
        gguf_begin(&g);
        g.type = info->type;
        g.widen = true;
        gguf_metadata(&g, &model);
        gguf_tensors(&g, &model);
        assert_same(blocks, convert_gguf(&options), info->name, i);
    }
}

static void parts_give_the_same_file(void **state)
{
    (void)state;
    char first[CHECKPOINT_PATH_MAX];
    checkpoint_begin(&model, true);
    build_gguf(CONV_GGML_BF16);
    const file_bytes whole = convert_gguf(NULL);
    checkpoint_clear(in_dir);
    for (unsigned part = 0; part < 1 + model.n_layers; part++) {
        char name[64];
        gguf_free(&g);
        gguf_begin(&g);
        if (part == 0) gguf_metadata(&g, &model);
        gguf_u32(&g, "split.no", part);
        gguf_u32(&g, "split.count", 1 + model.n_layers);
        if (part > 0) {
            gguf_layer(&g, &model, part - 1);
        } else {
            gguf_matrix(&g, &model, "token_embd.weight", model.vocab, model.hidden, false, "embed",
                        0, 0);
            gguf_vector(&g, "output_norm.weight", model.hidden, "norm", 0);
        }
        snprintf(name, sizeof name, "x-%05u-of-%05u.gguf", part + 1, 1 + model.n_layers);
        gguf_write(&g, checkpoint_path(in_dir, name));
        if (part == 0) snprintf(first, sizeof first, "%s", checkpoint_path(in_dir, name));
    }
    assert_same(convert_path(first, NULL), whole, "parts", 0);
}

/* ---- What the file says of itself ------------------------------------------------------------ */

/* Make a key unknown: another first letter, so that it is as if it were not there. */
static void hide(const char *key)
{
    unsigned char *at = memmem(g.pairs.data, g.pairs.n, key, strlen(key));
    assert_non_null(at);
    *at = '_';
}

static void names_come_from_the_file(void **state)
{
    (void)state;
    const ern_convert_options named = { .name = "given" };
    const struct {
        const char *general, *file;
        const ern_convert_options *options;
        const char *wanted;
    } cases[] = { { "a\x01 name", "x.gguf", NULL, "a? name" },
                  { "a name", "x.gguf", &named, "given" },
                  { "", "ERNIE-4.5.gguf", NULL, "ERNIE-4.5" },
                  { NULL, "model.bin", NULL, "model.bin" } };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        checkpoint_begin(&model, false);
        build_gguf(CONV_GGML_F16);
        hide("general.name");
        if (cases[i].general) gguf_text(&g, "general.name", cases[i].general);
        checkpoint_clear(in_dir);
        mkdir(in_dir, 0777);
        gguf_write(&g, checkpoint_path(in_dir, cases[i].file));
        const file_bytes bytes =
            convert_path(checkpoint_path(in_dir, cases[i].file), cases[i].options);
        assert_string_equal(read_format(&bytes).header->name, cases[i].wanted);
        free(bytes.data);
    }
}

static void defaults_and_sampling_arrive(void **state)
{
    (void)state;
    checkpoint_begin(&model, true);
    model.head_dim = 16;
    model.n_heads = 3;
    model.hidden = 48; /* heads of 48 / 3 */
    build_gguf(CONV_GGML_F16);
    hide("ernie4_5-moe.attention.key_length");
    hide("ernie4_5-moe.rope.freq_base");
    hide("ernie4_5-moe.context_length");
    hide("ernie4_5-moe.leading_dense_block_count");
    gguf_f32(&g, "general.sampling.temp", 0.75f);
    gguf_f32(&g, "general.sampling.top_p", 0.5f);
    gguf_i64(&g, "general.sampling.top_k", 40);
    gguf_f32(&g, "general.sampling.penalty_repeat", 1.25f);
    gguf_u32(&g, "tokenizer.ggml.eot_token_id", 7);
    gguf_u32(&g, "ernie4_5-moe.vocab_size", 300);
    const file_bytes bytes = convert_gguf(NULL);
    const ern_format format = read_format(&bytes);
    const ern_hparams *h = &format.header->hparams;
    assert_true(h->rope_theta == 500000.0);
    assert_true(h->context_max == 131072 && h->head_dim == 16 && h->moe_layer_start == 1);
    assert_true(h->bos_id == 1 && h->eos_id == 2 && h->pad_id == 0 && h->n_mtp_layers == 0);
    const ern_generation *said = format.generation;
    assert_true(said->temperature == 0.75f && said->top_p == 0.5f && said->top_k == 40);
    assert_true(said->repetition_penalty == 1.25f && said->do_sample == 1);
    assert_true(said->n_stop_ids == 2 && said->stop_ids[0] == 2 && said->stop_ids[1] == 7);
    assert_null(format.tokenizer);
    free(bytes.data);
}

static void keep_line(ernie_log_level level, const char *line, void *user)
{
    char *text = user;
    if (level < ERNIE_LOG_WARN) return;
    snprintf(text + strlen(text), 1000 - strlen(text), "%s\n", line);
}

static void unknown_keys_are_told(void **state)
{
    (void)state;
    char lines[1000] = "";
    checkpoint_begin(&model, true);
    build_gguf(CONV_GGML_F16);
    gguf_u32(&g, "ernie4_5-moe.mystery", 1);
    gguf_u32(&g, "ernie4_5.of_another_architecture", 1);
    gguf_u32(&g, "general.quantization_version", 2);
    const ern_convert_options options = { .log = { .fn = keep_line, .user = lines } };
    const file_bytes bytes = convert_gguf(&options);
    free(bytes.data);
    assert_string_equal(lines, "x.gguf: unknown and left out: ernie4_5-moe.mystery\n"
                               "no tokenizer in the metadata: the model will take and give token "
                               "ids only\n");
}

/* ---- Bad twins of the metadata --------------------------------------------------------------- */

typedef enum twin_value { TWIN_HIDDEN, TWIN_NUMBER, TWIN_REAL, TWIN_FLAG, TWIN_TEXT } twin_value;

#define A "ernie4_5-moe."

static const struct {
    const char *key; /* replaced, or hidden */
    twin_value kind;
    double number;
    const char *text;
    ernie_status status;
    const char *says;
} twins[] = {
    { "general.architecture", TWIN_HIDDEN, 0, NULL, ERNIE_FORMAT,
      "x.gguf: general.architecture is missing" },
    { "general.architecture", TWIN_TEXT, 0, "llama", ERNIE_UNSUPPORTED,
      "general.architecture is \"llama\", known are ERNIE 4.5's ernie4_5 and ernie4_5-moe" },
    { "general.architecture", TWIN_NUMBER, 4, NULL, ERNIE_FORMAT,
      "general.architecture is of type i64, expected a string" },
    { "general.architecture", TWIN_TEXT, 0, "ernie4_5", ERNIE_FORMAT,
      "ernie4_5.block_count is missing" },
    { "general.type", TWIN_TEXT, 0, "adapter", ERNIE_UNSUPPORTED,
      "general.type is \"adapter\", expected \"model\"" },
    { A "block_count", TWIN_HIDDEN, 0, NULL, ERNIE_FORMAT, A "block_count is missing" },
    { A "block_count", TWIN_NUMBER, 0, NULL, ERNIE_FORMAT, "is 0, expected 1 to 1024" },
    { A "block_count", TWIN_NUMBER, -1, NULL, ERNIE_FORMAT, "is -1, expected 1 to 1024" },
    { A "block_count", TWIN_REAL, 2.5, NULL, ERNIE_FORMAT, "expected a whole number" },
    { A "block_count", TWIN_NUMBER, 4, NULL, ERNIE_FORMAT,
      "tensor \"blk.3.attn_norm.weight\" is missing, expected with shape [50]" },
    { A "embedding_length", TWIN_HIDDEN, 0, NULL, ERNIE_FORMAT, "embedding_length is missing" },
    { A "embedding_length", TWIN_TEXT, 0, "50", ERNIE_FORMAT, "is of type string" },
    { A "embedding_length", TWIN_NUMBER, 64, NULL, ERNIE_FORMAT,
      "tensor \"token_embd.weight\": shape [300, 50], the metadata ask for [300, 64]" },
    { A "feed_forward_length", TWIN_HIDDEN, 0, NULL, ERNIE_FORMAT,
      "feed_forward_length is missing" },
    { A "feed_forward_length", TWIN_NUMBER, 42, NULL, ERNIE_FORMAT,
      "tensor \"blk.0.ffn_gate.weight\": shape [41, 50], the metadata ask for [42, 50]" },
    { A "attention.head_count", TWIN_HIDDEN, 0, NULL, ERNIE_FORMAT, "head_count is missing" },
    { A "attention.head_count_kv", TWIN_NUMBER, 2, NULL, ERNIE_FORMAT, "2" },
    { A "attention.key_length", TWIN_NUMBER, 16, NULL, ERNIE_UNSUPPORTED,
      "attention.value_length is 14, only 16 is supported" },
    { A "attention.value_length", TWIN_NUMBER, 16, NULL, ERNIE_UNSUPPORTED,
      "attention.value_length is 16, only 14 is supported" },
    { A "attention.layer_norm_rms_epsilon", TWIN_HIDDEN, 0, NULL, ERNIE_FORMAT,
      "layer_norm_rms_epsilon is missing" },
    { A "attention.layer_norm_rms_epsilon", TWIN_REAL, NAN, NULL, ERNIE_FORMAT,
      "is nan, expected 0 to 1" },
    { A "rope.freq_base", TWIN_REAL, 0.5, NULL, ERNIE_FORMAT, "freq_base is 0.5, expected 1 to" },
    { A "rope.dimension_count", TWIN_NUMBER, 7, NULL, ERNIE_UNSUPPORTED, "is 7, only 14 is" },
    { A "rope.scaling.type", TWIN_TEXT, 0, "yarn", ERNIE_UNSUPPORTED,
      "rope.scaling.type is \"yarn\", only \"none\" is supported" },
    { A "rope.scaling.factor", TWIN_REAL, 4, NULL, ERNIE_UNSUPPORTED, "is 4, only 1 is supported" },
    { A "attention.sliding_window", TWIN_NUMBER, 4096, NULL, ERNIE_UNSUPPORTED,
      "attention.sliding_window is 4096, only 0 is supported" },
    { A "attention.causal", TWIN_FLAG, 0, NULL, ERNIE_UNSUPPORTED, "causal is 0, only 1" },
    { A "final_logit_softcapping", TWIN_REAL, 30, NULL, ERNIE_UNSUPPORTED, "is 30, only 0" },
    { A "logit_scale", TWIN_REAL, 0.25, NULL, ERNIE_UNSUPPORTED, "is 0.25, only 1" },
    { A "expert_count", TWIN_HIDDEN, 0, NULL, ERNIE_FORMAT, "expert_count is missing" },
    { A "expert_count", TWIN_NUMBER, 5, NULL, ERNIE_FORMAT,
      "tensor \"blk.1.ffn_gate_inp.weight\": shape [4, 50], the metadata ask for [5, 50]" },
    { A "expert_used_count", TWIN_HIDDEN, 0, NULL, ERNIE_FORMAT, "expert_used_count is missing" },
    { A "expert_used_count", TWIN_NUMBER, 5, NULL, ERNIE_FORMAT,
      "expert_used_count is 5, expert_count is only 4" },
    { A "expert_feed_forward_length", TWIN_HIDDEN, 0, NULL, ERNIE_FORMAT, "length is missing" },
    { A "expert_feed_forward_length", TWIN_NUMBER, 22, NULL, ERNIE_FORMAT,
      "tensor \"blk.1.ffn_gate_exps.weight\": shape [4, 21, 50], the metadata ask for [4, 22, "
      "50]" },
    { A "expert_gating_func", TWIN_NUMBER, 2, NULL, ERNIE_UNSUPPORTED,
      "expert_gating_func is 2, only 1 is supported" },
    { A "expert_weights_norm", TWIN_FLAG, 0, NULL, ERNIE_UNSUPPORTED, "is 0, only 1" },
    { A "expert_weights_scale", TWIN_REAL, 2.5, NULL, ERNIE_UNSUPPORTED, "is 2.5, only 1" },
    { A "expert_group_count", TWIN_NUMBER, 4, NULL, ERNIE_UNSUPPORTED, "is 4, only 1" },
    { A "leading_dense_block_count", TWIN_NUMBER, 3, NULL, ERNIE_FORMAT, "is 3, expected 0 to 2" },
    { A "leading_dense_block_count", TWIN_NUMBER, 2, NULL, ERNIE_FORMAT,
      "tensor \"blk.1.ffn_gate.weight\" is missing, expected with shape [41, 50]" },
    { A "vocab_size", TWIN_NUMBER, 301, NULL, ERNIE_FORMAT,
      "tensor \"token_embd.weight\": shape [300, 50], the metadata ask for [301, 50]" },
    { "tokenizer.ggml.eos_token_id", TWIN_NUMBER, 300, NULL, ERNIE_FORMAT,
      "tokenizer.ggml.eos_token_id is 300, expected -1 to 299" },
    { "general.sampling.top_p", TWIN_REAL, 1.5, NULL, ERNIE_FORMAT,
      "general.sampling.top_p is 1.5, expected 0 to 1" },
    { "tokenizer.ggml.model", TWIN_TEXT, 0, "gpt2", ERNIE_UNSUPPORTED,
      "tokenizer.ggml.model is \"gpt2\", only \"llama\" (SentencePiece) is supported" },
    { "tokenizer.ggml.model", TWIN_TEXT, 0, "llama", ERNIE_FORMAT,
      "x.gguf: tokenizer.ggml.tokens is missing" },
    { "tokenizer.chat_template", TWIN_NUMBER, 1, NULL, ERNIE_FORMAT,
      "tokenizer.chat_template is of type i64, expected a string" },
};

static void set_pair(const char *key, twin_value kind, double number, const char *text)
{
    if (memmem(g.pairs.data, g.pairs.n, key, strlen(key))) hide(key);
    if (kind == TWIN_NUMBER) gguf_i64(&g, key, (int64_t)number);
    if (kind == TWIN_REAL) gguf_f32(&g, key, (float)number);
    if (kind == TWIN_FLAG) gguf_bool(&g, key, number != 0);
    if (kind == TWIN_TEXT) gguf_text(&g, key, text);
}

static void refuse_gguf(ernie_status status, const char *says)
{
    gguf_write(&g, gguf_path());
    refuse(gguf_path(), out_file, NULL, status, says);
}

static void twins_of_the_metadata_are_refused(void **state)
{
    (void)state;
    checkpoint_clear(out_dir);
    mkdir(in_dir, 0777);
    checkpoint_begin(&model, true);
    for (size_t i = 0; i < ERN_COUNT(twins); i++) {
        build_gguf(CONV_GGML_F16);
        set_pair(twins[i].key, twins[i].kind, twins[i].number, twins[i].text);
        refuse_gguf(twins[i].status, twins[i].says);
    }
    checkpoint_begin(&model, false);
    build_gguf(CONV_GGML_F16);
    gguf_u32(&g, "ernie4_5.expert_count", 4);
    refuse_gguf(ERNIE_FORMAT, "ernie4_5.expert_count is 4, expected 0 to 0");
}

#undef A

/* ---- Bad twins of the tensors ---------------------------------------------------------------- */

/* Another name of the same length. */
static void rename_tensor(const char *name, const char *to)
{
    unsigned char *at = memmem(g.infos.data, g.infos.n, name, strlen(name));
    assert_non_null(at);
    memcpy(at, to, strlen(to));
}

static void add_vector(const char *name, uint64_t n)
{
    const float values[64] = { 0 };
    gguf_plain(&g, name, 1, &n, CONV_GGML_F32, values);
}

static void twins_of_tensors_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *name, *to, *says;
    } names[] = {
        { "token_embd.weight", "token_emb_.weight",
          "tensor \"token_embd.weight\" is missing or has other than" },
        { "output_norm.weight", "output_nor_.weight",
          "tensor \"output_norm.weight\" is missing, expected with shape [50]" },
        { "blk.1.attn_q.weight", "blk.1.attn_x.weight",
          "tensor \"blk.1.attn_q.weight\" is missing, expected with shape [42, 50]" },
        { "blk.0.ffn_up.weight", "blk.0.ffn_ub.weight",
          "tensor \"blk.0.ffn_up.weight\" is missing, expected with shape [41, 50]" },
        { "blk.2.ffn_gate_inp.weight", "blk.2.ffn_gate_inq.weight",
          "tensor \"blk.2.ffn_gate_inp.weight\" is missing, expected with shape [4, 50]" },
        { "blk.1.ffn_up_exps.weight", "blk.1.ffn_ub_exps.weight",
          "tensor \"blk.1.ffn_up_exps.weight\" is missing, expected with shape [4, 21, 50]" },
        { "blk.2.ffn_down_exps.weight", "blk.2.ffn_dawn_exps.weight",
          "tensor \"blk.2.ffn_down_exps.weight\" is missing, expected with shape [4, 50, 21]" },
        { "blk.2.ffn_down_shexp.weight", "blk.2.ffn_dawn_shexp.weight",
          "tensor \"blk.2.ffn_down_shexp.weight\" is missing, expected with shape [50, 42]" },
        { "blk.2.exp_probs_b.bias", "blk.2.exp_probs_c.bias",
          "tensor \"blk.2.exp_probs_c.bias\" in x.gguf is unknown: nothing in this model uses it" },
    };
    checkpoint_clear(out_dir);
    mkdir(in_dir, 0777);
    checkpoint_begin(&model, true);
    for (size_t i = 0; i < ERN_COUNT(names); i++) {
        build_gguf(CONV_GGML_F16);
        rename_tensor(names[i].name, names[i].to);
        gguf_write(&g, gguf_path());
        const ernie_status status = i + 1 < ERN_COUNT(names) ? ERNIE_FORMAT : ERNIE_UNSUPPORTED;
        refuse(gguf_path(), out_file, NULL, status, names[i].says);
    }
    build_gguf(CONV_GGML_F16);
    add_vector("blk.0.attn_q.bias", 42);
    refuse_gguf(ERNIE_UNSUPPORTED, "tensor \"blk.0.attn_q.bias\" in x.gguf is unknown");
    build_gguf(CONV_GGML_F16);
    add_vector("rope_freqs.weight", 7);
    refuse_gguf(ERNIE_UNSUPPORTED, "tensor \"rope_freqs.weight\" in x.gguf is unknown");
    build_gguf(CONV_GGML_F16);
    gguf_plain(&g, "output.weight", 2, (const uint64_t[]){ 4, 4 }, CONV_GGML_F16,
               (const float[16]){ 0 });
    refuse_gguf(ERNIE_FORMAT,
                "tensor \"output.weight\": shape [4, 4], the metadata ask for [300, 50]");
    build_gguf(CONV_GGML_F16);
    g.infos.data[g.infos.n - 12] = CONV_GGML_I16; /* the last tensor: as many bytes */
    refuse_gguf(ERNIE_UNSUPPORTED,
                "tensor \"blk.2.ffn_down_shexp.weight\": dtype I16, supported are F32, F16, BF16, "
                "Q8_0, ");
    build_gguf(CONV_GGML_F32);
    const uint32_t nan = 0x7fc00000u;
    memcpy(g.data.data + 4 * 53, &nan, sizeof nan);
    refuse_gguf(ERNIE_FORMAT, "tensor \"token_embd.weight\": weight [1, 3] is not a number");
}

/* Cut at any byte, nothing is converted. */
static void cut_files_are_refused(void **state)
{
    (void)state;
    size_t n_all;
    checkpoint_clear(out_dir);
    checkpoint_begin(&model, false);
    model.n_layers = 1;
    build_gguf(CONV_GGML_F16);
    unsigned char *data = gguf_join(&g, &n_all);
    for (size_t n = 1; n < n_all; n += n < 3000 ? 7 : 1999) {
        ernie_error error = { ERNIE_OK, "" };
        checkpoint_put(in_dir, "x.gguf", data, n);
        assert_int_equal(ern_convert(gguf_path(), out_file, NULL, &error), ERNIE_FORMAT);
        assert_non_null(strstr(error.message, "x.gguf: "));
        assert_int_equal(count_files(out_dir), 0);
    }
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_files_give_the_checkpoint_s_file),
        cmocka_unit_test(blocks_give_the_file_of_their_values),
        cmocka_unit_test(parts_give_the_same_file),
        cmocka_unit_test(names_come_from_the_file),
        cmocka_unit_test(defaults_and_sampling_arrive),
        cmocka_unit_test(unknown_keys_are_told),
        cmocka_unit_test(twins_of_the_metadata_are_refused),
        cmocka_unit_test(twins_of_tensors_are_refused),
        cmocka_unit_test(cut_files_are_refused),
    };
    const int failed = cmocka_run_group_tests_name("gguf_convert", tests, run_setup, run_teardown);
    gguf_free(&g);
    return failed;
}
