/* Experts on disk: pins, misses, reads ahead, who gives way, second tries and failures, memory that
 * grows and shrinks, many threads at once. The disk is an ernie_source that blocks, fails and lies
 * on command, and once a file. */
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

static fake_disk small, large; /* filled once, their switches set back before each test */

static int setup(void **state)
{
    (void)state;
    const ern_hparams h = fake_hparams(), h_large = fake_hparams_large();
    fake_begin(&small, &h);
    fake_begin(&large, &h_large);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fake_end(&small);
    fake_end(&large);
    return 0;
}

static int calm(void **state)
{
    (void)state;
    fake_disk *disks[2] = { &small, &large };
    for (unsigned i = 0; i < 2; i++) {
        disks[i]->permits = -1;
        disks[i]->n_reads = disks[i]->n_passed = 0;
        disks[i]->bad_offset = 0;
        disks[i]->n_fail = disks[i]->n_spoil = 0;
    }
    return 0;
}

/* ---- Use ----------------------------------------------------------------------------------- */

static void every_expert_can_be_had(void **state)
{
    (void)state;
    ern_experts *e = fake_open(&small, 3, 24);
    ern_experts_stats stats = { 0 };
    for (unsigned round = 0; round < 2; round++)
        for (uint32_t layer = 1; layer < 4; layer++)
            for (uint32_t expert = 0; expert < 8; expert++)
                assert_int_equal(fake_use(e, &small, layer, expert, &stats, true),
                                 round ? ERN_PIN_READY : ERN_PIN_LOADING);
    assert_int_equal(stats.n_pins, 48);
    assert_int_equal(stats.n_hits, 24);
    assert_int_equal(stats.n_misses, 24);
    assert_int_equal(stats.n_joined, 0);
    assert_int_equal(stats.n_ahead, 0);
    assert_int_equal(stats.bytes_read, 24 * small.format.header->expert_bytes);
    assert_int_equal(fake_n_reads(&small), 24);
    assert_true(ern_experts_busy_seconds(e) > 0);
    ern_experts_close(e);
    ern_experts_close(NULL);
}

/* An expert larger than a piece keeps several readers busy. */
static void misses_are_read_in_pieces(void **state)
{
    (void)state;
    ern_experts *e = fake_open(&large, 4, 2);
    ern_experts_stats stats = { 0 };
    const unsigned char *data;
    ernie_error error;
    uint32_t slot;
    const ern_record *r = fake_record(&large, 1, 3);
    fake_permit(&large, 0);
    assert_int_equal(ern_experts_pin(e, 1, 3, &stats, &slot), ERN_PIN_LOADING);
    fake_wait_reads(&large, 2);
    assert_int_equal(ern_experts_get(e, slot, &data, &error), ERNIE_FULL);
    assert_null(data);
    fake_permit(&large, 1);
    fake_wait_reads(&large, 2);
    assert_int_equal(ern_experts_get(e, slot, &data, &error), ERNIE_FULL);
    fake_permit(&large, -1);
    assert_int_equal(fake_await(e, slot, &data, &error), ERNIE_OK);
    assert_memory_equal(data, large.image + r->offset, (size_t)r->n_bytes);
    ern_experts_unpin(e, slot, true);
    assert_int_equal(fake_n_reads(&large), 2);
    assert_int_equal(large.offset[0] + large.offset[1], 2 * r->offset + ((uint64_t)2 << 20));
    ern_experts_close(e);
}

static void several_pins_share_one_read(void **state)
{
    (void)state;
    ern_experts *e = fake_open(&small, 2, 6);
    ern_experts_stats stats = { 0 };
    const unsigned char *data;
    uint32_t slot[3];
    fake_permit(&small, 0);
    assert_int_equal(ern_experts_pin(e, 2, 5, &stats, &slot[0]), ERN_PIN_LOADING);
    assert_int_equal(ern_experts_pin(e, 2, 5, &stats, &slot[1]), ERN_PIN_LOADING);
    fake_permit(&small, -1);
    assert_int_equal(fake_await(e, slot[0], &data, NULL), ERNIE_OK);
    assert_int_equal(ern_experts_pin(e, 2, 5, NULL, &slot[2]), ERN_PIN_READY);
    assert_int_equal(slot[0], slot[1]);
    assert_int_equal(slot[0], slot[2]);
    for (unsigned i = 0; i < 3; i++) {
        /* Pinned as long as one is left: five slots for six other experts. */
        for (uint32_t x = 0; x < 6; x++)
            if (x != 5) fake_use(e, &small, 2, x, NULL, true);
        fake_use(e, &small, 2, 6, NULL, true);
        assert_true(fake_has(e, &small, 2, 5));
        ern_experts_unpin(e, slot[i], true);
    }
    assert_int_equal(stats.n_pins, 2);
    assert_int_equal(stats.n_misses, 1);
    assert_int_equal(stats.n_joined, 1);
    assert_int_equal(stats.n_ahead_used, 0);
    ern_experts_close(e);
}

static void the_least_recently_used_gives_way(void **state)
{
    (void)state;
    ern_experts *e = fake_open(&small, 1, 3);
    for (uint32_t x = 0; x < 3; x++) {
        fake_use(e, &small, 1, x, NULL, true);
        ern_experts_tick(e);
    }
    fake_use(e, &small, 1, 0, NULL, true);
    ern_experts_tick(e);
    fake_use(e, &small, 1, 3, NULL, true);
    assert_false(fake_has(e, &small, 1, 1));
    assert_true(fake_has(e, &small, 1, 0) && fake_has(e, &small, 1, 2));
    ern_experts_tick(e);
    /* A use that does not count leaves 2 the oldest, and 4, never counted, older still. */
    fake_use(e, &small, 1, 2, NULL, false);
    fake_use(e, &small, 1, 4, NULL, false);
    assert_false(fake_has(e, &small, 1, 2));
    fake_use(e, &small, 1, 5, NULL, true);
    assert_false(fake_has(e, &small, 1, 4));
    assert_true(fake_has(e, &small, 1, 0) && fake_has(e, &small, 1, 3));
    ern_experts_close(e);
}

/* Twelve slots for three layers: each keeps four from the others, and gives way to its own. */
static void no_layer_takes_everything(void **state)
{
    (void)state;
    ern_experts *e = fake_open(&small, 2, 12);
    for (uint32_t layer = 1; layer < 4; layer++)
        for (uint32_t x = 0; x < 4; x++) fake_use(e, &small, layer, x, NULL, true);
    for (unsigned round = 0; round < 3; round++) {
        ern_experts_tick(e);
        for (uint32_t x = 0; x < 8; x++) fake_use(e, &small, 3, x, NULL, true);
    }
    for (uint32_t layer = 1; layer < 3; layer++)
        for (uint32_t x = 0; x < 4; x++) assert_true(fake_has(e, &small, layer, x));
    /* What one layer needs at once goes before the others' floor. */
    uint32_t slot[8];
    for (uint32_t x = 0; x < 8; x++) {
        assert_int_not_equal(ern_experts_pin(e, 3, x, NULL, &slot[x]), ERN_PIN_FULL);
        assert_int_equal(fake_await(e, slot[x], &(const unsigned char *){ NULL }, NULL), ERNIE_OK);
    }
    for (uint32_t x = 0; x < 8; x++) ern_experts_unpin(e, slot[x], true);
    ern_experts_close(e);
}

static void full_is_said_and_passes(void **state)
{
    (void)state;
    ern_experts *e = fake_open(&small, 2, 2);
    ern_experts_stats stats = { 0 };
    const unsigned char *data;
    uint32_t slot[3];
    assert_int_equal(ern_experts_pin(e, 1, 0, &stats, &slot[0]), ERN_PIN_LOADING);
    assert_int_equal(ern_experts_pin(e, 2, 0, &stats, &slot[1]), ERN_PIN_LOADING);
    assert_int_equal(ern_experts_pin(e, 3, 0, &stats, &slot[2]), ERN_PIN_FULL);
    assert_int_equal(stats.n_pins, 2);
    assert_int_equal(fake_await(e, slot[0], &data, NULL), ERNIE_OK);
    assert_int_equal(fake_await(e, slot[1], &data, NULL), ERNIE_OK);
    assert_int_equal(ern_experts_pin(e, 3, 0, &stats, &slot[2]), ERN_PIN_FULL);
    const unsigned events = ern_experts_events(e);
    ern_experts_unpin(e, slot[0], true);
    assert_int_not_equal(ern_experts_events(e), events);
    ern_experts_wait(e, events, 60.0); /* returns at once */
    assert_int_equal(ern_experts_pin(e, 3, 0, &stats, &slot[2]), ERN_PIN_LOADING);
    ern_experts_unpin(e, slot[1], true);
    ern_experts_unpin(e, slot[2], true); /* before it has landed */
    fake_settle(e);
    assert_true(fake_has(e, &small, 3, 0));
    fake_resize(e, &small, 0);
    assert_int_equal(ern_experts_pin(e, 1, 0, &stats, &slot[0]), ERN_PIN_FULL);
    ern_experts_ahead(e, 1, 0, &stats);
    assert_int_equal(stats.n_ahead, 0);
    ern_experts_close(e);
}

/* ---- Reading ahead ------------------------------------------------------------------------- */

static void reads_ahead_are_used(void **state)
{
    (void)state;
    ern_experts *e = fake_open(&small, 1, 6);
    ern_experts_stats stats = { 0 };
    ern_experts_ahead(e, 1, 4, &stats);
    ern_experts_ahead(e, 1, 4, &stats); /* under way or there: nothing to do */
    fake_settle(e);
    assert_true(fake_has(e, &small, 1, 4));
    assert_int_equal(stats.n_ahead, 1);
    assert_int_equal(fake_use(e, &small, 1, 4, &stats, true), ERN_PIN_READY);
    assert_int_equal(fake_use(e, &small, 1, 4, &stats, true), ERN_PIN_READY);
    assert_int_equal(stats.n_ahead_used, 1);
    fake_permit(&small, 0);
    ern_experts_ahead(e, 1, 5, &stats);
    fake_wait_reads(&small, 2);
    uint32_t slot;
    const unsigned char *data;
    assert_int_equal(ern_experts_pin(e, 1, 5, &stats, &slot), ERN_PIN_LOADING);
    fake_permit(&small, -1);
    assert_int_equal(fake_await(e, slot, &data, NULL), ERNIE_OK);
    ern_experts_unpin(e, slot, true);
    assert_int_equal(stats.n_joined, 1);
    assert_int_equal(stats.n_ahead_used, 2);
    assert_int_equal(stats.n_hits, 2);
    assert_int_equal(stats.n_misses, 0);
    assert_int_equal(stats.bytes_read, 2 * small.format.header->expert_bytes);
    ern_experts_close(e);
}

static void misses_go_before_reads_ahead(void **state)
{
    (void)state;
    ern_experts *e = fake_open(&small, 2, 12);
    uint32_t slot[3];
    fake_permit(&small, 0);
    ern_experts_ahead(e, 1, 0, NULL);
    ern_experts_ahead(e, 1, 1, NULL);
    fake_wait_reads(&small, 2); /* both readers are at it */
    ern_experts_ahead(e, 1, 2, NULL);
    ern_experts_ahead(e, 1, 3, NULL);
    ern_experts_pin(e, 2, 0, NULL, &slot[0]);
    ern_experts_pin(e, 2, 1, NULL, &slot[1]);
    ern_experts_pin(e, 1, 3, NULL, &slot[2]); /* wanted now */
    for (unsigned n = 3; n <= 5; n++) {
        fake_permit(&small, 1);
        fake_wait_reads(&small, n);
    }
    assert_int_equal(small.offset[2], fake_record(&small, 2, 0)->offset);
    assert_int_equal(small.offset[3], fake_record(&small, 2, 1)->offset);
    assert_int_equal(small.offset[4], fake_record(&small, 1, 3)->offset);
    /* One miss is still being read, so the other reader rests. */
    fake_permit(&small, 1);
    ern_sleep(0.05);
    assert_int_equal(fake_n_reads(&small), 5);
    fake_permit(&small, -1);
    fake_settle(e);
    assert_int_equal(fake_n_reads(&small), 6);
    assert_int_equal(small.offset[5], fake_record(&small, 1, 2)->offset);
    for (unsigned i = 0; i < 3; i++) ern_experts_unpin(e, slot[i], true);
    ern_experts_close(e);
}

static void reads_ahead_take_nothing_of_use(void **state)
{
    (void)state;
    ern_experts *e = fake_open(&small, 1, 3);
    ern_experts_stats stats = { 0 };
    for (uint32_t x = 0; x < 3; x++) fake_use(e, &small, 1, x, NULL, true);
    ern_experts_ahead(e, 1, 3, &stats); /* all were used just now */
    assert_int_equal(stats.n_ahead, 0);
    ern_experts_tick(e);
    for (uint32_t x = 3; x < 6; x++) {
        ern_experts_ahead(e, 1, x, &stats);
        fake_settle(e);
    }
    assert_int_equal(stats.n_ahead, 3);
    for (unsigned i = 0; i < 3; i++) { /* they are safe for two ticks */
        ern_experts_ahead(e, 1, 6, &stats);
        assert_int_equal(stats.n_ahead, 3);
        ern_experts_tick(e);
    }
    ern_experts_ahead(e, 1, 6, &stats);
    assert_int_equal(stats.n_ahead, 4);
    fake_settle(e);
    fake_use(e, &small, 1, 7, &stats, true); /* a miss may take them */
    ern_experts_close(e);
}

/* With every slot promised to a read ahead that nobody has begun, a miss still gets one. */
static void misses_take_slots_from_reads_ahead(void **state)
{
    (void)state;
    ern_experts *e = fake_open(&small, 1, 3);
    uint32_t slot[3];
    fake_permit(&small, 0);
    for (uint32_t x = 0; x < 3; x++) ern_experts_ahead(e, 1, x, NULL);
    fake_wait_reads(&small, 1);
    assert_int_equal(ern_experts_pin(e, 3, 0, NULL, &slot[0]), ERN_PIN_LOADING);
    assert_int_equal(ern_experts_pin(e, 3, 1, NULL, &slot[1]), ERN_PIN_LOADING);
    assert_int_equal(ern_experts_pin(e, 3, 2, NULL, &slot[2]), ERN_PIN_FULL);
    fake_permit(&small, -1);
    fake_settle(e);
    assert_int_equal(fake_n_reads(&small), 3);
    assert_true(fake_has(e, &small, 1, 0) && fake_has(e, &small, 3, 0)
                && fake_has(e, &small, 3, 1));
    ern_experts_unpin(e, slot[0], true);
    ern_experts_unpin(e, slot[1], true);
    ern_experts_close(e);
}

/* ---- Failures ------------------------------------------------------------------------------ */

static void a_second_try_helps(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) { /* a failing read, a wrong byte; of one piece, of two */
        fake_disk *d = i / 2 ? &large : &small;
        ern_experts *e = fake_open(d, 2, 4);
        const uint64_t offset = fake_record(d, 1, 1)->offset + (i / 2 ? (uint64_t)2 << 20 : 0);
        const unsigned before = fake_n_reads(d);
        fake_fail(d, offset, i % 2 ? 0 : 1, i % 2 ? 1 : 0);
        fake_use(e, d, 1, 1, NULL, true);
        assert_int_equal(fake_n_reads(d) - before, i / 2 ? 4 : 2);
        ern_experts_close(e);
    }
}

static void failures_name_the_expert(void **state)
{
    (void)state;
    const ern_record *r = fake_record(&small, 3, 6);
    for (unsigned i = 0; i < 2; i++) {
        ern_experts *e = fake_open(&small, 2, 4);
        ern_experts_stats stats = { 0 };
        ernie_error error;
        char expected[256];
        const unsigned char *data = small.image;
        uint32_t slot, again;
        snprintf(expected, sizeof expected,
                 i ? "layer 3 expert 6 at offset %llu: the source could not read %llu bytes at %llu"
                   : "layer 3 expert 6 at offset %llu: the checksum of %llu bytes does not match, "
                     "read twice",
                 (unsigned long long)r->offset,
                 (unsigned long long)(i ? small.format.header->expert_bytes : r->n_bytes),
                 (unsigned long long)r->offset);
        fake_fail(&small, r->offset, i ? -1 : 0, -1);
        assert_int_equal(ern_experts_pin(e, 3, 6, &stats, &slot), ERN_PIN_LOADING);
        assert_int_equal(fake_await(e, slot, &data, &error), i ? ERNIE_IO : ERNIE_CORRUPT);
        assert_int_equal(error.code, i ? ERNIE_IO : ERNIE_CORRUPT);
        assert_string_equal(error.message, expected);
        assert_null(data);
        assert_int_equal(fake_await(e, slot, &data, NULL), i ? ERNIE_IO : ERNIE_CORRUPT);

        /* Others go on, and the disk that has come back is asked anew, also while someone still
         * holds the failure. */
        fake_use(e, &small, 3, 5, &stats, true);
        fake_fail(&small, 0, 0, 0);
        assert_int_equal(ern_experts_pin(e, 3, 6, &stats, &again), ERN_PIN_LOADING);
        assert_int_equal(again, slot);
        assert_int_equal(fake_await(e, again, &data, &error), ERNIE_OK);
        assert_memory_equal(data, small.image + r->offset, (size_t)r->n_bytes);
        ern_experts_unpin(e, again, true);
        ern_experts_unpin(e, slot, true);
        assert_int_equal(stats.n_misses, 3);
        ern_experts_close(e);
    }
}

static void failures_let_go_leave_nothing(void **state)
{
    (void)state;
    ern_experts *e = fake_open(&small, 2, 3);
    const ern_record *r = fake_record(&small, 2, 2);
    ernie_error error;
    const unsigned char *data;
    uint32_t slot;
    fake_fail(&small, r->offset, -1, 0);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(ern_experts_pin(e, 2, 2, NULL, &slot), ERN_PIN_LOADING);
        if (i % 2) assert_int_equal(fake_await(e, slot, &data, &error), ERNIE_IO);
        ern_experts_unpin(e, slot, i % 3 == 0);
        ern_experts_ahead(e, 2, 2, NULL); /* fails as well, and says nothing */
        fake_settle(e);
        assert_false(fake_has(e, &small, 2, 2));
    }
    for (uint32_t x = 3; x < 6; x++) fake_use(e, &small, 2, x, NULL, true);
    for (uint32_t x = 3; x < 6; x++) assert_true(fake_has(e, &small, 2, x));
    fake_fail(&small, 0, 0, 0);
    fake_use(e, &small, 2, 2, NULL, true);
    ern_experts_close(e);
}

static void what_cannot_be_opened_is_named(void **state)
{
    (void)state;
    const test_model_spec dense = { .no_sections = true };
    ern_experts *e = (ern_experts *)&small;
    ern_experts_options options = fake_options(&small, 1);
    ernie_error error;
    ern_format format;
    size_t n;

    options.n_readers = 0;
    assert_int_equal(ern_experts_open(&e, &options, &error), ERNIE_INVALID);
    assert_null(e);
    options.n_readers = 65;
    assert_int_equal(ern_experts_open(&e, &options, &error), ERNIE_INVALID);
    assert_string_equal(error.message, "65 threads to read experts with, must be 1 .. 64");

    options = fake_options(&small, 1);
    ernie_source shorter = small.source;
    shorter.n_bytes -= 4096;
    options.source = &shorter;
    assert_int_equal(ern_experts_open(&e, &options, &error), ERNIE_FORMAT);
    assert_non_null(strstr(error.message, "its header says"));

    unsigned char *image = test_model_build(&dense, &n);
    assert_int_equal(ern_format_read(&format, image, n, &error), ERNIE_OK);
    options = fake_options(&small, 1);
    options.format = &format;
    assert_int_equal(ern_experts_open(&e, &options, &error), ERNIE_FORMAT);
    assert_string_equal(error.message, "the model has no experts to read from disk");
    assert_null(e);
    test_model_free(image);

    options = fake_options(&small, 1);
    options.source = NULL;
    options.path = "/nowhere/x.ernie";
    assert_int_equal(ern_experts_open(&e, &options, &error), ERNIE_IO);
    assert_null(e);
}

/* ---- A file -------------------------------------------------------------------------------- */

/* The image on disk, as long as it is, with the byte at `flipped` another one (0: none). */
static void write_image(const char *path, size_t n, uint64_t flipped)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(small.image, 1, n, file), n);
    if (flipped) {
        assert_int_equal(fseek(file, (long)flipped, SEEK_SET), 0);
        fputc(small.image[flipped] ^ 1, file);
    }
    assert_int_equal(fclose(file), 0);
}

static void files_are_read_and_their_damage_named(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    char path[300];
    snprintf(path, sizeof path, "%s/ernie-experts-XXXXXX", tmp ? tmp : "/tmp");
    const int handle = mkstemp(path);
    assert_true(handle >= 0);
    close(handle);
    for (unsigned buffered = 0; buffered < 2; buffered++) {
        ern_experts_options options = fake_options(&small, 3);
        const ern_record *r = fake_record(&small, 2, 4);
        ernie_error error = { ERNIE_OK, "" };
        const unsigned char *data;
        ern_experts *e;
        uint32_t slot;
        options.source = NULL;
        options.path = path;
        options.buffered = buffered;
        write_image(path, small.n_bytes - 1, 0);
        assert_int_equal(ern_experts_open(&e, &options, &error), ERNIE_FORMAT);
        write_image(path, small.n_bytes, 0);
        e = fake_open_with(&small, &options, 9);
        for (uint32_t layer = 1; layer < 4; layer++)
            for (uint32_t x = 0; x < 8; x++) fake_use(e, &small, layer, x, NULL, true);

        static const char *const words[] = { "checksum", "ended at byte" };
        for (unsigned i = 0; i < 2;
             i++) {                    /* a byte changes, the file is cut off, while it is open */
            fake_resize(e, &small, 0); /* nothing is remembered */
            fake_resize(e, &small, 9);
            write_image(path, i ? (size_t)r->offset + 5000 : small.n_bytes, i ? 0 : r->offset + 7);
            assert_int_equal(ern_experts_pin(e, 2, 4, NULL, &slot), ERN_PIN_LOADING);
            assert_int_equal(fake_await(e, slot, &data, &error), i ? ERNIE_IO : ERNIE_CORRUPT);
            ern_experts_unpin(e, slot, false);
            if (!strstr(error.message, words[i]) || !strstr(error.message, "layer 2 expert 4 at"))
                fail_msg("%s", error.message);
            fake_use(e, &small, 2, 3, NULL, true);
        }
        write_image(path, small.n_bytes, 0);
        fake_use(e, &small, 2, 4, NULL, true);
        double rate;
        assert_int_equal(ern_experts_probe(e, 0.02, NULL, &rate, &error), ERNIE_OK);
        ern_experts_close(e);
    }
    remove(path);
}

/* ---- Memory -------------------------------------------------------------------------------- */

static void memory_is_what_was_asked_for(void **state)
{
    (void)state;
    test_allocator counting;
    ernie_allocator own;
    ern_experts *e;
    test_allocator_begin(&counting, &own);
    ern_experts_options options = fake_options(&small, 2);
    options.allocator = &own;
    assert_int_equal(ern_experts_open(&e, &options, NULL), ERNIE_OK);
    const long long fixed = atomic_load(&counting.live);
    assert_true((uint64_t)fixed <= ern_experts_fixed_bytes(&small.format, 2));
    uint64_t seed = 1;
    for (unsigned i = 0; i < 200; i++) {
        const uint32_t n = (uint32_t)(i <= 26 ? i : test_random(&seed) % 27);
        const uint64_t n_bytes =
            ern_experts_slot_bytes(&small.format, n) + (i % 2 ? test_random(&seed) % 4096 : 0);
        if (i <= 24) assert_int_equal(ern_experts_resize(e, 0, NULL), ERNIE_OK);
        assert_int_equal(ern_experts_resize(e, n_bytes, NULL), ERNIE_OK);
        const uint32_t n_slots = ern_experts_n_slots(e);
        assert_true(n_slots <= 24 && n_slots <= n);
        if (i <= 24) assert_int_equal(n_slots, n);
        assert_true(n_slots + 2 >= n); /* after many changes there are more blocks */
        assert_true(ern_experts_bytes(e) <= n_bytes);
        assert_int_equal(atomic_load(&counting.live) - fixed, ern_experts_bytes(e));
        if (n_slots) fake_use(e, &small, 1 + i % 3, i % 8, NULL, true);
    }
    assert_int_equal(ern_experts_resize(e, UINT64_MAX, NULL), ERNIE_OK);
    assert_int_equal(ern_experts_n_slots(e), 24);
    assert_int_equal(ern_experts_resize(e, 0, NULL), ERNIE_OK);
    assert_int_equal(atomic_load(&counting.live), fixed);
    fake_resize(e, &small, 5);
    ern_experts_close(e);
    assert_int_equal(atomic_load(&counting.live), 0);
    assert_int_equal(atomic_load(&counting.n_wrong_sizes), 0);
    assert_true(ern_experts_slot_bytes(&small.format, UINT64_MAX) == UINT64_MAX);
}

static void what_stays_is_kept_and_what_goes_is_forgotten(void **state)
{
    (void)state;
    ern_experts *e = fake_open(&small, 2, 24);
    for (uint32_t layer = 1; layer < 4; layer++)
        for (uint32_t x = 0; x < 8; x++) fake_use(e, &small, layer, x, NULL, true);
    fake_resize(e, &small, 16); /* blocks of two go from the end */
    for (uint32_t x = 0; x < 8; x++) {
        assert_true(fake_has(e, &small, 1, x) && fake_has(e, &small, 2, x));
        assert_false(fake_has(e, &small, 3, x));
    }
    for (uint32_t x = 0; x < 8; x++) fake_use(e, &small, 3, x, NULL, true);
    fake_resize(e, &small, 24);
    unsigned n = 0;
    for (uint32_t layer = 1; layer < 4; layer++)
        for (uint32_t x = 0; x < 8; x++) n += fake_has(e, &small, layer, x);
    assert_int_equal(n, 16);
    ern_experts_close(e);
}

typedef struct shrinking {
    ern_experts *e;
    atomic_bool done;
} shrinking;

static void *shrink(void *arg)
{
    shrinking *s = arg;
    fake_resize(s->e, &small, 0);
    atomic_store(&s->done, true);
    return NULL;
}

/* Shrinking waits for what is pinned and what is being read, and lets nobody in meanwhile. */
static void shrinking_waits(void **state)
{
    (void)state;
    shrinking s = { .e = fake_open(&small, 1, 4) };
    pthread_t thread;
    uint32_t slot[2];
    const unsigned char *data;
    const ern_record *r = fake_record(&small, 1, 0);
    atomic_init(&s.done, false);
    ern_experts_pin(s.e, 1, 0, NULL, &slot[0]);
    assert_int_equal(fake_await(s.e, slot[0], &data, NULL), ERNIE_OK);
    fake_permit(&small, 0);
    ern_experts_ahead(s.e, 1, 1, NULL);
    fake_wait_reads(&small, 2);
    ern_experts_ahead(s.e, 1, 2, NULL); /* not begun */
    assert_int_equal(pthread_create(&thread, NULL, shrink, &s), 0);
    const double until = ern_seconds() + FAKE_PATIENCE;
    while (ern_experts_pin(s.e, 1, 0, NULL, &slot[1]) != ERN_PIN_FULL) {
        ern_experts_unpin(s.e, slot[1], true);
        assert_true(ern_seconds() < until);
        ern_sleep(1e-3);
    }
    fake_permit(&small, -1);
    ern_sleep(0.02);
    assert_false(atomic_load(&s.done));
    assert_memory_equal(data, small.image + r->offset, (size_t)r->n_bytes);
    ern_experts_unpin(s.e, slot[0], true);
    pthread_join(thread, NULL);
    assert_int_equal(fake_n_reads(&small), 2);
    assert_int_equal(ern_experts_bytes(s.e), 0);
    fake_resize(s.e, &small, 3);
    fake_use(s.e, &small, 1, 0, NULL, true);
    ern_experts_close(s.e);
}

static void no_memory_changes_nothing(void **state)
{
    (void)state;
    test_allocator counting;
    ernie_allocator own;
    ernie_error error;
    ern_experts_options options = fake_options(&small, 2);
    options.allocator = &own;
    for (unsigned sticky = 0; sticky < 2; sticky++) {
        ern_experts *e = NULL;
        test_allocator_begin(&counting, &own);
        for (long n = 0; !e; n++) {
            test_allocator_fail_at(&counting, n, sticky);
            const ernie_status status = ern_experts_open(&e, &options, &error);
            if (status == ERNIE_OK) break;
            assert_int_equal(status, ERNIE_NO_MEMORY);
            assert_null(e);
            assert_int_equal(atomic_load(&counting.live), 0);
        }
        test_allocator_fail_at(&counting, TEST_ALLOCATOR_NEVER, false);
        fake_resize(e, &small, 4);
        for (uint32_t x = 0; x < 4; x++) fake_use(e, &small, 1, x, NULL, true);
        const long long live = atomic_load(&counting.live);
        const uint64_t bytes = ern_experts_slot_bytes(&small.format, 20);
        for (long n = 0;; n++) {
            test_allocator_fail_at(&counting, n, sticky);
            const ernie_status status = ern_experts_resize(e, bytes, &error);
            if (status == ERNIE_OK) break;
            assert_int_equal(status, ERNIE_NO_MEMORY);
            assert_int_equal(ern_experts_n_slots(e), 4);
            assert_int_equal(atomic_load(&counting.live), live);
            for (uint32_t x = 0; x < 4; x++) assert_true(fake_has(e, &small, 1, x));
        }
        assert_int_equal(ern_experts_n_slots(e), 20);
        test_allocator_fail_at(&counting, 0, true);
        double rate;
        const uint32_t i_record = (uint32_t)(fake_record(&small, 1, 0) - small.format.records);
        assert_int_equal(ern_experts_probe(e, 0.01, NULL, &rate, &error), ERNIE_NO_MEMORY);
        assert_int_equal(ern_experts_verify(e, i_record, NULL, &error), ERNIE_NO_MEMORY);
        assert_int_equal(ern_experts_resize(e, bytes / 3, &error), ERNIE_OK); /* only gives back */
        ern_experts_close(e);
        assert_int_equal(atomic_load(&counting.live), 0);
    }
}

/* ---- Closing, throttles -------------------------------------------------------------------- */

/* Whatever is queued: closing waits for what has begun at most. */
static void closing_does_not_finish_the_queue(void **state)
{
    (void)state;
    ern_experts_options options = fake_options(&small, 2);
    options.io_latency = 3600.0;
    ern_experts *e = fake_open_with(&small, &options, 8);
    uint32_t slot;
    for (uint32_t x = 0; x < 4; x++) {
        ern_experts_pin(e, 1, x, NULL, &slot);
        ern_experts_unpin(e, slot, true);
        ern_experts_ahead(e, 2, x, NULL);
    }
    fake_wait_reads(&small, 2);
    const double begin = ern_seconds();
    ern_experts_close(e);
    assert_true(ern_seconds() - begin < 60.0);
    assert_int_equal(fake_n_reads(&small), 2);
}

static double seconds_for(double limit, double latency)
{
    ern_experts_options options = fake_options(&small, 3);
    options.io_limit = limit;
    options.io_latency = latency;
    ern_experts *e = fake_open_with(&small, &options, 8);
    uint32_t slot[6];
    const unsigned char *data;
    const double begin = ern_seconds();
    for (uint32_t x = 0; x < 6; x++) ern_experts_pin(e, 1, x, NULL, &slot[x]);
    for (uint32_t x = 0; x < 6; x++) {
        assert_int_equal(fake_await(e, slot[x], &data, NULL), ERNIE_OK);
        ern_experts_unpin(e, slot[x], true);
    }
    const double seconds = ern_seconds() - begin;
    assert_true(ern_experts_busy_seconds(e) <= seconds * 1.001);
    assert_true(ern_experts_busy_seconds(e) >= (latency > 0 ? latency : 0));
    ern_experts_close(e);
    return seconds;
}

/* At least as slow as asked for; how much slower is the machine's business. */
static void throttles_slow_down(void **state)
{
    (void)state;
    const double bytes = 6.0 * (double)small.format.header->expert_bytes;
    assert_true(seconds_for(bytes / 0.2, 0) >= 0.2);
    assert_true(seconds_for(0, 0.05)
                >= 0.1); /* six reads by three readers: two after one another */
    assert_true(seconds_for(bytes / 0.2, 0.05) >= 0.2);
}

static void the_speed_is_measured(void **state)
{
    (void)state;
    fake_disk *disks[2] = { &small, &large };
    for (unsigned i = 0; i < 2; i++) {
        ern_experts *e = fake_open(disks[i], 3, 0);
        ernie_cancel cancel = { 0 };
        ernie_error error;
        double rate = -1;
        assert_int_equal(ern_experts_probe(e, 0.05, NULL, &rate, &error), ERNIE_OK);
        assert_true(rate > 0);
        ernie_cancel_request(&cancel);
        assert_int_equal(ern_experts_probe(e, 3600, &cancel, &rate, &error), ERNIE_CANCELLED);
        fake_fail(disks[i], fake_record(disks[i], 1, 0)->offset, -1, 0);
        assert_int_equal(ern_experts_probe(e, 3600, NULL, &rate, &error), ERNIE_IO);
        assert_non_null(strstr(error.message, "layer 1 expert 0 at offset"));
        ern_experts_close(e);
    }
}

static void the_probe_is_throttled_and_shares_the_readers(void **state)
{
    (void)state;
    ern_experts_options options = fake_options(&small, 2);
    options.io_limit = 20.0 * (double)small.format.header->expert_bytes;
    ern_experts *e = fake_open_with(&small, &options, 2);
    double rate = 0;
    uint32_t slot;
    assert_int_not_equal(ern_experts_pin(e, 3, 7, NULL, &slot), ERN_PIN_FULL);
    assert_int_equal(ern_experts_probe(e, 0.5, NULL, &rate, NULL), ERNIE_OK);
    assert_true(rate > 0 && rate <= 1.01 * options.io_limit);
    assert_int_equal(fake_await(e, slot, &(const unsigned char *){ NULL }, NULL), ERNIE_OK);
    ern_experts_unpin(e, slot, true);
    ern_experts_close(e);
}

static void records_are_checked_anew(void **state)
{
    (void)state;
    ern_experts *e = fake_open(&small, 2, 2);
    const ern_record *r = fake_record(&small, 2, 7);
    ernie_error error;
    for (uint32_t i = 0; i < small.format.header->n_records; i++)
        if (small.format.records[i].kind == ERN_EXPERT)
            assert_int_equal(ern_experts_verify(e, i, NULL, &error), ERNIE_OK);
    assert_int_equal(fake_n_reads(&small), 24);
    fake_use(e, &small, 2, 7, NULL, true); /* the one in memory is not looked at */
    fake_fail(&small, r->offset, 0, -1);
    const uint32_t i = (uint32_t)(r - small.format.records);
    assert_int_equal(ern_experts_verify(e, i, NULL, &error), ERNIE_CORRUPT);
    assert_non_null(strstr(error.message, "layer 2 expert 7 at offset"));
    fake_use(e, &small, 2, 7, NULL, true);
    ern_experts_close(e);
}

/* ---- Many threads -------------------------------------------------------------------------- */

#define CROWD       4u
#define CROWD_STEPS 400u

typedef struct crowd {
    ern_experts *e;
    uint64_t seed;
    ern_experts_stats stats;
    unsigned n_wrong, n_failed;
} crowd;

/* One token's experts of one layer: all of them pinned, used as they land. */
static void crowd_step(crowd *c)
{
    const uint32_t layer = 1 + (uint32_t)(test_random(&c->seed) % 3);
    const uint32_t expert = (uint32_t)(test_random(&c->seed) % 8);
    const ern_record *r = fake_record(&small, layer, expert);
    const unsigned char *data = NULL;
    uint32_t slot;
    unsigned events = ern_experts_events(c->e);
    while (ern_experts_pin(c->e, layer, expert, &c->stats, &slot) == ERN_PIN_FULL) {
        ern_experts_wait(c->e, events, 1.0);
        events = ern_experts_events(c->e);
    }
    const bool waits = test_random(&c->seed) % 8 != 0;
    const ernie_status status = waits ? fake_await(c->e, slot, &data, NULL) : ERNIE_FULL;
    if (status == ERNIE_OK)
        c->n_wrong += memcmp(data, small.image + r->offset, (size_t)r->n_bytes) != 0;
    else if (waits)
        c->n_failed++;
    ern_experts_unpin(c->e, slot, test_random(&c->seed) % 2);
    if (test_random(&c->seed) % 4 == 0) ern_experts_ahead(c->e, 1 + layer % 3, expert, &c->stats);
    if (test_random(&c->seed) % 4 == 0) ern_experts_tick(c->e);
}

static void *crowd_main(void *arg)
{
    for (unsigned i = 0; i < CROWD_STEPS; i++) crowd_step(arg);
    return NULL;
}

static void many_threads_get_the_right_bytes(void **state)
{
    (void)state;
    for (unsigned policy = 0; policy < ERN_N_POLICIES; policy++) {
        ern_experts_options options = fake_options(&small, 3);
        options.policy = (ern_policy)policy;
        ern_experts *e = fake_open_with(&small, &options, 9);
        crowd all[CROWD];
        pthread_t threads[CROWD];
        double rate;
        fake_fail(&small, fake_record(&small, 2, 3)->offset, -1, 0);
        for (unsigned i = 0; i < CROWD; i++) {
            all[i] = (crowd){ .e = e, .seed = 77 * i + policy };
            assert_int_equal(pthread_create(&threads[i], NULL, crowd_main, &all[i]), 0);
        }
        for (unsigned i = 0; i < 20; i++) {
            assert_int_equal(
                ern_experts_resize(e, ern_experts_slot_bytes(&small.format, 1 + i * 7 % 20), NULL),
                ERNIE_OK);
            ern_experts_verify(e, small.format.header->n_records - 1 - i, NULL, NULL);
            if (i == 10) ern_experts_probe(e, 0.01, NULL, &rate, NULL);
        }
        fake_resize(e, &small, 2);
        for (unsigned i = 0; i < CROWD; i++) {
            pthread_join(threads[i], NULL);
            const ern_experts_stats *s = &all[i].stats;
            assert_int_equal(all[i].n_wrong, 0);
            assert_int_equal(s->n_pins, s->n_hits + s->n_joined + s->n_misses);
            assert_true(s->n_pins == CROWD_STEPS);
        }
        fake_settle(e);
        for (uint32_t i = 0; i < ern_experts_n_slots(e); i++)
            assert_int_equal(e->slots[i].n_pins, 0);
        ern_experts_close(e);
    }
}

#define T(name) cmocka_unit_test_setup(name, calm)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(every_expert_can_be_had),
        T(misses_are_read_in_pieces),
        T(several_pins_share_one_read),
        T(the_least_recently_used_gives_way),
        T(no_layer_takes_everything),
        T(full_is_said_and_passes),
        T(reads_ahead_are_used),
        T(misses_go_before_reads_ahead),
        T(reads_ahead_take_nothing_of_use),
        T(misses_take_slots_from_reads_ahead),
        T(a_second_try_helps),
        T(failures_name_the_expert),
        T(failures_let_go_leave_nothing),
        T(what_cannot_be_opened_is_named),
        T(files_are_read_and_their_damage_named),
        T(memory_is_what_was_asked_for),
        T(what_stays_is_kept_and_what_goes_is_forgotten),
        T(shrinking_waits),
        T(no_memory_changes_nothing),
        T(closing_does_not_finish_the_queue),
        T(throttles_slow_down),
        T(the_speed_is_measured),
        T(the_probe_is_throttled_and_shares_the_readers),
        T(records_are_checked_anew),
        T(many_threads_get_the_right_bytes),
    };
    return cmocka_run_group_tests_name("experts", tests, setup, teardown);
}
