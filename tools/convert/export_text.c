/* Keys as llama.cpp's loader reads them. The vocabulary is as long as the embedding: its length is how
 * that loader knows the number of rows. */
#include "export_text.h"

#define EXPORT_QUANTIZATION_VERSION 2u         /* of ggml's block types */
#define EXPORT_SCORE_ADDED          (-1000.0f) /* so that merges make such a token last of all */
#define EXPORT_SCORE_PAD            (-10000.0f)

/* "ernie4_5-moe.block_count" */
typedef struct export_key {
    char text[64];
} export_key;

static export_key export_key_of(const ern_hparams *h, const char *end)
{
    export_key key;
    snprintf(key.text, sizeof key.text, "%s.%s", h->n_experts ? "ernie4_5-moe" : "ernie4_5", end);
    return key;
}

/* ---- General --------------------------------------------------------------------------------- */

static void export_text(conv_gguf_out *out, const char *key, const char *text)
{
    conv_gguf_out_text(out, key, text, strlen(text));
}

static void export_general(conv_gguf_out *out, const ern_header *header,
                           const conv_export_type *type)
{
    export_text(out, "general.architecture",
                header->hparams.n_experts ? "ernie4_5-moe" : "ernie4_5");
    export_text(out, "general.type", "model");
    if (header->name[0]) export_text(out, "general.name", header->name);
    conv_gguf_out_u32(out, "general.file_type", type->file_type);
    conv_gguf_out_u32(out, "general.quantization_version", EXPORT_QUANTIZATION_VERSION);
}

static void export_sampling(conv_gguf_out *out, const ern_generation *g)
{
    if (!g) return;
    if (!g->do_sample || g->temperature > 0)
        conv_gguf_out_f32(out, "general.sampling.temp", g->do_sample ? g->temperature : 0);
    if (g->top_p > 0) conv_gguf_out_f32(out, "general.sampling.top_p", g->top_p);
    if (g->top_k > 0 && g->top_k <= INT32_MAX)
        conv_gguf_out_i32(out, "general.sampling.top_k", (int32_t)g->top_k);
    if (g->repetition_penalty > 0)
        conv_gguf_out_f32(out, "general.sampling.penalty_repeat", g->repetition_penalty);
}

/* ---- Architecture ---------------------------------------------------------------------------- */

typedef struct export_number {
    const char *end;
    uint32_t value;
} export_number;

static void export_numbers(conv_gguf_out *out, const ern_hparams *h, const export_number *numbers,
                           size_t n)
{
    for (size_t i = 0; i < n; i++)
        conv_gguf_out_u32(out, export_key_of(h, numbers[i].end).text, numbers[i].value);
}

static void export_architecture(conv_gguf_out *out, const ern_hparams *h)
{
    const export_number all[] = {
        { "block_count", h->n_layers },
        { "context_length", h->context_max },
        { "embedding_length", h->hidden_size },
        { "feed_forward_length", h->intermediate_size },
        { "vocab_size", h->vocab_size },
        { "attention.head_count", h->n_heads },
        { "attention.head_count_kv", h->n_kv_heads },
        { "attention.key_length", h->head_dim },
        { "attention.value_length", h->head_dim },
        { "rope.dimension_count", h->head_dim },
    };
    const export_number moe[] = {
        { "expert_count", h->n_experts },
        { "expert_used_count", h->moe_k },
        { "expert_feed_forward_length", h->moe_intermediate_size },
        { "expert_shared_count", h->n_shared_experts },
        { "interleave_moe_layer_step", h->moe_layer_interval },
        { "leading_dense_block_count", h->moe_layer_start },
    };
    export_numbers(out, h, all, ERN_COUNT(all));
    conv_gguf_out_f32(out, export_key_of(h, "rope.freq_base").text, (float)h->rope_theta);
    conv_gguf_out_f32(out, export_key_of(h, "attention.layer_norm_rms_epsilon").text,
                      h->rms_norm_eps);
    if (h->n_experts == 0) return;
    export_numbers(out, h, moe, ERN_COUNT(moe));
    if (h->n_shared_experts > 0) {
        const export_number shared = { "expert_shared_feed_forward_length",
                                       h->shared_intermediate_size };
        export_numbers(out, h, &shared, 1);
    }
}

/* ---- Vocabulary ------------------------------------------------------------------------------ */

static void export_pieces(conv_gguf_out *out, const ern_tokenizer *tokenizer, uint32_t n_tokens,
                          uint32_t vocab_size)
{
    char pad[24];
    conv_gguf_out_array(out, "tokenizer.ggml.tokens", CONV_GGUF_STRING, vocab_size);
    for (uint32_t i = 0; i < n_tokens; i++) {
        size_t n;
        const char *piece = ern_tokenizer_piece(tokenizer, (int32_t)i, &n);
        conv_gguf_out_item_text(out, piece, n);
    }
    for (uint32_t i = n_tokens; i < vocab_size; i++) {
        const int n = snprintf(pad, sizeof pad, "[PAD%u]", (unsigned)i);
        conv_gguf_out_item_text(out, pad, (size_t)n);
    }
}

static void export_scores(conv_gguf_out *out, const ern_tokenizer *tokenizer,
                          const ern_tokenizer_head *head, uint32_t vocab_size)
{
    const float *scores = (const float *)(const void *)(head + 1); /* [n_tokens] */
    conv_gguf_out_array(out, "tokenizer.ggml.scores", CONV_GGUF_F32, vocab_size);
    for (uint32_t i = 0; i < head->n_tokens; i++) {
        const bool added = ern_tokenizer_type(tokenizer, (int32_t)i) == ERN_TOKEN_ADDED;
        conv_gguf_out_item_f32(out, added ? EXPORT_SCORE_ADDED : scores[i]);
    }
    for (uint32_t i = head->n_tokens; i < vocab_size; i++)
        conv_gguf_out_item_f32(out, EXPORT_SCORE_PAD);
}

/* SentencePiece's numbers are GGUF's; a token added beside the model is found only where special tokens
 * are, as control tokens are. */
static void export_token_types(conv_gguf_out *out, const ern_tokenizer *tokenizer,
                               uint32_t n_tokens, uint32_t vocab_size)
{
    conv_gguf_out_array(out, "tokenizer.ggml.token_type", CONV_GGUF_I32, vocab_size);
    for (uint32_t i = 0; i < n_tokens; i++) {
        const unsigned type = ern_tokenizer_type(tokenizer, (int32_t)i);
        conv_gguf_out_item_u32(out, type == ERN_TOKEN_ADDED ? CONV_GGUF_TOKEN_CONTROL : type);
    }
    for (uint32_t i = n_tokens; i < vocab_size; i++)
        conv_gguf_out_item_u32(out, CONV_GGUF_TOKEN_UNUSED);
}

static void export_id(conv_gguf_out *out, const char *key, int32_t id)
{
    if (id >= 0) conv_gguf_out_u32(out, key, (uint32_t)id);
}

/* The "llama" tokenizer of other programs always escapes spaces and falls back to bytes, and has no
 * other rule than the space before the text. */
static void export_warn_rules(const ern_tokenizer_head *head, const ern_log *log)
{
    const uint32_t flags = head->flags;
    const struct {
        bool there;
        const char *what;
    } rules[] = {
        { (flags & ERN_TOKENIZER_REMOVE_EXTRA_SPACES) != 0, "extra spaces are removed" },
        { (flags & ERN_TOKENIZER_SPACE_SUFFIX) != 0, "spaces end a piece" },
        { (flags & ERN_TOKENIZER_ESCAPE_SPACES) == 0, "spaces are not escaped" },
        { (flags & ERN_TOKENIZER_BYTE_FALLBACK) == 0, "there is no byte fallback" },
        { head->charsmap_bytes > 0, "characters are normalized" },
    };
    for (size_t i = 0; i < ERN_COUNT(rules); i++)
        if (rules[i].there)
            ern_log_write(log, ERNIE_LOG_WARN,
                          "tokenizer: %s, which a GGUF file cannot say: other programs may read "
                          "texts as other tokens",
                          rules[i].what);
}

static void export_vocabulary(conv_gguf_out *out, const ernie_model *model, const ern_log *log)
{
    const ern_tokenizer_head *head = model->format.tokenizer;
    const ern_hparams *h = &model->format.header->hparams;
    export_text(out, "tokenizer.ggml.model", "llama");
    export_text(out, "tokenizer.ggml.pre", "default");
    export_pieces(out, model->tokenizer, head->n_tokens, h->vocab_size);
    export_scores(out, model->tokenizer, head, h->vocab_size);
    export_token_types(out, model->tokenizer, head->n_tokens, h->vocab_size);
    export_id(out, "tokenizer.ggml.bos_token_id", h->bos_id);
    export_id(out, "tokenizer.ggml.eos_token_id", h->eos_id);
    export_id(out, "tokenizer.ggml.padding_token_id", h->pad_id);
    export_id(out, "tokenizer.ggml.unknown_token_id", head->unk_id);
    if (model->chat.turn_end_id != h->eos_id)
        export_id(out, "tokenizer.ggml.eot_token_id", model->chat.turn_end_id);
    /* Where these are missing, readers take the first and the last for true. */
    conv_gguf_out_bool(out, "tokenizer.ggml.add_bos_token", false);
    conv_gguf_out_bool(out, "tokenizer.ggml.add_eos_token", false);
    conv_gguf_out_bool(out, "tokenizer.ggml.add_space_prefix",
                       (head->flags & ERN_TOKENIZER_DUMMY_PREFIX) != 0);
    export_warn_rules(head, log);
}

ERN_FN void conv_export_pairs(conv_gguf_out *out, const ernie_model *model,
                              const conv_export_type *type, const ern_log *log)
{
    const ern_format *format = &model->format;
    export_general(out, format->header, type);
    export_sampling(out, format->generation);
    export_architecture(out, &format->header->hparams);
    if (format->tokenizer)
        export_vocabulary(out, model, log);
    else
        export_text(out, "tokenizer.ggml.model", "none");
    if (format->chat && format->chat->template_bytes > 0)
        conv_gguf_out_text(out, "tokenizer.chat_template", (const char *)(format->chat + 1),
                           format->chat->template_bytes);
}
