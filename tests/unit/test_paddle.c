/* Baidu's quantized -Paddle checkpoints: every form gives the weights that it means, and every bad
 * twin is named. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "convert_run.h"
#include "checkpoint_paddle.h"

#include "../../tools/convert/columns.h"
#include "../../tools/convert/config.h"

/* ---- Whole checkpoints ----------------------------------------------------------------------- */

static const char mixed_config[] =
    "\"quantization_config\": {\"dense_quant_type\": \"wint8\", \"moe_quant_type\": \"w4w2\", "
    "\"quantization\": \"wint2\", \"moe_quant_config\": {\"moe_w4_quant_config\": "
    "{\"quant_type\": \"wint4\", \"quant_granularity\": \"per_channel\", \"quant_start_layer\": 0, "
    "\"quant_end_layer\": 1}, \"moe_w2_quant_config\": {\"quant_type\": \"wint2\", "
    "\"quant_granularity\": \"pp_acc\", \"quant_group_size\": 64, \"quant_start_layer\": 2, "
    "\"quant_end_layer\": 53}}}, ";

#define QUANT(text) "\"quantization_config\": {" text "}, "
#define MIX(dense, moe, more)                                                      \
    QUANT("\"quantization\": \"mix_quant\", \"dense_quant_type\": \"" dense "\", " \
          "\"moe_quant_type\": \"" moe "\", \"is_quantized\": true" more)

typedef struct paddle_case {
    const char *config;
    paddle_forms forms;
    size_t expert_width; /* 0: as paddle_begin sets it */
    float tolerance;     /* of the largest weight; 0: the same file */
} paddle_case;

/* clang-format off */
static const paddle_case paddle_cases[] = {
    { QUANT("\"quantization\": \"wint8\""),
      { .dense = FORM_WINT8, .experts = { FORM_WINT8 } }, 0, 0 },
    { QUANT("\"quantization\": \"wint8\""),
      { .dense = FORM_WINT8_TILED, .experts = { FORM_WINT8_TILED } }, 0, 0 },
    { MIX("wint4", "wint4", ""),
      { .dense = FORM_WINT4, .experts = { FORM_WINT4 } }, 0, 0 },
    { MIX("wint8", "wint4", ""),
      { .dense = FORM_WINT8_TILED, .experts = { FORM_WINT4_TILED } }, 0, 0 },
    { MIX("wint8", "wint4", ""),
      { .dense = FORM_N, .experts = { FORM_WINT4 } }, 0, 0 },
    { MIX("wint8", "w4a8", ""),
      { .dense = FORM_WINT8, .experts = { FORM_W4A8 }, .hadamard = 64 }, 0, 0 },
    { MIX("wint8", "w4a8", ", \"is_permuted\": false, \"hadamard_block_size\": 16"),
      { .dense = FORM_WINT8_TILED, .experts = { FORM_W4A8 }, .hadamard = 16 }, 0, 0 },
    { MIX("wint8", "w4a8", ", \"is_permuted\": true"),
      { .dense = FORM_WINT8_TILED, .experts = { FORM_W4A8_TILED }, .hadamard = 64 }, 0, 1e-6f },
    { MIX("wint8", "w4a8", ", \"kv_cache_quant_type\": \"int8\""),
      { .dense = FORM_WINT8, .experts = { FORM_W4A8 }, .hadamard = 256 }, 256, 0 },
    { MIX("wint8", "w4a8", ", \"kv_cache_quant_type\": \"int8\""),
      { .dense = FORM_WINT8, .experts = { FORM_W4A8 }, .hadamard = 256, .unscaled = true },
      256, 0 },
    { MIX("wint8", "w4a8", ", \"is_permuted\": true"),
      { .dense = FORM_N, .experts = { FORM_W4A8_TILED }, .hadamard = 256, .unscaled = true },
      256, 1e-6f },
    { MIX("block_wise_fp8", "block_wise_fp8", ", \"weight_block_size\": [128, 128]"),
      { .dense = FORM_FP8, .experts = { FORM_FP8 } }, 0, 0 },
    { QUANT("\"quantization\": \"block_wise_fp8\""),
      { .dense = FORM_FP8, .experts = { FORM_FP8 } }, 200, 0 },
    { mixed_config,
      { .dense = FORM_WINT8_TILED, .experts = { FORM_WINT4_TILED, FORM_WINT2 }, .split = 1 },
      0, 0 },
    { mixed_config,
      { .dense = FORM_WINT8, .experts = { FORM_WINT4, FORM_WINT2_BARE }, .split = 1 }, 192, 0 },
    { QUANT("\"quantization\": \"wint2\", \"moe_quant_type\": \"wint2\""),
      { .dense = FORM_N, .experts = { FORM_WINT2 } }, 100, 0 },
    { MIX("wint8", "wint2.5", ""),
      { .dense = FORM_WINT8, .experts = { FORM_WINT2_5 } }, 128, 0 },
};
/* clang-format on */

static void build_case(const paddle_case *c, bool stored)
{
    paddle_begin(&model);
    paddle_forms forms = c->forms;
    if (c->expert_width) model.expert_width = (unsigned)c->expert_width;
    if (forms.split == 0) forms.split = 100;
    model.config_extra = c->config;
    checkpoint_build(&model);
    paddle_quantize(&model, &forms, stored);
}

static file_bytes convert_case(const paddle_case *c, bool stored, unsigned n_threads,
                               uint64_t memory_max)
{
    build_case(c, stored);
    write_model();
    const ern_convert_options options = {
        .type = "f32", .name = "x", .n_threads = n_threads, .memory_max = memory_max
    };
    convert_good(&options);
    return read_file(out_file);
}

/* The largest difference of two files of floats, over the largest weight. */
static float difference(const file_bytes *a, const file_bytes *b)
{
    float most = 0, largest = 0;
    assert_int_equal(a->n, b->n);
    const ern_format format = read_format(a);
    for (uint32_t i = 0; i < format.header->n_records; i++) {
        const ern_record *r = &format.records[i];
        if (r->kind != ERN_EXPERT) continue;
        const float *x = (const float *)(const void *)(a->data + r->offset);
        const float *y = (const float *)(const void *)(b->data + r->offset);
        for (size_t k = 0; k < r->n_bytes / sizeof *x; k++) {
            most = fmaxf(most, fabsf(x[k] - y[k]));
            largest = fmaxf(largest, fabsf(x[k]));
        }
    }
    assert_true(largest > 0);
    return most / largest;
}

/* A checkpoint of codes must give the file of the checkpoint of what the codes mean. */
static void forms_give_what_they_mean(void **state)
{
    (void)state;
    for (size_t i = 0; i < ERN_COUNT(paddle_cases); i++) {
        const paddle_case *c = &paddle_cases[i];
        const file_bytes meant = convert_case(c, false, 1, 0);
        for (unsigned k = 0; k < 2; k++) {
            const file_bytes got = convert_case(c, true, 1 + 2 * k, k);
            const bool same = got.n == meant.n && memcmp(got.data, meant.data, got.n) == 0;
            if (c->tolerance > 0 ? !(difference(&got, &meant) <= c->tolerance) : !same)
                fail_msg("case %zu: differs by %g", i, (double)difference(&got, &meant));
            free(got.data);
        }
        free(meant.data);
    }
}

/* Square matrices look alike in both orders; the others tell. Where all are square, is_permuted
 * does. */
static void square_matrices_follow_the_rest(void **state)
{
    (void)state;
    static const char *const configs[2] = {
        QUANT("\"quantization\": \"wint8\""),
        QUANT("\"quantization\": \"wint8\", \"is_permuted\": true")
    };
    for (int k = 0; k < 4; k++) {
        const paddle_case c = {
            configs[k / 2],
            { .dense = k % 2 ? FORM_WINT8_TILED : FORM_WINT8, .experts = { FORM_N }, .split = 100 },
            0,
            0
        };
        file_bytes files[2];
        for (int stored = 0; stored < 2; stored++) {
            paddle_begin(&model);
            model.hidden = model.width = 128; /* as o_proj's input */
            model.config_extra = c.config;
            checkpoint_build(&model);
            paddle_quantize(&model, &c.forms, stored);
            write_model();
            convert_good(&(ern_convert_options){ .type = "f32", .name = "x" });
            files[stored] = read_file(out_file);
        }
        assert_int_equal(files[0].n, files[1].n);
        assert_memory_equal(files[0].data, files[1].data, files[0].n);
        free(files[0].data);
        free(files[1].data);
    }
}

/* Scales of activations and of their cache are left out without a word. */
static void activation_scales_are_left_out(void **state)
{
    (void)state;
    build_case(&paddle_cases[0], true);
    checkpoint_add(&model, "ernie.layers.0.self_attn.o_proj.activation_scale", 1, 1, 0, 0);
    checkpoint_add(&model, "ernie.layers.0.self_attn.cachek_matmul.activation_scale", 1, 64, 0, 0);
    checkpoint_add(&model, "ernie.layers.0.self_attn.cachev_matmul.activation_zero_point", 1, 64, 0,
                   0);
    write_model();
    convert_good(NULL);
}

/* Guesses are said: one that config.json could have spared, and one that it has no word for. */
static void count_words(ernie_log_level level, const char *line, void *user)
{
    unsigned *n = user;
    n[0] += level == ERNIE_LOG_WARN && strstr(line, "has no is_permuted");
    n[1] += level == ERNIE_LOG_INFO && strstr(line, "rotation's factor");
}

static void guesses_are_said(void **state)
{
    (void)state;
    static const struct {
        unsigned base, permuted, factor;
    } cases[] = { { 0, 0, 0 }, { 5, 1, 0 }, { 6, 0, 0 }, { 7, 0, 0 }, { 9, 1, 1 }, { 10, 0, 1 } };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        unsigned n[2] = { 0, 0 };
        build_case(&paddle_cases[cases[i].base], true);
        write_model();
        convert_good(&(ern_convert_options){ .log = { count_words, n } });
        assert_int_equal(n[0], cases[i].permuted);
        assert_int_equal(n[1], cases[i].factor);
    }
}

/* ---- Numbers --------------------------------------------------------------------------------- */

/* One column of 2-bit bytes, staged by hand: the values that the format's description gives. */
static void two_bits_decode_as_described(void **state)
{
    (void)state;
    static const float wanted[8] = { -31, -23, -19, 10, 30, 20, 0, -25 };
    const float super = 0.5f, code_scale = 123.0952f, code_zp = 617.82f;
    const unsigned char bytes[2] = { 0, 255 }, local = 0x3f;
    float values[32] = { 0 };
    ernie_error error = { ERNIE_OK, "" };
    conv_tensor weight = { .dtype = CONV_OTHER, .n_dims = 2, .dims = { 2, 1 } };
    conv_tensor group = { .dtype = CONV_OTHER, .n_dims = 2, .dims = { 1, 1 } };
    conv_tensor scale = { .dtype = CONV_F32, .n_dims = 1, .dims = { 1 } };
    const conv_slice slice = { .tensor = &weight,
                               .n_rows = 1,
                               .coding = CONV_CCQ2,
                               .companions = { &group, &scale, &scale, &scale },
                               .divisor = 1 };
    conv_columns columns;
    conv_columns_set(&columns, &slice, 8, 0, 1);
    assert_int_equal(columns.n_rects, 5);
    columns.rects[0].data = bytes;
    columns.rects[1].data = &local;
    columns.rects[2].data = (const unsigned char *)&super;
    columns.rects[3].data = (const unsigned char *)&code_scale;
    columns.rects[4].data = (const unsigned char *)&code_zp;
    assert_int_equal(conv_columns_rows(&columns, conv_encoder_at(0), 0, 1, values, 8, &error),
                     ERNIE_OK);
    for (unsigned k = 0; k < 8; k++) /* the even group's scale is the high nibble, 3 */
        assert_true(values[k] == wanted[k] * (3 * super));
}

/* Every code of e4m3 against its definition. */
static void e4m3_is_exact(void **state)
{
    (void)state;
    unsigned char bytes[256];
    float values[256];
    const float one = 1;
    ernie_error error = { ERNIE_OK, "" };
    conv_tensor weight = { .dtype = CONV_OTHER, .n_dims = 2, .dims = { 256, 1 } };
    conv_tensor scale = { .dtype = CONV_F32, .n_dims = 2, .dims = { 2, 1 } };
    const float scales[2] = { one, one };
    const conv_slice slice = {
        .tensor = &weight, .n_rows = 1, .coding = CONV_E4M3, .companions = { &scale }, .divisor = 1
    };
    conv_columns columns;
    for (unsigned i = 0; i < 256; i++) bytes[i] = (unsigned char)i;
    conv_columns_set(&columns, &slice, 256, 0, 1);
    columns.rects[0].data = bytes;
    columns.rects[1].data = (const unsigned char *)scales;
    assert_int_equal(conv_columns_rows(&columns, conv_encoder_at(0), 0, 1, values, 256, &error),
                     ERNIE_OK);
    for (unsigned i = 0; i < 256; i++) {
        const bool number = (i & 127) != 127;
        assert_true(number ? values[i] == paddle_e4m3(i) : isnan(values[i]));
    }
    assert_true(values[0x7e] == 448 && values[0x01] == 0x1p-9f && signbit(values[0x80]));
}

/* ---- Bad twins ------------------------------------------------------------------------------- */

enum {
    WINT8_CASE = 0,
    WINT4_CASE = 2,
    W4A8_CASE = 5,
    FP8_CASE = 11,
    MIXED_CASE = 13,
    WINT25_CASE = 16
};

#define EXPERT1 "ernie.layers.1.mlp.experts.1."
#define EXPERT2 "ernie.layers.2.mlp.experts.2."
#define QKV     "ernie.layers.0.self_attn.qkv_proj."

static checkpoint_tensor *tensor(const char *name)
{
    checkpoint_tensor *found = checkpoint_find(&model, name);
    if (!found) fail_msg("no \"%s\"", name);
    return found;
}

static void twin_no_scale(void)
{
    checkpoint_remove(&model, QKV "weight_scale");
}
static void twin_scale_count(void) /* one too few */
{
    tensor(QKV "weight_scale")->dims[0]--;
    tensor(QKV "weight_scale")->n--;
}
static void twin_scale_dtype(void)
{
    tensor(QKV "weight_scale")->dtype = "I16";
}
static void twin_scale_flat(void)
{
    checkpoint_tensor *t = tensor(QKV "weight_scale");
    t->n_dims = 2;
    t->dims[1] = 1;
}
static void twin_scale_nan(void)
{
    tensor(QKV "weight_scale")->values[17] = NAN;
}
static void twin_weight_dtype(void)
{
    tensor(QKV "quant_weight")->dtype = "U8";
}
static void twin_weight_shape(void)
{
    checkpoint_tensor *t = tensor(QKV "quant_weight");
    t->dims[0] /= 2;
    t->n_bytes /= 2;
    t->n /= 2;
}
static void twin_weight_missing(void)
{
    checkpoint_remove(&model, QKV "quant_weight");
}
static void twin_both(void)
{
    checkpoint_add(&model, QKV "weight", 2, 192, 256, 0);
}
static void twin_no_config(void)
{
    model.config_extra = "";
}
static void twin_unknown_scheme(void)
{
    model.config_extra = MIX("wint8", "w4afp8", "");
}
static void twin_other_scheme(void)
{
    model.config_extra = QUANT("\"quantization\": \"wint4\"");
}
static void twin_no_code_zp(void)
{
    checkpoint_remove(&model, EXPERT2 "down_proj.code_zp");
}
static void twin_local_count(void)
{
    checkpoint_tensor *t = tensor(EXPERT2 "up_gate_proj.weight_scale");
    t->dims[0]--;
    t->n_bytes -= t->dims[1];
    t->n -= t->dims[1];
}
static void twin_code_huge(void)
{
    tensor(EXPERT2 "up_gate_proj.code_scale")->values[40] = 129;
}
static void twin_code_nan(void)
{
    tensor(EXPERT2 "down_proj.code_zp")->values[3] = NAN;
}
static void twin_super_infinite(void)
{
    tensor(EXPERT2 "down_proj.super_scales")->values[0] = INFINITY;
}
static void twin_no_layer(void)
{
    model.config_extra =
        QUANT("\"quantization\": \"wint2\", \"moe_quant_config\": {\"moe_w4_quant_config\": "
              "{\"quant_end_layer\": 1}, \"moe_w2_quant_config\": {\"quant_start_layer\": 3}}");
}
static void twin_hadamard(void)
{
    model.config_extra = MIX("wint8", "w4a8", ", \"hadamard_block_size\": 96");
}
static void twin_hadamard_wide(void)
{
    model.config_extra = MIX("wint8", "w4a8", ", \"hadamard_block_size\": 128");
}
static void twin_no_input_scale(void) /* needed by permuted weights alone */
{
    checkpoint_remove(&model, EXPERT1 "down_proj.activation_scale");
    model.config_extra = MIX("wint8", "w4a8", ", \"is_permuted\": true");
}
static void twin_fp8_nan(void)
{
    tensor(QKV "quant_weight")->bytes[5 * 256 + 130] = 0xff;
}
static void twin_fp8_blocks(void)
{
    checkpoint_tensor *t = tensor(QKV "weight_scale");
    t->dims[0] = 1;
    t->dims[1] = 4;
}
static void twin_fp8_bf16(void)
{
    tensor(QKV "quant_weight")->dtype = "F8_E5M2";
}
static void twin_odd_words(void) /* 2.5 bits need whole groups of 64 */
{
    checkpoint_free(&model);
    model.expert_width = 96;
    checkpoint_build(&model);
    const paddle_forms forms = { .dense = FORM_WINT8, .experts = { FORM_WINT2_5 }, .split = 100 };
    paddle_quantize(&model, &forms, true);
}
static void twin_tiled_odd(void) /* [out, in], but no whole tiles */
{
    checkpoint_free(&model);
    model.expert_width = 96;
    checkpoint_build(&model);
    paddle_quantize(&model, &(paddle_forms){ .experts = { FORM_WINT8 }, .split = 100 }, true);
    checkpoint_tensor *t = tensor(EXPERT1 "down_proj.quant_weight");
    t->dims[0] = 192;
    t->dims[1] = 96;
}
static void twin_stranger(void)
{
    checkpoint_add(&model, QKV "smooth_weight", 1, 4, 0, 0);
}

static const struct {
    unsigned base; /* of paddle_cases */
    void (*damage)(void);
    ernie_status status;
    const char *says;
} twins[] = {
    { WINT8_CASE, twin_no_scale, ERNIE_FORMAT,
      "tensor \"" QKV "weight_scale\" is missing, wint8 asks for it with shape [256]" },
    { WINT8_CASE, twin_scale_count, ERNIE_FORMAT,
      "\"" QKV "weight_scale\": shape [255], wint8 asks for [256]" },
    { WINT8_CASE, twin_scale_flat, ERNIE_FORMAT,
      "\"" QKV "weight_scale\": shape [256, 1], wint8 asks for [256]" },
    { WINT8_CASE, twin_scale_dtype, ERNIE_UNSUPPORTED,
      "\"" QKV "weight_scale\": dtype I16, wint8 asks for F32" },
    { WINT8_CASE, twin_scale_nan, ERNIE_FORMAT,
      "\"" QKV "quant_weight\": weight [0, 17] is not a number" },
    { WINT8_CASE, twin_weight_dtype, ERNIE_UNSUPPORTED,
      "\"" QKV "quant_weight\": dtype U8, wint8 asks for I8" },
    { WINT8_CASE, twin_weight_shape, ERNIE_FORMAT,
      "\"" QKV "quant_weight\": shape [96, 256], wint8 of config.json asks for [192, 256] or [256, "
      "192]" },
    { WINT8_CASE, twin_weight_missing, ERNIE_FORMAT,
      "\"" QKV "weight\" is missing, expected with shape [192, 256]" },
    { WINT8_CASE, twin_both, ERNIE_UNSUPPORTED,
      "\"" QKV "quant_weight\" in model.safetensors is unknown" },
    { WINT8_CASE, twin_no_config, ERNIE_FORMAT,
      "\"" QKV
      "quant_weight\" is quantized, but quantization_config of config.json names no scheme" },
    { WINT8_CASE, twin_unknown_scheme, ERNIE_UNSUPPORTED,
      "moe_quant_type of quantization_config is \"w4afp8\", known are wint8, wint4, w4a8" },
    { WINT8_CASE, twin_other_scheme, ERNIE_FORMAT,
      "\"" QKV "quant_weight\": shape [192, 256], wint4 of config.json asks for [96, 256] or [128, "
      "192]" },
    { WINT8_CASE, twin_tiled_odd, ERNIE_FORMAT,
      "\"" EXPERT1
      "down_proj.quant_weight\": 96 input and 192 output channels, a permuted wint8 has "
      "multiples of 64 and 2" },
    { WINT8_CASE, twin_stranger, ERNIE_UNSUPPORTED, "\"" QKV "smooth_weight\" in" },
    { MIXED_CASE, twin_no_code_zp, ERNIE_FORMAT,
      "\"" EXPERT2 "down_proj.code_zp\" is missing, wint2 asks for it with shape [192]" },
    { MIXED_CASE, twin_local_count, ERNIE_FORMAT,
      "\"" EXPERT2 "up_gate_proj.weight_scale\": shape [1, 128], wint2 asks for [2, 128]" },
    { MIXED_CASE, twin_code_huge, ERNIE_FORMAT,
      "\"" EXPERT2
      "up_gate_proj.code_scale\": column 40 and its code_zp make a code of more than" },
    { MIXED_CASE, twin_code_nan, ERNIE_FORMAT, "\"" EXPERT2 "down_proj.code_scale\": column 3" },
    { MIXED_CASE, twin_super_infinite, ERNIE_FORMAT,
      "\"" EXPERT2 "down_proj.quant_weight\": weight [0, 0] is" },
    { MIXED_CASE, twin_no_layer, ERNIE_FORMAT,
      "layers.2.mlp.experts.0.up_gate_proj.quant_weight\" is quantized, but" },
    { W4A8_CASE, twin_hadamard, ERNIE_FORMAT,
      "hadamard_block_size is 96, which is no power of two" },
    { W4A8_CASE, twin_hadamard_wide, ERNIE_FORMAT,
      "hadamard_block_size is 128, which is no power of two in the 64 input channels of" },
    { W4A8_CASE, twin_no_input_scale, ERNIE_FORMAT,
      "\"" EXPERT1 "down_proj.activation_scale\" is missing, w4a8 asks for it with shape [1]" },
    { FP8_CASE, twin_fp8_nan, ERNIE_FORMAT,
      "\"" QKV "quant_weight\": weight [5, 130] is not a number" },
    { FP8_CASE, twin_fp8_blocks, ERNIE_FORMAT,
      "\"" QKV "weight_scale\": shape [1, 4], block_wise_fp8 asks for [2, 2]" },
    { FP8_CASE, twin_fp8_bf16, ERNIE_UNSUPPORTED,
      "\"" QKV "quant_weight\": dtype F8_E5M2, block_wise_fp8 asks for F8_E4M3" },
    { WINT25_CASE, twin_odd_words, ERNIE_FORMAT,
      "down_proj.quant_weight\": has 96 input channels, wint2.5 needs a multiple of 64" },
};

static void bad_twins_are_named(void **state)
{
    (void)state;
    checkpoint_clear(out_dir);
    for (size_t i = 0; i < ERN_COUNT(twins); i++)
        for (unsigned n_threads = 1; n_threads <= 3; n_threads += 2) {
            const ern_convert_options options = { .n_threads = n_threads };
            build_case(&paddle_cases[twins[i].base], true);
            twins[i].damage();
            write_model();
            refuse(in_dir, out_file, &options, twins[i].status, twins[i].says);
        }
}

/* A shard that ends too early is seen in its header, one that shrinks later when it is read. */
static void truncated_files_are_named(void **state)
{
    (void)state;
    build_case(&paddle_cases[MIXED_CASE], true);
    write_model();
    const char *path = checkpoint_path(in_dir, "model.safetensors");
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(truncate(path, info.st_size - 100), 0);
    checkpoint_clear(out_dir);
    refuse(in_dir, out_file, NULL, ERNIE_FORMAT, "model.safetensors: is truncated: tensor \"");
}

/* What is not a checkpoint in one piece. */
static void ranks_are_named(void **state)
{
    (void)state;
    char rank[400];
    build_case(&paddle_cases[0], true);
    write_model();
    unlink(checkpoint_path(in_dir, "model.safetensors"));
    snprintf(rank, sizeof rank, "%s/rank0", in_dir);
    assert_int_equal(mkdir(rank, 0777), 0);
    checkpoint_clear(out_dir);
    refuse(in_dir, out_file, NULL, ERNIE_UNSUPPORTED,
           "is split for tensor-parallel runs (rank0), only whole checkpoints can be converted");
}

/* ---- quantization_config --------------------------------------------------------------------- */

static ernie_status read_quant(conv_quant *quant, const char *text, ernie_error *error)
{
    json_error_t reason;
    json_t *root = json_object(), *value = json_loads(text, JSON_DECODE_ANY, &reason);
    assert_non_null(value);
    json_object_set_new(root, "quantization_config", value);
    const ernie_status status = conv_quant_read(quant, root, 54, error);
    json_decref(root);
    return status;
}

static uint32_t expert_scheme(const conv_quant *quant, uint32_t layer)
{
    for (uint32_t i = 0; i < quant->n_experts; i++)
        if (layer >= quant->experts[i].first && layer <= quant->experts[i].last)
            return quant->experts[i].scheme;
    return CONV_UNQUANTIZED;
}

static void schemes_are_read(void **state)
{
    (void)state;
    const struct {
        const char *text;
        uint32_t dense, first, last; /* of layers 3 and 53 */
    } cases[] = {
        { "null", CONV_UNQUANTIZED, CONV_UNQUANTIZED, CONV_UNQUANTIZED },
        { "{}", CONV_UNQUANTIZED, CONV_UNQUANTIZED, CONV_UNQUANTIZED },
        { "{\"quantization\": \"wint8\"}", CONV_WINT8, CONV_WINT8, CONV_WINT8 },
        { "{\"quantization\": \"wint2\"}", CONV_WINT8, CONV_WINT4, CONV_WINT2 },
        { "{\"quantization\": \"wint2\", \"moe_quant_type\": \"w4w2\", \"moe_quant_config\": "
          "{\"moe_w4_quant_config\": {\"quant_type\": \"w4a8\", \"quant_end_layer\": 2}}}",
          CONV_WINT8, CONV_WINT2, CONV_WINT2 },
        { "{\"quantization\": \"mix_quant\", \"dense_quant_type\": null, \"moe_quant_type\": "
          "\"w4a8\", \"kv_cache_quant_type\": \"int8\"}",
          CONV_UNQUANTIZED, CONV_W4A8, CONV_W4A8 },
        { "{\"quantization\": \"w4a8\"}", CONV_UNQUANTIZED, CONV_W4A8, CONV_W4A8 },
        { "{\"dense_quant_type\": \"block_wise_fp8\"}", CONV_FP8, CONV_UNQUANTIZED,
          CONV_UNQUANTIZED },
        { "{\"moe_quant_type\": \"w4w2\", \"moe_quant_config\": {\"moe_w2_quant_config\": "
          "{\"quant_type\": \"wint2.5\"}}}",
          CONV_UNQUANTIZED, CONV_WINT4, CONV_WINT2_5 },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        conv_quant quant;
        ernie_error error = { ERNIE_OK, "" };
        if (read_quant(&quant, cases[i].text, &error) != ERNIE_OK) fail_msg("%s", error.message);
        assert_int_equal(quant.dense, cases[i].dense);
        assert_int_equal(expert_scheme(&quant, 3), cases[i].first);
        assert_int_equal(expert_scheme(&quant, 53), cases[i].last);
    }
}

static void bad_schemes_are_named(void **state)
{
    (void)state;
    const struct {
        const char *text;
        ernie_status status;
        const char *says;
    } cases[] = {
        { "3", ERNIE_FORMAT, "quantization_config is not an object" },
        { "{\"quantization\": \"wint3\"}", ERNIE_UNSUPPORTED,
          "quantization of quantization_config is \"wint3\", known are wint8" },
        { "{\"quantization\": 8}", ERNIE_FORMAT,
          "quantization of quantization_config is not a string" },
        { "{\"dense_quant_type\": \"w8a8\"}", ERNIE_UNSUPPORTED,
          "dense_quant_type of quantization_config is \"w8a8\"" },
        { "{\"dense_quant_type\": \"w4w2\"}", ERNIE_UNSUPPORTED, "\"w4w2\"" },
        { "{\"dense_quant_type\": \"w4a8\"}", ERNIE_UNSUPPORTED, "\"w4a8\", a scheme of experts" },
        { "{\"moe_quant_type\": \"tensor_wise_fp8\"}", ERNIE_UNSUPPORTED, "\"tensor_wise_fp8\"" },
        { "{\"quant_method\": \"gptq\", \"bits\": 4}", ERNIE_UNSUPPORTED,
          "quant_method of quantization_config is \"gptq\"" },
        { "{\"is_permuted\": 1}", ERNIE_FORMAT, "is_permuted" },
        { "{\"hadamard_block_size\": -1}", ERNIE_FORMAT, "hadamard_block_size" },
        { "{\"hadamard_block_size\": \"512\"}", ERNIE_FORMAT, "hadamard_block_size" },
        { "{\"weight_block_size\": [64, 128]}", ERNIE_UNSUPPORTED, "weight_block_size" },
        { "{\"dense_quant_granularity\": \"per_tensor\"}", ERNIE_UNSUPPORTED,
          "dense_quant_granularity of quantization_config is \"per_tensor\"" },
        { "{\"quantization\": \"wint2\", \"moe_quant_config\": []}", ERNIE_FORMAT,
          "moe_quant_config is not an object" },
        { "{\"quantization\": \"wint2\", \"moe_quant_config\": {\"moe_w2_quant_config\": "
          "{\"quant_granularity\": \"per_channel\"}}}",
          ERNIE_UNSUPPORTED, "only \"pp_acc\" is supported" },
        { "{\"quantization\": \"wint2\", \"moe_quant_config\": {\"moe_w2_quant_config\": "
          "{\"quant_group_size\": 128}}}",
          ERNIE_UNSUPPORTED, "quant_group_size of moe_w2_quant_config is 128" },
        { "{\"quantization\": \"wint2\", \"moe_quant_config\": {\"moe_w4_quant_config\": "
          "{\"quant_start_layer\": 9}}}",
          ERNIE_FORMAT, "quant_end_layer of moe_w4_quant_config is 6, before quant_start_layer 9" },
        { "{\"quantization\": \"wint2\", \"moe_quant_config\": {\"moe_w4_quant_config\": "
          "{\"quant_end_layer\": 4294967296}}}",
          ERNIE_FORMAT, "quant_end_layer" },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        conv_quant quant;
        ernie_error error = { ERNIE_OK, "" };
        assert_int_equal(read_quant(&quant, cases[i].text, &error), cases[i].status);
        if (!strstr(error.message, cases[i].says))
            fail_msg("\"%s\" does not say \"%s\"", error.message, cases[i].says);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schemes_are_read),
        cmocka_unit_test(bad_schemes_are_named),
        cmocka_unit_test(two_bits_decode_as_described),
        cmocka_unit_test(e4m3_is_exact),
        cmocka_unit_test(forms_give_what_they_mean),
        cmocka_unit_test(square_matrices_follow_the_rest),
        cmocka_unit_test(activation_scales_are_left_out),
        cmocka_unit_test(guesses_are_said),
        cmocka_unit_test(bad_twins_are_named),
        cmocka_unit_test(truncated_files_are_named),
        cmocka_unit_test(ranks_are_named),
    };
    return cmocka_run_group_tests(tests, run_setup, run_teardown);
}
