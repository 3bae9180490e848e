// Is our tokenizer the sentencepiece library, id for id?
//
// Trains small BPE models with every option that changes encoding, here and now, and compares on
// random text: valid and broken UTF-8, long runs, special tokens, mixed scripts, spaces. With the
// shared data, also the demo model on golden.json, on all of eval.jsonl and on 100,000 strings.
//
//   token_vs_sentencepiece [STRINGS PER TRAINED MODEL]

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "token_vs_sentencepiece.h"

#ifndef ERNIE_SHARED
#define ERNIE_SHARED "../shared"
#endif

namespace
{

using Random = std::mt19937;
using Strings = std::vector<std::string>;
using Ids = std::vector<int>;

size_t below(Random &random, size_t n)
{
    return random() % n;
}

void add_utf8(std::string *text, uint32_t c)
{
    if (c < 0x80) {
        *text += char(c);
    } else if (c < 0x800) {
        *text += char(0xc0 | c >> 6);
        *text += char(0x80 | (c & 63));
    } else if (c < 0x10000) {
        *text += char(0xe0 | c >> 12);
        *text += char(0x80 | (c >> 6 & 63));
        *text += char(0x80 | (c & 63));
    } else {
        *text += char(0xf0 | c >> 18);
        *text += char(0x80 | (c >> 12 & 63));
        *text += char(0x80 | (c >> 6 & 63));
        *text += char(0x80 | (c & 63));
    }
}

// ---- Text to train on and to cut from: made-up words, Chinese, digits, both kinds of space ----

Strings make_corpus(Random &random)
{
    const Strings syllable = { "ka", "ren", "to", "li", "s",  "mon",
                               "da", "e",   "st", "or", "ni", "qu" };
    const Strings odd = { "，", "。", "!",    " - ", "  ",  "\t", "12",  "2025", "ﬁ",
                          "Å",  "①",  "ＡＢ", "é",   "<b>", "\n", "ﾊﾞﾊ", "ｶﾞ" };
    Strings words, lines;
    for (int i = 0; i < 300; i++) {
        std::string word;
        for (size_t k = 0; k <= below(random, 4); k++)
            word += syllable[below(random, syllable.size())];
        words.push_back(word);
    }
    for (int i = 0; i < 2000; i++) {
        std::string line;
        for (size_t k = 0; k < 3 + below(random, 12); k++) {
            const size_t kind = below(random, 10);
            if (kind < 6)
                line += words[below(random, 1 + below(random, words.size()))] + " ";
            else if (kind < 8)
                for (int c = 0; c < 3; c++)
                    add_utf8(&line, 0x4e00 + uint32_t(below(random, 1 + below(random, 60))));
            else
                line += odd[below(random, odd.size())];
        }
        lines.push_back(line);
    }
    return lines;
}

class Sentences : public sentencepiece::SentenceIterator
{
  public:
    explicit Sentences(const Strings &lines) : lines_(lines) {}
    bool done() const override { return i_ == lines_.size(); }
    void Next() override { i_++; }
    const std::string &value() const override { return lines_[i_]; }
    sentencepiece::util::Status status() const override { return {}; }

  private:
    const Strings &lines_;
    size_t i_ = 0;
};

// ---- Random text ----------------------------------------------------------------------------

struct Material {
    Strings corpus, pieces, specials;
};

std::string random_code_points(Random &random, size_t n)
{
    static const uint32_t ranges[][2] = {
        { 0x20, 0x7e },       { 0x4e00, 0x4e40 }, { 0x80, 0x2ff },       { 0x300, 0x36f },
        { 0x600, 0x6ff },     { 0x1100, 0x11ff }, { 0xac00, 0xac40 },    { 0xff00, 0xffef },
        { 0x1f600, 0x1f640 }, { 0x2000, 0x206f }, { 0x2581, 0x2581 },    { 0x0, 0x1f },
        { 0xfb00, 0xfdff },   { 0xfff0, 0xffff }, { 0x10fff0, 0x10ffff }
    };
    std::string text;
    for (size_t i = 0; i < n; i++) {
        const auto &range = ranges[below(random, sizeof ranges / sizeof *ranges)];
        add_utf8(&text, range[0] + uint32_t(below(random, range[1] - range[0] + 1)));
    }
    return text;
}

std::string random_bytes(Random &random, size_t n)
{
    std::string text;
    for (size_t i = 0; i < n; i++) {
        static const unsigned char hard[] = { 0x80, 0xbf, 0xc0, 0xc1, 0xc2, 0xe0, 0xed,
                                              0xef, 0xf0, 0xf4, 0xf5, 0xff, ' ' };
        text += below(random, 2) ? char(random()) : char(hard[below(random, sizeof hard)]);
    }
    return text;
}

std::string random_run(Random &random, const Material &m)
{
    const std::string unit = below(random, 2) ? m.pieces[below(random, m.pieces.size())]
                                              : random_code_points(random, 1 + below(random, 2));
    std::string text;
    const size_t n = 1 + below(random, below(random, 50) ? 40 : 4000);
    for (size_t i = 0; i < n; i++) text += unit;
    return text;
}

std::string random_corpus_cut(Random &random, const Material &m)
{
    const std::string &line = m.corpus[below(random, m.corpus.size())];
    if (line.empty()) return line;
    const size_t begin = below(random, line.size());
    return line.substr(begin, 1 + below(random, 120)); // may cut characters
}

std::string random_part(Random &random, const Material &m)
{
    switch (below(random, 12)) {
    case 0: return random_code_points(random, below(random, 12));
    case 1: return random_bytes(random, below(random, 8));
    case 2: return random_run(random, m);
    case 3: return m.specials[below(random, m.specials.size())];
    case 4: return m.specials[below(random, m.specials.size())].substr(below(random, 2));
    case 5: return std::string(below(random, 6), ' ');
    case 6: return below(random, 2) ? "\xe2\x96\x81" : " \xe2\x96\x81 ";
    case 7:
    case 8: return m.pieces[below(random, m.pieces.size())];
    default: return random_corpus_cut(random, m);
    }
}

std::string random_text(Random &random, const Material &m)
{
    std::string text;
    for (size_t n = below(random, 6) + 1; n; n--) text += random_part(random, m);
    if (!text.empty() && below(random, 8) == 0) text[below(random, text.size())] = char(random());
    return text;
}

// ---- Comparing --------------------------------------------------------------------------------

std::string printable(const std::string &text)
{
    std::string out;
    for (unsigned char c : text.substr(0, 300)) {
        char buffer[8];
        std::snprintf(buffer, sizeof buffer, c < 32 || c > 126 ? "\\x%02x" : "%c", c);
        out += buffer;
    }
    return out;
}

std::string printable(const int32_t *ids, size_t n)
{
    std::string out;
    for (size_t i = 0; i < n && i < 60; i++) out += std::to_string(ids[i]) + " ";
    return out;
}

class Pair
{
  public:
    Pair(const std::string &name, const std::string &model) : name_(name)
    {
        char message[256] = "";
        ours_ = ours_open(model.data(), model.size(), message);
        const auto status = theirs_.LoadFromSerializedProto(model);
        if (!ours_ || !status.ok()) {
            std::printf("%s: cannot be opened: %s %s\n", name.c_str(), message,
                        status.ToString().c_str());
            std::exit(1);
        }
        for (int i = 0; i < theirs_.GetPieceSize(); i++) {
            material_.pieces.push_back(theirs_.IdToPiece(i));
            const std::string &piece = theirs_.IdToPiece(i);
            if (theirs_.IsControl(i) || theirs_.IsUnknown(i) || theirs_.IsByte(i)
                || theirs_.IsUnused(i) || (piece.size() > 2 && piece[0] == '<'))
                material_.specials.push_back(piece);
        }
    }
    Pair(const Pair &) = delete;
    Pair &operator=(const Pair &) = delete;
    ~Pair() { ours_close(ours_); }

    Material &material() { return material_; }
    size_t n_texts() const { return n_texts_; }
    size_t n_wrong() const { return n_wrong_; }

    // Encode a text both ways, and decode the ids both ways.
    void compare(const std::string &text)
    {
        Ids ids;
        size_t n;
        n_texts_++;
        (void)theirs_.Encode(text, &ids);
        const int32_t *got = ours_encode(ours_, text.data(), text.size(), &n);
        if (n != ids.size() || !std::equal(ids.begin(), ids.end(), got)) {
            wrong("encode", printable(text), printable(ids.data(), ids.size()), printable(got, n));
            return;
        }
        compare_decode(ids);
    }

    // Where bytes are broken the library writes one U+FFFD for each, we one for each beginning of a
    // character: such ids are not compared.
    void compare_random_ids(Random &random)
    {
        Ids ids;
        for (size_t n = below(random, 12); n; n--)
            ids.push_back(int(below(random, material_.pieces.size())));
        std::string text;
        (void)theirs_.Decode(ids, &text);
        if (text.find("\xef\xbf\xbd") == std::string::npos) compare_decode(ids);
    }

  private:
    void compare_decode(const Ids &ids)
    {
        std::string text;
        size_t n;
        (void)theirs_.Decode(ids, &text);
        const char *got = ours_decode(ours_, ids.data(), ids.size(), &n);
        if (text != std::string(got, n))
            wrong("decode", printable(ids.data(), ids.size()), printable(text),
                  printable(std::string(got, n)));
    }

    void wrong(const char *what, const std::string &input, const std::string &theirs,
               const std::string &ours)
    {
        if (++n_wrong_ <= 5)
            std::printf("%s: %s differs\n  input   %s\n  library %s\n  ours    %s\n", name_.c_str(),
                        what, input.c_str(), theirs.c_str(), ours.c_str());
    }

    std::string name_;
    ours *ours_;
    sentencepiece::SentencePieceProcessor theirs_;
    Material material_;
    size_t n_texts_ = 0, n_wrong_ = 0;
};

// ---- Models -------------------------------------------------------------------------------------

struct Recipe {
    const char *name, *options;
    bool unused;       // turn a third of the pieces into unused ones
    const char *patch; // bytes appended to the model file: fields that training cannot set
    size_t n_patch;
};

const Recipe recipes[] = {
    { "as ERNIE",
      "--normalization_rule_name=identity --add_dummy_prefix=false --remove_extra_whitespaces=false"
      " --byte_fallback=true --split_digits=true --allow_whitespace_only_pieces=true"
      " --split_by_whitespace=false"
      " --user_defined_symbols=<|begin_of_sentence|>,<|end_of_sentence|>,<mask:1>,<mask:11>,<think>"
      ",0,1,2,3",
      false, nullptr, 0 },
    { "library defaults", "", false, nullptr, 0 },
    { "nmt_nfkc_cf, symbols, fallback",
      "--normalization_rule_name=nmt_nfkc_cf --byte_fallback=true"
      " --user_defined_symbols=<sep>,<se,kare,ren,ＡＢ,▁to",
      false, nullptr, 0 },
    { "whitespace suffix", "--treat_whitespace_as_suffix=true --user_defined_symbols=<sep>", false,
      nullptr, 0 },
    { "whitespace suffix, untrimmed, unused",
      "--treat_whitespace_as_suffix=true --remove_extra_whitespaces=false --byte_fallback=true",
      true, nullptr, 0 },
    { "unused pieces", "--normalization_rule_name=nfkc --user_defined_symbols=<sep>,st,k,q", true,
      nullptr, 0 },
    { "prefix, untrimmed", "--remove_extra_whitespaces=false --byte_fallback=true", false, nullptr,
      0 },
    { "trimmed, no prefix", "--add_dummy_prefix=false", false, nullptr, 0 },
    { "spaces not escaped", "--byte_fallback=true", false, "\x1a\x02\x28\x00", 4 },
};

uint64_t read_varint(const std::string &bytes, size_t *at)
{
    uint64_t value = 0;
    for (unsigned shift = 0;; shift += 7) {
        const auto byte = static_cast<unsigned char>(bytes[(*at)++]);
        value |= uint64_t(byte & 0x7f) << shift;
        if (byte < 0x80) return value;
    }
}

void add_varint(std::string *bytes, uint64_t value)
{
    for (; value >= 0x80; value >>= 7) *bytes += char(value | 0x80);
    *bytes += char(value);
}

// The model with some of its normal pieces (which are written without a type) made unused. At the
// top a model file holds nothing but messages.
std::string with_unused(const std::string &model, Random &random)
{
    std::string out;
    for (size_t at = 0; at < model.size();) {
        const uint64_t key = read_varint(model, &at), n = read_varint(model, &at);
        std::string message = model.substr(at, n);
        at += n;
        const bool normal = key == (1 << 3 | 2) && message[message.size() - 2] != 0x18;
        if (normal && below(random, 3) == 0) message += std::string("\x18\x05", 2);
        add_varint(&out, key);
        add_varint(&out, message.size());
        out += message;
    }
    return out;
}

std::string train(const Recipe &recipe, const Strings &corpus, Random &random)
{
    std::string model;
    Sentences sentences(corpus);
    const std::string options =
        std::string("--model_type=bpe --vocab_size=700 --hard_vocab_limit=false --minloglevel=2 "
                    "--num_threads=1 "
                    "--character_coverage=0.999 ")
        + recipe.options;
    const auto status = sentencepiece::SentencePieceTrainer::Train(options, &sentences, &model);
    if (!status.ok()) {
        std::printf("%s: training failed: %s\n", recipe.name, status.ToString().c_str());
        std::exit(1);
    }
    if (recipe.patch) model.append(recipe.patch, recipe.n_patch);
    return recipe.unused ? with_unused(model, random) : model;
}

// ---- The shared data ----------------------------------------------------------------------------

std::string read_shared(const char *name)
{
    const char *shared = std::getenv("ERNIE_SHARED");
    std::ifstream file(std::string(shared && *shared ? shared : ERNIE_SHARED) + "/data/" + name,
                       std::ios::binary);
    return { std::istreambuf_iterator<char>(file), {} };
}

unsigned hex4(const std::string &json, size_t at)
{
    return unsigned(std::stoul(json.substr(at, 4), nullptr, 16));
}

// The JSON string whose opening quote is at json[*at]; *at moves behind its closing one.
std::string json_string(const std::string &json, size_t *at)
{
    std::string text;
    size_t i = *at + 1;
    for (; json[i] != '"'; i++) {
        if (json[i] != '\\') {
            text += json[i];
            continue;
        }
        const char c = json[++i];
        if (c != 'u') {
            const char *plain = "nrtbf", *real = "\n\r\t\b\f";
            const size_t k = std::string(plain).find(c);
            text += k == std::string::npos ? c : real[k];
            continue;
        }
        uint32_t code = hex4(json, i + 1);
        i += 4;
        if (code >= 0xd800 && code < 0xdc00) {
            code = 0x10000 + ((code - 0xd800) << 10) + (hex4(json, i + 3) - 0xdc00);
            i += 6;
        }
        add_utf8(&text, code);
    }
    *at = i + 1;
    return text;
}

// Every value of "text" and "prompt" in a JSON document.
Strings json_texts(const std::string &json)
{
    Strings texts;
    for (const char *key : { "\"text\": ", "\"prompt\": " })
        for (size_t at = json.find(key); at != std::string::npos; at = json.find(key, at)) {
            at += std::string(key).size();
            texts.push_back(json_string(json, &at));
        }
    return texts;
}

// Returns mistakes.
size_t compare_random(Pair *pair, size_t n_strings, Random &random)
{
    for (size_t i = 0; i < n_strings; i++) {
        pair->compare(random_text(random, pair->material()));
        if (i % 8 == 0) pair->compare_random_ids(random);
    }
    return pair->n_wrong();
}

size_t compare_demo(Random &random)
{
    const std::string model = read_shared("ernie-demo-moe/tokenizer.model");
    if (model.empty()) {
        std::printf("demo model: skipped, no shared data\n");
        return 0;
    }
    Pair pair("demo model", model);
    Strings texts = json_texts(read_shared("ernie-demo-moe/golden.json"));
    const Strings eval = json_texts(read_shared("eval.jsonl"));
    texts.insert(texts.end(), eval.begin(), eval.end());
    for (const std::string &text : texts) pair.compare(text);
    pair.material().corpus = texts;
    const size_t n_wrong = compare_random(&pair, 100000, random);
    std::printf("demo model: %zu texts, %zu of them real, %zu differ\n", pair.n_texts(),
                texts.size(), n_wrong);
    return n_wrong;
}

} // namespace

int main(int argc, char **argv)
{
    const size_t n_strings = argc > 1 ? std::stoul(argv[1]) : 12000;
    Random random(2025);
    const Strings corpus = make_corpus(random);
    size_t n_wrong = 0;
    for (const Recipe &recipe : recipes) {
        Pair pair(recipe.name, train(recipe, corpus, random));
        pair.material().corpus = corpus;
        for (const std::string &line : corpus) pair.compare(line);
        const size_t wrong = compare_random(&pair, n_strings, random);
        std::printf("%s: %zu texts, %zu differ\n", recipe.name, pair.n_texts(), wrong);
        n_wrong += wrong;
    }
    n_wrong += compare_demo(random);
    return n_wrong ? 1 : 0;
}
