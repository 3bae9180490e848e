/* Blocks of every type that GGUF files of ERNIE come in: what the bytes are worth. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../tools/convert/encode.h"
#include "ggml_blocks.h"

/* By hand: 1.0 is the half 0x3c00, 0.5 is 0x3800, -2.0 is 0xc000. */
static void bytes_written_by_hand(void **state)
{
    (void)state;
    float got[256];
    const unsigned char q8_0[34] = { 0x00, 0x38, 0x80, 0x7f, 0x01 };
    conv_ggml_decode(CONV_GGML_Q8_0, q8_0, got, 32);
    assert_true(got[0] == -64.0f && got[1] == 63.5f && got[2] == 0.5f && got[31] == 0.0f);

    const unsigned char q4_0[18] = { 0x00, 0x3c, 0x9f, 0x80 };
    conv_ggml_decode(CONV_GGML_Q4_0, q4_0, got, 32);
    assert_true(got[0] == 7.0f && got[16] == 1.0f && got[1] == -8.0f && got[17] == 0.0f);

    const unsigned char q5_1[24] = { 0x00, 0x3c, 0x00, 0xc0, 0x01, 0, 0x02, 0, 0x10, 0x23 };
    conv_ggml_decode(CONV_GGML_Q5_1, q5_1, got, 32); /* fifth bits of weights 0 and 17 */
    assert_true(got[0] == 14.0f && got[16] == -1.0f && got[1] == 1.0f && got[17] == 16.0f);

    const unsigned char iq4_nl[18] = { 0x00, 0x3c, 0xf0 };
    conv_ggml_decode(CONV_GGML_IQ4_NL, iq4_nl, got, 32);
    assert_true(got[0] == -127.0f && got[16] == 113.0f && got[1] == -127.0f);

    /* Scale 5 is 0x2b: 11 in the low nibble of byte 9, 2 above byte 1; minimum 5 is 0x1c. */
    unsigned char q4_k[144] = { 0x00, 0x3c, 0x00, 0x38 };
    q4_k[4 + 9] = 0xcb;
    q4_k[4 + 1] = 2 << 6;
    q4_k[4 + 5] = 1 << 6;
    q4_k[16 + 64] = 0x30; /* weight 160: code 3 */
    conv_ggml_decode(CONV_GGML_Q4_K, q4_k, got, 256);
    assert_true(got[160] == 3.0f * 43.0f - 14.0f && got[161] == -14.0f && got[128] == 0.0f);

    unsigned char q6_k[210] = { 0 };
    q6_k[32] = 0x70;      /* weight 96: low four bits 7 */
    q6_k[128] = 0x80;     /* and high ones 2 */
    q6_k[192 + 6] = 0xfd; /* its scale is -3 */
    q6_k[209] = 0x3c;
    conv_ggml_decode(CONV_GGML_Q6_K, q6_k, got, 256);
    assert_true(got[96] == -3.0f * 7.0f && got[97] == 96.0f && got[0] == 0.0f);
}

static void packed_blocks_come_back(void **state)
{
    (void)state;
    enum { N = 256 * 40 };
    unsigned char *bytes = malloc(N * 4);
    float *wanted = malloc(N * sizeof *wanted), *got = malloc(N * sizeof *got);
    assert_true(bytes && wanted && got);
    for (size_t t = 0; t < ERN_COUNT(block_types); t++) {
        const conv_ggml_info *info = conv_ggml_find(block_types[t]);
        assert_true(conv_ggml_readable(info->type));
        block_make(info->type, N, 17 + t, bytes, wanted);
        conv_ggml_decode(info->type, bytes, got, N);
        for (size_t i = 0; i < N; i++)
            if (memcmp(&got[i], &wanted[i], sizeof got[i]) != 0 && (got[i] != 0 || wanted[i] != 0))
                fail_msg("%s, value %zu: %g, wanted %g", info->name, i, (double)got[i],
                         (double)wanted[i]);
    }
    free(bytes);
    free(wanted);
    free(got);
}

/* No block reads or writes beyond itself, wherever it lies. */
static void blocks_stay_in_place(void **state)
{
    (void)state;
    for (size_t t = 0; t < ERN_COUNT(block_types); t++) {
        const conv_ggml_info *info = conv_ggml_find(block_types[t]);
        unsigned char *bytes = malloc(info->block_bytes + 1); /* its end is the heap's end */
        float *got = malloc(info->block_values * sizeof *got), wanted[256];
        assert_true(bytes && got);
        block_make(info->type, info->block_values, 5, bytes + 1, wanted);
        conv_ggml_decode(info->type, bytes + 1, got, info->block_values);
        assert_true(got[info->block_values - 1] == wanted[info->block_values - 1]);
        conv_ggml_decode(info->type, NULL, got, 0);
        free(bytes);
        free(got);
    }
}

/* The encoder's way in knows them by the numbers above CONV_GGML. */
static void the_encoder_reads_blocks(void **state)
{
    (void)state;
    unsigned char bytes[34];
    float wanted[32], got[32];
    block_make(CONV_GGML_Q8_0, 32, 9, bytes, wanted);
    conv_decode(conv_encoder_best(), CONV_GGML + CONV_GGML_Q8_0, bytes, got, 32);
    assert_memory_equal(got, wanted, sizeof got);
}

static void the_table_is_whole(void **state)
{
    (void)state;
    unsigned n_known = 0, n_readable = 0;
    for (uint32_t type = 0; type < 300; type++) {
        const conv_ggml_info *info = conv_ggml_find(type);
        assert_true(info || !conv_ggml_readable(type));
        if (!info) continue;
        assert_int_equal(info->type, type);
        assert_true(info->block_values > 0 && info->block_bytes > 0);
        assert_true(info->block_values <= 256 && info->block_bytes <= 4 * info->block_values + 36);
        n_known++;
        if (conv_ggml_readable(type)) {
            assert_non_null(strstr(CONV_GGML_READABLE, info->name));
            n_readable++;
        }
    }
    assert_int_equal(n_known, 33);
    assert_int_equal(n_readable, ERN_COUNT(block_types));
    assert_null(conv_ggml_find(4)); /* given up by ggml */
    assert_null(conv_ggml_find(UINT32_MAX));
    assert_string_equal(conv_ggml_find(12)->name, "Q4_K");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_written_by_hand), cmocka_unit_test(packed_blocks_come_back),
        cmocka_unit_test(blocks_stay_in_place),  cmocka_unit_test(the_encoder_reads_blocks),
        cmocka_unit_test(the_table_is_whole),
    };
    return cmocka_run_group_tests_name("ggml", tests, NULL, NULL);
}
