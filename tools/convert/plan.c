/* Types by class, places by the canonical order. */
#include "plan.h"

#define PLAN_ALIGN_SMALL  4096u
#define PLAN_ALIGN_LARGE  65536u
#define PLAN_LARGE_EXPERT ((uint64_t)1 << 20)

/* ---- Types ----------------------------------------------------------------------------------- */

/* The last four are presets. What always works weighs little in a mixture and loses much: it gets
 * c4, which loses two thirds of w4 there; embedding and head get w8. The experts' down loses two
 * fifths of what all experts lose in a third of their weights, so it is what small raises first
 * (README.md has the figures).
 *
 * embed     head      attention dense     shared    gate_up   down */
static const conv_types plan_types[] = {
    { "f32", { ERN_F32, ERN_F32, ERN_F32, ERN_F32, ERN_F32, ERN_F32, ERN_F32 } },
    { "f16", { ERN_F16, ERN_F16, ERN_F16, ERN_F16, ERN_F16, ERN_F16, ERN_F16 } },
    { "bf16", { ERN_BF16, ERN_BF16, ERN_BF16, ERN_BF16, ERN_BF16, ERN_BF16, ERN_BF16 } },
    { "w8", { ERN_W8, ERN_W8, ERN_W8, ERN_W8, ERN_W8, ERN_W8, ERN_W8 } },
    { "w4", { ERN_W8, ERN_W8, ERN_W4, ERN_W4, ERN_W4, ERN_W4, ERN_W4 } },
    { "c4", { ERN_W8, ERN_W8, ERN_W4, ERN_W4, ERN_W4, ERN_C4, ERN_C4 } },
    { "c3", { ERN_W8, ERN_W8, ERN_W4, ERN_W4, ERN_W4, ERN_C3, ERN_C3 } },
    { "c2", { ERN_W4, ERN_W4, ERN_W4, ERN_W4, ERN_W4, ERN_C2, ERN_C2 } },
    { "tiny", { ERN_W8, ERN_W8, ERN_C4, ERN_C4, ERN_C4, ERN_C2, ERN_C2 } },
    { "small", { ERN_W8, ERN_W8, ERN_C4, ERN_C4, ERN_C4, ERN_C2, ERN_C3 } },
    { "medium", { ERN_W8, ERN_W8, ERN_C4, ERN_C4, ERN_C4, ERN_C3, ERN_C3 } },
    { "large", { ERN_W8, ERN_W8, ERN_C4, ERN_C4, ERN_C4, ERN_W4, ERN_W4 } },
};

ERN_FN ernie_status conv_types_find(const conv_types **types, const char *name, ernie_error *error)
{
    if (!name) name = "w4";
    for (size_t i = 0; i < ERN_COUNT(plan_types); i++) {
        *types = &plan_types[i];
        if (strcmp(name, plan_types[i].name) == 0) return ERNIE_OK;
    }
    *types = NULL;
    return ern_error_set(error, ERNIE_INVALID,
                         "type \"%.32s\" is unknown: f32, f16, bf16, w8, w4, c4, c3, c2, or a preset: "
                         "tiny, small, medium or large",
                         name);
}

/* Norms, router and router bias are f32 whatever the class says. */
static conv_class plan_class(unsigned kind)
{
    switch (kind) {
    case ERN_EMBED: return CONV_EMBED;
    case ERN_HEAD: return CONV_HEAD;
    case ERN_QKV:
    case ERN_ATTN_OUT: return CONV_ATTENTION;
    case ERN_SHARED_GATE_UP:
    case ERN_SHARED_DOWN: return CONV_SHARED;
    case ERN_EXPERT: return CONV_EXPERT_GATE_UP;
    default: return CONV_DENSE;
    }
}

/* ---- Records --------------------------------------------------------------------------------- */

/* At most `size` - 1 bytes, cut between characters. dst is zero before. */
static void plan_copy_name(char *dst, const char *src, size_t size)
{
    size_t n = strlen(src);
    if (n >= size)
        for (n = size - 1; n > 0 && ((unsigned char)src[n] & 0xc0) == 0x80;) n--;
    memcpy(dst, src, n);
    conv_text_clean(dst);
}

ERN_FN ernie_status conv_plan_begin(conv_plan *plan, const ern_hparams *hparams,
                                    const char *architecture, const char *name,
                                    const ernie_allocator *allocator, ernie_error *error)
{
    memset(plan, 0, sizeof *plan);
    plan->allocator = allocator;
    ern_header *header = &plan->header;
    memcpy(header->magic, ERN_MAGIC, sizeof header->magic);
    header->version = ERN_FORMAT_VERSION;
    header->version_min = 1; /* conv_plan_add raises it for newer types */
    header->hparams = *hparams;
    plan_copy_name(header->architecture, architecture, sizeof header->architecture);
    plan_copy_name(header->name, name, sizeof header->name);
    return ern_hparams_check(hparams, error);
}

static bool plan_grow(conv_plan *plan)
{
    const size_t record_bytes = sizeof *plan->records;
    if (plan->header.n_records < plan->record_capacity) return true;
    const size_t more = ern_max_size(256, 2 * plan->record_capacity);
    ern_record *grown = ern_resize(plan->allocator, plan->records,
                                   plan->record_capacity * record_bytes, more * record_bytes);
    if (!grown) return false;
    plan->records = grown;
    plan->record_capacity = more;
    return true;
}

ERN_FN ernie_status conv_plan_add(conv_plan *plan, const ern_record *record,
                                  const conv_types *types, ernie_error *error)
{
    ern_record planned = *record;
    if (!ern_kind_is_f32(record->kind)) planned.type = types->of[plan_class(record->kind)];
    if (record->kind == ERN_EXPERT) planned.type2 = types->of[CONV_EXPERT_DOWN];
    planned.n_bytes = ern_record_bytes(&planned);
    ern_header *header = &plan->header;
    for (unsigned i = 0; i < 2; i++) {
        const uint32_t version = ern_type_version(i ? planned.type2 : planned.type);
        if (version > header->version_min) header->version_min = version;
    }
    ERN_FAIL_IF(plan->header.n_records == ERN_RECORDS_MAX, error, ERNIE_UNSUPPORTED,
                "the model has more than %u tensors", ERN_RECORDS_MAX);
    ERN_FAIL_IF(!plan_grow(plan), error, ERNIE_NO_MEMORY, "no memory for the index of %u tensors",
                (unsigned)plan->header.n_records);
    plan->records[plan->header.n_records++] = planned;
    return ERNIE_OK;
}

ERN_FN void conv_plan_free(conv_plan *plan)
{
    if (plan->records)
        ern_free(plan->allocator, plan->records, plan->record_capacity * sizeof *plan->records);
    plan->records = NULL;
    plan->record_capacity = 0;
}

/* ---- Places ---------------------------------------------------------------------------------- */

static void plan_set_expert_size(ern_header *header, const ern_record *records)
{
    uint64_t largest = 0;
    for (uint32_t i = 0; i < header->n_records; i++)
        if (records[i].kind == ERN_EXPERT && records[i].n_bytes > largest)
            largest = records[i].n_bytes;
    header->expert_align = largest > PLAN_LARGE_EXPERT ? PLAN_ALIGN_LARGE : PLAN_ALIGN_SMALL;
    header->expert_bytes = ern_round_up_u64(largest, header->expert_align);
}

static void plan_place_section(ern_section *section, uint64_t n_bytes, uint64_t align, uint64_t *at)
{
    if (n_bytes == 0) return;
    section->offset = ern_round_up_u64(*at, align);
    section->n_bytes = n_bytes;
    *at = section->offset + n_bytes;
}

ERN_FN void conv_plan_place(conv_plan *plan, const uint64_t section_bytes[ERN_N_SECTIONS])
{
    ern_header *header = &plan->header;
    uint64_t at = ERN_HEADER_BYTES;
    plan_set_expert_size(header, plan->records);
    plan_place_section(&header->section[ERN_SECTION_INDEX],
                       header->n_records * (uint64_t)sizeof *plan->records, 64, &at);
    for (unsigned i = ERN_SECTION_TOKENIZER; i <= ERN_SECTION_GENERATION; i++)
        plan_place_section(&header->section[i], section_bytes[i], 64, &at);

    const uint64_t resident = ern_round_up_u64(at, PLAN_ALIGN_SMALL);
    uint32_t i = 0;
    at = resident;
    for (; i < header->n_records && plan->records[i].kind != ERN_EXPERT; i++) {
        plan->records[i].offset = at;
        at += ern_round_up_u64(plan->records[i].n_bytes, 64);
    }
    header->section[ERN_SECTION_RESIDENT] =
        (ern_section){ .offset = resident, .n_bytes = at - resident };
    const uint64_t experts_bytes = (header->n_records - i) * header->expert_bytes;
    plan_place_section(&header->section[ERN_SECTION_EXPERTS], experts_bytes, header->expert_align,
                       &at);
    for (uint32_t k = i; k < header->n_records; k++)
        plan->records[k].offset =
            header->section[ERN_SECTION_EXPERTS].offset + (k - i) * header->expert_bytes;
    header->file_bytes = at;
}

/* ---- Units ----------------------------------------------------------------------------------- */

ERN_FN uint32_t conv_n_units(const ern_record *record)
{
    return ern_n_groups(record->n_rows) + ern_n_groups(record->n_rows2);
}

ERN_FN conv_unit conv_unit_at(const ern_record *record, uint32_t i)
{
    const uint32_t n_first = ern_n_groups(record->n_rows);
    const bool second = i >= n_first;
    const uint32_t group = second ? i - n_first : i,
                   n_rows = second ? record->n_rows2 : record->n_rows;
    conv_unit unit = { .matrix = second,
                       .type = second ? record->type2 : record->type,
                       .n_cols = second ? record->n_cols2 : record->n_cols,
                       .first_row = group * ERN_GROUP_ROWS };
    const uint64_t group_bytes = ern_group_bytes(unit.type, unit.n_cols);
    unit.n_rows = (uint32_t)ern_min_size(ERN_GROUP_ROWS, n_rows - unit.first_row);
    unit.offset = (second ? ern_expert_down_offset(record) : 0) + group * group_bytes;
    unit.n_bytes = ern_type_is_grouped(unit.type)
                       ? group_bytes
                       : unit.n_rows * ern_row_bytes(unit.type, unit.n_cols);
    return unit;
}
