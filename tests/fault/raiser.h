/* A second thread that asks to stop after a while. */
#ifndef FAULT_RAISER_H
#define FAULT_RAISER_H

#include <unistd.h>

#include "../../src/os.h"
#include "../unit/test_model_bytes.h"

typedef struct raiser {
    ern_thread thread;
    double delay;           /* seconds from the start to the request */
    ernie_session *session; /* whom to stop; NULL: nobody */
    ernie_cancel *flag;
    double raised_at;
} raiser;

static inline void raiser_main(void *arg)
{
    raiser *r = arg;
    const double until = ern_seconds() + r->delay;
    if (r->delay > 2e-3) usleep((useconds_t)((r->delay - 1e-3) * 1e6));
    while (ern_seconds() < until) ern_cpu_relax();
    r->raised_at = ern_seconds();
    ernie_session_cancel(r->session);
    ernie_cancel_request(r->flag);
}

static inline void raiser_start(raiser *r)
{
    if (!ern_thread_start(&r->thread, raiser_main, r)) abort();
}

static inline void raiser_join(raiser *r)
{
    ern_thread_join(&r->thread);
}

static inline double raiser_random_delay(uint64_t *seed, double max)
{
    return max * (double)(test_random(seed) >> 11) * 0x1p-53;
}

#endif
