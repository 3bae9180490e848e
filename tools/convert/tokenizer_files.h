/* All files of a checkpoint that say something about text: tokenizer.model, added_tokens.json,
 * tokenizer_config.json, the chat template. What comes out are the file's tokenizer and chat
 * sections. */
#ifndef ERN_CONVERT_TOKENIZER_FILES_H
#define ERN_CONVERT_TOKENIZER_FILES_H

#include "sentencepiece.h"

#define CONV_TEMPLATE_BYTES_MAX ((uint64_t)1 << 20)

typedef struct conv_text_files {
    conv_bytes tokenizer; /* sections; empty when the checkpoint has no tokenizer */
    conv_bytes chat;
    int32_t turn_end_id; /* -1: none */
} conv_text_files;

/* Read them from `dir` for a model of vocab_size rows. `chat`: "plain", "thinking", "none", or NULL
 * for what the checkpoint's template is recognised as. Free it also after failure. */
ERN_FN ernie_status conv_text_files_load(conv_text_files *files, const char *dir,
                                         uint32_t vocab_size, const char *chat,
                                         const ernie_allocator *allocator, const ern_log *log,
                                         ernie_error *error);

/* The same from a vocabulary (NULL: none) and a chat template (empty: none) that come from
 * elsewhere, into files that were begun. The tokenizer section goes once through the library's own
 * reader, so that what is written can be opened. */
ERN_FN void conv_text_files_begin(conv_text_files *files, const ernie_allocator *allocator);
ERN_FN ernie_status conv_text_files_write(conv_text_files *files, const conv_vocab *vocab,
                                          const conv_bytes *chat_template, const char *chat,
                                          const ernie_allocator *allocator, const ern_log *log,
                                          ernie_error *error);
ERN_FN void conv_text_files_free(conv_text_files *files);

#endif
