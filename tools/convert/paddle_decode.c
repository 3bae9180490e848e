/* One function for each coding. Each takes up to sixteen output channels, columns of the tensor,
 * and writes a row of floats for each. docs/PADDLE.md has the formulas. */
#include "paddle_decode.h"

#define DECODE_GROUP 64u  /* input channels of a scale of 2-bit weights */
#define DECODE_BLOCK 128u /* side of an FP8 block */

/* The rows that one call makes. */
typedef struct decode_run {
    const conv_columns *columns;
    const conv_encoder *encoder;
    uint32_t row, n, n_cols;
    float *values; /* row i at i * stride */
    size_t stride;
} decode_run;

typedef struct decode_scales {
    float of[ERN_GROUP_ROWS];
} decode_scales;

/* ---- What is needed -------------------------------------------------------------------------- */

ERN_FN unsigned conv_paddle_bits16(uint32_t coding)
{
    switch ((conv_coding)coding) {
    case CONV_INT8:
    case CONV_INT8_TILED:
    case CONV_E4M3: return 8 * 16;
    case CONV_INT4:
    case CONV_INT4_TILED:
    case CONV_W4A8_TILED: return 4 * 16;
    case CONV_CCQ2: return 2 * 16;
    case CONV_CCQ2_5: return 5 * 8;
    case CONV_ROWS:
    case CONV_COLUMNS:
    case CONV_N_CODINGS: break;
    }
    return 0;
}

/* How many columns lie side by side in a tiled coding; 0 for the others. */
static uint32_t decode_side(uint32_t coding)
{
    return coding == CONV_INT8_TILED                                ? 2
           : coding == CONV_INT4_TILED || coding == CONV_W4A8_TILED ? 4
                                                                    : 0;
}

static size_t decode_float_bytes(const conv_tensor *tensor)
{
    return tensor->dtype == CONV_F32 ? 4 : 2;
}

/* Columns that lie side by side, whole: their bytes follow one another. */
static void decode_need_tiles(conv_columns *columns, uint64_t first)
{
    const uint32_t side = decode_side(columns->slice->coding);
    const uint64_t line =
        (uint64_t)columns->n_cols * side * conv_paddle_bits16(columns->slice->coding) / 128;
    const uint64_t begin = first / side, end = (first + columns->n - 1) / side + 1;
    conv_columns_need(columns, columns->slice->tensor, 1, line, 0, (size_t)line,
                      (size_t)(end - begin));
    columns->rects[columns->n_rects - 1].offset += begin * line;
}

/* The lines of a companion that has a value for each column. */
static void decode_need_scales(conv_columns *columns, unsigned i, uint64_t first)
{
    const conv_tensor *tensor = columns->slice->companions[i];
    const bool bytes = columns->slice->coding == CONV_CCQ2 && i == 0;
    const bool single = columns->slice->coding == CONV_W4A8_TILED && i == 1;
    const size_t value_bytes = bytes ? 1 : decode_float_bytes(tensor);
    if (columns->slice->coding == CONV_E4M3) {
        const uint64_t begin = first / DECODE_BLOCK, end = (first + columns->n - 1) / DECODE_BLOCK;
        conv_columns_need(columns, tensor, value_bytes, tensor->dims[1], begin,
                          (size_t)(end - begin + 1), (size_t)tensor->dims[0]);
    } else if (single) {
        conv_columns_need(columns, tensor, value_bytes, 1, 0, 1, 1);
    } else {
        const uint64_t width = tensor->dims[bytes];
        conv_columns_need(columns, tensor, value_bytes, width, first, columns->n,
                          bytes ? (size_t)tensor->dims[0] : 1);
    }
}

ERN_FN void conv_paddle_columns_set(conv_columns *columns)
{
    const conv_slice *slice = columns->slice;
    const conv_tensor *tensor = slice->tensor;
    const uint64_t first = (uint64_t)slice->first_row + columns->first;
    if (decode_side(slice->coding) > 0)
        decode_need_tiles(columns, first);
    else
        conv_columns_need(columns, tensor, slice->coding == CONV_CCQ2_5 ? 2 : 1, tensor->dims[1],
                          first, columns->n, (size_t)tensor->dims[0]);
    for (unsigned i = 0; i < CONV_COMPANIONS_MAX; i++)
        if (slice->companions[i])
            decode_need_scales(columns, i, first);
        else if (i + 1 < CONV_COMPANIONS_MAX && slice->companions[i + 1])
            columns->n_rects++; /* an absent one keeps its place, without bytes */
}

/* ---- Helpers --------------------------------------------------------------------------------- */

/* The run's first column in line `line` of rect r, of values of value_bytes. */
static const unsigned char *decode_line(const decode_run *run, unsigned r, size_t line,
                                        size_t value_bytes)
{
    const conv_rect *rect = &run->columns->rects[r];
    return rect->data + line * rect->n_bytes + (run->row - run->columns->first) * value_bytes;
}

/* The scales of the run's columns in rect r, over the slice's divisor. */
static void decode_floats(const decode_run *run, unsigned r, decode_scales *scales)
{
    const conv_tensor *tensor = run->columns->rects[r].tensor;
    conv_decode(run->encoder, tensor->dtype, decode_line(run, r, 0, decode_float_bytes(tensor)),
                scales->of, run->n);
    for (uint32_t i = 0; i < run->n; i++) scales->of[i] /= run->columns->slice->divisor;
}

static ERN_INLINE float decode_nibble(unsigned code)
{
    return (float)((int)(code & 15) - (int)((code & 8) << 1));
}

/* ---- int8, int4 and e4m3 by columns ---------------------------------------------------------- */

static void decode_int8(const decode_run *run)
{
    decode_scales scales;
    decode_floats(run, 1, &scales);
    for (uint32_t k = 0; k < run->n_cols; k++) {
        const unsigned char *line = decode_line(run, 0, k, 1);
        for (uint32_t i = 0; i < run->n; i++)
            run->values[i * run->stride + k] = (float)(int8_t)line[i] * scales.of[i];
    }
}

static void decode_int4(const decode_run *run)
{
    decode_scales scales;
    decode_floats(run, 1, &scales);
    for (uint32_t k = 0; k < run->n_cols; k += 2) {
        const unsigned char *line = decode_line(run, 0, k / 2, 1);
        for (uint32_t i = 0; i < run->n; i++) {
            float *value = run->values + i * run->stride + k;
            value[0] = decode_nibble(line[i]) * scales.of[i];
            value[1] = decode_nibble(line[i] >> 4u) * scales.of[i];
        }
    }
}

/* Exponent and mantissa move to a float's places, whose exponent counts 120 more. */
static ERN_INLINE float decode_e4m3(unsigned byte)
{
    float value;
    const uint32_t bits = (byte & 0x7fu) << 20;
    memcpy(&value, &bits, sizeof value);
    value *= 0x1p120f;
    if ((byte & 0x7fu) == 0x7fu) value = NAN;
    return byte & 0x80u ? -value : value;
}

static void decode_fp8(const decode_run *run)
{
    float blocks[ERN_GROUP_ROWS + 1];
    const conv_rect *rect = &run->columns->rects[1];
    const uint64_t origin = (uint64_t)run->columns->slice->first_row + run->columns->first,
                   column = (uint64_t)run->columns->slice->first_row + run->row;
    const size_t value_bytes = decode_float_bytes(rect->tensor);
    const uint64_t first = column / DECODE_BLOCK;
    const size_t n_blocks = (size_t)((column + run->n - 1) / DECODE_BLOCK - first + 1);
    for (uint32_t k = 0; k < run->n_cols; k++) {
        const unsigned char *line = decode_line(run, 0, k, 1);
        if (k % DECODE_BLOCK == 0)
            conv_decode(run->encoder, rect->tensor->dtype,
                        rect->data + k / DECODE_BLOCK * rect->n_bytes
                            + (first - origin / DECODE_BLOCK) * value_bytes,
                        blocks, n_blocks);
        for (uint32_t i = 0; i < run->n; i++)
            run->values[i * run->stride + k] =
                decode_e4m3(line[i]) * blocks[(column + i) / DECODE_BLOCK - first];
    }
}

/* ---- Tiles ----------------------------------------------------------------------------------- */

/* Where input channel k of column c of those side by side lies: a byte, or a nibble. */
static size_t decode_int8_place(uint32_t k, uint32_t c)
{
    const size_t turned = k / 16 * 16 + 2 * (k % 8) + k % 16 / 8;
    return turned / 64 * 128 + 64 * c + turned % 64;
}

/* Bytes hold two input channels; then of four bytes the low nibbles of 0 and 2, of 1 and 3, and the
 * high nibbles likewise come together. */
static size_t decode_int4_place(uint32_t k, uint32_t c)
{
    const size_t pair = k / 2;
    const size_t turned = pair / 16 * 16 + 2 * (2 * (pair % 4) + pair % 8 / 4) + pair % 16 / 8;
    const size_t byte = turned / 32 * 128 + 32 * c + turned % 32;
    return 2 * (byte / 4 * 4 + byte % 2 + 2 * (k % 2)) + byte % 4 / 2;
}

static size_t decode_w4a8_place(uint32_t k, uint32_t c)
{
    static const unsigned char spread[8] = { 0, 2, 4, 6, 1, 3, 5, 7 };
    const size_t four = k / 4;
    const size_t place = spread[four % 8] + four % 16 / 8 * 8 + c * 16 + four / 16 * 64;
    return place / 2 * 8 + spread[place % 2 * 4 + k % 4];
}

static void decode_tiled(const decode_run *run)
{
    decode_scales scales;
    const conv_slice *slice = run->columns->slice;
    const conv_rect *rect = &run->columns->rects[0];
    const uint32_t side = decode_side(slice->coding);
    const uint64_t origin = ((uint64_t)slice->first_row + run->columns->first) / side;
    decode_floats(run, 1, &scales);
    for (uint32_t i = 0; i < run->n; i++) {
        const uint64_t column = (uint64_t)slice->first_row + run->row + i;
        const unsigned char *tile = rect->data + (size_t)(column / side - origin) * rect->n_bytes;
        const uint32_t c = (uint32_t)(column % side);
        float *values = run->values + i * run->stride;
        for (uint32_t k = 0; k < run->n_cols; k++) {
            if (slice->coding == CONV_INT8_TILED) {
                values[k] = (float)((int)tile[decode_int8_place(k, c)] - 128) * scales.of[i];
                continue;
            }
            const bool w4a8 = slice->coding == CONV_W4A8_TILED;
            const size_t place = w4a8 ? decode_w4a8_place(k, c) : decode_int4_place(k, c);
            const unsigned code = tile[place / 2] >> 4 * (place % 2);
            values[k] = (w4a8 ? decode_nibble(code) : (float)((int)(code & 15) - 8)) * scales.of[i];
        }
    }
}

/* The scales of a permuted W4A8 hold the activation's, and what int8 activations and int4 weights
 * in the high half of a byte are worth. */
static void decode_w4a8_gain(const decode_run *run)
{
    float input;
    const conv_rect *rect = &run->columns->rects[2];
    conv_decode(run->encoder, rect->tensor->dtype, rect->data, &input, 1);
    for (uint32_t i = 0; i < run->n; i++)
        for (uint32_t k = 0; k < run->n_cols; k++)
            run->values[i * run->stride + k] *= 127.0f * 16.0f * 7.0f * input;
}

/* ---- Two bits -------------------------------------------------------------------------------- */

/* The 15-bit code of each byte, for each column; false when one does not fit. */
static bool decode_ccq_codes(const decode_run *run, uint16_t codes[][256], uint32_t *bad)
{
    decode_scales scale, zero;
    decode_floats(run, 3, &scale);
    decode_floats(run, 4, &zero);
    for (uint32_t i = 0; i < run->n; i++) {
        *bad = i;
        for (unsigned byte = 0; byte < 256; byte++) {
            const float code = floorf(fmaf((float)byte, scale.of[i], zero.of[i] + 0.5f));
            if (!(code >= -32768.0f && code <= 32767.0f)) return false;
            codes[i][byte] = (uint16_t)(int)code;
        }
    }
    return true;
}

static ernie_status decode_ccq2(const decode_run *run, ernie_error *error)
{
    uint32_t bad;
    decode_scales super;
    uint16_t codes[ERN_GROUP_ROWS][256];
    const conv_slice *slice = run->columns->slice;
    ERN_FAIL_IF(!decode_ccq_codes(run, codes, &bad), error, ERNIE_FORMAT,
                "tensor \"%.96s\": column %llu and its code_zp make a code of more than 16 bits",
                slice->companions[2]->name, (unsigned long long)slice->first_row + run->row + bad);
    for (uint32_t i = 0; i < run->n; i++) super.of[i] = 1;
    if (slice->companions[1]) decode_floats(run, 2, &super);
    for (uint32_t k = 0; k < run->n_cols; k += 4) {
        const unsigned char *line = decode_line(run, 0, k / 4, 1);
        const uint32_t group = k / DECODE_GROUP;
        const unsigned char *local = decode_line(run, 1, group / 2, 1);
        for (uint32_t i = 0; i < run->n; i++) {
            const unsigned code = codes[i][line[i]];
            const float scale = (float)(local[i] >> (group % 2 ? 0u : 4u) & 15u) * super.of[i];
            float *value = run->values + i * run->stride + k;
            for (unsigned j = 0; j < 4; j++)
                value[j] = (float)((int)(code >> (9 - 3 * j) & 63) - 32) * scale;
        }
    }
    return ERNIE_OK;
}

static unsigned decode_word(const decode_run *run, size_t line, uint32_t i)
{
    const unsigned char *at = decode_line(run, 0, line, 2) + 2 * (size_t)i;
    return at[0] | (unsigned)at[1] << 8;
}

static void decode_ccq2_5(const decode_run *run)
{
    static const unsigned char shifts[7] = { 13, 11, 9, 6, 4, 2, 0 };
    decode_scales super;
    for (uint32_t i = 0; i < run->n; i++) super.of[i] = 1;
    if (run->columns->slice->companions[0]) decode_floats(run, 1, &super);
    for (uint32_t group = 0; group < run->n_cols / DECODE_GROUP; group++)
        for (uint32_t i = 0; i < run->n; i++) {
            const size_t first = (size_t)group * 10;
            const unsigned last = decode_word(run, first + 9, i);
            const float scale = (float)(last & 0x1fff) * super.of[i];
            float *value = run->values + i * run->stride + (size_t)group * DECODE_GROUP;
            for (unsigned w = 0; w < 9; w++) {
                const unsigned word = decode_word(run, first + w, i);
                for (unsigned j = 0; j < 7; j++)
                    *value++ = (float)((int)(word >> shifts[j] & 7) - 4) * scale;
            }
            *value = (float)((int)(last >> 13) - 4) * scale;
        }
}

/* ---- Rotation -------------------------------------------------------------------------------- */

/* Each block times the Hadamard matrix of +1 and -1, in natural order, times the gain: the matrix
 * divided by the root of its size is its own inverse. */
static void decode_turn_back(const decode_run *run, float *row)
{
    const uint32_t block = run->columns->slice->hadamard;
    const float gain = run->columns->slice->gain;
    for (uint32_t half = 1; half < block; half *= 2)
        for (uint32_t at = 0; at < run->n_cols; at += 2 * half)
            for (uint32_t i = at; i < at + half; i++) {
                const float a = row[i], b = row[i + half];
                row[i] = a + b;
                row[i + half] = a - b;
            }
    for (uint32_t i = 0; i < run->n_cols; i++) row[i] *= gain;
}

/* ---- The whole ------------------------------------------------------------------------------- */

ERN_FN ernie_status conv_paddle_columns_rows(const conv_columns *columns,
                                             const conv_encoder *encoder, uint32_t row, uint32_t n,
                                             float *values, size_t stride, ernie_error *error)
{
    ernie_status status = ERNIE_OK;
    const decode_run run = { columns, encoder, row, n, columns->n_cols, values, stride };
    switch ((conv_coding)columns->slice->coding) {
    case CONV_INT8: decode_int8(&run); break;
    case CONV_INT4: decode_int4(&run); break;
    case CONV_E4M3: decode_fp8(&run); break;
    case CONV_INT8_TILED:
    case CONV_INT4_TILED: decode_tiled(&run); break;
    case CONV_W4A8_TILED:
        decode_tiled(&run);
        decode_w4a8_gain(&run);
        break;
    case CONV_CCQ2: status = decode_ccq2(&run, error); break;
    case CONV_CCQ2_5: decode_ccq2_5(&run); break;
    case CONV_ROWS:
    case CONV_COLUMNS:
    case CONV_N_CODINGS: ERN_ASSERT(false); break;
    }
    for (uint32_t i = 0; i < n && status == ERNIE_OK && columns->slice->hadamard > 1; i++)
        decode_turn_back(&run, values + i * stride);
    return status;
}

#undef DECODE_GROUP
#undef DECODE_BLOCK
