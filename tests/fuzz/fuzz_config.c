/* Can config.json or generation_config.json hurt the converter? Whatever passes must be a model
 * that the format can lay out. */
#include "../../tools/convert/config.h"
#include "../../tools/convert/generation.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void fuzz_config_lay_out(const ern_hparams *hparams)
{
    ern_layout layout;
    ern_record record;
    bool optional;
    uint64_t total = 0;
    uint32_t n = 0;
    if (ern_hparams_check(hparams, NULL) != ERNIE_OK) return;
    ern_layout_begin(&layout, hparams);
    while (n++ < 4096 && ern_layout_next(&layout, &record, &optional))
        total += ern_record_bytes(&record);
    if (total == 0) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    json_t *root;
    conv_config config;
    ern_generation generation;
    ernie_error error = { ERNIE_OK, "" };
    if (conv_json_parse(&root, data, n, "config.json", &error) != ERNIE_OK) return 0;
    const ernie_status status = conv_config_read(&config, root, &error);
    if ((status == ERNIE_OK) != (error.message[0] == '\0')) abort();
    if (status == ERNIE_OK && !config.vision[0]) fuzz_config_lay_out(&config.hparams);
    if (status != ERNIE_OK || config.vision[0]) memset(&config, 0, sizeof config);
    if (config.hparams.vocab_size == 0) config.hparams.vocab_size = 1000;
    if (conv_generation_read(&generation, root, &config, -1, &error) == ERNIE_OK
        && generation.n_stop_ids > ERN_STOP_IDS_MAX)
        abort();
    json_decref(root);
    return 0;
}
