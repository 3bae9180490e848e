/* Calibration: what is collected is what a straightforward computation finds, experts that are
 * seldom chosen lean on their layer, and looking changes nothing. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../backends/cpu/cpu.h"
#include "../../tools/convert/calibrate.h"
#include "../../tools/convert/imatrix_file.h"
#include "slow_model.h"
#include "test_session.h"

enum { N_DOCUMENTS = 5, N_IDS = 320 };

/* More rows than are multiplied at once, one token, none at all; 320 tokens. */
static const uint32_t lengths[N_DOCUMENTS] = { 290, 1, 0, 7, 22 };
static int32_t ids[N_IDS];
static const ern_documents documents = { ids, lengths, N_DOCUMENTS };

/* Odd widths, more than one tile of 128 columns, two mixture layers behind a dense one. */
static const ern_hparams odd_moe = { .n_layers = 3,
                                     .hidden_size = 136,
                                     .n_heads = 3,
                                     .n_kv_heads = 1,
                                     .head_dim = 46,
                                     .intermediate_size = 150,
                                     .vocab_size = 320,
                                     .context_max = 300,
                                     .n_experts = 4,
                                     .moe_k = 2,
                                     .moe_intermediate_size = 131,
                                     .n_shared_experts = 1,
                                     .shared_intermediate_size = 40,
                                     .moe_layer_start = 1,
                                     .moe_layer_end = 2,
                                     .moe_layer_interval = 1,
                                     .tied = 0,
                                     .bos_id = 1,
                                     .eos_id = 2,
                                     .pad_id = 0,
                                     .rms_norm_eps = 1e-5f,
                                     .moe_norm_min = 1e-12f,
                                     .rope_theta = 10000.0 };
static const test_model_spec moe_spec = { .moe = true, .untied = true, .hparams = &odd_moe };
static const ern_hparams odd_dense = { .n_layers = 1,
                                       .hidden_size = 40,
                                       .n_heads = 2,
                                       .n_kv_heads = 1,
                                       .head_dim = 34,
                                       .intermediate_size = 257,
                                       .vocab_size = 320,
                                       .context_max = 300,
                                       .tied = 1,
                                       .bos_id = 1,
                                       .eos_id = 2,
                                       .pad_id = 0,
                                       .rms_norm_eps = 1e-5f,
                                       .moe_norm_min = 1e-12f,
                                       .rope_theta = 10000.0 };
static const test_model_spec dense_spec = { .seed = 4, .hparams = &odd_dense };

/* ---- The straightforward computation --------------------------------------------------------- */

typedef struct reference {
    conv_imatrix_entry entry;
    uint64_t n_rows;
    double weight;
    double *sum; /* [n_cols][n_cols] */
} reference;

typedef struct references {
    reference *items;
    size_t n;
} references;

static reference *reference_find(const references *all, unsigned kind, unsigned layer,
                                 unsigned expert, bool second)
{
    for (size_t i = 0; i < all->n; i++) {
        const conv_imatrix_entry *e = &all->items[i].entry;
        if (e->kind == kind && e->layer == layer && e->expert == expert && e->second == second)
            return &all->items[i];
    }
    return NULL;
}

static void reference_add(void *user, unsigned kind, unsigned layer, unsigned expert, bool second,
                          const double *x, uint32_t n, double scale)
{
    reference *r = reference_find(user, kind, layer, expert, second);
    assert_non_null(r);
    assert_int_equal(r->entry.n_cols, n);
    r->n_rows++;
    r->weight += scale * scale;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < n; j++) r->sum[i * n + j] += scale * scale * x[i] * x[j];
}

static references reference_make(const test_world *w)
{
    const ern_hparams *hp = &w->model->format.header->hparams;
    references all = { .n = (size_t)conv_entries_count(hp) };
    all.items = calloc(all.n, sizeof *all.items);
    assert_non_null(all.items);
    conv_entries at;
    conv_entries_begin(&at, hp);
    for (size_t i = 0; i < all.n; i++) {
        assert_true(conv_entries_next(&at, &all.items[i].entry));
        const size_t n = all.items[i].entry.n_cols;
        all.items[i].sum = slow_alloc(n * n);
    }
    const slow_model model = { &w->model->weights, reference_add, &all };
    size_t first = 0;
    for (size_t i = 0; i < N_DOCUMENTS; first += lengths[i++])
        slow_run(&model, ids + first, lengths[i]);
    return all;
}

static void reference_free(references *all)
{
    for (size_t i = 0; i < all->n; i++) free(all->items[i].sum);
    free(all->items);
}

/* Mean of the diagonal of a sum over weight. */
static double reference_level(const double *sum, double weight, uint32_t n)
{
    double level = 0;
    for (uint32_t i = 0; i < n; i++) level += sum[i * n + i];
    return weight > 0 ? level / weight / n : 0;
}

/* (n S + prior c I) / (n + prior) in place of the sum. */
static void reference_shrink(double *sum, double weight, double n, double prior, double level,
                             uint32_t n_cols)
{
    for (uint32_t i = 0; i < n_cols; i++)
        for (uint32_t j = 0; j < n_cols; j++) {
            double *m = &sum[i * n_cols + j];
            *m = ((weight > 0 ? n * *m / weight : 0) + (i == j ? prior * level : 0)) / (n + prior);
        }
}

/* Everything that was added up becomes what the file should say, by the letter of docs/IMATRIX.md.
 * Returns samples in *n. */
static void reference_blend(const references *all, reference *r, double *pool, double *samples)
{
    const uint32_t n_cols = r->entry.n_cols;
    *samples = (double)r->n_rows;
    if (r->entry.kind != ERN_EXPERT) {
        const double level = reference_level(r->sum, r->weight, n_cols);
        reference_shrink(r->sum, r->weight, *samples, 1, level, n_cols);
        return;
    }
    double weight = 0, n_rows = 0;
    memset(pool, 0, (size_t)n_cols * n_cols * sizeof *pool);
    for (size_t i = 0; i < all->n; i++) {
        const reference *other = &all->items[i];
        if (other->entry.kind != ERN_EXPERT || other->entry.layer != r->entry.layer
            || other->entry.second != r->entry.second)
            continue;
        weight += other->weight;
        n_rows += (double)other->n_rows;
        for (size_t j = 0; j < (size_t)n_cols * n_cols; j++) pool[j] += other->sum[j];
    }
    *samples = r->weight / (weight / n_rows);
    const double level = reference_level(pool, weight, n_cols);
    if (r->entry.second) {
        const double own = reference_level(r->sum, r->weight, n_cols);
        reference_shrink(r->sum, r->weight, *samples, 32, own > 0 ? own : level, n_cols);
        return;
    }
    reference_shrink(pool, weight, n_rows, 1, level, n_cols);
    for (size_t j = 0; j < (size_t)n_cols * n_cols; j++) {
        const double own = r->weight > 0 ? r->sum[j] / r->weight : 0;
        pool[j] = (*samples * own + 32 * pool[j]) / (*samples + 32);
    }
}

/* ---- Runs ------------------------------------------------------------------------------------ */

static void calibrate(const test_world *w, const char *path, ern_calibrate_options options,
                      ern_calibrate_report *report)
{
    options.allocator = &w->allocator;
    OK(ern_calibrate(w->model, &documents, path, &options, report, &error));
}

static conv_imatrix *open_imatrix(const char *path)
{
    conv_imatrix *im = NULL;
    OK(conv_imatrix_open(&im, path, NULL, &error));
    return im;
}

/* Both matrices are compared beside the size of their diagonal. */
static void compare(const conv_imatrix *im, const conv_moments *m, const double *expected,
                    const char *name)
{
    const size_t n = m->n_cols;
    for (size_t i = 0; i < n; i++) {
        const double e = expected[i * n + i];
        if (!(fabs((double)m->square[i] - e) < 2e-5 * e))
            fail_msg("%s: square %zu is %g, not %g", name, i, (double)m->square[i], e);
    }
    if (m->moment != CONV_MOMENT_OWN) return;
    float *out = malloc(n * n * sizeof *out);
    OK(conv_imatrix_read(im, m, out, &error));
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            const double size = sqrt(expected[i * n + i] * expected[j * n + j]);
            if (!(fabs((double)out[i * n + j] - expected[i * n + j]) < 2e-5 * size))
                fail_msg("%s: moment (%zu, %zu) is %g, not %g", name, i, j, (double)out[i * n + j],
                         expected[i * n + j]);
        }
    free(out);
}

static void compare_all(const test_world *w, const char *path)
{
    references all = reference_make(w);
    conv_imatrix *im = open_imatrix(path);
    /* Pools first need all sums untouched: each entry is blended in a copy. */
    for (size_t i = 0; i < all.n; i++) {
        reference r = all.items[i];
        char name[64];
        double samples;
        const size_t n = r.entry.n_cols;
        double *pool = slow_alloc(n * n);
        r.sum = slow_alloc(n * n);
        memcpy(r.sum, all.items[i].sum, n * n * sizeof *r.sum);
        conv_entry_name(&r.entry, name);
        reference_blend(&all, &r, pool, &samples);
        const conv_moments *m =
            conv_imatrix_find(im, r.entry.kind, r.entry.layer, r.entry.expert, r.entry.second);
        assert_non_null(m);
        if (!(fabs(m->n - samples) <= 1e-5 * samples))
            fail_msg("%s: %g samples, not %g", name, m->n, samples);
        const bool pooled = r.entry.kind == ERN_EXPERT && !r.entry.second;
        compare(im, m, pooled ? pool : r.sum, name);
        free(pool);
        free(r.sum);
    }
    conv_imatrix_close(im);
    reference_free(&all);
}

static void what_is_collected_is_what_passed(void **state)
{
    (void)state;
    static const test_model_spec *const specs[] = { &moe_spec, &dense_spec };
    for (size_t i = 0; i < ERN_COUNT(specs); i++) {
        test_world w;
        ern_calibrate_report report;
        const char *path = test_path("a.imatrix");
        test_world_open(&w, specs[i]);
        calibrate(&w, path, (ern_calibrate_options){ .n_threads = 2 }, &report);
        assert_int_equal(report.n_tokens, N_IDS);
        assert_int_equal(report.n_squares, 0);
        assert_int_equal(report.n_common, specs[i]->moe ? 2 : 0); /* the shared gate and up */
        compare_all(&w, path);
        unlink(path);
        test_world_close(&w);
    }
}

/* ---- Experts that are seldom chosen ---------------------------------------------------------- */

/* The place of a record's floats in the image. */
static float *record_floats(const ern_format *format, unsigned char *image, unsigned kind,
                            unsigned layer)
{
    for (uint32_t i = 0; i < format->header->n_records; i++)
        if (format->records[i].kind == kind && format->records[i].layer == layer)
            return (float *)(void *)(image + format->records[i].offset);
    fail();
    return NULL;
}

/* A model whose experts 0 and 1 are always chosen in layer 2, so that 2 and 3 never are. */
static void open_lopsided(test_world *w)
{
    size_t n;
    ern_format format;
    unsigned char *image = test_model_build(&moe_spec, &n);
    OK(ern_format_read(&format, image, n, &error));
    float *bias = record_floats(&format, image, ERN_ROUTER_BIAS, 2);
    bias[0] = bias[1] = 10.0f;
    test_model_seal(image, n, true);
    test_world_open_image(w, image, n);
}

static void unseen_experts_have_their_layers_average(void **state)
{
    (void)state;
    test_world w;
    ern_calibrate_report report;
    const char *path = test_path("a.imatrix");
    open_lopsided(&w);
    calibrate(&w, path, (ern_calibrate_options){ .n_threads = 1 }, &report);
    assert_int_equal(report.n_experts, 8);
    assert_int_equal(report.n_experts_unseen, 2);
    assert_true(report.n_experts_rare >= 2);
    compare_all(&w, path);
    conv_imatrix *im = open_imatrix(path);
    const conv_moments *a = conv_imatrix_find(im, ERN_EXPERT, 2, 2, false);
    const conv_moments *b = conv_imatrix_find(im, ERN_EXPERT, 2, 3, false);
    assert_true(a->n == 0 && b->n == 0);
    assert_memory_equal(a->square, b->square, a->n_cols * sizeof *a->square);
    a = conv_imatrix_find(im, ERN_EXPERT, 2, 2, true);
    for (uint32_t j = 1; j < a->n_cols; j++) assert_true(a->square[j] == a->square[0]);
    conv_imatrix_close(im);
    unlink(path);
    test_world_close(&w);
}

/* A model that computes nothing but zeros still has statistics. */
static void inputs_of_zeros_have_some_size(void **state)
{
    (void)state;
    size_t n;
    ern_format format;
    test_world w;
    const char *path = test_path("a.imatrix");
    unsigned char *image = test_model_build(&moe_spec, &n);
    OK(ern_format_read(&format, image, n, &error));
    memset(record_floats(&format, image, ERN_FFN_NORM, 1), 0, 4 * odd_moe.hidden_size);
    test_model_seal(image, n, true);
    test_world_open_image(&w, image, n);
    calibrate(&w, path, (ern_calibrate_options){ .n_threads = 1 }, NULL);
    conv_imatrix *im = open_imatrix(path);
    for (unsigned second = 0; second < 2; second++) {
        const conv_moments *m = conv_imatrix_find(im, ERN_EXPERT, 1, 0, second);
        for (uint32_t j = 0; j < m->n_cols; j++) assert_true(m->square[j] > 0);
    }
    conv_imatrix_close(im);
    unlink(path);
    test_world_close(&w);
}

/* ---- What does not change the result --------------------------------------------------------- */

static void the_file_is_the_same_for_any_team(void **state)
{
    (void)state;
    static const struct {
        unsigned n_threads;
        const char *cpu;
    } teams[] = { { 1, NULL }, { 3, NULL }, { 2, "base" } };
    unsigned char *first = NULL;
    size_t n_first = 0;
    const char *path = test_path("a.imatrix");
    for (size_t i = 0; i < ERN_COUNT(teams); i++) {
        test_world w;
        size_t n;
        test_world_open(&w, &moe_spec);
        calibrate(&w, path,
                  (ern_calibrate_options){ .n_threads = teams[i].n_threads, .cpu = teams[i].cpu },
                  NULL);
        unsigned char *data = test_read_file(path, &n);
        if (first) {
            assert_int_equal(n, n_first);
            assert_memory_equal(data, first, n);
            free(data);
        } else {
            first = data;
            n_first = n;
        }
        unlink(path);
        test_world_close(&w);
    }
    free(first);
}

/* The floats that are kept beside codes are those that were rounded. */
static void check_kept(const cpu_rows *rows, size_t n)
{
    for (size_t r = 0; rows->q && r < n; r++)
        for (size_t j = 0; j < rows->width; j++) {
            const float scale = rows->q_scale[r * rows->s_stride + j / ERN_BLOCK_COLS];
            const float code = (float)rows->q[r * rows->q_stride + j];
            assert_true(fabsf(rows->x[r * rows->x_stride + j] - scale * code) <= 0.501f * scale);
        }
}

/* A whole step with keep_inputs, beside a session without. */
static void step_and_look(const test_world *w, const ern_state_options *options, float *logits,
                          ern_inputs *inputs)
{
    const ern_backend_ops *ops = w->model->ops;
    const ern_weights *weights = &w->model->weights;
    const ern_batch batch = { .tokens = ids, .n_tokens = 22, .logits = logits, .n_logits = 1 };
    ern_backend_state *state = NULL;
    OK(ops->state_open(&state, w->model->backend, options, &error));
    ops->begin(state, &batch);
    ops->embed(state, &weights->embed);
    for (uint32_t i = 0; i < weights->hparams->n_layers; i++) {
        ops->attention(state, i, &weights->layers[i]);
        if (weights->layers[i].moe)
            ops->moe(state, i, &weights->layers[i]);
        else
            ops->ffn(state, i, &weights->layers[i]);
    }
    ops->head(state, weights->final_norm, &weights->head);
    OK(ops->submit(state, &error));
    ops->inputs(state, inputs);
    assert_non_null(inputs->normed.x);
    assert_non_null(inputs->attn.x);
    if (weights->hparams->n_experts)
        check_kept(&state->expert, 22 * (size_t)weights->hparams->moe_k);
    else
        check_kept(&state->dense, 22);
    const ern_input *hidden = weights->hparams->n_experts ? &inputs->expert : &inputs->hidden;
    assert_non_null(hidden->x);
    double sum = 0;
    for (size_t j = 0; j < hidden->width; j++) sum += fabs((double)hidden->x[j]);
    assert_true(sum > 0 && isfinite(sum));
    ops->state_close(state);
}

static void looking_changes_nothing(void **state)
{
    (void)state;
    static const test_model_spec *const specs[] = { &test_moe_spec, &test_dense_spec, &moe_spec };
    for (size_t i = 0; i < ERN_COUNT(specs); i++) {
        test_world w;
        atomic_int never;
        ern_inputs inputs;
        atomic_init(&never, 0);
        test_world_open(&w, specs[i]);
        ernie_session *session = test_session(w.model, 32);
        OK(ernie_session_feed(session, ids, 22, &error));
        const ern_state_options options = { .n_ctx = 32,
                                            .n_batch = 32,
                                            .n_threads = 2,
                                            .allocator = &w.allocator,
                                            .cancel = &never,
                                            .keep_inputs = true };
        float *logits = malloc(w.vocab * sizeof *logits);
        step_and_look(&w, &options, logits, &inputs);
        ern_session_mask(w.model, logits, 1);
        test_same_logits(session, logits, w.vocab);
        free(logits);
        ernie_session_free(session);
        test_world_close(&w);
    }
}

/* Quantized models can be calibrated, too: the floats are kept that their products round. */
static void quantized_models_are_calibrated(void **state)
{
    (void)state;
    const test_model_spec spec = { .moe = true,
                                   .untied = true,
                                   .hparams = &odd_moe,
                                   .type_attention = ERN_W8,
                                   .type_ffn = ERN_W8,
                                   .type_expert = ERN_W8,
                                   .type_expert_down = ERN_W4 };
    test_world w;
    const char *path = test_path("a.imatrix");
    test_world_open(&w, &spec);
    calibrate(&w, path, (ern_calibrate_options){ .n_threads = 2 }, NULL);
    conv_imatrix_close(open_imatrix(path));
    unlink(path);
    test_world_close(&w);
}

/* ---- Less memory, fewer moments -------------------------------------------------------------- */

static void less_memory_means_fewer_moments(void **state)
{
    (void)state;
    test_world w;
    const char *path = test_path("a.imatrix");
    ern_calibrate_report all, last = { 0 };
    unsigned n_kinds = 0;
    test_world_open(&w, &moe_spec);
    calibrate(&w, path, (ern_calibrate_options){ .n_threads = 1 }, &all);
    conv_imatrix *full = open_imatrix(path);
    unlink(path);
    for (uint64_t memory = (uint64_t)1 << 20; memory <= (uint64_t)32 << 20; memory += 1 << 16) {
        ern_calibrate_report report;
        const ern_calibrate_options options = { .n_threads = 1,
                                                .memory_max = memory,
                                                .allocator = &w.allocator };
        ernie_error error;
        const ernie_status status =
            ern_calibrate(w.model, &documents, path, &options, &report, &error);
        if (status != ERNIE_OK) {
            assert_int_equal(status, ERNIE_NO_MEMORY);
            assert_int_equal(n_kinds, 0);
            assert_non_null(strstr(error.message, "fewer documents need less"));
            continue;
        }
        if (n_kinds && report.n_own == last.n_own && report.n_common == last.n_common) {
            unlink(path);
            if (report.n_own == all.n_own && report.n_common == all.n_common) break;
            continue;
        }
        /* More than before; squares are what they always are. */
        assert_true(!n_kinds || report.n_own + report.n_common >= last.n_own + last.n_common);
        n_kinds++;
        last = report;
        conv_imatrix *im = open_imatrix(path);
        unlink(path);
        conv_entries at;
        conv_imatrix_entry e;
        for (conv_entries_begin(&at, &odd_moe); conv_entries_next(&at, &e);) {
            const conv_moments *a = conv_imatrix_find(im, e.kind, e.layer, e.expert, e.second);
            const conv_moments *b = conv_imatrix_find(full, e.kind, e.layer, e.expert, e.second);
            assert_memory_equal(a->square, b->square, a->n_cols * sizeof *a->square);
        }
        conv_imatrix_close(im);
    }
    assert_true(n_kinds >= 4);
    assert_int_equal(last.n_own, all.n_own);
    conv_imatrix_close(full);
    test_world_close(&w);
}

static void moments_can_be_left_out(void **state)
{
    (void)state;
    test_world w;
    const char *path = test_path("a.imatrix");
    ern_calibrate_report report;
    test_world_open(&w, &moe_spec);
    calibrate(&w, path, (ern_calibrate_options){ .n_threads = 1, .diagonal = true }, &report);
    assert_int_equal(report.n_squares, report.n_inputs);
    calibrate(&w, path, (ern_calibrate_options){ .n_threads = 1, .common = true }, &report);
    assert_int_equal(report.n_squares, 0);
    assert_int_equal(report.n_common, 2 + 8);
    compare_all(&w, path);
    unlink(path);
    test_world_close(&w);
}

/* ---- Failures -------------------------------------------------------------------------------- */

static void bad_documents_are_named(void **state)
{
    (void)state;
    test_world w;
    const char *path = test_path("a.imatrix");
    const uint32_t none[] = { 0, 0 }, long_one[] = { 3, 301 }, one[] = { 3, 2 };
    const int32_t wrong[] = { 1, 2, 3, 4, 320 };
    test_world_open(&w, &moe_spec);
    FAILS(ERNIE_INVALID,
          ern_calibrate(w.model, &(ern_documents){ ids, none, 2 }, path, NULL, NULL, &error),
          "no tokens");
    FAILS(ERNIE_INVALID,
          ern_calibrate(w.model, &(ern_documents){ ids, long_one, 2 }, path, NULL, NULL, &error),
          "document 1 has 301 tokens, the model's context 300");
    FAILS(ERNIE_INVALID,
          ern_calibrate(w.model, &(ern_documents){ wrong, one, 2 }, path, NULL, NULL, &error),
          "document 1: token 1 has id 320");
    FAILS(ERNIE_UNSUPPORTED,
          ern_calibrate(w.model, &documents, path, &(ern_calibrate_options){ .cpu = "none" }, NULL,
                        &error),
          "instruction set");
    FAILS(ERNIE_IO,
          ern_calibrate(w.model, &documents, test_folder,
                        &(ern_calibrate_options){ .n_threads = 1 }, NULL, &error),
          "is a directory");
    test_world_close(&w);
}

static void numbers_that_are_none_are_named(void **state)
{
    (void)state;
    size_t n;
    ern_format format;
    test_world w;
    const char *path = test_path("a.imatrix");
    unsigned char *image = test_model_build(&moe_spec, &n);
    OK(ern_format_read(&format, image, n, &error));
    record_floats(&format, image, ERN_ATTN_NORM, 1)[5] = NAN;
    test_model_seal(image, n, true);
    test_world_open_image(&w, image, n);
    const ern_calibrate_options options = { .n_threads = 1, .allocator = &w.allocator };
    FAILS(ERNIE_FORMAT, ern_calibrate(w.model, &documents, path, &options, NULL, &error),
          "layers.1.qkv: column 5 of its input is no finite number");
    test_world_close(&w);
}

typedef struct stopper {
    uint64_t at, n_calls;
} stopper;

static int stop_at(const char *what, uint64_t done, uint64_t total, void *user)
{
    stopper *s = user;
    assert_string_equal(what, "calibrating");
    assert_true(done <= total);
    return ++s->n_calls == s->at;
}

static void a_stop_leaves_nothing(void **state)
{
    (void)state;
    test_world w;
    const char *path = test_path("a.imatrix");
    atomic_int stop;
    atomic_init(&stop, 1);
    test_world_open(&w, &dense_spec);
    ern_calibrate_options options = { .n_threads = 2, .allocator = &w.allocator, .stop = &stop };
    FAILS(ERNIE_CANCELLED, ern_calibrate(w.model, &documents, path, &options, NULL, &error),
          "cancelled");
    options.stop = NULL;
    for (uint64_t at = 1;; at++) {
        stopper s = { .at = at };
        ernie_error error;
        options.progress = stop_at;
        options.progress_user = &s;
        const ernie_status status =
            ern_calibrate(w.model, &documents, path, &options, NULL, &error);
        if (status == ERNIE_OK) break;
        assert_int_equal(status, ERNIE_CANCELLED);
        assert_int_equal(access(path, F_OK), -1);
    }
    unlink(path);
    test_world_close(&w);
}

static void failing_memory_leaves_nothing(void **state)
{
    (void)state;
    test_world w;
    const char *path = test_path("a.imatrix");
    test_allocator counter;
    ernie_allocator allocator;
    test_world_open(&w, &dense_spec);
    test_allocator_begin(&counter, &allocator);
    const ern_calibrate_options options = { .n_threads = 2, .allocator = &allocator };
    for (int sticky = 0; sticky < 2; sticky++)
        for (long n = 0;; n++) {
            ernie_error error;
            test_allocator_fail_at(&counter, n, sticky);
            const ernie_status status =
                ern_calibrate(w.model, &documents, path, &options, NULL, &error);
            assert_int_equal(atomic_load(&counter.live), 0);
            if (status == ERNIE_OK) {
                unlink(path);
                break;
            }
            assert_int_equal(status, ERNIE_NO_MEMORY);
            assert_int_equal(access(path, F_OK), -1);
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
        cmocka_unit_test(what_is_collected_is_what_passed),
        cmocka_unit_test(unseen_experts_have_their_layers_average),
        cmocka_unit_test(inputs_of_zeros_have_some_size),
        cmocka_unit_test(the_file_is_the_same_for_any_team),
        cmocka_unit_test(looking_changes_nothing),
        cmocka_unit_test(quantized_models_are_calibrated),
        cmocka_unit_test(less_memory_means_fewer_moments),
        cmocka_unit_test(moments_can_be_left_out),
        cmocka_unit_test(bad_documents_are_named),
        cmocka_unit_test(numbers_that_are_none_are_named),
        cmocka_unit_test(a_stop_leaves_nothing),
        cmocka_unit_test(failing_memory_leaves_nothing),
        cmocka_unit_test(test_folder_is_empty),
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
