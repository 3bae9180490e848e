/* What a GGUF file says of an ERNIE 4.5 model (general.architecture "ernie4_5", "ernie4_5-moe"):
 * its numbers as a conv_config, its sampling defaults, and what its tensors are called. */
#ifndef ERN_CONVERT_GGUF_MODEL_H
#define ERN_CONVERT_GGUF_MODEL_H

#include "config.h"
#include "gguf.h"

#define CONV_GGUF_HEAD "output.weight" /* absent in tied models */

/* What GGUF calls a tensor of a checkpoint. base: "layers.3." or ""; name: "mlp.gate.weight".
 * `full` receives "blk.3.ffn_gate_inp.weight", or "" when GGUF has no such tensor. */
ERN_FN void conv_gguf_tensor_name(const char *base, const char *name, char *full, size_t size);

/* The architecture numbers. Refuses by key what would change the maths; keys that nobody here knows
 * go to the log. */
ERN_FN ernie_status conv_gguf_config(conv_config *config, const conv_gguf *gguf,
                                     const conv_tensors *tensors, const ern_log *log,
                                     ernie_error *error);

/* Stop ids as for a checkpoint without generation_config.json, and the sampling that the file
 * recommends (general.sampling.*, which few have). */
ERN_FN ernie_status conv_gguf_generation(ern_generation *generation, const conv_gguf *gguf,
                                         const conv_config *config, int32_t turn_end_id,
                                         ernie_error *error);

/* general.name, or the file's name without .gguf and part number. */
ERN_FN const char *conv_gguf_model_name(const conv_gguf *gguf, char name[256]);

#endif
