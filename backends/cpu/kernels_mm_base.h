/* Products with w8, w4, c4, c3 and c2 matrices in portable C: the meaning of the types, to the last
 * bit.
 *
 * For each row and token: acc = 0; for each block of 32 columns in rising order, isum is the exact
 * integer sum of level * q, and acc = fma(isum, scale * q_scale, acc); y = acc * row_scale. */

static float kernels_dot_base(const kernels_group *g, unsigned type, unsigned r, const ern_act *a,
                              size_t t)
{
    const int8_t *q = a->q + t * a->q_stride;
    const unsigned char *code = g->code;
    float acc = 0.0f;
    for (uint32_t b = 0; b < g->n_blocks; b++, q += 32, code += ern_block_bytes(type)) {
        int32_t isum = 0;
        for (unsigned c = 0; c < 32; c++) isum += ern_block_level(type, code, r, c) * q[c];
        const float w = (float)ern_block_scale(type, g->scale, b, r);
        acc = kernels_fmaf((float)isum, w * a->q_scale[t * a->s_stride + b], acc);
    }
    return acc * g->row_scale[r];
}

static void kernels_quantized_base(unsigned type, const ern_matrix *w, uint32_t group_begin,
                                   uint32_t group_end, const ern_act *a, float *y, size_t y_stride)
{
    for (uint32_t group = group_begin; group < group_end; group++) {
        const kernels_group g = kernels_group_at(w, group);
        float *out = y + 16 * (size_t)(group - group_begin);
        for (size_t t = 0; t < a->n_tokens; t++)
            for (unsigned r = 0; r < 16; r++)
                out[t * y_stride + r] = kernels_dot_base(&g, type, r, a, t);
    }
    kernels_clear_padding(w, group_begin, group_end, a->n_tokens, y, y_stride);
}

#define KERNELS_MATMUL(name, type)                                                            \
    static void KN(name)(const ern_matrix *w, uint32_t group_begin, uint32_t group_end,       \
                         const ern_act *a, float *y, size_t y_stride)                         \
    {                                                                                         \
        kernels_quantized_base(type, w, group_begin, group_end, a, y, y_stride);              \
    }
KERNELS_MATMUL(matmul_w8, ERN_W8)
KERNELS_MATMUL(matmul_w4, ERN_W4)
KERNELS_MATMUL(matmul_c4, ERN_C4)
KERNELS_MATMUL(matmul_c3, ERN_C3)
KERNELS_MATMUL(matmul_c2, ERN_C2)
#undef KERNELS_MATMUL

/* ---- Single rows, the same code in every set: a token needs one of them ---------------------- */

static void kernels_row_quantized(const ern_matrix *w, uint32_t row, float *out)
{
    const kernels_group g = kernels_group_at(w, row / 16);
    const unsigned r = row % 16;
    for (uint32_t c = 0; c < w->n_cols; c++) {
        const float scale = g.row_scale[r] * (float)ern_block_scale(w->type, g.scale, c / 32, r);
        const unsigned char *code = g.code + c / 32 * ern_block_bytes(w->type);
        out[c] = scale * (float)ern_block_level(w->type, code, r, c % 32);
    }
}

static void kernels_row_f32(const ern_matrix *w, uint32_t row, float *out)
{
    memcpy(out, w->data + row * ern_row_bytes(ERN_F32, w->n_cols), w->n_cols * sizeof *out);
}

static void kernels_store_f32(const float *x, size_t n, void *out) { memcpy(out, x, n * sizeof *x); }
