/* One answer while it is made: collects its tokens and text, streams the text, and in thinking models
 * tells the reasoning from the answer. Knows nothing of sessions; it is what a token callback fills.
 *
 * A thinking model writes "reasoning</think> <response> answer </response>", with or without the
 * inner pair. Whether the tags come as control tokens (which have no text) or spelt out, they are
 * brought to text here and found in it, held back until it is clear that they are tags. */
#ifndef ERNIE_ANSWER_H
#define ERNIE_ANSWER_H

#include "cli.h"

enum { ANSWER_TAGS = 3, ANSWER_HELD_MAX = 64 };

typedef struct model_answer {
    const ernie_model *model;
    output *out;      /* where the text streams, NULL: nowhere */
    bool splits;      /* reasoning comes first */
    json_t *logprobs; /* list to fill, NULL: not wanted */
    id_list ids;      /* of the tokens made */
    text_buffer text; /* the answer */
    text_buffer reasoning;

    /* Private: the splitter. */
    int part;     /* one of answer.c's parts */
    bool dims;    /* the terminal shows reasoning dimmed; elsewhere <think> and </think> mark it */
    bool opened;  /* the stream is inside a reasoning that must be closed */
    bool held_c2; /* see answer_show */
    int32_t tag_ids[ANSWER_TAGS]; /* -1: the vocabulary has no such token */
    char held[ANSWER_HELD_MAX];   /* blanks and the beginning of a tag, not yet given on */
    size_t n_held;
} model_answer;

/* Begin an answer. `splits`: the prompt has opened <think>. */
void answer_begin(model_answer *answer, const ernie_model *model, output *out, bool splits);

/* An ernie_token_fn, `user` is the answer. Stops the generation when the output cannot be written. */
int answer_token(const ernie_token *token, void *user);

/* Give on what is still held, and leave the terminal as it was. */
void answer_end(model_answer *answer);

void answer_free(model_answer *answer);

#endif
