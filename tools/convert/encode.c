/* The quantizers.
 *
 * w8: a block's scale is the smallest of the row's 255 steps that holds its largest weight.
 *
 * w4: for each block of 32 the best of ENCODE_TRIES scales by squared error, refined by least
 * squares; then the row's step is set so that the largest block scale is 255, and every block takes
 * the best of the two or three steps around its own optimum. The search runs in 16-bit integers: a
 * block is normalised to its peak, a trial is one high-half multiplication, and seven comparisons
 * with the midpoints between levels give the nearest level. That is what makes 100 M weights a
 * second a core possible in plain C: compilers turn it into 8, 16 or 32 lanes.
 *
 * All bodies are elementwise floats and exact integers, so every instruction set gives the same
 * file. */
#include "encode.h"
#include "ggml.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define ENCODE_X86 1
#else
#define ENCODE_X86 0
#endif

#define ENCODE_UNIT         256 /* fixed point: one level step of the search is 256 */
#define ENCODE_TRIES        10
#define ENCODE_RATIO_MAX    90     /* peak / scale for which the sum of squares fits int32 */
#define ENCODE_PEAK_MIN     1e-6f  /* blocks smaller than this beside their row are zero */
#define ENCODE_ROW_PEAK_MIN 1e-20f /* smaller rows would need subnormal scales: they are zero */

/* ---- Source values --------------------------------------------------------------------------- */

static ERN_INLINE float encode_bits_to_f32(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static ERN_INLINE uint32_t encode_f32_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Without branches, so that it vectorises: the exponent is rebased by an exact multiplication,
 * which also makes subnormals right. */
static ERN_INLINE float encode_f16_to_f32(uint32_t h)
{
    const float magnitude = encode_bits_to_f32((h & 0x7fffu) << 13) * 0x1p112f;
    const uint32_t special = (h & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0;
    return encode_bits_to_f32(encode_f32_to_bits(magnitude) | special | (h & 0x8000u) << 16);
}

static ERN_INLINE uint32_t encode_load16(const unsigned char *src)
{
    return (uint32_t)src[0] | (uint32_t)src[1] << 8;
}

static ERN_INLINE void encode_decode_body(unsigned dtype, const unsigned char *restrict src,
                                          float *restrict dst, size_t n)
{
    if (dtype == CONV_BF16) {
        for (size_t i = 0; i < n; i++)
            dst[i] = encode_bits_to_f32(encode_load16(src + 2 * i) << 16);
    } else if (dtype == CONV_F16) {
        for (size_t i = 0; i < n; i++) dst[i] = encode_f16_to_f32(encode_load16(src + 2 * i));
    } else {
        for (size_t i = 0; i < n; i++)
            dst[i] = encode_bits_to_f32(encode_load16(src + 4 * i)
                                        | encode_load16(src + 4 * i + 2) << 16);
    }
}

static ERN_INLINE uint32_t encode_peak_body(const float *x, size_t n)
{
    int32_t peak = 0; /* without the sign bit, floats order as integers do */
    for (size_t i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0x7fffffff;
        peak = bits > peak ? bits : peak;
    }
    return (uint32_t)peak;
}

static ERN_INLINE float encode_block_peak(const float *x)
{
    return encode_bits_to_f32(encode_peak_body(x, ERN_BLOCK_COLS));
}

/* ---- w8 -------------------------------------------------------------------------------------- */

/* Round to nearest even by adding and taking away 1.5 * 2^23; |x| below 2^22. */
static ERN_INLINE int32_t encode_round(float x)
{
    return (int32_t)(encode_f32_to_bits(x + 0x1.8p23f) - 0x4b400000u);
}

static ERN_INLINE void encode_w8_block(const float *x, float inverse, int8_t code[32])
{
    for (size_t i = 0; i < ERN_BLOCK_COLS; i++) {
        int32_t c = encode_round(x[i] * inverse);
        c = c > 127 ? 127 : c < -127 ? -127 : c;
        code[i] = (int8_t)c;
    }
}

static ERN_INLINE void encode_w8_body(conv_scratch *scratch, uint32_t n_cols, float peak,
                                      unsigned row, unsigned char *group)
{
    const uint32_t n_blocks = ern_n_blocks(n_cols);
    const float row_scale = peak / (127.0f * 255.0f);
    unsigned char *scales = group + ERN_GROUP_ROWS * sizeof(float);
    unsigned char *codes = scales + ern_group_scale_bytes(ERN_W8, n_blocks);
    memcpy(group + row * sizeof row_scale, &row_scale, sizeof row_scale);
    for (uint32_t b = 0; b < n_blocks; b++) {
        int8_t code[ERN_BLOCK_COLS];
        const float *x = scratch->row + (size_t)b * ERN_BLOCK_COLS;
        float scale = ceilf(encode_block_peak(x) / (127.0f * row_scale) * 0.999999f);
        scale = scale > 255 ? 255 : scale;
        if (scale == 0) continue;
        encode_w8_block(x, 1.0f / (scale * row_scale), code);
        scales[(size_t)b * ERN_GROUP_ROWS + row] = (unsigned char)scale;
        for (size_t q = 0; q < 8; q++)
            memcpy(codes + (((size_t)b * 8 + q) * ERN_GROUP_ROWS + row) * 4, code + q * 4, 4);
    }
}

/* ---- w4 -------------------------------------------------------------------------------------- */

/* How magnitudes are rounded to levels: above `above`, the level is `more` greater. The level table
 * has 37 beside -36; the search takes 36.5 for both. */
#define ENCODE_W4_STEPS(STEP)                         \
    STEP(6 * ENCODE_UNIT, 6 * ENCODE_UNIT)            \
    STEP(12 * ENCODE_UNIT, 6 * ENCODE_UNIT)           \
    STEP(37 * ENCODE_UNIT / 2, 7 * ENCODE_UNIT)       \
    STEP(51 * ENCODE_UNIT / 2, 7 * ENCODE_UNIT)       \
    STEP(131 * ENCODE_UNIT / 4, 15 * ENCODE_UNIT / 2) \
    STEP(165 * ENCODE_UNIT / 4, 19 * ENCODE_UNIT / 2) \
    STEP(53 * ENCODE_UNIT, 14 * ENCODE_UNIT)
#define ENCODE_W4_FIRST (3 * ENCODE_UNIT)
#define ENCODE_W4_ADD(above, more) \
    level = (int16_t)(level + ((int16_t) - (u > (int16_t)(above)) & (int16_t)(more)));

/* Magnitudes in units of 1 / 65535 of the block's peak become units of scale / 256: the peak is
 * `ratio` / 256 scales. */
static ERN_INLINE int16_t encode_w4_at(uint16_t magnitude, uint16_t ratio)
{
    return (int16_t)(((uint32_t)magnitude * ratio) >> 16);
}

static ERN_INLINE int16_t encode_w4_level(int16_t u)
{
    int16_t level = ENCODE_W4_FIRST;
    ENCODE_W4_STEPS(ENCODE_W4_ADD)
    return level;
}

/* Squared error of a block in (scale / 256)^2. Padding columns add the same to every trial. */
static ERN_INLINE int32_t encode_w4_error(const uint16_t *magnitude, uint16_t ratio)
{
    int16_t d[ERN_BLOCK_COLS];
    int32_t sum = 0;
    for (size_t i = 0; i < ERN_BLOCK_COLS; i++) {
        const int16_t u = encode_w4_at(magnitude[i], ratio);
        d[i] = (int16_t)(u - encode_w4_level(u));
    }
    for (size_t i = 0; i < ERN_BLOCK_COLS; i++) sum += d[i] * d[i];
    return sum;
}

/* Least squares: the ratio that suits the levels chosen at `ratio` best. */
static ERN_INLINE uint16_t encode_w4_refine(const uint16_t *magnitude, uint16_t ratio,
                                            uint32_t n_cols)
{
    int32_t cross = 0, square = 0; /* sum of u level, sum of level^2, both below 2^24 */
    for (size_t i = 0; i < ERN_BLOCK_COLS; i++) {
        const int16_t u = encode_w4_at(magnitude[i], ratio);
        const int16_t level = (int16_t)(encode_w4_level(u) >> 4);
        cross += (u >> 4) * level;
        square += level * level;
    }
    square -=
        (int32_t)(ERN_BLOCK_COLS - n_cols) * ((ENCODE_W4_FIRST >> 4) * (ENCODE_W4_FIRST >> 4));
    if (cross <= 0 || square <= 0) return ratio;
    const float better = (float)ratio * (float)square / (float)cross;
    return better < ENCODE_RATIO_MAX * ENCODE_UNIT ? (uint16_t)(better + 0.5f) : ratio;
}

static ERN_INLINE float encode_w4_score(const uint16_t *magnitude, uint16_t ratio, uint32_t n_cols)
{
    const int32_t pad = (int32_t)(ERN_BLOCK_COLS - n_cols) * (ENCODE_W4_FIRST * ENCODE_W4_FIRST);
    return (float)(encode_w4_error(magnitude, ratio) - pad) / ((float)ratio * (float)ratio);
}

/* The best peak / scale of a block, in 1 / 256. */
static ERN_INLINE uint16_t encode_w4_search(const uint16_t *magnitude, uint32_t n_cols)
{
    /* 42 to 72 in equal ratios: where the best of Gaussian and of heavy-tailed blocks lie. */
    static const uint16_t tries[ENCODE_TRIES] = { 10752, 11416, 12120, 12868, 13662,
                                                  14506, 15401, 16351, 17361, 18432 };
    uint16_t best = tries[0];
    float best_score = encode_w4_score(magnitude, best, n_cols);
    for (size_t i = 1; i < ENCODE_TRIES; i++) {
        const float score = encode_w4_score(magnitude, tries[i], n_cols);
        best = score < best_score ? tries[i] : best;
        best_score = score < best_score ? score : best_score;
    }
    const uint16_t refined = encode_w4_refine(magnitude, best, n_cols);
    return encode_w4_score(magnitude, refined, n_cols) < best_score ? refined : best;
}

static ERN_INLINE void encode_w4_magnitudes(const float *x, float peak, uint16_t *magnitude)
{
    const float inverse = 65535.0f / peak;
    for (size_t i = 0; i < ERN_BLOCK_COLS; i++)
        magnitude[i] = (uint16_t)(int32_t)(fabsf(x[i]) * inverse + 0.5f);
}

/* Peaks, magnitudes and best scales of all blocks; returns the largest scale. Scales are in units
 * of the row's peak, so that rows of any size are safe from overflow. */
static ERN_INLINE float encode_w4_blocks(conv_scratch *scratch, uint32_t n_cols, float row_peak)
{
    float largest = 0;
    const uint32_t n_blocks = ern_n_blocks(n_cols);
    for (uint32_t b = 0; b < n_blocks; b++) {
        uint16_t *magnitude = scratch->magnitude + (size_t)b * ERN_BLOCK_COLS;
        const float *x = scratch->row + (size_t)b * ERN_BLOCK_COLS;
        const uint32_t n = n_cols - b * ERN_BLOCK_COLS;
        const float peak = encode_block_peak(x);
        scratch->peak[b] = peak / row_peak;
        scratch->scale[b] = 0;
        if (scratch->peak[b] < ENCODE_PEAK_MIN) continue;
        encode_w4_magnitudes(x, peak, magnitude);
        const uint16_t ratio = encode_w4_search(magnitude, n < ERN_BLOCK_COLS ? n : ERN_BLOCK_COLS);
        scratch->scale[b] = scratch->peak[b] * ENCODE_UNIT / (float)ratio;
        largest = scratch->scale[b] > largest ? scratch->scale[b] : largest;
    }
    return largest;
}

/* The best whole number of steps around the block's own optimum; 0 when the block rounds to
 * zero. */
static ERN_INLINE uint32_t encode_w4_step(const conv_scratch *scratch, uint32_t b, float step,
                                          uint32_t n_cols, uint16_t *ratio)
{
    const uint16_t *magnitude = scratch->magnitude + (size_t)b * ERN_BLOCK_COLS;
    const float middle = floorf(scratch->scale[b] / step + 0.5f), peak = scratch->peak[b];
    uint32_t best = 0;
    float best_score = INFINITY;
    if (peak < 1.5f * step) return 0; /* nearer to zero than to three steps */
    for (float m = middle - 1; m <= middle + 1; m++) {
        const float at = peak * ENCODE_UNIT / (m * step) + 0.5f;
        if (m < 1 || m > 255 || at >= ENCODE_RATIO_MAX * ENCODE_UNIT) continue;
        const float score = encode_w4_score(magnitude, (uint16_t)at, n_cols);
        if (score >= best_score) continue;
        best_score = score;
        best = (uint32_t)m;
        *ratio = (uint16_t)at;
    }
    return best;
}

#define ENCODE_W4_COUNT(above, more) rank = (int16_t)(rank + (u > (int16_t)(above)));

/* Codes as the tables of format.h number them, and as a group holds them: vector v has column 8 v +
 * j in the low nibble of byte j and column 8 v + 4 + j in the high one. The two midpoints beside 37
 * and -36 are exact here. */
static ERN_INLINE void encode_w4_pack(const float *x, const uint16_t *magnitude, uint16_t ratio,
                                      unsigned char *packed)
{
    int16_t code[ERN_BLOCK_COLS];
    for (size_t i = 0; i < ERN_BLOCK_COLS; i++) {
        const int16_t negative = (int16_t)(encode_f32_to_bits(x[i]) >> 31);
        int16_t u = encode_w4_at(magnitude[i], ratio), rank = 0;
        if (u > 31 * ENCODE_UNIT && u < 43 * ENCODE_UNIT)
            u = (int16_t)(u + (negative ? ENCODE_UNIT / 4 : -ENCODE_UNIT / 4));
        ENCODE_W4_STEPS(ENCODE_W4_COUNT)
        code[i] = (int16_t)(negative ? 7 - rank : 8 + rank);
    }
    for (size_t v = 0; v < 4; v++)
        for (size_t j = 0; j < 4; j++)
            packed[4 * v + j] = (unsigned char)(code[8 * v + j] | code[8 * v + 4 + j] << 4);
}

static ERN_INLINE void encode_w4_body(conv_scratch *scratch, uint32_t n_cols, float peak,
                                      unsigned row, unsigned char *group)
{
    const uint32_t n_blocks = ern_n_blocks(n_cols);
    unsigned char *scales = group + ERN_GROUP_ROWS * sizeof(float);
    unsigned char *codes = scales + ern_group_scale_bytes(ERN_W4, n_blocks);
    const float step = encode_w4_blocks(scratch, n_cols, peak) / 255.0f;
    const float row_scale = step * peak;
    memcpy(group + row * sizeof row_scale, &row_scale, sizeof row_scale);
    for (uint32_t b = 0; b < n_blocks; b++) {
        const size_t at = (size_t)b * ERN_BLOCK_COLS;
        const uint32_t n = n_cols - b * ERN_BLOCK_COLS;
        unsigned char packed[ERN_BLOCK_COLS / 2];
        uint16_t ratio = 0;
        if (scratch->scale[b] == 0) continue;
        const uint32_t scale = encode_w4_step(scratch, b, step, n < 32 ? n : 32, &ratio);
        if (scale == 0) continue;
        encode_w4_pack(scratch->row + at, scratch->magnitude + at, ratio, packed);
        scales[(size_t)b * ERN_GROUP_ROWS + row] = (unsigned char)scale;
        for (size_t v = 0; v < 4; v++)
            memcpy(codes + (((size_t)b * 4 + v) * ERN_GROUP_ROWS + row) * 4, packed + 4 * v, 4);
    }
}

/* ---- Plain types ----------------------------------------------------------------------------- */

static void encode_plain(unsigned type, const float *x, uint32_t n_cols, unsigned char *row)
{
    if (type == ERN_F32) {
        memcpy(row, x, (size_t)n_cols * sizeof *x);
        return;
    }
    uint16_t *halves = (uint16_t *)(void *)row; /* rows start at multiples of 64 */
    for (uint32_t i = 0; i < n_cols; i++)
        halves[i] = type == ERN_F16 ? ern_f32_to_f16(x[i]) : ern_f32_to_bf16(x[i]);
}

/* ---- Instruction sets ------------------------------------------------------------------------ */

struct conv_encoder {
    void (*decode)(unsigned dtype, const unsigned char *src, float *dst, size_t n);
    uint32_t (*peak)(const float *x, size_t n);
    void (*w8)(conv_scratch *scratch, uint32_t n_cols, float peak, unsigned row,
               unsigned char *group);
    void (*w4)(conv_scratch *scratch, uint32_t n_cols, float peak, unsigned row,
               unsigned char *group);
};

#define ENCODE_INSTANCE(set, TARGET)                                                             \
    TARGET static void encode_decode_##set(unsigned dtype, const unsigned char *src, float *dst, \
                                           size_t n)                                             \
    {                                                                                            \
        encode_decode_body(dtype, src, dst, n);                                                  \
    }                                                                                            \
    TARGET static uint32_t encode_peak_##set(const float *x, size_t n)                           \
    {                                                                                            \
        return encode_peak_body(x, n);                                                           \
    }                                                                                            \
    TARGET static void encode_w8_##set(conv_scratch *scratch, uint32_t n_cols, float peak,       \
                                       unsigned row, unsigned char *group)                       \
    {                                                                                            \
        encode_w8_body(scratch, n_cols, peak, row, group);                                       \
    }                                                                                            \
    TARGET static void encode_w4_##set(conv_scratch *scratch, uint32_t n_cols, float peak,       \
                                       unsigned row, unsigned char *group)                       \
    {                                                                                            \
        encode_w4_body(scratch, n_cols, peak, row, group);                                       \
    }                                                                                            \
    static const conv_encoder encode_##set = { encode_decode_##set, encode_peak_##set,           \
                                               encode_w8_##set, encode_w4_##set };

ENCODE_INSTANCE(base, )
#if ENCODE_X86
ENCODE_INSTANCE(avx2, __attribute__((target("avx2"))))
ENCODE_INSTANCE(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))))
#endif

ERN_FN const conv_encoder *conv_encoder_at(unsigned i)
{
    switch (i) {
    case 0: return &encode_base;
#if ENCODE_X86
    case 1: return __builtin_cpu_supports("avx2") ? &encode_avx2 : NULL;
    case 2:
        return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")
                       && __builtin_cpu_supports("avx512dq")
                   ? &encode_avx512
                   : NULL;
#endif
    default: return NULL;
    }
}

ERN_FN const conv_encoder *conv_encoder_best(void)
{
    unsigned i = 0;
    while (conv_encoder_at(i + 1)) i++;
    return conv_encoder_at(i);
}

/* ---- Rows ------------------------------------------------------------------------------------ */

ERN_FN size_t conv_scratch_bytes(uint32_t n_cols)
{
    const size_t n = ern_round_up(n_cols, ERN_BLOCK_COLS), n_blocks = n / ERN_BLOCK_COLS;
    return ern_round_up(n * (sizeof(float) + sizeof(uint16_t)) + 2 * n_blocks * sizeof(float), 64);
}

ERN_FN void conv_scratch_set(conv_scratch *scratch, void *memory, uint32_t n_cols)
{
    const size_t n = ern_round_up(n_cols, ERN_BLOCK_COLS), n_blocks = n / ERN_BLOCK_COLS;
    scratch->row = memory;
    scratch->peak = scratch->row + n;
    scratch->scale = scratch->peak + n_blocks;
    scratch->magnitude = (uint16_t *)(scratch->scale + n_blocks);
}

ERN_FN void conv_decode(const conv_encoder *encoder, unsigned dtype, const unsigned char *src,
                        float *dst, size_t n)
{
    if (dtype >= CONV_GGML)
        conv_ggml_decode(dtype - CONV_GGML, src, dst, n);
    else
        encoder->decode(dtype, src, dst, n);
}

ERN_FN uint32_t conv_peak_bits(const conv_encoder *encoder, const float *row, size_t n)
{
    return encoder->peak(row, n);
}

ERN_FN uint32_t conv_type_limit(unsigned type)
{
    switch (type) {
    case ERN_F16: return 0x477ff000u;  /* 65520 rounds to infinity */
    case ERN_BF16: return 0x7f7f8000u; /* half a step above the largest */
    case ERN_F32: return 0x7f800000u;
    default: return 0x7e967699u; /* 1e38: scale times level must not overflow */
    }
}

ERN_FN void conv_encode_row(const conv_encoder *encoder, unsigned type, conv_scratch *scratch,
                            uint32_t n_cols, uint32_t peak_bits, unsigned row, unsigned char *group)
{
    const float peak = encode_bits_to_f32(peak_bits);
    if (type <= ERN_BF16)
        encode_plain(type, scratch->row, n_cols, group + row * ern_row_bytes(type, n_cols));
    else if (peak < ENCODE_ROW_PEAK_MIN)
        return; /* zero scales: the row is zero */
    else if (type == ERN_W8)
        encoder->w8(scratch, n_cols, peak, row, group);
    else
        encoder->w4(scratch, n_cols, peak, row, group);
}

#undef ENCODE_X86
#undef ENCODE_UNIT
#undef ENCODE_TRIES
#undef ENCODE_RATIO_MAX
#undef ENCODE_PEAK_MIN
#undef ENCODE_ROW_PEAK_MIN
#undef ENCODE_W4_STEPS
#undef ENCODE_W4_FIRST
#undef ENCODE_W4_ADD
#undef ENCODE_W4_COUNT
#undef ENCODE_INSTANCE
