/* UTF-8 as Unicode defines it (table 3-7): no surrogates, no overlong forms, nothing above
 * U+10FFFF. */
#ifndef ERN_UNICODE_H
#define ERN_UNICODE_H

#include "ern.h"

typedef enum ern_utf8 {
    ERN_UTF8_WHOLE,   /* a character */
    ERN_UTF8_PARTIAL, /* the text ends inside what may still become one */
    ERN_UTF8_BROKEN   /* no character begins like this */
} ern_utf8;

#define ERN_UTF8_REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* What text [n > 0] begins with. *n_bytes receives the length of the character, of the partial one
 * (all n bytes then), or of the "maximal subpart" that one U+FFFD replaces (at least 1). */
ERN_FN ern_utf8 ern_utf8_next(const char *text, size_t n, size_t *n_bytes);

/* Is the whole of text [n] UTF-8? */
ERN_FN bool ern_utf8_valid(const char *text, size_t n);

#endif
