/* The cost model of decoding from disk: its formula and its two curves. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../tools/ernie/cost.h"

static void assert_near(double value, double expected)
{
    if (!(fabs(value - expected) <= 1e-9)) fail_msg("%.12g, expected %.12g", value, expected);
}

static void test_memory_alone(void **state)
{
    (void)state;
    const cost_model cost = { .memory_bytes = 2e9, .memory_rate = 40e9, .n_layers = 27 };
    assert_near(cost_tokens_per_second(&cost, 0), 1 / (0.05 + 27 * 10e-6));
}

/* Bytes from disk pass the disk once and memory once more. */
static void test_disk(void **state)
{
    (void)state;
    const cost_model cost = { .memory_bytes = 2e9, .memory_rate = 40e9, .disk_rate = 2e9 };
    assert_near(cost_tokens_per_second(&cost, 0.4e9), 1 / (0.06 + 0.2));
}

static void test_unknown_rates(void **state)
{
    (void)state;
    const cost_model nothing = { .memory_bytes = 2e9, .disk_rate = 2e9 };
    const cost_model no_disk = { .memory_bytes = 2e9, .memory_rate = 40e9 };
    assert_near(cost_tokens_per_second(&nothing, 1e9), 0);
    assert_near(cost_tokens_per_second(&no_disk, 1e9), 0);
    assert_true(cost_tokens_per_second(&no_disk, 0) > 0);
}

static void test_curves(void **state)
{
    (void)state;
    assert_near(cost_hits_low(0.25), 0.27);
    assert_near(cost_hits_high(0.25), 0.68);
    assert_near(cost_hits_low(0.3125), (0.27 + 0.42) / 2);
    assert_near(cost_hits_low(0), 0);
    assert_near(cost_hits_high(1), 1);
    assert_near(cost_hits_high(2), 1);
    for (int i = 1; i <= 1000; i++) {
        const double share = i / 1000.0, before = (i - 1) / 1000.0;
        assert_true(cost_hits_low(share) > cost_hits_low(before));
        assert_true(cost_hits_high(share) > cost_hits_high(before));
        assert_true(cost_hits_low(share) <= cost_hits_high(share));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_alone),
        cmocka_unit_test(test_disk),
        cmocka_unit_test(test_unknown_rates),
        cmocka_unit_test(test_curves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
