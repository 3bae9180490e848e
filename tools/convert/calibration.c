/* A few slots, found by the statistics they were made from. The thread that comes first makes a
 * linear's feedback; those that come while it does wait for it.
 *
 * Experts that share their layer's matrix of moments differ in the squares: one feedback is made
 * from the common matrix, and each expert stretches its columns to its own. */
#include "calibration.h"
#include "../../src/os.h"

#include <math.h>

/* Part of the mean square that is added to every channel's. The demo model's experts at c2, all else
 * w8, lose 0.215 nats a token above bf16 at 0.01, 0.214 at 0.1, 0.195 at 0.3, 0.210 at 1; w4 loses
 * 0.027, 0.031, 0.033 and 0.030, which is chance (one standard error is 0.003). */
#define CALIBRATION_DAMPING     0.3f
#define CALIBRATION_DAMPING_MAX 100.0f
#define CALIBRATION_STRETCH_MAX 1e6f /* and one over it: errors and what they pull stay finite */

static void calibration_lock(conv_calibration *calibration)
{
    unsigned expected = 0;
    while (!atomic_compare_exchange_weak(&calibration->lock, &expected, 1)) {
        if (expected == 1) ern_wait(&calibration->lock, 1);
        expected = 0;
    }
}

static void calibration_unlock(conv_calibration *calibration)
{
    atomic_store(&calibration->lock, 0);
    ern_wake_all(&calibration->lock);
}

static void calibration_announce(conv_calibration *calibration)
{
    atomic_fetch_add(&calibration->epoch, 1);
    ern_wake_all(&calibration->epoch);
}

ERN_FN ernie_status conv_calibration_open(conv_calibration *calibration, const char *path,
                                          const ern_hparams *hparams, uint64_t memory_max,
                                          const ernie_allocator *allocator, ernie_error *error)
{
    memset(calibration, 0, sizeof *calibration);
    calibration->allocator = allocator;
    calibration->memory_max = memory_max ? memory_max : UINT64_MAX;
    if (!path) return ERNIE_OK;
    ernie_status status = conv_imatrix_open(&calibration->imatrix, path, allocator, error);
    if (status == ERNIE_OK) status = conv_imatrix_check(calibration->imatrix, hparams, error);
    if (status != ERNIE_OK) conv_calibration_close(calibration);
    return status;
}

static void calibration_empty(conv_calibration *calibration, conv_calibration_slot *slot)
{
    if (slot->memory) ern_free_aligned(calibration->allocator, slot->memory, slot->n_bytes);
    memset(slot, 0, sizeof *slot);
}

ERN_FN void conv_calibration_close(conv_calibration *calibration)
{
    for (unsigned i = 0; i < CONV_CALIBRATION_SLOTS; i++)
        calibration_empty(calibration, &calibration->slots[i]);
    conv_imatrix_close(calibration->imatrix);
    calibration->imatrix = NULL;
}

/* ---- Making one ------------------------------------------------------------------------------ */

static ernie_status calibration_alloc(conv_calibration *calibration, conv_calibration_slot *slot,
                                      size_t n_bytes, ernie_error *error)
{
    if (slot->memory) ern_free_aligned(calibration->allocator, slot->memory, slot->n_bytes);
    slot->n_bytes = n_bytes;
    slot->memory = ern_alloc_aligned(calibration->allocator, n_bytes);
    ERN_FAIL_IF(!slot->memory, error, ERNIE_NO_MEMORY, "no memory for %zu bytes of error feedback",
                n_bytes);
    return ERNIE_OK;
}

/* Damped further where it must be; *made is false when even that does not help. */
static ernie_status calibration_factor(conv_calibration *calibration, conv_calibration_slot *slot,
                                       void *work, bool *made, ernie_error *error)
{
    *made = false;
    const uint32_t n_cols = slot->of->n_cols;
    for (float damping = CALIBRATION_DAMPING; !*made && damping <= CALIBRATION_DAMPING_MAX;
         damping *= 10) {
        const ernie_status status = conv_imatrix_read(calibration->imatrix, slot->of,
                                                      conv_feedback_moments(work), error);
        if (status != ERNIE_OK) return status;
        *made = conv_feedback_make(&slot->feedback, work, n_cols, damping);
    }
    return ERNIE_OK;
}

static ernie_status calibration_make(conv_calibration *calibration, conv_calibration_slot *slot,
                                     ernie_error *error)
{
    bool made = false;
    const conv_moments *of = slot->of;
    const size_t n_bytes = conv_feedback_bytes(of->n_cols);
    const size_t work_bytes = conv_feedback_work_bytes(of->n_cols);
    ernie_status status = ERNIE_OK;
    if (of->moment != CONV_MOMENT_NONE && n_bytes > 0
        && n_bytes + work_bytes <= calibration->memory_max) {
        void *work = NULL;
        status = calibration_alloc(calibration, slot, n_bytes, error);
        if (status == ERNIE_OK) {
            conv_feedback_set(&slot->feedback, slot->memory, of->n_cols);
            work = ern_alloc_aligned(calibration->allocator, work_bytes);
            if (!work)
                status = ern_error_set(error, ERNIE_NO_MEMORY,
                                       "no memory for second moments of %u channels",
                                       (unsigned)of->n_cols);
        }
        if (status == ERNIE_OK) status = calibration_factor(calibration, slot, work, &made, error);
        if (work) ern_free_aligned(calibration->allocator, work, work_bytes);
    }
    if (status != ERNIE_OK || made) return status;
    if (of->moment != CONV_MOMENT_NONE) atomic_fetch_add(&calibration->n_diagonal, 1);
    status = calibration_alloc(calibration, slot, conv_feedback_diagonal_bytes(of->n_cols), error);
    if (status == ERNIE_OK)
        conv_feedback_diagonal(&slot->feedback, slot->memory, of->n_cols, of->square);
    return status;
}

/* ---- Sharing --------------------------------------------------------------------------------- */

/* The slot of these statistics, or one to make them in (not ready and without memory), or NULL
 * while all are in use. Under the lock. */
static conv_calibration_slot *calibration_slot(conv_calibration *calibration,
                                               const conv_moments *of)
{
    conv_calibration_slot *oldest = NULL;
    for (unsigned i = 0; i < CONV_CALIBRATION_SLOTS; i++) {
        conv_calibration_slot *slot = &calibration->slots[i];
        if (slot->of == of) return slot;
        if (slot->n_users == 0 && (!oldest || slot->used < oldest->used)) oldest = slot;
    }
    if (oldest) calibration_empty(calibration, oldest);
    return oldest;
}

/* Take the slot of `of`, made by this thread or another. */
static ernie_status calibration_share(conv_calibration *calibration, const conv_moments *of,
                                      conv_calibration_slot **out, ernie_error *error)
{
    for (;;) {
        calibration_lock(calibration);
        const unsigned epoch = atomic_load(&calibration->epoch);
        conv_calibration_slot *slot = calibration_slot(calibration, of);
        const bool make = slot && !slot->of;
        if (make) slot->of = of;
        if (make || (slot && slot->ready)) {
            slot->n_users++;
            slot->used = ++calibration->clock;
        }
        const bool ready = slot && slot->ready;
        calibration_unlock(calibration);
        *out = slot;
        if (ready) return ERNIE_OK;
        if (!make) {
            ern_wait(&calibration->epoch, epoch);
            continue;
        }
        const ernie_status status = calibration_make(calibration, slot, error);
        calibration_lock(calibration);
        slot->ready = status == ERNIE_OK;
        if (status != ERNIE_OK) calibration_empty(calibration, slot);
        calibration_unlock(calibration);
        calibration_announce(calibration);
        return status;
    }
}

/* What a thread's own copy of a feedback adds: the expert's columns beside the common ones. */
static ernie_status calibration_stretch(conv_calibration *calibration, const conv_moments *own,
                                        const conv_moments *common, conv_calibration_use *use,
                                        ernie_error *error)
{
    const size_t n = ern_round_up(own->n_cols, ERN_BLOCK_COLS);
    use->stretch_bytes = n * sizeof(float);
    float *stretch = use->stretch = ern_alloc(calibration->allocator, use->stretch_bytes);
    ERN_FAIL_IF(!stretch, error, ERNIE_NO_MEMORY, "no memory for the statistics of %u channels",
                (unsigned)own->n_cols);
    for (size_t i = 0; i < n; i++) {
        const float by = i < own->n_cols ? sqrtf(own->square[i] / common->square[i]) : 1.0f;
        const float at_least = by > 1 / CALIBRATION_STRETCH_MAX ? by : 1 / CALIBRATION_STRETCH_MAX;
        stretch[i] = at_least < CALIBRATION_STRETCH_MAX ? at_least : CALIBRATION_STRETCH_MAX;
    }
    use->feedback.stretch = stretch;
    return ERNIE_OK;
}

ERN_FN ernie_status conv_calibration_take(conv_calibration *calibration, const ern_record *record,
                                          uint32_t matrix, conv_calibration_use *use,
                                          ernie_error *error)
{
    memset(use, 0, sizeof *use);
    if (!calibration->imatrix) return ERNIE_OK;
    const conv_moments *own = conv_imatrix_find(calibration->imatrix, record->kind, record->layer,
                                                record->expert, matrix != 0);
    if (!own) return ERNIE_OK;
    const conv_moments *common =
        own->moment == CONV_MOMENT_COMMON
            ? conv_imatrix_find(calibration->imatrix, ERN_ROUTER, record->layer, 0, false)
            : NULL;
    const bool stretched = common && common != own && common->moment == CONV_MOMENT_OWN;
    ernie_status status =
        calibration_share(calibration, stretched ? common : own, &use->slot, error);
    if (status != ERNIE_OK) {
        use->slot = NULL;
        return status;
    }
    use->feedback = use->slot->feedback;
    if (stretched) status = calibration_stretch(calibration, own, common, use, error);
    if (status != ERNIE_OK) conv_calibration_give(calibration, use);
    return status;
}

ERN_FN void conv_calibration_give(conv_calibration *calibration, conv_calibration_use *use)
{
    if (use->stretch) ern_free(calibration->allocator, use->stretch, use->stretch_bytes);
    if (use->slot) {
        calibration_lock(calibration);
        use->slot->n_users--;
        calibration_unlock(calibration);
        calibration_announce(calibration);
    }
    memset(use, 0, sizeof *use);
}

#undef CALIBRATION_DAMPING
#undef CALIBRATION_DAMPING_MAX
#undef CALIBRATION_STRETCH_MAX
