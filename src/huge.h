/* A copy of a mapped file on huge pages, made in the background and used once it is whole.
 *
 * Reading gigabytes through pages of 4 KiB costs a miss of the address cache every 4 KiB. Opening
 * by mapping stays instant; the copy is made while nobody computes, and after a while at half of a
 * thread's time even so. It is not made where it cannot help (the mapping lies on huge pages
 * already, the system has none) or would press others (too little memory). Knows bytes, no
 * models. */
#ifndef ERN_HUGE_H
#define ERN_HUGE_H

#include "ern.h"

typedef struct ern_huge ern_huge;

/* The copy [n_bytes] is whole: called once, on the copying thread. */
typedef void (*ern_huge_fn)(void *user, const unsigned char *copy);

typedef struct ern_huge_options {
    const unsigned char *data; /* what to copy; outlives the ern_huge */
    size_t n_bytes;
    bool mapped; /* a file's mapping: it may lie on huge pages, and is left alone after the copy */
    const ernie_allocator *allocator; /* of the ern_huge itself; the copy is always the system's */
    ern_huge_fn done;
    void *user;
} ern_huge_options;

ERN_FN ernie_status ern_huge_open(ern_huge **out, const ern_huge_options *options,
                                  ernie_error *error);

/* Begin, if it is worth it: the first call decides. Any thread; NULL is fine. No thread to be had
 * is no failure: nothing is copied. */
ERN_FN void ern_huge_start(ern_huge *huge, const ern_log *log);

/* Tell that a call computes, and that it ended. Any thread; NULL is fine. */
ERN_FN void ern_huge_enter(ern_huge *huge);
ERN_FN void ern_huge_leave(ern_huge *huge);

/* "mapped", "mapped, huge pages", "copying" or "copied". Any thread. */
ERN_FN const char *ern_huge_state(const ern_huge *huge);

/* Ends the thread within milliseconds and frees the copy. NULL is fine. */
ERN_FN void ern_huge_close(ern_huge *huge);

#endif
