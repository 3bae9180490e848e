/* A conversation: each line of standard input is a turn, each answer streams to standard output.
 * The session keeps the turns, so that an answer costs only its own tokens and the question's.
 *
 *     ./chat models/ernie-demo.ernie */
#include "ernie.h"
#include <stdio.h>
#include <string.h>

static int on_token(const ernie_token *token, void *user)
{
    (void)user;
    fwrite(token->text, 1, token->n_text, stdout);
    return fflush(stdout) != 0; /* a closed output ends the answer */
}

static ernie_status chat_turns(ernie_session *session, ernie_error *error)
{
    char line[4096];
    ernie_sampling sampling = ERNIE_SAMPLING_INIT;
    sampling.n_max = 512;
    while (fputs("> ", stdout), fflush(stdout), fgets(line, sizeof line, stdin)) {
        ernie_result result = { .size = sizeof result };
        line[strcspn(line, "\r\n")] = '\0';
        if (!line[0]) continue;
        const ernie_status status =
            ernie_session_ask(session, line, &sampling, on_token, NULL, &result, error);
        if (status != ERNIE_OK) return status;
        printf("\n[%zu tokens, %.1f per second]\n", result.n_generated,
               (double)result.n_generated / (result.decode_seconds + 1e-9));
    }
    return ERNIE_OK;
}

int main(int argc, char **argv)
{
    ernie_model *model = NULL;
    ernie_session *session = NULL;
    ernie_error error = { ERNIE_OK, "" };
    if (ernie_model_open(&model, argc > 1 ? argv[1] : "models/ernie-demo.ernie", NULL, &error) == ERNIE_OK
        && ernie_session_create(&session, model, NULL, &error) == ERNIE_OK)
        chat_turns(session, &error);
    if (error.code != ERNIE_OK) fprintf(stderr, "%s\n", error.message);
    ernie_session_free(session);
    ernie_model_close(model);
    return error.code != ERNIE_OK;
}
