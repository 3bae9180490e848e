/* Stopping an answer from another thread, as a window's Stop button would: the answer ends within
 * 50 ms with ERNIE_CANCELLED, and what was said so far stays in the session.
 *
 *     ./cancel models/ernie-demo.ernie */
#define _POSIX_C_SOURCE 200809L
#include "ernie.h"
#include <pthread.h>
#include <stdio.h>
#include <time.h>

static void *press_stop(void *session)
{
    const struct timespec third_of_second = { 0, 333 * 1000 * 1000 };
    nanosleep(&third_of_second, NULL);
    ernie_session_cancel(session); /* the one call that any thread may make on a session */
    return NULL;
}

static int on_token(const ernie_token *token, void *user)
{
    (void)user;
    fwrite(token->text, 1, token->n_text, stdout);
    return 0;
}

static ernie_status ask_and_stop(ernie_session *session, ernie_error *error)
{
    ernie_sampling sampling = ERNIE_SAMPLING_INIT;
    ernie_result result = { .size = sizeof result };
    pthread_t stopper;
    sampling.ignore_eos = true; /* so that only the button ends it */
    if (pthread_create(&stopper, NULL, press_stop, session) != 0) return ERNIE_NO_MEMORY;
    const ernie_status status = ernie_session_ask(
        session, "Continue the story: Once upon a time", &sampling, on_token, NULL, &result, error);
    pthread_join(stopper, NULL);
    printf("\n[%s after %zu tokens; the session holds %zu]\n", ernie_status_text(status),
           result.n_generated, ernie_session_length(session));
    return status;
}

int main(int argc, char **argv)
{
    ernie_model *model = NULL;
    ernie_session *session = NULL;
    ernie_error error = { ERNIE_OK, "" };
    ernie_status status =
        ernie_model_open(&model, argc > 1 ? argv[1] : "models/ernie-demo.ernie", NULL, &error);
    if (status == ERNIE_OK) status = ernie_session_create(&session, model, NULL, &error);
    if (status == ERNIE_OK) status = ask_and_stop(session, &error);
    if (status != ERNIE_OK && status != ERNIE_CANCELLED) fprintf(stderr, "%s\n", error.message);
    ernie_session_free(session);
    ernie_model_close(model);
    return status != ERNIE_CANCELLED; /* anything else means that the button did nothing */
}
