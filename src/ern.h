/* The base room: what every other room may use. Knows nothing of models.
 *
 * ERN_FN marks functions that cross rooms: static in the unity build, hidden otherwise, so both
 * export exactly the public names. Asserts are for our own mistakes; anything read from a file is
 * checked with `if` and becomes a status. */
#ifndef ERN_H
#define ERN_H

#include <float.h>
#include <math.h>
#include <stdalign.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../ernie.h"

#ifdef ERNIE_UNITY
#define ERN_FN static
#elif defined(__GNUC__) && !defined(_WIN32)
#define ERN_FN __attribute__((visibility("hidden")))
#else
#define ERN_FN
#endif

#ifdef __GNUC__
#define ERN_INLINE inline __attribute__((always_inline, unused))
#define ERN_NOINLINE __attribute__((noinline))
#ifdef __MINGW_PRINTF_FORMAT
#define ERN_PRINTF(fmt, args) __attribute__((format(__MINGW_PRINTF_FORMAT, fmt, args)))
#else
#define ERN_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#endif
#define ERN_LIKELY(x) __builtin_expect(!!(x), 1)
#define ERN_UNUSED __attribute__((unused))
#else
#define ERN_INLINE inline
#define ERN_NOINLINE
#define ERN_PRINTF(fmt, args)
#define ERN_LIKELY(x) (x)
#define ERN_UNUSED
#endif

/* For our own mistakes, in debug builds: whatever NDEBUG says, an application never ends because of
 * the library. */
#ifdef ERNIE_ASSERTS
#include <assert.h>
#define ERN_ASSERT(condition) assert(condition)
#else
#define ERN_ASSERT(condition) ((void)sizeof(!(condition)))
#endif

#define ERN_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define ERN_CACHE_LINE 64

/* ---- Errors (error.c) ---------------------------------------------------------------------- */

/* Write code and sentence into *error (which may be NULL) and return the code. */
ERN_FN ernie_status ern_error_set(ernie_error *error, ernie_status code, const char *format, ...)
    ERN_PRINTF(3, 4);

#define ERN_FAIL_IF(condition, error, code, ...)                              \
    do {                                                                      \
        if (condition) return ern_error_set((error), (code), __VA_ARGS__);    \
    } while (0)

/* "24.6 MB", "11.85 GB" for sentences; whole bytes below a thousand. */
typedef struct ern_bytes_text {
    char text[24];
} ern_bytes_text;
ERN_FN ern_bytes_text ern_bytes(uint64_t n_bytes);
ERN_FN ern_bytes_text ern_bytes_up(uint64_t n_bytes); /* rounded up: so much is enough */

/* Copy an options struct of `given` bytes (its own `size` field) over *dst, which holds defaults of
 * `known` bytes: fields the caller does not know keep the defaults; a non-zero byte that this
 * library does not know is refused. `src` may be NULL. `what` names the struct in the message. */
ERN_FN ernie_status ern_options_copy(void *dst, size_t known, const void *src, const char *what,
                                     ernie_error *error);

/* ---- Cancellation -------------------------------------------------------------------------- */

/* Has the caller asked to stop? NULL: never. */
static ERN_INLINE bool ern_cancelled(const ernie_cancel *cancel)
{
#ifdef __GNUC__
    return cancel && __atomic_load_n(&cancel->requested, __ATOMIC_ACQUIRE) != 0;
#else
    return cancel && cancel->requested != 0;
#endif
}

/* ---- Log (error.c) ------------------------------------------------------------------------- */

typedef struct ern_log {
    ernie_log_fn fn; /* NULL: silent */
    void *user;
} ern_log;

ERN_FN void ern_log_write(const ern_log *log, ernie_log_level level, const char *format, ...)
    ERN_PRINTF(3, 4);

/* ---- Memory (mem.c) ------------------------------------------------------------------------ */

ERN_FN const ernie_allocator *ern_allocator_default(void);

/* Another allocator's memory, counted: `allocator` is what to use, `bytes` what is out at the
 * moment. The meter stays where it is while blocks are out. */
typedef struct ern_meter {
    ernie_allocator allocator;
    ernie_allocator inner;
    atomic_uint_fast64_t bytes;
} ern_meter;

ERN_FN void ern_meter_begin(ern_meter *meter, const ernie_allocator *inner);
ERN_FN uint64_t ern_meter_bytes(ern_meter *meter);

/* Does memory of this allocator, metered or not, come straight from the C library? */
ERN_FN bool ern_allocator_is_default(const ernie_allocator *allocator);

/* Plain blocks. ern_alloc gives uninitialised memory, ern_alloc_zero zeroed. Free needs the
 * size. */
ERN_FN void *ern_alloc(const ernie_allocator *allocator, size_t size);
ERN_FN void *ern_alloc_zero(const ernie_allocator *allocator, size_t size);
ERN_FN void *ern_resize(const ernie_allocator *allocator, void *ptr, size_t old_size,
                        size_t new_size);
ERN_FN void ern_free(const ernie_allocator *allocator, void *ptr, size_t size);

/* 64-byte aligned blocks from the same allocator, which is asked for ern_aligned_bytes(size). */
ERN_FN void *ern_alloc_aligned(const ernie_allocator *allocator, size_t size);
ERN_FN void ern_free_aligned(const ernie_allocator *allocator, void *ptr, size_t size);
static ERN_INLINE size_t ern_aligned_bytes(size_t size) { return size + ERN_CACHE_LINE; }

/* An arena in two passes: the same sequence of ern_arena_take calls first measures (base NULL,
 * every take returns NULL), then hands out 64-byte aligned pieces of one block. Sizes are checked;
 * an overflow sticks in `overflow` and is reported by whoever opens the block. */
typedef struct ern_arena {
    unsigned char *base; /* NULL while measuring */
    size_t used;
    size_t size;
    bool overflow;
} ern_arena;

ERN_FN void *ern_arena_take(ern_arena *arena, size_t count, size_t item_size);

/* ---- Checked arithmetic -------------------------------------------------------------------- */

static ERN_INLINE bool ern_mul_u64(uint64_t *out, uint64_t a, uint64_t b)
{
    if (b && a > UINT64_MAX / b) return false;
    *out = a * b;
    return true;
}

static ERN_INLINE bool ern_add_u64(uint64_t *out, uint64_t a, uint64_t b)
{
    if (a > UINT64_MAX - b) return false;
    *out = a + b;
    return true;
}

static ERN_INLINE bool ern_mul_size(size_t *out, size_t a, size_t b)
{
    if (b && a > SIZE_MAX / b) return false;
    *out = a * b;
    return true;
}

static ERN_INLINE bool ern_add_size(size_t *out, size_t a, size_t b)
{
    if (a > SIZE_MAX - b) return false;
    *out = a + b;
    return true;
}

static ERN_INLINE size_t ern_min_size(size_t a, size_t b) { return a < b ? a : b; }
static ERN_INLINE size_t ern_max_size(size_t a, size_t b) { return a > b ? a : b; }

/* Round up to a multiple of `unit` (a power of two); the caller keeps x far from the type's end. */
static ERN_INLINE size_t ern_round_up(size_t x, size_t unit) { return (x + unit - 1) & ~(unit - 1); }
static ERN_INLINE uint64_t ern_round_up_u64(uint64_t x, uint64_t unit)
{
    return (x + unit - 1) & ~(unit - 1);
}

/* ---- Half-width floats --------------------------------------------------------------------- */

static ERN_INLINE float ern_bf16_to_f32(uint16_t h)
{
    const uint32_t bits = (uint32_t)h << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Round to nearest even; NaN stays NaN. */
static ERN_INLINE uint16_t ern_f32_to_bf16(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* IEEE binary16, round to nearest even, subnormals and infinities included (mem.c). */
ERN_FN float ern_f16_to_f32(uint16_t h);
ERN_FN uint16_t ern_f32_to_f16(float f);

#endif
