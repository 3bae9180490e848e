/* The demo model's golden token ids. */
#ifndef TEST_TOKEN_GOLDEN_H
#define TEST_TOKEN_GOLDEN_H

#include "../../src/token.h"

typedef struct golden_case {
    const char *text, *decoded;
    ernie_tokenize_mode mode;
    int32_t ids[32]; /* up to the first 0, which occurs in none */
} golden_case;

/* From the "tokenizer" list of the demo's golden values and of its prompts ("cases"). */
static const golden_case golden_cases[] = {
    { "Hello world", "Hello world", ERNIE_TOKENIZE_TEXT, { 6442, 500, 6370, 849 } },
    { "  two  spaces", "  two  spaces", ERNIE_TOKENIZE_TEXT, { 6366, 701, 6366, 485, 1971 } },
    { "床前明月光，疑是地上霜。",
      "床前明月光，疑是地上霜。",
      ERNIE_TOKENIZE_TEXT,
      { 7162, 6512, 1065, 6561, 6379, 4094, 6551, 6431, 6671, 6378 } },
    { "《静夜思》\n李白",
      "《静夜思》\n李白",
      ERNIE_TOKENIZE_TEXT,
      { 6390, 6810, 6467, 6578, 6391, 18, 6665, 6476 } },
    { "1234567890",
      "1234567890",
      ERNIE_TOKENIZE_TEXT,
      { 6736, 6945, 7445, 7535, 7325, 7596, 7762, 7601, 7102, 6863 } },
    { "naïve café — “quotes”",
      "naïve café — “quotes”",
      ERNIE_TOKENIZE_TEXT,
      { 2159, 214, 194, 330, 292, 2719, 9745, 6366, 6731, 366, 476, 323, 313, 6408 } },
    { "😀 emoji 🤖",
      "😀 emoji 🤖",
      ERNIE_TOKENIZE_TEXT,
      { 259, 178, 171, 147, 1002, 6370, 6489, 6373, 6366, 259, 178, 183, 169 } },
    { "\t tab\n\nnewlines\n",
      "\t tab\n\nnewlines\n",
      ERNIE_TOKENIZE_TEXT,
      { 28, 535, 6389, 18, 18, 763, 5896, 1923, 18 } },
    { "<|begin_of_sentence|>User: 你好\nAssistant: ",
      "<|begin_of_sentence|>User: 你好\nAssistant: ",
      ERNIE_TOKENIZE_TEXT,
      { 3, 6933, 2088, 6443, 6366, 8831, 6613, 18, 6423, 653, 515, 453, 6443, 6366 } },
    { "龘靐齉爩",
      "龘靐齉爩",
      ERNIE_TOKENIZE_TEXT,
      { 252, 209, 171, 252, 176, 163, 252, 208, 156, 250, 155, 188 } },
    { "a", "a", ERNIE_TOKENIZE_TEXT, { 6369 } },
    { "", "", ERNIE_TOKENIZE_TEXT, { 0 } },
    { " ", " ", ERNIE_TOKENIZE_TEXT, { 6366 } },
    { "عربى", "عربى", ERNIE_TOKENIZE_TEXT, { 235, 204, 235, 196, 235, 187, 236, 156 } },
    { "</s><s>", "</s><s>", ERNIE_TOKENIZE_TEXT, { 79, 8675, 6374, 11842, 79, 6374, 11842 } },
    { "<mask:1>x<mask:2>", "<mask:1>x<mask:2>", ERNIE_TOKENIZE_TEXT, { 5, 6470, 6 } },
    { "The quick brown fox jumps over the lazy dog.",
      "The quick brown fox jumps over the lazy dog.",
      ERNIE_TOKENIZE_TEXT,
      { 350, 1818, 3220, 2540, 479, 513, 1157, 609, 278, 997, 4861, 1985, 6393 } },
    { "\xe3\x80\x80"
      "全角\xe3\x80\x80"
      "空格",
      "\xe3\x80\x80"
      "全角\xe3\x80\x80"
      "空格",
      ERNIE_TOKENIZE_TEXT,
      { 246, 147, 147, 7021, 7111, 246, 147, 147, 6483, 8269 } },
    { "é", "é", ERNIE_TOKENIZE_TEXT, { 9745 } },
    { "ﬁ ligature", "ﬁ ligature", ERNIE_TOKENIZE_TEXT, { 258, 191, 148, 451, 6385, 1394 } },
    { "\r\n", "\r\n", ERNIE_TOKENIZE_TEXT, { 32, 18 } },
    { "𠮷野家", "𠮷野家", ERNIE_TOKENIZE_TEXT, { 259, 179, 193, 202, 6674, 6494 } },
    { "…", "…", ERNIE_TOKENIZE_TEXT, { 10359 } },
    { "mixed中英text混排123",
      "mixed中英text混排123",
      ERNIE_TOKENIZE_TEXT,
      { 6382, 4512, 6420, 6970, 1271, 984, 8410, 7848, 6736, 6945, 7445 } },
    { "<|begin_of_sentence|>User: 写一首五言绝句\nAssistant: ",
      "<|begin_of_sentence|>User: 写一首五言绝句\nAssistant: ",
      ERNIE_TOKENIZE_SPECIAL,
      { 3, 6933, 2088, 6443, 6366, 926, 18, 6423, 653, 515, 453, 6443, 6366 } },
    { "<|begin_of_sentence|>User: 写一首题为《秋夜》的诗\nAssistant: ",
      "<|begin_of_sentence|>User: 写一首题为《秋夜》的诗\nAssistant: ",
      ERNIE_TOKENIZE_SPECIAL,
      { 3, 6933, 2088, 6443, 6366, 344, 6390, 2897, 6391, 343, 18, 6423, 653, 515, 453, 6443,
        6366 } },
    { "<|begin_of_sentence|>User: 填一首《浣溪沙》\nAssistant: ",
      "<|begin_of_sentence|>User: 填一首《浣溪沙》\nAssistant: ",
      ERNIE_TOKENIZE_SPECIAL,
      { 3, 6933, 2088, 6443, 6366, 537, 6390, 2741, 6391, 18, 6423, 653, 515, 453, 6443, 6366 } },
    { "<|begin_of_sentence|>User: 续写：床前明月光，疑是地上霜。\nAssistant: ",
      "<|begin_of_sentence|>User: 续写：床前明月光，疑是地上霜。\nAssistant: ",
      ERNIE_TOKENIZE_SPECIAL,
      { 3,    6933, 2088, 6443, 6366, 403, 6468, 7162, 6512, 1065, 6561, 6379,
        4094, 6551, 6431, 6671, 6378, 18,  6423, 653,  515,  453,  6443, 6366 } },
    { "<|begin_of_sentence|>User: Continue the story: There was once a little fir "
      "tree.\nAssistant: ",
      "<|begin_of_sentence|>User: Continue the story: There was once a little fir "
      "tree.\nAssistant: ",
      ERNIE_TOKENIZE_SPECIAL,
      { 3,   6933, 2088, 6443, 6366, 497, 278,  591, 6443, 1014, 337,  812,
        277, 506,  752,  1159, 6393, 18,  6423, 653, 515,  453,  6443, 6366 } },
};

#endif
