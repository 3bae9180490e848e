/* The ernie program: the table of commands, and the way from argv to one of them and back to an exit
 * status. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "cli.h"
#include "interrupt.h"

#include <fcntl.h>
#include <langinfo.h>
#include <locale.h>
#include <string.h>
#include <unistd.h>

static int cmd_help(cli_context *cli);
static int cmd_version(cli_context *cli);

static const char *const main_no_arguments[] = { NULL };
static const char *const main_model[] = { "MODEL", NULL };
static const char *const main_model_text[] = { "MODEL", "TEXT", NULL };
static const char *const main_model_file[] = { "MODEL", "FILE", NULL };
static const char *const main_model_file_out[] = { "MODEL", "FILE", "OUT", NULL };
static const char *const main_model_out[] = { "MODEL", "OUT", NULL };
static const char *const main_model_base_file_out[] = { "MODEL", "BASE", "FILE", "OUT", NULL };
static const char *const main_source_out[] = { "SOURCE", "OUT", NULL };
static const char *const main_out[] = { "OUT", NULL };
static const char *const main_trace[] = { "TRACE", NULL };

const cli_command cli_commands[] = {
    { { "run", COMMAND_RUN, main_model },
      cmd_run,
      "MODEL -p TEXT | --ids LIST [-n N] [--temp T] [--raw] [--json] ...",
      "answer one prompt",
      "Writes the model's answer to standard output as it is made, then one line of\n"
      "statistics to standard error. TEXT is a question in the model's chat format, or with\n"
      "--raw the text to continue. One newline at the end of a question read from standard\n"
      "input is dropped. With --ids the model continues the tokens as they are. Ctrl-C stops\n"
      "with what was written so far and status 130.\n\n"
      "The JSON object of --json holds ids (the new tokens), text, reasoning (thinking models),\n"
      "stop (end, id, string, length or context), prompt_tokens, generated_tokens, prefill_tps,\n"
      "decode_tps, seed and pages (where the weights lie), and with --logprobs the list logprobs.\n\n"
      "A model that does not fit into --memory reads experts from its file when they are chosen.\n"
      "The line of statistics then says which part of those that the new tokens used was in\n"
      "memory, how many experts and bytes were read a token, how fast, which part of the time\n"
      "computing waited for that, and how many experts of a layer memory has room for. JSON has\n"
      "stream: slots (of all layers), slots_per_layer, experts_per_layer, expert_bytes, and prompt\n"
      "and decode, each with tokens and seconds; used (times that an expert was needed), of which\n"
      "hits were in memory, joined on their way and misses had to be read; ahead and ahead_used\n"
      "(of --look-ahead); bytes_read, wait_seconds and disk_seconds; hit_rate,\n"
      "bytes_read_per_token, disk_gbps (while the disk was busy) and wait_share." },
    { { "chat", COMMAND_CHAT, main_model },
      cmd_chat,
      "MODEL [--system TEXT] ...",
      "talk with the model",
      "A conversation: each line is a message, a line that ends with a backslash goes on with\n"
      "the next. Ctrl-C stops an answer; at the prompt it drops the line, and leaves the second\n"
      "time. Ctrl-D leaves. /help lists the commands. When the context is full the oldest turns\n"
      "are forgotten.\n\n"
      "Without a terminal each line of standard input is a question, also one that begins with\n"
      "a slash: there are no commands. What goes wrong, Ctrl-C included, ends the program." },
    { { "convert", COMMAND_CONVERT, main_source_out },
      cmd_convert,
      "SOURCE OUT [--type T | --preset P] [--imatrix FILE] ...",
      "make a model file from a checkpoint or a GGUF file",
      "SOURCE is a directory with config.json, safetensors and tokenizer.model as published\n"
      "(-PT, or -Paddle, plain or quantized), or a GGUF file of ERNIE 4.5: of several parts\n"
      "the first, with the others beside it. Weights that come quantized are decoded exactly\n"
      "and written as --type says; f32 keeps every value, w8 comes close, the default rounds a\n"
      "second time.\n\n"
      "c4, c3 and c2 are types of experts, of which a large model consists; the rest is kept at\n"
      "w4 or better. A preset is a mix of types. FILE is what \"ernie calibrate\" wrote for this\n"
      "model in f32 or bf16: errors of w4, c4, c3 and c2 are then put where they matter least.\n\n"
      "OUT appears when it is complete, never before: until then the work lies in OUT.part, which\n"
      "failure and Ctrl-C remove. Prints one line with the sizes." },
    { { "export", COMMAND_EXPORT, main_model_out },
      cmd_export,
      "MODEL OUT.gguf [--type T]",
      "make a GGUF file for other programs",
      "Writes the model as llama.cpp and its relatives read it (architectures ernie4_5 and\n"
      "ernie4_5-moe), with tokenizer, chat template and sampling defaults. Weights of any type\n"
      "are decoded and rounded anew: bf16 loses nothing of a bf16 file. q4_0 keeps embedding\n"
      "and output layer at q8_0; norms and routers are f32. Multi-token-prediction blocks are\n"
      "left out. Every checksum of MODEL is checked. OUT appears when it is complete, never\n"
      "before, as in convert." },
    { { "info", COMMAND_INFO, main_model },
      cmd_info,
      "MODEL [--records] [--json]",
      "say what a model file holds",
      "Reads no weights. Text for people, or with --json one object." },
    { { "verify", COMMAND_VERIFY, main_model },
      cmd_verify,
      "MODEL",
      "check every checksum of a model file",
      "Reads the whole file; prints one line that begins with \"ok\", or fails and names the\n"
      "first thing that is damaged." },
    { { "logits", COMMAND_LOGITS, main_model },
      cmd_logits,
      "MODEL --ids LIST",
      "print the logits after some tokens",
      "A JSON array with one number for each row of the vocabulary, those after the last\n"
      "token; null stands for the masked rows beyond the tokenizer." },
    { { "tokenize", COMMAND_TOKENIZE, main_model_text },
      cmd_tokenize,
      "MODEL TEXT [--text]",
      "turn text into token ids",
      "Prints a JSON array, without a begin token. Special tokens written in TEXT become their\n"
      "ids. - reads TEXT from standard input, every byte of it." },
    { { "detokenize", COMMAND_DETOKENIZE, main_model },
      cmd_detokenize,
      "MODEL --ids LIST [--special]",
      "turn token ids into text",
      "Prints the text and a newline." },
    { { "eval", COMMAND_EVAL, main_model_file },
      cmd_eval,
      "MODEL FILE [--limit N] [--skip N] [--against BASE]",
      "measure how well the model predicts text",
      "FILE holds one JSON object {\"text\": ...} a line. Special tokens in the text count, such\n"
      "as </s> at its end; only the first 1024 tokens of a document are looked at, and each\n"
      "document on its own. Prints a JSON object: documents, tokens (predicted ones: the first\n"
      "of a document is given) and nll_per_token, the mean negative natural logarithm of the\n"
      "probability given to each.\n\n"
      "With --against BASE, the file of another model with the same vocabulary, also\n"
      "base_nll_per_token; nll_difference, how much MODEL loses more, and its standard error\n"
      "nll_difference_error, tokens taken for independent; kl_mean, kl_p99 and kl_max, the mean\n"
      "of the Kullback-Leibler divergence from BASE's probabilities to MODEL's at each token,\n"
      "what 99 of 100 tokens do not exceed, and the largest; top1_agreement, the part of tokens\n"
      "of which both think the same likeliest." },
    { { "calibrate", COMMAND_CALIBRATE, main_model_file_out },
      cmd_calibrate,
      "MODEL FILE OUT [--limit N] [--skip N] [--memory SIZE] ... [--json]",
      "learn from text which weights matter",
      "Runs the documents of FILE, read as eval reads them, through the model, f32 or bf16 best,\n"
      "and writes to OUT what the input of every linear looks like: mean squares and, where\n"
      "--memory allows, second moments of its channels, each expert's on its own.\n"
      "\"ernie convert --imatrix OUT\" rounds weights by it. Says on standard error what was\n"
      "collected. Use other text than what the result is judged by: --skip and --limit divide a\n"
      "file. OUT appears when it is complete, never before, as in convert.\n\n"
      "The JSON object of --json holds documents, tokens, seconds, bytes (of OUT), inputs (of\n"
      "linears), of which moments_own have second moments of their own, moments_common share\n"
      "those of their layer and squares_only have none; experts, of which experts_rare got so\n"
      "few samples that they lean on the layer's average, and experts_unseen none at all." },
    { { "tune", COMMAND_TUNE, main_model_base_file_out },
      cmd_tune,
      "MODEL BASE FILE OUT [--limit N] [--skip N] [--threads N] [--force] [--json]",
      "refit the norms of a model of few bits to its base",
      "Runs the documents of FILE, read as eval reads them, through MODEL and through BASE, the\n"
      "same model in f32 or bf16, and writes to OUT a copy of MODEL whose norms bring its states\n"
      "as near to those of BASE as one factor a channel can, and its probabilities as one factor\n"
      "for all. Costs no bit: norms are f32 anyway.\n"
      "Measure on other text than FILE, with eval --against BASE. Needs 8 bytes of memory for each\n"
      "token and channel of the hidden state. OUT appears when it is complete, as in convert.\n\n"
      "The JSON object of --json holds documents, tokens, seconds, bytes (of OUT), norms (how many\n"
      "were refitted), factor_mean, factor_min and factor_max of their channels, clamped (factors\n"
      "held within 0.5 and 1.5), scale (of the final norm), kl_norms and kl_expected: the mean\n"
      "Kullback-Leibler divergence from BASE on FILE, in nats a token, before and after that\n"
      "scale." },
    { { "bench", COMMAND_BENCH, main_model },
      cmd_bench,
      "MODEL [-p LIST] [-c LIST] [-n N] [--repeat N] [--json]",
      "measure speed beside the machine's own limit",
      "Feeds random tokens: prompts at once, then single tokens as in decoding, after a warm-up.\n"
      "A long context is filled once and takes as long as its prompt. Also reads a block of\n"
      "memory, larger than the caches, as fast as the same number of threads can, and says which\n"
      "part of that bandwidth decoding uses: the nearer to 1, the less there is to gain. Weights\n"
      "that stay in the processor's caches are not bound by memory: with a small model the part\n"
      "means little and can exceed 1.\n\n"
      "The JSON object of --json holds load_s; prefill, a list of tokens and tps (the median\n"
      "number of tokens per second); decode, a list of context, tps, bytes_per_token (weights,\n"
      "keys and values read for a token, its context halfway through) and read_fraction\n"
      "(bytes_per_token times tps over the bandwidth measured); read_gbps, that bandwidth;\n"
      "weight_bytes_per_token and kv_bytes_per_token (of one token in the context); the first\n"
      "items of both lists again as prefill_tps, prompt_tokens, decode_tps, bytes_per_token and\n"
      "decode_read_fraction; decode_tokens, repeat, threads, version, cpu, types, pages (where the\n"
      "weights lay at the end), model_bytes and session_bytes.\n\n"
      "Where experts come from disk, each row also says what was read for it, as run does, and\n"
      "decoding is compared with a bound: the time to pass the bytes of a token through memory,\n"
      "those from disk twice, and the experts that were read through the disk, at the rates that\n"
      "were measured before (or at --io-limit), and 10 us a layer. Bytes from disk count in\n"
      "bytes_per_token once more. JSON then has stream (slots, slots_per_layer,\n"
      "experts_per_layer, expert_bytes, ceiling_bytes and disk_gbps as measured before), in each\n"
      "item of both lists stream as in run's prompt and decode, and in decode's bound_tps and\n"
      "bound_fraction." },
    { { "plan", COMMAND_PLAN, main_model },
      cmd_plan,
      "MODEL [--memory SIZE] [--ctx N] [--replay TRACE] [--json]",
      "say what fits into memory, and how fast it will be",
      "Opens the model as run would and prints who gets which memory: weights that are in memory\n"
      "always, by class; the session; tables and buffers; and where the experts come from disk,\n"
      "how many of them are kept. The least ceiling that works is named, and what cannot work is\n"
      "refused as run would refuse it.\n\n"
      "Reads memory and, where experts come from disk, the file for about a second each, and\n"
      "predicts how fast tokens are decoded after 512 others. How often an expert will be in\n"
      "memory depends on the text: from as often as if all were chosen alike to as often as where\n"
      "half of a token's experts were chosen by the token before. With --replay it is what the\n"
      "later half of the tokens in TRACE, your own text perhaps, would have found there.\n\n"
      "With --layers MODEL stands for a larger model of the same shape: a few layers made by\n"
      "\"ernie synth\" are enough to plan for all.\n\n"
      "The JSON object of --json holds name, bytes (of the file), streams (experts come from\n"
      "disk), ceiling_bytes (null: none); embedding_bytes (and head), attention_bytes,\n"
      "dense_bytes, shared_bytes, norm_bytes (and routers) and prediction_bytes, together\n"
      "resident_bytes; experts_bytes in the file, expert_bytes of one; kv_bytes and scratch_bytes,\n"
      "together session_bytes; other_bytes; kept_bytes of experts; least_bytes; slots (experts in\n"
      "memory), slots_min, experts, layers (those with experts), experts_used (by a token),\n"
      "slots_per_layer, context, batch, threads; hit_low and hit_high; read_gbps (memory),\n"
      "disk_gbps, tps_low and tps_high, null where not measured." },
    { { "replay", COMMAND_REPLAY, main_trace },
      cmd_replay,
      "TRACE [--slots LIST] [--policy P] [--json]",
      "try caches of experts on a trace",
      "TRACE is what --trace of run, chat, eval or bench wrote. For each number of slots (experts\n"
      "that memory holds, of all layers together) and each rule of forgetting it counts how many\n"
      "of the experts asked for would have been in memory, beginning with none: of decoded tokens\n"
      "each choice in each layer, of a prompt's batches each expert chosen once a layer. lru and\n"
      "lfru are the engine's rules; opt knows the future and is the bound of every rule.\n\n"
      "The JSON object of --json holds model, weights_id, layers (those with experts), experts (of\n"
      "a layer), experts_used (by a token), prompt and decoded, which hold tokens, overlap (the\n"
      "part of a token's experts that the token before chose, too), reuse_distance (the median of\n"
      "tokens since an expert was last chosen) and distinct_in_8 (experts of a layer that eight\n"
      "tokens choose together), and results, a list of slots, slots_per_layer, policy,\n"
      "decoded_pins, decoded_hit_rate, prompt_pins and prompt_hit_rate. null: too few tokens." },
    { { "synth", COMMAND_SYNTH, main_out },
      cmd_synth,
      "OUT --shape 21b|300b|0.3b|demo [--layers N] [--type T]",
      "write a random model of a real shape",
      "For benchmarks and tests: speed and size as the real thing, words without sense. The\n"
      "shapes are those of ERNIE-4.5-21B-A3B, 300B-A47B and 0.3B and of the demo model. OUT\n"
      "appears when it is complete, never before, as in convert." },
    { { "help", COMMAND_HELP, main_no_arguments },
      cmd_help,
      "[COMMAND]",
      "print this overview",
      "The overview of the commands, or what \"ernie COMMAND --help\" prints." },
    { { "version", COMMAND_VERSION, main_no_arguments },
      cmd_version,
      "",
      "print the version",
      "Prints \"ernie\" and the version of the library." },
    { { NULL, 0, NULL }, NULL, NULL, NULL, NULL },
};

static const cli_command *main_find(const char *name)
{
    for (const cli_command *command = cli_commands; command->shape.name; command++)
        if (strcmp(command->shape.name, name) == 0) return command;
    return NULL;
}

static int cmd_help(cli_context *cli)
{
    help_print_overview(&cli->out);
    return CLI_OK;
}

static int cmd_version(cli_context *cli)
{
    output_print(&cli->out, "ernie %s\n", ernie_version());
    return CLI_OK;
}

/* A file that the program opens must not become descriptor 0, 1 or 2. What is closed is replaced by
 * something that cannot be used either, so that reading or writing it is reported. */
static void main_guard_descriptors(void)
{
    static const int flags[] = { O_WRONLY, O_RDONLY, O_RDONLY };
    for (int descriptor = 0; descriptor <= 2; descriptor++) {
        if (fcntl(descriptor, F_GETFD) != -1) continue;
        if (open("/dev/null", flags[descriptor]) != descriptor) _exit(CLI_FAILED);
    }
}

/* Line editing must know the terminal's characters; a machine without a locale still has C.UTF-8. */
static void main_set_locale(void)
{
    setlocale(LC_CTYPE, "");
    if (strcmp(nl_langinfo(CODESET), "UTF-8") != 0) setlocale(LC_CTYPE, "C.UTF-8");
}

/* The command that argv[1] names; "ernie --help" and "ernie help run" are spellings of others;
 * *help is set when its help is asked for. NULL after cli_fail. */
static const cli_command *main_command(cli_context *cli, int argc, char **argv, bool *help)
{
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name) {
        cli_fail(cli, CLI_USAGE, "a command is missing, see ernie --help");
        return NULL;
    }
    if (!strcmp(name, "--help") || !strcmp(name, "-h")) name = "help";
    if (!strcmp(name, "--version")) name = "version";
    if (!strcmp(name, "help") && argc > 2 && argv[2][0] != '-') {
        name = argv[2];
        *help = true;
    }
    const cli_command *command = main_find(name);
    if (!command) cli_fail(cli, CLI_USAGE, "unknown command \"%.60s\", see ernie --help", name);
    return command;
}

static int main_run(cli_context *cli, int argc, char **argv)
{
    bool help = false;
    const cli_command *command = main_command(cli, argc, argv, &help);
    if (!command) return CLI_USAGE;
    cli->command = command;
    usage_error error;
    if (!help && !options_parse(&cli->options, &command->shape, argc - 1, argv + 1, &error))
        return cli_fail(cli, CLI_USAGE, "%s", error.message);
    if (help || (cli->options.help && command->run != cmd_help)) {
        help_print_command(&cli->out, command);
        return CLI_OK;
    }
    progress_init(&cli->bar, cli->options.quiet);
    return command->run(cli);
}

int main(int argc, char **argv)
{
    main_guard_descriptors();
    main_set_locale();
    interrupt_install();
    cli_context cli = { 0 };
    output_open(&cli.out, stdout);
    int status = main_run(&cli, argc, argv);
    progress_erase(&cli.bar);
    cli_trace_abandon(&cli);
    if (!output_close(&cli.out) && status == CLI_OK) status = cli_fail_output(&cli);
    options_free(&cli.options);
    return status;
}
