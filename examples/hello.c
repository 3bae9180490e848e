/* The smallest application: open a model, ask once, print the answer as it is made.
 *
 *     cc -O2 examples/hello.c ernie.c -I. -lm -o hello && ./hello models/ernie-demo.ernie */
#include "ernie.h"
#include <stdio.h>

static int on_token(const ernie_token *token, void *user)
{
    (void)user;
    fwrite(token->text, 1, token->n_text, stdout);
    fflush(stdout);
    return 0; /* non-zero stops the answer */
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "models/ernie-demo.ernie";
    ernie_model *model = NULL;
    ernie_session *session = NULL;
    ernie_error error = { ERNIE_OK, "" };
    if (ernie_model_open(&model, path, NULL, &error) == ERNIE_OK
        && ernie_session_create(&session, model, NULL, &error) == ERNIE_OK)
        ernie_session_ask(session, "写一首五言绝句", NULL, on_token, NULL, NULL, &error);
    if (error.code == ERNIE_OK) printf("\n");
    if (error.code != ERNIE_OK) fprintf(stderr, "%s\n", error.message);
    ernie_session_free(session);
    ernie_model_close(model);
    return error.code != ERNIE_OK;
}
