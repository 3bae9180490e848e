/* Experts that stay on disk, and the memory that holds some of them.
 *
 * Slots, each as large as any expert of the file; a team of readers that fills them; and the rule
 * which expert gives way (policy.h). Whoever computes pins an expert, waits until it is there,
 * reads it in place and lets it go. Knows records and bytes; no maths, no sessions.
 *
 * A slot is EMPTY, LOADING (queued or being read), READY or FAILED; pinned slots are never taken
 * away. Every expert is checked against its record's checksum before it is READY, is read a second
 * time through the page cache when reading or the check fails, and is FAILED with a sentence when
 * that fails, too; the next pin of an expert that failed starts anew.
 *
 * Threads: every function but open and close may be called from any thread. Nobody is woken for
 * being cancelled: wait with a limit and look. */
#ifndef ERN_EXPERTS_H
#define ERN_EXPERTS_H

#include "format.h"
#include "os.h"
#include "policy.h"

typedef struct ern_experts ern_experts;

typedef struct ern_experts_options {
    const char *path;           /* the model file, or NULL: */
    const ernie_source *source; /* the application's; copied */
    const ern_format *format;   /* checked; outlives the ern_experts */
    const ernie_allocator *allocator;
    const ern_log *log;
    unsigned n_readers;  /* 1 .. 64 threads */
    bool buffered;       /* through the page cache from the start */
    ern_policy policy;
    double io_limit;     /* bytes a second that all readers share; 0: none */
    double io_latency;   /* seconds added to every read; 0: none */
} ern_experts_options;

/* What one session has asked of the experts; sums since it was created. */
typedef struct ern_experts_stats {
    uint64_t n_pins;         /* experts asked for */
    uint64_t n_hits;         /* that were READY */
    uint64_t n_joined;       /* that a read ahead had begun to load */
    uint64_t n_misses;       /* that had to be read */
    uint64_t n_ahead;        /* reads ahead begun */
    uint64_t n_ahead_used;   /* pins of what a read ahead had brought (hits and joined) */
    uint64_t bytes_read;     /* of misses and reads ahead */
    double wait_seconds;     /* that computing stood still for a read */
} ern_experts_stats;

/* Open the file or source for reading and start the readers; there are no slots yet. Statuses of
 * ern_disk_open; ERNIE_FORMAT when the model has no experts or the file's length is not the
 * header's; ERNIE_NO_MEMORY. After failure *out is NULL. */
ERN_FN ernie_status ern_experts_open(ern_experts **out, const ern_experts_options *options,
                                     ernie_error *error);
/* Ends reads under way (within a piece) and the readers. Nothing may be pinned. NULL is fine. */
ERN_FN void ern_experts_close(ern_experts *experts);

/* ---- Memory -------------------------------------------------------------------------------- */

/* Bytes that n slots take, with their tables; and what the tables of all take besides. */
ERN_FN uint64_t ern_experts_slot_bytes(const ern_format *format, uint64_t n_slots);
ERN_FN uint64_t ern_experts_fixed_bytes(const ern_format *format, unsigned n_readers);

/* Have as many slots as fit into n_bytes (never more than there are experts), in blocks of several:
 * grow, or give blocks back, waiting for what is pinned or loading there. ERNIE_NO_MEMORY when the
 * allocator refuses: the slots there were stay. One caller at a time. */
ERN_FN ernie_status ern_experts_resize(ern_experts *experts, uint64_t n_bytes, ernie_error *error);
ERN_FN uint32_t ern_experts_n_slots(const ern_experts *experts);
ERN_FN uint64_t ern_experts_bytes(const ern_experts *experts); /* the slots take now */

/* ---- Use ----------------------------------------------------------------------------------- */

typedef enum ern_pin { ERN_PIN_READY, ERN_PIN_LOADING, ERN_PIN_FULL } ern_pin;

/* Pin expert `expert` of layer `layer` (its number in the model). READY: use it. LOADING: it will
 * be, or fail. FULL: every slot is pinned or being read, nothing was pinned; try again after a
 * wait. A miss is queued behind earlier ones and before every read ahead. *slot is valid until
 * unpinned. Pins count: each needs its unpin. */
ERN_FN ern_pin ern_experts_pin(ern_experts *experts, uint32_t layer, uint32_t expert,
                               ern_experts_stats *stats, uint32_t *slot);

/* Of a pinned slot: is it there? ERNIE_OK: READY, *data is its record's bytes. ERNIE_FULL: still
 * LOADING. Else it failed: ERNIE_IO or ERNIE_CORRUPT with a sentence that names layer, expert and
 * offset; unpin it all the same. */
ERN_FN ernie_status ern_experts_get(ern_experts *experts, uint32_t slot,
                                    const unsigned char **data, ernie_error *error);

/* Let go. `recent`: the use counts for what is kept; otherwise (a long prompt passing through) an
 * expert that no use has counted for goes to the old end, any other stays where it is. */
ERN_FN void ern_experts_unpin(ern_experts *experts, uint32_t slot, bool recent);

/* A token has been computed: the clock by which experts are forgotten. */
ERN_FN void ern_experts_tick(ern_experts *experts);

/* Read ahead, if the expert is absent and a slot can be had without taking one used at the present
 * clock: done only while no miss is queued or being read. */
ERN_FN void ern_experts_ahead(ern_experts *experts, uint32_t layer, uint32_t expert,
                              ern_experts_stats *stats);

/* Events (an expert landed or failed, a slot was let go) are counted: take the count, look at what
 * you wait for, then wait until it is another or the seconds are over. */
ERN_FN unsigned ern_experts_events(ern_experts *experts);
ERN_FN void ern_experts_wait(ern_experts *experts, unsigned events, double seconds);

/* ---- The disk's speed, the file's checks ---------------------------------------------------- */

/* Read experts from all over the file for about `seconds`, as misses are read, into memory of their
 * own; *rate receives bytes a second. ERNIE_IO, ERNIE_CORRUPT, ERNIE_NO_MEMORY, ERNIE_CANCELLED. */
ERN_FN ernie_status ern_experts_probe(ern_experts *experts, double seconds,
                                      const ernie_cancel *cancel, double *rate, ernie_error *error);

/* Check the expert record i_record of the index and the zeros behind it, reading it anew, as a miss
 * does: ERNIE_CORRUPT or ERNIE_IO after a second try, with a sentence as ern_experts_get's;
 * ERNIE_CANCELLED (*cancel, which may be NULL, was set) within a piece. */
ERN_FN ernie_status ern_experts_verify(ern_experts *experts, uint32_t i_record,
                                       const ernie_cancel *cancel, ernie_error *error);

/* What the two allocate. */
ERN_FN uint64_t ern_experts_probe_bytes(const ern_experts *experts);
ERN_FN uint64_t ern_experts_verify_bytes(const ern_experts *experts);

/* Seconds that at least one read was under way, since opening. */
ERN_FN double ern_experts_busy_seconds(ern_experts *experts);

/* ---- Which experts were in memory, kept for the next start (experts_warm.c)
 * ------------------- */

/* Write the set of READY experts, with how recently they were used, to `path`: whole or not at
 * all. */
ERN_FN ernie_status ern_experts_save(ern_experts *experts, const char *path, ernie_error *error);

/* Read ahead, in the file's order, what `path` lists and slots have room for, the latest used first
 * where not all fit. Only into empty slots and only while no miss is queued or being read. A list
 * of another model or a damaged one is refused (ERNIE_MISMATCH, ERNIE_FORMAT, ERNIE_CORRUPT,
 * ERNIE_IO; ERNIE_NO_MEMORY) and changes nothing. */
ERN_FN ernie_status ern_experts_load(ern_experts *experts, const char *path, ernie_error *error);

#endif
