/* Search results in a JSON file, made into the web-search prompt that the models were published with.
 * The only place that knows the file's fields. */
#ifndef ERNIE_SEARCH_CONTEXT_H
#define ERNIE_SEARCH_CONTEXT_H

#include "cli.h"

/* Append the user message that grounds `question` in the file's references to *prompt. */
int search_context_prompt(cli_context *cli, const char *path, const char *question,
                          text_buffer *prompt);

#endif
