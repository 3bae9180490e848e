/* Field numbers are those of sentencepiece_model.proto; fields that are not named here are skipped,
 * as protobuf readers do. */
#include "sentencepiece.h"

enum { SP_VARINT = 0, SP_FIXED64 = 1, SP_BYTES = 2, SP_FIXED32 = 5 };

enum {
    SP_MODEL_PIECE = 1,
    SP_MODEL_TRAINER = 2,
    SP_MODEL_NORMALIZER = 3,
    SP_MODEL_DENORMALIZER = 5
};
enum { SP_PIECE_TEXT = 1, SP_PIECE_SCORE = 2, SP_PIECE_TYPE = 3 };
enum { SP_TRAINER_TYPE = 3, SP_TRAINER_SUFFIX = 24, SP_TRAINER_BYTES = 35 };
enum { SP_NORMAL_CHARSMAP = 2, SP_NORMAL_PREFIX = 3, SP_NORMAL_SPACES = 4, SP_NORMAL_ESCAPE = 5 };

enum { SP_TYPE_UNIGRAM = 1, SP_TYPE_BPE = 2, SP_TYPE_WORD = 3, SP_TYPE_CHAR = 4 };

#define SP_CHARSMAP_MAX ((size_t)16 << 20)

/* ---- Wire format ----------------------------------------------------------------------------- */

typedef struct sp_field {
    uint32_t number, wire;
    uint64_t value;            /* of varints and fixed numbers */
    const unsigned char *data; /* of bytes */
    size_t n;
} sp_field;

typedef struct sp_reader {
    const unsigned char *at, *end;
    const unsigned char *begin; /* of the whole file, for positions in messages */
    const char *name;
    ernie_error *error;
} sp_reader;

static ernie_status sp_bad(const sp_reader *reader, const char *what)
{
    return ern_error_set(reader->error, ERNIE_FORMAT, "%s: %s at byte %zu", reader->name, what,
                         (size_t)(reader->at - reader->begin));
}

static bool sp_varint(sp_reader *reader, uint64_t *value)
{
    *value = 0;
    for (unsigned shift = 0; shift < 70 && reader->at < reader->end; shift += 7) {
        const uint64_t byte = *reader->at++;
        if (shift == 63 && byte > 1) return false;
        *value |= (byte & 0x7f) << shift;
        if (byte < 0x80) return true;
    }
    return false;
}

static bool sp_fixed(sp_reader *reader, size_t n, uint64_t *value)
{
    *value = 0;
    if ((size_t)(reader->end - reader->at) < n) return false;
    for (size_t i = 0; i < n; i++) *value |= (uint64_t)reader->at[i] << (8 * i);
    reader->at += n;
    return true;
}

/* The next field of a message; call while at < end. */
static ernie_status sp_next(sp_reader *reader, sp_field *field)
{
    uint64_t key, n;
    memset(field, 0, sizeof *field);
    if (!sp_varint(reader, &key) || key >> 3 == 0 || key >> 3 > UINT32_MAX >> 3)
        return sp_bad(reader, "no protobuf field");
    field->number = (uint32_t)(key >> 3);
    field->wire = (uint32_t)(key & 7);
    switch (field->wire) {
    case SP_VARINT:
        return sp_varint(reader, &field->value) ? ERNIE_OK : sp_bad(reader, "no protobuf number");
    case SP_FIXED64:
        return sp_fixed(reader, 8, &field->value) ? ERNIE_OK : sp_bad(reader, "a field is cut off");
    case SP_FIXED32:
        return sp_fixed(reader, 4, &field->value) ? ERNIE_OK : sp_bad(reader, "a field is cut off");
    case SP_BYTES:
        if (!sp_varint(reader, &n) || n > (size_t)(reader->end - reader->at))
            return sp_bad(reader, "a field is longer than what holds it");
        field->data = reader->at;
        field->n = (size_t)n;
        reader->at += n;
        return ERNIE_OK;
    default: return sp_bad(reader, "an unknown protobuf wire type");
    }
}

static sp_reader sp_inside(const sp_reader *reader, const sp_field *field)
{
    sp_reader inner = *reader;
    inner.at = field->data;
    inner.end = field->data + field->n;
    return inner;
}

static ernie_status sp_expect(const sp_reader *reader, const sp_field *field, uint32_t wire)
{
    return field->wire == wire ? ERNIE_OK
                               : sp_bad(reader, "a field of the wrong protobuf type ends");
}

/* ---- Vocabulary ------------------------------------------------------------------------------ */

ERN_FN void conv_vocab_begin(conv_vocab *vocab, const ernie_allocator *allocator)
{
    memset(vocab, 0, sizeof *vocab);
    vocab->allocator = allocator;
    vocab->text.allocator = allocator;
    vocab->charsmap.allocator = allocator;
}

ERN_FN void conv_vocab_free(conv_vocab *vocab)
{
    if (vocab->pieces)
        ern_free(vocab->allocator, vocab->pieces, vocab->capacity * sizeof *vocab->pieces);
    conv_bytes_free(&vocab->text);
    conv_bytes_free(&vocab->charsmap);
    vocab->pieces = NULL;
    vocab->n = vocab->capacity = 0;
}

static bool sp_vocab_reserve(conv_vocab *vocab, size_t n)
{
    if (n <= vocab->capacity) return true;
    const size_t more = ern_max_size(ern_max_size(n, 1024), vocab->capacity + vocab->capacity / 2);
    conv_piece *grown = ern_resize(vocab->allocator, vocab->pieces, vocab->capacity * sizeof *grown,
                                   more * sizeof *grown);
    if (!grown) return false;
    vocab->pieces = grown;
    vocab->capacity = more;
    return true;
}

ERN_FN bool conv_vocab_set(conv_vocab *vocab, size_t id, const char *text, size_t n, float score,
                           unsigned type)
{
    const conv_piece piece = { vocab->text.n, (uint32_t)n, type, score };
    if (!sp_vocab_reserve(vocab, id + 1) || !conv_bytes_add(&vocab->text, text, n)) return false;
    for (; vocab->n <= id; vocab->n++) vocab->pieces[vocab->n] = (conv_piece){ 0 };
    vocab->pieces[id] = piece;
    return true;
}

ERN_FN bool conv_vocab_write(const conv_vocab *vocab, conv_bytes *section)
{
    ern_tokenizer_head head = { .n_tokens = (uint32_t)vocab->n,
                                .flags = vocab->flags,
                                .unk_id = -1,
                                .charsmap_bytes = (uint32_t)vocab->charsmap.n };
    conv_bytes offsets = { .allocator = vocab->allocator }, types = offsets, text = offsets;
    bool fits = conv_bytes_add(section, &head, sizeof head);
    for (size_t i = 0; i < vocab->n && fits; i++) {
        char unused[32];
        const conv_piece *piece = &vocab->pieces[i];
        const uint32_t offset = (uint32_t)text.n;
        const unsigned char type = piece->type ? (unsigned char)piece->type : ERN_TOKEN_UNUSED;
        const int n_unused = snprintf(unused, sizeof unused, "<|unused:%zu|>", i);
        if (piece->type == ERN_TOKEN_UNKNOWN) head.unk_id = (int32_t)i;
        fits =
            conv_bytes_add(section, &piece->score, sizeof piece->score)
            && conv_bytes_add(&offsets, &offset, sizeof offset) && conv_bytes_add(&types, &type, 1)
            && (piece->type ? conv_bytes_add(&text, vocab->text.data + piece->text, piece->n_text)
                            : conv_bytes_add(&text, unused, (size_t)n_unused));
    }
    head.text_bytes = (uint32_t)text.n;
    fits = fits && conv_bytes_add(section, offsets.data, offsets.n)
           && conv_bytes_add(section, &head.text_bytes, sizeof head.text_bytes)
           && conv_bytes_add(section, types.data, types.n) && conv_bytes_align(section, 4)
           && conv_bytes_add(section, text.data, text.n) && conv_bytes_align(section, 4)
           && conv_bytes_add(section, vocab->charsmap.data, vocab->charsmap.n);
    if (fits) memcpy(section->data, &head, sizeof head);
    conv_bytes_free(&offsets);
    conv_bytes_free(&types);
    conv_bytes_free(&text);
    return fits;
}

/* ---- Messages -------------------------------------------------------------------------------- */

static ernie_status sp_read_piece_field(sp_reader *reader, const sp_field *field, conv_piece *piece,
                                        const char **text)
{
    uint32_t bits;
    ernie_status status = ERNIE_OK;
    switch (field->number) {
    case SP_PIECE_TEXT:
        status = sp_expect(reader, field, SP_BYTES);
        if (status != ERNIE_OK) return status;
        if (field->n == 0 || field->n > ERN_TOKEN_TEXT_MAX)
            return sp_bad(reader, "an empty or overlong piece ends");
        *text = (const char *)field->data;
        piece->n_text = (uint32_t)field->n;
        return ERNIE_OK;
    case SP_PIECE_SCORE:
        status = sp_expect(reader, field, SP_FIXED32);
        bits = (uint32_t)field->value;
        memcpy(&piece->score, &bits, sizeof bits);
        return status;
    case SP_PIECE_TYPE:
        status = sp_expect(reader, field, SP_VARINT);
        if (status == ERNIE_OK
            && (field->value < ERN_TOKEN_NORMAL || field->value > ERN_TOKEN_BYTE))
            return sp_bad(reader, "a piece of unknown type ends");
        piece->type = (uint32_t)field->value;
        return status;
    default: return ERNIE_OK;
    }
}

static ernie_status sp_read_piece(const sp_reader *outer, const sp_field *message,
                                  conv_vocab *vocab)
{
    sp_field field;
    const char *text = NULL;
    sp_reader reader = sp_inside(outer, message);
    conv_piece piece = { .type = ERN_TOKEN_NORMAL };
    while (reader.at < reader.end) {
        ernie_status status = sp_next(&reader, &field);
        if (status == ERNIE_OK) status = sp_read_piece_field(&reader, &field, &piece, &text);
        if (status != ERNIE_OK) return status;
    }
    if (!text) return sp_bad(&reader, "a piece without text ends");
    ERN_FAIL_IF(!conv_vocab_set(vocab, vocab->n, text, piece.n_text, piece.score, piece.type),
                reader.error, ERNIE_NO_MEMORY, "%s: no memory for %zu pieces", reader.name,
                vocab->n);
    return ERNIE_OK;
}

/* What the specs say, with the proto's defaults. */
typedef struct sp_specs {
    uint64_t model_type;
    bool suffix, byte_fallback, dummy_prefix, remove_spaces, escape_spaces;
    bool decoding_map;
} sp_specs;

static ernie_status sp_read_trainer(const sp_reader *outer, const sp_field *message,
                                    sp_specs *specs)
{
    sp_field field;
    sp_reader reader = sp_inside(outer, message);
    while (reader.at < reader.end) {
        ernie_status status = sp_next(&reader, &field);
        if (status != ERNIE_OK) return status;
        const bool wanted = field.number == SP_TRAINER_TYPE || field.number == SP_TRAINER_SUFFIX
                            || field.number == SP_TRAINER_BYTES;
        if (wanted) status = sp_expect(&reader, &field, SP_VARINT);
        if (status != ERNIE_OK) return status;
        if (field.number == SP_TRAINER_TYPE) specs->model_type = field.value;
        if (field.number == SP_TRAINER_SUFFIX) specs->suffix = field.value != 0;
        if (field.number == SP_TRAINER_BYTES) specs->byte_fallback = field.value != 0;
    }
    return ERNIE_OK;
}

static ernie_status sp_read_charsmap(sp_reader *reader, const sp_field *field, conv_vocab *vocab)
{
    const ernie_status status = sp_expect(reader, field, SP_BYTES);
    if (status != ERNIE_OK) return status;
    if (field->n > SP_CHARSMAP_MAX) return sp_bad(reader, "a charsmap of more than 16 MiB ends");
    vocab->charsmap.n = 0;
    ERN_FAIL_IF(!conv_bytes_add(&vocab->charsmap, field->data, field->n), reader->error,
                ERNIE_NO_MEMORY, "%s: no memory for a charsmap of %zu bytes", reader->name,
                field->n);
    return ERNIE_OK;
}

static ernie_status sp_read_normalizer(const sp_reader *outer, const sp_field *message,
                                       conv_vocab *vocab, sp_specs *specs)
{
    sp_field field;
    sp_reader reader = sp_inside(outer, message);
    while (reader.at < reader.end) {
        ernie_status status = sp_next(&reader, &field);
        if (status != ERNIE_OK) return status;
        if (field.number == SP_NORMAL_CHARSMAP) status = sp_read_charsmap(&reader, &field, vocab);
        if (field.number >= SP_NORMAL_PREFIX && field.number <= SP_NORMAL_ESCAPE)
            status = sp_expect(&reader, &field, SP_VARINT);
        if (status != ERNIE_OK) return status;
        if (field.number == SP_NORMAL_PREFIX) specs->dummy_prefix = field.value != 0;
        if (field.number == SP_NORMAL_SPACES) specs->remove_spaces = field.value != 0;
        if (field.number == SP_NORMAL_ESCAPE) specs->escape_spaces = field.value != 0;
    }
    return ERNIE_OK;
}

/* A denormalizer with a map would change decoded text; an empty one is common. */
static ernie_status sp_read_denormalizer(const sp_reader *outer, const sp_field *message,
                                         sp_specs *specs)
{
    sp_field field;
    sp_reader reader = sp_inside(outer, message);
    while (reader.at < reader.end) {
        const ernie_status status = sp_next(&reader, &field);
        if (status != ERNIE_OK) return status;
        if (field.number == SP_NORMAL_CHARSMAP && field.n > 0) specs->decoding_map = true;
    }
    return ERNIE_OK;
}

static ernie_status sp_check_specs(const sp_reader *reader, const sp_specs *specs, size_t n_pieces)
{
    static const char *const names[] = { "unknown", "unigram", "bpe", "word", "char" };
    const char *type = specs->model_type <= SP_TYPE_CHAR ? names[specs->model_type] : names[0];
    ERN_FAIL_IF(n_pieces == 0, reader->error, ERNIE_FORMAT, "%s: holds no pieces", reader->name);
    ERN_FAIL_IF(specs->model_type != SP_TYPE_BPE, reader->error, ERNIE_UNSUPPORTED,
                "%s: is a SentencePiece model of type %llu (%s), only %d (bpe) is supported",
                reader->name, (unsigned long long)specs->model_type, type, SP_TYPE_BPE);
    ERN_FAIL_IF(specs->decoding_map, reader->error, ERNIE_UNSUPPORTED,
                "%s: has a denormalizer, which is not supported", reader->name);
    return ERNIE_OK;
}

static uint32_t sp_flags(const sp_specs *specs)
{
    return (specs->dummy_prefix ? ERN_TOKENIZER_DUMMY_PREFIX : 0)
           | (specs->remove_spaces ? ERN_TOKENIZER_REMOVE_EXTRA_SPACES : 0)
           | (specs->escape_spaces ? ERN_TOKENIZER_ESCAPE_SPACES : 0)
           | (specs->byte_fallback ? ERN_TOKENIZER_BYTE_FALLBACK : 0)
           | (specs->suffix ? ERN_TOKENIZER_SPACE_SUFFIX : 0);
}

ERN_FN ernie_status conv_sentencepiece_read(conv_vocab *vocab, const unsigned char *data, size_t n,
                                            uint32_t n_max, const char *name, ernie_error *error)
{
    sp_field field;
    sp_reader reader = { .at = data, .end = data + n, .begin = data, .name = name, .error = error };
    sp_specs specs = { .model_type = SP_TYPE_UNIGRAM,
                       .dummy_prefix = true,
                       .remove_spaces = true,
                       .escape_spaces = true };
    while (reader.at < reader.end) {
        ernie_status status = sp_next(&reader, &field);
        if (status == ERNIE_OK && field.number >= SP_MODEL_PIECE
            && field.number <= SP_MODEL_NORMALIZER)
            status = sp_expect(&reader, &field, SP_BYTES);
        if (status == ERNIE_OK && field.number == SP_MODEL_PIECE) {
            ERN_FAIL_IF(vocab->n == n_max, error, ERNIE_FORMAT,
                        "%s: holds more than %u pieces, which is the model's vocab_size", name,
                        (unsigned)n_max);
            status = sp_read_piece(&reader, &field, vocab);
        }
        if (status == ERNIE_OK && field.number == SP_MODEL_TRAINER)
            status = sp_read_trainer(&reader, &field, &specs);
        if (status == ERNIE_OK && field.number == SP_MODEL_NORMALIZER)
            status = sp_read_normalizer(&reader, &field, vocab, &specs);
        if (status == ERNIE_OK && field.number == SP_MODEL_DENORMALIZER && field.wire == SP_BYTES)
            status = sp_read_denormalizer(&reader, &field, &specs);
        if (status != ERNIE_OK) return status;
    }
    vocab->flags = sp_flags(&specs);
    return sp_check_specs(&reader, &specs, vocab->n);
}

#undef SP_CHARSMAP_MAX
