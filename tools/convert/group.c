/* A group from its first block to its last: what earlier columns left is added to a block's
 * values, the block is coded, and what it leaves is remembered. Rows are independent; sixteen go
 * side by side, in elementwise floats, so every instruction set gives the same file. */
#include "group.h"
#include "trellis.h"

#include <math.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define GROUP_X86 1
#else
#define GROUP_X86 0
#endif

#define GROUP_ROW_PEAK_MIN 1e-20f /* smaller rows would need subnormal scales: they are zero */
#define GROUP_W4_RATIO_MIN 38.0f  /* peak of a block over its scale: where the best scales lie */
#define GROUP_W4_RATIO_MAX 80.0f
#define GROUP_W4_HEADROOM  1.1f /* later blocks may have grown */

enum { GROUP_ROWS = ERN_GROUP_ROWS, GROUP_COLS = ERN_BLOCK_COLS, GROUP_W4_TRIES = 16 };

typedef float group_lanes[GROUP_ROWS];

/* ---- Memory ---------------------------------------------------------------------------------- */

static size_t group_block_bytes(void) { return ern_round_up(sizeof(conv_trellis_block), 64); }

ERN_FN size_t conv_group_bytes(uint32_t n_cols)
{
    const size_t stride = ern_round_up(n_cols, GROUP_COLS);
    return 2 * stride * sizeof(group_lanes) + conv_trellis_bytes() + group_block_bytes();
}

ERN_FN void conv_group_set(conv_group *group, void *memory, uint32_t n_cols)
{
    group->stride = ern_round_up(n_cols, GROUP_COLS);
    group->row = memory;
    group->error = group->row + GROUP_ROWS * group->stride;
    group->trellis = group->error + GROUP_ROWS * group->stride;
    group->block = (char *)group->trellis + conv_trellis_bytes();
}

ERN_FN bool conv_group_makes(unsigned type, const conv_feedback *feedback)
{
    return type >= ERN_C4 || (type == ERN_W4 && feedback);
}

/* ---- Feedback -------------------------------------------------------------------------------- */

/* target [32][16]: the block's values, raised by what the errors of earlier columns ask for. */
static ERN_INLINE void group_target(const conv_group *group, const conv_feedback *feedback,
                                    size_t b, group_lanes *restrict target)
{
    const size_t first = b * GROUP_COLS;
    for (size_t c = 0; c < GROUP_COLS; c++)
        for (size_t r = 0; r < GROUP_ROWS; r++)
            target[c][r] = group->row[r * group->stride + first + c];
    if (!feedback || !feedback->pull) return;
    const float *pull = feedback->pull + GROUP_COLS * GROUP_COLS * (b * (b ? b - 1 : 0) / 2);
    group_lanes *error = (group_lanes *)(void *)group->error;
    for (size_t c = 0; c < GROUP_COLS; c += 8) {
        group_lanes sum[8] = { { 0 } };
        for (size_t j = 0; j < first; j++)
            for (size_t k = 0; k < 8; k++)
                for (size_t r = 0; r < GROUP_ROWS; r++)
                    sum[k][r] += error[j][r] * pull[j * GROUP_COLS + c + k];
        for (size_t k = 0; k < 8; k++) {
            const float by = feedback->stretch ? 1 / feedback->stretch[first + c + k] : 1.0f;
            for (size_t r = 0; r < GROUP_ROWS; r++) target[c + k][r] += sum[k][r] * by;
        }
    }
}

/* Remember what block b left: wanted minus decoded. */
static ERN_INLINE void group_keep_error(conv_group *group, const conv_feedback *feedback, size_t b,
                                        group_lanes *value)
{
    group_lanes *error = (group_lanes *)(void *)group->error;
    for (size_t c = 0; c < GROUP_COLS; c++) {
        const size_t column = b * GROUP_COLS + c;
        const float by = feedback && feedback->stretch ? feedback->stretch[column] : 1.0f;
        for (size_t r = 0; r < GROUP_ROWS; r++)
            error[column][r] = (group->row[r * group->stride + column] - value[c][r]) * by;
    }
}

/* A row whose row_scale is 0 decodes to zeros, whatever its codes say. */
static void group_silence(const float row_scale[GROUP_ROWS], group_lanes *value)
{
    for (size_t r = 0; r < GROUP_ROWS; r++)
        for (size_t c = 0; c < GROUP_COLS && row_scale[r] == 0; c++) value[c][r] = 0;
}

/* The largest is 1; columns that pad a row weigh nothing. */
static void group_weights(const conv_feedback *feedback, bool single, size_t b, uint32_t n_cols,
                          float weight[GROUP_COLS])
{
    float largest = 0;
    const float *of = feedback ? (single ? feedback->single : feedback->weight) : NULL;
    const float *stretch = feedback ? feedback->stretch : NULL;
    for (size_t c = 0; c < GROUP_COLS; c++) {
        const size_t column = b * GROUP_COLS + c;
        const float by = stretch ? stretch[column] : 1.0f;
        weight[c] = column >= n_cols ? 0.0f : of ? of[column] * (by * by) : 1.0f;
        largest = weight[c] > largest ? weight[c] : largest;
    }
    for (size_t c = 0; c < GROUP_COLS; c++) weight[c] = largest > 0 ? weight[c] / largest : 1.0f;
}

/* ---- c2, c3, c4 ------------------------------------------------------------------------------ */

/* Scales reach from a third of the row's root mean square to eight fifths of it; a row with a
 * louder block is scaled by that. A row of zeros has row_scale 0, and 1 in *used. */
static void group_row_scales(const conv_group *group, unsigned type, uint32_t n_cols,
                             float row_scale[GROUP_ROWS], float used[GROUP_ROWS])
{
    for (size_t r = 0; r < GROUP_ROWS; r++) {
        double total = 0, loudest = 0;
        for (size_t c = 0; c < n_cols; c += GROUP_COLS) {
            double sum = 0;
            const size_t end = ern_min_size(c + GROUP_COLS, n_cols);
            for (size_t i = c; i < end; i++) {
                const double x = (double)group->row[r * group->stride + i];
                sum += x * x;
            }
            const double mean = sum / (double)(end - c);
            total += sum;
            loudest = mean > loudest ? mean : loudest;
        }
        const float rms = (float)sqrt(total / n_cols);
        const float of_loudest = (float)sqrt(loudest) * (12.0f / 19.5f);
        row_scale[r] = conv_trellis_row_scale(type, rms > of_loudest ? rms : of_loudest);
        used[r] = row_scale[r];
        if (rms >= GROUP_ROW_PEAK_MIN) continue;
        row_scale[r] = 0;
        used[r] = 1;
    }
}

static ERN_INLINE void group_trellis(const conv_trellis *set, conv_group *group, unsigned type,
                                     uint32_t n_cols, const conv_feedback *feedback,
                                     unsigned n_tries, unsigned char *out)
{
    conv_trellis_block *block = group->block;
    const uint32_t n_blocks = ern_n_blocks(n_cols);
    const size_t block_bytes = ern_block_bytes(type);
    float row_scale[GROUP_ROWS];
    unsigned char *scales = out + GROUP_ROWS * sizeof(float);
    unsigned char *codes = scales + ern_group_scale_bytes(type, n_blocks);
    group_row_scales(group, type, n_cols, row_scale, block->row_scale);
    memcpy(out, row_scale, sizeof row_scale);
    for (size_t b = 0; b < n_blocks; b++) {
        group_target(group, feedback, b, block->target);
        group_weights(feedback, false, b, n_cols, block->weight);
        conv_trellis_encode(set, group->trellis, type, n_tries, block);
        for (size_t r = 0; r < GROUP_ROWS; r++) {
            const unsigned q = row_scale[r] > 0 ? block->q[r] : 0;
            scales[b / 2 * GROUP_ROWS + r] |= (unsigned char)(q << (b % 2 * 4));
        }
        memcpy(codes + b * block_bytes, block->word, block_bytes);
        group_silence(row_scale, block->value);
        group_keep_error(group, feedback, b, block->value);
    }
}

/* ---- w4 -------------------------------------------------------------------------------------- */

/* Level and code of x, in levels. */
static ERN_INLINE void group_w4_nearest(const float *restrict x, float *restrict level,
                                        int32_t *restrict code)
{
    for (size_t r = 0; r < GROUP_ROWS; r++) {
        float at = (float)ern_w4_level[0];
        int32_t index = 0;
        for (size_t i = 0; i + 1 < 16; i++) {
            const float low = (float)ern_w4_level[i], high = (float)ern_w4_level[i + 1];
            const bool above = x[r] > 0.5f * (low + high);
            at = above ? high : at;
            index += above;
        }
        level[r] = at;
        code[r] = index;
    }
}

/* Weighted squared error of a block at one scale, the columns each by itself, in squares of the
 * scale; what least squares would make of the scale. Numbers of the weights' own size are not
 * squared: they may be near the ends of what a float holds. */
static ERN_INLINE void group_w4_error(group_lanes *target, const float *weight,
                                      const float *scale, float *restrict error,
                                      float *restrict better)
{
    float cross[GROUP_ROWS] = { 0 }, square[GROUP_ROWS] = { 0 };
    for (size_t r = 0; r < GROUP_ROWS; r++) error[r] = 0;
    for (size_t c = 0; c < GROUP_COLS; c++) {
        float x[GROUP_ROWS], level[GROUP_ROWS];
        int32_t code[GROUP_ROWS];
        for (size_t r = 0; r < GROUP_ROWS; r++) x[r] = target[c][r] / scale[r];
        group_w4_nearest(x, level, code);
        for (size_t r = 0; r < GROUP_ROWS; r++) {
            const float d = x[r] - level[r];
            error[r] += weight[c] * (d * d);
            cross[r] += weight[c] * (x[r] * level[r]);
            square[r] += weight[c] * (level[r] * level[r]);
        }
    }
    for (size_t r = 0; r < GROUP_ROWS; r++)
        better[r] = square[r] > 0 ? scale[r] * (cross[r] / square[r]) : scale[r];
}

/* `wanted` to a whole number of steps, 1 .. 255. */
static ERN_INLINE float group_w4_step(float wanted, float step)
{
    const float n = floorf(wanted / step + 0.5f);
    return n < 1 ? 1.0f : n > 255 ? 255.0f : n;
}

/* The best scale of each row of a block, in steps. */
static ERN_INLINE void group_w4_search(group_lanes *target, const float *weight,
                                       const float *step, float *restrict best)
{
    float peak[GROUP_ROWS] = { 0 }, best_error[GROUP_ROWS];
    float better[GROUP_ROWS], best_better[GROUP_ROWS];
    for (size_t c = 0; c < GROUP_COLS; c++)
        for (size_t r = 0; r < GROUP_ROWS; r++) {
            const float x = fabsf(target[c][r]);
            peak[r] = x > peak[r] ? x : peak[r];
        }
    for (size_t i = 0; i <= GROUP_W4_TRIES; i++) {
        float scale[GROUP_ROWS], n[GROUP_ROWS], error[GROUP_ROWS];
        const float part = (float)i / (GROUP_W4_TRIES - 1);
        const float ratio = GROUP_W4_RATIO_MIN + part * (GROUP_W4_RATIO_MAX - GROUP_W4_RATIO_MIN);
        for (size_t r = 0; r < GROUP_ROWS; r++) {
            const float wanted = i < GROUP_W4_TRIES ? peak[r] / ratio : best_better[r];
            n[r] = group_w4_step(wanted, step[r]);
            scale[r] = n[r] * step[r];
        }
        group_w4_error(target, weight, scale, error, better);
        for (size_t r = 0; r < GROUP_ROWS; r++) {
            const float in_steps = error[r] * (n[r] * n[r]);
            const bool wins = i == 0 || in_steps < best_error[r];
            best_error[r] = wins ? in_steps : best_error[r];
            best_better[r] = wins ? better[r] : best_better[r];
            best[r] = wins ? n[r] : best[r];
        }
    }
}

/* Code a block column by column; what a column leaves is made good by those after it. Errors are
 * those of what the block was asked for, not of what earlier columns of it then asked of a
 * column: `inner` holds the factor's own rows, which have that in them. */
static ERN_INLINE void group_w4_block(const conv_feedback *feedback, size_t b, group_lanes *target,
                                      const float *scale, group_lanes *value,
                                      int32_t code[GROUP_COLS][GROUP_ROWS])
{
    const float *inner = feedback->inner ? feedback->inner + b * GROUP_COLS * GROUP_COLS : NULL;
    const float *stretch = feedback->stretch ? feedback->stretch + b * GROUP_COLS : NULL;
    group_lanes wanted[GROUP_COLS];
    memcpy(wanted, target, sizeof wanted);
    for (size_t c = 0; c < GROUP_COLS; c++) {
        float x[GROUP_ROWS], level[GROUP_ROWS], left[GROUP_ROWS];
        for (size_t r = 0; r < GROUP_ROWS; r++) x[r] = target[c][r] / scale[r];
        group_w4_nearest(x, level, code[c]);
        for (size_t r = 0; r < GROUP_ROWS; r++) {
            value[c][r] = scale[r] * level[r];
            left[r] = wanted[c][r] - value[c][r];
        }
        for (size_t k = c + 1; k < GROUP_COLS && inner; k++) {
            const float by = inner[c * GROUP_COLS + k] * (stretch ? stretch[c] / stretch[k] : 1.0f);
            for (size_t r = 0; r < GROUP_ROWS; r++) target[k][r] += left[r] * by;
        }
    }
}

static void group_w4_pack(int32_t code[GROUP_COLS][GROUP_ROWS], unsigned char *out)
{
    for (size_t v = 0; v < 4; v++)
        for (size_t r = 0; r < GROUP_ROWS; r++)
            for (size_t j = 0; j < 4; j++)
                out[(v * GROUP_ROWS + r) * 4 + j] =
                    (unsigned char)(code[8 * v + j][r] | code[8 * v + 4 + j][r] << 4);
}

static ERN_INLINE void group_w4_body(conv_group *group, uint32_t n_cols,
                                     const conv_feedback *feedback, unsigned char *out)
{
    const uint32_t n_blocks = ern_n_blocks(n_cols);
    float row_scale[GROUP_ROWS], step[GROUP_ROWS];
    unsigned char *scales = out + GROUP_ROWS * sizeof(float);
    unsigned char *codes = scales + ern_group_scale_bytes(ERN_W4, n_blocks);
    for (size_t r = 0; r < GROUP_ROWS; r++) {
        float peak = 0;
        for (size_t c = 0; c < n_cols; c++) {
            const float x = fabsf(group->row[r * group->stride + c]);
            peak = x > peak ? x : peak;
        }
        const bool zero = peak < GROUP_ROW_PEAK_MIN;
        row_scale[r] = zero ? 0 : peak * (GROUP_W4_HEADROOM / (GROUP_W4_RATIO_MIN * 255));
        step[r] = zero ? 1 : row_scale[r];
    }
    memcpy(out, row_scale, sizeof row_scale);
    for (size_t b = 0; b < n_blocks; b++) {
        group_lanes target[GROUP_COLS], value[GROUP_COLS];
        float weight[GROUP_COLS], n[GROUP_ROWS], scale[GROUP_ROWS];
        int32_t code[GROUP_COLS][GROUP_ROWS];
        group_target(group, feedback, b, target);
        group_weights(feedback, true, b, n_cols, weight);
        group_w4_search(target, weight, step, n);
        for (size_t r = 0; r < GROUP_ROWS; r++) {
            scale[r] = n[r] * step[r];
            scales[b * GROUP_ROWS + r] = (unsigned char)(row_scale[r] > 0 ? n[r] : 0);
        }
        group_w4_block(feedback, b, target, scale, value, code);
        group_w4_pack(code, codes + b * ern_block_bytes(ERN_W4));
        group_silence(row_scale, value);
        group_keep_error(group, feedback, b, value);
    }
}

/* ---- Instruction sets ------------------------------------------------------------------------ */

typedef struct group_work {
    const conv_trellis *set;
    conv_group *group;
    const conv_feedback *feedback;
    unsigned char *out;
    unsigned type, n_tries;
    uint32_t n_cols;
} group_work;

static ERN_INLINE void group_body(const group_work *w)
{
    if (w->type == ERN_W4)
        group_w4_body(w->group, w->n_cols, w->feedback, w->out);
    else
        group_trellis(w->set, w->group, w->type, w->n_cols, w->feedback, w->n_tries, w->out);
}

static void group_base(const group_work *work) { group_body(work); }

#if GROUP_X86
__attribute__((target("avx2"))) static void group_avx2(const group_work *work) { group_body(work); }
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))) static void
group_avx512(const group_work *work)
{
    group_body(work);
}
#endif

ERN_FN unsigned conv_group_best(void)
{
    unsigned i = 0;
    while (conv_trellis_at(i + 1)) i++;
    return i;
}

ERN_FN void conv_group_encode(unsigned set, conv_group *group, unsigned type, uint32_t n_cols,
                              const conv_feedback *feedback, unsigned n_tries, unsigned char *out)
{
    static void (*const bodies[])(const group_work *) = {
        group_base,
#if GROUP_X86
        group_avx2, group_avx512,
#endif
    };
    const group_work work = { .set = conv_trellis_at(set), .group = group, .feedback = feedback,
                              .out = out, .type = type, .n_tries = n_tries, .n_cols = n_cols };
    bodies[set](&work);
}

#undef GROUP_X86
#undef GROUP_ROW_PEAK_MIN
#undef GROUP_W4_RATIO_MIN
#undef GROUP_W4_RATIO_MAX
#undef GROUP_W4_HEADROOM
