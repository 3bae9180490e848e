/* The statistics of a calibration file as the encoder wants them, made when a linear is reached
 * and kept while its rows are encoded. Knows records, not tensors or weights. */
#ifndef ERN_CONVERT_CALIBRATION_H
#define ERN_CONVERT_CALIBRATION_H

#include "feedback.h"
#include "imatrix.h"
#include "plan.h"

enum { CONV_CALIBRATION_SLOTS = 3 };

typedef struct conv_calibration_slot {
    const conv_moments *of; /* whose statistics these are; NULL: empty */
    conv_feedback feedback;
    void *memory;
    size_t n_bytes;
    unsigned n_users;
    uint64_t used; /* when it was last asked for */
    bool ready;
} conv_calibration_slot;

typedef struct conv_calibration {
    const ernie_allocator *allocator;
    conv_imatrix *imatrix; /* NULL: nothing is known, all columns weigh the same */
    uint64_t memory_max;   /* bytes for one linear's second moments; larger ones count by squares */
    conv_calibration_slot slots[CONV_CALIBRATION_SLOTS];
    uint64_t clock;
    atomic_uint lock;  /* 0 free, 1 taken */
    atomic_uint epoch; /* grows when a slot becomes ready or free */
    atomic_uint n_diagonal; /* linears whose moments did not fit or were no use */
} conv_calibration;

/* A linear's feedback while it is in use. */
typedef struct conv_calibration_use {
    conv_calibration_slot *slot; /* NULL: nothing is known of the linear */
    conv_feedback feedback;
    void *stretch; /* [stretch_bytes] */
    size_t stretch_bytes;
} conv_calibration_use;

/* Open the file at `path` (NULL: none) for a model of this shape. memory_max: 0 for no limit. After
 * failure nothing is held. */
ERN_FN ernie_status conv_calibration_open(conv_calibration *calibration, const char *path,
                                          const ern_hparams *hparams, uint64_t memory_max,
                                          const ernie_allocator *allocator, ernie_error *error);
ERN_FN void conv_calibration_close(conv_calibration *calibration);

/* The feedback of a record's matrix (1: an expert's down), shared with all threads that want the
 * same one. *use is to be given back, by the same thread or another. Any thread. ERNIE_NO_MEMORY,
 * and what reading the file may return; *use then holds nothing. */
ERN_FN ernie_status conv_calibration_take(conv_calibration *calibration, const ern_record *record,
                                          uint32_t matrix, conv_calibration_use *use,
                                          ernie_error *error);
ERN_FN void conv_calibration_give(conv_calibration *calibration, conv_calibration_use *use);

/* What to hand to conv_group_encode: NULL when nothing is known. */
static ERN_INLINE const conv_feedback *conv_calibration_feedback(const conv_calibration_use *use)
{
    return use->slot ? &use->feedback : NULL;
}

#endif
