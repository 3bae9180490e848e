/* Numbers as people type them, read strictly: the whole text is the number or it is refused. Knows
 * nothing of options; every function leaves its outputs alone when it returns false. */
#ifndef ERNIE_NUMBERS_H
#define ERNIE_NUMBERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decimal digits only, min .. max. */
bool number_count(const char *text, uint64_t min, uint64_t max, uint64_t *out);

/* A decimal number, with or without sign, fraction and exponent. Hexadecimal, "nan", blanks and what
 * a float cannot hold are refused; infinity only where `infinite` allows it ("inf", "-inf"). */
bool number_real(const char *text, bool infinite, float *out);

/* Bytes: digits, then K, M, G or T (binary: 1K is 1024), with "B" or "iB" after the letter if wanted.
 * 512M, 4G, 4GiB, 1073741824. */
bool number_size(const char *text, uint64_t *out);

/* A token id and a value, "17=-2.5"; the value may be infinite. */
bool number_id_value(const char *text, int32_t *id, float *value);

/* Token ids separated by commas, blanks around them allowed. */
typedef struct id_list {
    int32_t *ids; /* [n], freed by id_list_free */
    size_t n, capacity;
} id_list;

/* Append the ids of the text to *list. On failure *bad points to the item that is not an id and
 * *n_bad is its length, and *list may hold what came before it. */
bool number_ids(const char *text, id_list *list, const char **bad, size_t *n_bad);

void id_list_push(id_list *list, int32_t id);
void id_list_free(id_list *list);

#endif
