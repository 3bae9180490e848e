/* From the tokenizer section of a file to lookup tables. Owns every check of that section; knows
 * nothing of how text is tokenized.
 *
 * The section is hostile until it has passed: first the counts against its length, then each piece,
 * then the charsmap. Only then is memory taken, in proportion to what the section really holds. The
 * hash of pieces bounds its probing, so pieces made to collide are refused instead of slowing every
 * lookup down. */
#include "token_inner.h"

#define BUILD_PROBES_MAX 512u /* half full, 4M random pieces need about 80 */

#define BUILD_FLAGS                                                                               \
    (ERN_TOKENIZER_DUMMY_PREFIX | ERN_TOKENIZER_REMOVE_EXTRA_SPACES | ERN_TOKENIZER_ESCAPE_SPACES \
     | ERN_TOKENIZER_BYTE_FALLBACK | ERN_TOKENIZER_SPACE_SUFFIX)

/* ---- The section's parts ------------------------------------------------------------------- */

static uint64_t build_pad4(uint64_t n)
{
    return ern_round_up_u64(n, 4);
}

static ernie_status build_check_head(const ern_tokenizer_head *head, uint64_t n_bytes,
                                     ernie_error *error)
{
    ERN_FAIL_IF(head->n_tokens == 0 || head->n_tokens > ERN_VOCAB_MAX, error, ERNIE_FORMAT,
                "tokenizer: %u tokens, expected 1 to %u", (unsigned)head->n_tokens, ERN_VOCAB_MAX);
    ERN_FAIL_IF(head->flags & ~BUILD_FLAGS, error, ERNIE_FORMAT,
                "tokenizer: flags 0x%x, this library knows 0x%x", (unsigned)head->flags,
                BUILD_FLAGS);
    ERN_FAIL_IF(head->reserved[0] | head->reserved[1] | head->reserved[2], error, ERNIE_FORMAT,
                "tokenizer: the reserved fields of its head are not zero");
    const uint64_t n = head->n_tokens;
    const uint64_t needed = sizeof *head + 4 * n + 4 * (n + 1) + build_pad4(n)
                            + build_pad4(head->text_bytes) + head->charsmap_bytes;
    ERN_FAIL_IF(needed != n_bytes, error, ERNIE_FORMAT,
                "tokenizer: the section has %llu bytes, its counts add up to %llu",
                (unsigned long long)n_bytes, (unsigned long long)needed);
    return ERNIE_OK;
}

/* Point into the section, whose length is known to fit. */
static void build_place(ern_tokenizer *t, const unsigned char *section)
{
    const ern_tokenizer_head *head = (const void *)section;
    const unsigned char *at = section + sizeof *head;
    t->n_tokens = head->n_tokens;
    t->flags = head->flags;
    t->unk_id = head->unk_id;
    t->score = (const void *)at;
    at += 4 * (size_t)t->n_tokens;
    t->offset = (const void *)at;
    at += 4 * ((size_t)t->n_tokens + 1);
    t->type = at;
    at += ern_round_up(t->n_tokens, 4);
    t->text = (const char *)at;
}

/* ---- Pieces -------------------------------------------------------------------------------- */

static ernie_status build_check_offsets(const ern_tokenizer *t, uint32_t text_bytes,
                                        ernie_error *error)
{
    ERN_FAIL_IF(t->offset[0] != 0, error, ERNIE_FORMAT, "tokenizer: the first piece is at byte %u",
                (unsigned)t->offset[0]);
    for (uint32_t i = 0; i < t->n_tokens; i++) {
        const uint32_t begin = t->offset[i], end = t->offset[i + 1];
        ERN_FAIL_IF(end < begin || end > text_bytes, error, ERNIE_FORMAT,
                    "tokenizer: piece %u is bytes %u to %u of %u", (unsigned)i, (unsigned)begin,
                    (unsigned)end, (unsigned)text_bytes);
        ERN_FAIL_IF(end == begin || end - begin > ERN_PIECE_BYTES_MAX, error, ERNIE_FORMAT,
                    "tokenizer: piece %u has %u bytes, expected 1 to %u", (unsigned)i,
                    (unsigned)(end - begin), ERN_PIECE_BYTES_MAX);
    }
    ERN_FAIL_IF(t->offset[t->n_tokens] != text_bytes, error, ERNIE_FORMAT,
                "tokenizer: the pieces have %u bytes, the text has %u",
                (unsigned)t->offset[t->n_tokens], (unsigned)text_bytes);
    return ERNIE_OK;
}

static ernie_status build_check_piece(const ern_tokenizer *t, uint32_t i, ernie_error *error)
{
    const char *text = ern_piece_text(t, (int32_t)i);
    const size_t n = ern_piece_bytes(t, (int32_t)i);
    ERN_FAIL_IF(t->type[i] < ERN_TOKEN_NORMAL || t->type[i] > ERN_TOKEN_ADDED, error, ERNIE_FORMAT,
                "tokenizer: piece %u has type %u, expected %d to %d", (unsigned)i, t->type[i],
                ERN_TOKEN_NORMAL, ERN_TOKEN_ADDED);
    ERN_FAIL_IF(!isfinite(t->score[i]), error, ERNIE_FORMAT,
                "tokenizer: the score of piece %u is not a finite number", (unsigned)i);
    ERN_FAIL_IF(memchr(text, 0, n) || !ern_utf8_valid(text, n), error, ERNIE_FORMAT,
                "tokenizer: piece %u is not UTF-8 without zeros", (unsigned)i);
    return ERNIE_OK;
}

/* "<0xHH>" with upper-case digits, or -1. */
static int build_byte_value(const char *text, size_t n)
{
    static const char digits[] = "0123456789ABCDEF";
    if (n != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    const char *high = strchr(digits, text[3]), *low = strchr(digits, text[4]);
    return high && low ? (int)((high - digits) * 16 + (low - digits)) : -1;
}

static ernie_status build_byte_piece(ern_tokenizer *t, uint32_t i, ernie_error *error)
{
    const size_t n = ern_piece_bytes(t, (int32_t)i);
    const int value = build_byte_value(ern_piece_text(t, (int32_t)i), n);
    ERN_FAIL_IF(value < 0, error, ERNIE_FORMAT,
                "tokenizer: byte piece %u is not written <0x00> to <0xFF>", (unsigned)i);
    t->byte_id[value] = (int32_t)i;
    return ERNIE_OK;
}

static ernie_status build_check_unknown(const ern_tokenizer *t, ernie_error *error)
{
    int64_t unknown = -1;
    for (uint32_t i = 0; i < t->n_tokens; i++) {
        if (t->type[i] != ERN_TOKEN_UNKNOWN) continue;
        ERN_FAIL_IF(unknown >= 0, error, ERNIE_FORMAT,
                    "tokenizer: pieces %lld and %u are both the unknown one", (long long)unknown,
                    (unsigned)i);
        unknown = i;
    }
    ERN_FAIL_IF(unknown != t->unk_id, error, ERNIE_FORMAT,
                "tokenizer: the head names %d as the unknown piece, the types say %lld",
                (int)t->unk_id, (long long)unknown);
    ERN_FAIL_IF(unknown < 0 && !(t->flags & ERN_TOKENIZER_BYTE_FALLBACK), error, ERNIE_FORMAT,
                "tokenizer: it has neither an unknown piece nor byte fallback");
    return ERNIE_OK;
}

static ernie_status build_check_pieces(ern_tokenizer *t, uint32_t text_bytes, ernie_error *error)
{
    ernie_status status = build_check_offsets(t, text_bytes, error);
    for (uint32_t i = 0; status == ERNIE_OK && i < t->n_tokens; i++) {
        status = build_check_piece(t, i, error);
        if (status == ERNIE_OK && t->type[i] == ERN_TOKEN_BYTE)
            status = build_byte_piece(t, i, error);
    }
    if (status == ERNIE_OK) status = build_check_unknown(t, error);
    if (status != ERNIE_OK || !(t->flags & ERN_TOKENIZER_BYTE_FALLBACK)) return status;
    for (unsigned i = 0; i < 256; i++)
        ERN_FAIL_IF(t->byte_id[i] < 0, error, ERNIE_FORMAT,
                    "tokenizer: byte fallback is on, but piece <0x%02X> is missing", i);
    return ERNIE_OK;
}

/* ---- The charsmap: u32 bytes of the double array, the array, zero-terminated strings
 * ----------- */

static ernie_status build_check_strings(const ern_tokenizer *t, ernie_error *error)
{
    uint32_t begin = 0;
    for (uint32_t i = 0; i < t->replacement_bytes; i++) {
        if (t->replacements[i] == '\0') begin = i + 1;
        ERN_FAIL_IF(i + 1 - begin > ERN_RULE_BYTES_MAX, error, ERNIE_FORMAT,
                    "tokenizer: the charsmap's string at byte %u is longer than %u",
                    (unsigned)begin, ERN_RULE_BYTES_MAX);
    }
    ERN_FAIL_IF(begin != t->replacement_bytes, error, ERNIE_FORMAT,
                "tokenizer: the charsmap's last string, at byte %u, has no end", (unsigned)begin);
    return ERNIE_OK;
}

static ernie_status build_charsmap(ern_tokenizer *t, const unsigned char *charsmap,
                                   uint32_t n_bytes, ernie_error *error)
{
    uint32_t array_bytes;
    if (n_bytes == 0) return ERNIE_OK;
    ERN_FAIL_IF(n_bytes < sizeof array_bytes, error, ERNIE_FORMAT,
                "tokenizer: a charsmap of %u bytes, expected 4 or more", (unsigned)n_bytes);
    memcpy(&array_bytes, charsmap, sizeof array_bytes);
    n_bytes -= (uint32_t)sizeof array_bytes;
    ERN_FAIL_IF(array_bytes == 0 || array_bytes % 4 != 0 || array_bytes > n_bytes, error,
                ERNIE_FORMAT, "tokenizer: the charsmap's array has %u bytes, %u are there",
                (unsigned)array_bytes, (unsigned)n_bytes);
    t->rules = (const void *)(charsmap + sizeof array_bytes);
    t->n_rules = array_bytes / 4;
    t->replacements = (const char *)t->rules + array_bytes;
    t->replacement_bytes = n_bytes - array_bytes;
    return build_check_strings(t, error);
}

/* ---- The hash of pieces -------------------------------------------------------------------- */

static ernie_status build_insert(ern_tokenizer *t, int32_t id, ernie_error *error)
{
    const char *text = ern_piece_text(t, id);
    const uint32_t n = ern_piece_bytes(t, id);
    const uint64_t hash = ern_hash64(text, n);
    const uint32_t tag = (uint32_t)(hash >> 32);
    for (size_t i = 0; i < BUILD_PROBES_MAX; i++) {
        ern_token_slot *slot = &t->slots[(hash + i) & (t->n_slots - 1)];
        if (slot->id < 0) {
            *slot = (ern_token_slot){ .tag = tag, .id = id };
            return ERNIE_OK;
        }
        ERN_FAIL_IF(slot->tag == tag && ern_piece_bytes(t, slot->id) == n
                        && memcmp(ern_piece_text(t, slot->id), text, n) == 0,
                    error, ERNIE_FORMAT, "tokenizer: pieces %d and %d are the same", (int)slot->id,
                    (int)id);
    }
    return ern_error_set(error, ERNIE_FORMAT,
                         "tokenizer: more than %u pieces share the hash of piece %d",
                         BUILD_PROBES_MAX, (int)id);
}

static ernie_status build_hash(ern_tokenizer *t, ernie_error *error)
{
    size_t n_slots = 4;
    while (n_slots < 2 * (size_t)t->n_tokens) n_slots *= 2;
    t->slots = ern_alloc(t->allocator, n_slots * sizeof *t->slots);
    ERN_FAIL_IF(!t->slots, error, ERNIE_NO_MEMORY, "tokenizer: no memory for a table of %zu bytes",
                n_slots * sizeof *t->slots);
    t->n_slots = n_slots;
    for (size_t i = 0; i < n_slots; i++) t->slots[i] = (ern_token_slot){ .tag = 0, .id = -1 };
    ernie_status status = ERNIE_OK;
    for (uint32_t i = 0; status == ERNIE_OK && i < t->n_tokens; i++)
        status = build_insert(t, (int32_t)i, error);
    return status;
}

ERN_FN int32_t ern_token_lookup(const ern_tokenizer *t, const char *text, size_t n)
{
    if (n == 0 || n > ERN_PIECE_BYTES_MAX) return -1;
    const uint64_t hash = ern_hash64(text, n);
    for (size_t i = 0; i < BUILD_PROBES_MAX; i++) {
        const ern_token_slot slot = t->slots[(hash + i) & (t->n_slots - 1)];
        if (slot.id < 0) return -1;
        if (slot.tag == (uint32_t)(hash >> 32) && ern_piece_bytes(t, slot.id) == n
            && memcmp(ern_piece_text(t, slot.id), text, n) == 0)
            return slot.id;
    }
    return -1;
}

/* ---- Atomic pieces ------------------------------------------------------------------------- */

static bool build_is_atomic(unsigned type)
{
    return type == ERN_TOKEN_USER || type == ERN_TOKEN_CONTROL || type == ERN_TOKEN_ADDED;
}

static bool build_before(const ern_tokenizer *t, int32_t a, int32_t b)
{
    const uint32_t n_a = ern_piece_bytes(t, a), n_b = ern_piece_bytes(t, b);
    const int order = memcmp(ern_piece_text(t, a), ern_piece_text(t, b), ern_min_size(n_a, n_b));
    return order < 0 || (order == 0 && n_a < n_b);
}

/* Merge sort from the bottom up: no recursion, n log n for any order. The result is in `from` or
 * `to`, whichever is returned. */
static int32_t *build_sort(const ern_tokenizer *t, int32_t *from, int32_t *to, size_t n)
{
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t begin = 0; begin < n; begin += 2 * width) {
            const size_t middle = ern_min_size(begin + width, n);
            const size_t end = ern_min_size(begin + 2 * width, n);
            size_t left = begin, right = middle;
            for (size_t i = begin; i < end; i++) {
                const bool take_right =
                    left == middle || (right < end && build_before(t, from[right], from[left]));
                to[i] = take_right ? from[right++] : from[left++];
            }
        }
        int32_t *const swap = from;
        from = to;
        to = swap;
    }
    return from;
}

/* Where the pieces of each first byte begin in the sorted list. */
static void build_first_bytes(ern_tokenizer *t)
{
    uint32_t i = 0;
    for (unsigned byte = 0; byte < 256; byte++) {
        t->atom_first[byte] = i;
        while (i < t->n_atoms && (unsigned char)*ern_piece_text(t, t->atoms[i]) == byte) i++;
    }
    t->atom_first[256] = i;
}

static ernie_status build_atoms(ern_tokenizer *t, ernie_error *error)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_tokens; i++) n += build_is_atomic(t->type[i]);
    if (n == 0) return ERNIE_OK;
    const size_t n_bytes = n * sizeof *t->atoms;
    int32_t *list = ern_alloc(t->allocator, n_bytes), *spare = ern_alloc(t->allocator, n_bytes);
    ernie_status status = ERNIE_OK;
    if (!list || !spare) {
        status = ern_error_set(error, ERNIE_NO_MEMORY, "tokenizer: no memory for %u special pieces",
                               (unsigned)n);
        goto done;
    }
    for (uint32_t i = 0, k = 0; i < t->n_tokens; i++)
        if (build_is_atomic(t->type[i])) list[k++] = (int32_t)i;
    t->atoms = build_sort(t, list, spare, n);
    t->n_atoms = n;
    build_first_bytes(t);

done:
    if (list != t->atoms) ern_free(t->allocator, list, n_bytes);
    if (spare != t->atoms) ern_free(t->allocator, spare, n_bytes);
    return status;
}

static ernie_status build_unused(ern_tokenizer *t, ernie_error *error)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_tokens; i++) n += t->type[i] == ERN_TOKEN_UNUSED;
    if (n == 0) return ERNIE_OK;
    t->unused = ern_alloc(t->allocator, n * sizeof *t->unused);
    ERN_FAIL_IF(!t->unused, error, ERNIE_NO_MEMORY, "tokenizer: no memory for %u unused pieces",
                (unsigned)n);
    t->n_unused = n;
    for (uint32_t i = 0, k = 0; i < t->n_tokens; i++)
        if (t->type[i] == ERN_TOKEN_UNUSED) t->unused[k++] = (int32_t)i;
    return ERNIE_OK;
}

/* ---- Open and close ------------------------------------------------------------------------ */

static ernie_status build_tables(ern_tokenizer *t, const unsigned char *section, ernie_error *error)
{
    const ern_tokenizer_head *head = (const void *)section;
    build_place(t, section);
    ernie_status status = build_check_pieces(t, head->text_bytes, error);
    if (status == ERNIE_OK)
        status = build_charsmap(t, (const unsigned char *)t->text + build_pad4(head->text_bytes),
                                head->charsmap_bytes, error);
    if (status == ERNIE_OK) status = build_hash(t, error);
    if (status == ERNIE_OK) status = build_atoms(t, error);
    if (status == ERNIE_OK) status = build_unused(t, error);
    return status;
}

ERN_FN ernie_status ern_tokenizer_open(ern_tokenizer **out, const unsigned char *section,
                                       uint64_t n_bytes, const ernie_allocator *allocator,
                                       ernie_error *error)
{
    *out = NULL;
    ERN_FAIL_IF((uintptr_t)section % 4 != 0, error, ERNIE_FORMAT,
                "tokenizer: the section does not begin at a multiple of 4");
    ERN_FAIL_IF(n_bytes < sizeof(ern_tokenizer_head) || n_bytes > SIZE_MAX, error, ERNIE_FORMAT,
                "tokenizer: the section has %llu bytes, its head alone %zu",
                (unsigned long long)n_bytes, sizeof(ern_tokenizer_head));
    const ernie_status head_status = build_check_head((const void *)section, n_bytes, error);
    if (head_status != ERNIE_OK) return head_status;

    ern_tokenizer *t = ern_alloc_zero(allocator, sizeof *t);
    ERN_FAIL_IF(!t, error, ERNIE_NO_MEMORY, "tokenizer: no memory for %zu bytes", sizeof *t);
    t->allocator = allocator;
    for (size_t i = 0; i < 256; i++) t->byte_id[i] = -1;
    const ernie_status status = build_tables(t, section, error);
    if (status != ERNIE_OK) {
        ern_tokenizer_close(t);
        return status;
    }
    *out = t;
    return ERNIE_OK;
}

ERN_FN void ern_tokenizer_close(ern_tokenizer *t)
{
    if (!t) return;
    ern_free(t->allocator, t->slots, t->n_slots * sizeof *t->slots);
    ern_free(t->allocator, t->atoms, t->n_atoms * sizeof *t->atoms);
    ern_free(t->allocator, t->unused, t->n_unused * sizeof *t->unused);
    ern_free(t->allocator, t, sizeof *t);
}

#undef BUILD_PROBES_MAX
#undef BUILD_FLAGS
