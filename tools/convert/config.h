/* config.json: the architecture numbers, in any of the spellings that ERNIE 4.5 checkpoints use.
 * Refuses by name what would change the maths. Knows no tensors. */
#ifndef ERN_CONVERT_CONFIG_H
#define ERN_CONVERT_CONFIG_H

#include "../../src/format.h"
#include "paddle.h"

typedef struct conv_config {
    ern_hparams hparams; /* tied and n_mtp_layers are settled later, by the tensors */
    char architecture[32];
    bool tie;              /* transformers ties where nothing is said */
    bool tie_said;
    char unknown[256]; /* fields that nothing here knows, "a, b"; "" for none */
    bool moe_start_unsaid; /* moe_layer_start is 0 until the tensors decide */
    bool shared_unsaid;    /* shared experts are 0 until the tensors decide */
    conv_quant quant;      /* what Baidu's quantized checkpoints say of themselves */
    uint32_t n_stop_ids; /* all of eos_token_id */
    int32_t stop_ids[ERN_STOP_IDS_MAX];
    char vision[64]; /* the field that says "vision-language"; "" in text models. When set, nothing
                        else has been read */
} conv_config;

ERN_FN ernie_status conv_config_load(conv_config *config, const char *dir,
                                     const ernie_allocator *allocator, ernie_error *error);
ERN_FN ernie_status conv_config_read(conv_config *config, const json_t *root, ernie_error *error);

/* Token ids under `key`: absent, one number, or a list, each 0 .. vocab_size - 1; a single -1
 * counts as absent. `file` is for the message. */
ERN_FN ernie_status conv_read_ids(const json_t *root, const char *key, const char *file,
                                  uint32_t vocab_size, int32_t ids[ERN_STOP_IDS_MAX], uint32_t *n,
                                  ernie_error *error);

#endif
