/* The options of a model, also those of older and newer callers, and what it says about itself. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../src/hash.h"
#include "test_session.h"

/* ---- Options ------------------------------------------------------------------------------- */

static void options_of_other_versions(void **state)
{
    (void)state;
    struct {
        ernie_model_options options;
        unsigned char newer[40];
    } o = { .options = ERNIE_MODEL_OPTIONS_INIT };
    test_world w;
    ernie_model *model = NULL;
    test_world_open(&w, &test_dense_spec);
    o.options.size = sizeof o; /* a newer caller that uses nothing new */
    OK(ernie_model_open_memory(&model, w.image, w.n_bytes, &o.options, &error));
    ernie_model_close(model);
    o.newer[7] = 1;
    FAILS(ERNIE_UNSUPPORTED,
          ernie_model_open_memory(&model, w.image, w.n_bytes, &o.options, &error),
          "ernie_model_options", "newer");
    o.options.size = 8; /* an older caller: what lies behind is not an option of his */
    o.options.backend = "quantum";
    OK(ernie_model_open_memory(&model, w.image, w.n_bytes, &o.options, &error));
    ernie_model_close(model);
    const uint32_t wrong[] = { 0, 3, 5000, UINT32_MAX };
    for (size_t i = 0; i < ERN_COUNT(wrong); i++) {
        o.options.size = wrong[i];
        FAILS(ERNIE_INVALID,
              ernie_model_open_memory(&model, w.image, w.n_bytes, &o.options, &error),
              "ernie_model_options", "size");
        assert_null(model);
    }
    test_world_close(&w);
}

static void log_line(ernie_log_level level, const char *line, void *user)
{
    (void)level;
    snprintf(user, 200, "%s", line);
}

static void options_choose(void **state)
{
    (void)state;
    test_world w;
    ernie_model *model = NULL;
    char line[200] = "";
    ernie_model_info info = { .size = sizeof info };
    test_world_open(&w, &test_dense_spec);
    ernie_model_options options = ernie_model_options_init();
    options.cpu = "base";
    options.backend = "cpu";
    options.log = log_line;
    options.log_user = line;
    OK(ernie_model_open_memory(&model, w.image, w.n_bytes, &options, &error));
    assert_non_null(strstr(line, "base"));
    assert_int_equal(ernie_model_get_info(model, &info), ERNIE_OK);
    assert_string_equal(info.cpu, "base");
    ernie_model_close(model);
    options.cpu = "abacus";
    FAILS(ERNIE_UNSUPPORTED, ernie_model_open_memory(&model, w.image, w.n_bytes, &options, &error),
          "abacus");
    options.cpu = "auto";
    options.backend = "quantum";
    FAILS(ERNIE_UNSUPPORTED, ernie_model_open_memory(&model, w.image, w.n_bytes, &options, &error),
          "quantum", "cpu");
    test_world_close(&w);
}

/* ---- What a model says --------------------------------------------------------------------- */

static void info_tells_the_shape(void **state)
{
    (void)state;
    test_world w;
    ernie_model_info info = { .size = sizeof info };
    test_world_open(&w, &test_moe_spec);
    assert_int_equal(ernie_model_get_info(w.model, &info), ERNIE_OK);
    assert_string_equal(info.name, "test");
    assert_string_equal(info.architecture, "ernie4_5_moe");
    assert_string_equal(
        info.types, "embedding f32, head bf16, attention w8, dense f16, shared f16, experts w4");
    assert_int_equal(info.n_layers, 2);
    assert_int_equal(info.vocab_size, 320);
    assert_true(info.n_tokens > 300 && info.n_tokens < 320); /* the last rows are padding */
    assert_int_equal(info.n_experts, 4);
    assert_int_equal(info.moe_k, 2);
    assert_int_equal(info.eos_id, 2);
    assert_int_equal(info.chat_format, ERNIE_CHAT_PLAIN);
    assert_false(info.tied);
    assert_int_equal(info.n_bytes, w.n_bytes);
    /* embedding, head, norms; two attentions; a dense layer; router, shared and experts */
    const uint64_t outside = 2 * 320 * 64 + 64, attention = 2 * (128 * 64 + 64 * 64 + 2 * 64);
    const uint64_t ffn = 96 * 3 * 64, expert = 48 * 3 * 64, router = 4 * 64 + 4;
    assert_int_equal(info.n_parameters, outside + attention + ffn + router + 5 * expert);
    assert_int_equal(info.n_parameters_active, outside + attention + ffn + router + 3 * expert);
    test_world_close(&w);
}

/* A caller with another struct gets what both know, and not a byte more. */
static void info_of_other_versions(void **state)
{
    (void)state;
    test_world w;
    struct {
        ernie_model_info info;
        unsigned char newer[16];
    } i;
    test_world_open(&w, &test_dense_spec);
    memset(&i, 0x5a, sizeof i);
    i.info.size = sizeof i;
    assert_int_equal(ernie_model_get_info(w.model, &i.info), ERNIE_OK);
    assert_int_equal(i.info.size, sizeof i);
    assert_int_equal(i.info.n_bytes, w.n_bytes);
    for (size_t b = 0; b < sizeof i.newer; b++) assert_int_equal(i.newer[b], 0x5a);
    memset(&i, 0x5a, sizeof i);
    i.info.size = offsetof(ernie_model_info, architecture);
    assert_int_equal(ernie_model_get_info(w.model, &i.info), ERNIE_OK);
    assert_string_equal(i.info.name, "test");
    const unsigned char *bytes = (const unsigned char *)&i;
    for (size_t b = i.info.size; b < sizeof i; b++) assert_int_equal(bytes[b], 0x5a);
    i.info.size = 0;
    assert_int_equal(ernie_model_get_info(w.model, &i.info), ERNIE_INVALID);
    test_world_close(&w);
}

static void records_are_listed(void **state)
{
    (void)state;
    test_world w;
    test_world_open(&w, &test_moe_spec);
    const size_t n = ernie_model_record_count(w.model);
    bool expert = false, head = false;
    ernie_record_info info = { .size = sizeof info };
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(ernie_model_record(w.model, i, &info), ERNIE_OK);
        assert_true(info.offset % 64 == 0 && info.offset + info.n_bytes <= w.n_bytes);
        assert_true(info.checksum == ern_hash64(w.image + info.offset, (size_t)info.n_bytes));
        assert_ptr_equal(info.name, info.name_buffer);
        if (strcmp(info.name, "layers.1.experts.3") == 0) {
            assert_string_equal(info.type, "w4");
            assert_int_equal(info.n_cols, 64);
            expert = true;
        }
        head |= strcmp(info.type, "bf16") == 0 && info.n_rows == 320;
    }
    assert_true(expert && head);
    assert_int_equal(ernie_model_record(w.model, n, &info), ERNIE_INVALID);
    info.size = 4;
    assert_int_equal(ernie_model_record(w.model, 0, &info), ERNIE_INVALID);
    test_world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_of_other_versions), cmocka_unit_test(options_choose),
        cmocka_unit_test(info_tells_the_shape),      cmocka_unit_test(info_of_other_versions),
        cmocka_unit_test(records_are_listed),
    };
    return cmocka_run_group_tests_name("model_info", tests, NULL, NULL);
}
