/* Text to ids: the way in, and what the files of this room share.
 *
 * Owns lists of ids, the search for pieces that are found whole, and the cutting of a text into
 * runs between special tokens; token_normal.c turns a run into the text that the model was trained
 * on, token_merge.c that text into pieces, token_build.c makes the tables, token_decode.c goes
 * back. Refuses to know: files, chats, models.
 *
 * The one idea: several stretches of text, trusted and not, are read as one text, so that merges
 * happen across their borders as in training, while each stretch says for itself whether special
 * tokens may be found in it. */
#include "token_inner.h"

/* ---- Growing lists ------------------------------------------------------------------------- */

ERN_FN void *ern_token_grow(const ernie_allocator *allocator, void *data, size_t *capacity,
                            size_t need, size_t item_bytes)
{
    size_t wanted = ern_max_size(*capacity, 16), old_bytes, new_bytes;
    while (wanted < need) {
        if (wanted > SIZE_MAX / 2) return NULL;
        wanted *= 2;
    }
    if (!ern_mul_size(&new_bytes, wanted, item_bytes)) return NULL;
    old_bytes = *capacity * item_bytes;
    void *grown = ern_resize(allocator, data, old_bytes, new_bytes);
    if (grown) *capacity = wanted;
    return grown;
}

ERN_FN bool ern_ids_push(ern_ids *ids, int32_t id)
{
    if (ids->n == ids->capacity) {
        int32_t *data =
            ern_token_grow(ids->allocator, ids->data, &ids->capacity, ids->n + 1, sizeof *data);
        if (!data) return false;
        ids->data = data;
    }
    ids->data[ids->n++] = id;
    return true;
}

ERN_FN void ern_ids_free(ern_ids *ids)
{
    ern_free(ids->allocator, ids->data, ids->capacity * sizeof *ids->data);
    ids->data = NULL;
    ids->n = ids->capacity = 0;
}

/* ---- One token ----------------------------------------------------------------------------- */

ERN_FN uint32_t ern_tokenizer_n_tokens(const ern_tokenizer *tokenizer)
{
    return tokenizer->n_tokens;
}

ERN_FN const char *ern_tokenizer_piece(const ern_tokenizer *tokenizer, int32_t id, size_t *n)
{
    if (id < 0 || (uint32_t)id >= tokenizer->n_tokens) return NULL;
    if (n) *n = ern_piece_bytes(tokenizer, id);
    return ern_piece_text(tokenizer, id);
}

ERN_FN ERN_UNUSED unsigned ern_tokenizer_type(const ern_tokenizer *tokenizer, int32_t id)
{
    if (id < 0 || (uint32_t)id >= tokenizer->n_tokens) return 0;
    return tokenizer->type[id];
}

ERN_FN int32_t ern_tokenizer_find(const ern_tokenizer *tokenizer, const char *piece, size_t n)
{
    return ern_token_lookup(tokenizer, piece, n);
}

ERN_FN bool ern_token_is_marked(const ern_tokenizer *tokenizer, int32_t id)
{
    const char *text = ern_piece_text(tokenizer, id);
    const uint32_t n = ern_piece_bytes(tokenizer, id);
    return n >= 4 && text[0] == '<' && text[n - 1] == '>';
}

/* ---- Pieces found whole ---------------------------------------------------------------------- */

/* May this atomic piece be found here? n_left: bytes until its span ends. */
static bool token_may_match(const ern_tokenizer *t, int32_t id, size_t n_left,
                            ernie_tokenize_mode mode)
{
    const bool user = t->type[id] == ERN_TOKEN_USER;
    if (user && !ern_token_is_marked(t, id)) return true;
    if (ern_piece_bytes(t, id) > n_left) return false;
    return user ? mode != ERNIE_TOKENIZE_LITERAL : mode == ERNIE_TOKENIZE_SPECIAL;
}

/* First of atoms[low .. high) whose byte at `depth` is `byte` or more; all of them are longer than
 * `depth` and equal before it. */
static uint32_t token_lower_bound(const ern_tokenizer *t, uint32_t low, uint32_t high,
                                  uint32_t depth, unsigned byte)
{
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if ((unsigned char)ern_piece_text(t, t->atoms[middle])[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Narrow the sorted list byte by byte. A piece that ends at `depth` stands first in what is left,
 * for it sorts before all that it begins. */
ERN_FN int32_t ern_token_match(const ern_tokenizer *t, const char *text, size_t n, size_t n_span,
                               ernie_tokenize_mode mode, size_t *n_match)
{
    const unsigned first = (unsigned char)text[0];
    uint32_t low = t->atom_first[first], high = t->atom_first[first + 1];
    int32_t best = -1;
    for (uint32_t depth = 1; low < high; depth++) {
        const int32_t id = t->atoms[low];
        if (ern_piece_bytes(t, id) == depth) {
            if (token_may_match(t, id, n_span, mode)) {
                best = id;
                *n_match = depth;
            }
            low++;
        }
        if (depth == n) break;
        const unsigned byte = (unsigned char)text[depth];
        low = token_lower_bound(t, low, high, depth, byte);
        high = token_lower_bound(t, low, high, depth, byte + 1);
    }
    return best;
}

/* ---- A text in spans ------------------------------------------------------------------------- */

static bool token_push(ern_token_work *work, int32_t id)
{
    return ern_ids_push(work->ids, id);
}

/* Runs and the special tokens between them, over spans that may hold both. `end` is where the whole
 * text ends. */
static bool token_stretch(ern_token_work *work, ern_token_input *input, bool begins, size_t end)
{
    const size_t begin = input->position;
    while (input->position < input->end) {
        int32_t special;
        input->prefix = begins && input->position == begin;
        input->suffix = input->end == end;
        if (!ern_token_normalize(work, input, &special) || !ern_token_merge(work)) return false;
        if (special >= 0 && !token_push(work, special)) return false;
    }
    return true;
}

static bool token_spans(ern_token_work *work, const char *text, const ern_span *spans, size_t n,
                        bool begins)
{
    const size_t end = spans[n - 1].end;
    size_t begin = 0;
    for (size_t i = 0; i < n;) {
        if (spans[i].id >= 0) {
            if (!token_push(work, spans[i].id)) return false;
            begin = spans[i++].end;
            continue;
        }
        ern_token_input input = { .text = text, .spans = &spans[i], .position = begin };
        while (i < n && spans[i].id < 0) input.end = spans[i++].end;
        if (!token_stretch(work, &input, begins && begin == 0, end)) return false;
        begin = input.end;
    }
    return true;
}

static void token_work_free(ern_token_work *work)
{
    const ernie_allocator *allocator = work->tokenizer->allocator;
    ern_free(allocator, work->text, work->text_capacity);
    ern_free(allocator, work->spans, work->span_capacity * sizeof *work->spans);
    ern_free(allocator, work->symbols, work->symbol_capacity * sizeof *work->symbols);
    ern_free(allocator, work->heap, work->heap_capacity * sizeof *work->heap);
    ern_free(allocator, work->splits, work->tokenizer->n_unused * sizeof *work->splits);
}

ERN_FN ernie_status ern_tokenize_spans(const ern_tokenizer *tokenizer, const char *text,
                                       const ern_span *spans, size_t n_spans, bool begins,
                                       ern_ids *ids, ernie_error *error)
{
    if (n_spans == 0) return ERNIE_OK;
    ern_token_work work = { .tokenizer = tokenizer, .ids = ids };
    const size_t n_before = ids->n, n = spans[n_spans - 1].end;
    bool done = false;
    if (tokenizer->n_unused)
        work.splits =
            ern_alloc_zero(tokenizer->allocator, tokenizer->n_unused * sizeof *work.splits);
    if (!tokenizer->n_unused || work.splits)
        done = token_spans(&work, text, spans, n_spans, begins);
    token_work_free(&work);
    if (done) return ERNIE_OK;
    ids->n = n_before;
    return ern_error_set(error, ERNIE_NO_MEMORY, "no memory to tokenize a text of %zu bytes", n);
}

ERN_FN ernie_status ern_tokenize(const ern_tokenizer *tokenizer, const char *text, size_t n,
                                 ernie_tokenize_mode mode, ern_ids *ids, ernie_error *error)
{
    const ern_span span = { .end = n, .mode = mode, .id = -1 };
    return ern_tokenize_spans(tokenizer, text, &span, 1, true, ids, error);
}
