/* A streamed model says what the model in memory says, to the last bit: whatever the budget, the
 * readers, the policy, the batch, the origin of its bytes, warm or cold; and every call that an
 * application may make on a session works on it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../tools/convert/synth.h"
#include "fake_disk.h"
#include "test_session.h"
#include "stream_model.h"

#define N_PROMPT 600u

static fake_disk disk; /* f32; that of the other types is the test's own */
static char file_path[640], warm_path[640];
static int32_t prompt[N_PROMPT];

static int setup(void **state)
{
    const ern_hparams h = stream_hparams();
    const test_model_spec spec = { .moe = true, .hparams = &h };
    if (test_folder_begin(state) != 0) return -1;
    fake_begin_spec(&disk, &spec);
    snprintf(file_path, sizeof file_path, "%s", test_path("model.ernie"));
    snprintf(warm_path, sizeof warm_path, "%s", test_path("model.warm"));
    test_write_file(file_path, disk.image, disk.n_bytes);
    test_ids(prompt, N_PROMPT, 5, 300);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fake_end(&disk);
    remove(file_path);
    remove(warm_path);
    return rmdir(test_folder);
}

static int calm(void **state)
{
    (void)state;
    disk.permits = -1;
    disk.n_reads = disk.n_passed = 0;
    disk.n_fail = disk.n_spoil = 0;
    remove(warm_path);
    return 0;
}

/* ---- The same bits ------------------------------------------------------------------------- */

typedef struct trial {
    uint32_t n_slots, n_batch;
    size_t n_prompt;
    unsigned n_threads, n_readers;
    bool source, buffered, look_ahead, warm;
    ernie_stream_policy policy;
} trial;

static void check_trial(const trial *t, const char *path, const ernie_source *source,
                        const stream_answer *expected)
{
    stream_how how = stream_from(t->source ? NULL : path, source);
    how.stream.n_readers = t->n_readers;
    how.stream.buffered = t->buffered;
    how.stream.look_ahead = t->look_ahead;
    how.stream.policy = t->policy;
    how.stream.warm_path = t->warm ? warm_path : NULL;
    how.session.n_ctx = 1024;
    how.session.n_batch = t->n_batch;
    how.session.n_threads = t->n_threads;
    for (unsigned run = 0; run < 1u + t->warm; run++) { /* the second one finds a list */
        stream_answer answer;
        ernie_stream_stats stats = { .size = sizeof stats };
        ernie_model *model = stream_open(&how, 1, t->n_slots);
        ernie_session *session = test_session_with(model, &how.session);
        stream_ask(session, prompt, t->n_prompt, &answer);
        assert_int_equal(ernie_session_stream_stats(session, &stats), ERNIE_OK);
        assert_int_equal(stats.n_slots, t->n_slots);
        assert_int_equal(stats.n_used, stats.n_hits + stats.n_joined + stats.n_misses);
        assert_true(stats.n_misses > 0 || t->warm);
        if (!stream_same(&answer, expected))
            fail_msg("%u slots, batches of %u, %u threads, %u readers%s%s%s%s, policy %u, run %u",
                     t->n_slots, t->n_batch, t->n_threads, t->n_readers,
                     t->source ? ", source" : "", t->buffered ? ", buffered" : "",
                     t->look_ahead ? ", look ahead" : "", t->warm ? ", warm" : "",
                     (unsigned)t->policy, run);
        ernie_session_free(session);
        ernie_model_close(model);
    }
}

/* Every budget with every batch; everything else in turn, so that each pair comes up. */
static void check_all(const unsigned char *image, size_t n_bytes, const char *path,
                      const ernie_source *source)
{
    static const uint32_t budgets[] = { STREAM_LEAST, STREAM_LEAST + 1, STREAM_LEAST + 5, 32,
                                        STREAM_EXPERTS - 1 };
    static const struct {
        uint32_t n_batch;
        size_t n_prompt;
    } batches[] = { { 1, 40 }, { 7, 75 }, { 64, 150 }, { 512, N_PROMPT } };
    unsigned turn = 0;
    for (size_t b = 0; b < ERN_COUNT(batches); b++) {
        stream_answer expected;
        ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
        options.n_ctx = 1024;
        options.n_batch = batches[b].n_batch;
        stream_ask_resident(image, n_bytes, &options, prompt, batches[b].n_prompt, &expected);
        for (size_t i = 0; i < ERN_COUNT(budgets); i++, turn++) {
            const trial t = { .n_slots = budgets[i],
                              .n_batch = batches[b].n_batch,
                              .n_prompt = batches[b].n_prompt,
                              .n_threads = 1 + turn % 3,
                              .n_readers = turn % 2 ? 8 : 1,
                              .source = turn / 2 % 2,
                              .buffered = turn / 4 % 2,
                              .look_ahead = (turn + turn / 5) % 2,
                              .warm = turn % 3 == 0,
                              .policy = turn / 3 % 2 ? ERNIE_STREAM_LFRU : ERNIE_STREAM_LRU };
            check_trial(&t, path, source, &expected);
        }
    }
}

static void same_bits_f32(void **state)
{
    (void)state;
    check_all(disk.image, disk.n_bytes, file_path, &disk.source);
}

static void check_types(ern_type type, ern_type down, bool shared)
{
    ern_hparams h = stream_hparams();
    const test_model_spec spec = { .moe = true,
                                   .untied = true,
                                   .type_head = ERN_BF16,
                                   .type_attention = ERN_W8,
                                   .type_ffn = ERN_W8,
                                   .type_expert = type,
                                   .type_expert_down = down,
                                   .hparams = &h };
    fake_disk d;
    char path[640];
    if (!shared) h.n_shared_experts = h.shared_intermediate_size = 0;
    fake_begin_spec(&d, &spec);
    snprintf(path, sizeof path, "%s", test_path("other.ernie"));
    test_write_file(path, d.image, d.n_bytes);
    remove(warm_path);
    check_all(d.image, d.n_bytes, path, &d.source);
    remove(path);
    fake_end(&d);
}

static void same_bits_quantized(void **state)
{
    (void)state;
    check_types(ERN_W4, ERN_W4, true);
}

static void same_bits_codes(void **state)
{
    (void)state;
    check_types(ERN_C2, ERN_C3, false);
}

static void same_bits_mixed(void **state)
{
    (void)state;
    check_types(ERN_BF16, ERN_W8, true); /* rows of both kinds */
}

/* The shape of the demo with weights of a seed: 160 experts of 100 KB. */
static void same_bits_of_a_synthetic_file(void **state)
{
    (void)state;
    char path[640];
    size_t n_bytes;
    const ern_synth_options options = { .shape = "demo", .n_threads = 2, .seed = 3 };
    snprintf(path, sizeof path, "%s", test_path("synth.ernie"));
    OK(ern_synth(path, &options, &error));
    unsigned char *data = test_read_file(path, &n_bytes);
    unsigned char *image = aligned_alloc(64, ern_round_up(n_bytes, 64));
    assert_non_null(image);
    memcpy(image, data, n_bytes);
    free(data);
    stream_how how = stream_from(path, NULL);
    static const uint32_t slots[] = { 8, 40, 159 };
    for (size_t i = 0; i < ERN_COUNT(slots); i++) {
        float *logits[2];
        ernie_model *models[2] = { NULL, stream_open(&how, 1, slots[i]) };
        OK(ernie_model_open_memory(&models[0], image, n_bytes, NULL, &error));
        const uint32_t vocab = models[0]->format.header->hparams.vocab_size;
        for (unsigned k = 0; k < 2; k++) {
            ernie_session *session = test_session_with(models[k], &how.session);
            logits[k] = calloc(72 * (size_t)vocab, sizeof(float));
            assert_non_null(logits[k]);
            OK(ernie_session_feed_logits(session, prompt, 70, logits[k], &error));
            OK(ernie_session_feed_logits(session, prompt, 1, logits[k] + 70 * vocab, &error));
            OK(ernie_session_feed_logits(session, prompt, 1, logits[k] + 71 * vocab, &error));
            if (k) assert_int_equal(stream_n_slots(session), slots[i]);
            ernie_session_free(session);
            ernie_model_close(models[k]);
        }
        assert_memory_equal(logits[0], logits[1], 72 * (size_t)vocab * sizeof(float));
        free(logits[0]);
        free(logits[1]);
    }
    free(image);
    remove(path);
}

/* ---- What a streamed model says about itself ----------------------------------------------- */

static void info_and_stats(void **state)
{
    (void)state;
    stream_how how = stream_from(file_path, NULL);
    ernie_model_info info = { .size = sizeof info };
    ernie_memory memory = { .size = sizeof memory };
    ernie_stream_stats stats = { .size = sizeof stats };
    ernie_model *model = stream_open(&how, 1, 20);
    assert_int_equal(ernie_model_get_info(model, &info), ERNIE_OK);
    assert_true(info.streams);
    assert_string_equal(info.pages, "streamed");
    assert_int_equal(info.n_moe_layers, 4);
    assert_int_equal(info.n_bytes, disk.n_bytes);
    assert_int_equal(info.expert_bytes, disk.format.header->expert_bytes);
    OK(ernie_session_plan(model, &how.session, &memory, &error));
    assert_int_equal(memory.n_slots, 20);
    assert_int_equal(memory.n_slots_min, STREAM_LEAST);
    ernie_session *session = test_session_with(model, &how.session);
    assert_int_equal(ernie_session_stream_stats(session, &stats), ERNIE_OK);
    assert_int_equal(stats.n_slots, 20);
    assert_int_equal(stats.n_used, 0);
    OK(ernie_session_feed(session, prompt, 1, &error));
    assert_int_equal(ernie_session_stream_stats(session, &stats), ERNIE_OK);
    assert_int_equal(stats.n_used, 16);
    assert_int_equal(stats.n_misses, 16);
    assert_int_equal(stats.bytes_read, 16 * info.expert_bytes);
    assert_true(stats.disk_seconds > 0);
    OK(ernie_session_rewind(session, 0, &error));
    OK(ernie_session_feed(session, prompt, 1, &error));
    assert_int_equal(ernie_session_stream_stats(session, &stats), ERNIE_OK);
    assert_int_equal(stats.n_used, 32);
    assert_int_equal(stats.n_hits, 16);
    ernie_session_free(session);
    ernie_model_close(model);

    OK(ernie_model_open_memory(&model, disk.image, disk.n_bytes, NULL, &error));
    assert_int_equal(ernie_model_get_info(model, &info), ERNIE_OK);
    assert_false(info.streams);
    session = test_session_with(model, &how.session);
    memset(&stats, 255, sizeof stats);
    stats.size = sizeof stats;
    assert_int_equal(ernie_session_stream_stats(session, &stats), ERNIE_OK);
    assert_int_equal(stats.n_slots, 0);
    assert_int_equal(stats.n_used, 0);
    stats.size = 0;
    assert_int_equal(ernie_session_stream_stats(session, &stats), ERNIE_INVALID);
    assert_int_equal(ernie_session_stream_stats(session, NULL), ERNIE_INVALID);
    assert_int_equal(ernie_session_stream_stats(NULL, &stats), ERNIE_INVALID);
    ernie_session_free(session);
    ernie_model_close(model);
}

static void fork_save_load_rewind(void **state)
{
    (void)state;
    stream_how how = stream_from(file_path, NULL);
    stream_answer expected, answer;
    char saved[640];
    ernie_session *fork = NULL;
    snprintf(saved, sizeof saved, "%s", test_path("saved.session"));
    stream_ask_resident(disk.image, disk.n_bytes, &how.session, prompt, 60, &expected);
    ernie_model *model = stream_open(&how, 2, STREAM_LEAST + 3);
    ernie_session *session = test_session_with(model, &how.session);
    OK(ernie_session_feed(session, prompt, 60, &error));
    OK(ernie_session_fork(&fork, session, &error));
    test_same_logits(fork, expected.logits, STREAM_VOCAB);
    OK(ernie_session_save(session, saved, &error));
    stream_ask(session, prompt, 60, &answer);
    assert_true(stream_same(&answer, &expected));

    ernie_sampling params = ERNIE_SAMPLING_INIT;
    params.greedy = params.ignore_eos = true;
    params.n_max = STREAM_GREEDY;
    OK(ernie_session_generate(fork, &params, NULL, NULL, NULL, &error));
    assert_memory_equal(ernie_session_tokens(fork) + 60, expected.ids, sizeof expected.ids);
    test_same_logits(fork, expected.last, STREAM_VOCAB);
    OK(ernie_session_load(fork, saved, &error));
    test_same_logits(fork, expected.logits, STREAM_VOCAB);
    OK(ernie_session_rewind(fork, 30, &error));
    OK(ernie_session_sync(fork, prompt, 60, &error));
    OK(ernie_session_generate(fork, &params, NULL, NULL, NULL, &error));
    assert_memory_equal(ernie_session_tokens(fork) + 60, expected.ids, sizeof expected.ids);
    ernie_session_free(fork);
    ernie_session_free(session);
    ernie_model_close(model);

    /* A session saved by one goes on in the other. */
    OK(ernie_model_open_memory(&model, disk.image, disk.n_bytes, NULL, &error));
    session = test_session_with(model, &how.session);
    OK(ernie_session_load(session, saved, &error));
    test_same_logits(session, expected.logits, STREAM_VOCAB);
    ernie_session_free(session);
    ernie_model_close(model);
    remove(saved);
}

/* ---- Checking ------------------------------------------------------------------------------ */

static int count_progress(const char *what, uint64_t done, uint64_t total, void *user)
{
    assert_string_equal(what, "verifying");
    assert_true(done <= total);
    return --*(long *)user == 0;
}

static void verify_finds_what_is_wrong(void **state)
{
    (void)state;
    stream_how how = stream_from(NULL, &disk.source);
    const ern_record *r = fake_record(&disk, 2, 7);
    ernie_model *model = stream_open(&how, 1, 10);
    ernie_session *session = test_session_with(model, &how.session);
    unsigned char *padding = disk.image + r->offset + r->n_bytes;
    assert_true(r->n_bytes < disk.format.header->expert_bytes);
    OK(ernie_model_verify(model, NULL, NULL, NULL, &error));

    disk.image[r->offset + 1000] ^= 8;
    FAILS(ERNIE_CORRUPT, ernie_model_verify(model, NULL, NULL, NULL, &error), "layer 2", "expert 7",
          "checksum");
    disk.image[r->offset + 1000] ^= 8;
    padding[5] ^= 1;
    FAILS(ERNIE_CORRUPT, ernie_model_verify(model, NULL, NULL, NULL, &error), "byte");
    padding[5] ^= 1;
    OK(ernie_model_verify(model, NULL, NULL, NULL, &error));

    long left = 5;
    FAILS(ERNIE_CANCELLED, ernie_model_verify(model, count_progress, &left, NULL, &error),
          "cancelled");
    ernie_cancel cancel = { 1 };
    FAILS(ERNIE_CANCELLED, ernie_model_verify(model, NULL, NULL, &cancel, &error), "cancelled");
    OK(ernie_session_feed(session, prompt, 20, &error));
    ernie_session_free(session);
    ernie_model_close(model);
}

/* An expert's padding is nobody's weights: a damaged one computes all the same. Opening with
 * `verify` finds it. */
static void opening_may_verify(void **state)
{
    (void)state;
    const uint64_t ceiling = disk.n_bytes;
    const ern_record *r = fake_record(&disk, 4, 15);
    ernie_model_options options = ERNIE_MODEL_OPTIONS_INIT;
    ernie_model *model = NULL;
    options.memory = ceiling;
    options.verify = true;
    OK(ernie_model_open_source(&model, &disk.source, &options, &error));
    assert_true(model->experts != NULL);
    ernie_model_close(model);
    disk.image[r->offset] ^= 1;
    FAILS(ERNIE_CORRUPT, ernie_model_open_source(&model, &disk.source, &options, &error), "layer 4",
          "expert 15");
    assert_null(model);
    disk.image[r->offset] ^= 1;
}

static void the_read_rate_is_measured(void **state)
{
    (void)state;
    const stream_how how = stream_from(file_path, NULL);
    double rate = 0;
    ernie_model *model = stream_open(&how, 1, 10);
    OK(ernie_model_read_rate(model, 0.05, NULL, &rate, &error));
    assert_true(rate > 0);
    FAILS(ERNIE_INVALID, ernie_model_read_rate(model, 0, NULL, &rate, &error), "0.01 to 60");
    FAILS(ERNIE_INVALID, ernie_model_read_rate(model, 61, NULL, &rate, &error), "61");
    FAILS(ERNIE_INVALID, ernie_model_read_rate(model, (double)NAN, NULL, &rate, &error), "nan");
    FAILS(ERNIE_INVALID, ernie_model_read_rate(NULL, 1, NULL, &rate, &error), "model");
    FAILS(ERNIE_INVALID, ernie_model_read_rate(model, 1, NULL, NULL, &error), "bytes_per_second");
    const ernie_cancel cancel = { 1 };
    FAILS(ERNIE_CANCELLED, ernie_model_read_rate(model, 60, &cancel, &rate, &error), "cancelled");
    ernie_model_close(model);
    OK(ernie_model_open(&model, file_path, NULL, &error));
    FAILS(ERNIE_UNSUPPORTED, ernie_model_read_rate(model, 1, NULL, &rate, &error), "in memory");
    ernie_model_close(model);
}

#define T(name) cmocka_unit_test_setup(name, calm)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(same_bits_f32),
        T(same_bits_quantized),
        T(same_bits_codes),
        T(same_bits_mixed),
        T(same_bits_of_a_synthetic_file),
        T(info_and_stats),
        T(fork_save_load_rewind),
        T(verify_finds_what_is_wrong),
        T(opening_may_verify),
        T(the_read_rate_is_measured),
    };
    return cmocka_run_group_tests_name("stream", tests, setup, teardown);
}
