/* Disks that fail under a streamed model: one failure is passed over, two are named and leave
 * the session what it held; files that are damaged or cut off while they are read; every
 * allocation and every system call; the list of experts on a full disk, damaged, foreign, and
 * its writer killed. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <sys/wait.h>

#include "../unit/fake_disk.h"
#include "../unit/test_session.h"
#include "../unit/stream_model.h"
#include "calls.h"

#define N_PROMPT 70u /* tokens enough for every expert */

static fake_disk disk;
static int32_t prompt[N_PROMPT];
static stream_answer expected;
static char file_path[640], warm_path[640];

static int setup(void **state)
{
    const ern_hparams h = stream_hparams();
    const test_model_spec spec = stream_spec(&h);
    const stream_how how = stream_from(NULL, &disk.source);
    if (test_folder_begin(state) != 0) return -1;
    fake_begin_spec(&disk, &spec);
    test_ids(prompt, N_PROMPT, 9, 300);
    stream_ask_resident(disk.image, disk.n_bytes, &how.session, prompt, N_PROMPT, &expected);
    snprintf(file_path, sizeof file_path, "%s", test_path("model.ernie"));
    snprintf(warm_path, sizeof warm_path, "%s", test_path("model.warm"));
    test_write_file(file_path, disk.image, disk.n_bytes);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fake_end(&disk);
    remove(file_path);
    remove(warm_path);
    return rmdir(test_folder);
}

static int calm(void **state)
{
    (void)state;
    fake_fail(&disk, 0, 0, 0);
    remove(warm_path);
    return 0;
}

/* The session is empty or holds the prompt, and says what it should. */
static void check_recovers(ernie_session *session)
{
    stream_answer answer;
    stream_ask(session, prompt, N_PROMPT, &answer);
    assert_true(stream_same(&answer, &expected));
}

/* ---- Reads --------------------------------------------------------------------------------- */

static void one_bad_read_is_passed_over(void **state)
{
    const stream_how how = stream_from(NULL, &disk.source);
    unsigned n_passed = 0;
    (void)state;
    ernie_model *model = stream_open(&how, 1, STREAM_LEAST);
    ernie_session *session = test_session_with(model, &how.session);
    for (uint32_t e = 0; e < STREAM_EXPERTS; e += 3) {
        fake_fail(&disk, fake_record(&disk, 1 + e / 16, e % 16)->offset, e % 2, 1 - e % 2);
        check_recovers(session);
        n_passed += disk.n_fail + disk.n_spoil == 0;
    }
    assert_true(n_passed > 15); /* a few were in memory all the time */
    ernie_session_free(session);
    ernie_model_close(model);
}

static void check_named(const ernie_error *error, ernie_status status, const ern_record *r)
{
    char words[64];
    snprintf(words, sizeof words, "layer %u expert %u at offset %llu", (unsigned)r->layer,
             (unsigned)r->expert, (unsigned long long)r->offset);
    if (error->code != status || !strstr(error->message, words))
        fail_msg("no \"%s\" in \"%s\"", words, error->message);
}

static void two_bad_reads_are_named(void **state)
{
    const stream_how how = stream_from(NULL, &disk.source);
    (void)state;
    ernie_model *model = stream_open(&how, 1, STREAM_LEAST);
    ernie_session *session = test_session_with(model, &how.session);
    for (uint32_t e = 0; e < STREAM_EXPERTS; e += 5) {
        ernie_error why = { ERNIE_OK, "" };
        const ern_record *r = fake_record(&disk, 1 + e / 16, e % 16);
        const bool spoils = e % 2;
        OK(ernie_session_rewind(session, 0, &error));
        OK(ernie_session_feed(session, prompt, 20, &error));
        fake_fail(&disk, r->offset, spoils ? 0 : 2, spoils ? 2 : 0);
        const ernie_status status =
            ernie_session_feed(session, prompt + 20, N_PROMPT - 20, &why);
        if (status == ERNIE_OK) fail_msg("layer %u expert %u", (unsigned)r->layer, e % 16);
        assert_int_equal(status, spoils ? ERNIE_CORRUPT : ERNIE_IO);
        check_named(&why, status, r);
        assert_int_equal(ernie_session_length(session), 20);
        assert_memory_equal(ernie_session_tokens(session), prompt, 20 * sizeof *prompt);
        assert_null(ernie_session_logits(session));
        OK(ernie_session_feed(session, prompt + 20, N_PROMPT - 20, &error)); /* tries again */
        test_same_logits(session, expected.logits, STREAM_VOCAB);
        check_recovers(session);
    }
    ernie_session_free(session);
    ernie_model_close(model);
}

/* One that stays bad stays named, by the session, too; what was generated before it counts. */
static void generating_ends_with_the_name(void **state)
{
    const stream_how how = stream_from(NULL, &disk.source);
    ernie_sampling params = ERNIE_SAMPLING_INIT;
    unsigned n_named = 0;
    (void)state;
    params.greedy = params.ignore_eos = true;
    params.n_max = STREAM_GREEDY;
    ernie_model *model = stream_open(&how, 1, STREAM_LEAST);
    ernie_session *session = test_session_with(model, &how.session);
    for (uint32_t e = 0; e < STREAM_EXPERTS; e += 7) {
        ernie_result result = { .size = sizeof result };
        ernie_error why = { ERNIE_OK, "" };
        fake_fail(&disk, 0, 0, 0);
        OK(ernie_session_rewind(session, 0, &error));
        OK(ernie_session_feed(session, prompt, N_PROMPT, &error));
        fake_fail(&disk, fake_record(&disk, 1 + e / 16, e % 16)->offset, -1, 0);
        const ernie_status status =
            ernie_session_generate(session, &params, NULL, NULL, &result, &why);
        const size_t n = ernie_session_length(session) - N_PROMPT;
        assert_true(n <= STREAM_GREEDY);
        assert_memory_equal(ernie_session_tokens(session) + N_PROMPT, expected.ids, 4 * n);
        if (status == ERNIE_OK) continue;
        n_named++;
        check_named(&why, ERNIE_IO, fake_record(&disk, 1 + e / 16, e % 16));
        fake_fail(&disk, 0, 0, 0);
        check_recovers(session);
    }
    assert_true(n_named > 0);
    ernie_session_free(session);
    ernie_model_close(model);
}

/* ---- Files that change while they are open ------------------------------------------------- */

static void patch_file(uint64_t offset, unsigned char byte)
{
    FILE *file = fopen(file_path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, (long)offset, SEEK_SET), 0);
    assert_int_equal(fwrite(&byte, 1, 1, file), 1);
    assert_int_equal(fclose(file), 0);
}

static void files_that_change_are_named(void **state)
{
    (void)state;
    for (unsigned buffered = 0; buffered < 2; buffered++) {
        stream_how how = stream_from(file_path, NULL);
        ernie_error why = { ERNIE_OK, "" };
        const ern_record *r = fake_record(&disk, 3, 5);
        how.stream.buffered = buffered;
        ernie_model *model = stream_open(&how, 1, STREAM_LEAST);
        ernie_session *session = test_session_with(model, &how.session);
        check_recovers(session);
        OK(ernie_session_rewind(session, 10, &error));

        patch_file(r->offset + 77, disk.image[r->offset + 77] ^ 1);
        assert_int_equal(ernie_session_feed(session, prompt, N_PROMPT, &why), ERNIE_CORRUPT);
        check_named(&why, ERNIE_CORRUPT, r);
        assert_int_equal(ernie_model_verify(model, NULL, NULL, NULL, &why), ERNIE_CORRUPT);
        check_named(&why, ERNIE_CORRUPT, r);
        patch_file(r->offset + 77, disk.image[r->offset + 77]);
        check_recovers(session);
        OK(ernie_session_rewind(session, 10, &error));

        assert_int_equal(truncate(file_path, (off_t)r->offset + 1000), 0);
        assert_int_equal(ernie_session_feed(session, prompt, N_PROMPT, &why), ERNIE_IO);
        assert_non_null(strstr(why.message, "ended at byte"));
        assert_non_null(strstr(why.message, "layer 3"));
        assert_int_equal(ernie_session_length(session), 10);
        assert_int_equal(ernie_model_verify(model, NULL, NULL, NULL, &why), ERNIE_IO);
        test_write_file(file_path, disk.image, disk.n_bytes);
        check_recovers(session);
        ernie_session_free(session);
        ernie_model_close(model);
    }
}

/* A source whose header is another one each time: what was planned by one is not there by the
 * other. */
typedef struct turncoat {
    unsigned n_reads;
    ern_header first; /* the first read's header */
} turncoat;

static int turncoat_read(void *user, uint64_t offset, void *buffer, size_t n)
{
    turncoat *t = user;
    if (offset > disk.n_bytes || n > disk.n_bytes - offset) return 1;
    memcpy(buffer, disk.image + offset, n);
    if (t->n_reads++ == 0) memcpy(buffer, &t->first, sizeof t->first);
    return 0;
}

static void headers_that_change_are_named(void **state)
{
    turncoat t = { .first = *disk.format.header };
    const ernie_source source = { turncoat_read, disk.n_bytes, &t };
    const stream_how how = stream_from(NULL, &source);
    ern_section *s = t.first.section;
    ernie_model *model = (ernie_model *)8;
    (void)state;
    for (unsigned i = 0; i < ERN_SECTION_EXPERTS; i++) s[i].offset = s[i].n_bytes = 0;
    s[ERN_SECTION_EXPERTS].offset = ERN_HEADER_BYTES; /* nothing else is resident, then */
    s[ERN_SECTION_EXPERTS].n_bytes = disk.n_bytes - ERN_HEADER_BYTES;
    FAILS(ERNIE_IO, stream_try(&model, &how, disk.n_bytes + ERN_PLAN_SPARE, &error),
          "changed while it was opened");
    assert_null(model);
}

/* ---- Allocations and system calls ---------------------------------------------------------- */

/* Open, ask, close; *right: what was said is what should be. */
static ernie_status visit(const stream_how *how, uint64_t memory, bool *right, ernie_error *error)
{
    ernie_model *model = (ernie_model *)8;
    ernie_session *session = NULL;
    ernie_status status = stream_try(&model, how, memory, error);
    if (status != ERNIE_OK) {
        assert_null(model);
        return status;
    }
    status = ernie_session_create(&session, model, &how->session, error);
    if (status == ERNIE_OK) status = ernie_session_feed(session, prompt, N_PROMPT, error);
    *right = status == ERNIE_OK
             && memcmp(ernie_session_logits(session), expected.logits, sizeof expected.logits) == 0;
    ernie_session_free(session);
    ernie_model_close(model);
    return status;
}

static void every_request_for_memory_fails(void **state)
{
    (void)state;
    for (unsigned way = 0; way < 4; way++) { /* file or source, with a list or without */
        test_allocator counter;
        ernie_allocator allocator;
        bool right = false;
        stream_how how = stream_from(way % 2 ? file_path : NULL, &disk.source);
        how.stream.warm_path = way / 2 ? warm_path : NULL;
        const uint64_t memory = stream_ceiling(&how, 1, STREAM_LEAST + 1);
        OK(visit(&how, memory, &right, &error)); /* leaves a list */
        how.allocator = &allocator;
        for (int sticky = 0; sticky < 2; sticky++) {
            long k = 0;
            for (bool failed = true; failed; k++) {
                ernie_error error = { ERNIE_OK, "" };
                right = false;
                test_allocator_begin(&counter, &allocator);
                test_allocator_fail_at(&counter, k, sticky);
                const ernie_status status = visit(&how, memory, &right, &error);
                failed = atomic_load(&counter.n_failed) > 0;
                assert_int_equal(atomic_load(&counter.live), 0);
                assert_int_equal(atomic_load(&counter.n_wrong_sizes), 0);
                /* The list may be done without. */
                if (status == ERNIE_OK ? !right || (failed && way < 2)
                                       : status != ERNIE_NO_MEMORY || !failed)
                    fail_msg("way %u, request %ld: status %d, \"%s\"", way, k, (int)status,
                             error.message);
                if (status != ERNIE_OK) assert_non_null(strstr(error.message, "memory"));
                assert_true(k < 1000);
            }
            if (sticky) printf("way %u: %ld requests\n", way, k - 1);
        }
        remove(warm_path);
    }
}

static void every_system_call_fails(void **state)
{
    (void)state;
    stream_how how = stream_from(file_path, NULL);
    how.stream.n_readers = 2;
    how.session.n_threads = 1;
    const uint64_t memory = stream_ceiling(&how, 1, STREAM_LEAST);
    for (calls_mode mode = CALLS_FAIL; mode <= CALLS_SIGNAL; mode++)
        for (int sticky = 0; sticky < 2; sticky++) {
            if (mode == CALLS_SIGNAL && sticky) continue; /* would be tried for ever */
            unsigned n_ok = 0, n_named = 0;
            for (long k = 0; k < 60; k += k < 24 ? 1 : 7) { /* then it is all reads of experts */
                ernie_error error = { ERNIE_OK, "" };
                bool right = false;
                calls_begin(mode, k, sticky != 0);
                const ernie_status status = visit(&how, memory, &right, &error);
                const calls_kind *hit = calls_end();
                assert_int_equal(atomic_load(&calls.n_held), 0);
                const bool named = status == ERNIE_IO || status == ERNIE_NO_MEMORY
                                   || status == ERNIE_FORMAT || status == ERNIE_CORRUPT;
                if (status == ERNIE_OK ? !right : !named || !hit || strlen(error.message) < 10)
                    fail_msg("call %ld (%s), mode %d: status %d, \"%s\"", k,
                             hit ? hit->name : "none", (int)mode, (int)status, error.message);
                n_ok += status == ERNIE_OK;
                n_named += status != ERNIE_OK;
            }
            printf("mode %d%s: %u passed over, %u named\n", (int)mode, sticky ? " for ever" : "",
                   n_ok, n_named);
            /* An expert is read once more; what fails always is named. */
            if (mode == CALLS_SHORT || mode == CALLS_SIGNAL) assert_int_equal(n_named, 0);
            if (sticky && (mode == CALLS_FAIL || mode == CALLS_EMPTY)) assert_int_equal(n_ok, 0);
            if (!sticky) assert_true(n_ok > 0);
        }
}

/* ---- The list of experts ------------------------------------------------------------------- */

typedef struct note {
    unsigned n_warnings, n_refusals;
    char line[512]; /* the last of them */
} note;

static void take_note(ernie_log_level level, const char *line, void *user)
{
    note *n = user;
    const bool warning = strstr(line, "was not kept") != NULL;
    const bool refusal = strstr(line, "no experts are read ahead") != NULL;
    if (!warning && !refusal) return;
    /* A list that is not there is nothing to be warned of. */
    const bool absent = refusal && strstr(line, "cannot be opened") != NULL;
    assert_int_equal(level, absent ? ERNIE_LOG_INFO : ERNIE_LOG_WARN);
    n->n_warnings += warning;
    n->n_refusals += refusal;
    snprintf(n->line, sizeof n->line, "%s", line);
}

static unsigned n_files(void)
{
    unsigned n = 0;
    DIR *folder = opendir(test_folder);
    assert_non_null(folder);
    while (readdir(folder)) n++;
    closedir(folder);
    return n - 2;
}

/* Half of the experts, so that the list has something to say. */
static stream_how warm_how(note *n)
{
    stream_how how = stream_from(NULL, &disk.source);
    memset(n, 0, sizeof *n);
    how.stream.warm_path = warm_path;
    how.session.n_threads = 1;
    how.log = take_note;
    how.log_user = n;
    return how;
}

static void warm_visit(const stream_how *how, uint64_t memory)
{
    bool right = false;
    OK(visit(how, memory, &right, &error));
    assert_true(right);
}

static void lists_that_cannot_be_written(void **state)
{
    note n;
    size_t n_before, n_now;
    (void)state;
    const stream_how how = warm_how(&n);
    const uint64_t memory = stream_ceiling(&how, 1, 32);
    warm_visit(&how, memory);
    assert_int_equal(n.n_warnings, 0);
    assert_int_equal(n.n_refusals, 1); /* there was none */
    unsigned char *before = test_read_file(warm_path, &n_before);
    const unsigned n_before_files = n_files();
    for (int sticky = 0; sticky < 2; sticky++)
        for (long k = 0; k < 12; k++) {
            ernie_model *model = stream_open_with(&how, memory);
            ernie_session *session = test_session_with(model, &how.session);
            OK(ernie_session_feed(session, prompt, 5, &error));
            ernie_session_free(session);
            memset(&n, 0, sizeof n);
            calls_begin(CALLS_FAIL, k, sticky != 0);
            ernie_model_close(model);
            const calls_kind *hit = calls_end();
            assert_int_equal(atomic_load(&calls.n_held), 0);
            assert_true(n.n_warnings <= 1);
            if (!hit) assert_int_equal(n.n_warnings, 0);
            if (hit == &calls_write) { /* as on a full disk */
                assert_int_equal(n.n_warnings, 1);
                assert_non_null(strstr(n.line, strerror(ENOSPC)));
            }
            unsigned char *now = test_read_file(warm_path, &n_now);
            if (n.n_warnings) {
                assert_int_equal(n_now, n_before);
                assert_memory_equal(now, before, n_before);
            }
            free(now);
            assert_int_equal(n_files(), n_before_files);
            test_write_file(warm_path, before, n_before);
        }
    free(before);
    stream_how nowhere = how;
    nowhere.stream.warm_path = "/nowhere/list";
    memset(&n, 0, sizeof n);
    warm_visit(&nowhere, memory);
    assert_int_equal(n.n_refusals, 1);
    assert_int_equal(n.n_warnings, 1);
    assert_non_null(strstr(n.line, "/nowhere/list"));
}

static void lists_that_are_no_good(void **state)
{
    note n;
    size_t n_bytes;
    (void)state;
    const stream_how how = warm_how(&n);
    const uint64_t memory = stream_ceiling(&how, 1, 32);
    warm_visit(&how, memory);
    unsigned char *good = test_read_file(warm_path, &n_bytes);
    for (unsigned i = 0; i < 6; i++) {
        static const char *const words[] = { "checksum",      "another model", "not a list",
                                             "a list of 32", "ends at byte",  "" };
        unsigned char *bad = malloc(n_bytes + 1);
        size_t n_bad = n_bytes;
        assert_non_null(bad);
        memcpy(bad, good, n_bytes);
        if (i == 0) bad[n_bytes / 2] ^= 1;
        if (i == 1) bad[20] ^= 1; /* whose weights */
        if (i == 2) bad[0] = 'X';
        if (i == 3) n_bad = n_bytes - 8;
        if (i == 4) n_bad = 0;
        test_write_file(warm_path, bad, n_bad);
        memset(&n, 0, sizeof n);
        warm_visit(&how, memory);
        assert_int_equal(n.n_refusals, i < 5);
        if (i < 5 && !strstr(n.line, words[i])) fail_msg("%u: %s", i, n.line);
        assert_int_equal(n.n_warnings, 0);
        free(bad);
    }
    free(good);
}

/* A process that does nothing but open, use and close. */
static void use_for_ever(const stream_how *how, uint64_t memory)
{
    for (unsigned i = 0;; i++) {
        ernie_model *model = NULL;
        ernie_session *session = NULL;
        if (stream_try(&model, how, memory, NULL) != ERNIE_OK
            || ernie_session_create(&session, model, &how->session, NULL) != ERNIE_OK
            || ernie_session_feed(session, prompt, 1 + i % 3, NULL) != ERNIE_OK)
            _exit(1);
        ernie_session_free(session);
        ernie_model_close(model);
    }
}

/* A killed writer leaves files under names of their own. */
static void remove_leftovers(void)
{
    char path[1200];
    DIR *folder = opendir(test_folder);
    assert_non_null(folder);
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (!strstr(entry->d_name, ".warm.tmp-")) continue;
        snprintf(path, sizeof path, "%s/%s", test_folder, entry->d_name);
        unlink(path);
    }
    closedir(folder);
}

static void a_killed_writer_leaves_a_list(void **state)
{
    note n;
    uint64_t seed = 11;
    (void)state;
    stream_how how = warm_how(&n);
    const uint64_t memory = stream_ceiling(&how, 1, 32);
    warm_visit(&how, memory);
    for (unsigned i = 0; i < 25; i++) {
        fflush(NULL);
        const pid_t child = fork();
        if (child == 0) {
            how.log = NULL;
            use_for_ever(&how, memory);
        }
        assert_true(child > 0);
        ern_sleep(1e-3 * (double)(1 + test_random(&seed) % 25));
        assert_int_equal(kill(child, SIGKILL), 0);
        int status = 0;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        memset(&n, 0, sizeof n);
        warm_visit(&how, memory);
        if (n.n_refusals || n.n_warnings) fail_msg("after %u kills: %s", i + 1, n.line);
    }
    remove_leftovers();
    assert_int_equal(n_files(), 2);
}

#define T(name) cmocka_unit_test_setup(name, calm)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(one_bad_read_is_passed_over),
        T(two_bad_reads_are_named),
        T(generating_ends_with_the_name),
        T(files_that_change_are_named),
        T(headers_that_change_are_named),
        T(every_request_for_memory_fails),
        T(every_system_call_fails),
        T(lists_that_cannot_be_written),
        T(lists_that_are_no_good),
        T(a_killed_writer_leaves_a_list),
    };
    return cmocka_run_group_tests_name("stream_faults", tests, setup, teardown);
}
