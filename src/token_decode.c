/* Ids to text. Two halves: a token's bytes, and a stream that lets only whole characters through,
 * so that any ids in any order give valid UTF-8. */
#include "token_inner.h"

/* U+2047 between spaces, as sentencepiece writes it. */
static const char decode_unknown[] = { ' ', '\xe2', '\x81', '\x87', ' ' };

static bool decode_starts_with_space(const char *text, size_t n)
{
    return n >= ERN_TOKEN_SPACE_BYTES && memcmp(text, ERN_TOKEN_SPACE, ERN_TOKEN_SPACE_BYTES) == 0;
}

/* Copy a piece with U+2581 as a space. */
static size_t decode_piece(const char *text, size_t n, char *bytes)
{
    size_t n_bytes = 0;
    for (size_t i = 0; i < n;) {
        const bool space = decode_starts_with_space(text + i, n - i);
        bytes[n_bytes++] = text[i];
        if (space) bytes[n_bytes - 1] = ' ';
        i += space ? ERN_TOKEN_SPACE_BYTES : 1;
    }
    return n_bytes;
}

static size_t decode_byte(const ern_tokenizer *t, int32_t id, char *bytes)
{
    static const char digits[] = "0123456789ABCDEF";
    const char *text = ern_piece_text(t, id); /* checked at open: "<0xHH>" */
    const ptrdiff_t high = strchr(digits, text[3]) - digits, low = strchr(digits, text[4]) - digits;
    bytes[0] = (char)(unsigned char)(high * 16 + low);
    return 1;
}

static bool decode_strips_space(const ern_tokenizer *t)
{
    return t->flags & (ERN_TOKENIZER_DUMMY_PREFIX | ERN_TOKENIZER_REMOVE_EXTRA_SPACES);
}

static size_t decode_special(const char *text, size_t n, bool with_special, char *bytes)
{
    if (!with_special) return 0;
    memcpy(bytes, text, n);
    return n;
}

ERN_FN size_t ern_token_bytes(const ern_tokenizer *t, int32_t id, bool with_special, bool first,
                              char *bytes)
{
    if (id < 0 || (uint32_t)id >= t->n_tokens) return 0;
    const char *text = ern_piece_text(t, id);
    size_t n = ern_piece_bytes(t, id);
    switch (t->type[id]) {
    case ERN_TOKEN_CONTROL:
    case ERN_TOKEN_ADDED: return decode_special(text, n, with_special, bytes);
    case ERN_TOKEN_BYTE: return decode_byte(t, id, bytes);
    case ERN_TOKEN_UNKNOWN:
        if (with_special) return decode_special(text, n, true, bytes);
        memcpy(bytes, decode_unknown, sizeof decode_unknown);
        return sizeof decode_unknown;
    default: break;
    }
    if (first && decode_strips_space(t) && decode_starts_with_space(text, n)) {
        text += ERN_TOKEN_SPACE_BYTES;
        n -= ERN_TOKEN_SPACE_BYTES;
    }
    return decode_piece(text, n, bytes);
}

/* ---- Whole characters ---------------------------------------------------------------------- */

static size_t decode_replace(char *text)
{
    memcpy(text, ERN_UTF8_REPLACEMENT, 3);
    return 3;
}

/* Take a character, or what one U+FFFD stands for, off bytes [n]; returns what was written. At a
 * partial character *n_read is 0. */
static size_t decode_character(const char *bytes, size_t n, size_t *n_read, char *text)
{
    const ern_utf8 kind = ern_utf8_next(bytes, n, n_read);
    if (kind == ERN_UTF8_BROKEN) return decode_replace(text);
    if (kind == ERN_UTF8_PARTIAL) {
        *n_read = 0;
        return 0;
    }
    memcpy(text, bytes, *n_read);
    return *n_read;
}

/* Complete the held beginning byte by byte: either it becomes a character, or the byte that breaks
 * it is looked at afresh. Returns bytes written; *n_read counts bytes taken from `bytes`. */
static size_t decode_held(ernie_text_stream *stream, const char *bytes, size_t n, size_t *n_read,
                          char *text)
{
    *n_read = 0;
    while (*n_read < n && stream->n_held < sizeof stream->held) {
        size_t n_character;
        stream->held[stream->n_held++] = (uint8_t)bytes[(*n_read)++];
        const ern_utf8 kind =
            ern_utf8_next((const char *)stream->held, stream->n_held, &n_character);
        if (kind == ERN_UTF8_PARTIAL) continue;
        const size_t n_held = stream->n_held;
        stream->n_held = 0;
        if (kind == ERN_UTF8_WHOLE) {
            memcpy(text, stream->held, n_held);
            return n_held;
        }
        (*n_read)--;
        return decode_replace(text);
    }
    return 0;
}

ERN_FN size_t ern_utf8_stream(ernie_text_stream *stream, const char *bytes, size_t n, char *text)
{
    size_t n_text = 0, n_read = 0, i = 0;
    if (stream->n_held) n_text = decode_held(stream, bytes, n, &i, text);
    while (i < n) {
        n_text += decode_character(bytes + i, n - i, &n_read, text + n_text);
        if (n_read == 0) break;
        i += n_read;
    }
    if (i < n) {
        stream->n_held = (uint32_t)(n - i);
        memcpy(stream->held, bytes + i, n - i);
    }
    return n_text;
}

ERN_FN size_t ern_utf8_finish(ernie_text_stream *stream, char *text)
{
    const uint32_t n_held = stream->n_held;
    stream->n_held = 0;
    return n_held ? decode_replace(text) : 0;
}

ERN_FN size_t ern_decode(const ern_tokenizer *t, ern_decoding *decoding, int32_t id,
                         bool with_special, char *text)
{
    char bytes[ERN_TOKEN_TEXT_MAX];
    const bool first = !decoding->begun;
    const size_t n = ern_token_bytes(t, id, with_special, first, bytes);
    if (n) decoding->begun = true;
    /* A piece that was nothing but the dummy space has used it up, unless spaces are trimmed. */
    if (first && n == 0 && !(t->flags & ERN_TOKENIZER_REMOVE_EXTRA_SPACES)
        && ern_token_bytes(t, id, with_special, false, bytes) != 0)
        decoding->begun = true;
    return ern_utf8_stream(&decoding->stream, bytes, n, text);
}
