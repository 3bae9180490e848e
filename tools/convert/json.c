/* jansson does the parsing; here are the limits and the sentences. */
#include "json.h"

/* Without memory jansson's reader may leave a character out of a string and go on, call it a syntax
 * error, or fail an assertion of its own. So it never learns of it: the first request that fails,
 * and those after it, are served from a reserve, the text ends at once, and all is thrown away. */
#define JSON_FEED_BYTES 64u

/* What n more bytes of text can ask for: a long string's buffer and copy (3 n), a larger table of an
 * array or object (8 n), and small blocks, a few hundred bytes for each byte fed. */
#define JSON_RESERVE_BYTES(n) (12 * (n) + ((size_t)64 << 10))

typedef struct json_reading {
    const unsigned char *text; /* [n] */
    size_t n, n_fed;
    unsigned char *reserve; /* [n_reserve] */
    size_t n_reserve, n_used;
    json_malloc_t take; /* as they were before */
    json_free_t give;
    bool starved;
} json_reading;

static _Thread_local json_reading *json_now; /* of this thread, NULL: none */

static void *json_take(size_t n)
{
    json_reading *r = json_now;
    void *block = r ? r->take(n) : malloc(n);
    if (block || !r) return block;
    r->starved = true;
    n = ern_round_up(n, alignof(max_align_t));
    if (n > r->n_reserve - r->n_used) return NULL;
    r->n_used += n;
    return r->reserve + r->n_used - n;
}

static void json_give(void *block)
{
    const json_reading *r = json_now;
    if (!r) free(block);
    else if ((uintptr_t)block - (uintptr_t)r->reserve >= r->n_reserve) r->give(block);
}

static size_t json_feed(void *buffer, size_t size, void *user)
{
    json_reading *r = user;
    const size_t left = r->starved ? 0 : r->n - r->n_fed;
    const size_t n = ern_min_size(ern_min_size(size, left), JSON_FEED_BYTES);
    if (n) memcpy(buffer, r->text + r->n_fed, n);
    r->n_fed += n;
    return n;
}

/* NULL with *reason set, or without when memory is short. */
static json_t *json_read(const void *data, size_t n, json_error_t *reason)
{
    json_reading r = { .text = data, .n = n, .n_reserve = JSON_RESERVE_BYTES(n) };
    json_get_alloc_funcs(&r.take, &r.give);
    reason->text[0] = '\0';
    r.reserve = r.take(r.n_reserve);
    if (!r.reserve) return NULL;
    json_now = &r;
    json_set_alloc_funcs(json_take, json_give);
    json_t *value = json_load_callback(json_feed, &r, JSON_REJECT_DUPLICATES, reason);
    if (r.starved) {
        json_decref(value);
        value = NULL;
        reason->text[0] = '\0';
    }
    json_set_alloc_funcs(r.take, r.give);
    json_now = NULL;
    r.give(r.reserve);
    return value;
}

ERN_FN ernie_status conv_json_parse(json_t **out, const void *data, size_t n, const char *name,
                                    ernie_error *error)
{
    json_error_t reason;
    *out = NULL;
    json_t *value = json_read(data, n, &reason);
    ERN_FAIL_IF(!value && !reason.text[0], error, ERNIE_NO_MEMORY,
                "%s: no memory to read its %zu bytes as JSON", name, n);
    ERN_FAIL_IF(!value, error, ERNIE_FORMAT, "%s: line %d is not JSON: %s", name, reason.line,
                reason.text);
    if (!json_is_object(value)) {
        json_decref(value);
        return ern_error_set(error, ERNIE_FORMAT, "%s: is not a JSON object", name);
    }
    *out = value;
    return ERNIE_OK;
}

ERN_FN ernie_status conv_json_load(json_t **out, const char *dir, const char *name, bool required,
                                   const ernie_allocator *allocator, ernie_error *error)
{
    conv_path path;
    conv_bytes bytes = { .allocator = allocator };
    *out = NULL;
    ernie_status status = conv_path_join(&path, dir, name, error);
    if (status != ERNIE_OK) return status;
    if (!required && !conv_file_exists(path.text)) return ERNIE_OK;
    status = conv_file_load(&bytes, path.text, CONV_JSON_BYTES_MAX, error);
    if (status == ERNIE_OK) status = conv_json_parse(out, bytes.data, bytes.n, name, error);
    conv_bytes_free(&bytes);
    return status;
}

ERN_FN const json_t *conv_json_get(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_null(value) ? NULL : value;
}
