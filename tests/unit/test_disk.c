/* Reading pieces of files past the page cache. The room is included here, with one call of it sent
 * through read_on_trial: so the test sees which handle is read, and may answer in the system's
 * place. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../src/os_handle.h"

static long long read_on_trial(ern_handle handle, void *data, size_t n, uint64_t offset);
#define ern_handle_read read_on_trial
#include "../../src/os_disk.c"
#undef ern_handle_read

#include "test_allocator.h"

#ifndef _WIN32
#include <dirent.h>
#include <unistd.h>
#endif

#define PAGE      ((size_t)ERN_DISK_ALIGN)
#define N_PAGES   ((size_t)2321) /* more than two pieces, no whole steps of 64 KiB */
#define TAIL      ((size_t)1000) /* bytes after the last whole page */
#define BIG_BYTES (N_PAGES * PAGE + TAIL)
#define BIG_NAME  "big \xe5\xa4\xa7" /* names are UTF-8 everywhere */

/* ---- The system on trial --------------------------------------------------------------------- */

typedef enum trial_mode { TRIAL_PASS, TRIAL_REFUSE, TRIAL_FAIL, TRIAL_SHORT } trial_mode;

static struct {
    ern_disk *disk;
    trial_mode mode; /* what befalls reads ... */
    bool buffered;   /* through the page cache, or direct ones ... */
    int from;        /* but not so many at first */
    size_t short_by; /* TRIAL_SHORT: bytes that are held back */
    atomic_int n_direct, n_buffered;
    atomic_bool misused; /* a direct read at an odd place, or one too large; never reset */
} trial;

static void set_reason(bool refusal)
{
#ifdef _WIN32
    SetLastError(refusal ? ERROR_INVALID_PARAMETER : ERROR_IO_DEVICE);
#else
    errno = refusal ? EINVAL : EIO;
#endif
}

static bool trial_reads_direct(ern_handle handle)
{
    for (unsigned i = 0; i < trial.disk->n_pairs; i++)
        if (trial.disk->pairs[i].direct == handle) return true;
    return false;
}

static long long read_on_trial(ern_handle handle, void *data, size_t n, uint64_t offset)
{
    const bool direct = trial_reads_direct(handle);
    const int turn = atomic_fetch_add(direct ? &trial.n_direct : &trial.n_buffered, 1);
    const bool hit = trial.mode != TRIAL_PASS && direct != trial.buffered && turn >= trial.from;
    const bool odd = direct && (n % PAGE || offset % PAGE || (uintptr_t)data % PAGE);
    if (n == 0 || n > ERN_HANDLE_PIECE || odd) atomic_store(&trial.misused, true);
    if (hit && trial.mode != TRIAL_SHORT) {
        set_reason(trial.mode == TRIAL_REFUSE);
        return -1;
    }
    const long long got = ern_handle_read(handle, data, n, offset);
    if (!hit || got <= (long long)trial.short_by) return got;
    /* What was not given must not be believed. */
    memset((unsigned char *)data + got - trial.short_by, 0x55, trial.short_by);
    return got - (long long)trial.short_by;
}

static void trial_begin(ern_disk *disk, trial_mode mode, bool buffered, int from)
{
    trial.disk = disk;
    trial.mode = mode;
    trial.buffered = buffered;
    trial.from = from;
    atomic_store(&trial.n_direct, 0);
    atomic_store(&trial.n_buffered, 0);
}

/* ---- Files and memory ------------------------------------------------------------------------ */

static char folder[256]; /* of this run, removed at its end */
static char big[320];    /* the path of a file of BIG_BYTES */

static void path_in_folder(char path[320], const char *name)
{
    snprintf(path, 320, "%s%s%s", folder, *name ? "/" : "", name);
}

static unsigned char byte_at(uint64_t i)
{
    return (unsigned char)(i * 7 + (i >> 12) * 31 + (i >> 20));
}

static void put_big(const char *path)
{
    unsigned char page[4096];
    ern_file_out *out;
    assert_int_equal(ern_file_out_open(&out, path, ern_allocator_default(), NULL), ERNIE_OK);
    for (uint64_t at = 0; at < BIG_BYTES; at += sizeof page) {
        const size_t n = ern_min_size(sizeof page, (size_t)(BIG_BYTES - at));
        for (size_t i = 0; i < n; i++) page[i] = byte_at(at + i);
        assert_int_equal(ern_file_out_write(out, page, n, NULL), ERNIE_OK);
    }
    assert_int_equal(ern_file_out_commit(out, NULL), ERNIE_OK);
}

#ifdef _WIN32

static void remove_file(const char *path)
{
    wchar_t wide[512];
    MultiByteToWideChar(CP_UTF8, 0, path, -1, wide, 512);
    DeleteFileW(wide);
}

static int setup(void **state)
{
    (void)state;
    snprintf(folder, sizeof folder, "ernie-test-disk-%016llx", (unsigned long long)ern_entropy());
    path_in_folder(big, BIG_NAME);
    if (!CreateDirectoryA(folder, NULL)) return -1;
    put_big(big);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    remove_file(big);
    return RemoveDirectoryA(folder) ? 0 : -1;
}

#else

static int setup(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/ernie-test-disk-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(folder)) return -1;
    path_in_folder(big, BIG_NAME);
    put_big(big);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char path[320];
    DIR *dir = opendir(folder);
    for (struct dirent *e; (e = readdir(dir));) {
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%.48s", folder, e->d_name);
        unlink(path);
    }
    closedir(dir);
    return rmdir(folder);
}

#endif

/* Memory as the disk wants it, of *block, which is the caller's to free. */
static unsigned char *pages(size_t n_pages, void **block)
{
    *block = malloc((n_pages + 1) * PAGE);
    assert_non_null(*block);
    return (unsigned char *)(((uintptr_t)*block + PAGE - 1) / PAGE * PAGE);
}

static ern_disk *open_disk(const char *path, unsigned n_readers, bool buffered)
{
    ern_disk *disk = NULL;
    uint64_t n_bytes = 0;
    ernie_error error = { ERNIE_OK, "" };
    if (ern_disk_open(&disk, path, n_readers, buffered, ern_allocator_default(), &n_bytes, &error)
        != ERNIE_OK)
        fail_msg("%s", error.message);
    assert_int_equal(n_bytes, BIG_BYTES);
    trial_begin(disk, TRIAL_PASS, false, 0);
    return disk;
}

static void close_disk(ern_disk *disk)
{
    assert_false(atomic_load(&trial.misused));
    ern_disk_close(disk);
}

static bool holds(const unsigned char *data, uint64_t offset, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (data[i] != byte_at(offset + i)) return false;
    return true;
}

/* Read and compare. */
static bool reads_right(ern_disk *disk, unsigned reader, size_t first, size_t n_pages,
                        unsigned char *data)
{
    memset(data, 0xaa, n_pages * PAGE);
    return ern_disk_read(disk, reader, first * PAGE, data, n_pages * PAGE, NULL) == ERNIE_OK
           && holds(data, first * PAGE, n_pages * PAGE);
}

static void expect_failure(ernie_status status, const ernie_error *error, const char *fragment)
{
    assert_int_equal(status, ERNIE_IO);
    if (!strstr(error->message, fragment)) fail_msg("\"%s\" in: %s", fragment, error->message);
}

/* ---- Content --------------------------------------------------------------------------------- */

static void reads_every_size_everywhere(void **state)
{
    (void)state;
    static const size_t sizes[] = { 1, 2, 15, 16, 17, 1023, 1024, 1025, 2048, N_PAGES };
    void *block;
    unsigned char *data = pages(N_PAGES, &block);
    for (int buffered = 0; buffered < 2; buffered++) {
        ern_disk *disk = open_disk(big, 1, buffered);
        if (buffered) assert_false(ern_disk_is_direct(disk));
        for (size_t i = 0; i < ERN_COUNT(sizes); i++) {
            const size_t last = N_PAGES - sizes[i];
            const size_t places[] = { 0, ern_min_size(1, last), last / 2, last };
            for (size_t j = 0; j < ERN_COUNT(places); j++) {
                assert_true(reads_right(disk, 0, places[j], sizes[i], data));
                memset(data, 0xaa, sizes[i] * PAGE);
                assert_int_equal(ern_disk_reread(disk, 0, places[j] * PAGE, data, sizes[i] * PAGE,
                                                 NULL),
                                 ERNIE_OK);
                assert_true(holds(data, places[j] * PAGE, sizes[i] * PAGE));
            }
        }
        assert_int_equal(ern_disk_read(disk, 0, 0, data, 0, NULL), ERNIE_OK);
        close_disk(disk);
    }
    ern_disk_close(NULL);
    free(block);
}

/* Direct reads use no handle of the page cache, second tries no other. */
static void each_way_has_its_handle(void **state)
{
    (void)state;
    void *block;
    unsigned char *data = pages(N_PAGES, &block);
    ern_disk *disk = open_disk(big, 3, false);
    const bool direct = ern_disk_is_direct(disk);
    assert_true(reads_right(disk, 2, 0, N_PAGES, data));
    if (direct && ern_disk_is_direct(disk)) {
        assert_int_equal(atomic_load(&trial.n_buffered), 0);
        assert_true(atomic_load(&trial.n_direct) >= 3);
    }
    trial_begin(disk, TRIAL_PASS, false, 0);
    assert_int_equal(ern_disk_reread(disk, 1, 0, data, PAGE, NULL), ERNIE_OK);
    assert_int_equal(atomic_load(&trial.n_direct), 0);
    assert_int_equal(atomic_load(&trial.n_buffered), 1);
    close_disk(disk);
    free(block);
}

typedef struct reading {
    ern_disk *disk;
    unsigned reader;
    bool right;
} reading;

static void read_here_and_there(void *arg)
{
    reading *r = arg;
    void *block;
    unsigned char *data = pages(40, &block);
    uint64_t x = 0x9e3779b97f4a7c15u * (r->reader + 1);
    r->right = true;
    for (int i = 0; i < 60; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        const size_t n = 1 + (size_t)(x >> 33) % 40, first = (size_t)(x >> 40) % (N_PAGES - 40);
        r->right = r->right && reads_right(r->disk, r->reader, first, n, data);
    }
    free(block);
}

static void read_by_many(ern_disk *disk, unsigned n_readers)
{
    reading readings[8];
    ern_thread threads[8];
    for (unsigned i = 0; i < n_readers; i++) {
        readings[i] = (reading){ disk, i, false };
        assert_true(ern_thread_start(&threads[i], read_here_and_there, &readings[i]));
    }
    for (unsigned i = 0; i < n_readers; i++) ern_thread_join(&threads[i]);
    for (unsigned i = 0; i < n_readers; i++) assert_true(readings[i].right);
}

static void many_read_at_once(void **state)
{
    (void)state;
    for (int buffered = 0; buffered < 2; buffered++) {
        ern_disk *disk = open_disk(big, 8, buffered);
        read_by_many(disk, 8);
        close_disk(disk);
    }
}

/* ---- Direct reading refused, cut short, failed ----------------------------------------------- */

static void refusal_turns_to_the_page_cache(void **state)
{
    (void)state;
    void *block;
    unsigned char *data = pages(N_PAGES, &block);
    for (int from = 0; from < 3; from++) {
        ern_disk *disk = open_disk(big, 2, false);
        const bool direct = ern_disk_is_direct(disk);
        trial_begin(disk, TRIAL_REFUSE, false, from);
        assert_true(reads_right(disk, 0, 0, N_PAGES, data));
        assert_false(ern_disk_is_direct(disk));
        if (direct) assert_int_equal(atomic_load(&trial.n_direct), from + 1);
        trial_begin(disk, TRIAL_PASS, false, 0);
        assert_true(reads_right(disk, 1, 7, 20, data)); /* for good */
        assert_int_equal(atomic_load(&trial.n_direct), 0);
        close_disk(disk);
    }
    free(block);
}

static void refusal_while_many_read(void **state)
{
    (void)state;
    ern_disk *disk = open_disk(big, 8, false);
    trial_begin(disk, TRIAL_REFUSE, false, 100);
    read_by_many(disk, 8);
    assert_false(ern_disk_is_direct(disk));
    close_disk(disk);
}

static void short_reads_are_continued(void **state)
{
    (void)state;
    static const size_t short_by[] = { PAGE, 3 * PAGE, 1, 511, 512, PAGE + 1, 700000 };
    void *block;
    unsigned char *data = pages(600, &block);
    for (size_t i = 0; i < ERN_COUNT(short_by); i++)
        for (int buffered = 0; buffered < 2; buffered++) {
            ern_disk *disk = open_disk(big, 1, buffered);
            const bool direct = ern_disk_is_direct(disk);
            trial_begin(disk, TRIAL_SHORT, buffered, 0);
            trial.short_by = short_by[i];
            assert_true(reads_right(disk, 0, 5, 600, data));
            assert_int_equal(ern_disk_is_direct(disk), direct); /* nothing was refused */
            close_disk(disk);
        }
    free(block);
}

static void failures_name_file_and_reason(void **state)
{
    (void)state;
    void *block;
    unsigned char *data = pages(2000, &block);
    for (int buffered = 0; buffered < 2; buffered++)
        for (int from = 0; from < 2; from++) {
            ernie_error error = { ERNIE_OK, "" };
            ern_disk *disk = open_disk(big, 1, buffered);
            const bool direct = ern_disk_is_direct(disk);
            trial_begin(disk, TRIAL_FAIL, !direct, from);
            expect_failure(ern_disk_read(disk, 0, 0, data, 2000 * PAGE, &error), &error,
                           BIG_NAME ": cannot be read: ");
            assert_int_equal(ern_disk_is_direct(disk), direct); /* that was no refusal */
            trial_begin(disk, direct ? TRIAL_FAIL : TRIAL_PASS, false, 0);
            assert_int_equal(ern_disk_reread(disk, 0, PAGE, data, PAGE, NULL), ERNIE_OK);
            assert_true(holds(data, PAGE, PAGE));
            close_disk(disk);
        }
    /* What the page cache cannot do is a failure under every name. */
    ern_disk *disk = open_disk(big, 1, true);
    ernie_error error = { ERNIE_OK, "" };
    trial_begin(disk, TRIAL_REFUSE, true, 0);
    expect_failure(ern_disk_read(disk, 0, 0, data, PAGE, &error), &error, "cannot be read: ");
    close_disk(disk);
    free(block);
}

/* ---- The end of the file --------------------------------------------------------------------- */

static void reading_past_the_end(void **state)
{
    (void)state;
    void *block;
    unsigned char *data = pages(N_PAGES, &block);
    for (int buffered = 0; buffered < 2; buffered++) {
        static const size_t places[][2] = { { N_PAGES, 1 },     { N_PAGES - 1, 2 },
                                            { N_PAGES - 5, 9 }, { N_PAGES + 1, 1 },
                                            { N_PAGES + 9, 3 }, { (size_t)1 << 19, 2 } };
        ern_disk *disk = open_disk(big, 1, buffered);
        const bool direct = ern_disk_is_direct(disk);
        for (size_t i = 0; i < ERN_COUNT(places); i++) {
            const uint64_t offset = places[i][0] * PAGE, n = places[i][1] * PAGE;
            ernie_error error = { ERNIE_OK, "" };
            char fragment[96];
            snprintf(fragment, sizeof fragment, "\" ended at byte %llu of %llu while",
                     (unsigned long long)BIG_BYTES, (unsigned long long)(offset + n));
            expect_failure(ern_disk_read(disk, 0, offset, data, (size_t)n, &error), &error,
                           fragment);
            expect_failure(ern_disk_reread(disk, 0, offset, data, (size_t)n, &error), &error,
                           fragment);
        }
        assert_int_equal(ern_disk_is_direct(disk), direct);
        assert_true(reads_right(disk, 0, N_PAGES - 3, 3, data));
        close_disk(disk);
    }
    free(block);
}

static void empty_files_end_at_once(void **state)
{
    (void)state;
    char path[320];
    ern_file_out *out;
    ern_disk *disk;
    uint64_t n_bytes = 7;
    void *block;
    unsigned char *data = pages(1, &block);
    ernie_error error = { ERNIE_OK, "" };
    path_in_folder(path, "empty");
    assert_int_equal(ern_file_out_open(&out, path, ern_allocator_default(), NULL), ERNIE_OK);
    assert_int_equal(ern_file_out_commit(out, NULL), ERNIE_OK);
    assert_int_equal(ern_disk_open(&disk, path, 1, false, ern_allocator_default(), &n_bytes, NULL),
                     ERNIE_OK);
    assert_int_equal(n_bytes, 0);
    trial_begin(disk, TRIAL_PASS, false, 0);
    expect_failure(ern_disk_read(disk, 0, 0, data, PAGE, &error), &error, "byte 0 of 4096 while");
    close_disk(disk);
#ifdef _WIN32
    remove_file(path);
#endif
    free(block);
}

/* ---- Opening --------------------------------------------------------------------------------- */

static void expect_refusal(const char *path, const char *fragment)
{
    ern_disk *disk = (ern_disk *)(uintptr_t)8;
    uint64_t n_bytes;
    ernie_error error = { ERNIE_OK, "" };
    expect_failure(ern_disk_open(&disk, path, 2, false, ern_allocator_default(), &n_bytes, &error),
                   &error, fragment);
    assert_null(disk);
}

static void opening_refuses(void **state)
{
    (void)state;
    char path[320];
    path_in_folder(path, "absent");
    expect_refusal(path, "absent: cannot be opened: ");
    expect_refusal(folder, ": is a directory, expected a file");
#ifndef _WIN32
    path_in_folder(path, "pipe");
    assert_int_equal(mkfifo(path, 0600), 0);
    expect_refusal(path, "pipe: is a device or a pipe, expected a file");
    expect_refusal("/dev/zero", "/dev/zero: is a device or a pipe");
#endif
}

/* Files that this process has open, where the system tells. */
static int count_open(void)
{
#ifdef __linux__
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir)) n++;
    if (dir) closedir(dir);
    return n;
#elif defined(_WIN32)
    DWORD n = 0;
    return GetProcessHandleCount(GetCurrentProcess(), &n) ? (int)n : 0;
#else
    return 0;
#endif
}

static void opening_takes_and_gives_back(void **state)
{
    (void)state;
    test_allocator counter;
    ernie_allocator allocator;
    for (long budget = 0; budget < 2; budget++) {
        ern_disk *disk = NULL;
        uint64_t n_bytes;
        test_allocator_begin(&counter, &allocator);
        test_allocator_fail_at(&counter, budget, true);
        const int n_open = count_open();
        const ernie_status status =
            ern_disk_open(&disk, big, 64, false, &allocator, &n_bytes, NULL);
        assert_int_equal(status, budget ? ERNIE_OK : ERNIE_NO_MEMORY);
        if (!budget) assert_null(disk);
        ern_disk_close(disk);
        assert_int_equal(atomic_load(&counter.live), 0);
        assert_int_equal(atomic_load(&counter.n_wrong_sizes), 0);
        assert_int_equal(count_open(), n_open);
    }
}

/* ---- What only POSIX lets happen ------------------------------------------------------------- */

#ifndef _WIN32

static void file_cut_while_open(void **state)
{
    (void)state;
    char path[320];
    void *block;
    unsigned char *data = pages(20, &block);
    path_in_folder(path, "cut");
    for (int buffered = 0; buffered < 2; buffered++) {
        static const struct {
            size_t left, first, n_pages;
        } cases[] = { { 100 * PAGE, 90, 20 }, { 50 * PAGE + 77, 50, 2 }, { 9000, 40, 1 } };
        put_big(path);
        ern_disk *disk = open_disk(path, 1, buffered);
        for (size_t i = 0; i < ERN_COUNT(cases); i++) {
            ernie_error error = { ERNIE_OK, "" };
            char fragment[96];
            assert_int_equal(truncate(path, (off_t)cases[i].left), 0);
            snprintf(fragment, sizeof fragment, "cut\" ended at byte %zu of %zu while",
                     cases[i].left, BIG_BYTES);
            expect_failure(ern_disk_read(disk, 0, cases[i].first * PAGE, data,
                                         cases[i].n_pages * PAGE, &error),
                           &error, fragment);
            assert_true(reads_right(disk, 0, 0, 2, data)); /* what is left can be read */
        }
        close_disk(disk);
    }
    free(block);
}

/* A file that came under the name meanwhile is not the one that is open. */
static void renamed_while_it_is_opened(void **state)
{
    (void)state;
    char path[320];
    ern_handle handle, again;
    uint64_t n_bytes = 0;
    path_in_folder(path, "another");
    put_big(path);
    assert_int_equal(ern_handle_open(&handle, big, &n_bytes, NULL), ERNIE_OK);
    assert_true(disk_reopen(handle, path, true) == ERN_HANDLE_NONE);
    assert_true(disk_reopen(handle, path, false) == ERN_HANDLE_NONE);
    again = disk_reopen(handle, big, false);
    assert_true(again != ERN_HANDLE_NONE);
    ern_handle_close(again);
    ern_handle_close(handle);
}

/* Memory as a file system: it refuses direct reading, or takes the wish for nothing. */
static void files_in_memory(void **state)
{
    (void)state;
    char path[128];
    snprintf(path, sizeof path, "/dev/shm/ernie-test-disk-%d", (int)getpid());
    if (access("/dev/shm", W_OK) != 0) skip();
    put_big(path);
    void *block;
    unsigned char *data = pages(N_PAGES, &block);
    ern_disk *disk = open_disk(path, 4, false);
    unlink(path);
    assert_true(reads_right(disk, 0, 0, N_PAGES, data));
    read_by_many(disk, 4);
    close_disk(disk);
    free(block);
}

#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_every_size_everywhere),
        cmocka_unit_test(each_way_has_its_handle),
        cmocka_unit_test(many_read_at_once),
        cmocka_unit_test(refusal_turns_to_the_page_cache),
        cmocka_unit_test(refusal_while_many_read),
        cmocka_unit_test(short_reads_are_continued),
        cmocka_unit_test(failures_name_file_and_reason),
        cmocka_unit_test(reading_past_the_end),
        cmocka_unit_test(empty_files_end_at_once),
        cmocka_unit_test(opening_refuses),
        cmocka_unit_test(opening_takes_and_gives_back),
#ifndef _WIN32
        cmocka_unit_test(file_cut_while_open),
        cmocka_unit_test(renamed_while_it_is_opened),
        cmocka_unit_test(files_in_memory),
#endif
    };
    return cmocka_run_group_tests_name("disk", tests, setup, teardown);
}
