/* What the operating system gives: files and mappings (os_file.c), pieces of files past the page
 * cache (os_disk.c), memory and its pages (os_memory.c), the limits of control groups (os_group.c),
 * time, processors and threads (os.c). One interface, Linux, macOS and Windows behind it. Knows
 * nothing of models. */
#ifndef ERN_OS_H
#define ERN_OS_H

#include "ern.h"

/* ---- Files --------------------------------------------------------------------------------- */

/* A read-only view of a whole file: mapped, or read into aligned memory. */
typedef struct ern_file_view {
    const unsigned char *data; /* 64-byte aligned; NULL when closed */
    uint64_t n_bytes;
    bool mapped;
    const ernie_allocator *allocator; /* owner of `data` when read, not mapped */
} ern_file_view;

/* Map the file at path; with `read_in`, read it into memory of `allocator` instead, telling
 * progress (may be NULL) and stopping when *cancel (may be NULL) is set. ERNIE_IO names the path
 * and the system's reason; folders, pipes and devices are refused. An empty file gives n_bytes 0
 * and data not NULL. After failure *view is zero. */
ERN_FN ernie_status ern_file_view_open(ern_file_view *view, const char *path, bool read_in,
                                       const ernie_allocator *allocator, ernie_progress_fn progress,
                                       void *progress_user, const ernie_cancel *cancel,
                                       ernie_error *error);
ERN_FN void ern_file_view_close(ern_file_view *view); /* zeroed or closed views are fine */

/* A file written beside its final name and renamed at commit: readers see the old file or the whole
 * new one. Buffered; errors stick and are reported by commit. An existing target that is no regular
 * file is refused. Commit flushes to the disk before it renames. */
typedef struct ern_file_out ern_file_out;
ERN_FN ernie_status ern_file_out_open(ern_file_out **out, const char *path,
                                      const ernie_allocator *allocator, ernie_error *error);
ERN_FN ernie_status ern_file_out_write(ern_file_out *file, const void *data, size_t n,
                                       ernie_error *error);
ERN_FN ernie_status ern_file_out_commit(ern_file_out *file, ernie_error *error); /* frees it */
ERN_FN void ern_file_out_abandon(ern_file_out *file); /* removes the temporary; NULL is fine */

/* Sequential reading with exact counts. ERNIE_FORMAT when the file ends too early. */
typedef struct ern_file_in ern_file_in;
ERN_FN ernie_status ern_file_in_open(ern_file_in **in, const char *path,
                                     const ernie_allocator *allocator, uint64_t *n_bytes,
                                     ernie_error *error);
ERN_FN ernie_status ern_file_in_read(ern_file_in *file, void *data, size_t n, ernie_error *error);
ERN_FN void ern_file_in_close(ern_file_in *file);

/* A file whose pieces several threads read at places of their own: past the page cache where the
 * system and its file system allow (direct), so that reading takes no memory but the reader's. */
typedef struct ern_disk ern_disk;
#define ERN_DISK_ALIGN 4096u

/* n_readers: threads that will read at once, 1 .. 64. `buffered` asks for the page cache. *n_bytes
 * receives the file's length. Statuses as ern_file_view_open; *out is NULL after failure. */
ERN_FN ernie_status ern_disk_open(ern_disk **out, const char *path, unsigned n_readers,
                                  bool buffered, const ernie_allocator *allocator,
                                  uint64_t *n_bytes, ernie_error *error);
/* Read exactly n bytes at offset; offset, n and data are multiples of ERN_DISK_ALIGN, and data
 * stays the caller's. Reader i (0 .. n_readers - 1) calls for itself only. What direct reading
 * refuses is read through the page cache. ERNIE_IO names the path and the reason, or at which byte
 * the file ended; data is then undefined. Any thread, each with its own reader. */
ERN_FN ernie_status ern_disk_read(ern_disk *disk, unsigned reader, uint64_t offset, void *data,
                                  size_t n, ernie_error *error);
/* The same through the page cache, for a second try. */
ERN_FN ernie_status ern_disk_reread(ern_disk *disk, unsigned reader, uint64_t offset, void *data,
                                    size_t n, ernie_error *error);
ERN_FN bool ern_disk_is_direct(const ern_disk *disk); /* so far */
ERN_FN void ern_disk_close(ern_disk *disk); /* NULL is fine */

/* The end of a long path, so that the reason after it still fits into a message. */
ERN_FN const char *ern_path_end(const char *path);

/* ---- Memory -------------------------------------------------------------------------------- */

/* Bytes that this process may still take without anyone being swapped out: what the machine has
 * available, within the limits of its control groups. 0 when the system does not tell. */
ERN_FN uint64_t ern_memory_available(void);

/* A 64-byte aligned block that is filled once and read often, for ern_free_aligned. Of the default
 * allocator it asks the system for huge pages (Linux): fewer misses of the address cache while it
 * is read, and a block of gigabytes is given back in milliseconds. An application's own allocator
 * is left alone: what pages its memory has is its business. */
ERN_FN void *ern_alloc_filled(const ernie_allocator *allocator, size_t size);

/* Does the system give huge pages to whoever asks? */
ERN_FN bool ern_huge_pages_offered(void);

/* Do most of [data, data + n) lie on huge pages? Reads a few of its bytes first, and whole lists of
 * the system: milliseconds, more when the file has to come from a slow disk. */
ERN_FN bool ern_on_huge_pages(const void *data, size_t n);

/* Nobody will read [data, data + n) of a file's mapping soon. Reading it stays possible. */
ERN_FN void ern_forget_pages(const void *data, size_t n);

/* ---- Control groups ------------------------------------------------------------------------ */

ERN_FN unsigned ern_group_cpus(void); /* processors of their CPU quota, rounded up; 0: no limit */
/* Bytes left, files' pages taken for free; UINT64_MAX: no limit. */
ERN_FN uint64_t ern_group_memory(void);

#ifdef __linux__
/* The first line of a small file of /proc or /sys; false when it is absent, empty or too long. */
ERN_FN bool ern_read_line(const char *path, char *line, size_t size);
#endif

/* ---- Time, chance, processors -------------------------------------------------------------- */

ERN_FN double ern_seconds(void); /* monotonic */
ERN_FN uint64_t ern_entropy(void); /* for seeds, not for secrets */

/* Physical cores that this process may use: affinity, SMT siblings and the cgroup's CPU quota taken
 * into account; at least 1. */
ERN_FN unsigned ern_cpu_count(void);

/* The same with SMT siblings counted one by one: more busy threads wait for each other. */
ERN_FN unsigned ern_cpu_threads(void);

/* ---- Threads ------------------------------------------------------------------------------- */

typedef struct ern_thread {
    void *handle[2]; /* room for a pthread_t or a HANDLE */
    void (*fn)(void *arg);
    void *arg;
} ern_thread;

/* *thread stays where it is until joined. Signals are left to the application's own threads. */
ERN_FN bool ern_thread_start(ern_thread *thread, void (*fn)(void *arg), void *arg);
ERN_FN void ern_thread_join(ern_thread *thread);

/* Sleep while *word == expected, until woken (spurious returns happen); wake all sleepers on word.
 * A futex, or a mutex and condition variable. */
ERN_FN void ern_wait(atomic_uint *word, unsigned expected);
/* The same for at most so long. */
ERN_FN void ern_wait_for(atomic_uint *word, unsigned expected, double seconds);
ERN_FN void ern_wake_all(atomic_uint *word);

/* A lock for short sections; zero is unlocked. */
typedef struct ern_mutex {
    atomic_uint state; /* 0 free, 1 held, 2 held and waited for */
} ern_mutex;
ERN_FN void ern_mutex_lock(ern_mutex *mutex);
ERN_FN void ern_mutex_unlock(ern_mutex *mutex);

ERN_FN void ern_cpu_relax(void);    /* one pause in a spin loop */
ERN_FN void ern_thread_yield(void); /* let another thread run on this processor */
ERN_FN void ern_sleep(double seconds); /* at least that long; signals end it early */

#endif
