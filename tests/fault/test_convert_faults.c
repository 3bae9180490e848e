/* The converter, from checkpoints and from GGUF, under every failure: each allocation (ours and
 * jansson's), each call to the operating system, a cancellation at each of these moments. A status
 * and a sentence, nothing leaks, no file and no .part is left, and an older file at the output's
 * place stays as it was. */
#include "calls.h"
#include "raiser.h"

#include "../../tools/convert/export.h"
#include "../../tools/convert/synth.h"
#include "../unit/convert_run.h"
#include "../unit/checkpoint_paddle.h"
#include "../unit/gguf_file.h"
#include "../unit/imatrix_bytes.h"
#include "../unit/test_allocator.h"

#include <jansson.h>

/* ---- The checkpoints, and the makers of files ---------------------------------------------- */

static const char older[] = "older";
/* What comes out when nothing fails. */
static file_bytes converted, imported, synthesized, exported, coded, unquantized;
static char statistics[320]; /* a calibration file for the checkpoint */
static char paddle_dir[300];
static char model_file[340]; /* the converted one, which is exported */

static test_allocator counter;
static ernie_allocator allocator;
static ernie_cancel cancel;

static ernie_status convert_source(const char *source, unsigned n_threads, ernie_error *error)
{
    const ern_convert_options options = { .type = "w4",
                                          .chat = "plain",
                                          .n_threads = n_threads,
                                          .cancel = &cancel,
                                          .allocator = &allocator };
    return ern_convert(source, out_file, &options, error);
}

static ernie_status convert(unsigned n_threads, ernie_error *error)
{
    return convert_source(in_dir, n_threads, error);
}

static ernie_status convert_paddle(unsigned n_threads, ernie_error *error)
{
    return convert_source(paddle_dir, n_threads, error);
}

/* The first of two parts. */
static const char *gguf_path(unsigned part)
{
    return checkpoint_path(in_dir, part == 0 ? "x-00001-of-00002.gguf" : "x-00002-of-00002.gguf");
}

static ernie_status import(unsigned n_threads, ernie_error *error)
{
    return convert_source(gguf_path(0), n_threads, error);
}

/* With a calibration file, in all three ways that a linear's statistics are used: experts that
 * share moments, moments of one's own, and w4 beside c types. */
static ernie_status convert_coded(unsigned n_threads, ernie_error *error)
{
    const ern_convert_options options = { .type = "c3",
                                          .imatrix = statistics,
                                          .fast = true,
                                          .chat = "plain",
                                          .n_threads = n_threads,
                                          .cancel = &cancel,
                                          .allocator = &allocator };
    return ern_convert(in_dir, out_file, &options, error);
}

static ernie_status synthesize(unsigned n_threads, ernie_error *error)
{
    const ern_synth_options options = { .shape = "demo",
                                        .n_layers = 1,
                                        .type = "w4",
                                        .n_threads = n_threads,
                                        .cancel = &cancel,
                                        .allocator = &allocator };
    return ern_synth(out_file, &options, error);
}

static ernie_status export_model(unsigned n_threads, ernie_error *error)
{
    const ern_export_options options = { .type = "q8_0",
                                         .n_threads = n_threads,
                                         .cancel = &cancel,
                                         .allocator = &allocator };
    return ern_export(model_file, out_file, &options, error);
}

typedef struct maker {
    const char *name;
    ernie_status (*run)(unsigned n_threads, ernie_error *error);
    const file_bytes *wanted;
    unsigned n_threads;
    long step; /* every how many-th system call is troubled: moments are read row by row */
} maker;

static const maker makers[] = {
    { "convert", convert, &converted, 1, 1 },
    { "convert, three threads", convert, &converted, 3, 1 },
    { "synth", synthesize, &synthesized, 2, 1 },
    { "GGUF", import, &imported, 1, 1 },
    { "export", export_model, &exported, 2, 1 },
    { "statistics", convert_coded, &coded, 1, 11 },
    { "statistics, three threads", convert_coded, &coded, 3, 17 },
    { "convert, quantized", convert_paddle, &unquantized, 2, 1 },
};

static void begin_trial(void)
{
    checkpoint_clear(out_dir);
    checkpoint_put_text(out_dir, "x.ernie", older);
    test_allocator_begin(&counter, &allocator);
    ernie_cancel_clear(&cancel);
}

/* One file, the older one or the finished one. */
static void end_trial(const maker *m, ernie_status status)
{
    assert_int_equal(atomic_load(&counter.live), 0);
    assert_int_equal(atomic_load(&counter.n_wrong_sizes), 0);
    assert_int_equal(count_files(out_dir), 1);
    const file_bytes bytes = read_file(out_file);
    if (status == ERNIE_OK) {
        assert_int_equal(bytes.n, m->wanted->n);
        assert_memory_equal(bytes.data, m->wanted->data, bytes.n);
    } else {
        assert_int_equal(bytes.n, strlen(older));
        assert_memory_equal(bytes.data, older, bytes.n);
    }
    free(bytes.data);
}

/* ---- Our allocations ----------------------------------------------------------------------- */

static bool request_fails_at(const maker *m, long k, bool sticky)
{
    ernie_error error = { ERNIE_OK, "" };
    begin_trial();
    test_allocator_fail_at(&counter, k, sticky);
    calls_begin(CALLS_COUNT, 0, false);
    const ernie_status status = m->run(m->n_threads, &error);
    calls_end();
    assert_int_equal(atomic_load(&calls.n_held), 0);
    const bool failed = atomic_load(&counter.n_failed) > 0;
    if (status != (failed ? ERNIE_NO_MEMORY : ERNIE_OK))
        fail_msg("%s, request %ld: status %d, \"%s\"", m->name, k, (int)status, error.message);
    if (failed) assert_non_null(strstr(error.message, "memory"));
    assert_int_equal(error.code, status);
    end_trial(m, status);
    return failed;
}

static void every_request_fails(void **state)
{
    (void)state;
    for (size_t i = 0; i < ERN_COUNT(makers); i++)
        for (int sticky = 0; sticky < 2; sticky++) {
            long n = 0;
            while (request_fails_at(&makers[i], n, sticky != 0)) assert_true(++n < 2000);
            if (sticky) printf("%s: %ld requests\n", makers[i].name, n);
            assert_true(n > 0);
        }
}

/* ---- Jansson's allocations ----------------------------------------------------------------- */

/* One that fails must not pass for bad JSON, nor cost a character of a string unseen. */

static struct {
    long budget; /* that still succeed; negative: all */
    bool sticky;
    long n_failed, n_live;
} json_heap;

static void *json_take(size_t size)
{
    if (json_heap.budget == 0) {
        json_heap.n_failed++;
        if (!json_heap.sticky) json_heap.budget = -1;
        return NULL;
    }
    if (json_heap.budget > 0) json_heap.budget--;
    void *block = malloc(size);
    if (block) json_heap.n_live++;
    return block;
}

static void json_give(void *block)
{
    if (block) json_heap.n_live--;
    free(block);
}

static bool json_fails_at(const maker *m, long k, bool sticky)
{
    ernie_error error = { ERNIE_OK, "" };
    begin_trial();
    memset(&json_heap, 0, sizeof json_heap);
    json_heap.budget = k;
    json_heap.sticky = sticky;
    json_set_alloc_funcs(json_take, json_give);
    const ernie_status status = m->run(m->n_threads, &error);
    json_set_alloc_funcs(malloc, free);
    const bool failed = json_heap.n_failed > 0;
    if (status != (failed ? ERNIE_NO_MEMORY : ERNIE_OK))
        fail_msg("%s, jansson's request %ld: status %d, \"%s\"", m->name, k, (int)status,
                 error.message);
    assert_int_equal(json_heap.n_live, 0);
    end_trial(m, status);
    return failed;
}

static void every_json_request_fails(void **state)
{
    (void)state;
    long n = 0;
    while (json_fails_at(&makers[0], n, false)) assert_true(++n < 20000);
    printf("jansson in convert: %ld requests\n", n);
    assert_true(n > 0);
    for (long k = 0; k < n; k += 7) assert_true(json_fails_at(&makers[0], k, true));
}

/* ---- System calls -------------------------------------------------------------------------- */

static bool call_fails_at(const maker *m, long k, calls_mode mode, bool sticky)
{
    ernie_error error = { ERNIE_OK, "" };
    begin_trial();
    calls_begin(mode, k, sticky);
    const ernie_status status = m->run(m->n_threads, &error);
    const calls_kind *hit = calls_end();
    const bool over = atomic_load(&calls.n) <= k;
    assert_int_equal(atomic_load(&calls.n_held), 0);
    if (!calls_explain(hit, mode, sticky, status))
        fail_msg("%s, call %ld, mode %d (%s): status %d, \"%s\"", m->name, k, (int)mode,
                 hit ? hit->name : "none", (int)status, error.message);
    assert_int_equal(error.code, status);
    if (status != ERNIE_OK) assert_true(strlen(error.message) > 10);
    end_trial(m, status);
    return !over;
}

/* Every call, or every `step`-th one. */
static void fail_calls(const maker *m, calls_mode mode, bool sticky, long step)
{
    long n = 0;
    for (; call_fails_at(m, n, mode, sticky); n += step) assert_true(n < 5000);
    if (step == 1) printf("%s, mode %d: %ld calls\n", m->name, (int)mode, n);
}

static void every_system_call_fails(void **state)
{
    (void)state;
    for (size_t i = 0; i < ERN_COUNT(makers); i++) {
        fail_calls(&makers[i], CALLS_FAIL, false, i == 0 ? 1 : 3 * makers[i].step);
        call_fails_at(&makers[i], 0, CALLS_SHORT, true); /* every read and write */
    }
    fail_calls(&makers[0], CALLS_FAIL, true, 1);
    fail_calls(&makers[0], CALLS_EMPTY, false, 1);
    fail_calls(&makers[0], CALLS_SIGNAL, false, 3);
}

/* ---- Cancellation -------------------------------------------------------------------------- */

static void raise_flag(void *user)
{
    ernie_cancel_request(user);
}

/* The flag goes up during call k. After the last weight is written there is nothing to stop. */
static bool cancelled_at(const maker *m, long k, ernie_status *status)
{
    ernie_error error = { ERNIE_OK, "" };
    begin_trial();
    calls.hook = raise_flag;
    calls.user = &cancel;
    calls_begin(CALLS_HOOK, k, false);
    *status = m->run(m->n_threads, &error);
    const bool hit = calls_end() != NULL;
    assert_int_equal(atomic_load(&calls.n_held), 0);
    assert_true(*status == ERNIE_OK || (hit && *status == ERNIE_CANCELLED));
    assert_int_equal(error.code, *status);
    if (*status != ERNIE_OK) assert_non_null(strstr(error.message, "cancelled"));
    end_trial(m, *status);
    return hit;
}

static void flag_goes_up_at_every_call(void **state)
{
    (void)state;
    for (size_t i = 0; i < ERN_COUNT(makers); i++) {
        long n = 0, n_finished = 0;
        ernie_status status = ERNIE_OK;
        for (; cancelled_at(&makers[i], n, &status); n += makers[i].step)
            n_finished += status == ERNIE_OK;
        /* The header, fsync, rename, and closing what was open. */
        printf("%s: finished at %ld of %ld calls\n", makers[i].name, n_finished, n);
        assert_true(n > 10 && n_finished <= 8);
    }
}

/* A callback that says stop, the k-th time it is asked. */
typedef struct patience {
    long left, n_calls;
} patience;

static int lose_patience(const char *what, uint64_t done, uint64_t total, void *user)
{
    patience *p = user;
    assert_non_null(what);
    assert_true(done <= total);
    p->n_calls++;
    return p->left-- == 0;
}

static ernie_status convert_patiently(patience *p, ernie_error *error)
{
    const ern_convert_options options = { .type = "w4",
                                          .chat = "plain",
                                          .progress = lose_patience,
                                          .progress_user = p,
                                          .allocator = &allocator };
    return ern_convert(in_dir, out_file, &options, error);
}

static ernie_status export_patiently(patience *p, ernie_error *error)
{
    const ern_export_options options = { .type = "q8_0",
                                         .progress = lose_patience,
                                         .progress_user = p,
                                         .allocator = &allocator };
    return ern_export(model_file, out_file, &options, error);
}

static void stop_at_every_report(const maker *m, ernie_status (*run)(patience *, ernie_error *))
{
    for (long k = 0;; k++) {
        patience p = { k, 0 };
        ernie_error error = { ERNIE_OK, "" };
        begin_trial();
        const ernie_status status = run(&p, &error);
        assert_int_equal(status, p.n_calls > k ? ERNIE_CANCELLED : ERNIE_OK);
        end_trial(m, status);
        if (status == ERNIE_OK) break;
        assert_int_equal(p.n_calls, k + 1);
    }
}

static void progress_says_stop(void **state)
{
    (void)state;
    stop_at_every_report(&makers[0], convert_patiently);
    stop_at_every_report(&makers[4], export_patiently);
}

static void flag_goes_up_at_any_moment(void **state)
{
    (void)state;
    uint64_t seed = 3;
    unsigned n_cancelled = 0;
    double worst = 0.0;
    for (unsigned i = 0; i < 60; i++) {
        const maker *m = &makers[i % ERN_COUNT(makers)];
        ernie_error error = { ERNIE_OK, "" };
        raiser r = { .delay = raiser_random_delay(&seed, 6e-3), .flag = &cancel };
        begin_trial();
        raiser_start(&r);
        const ernie_status status = m->run(m->n_threads, &error);
        const double end = ern_seconds();
        raiser_join(&r);
        assert_true(status == ERNIE_OK || status == ERNIE_CANCELLED);
        if (status == ERNIE_CANCELLED && end - r.raised_at > worst) worst = end - r.raised_at;
        n_cancelled += status == ERNIE_CANCELLED;
        end_trial(m, status);
    }
    printf("%u of 60 were stopped under way, within %.1f ms\n", n_cancelled, 1e3 * worst);
}

/* ---- Setup --------------------------------------------------------------------------------- */

static file_bytes make_untroubled(const maker *m)
{
    ernie_error error = { ERNIE_OK, "" };
    begin_trial();
    if (m->run(m->n_threads, &error) != ERNIE_OK) fail_msg("%s", error.message);
    return read_file(out_file);
}

/* Of `model`, its fields set: embedding and layers apart, a type of blocks in them. */
static void write_gguf(void)
{
    gguf_file g;
    gguf_begin(&g);
    gguf_metadata(&g, &model);
    gguf_vocabulary(&g, &model);
    gguf_u32(&g, "split.no", 0);
    gguf_u32(&g, "split.count", 2);
    gguf_u32(&g, "split.tensors.count", 2 + 9 + 14);
    gguf_matrix(&g, &model, "token_embd.weight", model.vocab, model.hidden, false, "embed", 0, 0);
    gguf_vector(&g, "output_norm.weight", model.hidden, "norm", 0);
    gguf_write(&g, gguf_path(0));
    gguf_free(&g);
    gguf_begin(&g);
    g.type = CONV_GGML_Q5_1;
    gguf_u32(&g, "split.no", 1);
    gguf_u32(&g, "split.count", 2);
    for (unsigned layer = 0; layer < model.n_layers; layer++) gguf_layer(&g, &model, layer);
    gguf_write(&g, gguf_path(1));
    gguf_free(&g);
}

/* A calibration file for the model that was converted first. */
static void write_statistics(void)
{
    ernie_error error = { ERNIE_OK, "" };
    const ern_format format = read_format(&converted);
    snprintf(statistics, sizeof statistics, "%s/x.imatrix", top);
    if (imatrix_write(statistics, &format.header->hparams, true, ern_allocator_default(), &error)
        != ERNIE_OK)
        fail_msg("%s", error.message);
}

/* Codes and scales in columns, and scales that are looked at before. */
static void write_paddle(void)
{
    const paddle_forms forms = {
        .dense = FORM_WINT8, .experts = { FORM_W4A8 }, .split = 100, .hadamard = 128
    };
    paddle_begin(&model);
    model.hidden = model.width = 64;
    model.n_heads = model.n_layers = model.n_experts = 2;
    model.expert_width = 128;
    model.n_shared = model.n_mtp = 0;
    model.config_extra = "\"quantization_config\": {\"dense_quant_type\": \"wint8\", "
                         "\"moe_quant_type\": \"w4a8\"}, ";
    checkpoint_build(&model);
    paddle_quantize(&model, &forms, true);
    snprintf(paddle_dir, sizeof paddle_dir, "%s/paddle", top);
    checkpoint_write(&model, paddle_dir);
    checkpoint_free(&model);
}

/* Every kind of file that a checkpoint can have, GGUF in two parts and a quantized -Paddle one. */
static int setup(void **state)
{
    checkpoint_bytes pieces;
    if (run_setup(state) != 0) return -1;
    checkpoint_begin(&model, true);
    model.n_shards = 3;
    model.n_layers = 2;
    model.n_experts = 3;
    checkpoint_build(&model);
    write_model();
    checkpoint_tokenizer(&pieces, 2);
    checkpoint_put(in_dir, "tokenizer.model", pieces.data, pieces.n);
    checkpoint_put_text(in_dir, "added_tokens.json",
                        "{\"<|begin_of_sentence|>\": 290, \"<|end_of_sentence|>\": 291}");
    checkpoint_put_text(in_dir, "tokenizer_config.json",
                        "{\"add_bos_token\": false, \"chat_template\": \"{{ messages }}\"}");
    checkpoint_put_text(in_dir, "generation_config.json",
                        "{\"do_sample\": true, \"temperature\": 0.8, \"top_p\": 0.7}");
    checkpoint_begin(&model, true);
    model.hidden = model.width = model.expert_width = 64;
    model.n_heads = 4;
    model.head_dim = 16;
    model.n_layers = 2;
    write_gguf();
    converted = make_untroubled(&makers[0]);
    synthesized = make_untroubled(&makers[2]);
    imported = make_untroubled(&makers[3]);
    snprintf(model_file, sizeof model_file, "%s/m.ernie", top);
    checkpoint_put(top, "m.ernie", converted.data, converted.n);
    exported = make_untroubled(&makers[4]);
    write_statistics();
    coded = make_untroubled(&makers[5]);
    write_paddle();
    unquantized = make_untroubled(&makers[7]);
    return 0;
}

static int teardown(void **state)
{
    free(converted.data);
    free(imported.data);
    free(synthesized.data);
    free(exported.data);
    free(coded.data);
    free(unquantized.data);
    return run_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_request_fails),     cmocka_unit_test(every_json_request_fails),
        cmocka_unit_test(every_system_call_fails), cmocka_unit_test(flag_goes_up_at_every_call),
        cmocka_unit_test(progress_says_stop),      cmocka_unit_test(flag_goes_up_at_any_moment),
    };
    return cmocka_run_group_tests_name("convert_faults", tests, setup, teardown);
}
