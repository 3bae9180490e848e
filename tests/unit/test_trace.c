/* Traces: what is written is read, every lie is refused by name. The replay: hits that were counted
 * by hand, choices by chance whose hit rate is known, and a bound that nothing exceeds. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "checkpoint.h"
#include "test_allocator.h"
#include "../../src/hash.h"
#include "../../tools/convert/replay.h"

enum { BATCH_MAX = 64, K_MAX = 8 };

static char dir[256], path[300];
static ernie_error error;

#define OK(call)                                                          \
    do {                                                                  \
        error = (ernie_error){ ERNIE_OK, "" };                            \
        if ((call) != ERNIE_OK) fail_msg("%s: %s", #call, error.message); \
    } while (0)

static int setup(void **state)
{
    (void)state;
    if (checkpoint_make_dir(dir, "trace") != 0) return -1;
    snprintf(path, sizeof path, "%s/x.trace", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    checkpoint_clear(dir);
    return rmdir(dir);
}

/* ---- Making traces --------------------------------------------------------------------------- */

/* Every second layer of the model has experts, from 1 on. */
static ern_trace_out *begin(uint32_t n_layers, uint32_t n_experts, uint32_t k,
                            const ernie_allocator *allocator)
{
    ern_trace_out *out = NULL;
    uint16_t layers[64];
    ern_trace_head head = { .weights_id = { 1, 2, 3, [15] = 16 },
                            .name = "shape",
                            .n_model_layers = 2 * n_layers,
                            .n_layers = n_layers,
                            .n_experts = n_experts,
                            .moe_k = k };
    for (uint32_t i = 0; i < n_layers; i++) layers[i] = (uint16_t)(2 * i + 1);
    ern_trace_out_begin(&out, path, &head, layers, BATCH_MAX, allocator, &error);
    return out;
}

static uint32_t chance_state;

static uint32_t chance(uint32_t n)
{
    chance_state = chance_state * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)chance_state * n >> 32);
}

/* A batch of tokens that choose by chance, in every layer. */
static void add_random(ern_trace_out *out, uint32_t n_layers, uint32_t n_experts, uint32_t k,
                       uint32_t position, uint32_t n_tokens, bool decoded)
{
    int32_t experts[BATCH_MAX * K_MAX];
    for (uint32_t layer = 0; layer < n_layers; layer++) {
        for (uint32_t t = 0; t < n_tokens; t++)
            for (uint32_t i = 0; i < k; i++)
                for (bool again = true; again;) {
                    experts[t * k + i] = (int32_t)chance(n_experts);
                    again = false;
                    for (uint32_t j = 0; j < i; j++)
                        again = again || experts[t * k + j] == experts[t * k + i];
                }
        ern_trace_out_route(out, position, decoded, 2 * layer + 1, n_tokens, experts);
    }
}

/* One layer, one expert a token: decoded tokens from a list. */
static void add_list(ern_trace_out *out, uint32_t position, const int32_t *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ern_trace_out_route(out, position + (uint32_t)i, true, 1, 1, list + i);
}

typedef struct image {
    unsigned char *data;
    size_t n;
} image;

static image load(void)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    fseek(file, 0, SEEK_END);
    image i = { .n = (size_t)ftell(file) };
    rewind(file);
    i.data = malloc(i.n + 64);
    assert_non_null(i.data);
    assert_int_equal(fread(i.data, 1, i.n, file), i.n);
    fclose(file);
    return i;
}

static void store(const unsigned char *data, size_t n)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, n, file), n);
    fclose(file);
}

/* ---- Files ----------------------------------------------------------------------------------- */

static void write_sample(void)
{
    ern_trace_out *out = begin(3, 8, 2, NULL);
    assert_non_null(out);
    chance_state = 7;
    add_random(out, 3, 8, 2, 0, 5, false);
    add_random(out, 3, 8, 2, 5, 1, true);
    add_random(out, 3, 8, 2, 6, 1, true);
    OK(ern_trace_out_commit(out, &error));
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    ern_trace trace;
    const int32_t one[] = { 3, 1 }, two[] = { 0, 7 }, five[] = { 0, 1, 2, 3, 4, 5, 6, 7, 1, 0 };
    ern_trace_out *out = begin(2, 8, 2, NULL);
    assert_non_null(out);
    ern_trace_out_route(out, 0, false, 1, 5, five);
    ern_trace_out_route(out, 0, false, 3, 5, five);
    ern_trace_out_route(out, 5, true, 1, 1, two); /* stopped before its last layer */
    ern_trace_out_route(out, 5, true, 1, 1, one);
    assert_int_equal(access(path, F_OK), -1); /* no name before the end */
    ern_trace_out_route(out, 5, true, 3, 1, two);
    OK(ern_trace_out_commit(out, &error));
    OK(ern_trace_open(&trace, path, NULL, &error));
    assert_int_equal(trace.head.n_layers, 2);
    assert_int_equal(trace.head.n_model_layers, 4);
    assert_int_equal(trace.head.n_experts, 8);
    assert_int_equal(trace.head.moe_k, 2);
    assert_int_equal(trace.head.weights_id[15], 16);
    assert_string_equal(trace.head.name, "shape");
    assert_int_equal(trace.layers[1], 3);
    assert_int_equal(trace.n_batches, 2);
    assert_int_equal(trace.n_prompt, 5);
    assert_int_equal(trace.n_decoded, 1);
    assert_int_equal(trace.batches[0].n_tokens, 5);
    assert_false(trace.batches[0].decoded);
    for (int i = 0; i < 20; i++) assert_int_equal(trace.batches[0].experts[i], five[i % 10]);
    assert_int_equal(trace.batches[1].position, 5);
    assert_true(trace.batches[1].decoded);
    assert_int_equal(trace.batches[1].experts[0], 3);
    assert_int_equal(trace.batches[1].experts[3], 7);
    ern_trace_close(&trace);
    ern_trace_close(&trace);
}

static void what_is_abandoned_leaves_nothing(void **state)
{
    (void)state;
    remove(path);
    ern_trace_out *out = begin(3, 8, 2, NULL);
    add_random(out, 3, 8, 2, 0, 5, false);
    ern_trace_out_abandon(out);
    ern_trace_out_abandon(NULL);
    assert_int_equal(rmdir(dir), 0); /* it was empty */
    assert_int_equal(mkdir(dir, 0700), 0);
    const int32_t experts[] = { 0, 1, 2, 3 };
    out = begin(3, 8, 2, NULL);
    ern_trace_out_route(out, 0, false, 1, 2, experts);
    ern_trace_out_route(out, 0, false, 5, 2, experts); /* not the layer that comes next */
    assert_int_equal(ern_trace_out_commit(out, &error), ERNIE_INVALID);
    assert_non_null(strstr(error.message, "layer 5 of 2 tokens"));
    assert_int_equal(access(path, F_OK), -1);
    snprintf(path, sizeof path, "%s/nowhere/x.trace", dir);
    assert_null(begin(3, 8, 2, NULL));
    snprintf(path, sizeof path, "%s/x.trace", dir);
}

static void refuse(const unsigned char *data, size_t n, ernie_status expected, const char *sentence)
{
    ern_trace trace;
    store(data, n);
    error = (ernie_error){ ERNIE_OK, "" };
    const ernie_status status = ern_trace_open(&trace, path, NULL, &error);
    if (status != expected || !strstr(error.message, sentence))
        fail_msg("expected %d and \"%s\", got %d: %s", expected, sentence, status, error.message);
    if (!strstr(error.message, "x.trace: ")) fail_msg("names no file: %s", error.message);
    assert_null(trace.bytes);
    assert_null(trace.batches);
}

static void every_cut_is_named(void **state)
{
    (void)state;
    write_sample();
    image i = load();
    for (size_t n = 0; n < i.n; n++)
        refuse(i.data, n, ERNIE_FORMAT,
               n < sizeof(ern_trace_head) ? "a trace at least" : "cut off");
    memset(i.data + i.n, 0, 3);
    refuse(i.data, i.n + 3, ERNIE_FORMAT, "3 bytes follow its end");
    free(i.data);
}

static void every_damage_is_seen(void **state)
{
    (void)state;
    ern_trace trace;
    write_sample();
    image i = load();
    for (size_t at = 0; at < i.n; at++) {
        i.data[at] ^= 1;
        store(i.data, i.n);
        assert_int_not_equal(ern_trace_open(&trace, path, NULL, &error), ERNIE_OK);
        i.data[at] ^= 1;
    }
    store(i.data, i.n);
    OK(ern_trace_open(&trace, path, NULL, &error));
    ern_trace_close(&trace);
    free(i.data);
}

static void lies_are_refused(void **state)
{
    (void)state;
    /* Three layers: batch 0 at 126 has choices from 142 to 202, batch 1 from 218 to 230, batch 2
     * from 246 to 258, then comes the end. */
    static const struct {
        size_t at, n; /* bytes to write */
        uint64_t value;
        ernie_status status;
        const char *sentence;
    } lies[] = {
        { 0, 1, 'x', ERNIE_FORMAT, "is not a trace" },
        { 12, 4, 2, ERNIE_UNSUPPORTED, "needs a reader of version 2" },
        { 12, 4, 0, ERNIE_FORMAT, "version 1, at least version 0 is needed" },
        { 95, 1, 'x', ERNIE_FORMAT, "the model's name has no end" },
        { 96, 4, 2, ERNIE_FORMAT, "3 layers with experts of 2" },
        { 96, 4, 5000, ERNIE_FORMAT, "of 5000 (at most 1024)" },
        { 100, 4, 0, ERNIE_FORMAT, "0 layers with experts" },
        { 104, 4, 4097, ERNIE_FORMAT, "2 experts chosen of 4097 (at most 4096)" },
        { 108, 4, 0, ERNIE_FORMAT, "0 experts chosen of 8" },
        { 108, 4, 9, ERNIE_FORMAT, "9 experts chosen of 8" },
        { 120, 2, 6, ERNIE_FORMAT, "layer number 6 at place 0" },
        { 122, 2, 1, ERNIE_FORMAT, "layer number 1 at place 1" },
        { 126, 4, 0, ERNIE_FORMAT, "batch 0 at byte 126 is of kind 0" },
        { 126, 4, 2, ERNIE_FORMAT, "batch 0 has 5 decoded tokens" },
        { 134, 8, 0, ERNIE_FORMAT, "batch 0 has 0 tokens" },
        { 134, 8, 1u << 20, ERNIE_FORMAT, "within batch 0 of 1048576 tokens: it was cut off" },
        { 134, 8, UINT64_MAX, ERNIE_FORMAT, "batch 0 has 18446744073709551615 tokens" },
        { 130, 4, UINT32_MAX, ERNIE_FORMAT, "from position 4294967295 on" },
        { 142, 2, 8, ERNIE_FORMAT, "batch 0, layer 1: expert 8 of 8" },
        { 218 + 10, 2, 0xffff, ERNIE_FORMAT, "batch 1, layer 5: expert 65535 of 8" },
        { 258, 4, 7, ERNIE_FORMAT, "batch 3 at byte 258 is of kind 7" },
        { 266, 8, 8, ERNIE_FORMAT, "holds 3 batches of 7 tokens, its end says 3 of 8" },
        { 274, 8, 4, ERNIE_FORMAT, "its end says 4 of 7" },
        { 282, 8, 4, ERNIE_CORRUPT, "its checksum is wrong" },
        { 130, 4, 1, ERNIE_CORRUPT, "its checksum is wrong" },
    };
    write_sample();
    const image whole = load();
    assert_int_equal(whole.n, 290);
    for (size_t i = 0; i < ERN_COUNT(lies); i++) {
        unsigned char data[290];
        memcpy(data, whole.data, sizeof data);
        memcpy(data + lies[i].at, &lies[i].value, lies[i].n);
        const uint64_t checksum = ern_hash64(data, 112);
        memcpy(data + 112, &checksum, sizeof checksum);
        refuse(data, sizeof data, lies[i].status, lies[i].sentence);
    }
    whole.data[20] ^= 1;
    refuse(whole.data, whole.n, ERNIE_CORRUPT, "the head's checksum is wrong");
    whole.data[20] ^= 1;
    memcpy(whole.data + 144, whole.data + 142, 2);
    refuse(whole.data, whole.n, ERNIE_FORMAT, "a token chose expert");
    free(whole.data);
}

static void files_that_cannot_be_read_are_named(void **state)
{
    (void)state;
    ern_trace trace;
    remove(path);
    assert_int_equal(ern_trace_open(&trace, path, NULL, &error), ERNIE_IO);
    assert_non_null(strstr(error.message, "x.trace"));
    assert_int_equal(ern_trace_open(&trace, dir, NULL, &error), ERNIE_IO);
}

/* ---- Replays --------------------------------------------------------------------------------- */

static ern_replay_result replay(ern_replay_policy policy, uint32_t n_slots)
{
    ern_trace trace;
    ern_replay *r;
    ern_replay_result result;
    OK(ern_trace_open(&trace, path, NULL, &error));
    OK(ern_replay_open(&r, &trace, &error));
    OK(ern_replay_run(r, policy, n_slots, NULL, NULL, &result, &error));
    ern_replay_close(r);
    ern_trace_close(&trace);
    return result;
}

static void hits_counted_by_hand(void **state)
{
    (void)state;
    static const struct {
        size_t n;
        int32_t list[12];
        uint32_t n_slots;
        uint64_t lru, lfru, opt;
    } cases[] = {
        { 6, { 0, 1, 2, 0, 1, 2 }, 2, 0, 0, 2 },
        { 6, { 0, 1, 2, 0, 1, 2 }, 3, 3, 3, 3 },
        { 6, { 0, 1, 2, 0, 1, 2 }, 1, 0, 0, 0 },
        { 6, { 0, 1, 0, 2, 0, 1 }, 2, 2, 2, 2 },
        { 4, { 3, 3, 3, 3 }, 1, 3, 3, 3 },
        /* When 3 comes, expert 0 is 3 steps old and 1 two: the same age for lfru, to which 0
         * with its three uses is worth more; lru lets 0 go. */
        { 9, { 0, 0, 0, 1, 2, 3, 0, 2, 3 }, 3, 4, 5, 5 },
    };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        const uint64_t expected[] = { cases[i].lru, cases[i].lfru, cases[i].opt };
        ern_trace_out *out = begin(1, 4, 1, NULL);
        add_list(out, 0, cases[i].list, cases[i].n);
        OK(ern_trace_out_commit(out, &error));
        for (int p = 0; p < ERN_N_REPLAYS; p++) {
            const ern_replay_result result = replay((ern_replay_policy)p, cases[i].n_slots);
            assert_int_equal(result.decoded.n_pins, cases[i].n);
            assert_int_equal(result.prompt.n_pins, 0);
            if (result.decoded.n_hits != expected[p])
                fail_msg("case %zu, policy %d: %llu hits, expected %llu", i, p,
                         (unsigned long long)result.decoded.n_hits,
                         (unsigned long long)expected[p]);
        }
    }
}

/* Tokens of one prompt, in batches of 20; each chooses one expert. */
static void add_prompt(ern_trace_out *out, const int32_t *list, uint32_t n)
{
    for (uint32_t at = 0; at < n; at += 20)
        ern_trace_out_route(out, at, false, 1, n - at < 20 ? n - at : 20, list + at);
}

static void only_the_end_of_a_prompt_counts_as_used(void **state)
{
    (void)state;
    int32_t prompt[40];
    /* Tokens 0 to 7 choose 2, the 32 after them 0 and then 3: with two slots 3 takes the place of
     * 2, not of 0, which stands in the first. */
    for (int i = 0; i < 40; i++) prompt[i] = i < 8 ? 2 : i < 20 ? 0 : 3;
    const int32_t after[] = { 0, 3, 2 };
    ern_trace_out *out = begin(1, 4, 1, NULL);
    add_prompt(out, prompt, 40);
    add_list(out, 40, after, 3);
    OK(ern_trace_out_commit(out, &error));
    for (int p = ERN_REPLAY_LRU; p <= ERN_REPLAY_LFRU; p++) {
        const ern_replay_result result = replay((ern_replay_policy)p, 2);
        assert_int_equal(result.prompt.n_pins, 3);
        assert_int_equal(result.prompt.n_hits, 0);
        assert_int_equal(result.decoded.n_pins, 3);
        assert_int_equal(result.decoded.n_hits, 2);
    }
    /* A decoded token counts as used, also when a long prompt goes on behind it: 0 stays. */
    for (int i = 0; i < 40; i++) prompt[i] = i < 8 ? 1 : 2;
    const int32_t zero[] = { 0 };
    out = begin(1, 4, 1, NULL);
    add_list(out, 0, zero, 1);
    ern_trace_out_route(out, 1, false, 1, 40, prompt);
    add_list(out, 41, zero, 1);
    OK(ern_trace_out_commit(out, &error));
    assert_int_equal(replay(ERN_REPLAY_LRU, 2).decoded.n_hits, 1);
    /* A long prompt passes through: of four experts two were used before it and stay. */
    for (int i = 0; i < 40; i++) prompt[i] = i < 8 ? 2 + i % 2 : 1;
    const int32_t before[] = { 0, 1 }, again[] = { 0, 1 };
    out = begin(1, 4, 1, NULL);
    add_list(out, 0, before, 2);
    add_prompt(out, prompt, 40);
    add_list(out, 40, again, 2);
    OK(ern_trace_out_commit(out, &error));
    const ern_replay_result result = replay(ERN_REPLAY_LRU, 3);
    assert_int_equal(result.prompt.n_pins, 4); /* 1 2 3, then 1 */
    assert_int_equal(result.prompt.n_hits, 2);
    assert_int_equal(result.decoded.n_hits, 2);
}

/* What is chosen by chance is there as often as the slots' part of the experts. */
static void chance_hits_in_proportion(void **state)
{
    (void)state;
    enum { TOKENS = 20000 };
    for (uint32_t n_layers = 1; n_layers <= 2; n_layers++) {
        ern_trace_out *out = begin(n_layers, 32, 1, NULL);
        chance_state = 1;
        for (uint32_t t = 0; t < TOKENS; t++) add_random(out, n_layers, 32, 1, t, 1, true);
        OK(ern_trace_out_commit(out, &error));
        for (int p = ERN_REPLAY_LRU; p <= ERN_REPLAY_LFRU; p++)
            for (uint32_t slots = 4; slots <= 32; slots += 7) {
                const ern_replay_result r = replay((ern_replay_policy)p, slots * n_layers);
                const double rate = (double)r.decoded.n_hits / (double)r.decoded.n_pins;
                if (fabs(rate - slots / 32.0) > 0.015)
                    fail_msg("%u slots of 32, policy %d: %.3f", slots, p, rate);
            }
    }
}

static void nothing_beats_knowing(void **state)
{
    (void)state;
    ern_trace_out *out = begin(3, 16, 4, NULL);
    chance_state = 3;
    for (uint32_t at = 0; at < 600; at += 60) {
        add_random(out, 3, 16, 4, at, 10, false);
        for (uint32_t t = 10; t < 60; t++) add_random(out, 3, 16, 4, at + t, 1, true);
    }
    OK(ern_trace_out_commit(out, &error));
    static const uint32_t slots[] = { 1, 2, 3, 5, 11, 12, 13, 24, 30, 47, 48 };
    for (size_t i = 0; i < ERN_COUNT(slots); i++) {
        const ern_replay_result opt = replay(ERN_REPLAY_OPT, slots[i]);
        assert_int_equal(opt.decoded.n_pins, 500 * 3 * 4);
        for (int p = ERN_REPLAY_LRU; p <= ERN_REPLAY_LFRU; p++) {
            const ern_replay_result r = replay((ern_replay_policy)p, slots[i]);
            assert_int_equal(r.decoded.n_pins, opt.decoded.n_pins);
            assert_int_equal(r.prompt.n_pins, opt.prompt.n_pins);
            assert_true(r.decoded.n_hits <= opt.decoded.n_hits);
            assert_true(r.prompt.n_hits <= opt.prompt.n_hits);
            if (slots[i] == 48) /* all that were seen before */
                assert_true(r.decoded.n_hits + r.prompt.n_hits + 48
                            == r.decoded.n_pins + r.prompt.n_pins);
        }
    }
}

static void choices_are_described(void **state)
{
    (void)state;
    static const int32_t list[] = { 0, 0, 1, 0, 2, 2, 1, 0 }, alone[] = { 0 };
    ern_trace trace;
    ern_replay_choices c;
    ern_trace_out *out = begin(1, 4, 1, NULL);
    add_list(out, 10, list, 8);
    add_list(out, 30, alone, 1); /* does not go on: a run of its own */
    OK(ern_trace_out_commit(out, &error));
    OK(ern_trace_open(&trace, path, NULL, &error));
    OK(ern_replay_look(&trace, true, &c, &error));
    assert_true(fabs(c.overlap - 2.0 / 7.0) < 1e-9);
    assert_true(c.reuse_distance == 2); /* of 1 1 2 4 4 */
    assert_true(c.distinct == 3);
    OK(ern_replay_look(&trace, false, &c, &error));
    assert_true(c.overlap == -1 && c.reuse_distance == -1 && c.distinct == -1);
    ern_trace_close(&trace);
}

/* ---- Stopping, memory ------------------------------------------------------------------------ */

typedef struct steps {
    uint64_t last, n, stop_at;
} steps;

static int on_step(const char *what, uint64_t done, uint64_t total, void *user)
{
    steps *s = user;
    assert_string_equal(what, "replaying");
    assert_true(done >= s->last && done <= total);
    s->last = done < total ? done : 0;
    return ++s->n == s->stop_at;
}

static void replays_tell_and_stop(void **state)
{
    (void)state;
    ern_trace trace;
    ern_replay *r;
    ern_replay_result result;
    ern_trace_out *out = begin(3, 16, 4, NULL);
    for (uint32_t t = 0; t < 1000; t++) add_random(out, 3, 16, 4, t, 1, true);
    OK(ern_trace_out_commit(out, &error));
    OK(ern_trace_open(&trace, path, NULL, &error));
    OK(ern_replay_open(&r, &trace, &error));
    for (int p = 0; p < ERN_N_REPLAYS; p++) {
        steps s = { 0 };
        OK(ern_replay_run(r, (ern_replay_policy)p, 20, on_step, &s, &result, &error));
        assert_true(s.n >= 2 && s.last == 0);
        s = (steps){ .stop_at = 2 };
        assert_int_equal(
            ern_replay_run(r, (ern_replay_policy)p, 20, on_step, &s, &result, &error),
            ERNIE_CANCELLED);
    }
    ern_replay_close(r);
    ern_trace_close(&trace);
    out = begin(3, 16, 4, NULL);
    OK(ern_trace_out_commit(out, &error));
    OK(ern_trace_open(&trace, path, NULL, &error));
    assert_int_equal(ern_replay_open(&r, &trace, &error), ERNIE_INVALID);
    assert_null(r);
    ern_trace_close(&trace);
}

/* Write, read and replay. */
static ernie_status whole_life(const ernie_allocator *allocator)
{
    ern_trace trace;
    ern_replay *r = NULL;
    ern_replay_result result;
    ern_replay_choices choices;
    ern_trace_out *out = begin(3, 8, 2, allocator);
    if (!out) return error.code;
    add_random(out, 3, 8, 2, 0, 5, false);
    ernie_status status = ern_trace_out_commit(out, &error);
    if (status != ERNIE_OK) return status;
    status = ern_trace_open(&trace, path, allocator, &error);
    if (status != ERNIE_OK) return status;
    status = ern_replay_open(&r, &trace, &error);
    if (status == ERNIE_OK) status = ern_replay_look(&trace, false, &choices, &error);
    for (int p = 0; p < ERN_N_REPLAYS && status == ERNIE_OK; p++)
        status = ern_replay_run(r, (ern_replay_policy)p, 5, NULL, NULL, &result, &error);
    ern_replay_close(r);
    ern_trace_close(&trace);
    return status;
}

static void every_refused_allocation_unwinds(void **state)
{
    (void)state;
    for (int sticky = 0; sticky < 2; sticky++)
        for (long n = 0;; n++) {
            test_allocator a;
            ernie_allocator allocator;
            test_allocator_begin(&a, &allocator);
            test_allocator_fail_at(&a, n, sticky);
            error = (ernie_error){ ERNIE_OK, "" };
            const ernie_status status = whole_life(&allocator);
            assert_int_equal(a.live, 0);
            assert_int_equal(a.n_wrong_sizes, 0);
            if (a.n_failed == 0) {
                assert_int_equal(status, ERNIE_OK);
                break;
            }
            assert_int_equal(status, ERNIE_NO_MEMORY);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(what_is_abandoned_leaves_nothing),
        cmocka_unit_test(every_cut_is_named),
        cmocka_unit_test(every_damage_is_seen),
        cmocka_unit_test(lies_are_refused),
        cmocka_unit_test(files_that_cannot_be_read_are_named),
        cmocka_unit_test(hits_counted_by_hand),
        cmocka_unit_test(only_the_end_of_a_prompt_counts_as_used),
        cmocka_unit_test(chance_hits_in_proportion),
        cmocka_unit_test(nothing_beats_knowing),
        cmocka_unit_test(choices_are_described),
        cmocka_unit_test(replays_tell_and_stop),
        cmocka_unit_test(every_refused_allocation_unwinds),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
