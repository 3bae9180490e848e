/* Each record asks for its tensors by name, in every spelling in turn; what is left unasked at the
 * end is unknown. So a missing tensor, a double and a stranger are all found by the same few
 * lines. */
#include "names.h"
#include "gguf_model.h"

#define NAMES_BASE_MAX 32  /* "layers.1023." */
#define NAMES_STEM_MAX 48  /* "mlp.experts.4095." */
#define NAMES_TEXT_MAX 96  /* stem and name */
#define NAMES_FULL_MAX 144 /* prefix, base, stem and name */
#define NAMES_DIM_3    3u

typedef struct names_search {
    const conv_tensors *tensors;
    const ern_hparams *hparams;
    const conv_paddle *paddle;
    const ern_record *record;
    char base[NAMES_BASE_MAX]; /* "layers.3.", "mtp_block.0." or "" */
    ernie_error *error;
} names_search;

/* ---- Finding --------------------------------------------------------------------------------- */

static const char *const names_prefixes[] = { "model.", "ernie." };

/* The tensor prefix + base + name under any prefix, or NULL. `full` receives the spelling that is
 * usual in the layout. */
static conv_tensor *names_lookup(const names_search *search, const char *name,
                                 char full[NAMES_FULL_MAX])
{
    conv_tensor *found = NULL;
    if (search->tensors->gguf) {
        conv_gguf_tensor_name(search->base, name, full, NAMES_FULL_MAX);
        return conv_tensors_find(search->tensors, full);
    }
    for (size_t i = 0; i < ERN_COUNT(names_prefixes) && !found; i++) {
        const char *prefix = names_prefixes[search->paddle->turned ? i : !i];
        snprintf(full, NAMES_FULL_MAX, "%s%s%s", prefix, search->base, name);
        found = conv_tensors_find(search->tensors, full);
    }
    return found;
}

static ernie_status names_missing(const names_search *search, const char *full,
                                  const uint64_t *dims, uint32_t n_dims)
{
    char text[128];
    return ern_error_set(search->error, ERNIE_FORMAT,
                         "tensor \"%s\" is missing, expected with shape %.96s", full,
                         conv_shape_text(dims, n_dims, text));
}

/* ---- Checking -------------------------------------------------------------------------------- */

static ernie_status names_use(const names_search *search, conv_tensor *tensor, const uint64_t *dims,
                              uint32_t n_dims)
{
    char has[128], wants[128];
    bool same = tensor->n_dims == n_dims;
    for (uint32_t i = 0; same && i < n_dims; i++) same = tensor->dims[i] == dims[i];
    ERN_FAIL_IF(!same, search->error, ERNIE_FORMAT, "tensor \"%.96s\": shape %.48s, %s for %.48s",
                tensor->name, conv_shape_text(tensor->dims, tensor->n_dims, has),
                search->tensors->gguf ? "the metadata ask" : "config.json asks",
                conv_shape_text(dims, n_dims, wants));
    ERN_FAIL_IF(tensor->dtype == CONV_OTHER, search->error, ERNIE_UNSUPPORTED,
                "tensor \"%.96s\": dtype %s, supported are %s", tensor->name, tensor->dtype_name,
                search->tensors->gguf ? CONV_GGML_READABLE : "F32, F16 and BF16");
    tensor->used = true;
    return ERNIE_OK;
}

/* Rows first_row .. first_row + n_rows - 1 of a tensor seen as rows of n_cols values. */
static void names_add_slice(conv_source *source, const conv_tensor *tensor, uint64_t first_row,
                            uint32_t n_rows)
{
    conv_slice *slice = &source->slices[source->n_slices++];
    *slice = (conv_slice){ .tensor = tensor,
                           .n_rows = n_rows,
                           .first_row = (uint32_t)first_row,
                           .offset = tensor->offset
                                     + first_row * conv_row_bytes(tensor, source->n_cols) };
}

/* The quantized form of the tensor `name`, which ends in ".weight", or NULL. */
static conv_tensor *names_lookup_quantized(const names_search *search, const char *name,
                                           char full[NAMES_FULL_MAX])
{
    char quantized[NAMES_TEXT_MAX + 8];
    const size_t n = strlen(name) - strlen("weight");
    snprintf(quantized, sizeof quantized, "%.*squant_weight", (int)n, name);
    return names_lookup(search, quantized, full);
}

/* Is there a linear layer of that name, in any form? */
static bool names_has_linear(const names_search *search, const char *name)
{
    char full[NAMES_FULL_MAX];
    return names_lookup(search, name, full) || names_lookup_quantized(search, name, full);
}

/* Which of two spellings to ask for; where there is neither, the usual one of the layout. */
static bool names_is_fused(const names_search *search, const char *fused, const char *first_part)
{
    if (names_has_linear(search, fused)) return true;
    return search->paddle->turned && !names_has_linear(search, first_part);
}

/* The tensor `name` of [n_rows][n_cols] as the next slice; of a `turned` one, [n_cols][n_rows], the
 * columns. */
static ernie_status names_add_matrix(const names_search *search, conv_source *source,
                                     const char *name, bool turned, uint32_t n_rows)
{
    char full[NAMES_FULL_MAX];
    const uint64_t dims[2] = { turned ? source->n_cols : n_rows, turned ? n_rows : source->n_cols };
    conv_tensor *tensor = names_lookup(search, name, full);
    if (!tensor) return names_missing(search, full, dims, 2);
    const ernie_status status = names_use(search, tensor, dims, 2);
    if (status != ERNIE_OK) return status;
    names_add_slice(source, tensor, 0, n_rows);
    if (turned) source->slices[source->n_slices - 1].coding = CONV_COLUMNS;
    return ERNIE_OK;
}

/* A linear layer's weight, in the layout that the checkpoint has them in. */
static ernie_status names_add_linear(const names_search *search, conv_source *source,
                                     const char *name, uint32_t n_rows)
{
    char full[NAMES_FULL_MAX];
    conv_tensor *quantized = NULL;
    if (!names_lookup(search, name, full)) quantized = names_lookup_quantized(search, name, full);
    if (!quantized) return names_add_matrix(search, source, name, search->paddle->turned, n_rows);
    return conv_paddle_bind(&source->slices[source->n_slices++], search->tensors, search->paddle,
                            search->record, quantized, n_rows, source->n_cols, search->error);
}

/* The last slice becomes two of n_rows rows, one after the other. */
static void names_halve(conv_source *source, uint32_t n_rows)
{
    conv_slice *slice = &source->slices[source->n_slices++ - 1];
    slice[0].n_rows = n_rows;
    slice[1] = slice[0];
    slice[1].first_row += n_rows;
    if (slice->coding == CONV_ROWS)
        slice[1].offset += n_rows * conv_row_bytes(slice->tensor, source->n_cols);
}

/* ---- Kinds ----------------------------------------------------------------------------------- */

static ernie_status names_find_vector(const names_search *search, conv_source *source,
                                      const char *name)
{
    char full[NAMES_FULL_MAX];
    const uint64_t dim = source->n_cols;
    conv_tensor *tensor = names_lookup(search, name, full);
    if (!tensor) return names_missing(search, full, &dim, 1);
    const ernie_status status = names_use(search, tensor, &dim, 1);
    if (status == ERNIE_OK) names_add_slice(source, tensor, 0, 1);
    return status;
}

/* The one name that has no prefix. */
static const char *names_head(const conv_tensors *tensors)
{
    return tensors->gguf ? CONV_GGUF_HEAD : "lm_head.weight";
}

/* [V, h] as the embedding; [h, V] where linears are turned, unless its shape says otherwise. */
static ernie_status names_find_head(const names_search *search, conv_source *source)
{
    const char *name = names_head(search->tensors);
    const uint64_t dims[2] = { search->record->n_rows, source->n_cols },
                   turned[2] = { dims[1], dims[0] };
    conv_tensor *tensor = conv_tensors_find(search->tensors, name);
    if (!tensor) return names_missing(search, name, dims, 2);
    const bool turn = search->paddle->turned && tensor->n_dims == 2
                      && memcmp(tensor->dims, turned, sizeof turned) == 0;
    const ernie_status status = names_use(search, tensor, turn ? turned : dims, 2);
    if (status != ERNIE_OK) return status;
    names_add_slice(source, tensor, 0, search->record->n_rows);
    source->slices[0].coding = turn ? CONV_COLUMNS : CONV_ROWS;
    return ERNIE_OK;
}

static ernie_status names_find_qkv(const names_search *search, conv_source *source)
{
    static const char *const parts[] = { "self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                         "self_attn.v_proj.weight" };
    const ern_hparams *h = search->hparams;
    const uint32_t rows[] = { h->n_heads * h->head_dim, h->n_kv_heads * h->head_dim,
                              h->n_kv_heads * h->head_dim };
    if (names_is_fused(search, "self_attn.qkv_proj.weight", parts[0]))
        return names_add_linear(search, source, "self_attn.qkv_proj.weight",
                                search->record->n_rows);
    for (size_t i = 0; i < 3; i++) {
        const ernie_status status = names_add_linear(search, source, parts[i], rows[i]);
        if (status != ERNIE_OK) return status;
    }
    return ERNIE_OK;
}

/* stem + gate_proj and up_proj, or stem + up_gate_proj, whose rows are gate first, then up. */
static ernie_status names_find_gate_up(const names_search *search, conv_source *source,
                                       const char *stem, uint32_t width)
{
    char fused[NAMES_TEXT_MAX], name[NAMES_TEXT_MAX];
    source->gate_up = true;
    snprintf(fused, sizeof fused, "%.40sup_gate_proj.weight", stem);
    snprintf(name, sizeof name, "%.40sgate_proj.weight", stem);
    if (names_is_fused(search, fused, name)) {
        const ernie_status status = names_add_linear(search, source, fused, 2 * width);
        if (status == ERNIE_OK) names_halve(source, width);
        return status;
    }
    const ernie_status status = names_add_linear(search, source, name, width);
    if (status != ERNIE_OK) return status;
    snprintf(name, sizeof name, "%.40sup_proj.weight", stem);
    return names_add_linear(search, source, name, width);
}

static ernie_status names_find_down(const names_search *search, conv_source *source,
                                    const char *stem)
{
    char name[NAMES_TEXT_MAX];
    snprintf(name, sizeof name, "%.40sdown_proj.weight", stem);
    return names_add_linear(search, source, name, search->hparams->hidden_size);
}

/* Text models store [E, h], vision-language ones and Paddle [h, E]: oriented by shape. */
static ernie_status names_find_router(const names_search *search, conv_source *source)
{
    char full[NAMES_FULL_MAX];
    const uint64_t dims[2] = { source->n_cols, search->record->n_rows };
    const conv_tensor *tensor = names_lookup(search, "mlp.gate.weight", full);
    const bool turned = tensor && !search->tensors->gguf && tensor->n_dims == 2
                        && tensor->dims[0] == dims[0] && tensor->dims[1] == dims[1]
                        && (dims[0] != dims[1] || search->paddle->turned);
    return names_add_matrix(search, source, "mlp.gate.weight", turned, search->record->n_rows);
}

static ernie_status names_find_bias(const names_search *search, conv_source *source, bool optional,
                                    bool *absent)
{
    char full[NAMES_FULL_MAX];
    const uint64_t dims[2] = { 1, source->n_cols };
    conv_tensor *tensor =
        names_lookup(search, "mlp.gate.moe_statics.e_score_correction_bias", full);
    if (!tensor) tensor = names_lookup(search, "mlp.moe_statics.e_score_correction_bias", full);
    *absent = !tensor && optional;
    if (*absent) return ERNIE_OK;
    if (!tensor) return names_missing(search, full, dims, 2);
    const bool flat = tensor->n_dims == 1;
    const ernie_status status = names_use(search, tensor, flat ? dims + 1 : dims, flat ? 1 : 2);
    if (status == ERNIE_OK) names_add_slice(source, tensor, 0, 1);
    return status;
}

/* Merged experts: gate_up_proj [E, 2 Ie, h], gate rows first, and down_proj [E, h, Ie]. */
static ernie_status names_find_merged(const names_search *search, conv_source sources[2],
                                      conv_tensor *gate_up, conv_tensor *down)
{
    const ern_hparams *h = search->hparams;
    const uint32_t width = h->moe_intermediate_size, e = search->record->expert;
    const uint64_t dims[NAMES_DIM_3] = { h->n_experts, 2 * (uint64_t)width, h->hidden_size };
    const uint64_t down_dims[NAMES_DIM_3] = { h->n_experts, h->hidden_size, width };
    ernie_status status = names_use(search, gate_up, dims, NAMES_DIM_3);
    if (status == ERNIE_OK) status = names_use(search, down, down_dims, NAMES_DIM_3);
    if (status != ERNIE_OK) return status;
    sources[0].gate_up = true;
    names_add_slice(&sources[0], gate_up, e * dims[1], width);
    names_add_slice(&sources[0], gate_up, e * dims[1] + width, width);
    names_add_slice(&sources[1], down, e * down_dims[1], h->hidden_size);
    return ERNIE_OK;
}

/* One matrix of all experts, [E, n_rows, n_cols]: this expert's part as the next slice. */
static ernie_status names_add_stacked(const names_search *search, conv_source *source,
                                      const char *name, uint32_t n_rows)
{
    char full[NAMES_FULL_MAX];
    const uint64_t dims[NAMES_DIM_3] = { search->hparams->n_experts, n_rows, source->n_cols };
    conv_tensor *tensor = names_lookup(search, name, full);
    if (!tensor) return names_missing(search, full, dims, NAMES_DIM_3);
    const ernie_status status = names_use(search, tensor, dims, NAMES_DIM_3);
    if (status == ERNIE_OK)
        names_add_slice(source, tensor, search->record->expert * (uint64_t)n_rows, n_rows);
    return status;
}

/* GGUF: gate, up and down of all experts are three tensors. */
static ernie_status names_find_stacked(const names_search *search, conv_source sources[2])
{
    const uint32_t width = search->hparams->moe_intermediate_size;
    sources[0].gate_up = true;
    ernie_status status =
        names_add_stacked(search, &sources[0], "mlp.experts.gate_proj.weight", width);
    if (status == ERNIE_OK)
        status = names_add_stacked(search, &sources[0], "mlp.experts.up_proj.weight", width);
    if (status == ERNIE_OK)
        status = names_add_stacked(search, &sources[1], "mlp.experts.down_proj.weight",
                                   search->hparams->hidden_size);
    return status;
}

static ernie_status names_find_expert(const names_search *search, conv_source sources[2])
{
    if (search->tensors->gguf) return names_find_stacked(search, sources);
    char stem[NAMES_STEM_MAX], full[NAMES_FULL_MAX], down_full[NAMES_FULL_MAX];
    conv_tensor *gate_up = names_lookup(search, "mlp.experts.gate_up_proj", full);
    conv_tensor *down = names_lookup(search, "mlp.experts.down_proj", down_full);
    ERN_FAIL_IF(!gate_up != !down, search->error, ERNIE_FORMAT,
                "tensor \"%.96s\" is there without its %s", gate_up ? gate_up->name : down->name,
                gate_up ? "down_proj" : "gate_up_proj");
    if (gate_up) return names_find_merged(search, sources, gate_up, down);
    snprintf(stem, sizeof stem, "mlp.experts.%u.", search->record->expert);
    const ernie_status status =
        names_find_gate_up(search, &sources[0], stem, search->hparams->moe_intermediate_size);
    return status == ERNIE_OK ? names_find_down(search, &sources[1], stem) : status;
}

/* ---- Records --------------------------------------------------------------------------------- */

static void names_set_base(names_search *search)
{
    const uint32_t n_layers = search->hparams->n_layers, layer = search->record->layer;
    search->base[0] = '\0';
    if (layer == ERN_NO_LAYER) return;
    const bool mtp = layer >= n_layers;
    snprintf(search->base, sizeof search->base, "%s.%u.", mtp ? "mtp_block" : "layers",
             (unsigned)(mtp ? layer - n_layers : layer));
}

/* The three tensors of an MTP block that lie outside of mtp_block. */
static ernie_status names_find_mtp(names_search *search, conv_source *source)
{
    static const char *const names[] = { "mtp_emb_norm", "mtp_hidden_norm", "mtp_linear_proj" };
    const uint32_t which = search->record->kind - ERN_MTP_EMB_NORM;
    char name[NAMES_TEXT_MAX];
    snprintf(name, sizeof name, "%s.%u.weight", names[which],
             (unsigned)(search->record->layer - search->hparams->n_layers));
    search->base[0] = '\0';
    if (search->record->kind == ERN_MTP_PROJ)
        return names_add_linear(search, source, name, search->record->n_rows);
    return names_find_vector(search, source, name);
}

ERN_FN ernie_status conv_names_find(conv_source sources[2], conv_tensors *tensors,
                                    const ern_hparams *hparams, const conv_paddle *paddle,
                                    const ern_record *record, bool optional, bool *absent,
                                    ernie_error *error)
{
    names_search search = {
        .tensors = tensors, .hparams = hparams, .paddle = paddle, .record = record, .error = error
    };
    memset(sources, 0, 2 * sizeof sources[0]);
    sources[0].n_cols = record->n_cols;
    sources[1].n_cols = record->n_cols2;
    *absent = false;
    names_set_base(&search);
    switch ((ern_kind)record->kind) {
    case ERN_EMBED:
        return names_add_matrix(&search, sources, "embed_tokens.weight", false, record->n_rows);
    case ERN_HEAD: return names_find_head(&search, sources);
    case ERN_FINAL_NORM: return names_find_vector(&search, sources, "norm.weight");
    case ERN_ATTN_NORM: return names_find_vector(&search, sources, "input_layernorm.weight");
    case ERN_QKV: return names_find_qkv(&search, sources);
    case ERN_ATTN_OUT:
        return names_add_linear(&search, sources, "self_attn.o_proj.weight", record->n_rows);
    case ERN_FFN_NORM:
        return names_find_vector(&search, sources, "post_attention_layernorm.weight");
    case ERN_FFN_GATE_UP:
        return names_find_gate_up(&search, sources, "mlp.", hparams->intermediate_size);
    case ERN_FFN_DOWN: return names_find_down(&search, sources, "mlp.");
    case ERN_ROUTER: return names_find_router(&search, sources);
    case ERN_ROUTER_BIAS: return names_find_bias(&search, sources, optional, absent);
    case ERN_SHARED_GATE_UP:
        return names_find_gate_up(&search, sources, "mlp.shared_experts.",
                                  hparams->shared_intermediate_size);
    case ERN_SHARED_DOWN: return names_find_down(&search, sources, "mlp.shared_experts.");
    case ERN_EXPERT: return names_find_expert(&search, sources);
    case ERN_MTP_EMB_NORM:
    case ERN_MTP_HIDDEN_NORM:
    case ERN_MTP_PROJ: return names_find_mtp(&search, sources);
    case ERN_N_KINDS: break;
    }
    return ern_error_set(error, ERNIE_UNSUPPORTED, "record kind %u has no tensors", record->kind);
}

ERN_FN const conv_slice *conv_source_row(const conv_source *source, uint32_t row,
                                         uint32_t *slice_row)
{
    if (source->gate_up) {
        const conv_slice *slice = &source->slices[row / ERN_GROUP_ROWS % 2];
        *slice_row = row / (2 * ERN_GROUP_ROWS) * ERN_GROUP_ROWS + row % ERN_GROUP_ROWS;
        return *slice_row < slice->n_rows ? slice : NULL;
    }
    for (uint32_t i = 0; i < source->n_slices; i++) {
        *slice_row = row;
        if (row < source->slices[i].n_rows) return &source->slices[i];
        row -= source->slices[i].n_rows;
    }
    return NULL;
}

/* ---- What the tensors say -------------------------------------------------------------------- */

ERN_FN bool conv_names_has_head(const conv_tensors *tensors)
{
    return conv_tensors_find(tensors, names_head(tensors)) != NULL;
}

/* The first layer that has the tensor `name`, and that tensor; NULL and n_layers when none has. */
static const conv_tensor *names_first(const conv_tensors *tensors, uint32_t n_layers,
                                      const char *name, uint32_t *layer)
{
    char full[NAMES_FULL_MAX];
    static const conv_paddle any = { .turned = false };
    names_search search = { .tensors = tensors, .paddle = &any };
    const conv_tensor *found = NULL;
    for (*layer = 0; *layer < n_layers; ++*layer) {
        snprintf(search.base, sizeof search.base, "layers.%u.", (unsigned)*layer);
        found = names_lookup(&search, name, full);
        if (found) break;
    }
    return found;
}

ERN_FN uint32_t conv_names_moe_start(const conv_tensors *tensors, uint32_t n_layers)
{
    uint32_t layer;
    return names_first(tensors, n_layers, "mlp.gate.weight", &layer) ? layer : 0;
}

ERN_FN uint32_t conv_names_shared_width(const conv_tensors *tensors, const conv_paddle *paddle,
                                        uint32_t n_layers)
{
    uint32_t layer;
    const conv_tensor *down =
        names_first(tensors, n_layers, "mlp.shared_experts.down_proj.weight", &layer);
    if (!down || down->n_dims != 2) return 0;
    const uint64_t width = down->dims[!paddle->turned];
    return width <= ERN_DIM_MAX ? (uint32_t)width : 0;
}

/* The block number of an MTP tensor, whatever its prefix; -1 for other tensors. */
static int names_mtp_number(const char *name)
{
    static const char *const stems[] = { "mtp_emb_norm.", "mtp_hidden_norm.", "mtp_linear_proj.",
                                         "mtp_block." };
    unsigned number;
    for (size_t i = 0; i < ERN_COUNT(stems); i++) {
        const char *at = strstr(name, stems[i]);
        if (at && sscanf(at + strlen(stems[i]), "%4u.", &number) == 1) return (int)number;
    }
    return -1;
}

ERN_FN uint32_t conv_names_count_mtp(const conv_tensors *tensors)
{
    int last = -1;
    for (size_t i = 0; i < tensors->n; i++) {
        const int number = names_mtp_number(tensors->items[i].name);
        if (number > last) last = number;
    }
    return (uint32_t)(last + 1);
}

ERN_FN const conv_tensor *conv_names_find_vision(const conv_tensors *tensors)
{
    static const char *const marks[] = { "vision", "visual", "resampler", "gate.weight_1" };
    for (size_t i = 0; i < tensors->n; i++)
        for (size_t k = 0; k < ERN_COUNT(marks); k++)
            if (strstr(tensors->items[i].name, marks[k])) return &tensors->items[i];
    return NULL;
}

ERN_FN ernie_status conv_names_check_rest(const conv_tensors *tensors, const ern_hparams *hparams,
                                          ernie_error *error)
{
    for (size_t i = 0; i < tensors->n; i++) {
        const conv_tensor *tensor = &tensors->items[i];
        if (tensor->used || strstr(tensor->name, "rotary_emb.")) continue;
        if (conv_paddle_ignores(tensor->name)) continue;
        if (hparams->tied && strcmp(tensor->name, "lm_head.weight") == 0) continue;
        return ern_error_set(error, ERNIE_UNSUPPORTED,
                             "tensor \"%.128s\" in %.80s is unknown: nothing in this model uses it",
                             tensor->name, tensors->shards[tensor->shard].name);
    }
    return ERNIE_OK;
}
