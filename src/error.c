/* Statuses with sentences, the log, and options structs that outlive versions.
 *
 * Every failure ends here: a code for the program and one sentence for the person. Nothing is kept
 * in the process; the sentence goes into the caller's ernie_error. */
#include "ern.h"

#define ERROR_OPTIONS_BYTES_MAX 4096u /* a larger `size` field was never initialised */

/* Drop a character that was cut in the middle from the end of a terminated string. */
static void error_trim_utf8(char *text, size_t n)
{
    size_t start = n;
    while (start > 0 && n - start < 4 && ((unsigned char)text[start - 1] & 0xc0) == 0x80) start--;
    if (start == 0) return;
    const unsigned char lead = (unsigned char)text[start - 1];
    const size_t n_tail = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;
    if (n - start < n_tail) text[start - 1] = '\0';
}

ERN_FN ernie_status ern_error_set(ernie_error *error, ernie_status code, const char *format, ...)
{
    if (!error) return code;
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
    error->code = code;
    if (n < 0) error->message[0] = '\0';
    if (n >= (int)sizeof error->message) error_trim_utf8(error->message, sizeof error->message - 1);
    return code;
}

ERN_FN ern_bytes_text ern_bytes(uint64_t n_bytes)
{
    ern_bytes_text t;
    const double n = (double)n_bytes;
    if (n < 1e3) snprintf(t.text, sizeof t.text, "%u bytes", (unsigned)n_bytes);
    else if (n < 1e9) snprintf(t.text, sizeof t.text, "%.*f MB", n < 1e6 ? 3 : 1, 1e-6 * n);
    else snprintf(t.text, sizeof t.text, "%.2f GB", 1e-9 * n);
    return t;
}

ERN_FN ern_bytes_text ern_bytes_up(uint64_t n_bytes)
{
    const uint64_t unit = n_bytes < 1000 ? 1 : n_bytes < 1000000 ? 1000
                          : n_bytes < 1000000000 ? 100000 : 10000000;
    const uint64_t rest = n_bytes % unit;
    return ern_bytes(rest && n_bytes <= UINT64_MAX - unit ? n_bytes + (unit - rest) : n_bytes);
}

ERN_FN ernie_status ern_options_copy(void *dst, size_t known, const void *src, const char *what,
                                     ernie_error *error)
{
    uint32_t given;
    ERN_ASSERT(known >= sizeof given && known <= ERROR_OPTIONS_BYTES_MAX);
    if (!src) return ERNIE_OK;
    memcpy(&given, src, sizeof given);
    ERN_FAIL_IF(
        given < sizeof given || given > ERROR_OPTIONS_BYTES_MAX, error, ERNIE_INVALID,
        "%s: the size field is %u, this library's struct has %zu bytes; use its initialiser", what,
        (unsigned)given, known);

    const unsigned char *bytes = src;
    for (size_t i = known; i < given; i++)
        ERN_FAIL_IF(bytes[i] != 0, error, ERNIE_UNSUPPORTED,
                    "%s: the option at byte %zu is newer than this library, which knows %zu bytes",
                    what, i, known);
    const uint32_t size = (uint32_t)known;
    memcpy(dst, src, ern_min_size(given, known));
    memcpy(dst, &size, sizeof size);
    return ERNIE_OK;
}

ERN_FN void ern_log_write(const ern_log *log, ernie_log_level level, const char *format, ...)
{
    if (!log || !log->fn) return;
    char line[512];
    va_list args;
    va_start(args, format);
    const int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n < 0) return;
    if (n >= (int)sizeof line) error_trim_utf8(line, sizeof line - 1);
    log->fn(level, line, log->user);
}

#undef ERROR_OPTIONS_BYTES_MAX
