/* An open file as the system numbers it: what os_file.c says once about POSIX and Windows, for
 * itself and for os_disk.c. Nobody else looks below the functions of os.h. */
#ifndef ERN_OS_HANDLE_H
#define ERN_OS_HANDLE_H

#include "os.h"

#ifdef _WIN32
typedef void *ern_handle; /* a HANDLE */
#define ERN_HANDLE_NONE ((ern_handle)(intptr_t)-1)
#else
typedef int ern_handle;
#define ERN_HANDLE_NONE (-1)
#endif

#define ERN_HANDLE_PIECE ((size_t)4 << 20) /* no system call reads or writes more than this */

/* Open for reading what is a regular file; ERNIE_IO with a sentence otherwise. */
ERN_FN ernie_status ern_handle_open(ern_handle *handle, const char *path, uint64_t *n_bytes,
                                    ernie_error *error);
ERN_FN bool ern_handle_close(ern_handle handle);

/* Read at a place of the file, up to n bytes and a piece: how many came, 0 at the end, or -1 and
 * then the reason is the thread's ern_handle_reason. Signals that interrupt it are passed over. */
ERN_FN long long ern_handle_read(ern_handle handle, void *data, size_t n, uint64_t offset);
ERN_FN bool ern_handle_length(ern_handle handle, uint64_t *n_bytes); /* as it is now */

/* The system's number of what failed last, and "PATH: cannot be DONE: reason" with its words. */
ERN_FN int ern_handle_reason(void);
ERN_FN ernie_status ern_handle_fail(ernie_error *error, const char *done, const char *path,
                                    int code);

#endif
