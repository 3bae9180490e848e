/* What a .ernie file holds and in which order: sizes of matrices, names of records, the canonical
 * sequence. Pure arithmetic on architecture numbers; reads no bytes of a file (format_read.c does).
 *
 * The reader and the writer both walk ern_layout, so the order is written down once. */
#include "format.h"

/* ---- Sizes --------------------------------------------------------------------------------- */

ERN_FN const char *ern_type_name(unsigned type)
{
    static const char *const name[ERN_N_TYPES] = { "f32", "f16", "bf16", "w8",
                                                   "w4",  "c4",  "c3",   "c2" };
    return type < ERN_N_TYPES ? name[type] : "?";
}

ERN_FN uint64_t ern_row_bytes(unsigned type, uint32_t n_cols)
{
    if (ern_type_is_grouped(type)) return 0;
    return ern_round_up_u64((uint64_t)n_cols * (type == ERN_F32 ? 4u : 2u), 64);
}

ERN_FN uint64_t ern_group_bytes(unsigned type, uint32_t n_cols)
{
    const uint32_t n_blocks = ern_n_blocks(n_cols);
    if (!ern_type_is_grouped(type)) return ERN_GROUP_ROWS * ern_row_bytes(type, n_cols);
    return ERN_GROUP_ROWS * sizeof(float) + ern_group_scale_bytes(type, n_blocks)
           + (uint64_t)n_blocks * ern_block_bytes(type);
}

ERN_FN uint64_t ern_matrix_bytes(unsigned type, uint32_t n_rows, uint32_t n_cols)
{
    if (!ern_type_is_grouped(type)) return n_rows * ern_row_bytes(type, n_cols);
    return ern_n_groups(n_rows) * ern_group_bytes(type, n_cols);
}

/* Rows and groups are multiples of 64 bytes, so a matrix ends where the next may start. */
ERN_FN uint64_t ern_expert_down_offset(const ern_record *record)
{
    return ern_matrix_bytes(record->type, record->n_rows, record->n_cols);
}

ERN_FN uint64_t ern_record_bytes(const ern_record *record)
{
    const uint64_t first = ern_matrix_bytes(record->type, record->n_rows, record->n_cols);
    if (record->kind != ERN_EXPERT) return first;
    return first + ern_matrix_bytes(record->type2, record->n_rows2, record->n_cols2);
}

ERN_FN void ern_weights_id(const ern_record *records, uint32_t n_records, uint8_t id[16])
{
    ern_hash hash;
    ern_hash_begin(&hash);
    for (uint32_t i = 0; i < n_records; i++)
        ern_hash_add(&hash, &records[i].checksum, sizeof records[i].checksum);
    ern_hash_end128(&hash, id);
}

/* ---- Names --------------------------------------------------------------------------------- */

static const char *format_kind_name(unsigned kind)
{
    static const char *const name[ERN_N_KINDS] = {
        "embed",       "head",        "final_norm", "attn_norm",   "qkv",         "attn_out",
        "ffn_norm",    "ffn_gate_up", "ffn_down",   "router",      "router_bias", "shared_gate_up",
        "shared_down", "experts",     "emb_norm",   "hidden_norm", "proj",
    };
    return kind < ERN_N_KINDS ? name[kind] : "unknown";
}

ERN_FN void ern_record_name(const ern_record *record, uint32_t n_layers, char name[64])
{
    const char *kind = format_kind_name(record->kind);
    if (record->layer == ERN_NO_LAYER)
        snprintf(name, 64, "%s", kind);
    else if (record->layer >= n_layers)
        snprintf(name, 64, "mtp.%u.%s", (unsigned)(record->layer - n_layers), kind);
    else if (record->kind == ERN_EXPERT)
        snprintf(name, 64, "layers.%u.%s.%u", record->layer, kind, record->expert);
    else
        snprintf(name, 64, "layers.%u.%s", record->layer, kind);
}

ERN_FN bool ern_kind_is_f32(unsigned kind)
{
    switch (kind) {
    case ERN_FINAL_NORM:
    case ERN_ATTN_NORM:
    case ERN_FFN_NORM:
    case ERN_ROUTER:
    case ERN_ROUTER_BIAS:
    case ERN_MTP_EMB_NORM:
    case ERN_MTP_HIDDEN_NORM: return true;
    default: return false;
    }
}

/* ---- The canonical order ------------------------------------------------------------------- */

ERN_FN bool ern_layer_is_moe(const ern_hparams *hparams, uint32_t layer)
{
    return hparams->n_experts && layer >= hparams->moe_layer_start
           && layer <= hparams->moe_layer_end && (layer + 1) % hparams->moe_layer_interval == 0;
}

ERN_FN uint32_t ern_n_moe_layers(const ern_hparams *hparams)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < hparams->n_layers; i++) n += ern_layer_is_moe(hparams, i);
    return n;
}

/* When a step of a part is there. */
enum { FORMAT_ALWAYS, FORMAT_DENSE, FORMAT_MOE, FORMAT_SHARED, FORMAT_UNTIED };

typedef struct format_step {
    uint8_t kind, when;
} format_step;

static const format_step format_steps_first[] = { { ERN_EMBED, FORMAT_ALWAYS } };

/* clang-format off */
static const format_step format_steps_layer[] = {
    { ERN_ATTN_NORM, FORMAT_ALWAYS },  { ERN_QKV, FORMAT_ALWAYS },
    { ERN_ATTN_OUT, FORMAT_ALWAYS },   { ERN_FFN_NORM, FORMAT_ALWAYS },
    { ERN_FFN_GATE_UP, FORMAT_DENSE }, { ERN_FFN_DOWN, FORMAT_DENSE },
    { ERN_ROUTER, FORMAT_MOE },        { ERN_ROUTER_BIAS, FORMAT_MOE },
    { ERN_SHARED_GATE_UP, FORMAT_SHARED }, { ERN_SHARED_DOWN, FORMAT_SHARED },
};
/* clang-format on */

static const format_step format_steps_last[] = {
    { ERN_FINAL_NORM, FORMAT_ALWAYS },
    { ERN_HEAD, FORMAT_UNTIED },
};

/* clang-format off */
static const format_step format_steps_mtp[] = {
    { ERN_MTP_EMB_NORM, FORMAT_ALWAYS }, { ERN_MTP_HIDDEN_NORM, FORMAT_ALWAYS },
    { ERN_MTP_PROJ, FORMAT_ALWAYS },     { ERN_ATTN_NORM, FORMAT_ALWAYS },
    { ERN_QKV, FORMAT_ALWAYS },          { ERN_ATTN_OUT, FORMAT_ALWAYS },
    { ERN_FFN_NORM, FORMAT_ALWAYS },     { ERN_FFN_GATE_UP, FORMAT_ALWAYS },
    { ERN_FFN_DOWN, FORMAT_ALWAYS },
};
/* clang-format on */

static const format_step format_step_expert = { ERN_EXPERT, FORMAT_MOE };

/* The parts of a file, each a range of layers (one pseudo-layer for those without). */
enum { FORMAT_FIRST, FORMAT_LAYERS, FORMAT_LAST, FORMAT_MTP, FORMAT_EXPERTS, FORMAT_N_PARTS };

typedef struct format_part {
    const format_step *steps; /* the same step again and again in FORMAT_EXPERTS */
    uint32_t n_steps, layer_begin, layer_end;
} format_part;

static format_part format_part_at(const ern_hparams *h, uint32_t part)
{
    const uint32_t n = h->n_layers;
    switch (part) {
    case FORMAT_FIRST: return (format_part){ format_steps_first, 1, 0, 1 };
    case FORMAT_LAYERS:
        return (format_part){ format_steps_layer, ERN_COUNT(format_steps_layer), 0, n };
    case FORMAT_LAST: return (format_part){ format_steps_last, ERN_COUNT(format_steps_last), 0, 1 };
    case FORMAT_MTP:
        return (format_part){ format_steps_mtp, ERN_COUNT(format_steps_mtp), n,
                              n + h->n_mtp_layers };
    default: return (format_part){ &format_step_expert, h->n_experts, 0, n };
    }
}

static bool format_step_applies(const ern_hparams *h, unsigned when, uint32_t layer)
{
    switch (when) {
    case FORMAT_DENSE: return !ern_layer_is_moe(h, layer);
    case FORMAT_MOE: return ern_layer_is_moe(h, layer);
    case FORMAT_SHARED: return h->n_shared_experts && ern_layer_is_moe(h, layer);
    case FORMAT_UNTIED: return !h->tied;
    default: return true;
    }
}

static void format_shape(ern_record *record, uint32_t n_rows, uint32_t n_cols)
{
    record->n_rows = n_rows;
    record->n_cols = n_cols;
}

static void format_set_shape(ern_record *record, const ern_hparams *h)
{
    const uint32_t hidden = h->hidden_size;
    switch (record->kind) {
    case ERN_EMBED:
    case ERN_HEAD: format_shape(record, h->vocab_size, hidden); break;
    case ERN_QKV:
        format_shape(record, (h->n_heads + 2 * h->n_kv_heads) * h->head_dim, hidden);
        break;
    case ERN_ATTN_OUT: format_shape(record, hidden, h->n_heads * h->head_dim); break;
    case ERN_FFN_GATE_UP:
        format_shape(record, ern_gate_up_rows(h->intermediate_size), hidden);
        break;
    case ERN_FFN_DOWN: format_shape(record, hidden, h->intermediate_size); break;
    case ERN_ROUTER: format_shape(record, h->n_experts, hidden); break;
    case ERN_ROUTER_BIAS: format_shape(record, 1, h->n_experts); break;
    case ERN_SHARED_GATE_UP:
        format_shape(record, ern_gate_up_rows(h->shared_intermediate_size), hidden);
        break;
    case ERN_SHARED_DOWN: format_shape(record, hidden, h->shared_intermediate_size); break;
    case ERN_EXPERT:
        format_shape(record, ern_gate_up_rows(h->moe_intermediate_size), hidden);
        record->n_rows2 = hidden;
        record->n_cols2 = h->moe_intermediate_size;
        break;
    case ERN_MTP_PROJ: format_shape(record, hidden, 2 * hidden); break;
    default: format_shape(record, 1, hidden); break; /* the norms */
    }
}

ERN_FN void ern_layout_begin(ern_layout *layout, const ern_hparams *hparams)
{
    *layout = (ern_layout){ .hparams = hparams };
}

/* Move to the next step that may exist: the end of a layer, then of a part, then of the file. */
static bool format_settle(ern_layout *layout, format_part *part)
{
    while (layout->part < FORMAT_N_PARTS) {
        *part = format_part_at(layout->hparams, layout->part);
        if (layout->layer < part->layer_begin) layout->layer = part->layer_begin;
        if (layout->layer >= part->layer_end) {
            layout->part++;
            layout->layer = 0;
            layout->step = 0;
        } else if (layout->step >= part->n_steps) {
            layout->layer++;
            layout->step = 0;
        } else {
            return true;
        }
    }
    return false;
}

ERN_FN bool ern_layout_next(ern_layout *layout, ern_record *expected, bool *optional)
{
    format_part part;
    while (format_settle(layout, &part)) {
        const bool experts = layout->part == FORMAT_EXPERTS;
        const uint32_t i = layout->step;
        const format_step step = part.steps[experts ? 0 : i];
        const uint32_t layer = layout->layer;
        if (!format_step_applies(layout->hparams, step.when, layer)) {
            layout->step = experts ? part.n_steps : i + 1;
            continue;
        }
        const bool no_layer = layout->part == FORMAT_FIRST || layout->part == FORMAT_LAST;
        *expected = (ern_record){ .kind = step.kind,
                                  .layer = (uint16_t)(no_layer ? ERN_NO_LAYER : layer),
                                  .expert = (uint16_t)(experts ? i : 0) };
        format_set_shape(expected, layout->hparams);
        *optional = step.kind == ERN_ROUTER_BIAS;
        layout->step++;
        return true;
    }
    return false;
}

/* ---- Architecture numbers ------------------------------------------------------------------ */

typedef struct format_range {
    const char *name;
    uint32_t value, min, max;
} format_range;

static ernie_status format_check_ranges(const format_range *ranges, size_t n, ernie_error *error)
{
    for (size_t i = 0; i < n; i++)
        ERN_FAIL_IF(ranges[i].value < ranges[i].min || ranges[i].value > ranges[i].max, error,
                    ERNIE_FORMAT, "architecture: %s is %u, must be %u .. %u", ranges[i].name,
                    (unsigned)ranges[i].value, (unsigned)ranges[i].min, (unsigned)ranges[i].max);
    return ERNIE_OK;
}

static ernie_status format_check_sizes(const ern_hparams *h, ernie_error *error)
{
    const format_range ranges[] = {
        { "n_layers", h->n_layers, 1, ERN_LAYERS_MAX },
        { "hidden_size", h->hidden_size, 1, ERN_DIM_MAX },
        { "n_heads", h->n_heads, 1, ERN_HEADS_MAX },
        { "n_kv_heads", h->n_kv_heads, 1, ERN_HEADS_MAX },
        { "head_dim", h->head_dim, 2, ERN_DIM_MAX },
        { "intermediate_size", h->intermediate_size, 0, ERN_DIM_MAX },
        { "vocab_size", h->vocab_size, 1, ERN_VOCAB_MAX },
        { "context_max", h->context_max, 1, ERN_CONTEXT_MAX },
        { "n_mtp_layers", h->n_mtp_layers, 0, ERN_MTP_MAX },
        { "tied", h->tied, 0, 1 },
        { "reserved0", h->reserved0, 0, 0 },
    };
    return format_check_ranges(ranges, ERN_COUNT(ranges), error);
}

static ernie_status format_check_attention(const ern_hparams *h, ernie_error *error)
{
    ERN_FAIL_IF(h->head_dim % 2, error, ERNIE_FORMAT, "architecture: head_dim is %u, must be even",
                (unsigned)h->head_dim);
    ERN_FAIL_IF(h->n_heads % h->n_kv_heads, error, ERNIE_FORMAT,
                "architecture: n_heads %u is not a multiple of n_kv_heads %u", (unsigned)h->n_heads,
                (unsigned)h->n_kv_heads);
    ERN_FAIL_IF((uint64_t)h->n_heads * h->head_dim > ERN_DIM_MAX, error, ERNIE_FORMAT,
                "architecture: %u heads of %u numbers exceed %u", (unsigned)h->n_heads,
                (unsigned)h->head_dim, ERN_DIM_MAX);
    return ERNIE_OK;
}

static ernie_status format_check_moe(const ern_hparams *h, ernie_error *error)
{
    const bool moe = h->n_experts > 0;
    const uint32_t dim_max = moe ? ERN_DIM_MAX : 0;
    const uint32_t shared_max = h->n_shared_experts ? ERN_DIM_MAX : 0;
    const format_range ranges[] = {
        { "n_experts", h->n_experts, 0, ERN_EXPERTS_MAX },
        { "moe_k", h->moe_k, moe, h->n_experts },
        { "moe_intermediate_size", h->moe_intermediate_size, moe, dim_max },
        { "n_shared_experts", h->n_shared_experts, 0, moe ? ERN_EXPERTS_MAX : 0 },
        { "shared_intermediate_size", h->shared_intermediate_size, h->n_shared_experts > 0,
          shared_max },
        { "moe_layer_start", h->moe_layer_start, 0, moe ? h->n_layers - 1 : 0 },
        { "moe_layer_end", h->moe_layer_end, h->moe_layer_start, moe ? h->n_layers - 1 : 0 },
        { "moe_layer_interval", h->moe_layer_interval, moe, moe ? ERN_LAYERS_MAX : 0 },
    };
    const ernie_status status = format_check_ranges(ranges, ERN_COUNT(ranges), error);
    if (status != ERNIE_OK) return status;
    const bool has_dense = h->n_mtp_layers || ern_n_moe_layers(h) < h->n_layers;
    ERN_FAIL_IF(has_dense && !h->intermediate_size, error, ERNIE_FORMAT,
                "architecture: intermediate_size is 0, but there are dense layers");
    return ERNIE_OK;
}

/* Written so that a NaN fails. */
static bool format_in(double x, double min, double max)
{
    return x >= min && x <= max;
}

static ernie_status format_check_floats(const ern_hparams *h, ernie_error *error)
{
    ERN_FAIL_IF(!format_in(h->rms_norm_eps, FLT_MIN, 1.0), error, ERNIE_FORMAT,
                "architecture: rms_norm_eps is %g, must be above 0 and at most 1",
                (double)h->rms_norm_eps);
    ERN_FAIL_IF(!format_in(h->rope_theta, 1.0, 1e12), error, ERNIE_FORMAT,
                "architecture: rope_theta is %g, must be 1 .. 1e12", h->rope_theta);
    ERN_FAIL_IF(!format_in(h->moe_norm_min, 0.0, 1.0), error, ERNIE_FORMAT,
                "architecture: moe_norm_min is %g, must be 0 .. 1", (double)h->moe_norm_min);
    return ERNIE_OK;
}

static ernie_status format_check_ids(const ern_hparams *h, ernie_error *error)
{
    const struct {
        const char *name;
        int32_t id;
    } ids[] = { { "bos_id", h->bos_id }, { "eos_id", h->eos_id }, { "pad_id", h->pad_id } };
    for (size_t i = 0; i < ERN_COUNT(ids); i++)
        ERN_FAIL_IF(ids[i].id < -1 || ids[i].id >= (int32_t)h->vocab_size, error, ERNIE_FORMAT,
                    "architecture: %s is %d, must be -1 .. %u", ids[i].name, (int)ids[i].id,
                    (unsigned)h->vocab_size - 1);
    return ERNIE_OK;
}

ERN_FN ernie_status ern_hparams_check(const ern_hparams *hparams, ernie_error *error)
{
    ernie_status status = format_check_sizes(hparams, error);
    if (status == ERNIE_OK) status = format_check_attention(hparams, error);
    if (status == ERNIE_OK) status = format_check_moe(hparams, error);
    if (status == ERNIE_OK) status = format_check_floats(hparams, error);
    if (status == ERNIE_OK) status = format_check_ids(hparams, error);
    return status;
}
