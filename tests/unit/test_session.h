/* Models and sessions for tests, on images built in memory, with an allocator that counts. A world is
 * opened with a specification (or an image of the test's own) and closed at the test's end, where
 * every byte must have come back. */
#ifndef TEST_SESSION_H
#define TEST_SESSION_H

#include <stdio.h>
#include <unistd.h>

#include "../../src/session.h"
#include "test_allocator.h"
#include "test_model_bytes.h"

/* Call something that takes &error and must succeed. */
#define OK(call)                                                              \
    do {                                                                      \
        ernie_error error = { ERNIE_OK, "" };                                 \
        if ((call) != ERNIE_OK) fail_msg("%s: %s", #call, error.message);     \
        assert_int_equal(error.code, ERNIE_OK); /* written on failure only */ \
    } while (0)

/* Call something that takes &error and must fail with `status` and a sentence with all the words. */
#define FAILS(expected, call, ...)                                                     \
    do {                                                                               \
        ernie_error error = { ERNIE_OK, "" };                                          \
        const ernie_status got = (call);                                               \
        static const char *const words[] = { __VA_ARGS__ };                            \
        if (got != (expected) || error.code != (expected))                             \
            fail_msg("%s: %d, error %d, not %d: %s", #call, (int)got, (int)error.code, \
                     (int)(expected), error.message);                                  \
        for (size_t i_word = 0; i_word < ERN_COUNT(words); i_word++)                   \
            if (!strstr(error.message, words[i_word]))                                 \
                fail_msg("%s: no \"%s\" in: %s", #call, words[i_word], error.message); \
    } while (0)

/* ---- Models -------------------------------------------------------------------------------- */

static const test_model_spec test_dense_spec ERN_UNUSED = { .type_embed = ERN_W8,
                                                            .type_attention = ERN_W4,
                                                            .type_ffn = ERN_W8 };
static const test_model_spec test_moe_spec ERN_UNUSED = { .moe = true,
                                                          .untied = true,
                                                          .type_head = ERN_BF16,
                                                          .type_attention = ERN_W8,
                                                          .type_ffn = ERN_F16,
                                                          .type_expert = ERN_W4,
                                                          .type_expert_down = ERN_W4 };
static const test_model_spec test_coded_spec ERN_UNUSED = { .moe = true,
                                                            .type_embed = ERN_C4,
                                                            .type_attention = ERN_C3,
                                                            .type_ffn = ERN_C4,
                                                            .type_expert = ERN_C2,
                                                            .type_expert_down = ERN_C3 };

typedef struct test_world {
    unsigned char *image;
    size_t n_bytes;
    test_allocator counter;
    ernie_allocator allocator;
    ernie_model *model;
    uint32_t vocab;
} test_world;

/* Takes the image over. */
static inline void test_world_open_image(test_world *w, unsigned char *image, size_t n_bytes)
{
    ernie_model_options options = ERNIE_MODEL_OPTIONS_INIT;
    memset(w, 0, sizeof *w);
    w->image = image;
    w->n_bytes = n_bytes;
    test_allocator_begin(&w->counter, &w->allocator);
    options.allocator = &w->allocator;
    OK(ernie_model_open_memory(&w->model, image, n_bytes, &options, &error));
    w->vocab = w->model->format.header->hparams.vocab_size;
}

static inline void test_world_open(test_world *w, const test_model_spec *spec)
{
    size_t n_bytes;
    unsigned char *image = test_model_build(spec, &n_bytes);
    test_world_open_image(w, image, n_bytes);
}

static inline void test_world_close(test_world *w)
{
    ernie_model_close(w->model);
    assert_int_equal(atomic_load(&w->counter.live), 0);
    assert_int_equal(atomic_load(&w->counter.n_wrong_sizes), 0);
    test_model_free(w->image);
}

/* ---- Sessions ------------------------------------------------------------------------------ */

static inline ernie_session *test_session_with(const ernie_model *model,
                                               const ernie_session_options *options)
{
    ernie_session *session = NULL;
    OK(ernie_session_create(&session, model, options, &error));
    assert_non_null(session);
    return session;
}

/* n_ctx tokens, one thread. */
static inline ernie_session *test_session(const ernie_model *model, uint32_t n_ctx)
{
    ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
    options.n_ctx = n_ctx;
    options.n_threads = 1;
    return test_session_with(model, &options);
}

static inline void test_ids(int32_t *ids, size_t n, uint64_t seed, uint32_t n_tokens)
{
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)(test_random(&seed) % n_tokens);
}

/* The session's logits, which must be there, to the last bit. */
static inline void test_same_logits(const ernie_session *session, const float *expected,
                                    uint32_t vocab)
{
    const float *logits = ernie_session_logits(session);
    assert_non_null(logits);
    for (uint32_t i = 0; i < vocab; i++)
        if (memcmp(&logits[i], &expected[i], sizeof(float)) != 0)
            fail_msg("logit %u is %.9g, not %.9g", i, (double)logits[i], (double)expected[i]);
}

/* ---- Files --------------------------------------------------------------------------------- */

static char test_folder[512];

/* A folder of this program's own, and a path inside it. */
static inline int test_folder_begin(void **state)
{
    const char *tmp = getenv("TMPDIR");
    (void)state;
    snprintf(test_folder, sizeof test_folder, "%s/ernie-test-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(test_folder) ? 0 : -1;
}

static inline const char *test_path(const char *name)
{
    static char path[640];
    snprintf(path, sizeof path, "%s/%s", test_folder, name);
    return path;
}

/* The last test of a program that uses the folder: nothing may be left behind. */
static inline void test_folder_is_empty(void **state)
{
    (void)state;
    if (rmdir(test_folder) != 0) fail_msg("%s is not empty", test_folder);
}

static inline void test_write_file(const char *path, const void *data, size_t n)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

/* The whole file; to be freed. */
static inline unsigned char *test_read_file(const char *path, size_t *n)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    *n = (size_t)ftell(file);
    rewind(file);
    unsigned char *data = malloc(*n + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *n, file), *n);
    fclose(file);
    return data;
}

#endif
