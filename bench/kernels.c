/* bench/kernels.c - what do the CPU kernels reach, on one thread, on the shapes of the 21B model?
 *
 * For each instruction set and weight type: GB/s of weights at one token, from the cache and streamed
 * from memory, and billions of multiply-adds a second at 8, 32 and 128 tokens, streamed. Then
 * attention over f16 and f32 keys, and GB/s of a plain read loop to compare with. Printed is the best of a few
 * rounds: this is for seeing regressions, so the least disturbed round is the one that tells.
 *
 *   kernels [SET [TYPE]]        all sets and types without arguments
 */
#include <time.h>

#include "../backends/cpu/kernels.h"

enum { TOKENS_MAX = 128, ROUNDS = 25, CACHE_ROWS = 128 };
#define STREAM_BYTES ((uint64_t)512 << 20)
#define ROUND_SECONDS 0.003 /* less than a time slice, so that some rounds run undisturbed */

typedef struct bench {
    unsigned char *weights; /* [STREAM_BYTES], random */
    float *x;               /* [TOKENS_MAX][x_stride] */
    int8_t *q;
    float *q_scale;
    int32_t *q_sum;
    float *y; /* [TOKENS_MAX][y_stride] */
} bench;

enum { COLS_MAX = 2560, S_STRIDE = 80, Y_STRIDE = 3072 };

typedef struct work {
    const ern_kernels *kernels;
    const bench *b;
    ern_matrix matrix;
    uint64_t span; /* bytes that are cycled through */
    size_t n_tokens, n_pos;
    uint64_t next;
    ern_kv kv;
} work;

static volatile float bench_sink;

static double bench_now(void)
{
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *bench_alloc(uint64_t n)
{
    void *p = ern_alloc_aligned(ern_allocator_default(), n);
    if (!p) {
        fprintf(stderr, "kernels: no %llu bytes\n", (unsigned long long)n);
        exit(1);
    }
    return p;
}

static uint32_t bench_random(void)
{
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32);
}

/* Bits of every type at once: as f32 and bf16 and f16 they are small numbers, as codes anything. */
static void bench_open(bench *b)
{
    b->weights = bench_alloc(STREAM_BYTES);
    for (uint64_t i = 0; i < STREAM_BYTES; i += 4) {
        const uint32_t word = (bench_random() & 0x03ff03ffu) | 0x30003000u;
        memcpy(b->weights + i, &word, sizeof word);
    }
    b->x = bench_alloc(sizeof(float) * TOKENS_MAX * COLS_MAX);
    b->q = bench_alloc(TOKENS_MAX * COLS_MAX);
    b->q_scale = bench_alloc(sizeof(float) * TOKENS_MAX * S_STRIDE);
    b->q_sum = bench_alloc(sizeof(int32_t) * TOKENS_MAX * S_STRIDE);
    b->y = bench_alloc(sizeof(float) * TOKENS_MAX * Y_STRIDE);
    for (size_t i = 0; i < TOKENS_MAX * COLS_MAX; i++)
        b->x[i] = (float)((int)(bench_random() % 2001) - 1000) / 500;
    for (size_t t = 0; t < TOKENS_MAX; t++)
        ern_kernels_at(0)->quantize(b->x + t * COLS_MAX, COLS_MAX, b->q + t * COLS_MAX,
                                    b->q_scale + t * S_STRIDE, b->q_sum + t * S_STRIDE);
}

/* ---- One call of each kind of work ----------------------------------------------------------- */

static void run_matmul(work *w)
{
    const bench *b = w->b;
    const ern_act a = { b->x, COLS_MAX, b->q, COLS_MAX, b->q_scale, b->q_sum, S_STRIDE, w->n_tokens };
    const uint64_t n_bytes = ern_matrix_bytes(w->matrix.type, w->matrix.n_rows, w->matrix.n_cols);
    if (w->next + n_bytes > w->span) w->next = 0;
    w->matrix.data = b->weights + w->next;
    w->next += n_bytes;
    w->kernels->matmul[w->matrix.type](&w->matrix, 0, ern_n_groups(w->matrix.n_rows), &a, b->y, Y_STRIDE);
    bench_sink = b->y[0];
}

static void run_read(work *w)
{
    const uint64_t *p = (const uint64_t *)(const void *)(w->b->weights + w->next);
    uint64_t s[8] = { 0 };
    for (size_t i = 0; i < (16u << 20) / 8; i += 8)
        for (size_t j = 0; j < 8; j++) s[j] |= p[i + j];
    w->next = (w->next + (16u << 20)) % w->span;
    bench_sink = (float)(s[0] | s[1] | s[2] | s[3] | s[4] | s[5] | s[6] | s[7]);
}

static void run_scores(work *w)
{
    const ern_act q = { w->b->x, 128, w->b->q, 128, w->b->q_scale, w->b->q_sum, 16, w->n_tokens };
    w->kernels->attn_scores[w->kv](&q, w->b->weights, w->n_pos, 128, 0.1f, w->b->y, 1024);
}

static void run_values(work *w)
{
    w->kernels->attn_values[w->kv](w->b->x, w->n_tokens, 1024, w->b->weights, w->n_pos, 128, w->b->y, 128);
}

static void run_exp(work *w) { bench_sink = w->kernels->exp_sum(w->b->y, 1024, 40.0f); }
static void run_swiglu(work *w) { w->kernels->swiglu(w->b->x, 1024 / 16, w->b->y); }

static void run_quantize(work *w)
{
    w->kernels->quantize(w->b->x, COLS_MAX, w->b->q, w->b->q_scale, w->b->q_sum);
}

/* Seconds of one call, the best round's mean. */
static double seconds(void (*fn)(work *), work w)
{
    double best = 1e9;
    for (int round = 0; round < ROUNDS; round++) {
        const double start = bench_now();
        double t;
        int n = 0;
        do {
            fn(&w);
            n++;
        } while ((t = bench_now() - start) < ROUND_SECONDS);
        best = t / n < best ? t / n : best;
    }
    return best;
}

/* ---- Lines ----------------------------------------------------------------------------------- */

static void line_matmul(const ern_kernels *k, const bench *b, unsigned type, uint32_t n_rows,
                        uint32_t n_cols)
{
    static const size_t tokens[] = { 2, 4, 8, 32, 128 };
    const double n_bytes = (double)ern_matrix_bytes(type, n_rows, n_cols);
    const uint64_t small = ern_matrix_bytes(type, CACHE_ROWS, n_cols);
    const work cached = { k, b, { NULL, type, CACHE_ROWS, n_cols }, small, 1, 0, 0, ERN_KV_F16 };
    work w = { k, b, { NULL, type, n_rows, n_cols }, STREAM_BYTES, 1, 0, 0, ERN_KV_F16 };
    printf("%-8s %-5s %4u x %4u  %6.1f  %6.1f ", k->name, ern_type_name(type), n_rows, n_cols,
           1e-9 * (double)small / seconds(run_matmul, cached), 1e-9 * n_bytes / seconds(run_matmul, w));
    for (size_t i = 0; i < ERN_COUNT(tokens); i++) {
        w.n_tokens = tokens[i];
        printf(" %7.1f", 1e-9 * n_rows * n_cols * (double)w.n_tokens / seconds(run_matmul, w));
    }
    printf("\n");
    fflush(stdout);
}

static void line_vectors(const ern_kernels *k, const bench *b)
{
    static const size_t queries[] = { 1, 5, 8, 40 };
    static const char *const names[ERN_N_KV] = { "f16", "f32", "q8", "q4" };
    for (size_t i = 0; i < ERN_COUNT(queries); i++) {
        work w = { k, b, { NULL, 0, 0, 0 }, 0, queries[i], 1024, 0, ERN_KV_F16 };
        const double macs = 1e-9 * 1024 * 128 * (double)w.n_tokens;
        printf("%-8s attention, %2zu queries x 1024 keys x 128, G multiply-adds/s of scores, values:", k->name,
               w.n_tokens);
        for (; w.kv < ERN_N_KV; w.kv++)
            printf("  %s %.1f, %.1f", names[w.kv], macs / seconds(run_scores, w), macs / seconds(run_values, w));
        printf("\n");
    }
    const work w = { k, b, { NULL, 0, 0, 0 }, 0, 1, 0, 0, ERN_KV_F16 };
    printf("%-8s exp_sum %.2f, swiglu %.2f, quantize %.2f G numbers/s\n", k->name,
           1e-9 * 1024 / seconds(run_exp, w), 1e-9 * 1024 / seconds(run_swiglu, w),
           1e-9 * COLS_MAX / seconds(run_quantize, w));
}

int main(int argc, char **argv)
{
    bench b;
    const ern_kernels *k;
    bench_open(&b);
    const work read = { NULL, &b, { NULL, 0, 0, 0 }, STREAM_BYTES, 0, 0, 0, ERN_KV_F16 };
    printf("a plain read loop: %.1f GB/s\n", 1e-9 * (16u << 20) / seconds(run_read, read));
    printf("                            1 token GB/s    G multiply-adds/s at tokens\n");
    printf("set      type  matrix         cache  stream       2       4       8      32     128\n");
    for (size_t i = 0; (k = ern_kernels_at(i)) != NULL; i++) {
        if (argc > 1 && strcmp(argv[1], k->name) != 0) continue;
        for (unsigned type = ERN_N_TYPES; type-- > 0;) {
            if (argc > 2 && strcmp(argv[2], ern_type_name(type)) != 0) continue;
            line_matmul(k, &b, type, 3072, 2560);
            line_matmul(k, &b, type, 2560, 1536);
        }
        if (argc <= 2) line_vectors(k, &b);
    }
    return 0;
}
