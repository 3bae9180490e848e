/* The reader of .ernie files: what is valid opens, what is not is refused by name, and no byte of a
 * file can change unnoticed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "test_model_bytes.h"

/* Two layers, the second a mixture, an MTP block: every kind of record in a few KiB. */
static const ern_hparams tiny_hparams = {
    .n_layers = 2,
    .hidden_size = 16,
    .n_heads = 2,
    .n_kv_heads = 1,
    .head_dim = 8,
    .intermediate_size = 20,
    .vocab_size = 64,
    .context_max = 32,
    .n_experts = 2,
    .moe_k = 1,
    .moe_intermediate_size = 8,
    .n_shared_experts = 1,
    .shared_intermediate_size = 8,
    .moe_layer_start = 1,
    .moe_layer_end = 1,
    .moe_layer_interval = 1,
    .n_mtp_layers = 1,
    .bos_id = 1,
    .eos_id = 2,
    .pad_id = -1,
    .rms_norm_eps = 1e-5f,
    .moe_norm_min = 1e-12f,
    .rope_theta = 500000.0,
};

static const test_model_spec tiny = { .hparams = &tiny_hparams,
                                      .no_byte_pieces = true,
                                      .type_embed = ERN_W8,
                                      .type_head = ERN_F16,
                                      .type_attention = ERN_W4,
                                      .type_ffn = ERN_BF16,
                                      .type_expert = ERN_W4,
                                      .type_expert_down = ERN_W8 };

static ernie_status read_image(ern_format *format, const unsigned char *data, size_t n,
                               ernie_error *error)
{
    ernie_error ignored;
    return ern_format_read(format, data, n, error ? error : &ignored);
}

static ernie_status verify_image(const ern_format *format, ernie_error *error)
{
    for (uint32_t i = 0; i < format->header->n_records; i++) {
        const ernie_status status = ern_format_verify_record(format, i, NULL, error);
        if (status != ERNIE_OK) return status;
    }
    return ern_format_verify_gaps(format, format->n_bytes, NULL, error);
}

/* ---- Sizes and order ----------------------------------------------------------------------- */

static void sizes_are_those_of_the_prose(void **state)
{
    (void)state;
    static const struct {
        unsigned type;
        uint32_t n_rows, n_cols;
        uint64_t group_bytes, matrix_bytes;
    } cases[] = {
        { ERN_F32, 3, 16, 16 * 64, 3 * 64 },
        { ERN_F32, 3, 17, 16 * 128, 3 * 128 },
        { ERN_F16, 1, 33, 16 * 128, 128 },
        { ERN_BF16, 100, 32, 16 * 64, 100 * 64 },
        { ERN_W8, 16, 32, 64 + 64 + 512, 640 },
        { ERN_W8, 17, 160, 64 + 128 + 5 * 512, 2 * (64 + 128 + 5 * 512) },
        { ERN_W4, 1, 1, 64 + 64 + 256, 384 },
        { ERN_W4, 33, 128, 64 + 64 + 4 * 256, 3 * (64 + 64 + 4 * 256) },
        { ERN_C4, 1, 1, 64 + 64 + 256, 384 },
        { ERN_C4, 16, 289, 64 + 128 + 10 * 256, 64 + 128 + 10 * 256 },
        { ERN_C3, 17, 256, 64 + 64 + 8 * 192, 2 * (64 + 64 + 8 * 192) },
        { ERN_C2, 16, 288, 64 + 128 + 9 * 128, 64 + 128 + 9 * 128 },
        { ERN_C2, 17, 40, 64 + 64 + 2 * 128, 768 },
        /* the largest that the limits allow */
        { ERN_W8, ERN_VOCAB_MAX, ERN_DIM_MAX, UINT64_C(64) + 524288 + 16777216,
          UINT64_C(262144) * (64 + 524288 + 16777216) },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        assert_int_equal(ern_group_bytes(cases[i].type, cases[i].n_cols), cases[i].group_bytes);
        assert_true(ern_matrix_bytes(cases[i].type, cases[i].n_rows, cases[i].n_cols)
                    == cases[i].matrix_bytes);
    }
    assert_string_equal(ern_type_name(ERN_BF16), "bf16");
    assert_string_equal(ern_type_name(ERN_C2), "c2");
    assert_string_equal(ern_type_name(ERN_N_TYPES), "?");
    assert_int_equal(ern_gate_up_rows(17), 64);
}

/* ---- Codes ----------------------------------------------------------------------------------- */

/* The test vectors of the prose: one code, all planes zero, its 32 levels. */
static void codes_decode_as_the_prose_says(void **state)
{
    (void)state;
    static const struct {
        uint64_t code;
        int level[32];
    } cases[] = {
        { 0x0123456789abcdef,
          { 21,  -9,  -1, 12,  -13, 35, 17, -12, 38, 63,  12, -12, -23, -62, -1, 17,
            21,  1,   -1, -23, -13, 7,  17, -62, -34, -36, 35, -36, 7,   1,   -13, 1 } },
        { 0xfedcba9876543210,
          { 63, -62, -34, 7,  38, -23, -36, 1,  -13, 21, 7,   1,  35,  -9, -34, -36,
            63, -12, -34, 35, 38, 12,  -36, -9, -1,  17, -23, 17, 12, -12, 38,  -12 } },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++)
        for (unsigned r = 0; r < 16; r += 5) {
            unsigned char block[256] = { 0 };
            const uint32_t word[2] = { (uint32_t)cases[i].code, (uint32_t)(cases[i].code >> 32) };
            memcpy(block + 4 * r, &word[0], 4);
            memcpy(block + 64 + 4 * r, &word[1], 4);
            for (unsigned c = 0; c < 32; c++) {
                unsigned index = 0;
                while (ern_c2_level[index] != cases[i].level[c]) index++;
                assert_int_equal(ern_block_level(ERN_C2, block, r, c), cases[i].level[c]);
                assert_int_equal(ern_block_level(ERN_C3, block, r, c), ern_c3_level[index]);
                assert_int_equal(ern_block_level(ERN_C4, block, r, c), ern_c4_level[index]);
            }
        }
}

/* One bit of a plane changes one column, which the prose names. */
static void planes_reach_their_columns(void **state)
{
    (void)state;
    for (unsigned bit = 0; bit < 32; bit++) {
        unsigned char c3[192] = { 0 }, c4[2][256] = { { 0 }, { 0 } };
        const uint32_t plane = UINT32_C(1) << bit;
        memcpy(c3 + 128 + 4 * 7, &plane, 4);
        memcpy(c4[0] + 128 + 4 * 7, &plane, 4);
        memcpy(c4[1] + 192 + 4 * 7, &plane, 4);
        for (unsigned c = 0; c < 32; c++) {
            const unsigned v = c / 4, j = c % 4, at = 8 * j + 2 * (v % 4);
            assert_int_equal(ern_block_level(ERN_C3, c3, 7, c), ern_c3_level[8 * j + v == bit ? 16 : 0]);
            for (unsigned p = 0; p < 2; p++) {
                const unsigned u = v / 4 != p ? 0 : at == bit ? 1 : at + 1 == bit ? 2 : 0;
                assert_int_equal(ern_block_level(ERN_C4, c4[p], 7, c), ern_c4_level[16 * u]);
            }
            assert_int_equal(ern_block_level(ERN_C3, c3, 6, c), ern_c3_level[0]);
        }
    }
}

static void scales_of_codes_are_nibbles(void **state)
{
    (void)state;
    unsigned char scale[64] = { 0 };
    scale[16 + 3] = 0xf5;
    for (unsigned type = ERN_C4; type <= ERN_C2; type++) {
        assert_int_equal(ern_block_scale(type, scale, 2, 3), 9);
        assert_int_equal(ern_block_scale(type, scale, 3, 3), 19);
        assert_int_equal(ern_block_scale(type, scale, 1, 3), 4);
    }
    assert_int_equal(ern_block_scale(ERN_W4, scale, 1, 3), 0xf5);
}

/* What kernels rely on: a level raised by 64 is an unsigned byte, and two products fit 16 bits. */
static void levels_fit_unsigned_products(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 64; i++) {
        assert_in_range(ern_c4_level[i] + 64, 1, 127);
        assert_in_range(ern_c3_level[i % 32] + 64, 1, 127);
        assert_in_range(ern_c2_level[i % 16] + 64, 1, 127);
    }
}

static void expect_order(const ern_hparams *h, const char *const *names)
{
    ern_layout layout;
    ern_record r;
    bool optional;
    size_t i = 0;
    assert_int_equal(ern_hparams_check(h, NULL), ERNIE_OK);
    for (ern_layout_begin(&layout, h); ern_layout_next(&layout, &r, &optional); i++) {
        char name[64];
        ern_record_name(&r, h->n_layers, name);
        assert_non_null(names[i]);
        assert_string_equal(name, names[i]);
        assert_int_equal(optional, r.kind == ERN_ROUTER_BIAS);
        assert_true(r.n_rows > 0 && r.n_cols > 0);
    }
    assert_null(names[i]);
    assert_false(ern_layout_next(&layout, &r, &optional));
}

static void order_of_a_dense_model(void **state)
{
    (void)state;
    const test_model_spec spec = { .untied = true };
    ern_hparams h = test_hparams(&spec);
    h.n_layers = 1;
    static const char *const names[] = { "embed",
                                         "layers.0.attn_norm",
                                         "layers.0.qkv",
                                         "layers.0.attn_out",
                                         "layers.0.ffn_norm",
                                         "layers.0.ffn_gate_up",
                                         "layers.0.ffn_down",
                                         "final_norm",
                                         "head",
                                         NULL };
    expect_order(&h, names);
}

static void order_of_a_mixture(void **state)
{
    (void)state;
    static const char *const names[] = { "embed",
                                         "layers.0.attn_norm",
                                         "layers.0.qkv",
                                         "layers.0.attn_out",
                                         "layers.0.ffn_norm",
                                         "layers.0.ffn_gate_up",
                                         "layers.0.ffn_down",
                                         "layers.1.attn_norm",
                                         "layers.1.qkv",
                                         "layers.1.attn_out",
                                         "layers.1.ffn_norm",
                                         "layers.1.router",
                                         "layers.1.router_bias",
                                         "layers.1.shared_gate_up",
                                         "layers.1.shared_down",
                                         "final_norm",
                                         "head",
                                         "mtp.0.emb_norm",
                                         "mtp.0.hidden_norm",
                                         "mtp.0.proj",
                                         "mtp.0.attn_norm",
                                         "mtp.0.qkv",
                                         "mtp.0.attn_out",
                                         "mtp.0.ffn_norm",
                                         "mtp.0.ffn_gate_up",
                                         "mtp.0.ffn_down",
                                         "layers.1.experts.0",
                                         "layers.1.experts.1",
                                         NULL };
    expect_order(&tiny_hparams, names);
}

/* Interval 2 from layer 1 to 4 of 6: layers 1 and 3, without shared experts. */
static void order_with_an_interval(void **state)
{
    (void)state;
    ern_hparams h = tiny_hparams;
    h.n_layers = 6;
    h.moe_layer_end = 4;
    h.moe_layer_interval = 2;
    h.n_shared_experts = h.shared_intermediate_size = 0;
    h.n_mtp_layers = 0;
    static const bool moe[6] = { false, true, false, true, false, false };
    for (uint32_t i = 0; i < 6; i++) assert_int_equal(ern_layer_is_moe(&h, i), moe[i]);
    assert_int_equal(ern_n_moe_layers(&h), 2);
    ern_layout layout;
    ern_record r;
    bool optional;
    unsigned n = 0, n_experts = 0, n_shared = 0;
    for (ern_layout_begin(&layout, &h); ern_layout_next(&layout, &r, &optional); n++) {
        n_experts += r.kind == ERN_EXPERT;
        n_shared += r.kind == ERN_SHARED_DOWN;
        if (r.kind == ERN_ROUTER) assert_true(moe[r.layer]);
    }
    assert_int_equal(n_experts, 4);
    assert_int_equal(n_shared, 0);
    assert_int_equal(n, 1 + 6 * 6 + 2 + 4);
}

/* ---- Valid images -------------------------------------------------------------------------- */

static void valid_images_open(void **state)
{
    (void)state;
    const test_model_spec specs[] = {
        { .seed = 0 },
        tiny,
        { .moe = true, .n_mtp = 2, .type_ffn = ERN_W4, .type_expert = ERN_W8 },
        { .moe = true, .no_router_bias = true, .untied = true, .type_expert_down = ERN_F16 },
        { .no_sections = true, .untied = true, .type_embed = ERN_BF16, .type_head = ERN_W4 },
        { .no_byte_pieces = true, .type_attention = ERN_F16, .chat_format = ERNIE_CHAT_THINKING },
        { .moe = true, .type_attention = ERN_C4, .type_expert = ERN_C2, .type_expert_down = ERN_C3 },
    };
    for (size_t i = 0; i < ERN_COUNT(specs); i++) {
        size_t n;
        unsigned char *image = test_model_build(&specs[i], &n);
        ern_format format;
        ernie_error error = { ERNIE_OK, "" };
        if (read_image(&format, image, n, &error) != ERNIE_OK)
            fail_msg("%zu: %s", i, error.message);
        if (verify_image(&format, &error) != ERNIE_OK) fail_msg("%zu: %s", i, error.message);
        assert_ptr_equal(format.header, image);
        assert_int_equal(format.records[0].kind, ERN_EMBED);
        assert_int_equal(format.header->version_min, specs[i].type_attention == ERN_C4 ? 2 : 1);
        assert_int_equal(format.tokenizer == NULL, specs[i].no_sections);
        assert_int_equal(format.chat == NULL, specs[i].no_sections);
        assert_int_equal(format.generation == NULL, specs[i].no_sections);
        test_model_free(image);
    }
}

/* Router biases may be there in one layer and not in the next. */
static void router_bias_is_optional_by_layer(void **state)
{
    (void)state;
    ern_hparams h = tiny_hparams;
    h.moe_layer_start = 0;
    h.n_mtp_layers = 0;
    test_model_spec spec = tiny;
    spec.hparams = &h;
    size_t n;
    unsigned char *image = test_model_build(&spec, &n);
    ern_header *header = (ern_header *)(void *)image;
    ern_record *records = (ern_record *)(void *)(image + header->section[ERN_SECTION_INDEX].offset);
    uint32_t i = 0;
    while (records[i].kind != ERN_ROUTER_BIAS) i++;
    memset(image + records[i].offset, 0, (size_t)records[i].n_bytes); /* it becomes a gap */
    header->n_records--;
    memmove(&records[i], &records[i + 1], (header->n_records - i) * sizeof records[0]);
    memset(&records[header->n_records], 0, sizeof records[0]);
    header->section[ERN_SECTION_INDEX].n_bytes -= sizeof records[0];
    test_model_seal(image, n, true);
    ern_format format;
    ernie_error error = { ERNIE_OK, "" };
    if (read_image(&format, image, n, &error) != ERNIE_OK) fail_msg("%s", error.message);
    assert_int_equal(verify_image(&format, NULL), ERNIE_OK);
    test_model_free(image);
}

/* ---- Corruptions --------------------------------------------------------------------------- */

enum { UNSEALED, SEALED };

typedef struct poke {
    const char *where; /* "header", a section's name, or a tensor's */
    size_t offset, width;
    uint64_t value;
    int seal; /* make the checksums agree again */
    ernie_status status;
    const char *fragment; /* of the message */
} poke;

/* clang-format off */
#define HEADER(field) "header", offsetof(ern_header, field), sizeof(((ern_header *)0)->field)
#define NUMBER(field)                                                         \
    "header", offsetof(ern_header, hparams) + offsetof(ern_hparams, field),   \
        sizeof(((ern_hparams *)0)->field)
#define SECTION(i, field)                                                     \
    "header", offsetof(ern_header, section) + (i) * sizeof(ern_section)       \
                  + offsetof(ern_section, field),                             \
        8
#define RECORD(name, field) name, offsetof(ern_record, field), sizeof(((ern_record *)0)->field)
#define TOKENIZER(field) "tokenizer", offsetof(ern_tokenizer_head, field), 4
#define CHAT(field) "chat", offsetof(ern_chat_head, field), 4
#define GENERATION(field) "generation", offsetof(ern_generation, field), 4

static const poke pokes[] = {
    /* header */
    { HEADER(magic), 0x4546544b, SEALED, ERNIE_FORMAT, "not an .ernie model file" },
    { HEADER(magic), 0x46554747, SEALED, ERNIE_FORMAT, "is a GGUF file, not an .ernie model" },
    { HEADER(version), 3, UNSEALED, ERNIE_UNSUPPORTED, "format version 3" },
    { HEADER(version_min), 7, SEALED, ERNIE_UNSUPPORTED, "needs a reader of 7" },
    { HEADER(version_min), 7, UNSEALED, ERNIE_UNSUPPORTED, "checksum does not match" },
    { HEADER(version_min), 0, SEALED, ERNIE_FORMAT, "least reader 0" },
    { HEADER(version), 0, SEALED, ERNIE_FORMAT, "version 0" },
    { HEADER(checksum), 5, UNSEALED, ERNIE_CORRUPT, "header's checksum" },
    { HEADER(n_records), 5, UNSEALED, ERNIE_CORRUPT, "header's checksum" },
    { HEADER(file_bytes), UINT64_MAX, SEALED, ERNIE_FORMAT, "cut off" },
    { HEADER(file_bytes), 4096, SEALED, ERNIE_FORMAT, "too long" },
    { HEADER(n_records), 0, SEALED, ERNIE_FORMAT, "section index" },
    { HEADER(n_records), UINT32_MAX, SEALED, ERNIE_FORMAT, "section index" },
    { HEADER(expert_align), 0, SEALED, ERNIE_FORMAT, "expert_align is 0" },
    { HEADER(expert_align), 6144, SEALED, ERNIE_FORMAT, "expert_align is 6144" },
    { HEADER(expert_align), 4u << 20, SEALED, ERNIE_FORMAT, "expert_align is 4194304" },
    { HEADER(expert_align), 64, SEALED, ERNIE_FORMAT, "expert_align is 64" },
    { HEADER(expert_bytes), 0, SEALED, ERNIE_FORMAT, "expert_bytes is 0" },
    { HEADER(expert_bytes), 4097, SEALED, ERNIE_FORMAT, "expert_bytes is 4097" },
    { HEADER(expert_bytes), UINT64_C(1) << 63, SEALED, ERNIE_FORMAT, "section experts" },
    { HEADER(expert_bytes), 8192, SEALED, ERNIE_FORMAT, "section experts" },
    { HEADER(reserved1), 1, SEALED, ERNIE_FORMAT, "reserved" },
    { "header", 4000, 1, 1, SEALED, ERNIE_FORMAT, "reserved" },
    { "header", offsetof(ern_header, architecture), 1, 'g', SEALED, ERNIE_UNSUPPORTED, "grnie4_5_moe" },
    { "header", offsetof(ern_header, architecture) + 8, 4, 0, SEALED, ERNIE_FORMAT, "2 experts" },
    { "header", offsetof(ern_header, architecture) + 20, 1, 'x', SEALED, ERNIE_FORMAT, "after its" },
    { "header", offsetof(ern_header, name), 1, 0x07, SEALED, ERNIE_FORMAT, "0x07" },
    { "header", offsetof(ern_header, name), 2, 0x80c0, SEALED, ERNIE_FORMAT, "0xc0" },
    { "header", offsetof(ern_header, name) + 3, 1, 0xe8, SEALED, ERNIE_FORMAT, "0xe8" },
    { HEADER(weights_id), 1, UNSEALED, ERNIE_CORRUPT, "header's checksum" },
    /* architecture numbers */
    { NUMBER(n_layers), 0, SEALED, ERNIE_FORMAT, "n_layers is 0" },
    { NUMBER(n_layers), 1025, SEALED, ERNIE_FORMAT, "n_layers is 1025" },
    { NUMBER(n_layers), 3, SEALED, ERNIE_FORMAT, "must be \"layers.2.attn_norm\"" },
    { NUMBER(hidden_size), 0, SEALED, ERNIE_FORMAT, "hidden_size is 0" },
    { NUMBER(hidden_size), UINT32_MAX, SEALED, ERNIE_FORMAT, "hidden_size is 4294967295" },
    { NUMBER(hidden_size), 32, SEALED, ERNIE_FORMAT, "\"embed\" is 64 x 16, the architecture says 64 x 32" },
    { NUMBER(n_heads), 3, SEALED, ERNIE_FORMAT, "\"layers.0.qkv\" is 32 x 16" },
    { NUMBER(n_heads), 0, SEALED, ERNIE_FORMAT, "n_heads is 0" },
    { NUMBER(n_kv_heads), 0, SEALED, ERNIE_FORMAT, "n_kv_heads is 0" },
    { NUMBER(n_kv_heads), 4, SEALED, ERNIE_FORMAT, "n_heads 2 is not a multiple of n_kv_heads 4" },
    { NUMBER(head_dim), 7, SEALED, ERNIE_FORMAT, "head_dim is 7" },
    { NUMBER(head_dim), 1u << 20, SEALED, ERNIE_FORMAT, "exceed" },
    { NUMBER(intermediate_size), 0, SEALED, ERNIE_FORMAT, "intermediate_size is 0" },
    { NUMBER(intermediate_size), 2000000, SEALED, ERNIE_FORMAT, "intermediate_size is 2000000" },
    { NUMBER(vocab_size), 0, SEALED, ERNIE_FORMAT, "vocab_size is 0" },
    { NUMBER(vocab_size), 1u << 31, SEALED, ERNIE_FORMAT, "vocab_size" },
    { NUMBER(vocab_size), 65, SEALED, ERNIE_FORMAT, "\"embed\" is 64 x 16" },
    { NUMBER(context_max), 0, SEALED, ERNIE_FORMAT, "context_max is 0" },
    { NUMBER(n_experts), 4097, SEALED, ERNIE_FORMAT, "n_experts is 4097" },
    { NUMBER(n_experts), 3, SEALED, ERNIE_FORMAT, "section experts" },
    { NUMBER(n_experts), 0, SEALED, ERNIE_FORMAT, "moe_k is 1, must be 0 .. 0" },
    { NUMBER(moe_k), 0, SEALED, ERNIE_FORMAT, "moe_k is 0" },
    { NUMBER(moe_k), 3, SEALED, ERNIE_FORMAT, "moe_k is 3" },
    { NUMBER(moe_intermediate_size), 0, SEALED, ERNIE_FORMAT, "moe_intermediate_size is 0" },
    { NUMBER(moe_intermediate_size), 17, SEALED, ERNIE_FORMAT, "experts.0\" is 32 x 16" },
    { NUMBER(n_shared_experts), 0, SEALED, ERNIE_FORMAT, "shared_intermediate_size is 8" },
    { NUMBER(shared_intermediate_size), 0, SEALED, ERNIE_FORMAT, "shared_intermediate_size is 0" },
    { NUMBER(moe_layer_start), 2, SEALED, ERNIE_FORMAT, "moe_layer_start is 2" },
    { NUMBER(moe_layer_end), 2, SEALED, ERNIE_FORMAT, "moe_layer_end is 2" },
    { NUMBER(moe_layer_end), 0, SEALED, ERNIE_FORMAT, "moe_layer_end is 0" },
    { NUMBER(moe_layer_interval), 0, SEALED, ERNIE_FORMAT, "moe_layer_interval is 0" },
    { NUMBER(n_mtp_layers), 17, SEALED, ERNIE_FORMAT, "n_mtp_layers is 17" },
    { NUMBER(n_mtp_layers), 2, SEALED, ERNIE_FORMAT, "must be \"mtp.1.emb_norm\"" },
    { NUMBER(n_mtp_layers), 0, SEALED, ERNIE_FORMAT, "must be \"layers.1.experts.0\"" },
    { NUMBER(tied), 2, SEALED, ERNIE_FORMAT, "tied is 2" },
    { NUMBER(tied), 1, SEALED, ERNIE_FORMAT, "is \"head\", must be \"mtp.0.emb_norm\"" },
    { NUMBER(bos_id), 64, SEALED, ERNIE_FORMAT, "bos_id is 64" },
    { NUMBER(eos_id), 0xfffffffe, SEALED, ERNIE_FORMAT, "eos_id is -2" },
    { NUMBER(pad_id), 0x7fffffff, SEALED, ERNIE_FORMAT, "pad_id is 2147483647" },
    { NUMBER(rms_norm_eps), 0, SEALED, ERNIE_FORMAT, "rms_norm_eps is 0" },
    { NUMBER(rms_norm_eps), 0x7fc00000, SEALED, ERNIE_FORMAT, "rms_norm_eps is nan" },
    { NUMBER(rms_norm_eps), 0x7f800000, SEALED, ERNIE_FORMAT, "rms_norm_eps is inf" },
    { NUMBER(moe_norm_min), 0xbf800000, SEALED, ERNIE_FORMAT, "moe_norm_min is -1" },
    { NUMBER(rope_theta), 0, SEALED, ERNIE_FORMAT, "rope_theta is 0" },
    { NUMBER(rope_theta), UINT64_C(0x7ff0000000000000), SEALED, ERNIE_FORMAT, "rope_theta is inf" },
    { NUMBER(reserved0), 1, SEALED, ERNIE_FORMAT, "reserved0 is 1" },
    /* sections */
    { SECTION(ERN_SECTION_INDEX, offset), 0, SEALED, ERNIE_FORMAT, "section index" },
    { SECTION(ERN_SECTION_INDEX, offset), 4097, SEALED, ERNIE_FORMAT, "not a multiple of 64" },
    { SECTION(ERN_SECTION_INDEX, n_bytes), 0, SEALED, ERNIE_FORMAT, "section index is empty" },
    { SECTION(ERN_SECTION_INDEX, n_bytes), 64, SEALED, ERNIE_FORMAT, "section index: 64 bytes for" },
    { SECTION(ERN_SECTION_TOKENIZER, offset), UINT64_MAX - 63, SEALED, ERNIE_FORMAT, "section tokenizer" },
    { SECTION(ERN_SECTION_TOKENIZER, n_bytes), UINT64_MAX, SEALED, ERNIE_FORMAT, "section tokenizer" },
    { SECTION(ERN_SECTION_TOKENIZER, n_bytes), 20, SEALED, ERNIE_FORMAT, "its head needs 32" },
    { SECTION(ERN_SECTION_TOKENIZER, offset), 4096, SEALED, ERNIE_FORMAT, "overlap" },
    { SECTION(ERN_SECTION_CHAT, n_bytes), 15, SEALED, ERNIE_FORMAT, "section chat" },
    { SECTION(ERN_SECTION_CHAT, n_bytes), 17, SEALED, ERNIE_FORMAT, "section chat" },
    { SECTION(ERN_SECTION_GENERATION, n_bytes), 63, SEALED, ERNIE_FORMAT, "section generation: 63 bytes" },
    { SECTION(ERN_SECTION_RESIDENT, checksum), 1, SEALED, ERNIE_FORMAT, "section resident" },
    { SECTION(ERN_SECTION_RESIDENT, n_bytes), 64, SEALED, ERNIE_FORMAT, "exceed the resident" },
    { SECTION(ERN_SECTION_RESIDENT, offset), 0, SEALED, ERNIE_FORMAT, "section resident" },
    { SECTION(ERN_SECTION_EXPERTS, n_bytes), 4096, SEALED, ERNIE_FORMAT, "section experts: 4096 bytes" },
    { SECTION(ERN_SECTION_EXPERTS, checksum), 9, SEALED, ERNIE_FORMAT, "section experts" },
    { SECTION(ERN_SECTION_EXPERTS, offset), 64 * 100, SEALED, ERNIE_FORMAT, "multiple of 4096" },
    { "tokenizer", 40, 1, 0x55, UNSEALED, ERNIE_CORRUPT, "section tokenizer: the checksum" },
    { "chat", 20, 1, 0x55, UNSEALED, ERNIE_CORRUPT, "section chat: the checksum" },
    { "generation", 0, 1, 0x55, UNSEALED, ERNIE_CORRUPT, "section generation: the checksum" },
    { RECORD("embed", checksum), 0x55, UNSEALED, ERNIE_CORRUPT, "section index: the checksum" },
    /* records */
    { RECORD("embed", kind), ERN_HEAD, SEALED, ERNIE_FORMAT, "is \"head\", must be \"embed\"" },
    { RECORD("embed", kind), 999, SEALED, ERNIE_FORMAT, "is \"unknown\", must be \"embed\"" },
    { RECORD("embed", layer), 0, SEALED, ERNIE_FORMAT, "must be \"embed\"" },
    { RECORD("layers.0.qkv", layer), 1, SEALED, ERNIE_FORMAT, "is \"layers.1.qkv\", must be \"layers.0.qkv\"" },
    { RECORD("layers.0.qkv", expert), 1, SEALED, ERNIE_FORMAT, "must be \"layers.0.qkv\"" },
    { RECORD("layers.1.experts.1", expert), 0, SEALED, ERNIE_FORMAT, "must be \"layers.1.experts.1\"" },
    { RECORD("layers.0.qkv", type), 8, SEALED, ERNIE_UNSUPPORTED, "\"layers.0.qkv\" has weight type 8" },
    { RECORD("layers.0.qkv", type), ERN_C4, SEALED, ERNIE_FORMAT, "type c4 of format version 2, the header admits readers of 1" },
    { RECORD("layers.1.experts.0", type2), ERN_C2, SEALED, ERNIE_FORMAT, "type c2 of format version 2" },
    { RECORD("layers.1.experts.0", type2), 200, SEALED, ERNIE_UNSUPPORTED, "weight type 200" },
    { RECORD("layers.0.qkv", type), ERN_W8, SEALED, ERNIE_FORMAT, "its shape and type make" },
    { RECORD("layers.0.qkv", type2), 1, SEALED, ERNIE_FORMAT, "only experts" },
    { RECORD("final_norm", type), ERN_F16, SEALED, ERNIE_FORMAT, "\"final_norm\" has type f16" },
    { RECORD("layers.1.router", type), ERN_W8, SEALED, ERNIE_FORMAT, "must be f32" },
    { RECORD("layers.1.experts.1", type), ERN_W8, SEALED, ERNIE_FORMAT, "other experts w4, w8" },
    { RECORD("layers.0.qkv", n_rows), 31, SEALED, ERNIE_FORMAT, "is 31 x 16, the architecture says 32 x 16" },
    { RECORD("layers.0.qkv", n_cols), UINT32_MAX, SEALED, ERNIE_FORMAT, "32 x 4294967295" },
    { RECORD("layers.0.qkv", n_rows2), 1, SEALED, ERNIE_FORMAT, "second matrix" },
    { RECORD("layers.1.experts.0", n_cols2), 9, SEALED, ERNIE_FORMAT, "second matrix" },
    { RECORD("layers.0.qkv", n_bytes), 0, SEALED, ERNIE_FORMAT, "has 0 bytes" },
    { RECORD("layers.0.qkv", n_bytes), UINT64_MAX, SEALED, ERNIE_FORMAT, "has 18446744073709551615 bytes" },
    { RECORD("layers.0.qkv", offset), 4096, SEALED, ERNIE_FORMAT, "not before" },
    { RECORD("layers.0.qkv", offset), UINT64_MAX - 63, SEALED, ERNIE_FORMAT, "exceed the resident" },
    { RECORD("embed", offset), 4097, SEALED, ERNIE_FORMAT, "multiple of 64" },
    { RECORD("mtp.0.ffn_down", offset), UINT64_C(1) << 40, SEALED, ERNIE_FORMAT, "exceed the resident" },
    { RECORD("layers.1.experts.1", offset), 4096, SEALED, ERNIE_FORMAT, "must be at" },
    { RECORD("layers.0.qkv", reserved), 1, SEALED, ERNIE_FORMAT, "reserved bytes" },
    /* small sections */
    { TOKENIZER(n_tokens), 65, SEALED, ERNIE_FORMAT, "65 tokens, vocab_size is 64" },
    { CHAT(format), 3, SEALED, ERNIE_FORMAT, "format is 3" },
    { CHAT(begin_id), 64, SEALED, ERNIE_FORMAT, "begin_id 64" },
    { CHAT(turn_end_id), 0x80000000, SEALED, ERNIE_FORMAT, "turn_end_id -2147483648" },
    { CHAT(template_bytes), UINT32_MAX, SEALED, ERNIE_FORMAT, "section chat" },
    { GENERATION(temperature), 0xbf800000, SEALED, ERNIE_FORMAT, "temperature is -1" },
    { GENERATION(top_p), 0x7fc00000, SEALED, ERNIE_FORMAT, "top_p is nan" },
    { GENERATION(repetition_penalty), 0x7f800000, SEALED, ERNIE_FORMAT, "repetition_penalty is inf" },
    { GENERATION(n_stop_ids), 9, SEALED, ERNIE_FORMAT, "n_stop_ids is 9" },
    { GENERATION(do_sample), 2, SEALED, ERNIE_FORMAT, "do_sample is 2" },
    { GENERATION(stop_ids), 0xffffffff, SEALED, ERNIE_FORMAT, "stop id -1" },
    { GENERATION(reserved), 1, SEALED, ERNIE_FORMAT, "reserved bytes" },
};
/* clang-format on */

static unsigned char *place_of(unsigned char *image, const char *where)
{
    static const char *const sections[] = { "index", "tokenizer", "chat", "generation" };
    const ern_header *h = (const ern_header *)(void *)image;
    if (strcmp(where, "header") == 0) return image;
    for (size_t i = 0; i < ERN_COUNT(sections); i++)
        if (strcmp(where, sections[i]) == 0) return image + h->section[i].offset;
    ern_record *records = (ern_record *)(void *)(image + h->section[ERN_SECTION_INDEX].offset);
    for (uint32_t i = 0; i < h->n_records; i++) {
        char name[64];
        ern_record_name(&records[i], h->hparams.n_layers, name);
        if (strcmp(name, where) == 0) return (unsigned char *)&records[i];
    }
    fail_msg("no \"%s\" in the image", where);
    return NULL;
}

static void corruptions_are_named(void **state)
{
    (void)state;
    size_t n;
    unsigned char *image = test_model_build(&tiny, &n);
    unsigned char *whole = malloc(n);
    memcpy(whole, image, n);
    for (size_t i = 0; i < ERN_COUNT(pokes); i++) {
        const poke *p = &pokes[i];
        ern_format format = { .n_bytes = 1 };
        ernie_error error = { ERNIE_OK, "" };
        memcpy(place_of(image, p->where) + p->offset, &p->value, ern_min_size(p->width, 8));
        if (p->seal) test_model_seal(image, n, false);
        const ernie_status status = ern_format_read(&format, image, n, &error);
        if (status != p->status || !strstr(error.message, p->fragment))
            fail_msg("%s + %zu = %llx: status %d, \"%s\", expected %d, \"%s\"", p->where, p->offset,
                     (unsigned long long)p->value, status, error.message, p->status, p->fragment);
        assert_null(format.data);
        assert_int_equal(format.n_bytes, 0);
        memcpy(image, whole, n);
    }
    free(whole);
    test_model_free(image);
}

/* The weights id is checked although nothing is computed from it. */
static void foreign_weights_id_is_found(void **state)
{
    (void)state;
    size_t n;
    ern_format format;
    ernie_error error;
    unsigned char *image = test_model_build(&tiny, &n);
    ern_header *h = (ern_header *)(void *)image;
    h->weights_id[3] ^= 1;
    ern_hash128(h, sizeof *h - sizeof h->checksum, h->checksum);
    assert_int_equal(ern_format_read(&format, image, n, &error), ERNIE_CORRUPT);
    assert_non_null(strstr(error.message, "weights_id"));
    test_model_free(image);
}

static void cut_files_are_refused(void **state)
{
    (void)state;
    size_t n;
    unsigned char *image = test_model_build(&tiny, &n);
    for (size_t length = 0; length < n; length += length < 4200 ? 1 : 61) {
        ern_format format;
        ernie_error error = { ERNIE_OK, "" };
        /* A copy of exactly this length, so that a sanitizer sees any byte read beyond it. */
        unsigned char *cut = aligned_alloc(64, ern_round_up(length + 1, 64));
        memcpy(cut, image, length);
        assert_int_equal(ern_format_read(&format, cut, length, &error), ERNIE_FORMAT);
        if (length >= 8) assert_non_null(strstr(error.message, "cut off"));
        free(cut);
    }
    test_model_free(image);
}

static void longer_files_are_refused(void **state)
{
    (void)state;
    size_t n;
    ern_format format;
    ernie_error error;
    unsigned char *image = test_model_build(&tiny, &n);
    unsigned char *longer = aligned_alloc(64, ern_round_up(n + 1, 64));
    memcpy(longer, image, n);
    longer[n] = 0;
    assert_int_equal(ern_format_read(&format, longer, n + 1, &error), ERNIE_FORMAT);
    assert_non_null(strstr(error.message, "too long"));
    free(longer);
    test_model_free(image);
}

/* A later minor version may use reserved places; this reader looks past them. */
static void admitted_newer_version_opens(void **state)
{
    (void)state;
    size_t n;
    ern_format format;
    ernie_error error = { ERNIE_OK, "" };
    unsigned char *image = test_model_build(&tiny, &n);
    ern_header *h = (ern_header *)(void *)image;
    h->version = ERN_FORMAT_VERSION + 1;
    h->reserved1[0] = 5;
    h->reserved2[100] = 6;
    ((ern_record *)(void *)(image + h->section[ERN_SECTION_INDEX].offset))->reserved[0] = 7;
    test_model_seal(image, n, true);
    if (ern_format_read(&format, image, n, &error) != ERNIE_OK) fail_msg("%s", error.message);
    assert_int_equal(verify_image(&format, NULL), ERNIE_OK);
    test_model_free(image);
}

/* ---- Verification -------------------------------------------------------------------------- */

/* Whatever byte is flipped, opening or verifying says so, and nothing crashes. */
static void every_flipped_byte_is_found(void **state)
{
    (void)state;
    size_t n;
    uint64_t random = 7;
    unsigned char *image = test_model_build(&tiny, &n);
    for (size_t i = 0; i < n; i++) {
        ern_format format;
        ernie_error error = { ERNIE_OK, "" };
        const unsigned char was = image[i];
        image[i] ^= (unsigned char)(1 + test_random(&random) % 255);
        ernie_status status = ern_format_read(&format, image, n, &error);
        if (status == ERNIE_OK) status = verify_image(&format, &error);
        if (status == ERNIE_OK) fail_msg("byte %zu of %zu changed unnoticed", i, n);
        assert_true(error.message[0] != '\0');
        image[i] = was;
    }
    test_model_free(image);
}

/* The same with the checksums made to agree: then it must never crash, and the reader's word holds
 * for whoever walks the records afterwards. */
static void sealed_flips_never_crash(void **state)
{
    (void)state;
    size_t n;
    uint64_t random = 8;
    unsigned char *image = test_model_build(&tiny, &n);
    unsigned char *whole = malloc(n);
    memcpy(whole, image, n);
    const size_t end = (size_t)((ern_header *)(void *)image)->section[ERN_SECTION_RESIDENT].offset;
    for (size_t i = 0; i < end; i++) {
        ern_format format;
        image[i] = (unsigned char)test_random(&random);
        test_model_seal(image, n, true);
        if (read_image(&format, image, n, NULL) == ERNIE_OK) verify_image(&format, NULL);
        memcpy(image, whole, n);
    }
    free(whole);
    test_model_free(image);
}

static void damage_is_located(void **state)
{
    (void)state;
    size_t n;
    ern_format format;
    ernie_error error;
    unsigned char *image = test_model_build(&tiny, &n);
    assert_int_equal(read_image(&format, image, n, NULL), ERNIE_OK);
    const uint32_t last = format.header->n_records - 1;
    const ern_record *r = &format.records[last];

    image[r->offset + 5] ^= 0x10;
    assert_int_equal(ern_format_verify_record(&format, last, NULL, &error), ERNIE_CORRUPT);
    assert_non_null(strstr(error.message, "\"layers.1.experts.1\""));
    assert_int_equal(ern_format_verify_record(&format, last - 1, NULL, &error), ERNIE_OK);
    image[r->offset + 5] ^= 0x10;

    image[n - 1] = 9; /* the last expert's padding */
    char place[64];
    snprintf(place, sizeof place, "byte %zu ", n - 1);
    assert_int_equal(ern_format_verify_gaps(&format, format.n_bytes, NULL, &error), ERNIE_CORRUPT);
    assert_non_null(strstr(error.message, place));
    test_model_free(image);
}

static void verification_can_be_cancelled(void **state)
{
    (void)state;
    size_t n;
    ern_format format;
    const ernie_cancel cancel = { 1 };
    unsigned char *image = test_model_build(&tiny, &n);
    assert_int_equal(read_image(&format, image, n, NULL), ERNIE_OK);
    assert_int_equal(ern_format_verify_record(&format, 0, &cancel, NULL), ERNIE_CANCELLED);
    assert_int_equal(ern_format_verify_gaps(&format, format.n_bytes, &cancel, NULL), ERNIE_CANCELLED);
    test_model_free(image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_those_of_the_prose),
        cmocka_unit_test(codes_decode_as_the_prose_says),
        cmocka_unit_test(planes_reach_their_columns),
        cmocka_unit_test(scales_of_codes_are_nibbles),
        cmocka_unit_test(levels_fit_unsigned_products),
        cmocka_unit_test(order_of_a_dense_model),
        cmocka_unit_test(order_of_a_mixture),
        cmocka_unit_test(order_with_an_interval),
        cmocka_unit_test(valid_images_open),
        cmocka_unit_test(router_bias_is_optional_by_layer),
        cmocka_unit_test(corruptions_are_named),
        cmocka_unit_test(foreign_weights_id_is_found),
        cmocka_unit_test(cut_files_are_refused),
        cmocka_unit_test(longer_files_are_refused),
        cmocka_unit_test(admitted_newer_version_opens),
        cmocka_unit_test(every_flipped_byte_is_found),
        cmocka_unit_test(sealed_flips_never_crash),
        cmocka_unit_test(damage_is_located),
        cmocka_unit_test(verification_can_be_cancelled),
    };
    return cmocka_run_group_tests_name("format", tests, NULL, NULL);
}
