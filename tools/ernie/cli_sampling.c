/* How the options choose the next token, and the words for why an answer ended. */
#include "cli.h"

#include <time.h>

/* A seed from the clock that a JSON number holds exactly (53 bits), never 0. */
static uint64_t cli_clock_seed(void)
{
    struct timespec now;
    timespec_get(&now, TIME_UTC);
    uint64_t seed = (uint64_t)now.tv_sec * UINT64_C(1000000007) + (uint64_t)now.tv_nsec;
    seed *= UINT64_C(0x9e3779b97f4a7c15);
    return seed >> 11 | 1;
}

ernie_sampling cli_sampling(const program_options *options)
{
    ernie_sampling sampling = ERNIE_SAMPLING_INIT;
    sampling.greedy = options_given(options, "temp") && !(options->temperature > 0);
    sampling.temperature = options->temperature;
    sampling.top_k = options->top_k;
    sampling.top_p = options->top_p;
    sampling.min_p = options->min_p;
    sampling.repetition_penalty = options->repeat_penalty;
    sampling.frequency_penalty = options->frequency_penalty;
    sampling.presence_penalty = options->presence_penalty;
    sampling.seed = options->seed ? options->seed : cli_clock_seed();
    sampling.n_max = options->n_tokens;
    sampling.n_top = options->n_logprobs;
    sampling.stop = options->stop.items;
    sampling.n_stop = options->stop.n;
    sampling.stop_ids = options->stop_ids.ids;
    sampling.n_stop_ids = options->stop_ids.n;
    sampling.bias = options->bias.items;
    sampling.n_bias = options->bias.n;
    return sampling;
}

const char *cli_stop_text(ernie_stop stop)
{
    switch (stop) {
    case ERNIE_STOP_END: return "end of turn";
    case ERNIE_STOP_ID: return "stop id";
    case ERNIE_STOP_STRING: return "stop text";
    case ERNIE_STOP_LENGTH: return "length";
    case ERNIE_STOP_CONTEXT: return "context full";
    case ERNIE_STOP_CALLBACK:
    case ERNIE_STOP_CANCELLED: return "cancelled";
    default: return "none";
    }
}

const char *cli_stop_name(ernie_stop stop)
{
    switch (stop) {
    case ERNIE_STOP_END: return "end";
    case ERNIE_STOP_ID: return "id";
    case ERNIE_STOP_STRING: return "string";
    case ERNIE_STOP_LENGTH: return "length";
    case ERNIE_STOP_CONTEXT: return "context";
    case ERNIE_STOP_CALLBACK: return "callback";
    case ERNIE_STOP_CANCELLED: return "cancelled";
    default: return "none";
    }
}
