/* Files as the converter needs them: read anywhere in a shard, list a directory, write anywhere in
 * an output that appears under its name only when it is complete. Knows no format. */
#ifndef ERN_CONVERT_FILE_H
#define ERN_CONVERT_FILE_H

#include "../../src/ern.h"

#define CONV_PATH_MAX 4096u

typedef struct conv_path {
    char text[CONV_PATH_MAX];
} conv_path;

/* dir/name; ERNIE_INVALID when that is too long. */
ERN_FN ernie_status conv_path_join(conv_path *path, const char *dir, const char *name,
                                   ernie_error *error);
ERN_FN const char *conv_path_base(const char *path); /* what follows the last separator */
ERN_FN bool conv_file_exists(const char *path);

ERN_FN bool conv_text_ends_in(const char *text, const char *suffix); /* and is longer */

/* Is `path` a directory? If not, one sentence that says what it is instead. */
ERN_FN ernie_status conv_dir_check(const char *path, ernie_error *error);

/* Make a terminated text printable in place: what is not UTF-8 or a control character becomes '?'.
 * Names out of other people's files go into messages and into the output's header. */
ERN_FN void conv_text_clean(char *text);

/* Reads go through a bounded buffer, never a mapping: a file that shrinks while it is read is an
 * error here, not a signal. */
typedef struct conv_file {
    int fd;
    bool open;
    uint64_t n_bytes;
} conv_file;

ERN_FN ernie_status conv_file_open(conv_file *file, const char *path, ernie_error *error);
ERN_FN void conv_file_close(conv_file *file); /* zeroed or closed ones are fine */
/* Exactly n bytes from `offset`; `name` is for the message. Any thread. */
ERN_FN ernie_status conv_file_read(const conv_file *file, const char *name, uint64_t offset,
                                   void *data, size_t n, ernie_error *error);

/* A growing byte string. */
typedef struct conv_bytes {
    unsigned char *data;
    size_t n, capacity;
    const ernie_allocator *allocator;
} conv_bytes;

ERN_FN bool conv_bytes_add(conv_bytes *bytes, const void *data, size_t n); /* false: no memory */
ERN_FN bool conv_bytes_align(conv_bytes *bytes, size_t unit); /* zeros up to a multiple of unit */
ERN_FN void conv_bytes_free(conv_bytes *bytes);

/* Is it a file whose name ends in `suffix` or whose first bytes are `magic` (at most 8)? */
ERN_FN bool conv_file_is(const char *path, const char *suffix, const char *magic);

/* The next n bytes of a file, those behind the bytes->n that *bytes holds of it. */
ERN_FN ernie_status conv_file_append(conv_bytes *bytes, const conv_file *file, const char *name,
                                     size_t n, ernie_error *error);

/* A whole file of at most `limit` bytes into *bytes (its allocator set, otherwise empty), whose
 * data is not NULL then even when the file is empty. */
ERN_FN ernie_status conv_file_load(conv_bytes *bytes, const char *path, uint64_t limit,
                                   ernie_error *error);

/* The names in `dir` that end in `suffix`, sorted, each terminated, one after the other. */
ERN_FN ernie_status conv_dir_list(conv_bytes *names, size_t *n_names, const char *dir,
                                  const char *suffix, ernie_error *error);

/* The output: PATH.part, renamed to PATH by commit. A lock keeps two runs apart; what a killed run
 * left behind is overwritten by the next. */
typedef struct conv_out {
    int fd;
    bool open;
    conv_path path, part;
} conv_out;

/* Reserves n_bytes on the disk where the file system can, so that a full disk shows at once. */
ERN_FN ernie_status conv_out_open(conv_out *out, const char *path, uint64_t n_bytes,
                                  ernie_error *error);
/* In pieces, so that *cancel (may be NULL) is seen soon. Any thread. */
ERN_FN ernie_status conv_out_write(conv_out *out, uint64_t offset, const void *data, size_t n,
                                   const ernie_cancel *cancel, ernie_error *error);
ERN_FN ernie_status conv_out_commit(conv_out *out, ernie_error *error);
ERN_FN void conv_out_abandon(
    conv_out *out); /* removes the part; zeroed or committed ones are fine */

#endif
