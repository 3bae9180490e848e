/* The web-search prompts published with the ERNIE 4.5 models (Apache-2.0): a question to be
 * answered from references. Owns the two texts, byte for byte as the models were tuned for them,
 * spaces at the ends of lines included, and the form of a reference, which is Chinese in both.
 * Knows no tokens. */
#include "chat.h"

/* One line of the prompt, or a part of one up to a comma, is one line here. */
/* clang-format off */
static const char search_prompt_zh[] =
    "下面你会收到当前时间、多个不同来源的参考文章和一段对话。你的任务是阅读多个参考文章，"
    "并根据参考文章中的信息回答对话中的问题。\n"
    "以下是当前时间和参考文章：\n"
    "---------\n"
    "#当前时间\n"
    "{date}\n"
    "\n"
    "#参考文章\n"
    "{references}\n"
    "\n"
    "---------\n"
    "请注意：\n"
    "1. 回答必须结合问题需求和当前时间，对参考文章的可用性进行判断，避免在回答中使用错误或过时的信息。\n"
    "2. 当参考文章中的信息无法准确地回答问题时，你需要在回答中提供获取相应信息的建议，"
    "或承认无法提供相应信息。\n"
    "3. 你需要优先根据百科、官网、权威机构、专业网站等高权威性来源的信息来回答问题。\n"
    "4. 回复需要综合参考文章中的相关数字、案例、法律条文、公式等信息，使你的答案更专业。\n"
    "5. 当问题属于创作类任务时，需注意以下维度：\n"
    "   - 态度鲜明：观点、立场清晰明确，避免模棱两可，语言果断直接\n"
    "   - 文采飞扬：用词精准生动，善用修辞手法，增强感染力\n"
    "   - 有理有据：逻辑严密递进，结合权威数据/事实支撑论点\n"
    "---------\n"
    "下面请结合以上信息，回答问题，补全对话\n"
    "{question}";
/* clang-format on */

static const char search_prompt_en[] =
    "\n"
    "Below you will be given the current time, multiple references from different sources, and a "
    "conversation. Your task is to read the references and use the information in them to answer "
    "the question in the conversation.\n"
    "Here are the current time and the references:\n"
    "---------\n"
    "#Current Time\n"
    "{date}\n"
    "\n"
    "#References\n"
    "{references}\n"
    "\n"
    "---------\n"
    "Please note:\n"
    "1. Based on the question’s requirements and the current time, assess the usefulness of the "
    "references to avoid using inaccurate or outdated information in the answer.  \n"
    "2. If the references do not provide enough information to accurately answer the question, "
    "you should suggest how to obtain the relevant information or acknowledge that you are "
    "unable to provide it.  \n"
    "3. Prioritize using information from highly authoritative sources such as encyclopedias, "
    "official websites, authoritative institutions, and professional websites when answering "
    "questions.\n"
    "4. Incorporate relevant numbers, cases, legal provisions, formulas, and other details from "
    "the references to make your answer more professional.\n"
    "5. For creative tasks, keep these dimensions in mind:\n"
    "   - Clear attitude: Clear views and positions, avoid ambiguity, and use decisive and direct "
    "language\n"
    "   - Brilliant writing: Precise and vivid words, good use of rhetoric, and enhance the "
    "appeal\n"
    "   - Well-reasoned: Rigorous logic and progressive, combined with authoritative data/facts to "
    "support the argument\n"
    "\n"
    "---------\n"
    "Now, using the information above, answer the question and complete the conversation:  \n"
    "{question}";

/* ---- Filling in ---------------------------------------------------------------------------- */

typedef struct search_values {
    const char *date, *question;
    const ernie_reference *references;
    size_t n_references;
} search_values;

static bool search_add(ern_text *text, const char *words)
{
    return !words || ern_text_add(text, words, strlen(words));
}

static bool search_add_reference(ern_text *text, size_t number, const ernie_reference *reference)
{
    char head[64];
    snprintf(head, sizeof head, "##参考文章%zu", number);
    const char *const words[] = { head,
                                  "\n标题：",
                                  reference->title,
                                  "\n文章发布时间：",
                                  reference->published,
                                  "\n内容：",
                                  reference->content,
                                  "\n来源网站网址：",
                                  reference->url,
                                  "\n来源网站的网站名：",
                                  reference->site };
    for (size_t i = 0; i < ERN_COUNT(words); i++)
        if (!search_add(text, words[i])) return false;
    return true;
}

static bool search_add_references(ern_text *text, const search_values *values)
{
    for (size_t i = 0; i < values->n_references; i++) {
        if (i && !search_add(text, "\n\n")) return false;
        if (!search_add_reference(text, i + 1, &values->references[i])) return false;
    }
    return true;
}

/* Write what stands for the place that `at` begins with, and return where it ends. */
static const char *search_add_place(ern_text *text, const char *at, const search_values *values)
{
    static const char date[] = "{date}", references[] = "{references}", question[] = "{question}";
    if (strncmp(at, date, sizeof date - 1) == 0)
        return search_add(text, values->date) ? at + sizeof date - 1 : NULL;
    if (strncmp(at, references, sizeof references - 1) == 0)
        return search_add_references(text, values) ? at + sizeof references - 1 : NULL;
    ERN_ASSERT(strncmp(at, question, sizeof question - 1) == 0);
    return search_add(text, values->question) ? at + sizeof question - 1 : NULL;
}

/* The prompts have braces nowhere but around their places. */
static bool search_fill_in(ern_text *text, const char *prompt, const search_values *values)
{
    while (*prompt) {
        const size_t n = strcspn(prompt, "{");
        if (!ern_text_add(text, prompt, n)) return false;
        prompt += n;
        if (*prompt) prompt = search_add_place(text, prompt, values);
        if (!prompt) return false;
    }
    return true;
}

ERN_FN ernie_status ern_search_text(ernie_language language, const char *date, const char *question,
                                    const ernie_reference *references, size_t n, ern_text *text,
                                    ernie_error *error)
{
    const search_values values = { date, question, references, n };
    const size_t n_before = text->n;
    ERN_FAIL_IF(language != ERNIE_LANGUAGE_ZH && language != ERNIE_LANGUAGE_EN, error,
                ERNIE_INVALID, "language %d, expected 0 (Chinese) or 1 (English)", (int)language);
    ERN_FAIL_IF(!date || !question, error, ERNIE_INVALID, "a search prompt needs a %s",
                date ? "question" : "date");
    ERN_FAIL_IF(!references && n > 0, error, ERNIE_INVALID, "%zu references at NULL", n);
    const char *prompt = language == ERNIE_LANGUAGE_ZH ? search_prompt_zh : search_prompt_en;
    if (search_fill_in(text, prompt, &values)) return ERNIE_OK;
    text->n = n_before;
    return ern_error_set(error, ERNIE_NO_MEMORY, "no memory for a prompt with %zu references", n);
}
