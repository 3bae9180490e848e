/* config.json in every spelling, and every way to be refused by name. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../tools/convert/config.h"
#include "../../tools/convert/generation.h"

/* Fields that a case does not bring itself. Later ones win nothing: a case names what it
 * replaces. */
static const struct {
    const char *key, *value;
} config_dense[] = {
    { "architectures", "[\"Ernie4_5ForCausalLM\"]" },
    { "model_type", "\"ernie4_5\"" },
    { "hidden_size", "1024" },
    { "num_hidden_layers", "18" },
    { "num_attention_heads", "16" },
    { "num_key_value_heads", "2" },
    { "head_dim", "128" },
    { "intermediate_size", "3072" },
    { "vocab_size", "103424" },
}, config_moe[] = {
    { "architectures", "[\"Ernie4_5_MoeForCausalLM\"]" },
    { "model_type", "\"ernie4_5_moe\"" },
    { "hidden_size", "2560" },
    { "num_hidden_layers", "28" },
    { "num_attention_heads", "20" },
    { "num_key_value_heads", "4" },
    { "intermediate_size", "12288" },
    { "vocab_size", "103424" },
    { "moe_num_experts", "64" },
    { "moe_k", "6" },
    { "moe_intermediate_size", "1536" },
    { "moe_num_shared_experts", "2" },
    { "moe_layer_start_index", "1" },
    { "moe_layer_end_index", "27" },
};

/* Parse the base config with `changes`: {"key": value or "-" to leave the key out}. */
static ernie_status read_config(conv_config *config, bool moe, const char *changes,
                                ernie_error *error)
{
    json_error_t reason;
    json_t *root = json_object(), *given = json_loads(changes, 0, &reason);
    assert_non_null(given);
    for (size_t i = 0; i < (moe ? ERN_COUNT(config_moe) : ERN_COUNT(config_dense)); i++) {
        const char *key = moe ? config_moe[i].key : config_dense[i].key;
        const char *value = moe ? config_moe[i].value : config_dense[i].value;
        json_object_set_new(root, key, json_loads(value, JSON_DECODE_ANY, &reason));
    }
    const char *key;
    json_t *value;
    json_object_foreach(given, key, value)
    {
        const char *text = json_string_value(value);
        if (text && strcmp(text, "-") == 0)
            json_object_del(root, key);
        else
            json_object_set(root, key, value);
    }
    const ernie_status status = conv_config_read(config, root, error);
    json_decref(given);
    json_decref(root);
    return status;
}

static ern_hparams read_good(bool moe, const char *changes)
{
    conv_config config;
    ernie_error error = { ERNIE_OK, "" };
    if (read_config(&config, moe, changes, &error) != ERNIE_OK) fail_msg("%s", error.message);
    if (ern_hparams_check(&config.hparams, &error) != ERNIE_OK) fail_msg("%s", error.message);
    return config.hparams;
}

/* ---- What is read ---------------------------------------------------------------------------- */

static void dense_models_are_read(void **state)
{
    (void)state;
    const ern_hparams h = read_good(false, "{}");
    assert_int_equal(h.n_layers, 18);
    assert_int_equal(h.hidden_size, 1024);
    assert_int_equal(h.n_heads, 16);
    assert_int_equal(h.n_kv_heads, 2);
    assert_int_equal(h.head_dim, 128);
    assert_int_equal(h.intermediate_size, 3072);
    assert_int_equal(h.vocab_size, 103424);
    assert_int_equal(h.context_max, 131072);
    assert_int_equal(h.n_experts, 0);
    assert_int_equal(h.moe_layer_interval, 0);
    assert_int_equal(h.bos_id, -1);
    assert_true(h.rope_theta == 500000.0);
    assert_true(h.rms_norm_eps == 1e-5f);
}

static void moe_models_are_read(void **state)
{
    (void)state;
    const ern_hparams h =
        read_good(true, "{\"moe_norm_min\": 1e-9, \"num_nextn_predict_layers\": 1,"
                        "\"bos_token_id\": 1, \"eos_token_id\": 2, \"pad_token_id\": 0}");
    assert_int_equal(h.head_dim, 128); /* 2560 / 20 */
    assert_int_equal(h.n_experts, 64);
    assert_int_equal(h.moe_k, 6);
    assert_int_equal(h.moe_intermediate_size, 1536);
    assert_int_equal(h.n_shared_experts, 2);
    assert_int_equal(h.shared_intermediate_size, 3072);
    assert_int_equal(h.moe_layer_start, 1);
    assert_int_equal(h.moe_layer_end, 27);
    assert_int_equal(h.moe_layer_interval, 1);
    assert_int_equal(h.n_mtp_layers, 1);
    assert_int_equal(h.bos_id, 1);
    assert_int_equal(h.eos_id, 2);
    assert_int_equal(h.pad_id, 0);
    assert_true(h.moe_norm_min == 1e-9f);
}

static void moe_layers_are_settled(void **state)
{
    (void)state;
    const struct {
        const char *changes;
        uint32_t start, end, interval;
    } cases[] = {
        { "{\"moe_layer_end_index\": -1}", 1, 27, 1 },
        { "{\"moe_layer_end_index\": \"-\"}", 1, 27, 1 },
        { "{\"moe_layer_end_index\": null}", 1, 27, 1 },
        { "{\"moe_layer_end_index\": 99}", 1, 27, 1 },
        { "{\"moe_layer_end_index\": 5}", 1, 5, 1 },
        { "{\"moe_layer_start_index\": 0, \"moe_layer_interval\": 2}", 0, 27, 2 },
        { "{\"moe_layer_start_index\": [3, 3], \"moe_layer_end_index\": [29, 28]}", 3, 27, 1 },
        { "{\"num_hidden_layers\": 4, \"mlp_layer_types\": [\"dense\", \"sparse\", \"sparse\", "
          "\"dense\"],"
          "\"moe_layer_start_index\": \"-\"}",
          1, 2, 1 },
        { "{\"num_hidden_layers\": 4, \"mlp_layer_types\": [\"dense\", \"sparse\", \"dense\", "
          "\"sparse\"]}",
          1, 3, 2 },
        { "{\"num_hidden_layers\": 4, \"mlp_layer_types\": [\"dense\", \"dense\", \"sparse\", "
          "\"dense\"]}",
          2, 2, 1 },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        const ern_hparams h = read_good(true, cases[i].changes);
        assert_int_equal(h.moe_layer_start, cases[i].start);
        assert_int_equal(h.moe_layer_end, cases[i].end);
        assert_int_equal(h.moe_layer_interval, cases[i].interval);
    }
}

static void spellings_are_the_same(void **state)
{
    (void)state;
    const char *const same[] = {
        "{\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 500000.0}}",
        "{\"rope_theta\": 500000, \"rope_parameters\": {\"rope_theta\": 500000}}",
        "{\"rope_scaling\": null}",
        "{\"rope_scaling\": {\"type\": \"default\"}}",
        "{\"rope_scaling\": {\"rope_type\": \"default\", \"factor\": 1.0}}",
        "{\"hidden_act\": \"silu\", \"use_bias\": false, \"compression_ratio\": 1.0, "
        "\"rope_reorder\": false}",
        "{\"moe_num_experts\": \"-\", \"num_experts\": 64, \"moe_k\": \"-\", "
        "\"num_experts_per_tok\": 6}",
        "{\"moe_num_experts\": [64, 64], \"moe_intermediate_size\": [1536, 512]}",
        "{\"head_dim\": 128, \"num_nextn_predict_layers\": null, \"moe_norm_min\": 1e-12}",
        "{\"hidden_size\": 2560.0}",
        "{\"moe_gate\": \"topk\", \"moe_capacity\": [64, 64, 64], \"moe_use_aux_free\": true,"
        "\"use_recompute\": true, \"sequence_parallel\": 1, \"router_aux_loss_coef\": 0.001,"
        "\"moe_gate_act\": \"softmax\", \"torch_dtype\": \"bfloat16\", \"use_cache\": false}",
        "{\"model_type\": \"-\"}",
        "{\"architectures\": \"-\"}",
        "{\"pad_token_id\": -1, \"eos_token_id\": null}",
    };
    const ern_hparams wanted = read_good(true, "{}");
    for (size_t i = 0; i < ERN_COUNT(same); i++) {
        const ern_hparams h = read_good(true, same[i]);
        if (memcmp(&h, &wanted, sizeof h) != 0) fail_msg("differs: %s", same[i]);
    }
    const ern_hparams old = read_good(false, "{\"architectures\": [\"Ernie4_5_ForCausalLM\"]}");
    const ern_hparams now = read_good(false, "{\"moe_num_experts\": 0}");
    assert_memory_equal(&old, &now, sizeof old);
    assert_int_equal(read_good(true, "{\"moe_num_shared_experts\": null}").shared_intermediate_size,
                     0);
    assert_int_equal(read_good(false, "{\"num_key_value_heads\": null}").n_kv_heads, 16);
    assert_int_equal(read_good(false, "{\"head_dim\": null, \"hidden_size\": 1000}").head_dim, 62);
    assert_true(read_good(false, "{\"rope_theta\": 10000}").rope_theta == 10000.0);
}

static void ties_and_stops_are_read(void **state)
{
    (void)state;
    const struct {
        const char *changes;
        bool tie;
        uint32_t n_stops;
        int32_t eos;
    } cases[] = {
        { "{}", true, 0, -1 },
        { "{\"tie_word_embeddings\": null, \"eos_token_id\": 2}", true, 1, 2 },
        { "{\"tie_word_embeddings\": true, \"eos_token_id\": [5, 2]}", true, 2, 5 },
        { "{\"tie_word_embeddings\": false, \"eos_token_id\": []}", false, 0, -1 }
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        conv_config config;
        ernie_error error = { ERNIE_OK, "" };
        assert_int_equal(read_config(&config, false, cases[i].changes, &error), ERNIE_OK);
        assert_int_equal(config.tie, cases[i].tie);
        assert_int_equal(config.n_stop_ids, cases[i].n_stops);
        assert_int_equal(config.hparams.eos_id, cases[i].eos);
    }
}

static void vision_is_seen(void **state)
{
    (void)state;
    const struct {
        const char *changes, *field;
    } cases[] = { { "{\"vision_config\": {}}", "vision_config" },
                  { "{\"model_type\": \"ernie4_5_moe_vl\"}", "model_type" },
                  { "{\"model_type\": \"ernie4_5_vl_moe\"}", "model_type" },
                  { "{\"architectures\": [\"Ernie4_5_VLMoeForConditionalGeneration\"]}",
                    "architectures" } };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        conv_config config;
        ernie_error error = { ERNIE_OK, "" };
        assert_int_equal(read_config(&config, true, cases[i].changes, &error), ERNIE_OK);
        assert_string_equal(config.vision, cases[i].field);
    }
}

/* ---- What is refused ------------------------------------------------------------------------- */

static void bad_fields_are_named(void **state)
{
    (void)state;
    const struct {
        bool moe;
        const char *changes;
        ernie_status status;
        const char *says;
    } cases[] = {
        { false, "{\"architectures\": [\"LlamaForCausalLM\"]}", ERNIE_UNSUPPORTED,
          "LlamaForCausalLM" },
        { false, "{\"model_type\": \"qwen3\"}", ERNIE_UNSUPPORTED, "model_type is \"qwen3\"" },
        { false, "{\"architectures\": \"-\", \"model_type\": \"-\"}", ERNIE_UNSUPPORTED,
          "neither" },
        { false, "{\"model_type\": \"ernie4_5_moe\"}", ERNIE_FORMAT, "but model_type is" },
        { false, "{\"moe_num_experts\": 64}", ERNIE_FORMAT,
          "moe_num_experts is 64 in a dense model" },
        { false, "{\"use_bias\": true}", ERNIE_UNSUPPORTED, "use_bias is true" },
        { false, "{\"use_bias\": 1}", ERNIE_UNSUPPORTED, "use_bias is true" },
        { false, "{\"use_bias\": \"yes\"}", ERNIE_FORMAT, "use_bias" },
        { false, "{\"hidden_act\": \"gelu\"}", ERNIE_UNSUPPORTED, "hidden_act is \"gelu\"" },
        { false, "{\"hidden_act\": 3}", ERNIE_UNSUPPORTED, "hidden_act" },
        { false, "{\"compression_ratio\": 2.0}", ERNIE_UNSUPPORTED, "compression_ratio is 2" },
        { false, "{\"quantization_config\": {\"dense_quant_type\": \"int3\"}}", ERNIE_UNSUPPORTED,
          "dense_quant_type of quantization_config is \"int3\"" },
        { false, "{\"sliding_window\": 512}", ERNIE_UNSUPPORTED, "sliding_window" },
        { false, "{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4}}", ERNIE_UNSUPPORTED,
          "type of rope_scaling is \"linear\"" },
        { false, "{\"rope_scaling\": {\"rope_type\": \"yarn\"}}", ERNIE_UNSUPPORTED, "\"yarn\"" },
        { false, "{\"rope_scaling\": {\"factor\": 4}}", ERNIE_UNSUPPORTED,
          "factor of rope_scaling is 4" },
        { false, "{\"rope_scaling\": 4}", ERNIE_FORMAT, "rope_scaling is not an object" },
        { false, "{\"rope_parameters\": {\"rope_type\": \"llama3\"}}", ERNIE_UNSUPPORTED,
          "llama3" },
        { false, "{\"rope_parameters\": {\"partial_rotary_factor\": 0.5}}", ERNIE_UNSUPPORTED,
          "partial_rotary_factor is 0.5" },
        { false, "{\"rope_theta\": 10000, \"rope_parameters\": {\"rope_theta\": 500000}}",
          ERNIE_FORMAT, "rope_theta is 10000, in rope_parameters it is 500000" },
        { false, "{\"rope_theta\": 0}", ERNIE_FORMAT, "rope_theta is 0" },
        { false, "{\"rms_norm_eps\": -1}", ERNIE_FORMAT, "rms_norm_eps" },
        { false, "{\"rms_norm_eps\": \"small\"}", ERNIE_FORMAT, "rms_norm_eps" },
        { false, "{\"hidden_size\": \"-\"}", ERNIE_FORMAT, "hidden_size is missing" },
        { false, "{\"hidden_size\": null}", ERNIE_FORMAT, "hidden_size is missing" },
        { false, "{\"hidden_size\": 0}", ERNIE_FORMAT, "hidden_size is 0, expected 1 to 1048576" },
        { false, "{\"hidden_size\": -5}", ERNIE_FORMAT, "hidden_size is -5" },
        { false, "{\"hidden_size\": 1.5}", ERNIE_FORMAT, "hidden_size is not a whole number" },
        { false, "{\"hidden_size\": \"1024\"}", ERNIE_FORMAT, "hidden_size is not a whole number" },
        { false, "{\"hidden_size\": 1e300}", ERNIE_FORMAT, "hidden_size is 1" },
        { false, "{\"hidden_size\": []}", ERNIE_FORMAT, "hidden_size is missing" },
        { false, "{\"num_hidden_layers\": 9223372036854775807}", ERNIE_FORMAT,
          "num_hidden_layers" },
        { false, "{\"num_key_value_heads\": 3}", ERNIE_FORMAT,
          "not a multiple of num_key_value_heads, 3" },
        { false, "{\"head_dim\": null, \"hidden_size\": 15}", ERNIE_FORMAT,
          "head_dim is missing and hidden_size 15 is less than 16 heads" },
        { false, "{\"head_dim\": 127}", ERNIE_FORMAT, "head_dim is 127" },
        { false, "{\"num_nextn_predict_layers\": 17}", ERNIE_FORMAT,
          "num_nextn_predict_layers is 17" },
        { false, "{\"bos_token_id\": 103424}", ERNIE_FORMAT,
          "bos_token_id is 103424, vocab_size is 103424" },
        { false, "{\"eos_token_id\": [2, -1]}", ERNIE_FORMAT, "eos_token_id is -1" },
        { false, "{\"eos_token_id\": [1,2,3,4,5,6,7,8,9]}", ERNIE_UNSUPPORTED, "lists 9 ids" },
        { false, "{\"eos_token_id\": \"</s>\"}", ERNIE_FORMAT, "eos_token_id" },
        { false, "{\"tie_word_embeddings\": 2}", ERNIE_FORMAT, "tie_word_embeddings" },
        { true, "{\"moe_num_experts\": null}", ERNIE_FORMAT, "moe_num_experts is missing" },
        { true, "{\"moe_num_experts\": 5000}", ERNIE_FORMAT, "moe_num_experts is 5000" },
        { true, "{\"moe_k\": 65}", ERNIE_FORMAT, "moe_k is 65, moe_num_experts is only 64" },
        { true, "{\"moe_num_shared_experts\": 4096}", ERNIE_FORMAT,
          "moe_num_shared_experts of 4096" },
        { true, "{\"moe_layer_start_index\": 28}", ERNIE_FORMAT, "moe_layer_start_index is 28" },
        { true, "{\"moe_layer_start_index\": 5, \"moe_layer_end_index\": 4}", ERNIE_FORMAT,
          "is 4, before" },
        { true, "{\"moe_layer_end_index\": -2}", ERNIE_FORMAT, "moe_layer_end_index is -2" },
        { true, "{\"moe_layer_interval\": 0}", ERNIE_FORMAT, "moe_layer_interval is 0" },
        { true, "{\"moe_gate_act\": \"sigmoid\"}", ERNIE_UNSUPPORTED,
          "moe_gate_act is \"sigmoid\"" },
        { true, "{\"moe_norm_gate_logits\": false}", ERNIE_UNSUPPORTED,
          "moe_norm_gate_logits is false" },
        { true, "{\"moe_group_experts\": true}", ERNIE_UNSUPPORTED, "moe_group_experts is true" },
        { true, "{\"mlp_layer_types\": [\"dense\"]}", ERNIE_FORMAT,
          "has 1 entries, num_hidden_layers is 28" },
        { true, "{\"num_hidden_layers\": 2, \"mlp_layer_types\": [\"dense\", \"odd\"]}",
          ERNIE_UNSUPPORTED, "mlp_layer_types[1] is \"odd\"" },
        { true, "{\"num_hidden_layers\": 2, \"mlp_layer_types\": [\"dense\", \"dense\"]}",
          ERNIE_FORMAT, "no sparse layer" },
        { true,
          "{\"num_hidden_layers\": 4, \"mlp_layer_types\": [\"sparse\", \"dense\", \"dense\", "
          "\"sparse\"]}",
          ERNIE_UNSUPPORTED, "follows no start" },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        conv_config config;
        ernie_error error = { ERNIE_OK, "" };
        const ernie_status status = read_config(&config, cases[i].moe, cases[i].changes, &error);
        if (!strstr(error.message, cases[i].says) || !strstr(error.message, "config.json"))
            fail_msg("%s: \"%s\" does not say \"%s\"", cases[i].changes, error.message,
                     cases[i].says);
        assert_int_equal(status, cases[i].status);
    }
}

/* ---- generation_config.json ------------------------------------------------------------------ */

static ernie_status read_generation(ern_generation *generation, const char *text,
                                    ernie_error *error)
{
    json_error_t reason;
    const conv_config config = { .hparams = { .vocab_size = 100 },
                                 .n_stop_ids = 1,
                                 .stop_ids = { 2 } };
    json_t *root = text ? json_loads(text, 0, &reason) : NULL;
    const ernie_status status = conv_generation_read(generation, root, &config, 7, error);
    json_decref(root);
    return status;
}

static void generation_defaults_are_read(void **state)
{
    (void)state;
    const struct {
        const char *text;
        ern_generation wanted;
    } cases[] = {
        { NULL, { .do_sample = 1, .n_stop_ids = 2, .stop_ids = { 2, 7 } } },
        { "{}", { .do_sample = 0, .n_stop_ids = 2, .stop_ids = { 2, 7 } } },
        { "{\"do_sample\": true, \"temperature\": 0.8, \"top_p\": 0.8, \"eos_token_id\": 5, "
          "\"top_k\": 40,"
          "\"repetition_penalty\": 1.05, \"pad_token_id\": 0}",
          { .do_sample = 1,
            .temperature = 0.8f,
            .top_p = 0.8f,
            .top_k = 40,
            .repetition_penalty = 1.05f,
            .n_stop_ids = 2,
            .stop_ids = { 5, 7 } } },
        { "{\"temperature\": 0.6, \"eos_token_id\": [7, 5, 7]}",
          { .do_sample = 1, .temperature = 0.6f, .n_stop_ids = 2, .stop_ids = { 7, 5 } } },
        { "{\"do_sample\": false, \"temperature\": 1, \"eos_token_id\": null}",
          { .do_sample = 0, .temperature = 1, .n_stop_ids = 2, .stop_ids = { 2, 7 } } },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        ern_generation generation;
        ernie_error error = { ERNIE_OK, "" };
        assert_int_equal(read_generation(&generation, cases[i].text, &error), ERNIE_OK);
        assert_memory_equal(&generation, &cases[i].wanted, sizeof generation);
    }
}

static void bad_generation_is_named(void **state)
{
    (void)state;
    const struct {
        const char *text, *says;
    } cases[] = { { "{\"temperature\": -1}", "temperature is -1" },
                  { "{\"temperature\": \"hot\"}", "temperature" },
                  { "{\"top_p\": 1.5}", "top_p is 1.5" },
                  { "{\"top_k\": -2}", "top_k is -2" },
                  { "{\"do_sample\": 1}", "do_sample" },
                  { "{\"eos_token_id\": 100}", "eos_token_id is 100, vocab_size is 100" } };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        ern_generation generation;
        ernie_error error = { ERNIE_OK, "" };
        assert_int_equal(read_generation(&generation, cases[i].text, &error), ERNIE_FORMAT);
        if (!strstr(error.message, cases[i].says))
            fail_msg("\"%s\" does not say \"%s\"", error.message, cases[i].says);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_models_are_read),   cmocka_unit_test(moe_models_are_read),
        cmocka_unit_test(moe_layers_are_settled),  cmocka_unit_test(spellings_are_the_same),
        cmocka_unit_test(ties_and_stops_are_read), cmocka_unit_test(vision_is_seen),
        cmocka_unit_test(bad_fields_are_named),    cmocka_unit_test(generation_defaults_are_read),
        cmocka_unit_test(bad_generation_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
