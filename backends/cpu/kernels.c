/* The kernel tables: one for each instruction set that this build can make, and the choice among
 * them (kernels.h).
 *
 * No file needs a compiler flag. Each set is made by including the same templates between a pair of
 * target pragmas:
 *
 *     kernels_lane_SET.h   sixteen float lanes in that set's registers
 *     kernels_lanes.h      plain vectors, in lanes         kernels_mm_plain.h  f32, f16, bf16 products
 *     kernels_attn.h       attention, in lanes             kernels_mm_SET.h    w8 and w4 products
 *     kernels_code_SET.h   words of codes in registers     kernels_mm_codes.h  c4, c3 and c2 products
 *     kernels_kv.h         rows of the cache, in lanes
 *
 * KN(name) gives a template's functions their set's name. Every lane operation means the same in
 * every set to the last bit, and every product that is added is an explicit fused multiply-add, so
 * sets agree whatever the compiler's contraction rules are. */
#include <math.h>

#if defined(__x86_64__) || defined(_M_X64)
#define KERNELS_X86 1
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__GNUC__)                                            \
    && (!defined(__clang__) || defined(__ARM_FEATURE_DOTPROD) || __clang_major__ >= 16)
#define KERNELS_NEON 1
#include <arm_neon.h>
#endif

#include "feat.h"
#include "kernels.h"

/* gcc knows smmla since version 10; clang's header offers it in every file since 16. */
#if defined(KERNELS_NEON)                                                                    \
    && (defined(__clang__) ? defined(__ARM_FEATURE_MATMUL_INT8) || __clang_major__ >= 16     \
                           : __GNUC__ >= 10)
#define KERNELS_I8MM 1
#endif

/* VEX-encoded vpdpbusd came to compilers later than the other sets. */
#if defined(KERNELS_X86)                                                                     \
    && (defined(__clang__)    ? __clang_major__ >= 12                                        \
        : defined(__GNUC__) ? __GNUC__ >= 11                                                 \
                            : _MSC_VER >= 1930)
#define KERNELS_AVXVNNI 1
#endif

/* AMX: where the system can be asked for it (feat.h), and compilers that know it. */
#if defined(KERNELS_X86) && defined(__linux__)                                               \
    && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define KERNELS_AMX 1
#endif

#define KERNELS_PRAGMA(x) _Pragma(#x)
#if defined(__clang__)
#define KERNELS_TARGET_BEGIN(set) \
    KERNELS_PRAGMA(clang attribute push(__attribute__((target(set))), apply_to = function))
#define KERNELS_TARGET_END _Pragma("clang attribute pop")
#elif defined(__GNUC__)
#define KERNELS_TARGET_BEGIN(set) _Pragma("GCC push_options") KERNELS_PRAGMA(GCC target(set))
#define KERNELS_TARGET_END _Pragma("GCC pop_options")
#else
#define KERNELS_TARGET_BEGIN(set)
#define KERNELS_TARGET_END
#endif

/* Loops over a tile must vanish, or its sums would live in memory. Each compiler has its own word
 * for it; clang obeys gcc's only in part (8 of 64 vpdpbusd, sums in memory, a quarter of the speed).
 * Sanitizers instrument every access, and unrolled code takes them minutes to compile. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KERNELS_UNROLL
#elif defined(__clang__)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) \
    || __has_feature(memory_sanitizer) || __has_feature(undefined_behavior_sanitizer)
#define KERNELS_UNROLL
#else
#define KERNELS_UNROLL _Pragma("clang loop unroll(full)")
#endif
#elif defined(__GNUC__)
#define KERNELS_UNROLL _Pragma("GCC unroll 64")
#else
#define KERNELS_UNROLL
#endif

#if defined(__clang__)
#define KERNELS_NO_UNROLL _Pragma("clang loop unroll(disable)")
#elif defined(__GNUC__)
#define KERNELS_NO_UNROLL _Pragma("GCC unroll 1")
#else
#define KERNELS_NO_UNROLL
#endif

#define KERNELS_UP_TO_2 KERNELS_CASE(1) KERNELS_CASE(2)
#define KERNELS_UP_TO_3 KERNELS_UP_TO_2 KERNELS_CASE(3)
#define KERNELS_UP_TO_4 KERNELS_UP_TO_3 KERNELS_CASE(4)
#define KERNELS_UP_TO_6 KERNELS_UP_TO_4 KERNELS_CASE(5) KERNELS_CASE(6)
#define KERNELS_UP_TO_8 KERNELS_UP_TO_6 KERNELS_CASE(7) KERNELS_CASE(8)
#define KERNELS_UP_TO_12 \
    KERNELS_UP_TO_8 KERNELS_CASE(9) KERNELS_CASE(10) KERNELS_CASE(11) KERNELS_CASE(12)
#define KERNELS_UP_TO_16 \
    KERNELS_UP_TO_12 KERNELS_CASE(13) KERNELS_CASE(14) KERNELS_CASE(15) KERNELS_CASE(16)

#ifdef __GNUC__
#define KERNELS_PREFETCH(p) __builtin_prefetch((const void *)(p))
#else
#define KERNELS_PREFETCH(p) ((void)(p))
#endif

/* Bytes from a load of codes to its prefetch. One Zen 5 server core, w4 streamed from memory, one
 * token: 17 GB/s without, 22 with any distance from 1024 to 12288 (medians of 5 or 6 runs in turn).
 * One Zen 4 core, with wishes that cover the tables too (kernels_wish): 24 instead of 16 to 19. */
#define KERNELS_AHEAD 4096

/* One record of 16 rows (format.h). */
typedef struct kernels_group {
    const float *row_scale;     /* [16] */
    const unsigned char *scale; /* [n_blocks][16] */
    const unsigned char *code;
    size_t n_blocks;
    size_t n_bytes; /* to the next group */
} kernels_group;

static ERN_INLINE kernels_group kernels_group_at(const ern_matrix *w, uint32_t group)
{
    const size_t n_bytes = (size_t)ern_group_bytes(w->type, w->n_cols);
    const unsigned char *p = w->data + group * n_bytes;
    const uint32_t n_blocks = ern_n_blocks(w->n_cols);
    kernels_group g;
    g.row_scale = (const float *)(const void *)p;
    g.scale = p + 16 * sizeof(float);
    g.code = g.scale + ern_group_scale_bytes(w->type, n_blocks);
    g.n_blocks = n_blocks;
    g.n_bytes = n_bytes;
    return g;
}

/* Blocks of a chunk of c4, c3 and c2 that is decoded for several tokens. */
#define KERNELS_CODE_BLOCKS 16

/* Blocks b0 .. b0 + n - 1 of one or two groups, decoded. */
typedef struct kernels_chunk {
    _Alignas(64) unsigned char level[2][KERNELS_CODE_BLOCKS][8][64]; /* x86: raised by 64 */
    _Alignas(64) float scale[2][KERNELS_CODE_BLOCKS][16];
    const float *row_scale[2]; /* [16] */
    size_t n, b0;
    bool last; /* no block follows: sums become results */
} kernels_chunk;

/* A chunk's part of the products of some tokens from t0 on, whose sums lie in y between chunks. */
typedef void kernels_level_fn(const kernels_chunk *chunk, const ern_act *a, size_t t0, float *y,
                              size_t y_stride);

static const float kernels_ones[16] = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 };

static ERN_INLINE const unsigned char *kernels_group_begin(const kernels_group *g)
{
    return (const unsigned char *)g->row_scale;
}

/* A wish for n bytes that come KERNELS_AHEAD later. Who walks over a group wishes evenly from its
 * begin to its end, tables included: wishes that follow the codes alone leave out, in each group, as
 * many lines as the tables have. */
static ERN_INLINE void kernels_wish(const unsigned char *p, size_t n)
{
    KERNELS_UNROLL for (size_t i = 0; i < n; i += 64) KERNELS_PREFETCH(p + KERNELS_AHEAD + i);
}

/* How many of n to take next so that all shares are about equal and none exceeds max. */
static ERN_INLINE size_t kernels_share(size_t n, size_t max)
{
    const size_t n_shares = (n + max - 1) / max;
    return (n + n_shares - 1) / n_shares;
}

/* Results of rows at and beyond n_rows become 0: only the matrix' last group has such rows. */
static void kernels_clear_padding(const ern_matrix *w, uint32_t group_begin, uint32_t group_end,
                                  size_t n_tokens, float *y, size_t y_stride)
{
    const uint32_t n_rows = 16 * (group_end - group_begin);
    const uint32_t n_real = w->n_rows - 16 * group_begin;
    for (size_t t = 0; t < n_tokens; t++)
        for (uint32_t r = n_real; r < n_rows; r++) y[t * y_stride + r] = 0.0f;
}

/* The Walsh-Hadamard transform over sqrt(n) of n < 16 numbers, a power of two. */
static void kernels_hadamard_short(float *x, size_t n)
{
    const float factor = 1.0f / sqrtf((float)n);
    for (size_t w = n / 2; w; w /= 2)
        for (size_t i = 0; i < n; i++) {
            if (i & w) continue;
            const float a = x[i], b = x[i + w];
            x[i] = a + b;
            x[i + w] = a - b;
        }
    for (size_t i = 0; i < n; i++) x[i] *= factor;
}

/* A block of a key's row in q4 (src/kv.h) from its codes of five bits. */
static void kernels_pack_key_q4(const int8_t five[ERN_KV_BLOCK], unsigned char code[16],
                                unsigned char fifth[4])
{
    for (size_t i = 0; i < 16; i++) {
        const int8_t *low = five + i / 4 * 8 + i % 4;
        code[i] = (unsigned char)((low[0] & 15) | (low[4] & 15) << 4);
    }
    for (size_t i = 0; i < 4; i++) {
        unsigned bits = 0;
        for (size_t j = 0; j < 8; j++) bits |= (unsigned)(five[8 * i + j] >> 4) << j;
        fifth[i] = (unsigned char)bits;
    }
}

/* ---- base: portable C, complete, the oracle of the others ------------------------------------ */

/* Types of a set (kernels_lane_base.h): float lanes, integer lanes, 4 numbers of each of 16 keys. */
#define V16 KN(v16)
#define W16 KN(w16)
#define K64 KN(k64)

/* a * b + c, rounded once. The C library of mingw-w64 rounds twice, so there the sum of the exact product
 * is rounded to odd, which a second rounding cannot spoil. */
static ERN_INLINE float kernels_fmaf(float a, float b, float c)
{
#ifdef _WIN32
    const double product = (double)a * b;
    double sum = product + c;
    const double seen = sum - product;
    const double lost = (product - (sum - seen)) + (c - seen);
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    if (lost == lost && lost != 0 && !(bits & 1)) {
        bits += (lost > 0) == (sum > 0) ? 1 : UINT64_MAX;
        memcpy(&sum, &bits, sizeof sum);
    }
    return (float)sum;
#else
    return fmaf(a, b, c);
#endif
}

#define KN(name) kernels_##name##_base
#define KERNELS_NAME "base"
#define KERNELS_ATTN_Q 1
#define KERNELS_ATTN_P(nq) 4
#define KERNELS_ATTN_D(nq) 1
#define KERNELS_ATTN_CASES KERNELS_CASE(1)
#define KERNELS_PLAIN_R(nt) 4
#define KERNELS_PLAIN_T 1
#define KERNELS_PLAIN_CASES KERNELS_CASE(1)
#include "kernels_lane_base.h"
#include "kernels_lanes.h"
#include "kernels_kv.h"
#include "kernels_attn.h"
#include "kernels_mm_plain.h"
#include "kernels_mm_base.h"
#include "kernels_table.h"
#include "kernels_undef.h"

#ifdef KERNELS_X86

/* ---- avx2 -------------------------------------------------------------------------------------- */

KERNELS_TARGET_BEGIN("avx2,fma,f16c")
#define KN(name) kernels_##name##_avx2
#define KERNELS_NAME "avx2"
#define KERNELS_ATTN_Q 3
#define KERNELS_ATTN_P(nq) 2
#define KERNELS_ATTN_D(nq) 2
#define KERNELS_ATTN_CASES KERNELS_UP_TO_3
#define KERNELS_PLAIN_R(nt) ((nt) == 1 ? 4 : 2)
#define KERNELS_PLAIN_T 3
#define KERNELS_PLAIN_CASES KERNELS_UP_TO_3
#define KERNELS_TOKENS 4
#define KERNELS_TOKEN_CASES KERNELS_UP_TO_4
#define KERNELS_LEVEL_GROUPS 1
#define KERNELS_LEVEL_PARTS 2
#define KERNELS_LEVEL_TOKENS 4
#define KERNELS_LEVEL_CASES KERNELS_UP_TO_4
#define KERNELS_CODE_SINGLES 1
#include "kernels_lane_avx2.h"
#include "kernels_lanes.h"
#include "kernels_kv.h"
#include "kernels_attn.h"
#include "kernels_mm_plain.h"
#include "kernels_mm_avx2.h"
#include "kernels_mm_tiles.h"
#include "kernels_code_avx2.h"
#include "kernels_mm_codes.h"
#include "kernels_table.h"
#include "kernels_undef.h"
KERNELS_TARGET_END

/* ---- avxvnni: avx2 with its w8 and w4 products by vpdpbusd --------------------------------------- */

#ifdef KERNELS_AVXVNNI
KERNELS_TARGET_BEGIN("avx2,fma,f16c,avxvnni")
#define KN(name) kernels_##name##_avxvnni
#define KERNELS_LANES(name) kernels_##name##_avx2
#define KERNELS_NAME "avxvnni"
#define KERNELS_VNNI 1
#define KERNELS_TOKENS 4
#define KERNELS_TOKEN_CASES KERNELS_UP_TO_4
#define KERNELS_LEVEL_GROUPS 1
#define KERNELS_LEVEL_PARTS 2
#define KERNELS_LEVEL_TOKENS 4
#define KERNELS_LEVEL_CASES KERNELS_UP_TO_4
#define KERNELS_CODE_SINGLES 1
#include "kernels_mm_avx2.h"
#include "kernels_mm_tiles.h"
#include "kernels_code_avx2.h"
#include "kernels_mm_codes.h"
#include "kernels_table.h"
#include "kernels_undef.h"
KERNELS_TARGET_END
#endif

/* ---- avx512 ------------------------------------------------------------------------------------ */

KERNELS_TARGET_BEGIN("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
#define KN(name) kernels_##name##_avx512
#define KERNELS_NAME "avx512"
#define KERNELS_ATTN_Q 8
/* Eight queries in one tile instead of two of four: decode at 16384 tokens, 8 queries a key head, q8 on
 * two Zen 5 cores 7 % faster (medians of 5 in turn), f16 the same. */
#define KERNELS_ATTN_P(nq) ((nq) > 6 ? 3 : 4)
#define KERNELS_ATTN_D(nq) ((nq) > 6 ? 2 : 4)
#define KERNELS_ATTN_CASES KERNELS_UP_TO_8
#define KERNELS_PLAIN_R(nt) 4
#define KERNELS_PLAIN_T 6
#define KERNELS_PLAIN_CASES KERNELS_UP_TO_6
#define KERNELS_TOKENS 4
#define KERNELS_TOKEN_CASES KERNELS_UP_TO_4
#define KERNELS_PAIR_TOKENS 8
#define KERNELS_PAIR_CASES KERNELS_UP_TO_8
#define KERNELS_LEVEL_GROUPS 2
#define KERNELS_LEVEL_PARTS 2
#define KERNELS_LEVEL_TOKENS 8
#define KERNELS_LEVEL_CASES KERNELS_UP_TO_8
#define KERNELS_CODE_SINGLES 2
#include "kernels_lane_avx512.h"
#include "kernels_lanes.h"
#include "kernels_kv.h"
#include "kernels_attn.h"
#include "kernels_mm_plain.h"
#include "kernels_mm_avx512.h"
#include "kernels_mm_tiles.h"
#include "kernels_code_avx512.h"
#include "kernels_mm_codes.h"
#include "kernels_table.h"
#include "kernels_undef.h"
KERNELS_TARGET_END

/* ---- avx512vbmi: avx512 with its c4, c3 and c2 products by VBMI and VBMI2 ------------------------ */

KERNELS_TARGET_BEGIN("avx512vbmi,avx512vbmi2,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
#define KN(name) kernels_##name##_avx512vbmi
#define KERNELS_LANES(name) kernels_##name##_avx512
#define KERNELS_BYTES(name) kernels_##name##_avx512
#define KERNELS_NAME "avx512vbmi"
#define KERNELS_VBMI 1
#define KERNELS_LEVEL_GROUPS 2
#define KERNELS_LEVEL_TOKENS 8
#define KERNELS_LEVEL_TILES kernels_level_tiles_avx512
#define KERNELS_CODE_SINGLES 3
#include "kernels_code_avx512.h"
#include "kernels_mm_codes.h"
#include "kernels_table.h"
#include "kernels_undef.h"
KERNELS_TARGET_END

/* ---- amx: avx512 with its w8 and w4 products of several tokens by tdpbssd ------------------------ */

#ifdef KERNELS_AMX
KERNELS_TARGET_BEGIN("amx-tile,amx-int8,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")
#define KN(name) kernels_##name##_amx
#define KERNELS_LANES(name) kernels_##name##_avx512
#define KERNELS_CODES(name) kernels_##name##_avx512vbmi
#define KERNELS_NAME "amx"
#include "kernels_mm_amx.h"
#include "kernels_table.h"
#include "kernels_undef.h"
KERNELS_TARGET_END
#endif

#endif

#ifdef KERNELS_NEON

/* ---- neon -------------------------------------------------------------------------------------- */

#ifdef __clang__
KERNELS_TARGET_BEGIN("dotprod")
#else
KERNELS_TARGET_BEGIN("arch=armv8.2-a+dotprod")
#endif
#define KN(name) kernels_##name##_neon
#define KERNELS_NAME "neon"
#define KERNELS_ATTN_Q 2
#define KERNELS_ATTN_P(nq) 2
#define KERNELS_ATTN_D(nq) 2
#define KERNELS_ATTN_CASES KERNELS_UP_TO_2
#define KERNELS_PLAIN_R(nt) ((nt) == 1 ? 4 : 2)
#define KERNELS_PLAIN_T 2
#define KERNELS_PLAIN_CASES KERNELS_UP_TO_2
#define KERNELS_TOKENS 4
#define KERNELS_TOKEN_CASES KERNELS_UP_TO_4
#define KERNELS_LEVEL_GROUPS 1
#define KERNELS_LEVEL_PARTS 4
#define KERNELS_LEVEL_TOKENS 4
#define KERNELS_LEVEL_CASES KERNELS_UP_TO_4
#define KERNELS_CODE_SINGLES 1
#include "kernels_lane_neon.h"
#include "kernels_lanes.h"
#include "kernels_kv.h"
#include "kernels_attn.h"
#include "kernels_mm_plain.h"
#include "kernels_mm_neon.h"
#include "kernels_mm_tiles.h"
#include "kernels_code_neon.h"
#include "kernels_mm_codes.h"
#include "kernels_table.h"
#include "kernels_undef.h"
KERNELS_TARGET_END

/* ---- i8mm: neon with its w8 and w4 products of two and more tokens by smmla -------------------- */

#ifdef KERNELS_I8MM
#ifdef __clang__
KERNELS_TARGET_BEGIN("dotprod,i8mm")
#else
KERNELS_TARGET_BEGIN("arch=armv8.2-a+dotprod+i8mm")
#endif
#define KN(name) kernels_##name##_i8mm
#define KERNELS_LANES(name) kernels_##name##_neon
#define KERNELS_CODES(name) kernels_##name##_neon
#define KERNELS_NAME "i8mm"
#define KERNELS_TOKENS 8
#define KERNELS_TOKEN_CASES KERNELS_UP_TO_8
#include "kernels_mm_i8mm.h"
#include "kernels_mm_tiles.h"
#include "kernels_table.h"
#include "kernels_undef.h"
KERNELS_TARGET_END
#endif

#endif

/* ---- The choice -------------------------------------------------------------------------------- */

typedef struct kernels_set {
    const ern_kernels *table;
    unsigned needs; /* feature bits */
} kernels_set;

/* Worst first. amx stands before avx512 because it has not been seen to win (kernels_mm_amx.h), so that
 * it is taken by its name only, and the system's permission is asked for only then. */
static const kernels_set kernels_sets[] = {
    { &kernels_table_base, 0 },
#ifdef KERNELS_X86
    { &kernels_table_avx2, ERN_CPU_AVX2 },
#ifdef KERNELS_AVXVNNI
    { &kernels_table_avxvnni, ERN_CPU_AVX2 | ERN_CPU_AVXVNNI },
#endif
#ifdef KERNELS_AMX
    { &kernels_table_amx, ERN_CPU_AVX2 | ERN_CPU_AVX512 | ERN_CPU_AVX512VBMI | ERN_CPU_AMX },
#endif
    { &kernels_table_avx512, ERN_CPU_AVX2 | ERN_CPU_AVX512 },
    { &kernels_table_avx512vbmi, ERN_CPU_AVX2 | ERN_CPU_AVX512 | ERN_CPU_AVX512VBMI },
#endif
#ifdef KERNELS_NEON
    { &kernels_table_neon, ERN_CPU_DOTPROD },
#ifdef KERNELS_I8MM
    { &kernels_table_i8mm, ERN_CPU_DOTPROD | ERN_CPU_I8MM },
#endif
#endif
};

/* The system is asked last, for a set that the processor has. */
static bool kernels_usable(const kernels_set *set, unsigned features)
{
    if ((set->needs & features) != set->needs) return false;
    return !(set->needs & ERN_CPU_AMX) || ern_cpu_amx_permit();
}

ERN_FN const ern_kernels *ern_kernels_at(size_t index)
{
    const unsigned features = ern_cpu_features();
    for (size_t i = 0; i < ERN_COUNT(kernels_sets); i++)
        if (kernels_usable(&kernels_sets[i], features) && index-- == 0) return kernels_sets[i].table;
    return NULL;
}

ERN_FN const ern_kernels *ern_kernels_find(const char *name)
{
    const bool best = !name || strcmp(name, "auto") == 0;
    const unsigned features = ern_cpu_features();
    for (size_t i = ERN_COUNT(kernels_sets); i-- > 0;) {
        const kernels_set *set = &kernels_sets[i];
        if ((best || strcmp(name, set->table->name) == 0) && kernels_usable(set, features))
            return set->table;
    }
    return NULL;
}

#undef V16
#undef W16
#undef K64
#undef KERNELS_X86
#undef KERNELS_NEON
#undef KERNELS_AVXVNNI
#undef KERNELS_I8MM
#undef KERNELS_AMX
#undef KERNELS_PRAGMA
#undef KERNELS_TARGET_BEGIN
#undef KERNELS_TARGET_END
#undef KERNELS_UNROLL
#undef KERNELS_NO_UNROLL
#undef KERNELS_UP_TO_2
#undef KERNELS_UP_TO_3
#undef KERNELS_UP_TO_4
#undef KERNELS_UP_TO_6
#undef KERNELS_UP_TO_8
#undef KERNELS_UP_TO_12
#undef KERNELS_UP_TO_16
#undef KERNELS_AHEAD
#undef KERNELS_CODE_BLOCKS
#undef KERNELS_PREFETCH
