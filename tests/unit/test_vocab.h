/* Tokenizer sections for tests: built from a list of pieces, or from a SentencePiece model file with
 * the shortest walk over its protobuf that will do (test code: it trusts the file). */
#ifndef TEST_VOCAB_H
#define TEST_VOCAB_H

#include "../../src/token.h"

typedef struct test_vocab {
    uint32_t n, capacity;
    float *score;
    uint32_t *offset; /* [n + 1] */
    uint8_t *type;
    char *text;
    size_t n_text, text_capacity;
    uint32_t flags;
    int32_t unk_id;
    unsigned char *charsmap;
    uint32_t charsmap_bytes;
} test_vocab;

static inline void *test_vocab_alloc(void *old, size_t n)
{
    void *block = realloc(old, n ? n : 1);
    if (!block) abort();
    return block;
}

static inline void test_vocab_begin(test_vocab *v, uint32_t flags)
{
    memset(v, 0, sizeof *v);
    v->flags = flags;
    v->unk_id = -1;
}

/* Add one piece; returns its id. */
static inline int32_t test_vocab_add_bytes(test_vocab *v, const char *text, size_t n, unsigned type,
                                           float score)
{
    if (v->n == v->capacity) {
        v->capacity = v->capacity ? 2 * v->capacity : 64;
        v->score = test_vocab_alloc(v->score, v->capacity * sizeof *v->score);
        v->offset = test_vocab_alloc(v->offset, (v->capacity + 1) * sizeof *v->offset);
        v->type = test_vocab_alloc(v->type, v->capacity);
    }
    if (v->n_text + n > v->text_capacity) {
        v->text_capacity = 2 * (v->n_text + n);
        v->text = test_vocab_alloc(v->text, v->text_capacity);
    }
    if (n) memcpy(v->text + v->n_text, text, n);
    v->offset[v->n] = (uint32_t)v->n_text;
    v->n_text += n;
    v->offset[v->n + 1] = (uint32_t)v->n_text;
    v->score[v->n] = score;
    v->type[v->n] = (uint8_t)type;
    if (type == ERN_TOKEN_UNKNOWN) v->unk_id = (int32_t)v->n;
    return (int32_t)v->n++;
}

static inline int32_t test_vocab_add(test_vocab *v, const char *text, unsigned type, float score)
{
    return test_vocab_add_bytes(v, text, strlen(text), type, score);
}

/* <0x00> to <0xFF>, and the flag that they stand for unknown characters. */
static inline int32_t test_vocab_add_fallback(test_vocab *v)
{
    char piece[8];
    for (unsigned i = 0; i < 256; i++) {
        snprintf(piece, sizeof piece, "<0x%02X>", i & 0xff);
        test_vocab_add(v, piece, ERN_TOKEN_BYTE, 0);
    }
    v->flags |= ERN_TOKENIZER_BYTE_FALLBACK;
    return (int32_t)v->n - 256;
}

static inline void test_vocab_set_charsmap(test_vocab *v, const void *data, size_t n)
{
    v->charsmap = test_vocab_alloc(v->charsmap, n);
    if (n) memcpy(v->charsmap, data, n);
    v->charsmap_bytes = (uint32_t)n;
}

static inline void test_vocab_free(test_vocab *v)
{
    free(v->score);
    free(v->offset);
    free(v->type);
    free(v->text);
    free(v->charsmap);
    memset(v, 0, sizeof *v);
}

/* The section, in malloc'ed memory. */
static inline unsigned char *test_vocab_section(const test_vocab *v, size_t *n_bytes)
{
    const size_t n = v->n, type_bytes = ern_round_up(n, 4), text_bytes = ern_round_up(v->n_text, 4);
    const ern_tokenizer_head head = { .n_tokens = v->n,
                                      .flags = v->flags,
                                      .unk_id = v->unk_id,
                                      .text_bytes = (uint32_t)v->n_text,
                                      .charsmap_bytes = v->charsmap_bytes };
    *n_bytes = sizeof head + 4 * n + 4 * (n + 1) + type_bytes + text_bytes + v->charsmap_bytes;
    unsigned char *section = test_vocab_alloc(NULL, *n_bytes), *at = section;
    memset(section, 0, *n_bytes);
    memcpy(at, &head, sizeof head);
    at += sizeof head;
    if (n) memcpy(at, v->score, 4 * n);
    at += 4 * n;
    if (n) memcpy(at, v->offset, 4 * (n + 1));
    at += 4 * (n + 1);
    if (n) memcpy(at, v->type, n);
    at += type_bytes;
    if (v->n_text) memcpy(at, v->text, v->n_text);
    at += text_bytes;
    if (v->charsmap_bytes) memcpy(at, v->charsmap, v->charsmap_bytes);
    return section;
}

/* ---- Charsmaps ------------------------------------------------------------------------------- */

#define TEST_CHARSMAP_NODES 64u
#define TEST_CHARSMAP_UNITS 4096u

typedef struct test_rule {
    const char *from, *to;
} test_rule;

typedef struct test_charsmap {
    uint16_t child[TEST_CHARSMAP_NODES][256]; /* 0: none */
    int32_t value[TEST_CHARSMAP_NODES];       /* where the node's string is, -1: none */
    uint32_t n_nodes;
    uint32_t units[TEST_CHARSMAP_UNITS];
    bool used[TEST_CHARSMAP_UNITS];
} test_charsmap;

static inline void test_charsmap_add(test_charsmap *map, const char *from, int32_t value)
{
    uint32_t node = 0;
    for (; *from; from++) {
        uint16_t *child = &map->child[node][(unsigned char)*from];
        if (!*child) {
            if (map->n_nodes == TEST_CHARSMAP_NODES) abort();
            *child = (uint16_t)map->n_nodes;
            map->value[map->n_nodes++] = -1;
        }
        node = *child;
    }
    map->value[node] = value;
}

/* Does each of the node's children find its place free, if they stand around `base`? */
static inline bool test_charsmap_fits(const test_charsmap *map, uint32_t node, uint32_t base)
{
    if (map->value[node] >= 0 && map->used[base]) return false;
    for (uint32_t c = 1; c < 256; c++)
        if (map->child[node][c] && map->used[base ^ c]) return false;
    return true;
}

static inline void test_charsmap_place(test_charsmap *map, uint32_t node, uint32_t place)
{
    uint32_t base = 1;
    while (!test_charsmap_fits(map, node, base)) base++;
    if (base + 256 > TEST_CHARSMAP_UNITS) abort();
    map->units[place] |= (place ^ base) << 10;
    if (map->value[node] >= 0) {
        map->units[place] |= 0x100u;
        map->units[base] = 0x80000000u | (uint32_t)map->value[node];
        map->used[base] = true;
    }
    for (uint32_t c = 1; c < 256; c++) {
        if (!map->child[node][c]) continue;
        map->units[base ^ c] = c;
        map->used[base ^ c] = true;
    }
    for (uint32_t c = 1; c < 256; c++)
        if (map->child[node][c]) test_charsmap_place(map, map->child[node][c], base ^ c);
}

/* A precompiled charsmap as sentencepiece writes it, of a few short rules. */
static inline void test_vocab_set_rules(test_vocab *v, const test_rule *rules, size_t n)
{
    test_charsmap *map = test_vocab_alloc(NULL, sizeof *map);
    char strings[1024];
    size_t n_strings = 0;
    memset(map, 0, sizeof *map);
    map->n_nodes = 1;
    map->value[0] = -1;
    map->used[0] = true;
    for (size_t i = 0; i < n; i++) {
        test_charsmap_add(map, rules[i].from, (int32_t)n_strings);
        if (n_strings + strlen(rules[i].to) + 1 > sizeof strings) abort();
        memcpy(strings + n_strings, rules[i].to, strlen(rules[i].to) + 1);
        n_strings += strlen(rules[i].to) + 1;
    }
    test_charsmap_place(map, 0, 0);
    uint32_t n_units = TEST_CHARSMAP_UNITS;
    while (n_units > 1 && !map->used[n_units - 1]) n_units--;
    const uint32_t array_bytes = 4 * n_units;
    char *blob = test_vocab_alloc(NULL, 4 + array_bytes + n_strings);
    memcpy(blob, &array_bytes, 4);
    memcpy(blob + 4, map->units, array_bytes);
    memcpy(blob + 4 + array_bytes, strings, n_strings);
    test_vocab_set_charsmap(v, blob, 4 + array_bytes + n_strings);
    free(blob);
    free(map);
}

/* ---- SentencePiece model files --------------------------------------------------------------- */

typedef struct test_field {
    unsigned number, wire;
    uint64_t value;             /* varints and fixed-width values */
    const unsigned char *bytes; /* [value], when wire is 2 */
} test_field;

static inline uint64_t test_varint(const unsigned char **at)
{
    uint64_t value = 0;
    for (unsigned shift = 0;; shift += 7) {
        const unsigned char byte = *(*at)++;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) return value;
    }
}

static inline bool test_field_next(const unsigned char **at, const unsigned char *end,
                                   test_field *field)
{
    if (*at >= end) return false;
    const uint64_t key = test_varint(at);
    const unsigned fixed = (key & 7) == 1 ? 8 : 4;
    field->number = (unsigned)(key >> 3);
    field->wire = key & 7;
    field->value = 0;
    if (field->wire == 0 || field->wire == 2)
        field->value = test_varint(at);
    else
        memcpy(&field->value, *at, fixed);
    field->bytes = *at;
    if (field->wire == 2) *at += field->value;
    if (field->wire == 1 || field->wire == 5) *at += fixed;
    return true;
}

static inline void test_vocab_read_piece(test_vocab *v, test_field message)
{
    const unsigned char *at = message.bytes, *end = at + message.value;
    test_field field, text = { .bytes = at };
    unsigned type = ERN_TOKEN_NORMAL;
    float score = 0;
    while (test_field_next(&at, end, &field)) {
        if (field.number == 1) text = field;
        if (field.number == 2) memcpy(&score, &field.value, sizeof score);
        if (field.number == 3) type = (unsigned)field.value;
    }
    test_vocab_add_bytes(v, (const char *)text.bytes, (size_t)text.value, type, score);
}

static inline void test_vocab_read_specs(test_vocab *v, test_field message)
{
    static const struct {
        unsigned message, field, flag;
    } flags[] = { { 2, 24, ERN_TOKENIZER_SPACE_SUFFIX },
                  { 2, 35, ERN_TOKENIZER_BYTE_FALLBACK },
                  { 3, 3, ERN_TOKENIZER_DUMMY_PREFIX },
                  { 3, 4, ERN_TOKENIZER_REMOVE_EXTRA_SPACES },
                  { 3, 5, ERN_TOKENIZER_ESCAPE_SPACES } };
    const unsigned char *at = message.bytes, *end = at + message.value;
    test_field field;
    while (test_field_next(&at, end, &field)) {
        for (size_t i = 0; i < ERN_COUNT(flags); i++)
            if (flags[i].message == message.number && flags[i].field == field.number)
                v->flags = field.value ? v->flags | flags[i].flag : v->flags & ~flags[i].flag;
        if (message.number == 3 && field.number == 2)
            test_vocab_set_charsmap(v, field.bytes, (size_t)field.value);
    }
}

/* Fields that a model leaves out have sentencepiece's defaults. */
static inline void test_vocab_read_model(test_vocab *v, const unsigned char *model, size_t n)
{
    const unsigned char *at = model;
    test_field field;
    test_vocab_begin(v, ERN_TOKENIZER_DUMMY_PREFIX | ERN_TOKENIZER_REMOVE_EXTRA_SPACES
                            | ERN_TOKENIZER_ESCAPE_SPACES);
    while (test_field_next(&at, model + n, &field)) {
        if (field.number == 1) test_vocab_read_piece(v, field);
        if (field.number == 2 || field.number == 3) test_vocab_read_specs(v, field);
    }
}

/* ---- Files --------------------------------------------------------------------------------- */

static inline unsigned char *test_read_file(const char *path, size_t *n)
{
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    unsigned char *data = NULL;
    size_t got;
    *n = 0;
    do {
        data = test_vocab_alloc(data, *n + 65536);
        got = fread(data + *n, 1, 65536, file);
        *n += got;
    } while (got == 65536);
    fclose(file);
    return data;
}

/* A file of the shared data, named from its top ("ernie-demo-moe/tokenizer.model"): in the directory
 * ERNIE_SHARED of the environment, of the build, or beside the repository; NULL when absent. */
static inline unsigned char *test_read_shared(const char *name, size_t *n)
{
#ifndef ERNIE_SHARED
#define ERNIE_SHARED "../shared"
#endif
    char path[1024];
    const char *shared = getenv("ERNIE_SHARED");
    snprintf(path, sizeof path, "%s/data/%s", shared && *shared ? shared : ERNIE_SHARED, name);
    return test_read_file(path, n);
}

#endif
