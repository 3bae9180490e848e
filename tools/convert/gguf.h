/* GGUF files: their key-value pairs, and where their tensors lie. Knows no model: what keys and
 * names mean is the business of gguf_model.c and gguf_text.c.
 *
 * The file is hostile. Counts are held against the bytes that are left before anything grows, every
 * string and array must end inside the header, every tensor inside the file. */
#ifndef ERN_CONVERT_GGUF_H
#define ERN_CONVERT_GGUF_H

#include "ggml.h"
#include "tensors.h"

#define CONV_GGUF_HEADER_MAX ((uint64_t)256 << 20) /* pairs and names; a vocabulary has a few MB */
#define CONV_GGUF_PAIRS_MAX  4096u
#define CONV_GGUF_KEY_MAX    1024u

/* Offsets are those in conv_gguf.header. */
typedef struct conv_gguf_pair {
    size_t key, value;
    uint64_t n;     /* values; bytes of a string */
    uint32_t n_key; /* bytes */
    uint32_t type;  /* conv_gguf_value */
    uint32_t item;  /* of an array: the type of its values */
} conv_gguf_pair;

typedef struct conv_gguf {
    const ernie_allocator *allocator;
    conv_bytes header;     /* the file up to its data, or a little more */
    conv_gguf_pair *pairs; /* [capacity], n_pairs in use */
    size_t n_pairs, capacity;
    char name[128]; /* of the first file, without the directory; for messages */
} conv_gguf;

/* Is `path` a file that ends in .gguf or begins as such files do? */
ERN_FN bool conv_gguf_is(const char *path);

/* Read the header of `path`, and of all parts NAME-0000i-of-0000n.gguf when it is the first of
 * several: the pairs are those of the first. Checks that every tensor lies inside its file, that
 * shape and type give whole blocks, that tensors neither overlap nor leave holes, that no key and
 * no name comes twice. Close both also after failure. */
ERN_FN ernie_status conv_gguf_open(conv_gguf *gguf, conv_tensors *tensors, const char *path,
                                   const ernie_allocator *allocator, ernie_error *error);
ERN_FN void conv_gguf_close(conv_gguf *gguf); /* zeroed is fine */

/* One file's header, of which gguf->header holds the beginning or, when `file` is NULL, all there
 * is: fill gguf->pairs and append its tensors to `tensors` as those of `shard`. n_file: bytes of
 * the whole file. For the fuzzer and for conv_gguf_open. */
ERN_FN ernie_status conv_gguf_read(conv_gguf *gguf, conv_tensors *tensors, uint32_t shard,
                                   const conv_file *file, uint64_t n_file, ernie_error *error);

/* ---- Pairs ----------------------------------------------------------------------------------- */

ERN_FN const conv_gguf_pair *conv_gguf_find(const conv_gguf *gguf, const char *key);
ERN_FN const conv_gguf_pair *conv_gguf_find_bytes(const conv_gguf *gguf, const char *key, size_t n);
/* Bytes of one value: 0 for strings and arrays, -1 when the type is unknown. */
ERN_FN int conv_gguf_value_bytes(uint32_t type);

/* A number or flag (0 or 1) in min .. max. An absent key is ERNIE_OK and leaves *out alone. */
ERN_FN ernie_status conv_gguf_real(const conv_gguf *gguf, const char *key, double min, double max,
                                   double *out, ernie_error *error);
ERN_FN ernie_status conv_gguf_integer(const conv_gguf *gguf, const char *key, int64_t min,
                                      int64_t max, int64_t *out, ernie_error *error);
/* A string, not terminated; absent: NULL and 0. */
ERN_FN ernie_status conv_gguf_text(const conv_gguf *gguf, const char *key, const char **text,
                                   size_t *n, ernie_error *error);
/* Is the text of a pair exactly this one? */
ERN_FN bool conv_gguf_text_is(const char *text, size_t n, const char *wanted);

/* An array of exactly this type of values: *pair, NULL when absent. */
ERN_FN ernie_status conv_gguf_array(const conv_gguf *gguf, const char *key, uint32_t item,
                                    const conv_gguf_pair **pair, ernie_error *error);
/* Walk the strings of an array: *at begins as pair->value. At most pair->n times. */
ERN_FN const char *conv_gguf_next_text(const conv_gguf *gguf, size_t *at, size_t *n);
/* Value i of an array of u32, i32 or f32, as its bits. */
ERN_FN uint32_t conv_gguf_bits(const conv_gguf *gguf, const conv_gguf_pair *pair, uint64_t i);

#endif
