/* Blocks, the arena, checked arithmetic, half-width floats, hashes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../src/hash.h"
#include "test_allocator.h"

static void blocks_balance(void **state)
{
    (void)state;
    test_allocator counter;
    ernie_allocator allocator;
    test_allocator_begin(&counter, &allocator);
    static const size_t sizes[] = { 0, 1, 63, 64, 65, 4096, 100000 };
    for (size_t i = 0; i < ERN_COUNT(sizes); i++) {
        void *plain = ern_alloc(&allocator, sizes[i]);
        unsigned char *zero = ern_alloc_zero(&allocator, sizes[i]);
        unsigned char *aligned = ern_alloc_aligned(&allocator, sizes[i]);
        assert_non_null(plain);
        for (size_t j = 0; j < sizes[i]; j++) assert_int_equal(zero[j], 0);
        assert_int_equal((uintptr_t)aligned % 64, 0);
        memset(aligned, 0xff, sizes[i]);
        plain = ern_resize(&allocator, plain, sizes[i], sizes[i] * 2);
        assert_non_null(plain);
        ern_free(&allocator, plain, sizes[i] * 2);
        ern_free(&allocator, zero, sizes[i]);
        ern_free_aligned(&allocator, aligned, sizes[i]);
    }
    ern_free(&allocator, NULL, 5);
    ern_free_aligned(&allocator, NULL, 5);
    assert_int_equal(counter.live, 0);
    assert_int_equal(counter.n_wrong_sizes, 0);
}

static void resize_grows_from_nothing_and_shrinks_to_nothing(void **state)
{
    (void)state;
    test_allocator counter;
    ernie_allocator allocator;
    test_allocator_begin(&counter, &allocator);
    char *ptr = ern_resize(&allocator, NULL, 0, 10);
    assert_non_null(ptr);
    memcpy(ptr, "123456789", 10);
    ptr = ern_resize(&allocator, ptr, 10, 5);
    assert_memory_equal(ptr, "12345", 5);
    ptr = ern_resize(&allocator, ptr, 5, 0);
    assert_non_null(ptr);
    ern_free(&allocator, ptr, 0);
    assert_int_equal(counter.live, 0);
    assert_int_equal(counter.n_wrong_sizes, 0);
}

static void failures_give_null(void **state)
{
    (void)state;
    test_allocator counter;
    ernie_allocator allocator;
    test_allocator_begin(&counter, &allocator);
    test_allocator_fail_at(&counter, 0, true);
    assert_null(ern_alloc(&allocator, 1));
    assert_null(ern_alloc_zero(&allocator, 1));
    assert_null(ern_alloc_aligned(&allocator, 1));
    assert_null(ern_alloc_aligned(&allocator, SIZE_MAX - 1));
    assert_null(ern_resize(&allocator, NULL, 0, 1));
    assert_int_equal(counter.live, 0);
}

static void take_three(ern_arena *arena, void *piece[3])
{
    piece[0] = ern_arena_take(arena, 3, 5);
    piece[1] = ern_arena_take(arena, 0, 8);
    piece[2] = ern_arena_take(arena, 65, 1);
}

static void arena_measures_then_hands_out(void **state)
{
    (void)state;
    const ernie_allocator *allocator = ern_allocator_default();
    void *piece[3];
    ern_arena plan = { 0 };
    take_three(&plan, piece);
    assert_null(piece[0]);
    assert_int_equal(plan.used, 64 + 0 + 128);
    assert_false(plan.overflow);

    ern_arena arena = { .base = ern_alloc_aligned(allocator, plan.used), .size = plan.used };
    take_three(&arena, piece);
    assert_ptr_equal(piece[0], arena.base);
    assert_ptr_equal(piece[2], arena.base + 64);
    assert_int_equal(arena.used, plan.used);
    assert_false(arena.overflow);
    assert_null(ern_arena_take(&arena, 1, 1)); /* one byte more than planned */
    assert_true(arena.overflow);
    ern_free_aligned(allocator, arena.base, plan.used);
}

static void arena_overflow_sticks(void **state)
{
    (void)state;
    static const size_t cases[][2] = {
        { SIZE_MAX, 2 }, { SIZE_MAX, 1 }, { SIZE_MAX - 10, 1 }, { SIZE_MAX / 2 + 1, 2 }
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        ern_arena plan = { 0 };
        ern_arena_take(&plan, cases[i][0], cases[i][1]);
        assert_true(plan.overflow);
        ern_arena_take(&plan, 1, 1);
        assert_true(plan.overflow);
    }
    ern_arena plan = { 0 };
    ern_arena_take(&plan, SIZE_MAX / 2, 1);
    ern_arena_take(&plan, SIZE_MAX / 2, 1);
    ern_arena_take(&plan, 200, 1);
    assert_true(plan.overflow);
}

static void arithmetic_is_checked(void **state)
{
    (void)state;
    uint64_t x = 0;
    size_t n = 0;
    assert_true(ern_mul_u64(&x, UINT64_C(1) << 32, UINT32_MAX));
    assert_true(x == UINT64_MAX - UINT32_MAX);
    assert_false(ern_mul_u64(&x, UINT64_C(1) << 32, UINT64_C(1) << 32));
    assert_true(ern_mul_u64(&x, UINT64_MAX, 0));
    assert_true(ern_add_u64(&x, UINT64_MAX - 1, 1));
    assert_false(ern_add_u64(&x, UINT64_MAX, 1));
    assert_false(ern_mul_size(&n, SIZE_MAX, 2));
    assert_false(ern_add_size(&n, SIZE_MAX, 1));
    assert_int_equal(ern_round_up(65, 64), 128);
    assert_int_equal(ern_round_up(0, 64), 0);
}

static uint32_t bits_of(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* Every half survives the way to float and back. */
static void f16_round_trip(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        const float f = ern_f16_to_f32((uint16_t)h);
        const bool nan = (h & 0x7c00) == 0x7c00 && (h & 0x3ff);
        assert_int_equal(nan, f != f);
        if (!nan) assert_int_equal(ern_f32_to_f16(f), h);
        if (nan)
            assert_true(ern_f16_to_f32(ern_f32_to_f16(f)) != ern_f16_to_f32(ern_f32_to_f16(f)));
    }
}

static void f16_known_values(void **state)
{
    (void)state;
    static const struct {
        float f;
        uint16_t h;
    } cases[] = {
        { 0.0f, 0 },
        { -0.0f, 0x8000 },
        { 1.0f, 0x3c00 },
        { -2.0f, 0xc000 },
        { 65504.0f, 0x7bff },
        { 65519.0f, 0x7bff },
        { 65520.0f, 0x7c00 },
        { 1e30f, 0x7c00 },
        { 0x1p-14f, 0x0400 },
        { 0x1p-24f, 0x0001 },
        { 0x1p-25f, 0x0000 },
        { 0x1.8p-25f, 0x0001 },
        { 0x1.8p-24f, 0x0002 },
        { 0x1.ffcp-15f, 0x0400 },
        { 1.0f + 0x1p-11f, 0x3c00 },
        { 1.0f + 0x1.8p-10f, 0x3c02 },
        { 1e-30f, 0 },
        { -INFINITY, 0xfc00 },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++)
        assert_int_equal(ern_f32_to_f16(cases[i].f), cases[i].h);
}

static void bf16_rounds_to_even(void **state)
{
    (void)state;
    static const struct {
        uint32_t f;
        uint16_t h;
    } cases[] = {
        { 0x3f800000, 0x3f80 }, { 0x3f808000, 0x3f80 }, { 0x3f808001, 0x3f81 },
        { 0x3f818000, 0x3f82 }, { 0x7f800000, 0x7f80 }, { 0x7f7fffff, 0x7f80 },
        { 0x7f800001, 0x7fc0 }, { 0xffffffff, 0xffff }, { 0x80000000, 0x8000 },
        { 0x00018000, 0x0002 },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        float f;
        memcpy(&f, &cases[i].f, sizeof f);
        assert_int_equal(ern_f32_to_bf16(f), cases[i].h);
    }
    for (uint32_t h = 0; h < 0x7f80; h++)
        assert_int_equal(ern_f32_to_bf16(ern_bf16_to_f32((uint16_t)h)), h);
    assert_int_equal(bits_of(ern_bf16_to_f32(0xc040)), 0xc0400000u);
}

/* Published XXH3 values of the empty input, and streaming against one call. */
static void hashes_agree(void **state)
{
    (void)state;
    static const uint8_t empty128[16] = { 0x99, 0xaa, 0x06, 0xd3, 0x01, 0x47, 0x98, 0xd8,
                                          0x60, 0x01, 0xc3, 0x24, 0x46, 0x8d, 0x49, 0x7f };
    static unsigned char data[100000];
    uint8_t one[16], stream[16];
    uint64_t sum;
    ern_hash hash;
    assert_true(ern_hash64(data, 0) == UINT64_C(0x2d06800538d394c2));
    ern_hash128(data, 0, one);
    assert_memory_equal(one, empty128, 16);

    for (size_t i = 0; i < sizeof data; i++) data[i] = (unsigned char)(i * 31 + i / 256);
    ern_hash_begin(&hash);
    for (size_t at = 0, n = 1; at < sizeof data; at += n, n = ern_min_size(n * 3, sizeof data - at))
        ern_hash_add(&hash, data + at, n);
    ern_hash_end128(&hash, stream);
    ern_hash128(data, sizeof data, one);
    assert_memory_equal(one, stream, 16);
    assert_true(ern_hash_end64(&hash) == ern_hash64(data, sizeof data));
    assert_true(ern_hash64_unless(data, sizeof data, NULL, &sum));
    assert_true(sum == ern_hash64(data, sizeof data));
    const ernie_cancel cancel = { 1 };
    assert_false(ern_hash64_unless(data, sizeof data, &cancel, &sum));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_balance),
        cmocka_unit_test(resize_grows_from_nothing_and_shrinks_to_nothing),
        cmocka_unit_test(failures_give_null),
        cmocka_unit_test(arena_measures_then_hands_out),
        cmocka_unit_test(arena_overflow_sticks),
        cmocka_unit_test(arithmetic_is_checked),
        cmocka_unit_test(f16_round_trip),
        cmocka_unit_test(f16_known_values),
        cmocka_unit_test(bf16_rounds_to_even),
        cmocka_unit_test(hashes_agree),
    };
    return cmocka_run_group_tests_name("mem", tests, NULL, NULL);
}
