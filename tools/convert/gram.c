/* 256 rows at a time are transposed, so that a column becomes a row of 256 numbers; two columns'
 * product is then a dot product, which is what the kernels of f32 matrices compute, 128 by 128 of
 * them a tile. A tile's sums of 256 products are floats and are added to the total as floats: with
 * a hundred thousand rows the rounding stays far below the noise of any sample. Squares are added
 * in double. */
#include "gram.h"
#include "../../backends/cpu/kernels.h"

struct conv_gram_team {
    ernie_allocator allocator;
    const ern_kernels *kernels;
    ern_pool *pool;
    const atomic_int *stop;
    unsigned n_threads;
    uint32_t n_cols_max;
    float *columns; /* [n_cols][n_rows rounded up to 16] of the rows under way */
    float *tiles;   /* [n_threads][128][128] */
    conv_gram *gram;
    conv_rows rows; /* at most 256 */
    atomic_size_t next;
};

static size_t gram_side(uint32_t n_cols)
{
    return (n_cols + CONV_GRAM_TILE - 1) / CONV_GRAM_TILE;
}

ERN_FN size_t conv_gram_tiles(uint32_t n_cols)
{
    const size_t n = gram_side(n_cols);
    return n * (n + 1) / 2;
}

ERN_FN uint64_t conv_gram_bytes(uint32_t n_cols)
{
    return (uint64_t)conv_gram_tiles(n_cols) * CONV_GRAM_TILE * CONV_GRAM_TILE * sizeof(float);
}

ERN_FN void conv_gram_clear(conv_gram *gram)
{
    gram->n_rows = 0;
    gram->weight = 0;
    memset(gram->square, 0, gram->n_cols * sizeof *gram->square);
    if (gram->tiles) memset(gram->tiles, 0, (size_t)conv_gram_bytes(gram->n_cols));
}

/* Tiles lie row by row: before those of row i lie n + (n - 1) + ... + (n - i + 1) others. */
static float *gram_tile(const conv_gram *gram, size_t i, size_t j)
{
    const size_t at = i * (2 * gram_side(gram->n_cols) - i + 1) / 2 + (j - i);
    return gram->tiles + at * CONV_GRAM_TILE * CONV_GRAM_TILE;
}

ERN_FN void conv_gram_row(const conv_gram *gram, uint32_t i, float scale, float *out)
{
    memset(out, 0, (gram->n_cols - i) * sizeof *out);
    conv_gram_row_add(gram, i, scale, out);
}

ERN_FN void conv_gram_row_add(const conv_gram *gram, uint32_t i, float scale, float *out)
{
    const size_t n = gram->n_cols, i_tile = i / CONV_GRAM_TILE;
    for (size_t j = i; j < n;) {
        const size_t j_tile = j / CONV_GRAM_TILE;
        const size_t end = ern_min_size(n, (j_tile + 1) * CONV_GRAM_TILE);
        const float *row = gram_tile(gram, i_tile, j_tile) + i % CONV_GRAM_TILE * CONV_GRAM_TILE;
        for (; j < end; j++) *out++ += scale * row[j % CONV_GRAM_TILE];
    }
}

ERN_FN void conv_gram_merge(conv_gram *to, const conv_gram *from)
{
    ERN_ASSERT(to->n_cols == from->n_cols);
    to->n_rows += from->n_rows;
    to->weight += from->weight;
    for (uint32_t j = 0; j < to->n_cols; j++) to->square[j] += from->square[j];
    if (!to->tiles || !from->tiles) return;
    const size_t n = conv_gram_tiles(to->n_cols) * CONV_GRAM_TILE * CONV_GRAM_TILE;
    for (size_t i = 0; i < n; i++) to->tiles[i] += from->tiles[i];
}

/* ---- Adding ---------------------------------------------------------------------------------- */

static size_t gram_stride(size_t n_rows)
{
    return ern_round_up(n_rows, 16);
}

/* Columns begin .. begin + n - 1 of the rows become rows; their squares are added. Up to 16
 * columns at a time: a cache line of each row. */
static void gram_transpose(const conv_gram_team *team, size_t begin, size_t n)
{
    const conv_rows *rows = &team->rows;
    const size_t stride = gram_stride(rows->n);
    for (size_t k = 0; k < rows->n; k++) {
        const size_t at = rows->index ? (size_t)rows->index[k] : k;
        const float *x = rows->x + at * rows->stride + begin;
        const float scale = rows->scale ? rows->scale[k] : 1.0f;
        for (size_t j = 0; j < n; j++) team->columns[(begin + j) * stride + k] = scale * x[j];
    }
    for (size_t j = begin; j < begin + n; j++) {
        float *column = team->columns + j * stride;
        double sum = 0;
        for (size_t k = 0; k < rows->n; k++) sum += (double)column[k] * (double)column[k];
        for (size_t k = rows->n; k < stride; k++) column[k] = 0.0f;
        team->gram->square[j] += sum;
    }
}

/* Add one tile: columns of tile row i times columns of tile row j. */
static void gram_multiply(const conv_gram_team *team, size_t i, size_t j, float *product)
{
    const size_t stride = gram_stride(team->rows.n), n = team->gram->n_cols;
    const size_t n_left = ern_min_size(CONV_GRAM_TILE, n - i * CONV_GRAM_TILE);
    const ern_matrix right = { .data = (const unsigned char *)team->columns,
                               .type = ERN_F32,
                               .n_rows = team->gram->n_cols,
                               .n_cols = (uint32_t)team->rows.n };
    const ern_act left = { .x = team->columns + i * CONV_GRAM_TILE * stride,
                           .x_stride = stride,
                           .n_tokens = n_left };
    const uint32_t groups = ern_n_groups(right.n_rows), per_tile = CONV_GRAM_TILE / ERN_GROUP_ROWS;
    const uint32_t begin = (uint32_t)j * per_tile;
    const uint32_t end = begin + per_tile < groups ? begin + per_tile : groups;
    team->kernels->matmul[ERN_F32](&right, begin, end, &left, product, CONV_GRAM_TILE);
    float *sum = gram_tile(team->gram, i, j);
    const size_t width = (end - begin) * (size_t)ERN_GROUP_ROWS;
    for (size_t r = 0; r < n_left; r++)
        for (size_t c = 0; c < width; c++)
            sum[r * CONV_GRAM_TILE + c] += product[r * CONV_GRAM_TILE + c];
}

static bool gram_stopped(const conv_gram_team *team)
{
    return atomic_load_explicit(team->stop, memory_order_relaxed) != 0;
}

static void gram_work(ern_worker *worker, void *arg)
{
    conv_gram_team *team = arg;
    const size_t n_side = gram_side(team->gram->n_cols);
    size_t begin, end, i = 0, first = 0; /* the flat number of tile row i's first tile */
    ern_worker_share(worker, team->gram->n_cols, 16, &begin, &end);
    for (; begin < end; begin += 16) gram_transpose(team, begin, ern_min_size(16, end - begin));
    if (!team->gram->tiles) return;
    ern_pool_barrier(worker);
    float *product = team->tiles + worker->index * CONV_GRAM_TILE * CONV_GRAM_TILE;
    while (!gram_stopped(team)) {
        const size_t at = atomic_fetch_add_explicit(&team->next, 1, memory_order_relaxed);
        while (i < n_side && at >= first + (n_side - i)) first += n_side - i++;
        if (i == n_side) break;
        gram_multiply(team, i, i + (at - first), product);
    }
}

ERN_FN void conv_gram_add(conv_gram_team *team, conv_gram *gram, const conv_rows *rows)
{
    ERN_ASSERT(gram->n_cols <= team->n_cols_max);
    for (size_t at = 0; at < rows->n && !gram_stopped(team); at += CONV_GRAM_ROWS) {
        conv_rows part = *rows;
        part.n = ern_min_size(CONV_GRAM_ROWS, rows->n - at);
        if (rows->index)
            part.index = rows->index + at;
        else
            part.x = rows->x + at * rows->stride;
        if (rows->scale) part.scale = rows->scale + at;
        team->gram = gram;
        team->rows = part;
        atomic_store(&team->next, 0);
        ern_pool_run(team->pool, gram_work, team);
        gram->n_rows += part.n;
        for (size_t k = 0; k < part.n; k++)
            gram->weight += part.scale ? (double)part.scale[k] * (double)part.scale[k] : 1.0;
    }
}

/* ---- The team -------------------------------------------------------------------------------- */

static size_t gram_columns_bytes(uint32_t n_cols_max)
{
    return ern_round_up(n_cols_max, 16) * CONV_GRAM_ROWS * sizeof(float);
}

static size_t gram_scratch_bytes(unsigned n_threads)
{
    return n_threads * CONV_GRAM_TILE * CONV_GRAM_TILE * sizeof(float);
}

ERN_FN uint64_t conv_gram_team_bytes(unsigned n_threads, uint32_t n_cols_max)
{
    return (uint64_t)sizeof(conv_gram_team) + gram_columns_bytes(n_cols_max)
           + gram_scratch_bytes(n_threads) + ern_pool_bytes(n_threads);
}

ERN_FN ernie_status conv_gram_team_open(conv_gram_team **out, unsigned n_threads,
                                        uint32_t n_cols_max, const char *cpu,
                                        const atomic_int *stop, const ernie_allocator *allocator,
                                        ernie_error *error)
{
    *out = NULL;
    const ern_kernels *kernels = ern_kernels_find(cpu);
    ERN_FAIL_IF(!kernels, error, ERNIE_UNSUPPORTED,
                "instruction set \"%s\" is unknown or absent on this processor",
                cpu ? cpu : "auto");
    conv_gram_team *team = ern_alloc_zero(allocator, sizeof *team);
    ERN_FAIL_IF(!team, error, ERNIE_NO_MEMORY, "no memory for a team of %u", n_threads);
    team->allocator = *allocator;
    team->kernels = kernels;
    team->stop = stop;
    team->n_threads = n_threads;
    team->n_cols_max = n_cols_max;
    team->columns = ern_alloc_aligned(allocator, gram_columns_bytes(n_cols_max));
    team->tiles = ern_alloc_aligned(allocator, gram_scratch_bytes(n_threads));
    ernie_status status = ERNIE_OK;
    if (!team->columns || !team->tiles)
        status = ern_error_set(error, ERNIE_NO_MEMORY, "no memory for %u columns of %zu rows",
                               n_cols_max, CONV_GRAM_ROWS);
    if (status == ERNIE_OK) status = ern_pool_open(&team->pool, allocator, n_threads, error);
    if (status != ERNIE_OK) {
        conv_gram_team_close(team);
        return status;
    }
    *out = team;
    return ERNIE_OK;
}

ERN_FN void conv_gram_team_close(conv_gram_team *team)
{
    if (!team) return;
    const ernie_allocator allocator = team->allocator;
    ern_pool_close(team->pool);
    if (team->columns)
        ern_free_aligned(&allocator, team->columns, gram_columns_bytes(team->n_cols_max));
    if (team->tiles) ern_free_aligned(&allocator, team->tiles, gram_scratch_bytes(team->n_threads));
    ern_free(&allocator, team, sizeof *team);
}
