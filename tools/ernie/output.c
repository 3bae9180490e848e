/* Checked standard output, and the few JSON values that jansson leaves open. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "output.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <unistd.h>

void output_open(output *out, FILE *file)
{
    *out = (output){ .file = file, .terminal = isatty(fileno(file)) != 0 };
}

static bool output_failed(output *out)
{
    if (!out->error) out->error = errno ? errno : EIO;
    return false;
}

bool output_write(output *out, const char *bytes, size_t n)
{
    if (out->error) return false;
    return fwrite(bytes, 1, n, out->file) == n || output_failed(out);
}

bool output_print(output *out, const char *format, ...)
{
    if (out->error) return false;
    va_list args;
    va_start(args, format);
    const int n = vfprintf(out->file, format, args);
    va_end(args);
    return n >= 0 || output_failed(out);
}

bool output_flush(output *out)
{
    if (out->error) return false;
    return fflush(out->file) == 0 || output_failed(out);
}

static int output_json_piece(const char *bytes, size_t n, void *user)
{
    return output_write(user, bytes, n) ? 0 : -1;
}

bool output_json(output *out, json_t *value)
{
    if (!value && !out->error) out->error = ENOMEM;
    if (value && !out->error) {
        json_dump_callback(value, output_json_piece, out,
                           JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(10));
        output_write(out, "\n", 1);
    }
    json_decref(value);
    return !out->error;
}

bool output_close(output *out)
{
    output_flush(out);
    if (fclose(out->file) != 0) output_failed(out);
    return !out->error;
}

json_t *output_number(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *output_count(unsigned long long value)
{
    if (value <= LLONG_MAX) return json_integer((json_int_t)value);
    return json_sprintf("%llu", value);
}
