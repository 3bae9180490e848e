/* Products with w8 and w4 matrices for AMX int8. Meaning: kernels_mm_base.h.
 *
 * tdpbssd multiplies a tile of nt tokens x 32 columns with one of 32 columns x 16 rows, signed by
 * signed. The second wants 8 lines of 64 bytes, each 4 columns of 16 rows: that is a block of w8 as
 * it lies in the file, and of w4 as soon as its codes are levels. Scales are per block, so each
 * block has its own integer tile, which goes through memory into 16 float sums a token.
 *
 * A chunk of blocks is decoded once and meets all tokens before the next; between chunks the float
 * sums wait in y. Blocks go in lots of KERNELS_LOT: the tiles of a lot are multiplied while the
 * sums of the lot before are added, which hides the 50 cycles from a tile's product to its stored
 * sums.
 *
 * Counted for a Sapphire Rapids core, a block of 16 rows and 16 tokens, 8192 multiply-adds: tdpbssd
 * 16 cycles of its unit (a token a cycle; half its depth is unused), the stored sums 16 of the
 * store port, 48 vector operations on two ports 24, 56 lines and broadcasts on two load ports 28.
 * The AVX-512 tiles issue 272 vector operations on the two ports for it, 136 cycles.
 *
 * Measured, the count has not come true: on 16 virtual cores of a Sapphire Rapids one core reached
 * 112 to 142 G multiply-adds/s in w4 at 32 and 128 tokens, 165 to 176 with the AVX-512 tiles, and
 * whole prefills scattered too much for a verdict, 0.8 to 2.2 times as fast in single pairs
 * (bench/RESULTS.md). So the set is there by its name, and is not chosen. */

#define KERNELS_TILE_TOKENS 16
#define KERNELS_CHUNK 16 /* blocks, 8 KiB of levels */
#define KERNELS_LOT 2    /* blocks; each has three tiles */

/* Fewer tokens than this are AVX-512's. */
#define KERNELS_AMX_TOKENS 4

/* Compilers take what AMX instructions read for less than it is: all stores before this are
 * done. */
#define KERNELS_STORES_DONE() __asm__ volatile("" : : : "memory")

/* Tiles 0 and 1 are sums [nt][16], 2 and 3 activations [nt][32], 4 and 5 weights [8][16][4]. */
static void KN(configure)(size_t nt)
{
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t line_bytes[16];
        uint8_t n_lines[16];
    } c = { .palette = 1 };
    _Static_assert(sizeof c == 64, "what ldtilecfg reads");
    for (size_t i = 0; i < KERNELS_LOT; i++) {
        c.n_lines[i] = c.n_lines[2 + i] = (uint8_t)nt;
        c.n_lines[4 + i] = 8;
        c.line_bytes[i] = c.line_bytes[4 + i] = 64;
        c.line_bytes[2 + i] = 32;
    }
    KERNELS_STORES_DONE();
    _tile_loadconfig(&c);
}

/* Levels of n blocks of codes: [n][8][64]. */
static void KN(decode_w4)(const unsigned char *code, size_t n, int8_t *out)
{
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i level
        = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)ern_w4_level));
    for (size_t i = 0; i < 4 * n; i++, code += 64, out += 128) {
        const __m512i x = _mm512_loadu_si512(code), y = _mm512_srli_epi16(x, 4);
        KERNELS_PREFETCH(code + KERNELS_AHEAD);
        _mm512_store_si512(out, _mm512_shuffle_epi8(level, _mm512_and_si512(x, low)));
        _mm512_store_si512(out + 64, _mm512_shuffle_epi8(level, _mm512_and_si512(y, low)));
    }
    KERNELS_STORES_DONE();
}

/* A chunk of one group and what a tile of tokens does with it. */
typedef struct KN(chunk) {
    const int8_t *level;        /* [n][8][64] */
    const unsigned char *scale; /* [n][16] */
    const float *row_scale;     /* [16] of the last chunk, else NULL */
    size_t n;                   /* blocks */
    size_t b0;                  /* the first one's number; 0 starts the sums, others find them in y */
} KN(chunk);

/* Tiles 0 and, with another block, 1: sums of nt tokens from q on. */
static ERN_INLINE void KN(multiply)(const int8_t *level, const int8_t *q, size_t q_stride, bool both)
{
    _tile_loadd(4, level, 64);
    _tile_loadd(2, q, q_stride);
    _tile_zero(0);
    _tile_dpbssd(0, 2, 4);
    if (!both) return;
    _tile_loadd(5, level + 512, 64);
    _tile_loadd(3, q + 32, q_stride);
    _tile_zero(1);
    _tile_dpbssd(1, 3, 5);
}

/* f [nt] += one block's sums [nt][16] by its scales. Unless the stride is new to the compiler, it
 * keeps 16 multiples of it, most of them in vector registers, and moving them costs more than
 * adding up. */
static ERN_INLINE void KN(add_block)(size_t nt, const int32_t *sum, const unsigned char *scale,
                                     const float *d, size_t s_stride, __m512 *f)
{
    const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)scale);
    const __m512 w = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
    __asm__("" : "+r"(s_stride));
    KERNELS_UNROLL for (size_t t = 0; t < nt; t++, d += s_stride)
        f[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(sum + t * 16)),
                               _mm512_mul_ps(w, _mm512_set1_ps(*d)), f[t]);
}

/* nt tokens from t0 on. Tiles are configured for `skip` more: those before t0, whose sums are left
 * alone, so that all of a call's tiles share one configuration. */
static ERN_INLINE void KN(tile)(size_t nt, const KN(chunk) *c, const ern_act *a, size_t t0,
                                size_t skip, float *y, size_t y_stride)
{
    _Alignas(64) int32_t sum[KERNELS_LOT][KERNELS_TILE_TOKENS][16];
    const int8_t *q = a->q + (t0 - skip) * a->q_stride + c->b0 * 32;
    const float *d = a->q_scale + t0 * a->s_stride + c->b0;
    __m512 f[KERNELS_TILE_TOKENS];
    KERNELS_UNROLL for (size_t t = 0; t < nt; t++)
        f[t] = c->b0 ? _mm512_loadu_ps(y + t * y_stride) : _mm512_setzero_ps();
    for (size_t b = 0; b < c->n + KERNELS_LOT; b += KERNELS_LOT) {
        if (b < c->n) KN(multiply)(c->level + b * 512, q + b * 32, a->q_stride, b + 1 < c->n);
        if (b > 0) {
            const size_t p = b - KERNELS_LOT;
            KN(add_block)(nt, sum[0][skip], c->scale + p * 16, d + p, a->s_stride, f);
            if (p + 1 < c->n)
                KN(add_block)(nt, sum[1][skip], c->scale + p * 16 + 16, d + p + 1, a->s_stride, f);
        }
        if (b < c->n) _tile_stored(0, sum[0], 64);
        if (b + 1 < c->n) _tile_stored(1, sum[1], 64);
    }
    const __m512 row_scale = c->row_scale ? _mm512_loadu_ps(c->row_scale) : _mm512_set1_ps(1.0f);
    KERNELS_UNROLL for (size_t t = 0; t < nt; t++)
        _mm512_storeu_ps(y + t * y_stride, _mm512_mul_ps(f[t], row_scale));
}

typedef void KN(tile_fn)(const KN(chunk) *c, const ern_act *a, size_t t0, size_t skip, float *y,
                         size_t y_stride);

#define KERNELS_CASE(nt)                                                                       \
    static void KN(tile_##nt)(const KN(chunk) *c, const ern_act *a, size_t t0, size_t skip,    \
                              float *y, size_t y_stride)                                       \
    {                                                                                          \
        KN(tile)(nt, c, a, t0, skip, y, y_stride);                                             \
    }
KERNELS_UP_TO_16
#undef KERNELS_CASE

#define KERNELS_CASE(nt) KN(tile_##nt),
static KN(tile_fn) *const KN(tiles)[] = { NULL, KERNELS_UP_TO_16 };
#undef KERNELS_CASE

/* One group, all tokens. */
static void KN(group)(unsigned type, const kernels_group *g, const ern_act *a, float *y, size_t y_stride)
{
    _Alignas(64) int8_t level[KERNELS_CHUNK * 512];
    const size_t n_lines = kernels_share(a->n_tokens, KERNELS_TILE_TOKENS);
    for (size_t b = 0; b < g->n_blocks; b += KERNELS_CHUNK) {
        const bool last = g->n_blocks - b <= KERNELS_CHUNK;
        KN(chunk) c = { (const int8_t *)g->code + b * 512, g->scale + b * 16, NULL, KERNELS_CHUNK, b };
        if (last) {
            c.n = g->n_blocks - b;
            c.row_scale = g->row_scale;
        }
        if (type == ERN_W4) {
            KN(decode_w4)(g->code + b * 256, c.n, level);
            c.level = level;
        }
        for (size_t t = 0, nt; t < a->n_tokens; t += nt) {
            nt = kernels_share(a->n_tokens - t, KERNELS_TILE_TOKENS);
            KN(tiles)[nt](&c, a, t, n_lines - nt, y + t * y_stride, y_stride);
        }
    }
}

static void KN(quantized)(unsigned type, const ern_matrix *w, uint32_t group_begin,
                          uint32_t group_end, const ern_act *a, float *y, size_t y_stride)
{
    KN(configure)(kernels_share(a->n_tokens, KERNELS_TILE_TOKENS));
    for (uint32_t group = group_begin; group < group_end; group++) {
        const kernels_group g = kernels_group_at(w, group);
        KN(group)(type, &g, a, y + 16 * (size_t)(group - group_begin), y_stride);
    }
    _tile_release();
    kernels_clear_padding(w, group_begin, group_end, a->n_tokens, y, y_stride);
}

static void KN(matmul_w8)(const ern_matrix *w, uint32_t group_begin, uint32_t group_end,
                          const ern_act *a, float *y, size_t y_stride)
{
    if (a->n_tokens < KERNELS_AMX_TOKENS)
        kernels_matmul_w8_avx512(w, group_begin, group_end, a, y, y_stride);
    else KN(quantized)(ERN_W8, w, group_begin, group_end, a, y, y_stride);
}

static void KN(matmul_w4)(const ern_matrix *w, uint32_t group_begin, uint32_t group_end,
                          const ern_act *a, float *y, size_t y_stride)
{
    if (a->n_tokens < KERNELS_AMX_TOKENS)
        kernels_matmul_w4_avx512(w, group_begin, group_end, a, y, y_stride);
    else KN(quantized)(ERN_W4, w, group_begin, group_end, a, y, y_stride);
}

#undef KERNELS_TILE_TOKENS
#undef KERNELS_CHUNK
#undef KERNELS_LOT
#undef KERNELS_AMX_TOKENS
#undef KERNELS_STORES_DONE
