/* Fields that only training reads are ignored; a field that would change the numbers must have the
 * value that every published text model has, or the checkpoint is refused by that field's name; a field
 * that nobody here has heard of is named to the user. */
#include "config.h"

static const char config_file[] = "config.json";

/* ---- Values ---------------------------------------------------------------------------------- */

/* Vision-language configs hold [text, vision] pairs where text models hold numbers. */
static const json_t *config_scalar(const json_t *root, const char *key)
{
    const json_t *value = conv_json_get(root, key);
    return json_is_array(value) ? json_array_get(value, 0) : value;
}

static ernie_status config_integer(const json_t *root, const char *key, int64_t min, int64_t max,
                                   int64_t *out, ernie_error *error)
{
    const json_t *value = config_scalar(root, key);
    const double number = json_number_value(value);
    if (!value) return ERNIE_OK; /* *out keeps its default */
    ERN_FAIL_IF(!json_is_number(value) || number != floor(number), error, ERNIE_FORMAT,
                "%s: %s is not a whole number", config_file, key);
    ERN_FAIL_IF(number < (double)min || number > (double)max, error, ERNIE_FORMAT,
                "%s: %s is %.0f, expected %lld to %lld", config_file, key, number, (long long)min,
                (long long)max);
    *out = (int64_t)number;
    return ERNIE_OK;
}

static ernie_status config_real(const json_t *root, const char *key, double min, double max,
                                double *out, ernie_error *error)
{
    const json_t *value = config_scalar(root, key);
    if (!value) return ERNIE_OK;
    const double number = json_number_value(value);
    ERN_FAIL_IF(!json_is_number(value) || !(number >= min && number <= max), error, ERNIE_FORMAT,
                "%s: %s is %g, expected %g to %g", config_file, key, number, min, max);
    *out = number;
    return ERNIE_OK;
}

/* One row of the table of counts: where it goes, what it may be. */
typedef struct config_field {
    const char *key, *alias; /* alias: another spelling, may be NULL */
    size_t offset;           /* of the uint32_t in ern_hparams */
    int64_t min, max;
    int64_t fallback; /* when absent; -1: must be there */
} config_field;

#define CONFIG_AT(field) offsetof(ern_hparams, field)

static const config_field config_common[] = {
    { "num_hidden_layers", NULL, CONFIG_AT(n_layers), 1, ERN_LAYERS_MAX, -1 },
    { "hidden_size", NULL, CONFIG_AT(hidden_size), 1, ERN_DIM_MAX, -1 },
    { "num_attention_heads", NULL, CONFIG_AT(n_heads), 1, ERN_HEADS_MAX, -1 },
    { "num_key_value_heads", NULL, CONFIG_AT(n_kv_heads), 1, ERN_HEADS_MAX, 0 },
    { "head_dim", NULL, CONFIG_AT(head_dim), 1, ERN_DIM_MAX, 0 },
    { "intermediate_size", NULL, CONFIG_AT(intermediate_size), 1, ERN_DIM_MAX, -1 },
    { "vocab_size", NULL, CONFIG_AT(vocab_size), 1, ERN_VOCAB_MAX, -1 },
    { "max_position_embeddings", NULL, CONFIG_AT(context_max), 1, ERN_CONTEXT_MAX, 131072 },
    { "num_nextn_predict_layers", NULL, CONFIG_AT(n_mtp_layers), 0, ERN_MTP_MAX, 0 },
};

static const config_field config_moe[] = {
    { "moe_num_experts", "num_experts", CONFIG_AT(n_experts), 1, ERN_EXPERTS_MAX, -1 },
    { "moe_k", "num_experts_per_tok", CONFIG_AT(moe_k), 1, ERN_EXPERTS_MAX, -1 },
    { "moe_intermediate_size", NULL, CONFIG_AT(moe_intermediate_size), 1, ERN_DIM_MAX, -1 },
    { "moe_num_shared_experts", NULL, CONFIG_AT(n_shared_experts), 0, ERN_EXPERTS_MAX, 0 },
};

static ernie_status config_read_fields(ern_hparams *hparams, const json_t *root,
                                       const config_field *fields, size_t n, ernie_error *error)
{
    for (size_t i = 0; i < n; i++) {
        const config_field *field = &fields[i];
        int64_t value = field->fallback;
        const bool renamed = field->alias && !config_scalar(root, field->key);
        const char *key = renamed ? field->alias : field->key;
        const ernie_status status =
            config_integer(root, key, field->min, field->max, &value, error);
        if (status != ERNIE_OK) return status;
        ERN_FAIL_IF(value < 0, error, ERNIE_FORMAT, "%s: %s is missing", config_file, field->key);
        const uint32_t count = (uint32_t)value;
        memcpy((unsigned char *)hparams + field->offset, &count, sizeof count);
    }
    return ERNIE_OK;
}

/* ---- What kind of model ---------------------------------------------------------------------- */

static bool config_says_vision(const char *text)
{
    return text && (strstr(text, "VL") || strstr(text, "_vl"));
}

static const char *config_architecture_name(const json_t *root)
{
    return json_string_value(json_array_get(conv_json_get(root, "architectures"), 0));
}

static void config_find_vision(conv_config *config, const json_t *root)
{
    const char *field = NULL;
    if (config_says_vision(json_string_value(conv_json_get(root, "model_type"))))
        field = "model_type";
    if (config_says_vision(config_architecture_name(root))) field = "architectures";
    if (conv_json_get(root, "vision_config")) field = "vision_config";
    if (field) snprintf(config->vision, sizeof config->vision, "%s", field);
}

static ernie_status config_read_kind(conv_config *config, const json_t *root, bool *moe,
                                     ernie_error *error)
{
    static const struct {
        const char *text;
        bool moe;
    } names[] = { { "Ernie4_5ForCausalLM", false },
                  { "Ernie4_5_ForCausalLM", false },
                  { "Ernie4_5_MoeForCausalLM", true },
                  { "ernie4_5", false },
                  { "ernie4_5_moe", true } };
    const char *given[2] = { config_architecture_name(root),
                             json_string_value(conv_json_get(root, "model_type")) };
    bool known[2] = { false, false }, is_moe[2] = { false, false };
    for (size_t k = 0; k < 2; k++) {
        for (size_t i = 0; given[k] && i < ERN_COUNT(names); i++) {
            if (strcmp(given[k], names[i].text) != 0) continue;
            known[k] = true;
            is_moe[k] = names[i].moe;
        }
        if (k == 1 && known[0] && given[1] && strcmp(given[1], "ernie") == 0)
            break; /* Paddle's word for the whole family */
        ERN_FAIL_IF(given[k] && !known[k], error, ERNIE_UNSUPPORTED,
                    "%s: %s is \"%.64s\", known are ERNIE 4.5's ernie4_5 and ernie4_5_moe",
                    config_file, k ? "model_type" : "architectures", given[k]);
    }
    ERN_FAIL_IF(!known[0] && !known[1], error, ERNIE_UNSUPPORTED,
                "%s: neither architectures nor model_type says what it is", config_file);
    ERN_FAIL_IF(known[0] && known[1] && is_moe[0] != is_moe[1], error, ERNIE_FORMAT,
                "%s: architectures is \"%s\" but model_type is \"%s\"", config_file, given[0],
                given[1]);
    *moe = is_moe[0] || is_moe[1];
    snprintf(config->architecture, sizeof config->architecture, "%s",
             *moe ? "ernie4_5_moe" : "ernie4_5");
    return ERNIE_OK;
}

/* ---- Fields that must have one value --------------------------------------------------------- */

static ernie_status config_refuse_flags(const json_t *root, ernie_error *error)
{
    static const struct {
        const char *key;
        bool needed;
    } flags[] = { { "use_bias", false },          { "attention_bias", false },
                  { "mlp_bias", false },          { "use_rmsnorm", true },
                  { "moe_group_experts", false }, { "moe_norm_gate_logits", true },
                  { "norm_topk_prob", true },     { "use_qk_norm", false } };
    for (size_t i = 0; i < ERN_COUNT(flags); i++) {
        const json_t *value = conv_json_get(root, flags[i].key);
        ERN_FAIL_IF(value && !json_is_boolean(value) && !json_is_integer(value), error,
                    ERNIE_FORMAT, "%s: %s is neither true nor false", config_file, flags[i].key);
        const bool is = json_is_true(value) || json_integer_value(value) != 0;
        ERN_FAIL_IF(value && is != flags[i].needed, error, ERNIE_UNSUPPORTED,
                    "%s: %s is %s, only %s is supported", config_file, flags[i].key,
                    is ? "true" : "false", is ? "false" : "true");
    }
    return ERNIE_OK;
}

static ernie_status config_refuse_values(const json_t *root, ernie_error *error)
{
    static const struct {
        const char *key, *text;
    } texts[] = { { "hidden_act", "silu" }, { "moe_gate_act", "softmax" } };
    static const char *const ones[] = { "compression_ratio", "partial_rotary_factor" };
    static const char *const absent[] = { "sliding_window" };
    for (size_t i = 0; i < ERN_COUNT(texts); i++) {
        const json_t *value = conv_json_get(root, texts[i].key);
        const char *text = json_string_value(value);
        ERN_FAIL_IF(value && (!text || strcmp(text, texts[i].text) != 0), error, ERNIE_UNSUPPORTED,
                    "%s: %s is \"%.64s\", only \"%s\" is supported", config_file, texts[i].key,
                    text ? text : "?", texts[i].text);
    }
    for (size_t i = 0; i < ERN_COUNT(ones); i++) {
        const json_t *value = conv_json_get(root, ones[i]);
        ERN_FAIL_IF(value && json_number_value(value) != 1.0, error, ERNIE_UNSUPPORTED,
                    "%s: %s is %g, only 1 is supported", config_file, ones[i],
                    json_number_value(value));
    }
    for (size_t i = 0; i < ERN_COUNT(absent); i++)
        ERN_FAIL_IF(conv_json_get(root, absent[i]), error, ERNIE_UNSUPPORTED,
                    "%s: %s is set, which is not supported", config_file, absent[i]);
    return ERNIE_OK;
}

/* rope_scaling, or transformers 5's rope_parameters: only "default" leaves the angles alone. */
static ernie_status config_refuse_rope(const json_t *root, const char *key, ernie_error *error)
{
    const json_t *rope = conv_json_get(root, key);
    if (!rope) return ERNIE_OK;
    ERN_FAIL_IF(!json_is_object(rope), error, ERNIE_FORMAT, "%s: %s is not an object", config_file,
                key);
    const json_t *type = conv_json_get(rope, "rope_type");
    if (!type) type = conv_json_get(rope, "type");
    const char *text = json_string_value(type);
    ERN_FAIL_IF(type && (!text || strcmp(text, "default") != 0), error, ERNIE_UNSUPPORTED,
                "%s: the type of %s is \"%.64s\", only \"default\" is supported", config_file, key,
                text ? text : "?");
    const json_t *factor = conv_json_get(rope, "factor");
    ERN_FAIL_IF(factor && json_number_value(factor) != 1.0, error, ERNIE_UNSUPPORTED,
                "%s: the factor of %s is %g, only 1 is supported", config_file, key,
                json_number_value(factor));
    return config_refuse_values(rope, error);
}

/* ---- Parts ----------------------------------------------------------------------------------- */

static ernie_status config_read_attention(ern_hparams *hparams, const json_t *root,
                                          ernie_error *error)
{
    if (hparams->n_kv_heads == 0) hparams->n_kv_heads = hparams->n_heads;
    ERN_FAIL_IF(hparams->n_heads % hparams->n_kv_heads != 0, error, ERNIE_FORMAT,
                "%s: num_attention_heads is %u, not a multiple of num_key_value_heads, %u",
                config_file, (unsigned)hparams->n_heads, (unsigned)hparams->n_kv_heads);
    if (hparams->head_dim == 0) {
        hparams->head_dim = hparams->hidden_size / hparams->n_heads; /* whole, as the reference */
        ERN_FAIL_IF(hparams->head_dim == 0, error, ERNIE_FORMAT,
                    "%s: head_dim is missing and hidden_size %u is less than %u heads", config_file,
                    (unsigned)hparams->hidden_size, (unsigned)hparams->n_heads);
    }
    ERN_FAIL_IF(hparams->head_dim % 2 != 0, error, ERNIE_FORMAT,
                "%s: head_dim is %u, rotary positions need an even one", config_file,
                (unsigned)hparams->head_dim);

    double eps = 1e-5, theta = 0, nested_theta = 0;
    ernie_status status = config_real(root, "rms_norm_eps", 0, 1, &eps, error);
    if (status == ERNIE_OK) status = config_real(root, "rope_theta", 1, 1e12, &theta, error);
    if (status == ERNIE_OK)
        status = config_real(conv_json_get(root, "rope_parameters"), "rope_theta", 1, 1e12,
                             &nested_theta, error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(theta != 0 && nested_theta != 0 && theta != nested_theta, error, ERNIE_FORMAT,
                "%s: rope_theta is %g, in rope_parameters it is %g", config_file, theta,
                nested_theta);
    hparams->rms_norm_eps = (float)eps;
    hparams->rope_theta = theta != 0 ? theta : nested_theta != 0 ? nested_theta : 500000.0;
    return ERNIE_OK;
}

static bool config_layer_rule(const ern_hparams *hparams, uint32_t layer, uint32_t interval)
{
    return (layer + 1) % interval == 0 && layer >= hparams->moe_layer_start
           && layer <= hparams->moe_layer_end;
}

/* mlp_layer_types: ["dense", "sparse", ...] as start, end and interval. */
static ernie_status config_read_layer_types(ern_hparams *hparams, const json_t *types,
                                            ernie_error *error)
{
    const size_t n = json_array_size(types);
    size_t first = n, last = 0;
    ERN_FAIL_IF(n != hparams->n_layers, error, ERNIE_FORMAT,
                "%s: mlp_layer_types has %zu entries, num_hidden_layers is %u", config_file, n,
                (unsigned)hparams->n_layers);
    for (size_t i = 0; i < n; i++) {
        const char *text = json_string_value(json_array_get(types, i));
        ERN_FAIL_IF(!text || (strcmp(text, "dense") != 0 && strcmp(text, "sparse") != 0), error,
                    ERNIE_UNSUPPORTED,
                    "%s: mlp_layer_types[%zu] is \"%.32s\", known are dense and sparse",
                    config_file, i, text ? text : "?");
        if (text[0] == 'd') continue;
        if (first == n) first = i;
        last = i;
    }
    ERN_FAIL_IF(first == n, error, ERNIE_FORMAT, "%s: mlp_layer_types has no sparse layer",
                config_file);
    hparams->moe_layer_start = (uint32_t)first;
    hparams->moe_layer_end = (uint32_t)last;
    for (uint32_t interval = 1; interval <= hparams->n_layers; interval++) {
        size_t agree = 0;
        for (uint32_t i = 0; i < n; i++)
            agree += config_layer_rule(hparams, i, interval)
                     == (json_string_value(json_array_get(types, i))[0] == 's');
        hparams->moe_layer_interval = interval;
        if (agree == n) return ERNIE_OK;
    }
    return ern_error_set(error, ERNIE_UNSUPPORTED,
                         "%s: mlp_layer_types follows no start, end and interval", config_file);
}

static ernie_status config_read_moe_layers(conv_config *config, const json_t *root,
                                           ernie_error *error)
{
    ern_hparams *hparams = &config->hparams;
    const int64_t last = (int64_t)hparams->n_layers - 1;
    int64_t start = 0, end = -1, interval = 1;
    const json_t *types = conv_json_get(root, "mlp_layer_types");
    if (types) return config_read_layer_types(hparams, types, error);
    ernie_status status = config_integer(root, "moe_layer_start_index", 0, last, &start, error);
    if (status == ERNIE_OK)
        status = config_integer(root, "moe_layer_end_index", -1, UINT32_MAX, &end, error);
    if (status == ERNIE_OK)
        status = config_integer(root, "moe_layer_interval", 1, ERN_LAYERS_MAX, &interval, error);
    if (status != ERNIE_OK) return status;
    config->moe_start_unsaid = !config_scalar(root, "moe_layer_start_index");
    if (end < 0 || end > last) end = last;
    ERN_FAIL_IF(end < start, error, ERNIE_FORMAT,
                "%s: moe_layer_end_index is %lld, before moe_layer_start_index %lld", config_file,
                (long long)end, (long long)start);
    hparams->moe_layer_start = (uint32_t)start;
    hparams->moe_layer_end = (uint32_t)end;
    hparams->moe_layer_interval = (uint32_t)interval;
    return ERNIE_OK;
}

static ernie_status config_read_moe(conv_config *config, const json_t *root, ernie_error *error)
{
    ern_hparams *hparams = &config->hparams;
    double norm_min = 1e-12;
    ernie_status status =
        config_read_fields(hparams, root, config_moe, ERN_COUNT(config_moe), error);
    if (status == ERNIE_OK) status = config_real(root, "moe_norm_min", 0, 1, &norm_min, error);
    if (status == ERNIE_OK) status = config_read_moe_layers(config, root, error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(hparams->moe_k > hparams->n_experts, error, ERNIE_FORMAT,
                "%s: moe_k is %u, moe_num_experts is only %u", config_file,
                (unsigned)hparams->moe_k, (unsigned)hparams->n_experts);
    const uint64_t shared = (uint64_t)hparams->n_shared_experts * hparams->moe_intermediate_size;
    ERN_FAIL_IF(shared > ERN_DIM_MAX, error, ERNIE_FORMAT,
                "%s: moe_num_shared_experts of %u make a width of %llu, at most %u is accepted",
                config_file, (unsigned)hparams->n_shared_experts, (unsigned long long)shared,
                ERN_DIM_MAX);
    config->shared_unsaid = !config_scalar(root, "moe_num_shared_experts");
    hparams->shared_intermediate_size = (uint32_t)shared;
    hparams->moe_norm_min = (float)norm_min;
    return ERNIE_OK;
}

ERN_FN ernie_status conv_read_ids(const json_t *root, const char *key, const char *file,
                                  uint32_t vocab_size, int32_t ids[ERN_STOP_IDS_MAX], uint32_t *n,
                                  ernie_error *error)
{
    const json_t *value = conv_json_get(root, key);
    const size_t count = json_is_array(value) ? json_array_size(value) : value ? 1 : 0;
    *n = 0;
    ERN_FAIL_IF(count > ERN_STOP_IDS_MAX, error, ERNIE_UNSUPPORTED,
                "%s: %s lists %zu ids, at most %d are supported", file, key, count,
                ERN_STOP_IDS_MAX);
    for (size_t i = 0; i < count; i++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, i) : value;
        const long long id = json_integer_value(item);
        if (json_is_integer(item) && id == -1 && count == 1) return ERNIE_OK;
        ERN_FAIL_IF(!json_is_integer(item) || id < 0 || id >= (long long)vocab_size, error,
                    ERNIE_FORMAT, "%s: %s is %lld, vocab_size is %u", file, key, id,
                    (unsigned)vocab_size);
        ids[(*n)++] = (int32_t)id;
    }
    return ERNIE_OK;
}

static ernie_status config_read_ids(conv_config *config, const json_t *root, ernie_error *error)
{
    static const char *const keys[3] = { "bos_token_id", "pad_token_id", "eos_token_id" };
    ern_hparams *hparams = &config->hparams;
    int32_t *first[3] = { &hparams->bos_id, &hparams->pad_id, &hparams->eos_id };
    for (size_t i = 0; i < 3; i++) { /* eos last: its list stays in the config */
        const ernie_status status = conv_read_ids(root, keys[i], config_file, hparams->vocab_size,
                                                  config->stop_ids, &config->n_stop_ids, error);
        if (status != ERNIE_OK) return status;
        *first[i] = config->n_stop_ids > 0 ? config->stop_ids[0] : -1;
    }
    return ERNIE_OK;
}

/* ---- Fields that nobody knows ------------------------------------------------------------------ */

/* Read above, or of training, of memory and of other programs: none of these changes the numbers. */
static bool config_knows(const char *key)
{
    static const char *const names[] = { "add_tail_layers",
                                         "architectures",
                                         "attention_bias",
                                         "attention_dropout",
                                         "attention_probs_dropout_prob",
                                         "auto_map",
                                         "bos_token_id",
                                         "cachekv_quant",
                                         "compression_ratio",
                                         "disable_ffn_model_parallel",
                                         "dpo_config",
                                         "dtype",
                                         "enable_delay_scale_loss",
                                         "enable_mtp_magic_send",
                                         "eos_token_id",
                                         "global_aux_loss",
                                         "head_dim",
                                         "hidden_act",
                                         "hidden_dropout_prob",
                                         "hidden_size",
                                         "ignored_index",
                                         "initializer_range",
                                         "intermediate_size",
                                         "is_encoder_decoder",
                                         "max_position_embeddings",
                                         "max_sequence_length",
                                         "micro_batch_size",
                                         "mlp_bias",
                                         "mlp_layer_types",
                                         "model_name",
                                         "model_type",
                                         "multi_token_pred_lambda",
                                         "norm_topk_prob",
                                         "num_acc_steps",
                                         "num_attention_heads",
                                         "num_experts",
                                         "num_experts_per_tok",
                                         "num_hidden_layers",
                                         "num_key_value_heads",
                                         "num_nextn_predict_layers",
                                         "output_router_logits",
                                         "pad_token_id",
                                         "paddleformers_version",
                                         "paddlenlp_version",
                                         "partial_rotary_factor",
                                         "quantization_config",
                                         "refined_recompute",
                                         "rms_norm_eps",
                                         "rope_parameters",
                                         "rope_reorder",
                                         "rope_scaling",
                                         "rope_theta",
                                         "router_aux_loss_coef",
                                         "scale_qk_coeff",
                                         "sequence_parallel",
                                         "sinkhorn_2gate",
                                         "sinkhorn_temp",
                                         "sliding_window",
                                         "tensor_parallel_degree",
                                         "tensor_parallel_output",
                                         "tie_word_embeddings",
                                         "token_balance_loss",
                                         "token_balance_seqlen",
                                         "torch_dtype",
                                         "transformers_version",
                                         "vocab_size",
                                         "weight_share_add_bias" };
    static const char *const families[] = { "_", "fuse_", "moe_", "pp_", "recompute", "use_", "virtual_pp" };
    for (size_t i = 0; i < ERN_COUNT(names); i++)
        if (strcmp(key, names[i]) == 0) return true;
    for (size_t i = 0; i < ERN_COUNT(families); i++)
        if (strncmp(key, families[i], strlen(families[i])) == 0) return true;
    return false;
}

static void config_name_unknown(conv_config *config, json_t *object, bool (*knows)(const char *key))
{
    const char *key;
    json_t *value;
    size_t at = strlen(config->unknown);
    json_object_foreach(object, key, value) if (!knows(key) && at < sizeof config->unknown) at +=
        (size_t)snprintf(config->unknown + at, sizeof config->unknown - at, "%s%.48s",
                         at ? ", " : "", key);
}

/* ---- The whole ------------------------------------------------------------------------------- */

ERN_FN ernie_status conv_config_read(conv_config *config, const json_t *root, ernie_error *error)
{
    bool moe = false;
    memset(config, 0, sizeof *config);
    config_find_vision(config, root);
    if (config->vision[0]) return ERNIE_OK;
    ern_hparams *hparams = &config->hparams;

    ernie_status status = config_read_kind(config, root, &moe, error);
    if (status == ERNIE_OK) status = config_refuse_flags(root, error);
    if (status == ERNIE_OK) status = config_refuse_values(root, error);
    if (status == ERNIE_OK) status = config_refuse_rope(root, "rope_scaling", error);
    if (status == ERNIE_OK) status = config_refuse_rope(root, "rope_parameters", error);
    if (status == ERNIE_OK)
        status = config_read_fields(hparams, root, config_common, ERN_COUNT(config_common), error);
    if (status == ERNIE_OK) status = config_read_attention(hparams, root, error);
    if (status == ERNIE_OK && moe) status = config_read_moe(config, root, error);
    if (status == ERNIE_OK) status = config_read_ids(config, root, error);
    if (status == ERNIE_OK)
        status = conv_quant_read(&config->quant, root, hparams->n_layers, error);
    if (status != ERNIE_OK) return status;

    const json_t *experts = config_scalar(root, "moe_num_experts");
    ERN_FAIL_IF(!moe && experts && json_number_value(experts) != 0, error, ERNIE_FORMAT,
                "%s: moe_num_experts is %g in a dense model", config_file,
                json_number_value(experts));
    const json_t *tie = conv_json_get(root, "tie_word_embeddings");
    ERN_FAIL_IF(tie && !json_is_boolean(tie), error, ERNIE_FORMAT,
                "%s: tie_word_embeddings is neither true nor false", config_file);
    config->tie = !tie || json_is_true(tie);
    config->tie_said = tie != NULL;
    return ERNIE_OK;
}

ERN_FN ernie_status conv_config_load(conv_config *config, const char *dir,
                                     const ernie_allocator *allocator, ernie_error *error)
{
    json_t *root;
    ernie_status status = conv_json_load(&root, dir, config_file, true, allocator, error);
    if (status == ERNIE_OK) status = conv_config_read(config, root, error);
    if (status == ERNIE_OK) config_name_unknown(config, root, config_knows);
    if (status == ERNIE_OK)
        config_name_unknown(config, json_object_get(root, "quantization_config"), conv_quant_knows);
    json_decref(root);
    return status;
}

#undef CONFIG_AT
