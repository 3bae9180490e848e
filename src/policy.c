/* The order of forgetting (policy.h). A look at every slot is microseconds beside a read of
 * megabytes. */
#include "policy.h"

static float policy_frequency(const ern_policy_slot *slot, uint64_t clock)
{
    const uint64_t age = clock > slot->weighed_at ? clock - slot->weighed_at : 0;
    return slot->frequency * exp2f(-(float)age / ERN_POLICY_HALF_LIFE);
}

ERN_FN void ern_policy_use(ern_policy_slot *slot, uint64_t clock)
{
    slot->frequency = policy_frequency(slot, clock) + 1.0f;
    slot->weighed_at = clock;
    slot->used_at = clock;
}

/* 0 for the last token, 1 for the one before, then steps that double; 64: the old end. */
static unsigned policy_age_step(const ern_policy_slot *slot, uint64_t clock)
{
    if (slot->used_at == 0) return 64;
    unsigned step = 0;
    for (uint64_t age = clock > slot->used_at ? clock - slot->used_at : 0; age; age >>= 1) step++;
    return step;
}

/* Does a give way before b? */
static bool policy_before(ern_policy policy, const ern_policy_slot *a, const ern_policy_slot *b,
                          uint64_t clock)
{
    if (policy == ERN_POLICY_LRU) return a->used_at < b->used_at;
    const unsigned step_a = policy_age_step(a, clock), step_b = policy_age_step(b, clock);
    if (step_a != step_b) return step_a > step_b;
    return policy_frequency(a, clock) < policy_frequency(b, clock);
}

ERN_FN size_t ern_policy_victim(ern_policy policy, const ern_policy_slot *slots, size_t n_slots,
                                uint64_t clock, uint16_t layer, const uint32_t *count,
                                uint32_t floor)
{
    size_t best = ERN_POLICY_NONE;
    for (size_t i = 0; i < n_slots; i++) {
        const ern_policy_slot *slot = &slots[i];
        if (slot->held) continue;
        if (slot->empty) return i;
        if (slot->layer != layer && count[slot->layer] <= floor) continue;
        if (best == ERN_POLICY_NONE || policy_before(policy, slot, &slots[best], clock)) best = i;
    }
    return best;
}
