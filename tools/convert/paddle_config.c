/* The quantization_config of Baidu's checkpoints, as FastDeploy reads it: one scheme for the dense
 * layers, one for the experts, or two for the experts of different layers. A scheme that is not
 * known here is refused by name, and so is a setting that would change what numbers mean. */
#include "paddle.h"

static const char *const quant_names[CONV_N_SCHEMES] = { "none",   "wint8",          "wint4",
                                                         "w4a8",   "block_wise_fp8", "wint2",
                                                         "wint2.5" };

ERN_FN const char *conv_scheme_name(uint32_t scheme)
{
    return scheme < CONV_N_SCHEMES ? quant_names[scheme] : "?";
}

/* ---- Values ---------------------------------------------------------------------------------- */

/* A text under `key`, NULL when absent. */
static ernie_status quant_text(const json_t *object, const char *key, const char **text,
                               ernie_error *error)
{
    const json_t *value = conv_json_get(object, key);
    *text = json_string_value(value);
    ERN_FAIL_IF(value && !*text, error, ERNIE_FORMAT,
                "config.json: %s of quantization_config is not a string", key);
    return ERNIE_OK;
}

static ernie_status quant_number(const json_t *object, const char *key, uint32_t max,
                                 uint32_t *number, ernie_error *error)
{
    const json_t *value = conv_json_get(object, key);
    const long long n = json_integer_value(value);
    if (!value) return ERNIE_OK; /* *number keeps its default */
    ERN_FAIL_IF(!json_is_integer(value) || n < 0 || n > (long long)max, error, ERNIE_FORMAT,
                "config.json: %s of quantization_config is not a whole number from 0 to %u", key,
                (unsigned)max);
    *number = (uint32_t)n;
    return ERNIE_OK;
}

static ernie_status quant_object(const json_t *object, const char *key, const json_t **child,
                                 ernie_error *error)
{
    *child = conv_json_get(object, key);
    ERN_FAIL_IF(*child && !json_is_object(*child), error, ERNIE_FORMAT,
                "config.json: %s is not an object", key);
    return ERNIE_OK;
}

/* The scheme under `key`; *scheme keeps its default when the key is absent. */
static ernie_status quant_scheme(const json_t *object, const char *key, uint32_t *scheme,
                                 ernie_error *error)
{
    const char *text;
    const ernie_status status = quant_text(object, key, &text, error);
    if (status != ERNIE_OK || !text) return status;
    for (uint32_t i = CONV_WINT8; i < CONV_N_SCHEMES; i++) {
        if (strcmp(text, quant_names[i]) != 0) continue;
        *scheme = i;
        return ERNIE_OK;
    }
    return ern_error_set(error, ERNIE_UNSUPPORTED,
                         "config.json: %s of quantization_config is \"%.32s\", known are wint8, "
                         "wint4, w4a8, block_wise_fp8, wint2, wint2.5 and, of experts, w4w2",
                         key, text);
}

/* A setting that has one value in what can be decoded. */
static ernie_status quant_only(const json_t *object, const char *key, const char *only,
                               ernie_error *error)
{
    const char *text;
    const ernie_status status = quant_text(object, key, &text, error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(text && strcmp(text, only) != 0, error, ERNIE_UNSUPPORTED,
                "config.json: %s of quantization_config is \"%.32s\", only \"%s\" is supported",
                key, text, only);
    return ERNIE_OK;
}

/* ---- Experts --------------------------------------------------------------------------------- */

/* One part of moe_quant_config; *part holds the defaults. */
static ernie_status quant_part(const json_t *config, const char *key, const char *granularity,
                               uint32_t n_layers, conv_expert_scheme *part, ernie_error *error)
{
    const json_t *object;
    uint32_t group = 0;
    ernie_status status = quant_object(config, key, &object, error);
    if (status == ERNIE_OK) status = quant_scheme(object, "quant_type", &part->scheme, error);
    if (status == ERNIE_OK) status = quant_only(object, "quant_granularity", granularity, error);
    if (status == ERNIE_OK) status = quant_number(object, "quant_group_size", 1024, &group, error);
    if (status == ERNIE_OK)
        status = quant_number(object, "quant_start_layer", UINT32_MAX, &part->first, error);
    if (status == ERNIE_OK)
        status = quant_number(object, "quant_end_layer", UINT32_MAX, &part->last, error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(group != 0 && group != 64, error, ERNIE_UNSUPPORTED,
                "config.json: quant_group_size of %s is %u, only 64 is supported", key,
                (unsigned)group);
    ERN_FAIL_IF(part->first > part->last && part->first < n_layers, error, ERNIE_FORMAT,
                "config.json: quant_end_layer of %s is %u, before quant_start_layer %u", key,
                (unsigned)part->last, (unsigned)part->first);
    return ERNIE_OK;
}

/* int4 in the first layers, 2 bits in the rest. */
static ernie_status quant_mixed(conv_quant *quant, const json_t *object, uint32_t n_layers,
                                ernie_error *error)
{
    const json_t *config;
    conv_expert_scheme *part = quant->experts;
    quant->n_experts = 2;
    part[0] = (conv_expert_scheme){ CONV_WINT4, 0, 6 };
    ernie_status status = quant_object(object, "moe_quant_config", &config, error);
    if (status == ERNIE_OK)
        status =
            quant_part(config, "moe_w4_quant_config", "per_channel", n_layers, &part[0], error);
    if (status != ERNIE_OK) return status;
    part[1] = (conv_expert_scheme){ CONV_WINT2, part[0].last + 1, n_layers - 1 };
    return quant_part(config, "moe_w2_quant_config", "pp_acc", n_layers, &part[1], error);
}

static ernie_status quant_experts(conv_quant *quant, const json_t *object, uint32_t usual,
                                  bool mixed, uint32_t n_layers, ernie_error *error)
{
    const char *text;
    const ernie_status status = quant_text(object, "moe_quant_type", &text, error);
    if (status != ERNIE_OK) return status;
    if (text ? strcmp(text, "w4w2") == 0 : mixed)
        return quant_mixed(quant, object, n_layers, error);
    quant->n_experts = 1;
    quant->experts[0] = (conv_expert_scheme){ usual, 0, UINT32_MAX };
    return quant_scheme(object, "moe_quant_type", &quant->experts[0].scheme, error);
}

/* ---- The whole ------------------------------------------------------------------------------- */

static ernie_status quant_blocks(const json_t *object, ernie_error *error)
{
    const json_t *size = conv_json_get(object, "weight_block_size");
    const json_t *rows = json_array_get(size, 0), *columns = json_array_get(size, 1);
    ERN_FAIL_IF(size
                    && (json_array_size(size) != 2 || json_integer_value(rows) != 128
                        || json_integer_value(columns) != 128),
                error, ERNIE_UNSUPPORTED,
                "config.json: weight_block_size of quantization_config is not [128, 128]");
    return ERNIE_OK;
}

static ernie_status quant_settings(conv_quant *quant, const json_t *object, ernie_error *error)
{
    const json_t *permuted = conv_json_get(object, "is_permuted");
    const json_t *method = conv_json_get(object, "quant_method");
    ERN_FAIL_IF(method, error, ERNIE_UNSUPPORTED,
                "config.json: quant_method of quantization_config is \"%.32s\", only Baidu's own "
                "schemes are supported",
                json_is_string(method) ? json_string_value(method) : "?");
    ERN_FAIL_IF(permuted && !json_is_boolean(permuted), error, ERNIE_FORMAT,
                "config.json: is_permuted of quantization_config is neither true nor false");
    quant->permuted = json_is_true(permuted);
    quant->permuted_said = permuted != NULL;
    ernie_status status =
        quant_number(object, "hadamard_block_size", 1u << 20, &quant->hadamard, error);
    if (status == ERNIE_OK)
        status = quant_only(object, "dense_quant_granularity", "per_channel", error);
    return status == ERNIE_OK ? quant_blocks(object, error) : status;
}

ERN_FN ernie_status conv_quant_read(conv_quant *quant, const json_t *root, uint32_t n_layers,
                                    ernie_error *error)
{
    const json_t *object;
    const char *text;
    uint32_t usual = CONV_UNQUANTIZED;
    memset(quant, 0, sizeof *quant);
    ernie_status status = quant_object(root, "quantization_config", &object, error);
    if (status != ERNIE_OK || !object) return status;
    status = quant_settings(quant, object, error);
    if (status == ERNIE_OK) status = quant_text(object, "quantization", &text, error);
    if (status != ERNIE_OK) return status;
    const bool two_bits = text && strcmp(text, "wint2") == 0;
    if (text && strcmp(text, "mix_quant") != 0)
        status = quant_scheme(object, "quantization", &usual, error);
    if (status != ERNIE_OK) return status;
    quant->dense = two_bits ? CONV_WINT8 : usual == CONV_W4A8 ? CONV_UNQUANTIZED : usual;
    status = quant_scheme(object, "dense_quant_type", &quant->dense, error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(quant->dense == CONV_W4A8, error, ERNIE_UNSUPPORTED,
                "config.json: dense_quant_type of quantization_config is \"w4a8\", a scheme of "
                "experts");
    return quant_experts(quant, object, usual, two_bits, n_layers, error);
}

ERN_FN bool conv_quant_knows(const char *key)
{
    static const char *const names[] = {
        "dense_quant_granularity", "dense_quant_type",     "hadamard_block_size",
        "has_zero_point",          "image_moe_quant_type", "is_channel_wise",
        "is_moe_quantized",        "is_permuted",          "is_quantized",
        "kv_cache_quant_type",     "moe_dynamic_quant",    "moe_quant_config",
        "moe_quant_type",          "quantization",         "weight_block_size"
    };
    for (size_t i = 0; i < ERN_COUNT(names); i++)
        if (strcmp(key, names[i]) == 0) return true;
    return false;
}
