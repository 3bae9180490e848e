/* Absent numbers stay 0, which the library reads as "none given". */
#include "generation.h"

static const char generation_file[] = "generation_config.json";

static ernie_status generation_number(const json_t *root, const char *key, double min, double max,
                                      double *out, ernie_error *error)
{
    const json_t *value = conv_json_get(root, key);
    const double number = json_number_value(value);
    *out = 0;
    if (!value) return ERNIE_OK;
    ERN_FAIL_IF(!json_is_number(value) || !(number >= min && number <= max), error, ERNIE_FORMAT,
                "%s: %s is %g, expected %g to %g", generation_file, key, number, min, max);
    *out = number;
    return ERNIE_OK;
}

static void generation_add_stop(ern_generation *generation, int32_t id)
{
    if (id < 0 || generation->n_stop_ids == ERN_STOP_IDS_MAX) return;
    for (uint32_t i = 0; i < generation->n_stop_ids; i++)
        if (generation->stop_ids[i] == id) return;
    generation->stop_ids[generation->n_stop_ids++] = id;
}

static ernie_status generation_read_stops(ern_generation *generation, const json_t *root,
                                          const conv_config *config, int32_t turn_end_id,
                                          ernie_error *error)
{
    uint32_t n = 0;
    int32_t ids[ERN_STOP_IDS_MAX];
    const ernie_status status = conv_read_ids(root, "eos_token_id", generation_file,
                                              config->hparams.vocab_size, ids, &n, error);
    if (status != ERNIE_OK) return status;
    for (uint32_t i = 0; i < n; i++) generation_add_stop(generation, ids[i]);
    for (uint32_t i = 0; n == 0 && i < config->n_stop_ids; i++)
        generation_add_stop(generation, config->stop_ids[i]);
    generation_add_stop(generation, turn_end_id);
    return ERNIE_OK;
}

ERN_FN ernie_status conv_generation_read(ern_generation *generation, const json_t *root,
                                         const conv_config *config, int32_t turn_end_id,
                                         ernie_error *error)
{
    double temperature, top_p, top_k, penalty;
    memset(generation, 0, sizeof *generation);
    ernie_status status = generation_number(root, "temperature", 0, 100, &temperature, error);
    if (status == ERNIE_OK) status = generation_number(root, "top_p", 0, 1, &top_p, error);
    if (status == ERNIE_OK)
        status = generation_number(root, "top_k", 0, ERN_VOCAB_MAX, &top_k, error);
    if (status == ERNIE_OK)
        status = generation_number(root, "repetition_penalty", 0, 100, &penalty, error);
    if (status == ERNIE_OK)
        status = generation_read_stops(generation, root, config, turn_end_id, error);
    if (status != ERNIE_OK) return status;
    generation->temperature = (float)temperature;
    generation->top_p = (float)top_p;
    generation->top_k = (uint32_t)top_k;
    generation->repetition_penalty = (float)penalty;

    /* Nothing said at all, or a temperature: sample. A file that speaks of neither wants greedy. */
    const json_t *sample = conv_json_get(root, "do_sample");
    ERN_FAIL_IF(sample && !json_is_boolean(sample), error, ERNIE_FORMAT,
                "%s: do_sample is neither true nor false", generation_file);
    generation->do_sample = sample ? json_is_true(sample) : !root || temperature > 0 || top_p > 0;
    return ERNIE_OK;
}

ERN_FN ernie_status conv_generation_load(ern_generation *generation, const char *dir,
                                         const conv_config *config, int32_t turn_end_id,
                                         const ernie_allocator *allocator, ernie_error *error)
{
    json_t *root;
    ernie_status status = conv_json_load(&root, dir, generation_file, false, allocator, error);
    if (status == ERNIE_OK)
        status = conv_generation_read(generation, root, config, turn_end_id, error);
    json_decref(root);
    return status;
}
