/* The memory of slots (experts.h): slabs of several, so that some can be given back. They come and
 * go at the end; giving back evicts what lies there, whatever the policy thinks of it. */
#include "experts_inner.h"

#define SLABS_BYTES       ((uint64_t)64 << 20) /* of one; from here on huge pages are to be had */
#define SLABS_LEAST       16u /* slabs where slots allow: what giving a little back costs */
#define SLABS_SPARE       (ERN_DISK_ALIGN + ERN_CACHE_LINE)
#define SLABS_FLOOR_SPARE 2u  /* experts a layer keeps beyond those that one token needs */
#define SLABS_PATIENCE    1.0 /* seconds between two looks at slots that are being let go */

/* How many slots are allocated together when there are to be n in all. */
static uint32_t slabs_slots_each(uint64_t expert_bytes, uint64_t n_slots)
{
    const uint64_t most = (SLABS_BYTES + expert_bytes - 1) / expert_bytes;
    const uint64_t some = (n_slots + SLABS_LEAST - 1) / SLABS_LEAST;
    return (uint32_t)(some < most ? some : most);
}

/* What n slots take at most when they are allocated at once: grows with n. */
static uint64_t slabs_bytes_of(uint64_t expert_bytes, uint64_t n_slots)
{
    uint64_t bytes;
    if (!ern_mul_u64(&bytes, n_slots, expert_bytes)) return UINT64_MAX;
    const uint64_t many = SLABS_LEAST + bytes / SLABS_BYTES;
    const uint64_t n_slabs = n_slots < many ? n_slots : many;
    return ern_add_u64(&bytes, bytes, n_slabs * SLABS_SPARE) ? bytes : UINT64_MAX;
}

ERN_FN uint64_t ern_experts_slot_bytes(const ern_format *format, uint64_t n_slots)
{
    return slabs_bytes_of(format->header->expert_bytes, n_slots);
}

/* The most slots that fit into n_bytes. */
static uint32_t slabs_fit(const ern_experts *e, uint64_t n_bytes)
{
    uint32_t low = 0, high = e->n_experts;
    while (low < high) {
        const uint32_t middle = low + (high - low + 1) / 2;
        if (slabs_bytes_of(e->expert_bytes, middle) <= n_bytes)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* Slots from n on are for nobody any more, those before it for everybody. Under the lock. */
static void slabs_set_usable(ern_experts *e, uint32_t n)
{
    const uint32_t most = e->format->header->hparams.moe_k + SLABS_FLOOR_SPARE;
    e->n_usable = n;
    e->floor = n / e->n_layers < most ? n / e->n_layers : most;
    for (uint32_t i = n; i < atomic_load(&e->n_slots); i++) {
        ern_experts_slot *slot = &e->slots[i];
        ern_experts_unlink(e, i);
        if (slot->n_pins || slot->state == ERN_EXPERTS_EMPTY) continue;
        if (slot->state == ERN_EXPERTS_LOADING && !ern_experts_withdraw(e, &slot->job)) continue;
        ern_experts_empty(e, i);
    }
}

static bool slabs_all_empty(ern_experts *e, uint32_t from)
{
    bool empty = true;
    ern_experts_lock(e);
    for (uint32_t i = from; empty && i < atomic_load(&e->n_slots); i++)
        empty = e->slots[i].state == ERN_EXPERTS_EMPTY;
    ern_experts_unlock(e);
    return empty;
}

/* Give slabs back from the end until at most n slots and n_bytes are left. */
static void slabs_shrink(ern_experts *e, uint32_t n, uint64_t n_bytes)
{
    uint32_t n_slots = atomic_load(&e->n_slots), n_slabs = e->n_slabs;
    uint64_t taken = atomic_load(&e->n_bytes);
    while (n_slabs && (n_slots > n || taken > n_bytes)) {
        n_slots -= e->slabs[--n_slabs].n_slots;
        taken -= ern_aligned_bytes(e->slabs[n_slabs].n_bytes);
    }
    if (n_slabs == e->n_slabs) return;
    ern_experts_lock(e);
    slabs_set_usable(e, n_slots);
    ern_experts_unlock(e);
    for (unsigned events = ern_experts_events(e); !slabs_all_empty(e, n_slots);
         events = ern_experts_events(e))
        ern_experts_wait(e, events, SLABS_PATIENCE);
    ern_experts_lock(e);
    atomic_store(&e->n_slots, n_slots);
    ern_experts_unlock(e);
    for (; e->n_slabs > n_slabs; e->n_slabs--)
        ern_free_aligned(e->allocator, e->slabs[e->n_slabs - 1].block,
                         e->slabs[e->n_slabs - 1].n_bytes);
    atomic_store(&e->n_bytes, taken);
}

/* One more slab of n slots; false when there is no memory. */
static bool slabs_add_slab(ern_experts *e, uint32_t n)
{
    ern_experts_slab slab = { .n_slots = n };
    const uint32_t first = atomic_load(&e->n_slots);
    if (e->expert_bytes > (SIZE_MAX - ERN_DISK_ALIGN) / n) return false;
    slab.n_bytes = n * (size_t)e->expert_bytes + ERN_DISK_ALIGN;
    slab.block = ern_alloc_filled(e->allocator, slab.n_bytes);
    if (!slab.block) return false;
    unsigned char *data = slab.block;
    data += -(uintptr_t)data % ERN_DISK_ALIGN;
    for (uint32_t i = 0; i < n; i++) { /* nobody looks beyond n_slots */
        e->slots[first + i] = (ern_experts_slot){ .job.data = data + i * (size_t)e->expert_bytes };
        e->ranks[first + i] = (ern_policy_slot){ .empty = true };
    }
    e->slabs[e->n_slabs++] = slab;
    atomic_fetch_add(&e->n_bytes, ern_aligned_bytes(slab.n_bytes));
    ern_experts_lock(e);
    atomic_store(&e->n_slots, first + n);
    slabs_set_usable(e, first + n);
    e->has_events = e->has_work = true;
    ern_experts_unlock(e);
    return true;
}

/* How many slots the next slab has: at most k, up to n in all, within n_bytes. */
static uint32_t slabs_next_slab(const ern_experts *e, uint32_t k, uint32_t n, uint64_t n_bytes)
{
    const uint32_t n_slots = atomic_load(&e->n_slots);
    const uint64_t taken = atomic_load(&e->n_bytes) + SLABS_SPARE;
    if (n_slots >= n || taken > n_bytes) return 0;
    const uint64_t room = (n_bytes - taken) / e->expert_bytes;
    if (k > n - n_slots) k = n - n_slots;
    return room < k ? (uint32_t)room : k;
}

ERN_FN ernie_status ern_experts_resize(ern_experts *e, uint64_t n_bytes, ernie_error *error)
{
    const uint32_t n = slabs_fit(e, n_bytes), before = atomic_load(&e->n_slots);
    const uint32_t k = slabs_slots_each(e->expert_bytes, n);
    const uint64_t taken = atomic_load(&e->n_bytes);
    slabs_shrink(e, n, n_bytes);
    for (uint32_t more; (more = slabs_next_slab(e, k, n, n_bytes)) > 0;) {
        if (slabs_add_slab(e, more)) continue;
        if (before > n) return ERNIE_OK; /* a few less than would fit, as was asked for */
        slabs_shrink(e, before, taken);
        return ern_error_set(error, ERNIE_NO_MEMORY,
                             "no memory for %u experts of %llu bytes on top of %u", (unsigned)more,
                             (unsigned long long)e->expert_bytes,
                             (unsigned)atomic_load(&e->n_slots));
    }
    return ERNIE_OK;
}

ERN_FN uint32_t ern_experts_n_slots(const ern_experts *e)
{
    return atomic_load(&e->n_slots);
}

ERN_FN uint64_t ern_experts_bytes(const ern_experts *e)
{
    return atomic_load(&e->n_bytes);
}

#undef SLABS_BYTES
#undef SLABS_LEAST
#undef SLABS_SPARE
#undef SLABS_FLOOR_SPARE
#undef SLABS_PATIENCE
