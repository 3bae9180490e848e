/* Small .ernie images in memory, valid to the last checksum, with random weights of a fixed seed.
 *
 *     test_model_spec spec = { .moe = true, .type_expert = ERN_W4 };
 *     size_t n;
 *     unsigned char *image = test_model_build(&spec, &n);  // 64-byte aligned
 *     ... patch something ...
 *     test_model_seal(image, n, true);                     // checksums agree again
 *     test_model_free(image);
 *
 * Shapes unless spec.hparams says otherwise: hidden 64, 2 layers, 2 heads of 32, 1 KV head,
 * intermediate 96; moe: layer 1 with 4 experts of 48, 2 chosen, 1 shared. Needs error.c, mem.c,
 * hash.c and format.c. Failures of its own abort: it builds what the test asked for. */
#ifndef TEST_MODEL_BYTES_H
#define TEST_MODEL_BYTES_H

#include "../../src/format.h"

typedef struct test_model_spec {
    bool moe;
    bool untied; /* a head of its own */
    bool no_router_bias;
    bool no_sections;    /* neither tokenizer nor chat nor generation */
    bool generation_greedy; /* the generation defaults do not sample */
    bool no_byte_pieces; /* a tokenizer of letters only; vocab_size 100 instead of 320 */
    uint32_t n_mtp;
    ern_type type_embed, type_head, type_attention, type_ffn; /* 0: f32 */
    ern_type type_expert, type_expert_down;
    uint64_t seed;
    const void *tokenizer; /* the caller's own tokenizer section, NULL for the built-in one */
    size_t tokenizer_bytes;
    const ern_hparams *hparams; /* NULL: the shapes above */
    uint32_t chat_format;       /* ernie_chat_format; 0: plain */
} test_model_spec;

/* ---- Random numbers ------------------------------------------------------------------------ */

static inline uint64_t test_random(uint64_t *state)
{
    uint64_t x = *state += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Uniform in -1 .. 1. */
static inline float test_random_float(uint64_t *state)
{
    return (float)(test_random(state) >> 40) * 0x1p-23f - 1.0f;
}

/* ---- Matrices ------------------------------------------------------------------------------ */

static inline void test_put_plain(unsigned char *out, unsigned type, float x)
{
    const uint16_t half = type == ERN_F16 ? ern_f32_to_f16(x) : ern_f32_to_bf16(x);
    if (type == ERN_F32)
        memcpy(out, &x, 4);
    else
        memcpy(out, &half, 2);
}

/* One group of 16 rows; rows of which live[r] is false keep zero scales. */
static inline void test_fill_group(unsigned char *out, unsigned type, uint32_t n_cols,
                                   const bool live[16], float size, uint64_t *state)
{
    const uint32_t n_blocks = ern_n_blocks(n_cols);
    const uint32_t n_lines = type >= ERN_C4 ? (n_blocks + 1) / 2 : n_blocks;
    unsigned char *scale = out + 64, *code = scale + ern_group_scale_bytes(type, n_blocks);
    const size_t n_code = (size_t)n_blocks * ern_block_bytes(type);
    const float step = size / (type == ERN_W8 ? 127.0f * 200.0f : type == ERN_W4 ? 60.0f * 200.0f : 63.0f * 19.0f);
    for (size_t i = 0; i < n_code; i++) {
        const uint64_t x = test_random(state);
        code[i] = type == ERN_W8 ? (unsigned char)(int8_t)((int)(x % 255) - 127) : (unsigned char)x;
    }
    for (uint32_t r = 0; r < 16; r++) {
        if (live[r]) memcpy(out + 4 * r, &step, 4);
        for (uint32_t b = 0; b < n_lines; b++)
            if (live[r]) scale[b * 16 + r] = (unsigned char)(100 + test_random(state) % 100);
    }
}

/* Random weights, uniform within +-size, in the layout of `type`. `width` is 0, or the number of
 * gate rows of a gate_up matrix, whose padding rows stay zero. `base` is added (norms: 1). */
static inline void test_fill_matrix(unsigned char *out, unsigned type, uint32_t n_rows,
                                    uint32_t n_cols, uint32_t width, float base, float size,
                                    uint64_t *state)
{
    const size_t item = type == ERN_F32 ? 4 : 2;
    for (uint32_t g = 0; g < ern_n_groups(n_rows); g++) {
        bool live[16];
        for (uint32_t r = 0; r < 16; r++)
            live[r] = 16 * g + r < n_rows && (!width || g / 2 * 16 + r < width);
        if (ern_type_is_grouped(type)) {
            test_fill_group(out + g * ern_group_bytes(type, n_cols), type, n_cols, live, size,
                            state);
            continue;
        }
        for (uint32_t r = 0; r < 16; r++)
            for (uint32_t c = 0; live[r] && c < n_cols; c++)
                test_put_plain(out + (16 * g + r) * ern_row_bytes(type, n_cols) + c * item, type,
                               base + size * test_random_float(state));
    }
}

/* ---- Tokenizer section --------------------------------------------------------------------- */

typedef struct test_pieces {
    uint32_t n, text_bytes;
    uint32_t offset[400];
    unsigned char type[400];
    char text[4000];
} test_pieces;

static inline void test_piece(test_pieces *p, const char *text, unsigned type)
{
    memcpy(p->text + p->text_bytes, text, strlen(text));
    p->offset[p->n] = p->text_bytes;
    p->type[p->n++] = (unsigned char)type;
    p->text_bytes += (uint32_t)strlen(text);
    p->offset[p->n] = p->text_bytes;
}

/* 0 <unk>, 1 <s>, 2 </s>, the 256 bytes unless left out, a space, a-z, A-E, digits, some merges. */
static inline void test_pieces_fill(test_pieces *p, bool bytes)
{
    static const char *const merges[] = { "th", "the", "in", "an", "er", "\u2581a", "\u2581the" };
    test_piece(p, "<unk>", ERN_TOKEN_UNKNOWN);
    test_piece(p, "<s>", ERN_TOKEN_CONTROL);
    test_piece(p, "</s>", ERN_TOKEN_CONTROL);
    for (unsigned i = 0; bytes && i < 256; i++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", i);
        test_piece(p, text, ERN_TOKEN_BYTE);
    }
    for (size_t i = 0; i < ERN_COUNT(merges); i++) test_piece(p, merges[i], ERN_TOKEN_NORMAL);
    test_piece(p, "\u2581", ERN_TOKEN_NORMAL);
    for (const char *c = "abcdefghijklmnopqrstuvwxyzABCDE0123456789.,\n"; *c; c++)
        test_piece(p, (char[2]){ *c, 0 }, ERN_TOKEN_NORMAL);
}

/* The built-in tokenizer section into out (NULL: only its size). */
static inline size_t test_tokenizer_section(bool bytes, unsigned char *out)
{
    test_pieces p;
    memset(&p, 0, sizeof p);
    test_pieces_fill(&p, bytes);
    const size_t scores = sizeof(ern_tokenizer_head), offsets = scores + 4 * p.n;
    const size_t types = offsets + 4 * (p.n + 1), text = ern_round_up(types + p.n, 4);
    const size_t n_bytes = ern_round_up(text + p.text_bytes, 4);
    if (!out) return n_bytes;
    const ern_tokenizer_head head = { .n_tokens = p.n,
                                      .flags = ERN_TOKENIZER_ESCAPE_SPACES
                                               | (bytes ? ERN_TOKENIZER_BYTE_FALLBACK : 0u),
                                      .text_bytes = p.text_bytes };
    memcpy(out, &head, sizeof head);
    for (uint32_t i = 0; i < p.n; i++) {
        const float score = -(float)i;
        memcpy(out + scores + 4 * i, &score, 4);
    }
    memcpy(out + offsets, p.offset, 4 * (p.n + 1));
    memcpy(out + types, p.type, p.n);
    memcpy(out + text, p.text, p.text_bytes);
    return n_bytes;
}

/* ---- Image --------------------------------------------------------------------------------- */

static inline ern_hparams test_hparams(const test_model_spec *spec)
{
    ern_hparams h = { .n_layers = 2,
                      .hidden_size = 64,
                      .n_heads = 2,
                      .n_kv_heads = 1,
                      .head_dim = 32,
                      .intermediate_size = 96,
                      .vocab_size = spec->no_byte_pieces ? 100 : 320,
                      .context_max = 256,
                      .bos_id = 1,
                      .eos_id = 2,
                      .pad_id = 0,
                      .rms_norm_eps = 1e-5f,
                      .moe_norm_min = 1e-12f,
                      .rope_theta = 500000.0 };
    if (spec->moe) {
        h.n_experts = 4;
        h.moe_k = 2;
        h.moe_intermediate_size = 48;
        h.n_shared_experts = 1;
        h.shared_intermediate_size = 48;
        h.moe_layer_start = h.moe_layer_end = 1;
        h.moe_layer_interval = 1;
    }
    h.n_mtp_layers = spec->n_mtp;
    h.tied = !spec->untied;
    return spec->hparams ? *spec->hparams : h;
}

static inline ern_type test_type_of(const test_model_spec *spec, unsigned kind)
{
    if (ern_kind_is_f32(kind)) return ERN_F32;
    switch (kind) {
    case ERN_EMBED: return spec->type_embed;
    case ERN_HEAD: return spec->type_head;
    case ERN_QKV:
    case ERN_ATTN_OUT: return spec->type_attention;
    case ERN_EXPERT: return spec->type_expert;
    default: return spec->type_ffn;
    }
}

/* Recompute every checksum that lies inside the image: of records when asked, of sections, the
 * weights id, the header. Safe on any bytes, so that a fuzzer gets past the checksums. */
static inline void test_model_seal(unsigned char *data, size_t n, bool records)
{
    if (n < ERN_HEADER_BYTES) return;
    ern_header h;
    memcpy(&h, data, sizeof h);
    const ern_section *index = &h.section[ERN_SECTION_INDEX];
    const bool has_index = index->offset % 64 == 0 && index->offset <= n
                           && (n - index->offset) / sizeof(ern_record) >= h.n_records;
    ern_record *record = has_index ? (ern_record *)(void *)(data + index->offset) : NULL;
    for (uint32_t i = 0; record && records && i < h.n_records; i++)
        if (record[i].offset <= n && record[i].n_bytes <= n - record[i].offset)
            record[i].checksum = ern_hash64(data + record[i].offset, (size_t)record[i].n_bytes);
    if (record) ern_weights_id(record, h.n_records, h.weights_id);
    for (unsigned i = 0; i < ERN_SECTION_RESIDENT; i++) {
        ern_section *s = &h.section[i];
        if (s->n_bytes && s->offset <= n && s->n_bytes <= n - s->offset)
            s->checksum = ern_hash64(data + s->offset, (size_t)s->n_bytes);
    }
    ern_hash128(&h, sizeof h - sizeof h.checksum, h.checksum);
    memcpy(data, &h, sizeof h);
}

/* Index and places of all records; returns the end of the file. */
static inline size_t test_model_plan(const test_model_spec *spec, ern_header *h,
                                     ern_record *records)
{
    ern_layout layout;
    bool optional;
    uint64_t at = ern_round_up_u64(h->section[ERN_SECTION_RESIDENT].offset, 64);
    ern_record r;
    for (ern_layout_begin(&layout, &h->hparams); ern_layout_next(&layout, &r, &optional);) {
        if (optional && spec->no_router_bias) continue;
        r.type = (uint8_t)test_type_of(spec, r.kind);
        if (r.kind == ERN_EXPERT) r.type2 = (uint8_t)spec->type_expert_down;
        r.n_bytes = ern_record_bytes(&r);
        if (r.type >= ERN_C4 || r.type2 >= ERN_C4) h->version_min = 2;
        if (r.kind == ERN_EXPERT && !h->expert_bytes) { /* the first one */
            h->section[ERN_SECTION_RESIDENT].n_bytes = at - h->section[ERN_SECTION_RESIDENT].offset;
            h->expert_bytes = ern_round_up_u64(r.n_bytes, h->expert_align);
            at = ern_round_up_u64(at, h->expert_align);
            h->section[ERN_SECTION_EXPERTS].offset = at;
        }
        r.offset = at;
        at += r.kind == ERN_EXPERT ? h->expert_bytes : r.n_bytes;
        records[h->n_records++] = r;
    }
    const unsigned last = h->expert_bytes ? ERN_SECTION_EXPERTS : ERN_SECTION_RESIDENT;
    h->section[last].n_bytes = at - h->section[last].offset;
    return (size_t)at;
}

static inline void test_fill_record(unsigned char *data, const ern_record *r, const ern_hparams *h,
                                    uint64_t *state)
{
    const bool norm =
        ern_kind_is_f32(r->kind) && r->kind != ERN_ROUTER && r->kind != ERN_ROUTER_BIAS;
    const float size = norm                         ? 0.1f
                       : r->kind == ERN_ROUTER_BIAS ? 0.05f
                                                    : 2.0f / sqrtf((float)r->n_cols);
    const uint32_t width = r->kind == ERN_FFN_GATE_UP      ? h->intermediate_size
                           : r->kind == ERN_SHARED_GATE_UP ? h->shared_intermediate_size
                           : r->kind == ERN_EXPERT         ? h->moe_intermediate_size
                                                           : 0;
    test_fill_matrix(data + r->offset, r->type, r->n_rows, r->n_cols, width, norm ? 1.0f : 0.0f,
                     size, state);
    if (r->kind == ERN_EXPERT)
        test_fill_matrix(data + r->offset + ern_expert_down_offset(r), r->type2, r->n_rows2,
                         r->n_cols2, 0, 0.0f, 2.0f / sqrtf((float)r->n_cols2), state);
}

static inline void test_place(ern_header *h, unsigned section, uint64_t *at, uint64_t n_bytes)
{
    h->section[section].offset = *at;
    h->section[section].n_bytes = n_bytes;
    *at = ern_round_up_u64(*at + n_bytes, 64);
}

/* Tokenizer, chat and generation from the places that the header gives them. */
static inline void test_fill_sections(const test_model_spec *spec, const ern_header *h,
                                      unsigned char *data)
{
    const char *words = "{{ messages }}";
    const ern_chat_head chat = { .format = spec->chat_format ? spec->chat_format : ERNIE_CHAT_PLAIN,
                                 .begin_id = 1,
                                 .turn_end_id = 2,
                                 .template_bytes = (uint32_t)strlen(words) };
    const ern_generation generation = { .temperature = 0.8f,
                                        .top_p = 0.8f,
                                        .do_sample = !spec->generation_greedy,
                                        .n_stop_ids = 1,
                                        .stop_ids = { 2 } };
    unsigned char *tokenizer = data + h->section[ERN_SECTION_TOKENIZER].offset;
    if (spec->tokenizer)
        memcpy(tokenizer, spec->tokenizer, spec->tokenizer_bytes);
    else
        test_tokenizer_section(!spec->no_byte_pieces, tokenizer);
    memcpy(data + h->section[ERN_SECTION_CHAT].offset, &chat, sizeof chat);
    memcpy(data + h->section[ERN_SECTION_CHAT].offset + sizeof chat, words, strlen(words));
    memcpy(data + h->section[ERN_SECTION_GENERATION].offset, &generation, sizeof generation);
}

static inline unsigned char *test_model_build(const test_model_spec *spec, size_t *n_bytes)
{
    enum { RECORDS_MAX = 4096 };
    static ern_record records[RECORDS_MAX];
    ern_header h = { .version = ERN_FORMAT_VERSION,
                     .version_min = 1,
                     .expert_align = 4096,
                     .hparams = test_hparams(spec),
                     .name = "test" };
    memcpy(h.magic, ERN_MAGIC, sizeof h.magic);
    snprintf(h.architecture, sizeof h.architecture, "%s",
             h.hparams.n_experts ? "ernie4_5_moe" : "ernie4_5");
    /* The plan is made twice: the index' size says where the resident section begins. */
    test_model_plan(spec, &h, records);
    const uint32_t n_records = h.n_records;
    uint64_t at = ERN_HEADER_BYTES;
    h.n_records = 0;
    h.expert_bytes = 0;
    test_place(&h, ERN_SECTION_INDEX, &at, n_records * sizeof(ern_record));
    if (!spec->no_sections) {
        test_place(&h, ERN_SECTION_TOKENIZER, &at,
                   spec->tokenizer ? spec->tokenizer_bytes
                                   : test_tokenizer_section(!spec->no_byte_pieces, NULL));
        test_place(&h, ERN_SECTION_CHAT, &at, sizeof(ern_chat_head) + strlen("{{ messages }}"));
        test_place(&h, ERN_SECTION_GENERATION, &at, sizeof(ern_generation));
    }
    h.section[ERN_SECTION_RESIDENT].offset = at;
    *n_bytes = test_model_plan(spec, &h, records);
    h.file_bytes = *n_bytes;

    unsigned char *data = aligned_alloc(64, ern_round_up(*n_bytes, 64));
    if (!data || n_records > RECORDS_MAX) abort();
    memset(data, 0, *n_bytes);
    memcpy(data, &h, sizeof h);
    if (!spec->no_sections) test_fill_sections(spec, &h, data);
    uint64_t state = spec->seed + 1;
    for (uint32_t i = 0; i < n_records; i++)
        test_fill_record(data, &records[i], &h.hparams, &state);
    memcpy(data + h.section[ERN_SECTION_INDEX].offset, records, n_records * sizeof records[0]);
    test_model_seal(data, *n_bytes, true);
    return data;
}

static inline void test_model_free(unsigned char *data)
{
    free(data);
}

#endif
