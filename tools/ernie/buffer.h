/* Memory of the program: blocks that are always there, and a growing byte string. A program that
 * cannot get a few bytes has one thing left to say, so these end it with one line and status 1. */
#ifndef ERNIE_BUFFER_H
#define ERNIE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

/* realloc for [count] items, never NULL, the product checked. */
void *memory_resize(void *ptr, size_t count, size_t item_size);

/* Bytes with a 0 behind them. Zero-initialise; `data` is NULL until something was added. */
typedef struct text_buffer {
    char *data;
    size_t n, capacity;
} text_buffer;

void buffer_add(text_buffer *text, const char *bytes, size_t n);
void buffer_add_text(text_buffer *text, const char *bytes);
void buffer_clear(text_buffer *text); /* keeps the memory */
void buffer_free(text_buffer *text);

/* The content as a terminated string, "" when empty; valid until the buffer changes. */
const char *buffer_text(const text_buffer *text);

/* True when the bytes hold no 0, so that buffer_text is all of them. */
bool buffer_is_text(const text_buffer *text);

/* Append everything that the file descriptor gives until its end. False with errno on failure. */
bool buffer_read_all(text_buffer *text, int descriptor);

/* The same for the file at `path`; on failure *error says what is wrong with it. */
typedef struct file_error {
    char reason[200]; /* "cannot be opened: No such file or directory" */
} file_error;
bool buffer_read_file(text_buffer *text, const char *path, file_error *error);

/* A descriptor to read the file at `path` from, -1 on failure. */
int file_open_reading(const char *path, file_error *error);

#endif
