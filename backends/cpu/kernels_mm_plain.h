/* Products with f32, f16 and bf16 matrices, written once in lane operations.
 *
 * Each (row, token) has one 16-lane sum: column c falls into lane c % 16, the short end is filled
 * with zeros. A tile of rows x tokens of such sums stays in registers. Rows are padded in the file
 * to whole vectors, activations are not, so the end of x is loaded lane by lane. */

static ERN_INLINE V16 KN(plain_load)(unsigned type, const unsigned char *row, size_t i)
{
    if (type == ERN_F32) return KN(load)((const float *)(const void *)row + i);
    const uint16_t *h = (const uint16_t *)(const void *)row + i;
    return type == ERN_F16 ? KN(load_f16)(h) : KN(load_bf16)(h);
}

/* Add columns i .. i + n - 1 (n <= 16) to acc [nt][nr]. */
static ERN_INLINE void KN(plain_step)(unsigned type, size_t nr, size_t nt,
                                      const unsigned char *const *row, const float *x,
                                      size_t x_stride, size_t i, size_t n, V16 *acc)
{
    V16 w[4];
    KERNELS_UNROLL for (size_t r = 0; r < nr; r++) w[r] = KN(plain_load)(type, row[r], i);
    KERNELS_UNROLL for (size_t t = 0; t < nt; t++) {
        const float *p = x + t * x_stride + i;
        const V16 v = n == 16 ? KN(load)(p) : KN(load_n)(p, n);
        KERNELS_UNROLL for (size_t r = 0; r < nr; r++)
            acc[t * nr + r] = KN(fma)(w[r], v, acc[t * nr + r]);
    }
}

/* y [nt][y_stride], nr rows from `row` on; nr * nt is padded to whole fours of sums. What lies
 * `ahead` bytes behind is wanted next. */
static ERN_INLINE void KN(plain_tile)(unsigned type, size_t nr, size_t nt,
                                      const unsigned char *const *row, size_t ahead, size_t n_cols,
                                      const float *x, size_t x_stride, float *y, size_t y_stride)
{
    const size_t item = type == ERN_F32 ? 4 : 2;
    V16 acc[4 * KERNELS_PLAIN_T];
    const size_t count = nr * nt, padded = (count + 3) / 4 * 4;
    KERNELS_UNROLL for (size_t i = 0; i < padded; i++) acc[i] = KN(set1)(0.0f);
    size_t i = 0;
    for (; i + 16 <= n_cols; i += 16) {
        KERNELS_UNROLL for (size_t r = 0; r < nr; r++) KERNELS_PREFETCH(row[r] + ahead + i * item);
        KN(plain_step)(type, nr, nt, row, x, x_stride, i, 16, acc);
    }
    if (i < n_cols) KN(plain_step)(type, nr, nt, row, x, x_stride, i, n_cols - i, acc);

    float sum[4 * KERNELS_PLAIN_T];
    KERNELS_UNROLL for (size_t j = 0; j < padded; j += 4) KN(sum4)(acc + j, sum + j);
    KERNELS_UNROLL for (size_t t = 0; t < nt; t++)
        memcpy(y + t * y_stride, sum + t * nr, nr * sizeof *y);
}

/* All 16 rows of a group for nt tokens. Rows behind the matrix' end repeat its last row here; the
 * caller zeroes their results. */
static ERN_INLINE void KN(plain_rows)(unsigned type, size_t nt, const ern_matrix *w, uint32_t group,
                                      const float *x, size_t x_stride, float *y, size_t y_stride)
{
    const size_t nr = KERNELS_PLAIN_R(nt);
    const uint64_t row_bytes = ern_row_bytes(type, w->n_cols);
    for (size_t r = 0; r < 16; r += nr) {
        const unsigned char *row[4];
        for (size_t i = 0; i < nr; i++) {
            const uint32_t at = 16 * group + (uint32_t)(r + i);
            row[i] = w->data + (at < w->n_rows ? at : w->n_rows - 1) * row_bytes;
        }
        KN(plain_tile)(type, nr, nt, row, nr * row_bytes, w->n_cols, x, x_stride, y + r, y_stride);
    }
}

#define KERNELS_CASE(nt)                                                        \
    case nt:                                                                    \
        KN(plain_rows)(type, nt, w, group, x, a->x_stride, out, y_stride); \
        break;

static ERN_INLINE void KN(plain)(unsigned type, const ern_matrix *w, uint32_t group_begin,
                                 uint32_t group_end, const ern_act *a, float *y, size_t y_stride)
{
    for (uint32_t group = group_begin; group < group_end; group++) {
        for (size_t t = 0, n; t < a->n_tokens; t += n) {
            const float *x = a->x + t * a->x_stride;
            float *out = y + t * y_stride + 16 * (size_t)(group - group_begin);
            n = kernels_share(a->n_tokens - t, KERNELS_PLAIN_T);
            switch (n) {
                KERNELS_PLAIN_CASES
            default: break;
            }
        }
    }
    kernels_clear_padding(w, group_begin, group_end, a->n_tokens, y, y_stride);
}

#undef KERNELS_CASE

static void KN(matmul_f32)(const ern_matrix *w, uint32_t group_begin, uint32_t group_end,
                           const ern_act *a, float *y, size_t y_stride)
{
    KN(plain)(ERN_F32, w, group_begin, group_end, a, y, y_stride);
}

static void KN(matmul_f16)(const ern_matrix *w, uint32_t group_begin, uint32_t group_end,
                           const ern_act *a, float *y, size_t y_stride)
{
    KN(plain)(ERN_F16, w, group_begin, group_end, a, y, y_stride);
}

static void KN(matmul_bf16)(const ern_matrix *w, uint32_t group_begin, uint32_t group_end,
                            const ern_act *a, float *y, size_t y_stride)
{
    KN(plain)(ERN_BF16, w, group_begin, group_end, a, y, y_stride);
}
