/* Sleeping on a word, waking, and the lock made of it: with the futex and, built a second time,
 * with the condition variable of systems that have none. No test depends on how long anything
 * takes: a sleeper that nobody wakes sleeps longer than ctest waits. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../src/os.c"

#include <math.h>

#define FOR_EVER   3600.0
#define N_THREADS  4u
#define N_ROUNDS   2000u
#define N_SECTIONS 3000u

static void returns_at_once(void **state)
{
    (void)state;
    static const double limits[] = { 0, -1, -1e300, 1e-12 };
    atomic_uint word;
    atomic_init(&word, 5);
    ern_wait(&word, 4);
    ern_wait_for(&word, 4, FOR_EVER); /* it is another already */
    for (size_t i = 0; i < ERN_COUNT(limits); i++) ern_wait_for(&word, 5, limits[i]);
    ern_wait_for(&word, 5, (double)NAN);
    ern_wake_all(&word); /* nobody sleeps */
    assert_int_equal(atomic_load(&word), 5);
}

/* Now and then a sleep may end early; not all of them do. */
static void sleeps_until_the_limit(void **state)
{
    (void)state;
    atomic_uint word;
    unsigned n_slept = 0;
    atomic_init(&word, 0);
    for (int i = 0; i < 20; i++) {
        const double start = ern_seconds();
        ern_wait_for(&word, 0, 0.004);
        n_slept += ern_seconds() - start >= 0.003;
    }
    assert_true(n_slept > 0);
}

typedef struct sleeper {
    atomic_uint word, other, n_awake;
    double limit;
} sleeper;

static void sleep_on_word(void *arg)
{
    sleeper *s = arg;
    while (atomic_load(&s->word) == 0) ern_wait_for(&s->word, 0, s->limit);
    atomic_fetch_add(&s->n_awake, 1);
}

static void waking_ends_a_long_sleep(void **state)
{
    (void)state;
    static const double limits[] = { FOR_EVER, 1e300, (double)INFINITY, 0.01 };
    for (size_t i = 0; i < ERN_COUNT(limits); i++) {
        ern_thread threads[N_THREADS];
        sleeper s;
        s.limit = limits[i];
        atomic_init(&s.word, 0);
        atomic_init(&s.other, 0);
        atomic_init(&s.n_awake, 0);
        for (unsigned t = 0; t < N_THREADS; t++)
            assert_true(ern_thread_start(&threads[t], sleep_on_word, &s));
        ern_sleep(0.02);
        ern_wake_all(&s.other);
        assert_int_equal(atomic_load(&s.n_awake), 0);
        atomic_store(&s.word, 1);
        ern_wake_all(&s.word);
        for (unsigned t = 0; t < N_THREADS; t++) ern_thread_join(&threads[t]);
        assert_int_equal(atomic_load(&s.n_awake), N_THREADS);
    }
}

/* A wake that comes between the look at the word and the sleep is not missed. */
static void answer(void *arg)
{
    atomic_uint *word = arg;
    for (unsigned turn = 1; turn < 2 * N_ROUNDS; turn += 2) {
        for (unsigned seen; (seen = atomic_load(word)) != turn;) ern_wait_for(word, seen, FOR_EVER);
        atomic_store(word, turn + 1);
        ern_wake_all(word);
    }
}

static void no_wake_is_missed(void **state)
{
    (void)state;
    atomic_uint word;
    ern_thread thread;
    atomic_init(&word, 0);
    assert_true(ern_thread_start(&thread, answer, &word));
    for (unsigned turn = 0; turn < 2 * N_ROUNDS; turn += 2) {
        atomic_store(&word, turn + 1);
        ern_wake_all(&word);
        for (unsigned seen; (seen = atomic_load(&word)) != turn + 2;)
            ern_wait_for(&word, seen, FOR_EVER);
    }
    ern_thread_join(&thread);
    assert_int_equal(atomic_load(&word), 2 * N_ROUNDS);
}

typedef struct counter {
    ern_mutex mutex;
    unsigned a, b; /* equal whenever the lock is free */
    bool torn;
} counter;

static void count_under_lock(void *arg)
{
    counter *c = arg;
    for (unsigned i = 0; i < N_SECTIONS; i++) {
        ern_mutex_lock(&c->mutex);
        c->torn = c->torn || c->a != c->b;
        c->a++;
        if (i % 64 == 0) ern_thread_yield(); /* so that others come and have to sleep */
        c->b++;
        ern_mutex_unlock(&c->mutex);
    }
}

static void one_holds_the_lock(void **state)
{
    (void)state;
    static counter c; /* zero is unlocked */
    ern_thread threads[N_THREADS];
    for (unsigned t = 0; t < N_THREADS; t++)
        assert_true(ern_thread_start(&threads[t], count_under_lock, &c));
    for (unsigned t = 0; t < N_THREADS; t++) ern_thread_join(&threads[t]);
    assert_false(c.torn);
    assert_int_equal(c.a, N_THREADS * N_SECTIONS);
    assert_int_equal(c.b, N_THREADS * N_SECTIONS);
    assert_int_equal(atomic_load(&c.mutex.state), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(returns_at_once),
        cmocka_unit_test(sleeps_until_the_limit),
        cmocka_unit_test(waking_ends_a_long_sleep),
        cmocka_unit_test(no_wake_is_missed),
        cmocka_unit_test(one_holds_the_lock),
    };
    return cmocka_run_group_tests_name("wait", tests, NULL, NULL);
}
