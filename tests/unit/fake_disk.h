/* A model in memory and an ernie_source in front of it that is told when to block, fail or lie, and
 * remembers what was read. Needs cmocka and test_model_bytes.h before it. */
#ifndef FAKE_DISK_H
#define FAKE_DISK_H

#include <pthread.h>

#include "../../src/experts_inner.h"
#include "test_model_bytes.h"

#define FAKE_READS_MAX 4096u
#define FAKE_PATIENCE  120.0 /* seconds; far more than anything takes */

typedef struct fake_disk {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    unsigned char *image;
    size_t n_bytes;
    ern_format format;
    ernie_source source;
    long permits;      /* reads that may pass; -1: all */
    unsigned n_reads;  /* begun */
    unsigned n_passed; /* let through, in the order in which they began */
    uint64_t offset[FAKE_READS_MAX];
    uint64_t bad_offset;  /* reads of this place ... */
    long n_fail, n_spoil; /* ... fail, or give a wrong byte, so many times; -1: always */
} fake_disk;

static inline bool fake_spend(long *n)
{
    if (*n == 0) return false;
    if (*n > 0) --*n;
    return true;
}

static inline int fake_read(void *user, uint64_t offset, void *buffer, size_t n)
{
    fake_disk *d = user;
    pthread_mutex_lock(&d->mutex);
    const unsigned turn = d->n_reads++;
    d->offset[turn % FAKE_READS_MAX] = offset;
    while (d->permits == 0 || turn != d->n_passed) pthread_cond_wait(&d->changed, &d->mutex);
    if (d->permits > 0) d->permits--;
    d->n_passed++;
    pthread_cond_broadcast(&d->changed); /* the next one's turn */
    const bool bad = offset == d->bad_offset;
    const bool fails = bad && fake_spend(&d->n_fail);
    const bool spoils = bad && !fails && fake_spend(&d->n_spoil);
    pthread_mutex_unlock(&d->mutex);
    if (offset > d->n_bytes || n > d->n_bytes - offset) return 1;
    memcpy(buffer, d->image + offset, n);
    if (spoils) ((unsigned char *)buffer)[n / 2] ^= 4;
    return fails;
}

static inline void fake_permit(fake_disk *d, long permits)
{
    pthread_mutex_lock(&d->mutex);
    d->permits = permits;
    pthread_cond_broadcast(&d->changed);
    pthread_mutex_unlock(&d->mutex);
}

static inline void fake_fail(fake_disk *d, uint64_t offset, long n_fail, long n_spoil)
{
    pthread_mutex_lock(&d->mutex);
    d->bad_offset = offset;
    d->n_fail = n_fail;
    d->n_spoil = n_spoil;
    pthread_mutex_unlock(&d->mutex);
}

static inline unsigned fake_n_reads(fake_disk *d)
{
    pthread_mutex_lock(&d->mutex);
    const unsigned n = d->n_reads;
    pthread_mutex_unlock(&d->mutex);
    return n;
}

/* Until n reads have begun and all permits are used up. */
static inline void fake_wait_reads(fake_disk *d, unsigned n)
{
    const double until = ern_seconds() + FAKE_PATIENCE;
    for (;;) {
        pthread_mutex_lock(&d->mutex);
        const bool there = d->n_reads >= n && d->permits <= 0;
        const unsigned now = d->n_reads;
        pthread_mutex_unlock(&d->mutex);
        if (there) return;
        if (ern_seconds() > until) fail_msg("%u reads instead of %u", now, n);
        ern_sleep(1e-3);
    }
}

static inline void fake_begin_spec(fake_disk *d, const test_model_spec *spec)
{
    ernie_error error;
    memset(d, 0, sizeof *d);
    pthread_mutex_init(&d->mutex, NULL);
    pthread_cond_init(&d->changed, NULL);
    d->permits = -1;
    d->image = test_model_build(spec, &d->n_bytes);
    d->source = (ernie_source){ .read = fake_read, .n_bytes = d->n_bytes, .user = d };
    if (ern_format_read(&d->format, d->image, d->n_bytes, &error) != ERNIE_OK)
        fail_msg("%s", error.message);
}

static inline void fake_begin(fake_disk *d, const ern_hparams *hparams)
{
    const test_model_spec spec = { .moe = true, .no_sections = true, .hparams = hparams };
    fake_begin_spec(d, &spec);
}

static inline void fake_end(fake_disk *d)
{
    test_model_free(d->image);
    pthread_cond_destroy(&d->changed);
    pthread_mutex_destroy(&d->mutex);
}

/* Four layers, those from 1 on with eight experts, of which a token needs two. An expert is one
 * piece. */
static inline ern_hparams fake_hparams(void)
{
    const test_model_spec spec = { .moe = true };
    ern_hparams h = test_hparams(&spec);
    h.n_layers = 4;
    h.n_experts = 8;
    h.moe_layer_end = 3;
    return h;
}

/* One layer with four experts of 3 MiB, two pieces each. */
static inline ern_hparams fake_hparams_large(void)
{
    const test_model_spec spec = { .moe = true };
    ern_hparams h = test_hparams(&spec);
    h.hidden_size = h.moe_intermediate_size = 512;
    return h;
}

static inline const ern_record *fake_record(const fake_disk *d, uint32_t layer, uint32_t expert)
{
    for (uint32_t i = 0; i < d->format.header->n_records; i++) {
        const ern_record *r = &d->format.records[i];
        if (r->kind == ERN_EXPERT && r->layer == layer && r->expert == expert) return r;
    }
    fail_msg("no layer %u expert %u", layer, expert);
    return NULL;
}

static inline ern_experts_options fake_options(const fake_disk *d, unsigned n_readers)
{
    static const ern_log no_log;
    return (ern_experts_options){ .source = &d->source,
                                  .format = &d->format,
                                  .allocator = ern_allocator_default(),
                                  .log = &no_log,
                                  .n_readers = n_readers };
}

static inline void fake_resize(ern_experts *e, const fake_disk *d, uint32_t n_slots)
{
    ernie_error error;
    if (ern_experts_resize(e, ern_experts_slot_bytes(&d->format, n_slots), &error) != ERNIE_OK)
        fail_msg("%s", error.message);
    assert_int_equal(ern_experts_n_slots(e), n_slots);
}

static inline ern_experts *fake_open_with(const fake_disk *d, const ern_experts_options *options,
                                          uint32_t n_slots)
{
    ern_experts *e;
    ernie_error error;
    if (ern_experts_open(&e, options, &error) != ERNIE_OK) fail_msg("%s", error.message);
    fake_resize(e, d, n_slots);
    return e;
}

static inline ern_experts *fake_open(const fake_disk *d, unsigned n_readers, uint32_t n_slots)
{
    const ern_experts_options options = fake_options(d, n_readers);
    return fake_open_with(d, &options, n_slots);
}

/* Until a pinned slot is there or has failed. */
static inline ernie_status fake_await(ern_experts *e, uint32_t slot, const unsigned char **data,
                                      ernie_error *error)
{
    const double until = ern_seconds() + FAKE_PATIENCE;
    for (;;) {
        const unsigned events = ern_experts_events(e);
        const ernie_status status = ern_experts_get(e, slot, data, error);
        if (status != ERNIE_FULL) return status;
        if (ern_seconds() > until) fail_msg("slot %u never lands", slot);
        ern_experts_wait(e, events, 1.0);
    }
}

/* Pin, wait, compare with the file, let go. Returns what the pin said. */
static inline ern_pin fake_use(ern_experts *e, const fake_disk *d, uint32_t layer, uint32_t expert,
                               ern_experts_stats *stats, bool recent)
{
    const ern_record *r = fake_record(d, layer, expert);
    const unsigned char *data;
    ernie_error error = { ERNIE_OK, "" };
    uint32_t slot = 0;
    const ern_pin pin = ern_experts_pin(e, layer, expert, stats, &slot);
    assert_int_not_equal(pin, ERN_PIN_FULL);
    if (fake_await(e, slot, &data, &error) != ERNIE_OK) fail_msg("%s", error.message);
    assert_int_equal((uintptr_t)data % ERN_DISK_ALIGN, 0);
    assert_memory_equal(data, d->image + r->offset, (size_t)r->n_bytes);
    ern_experts_unpin(e, slot, recent);
    return pin;
}

/* Until nothing is queued, being read or being checked. */
static inline void fake_settle(ern_experts *e)
{
    const double until = ern_seconds() + FAKE_PATIENCE;
    for (bool busy = true; busy;) {
        const unsigned events = ern_experts_events(e);
        ern_experts_lock(e);
        busy = e->demand.first || e->ahead.first || e->warm_at < e->n_experts;
        for (uint32_t i = 0; i < atomic_load(&e->n_slots); i++)
            busy = busy || e->slots[i].state == ERN_EXPERTS_LOADING;
        ern_experts_unlock(e);
        if (ern_seconds() > until) fail_msg("readers never rest");
        if (busy) ern_experts_wait(e, events, 0.01);
    }
}

/* Is the expert in memory, without touching it? */
static inline bool fake_has(ern_experts *e, const fake_disk *d, uint32_t layer, uint32_t expert)
{
    const uint32_t number = (uint32_t)(fake_record(d, layer, expert) - e->records);
    ern_experts_lock(e);
    const uint32_t i = e->table[number];
    const bool has = i != ERN_EXPERTS_NONE && e->slots[i].state == ERN_EXPERTS_READY;
    ern_experts_unlock(e);
    return has;
}

#endif
