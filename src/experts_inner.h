/* What the files of the expert cache (experts*.c) share, and nobody else includes.
 *
 * One lock guards everything but the bytes: those belong to the readers while a slot is LOADING,
 * and to whoever has pinned it once it is READY. */
#ifndef ERN_EXPERTS_INNER_H
#define ERN_EXPERTS_INNER_H

#include "experts.h"

#define ERN_EXPERTS_NONE UINT32_MAX

typedef enum ern_experts_state {
    ERN_EXPERTS_EMPTY,
    ERN_EXPERTS_LOADING, /* queued, being read or being checked */
    ERN_EXPERTS_READY,
    ERN_EXPERTS_FAILED /* as long as it is pinned */
} ern_experts_state;

/* One expert to be read. Its pieces are taken in order by whichever readers are free. */
typedef struct ern_experts_job {
    struct ern_experts_job *before, *after; /* in its queue */
    unsigned char *data;      /* [expert_bytes]; after a failure its first bytes are the sentence */
    uint32_t expert;          /* number among all experts: moe layer, then expert */
    uint32_t slot;            /* that it fills; ERN_EXPERTS_NONE: memory of someone else */
    uint32_t n_taken, n_done; /* pieces that a reader has begun, has ended */
    bool demand;              /* someone waits for it */
    bool queued;
    bool spoiled; /* a piece could not be read */
    bool dropped; /* what is left of it will not be read */
    bool over;
    ernie_status status; /* once over */
} ern_experts_job;

typedef struct ern_experts_slot {
    ern_experts_job job;
    uint32_t n_pins;
    ern_experts_state state;
    bool linked;  /* the table leads here */
    bool ahead;   /* a read ahead brought it, nobody has used it yet */
    bool counted; /* a use has counted */
} ern_experts_slot;

/* Slots that were allocated together. */
typedef struct ern_experts_slab {
    void *block;
    size_t n_bytes; /* of the block */
    uint32_t n_slots;
} ern_experts_slab;

typedef struct ern_experts_queue {
    ern_experts_job *first, *last;
} ern_experts_queue;

typedef struct ern_experts_reader {
    ern_thread thread;
    ern_experts *experts;
    unsigned i;
} ern_experts_reader;

struct ern_experts {
    ern_mutex mutex;
    atomic_uint events, n_waiting; /* of whoever computes */
    atomic_uint work;              /* changes when readers have something to look at */
    atomic_bool closing;
    bool has_events, has_work; /* to be told when the lock is let go */
    unsigned n_idle;           /* readers asleep */

    const ernie_allocator *allocator;
    const ern_format *format;
    const ern_record *records; /* [n_experts], of all layers */
    ern_disk *disk;            /* NULL: */
    ernie_source source;
    uint64_t expert_bytes;
    uint32_t n_pieces;  /* of one expert */
    uint32_t n_layers;  /* with experts */
    uint32_t n_experts; /* of all layers */
    ern_policy policy;
    double io_limit, io_latency;

    uint64_t clock;
    uint32_t floor;    /* experts that a layer keeps from the others */
    uint32_t n_usable; /* slots; those after them are being given back */
    uint32_t n_slabs;
    atomic_uint n_slots;
    _Atomic uint64_t n_bytes; /* that slabs take */
    uint16_t *layer_index;    /* [model layers]: which of those with experts */
    uint32_t *count;          /* [n_layers] experts in slots */
    uint32_t *table;          /* [n_experts]: slot */
    ern_experts_slot *slots;  /* [n_experts], n_slots in use */
    ern_policy_slot *ranks;   /* [n_experts], the slots as the policy sees them */
    ern_experts_slab *slabs;  /* [n_experts] */

    /* Reading. */
    ern_experts_queue demand, ahead;
    uint32_t n_demand; /* jobs that someone waits for and whose pieces are not all read */
    uint32_t n_reading;
    double busy_since, busy_seconds, throttle_until;
    unsigned n_readers; /* started */
    ern_experts_reader *readers;

    /* The list that is being loaded (experts_warm.c). */
    uint32_t *warm;   /* [n_experts] 0: not listed, else 1 + how long ago it was used */
    uint32_t warm_at; /* next expert to look at; n_experts: done */
    uint64_t warm_clock;

    size_t block_bytes; /* of this block, tables included */
};

/* ---- experts.c ------------------------------------------------------------------------------ */

ERN_FN void ern_experts_lock(ern_experts *experts);
/* Let go, then tell whoever waits for what has happened meanwhile. */
ERN_FN void ern_experts_unlock(ern_experts *experts);

/* The rest is called with the lock held. */

/* Nobody will find slot i's expert any more; and slot i, which nobody has pinned, holds nothing. */
ERN_FN void ern_experts_unlink(ern_experts *experts, uint32_t i);
ERN_FN void ern_experts_empty(ern_experts *experts, uint32_t i);
/* Fill the empty slot i with `expert`. */
ERN_FN void ern_experts_fill(ern_experts *experts, uint32_t i, uint32_t expert, bool demand);
/* A job is over: its slot becomes READY or FAILED, or empty when nobody wants it. */
ERN_FN void ern_experts_landed(ern_experts *experts, ern_experts_job *job, ernie_status status);

/* ---- experts_read.c ------------------------------------------------------------------------- */

ERN_FN ernie_status ern_experts_start(ern_experts *experts, unsigned n_readers, ernie_error *error);
ERN_FN void ern_experts_stop(ern_experts *experts);

/* Queue a job whose data, expert and slot are set. */
ERN_FN void ern_experts_submit(ern_experts *experts, ern_experts_job *job, bool demand);
/* Someone waits for it now. */
ERN_FN void ern_experts_hurry(ern_experts *experts, ern_experts_job *job);
/* Take it back, if no reader has begun; false otherwise. */
ERN_FN bool ern_experts_withdraw(ern_experts *experts, ern_experts_job *job);

/* ---- experts_warm.c ------------------------------------------------------------------------- */

/* Queue the next expert of the list that is being loaded; false when there is none. */
ERN_FN bool ern_experts_warm_next(ern_experts *experts);

#endif
