/* Baidu's -Paddle checkpoints: what sets them apart from the -PT ones. Names are spelled in names.c,
 * which asks here how the tensors lie. */
#ifndef ERN_CONVERT_PADDLE_H
#define ERN_CONVERT_PADDLE_H

#include "tensors.h"

typedef struct conv_paddle {
    bool turned; /* linear layers are stored [in, out] */
} conv_paddle;

/* Which layout the tensors are in. */
ERN_FN void conv_paddle_detect(conv_paddle *paddle, const conv_tensors *tensors);

#endif
