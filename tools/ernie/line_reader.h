/* Lines that people type: with editing and history where libedit was there at build time and someone
 * sits at a terminal, as they come from standard input otherwise. */
#ifndef ERNIE_LINE_READER_H
#define ERNIE_LINE_READER_H

#include "buffer.h"

typedef struct line_reader line_reader;

typedef enum line_status {
    LINE_READ,
    LINE_END,         /* Ctrl-D, or the end of the input */
    LINE_INTERRUPTED, /* Ctrl-C: what was typed is dropped */
    LINE_FAILED       /* errno says why */
} line_status;

/* Never NULL. */
line_reader *line_reader_open(void);
void line_reader_close(line_reader *reader);

/* Someone types and sees prompts; false when lines come from a file or pipe. */
bool line_reader_interactive(const line_reader *reader);

/* Read one line, without its newline, into *line (replaced). */
line_status line_reader_read(line_reader *reader, const char *prompt, text_buffer *line);

#endif
