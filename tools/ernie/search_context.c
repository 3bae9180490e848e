/* Search results in a JSON file, made into a prompt. */
#include "search_context.h"

#include <stdlib.h>
#include <string.h>

/* Does the text hold a Han character? Those of the ranges below are all that decide, so broken UTF-8
 * needs no care beyond not reading past the end. */
static bool search_has_han(const char *text)
{
    const unsigned char *at = (const unsigned char *)text;
    for (; *at; at++) {
        uint32_t code = 0;
        if (*at >= 0xe0 && *at < 0xf0 && at[1] && at[2])
            code = (*at & 0x0fu) << 12 | (at[1] & 0x3fu) << 6 | (at[2] & 0x3fu);
        else if (*at >= 0xf0 && at[1] && at[2] && at[3])
            code = (*at & 0x07u) << 18 | (at[1] & 0x3fu) << 12 | (at[2] & 0x3fu) << 6
                   | (at[3] & 0x3fu);
        if ((code >= 0x3400 && code <= 0x4dbf) || (code >= 0x4e00 && code <= 0x9fff)
            || (code >= 0xf900 && code <= 0xfaff) || (code >= 0x20000 && code <= 0x323af))
            return true;
    }
    return false;
}

static json_t *search_read(cli_context *cli, const char *path)
{
    text_buffer text = { 0 };
    json_error_t error;
    file_error file;
    json_t *root = NULL;
    if (!buffer_read_file(&text, path, &file)) {
        cli_fail(cli, CLI_FAILED, "%s: %s", path, file.reason);
    } else if (!(root = json_loadb(buffer_text(&text), text.n, 0, &error))) {
        cli_fail(cli, CLI_FAILED, "%s: line %d is not JSON: %s", path, error.line, error.text);
    } else if (!json_is_object(root)) {
        cli_fail(cli, CLI_FAILED, "%s: not a JSON object", path);
        json_decref(root);
        root = NULL;
    }
    buffer_free(&text);
    return root;
}

/* A reference's text field, NULL when it is absent or null. False when it is something else. */
static bool search_field(const json_t *reference, const char *name, const char **text)
{
    const json_t *value = json_object_get(reference, name);
    *text = json_string_value(value);
    return !value || json_is_null(value) || *text;
}

/* Returns NULL, or the name of the field that is not a string. */
static const char *search_reference(const json_t *value, ernie_reference *reference)
{
    if (!search_field(value, "title", &reference->title)) return "title";
    if (!search_field(value, "published", &reference->published)) return "published";
    if (!search_field(value, "content", &reference->content)) return "content";
    if (!search_field(value, "url", &reference->url)) return "url";
    if (!search_field(value, "site", &reference->site)) return "site";
    return NULL;
}

static int search_references(cli_context *cli, const char *path, const json_t *list,
                             ernie_reference *references)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *value = json_array_get(list, i);
        if (!json_is_object(value))
            return cli_fail(cli, CLI_FAILED, "%s: references[%zu] is not an object", path, i);
        const char *bad = search_reference(value, &references[i]);
        if (bad)
            return cli_fail(cli, CLI_FAILED, "%s: references[%zu].%s is not a string", path, i,
                            bad);
    }
    return CLI_OK;
}

static int search_language(cli_context *cli, const char *path, const json_t *root,
                           const char *question, ernie_language *language)
{
    const json_t *value = json_object_get(root, "language");
    const char *name = json_string_value(value);
    *language = search_has_han(question) ? ERNIE_LANGUAGE_ZH : ERNIE_LANGUAGE_EN;
    if (!value || json_is_null(value)) return CLI_OK;
    if (name && !strcmp(name, "zh"))
        *language = ERNIE_LANGUAGE_ZH;
    else if (name && !strcmp(name, "en"))
        *language = ERNIE_LANGUAGE_EN;
    else
        return cli_fail(cli, CLI_FAILED, "%s: language is neither \"zh\" nor \"en\"", path);
    return CLI_OK;
}

static int search_build(cli_context *cli, ernie_language language, const char *date,
                        const char *question, const ernie_reference *references, size_t n,
                        text_buffer *prompt)
{
    ernie_error error;
    size_t n_text = 0;
    ernie_status status =
        ernie_search_prompt(language, date, question, references, n, NULL, 0, &n_text, &error);
    char *text = NULL;
    if (status == ERNIE_OK || status == ERNIE_FULL) {
        text = memory_resize(NULL, n_text + 1, 1);
        status = ernie_search_prompt(language, date, question, references, n, text, n_text + 1,
                                     &n_text, &error);
    }
    if (status == ERNIE_OK) buffer_add(prompt, text, n_text);
    free(text);
    return status == ERNIE_OK ? CLI_OK : cli_fail_error(cli, NULL, &error);
}

int search_context_prompt(cli_context *cli, const char *path, const char *question,
                          text_buffer *prompt)
{
    json_t *root = search_read(cli, path);
    if (!root) return CLI_FAILED;
    const char *date = json_string_value(json_object_get(root, "date"));
    const json_t *list = json_object_get(root, "references");
    ernie_reference *references = NULL;
    ernie_language language = ERNIE_LANGUAGE_ZH;
    int status;
    if (!date)
        status = cli_fail(cli, CLI_FAILED, "%s: date is missing or not a string", path);
    else if (!json_is_array(list))
        status = cli_fail(cli, CLI_FAILED, "%s: references is missing or not an array", path);
    else
        status = search_language(cli, path, root, question, &language);
    if (status == CLI_OK) {
        references = memory_resize(NULL, json_array_size(list) + 1, sizeof *references);
        status = search_references(cli, path, list, references);
    }
    if (status == CLI_OK)
        status =
            search_build(cli, language, date, question, references, json_array_size(list), prompt);
    free(references);
    json_decref(root);
    return status;
}
