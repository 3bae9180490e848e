/* ernie replay: what caches of other sizes and rules would have done with a trace's choices. */
#include "cli.h"
#include "../convert/replay.h"

#include <string.h>

static const char *const replay_names[ERN_N_REPLAYS] = { "lru", "lfru", "opt" };

typedef struct replay_state {
    cli_context *cli;
    ern_trace trace;
    ern_replay *replay;
    uint64_t n_all; /* experts of all layers */
    ern_replay_choices decoded, prompt;
    bool wants[ERN_N_REPLAYS];
    ern_replay_result *results; /* [slots.n][ERN_N_REPLAYS], where wanted */
    size_t n_runs, i_run;
} replay_state;

/* Several runs are one bar. */
static int replay_progress(const char *what, uint64_t done, uint64_t total, void *user)
{
    replay_state *state = user;
    return progress_update(what, state->i_run * total + done, state->n_runs * total,
                           &state->cli->bar);
}

/* ---- What is to be tried --------------------------------------------------------------------- */

static int replay_choose_slots(replay_state *state)
{
    static const uint32_t each[] = { 8, 12, 16, 24, 32, 40, 48 };
    cli_context *cli = state->cli;
    id_list *slots = &cli->options.slots;
    const ern_trace_head *head = &state->trace.head;
    state->n_all = (uint64_t)head->n_layers * head->n_experts;
    for (size_t i = 0; i < slots->n; i++)
        if ((uint64_t)slots->ids[i] > state->n_all)
            return cli_fail(cli, CLI_FAILED, "option --slots: %d slots, the model has %llu experts",
                            (int)slots->ids[i], (unsigned long long)state->n_all);
    if (slots->n) return CLI_OK;
    for (size_t i = 0; i < sizeof each / sizeof each[0]; i++)
        if (each[i] < head->n_experts) id_list_push(slots, (int32_t)(each[i] * head->n_layers));
    if (!slots->n) id_list_push(slots, (int32_t)state->n_all);
    return CLI_OK;
}

static void replay_choose_policies(replay_state *state)
{
    const char *policy = state->cli->options.policy;
    const bool all = !policy || strcmp(policy, "all") == 0;
    for (size_t p = 0; p < ERN_N_REPLAYS; p++) {
        state->wants[p] = all || strcmp(policy, replay_names[p]) == 0;
        state->n_runs += state->wants[p] ? state->cli->options.slots.n : 0;
    }
}

/* ---- Trying ---------------------------------------------------------------------------------- */

static int replay_open(replay_state *state)
{
    cli_context *cli = state->cli;
    const char *path = cli->options.positional[0];
    ernie_error error;
    ernie_status status = ern_trace_open(&state->trace, path, NULL, &error);
    if (status == ERNIE_OK) status = ern_replay_open(&state->replay, &state->trace, &error);
    if (status == ERNIE_OK) status = ern_replay_look(&state->trace, true, &state->decoded, &error);
    if (status == ERNIE_OK) status = ern_replay_look(&state->trace, false, &state->prompt, &error);
    return status == ERNIE_OK ? CLI_OK : cli_fail_error(cli, path, &error);
}

static int replay_run(replay_state *state)
{
    const id_list *slots = &state->cli->options.slots;
    ernie_status status = ERNIE_OK;
    ernie_error error;
    state->results = memory_resize(NULL, slots->n * ERN_N_REPLAYS, sizeof *state->results);
    progress_begin(&state->cli->bar, PROGRESS_PASSES);
    for (size_t i = 0; i < slots->n; i++)
        for (int p = 0; p < ERN_N_REPLAYS && status == ERNIE_OK; p++) {
            if (!state->wants[p]) continue;
            status = ern_replay_run(state->replay, (ern_replay_policy)p, (uint32_t)slots->ids[i],
                                    replay_progress, state,
                                    &state->results[i * ERN_N_REPLAYS + (size_t)p], &error);
            state->i_run++;
        }
    progress_erase(&state->cli->bar);
    return status == ERNIE_OK ? CLI_OK : cli_fail_error(state->cli, NULL, &error);
}

/* ---- Report ---------------------------------------------------------------------------------- */

static double replay_rate(const ern_replay_count *count)
{
    return count->n_pins ? (double)count->n_hits / (double)count->n_pins : -1;
}

static void replay_print_choices(output *out, const char *what, uint64_t n_tokens,
                                 const ern_replay_choices *choices)
{
    output_print(out, "%-11s%llu token%s", what, (unsigned long long)n_tokens,
                 n_tokens == 1 ? "" : "s");
    if (choices->overlap >= 0)
        output_print(out, "; %.1f%% of choices made by the token before, too",
                     100 * choices->overlap);
    if (choices->reuse_distance >= 0)
        output_print(out, "; again after %.0f (median)", choices->reuse_distance);
    if (choices->distinct >= 0) output_print(out, "; %.1f experts a layer in 8", choices->distinct);
    output_print(out, "\n");
}

/* The columns of one kind: names, or rates of one number of slots. */
static void replay_print_columns(const replay_state *state, const ern_replay_result *results,
                                 bool decoded)
{
    output *out = &state->cli->out;
    output_print(out, "  ");
    for (size_t p = 0; p < ERN_N_REPLAYS; p++) {
        if (!state->wants[p]) continue;
        const double rate =
            !results ? -1 : replay_rate(decoded ? &results[p].decoded : &results[p].prompt);
        if (!results)
            output_print(out, "%9s", replay_names[p]);
        else if (rate >= 0)
            output_print(out, "%8.1f%%", 100 * rate);
        else
            output_print(out, "%9s", "-");
    }
}

static void replay_print(const replay_state *state)
{
    const ern_trace *trace = &state->trace;
    const ern_trace_head *head = &trace->head;
    const id_list *slots = &state->cli->options.slots;
    output *out = &state->cli->out;
    int n_columns = 0;
    for (size_t p = 0; p < ERN_N_REPLAYS; p++) n_columns += state->wants[p];
    output_print(out, "%-11s%u layer%s of %u experts, %u for a token\n",
                 head->name[0] ? head->name : "model", head->n_layers,
                 head->n_layers == 1 ? "" : "s", head->n_experts, head->moe_k);
    replay_print_choices(out, "decoded", trace->n_decoded, &state->decoded);
    replay_print_choices(out, "prompt", trace->n_prompt, &state->prompt);
    output_print(out, "\n%8s%10s  %*s  %*s\n%8s%10s", "", "", 9 * n_columns, "in memory, decoded",
                 9 * n_columns, "prompt", "slots", "a layer");
    replay_print_columns(state, NULL, true);
    replay_print_columns(state, NULL, false);
    for (size_t i = 0; i < slots->n; i++) {
        const ern_replay_result *results = state->results + i * ERN_N_REPLAYS;
        output_print(out, "\n%8d%10.1f", (int)slots->ids[i],
                     (double)slots->ids[i] / (double)head->n_layers);
        replay_print_columns(state, results, true);
        replay_print_columns(state, results, false);
    }
    output_print(out, "\n");
}

/* What is below 0 is not known. */
static json_t *replay_known(double value)
{
    return value >= 0 ? output_number(value) : json_null();
}

static json_t *replay_choices_json(uint64_t n_tokens, const ern_replay_choices *choices)
{
    json_t *item = json_object();
    json_object_set_new(item, "tokens", output_count(n_tokens));
    json_object_set_new(item, "overlap", replay_known(choices->overlap));
    json_object_set_new(item, "reuse_distance", replay_known(choices->reuse_distance));
    json_object_set_new(item, "distinct_in_8", replay_known(choices->distinct));
    return item;
}

static json_t *replay_result_json(const replay_state *state, size_t i_slots, size_t policy)
{
    const ern_replay_result *result = &state->results[i_slots * ERN_N_REPLAYS + policy];
    const int32_t n_slots = state->cli->options.slots.ids[i_slots];
    json_t *item = json_object();
    json_object_set_new(item, "slots", json_integer(n_slots));
    json_object_set_new(item, "slots_per_layer",
                        output_number((double)n_slots / (double)state->trace.head.n_layers));
    json_object_set_new(item, "policy", json_string(replay_names[policy]));
    json_object_set_new(item, "decoded_pins", output_count(result->decoded.n_pins));
    json_object_set_new(item, "decoded_hit_rate", replay_known(replay_rate(&result->decoded)));
    json_object_set_new(item, "prompt_pins", output_count(result->prompt.n_pins));
    json_object_set_new(item, "prompt_hit_rate", replay_known(replay_rate(&result->prompt)));
    return item;
}

static void replay_print_json(const replay_state *state)
{
    const ern_trace_head *head = &state->trace.head;
    char id[33];
    json_t *root = json_object(), *results = json_array();
    for (size_t i = 0; i < 16; i++) snprintf(id + 2 * i, 3, "%02x", head->weights_id[i]);
    json_object_set_new(root, "model", json_string(head->name));
    json_object_set_new(root, "weights_id", json_string(id));
    json_object_set_new(root, "layers", output_count(head->n_layers));
    json_object_set_new(root, "experts", output_count(head->n_experts));
    json_object_set_new(root, "experts_used", output_count(head->moe_k));
    json_object_set_new(root, "prompt", replay_choices_json(state->trace.n_prompt, &state->prompt));
    json_object_set_new(root, "decoded",
                        replay_choices_json(state->trace.n_decoded, &state->decoded));
    for (size_t i = 0; i < state->cli->options.slots.n; i++)
        for (size_t p = 0; p < ERN_N_REPLAYS; p++)
            if (state->wants[p]) json_array_append_new(results, replay_result_json(state, i, p));
    json_object_set_new(root, "results", results);
    output_json(&state->cli->out, root);
}

int cmd_replay(cli_context *cli)
{
    replay_state state = { .cli = cli };
    int status = replay_open(&state);
    if (status == CLI_OK) status = replay_choose_slots(&state);
    if (status == CLI_OK) replay_choose_policies(&state);
    if (status == CLI_OK) status = replay_run(&state);
    if (status == CLI_OK && cli->options.json)
        replay_print_json(&state);
    else if (status == CLI_OK)
        replay_print(&state);
    free(state.results);
    ern_replay_close(state.replay);
    ern_trace_close(&state.trace);
    return status;
}
