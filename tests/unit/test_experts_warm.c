/* Lists of experts that were in memory: what was there comes back, the latest used first where
 * slots are few, in the file's order and without delaying or displacing anything; hostile and
 * foreign lists are refused by name and change nothing. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <unistd.h>

#include "fake_disk.h"
#include "test_allocator.h"

#define HEAD  32u /* bytes of the list's header, of one entry */
#define ENTRY 8u

static fake_disk disk;
static char folder[256], path[300];

static int setup(void **state)
{
    (void)state;
    const ern_hparams h = fake_hparams();
    fake_begin(&disk, &h);
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/ernie-warm-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder)) return -1;
    snprintf(path, sizeof path, "%s/list", folder);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fake_end(&disk);
    remove(path);
    return rmdir(folder);
}

static int calm(void **state)
{
    (void)state;
    disk.permits = -1;
    disk.n_reads = disk.n_passed = 0;
    disk.bad_offset = 0;
    disk.n_fail = disk.n_spoil = 0;
    return 0;
}

/* ---- Files --------------------------------------------------------------------------------- */

typedef struct list {
    size_t n;
    unsigned char bytes[1024];
} list;

static list read_list(void)
{
    list l;
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    l.n = fread(l.bytes, 1, sizeof l.bytes, file);
    fclose(file);
    return l;
}

static void write_list(const list *l)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(l->bytes, 1, l->n, file), l->n);
    fclose(file);
}

static void seal_list(list *l)
{
    const uint64_t sum = ern_hash64(l->bytes, l->n - 8);
    memcpy(l->bytes + l->n - 8, &sum, sizeof sum);
}

static void put_u16(list *l, size_t at, unsigned value)
{
    l->bytes[at] = (unsigned char)(value & 255u);
    l->bytes[at + 1] = (unsigned char)(value >> 8);
}

/* Six experts used one token after the other, the last one counted by nobody. */
static const uint32_t used[6][2] = { { 3, 7 }, { 1, 2 }, { 2, 0 }, { 1, 1 }, { 3, 0 }, { 2, 6 } };

static void save_six(void)
{
    ern_experts *e = fake_open(&disk, 2, 12);
    ernie_error error;
    for (unsigned i = 0; i < 6; i++) {
        fake_use(e, &disk, used[i][0], used[i][1], NULL, i < 5);
        ern_experts_tick(e);
    }
    if (ern_experts_save(e, path, &error) != ERNIE_OK) fail_msg("%s", error.message);
    ern_experts_close(e);
}

static unsigned count_ready(ern_experts *e)
{
    unsigned n = 0;
    for (uint32_t layer = 1; layer < 4; layer++)
        for (uint32_t x = 0; x < 8; x++) n += fake_has(e, &disk, layer, x);
    return n;
}

/* ---- Tests --------------------------------------------------------------------------------- */

static void what_was_there_comes_back(void **state)
{
    (void)state;
    save_six();
    assert_int_equal(read_list().n, HEAD + 6 * ENTRY + 8);
    ern_experts *e = fake_open(&disk, 1, 12);
    ern_experts_stats stats = { 0 };
    calm(NULL);
    assert_int_equal(ern_experts_load(e, path, NULL), ERNIE_OK);
    fake_settle(e);
    assert_int_equal(fake_n_reads(&disk), 6);
    for (unsigned i = 1; i < 6; i++) assert_true(disk.offset[i] > disk.offset[i - 1]);
    for (unsigned i = 0; i < 6; i++) {
        assert_true(fake_has(e, &disk, used[i][0], used[i][1]));
        assert_int_equal(fake_use(e, &disk, used[i][0], used[i][1], &stats, false), ERN_PIN_READY);
    }
    assert_int_equal(stats.n_ahead_used, 0);
    ern_experts_close(e);
}

/* The list keeps the order of forgetting: saved again it is the same. */
static void order_survives(void **state)
{
    (void)state;
    save_six();
    const list before = read_list();
    ern_experts *e = fake_open(&disk, 2, 12);
    assert_int_equal(ern_experts_load(e, path, NULL), ERNIE_OK);
    fake_settle(e);
    assert_int_equal(ern_experts_save(e, path, NULL), ERNIE_OK);
    const list after = read_list();
    assert_int_equal(after.n, before.n);
    assert_memory_equal(after.bytes, before.bytes, before.n);

    fake_resize(e, &disk, 0);
    fake_resize(e, &disk, 3); /* what is there now is newer than any list */
    fake_use(e, &disk, 1, 5, NULL, true);
    assert_int_equal(ern_experts_load(e, path, NULL), ERNIE_OK);
    fake_settle(e);
    assert_int_equal(count_ready(e), 3);
    assert_true(fake_has(e, &disk, 1, 5));
    assert_true(fake_has(e, &disk, 3, 0) && fake_has(e, &disk, 1, 1)); /* the latest two */
    ern_experts_close(e);
}

static void nothing_is_displaced_or_delayed(void **state)
{
    (void)state;
    save_six();
    ern_experts *e = fake_open(&disk, 1, 8);
    uint32_t slot;
    const unsigned char *data;
    fake_use(e, &disk, 1, 1, NULL, true); /* listed, too */
    calm(NULL);
    fake_permit(&disk, 0);
    assert_int_equal(ern_experts_load(e, path, NULL), ERNIE_OK);
    fake_wait_reads(&disk, 1);
    assert_int_equal(ern_experts_pin(e, 2, 7, NULL, &slot), ERN_PIN_LOADING);
    fake_permit(&disk, 1);
    fake_wait_reads(&disk, 2);
    assert_int_equal(disk.offset[1], fake_record(&disk, 2, 7)->offset);
    fake_permit(&disk, -1);
    assert_int_equal(fake_await(e, slot, &data, NULL), ERNIE_OK);
    fake_settle(e);
    assert_int_equal(count_ready(e), 7);
    assert_int_equal(fake_n_reads(&disk), 6);
    ern_experts_unpin(e, slot, true);
    fake_resize(e, &disk, 0);

    fake_resize(e, &disk, 2); /* full: nothing is read */
    fake_use(e, &disk, 3, 1, NULL, true);
    fake_use(e, &disk, 3, 2, NULL, true);
    calm(NULL);
    assert_int_equal(ern_experts_load(e, path, NULL), ERNIE_OK);
    fake_settle(e);
    assert_int_equal(fake_n_reads(&disk), 0);
    ern_experts_close(e);
}

static void failing_reads_are_left_to_their_use(void **state)
{
    (void)state;
    save_six();
    ern_experts *e = fake_open(&disk, 2, 12);
    ernie_error error;
    const unsigned char *data;
    uint32_t slot;
    fake_fail(&disk, fake_record(&disk, 2, 0)->offset, 0, -1);
    assert_int_equal(ern_experts_load(e, path, NULL), ERNIE_OK);
    fake_settle(e);
    assert_int_equal(count_ready(e), 5);
    ern_experts_pin(e, 2, 0, NULL, &slot);
    assert_int_equal(fake_await(e, slot, &data, &error), ERNIE_CORRUPT);
    ern_experts_unpin(e, slot, false);
    ern_experts_close(e);
}

static void closing_ends_loading(void **state)
{
    (void)state;
    save_six();
    ern_experts_options options = fake_options(&disk, 2);
    options.io_latency = 3600;
    ern_experts *e = fake_open_with(&disk, &options, 12);
    calm(NULL);
    assert_int_equal(ern_experts_load(e, path, NULL), ERNIE_OK);
    fake_wait_reads(&disk, 2);
    ern_experts_close(e);
    assert_int_equal(fake_n_reads(&disk), 2);
}

static void an_empty_list_is_a_list(void **state)
{
    (void)state;
    ern_experts *e = fake_open(&disk, 1, 4);
    assert_int_equal(ern_experts_save(e, path, NULL), ERNIE_OK);
    assert_int_equal(read_list().n, HEAD + 8);
    assert_int_equal(ern_experts_load(e, path, NULL), ERNIE_OK);
    fake_settle(e);
    assert_int_equal(count_ready(e), 0);
    ern_experts_close(e);
}

/* ---- Bad lists ----------------------------------------------------------------------------- */

static void refused(ern_experts *e, const list *l, ernie_status expected, const char *words)
{
    ernie_error error = { ERNIE_OK, "" };
    write_list(l);
    const ernie_status status = ern_experts_load(e, path, &error);
    if (status != expected || (words && !strstr(error.message, words)))
        fail_msg("status %d, \"%s\"", (int)status, error.message);
    ern_experts_lock(e);
    assert_int_equal(e->warm_at, e->n_experts);
    ern_experts_unlock(e);
}

static void bad_lists_are_refused(void **state)
{
    (void)state;
    save_six();
    const list good = read_list();
    list bad;
    ern_experts *e = fake_open(&disk, 1, 12);
    calm(NULL);

    for (size_t n = 0; n < good.n; n++) { /* cut off anywhere */
        bad = good;
        bad.n = n;
        refused(e, &bad, ERNIE_FORMAT, NULL);
    }
    bad = good;
    bad.n++;
    refused(e, &bad, ERNIE_FORMAT, "a list of 6 experts has 88");
    for (size_t i = HEAD; i < good.n; i++) { /* damaged anywhere */
        bad = good;
        bad.bytes[i] ^= 16;
        refused(e, &bad, ERNIE_CORRUPT, "checksum");
    }
    bad = good;
    bad.bytes[0] = 'X';
    seal_list(&bad);
    refused(e, &bad, ERNIE_FORMAT, "is not a list of experts");
    bad = good;
    bad.bytes[8] = 9;
    seal_list(&bad);
    refused(e, &bad, ERNIE_FORMAT, "has version 9");
    bad = good;
    bad.bytes[16] ^= 1;
    seal_list(&bad);
    refused(e, &bad, ERNIE_MISMATCH, "another model");
    bad = good;
    memset(bad.bytes + 12, 255, 4);
    seal_list(&bad);
    refused(e, &bad, ERNIE_FORMAT, "lists 4294967295 experts, the model has 24");
    bad = good;
    bad.bytes[12] = 7;
    seal_list(&bad);
    refused(e, &bad, ERNIE_FORMAT, "a list of 7 experts has 96");

    static const unsigned places[][2] = {
        { 0, 0 }, { 4, 0 }, { 65535, 0 }, { 1, 8 }, { 1, 65535 }
    };
    for (size_t i = 0; i < ERN_COUNT(places); i++) { /* layer 0 is dense */
        bad = good;
        put_u16(&bad, HEAD + 2 * ENTRY, places[i][0]);
        put_u16(&bad, HEAD + 2 * ENTRY + 2, places[i][1]);
        seal_list(&bad);
        refused(e, &bad, ERNIE_FORMAT, "is not in the model");
    }
    bad = good;
    memcpy(bad.bytes + HEAD + 3 * ENTRY, good.bytes + HEAD + 1 * ENTRY, 4);
    seal_list(&bad);
    refused(e, &bad, ERNIE_FORMAT, "entry 3, layer 1 expert 1, is there twice");
    bad = good;
    memset(bad.bytes + HEAD + 4, 127, 4);
    seal_list(&bad);
    refused(e, &bad, ERNIE_FORMAT, "entry 1, used 3 tokens ago, comes after one of 2139062143");

    assert_int_equal(fake_n_reads(&disk), 0);
    assert_int_equal(e->clock, 1);

    /* The oldest ages there are do no harm. */
    bad = good;
    for (unsigned i = 0; i < 6; i++) memset(bad.bytes + HEAD + i * ENTRY + 4, 255, 4);
    seal_list(&bad);
    write_list(&bad);
    assert_int_equal(ern_experts_load(e, path, NULL), ERNIE_OK);
    fake_settle(e);
    assert_int_equal(count_ready(e), 6);
    ern_experts_close(e);
}

static void absent_files_and_folders(void **state)
{
    (void)state;
    ern_experts *e = fake_open(&disk, 1, 4);
    ernie_error error;
    remove(path);
    assert_int_equal(ern_experts_load(e, path, &error), ERNIE_IO);
    assert_int_equal(ern_experts_load(e, folder, &error), ERNIE_IO);
    assert_int_equal(ern_experts_save(e, folder, &error), ERNIE_IO);
    assert_int_equal(ern_experts_save(e, "/nowhere/list", &error), ERNIE_IO);
    assert_non_null(strstr(error.message, "/nowhere/list"));
    ern_experts_close(e);
}

static void no_memory_for_lists(void **state)
{
    (void)state;
    save_six();
    test_allocator counting;
    ernie_allocator own;
    ernie_error error;
    test_allocator_begin(&counting, &own);
    ern_experts_options options = fake_options(&disk, 1);
    options.allocator = &own;
    ern_experts *e = fake_open_with(&disk, &options, 4);
    const long long live = atomic_load(&counting.live);
    const list before = read_list();
    for (unsigned load = 0; load < 2; load++) {
        for (long n = 0;; n++) {
            test_allocator_fail_at(&counting, n, load);
            const ernie_status status =
                load ? ern_experts_load(e, path, &error) : ern_experts_save(e, path, &error);
            assert_int_equal(atomic_load(&counting.live), live);
            if (status == ERNIE_OK) break;
            assert_int_equal(status, ERNIE_NO_MEMORY);
            const list now = read_list();
            assert_memory_equal(now.bytes, before.bytes, before.n);
        }
        if (!load) write_list(&before);
    }
    fake_settle(e);
    assert_int_equal(count_ready(e), 4);
    ern_experts_close(e);
    assert_int_equal(atomic_load(&counting.live), 0);
}

#define T(name) cmocka_unit_test_setup(name, calm)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(what_was_there_comes_back),
        T(order_survives),
        T(nothing_is_displaced_or_delayed),
        T(failing_reads_are_left_to_their_use),
        T(closing_ends_loading),
        T(an_empty_list_is_a_list),
        T(bad_lists_are_refused),
        T(absent_files_and_folders),
        T(no_memory_for_lists),
    };
    return cmocka_run_group_tests_name("experts_warm", tests, setup, teardown);
}
