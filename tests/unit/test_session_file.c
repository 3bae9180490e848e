/* Saved sessions: they continue to the last bit; whatever is damaged, foreign or too large is refused
 * by name and leaves an empty session; a failed save leaves the older file as it was. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "../../src/hash.h"
#include "test_session.h"

#define N_IDS   9
#define VOCAB   320
#define HEAD    64 /* bytes of the file's header */
#define TOKENS  HEAD
#define LOGITS  (TOKENS + 4 * N_IDS)
#define KV      (LOGITS + 4 * VOCAB)
#define N_BYTES (KV + 2 * 2 * N_IDS * 32 * 2 + 8)

static int32_t ids[N_IDS];

static ernie_session *fed_session(const ernie_model *model, ernie_kv_type kv_type)
{
    ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
    options.n_ctx = 32;
    options.n_threads = 1;
    options.kv_type = kv_type;
    test_ids(ids, N_IDS, 6, 300);
    ernie_session *session = test_session_with(model, &options);
    OK(ernie_session_feed(session, ids, N_IDS, &error));
    return session;
}

/* ---- Round trips --------------------------------------------------------------------------- */

static void saved_sessions_continue_the_same(void **state)
{
    (void)state;
    static const test_model_spec *const specs[] = { &test_dense_spec, &test_moe_spec };
    const char *path = test_path("saved");
    static const ernie_kv_type kv_types[] = { ERNIE_KV_F16, ERNIE_KV_F32, ERNIE_KV_Q8, ERNIE_KV_Q4 };
    for (int i = 0; i < 8; i++) {
        test_world w;
        test_world_open(&w, specs[i % 2]);
        ernie_session *session = fed_session(w.model, kv_types[i / 2]), *other;
        const long long live = atomic_load(&w.counter.live);
        OK(ernie_session_save(session, path, &error));
        assert_int_equal(atomic_load(&w.counter.live), live);
        ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT; /* another shape of session */
        options.n_ctx = i % 2 ? N_IDS + 2 : 60;
        options.n_batch = 3;
        options.n_threads = 2;
        options.kv_type = kv_types[i / 2];
        other = test_session_with(w.model, &options);
        OK(ernie_session_feed(other, ids + 3, 2, &error)); /* what it held is replaced */
        OK(ernie_session_load(other, path, &error));
        assert_int_equal(ernie_session_length(other), N_IDS);
        assert_memory_equal(ernie_session_tokens(other), ids, sizeof ids);
        test_same_logits(other, ernie_session_logits(session), VOCAB);
        OK(ernie_session_feed(session, ids, 2, &error));
        OK(ernie_session_feed(other, ids, 2, &error));
        test_same_logits(other, ernie_session_logits(session), VOCAB);
        OK(ernie_session_rewind(session, 4, &error));
        OK(ernie_session_rewind(other, 4, &error));
        OK(ernie_session_feed(session, ids, 1, &error));
        OK(ernie_session_feed(other, ids, 1, &error));
        test_same_logits(other, ernie_session_logits(session), VOCAB);
        ernie_session_free(session);
        ernie_session_free(other);
        test_world_close(&w);
    }
    unlink(path);
}

static void sessions_without_logits_or_tokens(void **state)
{
    (void)state;
    test_world w;
    test_world_open(&w, &test_dense_spec);
    const char *path = test_path("part");
    ernie_session *session = fed_session(w.model, ERNIE_KV_DEFAULT);
    ernie_session *other = fed_session(w.model, ERNIE_KV_DEFAULT);
    OK(ernie_session_rewind(session, 5, &error));
    OK(ernie_session_save(session, path, &error));
    OK(ernie_session_load(other, path, &error));
    assert_int_equal(ernie_session_length(other), 5);
    assert_null(ernie_session_logits(other));
    OK(ernie_session_rewind(session, 0, &error));
    OK(ernie_session_save(session, path, &error));
    OK(ernie_session_load(other, path, &error));
    assert_int_equal(ernie_session_length(other), 0);
    assert_null(ernie_session_logits(other));
    ernie_session_free(session);
    ernie_session_free(other);
    unlink(path);
    test_world_close(&w);
}

/* ---- Damaged files ------------------------------------------------------------------------- */

/* A saved session in memory, to be damaged, written and loaded. */
typedef struct saved {
    test_world w;
    ernie_session *session;
    char path[640];
    unsigned char *data; /* [N_BYTES] */
} saved;

static void saved_begin(saved *s)
{
    size_t n;
    test_world_open(&s->w, &test_dense_spec);
    s->session = fed_session(s->w.model, ERNIE_KV_DEFAULT);
    snprintf(s->path, sizeof s->path, "%s", test_path("damaged"));
    OK(ernie_session_save(s->session, s->path, &error));
    s->data = test_read_file(s->path, &n);
    assert_int_equal(n, N_BYTES);
}

static void saved_end(saved *s)
{
    ernie_session_free(s->session);
    free(s->data);
    unlink(s->path);
    test_world_close(&s->w);
}

/* After a failed load the session is empty and may be fed. */
static void check_empty(ernie_session *session)
{
    assert_int_equal(ernie_session_length(session), 0);
    assert_null(ernie_session_logits(session));
    OK(ernie_session_feed(session, ids, 2, &error));
    assert_int_equal(ernie_session_length(session), 2);
}

/* The load must fail with one of the statuses that damage may have, naming the file. */
static void check_refused(saved *s, size_t n, const char *what, size_t at)
{
    ernie_error error = { ERNIE_OK, "" };
    test_write_file(s->path, s->data, n);
    const long long live = atomic_load(&s->w.counter.live);
    const ernie_status status = ernie_session_load(s->session, s->path, &error);
    if (status != ERNIE_FORMAT && status != ERNIE_CORRUPT && status != ERNIE_MISMATCH
        && status != ERNIE_FULL && status != ERNIE_UNSUPPORTED)
        fail_msg("%s %zu: status %d %s", what, at, status, error.message);
    if (!strstr(error.message, "damaged\"")) fail_msg("%s %zu: %s", what, at, error.message);
    assert_int_equal(error.code, status);
    assert_int_equal(atomic_load(&s->w.counter.live), live);
    assert_int_equal(ernie_session_length(s->session), 0);
    assert_null(ernie_session_logits(s->session));
}

static void every_flipped_byte_is_refused(void **state)
{
    (void)state;
    saved s;
    saved_begin(&s);
    for (size_t i = 0; i < N_BYTES; i += i < LOGITS || i > N_BYTES - 32 ? 1 : 7) {
        s.data[i] ^= (unsigned char)(1u << i % 8);
        check_refused(&s, N_BYTES, "byte", i);
        s.data[i] ^= (unsigned char)(1u << i % 8);
    }
    check_empty(s.session);
    test_write_file(s.path, s.data, N_BYTES);
    OK(ernie_session_load(s.session, s.path, &error)); /* the bytes themselves were good */
    saved_end(&s);
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    saved s;
    saved_begin(&s);
    s.data = realloc(s.data, N_BYTES + 8);
    memset(s.data + N_BYTES, 0, 8);
    for (size_t n = 0; n < N_BYTES; n += n < LOGITS || n > N_BYTES - 32 ? 1 : 13)
        check_refused(&s, n, "length", n);
    check_refused(&s, N_BYTES + 1, "length", N_BYTES + 1);
    check_refused(&s, N_BYTES + 8, "length", N_BYTES + 8);
    check_empty(s.session);
    saved_end(&s);
}

/* ---- Files that are well made but not for this session ------------------------------------- */

/* Change 4 bytes, correct the checksum, write. */
static void reseal(saved *s, size_t at, const void *value)
{
    memcpy(s->data + at, value, 4);
    const uint64_t checksum = ern_hash64(s->data, N_BYTES - 8);
    memcpy(s->data + N_BYTES - 8, &checksum, 8);
    test_write_file(s->path, s->data, N_BYTES);
}

static void hostile_files_are_refused(void **state)
{
    (void)state;
    saved s;
    static const struct {
        size_t at;
        uint32_t value;
        ernie_status status;
        const char *words[2];
    } cases[] = {
        { 8, 3, ERNIE_UNSUPPORTED, { "version 3", "version 2" } },
        { 8, 1, ERNIE_UNSUPPORTED, { "version 1", "version 2" } },
        { 12, 1, ERNIE_MISMATCH, { "holds an f32 cache", "an f16 one" } },
        { 12, 2, ERNIE_MISMATCH, { "holds a q8 cache", "an f16 one" } },
        { 12, 3, ERNIE_MISMATCH, { "holds a q4 cache", "an f16 one" } },
        { 12, 4, ERNIE_UNSUPPORTED, { "type 4", "0 to 3" } },
        { 16, 33, ERNIE_FULL, { "33", "32" } },
        { 16, UINT32_MAX, ERNIE_FULL, { "4294967295", "32" } },
        { 16, N_IDS + 1, ERNIE_FORMAT, { "bytes", "header" } },
        { 20, 0, ERNIE_FORMAT, { "bytes", "header" } },
        { 20, 2, ERNIE_FORMAT, { "logits", "2" } },
        { 24, 3, ERNIE_MISMATCH, { "another model", "" } },
        { 36, 321, ERNIE_MISMATCH, { "another model", "" } },
        { 40, 7, ERNIE_MISMATCH, { "another model", "" } },
        { 56, 7, ERNIE_MISMATCH, { "another model", "" } },
        { TOKENS + 4 * 3, VOCAB, ERNIE_FORMAT, { "token 3", "320" } },
        { TOKENS + 4 * 8, UINT32_MAX, ERNIE_FORMAT, { "token 8", "-1" } },
    };
    saved_begin(&s);
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        ernie_error error = { ERNIE_OK, "" };
        uint32_t before;
        memcpy(&before, s.data + cases[i].at, 4);
        reseal(&s, cases[i].at, &cases[i].value);
        const ernie_status status = ernie_session_load(s.session, s.path, &error);
        if (status != cases[i].status || !strstr(error.message, cases[i].words[0])
            || !strstr(error.message, cases[i].words[1]))
            fail_msg("case %zu: %d %s", i, status, error.message);
        check_empty(s.session);
        reseal(&s, cases[i].at, &before);
    }
    OK(ernie_session_load(s.session, s.path, &error));
    saved_end(&s);
}

/* Logits are numbers of the file's maker: padding stays forbidden, and no NaN becomes a token. */
static void hostile_logits_choose_nothing(void **state)
{
    (void)state;
    saved s;
    const float huge = 1e9f;
    ernie_logprob chosen = { -7, 0 };
    saved_begin(&s);
    reseal(&s, LOGITS + 4 * (VOCAB - 1), &huge);
    OK(ernie_session_load(s.session, s.path, &error));
    assert_true(ernie_session_logits(s.session)[VOCAB - 1] == -INFINITY);
    reseal(&s, LOGITS + 4 * 17, &(float){ NAN });
    OK(ernie_session_load(s.session, s.path, &error));
    FAILS(ERNIE_FORMAT, ernie_session_sample(s.session, NULL, &chosen, NULL, &error), "id 17",
          "nan");
    assert_int_equal(chosen.id, -7);
    ernie_result result = { .size = sizeof result };
    FAILS(ERNIE_FORMAT, ernie_session_generate(s.session, NULL, NULL, NULL, &result, &error),
          "id 17");
    assert_int_equal(result.n_generated, 0);
    saved_end(&s);
}

static void foreign_sessions_are_refused(void **state)
{
    (void)state;
    saved s;
    test_world other;
    ernie_session *session;
    saved_begin(&s);
    for (int i = 0; i < 2; i++) {
        test_model_spec spec = test_dense_spec;
        ern_hparams shape = s.w.model->format.header->hparams;
        shape.rope_theta = 10000.0;
        if (i == 0) spec.seed = 5;         /* other weights of the same shape */
        if (i == 1) spec.hparams = &shape; /* the same weights in another architecture */
        test_world_open(&other, &spec);
        session = fed_session(other.model, ERNIE_KV_DEFAULT);
        FAILS(ERNIE_MISMATCH, ernie_session_load(session, s.path, &error), "damaged\"",
              "another model");
        check_empty(session);
        ernie_session_free(session);
        test_world_close(&other);
    }
    session = fed_session(s.w.model, ERNIE_KV_F32);
    FAILS(ERNIE_MISMATCH, ernie_session_load(session, s.path, &error), "an f16 cache", "an f32 one");
    check_empty(session);
    ernie_session_free(session);
    session = fed_session(s.w.model, ERNIE_KV_Q8);
    FAILS(ERNIE_MISMATCH, ernie_session_load(session, s.path, &error), "an f16 cache", "a q8 one");
    check_empty(session);
    ernie_session_free(session);
    session = fed_session(s.w.model, ERNIE_KV_Q4);
    FAILS(ERNIE_MISMATCH, ernie_session_load(session, s.path, &error), "an f16 cache", "a q4 one");
    check_empty(session);
    ernie_session_free(session);
    session = test_session(s.w.model, N_IDS - 1);
    FAILS(ERNIE_FULL, ernie_session_load(session, s.path, &error), "9 tokens", "8");
    check_empty(session);
    ernie_session_free(session);
    saved_end(&s);
}

/* ---- The system's failures ----------------------------------------------------------------- */

static void unreadable_paths_are_named(void **state)
{
    (void)state;
    test_world w;
    test_world_open(&w, &test_dense_spec);
    ernie_session *session = fed_session(w.model, ERNIE_KV_DEFAULT);
    FAILS(ERNIE_IO, ernie_session_load(session, "/no/such/file", &error), "/no/such/file",
          "No such");
    check_empty(session);
    FAILS(ERNIE_IO, ernie_session_load(session, test_folder, &error), "ernie-test-", "is a directory");
    check_empty(session);
    FAILS(ERNIE_INVALID, ernie_session_load(session, NULL, &error), "\"path\"");
    assert_int_equal(ernie_session_length(session), 2); /* a call without a path does nothing */
    FAILS(ERNIE_INVALID, ernie_session_load(NULL, "x", &error), "\"session\"");
    FAILS(ERNIE_INVALID, ernie_session_save(session, NULL, &error), "\"path\"");
    FAILS(ERNIE_INVALID, ernie_session_save(NULL, "x", &error), "\"session\"");
    ernie_session_free(session);
    test_world_close(&w);
}

/* The reason must survive a name that would fill the whole message. */
static void long_paths_keep_the_reason(void **state)
{
    (void)state;
    test_world w;
    char path[900];
    const size_t n = strlen(test_folder);
    test_world_open(&w, &test_dense_spec);
    ernie_session *session = fed_session(w.model, ERNIE_KV_DEFAULT);
    snprintf(path, sizeof path, "%s/%0230d", test_folder, 1);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path + n + 231, sizeof path - n - 231, "/%0220d", 2);
    test_write_file(path, "something else, but long enough to hold a header of sixty-four bytes",
                    68);
    FAILS(ERNIE_FORMAT, ernie_session_load(session, path, &error), "0002\" is not a session file");
    unlink(path);
    path[n + 231] = '\0';
    rmdir(path);
    ernie_session_free(session);
    test_world_close(&w);
}

static void check_old_file(const char *path, const unsigned char *data, size_t n)
{
    size_t n_bytes;
    unsigned char *bytes = test_read_file(path, &n_bytes);
    assert_int_equal(n_bytes, n);
    assert_memory_equal(bytes, data, n);
    free(bytes);
}

static void failed_saves_leave_the_older_file(void **state)
{
    (void)state;
    saved s;
    struct rlimit before, small;
    saved_begin(&s);
    float logits[VOCAB];
    OK(ernie_session_feed(s.session, ids, 1, &error));
    memcpy(logits, ernie_session_logits(s.session), sizeof logits);
    FAILS(ERNIE_IO, ernie_session_save(s.session, "/no/such/folder/x", &error),
          "/no/such/folder/x");
    FAILS(ERNIE_IO, ernie_session_save(s.session, test_folder, &error), "is a directory");
    FAILS(ERNIE_IO, ernie_session_save(s.session, "/dev/full", &error), "/dev/full");

    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN); /* a disk that is full after 3000 bytes */
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 3000;
    setrlimit(RLIMIT_FSIZE, &small);
    ernie_error why = { ERNIE_OK, "" };
    const ernie_status status = ernie_session_save(s.session, s.path, &why);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, handler);
    assert_int_equal(status, ERNIE_IO);
    assert_non_null(strstr(why.message, "damaged"));

    for (long n = 0; n < 3; n++) { /* the layer, the file, its buffer */
        test_allocator_fail_at(&s.w.counter, n, false);
        FAILS(ERNIE_NO_MEMORY, ernie_session_save(s.session, s.path, &error), "bytes");
        test_allocator_fail_at(&s.w.counter, TEST_ALLOCATOR_NEVER, false);
    }
    check_old_file(s.path, s.data, N_BYTES);
    test_same_logits(s.session, logits, VOCAB); /* saving changes nothing, whatever happens */
    assert_int_equal(ernie_session_length(s.session), N_IDS + 1);
    for (long n = 0; n < 2; n++) { /* the file, the layer */
        test_allocator_fail_at(&s.w.counter, n, false);
        FAILS(ERNIE_NO_MEMORY, ernie_session_load(s.session, s.path, &error), "bytes");
        test_allocator_fail_at(&s.w.counter, TEST_ALLOCATOR_NEVER, false);
        check_empty(s.session);
    }
    OK(ernie_session_save(s.session, s.path, &error)); /* and then it is replaced */
    OK(ernie_session_load(s.session, s.path, &error));
    assert_int_equal(ernie_session_length(s.session), 2);
    saved_end(&s);
}

/* A session of 2 MiB fails while it is written, not only when the buffer is flushed at the end. */
static void failed_writes_leave_nothing(void **state)
{
    (void)state;
    const ern_hparams shape = { .n_layers = 4,
                                .hidden_size = 64,
                                .n_heads = 8,
                                .n_kv_heads = 8,
                                .head_dim = 128,
                                .intermediate_size = 16,
                                .vocab_size = VOCAB,
                                .context_max = 64,
                                .bos_id = 1,
                                .eos_id = 2,
                                .rms_norm_eps = 1e-5f,
                                .moe_norm_min = 1e-12f,
                                .rope_theta = 500000.0,
                                .tied = 1 };
    const test_model_spec spec = { .hparams = &shape, .type_attention = ERN_W4 };
    struct rlimit before, small;
    test_world w;
    int32_t many[64] = { 0 };
    ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
    options.n_threads = 1;
    options.kv_type = ERNIE_KV_F32;
    test_world_open(&w, &spec);
    ernie_session *session = test_session_with(w.model, &options);
    OK(ernie_session_feed(session, many, 64, &error));
    ernie_error why = { ERNIE_OK, "" };
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 1 << 20;
    setrlimit(RLIMIT_FSIZE, &small);
    const ernie_status status = ernie_session_save(session, test_path("large"), &why);
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, handler);
    assert_int_equal(status, ERNIE_IO);
    assert_non_null(strstr(why.message, "large"));
    assert_int_equal(access(test_path("large"), F_OK), -1);
    ernie_session_free(session);
    test_world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(saved_sessions_continue_the_same),
        cmocka_unit_test(sessions_without_logits_or_tokens),
        cmocka_unit_test(every_flipped_byte_is_refused),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(hostile_files_are_refused),
        cmocka_unit_test(hostile_logits_choose_nothing),
        cmocka_unit_test(foreign_sessions_are_refused),
        cmocka_unit_test(unreadable_paths_are_named),
        cmocka_unit_test(long_paths_keep_the_reason),
        cmocka_unit_test(failed_saves_leave_the_older_file),
        cmocka_unit_test(failed_writes_leave_nothing),
        cmocka_unit_test(test_folder_is_empty),
    };
    return cmocka_run_group_tests_name("session_file", tests, test_folder_begin, NULL);
}
