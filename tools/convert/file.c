/* POSIX calls of the converter: pread, pwrite, a locked part file, rename. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "file.h"
#include "../../src/os.h"
#include "../../src/unicode.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_WRITE_PIECE ((size_t)1 << 20) /* cancel is seen between pieces */
#define FILE_NAMES_MAX   65536u            /* entries of a directory that may match */
#define FILE_OPEN_TRIES  8

/* ---- Paths ----------------------------------------------------------------------------------- */

ERN_FN ernie_status conv_path_join(conv_path *path, const char *dir, const char *name,
                                   ernie_error *error)
{
    const size_t n = strlen(dir);
    const char *separator = n > 0 && dir[n - 1] == '/' ? "" : "/";
    const int length = snprintf(path->text, sizeof path->text, "%s%s%s", dir, separator, name);
    ERN_FAIL_IF(length < 0 || length >= (int)sizeof path->text, error, ERNIE_INVALID,
                "the path to \"%.64s\" is longer than %u bytes", name, CONV_PATH_MAX - 1);
    return ERNIE_OK;
}

ERN_FN const char *conv_path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

ERN_FN bool conv_file_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0;
}

ERN_FN bool conv_text_ends_in(const char *text, const char *suffix)
{
    const size_t n = strlen(text), n_suffix = strlen(suffix);
    return n > n_suffix && strcmp(text + n - n_suffix, suffix) == 0;
}

/* Controls are U+0000 .. U+001F and U+007F .. U+009F, of which the latter begin with 0xc2. */
static bool file_is_printable(const unsigned char *text, size_t n)
{
    if (n == 1) return text[0] >= 0x20 && text[0] != 0x7f;
    return n > 2 || text[0] != 0xc2 || text[1] >= 0xa0;
}

ERN_FN void conv_text_clean(char *text)
{
    for (size_t n = strlen(text), i = 0; i < n;) {
        size_t length;
        const ern_utf8 kind = ern_utf8_next(text + i, n - i, &length);
        if (kind != ERN_UTF8_WHOLE || !file_is_printable((unsigned char *)text + i, length))
            memset(text + i, '?', length);
        i += length;
    }
}

/* ---- Bytes ----------------------------------------------------------------------------------- */

static bool file_bytes_reserve(conv_bytes *bytes, size_t more)
{
    size_t needed;
    if (!ern_add_size(&needed, bytes->n, more)) return false;
    if (needed <= bytes->capacity) return true;
    const size_t half_again = bytes->capacity + bytes->capacity / 2;
    const size_t capacity = ern_max_size(ern_max_size(needed, half_again), 256);
    void *data = ern_resize(bytes->allocator, bytes->data, bytes->capacity, capacity);
    if (!data) return false;
    bytes->data = data;
    bytes->capacity = capacity;
    return true;
}

ERN_FN bool conv_bytes_add(conv_bytes *bytes, const void *data, size_t n)
{
    if (!file_bytes_reserve(bytes, n)) return false;
    if (n > 0) memcpy(bytes->data + bytes->n, data, n);
    bytes->n += n;
    return true;
}

ERN_FN bool conv_bytes_align(conv_bytes *bytes, size_t unit)
{
    const size_t gap = ern_round_up(bytes->n, unit) - bytes->n;
    if (!file_bytes_reserve(bytes, gap)) return false;
    if (gap > 0) memset(bytes->data + bytes->n, 0, gap);
    bytes->n += gap;
    return true;
}

ERN_FN void conv_bytes_free(conv_bytes *bytes)
{
    if (bytes->data) ern_free(bytes->allocator, bytes->data, bytes->capacity);
    bytes->data = NULL;
    bytes->n = bytes->capacity = 0;
}

/* ---- Reading --------------------------------------------------------------------------------- */

static ernie_status file_refuse_kind(const char *path, const struct stat *info, ernie_error *error)
{
    return ern_error_set(error, ERNIE_IO, "%s: is %s, expected a file", path,
                         S_ISDIR(info->st_mode) ? "a directory" : "a device or a pipe");
}

ERN_FN ernie_status conv_file_open(conv_file *file, const char *path, ernie_error *error)
{
    struct stat info;
    memset(file, 0, sizeof *file);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    ERN_FAIL_IF(fd < 0, error, ERNIE_IO, "%s: cannot be opened: %s", path, strerror(errno));
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        close(fd);
        return file_refuse_kind(path, &info, error);
    }
    file->fd = fd;
    file->open = true;
    file->n_bytes = (uint64_t)info.st_size;
    return ERNIE_OK;
}

ERN_FN void conv_file_close(conv_file *file)
{
    if (file->open) close(file->fd);
    file->open = false;
}

ERN_FN ernie_status conv_file_read(const conv_file *file, const char *name, uint64_t offset,
                                   void *data, size_t n, ernie_error *error)
{
    unsigned char *bytes = data;
    for (size_t done = 0; done < n;) {
        const ssize_t got = pread(file->fd, bytes + done, n - done, (off_t)(offset + done));
        if (got < 0 && errno == EINTR) continue;
        ERN_FAIL_IF(got < 0, error, ERNIE_IO, "%s: cannot be read at byte %llu: %s", name,
                    (unsigned long long)(offset + done), strerror(errno));
        ERN_FAIL_IF(got == 0, error, ERNIE_IO, "%s: ends at byte %llu, %zu more were expected",
                    name, (unsigned long long)(offset + done), n - done);
        done += (size_t)got;
    }
    return ERNIE_OK;
}

ERN_FN ernie_status conv_file_append(conv_bytes *bytes, const conv_file *file, const char *name,
                                     size_t n, ernie_error *error)
{
    ERN_FAIL_IF(!file_bytes_reserve(bytes, n), error, ERNIE_NO_MEMORY,
                "%s: no memory for %zu bytes more", name, n);
    const ernie_status status =
        conv_file_read(file, name, bytes->n, bytes->data + bytes->n, n, error);
    if (status == ERNIE_OK) bytes->n += n;
    return status;
}

ERN_FN ernie_status conv_file_load(conv_bytes *bytes, const char *path, uint64_t limit,
                                   ernie_error *error)
{
    conv_file file;
    ernie_status status = conv_file_open(&file, path, error);
    if (status != ERNIE_OK) return status;
    if (file.n_bytes > limit) {
        status = ern_error_set(error, ERNIE_FORMAT, "%s: has %llu bytes, at most %llu are accepted",
                               path, (unsigned long long)file.n_bytes, (unsigned long long)limit);
    } else if (!file_bytes_reserve(bytes, ern_max_size((size_t)file.n_bytes, 1))) {
        status = ern_error_set(error, ERNIE_NO_MEMORY, "%s: no memory for its %llu bytes", path,
                               (unsigned long long)file.n_bytes);
    } else {
        status = conv_file_read(&file, path, 0, bytes->data, (size_t)file.n_bytes, error);
        if (status == ERNIE_OK) bytes->n = (size_t)file.n_bytes;
    }
    conv_file_close(&file);
    return status;
}

ERN_FN bool conv_file_is(const char *path, const char *suffix, const char *magic)
{
    conv_file file;
    struct stat info;
    char begin[8];
    const size_t n = ern_min_size(strlen(magic), sizeof begin);
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode)) return false;
    if (conv_text_ends_in(path, suffix)) return true;
    if (conv_file_open(&file, path, NULL) != ERNIE_OK) return false;
    const bool is =
        conv_file_read(&file, path, 0, begin, n, NULL) == ERNIE_OK && memcmp(begin, magic, n) == 0;
    conv_file_close(&file);
    return is;
}

/* ---- Directories ----------------------------------------------------------------------------- */

ERN_FN ernie_status conv_dir_check(const char *path, ernie_error *error)
{
    struct stat info;
    ERN_FAIL_IF(stat(path, &info) != 0, error, ERNIE_IO, "%s: cannot be opened: %s",
                ern_path_end(path), strerror(errno));
    if (S_ISDIR(info.st_mode)) return ERNIE_OK;
    return ern_error_set(error, ERNIE_IO,
                         "%s: is neither a GGUF file nor the directory that holds config.json and "
                         "*.safetensors",
                         path);
}

static int file_compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Rewrite names [n_names] in sorted order. */
static bool file_sort_names(conv_bytes *names, size_t n_names)
{
    if (n_names < 2) return true;
    const size_t table_bytes = n_names * sizeof(char *);
    char **table = ern_alloc(names->allocator, table_bytes);
    conv_bytes sorted = { .allocator = names->allocator };
    bool fits = table != NULL && file_bytes_reserve(&sorted, names->n);
    if (fits) {
        char *name = (char *)names->data;
        for (size_t i = 0; i < n_names; i++, name += strlen(name) + 1) table[i] = name;
        qsort(table, n_names, sizeof *table, file_compare_names);
        for (size_t i = 0; i < n_names; i++)
            fits = fits && conv_bytes_add(&sorted, table[i], strlen(table[i]) + 1);
    }
    if (table) ern_free(names->allocator, table, table_bytes);
    if (!fits) {
        conv_bytes_free(&sorted);
        return false;
    }
    conv_bytes_free(names);
    *names = sorted;
    return true;
}

ERN_FN ernie_status conv_dir_list(conv_bytes *names, size_t *n_names, const char *dir,
                                  const char *suffix, ernie_error *error)
{
    bool fits = true;
    *n_names = 0;
    DIR *handle = opendir(dir);
    ERN_FAIL_IF(!handle, error, ERNIE_IO, "%s: cannot be opened: %s", dir, strerror(errno));
    for (const struct dirent *entry; fits && (entry = readdir(handle)) != NULL;) {
        if (!conv_text_ends_in(entry->d_name, suffix) || *n_names == FILE_NAMES_MAX) continue;
        fits = conv_bytes_add(names, entry->d_name, strlen(entry->d_name) + 1);
        if (fits) (*n_names)++;
    }
    closedir(handle);
    ERN_FAIL_IF(!fits || !file_sort_names(names, *n_names), error, ERNIE_NO_MEMORY,
                "no memory for the names in %s", dir);
    return ERNIE_OK;
}

/* ---- Writing --------------------------------------------------------------------------------- */

/* Is the locked descriptor still what the path names? Another run may have renamed it meanwhile. */
static bool file_same(const struct stat *by_fd, const char *path)
{
    struct stat by_path;
    return stat(path, &by_path) == 0 && by_fd->st_dev == by_path.st_dev
           && by_fd->st_ino == by_path.st_ino && S_ISREG(by_fd->st_mode);
}

static ernie_status file_open_part(int *fd, const char *part, ernie_error *error)
{
    for (int i = 0; i < FILE_OPEN_TRIES; i++) {
        *fd = open(part, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        ERN_FAIL_IF(*fd < 0, error, ERNIE_IO, "%s: cannot be created: %s", part, strerror(errno));
        if (flock(*fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) break;
        struct stat info;
        const bool ours = fstat(*fd, &info) != 0 || file_same(&info, part);
        if (ours && ftruncate(*fd, 0) == 0) return ERNIE_OK;
        const int reason = errno;
        if (ours) unlink(part);
        close(*fd);
        *fd = -1;
        ERN_FAIL_IF(ours, error, ERNIE_IO, "%s: cannot be emptied: %s", part, strerror(reason));
    }
    if (*fd >= 0) close(*fd);
    return ern_error_set(error, ERNIE_IO, "%s: another run is writing it", part);
}

static int file_reserve(int fd, uint64_t n_bytes)
{
    if (ftruncate(fd, (off_t)n_bytes) != 0) return errno;
#ifdef __linux__
    if (n_bytes > 0 && fallocate(fd, 0, 0, (off_t)n_bytes) != 0
        && (errno == ENOSPC || errno == EFBIG || errno == EDQUOT))
        return errno;
#endif
    return 0;
}

ERN_FN ernie_status conv_out_open(conv_out *out, const char *path, uint64_t n_bytes,
                                  ernie_error *error)
{
    struct stat info;
    memset(out, 0, sizeof *out);
    const int n = snprintf(out->path.text, CONV_PATH_MAX, "%s", path);
    const int n_part = snprintf(out->part.text, CONV_PATH_MAX, "%s.part", path);
    ERN_FAIL_IF(n <= 0 || n_part < 0 || n_part >= (int)CONV_PATH_MAX, error, ERNIE_INVALID,
                "the output path has %d bytes, 1 to %u are accepted", n, CONV_PATH_MAX - 6);
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode))
        return file_refuse_kind(path, &info, error);
    const ernie_status status = file_open_part(&out->fd, out->part.text, error);
    if (status != ERNIE_OK) return status;
    out->open = true;
    const int reason = file_reserve(out->fd, n_bytes);
    if (reason == 0) return ERNIE_OK;
    conv_out_abandon(out);
    return ern_error_set(error, ERNIE_IO, "%s: no room for %llu bytes: %s", path,
                         (unsigned long long)n_bytes, strerror(reason));
}

ERN_FN ernie_status conv_out_write(conv_out *out, uint64_t offset, const void *data, size_t n,
                                   const ernie_cancel *cancel, ernie_error *error)
{
    const unsigned char *bytes = data;
    for (size_t done = 0; done < n;) {
        ERN_FAIL_IF(ern_cancelled(cancel), error, ERNIE_CANCELLED, "%s: cancelled", out->path.text);
        const size_t piece = ern_min_size(n - done, FILE_WRITE_PIECE);
        const ssize_t put = pwrite(out->fd, bytes + done, piece, (off_t)(offset + done));
        if (put < 0 && errno == EINTR) continue;
        ERN_FAIL_IF(put <= 0, error, ERNIE_IO, "%s: cannot be written at byte %llu: %s",
                    out->path.text, (unsigned long long)(offset + done),
                    put < 0 ? strerror(errno) : "nothing was taken");
        done += (size_t)put;
    }
#ifdef __linux__
    /* Start the disk now, so that the flush at the end is short. */
    (void)sync_file_range(out->fd, (off_t)offset, (off_t)n, SYNC_FILE_RANGE_WRITE);
#endif
    return ERNIE_OK;
}

ERN_FN ernie_status conv_out_commit(conv_out *out, ernie_error *error)
{
    int reason = 0;
    if (fsync(out->fd) != 0 || rename(out->part.text, out->path.text) != 0) reason = errno;
    if (reason != 0) {
        conv_out_abandon(out);
        return ern_error_set(error, ERNIE_IO, "%s: cannot be finished: %s", out->path.text,
                             strerror(reason));
    }
    close(out->fd);
    out->open = false;
    return ERNIE_OK;
}

ERN_FN void conv_out_abandon(conv_out *out)
{
    if (!out->open) return;
    unlink(out->part.text);
    close(out->fd);
    out->open = false;
}
