/* One walk over the index: each record gives the tensors that it holds. Names as llama.cpp's loader
 * asks for them; rows of Q and K lie as its rotary positions want them, in adjacent pairs, so none is
 * permuted. */
#include "export_tensors.h"

/* ---- Types ----------------------------------------------------------------------------------- */

static const conv_export_type export_types[] = {
    { "f16", CONV_GGML_F16, CONV_GGML_F16, 1 },
    { "bf16", CONV_GGML_BF16, CONV_GGML_BF16, 32 },
    { "q8_0", CONV_GGML_Q8_0, CONV_GGML_Q8_0, 7 },
    { "q4_0", CONV_GGML_Q4_0, CONV_GGML_Q8_0, 2 },
};

ERN_FN ernie_status conv_export_type_find(const conv_export_type **out, const char *name,
                                          ernie_error *error)
{
    if (!name) name = "bf16";
    for (size_t i = 0; i < ERN_COUNT(export_types); i++) {
        *out = &export_types[i];
        if (strcmp(name, export_types[i].name) == 0) return ERNIE_OK;
    }
    *out = NULL;
    return ern_error_set(error, ERNIE_INVALID, "type \"%.32s\" is unknown: f16, bf16, q8_0 or q4_0",
                         name);
}

/* ---- The list -------------------------------------------------------------------------------- */

typedef struct export_walk {
    conv_export_list *list;
    conv_gguf_out *out;
    const ern_format *format;
    const conv_export_type *type;
    uint32_t record;
    bool no_memory;
} export_walk;

static bool export_grow(conv_export_list *list)
{
    if (list->n < list->capacity) return true;
    const size_t more = ern_max_size(256, 2 * list->capacity);
    conv_export_tensor *grown =
        ern_resize(list->allocator, list->items, list->capacity * sizeof *list->items,
                   more * sizeof *list->items);
    if (!grown) return false;
    list->items = grown;
    list->capacity = more;
    return true;
}

static uint32_t export_type_of(export_walk *walk, const ern_record *record, uint32_t n_cols)
{
    if (ern_kind_is_f32(record->kind)) return CONV_GGML_F32;
    const bool wide = record->kind == ERN_EMBED || record->kind == ERN_HEAD;
    const uint32_t type = wide ? walk->type->wide : walk->type->type;
    if (n_cols % conv_ggml_find(type)->block_values == 0) return type;
    walk->list->n_halves++;
    return CONV_GGML_F16;
}

/* Add the rows of the walk's record that `wanted` describes; what "%s" says is the end of the name. */
static void export_add(export_walk *walk, const char *end, conv_export_tensor wanted)
{
    const ern_record *record = &walk->format->records[walk->record];
    if (walk->no_memory || !export_grow(walk->list)) {
        walk->no_memory = true;
        return;
    }
    conv_export_tensor *t = &walk->list->items[walk->list->n++];
    *t = wanted;
    t->record = walk->record;
    t->type = export_type_of(walk, record, t->n_cols);
    t->row_bytes = conv_ggml_row_bytes(t->type, t->n_cols);
    t->n_bytes = t->n_slices * t->n_rows * t->row_bytes;
    if (record->layer == ERN_NO_LAYER)
        snprintf(t->name, sizeof t->name, "%s", end);
    else
        snprintf(t->name, sizeof t->name, "blk.%u.%s", record->layer, end);
    const uint32_t dims[] = { t->n_cols, t->n_rows, t->n_slices };
    t->offset = conv_gguf_out_tensor(walk->out, t->name, t->type, dims, t->n_dims, t->n_bytes);
}

/* A whole record, a vector or a matrix. */
static void export_add_whole(export_walk *walk, const char *end, uint32_t n_dims)
{
    const ern_record *r = &walk->format->records[walk->record];
    export_add(walk, end,
               (conv_export_tensor){ .n_cols = r->n_cols,
                                     .n_rows = r->n_rows,
                                     .n_slices = 1,
                                     .n_dims = n_dims,
                                     .first = true });
}

static void export_add_qkv(export_walk *walk)
{
    const ern_hparams *h = &walk->format->header->hparams;
    const uint32_t nq = h->n_heads * h->head_dim, nk = h->n_kv_heads * h->head_dim;
    conv_export_tensor t = {
        .n_cols = h->hidden_size, .n_rows = nq, .n_slices = 1, .n_dims = 2, .first = true
    };
    export_add(walk, "attn_q.weight", t);
    t.first = false;
    t.n_rows = nk;
    t.first_row = nq;
    export_add(walk, "attn_k.weight", t);
    t.first_row = nq + nk;
    export_add(walk, "attn_v.weight", t);
}

static void export_add_gate_up(export_walk *walk, const char *gate, const char *up, uint32_t width)
{
    conv_export_tensor t = { .n_cols = walk->format->header->hparams.hidden_size,
                             .n_rows = width,
                             .n_slices = 1,
                             .n_dims = 2,
                             .part = CONV_EXPORT_GATE,
                             .first = true };
    export_add(walk, gate, t);
    t.first = false;
    t.part = CONV_EXPORT_UP;
    export_add(walk, up, t);
}

/* All experts of a layer: three tensors, a slice of each from every record. */
static void export_add_experts(export_walk *walk)
{
    const ern_hparams *h = &walk->format->header->hparams;
    conv_export_tensor t = { .n_cols = h->hidden_size,
                             .n_rows = h->moe_intermediate_size,
                             .n_slices = h->n_experts,
                             .n_dims = 3,
                             .part = CONV_EXPORT_GATE,
                             .first = true };
    export_add(walk, "ffn_gate_exps.weight", t);
    t.first = false;
    t.part = CONV_EXPORT_UP;
    export_add(walk, "ffn_up_exps.weight", t);
    t.part = CONV_EXPORT_DOWN;
    t.n_cols = h->moe_intermediate_size;
    t.n_rows = h->hidden_size;
    export_add(walk, "ffn_down_exps.weight", t);
}

static void export_add_record(export_walk *walk)
{
    const ern_hparams *h = &walk->format->header->hparams;
    const ern_record *r = &walk->format->records[walk->record];
    switch (r->kind) {
    case ERN_EMBED: export_add_whole(walk, "token_embd.weight", 2); break;
    case ERN_HEAD: export_add_whole(walk, "output.weight", 2); break;
    case ERN_FINAL_NORM: export_add_whole(walk, "output_norm.weight", 1); break;
    case ERN_ATTN_NORM: export_add_whole(walk, "attn_norm.weight", 1); break;
    case ERN_QKV: export_add_qkv(walk); break;
    case ERN_ATTN_OUT: export_add_whole(walk, "attn_output.weight", 2); break;
    case ERN_FFN_NORM: export_add_whole(walk, "ffn_norm.weight", 1); break;
    case ERN_FFN_GATE_UP:
        export_add_gate_up(walk, "ffn_gate.weight", "ffn_up.weight", h->intermediate_size);
        break;
    case ERN_FFN_DOWN: export_add_whole(walk, "ffn_down.weight", 2); break;
    case ERN_ROUTER: export_add_whole(walk, "ffn_gate_inp.weight", 2); break;
    case ERN_ROUTER_BIAS: export_add_whole(walk, "exp_probs_b.bias", 1); break;
    case ERN_SHARED_GATE_UP:
        export_add_gate_up(walk, "ffn_gate_shexp.weight", "ffn_up_shexp.weight",
                           h->shared_intermediate_size);
        break;
    case ERN_SHARED_DOWN: export_add_whole(walk, "ffn_down_shexp.weight", 2); break;
    case ERN_EXPERT:
        if (r->expert == 0) export_add_experts(walk);
        break;
    default: break; /* what only MTP blocks have */
    }
}

ERN_FN ernie_status conv_export_tensors(conv_export_list *list, conv_gguf_out *out,
                                        const ern_format *format, const conv_export_type *type,
                                        ernie_error *error)
{
    const ern_header *header = format->header;
    export_walk walk = { .list = list, .out = out, .format = format, .type = type };
    for (; walk.record < header->n_records; walk.record++) {
        const uint32_t layer = format->records[walk.record].layer;
        const bool mtp = layer != ERN_NO_LAYER && layer >= header->hparams.n_layers;
        if (!mtp) export_add_record(&walk);
    }
    ERN_FAIL_IF(walk.no_memory, error, ERNIE_NO_MEMORY, "no memory for the list of %zu tensors",
                list->n);
    return ERNIE_OK;
}

ERN_FN void conv_export_list_free(conv_export_list *list)
{
    if (list->items) ern_free(list->allocator, list->items, list->capacity * sizeof *list->items);
    list->items = NULL;
    list->n = list->capacity = 0;
}

/* ---- What can be said ------------------------------------------------------------------------ */

ERN_FN ernie_status conv_export_check(const ern_hparams *h, ernie_error *error)
{
    if (h->n_experts == 0) return ERNIE_OK;
    ERN_FAIL_IF(h->moe_layer_end != h->n_layers - 1, error, ERNIE_UNSUPPORTED,
                "the mixtures end at layer %u of %u, in a GGUF file they reach the last layer",
                (unsigned)h->moe_layer_end, (unsigned)h->n_layers - 1);
    ERN_FAIL_IF(h->moe_layer_interval != 1, error, ERNIE_UNSUPPORTED,
                "one layer of %u is a mixture, in a GGUF file every layer from layer %u on is",
                (unsigned)h->moe_layer_interval, (unsigned)h->moe_layer_start);
    return ERNIE_OK;
}

/* ---- Rows ------------------------------------------------------------------------------------ */

ERN_FN uint32_t conv_export_row(const conv_export_tensor *t, const ern_format *format,
                                uint32_t slice, uint32_t row, ern_matrix *matrix)
{
    const ern_record *r = &format->records[t->record + slice];
    const unsigned char *data = format->data + r->offset;
    *matrix = (ern_matrix){ data, r->type, r->n_rows, r->n_cols };
    switch (t->part) {
    case CONV_EXPORT_GATE: return row / 16 * 32 + row % 16;
    case CONV_EXPORT_UP: return row / 16 * 32 + row % 16 + 16;
    case CONV_EXPORT_DOWN:
        *matrix =
            (ern_matrix){ data + ern_expert_down_offset(r), r->type2, r->n_rows2, r->n_cols2 };
        return row;
    default: return t->first_row + row;
    }
}
