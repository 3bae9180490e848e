/* Products with w8 and w4 matrices in portable C: the meaning of the two types, to the last bit.
 *
 * For each row and token: acc = 0; for each block of 32 columns in rising order, isum is the exact
 * integer sum of level * q, and acc = fma(isum, scale * q_scale, acc); y = acc * row_scale. */

static ERN_INLINE int kernels_level(unsigned type, const unsigned char *code, uint32_t b, unsigned r,
                                    unsigned c)
{
    if (type == ERN_W8) return (int8_t)code[((b * 8ull + c / 4) * 16 + r) * 4 + c % 4];
    const unsigned byte = code[((b * 4ull + c / 8) * 16 + r) * 4 + c % 4];
    return ern_w4_level[c / 4 % 2 ? byte >> 4 : byte & 15];
}

static float kernels_dot_base(const kernels_group *g, unsigned type, unsigned r, const ern_act *a,
                              size_t t)
{
    const int8_t *q = a->q + t * a->q_stride;
    float acc = 0.0f;
    for (uint32_t b = 0; b < g->n_blocks; b++, q += 32) {
        int32_t isum = 0;
        for (unsigned c = 0; c < 32; c++) isum += kernels_level(type, g->code, b, r, c) * q[c];
        const float scale = (float)g->scale[b * 16 + r] * a->q_scale[t * a->s_stride + b];
        acc = fmaf((float)isum, scale, acc);
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

static void KN(matmul_w8)(const ern_matrix *w, uint32_t group_begin, uint32_t group_end,
                          const ern_act *a, float *y, size_t y_stride)
{
    kernels_quantized_base(ERN_W8, w, group_begin, group_end, a, y, y_stride);
}

static void KN(matmul_w4)(const ern_matrix *w, uint32_t group_begin, uint32_t group_end,
                          const ern_act *a, float *y, size_t y_stride)
{
    kernels_quantized_base(ERN_W4, w, group_begin, group_end, a, y, y_stride);
}

/* ---- Single rows, the same code in every set: a token needs one of them ---------------------- */

static void kernels_row_quantized(const ern_matrix *w, uint32_t row, float *out)
{
    const kernels_group g = kernels_group_at(w, row / 16);
    const unsigned r = row % 16;
    for (uint32_t c = 0; c < w->n_cols; c++) {
        const float scale = g.row_scale[r] * (float)g.scale[c / 32 * 16 + r];
        out[c] = scale * (float)kernels_level(w->type, g.code, c / 32, r, c % 32);
    }
}

static void kernels_row_f32(const ern_matrix *w, uint32_t row, float *out)
{
    memcpy(out, w->data + row * ern_row_bytes(ERN_F32, w->n_cols), w->n_cols * sizeof *out);
}

static void kernels_store_f32(const float *x, size_t n, void *out) { memcpy(out, x, n * sizeof *x); }
