/* Rows of neighbouring units are neighbouring columns, so a batch needs one block of columns of
 * each slice. Most tensors fit a batch whole and are then read from end to end. */
#include "stage.h"

#define STAGE_READ_BYTES ((size_t)1 << 20) /* of one task: what a request to stop may wait for */

ERN_FN void conv_stage_close(conv_stage *stage)
{
    if (stage->data) ern_free_aligned(stage->allocator, stage->data, stage->capacity);
    stage->data = NULL;
    stage->capacity = 0;
}

/* ---- Blocks ---------------------------------------------------------------------------------- */

/* The first and last row of slice k that the rows of a unit take; false when it takes none. */
static bool stage_unit_rows(const conv_source *source, const conv_unit *unit, uint32_t k,
                            uint32_t *first, uint32_t *last)
{
    uint32_t slice_row;
    bool any = false;
    if (source->slices[k].coding == CONV_ROWS) return false;
    for (uint32_t row = 0; row < unit->n_rows; row++) {
        if (conv_source_row(source, unit->first_row + row, &slice_row) != &source->slices[k])
            continue;
        if (!any) *first = slice_row;
        *last = slice_row;
        any = true;
    }
    return any;
}

static size_t stage_rect_bytes(const conv_rect *rect)
{
    return ern_round_up(rect->n_lines * rect->n_bytes, 64);
}

static size_t stage_block_bytes(const conv_columns *block)
{
    size_t n = 0;
    for (unsigned i = 0; i < block->n_rects; i++) n += stage_rect_bytes(&block->rects[i]);
    return n;
}

ERN_FN size_t conv_stage_need(const conv_source *source, const conv_unit *unit)
{
    size_t n = 0;
    uint32_t first, last;
    conv_columns block;
    for (uint32_t k = 0; k < source->n_slices; k++) {
        if (!stage_unit_rows(source, unit, k, &first, &last)) continue;
        conv_columns_set(&block, &source->slices[k], source->n_cols, first, last - first + 1);
        n += stage_block_bytes(&block);
    }
    return n;
}

/* The rows of slice k that the units from *i to before `end` of one matrix take, as a block. */
static void stage_add_block(conv_stage *stage, const conv_source *source, const ern_record *record,
                            uint32_t begin, uint32_t end, uint32_t k)
{
    uint32_t first = 0, last = 0, unit_first, unit_last;
    bool any = false;
    for (uint32_t i = begin; i < end; i++) {
        const conv_unit unit = conv_unit_at(record, i);
        if (!stage_unit_rows(source, &unit, k, &unit_first, &unit_last)) continue;
        if (!any) first = unit_first;
        last = unit_last;
        any = true;
    }
    if (!any) return;
    ERN_ASSERT(stage->n_blocks < CONV_STAGE_BLOCKS);
    conv_columns_set(&stage->blocks[stage->n_blocks++], &source->slices[k], source->n_cols, first,
                     last - first + 1);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

static ernie_status stage_grow(conv_stage *stage, size_t needed, ernie_error *error)
{
    if (needed <= stage->capacity) return ERNIE_OK;
    const size_t usual = ern_min_size(stage->n_max, 2 * stage->capacity);
    conv_stage_close(stage);
    const size_t capacity = ern_max_size(needed, usual);
    stage->data = ern_alloc_aligned(stage->allocator, capacity);
    ERN_FAIL_IF(!stage->data, error, ERNIE_NO_MEMORY, "no memory for %zu bytes of weights",
                capacity);
    stage->capacity = capacity;
    return ERNIE_OK;
}

static size_t stage_lines_of_task(const conv_rect *rect)
{
    return ern_max_size(STAGE_READ_BYTES / ern_max_size(rect->n_bytes, 1), 1);
}

static uint32_t stage_rect_tasks(const conv_rect *rect)
{
    const size_t n = stage_lines_of_task(rect);
    return (uint32_t)((rect->n_lines + n - 1) / n);
}

ERN_FN ernie_status conv_stage_begin(conv_stage *stage, const conv_source sources[2],
                                     const ern_record *record, uint32_t first, uint32_t n,
                                     uint32_t *n_tasks, ernie_error *error)
{
    const uint32_t end = first + n, n_first = ern_n_groups(record->n_rows);
    stage->n_blocks = 0;
    for (uint32_t k = 0; k < sources[0].n_slices; k++)
        stage_add_block(stage, &sources[0], record, first, (uint32_t)ern_min_size(end, n_first), k);
    for (uint32_t k = 0; k < sources[1].n_slices; k++)
        stage_add_block(stage, &sources[1], record, (uint32_t)ern_max_size(first, n_first), end, k);

    size_t needed = 0;
    for (unsigned b = 0; b < stage->n_blocks; b++) needed += stage_block_bytes(&stage->blocks[b]);
    const ernie_status status = stage_grow(stage, needed, error);
    if (status != ERNIE_OK) return status;
    unsigned char *at = stage->data;
    *n_tasks = 0;
    for (unsigned b = 0; b < stage->n_blocks; b++) {
        conv_columns *block = &stage->blocks[b];
        for (unsigned i = 0; i < block->n_rects; i++) {
            block->rects[i].data = at;
            at += stage_rect_bytes(&block->rects[i]);
            *n_tasks += stage_rect_tasks(&block->rects[i]);
        }
    }
    return ERNIE_OK;
}

/* ---- Reading --------------------------------------------------------------------------------- */

static ernie_status stage_read(const conv_stage *stage, const conv_rect *rect, size_t line,
                               size_t n, ernie_error *error)
{
    ernie_status status = ERNIE_OK;
    const conv_shard *shard = &stage->tensors->shards[rect->tensor->shard];
    unsigned char *dst = stage->data + (rect->data - stage->data) + line * rect->n_bytes;
    const uint64_t offset = rect->offset + line * rect->pitch;
    if (rect->n_bytes == rect->pitch)
        return conv_file_read(&shard->file, shard->name, offset, dst, n * rect->n_bytes, error);
    for (size_t i = 0; i < n && status == ERNIE_OK; i++)
        status = conv_file_read(&shard->file, shard->name, offset + i * rect->pitch,
                                dst + i * rect->n_bytes, rect->n_bytes, error);
    return status;
}

ERN_FN ernie_status conv_stage_task(const conv_stage *stage, uint32_t task, ernie_error *error)
{
    for (unsigned b = 0; b < stage->n_blocks; b++)
        for (unsigned i = 0; i < stage->blocks[b].n_rects; i++) {
            const conv_rect *rect = &stage->blocks[b].rects[i];
            const uint32_t n = stage_rect_tasks(rect);
            const size_t lines = stage_lines_of_task(rect);
            if (task < n)
                return stage_read(stage, rect, task * lines,
                                  ern_min_size(lines, rect->n_lines - task * lines), error);
            task -= n;
        }
    return ERNIE_OK;
}

ERN_FN const conv_columns *conv_stage_find(const conv_stage *stage, const conv_slice *slice)
{
    for (unsigned b = 0; b < stage->n_blocks; b++)
        if (stage->blocks[b].slice == slice) return &stage->blocks[b];
    return NULL;
}

#undef STAGE_READ_BYTES
