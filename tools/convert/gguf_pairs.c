/* Values of GGUF's key-value pairs, by key. A wrong type or a number out of range names the key. */
#include "gguf.h"

static const struct {
    const char *name; /* for messages */
    uint32_t n_bytes; /* of a value; 0: as long as it says */
} pairs_types[] = { [CONV_GGUF_U8] = { "u8", 1 },         [CONV_GGUF_I8] = { "i8", 1 },
                    [CONV_GGUF_U16] = { "u16", 2 },       [CONV_GGUF_I16] = { "i16", 2 },
                    [CONV_GGUF_U32] = { "u32", 4 },       [CONV_GGUF_I32] = { "i32", 4 },
                    [CONV_GGUF_F32] = { "f32", 4 },       [CONV_GGUF_BOOL] = { "bool", 1 },
                    [CONV_GGUF_STRING] = { "string", 0 }, [CONV_GGUF_ARRAY] = { "array", 0 },
                    [CONV_GGUF_U64] = { "u64", 8 },       [CONV_GGUF_I64] = { "i64", 8 },
                    [CONV_GGUF_F64] = { "f64", 8 } };

ERN_FN int conv_gguf_value_bytes(uint32_t type)
{
    return type < ERN_COUNT(pairs_types) ? (int)pairs_types[type].n_bytes : -1;
}

static uint64_t pairs_load(const unsigned char *src, size_t n)
{
    uint64_t value = 0;
    for (size_t i = 0; i < n; i++) value |= (uint64_t)src[i] << (8 * i);
    return value;
}

/* ---- Finding --------------------------------------------------------------------------------- */

ERN_FN const conv_gguf_pair *conv_gguf_find_bytes(const conv_gguf *gguf, const char *key, size_t n)
{
    for (size_t i = 0; i < gguf->n_pairs; i++) {
        const conv_gguf_pair *pair = &gguf->pairs[i];
        if (pair->n_key == n && memcmp(gguf->header.data + pair->key, key, n) == 0) return pair;
    }
    return NULL;
}

ERN_FN const conv_gguf_pair *conv_gguf_find(const conv_gguf *gguf, const char *key)
{
    return conv_gguf_find_bytes(gguf, key, strlen(key));
}

/* ---- Numbers --------------------------------------------------------------------------------- */

static const char *pairs_type_name(const conv_gguf_pair *pair)
{
    return pairs_types[pair->type].name;
}

static float pairs_f32(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Any number as a double; false for strings and arrays. */
static bool pairs_as_real(const conv_gguf *gguf, const conv_gguf_pair *pair, double *out)
{
    const uint32_t n_bytes = pairs_types[pair->type].n_bytes;
    const uint64_t bits = pairs_load(gguf->header.data + pair->value, n_bytes);
    if (n_bytes == 0) return false;
    switch ((conv_gguf_value)pair->type) {
    case CONV_GGUF_I8: *out = (int8_t)bits; break;
    case CONV_GGUF_I16: *out = (int16_t)bits; break;
    case CONV_GGUF_I32: *out = (int32_t)bits; break;
    case CONV_GGUF_I64: *out = (double)(int64_t)bits; break;
    case CONV_GGUF_F32: *out = (double)pairs_f32((uint32_t)bits); break;
    case CONV_GGUF_F64: memcpy(out, &bits, sizeof *out); break;
    case CONV_GGUF_BOOL: *out = bits != 0; break;
    default: *out = (double)bits; break;
    }
    return true;
}

ERN_FN ernie_status conv_gguf_real(const conv_gguf *gguf, const char *key, double min, double max,
                                   double *out, ernie_error *error)
{
    double value;
    const conv_gguf_pair *pair = conv_gguf_find(gguf, key);
    if (!pair) return ERNIE_OK;
    ERN_FAIL_IF(!pairs_as_real(gguf, pair, &value), error, ERNIE_FORMAT,
                "%s: %s is of type %s, expected a number", gguf->name, key, pairs_type_name(pair));
    ERN_FAIL_IF(!(value >= min && value <= max), error, ERNIE_FORMAT,
                "%s: %s is %g, expected %g to %g", gguf->name, key, value, min, max);
    *out = value;
    return ERNIE_OK;
}

ERN_FN ernie_status conv_gguf_integer(const conv_gguf *gguf, const char *key, int64_t min,
                                      int64_t max, int64_t *out, ernie_error *error)
{
    double value;
    const conv_gguf_pair *pair = conv_gguf_find(gguf, key);
    if (!pair) return ERNIE_OK;
    ERN_FAIL_IF(!pairs_as_real(gguf, pair, &value) || value != floor(value), error, ERNIE_FORMAT,
                "%s: %s is of type %s, expected a whole number", gguf->name, key,
                pairs_type_name(pair));
    ERN_FAIL_IF(value < (double)min || value > (double)max, error, ERNIE_FORMAT,
                "%s: %s is %.0f, expected %lld to %lld", gguf->name, key, value, (long long)min,
                (long long)max);
    *out = (int64_t)value;
    return ERNIE_OK;
}

/* ---- Strings and arrays ---------------------------------------------------------------------- */

ERN_FN ernie_status conv_gguf_text(const conv_gguf *gguf, const char *key, const char **text,
                                   size_t *n, ernie_error *error)
{
    const conv_gguf_pair *pair = conv_gguf_find(gguf, key);
    *text = NULL;
    *n = 0;
    if (!pair) return ERNIE_OK;
    ERN_FAIL_IF(pair->type != CONV_GGUF_STRING, error, ERNIE_FORMAT,
                "%s: %s is of type %s, expected a string", gguf->name, key, pairs_type_name(pair));
    *text = (const char *)gguf->header.data + pair->value;
    *n = (size_t)pair->n;
    return ERNIE_OK;
}

ERN_FN bool conv_gguf_text_is(const char *text, size_t n, const char *wanted)
{
    return text && n == strlen(wanted) && memcmp(text, wanted, n) == 0;
}

ERN_FN ernie_status conv_gguf_array(const conv_gguf *gguf, const char *key, uint32_t item,
                                    const conv_gguf_pair **pair, ernie_error *error)
{
    *pair = conv_gguf_find(gguf, key);
    if (!*pair) return ERNIE_OK;
    const bool array = (*pair)->type == CONV_GGUF_ARRAY;
    ERN_FAIL_IF(!array || (*pair)->item != item, error, ERNIE_FORMAT,
                "%s: %s is %s%s, expected an array of %s", gguf->name, key,
                array ? "an array of " : "of type ",
                pairs_types[array ? (*pair)->item : (*pair)->type].name, pairs_types[item].name);
    return ERNIE_OK;
}

ERN_FN const char *conv_gguf_next_text(const conv_gguf *gguf, size_t *at, size_t *n)
{
    *n = (size_t)pairs_load(gguf->header.data + *at, sizeof(uint64_t));
    const char *text = (const char *)gguf->header.data + *at + sizeof(uint64_t);
    *at += sizeof(uint64_t) + *n;
    return text;
}

ERN_FN uint32_t conv_gguf_bits(const conv_gguf *gguf, const conv_gguf_pair *pair, uint64_t i)
{
    return (uint32_t)pairs_load(gguf->header.data + pair->value + (size_t)i * 4, 4);
}
