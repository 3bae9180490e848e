/* Checkpoints in, files out: every spelling gives the same file, every fault a sentence and no file.
 * With the argument "shared" it converts the shared checkpoints instead (77 when they are not there). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>

#include "../../src/os.h"
#include "../../tools/convert/convert.h"
#include "../../tools/convert/synth.h"
#include "checkpoint.h"
#include "test_allocator.h"

static char top[256]; /* of this run: in/ holds the checkpoint, out/ what is written */
static char in_dir[300], out_dir[300], out_file[320];
static checkpoint model;

static int setup(void **state)
{
    (void)state;
    if (checkpoint_make_dir(top, "convert") != 0) return -1;
    snprintf(in_dir, sizeof in_dir, "%s/in", top);
    snprintf(out_dir, sizeof out_dir, "%s/out", top);
    snprintf(out_file, sizeof out_file, "%s/x.ernie", out_dir);
    return mkdir(out_dir, 0777);
}

static int teardown(void **state)
{
    (void)state;
    checkpoint_clear(top);
    return rmdir(top);
}

static unsigned count_files(const char *dir)
{
    unsigned n = 0;
    DIR *handle = opendir(dir);
    assert_non_null(handle);
    while (readdir(handle)) n++;
    closedir(handle);
    return n - 2;
}

/* Write `model` (built) as the checkpoint. */
static void write_model(void)
{
    checkpoint_clear(in_dir);
    checkpoint_write(&model, in_dir);
    checkpoint_free(&model);
}

static void convert_good(const ern_convert_options *options)
{
    ernie_error error = { ERNIE_OK, "" };
    if (ern_convert(in_dir, out_file, options, &error) != ERNIE_OK) fail_msg("%s", error.message);
    assert_int_equal(count_files(out_dir), 1);
}

typedef struct file_bytes {
    unsigned char *data;
    size_t n;
} file_bytes;

static file_bytes read_file(const char *path)
{
    file_bytes bytes = { NULL, 0 };
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    bytes.n = (size_t)info.st_size;
    bytes.data = aligned_alloc(64, ern_round_up(bytes.n + 1, 64));
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(bytes.data, 1, bytes.n, file), bytes.n);
    fclose(file);
    return bytes;
}

static ern_format read_format(const file_bytes *bytes)
{
    ern_format format;
    ernie_error error = { ERNIE_OK, "" };
    if (ern_format_read(&format, bytes->data, bytes->n, &error) != ERNIE_OK)
        fail_msg("%s", error.message);
    for (uint32_t i = 0; i < format.header->n_records; i++)
        if (ern_format_verify_record(&format, i, NULL, &error) != ERNIE_OK)
            fail_msg("%s", error.message);
    if (ern_format_verify_gaps(&format, NULL, &error) != ERNIE_OK) fail_msg("%s", error.message);
    return format;
}

/* ---- Values ---------------------------------------------------------------------------------- */

/* One weight of a matrix as it lies in the file, by the letter of format.h. */
static float weight_at(const ern_matrix *m, uint32_t row, uint32_t col)
{
    float value;
    uint16_t half;
    if (m->type <= ERN_BF16) {
        const unsigned char *at = m->data + row * ern_row_bytes(m->type, m->n_cols);
        memcpy(&value, at + 4 * (m->type == ERN_F32 ? col : 0), 4);
        memcpy(&half, at + 2 * col, 2);
        return m->type == ERN_F32   ? value
               : m->type == ERN_F16 ? ern_f16_to_f32(half)
                                    : ern_bf16_to_f32(half);
    }
    const unsigned char *group = m->data + row / 16 * ern_group_bytes(m->type, m->n_cols);
    const uint32_t r = row % 16, b = col / 32, k = col % 32;
    const unsigned char *scales = group + 64;
    const unsigned char *codes = scales + ern_group_scale_bytes(ern_n_blocks(m->n_cols));
    memcpy(&value, group + 4 * r, 4);
    value *= (float)scales[b * 16 + r];
    if (m->type == ERN_W8)
        return value * (float)(int8_t)codes[((b * 8 + k / 4) * 16 + r) * 4 + k % 4];
    const unsigned char pair = codes[((b * 4 + k / 8) * 16 + r) * 4 + k % 4];
    return value * (float)ern_w4_level[k % 8 < 4 ? pair & 15 : pair >> 4];
}

static float gate_up_value(uint32_t row, uint32_t col, uint32_t width, unsigned layer,
                           unsigned expert)
{
    const uint32_t part = row / 32 * 16 + row % 16;
    if (part >= width) return 0;
    return checkpoint_value(row / 16 % 2 ? "up" : "gate", layer, expert,
                            (size_t)part * model.hidden + col);
}

/* What the checkpoint holds for one weight of a record. */
static float wanted_value(const ern_record *r, unsigned matrix, uint32_t row, uint32_t col)
{
    static const char *const names[ERN_N_KINDS] = {
        "embed",  "head", "norm", "attn_norm", NULL, "o",        "ffn_norm",    NULL,   "down",
        "router", "bias", NULL,   "down",      NULL, "emb_norm", "hidden_norm", "proj",
    };
    const unsigned layer = r->layer == ERN_NO_LAYER ? 0 : r->layer;
    const uint32_t nq = model.n_heads * model.head_dim, nk = model.n_kv_heads * model.head_dim;
    switch (r->kind) {
    case ERN_QKV: {
        const unsigned which = row < nq ? 0 : row < nq + nk ? 1 : 2;
        const uint32_t first = which == 0 ? 0 : which == 1 ? nq : nq + nk;
        static const char *const parts[] = { "q", "k", "v" };
        return checkpoint_value(parts[which], layer, 0, (size_t)(row - first) * r->n_cols + col);
    }
    case ERN_FFN_GATE_UP: return gate_up_value(row, col, model.width, layer, 0);
    case ERN_SHARED_GATE_UP:
        return gate_up_value(row, col, model.n_shared * model.expert_width, layer, 99);
    case ERN_SHARED_DOWN: return checkpoint_value("down", layer, 99, (size_t)row * r->n_cols + col);
    case ERN_EXPERT:
        if (matrix == 0) return gate_up_value(row, col, model.expert_width, layer, r->expert + 1u);
        return checkpoint_value("down", layer, r->expert + 1u, (size_t)row * r->n_cols2 + col);
    default: return checkpoint_value(names[r->kind], layer, 0, (size_t)row * r->n_cols + col);
    }
}

static void check_matrix(const ern_record *r, unsigned matrix, const ern_matrix *m)
{
    static const float tolerance[ERN_N_TYPES] = { 0, 0, 0, 0.0025f, 0.065f };
    for (uint32_t row = 0; row < m->n_rows; row++)
        for (uint32_t col = 0; col < m->n_cols; col++) {
            const float got = weight_at(m, row, col), wanted = wanted_value(r, matrix, row, col);
            if (fabsf(got - wanted) > tolerance[m->type])
                fail_msg("kind %u layer %u expert %u matrix %u [%u, %u]: %g, wanted %g", r->kind,
                         r->layer, r->expert, matrix, (unsigned)row, (unsigned)col, (double)got,
                         (double)wanted);
        }
}

static void values_arrive(void **state)
{
    (void)state;
    static const char *const types[ERN_N_TYPES] = { "f32", "f16", "bf16", "w8", "w4" };
    for (int moe = 0; moe < 2; moe++) {
        for (unsigned type = 0; type < ERN_N_TYPES; type++) {
            checkpoint_begin(&model, moe);
            model.tied = moe;
            model.n_mtp = 2;
            checkpoint_build(&model);
            write_model();
            const ern_convert_options options = { .type = types[type], .n_threads = 2 };
            convert_good(&options);
            const file_bytes bytes = read_file(out_file);
            const ern_format format = read_format(&bytes);
            for (uint32_t i = 0; i < format.header->n_records; i++) {
                const ern_record *r = &format.records[i];
                const unsigned char *data = format.data + r->offset;
                const ern_matrix first = { data, r->type, r->n_rows, r->n_cols };
                check_matrix(r, 0, &first);
                const bool wide = r->kind == ERN_EMBED || r->kind == ERN_HEAD;
                const unsigned wanted = ern_kind_is_f32(r->kind) ? ERN_F32
                                        : type == ERN_W4 && wide ? ERN_W8
                                                                 : type;
                assert_int_equal(r->type, wanted);
                if (r->kind != ERN_EXPERT) continue;
                const ern_matrix second = { data + ern_expert_down_offset(r), r->type2, r->n_rows2,
                                            r->n_cols2 };
                check_matrix(r, 1, &second);
                assert_int_equal(r->type2, type);
            }
            free(bytes.data);
        }
    }
}

static void header_says_what_it_is(void **state)
{
    (void)state;
    checkpoint_begin(&model, true);
    checkpoint_build(&model);
    write_model();
    convert_good(NULL);
    const file_bytes bytes = read_file(out_file);
    const ern_format format = read_format(&bytes);
    const ern_hparams *h = &format.header->hparams;
    assert_string_equal(format.header->architecture, "ernie4_5_moe");
    assert_string_equal(format.header->name, "in"); /* the directory's */
    assert_int_equal(format.header->expert_align, 4096);
    assert_int_equal(h->moe_layer_end, 2);
    assert_int_equal(h->shared_intermediate_size, 42);
    assert_int_equal(h->tied, 1);
    assert_int_equal(format.generation->stop_ids[0], 2);
    assert_int_equal(format.chat->format, ERNIE_CHAT_NONE);
    assert_null(format.tokenizer);
    free(bytes.data);

    char slashes[400];
    /* 62 bytes and two characters of three: the field holds 63 */
    const char *const names[] = { "a name", "\xff\x01 broken \xc2\x85",
                                  "12345678901234567890123456789012345678901234567890123456789012"
                                  "\xe5\xa4\xa9\xe5\xa4\xa9" };
    const char *const kept[] = { "a name", "?? broken ??",
                                 "12345678901234567890123456789012345678901234567890123456789012" };
    for (size_t i = 0; i < ERN_COUNT(names); i++) {
        const ern_convert_options options = { .name = names[i] };
        convert_good(&options);
        const file_bytes named = read_file(out_file);
        assert_string_equal(read_format(&named).header->name, kept[i]);
        free(named.data);
    }
    snprintf(slashes, sizeof slashes, "%s//", in_dir);
    ernie_error error = { ERNIE_OK, "" };
    assert_int_equal(ern_convert(slashes, out_file, NULL, &error), ERNIE_OK);
    const file_bytes again = read_file(out_file);
    assert_string_equal(read_format(&again).header->name, "in");
    free(again.data);
}

/* ---- Spellings -------------------------------------------------------------------------------- */

typedef void (*spelling_fn)(void);

static void spell_nothing(void) {}
static void spell_f16(void)
{
    model.dtype = "F16";
}
static void spell_f32(void)
{
    model.dtype = "F32";
}
static void spell_shards(void)
{
    model.n_shards = 4;
}
static void spell_no_index(void)
{
    model.n_shards = 3, model.no_index = true;
}
static void spell_merged(void)
{
    model.merged = true;
}
static void spell_bias_gate(void)
{
    model.bias_under_gate = true;
}
static void spell_bias_flat(void)
{
    model.bias_flat = true;
}
static void spell_transposed(void)
{
    model.transposed_router = true;
}
static void spell_head(void)
{
    model.redundant_head = true;
}
static void spell_rotary(void)
{
    model.rotary = true;
}
static void spell_ernie(void)
{
    model.ernie_prefix = model.fused = true;
}
static void spell_fused(void)
{
    model.fused = true, model.merged = model.moe;
}
static void spell_all(void)
{
    model.dtype = "F32", model.n_shards = 5, model.merged = model.moe, model.bias_under_gate = true;
    model.redundant_head = model.rotary = model.fused = model.ernie_prefix = true;
}
/* Two of config.json's spellings: transformers 5 nests the rotary base, others scale by 1. */
static void spell_config(void)
{
    model.config_extra =
        "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 500000.0}, "
        "\"compression_ratio\": 1.0, \"moe_capacity\": [64, 64], ";
}

static const spelling_fn spellings[] = {
    spell_nothing, spell_f16,       spell_f32,       spell_shards,     spell_no_index,
    spell_merged,  spell_bias_gate, spell_bias_flat, spell_transposed, spell_head,
    spell_rotary,  spell_ernie,     spell_fused,     spell_all,        spell_config,
};

static void spellings_give_the_same_file(void **state)
{
    (void)state;
    for (int moe = 0; moe < 2; moe++) {
        file_bytes first = { NULL, 0 };
        for (size_t i = 0; i < ERN_COUNT(spellings); i++) {
            checkpoint_begin(&model, moe);
            model.n_mtp = 1;
            spellings[i]();
            if (!moe && model.merged) continue;
            checkpoint_build(&model);
            write_model();
            const ern_convert_options options = { .type = "w4",
                                                  .name = "x",
                                                  .n_threads = 1 + (unsigned)i % 3 };
            convert_good(&options);
            const file_bytes bytes = read_file(out_file);
            if (!first.data) {
                first = bytes;
                continue;
            }
            if (bytes.n != first.n || memcmp(bytes.data, first.data, first.n) != 0)
                fail_msg("spelling %zu of the %s model differs", i, moe ? "moe" : "dense");
            free(bytes.data);
        }
        free(first.data);
    }
}

/* What config.json leaves open, the tensors settle. */
static void tensors_settle_the_rest(void **state)
{
    (void)state;
    const struct {
        bool config_ties, head;
        unsigned config_mtp, mtp;
        bool no_bias;
        uint32_t tied, n_mtp;
    } cases[] = { { true, false, 0, 0, false, 1, 0 }, { false, true, 0, 0, false, 0, 0 },
                  { false, false, 0, 0, true, 1, 0 }, { true, true, 1, 0, false, 1, 0 },
                  { true, false, 0, 1, true, 1, 1 },  { true, false, 2, 2, false, 1, 2 } };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        checkpoint_begin(&model, true);
        model.redundant_head = cases[i].head;
        model.n_mtp = cases[i].mtp;
        model.no_bias = cases[i].no_bias;
        checkpoint_build(&model);
        model.tied = cases[i].config_ties; /* what config.json will say */
        model.n_mtp = cases[i].config_mtp;
        write_model();
        convert_good(NULL);
        const file_bytes bytes = read_file(out_file);
        const ern_format format = read_format(&bytes);
        assert_int_equal(format.header->hparams.tied, cases[i].tied);
        assert_int_equal(format.header->hparams.n_mtp_layers, cases[i].n_mtp);
        unsigned n_bias = 0;
        for (uint32_t k = 0; k < format.header->n_records; k++)
            n_bias += format.records[k].kind == ERN_ROUTER_BIAS;
        assert_int_equal(n_bias, cases[i].no_bias ? 0 : 2);
        free(bytes.data);
    }
}

/* ---- Bad twins -------------------------------------------------------------------------------- */

static checkpoint_tensor *tensor(const char *name)
{
    checkpoint_tensor *found = checkpoint_find(&model, name);
    assert_non_null(found);
    return found;
}

#define Q "model.layers.1.self_attn.q_proj.weight"

static void twin_missing(void)
{
    checkpoint_remove(&model, Q);
}
static void twin_missing_norm(void)
{
    checkpoint_remove(&model, "model.norm.weight");
}
static void twin_missing_expert(void)
{
    checkpoint_remove(&model, "model.layers.2.mlp.experts.3.up_proj.weight");
}
static void twin_unknown(void)
{
    checkpoint_add(&model, "model.layers.0.self_attn.q_norm.weight", 1, 14, 0, 0);
}
static void twin_bias(void)
{
    checkpoint_add(&model, "model.layers.0.self_attn.q_proj.bias", 1, 42, 0, 0);
}
static void twin_extra_layer(void)
{
    checkpoint_add(&model, "model.layers.3.input_layernorm.weight", 1, 50, 0, 0);
}
static void twin_extra_expert(void)
{
    checkpoint_add(&model, "model.layers.1.mlp.experts.4.up_proj.weight", 2, 21, 50, 0);
}
static void twin_two_spellings(void)
{
    checkpoint_add(&model, "ernie.norm.weight", 1, 50, 0, 0);
}
static void twin_swapped(void)
{
    tensor(Q)->dims[0] = 50;
    tensor(Q)->dims[1] = 42;
}
static void twin_flat(void)
{
    tensor(Q)->n_dims = 1;
    tensor(Q)->dims[0] = 2100;
}
static void twin_narrow(void)
{
    model.hidden = 64;
}
static void twin_wide_vocab(void)
{
    model.vocab = 301;
}
static void twin_dtype(void)
{
    checkpoint_tensor *t = tensor("model.norm.weight"); /* 50 BF16 values are 100 bytes */
    t->dtype = "I16";
}
static void twin_nan(void)
{
    tensor(Q)->values[50 * 3 + 7] = NAN;
}
static void twin_inf(void)
{
    tensor("model.layers.2.mlp.experts.1.down_proj.weight")->values[21 * 4 + 20] = -INFINITY;
}
static void twin_nan_router(void)
{
    tensor("model.layers.1.mlp.gate.weight")->values[5] = NAN;
}
static void twin_nan_fused(void)
{
    checkpoint_free(&model);
    model.fused = true;
    checkpoint_build(&model);
    tensor("model.layers.1.self_attn.qkv_proj.weight")->values[50 * 60 + 1] = NAN;
}
static void twin_too_large(void)
{
    tensor(Q)->values[0] = 2e38f;
}
static void twin_head(void)
{
    model.tied = false;
}
static void twin_vision(void)
{
    checkpoint_add(&model, "vision_model.blocks.0.norm1.weight", 1, 8, 0, 0);
}
static void twin_vision_config(void)
{
    model.config_extra = "\"vision_config\": {}, ";
}
static void twin_mtp(void)
{
    checkpoint_add(&model, "model.mtp_emb_norm.0.weight", 1, 50, 0, 0);
}
static void twin_mtp_many(void)
{
    checkpoint_add(&model, "model.mtp_emb_norm.16.weight", 1, 50, 0, 0);
}
static void twin_half_merged(void)
{
    checkpoint_add(&model, "model.layers.1.mlp.experts.gate_up_proj", 3, 4, 42, 50);
}
static void twin_bias_shape(void)
{
    tensor("model.layers.1.mlp.moe_statics.e_score_correction_bias")->dims[0] = 2;
    tensor("model.layers.1.mlp.moe_statics.e_score_correction_bias")->dims[1] = 2;
}
static void twin_use_bias(void)
{
    model.config_extra = "\"attention_bias\": true, ";
}
static void twin_control(void)
{
    checkpoint_add(&model, "a\\u0007\\nname", 1, 1, 0, 0);
}

static const struct {
    spelling_fn damage;
    ernie_status status;
    const char *says;
} twins[] = {
    { twin_missing, ERNIE_FORMAT, "tensor \"" Q "\" is missing, expected with shape [42, 50]" },
    { twin_missing_norm, ERNIE_FORMAT,
      "tensor \"model.norm.weight\" is missing, expected with shape [50]" },
    { twin_missing_expert, ERNIE_FORMAT,
      "\"model.layers.2.mlp.experts.3.up_proj.weight\" is missing" },
    { twin_unknown, ERNIE_UNSUPPORTED,
      "\"model.layers.0.self_attn.q_norm.weight\" in model.safetensors is unknown" },
    { twin_bias, ERNIE_UNSUPPORTED, "\"model.layers.0.self_attn.q_proj.bias\"" },
    { twin_extra_layer, ERNIE_UNSUPPORTED, "\"model.layers.3.input_layernorm.weight\"" },
    { twin_extra_expert, ERNIE_UNSUPPORTED, "\"model.layers.1.mlp.experts.4.up_proj.weight\"" },
    { twin_two_spellings, ERNIE_UNSUPPORTED, "norm.weight\" in model.safetensors is unknown" },
    { twin_swapped, ERNIE_FORMAT, "\"" Q "\": shape [50, 42], config.json asks for [42, 50]" },
    { twin_flat, ERNIE_FORMAT, "\"" Q "\": shape [2100], config.json asks for [42, 50]" },
    { twin_narrow, ERNIE_FORMAT,
      "\"model.embed_tokens.weight\": shape [300, 50], config.json asks for [300, 64]" },
    { twin_wide_vocab, ERNIE_FORMAT, "config.json asks for [301, 50]" },
    { twin_dtype, ERNIE_UNSUPPORTED, "\"model.norm.weight\": dtype I16" },
    { twin_nan, ERNIE_FORMAT, "\"" Q "\": weight [3, 7] is not a number" },
    { twin_inf, ERNIE_FORMAT,
      "\"model.layers.2.mlp.experts.1.down_proj.weight\": weight [4, 20] is infinite" },
    { twin_nan_router, ERNIE_FORMAT,
      "\"model.layers.1.mlp.gate.weight\": weight [0, 5] is not a number" },
    { twin_nan_fused, ERNIE_FORMAT, "qkv_proj.weight\": weight [60, 1] is not a number" },
    { twin_too_large, ERNIE_UNSUPPORTED,
      "\"" Q "\": weight [0, 0] is 1.99384e+38, which does not fit type w4" },
    { twin_vision, ERNIE_UNSUPPORTED,
      "vision-language checkpoint (tensor \"vision_model.blocks.0.norm1.weight\")" },
    { twin_vision_config, ERNIE_UNSUPPORTED,
      "vision-language checkpoint (vision_config in config.json)" },
    { twin_mtp, ERNIE_FORMAT, "tensor \"model.mtp_hidden_norm.0.weight\" is missing" },
    { twin_mtp_many, ERNIE_FORMAT, "n_mtp_layers is 17" },
    { twin_half_merged, ERNIE_FORMAT, "experts.gate_up_proj\" is there without its down_proj" },
    { twin_bias_shape, ERNIE_FORMAT,
      "e_score_correction_bias\": shape [2, 2], config.json asks for [1, 4]" },
    { twin_use_bias, ERNIE_UNSUPPORTED, "attention_bias is true" },
    { twin_control, ERNIE_UNSUPPORTED, "tensor \"a??name\"" },
};

static void refuse(const char *source, const char *out, const ern_convert_options *options,
                   ernie_status wanted, const char *says)
{
    ernie_error error = { ERNIE_OK, "" };
    const unsigned n_before = count_files(out_dir);
    const ernie_status status = ern_convert(source, out, options, &error);
    if (!strstr(error.message, says)) fail_msg("\"%s\" does not say \"%s\"", error.message, says);
    assert_int_equal(status, wanted);
    assert_int_equal(error.code, wanted);
    assert_int_equal(count_files(out_dir), n_before);
}

static void bad_twins_are_named(void **state)
{
    (void)state;
    checkpoint_clear(out_dir);
    for (size_t i = 0; i < ERN_COUNT(twins); i++) {
        for (unsigned n_threads = 1; n_threads <= 3; n_threads += 2) {
            const ern_convert_options options = { .n_threads = n_threads };
            checkpoint_begin(&model, true);
            checkpoint_build(&model);
            twins[i].damage();
            write_model();
            refuse(in_dir, out_file, &options, twins[i].status, twins[i].says);
        }
    }
}

/* Tied or not by config.json alone: without the flag a head that is there is used. */
static void untied_head_is_needed_only_when_there(void **state)
{
    (void)state;
    checkpoint_begin(&model, true);
    checkpoint_build(&model);
    twin_head();
    write_model();
    convert_good(NULL);
}

static void good_model(void)
{
    checkpoint_begin(&model, true);
    checkpoint_build(&model);
    write_model();
}

static void bad_files_are_named(void **state)
{
    (void)state;
    const struct {
        const char *file, *text;
        ernie_status status;
        const char *says;
    } cases[] = {
        { "config.json", NULL, ERNIE_IO, "config.json: cannot be opened: No such file" },
        { "config.json", "{\"a\": }", ERNIE_FORMAT, "config.json: line 1 is not JSON" },
        { "config.json", "{\"a\": 1, \"a\": 2}", ERNIE_FORMAT, "config.json: line 1 is not JSON" },
        { "config.json", "{\"model_type\": \"llama\"}", ERNIE_UNSUPPORTED,
          "model_type is \"llama\"" },
        { "model.safetensors", NULL, ERNIE_IO, "holds no *.safetensors file" },
        { "model.safetensors", "12345678", ERNIE_FORMAT, "model.safetensors: says its header has" },
        { "tokenizer.model", "", ERNIE_FORMAT, "tokenizer.model: holds no pieces" },
        { "tokenizer.model", "\x0a\x05", ERNIE_FORMAT, "tokenizer.model: a field is longer" },
        { "tokenizer_config.json", "[]", ERNIE_FORMAT,
          "tokenizer_config.json: is not a JSON object" },
        { "generation_config.json", "{\"eos_token_id\": 300}", ERNIE_FORMAT,
          "eos_token_id is 300, vocab_size is 300" },
    };
    checkpoint_clear(out_dir);
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        good_model();
        if (cases[i].text)
            checkpoint_put_text(in_dir, cases[i].file, cases[i].text);
        else
            unlink(checkpoint_path(in_dir, cases[i].file));
        refuse(in_dir, out_file, NULL, cases[i].status, cases[i].says);
    }
}

static void bad_arguments_are_named(void **state)
{
    (void)state;
    char path[5000], elsewhere[400];
    good_model();
    checkpoint_clear(out_dir);
    refuse(NULL, out_file, NULL, ERNIE_INVALID, "path");
    refuse(in_dir, NULL, NULL, ERNIE_INVALID, "path");
    refuse(in_dir, "", NULL, ERNIE_INVALID, "0 bytes");
    memset(path, 'x', sizeof path - 1);
    path[sizeof path - 1] = '\0';
    refuse(in_dir, path, NULL, ERNIE_INVALID, "4999 bytes");
    refuse(path, out_file, NULL, ERNIE_INVALID, "longer than 4095 bytes");
    refuse(out_file, out_file, NULL, ERNIE_IO, "config.json: cannot be opened");
    snprintf(elsewhere, sizeof elsewhere, "%s/none/x.ernie", out_dir);
    refuse(in_dir, elsewhere, NULL, ERNIE_IO, "none/x.ernie.part: cannot be created: No such file");
    refuse(in_dir, out_dir, NULL, ERNIE_IO, "is not a regular file");
    refuse(in_dir, "/dev/null", NULL, ERNIE_IO, "/dev/null: exists and is not a regular file");
    refuse(in_dir, out_file, &(ern_convert_options){ .type = "q4_0" }, ERNIE_INVALID,
           "\"q4_0\" is unknown: f32, f16");
    refuse(in_dir, out_file, &(ern_convert_options){ .chat = "x" }, ERNIE_INVALID,
           "plain, thinking or none");
}

/* ---- Interruptions ---------------------------------------------------------------------------- */

static void full_disk_leaves_no_file(void **state)
{
    (void)state;
    struct rlimit old, small;
    good_model();
    checkpoint_clear(out_dir);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    const rlim_t limits[] = { 0, 4096, 20000 };
    for (size_t i = 0; i < ERN_COUNT(limits); i++) {
        small = old;
        small.rlim_cur = limits[i];
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        refuse(in_dir, out_file, NULL, ERNIE_IO, "x.ernie: no room for");
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    }
    signal(SIGXFSZ, handler);
}

static void failures_keep_the_older_file(void **state)
{
    (void)state;
    checkpoint_clear(out_dir);
    checkpoint_put_text(out_dir, "x.ernie", "older");
    checkpoint_begin(&model, true);
    checkpoint_build(&model);
    twin_nan();
    write_model();
    refuse(in_dir, out_file, NULL, ERNIE_FORMAT, "not a number");
    const file_bytes bytes = read_file(out_file);
    assert_int_equal(bytes.n, 5);
    assert_memory_equal(bytes.data, "older", 5);
    free(bytes.data);
    good_model();
    convert_good(NULL); /* replaces it */
    const file_bytes after = read_file(out_file);
    read_format(&after);
    free(after.data);
}

/* What a killed run left behind is in nobody's way; a run that is still there is. */
static void parts_are_locked_not_stale(void **state)
{
    (void)state;
    good_model();
    checkpoint_clear(out_dir);
    checkpoint_put_text(out_dir, "x.ernie.part", "half a file");
    const int fd = open(checkpoint_path(out_dir, "x.ernie.part"), O_RDWR);
    assert_int_equal(flock(fd, LOCK_EX), 0);
    refuse(in_dir, out_file, NULL, ERNIE_IO, "x.ernie.part: another run is writing it");
    close(fd);
    convert_good(NULL);
}

typedef struct progress_state {
    unsigned n_calls, stop_at; /* stop_at 0: never */
    uint64_t last, total;
    ernie_cancel *cancel;
    const char *shorten; /* a file to cut at the first call */
} progress_state;

static int on_progress(const char *what, uint64_t done, uint64_t total, void *user)
{
    progress_state *p = user;
    assert_string_equal(what, "converting");
    assert_true(done >= p->last && done <= total);
    p->last = done;
    p->total = total;
    p->n_calls++;
    if (p->cancel) p->cancel->requested = 1;
    if (p->shorten) assert_int_equal(truncate(p->shorten, 60000), 0);
    p->shorten = NULL;
    return p->n_calls == p->stop_at;
}

static void progress_counts_source_bytes(void **state)
{
    (void)state;
    uint64_t total = 0;
    progress_state p = { .n_calls = 0 };
    checkpoint_begin(&model, true);
    model.rotary = model.redundant_head = true; /* not read, not counted */
    checkpoint_build(&model);
    for (unsigned i = 0; i < model.n; i++) {
        const checkpoint_tensor *t = &model.tensors[i];
        if (!strstr(t->name, "rotary") && !strstr(t->name, "lm_head"))
            total += t->n * (t->dtype[0] == 'F' ? 4 : 2);
    }
    write_model();
    const ern_convert_options options = { .progress = on_progress,
                                          .progress_user = &p,
                                          .n_threads = 2 };
    convert_good(&options);
    assert_true(p.n_calls >= 2);
    assert_int_equal(p.total, total);
    assert_int_equal(p.last, total);
}

static void cancelled_runs_leave_no_file(void **state)
{
    (void)state;
    good_model();
    checkpoint_clear(out_dir);
    ernie_cancel cancel = { 1 };
    ern_convert_options options = { .cancel = &cancel };
    refuse(in_dir, out_file, &options, ERNIE_CANCELLED, "cancelled");

    cancel.requested = 0; /* while it runs */
    progress_state p = { .cancel = &cancel };
    options.progress = on_progress;
    options.progress_user = &p;
    refuse(in_dir, out_file, &options, ERNIE_CANCELLED, "cancelled");
    assert_int_equal(p.n_calls, 1);

    for (unsigned at = 1; at <= 2; at++) { /* by the callback: the first and the last call */
        p = (progress_state){ .stop_at = at };
        options.cancel = NULL;
        refuse(in_dir, out_file, &options, ERNIE_CANCELLED, "cancelled");
    }
}

static void shards_that_shrink_are_named(void **state)
{
    (void)state;
    good_model();
    checkpoint_clear(out_dir);
    progress_state p = { .shorten = checkpoint_path(in_dir, "model.safetensors") };
    const ern_convert_options options = { .progress = on_progress, .progress_user = &p };
    refuse(in_dir, out_file, &options, ERNIE_IO, "model.safetensors: ends at byte 60000");
}

static void little_memory_is_enough(void **state)
{
    (void)state;
    good_model();
    const ern_convert_options options = { .memory_max = 1, .n_threads = 8 };
    convert_good(&options);
}

static void memory_failures_unwind(void **state)
{
    (void)state;
    checkpoint_begin(&model, true);
    model.n_layers = 2;
    checkpoint_build(&model);
    write_model();
    checkpoint_bytes pieces;
    checkpoint_tokenizer(&pieces, 2);
    checkpoint_put(in_dir, "tokenizer.model", pieces.data, pieces.n);
    checkpoint_clear(out_dir);
    for (int sticky = 0; sticky < 2; sticky++) {
        for (long n = 0;; n++) {
            test_allocator counter;
            ernie_allocator allocator;
            ernie_error error = { ERNIE_OK, "" };
            const ern_convert_options options = { .allocator = &allocator, .n_threads = 2 };
            test_allocator_begin(&counter, &allocator);
            test_allocator_fail_at(&counter, n, sticky);
            const ernie_status status = ern_convert(in_dir, out_file, &options, &error);
            assert_int_equal(counter.live, 0);
            assert_int_equal(counter.n_wrong_sizes, 0);
            if (status == ERNIE_OK) break;
            assert_int_equal(status, ERNIE_NO_MEMORY);
            assert_int_equal(count_files(out_dir), 0);
        }
        checkpoint_clear(out_dir);
    }
}

/* ---- A tokenizer and a template in the file ------------------------------------------------------- */

static void text_sections_arrive(void **state)
{
    (void)state;
    checkpoint_bytes pieces;
    good_model();
    checkpoint_tokenizer(&pieces, 2);
    checkpoint_put(in_dir, "tokenizer.model", pieces.data, pieces.n);
    checkpoint_put_text(in_dir, "added_tokens.json",
                        "{\"<|begin_of_sentence|>\": 290, \"<|end_of_sentence|>\": 291}");
    checkpoint_put_text(in_dir, "generation_config.json",
                        "{\"do_sample\": true, \"temperature\": 0.8, \"top_p\": 0.7}");
    const ern_convert_options options = { .chat = "plain" };
    convert_good(&options);
    const file_bytes bytes = read_file(out_file);
    const ern_format format = read_format(&bytes);
    assert_int_equal(format.tokenizer->n_tokens, 292);
    assert_int_equal(format.chat->format, ERNIE_CHAT_PLAIN);
    assert_int_equal(format.chat->begin_id, 290);
    assert_int_equal(format.chat->turn_end_id, 291);
    assert_int_equal(format.generation->do_sample, 1);
    assert_int_equal(format.generation->n_stop_ids, 2);
    assert_int_equal(format.generation->stop_ids[1], 291);
    free(bytes.data);
}

/* ---- Random models ---------------------------------------------------------------------------- */

static void synthetic_models_open(void **state)
{
    (void)state;
    const struct {
        const char *shape, *type;
        uint32_t n_layers;
    } cases[] = { { "demo", "w4", 0 },   { "demo", "f32", 1 }, { "demo", "f16", 2 },
                  { "demo", "bf16", 2 }, { "demo", "w8", 3 },  { "0.3b", "w4", 1 } };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        ernie_error error = { ERNIE_OK, "" };
        const ern_synth_options options = { .shape = cases[i].shape,
                                            .type = cases[i].type,
                                            .n_threads = 2,
                                            .n_layers = cases[i].n_layers,
                                            .seed = 7 };
        if (ern_synth(out_file, &options, &error) != ERNIE_OK) fail_msg("%s", error.message);
        const file_bytes bytes = read_file(out_file);
        const ern_format format = read_format(&bytes);
        for (uint32_t k = 0; k < format.header->n_records; k++) {
            const ern_record *r = &format.records[k];
            const ern_matrix m = { format.data + r->offset, r->type,
                                   r->n_rows < 32 ? r->n_rows : 32, r->n_cols };
            if (ern_kind_is_f32(r->kind) && r->kind != ERN_ROUTER) continue;
            double sum = 0; /* the spread that keeps activations at their size */
            for (uint32_t row = 0; row < m.n_rows; row++)
                for (uint32_t col = 0; col < m.n_cols; col++)
                    sum += pow((double)weight_at(&m, row, col), 2);
            assert_true(sum / m.n_rows > 0.4 && sum / m.n_rows < 2.5);
        }
        free(bytes.data);
    }
}

static void synthetic_models_repeat(void **state)
{
    (void)state;
    file_bytes files[3];
    for (unsigned i = 0; i < 3; i++) {
        ernie_error error = { ERNIE_OK, "" };
        const ern_synth_options options = {
            .shape = "demo", .n_layers = 2, .n_threads = 1 + i, .seed = i < 2 ? 1 : 2
        };
        assert_int_equal(ern_synth(out_file, &options, &error), ERNIE_OK);
        files[i] = read_file(out_file);
    }
    assert_int_equal(files[0].n, files[1].n);
    assert_memory_equal(files[0].data, files[1].data, files[0].n);
    assert_memory_not_equal(files[0].data, files[2].data, files[0].n);
    for (unsigned i = 0; i < 3; i++) free(files[i].data);
}

static void bad_synth_is_named(void **state)
{
    (void)state;
    ernie_error error = { ERNIE_OK, "" };
    checkpoint_clear(out_dir);
    assert_int_equal(ern_synth(out_file, NULL, &error), ERNIE_INVALID);
    assert_int_equal(ern_synth(out_file, &(ern_synth_options){ .shape = "7b" }, &error),
                     ERNIE_INVALID);
    assert_non_null(strstr(error.message, "\"7b\" is unknown: 0.3b, 21b, 300b or demo"));
    assert_int_equal(
        ern_synth(out_file, &(ern_synth_options){ .shape = "demo", .type = "x" }, &error),
        ERNIE_INVALID);
    assert_int_equal(
        ern_synth(out_file, &(ern_synth_options){ .shape = "demo", .n_layers = 2000 }, &error),
        ERNIE_INVALID);
    ernie_cancel cancel = { 1 };
    assert_int_equal(
        ern_synth(out_file, &(ern_synth_options){ .shape = "21b", .cancel = &cancel }, &error),
        ERNIE_CANCELLED);
    assert_int_equal(count_files(out_dir), 0);
}

/* ---- The shared checkpoints ---------------------------------------------------------------------- */

static const char *shared_data(void)
{
    static char path[400];
    const char *shared = getenv("ERNIE_SHARED");
    snprintf(path, sizeof path, "%.300s/data", shared ? shared : "../shared");
    return path;
}

static void shared_checkpoints_convert(void **state)
{
    (void)state;
    static const char *const names[] = { "micro-moe", "tiny-dense", "tiny-21b", "tiny-300b",
                                         "ernie-demo-moe" };
    static const char *const types[] = { "f32", "f16", "bf16", "w8", "w4" };
    for (size_t i = 0; i < ERN_COUNT(names); i++) {
        for (size_t t = 0; t < ERN_COUNT(types); t++) {
            ernie_error error = { ERNIE_OK, "" };
            const ern_convert_options options = { .type = types[t] };
            const char *source = checkpoint_path(shared_data(), names[i]);
            if (ern_convert(source, out_file, &options, &error) != ERNIE_OK)
                fail_msg("%s: %s", source, error.message);
            const file_bytes bytes = read_file(out_file);
            const ern_format format = read_format(&bytes);
            assert_string_equal(format.header->name, names[i]);
            free(bytes.data);
        }
    }
}

static void shared_vision_is_refused(void **state)
{
    (void)state;
    checkpoint_clear(out_dir);
    refuse(checkpoint_path(shared_data(), "tiny-vl"), out_file, NULL, ERNIE_UNSUPPORTED,
           "is a vision-language checkpoint (tensor \"model.");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_arrive),
        cmocka_unit_test(header_says_what_it_is),
        cmocka_unit_test(spellings_give_the_same_file),
        cmocka_unit_test(tensors_settle_the_rest),
        cmocka_unit_test(bad_twins_are_named),
        cmocka_unit_test(untied_head_is_needed_only_when_there),
        cmocka_unit_test(bad_files_are_named),
        cmocka_unit_test(bad_arguments_are_named),
        cmocka_unit_test(full_disk_leaves_no_file),
        cmocka_unit_test(failures_keep_the_older_file),
        cmocka_unit_test(parts_are_locked_not_stale),
        cmocka_unit_test(progress_counts_source_bytes),
        cmocka_unit_test(cancelled_runs_leave_no_file),
        cmocka_unit_test(shards_that_shrink_are_named),
        cmocka_unit_test(little_memory_is_enough),
        cmocka_unit_test(memory_failures_unwind),
        cmocka_unit_test(text_sections_arrive),
        cmocka_unit_test(synthetic_models_open),
        cmocka_unit_test(synthetic_models_repeat),
        cmocka_unit_test(bad_synth_is_named),
    };
    const struct CMUnitTest shared_tests[] = {
        cmocka_unit_test(shared_checkpoints_convert),
        cmocka_unit_test(shared_vision_is_refused),
    };
    if (argc < 2) return cmocka_run_group_tests(tests, setup, teardown);
    if (strcmp(argv[1], "shared") != 0) return 2;
    if (access(checkpoint_path(shared_data(), "tiny-vl"), R_OK) != 0) {
        fprintf(stderr, "skipped: no checkpoints in %s\n", shared_data());
        return 77;
    }
    return cmocka_run_group_tests(shared_tests, setup, teardown);
}
