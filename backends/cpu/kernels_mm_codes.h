/* Products with c4, c3 and c2 matrices, written once in an instruction set's registers of 32-bit
 * words (kernels_code_SET.h): a register holds one word of KERNELS_CODE_ROWS rows. Meaning:
 * kernels_mm_base.h.
 *
 * A row's code C is two words, low and high. Its window of column 8 i + j begins at bit 8 j + 2 i
 * and the index of 4 bits is the window's low nibble, its lowest two bits changed by bits 5 and 6.
 * With R = C rotated by 5, S = C ^ (R & 0x33..33) has changed what the windows of i = 0 and 2 need,
 * and S' = S ^ R = C ^ (R & 0xcc..cc) what i = 1 and 3 need. So a byte of S holds two indices as a
 * byte of w4 does, a byte of S' two as well, 2 bits further up, the last of them across the byte's
 * end. For 8 vectors of 4 columns that is 2 funnel shifts and 4 changes, then 4 shifts and 2 funnel
 * shifts; the shift and the change of every window by itself would be 6
 * funnel shifts and 8 changes of 2 or 3 operations each.
 *
 * One token, one Zen 4 core at 3.7 GHz, from the cache, G weights/s with avx512vbmi, avx512, avx2:
 * c2 86, 63, 40; c3 66, 46, 30; c4 63, 31, 19 (bench/RESULTS.md). Counted for c2 with VBMI, a block
 * of 512 weights: 2 funnel shifts, 4 changes, 4 shifts, 2 funnel shifts, 8 look-ups, 8 products,
 * and about 7 for the scales. One vpermi2b for the look-up of a whole window would save the
 * changes and was 5 % faster there; on Intel's processors, where it was not measured, it is said to
 * be several operations.
 *
 * Up to KERNELS_CODE_SINGLES tokens meet weights as they are decoded, each by itself. For more, a
 * chunk of KERNELS_CODE_BLOCKS blocks is decoded once to bytes, which stay in the nearest cache
 * while all tokens pass; between chunks the float sums wait in y. */

/* The four words of indices of a block's code. */
static ERN_INLINE void KN(code_open)(const unsigned char *code, KN(words) s[4])
{
    const KN(words) low = KN(code_load)(code), high = KN(code_load)(code + 64);
    const KN(words) r_low = KERNELS_FUNNEL(high, low, 5), r_high = KERNELS_FUNNEL(low, high, 5);
    s[0] = KN(code_change)(low, r_low);
    s[1] = KN(code_change)(high, r_high);
    s[2] = KN(code_xor)(s[0], r_low);
    s[3] = KN(code_xor)(s[1], r_high);
}

/* Vector v of a block: bytes whose low nibble is the index of column 4 v + j; the rest is not. */
static ERN_INLINE KN(words) KN(code_indices)(const KN(words) s[4], size_t v)
{
    switch (v) {
    case 0: return s[0];
    case 1: return s[1];
    case 2: return KERNELS_RIGHT(s[2], 2);
    case 3: return KERNELS_RIGHT(s[3], 2);
    case 4: return KERNELS_RIGHT(s[0], 4);
    case 5: return KERNELS_RIGHT(s[1], 4);
    case 6: return KERNELS_FUNNEL(s[3], s[2], 6);
    default: return KERNELS_FUNNEL(s[2], s[3], 6);
    }
}

/* A block's words, those of one register's rows. */
typedef struct KN(coded) {
    KN(words) s[4], plane[2];
} KN(coded);

static ERN_INLINE KN(coded) KN(code_read)(unsigned type, const unsigned char *code)
{
    KN(coded) c;
    KN(code_open)(code, c.s);
    c.plane[0] = type != ERN_C2 ? KN(code_load)(code + 128) : c.s[0];
    c.plane[1] = type == ERN_C4 ? KN(code_load)(code + 192) : c.s[0];
    return c;
}

static ERN_INLINE KN(words) KN(code_vector)(unsigned type, const KN(coded) *c, size_t v)
{
    return KN(code_levels)(type, KN(code_indices)(c->s, v), c->plane, v);
}

/* ---- One token ------------------------------------------------------------------------------- */

enum { KN(code_parts) = 16 / KERNELS_CODE_ROWS }; /* registers for the rows of a group */

/* One block; odd: its scales are the high nibbles. */
static ERN_INLINE void KN(code_block)(unsigned type, unsigned odd, const unsigned char *code,
                                      const unsigned char *scale, const int8_t *q, int32_t sum,
                                      float d, KN(lanes) *f)
{
    KERNELS_NO_UNROLL for (size_t p = 0; p < KN(code_parts); p++) {
        const KN(coded) c = KN(code_read)(type, code + p * 4 * KERNELS_CODE_ROWS);
        KN(words) acc = KN(code_start)(sum);
        KERNELS_UNROLL for (size_t v = 0; v < 8; v++)
            acc = KN(code_dot)(acc, KN(code_vector)(type, &c, v), KN(code_four)(q + 4 * v));
        f[p] = KN(code_add)(acc, KN(code_scales)(scale + p * KERNELS_CODE_ROWS, odd), d, f[p]);
    }
}

static ERN_INLINE void KN(code_group)(unsigned type, const kernels_group *g, const ern_act *a,
                                      size_t t, float *y)
{
    const size_t n = g->n_blocks, block_bytes = ern_block_bytes(type),
                 pair_bytes = 2 * block_bytes + 16;
    const unsigned char *code = g->code, *wish = kernels_group_begin(g);
    const int8_t *q = a->q + t * a->q_stride;
    const int32_t *sum = a->q_sum + t * a->s_stride;
    const float *d = a->q_scale + t * a->s_stride;
    KN(lanes) f[KN(code_parts)];
    KERNELS_UNROLL for (size_t p = 0; p < KN(code_parts); p++) f[p] = KN(code_zero)();
    for (size_t b = 0; b + 1 < n; b += 2, code += 2 * block_bytes, q += 64) {
        const unsigned char *scale = g->scale + 8 * b;
        kernels_wish(wish + b / 2 * pair_bytes, pair_bytes);
        KN(code_block)(type, 0, code, scale, q, sum[b], d[b], f);
        KN(code_block)(type, 1, code + block_bytes, scale, q + 32, sum[b + 1], d[b + 1], f);
    }
    if (n % 2) KN(code_block)(type, 0, code, g->scale + 8 * (n - 1), q, sum[n - 1], d[n - 1], f);
    KERNELS_UNROLL for (size_t p = 0; p < KN(code_parts); p++)
        KN(code_store)(y + p * KERNELS_CODE_ROWS, f[p], g->row_scale + p * KERNELS_CODE_ROWS);
}

/* ---- Several tokens -------------------------------------------------------------------------- */

/* Blocks b0 .. b0 + n - 1 of group g as place `at` of the chunk. */
static ERN_INLINE void KN(code_decode)(unsigned type, const kernels_group *g, size_t at,
                                       kernels_chunk *chunk)
{
    const size_t block_bytes = ern_block_bytes(type);
    const unsigned char *code = g->code + chunk->b0 * block_bytes,
                        *scale = g->scale + 8 * chunk->b0;
    const unsigned char *wish = kernels_group_begin(g) + chunk->b0 * (block_bytes + 8);
    for (size_t b = 0; b < chunk->n; b++, code += block_bytes) {
        kernels_wish(wish + b * (block_bytes + 8), block_bytes + 8);
        for (size_t p = 0; p < KN(code_parts); p++) {
            const size_t row = p * KERNELS_CODE_ROWS;
            const KN(coded) c = KN(code_read)(type, code + 4 * row);
            KERNELS_UNROLL for (size_t v = 0; v < 8; v++)
                KN(code_save)(chunk->level[at][b][v] + 4 * row, KN(code_vector)(type, &c, v));
            KN(code_store)(chunk->scale[at][b] + row,
                           KN(code_scales)(scale + b / 2 * 16 + row, b % 2), kernels_ones);
        }
    }
    chunk->row_scale[at] = g->row_scale;
}

#ifndef KERNELS_LEVEL_TILES
#define KERNELS_LEVEL_TILES KN(level_tiles)

/* n_parts registers of the chunk's rows, from register `first` on, for nt tokens from t0 on. */
static ERN_INLINE void KN(level_part)(size_t n_parts, size_t first, size_t nt,
                                      const kernels_chunk *c, const ern_act *a, size_t t0, float *y,
                                      size_t y_stride)
{
    const size_t q_stride = a->q_stride, s_stride = a->s_stride;
    const int8_t *q = a->q + t0 * q_stride + c->b0 * 32;
    const float *d = a->q_scale + t0 * s_stride + c->b0;
    const int32_t *sum = a->q_sum + t0 * s_stride + c->b0;
    KN(lanes) f[KERNELS_LEVEL_PARTS * KERNELS_LEVEL_TOKENS];
    y += first * KERNELS_CODE_ROWS;
    KERNELS_UNROLL for (size_t p = 0; p < n_parts; p++)
        KERNELS_UNROLL for (size_t t = 0; t < nt; t++) {
            const float *waiting = y + t * y_stride + p * KERNELS_CODE_ROWS;
            f[p * nt + t] = c->b0 ? KN(code_sums)(waiting) : KN(code_zero)();
        }
    for (size_t b = 0; b < c->n; b++, q += 32, d++, sum++) {
        KN(words) acc[KERNELS_LEVEL_PARTS * KERNELS_LEVEL_TOKENS];
        KERNELS_UNROLL for (size_t t = 0; t < nt; t++) {
            const KN(words) start = KN(code_start)(sum[t * s_stride]);
            KERNELS_UNROLL for (size_t p = 0; p < n_parts; p++) acc[p * nt + t] = start;
        }
        KERNELS_UNROLL for (size_t v = 0; v < 8; v++) {
            KN(words) x[KERNELS_LEVEL_PARTS];
            KERNELS_UNROLL for (size_t p = 0; p < n_parts; p++) {
                const size_t row = (first + p) * KERNELS_CODE_ROWS;
                x[p] = KN(code_load)(c->level[row / 16][b][v] + row % 16 * 4);
            }
            KERNELS_UNROLL for (size_t t = 0; t < nt; t++) {
                const KN(words) four = KN(code_four)(q + 4 * v + t * q_stride);
                KERNELS_UNROLL for (size_t p = 0; p < n_parts; p++)
                    acc[p * nt + t] = KN(code_dot)(acc[p * nt + t], x[p], four);
            }
        }
        KERNELS_UNROLL for (size_t p = 0; p < n_parts; p++) {
            const size_t row = (first + p) * KERNELS_CODE_ROWS;
            const KN(lanes) w = KN(code_sums)(c->scale[row / 16][b] + row % 16);
            KERNELS_UNROLL for (size_t t = 0; t < nt; t++)
                f[p * nt + t] = KN(code_add)(acc[p * nt + t], w, d[t * s_stride], f[p * nt + t]);
        }
    }
    KERNELS_UNROLL for (size_t p = 0; p < n_parts; p++) {
        const size_t row = (first + p) * KERNELS_CODE_ROWS;
        const float *row_scale = c->last ? c->row_scale[row / 16] + row % 16 : kernels_ones;
        KERNELS_UNROLL for (size_t t = 0; t < nt; t++)
            KN(code_store)(y + t * y_stride + p * KERNELS_CODE_ROWS, f[p * nt + t], row_scale);
    }
}

/* All rows of ng groups, as many registers at once as the set affords. */
#define KERNELS_LEVEL_TILE(ng, nt)                                                               \
    static void KN(level_tile_##ng##x##nt)(const kernels_chunk *c, const ern_act *a, size_t t0,  \
                                           float *y, size_t y_stride)                            \
    {                                                                                            \
        const size_t all = (ng) * KN(code_parts);                                                \
        const size_t n = all < KERNELS_LEVEL_PARTS ? all : KERNELS_LEVEL_PARTS;                  \
        for (size_t p = 0; p < all; p += n) KN(level_part)(n, p, nt, c, a, t0, y, y_stride);     \
    }

#define KERNELS_CASE(nt) KERNELS_LEVEL_TILE(1, nt)
KERNELS_LEVEL_CASES
#undef KERNELS_CASE
#if KERNELS_LEVEL_GROUPS == 2
#define KERNELS_CASE(nt) KERNELS_LEVEL_TILE(2, nt)
KERNELS_LEVEL_CASES
#undef KERNELS_CASE
#endif
#undef KERNELS_LEVEL_TILE

static kernels_level_fn *const KN(level_tiles)[KERNELS_LEVEL_GROUPS][KERNELS_LEVEL_TOKENS + 1] = {
#define KERNELS_CASE(nt) KN(level_tile_1x##nt),
    { NULL, KERNELS_LEVEL_CASES },
#undef KERNELS_CASE
#if KERNELS_LEVEL_GROUPS == 2
#define KERNELS_CASE(nt) KN(level_tile_2x##nt),
    { NULL, KERNELS_LEVEL_CASES },
#undef KERNELS_CASE
#endif
};
#endif

/* n groups from `group` on (n <= KERNELS_LEVEL_GROUPS), all tokens. */
static ERN_INLINE void KN(code_groups)(unsigned type, const ern_matrix *w, uint32_t group, size_t n,
                                       const ern_act *a, float *y, size_t y_stride)
{
    kernels_chunk chunk;
    const size_t n_blocks = ern_n_blocks(w->n_cols);
    for (chunk.b0 = 0; chunk.b0 < n_blocks; chunk.b0 += KERNELS_CODE_BLOCKS) {
        chunk.last = n_blocks - chunk.b0 <= KERNELS_CODE_BLOCKS;
        chunk.n = chunk.last ? n_blocks - chunk.b0 : KERNELS_CODE_BLOCKS;
        for (size_t i = 0; i < n; i++) {
            const kernels_group g = kernels_group_at(w, group + (uint32_t)i);
            KN(code_decode)(type, &g, i, &chunk);
        }
        for (size_t t = 0, nt; t < a->n_tokens; t += nt) {
            nt = kernels_share(a->n_tokens - t, KERNELS_LEVEL_TOKENS);
            KERNELS_LEVEL_TILES[n - 1][nt](&chunk, a, t, y + t * y_stride, y_stride);
        }
    }
}

static ERN_INLINE void KN(code_matmul)(unsigned type, const ern_matrix *w, uint32_t group_begin,
                                       uint32_t group_end, const ern_act *a, float *y,
                                       size_t y_stride)
{
    for (uint32_t group = group_begin, n; group < group_end; group += n) {
        float *out = y + 16 * (size_t)(group - group_begin);
        n = group_end - group;
        if (n > KERNELS_LEVEL_GROUPS) n = KERNELS_LEVEL_GROUPS;
        if (a->n_tokens <= KERNELS_CODE_SINGLES) {
            const kernels_group g = kernels_group_at(w, group);
            for (size_t t = 0; t < a->n_tokens; t++)
                KN(code_group)(type, &g, a, t, out + t * y_stride);
            n = 1;
        } else {
            KN(code_groups)(type, w, group, n, a, out, y_stride);
        }
    }
    kernels_clear_padding(w, group_begin, group_end, a->n_tokens, y, y_stride);
}

static void KN(matmul_c4)(const ern_matrix *w, uint32_t group_begin, uint32_t group_end,
                          const ern_act *a, float *y, size_t y_stride)
{
    KN(code_matmul)(ERN_C4, w, group_begin, group_end, a, y, y_stride);
}

static void KN(matmul_c3)(const ern_matrix *w, uint32_t group_begin, uint32_t group_end,
                          const ern_act *a, float *y, size_t y_stride)
{
    KN(code_matmul)(ERN_C3, w, group_begin, group_end, a, y, y_stride);
}

static void KN(matmul_c2)(const ern_matrix *w, uint32_t group_begin, uint32_t group_end,
                          const ern_act *a, float *y, size_t y_stride)
{
    KN(code_matmul)(ERN_C2, w, group_begin, group_end, a, y, y_stride);
}
