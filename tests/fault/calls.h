/* The operating system on trial: the linker's --wrap brings every call below here first, where the
 * k-th one may fail, be cut short or be interrupted, or where something else may happen at that
 * moment. Counts run only between calls_begin and calls_end, and on all threads. The names are
 * those that glibc gives to calls with 64-bit offsets. */
#ifndef FAULT_CALLS_H
#define FAULT_CALLS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../ernie.h"

typedef enum calls_mode {
    CALLS_COUNT,  /* let all pass */
    CALLS_FAIL,   /* with the errno of its kind */
    CALLS_SHORT,  /* reads and writes: half of the bytes, at least one */
    CALLS_EMPTY,  /* reads and writes: no byte, as at the end of a file */
    CALLS_SIGNAL, /* reads and writes: EINTR */
    CALLS_HOOK,   /* call the hook and pass */
} calls_mode;

typedef struct calls_kind {
    const char *name;
    int reason;      /* errno of a failure */
    bool moves_data; /* knows more modes than CALLS_FAIL */
    bool harmless;   /* a failure may be passed over: nothing is lost, or it is tried again */
} calls_kind;

static const calls_kind calls_open = { "open", EMFILE, false, false };
static const calls_kind calls_fstat = { "fstat", EIO, false, true };
static const calls_kind calls_read = { "pread", EIO, true, false };
static const calls_kind calls_write = { "pwrite", ENOSPC, true, false };
static const calls_kind calls_map = { "mmap", ENOMEM, false, false };
static const calls_kind calls_flush = { "fsync", EIO, false, false };
static const calls_kind calls_rename = { "rename", EACCES, false, false };
static const calls_kind calls_truncate = { "ftruncate", ENOSPC, false, false };
static const calls_kind calls_reserve = { "fallocate", ENOSPC, false, false };
static const calls_kind calls_lock = { "flock", ENOLCK, false, true };
static const calls_kind calls_folder = { "opendir", EMFILE, false, false };
static const calls_kind calls_close = { "close", EIO, false, true };
static const calls_kind calls_thread = { "pthread_create", EAGAIN, false, false };

static struct {
    atomic_bool on;
    atomic_long n;      /* calls since calls_begin */
    atomic_long n_held; /* files open and mappings made since then */
    long at;            /* which one */
    bool sticky;        /* and all after it */
    calls_mode mode;
    _Atomic(const calls_kind *) hit; /* what it was; NULL: it never came */
    void (*hook)(void *user);
    void *user;
} calls;

static inline void calls_begin(calls_mode mode, long at, bool sticky)
{
    atomic_store(&calls.n, 0);
    atomic_store(&calls.n_held, 0);
    atomic_store(&calls.hit, NULL);
    calls.mode = mode;
    calls.at = at;
    calls.sticky = sticky;
    atomic_store(&calls.on, true);
}

static inline void calls_hold(int n)
{
    if (atomic_load(&calls.on)) atomic_fetch_add(&calls.n_held, n);
}

/* The kind of call that was hit first, NULL for none. */
static inline const calls_kind *calls_end(void)
{
    atomic_store(&calls.on, false);
    return atomic_load(&calls.hit);
}

/* What is to happen to this call? */
static inline calls_mode calls_judge(const calls_kind *kind)
{
    const calls_kind *none = NULL;
    if (!atomic_load(&calls.on)) return CALLS_COUNT;
    const long i = atomic_fetch_add(&calls.n, 1);
    if (calls.mode == CALLS_COUNT || (calls.sticky ? i < calls.at : i != calls.at))
        return CALLS_COUNT;
    if (calls.mode > CALLS_FAIL && calls.mode < CALLS_HOOK && !kind->moves_data) return CALLS_COUNT;
    atomic_compare_exchange_strong(&calls.hit, &none, kind);
    if (calls.mode == CALLS_HOOK) calls.hook(calls.user);
    if (calls.mode == CALLS_FAIL) errno = kind->reason;
    if (calls.mode == CALLS_SIGNAL) errno = EINTR;
    return calls.mode == CALLS_HOOK ? CALLS_COUNT : calls.mode;
}

/* CALLS_WRAP(result, name, parameters, arguments, kind, failure) */
#define CALLS_WRAP(type, name, parameters, arguments, kind, failure)                  \
    type __real_##name parameters;                                                    \
    type __wrap_##name parameters;                                                    \
    type __wrap_##name parameters                                                     \
    {                                                                                 \
        return calls_judge(&kind) == CALLS_COUNT ? __real_##name arguments : failure; \
    }

CALLS_WRAP(int, fstat64, (int fd, struct stat *info), (fd, info), calls_fstat, -1)
CALLS_WRAP(int, rename, (const char *from, const char *to), (from, to), calls_rename, -1)
CALLS_WRAP(int, ftruncate64, (int fd, off_t n), (fd, n), calls_truncate, -1)
CALLS_WRAP(int, fallocate64, (int fd, int mode, off_t at, off_t n), (fd, mode, at, n),
           calls_reserve, -1)
CALLS_WRAP(int, flock, (int fd, int operation), (fd, operation), calls_lock, -1)
CALLS_WRAP(DIR *, opendir, (const char *path), (path), calls_folder, NULL)
CALLS_WRAP(int, pthread_create,
           (pthread_t * thread, const pthread_attr_t *attributes, void *(*fn)(void *), void *arg),
           (thread, attributes, fn, arg), calls_thread, EAGAIN)
#undef CALLS_WRAP

int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, unsigned mode);
int __wrap_open64(const char *path, int flags, unsigned mode)
{
    const bool fails = calls_judge(&calls_open) != CALLS_COUNT;
    const int fd = fails ? -1 : __real_open64(path, flags, mode);
    if (fd >= 0) calls_hold(1);
    return fd;
}

void *__real_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t offset);
void *__wrap_mmap64(void *at, size_t n, int prot, int flags, int fd, off_t offset)
{
    if (calls_judge(&calls_map) != CALLS_COUNT) return MAP_FAILED;
    void *data = __real_mmap64(at, n, prot, flags, fd, offset);
    if (data != MAP_FAILED) calls_hold(1);
    return data;
}

int __real_munmap(void *data, size_t n);
int __wrap_munmap(void *data, size_t n);
int __wrap_munmap(void *data, size_t n)
{
    calls_hold(-1);
    return __real_munmap(data, n);
}

/* Hundreds of files that nobody reads need not reach the disk. */
int __wrap_fsync(int fd);
int __wrap_fsync(int fd)
{
    (void)fd;
    return calls_judge(&calls_flush) == CALLS_COUNT ? 0 : -1;
}

int __wrap_sync_file_range(int fd, off_t offset, off_t n, unsigned flags);
int __wrap_sync_file_range(int fd, off_t offset, off_t n, unsigned flags)
{
    (void)fd;
    (void)offset;
    (void)n;
    (void)flags;
    return 0;
}

/* A failing close closes. */
int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_close(int fd)
{
    const bool fails = calls_judge(&calls_close) != CALLS_COUNT;
    const int result = __real_close(fd);
    calls_hold(-1);
    if (!fails) return result;
    errno = calls_close.reason;
    return -1;
}

/* Bytes to move instead of n, or -1. */
static inline ssize_t calls_cut(calls_mode mode, size_t n)
{
    if (mode == CALLS_SHORT) return (ssize_t)(n / 2 + n % 2);
    if (mode == CALLS_EMPTY) return 0;
    return mode == CALLS_COUNT ? (ssize_t)n : -1;
}

ssize_t __real_pread64(int fd, void *data, size_t n, off_t offset);
ssize_t __wrap_pread64(int fd, void *data, size_t n, off_t offset);
ssize_t __wrap_pread64(int fd, void *data, size_t n, off_t offset)
{
    const ssize_t take = calls_cut(calls_judge(&calls_read), n);
    return take <= 0 ? take : __real_pread64(fd, data, (size_t)take, offset);
}

ssize_t __real_pwrite64(int fd, const void *data, size_t n, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t n, off_t offset);
ssize_t __wrap_pwrite64(int fd, const void *data, size_t n, off_t offset)
{
    const ssize_t take = calls_cut(calls_judge(&calls_write), n);
    return take <= 0 ? take : __real_pwrite64(fd, data, (size_t)take, offset);
}

/* Does what was hit explain the status? Short and interrupted calls are gone on with; a call that
 * failed gives the status of its kind. */
static inline bool calls_explain(const calls_kind *hit, calls_mode mode, bool sticky,
                                 ernie_status status)
{
    const bool must = hit && !hit->harmless && (mode == CALLS_FAIL || mode == CALLS_EMPTY);
    if (status == ERNIE_OK) return !must;
    if (!must && !(hit && hit->harmless && mode == CALLS_FAIL)) return false;
    if (mode == CALLS_EMPTY && status == ERNIE_FORMAT) return true; /* a file that ends too early */
    if (status == ERNIE_NO_MEMORY) return hit == &calls_thread || sticky;
    return status == ERNIE_IO && hit != &calls_thread;
}

#endif
