/* Normalization of one run of text, as sentencepiece's Normalizer does it: what the model was
 * trained on never saw anything else.
 *
 * A text is read step by step. A step is a USER piece (kept as it is), the longest rule of the
 * charsmap (replaced), a character (kept), or a byte that begins no character (U+FFFD). Spaces are
 * then trimmed and written as U+2581 where the model says so. The run ends at the first special
 * token that its mode lets through. */
#include "token_inner.h"

typedef struct normal_step {
    const char *text; /* what to write */
    size_t n_text;
    size_t n_read;   /* bytes of input */
    int32_t special; /* the run ends here with this token; -1: it does not */
} normal_step;

/* ---- The charsmap's double array (darts-clone's units)
 * ----------------------------------------- */

static uint32_t normal_unit_offset(uint32_t unit)
{
    return (unit >> 10) << ((unit & 0x200) >> 6);
}
static uint32_t normal_unit_label(uint32_t unit)
{
    return unit & 0x800000ffu;
}
static bool normal_unit_has_value(uint32_t unit)
{
    return (unit >> 8 & 1) != 0;
}

/* The longest rule that text [n] begins with: its bytes, 0 if none; *value points at its string.
 * Every place in the array is checked, for the file may lie, and so is the string's. */
static size_t normal_rule(const ern_tokenizer *t, const char *text, size_t n, uint32_t *value)
{
    if (t->n_rules == 0) return 0;
    uint32_t place = normal_unit_offset(t->rules[0]);
    size_t longest = 0;
    n = ern_min_size(n, ERN_RULE_BYTES_MAX);
    for (size_t i = 0; i < n; i++) {
        const uint32_t byte = (unsigned char)text[i];
        place ^= byte;
        if (place >= t->n_rules || normal_unit_label(t->rules[place]) != byte) break;
        const uint32_t unit = t->rules[place];
        place ^= normal_unit_offset(unit);
        if (place >= t->n_rules) break;
        if (!normal_unit_has_value(unit)) continue;
        const uint32_t found = t->rules[place] & 0x7fffffffu;
        if (found >= t->replacement_bytes) break;
        longest = i + 1;
        *value = found;
    }
    return longest;
}

/* ---- Steps --------------------------------------------------------------------------------- */

/* Does this piece, found in the raw text, cut it? */
static bool normal_is_special(const ern_tokenizer *t, int32_t id, ernie_tokenize_mode mode)
{
    return mode == ERNIE_TOKENIZE_SPECIAL
           && (t->type[id] != ERN_TOKEN_USER || ern_token_is_marked(t, id));
}

static normal_step normal_next(const ern_tokenizer *t, const ern_token_input *input)
{
    const char *text = input->text + input->position;
    const size_t n = input->end - input->position;
    const ernie_tokenize_mode mode = input->spans->mode;
    normal_step step = { .text = text, .special = -1 };
    uint32_t value;

    const int32_t id =
        ern_token_match(t, text, n, input->spans->end - input->position, mode, &step.n_read);
    if (id >= 0) {
        step.n_text = step.n_read;
        if (normal_is_special(t, id, mode)) step.special = id;
        return step;
    }
    step.n_read = normal_rule(t, text, n, &value);
    if (step.n_read) {
        step.text = t->replacements + value;
        step.n_text = strlen(step.text);
        return step;
    }
    if (ern_utf8_next(text, n, &step.n_text) == ERN_UTF8_WHOLE) {
        step.n_read = step.n_text;
        return step;
    }
    return (normal_step){ .text = ERN_UTF8_REPLACEMENT, .n_text = 3, .n_read = 1, .special = -1 };
}

/* ---- Writing ------------------------------------------------------------------------------- */

static bool normal_write(ern_token_work *work, const char *text, size_t n)
{
    const size_t need = work->n_text + n;
    if (need > UINT32_MAX / 2) return false; /* symbols count bytes in 32 bits */
    if (need > work->text_capacity) {
        char *grown =
            ern_token_grow(work->tokenizer->allocator, work->text, &work->text_capacity, need, 1);
        if (!grown) return false;
        work->text = grown;
    }
    memcpy(work->text + work->n_text, text, n);
    work->n_text = need;
    return true;
}

static bool normal_write_space(ern_token_work *work)
{
    if (!(work->tokenizer->flags & ERN_TOKENIZER_ESCAPE_SPACES)) return normal_write(work, " ", 1);
    return normal_write(work, ERN_TOKEN_SPACE, ERN_TOKEN_SPACE_BYTES);
}

static bool normal_write_step(ern_token_work *work, const char *text, size_t n)
{
    while (n) {
        const char *space = memchr(text, ' ', n);
        const size_t n_plain = space ? (size_t)(space - text) : n;
        if (n_plain && !normal_write(work, text, n_plain)) return false;
        if (!space) return true;
        if (!normal_write_space(work)) return false;
        text += n_plain + 1;
        n -= n_plain + 1;
    }
    return true;
}

/* The current raw span ends here: so does one of the normalized text. */
static bool normal_end_span(ern_token_work *work, ernie_tokenize_mode mode)
{
    if (work->n_spans == work->span_capacity) {
        ern_span *grown = ern_token_grow(work->tokenizer->allocator, work->spans,
                                         &work->span_capacity, work->n_spans + 1, sizeof *grown);
        if (!grown) return false;
        work->spans = grown;
    }
    work->spans[work->n_spans++] = (ern_span){ .end = work->n_text, .mode = mode, .id = -1 };
    return true;
}

/* Step over n bytes of input and the borders of spans among them. */
static bool normal_advance(ern_token_work *work, ern_token_input *input, size_t n)
{
    input->position += n;
    while (input->position < input->end && input->spans->end <= input->position) {
        if (!normal_end_span(work, input->spans->mode)) return false;
        input->spans++;
    }
    return true;
}

/* ---- A run --------------------------------------------------------------------------------- */

/* Step over the spaces that the run begins with. */
static bool normal_skip_spaces(ern_token_work *work, ern_token_input *input)
{
    while (input->position < input->end) {
        const normal_step step = normal_next(work->tokenizer, input);
        if (step.special >= 0 || step.n_text != 1 || step.text[0] != ' ') return true;
        if (!normal_advance(work, input, step.n_read)) return false;
    }
    return true;
}

static bool normal_steps(ern_token_work *work, ern_token_input *input, int32_t *special)
{
    const bool trim = work->tokenizer->flags & ERN_TOKENIZER_REMOVE_EXTRA_SPACES;
    bool after_space = trim;
    while (input->position < input->end && *special < 0) {
        normal_step step = normal_next(work->tokenizer, input);
        *special = step.special;
        if (step.special < 0) {
            while (after_space && step.n_text && *step.text == ' ') {
                step.text++;
                step.n_text--;
            }
            if (!normal_write_step(work, step.text, step.n_text)) return false;
            if (step.n_text) after_space = trim && step.text[step.n_text - 1] == ' ';
        }
        if (!normal_advance(work, input, step.n_read)) return false;
    }
    return true;
}

static void normal_trim_end(ern_token_work *work)
{
    const bool escape = work->tokenizer->flags & ERN_TOKENIZER_ESCAPE_SPACES;
    const char *space = escape ? ERN_TOKEN_SPACE : " ";
    const size_t n = escape ? ERN_TOKEN_SPACE_BYTES : 1;
    while (work->n_text >= n && memcmp(work->text + work->n_text - n, space, n) == 0)
        work->n_text -= n;
}

/* Is there text before the run's end, or does a special token stand here? */
static bool normal_run_is_empty(const ern_token_work *work, const ern_token_input *input)
{
    return input->position == input->end || normal_next(work->tokenizer, input).special >= 0;
}

ERN_FN bool ern_token_normalize(ern_token_work *work, ern_token_input *input, int32_t *special)
{
    const uint32_t flags = work->tokenizer->flags;
    const bool trim = flags & ERN_TOKENIZER_REMOVE_EXTRA_SPACES;
    const bool dummy = flags & ERN_TOKENIZER_DUMMY_PREFIX;
    const bool at_end = flags & ERN_TOKENIZER_SPACE_SUFFIX;
    *special = -1;
    work->n_text = work->n_spans = 0;
    if (!normal_advance(work, input, 0)) return false;
    if (trim && !normal_skip_spaces(work, input)) return false;
    const bool empty = normal_run_is_empty(work, input);
    if (dummy && !at_end && input->prefix && !empty && !normal_write_space(work)) return false;
    if (!normal_steps(work, input, special)) return false;
    if (trim) normal_trim_end(work);
    if (dummy && at_end && input->suffix && !empty && *special < 0 && !normal_write_space(work))
        return false;
    return normal_end_span(work, input->spans->mode);
}
