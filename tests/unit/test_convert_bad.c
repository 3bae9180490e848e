/* Every fault of a checkpoint, of an argument, of the disk: one sentence, and no file. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/resource.h>

#include "convert_run.h"
#include "test_allocator.h"

typedef void (*damage_fn)(void);

/* ---- Bad twins ------------------------------------------------------------------------------- */

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
static void rebuild_paddle(void)
{
    checkpoint_free(&model);
    model.ernie_prefix = model.fused = model.transposed_router = model.paddle = true;
    checkpoint_build(&model);
}
static void twin_paddle_missing(void)
{
    rebuild_paddle();
    checkpoint_remove(&model, "ernie.layers.1.self_attn.qkv_proj.weight");
    checkpoint_remove(&model, "ernie.layers.0.mlp.down_proj.weight");
}
static void twin_paddle_one_row(void) /* one linear is as the -PT checkpoints have it */
{
    rebuild_paddle();
    checkpoint_turn(tensor("ernie.layers.1.mlp.experts.2.up_gate_proj.weight"));
}
static void twin_paddle_split(void) /* of the four ranks one */
{
    rebuild_paddle();
    checkpoint_tensor *t = tensor("ernie.layers.0.mlp.up_gate_proj.weight");
    t->dims[1] /= 2;
    t->n /= 2;
}
static void twin_paddle_nan(void)
{
    rebuild_paddle();
    tensor("ernie.layers.1.self_attn.qkv_proj.weight")->values[70 * 3 + 50] = NAN;
}
static void twin_paddle_unfused(void)
{
    checkpoint_free(&model);
    model.ernie_prefix = model.paddle = true;
    checkpoint_build(&model);
    checkpoint_remove(&model, "ernie.layers.0.self_attn.k_proj.weight");
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
    damage_fn damage;
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
    { twin_paddle_missing, ERNIE_FORMAT,
      "tensor \"ernie.layers.0.mlp.down_proj.weight\" is missing, expected with shape [41, 50]" },
    { twin_paddle_one_row, ERNIE_FORMAT,
      "\"ernie.layers.1.mlp.experts.2.up_gate_proj.weight\": shape [42, 50], config.json asks for "
      "[50, 42]" },
    { twin_paddle_split, ERNIE_FORMAT,
      "\"ernie.layers.0.mlp.up_gate_proj.weight\": shape [50, 41], config.json asks for [50, 82]" },
    { twin_paddle_nan, ERNIE_FORMAT,
      "\"ernie.layers.1.self_attn.qkv_proj.weight\": weight [3, 50] is not a number" },
    { twin_paddle_unfused, ERNIE_FORMAT,
      "tensor \"ernie.layers.0.self_attn.k_proj.weight\" is missing, expected with shape [50, "
      "14]" },
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

/* What people give in the place of a checkpoint's folder. */
static void other_sources_are_named(void **state)
{
    (void)state;
    const struct {
        const char *file, *text;
        ernie_status status;
        const char *says;
    } cases[] = {
        { "x.gguf", "GGUF\3", ERNIE_FORMAT,
          "x.gguf: is truncated: 5 bytes hold no GGUF header" },
        { "x.bin", "GGUF", ERNIE_FORMAT, "x.bin: is truncated: 4 bytes hold no GGUF header" },
        { "x.gguf", "GGU, and more than 24 bytes", ERNIE_FORMAT,
          "x.gguf: is no GGUF file: its first bytes are not \"GGUF\"" },
        { "model.safetensors", "12345678", ERNIE_IO,
          "model.safetensors: is neither a GGUF file nor the directory that holds config.json" },
        { "empty", "", ERNIE_IO, "empty: is neither a GGUF file nor the directory" },
    };
    checkpoint_clear(out_dir);
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        good_model();
        checkpoint_put_text(in_dir, cases[i].file, cases[i].text);
        refuse(checkpoint_path(in_dir, cases[i].file), out_file, NULL, cases[i].status,
               cases[i].says);
    }
    refuse("/dev/null", out_file, NULL, ERNIE_IO, "/dev/null: is neither a GGUF file nor the directory");
    good_model();
    unlink(checkpoint_path(in_dir, "model.safetensors"));
    checkpoint_put_text(in_dir, "model_state.pdparams", "");
    refuse(in_dir, out_file, NULL, ERNIE_UNSUPPORTED,
           "in: holds Paddle pickles (model_state.pdparams), only safetensors can be converted");
    mkdir(checkpoint_path(in_dir, "model.safetensors"), 0777);
    refuse(in_dir, out_file, NULL, ERNIE_IO, "model.safetensors: is a directory, expected a file");
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
    refuse(path, out_file, NULL, ERNIE_IO, "xxx: cannot be opened: File name too long");
    refuse(out_file, out_file, NULL, ERNIE_IO, "x.ernie: cannot be opened: No such file");
    snprintf(elsewhere, sizeof elsewhere, "%s/none/x.ernie", out_dir);
    refuse(in_dir, elsewhere, NULL, ERNIE_IO, "none/x.ernie.part: cannot be created: No such file");
    refuse(in_dir, out_dir, NULL, ERNIE_IO, "out: is a directory, expected a file");
    refuse(in_dir, "/dev/null", NULL, ERNIE_IO,
           "/dev/null: is a device or a pipe, expected a file");
    refuse(in_dir, out_file, &(ern_convert_options){ .type = "q4_0" }, ERNIE_INVALID,
           "\"q4_0\" is unknown: f32, f16");
    refuse(in_dir, out_file, &(ern_convert_options){ .chat = "x" }, ERNIE_INVALID,
           "plain, thinking or none");
}

/* ---- Interruptions --------------------------------------------------------------------------- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_twins_are_named),
        cmocka_unit_test(untied_head_is_needed_only_when_there),
        cmocka_unit_test(bad_files_are_named),
        cmocka_unit_test(other_sources_are_named),
        cmocka_unit_test(bad_arguments_are_named),
        cmocka_unit_test(full_disk_leaves_no_file),
        cmocka_unit_test(failures_keep_the_older_file),
        cmocka_unit_test(parts_are_locked_not_stale),
        cmocka_unit_test(progress_counts_source_bytes),
        cmocka_unit_test(cancelled_runs_leave_no_file),
        cmocka_unit_test(shards_that_shrink_are_named),
        cmocka_unit_test(little_memory_is_enough),
        cmocka_unit_test(memory_failures_unwind),
    };
    return cmocka_run_group_tests(tests, run_setup, run_teardown);
}
