/* Which expert gives way: the order in which a cache of experts forgets. Pure bookkeeping on plain
 * structs, shared by the cache (experts.h) and by the replay of traces; knows neither files nor
 * threads. */
#ifndef ERN_POLICY_H
#define ERN_POLICY_H

#include "ern.h"

typedef enum ern_policy {
    ERN_POLICY_LRU = 0,  /* what was used longest ago */
    ERN_POLICY_LFRU = 1, /* ages in steps of 1, 2, 4, 8, ... tokens; among equals the less frequent */
    ERN_N_POLICIES = 2
} ern_policy;

/* One slot, as the policy sees it. */
typedef struct ern_policy_slot {
    uint64_t used_at;  /* token clock of the last use that counts; 0: the old end */
    uint64_t weighed_at; /* token clock of `frequency` */
    float frequency;   /* uses, each halved every ERN_POLICY_HALF_LIFE tokens */
    uint16_t layer;    /* number of the moe layer that the expert belongs to */
    bool held;         /* must not go: pinned or being read */
    bool empty;        /* holds nothing */
} ern_policy_slot;

#define ERN_POLICY_HALF_LIFE 64.0f
#define ERN_POLICY_NONE SIZE_MAX

/* The expert in the slot was used at `clock` (1 and up). */
ERN_FN void ern_policy_use(ern_policy_slot *slot, uint64_t clock);

/* The slot that gives way to an expert of `layer`: an empty one, else the first in the order of
 * forgetting that is not held and whose layer keeps more than `floor` experts (count [n_layers]) or
 * is `layer` itself; ERN_POLICY_NONE when there is none. Lowest index among equals. */
ERN_FN size_t ern_policy_victim(ern_policy policy, const ern_policy_slot *slots, size_t n_slots,
                                uint64_t clock, uint16_t layer, const uint32_t *count,
                                uint32_t floor);

#endif
