/* ernie bench: how fast the model loads, reads prompts and decodes, beside the machine's own limit.
 *
 * One sequence of random tokens serves everything: the session always holds a beginning of it, so
 * that going to a context feeds only what is missing, and a long one is filled once. */
#include "bandwidth.h"
#include "cli.h"
#include "interrupt.h"

#include <stdlib.h>

enum {
    BENCH_PROMPT = 512,
    BENCH_TOKENS = 128,
    BENCH_REPEAT = 3,
    BENCH_WARM_TOKENS = 4,
    BENCH_PIECE = 512 /* tokens fed between two moves of the bar while a context is filled */
};

typedef struct bench_state {
    cli_context *cli;
    ernie_model *model;
    ernie_session *session;
    ernie_model_info info;
    ernie_memory memory;
    id_list *prompts, *contexts; /* the options', with their defaults */
    size_t n_tokens, n_repeat, n_ctx;
    int32_t *ids;    /* [n_ctx] */
    double *seconds; /* [n_repeat] of the runs under way */
    double *prefill; /* [prompts->n] tokens per second */
    double *decode;  /* [contexts->n] tokens per second */
    double load_s;
    double read_rate; /* bytes per second */
    uint64_t n_done, n_all; /* for the bar: tokens fed, and in all */
} bench_state;

/* Random text meets other experts and other rows of the embedding at every step, as real text does;
 * the same ids every time, so that runs compare. */
static void bench_make_ids(bench_state *bench)
{
    const uint32_t n_tokens = bench->info.n_tokens ? bench->info.n_tokens : 1;
    uint64_t state = 1;
    for (size_t i = 0; i < bench->n_ctx; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        bench->ids[i] = (int32_t)((state >> 33) % n_tokens);
    }
}

/* ---- Runs ---------------------------------------------------------------------------------- */

/* The next n tokens, as a prompt or one by one. */
static ernie_status bench_feed(bench_state *bench, size_t n, bool decodes, ernie_error *error)
{
    const int32_t *ids = bench->ids + ernie_session_length(bench->session);
    ernie_status status = ERNIE_OK;
    if (!decodes && n) status = ernie_session_feed(bench->session, ids, n, error);
    for (size_t i = 0; decodes && i < n && status == ERNIE_OK; i++)
        status = ernie_session_feed(bench->session, ids + i, 1, error);
    bench->n_done += n;
    return status;
}

static ernie_status bench_hold(bench_state *bench, size_t n, ernie_error *error)
{
    size_t held = ernie_session_length(bench->session);
    ernie_status status = ERNIE_OK;
    if (held > n) status = ernie_session_rewind(bench->session, held = n, error);
    while (held < n && status == ERNIE_OK) {
        const size_t piece = n - held < BENCH_PIECE ? n - held : BENCH_PIECE;
        progress_update("filling the context", bench->n_done, bench->n_all, &bench->cli->bar);
        status = bench_feed(bench, piece, false, error);
        held += piece;
    }
    return status;
}

static int bench_compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Feed n tokens after `context` others, first to warm up, then n_repeat times; *tps is of the median.
 * The bar moves between runs only: drawing would be measured. */
static ernie_status bench_measure(bench_state *bench, size_t context, size_t n, bool decodes,
                                  double *tps, ernie_error *error)
{
    const size_t n_warm = decodes && n > BENCH_WARM_TOKENS ? BENCH_WARM_TOKENS : n;
    ernie_status status = bench_hold(bench, context, error);
    if (status == ERNIE_OK) status = bench_feed(bench, n_warm, decodes, error);
    for (size_t i = 0; i < bench->n_repeat && status == ERNIE_OK; i++) {
        progress_update("measuring", bench->n_done, bench->n_all, &bench->cli->bar);
        status = bench_hold(bench, context, error);
        const double start = progress_clock();
        if (status == ERNIE_OK) status = bench_feed(bench, n, decodes, error);
        bench->seconds[i] = progress_clock() - start;
    }
    qsort(bench->seconds, bench->n_repeat, sizeof *bench->seconds, bench_compare);
    const double median = bench->seconds[bench->n_repeat / 2];
    *tps = median > 0 ? (double)n / median : 0;
    return status;
}

static int bench_run(bench_state *bench)
{
    ernie_error error;
    ernie_status status = ERNIE_OK;
    progress_begin(&bench->cli->bar, PROGRESS_TOKENS);
    interrupt_watch(bench->session);
    for (size_t i = 0; i < bench->prompts->n && status == ERNIE_OK; i++)
        status = bench_measure(bench, 0, (size_t)bench->prompts->ids[i], false, &bench->prefill[i],
                               &error);
    for (size_t i = 0; i < bench->contexts->n && status == ERNIE_OK; i++)
        status = bench_measure(bench, (size_t)bench->contexts->ids[i], bench->n_tokens, true,
                               &bench->decode[i], &error);
    interrupt_watch(NULL);
    progress_erase(&bench->cli->bar);
    bench->info = cli_model_info(bench->model); /* the pages may have changed */
    return status == ERNIE_OK ? CLI_OK : cli_fail_error(bench->cli, NULL, &error);
}

/* ---- Opening ------------------------------------------------------------------------------- */

/* The lists and counts as given or by default, and what they need of the context and of the bar. */
static void bench_plan(bench_state *bench)
{
    program_options *options = &bench->cli->options;
    bench->prompts = &options->prompts;
    bench->contexts = &options->contexts;
    bench->n_tokens = options->n_tokens ? options->n_tokens : BENCH_TOKENS;
    bench->n_repeat = options->n_repeat ? options->n_repeat : BENCH_REPEAT;
    if (bench->prompts->n == 0) id_list_push(bench->prompts, BENCH_PROMPT);
    if (bench->contexts->n == 0) id_list_push(bench->contexts, bench->prompts->ids[0]);
    for (size_t i = 0; i < bench->prompts->n; i++) {
        const size_t n = (size_t)bench->prompts->ids[i];
        bench->n_ctx = n > bench->n_ctx ? n : bench->n_ctx;
        bench->n_all += n * (bench->n_repeat + 1);
    }
    for (size_t i = 0; i < bench->contexts->n; i++) {
        const size_t n = (size_t)bench->contexts->ids[i] + bench->n_tokens;
        bench->n_ctx = n > bench->n_ctx ? n : bench->n_ctx;
        bench->n_all += n + bench->n_tokens * bench->n_repeat;
    }
}

static int bench_open(bench_state *bench)
{
    const double start = progress_clock();
    bench_plan(bench);
    bench->cli->options.n_ctx = (uint32_t)bench->n_ctx; /* what opening plans memory for */
    int status = cli_open_model(bench->cli, &bench->model);
    bench->load_s = progress_clock() - start;
    if (status != CLI_OK) return status;
    bench->info = cli_model_info(bench->model);
    if (bench->n_ctx > bench->info.context_max)
        return cli_fail(bench->cli, CLI_FAILED,
                        "the longest prompt or context and the tokens to decode after it are %zu "
                        "tokens, they do not fit the model's context of %u",
                        bench->n_ctx, bench->info.context_max);
    const cli_session wanted = { .n_ctx = bench->n_ctx, .traced = true };
    status = cli_open_session(bench->cli, bench->model, &wanted, &bench->memory, &bench->session);
    if (status != CLI_OK) return status;
    bench->ids = memory_resize(NULL, bench->n_ctx, sizeof *bench->ids);
    bench->seconds = memory_resize(NULL, bench->n_repeat, sizeof *bench->seconds);
    bench->prefill = memory_resize(NULL, bench->prompts->n, sizeof *bench->prefill);
    bench->decode = memory_resize(NULL, bench->contexts->n, sizeof *bench->decode);
    bench_make_ids(bench);
    return CLI_OK;
}

/* ---- Report -------------------------------------------------------------------------------- */

static uint64_t bench_kv_bytes(const bench_state *bench)
{
    return bench->memory.kv_bytes / bench->n_ctx;
}

/* Bytes that a token reads on the average: the token halfway through those decoded, which sees itself
 * and all before it. */
static uint64_t bench_bytes(const bench_state *bench, size_t i_context)
{
    const uint64_t n_seen = (uint64_t)bench->contexts->ids[i_context] + (bench->n_tokens + 1) / 2;
    return bench->info.bytes_per_token + n_seen * bench_kv_bytes(bench);
}

/* The part of the bandwidth that decoding uses. */
static double bench_part(const bench_state *bench, size_t i_context)
{
    const double rate = (double)bench_bytes(bench, i_context) * bench->decode[i_context];
    return bench->read_rate > 0 ? rate / bench->read_rate : 0;
}

static void bench_print(const bench_state *bench)
{
    output *out = &bench->cli->out;
    output_print(out, "load       %.4f s\n", bench->load_s);
    for (size_t i = 0; i < bench->prompts->n; i++)
        output_print(out, "prefill    %.1f tokens/s (%d tokens)\n", bench->prefill[i],
                     (int)bench->prompts->ids[i]);
    for (size_t i = 0; i < bench->contexts->n; i++) {
        const double bytes = (double)bench_bytes(bench, i), part = bench_part(bench, i);
        output_print(out,
                     "decode     %.1f tokens/s (%zu tokens after %d), %.2f MB a token, %.2f GB/s, "
                     "%.1f%% of the memory's%s\n",
                     bench->decode[i], bench->n_tokens, (int)bench->contexts->ids[i], 1e-6 * bytes,
                     1e-9 * bytes * bench->decode[i], 100 * part,
                     part > 1 ? " (caches and prefetching beat the plain loop)" : "");
    }
    output_print(out, "pages      %s\n", bench->info.pages);
    output_print(out, "memory     %.2f GB/s read with %u threads\n", 1e-9 * bench->read_rate,
                 bench->memory.n_threads);
}

static json_t *bench_prefill_json(const bench_state *bench)
{
    json_t *list = json_array();
    for (size_t i = 0; i < bench->prompts->n; i++) {
        json_t *item = json_object();
        json_object_set_new(item, "tokens", json_integer(bench->prompts->ids[i]));
        json_object_set_new(item, "tps", output_number(bench->prefill[i]));
        json_array_append_new(list, item);
    }
    return list;
}

static json_t *bench_decode_json(const bench_state *bench)
{
    json_t *list = json_array();
    for (size_t i = 0; i < bench->contexts->n; i++) {
        json_t *item = json_object();
        json_object_set_new(item, "context", json_integer(bench->contexts->ids[i]));
        json_object_set_new(item, "tps", output_number(bench->decode[i]));
        json_object_set_new(item, "bytes_per_token", output_count(bench_bytes(bench, i)));
        json_object_set_new(item, "read_fraction", output_number(bench_part(bench, i)));
        json_array_append_new(list, item);
    }
    return list;
}

static void bench_print_json(const bench_state *bench)
{
    json_t *root = json_object();
    json_object_set_new(root, "load_s", output_number(bench->load_s));
    json_object_set_new(root, "prefill_tps", output_number(bench->prefill[0]));
    json_object_set_new(root, "decode_tps", output_number(bench->decode[0]));
    json_object_set_new(root, "bytes_per_token", output_count(bench_bytes(bench, 0)));
    json_object_set_new(root, "read_gbps", output_number(1e-9 * bench->read_rate));
    json_object_set_new(root, "decode_read_fraction", output_number(bench_part(bench, 0)));
    json_object_set_new(root, "threads", output_count(bench->memory.n_threads));
    json_object_set_new(root, "prompt_tokens", json_integer(bench->prompts->ids[0]));
    json_object_set_new(root, "decode_tokens", output_count(bench->n_tokens));
    json_object_set_new(root, "repeat", output_count(bench->n_repeat));
    json_object_set_new(root, "prefill", bench_prefill_json(bench));
    json_object_set_new(root, "decode", bench_decode_json(bench));
    json_object_set_new(root, "weight_bytes_per_token", output_count(bench->info.bytes_per_token));
    json_object_set_new(root, "kv_bytes_per_token", output_count(bench_kv_bytes(bench)));
    json_object_set_new(root, "version", json_string(ernie_version()));
    json_object_set_new(root, "cpu", json_string(bench->info.cpu));
    json_object_set_new(root, "types", json_string(bench->info.types));
    json_object_set_new(root, "pages", json_string(bench->info.pages));
    json_object_set_new(root, "model_bytes", output_count(bench->info.n_bytes));
    json_object_set_new(root, "session_bytes", output_count(bench->memory.total_bytes));
    output_json(&bench->cli->out, root);
}

int cmd_bench(cli_context *cli)
{
    bench_state bench = { .cli = cli };
    int status = bench_open(&bench);
    if (status == CLI_OK) status = bench_run(&bench);
    if (status == CLI_OK) status = cli_trace_finish(cli);
    if (status == CLI_OK) {
        ernie_session_free(bench.session); /* its threads must not disturb those that read */
        bench.session = NULL;
        bench.read_rate = bandwidth_measure(bench.memory.n_threads);
        if (cli->options.json)
            bench_print_json(&bench);
        else
            bench_print(&bench);
    }
    free(bench.ids);
    free(bench.seconds);
    free(bench.prefill);
    free(bench.decode);
    ernie_session_free(bench.session);
    ernie_model_close(bench.model);
    return status;
}
