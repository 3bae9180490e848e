/* Can the bytes of a trace hurt its reader, or the replay of what opens? Half of the inputs get
 * right checksums first, so that the fuzzer reaches what lies behind them. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <sys/mman.h>
#include <unistd.h>

#include "../../src/hash.h"
#include "../../tools/convert/replay.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { FUZZ_SLOTS = 64 };

static void fuzz_trace_seal(unsigned char *image, size_t n)
{
    const size_t at = offsetof(ern_trace_head, checksum);
    const size_t n_end = sizeof(ern_trace_mark) + 2 * sizeof(uint64_t);
    if (n < sizeof(ern_trace_head)) return;
    const uint64_t head = ern_hash64(image, at);
    memcpy(image + at, &head, sizeof head);
    if (n < sizeof(ern_trace_head) + n_end) return;
    const uint64_t all = ern_hash64(image, n - n_end);
    memcpy(image + n - sizeof all, &all, sizeof all);
}

static void fuzz_trace_replay(const ern_trace *trace, uint32_t n_slots)
{
    ern_replay *replay;
    ern_replay_result bound, result;
    ern_replay_choices choices;
    ernie_error error;
    if (ern_replay_look(trace, true, &choices, &error) != ERNIE_OK) abort();
    if (ern_replay_open(&replay, trace, &error) != ERNIE_OK) return;
    if (ern_replay_run(replay, ERN_REPLAY_OPT, n_slots, NULL, NULL, &bound, &error) != ERNIE_OK)
        abort();
    for (int p = ERN_REPLAY_LRU; p <= ERN_REPLAY_LFRU; p++) {
        if (ern_replay_run(replay, (ern_replay_policy)p, n_slots, NULL, NULL, &result, &error)
            != ERNIE_OK)
            abort();
        if (result.decoded.n_hits > bound.decoded.n_hits
            || result.prompt.n_hits > bound.prompt.n_hits)
            abort();
    }
    ern_replay_close(replay);
}

/* The last byte of an input, which no valid file needs, chooses. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    ern_trace trace;
    ernie_error error = { ERNIE_OK, "" };
    if (n == 0) return 0;
    const unsigned choice = data[--n];
    unsigned char *image = malloc(n ? n : 1);
    const int fd = memfd_create("trace", MFD_CLOEXEC);
    if (!image || fd < 0) abort();
    memcpy(image, data, n);
    if (choice & 1) fuzz_trace_seal(image, n);
    if (write(fd, image, n) != (ssize_t)n) abort();
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const ernie_status status = ern_trace_open(&trace, path, NULL, &error);
    if ((status == ERNIE_OK) != (error.message[0] == '\0')) abort();
    if (status == ERNIE_OK) fuzz_trace_replay(&trace, 1 + choice % FUZZ_SLOTS);
    ern_trace_close(&trace);
    close(fd);
    free(image);
    return 0;
}
