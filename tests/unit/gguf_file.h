/* GGUF files for tests, field by field as the format says, with every field open to damage; and the
 * checkpoints of checkpoint.h as llama.cpp's converter writes them. */
#ifndef GGUF_FILE_H
#define GGUF_FILE_H

#include "checkpoint.h"
#include "ggml_blocks.h"

typedef struct gguf_bytes {
    unsigned char *data;
    size_t n, capacity;
} gguf_bytes;

typedef struct gguf_file {
    char magic[5];
    uint32_t version;
    uint64_t n_tensors, n_pairs; /* as they stand in the file */
    uint32_t align;
    gguf_bytes pairs, infos, data;
    size_t last_info, last_pair; /* where in infos and pairs the last one begins */
    uint32_t type;               /* of matrices, below */
    bool widen;                  /* write what blocks of `type` are worth, as F32 */
    uint64_t seed;
} gguf_file;

/* ---- Fields ---------------------------------------------------------------------------------- */

static inline unsigned char *gguf_more(gguf_bytes *b, size_t n)
{
    if (b->n + n > b->capacity) {
        b->capacity = 2 * (b->n + n) + 64;
        b->data = realloc(b->data, b->capacity);
        if (!b->data) abort();
    }
    unsigned char *at = b->data + b->n;
    memset(at, 0, n);
    b->n += n;
    return at;
}

static inline void gguf_put(gguf_bytes *b, const void *data, size_t n)
{
    unsigned char *at = gguf_more(b, n);
    if (n) memcpy(at, data, n);
}

static inline void gguf_put_number(gguf_bytes *b, uint64_t value, size_t n)
{
    unsigned char *at = gguf_more(b, n);
    for (size_t i = 0; i < n; i++) at[i] = (unsigned char)(value >> (8 * i));
}

static inline void gguf_put_text(gguf_bytes *b, const char *text, size_t n)
{
    gguf_put_number(b, n, 8);
    gguf_put(b, text, n);
}

/* ---- Pairs ----------------------------------------------------------------------------------- */

static inline void gguf_pair(gguf_file *g, const char *key, uint32_t type)
{
    g->last_pair = g->pairs.n;
    gguf_put_text(&g->pairs, key, strlen(key));
    gguf_put_number(&g->pairs, type, 4);
    g->n_pairs++;
}

static inline void gguf_u32(gguf_file *g, const char *key, uint32_t value)
{
    gguf_pair(g, key, CONV_GGUF_U32);
    gguf_put_number(&g->pairs, value, 4);
}

static inline void gguf_i64(gguf_file *g, const char *key, int64_t value)
{
    gguf_pair(g, key, CONV_GGUF_I64);
    gguf_put_number(&g->pairs, (uint64_t)value, 8);
}

static inline void gguf_bool(gguf_file *g, const char *key, bool value)
{
    gguf_pair(g, key, CONV_GGUF_BOOL);
    gguf_put_number(&g->pairs, value, 1);
}

static inline void gguf_f32(gguf_file *g, const char *key, float value)
{
    gguf_pair(g, key, CONV_GGUF_F32);
    gguf_put(&g->pairs, &value, 4);
}

static inline void gguf_text(gguf_file *g, const char *key, const char *value)
{
    gguf_pair(g, key, CONV_GGUF_STRING);
    gguf_put_text(&g->pairs, value, strlen(value));
}

/* The head of an array; its values follow in g->pairs. */
static inline void gguf_array(gguf_file *g, const char *key, uint32_t item, uint64_t n)
{
    gguf_pair(g, key, CONV_GGUF_ARRAY);
    gguf_put_number(&g->pairs, item, 4);
    gguf_put_number(&g->pairs, n, 8);
}

/* ---- Tensors --------------------------------------------------------------------------------- */

/* dims: the row's length first. The data go in as they are. */
static inline void gguf_tensor(gguf_file *g, const char *name, unsigned n_dims,
                               const uint64_t *dims, uint32_t type, const void *data, size_t n)
{
    while (g->data.n % g->align) gguf_more(&g->data, 1);
    g->last_info = g->infos.n;
    gguf_put_text(&g->infos, name, strlen(name));
    gguf_put_number(&g->infos, n_dims, 4);
    for (unsigned i = 0; i < n_dims; i++) gguf_put_number(&g->infos, dims[i], 8);
    gguf_put_number(&g->infos, type, 4);
    gguf_put_number(&g->infos, g->data.n, 8);
    gguf_put(&g->data, data, n);
    g->n_tensors++;
}

/* Values of a plain type. */
static inline void gguf_plain(gguf_file *g, const char *name, unsigned n_dims, const uint64_t *dims,
                              uint32_t type, const float *values)
{
    size_t n = 1;
    for (unsigned i = 0; i < n_dims; i++) n *= (size_t)dims[i];
    unsigned char *bytes = malloc(4 * n);
    if (!bytes) abort();
    for (size_t i = 0; i < n; i++) {
        if (type == CONV_GGML_F32)
            memcpy(bytes + 4 * i, &values[i], 4);
        else
            block_put_half(bytes + 2 * i, type == CONV_GGML_F16 ? ern_f32_to_f16(values[i])
                                                                : ern_f32_to_bf16(values[i]));
    }
    gguf_tensor(g, name, n_dims, dims, type, bytes, n * (type == CONV_GGML_F32 ? 4 : 2));
    free(bytes);
}

/* A matrix of random blocks of g->type, or, with g->widen, of what they are worth. */
static inline void gguf_blocks(gguf_file *g, const char *name, unsigned n_dims,
                               const uint64_t *dims)
{
    size_t n = 1;
    for (unsigned i = 0; i < n_dims; i++) n *= (size_t)dims[i];
    const conv_ggml_info *info = conv_ggml_find(g->type);
    unsigned char *bytes = malloc(4 * n);
    float *values = malloc(n * sizeof *values);
    if (!bytes || !values) abort();
    block_make(g->type, n, ++g->seed, bytes, values);
    if (g->widen)
        gguf_plain(g, name, n_dims, dims, CONV_GGML_F32, values);
    else
        gguf_tensor(g, name, n_dims, dims, g->type, bytes,
                    n / info->block_values * info->block_bytes);
    free(bytes);
    free(values);
}

static inline void gguf_begin(gguf_file *g)
{
    memset(g, 0, sizeof *g);
    memcpy(g->magic, "GGUF", 4);
    g->version = 3;
    g->align = 32;
    g->type = CONV_GGML_BF16;
}

static inline void gguf_free(gguf_file *g)
{
    free(g->pairs.data);
    free(g->infos.data);
    free(g->data.data);
    memset(g, 0, sizeof *g);
}

/* The whole file, to be freed. */
static inline unsigned char *gguf_join(const gguf_file *g, size_t *n)
{
    gguf_bytes file = { 0 };
    gguf_put(&file, g->magic, 4);
    gguf_put_number(&file, g->version, 4);
    gguf_put_number(&file, g->n_tensors, 8);
    gguf_put_number(&file, g->n_pairs, 8);
    gguf_put(&file, g->pairs.data, g->pairs.n);
    gguf_put(&file, g->infos.data, g->infos.n);
    while (file.n % g->align) gguf_more(&file, 1);
    gguf_put(&file, g->data.data, g->data.n);
    *n = file.n;
    return file.data;
}

static inline void gguf_write(const gguf_file *g, const char *path)
{
    size_t n;
    unsigned char *data = gguf_join(g, &n);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(data, 1, n, file) != n || fclose(file) != 0) abort();
    free(data);
}

/* ---- Models ---------------------------------------------------------------------------------- */

/* One matrix, or those of all experts, of the checkpoint's values; where the type has blocks,
 * random ones. */
static inline void gguf_matrix(gguf_file *g, const checkpoint *c, const char *name, uint64_t n_rows,
                               uint64_t n_cols, bool stacked, const char *what, unsigned layer,
                               unsigned expert)
{
    const uint64_t dims[3] = { n_cols, n_rows, c->n_experts };
    const unsigned n_dims = stacked ? 3 : 2;
    const size_t n = (size_t)(n_rows * n_cols), n_all = n * (stacked ? c->n_experts : 1);
    if (conv_ggml_find(g->type)->block_values > 1) {
        gguf_blocks(g, name, n_dims, dims);
        return;
    }
    float *values = malloc(n_all * sizeof *values);
    if (!values) abort();
    for (size_t i = 0; i < n_all; i++)
        values[i] = checkpoint_value(what, layer, stacked ? (unsigned)(i / n) + 1 : expert, i % n);
    gguf_plain(g, name, n_dims, dims, g->type, values);
    free(values);
}

static inline void gguf_vector(gguf_file *g, const char *name, uint64_t n, const char *what,
                               unsigned layer)
{
    float *values = malloc((size_t)n * sizeof *values);
    if (!values) abort();
    for (size_t i = 0; i < n; i++) values[i] = checkpoint_value(what, layer, 0, i);
    gguf_plain(g, name, 1, &n, CONV_GGML_F32, values);
    free(values);
}

static inline void gguf_ffn(gguf_file *g, const checkpoint *c, unsigned layer, const char *end,
                            uint64_t width, bool stacked, unsigned expert)
{
    static const char *const parts[] = { "gate", "up", "down" };
    char name[64];
    for (unsigned i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "blk.%u.ffn_%s%s.weight", layer, parts[i], end);
        gguf_matrix(g, c, name, i < 2 ? width : c->hidden, i < 2 ? c->hidden : width, stacked,
                    parts[i], layer, expert);
    }
}

static inline void gguf_layer(gguf_file *g, const checkpoint *c, unsigned layer)
{
    char name[64];
    const uint64_t nq = c->n_heads * c->head_dim, nk = c->n_kv_heads * c->head_dim, h = c->hidden;
#define GGUF_NAME(end) (snprintf(name, sizeof name, "blk.%u.%s", layer, end), name)
    gguf_vector(g, GGUF_NAME("attn_norm.weight"), h, "attn_norm", layer);
    gguf_matrix(g, c, GGUF_NAME("attn_q.weight"), nq, h, false, "q", layer, 0);
    gguf_matrix(g, c, GGUF_NAME("attn_k.weight"), nk, h, false, "k", layer, 0);
    gguf_matrix(g, c, GGUF_NAME("attn_v.weight"), nk, h, false, "v", layer, 0);
    gguf_matrix(g, c, GGUF_NAME("attn_output.weight"), h, nq, false, "o", layer, 0);
    gguf_vector(g, GGUF_NAME("ffn_norm.weight"), h, "ffn_norm", layer);
    if (!c->moe || layer < c->moe_start) {
        gguf_ffn(g, c, layer, "", c->width, false, 0);
        return;
    }
    const uint32_t type = g->type;
    g->type = CONV_GGML_F32;
    gguf_matrix(g, c, GGUF_NAME("ffn_gate_inp.weight"), c->n_experts, h, false, "router", layer, 0);
    g->type = type;
    if (!c->no_bias) gguf_vector(g, GGUF_NAME("exp_probs_b.bias"), c->n_experts, "bias", layer);
    gguf_ffn(g, c, layer, "_exps", c->expert_width, true, 0);
    if (c->n_shared) gguf_ffn(g, c, layer, "_shexp", c->n_shared * c->expert_width, false, 99);
#undef GGUF_NAME
}

static inline void gguf_tensors(gguf_file *g, const checkpoint *c)
{
    gguf_matrix(g, c, "token_embd.weight", c->vocab, c->hidden, false, "embed", 0, 0);
    gguf_vector(g, "output_norm.weight", c->hidden, "norm", 0);
    if (!c->tied) gguf_matrix(g, c, "output.weight", c->vocab, c->hidden, false, "head", 0, 0);
    for (unsigned layer = 0; layer < c->n_layers; layer++) gguf_layer(g, c, layer);
}

static inline void gguf_metadata(gguf_file *g, const checkpoint *c)
{
    char key[96];
    const char *architecture = c->moe ? "ernie4_5-moe" : "ernie4_5";
#define GGUF_KEY(end) (snprintf(key, sizeof key, "%s.%s", architecture, end), key)
    gguf_text(g, "general.architecture", architecture);
    gguf_text(g, "general.type", "model");
    gguf_text(g, "general.name", "in"); /* the folder's name in the tests of checkpoints */
    gguf_u32(g, GGUF_KEY("block_count"), c->n_layers);
    gguf_u32(g, GGUF_KEY("context_length"), 128);
    gguf_u32(g, GGUF_KEY("embedding_length"), c->hidden);
    gguf_u32(g, GGUF_KEY("feed_forward_length"), c->width);
    gguf_u32(g, GGUF_KEY("attention.head_count"), c->n_heads);
    gguf_u32(g, GGUF_KEY("attention.head_count_kv"), c->n_kv_heads);
    gguf_u32(g, GGUF_KEY("attention.key_length"), c->head_dim);
    gguf_u32(g, GGUF_KEY("attention.value_length"), c->head_dim);
    gguf_u32(g, GGUF_KEY("rope.dimension_count"), c->head_dim);
    gguf_f32(g, GGUF_KEY("rope.freq_base"), 500000.0f);
    gguf_f32(g, GGUF_KEY("attention.layer_norm_rms_epsilon"), 1e-5f);
    if (c->moe) {
        gguf_u32(g, GGUF_KEY("expert_count"), c->n_experts);
        gguf_u32(g, GGUF_KEY("expert_used_count"), c->moe_k);
        gguf_u32(g, GGUF_KEY("expert_feed_forward_length"), c->expert_width);
        gguf_u32(g, GGUF_KEY("expert_shared_count"), c->n_shared);
        /* what llama.cpp's converter computes: wrong for all models but one */
        if (c->n_shared)
            gguf_u32(g, GGUF_KEY("expert_shared_feed_forward_length"), c->width / c->n_kv_heads);
        gguf_u32(g, GGUF_KEY("interleave_moe_layer_step"), 1);
        gguf_u32(g, GGUF_KEY("leading_dense_block_count"), c->moe_start);
    }
    gguf_u32(g, "tokenizer.ggml.bos_token_id", 1);
    gguf_u32(g, "tokenizer.ggml.eos_token_id", 2);
    gguf_u32(g, "tokenizer.ggml.padding_token_id", 0);
#undef GGUF_KEY
}

/* The pieces of checkpoint_tokenizer, and padding up to the model's rows. */
static inline void gguf_vocabulary(gguf_file *g, const checkpoint *c)
{
    static const char *const named[] = { "<unk>", "<s>", "</s>", "a", "b", "ab" };
    static const float scores[] = { 0, 0, 0, -1, -2, 0 };
    static const uint32_t types[] = { 2, 3, 3, 1, 1, 1 };
    const unsigned n_named = 6, n_pieces = n_named + 256;
    char text[32];
    gguf_text(g, "tokenizer.ggml.model", "llama");
    gguf_array(g, "tokenizer.ggml.tokens", CONV_GGUF_STRING, c->vocab);
    for (unsigned id = 0; id < c->vocab; id++) {
        snprintf(text, sizeof text, "[PAD%u]", id);
        if (id < n_named) snprintf(text, sizeof text, "%s", named[id]);
        if (id >= n_named && id < n_pieces) snprintf(text, sizeof text, "<0x%02X>", id - n_named);
        gguf_put_text(&g->pairs, text, strlen(text));
    }
    gguf_array(g, "tokenizer.ggml.scores", CONV_GGUF_F32, c->vocab);
    for (unsigned id = 0; id < c->vocab; id++)
        gguf_put(&g->pairs, &scores[id < n_named ? id : 0], sizeof *scores);
    gguf_array(g, "tokenizer.ggml.token_type", CONV_GGUF_I32, c->vocab);
    for (unsigned id = 0; id < c->vocab; id++)
        gguf_put_number(&g->pairs, id < n_named ? types[id] : id < n_pieces ? 6 : 5, 4);
    gguf_text(g, "tokenizer.chat_template", "{{ messages }}");
}

#endif
