/* Runs a fuzz target over files, and over the files of directories: how CTest replays the corpora
 * without a fuzzing compiler. Arguments that begin with '-' are the fuzzer's and are ignored. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* The input is copied to memory of exactly its size, so that a sanitizer sees a read too far. */
static int replay_file(const char *path)
{
    struct stat status;
    FILE *file = fopen(path, "rb");
    if (!file || fstat(fileno(file), &status) != 0) {
        fprintf(stderr, "%s: cannot be read\n", path);
        if (file) fclose(file);
        return 1;
    }
    const size_t n = (size_t)status.st_size;
    uint8_t *data = malloc(n ? n : 1);
    const int failed = !data || fread(data, 1, n, file) != n;
    fclose(file);
    if (failed)
        fprintf(stderr, "%s: %zu bytes cannot be read\n", path, n);
    else
        LLVMFuzzerTestOneInput(data, n);
    free(data);
    return failed;
}

/* Returns failures; *n_files counts what was run. */
static int replay_folder(DIR *folder, const char *path, size_t *n_files)
{
    int n_failed = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        char name[4096];
        if (entry->d_name[0] == '.') continue;
        const int length = snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (length < 0 || (size_t)length >= sizeof name) {
            n_failed++;
            continue;
        }
        n_failed += replay_file(name);
        ++*n_files;
    }
    return n_failed;
}

int main(int argc, char **argv)
{
    int n_failed = 0;
    size_t n_files = 0;
    for (int i = 1; i < argc; i++) {
        if (argv[i][0] == '-') continue;
        DIR *folder = opendir(argv[i]);
        if (folder) {
            n_failed += replay_folder(folder, argv[i], &n_files);
            closedir(folder);
        } else {
            n_failed += replay_file(argv[i]);
            n_files++;
        }
    }
    printf("%zu inputs replayed, %d could not be read\n", n_files, n_failed);
    return n_failed || n_files == 0;
}
