/* Small checkpoints for tests, in every spelling that the converter knows. The list of tensors is
 * built first and may be damaged before it is written. The values depend only on what a weight is
 * (layer, part, index), never on how it is stored, and every dtype holds them exactly: so two
 * spellings must give the same file. */
#ifndef CHECKPOINT_H
#define CHECKPOINT_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../src/format.h"

#define CHECKPOINT_TENSORS_MAX 512
#define CHECKPOINT_PATH_MAX    512

typedef struct checkpoint_tensor {
    char name[128];
    const char *dtype; /* "F32", "F16", "BF16" */
    unsigned n_dims;
    size_t dims[4];
    size_t n;
    float *values;
    unsigned char *bytes; /* [n_bytes]: the data as they are, where no float stands for them */
    size_t n_bytes;
    unsigned shard;
} checkpoint_tensor;

typedef struct checkpoint {
    /* the model */
    bool moe, tied, no_bias;
    unsigned n_layers, hidden, n_heads, n_kv_heads, head_dim, width, vocab;
    unsigned n_experts, moe_k, expert_width, n_shared, moe_start, n_mtp;
    /* how it is spelled */
    const char *dtype;
    bool merged, fused, ernie_prefix, bias_under_gate, bias_flat, redundant_head, rotary,
        transposed_router, paddle;
    unsigned n_shards; /* 0, 1: one model.safetensors */
    bool no_index;
    const char *config_extra; /* more fields, "\"a\": 1, " */
    /* what is in it */
    checkpoint_tensor tensors[CHECKPOINT_TENSORS_MAX];
    unsigned n;
} checkpoint;

/* ---- Values ---------------------------------------------------------------------------------- */

/* Multiples of 1/256 below 1/2: exact in bf16, f16 and f32. */
static inline float checkpoint_value(const char *what, unsigned layer, unsigned expert, size_t i)
{
    uint64_t z = i * 0x9e3779b97f4a7c15u + layer * 0x100000001b3u + expert * 0xc2b2ae3d27d4eb4fu;
    for (; *what; what++) z = (z ^ (unsigned char)*what) * 0x100000001b3u;
    z = (z ^ z >> 29) * 0xbf58476d1ce4e5b9u;
    return (float)((int)(z >> 56) - 128) / 256.0f;
}

/* ---- The list -------------------------------------------------------------------------------- */

static inline checkpoint_tensor *checkpoint_add(checkpoint *c, const char *name, unsigned n_dims,
                                                size_t a, size_t b, size_t d)
{
    checkpoint_tensor *t = &c->tensors[c->n++];
    if (c->n > CHECKPOINT_TENSORS_MAX) abort();
    memset(t, 0, sizeof *t);
    snprintf(t->name, sizeof t->name, "%.127s", name);
    t->dtype = c->dtype;
    t->n_dims = n_dims;
    t->dims[0] = a;
    t->dims[1] = b;
    t->dims[2] = d;
    t->n = 1;
    for (unsigned i = 0; i < n_dims; i++) t->n *= t->dims[i];
    t->values = calloc(t->n ? t->n : 1, sizeof(float));
    if (!t->values) abort();
    return t;
}

static inline checkpoint_tensor *checkpoint_find(checkpoint *c, const char *name)
{
    for (unsigned i = 0; i < c->n; i++)
        if (strcmp(c->tensors[i].name, name) == 0) return &c->tensors[i];
    return NULL;
}

static inline void checkpoint_remove(checkpoint *c, const char *name)
{
    checkpoint_tensor *t = checkpoint_find(c, name);
    if (!t) abort();
    free(t->values);
    free(t->bytes);
    *t = c->tensors[--c->n];
}

static inline void checkpoint_rename(checkpoint *c, const char *name, const char *to)
{
    checkpoint_tensor *t = checkpoint_find(c, name);
    if (!t) abort();
    snprintf(t->name, sizeof t->name, "%.127s", to);
}

static inline void checkpoint_free(checkpoint *c)
{
    for (unsigned i = 0; i < c->n; i++) {
        free(c->tensors[i].values);
        free(c->tensors[i].bytes);
    }
    c->n = 0;
}

static inline void checkpoint_fill_values(checkpoint_tensor *t, size_t at, size_t n,
                                          const char *what, unsigned layer, unsigned expert)
{
    for (size_t i = 0; i < n; i++) t->values[at + i] = checkpoint_value(what, layer, expert, i);
}

/* "model." + format, or "ernie." + format */
#define CHECKPOINT_NAME(c, text, ...)                                           \
    snprintf(text, sizeof text, "%s", (c)->ernie_prefix ? "ernie." : "model."), \
        snprintf(text + 6, sizeof text - 6, __VA_ARGS__)

static inline void checkpoint_add_matrix(checkpoint *c, const char *name, size_t n_rows,
                                         size_t n_cols, const char *what, unsigned layer,
                                         unsigned expert)
{
    checkpoint_tensor *t = checkpoint_add(c, name, 2, n_rows, n_cols, 0);
    checkpoint_fill_values(t, 0, t->n, what, layer, expert);
}

static inline void checkpoint_add_vector(checkpoint *c, const char *name, size_t n,
                                         const char *what, unsigned layer)
{
    checkpoint_tensor *t = checkpoint_add(c, name, 1, n, 0, 0);
    checkpoint_fill_values(t, 0, t->n, what, layer, 0);
}

/* gate, up and down of one FFN below `stem`. */
static inline void checkpoint_add_ffn(checkpoint *c, const char *stem, size_t width, unsigned layer,
                                      unsigned expert)
{
    char name[128];
    const size_t n = width * c->hidden;
    if (c->fused) {
        snprintf(name, sizeof name, "%.90sup_gate_proj.weight", stem);
        checkpoint_tensor *t = checkpoint_add(c, name, 2, 2 * width, c->hidden, 0);
        checkpoint_fill_values(t, 0, n, "gate", layer, expert);
        checkpoint_fill_values(t, n, n, "up", layer, expert);
    } else {
        snprintf(name, sizeof name, "%.90sgate_proj.weight", stem);
        checkpoint_add_matrix(c, name, width, c->hidden, "gate", layer, expert);
        snprintf(name, sizeof name, "%.90sup_proj.weight", stem);
        checkpoint_add_matrix(c, name, width, c->hidden, "up", layer, expert);
    }
    snprintf(name, sizeof name, "%.90sdown_proj.weight", stem);
    checkpoint_add_matrix(c, name, c->hidden, width, "down", layer, expert);
}

static inline void checkpoint_add_merged(checkpoint *c, unsigned layer)
{
    char name[128];
    const size_t w = c->expert_width, h = c->hidden, n = w * h;
    CHECKPOINT_NAME(c, name, "layers.%u.mlp.experts.gate_up_proj", layer);
    checkpoint_tensor *gate_up = checkpoint_add(c, name, 3, c->n_experts, 2 * w, h);
    CHECKPOINT_NAME(c, name, "layers.%u.mlp.experts.down_proj", layer);
    checkpoint_tensor *down = checkpoint_add(c, name, 3, c->n_experts, h, w);
    for (unsigned e = 0; e < c->n_experts; e++) {
        checkpoint_fill_values(gate_up, 2 * e * n, n, "gate", layer, e + 1);
        checkpoint_fill_values(gate_up, (2 * e + 1) * n, n, "up", layer, e + 1);
        checkpoint_fill_values(down, e * n, n, "down", layer, e + 1);
    }
}

static inline void checkpoint_add_router(checkpoint *c, unsigned layer)
{
    char name[128];
    const size_t e = c->n_experts, h = c->hidden;
    CHECKPOINT_NAME(c, name, "layers.%u.mlp.gate.weight", layer);
    checkpoint_tensor *t = checkpoint_add(c, name, 2, e, h, 0);
    checkpoint_fill_values(t, 0, t->n, "router", layer, 0);
    t->dtype = "F32";
    if (c->transposed_router) {
        t->dims[0] = h;
        t->dims[1] = e;
        for (size_t i = 0; i < t->n; i++)
            t->values[i] = checkpoint_value("router", layer, 0, i % e * h + i / e);
    }
    if (c->no_bias) return;
    CHECKPOINT_NAME(c, name, "layers.%u.mlp.%smoe_statics.e_score_correction_bias", layer,
                    c->bias_under_gate ? "gate." : "");
    t = c->bias_flat ? checkpoint_add(c, name, 1, e, 0, 0) : checkpoint_add(c, name, 2, 1, e, 0);
    t->dtype = "F32";
    checkpoint_fill_values(t, 0, e, "bias", layer, 0);
}

static inline void checkpoint_add_moe(checkpoint *c, unsigned layer)
{
    char name[128];
    checkpoint_add_router(c, layer);
    CHECKPOINT_NAME(c, name, "layers.%u.mlp.shared_experts.", layer);
    if (c->n_shared) checkpoint_add_ffn(c, name, c->n_shared * c->expert_width, layer, 99);
    if (c->merged) {
        checkpoint_add_merged(c, layer);
        return;
    }
    for (unsigned e = 0; e < c->n_experts; e++) {
        CHECKPOINT_NAME(c, name, "layers.%u.mlp.experts.%u.", layer, e);
        checkpoint_add_ffn(c, name, c->expert_width, layer, e + 1);
    }
}

/* base: "layers.3." or "mtp_block.0."; layer: its number in the file */
static inline void checkpoint_add_attention(checkpoint *c, const char *base, unsigned layer)
{
    char name[128];
    const size_t d = c->head_dim, nq = c->n_heads * d, nk = c->n_kv_heads * d, h = c->hidden;
    static const char *const parts[] = { "q", "k", "v" };
    const size_t rows[] = { nq, nk, nk };
    CHECKPOINT_NAME(c, name, "%.40sinput_layernorm.weight", base);
    checkpoint_add_vector(c, name, h, "attn_norm", layer);
    CHECKPOINT_NAME(c, name, "%.40spost_attention_layernorm.weight", base);
    checkpoint_add_vector(c, name, h, "ffn_norm", layer);
    CHECKPOINT_NAME(c, name, "%.40sself_attn.o_proj.weight", base);
    checkpoint_add_matrix(c, name, h, nq, "o", layer, 0);
    CHECKPOINT_NAME(c, name, "%.40sself_attn.rotary_emb.inv_freq", base);
    if (c->rotary) checkpoint_add_vector(c, name, d / 2, "rotary", layer);
    CHECKPOINT_NAME(c, name, "%.40sself_attn.qkv_proj.weight", base);
    checkpoint_tensor *fused = c->fused ? checkpoint_add(c, name, 2, nq + 2 * nk, h, 0) : NULL;
    size_t at = 0;
    for (unsigned i = 0; i < 3; i++) {
        if (fused) {
            checkpoint_fill_values(fused, at, rows[i] * h, parts[i], layer, 0);
            at += rows[i] * h;
            continue;
        }
        CHECKPOINT_NAME(c, name, "%.40sself_attn.%s_proj.weight", base, parts[i]);
        checkpoint_add_matrix(c, name, rows[i], h, parts[i], layer, 0);
    }
}

static inline void checkpoint_add_mtp(checkpoint *c, unsigned i)
{
    char base[128], name[128];
    const unsigned layer = c->n_layers + i;
    CHECKPOINT_NAME(c, name, "mtp_emb_norm.%u.weight", i);
    checkpoint_add_vector(c, name, c->hidden, "emb_norm", layer);
    CHECKPOINT_NAME(c, name, "mtp_hidden_norm.%u.weight", i);
    checkpoint_add_vector(c, name, c->hidden, "hidden_norm", layer);
    CHECKPOINT_NAME(c, name, "mtp_linear_proj.%u.weight", i);
    checkpoint_add_matrix(c, name, c->hidden, 2 * c->hidden, "proj", layer, 0);
    snprintf(base, sizeof base, "mtp_block.%u.", i);
    checkpoint_add_attention(c, base, layer);
    CHECKPOINT_NAME(c, name, "mtp_block.%u.mlp.", i);
    checkpoint_add_ffn(c, name, c->width, layer, 0);
}

/* Numbers that share no factor with 16 or 32, so that every padding is there. */
static inline void checkpoint_begin(checkpoint *c, bool moe)
{
    memset(c, 0, sizeof *c);
    *c = (checkpoint){ .moe = moe,
                       .tied = true,
                       .n_layers = 3,
                       .hidden = 50,
                       .n_heads = 3,
                       .n_kv_heads = 1,
                       .head_dim = 14,
                       .width = 41,
                       .vocab = 300,
                       .dtype = "BF16",
                       .config_extra = "" };
    if (!moe) return;
    c->n_experts = 4;
    c->moe_k = 2;
    c->expert_width = 21;
    c->n_shared = 2;
    c->moe_start = 1;
}

/* [rows][cols] becomes [cols][rows]. */
static inline void checkpoint_turn(checkpoint_tensor *t)
{
    const size_t rows = t->dims[0], cols = t->dims[1];
    float *turned = malloc(t->n * sizeof *turned);
    if (!turned) abort();
    for (size_t i = 0; i < t->n; i++) turned[i % cols * rows + i / cols] = t->values[i];
    free(t->values);
    t->values = turned;
    t->dims[0] = cols;
    t->dims[1] = rows;
}

/* Linears are [in, out], as Paddle saves them. */
static inline void checkpoint_turn_linears(checkpoint *c)
{
    for (unsigned i = 0; i < c->n; i++) {
        checkpoint_tensor *t = &c->tensors[i];
        if (t->n_dims != 2) continue;
        if (strstr(t->name, "_proj.") || (!c->tied && strcmp(t->name, "lm_head.weight") == 0))
            checkpoint_turn(t);
    }
}

/* After the fields are set: build the tensors. */
static inline void checkpoint_build(checkpoint *c)
{
    char base[128], name[128];
    CHECKPOINT_NAME(c, name, "embed_tokens.weight");
    checkpoint_add_matrix(c, name, c->vocab, c->hidden, "embed", 0, 0);
    if (!c->tied || c->redundant_head)
        checkpoint_add_matrix(c, "lm_head.weight", c->vocab, c->hidden, c->tied ? "embed" : "head",
                              0, 0);
    CHECKPOINT_NAME(c, name, "norm.weight");
    checkpoint_add_vector(c, name, c->hidden, "norm", 0);
    for (unsigned layer = 0; layer < c->n_layers; layer++) {
        snprintf(base, sizeof base, "layers.%u.", layer);
        checkpoint_add_attention(c, base, layer);
        CHECKPOINT_NAME(c, name, "layers.%u.mlp.", layer);
        if (c->moe && layer >= c->moe_start)
            checkpoint_add_moe(c, layer);
        else
            checkpoint_add_ffn(c, name, c->width, layer, 0);
    }
    for (unsigned i = 0; i < c->n_mtp; i++) checkpoint_add_mtp(c, i);
    if (c->paddle) checkpoint_turn_linears(c);
    for (unsigned i = 0; i < c->n && c->n_shards > 1; i++)
        c->tensors[i].shard = i * 7 % c->n_shards;
}

/* ---- Files ----------------------------------------------------------------------------------- */

static inline const char *checkpoint_path(const char *dir, const char *name)
{
    static char paths[4][CHECKPOINT_PATH_MAX];
    static unsigned turn;
    char *path = paths[turn++ % 4];
    snprintf(path, CHECKPOINT_PATH_MAX, "%s/%s", dir, name);
    return path;
}

/* Remove what is in `dir`, folders included. */
static inline void checkpoint_clear(const char *dir)
{
    DIR *handle = opendir(dir);
    for (const struct dirent *entry; handle && (entry = readdir(handle)) != NULL;) {
        char path[CHECKPOINT_PATH_MAX];
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        snprintf(path, sizeof path, "%.255s/%.255s", dir, entry->d_name);
        if (unlink(path) == 0) continue;
        checkpoint_clear(path);
        rmdir(path);
    }
    if (handle) closedir(handle);
}

/* A new empty folder for this run. */
static inline int checkpoint_make_dir(char dir[256], const char *what)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, 256, "%.200s/ernie-test-%s-XXXXXX", tmp ? tmp : "/tmp", what);
    return mkdtemp(dir) ? 0 : -1;
}

static inline void checkpoint_put(const char *dir, const char *name, const void *data, size_t n)
{
    FILE *file = fopen(checkpoint_path(dir, name), "wb");
    if (!file || fwrite(data, 1, n, file) != n || fclose(file) != 0) abort();
}

static inline void checkpoint_put_text(const char *dir, const char *name, const char *text)
{
    checkpoint_put(dir, name, text, strlen(text));
}

static inline void checkpoint_write_config(const checkpoint *c, const char *dir)
{
    char text[4096], moe[1024] = "";
    if (c->moe)
        snprintf(moe, sizeof moe,
                 "\"moe_num_experts\": %u, \"moe_k\": %u, \"moe_intermediate_size\": %u,"
                 "\"moe_num_shared_experts\": %u, \"moe_layer_start_index\": %u,"
                 "\"moe_layer_end_index\": -1, \"moe_layer_interval\": 1, ",
                 c->n_experts, c->moe_k, c->expert_width, c->n_shared, c->moe_start);
    snprintf(text, sizeof text,
             "{\"architectures\": [\"%s\"], \"model_type\": \"%s\", \"hidden_size\": %u,"
             "\"num_hidden_layers\": %u, \"num_attention_heads\": %u, \"num_key_value_heads\": %u,"
             "\"head_dim\": %u, \"intermediate_size\": %u, \"vocab_size\": %u,"
             "\"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-5, \"rope_theta\": 500000.0,"
             "\"hidden_act\": \"silu\", \"use_bias\": false, %s%s\"num_nextn_predict_layers\": %u,"
             "\"bos_token_id\": 1, \"eos_token_id\": 2, \"pad_token_id\": 0,"
             "\"tie_word_embeddings\": %s}",
             c->moe ? "Ernie4_5_MoeForCausalLM" : "Ernie4_5ForCausalLM",
             c->moe ? "ernie4_5_moe" : "ernie4_5", c->hidden, c->n_layers, c->n_heads,
             c->n_kv_heads, c->head_dim, c->width, c->vocab, moe, c->config_extra, c->n_mtp,
             c->tied ? "true" : "false");
    checkpoint_put_text(dir, "config.json", text);
}

static inline void checkpoint_shard_name(const checkpoint *c, unsigned shard, char name[64])
{
    if (c->n_shards < 2)
        snprintf(name, 64, "model.safetensors");
    else
        snprintf(name, 64, "model-%05u-of-%05u.safetensors", shard + 1, c->n_shards);
}

static inline size_t checkpoint_encode(const checkpoint_tensor *t, unsigned char *dst)
{
    const size_t size = strcmp(t->dtype, "F32") == 0 ? 4 : 2;
    if (t->bytes) memcpy(dst, t->bytes, t->n_bytes);
    if (t->bytes) return t->n_bytes;
    for (size_t i = 0; i < t->n; i++) {
        const uint16_t half = strcmp(t->dtype, "F16") == 0 ? ern_f32_to_f16(t->values[i])
                                                           : ern_f32_to_bf16(t->values[i]);
        if (size == 4)
            memcpy(dst + 4 * i, &t->values[i], 4);
        else
            memcpy(dst + 2 * i, &half, 2);
    }
    return t->n * size;
}

static inline void checkpoint_write_shard(const checkpoint *c, const char *dir, unsigned shard)
{
    char name[64];
    size_t n_header = 0, n_data = 0, capacity = 64;
    for (unsigned i = 0; i < c->n; i++) capacity += c->tensors[i].n * 4 + 512;
    char *header = malloc(capacity);
    unsigned char *data = malloc(capacity), length[8];
    if (!header || !data) abort();
    n_header += (size_t)sprintf(header, "{\"__metadata__\": {\"format\": \"pt\"}");
    for (unsigned i = 0; i < c->n; i++) {
        const checkpoint_tensor *t = &c->tensors[i];
        if (t->shard != shard) continue;
        const size_t n = checkpoint_encode(t, data + n_data);
        n_header += (size_t)sprintf(header + n_header, ", \"%s\": {\"dtype\": \"%s\", \"shape\": [",
                                    t->name, t->dtype);
        for (unsigned k = 0; k < t->n_dims; k++)
            n_header += (size_t)sprintf(header + n_header, "%s%zu", k ? ", " : "", t->dims[k]);
        n_header += (size_t)sprintf(header + n_header, "], \"data_offsets\": [%zu, %zu]}", n_data,
                                    n_data + n);
        n_data += n;
    }
    n_header += (size_t)sprintf(header + n_header, "}");
    while (n_header % 8 != 0) header[n_header++] = ' ';
    for (unsigned k = 0; k < 8; k++) length[k] = (unsigned char)((uint64_t)n_header >> (8 * k));
    checkpoint_shard_name(c, shard, name);
    FILE *file = fopen(checkpoint_path(dir, name), "wb");
    if (!file || fwrite(length, 1, 8, file) != 8 || fwrite(header, 1, n_header, file) != n_header
        || fwrite(data, 1, n_data, file) != n_data || fclose(file) != 0)
        abort();
    free(header);
    free(data);
}

static inline void checkpoint_write_index(const checkpoint *c, const char *dir)
{
    char shard[64];
    FILE *file = fopen(checkpoint_path(dir, "model.safetensors.index.json"), "wb");
    if (!file) abort();
    fprintf(file, "{\"metadata\": {}, \"weight_map\": {");
    for (unsigned i = 0; i < c->n; i++) {
        checkpoint_shard_name(c, c->tensors[i].shard, shard);
        fprintf(file, "%s\"%s\": \"%s\"", i ? ", " : "", c->tensors[i].name, shard);
    }
    fprintf(file, "}}");
    fclose(file);
}

static inline void checkpoint_write(const checkpoint *c, const char *dir)
{
    mkdir(dir, 0777);
    checkpoint_write_config(c, dir);
    for (unsigned i = 0; i < (c->n_shards < 2 ? 1 : c->n_shards); i++)
        checkpoint_write_shard(c, dir, i);
    if (c->n_shards > 1 && !c->no_index) checkpoint_write_index(c, dir);
}

/* ---- tokenizer.model ------------------------------------------------------------------------- */

typedef struct checkpoint_bytes {
    unsigned char data[16384];
    size_t n;
} checkpoint_bytes;

static inline void checkpoint_varint(checkpoint_bytes *b, uint64_t value)
{
    for (; value >= 0x80; value >>= 7) b->data[b->n++] = (unsigned char)(value | 0x80);
    b->data[b->n++] = (unsigned char)value;
}

static inline void checkpoint_number(checkpoint_bytes *b, unsigned field, uint64_t value)
{
    checkpoint_varint(b, (uint64_t)field << 3);
    checkpoint_varint(b, value);
}

static inline void checkpoint_message(checkpoint_bytes *b, unsigned field, const void *data,
                                      size_t n)
{
    checkpoint_varint(b, (uint64_t)field << 3 | 2);
    checkpoint_varint(b, n);
    memcpy(b->data + b->n, data, n);
    b->n += n;
}

static inline void checkpoint_piece(checkpoint_bytes *b, const char *text, float score,
                                    unsigned type)
{
    checkpoint_bytes piece = { .n = 0 };
    checkpoint_message(&piece, 1, text, strlen(text));
    piece.data[piece.n++] = 2 << 3 | 5;
    memcpy(piece.data + piece.n, &score, 4);
    piece.n += 4;
    if (type != ERN_TOKEN_NORMAL) checkpoint_number(&piece, 3, type);
    checkpoint_message(b, 1, piece.data, piece.n);
}

/* model_type 2 is BPE */
static inline void checkpoint_specs(checkpoint_bytes *b, unsigned model_type)
{
    checkpoint_bytes trainer = { .n = 0 }, normalizer = { .n = 0 };
    checkpoint_number(&trainer, 3, model_type);
    checkpoint_number(&trainer, 35, 1); /* byte fallback */
    checkpoint_number(&trainer, 40, 0);
    checkpoint_message(b, 2, trainer.data, trainer.n);
    checkpoint_message(&normalizer, 1, "identity", 8);
    checkpoint_number(&normalizer, 3, 0);
    checkpoint_number(&normalizer, 4, 0);
    checkpoint_message(b, 3, normalizer.data, normalizer.n);
}

/* <unk> <s> </s>, 256 bytes, then "a", "b", "ab": 262 pieces */
static inline void checkpoint_tokenizer(checkpoint_bytes *b, unsigned model_type)
{
    char text[8];
    b->n = 0;
    checkpoint_piece(b, "<unk>", 0, ERN_TOKEN_UNKNOWN);
    checkpoint_piece(b, "<s>", 0, ERN_TOKEN_CONTROL);
    checkpoint_piece(b, "</s>", 0, ERN_TOKEN_CONTROL);
    for (unsigned i = 0; i < 256; i++) {
        snprintf(text, sizeof text, "<0x%02X>", i);
        checkpoint_piece(b, text, 0, ERN_TOKEN_BYTE);
    }
    checkpoint_piece(b, "a", -1, ERN_TOKEN_NORMAL);
    checkpoint_piece(b, "b", -2, ERN_TOKEN_NORMAL);
    checkpoint_piece(b, "ab", 0, ERN_TOKEN_NORMAL);
    checkpoint_specs(b, model_type);
}

#endif
