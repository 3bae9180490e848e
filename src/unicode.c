/* UTF-8 checks. Knows no tokens. The one idea: after the first byte only the second one has a range
 * of its own; table 3-7 of the Unicode standard is four exceptions. */
#include "unicode.h"

/* Bytes that must follow `lead`, and the range of the first of them; 0 for ASCII, -1 for a byte
 * that begins no character. */
static int unicode_tail(unsigned char lead, unsigned char *low, unsigned char *high)
{
    *low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
    *high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
    if (lead < 0x80) return 0;
    if (lead < 0xc2 || lead > 0xf4) return -1;
    return lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
}

ERN_FN ern_utf8 ern_utf8_next(const char *text, size_t n, size_t *n_bytes)
{
    unsigned char low, high;
    const int n_tail = unicode_tail((unsigned char)text[0], &low, &high);
    *n_bytes = 1;
    if (n_tail < 0) return ERN_UTF8_BROKEN;
    for (int i = 0; i < n_tail; i++) {
        if (*n_bytes == n) return ERN_UTF8_PARTIAL;
        const unsigned char byte = (unsigned char)text[*n_bytes];
        if (byte < low || byte > high) return ERN_UTF8_BROKEN;
        (*n_bytes)++;
        low = 0x80;
        high = 0xbf;
    }
    return ERN_UTF8_WHOLE;
}

ERN_FN bool ern_utf8_valid(const char *text, size_t n)
{
    size_t n_bytes;
    for (size_t i = 0; i < n; i += n_bytes)
        if (ern_utf8_next(text + i, n - i, &n_bytes) != ERN_UTF8_WHOLE) return false;
    return true;
}
