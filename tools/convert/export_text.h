/* What a GGUF file says of a model in words and numbers: architecture, vocabulary, chat template,
 * sampling defaults. */
#ifndef ERN_CONVERT_EXPORT_TEXT_H
#define ERN_CONVERT_EXPORT_TEXT_H

#include "export_tensors.h"
#include "../../src/model.h"

/* Add all pairs. What cannot be said goes to the log, a line each. */
ERN_FN void conv_export_pairs(conv_gguf_out *out, const ernie_model *model,
                              const conv_export_type *type, const ern_log *log);

#endif
