/* ernie info and ernie verify: what a model file says about itself, and whether it is whole. */
#include "cli.h"
#include "interrupt.h"

#include <stdlib.h>

static const double INFO_MIB = 1024.0 * 1024.0;
enum { INFO_ID_TEXT = 33 };

static const char *info_chat_format(ernie_chat_format format)
{
    switch (format) {
    case ERNIE_CHAT_PLAIN: return "plain";
    case ERNIE_CHAT_THINKING: return "thinking";
    default: return "none";
    }
}

static void info_id_text(const ernie_model_info *info, char *text)
{
    for (size_t i = 0; i < sizeof info->id; i++) snprintf(text + 2 * i, 3, "%02x", info->id[i]);
}

/* 40597760 as "40.6 M", as parameters are counted. */
static const char *info_millions(uint64_t count, char *text, size_t n)
{
    if (count < 1000000000)
        snprintf(text, n, "%.1f M", 1e-6 * (double)count);
    else
        snprintf(text, n, "%.1f B", 1e-9 * (double)count);
    return text;
}

/* ---- For people ---------------------------------------------------------------------------- */

static void info_print_experts(output *out, const ernie_model_info *info)
{
    if (!info->n_experts) return;
    output_print(out,
                 "experts          %u of width %u, %u for a token, %u shared; layers %u to %u, "
                 "every %u\n",
                 info->n_experts, info->moe_intermediate_size, info->moe_k, info->n_shared_experts,
                 info->moe_layer_start, info->moe_layer_end, info->moe_layer_interval);
}

static void info_print_defaults(output *out, const ernie_model_info *info)
{
    output_print(out, "chat format      %s\n", info_chat_format(info->chat_format));
    output_print(out, "defaults         ");
    if (info->temperature > 0) output_print(out, "temperature %g", (double)info->temperature);
    if (info->temperature > 0 && info->top_p > 0) output_print(out, ", ");
    if (info->top_p > 0) output_print(out, "top-p %g", (double)info->top_p);
    output_print(out, info->temperature > 0 || info->top_p > 0 ? "\n" : "none\n");
}

static void info_print(output *out, const ernie_model_info *info)
{
    char all[32], active[32], id[INFO_ID_TEXT];
    info_id_text(info, id);
    output_print(out, "name             %s\n", info->name);
    output_print(out, "file             %.1f MiB, format %u, id %s\n",
                 (double)info->n_bytes / INFO_MIB, info->format_version, id);
    output_print(out, "architecture     %s\n", info->architecture);
    output_print(out, "weights          %s\n", info->types);
    output_print(out, "parameters       %s, %s for a token\n",
                 info_millions(info->n_parameters, all, sizeof all),
                 info_millions(info->n_parameters_active, active, sizeof active));
    output_print(out, "layers           %u, hidden size %u, dense width %u\n", info->n_layers,
                 info->hidden_size, info->intermediate_size);
    output_print(out, "attention        %u heads of %u, %u for keys and values, rope theta %g\n",
                 info->n_heads, info->head_dim, info->n_kv_heads, info->rope_theta);
    info_print_experts(out, info);
    if (info->n_mtp_layers)
        output_print(out, "prediction       %u multi-token blocks kept\n", info->n_mtp_layers);
    output_print(out,
                 "vocabulary       %u rows, %u tokens, begin %d, end %d, padding %d, %s head\n",
                 info->vocab_size, info->n_tokens, (int)info->bos_id, (int)info->eos_id,
                 (int)info->pad_id, info->tied ? "tied" : "separate");
    output_print(out, "context          %u tokens\n", info->context_max);
    info_print_defaults(out, info);
    output_print(out, "reads            %.2f MiB of weights for a token\n",
                 (double)info->bytes_per_token / INFO_MIB);
    output_print(out, "instruction set  %s\n", info->cpu);
}

static void info_print_records(output *out, const ernie_model *model)
{
    output_print(out, "\n%-34s %-8s %8s %8s %14s %12s %16s\n", "record", "type", "rows", "columns",
                 "offset", "bytes", "checksum");
    for (size_t i = 0; i < ernie_model_record_count(model); i++) {
        ernie_record_info record = { .size = (uint32_t)sizeof record };
        if (ernie_model_record(model, i, &record) != ERNIE_OK) continue;
        output_print(out, "%-34s %-8s %8llu %8llu %14llu %12llu %016llx\n", record.name,
                     record.type, (unsigned long long)record.n_rows,
                     (unsigned long long)record.n_cols, (unsigned long long)record.offset,
                     (unsigned long long)record.n_bytes, (unsigned long long)record.checksum);
    }
}

/* ---- As JSON ------------------------------------------------------------------------------- */

static json_t *info_records_json(const ernie_model *model)
{
    json_t *list = json_array();
    for (size_t i = 0; i < ernie_model_record_count(model); i++) {
        ernie_record_info record = { .size = (uint32_t)sizeof record };
        if (ernie_model_record(model, i, &record) != ERNIE_OK) continue;
        char checksum[17];
        snprintf(checksum, sizeof checksum, "%016llx", (unsigned long long)record.checksum);
        json_t *entry = json_object();
        json_object_set_new(entry, "name", json_string(record.name));
        json_object_set_new(entry, "type", json_string(record.type));
        json_object_set_new(entry, "rows", output_count(record.n_rows));
        json_object_set_new(entry, "columns", output_count(record.n_cols));
        json_object_set_new(entry, "offset", output_count(record.offset));
        json_object_set_new(entry, "bytes", output_count(record.n_bytes));
        json_object_set_new(entry, "checksum", json_string(checksum));
        json_array_append_new(list, entry);
    }
    return list;
}

static void info_add_numbers(json_t *root, const ernie_model_info *info)
{
    const struct {
        const char *name;
        uint64_t value;
    } counts[] = {
        { "format_version", info->format_version },
        { "layers", info->n_layers },
        { "hidden_size", info->hidden_size },
        { "intermediate_size", info->intermediate_size },
        { "heads", info->n_heads },
        { "kv_heads", info->n_kv_heads },
        { "head_dim", info->head_dim },
        { "vocab_size", info->vocab_size },
        { "tokens", info->n_tokens },
        { "context_max", info->context_max },
        { "experts", info->n_experts },
        { "moe_k", info->moe_k },
        { "moe_intermediate_size", info->moe_intermediate_size },
        { "shared_experts", info->n_shared_experts },
        { "moe_layer_start", info->moe_layer_start },
        { "moe_layer_end", info->moe_layer_end },
        { "moe_layer_interval", info->moe_layer_interval },
        { "mtp_layers", info->n_mtp_layers },
        { "parameters", info->n_parameters },
        { "parameters_active", info->n_parameters_active },
        { "bytes", info->n_bytes },
        { "bytes_per_token", info->bytes_per_token },
    };
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        json_object_set_new(root, counts[i].name, output_count(counts[i].value));
}

/* A float as the shortest decimal that means it: 0.8, not 0.800000012. */
static json_t *info_float(float value)
{
    char text[32];
    snprintf(text, sizeof text, "%.7g", (double)value);
    float shortest;
    return output_number(number_real(text, false, &shortest) ? strtod(text, NULL) : (double)value);
}

static json_t *info_json(const ernie_model_info *info)
{
    char id[INFO_ID_TEXT];
    info_id_text(info, id);
    json_t *root = json_object();
    json_object_set_new(root, "name", json_string(info->name));
    json_object_set_new(root, "id", json_string(id));
    json_object_set_new(root, "architecture", json_string(info->architecture));
    json_object_set_new(root, "types", json_string(info->types));
    json_object_set_new(root, "cpu", json_string(info->cpu));
    json_object_set_new(root, "chat_format", json_string(info_chat_format(info->chat_format)));
    json_object_set_new(root, "tied", json_boolean(info->tied));
    json_object_set_new(root, "rope_theta", output_number(info->rope_theta));
    json_object_set_new(root, "rms_norm_eps", info_float(info->rms_norm_eps));
    json_object_set_new(root, "temperature", info_float(info->temperature));
    json_object_set_new(root, "top_p", info_float(info->top_p));
    json_object_set_new(root, "bos_id", json_integer(info->bos_id));
    json_object_set_new(root, "eos_id", json_integer(info->eos_id));
    json_object_set_new(root, "pad_id", json_integer(info->pad_id));
    info_add_numbers(root, info);
    return root;
}

/* ---- The commands -------------------------------------------------------------------------- */

int cmd_info(cli_context *cli)
{
    ernie_model *model = NULL;
    const int status = cli_open_model(cli, &model);
    if (status != CLI_OK) return status;
    const ernie_model_info info = cli_model_info(model);
    if (cli->options.json) {
        json_t *root = info_json(&info);
        if (cli->options.records) json_object_set_new(root, "records", info_records_json(model));
        output_json(&cli->out, root);
    } else {
        info_print(&cli->out, &info);
        if (cli->options.records) info_print_records(&cli->out, model);
    }
    ernie_model_close(model);
    return CLI_OK;
}

int cmd_verify(cli_context *cli)
{
    ernie_model *model = NULL;
    int status = cli_open_model(cli, &model);
    if (status != CLI_OK) return status;
    ernie_error error;
    progress_begin(&cli->bar, PROGRESS_BYTES);
    if (ernie_model_verify(model, progress_update, &cli->bar, interrupt_flag(), &error) != ERNIE_OK)
        status = cli_fail_error(cli, cli->options.positional[0], &error);
    progress_erase(&cli->bar);
    if (status == CLI_OK)
        output_print(&cli->out, "ok: %zu records, %llu bytes\n", ernie_model_record_count(model),
                     (unsigned long long)cli_model_info(model).n_bytes);
    ernie_model_close(model);
    return status;
}
