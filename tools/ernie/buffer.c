/* Memory of the program and its byte strings. */
#include "buffer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void *memory_resize(void *ptr, size_t count, size_t item_size)
{
    void *block = NULL;
    if (count <= SIZE_MAX / item_size) block = realloc(ptr, count * item_size);
    if (!block) {
        fprintf(stderr, "ernie: out of memory: %zu items of %zu bytes are not to be had\n", count,
                item_size);
        exit(1);
    }
    return block;
}

/* Room for n more bytes and the 0. */
static void buffer_reserve(text_buffer *text, size_t n)
{
    if (n < text->capacity - text->n) return;
    size_t capacity = text->capacity ? text->capacity : 64;
    while (capacity - text->n <= n && capacity < SIZE_MAX)
        capacity =
            capacity > SIZE_MAX / 2 ? SIZE_MAX : 2 * capacity; /* SIZE_MAX is refused below */
    text->data = memory_resize(text->data, capacity, 1);
    text->capacity = capacity;
}

void buffer_add(text_buffer *text, const char *bytes, size_t n)
{
    buffer_reserve(text, n);
    if (n) memcpy(text->data + text->n, bytes, n);
    text->n += n;
    text->data[text->n] = 0;
}

void buffer_add_text(text_buffer *text, const char *bytes)
{
    buffer_add(text, bytes, strlen(bytes));
}

void buffer_clear(text_buffer *text)
{
    text->n = 0;
    if (text->data) text->data[0] = 0;
}

void buffer_free(text_buffer *text)
{
    free(text->data);
    *text = (text_buffer){ 0 };
}

const char *buffer_text(const text_buffer *text)
{
    return text->data ? text->data : "";
}

bool buffer_is_text(const text_buffer *text)
{
    return !text->n || !memchr(text->data, 0, text->n);
}

bool buffer_read_all(text_buffer *text, int descriptor)
{
    enum { PIECE = 64 * 1024 };
    for (;;) {
        buffer_reserve(text, PIECE);
        const ssize_t n = read(descriptor, text->data + text->n, PIECE);
        if (n < 0) return false;
        text->n += (size_t)n;
        text->data[text->n] = 0;
        if (n == 0) return true;
    }
}

int file_open_reading(const char *path, file_error *error)
{
    struct stat info;
    const int descriptor = open(path, O_RDONLY);
    if (descriptor < 0) {
        snprintf(error->reason, sizeof error->reason, "cannot be opened: %s", strerror(errno));
    } else if (fstat(descriptor, &info) == 0 && S_ISDIR(info.st_mode)) {
        snprintf(error->reason, sizeof error->reason, "is a directory, expected a file");
        close(descriptor);
        return -1;
    }
    return descriptor;
}

bool buffer_read_file(text_buffer *text, const char *path, file_error *error)
{
    const int descriptor = file_open_reading(path, error);
    if (descriptor < 0) return false;
    const bool fine = buffer_read_all(text, descriptor);
    if (!fine) snprintf(error->reason, sizeof error->reason, "cannot be read: %s", strerror(errno));
    close(descriptor);
    return fine;
}
