/* Files, clocks, processors, threads. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../src/os.h"
#include "test_allocator.h"

static char folder[256]; /* of this run, removed at its end */

static const char *in_folder(const char *name)
{
    static char path[2][1024];
    static unsigned turn;
    char *p = path[turn++ % 2];
    snprintf(p, sizeof path[0], "%s/%s", folder, name);
    return p;
}

static int count_files(void)
{
    int n = 0;
    DIR *dir = opendir(folder);
    while (readdir(dir)) n++;
    closedir(dir);
    return n - 2;
}

static void put_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

static int setup(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/ernie-test-os-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(folder) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    DIR *dir = opendir(folder);
    for (struct dirent *e; (e = readdir(dir));)
        if (e->d_name[0] != '.') remove(in_folder(e->d_name));
    closedir(dir);
    return rmdir(folder);
}

/* ---- Views --------------------------------------------------------------------------------- */

#define BIG_BYTES ((size_t)9 << 20)

static unsigned char *big_bytes(void)
{
    unsigned char *data = malloc(BIG_BYTES);
    assert_non_null(data);
    for (size_t i = 0; i < BIG_BYTES; i++) data[i] = (unsigned char)(i * 7 + (i >> 12));
    return data;
}

static void view_holds_the_file(void **state)
{
    (void)state;
    unsigned char *data = big_bytes();
    put_file(in_folder("big"), data, BIG_BYTES);
    for (int read_in = 0; read_in < 2; read_in++) {
        ern_file_view view;
        assert_int_equal(ern_file_view_open(&view, in_folder("big"), read_in,
                                            ern_allocator_default(), NULL, NULL, NULL, NULL),
                         ERNIE_OK);
        assert_int_equal(view.n_bytes, BIG_BYTES);
        assert_int_equal(view.mapped, !read_in);
        assert_int_equal((uintptr_t)view.data % 64, 0);
        assert_memory_equal(view.data, data, BIG_BYTES);
        ern_file_view_close(&view);
        assert_null(view.data);
        ern_file_view_close(&view);
    }
    free(data);
}

static void view_of_an_empty_file(void **state)
{
    (void)state;
    put_file(in_folder("empty"), "", 0);
    for (int read_in = 0; read_in < 2; read_in++) {
        ern_file_view view;
        assert_int_equal(ern_file_view_open(&view, in_folder("empty"), read_in,
                                            ern_allocator_default(), NULL, NULL, NULL, NULL),
                         ERNIE_OK);
        assert_non_null(view.data);
        assert_int_equal(view.n_bytes, 0);
        ern_file_view_close(&view);
    }
}

static void view_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *path, *fragment;
    } cases[] = {
        { "absent", "absent: cannot be opened: No such file or directory" },
        { "", ": is a directory, expected a file" }, /* the folder itself */
        { "pipe", "a device or a pipe" },
        { "absent/deeper", "No such file" },
        { "big/deeper", "Not a directory" },
        { "loop", "symbolic links" },
    };
    assert_int_equal(mkfifo(in_folder("pipe"), 0600), 0);
    assert_int_equal(symlink("loop", in_folder("loop")), 0);
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        ern_file_view view = { .n_bytes = 77 };
        ernie_error error = { ERNIE_OK, "" };
        assert_int_equal(ern_file_view_open(&view, in_folder(cases[i].path), i % 2,
                                            ern_allocator_default(), NULL, NULL, NULL, &error),
                         ERNIE_IO);
        if (!strstr(error.message, cases[i].fragment)) fail_msg("%s", error.message);
        assert_null(view.data);
        assert_int_equal(view.n_bytes, 0);
        ern_file_view_close(&view);
    }
    ern_file_view view;
    assert_int_equal(ern_file_view_open(&view, "/dev/zero", true, ern_allocator_default(), NULL,
                                        NULL, NULL, NULL),
                     ERNIE_IO);
    if (geteuid() != 0) { /* root reads everything */
        ernie_error error;
        put_file(in_folder("locked"), "x", 1);
        chmod(in_folder("locked"), 0);
        assert_int_equal(ern_file_view_open(&view, in_folder("locked"), true,
                                            ern_allocator_default(), NULL, NULL, NULL, &error),
                         ERNIE_IO);
        assert_non_null(strstr(error.message, "Permission denied"));
    }
}

/* The reason must survive a path longer than a message. */
static void long_paths_keep_the_reason(void **state)
{
    (void)state;
    ern_file_view view;
    ernie_error error;
    char path[900];
    snprintf(path, sizeof path, "%s/", folder);
    while (strlen(path) < 800) strcat(path, "\xe8\xaf\x97\xe8\xaf\x8d/");
    assert_int_equal(
        ern_file_view_open(&view, path, false, ern_allocator_default(), NULL, NULL, NULL, &error),
        ERNIE_IO);
    const char *dots = strstr(error.message, "...");
    assert_non_null(dots);
    assert_int_not_equal((unsigned char)dots[3] & 0xc0,
                         0x80); /* not in the middle of a character */
    assert_non_null(strstr(error.message, "No such file"));
}

typedef struct progress_seen {
    int n, stop_at;
    uint64_t done, total;
    ernie_cancel *cancel;
} progress_seen;

static int progress_watch(const char *what, uint64_t done, uint64_t total, void *user)
{
    progress_seen *seen = user;
    assert_string_equal(what, "reading");
    assert_true(done > seen->done && done <= total && done - seen->done <= 4u << 20);
    seen->done = done;
    seen->total = total;
    if (++seen->n == seen->stop_at && seen->cancel) seen->cancel->requested = 1;
    return seen->n == seen->stop_at && !seen->cancel;
}

static void reading_tells_progress_and_stops(void **state)
{
    (void)state;
    test_allocator counter;
    ernie_allocator allocator;
    test_allocator_begin(&counter, &allocator);
    ernie_cancel cancel = { 0 };
    const progress_seen cases[] = { { .stop_at = 0 },
                                    { .stop_at = 1 },
                                    { .stop_at = 2, .cancel = &cancel } };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        progress_seen seen = cases[i];
        ern_file_view view;
        const ernie_status status = ern_file_view_open(&view, in_folder("big"), true, &allocator,
                                                       progress_watch, &seen, &cancel, NULL);
        assert_int_equal(status, seen.stop_at ? ERNIE_CANCELLED : ERNIE_OK);
        assert_int_equal(seen.n, seen.stop_at ? seen.stop_at : 3);
        assert_int_equal(seen.total, BIG_BYTES);
        if (status != ERNIE_OK) assert_null(view.data);
        ern_file_view_close(&view);
    }
    assert_int_equal(counter.live, 0);
    assert_int_equal(counter.n_wrong_sizes, 0);
}

static void view_without_memory(void **state)
{
    (void)state;
    test_allocator counter;
    ernie_allocator allocator;
    ern_file_view view;
    ernie_error error;
    test_allocator_begin(&counter, &allocator);
    test_allocator_fail_at(&counter, 0, true);
    assert_int_equal(
        ern_file_view_open(&view, in_folder("big"), true, &allocator, NULL, NULL, NULL, &error),
        ERNIE_NO_MEMORY);
    assert_non_null(strstr(error.message, "9437184"));
    assert_null(view.data);
}

/* ---- Writing ------------------------------------------------------------------------------- */

static void expect_content(const char *path, const void *data, size_t n)
{
    ern_file_view view;
    assert_int_equal(
        ern_file_view_open(&view, path, false, ern_allocator_default(), NULL, NULL, NULL, NULL),
        ERNIE_OK);
    assert_int_equal(view.n_bytes, n);
    if (n) assert_memory_equal(view.data, data, n);
    ern_file_view_close(&view);
}

static void written_in_pieces_of_every_size(void **state)
{
    (void)state;
    unsigned char *data = big_bytes();
    static const size_t pieces[] = { 1000003, 1 << 20, 7919, (3 << 20) + 1 };
    for (size_t i = 0; i < ERN_COUNT(pieces); i++) {
        ern_file_out *out;
        assert_int_equal(ern_file_out_open(&out, in_folder("out"), ern_allocator_default(), NULL),
                         ERNIE_OK);
        for (size_t at = 0; at < BIG_BYTES; at += pieces[i])
            assert_int_equal(
                ern_file_out_write(out, data + at, ern_min_size(pieces[i], BIG_BYTES - at), NULL),
                ERNIE_OK);
        assert_int_equal(ern_file_out_commit(out, NULL), ERNIE_OK);
        expect_content(in_folder("out"), data, BIG_BYTES);
    }
    free(data);
}

/* Until commit, and after abandon, the old file is what readers see, and no temporary stays. */
static void old_file_stays_until_commit(void **state)
{
    (void)state;
    ern_file_out *out;
    put_file(in_folder("out"), "old", 3);
    const int n = count_files();
    for (int commit = 0; commit < 2; commit++) {
        assert_int_equal(ern_file_out_open(&out, in_folder("out"), ern_allocator_default(), NULL),
                         ERNIE_OK);
        assert_int_equal(count_files(), n + 1);
        ern_file_out_write(out, "newer", 5, NULL);
        expect_content(in_folder("out"), "old", 3);
        if (commit)
            assert_int_equal(ern_file_out_commit(out, NULL), ERNIE_OK);
        else
            ern_file_out_abandon(out);
        assert_int_equal(count_files(), n);
        expect_content(in_folder("out"), commit ? "newer" : "old", commit ? 5 : 3);
    }
    ern_file_out_abandon(NULL);
}

static void writing_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *path, *fragment;
    } cases[] = {
        { "", "is a directory" },
        { "pipe", "a device or a pipe" },
        { "nowhere/out", "nowhere/out: cannot be created: No such file" },
        { "big/out", "Not a directory" },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        ern_file_out *out = (ern_file_out *)8;
        ernie_error error = { ERNIE_OK, "" };
        assert_int_equal(
            ern_file_out_open(&out, in_folder(cases[i].path), ern_allocator_default(), &error),
            ERNIE_IO);
        if (!strstr(error.message, cases[i].fragment)) fail_msg("%s", error.message);
        assert_null(out);
    }
    ern_file_out *out;
    assert_int_equal(ern_file_out_open(&out, "/dev/null", ern_allocator_default(), NULL), ERNIE_IO);
}

/* A limit on file size stands for a full disk: the write fails half way. */
static void full_disk_leaves_the_old_file(void **state)
{
    (void)state;
    unsigned char *data = big_bytes();
    put_file(in_folder("out"), "old", 3);
    const int n = count_files();
    const struct rlimit small = { 3 << 20, RLIM_INFINITY };
    struct rlimit before;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    setrlimit(RLIMIT_FSIZE, &small);
    for (int commit = 0; commit < 2; commit++) {
        ern_file_out *out;
        ernie_error error = { ERNIE_OK, "" };
        assert_int_equal(ern_file_out_open(&out, in_folder("out"), ern_allocator_default(), NULL),
                         ERNIE_OK);
        assert_int_equal(ern_file_out_write(out, data, BIG_BYTES, &error), ERNIE_IO);
        assert_non_null(strstr(error.message, "out: cannot be written: File too large"));
        /* The failure sticks, whatever follows. */
        assert_int_equal(ern_file_out_write(out, "x", 1, NULL), ERNIE_IO);
        error.message[0] = '\0';
        if (commit)
            assert_int_equal(ern_file_out_commit(out, &error), ERNIE_IO);
        else
            ern_file_out_abandon(out);
        if (commit) assert_non_null(strstr(error.message, "File too large"));
        assert_int_equal(count_files(), n);
        expect_content(in_folder("out"), "old", 3);
    }
    setrlimit(RLIMIT_FSIZE, &before);
    signal(SIGXFSZ, handler);
    free(data);
}

static void allocation_failures_unwind(void **state)
{
    (void)state;
    test_allocator counter;
    ernie_allocator allocator;
    const int n = count_files();
    for (long i = 0; i < 3; i++) {
        ern_file_out *out = NULL;
        ern_file_in *in = NULL;
        uint64_t n_bytes;
        test_allocator_begin(&counter, &allocator);
        test_allocator_fail_at(&counter, i, true);
        const ernie_status wrote = ern_file_out_open(&out, in_folder("out"), &allocator, NULL);
        assert_int_equal(wrote, i < 2 ? ERNIE_NO_MEMORY : ERNIE_OK);
        const ernie_status read =
            ern_file_in_open(&in, in_folder("out"), &allocator, &n_bytes, NULL);
        assert_int_equal(read, ERNIE_NO_MEMORY);
        assert_null(in);
        ern_file_out_abandon(out);
        assert_int_equal(counter.live, 0);
        assert_int_equal(counter.n_wrong_sizes, 0);
        assert_int_equal(count_files(), n);
    }
}

/* ---- Reading ------------------------------------------------------------------------------- */

static void reads_exact_counts(void **state)
{
    (void)state;
    static const size_t pieces[] = { 1, 7, 4096, 65535, 65536, 65537, 3000000 };
    unsigned char *data = big_bytes(), *got = malloc(BIG_BYTES);
    uint64_t n_bytes = 0;
    ern_file_in *in;
    ernie_error error;
    size_t at = 0;
    assert_int_equal(
        ern_file_in_open(&in, in_folder("big"), ern_allocator_default(), &n_bytes, NULL), ERNIE_OK);
    assert_int_equal(n_bytes, BIG_BYTES);
    for (size_t i = 0; at < BIG_BYTES; i++) {
        const size_t n = ern_min_size(pieces[i % ERN_COUNT(pieces)], BIG_BYTES - at);
        assert_int_equal(ern_file_in_read(in, got + at, n, NULL), ERNIE_OK);
        at += n;
    }
    assert_memory_equal(got, data, BIG_BYTES);
    assert_int_equal(ern_file_in_read(in, got, 0, NULL), ERNIE_OK);
    assert_int_equal(ern_file_in_read(in, got, 5, &error), ERNIE_FORMAT);
    assert_non_null(strstr(error.message, "ends at byte 9437184, 5 more"));
    ern_file_in_close(in);
    ern_file_in_close(NULL);
    free(got);
    free(data);
}

static void reading_refuses(void **state)
{
    (void)state;
    static const char *const paths[] = { "absent", "", "pipe" };
    for (size_t i = 0; i < ERN_COUNT(paths); i++) {
        ern_file_in *in = (ern_file_in *)8;
        uint64_t n_bytes;
        assert_int_equal(
            ern_file_in_open(&in, in_folder(paths[i]), ern_allocator_default(), &n_bytes, NULL),
            ERNIE_IO);
        assert_null(in);
    }
}

/* ---- Time, chance, processors -------------------------------------------------------------- */

static void clock_moves_forward(void **state)
{
    (void)state;
    const double start = ern_seconds();
    usleep(2000);
    const double took = ern_seconds() - start;
    assert_true(took >= 0.002 && took < 5.0);
}

static void entropy_does_not_repeat(void **state)
{
    (void)state;
    enum { N = 1000 };
    uint64_t seen[N];
    for (size_t i = 0; i < N; i++) {
        seen[i] = ern_entropy();
        for (size_t j = 0; j < i; j++) assert_true(seen[i] != seen[j]);
    }
}

static void processors_follow_affinity(void **state)
{
    (void)state;
    const unsigned cores = ern_cpu_count(), threads = ern_cpu_threads();
    assert_true(cores >= 1 && cores <= threads);
#ifdef __linux__
    cpu_set_t before, one;
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    assert_true(threads <= (unsigned)CPU_COUNT(&before));
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &before)) continue;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        if (sched_setaffinity(0, sizeof one, &one) != 0) continue;
        assert_int_equal(ern_cpu_count(), 1);
        assert_int_equal(ern_cpu_threads(), 1);
    }
    sched_setaffinity(0, sizeof before, &before);
    assert_int_equal(ern_cpu_count(), cores);
#endif
}

/* ---- Threads ------------------------------------------------------------------------------- */

typedef struct sleeper {
    atomic_uint word, n_awake;
    atomic_bool interrupt_blocked, fault_blocked;
} sleeper;

static void sleep_on_word(void *arg)
{
    sleeper *s = arg;
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    s->interrupt_blocked = sigismember(&mask, SIGINT);
    s->fault_blocked = sigismember(&mask, SIGBUS);
    while (atomic_load(&s->word) == 0) ern_wait(&s->word, 0);
    atomic_fetch_add(&s->n_awake, 1);
}

static void waiting_threads_wake(void **state)
{
    (void)state;
    sleeper s;
    ern_thread thread[3];
    memset(&s, 0, sizeof s);
    atomic_init(&s.word, 0);
    atomic_init(&s.n_awake, 0);
    ern_wait(&s.word, 1); /* not equal: returns at once */
    for (size_t i = 0; i < ERN_COUNT(thread); i++)
        assert_true(ern_thread_start(&thread[i], sleep_on_word, &s));
    usleep(20000);
    assert_int_equal(atomic_load(&s.n_awake), 0);
    atomic_store(&s.word, 1);
    ern_wake_all(&s.word);
    for (size_t i = 0; i < ERN_COUNT(thread); i++) ern_thread_join(&thread[i]);
    assert_int_equal(atomic_load(&s.n_awake), 3);
}

/* Ctrl-C is the application's; a fault must still reach a handler. */
static void threads_leave_signals_alone(void **state)
{
    (void)state;
    sleeper s;
    ern_thread thread;
    sigset_t before, after;
    memset(&s, 0, sizeof s);
    atomic_init(&s.word, 1);
    atomic_init(&s.n_awake, 0);
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    assert_true(ern_thread_start(&thread, sleep_on_word, &s));
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    ern_thread_join(&thread);
    assert_true(s.interrupt_blocked);
    assert_false(s.fault_blocked);
    assert_int_equal(sigismember(&before, SIGINT), sigismember(&after, SIGINT));
}

/* What is available is part of what the machine has, and no more than the control groups leave. */
static void memory_is_counted(void **state)
{
    (void)state;
    const uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    const uint64_t available = ern_memory_available();
    assert_true(available > 0 && available < machine);
    assert_true(ern_group_memory() > 0);
}

/* Filled blocks come from whatever allocator is given, aligned, and go back there. */
static void filled_blocks_go_back(void **state)
{
    (void)state;
    const size_t sizes[] = { 1, 4096, ((size_t)65 << 20) + 3 };
    test_allocator counting;
    ernie_allocator own;
    test_allocator_begin(&counting, &own);
    for (size_t i = 0; i < 2 * ERN_COUNT(sizes); i++) {
        const ernie_allocator *a = i % 2 ? &own : ern_allocator_default();
        unsigned char *data = ern_alloc_filled(a, sizes[i / 2]);
        assert_non_null(data);
        assert_int_equal((uintptr_t)data % ERN_CACHE_LINE, 0);
        data[0] = data[sizes[i / 2] - 1] = 1;
        ern_free_aligned(a, data, sizes[i / 2]);
    }
    assert_int_equal(atomic_load(&counting.live), 0);
    assert_int_equal(atomic_load(&counting.n_wrong_sizes), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_is_counted),
        cmocka_unit_test(filled_blocks_go_back),
        cmocka_unit_test(view_holds_the_file),
        cmocka_unit_test(view_of_an_empty_file),
        cmocka_unit_test(view_refuses),
        cmocka_unit_test(long_paths_keep_the_reason),
        cmocka_unit_test(reading_tells_progress_and_stops),
        cmocka_unit_test(view_without_memory),
        cmocka_unit_test(written_in_pieces_of_every_size),
        cmocka_unit_test(old_file_stays_until_commit),
        cmocka_unit_test(writing_refuses),
        cmocka_unit_test(full_disk_leaves_the_old_file),
        cmocka_unit_test(allocation_failures_unwind),
        cmocka_unit_test(reads_exact_counts),
        cmocka_unit_test(reading_refuses),
        cmocka_unit_test(clock_moves_forward),
        cmocka_unit_test(entropy_does_not_repeat),
        cmocka_unit_test(processors_follow_affinity),
        cmocka_unit_test(waiting_threads_wake),
        cmocka_unit_test(threads_leave_signals_alone),
    };
    return cmocka_run_group_tests_name("os", tests, setup, teardown);
}
