/* The table of one instruction set, after all its kernels. KERNELS_LANES names the set that lends
 * the kernels written in lanes, KERNELS_BYTES w8 and w4, KERNELS_CODES c4, c3 and c2; most have
 * their own. */
#ifndef KERNELS_LANES
#define KERNELS_LANES(name) KN(name)
#endif
#ifndef KERNELS_BYTES
#define KERNELS_BYTES(name) KN(name)
#endif
#ifndef KERNELS_CODES
#define KERNELS_CODES(name) KN(name)
#endif

static const ern_kernels KN(table) = {
    .name = KERNELS_NAME,
    .quantize = KERNELS_LANES(quantize),
    .matmul = { [ERN_F32] = KERNELS_LANES(matmul_f32),
                [ERN_F16] = KERNELS_LANES(matmul_f16),
                [ERN_BF16] = KERNELS_LANES(matmul_bf16),
                [ERN_W8] = KERNELS_BYTES(matmul_w8),
                [ERN_W4] = KERNELS_BYTES(matmul_w4),
                [ERN_C4] = KERNELS_CODES(matmul_c4),
                [ERN_C3] = KERNELS_CODES(matmul_c3),
                [ERN_C2] = KERNELS_CODES(matmul_c2) },
    .row = { [ERN_F32] = kernels_row_f32,
             [ERN_F16] = KERNELS_LANES(row_f16),
             [ERN_BF16] = KERNELS_LANES(row_bf16),
             [ERN_W8] = kernels_row_quantized,
             [ERN_W4] = kernels_row_quantized,
             [ERN_C4] = kernels_row_quantized,
             [ERN_C3] = kernels_row_quantized,
             [ERN_C2] = kernels_row_quantized },
    .rmsnorm = KERNELS_LANES(rmsnorm),
    .add = KERNELS_LANES(add_to),
    .add_scaled = KERNELS_LANES(add_scaled),
    .swiglu = KERNELS_LANES(swiglu),
    .rope = KERNELS_LANES(rope),
    .hadamard = KERNELS_LANES(hadamard),
    .key_store = { [ERN_KV_F16] = KERNELS_LANES(store_f16_row),
                   [ERN_KV_F32] = kernels_store_f32,
                   [ERN_KV_Q8] = KERNELS_LANES(store_q8),
                   [ERN_KV_Q4] = KERNELS_LANES(store_key_q4) },
    .value_store = { [ERN_KV_F16] = KERNELS_LANES(store_f16_row),
                     [ERN_KV_F32] = kernels_store_f32,
                     [ERN_KV_Q8] = KERNELS_LANES(store_q8),
                     [ERN_KV_Q4] = KERNELS_LANES(store_value_q4) },
    .attn_scores = { [ERN_KV_F16] = KERNELS_LANES(scores_f16),
                     [ERN_KV_F32] = KERNELS_LANES(scores_f32),
                     [ERN_KV_Q8] = KERNELS_LANES(scores_q8),
                     [ERN_KV_Q4] = KERNELS_LANES(scores_q4) },
    .attn_values = { [ERN_KV_F16] = KERNELS_LANES(values_f16),
                     [ERN_KV_F32] = KERNELS_LANES(values_f32),
                     [ERN_KV_Q8] = KERNELS_LANES(values_q8),
                     [ERN_KV_Q4] = KERNELS_LANES(values_q4) },
    .exp_sum = KERNELS_LANES(exp_sum),
    .max = KERNELS_LANES(max_of),
    .scale = KERNELS_LANES(scale_by),
};
