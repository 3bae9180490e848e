/* What the converter's tests share: a folder with a checkpoint and a place for the file,
 * conversions that must succeed or fail, and a weight read back by the letter of format.h. */
#ifndef CONVERT_RUN_H
#define CONVERT_RUN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../tools/convert/convert.h"
#include "checkpoint.h"

static char top[256]; /* of this run: in/ holds the checkpoint, out/ what is written */
static char in_dir[300], out_dir[300], out_file[320];
static checkpoint model;

static inline int run_setup(void **state)
{
    (void)state;
    if (checkpoint_make_dir(top, "convert") != 0) return -1;
    snprintf(in_dir, sizeof in_dir, "%s/in", top);
    snprintf(out_dir, sizeof out_dir, "%s/out", top);
    snprintf(out_file, sizeof out_file, "%s/x.ernie", out_dir);
    return mkdir(out_dir, 0777);
}

static inline int run_teardown(void **state)
{
    (void)state;
    checkpoint_clear(top);
    return rmdir(top);
}

static inline unsigned count_files(const char *dir)
{
    unsigned n = 0;
    DIR *handle = opendir(dir);
    assert_non_null(handle);
    while (readdir(handle)) n++;
    closedir(handle);
    return n - 2;
}

/* Write `model` (built) as the checkpoint. */
static inline void write_model(void)
{
    checkpoint_clear(in_dir);
    checkpoint_write(&model, in_dir);
    checkpoint_free(&model);
}

static inline void convert_good(const ern_convert_options *options)
{
    ernie_error error = { ERNIE_OK, "" };
    if (ern_convert(in_dir, out_file, options, &error) != ERNIE_OK) fail_msg("%s", error.message);
    assert_int_equal(count_files(out_dir), 1);
}

typedef struct file_bytes {
    unsigned char *data;
    size_t n;
} file_bytes;

static inline file_bytes read_file(const char *path)
{
    file_bytes bytes = { NULL, 0 };
    struct stat info;
    assert_int_equal(stat(path, &info), 0);
    bytes.n = (size_t)info.st_size;
    bytes.data = aligned_alloc(64, ern_round_up(bytes.n + 1, 64));
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(bytes.data, 1, bytes.n, file), bytes.n);
    fclose(file);
    return bytes;
}

static inline ern_format read_format(const file_bytes *bytes)
{
    ern_format format;
    ernie_error error = { ERNIE_OK, "" };
    if (ern_format_read(&format, bytes->data, bytes->n, &error) != ERNIE_OK)
        fail_msg("%s", error.message);
    for (uint32_t i = 0; i < format.header->n_records; i++)
        if (ern_format_verify_record(&format, i, NULL, &error) != ERNIE_OK)
            fail_msg("%s", error.message);
    if (ern_format_verify_gaps(&format, format.n_bytes, NULL, &error) != ERNIE_OK)
        fail_msg("%s", error.message);
    return format;
}

static inline void good_model(void)
{
    checkpoint_begin(&model, true);
    checkpoint_build(&model);
    write_model();
}

static inline void refuse(const char *source, const char *out, const ern_convert_options *options,
                          ernie_status wanted, const char *says)
{
    ernie_error error = { ERNIE_OK, "" };
    const unsigned n_before = count_files(out_dir);
    const ernie_status status = ern_convert(source, out, options, &error);
    if (!strstr(error.message, says)) fail_msg("\"%s\" does not say \"%s\"", error.message, says);
    assert_int_equal(status, wanted);
    assert_int_equal(error.code, wanted);
    assert_int_equal(count_files(out_dir), n_before);
}

/* One weight of a matrix as it lies in the file, by the letter of format.h. */
static inline float weight_at(const ern_matrix *m, uint32_t row, uint32_t col)
{
    float value;
    uint16_t half;
    if (m->type <= ERN_BF16) {
        const unsigned char *at = m->data + row * ern_row_bytes(m->type, m->n_cols);
        memcpy(&value, at + 4 * (m->type == ERN_F32 ? col : 0), 4);
        memcpy(&half, at + 2 * col, 2);
        return m->type == ERN_F32   ? value
               : m->type == ERN_F16 ? ern_f16_to_f32(half)
                                    : ern_bf16_to_f32(half);
    }
    const unsigned char *group = m->data + row / 16 * ern_group_bytes(m->type, m->n_cols);
    const uint32_t r = row % 16, b = col / 32, k = col % 32;
    const unsigned char *scales = group + 64;
    const unsigned char *codes = scales + ern_group_scale_bytes(m->type, ern_n_blocks(m->n_cols));
    memcpy(&value, group + 4 * r, 4);
    if (m->type >= ERN_C4)
        return value * (float)ern_block_scale(m->type, scales, b, r)
               * (float)ern_block_level(m->type, codes + b * ern_block_bytes(m->type), r, k);
    value *= (float)scales[b * 16 + r];
    if (m->type == ERN_W8)
        return value * (float)(int8_t)codes[((b * 8 + k / 4) * 16 + r) * 4 + k % 4];
    const unsigned char pair = codes[((b * 4 + k / 8) * 16 + r) * 4 + k % 4];
    return value * (float)ern_w4_level[k % 8 < 4 ? pair & 15 : pair >> 4];
}

#endif
