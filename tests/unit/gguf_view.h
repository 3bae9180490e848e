/* A GGUF file read back by the letter of its specification, for the tests of what we write: a small
 * reader that shares nothing with the program. It trusts the file's sizes only as far as it must and
 * fails the test where they do not hold. Include cmocka first. */
#ifndef GGUF_VIEW_H
#define GGUF_VIEW_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { GGUF_VIEW_MAX = 512 };

typedef struct gguf_view_key {
    char name[96];
    uint32_t type, item_type; /* 9 is an array of n items */
    uint64_t n;               /* bytes of a string, items of an array */
    const unsigned char *value;
} gguf_view_key;

typedef struct gguf_view_tensor {
    char name[96];
    uint32_t n_dims, type;
    uint64_t dims[4], offset, n_bytes;
    const unsigned char *data;
} gguf_view_tensor;

typedef struct gguf_view {
    const unsigned char *at, *end;
    gguf_view_key keys[GGUF_VIEW_MAX];
    gguf_view_tensor tensors[GGUF_VIEW_MAX];
    uint64_t n_keys, n_tensors;
} gguf_view;

static inline const unsigned char *gguf_view_take(gguf_view *v, uint64_t n)
{
    const unsigned char *at = v->at;
    assert_true(n <= (uint64_t)(v->end - v->at));
    v->at += n;
    return at;
}

static inline uint64_t gguf_view_number(const unsigned char *at, unsigned n)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < n; i++) value |= (uint64_t)at[i] << 8 * i;
    return value;
}

static inline uint64_t gguf_view_read(gguf_view *v, unsigned n)
{
    return gguf_view_number(gguf_view_take(v, n), n);
}

static inline void gguf_view_name(gguf_view *v, char name[96])
{
    const uint64_t n = gguf_view_read(v, 8);
    assert_true(n < 96);
    memcpy(name, gguf_view_take(v, n), (size_t)n);
    name[n] = 0;
}

static inline void gguf_view_skip(gguf_view *v, uint32_t type)
{
    static const unsigned bytes[] = { 1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8 };
    assert_true(type < 13 && type != 9);
    const uint64_t n = type == 8 ? gguf_view_read(v, 8) : bytes[type];
    gguf_view_take(v, n);
}

static inline void gguf_view_read_key(gguf_view *v, gguf_view_key *key)
{
    gguf_view_name(v, key->name);
    key->type = (uint32_t)gguf_view_read(v, 4);
    if (key->type == 9) {
        key->item_type = (uint32_t)gguf_view_read(v, 4);
        key->n = gguf_view_read(v, 8);
    } else if (key->type == 8) {
        key->n = gguf_view_read(v, 8);
    }
    key->value = v->at;
    if (key->type == 8) gguf_view_take(v, key->n);
    for (uint64_t i = 0; key->type == 9 && i < key->n; i++) gguf_view_skip(v, key->item_type);
    if (key->type < 8 || key->type > 9) gguf_view_skip(v, key->type);
}

/* Values of a block and its bytes. */
static inline void gguf_view_block(uint32_t type, uint64_t *values, uint64_t *bytes)
{
    *values = type == 2 || type == 8 ? 32 : 1;
    switch (type) {
    case 0: *bytes = 4; break;
    case 1:
    case 30: *bytes = 2; break;
    case 2: *bytes = 18; break;
    case 8: *bytes = 34; break;
    default: fail_msg("tensor type %u", (unsigned)type);
    }
}

static inline void gguf_view_read_tensor(gguf_view *v, gguf_view_tensor *t)
{
    uint64_t n = 1, values = 1, bytes = 1;
    gguf_view_name(v, t->name);
    t->n_dims = (uint32_t)gguf_view_read(v, 4);
    assert_in_range(t->n_dims, 1, 4);
    for (uint32_t i = 0; i < t->n_dims; i++) n *= t->dims[i] = gguf_view_read(v, 8);
    t->type = (uint32_t)gguf_view_read(v, 4);
    t->offset = gguf_view_read(v, 8);
    gguf_view_block(t->type, &values, &bytes);
    assert_int_equal(t->dims[0] % values, 0);
    assert_int_equal(t->offset % 32, 0);
    t->n_bytes = n / values * bytes;
}

/* Read all; every tensor must begin where the one before it ended, padded to 32, and the file must end
 * with the last one's padding. */
static inline void gguf_view_open(gguf_view *v, const unsigned char *data, size_t n)
{
    memset(v, 0, sizeof *v);
    v->at = data;
    v->end = data + n;
    assert_memory_equal(gguf_view_take(v, 4), "GGUF", 4);
    assert_int_equal(gguf_view_read(v, 4), 3);
    v->n_tensors = gguf_view_read(v, 8);
    v->n_keys = gguf_view_read(v, 8);
    assert_true(v->n_tensors <= GGUF_VIEW_MAX && v->n_keys <= GGUF_VIEW_MAX);
    for (uint64_t i = 0; i < v->n_keys; i++) gguf_view_read_key(v, &v->keys[i]);
    for (uint64_t i = 0; i < v->n_tensors; i++) gguf_view_read_tensor(v, &v->tensors[i]);
    while ((v->at - data) % 32 != 0) assert_int_equal(gguf_view_read(v, 1), 0);
    const unsigned char *base = v->at;
    uint64_t at = 0;
    for (uint64_t i = 0; i < v->n_tensors; i++) {
        gguf_view_tensor *t = &v->tensors[i];
        assert_int_equal(t->offset, at);
        t->data = base + at;
        for (at += t->n_bytes; at % 32 != 0; at++) assert_int_equal(base[at], 0);
    }
    assert_int_equal(at, (uint64_t)(v->end - base));
}

static inline const gguf_view_key *gguf_view_find_key(const gguf_view *v, const char *name)
{
    const gguf_view_key *found = NULL;
    for (uint64_t i = 0; i < v->n_keys; i++) {
        if (strcmp(v->keys[i].name, name) != 0) continue;
        assert_null(found); /* twice */
        found = &v->keys[i];
    }
    return found;
}

static inline uint64_t gguf_view_u32(const gguf_view *v, const char *name)
{
    const gguf_view_key *key = gguf_view_find_key(v, name);
    if (!key) fail_msg("key %s is missing", name);
    assert_int_equal(key->type, 4);
    return gguf_view_number(key->value, 4);
}

static inline float gguf_view_float_at(const unsigned char *at)
{
    const uint32_t bits = (uint32_t)gguf_view_number(at, 4);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float gguf_view_f32(const gguf_view *v, const char *name)
{
    const gguf_view_key *key = gguf_view_find_key(v, name);
    if (!key) fail_msg("key %s is missing", name);
    assert_int_equal(key->type, 6);
    return gguf_view_float_at(key->value);
}

static inline bool gguf_view_is_text(const gguf_view *v, const char *name, const char *text)
{
    const gguf_view_key *key = gguf_view_find_key(v, name);
    return key && key->type == 8 && key->n == strlen(text)
           && memcmp(key->value, text, strlen(text)) == 0;
}

static inline const gguf_view_tensor *gguf_view_find(const gguf_view *v, const char *name)
{
    const gguf_view_tensor *found = NULL;
    for (uint64_t i = 0; i < v->n_tensors; i++) {
        if (strcmp(v->tensors[i].name, name) != 0) continue;
        assert_null(found);
        found = &v->tensors[i];
    }
    return found;
}

static inline float gguf_view_half(const unsigned char *at)
{
    const unsigned h = (unsigned)gguf_view_number(at, 2), e = h >> 10 & 31, m = h & 1023;
    const float value = e == 31  ? INFINITY
                        : e == 0 ? ldexpf((float)m, -24)
                                 : ldexpf((float)(m + 1024), (int)e - 25);
    return h >> 15 ? -value : value;
}

/* Value i of a tensor, counted over all of it. */
static inline float gguf_view_value(const gguf_view_tensor *t, uint64_t i)
{
    uint64_t values = 1, bytes = 1;
    gguf_view_block(t->type, &values, &bytes);
    const unsigned char *block = t->data + i / values * bytes;
    const unsigned k = (unsigned)(i % values);
    switch (t->type) {
    case 0: return gguf_view_float_at(block);
    case 1: return gguf_view_half(block);
    case 30: return gguf_view_float_at((unsigned char[4]){ 0, 0, block[0], block[1] });
    case 8: return gguf_view_half(block) * (float)(int8_t)block[2 + k];
    default: {
        const unsigned pair = block[2 + k % 16];
        return gguf_view_half(block) * (float)((int)(k < 16 ? pair & 15 : pair >> 4) - 8);
    }
    }
}

#endif
