/* Tuning: norms that were spoiled are found again, what is no norm stays, a model of few bits comes
 * nearer to its base, and failures leave nothing behind. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "../../tools/convert/tune.h"
#include "test_session.h"

enum { N_DOCUMENTS = 5, N_IDS = 400, HIDDEN = 72, N_LAYERS = 3 };

/* One token, none at all. */
static const uint32_t lengths[N_DOCUMENTS] = { 250, 1, 0, 99, 50 };
static int32_t ids[N_IDS];
static const ern_documents documents = { ids, lengths, N_DOCUMENTS };

/* Odd widths, two mixture layers behind a dense one, an MTP block. */
static const ern_hparams odd_moe = { .n_layers = N_LAYERS,
                                     .hidden_size = HIDDEN,
                                     .n_heads = 3,
                                     .n_kv_heads = 1,
                                     .head_dim = 22,
                                     .intermediate_size = 150,
                                     .vocab_size = 320,
                                     .context_max = 300,
                                     .n_experts = 4,
                                     .moe_k = 2,
                                     .moe_intermediate_size = 40,
                                     .n_shared_experts = 1,
                                     .shared_intermediate_size = 40,
                                     .moe_layer_start = 1,
                                     .moe_layer_end = 2,
                                     .moe_layer_interval = 1,
                                     .n_mtp_layers = 1,
                                     .tied = 0,
                                     .bos_id = 1,
                                     .eos_id = 2,
                                     .pad_id = 0,
                                     .rms_norm_eps = 1e-5f,
                                     .moe_norm_min = 1e-12f,
                                     .rope_theta = 10000.0 };
static const test_model_spec base_spec = {
    .moe = true, .untied = true, .n_mtp = 1, .hparams = &odd_moe
};

/* ---- Models ---------------------------------------------------------------------------------- */

static bool is_tuned(const ern_record *r)
{
    return r->kind == ERN_FINAL_NORM
           || ((r->kind == ERN_ATTN_NORM || r->kind == ERN_FFN_NORM) && r->layer < N_LAYERS);
}

/* The base with every norm that can be tuned spoiled: weight times 0.75 .. 1.25. */
static unsigned char *spoiled_image(size_t *n)
{
    uint64_t seed = 5;
    ern_format format;
    unsigned char *image = test_model_build(&base_spec, n);
    OK(ern_format_read(&format, image, *n, &error));
    for (uint32_t i = 0; i < format.header->n_records; i++) {
        if (!is_tuned(&format.records[i])) continue;
        float *norm = (float *)(void *)(image + format.records[i].offset);
        for (uint32_t j = 0; j < HIDDEN; j++) norm[j] *= 1 + 0.25f * test_random_float(&seed);
    }
    test_model_seal(image, *n, true);
    return image;
}

static float *final_norm(unsigned char *image, size_t n)
{
    ern_format format;
    OK(ern_format_read(&format, image, n, &error));
    for (uint32_t i = 0; i < format.header->n_records; i++)
        if (format.records[i].kind == ERN_FINAL_NORM)
            return (float *)(void *)(image + format.records[i].offset);
    fail();
    return NULL;
}

static void tune_to(const test_world *model, const test_world *base, const char *path,
                    unsigned n_threads, ern_tune_report *report)
{
    const ern_tune_options options = { .n_threads = n_threads, .allocator = &model->allocator };
    OK(ern_tune(model->model, base->model, &documents, path, &options, report, &error));
}

/* The written file as a model of its own; the file is gone. */
static void open_tuned(test_world *w, const char *path)
{
    size_t n;
    unsigned char *data = test_read_file(path, &n);
    unsigned char *image = aligned_alloc(64, ern_round_up(n, 64));
    assert_non_null(image);
    memcpy(image, data, n);
    free(data);
    unlink(path);
    test_world_open_image(w, image, n);
    OK(ernie_model_verify(w->model, NULL, NULL, NULL, &error));
}

/* ---- What is found --------------------------------------------------------------------------- */

static void spoiled_norms_are_found_again(void **state)
{
    (void)state;
    test_world model, base, tuned;
    size_t n;
    ern_tune_report report;
    unsigned char *image = spoiled_image(&n);
    test_world_open_image(&model, image, n);
    test_world_open(&base, &base_spec);
    tune_to(&model, &base, test_path("a.ernie"), 2, &report);
    assert_int_equal(report.n_tokens, N_IDS);
    assert_int_equal(report.n_norms, 2 * N_LAYERS + 1);
    assert_int_equal(report.n_factors, (2 * N_LAYERS + 1) * HIDDEN);
    assert_int_equal(report.n_clamped, 0);
    assert_int_equal(report.file_bytes, n);
    assert_true(fabs(report.scale - 1) < 1e-3);
    assert_true(report.kl_norms < 1e-6);
    open_tuned(&tuned, test_path("a.ernie"));

    const ern_format *a = &tuned.model->format, *b = &base.model->format;
    assert_int_equal(a->n_bytes, b->n_bytes);
    for (uint32_t i = 0; i < b->header->n_records; i++) {
        const ern_record *r = &b->records[i];
        if (!is_tuned(r)) {
            assert_memory_equal(&a->records[i], r, sizeof *r);
            assert_memory_equal(a->data + r->offset, b->data + r->offset, r->n_bytes);
            continue;
        }
        const float *x = (const float *)(const void *)(a->data + r->offset);
        const float *y = (const float *)(const void *)(b->data + r->offset);
        for (uint32_t j = 0; j < HIDDEN; j++)
            if (!(fabsf(x[j] - y[j]) <= 2e-3f * fabsf(y[j])))
                fail_msg("kind %u, layer %u, channel %u: %g, not %g", (unsigned)r->kind,
                         (unsigned)r->layer, j, (double)x[j], (double)y[j]);
    }
    for (unsigned i = ERN_SECTION_TOKENIZER; i < ERN_N_SECTIONS; i++)
        assert_memory_equal(&a->header->section[i], &b->header->section[i], sizeof(ern_section));
    test_world_close(&tuned);
    test_world_close(&model);
    test_world_close(&base);
}

static void factors_have_limits_and_zeros_stay(void **state)
{
    (void)state;
    test_world model, base, tuned;
    size_t n;
    ern_tune_report report;
    unsigned char *image = test_model_build(&base_spec, &n);
    float *norm = final_norm(image, n);
    const float weight = norm[3];
    norm[3] *= 4;
    norm[5] = 0;
    test_model_seal(image, n, true);
    test_world_open_image(&model, image, n);
    test_world_open(&base, &base_spec);
    tune_to(&model, &base, test_path("a.ernie"), 1, &report);
    assert_int_equal(report.n_clamped, 1);
    assert_true(report.factor_min == 0.5);
    open_tuned(&tuned, test_path("a.ernie"));
    norm = final_norm(tuned.image, n);
    assert_true(fabs((double)norm[3] - 2 * (double)weight * report.scale)
                < 1e-5 * fabs((double)weight));
    assert_true(norm[5] == 0);
    test_world_close(&tuned);
    test_world_close(&model);
    test_world_close(&base);
}

/* ---- What it is for -------------------------------------------------------------------------- */

/* Mean divergence of the model from the base on all tokens of the documents. */
static double divergence(const test_world *model, const test_world *base)
{
    const size_t vocab = model->vocab;
    double total = 0;
    size_t first = 0;
    for (size_t i = 0; i < N_DOCUMENTS; first += lengths[i++]) {
        const size_t n = lengths[i];
        if (n == 0) continue;
        float *logits[2];
        for (unsigned k = 0; k < 2; k++) {
            const test_world *w = k ? base : model;
            ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
            options.n_ctx = 300;
            options.n_threads = 1;
            options.kv_type = ERNIE_KV_F32;
            ernie_session *session = test_session_with(w->model, &options);
            logits[k] = malloc(n * vocab * sizeof **logits);
            OK(ernie_session_feed_logits(session, ids + first, n, logits[k], &error));
            ernie_session_free(session);
        }
        for (size_t t = 0; t < n; t++) {
            const float *z = logits[0] + t * vocab, *y = logits[1] + t * vocab;
            double sum_z = 0, sum_y = 0, kl = 0;
            for (size_t j = 0; j < vocab; j++) sum_z += exp((double)z[j]);
            for (size_t j = 0; j < vocab; j++) sum_y += exp((double)y[j]);
            for (size_t j = 0; j < vocab; j++) {
                const double p = exp((double)y[j]) / sum_y;
                if (p > 0) kl += p * ((double)y[j] - (double)z[j] + log(sum_z / sum_y));
            }
            total += kl;
        }
        free(logits[0]);
        free(logits[1]);
    }
    return total / N_IDS;
}

static void few_bits_come_nearer_to_their_base(void **state)
{
    (void)state;
    test_world model, base, tuned;
    ern_tune_report report;
    test_model_spec spec = base_spec;
    size_t n;
    spec.type_attention = spec.type_ffn = ERN_W8;
    spec.type_expert = spec.type_expert_down = ERN_C2;
    unsigned char *image = test_model_build(&spec, &n);
    float *norm = final_norm(image, n);
    for (uint32_t j = 0; j < HIDDEN; j++) norm[j] *= 1.2f;
    test_model_seal(image, n, true);
    test_world_open_image(&model, image, n);
    test_world_open(&base, &base_spec);
    const double before = divergence(&model, &base);
    tune_to(&model, &base, test_path("a.ernie"), 2, &report);
    open_tuned(&tuned, test_path("a.ernie"));
    const double after = divergence(&tuned, &base);
    if (!(after < before)) fail_msg("%g is not below %g", after, before);
    if (!(fabs(after - report.kl_expected) < 0.01 * after))
        fail_msg("%g, not %g as reported", after, report.kl_expected);
    assert_true(report.kl_expected <= report.kl_norms);
    test_world_close(&tuned);
    test_world_close(&model);
    test_world_close(&base);
}

static void a_model_is_its_own_base(void **state)
{
    (void)state;
    test_world model, tuned;
    ern_tune_report report;
    test_world_open(&model, &base_spec);
    tune_to(&model, &model, test_path("a.ernie"), 1, &report);
    assert_true(fabs(report.scale - 1) < 1e-4);
    assert_true(fabs(report.factor_min - 1) < 1e-9 && fabs(report.factor_max - 1) < 1e-9);
    open_tuned(&tuned, test_path("a.ernie"));
    test_world_close(&tuned);
    test_world_close(&model);
}

static void the_file_is_the_same_for_any_team(void **state)
{
    (void)state;
    test_world model, base;
    size_t n, n_first = 0;
    unsigned char *image = spoiled_image(&n), *first = NULL;
    test_world_open_image(&model, image, n);
    test_world_open(&base, &base_spec);
    for (unsigned n_threads = 1; n_threads <= 3; n_threads++) {
        tune_to(&model, &base, test_path("a.ernie"), n_threads, NULL);
        unsigned char *data = test_read_file(test_path("a.ernie"), &n);
        unlink(test_path("a.ernie"));
        if (first) {
            assert_int_equal(n, n_first);
            assert_memory_equal(data, first, n);
            free(data);
        } else {
            first = data;
            n_first = n;
        }
    }
    free(first);
    test_world_close(&model);
    test_world_close(&base);
}

/* ---- Failures -------------------------------------------------------------------------------- */

static void what_does_not_match_is_named(void **state)
{
    (void)state;
    test_world model, other, dense;
    ern_hparams hparams = odd_moe;
    test_model_spec spec = base_spec;
    const char *path = test_path("a.ernie");
    hparams.moe_intermediate_size = 48;
    spec.hparams = &hparams;
    test_world_open(&model, &base_spec);
    test_world_open(&other, &spec);
    test_world_open(&dense, &test_dense_spec);
    FAILS(ERNIE_INVALID, ern_tune(model.model, other.model, &documents, path, NULL, NULL, &error),
          "moe_intermediate_size is 40, and in the base 48");
    FAILS(ERNIE_INVALID, ern_tune(model.model, dense.model, &documents, path, NULL, NULL, &error),
          "architecture ernie4_5_moe, and in the base ernie4_5");
    test_world_close(&other);
    hparams = odd_moe;
    hparams.context_max = 120; /* the base's counts, too */
    test_world_open(&other, &spec);
    FAILS(ERNIE_INVALID, ern_tune(model.model, other.model, &documents, path, NULL, NULL, &error),
          "document 0 has 250 tokens, the models' context 120");
    const uint32_t none[] = { 0, 0 }, one[] = { 3, 2 };
    const int32_t wrong[] = { 1, 2, 3, 4, 320 };
    FAILS(ERNIE_INVALID,
          ern_tune(model.model, model.model, &(ern_documents){ ids, none, 2 }, path, NULL, NULL,
                   &error),
          "no tokens");
    FAILS(ERNIE_INVALID,
          ern_tune(model.model, model.model, &(ern_documents){ wrong, one, 2 }, path, NULL, NULL,
                   &error),
          "document 1: token 1 has id 320");
    FAILS(ERNIE_IO,
          ern_tune(model.model, model.model, &documents, test_folder,
                   &(ern_tune_options){ .n_threads = 1 }, NULL, &error),
          "is a directory");
    test_world_close(&model);
    test_world_close(&other);
    test_world_close(&dense);
}

static void numbers_that_are_none_are_named(void **state)
{
    (void)state;
    test_world model, base;
    size_t n;
    ern_format format;
    unsigned char *image = test_model_build(&base_spec, &n);
    OK(ern_format_read(&format, image, n, &error));
    for (uint32_t i = 0; i < format.header->n_records; i++)
        if (format.records[i].kind == ERN_FFN_NORM && format.records[i].layer == 1)
            ((float *)(void *)(image + format.records[i].offset))[5] = NAN;
    test_model_seal(image, n, true);
    test_world_open_image(&model, image, n);
    test_world_open(&base, &base_spec);
    const ern_tune_options options = { .n_threads = 1, .allocator = &model.allocator };
    FAILS(
        ERNIE_FORMAT,
        ern_tune(model.model, base.model, &documents, test_path("a.ernie"), &options, NULL, &error),
        "layers.1.ffn_norm: channel 5 is no finite number");
    assert_int_equal(access(test_path("a.ernie.part"), F_OK), -1);
    test_world_close(&model);
    test_world_close(&base);
}

typedef struct stopper {
    uint64_t at, n_calls;
} stopper;

static int stop_at(const char *what, uint64_t done, uint64_t total, void *user)
{
    stopper *s = user;
    assert_true(strcmp(what, "tuning") == 0 || strcmp(what, "writing") == 0);
    assert_true(done <= total);
    return ++s->n_calls == s->at;
}

static void a_stop_leaves_nothing(void **state)
{
    (void)state;
    test_world w;
    atomic_int stop;
    atomic_init(&stop, 1);
    test_world_open(&w, &base_spec);
    ern_tune_options options = { .n_threads = 2, .allocator = &w.allocator, .stop = &stop };
    FAILS(ERNIE_CANCELLED,
          ern_tune(w.model, w.model, &documents, test_path("a.ernie"), &options, NULL, &error),
          "cancelled");
    options.stop = NULL;
    for (uint64_t at = 1;; at++) {
        stopper s = { .at = at };
        ernie_error error;
        options.progress = stop_at;
        options.progress_user = &s;
        const ernie_status status =
            ern_tune(w.model, w.model, &documents, test_path("a.ernie"), &options, NULL, &error);
        if (status == ERNIE_OK) {
            assert_int_equal(s.n_calls + 1, at);
            break;
        }
        assert_int_equal(status, ERNIE_CANCELLED);
        assert_int_equal(access(test_path("a.ernie"), F_OK), -1);
        assert_int_equal(access(test_path("a.ernie.part"), F_OK), -1);
    }
    unlink(test_path("a.ernie"));
    test_world_close(&w);
}

static void failing_memory_leaves_nothing(void **state)
{
    (void)state;
    test_world w;
    test_allocator counter;
    ernie_allocator allocator;
    const ern_documents short_one = { ids, (const uint32_t[]){ 7 }, 1 };
    test_world_open(&w, &base_spec);
    test_allocator_begin(&counter, &allocator);
    const ern_tune_options options = { .n_threads = 2, .allocator = &allocator };
    for (int sticky = 0; sticky < 2; sticky++)
        for (long n = 0;; n++) {
            ernie_error error;
            test_allocator_fail_at(&counter, n, sticky);
            const ernie_status status = ern_tune(w.model, w.model, &short_one, test_path("a.ernie"),
                                                 &options, NULL, &error);
            assert_int_equal(atomic_load(&counter.live), 0);
            assert_int_equal(access(test_path("a.ernie.part"), F_OK), -1);
            if (status == ERNIE_OK) {
                assert_true(n > 10);
                unlink(test_path("a.ernie"));
                break;
            }
            assert_int_equal(status, ERNIE_NO_MEMORY);
            assert_int_equal(access(test_path("a.ernie"), F_OK), -1);
        }
    assert_int_equal(atomic_load(&counter.n_wrong_sizes), 0);
    test_world_close(&w);
}

static int begin(void **state)
{
    test_ids(ids, N_IDS, 11, 300);
    return test_folder_begin(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spoiled_norms_are_found_again),
        cmocka_unit_test(factors_have_limits_and_zeros_stay),
        cmocka_unit_test(few_bits_come_nearer_to_their_base),
        cmocka_unit_test(a_model_is_its_own_base),
        cmocka_unit_test(the_file_is_the_same_for_any_team),
        cmocka_unit_test(what_does_not_match_is_named),
        cmocka_unit_test(numbers_that_are_none_are_named),
        cmocka_unit_test(a_stop_leaves_nothing),
        cmocka_unit_test(failing_memory_leaves_nothing),
        cmocka_unit_test(test_folder_is_empty),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
