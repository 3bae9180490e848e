/* A session on disk: a header, the tokens, the logits, keys and values layer by layer, and an
 * XXH3-64 of all of it at the end. Tied to the model by the identity of its weights and by its
 * architecture numbers, and to the cache's type. */
#include "session.h"

#define SESSION_MAGIC        "ERNSESS\x1a"
#define SESSION_FILE_VERSION 2u /* 1: q8 had other rows */
#define SESSION_FILE_BUFFER  ((size_t)1 << 20) /* about what an open file takes */

typedef struct session_head {
    char magic[8];
    uint32_t version;
    uint32_t kv; /* ern_kv */
    uint32_t n_tokens;
    uint32_t has_logits;
    uint32_t n_layers, n_kv_heads, head_dim, vocab_size;
    uint8_t weights_id[16];
    uint64_t hparams_hash; /* the same weights mean something else with another rope_theta */
} session_head;

_Static_assert(sizeof(session_head) == 64, "session_head");

static session_head session_head_of(const ernie_session *s)
{
    const ern_header *h = s->model->format.header;
    session_head head = { .version = SESSION_FILE_VERSION,
                          .kv = s->state_options.kv,
                          .n_tokens = (uint32_t)s->n_tokens,
                          .has_logits = s->has_logits,
                          .n_layers = h->hparams.n_layers,
                          .n_kv_heads = h->hparams.n_kv_heads,
                          .head_dim = h->hparams.head_dim,
                          .vocab_size = h->hparams.vocab_size };
    memcpy(head.magic, SESSION_MAGIC, sizeof head.magic);
    memcpy(head.weights_id, h->weights_id, sizeof head.weights_id);
    head.hparams_hash = ern_hash64(&h->hparams, sizeof h->hparams);
    return head;
}

/* Keys and values of one layer, as the backend copies them. */
static size_t session_layer_bytes(const session_head *head)
{
    const ern_kv kv = (ern_kv)head->kv;
    return (size_t)head->n_kv_heads * head->n_tokens
           * (ern_kv_key_bytes(kv, head->head_dim) + ern_kv_value_bytes(kv, head->head_dim));
}

/* ---- Save ---------------------------------------------------------------------------------- */

static ernie_status session_put(ern_file_out *file, ern_hash *hash, const void *data, size_t n,
                                ernie_error *error)
{
    ern_hash_add(hash, data, n);
    return ern_file_out_write(file, data, n, error);
}

static ernie_status session_write(const ernie_session *s, ern_file_out *file, void *layer,
                                  ernie_error *error)
{
    const session_head head = session_head_of(s);
    ern_hash hash;
    ern_hash_begin(&hash);
    ernie_status status = session_put(file, &hash, &head, sizeof head, error);
    if (status == ERNIE_OK)
        status = session_put(file, &hash, s->tokens, s->n_tokens * sizeof *s->tokens, error);
    if (status == ERNIE_OK && s->has_logits)
        status = session_put(file, &hash, s->logits, head.vocab_size * sizeof *s->logits, error);
    for (uint32_t i = 0; status == ERNIE_OK && i < head.n_layers; i++) {
        s->model->ops->kv_read(s->state, i, head.n_tokens, layer);
        status = session_put(file, &hash, layer, session_layer_bytes(&head), error);
    }
    const uint64_t checksum = ern_hash_end64(&hash);
    if (status == ERNIE_OK) status = ern_file_out_write(file, &checksum, sizeof checksum, error);
    return status;
}

static ernie_status session_save(const ernie_session *s, const char *path, size_t bytes,
                                 ernie_error *error)
{
    ern_file_out *file = NULL;
    void *layer = ern_alloc(&s->allocator, bytes);
    ERN_FAIL_IF(!layer, error, ERNIE_NO_MEMORY, "no memory for %zu bytes of keys and values",
                bytes);
    ernie_status status = ern_file_out_open(&file, path, &s->allocator, error);
    if (status == ERNIE_OK) {
        status = session_write(s, file, layer, error);
        if (status == ERNIE_OK)
            status = ern_file_out_commit(file, error);
        else
            ern_file_out_abandon(file);
    }
    ern_free(&s->allocator, layer, bytes);
    return status;
}

ERN_FN ernie_status ern_session_save(const ernie_session *s, const char *path, ernie_error *error)
{
    const session_head head = session_head_of(s);
    const size_t bytes = ern_max_size(1, session_layer_bytes(&head));
    ernie_status status = ern_model_borrow(s->model, bytes + SESSION_FILE_BUFFER, error);
    if (status != ERNIE_OK) return status;
    status = session_save(s, path, bytes, error);
    ern_model_give_back(s->model, bytes + SESSION_FILE_BUFFER);
    return status;
}

/* ---- Load ---------------------------------------------------------------------------------- */

static ernie_status session_get(ern_file_in *file, ern_hash *hash, void *data, size_t n,
                                ernie_error *error)
{
    const ernie_status status = ern_file_in_read(file, data, n, error);
    if (status == ERNIE_OK) ern_hash_add(hash, data, n);
    return status;
}

static ernie_status session_check_head(const ernie_session *s, const char *path,
                                       const session_head *head, uint64_t n_bytes,
                                       ernie_error *error)
{
    static const char *const kinds[ERN_N_KV] = { "an f16", "an f32", "a q8", "a q4" };
    const session_head own = session_head_of(s);
    path = ern_path_end(path);
    ERN_FAIL_IF(memcmp(head->magic, own.magic, sizeof own.magic) != 0, error, ERNIE_FORMAT,
                "\"%s\" is not a session file", path);
    ERN_FAIL_IF(head->version != SESSION_FILE_VERSION, error, ERNIE_UNSUPPORTED,
                "\"%s\" has session version %u; this library reads version %u", path, head->version,
                SESSION_FILE_VERSION);
    ERN_FAIL_IF(head->has_logits > 1, error, ERNIE_FORMAT,
                "\"%s\" says %u for having logits, must be 0 or 1", path, head->has_logits);
    const uint8_t *saved = head->weights_id, *id = own.weights_id;
    ERN_FAIL_IF(
        memcmp(saved, id, sizeof own.weights_id) != 0, error, ERNIE_MISMATCH,
        "\"%s\" was saved with another model, id %02x%02x%02x%02x..., not %02x%02x%02x%02x...",
        path, saved[0], saved[1], saved[2], saved[3], id[0], id[1], id[2], id[3]);
    ERN_FAIL_IF(head->hparams_hash != own.hparams_hash || head->n_layers != own.n_layers
                    || head->n_kv_heads != own.n_kv_heads || head->head_dim != own.head_dim
                    || head->vocab_size != own.vocab_size,
                error, ERNIE_MISMATCH,
                "\"%s\" was saved with another model: the same weights, other architecture numbers",
                path);
    ERN_FAIL_IF(head->kv >= ERN_N_KV, error, ERNIE_UNSUPPORTED,
                "\"%s\" holds a cache of type %u; this library knows 0 to %u", path, head->kv,
                (unsigned)ERN_N_KV - 1);
    ERN_FAIL_IF(head->kv != own.kv, error, ERNIE_MISMATCH,
                "\"%s\" holds %s cache, the session %s one", path, kinds[head->kv], kinds[own.kv]);
    ERN_FAIL_IF(head->n_tokens > s->state_options.n_ctx, error, ERNIE_FULL,
                "\"%s\" holds %u tokens, the context has room for %u", path, head->n_tokens,
                s->state_options.n_ctx);
    const uint64_t expected = sizeof *head + 4 * (uint64_t)head->n_tokens
                              + (head->has_logits ? 4 * (uint64_t)head->vocab_size : 0)
                              + (uint64_t)head->n_layers * session_layer_bytes(head) + 8;
    ERN_FAIL_IF(n_bytes != expected, error, ERNIE_FORMAT,
                "\"%s\" has %llu bytes, its header says %llu", path, (unsigned long long)n_bytes,
                (unsigned long long)expected);
    return ERNIE_OK;
}

static ernie_status session_read(ernie_session *s, const char *path, const session_head *head,
                                 ern_file_in *file, ern_hash *hash, void *layer, ernie_error *error)
{
    uint64_t checksum = 0;
    ernie_status status =
        session_get(file, hash, s->tokens, head->n_tokens * sizeof *s->tokens, error);
    if (status == ERNIE_OK && head->has_logits)
        status = session_get(file, hash, s->logits, head->vocab_size * sizeof *s->logits, error);
    for (uint32_t i = 0; status == ERNIE_OK && i < head->n_layers; i++) {
        status = session_get(file, hash, layer, session_layer_bytes(head), error);
        if (status == ERNIE_OK) s->model->ops->kv_write(s->state, i, head->n_tokens, layer);
    }
    if (status == ERNIE_OK) status = ern_file_in_read(file, &checksum, sizeof checksum, error);
    if (status != ERNIE_OK) return status;
    const uint64_t actual = ern_hash_end64(hash);
    ERN_FAIL_IF(checksum != actual, error, ERNIE_CORRUPT,
                "\"%s\" is damaged: its checksum is %016llx, the file says %016llx",
                ern_path_end(path), (unsigned long long)actual, (unsigned long long)checksum);
    for (uint32_t i = 0; i < head->n_tokens; i++)
        ERN_FAIL_IF(s->tokens[i] < 0 || (uint32_t)s->tokens[i] >= head->vocab_size, error,
                    ERNIE_FORMAT, "\"%s\": token %u has id %d; ids are 0 to %u", ern_path_end(path),
                    i, (int)s->tokens[i], head->vocab_size - 1);
    ern_session_mask(s->model, s->logits, head->has_logits);
    s->n_tokens = head->n_tokens;
    s->has_logits = head->has_logits != 0;
    return ERNIE_OK;
}

ERN_FN ernie_status ern_session_load(ernie_session *s, const char *path, ernie_error *error)
{
    session_head head;
    ern_hash hash;
    uint64_t n_bytes = 0;
    ern_file_in *file = NULL;
    void *layer = NULL;
    size_t bytes = 0, borrowed = 0;
    s->n_tokens = 0;
    s->has_logits = false;
    ern_hash_begin(&hash);
    ernie_status status = ern_file_in_open(&file, path, &s->allocator, &n_bytes, error);
    if (status != ERNIE_OK) return status;
    if (n_bytes < sizeof head)
        status =
            ern_error_set(error, ERNIE_FORMAT, "\"%s\" has %llu bytes, a session file at least %zu",
                          ern_path_end(path), (unsigned long long)n_bytes, sizeof head);
    if (status == ERNIE_OK) status = session_get(file, &hash, &head, sizeof head, error);
    if (status == ERNIE_OK) status = session_check_head(s, path, &head, n_bytes, error);
    if (status != ERNIE_OK) goto done;
    bytes = ern_max_size(1, session_layer_bytes(&head));
    status = ern_model_borrow(s->model, bytes, error);
    if (status != ERNIE_OK) goto done;
    borrowed = bytes;
    layer = ern_alloc(&s->allocator, bytes);
    if (!layer) {
        status = ern_error_set(error, ERNIE_NO_MEMORY, "no memory for %zu bytes of keys and values",
                               bytes);
        goto done;
    }
    status = session_read(s, path, &head, file, &hash, layer, error);

done:
    ern_free(&s->allocator, layer, bytes);
    ern_file_in_close(file);
    if (borrowed) ern_model_give_back(s->model, borrowed);
    return status;
}
