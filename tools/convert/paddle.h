/* Baidu's -Paddle checkpoints: what sets them apart from the -PT ones, and their quantized forms.
 * Names are spelled in names.c, which asks here how the tensors lie. */
#ifndef ERN_CONVERT_PADDLE_H
#define ERN_CONVERT_PADDLE_H

#include "../../src/format.h"
#include "json.h"
#include "slice.h"

/* ---- quantization_config of config.json ------------------------------------------------------ */

/* How the weights of a linear layer are quantized; docs/PADDLE.md says how each is decoded. */
typedef enum conv_scheme {
    CONV_UNQUANTIZED = 0,
    CONV_WINT8 = 1,
    CONV_WINT4 = 2,
    CONV_W4A8 = 3, /* int4 weights whose activations were meant to be int8 */
    CONV_FP8 = 4,  /* e4m3 in blocks of 128 x 128 */
    CONV_WINT2 = 5,
    CONV_WINT2_5 = 6,
    CONV_N_SCHEMES = 7
} conv_scheme;

/* The scheme of the experts of layers first .. last. */
typedef struct conv_expert_scheme {
    uint32_t scheme, first, last;
} conv_expert_scheme;

#define CONV_EXPERT_SCHEMES 2u

typedef struct conv_quant {
    uint32_t dense; /* conv_scheme of attention, dense FFNs and shared experts */
    uint32_t n_experts;
    conv_expert_scheme experts[CONV_EXPERT_SCHEMES]; /* the first that has the layer counts */
    bool permuted, permuted_said;                    /* is_permuted */
    uint32_t hadamard;                               /* hadamard_block_size; 0: not said */
} conv_quant;

ERN_FN const char *conv_scheme_name(uint32_t scheme);

/* Read "quantization_config" of config.json, which may be absent. What it says need not hold for
 * all tensors: those with plain weights are taken as they are. */
ERN_FN ernie_status conv_quant_read(conv_quant *quant, const json_t *root, uint32_t n_layers,
                                    ernie_error *error);
ERN_FN bool conv_quant_knows(const char *key); /* a key of quantization_config */

/* ---- Layout ---------------------------------------------------------------------------------- */

typedef struct conv_paddle {
    conv_quant quant;
    bool turned;   /* linear layers are stored [in, out] */
    bool tiled;    /* int8 and int4 weights lie as a GPU reads them, where a shape does not tell */
    bool unscaled; /* scales of rotated experts already hold the 1 / sqrt(block) of the rotation */
} conv_paddle;

/* Which layout the tensors are in. */
ERN_FN ernie_status conv_paddle_detect(conv_paddle *paddle, const conv_tensors *tensors,
                                       const conv_quant *quant, const ern_hparams *hparams,
                                       ernie_error *error);

/* What was settled without a word of config.json. */
ERN_FN void conv_paddle_say(const conv_paddle *paddle, const ern_log *log);

/* The tensor `weight`, NAME.quant_weight, as the slice of all n_rows rows of a linear layer of
 * `record`: finds its companions, checks shapes and dtypes, marks what it uses. */
ERN_FN ernie_status conv_paddle_bind(conv_slice *slice, const conv_tensors *tensors,
                                     const conv_paddle *paddle, const ern_record *record,
                                     conv_tensor *weight, uint32_t n_rows, uint32_t n_cols,
                                     ernie_error *error);

/* A tensor that only other programs need: scales of activations and of their cache. */
ERN_FN bool conv_paddle_ignores(const char *name);

#endif
