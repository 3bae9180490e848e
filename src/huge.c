/* The copy on huge pages (huge.h): when it is worth it, whose turn it is, and the copying
 * itself. */
#include "huge.h"

#include "os.h"

#define HUGE_MIN_BYTES   ((size_t)64 << 20) /* smaller models gain nothing to speak of */
#define HUGE_SPARE_BYTES ((uint64_t)1 << 30)
#define HUGE_PIECE_BYTES ((size_t)2 << 20) /* between two looks at whose turn it is */
#define HUGE_LOOK_PIECES 64                /* between two looks at the memory left */
#define HUGE_PATIENCE    10.0              /* seconds in which only idle time is used */
#define HUGE_REST        1.0 /* times a piece's duration to rest after it while others compute */
#define HUGE_NAP         2e-3

enum { HUGE_MAPPED, HUGE_ALREADY, HUGE_COPYING, HUGE_COPIED };

struct ern_huge {
    ern_huge_options options;
    ernie_allocator allocator;
    unsigned char *copy;
    ern_thread thread;
    bool has_thread;
    atomic_bool asked, stop;
    atomic_int state;
    atomic_uint n_computing;
};

ERN_FN ernie_status ern_huge_open(ern_huge **out, const ern_huge_options *options,
                                  ernie_error *error)
{
    ern_huge *h = ern_alloc_zero(options->allocator, sizeof *h);
    *out = h;
    ERN_FAIL_IF(!h, error, ERNIE_NO_MEMORY, "no memory for %zu bytes about huge pages", sizeof *h);
    h->options = *options;
    h->allocator = *options->allocator;
    atomic_init(&h->asked, false);
    atomic_init(&h->stop, false);
    atomic_init(&h->state, HUGE_MAPPED);
    atomic_init(&h->n_computing, 0);
    return ERNIE_OK;
}

/* ---- Copying ------------------------------------------------------------------------------- */

/* Wait until a piece may be copied; false when it is time to end. The last one took `took` seconds,
 * until `last`. */
static bool huge_turn(ern_huge *h, double began, double last, double took)
{
    while (!atomic_load_explicit(&h->stop, memory_order_relaxed)) {
        if (atomic_load_explicit(&h->n_computing, memory_order_relaxed) == 0) return true;
        const double now = ern_seconds();
        if (now > began + HUGE_PATIENCE && now > last + HUGE_REST * took) return true;
        ern_sleep(HUGE_NAP);
    }
    return false;
}

/* False when it was told to stop, or when others want the memory more. */
static bool huge_copy(ern_huge *h)
{
    const size_t n_bytes = h->options.n_bytes;
    const double began = ern_seconds();
    double last = began, took = 0;
    for (size_t at = 0, i = 0; at < n_bytes; at += HUGE_PIECE_BYTES, i++) {
        const size_t n = ern_min_size(HUGE_PIECE_BYTES, n_bytes - at);
        if (!huge_turn(h, began, last, took)) return false;
        if (i % HUGE_LOOK_PIECES == 0 && ern_memory_available() < n_bytes - at + HUGE_SPARE_BYTES)
            return false;
        const double start = ern_seconds();
        memcpy(h->copy + at, h->options.data + at, n);
        last = ern_seconds();
        took = last - start;
    }
    return true;
}

static void huge_main(void *arg)
{
    ern_huge *h = arg;
    const ern_huge_options *o = &h->options;
    if (o->mapped && ern_on_huge_pages(o->data, o->n_bytes)) {
        atomic_store(&h->state, HUGE_ALREADY);
        return;
    }
    h->copy = ern_alloc_filled(ern_allocator_default(), o->n_bytes);
    if (!h->copy) return;
    atomic_store(&h->state, HUGE_COPYING);
    if (!huge_copy(h)) {
        atomic_store(&h->state, HUGE_MAPPED);
        ern_free_aligned(ern_allocator_default(), h->copy, o->n_bytes);
        h->copy = NULL;
        return;
    }
    o->done(o->user, h->copy);
    atomic_store(&h->state, HUGE_COPIED);
    if (o->mapped) ern_forget_pages(o->data, o->n_bytes);
}

/* ---- Beginning and ending ------------------------------------------------------------------ */

/* A quarter of the memory that is available now stays available, and a GiB besides. */
static bool huge_worth(const ern_huge *h, const ern_log *log)
{
    const uint64_t available = ern_memory_available(), n_bytes = h->options.n_bytes;
    if (n_bytes < HUGE_MIN_BYTES || !ern_huge_pages_offered()) return false;
    if (n_bytes + HUGE_SPARE_BYTES <= available / 4 * 3) return true;
    ern_log_write(log, ERNIE_LOG_INFO,
                  "%.1f GB of weights stay in their mapping: a copy on huge pages would leave too "
                  "little of the %.1f GB of memory available",
                  1e-9 * (double)n_bytes, 1e-9 * (double)available);
    return false;
}

ERN_FN void ern_huge_start(ern_huge *h, const ern_log *log)
{
    if (!h || atomic_exchange(&h->asked, true) || !huge_worth(h, log)) return;
    h->has_thread = ern_thread_start(&h->thread, huge_main, h);
    if (h->has_thread)
        ern_log_write(log, ERNIE_LOG_INFO,
                      "%.1f GB of weights are copied to huge pages in the background, if their "
                      "mapping has none",
                      1e-9 * (double)h->options.n_bytes);
}

ERN_FN void ern_huge_enter(ern_huge *h)
{
    if (h) atomic_fetch_add_explicit(&h->n_computing, 1, memory_order_relaxed);
}

ERN_FN void ern_huge_leave(ern_huge *h)
{
    if (h) atomic_fetch_sub_explicit(&h->n_computing, 1, memory_order_relaxed);
}

ERN_FN const char *ern_huge_state(const ern_huge *h)
{
    static const char *const names[] = { "mapped", "mapped, huge pages", "copying", "copied" };
    return names[atomic_load(&h->state)];
}

ERN_FN void ern_huge_close(ern_huge *h)
{
    if (!h) return;
    const ernie_allocator allocator = h->allocator;
    atomic_store(&h->stop, true);
    if (h->has_thread) ern_thread_join(&h->thread);
    ern_free_aligned(ern_allocator_default(), h->copy, h->options.n_bytes);
    ern_free(&allocator, h, sizeof *h);
}

#undef HUGE_MIN_BYTES
#undef HUGE_SPARE_BYTES
#undef HUGE_PIECE_BYTES
#undef HUGE_LOOK_PIECES
#undef HUGE_PATIENCE
#undef HUGE_REST
#undef HUGE_NAP
