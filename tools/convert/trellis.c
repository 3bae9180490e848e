/* Viterbi's algorithm over the code of c2, c3 and c4 (src/format.h says what a code means).
 *
 * Column 8 i + j is read through window w of 7 bits at bit 8 j + 2 i, so in the order t = 4 j + i
 * each step moves the window by two bits: 32 states of 5 bits, four ways on. Step t goes from
 * state w & 31 to state w >> 2. Written from the end, state S is reached through the windows
 * 4 S + c, c = 0 .. 3, from the states (4 S + c) & 31; their levels' index is
 * (4 (S & 3) + c) ^ (S >> 3). So the 8 states with the same S & 3 share 4 levels, and two fours of
 * states to come from:
 *
 *     next[k + 8 h]     = min over c of last[4 k + c]      + cost[4 k + (c ^ h)]
 *     next[k + 4 + 8 h] = min over c of last[4 k + 16 + c] + cost[4 k + (c ^ h)]     k, h = 0 .. 3
 *
 * The bits close to a circle. A first run begins at step 16 with all states free and goes round
 * once; the state in which its best path passes step 0 becomes the start and the end of a second
 * run.
 *
 * Costs are integers, so every instruction set finds the same path. Their low bits carry what
 * must not be lost on the way, which the minimum then selects by itself: in the first run the
 * state at step 0, in the last the way c that was taken. Sixteen rows are searched side by side. */
#include "trellis.h"

#include <math.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define TRELLIS_X86 1
#else
#define TRELLIS_X86 0
#endif

enum {
    TRELLIS_STATES = 32,
    TRELLIS_STEPS = CONV_TRELLIS_COLS,
    TRELLIS_ROWS = CONV_TRELLIS_ROWS,
    TRELLIS_LOW_BITS = 5,
    TRELLIS_CLOSED = 1 << 30 /* the cost of a state that is not allowed */
};

/* 32 steps of at most (TRELLIS_FAR + 63)^2 stay below TRELLIS_CLOSED when their weights' sum is
 * TRELLIS_UNIT: where one column weighs most, the others keep their fraction bits. A target further
 * away than TRELLIS_FAR levels takes the outermost level in any case. */
#define TRELLIS_FAR  200.0f
#define TRELLIS_UNIT 480.0f

typedef int32_t trellis_lanes[TRELLIS_ROWS];

typedef struct trellis_memory {
    trellis_lanes cost[TRELLIS_STEPS][16]; /* of each level's index, by step */
    trellis_lanes state[2][TRELLIS_STATES];
    uint8_t way[TRELLIS_STEPS][TRELLIS_STATES][TRELLIS_ROWS];
    int32_t start[TRELLIS_ROWS]; /* the state at step 0 */
    float inverse[TRELLIS_ROWS];
    conv_trellis_block trial;
} trellis_memory;

static ERN_INLINE unsigned trellis_column(unsigned step) { return 8 * (step % 4) + step / 4; }

static ERN_INLINE unsigned trellis_n_choices(unsigned type)
{
    return type == ERN_C2 ? 1 : type == ERN_C3 ? 2 : 4;
}

static ERN_INLINE const int8_t *trellis_levels(unsigned type)
{
    return type == ERN_C2 ? ern_c2_level : type == ERN_C3 ? ern_c3_level : ern_c4_level;
}

/* cost[step][index]: the weighted squared distance from the target to the nearest level of that
 * index. m->inverse: one over a level's worth; `unit`: what a weight of 1 counts. */
static ERN_INLINE void trellis_costs(unsigned type, trellis_memory *m, const conv_trellis_block *b,
                                     float unit)
{
    const unsigned n_choices = trellis_n_choices(type);
    const int8_t *level = trellis_levels(type);
    for (unsigned step = 0; step < TRELLIS_STEPS; step++) {
        const unsigned column = trellis_column(step);
        const float weight = b->weight[column] * unit;
        float x[TRELLIS_ROWS];
        for (unsigned r = 0; r < TRELLIS_ROWS; r++) {
            const float y = b->target[column][r] * m->inverse[r];
            const float z = y < TRELLIS_FAR ? y : TRELLIS_FAR;
            x[r] = z > -TRELLIS_FAR ? z : -TRELLIS_FAR;
        }
        for (unsigned i = 0; i < 16; i++) {
            float best[TRELLIS_ROWS];
            for (unsigned r = 0; r < TRELLIS_ROWS; r++) {
                const float d = x[r] - (float)level[i];
                best[r] = d * d;
            }
            for (unsigned u = 1; u < n_choices; u++)
                for (unsigned r = 0; r < TRELLIS_ROWS; r++) {
                    const float d = x[r] - (float)level[i + 16 * u], square = d * d;
                    best[r] = square < best[r] ? square : best[r];
                }
            for (unsigned r = 0; r < TRELLIS_ROWS; r++)
                m->cost[step][i][r] = (int32_t)(weight * best[r]) << TRELLIS_LOW_BITS;
        }
    }
}

static ERN_INLINE int32_t trellis_min(int32_t a, int32_t b) { return a < b ? a : b; }

#define TRELLIS_NEXT(p, h)                                                               \
    trellis_min(trellis_min(p##0 + m[(h)], p##1 + m[1 ^ (h)]),                           \
                trellis_min(p##2 + m[2 ^ (h)], p##3 + m[3 ^ (h)]))

/* One step. With `traced` the low bits of the states are replaced by the way that leads on. */
static ERN_INLINE void trellis_step(bool traced, trellis_lanes *restrict next,
                                    trellis_lanes *restrict last,
                                    trellis_lanes *restrict cost)
{
    const int32_t keep = traced ? ~3 : ~0;
    const int32_t way = traced;
    for (unsigned k = 0; k < 4; k++) {
        for (unsigned r = 0; r < TRELLIS_ROWS; r++) {
            const int32_t m[4] = { cost[4 * k][r], cost[4 * k + 1][r], cost[4 * k + 2][r],
                                   cost[4 * k + 3][r] };
            const int32_t p0 = last[4 * k][r] & keep;
            const int32_t p1 = (last[4 * k + 1][r] & keep) + 1 * way;
            const int32_t p2 = (last[4 * k + 2][r] & keep) + 2 * way;
            const int32_t p3 = (last[4 * k + 3][r] & keep) + 3 * way;
            const int32_t q0 = last[4 * k + 16][r] & keep;
            const int32_t q1 = (last[4 * k + 17][r] & keep) + 1 * way;
            const int32_t q2 = (last[4 * k + 18][r] & keep) + 2 * way;
            const int32_t q3 = (last[4 * k + 19][r] & keep) + 3 * way;
            next[k][r] = TRELLIS_NEXT(p, 0);
            next[k + 8][r] = TRELLIS_NEXT(p, 1);
            next[k + 16][r] = TRELLIS_NEXT(p, 2);
            next[k + 24][r] = TRELLIS_NEXT(p, 3);
            next[k + 4][r] = TRELLIS_NEXT(q, 0);
            next[k + 12][r] = TRELLIS_NEXT(q, 1);
            next[k + 20][r] = TRELLIS_NEXT(q, 2);
            next[k + 28][r] = TRELLIS_NEXT(q, 3);
        }
    }
}

#undef TRELLIS_NEXT

/* Step 16 .. 31, then 0 .. 15 from free states; start[] is where the best path passes step 0. */
static ERN_INLINE void trellis_find_start(trellis_memory *m)
{
    memset(m->state[0], 0, sizeof m->state[0]);
    for (unsigned i = 0; i < TRELLIS_STEPS; i++) {
        if (i == TRELLIS_STEPS / 2)
            for (int32_t s = 0; s < TRELLIS_STATES; s++)
                for (unsigned r = 0; r < TRELLIS_ROWS; r++)
                    m->state[0][s][r] = (m->state[0][s][r] & ~(TRELLIS_STATES - 1)) | s;
        trellis_step(false, m->state[(i + 1) % 2], m->state[i % 2],
                     m->cost[(i + TRELLIS_STEPS / 2) % TRELLIS_STEPS]);
    }
    int32_t best[TRELLIS_ROWS];
    for (unsigned r = 0; r < TRELLIS_ROWS; r++) best[r] = m->state[0][0][r];
    for (unsigned s = 1; s < TRELLIS_STATES; s++)
        for (unsigned r = 0; r < TRELLIS_ROWS; r++)
            best[r] = trellis_min(best[r], m->state[0][s][r]);
    for (unsigned r = 0; r < TRELLIS_ROWS; r++) m->start[r] = best[r] & (TRELLIS_STATES - 1);
}

/* Round once from start[] to start[]; total[] is the cost, without its low bits. */
static ERN_INLINE void trellis_close(bool traced, trellis_memory *m, int32_t *total)
{
    for (int32_t s = 0; s < TRELLIS_STATES; s++)
        for (unsigned r = 0; r < TRELLIS_ROWS; r++)
            m->state[0][s][r] = s == m->start[r] ? 0 : TRELLIS_CLOSED;
    for (unsigned i = 0; i < TRELLIS_STEPS; i++) {
        trellis_lanes *next = m->state[(i + 1) % 2];
        trellis_step(traced, next, m->state[i % 2], m->cost[i]);
        if (!traced) continue;
        for (unsigned s = 0; s < TRELLIS_STATES; s++)
            for (unsigned r = 0; r < TRELLIS_ROWS; r++) m->way[i][s][r] = (uint8_t)(next[s][r] & 3);
    }
    for (unsigned r = 0; r < TRELLIS_ROWS; r++)
        total[r] = m->state[0][m->start[r]][r] >> TRELLIS_LOW_BITS;
}

/* From the ways back to codes, planes, values and the error in plain floats. */
static ERN_INLINE void trellis_collect(unsigned type, trellis_memory *m, conv_trellis_block *b)
{
    const unsigned n_choices = trellis_n_choices(type);
    const int8_t *level = trellis_levels(type);
    unsigned state[TRELLIS_ROWS];
    uint64_t code[TRELLIS_ROWS];
    memset(b->word, 0, sizeof b->word);
    for (unsigned r = 0; r < TRELLIS_ROWS; r++) {
        state[r] = (unsigned)m->start[r];
        code[r] = 0;
        b->error[r] = 0;
    }
    for (unsigned step = TRELLIS_STEPS; step-- > 0;) {
        const unsigned c = trellis_column(step), v = c / 4, j = c % 4;
        for (unsigned r = 0; r < TRELLIS_ROWS; r++) {
            const unsigned w = 4 * state[r] + m->way[step][state[r]][r];
            const unsigned index = (w ^ w >> 5) & 15;
            const float worth = b->row_scale[r] * (float)(b->q[r] + 4u), x = b->target[c][r];
            unsigned choice = 0;
            float value = worth * (float)level[index], best = fabsf(x - value);
            for (unsigned u = 1; u < n_choices; u++) {
                const float other = worth * (float)level[index + 16 * u];
                const float distance = fabsf(x - other);
                if (distance >= best) continue;
                best = distance;
                value = other;
                choice = u;
            }
            if (type == ERN_C3) b->word[2][r] |= choice << (8 * j + v);
            if (type == ERN_C4) b->word[2 + v / 4][r] |= choice << (8 * j + 2 * (v % 4));
            b->value[c][r] = value;
            b->error[r] += b->weight[c] * (best * best);
            code[r] |= (uint64_t)(w & 3) << (2 * step);
            state[r] = w & (TRELLIS_STATES - 1);
        }
    }
    for (unsigned r = 0; r < TRELLIS_ROWS; r++) {
        b->word[0][r] = (uint32_t)code[r];
        b->word[1][r] = (uint32_t)(code[r] >> 32);
    }
}

static ERN_INLINE void trellis_set_scale(trellis_memory *m, const conv_trellis_block *b,
                                         const uint8_t *q)
{
    for (unsigned r = 0; r < TRELLIS_ROWS; r++)
        m->inverse[r] = 1.0f / (b->row_scale[r] * (float)(q[r] + 4u));
}

static ERN_INLINE float trellis_unit(const conv_trellis_block *b)
{
    float sum = 0;
    for (unsigned c = 0; c < TRELLIS_STEPS; c++) sum += b->weight[c];
    return TRELLIS_UNIT / sum;
}

static float trellis_root_mean_square(unsigned type)
{
    return type == ERN_C2 ? 1 / 0.03549f : type == ERN_C3 ? 1 / 0.04428f : 1 / 0.05198f;
}

ERN_FN float conv_trellis_row_scale(unsigned type, float rms)
{
    return rms / (12 * trellis_root_mean_square(type));
}

/* The scale, as q, at which a block has the levels' root mean square; not yet within 0 .. 15.
 * Columns that weigh nothing do not count. */
static ERN_INLINE void trellis_middle(unsigned type, const conv_trellis_block *b, float *middle)
{
    float sum[TRELLIS_ROWS] = { 0 }, inverse[TRELLIS_ROWS], n = 0;
    const float levels = trellis_root_mean_square(type);
    for (unsigned r = 0; r < TRELLIS_ROWS; r++) inverse[r] = 1.0f / b->row_scale[r];
    for (unsigned c = 0; c < TRELLIS_STEPS; c++) {
        const float counts = b->weight[c] > 0 ? 1.0f : 0.0f;
        n += counts;
        for (unsigned r = 0; r < TRELLIS_ROWS; r++) {
            const float x = b->target[c][r] * inverse[r];
            sum[r] += counts * (x * x);
        }
    }
    for (unsigned r = 0; r < TRELLIS_ROWS; r++) {
        const float q = sqrtf(sum[r] / n) / levels - 4;
        middle[r] = floorf((q < 100 ? q : 100) + 0.5f);
    }
}

static ERN_INLINE void trellis_at_body(trellis_memory *m, unsigned type, const uint8_t *q,
                                       conv_trellis_block *b)
{
    int32_t total[TRELLIS_ROWS];
    memmove(b->q, q, sizeof b->q);
    trellis_set_scale(m, b, b->q);
    trellis_costs(type, m, b, trellis_unit(b));
    trellis_find_start(m);
    trellis_close(true, m, total);
    trellis_collect(type, m, b);
}

static ERN_INLINE void trellis_body(trellis_memory *m, unsigned type, unsigned n_tries,
                                    conv_trellis_block *b)
{
    const float unit = trellis_unit(b);
    float middle[TRELLIS_ROWS], best[TRELLIS_ROWS] = { 0 };
    uint8_t best_q[TRELLIS_ROWS] = { 0 };
    trellis_middle(type, b, middle);
    for (unsigned i = 0; i < n_tries; i++) {
        int32_t total[TRELLIS_ROWS];
        uint8_t q[TRELLIS_ROWS];
        for (unsigned r = 0; r < TRELLIS_ROWS; r++) {
            const float at = middle[r] + (float)i - (float)(n_tries / 2);
            q[r] = (uint8_t)(at < 0 ? 0 : at > 15 ? 15 : at);
        }
        trellis_set_scale(m, b, q);
        trellis_costs(type, m, b, unit);
        trellis_find_start(m);
        trellis_close(false, m, total);
        for (unsigned r = 0; r < TRELLIS_ROWS; r++) {
            const float worth = (float)(q[r] + 4u), error = (float)total[r] * (worth * worth);
            if (i > 0 && error >= best[r]) continue;
            best[r] = error;
            best_q[r] = q[r];
        }
    }
    trellis_at_body(m, type, best_q, b);
}

/* ---- Instruction sets ------------------------------------------------------------------------ */

struct conv_trellis {
    void (*encode)(trellis_memory *m, unsigned type, unsigned n_tries, conv_trellis_block *b);
    void (*encode_at)(trellis_memory *m, unsigned type, const uint8_t *q, conv_trellis_block *b);
};

#define TRELLIS_TYPES(call)           \
    if (type == ERN_C2) call(ERN_C2); \
    else if (type == ERN_C3) call(ERN_C3); \
    else call(ERN_C4);
#define TRELLIS_ENCODE(T)    trellis_body(m, T, n_tries, b)
#define TRELLIS_ENCODE_AT(T) trellis_at_body(m, T, q, b)
#define TRELLIS_INSTANCE(set, TARGET)                                                          \
    TARGET static void trellis_encode_##set(trellis_memory *m, unsigned type, unsigned n_tries, \
                                            conv_trellis_block *b)                             \
    {                                                                                          \
        TRELLIS_TYPES(TRELLIS_ENCODE)                                                          \
    }                                                                                          \
    TARGET static void trellis_at_##set(trellis_memory *m, unsigned type, const uint8_t *q,    \
                                        conv_trellis_block *b)                                 \
    {                                                                                          \
        TRELLIS_TYPES(TRELLIS_ENCODE_AT)                                                       \
    }                                                                                          \
    static const conv_trellis trellis_##set = { trellis_encode_##set, trellis_at_##set };

TRELLIS_INSTANCE(base, )
#if TRELLIS_X86
TRELLIS_INSTANCE(avx2, __attribute__((target("avx2"))))
TRELLIS_INSTANCE(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))))
#endif

ERN_FN const conv_trellis *conv_trellis_at(unsigned i)
{
    switch (i) {
    case 0: return &trellis_base;
#if TRELLIS_X86
    case 1: return __builtin_cpu_supports("avx2") ? &trellis_avx2 : NULL;
    case 2:
        return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
                       && __builtin_cpu_supports("avx512dq")
                   ? &trellis_avx512
                   : NULL;
#endif
    default: return NULL;
    }
}

ERN_FN const conv_trellis *conv_trellis_best(void)
{
    unsigned i = 0;
    while (conv_trellis_at(i + 1)) i++;
    return conv_trellis_at(i);
}

ERN_FN size_t conv_trellis_bytes(void) { return ern_round_up(sizeof(trellis_memory), 64); }

ERN_FN void conv_trellis_encode(const conv_trellis *set, void *memory, unsigned type,
                                unsigned n_tries, conv_trellis_block *block)
{
    set->encode(memory, type, n_tries, block);
}

ERN_FN void conv_trellis_encode_at(const conv_trellis *set, void *memory, unsigned type,
                                   const uint8_t *q, conv_trellis_block *block)
{
    set->encode_at(memory, type, q, block);
}

#undef TRELLIS_X86
#undef TRELLIS_FAR
#undef TRELLIS_UNIT
#undef TRELLIS_TYPES
#undef TRELLIS_ENCODE
#undef TRELLIS_ENCODE_AT
#undef TRELLIS_INSTANCE
