/* The order of entries, which reader and writer follow. */
#include "imatrix_file.h"

/* Entries of a mixture layer before its experts. */
enum { IMATRIX_ATTENTION = 2, IMATRIX_DENSE = 4 };

static uint32_t imatrix_before_experts(const ern_hparams *hp)
{
    return IMATRIX_ATTENTION + 1 + (hp->shared_intermediate_size ? 2 : 0);
}

ERN_FN uint32_t conv_entries_of_layer(const ern_hparams *hp, uint32_t layer)
{
    return ern_layer_is_moe(hp, layer) ? imatrix_before_experts(hp) + 2 * hp->n_experts
                                       : IMATRIX_DENSE;
}

ERN_FN uint64_t conv_entries_count(const ern_hparams *hp)
{
    uint64_t n = 1;
    for (uint32_t i = 0; i < hp->n_layers; i++) n += conv_entries_of_layer(hp, i);
    return n;
}

ERN_FN void conv_entries_begin(conv_entries *entries, const ern_hparams *hparams)
{
    *entries = (conv_entries){ .hparams = hparams };
}

static void imatrix_set(conv_imatrix_entry *entry, ern_kind kind, uint32_t n_cols)
{
    entry->kind = (uint16_t)kind;
    entry->n_cols = n_cols;
}

static void imatrix_expected(const ern_hparams *hp, uint32_t layer, uint32_t step,
                             conv_imatrix_entry *entry)
{
    const uint32_t first_expert = imatrix_before_experts(hp);
    entry->layer = (uint16_t)layer;
    if (step == 0) {
        imatrix_set(entry, ERN_QKV, hp->hidden_size);
    } else if (step == 1) {
        imatrix_set(entry, ERN_ATTN_OUT, hp->n_heads * hp->head_dim);
    } else if (!ern_layer_is_moe(hp, layer)) {
        if (step == 2)
            imatrix_set(entry, ERN_FFN_GATE_UP, hp->hidden_size);
        else
            imatrix_set(entry, ERN_FFN_DOWN, hp->intermediate_size);
    } else if (step == 2) {
        imatrix_set(entry, ERN_ROUTER, hp->hidden_size);
    } else if (step < first_expert) {
        if (step == 3)
            imatrix_set(entry, ERN_SHARED_GATE_UP, hp->hidden_size);
        else
            imatrix_set(entry, ERN_SHARED_DOWN, hp->shared_intermediate_size);
    } else {
        const uint32_t i = step - first_expert;
        imatrix_set(entry, ERN_EXPERT, i % 2 ? hp->moe_intermediate_size : hp->hidden_size);
        entry->expert = (uint16_t)(i / 2);
        entry->second = (uint8_t)(i % 2);
    }
}

ERN_FN bool conv_entries_next(conv_entries *at, conv_imatrix_entry *expected)
{
    const ern_hparams *hp = at->hparams;
    memset(expected, 0, sizeof *expected);
    if (at->layer > hp->n_layers) return false;
    if (at->layer == hp->n_layers) {
        imatrix_set(expected, ERN_HEAD, hp->hidden_size);
        expected->layer = ERN_NO_LAYER;
        at->layer++;
        return true;
    }
    imatrix_expected(hp, at->layer, at->step, expected);
    if (++at->step == conv_entries_of_layer(hp, at->layer)) {
        at->layer++;
        at->step = 0;
    }
    return true;
}

ERN_FN bool conv_moment_allowed(const conv_imatrix_entry *entry, unsigned moment)
{
    const bool common =
        entry->kind == ERN_SHARED_GATE_UP || (entry->kind == ERN_EXPERT && !entry->second);
    if (moment == CONV_MOMENT_COMMON) return common;
    return moment == CONV_MOMENT_NONE
           || (moment == CONV_MOMENT_OWN && entry->kind != ERN_SHARED_GATE_UP);
}

ERN_FN void conv_entry_name(const conv_imatrix_entry *entry, char name[64])
{
    const ern_record record = { .kind = entry->kind,
                                .layer = entry->layer,
                                .expert = entry->expert };
    char text[64];
    ern_record_name(&record, ERN_LAYERS_MAX, text);
    snprintf(name, 64, "%.50s%s", text,
             entry->kind != ERN_EXPERT ? ""
             : entry->second           ? ".down"
                                       : ".gate_up");
}
