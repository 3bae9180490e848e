/* Random models of real shapes: they open, their weights have the spread that keeps activations
 * sane. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "../../tools/convert/synth.h"
#include "convert_run.h"

static void synthetic_models_open(void **state)
{
    (void)state;
    const struct {
        const char *shape, *type;
        uint32_t n_layers;
    } cases[] = { { "demo", "w4", 0 },   { "demo", "f32", 1 }, { "demo", "f16", 2 },
                  { "demo", "bf16", 2 }, { "demo", "w8", 3 },  { "0.3b", "w4", 1 },
                  { "demo", "c4", 2 },   { "demo", "c3", 2 },  { "demo", "c2", 2 } };
    for (size_t i = 0; i < ERN_COUNT(cases); i++) {
        ernie_error error = { ERNIE_OK, "" };
        const ern_synth_options options = { .shape = cases[i].shape,
                                            .type = cases[i].type,
                                            .n_threads = 2,
                                            .n_layers = cases[i].n_layers,
                                            .seed = 7 };
        if (ern_synth(out_file, &options, &error) != ERNIE_OK) fail_msg("%s", error.message);
        const file_bytes bytes = read_file(out_file);
        const ern_format format = read_format(&bytes);
        for (uint32_t k = 0; k < format.header->n_records; k++) {
            const ern_record *r = &format.records[k];
            const ern_matrix m = { format.data + r->offset, r->type,
                                   r->n_rows < 32 ? r->n_rows : 32, r->n_cols };
            if (r->kind == ERN_EXPERT) {
                assert_string_equal(ern_type_name(r->type), cases[i].type);
                assert_string_equal(ern_type_name(r->type2), cases[i].type);
            }
            if (ern_kind_is_f32(r->kind) && r->kind != ERN_ROUTER) continue;
            double sum = 0; /* the spread that keeps activations at their size */
            for (uint32_t row = 0; row < m.n_rows; row++)
                for (uint32_t col = 0; col < m.n_cols; col++)
                    sum += pow((double)weight_at(&m, row, col), 2);
            assert_true(sum / m.n_rows > 0.4 && sum / m.n_rows < 2.5);
        }
        assert_int_equal(format.header->version_min, cases[i].type[0] == 'c' ? 2 : 1);
        free(bytes.data);
    }
}

static void synthetic_models_repeat(void **state)
{
    (void)state;
    file_bytes files[3];
    for (unsigned i = 0; i < 3; i++) {
        ernie_error error = { ERNIE_OK, "" };
        const ern_synth_options options = {
            .shape = "demo", .n_layers = 2, .n_threads = 1 + i, .seed = i < 2 ? 1 : 2
        };
        assert_int_equal(ern_synth(out_file, &options, &error), ERNIE_OK);
        files[i] = read_file(out_file);
    }
    assert_int_equal(files[0].n, files[1].n);
    assert_memory_equal(files[0].data, files[1].data, files[0].n);
    assert_memory_not_equal(files[0].data, files[2].data, files[0].n);
    for (unsigned i = 0; i < 3; i++) free(files[i].data);
}

static void bad_synth_is_named(void **state)
{
    (void)state;
    ernie_error error = { ERNIE_OK, "" };
    checkpoint_clear(out_dir);
    assert_int_equal(ern_synth(out_file, NULL, &error), ERNIE_INVALID);
    assert_int_equal(ern_synth(out_file, &(ern_synth_options){ .shape = "7b" }, &error),
                     ERNIE_INVALID);
    assert_non_null(strstr(error.message, "\"7b\" is unknown: 0.3b, 21b, 300b or demo"));
    assert_int_equal(
        ern_synth(out_file, &(ern_synth_options){ .shape = "demo", .type = "x" }, &error),
        ERNIE_INVALID);
    assert_int_equal(
        ern_synth(out_file, &(ern_synth_options){ .shape = "demo", .n_layers = 2000 }, &error),
        ERNIE_INVALID);
    ernie_cancel cancel = { 1 };
    assert_int_equal(
        ern_synth(out_file, &(ern_synth_options){ .shape = "21b", .cancel = &cancel }, &error),
        ERNIE_CANCELLED);
    assert_int_equal(count_files(out_dir), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(synthetic_models_open),
        cmocka_unit_test(synthetic_models_repeat),
        cmocka_unit_test(bad_synth_is_named),
    };
    return cmocka_run_group_tests(tests, run_setup, run_teardown);
}
