/* Lines from standard input. ERNIE_HAVE_LIBEDIT, set by the build, adds editing. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "line_reader.h"
#include "interrupt.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef ERNIE_HAVE_LIBEDIT
#include <histedit.h>
#endif

struct line_reader {
    bool interactive;
    char *line; /* getline's */
    size_t capacity;
#ifdef ERNIE_HAVE_LIBEDIT
    EditLine *edit; /* NULL: plain reading */
    History *history;
    const char *prompt;
    bool interrupted;
#endif
};

#ifdef ERNIE_HAVE_LIBEDIT

static char *line_prompt(EditLine *edit)
{
    line_reader *reader;
    el_get(edit, EL_CLIENTDATA, &reader);
    return (char *)reader->prompt;
}

/* Ctrl-C and Ctrl-Z as keys: the terminal sends no signals while a line is edited, because libedit
 * reads on after one. */
static unsigned char line_interrupt(EditLine *edit, wint_t key)
{
    (void)key;
    line_reader *reader;
    el_get(edit, EL_CLIENTDATA, &reader);
    reader->interrupted = true;
    return CC_EOF;
}

static unsigned char line_suspend(EditLine *edit, wint_t key)
{
    (void)key;
    el_set(edit, EL_PREP_TERM, 0);
    raise(SIGTSTP);
    el_set(edit, EL_PREP_TERM, 1);
    return CC_REDISPLAY;
}

static void line_open_editor(line_reader *reader)
{
    enum { LINE_HISTORY_MAX = 500 };
    HistEvent event;
    reader->edit = el_init("ernie", stdin, stdout, stderr);
    reader->history = history_init();
    if (!reader->edit || !reader->history) return;
    history(reader->history, &event, H_SETSIZE, LINE_HISTORY_MAX);
    history(reader->history, &event, H_SETUNIQUE, 1);
    el_set(reader->edit, EL_CLIENTDATA, reader);
    el_set(reader->edit, EL_PROMPT, line_prompt);
    el_set(reader->edit, EL_EDITOR, "emacs");
    el_set(reader->edit, EL_SIGNAL, 1);
    el_set(reader->edit, EL_HIST, history, reader->history);
    el_set(reader->edit, EL_SETTY, "-d", "-isig", NULL);
    /* The wide form keeps these names; the other one copies and forgets them. */
    el_wset(reader->edit, EL_ADDFN, L"ernie-interrupt", L"Drop the line", line_interrupt);
    el_wset(reader->edit, EL_ADDFN, L"ernie-suspend", L"Stop the program", line_suspend);
    el_set(reader->edit, EL_BIND, "^C", "ernie-interrupt", NULL);
    el_set(reader->edit, EL_BIND, "^Z", "ernie-suspend", NULL);
}

static line_status line_edit(line_reader *reader, const char *prompt, text_buffer *line)
{
    HistEvent event;
    int n = 0;
    reader->prompt = prompt;
    reader->interrupted = false;
    /* libedit would draw the prompt first, and a Ctrl-D typed in between would get lost. */
    el_set(reader->edit, EL_PREP_TERM, 1);
    const char *text = el_gets(reader->edit, &n);
    if (reader->interrupted) {
        fputs("^C\n", stdout);
        return LINE_INTERRUPTED;
    }
    if (!text || n <= 0) {
        fputc('\n', stdout);
        return LINE_END;
    }
    if (n > 1) history(reader->history, &event, H_ENTER, text);
    buffer_add(line, text, (size_t)n - (text[n - 1] == '\n'));
    return LINE_READ;
}

static void line_close_editor(line_reader *reader)
{
    if (reader->history) history_end(reader->history);
    if (reader->edit) el_end(reader->edit);
}

#endif

static line_status line_read_plain(line_reader *reader, const char *prompt, text_buffer *line)
{
    if (reader->interactive) {
        fputs(prompt, stderr);
        fflush(stderr);
    }
    errno = 0;
    const ssize_t n = getline(&reader->line, &reader->capacity, stdin);
    if (n > 0) {
        buffer_add(line, reader->line, (size_t)n - (reader->line[n - 1] == '\n'));
        return LINE_READ;
    }
    if (reader->interactive) fputc('\n', stderr);
    if (feof(stdin)) return LINE_END;
    clearerr(stdin);
    return interrupt_signal() ? LINE_INTERRUPTED : LINE_FAILED;
}

line_reader *line_reader_open(void)
{
    line_reader *reader = memory_resize(NULL, 1, sizeof *reader);
    *reader = (line_reader){ 0 };
    reader->interactive = isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
#ifdef ERNIE_HAVE_LIBEDIT
    if (reader->interactive && isatty(STDOUT_FILENO)) line_open_editor(reader);
#endif
    return reader;
}

void line_reader_close(line_reader *reader)
{
    if (!reader) return;
#ifdef ERNIE_HAVE_LIBEDIT
    line_close_editor(reader);
#endif
    free(reader->line);
    free(reader);
}

bool line_reader_interactive(const line_reader *reader)
{
    return reader->interactive;
}

line_status line_reader_read(line_reader *reader, const char *prompt, text_buffer *line)
{
    buffer_clear(line);
#ifdef ERNIE_HAVE_LIBEDIT
    if (reader->edit && reader->history) return line_edit(reader, prompt, line);
#endif
    return line_read_plain(reader, prompt, line);
}
