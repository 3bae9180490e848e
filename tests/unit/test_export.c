/* Model files in, GGUF files out, read back by a reader of the test's own: every weight of every type
 * arrives under its name, the metadata say what the file says, bad inputs are refused and leave
 * nothing. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "convert_run.h"
#include "gguf_view.h"
#include "test_model_bytes.h"

#include "../../tools/convert/export.h"
#include "../../tools/convert/ggml_encode.h"

static char in_file[340], gguf_file[340];

static int setup(void **state)
{
    if (run_setup(state) != 0 || mkdir(in_dir, 0777) != 0) return -1;
    snprintf(in_file, sizeof in_file, "%s/m.ernie", in_dir);
    snprintf(gguf_file, sizeof gguf_file, "%s/m.gguf", out_dir);
    return 0;
}

/* ---- Models ---------------------------------------------------------------------------------- */

typedef struct built_model {
    unsigned char *data;
    size_t n;
} built_model;

static built_model build(const test_model_spec *spec)
{
    built_model m;
    m.data = test_model_build(spec, &m.n);
    return m;
}

static void put(const built_model *m)
{
    checkpoint_put(in_dir, "m.ernie", m->data, m->n);
}

/* Shapes with every padding (odd_shapes), or with whole blocks of 32 everywhere. */
static const ern_hparams odd_shapes = { .n_layers = 3,
                                        .hidden_size = 50,
                                        .n_heads = 3,
                                        .n_kv_heads = 1,
                                        .head_dim = 14,
                                        .intermediate_size = 41,
                                        .vocab_size = 333,
                                        .context_max = 128,
                                        .n_experts = 4,
                                        .moe_k = 2,
                                        .moe_intermediate_size = 21,
                                        .n_shared_experts = 2,
                                        .shared_intermediate_size = 42,
                                        .moe_layer_start = 1,
                                        .moe_layer_end = 2,
                                        .moe_layer_interval = 1,
                                        .bos_id = 1,
                                        .eos_id = 2,
                                        .pad_id = -1,
                                        .rms_norm_eps = 2e-5f,
                                        .moe_norm_min = 1e-12f,
                                        .rope_theta = 10000.0 };

static ern_hparams whole_blocks(void)
{
    ern_hparams h = odd_shapes;
    h.hidden_size = 64;
    h.n_heads = 4;
    h.n_kv_heads = 2;
    h.head_dim = 16;
    h.intermediate_size = 96;
    h.moe_intermediate_size = 32;
    h.shared_intermediate_size = 64;
    return h;
}

/* `good` keeps what the log said. */
static char logged[1024];
static unsigned n_logged;

static void keep_line(ernie_log_level level, const char *line, void *user)
{
    (void)user;
    if (level < ERNIE_LOG_WARN) return;
    n_logged++;
    snprintf(logged + strlen(logged), sizeof logged - strlen(logged), "%s\n", line);
}

static file_bytes export_good(const char *type, unsigned n_threads)
{
    ernie_error error = { ERNIE_OK, "" };
    const ern_export_options options = { .type = type,
                                         .n_threads = n_threads,
                                         .log = { keep_line, NULL } };
    logged[0] = '\0';
    n_logged = 0;
    if (ern_export(in_file, gguf_file, &options, &error) != ERNIE_OK) fail_msg("%s", error.message);
    assert_int_equal(count_files(out_dir), 1);
    return read_file(gguf_file);
}

/* ---- Weights --------------------------------------------------------------------------------- */

/* The name of a tensor, its record's kind and how its rows lie there, written down a second time. */
typedef struct wanted_tensor {
    const char *end;
    unsigned kind;
    char rows; /* whole, q, k, v, gate, up, down */
} wanted_tensor;

static const wanted_tensor wanted_tensors[] = {
    { "token_embd.weight", ERN_EMBED, 'w' },
    { "output.weight", ERN_HEAD, 'w' },
    { "output_norm.weight", ERN_FINAL_NORM, 'w' },
    { "attn_norm.weight", ERN_ATTN_NORM, 'w' },
    { "attn_q.weight", ERN_QKV, 'q' },
    { "attn_k.weight", ERN_QKV, 'k' },
    { "attn_v.weight", ERN_QKV, 'v' },
    { "attn_output.weight", ERN_ATTN_OUT, 'w' },
    { "ffn_norm.weight", ERN_FFN_NORM, 'w' },
    { "ffn_gate.weight", ERN_FFN_GATE_UP, 'g' },
    { "ffn_up.weight", ERN_FFN_GATE_UP, 'u' },
    { "ffn_down.weight", ERN_FFN_DOWN, 'w' },
    { "ffn_gate_inp.weight", ERN_ROUTER, 'w' },
    { "exp_probs_b.bias", ERN_ROUTER_BIAS, 'w' },
    { "ffn_gate_shexp.weight", ERN_SHARED_GATE_UP, 'g' },
    { "ffn_up_shexp.weight", ERN_SHARED_GATE_UP, 'u' },
    { "ffn_down_shexp.weight", ERN_SHARED_DOWN, 'w' },
    { "ffn_gate_exps.weight", ERN_EXPERT, 'g' },
    { "ffn_up_exps.weight", ERN_EXPERT, 'u' },
    { "ffn_down_exps.weight", ERN_EXPERT, 'd' },
};

static const wanted_tensor *wanted_find(const char *end)
{
    for (size_t i = 0; i < ERN_COUNT(wanted_tensors); i++)
        if (strcmp(wanted_tensors[i].end, end) == 0) return &wanted_tensors[i];
    fail_msg("no tensor is called %s", end);
    return NULL;
}

static const ern_record *record_find(const ern_format *format, unsigned kind, unsigned layer,
                                     unsigned expert)
{
    for (uint32_t i = 0; i < format->header->n_records; i++) {
        const ern_record *r = &format->records[i];
        if (r->kind == kind && r->layer == layer && r->expert == expert) return r;
    }
    fail_msg("kind %u layer %u expert %u is not in the model", kind, layer, expert);
    return NULL;
}

static float wanted_weight(const ern_format *format, const wanted_tensor *wanted, unsigned layer,
                           uint32_t slice, uint32_t row, uint32_t col)
{
    const ern_hparams *h = &format->header->hparams;
    const uint32_t nq = h->n_heads * h->head_dim, nk = h->n_kv_heads * h->head_dim;
    const ern_record *r = record_find(format, wanted->kind, layer, slice);
    ern_matrix m = { format->data + r->offset, r->type, r->n_rows, r->n_cols };
    switch (wanted->rows) {
    case 'k': row += nq; break;
    case 'v': row += nq + nk; break;
    case 'g': row = 32 * (row / 16) + row % 16; break;
    case 'u': row = 32 * (row / 16) + row % 16 + 16; break;
    case 'd':
        m = (ern_matrix){ m.data + ern_matrix_bytes(r->type, r->n_rows, r->n_cols), r->type2,
                          r->n_rows2, r->n_cols2 };
        break;
    default: break;
    }
    return weight_at(&m, row, col);
}

/* How far a stored value may lie from the weight: half a step of its type. */
static float tolerance(const gguf_view_tensor *t, uint64_t i, float wanted)
{
    const unsigned char *block = t->data + i / 32 * (t->type == 2 ? 18 : 34);
    switch (t->type) {
    case 0: return 0;
    case 1: return fmaxf(fabsf(wanted) * 0x1p-11f, 0x1p-25f);
    case 30: return fabsf(wanted) * 0x1p-8f;
    /* Codes go from -8 to 7, so what lies at the far end is a whole step off; halves of scales. */
    case 2: return fabsf(gguf_view_half(block)) * 1.01f;
    default: return fabsf(gguf_view_half(block)) * 0.57f;
    }
}

static void check_tensor(const ern_format *format, const gguf_view_tensor *t, uint32_t type)
{
    unsigned layer = ERN_NO_LAYER;
    int n_prefix = 0;
    if (sscanf(t->name, "blk.%u.%n", &layer, &n_prefix) != 1) n_prefix = 0;
    const wanted_tensor *wanted = wanted_find(t->name + n_prefix);
    const bool f32 = ern_kind_is_f32(wanted->kind);
    const bool wide = wanted->kind == ERN_EMBED || wanted->kind == ERN_HEAD;
    const bool block = type == CONV_GGML_Q8_0 || type == CONV_GGML_Q4_0;
    const uint32_t expected = f32                              ? CONV_GGML_F32
                              : block && t->dims[0] % 32       ? CONV_GGML_F16
                              : wide && type == CONV_GGML_Q4_0 ? CONV_GGML_Q8_0
                                                               : type;
    assert_int_equal(t->type, expected);
    const uint32_t n_cols = (uint32_t)t->dims[0];
    const uint32_t n_rows = t->n_dims > 1 ? (uint32_t)t->dims[1] : 1;
    const uint32_t n_slices = t->n_dims > 2 ? (uint32_t)t->dims[2] : 1;
    uint64_t i = 0;
    for (uint32_t slice = 0; slice < n_slices; slice++)
        for (uint32_t row = 0; row < n_rows; row++)
            for (uint32_t col = 0; col < n_cols; col++, i++) {
                const float got = gguf_view_value(t, i);
                const float weight = wanted_weight(format, wanted, layer, slice, row, col);
                if (!(fabsf(got - weight) <= tolerance(t, i, weight)))
                    fail_msg("%s [%u, %u, %u]: %g, wanted %g", t->name, (unsigned)slice,
                             (unsigned)row, (unsigned)col, (double)got, (double)weight);
            }
}

/* What must be there, with its shape: dims of 0 are not given. */
static void check_shape(const gguf_view *v, const char *name, uint64_t a, uint64_t b, uint64_t c)
{
    const gguf_view_tensor *t = gguf_view_find(v, name);
    if (!t) fail_msg("tensor %s is missing", name);
    assert_int_equal(t->n_dims, c ? 3 : b ? 2 : 1);
    assert_int_equal(t->dims[0], a);
    if (b) assert_int_equal(t->dims[1], b);
    if (c) assert_int_equal(t->dims[2], c);
}

static void check_shapes(const gguf_view *v, const ern_hparams *h)
{
    char name[64];
    const uint64_t hidden = h->hidden_size, nq = h->n_heads * h->head_dim,
                   nk = h->n_kv_heads * h->head_dim;
    uint64_t n = 2 + !h->tied;
    check_shape(v, "token_embd.weight", hidden, h->vocab_size, 0);
    check_shape(v, "output_norm.weight", hidden, 0, 0);
    if (!h->tied) check_shape(v, "output.weight", hidden, h->vocab_size, 0);
#define CHECK(end, a, b, c) \
    (snprintf(name, sizeof name, "blk.%u.%s", layer, end), check_shape(v, name, a, b, c), n++)
    for (uint32_t layer = 0; layer < h->n_layers; layer++) {
        CHECK("attn_norm.weight", hidden, 0, 0);
        CHECK("ffn_norm.weight", hidden, 0, 0);
        CHECK("attn_q.weight", hidden, nq, 0);
        CHECK("attn_k.weight", hidden, nk, 0);
        CHECK("attn_v.weight", hidden, nk, 0);
        CHECK("attn_output.weight", nq, hidden, 0);
        if (!ern_layer_is_moe(h, layer)) {
            CHECK("ffn_gate.weight", hidden, h->intermediate_size, 0);
            CHECK("ffn_up.weight", hidden, h->intermediate_size, 0);
            CHECK("ffn_down.weight", h->intermediate_size, hidden, 0);
            continue;
        }
        CHECK("ffn_gate_inp.weight", hidden, h->n_experts, 0);
        CHECK("exp_probs_b.bias", h->n_experts, 0, 0);
        CHECK("ffn_gate_exps.weight", hidden, h->moe_intermediate_size, h->n_experts);
        CHECK("ffn_up_exps.weight", hidden, h->moe_intermediate_size, h->n_experts);
        CHECK("ffn_down_exps.weight", h->moe_intermediate_size, hidden, h->n_experts);
        if (h->n_shared_experts == 0) continue;
        CHECK("ffn_gate_shexp.weight", hidden, h->shared_intermediate_size, 0);
        CHECK("ffn_up_shexp.weight", hidden, h->shared_intermediate_size, 0);
        CHECK("ffn_down_shexp.weight", h->shared_intermediate_size, hidden, 0);
    }
#undef CHECK
    assert_int_equal(v->n_tensors, n);
}

static const struct {
    const char *name;
    uint32_t type;
} export_types[] = {
    { "f16", CONV_GGML_F16 },
    { "bf16", CONV_GGML_BF16 },
    { "q8_0", CONV_GGML_Q8_0 },
    { "q4_0", CONV_GGML_Q4_0 },
};

/* Every source type to every written type. */
static void weights_arrive(void **state)
{
    (void)state;
    static gguf_view view;
    const ern_hparams whole = whole_blocks();
    for (unsigned source = 0; source < ERN_N_TYPES; source++)
        for (size_t k = 0; k < ERN_COUNT(export_types); k++) {
            ern_hparams shapes = (source + k) % 2 ? odd_shapes : whole;
            shapes.tied = source % 2;
            shapes.n_mtp_layers = source == 1;
            /* Mixed types inside one file. */
            const ern_type other = (ern_type)((source + 1) % ERN_N_TYPES), type = (ern_type)source;
            const test_model_spec spec = { .seed = source,
                                           .type_embed = other,
                                           .type_head = type,
                                           .type_attention = type,
                                           .type_ffn = other,
                                           .type_expert = type,
                                           .type_expert_down = other,
                                           .hparams = &shapes };
            built_model m = build(&spec);
            put(&m);
            const file_bytes bytes = export_good(export_types[k].name, 1 + (unsigned)k % 3);
            gguf_view_open(&view, bytes.data, bytes.n);
            const file_bytes again = { m.data, m.n };
            const ern_format format = read_format(&again);
            check_shapes(&view, &shapes);
            for (uint64_t i = 0; i < view.n_tensors; i++)
                check_tensor(&format, &view.tensors[i], export_types[k].type);
            free(bytes.data);
            test_model_free(m.data);
        }
}

static void any_number_of_threads_gives_the_same_file(void **state)
{
    (void)state;
    const test_model_spec spec = { .hparams = &odd_shapes, .type_expert = ERN_W4 };
    built_model m = build(&spec);
    put(&m);
    const file_bytes first = export_good("q8_0", 1);
    for (unsigned n = 2; n < 5; n++) {
        const file_bytes bytes = export_good("q8_0", n);
        assert_int_equal(bytes.n, first.n);
        assert_memory_equal(bytes.data, first.data, first.n);
        free(bytes.data);
    }
    free(first.data);
    test_model_free(m.data);
}

/* ---- Blocks ---------------------------------------------------------------------------------- */

/* What quantize_row_q8_0_ref and quantize_row_q4_0_ref of ggml make of the same weights. */
static void blocks_are_those_of_the_reference(void **state)
{
    (void)state;
    static const unsigned char q8[] = {
        0x00, 0x1c, 0xc4, 0xd1, 0x81, 0xb7, 0x3e, 0xef, 0x9f, 0xcd, 0x76, 0xfd, 0x37, 0x0f,
        0xe5, 0xd4, 0xf2, 0xef, 0x45, 0x13, 0x2d, 0x6c, 0xa2, 0x9b, 0x04, 0xf7, 0x39, 0x43,
        0x0c, 0xd2, 0xa2, 0x7e, 0x40, 0x72, 0x07, 0x00, 0xdd, 0xcc, 0xe4, 0xb7, 0xd1, 0xd5,
        0x8a, 0x79, 0xd2, 0xa4, 0x6f, 0x2d, 0xb1, 0x2b, 0xf8, 0x7e, 0xd0, 0xe8, 0x16, 0xbc,
        0x45, 0x90, 0x7f, 0xea, 0x8f, 0xae, 0xfd, 0x1e, 0x95, 0x97, 0xda, 0x94,
    };
    static const unsigned char q4[] = {
        0xf0, 0x2b, 0xc4, 0x95, 0xb0, 0xf3, 0x2c, 0x27, 0x82, 0x75, 0xcf, 0xc8,
        0x9b, 0x59, 0x26, 0xf5, 0xc7, 0xf7, 0x67, 0x80, 0xba, 0xab, 0x7a, 0xcd,
        0x4b, 0xfb, 0x0f, 0x90, 0xfb, 0xde, 0x81, 0x65, 0xfd, 0xf5, 0xa9, 0xf0,
    };
    float x[64];
    unsigned char got[2 * 34];
    for (unsigned i = 0; i < 64; i++) x[i] = checkpoint_value("block", i / 32, 7, i);
    for (unsigned i = 32; i < 64; i++) x[i] *= 1e-4f;
    conv_ggml_encode(CONV_GGML_Q8_0, x, 64, got);
    assert_memory_equal(got, q8, sizeof q8);
    conv_ggml_encode(CONV_GGML_Q4_0, x, 64, got);
    assert_memory_equal(got, q4, sizeof q4);
}

/* Zeros, halves that round away from zero, the first of two equal peaks, code 16 cut to 15. */
static void blocks_at_the_edges(void **state)
{
    (void)state;
    float x[32] = { 0 };
    unsigned char got[34];
    conv_ggml_encode(CONV_GGML_Q8_0, x, 32, got);
    for (unsigned i = 0; i < 34; i++) assert_int_equal(got[i], 0);
    conv_ggml_encode(CONV_GGML_Q4_0, x, 32, got);
    for (unsigned i = 0; i < 18; i++) assert_int_equal(got[i], i < 2 ? (i ? 0x80 : 0) : 0x88);

    x[3] = 127, x[4] = 0.5f, x[5] = -0.5f, x[6] = 1.5f, x[7] = -126.5f;
    conv_ggml_encode(CONV_GGML_Q8_0, x, 32, got);
    static const int8_t codes[] = { 0, 0, 0, 127, 1, -1, 2, -127 };
    assert_int_equal(got[0] | got[1] << 8, 0x3c00); /* 1.0 */
    assert_memory_equal(got + 2, codes, sizeof codes);

    memset(x, 0, sizeof x);
    x[0] = 8, x[1] = -8, x[17] = -7.6f, x[31] = 3.4f;
    conv_ggml_encode(CONV_GGML_Q4_0, x, 32, got);
    assert_int_equal(got[0] | got[1] << 8, 0xbc00); /* -1.0: the peak has code 0 */
    assert_int_equal(got[2], 0x80 | 0);
    assert_int_equal(got[3], 0xf0 | 15);
    assert_int_equal(got[17], 5 << 4 | 8);
}

/* ---- Metadata -------------------------------------------------------------------------------- */

static void numbers_are_those_of_the_model(void **state)
{
    (void)state;
    static gguf_view view;
    const test_model_spec spec = { .hparams = &odd_shapes };
    built_model m = build(&spec);
    put(&m);
    const file_bytes bytes = export_good(NULL, 0);
    gguf_view_open(&view, bytes.data, bytes.n);
    static const struct {
        const char *key;
        uint32_t value;
    } numbers[] = {
        { "general.file_type", 32 },
        { "general.quantization_version", 2 },
        { "ernie4_5-moe.block_count", 3 },
        { "ernie4_5-moe.context_length", 128 },
        { "ernie4_5-moe.embedding_length", 50 },
        { "ernie4_5-moe.feed_forward_length", 41 },
        { "ernie4_5-moe.vocab_size", 333 },
        { "ernie4_5-moe.attention.head_count", 3 },
        { "ernie4_5-moe.attention.head_count_kv", 1 },
        { "ernie4_5-moe.attention.key_length", 14 },
        { "ernie4_5-moe.attention.value_length", 14 },
        { "ernie4_5-moe.rope.dimension_count", 14 },
        { "ernie4_5-moe.expert_count", 4 },
        { "ernie4_5-moe.expert_used_count", 2 },
        { "ernie4_5-moe.expert_feed_forward_length", 21 },
        { "ernie4_5-moe.expert_shared_count", 2 },
        { "ernie4_5-moe.expert_shared_feed_forward_length", 42 },
        { "ernie4_5-moe.interleave_moe_layer_step", 1 },
        { "ernie4_5-moe.leading_dense_block_count", 1 },
    };
    for (size_t i = 0; i < ERN_COUNT(numbers); i++)
        assert_int_equal(gguf_view_u32(&view, numbers[i].key), numbers[i].value);
    assert_true(gguf_view_is_text(&view, "general.architecture", "ernie4_5-moe"));
    assert_true(gguf_view_is_text(&view, "general.type", "model"));
    assert_true(gguf_view_is_text(&view, "general.name", "test"));
    assert_true(gguf_view_f32(&view, "ernie4_5-moe.rope.freq_base") == 10000.0f);
    assert_true(gguf_view_f32(&view, "ernie4_5-moe.attention.layer_norm_rms_epsilon") == 2e-5f);
    assert_true(gguf_view_f32(&view, "general.sampling.temp") == 0.8f);
    assert_true(gguf_view_f32(&view, "general.sampling.top_p") == 0.8f);
    assert_null(gguf_view_find_key(&view, "general.sampling.top_k"));
    free(bytes.data);
    test_model_free(m.data);
}

/* The n-th item of an array of strings. */
static bool item_is(const gguf_view_key *key, uint64_t n, const char *text)
{
    const unsigned char *at = key->value;
    for (; n > 0; n--) at += 8 + gguf_view_number(at, 8);
    return gguf_view_number(at, 8) == strlen(text) && memcmp(at + 8, text, strlen(text)) == 0;
}

static void vocabulary_is_whole(void **state)
{
    (void)state;
    static gguf_view view;
    const test_model_spec spec = { .hparams = &odd_shapes };
    built_model m = build(&spec);
    const file_bytes image = { m.data, m.n };
    const ern_tokenizer_head *head = read_format(&image).tokenizer;
    const uint32_t n = head->n_tokens;
    unsigned char *types = (unsigned char *)(uintptr_t)(head + 1) + 4 * (2 * (size_t)n + 1);
    types[n - 1] = ERN_TOKEN_ADDED;
    test_model_seal(m.data, m.n, false);
    put(&m);
    const file_bytes bytes = export_good("f16", 1);
    gguf_view_open(&view, bytes.data, bytes.n);
    assert_int_equal(n_logged, 0);
    assert_true(gguf_view_is_text(&view, "tokenizer.ggml.model", "llama"));
    assert_true(gguf_view_is_text(&view, "tokenizer.ggml.pre", "default"));
    assert_true(gguf_view_is_text(&view, "tokenizer.chat_template", "{{ messages }}"));
    const gguf_view_key *tokens = gguf_view_find_key(&view, "tokenizer.ggml.tokens");
    const gguf_view_key *scores = gguf_view_find_key(&view, "tokenizer.ggml.scores");
    const gguf_view_key *kinds = gguf_view_find_key(&view, "tokenizer.ggml.token_type");
    assert_true(tokens->item_type == 8 && scores->item_type == 6 && kinds->item_type == 5);
    assert_true(tokens->n == 333 && scores->n == 333 && kinds->n == 333);
    assert_true(item_is(tokens, 0, "<unk>") && item_is(tokens, 3, "<0x00>"));
    assert_true(item_is(tokens, 260, "the"));
    char pad[16];
    snprintf(pad, sizeof pad, "[PAD%u]", (unsigned)n);
    assert_true(item_is(tokens, n, pad) && n < 332);
    assert_true(item_is(tokens, 332, "[PAD332]"));
    assert_true(gguf_view_float_at(scores->value + 4 * 260) == -260.0f);
    assert_true(gguf_view_float_at(scores->value + 4 * (n - 1)) == -1000.0f);
    assert_true(gguf_view_float_at(scores->value + 4 * n) == -10000.0f);
    const struct {
        uint32_t id, type;
    } token_types[] = {
        { 0, 2 }, { 1, 3 }, { 2, 3 }, { 3, 6 }, { 260, 1 }, { n - 1, 3 }, { n, 5 }
    };
    for (size_t i = 0; i < ERN_COUNT(token_types); i++)
        assert_int_equal(gguf_view_number(kinds->value + 4 * token_types[i].id, 4),
                         token_types[i].type);
    assert_int_equal(gguf_view_u32(&view, "tokenizer.ggml.bos_token_id"), 1);
    assert_int_equal(gguf_view_u32(&view, "tokenizer.ggml.eos_token_id"), 2);
    assert_int_equal(gguf_view_u32(&view, "tokenizer.ggml.unknown_token_id"), 0);
    assert_null(gguf_view_find_key(&view, "tokenizer.ggml.padding_token_id"));
    assert_null(gguf_view_find_key(&view, "tokenizer.ggml.eot_token_id")); /* is eos */
    static const char *const flags[] = { "tokenizer.ggml.add_bos_token",
                                         "tokenizer.ggml.add_eos_token",
                                         "tokenizer.ggml.add_space_prefix" };
    for (size_t i = 0; i < ERN_COUNT(flags); i++) {
        const gguf_view_key *key = gguf_view_find_key(&view, flags[i]);
        assert_true(key && key->type == 7 && key->value[0] == 0);
    }
    free(bytes.data);
    test_model_free(m.data);
}

/* What a GGUF file cannot say of a tokenizer is said, once each. */
static void tokenizer_rules_that_are_lost_are_named(void **state)
{
    (void)state;
    const test_model_spec spec = { .no_byte_pieces = true };
    built_model m = build(&spec);
    const file_bytes image = { m.data, m.n };
    ern_tokenizer_head *head = (ern_tokenizer_head *)(uintptr_t)read_format(&image).tokenizer;
    head->flags = ERN_TOKENIZER_REMOVE_EXTRA_SPACES | ERN_TOKENIZER_DUMMY_PREFIX;
    test_model_seal(m.data, m.n, false);
    put(&m);
    const file_bytes bytes = export_good("f16", 1);
    static gguf_view view;
    gguf_view_open(&view, bytes.data, bytes.n);
    assert_int_equal(gguf_view_find_key(&view, "tokenizer.ggml.add_space_prefix")->value[0], 1);
    assert_int_equal(n_logged, 3);
    static const char *const lines[] = { "extra spaces are removed", "spaces are not escaped",
                                         "there is no byte fallback" };
    for (size_t i = 0; i < ERN_COUNT(lines); i++) assert_non_null(strstr(logged, lines[i]));
    free(bytes.data);
    test_model_free(m.data);
}

/* A dense model with neither tokenizer nor chat nor generation, with MTP blocks. */
static void little_is_enough(void **state)
{
    (void)state;
    static gguf_view view;
    const test_model_spec spec = { .no_sections = true, .n_mtp = 2, .untied = true };
    built_model m = build(&spec);
    put(&m);
    const file_bytes bytes = export_good("q4_0", 1);
    gguf_view_open(&view, bytes.data, bytes.n);
    assert_true(gguf_view_is_text(&view, "general.architecture", "ernie4_5"));
    assert_true(gguf_view_is_text(&view, "tokenizer.ggml.model", "none"));
    assert_int_equal(gguf_view_u32(&view, "ernie4_5.block_count"), 2);
    assert_null(gguf_view_find_key(&view, "ernie4_5.expert_count"));
    assert_null(gguf_view_find_key(&view, "tokenizer.ggml.tokens"));
    assert_null(gguf_view_find_key(&view, "tokenizer.ggml.eos_token_id"));
    assert_null(gguf_view_find_key(&view, "general.sampling.temp"));
    assert_int_equal(gguf_view_find(&view, "output.weight")->type, CONV_GGML_Q8_0);
    assert_int_equal(gguf_view_find(&view, "blk.1.ffn_up.weight")->type, CONV_GGML_Q4_0);
    assert_int_equal(n_logged, 1);
    assert_non_null(strstr(logged, "2 MTP blocks are left out"));
    free(bytes.data);
    test_model_free(m.data);
}

/* ---- There and back -------------------------------------------------------------------------- */

static file_bytes convert_to(const char *source, const char *out)
{
    ernie_error error = { ERNIE_OK, "" };
    const ern_convert_options options = { .type = "bf16", .name = "x", .n_threads = 2 };
    if (ern_convert(source, out, &options, &error) != ERNIE_OK) fail_msg("%s", error.message);
    return read_file(out);
}

static void write_text_files(bool greedy)
{
    checkpoint_bytes pieces;
    checkpoint_tokenizer(&pieces, 2);
    checkpoint_put(in_dir, "tokenizer.model", pieces.data, pieces.n);
    checkpoint_put_text(in_dir, "tokenizer_config.json",
                        "{\"add_bos_token\": false, \"chat_template\": \"{{ messages }}\"}");
    checkpoint_put_text(in_dir, "generation_config.json",
                        greedy ? "{\"do_sample\": false}"
                               : "{\"do_sample\": true, \"temperature\": 0.75, \"top_p\": 0.5,"
                                 " \"top_k\": 40, \"repetition_penalty\": 1.125}");
}

/* A checkpoint's file, exported and converted again, is the same file to the last byte: weights,
 * numbers, vocabulary, template, sampling. */
static void export_and_import_give_the_same_file(void **state)
{
    (void)state;
    char exported[360];
    snprintf(exported, sizeof exported, "%s/back.gguf", in_dir);
    for (unsigned variant = 0; variant < 4; variant++) {
        checkpoint_clear(out_dir);
        checkpoint_begin(&model, variant < 3);
        model.tied = variant % 2;
        model.no_bias = variant == 1;
        if (variant == 2) model.n_shared = 0;
        checkpoint_build(&model);
        write_model();
        write_text_files(variant == 2);
        const file_bytes first = convert_to(in_dir, out_file);
        ernie_error error = { ERNIE_OK, "" };
        const ern_export_options options = { .type = "bf16" };
        if (ern_export(out_file, exported, &options, &error) != ERNIE_OK)
            fail_msg("%s", error.message);
        const file_bytes again = convert_to(exported, out_file);
        if (again.n != first.n || memcmp(again.data, first.data, first.n) != 0)
            fail_msg("variant %u comes back as another file", variant);
        free(first.data);
        free(again.data);
    }
    checkpoint_clear(in_dir);
    checkpoint_clear(out_dir);
}

/* ---- What is refused ------------------------------------------------------------------------- */

static void refuse_export(const char *in, const char *out, const char *type, ernie_status wanted,
                          const char *says)
{
    ernie_error error = { ERNIE_OK, "" };
    const ern_export_options options = { .type = type, .n_threads = 2 };
    const unsigned n_before = count_files(out_dir), n_in = count_files(in_dir);
    const ernie_status status = ern_export(in, out, &options, &error);
    if (!strstr(error.message, says)) fail_msg("\"%s\" does not say \"%s\"", error.message, says);
    assert_int_equal(status, wanted);
    assert_int_equal(error.code, wanted);
    assert_int_equal(count_files(out_dir), n_before);
    assert_int_equal(count_files(in_dir), n_in);
}

static void bad_options_and_paths(void **state)
{
    (void)state;
    char nowhere[400];
    const test_model_spec spec = { .moe = true };
    built_model m = build(&spec);
    checkpoint_clear(out_dir);
    put(&m);
    snprintf(nowhere, sizeof nowhere, "%s/nowhere/x.gguf", out_dir);
    refuse_export(in_file, gguf_file, "q5_0", ERNIE_INVALID,
                  "type \"q5_0\" is unknown: f16, bf16, q8_0 or q4_0");
    refuse_export(NULL, gguf_file, NULL, ERNIE_INVALID, "need a path");
    refuse_export(in_file, NULL, NULL, ERNIE_INVALID, "need a path");
    refuse_export(in_file, in_file, NULL, ERNIE_INVALID, "m.ernie: is the model itself");
    refuse_export(in_file, nowhere, NULL, ERNIE_IO, "nowhere/x.gguf.part: cannot be created");
    refuse_export(in_file, out_dir, NULL, ERNIE_IO, "is a directory, expected a file");
    refuse_export(nowhere, gguf_file, NULL, ERNIE_IO, "nowhere/x.gguf");
    refuse_export(in_dir, gguf_file, NULL, ERNIE_IO, in_dir);
    test_model_free(m.data);
}

/* Inputs that are no models, or damaged ones; an older file at the output stays. */
static void bad_models(void **state)
{
    (void)state;
    const test_model_spec spec = { .moe = true };
    built_model m = build(&spec);
    checkpoint_clear(out_dir);
    checkpoint_put_text(out_dir, "m.gguf", "older");
    checkpoint_put_text(in_dir, "m.ernie", "GGUF but not really");
    refuse_export(in_file, gguf_file, NULL, ERNIE_FORMAT, "");
    const size_t n = m.n;
    m.n -= 4096;
    put(&m);
    refuse_export(in_file, gguf_file, NULL, ERNIE_FORMAT, "bytes");
    m.n = n;
    const file_bytes image = { m.data, m.n };
    const ern_format format = read_format(&image);
    for (uint32_t i = 0; i < format.header->n_records; i++) {
        char name[64];
        ern_record_name(&format.records[i], format.header->hparams.n_layers, name);
        unsigned char *byte = m.data + format.records[i].offset + format.records[i].n_bytes / 2;
        *byte ^= 1;
        put(&m);
        refuse_export(in_file, gguf_file, "q8_0", ERNIE_CORRUPT, name);
        *byte ^= 1;
    }
    put(&m);
    const file_bytes bytes = read_file(gguf_file);
    assert_int_equal(bytes.n, 5);
    free(bytes.data);
    test_model_free(m.data);
}

static void mixtures_that_have_no_key(void **state)
{
    (void)state;
    ern_hparams shapes = whole_blocks();
    shapes.n_layers = 4;
    shapes.moe_layer_end = 3;
    shapes.moe_layer_interval = 2;
    const test_model_spec spec = { .hparams = &shapes };
    built_model m = build(&spec);
    checkpoint_clear(out_dir);
    put(&m);
    refuse_export(in_file, gguf_file, NULL, ERNIE_UNSUPPORTED,
                  "one layer of 2 is a mixture, in a GGUF file every layer from layer 1 on is");
    test_model_free(m.data);
    shapes.moe_layer_interval = 1;
    shapes.moe_layer_end = 2;
    m = build(&spec);
    put(&m);
    refuse_export(in_file, gguf_file, NULL, ERNIE_UNSUPPORTED,
                  "the mixtures end at layer 2 of 3, in a GGUF file they reach the last layer");
    test_model_free(m.data);
}

/* One weight of the second expert's down matrix, row 5, column 9. */
static void refuse_weight(float value, const char *type, ernie_status wanted, const char *says)
{
    const ern_hparams shapes = whole_blocks();
    const test_model_spec spec = { .hparams = &shapes };
    built_model m = build(&spec);
    const file_bytes image = { m.data, m.n };
    const ern_format format = read_format(&image);
    const ern_record *r = record_find(&format, ERN_EXPERT, 2, 1);
    memcpy(m.data + r->offset + ern_expert_down_offset(r) + 5 * ern_row_bytes(ERN_F32, r->n_cols2)
               + 9 * sizeof value,
           &value, sizeof value);
    test_model_seal(m.data, m.n, true);
    put(&m);
    if (wanted == ERNIE_OK)
        free(export_good(type, 2).data);
    else
        refuse_export(in_file, gguf_file, type, wanted, says);
    test_model_free(m.data);
}

static void weights_that_do_not_fit(void **state)
{
    (void)state;
    checkpoint_clear(out_dir);
    for (size_t k = 0; k < ERN_COUNT(export_types); k++) {
        refuse_weight(NAN, export_types[k].name, ERNIE_FORMAT,
                      "tensor \"blk.2.ffn_down_exps.weight\": weight [1, 5, 9] is not a number");
        refuse_weight(-INFINITY, export_types[k].name, ERNIE_FORMAT,
                      "weight [1, 5, 9] is infinite");
    }
    refuse_weight(65520.0f, "f16", ERNIE_UNSUPPORTED,
                  "weight [1, 5, 9] is 65520, which does not fit type F16");
    refuse_weight(-8321040.0f, "q8_0", ERNIE_UNSUPPORTED, "which does not fit type Q8_0");
    refuse_weight(524160.0f, "q4_0", ERNIE_UNSUPPORTED, "which does not fit type Q4_0");
    refuse_weight(3.4e38f, "bf16", ERNIE_UNSUPPORTED, "which does not fit type BF16");
    refuse_weight(65519.0f, "f16", ERNIE_OK, NULL);
    refuse_weight(-8321039.5f, "q8_0", ERNIE_OK, NULL);
    refuse_weight(524159.9f, "q4_0", ERNIE_OK, NULL);
    refuse_weight(3.38e38f, "bf16", ERNIE_OK, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_arrive),
        cmocka_unit_test(any_number_of_threads_gives_the_same_file),
        cmocka_unit_test(blocks_are_those_of_the_reference),
        cmocka_unit_test(blocks_at_the_edges),
        cmocka_unit_test(numbers_are_those_of_the_model),
        cmocka_unit_test(vocabulary_is_whole),
        cmocka_unit_test(tokenizer_rules_that_are_lost_are_named),
        cmocka_unit_test(little_is_enough),
        cmocka_unit_test(export_and_import_give_the_same_file),
        cmocka_unit_test(bad_options_and_paths),
        cmocka_unit_test(bad_models),
        cmocka_unit_test(mixtures_that_have_no_key),
        cmocka_unit_test(weights_that_do_not_fit),
    };
    return cmocka_run_group_tests_name("export", tests, setup, run_teardown);
}
