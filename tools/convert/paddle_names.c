/* Quantized tensors: of each, config.json names the scheme, and the scheme asks for a shape, a
 * dtype and companions. */
#include "paddle.h"

#define PADDLE_NAME_MAX  1100u /* longer than any tensor's name */
#define PADDLE_GROUP     128u  /* rows of one line of scales, and of an FP8 block */
#define PADDLE_TILE_COLS 64u   /* what the tiled codings divide the input channels by */

static const char paddle_suffix[] = ".quant_weight";

/* ---- Schemes --------------------------------------------------------------------------------- */

typedef enum paddle_shape {
    PADDLE_NONE = 0,
    PADDLE_COLUMN, /* floats [N] */
    PADDLE_GROUPS, /* bytes [ceil(K / 128)][N] */
    PADDLE_BLOCKS, /* floats [ceil(K / 128)][ceil(N / 128)] */
    PADDLE_ONE     /* one float */
} paddle_shape;

typedef struct paddle_part {
    const char *suffix;
    paddle_shape shape;
    bool optional;
} paddle_part;

/* K input channels, N output channels: the tensor is [K / unit * lines][N]. */
static const struct {
    const char *dtypes[3];
    uint32_t unit, lines, coding;
    paddle_part parts[CONV_COMPANIONS_MAX];
} paddle_schemes[CONV_N_SCHEMES] = {
    [CONV_WINT8] = { { "I8", NULL, NULL },
                     1,
                     1,
                     CONV_INT8,
                     { { ".weight_scale", PADDLE_COLUMN, false } } },
    [CONV_WINT4] = { { "I8", "U8", NULL },
                     2,
                     1,
                     CONV_INT4,
                     { { ".weight_scale", PADDLE_COLUMN, false } } },
    [CONV_W4A8] = { { "I8", "U8", NULL },
                    2,
                    1,
                    CONV_INT4,
                    { { ".weight_scale", PADDLE_COLUMN, false } } },
    [CONV_FP8] = { { "F8_E4M3", "I8", "U8" },
                   1,
                   1,
                   CONV_E4M3,
                   { { ".weight_scale", PADDLE_BLOCKS, false } } },
    [CONV_WINT2] = { { "U8", "I8", NULL },
                     4,
                     1,
                     CONV_CCQ2,
                     { { ".weight_scale", PADDLE_GROUPS, false },
                       { ".super_scales", PADDLE_COLUMN, true },
                       { ".code_scale", PADDLE_COLUMN, false },
                       { ".code_zp", PADDLE_COLUMN, false } } },
    [CONV_WINT2_5] = { { "I16", "U16", NULL },
                       64,
                       10,
                       CONV_CCQ2_5,
                       { { ".super_scales", PADDLE_COLUMN, true } } },
};

typedef struct paddle_search {
    const conv_tensors *tensors;
    conv_tensor *weight;
    uint32_t scheme, n_rows, n_cols;
    ernie_error *error;
} paddle_search;

static bool paddle_has_shape(const conv_tensor *tensor, const uint64_t dims[2], uint32_t n_dims)
{
    return tensor->n_dims == n_dims && memcmp(tensor->dims, dims, n_dims * sizeof *dims) == 0;
}

static ernie_status paddle_check_dtype(const paddle_search *search, const conv_tensor *tensor,
                                       const char *const dtypes[3])
{
    unsigned i = 0;
    while (i < 3 && dtypes[i] && strcmp(tensor->dtype_name, dtypes[i]) != 0) i++;
    ERN_FAIL_IF(i == 3 || !dtypes[i], search->error, ERNIE_UNSUPPORTED,
                "tensor \"%.128s\": dtype %s, %s asks for %s", tensor->name, tensor->dtype_name,
                conv_scheme_name(search->scheme), dtypes[0]);
    return ERNIE_OK;
}

/* ---- Companions ------------------------------------------------------------------------------ */

static conv_tensor *paddle_companion(const paddle_search *search, const char *suffix,
                                     char name[PADDLE_NAME_MAX])
{
    const size_t n = strlen(search->weight->name) - strlen(paddle_suffix);
    snprintf(name, PADDLE_NAME_MAX, "%.*s%s", (int)n, search->weight->name, suffix);
    return conv_tensors_find(search->tensors, name);
}

/* The shape of a part; returns its number of dimensions. */
static uint32_t paddle_part_dims(const paddle_search *search, paddle_shape shape, uint64_t dims[2])
{
    const uint64_t groups = (search->n_cols + PADDLE_GROUP - 1) / PADDLE_GROUP;
    dims[0] = shape == PADDLE_ONE ? 1 : shape == PADDLE_COLUMN ? search->n_rows : groups;
    dims[1] = shape == PADDLE_BLOCKS ? (search->n_rows + PADDLE_GROUP - 1) / PADDLE_GROUP
                                     : search->n_rows;
    return shape == PADDLE_GROUPS || shape == PADDLE_BLOCKS ? 2 : 1;
}

static ernie_status paddle_take_part(const paddle_search *search, const paddle_part *part,
                                     const conv_tensor **out)
{
    static const char *const floats[3] = { "F32", "F16", "BF16" };
    static const char *const bytes[3] = { "U8", "I8", NULL };
    uint64_t dims[2];
    char name[PADDLE_NAME_MAX], has[128], wants[128];
    const uint32_t n_dims = paddle_part_dims(search, part->shape, dims);
    conv_tensor *tensor = paddle_companion(search, part->suffix, name);
    *out = tensor;
    if (!tensor && part->optional) return ERNIE_OK;
    ERN_FAIL_IF(!tensor, search->error, ERNIE_FORMAT,
                "tensor \"%.128s\" is missing, %s asks for it with shape %.48s", name,
                conv_scheme_name(search->scheme), conv_shape_text(dims, n_dims, wants));
    const bool one = part->shape == PADDLE_ONE && tensor->n_dims == 0;
    ERN_FAIL_IF(!one && !paddle_has_shape(tensor, dims, n_dims), search->error, ERNIE_FORMAT,
                "tensor \"%.96s\": shape %.48s, %s asks for %.48s", tensor->name,
                conv_shape_text(tensor->dims, tensor->n_dims, has),
                conv_scheme_name(search->scheme), conv_shape_text(dims, n_dims, wants));
    const ernie_status status =
        paddle_check_dtype(search, tensor, part->shape == PADDLE_GROUPS ? bytes : floats);
    tensor->used = status == ERNIE_OK;
    return status;
}

/* ---- The weight ------------------------------------------------------------------------------ */

/* The shape of the tiled form: columns side by side, as rows of the tensor. */
static void paddle_tiled_dims(const paddle_search *search, uint64_t dims[2])
{
    dims[0] = search->n_rows / paddle_schemes[search->scheme].unit;
    dims[1] = search->n_cols;
}

/* Settle the slice's coding by the weight's shape, and where it is the same both ways, by what is
 * known of the checkpoint. */
static ernie_status paddle_settle_coding(const paddle_search *search, const conv_paddle *paddle,
                                         conv_slice *slice)
{
    char has[128], wants[128], other[128];
    const uint32_t unit = paddle_schemes[search->scheme].unit,
                   lines = paddle_schemes[search->scheme].lines;
    const uint64_t dims[2] = { (uint64_t)search->n_cols / unit * lines, search->n_rows };
    const bool weight_only = search->scheme == CONV_WINT8 || search->scheme == CONV_WINT4;
    uint64_t tiled[2];
    paddle_tiled_dims(search, tiled);
    const bool fits = paddle_has_shape(search->weight, dims, 2);
    const bool fits_tiled = weight_only && paddle_has_shape(search->weight, tiled, 2);
    slice->coding = paddle_schemes[search->scheme].coding;
    ERN_FAIL_IF(search->n_cols % unit != 0, search->error, ERNIE_FORMAT,
                "tensor \"%.96s\": has %u input channels, %s needs a multiple of %u",
                search->weight->name, (unsigned)search->n_cols, conv_scheme_name(search->scheme),
                (unsigned)unit);
    ERN_FAIL_IF(!fits && !fits_tiled, search->error, ERNIE_FORMAT,
                "tensor \"%.96s\": shape %.48s, %s of config.json asks for %.48s%s%.48s",
                search->weight->name,
                conv_shape_text(search->weight->dims, search->weight->n_dims, has),
                conv_scheme_name(search->scheme), conv_shape_text(dims, 2, wants),
                weight_only ? " or " : "", weight_only ? conv_shape_text(tiled, 2, other) : "");
    const bool is_tiled = search->scheme == CONV_W4A8 ? paddle->quant.permuted
                          : fits && fits_tiled        ? paddle->tiled
                                                      : fits_tiled;
    if (!is_tiled) return ERNIE_OK;
    slice->coding = search->scheme == CONV_WINT8   ? CONV_INT8_TILED
                    : search->scheme == CONV_WINT4 ? CONV_INT4_TILED
                                                   : CONV_W4A8_TILED;
    const uint32_t n_side = slice->coding == CONV_INT8_TILED ? 2 : 4;
    ERN_FAIL_IF(search->n_cols % PADDLE_TILE_COLS != 0 || search->n_rows % n_side != 0,
                search->error, ERNIE_FORMAT,
                "tensor \"%.96s\": %u input and %u output channels, a permuted %s has multiples of "
                "%u and %u",
                search->weight->name, (unsigned)search->n_cols, (unsigned)search->n_rows,
                conv_scheme_name(search->scheme), PADDLE_TILE_COLS, (unsigned)n_side);
    return ERNIE_OK;
}

/* The experts' down matrices of a W4A8 checkpoint are rotated along their input, in blocks as large
 * as config.json says, or else as the largest power of two that divides their width. */
static ernie_status paddle_settle_rotation(const paddle_search *search, const conv_paddle *paddle,
                                           conv_slice *slice)
{
    const uint32_t said = paddle->quant.hadamard;
    if (search->scheme != CONV_W4A8 || !strstr(search->weight->name, ".down_proj."))
        return ERNIE_OK;
    const uint32_t block = said ? said : search->n_cols & (0u - search->n_cols);
    ERN_FAIL_IF((block & (block - 1)) != 0 || search->n_cols % block != 0, search->error,
                ERNIE_FORMAT,
                "config.json: hadamard_block_size is %u, which is no power of two in the %u input "
                "channels of \"%.96s\"",
                (unsigned)block, (unsigned)search->n_cols, search->weight->name);
    slice->hadamard = block;
    slice->gain = paddle->unscaled ? 1.0f : 1.0f / sqrtf((float)block);
    return ERNIE_OK;
}

static uint32_t paddle_scheme_of(const conv_quant *quant, const ern_record *record)
{
    if (record->kind != ERN_EXPERT) return quant->dense;
    for (uint32_t i = 0; i < quant->n_experts; i++)
        if (record->layer >= quant->experts[i].first && record->layer <= quant->experts[i].last)
            return quant->experts[i].scheme;
    return CONV_UNQUANTIZED;
}

ERN_FN ernie_status conv_paddle_bind(conv_slice *slice, const conv_tensors *tensors,
                                     const conv_paddle *paddle, const ern_record *record,
                                     conv_tensor *weight, uint32_t n_rows, uint32_t n_cols,
                                     ernie_error *error)
{
    static const paddle_part input = { ".activation_scale", PADDLE_ONE, false };
    char name[PADDLE_NAME_MAX];
    const paddle_search search = { .tensors = tensors,
                                   .weight = weight,
                                   .scheme = paddle_scheme_of(&paddle->quant, record),
                                   .n_rows = n_rows,
                                   .n_cols = n_cols,
                                   .error = error };
    ERN_FAIL_IF(search.scheme == CONV_UNQUANTIZED, error, ERNIE_FORMAT,
                "tensor \"%.96s\" is quantized, but quantization_config of config.json names no "
                "scheme for it",
                weight->name);
    *slice = (conv_slice){ .tensor = weight, .n_rows = n_rows, .divisor = 1, .gain = 1 };
    if (search.scheme == CONV_W4A8) slice->divisor = 7;
    ernie_status status = paddle_settle_coding(&search, paddle, slice);
    if (status == ERNIE_OK)
        status = paddle_check_dtype(&search, weight, paddle_schemes[search.scheme].dtypes);
    for (unsigned i = 0; i < CONV_COMPANIONS_MAX && status == ERNIE_OK; i++) {
        const paddle_part *part = &paddle_schemes[search.scheme].parts[i];
        if (part->shape != PADDLE_NONE)
            status = paddle_take_part(&search, part, &slice->companions[i]);
    }
    if (status == ERNIE_OK && slice->coding == CONV_W4A8_TILED)
        status = paddle_take_part(&search, &input, &slice->companions[1]);
    if (status == ERNIE_OK) status = paddle_settle_rotation(&search, paddle, slice);
    if (status != ERNIE_OK) return status;
    weight->used = true;
    conv_tensor *unneeded = paddle_companion(&search, input.suffix, name);
    if (unneeded) unneeded->used = true;
    return ERNIE_OK;
}

ERN_FN bool conv_paddle_ignores(const char *name)
{
    return strstr(name, ".cachek_matmul.") || strstr(name, ".cachev_matmul.");
}
