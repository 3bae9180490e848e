/* What an application does, each as one call that can be made to fail and then tried again: the
 * table that the fault tests go through. */
#ifndef FAULT_ACTIONS_H
#define FAULT_ACTIONS_H

#include "stage.h"

static const char action_text[] =
    "the rain in the mountains 0123456789 \xe5\xa4\xa9\xe6\xb0\x94 and the river, in the end. ";

typedef struct action {
    const char *name;
    ernie_status (*run)(stage *s, ernie_error *error);
    bool moves;   /* the session stands elsewhere after success */
    bool empties; /* and after a failure it is empty */
} action;

/* ---- Opening ------------------------------------------------------------------------------- */

static ernie_status action_open_file(stage *s, bool no_mmap, bool verify, ernie_error *error)
{
    ernie_model *model = (ernie_model *)8;
    ernie_model_options options = s->open;
    options.no_mmap = no_mmap;
    options.verify = verify;
    const ernie_status status = ernie_model_open(&model, s->file->path, &options, error);
    if (status != ERNIE_OK) assert_null(model);
    ernie_model_close(model);
    return status;
}

static ernie_status action_open_mapped(stage *s, ernie_error *error)
{
    return action_open_file(s, false, false, error);
}

static ernie_status action_open_read(stage *s, ernie_error *error)
{
    return action_open_file(s, true, true, error);
}

static ernie_status action_open_memory(stage *s, ernie_error *error)
{
    ernie_model *model = (ernie_model *)8;
    const ernie_status status =
        ernie_model_open_memory(&model, s->file->data, s->file->n_bytes, &s->open, error);
    if (status != ERNIE_OK) assert_null(model);
    ernie_model_close(model);
    return status;
}

static ernie_status action_open_source(stage *s, ernie_error *error)
{
    ernie_model *model = (ernie_model *)8;
    const ernie_source source = { stage_source_read, s->file->n_bytes, (void *)s->file };
    const ernie_status status = ernie_model_open_source(&model, &source, &s->open, error);
    if (status != ERNIE_OK) assert_null(model);
    ernie_model_close(model);
    return status;
}

/* ---- Sessions ------------------------------------------------------------------------------ */

static ernie_status action_create(stage *s, ernie_error *error)
{
    ernie_session *session = (ernie_session *)8;
    const ernie_status status = ernie_session_create(&session, s->model, &s->options, error);
    if (status != ERNIE_OK) assert_null(session);
    if (status == ERNIE_OK) stage_check_recovers(s, session);
    ernie_session_free(session);
    return status;
}

static ernie_status action_fork(stage *s, ernie_error *error)
{
    ernie_session *fork = (ernie_session *)8;
    const ernie_status status = ernie_session_fork(&fork, s->session, error);
    if (status != ERNIE_OK) assert_null(fork);
    if (status == ERNIE_OK) stage_check_goes_on(s, fork);
    ernie_session_free(fork);
    return status;
}

static ernie_status action_save(stage *s, ernie_error *error)
{
    return ernie_session_save(s->session, s->file->saved, error);
}

static ernie_status action_load(stage *s, ernie_error *error)
{
    return ernie_session_load(s->session, s->file->saved, error);
}

static ernie_status action_ask(stage *s, ernie_error *error)
{
    ernie_sampling params = ernie_sampling_init();
    params.n_max = 2;
    params.greedy = true;
    return ernie_session_ask(s->session, "the end", &params, NULL, NULL, NULL, error);
}

/* ---- Text ---------------------------------------------------------------------------------- */

static ernie_status action_tokenize(stage *s, ernie_error *error)
{
    char text[4000] = "";
    int32_t ids[4000];
    size_t n = 0;
    while (n + sizeof action_text < sizeof text) {
        memcpy(text + n, action_text, sizeof action_text);
        n += sizeof action_text - 1;
    }
    return ernie_tokenize(s->model, text, n, ERNIE_TOKENIZE_SPECIAL, ids, 4000, &n, error);
}

static ernie_status action_detokenize(stage *s, ernie_error *error)
{
    char text[20000];
    int32_t ids[1000];
    size_t n;
    for (int32_t i = 0; i < 1000; i++) ids[i] = i % (int32_t)s->file->vocab;
    return ernie_detokenize(s->model, ids, 1000, true, text, sizeof text, &n, error);
}

static const ernie_message action_messages[] = {
    { ERNIE_ROLE_SYSTEM, "be brief", NULL },
    { ERNIE_ROLE_USER, action_text, NULL },
    { ERNIE_ROLE_ASSISTANT, action_text, NULL },
    { ERNIE_ROLE_USER, action_text, NULL },
};

static ernie_status action_chat_ids(stage *s, ernie_error *error)
{
    int32_t ids[1000];
    size_t n;
    return ernie_chat_tokenize(s->model, action_messages, 4, true, ids, 1000, &n, error);
}

static ernie_status action_chat_text(stage *s, ernie_error *error)
{
    char text[2000];
    size_t n;
    return ernie_chat_render(s->model, action_messages, 4, true, text, sizeof text, &n, error);
}

/* The order matters once: what is loaded was saved before. */
static const action actions[] = {
    { "open, mapped", action_open_mapped, false, false },
    { "open, read and verified", action_open_read, false, false },
    { "open memory", action_open_memory, false, false },
    { "open source", action_open_source, false, false },
    { "create", action_create, false, false },
    { "fork", action_fork, false, false },
    { "save", action_save, false, false },
    { "load", action_load, false, true },
    { "ask", action_ask, true, false },
    { "tokenize", action_tokenize, false, false },
    { "detokenize", action_detokenize, false, false },
    { "chat ids", action_chat_ids, false, false },
    { "chat text", action_chat_text, false, false },
};

/* What must hold after a try that failed: the session is as promised, a second try succeeds, and
 * the session goes on. */
static void action_check_after_failure(const action *a, stage *s)
{
    ernie_error error = { ERNIE_OK, "" };
    if (a->empties) assert_int_equal(ernie_session_length(s->session), 0);
    if (!a->empties) assert_int_equal(ernie_session_length(s->session), STAGE_PROMPT);
    stage_ok(a->run(s, &error), &error);
    if (a->moves)
        stage_check_recovers(s, s->session);
    else
        stage_check_goes_on(s, s->session);
}

#endif
