/* Which chat format does a checkpoint's Jinja template write? Owns just enough Jinja to tell; runs
 * no template, and an unknown one is told apart from a known one rather than guessed at.
 *
 * The one idea: flatten the template to what it would write, in order, whatever its loops and
 * conditions. Text and string literals stand for themselves, however they are quoted or escaped;
 * a message's content, any other value and every statement become one control character each:
 *
 *     <|begin_of_sentence|>..User: C\n.Assistant: C</s>.C\n...Assistant: .     (C content, . statement)
 *
 * That outline is then searched for the pieces of the plain format. */
#include "chat.h"

#define TEMPLATE_OUTLINE_MAX 16384u
#define TEMPLATE_NAMES_MAX   16
#define TEMPLATE_CONTENT     '\1'
#define TEMPLATE_VALUE       '\2'
#define TEMPLATE_STATEMENT   '\3'

typedef struct template_slice {
    const char *data;
    size_t n;
} template_slice;

typedef struct template_name {
    template_slice name, literal; /* {% set name = "literal" %} */
} template_name;

typedef struct template_reader {
    const char *at, *end; /* what is left of the template */
    template_name names[TEMPLATE_NAMES_MAX];
    size_t n_names;
    size_t n_outline;
    bool overflow;
    char outline[TEMPLATE_OUTLINE_MAX];
} template_reader;

/* ---- Slices and the outline ------------------------------------------------------------------ */

static bool template_is(template_slice slice, const char *word)
{
    return slice.n == strlen(word) && memcmp(slice.data, word, slice.n) == 0;
}

static bool template_is_word_byte(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static bool template_is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void template_put(template_reader *r, char c)
{
    if (r->n_outline == TEMPLATE_OUTLINE_MAX)
        r->overflow = true;
    else
        r->outline[r->n_outline++] = c;
}

/* Text of the template; the outline's own characters do not occur in honest ones. */
static void template_put_text(template_reader *r, template_slice text)
{
    for (size_t i = 0; i < text.n; i++)
        if ((unsigned char)text.data[i] > TEMPLATE_STATEMENT) template_put(r, text.data[i]);
}

/* A string literal without its quotes. */
static void template_put_literal(template_reader *r, template_slice literal)
{
    for (size_t i = 0; i < literal.n; i++) {
        char c = literal.data[i];
        if (c == '\\' && i + 1 < literal.n) {
            c = literal.data[++i];
            if (c == 'n') c = '\n';
            if (c == 't') c = '\t';
            if (c == 'r') c = '\r';
        }
        template_put_text(r, (template_slice){ &c, 1 });
    }
}

/* ---- Expressions --------------------------------------------------------------------------- */

/* What {{ a + b ~ c }} is made of. */
typedef struct template_operand {
    template_slice name; /* its first word; n 0: there is none */
    bool simple;         /* nothing but that word */
    bool content;        /* .content, ['content'] or content */
} template_operand;

static const template_name *template_find_name(const template_reader *r, template_slice name)
{
    for (size_t i = r->n_names; i > 0; i--) {
        const template_name *known = &r->names[i - 1];
        if (known->name.n == name.n && memcmp(known->name.data, name.data, name.n) == 0)
            return known;
    }
    return NULL;
}

static void template_end_operand(template_reader *r, template_operand *operand)
{
    if (operand->name.n == 0) return;
    const template_name *known = operand->simple ? template_find_name(r, operand->name) : NULL;
    if (operand->content)
        template_put(r, TEMPLATE_CONTENT);
    else if (known)
        template_put_literal(r, known->literal);
    else
        template_put(r, TEMPLATE_VALUE);
    *operand = (template_operand){ .name = { NULL, 0 } };
}

/* The string literal that begins at *at, which moves behind it. */
static template_slice template_read_literal(const char **at, const char *end)
{
    const char quote = *(*at)++;
    const char *begin = *at;
    while (*at < end && **at != quote) *at += **at == '\\' && *at + 1 < end ? 2 : 1;
    const template_slice literal = { begin, (size_t)(*at - begin) };
    if (*at < end) (*at)++;
    return literal;
}

static template_slice template_read_word(const char **at, const char *end)
{
    const char *begin = *at;
    while (*at < end && template_is_word_byte(**at)) (*at)++;
    return (template_slice){ begin, (size_t)(*at - begin) };
}

/* A word continues the operand (message.content), or begins one. */
static void template_add_word(template_operand *operand, template_slice word)
{
    if (template_is(word, "content")) operand->content = true;
    operand->simple = operand->name.n == 0;
    if (operand->name.n == 0) operand->name = word;
}

/* The inside of brackets that follow an operand: a subscript, whose word matters, or the arguments
 * of a call, which do not. */
static const char *template_read_brackets(template_operand *operand, const char *at,
                                          const char *end)
{
    const bool subscript = *at == '[';
    size_t depth = 0;
    operand->simple = false;
    do {
        const char c = *at;
        if (c == '\'' || c == '"') {
            const template_slice literal = template_read_literal(&at, end);
            if (subscript && depth == 1 && template_is(literal, "content")) operand->content = true;
            continue;
        }
        if (c == '(' || c == '[') depth++;
        if (c == ')' || c == ']') depth--;
        at++;
    } while (at < end && depth);
    return at;
}

static void template_read_expression(template_reader *r, const char *at, const char *end)
{
    template_operand operand = { .name = { NULL, 0 } };
    while (at < end) {
        const char c = *at;
        if (c == '\'' || c == '"') {
            template_end_operand(r, &operand);
            template_put_literal(r, template_read_literal(&at, end));
        } else if (template_is_word_byte(c)) {
            template_add_word(&operand, template_read_word(&at, end));
        } else if (operand.name.n && (c == '[' || c == '(')) {
            at = template_read_brackets(&operand, at, end);
        } else {
            if (c == '+' || c == '~') template_end_operand(r, &operand);
            at++;
        }
    }
    template_end_operand(r, &operand);
}

/* ---- Statements ---------------------------------------------------------------------------- */

static const char *template_skip_space(const char *at, const char *end)
{
    while (at < end && template_is_space(*at)) at++;
    return at;
}

/* Remember {% set name = "literal" %}. */
static void template_read_statement(template_reader *r, const char *at, const char *end)
{
    template_put(r, TEMPLATE_STATEMENT);
    at = template_skip_space(at, end);
    if (!template_is(template_read_word(&at, end), "set")) return;
    at = template_skip_space(at, end);
    const template_slice name = template_read_word(&at, end);
    at = template_skip_space(at, end);
    if (name.n == 0 || at == end || *at != '=') return;
    at = template_skip_space(at + 1, end);
    if (at == end || (*at != '\'' && *at != '"') || r->n_names == TEMPLATE_NAMES_MAX) return;
    const template_slice literal = template_read_literal(&at, end);
    if (template_skip_space(at, end) == end)
        r->names[r->n_names++] = (template_name){ name, literal };
}

/* ---- The template -------------------------------------------------------------------------- */

static bool template_at(const char *at, const char *end, const char *mark)
{
    return end - at >= 2 && at[0] == mark[0] && at[1] == mark[1];
}

static const char *template_find_tag(const char *at, const char *end)
{
    while (at < end && !template_at(at, end, "{{") && !template_at(at, end, "{%")
           && !template_at(at, end, "{#"))
        at++;
    return at;
}

/* Where the tag that begins before `at` closes; marks inside string literals do not count. */
static const char *template_find_close(const char *at, const char *end, const char *close)
{
    const bool comment = close[0] == '#';
    while (at < end && !template_at(at, end, close)) {
        if (!comment && (*at == '\'' || *at == '"'))
            template_read_literal(&at, end);
        else
            at++;
    }
    return at;
}

/* Text before a tag, without the space that the tag strips: all of it ("{%-"), or what indents a
 * statement (lstrip_blocks, which chat templates are run with). */
static template_slice template_strip_end(template_slice text, bool all, bool indent)
{
    size_t n = text.n;
    if (all)
        while (n && template_is_space(text.data[n - 1])) n--;
    if (indent) {
        while (n && (text.data[n - 1] == ' ' || text.data[n - 1] == '\t')) n--;
        if (n && text.data[n - 1] != '\n') n = text.n;
    }
    return (template_slice){ text.data, n };
}

/* Read text up to a tag, and the tag. */
static void template_read_tag(template_reader *r)
{
    const char *tag = template_find_tag(r->at, r->end);
    const bool has_tag = tag < r->end;
    const bool statement = has_tag && tag[1] != '{';
    const bool strips = has_tag && tag + 2 < r->end && tag[2] == '-';
    const template_slice text = { r->at, (size_t)(tag - r->at) };
    template_put_text(r, template_strip_end(text, strips, statement && !strips));
    r->at = r->end;
    if (!has_tag) return;

    const char kind = tag[1];
    const char *close = kind == '{' ? "}}" : kind == '%' ? "%}" : "#}";
    const char *begin = tag + 2 + strips, *stop = template_find_close(begin, r->end, close);
    if (stop == r->end) return; /* never closed */
    const bool strips_after = stop > begin && stop[-1] == '-';
    if (kind == '{') template_read_expression(r, begin, stop - strips_after);
    if (kind == '%') template_read_statement(r, begin, stop - strips_after);
    r->at = stop + 2;
    if (strips_after)
        r->at = template_skip_space(r->at, r->end);
    else if (statement && r->at < r->end && *r->at == '\n') /* trim_blocks */
        r->at++;
}

/* ---- Recognition --------------------------------------------------------------------------- */

static const char *template_search(const char *text, size_t n, const char *what)
{
    const size_t n_what = strlen(what);
    for (size_t i = 0; i + n_what <= n; i++)
        if (memcmp(text + i, what, n_what) == 0) return text + i;
    return NULL;
}

static bool template_is_thinking(const char *text, size_t n)
{
    static const char *const marks[] = { "<|im_start|>",    "<|im_end|>", "<global_setting>",
                                         "think_mode=True", "<think>",    "<response>" };
    for (size_t i = 0; i < ERN_COUNT(marks); i++)
        if (!template_search(text, n, marks[i])) return false;
    return true;
}

/* What the outline writes behind an assistant's content. */
static const char *template_turn_end(const template_reader *r)
{
    static const char *const ends[] = { "</s>", "<|end_of_sentence|>" };
    static const char turn[] = "\3Assistant: \1";
    const char *end = r->outline + r->n_outline;
    const char *at = template_search(r->outline, r->n_outline, turn);
    if (!at) return NULL;
    at += sizeof turn - 1;
    while (at < end && *at == TEMPLATE_STATEMENT) at++; /* {% generation %} */
    for (size_t i = 0; i < ERN_COUNT(ends); i++) {
        const size_t n = strlen(ends[i]);
        if ((size_t)(end - at) > n && memcmp(at, ends[i], n) == 0 && at[n] == TEMPLATE_STATEMENT)
            return ends[i];
    }
    return NULL;
}

static bool template_is_silent(char c)
{
    return c == TEMPLATE_STATEMENT || c == '\n';
}

/* The begin token first, every kind of turn, and the opening of the answer last. */
static bool template_is_plain(const template_reader *r)
{
    static const char first[] = "<|begin_of_sentence|>", last[] = "\3Assistant: ";
    static const char *const turns[] = { "\3User: \1\n\3", "\3\1\n\3" };
    const char *begin = r->outline, *end = begin + r->n_outline;
    for (size_t i = 0; i < ERN_COUNT(turns); i++)
        if (!template_search(r->outline, r->n_outline, turns[i])) return false;
    while (begin < end && template_is_silent(*begin)) begin++;
    while (begin < end && template_is_silent(end[-1])) end--;
    const size_t n = (size_t)(end - begin), n_first = sizeof first - 1, n_last = sizeof last - 1;
    return n >= n_first + n_last && memcmp(begin, first, n_first) == 0
           && memcmp(end - n_last, last, n_last) == 0;
}

/* The names that the tokenizer's configuration gives to ERNIE's special tokens. */
static void template_add_known_names(template_reader *r)
{
    static const char *const known[][2] = { { "cls_token", "<|begin_of_sentence|>" },
                                            { "sep_token", "<|end_of_sentence|>" },
                                            { "bos_token", "<s>" },
                                            { "eos_token", "</s>" } };
    for (size_t i = 0; i < ERN_COUNT(known); i++)
        r->names[r->n_names++] = (template_name){ { known[i][0], strlen(known[i][0]) },
                                                  { known[i][1], strlen(known[i][1]) } };
}

ERN_FN ERN_UNUSED ernie_chat_format ern_chat_recognise(const char *chat_template, size_t n,
                                                       const char **turn_end)
{
    template_reader r;
    *turn_end = NULL;
    if (template_is_thinking(chat_template, n)) {
        *turn_end = "<|im_end|>";
        return ERNIE_CHAT_THINKING;
    }
    r.at = chat_template;
    r.end = chat_template + n;
    r.n_names = r.n_outline = 0;
    r.overflow = false;
    template_add_known_names(&r);
    while (r.at < r.end) template_read_tag(&r);
    if (r.overflow || !template_is_plain(&r)) return ERNIE_CHAT_NONE;
    *turn_end = template_turn_end(&r);
    return *turn_end ? ERNIE_CHAT_PLAIN : ERNIE_CHAT_NONE;
}

#undef TEMPLATE_OUTLINE_MAX
#undef TEMPLATE_NAMES_MAX
#undef TEMPLATE_CONTENT
#undef TEMPLATE_VALUE
#undef TEMPLATE_STATEMENT
