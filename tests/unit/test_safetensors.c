/* Headers that lie, shards that are not there. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../tools/convert/safetensors.h"
#include "checkpoint.h"
#include "test_allocator.h"

static char st_dir[256];

static int setup(void **state)
{
    (void)state;
    return checkpoint_make_dir(st_dir, "safetensors");
}

static int teardown(void **state)
{
    (void)state;
    checkpoint_clear(st_dir);
    return rmdir(st_dir);
}

/* ---- Headers --------------------------------------------------------------------------------- */

static ernie_status read_header(const char *text, size_t n, uint64_t data_bytes, ernie_error *error)
{
    conv_shard shard = { .name = NULL };
    char name[] = "x.safetensors";
    shard.name = name;
    conv_tensors tensors = { .allocator = ern_allocator_default(), .shards = &shard };
    ernie_status status = conv_tensors_add_header(&tensors, 0, name, (const unsigned char *)text, n,
                                                  100, data_bytes, error);
    if (status == ERNIE_OK) status = conv_tensors_sort(&tensors, error);
    tensors.shards = NULL;
    conv_tensors_close(&tensors);
    return status;
}

#define TENSOR(name, dtype, shape, offsets) \
    "\"" name "\": {\"dtype\": \"" dtype "\", \"shape\": " shape ", \"data_offsets\": " offsets "}"

static void headers_that_lie_are_refused(void **state)
{
    (void)state;
    const struct {
        const char *text;
        uint64_t data_bytes;
        const char *says; /* NULL: fine */
    } cases[] = {
        { "{" TENSOR("a", "BF16", "[2, 3]", "[0, 12]") "}", 12, NULL },
        { "{" TENSOR("a", "BF16", "[2, 3]", "[0, 12]") "}      ", 12, NULL },
        { "{" TENSOR("a", "F32", "[]", "[0, 4]") "}", 4, NULL },
        { "{" TENSOR("a", "F32", "[0]", "[0, 0]") "}", 0, NULL },
        { "{\"__metadata__\": {\"format\": \"pt\"}, " TENSOR("a", "I64", "[1]", "[0, 8]") "}", 8,
          NULL },
        { "{" TENSOR("b", "F16", "[1]", "[2, 4]") ", " TENSOR("a", "F16", "[1]", "[0, 2]") "}", 4,
          NULL },
        { "{", 0, "not JSON" },
        { "", 0, "not JSON" },
        { "[]", 0, "not a JSON object" },
        { "{\"a\": 1}", 0, "unknown dtype" },
        { "{" TENSOR("a", "Q4", "[2]", "[0, 1]") "}", 1, "unknown dtype \"Q4\"" },
        { "{" TENSOR("a", "BF16", "[2, 3]", "[0, 13]") "}", 13,
          "[2, 3] of BF16 does not fill its 13 bytes" },
        { "{" TENSOR("a", "BF16", "[2, -3]", "[0, 12]") "}", 12, "shape" },
        { "{" TENSOR("a", "BF16", "[2.5]", "[0, 5]") "}", 5, "shape" },
        { "{" TENSOR("a", "BF16", "6", "[0, 12]") "}", 12, "shape" },
        { "{" TENSOR("a", "BF16", "[1,1,1,1,1,1,1,1,1]", "[0, 2]") "}", 2, "shape" },
        { "{" TENSOR("a", "F32", "[4294967296, 4294967296]", "[0, 0]") "}", 0, "does not fill" },
        { "{" TENSOR("a", "F32", "[9223372036854775807]", "[0, 4]") "}", 4, "does not fill" },
        { "{" TENSOR("a", "F32", "[99999999999999999999]", "[0, 4]") "}", 4, "not JSON" },
        { "{" TENSOR("a", "F32", "[1]", "[4, 0]") "}", 4, "data_offsets" },
        { "{" TENSOR("a", "F32", "[1]", "[0]") "}", 4, "data_offsets" },
        { "{" TENSOR("a", "F32", "[1]", "[-4, 0]") "}", 4, "data_offsets" },
        { "{" TENSOR("a", "F32", "[1]", "\"0\"") "}", 4, "data_offsets" },
        { "{" TENSOR("a", "F32", "[2]", "[0, 8]") "}", 7, "truncated" },
        { "{" TENSOR("a", "F32", "[2]", "[9223372036854775799, 9223372036854775807]") "}", 8,
          "truncated" },
        { "{" TENSOR("a", "F32", "[2]", "[0, 8]") "}", 9,
          "holds 9 bytes of data, its header describes 8" },
        { "{" TENSOR("a", "F32", "[2]", "[0, 8]") ", " TENSOR("b", "F32", "[2]", "[4, 12]") "}", 12,
          "tensor \"b\" at data byte 4 overlaps \"a\"" },
        { "{" TENSOR("a", "F32", "[2]", "[0, 8]") ", " TENSOR("b", "F32", "[2]", "[0, 8]") "}", 8,
          "overlaps" },
        { "{" TENSOR("a", "F32", "[1]", "[0, 4]") ", " TENSOR("b", "F32", "[1]", "[8, 12]") "}", 12,
          "no tensor covers data bytes 4 to 8" },
        { "{" TENSOR("a", "F32", "[1]", "[0, 4]") ", " TENSOR("a", "F32", "[1]", "[4, 8]") "}", 8,
          "duplicate" },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        ernie_error error = { ERNIE_OK, "" };
        const ernie_status status =
            read_header(cases[i].text, strlen(cases[i].text), cases[i].data_bytes, &error);
        if (!cases[i].says) {
            assert_int_equal(status, ERNIE_OK);
            continue;
        }
        assert_int_equal(status, ERNIE_FORMAT);
        if (!strstr(error.message, cases[i].says) || !strstr(error.message, "x.safetensors"))
            fail_msg("case %zu says \"%s\", not \"%s\"", i, error.message, cases[i].says);
    }
}

static void long_names_are_refused(void **state)
{
    (void)state;
    char text[4096];
    ernie_error error = { ERNIE_OK, "" };
    const int n = snprintf(text, sizeof text,
                           "{\"%02000d\": {\"dtype\": \"F32\", \"shape\": [], "
                           "\"data_offsets\": [0, 4]}}",
                           1);
    assert_int_equal(read_header(text, (size_t)n, 4, &error), ERNIE_FORMAT);
    assert_non_null(strstr(error.message, "longer than"));
}

/* Every beginning of a good header is refused without harm. */
static void cut_headers_are_refused(void **state)
{
    (void)state;
    static const char text[] = "{" TENSOR("a", "BF16", "[2, 3]", "[0, 12]") "}";
    for (size_t n = 0; n < sizeof text - 1; n++) {
        ernie_error error = { ERNIE_OK, "" };
        char *copy = malloc(n ? n : 1); /* its end is the heap's end for the sanitizer */
        memcpy(copy, text, n);
        assert_int_equal(read_header(copy, n, 12, &error), ERNIE_FORMAT);
        free(copy);
    }
}

/* ---- Directories ----------------------------------------------------------------------------- */

static checkpoint st_checkpoint;

static checkpoint *fresh_checkpoint(unsigned n_shards)
{
    checkpoint_clear(st_dir);
    checkpoint_begin(&st_checkpoint, true);
    st_checkpoint.n_shards = n_shards;
    checkpoint_build(&st_checkpoint);
    return &st_checkpoint;
}

static ernie_status open_dir(size_t *n_tensors, ernie_error *error)
{
    conv_tensors tensors;
    const ernie_status status = conv_tensors_open(&tensors, st_dir, ern_allocator_default(), error);
    *n_tensors = tensors.n;
    conv_tensors_close(&tensors);
    checkpoint_free(&st_checkpoint);
    return status;
}

static void assert_opens(unsigned wanted)
{
    size_t n;
    ernie_error error = { ERNIE_OK, "" };
    const ernie_status status = open_dir(&n, &error);
    if (status != ERNIE_OK) fail_msg("%s", error.message);
    assert_int_equal(n, wanted);
}

static void assert_refused(ernie_status wanted, const char *says)
{
    size_t n;
    ernie_error error = { ERNIE_OK, "" };
    const ernie_status status = open_dir(&n, &error);
    if (!strstr(error.message, says)) fail_msg("\"%s\" does not say \"%s\"", error.message, says);
    assert_int_equal(status, wanted);
}

static void shards_are_found(void **state)
{
    (void)state;
    const struct {
        unsigned n_shards;
        bool no_index;
    } cases[] = { { 1, false }, { 3, false }, { 3, true } };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        checkpoint *c = fresh_checkpoint(cases[i].n_shards);
        c->no_index = cases[i].no_index;
        checkpoint_write(c, st_dir);
        assert_opens(c->n);
    }
    checkpoint *c = fresh_checkpoint(1); /* any name will do */
    checkpoint_write(c, st_dir);
    rename(checkpoint_path(st_dir, "model.safetensors"),
           checkpoint_path(st_dir, "weights.safetensors"));
    assert_opens(c->n);
}

static void missing_shards_are_named(void **state)
{
    (void)state;
    for (unsigned missing = 1; missing <= 3; missing++) {
        for (int no_index = 0; no_index < 2; no_index++) {
            char name[64], says[64];
            checkpoint *c = fresh_checkpoint(3);
            c->no_index = no_index;
            checkpoint_write(c, st_dir);
            snprintf(name, sizeof name, "model-%05u-of-00003.safetensors", missing);
            assert_int_equal(unlink(checkpoint_path(st_dir, name)), 0);
            if (!no_index)
                snprintf(says, sizeof says, "%s", name);
            else if (missing < 3)
                snprintf(says, sizeof says, "shard %u of 3 is missing", missing);
            else
                snprintf(says, sizeof says, "shards 3 to 3 are missing");
            assert_refused(ERNIE_IO, says);
        }
    }
    checkpoint_clear(st_dir);
    assert_refused(ERNIE_IO, "holds no *.safetensors file");
}

/* A shard cut anywhere: in its length, its header, its data. */
static void truncated_shards_are_named(void **state)
{
    (void)state;
    checkpoint *c = fresh_checkpoint(1);
    checkpoint_write(c, st_dir);
    struct stat info;
    const char *path = checkpoint_path(st_dir, "model.safetensors");
    assert_int_equal(stat(path, &info), 0);
    const off_t cuts[] = { 0, 7, 8, 100, 5000, info.st_size / 2, info.st_size - 1 };
    for (size_t i = ERN_COUNT(cuts); i-- > 0;) {
        assert_int_equal(truncate(path, cuts[i]), 0);
        assert_refused(ERNIE_FORMAT, "model.safetensors: is truncated");
    }
}

static void header_lengths_that_lie_are_refused(void **state)
{
    (void)state;
    const struct {
        unsigned char length[8];
        const char *says;
    } cases[] = { { { 255, 255, 255, 255, 255, 255, 255, 255 }, "at most 16777216 are accepted" },
                  { { 0, 0, 0, 128, 0, 0, 0, 0 }, "at most 16777216" },
                  { { 0, 0, 255, 0, 0, 0, 0, 0 }, "does not fit the file's" },
                  { { 1, 0, 0, 0, 0, 0, 0, 0 }, "not JSON" },
                  { { 0 }, "not JSON" } };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        checkpoint *c = fresh_checkpoint(1);
        checkpoint_write(c, st_dir);
        FILE *file = fopen(checkpoint_path(st_dir, "model.safetensors"), "r+b");
        assert_int_equal(fwrite(cases[i].length, 1, 8, file), 8);
        fclose(file);
        assert_refused(ERNIE_FORMAT, cases[i].says);
    }
}

static void doubles_are_refused(void **state)
{
    (void)state;
    checkpoint *c = fresh_checkpoint(2);
    c->no_index = true;
    const checkpoint_tensor *first = &c->tensors[0];
    checkpoint_add(c, first->name, 2, first->dims[0], first->dims[1], 0)->shard = 1 - first->shard;
    checkpoint_write(c, st_dir);
    assert_refused(ERNIE_FORMAT,
                   "\"model.embed_tokens.weight\" is there twice, in model-00001-of-00002");
}

static void indexes_that_lie_are_refused(void **state)
{
    (void)state;
    const struct {
        const char *text;
        ernie_status status;
        const char *says;
    } cases[] = {
        { "{", ERNIE_FORMAT, "model.safetensors.index.json: line 1" },
        { "{}", ERNIE_FORMAT, "no weight_map" },
        { "{\"weight_map\": {}}", ERNIE_FORMAT, "no weight_map" },
        { "{\"weight_map\": [\"a\"]}", ERNIE_FORMAT, "no weight_map" },
        { "{\"weight_map\": {\"a\": 1}}", ERNIE_FORMAT, "not a string" },
        { "{\"weight_map\": {\"a\": \"../model.safetensors\"}}", ERNIE_FORMAT,
          "not the name of a file" },
        { "{\"weight_map\": {\"a\": \"/etc/passwd\"}}", ERNIE_FORMAT, "not the name of a file" },
        { "{\"weight_map\": {\"a\": \"..\"}}", ERNIE_FORMAT, "not the name of a file" },
        { "{\"weight_map\": {\"a\": \"\"}}", ERNIE_FORMAT, "not the name of a file" },
        { "{\"weight_map\": {\"a\": \"model.safetensors\"}}", ERNIE_FORMAT,
          "tensor \"a\" is not in" },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        checkpoint *c = fresh_checkpoint(1);
        checkpoint_write(c, st_dir);
        checkpoint_put_text(st_dir, "model.safetensors.index.json", cases[i].text);
        assert_refused(cases[i].status, cases[i].says);
    }
}

static void memory_failures_unwind(void **state)
{
    (void)state;
    for (int sticky = 0; sticky < 2; sticky++) {
        checkpoint *c = fresh_checkpoint(3);
        checkpoint_write(c, st_dir);
        checkpoint_free(c);
        for (long n = 0;; n++) {
            test_allocator counter;
            ernie_allocator allocator;
            conv_tensors tensors;
            ernie_error error = { ERNIE_OK, "" };
            test_allocator_begin(&counter, &allocator);
            test_allocator_fail_at(&counter, n, sticky);
            const ernie_status status = conv_tensors_open(&tensors, st_dir, &allocator, &error);
            conv_tensors_close(&tensors);
            assert_int_equal(counter.live, 0);
            assert_int_equal(counter.n_wrong_sizes, 0);
            if (status == ERNIE_OK) break;
            assert_int_equal(status, ERNIE_NO_MEMORY);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_that_lie_are_refused),
        cmocka_unit_test(long_names_are_refused),
        cmocka_unit_test(cut_headers_are_refused),
        cmocka_unit_test(shards_are_found),
        cmocka_unit_test(missing_shards_are_named),
        cmocka_unit_test(truncated_shards_are_named),
        cmocka_unit_test(header_lengths_that_lie_are_refused),
        cmocka_unit_test(doubles_are_refused),
        cmocka_unit_test(indexes_that_lie_are_refused),
        cmocka_unit_test(memory_failures_unwind),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
