/* The reader of .ernie files: bytes in, checked pointers out. The file is taken for hostile.
 *
 * No count is trusted and nothing is allocated: sections are checked against the file's length,
 * records against the sequence that the architecture numbers call for (ern_layout). What passes can
 * be used without another look at a size. docs/FORMAT.md is the prose. */
#include "format.h"

#define READER_VERIFY_PIECE ((size_t)4 << 20)
#define READER_ALIGN_MIN    4096u
#define READER_ALIGN_MAX    (2u << 20)

static unsigned long long reader_ull(uint64_t x)
{
    return (unsigned long long)x;
}

/* How many of the n bytes are zero before the first that is not. */
static size_t reader_zeros(const unsigned char *bytes, size_t n)
{
    static const unsigned char zero[256] = { 0 };
    size_t i = 0;
    while (n - i >= sizeof zero && memcmp(bytes + i, zero, sizeof zero) == 0) i += sizeof zero;
    while (i < n && bytes[i] == 0) i++;
    return i;
}

/* ---- Header -------------------------------------------------------------------------------- */

/* The magic, both version numbers and the header's checksum keep their places in every version. */
static ernie_status reader_version(const ern_header *h, ernie_error *error)
{
    uint8_t sum[16];
    ern_hash128(h, sizeof *h - sizeof h->checksum, sum);
    const bool intact = memcmp(sum, h->checksum, sizeof sum) == 0;
    ERN_FAIL_IF(
        h->version_min > ERN_FORMAT_VERSION || (!intact && h->version > ERN_FORMAT_VERSION), error,
        ERNIE_UNSUPPORTED,
        "the file has format version %u and needs a reader of %u, this library reads up to %u%s",
        (unsigned)h->version, (unsigned)h->version_min, ERN_FORMAT_VERSION,
        intact ? "" : " (and its header's checksum does not match)");
    ERN_FAIL_IF(!intact, error, ERNIE_CORRUPT,
                "the header's checksum does not match: the first %u bytes are damaged",
                ERN_HEADER_BYTES);
    ERN_FAIL_IF(h->version_min == 0 || h->version_min > h->version, error, ERNIE_FORMAT,
                "format version %u with least reader %u makes no sense", (unsigned)h->version,
                (unsigned)h->version_min);
    return ERNIE_OK;
}

static ernie_status reader_length(const ern_header *h, uint64_t n_bytes, ernie_error *error)
{
    ERN_FAIL_IF(h->file_bytes > n_bytes, error, ERNIE_FORMAT,
                "the file is cut off: %llu bytes, the header says %llu", reader_ull(n_bytes),
                reader_ull(h->file_bytes));
    ERN_FAIL_IF(h->file_bytes < n_bytes, error, ERNIE_FORMAT,
                "the file is too long: %llu bytes, the header says %llu", reader_ull(n_bytes),
                reader_ull(h->file_bytes));
    return ERNIE_OK;
}

/* Length of the well-formed UTF-8 character at s, 0 when it is none or a control character. */
static size_t reader_utf8(const unsigned char *s, size_t n)
{
    static const uint32_t least[5] = { 0, 0x20, 0x80, 0x800, 0x10000 };
    const size_t k = s[0] < 0x80 ? 1 : s[0] < 0xc0 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (k == 0 || k > n) return 0;
    uint32_t c = k == 1 ? s[0] : s[0] & (0xffu >> (k + 1));
    for (size_t i = 1; i < k; i++) {
        if ((s[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (s[i] & 0x3fu);
    }
    const bool bad = s[0] >= 0xf8 || c < least[k] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)
                     || (c >= 0x7f && c < 0xa0);
    return bad ? 0 : k;
}

/* Printable text, one terminator, zeros to the end of the field. */
static ernie_status reader_string(const char *what, const char *field, size_t size,
                                  ernie_error *error)
{
    const unsigned char *bytes = (const unsigned char *)field;
    size_t i = 0;
    while (i < size && bytes[i]) {
        const size_t n = reader_utf8(bytes + i, size - i);
        ERN_FAIL_IF(n == 0, error, ERNIE_FORMAT,
                    "header: byte %zu of %s is 0x%02x, not printable UTF-8", i, what, bytes[i]);
        i += n;
    }
    ERN_FAIL_IF(i >= size, error, ERNIE_FORMAT, "header: %s of %zu bytes is not terminated", what,
                size);
    ERN_FAIL_IF(reader_zeros(bytes + i, size - i) != size - i, error, ERNIE_FORMAT,
                "header: %s has bytes after its terminator", what);
    return ERNIE_OK;
}

static ernie_status reader_architecture(const ern_header *h, ernie_error *error)
{
    const bool dense = strcmp(h->architecture, "ernie4_5") == 0;
    const bool moe = strcmp(h->architecture, "ernie4_5_moe") == 0;
    ERN_FAIL_IF(!dense && !moe, error, ERNIE_UNSUPPORTED,
                "architecture \"%s\" is unknown, this library knows ernie4_5 and ernie4_5_moe",
                h->architecture);
    ERN_FAIL_IF(dense != (h->hparams.n_experts == 0), error, ERNIE_FORMAT,
                "architecture \"%s\" with %u experts", h->architecture,
                (unsigned)h->hparams.n_experts);
    return ERNIE_OK;
}

static ernie_status reader_expert_sizes(const ern_header *h, ernie_error *error)
{
    const uint32_t align = h->expert_align;
    ERN_FAIL_IF(align < READER_ALIGN_MIN || align > READER_ALIGN_MAX || (align & (align - 1)),
                error, ERNIE_FORMAT, "header: expert_align is %u, must be a power of two, %u .. %u",
                (unsigned)align, READER_ALIGN_MIN, READER_ALIGN_MAX);
    const bool any = ern_n_moe_layers(&h->hparams) > 0;
    ERN_FAIL_IF(any != (h->expert_bytes > 0) || h->expert_bytes % align, error, ERNIE_FORMAT,
                "header: expert_bytes is %llu, must be %s of expert_align %u",
                reader_ull(h->expert_bytes),
                any ? "a multiple" : "0 without experts, not a multiple", (unsigned)align);
    return ERNIE_OK;
}

/* A newer version that still admits this reader may have put something into reserved places. */
static bool reader_knows_all(const ern_header *h)
{
    return h->version <= ERN_FORMAT_VERSION;
}

static ernie_status reader_header(const ern_header *h, uint64_t n_bytes, ernie_error *error)
{
    ernie_status status = reader_version(h, error);
    if (status == ERNIE_OK) status = reader_length(h, n_bytes, error);
    if (status == ERNIE_OK)
        status = reader_string("architecture", h->architecture, sizeof h->architecture, error);
    if (status == ERNIE_OK) status = reader_string("name", h->name, sizeof h->name, error);
    if (status == ERNIE_OK) status = ern_hparams_check(&h->hparams, error);
    if (status == ERNIE_OK) status = reader_architecture(h, error);
    if (status == ERNIE_OK) status = reader_expert_sizes(h, error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(reader_knows_all(h)
                    && (h->reserved1[0] || h->reserved1[1]
                        || reader_zeros(h->reserved2, sizeof h->reserved2) != sizeof h->reserved2),
                error, ERNIE_FORMAT, "header: reserved bytes are not zero");
    return ERNIE_OK;
}

/* ---- Sections ------------------------------------------------------------------------------ */

static const char *reader_section_name(unsigned i)
{
    static const char *const name[ERN_N_SECTIONS] = { "index",      "tokenizer", "chat",
                                                      "generation", "resident",  "experts" };
    return name[i];
}

static bool reader_has_checksum(unsigned section)
{
    return section != ERN_SECTION_RESIDENT && section != ERN_SECTION_EXPERTS;
}

static ernie_status reader_section_place(const ern_header *h, unsigned i, ernie_error *error)
{
    const ern_section *s = &h->section[i];
    const uint32_t align = i == ERN_SECTION_EXPERTS ? h->expert_align : 64;
    uint64_t end;
    if (s->n_bytes == 0) {
        ERN_FAIL_IF(s->offset || s->checksum, error, ERNIE_FORMAT,
                    "section %s is empty, but its offset is %llu and its checksum %llu",
                    reader_section_name(i), reader_ull(s->offset), reader_ull(s->checksum));
        return ERNIE_OK;
    }
    ERN_FAIL_IF(s->offset < ERN_HEADER_BYTES || !ern_add_u64(&end, s->offset, s->n_bytes)
                    || end > h->file_bytes,
                error, ERNIE_FORMAT,
                "section %s: %llu bytes at %llu do not lie between the header and the end, %llu",
                reader_section_name(i), reader_ull(s->n_bytes), reader_ull(s->offset),
                reader_ull(h->file_bytes));
    ERN_FAIL_IF(s->offset % align, error, ERNIE_FORMAT,
                "section %s: offset %llu is not a multiple of %u", reader_section_name(i),
                reader_ull(s->offset), (unsigned)align);
    ERN_FAIL_IF(!reader_has_checksum(i) && s->checksum, error, ERNIE_FORMAT,
                "section %s: the checksum must be 0", reader_section_name(i));
    return ERNIE_OK;
}

static ernie_status reader_section_apart(const ern_header *h, unsigned i, unsigned j,
                                         ernie_error *error)
{
    const ern_section *a = &h->section[i], *b = &h->section[j];
    const bool apart = !a->n_bytes || !b->n_bytes || a->offset + a->n_bytes <= b->offset
                       || b->offset + b->n_bytes <= a->offset;
    ERN_FAIL_IF(!apart, error, ERNIE_FORMAT, "sections %s at %llu and %s at %llu overlap",
                reader_section_name(i), reader_ull(a->offset), reader_section_name(j),
                reader_ull(b->offset));
    return ERNIE_OK;
}

/* Sizes that follow from the header. */
static ernie_status reader_section_sizes(const ern_header *h, ernie_error *error)
{
    const uint64_t n_experts = (uint64_t)ern_n_moe_layers(&h->hparams) * h->hparams.n_experts;
    const uint64_t index_bytes = (uint64_t)h->n_records * sizeof(ern_record);
    uint64_t experts_bytes;
    ERN_FAIL_IF(h->n_records == 0 || h->n_records > ERN_RECORDS_MAX
                    || h->section[ERN_SECTION_INDEX].n_bytes != index_bytes,
                error, ERNIE_FORMAT, "section index: %llu bytes for %u records of %zu",
                reader_ull(h->section[ERN_SECTION_INDEX].n_bytes), (unsigned)h->n_records,
                sizeof(ern_record));
    ERN_FAIL_IF(!ern_mul_u64(&experts_bytes, n_experts, h->expert_bytes)
                    || h->section[ERN_SECTION_EXPERTS].n_bytes != experts_bytes,
                error, ERNIE_FORMAT, "section experts: %llu bytes for %llu experts of %llu",
                reader_ull(h->section[ERN_SECTION_EXPERTS].n_bytes), reader_ull(n_experts),
                reader_ull(h->expert_bytes));
    return ERNIE_OK;
}

static ernie_status reader_section_checksum(const ern_format *f, unsigned i, ernie_error *error)
{
    const ern_section *s = &f->header->section[i];
    if (!s->n_bytes || !reader_has_checksum(i)) return ERNIE_OK;
    ERN_FAIL_IF(ern_hash64(f->data + s->offset, (size_t)s->n_bytes) != s->checksum, error,
                ERNIE_CORRUPT, "section %s: the checksum of %llu bytes at %llu does not match",
                reader_section_name(i), reader_ull(s->n_bytes), reader_ull(s->offset));
    return ERNIE_OK;
}

static ernie_status reader_sections(const ern_format *f, ernie_error *error)
{
    ernie_status status = ERNIE_OK;
    for (unsigned i = 0; i < ERN_N_SECTIONS && status == ERNIE_OK; i++)
        status = reader_section_place(f->header, i, error);
    for (unsigned i = 0; i < ERN_N_SECTIONS; i++)
        for (unsigned j = 0; j < i && status == ERNIE_OK; j++)
            status = reader_section_apart(f->header, i, j, error);
    if (status == ERNIE_OK) status = reader_section_sizes(f->header, error);
    for (unsigned i = 0; i < ERN_N_SECTIONS && status == ERNIE_OK; i++)
        status = reader_section_checksum(f, i, error);
    return status;
}

/* ---- Records ------------------------------------------------------------------------------- */

typedef struct reader_walk {
    const ern_format *format;
    uint32_t i;            /* of the record in hand */
    uint64_t resident_end; /* of the last resident record */
    uint64_t expert_next;  /* where the next expert must lie */
    char name[64];         /* of the record in hand */
} reader_walk;

static bool reader_same_tensor(const ern_record *a, const ern_record *b)
{
    return a->kind == b->kind && a->layer == b->layer && a->expert == b->expert;
}

static ernie_status reader_record_shape(const reader_walk *w, const ern_record *r,
                                        const ern_record *expected, ernie_error *error)
{
    ERN_FAIL_IF(r->n_rows != expected->n_rows || r->n_cols != expected->n_cols, error, ERNIE_FORMAT,
                "tensor \"%s\" is %u x %u, the architecture says %u x %u", w->name,
                (unsigned)r->n_rows, (unsigned)r->n_cols, (unsigned)expected->n_rows,
                (unsigned)expected->n_cols);
    ERN_FAIL_IF(r->n_rows2 != expected->n_rows2 || r->n_cols2 != expected->n_cols2, error,
                ERNIE_FORMAT, "second matrix of \"%s\" is %u x %u, the architecture says %u x %u",
                w->name, (unsigned)r->n_rows2, (unsigned)r->n_cols2, (unsigned)expected->n_rows2,
                (unsigned)expected->n_cols2);
    return ERNIE_OK;
}

static ernie_status reader_record_type(const reader_walk *w, const ern_record *r,
                                       ernie_error *error)
{
    const unsigned worst = r->type > r->type2 ? r->type : r->type2;
    ERN_FAIL_IF(worst >= ERN_N_TYPES, error, ERNIE_UNSUPPORTED,
                "tensor \"%s\" has weight type %u, this library knows 0 .. %u", w->name, worst,
                (unsigned)ERN_N_TYPES - 1);
    const uint32_t version_min = w->format->header->version_min, needed = ern_type_version(worst);
    ERN_FAIL_IF(needed > version_min, error, ERNIE_FORMAT,
                "tensor \"%s\" has type %s of format version %u, the header admits readers of %u",
                w->name, ern_type_name(worst), (unsigned)needed, (unsigned)version_min);
    ERN_FAIL_IF(ern_kind_is_f32(r->kind) && r->type != ERN_F32, error, ERNIE_FORMAT,
                "tensor \"%s\" has type %s, must be f32", w->name, ern_type_name(r->type));
    ERN_FAIL_IF(r->kind != ERN_EXPERT && r->type2, error, ERNIE_FORMAT,
                "tensor \"%s\" has a second type %u, only experts have two", w->name, r->type2);
    if (r->kind != ERN_EXPERT || r->expert == 0) return ERNIE_OK;
    const ern_record *first = r - 1; /* the same layer's, already checked */
    ERN_FAIL_IF(r->type != first->type || r->type2 != first->type2, error, ERNIE_FORMAT,
                "tensor \"%s\" has types %s, %s, the layer's other experts %s, %s", w->name,
                ern_type_name(r->type), ern_type_name(r->type2), ern_type_name(first->type),
                ern_type_name(first->type2));
    return ERNIE_OK;
}

static ernie_status reader_record_resident(reader_walk *w, const ern_record *r, ernie_error *error)
{
    const ern_section *s = &w->format->header->section[ERN_SECTION_RESIDENT];
    uint64_t end;
    ERN_FAIL_IF(r->offset < w->resident_end || r->offset % 64, error, ERNIE_FORMAT,
                "tensor \"%s\" at %llu must be at a multiple of 64 and not before %llu", w->name,
                reader_ull(r->offset), reader_ull(w->resident_end));
    ERN_FAIL_IF(
        !ern_add_u64(&end, r->offset, r->n_bytes) || end > s->offset + s->n_bytes, error,
        ERNIE_FORMAT, "tensor \"%s\": %llu bytes at %llu exceed the resident section's end, %llu",
        w->name, reader_ull(r->n_bytes), reader_ull(r->offset), reader_ull(s->offset + s->n_bytes));
    w->resident_end = end;
    return ERNIE_OK;
}

static ernie_status reader_record_expert(reader_walk *w, const ern_record *r, ernie_error *error)
{
    const uint64_t expert_bytes = w->format->header->expert_bytes;
    ERN_FAIL_IF(r->n_bytes > expert_bytes, error, ERNIE_FORMAT,
                "tensor \"%s\" has %llu bytes, the header allows experts %llu", w->name,
                reader_ull(r->n_bytes), reader_ull(expert_bytes));
    ERN_FAIL_IF(r->offset != w->expert_next, error, ERNIE_FORMAT,
                "tensor \"%s\" is at %llu, must be at %llu", w->name, reader_ull(r->offset),
                reader_ull(w->expert_next));
    w->expert_next += expert_bytes; /* within the section, whose size is n_experts times this */
    return ERNIE_OK;
}

static ernie_status reader_record(reader_walk *w, const ern_record *r, const ern_record *expected,
                                  ernie_error *error)
{
    ernie_status status = reader_record_shape(w, r, expected, error);
    if (status == ERNIE_OK) status = reader_record_type(w, r, error);
    if (status != ERNIE_OK) return status;
    const uint64_t n_bytes = ern_record_bytes(r);
    ERN_FAIL_IF(r->n_bytes != n_bytes, error, ERNIE_FORMAT,
                "tensor \"%s\" has %llu bytes, its shape and type make %llu", w->name,
                reader_ull(r->n_bytes), reader_ull(n_bytes));
    ERN_FAIL_IF(reader_knows_all(w->format->header) && (r->reserved[0] || r->reserved[1]), error,
                ERNIE_FORMAT, "tensor \"%s\": reserved bytes of its record are not zero", w->name);
    return r->kind == ERN_EXPERT ? reader_record_expert(w, r, error)
                                 : reader_record_resident(w, r, error);
}

/* The record in the index is not the one that must come here. */
static ernie_status reader_misplaced(const reader_walk *w, const ern_record *expected,
                                     ernie_error *error)
{
    const ern_header *h = w->format->header;
    char name[64];
    ern_record_name(expected, h->hparams.n_layers, name);
    ERN_FAIL_IF(w->i >= h->n_records, error, ERNIE_FORMAT,
                "tensor \"%s\" is missing: the index ends after %u records", name,
                (unsigned)h->n_records);
    return ern_error_set(error, ERNIE_FORMAT, "record %u of the index is \"%s\", must be \"%s\"",
                         (unsigned)w->i, w->name, name);
}

static ernie_status reader_records(const ern_format *f, ernie_error *error)
{
    const ern_header *h = f->header;
    reader_walk w = { .format = f,
                      .resident_end = h->section[ERN_SECTION_RESIDENT].offset,
                      .expert_next = h->section[ERN_SECTION_EXPERTS].offset };
    ern_layout layout;
    ern_record expected;
    bool optional;
    ern_layout_begin(&layout, &h->hparams);
    while (ern_layout_next(&layout, &expected, &optional)) {
        const ern_record *r = &f->records[w.i];
        if (w.i < h->n_records) ern_record_name(r, h->hparams.n_layers, w.name);
        if (w.i >= h->n_records || !reader_same_tensor(r, &expected)) {
            if (optional) continue;
            return reader_misplaced(&w, &expected, error);
        }
        const ernie_status status = reader_record(&w, r, &expected, error);
        if (status != ERNIE_OK) return status;
        w.i++;
    }
    ERN_FAIL_IF(w.i != h->n_records, error, ERNIE_FORMAT,
                "the index has %u records, the architecture calls for %u", (unsigned)h->n_records,
                (unsigned)w.i);
    return ERNIE_OK;
}

static ernie_status reader_weights_id(const ern_format *f, ernie_error *error)
{
    uint8_t id[16];
    ern_weights_id(f->records, f->header->n_records, id);
    ERN_FAIL_IF(memcmp(id, f->header->weights_id, sizeof id) != 0, error, ERNIE_CORRUPT,
                "header: weights_id is not the hash of the records' checksums");
    return ERNIE_OK;
}

/* ---- Small sections ------------------------------------------------------------------------ */

static bool reader_is_id(const ern_format *f, int32_t id, int32_t min)
{
    return id >= min && id < (int32_t)f->header->hparams.vocab_size;
}

/* Only the head: the tokenizer checks its tables itself. */
static ernie_status reader_tokenizer(ern_format *f, ernie_error *error)
{
    const ern_section *s = &f->header->section[ERN_SECTION_TOKENIZER];
    const uint32_t vocab_size = f->header->hparams.vocab_size;
    if (!s->n_bytes) return ERNIE_OK;
    ERN_FAIL_IF(s->n_bytes < sizeof(ern_tokenizer_head), error, ERNIE_FORMAT,
                "section tokenizer: %llu bytes, its head needs %zu", reader_ull(s->n_bytes),
                sizeof(ern_tokenizer_head));
    f->tokenizer = (const ern_tokenizer_head *)(const void *)(f->data + s->offset);
    ERN_FAIL_IF(f->tokenizer->n_tokens > vocab_size, error, ERNIE_FORMAT,
                "section tokenizer: %u tokens, vocab_size is %u", (unsigned)f->tokenizer->n_tokens,
                (unsigned)vocab_size);
    return ERNIE_OK;
}

static ernie_status reader_chat(ern_format *f, ernie_error *error)
{
    const ern_section *s = &f->header->section[ERN_SECTION_CHAT];
    if (!s->n_bytes) return ERNIE_OK;
    const ern_chat_head *chat = (const ern_chat_head *)(const void *)(f->data + s->offset);
    ERN_FAIL_IF(s->n_bytes < sizeof *chat || s->n_bytes - sizeof *chat != chat->template_bytes,
                error, ERNIE_FORMAT,
                "section chat: %llu bytes do not hold a head of %zu and its template",
                reader_ull(s->n_bytes), sizeof *chat);
    ERN_FAIL_IF(reader_knows_all(f->header) && chat->format > ERNIE_CHAT_THINKING, error,
                ERNIE_FORMAT, "section chat: format is %u, must be 0 .. %u", (unsigned)chat->format,
                (unsigned)ERNIE_CHAT_THINKING);
    ERN_FAIL_IF(
        !reader_is_id(f, chat->begin_id, -1) || !reader_is_id(f, chat->turn_end_id, -1), error,
        ERNIE_FORMAT, "section chat: begin_id %d and turn_end_id %d must be -1 .. %u",
        (int)chat->begin_id, (int)chat->turn_end_id, (unsigned)f->header->hparams.vocab_size - 1);
    f->chat = chat;
    return ERNIE_OK;
}

/* Written so that a NaN fails. */
static ernie_status reader_float(const char *what, float x, float max, ernie_error *error)
{
    ERN_FAIL_IF(!(x >= 0 && x <= max), error, ERNIE_FORMAT,
                "section generation: %s is %g, must be 0 .. %g", what, (double)x, (double)max);
    return ERNIE_OK;
}

static ernie_status reader_generation(ern_format *f, ernie_error *error)
{
    const ern_section *s = &f->header->section[ERN_SECTION_GENERATION];
    if (!s->n_bytes) return ERNIE_OK;
    ERN_FAIL_IF(s->n_bytes != sizeof(ern_generation), error, ERNIE_FORMAT,
                "section generation: %llu bytes, must be %zu", reader_ull(s->n_bytes),
                sizeof(ern_generation));
    const ern_generation *g = (const ern_generation *)(const void *)(f->data + s->offset);
    ernie_status status = reader_float("temperature", g->temperature, 1000, error);
    if (status == ERNIE_OK) status = reader_float("top_p", g->top_p, 1, error);
    if (status == ERNIE_OK)
        status = reader_float("repetition_penalty", g->repetition_penalty, 1000, error);
    if (status != ERNIE_OK) return status;
    ERN_FAIL_IF(
        g->n_stop_ids > ERN_STOP_IDS_MAX || g->do_sample > 1, error, ERNIE_FORMAT,
        "section generation: n_stop_ids is %u, must be 0 .. %d; do_sample is %u, must be 0 or 1",
        (unsigned)g->n_stop_ids, ERN_STOP_IDS_MAX, (unsigned)g->do_sample);
    for (uint32_t i = 0; i < g->n_stop_ids; i++)
        ERN_FAIL_IF(!reader_is_id(f, g->stop_ids[i], 0), error, ERNIE_FORMAT,
                    "section generation: stop id %d must be 0 .. %u", (int)g->stop_ids[i],
                    (unsigned)f->header->hparams.vocab_size - 1);
    ERN_FAIL_IF(reader_knows_all(f->header) && (g->reserved[0] || g->reserved[1]), error,
                ERNIE_FORMAT, "section generation: reserved bytes are not zero");
    f->generation = g;
    return ERNIE_OK;
}

/* ---- Whole --------------------------------------------------------------------------------- */

static ernie_status reader_check(ern_format *f, ernie_error *error)
{
    ernie_status status = reader_header(f->header, f->n_bytes, error);
    if (status == ERNIE_OK) status = reader_sections(f, error);
    if (status != ERNIE_OK) return status;
    const uint64_t index = f->header->section[ERN_SECTION_INDEX].offset;
    f->records = (const ern_record *)(const void *)(f->data + index);
    status = reader_records(f, error);
    if (status == ERNIE_OK) status = reader_weights_id(f, error);
    if (status == ERNIE_OK) status = reader_tokenizer(f, error);
    if (status == ERNIE_OK) status = reader_chat(f, error);
    if (status == ERNIE_OK) status = reader_generation(f, error);
    return status;
}

ERN_FN ernie_status ern_format_read(ern_format *format, const unsigned char *data, uint64_t n_bytes,
                                    ernie_error *error)
{
    ERN_ASSERT(((uintptr_t)data & 63) == 0);
    *format = (ern_format){ 0 };
    ERN_FAIL_IF(n_bytes >= 4 && memcmp(data, "GGUF", 4) == 0, error, ERNIE_FORMAT,
                "is a GGUF file, not an .ernie model; ernie convert makes one of it");
    ERN_FAIL_IF(
        n_bytes < sizeof ERN_MAGIC - 1 || memcmp(data, ERN_MAGIC, sizeof ERN_MAGIC - 1) != 0, error,
        ERNIE_FORMAT, "not an .ernie model file: its %llu bytes do not begin with the magic",
        reader_ull(n_bytes));
    ERN_FAIL_IF(n_bytes < ERN_HEADER_BYTES, error, ERNIE_FORMAT,
                "the file is cut off: %llu bytes, the header alone has %u", reader_ull(n_bytes),
                ERN_HEADER_BYTES);
    ern_format f = { .data = data,
                     .n_bytes = n_bytes,
                     .header = (const ern_header *)(const void *)data };
    const ernie_status status = reader_check(&f, error);
    if (status == ERNIE_OK) *format = f;
    return status;
}

/* ---- Verification -------------------------------------------------------------------------- */

ERN_FN ernie_status ern_format_verify_record(const ern_format *format, uint32_t i,
                                             const ernie_cancel *cancel, ernie_error *error)
{
    const ern_record *r = &format->records[i];
    char name[64];
    uint64_t sum;
    ERN_ASSERT(i < format->header->n_records);
    ern_record_name(r, format->header->hparams.n_layers, name);
    ERN_FAIL_IF(!ern_hash64_unless(format->data + r->offset, r->n_bytes, cancel, &sum), error,
                ERNIE_CANCELLED, "cancelled while checking \"%s\"", name);
    ERN_FAIL_IF(sum != r->checksum, error, ERNIE_CORRUPT,
                "tensor \"%s\": the checksum of %llu bytes at %llu does not match", name,
                reader_ull(r->n_bytes), reader_ull(r->offset));
    return ERNIE_OK;
}

/* Bytes [begin, end) must be zero. */
static ernie_status reader_verify_zero(const ern_format *f, uint64_t begin, uint64_t end,
                                       const ernie_cancel *cancel, ernie_error *error)
{
    while (begin < end) {
        ERN_FAIL_IF(ern_cancelled(cancel), error, ERNIE_CANCELLED,
                    "cancelled while checking the gap at %llu", reader_ull(begin));
        const uint64_t left = end - begin;
        const size_t n = left < READER_VERIFY_PIECE ? (size_t)left : READER_VERIFY_PIECE;
        const size_t i = reader_zeros(f->data + begin, n);
        ERN_FAIL_IF(i < n, error, ERNIE_CORRUPT,
                    "byte %llu belongs to a gap and must be 0, but is %u", reader_ull(begin + i),
                    f->data[begin + i]);
        begin += n;
    }
    return ERNIE_OK;
}

/* Gaps before, between and after records [first, last) of one section. */
static ernie_status reader_verify_section(const ern_format *f, const ern_section *s, uint32_t first,
                                          uint32_t last, const ernie_cancel *cancel,
                                          ernie_error *error)
{
    uint64_t at = s->offset;
    for (uint32_t i = first; i < last; i++) {
        const ern_record *r = &f->records[i];
        const ernie_status status = reader_verify_zero(f, at, r->offset, cancel, error);
        if (status != ERNIE_OK) return status;
        at = r->offset + r->n_bytes;
    }
    return reader_verify_zero(f, at, s->offset + s->n_bytes, cancel, error);
}

/* The section that begins next at or after `at`, NULL when there is none. */
static const ern_section *reader_next_section(const ern_header *h, uint64_t at)
{
    const ern_section *next = NULL;
    for (unsigned i = 0; i < ERN_N_SECTIONS; i++) {
        const ern_section *s = &h->section[i];
        if (s->n_bytes && s->offset >= at && (!next || s->offset < next->offset)) next = s;
    }
    return next;
}

ERN_FN ernie_status ern_format_verify_gaps(const ern_format *format, uint64_t end,
                                           const ernie_cancel *cancel, ernie_error *error)
{
    const ern_header *h = format->header;
    const uint32_t n_experts = ern_n_moe_layers(&h->hparams) * h->hparams.n_experts;
    const uint32_t n_resident = h->n_records - n_experts;
    uint64_t at = ERN_HEADER_BYTES;
    if (!reader_knows_all(h)) return ERNIE_OK;
    for (const ern_section *s; (s = reader_next_section(h, at)) != NULL && s->offset < end;
         at = s->offset + s->n_bytes) {
        ernie_status status = reader_verify_zero(format, at, s->offset, cancel, error);
        if (status == ERNIE_OK && s == &h->section[ERN_SECTION_RESIDENT])
            status = reader_verify_section(format, s, 0, n_resident, cancel, error);
        if (status == ERNIE_OK && s == &h->section[ERN_SECTION_EXPERTS])
            status = reader_verify_section(format, s, n_resident, h->n_records, cancel, error);
        if (status != ERNIE_OK) return status;
    }
    return reader_verify_zero(format, at, end, cancel, error);
}

#undef READER_VERIFY_PIECE
#undef READER_ALIGN_MIN
#undef READER_ALIGN_MAX
