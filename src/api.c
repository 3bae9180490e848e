/* Every function of ernie.h: arguments checked, options brought to this library's size, nothing
 * else. */
#include "session.h"

#define API_NEED(pointer, error) \
    ERN_FAIL_IF(!(pointer), error, ERNIE_INVALID, "%s: argument \"%s\" is NULL", __func__, #pointer)

ERNIE_API const char *ernie_version(void)
{
    return ERNIE_VERSION;
}

ERNIE_API const char *ernie_status_text(ernie_status status)
{
    switch (status) {
#define API_STATUS_CASE(name, value, text) \
    case ERNIE_##name: return text;
        ERNIE_STATUS_MAP(API_STATUS_CASE)
#undef API_STATUS_CASE
    default: return "unknown status";
    }
}

static void api_set_flag(ernie_cancel *cancel, int32_t value)
{
    if (!cancel) return;
#ifdef __GNUC__
    __atomic_store_n(&cancel->requested, value, __ATOMIC_RELEASE);
#else
    cancel->requested = value;
#endif
}

ERNIE_API void ernie_cancel_request(ernie_cancel *cancel)
{
    api_set_flag(cancel, 1);
}
ERNIE_API void ernie_cancel_clear(ernie_cancel *cancel)
{
    api_set_flag(cancel, 0);
}

ERNIE_API ernie_stream_options ernie_stream_options_init(void)
{
    return (ernie_stream_options)ERNIE_STREAM_OPTIONS_INIT;
}

ERNIE_API ernie_model_options ernie_model_options_init(void)
{
    return (ernie_model_options)ERNIE_MODEL_OPTIONS_INIT;
}

ERNIE_API ernie_session_options ernie_session_options_init(void)
{
    return (ernie_session_options)ERNIE_SESSION_OPTIONS_INIT;
}

ERNIE_API ernie_sampling ernie_sampling_init(void)
{
    return (ernie_sampling)ERNIE_SAMPLING_INIT;
}

/* ---- Model --------------------------------------------------------------------------------- */

static ernie_status api_stream_options(ernie_stream_options *o, const ernie_stream_options *given,
                                       ernie_error *error)
{
    const ernie_status status =
        ern_options_copy(o, sizeof *o, given, "ernie_stream_options", error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(o->n_readers > 64, error, ERNIE_INVALID, "%u readers exceed the limit of 64",
                o->n_readers);
    ERN_FAIL_IF((unsigned)o->policy > ERNIE_STREAM_LFRU, error, ERNIE_INVALID,
                "streaming policy %u is unknown; known are 0 to 2", (unsigned)o->policy);
    return ERNIE_OK;
}

static ernie_status api_model_open(ernie_model **out, const char *path, const void *memory,
                                   size_t memory_bytes, const ernie_source *source,
                                   const ernie_model_options *options, ernie_error *error)
{
    ernie_model_options o = ERNIE_MODEL_OPTIONS_INIT;
    ernie_session_options session = ERNIE_SESSION_OPTIONS_INIT;
    ernie_stream_options stream = ERNIE_STREAM_OPTIONS_INIT;
    *out = NULL;
    ernie_status status = ern_options_copy(&o, sizeof o, options, "ernie_model_options", error);
    if (status == ERNIE_OK)
        status = ern_options_copy(&session, sizeof session, o.session, "ernie_session_options",
                                  error);
    if (status == ERNIE_OK) status = api_stream_options(&stream, o.stream, error);
    if (status != ERNIE_OK) return status;
    o.session = &session;
    o.stream = &stream;
    ERN_FAIL_IF(o.allocator && !o.allocator->resize, error, ERNIE_INVALID,
                "the allocator has no resize function");
    return ern_model_open(out, path, memory, memory_bytes, source, &o, error);
}

ERNIE_API ernie_status ernie_model_open(ernie_model **out, const char *path,
                                        const ernie_model_options *options, ernie_error *error)
{
    API_NEED(out, error);
    *out = NULL;
    API_NEED(path, error);
    return api_model_open(out, path, NULL, 0, NULL, options, error);
}

ERNIE_API ernie_status ernie_model_open_memory(ernie_model **out, const void *data, size_t n_bytes,
                                               const ernie_model_options *options,
                                               ernie_error *error)
{
    API_NEED(out, error);
    *out = NULL;
    API_NEED(data, error);
    return api_model_open(out, NULL, data, n_bytes, NULL, options, error);
}

ERNIE_API ernie_status ernie_model_open_source(ernie_model **out, const ernie_source *source,
                                               const ernie_model_options *options,
                                               ernie_error *error)
{
    API_NEED(out, error);
    *out = NULL;
    API_NEED(source, error);
    API_NEED(source->read, error);
    return api_model_open(out, NULL, NULL, 0, source, options, error);
}

ERNIE_API void ernie_model_close(ernie_model *model)
{
    ern_model_close(model);
}

/* Fill a struct that the caller's header may know shorter or longer: `full` [known] to `out`. */
static void api_give(void *out, const void *full, size_t known, uint32_t given)
{
    memcpy(out, full, given < known ? given : known);
    memcpy(out, &given, sizeof given);
}

ERNIE_API ernie_status ernie_model_get_info(const ernie_model *model, ernie_model_info *info)
{
    ernie_model_info full = { 0 };
    if (!model || !info || info->size < sizeof info->size) return ERNIE_INVALID;
    ern_model_info(model, &full);
    api_give(info, &full, sizeof full, info->size);
    return ERNIE_OK;
}

ERNIE_API ernie_status ernie_model_read_rate(const ernie_model *model, double seconds,
                                             const ernie_cancel *cancel, double *bytes_per_second,
                                             ernie_error *error)
{
    API_NEED(model, error);
    API_NEED(bytes_per_second, error);
    ERN_FAIL_IF(!(seconds >= 0.01 && seconds <= 60), error, ERNIE_INVALID,
                "reading for %g seconds was asked for; 0.01 to 60 can be had", seconds);
    return ern_model_read_rate(model, seconds, cancel, bytes_per_second, error);
}

ERNIE_API size_t ernie_model_record_count(const ernie_model *model)
{
    return model ? model->format.header->n_records : 0;
}

ERNIE_API ernie_status ernie_model_record(const ernie_model *model, size_t index,
                                          ernie_record_info *info)
{
    if (!model || !info || info->size < sizeof *info) return ERNIE_INVALID;
    if (index >= model->format.header->n_records) return ERNIE_INVALID;
    ern_model_record_info(model, index, info);
    return ERNIE_OK;
}

ERNIE_API ernie_status ernie_model_verify(const ernie_model *model, ernie_progress_fn progress,
                                          void *user, ernie_cancel *cancel, ernie_error *error)
{
    API_NEED(model, error);
    return ern_model_verify(model, progress, user, cancel, error);
}

/* ---- Tokens -------------------------------------------------------------------------------- */

/* Copy a list to the caller's room. */
static ernie_status api_copy_ids(const ern_ids *list, int32_t *ids, size_t capacity, size_t *n_ids,
                                 ernie_error *error)
{
    *n_ids = list->n;
    const size_t n = ern_min_size(list->n, capacity);
    if (n) memcpy(ids, list->data, n * sizeof *ids);
    ERN_FAIL_IF(list->n > capacity, error, ERNIE_FULL, "%zu ids do not fit into %zu", list->n,
                capacity);
    return ERNIE_OK;
}

static ernie_status api_copy_text(const char *from, size_t n, char *text, size_t capacity,
                                  size_t *n_text, ernie_error *error)
{
    *n_text = n;
    const size_t take = ern_min_size(n, capacity);
    if (take) memcpy(text, from, take);
    if (take < capacity) text[take] = '\0';
    ERN_FAIL_IF(n > capacity, error, ERNIE_FULL, "%zu bytes do not fit into %zu", n, capacity);
    return ERNIE_OK;
}

static ernie_status api_need_tokenizer(const ernie_model *model, ernie_error *error)
{
    ERN_FAIL_IF(!model->tokenizer, error, ERNIE_UNSUPPORTED, "the model file has no tokenizer");
    return ERNIE_OK;
}

ERNIE_API ernie_status ernie_tokenize(const ernie_model *model, const char *text, size_t n_text,
                                      ernie_tokenize_mode mode, int32_t *ids, size_t capacity,
                                      size_t *n_ids, ernie_error *error)
{
    API_NEED(model, error);
    API_NEED(n_ids, error);
    *n_ids = 0;
    ERN_FAIL_IF(!text && n_text, error, ERNIE_INVALID, "text is NULL but has %zu bytes", n_text);
    ERN_FAIL_IF(!ids && capacity, error, ERNIE_INVALID, "ids is NULL but has room for %zu",
                capacity);
    ERN_FAIL_IF((unsigned)mode > ERNIE_TOKENIZE_LITERAL, error, ERNIE_INVALID,
                "tokenize mode %u is unknown; known are 0 to 2", (unsigned)mode);
    ernie_status status = api_need_tokenizer(model, error);
    if (status != ERNIE_OK) return status;
    ern_ids list = { .allocator = &model->allocator };
    status = ern_tokenize(model->tokenizer, text ? text : "", n_text, mode, &list, error);
    if (status == ERNIE_OK) status = api_copy_ids(&list, ids, capacity, n_ids, error);
    ern_ids_free(&list);
    return status;
}

static ernie_status api_detokenize(const ernie_model *model, const int32_t *ids, size_t n,
                                   bool with_special, ern_text *text, ernie_error *error)
{
    const uint32_t n_tokens = ern_tokenizer_n_tokens(model->tokenizer);
    ern_decoding decoding = { { { 0 }, 0 }, false };
    char out[ERNIE_STREAM_TEXT_MAX * 4];
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) {
        ERN_FAIL_IF(ids[i] < 0 || (uint32_t)ids[i] >= n_tokens, error, ERNIE_INVALID,
                    "id %d at %zu is out of range; ids are 0 to %u", (int)ids[i], i, n_tokens - 1);
        ok = ern_text_add(text, out,
                          ern_decode(model->tokenizer, &decoding, ids[i], with_special, out));
    }
    ok = ok && ern_text_add(text, out, ern_utf8_finish(&decoding.stream, out));
    ERN_FAIL_IF(!ok, error, ERNIE_NO_MEMORY, "no memory for the text of %zu ids", n);
    return ERNIE_OK;
}

ERNIE_API ernie_status ernie_detokenize(const ernie_model *model, const int32_t *ids, size_t n_ids,
                                        bool with_special, char *text, size_t capacity,
                                        size_t *n_text, ernie_error *error)
{
    API_NEED(model, error);
    API_NEED(n_text, error);
    *n_text = 0;
    ERN_FAIL_IF(!ids && n_ids, error, ERNIE_INVALID, "ids is NULL but has %zu", n_ids);
    ERN_FAIL_IF(!text && capacity, error, ERNIE_INVALID, "text is NULL but has %zu bytes",
                capacity);
    ernie_status status = api_need_tokenizer(model, error);
    if (status != ERNIE_OK) return status;
    ern_text all = { .allocator = &model->allocator };
    status = api_detokenize(model, ids, n_ids, with_special, &all, error);
    if (status == ERNIE_OK) status = api_copy_text(all.data, all.n, text, capacity, n_text, error);
    ern_text_free(&all);
    return status;
}

ERNIE_API int32_t ernie_token_find(const ernie_model *model, const char *piece)
{
    if (!model || !model->tokenizer || !piece) return -1;
    return ern_tokenizer_find(model->tokenizer, piece, strlen(piece));
}

ERNIE_API const char *ernie_token_piece(const ernie_model *model, int32_t id, size_t *n_piece)
{
    size_t n = 0;
    if (n_piece) *n_piece = 0;
    if (!model || !model->tokenizer || id < 0) return NULL;
    if ((uint32_t)id >= ern_tokenizer_n_tokens(model->tokenizer)) return NULL;
    const char *piece = ern_tokenizer_piece(model->tokenizer, id, &n);
    if (n_piece) *n_piece = n;
    return piece;
}

ERNIE_API ernie_status ernie_text_stream_push(ernie_text_stream *stream, const ernie_model *model,
                                              int32_t id, char *text, size_t *n_text)
{
    char bytes[ERN_TOKEN_TEXT_MAX];
    char out[ERNIE_STREAM_TEXT_MAX * 4];
    if (!stream || !model || !model->tokenizer || !text || !n_text) return ERNIE_INVALID;
    *n_text = 0;
    if (id < 0 || (uint32_t)id >= ern_tokenizer_n_tokens(model->tokenizer)) return ERNIE_INVALID;
    const size_t n = ern_token_bytes(model->tokenizer, id, false, false, bytes);
    *n_text = ern_min_size(ern_utf8_stream(stream, bytes, n, out), ERNIE_STREAM_TEXT_MAX);
    memcpy(text, out, *n_text);
    return ERNIE_OK;
}

ERNIE_API void ernie_text_stream_finish(ernie_text_stream *stream, char *text, size_t *n_text)
{
    if (!stream || !text || !n_text) return;
    *n_text = ern_utf8_finish(stream, text);
}

/* ---- Prompts ------------------------------------------------------------------------------- */

static ernie_status api_check_messages(const ernie_model *model, const ernie_message *messages,
                                       size_t n, ernie_error *error)
{
    ERN_FAIL_IF(!messages || n == 0, error, ERNIE_INVALID, "a conversation needs a message");
    return api_need_tokenizer(model, error);
}

ERNIE_API ernie_status ernie_chat_tokenize(const ernie_model *model, const ernie_message *messages,
                                           size_t n_messages, bool add_generation_prompt,
                                           int32_t *ids, size_t capacity, size_t *n_ids,
                                           ernie_error *error)
{
    API_NEED(model, error);
    API_NEED(n_ids, error);
    *n_ids = 0;
    ERN_FAIL_IF(!ids && capacity, error, ERNIE_INVALID, "ids is NULL but has room for %zu",
                capacity);
    ernie_status status = api_check_messages(model, messages, n_messages, error);
    if (status != ERNIE_OK) return status;
    ern_ids list = { .allocator = &model->allocator };
    status = ern_chat_ids(&model->chat, messages, n_messages, add_generation_prompt, &list, error);
    if (status == ERNIE_OK) status = api_copy_ids(&list, ids, capacity, n_ids, error);
    ern_ids_free(&list);
    return status;
}

ERNIE_API ernie_status ernie_chat_render(const ernie_model *model, const ernie_message *messages,
                                         size_t n_messages, bool add_generation_prompt, char *text,
                                         size_t capacity, size_t *n_text, ernie_error *error)
{
    API_NEED(model, error);
    API_NEED(n_text, error);
    *n_text = 0;
    ERN_FAIL_IF(!text && capacity, error, ERNIE_INVALID, "text is NULL but has %zu bytes",
                capacity);
    ernie_status status = api_check_messages(model, messages, n_messages, error);
    if (status != ERNIE_OK) return status;
    ern_text all = { .allocator = &model->allocator };
    status = ern_chat_text(&model->chat, messages, n_messages, add_generation_prompt, &all, error);
    if (status == ERNIE_OK) status = api_copy_text(all.data, all.n, text, capacity, n_text, error);
    ern_text_free(&all);
    return status;
}

ERNIE_API ernie_status ernie_search_prompt(ernie_language language, const char *date,
                                           const char *question, const ernie_reference *references,
                                           size_t n_references, char *text, size_t capacity,
                                           size_t *n_text, ernie_error *error)
{
    API_NEED(n_text, error);
    *n_text = 0;
    ERN_FAIL_IF(!text && capacity, error, ERNIE_INVALID, "text is NULL but has %zu bytes",
                capacity);
    ern_text all = { .allocator = ern_allocator_default() };
    ernie_status status =
        ern_search_text(language, date, question, references, n_references, &all, error);
    if (status == ERNIE_OK) status = api_copy_text(all.data, all.n, text, capacity, n_text, error);
    ern_text_free(&all);
    return status;
}

/* ---- Session ------------------------------------------------------------------------------- */

ERNIE_API ernie_status ernie_session_plan(const ernie_model *model,
                                          const ernie_session_options *options,
                                          ernie_memory *memory, ernie_error *error)
{
    ernie_session_options o = ERNIE_SESSION_OPTIONS_INIT;
    API_NEED(model, error);
    API_NEED(memory, error);
    ERN_FAIL_IF(memory->size < sizeof memory->size, error, ERNIE_INVALID,
                "ernie_memory.size is %u, expected sizeof(ernie_memory)", (unsigned)memory->size);
    ernie_memory plan = { 0 };
    ernie_status status = ern_options_copy(&o, sizeof o, options, "ernie_session_options", error);
    if (status == ERNIE_OK) status = ern_session_plan(model, &o, &plan, error);
    if (status == ERNIE_OK) api_give(memory, &plan, sizeof plan, memory->size);
    return status;
}

ERNIE_API ernie_status ernie_session_create(ernie_session **out, const ernie_model *model,
                                            const ernie_session_options *options,
                                            ernie_error *error)
{
    ernie_session_options o = ERNIE_SESSION_OPTIONS_INIT;
    API_NEED(out, error);
    *out = NULL;
    API_NEED(model, error);
    const ernie_status status =
        ern_options_copy(&o, sizeof o, options, "ernie_session_options", error);
    return status != ERNIE_OK ? status : ern_session_create(out, model, &o, error);
}

ERNIE_API void ernie_session_free(ernie_session *session)
{
    ern_session_free(session);
}

ERNIE_API ernie_status ernie_session_fork(ernie_session **out, ernie_session *session,
                                          ernie_error *error)
{
    API_NEED(out, error);
    *out = NULL;
    API_NEED(session, error);
    return ern_session_fork(out, session, error);
}

ERNIE_API ernie_status ernie_session_feed(ernie_session *session, const int32_t *tokens, size_t n,
                                          ernie_error *error)
{
    API_NEED(session, error);
    API_NEED(tokens, error);
    return ern_session_feed(session, tokens, n, NULL, error);
}

ERNIE_API ernie_status ernie_session_feed_logits(ernie_session *session, const int32_t *tokens,
                                                 size_t n, float *logits, ernie_error *error)
{
    API_NEED(session, error);
    API_NEED(tokens, error);
    API_NEED(logits, error);
    return ern_session_feed(session, tokens, n, logits, error);
}

ERNIE_API ernie_status ernie_session_sync(ernie_session *session, const int32_t *tokens, size_t n,
                                          ernie_error *error)
{
    API_NEED(session, error);
    API_NEED(tokens, error);
    return ern_session_sync(session, tokens, n, error);
}

ERNIE_API const float *ernie_session_logits(const ernie_session *session)
{
    return session && session->has_logits ? session->logits : NULL;
}

ERNIE_API ernie_status ernie_session_stream_stats(const ernie_session *session,
                                                  ernie_stream_stats *stats)
{
    ernie_stream_stats full = { 0 };
    if (!session || !stats || stats->size < sizeof stats->size) return ERNIE_INVALID;
    ern_session_stream_stats(session, &full);
    api_give(stats, &full, sizeof full, stats->size);
    return ERNIE_OK;
}

ERNIE_API size_t ernie_session_length(const ernie_session *session)
{
    return session ? session->n_tokens : 0;
}

ERNIE_API size_t ernie_session_room(const ernie_session *session)
{
    return session ? session->state_options.n_ctx - session->n_tokens : 0;
}

ERNIE_API const int32_t *ernie_session_tokens(const ernie_session *session)
{
    return session ? session->tokens : NULL;
}

ERNIE_API ernie_status ernie_session_rewind(ernie_session *session, size_t n, ernie_error *error)
{
    API_NEED(session, error);
    ERN_FAIL_IF(n > session->n_tokens, error, ERNIE_INVALID,
                "cannot go back to position %zu: the session holds %zu tokens", n,
                session->n_tokens);
    ern_session_rewind(session, n);
    return ERNIE_OK;
}

ERNIE_API ernie_status ernie_session_save(const ernie_session *session, const char *path,
                                          ernie_error *error)
{
    API_NEED(session, error);
    API_NEED(path, error);
    return ern_session_save(session, path, error);
}

ERNIE_API ernie_status ernie_session_load(ernie_session *session, const char *path,
                                          ernie_error *error)
{
    API_NEED(session, error);
    API_NEED(path, error);
    return ern_session_load(session, path, error);
}

ERNIE_API void ernie_session_cancel(ernie_session *session)
{
    if (session) atomic_store_explicit(&session->cancel, 1, memory_order_release);
}

/* ---- Generation ---------------------------------------------------------------------------- */

ERNIE_API ernie_status ernie_session_sample(ernie_session *session, const ernie_sampling *params,
                                            ernie_logprob *chosen, ernie_logprob *top,
                                            ernie_error *error)
{
    ernie_sampling resolved;
    API_NEED(session, error);
    API_NEED(chosen, error);
    ERN_FAIL_IF(!session->has_logits, error, ERNIE_INVALID,
                "the session has no logits: feed a prompt first");
    const ernie_status status = ern_sampling_resolve(session->model, params, &resolved, error);
    if (status != ERNIE_OK) return status;
    if (!session->seeded || (resolved.seed && resolved.seed != session->seed))
        ern_sample_seed(session, resolved.seed ? resolved.seed : ern_entropy() | 1);
    return ern_sample(session, &resolved, chosen, top, error);
}

static ernie_status api_check_result(const ernie_result *result, ernie_error *error)
{
    ERN_FAIL_IF(result && result->size < sizeof result->size, error, ERNIE_INVALID,
                "ernie_result: the size field is %u, this library's struct has %zu bytes",
                result->size, sizeof *result);
    return ERNIE_OK;
}

static void api_give_result(ernie_result *result, const ernie_result *full)
{
    if (result) api_give(result, full, sizeof *full, result->size);
}

ERNIE_API ernie_status ernie_session_generate(ernie_session *session, const ernie_sampling *params,
                                              ernie_token_fn fn, void *user, ernie_result *result,
                                              ernie_error *error)
{
    ernie_result full = { .stop_id = -1 };
    API_NEED(session, error);
    ernie_status status = api_check_result(result, error);
    if (status != ERNIE_OK) return status;
    status = ern_generate(session, params, fn, user, &full, error);
    api_give_result(result, &full);
    return status;
}

ERNIE_API ernie_status ernie_session_ask(ernie_session *session, const char *question,
                                         const ernie_sampling *params, ernie_token_fn fn,
                                         void *user, ernie_result *result, ernie_error *error)
{
    ernie_result full = { .stop_id = -1 };
    API_NEED(session, error);
    API_NEED(question, error);
    ernie_status status = api_check_result(result, error);
    if (status != ERNIE_OK) return status;
    status = api_need_tokenizer(session->model, error);
    if (status == ERNIE_OK) status = ern_ask(session, question, params, fn, user, &full, error);
    api_give_result(result, &full);
    return status;
}
#undef API_NEED
