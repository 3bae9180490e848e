/* The part of cmocka that our portable tests use, for targets that have no cmocka: an emulated
 * processor, a bare cross compiler. A failed assertion ends its test by longjmp, as in cmocka. */
#ifndef MINI_CMOCKA_H
#define MINI_CMOCKA_H

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { MINI_FAILED = 1, MINI_SKIPPED };

typedef struct CMUnitTest {
    const char *name;
    void (*fn)(void **state);
} CMUnitTest;

static jmp_buf mini_end;

static void mini_fail(const char *text, const char *file, int line)
{
    printf("%s:%d: failed: %s\n", file, line, text);
    longjmp(mini_end, MINI_FAILED);
}

#define assert_true(c) ((c) ? (void)0 : mini_fail(#c, __FILE__, __LINE__))
#define assert_false(c) assert_true(!(c))
#define assert_null(p) assert_true((p) == NULL)
#define assert_non_null(p) assert_true((p) != NULL)
#define assert_ptr_equal(a, b) assert_true((const void *)(a) == (const void *)(b))
#define assert_ptr_not_equal(a, b) assert_true((const void *)(a) != (const void *)(b))
#define assert_int_equal(a, b) assert_true((intmax_t)(a) == (intmax_t)(b))
#define assert_int_not_equal(a, b) assert_true((intmax_t)(a) != (intmax_t)(b))
#define assert_in_range(a, low, high) \
    assert_true((uintmax_t)(a) >= (uintmax_t)(low) && (uintmax_t)(a) <= (uintmax_t)(high))
#define assert_float_equal(a, b, e) assert_true((a) - (b) <= (e) && (b) - (a) <= (e))
#define assert_string_equal(a, b) assert_true(strcmp((a), (b)) == 0)
#define assert_string_not_equal(a, b) assert_true(strcmp((a), (b)) != 0)
#define assert_memory_equal(a, b, n) assert_true(memcmp((a), (b), (n)) == 0)
#define assert_memory_not_equal(a, b, n) assert_true(memcmp((a), (b), (n)) != 0)
#define fail_msg(...) \
    (printf(__VA_ARGS__), printf("\n"), mini_fail("see above", __FILE__, __LINE__))
#define fail() mini_fail("here", __FILE__, __LINE__)
#define skip() longjmp(mini_end, MINI_SKIPPED)
#define cmocka_unit_test(f) { #f, f }

/* The number of failed tests; a setup that fails counts as all of them. */
static int mini_run(const CMUnitTest *tests, size_t n, int (*setup)(void **),
                    int (*teardown)(void **))
{
    static const char *const results[] = { "ok", "not ok", "skipped" };
    void *volatile state = NULL;
    volatile int n_failed = 0;
    if (setjmp(mini_end) || (setup && setup((void **)&state) != 0)) {
        printf("not ok setup\n");
        return (int)n;
    }
    for (volatile size_t i = 0; i < n; i++) {
        const int end = setjmp(mini_end);
        if (end == 0) tests[i].fn((void **)&state);
        printf("%s %s\n", results[end], tests[i].name);
        fflush(stdout);
        n_failed += end == MINI_FAILED;
    }
    if (setjmp(mini_end) || (teardown && teardown((void **)&state) != 0)) {
        printf("not ok teardown\n");
        n_failed++;
    }
    return n_failed;
}

#define cmocka_run_group_tests(tests, setup, teardown) \
    mini_run((tests), sizeof(tests) / sizeof((tests)[0]), (setup), (teardown))
#define cmocka_run_group_tests_name(name, tests, setup, teardown) \
    cmocka_run_group_tests(tests, setup, teardown)

#endif
