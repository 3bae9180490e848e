/* ernie plan: who gets which memory, and how fast decoding will probably be. Opens the model as run
 * would, makes no session, and measures memory and disk for a moment. */
#include "cli.h"
#include "cost.h"
#include "interrupt.h"
#include "streaming.h"
#include "../convert/replay.h"

#include <string.h>

enum {
    PLAN_SEEN = 512,  /* tokens in the context when a token is predicted, as bench has by default */
    PLAN_BATCH = 512, /* tokens of a prompt's step where memory is scarce */
    PLAN_SLOT_SPARE = 8192 /* bytes that a slot may take beside its expert */
};

typedef enum plan_class {
    PLAN_EMBEDDING,
    PLAN_ATTENTION,
    PLAN_DENSE,
    PLAN_SHARED,
    PLAN_NORMS,
    PLAN_PREDICTION,
    PLAN_EXPERTS,
    PLAN_CLASSES
} plan_class;

typedef struct plan_state {
    cli_context *cli;
    ernie_model *model;
    ernie_model_info info;
    ernie_memory memory;
    uint64_t bytes[PLAN_CLASSES];  /* of the file's records */
    uint64_t resident_bytes;       /* of the file: what is in memory always */
    uint64_t other_bytes;          /* held besides: tables, the tokenizer, buffers of readers */
    uint64_t kept_bytes;           /* experts that there is room for */
    uint64_t least_bytes;          /* a ceiling that works */
    uint64_t spare_bytes;          /* that the library keeps free beside slots and sessions */
    uint64_t ceiling;              /* as given; 0: none */
    uint32_t n_slots, n_experts;   /* experts in memory, experts in the file */
    double memory_rate, disk_rate; /* bytes a second; 0: not measured */
    double hits_low, hits_high;
    double tps_low, tps_high;
} plan_state;

/* ---- Bytes --------------------------------------------------------------------------------- */

/* By the names that `ernie info --records` prints. */
static plan_class plan_class_of(const char *name)
{
    static const struct {
        const char *part;
        plan_class is;
    } classes[] = {
        { "mtp.", PLAN_PREDICTION },     { ".experts.", PLAN_EXPERTS }, { ".shared_", PLAN_SHARED },
        { ".ffn_gate_up", PLAN_DENSE },  { ".ffn_down", PLAN_DENSE },   { ".qkv", PLAN_ATTENTION },
        { ".attn_out", PLAN_ATTENTION }, { "embed", PLAN_EMBEDDING },   { "head", PLAN_EMBEDDING },
    };
    for (size_t i = 0; i < sizeof classes / sizeof classes[0]; i++)
        if (strstr(name, classes[i].part)) return classes[i].is;
    return PLAN_NORMS;
}

static void plan_count_records(plan_state *plan)
{
    for (size_t i = 0; i < ernie_model_record_count(plan->model); i++) {
        ernie_record_info record = { .size = (uint32_t)sizeof record };
        if (ernie_model_record(plan->model, i, &record) != ERNIE_OK) continue;
        const plan_class is = plan_class_of(record.name);
        plan->bytes[is] += record.n_bytes;
        plan->n_experts += is == PLAN_EXPERTS;
    }
    for (int i = 0; i < PLAN_EXPERTS; i++) plan->resident_bytes += plan->bytes[i];
    /* With what pads each to the size of a slot. */
    plan->bytes[PLAN_EXPERTS] = plan->n_experts * plan->info.expert_bytes;
}

/* A ceiling of so many bytes leaves room for the session and the fewest experts that work. */
static int plan_find_least(plan_state *plan)
{
    const ernie_memory *memory = &plan->memory;
    plan->least_bytes = memory->least_bytes;
    if (!plan->info.streams) return CLI_OK;
    const cli_session narrow = { .n_ctx = memory->n_ctx, .n_batch = PLAN_BATCH };
    ernie_memory least;
    const int status = cli_plan_session(plan->cli, plan->model, &narrow, &least);
    if (status != CLI_OK) return status;
    plan->least_bytes = least.least_bytes;
    plan->spare_bytes = least.least_bytes - least.held_bytes - least.total_bytes
                        - least.n_slots_min * plan->info.expert_bytes;
    return CLI_OK;
}

static void plan_share_memory(plan_state *plan)
{
    const uint64_t experts = plan->info.streams ? 0 : plan->bytes[PLAN_EXPERTS];
    const uint64_t weights = plan->resident_bytes + experts, held = plan->memory.held_bytes;
    plan->n_slots = plan->info.streams ? plan->memory.n_slots : plan->n_experts;
    plan->kept_bytes = plan->info.streams ? plan->n_slots * plan->info.expert_bytes : experts;
    plan->other_bytes = held > weights ? held - weights : 0;
}

/* What does not fit is refused in the words that creating the session would have. */
static int plan_check(plan_state *plan, uint64_t n_ctx)
{
    const ernie_memory *memory = &plan->memory;
    const uint64_t need = memory->held_bytes + memory->total_bytes;
    if (need <= memory->ceiling_bytes && memory->n_slots >= memory->n_slots_min) return CLI_OK;
    const cli_session wanted = { .n_ctx = n_ctx };
    ernie_session *session = NULL;
    const int status = cli_open_session(plan->cli, plan->model, &wanted, NULL, &session);
    ernie_session_free(session);
    return status;
}

/* ---- A larger model ------------------------------------------------------------------------- */

/* The file holds the first layers of a model of N: what grows with layers grows. The dense layers
 * come first and are all there. */
static int plan_grow(plan_state *plan)
{
    ernie_model_info *info = &plan->info;
    ernie_memory *memory = &plan->memory;
    const uint32_t n = plan->cli->options.n_layers, now = info->n_layers;
    if (n < now || info->n_moe_layers == 0)
        return cli_fail(plan->cli, CLI_FAILED,
                        "option --layers: %u, but the model has %u layers, %u of them with experts",
                        n, now, info->n_moe_layers);
    const double all = (double)n / now;
    const double moe = 1 + (double)(n - now) / info->n_moe_layers;
    const double grown[PLAN_CLASSES] = {
        [PLAN_ATTENTION] = all, [PLAN_SHARED] = moe, [PLAN_NORMS] = moe, [PLAN_EXPERTS] = moe
    };
    const uint64_t before = plan->resident_bytes;
    const uint64_t head = plan->bytes[PLAN_EMBEDDING] / 2; /* about: one of two matrices */
    plan->resident_bytes = 0;
    for (int i = 0; i < PLAN_CLASSES; i++) {
        if (grown[i] > 0) plan->bytes[i] = (uint64_t)((double)plan->bytes[i] * grown[i]);
        if (i < PLAN_EXPERTS) plan->resident_bytes += plan->bytes[i];
    }
    const uint64_t used = (uint64_t)info->n_moe_layers * info->moe_k * info->expert_bytes;
    info->bytes_per_token = info->bytes_per_token - used - (before - head) + plan->resident_bytes
                            - head + (uint64_t)((double)used * moe);
    info->n_bytes += plan->resident_bytes - before
                     + (uint64_t)((moe - 1) / moe * (double)plan->bytes[PLAN_EXPERTS]);
    plan->n_experts = (uint32_t)(plan->n_experts * moe + 0.5);
    info->n_moe_layers += n - now;
    info->n_layers = n;
    const uint64_t kv_before = memory->kv_bytes;
    memory->kv_bytes = (uint64_t)((double)memory->kv_bytes * all);
    plan->least_bytes += plan->resident_bytes - before + memory->kv_bytes - kv_before;
    memory->total_bytes = memory->kv_bytes + memory->scratch_bytes;
    memory->ceiling_bytes = plan->ceiling;
    const uint64_t taken =
        plan->resident_bytes + plan->other_bytes + memory->total_bytes + plan->spare_bytes;
    const uint64_t room = plan->ceiling > taken ? plan->ceiling - taken : 0;
    const uint64_t n_slots = room / (info->expert_bytes + PLAN_SLOT_SPARE);
    plan->n_slots = n_slots < plan->n_experts ? (uint32_t)n_slots : plan->n_experts;
    plan->kept_bytes = plan->n_slots * info->expert_bytes;
    info->streams = plan->n_slots < plan->n_experts;
    if (plan->least_bytes <= plan->ceiling) return CLI_OK;
    char ceiling[STREAMING_BYTES_MAX], least[STREAMING_BYTES_MAX];
    return cli_fail(plan->cli, CLI_FAILED, "a ceiling of %s is too low for %u layers: %s would do",
                    streaming_bytes_text((double)plan->ceiling, ceiling), n,
                    streaming_bytes_text((double)plan->least_bytes, least));
}

/* The layers that are there may well fit; opened so that they do not, the disk's speed can be
 * seen. */
static int plan_open(plan_state *plan)
{
    cli_context *cli = plan->cli;
    plan->ceiling = cli->options.memory;
    if (!cli->options.n_layers) return cli_open_model(cli, &plan->model);
    if (!plan->ceiling) return cli_fail(cli, CLI_USAGE, "option --layers needs --memory");
    int status = cli_open_model(cli, &plan->model);
    if (status != CLI_OK || cli_model_info(plan->model).streams) return status;
    cli->options.memory = cli_model_info(plan->model).n_bytes;
    ernie_model_close(plan->model);
    plan->model = NULL;
    status = cli_open_model(cli, &plan->model);
    cli->options.memory = plan->ceiling;
    return status;
}

/* ---- Speed --------------------------------------------------------------------------------- */

static double plan_memory_per_token(const plan_state *plan)
{
    const ernie_memory *memory = &plan->memory;
    const uint32_t n_seen = memory->n_ctx < PLAN_SEEN ? memory->n_ctx : PLAN_SEEN;
    return (double)plan->info.bytes_per_token
           + (double)n_seen * (double)memory->kv_bytes / (double)memory->n_ctx;
}

static double plan_speed(const plan_state *plan, double hits)
{
    const ernie_model_info *info = &plan->info;
    const double memory_bytes = plan_memory_per_token(plan);
    const double used = (double)info->n_moe_layers * info->moe_k * (double)info->expert_bytes;
    const cost_model cost = { .memory_bytes = memory_bytes,
                              .memory_rate = plan->memory_rate,
                              .disk_rate = plan->disk_rate,
                              .n_layers = info->n_layers };
    if (!info->streams) return plan->memory_rate / memory_bytes;
    return cost_tokens_per_second(&cost, (1 - hits) * used);
}

/* What the later tokens of a trace would have found in so many slots. */
static int plan_replay(plan_state *plan)
{
    cli_context *cli = plan->cli;
    const char *path = cli->options.replay;
    const bool lru = cli->options.policy && strcmp(cli->options.policy, "lru") == 0;
    const ernie_model_info *info = &plan->info;
    ern_trace trace = { 0 };
    ern_replay *replay = NULL;
    ern_replay_result result = { 0 };
    ernie_error error;
    ernie_status status = ern_trace_open(&trace, path, NULL, &error);
    const bool ours =
        status != ERNIE_OK
        || (trace.head.n_layers == info->n_moe_layers && trace.head.n_experts == info->n_experts);
    const uint32_t n_layers = trace.head.n_layers, n_experts = trace.head.n_experts;
    if (status == ERNIE_OK && ours) status = ern_replay_open(&replay, &trace, &error);
    if (status == ERNIE_OK && ours)
        status = ern_replay_run(replay, lru ? ERN_REPLAY_LRU : ERN_REPLAY_LFRU,
                                plan->n_slots ? plan->n_slots : 1, NULL, NULL, &result, &error);
    ern_replay_close(replay);
    ern_trace_close(&trace);
    if (status != ERNIE_OK) return cli_fail_error(cli, path, &error);
    if (!ours)
        return cli_fail(cli, CLI_FAILED,
                        "%s: traces %u layers of %u experts, the model has %u of %u", path,
                        n_layers, n_experts, info->n_moe_layers, info->n_experts);
    if (result.later.n_pins == 0)
        return cli_fail(cli, CLI_FAILED, "%s: holds no decoded tokens", path);
    plan->hits_low = plan->hits_high =
        (double)result.later.n_hits / (double)result.later.n_pins;
    return CLI_OK;
}

static int plan_predict(plan_state *plan)
{
    const double share = plan->n_experts ? (double)plan->n_slots / plan->n_experts : 1;
    int status = CLI_OK;
    plan->hits_low = cost_hits_low(share);
    plan->hits_high = cost_hits_high(share);
    if (plan->cli->options.replay && plan->info.streams) status = plan_replay(plan);
    if (status != CLI_OK) return status;
    if (plan->cli->options.no_probe) return CLI_OK;
    progress_update("measuring", 0, 1, &plan->cli->bar);
    plan->memory_rate = cli_memory_rate(&plan->memory);
    if (plan->info.streams) status = cli_disk_rate(plan->cli, plan->model, &plan->disk_rate);
    progress_erase(&plan->cli->bar);
    if (interrupt_signal())
        return cli_fail(plan->cli, CLI_SIGNAL + interrupt_signal(), "stopped by a signal");
    plan->tps_low = plan_speed(plan, plan->hits_low);
    plan->tps_high = plan_speed(plan, plan->hits_high);
    return status;
}

/* ---- Report -------------------------------------------------------------------------------- */

typedef struct plan_text {
    char text[STREAMING_BYTES_MAX];
} plan_text;

static plan_text plan_bytes(uint64_t bytes)
{
    plan_text text;
    streaming_bytes_text((double)bytes, text.text);
    return text;
}

/* Name and JSON name of each class. */
static const char *const PLAN_NAMES[PLAN_EXPERTS][2] = {
    { "embedding and head", "embedding_bytes" }, { "attention", "attention_bytes" },
    { "dense layers", "dense_bytes" },           { "shared experts", "shared_bytes" },
    { "norms and routers", "norm_bytes" },       { "prediction", "prediction_bytes" },
};

static void plan_print_weights(const plan_state *plan)
{
    output *out = &plan->cli->out;
    output_print(out, "weights    %s in memory always: ", plan_bytes(plan->resident_bytes).text);
    const char *between = "";
    for (int i = 0; i < PLAN_EXPERTS; i++) {
        if (!plan->bytes[i]) continue;
        output_print(out, "%s%s %s", between, PLAN_NAMES[i][0], plan_bytes(plan->bytes[i]).text);
        between = ", ";
    }
    output_print(out, "\n");
    if (!plan->n_experts) return;
    output_print(out, "experts    %s in the file: %u layers of %u, %s each, %u for a token\n",
                 plan_bytes(plan->bytes[PLAN_EXPERTS]).text, plan->info.n_moe_layers,
                 plan->info.n_experts, plan_bytes(plan->info.expert_bytes).text, plan->info.moe_k);
}

static void plan_print_memory(const plan_state *plan)
{
    const ernie_memory *memory = &plan->memory;
    output *out = &plan->cli->out;
    output_print(out,
                 "session    %s: keys and values of %u tokens %s, scratch %s (prompts in steps of "
                 "%u)\n",
                 plan_bytes(memory->total_bytes).text, memory->n_ctx,
                 plan_bytes(memory->kv_bytes).text, plan_bytes(memory->scratch_bytes).text,
                 memory->n_batch);
    output_print(out, "besides    %s: tables, tokenizer%s\n", plan_bytes(plan->other_bytes).text,
                 plan->info.streams ? ", readers" : "");
    if (plan->info.streams)
        output_print(out, "kept       %s: %u of %u experts, %.1f of %u a layer\n",
                     plan_bytes(plan->kept_bytes).text, plan->n_slots, plan->n_experts,
                     (double)plan->n_slots / plan->info.n_moe_layers, plan->info.n_experts);
    output_print(out, "ceiling    ");
    if (memory->ceiling_bytes == ERNIE_MEMORY_UNLIMITED)
        output_print(out, "none, everything fits; it takes %s\n",
                     plan_bytes(plan->least_bytes).text);
    else
        output_print(out, "%s, %s; %s would do\n", plan_bytes(memory->ceiling_bytes).text,
                     plan->info.streams ? "the experts come from disk" : "everything is in memory",
                     plan_bytes(plan->least_bytes).text);
}

static void plan_print_hits(const plan_state *plan)
{
    output *out = &plan->cli->out;
    output_print(out, "hits       %.0f%%", 100 * plan->hits_low);
    if (plan->hits_low < plan->hits_high) output_print(out, " to %.0f%%", 100 * plan->hits_high);
    output_print(out, " of the experts that a token uses%s%s\n",
                 plan->hits_low < 1 ? "" : ", once they were read",
                 plan->cli->options.replay ? ", by the trace" : "");
}

static void plan_print_speed(const plan_state *plan)
{
    output *out = &plan->cli->out;
    const uint32_t n_ctx = plan->memory.n_ctx;
    if (plan->info.streams) plan_print_hits(plan);
    if (plan->memory_rate > 0)
        output_print(out, "memory     %.2f GB/s read with %u threads\n", 1e-9 * plan->memory_rate,
                     plan->memory.n_threads);
    if (plan->disk_rate > 0)
        output_print(out, "disk       %.2f GB/s%s\n", 1e-9 * plan->disk_rate,
                     plan->cli->options.io_limit > 0 ? " by --io-limit" : "");
    if (plan->tps_low <= 0) return;
    output_print(out, "decode     ");
    if (plan->hits_low < plan->hits_high) output_print(out, "%.1f to ", plan->tps_low);
    output_print(out, "%.1f tokens/s expected after %u tokens\n", plan->tps_high,
                 n_ctx < PLAN_SEEN ? n_ctx : (uint32_t)PLAN_SEEN);
}

/* null for what was not measured. */
static json_t *plan_positive(double value)
{
    return value > 0 ? output_number(value) : json_null();
}

static void plan_add_counts(json_t *root, const plan_state *plan)
{
    const ernie_memory *memory = &plan->memory;
    const struct {
        const char *name;
        uint64_t value;
    } counts[] = {
        { "resident_bytes", plan->resident_bytes },
        { "experts_bytes", plan->bytes[PLAN_EXPERTS] },
        { "expert_bytes", plan->info.expert_bytes },
        { "kv_bytes", memory->kv_bytes },
        { "scratch_bytes", memory->scratch_bytes },
        { "session_bytes", memory->total_bytes },
        { "other_bytes", plan->other_bytes },
        { "kept_bytes", plan->kept_bytes },
        { "least_bytes", plan->least_bytes },
        { "slots", plan->n_slots },
        { "slots_min", memory->n_slots_min },
        { "experts", plan->n_experts },
        { "layers", plan->info.n_moe_layers },
        { "experts_used", plan->info.moe_k },
        { "context", memory->n_ctx },
        { "batch", memory->n_batch },
        { "threads", memory->n_threads },
    };
    for (int i = 0; i < PLAN_EXPERTS; i++)
        json_object_set_new(root, PLAN_NAMES[i][1], output_count(plan->bytes[i]));
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        json_object_set_new(root, counts[i].name, output_count(counts[i].value));
}

static void plan_print_json(const plan_state *plan)
{
    const ernie_model_info *info = &plan->info;
    const uint64_t ceiling = plan->memory.ceiling_bytes;
    const uint32_t n_layers = info->n_moe_layers;
    json_t *root = json_object();
    json_object_set_new(root, "name", json_string(info->name));
    json_object_set_new(root, "bytes", output_count(info->n_bytes));
    json_object_set_new(root, "streams", json_boolean(info->streams));
    json_object_set_new(root, "ceiling_bytes",
                        ceiling == ERNIE_MEMORY_UNLIMITED ? json_null() : output_count(ceiling));
    plan_add_counts(root, plan);
    json_object_set_new(root, "slots_per_layer",
                        output_number(n_layers ? (double)plan->n_slots / n_layers : 0));
    json_object_set_new(root, "hit_low", output_number(plan->hits_low));
    json_object_set_new(root, "hit_high", output_number(plan->hits_high));
    json_object_set_new(root, "read_gbps", plan_positive(1e-9 * plan->memory_rate));
    json_object_set_new(root, "disk_gbps", plan_positive(1e-9 * plan->disk_rate));
    json_object_set_new(root, "tps_low", plan_positive(plan->tps_low));
    json_object_set_new(root, "tps_high", plan_positive(plan->tps_high));
    output_json(&plan->cli->out, root);
}

static void plan_print(const plan_state *plan)
{
    output *out = &plan->cli->out;
    output_print(out, "model      %s, %s: %s\n", plan->info.name,
                 plan_bytes(plan->info.n_bytes).text, plan->info.types);
    plan_print_weights(plan);
    plan_print_memory(plan);
    plan_print_speed(plan);
}

int cmd_plan(cli_context *cli)
{
    plan_state plan = { .cli = cli };
    uint64_t n_ctx = 0;
    int status = plan_open(&plan);
    if (status == CLI_OK) status = cli_choose_context(cli, plan.model, 0, 0, &n_ctx);
    const cli_session wanted = { .n_ctx = n_ctx };
    if (status == CLI_OK) status = cli_plan_session(cli, plan.model, &wanted, &plan.memory);
    if (status == CLI_OK) status = plan_check(&plan, n_ctx);
    if (status == CLI_OK) {
        plan.info = cli_model_info(plan.model);
        plan_count_records(&plan);
        plan_share_memory(&plan);
        status = plan_find_least(&plan);
    }
    if (status == CLI_OK && cli->options.n_layers) status = plan_grow(&plan);
    if (status == CLI_OK) status = plan_predict(&plan);
    if (status == CLI_OK && cli->options.json)
        plan_print_json(&plan);
    else if (status == CLI_OK)
        plan_print(&plan);
    ernie_model_close(plan.model);
    return status;
}
