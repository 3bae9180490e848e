/* Products with w8 and w4 matrices: from a range of groups to the tiles that an instruction set
 * provides as KN(tile). Weights of a group, or of a pair where KERNELS_PAIR_CASES is set, stay in
 * the cache while all tokens pass, in about equal shares of at most KERNELS_TOKENS
 * (KERNELS_PAIR_TOKENS). One token takes one group at a time: a single stream from memory is
 * fastest. */

typedef void KN(tile_fn)(const kernels_group *first, const ern_act *a, size_t t0, float *y,
                         size_t y_stride);

#define KERNELS_TILE(type, ng, nt)                                                            \
    static void KN(tile_##type##_##ng##x##nt)(const kernels_group *first, const ern_act *a,   \
                                              size_t t0, float *y, size_t y_stride)           \
    {                                                                                         \
        KN(tile)(type, ng, nt, first, a, t0, y, y_stride);                                    \
    }

#define KERNELS_CASE(nt) KERNELS_TILE(ERN_W8, 1, nt) KERNELS_TILE(ERN_W4, 1, nt)
KERNELS_TOKEN_CASES
#undef KERNELS_CASE

#define KERNELS_CASE(nt) { KN(tile_ERN_W8_1x##nt), KN(tile_ERN_W4_1x##nt) },
static KN(tile_fn) *const KN(tiles)[][2] = { { NULL, NULL }, KERNELS_TOKEN_CASES };
#undef KERNELS_CASE

#ifdef KERNELS_PAIR_CASES
#define KERNELS_CASE(nt) KERNELS_TILE(ERN_W8, 2, nt) KERNELS_TILE(ERN_W4, 2, nt)
KERNELS_PAIR_CASES
#undef KERNELS_CASE

#define KERNELS_CASE(nt) { KN(tile_ERN_W8_2x##nt), KN(tile_ERN_W4_2x##nt) },
static KN(tile_fn) *const KN(pair_tiles)[][2] = { { NULL, NULL }, KERNELS_PAIR_CASES };
#undef KERNELS_CASE
#endif

#undef KERNELS_TILE

static ERN_INLINE void KN(quantized)(unsigned type, const ern_matrix *w, uint32_t group_begin,
                                     uint32_t group_end, const ern_act *a, float *y, size_t y_stride)
{
    const size_t is_w4 = type == ERN_W4, n_tokens = a->n_tokens;
    uint32_t group = group_begin;
#ifdef KERNELS_PAIR_CASES
    for (; n_tokens > 1 && group + 2 <= group_end; group += 2) {
        const kernels_group g = kernels_group_at(w, group);
        float *out = y + 16 * (size_t)(group - group_begin);
        for (size_t t = 0, n; t < n_tokens; t += n) {
            n = kernels_share(n_tokens - t, KERNELS_PAIR_TOKENS);
            KN(pair_tiles)[n][is_w4](&g, a, t, out + t * y_stride, y_stride);
        }
    }
#endif
    for (; group < group_end; group++) {
        const kernels_group g = kernels_group_at(w, group);
        float *out = y + 16 * (size_t)(group - group_begin);
        for (size_t t = 0, n; t < n_tokens; t += n) {
            n = kernels_share(n_tokens - t, KERNELS_TOKENS);
            KN(tiles)[n][is_w4](&g, a, t, out + t * y_stride, y_stride);
        }
    }
    kernels_clear_padding(w, group_begin, group_end, n_tokens, y, y_stride);
}

static void KN(matmul_w8)(const ern_matrix *w, uint32_t group_begin, uint32_t group_end,
                          const ern_act *a, float *y, size_t y_stride)
{
    KN(quantized)(ERN_W8, w, group_begin, group_end, a, y, y_stride);
}

static void KN(matmul_w4)(const ern_matrix *w, uint32_t group_begin, uint32_t group_end,
                          const ern_act *a, float *y, size_t y_stride)
{
    KN(quantized)(ERN_W4, w, group_begin, group_end, a, y, y_stride);
}
