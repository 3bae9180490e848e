/* The scene of every fault test: a model file, and on a counting allocator a model with a session
 * that has read a prompt. After a failure the scene must still play: the same tokens as ever, and
 * not a byte held when all is closed. */
#ifndef FAULT_STAGE_H
#define FAULT_STAGE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../ernie.h"
#include "../unit/test_allocator.h"
#include "../unit/test_model_bytes.h"

#define STAGE_PROMPT 24 /* tokens */
#define STAGE_BATCH  8
#define STAGE_ENCORE 6 /* greedy tokens that are compared */

/* ---- The model file ------------------------------------------------------------------------ */

typedef struct stage_file {
    char dir[256], path[300], saved[300]; /* a folder of this run, the model, a saved session */
    unsigned char *data;                  /* [n_bytes], 64-byte aligned */
    size_t n_bytes;
    uint32_t vocab;
    int32_t encore[STAGE_ENCORE]; /* what follows the prompt when nothing fails */
} stage_file;

static inline void stage_write(const char *path, const void *data, size_t n)
{
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, n, file) != n || fclose(file) != 0) fail_msg("%s", path);
}

/* For an ernie_source whose user is the file. */
static inline int stage_source_read(void *user, uint64_t offset, void *buffer, size_t n)
{
    const stage_file *f = user;
    if (offset > f->n_bytes || n > f->n_bytes - offset) return 1;
    memcpy(buffer, f->data + offset, n);
    return 0;
}

/* Files in the run's folder. */
static inline unsigned stage_count_files(const stage_file *f)
{
    unsigned n = 0;
    DIR *handle = opendir(f->dir);
    assert_non_null(handle);
    while (readdir(handle)) n++;
    closedir(handle);
    return n - 2;
}

/* ---- Model and session --------------------------------------------------------------------- */

typedef struct stage {
    const stage_file *file;
    test_allocator counter;
    ernie_allocator allocator;
    ernie_model_options open;
    ernie_session_options options;
    ernie_model *model;
    ernie_session *session;
} stage;

static inline void stage_ok(ernie_status status, const ernie_error *error)
{
    if (status != ERNIE_OK) fail_msg("%s: %s", ernie_status_text(status), error->message);
}

static inline void stage_prompt(const stage_file *f, int32_t ids[STAGE_PROMPT])
{
    for (int32_t i = 0; i < STAGE_PROMPT; i++) ids[i] = (i * 37 + 11) % (int32_t)f->vocab;
}

static inline void stage_begin(stage *s, const stage_file *f)
{
    ernie_error error = { ERNIE_OK, "" };
    int32_t ids[STAGE_PROMPT];
    memset(s, 0, sizeof *s);
    s->file = f;
    test_allocator_begin(&s->counter, &s->allocator);
    s->open = ernie_model_options_init();
    s->open.allocator = &s->allocator;
    s->options = ernie_session_options_init();
    s->options.n_ctx = 64;
    s->options.n_batch = STAGE_BATCH;
    s->options.n_threads = 2;
    stage_ok(ernie_model_open_memory(&s->model, f->data, f->n_bytes, &s->open, &error), &error);
    stage_ok(ernie_session_create(&s->session, s->model, &s->options, &error), &error);
    stage_prompt(f, ids);
    stage_ok(ernie_session_feed(s->session, ids, STAGE_PROMPT, &error), &error);
}

static inline void stage_end(stage *s)
{
    ernie_session_free(s->session);
    ernie_model_close(s->model);
    assert_int_equal(atomic_load(&s->counter.live), 0);
    assert_int_equal(atomic_load(&s->counter.n_wrong_sizes), 0);
}

/* Generate greedily from where `session` stands. */
static inline void stage_generate(ernie_session *session, int32_t encore[STAGE_ENCORE])
{
    ernie_error error = { ERNIE_OK, "" };
    ernie_sampling params = ernie_sampling_init();
    const size_t before = ernie_session_length(session);
    params.greedy = params.ignore_eos = true;
    params.n_max = STAGE_ENCORE;
    stage_ok(ernie_session_generate(session, &params, NULL, NULL, NULL, &error), &error);
    assert_int_equal(ernie_session_length(session), before + STAGE_ENCORE);
    memcpy(encore, ernie_session_tokens(session) + before, STAGE_ENCORE * sizeof *encore);
}

/* `session` holds the prompt and its logits, and goes on as it would have without any failure. */
static inline void stage_check_goes_on(const stage *s, ernie_session *session)
{
    int32_t ids[STAGE_PROMPT], encore[STAGE_ENCORE];
    stage_prompt(s->file, ids);
    assert_int_equal(ernie_session_length(session), STAGE_PROMPT);
    assert_memory_equal(ernie_session_tokens(session), ids, sizeof ids);
    assert_non_null(ernie_session_logits(session));
    stage_generate(session, encore);
    assert_memory_equal(encore, s->file->encore, sizeof encore);
}

/* As stage_check_goes_on after a failure that may have taken tokens and logits with it. */
static inline void stage_check_recovers(const stage *s, ernie_session *session)
{
    ernie_error error = { ERNIE_OK, "" };
    int32_t ids[STAGE_PROMPT];
    stage_prompt(s->file, ids);
    stage_ok(ernie_session_sync(session, ids, STAGE_PROMPT, &error), &error);
    stage_check_goes_on(s, session);
}

/* ---- Setup --------------------------------------------------------------------------------- */

static inline void stage_file_learn(stage_file *f)
{
    stage s;
    stage_begin(&s, f);
    stage_generate(s.session, f->encore);
    stage_end(&s);
}

static inline void stage_file_make_dir(stage_file *f)
{
    const char *tmp = getenv("TMPDIR");
    memset(f, 0, sizeof *f);
    snprintf(f->dir, sizeof f->dir, "%.200s/ernie-fault-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof f->path, "%s/model.ernie", f->dir);
    snprintf(f->saved, sizeof f->saved, "%s/saved.session", f->dir);
}

/* A small mixture of experts with a tokenizer and the plain chat format. */
static inline void stage_file_tiny(stage_file *f)
{
    const test_model_spec spec = { .moe = true,
                                   .type_embed = ERN_W8,
                                   .type_attention = ERN_W4,
                                   .type_ffn = ERN_BF16,
                                   .type_expert = ERN_W4,
                                   .type_expert_down = ERN_W4 };
    stage_file_make_dir(f);
    f->data = test_model_build(&spec, &f->n_bytes);
    f->vocab = 300;
    stage_write(f->path, f->data, f->n_bytes);
    stage_file_learn(f);
}

/* A model that takes several reads: 9 MB, most of it two matrices. */
static inline unsigned char *stage_large_image(size_t *n)
{
    test_model_spec spec = { .untied = true };
    ern_hparams h = test_hparams(&spec);
    h.vocab_size = 17000;
    spec.hparams = &h;
    return test_model_build(&spec, n);
}

/* A model file that is there already; false when it is not. */
static inline bool stage_file_given(stage_file *f, const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0) return false;
    stage_file_make_dir(f);
    snprintf(f->path, sizeof f->path, "%s", path);
    f->n_bytes = (size_t)info.st_size;
    f->data = aligned_alloc(64, ern_round_up(f->n_bytes, 64));
    f->vocab = 300;
    FILE *file = fopen(path, "rb");
    if (!file || !f->data || fread(f->data, 1, f->n_bytes, file) != f->n_bytes)
        fail_msg("%s", path);
    fclose(file);
    stage_file_learn(f);
    return true;
}

static inline void stage_file_remove(stage_file *f)
{
    if (strncmp(f->path, f->dir, strlen(f->dir)) == 0) unlink(f->path);
    unlink(f->saved);
    if (rmdir(f->dir) != 0) fail_msg("%s: something was left in it", f->dir);
    test_model_free(f->data);
}

#endif
