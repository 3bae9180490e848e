/* Can the bytes of a calibration file hurt its reader? Half of the inputs get right checksums
 * first, so that the fuzzer reaches what lies behind them. Of what opens, every entry is looked up
 * and every small matrix read. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <sys/mman.h>
#include <unistd.h>

#include "../unit/imatrix_bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { FUZZ_COLUMNS = 512 };

static void fuzz_imatrix_entry(const conv_imatrix *im, const conv_imatrix_entry *entry)
{
    static float matrix[FUZZ_COLUMNS * FUZZ_COLUMNS];
    ernie_error error = { ERNIE_OK, "" };
    const conv_moments *m =
        conv_imatrix_find(im, entry->kind, entry->layer, entry->expert, entry->second);
    if (!m || m->n_cols != entry->n_cols) abort();
    for (uint32_t j = 0; j < m->n_cols; j++)
        if (!(m->square[j] > 0)) abort();
    if (m->n_cols > FUZZ_COLUMNS || conv_imatrix_read(im, m, matrix, &error) != ERNIE_OK) return;
    for (uint32_t j = 0; j < m->n_cols; j++)
        if (matrix[j * (size_t)m->n_cols + j] != m->square[j] || matrix[j] != matrix[j * m->n_cols])
            abort();
}

static void fuzz_imatrix_open(const char *path, const ern_hparams *hparams)
{
    conv_imatrix *im;
    ernie_error error = { ERNIE_OK, "" };
    const ernie_status status = conv_imatrix_open(&im, path, NULL, &error);
    if ((status == ERNIE_OK) != (error.message[0] == '\0')) abort();
    if (status != ERNIE_OK) return;
    conv_entries at;
    conv_imatrix_entry entry;
    if (conv_imatrix_check(im, hparams, &error) != ERNIE_OK) abort();
    for (conv_entries_begin(&at, hparams); conv_entries_next(&at, &entry);)
        fuzz_imatrix_entry(im, &entry);
    conv_imatrix_close(im);
}

/* The last byte of an input, which no valid file needs, chooses. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    ern_hparams hparams = { 0 };
    if (n == 0) return 0;
    const unsigned choice = data[--n];
    unsigned char *image = malloc(n ? n : 1);
    const int fd = memfd_create("imatrix", MFD_CLOEXEC);
    if (!image || fd < 0) abort();
    memcpy(image, data, n);
    if (choice & 1) imatrix_seal(image, n, choice & 2);
    if (n >= sizeof(conv_imatrix_head))
        memcpy(&hparams, image + offsetof(conv_imatrix_head, hparams), sizeof hparams);
    if (write(fd, image, n) != (ssize_t)n) abort();
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    fuzz_imatrix_open(path, &hparams);
    close(fd);
    free(image);
    return 0;
}
