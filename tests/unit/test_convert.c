/* Checkpoints in, files out: every value arrives, every spelling gives the same file. With the
 * argument "shared" it converts the shared checkpoints instead (77 when they are not there). */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "convert_run.h"

/* ---- Values ---------------------------------------------------------------------------------- */

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
    static const float tolerance[ERN_N_TYPES] = {
        [ERN_W8] = 0.0025f, [ERN_W4] = 0.065f, [ERN_C4] = 0.15f, [ERN_C3] = 0.25f, [ERN_C2] = 0.45f
    };
    for (uint32_t row = 0; row < m->n_rows; row++)
        for (uint32_t col = 0; col < m->n_cols; col++) {
            const float got = weight_at(m, row, col), wanted = wanted_value(r, matrix, row, col);
            if (!(fabsf(got - wanted) <= tolerance[m->type]))
                fail_msg("kind %u layer %u expert %u matrix %u [%u, %u]: %g, wanted %g", r->kind,
                         r->layer, r->expert, matrix, (unsigned)row, (unsigned)col, (double)got,
                         (double)wanted);
        }
}

static void values_arrive(void **state)
{
    (void)state;
    static const char *const types[] = { "f32", "f16", "bf16", "w8", "w4", "c4", "c3", "c2" };
    for (int moe = 0; moe < 2; moe++) {
        for (unsigned type = 0; type < ERN_COUNT(types); type++) {
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
                /* c types are those of the experts */
                if (type <= ERN_W4 || r->kind == ERN_EXPERT || wanted == ERN_F32)
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
                                  ("12345678901234567890123456789012345678901234567890123456789012"
                                   "\xe5\xa4\xa9\xe5\xa4\xa9") };
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

/* ---- Spellings ------------------------------------------------------------------------------- */

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
static void spell_paddle(void)
{
    model.ernie_prefix = model.fused = model.transposed_router = model.paddle = true;
}
static void spell_paddle_unfused(void)
{
    model.dtype = "F32", model.n_shards = 3;
    model.ernie_prefix = model.paddle = true;
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
    spell_nothing,        spell_f16,    spell_f32,       spell_shards,
    spell_no_index,       spell_merged, spell_bias_gate, spell_bias_flat,
    spell_transposed,     spell_head,   spell_rotary,    spell_ernie,
    spell_fused,          spell_all,    spell_config,    spell_paddle,
    spell_paddle_unfused,
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

static file_bytes convert_spelled(bool square, bool tied, bool paddle, uint64_t memory_max)
{
    checkpoint_begin(&model, true);
    model.tied = tied;
    model.n_mtp = 1;
    if (square) model.hidden = model.n_heads * model.head_dim, model.n_experts = model.hidden;
    if (square) model.n_layers = 2, model.expert_width = 2, model.vocab = model.hidden;
    if (paddle) spell_paddle();
    checkpoint_build(&model);
    write_model();
    const ern_convert_options options = {
        .type = "w4", .name = "x", .n_threads = 3, .memory_max = memory_max
    };
    convert_good(&options);
    return read_file(out_file);
}

/* Where a shape says nothing about the layout, the other tensors do; and in however small pieces
 * the columns come, the file is the same. */
static void paddle_gives_the_same_file(void **state)
{
    (void)state;
    for (int k = 0; k < 8; k++) {
        const bool square = k & 1, tied = k & 2;
        const file_bytes rows = convert_spelled(square, tied, false, 0);
        const file_bytes columns = convert_spelled(square, tied, true, k & 4 ? 1 : 0);
        if (rows.n != columns.n || memcmp(rows.data, columns.data, rows.n) != 0)
            fail_msg("case %d differs", k);
        free(rows.data);
        free(columns.data);
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

/* Overwrite the first letter of a key of config.json, so that nobody knows it. */
static void hide_field(const char *key)
{
    char quoted[64];
    const char *path = checkpoint_path(in_dir, "config.json");
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const file_bytes bytes = read_file(path);
    bytes.data[bytes.n] = 0;
    char *at = strstr((char *)bytes.data, quoted);
    assert_non_null(at);
    at[1] = '_';
    checkpoint_put(in_dir, "config.json", bytes.data, bytes.n);
    free(bytes.data);
}

/* Without a word in config.json, the tensors say where mixtures begin and whether experts are
 * shared; the head is tied then, whatever tensors there are, but in Paddle's layout. */
static void unsaid_fields_are_settled(void **state)
{
    (void)state;
    for (uint32_t start = 0; start < 3; start++)
        for (unsigned n_shared = 0; n_shared < 3; n_shared++) {
            checkpoint_begin(&model, true);
            model.moe_start = start;
            model.n_shared = n_shared;
            model.redundant_head = true;
            model.fused = start == 1;
            model.ernie_prefix = start == 2;
            if (start == 2 && n_shared == 1) spell_paddle();
            checkpoint_build(&model);
            write_model();
            hide_field("moe_layer_start_index");
            hide_field("moe_num_shared_experts");
            hide_field("tie_word_embeddings");
            convert_good(NULL);
            const file_bytes bytes = read_file(out_file);
            const ern_hparams *h = &read_format(&bytes).header->hparams;
            assert_int_equal(h->moe_layer_start, start);
            assert_int_equal(h->n_shared_experts, n_shared);
            assert_int_equal(h->shared_intermediate_size, n_shared * h->moe_intermediate_size);
            assert_int_equal(h->tied, !model.paddle);
            free(bytes.data);
        }
}

/* Without a word about it, Paddle has a head of its own where there is one. */
static void paddle_ties_nothing_unsaid(void **state)
{
    (void)state;
    for (int head = 0; head < 2; head++) {
        checkpoint_begin(&model, false);
        spell_paddle();
        model.tied = !head;
        checkpoint_build(&model);
        write_model();
        hide_field("tie_word_embeddings");
        convert_good(NULL);
        const file_bytes bytes = read_file(out_file);
        assert_int_equal(read_format(&bytes).header->hparams.tied, !head);
        free(bytes.data);
    }
}

/* ---- A tokenizer and a template in the file -------------------------------------------------- */

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

/* ---- The shared checkpoints ------------------------------------------------------------------ */

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
        cmocka_unit_test(paddle_gives_the_same_file),
        cmocka_unit_test(paddle_ties_nothing_unsaid),
        cmocka_unit_test(tensors_settle_the_rest),
        cmocka_unit_test(unsaid_fields_are_settled),
        cmocka_unit_test(text_sections_arrive),
    };
    const struct CMUnitTest shared_tests[] = {
        cmocka_unit_test(shared_checkpoints_convert),
        cmocka_unit_test(shared_vision_is_refused),
    };
    if (argc < 2) return cmocka_run_group_tests(tests, run_setup, run_teardown);
    if (strcmp(argv[1], "shared") != 0) return 2;
    if (access(checkpoint_path(shared_data(), "tiny-vl"), R_OK) != 0) {
        fprintf(stderr, "skipped: no checkpoints in %s\n", shared_data());
        return 77;
    }
    return cmocka_run_group_tests(shared_tests, run_setup, run_teardown);
}
