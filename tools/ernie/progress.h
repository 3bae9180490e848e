/* A progress bar on standard error: percent, rate, time left. Draws only when someone watches
 * (standard error is a terminal), only when the work takes a while, and erases itself. Also where a
 * Ctrl-C reaches the library's progress callbacks. */
#ifndef ERNIE_PROGRESS_H
#define ERNIE_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef enum progress_unit {
    PROGRESS_BYTES,
    PROGRESS_TOKENS,
    PROGRESS_DOCUMENTS,
    PROGRESS_PASSES /* no rate, they are few */
} progress_unit;

typedef struct progress {
    bool enabled;
    bool drawn; /* the line holds a bar that must be erased */
    progress_unit unit;
    char what[48];
    double start, last_draw;
    uint64_t last_done;
} progress;

void progress_init(progress *bar, bool quiet);

/* The next updates count this unit, from nothing. */
void progress_begin(progress *bar, progress_unit unit);

/* An ernie_progress_fn, `user` is the progress: draws, and returns non-zero after Ctrl-C. */
int progress_update(const char *what, uint64_t done, uint64_t total, void *user);

void progress_erase(progress *bar);

/* Seconds on a clock that only goes forward. */
double progress_clock(void);

#endif
