/* What config.json does not say of a -Paddle checkpoint, its tensors do: on which side the input
 * channels stand, whether int8 weights lie as a GPU reads them, what the scales of rotated experts
 * hold. */
#include "paddle.h"
#include "encode.h"

#define LAYOUT_PIECE       1024u
#define LAYOUT_ROTATED     128u /* the least block that Baidu's own programs rotate */
#define LAYOUT_TILED_SCALE (127.0f * 112.0f)

static const char layout_suffix[] = ".quant_weight";

static bool layout_ends(const char *name, const char *end)
{
    const size_t n = strlen(name), n_end = strlen(end);
    return n >= n_end && strcmp(name + n - n_end, end) == 0;
}

/* ---- Rows or columns ------------------------------------------------------------------------- */

/* The prefix alone proves nothing and square matrices look alike, so each kind of linear is asked
 * on which side the hidden size stands. */
static bool layout_is_turned(const conv_tensor *tensor, uint64_t hidden)
{
    static const struct {
        const char *end;
        unsigned hidden; /* the dimension that is the hidden size in Paddle */
    } marks[] = { { "qkv_proj.weight", 0 },
                  { ".q_proj.weight", 0 },
                  { "up_gate_proj.weight", 0 },
                  { ".up_proj.weight", 0 },
                  { ".down_proj.weight", 1 } };
    if (tensor->n_dims != 2) return false;
    for (size_t k = 0; k < ERN_COUNT(marks); k++)
        if (strstr(tensor->name, marks[k].end) && tensor->dims[marks[k].hidden] == hidden
            && tensor->dims[!marks[k].hidden] != hidden)
            return true;
    return false;
}

static bool layout_find_turned(const conv_tensors *tensors)
{
    const conv_tensor *embed = conv_tensors_find(tensors, "ernie.embed_tokens.weight");
    for (size_t i = 0; i < tensors->n; i++) {
        const conv_tensor *tensor = &tensors->items[i];
        if (layout_ends(tensor->name, layout_suffix)) return true;
        if (embed && embed->n_dims == 2 && layout_is_turned(tensor, embed->dims[1])) return true;
    }
    return false;
}

/* ---- Plain or as a GPU reads them ------------------------------------------------------------ */

static bool layout_is_weight_only(uint32_t scheme)
{
    return scheme == CONV_WINT8 || scheme == CONV_WINT4;
}

static bool layout_may_be_tiled(const conv_quant *quant, const conv_tensor *tensor)
{
    if (tensor->n_dims != 2 || !layout_ends(tensor->name, layout_suffix)) return false;
    if (!strstr(tensor->name, "qkv_proj.") && !strstr(tensor->name, "up_gate_proj.")) return false;
    if (!strstr(tensor->name, ".experts.")) return layout_is_weight_only(quant->dense);
    for (uint32_t i = 0; i < quant->n_experts; i++)
        if (layout_is_weight_only(quant->experts[i].scheme)) return true;
    return false;
}

/* All int8 and int4 weights of a checkpoint come out of one program: those whose shape tells speak
 * for those that are square. */
static bool layout_find_tiled(const conv_tensors *tensors, const conv_quant *quant, uint64_t hidden)
{
    for (size_t i = 0; i < tensors->n; i++) {
        const conv_tensor *tensor = &tensors->items[i];
        if (!layout_may_be_tiled(quant, tensor)) continue;
        const uint64_t lines = tensor->dims[0];
        const bool plain = lines == hidden || 2 * lines == hidden || 4 * lines == hidden;
        if (plain != (tensor->dims[1] == hidden)) return !plain;
    }
    return quant->permuted;
}

/* ---- Scales of rotated experts --------------------------------------------------------------- */

typedef struct layout_scales {
    const conv_tensors *tensors;
    bool permuted;
    ernie_error *error;
} layout_scales;

/* The mean of |values| of the tensor stem + suffix, 0 when there is no such tensor of floats. */
static ernie_status layout_mean(const layout_scales *search, const char *stem, const char *suffix,
                                double *mean)
{
    char name[1100];
    float values[LAYOUT_PIECE];
    unsigned char raw[LAYOUT_PIECE * sizeof(float)];
    double sum = 0;
    snprintf(name, sizeof name, "%s%s", stem, suffix);
    const conv_tensor *tensor = conv_tensors_find(search->tensors, name);
    *mean = 0;
    if (!tensor || tensor->dtype == CONV_OTHER || tensor->n_bytes == 0) return ERNIE_OK;
    const size_t value_bytes = tensor->dtype == CONV_F32 ? 4 : 2;
    const uint64_t n = tensor->n_bytes / value_bytes;
    const conv_shard *shard = &search->tensors->shards[tensor->shard];
    for (uint64_t at = 0; at < n; at += LAYOUT_PIECE) {
        const size_t n_piece = (size_t)(n - at < LAYOUT_PIECE ? n - at : LAYOUT_PIECE);
        const ernie_status status =
            conv_file_read(&shard->file, shard->name, tensor->offset + at * value_bytes, raw,
                           n_piece * value_bytes, search->error);
        if (status != ERNIE_OK) return status;
        conv_decode(conv_encoder_at(0), tensor->dtype, raw, values, n_piece);
        for (size_t i = 0; i < n_piece; i++) sum += fabs((double)values[i]);
    }
    *mean = sum / (double)n;
    return ERNIE_OK;
}

/* The mean scale of an expert's matrix; permuted ones have the activation's multiplied in. */
static ernie_status layout_mean_scale(const layout_scales *search, const char *stem, double *mean)
{
    double input = 0;
    ernie_status status = layout_mean(search, stem, ".weight_scale", mean);
    if (status != ERNIE_OK || !search->permuted) return status;
    status = layout_mean(search, stem, ".activation_scale", &input);
    *mean *= input * (double)LAYOUT_TILED_SCALE;
    return status;
}

/* Baidu's programs rotate activations by the sums and differences of a Hadamard matrix, without its
 * 1 / sqrt(block), and leave that factor to the weights' scales. A checkpoint whose scales hold it
 * has down matrices that look smaller than its up_gate matrices by just that factor, at least 11;
 * one whose scales are the plain largest weights has both alike. */
static ernie_status layout_find_unscaled(const conv_tensors *tensors, const conv_quant *quant,
                                         uint32_t width, bool *unscaled, ernie_error *error)
{
    static const char down_end[] = ".experts.0.down_proj.weight_scale";
    char down[1100], up[1100];
    double down_mean = 0, up_mean = 0;
    const layout_scales search = { .tensors = tensors,
                                   .permuted = quant->permuted,
                                   .error = error };
    const uint32_t block = quant->hadamard ? quant->hadamard : width & (0u - width);
    size_t i = 0;
    *unscaled = false;
    while (i < tensors->n
           && (tensors->items[i].dtype == CONV_OTHER
               || !layout_ends(tensors->items[i].name, down_end)))
        i++;
    if (i == tensors->n || block < LAYOUT_ROTATED) return ERNIE_OK;
    const size_t n_stem = strlen(tensors->items[i].name) - strlen("down_proj.weight_scale");
    snprintf(down, sizeof down, "%.*sdown_proj", (int)n_stem, tensors->items[i].name);
    snprintf(up, sizeof up, "%.*sup_gate_proj", (int)n_stem, tensors->items[i].name);
    ernie_status status = layout_mean_scale(&search, down, &down_mean);
    if (status == ERNIE_OK) status = layout_mean_scale(&search, up, &up_mean);
    *unscaled = down_mean < up_mean / sqrt(sqrt((double)block));
    return status;
}

static bool layout_is_rotated(const conv_quant *quant)
{
    for (uint32_t i = 0; i < quant->n_experts; i++)
        if (quant->experts[i].scheme == CONV_W4A8) return true;
    return false;
}

/* ---- The whole ------------------------------------------------------------------------------- */

ERN_FN ernie_status conv_paddle_detect(conv_paddle *paddle, const conv_tensors *tensors,
                                       const conv_quant *quant, const ern_hparams *hparams,
                                       ernie_error *error)
{
    paddle->quant = *quant;
    paddle->turned = layout_find_turned(tensors);
    paddle->tiled = layout_find_tiled(tensors, quant, hparams->hidden_size);
    paddle->unscaled = false;
    if (!layout_is_rotated(quant)) return ERNIE_OK;
    return layout_find_unscaled(tensors, quant, hparams->moe_intermediate_size, &paddle->unscaled,
                                error);
}

ERN_FN void conv_paddle_say(const conv_paddle *paddle, const ern_log *log)
{
    if (!layout_is_rotated(&paddle->quant)) return;
    if (!paddle->quant.permuted_said)
        ern_log_write(log, ERNIE_LOG_WARN,
                      "quantization_config has no is_permuted: the experts' int4 weights are read "
                      "as not permuted");
    if (paddle->unscaled)
        ern_log_write(log, ERNIE_LOG_INFO,
                      "the scales of rotated experts hold the rotation's factor, by their size");
}
