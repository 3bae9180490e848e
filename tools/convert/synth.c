/* Weights are copied out of a few MiB of random codes, from another place for every group, so that
 * writing them costs little more than memory bandwidth. Scales give every matrix a spread of about
 * 1 / sqrt(n_cols), with which activations stay finite and of ordinary size. */
#include "synth.h"
#include "pipe.h"
#include "sentencepiece.h"
#include "../../src/os.h"

#define SYNTH_TEMPLATE_BYTES ((size_t)4 << 20)

enum {
    SYNTH_W8 = 0,
    SYNTH_W4 = 1,
    SYNTH_F32 = 2,
    SYNTH_F16 = 3,
    SYNTH_BF16 = 4,
    SYNTH_N_TEMPLATES = 5
};

/* ---- Shapes ---------------------------------------------------------------------------------- */

typedef struct synth_shape {
    const char *name;
    uint32_t n_layers, hidden_size, n_heads, n_kv_heads, head_dim, intermediate_size, vocab_size;
    uint32_t context_max;
    uint32_t n_experts, moe_k, moe_intermediate_size, n_shared_experts, moe_layer_start;
    uint32_t n_mtp_layers, tied;
} synth_shape;

static const synth_shape synth_shapes[] = {
    { "0.3b", 18, 1024, 16, 2, 128, 3072, 103424, 131072, 0, 0, 0, 0, 0, 0, 1 },
    { "21b", 28, 2560, 20, 4, 128, 12288, 103424, 131072, 64, 6, 1536, 2, 1, 1, 1 },
    { "300b", 54, 8192, 64, 8, 128, 28672, 103424, 131072, 64, 8, 3584, 0, 3, 1, 0 },
    { "demo", 6, 256, 8, 2, 64, 1024, 12288, 4096, 32, 4, 256, 2, 1, 1, 1 },
};

static ernie_status synth_find_shape(ern_hparams *hparams, const char *name, uint32_t n_layers,
                                     ernie_error *error)
{
    const synth_shape *s = NULL;
    for (size_t i = 0; name && i < ERN_COUNT(synth_shapes); i++)
        if (strcmp(name, synth_shapes[i].name) == 0) s = &synth_shapes[i];
    ERN_FAIL_IF(!s, error, ERNIE_INVALID, "shape \"%.32s\" is unknown: 0.3b, 21b, 300b or demo",
                name ? name : "");
    ERN_FAIL_IF(n_layers > ERN_LAYERS_MAX, error, ERNIE_INVALID,
                "%u layers, at most %u are possible", (unsigned)n_layers, ERN_LAYERS_MAX);
    if (n_layers == 0) n_layers = s->n_layers;
    *hparams =
        (ern_hparams){ .n_layers = n_layers,
                       .hidden_size = s->hidden_size,
                       .n_heads = s->n_heads,
                       .n_kv_heads = s->n_kv_heads,
                       .head_dim = s->head_dim,
                       .intermediate_size = s->intermediate_size,
                       .vocab_size = s->vocab_size,
                       .context_max = s->context_max,
                       .n_experts = s->n_experts,
                       .moe_k = s->moe_k,
                       .moe_intermediate_size = s->moe_intermediate_size,
                       .n_shared_experts = s->n_shared_experts,
                       .shared_intermediate_size = s->n_shared_experts * s->moe_intermediate_size,
                       .n_mtp_layers = s->n_mtp_layers,
                       .tied = s->tied,
                       .bos_id = 1,
                       .eos_id = 2,
                       .pad_id = 0,
                       .rms_norm_eps = 1e-5f,
                       .moe_norm_min = 1e-12f,
                       .rope_theta = 500000.0 };
    if (s->n_experts == 0) return ERNIE_OK;
    /* However few layers are asked for, the last one is a mixture. */
    hparams->moe_layer_start = s->moe_layer_start < n_layers ? s->moe_layer_start : n_layers - 1;
    hparams->moe_layer_end = n_layers - 1;
    hparams->moe_layer_interval = 1;
    return ERNIE_OK;
}

/* ---- Random codes ---------------------------------------------------------------------------- */

typedef struct synth_state {
    ern_synth_options options;
    conv_plan plan;
    unsigned char *templates; /* [SYNTH_N_TEMPLATES][SYNTH_TEMPLATE_BYTES] */
    conv_bytes tokenizer, chat, generation;
} synth_state;

/* splitmix64 */
static uint64_t synth_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Any bytes are w4, c4, c3 and c2 codes; w8 codes leave out -128; the floats get an exponent that puts them
 * between 0.5 and 2, so that adding to the exponent scales them. */
static void synth_fill_templates(unsigned char *templates, uint64_t seed)
{
    uint64_t *words = (uint64_t *)(void *)templates;
    for (size_t i = 0; i < SYNTH_N_TEMPLATES * SYNTH_TEMPLATE_BYTES / 8; i++)
        words[i] = synth_random(&seed);
    unsigned char *w8 = templates + SYNTH_W8 * SYNTH_TEMPLATE_BYTES;
    for (size_t i = 0; i < SYNTH_TEMPLATE_BYTES; i++)
        if (w8[i] == 0x80) w8[i] = 0x81;
    uint32_t *f32 = (uint32_t *)(void *)(templates + SYNTH_F32 * SYNTH_TEMPLATE_BYTES);
    for (size_t i = 0; i < SYNTH_TEMPLATE_BYTES / 4; i++)
        f32[i] = (f32[i] & 0x80ffffffu) + 0x3f000000u;
    uint16_t *f16 = (uint16_t *)(void *)(templates + SYNTH_F16 * SYNTH_TEMPLATE_BYTES);
    uint16_t *bf16 = (uint16_t *)(void *)(templates + SYNTH_BF16 * SYNTH_TEMPLATE_BYTES);
    for (size_t i = 0; i < SYNTH_TEMPLATE_BYTES / 2; i++) {
        f16[i] = (uint16_t)((f16[i] & 0x87ffu) + 0x3800u);
        bf16[i] = (uint16_t)((bf16[i] & 0x80ffu) + 0x3f00u);
    }
}

/* A place in a template, at a multiple of 64, from which n bytes can be taken. */
static const unsigned char *synth_take(const synth_state *state, unsigned which, uint64_t *random,
                                       size_t n)
{
    const size_t n_places = (SYNTH_TEMPLATE_BYTES - n) / 64 + 1;
    return state->templates + which * SYNTH_TEMPLATE_BYTES + synth_random(random) % n_places * 64;
}

/* ---- Units ----------------------------------------------------------------------------------- */

static void synth_copy(const synth_state *state, unsigned which, uint64_t *random,
                       unsigned char *dst, size_t n)
{
    for (size_t done = 0; done < n;) {
        const size_t piece = ern_min_size(n - done, SYNTH_TEMPLATE_BYTES / 2);
        memcpy(dst + done, synth_take(state, which, random, piece), piece);
        done += piece;
    }
}

static void synth_make_group(const synth_state *state, const conv_unit *unit, uint64_t *random,
                             unsigned char *dst)
{
    static const float level_rms[ERN_N_TYPES] = {
        [ERN_W8] = 73.3f, [ERN_W4] = 33.0f, [ERN_C4] = 21.2f, [ERN_C3] = 25.8f, [ERN_C2] = 30.4f
    };
    const bool bytes = unit->type < ERN_C4; /* scales are bytes, else nibbles that count from 4 */
    const uint32_t n_blocks = ern_n_blocks(unit->n_cols);
    const size_t scale_bytes = ((size_t)n_blocks + !bytes) / (bytes ? 1 : 2) * ERN_GROUP_ROWS;
    const size_t tables = ERN_GROUP_ROWS * sizeof(float) + ern_group_scale_bytes(unit->type, n_blocks);
    const float code_rms = level_rms[unit->type], scale_mean = bytes ? 127.5f : 11.5f;
    const float row_scale = 1.0f / (sqrtf((float)unit->n_cols) * code_rms * scale_mean);
    for (size_t i = 0; i < ERN_GROUP_ROWS; i++)
        memcpy(dst + i * sizeof row_scale, &row_scale, sizeof row_scale);
    unsigned char *scales = dst + ERN_GROUP_ROWS * sizeof row_scale;
    synth_copy(state, SYNTH_W4, random, scales, scale_bytes);
    for (size_t i = 0; i < scale_bytes; i++)
        scales[i] = (unsigned char)(bytes ? 112 + (scales[i] & 31) : 0x66 + (scales[i] & 0x33));
    for (size_t i = scale_bytes - ERN_GROUP_ROWS; i < scale_bytes && !bytes && n_blocks % 2; i++)
        scales[i] &= 15;
    synth_copy(state, unit->type == ERN_W8 ? SYNTH_W8 : SYNTH_W4, random, dst + tables,
               (size_t)unit->n_bytes - tables);
}

/* Words from a float template, whose mean square is 1.46, their exponents moved to 1 /
 * sqrt(n_cols). */
static void synth_make_floats(const synth_state *state, const conv_unit *unit, uint64_t *random,
                              unsigned char *dst)
{
    const int exponent = -(int)lrint(0.5 * log2(1.46 * (double)unit->n_cols));
    const size_t n = (size_t)unit->n_bytes;
    if (unit->type == ERN_F32) {
        synth_copy(state, SYNTH_F32, random, dst, n);
        uint32_t *words = (uint32_t *)(void *)dst;
        const uint32_t shift = (uint32_t)exponent << 23;
        for (size_t i = 0; i < n / 4; i++) words[i] += shift;
        return;
    }
    synth_copy(state, unit->type == ERN_F16 ? SYNTH_F16 : SYNTH_BF16, random, dst, n);
    uint16_t *words = (uint16_t *)(void *)dst;
    const uint16_t shift = (uint16_t)((uint32_t)exponent << (unit->type == ERN_F16 ? 10 : 7));
    for (size_t i = 0; i < n / 2; i++) words[i] = (uint16_t)(words[i] + shift);
}

static ernie_status synth_make(void *user, unsigned worker, uint32_t i, const conv_unit *unit,
                               unsigned char *dst, uint64_t *n_done, ernie_error *error)
{
    (void)worker, (void)error;
    const synth_state *state = user;
    const unsigned kind = state->plan.records[i].kind;
    uint64_t random =
        state->options.seed ^ (uint64_t)i << 40 ^ (uint64_t)unit->matrix << 39 ^ unit->first_row;
    if (ern_type_is_grouped(unit->type)) {
        synth_make_group(state, unit, &random, dst);
    } else if (ern_kind_is_f32(kind) && kind != ERN_ROUTER) {
        const float value = kind == ERN_ROUTER_BIAS ? 0.0f : 1.0f;
        for (uint32_t k = 0; k < unit->n_cols; k++)
            memcpy(dst + k * sizeof value, &value, sizeof value);
    } else {
        synth_make_floats(state, unit, &random, dst);
    }
    *n_done = unit->n_bytes;
    return ERNIE_OK;
}

/* ---- Text ------------------------------------------------------------------------------------ */

static bool synth_add(conv_vocab *vocab, const char *text, unsigned type)
{
    const bool merged = type == ERN_TOKEN_NORMAL;
    return conv_vocab_set(vocab, vocab->n, text, strlen(text), merged ? -(float)vocab->n : 0, type);
}

/* The i-th word: two letters, then three, then four, all of them. */
static void synth_word(size_t i, char word[8])
{
    size_t n = 2, count = 26 * 26;
    for (; i >= count; count *= 26, n++) i -= count;
    word[n] = '\0';
    for (; n > 0; i /= 26) word[--n] = (char)('a' + i % 26);
}

/* The first ids are those of the real vocabulary: specials, digits, bytes. */
static bool synth_fill_vocab(conv_vocab *vocab, uint32_t vocab_size)
{
    char text[16];
    bool fits = synth_add(vocab, "<unk>", ERN_TOKEN_UNKNOWN)
                && synth_add(vocab, "<s>", ERN_TOKEN_CONTROL)
                && synth_add(vocab, "</s>", ERN_TOKEN_CONTROL);
    for (char digit = '0'; digit <= '9' && fits; digit++) {
        snprintf(text, sizeof text, "%c", digit);
        fits = synth_add(vocab, text, ERN_TOKEN_USER);
    }
    for (unsigned byte = 0; byte < 256 && fits; byte++) {
        snprintf(text, sizeof text, "<0x%02X>", byte);
        fits = synth_add(vocab, text, ERN_TOKEN_BYTE);
    }
    fits = fits && synth_add(vocab, "<|begin_of_sentence|>", ERN_TOKEN_CONTROL)
           && synth_add(vocab, "<|end_of_sentence|>", ERN_TOKEN_CONTROL)
           && synth_add(vocab, "\xe2\x96\x81", ERN_TOKEN_NORMAL); /* the space */
    for (char c = '!'; c <= '~' && fits; c++) {
        snprintf(text, sizeof text, "%c", c);
        if (c < '0' || c > '9') fits = synth_add(vocab, text, ERN_TOKEN_NORMAL);
    }
    for (size_t i = 0; vocab->n < vocab_size && fits; i++) {
        synth_word(i, text);
        fits = synth_add(vocab, text, ERN_TOKEN_NORMAL);
    }
    return fits;
}

static ernie_status synth_write_text(synth_state *state, const ern_hparams *hparams,
                                     ernie_error *error)
{
    enum { SYNTH_BEGIN_ID = 269, SYNTH_END_ID = 270 };
    conv_vocab vocab;
    const ern_chat_head chat = { .format = ERNIE_CHAT_PLAIN,
                                 .begin_id = SYNTH_BEGIN_ID,
                                 .turn_end_id = SYNTH_END_ID };
    const ern_generation generation = { .temperature = 0.8f,
                                        .top_p = 0.8f,
                                        .do_sample = 1,
                                        .n_stop_ids = 2,
                                        .stop_ids = { hparams->eos_id, SYNTH_END_ID } };
    conv_vocab_begin(&vocab, state->options.allocator);
    vocab.flags = ERN_TOKENIZER_ESCAPE_SPACES | ERN_TOKENIZER_BYTE_FALLBACK;
    const bool fits = synth_fill_vocab(&vocab, hparams->vocab_size)
                      && conv_vocab_write(&vocab, &state->tokenizer)
                      && conv_bytes_add(&state->chat, &chat, sizeof chat)
                      && conv_bytes_add(&state->generation, &generation, sizeof generation);
    conv_vocab_free(&vocab);
    ERN_FAIL_IF(!fits, error, ERNIE_NO_MEMORY, "no memory for a vocabulary of %u pieces",
                (unsigned)hparams->vocab_size);
    return ERNIE_OK;
}

/* ---- The whole ------------------------------------------------------------------------------- */

static ernie_status synth_plan(synth_state *state, uint64_t *n_total, ernie_error *error)
{
    char name[64];
    ern_hparams hparams;
    ern_layout layout;
    ern_record record;
    bool optional;
    const conv_types *types;
    const ern_synth_options *options = &state->options;
    ernie_status status = conv_types_find(&types, options->type, error);
    if (status == ERNIE_OK)
        status = synth_find_shape(&hparams, options->shape, options->n_layers, error);
    if (status != ERNIE_OK) return status;
    snprintf(name, sizeof name, "synth-%s", options->shape);
    const char *architecture = hparams.n_experts ? "ernie4_5_moe" : "ernie4_5";
    status = conv_plan_begin(&state->plan, &hparams, architecture, name, options->allocator, error);
    ern_layout_begin(&layout, &hparams);
    while (status == ERNIE_OK && ern_layout_next(&layout, &record, &optional))
        status = conv_plan_add(&state->plan, &record, types, error);
    *n_total = 0;
    for (uint32_t i = 0; i < state->plan.header.n_records; i++)
        *n_total += state->plan.records[i].n_bytes;
    return status == ERNIE_OK ? synth_write_text(state, &hparams, error) : status;
}

static ernie_status synth_run(synth_state *state, const char *path, ernie_error *error)
{
    uint64_t n_total;
    const ernie_status status = synth_plan(state, &n_total, error);
    if (status != ERNIE_OK) return status;
    const size_t bytes = SYNTH_N_TEMPLATES * SYNTH_TEMPLATE_BYTES;
    state->templates = ern_alloc_aligned(state->options.allocator, bytes);
    ERN_FAIL_IF(!state->templates, error, ERNIE_NO_MEMORY, "no memory for %zu random bytes", bytes);
    synth_fill_templates(state->templates, state->options.seed);
    const conv_job job = { .plan = &state->plan,
                           .sections = { [ERN_SECTION_TOKENIZER] = &state->tokenizer,
                                         [ERN_SECTION_CHAT] = &state->chat,
                                         [ERN_SECTION_GENERATION] = &state->generation },
                           .make = synth_make,
                           .user = state,
                           .n_threads = state->options.n_threads ? state->options.n_threads
                                                                 : ern_cpu_count(),
                           .what = "writing",
                           .n_total = n_total,
                           .progress = state->options.progress,
                           .progress_user = state->options.progress_user,
                           .cancel = state->options.cancel,
                           .allocator = state->options.allocator };
    return conv_pipe_run(&job, path, error);
}

ERN_FN ernie_status ern_synth(const char *out_path, const ern_synth_options *options,
                              ernie_error *error)
{
    synth_state state;
    memset(&state, 0, sizeof state);
    ERN_FAIL_IF(!out_path || !options, error, ERNIE_INVALID,
                "the output path and the shape are needed");
    state.options = *options;
    if (!state.options.allocator) state.options.allocator = ern_allocator_default();
    const ernie_allocator *allocator = state.options.allocator;
    state.plan.allocator = allocator;
    state.tokenizer.allocator = state.chat.allocator = state.generation.allocator = allocator;
    const ernie_status status = synth_run(&state, out_path, error);
    if (state.templates)
        ern_free_aligned(allocator, state.templates, SYNTH_N_TEMPLATES * SYNTH_TEMPLATE_BYTES);
    conv_bytes_free(&state.tokenizer);
    conv_bytes_free(&state.chat);
    conv_bytes_free(&state.generation);
    conv_plan_free(&state.plan);
    return status;
}

#undef SYNTH_TEMPLATE_BYTES
