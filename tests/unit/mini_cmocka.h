/* The few things of cmocka that test_kernels.c uses, for targets that have no cmocka: an emulated
 * processor, a bare cross compiler. A failed assertion ends its test by longjmp, as in cmocka. */
#ifndef MINI_CMOCKA_H
#define MINI_CMOCKA_H

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>

typedef struct CMUnitTest {
    const char *name;
    void (*fn)(void **state);
} CMUnitTest;

static jmp_buf mini_failed;

static void mini_fail(const char *text, const char *file, int line)
{
    printf("%s:%d: failed: %s\n", file, line, text);
    longjmp(mini_failed, 1);
}

#define assert_true(c) ((c) ? (void)0 : mini_fail(#c, __FILE__, __LINE__))
#define assert_false(c) assert_true(!(c))
#define assert_null(p) assert_true((p) == NULL)
#define assert_non_null(p) assert_true((p) != NULL)
#define assert_ptr_equal(a, b) assert_true((a) == (b))
#define assert_int_equal(a, b) assert_true((intmax_t)(a) == (intmax_t)(b))
#define assert_string_equal(a, b) assert_true(strcmp((a), (b)) == 0)
#define fail_msg(...) (printf(__VA_ARGS__), printf("\n"), mini_fail("see above", __FILE__, __LINE__))
#define cmocka_unit_test(f) { #f, f }

static int mini_run(const CMUnitTest *tests, size_t n)
{
    volatile int n_failed = 0;
    for (volatile size_t i = 0; i < n; i++) {
        void *state = NULL;
        if (setjmp(mini_failed) == 0) {
            tests[i].fn(&state);
            printf("ok %s\n", tests[i].name);
        } else {
            printf("not ok %s\n", tests[i].name);
            n_failed++;
        }
    }
    return n_failed;
}

#define cmocka_run_group_tests(tests, setup, teardown) \
    mini_run((tests), sizeof(tests) / sizeof((tests)[0]))

#endif
