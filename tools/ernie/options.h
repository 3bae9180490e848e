/* The command line: one table of options, read by getopt_long, printed by the help. Knows what each
 * option may hold and which commands take it; what an option means is the command's business.
 *
 * The idea: a row of the table says where in the options struct the value goes, so that a new
 * option is one field and one row. */
#ifndef ERNIE_OPTIONS_H
#define ERNIE_OPTIONS_H

#include "../../ernie.h"
#include "numbers.h"

/* The commands, as bits for the table's rows. */
enum {
    COMMAND_RUN = 1 << 0,
    COMMAND_CHAT = 1 << 1,
    COMMAND_CONVERT = 1 << 2,
    COMMAND_INFO = 1 << 3,
    COMMAND_VERIFY = 1 << 4,
    COMMAND_LOGITS = 1 << 5,
    COMMAND_TOKENIZE = 1 << 6,
    COMMAND_DETOKENIZE = 1 << 7,
    COMMAND_EVAL = 1 << 8,
    COMMAND_BENCH = 1 << 9,
    COMMAND_SYNTH = 1 << 10,
    COMMAND_HELP = 1 << 11,
    COMMAND_VERSION = 1 << 12,
    COMMAND_CALIBRATE = 1 << 13,
    COMMAND_EXPORT = 1 << 14,
    COMMAND_TUNE = 1 << 15,
    COMMAND_REPLAY = 1 << 16,
    COMMAND_PLAN = 1 << 17
};

enum { OPTIONS_STOP_MAX = 16, OPTIONS_POSITIONAL_MAX = 4 };

typedef struct text_list {
    const char *items[OPTIONS_STOP_MAX];
    size_t n;
} text_list;

typedef struct bias_list {
    ernie_logit_bias *items; /* [n] */
    size_t n;
} bias_list;

enum { OPTIONS_MAX = 128 }; /* rows of the table at most */

/* Zero is "not given" in every field; options_given tells a given zero from none. Texts point into
 * argv. */
typedef struct program_options {
    const char *positional[OPTIONS_POSITIONAL_MAX];
    size_t n_positional;
    bool given[OPTIONS_MAX]; /* of each row of the table */

    bool help, quiet, json, raw, records, special, literal_text, force, all, common, diagonal,
        fast, buffered, look_ahead, no_probe;
    const char *prompt, *system_message, *search_context, *load_session, *save_session;
    const char *backend, *cpu, *kv, *pages, *policy, *warm, *replay, *trace;
    const char *type, *preset, *imatrix, *chat, *name, *shape, *against;
    uint32_t n_tokens, n_layers, n_ctx, n_threads, n_limit, n_skip, n_repeat, n_logprobs, top_k;
    uint32_t n_readers, io_latency_us;
    float temperature, top_p, min_p, repeat_penalty, frequency_penalty, presence_penalty;
    float io_limit; /* GB/s */
    uint64_t seed, memory;
    id_list ids, stop_ids;
    id_list prompts, contexts; /* counts of tokens */
    id_list slots;
    text_list stop;
    bias_list bias;
} program_options;

/* What the parser must know of a command. */
typedef struct command_shape {
    const char *name;
    unsigned bit;
    const char *const *positionals; /* names of the required arguments, NULL at the end */
} command_shape;

/* Room for the sentence that says what is wrong with a command line. */
typedef struct usage_error {
    char message[512];
} usage_error;

/* Read the arguments behind the command's name: argv[0] is ignored. With --help the rest goes
 * unchecked. False: *error says why, in one sentence. */
bool options_parse(program_options *options, const command_shape *command, int argc, char **argv,
                   usage_error *error);

/* Was the option with this name (without dashes) on the command line? */
bool options_given(const program_options *options, const char *name);

void options_free(program_options *options);

/* The help of the command's options, in table order. */
typedef struct option_help {
    char left[40]; /* "-n, --tokens N" */
    const char *text;
} option_help;

/* Fill *help with the next option of the command; *i_row starts at 0. False at the end. */
bool options_help(const command_shape *command, size_t *i_row, option_help *help);

#endif
