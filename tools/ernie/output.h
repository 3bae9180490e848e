/* Results on standard output, every write checked: a full disk or a closed pipe is a failure of the
 * program, never a loss that its status hides or a death by signal. Errors stick; output_close reports them. */
#ifndef ERNIE_OUTPUT_H
#define ERNIE_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

typedef struct output {
    FILE *file;
    int error;     /* errno of the first failed write, 0 while all is well */
    bool terminal; /* someone watches */
} output;

void output_open(output *out, FILE *file);

/* All return false once anything has failed. */
bool output_write(output *out, const char *bytes, size_t n);
bool output_print(output *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
bool output_flush(output *out);

/* Write the value as one line of JSON and release it. NULL counts as out of memory. */
bool output_json(output *out, json_t *value);

/* Flush, close, and say whether everything arrived. */
bool output_close(output *out);

/* A JSON number, null for what JSON cannot write (infinities, NaN). */
json_t *output_number(double value);

/* A whole number as JSON; what does not fit (2^63 and above) becomes a string of digits. */
json_t *output_count(unsigned long long value);

#endif
