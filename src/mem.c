/* Memory through the caller's allocator, the two-pass arena, and half-width floats.
 *
 * The allocator has one entry point that wants the old size back, so every block here is freed with
 * the size it was made with: an embedder can account, and a test can prove that nothing leaks. */
#include "ern.h"

#define MEM_ALIGN 64u

static void *mem_c_resize(void *user, void *ptr, size_t old_size, size_t new_size)
{
    (void)user;
    (void)old_size;
    if (new_size) return realloc(ptr, new_size);
    free(ptr);
    return NULL;
}

static const ernie_allocator mem_c_allocator = { mem_c_resize, NULL };

ERN_FN const ernie_allocator *ern_allocator_default(void)
{
    return &mem_c_allocator;
}

/* ---- The meter ----------------------------------------------------------------------------- */

static void *mem_meter_resize(void *user, void *ptr, size_t old_size, size_t new_size)
{
    ern_meter *meter = user;
    void *block = meter->inner.resize(meter->inner.user, ptr, old_size, new_size);
    if (new_size && !block) return NULL; /* what there was stays */
    atomic_fetch_add_explicit(&meter->bytes, new_size, memory_order_relaxed);
    if (ptr) atomic_fetch_sub_explicit(&meter->bytes, old_size, memory_order_relaxed);
    return block;
}

ERN_FN void ern_meter_begin(ern_meter *meter, const ernie_allocator *inner)
{
    meter->inner = *inner;
    meter->allocator = (ernie_allocator){ mem_meter_resize, meter };
    atomic_init(&meter->bytes, 0);
}

ERN_FN uint64_t ern_meter_bytes(ern_meter *meter)
{
    return atomic_load_explicit(&meter->bytes, memory_order_relaxed);
}

ERN_FN bool ern_allocator_is_default(const ernie_allocator *allocator)
{
    if (allocator->resize == mem_meter_resize)
        allocator = &((const ern_meter *)allocator->user)->inner;
    return allocator->resize == mem_c_resize;
}

/* ---- Blocks -------------------------------------------------------------------------------- */

/* To the allocator a size of 0 means "free", so an empty block is asked for as one byte. */
static size_t mem_size(size_t size)
{
    return size ? size : 1;
}

ERN_FN void *ern_alloc(const ernie_allocator *allocator, size_t size)
{
    return allocator->resize(allocator->user, NULL, 0, mem_size(size));
}

ERN_FN void *ern_alloc_zero(const ernie_allocator *allocator, size_t size)
{
    void *ptr = ern_alloc(allocator, size);
    if (ptr) memset(ptr, 0, mem_size(size));
    return ptr;
}

ERN_FN void *ern_resize(const ernie_allocator *allocator, void *ptr, size_t old_size,
                        size_t new_size)
{
    if (!ptr) return ern_alloc(allocator, new_size);
    return allocator->resize(allocator->user, ptr, mem_size(old_size), mem_size(new_size));
}

ERN_FN void ern_free(const ernie_allocator *allocator, void *ptr, size_t size)
{
    if (ptr) allocator->resize(allocator->user, ptr, mem_size(size), 0);
}

/* The block is found again through the byte before it, which holds the distance, 1 .. 64, from the
 * allocator's address. */
ERN_FN void *ern_alloc_aligned(const ernie_allocator *allocator, size_t size)
{
    size_t total;
    if (!ern_add_size(&total, size, MEM_ALIGN)) return NULL;
    unsigned char *raw = ern_alloc(allocator, total);
    if (!raw) return NULL;
    const size_t distance = MEM_ALIGN - ((uintptr_t)raw & (MEM_ALIGN - 1));
    raw[distance - 1] = (unsigned char)distance;
    return raw + distance;
}

ERN_FN void ern_free_aligned(const ernie_allocator *allocator, void *ptr, size_t size)
{
    if (!ptr) return;
    unsigned char *aligned = ptr;
    ern_free(allocator, aligned - aligned[-1], size + MEM_ALIGN);
}

ERN_FN void *ern_arena_take(ern_arena *arena, size_t count, size_t item_size)
{
    size_t n, end;
    if (!ern_mul_size(&n, count, item_size) || n > SIZE_MAX - MEM_ALIGN
        || !ern_add_size(&end, arena->used, ern_round_up(n, MEM_ALIGN))
        || (arena->base && end > arena->size))
        arena->overflow = true;
    if (arena->overflow) return NULL;
    unsigned char *piece = arena->base ? arena->base + arena->used : NULL;
    arena->used = end;
    return piece;
}

/* ---- Half-width floats --------------------------------------------------------------------- */

static uint32_t mem_float_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static float mem_bits_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

ERN_FN float ern_f16_to_f32(uint16_t h)
{
    const uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 0x1fu;
    const uint32_t mantissa = h & 0x3ffu;
    if (exponent == 31) return mem_bits_float(sign | 0x7f800000u | mantissa << 13);
    if (exponent) return mem_bits_float(sign | (exponent + 112) << 23 | mantissa << 13);
    const float magnitude = (float)mantissa * 0x1p-24f; /* subnormal or zero: exact */
    return sign ? -magnitude : magnitude;
}

ERN_FN uint16_t ern_f32_to_f16(float f)
{
    const uint32_t bits = mem_float_bits(f);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t abs = bits & 0x7fffffffu;
    if (abs > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (abs >> 13 & 0x3ffu)); /* NaN */
    if (abs >= 0x477ff000u)
        return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to infinity */
    if (abs < 0x38800000u) { /* below 2^-14: 0.5 has the spacing 2^-24 of the subnormals */
        const uint32_t sum = mem_float_bits(mem_bits_float(abs) + 0.5f);
        return (uint16_t)(sign | (sum - 0x3f000000u));
    }
    const uint32_t odd = abs >> 13 & 1u;
    return (uint16_t)(sign | (abs - (112u << 23) + 0xfffu + odd) >> 13);
}

#undef MEM_ALIGN
