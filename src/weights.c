/* The checked file as typed tables (weights.h). Each record is looked at once and copied nowhere: a
 * table holds places in the file. */
#include "weights.h"

ERN_FN ern_expert ern_weights_expert_at(const ern_layer *layer, uint32_t expert,
                                        const unsigned char *data)
{
    const ern_record *r = &layer->experts[expert];
    const unsigned char *down = data ? data + ern_expert_down_offset(r) : NULL;
    return (ern_expert){ .gate_up = { data, r->type, r->n_rows, r->n_cols },
                         .down = { down, r->type2, r->n_rows2, r->n_cols2 } };
}

static ern_matrix weights_matrix(const ern_weights *w, const ern_record *r)
{
    return (ern_matrix){ w->file + r->offset, r->type, r->n_rows, r->n_cols };
}

static const float *weights_floats(const ern_weights *w, const ern_record *r)
{
    return (const float *)(const void *)(w->file + r->offset);
}

static void weights_place_layer(ern_weights *w, ern_layer *layer, const ern_record *r)
{
    switch (r->kind) {
    case ERN_ATTN_NORM: layer->attn_norm = weights_floats(w, r); break;
    case ERN_FFN_NORM: layer->ffn_norm = weights_floats(w, r); break;
    case ERN_QKV: layer->qkv = weights_matrix(w, r); break;
    case ERN_ATTN_OUT: layer->attn_out = weights_matrix(w, r); break;
    case ERN_FFN_GATE_UP: layer->gate_up = weights_matrix(w, r); break;
    case ERN_FFN_DOWN: layer->down = weights_matrix(w, r); break;
    case ERN_ROUTER: layer->router = weights_matrix(w, r); break;
    case ERN_ROUTER_BIAS: layer->router_bias = weights_floats(w, r); break;
    case ERN_SHARED_GATE_UP: layer->shared_gate_up = weights_matrix(w, r); break;
    case ERN_SHARED_DOWN: layer->shared_down = weights_matrix(w, r); break;
    case ERN_EXPERT:
        if (r->expert == 0) layer->experts = r;
        break;
    default: break;
    }
}

/* The reader has checked that every record is there, so placing is all that is left. */
ERN_FN void ern_weights_place(ern_weights *w, const ern_format *format, const unsigned char *file,
                              ern_layer *layers)
{
    const ern_header *h = format->header;
    w->file = file;
    w->hparams = &h->hparams;
    w->layers = layers;
    for (uint32_t i = 0; i < h->hparams.n_layers; i++) {
        layers[i].moe = ern_layer_is_moe(&h->hparams, i);
        layers[i].file = file;
    }
    for (uint32_t i = 0; i < h->n_records; i++) {
        const ern_record *r = &format->records[i];
        if (r->kind == ERN_EMBED)
            w->embed = weights_matrix(w, r);
        else if (r->kind == ERN_HEAD)
            w->head = weights_matrix(w, r);
        else if (r->kind == ERN_FINAL_NORM)
            w->final_norm = weights_floats(w, r);
        else if (r->layer < h->hparams.n_layers)
            weights_place_layer(w, &layers[r->layer], r);
    }
    if (h->hparams.tied) w->head = w->embed;
}
