/* tokenizer.model gives the pieces; the JSON files add tokens beyond them. The finished section
 * goes once through the library's own reader, so that what is written can be opened. */
#include "tokenizer_files.h"
#include "../../src/chat.h"
#include "json.h"

#define TF_MODEL_BYTES_MAX ((uint64_t)64 << 20)

static const char tf_config_file[] = "tokenizer_config.json";
static const char tf_added_file[] = "added_tokens.json";

typedef struct tf_load {
    const char *dir;
    uint32_t vocab_size;
    const ernie_allocator *allocator;
    conv_vocab vocab;
    json_t *config; /* tokenizer_config.json or NULL */
    ernie_error *error;
} tf_load;

/* ---- Pieces ---------------------------------------------------------------------------------- */

static ernie_status tf_read_model(tf_load *load, bool *found)
{
    static const char *const names[] = { "tokenizer.model", "spm.model", "ernie_token_100k.model" };
    conv_path path;
    conv_bytes bytes = { .allocator = load->allocator };
    *found = false;
    for (size_t i = 0; i < ERN_COUNT(names); i++) {
        ernie_status status = conv_path_join(&path, load->dir, names[i], load->error);
        if (status != ERNIE_OK) return status;
        if (!conv_file_exists(path.text)) continue;
        *found = true;
        status = conv_file_load(&bytes, path.text, TF_MODEL_BYTES_MAX, load->error);
        if (status == ERNIE_OK)
            status = conv_sentencepiece_read(&load->vocab, bytes.data, bytes.n, load->vocab_size,
                                             names[i], load->error);
        conv_bytes_free(&bytes);
        return status;
    }
    return ERNIE_OK;
}

static bool tf_is_one_character(const char *text, size_t n)
{
    size_t n_characters = 0;
    for (size_t i = 0; i < n; i++) n_characters += ((unsigned char)text[i] & 0xc0) != 0x80;
    return n_characters < 2;
}

/* A token that a JSON file gives an id. Where tokenizer.model has that id, both must agree; a
 * longer piece that the files call special is one that texts are split at, not one that merges. */
static ernie_status tf_add_token(tf_load *load, const char *file, const char *text, size_t n,
                                 long long id, bool special)
{
    conv_vocab *vocab = &load->vocab;
    ERN_FAIL_IF(id < 0 || id >= (long long)load->vocab_size, load->error, ERNIE_FORMAT,
                "%s: token \"%.64s\" has id %lld, vocab_size is %u", file, text, id,
                (unsigned)load->vocab_size);
    ERN_FAIL_IF(n == 0 || n > ERN_TOKEN_TEXT_MAX, load->error, ERNIE_FORMAT,
                "%s: token %lld has %zu bytes, expected 1 to %u", file, id, n, ERN_TOKEN_TEXT_MAX);
    conv_piece *piece = (size_t)id < vocab->n ? &vocab->pieces[id] : NULL;
    if (piece && piece->type) {
        const bool same =
            piece->n_text == n && memcmp(vocab->text.data + piece->text, text, n) == 0;
        ERN_FAIL_IF(!same, load->error, ERNIE_FORMAT,
                    "%s: id %lld is \"%.64s\", but \"%.*s\" before", file, id, text,
                    (int)ern_min_size(piece->n_text, 64),
                    (const char *)vocab->text.data + piece->text);
        if (special && piece->type == ERN_TOKEN_NORMAL && !tf_is_one_character(text, n))
            piece->type = ERN_TOKEN_ADDED;
        return ERNIE_OK;
    }
    ERN_FAIL_IF(!conv_vocab_set(vocab, (size_t)id, text, n, 0, ERN_TOKEN_ADDED), load->error,
                ERNIE_NO_MEMORY, "%s: no memory for token %lld", file, id);
    return ERNIE_OK;
}

/* added_tokens.json: {"text": id} */
static ernie_status tf_read_added(tf_load *load)
{
    json_t *root;
    ernie_status status =
        conv_json_load(&root, load->dir, tf_added_file, false, load->allocator, load->error);
    for (void *walk = json_object_iter(root); walk && status == ERNIE_OK;
         walk = json_object_iter_next(root, walk)) {
        const char *text = json_object_iter_key(walk);
        const json_t *id = json_object_iter_value(walk);
        if (json_is_integer(id))
            status =
                tf_add_token(load, tf_added_file, text, strlen(text), json_integer_value(id), true);
        else
            status = ern_error_set(load->error, ERNIE_FORMAT,
                                   "%s: the id of \"%.64s\" is not a number", tf_added_file, text);
    }
    json_decref(root);
    return status;
}

static bool tf_parse_id(const char *text, long long *id)
{
    char *end;
    if (text[0] < '0' || text[0] > '9' || strlen(text) > 10) return false;
    *id = strtoll(text, &end, 10);
    return *end == '\0';
}

/* tokenizer_config.json: "added_tokens_decoder": {"id": {"content": text, "special": bool, ..}} */
static ernie_status tf_read_decoder(tf_load *load)
{
    long long id;
    json_t *decoder = json_object_get(load->config, "added_tokens_decoder");
    ERN_FAIL_IF(decoder && !json_is_object(decoder), load->error, ERNIE_FORMAT,
                "%s: added_tokens_decoder is not an object", tf_config_file);
    for (void *walk = json_object_iter(decoder); walk;
         walk = json_object_iter_next(decoder, walk)) {
        const char *key = json_object_iter_key(walk);
        const json_t *entry = json_object_iter_value(walk),
                     *content = json_object_get(entry, "content");
        ERN_FAIL_IF(!tf_parse_id(key, &id) || !json_is_string(content), load->error, ERNIE_FORMAT,
                    "%s: added_tokens_decoder[\"%.32s\"] has no id or no content", tf_config_file,
                    key);
        const ernie_status status = tf_add_token(load, tf_config_file, json_string_value(content),
                                                 json_string_length(content), id,
                                                 json_is_true(json_object_get(entry, "special")));
        if (status != ERNIE_OK) return status;
    }
    return ERNIE_OK;
}

/* ---- Chat template --------------------------------------------------------------------------- */

static bool tf_add_string(conv_bytes *text, const json_t *value)
{
    return conv_bytes_add(text, json_string_value(value), json_string_length(value));
}

/* A string, or a list of {"name", "template"} of which "default" counts. */
static ernie_status tf_read_template_value(tf_load *load, const char *file, const json_t *value,
                                           conv_bytes *text)
{
    const json_t *chosen = json_is_string(value) ? value : NULL;
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *entry = json_array_get(value, i);
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name && strcmp(name, "default") == 0) chosen = json_object_get(entry, "template");
    }
    if (!value) return ERNIE_OK;
    ERN_FAIL_IF(!json_is_string(chosen) && !json_is_array(value), load->error, ERNIE_FORMAT,
                "%s: chat_template is neither a string nor a list", file);
    if (!json_is_string(chosen)) return ERNIE_OK;
    ERN_FAIL_IF(!tf_add_string(text, chosen), load->error, ERNIE_NO_MEMORY,
                "%s: no memory for the chat template", file);
    return ERNIE_OK;
}

/* Newer checkpoints keep the template in a file of its own, which then counts. */
static ernie_status tf_read_template(tf_load *load, conv_bytes *text)
{
    static const char jinja[] = "chat_template.jinja", in_json[] = "chat_template.json";
    conv_path path;
    json_t *root = NULL;
    ernie_status status = conv_path_join(&path, load->dir, jinja, load->error);
    if (status != ERNIE_OK) return status;
    if (conv_file_exists(path.text))
        return conv_file_load(text, path.text, CONV_TEMPLATE_BYTES_MAX, load->error);
    status = tf_read_template_value(load, tf_config_file,
                                    conv_json_get(load->config, "chat_template"), text);
    if (status != ERNIE_OK || text->n > 0) return status;
    status = conv_json_load(&root, load->dir, in_json, false, load->allocator, load->error);
    if (status == ERNIE_OK)
        status = tf_read_template_value(load, in_json, conv_json_get(root, "chat_template"), text);
    json_decref(root);
    return status;
}

static ernie_status tf_choose_format(const char *given, const conv_bytes *text, const ern_log *log,
                                     uint32_t *format, const char **turn_end, ernie_error *error)
{
    static const char *const names[] = { "none", "plain", "thinking" };
    static const char *const turn_ends[] = { NULL, "<|end_of_sentence|>", "<|im_end|>" };
    const ernie_chat_format recognised =
        text->n == 0 ? ERNIE_CHAT_NONE
                     : ern_chat_recognise((const char *)text->data, text->n, turn_end);
    *format = (uint32_t)recognised;
    if (!given) {
        if (text->n > 0 && recognised == ERNIE_CHAT_NONE)
            ern_log_write(log, ERNIE_LOG_WARN,
                          "the chat template is unknown: the model will take raw prompts only");
        return ERNIE_OK;
    }
    for (uint32_t i = 0; i < ERN_COUNT(names); i++) {
        if (strcmp(given, names[i]) != 0) continue;
        if (*format != i || !*turn_end) *turn_end = turn_ends[i];
        *format = i;
        return ERNIE_OK;
    }
    return ern_error_set(error, ERNIE_INVALID,
                         "chat format \"%.32s\" is unknown: plain, thinking or none", given);
}

static int32_t tf_find(const ern_tokenizer *tokenizer, const char *text)
{
    return tokenizer && text ? ern_tokenizer_find(tokenizer, text, strlen(text)) : -1;
}

static ernie_status tf_write_chat(conv_text_files *files, const ern_tokenizer *tokenizer,
                                  const conv_bytes *text, const char *chat, const ern_log *log,
                                  ernie_error *error)
{
    ern_chat_head head = { .begin_id = -1, .turn_end_id = -1 };
    const char *turn_end = NULL;
    const ernie_status status = tf_choose_format(chat, text, log, &head.format, &turn_end, error);
    if (status != ERNIE_OK) return status;
    if (head.format == ERNIE_CHAT_PLAIN)
        head.begin_id = tf_find(tokenizer, "<|begin_of_sentence|>");
    head.turn_end_id = tf_find(tokenizer, turn_end);
    head.template_bytes = (uint32_t)text->n;
    files->turn_end_id = head.turn_end_id;
    ERN_FAIL_IF(!conv_bytes_add(&files->chat, &head, sizeof head)
                    || !conv_bytes_add(&files->chat, text->data, text->n),
                error, ERNIE_NO_MEMORY, "no memory for the chat template");
    return ERNIE_OK;
}

/* ---- The whole ------------------------------------------------------------------------------- */

ERN_FN void conv_text_files_begin(conv_text_files *files, const ernie_allocator *allocator)
{
    *files = (conv_text_files){ .tokenizer = { .allocator = allocator },
                                .chat = { .allocator = allocator },
                                .turn_end_id = -1 };
}

ERN_FN ernie_status conv_text_files_write(conv_text_files *files, const conv_vocab *vocab,
                                          const conv_bytes *chat_template, const char *chat,
                                          const ernie_allocator *allocator, const ern_log *log,
                                          ernie_error *error)
{
    ern_tokenizer *tokenizer = NULL;
    ernie_status status = ERNIE_OK;
    if (vocab) {
        ERN_FAIL_IF(!conv_vocab_write(vocab, &files->tokenizer), error, ERNIE_NO_MEMORY,
                    "no memory for a tokenizer of %zu pieces", vocab->n);
        status = ern_tokenizer_open(&tokenizer, files->tokenizer.data, files->tokenizer.n,
                                    allocator, error);
    }
    if (status == ERNIE_OK)
        status = tf_write_chat(files, tokenizer, chat_template, chat, log, error);
    ern_tokenizer_close(tokenizer);
    return status;
}

ERN_FN ernie_status conv_text_files_load(conv_text_files *files, const char *dir,
                                         uint32_t vocab_size, const char *chat,
                                         const ernie_allocator *allocator, const ern_log *log,
                                         ernie_error *error)
{
    bool found = false;
    conv_bytes text = { .allocator = allocator };
    tf_load load = { .dir = dir, .vocab_size = vocab_size, .allocator = allocator, .error = error };
    conv_text_files_begin(files, allocator);
    conv_vocab_begin(&load.vocab, allocator);
    ernie_status status =
        conv_json_load(&load.config, dir, tf_config_file, false, allocator, error);
    if (status == ERNIE_OK) status = tf_read_model(&load, &found);
    if (status == ERNIE_OK && !found)
        ern_log_write(log, ERNIE_LOG_WARN,
                      "no tokenizer.model: the model will take and give token ids only");
    if (status == ERNIE_OK && found) status = tf_read_added(&load);
    if (status == ERNIE_OK && found) status = tf_read_decoder(&load);
    if (status == ERNIE_OK) status = tf_read_template(&load, &text);
    if (status == ERNIE_OK)
        status = conv_text_files_write(files, found ? &load.vocab : NULL, &text, chat, allocator,
                                       log, error);
    conv_bytes_free(&text);
    conv_vocab_free(&load.vocab);
    json_decref(load.config);
    return status;
}

ERN_FN void conv_text_files_free(conv_text_files *files)
{
    conv_bytes_free(&files->tokenizer);
    conv_bytes_free(&files->chat);
}

#undef TF_MODEL_BYTES_MAX
