/* Do rows of the cache lie where kv.h says, and do keys come out of their groups as they went in? */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "../../src/kv.h"

enum { N_POSITIONS = 40, BYTES_MAX = 64 << 10 };

static const size_t dims[] = { 2, 30, 32, 34, 64, 96, 128, 250 };

static unsigned char test_byte(size_t position, size_t i) /* any, all different enough */
{
    return (unsigned char)((position * 131 + i * 29 + position * i) ^ (i >> 3));
}

static void sizes_are_those_of_the_description(void **state)
{
    (void)state;
    for (size_t i = 0; i < ERN_COUNT(dims); i++) {
        const size_t d = dims[i], n_blocks = (d + 31) / 32;
        assert_int_equal(ern_kv_key_bytes(ERN_KV_F32, d), 4 * d);
        assert_int_equal(ern_kv_value_bytes(ERN_KV_F16, d), 2 * d);
        assert_int_equal(ern_kv_key_bytes(ERN_KV_Q8, d), 34 * n_blocks);
        assert_int_equal(ern_kv_value_bytes(ERN_KV_Q8, d), 34 * n_blocks);
        assert_int_equal(ern_kv_key_bytes(ERN_KV_Q4, d), 22 * n_blocks);
        assert_int_equal(ern_kv_value_bytes(ERN_KV_Q4, d), 18 * n_blocks);
        assert_int_equal(ern_kv_group_bytes(ERN_KV_F16, d), 2 * d);
        assert_int_equal(ern_kv_group_bytes(ERN_KV_Q4, d), ern_round_up(16 * 22 * n_blocks, 64));
    }
    assert_int_equal(ern_kv_group(ERN_KV_F32), 1);
    assert_int_equal(ern_kv_group(ERN_KV_Q8), 16);
}

/* In rising order, again over what is there, and in falling order within a group. */
static void keys_come_out_as_they_went_in(void **state)
{
    (void)state;
    static unsigned char keys[BYTES_MAX], row[2000], got[2000];
    for (unsigned kv = 0; kv < ERN_N_KV; kv++)
        for (size_t i = 0; i < ERN_COUNT(dims); i++) {
            const size_t d = dims[i], n_bytes = ern_kv_key_bytes((ern_kv)kv, d);
            const size_t n_all =
                (N_POSITIONS + 15) / ern_kv_group((ern_kv)kv) * ern_kv_group_bytes((ern_kv)kv, d);
            assert_true(n_all < BYTES_MAX);
            memset(keys, 0xa5, sizeof keys);
            for (size_t round = 0; round < 2; round++) {
                for (size_t p = 0; p < N_POSITIONS; p++) {
                    for (size_t j = 0; j < n_bytes; j++) row[j] = test_byte(p + 100 * round, j);
                    ern_kv_key_put((ern_kv)kv, d, keys, p, row);
                }
                for (size_t p = 0; p < N_POSITIONS; p++) {
                    for (size_t j = 0; j < n_bytes; j++) row[j] = test_byte(p + 100 * round, j);
                    memset(got, 0x11, sizeof got);
                    ern_kv_key_get((ern_kv)kv, d, keys, p, got);
                    assert_memory_equal(got, row, n_bytes);
                    assert_int_equal(got[n_bytes], 0x11);
                }
            }
            for (size_t p = N_POSITIONS; p-- > 33;) { /* not the first of a group: the others stay */
                for (size_t j = 0; j < n_bytes; j++) row[j] = test_byte(p + 7, j);
                ern_kv_key_put((ern_kv)kv, d, keys, p, row);
                for (size_t other = 32; other < N_POSITIONS; other++) {
                    const size_t seed = other >= p ? other + 7 : other + 100;
                    for (size_t j = 0; j < n_bytes; j++) row[j] = test_byte(seed, j);
                    ern_kv_key_get((ern_kv)kv, d, keys, other, got);
                    assert_memory_equal(got, row, n_bytes);
                }
            }
            assert_int_equal(keys[n_all], 0xa5);
        }
}

/* Each part of a row, at the address that kv.h gives it. */
static void groups_lie_as_described(void **state)
{
    (void)state;
    static unsigned char keys[2 * 2176], row[136];
    const size_t position = 16 + 5, d = 128;
    for (size_t j = 0; j < sizeof row; j++) row[j] = test_byte(3, j);

    ern_kv_key_put(ERN_KV_Q8, d, keys, position, row);
    const unsigned char *group = keys + 2176;
    for (size_t i = 0; i < d; i++) assert_int_equal(group[i / 4 * 64 + 5 * 4 + i % 4], row[i]);
    for (size_t b = 0; b < 4; b++)
        assert_memory_equal(group + 2048 + (b * 16 + 5) * 2, row + 128 + 2 * b, 2);

    ern_kv_key_put(ERN_KV_Q4, d, keys, position, row);
    group = keys + 1408;
    for (size_t i = 0; i < 64; i++) assert_int_equal(group[i / 4 * 64 + 5 * 4 + i % 4], row[i]);
    for (size_t i = 0; i < d; i++) {
        const unsigned byte = group[1024 + i / 4 * 8 + 5 / 2], bit = 4 * (5 % 2) + i % 4;
        assert_int_equal(byte >> bit & 1u, (unsigned)row[64 + i / 8] >> i % 8 & 1u);
    }
    for (size_t b = 0; b < 4; b++)
        assert_memory_equal(group + 1280 + (b * 16 + 5) * 2, row + 80 + 2 * b, 2);
}

/* What a group held before its first position is gone, so that no byte of it was never written. */
static void the_first_of_a_group_clears_it(void **state)
{
    (void)state;
    static unsigned char keys[2176], row[136];
    memset(keys, 0xff, sizeof keys);
    memset(row, 0x77, sizeof row);
    ern_kv_key_put(ERN_KV_Q8, 128, keys, 0, row);
    for (size_t i = 0; i < 2048; i++) assert_int_equal(keys[i], i % 64 < 4 ? 0x77 : 0);
    for (size_t i = 2048; i < 2176; i++) assert_int_equal(keys[i], i % 32 < 2 ? 0x77 : 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_are_those_of_the_description),
        cmocka_unit_test(keys_come_out_as_they_went_in),
        cmocka_unit_test(groups_lie_as_described),
        cmocka_unit_test(the_first_of_a_group_clears_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
