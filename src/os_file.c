/* Files: read-only views, files that appear whole or not at all, exact sequential reading.
 *
 * The first half says in a dozen primitives what POSIX and Windows do differently; the second half
 * is the same for both. Every failure names the path and the system's own reason. */
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
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

#include "os_handle.h"

#define FILE_IN_BUFFER   ((size_t)64 << 10)
#define FILE_OUT_BUFFER  ((size_t)1 << 20)
#define FILE_NAME_TRIES  16

/* What a path leads to. */
enum { FILE_ABSENT, FILE_REGULAR, FILE_FOLDER, FILE_SPECIAL };

/* ---- Primitives ---------------------------------------------------------------------------- */

#ifdef _WIN32

#define FILE_WIDE_MAX 4096

ERN_FN int ern_handle_reason(void)
{
    return (int)GetLastError();
}

static void file_reason(int code, char *text, size_t size)
{
    const DWORD flags = FORMAT_MESSAGE_FROM_SYSTEM | FORMAT_MESSAGE_IGNORE_INSERTS;
    wchar_t wide[256];
    DWORD n = FormatMessageW(flags, NULL, (DWORD)code, 0, wide, 256, NULL);
    while (n && (wide[n - 1] == L'\r' || wide[n - 1] == L'\n' || wide[n - 1] == L'.')) n--;
    const int bytes =
        WideCharToMultiByte(CP_UTF8, 0, wide, (int)n, text, (int)size - 1, NULL, NULL);
    text[bytes > 0 ? bytes : 0] = '\0';
    if (bytes <= 0) snprintf(text, size, "system error %d", code);
}

static bool file_wide(const char *path, wchar_t wide[FILE_WIDE_MAX])
{
    return MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, FILE_WIDE_MAX) > 0;
}

static int file_kind(const char *path)
{
    wchar_t wide[FILE_WIDE_MAX];
    if (!file_wide(path, wide)) return FILE_ABSENT;
    const DWORD attributes = GetFileAttributesW(wide);
    if (attributes == INVALID_FILE_ATTRIBUTES) return FILE_ABSENT;
    if (attributes & FILE_ATTRIBUTE_DIRECTORY) return FILE_FOLDER;
    return attributes & FILE_ATTRIBUTE_DEVICE ? FILE_SPECIAL : FILE_REGULAR;
}

ERN_FN bool ern_handle_length(ern_handle handle, uint64_t *n_bytes)
{
    LARGE_INTEGER size;
    if (!GetFileSizeEx(handle, &size)) return false;
    *n_bytes = (uint64_t)size.QuadPart;
    return true;
}

static ern_handle file_open(const char *path, int *kind, uint64_t *n_bytes)
{
    wchar_t wide[FILE_WIDE_MAX];
    *kind = file_kind(path);
    if (*kind == FILE_FOLDER || !file_wide(path, wide)) return ERN_HANDLE_NONE;
    const HANDLE handle = CreateFileW(wide, GENERIC_READ, FILE_SHARE_READ | FILE_SHARE_DELETE, NULL,
                                      OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, NULL);
    if (handle == ERN_HANDLE_NONE) return ERN_HANDLE_NONE;
    *kind = GetFileType(handle) == FILE_TYPE_DISK ? FILE_REGULAR : FILE_SPECIAL;
    if (!ern_handle_length(handle, n_bytes)) *n_bytes = 0;
    return handle;
}

static ern_handle file_create(const char *path, bool *exists)
{
    wchar_t wide[FILE_WIDE_MAX];
    *exists = false;
    if (!file_wide(path, wide)) return ERN_HANDLE_NONE;
    const HANDLE handle = CreateFileW(wide, GENERIC_READ | GENERIC_WRITE, 0, NULL, CREATE_NEW,
                                      FILE_ATTRIBUTE_NORMAL, NULL);
    *exists = handle == ERN_HANDLE_NONE && GetLastError() == ERROR_FILE_EXISTS;
    return handle;
}

static OVERLAPPED file_at(uint64_t offset)
{
    OVERLAPPED at;
    memset(&at, 0, sizeof at);
    at.Offset = (DWORD)offset;
    at.OffsetHigh = (DWORD)(offset >> 32);
    return at;
}

ERN_FN long long ern_handle_read(ern_handle handle, void *data, size_t n, uint64_t offset)
{
    OVERLAPPED at = file_at(offset);
    DWORD got = 0;
    bool ok = ReadFile(handle, data, (DWORD)ern_min_size(n, ERN_HANDLE_PIECE), &got, &at) != 0;
    if (!ok && GetLastError() == ERROR_IO_PENDING) /* of a handle that is open for such reads */
        ok = GetOverlappedResult(handle, &at, &got, TRUE) != 0;
    if (ok) return got;
    return GetLastError() == ERROR_HANDLE_EOF ? 0 : -1;
}

static long long file_write_some(ern_handle handle, const void *data, size_t n, uint64_t offset)
{
    OVERLAPPED at = file_at(offset);
    DWORD got = 0;
    const DWORD want = (DWORD)ern_min_size(n, ERN_HANDLE_PIECE);
    return WriteFile(handle, data, want, &got, &at) ? (long long)got : -1;
}

static bool file_flush(ern_handle handle)
{
    return FlushFileBuffers(handle) != 0;
}

ERN_FN bool ern_handle_close(ern_handle handle)
{
    return CloseHandle(handle) != 0;
}

static const void *file_map(ern_handle handle, size_t n)
{
    const HANDLE mapping = CreateFileMappingW(handle, NULL, PAGE_READONLY, 0, 0, NULL);
    if (!mapping) return NULL;
    const void *data = MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, n);
    CloseHandle(mapping); /* the view keeps it alive */
    return data;
}

static void file_unmap(const void *data, size_t n)
{
    (void)n;
    UnmapViewOfFile(data);
}

static bool file_rename(const char *from, const char *to)
{
    wchar_t wide_from[FILE_WIDE_MAX], wide_to[FILE_WIDE_MAX];
    return file_wide(from, wide_from) && file_wide(to, wide_to)
           && MoveFileExW(wide_from, wide_to, MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH);
}

static void file_remove(const char *path)
{
    wchar_t wide[FILE_WIDE_MAX];
    if (file_wide(path, wide)) DeleteFileW(wide);
}

#undef FILE_WIDE_MAX

#else

ERN_FN int ern_handle_reason(void)
{
    return errno;
}

/* strerror_r comes in two shapes: GNU's returns the text, POSIX' fills the buffer. */
static const char *file_text_gnu(const char *result, const char *text)
{
    (void)text;
    return result;
}

static const char *file_text_posix(int result, const char *text)
{
    return result == 0 ? text : "unknown reason";
}

static void file_reason(int code, char *text, size_t size)
{
    char buffer[128] = "";
    const char *reason = _Generic(strerror_r(0, buffer, sizeof buffer), char *: file_text_gnu,
                                  int: file_text_posix)(
        strerror_r(code, buffer, sizeof buffer), buffer);
    snprintf(text, size, "%s", reason);
}

static int file_mode_kind(mode_t mode)
{
    return S_ISREG(mode) ? FILE_REGULAR : S_ISDIR(mode) ? FILE_FOLDER : FILE_SPECIAL;
}

static int file_kind(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 ? file_mode_kind(info.st_mode) : FILE_ABSENT;
}

ERN_FN bool ern_handle_length(ern_handle handle, uint64_t *n_bytes)
{
    struct stat info;
    if (fstat(handle, &info) != 0) return false;
    *n_bytes = (uint64_t)info.st_size;
    return true;
}

/* Without blocking, so that a pipe without a writer is refused instead of waited for. */
static ern_handle file_open(const char *path, int *kind, uint64_t *n_bytes)
{
    struct stat info;
    *kind = FILE_ABSENT;
    const int handle = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (handle < 0) return ERN_HANDLE_NONE;
    if (fstat(handle, &info) != 0) {
        const int code = errno;
        close(handle);
        errno = code;
        return ERN_HANDLE_NONE;
    }
    *kind = file_mode_kind(info.st_mode);
    *n_bytes = (uint64_t)info.st_size;
    return handle;
}

static ern_handle file_create(const char *path, bool *exists)
{
    const int handle = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    *exists = handle < 0 && errno == EEXIST;
    return handle;
}

ERN_FN long long ern_handle_read(ern_handle handle, void *data, size_t n, uint64_t offset)
{
    ssize_t got;
    do got = pread(handle, data, ern_min_size(n, ERN_HANDLE_PIECE), (off_t)offset);
    while (got < 0 && errno == EINTR);
    return got;
}

static long long file_write_some(ern_handle handle, const void *data, size_t n, uint64_t offset)
{
    ssize_t got;
    do got = pwrite(handle, data, ern_min_size(n, ERN_HANDLE_PIECE), (off_t)offset);
    while (got < 0 && errno == EINTR);
    return got;
}

/* Some file systems cannot flush; that is no reason to lose the file. */
static bool file_flush(ern_handle handle)
{
    return fsync(handle) == 0 || errno == EINVAL || errno == ENOTSUP;
}

ERN_FN bool ern_handle_close(ern_handle handle)
{
    return close(handle) == 0 || errno == EINTR;
}

static const void *file_map(ern_handle handle, size_t n)
{
    void *data = mmap(NULL, n, PROT_READ, MAP_PRIVATE, handle, 0);
    return data == MAP_FAILED ? NULL : data;
}

static void file_unmap(const void *data, size_t n)
{
    munmap((void *)data, n);
}

static bool file_rename(const char *from, const char *to)
{
    return rename(from, to) == 0;
}

static void file_remove(const char *path)
{
    unlink(path);
}

#endif

/* ---- Words --------------------------------------------------------------------------------- */

ERN_FN const char *ern_path_end(const char *path)
{
    const size_t n = strlen(path), n_max = 120;
    if (n <= n_max) return path;
    const char *end = path + n - n_max;
    while (((unsigned char)*end & 0xc0) == 0x80) end++;
    return end;
}

ERN_FN ernie_status ern_handle_fail(ernie_error *error, const char *done, const char *path,
                                    int code)
{
    char reason[128];
    const char *end = ern_path_end(path);
    file_reason(code, reason, sizeof reason);
    return ern_error_set(error, ERNIE_IO, "%s%s: cannot be %s: %s", end == path ? "" : "...", end,
                         done, reason);
}

static ernie_status file_refuse_kind(ernie_error *error, const char *path, int kind)
{
    const char *end = ern_path_end(path);
    return ern_error_set(error, ERNIE_IO, "%s%s: is %s, expected a file", end == path ? "" : "...",
                         end, kind == FILE_FOLDER ? "a directory" : "a device or a pipe");
}

ERN_FN ernie_status ern_handle_open(ern_handle *handle, const char *path, uint64_t *n_bytes,
                                    ernie_error *error)
{
    int kind;
    *handle = file_open(path, &kind, n_bytes);
    if (kind == FILE_REGULAR && *handle != ERN_HANDLE_NONE) return ERNIE_OK;
    if (*handle == ERN_HANDLE_NONE && kind != FILE_FOLDER)
        return ern_handle_fail(error, "opened", path, ern_handle_reason());
    if (*handle != ERN_HANDLE_NONE) ern_handle_close(*handle);
    *handle = ERN_HANDLE_NONE;
    return file_refuse_kind(error, path, kind);
}

/* ---- Views --------------------------------------------------------------------------------- */

static const struct {
    alignas(64) unsigned char bytes[64];
} file_empty = { { 0 } };

typedef struct file_reading {
    ern_handle handle;
    const char *path;
    ernie_progress_fn progress;
    void *user;
    const ernie_cancel *cancel;
} file_reading;

static ernie_status file_read_all(const file_reading *r, unsigned char *data, uint64_t n_bytes,
                                  ernie_error *error)
{
    for (uint64_t done = 0; done < n_bytes;) {
        const uint64_t left = n_bytes - done;
        const size_t want = left < ERN_HANDLE_PIECE ? (size_t)left : ERN_HANDLE_PIECE;
        const long long got = ern_handle_read(r->handle, data + done, want, done);
        if (got < 0) return ern_handle_fail(error, "read", r->path, ern_handle_reason());
        ERN_FAIL_IF(got == 0, error, ERNIE_IO,
                    "\"%s\" ended at byte %llu of %llu while it was read", ern_path_end(r->path),
                    (unsigned long long)done, (unsigned long long)n_bytes);
        done += (uint64_t)got;
        const bool stop = r->progress && r->progress("reading", done, n_bytes, r->user) != 0;
        ERN_FAIL_IF(stop || ern_cancelled(r->cancel), error, ERNIE_CANCELLED,
                    "cancelled after reading %llu of %llu bytes", (unsigned long long)done,
                    (unsigned long long)n_bytes);
    }
    return ERNIE_OK;
}

static ernie_status file_view_read(ern_file_view *view, const file_reading *r, uint64_t n_bytes,
                                   const ernie_allocator *allocator, ernie_error *error)
{
    unsigned char *data = ern_alloc_filled(allocator, (size_t)n_bytes);
    ERN_FAIL_IF(!data, error, ERNIE_NO_MEMORY, "no memory to read \"%s\" of %llu bytes",
                ern_path_end(r->path), (unsigned long long)n_bytes);
    const ernie_status status = file_read_all(r, data, n_bytes, error);
    if (status != ERNIE_OK) {
        ern_free_aligned(allocator, data, (size_t)n_bytes);
        return status;
    }
    *view = (ern_file_view){ .data = data, .n_bytes = n_bytes, .allocator = allocator };
    return ERNIE_OK;
}

static ernie_status file_view_map(ern_file_view *view, const file_reading *r, uint64_t n_bytes,
                                  ernie_error *error)
{
    const void *data = file_map(r->handle, (size_t)n_bytes);
    if (!data) return ern_handle_fail(error, "mapped", r->path, ern_handle_reason());
    *view = (ern_file_view){ .data = data, .n_bytes = n_bytes, .mapped = true };
    return ERNIE_OK;
}

ERN_FN ernie_status ern_file_view_open(ern_file_view *view, const char *path, bool read_in,
                                       const ernie_allocator *allocator, ernie_progress_fn progress,
                                       void *progress_user, const ernie_cancel *cancel,
                                       ernie_error *error)
{
    uint64_t n_bytes = 0;
    file_reading r = { ERN_HANDLE_NONE, path, progress, progress_user, cancel };
    *view = (ern_file_view){ 0 };
    ernie_status status = ern_handle_open(&r.handle, path, &n_bytes, error);
    if (status != ERNIE_OK) return status;
    if (n_bytes > SIZE_MAX / 2)
        status = ern_error_set(error, ERNIE_IO, "\"%s\" of %llu bytes exceeds the address space",
                               ern_path_end(path), (unsigned long long)n_bytes);
    else if (n_bytes == 0)
        view->data = file_empty.bytes;
    else if (read_in)
        status = file_view_read(view, &r, n_bytes, allocator, error);
    else
        status = file_view_map(view, &r, n_bytes, error);
    ern_handle_close(r.handle);
    return status;
}

ERN_FN void ern_file_view_close(ern_file_view *view)
{
    if (view->mapped)
        file_unmap(view->data, (size_t)view->n_bytes);
    else if (view->allocator)
        ern_free_aligned(view->allocator, (void *)view->data, (size_t)view->n_bytes);
    *view = (ern_file_view){ 0 };
}

/* ---- Files that appear whole --------------------------------------------------------------- */

struct ern_file_out {
    const ernie_allocator *allocator;
    ern_handle handle;
    char *path, *temporary; /* both in this block, behind the struct */
    size_t block_bytes;
    unsigned char *buffer; /* [FILE_OUT_BUFFER] */
    size_t n_buffered;
    uint64_t n_written;  /* bytes in the file */
    ernie_error failure; /* the first one; code ERNIE_OK while there is none */
};

/* The struct, room for both names (the suffix has under 32 characters) and the buffer. */
static ern_file_out *file_out_alloc(const char *path, const ernie_allocator *allocator)
{
    const size_t n_path = strlen(path) + 1, n_suffix = 32;
    const size_t block_bytes = sizeof(ern_file_out) + 2 * n_path + n_suffix;
    ern_file_out *file = ern_alloc_zero(allocator, block_bytes);
    unsigned char *buffer = file ? ern_alloc(allocator, FILE_OUT_BUFFER) : NULL;
    if (!buffer) {
        ern_free(allocator, file, block_bytes);
        return NULL;
    }
    file->allocator = allocator;
    file->handle = ERN_HANDLE_NONE;
    file->block_bytes = block_bytes;
    file->buffer = buffer;
    file->path = (char *)(file + 1);
    file->temporary = file->path + n_path;
    memcpy(file->path, path, n_path);
    return file;
}

static void file_out_free(ern_file_out *file)
{
    ern_free(file->allocator, file->buffer, FILE_OUT_BUFFER);
    ern_free(file->allocator, file, file->block_bytes);
}

/* The temporary lies in the target's folder, so that the rename stays on one file system. */
static bool file_out_create(ern_file_out *file)
{
    bool exists = true;
    for (int i = 0; i < FILE_NAME_TRIES && exists; i++) {
        snprintf(file->temporary, strlen(file->path) + 32, "%s.tmp-%016llx", file->path,
                 (unsigned long long)ern_entropy());
        file->handle = file_create(file->temporary, &exists);
    }
    return file->handle != ERN_HANDLE_NONE;
}

ERN_FN ernie_status ern_file_out_open(ern_file_out **out, const char *path,
                                      const ernie_allocator *allocator, ernie_error *error)
{
    *out = NULL;
    const int kind = file_kind(path);
    if (kind == FILE_FOLDER || kind == FILE_SPECIAL) return file_refuse_kind(error, path, kind);
    ern_file_out *file = file_out_alloc(path, allocator);
    ERN_FAIL_IF(!file, error, ERNIE_NO_MEMORY, "no memory for a write buffer of %zu bytes",
                FILE_OUT_BUFFER);
    if (!file_out_create(file)) {
        const ernie_status status = ern_handle_fail(error, "created", path, ern_handle_reason());
        file_out_free(file);
        return status;
    }
    *out = file;
    return ERNIE_OK;
}

static bool file_out_failed(const ern_file_out *file)
{
    return file->failure.code != ERNIE_OK;
}

static ernie_status file_out_repeat(const ern_file_out *file, ernie_error *error)
{
    if (file_out_failed(file) && error) *error = file->failure;
    return file->failure.code;
}

/* Write to the file's end; the first failure sticks. */
static void file_out_put(ern_file_out *file, const void *data, size_t n)
{
    const unsigned char *bytes = data;
    while (n && !file_out_failed(file)) {
        const long long got = file_write_some(file->handle, bytes, n, file->n_written);
        if (got <= 0) {
            ern_handle_fail(&file->failure, "written", file->path, ern_handle_reason());
            return;
        }
        bytes += got;
        n -= (size_t)got;
        file->n_written += (uint64_t)got;
    }
}

static void file_out_flush(ern_file_out *file)
{
    file_out_put(file, file->buffer, file->n_buffered);
    file->n_buffered = 0;
}

ERN_FN ernie_status ern_file_out_write(ern_file_out *file, const void *data, size_t n,
                                       ernie_error *error)
{
    if (n > FILE_OUT_BUFFER - file->n_buffered) file_out_flush(file);
    if (n >= FILE_OUT_BUFFER) {
        file_out_put(file, data, n);
    } else if (n) {
        memcpy(file->buffer + file->n_buffered, data, n);
        file->n_buffered += n;
    }
    return file_out_repeat(file, error);
}

ERN_FN ernie_status ern_file_out_commit(ern_file_out *file, ernie_error *error)
{
    file_out_flush(file);
    if (!file_out_failed(file) && !file_flush(file->handle))
        ern_handle_fail(&file->failure, "written", file->path, ern_handle_reason());
    if (!ern_handle_close(file->handle) && !file_out_failed(file))
        ern_handle_fail(&file->failure, "written", file->path, ern_handle_reason());
    file->handle = ERN_HANDLE_NONE;
    if (!file_out_failed(file) && !file_rename(file->temporary, file->path))
        ern_handle_fail(&file->failure, "replaced", file->path, ern_handle_reason());
    if (file_out_failed(file)) file_remove(file->temporary);
    const ernie_status status = file_out_repeat(file, error);
    file_out_free(file);
    return status;
}

ERN_FN void ern_file_out_abandon(ern_file_out *file)
{
    if (!file) return;
    ern_handle_close(file->handle);
    file_remove(file->temporary);
    file_out_free(file);
}

/* ---- Sequential reading -------------------------------------------------------------------- */

struct ern_file_in {
    const ernie_allocator *allocator;
    ern_handle handle;
    char *path; /* behind the struct */
    size_t block_bytes;
    uint64_t position; /* of the next byte to hand out */
    size_t begin, end; /* what the buffer still holds */
    unsigned char buffer[FILE_IN_BUFFER];
};

ERN_FN ernie_status ern_file_in_open(ern_file_in **in, const char *path,
                                     const ernie_allocator *allocator, uint64_t *n_bytes,
                                     ernie_error *error)
{
    *in = NULL;
    const size_t n_path = strlen(path) + 1;
    const size_t block_bytes = sizeof(ern_file_in) + n_path;
    ern_file_in *file = ern_alloc(allocator, block_bytes);
    ERN_FAIL_IF(!file, error, ERNIE_NO_MEMORY, "no memory for a read buffer of %zu bytes",
                block_bytes);
    file->allocator = allocator;
    file->block_bytes = block_bytes;
    file->position = 0;
    file->begin = file->end = 0;
    file->path = (char *)(file + 1);
    memcpy(file->path, path, n_path);
    const ernie_status status = ern_handle_open(&file->handle, path, n_bytes, error);
    if (status != ERNIE_OK) {
        ern_free(allocator, file, block_bytes);
        return status;
    }
    *in = file;
    return ERNIE_OK;
}

/* Read up to n bytes at the position: large pieces at once, small ones through the buffer. */
static long long file_in_some(ern_file_in *file, unsigned char *data, size_t n)
{
    if (file->begin == file->end && n >= FILE_IN_BUFFER)
        return ern_handle_read(file->handle, data, n, file->position);
    if (file->begin == file->end) {
        const long long got =
            ern_handle_read(file->handle, file->buffer, FILE_IN_BUFFER, file->position);
        if (got <= 0) return got;
        file->begin = 0;
        file->end = (size_t)got;
    }
    n = ern_min_size(n, file->end - file->begin);
    memcpy(data, file->buffer + file->begin, n);
    file->begin += n;
    return (long long)n;
}

ERN_FN ernie_status ern_file_in_read(ern_file_in *file, void *data, size_t n, ernie_error *error)
{
    unsigned char *bytes = data;
    while (n) {
        const long long got = file_in_some(file, bytes, n);
        if (got < 0) return ern_handle_fail(error, "read", file->path, ern_handle_reason());
        ERN_FAIL_IF(got == 0, error, ERNIE_FORMAT,
                    "\"%s\" ends at byte %llu, %zu more were expected", ern_path_end(file->path),
                    (unsigned long long)file->position, n);
        bytes += got;
        n -= (size_t)got;
        file->position += (uint64_t)got;
    }
    return ERNIE_OK;
}

ERN_FN void ern_file_in_close(ern_file_in *file)
{
    if (!file) return;
    ern_handle_close(file->handle);
    ern_free(file->allocator, file, file->block_bytes);
}

#undef FILE_IN_BUFFER
#undef FILE_OUT_BUFFER
#undef FILE_NAME_TRIES
