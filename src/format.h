/* The .ernie file as it lies on disk, and how a matrix lies in it. docs/FORMAT.md is the prose.
 *
 * Little endian throughout. These structs are read in place from the mapping: every field is
 * naturally aligned, there is no padding, and reserved fields are zero. Shared by the reader
 * (format_read.c) and by the writer in tools/convert/. Knows no backend. */
#ifndef ERN_FORMAT_H
#define ERN_FORMAT_H

#include "hash.h"

#define ERN_MAGIC "ERNIE\r\n\x1a" /* 8 bytes: catches text-mode transfers */
#define ERN_FORMAT_VERSION 2u
#define ERN_HEADER_BYTES 4096u
#define ERN_N_SECTIONS 6u

/* Limits that the reader holds files to; far above every published model. */
#define ERN_LAYERS_MAX 1024u
#define ERN_MTP_MAX 16u
#define ERN_DIM_MAX (1u << 20)
#define ERN_VOCAB_MAX (1u << 22)
#define ERN_EXPERTS_MAX 4096u
#define ERN_HEADS_MAX 4096u
#define ERN_CONTEXT_MAX (1u << 24)
#define ERN_RECORDS_MAX (1u << 23)

/* ---- Weight types -------------------------------------------------------------------------- */

typedef enum ern_type {
    ERN_F32 = 0,
    ERN_F16 = 1,
    ERN_BF16 = 2,
    ERN_W8 = 3,
    ERN_W4 = 4,
    ERN_C4 = 5,
    ERN_C3 = 6,
    ERN_C2 = 7,
    /* reserved: 8 ccq2 */
    ERN_N_TYPES = 8
} ern_type;

ERN_FN const char *ern_type_name(unsigned type); /* "w4"; "?" when unknown */

/* Rows lie in groups of 16, and products read activations of 8 bits: w8, w4, c4, c3, c2. */
static ERN_INLINE bool ern_type_is_grouped(unsigned type) { return type >= ERN_W8; }

/* The format version that brought the type; a file that holds it must not admit older readers. */
static ERN_INLINE uint32_t ern_type_version(unsigned type) { return type >= ERN_C4 ? 2 : 1; }

/* ---- How a matrix lies in the file ------------------------------------------------------------
 *
 * W [n_rows][n_cols], y = W x. Every matrix starts at a multiple of 64 bytes.
 *
 * f32, f16, bf16: row-major; each row starts at a multiple of 64 bytes (ern_row_bytes), the gap is
 * zero. There are n_rows rows.
 *
 * The others: rows in groups of 16, columns in blocks of 32; both counts are rounded up and the
 * padding holds zero scales. n_blocks = ceil(n_cols / 32). A group is one record of
 * ern_group_bytes. w8, w4:
 *
 *     f32 row_scale[16]
 *     u8  scale[n_blocks][16]                      then zeros up to a multiple of 64
 *     w8: i8 code[n_blocks][8][16][4]              quad q, row r, j: column 32 b + 4 q + j
 *     w4: u8 code[n_blocks][4][16][4]              vector v, row r, j: low nibble column
 *                                                  32 b + 8 v + j, high nibble 32 b + 8 v + 4 + j
 *
 * Weight: w8  row_scale[r] * scale[b][r] * code            code in -127 .. 127
 *         w4  row_scale[r] * scale[b][r] * ern_w4_level[code]
 *
 * c2, c3, c4, with W = 2, 3, 4:
 *
 *     f32 row_scale[16]
 *     u8  scale[ceil(n_blocks / 2)][16]            low nibble: q of block 2 p, high: 2 p + 1; then
 *                                                  zeros up to a multiple of 64
 *     u32 word[n_blocks][W][16]                    word 0, 1: low, high half of the row's code C;
 *                                                  c3: word 2, bit 8 j + v: u of column 4 v + j
 *                                                  c4: word 2 + v / 4, bits 8 j + 2 (v % 4) and the
 *                                                  next: u of column 4 v + j
 *
 * Weight: row_scale[r] * (q + 4) * level[index]
 *         column 8 i + j: w = ror64(C, 8 j + 2 i) & 127; index = ((w ^ (w >> 5)) & 15) | u << 4
 *
 * C is a tail-biting convolutional code: neighbouring windows w overlap in 5 of their 7 bits, which
 * is what makes 2 bits a weight worth more than 4 levels (docs/QUANTIZATION.md). Byte j of C
 * shifted by 2 i is the window of column 8 i + j: again one 32-bit lane a row.
 *
 * So 64 consecutive decoded bytes are 16 rows x 4 columns: one vector register whose 32-bit lanes
 * are rows; one broadcast of 4 activations feeds all of them. Bits a weight: w8 8.25, w4 4.25, c4
 * 4.125, c3 3.125, c2 2.125, plus 32 / n_cols.
 *
 * gate and up are one matrix of 2 * round_up(I, 16) rows: 16 rows of gate, the same 16 rows of up,
 * and so on (in every type), so that SwiGLU finishes where the product ends. Rows that pad I to a
 * multiple of 16 are zero. */
#define ERN_GROUP_ROWS 16u
#define ERN_BLOCK_COLS 32u

static const int8_t ern_w4_level[16] = { -60, -46, -36, -29, -22, -15, -9, -3,
                                         3,   9,   15,  22,  29,  37,  46, 60 };

/* Levels by index; |level| <= 63 lets a kernel add 64 and multiply unsigned bytes in 16 bits. */
/* clang-format off */
static const int8_t ern_c2_level[16] = {
     63, -12,  17, -62, -13,   7, -34,  35,  38,  12,  -1, -23,  21,   1, -36,  -9
};
static const int8_t ern_c3_level[32] = {
     -1,   5,  -9, -19, -11, -63, -21, -31,  -7, -15, -26,  -1, -45, -12, -19, -35,
     36,  63,  23,  14,  26,  -4,  12,   5,  30,  18,   8,  45,  -3,  19,  12,   3
};
static const int8_t ern_c4_level[64] = {
    -20, -37, -25, -16, -12, -22, -16, -29, -63, -23, -33, -27, -45, -14, -20, -17,
     -4, -12,  -8,  -2,   1,  -6,  -2,  -9, -15,  -6, -11,  -8, -10,   0,  -6,  -4,
      8,   1,   5,  10,  14,   6,  11,   4,  -2,   6,   1,   4,   3,  12,   7,   9,
     27,  14,  20,  33,  61,  22,  45,  18,  11,  22,  16,  18,  16,  38,  25,  30
};
/* clang-format on */

static ERN_INLINE uint32_t ern_n_groups(uint32_t n_rows) { return (n_rows + 15) / 16; }
static ERN_INLINE uint32_t ern_n_blocks(uint32_t n_cols) { return (n_cols + 31) / 32; }
static ERN_INLINE uint32_t ern_gate_up_rows(uint32_t width) { return 2 * 16 * ern_n_groups(width); }

/* Bytes of one row (plain types), of one group of 16 rows (including both scale tables), of the
 * scale table, of one block of 16 rows; dimensions up to ERN_VOCAB_MAX cannot overflow. */
ERN_FN uint64_t ern_row_bytes(unsigned type, uint32_t n_cols);
ERN_FN uint64_t ern_group_bytes(unsigned type, uint32_t n_cols);
ERN_FN uint64_t ern_matrix_bytes(unsigned type, uint32_t n_rows, uint32_t n_cols);

static ERN_INLINE size_t ern_group_scale_bytes(unsigned type, uint32_t n_blocks)
{
    const size_t n_lines = type >= ERN_C4 ? ((size_t)n_blocks + 1) / 2 : n_blocks;
    return ern_round_up(n_lines * 16, 64);
}

static ERN_INLINE size_t ern_block_bytes(unsigned type)
{
    static const uint16_t bytes[ERN_N_TYPES] = {
        [ERN_W8] = 512, [ERN_W4] = 256, [ERN_C4] = 256, [ERN_C3] = 192, [ERN_C2] = 128
    };
    return bytes[type];
}

/* What multiplies row_scale and level in row r of block b; scale: a group's table. */
static ERN_INLINE unsigned ern_block_scale(unsigned type, const unsigned char *scale, uint32_t b,
                                           unsigned r)
{
    if (type < ERN_C4) return scale[b * (size_t)16 + r];
    const unsigned pair = scale[b / 2 * (size_t)16 + r];
    return (b % 2 ? pair >> 4 : pair & 15) + 4;
}

/* The level of column c (0 .. 31) in row r of one block; code: the block's first byte. */
static ERN_INLINE int ern_block_level(unsigned type, const unsigned char *code, unsigned r,
                                      unsigned c)
{
    if (type == ERN_W8) return (int8_t)code[(c / 4 * 16 + r) * 4 + c % 4];
    if (type == ERN_W4) {
        const unsigned byte = code[(c / 8 * 16 + r) * 4 + c % 4];
        return ern_w4_level[c / 4 % 2 ? byte >> 4 : byte & 15];
    }
    uint32_t low, high, plane = 0;
    memcpy(&low, code + 4 * r, sizeof low);
    memcpy(&high, code + 64 + 4 * r, sizeof high);
    if (type != ERN_C2)
        memcpy(&plane, code + (type == ERN_C4 && c >= 16 ? 192 : 128) + 4 * r, sizeof plane);
    const uint64_t whole = (uint64_t)high << 32 | low;
    const unsigned at = 8 * (c % 8) + 2 * (c / 8);
    const unsigned w = (unsigned)(whole >> at | whole << (-at & 63u)) & 127;
    const unsigned index = (w ^ w >> 5) & 15;
    if (type == ERN_C2) return ern_c2_level[index];
    if (type == ERN_C3) return ern_c3_level[index | (plane >> (8 * (c % 4) + c / 4) & 1) << 4];
    return ern_c4_level[index | (plane >> (8 * (c % 4) + 2 * (c / 4 % 4)) & 3) << 4];
}

/* A matrix in place. */
typedef struct ern_matrix {
    const unsigned char *data; /* NULL: absent */
    uint32_t type;             /* ern_type */
    uint32_t n_rows, n_cols;
} ern_matrix;

/* ---- Header: the first 4096 bytes ---------------------------------------------------------- */

typedef struct ern_section {
    uint64_t offset; /* multiple of 64 (experts: of expert_align); 0 when absent */
    uint64_t n_bytes;
    uint64_t checksum; /* XXH3-64 of the bytes; 0 for RESIDENT and EXPERTS, whose records carry
                          their own */
} ern_section;

enum {
    ERN_SECTION_INDEX = 0,      /* ern_record[n_records] */
    ERN_SECTION_TOKENIZER = 1,  /* ern_tokenizer_head and tables */
    ERN_SECTION_CHAT = 2,       /* ern_chat_head and the template's text */
    ERN_SECTION_GENERATION = 3, /* ern_generation */
    ERN_SECTION_RESIDENT = 4,   /* tensors that every token uses, in first-use order */
    ERN_SECTION_EXPERTS = 5     /* one record an expert, layer-major */
};

/* Architecture numbers, as config.json has them. */
typedef struct ern_hparams {
    uint32_t n_layers, hidden_size, n_heads, n_kv_heads, head_dim;
    uint32_t intermediate_size;  /* of dense layers */
    uint32_t vocab_size;         /* rows of embedding and head */
    uint32_t context_max;
    uint32_t n_experts, moe_k, moe_intermediate_size; /* 0 in dense models */
    uint32_t n_shared_experts, shared_intermediate_size; /* width of the merged shared FFN */
    uint32_t moe_layer_start, moe_layer_end, moe_layer_interval; /* end inclusive, already clamped;
                                                                    0 in dense models */
    uint32_t n_mtp_layers;
    uint32_t tied; /* 1: HEAD is absent and EMBED serves */
    int32_t bos_id, eos_id, pad_id; /* -1: none */
    float rms_norm_eps;
    float moe_norm_min;
    uint32_t reserved0;
    double rope_theta;
} ern_hparams;

typedef struct ern_header {
    char magic[8];
    uint32_t version;        /* of the format that wrote it */
    uint32_t version_min;    /* least reader version that understands it */
    uint64_t file_bytes;     /* length of the whole file */
    uint32_t n_records;
    uint32_t expert_align;   /* power of two, 4096 .. 2 MiB; experts start at multiples of it */
    uint64_t expert_bytes;   /* padded size of one expert record, one size for all; 0 when dense */
    ern_hparams hparams;
    uint32_t reserved1[2];
    char architecture[32];   /* "ernie4_5", "ernie4_5_moe"; zero-terminated */
    char name[64];           /* zero-terminated, may be empty */
    uint8_t weights_id[16];  /* XXH3-128 of all record checksums in index order */
    ern_section section[ERN_N_SECTIONS];
    unsigned char reserved2[ERN_HEADER_BYTES - 8 - 8 - 8 - 8 - 8 - sizeof(ern_hparams) - 8 - 32 - 64
                            - 16 - sizeof(ern_section) * ERN_N_SECTIONS - 16];
    uint8_t checksum[16]; /* XXH3-128 (canonical, big-endian form) of the bytes before it */
} ern_header;

_Static_assert(sizeof(ern_hparams) == 104, "hparams");
_Static_assert(sizeof(ern_header) == ERN_HEADER_BYTES, "header");

/* ---- Index --------------------------------------------------------------------------------- */

/* What a record is. Layer numbers: 0 .. n_layers - 1, and n_layers + i for MTP block i. */
typedef enum ern_kind {
    ERN_EMBED = 0,          /* [vocab][h] */
    ERN_HEAD = 1,           /* [vocab][h], absent when tied */
    ERN_FINAL_NORM = 2,     /* [1][h] f32, as all norms */
    ERN_ATTN_NORM = 3,      /* layer */
    ERN_QKV = 4,            /* [(n_heads + 2 n_kv_heads) d][h], rows Q, then K, then V */
    ERN_ATTN_OUT = 5,       /* [h][n_heads d] */
    ERN_FFN_NORM = 6,
    ERN_FFN_GATE_UP = 7,    /* dense layers: [gate_up_rows(I)][h] */
    ERN_FFN_DOWN = 8,       /* [h][I] */
    ERN_ROUTER = 9,         /* [E][h] f32 */
    ERN_ROUTER_BIAS = 10,   /* [1][E] f32, optional */
    ERN_SHARED_GATE_UP = 11,/* [gate_up_rows(Is)][h], only with shared experts */
    ERN_SHARED_DOWN = 12,   /* [h][Is] */
    ERN_EXPERT = 13,        /* one record: gate_up [gate_up_rows(Ie)][h], then down [h][Ie] at the
                               next multiple of 64 */
    ERN_MTP_EMB_NORM = 14,  /* [1][h] */
    ERN_MTP_HIDDEN_NORM = 15,
    ERN_MTP_PROJ = 16,      /* [h][2h], columns: embedding half, then hidden half */
    ERN_N_KINDS = 17
} ern_kind;

#define ERN_NO_LAYER 0xffffu

/* One record of the index, 64 bytes. The order is the canonical one of ern_layout below. */
typedef struct ern_record {
    uint16_t kind;   /* ern_kind */
    uint16_t layer;  /* ERN_NO_LAYER when none */
    uint16_t expert; /* ERN_EXPERT only, else 0 */
    uint8_t type;    /* ern_type; of gate_up in an expert */
    uint8_t type2;   /* of down in an expert, else 0 */
    uint32_t n_rows, n_cols;   /* of gate_up in an expert */
    uint32_t n_rows2, n_cols2; /* of down in an expert, else 0 */
    uint64_t offset;   /* in the file; multiple of 64, experts of expert_align */
    uint64_t n_bytes;  /* stored; experts are followed by zeros up to expert_bytes */
    uint64_t checksum; /* XXH3-64 of the n_bytes */
    uint64_t reserved[2];
} ern_record;

_Static_assert(sizeof(ern_record) == 64, "record");

/* "layers.3.experts.17", "embed", "mtp.0.qkv" into name [64]. */
ERN_FN void ern_record_name(const ern_record *record, uint32_t n_layers, char name[64]);

/* The n_bytes that a record of this kind, these types and shapes must have. */
ERN_FN uint64_t ern_record_bytes(const ern_record *record);

/* Where the down matrix starts inside an ERN_EXPERT record. */
ERN_FN uint64_t ern_expert_down_offset(const ern_record *record);

/* Norms, router and router bias are f32 in every file. */
ERN_FN bool ern_kind_is_f32(unsigned kind);

/* Is layer i (0 .. n_layers - 1) a mixture of experts? */
ERN_FN bool ern_layer_is_moe(const ern_hparams *hparams, uint32_t layer);
ERN_FN uint32_t ern_n_moe_layers(const ern_hparams *hparams);

/* The canonical order, which every file must have. The reader compares it with the index, the
 * writer follows it:
 *
 *     EMBED
 *     each layer:     ATTN_NORM QKV ATTN_OUT FFN_NORM, then
 *                     dense: FFN_GATE_UP FFN_DOWN
 *                     moe:   ROUTER [ROUTER_BIAS], SHARED_GATE_UP SHARED_DOWN when shared experts
 *     FINAL_NORM, HEAD unless tied
 *     each MTP block: MTP_EMB_NORM MTP_HIDDEN_NORM MTP_PROJ ATTN_NORM QKV ATTN_OUT FFN_NORM
 *                     FFN_GATE_UP FFN_DOWN (layer = n_layers + i)
 *     each moe layer: EXPERT 0 .. n_experts - 1
 *
 * All but the EXPERTs lie in the resident section, in this order. */
typedef struct ern_layout {
    const ern_hparams *hparams;
    uint32_t part, layer, step;
} ern_layout;

ERN_FN void ern_layout_begin(ern_layout *layout, const ern_hparams *hparams);

/* The next record: kind, layer, expert and all rows and columns are filled in, the rest is zero (so
 * type is ERN_F32, right for the kinds that are always f32). *optional: the file may leave this one
 * out (ROUTER_BIAS, layer by layer). False at the end. hparams must have passed
 * ern_hparams_check. */
ERN_FN bool ern_layout_next(ern_layout *layout, ern_record *expected, bool *optional);

/* XXH3-128 over the records' checksums in index order: ern_header.weights_id. */
ERN_FN void ern_weights_id(const ern_record *records, uint32_t n_records, uint8_t id[16]);

/* Are these numbers a model, within the limits above? ERNIE_FORMAT names field and value. */
ERN_FN ernie_status ern_hparams_check(const ern_hparams *hparams, ernie_error *error);

/* ---- Tokenizer section ----------------------------------------------------------------------
 *
 * ern_tokenizer_head, f32 score[n], u32 offset[n + 1] (into text), u8 type[n], zeros to a multiple
 * of 4, text bytes, zeros to a multiple of 4, charsmap bytes. */
enum { /* token types, SentencePiece's numbers, and ADDED for tokens added beside the model */
    ERN_TOKEN_NORMAL = 1,
    ERN_TOKEN_UNKNOWN = 2,
    ERN_TOKEN_CONTROL = 3,
    ERN_TOKEN_USER = 4,
    ERN_TOKEN_UNUSED = 5,
    ERN_TOKEN_BYTE = 6,
    ERN_TOKEN_ADDED = 7 /* from added_tokens.json or tokenizer_config: special, found only in
                           ERNIE_TOKENIZE_SPECIAL */
};

#define ERN_TOKENIZER_DUMMY_PREFIX 1u
#define ERN_TOKENIZER_REMOVE_EXTRA_SPACES 2u
#define ERN_TOKENIZER_ESCAPE_SPACES 4u
#define ERN_TOKENIZER_BYTE_FALLBACK 8u
#define ERN_TOKENIZER_SPACE_SUFFIX 16u /* treat_whitespace_as_suffix */
#define ERN_TOKEN_TEXT_MAX 512u        /* bytes of one piece; longer ones are refused */

typedef struct ern_tokenizer_head {
    uint32_t n_tokens; /* <= vocab_size */
    uint32_t flags;
    int32_t unk_id;
    uint32_t text_bytes;
    uint32_t charsmap_bytes; /* sentencepiece's precompiled_charsmap; 0: identity */
    uint32_t reserved[3];
} ern_tokenizer_head;

/* ---- Chat and generation sections ------------------------------------------------------------ */

typedef struct ern_chat_head {
    uint32_t format; /* ernie_chat_format */
    int32_t begin_id;    /* <|begin_of_sentence|>, -1: none */
    int32_t turn_end_id; /* what ends an assistant turn in history, -1: none */
    uint32_t template_bytes; /* the checkpoint's own template follows, for the record */
} ern_chat_head;

#define ERN_STOP_IDS_MAX 8

typedef struct ern_generation {
    float temperature, top_p, repetition_penalty; /* 0: none given */
    uint32_t top_k;
    uint32_t do_sample; /* 0: the checkpoint asks for greedy */
    uint32_t n_stop_ids;
    int32_t stop_ids[ERN_STOP_IDS_MAX];
    uint32_t reserved[2];
} ern_generation;

_Static_assert(sizeof(ern_generation) == 64, "generation");

/* ---- The reader (format_read.c) -------------------------------------------------------------- */

/* A checked file: pointers into the mapping, nothing copied. */
typedef struct ern_format {
    const unsigned char *data;
    uint64_t n_bytes;
    const ern_header *header;
    const ern_record *records; /* [header->n_records] */
    const ern_tokenizer_head *tokenizer; /* the section's start; NULL when the file has none */
    const ern_chat_head *chat;           /* NULL when the file has none */
    const ern_generation *generation;    /* NULL when the file has none */
} ern_format;

/* Check everything about `data` (64-byte aligned) but the weights' own checksums: header, versions,
 * architecture numbers, sections inside the file and not overlapping, their checksums, every
 * record's kind, layer, shape (as ern_layout says), type, size, place; that each needed record is
 * there exactly once. Allocates nothing; touches the header, the index and the small sections only.
 * Returns ERNIE_OK, ERNIE_FORMAT, ERNIE_UNSUPPORTED (newer version, unknown type or architecture),
 * ERNIE_CORRUPT (a checksum). After failure *format is zero. */
ERN_FN ernie_status ern_format_read(ern_format *format, const unsigned char *data, uint64_t n_bytes,
                                    ernie_error *error);

/* Check record i's checksum. ERNIE_CORRUPT names the record and its offset; ERNIE_CANCELLED when
 * *cancel (may be NULL) was set. */
ERN_FN ernie_status ern_format_verify_record(const ern_format *format, uint32_t i,
                                             const ernie_cancel *cancel, ernie_error *error);

/* Check that every byte before `end` which no checksum covers is zero: gaps between sections and
 * records, the padding of experts (`end` is the file's length, or where its experts begin and with
 * them whoever reads those is left to check their padding). With ern_format_read and
 * ern_format_verify_record on every record this covers each byte of the file. Files of a newer
 * version may hold things there: they pass. Statuses as above. */
ERN_FN ernie_status ern_format_verify_gaps(const ern_format *format, uint64_t end,
                                           const ernie_cancel *cancel, ernie_error *error);

#endif
