/* The bytes that a batch's rows need, in memory: rectangles of tensors, read by all workers before
 * the rows are made. Knows files and places, no layouts. */
#ifndef ERN_CONVERT_STAGE_H
#define ERN_CONVERT_STAGE_H

#include "columns.h"
#include "names.h"
#include "plan.h"

#define CONV_STAGE_BYTES  ((size_t)64 << 20) /* usual limit of a batch's needs */
#define CONV_STAGE_BLOCKS 6u                 /* two matrices of three slices */

typedef struct conv_stage {
    const conv_tensors *tensors;
    const ernie_allocator *allocator;
    size_t n_max;        /* as conv_stager's */
    unsigned char *data; /* [capacity] */
    size_t capacity;
    unsigned n_blocks;
    conv_columns blocks[CONV_STAGE_BLOCKS];
} conv_stage;

ERN_FN void conv_stage_close(conv_stage *stage); /* zeroed is fine */

/* Bytes that a unit of this source needs; 0 when its slices are all rows. */
ERN_FN size_t conv_stage_need(const conv_source *source, const conv_unit *unit);

/* Plan what the units first .. first + n - 1 of a record need; *n_tasks reads bring it. */
ERN_FN ernie_status conv_stage_begin(conv_stage *stage, const conv_source sources[2],
                                     const ern_record *record, uint32_t first, uint32_t n,
                                     uint32_t *n_tasks, ernie_error *error);
/* One of these reads; any thread. */
ERN_FN ernie_status conv_stage_task(const conv_stage *stage, uint32_t task, ernie_error *error);

/* The staged rows of a slice; NULL: none. */
ERN_FN const conv_columns *conv_stage_find(const conv_stage *stage, const conv_slice *slice);

#endif
