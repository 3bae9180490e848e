/* A progress bar on standard error. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "progress.h"
#include "interrupt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static const double PROGRESS_DELAY = 0.3;    /* seconds of work before the first bar */
static const double PROGRESS_INTERVAL = 0.1; /* seconds between two bars */
enum { PROGRESS_BAR_MAX = 24, PROGRESS_LINE_MAX = 160 };

double progress_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void progress_init(progress *bar, bool quiet)
{
    const char *term = getenv("TERM");
    *bar = (progress){ 0 };
    bar->enabled = !quiet && isatty(STDERR_FILENO) && (!term || strcmp(term, "dumb") != 0);
}

void progress_begin(progress *bar, progress_unit unit)
{
    bar->unit = unit;
    bar->what[0] = 0;
}

static void progress_rate_text(char *text, size_t n, progress_unit unit, double rate)
{
    if (unit == PROGRESS_PASSES)
        text[0] = 0;
    else if (unit == PROGRESS_TOKENS)
        snprintf(text, n, "%.0f tokens/s", rate);
    else if (unit == PROGRESS_DOCUMENTS)
        snprintf(text, n, "%.1f documents/s", rate);
    else if (rate < 1e9)
        snprintf(text, n, "%.0f MB/s", rate * 1e-6);
    else
        snprintf(text, n, "%.1f GB/s", rate * 1e-9);
}

static void progress_time_text(char *text, size_t n, double seconds)
{
    const unsigned long s = seconds < 359999 ? (unsigned long)(seconds + 0.5) : 359999;
    if (s < 3600)
        snprintf(text, n, "%lu:%02lu left", s / 60, s % 60);
    else
        snprintf(text, n, "%lu:%02lu:%02lu left", s / 3600, s / 60 % 60, s % 60);
}

static size_t progress_columns(void)
{
    struct winsize size;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
    return size.ws_col;
}

static void progress_draw(progress *bar, uint64_t done, uint64_t total, double elapsed)
{
    const double part = total ? (double)done / (double)total : 0;
    const double rate = elapsed > 0 ? (double)done / elapsed : 0;
    char cells[PROGRESS_BAR_MAX + 1], speed[32] = "", left[32] = "", line[PROGRESS_LINE_MAX];
    const size_t n_full = (size_t)(part * PROGRESS_BAR_MAX);
    for (size_t i = 0; i < PROGRESS_BAR_MAX; i++) cells[i] = i < n_full ? '#' : '.';
    cells[PROGRESS_BAR_MAX] = 0;
    if (done) {
        progress_rate_text(speed, sizeof speed, bar->unit, rate);
        progress_time_text(left, sizeof left, (double)(total - done) / rate);
    }
    const int n = snprintf(line, sizeof line, "%s [%s] %3.0f%%  %s  %s", bar->what, cells,
                           100 * part, speed, left);
    const size_t columns = progress_columns();
    if (n > 0 && (size_t)n >= columns) line[columns - 1] = 0; /* a wrapped line cannot be erased */
    fprintf(stderr, "\r\033[K%s", line);
    fflush(stderr);
    bar->drawn = true;
}

int progress_update(const char *what, uint64_t done, uint64_t total, void *user)
{
    progress *bar = user;
    if (interrupt_signal()) return 1;
    if (!bar->enabled || !total) return 0;
    const double now = progress_clock();
    if (strcmp(bar->what, what) != 0 || done < bar->last_done) {
        snprintf(bar->what, sizeof bar->what, "%s", what);
        bar->start = now;
    }
    bar->last_done = done;
    if (done >= total) {
        progress_erase(bar);
        return 0;
    }
    if (now - bar->start < PROGRESS_DELAY || now - bar->last_draw < PROGRESS_INTERVAL) return 0;
    bar->last_draw = now;
    progress_draw(bar, done, total, now - bar->start);
    return 0;
}

void progress_erase(progress *bar)
{
    if (!bar->drawn) return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    bar->drawn = false;
}
