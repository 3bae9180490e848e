/* Statistics as the encoder gets them: whose they are, shared by threads on few slots, and every
 * way in which they may not come. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>

#include "../../tools/convert/calibration.h"
#include "checkpoint.h"
#include "imatrix_bytes.h"
#include "test_allocator.h"

static char dir[256], path[300];
static const test_model_spec spec = { .moe = true, .untied = true };
static test_allocator counter;
static ernie_allocator allocator;

static int setup(void **state)
{
    (void)state;
    if (checkpoint_make_dir(dir, "calibration") != 0) return -1;
    snprintf(path, sizeof path, "%s/x.imatrix", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    checkpoint_clear(dir);
    return rmdir(dir);
}

/* ---- Files ----------------------------------------------------------------------------------- */

enum { OWN, COMMON, NONE };

/* The file of imatrix_bytes.h, or one of squares alone. */
static ern_hparams write_file(int kind)
{
    const ern_hparams hp = test_hparams(&spec);
    conv_imatrix_out out;
    ernie_error error = { ERNIE_OK, "" };
    ernie_status status = ERNIE_OK;
    if (kind != NONE) {
        status = imatrix_write(path, &hp, kind == COMMON, ern_allocator_default(), &error);
    } else {
        status = conv_imatrix_out_begin(&out, &hp, ern_allocator_default(), &error);
        if (status == ERNIE_OK) status = conv_imatrix_out_open(&out, path, &error);
        if (status == ERNIE_OK) status = imatrix_put_all(&out, &error);
        if (status == ERNIE_OK) status = conv_imatrix_out_commit(&out, &error);
        conv_imatrix_out_close(&out);
    }
    if (status != ERNIE_OK) fail_msg("%s", error.message);
    return hp;
}

/* Where the first matrix, that of layers.0.qkv, begins. */
static long first_matrix(const ern_hparams *hp)
{
    uint64_t n_squares = 0;
    conv_entries at;
    conv_imatrix_entry e;
    for (conv_entries_begin(&at, hp); conv_entries_next(&at, &e);) n_squares += e.n_cols;
    return (long)(512 + conv_index_bytes(conv_entries_count(hp)) + conv_squares_bytes(n_squares));
}

/* Change n floats of the first matrix from its second on; with `seal` the file agrees with
 * itself. */
static void change_matrix(const ern_hparams *hp, size_t n, float value, bool seal)
{
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, first_matrix(hp) + 4, SEEK_SET);
    for (size_t i = 0; i < n; i++) assert_int_equal(fwrite(&value, sizeof value, 1, file), 1);
    if (seal) {
        fseek(file, 0, SEEK_END);
        const size_t size = (size_t)ftell(file);
        unsigned char *data = malloc(size);
        assert_non_null(data);
        rewind(file);
        assert_int_equal(fread(data, 1, size, file), size);
        imatrix_seal(data, size, true);
        rewind(file);
        assert_int_equal(fwrite(data, 1, size, file), size);
        free(data);
    }
    fclose(file);
}

static conv_calibration calibration;

static void open_limited(const ern_hparams *hp, uint64_t memory_max)
{
    ernie_error error = { ERNIE_OK, "" };
    test_allocator_begin(&counter, &allocator);
    if (conv_calibration_open(&calibration, path, hp, memory_max, &allocator, &error) != ERNIE_OK)
        fail_msg("%s", error.message);
}

static void open_file(const ern_hparams *hp)
{
    open_limited(hp, 0);
}

static void close_file(void)
{
    conv_calibration_close(&calibration);
    assert_int_equal(atomic_load(&counter.live), 0);
    assert_int_equal(atomic_load(&counter.n_wrong_sizes), 0);
}

static ern_record record(ern_kind kind, uint16_t layer, uint16_t expert)
{
    return (ern_record){ .kind = (uint16_t)kind, .layer = layer, .expert = expert };
}

static ernie_status take(ern_kind kind, uint16_t layer, uint16_t expert, uint32_t matrix,
                         conv_calibration_use *use, ernie_error *error)
{
    const ern_record r = record(kind, layer, expert);
    return conv_calibration_take(&calibration, &r, matrix, use, error);
}

static conv_calibration_use taken(ern_kind kind, uint16_t layer, uint16_t expert, uint32_t matrix)
{
    conv_calibration_use use;
    ernie_error error = { ERNIE_OK, "" };
    if (take(kind, layer, expert, matrix, &use, &error) != ERNIE_OK) fail_msg("%s", error.message);
    return use;
}

static void give(conv_calibration_use *use)
{
    conv_calibration_give(&calibration, use);
    assert_null(conv_calibration_feedback(use));
}

static const conv_moments *moments_of(ern_kind kind, unsigned layer, unsigned expert, bool second)
{
    const conv_moments *m =
        conv_imatrix_find(calibration.imatrix, (unsigned)kind, layer, expert, second);
    assert_non_null(m);
    return m;
}

/* ---- Whose statistics ------------------------------------------------------------------------ */

static void nothing_is_known_without_a_file(void **state)
{
    (void)state;
    ernie_error error = { ERNIE_OK, "" };
    const ern_hparams hp = test_hparams(&spec);
    test_allocator_begin(&counter, &allocator);
    assert_int_equal(conv_calibration_open(&calibration, NULL, &hp, 0, &allocator, &error),
                     ERNIE_OK);
    conv_calibration_use use = taken(ERN_QKV, 0, 0, 0);
    assert_null(conv_calibration_feedback(&use));
    give(&use);
    assert_int_equal(atomic_load(&counter.n_requests), 0);
    close_file();
}

static void what_has_no_input_has_no_feedback(void **state)
{
    (void)state;
    const ern_hparams hp = write_file(OWN);
    open_file(&hp);
    const ern_record none[] = { record(ERN_EMBED, ERN_NO_LAYER, 0), record(ERN_MTP_PROJ, 2, 0),
                                record(ERN_QKV, 2, 0), record(ERN_EXPERT, 0, 0) };
    for (size_t i = 0; i < ERN_COUNT(none); i++) {
        conv_calibration_use use;
        assert_int_equal(conv_calibration_take(&calibration, &none[i], 0, &use, NULL), ERNIE_OK);
        assert_null(conv_calibration_feedback(&use));
        give(&use);
    }
    close_file();
}

static void own_moments_make_feedback(void **state)
{
    (void)state;
    const ern_hparams hp = write_file(OWN);
    open_file(&hp);
    conv_calibration_use use = taken(ERN_EXPERT, 1, 3, 1), again;
    const conv_feedback *f = conv_calibration_feedback(&use);
    assert_non_null(f->pull);
    assert_non_null(f->inner);
    assert_null(f->stretch);
    assert_int_equal(f->n_blocks, 2); /* 48 columns */
    /* A quarter of each channel is shared: what a column's error costs is less than its square. */
    const conv_moments *m = moments_of(ERN_EXPERT, 1, 3, true);
    double sum = 0;
    for (uint32_t c = 0; c < m->n_cols; c++) sum += (double)m->square[c];
    for (uint32_t c = 0; c < 64; c++) {
        const double most = c < 48 ? 1 + (double)m->square[c] * 48 / sum : 0;
        assert_true((f->weight[c] > 0) == (c < 48) && (double)f->weight[c] <= most);
    }
    /* What is there is not made again. */
    const long n = atomic_load(&counter.n_requests);
    again = taken(ERN_EXPERT, 1, 3, 1);
    assert_ptr_equal(again.slot, use.slot);
    assert_ptr_equal(again.feedback.pull, use.feedback.pull);
    assert_int_equal(atomic_load(&counter.n_requests), n);
    give(&use);
    give(&again);
    again = taken(ERN_EXPERT, 1, 3, 1);
    assert_int_equal(atomic_load(&counter.n_requests), n);
    give(&again);
    assert_int_equal(atomic_load(&calibration.n_diagonal), 0);
    close_file();
}

static void common_moments_are_stretched(void **state)
{
    (void)state;
    const ern_hparams hp = write_file(COMMON);
    open_file(&hp);
    conv_calibration_use first = taken(ERN_EXPERT, 1, 0, 0), second = taken(ERN_EXPERT, 1, 2, 0);
    conv_calibration_use shared = taken(ERN_SHARED_GATE_UP, 1, 0, 0);
    conv_calibration_use down = taken(ERN_EXPERT, 1, 0, 1);
    assert_ptr_equal(first.slot, second.slot);
    assert_ptr_equal(first.slot, shared.slot);
    assert_ptr_not_equal(first.slot, down.slot);
    assert_ptr_equal(first.feedback.pull, second.feedback.pull);
    assert_null(down.feedback.stretch);
    const conv_moments *own = moments_of(ERN_EXPERT, 1, 2, false);
    const conv_moments *common = moments_of(ERN_ROUTER, 1, 0, false);
    for (uint32_t c = 0; c < own->n_cols; c++) {
        const double wanted = sqrt((double)own->square[c] / (double)common->square[c]);
        assert_true(fabs((double)second.feedback.stretch[c] - wanted) < 1e-5 * wanted);
    }
    give(&first);
    give(&second);
    give(&shared);
    give(&down);
    close_file();
}

static void squares_are_weights(void **state)
{
    (void)state;
    const ern_hparams hp = write_file(NONE);
    open_file(&hp);
    conv_calibration_use use = taken(ERN_ATTN_OUT, 1, 0, 0);
    const conv_feedback *f = conv_calibration_feedback(&use);
    const conv_moments *m = moments_of(ERN_ATTN_OUT, 1, 0, false);
    assert_null(f->pull);
    for (uint32_t c = 0; c < m->n_cols; c++) assert_true(f->weight[c] == m->square[c]);
    assert_int_equal(atomic_load(&calibration.n_diagonal), 0); /* nothing was left out */
    give(&use);
    close_file();
}

/* Moments that do not fit count by their squares, and are counted. */
static void little_memory_leaves_squares(void **state)
{
    (void)state;
    const ern_hparams hp = write_file(COMMON);
    const size_t need_64 = conv_feedback_bytes(64) + conv_feedback_work_bytes(64);
    const size_t need_48 = conv_feedback_bytes(48) + conv_feedback_work_bytes(48);
    assert_int_equal(need_48, need_64); /* both are two blocks */
    for (int fits = 0; fits < 2; fits++) {
        open_limited(&hp, need_64 - (fits ? 0 : 1));
        conv_calibration_use qkv = taken(ERN_QKV, 0, 0, 0), expert = taken(ERN_EXPERT, 1, 2, 0);
        assert_true((qkv.feedback.pull != NULL) == fits);
        assert_int_equal(atomic_load(&calibration.n_diagonal), fits ? 0 : 2);
        /* An expert's squares are the common ones stretched, with and without moments. */
        const conv_moments *own = moments_of(ERN_EXPERT, 1, 2, false);
        for (uint32_t c = 0; c < own->n_cols && !fits; c++) {
            const float by = expert.feedback.stretch[c];
            const double got = (double)(expert.feedback.weight[c] * by * by);
            assert_true(fabs(got - (double)own->square[c]) < 1e-5 * got);
        }
        give(&qkv);
        give(&expert);
        close_file();
    }
}

/* Moments that are none: damped as far as it helps, else squares. */
static void moments_that_are_none_leave_squares(void **state)
{
    (void)state;
    for (int hopeless = 0; hopeless < 2; hopeless++) {
        const ern_hparams hp = write_file(OWN);
        change_matrix(&hp, 1, hopeless ? 1e6f : 3, true);
        open_file(&hp);
        conv_calibration_use use = taken(ERN_QKV, 0, 0, 0);
        assert_true((use.feedback.pull == NULL) == hopeless);
        assert_int_equal(atomic_load(&calibration.n_diagonal), hopeless);
        for (uint32_t c = 0; c < 64; c++)
            assert_true(use.feedback.weight[c] > 0 && isfinite(use.feedback.weight[c]));
        give(&use);
        close_file();
    }
}

/* ---- Slots ----------------------------------------------------------------------------------- */

static void slots_are_used_again(void **state)
{
    (void)state;
    const ern_hparams hp = write_file(OWN);
    open_file(&hp);
    conv_calibration_use kept = taken(ERN_QKV, 0, 0, 0);
    const conv_calibration_slot *first = kept.slot;
    long long most = 0;
    for (uint16_t round = 0; round < 12; round++) {
        conv_calibration_use use = taken(ERN_EXPERT, 1, round % 4, round % 2);
        assert_ptr_not_equal(use.slot, first);
        give(&use);
        if (round == 3) most = atomic_load(&counter.live);
        if (round > 3) assert_true(atomic_load(&counter.live) <= most);
    }
    assert_ptr_equal(kept.slot->of, moments_of(ERN_QKV, 0, 0, false));
    assert_non_null(conv_calibration_feedback(&kept)->pull);
    give(&kept);
    /* The one that was used longest ago goes first. */
    conv_calibration_use a = taken(ERN_QKV, 0, 0, 0);
    give(&a);
    for (uint16_t i = 0; i < CONV_CALIBRATION_SLOTS - 1; i++) {
        a = taken(ERN_EXPERT, 1, i, 0);
        give(&a);
    }
    const long n = atomic_load(&counter.n_requests);
    a = taken(ERN_QKV, 0, 0, 0);
    give(&a);
    assert_int_equal(atomic_load(&counter.n_requests), n);
    close_file();
}

/* Every thread takes and gives what chance says. All of one linear's statistics are the same. */
enum { N_THREADS = 8, N_TURNS = 200, N_LINEARS = 12 };

typedef struct worker {
    uint64_t seed;
    const double *wanted; /* [N_LINEARS] */
    unsigned n_wrong, n_failed;
} worker;

static ern_record linear(unsigned i, uint32_t *matrix)
{
    *matrix = i >= 8;
    if (i < 2) return record(ERN_QKV, (uint16_t)i, 0);
    if (i < 4) return record(ERN_ATTN_OUT, (uint16_t)(i - 2), 0);
    return record(ERN_EXPERT, 1, (uint16_t)(i % 4));
}

static double sum_of(const conv_feedback *f)
{
    double sum = 0;
    for (size_t i = 0; i < 64; i++)
        sum += (double)f->weight[i] * (f->stretch ? (double)f->stretch[i] : 1) * (double)(i + 1);
    for (size_t i = 0; i < 1024; i++) sum += (double)f->pull[i];
    return sum;
}

static void *worker_run(void *user)
{
    worker *w = user;
    for (unsigned i = 0; i < N_TURNS; i++) {
        uint32_t matrix;
        conv_calibration_use use;
        ernie_error error = { ERNIE_OK, "" };
        const unsigned k = (unsigned)(test_random(&w->seed) % N_LINEARS);
        const ern_record r = linear(k, &matrix);
        const ernie_status status = conv_calibration_take(&calibration, &r, matrix, &use, &error);
        if (status == ERNIE_OK) {
            w->n_wrong += sum_of(conv_calibration_feedback(&use)) != w->wanted[k];
            conv_calibration_give(&calibration, &use);
        } else {
            w->n_failed++;
            w->n_wrong += status != ERNIE_NO_MEMORY || use.slot || use.stretch;
        }
    }
    return NULL;
}

static unsigned run_threads(const double *wanted)
{
    pthread_t threads[N_THREADS];
    worker workers[N_THREADS];
    unsigned n_failed = 0;
    for (unsigned i = 0; i < N_THREADS; i++) {
        workers[i] = (worker){ .seed = i, .wanted = wanted };
        assert_int_equal(pthread_create(&threads[i], NULL, worker_run, &workers[i]), 0);
    }
    for (unsigned i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(workers[i].n_wrong, 0);
        n_failed += workers[i].n_failed;
    }
    return n_failed;
}

static void threads_share_the_slots(void **state)
{
    (void)state;
    const ern_hparams hp = write_file(COMMON);
    double wanted[N_LINEARS];
    open_file(&hp);
    for (unsigned i = 0; i < N_LINEARS; i++) {
        uint32_t matrix;
        conv_calibration_use use;
        const ern_record r = linear(i, &matrix);
        assert_int_equal(conv_calibration_take(&calibration, &r, matrix, &use, NULL), ERNIE_OK);
        wanted[i] = sum_of(conv_calibration_feedback(&use));
        give(&use);
    }
    assert_int_equal(run_threads(wanted), 0);
    for (unsigned i = 0; i < CONV_CALIBRATION_SLOTS; i++)
        assert_int_equal(calibration.slots[i].n_users, 0);
    /* One whose memory fails tells its own thread; those that waited for it try themselves. */
    unsigned n_failed = 0;
    for (long n = 0; n < 12; n++) {
        test_allocator_fail_at(&counter, n, false);
        n_failed += run_threads(wanted);
    }
    assert_int_equal(n_failed, atomic_load(&counter.n_failed));
    assert_true(n_failed > 0);
    close_file();
}

/* ---- What fails ------------------------------------------------------------------------------ */

static void failing_memory_leaves_nothing(void **state)
{
    (void)state;
    const ern_hparams hp = write_file(COMMON);
    for (int sticky = 0; sticky < 2; sticky++) {
        for (long n = 0;; n++) {
            ernie_error error = { ERNIE_OK, "" };
            test_allocator_begin(&counter, &allocator);
            test_allocator_fail_at(&counter, n, sticky);
            const ernie_status status =
                conv_calibration_open(&calibration, path, &hp, 0, &allocator, &error);
            if (status == ERNIE_OK) break;
            assert_int_equal(status, ERNIE_NO_MEMORY);
            assert_int_equal(atomic_load(&counter.live), 0);
        }
        atomic_store(&counter.budget, TEST_ALLOCATOR_NEVER);
        const long long held = atomic_load(&counter.live);
        long n = 0;
        for (;; n++) {
            conv_calibration_use use;
            ernie_error error = { ERNIE_OK, "" };
            test_allocator_fail_at(&counter, n, sticky);
            const ernie_status status = take(ERN_EXPERT, 1, 1, 0, &use, &error);
            atomic_store(&counter.budget, TEST_ALLOCATOR_NEVER);
            if (status == ERNIE_OK) {
                give(&use);
                break;
            }
            assert_int_equal(status, ERNIE_NO_MEMORY);
            assert_non_null(strstr(error.message, "no memory"));
            assert_null(conv_calibration_feedback(&use));
            give(&use); /* does no harm */
            /* What was made stays for the next, unless making it failed. */
            if (n < 2) assert_int_equal(atomic_load(&counter.live), held);
        }
        assert_int_equal(n, 3); /* the feedback, its working memory, the stretch */
        close_file();
    }
}

static void damaged_moments_are_named(void **state)
{
    (void)state;
    static const struct {
        float value;
        bool sealed;
        ernie_status status;
        const char *says;
    } cases[] = {
        { 2.0f, false, ERNIE_CORRUPT, "layers.0.qkv: the checksum of its moments" },
        { NAN, true, ERNIE_FORMAT, "layers.0.qkv: a moment of columns 0 to 31 is no finite" },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        const ern_hparams hp = write_file(OWN);
        change_matrix(&hp, 1, cases[i].value, cases[i].sealed);
        open_file(&hp);
        const long long held = atomic_load(&counter.live);
        for (unsigned turn = 0; turn < 2 * CONV_CALIBRATION_SLOTS; turn++) {
            conv_calibration_use use;
            ernie_error error = { ERNIE_OK, "" };
            assert_int_equal(take(ERN_QKV, 0, 0, 0, &use, &error), cases[i].status);
            if (!strstr(error.message, cases[i].says)) fail_msg("%s", error.message);
            assert_non_null(strstr(error.message, "x.imatrix"));
            assert_null(conv_calibration_feedback(&use));
            assert_int_equal(atomic_load(&counter.live), held);
        }
        conv_calibration_use use = taken(ERN_ATTN_OUT, 0, 0, 0); /* the others are whole */
        give(&use);
        close_file();
    }
}

static void a_file_cut_under_way_is_an_error(void **state)
{
    (void)state;
    const ern_hparams hp = write_file(OWN);
    open_file(&hp);
    conv_calibration_use use;
    ernie_error error = { ERNIE_OK, "" };
    assert_int_equal(truncate(path, first_matrix(&hp) + 64), 0);
    assert_true(take(ERN_QKV, 0, 0, 0, &use, &error) != ERNIE_OK);
    assert_non_null(strstr(error.message, "x.imatrix"));
    assert_null(conv_calibration_feedback(&use));
    close_file();
}

static void refused(const ern_hparams *hp, ernie_status wanted, const char *says)
{
    ernie_error error = { ERNIE_OK, "" };
    test_allocator_begin(&counter, &allocator);
    assert_int_equal(conv_calibration_open(&calibration, path, hp, 0, &allocator, &error), wanted);
    if (!strstr(error.message, says)) fail_msg("\"%s\" does not say \"%s\"", error.message, says);
    close_file();
}

static void what_does_not_fit_is_refused(void **state)
{
    (void)state;
    ern_hparams hp = write_file(OWN);
    hp.n_experts = 8;
    refused(&hp, ERNIE_INVALID,
            "x.imatrix: was made with another model: its n_experts is 4, here it is 8");
    unlink(path);
    refused(&hp, ERNIE_IO, "x.imatrix");
    checkpoint_put_text(dir, "x.imatrix", "no calibration");
    refused(&hp, ERNIE_FORMAT, "x.imatrix");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_known_without_a_file),
        cmocka_unit_test(what_has_no_input_has_no_feedback),
        cmocka_unit_test(own_moments_make_feedback),
        cmocka_unit_test(common_moments_are_stretched),
        cmocka_unit_test(squares_are_weights),
        cmocka_unit_test(little_memory_leaves_squares),
        cmocka_unit_test(moments_that_are_none_leave_squares),
        cmocka_unit_test(slots_are_used_again),
        cmocka_unit_test(threads_share_the_slots),
        cmocka_unit_test(failing_memory_leaves_nothing),
        cmocka_unit_test(damaged_moments_are_named),
        cmocka_unit_test(a_file_cut_under_way_is_an_error),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
