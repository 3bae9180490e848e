/* A -Paddle checkpoint is told by its tensors: config.json says nothing about the layout. */
#include "paddle.h"

/* The prefix alone proves nothing and square matrices look alike, so each kind of linear is asked on
 * which side the hidden size stands. */
static bool paddle_is_turned(const conv_tensor *tensor, uint64_t hidden)
{
    static const struct {
        const char *end;
        unsigned hidden; /* the dimension that is the hidden size in Paddle */
    } marks[] = { { "qkv_proj.weight", 0 },
                  { ".q_proj.weight", 0 },
                  { "up_gate_proj.weight", 0 },
                  { ".up_proj.weight", 0 },
                  { ".down_proj.weight", 1 } };
    if (tensor->n_dims != 2) return false;
    for (size_t k = 0; k < ERN_COUNT(marks); k++)
        if (strstr(tensor->name, marks[k].end) && tensor->dims[marks[k].hidden] == hidden
            && tensor->dims[!marks[k].hidden] != hidden)
            return true;
    return false;
}

ERN_FN void conv_paddle_detect(conv_paddle *paddle, const conv_tensors *tensors)
{
    const conv_tensor *embed = conv_tensors_find(tensors, "ernie.embed_tokens.weight");
    paddle->turned = false;
    if (!embed || embed->n_dims != 2) return;
    for (size_t i = 0; i < tensors->n && !paddle->turned; i++)
        paddle->turned = paddle_is_turned(&tensors->items[i], embed->dims[1]);
}
