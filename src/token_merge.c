/* Byte pair encoding of normalized text, as sentencepiece's bpe::Model does it.
 *
 * The text starts as characters and USER pieces. Again and again the two neighbours that make the
 * piece with the best score are joined, the leftmost of equals first, until no two neighbours make
 * a piece. A heap of 64-bit keys (score, then place) finds them: a key is not removed when its pair
 * changes, it is recognised as stale when it comes up, because the pair at that place no longer has
 * that score. A stale key that happens to equal its place's new key does no harm: both say that
 * this pair comes next.
 *
 * No merge reaches across a USER piece, so the text is merged from one to the next. UNUSED pieces
 * are merged as all others and then taken apart into the two parts they were made of. Those are the
 * same wherever the piece is made: what happens inside a piece depends on its own characters
 * only. */
#include "token_inner.h"

#define MERGE_NONE   (-1)
#define MERGE_FROZEN (-2) /* never merges: one of the two ends of the list */
#define MERGE_ARITY  4    /* children of a heap's node: half the levels of a binary one */

/* ---- The heap, smallest key first
 * -------------------------------------------------------------- */

/* Scores in the order of unsigned integers, the best one smallest; places count up. */
static uint64_t merge_key(float score, uint32_t place)
{
    uint32_t bits;
    score += 0.0f; /* -0 equals 0 */
    memcpy(&bits, &score, sizeof bits);
    const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)~ascending << 32 | place;
}

static bool merge_push(ern_token_work *work, uint64_t key)
{
    if (work->n_heap == work->heap_capacity) {
        uint64_t *grown = ern_token_grow(work->tokenizer->allocator, work->heap,
                                         &work->heap_capacity, work->n_heap + 1, sizeof *grown);
        if (!grown) return false;
        work->heap = grown;
    }
    size_t i = work->n_heap++;
    while (i > 0) {
        const size_t parent = (i - 1) / MERGE_ARITY;
        if (work->heap[parent] <= key) break;
        work->heap[i] = work->heap[parent];
        i = parent;
    }
    work->heap[i] = key;
    return true;
}

static uint64_t merge_pop(ern_token_work *work)
{
    uint64_t *heap = work->heap;
    const uint64_t top = heap[0], key = heap[--work->n_heap];
    const size_t n = work->n_heap;
    size_t i = 0;
    for (;;) {
        const size_t child = MERGE_ARITY * i + 1, end = ern_min_size(child + MERGE_ARITY, n);
        if (child >= n) break;
        size_t least = child;
        for (size_t k = child + 1; k < end; k++)
            if (heap[k] < heap[least]) least = k;
        if (heap[least] >= key) break;
        heap[i] = heap[least];
        i = least;
    }
    heap[i] = key;
    return top;
}

/* ---- Symbols ------------------------------------------------------------------------------- */

static bool merge_add_symbol(ern_token_work *work, size_t start, int32_t pair)
{
    const size_t i = work->n_symbols;
    if (i == work->symbol_capacity) {
        ern_symbol *grown = ern_token_grow(work->tokenizer->allocator, work->symbols,
                                           &work->symbol_capacity, i + 1, sizeof *grown);
        if (!grown) return false;
        work->symbols = grown;
    }
    work->symbols[i] = (ern_symbol){ .start = (uint32_t)start,
                                     .prev = i ? (uint32_t)i - 1 : 0,
                                     .next = (uint32_t)i + 1,
                                     .id = -1,
                                     .pair = pair };
    work->n_symbols++;
    return true;
}

/* Bytes of the character at text [n > 0], from its first byte alone: broken text comes only out of
 * a strange charsmap. */
static size_t merge_character(const char *text, size_t n)
{
    const unsigned char lead = (unsigned char)*text;
    return ern_min_size(n, lead < 0xc0 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4);
}

/* The piece that text [n] becomes when characters are merged, or -1: reserved pieces and USER ones
 * are never made of smaller ones. */
static int32_t merge_find(const ern_tokenizer *t, const char *text, size_t n)
{
    const int32_t id = ern_token_lookup(t, text, n);
    if (id < 0) return MERGE_NONE;
    return t->type[id] == ERN_TOKEN_NORMAL || t->type[id] == ERN_TOKEN_UNUSED ? id : MERGE_NONE;
}

static uint16_t *merge_split(const ern_token_work *work, int32_t id)
{
    const int32_t *unused = work->tokenizer->unused;
    size_t low = 0, high = work->tokenizer->n_unused;
    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (unused[middle] <= id)
            low = middle;
        else
            high = middle;
    }
    return &work->splits[low];
}

/* Look at a symbol and its right neighbour: if they make a piece, they are a candidate. */
static bool merge_consider(ern_token_work *work, uint32_t left)
{
    const ern_tokenizer *t = work->tokenizer;
    ern_symbol *symbol = &work->symbols[left];
    if (symbol->pair == MERGE_FROZEN) return true;
    symbol->pair = MERGE_NONE;
    const ern_symbol *right = &work->symbols[symbol->next];
    if (right->pair == MERGE_FROZEN) return true;
    const uint32_t n = work->symbols[right->next].start - symbol->start;
    const int32_t id = merge_find(t, work->text + symbol->start, n);
    if (id < 0) return true;
    symbol->pair = id;
    if (t->type[id] == ERN_TOKEN_UNUSED)
        *merge_split(work, id) = (uint16_t)(right->start - symbol->start);
    return merge_push(work, merge_key(t->score[id], left));
}

static bool merge_join(ern_token_work *work, uint32_t left)
{
    ern_symbol *symbol = &work->symbols[left], *right = &work->symbols[symbol->next];
    symbol->id = symbol->pair;
    symbol->next = right->next;
    right->pair = MERGE_NONE;
    work->symbols[symbol->next].prev = left;
    return merge_consider(work, symbol->prev) && merge_consider(work, left);
}

/* Symbols 1 .. n_symbols - 2 of the list, between two frozen ends. */
static bool merge_all(ern_token_work *work)
{
    const ern_tokenizer *t = work->tokenizer;
    const uint32_t last = (uint32_t)work->n_symbols - 1;
    work->n_heap = 0;
    for (uint32_t i = 1; i < last; i++)
        if (!merge_consider(work, i)) return false;
    while (work->n_heap) {
        const uint64_t key = merge_pop(work);
        const uint32_t left = (uint32_t)key;
        const int32_t pair = work->symbols[left].pair;
        if (pair < 0 || merge_key(t->score[pair], left) != key) continue;
        if (!merge_join(work, left)) return false;
    }
    return true;
}

/* ---- Ids ----------------------------------------------------------------------------------- */

/* A character that is no piece: its bytes, or one unknown id for a whole run of them. */
static bool merge_emit_unknown(ern_token_work *work, const char *text, size_t n)
{
    const ern_tokenizer *t = work->tokenizer;
    if (!(t->flags & ERN_TOKENIZER_BYTE_FALLBACK)) {
        if (work->last_unknown) return true;
        work->last_unknown = true;
        return ern_ids_push(work->ids, t->unk_id);
    }
    for (size_t i = 0; i < n; i++)
        if (!ern_ids_push(work->ids, t->byte_id[(unsigned char)text[i]])) return false;
    return true;
}

static bool merge_emit_piece(ern_token_work *work, int32_t id, const char *text, size_t n)
{
    if (id < 0) return merge_emit_unknown(work, text, n);
    work->last_unknown = false;
    return ern_ids_push(work->ids, id);
}

/* An UNUSED piece is given as the two parts it was made of, and so are they; one that was never
 * made (a single character) stays. A part is shorter than its whole, which bounds the stack. */
static bool merge_emit_parts(ern_token_work *work, const char *text, size_t n)
{
    const ern_tokenizer *t = work->tokenizer;
    uint16_t stack[ERN_PIECE_BYTES_MAX + 1]; /* lengths, the leftmost part on top */
    size_t depth = 0;
    stack[depth++] = (uint16_t)n;
    while (depth) {
        const uint16_t length = stack[--depth];
        const int32_t id = merge_find(t, text, length);
        const bool unused = id >= 0 && t->type[id] == ERN_TOKEN_UNUSED;
        const uint16_t split = unused ? *merge_split(work, id) : 0;
        if (split) {
            stack[depth++] = (uint16_t)(length - split);
            stack[depth++] = split;
            continue;
        }
        if (!merge_emit_piece(work, id, text, length)) return false;
        text += length;
    }
    return true;
}

static bool merge_emit_symbol(ern_token_work *work, const ern_symbol *symbol)
{
    const ern_tokenizer *t = work->tokenizer;
    const char *text = work->text + symbol->start;
    const size_t n = work->symbols[symbol->next].start - symbol->start;
    const int32_t id = symbol->id >= 0 ? symbol->id : merge_find(t, text, n);
    if (id >= 0 && t->type[id] == ERN_TOKEN_UNUSED) return merge_emit_parts(work, text, n);
    return merge_emit_piece(work, id, text, n);
}

static bool merge_emit(ern_token_work *work)
{
    const uint32_t last = (uint32_t)work->n_symbols - 1;
    for (uint32_t i = work->symbols[0].next; i != last; i = work->symbols[i].next)
        if (!merge_emit_symbol(work, &work->symbols[i])) return false;
    return true;
}

/* ---- A run --------------------------------------------------------------------------------- */

/* Read symbols from *position on, up to the next USER piece (*user, else -1) or the end, and close
 * the list with its right end. */
static bool merge_read(ern_token_work *work, size_t *position, const ern_span **span, int32_t *user)
{
    *user = -1;
    while (*position < work->n_text) {
        const size_t at = *position, n_left = work->n_text - at;
        const char *text = work->text + at;
        while ((*span)->end <= at) (*span)++;
        const ernie_tokenize_mode mode =
            (*span)->mode == ERNIE_TOKENIZE_LITERAL ? ERNIE_TOKENIZE_LITERAL : ERNIE_TOKENIZE_TEXT;
        size_t n;
        *user = ern_token_match(work->tokenizer, text, n_left, (*span)->end - at, mode, &n);
        *position += *user >= 0 ? n : merge_character(text, n_left);
        if (*user >= 0) return merge_add_symbol(work, at, MERGE_FROZEN);
        if (!merge_add_symbol(work, at, MERGE_NONE)) return false;
    }
    return merge_add_symbol(work, work->n_text, MERGE_FROZEN);
}

ERN_FN bool ern_token_merge(ern_token_work *work)
{
    const ern_span *span = work->spans;
    size_t position = 0;
    work->last_unknown = false;
    while (position < work->n_text) {
        int32_t user;
        work->n_symbols = 0;
        if (!merge_add_symbol(work, position, MERGE_FROZEN)
            || !merge_read(work, &position, &span, &user) || !merge_all(work) || !merge_emit(work))
            return false;
        if (user >= 0 && !merge_emit_piece(work, user, NULL, 0)) return false;
    }
    return true;
}

#undef MERGE_NONE
#undef MERGE_FROZEN
#undef MERGE_ARITY
