/* Sentences, the log, and options structs of other versions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../src/ern.h"

static void error_takes_code_and_sentence(void **state)
{
    (void)state;
    ernie_error error = { ERNIE_OK, "" };
    assert_int_equal(ern_error_set(&error, ERNIE_FORMAT, "%s has %d rows", "lm_head", 7),
                     ERNIE_FORMAT);
    assert_int_equal(error.code, ERNIE_FORMAT);
    assert_string_equal(error.message, "lm_head has 7 rows");
    assert_int_equal(ern_error_set(NULL, ERNIE_IO, "unheard"), ERNIE_IO);
}

/* A sentence that does not fit ends with a whole character. */
static void error_cuts_between_characters(void **state)
{
    (void)state;
    static const struct {
        const char *last; /* the character that meets the end */
        size_t n_before;  /* bytes of 'x' before it */
        size_t n_kept;    /* of the message */
    } cases[] = {
        { "x", 254, 255 },
        { "x", 255, 255 },
        { "\xc3\xa9", 253, 255 },
        { "\xc3\xa9", 254, 254 },
        { "\xe8\xaf\x97", 252, 255 },
        { "\xe8\xaf\x97", 253, 253 },
        { "\xe8\xaf\x97", 254, 254 },
        { "\xf0\x9f\x98\x80", 252, 252 },
        { "\xf0\x9f\x98\x80", 251, 255 },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        ernie_error error;
        char before[300];
        memset(before, 'x', cases[i].n_before);
        before[cases[i].n_before] = '\0';
        ern_error_set(&error, ERNIE_IO, "%s%s%s", before, cases[i].last, "and more");
        assert_int_equal(strlen(error.message), cases[i].n_kept);
    }
}

/* Bytes that are no UTF-8 at all do not lead the trimming astray. */
static void error_survives_broken_text(void **state)
{
    (void)state;
    ernie_error error;
    char junk[400];
    memset(junk, 0x80, sizeof junk);
    junk[sizeof junk - 1] = '\0';
    ern_error_set(&error, ERNIE_IO, "%s", junk);
    assert_true(strlen(error.message) >= 250);
}

typedef struct options_known {
    uint32_t size;
    uint32_t n_threads;
    uint64_t budget;
} options_known;

typedef struct options_newer {
    options_known known;
    uint32_t later[2];
} options_newer;

static ernie_status copy(options_known *dst, const void *src, ernie_error *error)
{
    *dst = (options_known){ .size = sizeof *dst, .n_threads = 5, .budget = 9 };
    return ern_options_copy(dst, sizeof *dst, src, "ernie_model_options", error);
}

static void options_of_this_version(void **state)
{
    (void)state;
    options_known dst;
    const options_known given = { .size = sizeof given, .n_threads = 2 };
    assert_int_equal(copy(&dst, &given, NULL), ERNIE_OK);
    assert_int_equal(dst.n_threads, 2);
    assert_int_equal(dst.budget, 0);
    assert_int_equal(copy(&dst, NULL, NULL), ERNIE_OK);
    assert_int_equal(dst.n_threads, 5);
}

static void options_of_an_older_caller_keep_defaults(void **state)
{
    (void)state;
    options_known dst;
    const options_known given = { .size = offsetof(options_known, budget),
                                  .n_threads = 2,
                                  .budget = 1 };
    assert_int_equal(copy(&dst, &given, NULL), ERNIE_OK);
    assert_int_equal(dst.size, sizeof dst);
    assert_int_equal(dst.n_threads, 2);
    assert_int_equal(dst.budget, 9);
}

static void options_of_a_newer_caller(void **state)
{
    (void)state;
    options_known dst;
    ernie_error error = { ERNIE_OK, "" };
    options_newer given = { .known = { .size = sizeof given, .n_threads = 3 } };
    assert_int_equal(copy(&dst, &given, &error), ERNIE_OK);
    assert_int_equal(dst.n_threads, 3);
    assert_int_equal(dst.size, sizeof dst);
    given.later[1] = 1;
    assert_int_equal(copy(&dst, &given, &error), ERNIE_UNSUPPORTED);
    assert_non_null(strstr(error.message, "byte 20"));
    assert_non_null(strstr(error.message, "ernie_model_options"));
    assert_int_equal(dst.n_threads, 5);
}

static void options_without_initialiser(void **state)
{
    (void)state;
    options_known dst;
    ernie_error error = { ERNIE_OK, "" };
    static const uint32_t sizes[] = { 0, 3, 4097, 0xffffffffu };
    for (size_t i = 0; i < ERN_COUNT(sizes); i++) {
        const options_known given = { .size = sizes[i] };
        assert_int_equal(copy(&dst, &given, &error), ERNIE_INVALID);
        assert_non_null(strstr(error.message, "initialiser"));
    }
}

typedef struct heard {
    int n;
    ernie_log_level level;
    char line[600];
} heard;

static void listen(ernie_log_level level, const char *line, void *user)
{
    heard *h = user;
    h->n++;
    h->level = level;
    snprintf(h->line, sizeof h->line, "%s", line);
}

static void log_reaches_the_listener(void **state)
{
    (void)state;
    heard h = { 0 };
    const ern_log log = { listen, &h }, silent = { NULL, NULL };
    char longest[700];
    ern_log_write(&log, ERNIE_LOG_WARN, "%d experts", 64);
    assert_int_equal(h.n, 1);
    assert_int_equal(h.level, ERNIE_LOG_WARN);
    assert_string_equal(h.line, "64 experts");
    memset(longest, 'y', sizeof longest);
    longest[sizeof longest - 1] = '\0';
    ern_log_write(&log, ERNIE_LOG_INFO, "%s", longest);
    assert_int_equal(strlen(h.line), 511);
    ern_log_write(&silent, ERNIE_LOG_INFO, "unheard");
    ern_log_write(NULL, ERNIE_LOG_INFO, "unheard");
    assert_int_equal(h.n, 2);
}

static void cancel_flag_is_seen(void **state)
{
    (void)state;
    ernie_cancel cancel = { 0 };
    assert_false(ern_cancelled(NULL));
    assert_false(ern_cancelled(&cancel));
    cancel.requested = 1;
    assert_true(ern_cancelled(&cancel));
}

static void sizes_in_words(void **state)
{
    static const struct {
        uint64_t n;
        const char *near, *up;
    } cases[] = { { 0, "0 bytes", "0 bytes" },
                  { 999, "999 bytes", "999 bytes" },
                  { 1000, "0.001 MB", "0.001 MB" },
                  { 1001, "0.001 MB", "0.002 MB" },
                  { 999001, "0.999 MB", "1.0 MB" },
                  { 24600000, "24.6 MB", "24.6 MB" },
                  { 24600001, "24.6 MB", "24.7 MB" },
                  { 999999999, "1000.0 MB", "1.00 GB" },
                  { 11850000001, "11.85 GB", "11.86 GB" } };
    (void)state;
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        assert_string_equal(ern_bytes(cases[i].n).text, cases[i].near);
        assert_string_equal(ern_bytes_up(cases[i].n).text, cases[i].up);
    }
    assert_string_equal(ern_bytes_up(UINT64_MAX).text, ern_bytes(UINT64_MAX).text);
}
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_takes_code_and_sentence),
        cmocka_unit_test(error_cuts_between_characters),
        cmocka_unit_test(error_survives_broken_text),
        cmocka_unit_test(options_of_this_version),
        cmocka_unit_test(options_of_an_older_caller_keep_defaults),
        cmocka_unit_test(options_of_a_newer_caller),
        cmocka_unit_test(options_without_initialiser),
        cmocka_unit_test(log_reaches_the_listener),
        cmocka_unit_test(cancel_flag_is_seen),
        cmocka_unit_test(sizes_in_words),
    };
    return cmocka_run_group_tests_name("error", tests, NULL, NULL);
}
