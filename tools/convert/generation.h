/* generation_config.json: the sampling that the checkpoint's makers suggest, and where answers
 * end. */
#ifndef ERN_CONVERT_GENERATION_H
#define ERN_CONVERT_GENERATION_H

#include "config.h"

/* Stop ids are those of generation_config.json, else of config.json, and turn_end_id (-1: none). */
ERN_FN ernie_status conv_generation_load(ern_generation *generation, const char *dir,
                                         const conv_config *config, int32_t turn_end_id,
                                         const ernie_allocator *allocator, ernie_error *error);
ERN_FN ernie_status conv_generation_read(ern_generation *generation, const json_t *root,
                                         const conv_config *config, int32_t turn_end_id,
                                         ernie_error *error);

#endif
