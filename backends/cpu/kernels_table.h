/* The table of one instruction set, after all its kernels. KERNELS_LANES names the set that lends the
 * kernels written in lanes; most have their own. */
#ifndef KERNELS_LANES
#define KERNELS_LANES(name) KN(name)
#endif

static const ern_kernels KN(table) = {
    .name = KERNELS_NAME,
    .quantize = KERNELS_LANES(quantize),
    .matmul = { [ERN_F32] = KERNELS_LANES(matmul_f32),
                [ERN_F16] = KERNELS_LANES(matmul_f16),
                [ERN_BF16] = KERNELS_LANES(matmul_bf16),
                [ERN_W8] = KN(matmul_w8),
                [ERN_W4] = KN(matmul_w4),
                [ERN_C4] = kernels_matmul_c4_base,
                [ERN_C3] = kernels_matmul_c3_base,
                [ERN_C2] = kernels_matmul_c2_base },
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
    .kv_store = { [ERN_KV_F16] = KERNELS_LANES(kv_store_f16),
                  [ERN_KV_F32] = kernels_store_f32,
                  [ERN_KV_Q8] = KERNELS_LANES(kv_store_q8) },
    .attn_scores = { [ERN_KV_F16] = KERNELS_LANES(scores_f16),
                     [ERN_KV_F32] = KERNELS_LANES(scores_f32),
                     [ERN_KV_Q8] = KERNELS_LANES(scores_q8) },
    .attn_values = { [ERN_KV_F16] = KERNELS_LANES(values_f16),
                     [ERN_KV_F32] = KERNELS_LANES(values_f32),
                     [ERN_KV_Q8] = KERNELS_LANES(values_q8) },
    .exp_sum = KERNELS_LANES(exp_sum),
    .max = KERNELS_LANES(max_of),
    .scale = KERNELS_LANES(scale_by),
};
