/* The output file before a byte of it is written: which records, of which types, where. Knows the
 * format, not where values come from. */
#ifndef ERN_CONVERT_PLAN_H
#define ERN_CONVERT_PLAN_H

#include "../../src/format.h"
#include "file.h"

/* Classes of matrices that share a weight type. */
typedef enum conv_class {
    CONV_EMBED = 0,
    CONV_HEAD = 1,
    CONV_ATTENTION = 2,
    CONV_DENSE = 3, /* dense FFN and the MTP projection */
    CONV_SHARED = 4,
    CONV_EXPERT_GATE_UP = 5,
    CONV_EXPERT_DOWN = 6,
    CONV_N_CLASSES = 7
} conv_class;

typedef struct conv_types {
    const char *name; /* as the user writes it */
    uint8_t of[CONV_N_CLASSES];
} conv_types;

/* "f32", "f16", "bf16", "w8", "w4", "c4", "c3", "c2" (NULL: "w4"), of which the last three are the
 * experts' types, or a preset: "tiny", "small", "medium", "large". ERNIE_INVALID lists them. */
ERN_FN ernie_status conv_types_find(const conv_types **types, const char *name, ernie_error *error);

typedef struct conv_plan {
    const ernie_allocator *allocator;
    ern_header header;   /* all but checksums once placed */
    ern_record *records; /* [record_capacity], header.n_records in use */
    size_t record_capacity;
} conv_plan;

/* Start a plan: numbers, architecture and name (cut to what fits) go into the header. */
ERN_FN ernie_status conv_plan_begin(conv_plan *plan, const ern_hparams *hparams,
                                    const char *architecture, const char *name,
                                    const ernie_allocator *allocator, ernie_error *error);
/* Append a record that ern_layout_next gave; sets its types and bytes. */
ERN_FN ernie_status conv_plan_add(conv_plan *plan, const ern_record *record,
                                  const conv_types *types, ernie_error *error);
/* After the last record: decide every offset. section_bytes: of tokenizer, chat and generation, at
 * their ERN_SECTION numbers. */
ERN_FN void conv_plan_place(conv_plan *plan, const uint64_t section_bytes[ERN_N_SECTIONS]);
ERN_FN void conv_plan_free(conv_plan *plan);

/* A record is made in units of 16 rows: one group of the grouped types, up to 16 rows of the
 * plain. */
typedef struct conv_unit {
    uint32_t matrix; /* 0, or 1 for an expert's down */
    uint32_t type, n_cols;
    uint32_t first_row, n_rows; /* rows of the matrix; fewer than 16 in the last unit */
    uint64_t offset;            /* in the record */
    uint64_t n_bytes;
} conv_unit;

ERN_FN uint32_t conv_n_units(const ern_record *record);
ERN_FN conv_unit conv_unit_at(const ern_record *record, uint32_t i);

#endif
