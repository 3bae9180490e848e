/* The command line: the table, and getopt_long driven by it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "options.h"
#include "buffer.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum option_kind {
    OPTION_FLAG,       /* bool, no value */
    OPTION_TEXT,       /* const char * */
    OPTION_CHOICE,     /* const char *, one of `choices` */
    OPTION_COUNT,      /* uint32_t, min .. max */
    OPTION_COUNTS,     /* id_list of numbers min .. max, repeatable */
    OPTION_SEED,       /* uint64_t, min .. max */
    OPTION_REAL,       /* float, min .. max */
    OPTION_REAL_ABOVE, /* float, above min, at most max */
    OPTION_SIZE,       /* uint64_t bytes */
    OPTION_IDS,        /* id_list, repeatable */
    OPTION_TEXTS,      /* text_list, repeatable */
    OPTION_BIAS        /* bias_list, repeatable */
} option_kind;

typedef struct option_row {
    const char *name;
    char letter;       /* 0: none */
    const char *value; /* how the help calls the value; NULL for flags */
    option_kind kind;
    unsigned commands;
    size_t offset; /* of the field in program_options */
    double min, max;
    const char *choices; /* separated by "|" */
    const char *help;
} option_row;

#define AT(field) offsetof(program_options, field)
#define ANSWERS   (COMMAND_RUN | COMMAND_CHAT)
#define SESSIONS  (ANSWERS | COMMAND_LOGITS | COMMAND_EVAL | COMMAND_BENCH)
#define PLANNED   (SESSIONS | COMMAND_PLAN) /* memory is planned for a session */
#define MODELS \
    (PLANNED | COMMAND_INFO | COMMAND_VERIFY | COMMAND_TOKENIZE | COMMAND_DETOKENIZE | COMMAND_CALIBRATE | COMMAND_TUNE)
#define MAKERS    (COMMAND_CONVERT | COMMAND_SYNTH) /* of model files */
#define WRITERS   (MAKERS | COMMAND_EXPORT)
#define TEXTS     (COMMAND_EVAL | COMMAND_CALIBRATE | COMMAND_TUNE)
#define TRACED    (ANSWERS | COMMAND_EVAL | COMMAND_BENCH)
#define EVERY     (MODELS | WRITERS | COMMAND_REPLAY)

/* The most that fits a JSON number exactly, so that a printed seed can be given back. */
#define SEED_MAX    9007199254740991.0
#define COUNT_MAX   2147483647.0
#define THREADS_MAX 1024
#define TYPES       "f32|f16|bf16|w8|w4|c4|c3|c2"
#define PRESETS     "tiny|small|medium|large"

/* clang-format off */
static const option_row option_rows[] = {
    { "prompt", 'p', "TEXT", OPTION_TEXT, COMMAND_RUN, AT(prompt), 0, 0, NULL,
      "the question, or the text to continue with --raw; - reads it from standard input" },
    { "ids", 0, "LIST", OPTION_IDS, COMMAND_RUN, AT(ids), 0, 0, NULL,
      "token ids, comma separated, fed as they are instead of a prompt" },
    { "ids", 0, "LIST", OPTION_IDS, COMMAND_LOGITS | COMMAND_DETOKENIZE, AT(ids), 0, 0, NULL,
      "token ids, comma separated" },
    { "tokens", 'n', "N", OPTION_COUNT, ANSWERS, AT(n_tokens), 1, COUNT_MAX, NULL,
      "make at most N tokens [until the answer ends or the context is full]" },
    { "prompt-tokens", 'p', "LIST", OPTION_COUNTS, COMMAND_BENCH, AT(prompts), 1, COUNT_MAX, NULL,
      "lengths of the prompts, such as 64,512,2048 [512]" },
    { "contexts", 'c', "LIST", OPTION_COUNTS, COMMAND_BENCH, AT(contexts), 0, COUNT_MAX, NULL,
      "decode after so many tokens, such as 0,4096,32768 [as many as the first prompt has]" },
    { "tokens", 'n', "N", OPTION_COUNT, COMMAND_BENCH, AT(n_tokens), 1, COUNT_MAX, NULL,
      "tokens to decode at each context [128]" },
    { "repeat", 0, "N", OPTION_COUNT, COMMAND_BENCH, AT(n_repeat), 1, 1000, NULL,
      "measure N times and report the medians [3]" },
    { "system", 0, "TEXT", OPTION_TEXT, ANSWERS, AT(system_message), 0, 0, NULL,
      "the system message" },
    { "search-context", 0, "FILE", OPTION_TEXT, COMMAND_RUN, AT(search_context), 0, 0, NULL,
      "answer the prompt from search results: JSON with date, references [{title, published, "
      "content, url, site}] and, if wanted, language \"zh\" or \"en\" [by the question's script]" },
    { "raw", 0, NULL, OPTION_FLAG, COMMAND_RUN, AT(raw), 0, 0, NULL,
      "continue the prompt itself, without the chat format; special tokens in it count" },
    { "json", 0, NULL, OPTION_FLAG, COMMAND_RUN | COMMAND_INFO | COMMAND_BENCH | COMMAND_CALIBRATE | COMMAND_TUNE | COMMAND_REPLAY | COMMAND_PLAN,
      AT(json), 0, 0, NULL,
      "print one JSON object" },
    { "json", 0, NULL, OPTION_FLAG, COMMAND_EVAL, AT(json), 0, 0, NULL,
      "changes nothing: the result is a JSON object always" },
    { "records", 0, NULL, OPTION_FLAG, COMMAND_INFO, AT(records), 0, 0, NULL,
      "list every tensor and expert with its type, place and checksum" },
    { "all", 0, NULL, OPTION_FLAG, COMMAND_LOGITS, AT(all), 0, 0, NULL,
      "print the logits of every position, an array of arrays" },
    { "text", 0, NULL, OPTION_FLAG, COMMAND_TOKENIZE, AT(literal_text), 0, 0, NULL,
      "read special tokens in TEXT as plain text" },
    { "special", 0, NULL, OPTION_FLAG, COMMAND_DETOKENIZE, AT(special), 0, 0, NULL,
      "write control tokens out (</s>) instead of dropping them" },
    { "limit", 0, "N", OPTION_COUNT, TEXTS, AT(n_limit), 1, COUNT_MAX, NULL,
      "read only N documents" },
    { "skip", 0, "N", OPTION_COUNT, TEXTS, AT(n_skip), 0, COUNT_MAX, NULL,
      "leave out the first N documents, so that one file serves for calibration and for evaluation" },
    { "against", 0, "BASE", OPTION_TEXT, COMMAND_EVAL, AT(against), 0, 0, NULL,
      "run the model in this file, too, and say how far MODEL is from it" },
    { "common", 0, NULL, OPTION_FLAG, COMMAND_CALIBRATE, AT(common), 0, 0, NULL,
      "one matrix of second moments for the gate and up of all experts of a layer: a smaller file" },
    { "diagonal", 0, NULL, OPTION_FLAG, COMMAND_CALIBRATE, AT(diagonal), 0, 0, NULL,
      "mean squares only, no second moments: a file of megabytes" },
    { "memory", 0, "SIZE", OPTION_SIZE, COMMAND_CALIBRATE, AT(memory), 0, 0, NULL,
      "hold at most SIZE, such as 4G, weights not counted; less means fewer second moments "
      "[half of what is free]" },

    { "temp", 0, "T", OPTION_REAL, ANSWERS, AT(temperature), 0, 100, NULL,
      "temperature; 0 always takes the likeliest token [the model's own, else 1]" },
    { "top-p", 0, "P", OPTION_REAL_ABOVE, ANSWERS, AT(top_p), 0, 1, NULL,
      "keep the smallest set of tokens whose probability reaches P [the model's own, else 1]" },
    { "top-k", 0, "K", OPTION_COUNT, ANSWERS, AT(top_k), 0, COUNT_MAX, NULL,
      "keep the K likeliest tokens; 0 keeps all [0]" },
    { "min-p", 0, "P", OPTION_REAL, ANSWERS, AT(min_p), 0, 1, NULL,
      "keep tokens at least P times as likely as the best [0]" },
    { "repeat-penalty", 0, "R", OPTION_REAL_ABOVE, ANSWERS, AT(repeat_penalty), 0, 100, NULL,
      "divide the logits of tokens seen before by R [1]" },
    { "frequency-penalty", 0, "F", OPTION_REAL, ANSWERS, AT(frequency_penalty), -100, 100, NULL,
      "subtract F for each time a token was seen [0]" },
    { "presence-penalty", 0, "F", OPTION_REAL, ANSWERS, AT(presence_penalty), -100, 100, NULL,
      "subtract F once from tokens seen before [0]" },
    { "logit-bias", 0, "ID=VALUE", OPTION_BIAS, ANSWERS, AT(bias), 0, 0, NULL,
      "add VALUE to a token's logit, -inf forbids it; may be repeated" },
    { "seed", 0, "S", OPTION_SEED, ANSWERS, AT(seed), 0, SEED_MAX, NULL,
      "the same seed gives the same text, for any number of threads [0: from the clock]" },
    { "stop", 0, "TEXT", OPTION_TEXTS, COMMAND_RUN, AT(stop), 0, 0, NULL,
      "end before this text; may be repeated up to 16 times" },
    { "stop-id", 0, "LIST", OPTION_IDS, COMMAND_RUN, AT(stop_ids), 0, 0, NULL,
      "end at these token ids, besides the model's own" },
    { "logprobs", 0, "N", OPTION_COUNT, COMMAND_RUN, AT(n_logprobs), 0, 20, NULL,
      "with --json: log-probabilities of each token and of the N likeliest" },
    { "load-session", 0, "FILE", OPTION_TEXT, COMMAND_RUN, AT(load_session), 0, 0, NULL,
      "continue a saved session" },
    { "save-session", 0, "FILE", OPTION_TEXT, COMMAND_RUN, AT(save_session), 0, 0, NULL,
      "save the session at the end" },

    { "ctx", 0, "N", OPTION_COUNT, COMMAND_RUN, AT(n_ctx), 1, COUNT_MAX, NULL,
      "tokens of context [enough for the prompt and -n, 4096 or more; at most the model's limit]" },
    { "ctx", 0, "N", OPTION_COUNT, COMMAND_CHAT | COMMAND_PLAN, AT(n_ctx), 1, COUNT_MAX, NULL,
      "tokens of context [4096; at most the model's limit]" },
    { "kv", 0, "TYPE", OPTION_CHOICE, PLANNED & ~COMMAND_LOGITS, AT(kv), 0, 0, "f16|f32|q8|q4",
      "type of the cached keys and values: f16, f32, q8 for half of the memory, or q4 for a third "
      "of it at some loss [f16]" },
    { "kv", 0, "TYPE", OPTION_CHOICE, COMMAND_LOGITS, AT(kv), 0, 0, "f16|f32|q8|q4",
      "type of the cached keys and values: f16, f32, q8 or q4 [f32]" },
    { "memory", 0, "SIZE", OPTION_SIZE, PLANNED, AT(memory), 0, 0, NULL,
      "take at most SIZE, such as 512M or 4G (M is 2^20 bytes, G 2^30), weights, keys, values and "
      "all: a model with experts that "
      "does not fit reads them from its file when they are chosen and keeps as many as there is room for "
      "[what is free, less a reserve]" },
    { "readers", 0, "N", OPTION_COUNT, PLANNED, AT(n_readers), 1, 64, NULL,
      "threads that read experts from disk [4]" },
    { "buffered", 0, NULL, OPTION_FLAG, PLANNED, AT(buffered), 0, 0, NULL,
      "read experts through the system's page cache instead of past it" },
    { "look-ahead", 0, NULL, OPTION_FLAG, SESSIONS, AT(look_ahead), 0, 0, NULL,
      "while the disk is idle read the experts that the next layer will probably choose" },
    { "policy", 0, "NAME", OPTION_CHOICE, PLANNED, AT(policy), 0, 0, "lru|lfru",
      "which expert gives way to another: lru, the one used longest ago, or lfru, among those of an age "
      "the one used less often [lfru]" },
    { "warm", 0, "FILE", OPTION_TEXT, SESSIONS, AT(warm), 0, 0, NULL,
      "list of the experts that memory held last, read at the start and written at the end; none for "
      "no list [MODEL.warm in run and chat, else none]" },
    { "io-limit", 0, "GB/S", OPTION_REAL_ABOVE, PLANNED, AT(io_limit), 0, 1000, NULL,
      "read experts no faster than so many gigabytes a second, to measure [no limit]" },
    { "io-latency", 0, "US", OPTION_COUNT, PLANNED, AT(io_latency_us), 0, 1000000, NULL,
      "make each read take so many microseconds more, to measure [0]" },
    { "replay", 0, "TRACE", OPTION_TEXT, COMMAND_PLAN, AT(replay), 0, 0, NULL,
      "expect the hits that the choices in TRACE, which --trace wrote, would have had in this memory" },
    { "layers", 0, "N", OPTION_COUNT, COMMAND_PLAN, AT(n_layers), 1, 1000, NULL,
      "plan for a model of N layers of which MODEL holds the first; needs --memory" },
    { "no-probe", 0, NULL, OPTION_FLAG, COMMAND_PLAN, AT(no_probe), 0, 0, NULL,
      "do not measure memory and disk: no speed is predicted" },
    { "pages", 0, "KIND", OPTION_CHOICE, SESSIONS, AT(pages), 0, 0, "auto|mapped|read",
      "where weights lie: auto (mapped from the file, and copied to huge pages in idle time where that "
      "is faster and memory allows; experts on disk where memory does not allow even the mapping), mapped "
      "(no copy), or read (into memory at once) [auto]" },
    { "threads", 0, "N", OPTION_COUNT, PLANNED, AT(n_threads), 1, THREADS_MAX, NULL,
      "worker threads [one per physical core]" },
    { "backend", 0, "NAME", OPTION_CHOICE, MODELS, AT(backend), 0, 0, "auto|cpu",
      "cpu or auto: this build offers no other [auto]" },
    { "cpu", 0, "NAME", OPTION_CHOICE, MODELS, AT(cpu), 0, 0, "auto|base|avx2|avxvnni|avx512|avx512vbmi|amx|neon|i8mm",
      "instruction set: base, avx2, avxvnni, avx512, avx512vbmi, amx, neon or i8mm "
      "[auto: the best that this machine has]" },

    { "trace", 0, "FILE", OPTION_TEXT, TRACED, AT(trace), 0, 0, NULL,
      "write to FILE which experts each token chose, for ernie replay" },
    { "slots", 0, "LIST", OPTION_COUNTS, COMMAND_REPLAY, AT(slots), 1, COUNT_MAX, NULL,
      "numbers of experts that memory holds, such as 200,400 "
      "[8, 12, 16, 24, 32, 40 and 48 times the layers]" },
    { "policy", 0, "P", OPTION_CHOICE, COMMAND_REPLAY, AT(policy), 0, 0, "lru|lfru|opt|all",
      "which expert gives way: lru (used longest ago), lfru (the same in steps that double, among "
      "equals the less frequent), opt (asked for again latest) or all [all]" },

    { "shape", 0, "S", OPTION_CHOICE, COMMAND_SYNTH, AT(shape), 0, 0, "21b|300b|0.3b|demo",
      "the model to imitate: 21b, 300b, 0.3b or demo (required)" },
    { "layers", 0, "N", OPTION_COUNT, COMMAND_SYNTH, AT(n_layers), 1, 1000, NULL,
      "number of layers [as the shape has]" },
    { "type", 0, "T", OPTION_CHOICE, MAKERS, AT(type), 0, 0, TYPES,
      "type of the weights: f32, f16, bf16, w8 or w4, or of the experts: c4, c3 or c2 [w4]" },
    { "type", 0, "T", OPTION_CHOICE, COMMAND_EXPORT, AT(type), 0, 0, "f16|bf16|q8_0|q4_0",
      "type of the weights: f16, bf16, q8_0 or q4_0 [bf16]" },
    { "chat", 0, "F", OPTION_CHOICE, COMMAND_CONVERT, AT(chat), 0, 0, "plain|thinking|none",
      "chat format: plain, thinking or none [as the checkpoint's template says]" },
    { "name", 0, "S", OPTION_TEXT, COMMAND_CONVERT, AT(name), 0, 0, NULL,
      "what the file calls itself [the directory's name, or a GGUF file's own]" },
    { "preset", 0, "P", OPTION_CHOICE, MAKERS, AT(preset), 0, 0, PRESETS,
      "a mix of types by size: tiny, small, medium or large, in place of --type" },
    { "imatrix", 0, "FILE", OPTION_TEXT, COMMAND_CONVERT, AT(imatrix), 0, 0, NULL,
      "statistics from ernie calibrate: less is lost at the same size" },
    { "fast", 0, NULL, OPTION_FLAG, COMMAND_CONVERT, AT(fast), 0, 0, NULL,
      "search less for c4, c3 and c2: less than half of the time, a little more lost" },
    { "threads", 0, "N", OPTION_COUNT, WRITERS | COMMAND_CALIBRATE | COMMAND_TUNE, AT(n_threads), 1, THREADS_MAX, NULL,
      "worker threads [one per physical core]" },
    { "force", 0, NULL, OPTION_FLAG, WRITERS | COMMAND_CALIBRATE | COMMAND_TUNE, AT(force), 0, 0, NULL,
      "replace OUT if it exists" },

    { "quiet", 'q', NULL, OPTION_FLAG, EVERY, AT(quiet), 0, 0, NULL,
      "no progress and no statistics" },
    { "help", 'h', NULL, OPTION_FLAG, EVERY | COMMAND_HELP | COMMAND_VERSION, AT(help), 0, 0, NULL,
      "print this help" },
};
/* clang-format on */

enum {
    OPTION_ROWS = sizeof option_rows / sizeof option_rows[0],
    OPTION_LONG_VALUE = 256 /* getopt's value of row i is this plus i; letters lie below */
};
_Static_assert((int)OPTION_ROWS <= (int)OPTIONS_MAX, "options.given has a place for each row");

__attribute__((format(printf, 2, 3))) static bool options_fail(usage_error *error,
                                                               const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(error->message, sizeof error->message, format, args);
    va_end(args);
    return false;
}

/* ---- Values -------------------------------------------------------------------------------- */

static bool options_set_count(const option_row *row, void *field, const char *text,
                              usage_error *error)
{
    uint64_t value;
    if (!number_count(text, (uint64_t)row->min, (uint64_t)row->max, &value))
        return options_fail(error, "option --%s: \"%.60s\" is not a whole number from %.0f to %.0f",
                            row->name, text, row->min, row->max);
    if (row->kind == OPTION_SEED)
        *(uint64_t *)field = value;
    else
        *(uint32_t *)field = (uint32_t)value;
    return true;
}

static bool options_set_real(const option_row *row, void *field, const char *text,
                             usage_error *error)
{
    const bool open = row->kind == OPTION_REAL_ABOVE;
    float value;
    if (!number_real(text, false, &value) || (double)value < row->min || (double)value > row->max
        || (open && (double)value <= row->min))
        return options_fail(error, "option --%s: \"%.60s\" is not a number %s %g %s %g", row->name,
                            text, open ? "above" : "from", row->min, open ? "and at most" : "to",
                            row->max);
    *(float *)field = value;
    return true;
}

static bool options_set_choice(const option_row *row, void *field, const char *text,
                               usage_error *error)
{
    const size_t n = strlen(text);
    for (const char *choice = row->choices; choice; choice = strchr(choice, '|')) {
        choice += *choice == '|';
        if (n && strcspn(choice, "|") == n && !memcmp(choice, text, n)) {
            *(const char **)field = text;
            return true;
        }
    }
    char list[80] = "";
    size_t n_list = 0;
    for (const char *at = row->choices; *at && n_list + 3 < sizeof list; at++) {
        list[n_list++] = *at == '|' ? ',' : *at;
        if (*at == '|') list[n_list++] = ' ';
    }
    return options_fail(error, "option --%s: \"%.60s\" is not one of %s", row->name, text, list);
}

static bool options_set_ids(const option_row *row, void *field, const char *text,
                            usage_error *error)
{
    const char *bad;
    size_t n_bad;
    if (number_ids(text, field, &bad, &n_bad)) return true;
    return options_fail(error,
                        "option --%s: \"%.*s\" is not a token id, expected a list such as 17,4,302",
                        row->name, (int)(n_bad < 60 ? n_bad : 60), bad);
}

static bool options_set_counts(const option_row *row, void *field, const char *text,
                               usage_error *error)
{
    id_list *list = field;
    const char *bad = text;
    size_t n_bad = strlen(text);
    bool good = number_ids(text, list, &bad, &n_bad);
    for (size_t i = 0; i < list->n; i++) good = good && list->ids[i] >= row->min;
    if (good) return true;
    return options_fail(
        error,
        "option --%s: \"%.*s\" is not a number of %s from %.0f to %.0f, expected "
        "a list such as 64,512",
        row->name, (int)(n_bad < 60 ? n_bad : 60), bad,
        row->commands == COMMAND_REPLAY ? "slots" : "tokens", row->min, row->max);
}

static bool options_add_text(const option_row *row, void *field, const char *text,
                             usage_error *error)
{
    text_list *list = field;
    if (!*text) return options_fail(error, "option --%s: the text is empty", row->name);
    if (list->n == OPTIONS_STOP_MAX)
        return options_fail(error, "option --%s: given more than %d times", row->name,
                            OPTIONS_STOP_MAX);
    list->items[list->n++] = text;
    return true;
}

static bool options_add_bias(const option_row *row, void *field, const char *text,
                             usage_error *error)
{
    bias_list *list = field;
    ernie_logit_bias item;
    if (!number_id_value(text, &item.id, &item.bias))
        return options_fail(error,
                            "option --%s: \"%.60s\" is not ID=VALUE, such as 17=-2.5 or 17=-inf",
                            row->name, text);
    list->items = memory_resize(list->items, list->n + 1, sizeof *list->items);
    list->items[list->n++] = item;
    return true;
}

static bool options_set_size(const option_row *row, void *field, const char *text,
                             usage_error *error)
{
    if (number_size(text, field) && *(const uint64_t *)field > 0) return true;
    return options_fail(error,
                        "option --%s: \"%.60s\" is not a size, expected bytes or a number with K, "
                        "M, G or T, such as 512M",
                        row->name, text);
}

/* A second value would silently replace the first, unless the option is a list. */
static bool options_adds(option_kind kind)
{
    return kind == OPTION_FLAG || kind == OPTION_IDS || kind == OPTION_COUNTS
           || kind == OPTION_TEXTS || kind == OPTION_BIAS;
}

static bool options_set(program_options *options, const option_row *row, const char *text,
                        usage_error *error)
{
    void *field = (char *)options + row->offset;
    bool *given = &options->given[row - option_rows];
    if (*given && !options_adds(row->kind))
        return options_fail(error, "option --%s: given twice", row->name);
    *given = true;
    switch (row->kind) {
    case OPTION_FLAG: *(bool *)field = true; return true;
    case OPTION_TEXT: *(const char **)field = text; return true;
    case OPTION_CHOICE: return options_set_choice(row, field, text, error);
    case OPTION_COUNTS: return options_set_counts(row, field, text, error);
    case OPTION_COUNT:
    case OPTION_SEED: return options_set_count(row, field, text, error);
    case OPTION_REAL:
    case OPTION_REAL_ABOVE: return options_set_real(row, field, text, error);
    case OPTION_SIZE: return options_set_size(row, field, text, error);
    case OPTION_IDS: return options_set_ids(row, field, text, error);
    case OPTION_TEXTS: return options_add_text(row, field, text, error);
    case OPTION_BIAS: break;
    }
    return options_add_bias(row, field, text, error);
}

/* ---- getopt -------------------------------------------------------------------------------- */

typedef struct options_tables {
    struct option longs[OPTION_ROWS + 1];
    char letters[2 * OPTION_ROWS + 4];
} options_tables;

/* The command's rows in getopt's form. "-" hands positional arguments over in order, whatever
 * POSIXLY_CORRECT says; ":" tells a missing value from an unknown option. */
static void options_make_tables(options_tables *tables, unsigned command_bit)
{
    size_t n_longs = 0;
    char *letter = tables->letters;
    *letter++ = '-';
    *letter++ = ':';
    for (int i = 0; i < OPTION_ROWS; i++) {
        const option_row *row = &option_rows[i];
        if (!(row->commands & command_bit)) continue;
        const bool has_value = row->kind != OPTION_FLAG;
        tables->longs[n_longs++] =
            (struct option){ row->name, has_value ? required_argument : no_argument, NULL,
                             OPTION_LONG_VALUE + i };
        if (row->letter) {
            *letter++ = row->letter;
            if (has_value) *letter++ = ':';
        }
    }
    tables->longs[n_longs] = (struct option){ 0 };
    *letter = 0;
}

/* The row that getopt's value stands for. */
static const option_row *options_row(int value, unsigned command_bit)
{
    if (value >= OPTION_LONG_VALUE) return &option_rows[value - OPTION_LONG_VALUE];
    for (int i = 0; i < OPTION_ROWS; i++)
        if ((option_rows[i].commands & command_bit) && option_rows[i].letter == value)
            return &option_rows[i];
    return NULL;
}

/* Does any command know the long option that the argument "--name=value" names? */
static bool options_known_elsewhere(const char *argument)
{
    if (strncmp(argument, "--", 2) != 0) return false;
    const size_t n = strcspn(argument + 2, "=");
    for (int i = 0; i < OPTION_ROWS; i++)
        if (strlen(option_rows[i].name) == n && !memcmp(option_rows[i].name, argument + 2, n))
            return true;
    return false;
}

/* What getopt's '?' means: a value for a flag, or an option that the command does not have. */
static bool options_fail_unknown(const command_shape *command, int value, const char *argument,
                                 usage_error *error)
{
    if (value >= OPTION_LONG_VALUE)
        return options_fail(error, "option --%s takes no value",
                            option_rows[value - OPTION_LONG_VALUE].name);
    if (value)
        return options_fail(error, "unknown option -%c, see ernie %s --help", value, command->name);
    const int n_name = (int)strcspn(argument, "=");
    if (options_known_elsewhere(argument))
        return options_fail(error,
                            "option %.*s does not belong to this command, see ernie %s --help",
                            n_name < 60 ? n_name : 60, argument, command->name);
    return options_fail(error, "unknown option %.*s, see ernie %s --help",
                        n_name < 60 ? n_name : 60, argument, command->name);
}

static bool options_add_positional(program_options *options, const command_shape *command,
                                   const char *text, usage_error *error)
{
    if (!command->positionals[options->n_positional])
        return options_fail(error, "unexpected argument \"%.60s\", see ernie %s --help", text,
                            command->name);
    options->positional[options->n_positional++] = text;
    return true;
}

static bool options_check_complete(const program_options *options, const command_shape *command,
                                   usage_error *error)
{
    const char *missing = command->positionals[options->n_positional];
    if (!missing) return true;
    return options_fail(error, "%s is missing, see ernie %s --help", missing, command->name);
}

bool options_parse(program_options *options, const command_shape *command, int argc, char **argv,
                   usage_error *error)
{
    options_tables tables;
    options_make_tables(&tables, command->bit);
    optind = 0; /* start anew, in glibc, musl and BSD alike */
    opterr = 0;
    for (;;) {
        const int value = getopt_long(argc, argv, tables.letters, tables.longs, NULL);
        if (value == -1) break;
        if (value == 1) {
            if (!options_add_positional(options, command, optarg, error)) return false;
            continue;
        }
        if (value == '?') return options_fail_unknown(command, optopt, argv[optind - 1], error);
        const option_row *row = options_row(value == ':' ? optopt : value, command->bit);
        if (value == ':')
            return options_fail(error, "option --%s needs a value (%s), see ernie %s --help",
                                row->name, row->value, command->name);
        if (!options_set(options, row, optarg, error)) return false;
        if (options->help) return true;
    }
    for (; optind < argc; optind++)
        if (!options_add_positional(options, command, argv[optind], error)) return false;
    return options_check_complete(options, command, error);
}

bool options_given(const program_options *options, const char *name)
{
    for (int i = 0; i < OPTION_ROWS; i++)
        if (options->given[i] && !strcmp(option_rows[i].name, name)) return true;
    return false;
}

void options_free(program_options *options)
{
    id_list_free(&options->ids);
    id_list_free(&options->stop_ids);
    id_list_free(&options->prompts);
    id_list_free(&options->contexts);
    id_list_free(&options->slots);
    free(options->bias.items);
    options->bias = (bias_list){ 0 };
}

bool options_help(const command_shape *command, size_t *i_row, option_help *help)
{
    for (; *i_row < OPTION_ROWS; (*i_row)++) {
        const option_row *row = &option_rows[*i_row];
        if (!(row->commands & command->bit) || !row->help) continue;
        (*i_row)++;
        char letter[8] = "    ";
        if (row->letter) snprintf(letter, sizeof letter, "-%c, ", row->letter);
        snprintf(help->left, sizeof help->left, "%s--%s%s%s", letter, row->name,
                 row->value ? " " : "", row->value ? row->value : "");
        help->text = row->help;
        return true;
    }
    return false;
}
