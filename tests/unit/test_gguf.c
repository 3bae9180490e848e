/* The frame of GGUF: fields that lie, files that are cut, parts that are not there. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../tools/convert/gguf.h"
#include "gguf_file.h"
#include "test_allocator.h"

static char dir[256];
static gguf_file g;
static conv_gguf gguf;
static conv_tensors tensors;

/* ---- A good file ----------------------------------------------------------------------------- */

static const uint64_t dims_a[] = { 3 }, dims_b[] = { 64, 2 };
static const float values_a[] = { 1, 2, 3 };
static const unsigned char values_b[4 * 18] = { 0x00, 0x3c, 0x88 };

/* Every type of value, two tensors. */
static void small_file(void)
{
    gguf_free(&g);
    gguf_begin(&g);
    for (uint32_t type = 0; type <= CONV_GGUF_F64; type++) {
        char key[16];
        const double real = -1.5;
        if (type == CONV_GGUF_STRING || type == CONV_GGUF_ARRAY || type == CONV_GGUF_F32) continue;
        snprintf(key, sizeof key, "value.%u", (unsigned)type);
        gguf_pair(&g, key, type);
        if (type == CONV_GGUF_F64)
            gguf_put(&g.pairs, &real, sizeof real);
        else
            gguf_put_number(&g.pairs, 0xfe, (size_t)conv_gguf_value_bytes(type));
    }
    gguf_f32(&g, "value.6", 0.25f);
    gguf_text(&g, "text", "some text");
    gguf_array(&g, "texts", CONV_GGUF_STRING, 3);
    gguf_put_text(&g.pairs, "one", 3);
    gguf_put_text(&g.pairs, "", 0);
    gguf_put_text(&g.pairs, "three", 5);
    gguf_array(&g, "numbers", CONV_GGUF_I32, 2);
    gguf_put_number(&g.pairs, 7, 4);
    gguf_put_number(&g.pairs, (uint64_t)-7, 4);
    gguf_tensor(&g, "a", 1, dims_a, CONV_GGML_F32, values_a, sizeof values_a);
    gguf_tensor(&g, "b", 2, dims_b, CONV_GGML_Q4_0, values_b, sizeof values_b);
}

static void close_both(void)
{
    tensors.n_shards = 0; /* not the list's own */
    tensors.shards = NULL;
    conv_tensors_close(&tensors);
    conv_gguf_close(&gguf);
}

/* The header lies in memory of exactly n bytes; n_file: what the whole file would have. */
static ernie_status read_bytes(const unsigned char *data, size_t n, uint64_t n_file,
                               const ernie_allocator *allocator, ernie_error *error)
{
    static char name[] = "x.gguf";
    static conv_shard shard = { .name = name };
    gguf = (conv_gguf){ .allocator = allocator, .header = { .allocator = allocator } };
    tensors = (conv_tensors){ .allocator = allocator, .gguf = true, .shards = &shard };
    snprintf(gguf.name, sizeof gguf.name, "%s", name);
    if (!conv_bytes_add(&gguf.header, data, n))
        return ern_error_set(error, ERNIE_NO_MEMORY, "no memory for the test");
    const ernie_status status = conv_gguf_read(&gguf, &tensors, 0, NULL, n_file, error);
    return status == ERNIE_OK ? conv_tensors_sort(&tensors, error) : status;
}

static ernie_status read_file(ernie_error *error)
{
    size_t n;
    unsigned char *data = gguf_join(&g, &n);
    const ernie_status status = read_bytes(data, n, n, ern_allocator_default(), error);
    free(data);
    return status;
}

static void read_good(void)
{
    ernie_error error = { ERNIE_OK, "" };
    if (read_file(&error) != ERNIE_OK) fail_msg("%s", error.message);
}

/* ---- What is in it --------------------------------------------------------------------------- */

static void every_value_is_found(void **state)
{
    (void)state;
    static const double wanted[] = { 254, -2, 254, 254, 254, 254, 0.25, 1, 0, 0, 254, 254, -1.5 };
    size_t n, at;
    const char *text;
    const conv_gguf_pair *pair;
    ernie_error error = { ERNIE_OK, "" };
    small_file();
    read_good();
    for (unsigned type = 0; type < ERN_COUNT(wanted); type++) {
        char key[16];
        double value = 0;
        snprintf(key, sizeof key, "value.%u", type);
        assert_int_equal(conv_gguf_real(&gguf, key, -9, 999, &value, &error), ERNIE_OK);
        assert_true(value == wanted[type]);
    }
    assert_int_equal(conv_gguf_text(&gguf, "text", &text, &n, &error), ERNIE_OK);
    assert_true(conv_gguf_text_is(text, n, "some text"));
    assert_false(conv_gguf_text_is(text, n, "some tex"));
    assert_int_equal(conv_gguf_array(&gguf, "texts", CONV_GGUF_STRING, &pair, &error), ERNIE_OK);
    assert_int_equal(pair->n, 3);
    at = pair->value;
    text = conv_gguf_next_text(&gguf, &at, &n);
    assert_true(conv_gguf_text_is(text, n, "one"));
    conv_gguf_next_text(&gguf, &at, &n);
    assert_int_equal(n, 0);
    text = conv_gguf_next_text(&gguf, &at, &n);
    assert_true(conv_gguf_text_is(text, n, "three"));
    assert_int_equal(conv_gguf_array(&gguf, "numbers", CONV_GGUF_I32, &pair, &error), ERNIE_OK);
    assert_int_equal((int32_t)conv_gguf_bits(&gguf, pair, 1), -7);
    close_both();
}

static void wrong_types_are_named(void **state)
{
    (void)state;
    size_t n;
    int64_t whole = 5;
    double real = 5;
    const char *text;
    const conv_gguf_pair *pair;
    ernie_error error = { ERNIE_OK, "" };
    small_file();
    read_good();
#define REFUSED(call, says)               \
    error.message[0] = '\0';              \
    assert_int_equal(call, ERNIE_FORMAT); \
    if (!strstr(error.message, says)) fail_msg("\"%s\" does not say \"%s\"", error.message, says)
    REFUSED(conv_gguf_integer(&gguf, "text", 0, 9, &whole, &error),
            "x.gguf: text is of type string, expected a whole number");
    REFUSED(conv_gguf_integer(&gguf, "value.6", 0, 9, &whole, &error), "value.6 is of type f32");
    REFUSED(conv_gguf_integer(&gguf, "value.0", 0, 9, &whole, &error),
            "x.gguf: value.0 is 254, expected 0 to 9");
    REFUSED(conv_gguf_real(&gguf, "texts", 0, 9, &real, &error), "texts is of type array");
    REFUSED(conv_gguf_real(&gguf, "value.6", 1, 9, &real, &error),
            "value.6 is 0.25, expected 1 to 9");
    REFUSED(conv_gguf_text(&gguf, "numbers", &text, &n, &error),
            "of type array, expected a string");
    REFUSED(conv_gguf_array(&gguf, "numbers", CONV_GGUF_F32, &pair, &error),
            "numbers is an array of i32, expected an array of f32");
    REFUSED(conv_gguf_array(&gguf, "text", CONV_GGUF_F32, &pair, &error),
            "text is of type string, expected an array of f32");
#undef REFUSED
    assert_true(whole == 5 && real == 5); /* untouched */
    assert_int_equal(conv_gguf_integer(&gguf, "absent", 0, 9, &whole, &error), ERNIE_OK);
    assert_int_equal(conv_gguf_text(&gguf, "absent", &text, &n, &error), ERNIE_OK);
    assert_true(whole == 5 && !text && n == 0);
    close_both();
}

static void tensors_are_placed(void **state)
{
    (void)state;
    static const uint32_t aligns[] = { 1, 8, 32, 4096 };
    for (size_t i = 0; i < ERN_COUNT(aligns) * 2; i++) {
        size_t n;
        small_file();
        g.version = i % 2 ? 3 : 2;
        g.infos.n = g.data.n = 0;
        g.n_tensors = 0;
        g.align = aligns[i / 2];
        gguf_u32(&g, "general.alignment", g.align);
        gguf_tensor(&g, "a", 1, dims_a, CONV_GGML_F32, values_a, sizeof values_a);
        gguf_tensor(&g, "b", 2, dims_b, CONV_GGML_Q4_0, values_b, sizeof values_b);
        read_good();
        unsigned char *file = gguf_join(&g, &n);
        const conv_tensor *a = conv_tensors_find(&tensors, "a"),
                          *b = conv_tensors_find(&tensors, "b");
        assert_true(a && b && tensors.n == 2);
        assert_int_equal(a->offset % g.align, 0);
        assert_memory_equal(file + a->offset, values_a, sizeof values_a);
        assert_memory_equal(file + b->offset, values_b, sizeof values_b);
        assert_int_equal(b->n_bytes, sizeof values_b);
        assert_true(b->n_dims == 2 && b->dims[0] == 2 && b->dims[1] == 64);
        assert_int_equal(b->dtype, CONV_GGML + CONV_GGML_Q4_0);
        assert_int_equal(a->dtype, CONV_F32);
        assert_int_equal(conv_row_bytes(b, 64), 36);
        free(file);
        close_both();
    }
}

/* ---- Bad twins ------------------------------------------------------------------------------- */

static void twin_magic(void)
{
    memcpy(g.magic, "GGML", 4);
}
static void twin_big_endian(void)
{
    g.version = 3u << 24;
}
static void twin_version_1(void)
{
    g.version = 1;
}
static void twin_version_4(void)
{
    g.version = 4;
}
static void twin_many_pairs(void)
{
    g.n_pairs = (uint64_t)1 << 60;
}
static void twin_many_tensors(void)
{
    g.n_tensors = (uint64_t)1 << 60;
}
static void twin_too_many_pairs(void)
{
    g.n_pairs = 5000;
    gguf_more(&g.pairs, 80000);
}
static void twin_one_tensor_more(void)
{
    g.n_tensors++;
}
static void twin_one_tensor_less(void)
{
    g.n_tensors--;
}
static void twin_one_pair_less(void)
{
    gguf_text(&g, "last", "a string's type is 8");
    g.n_pairs--;
}
static void twin_no_key(void)
{
    gguf_u32(&g, "", 1);
}
static void twin_long_key(void)
{
    char key[2000];
    memset(key, 'k', sizeof key);
    key[sizeof key - 1] = '\0';
    gguf_u32(&g, key, 1);
}
static void twin_key_twice(void)
{
    gguf_u32(&g, "text", 1);
}
static void twin_key_length(void)
{
    gguf_u32(&g, "last", 1);
    memset(g.pairs.data + g.last_pair, 0xff, 8);
}
static void twin_text_length(void)
{
    gguf_text(&g, "last", "x");
    memset(g.pairs.data + g.last_pair + 8 + 4 + 4, 0xff, 8);
}
static void twin_value_type(void)
{
    gguf_pair(&g, "last", 13);
}
static void twin_array_type(void)
{
    gguf_array(&g, "last", 77, 0);
}
static void twin_nested_array(void)
{
    gguf_array(&g, "last", CONV_GGUF_ARRAY, 1);
}
static void twin_array_count(void)
{
    gguf_array(&g, "last", CONV_GGUF_U16, 1u << 20);
}
static void twin_array_overflow(void)
{
    gguf_array(&g, "last", CONV_GGUF_F64, UINT64_MAX / 4);
}
static void twin_texts_count(void)
{
    gguf_array(&g, "last", CONV_GGUF_STRING, 1u << 20);
}
static void twin_align_0(void)
{
    gguf_u32(&g, "general.alignment", 0);
}
static void twin_align_24(void)
{
    gguf_u32(&g, "general.alignment", 24);
}
static void twin_align_text(void)
{
    gguf_text(&g, "general.alignment", "32");
}
static void twin_align_large(void)
{
    gguf_u32(&g, "general.alignment", 1u << 30);
}

static void add_tensor(const char *name, unsigned n_dims, uint64_t x, uint64_t y, uint32_t type,
                       size_t n)
{
    static const unsigned char data[4096];
    const uint64_t dims[8] = { x, y, 1, 1, 1 };
    gguf_tensor(&g, name, n_dims, dims, type, data, n);
}
static void twin_no_dims(void)
{
    add_tensor("c", 0, 0, 0, CONV_GGML_F32, 4);
}
static void twin_5_dims(void)
{
    add_tensor("c", 5, 1, 1, CONV_GGML_F32, 4);
}
static void twin_many_dims(void)
{
    add_tensor("c", 1, 1, 1, CONV_GGML_F32, 4), memset(g.infos.data + g.last_info + 9, 0xff, 4);
}
static void twin_type_99(void)
{
    add_tensor("c", 1, 1, 1, 99, 4);
}
static void twin_type_4(void)
{
    add_tensor("c", 1, 32, 1, 4, 20);
}
static void twin_empty_row(void)
{
    add_tensor("c", 2, 0, 4, CONV_GGML_F32, 0);
}
static void twin_no_rows(void)
{
    add_tensor("c", 2, 4, 0, CONV_GGML_F32, 0);
}
static void twin_half_block(void)
{
    add_tensor("c", 2, 48, 2, CONV_GGML_Q8_0, 102);
}
static void twin_overflow(void)
{
    add_tensor("c", 2, (uint64_t)1 << 40, (uint64_t)1 << 40, CONV_GGML_F32, 4);
}
static void twin_byte_overflow(void)
{
    add_tensor("c", 1, (uint64_t)1 << 62, 1, CONV_GGML_F64, 4);
}
static void twin_no_name(void)
{
    add_tensor("", 1, 1, 1, CONV_GGML_F32, 4);
}
static void twin_zero_in_name(void)
{
    add_tensor("cc", 1, 1, 1, CONV_GGML_F32, 4);
    g.infos.data[g.last_info + 9] = '\0';
}
static void twin_long_name(void)
{
    char name[2000];
    memset(name, 'n', sizeof name);
    name[sizeof name - 1] = '\0';
    add_tensor(name, 1, 1, 1, CONV_GGML_F32, 4);
}
static void twin_name_twice(void)
{
    add_tensor("a", 1, 1, 1, CONV_GGML_F32, 4);
}
static void set_offset(uint64_t offset)
{
    unsigned char *at = g.infos.data + g.infos.n - 8;
    for (unsigned i = 0; i < 8; i++) at[i] = (unsigned char)(offset >> (8 * i));
}
static void twin_misaligned(void)
{
    set_offset(16);
}
static void twin_overlap(void)
{
    set_offset(0);
}
static void twin_hole(void)
{
    set_offset(64), gguf_more(&g.data, 64);
}
static void twin_far_away(void)
{
    set_offset((uint64_t)1 << 40);
}
static void twin_wrapping(void)
{
    set_offset(UINT64_MAX - 31);
}
static void twin_short_data(void)
{
    g.data.n -= 1;
}
static void twin_long_data(void)
{
    gguf_more(&g.data, 64);
}

static const struct {
    void (*damage)(void);
    ernie_status status;
    const char *says;
} twins[] = {
    { twin_magic, ERNIE_FORMAT, "x.gguf: is no GGUF file: its first bytes are not \"GGUF\"" },
    { twin_big_endian, ERNIE_UNSUPPORTED, "x.gguf: is big endian, only little endian is" },
    { twin_version_1, ERNIE_UNSUPPORTED, "is GGUF of version 1, supported are 2 and 3" },
    { twin_version_4, ERNIE_UNSUPPORTED, "is GGUF of version 4, supported are 2 and 3" },
    { twin_many_pairs, ERNIE_FORMAT, "and 1152921504606846976 pairs, more than its" },
    { twin_many_tensors, ERNIE_FORMAT, "says it has 1152921504606846976 tensors and" },
    { twin_too_many_pairs, ERNIE_UNSUPPORTED, "has 2 tensors and 5000 pairs, at most" },
    { twin_one_tensor_more, ERNIE_FORMAT, "the name of tensor 2 has 0 bytes, expected 1 to 1024" },
    { twin_one_tensor_less, ERNIE_FORMAT, "bytes of data, its header describes 12" },
    { twin_one_pair_less, ERNIE_FORMAT, "tensor \"last\" has 8 dimensions, expected 1 to 4" },
    { twin_no_key, ERNIE_FORMAT, "the key of pair 14 has 0 bytes, expected 1 to 1024" },
    { twin_long_key, ERNIE_FORMAT, "the key of pair 14 has 1999 bytes, expected 1 to 1024" },
    { twin_key_twice, ERNIE_FORMAT, "x.gguf: the key text is there twice" },
    { twin_key_length, ERNIE_FORMAT, "is truncated: pair 14 at byte" },
    { twin_text_length, ERNIE_FORMAT, "is truncated: pair 14 at byte" },
    { twin_value_type, ERNIE_UNSUPPORTED, "x.gguf: last has the unknown value type 13" },
    { twin_array_type, ERNIE_UNSUPPORTED, "last is an array of the unknown value type 77" },
    { twin_nested_array, ERNIE_UNSUPPORTED, "last is an array of the unknown value type 9" },
    { twin_array_count, ERNIE_FORMAT, "x.gguf: last says it has 1048576 values, the" },
    { twin_array_overflow, ERNIE_FORMAT, "last says it has 4611686018427387903 values" },
    { twin_texts_count, ERNIE_FORMAT, "last says it has 1048576 values" },
    { twin_align_0, ERNIE_FORMAT, "general.alignment is 0, expected 1 to" },
    { twin_align_24, ERNIE_FORMAT, "general.alignment is 24, not a power of two" },
    { twin_align_text, ERNIE_FORMAT, "general.alignment is of type string" },
    { twin_align_large, ERNIE_FORMAT, "general.alignment is 1073741824, expected 1 to 1048576" },
    { twin_no_dims, ERNIE_FORMAT, "tensor \"c\" has 0 dimensions, expected 1 to 4" },
    { twin_5_dims, ERNIE_FORMAT, "tensor \"c\" has 5 dimensions, expected 1 to 4" },
    { twin_many_dims, ERNIE_FORMAT, "tensor \"c\" has 4294967295 dimensions" },
    { twin_type_99, ERNIE_UNSUPPORTED, "x.gguf: tensor \"c\": type 99 is unknown" },
    { twin_type_4, ERNIE_UNSUPPORTED, "x.gguf: tensor \"c\": type 4 is unknown" },
    { twin_empty_row, ERNIE_FORMAT,
      "tensor \"c\": rows of 0 values are no whole blocks of 1 (F32)" },
    { twin_no_rows, ERNIE_FORMAT, "tensor \"c\": [0, 4] of F32 is empty" },
    { twin_half_block, ERNIE_FORMAT, "rows of 48 values are no whole blocks of 32 (Q8_0)" },
    { twin_overflow, ERNIE_FORMAT, "has more bytes than can be counted" },
    { twin_byte_overflow, ERNIE_FORMAT, "has more bytes than can be counted" },
    { twin_no_name, ERNIE_FORMAT, "the name of tensor 2 has 0 bytes" },
    { twin_zero_in_name, ERNIE_FORMAT,
      "the name of tensor 2 has 2 bytes, expected 1 to 1024 without" },
    { twin_long_name, ERNIE_FORMAT, "the name of tensor 2 has 1999 bytes" },
    { twin_name_twice, ERNIE_FORMAT, "tensor \"a\" is there twice, in x.gguf" },
    { twin_misaligned, ERNIE_FORMAT, "tensor \"b\" lies at data byte 16, not a multiple of 32" },
    { twin_overlap, ERNIE_FORMAT, "overlaps" },
    { twin_hole, ERNIE_FORMAT, "no tensor covers data bytes 12 to 64" },
    { twin_far_away, ERNIE_FORMAT,
      "is truncated: tensor \"b\" has 72 bytes at data byte 1099511627776" },
    { twin_wrapping, ERNIE_FORMAT, "is truncated: tensor \"b\" has 72 bytes at data byte" },
    { twin_short_data, ERNIE_FORMAT,
      "is truncated: tensor \"b\" has 72 bytes at data byte 32, the file has 103" },
    { twin_long_data, ERNIE_FORMAT, "holds 168 bytes of data, its header describes 104" },
};

static void twins_are_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < ERN_COUNT(twins); i++) {
        ernie_error error = { ERNIE_OK, "" };
        small_file();
        twins[i].damage();
        const ernie_status status = read_file(&error);
        close_both();
        if (!strstr(error.message, twins[i].says))
            fail_msg("twin %zu: \"%s\" does not say \"%s\"", i, error.message, twins[i].says);
        assert_int_equal(status, twins[i].status);
    }
}

/* Every beginning of a good file, in memory that ends where it ends. */
static void cut_files_are_refused(void **state)
{
    (void)state;
    size_t n_all;
    small_file();
    unsigned char *data = gguf_join(&g, &n_all);
    for (size_t n = 0; n < n_all; n++) {
        ernie_error error = { ERNIE_OK, "" };
        assert_int_equal(read_bytes(data, n, n, ern_allocator_default(), &error), ERNIE_FORMAT);
        const bool named = strstr(error.message, "is truncated")
                           || strstr(error.message, "more than its")
                           || strstr(error.message, "that are left hold fewer");
        if (!named) fail_msg("%zu bytes: \"%s\"", n, error.message);
        close_both();
    }
    free(data);
}

/* ---- Files ----------------------------------------------------------------------------------- */

static const char *part_path(unsigned i, unsigned count)
{
    char name[64];
    snprintf(name, sizeof name, "x-%05u-of-%05u.gguf", i + 1, count);
    return checkpoint_path(dir, name);
}

/* A header of several reads, in an odd place the last byte of one. */
static void long_headers_are_read(void **state)
{
    (void)state;
    for (size_t n = (1 << 20) - 700; n < 5000000; n += 777777) {
        ernie_error error = { ERNIE_OK, "" };
        small_file();
        gguf_array(&g, "long", CONV_GGUF_U8, n);
        gguf_more(&g.pairs, n);
        gguf_text(&g, "behind", "it");
        const char *path = checkpoint_path(dir, "x.gguf");
        gguf_write(&g, path);
        if (conv_gguf_open(&gguf, &tensors, path, ern_allocator_default(), &error) != ERNIE_OK)
            fail_msg("%s", error.message);
        assert_non_null(conv_gguf_find(&gguf, "behind"));
        assert_int_equal(tensors.n, 2);
        conv_tensors_close(&tensors);
        conv_gguf_close(&gguf);
    }
}

typedef struct split {
    int64_t number, count; /* below 0: not said */
} split;

static void write_part(const char *path, split says, unsigned i, bool tensor_count, int64_t n)
{
    char name[8];
    gguf_free(&g);
    gguf_begin(&g);
    if (says.number >= 0) gguf_i64(&g, "split.no", says.number);
    if (says.count >= 0) gguf_i64(&g, "split.count", says.count);
    if (tensor_count) gguf_i64(&g, "split.tensors.count", n);
    snprintf(name, sizeof name, "t%u", i);
    gguf_tensor(&g, name, 1, dims_a, CONV_GGML_F32, values_a, sizeof values_a);
    gguf_write(&g, path);
}

static ernie_status open_parts(const char *path, ernie_error *error)
{
    const ernie_status status =
        conv_gguf_open(&gguf, &tensors, path, ern_allocator_default(), error);
    const size_t n = tensors.n;
    conv_tensors_close(&tensors);
    conv_gguf_close(&gguf);
    if (status == ERNIE_OK) assert_int_equal(n, 3);
    return status;
}

static void write_parts(void)
{
    checkpoint_clear(dir);
    for (unsigned i = 0; i < 3; i++) write_part(part_path(i, 3), (split){ i, 3 }, i, i == 0, 3);
}

static void parts_are_found(void **state)
{
    (void)state;
    ernie_error error = { ERNIE_OK, "" };
    write_parts();
    if (open_parts(part_path(0, 3), &error) != ERNIE_OK) fail_msg("%s", error.message);
#define PARTS_REFUSED(path, code, says)               \
    error.message[0] = '\0';                          \
    assert_int_equal(open_parts(path, &error), code); \
    if (!strstr(error.message, says)) fail_msg("\"%s\" does not say \"%s\"", error.message, says)
    PARTS_REFUSED(part_path(1, 3), ERNIE_INVALID,
                  "x-00002-of-00003.gguf: is part 2 of 3; give the first, whose name ends in "
                  "-00001-of-00003.gguf");
    rename(part_path(0, 3), checkpoint_path(dir, "first.gguf"));
    PARTS_REFUSED(checkpoint_path(dir, "first.gguf"), ERNIE_INVALID, "is part 1 of 3; give the");
    write_parts();
    unlink(part_path(2, 3));
    PARTS_REFUSED(part_path(0, 3), ERNIE_IO, "x-00003-of-00003.gguf: cannot be opened: No such");
    write_part(part_path(2, 3), (split){ 1, 3 }, 2, false, 0);
    PARTS_REFUSED(part_path(0, 3), ERNIE_FORMAT,
                  "x-00003-of-00003.gguf: says it is part 2 of 3, expected 3 of 3");
    write_part(part_path(2, 3), (split){ -1, -1 }, 2, false, 0);
    PARTS_REFUSED(part_path(0, 3), ERNIE_FORMAT, "says it is part 1 of 1, expected 3 of 3");
    write_part(part_path(2, 3), (split){ 2, 3 }, 1, false, 0);
    PARTS_REFUSED(part_path(0, 3), ERNIE_FORMAT,
                  "tensor \"t1\" is there twice, in x-00002-of-00003.gguf and in x-00003");
    write_parts();
    write_part(part_path(0, 3), (split){ 0, 3 }, 0, true, 4);
    PARTS_REFUSED(part_path(0, 3), ERNIE_FORMAT,
                  "says that the 3 parts hold 4 tensors, they hold 3");
    write_part(part_path(0, 3), (split){ 3, 3 }, 0, true, 3);
    PARTS_REFUSED(part_path(0, 3), ERNIE_FORMAT, "split.no is 3, expected 0 to 2");
    write_part(part_path(0, 3), (split){ 0, 1 << 20 }, 0, true, 3);
    PARTS_REFUSED(part_path(0, 3), ERNIE_FORMAT, "split.count is 1048576, expected 0 to 4096");
#undef PARTS_REFUSED
}

static void memory_failures_unwind(void **state)
{
    (void)state;
    for (int sticky = 0; sticky < 2; sticky++) {
        write_parts();
        for (long n = 0;; n++) {
            test_allocator counter;
            ernie_allocator allocator;
            ernie_error error = { ERNIE_OK, "" };
            test_allocator_begin(&counter, &allocator);
            test_allocator_fail_at(&counter, n, sticky);
            const ernie_status status =
                conv_gguf_open(&gguf, &tensors, part_path(0, 3), &allocator, &error);
            conv_tensors_close(&tensors);
            conv_gguf_close(&gguf);
            assert_int_equal(counter.live, 0);
            assert_int_equal(counter.n_wrong_sizes, 0);
            if (status == ERNIE_OK) break;
            assert_int_equal(status, ERNIE_NO_MEMORY);
            assert_true(n < 100);
        }
    }
}

static void kinds_of_files_are_told(void **state)
{
    (void)state;
    checkpoint_put_text(dir, "a.gguf", "");
    checkpoint_put_text(dir, "a.bin", "GGUF");
    checkpoint_put_text(dir, "b.bin", "GGU");
    mkdir(checkpoint_path(dir, "d.gguf"), 0777);
    assert_true(conv_gguf_is(checkpoint_path(dir, "a.gguf")));
    assert_true(conv_gguf_is(checkpoint_path(dir, "a.bin")));
    assert_false(conv_gguf_is(checkpoint_path(dir, "b.bin")));
    assert_false(conv_gguf_is(checkpoint_path(dir, "d.gguf")));
    assert_false(conv_gguf_is(checkpoint_path(dir, "absent.gguf")));
    assert_false(conv_gguf_is("/dev/null"));
}

static int setup(void **state)
{
    (void)state;
    return checkpoint_make_dir(dir, "gguf");
}

static int teardown(void **state)
{
    (void)state;
    gguf_free(&g);
    checkpoint_clear(dir);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_is_found),    cmocka_unit_test(wrong_types_are_named),
        cmocka_unit_test(tensors_are_placed),      cmocka_unit_test(twins_are_refused),
        cmocka_unit_test(cut_files_are_refused),   cmocka_unit_test(long_headers_are_read),
        cmocka_unit_test(parts_are_found),         cmocka_unit_test(memory_failures_unwind),
        cmocka_unit_test(kinds_of_files_are_told),
    };
    return cmocka_run_group_tests_name("gguf", tests, setup, teardown);
}
