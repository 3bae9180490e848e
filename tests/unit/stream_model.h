/* Models whose experts come from disk, for tests of whole sessions: a shape with experts enough,
 * the ceiling that leaves room for so many of them, and what a session says. Needs cmocka and
 * fake_disk.h and test_session.h before it. */
#ifndef STREAM_MODEL_H
#define STREAM_MODEL_H

#define STREAM_VOCAB   320u
#define STREAM_EXPERTS 64u /* in four layers; a token needs four of each */
#define STREAM_LEAST   8u  /* slots */

static inline ern_hparams stream_hparams(void)
{
    const test_model_spec spec = { .moe = true };
    ern_hparams h = test_hparams(&spec);
    h.n_layers = 5;
    h.hidden_size = 112;
    h.moe_intermediate_size = 96;
    h.n_experts = 16;
    h.moe_k = 4;
    h.moe_layer_end = 4;
    h.context_max = 1024;
    return h;
}

static inline test_model_spec stream_spec(const ern_hparams *h)
{
    return (test_model_spec){ .moe = true,
                              .type_attention = ERN_W8,
                              .type_ffn = ERN_W8,
                              .type_expert = ERN_W4,
                              .type_expert_down = ERN_W4,
                              .hparams = h };
}

/* Where a streamed model comes from and how: zero is a good beginning. */
typedef struct stream_how {
    const char *path; /* NULL: */
    const ernie_source *source;
    const ernie_allocator *allocator; /* NULL: the C library's */
    ernie_stream_options stream;
    ernie_session_options session;
    ernie_log_fn log;
    void *log_user;
} stream_how;

static inline stream_how stream_from(const char *path, const ernie_source *source)
{
    stream_how how = { .path = path, .source = source, .stream = ERNIE_STREAM_OPTIONS_INIT,
                       .session = ERNIE_SESSION_OPTIONS_INIT };
    how.session.n_ctx = 256;
    how.session.n_batch = 32;
    how.session.n_threads = 2;
    return how;
}

/* Planned for a session as large as can be, so that no ceiling near the file's size is enough to
 * have all of the model in memory. */
static inline ernie_status stream_try(ernie_model **model, const stream_how *how, uint64_t memory,
                                      ernie_error *error)
{
    ernie_model_options options = ERNIE_MODEL_OPTIONS_INIT;
    ernie_session_options large = ERNIE_SESSION_OPTIONS_INIT;
    large.n_ctx = large.n_batch = 1u << 20;
    options.memory = memory;
    options.stream = &how->stream;
    options.session = &large;
    options.allocator = how->allocator;
    options.log = how->log;
    options.log_user = how->log_user;
    return how->path ? ernie_model_open(model, how->path, &options, error)
                     : ernie_model_open_source(model, how->source, &options, error);
}

static inline ernie_model *stream_open_with(const stream_how *how, uint64_t memory)
{
    ernie_model *model = NULL;
    OK(stream_try(&model, how, memory, &error));
    assert_true(model->experts != NULL);
    return model;
}

static inline uint64_t stream_file_bytes(const stream_how *how)
{
    if (!how->path) return how->source->n_bytes;
    FILE *file = fopen(how->path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    const long n = ftell(file);
    fclose(file);
    return (uint64_t)n;
}

/* The ceiling under which n_sessions of how->session leave room for n_slots experts, to the
 * byte. */
static inline uint64_t stream_ceiling(const stream_how *how, uint32_t n_sessions, uint32_t n_slots)
{
    stream_how quiet = *how;
    ernie_memory memory = { .size = sizeof memory };
    quiet.stream.warm_path = NULL;
    ernie_model *model = stream_open_with(&quiet, stream_file_bytes(how) + ERN_PLAN_SPARE);
    OK(ernie_session_plan(model, &how->session, &memory, &error));
    const size_t n_path = how->stream.warm_path ? strlen(how->stream.warm_path) + 1 : 0;
    const uint64_t ceiling = memory.held_bytes + n_sessions * memory.total_bytes + n_path
                             + ERN_PLAN_SPARE
                             + ern_experts_slot_bytes(&model->format, n_slots);
    ernie_model_close(model);
    return ceiling;
}

static inline ernie_model *stream_open(const stream_how *how, uint32_t n_sessions, uint32_t n_slots)
{
    return stream_open_with(how, stream_ceiling(how, n_sessions, n_slots));
}

static inline uint32_t stream_n_slots(const ernie_session *session)
{
    ernie_stream_stats stats = { .size = sizeof stats };
    assert_int_equal(ernie_session_stream_stats(session, &stats), ERNIE_OK);
    return stats.n_slots;
}

/* ---- What a session says ------------------------------------------------------------------- */

#define STREAM_GREEDY 12u

typedef struct stream_answer {
    float logits[STREAM_VOCAB]; /* after the prompt */
    int32_t ids[STREAM_GREEDY]; /* that follow */
    float last[STREAM_VOCAB];   /* after these */
} stream_answer;

/* Feed n ids to a session that is empty, and go on. */
static inline void stream_ask(ernie_session *session, const int32_t *ids, size_t n,
                              stream_answer *answer)
{
    ernie_sampling params = ERNIE_SAMPLING_INIT;
    params.greedy = params.ignore_eos = true;
    params.n_max = STREAM_GREEDY;
    OK(ernie_session_rewind(session, 0, &error));
    OK(ernie_session_feed(session, ids, n, &error));
    memcpy(answer->logits, ernie_session_logits(session), sizeof answer->logits);
    OK(ernie_session_generate(session, &params, NULL, NULL, NULL, &error));
    assert_int_equal(ernie_session_length(session), n + STREAM_GREEDY);
    memcpy(answer->ids, ernie_session_tokens(session) + n, sizeof answer->ids);
    memcpy(answer->last, ernie_session_logits(session), sizeof answer->last);
}

/* The same of the whole model in memory. */
static inline void stream_ask_resident(const unsigned char *image, size_t n_bytes,
                                       const ernie_session_options *options, const int32_t *ids,
                                       size_t n, stream_answer *answer)
{
    ernie_model *model = NULL;
    OK(ernie_model_open_memory(&model, image, n_bytes, NULL, &error));
    ernie_session *session = test_session_with(model, options);
    stream_ask(session, ids, n, answer);
    ernie_session_free(session);
    ernie_model_close(model);
}

static inline bool stream_same(const stream_answer *a, const stream_answer *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

#endif
