/* The checked file as typed tables: what a backend is given. Knows which records make a layer;
 * knows neither how a product is computed nor who runs it. The tables point into the file's
 * bytes. */
#ifndef ERN_WEIGHTS_H
#define ERN_WEIGHTS_H

#include "format.h"

/* One decoder layer's weights. */
typedef struct ern_layer {
    const float *attn_norm; /* [h] */
    const float *ffn_norm;  /* [h] */
    ern_matrix qkv;         /* [(nq + 2 nkv) d][h] */
    ern_matrix attn_out;    /* [h][nq d] */
    bool moe;
    ern_matrix gate_up, down;               /* dense: [2 I][h], [h][I] */
    ern_matrix router;                      /* moe: [E][h] f32 */
    const float *router_bias;               /* moe: [E], or NULL */
    ern_matrix shared_gate_up, shared_down; /* moe: absent (data NULL) without shared experts */
    const ern_record *experts;              /* moe: [E] records, */
    const unsigned char *file;              /* whose offsets count from here */
} ern_layer;

typedef struct ern_weights {
    const unsigned char *file; /* the bytes that records point into */
    const ern_hparams *hparams;
    ern_matrix embed, head; /* head is embed when tied */
    const float *final_norm;
    const ern_layer *layers; /* [n_layers] */
} ern_weights;

/* One expert's two matrices: `data` are its record's bytes, wherever they lie now (NULL: the shapes
 * and types only). */
typedef struct ern_expert {
    ern_matrix gate_up, down;
} ern_expert;
ERN_FN ern_expert ern_weights_expert_at(const ern_layer *layer, uint32_t expert,
                                        const unsigned char *data);

/* In the file's bytes. Not for a model whose experts stay on disk. */
static ERN_INLINE ern_expert ern_weights_expert(const ern_layer *layer, uint32_t expert)
{
    return ern_weights_expert_at(layer, expert, layer->file + layer->experts[expert].offset);
}

/* Fill the tables of a file that the reader has accepted, with places in `file`: its bytes, or a
 * copy of them. `layers` [n_layers] is the caller's, zeroed. */
ERN_FN void ern_weights_place(ern_weights *weights, const ern_format *format,
                              const unsigned char *file, ern_layer *layers);

#endif
