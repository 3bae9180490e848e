/* The keys are those that llama.cpp's converter writes and its ernie4_5 graphs read; what these
 * graphs take for granted (softmax gating, normalised weights, no scaling of positions) must not be
 * contradicted. Rows of Q and K lie in GGUF as in the checkpoint: rotary pairs are adjacent there,
 * and nothing is permuted. */
#include "gguf_model.h"
#include "generation.h"

#define GGUF_MODEL_KEY_MAX 96 /* "ernie4_5-moe.expert_shared_feed_forward_length" and then some */

typedef struct gguf_model {
    const conv_gguf *gguf;
    const char *architecture; /* "ernie4_5-moe" */
    ernie_error *error;
} gguf_model;

typedef struct gguf_model_key {
    char text[GGUF_MODEL_KEY_MAX];
} gguf_model_key;

static gguf_model_key gguf_model_full(const gguf_model *model, const char *end)
{
    gguf_model_key key;
    snprintf(key.text, sizeof key.text, "%s.%s", model->architecture, end);
    return key;
}

/* ---- Names ----------------------------------------------------------------------------------- */

ERN_FN void conv_gguf_tensor_name(const char *base, const char *name, char *full, size_t size)
{
    static const char *const names[][2] = {
        { "embed_tokens.weight", "token_embd.weight" },
        { "norm.weight", "output_norm.weight" },
        { "input_layernorm.weight", "attn_norm.weight" },
        { "self_attn.q_proj.weight", "attn_q.weight" },
        { "self_attn.k_proj.weight", "attn_k.weight" },
        { "self_attn.v_proj.weight", "attn_v.weight" },
        { "self_attn.qkv_proj.weight", "attn_qkv.weight" },
        { "self_attn.o_proj.weight", "attn_output.weight" },
        { "post_attention_layernorm.weight", "ffn_norm.weight" },
        { "mlp.gate_proj.weight", "ffn_gate.weight" },
        { "mlp.up_proj.weight", "ffn_up.weight" },
        { "mlp.down_proj.weight", "ffn_down.weight" },
        { "mlp.gate.weight", "ffn_gate_inp.weight" },
        { "mlp.moe_statics.e_score_correction_bias", "exp_probs_b.bias" },
        { "mlp.shared_experts.gate_proj.weight", "ffn_gate_shexp.weight" },
        { "mlp.shared_experts.up_proj.weight", "ffn_up_shexp.weight" },
        { "mlp.shared_experts.down_proj.weight", "ffn_down_shexp.weight" },
        { "mlp.experts.gate_proj.weight", "ffn_gate_exps.weight" },
        { "mlp.experts.up_proj.weight", "ffn_up_exps.weight" },
        { "mlp.experts.down_proj.weight", "ffn_down_exps.weight" },
    };
    static const char layers[] = "layers.";
    const size_t n = sizeof layers - 1;
    full[0] = '\0';
    for (size_t i = 0; i < ERN_COUNT(names); i++) {
        if (strcmp(name, names[i][0]) != 0) continue;
        if (strncmp(base, layers, n) == 0)
            snprintf(full, size, "blk.%s%s", base + n, names[i][1]);
        else if (base[0] == '\0')
            snprintf(full, size, "%s", names[i][1]);
    }
}

/* ---- Numbers --------------------------------------------------------------------------------- */

/* One row of the table of counts: where it goes, what it may be. */
typedef struct gguf_model_field {
    const char *key;
    size_t offset; /* of the uint32_t in ern_hparams */
    int64_t min, max;
    int64_t fallback; /* when absent; -1: must be there */
} gguf_model_field;

#define GGUF_MODEL_AT(field) offsetof(ern_hparams, field)

static const gguf_model_field gguf_model_common[] = {
    { "block_count", GGUF_MODEL_AT(n_layers), 1, ERN_LAYERS_MAX, -1 },
    { "embedding_length", GGUF_MODEL_AT(hidden_size), 1, ERN_DIM_MAX, -1 },
    { "feed_forward_length", GGUF_MODEL_AT(intermediate_size), 1, ERN_DIM_MAX, -1 },
    { "attention.head_count", GGUF_MODEL_AT(n_heads), 1, ERN_HEADS_MAX, -1 },
    { "attention.head_count_kv", GGUF_MODEL_AT(n_kv_heads), 1, ERN_HEADS_MAX, 0 },
    { "attention.key_length", GGUF_MODEL_AT(head_dim), 1, ERN_DIM_MAX, 0 },
    { "context_length", GGUF_MODEL_AT(context_max), 1, ERN_CONTEXT_MAX, 131072 },
};

static const gguf_model_field gguf_model_moe[] = {
    { "expert_count", GGUF_MODEL_AT(n_experts), 1, ERN_EXPERTS_MAX, -1 },
    { "expert_used_count", GGUF_MODEL_AT(moe_k), 1, ERN_EXPERTS_MAX, -1 },
    { "expert_feed_forward_length", GGUF_MODEL_AT(moe_intermediate_size), 1, ERN_DIM_MAX, -1 },
    { "interleave_moe_layer_step", GGUF_MODEL_AT(moe_layer_interval), 1, ERN_LAYERS_MAX, 1 },
};

static ernie_status gguf_model_fields(const gguf_model *model, const gguf_model_field *fields,
                                      size_t n, ern_hparams *hparams)
{
    for (size_t i = 0; i < n; i++) {
        int64_t value = fields[i].fallback;
        const gguf_model_key key = gguf_model_full(model, fields[i].key);
        const ernie_status status = conv_gguf_integer(model->gguf, key.text, fields[i].min,
                                                      fields[i].max, &value, model->error);
        if (status != ERNIE_OK) return status;
        ERN_FAIL_IF(value < 0, model->error, ERNIE_FORMAT, "%s: %s is missing", model->gguf->name,
                    key.text);
        const uint32_t count = (uint32_t)value;
        memcpy((unsigned char *)hparams + fields[i].offset, &count, sizeof count);
    }
    return ERNIE_OK;
}

/* What the graph takes for granted: absent, or one of two values, of which 0 often stands for
 * "none". */
static const struct {
    const char *key;
    double a, b;
} gguf_model_granted[] = {
    { "expert_gating_func", 1, 0 }, /* softmax */
    { "expert_weights_norm", 1, 1 },      { "expert_weights_scale", 1, 0 },
    { "expert_group_count", 1, 0 },       { "expert_group_used_count", 1, 0 },
    { "attention.sliding_window", 0, 0 }, { "attention.causal", 1, 1 },
    { "attention.scale", 0, 0 },          { "attention.clamp_kqv", 0, 0 },
    { "attention.max_alibi_bias", 0, 0 }, { "attn_logit_softcapping", 0, 0 },
    { "final_logit_softcapping", 0, 0 },  { "logit_scale", 1, 0 },
    { "embedding_scale", 1, 0 },          { "residual_scale", 1, 0 },
    { "rope.scaling.factor", 1, 0 },      { "rope.scale_linear", 1, 0 },
    { "rope.scaling.attn_factor", 1, 0 }, { "use_parallel_residual", 0, 0 }
};

static ernie_status gguf_model_must_be(const gguf_model *model, const char *end, double a, double b)
{
    double value = a;
    const gguf_model_key key = gguf_model_full(model, end);
    const ernie_status status =
        conv_gguf_real(model->gguf, key.text, -DBL_MAX, DBL_MAX, &value, model->error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(value != a && value != b, model->error, ERNIE_UNSUPPORTED,
                "%s: %s is %g, only %g is supported", model->gguf->name, key.text, value, a);
    return ERNIE_OK;
}

static ernie_status gguf_model_refuse_values(const gguf_model *model, const ern_hparams *hparams)
{
    ernie_status status = ERNIE_OK;
    for (size_t i = 0; i < ERN_COUNT(gguf_model_granted) && status == ERNIE_OK; i++)
        status = gguf_model_must_be(model, gguf_model_granted[i].key, gguf_model_granted[i].a,
                                    gguf_model_granted[i].b);
    if (status == ERNIE_OK)
        status = gguf_model_must_be(model, "attention.value_length", hparams->head_dim,
                                    hparams->head_dim);
    if (status == ERNIE_OK)
        status =
            gguf_model_must_be(model, "rope.dimension_count", hparams->head_dim, hparams->head_dim);
    if (status != ERNIE_OK) return status;

    size_t n;
    const char *type;
    const gguf_model_key key = gguf_model_full(model, "rope.scaling.type");
    status = conv_gguf_text(model->gguf, key.text, &type, &n, model->error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(type && !conv_gguf_text_is(type, n, "none"), model->error, ERNIE_UNSUPPORTED,
                "%s: %s is \"%.*s\", only \"none\" is supported", model->gguf->name, key.text,
                (int)ern_min_size(n, 64), type);
    return ERNIE_OK;
}

/* ---- Parts ----------------------------------------------------------------------------------- */

static ernie_status gguf_model_kind(gguf_model *model, conv_config *config, bool *moe)
{
    static const char *const names[] = { "ernie4_5", "ernie4_5-moe" };
    size_t n, n_kind;
    const char *text, *kind;
    const char *file = model->gguf->name;
    ernie_status status =
        conv_gguf_text(model->gguf, "general.architecture", &text, &n, model->error);
    if (status == ERNIE_OK)
        status = conv_gguf_text(model->gguf, "general.type", &kind, &n_kind, model->error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(!text, model->error, ERNIE_FORMAT, "%s: general.architecture is missing", file);
    for (size_t i = 0; i < ERN_COUNT(names); i++) {
        if (!conv_gguf_text_is(text, n, names[i])) continue;
        model->architecture = names[i];
        *moe = i == 1;
    }
    ERN_FAIL_IF(!model->architecture, model->error, ERNIE_UNSUPPORTED,
                "%s: general.architecture is \"%.*s\", known are ERNIE 4.5's %s and %s", file,
                (int)ern_min_size(n, 64), text, names[0], names[1]);
    ERN_FAIL_IF(kind && !conv_gguf_text_is(kind, n_kind, "model"), model->error, ERNIE_UNSUPPORTED,
                "%s: general.type is \"%.*s\", expected \"model\"", file,
                (int)ern_min_size(n_kind, 64), kind);
    snprintf(config->architecture, sizeof config->architecture, "%s",
             *moe ? "ernie4_5_moe" : "ernie4_5");
    return ERNIE_OK;
}

static ernie_status gguf_model_attention(const gguf_model *model, ern_hparams *hparams)
{
    double eps = -1, theta = 500000;
    const gguf_model_key key = gguf_model_full(model, "attention.layer_norm_rms_epsilon");
    ernie_status status = conv_gguf_real(model->gguf, key.text, 0, 1, &eps, model->error);
    if (status == ERNIE_OK)
        status = conv_gguf_real(model->gguf, gguf_model_full(model, "rope.freq_base").text, 1, 1e12,
                                &theta, model->error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(eps < 0, model->error, ERNIE_FORMAT, "%s: %s is missing", model->gguf->name,
                key.text);
    if (hparams->n_kv_heads == 0) hparams->n_kv_heads = hparams->n_heads;
    if (hparams->head_dim == 0) hparams->head_dim = hparams->hidden_size / hparams->n_heads;
    hparams->rms_norm_eps = (float)eps;
    hparams->rope_theta = theta;
    return gguf_model_refuse_values(model, hparams);
}

/* There is no key for the last mixture layer and the least sum of weights, and the width of shared
 * experts that the key gives was right for one model only: the tensors settle it. */
static ernie_status gguf_model_mixture(const gguf_model *model, conv_config *config)
{
    ern_hparams *hparams = &config->hparams;
    int64_t start = -1;
    ernie_status status =
        gguf_model_fields(model, gguf_model_moe, ERN_COUNT(gguf_model_moe), hparams);
    if (status == ERNIE_OK)
        status =
            conv_gguf_integer(model->gguf, gguf_model_full(model, "leading_dense_block_count").text,
                              0, hparams->n_layers - 1, &start, model->error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(hparams->moe_k > hparams->n_experts, model->error, ERNIE_FORMAT,
                "%s: %s.expert_used_count is %u, expert_count is only %u", model->gguf->name,
                model->architecture, (unsigned)hparams->moe_k, (unsigned)hparams->n_experts);
    config->moe_start_unsaid = start < 0;
    config->shared_unsaid = true;
    hparams->moe_layer_start = start < 0 ? 0 : (uint32_t)start;
    hparams->moe_layer_end = hparams->n_layers - 1;
    hparams->moe_norm_min = 1e-12f;
    return ERNIE_OK;
}

/* Rows of the embedding: what the file has, whatever its vocabulary says. */
static ernie_status gguf_model_vocabulary(const gguf_model *model, const conv_tensors *tensors,
                                          ern_hparams *hparams)
{
    const conv_tensor *embed = conv_tensors_find(tensors, "token_embd.weight");
    int64_t rows = embed && embed->n_dims == 2 ? (int64_t)(embed->dims[0] & INT64_MAX) : 0;
    const ernie_status status =
        conv_gguf_integer(model->gguf, gguf_model_full(model, "vocab_size").text, 1, ERN_VOCAB_MAX,
                          &rows, model->error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(rows < 1 || rows > ERN_VOCAB_MAX, model->error, ERNIE_FORMAT,
                "%s: tensor \"token_embd.weight\" is missing or has other than 1 to %u rows",
                model->gguf->name, ERN_VOCAB_MAX);
    hparams->vocab_size = (uint32_t)rows;
    return ERNIE_OK;
}

static ernie_status gguf_model_id(const gguf_model *model, const char *key, uint32_t vocab_size,
                                  int32_t *id)
{
    int64_t value = -1;
    const ernie_status status =
        conv_gguf_integer(model->gguf, key, -1, (int64_t)vocab_size - 1, &value, model->error);
    *id = (int32_t)value;
    return status;
}

static ernie_status gguf_model_ids(const gguf_model *model, conv_config *config)
{
    int32_t turn_id = -1;
    ern_hparams *hparams = &config->hparams;
    const struct {
        const char *key;
        int32_t *id;
    } ids[] = { { "tokenizer.ggml.bos_token_id", &hparams->bos_id },
                { "tokenizer.ggml.padding_token_id", &hparams->pad_id },
                { "tokenizer.ggml.eos_token_id", &hparams->eos_id },
                { "tokenizer.ggml.eot_token_id", &turn_id } };
    for (size_t i = 0; i < ERN_COUNT(ids); i++) {
        const ernie_status status =
            gguf_model_id(model, ids[i].key, hparams->vocab_size, ids[i].id);
        if (status != ERNIE_OK) return status;
    }
    if (hparams->eos_id >= 0) config->stop_ids[config->n_stop_ids++] = hparams->eos_id;
    if (turn_id >= 0) config->stop_ids[config->n_stop_ids++] = turn_id;
    return ERNIE_OK;
}

/* ---- Keys that nobody knows ------------------------------------------------------------------ */

/* Read above, or of no consequence to the numbers. */
static bool gguf_model_knows(const char *end, size_t n)
{
    static const char *const others[] = { "attention.layer_norm_rms_epsilon",
                                          "attention.value_length",
                                          "rope.dimension_count",
                                          "rope.freq_base",
                                          "rope.scaling.type",
                                          "rope.scaling.finetuned",
                                          "rope.scaling.original_context_length",
                                          "leading_dense_block_count",
                                          "vocab_size",
                                          "expert_shared_count",
                                          "expert_shared_feed_forward_length",
                                          "nextn_predict_layers" };
    for (size_t i = 0; i < ERN_COUNT(gguf_model_common); i++)
        if (conv_gguf_text_is(end, n, gguf_model_common[i].key)) return true;
    for (size_t i = 0; i < ERN_COUNT(gguf_model_moe); i++)
        if (conv_gguf_text_is(end, n, gguf_model_moe[i].key)) return true;
    for (size_t i = 0; i < ERN_COUNT(gguf_model_granted); i++)
        if (conv_gguf_text_is(end, n, gguf_model_granted[i].key)) return true;
    for (size_t i = 0; i < ERN_COUNT(others); i++)
        if (conv_gguf_text_is(end, n, others[i])) return true;
    return false;
}

static void gguf_model_name_unknown(const gguf_model *model, const ern_log *log)
{
    char unknown[256] = "";
    size_t at = 0;
    const conv_gguf *gguf = model->gguf;
    const size_t n_prefix = strlen(model->architecture) + 1;
    for (size_t i = 0; i < gguf->n_pairs && at < sizeof unknown; i++) {
        const conv_gguf_pair *pair = &gguf->pairs[i];
        const char *key = (const char *)gguf->header.data + pair->key;
        if (pair->n_key < n_prefix || memcmp(key, model->architecture, n_prefix - 1) != 0
            || key[n_prefix - 1] != '.' || gguf_model_knows(key + n_prefix, pair->n_key - n_prefix))
            continue;
        at += (size_t)snprintf(unknown + at, sizeof unknown - at, "%s%.*s", at ? ", " : "",
                               (int)ern_min_size(pair->n_key, GGUF_MODEL_KEY_MAX), key);
    }
    conv_text_clean(unknown);
    if (unknown[0])
        ern_log_write(log, ERNIE_LOG_WARN, "%s: unknown and left out: %s", gguf->name, unknown);
}

/* ---- The whole ------------------------------------------------------------------------------- */

ERN_FN ernie_status conv_gguf_config(conv_config *config, const conv_gguf *gguf,
                                     const conv_tensors *tensors, const ern_log *log,
                                     ernie_error *error)
{
    bool moe = false;
    int64_t n_experts = 0;
    gguf_model model = { .gguf = gguf, .error = error };
    memset(config, 0, sizeof *config);
    ern_hparams *hparams = &config->hparams;
    ernie_status status = gguf_model_kind(&model, config, &moe);
    if (status == ERNIE_OK)
        status =
            gguf_model_fields(&model, gguf_model_common, ERN_COUNT(gguf_model_common), hparams);
    if (status == ERNIE_OK) status = gguf_model_attention(&model, hparams);
    if (status == ERNIE_OK && moe) status = gguf_model_mixture(&model, config);
    if (status == ERNIE_OK) status = gguf_model_vocabulary(&model, tensors, hparams);
    if (status == ERNIE_OK) status = gguf_model_ids(&model, config);
    if (status == ERNIE_OK && !moe)
        status = conv_gguf_integer(gguf, gguf_model_full(&model, "expert_count").text, 0, 0,
                                   &n_experts, error);
    if (status != ERNIE_OK) return status;
    config->tie = conv_tensors_find(tensors, CONV_GGUF_HEAD) == NULL;
    config->tie_said = true;
    gguf_model_name_unknown(&model, log);
    return ERNIE_OK;
}

ERN_FN ernie_status conv_gguf_generation(ern_generation *generation, const conv_gguf *gguf,
                                         const conv_config *config, int32_t turn_end_id,
                                         ernie_error *error)
{
    double temperature = -1, top_p = 0, top_k = 0, penalty = 0;
    ernie_status status = conv_generation_read(generation, NULL, config, turn_end_id, error);
    if (status == ERNIE_OK)
        status = conv_gguf_real(gguf, "general.sampling.temp", 0, 100, &temperature, error);
    if (status == ERNIE_OK)
        status = conv_gguf_real(gguf, "general.sampling.top_p", 0, 1, &top_p, error);
    if (status == ERNIE_OK)
        status = conv_gguf_real(gguf, "general.sampling.top_k", -1, ERN_VOCAB_MAX, &top_k, error);
    if (status == ERNIE_OK)
        status = conv_gguf_real(gguf, "general.sampling.penalty_repeat", 0, 100, &penalty, error);
    if (status != ERNIE_OK) return status;
    if (temperature == 0) generation->do_sample = 0; /* the likeliest token, always */
    generation->temperature = temperature > 0 ? (float)temperature : 0;
    generation->top_p = (float)top_p;
    generation->top_k = top_k > 0 ? (uint32_t)top_k : 0;
    generation->repetition_penalty = (float)penalty;
    return ERNIE_OK;
}

ERN_FN const char *conv_gguf_model_name(const conv_gguf *gguf, char name[256])
{
    size_t n;
    const char *text;
    if (conv_gguf_text(gguf, "general.name", &text, &n, NULL) == ERNIE_OK && n > 0) {
        snprintf(name, 256, "%.*s", (int)ern_min_size(n, 255), text);
        return name;
    }
    snprintf(name, 256, "%s", gguf->name);
    if (conv_text_ends_in(name, ".gguf")) name[strlen(name) - strlen(".gguf")] = '\0';
    char *part = strstr(name, "-00001-of-");
    if (part) *part = '\0';
    return name;
}

#undef GGUF_MODEL_AT
#undef GGUF_MODEL_KEY_MAX
