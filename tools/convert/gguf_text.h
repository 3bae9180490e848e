/* Vocabulary and chat template of a GGUF file, as the sections that the same model gets from its
 * checkpoint. */
#ifndef ERN_CONVERT_GGUF_TEXT_H
#define ERN_CONVERT_GGUF_TEXT_H

#include "gguf.h"
#include "tokenizer_files.h"

/* As conv_text_files_load, from tokenizer.ggml.* and tokenizer.chat_template. ERNIE's rules are
 * forced whatever the file says or leaves out: no space is put before a text, no bos begins it. */
ERN_FN ernie_status conv_gguf_text_load(conv_text_files *files, const conv_gguf *gguf,
                                        uint32_t vocab_size, const char *chat,
                                        const ernie_allocator *allocator, const ern_log *log,
                                        ernie_error *error);

#endif
