/* Slots and who has them (experts.h): the table from experts to slots, pins, beginning and ending.
 * The slots' memory is experts_memory.c's, reading experts_read.c's, the order of forgetting
 * policy.c's. */
#include "experts_inner.h"

#define EXPERTS_READERS_MAX 64u
#define EXPERTS_AHEAD_TICKS 2u /* for which what was read ahead is safe from other reads ahead */

/* ---- The lock ------------------------------------------------------------------------------ */

ERN_FN void ern_experts_lock(ern_experts *e)
{
    ern_mutex_lock(&e->mutex);
}

/* Counts change under the lock, sleepers are woken after it: they would only run into it. */
ERN_FN void ern_experts_unlock(ern_experts *e)
{
    const bool events = e->has_events, work = e->has_work && e->n_idle;
    e->has_events = e->has_work = false;
    if (events) atomic_fetch_add(&e->events, 1);
    if (work) atomic_fetch_add(&e->work, 1);
    ern_mutex_unlock(&e->mutex);
    if (events && atomic_load(&e->n_waiting)) ern_wake_all(&e->events);
    if (work) ern_wake_all(&e->work);
}

/* ---- Slots --------------------------------------------------------------------------------- */

static uint32_t experts_number(const ern_experts *e, uint32_t layer, uint32_t expert)
{
    ERN_ASSERT(layer < e->format->header->hparams.n_layers);
    ERN_ASSERT(e->layer_index[layer] < e->n_layers);
    ERN_ASSERT(expert < e->format->header->hparams.n_experts);
    return e->layer_index[layer] * e->format->header->hparams.n_experts + expert;
}

static uint32_t experts_layer(const ern_experts *e, uint32_t expert)
{
    return expert / e->format->header->hparams.n_experts;
}

ERN_FN void ern_experts_unlink(ern_experts *e, uint32_t i)
{
    ern_experts_slot *slot = &e->slots[i];
    if (!slot->linked) return;
    slot->linked = false;
    e->table[slot->job.expert] = ERN_EXPERTS_NONE;
    e->count[experts_layer(e, slot->job.expert)]--;
}

ERN_FN void ern_experts_empty(ern_experts *e, uint32_t i)
{
    ern_experts_slot *slot = &e->slots[i];
    ERN_ASSERT(slot->n_pins == 0);
    ern_experts_unlink(e, i);
    slot->state = ERN_EXPERTS_EMPTY;
    e->ranks[i] = (ern_policy_slot){ .empty = true };
    e->has_events = true;
}

ERN_FN void ern_experts_fill(ern_experts *e, uint32_t i, uint32_t expert, bool demand)
{
    ern_experts_slot *slot = &e->slots[i];
    const uint32_t layer = experts_layer(e, expert);
    ERN_ASSERT(slot->state == ERN_EXPERTS_EMPTY && e->table[expert] == ERN_EXPERTS_NONE);
    slot->state = ERN_EXPERTS_LOADING;
    slot->linked = true;
    slot->ahead = slot->counted = false;
    slot->job.expert = expert;
    slot->job.slot = i;
    e->table[expert] = i;
    e->count[layer]++;
    e->ranks[i] = (ern_policy_slot){ .layer = (uint16_t)layer, .held = true };
    ern_experts_submit(e, &slot->job, demand);
}

ERN_FN void ern_experts_landed(ern_experts *e, ern_experts_job *job, ernie_status status)
{
    job->status = status;
    job->over = true;
    e->has_events = true;
    if (job->slot == ERN_EXPERTS_NONE) return;
    ern_experts_slot *slot = &e->slots[job->slot];
    slot->state = status == ERNIE_OK ? ERN_EXPERTS_READY : ERN_EXPERTS_FAILED;
    e->ranks[job->slot].held = slot->n_pins > 0;
    if (slot->n_pins == 0 && (status != ERNIE_OK || !slot->linked)) ern_experts_empty(e, job->slot);
}

/* A slot whose read ahead no reader has begun. */
static uint32_t experts_steal(ern_experts *e)
{
    ern_experts_job *job = e->ahead.last;
    while (job && (job->n_taken || job->slot == ERN_EXPERTS_NONE)) job = job->before;
    if (!job) return ERN_EXPERTS_NONE;
    ern_experts_withdraw(e, job);
    return job->slot;
}

/* The floor is a wish: a layer that needs more at once than the others leave takes it from them. */
static uint32_t experts_make_room(ern_experts *e, uint32_t expert)
{
    const uint16_t layer = (uint16_t)experts_layer(e, expert);
    size_t found =
        ern_policy_victim(e->policy, e->ranks, e->n_usable, e->clock, layer, e->count, e->floor);
    if (found == ERN_POLICY_NONE && e->floor)
        found = ern_policy_victim(e->policy, e->ranks, e->n_usable, e->clock, layer, e->count, 0);
    const uint32_t i = found == ERN_POLICY_NONE ? experts_steal(e) : (uint32_t)found;
    if (i != ERN_EXPERTS_NONE && !e->ranks[i].empty) ern_experts_empty(e, i);
    return i;
}

/* The same for a read ahead, which takes nothing that may be wanted sooner. The policy names the
 * oldest, so there is no use in asking for another one. */
static uint32_t experts_make_room_ahead(ern_experts *e, uint32_t expert)
{
    const size_t found = ern_policy_victim(e->policy, e->ranks, e->n_usable, e->clock,
                                           (uint16_t)experts_layer(e, expert), e->count, e->floor);
    if (found == ERN_POLICY_NONE) return ERN_EXPERTS_NONE;
    const ern_policy_slot *rank = &e->ranks[found];
    const uint64_t safe = e->slots[found].ahead ? EXPERTS_AHEAD_TICKS : 0;
    if (rank->empty) return (uint32_t)found;
    if (rank->used_at + safe >= e->clock) return ERN_EXPERTS_NONE;
    ern_experts_empty(e, (uint32_t)found);
    return (uint32_t)found;
}

/* ---- Use ----------------------------------------------------------------------------------- */

/* An expert that is there or on its way. */
static ern_pin experts_pin_found(ern_experts *e, ern_experts_slot *slot, ern_experts_stats *stats)
{
    const bool ready = slot->state == ERN_EXPERTS_READY;
    if (slot->state == ERN_EXPERTS_FAILED) {
        slot->state = ERN_EXPERTS_LOADING;
        ern_experts_submit(e, &slot->job, true);
        stats->n_misses++;
        stats->bytes_read += e->expert_bytes;
        return ERN_PIN_LOADING;
    }
    if (!ready) ern_experts_hurry(e, &slot->job);
    stats->n_hits += ready;
    stats->n_joined += !ready;
    stats->n_ahead_used += slot->ahead;
    slot->ahead = false;
    return ready ? ERN_PIN_READY : ERN_PIN_LOADING;
}

ERN_FN ern_pin ern_experts_pin(ern_experts *e, uint32_t layer, uint32_t expert,
                               ern_experts_stats *stats, uint32_t *out)
{
    ern_experts_stats nobody = { 0 };
    const uint32_t number = experts_number(e, layer, expert);
    ern_pin pin = ERN_PIN_FULL;
    if (!stats) stats = &nobody;
    ern_experts_lock(e);
    uint32_t i = e->table[number];
    if (i != ERN_EXPERTS_NONE) {
        pin = experts_pin_found(e, &e->slots[i], stats);
    } else if ((i = experts_make_room(e, number)) != ERN_EXPERTS_NONE) {
        ern_experts_fill(e, i, number, true);
        stats->n_misses++;
        stats->bytes_read += e->expert_bytes;
        pin = ERN_PIN_LOADING;
    }
    if (pin != ERN_PIN_FULL) {
        stats->n_pins++;
        e->slots[i].n_pins++;
        e->ranks[i].held = true;
        *out = i;
    }
    ern_experts_unlock(e);
    return pin;
}

static ernie_status experts_failure(const ern_experts_job *job, ernie_error *error)
{
    char sentence[sizeof error->message];
    memcpy(sentence, job->data, sizeof sentence);
    return ern_error_set(error, job->status, "%s", sentence);
}

ERN_FN ernie_status ern_experts_get(ern_experts *e, uint32_t i, const unsigned char **data,
                                    ernie_error *error)
{
    ernie_status status = ERNIE_FULL;
    ern_experts_lock(e);
    const ern_experts_slot *slot = &e->slots[i];
    ERN_ASSERT(slot->n_pins > 0);
    if (slot->state == ERN_EXPERTS_READY) status = ERNIE_OK;
    if (slot->state == ERN_EXPERTS_FAILED) status = experts_failure(&slot->job, error);
    *data = status == ERNIE_OK ? slot->job.data : NULL;
    ern_experts_unlock(e);
    return status;
}

/* The clock has counted this use, or nobody's. */
static void experts_used(ern_experts *e, uint32_t i, bool recent)
{
    if (recent) {
        ern_policy_use(&e->ranks[i], e->clock);
        e->slots[i].counted = true;
    } else if (!e->slots[i].counted) {
        e->ranks[i].used_at = 0;
    }
}

ERN_FN void ern_experts_unpin(ern_experts *e, uint32_t i, bool recent)
{
    ern_experts_lock(e);
    ern_experts_slot *slot = &e->slots[i];
    ERN_ASSERT(slot->n_pins > 0);
    slot->n_pins--;
    if (slot->state == ERN_EXPERTS_READY && slot->linked) experts_used(e, i, recent);
    if (slot->n_pins == 0 && slot->state != ERN_EXPERTS_LOADING) {
        e->ranks[i].held = false;
        e->has_events = true;
        if (slot->state == ERN_EXPERTS_FAILED || !slot->linked) ern_experts_empty(e, i);
    }
    ern_experts_unlock(e);
}

ERN_FN void ern_experts_tick(ern_experts *e)
{
    ern_experts_lock(e);
    e->clock++;
    ern_experts_unlock(e);
}

ERN_FN void ern_experts_ahead(ern_experts *e, uint32_t layer, uint32_t expert,
                              ern_experts_stats *stats)
{
    const uint32_t number = experts_number(e, layer, expert);
    ern_experts_lock(e);
    const uint32_t i = e->table[number] == ERN_EXPERTS_NONE ? experts_make_room_ahead(e, number)
                                                            : ERN_EXPERTS_NONE;
    if (i != ERN_EXPERTS_NONE) {
        ern_experts_fill(e, i, number, false);
        e->ranks[i].used_at = e->ranks[i].weighed_at = e->clock; /* about to be */
        e->slots[i].ahead = true;
        if (stats) {
            stats->n_ahead++;
            stats->bytes_read += e->expert_bytes;
        }
    }
    ern_experts_unlock(e);
}

ERN_FN unsigned ern_experts_events(ern_experts *e)
{
    return atomic_load(&e->events);
}

/* The waiter announces itself before the system compares the count, whoever changes the count looks
 * for waiters afterwards: at least one sees the other. */
ERN_FN void ern_experts_wait(ern_experts *e, unsigned events, double seconds)
{
    atomic_fetch_add(&e->n_waiting, 1);
    if (atomic_load(&e->events) == events) ern_wait_for(&e->events, events, seconds);
    atomic_fetch_sub(&e->n_waiting, 1);
}

/* ---- Beginning and ending ------------------------------------------------------------------ */

/* Once to measure, once to hand out. */
static ern_experts *experts_place(ern_arena *arena, const ern_format *format, unsigned n_readers)
{
    const ern_hparams *hp = &format->header->hparams;
    const uint32_t n_layers = ern_n_moe_layers(hp), n = n_layers * hp->n_experts;
    ern_experts scratch, *e = ern_arena_take(arena, 1, sizeof *e);
    ern_experts *at = e ? e : &scratch;
    at->layer_index = ern_arena_take(arena, hp->n_layers, sizeof *at->layer_index);
    at->count = ern_arena_take(arena, n_layers, sizeof *at->count);
    at->table = ern_arena_take(arena, n, sizeof *at->table);
    at->slots = ern_arena_take(arena, n, sizeof *at->slots);
    at->ranks = ern_arena_take(arena, n, sizeof *at->ranks);
    at->slabs = ern_arena_take(arena, n, sizeof *at->slabs);
    at->warm = ern_arena_take(arena, n, sizeof *at->warm);
    at->readers = ern_arena_take(arena, n_readers, sizeof *at->readers);
    return e;
}

ERN_FN uint64_t ern_experts_fixed_bytes(const ern_format *format, unsigned n_readers)
{
    ern_arena arena = { 0 };
    experts_place(&arena, format, n_readers);
    return ern_aligned_bytes(arena.used);
}

/* Everything but the file and the readers. */
static ern_experts *experts_alloc(const ern_experts_options *o)
{
    ern_arena arena = { 0 };
    experts_place(&arena, o->format, o->n_readers);
    void *block = arena.overflow ? NULL : ern_alloc_aligned(o->allocator, arena.used);
    if (!block) return NULL;
    memset(block, 0, arena.used);
    arena = (ern_arena){ .base = block, .size = arena.used };
    ern_experts *e = experts_place(&arena, o->format, o->n_readers);
    const ern_header *h = o->format->header;
    e->block_bytes = arena.used;
    e->allocator = o->allocator;
    e->format = o->format;
    e->n_layers = ern_n_moe_layers(&h->hparams);
    e->n_experts = e->n_layers * h->hparams.n_experts;
    e->records = o->format->records + (h->n_records - e->n_experts);
    e->expert_bytes = h->expert_bytes;
    e->policy = o->policy;
    e->io_limit = o->io_limit;
    e->io_latency = o->io_latency;
    e->clock = 1;
    e->warm_at = e->n_experts;
    atomic_init(&e->events, 0);
    atomic_init(&e->n_waiting, 0);
    atomic_init(&e->work, 0);
    atomic_init(&e->closing, false);
    atomic_init(&e->n_slots, 0);
    atomic_init(&e->n_bytes, 0);
    for (uint32_t i = 0; i < e->n_experts; i++) e->table[i] = ERN_EXPERTS_NONE;
    for (uint32_t i = 0, n = 0; i < h->hparams.n_layers; i++)
        e->layer_index[i] = ern_layer_is_moe(&h->hparams, i) ? (uint16_t)n++ : UINT16_MAX;
    return e;
}

static ernie_status experts_open_file(ern_experts *e, const ern_experts_options *o,
                                      ernie_error *error)
{
    const uint64_t expected = o->format->header->file_bytes;
    uint64_t n_bytes = 0;
    if (o->path) {
        const ernie_status status = ern_disk_open(&e->disk, o->path, o->n_readers, o->buffered,
                                                  o->allocator, &n_bytes, error);
        if (status != ERNIE_OK) return status;
    } else {
        e->source = *o->source;
        n_bytes = o->source->n_bytes;
    }
    ERN_FAIL_IF(n_bytes != expected, error, ERNIE_FORMAT,
                "the model's file has %llu bytes, its header says %llu",
                (unsigned long long)n_bytes, (unsigned long long)expected);
    return ERNIE_OK;
}

ERN_FN ernie_status ern_experts_open(ern_experts **out, const ern_experts_options *options,
                                     ernie_error *error)
{
    *out = NULL;
    ERN_ASSERT(options->path || options->source);
    ERN_FAIL_IF(options->n_readers == 0 || options->n_readers > EXPERTS_READERS_MAX, error,
                ERNIE_INVALID, "%u threads to read experts with, must be 1 .. %u",
                options->n_readers, EXPERTS_READERS_MAX);
    ERN_FAIL_IF(!options->format->header->expert_bytes, error, ERNIE_FORMAT,
                "the model has no experts to read from disk");
    ern_experts *e = experts_alloc(options);
    ERN_FAIL_IF(!e, error, ERNIE_NO_MEMORY, "no memory for the tables of %u experts",
                ern_n_moe_layers(&options->format->header->hparams)
                    * options->format->header->hparams.n_experts);
    ernie_status status = experts_open_file(e, options, error);
    if (status == ERNIE_OK) status = ern_experts_start(e, options->n_readers, error);
    if (status != ERNIE_OK) {
        ern_experts_close(e);
        return status;
    }
    *out = e;
    return ERNIE_OK;
}

ERN_FN void ern_experts_close(ern_experts *e)
{
    if (!e) return;
    ern_experts_stop(e);
    ern_disk_close(e->disk);
    for (uint32_t i = 0; i < e->n_slabs; i++)
        ern_free_aligned(e->allocator, e->slabs[i].block, e->slabs[i].n_bytes);
    ern_free_aligned(e->allocator, e, e->block_bytes);
}

#undef EXPERTS_READERS_MAX
#undef EXPERTS_AHEAD_TICKS
