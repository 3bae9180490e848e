/* The order of forgetting: who goes first, who must stay. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../src/policy.h"

#define N 6u

static const uint32_t no_count[4] = { 9, 9, 9, 9 };

static size_t victim(ern_policy policy, const ern_policy_slot *slots, uint64_t clock)
{
    return ern_policy_victim(policy, slots, N, clock, 0, no_count, 0);
}

/* Slots used at the given clocks, 0: never. */
static void fill(ern_policy_slot *slots, const uint64_t *used_at)
{
    memset(slots, 0, N * sizeof *slots);
    for (size_t i = 0; i < N; i++)
        if (used_at[i]) ern_policy_use(&slots[i], used_at[i]);
}

static void the_oldest_goes_first(void **state)
{
    (void)state;
    ern_policy_slot slots[N];
    fill(slots, (const uint64_t[N]){ 5, 3, 9, 3, 8, 7 });
    assert_int_equal(victim(ERN_POLICY_LRU, slots, 10), 1);
    slots[1].held = true;
    assert_int_equal(victim(ERN_POLICY_LRU, slots, 10), 3);
    slots[5].used_at = 0; /* the old end */
    assert_int_equal(victim(ERN_POLICY_LRU, slots, 10), 5);
    slots[4].empty = true;
    assert_int_equal(victim(ERN_POLICY_LRU, slots, 10), 4);
    slots[4].held = true;
    assert_int_equal(victim(ERN_POLICY_LRU, slots, 10), 5);
    for (size_t i = 0; i < N; i++) slots[i].held = true;
    assert_true(victim(ERN_POLICY_LRU, slots, 10) == ERN_POLICY_NONE);
    assert_true(ern_policy_victim(ERN_POLICY_LRU, slots, 0, 1, 0, no_count, 0) == ERN_POLICY_NONE);
}

static void among_equals_the_seldom_used_goes(void **state)
{
    (void)state;
    ern_policy_slot slots[N];
    /* ages 4 .. 7 are one step */
    fill(slots, (const uint64_t[N]){ 93, 94, 95, 96, 99, 100 });
    ern_policy_use(&slots[0], 93);
    ern_policy_use(&slots[1], 94);
    ern_policy_use(&slots[3], 96);
    assert_int_equal(victim(ERN_POLICY_LRU, slots, 100), 0);
    assert_int_equal(victim(ERN_POLICY_LFRU, slots, 100), 2);
    slots[2].held = true;
    assert_int_equal(victim(ERN_POLICY_LFRU, slots, 100), 0); /* the same uses, longer ago */
    /* A step older gives way however often it was used. */
    for (unsigned i = 0; i < 50; i++) ern_policy_use(&slots[0], 92);
    assert_int_equal(victim(ERN_POLICY_LFRU, slots, 100), 0);
    slots[5].used_at = 0;
    assert_int_equal(victim(ERN_POLICY_LFRU, slots, 100), 5);
}

static void uses_are_forgotten_by_halves(void **state)
{
    (void)state;
    ern_policy_slot slot = { 0 };
    ern_policy_use(&slot, 1);
    ern_policy_use(&slot, 1);
    assert_true(slot.frequency == 2.0f);
    ern_policy_use(&slot, 1 + (uint64_t)ERN_POLICY_HALF_LIFE);
    assert_true(fabsf(slot.frequency - 2.0f) < 1e-5f);
    assert_int_equal(slot.used_at, 1 + (uint64_t)ERN_POLICY_HALF_LIFE);
}

static void layers_keep_their_floor(void **state)
{
    (void)state;
    ern_policy_slot slots[N];
    fill(slots, (const uint64_t[N]){ 1, 2, 3, 4, 5, 6 });
    for (size_t i = 0; i < N; i++) slots[i].layer = (uint16_t)(i / 2);
    static const uint32_t count[3] = { 2, 2, 2 };
    for (unsigned policy = 0; policy < ERN_N_POLICIES; policy++) {
        const ern_policy p = (ern_policy)policy;
        assert_int_equal(ern_policy_victim(p, slots, N, 9, 2, count, 2), 4);
        assert_int_equal(ern_policy_victim(p, slots, N, 9, 0, count, 2), 0);
        assert_int_equal(ern_policy_victim(p, slots, N, 9, 2, count, 1), 0);
        assert_true(ern_policy_victim(p, slots, 4, 9, 2, count, 2) == ERN_POLICY_NONE);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_oldest_goes_first),
        cmocka_unit_test(among_equals_the_seldom_used_goes),
        cmocka_unit_test(uses_are_forgotten_by_halves),
        cmocka_unit_test(layers_keep_their_floor),
    };
    return cmocka_run_group_tests_name("policy", tests, NULL, NULL);
}
