/* jansson does the parsing; here are the limits and the sentences. */
#include "json.h"

ERN_FN ernie_status conv_json_parse(json_t **out, const void *data, size_t n, const char *name,
                                    ernie_error *error)
{
    json_error_t reason;
    *out = NULL;
    json_t *value = json_loadb(data, n, JSON_REJECT_DUPLICATES, &reason);
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
