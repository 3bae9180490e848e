/* An allocator that counts live bytes and can be told to fail: the n-th request once, or that one
 * and all after it. It also checks that every block comes back with the size it was made with. */
#ifndef TEST_ALLOCATOR_H
#define TEST_ALLOCATOR_H

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "../../ernie.h"

#define TEST_ALLOCATOR_NEVER (-1L)

typedef struct test_allocator {
    atomic_long budget; /* requests that still succeed; TEST_ALLOCATOR_NEVER: all do */
    bool sticky;        /* once spent, fail for ever instead of once */
    atomic_llong live;  /* bytes held by the library */
    atomic_long n_wrong_sizes;
    atomic_long n_requests;
    atomic_long n_failed; /* requests that were refused on purpose */
} test_allocator;

/* Each block carries its size in the 16 bytes before it. */
static inline void *test_allocator_resize(void *user, void *ptr, size_t old_size, size_t new_size)
{
    test_allocator *a = user;
    char *block = ptr ? (char *)ptr - 16 : NULL;
    size_t had = 0;
    if (block) memcpy(&had, block, sizeof had);
    if (block && had != old_size) atomic_fetch_add(&a->n_wrong_sizes, 1);
    if (new_size == 0) {
        atomic_fetch_sub(&a->live, (long long)had);
        free(block);
        return NULL;
    }
    atomic_fetch_add(&a->n_requests, 1);
    if (atomic_load(&a->budget) == 0) {
        atomic_fetch_add(&a->n_failed, 1);
        if (!a->sticky) atomic_store(&a->budget, TEST_ALLOCATOR_NEVER);
        return NULL;
    }
    if (atomic_load(&a->budget) > 0) atomic_fetch_sub(&a->budget, 1);
    /* What no machine has, sanitizers end the process for. */
    if (new_size > SIZE_MAX - 16 || (uint64_t)new_size > (uint64_t)1 << 38) return NULL;
    block = realloc(block, new_size + 16);
    if (!block) return NULL;
    memcpy(block, &new_size, sizeof new_size);
    atomic_fetch_add(&a->live, (long long)new_size - (long long)had);
    return block + 16;
}

static inline void test_allocator_begin(test_allocator *a, ernie_allocator *allocator)
{
    atomic_init(&a->budget, TEST_ALLOCATOR_NEVER);
    a->sticky = false;
    atomic_init(&a->live, 0);
    atomic_init(&a->n_wrong_sizes, 0);
    atomic_init(&a->n_requests, 0);
    atomic_init(&a->n_failed, 0);
    allocator->resize = test_allocator_resize;
    allocator->user = a;
}

/* Fail request number n (from 0), once or for ever. */
static inline void test_allocator_fail_at(test_allocator *a, long n, bool sticky)
{
    atomic_store(&a->budget, n);
    a->sticky = sticky;
}

#endif
