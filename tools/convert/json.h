/* JSON files through jansson, with our statuses. */
#ifndef ERN_CONVERT_JSON_H
#define ERN_CONVERT_JSON_H

#include "file.h"

#include <jansson.h>

#define CONV_JSON_BYTES_MAX ((uint64_t)16 << 20) /* the largest published ones have a few MB */

/* An object from bytes; ERNIE_FORMAT names `name`, line and reason. ERNIE_NO_MEMORY. */
ERN_FN ernie_status conv_json_parse(json_t **out, const void *data, size_t n, const char *name,
                                    ernie_error *error);

/* An object from dir/name. A missing file is ERNIE_OK with *out NULL unless `required`. */
ERN_FN ernie_status conv_json_load(json_t **out, const char *dir, const char *name, bool required,
                                   const ernie_allocator *allocator, ernie_error *error);

/* The value of a key; a JSON null counts as absent (NULL). */
ERN_FN const json_t *conv_json_get(const json_t *object, const char *key);

#endif
