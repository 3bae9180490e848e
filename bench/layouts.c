/* bench/layouts.c - which memory order should 4-bit weights have on x86?
 *
 * The type is w4: a code of 4 bits picks one of 16 integers (V4), 32 weights of a row share a u8
 * scale, a row has an f32 scale. Both orders hold the same bits, 4.25 per weight:
 *
 *   S  superblocks along one row. A vector of codes holds 8 blocks of one row; the 16 lanes of a
 *      sum belong to these blocks and are added up when the row ends. Activations: one scale per 256.
 *   R  16 rows side by side. A vector of codes holds 8 columns of 16 rows; a lane is a row, so
 *      nothing is added across lanes, and four activations are broadcast. Activations: one scale per 32.
 *
 * Decode is one token (bytes/s decides), prefill is 2 to 32 tokens (multiply-adds/s decides). Every
 * layout has one kernel body per instruction set, instantiated as tiles of rows x tokens; the best
 * tile of each layout is searched for first, then the two winners run in turns (S R S R ...) because
 * a shared machine drifts. Printed: medians, and the median of the ratios of neighbouring runs.
 *
 *   cc -O2 -ffp-contract=off bench/layouts.c -lm -pthread -o layouts && ./layouts [rounds]
 *
 * With LAYOUTS_TILES set in the environment the time of every tile is printed too.
 */
#define _GNU_SOURCE
#include <immintrin.h>
#include <math.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define T512 "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi"
#define T256 "avx2,fma"
#define FN512 static __attribute__((target(T512)))
#define FN256 static __attribute__((target(T256)))
#define BODY  __attribute__((always_inline)) inline
#define UNROLL _Pragma("GCC unroll 16")

enum { TOKENS_MAX = 32, ROWS_MAX = 3072, K_MAX = 2560, ROUNDS_MAX = 99, CACHE_ROWS = 256 };
#define STREAM_BYTES ((size_t)1 << 30)
/* Bytes from a load to its prefetch. Streaming rates were measured for 512 .. 8192 on each one-token
 * tile: S is flat from 2048 on; R wants 8192 with one group and about 2048 with four streams. */
enum { S_AHEAD = 4096, R_AHEAD = 8192, READ_AHEAD = 2048 };

static const int8_t V4[16] = { -60, -46, -36, -29, -22, -15, -9, -3, 3, 9, 15, 22, 29, 37, 46, 60 };

/* A kernel computes y[t * ldy + r] for rows r0 <= r < r1 and the tile's own number of tokens. */
typedef void kernel_fn(const uint8_t *m, int rows, int k, int r0, int r1, const uint8_t *act, float *y, int ldy);

/* ---- where things are ---- */

/* S: codes [rows][k/256][2][64], scales u8 [rows][k/32], f32 [rows].
 * R: records of 16 rows: f32 [16], scales u8 [k/32][16], codes [k/32][4][16][4]. */
static size_t mat_bytes(int rows, int k) { return (size_t)rows * (size_t)(k / 2 + k / 32 + 4); }
static size_t r_record(int k) { return (size_t)(64 + k / 2 + k * 8); }

/* Activation records; `t` tokens are packed together so that a tile walks one pointer.
 * S, per 256:  i8 a[t][4][64], then avx512 i32 init[t][16] or avx2 i16 init[t][2][32], then f32 d[t] (16 B steps).
 * R, per 32:   i8 a[t][32], f32 d[t], then avx512 i32 init[t] or avx2 i16 init[t][4][2].
 * `init` is -64 * (sum of the activations that meet in one lane): the kernels multiply by V4 + 64 >= 0. */
#define S_STEP512(t) ((t) * 320 + 64)
#define S_STEP256(t) ((t) * 384 + 64)
#define R_STEP512(t) ((t) * 40)
#define R_STEP256(t) ((t) * 52)

/* ---- AVX-512 VNNI + VBMI ---- */

/* vpermb looks at 6 bits of an index. With V4 stored four times, the two bits above the code do
 * not matter, so the low code needs no mask and the high code only a shift: 1.5 operations per 64. */
FN512 BODY __m512i lut512(void)
{
    return _mm512_add_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)V4)), _mm512_set1_epi8(64));
}

/* n <= 4 sums of 16 lanes each, to o[0..3]. */
FN512 BODY void sum4_512(const __m512 *f, int n, float *o)
{
    __m512 z = _mm512_setzero_ps();
    __m512 a = f[0], b = n > 1 ? f[1] : z, c = n > 2 ? f[2] : z, d = n > 3 ? f[3] : z;
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    __m512d l = _mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    __m512d h = _mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd));
    __m512 x = _mm512_add_ps(_mm512_castpd_ps(l), _mm512_castpd_ps(h));
    __m256 y = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    _mm_storeu_ps(o, _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1)));
}

FN512 BODY void s512(int nr, int nt, const uint8_t *m, int rows, int k, int r0, int r1,
                     const uint8_t *act, float *y, int ldy)
{
    const uint8_t *scales = m + (size_t)rows * (size_t)(k / 2);
    const float *rs = (const float *)(scales + (size_t)rows * (size_t)(k / 32));
    const __m512i lut = lut512();
    const __m512i spread = _mm512_add_epi32(_mm512_set1_epi32((int)0x80808000u),   /* dword l: byte l / 2, then three zeros */
                                            _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0));
    const size_t cb = (size_t)(k / 2), sb = (size_t)(k / 32);
    for (int r = r0; r < r1; r += nr) {
        __m512 f[16];
        UNROLL for (int i = 0; i < nr * nt; i++) f[i] = _mm512_setzero_ps();
        const uint8_t *c = m + (size_t)r * cb, *s = scales + (size_t)r * sb, *a = act;
        for (int b = 0; b < k / 256; b++, c += 128, s += 8, a += S_STEP512(nt)) {
            __m512i acc[16];
            UNROLL for (int i = 0; i < nr * nt; i++) acc[i] = _mm512_loadu_si512(a + nt * 256 + i / nr * 64);
            UNROLL for (int v = 0; v < 2; v++) {
                __m512i lo[4], hi[4];
                UNROLL for (int i = 0; i < nr; i++) {
                    __m512i x = _mm512_loadu_si512(c + (size_t)i * cb + v * 64);
                    _mm_prefetch((const char *)c + (size_t)i * cb + v * 64 + S_AHEAD, _MM_HINT_T0);
                    lo[i] = _mm512_permutexvar_epi8(x, lut);
                    hi[i] = _mm512_permutexvar_epi8(_mm512_srli_epi16(x, 4), lut);
                }
                UNROLL for (int t = 0; t < nt; t++) {
                    __m512i x = _mm512_loadu_si512(a + t * 256 + v * 128);
                    UNROLL for (int i = 0; i < nr; i++) acc[t * nr + i] = _mm512_dpbusd_epi32(acc[t * nr + i], lo[i], x);
                    x = _mm512_loadu_si512(a + t * 256 + v * 128 + 64);
                    UNROLL for (int i = 0; i < nr; i++) acc[t * nr + i] = _mm512_dpbusd_epi32(acc[t * nr + i], hi[i], x);
                }
            }
            const float *d = (const float *)(a + nt * 320);
            UNROLL for (int i = 0; i < nr; i++) {
                int64_t q;
                memcpy(&q, s + (size_t)i * sb, 8);
                __m512 w = _mm512_cvtepi32_ps(_mm512_shuffle_epi8(_mm512_set1_epi64(q), spread));
                UNROLL for (int t = 0; t < nt; t++)
                    f[t * nr + i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[t * nr + i]),
                                                    _mm512_mul_ps(w, _mm512_set1_ps(d[t])), f[t * nr + i]);
            }
        }
        float o[16];
        UNROLL for (int i = 0; i < nr * nt; i += 4) sum4_512(f + i, nr * nt - i, o + i);
        UNROLL for (int i = 0; i < nr * nt; i++) y[i / nr * ldy + r + i % nr] = o[i] * rs[r + i % nr];
    }
}

/* nr counts groups of 16 rows. Decoded half-vector: 64 bytes = 16 rows x 4 columns. */
FN512 BODY void r512(int nr, int nt, const uint8_t *m, int rows, int k, int r0, int r1,
                     const uint8_t *act, float *y, int ldy)
{
    (void)rows;
    const __m512i lut = lut512();
    const size_t rec = r_record(k);
    for (int r = r0; r < r1; r += 16 * nr) {
        __m512 f[16];
        UNROLL for (int i = 0; i < nr * nt; i++) f[i] = _mm512_setzero_ps();
        const uint8_t *g = m + (size_t)(r / 16) * rec, *s = g + 64, *c = s + k / 2, *a = act;
        for (int b = 0; b < k / 32; b++, c += 256, s += 16, a += R_STEP512(nt)) {
            const float *d = (const float *)(a + nt * 32);
            const int32_t *init = (const int32_t *)(a + nt * 36);
            __m512i acc[16];
            UNROLL for (int i = 0; i < nr * nt; i++) acc[i] = _mm512_set1_epi32(init[i / nr]);
            UNROLL for (int v = 0; v < 4; v++) {
                __m512i lo[4], hi[4];
                UNROLL for (int i = 0; i < nr; i++) {
                    __m512i x = _mm512_loadu_si512(c + (size_t)i * rec + v * 64);
                    _mm_prefetch((const char *)c + (size_t)i * rec + v * 64 + R_AHEAD / nr, _MM_HINT_T0);
                    lo[i] = _mm512_permutexvar_epi8(x, lut);
                    hi[i] = _mm512_permutexvar_epi8(_mm512_srli_epi16(x, 4), lut);
                }
                UNROLL for (int t = 0; t < nt; t++) {
                    const int32_t *p = (const int32_t *)(a + t * 32 + v * 8);
                    __m512i x = _mm512_set1_epi32(p[0]), z = _mm512_set1_epi32(p[1]);
                    UNROLL for (int i = 0; i < nr; i++) acc[t * nr + i] = _mm512_dpbusd_epi32(acc[t * nr + i], lo[i], x);
                    UNROLL for (int i = 0; i < nr; i++) acc[t * nr + i] = _mm512_dpbusd_epi32(acc[t * nr + i], hi[i], z);
                }
            }
            UNROLL for (int i = 0; i < nr; i++) {
                __m128i q = _mm_loadu_si128((const __m128i *)(s + (size_t)i * rec));
                __m512 w = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(q));
                UNROLL for (int t = 0; t < nt; t++)
                    f[t * nr + i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc[t * nr + i]),
                                                    _mm512_mul_ps(w, _mm512_set1_ps(d[t])), f[t * nr + i]);
            }
        }
        UNROLL for (int i = 0; i < nr * nt; i++)
            _mm512_storeu_ps(y + i / nr * ldy + r + i % nr * 16,
                             _mm512_mul_ps(f[i], _mm512_loadu_ps(g + (size_t)(i % nr) * rec)));
    }
}

/* ---- AVX2 ---- */

/* vpmaddubsw cannot saturate (2 * 124 * 127 < 2^15). Two of its results plus the i16 `init` wrap,
 * but end in +-4 * 60 * 127, which fits again. So one vpmaddwd serves two vectors, and as it has to
 * multiply by something anyway, it multiplies by the block's scale instead of by ones. */
FN256 BODY __m256i pair256(__m256i lo, __m256i hi, __m256i x, __m256i z, __m256i init)
{
    return _mm256_add_epi16(_mm256_add_epi16(_mm256_maddubs_epi16(lo, x), init), _mm256_maddubs_epi16(hi, z));
}

/* Keeps gcc from delaying the sums of v until it runs out of its 16 registers (27 spills in r256_1x4). */
#define PIN256(x) __asm__ volatile("" : "+x"(x))

FN256 BODY __m256i lut256(void)
{
    return _mm256_add_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)V4)), _mm256_set1_epi8(64));
}

FN256 BODY __m256i load256(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

FN256 BODY float sum256(__m256 x)
{
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
}

FN256 BODY void s256(int nr, int nt, const uint8_t *m, int rows, int k, int r0, int r1,
                     const uint8_t *act, float *y, int ldy)
{
    const uint8_t *scales = m + (size_t)rows * (size_t)(k / 2);
    const float *rs = (const float *)(scales + (size_t)rows * (size_t)(k / 32));
    const __m256i lut = lut256(), low = _mm256_set1_epi8(15);
    const __m256i spread = _mm256_add_epi32(_mm256_set1_epi32((int)0x80008000u),   /* dword l: byte l / 2, 0, byte l / 2, 0 */
                                            _mm256_set_epi32(0x30003, 0x30003, 0x20002, 0x20002, 0x10001, 0x10001, 0, 0));
    const size_t cb = (size_t)(k / 2), sb = (size_t)(k / 32);
    for (int r = r0; r < r1; r += nr) {
        __m256 f[8];
        UNROLL for (int i = 0; i < nr * nt; i++) f[i] = _mm256_setzero_ps();
        const uint8_t *c = m + (size_t)r * cb, *s = scales + (size_t)r * sb, *a = act;
        for (int b = 0; b < k / 256; b++, c += 128, s += 8, a += S_STEP256(nt)) {
            const float *d = (const float *)(a + nt * 384);
            UNROLL for (int h = 0; h < 2; h++) {
                UNROLL for (int i = 0; i < nr; i++) {
                    int32_t q;
                    memcpy(&q, s + (size_t)i * sb + 4 * h, 4);
                    __m256i w = _mm256_shuffle_epi8(_mm256_set1_epi32(q), spread), acc[8];
                    UNROLL for (int v = 0; v < 2; v++) {
                        __m256i x = load256(c + (size_t)i * cb + v * 64 + h * 32);
                        if (!h) _mm_prefetch((const char *)c + (size_t)i * cb + v * 64 + S_AHEAD, _MM_HINT_T0);
                        __m256i lo = _mm256_shuffle_epi8(lut, _mm256_and_si256(x, low));
                        __m256i hi = _mm256_shuffle_epi8(lut, _mm256_and_si256(_mm256_srli_epi16(x, 4), low));
                        UNROLL for (int t = 0; t < nt; t++) {
                            const uint8_t *p = a + t * 256 + v * 128 + h * 32;
                            __m256i e = pair256(lo, hi, load256(p), load256(p + 64),
                                                load256(a + nt * 256 + t * 128 + v * 64 + h * 32));
                            e = _mm256_madd_epi16(e, w);
                            acc[t] = v ? _mm256_add_epi32(acc[t], e) : e;
                            PIN256(acc[t]);
                        }
                    }
                    UNROLL for (int t = 0; t < nt; t++)
                        f[t * nr + i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[t]), _mm256_set1_ps(d[t]), f[t * nr + i]);
                }
            }
        }
        UNROLL for (int i = 0; i < nr * nt; i++) y[i / nr * ldy + r + i % nr] = sum256(f[i]) * rs[r + i % nr];
    }
}

/* nr counts groups of 8 rows: 1 (one half of a record after the other) or 2 (both halves at once). */
FN256 BODY void r256(int nr, int nt, const uint8_t *m, int rows, int k, int r0, int r1,
                     const uint8_t *act, float *y, int ldy)
{
    (void)rows;
    const __m256i lut = lut256(), low = _mm256_set1_epi8(15);
    const size_t rec = r_record(k);
    for (int r = r0; r < r1; r += 8 * nr) {
        __m256 f[8];
        UNROLL for (int i = 0; i < nr * nt; i++) f[i] = _mm256_setzero_ps();
        const int half = r / 8 % 2;
        const uint8_t *g = m + (size_t)(r / 16) * rec + half * 32;
        const uint8_t *s = g + 64 - half * 24, *c = g + 64 + k / 2, *a = act;
        for (int b = 0; b < k / 32; b++, c += 256, s += 16, a += R_STEP256(nt)) {
            const float *d = (const float *)(a + nt * 32);
            __m256i acc[8];
            __m256i w[2];
            UNROLL for (int i = 0; i < nr; i++) {
                __m256i q = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(s + i * 8)));
                w[i] = _mm256_or_si256(q, _mm256_slli_epi32(q, 16));
            }
            UNROLL for (int v = 0; v < 4; v++) {
                _mm_prefetch((const char *)c + v * 64 + R_AHEAD, _MM_HINT_T0);
                UNROLL for (int i = 0; i < nr; i++) {
                    __m256i x = load256(c + v * 64 + i * 32);
                    __m256i lo = _mm256_shuffle_epi8(lut, _mm256_and_si256(x, low));
                    __m256i hi = _mm256_shuffle_epi8(lut, _mm256_and_si256(_mm256_srli_epi16(x, 4), low));
                    UNROLL for (int t = 0; t < nt; t++) {
                        const int32_t *p = (const int32_t *)(a + t * 32 + v * 8);
                        const int32_t *init = (const int32_t *)(a + nt * 36 + t * 16 + v * 4);
                        __m256i e = pair256(lo, hi, _mm256_set1_epi32(p[0]), _mm256_set1_epi32(p[1]), _mm256_set1_epi32(init[0]));
                        e = _mm256_madd_epi16(e, w[i]);
                        acc[t * nr + i] = v ? _mm256_add_epi32(acc[t * nr + i], e) : e;
                        PIN256(acc[t * nr + i]);
                    }
                }
            }
            UNROLL for (int i = 0; i < nr * nt; i++)
                f[i] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[i]), _mm256_set1_ps(d[i / nr]), f[i]);
        }
        UNROLL for (int i = 0; i < nr * nt; i++)
            _mm256_storeu_ps(y + i / nr * ldy + r + i % nr * 8,
                             _mm256_mul_ps(f[i], _mm256_loadu_ps((const float *)g + i % nr * 8)));
    }
}

/* ---- tiles: rows (S) or row groups (R) x tokens ---- */

#define TILES(X)                                                                                 \
    X(s512, 1, 1) X(s512, 2, 1) X(s512, 4, 1) X(s512, 2, 2) X(s512, 4, 2) X(s512, 1, 4) X(s512, 2, 4) \
    X(s512, 4, 4) X(s512, 1, 8) X(s512, 2, 8)                                                     \
    X(r512, 1, 1) X(r512, 2, 1) X(r512, 4, 1) X(r512, 1, 2) X(r512, 2, 2) X(r512, 4, 2) X(r512, 1, 4) \
    X(r512, 2, 4) X(r512, 4, 4) X(r512, 1, 8) X(r512, 2, 8)                                       \
    X(s256, 1, 1) X(s256, 2, 1) X(s256, 4, 1) X(s256, 1, 2) X(s256, 2, 2) X(s256, 4, 2) X(s256, 1, 4) X(s256, 2, 4) \
    X(r256, 1, 1) X(r256, 2, 1) X(r256, 1, 2) X(r256, 2, 2) X(r256, 1, 4) X(r256, 2, 4)

#define TARGET_s512 FN512
#define TARGET_r512 FN512
#define TARGET_s256 FN256
#define TARGET_r256 FN256
#define DEFINE(body, nr, nt)                                                                      \
    TARGET_##body void body##_##nr##x##nt(const uint8_t *m, int rows, int k, int r0, int r1,      \
                                          const uint8_t *act, float *y, int ldy)                  \
    { body(nr, nt, m, rows, k, r0, r1, act, y, ldy); }
TILES(DEFINE)

typedef struct tile { const char *body, *name; int nt; kernel_fn *fn; } tile;
#define ENTRY(body, nr, nt) { #body, #nr "x" #nt, nt, body##_##nr##x##nt },
static const tile tiles[] = { TILES(ENTRY) };
enum { N_TILES = sizeof tiles / sizeof *tiles };

/* ---- data: random codes, packed both ways; activations quantised both ways ---- */

static uint8_t code[ROWS_MAX][K_MAX], scale[ROWS_MAX][K_MAX / 32];
static float row_scale[ROWS_MAX], x_in[TOKENS_MAX][K_MAX];
static int8_t xq[2][TOKENS_MAX][K_MAX];        /* [S, R] quantised activations in natural order */
static float xd[2][TOKENS_MAX][K_MAX / 32];    /* and the scale of each block of 32 */
static uint8_t act[2][TOKENS_MAX * K_MAX * 2] __attribute__((aligned(64)));
static float y_out[2][TOKENS_MAX * ROWS_MAX] __attribute__((aligned(64)));

static uint32_t rnd(void)
{
    static uint64_t s = 88172645463325252u;
    s ^= s << 13; s ^= s >> 7; s ^= s << 17;
    return (uint32_t)(s >> 32);
}

static void make_data(void)
{
    for (int r = 0; r < ROWS_MAX; r++) {
        row_scale[r] = 1e-4f * (1.0f + (float)(rnd() % 1000) / 1000);
        for (int i = 0; i < K_MAX; i++) code[r][i] = rnd() & 15;
        for (int i = 0; i < K_MAX / 32; i++) scale[r][i] = (uint8_t)rnd();
    }
    for (int t = 0; t < TOKENS_MAX; t++)
        for (int i = 0; i < K_MAX; i++) x_in[t][i] = (float)((int)(rnd() % 20001) - 10000) / 5000;
    for (int t = 0; t < TOKENS_MAX; t++)   /* the ends of the range, where i16 sums would overflow */
        for (int i = 0; i < 64; i++) x_in[t][i] = (i ^ t) & 32 ? 3.0f : -3.0f;
    for (int l = 0; l < 2; l++)
        for (int t = 0; t < TOKENS_MAX; t++)
            for (int i = 0; i < K_MAX; i += l ? 32 : 256) {
                float top = 0;
                for (int j = i; j < i + (l ? 32 : 256); j++) top = fmaxf(top, fabsf(x_in[t][j]));
                for (int j = i; j < i + (l ? 32 : 256); j++) {
                    xd[l][t][j / 32] = top / 127;
                    xq[l][t][j] = (int8_t)lrintf(x_in[t][j] * 127 / top);
                }
            }
}

/* In S, byte 8i + j of vector q of a superblock is column 32i + 8q + j. */
static void pack_s(uint8_t *m, int rows, int k)
{
    uint8_t *s = m + (size_t)rows * (size_t)(k / 2);
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < k / 256; b++)
            for (int v = 0; v < 2; v++)
                for (int n = 0; n < 64; n++) {
                    const uint8_t *c = code[r] + b * 256 + n / 8 * 32 + v * 16 + n % 8;
                    *m++ = (uint8_t)(c[0] | c[8] << 4);
                }
    for (int r = 0; r < rows; r++, s += k / 32) memcpy(s, scale[r], (size_t)(k / 32));
    memcpy(s, row_scale, (size_t)rows * 4);
}

static void pack_r(uint8_t *m, int rows, int k)
{
    for (int r = 0; r < rows; r += 16) {
        memcpy(m, row_scale + r, 64);
        m += 64;
        for (int b = 0; b < k / 32; b++)
            for (int i = 0; i < 16; i++) *m++ = scale[r + i][b];
        for (int i = 0; i < k * 8; i++) {   /* i = [k/8][16 rows][4] */
            const uint8_t *c = code[r + i / 4 % 16] + i / 64 * 8 + i % 4;
            *m++ = (uint8_t)(c[0] | c[4] << 4);
        }
    }
}

static void pack_act_s(uint8_t *p, int nt, int t0, int k, bool avx2)
{
    for (int b = 0; b < k / 256; b++, p += avx2 ? S_STEP256(nt) : S_STEP512(nt))
        for (int t = 0; t < nt; t++) {
            int8_t *a = (int8_t *)p + t * 256;
            for (int n = 0; n < 256; n++) a[n] = xq[0][t0 + t][b * 256 + n / 8 % 8 * 32 + n / 64 * 8 + n % 8];
            int32_t *i32 = (int32_t *)(p + nt * 256) + t * 16;
            int16_t *i16 = (int16_t *)(p + nt * 256) + t * 64;
            for (int l = 0; l < 16 && !avx2; l++) {
                i32[l] = 0;
                for (int n = 0; n < 16; n++) i32[l] -= 64 * a[n / 4 * 64 + l * 4 + n % 4];
            }
            for (int l = 0; l < 64 && avx2; l++) {
                const int8_t *q = a + l / 32 * 128 + l % 32 * 2;
                i16[l] = (int16_t)(-64 * (q[0] + q[1] + q[64] + q[65]));
            }
            ((float *)(p + nt * (avx2 ? 384 : 320)))[t] = xd[0][t0 + t][b * 8];
        }
}

static void pack_act_r(uint8_t *p, int nt, int t0, int k, bool avx2)
{
    for (int b = 0; b < k / 32; b++, p += avx2 ? R_STEP256(nt) : R_STEP512(nt))
        for (int t = 0; t < nt; t++) {
            const int8_t *a = memcpy(p + t * 32, xq[1][t0 + t] + b * 32, 32);
            ((float *)(p + nt * 32))[t] = xd[1][t0 + t][b];
            int32_t sum = 0;
            for (int i = 0; i < 32; i++) sum -= 64 * a[i];
            if (!avx2) ((int32_t *)(p + nt * 36))[t] = sum;
            int16_t *i16 = (int16_t *)(p + nt * 36) + t * 8;
            for (int i = 0; i < 8 && avx2; i++) {
                const int8_t *q = a + i / 2 * 8 + i % 2 * 2;
                i16[i] = (int16_t)(-64 * (q[0] + q[1] + q[4] + q[5]));
            }
        }
}

static bool is_r(const tile *e) { return e->body[0] == 'r'; }
static bool is_avx2(const tile *e) { return e->body[1] == '2'; }
static size_t act_step(const tile *e, int k)   /* bytes of one token tile */
{
    if (is_r(e)) return (size_t)(k / 32) * (size_t)(is_avx2(e) ? R_STEP256(e->nt) : R_STEP512(e->nt));
    return (size_t)(k / 256) * (size_t)(is_avx2(e) ? S_STEP256(e->nt) : S_STEP512(e->nt));
}

static void pack_act(const tile *e, int tokens, int k)
{
    for (int t = 0; t < tokens; t += e->nt)
        (is_r(e) ? pack_act_r : pack_act_s)(act[is_r(e)] + act_step(e, k) * (size_t)(t / e->nt), e->nt, t, k, is_avx2(e));
}

/* Token tiles inside row panels, so that a panel of weights comes from memory once. */
static void matmul(const tile *e, const uint8_t *m, int rows, int k, int r0, int r1, int tokens)
{
    for (int r = r0; r < r1; r += 64)
        for (int t = 0; t < tokens; t += e->nt)
            e->fn(m, rows, k, r, r + 64 < r1 ? r + 64 : r1, act[is_r(e)] + act_step(e, k) * (size_t)(t / e->nt),
                  y_out[is_r(e)] + (size_t)t * (size_t)rows, rows);
}

static bool check(const tile *e, int rows, int k)
{
    uint8_t *m = aligned_alloc(64, (mat_bytes(rows, k) + 63) / 64 * 64);
    double worst = 0;
    (is_r(e) ? pack_r : pack_s)(m, rows, k);
    pack_act(e, TOKENS_MAX, k);
    matmul(e, m, rows, k, 0, rows, TOKENS_MAX);
    for (int r = 0; r < rows; r++)
        for (int t = 0; t < TOKENS_MAX; t++) {
            double sum = 0, size = 0;
            for (int i = 0; i < k; i++) {
                double p = (double)V4[code[r][i]] * scale[r][i / 32] * xq[is_r(e)][t][i] * (double)xd[is_r(e)][t][i / 32];
                sum += p;
                size += fabs(p);
            }
            worst = fmax(worst, fabs(sum * (double)row_scale[r] - (double)y_out[is_r(e)][t * rows + r]) / (size * (double)row_scale[r]));
        }
    free(m);
    if (!(worst < 1e-6)) printf("WRONG %s %s: %g\n", e->body, e->name, worst);
    return worst < 1e-6;
}

/* ---- timing ---- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

FN256 void read_all(const uint8_t *p, size_t n)   /* the yardstick: loads and ors, nothing else */
{
    __m256i s[8] = { 0 };
    for (size_t i = 0; i + 256 <= n; i += 256) {
        _mm_prefetch((const char *)p + i + READ_AHEAD, _MM_HINT_T0);
        _mm_prefetch((const char *)p + i + READ_AHEAD + 64, _MM_HINT_T0);
        _mm_prefetch((const char *)p + i + READ_AHEAD + 128, _MM_HINT_T0);
        _mm_prefetch((const char *)p + i + READ_AHEAD + 192, _MM_HINT_T0);
        UNROLL for (int j = 0; j < 8; j++) s[j] = _mm256_or_si256(s[j], load256(p + i + (size_t)j * 32));
    }
    UNROLL for (int j = 0; j < 8; j++) __asm__ volatile("" : : "x"(s[j]));
}

FN512 double vnni_peak(void)   /* multiply-adds/s of vpdpbusd on registers */
{
    __m512i s[12], x = _mm512_set1_epi8(1);
    double best = 1e9;
    for (int round = 0; round < 5; round++) {
        double t = now();
        UNROLL for (int j = 0; j < 12; j++) s[j] = x;
        for (int i = 0; i < 1000000; i++) {
            UNROLL for (int j = 0; j < 12; j++) __asm__ volatile("vpdpbusd %1, %1, %0" : "+v"(s[j]) : "v"(x));
        }
        t = now() - t;
        if (t < best) best = t;
    }
    return 12e6 * 64 / best;
}

typedef struct job {
    const tile *e;   /* NULL: the read loop */
    const uint8_t *base;
    size_t stride;
    int n_mats, first, count, rows, k, tokens, i_thread, n_threads;
} job;

static void *job_run(void *arg)
{
    const job *j = arg;
    int step = j->rows / j->n_threads, r0 = step * j->i_thread;
    for (int i = 0; i < j->count; i++) {
        const uint8_t *m = j->base + j->stride * (size_t)((j->first + i) % j->n_mats);
        size_t part = j->stride / (size_t)j->n_threads;
        if (j->e) matmul(j->e, m, j->rows, j->k, r0, r0 + step, j->tokens);
        else read_all(m + part * (size_t)j->i_thread, part);
    }
    return NULL;
}

static double job_seconds(job j, int n_threads)
{
    pthread_t id;
    job other = j;
    double t = now();
    j.n_threads = other.n_threads = n_threads;
    other.i_thread = 1;
    if (n_threads > 1) pthread_create(&id, NULL, job_run, &other);
    job_run(&j);
    if (n_threads > 1) pthread_join(id, NULL);
    return now() - t;
}

static int cmp(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double median(double *v, int n) { qsort(v, (size_t)n, sizeof *v, cmp); return v[n / 2]; }

typedef struct place { const uint8_t *buf[2]; size_t stride; int n_mats, rows, k; bool stream; } place;

/* Best tile of one layout: shortest of three short runs each. */
static const tile *pick(const char *body, job j, int n_threads)
{
    const tile *best = NULL;
    double best_t = 1e9;
    for (int i = 0; i < N_TILES; i++) {
        if (strcmp(tiles[i].body, body) || j.tokens % tiles[i].nt || (j.tokens > 1 && tiles[i].nt == 1)) continue;
        j.e = &tiles[i];
        pack_act(j.e, j.tokens, j.k);
        double t = 1e9;
        for (int n = 0; n < 4; n++, j.first += j.count) t = fmin(t, job_seconds(j, n_threads));
        if (getenv("LAYOUTS_TILES")) printf("    %s %s %d tokens: %.3g s\n", body, tiles[i].name, j.tokens, t);
        if (t < best_t) { best_t = t; best = j.e; }
    }
    return best;
}

static void line(const place *p, const char *isa, int tokens, int n_threads, int rounds, double peak)
{
    double s[ROUNDS_MAX], r[ROUNDS_MAX], read[ROUNDS_MAX], ratio[ROUNDS_MAX];
    double work = (double)p->rows * p->k * tokens, full = work / 1.5e11;   /* seconds of one matrix, roughly */
    int count = p->stream ? (tokens == 1 ? p->n_mats : 8) : 1 + (int)(4e-3 / full);
    job js = { .base = p->buf[0], .stride = p->stride, .n_mats = p->n_mats, .count = count, .rows = p->rows, .k = p->k, .tokens = tokens };
    job jr = js, jread = js;
    jr.base = p->buf[1];
    js.count = jr.count = p->stream ? (tokens == 1 ? 32 : 8) : count;
    js.e = pick(isa[3] == '5' ? "s512" : "s256", js, n_threads);
    jr.e = pick(isa[3] == '5' ? "r512" : "r256", jr, n_threads);
    js.count = jr.count = count;
    pack_act(js.e, tokens, p->k);
    pack_act(jr.e, tokens, p->k);
    for (int i = 0; i < rounds; i++) {
        js.first = jr.first = jread.first = i * count;
        s[i] = job_seconds(js, n_threads);
        r[i] = job_seconds(jr, n_threads);
        read[i] = job_seconds(jread, n_threads);
        ratio[i] = s[i] / r[i];
    }
    double unit = tokens == 1 ? (double)p->stride : work;
    double vs = unit * count / median(s, rounds), vr = unit * count / median(r, rounds);
    double top = tokens == 1 ? (double)p->stride * count / median(read, rounds) : peak * n_threads;
    printf("%-7s %4dx%4d %-6s %3d %3d  %6s %7.1f %4.0f%%  %6s %7.1f %4.0f%%  %6.2f  %7.1f\n", isa, p->rows, p->k,
           p->stream ? "stream" : "cache", n_threads, tokens, js.e->name, vs * 1e-9, 100 * vs / top,
           jr.e->name, vr * 1e-9, 100 * vr / top, median(ratio, rounds), top * 1e-9);
    fflush(stdout);
}

static uint8_t *big_alloc(size_t n)
{
    uint8_t *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) { perror("mmap"); exit(1); }
    madvise(p, n, MADV_HUGEPAGE);
    return p;
}

int main(int argc, char **argv)
{
    static const int shapes[2][2] = { { 3072, 2560 }, { 2560, 1536 } }, tokens[] = { 2, 4, 8, 32 };
    int rounds = argc > 1 ? atoi(argv[1]) : 7;
    if (rounds < 1 || rounds > ROUNDS_MAX) return 1;
    if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512vbmi")) { puts("needs AVX-512 VNNI and VBMI"); return 1; }
    make_data();
    for (int i = 0; i < N_TILES; i++)
        if (!check(&tiles[i], 64, 2560) || !check(&tiles[i], 128, 1536)) return 1;
    printf("%d kernels agree with the scalar reference\n", N_TILES);
    printf("1 token: GB/s, %% and top of a read loop; more tokens: G multiply-adds/s, %% and top of the vpdpbusd peak\n");
    printf("isa     shape     from   thr tok  S tile       S       R tile       R            R/S      top\n");
    uint8_t *buf[2] = { big_alloc(STREAM_BYTES + (1 << 24)), big_alloc(STREAM_BYTES + (1 << 24)) };
    double peak = vnni_peak();
    for (int sh = 0; sh < 2; sh++) {
        int rows = shapes[sh][0], k = shapes[sh][1];
        place big = { { buf[0], buf[1] }, mat_bytes(rows, k), 0, rows, k, true };
        place small = { { buf[0], buf[1] }, mat_bytes(CACHE_ROWS, k), 1, CACHE_ROWS, k, false };
        pack_s(buf[0], CACHE_ROWS, k);
        pack_r(buf[1], CACHE_ROWS, k);
        for (int isa = 0; isa < 2; isa++)
            for (int i = -1; i < 4; i++) line(&small, isa ? "avx2" : "avx512", i < 0 ? 1 : tokens[i], 1, rounds, peak);
        pack_s(buf[0], rows, k);
        pack_r(buf[1], rows, k);
        big.n_mats = (int)(STREAM_BYTES / big.stride) + 1;
        for (int l = 0; l < 2; l++)
            for (int i = 1; i < big.n_mats; i++) memcpy(buf[l] + big.stride * (size_t)i, buf[l], big.stride);
        for (int isa = 0; isa < 2; isa++) {
            for (int n = 1; n <= 2; n++) line(&big, isa ? "avx2" : "avx512", 1, n, rounds, peak);
            for (int i = 0; i < 4; i++) line(&big, isa ? "avx2" : "avx512", tokens[i], 1, rounds, peak);
        }
    }
    return 0;
}
