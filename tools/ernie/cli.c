/* The one way to fail: one line on standard error, whatever the text in it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "cli.h"
#include "interrupt.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CLI_MESSAGE_MAX = 1024 };

/* Length of the UTF-8 character at `text`, 0 when its bytes are not one. A 0 byte ends the search. */
static size_t cli_character(const unsigned char *text)
{
    static const unsigned char smallest[] = { 0, 0, 0xc2, 0xe0, 0xf0 };
    const unsigned char lead = text[0];
    const size_t n = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0;
    if (n == 0 || lead < smallest[n]) return 0;
    for (size_t i = 1; i < n; i++)
        if ((text[i] & 0xc0) != 0x80) return 0;
    return n;
}

/* Make one printable line of it: arguments and file names may hold anything. */
static void cli_clean(char *line)
{
    for (unsigned char *at = (unsigned char *)line; *at;) {
        const size_t n = cli_character(at);
        if (n == 0 || *at < 0x20 || *at == 0x7f) *at = '?';
        at += n ? n : 1;
    }
}

static void cli_print_line(cli_context *cli, char *line)
{
    cli_clean(line);
    progress_erase(&cli->bar);
    const char *command = cli->command ? cli->command->shape.name : NULL;
    fprintf(stderr, "ernie%s%s: %s\n", command ? " " : "", command ? command : "", line);
}

int cli_fail(cli_context *cli, int status, const char *format, ...)
{
    char line[CLI_MESSAGE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (!cli->failed) cli_print_line(cli, line);
    cli->failed = true;
    return status;
}

void cli_note(cli_context *cli, const char *format, ...)
{
    char line[CLI_MESSAGE_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (!cli->options.quiet) cli_print_line(cli, line);
}

/* The option that would have to be another one, in so far as the sentence does not say. */
static const char *cli_hint(const cli_context *cli, const ernie_error *error)
{
    if (error->code == ERNIE_FULL) return " (option --ctx)";
    const bool low = error->code == ERNIE_NO_MEMORY && strstr(error->message, "a ceiling of");
    return low && options_given(&cli->options, "memory") ? " (option --memory)" : "";
}

int cli_fail_error(cli_context *cli, const char *what, const ernie_error *error)
{
    if (error->code == ERNIE_CANCELLED && interrupt_signal())
        return cli_fail(cli, CLI_SIGNAL + interrupt_signal(), "stopped by a signal");
    const bool leads = what && !strstr(error->message, what);
    return cli_fail(cli, CLI_FAILED, "%s%s%s%s", leads ? what : "", leads ? ": " : "",
                    error->message, cli_hint(cli, error));
}

int cli_fail_output(cli_context *cli)
{
    if (cli->out.error == EPIPE) {
        progress_erase(&cli->bar);
        cli->failed = true;
        return CLI_SIGNAL + SIGPIPE;
    }
    return cli_fail(cli, CLI_FAILED, "standard output cannot be written: %s",
                    strerror(cli->out.error));
}

int cli_check_out(cli_context *cli, const char *path)
{
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode))
        return cli_fail(cli, CLI_FAILED, "%s: is a directory, expected the name of a file", path);
    text_buffer folder = { 0 };
    const char *slash = strrchr(path, '/');
    if (slash)
        buffer_add(&folder, path, (size_t)(slash - path) + 1);
    else
        buffer_add_text(&folder, ".");
    int status = CLI_OK;
    if (access(buffer_text(&folder), W_OK | X_OK) != 0)
        status = cli_fail(cli, CLI_FAILED, "%s: cannot be created: %s", path, strerror(errno));
    buffer_free(&folder);
    return status;
}

/* Checked before hours of work, not behind them. */
int cli_check_new_out(cli_context *cli, const char *path)
{
    struct stat info;
    const int status = cli_check_out(cli, path);
    if (status != CLI_OK || cli->options.force || lstat(path, &info) != 0) return status;
    return cli_fail(cli, CLI_FAILED, "%s: exists already, --force replaces it", path);
}
