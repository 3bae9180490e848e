/* The help, written from the tables of commands and options. */
#include "cli.h"

#include <string.h>

enum { HELP_COLUMN = 26, HELP_TEXT_WIDTH = 66 };

void help_print_overview(output *out)
{
    output_print(out,
                 "ernie %s: run Baidu's ERNIE 4.5 language models\n\n"
                 "usage: ernie COMMAND ARGUMENTS [OPTIONS]\n\ncommands:\n",
                 ernie_version());
    for (const cli_command *command = cli_commands; command->shape.name; command++)
        output_print(out, "  %-12s%s\n", command->shape.name, command->summary);
    output_print(
        out, "\n\"ernie COMMAND --help\" describes one of them. \"--\" ends the options, so that "
             "what\nfollows may begin with a dash. Results go to standard output, all else to "
             "standard\nerror. The exit status is 0, or another one with one line that says why: "
             "1 failed,\n2 wrong usage, 130 stopped by Ctrl-C (128 and the number of another "
             "signal). When\nthe reader of standard output goes away, the program ends with 141 "
             "and says nothing.\n");
}

/* How much of the text fits a line, up to a blank. */
static size_t help_line(const char *text)
{
    size_t n = strlen(text);
    if (n <= HELP_TEXT_WIDTH) return n;
    for (n = HELP_TEXT_WIDTH; n > 0 && text[n] != ' ';) n--;
    return n ? n : HELP_TEXT_WIDTH;
}

/* One option: its name in a column, its text broken into lines beside it. */
static void help_print_option(output *out, const option_help *help)
{
    const char *left = help->left, *text = help->text;
    for (;;) {
        const size_t n = help_line(text);
        output_print(out, "  %-*s%.*s\n", HELP_COLUMN, left, (int)n, text);
        text += n + (text[n] == ' ');
        if (!*text) return;
        left = "";
    }
}

void help_print_command(output *out, const cli_command *command)
{
    const char *arguments = command->arguments;
    output_print(out, "usage: ernie %s%s%s\n\n%s\n", command->shape.name, *arguments ? " " : "",
                 arguments, command->details);
    output_print(out, "\noptions:\n");
    option_help help;
    for (size_t i_row = 0; options_help(&command->shape, &i_row, &help);)
        help_print_option(out, &help);
}
