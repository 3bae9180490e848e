/* A file whose pieces several threads read at places of their own, past the page cache where that
 * is possible.
 *
 * The file is open twice: for direct reading, which moves bytes from the disk to the caller's
 * memory and nowhere else, and through the page cache. Direct reading is a wish: file systems
 * refuse it when the file is opened (tmpfs, some of the network) or only when it is read, whatever
 * they said before. The first refusal turns this disk to the page cache for good. What comes in
 * that way stays there: where the file system is memory anyway, or keeps pages of its own, dropping
 * them would only slow down the next read, and pages of files are the first that the kernel takes
 * back.
 *
 * Windows orders the reads of one handle one behind the other, so every reader has its own pair.
 * It is also slow unless lengths are multiples of 64 KiB. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64
#endif
#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN 1
#endif
#ifndef NOMINMAX
#define NOMINMAX 1
#endif
#include <windows.h>
#else
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#endif

#include "os_handle.h"

#define DISK_READERS_MAX 64u

typedef struct disk_pair {
    ern_handle direct, buffered;
} disk_pair;

struct ern_disk {
    const ernie_allocator *allocator;
    size_t block_bytes;
    char *path; /* behind the pairs */
    uint64_t n_bytes; /* of the file, when it was opened */
    atomic_bool direct;
    unsigned n_pairs;
    disk_pair pairs[]; /* [n_pairs] */
};

/* ---- What systems do differently ------------------------------------------------------------- */

#ifdef _WIN32

#define DISK_STEP           ((size_t)64 << 10)
#define DISK_PAIRS(readers) (readers)

/* Open once more the file that is open as `handle`. */
static ern_handle disk_reopen(ern_handle handle, const char *path, bool direct)
{
    (void)path;
    const DWORD flags = direct ? FILE_FLAG_NO_BUFFERING | FILE_FLAG_OVERLAPPED : 0;
    return ReOpenFile(handle, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, flags);
}

/* Is this how a system says that it does not read directly, rather than that reading failed? */
static bool disk_refused(int code)
{
    return code == ERROR_INVALID_PARAMETER || code == ERROR_INVALID_FUNCTION
           || code == ERROR_NOT_SUPPORTED;
}

#else

#define DISK_STEP           ((size_t)ERN_DISK_ALIGN)
#define DISK_PAIRS(readers) ((void)(readers), 1u) /* pread knows no order */

#ifdef O_DIRECT
#define DISK_DIRECT O_DIRECT
#else
#define DISK_DIRECT 0
#endif

/* Have the page cache left out, if opening with DISK_DIRECT has not done so. */
static bool disk_make_direct(int handle)
{
#ifdef __APPLE__
    return fcntl(handle, F_NOCACHE, 1) == 0;
#else
    (void)handle;
    return DISK_DIRECT != 0;
#endif
}

/* Open once more the file that is open as `handle`; another one that has come under its name
 * meanwhile is not it. */
static ern_handle disk_reopen(ern_handle handle, const char *path, bool direct)
{
    struct stat one, two;
    const int again = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | (direct ? DISK_DIRECT : 0));
    if (again < 0) return ERN_HANDLE_NONE;
    if (fstat(handle, &one) == 0 && fstat(again, &two) == 0 && one.st_dev == two.st_dev
        && one.st_ino == two.st_ino && (!direct || disk_make_direct(again)))
        return again;
    ern_handle_close(again);
    return ERN_HANDLE_NONE;
}

/* Is this how a system says that it does not read directly, rather than that reading failed? */
static bool disk_refused(int code)
{
    return code == EINVAL || code == ENOTSUP || code == EOPNOTSUPP || code == ENOSYS;
}

#undef DISK_DIRECT

#endif

/* ---- Opening --------------------------------------------------------------------------------- */

static ern_disk *disk_alloc(const char *path, unsigned n_pairs, const ernie_allocator *allocator)
{
    const size_t n_path = strlen(path) + 1;
    const size_t block_bytes = sizeof(ern_disk) + n_pairs * sizeof(disk_pair) + n_path;
    ern_disk *disk = ern_alloc_zero(allocator, block_bytes);
    if (!disk) return NULL;
    disk->allocator = allocator;
    disk->block_bytes = block_bytes;
    disk->path = (char *)(disk->pairs + n_pairs);
    memcpy(disk->path, path, n_path);
    atomic_init(&disk->direct, false);
    disk->n_pairs = n_pairs;
    for (unsigned i = 0; i < n_pairs; i++)
        disk->pairs[i] = (disk_pair){ ERN_HANDLE_NONE, ERN_HANDLE_NONE };
    return disk;
}

static ernie_status disk_open_buffered(ern_disk *disk, ernie_error *error)
{
    const ern_handle *first = &disk->pairs[0].buffered;
    ernie_status status =
        ern_handle_open(&disk->pairs[0].buffered, disk->path, &disk->n_bytes, error);
    for (unsigned i = 1; i < disk->n_pairs && status == ERNIE_OK; i++) {
        disk->pairs[i].buffered = disk_reopen(*first, disk->path, false);
        if (disk->pairs[i].buffered == ERN_HANDLE_NONE)
            status = ern_handle_fail(error, "opened", disk->path, ern_handle_reason());
    }
    return status;
}

static bool disk_open_direct(ern_disk *disk)
{
    bool all = true;
    for (unsigned i = 0; i < disk->n_pairs && all; i++) {
        disk->pairs[i].direct = disk_reopen(disk->pairs[0].buffered, disk->path, true);
        all = disk->pairs[i].direct != ERN_HANDLE_NONE;
    }
    return all;
}

ERN_FN ernie_status ern_disk_open(ern_disk **out, const char *path, unsigned n_readers,
                                  bool buffered, const ernie_allocator *allocator,
                                  uint64_t *n_bytes, ernie_error *error)
{
    ERN_ASSERT(n_readers >= 1 && n_readers <= DISK_READERS_MAX);
    *out = NULL;
    ern_disk *disk = disk_alloc(path, DISK_PAIRS(n_readers), allocator);
    ERN_FAIL_IF(!disk, error, ERNIE_NO_MEMORY, "no memory to open \"%s\"", ern_path_end(path));
    const ernie_status status = disk_open_buffered(disk, error);
    if (status != ERNIE_OK) {
        ern_disk_close(disk);
        return status;
    }
    if (!buffered) atomic_store(&disk->direct, disk_open_direct(disk));
    *n_bytes = disk->n_bytes;
    *out = disk;
    return ERNIE_OK;
}

ERN_FN void ern_disk_close(ern_disk *disk)
{
    if (!disk) return;
    for (unsigned i = 0; i < disk->n_pairs; i++) {
        const disk_pair *pair = &disk->pairs[i];
        if (pair->direct != ERN_HANDLE_NONE) ern_handle_close(pair->direct);
        if (pair->buffered != ERN_HANDLE_NONE) ern_handle_close(pair->buffered);
    }
    ern_free(disk->allocator, disk, disk->block_bytes);
}

ERN_FN bool ern_disk_is_direct(const ern_disk *disk)
{
    return atomic_load(&disk->direct);
}

/* ---- Reading --------------------------------------------------------------------------------- */

/* How much of `left` bytes to ask for at once: whole steps, then what is less than one. */
static size_t disk_piece(size_t left)
{
    const size_t piece = ern_min_size(left, ERN_HANDLE_PIECE);
    return piece < DISK_STEP ? piece : piece - piece % DISK_STEP;
}

/* The file gives nothing at `at`, a byte before `end`. */
static ernie_status disk_ended(const ern_disk *disk, ern_handle handle, uint64_t at, uint64_t end,
                               ernie_error *error)
{
    uint64_t n_bytes;
    if (ern_handle_length(handle, &n_bytes) && n_bytes < at) at = n_bytes;
    if (end < disk->n_bytes) end = disk->n_bytes;
    return ern_error_set(error, ERNIE_IO, "\"%s\" ended at byte %llu of %llu while it was read",
                         ern_path_end(disk->path), (unsigned long long)at,
                         (unsigned long long)end);
}

/* A count that is no multiple of ERN_DISK_ALIGN tells that the file ends there, or that it was
 * interrupted: either way direct reading cannot go on from such a place, and the page cache can. */
static ernie_status disk_read(ern_disk *disk, unsigned reader, uint64_t offset, unsigned char *data,
                              size_t n, bool direct, ernie_error *error)
{
    ERN_ASSERT(offset % ERN_DISK_ALIGN == 0 && n % ERN_DISK_ALIGN == 0);
    ERN_ASSERT((uintptr_t)data % ERN_DISK_ALIGN == 0);
    const disk_pair *pair = &disk->pairs[reader % disk->n_pairs];
    for (size_t done = 0; done < n;) {
        const ern_handle handle = direct ? pair->direct : pair->buffered;
        const long long got =
            ern_handle_read(handle, data + done, disk_piece(n - done), offset + done);
        if (got > 0) {
            done += (size_t)got;
            direct = direct && done % ERN_DISK_ALIGN == 0;
        } else if (got == 0) {
            return disk_ended(disk, handle, offset + done, offset + n, error);
        } else if (direct && disk_refused(ern_handle_reason())) {
            atomic_store(&disk->direct, false);
            direct = false;
        } else {
            return ern_handle_fail(error, "read", disk->path, ern_handle_reason());
        }
    }
    return ERNIE_OK;
}

ERN_FN ernie_status ern_disk_read(ern_disk *disk, unsigned reader, uint64_t offset, void *data,
                                  size_t n, ernie_error *error)
{
    return disk_read(disk, reader, offset, data, n, ern_disk_is_direct(disk), error);
}

ERN_FN ernie_status ern_disk_reread(ern_disk *disk, unsigned reader, uint64_t offset, void *data,
                                    size_t n, ernie_error *error)
{
    return disk_read(disk, reader, offset, data, n, false, error);
}

#undef DISK_READERS_MAX
#undef DISK_STEP
#undef DISK_PAIRS
