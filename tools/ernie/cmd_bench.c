/* ernie bench: how fast the model loads, reads a prompt and decodes, beside the machine's own limit. */
#include "bandwidth.h"
#include "cli.h"
#include "interrupt.h"

#include <stdlib.h>

enum { BENCH_PROMPT = 512, BENCH_TOKENS = 128, BENCH_REPEAT = 3, BENCH_WARM_TOKENS = 4 };

typedef struct bench_state {
    cli_context *cli;
    ernie_model *model;
    ernie_session *session;
    ernie_model_info info;
    ernie_memory memory;
    size_t n_prompt, n_tokens, n_repeat;
    int32_t *ids;    /* [n_prompt + n_tokens] */
    double *prefill; /* [n_repeat] seconds */
    double *decode;  /* [n_repeat] seconds */
    double load_s;
    double read_rate; /* bytes per second */
} bench_state;

/* Random text meets other experts and other rows of the embedding at every step, as real text does;
 * the same ids every time, so that runs compare. */
static void bench_make_ids(bench_state *bench)
{
    const uint32_t n_tokens = bench->info.n_tokens ? bench->info.n_tokens : 1;
    uint64_t state = 1;
    for (size_t i = 0; i < bench->n_prompt + bench->n_tokens; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        bench->ids[i] = (int32_t)((state >> 33) % n_tokens);
    }
}

/* Feed the prompt at once, then n_tokens one by one; seconds of both. */
static ernie_status bench_pass(bench_state *bench, size_t n_tokens, double *prefill, double *decode,
                               ernie_error *error)
{
    ernie_status status = ernie_session_rewind(bench->session, 0, error);
    double start = progress_clock();
    if (status == ERNIE_OK)
        status = ernie_session_feed(bench->session, bench->ids, bench->n_prompt, error);
    *prefill = progress_clock() - start;
    start = progress_clock();
    for (size_t i = 0; i < n_tokens && status == ERNIE_OK; i++)
        status = ernie_session_feed(bench->session, bench->ids + bench->n_prompt + i, 1, error);
    *decode = progress_clock() - start;
    return status;
}

/* The bar moves between passes only: drawing would be measured. The first pass warms up. */
static int bench_measure(bench_state *bench)
{
    progress *bar = &bench->cli->bar;
    ernie_error error;
    ernie_status status = ERNIE_OK;
    progress_begin(bar, PROGRESS_PASSES);
    interrupt_watch(bench->session);
    for (size_t i = 0; i <= bench->n_repeat && status == ERNIE_OK; i++) {
        const bool warms = i == 0;
        const size_t at = warms ? 0 : i - 1;
        const size_t n_warm =
            bench->n_tokens < BENCH_WARM_TOKENS ? bench->n_tokens : BENCH_WARM_TOKENS;
        progress_update("measuring", i, bench->n_repeat + 1, bar);
        status = bench_pass(bench, warms ? n_warm : bench->n_tokens, &bench->prefill[at],
                            &bench->decode[at], &error);
    }
    interrupt_watch(NULL);
    progress_erase(bar);
    return status == ERNIE_OK ? CLI_OK : cli_fail_error(bench->cli, NULL, &error);
}

static int bench_open(bench_state *bench)
{
    const program_options *options = &bench->cli->options;
    const double start = progress_clock();
    int status = cli_open_model(bench->cli, &bench->model);
    bench->load_s = progress_clock() - start;
    if (status != CLI_OK) return status;
    bench->info = cli_model_info(bench->model);
    bench->n_prompt = options->n_prompt ? options->n_prompt : BENCH_PROMPT;
    bench->n_tokens = options->n_tokens ? options->n_tokens : BENCH_TOKENS;
    bench->n_repeat = options->n_repeat ? options->n_repeat : BENCH_REPEAT;
    const uint64_t n_ctx = (uint64_t)bench->n_prompt + bench->n_tokens;
    if (n_ctx > bench->info.context_max)
        return cli_fail(bench->cli, CLI_FAILED,
                        "%zu prompt tokens and %zu to decode do not fit the model's context of %u",
                        bench->n_prompt, bench->n_tokens, bench->info.context_max);
    const cli_session wanted = { .n_ctx = n_ctx };
    status = cli_open_session(bench->cli, bench->model, &wanted, &bench->memory, &bench->session);
    if (status != CLI_OK) return status;
    bench->ids = memory_resize(NULL, (size_t)n_ctx, sizeof *bench->ids);
    bench->prefill = memory_resize(NULL, bench->n_repeat, sizeof *bench->prefill);
    bench->decode = memory_resize(NULL, bench->n_repeat, sizeof *bench->decode);
    bench_make_ids(bench);
    return CLI_OK;
}

static int bench_compare(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Tokens per second in the median of the runs. */
static double bench_rate(const bench_state *bench, double *seconds, size_t n)
{
    qsort(seconds, bench->n_repeat, sizeof *seconds, bench_compare);
    const double median = seconds[bench->n_repeat / 2];
    return median > 0 ? (double)n / median : 0;
}

static void bench_report(bench_state *bench)
{
    output *out = &bench->cli->out;
    const double prefill_tps = bench_rate(bench, bench->prefill, bench->n_prompt);
    const double decode_tps = bench_rate(bench, bench->decode, bench->n_tokens);
    const double bytes = (double)bench->info.bytes_per_token;
    const double part = bench->read_rate > 0 ? bytes * decode_tps / bench->read_rate : 0;
    if (!bench->cli->options.json) {
        output_print(out, "load       %.4f s\n", bench->load_s);
        output_print(out, "prefill    %.1f tokens/s (%zu tokens)\n", prefill_tps, bench->n_prompt);
        output_print(out, "decode     %.1f tokens/s (%zu tokens)\n", decode_tps, bench->n_tokens);
        output_print(out, "reads      %.2f MB of weights for a token, %.2f GB/s while decoding\n",
                     1e-6 * bytes, 1e-9 * bytes * decode_tps);
        output_print(out, "memory     %.2f GB/s with %u threads; decoding uses %.1f%% of it%s\n",
                     1e-9 * bench->read_rate, bench->memory.n_threads, 100 * part,
                     part > 1 ? " (its weights stay in the caches)" : "");
        return;
    }
    json_t *root = json_object();
    json_object_set_new(root, "load_s", output_number(bench->load_s));
    json_object_set_new(root, "prefill_tps", output_number(prefill_tps));
    json_object_set_new(root, "decode_tps", output_number(decode_tps));
    json_object_set_new(root, "bytes_per_token", output_count(bench->info.bytes_per_token));
    json_object_set_new(root, "read_gbps", output_number(1e-9 * bench->read_rate));
    json_object_set_new(root, "decode_read_fraction", output_number(part));
    json_object_set_new(root, "threads", output_count(bench->memory.n_threads));
    json_object_set_new(root, "prompt_tokens", output_count(bench->n_prompt));
    json_object_set_new(root, "decode_tokens", output_count(bench->n_tokens));
    json_object_set_new(root, "repeat", output_count(bench->n_repeat));
    json_object_set_new(root, "cpu", json_string(bench->info.cpu));
    json_object_set_new(root, "types", json_string(bench->info.types));
    json_object_set_new(root, "model_bytes", output_count(bench->info.n_bytes));
    json_object_set_new(root, "session_bytes", output_count(bench->memory.total_bytes));
    output_json(out, root);
}

int cmd_bench(cli_context *cli)
{
    bench_state bench = { .cli = cli };
    int status = bench_open(&bench);
    if (status == CLI_OK) status = bench_measure(&bench);
    if (status == CLI_OK) {
        ernie_session_free(bench.session); /* its threads must not disturb those that read */
        bench.session = NULL;
        bench.read_rate = bandwidth_measure(bench.memory.n_threads);
        bench_report(&bench);
    }
    free(bench.ids);
    free(bench.prefill);
    free(bench.decode);
    ernie_session_free(bench.session);
    ernie_model_close(bench.model);
    return status;
}
