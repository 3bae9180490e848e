/* Who gets which memory: the ceiling, what is resident, what a session needs, what is left for
 * experts. Arithmetic on the file's header and a few numbers of the system; opens nothing,
 * allocates nothing. */
#ifndef ERN_PLAN_H
#define ERN_PLAN_H

#include "experts.h"

#define ERN_PLAN_UNLIMITED UINT64_MAX
/* Of a streamed model: kept free for what calls take and give back, texts and buffers of files. */
#define ERN_PLAN_SPARE ((uint64_t)2 << 20)

/* What a model may take and how its experts are held. */
typedef struct ern_plan {
    uint64_t ceiling;        /* bytes for everything; ERN_PLAN_UNLIMITED: no ceiling */
    uint64_t resident_bytes; /* of the file: all but the experts */
    uint64_t session_bytes;  /* of the session that is planned for, roughly */
    bool streams;            /* experts stay on disk */
} ern_plan;

/* The session that is planned for, as numbers: zero means the default. */
typedef struct ern_plan_session {
    uint32_t n_ctx, n_batch, n_threads;
    ernie_kv_type kv_type;
} ern_plan_session;

/* Decide from the first 4096 bytes of a file of n_bytes, which may be anything: a header that
 * cannot be right plans no streaming, and the reader will say what is wrong. `memory`: the
 * caller's ceiling, 0 for what the machine has available less a reserve. ERNIE_NO_MEMORY when no
 * way of holding the model keeps within the ceiling; the sentence names the least that does. */
ERN_FN ernie_status ern_plan_make(ern_plan *plan, const ern_header *header, uint64_t n_bytes,
                                  uint64_t memory, const ern_plan_session *session,
                                  unsigned n_readers, ernie_error *error);

/* The fewest slots that experts are streamed through: two tokens' worth of a layer, all of it if
 * that is less. */
ERN_FN uint64_t ern_plan_slots_min(const ern_header *header);

/* All experts of the file. */
ERN_FN uint64_t ern_plan_n_experts(const ern_header *header);

#endif
