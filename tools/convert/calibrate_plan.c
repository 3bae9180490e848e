/* What fits: each layer keeps as many moments as the memory allows, since one layer's are held at a
 * time. */
#include "calibrate_inner.h"

static const double CALIB_MIB = 1024.0 * 1024.0;

/* ---- What is collected ----------------------------------------------------------------------- */

static unsigned calib_moment(const conv_imatrix_entry *e, calib_level level)
{
    if (level == CALIB_SQUARES) return CONV_MOMENT_NONE;
    switch (e->kind) {
    case ERN_SHARED_GATE_UP: return CONV_MOMENT_COMMON;
    case ERN_FFN_DOWN:
    case ERN_SHARED_DOWN: return level >= CALIB_COMMON ? CONV_MOMENT_OWN : CONV_MOMENT_NONE;
    case ERN_EXPERT:
        if (e->second) return level >= CALIB_COMMON ? CONV_MOMENT_OWN : CONV_MOMENT_NONE;
        return level == CALIB_EXPERTS ? CONV_MOMENT_OWN : CONV_MOMENT_COMMON;
    default: return CONV_MOMENT_OWN;
    }
}

ERN_FN size_t calib_n_entries(const calib *c, uint32_t layer)
{
    return layer < c->hp->n_layers ? conv_entries_of_layer(c->hp, layer) : 1;
}

ERN_FN void calib_take(calib *c, ern_arena *arena, const conv_imatrix_entry *entries, size_t n,
                       calib_level level)
{
    for (size_t i = 0; i < n; i++) {
        conv_gram *gram = &c->grams[i];
        const bool own = calib_moment(&entries[i], level) == CONV_MOMENT_OWN;
        gram->n_cols = entries[i].n_cols;
        gram->square = ern_arena_take(arena, gram->n_cols, sizeof *gram->square);
        gram->tiles = own ? ern_arena_take(arena, 1, (size_t)conv_gram_bytes(gram->n_cols)) : NULL;
    }
    if (n < 3 || entries[2].kind != ERN_ROUTER) return;
    c->pool[0].n_cols = c->hp->hidden_size;
    c->pool[1].n_cols = c->hp->moe_intermediate_size;
    for (unsigned i = 0; i < 2; i++)
        c->pool[i].square = ern_arena_take(arena, c->pool[i].n_cols, sizeof(double));
    c->pool[0].tiles = level == CALIB_EXPERTS
                           ? ern_arena_take(arena, 1, (size_t)conv_gram_bytes(c->hp->hidden_size))
                           : NULL;
}

/* Bytes that a layer needs, its part of the triangle's scratch included; SIZE_MAX when they cannot
 * be addressed. */
static size_t calib_need(calib *c, size_t first, size_t n, calib_level level, size_t *triangle)
{
    ern_arena arena = { 0 };
    const conv_imatrix_entry *entries = c->out.entries + first;
    *triangle = 0;
    calib_take(c, &arena, entries, n, level);
    for (size_t i = 0; i < n; i++)
        if (calib_moment(&entries[i], level) == CONV_MOMENT_OWN)
            *triangle =
                ern_max_size(*triangle, (size_t)conv_triangle(entries[i].n_cols) * sizeof(float));
    return arena.overflow || arena.used > SIZE_MAX - *triangle ? SIZE_MAX : arena.used;
}

static calib_level calib_level_max(const calib *c)
{
    if (c->options.diagonal) return CALIB_SQUARES;
    return c->options.common ? CALIB_COMMON : CALIB_EXPERTS;
}

/* The best level of each layer within `room` bytes. */
static void calib_choose(calib *c, uint64_t room)
{
    size_t first = 0;
    for (uint32_t i = 0; i <= c->hp->n_layers; i++) {
        const size_t n = calib_n_entries(c, i);
        size_t need, triangle;
        calib_level level = calib_level_max(c);
        for (; level > CALIB_SQUARES; level--) {
            need = calib_need(c, first, n, level, &triangle);
            if (need <= room && triangle <= room - need) break;
        }
        need = calib_need(c, first, n, level, &triangle);
        c->levels[i] = (uint8_t)level;
        c->sums_bytes = ern_max_size(c->sums_bytes, need);
        c->triangle_bytes = ern_max_size(c->triangle_bytes, triangle);
        for (size_t j = first; j < first + n; j++)
            c->out.entries[j].moment = (uint8_t)calib_moment(&c->out.entries[j], level);
        first += n;
    }
}

/* A line for each run of layers of one kind that got the same. */
ERN_FN void calib_say(const calib *c)
{
    static const char *const moe[CALIB_N_LEVELS] = {
        "mean squares only",
        "moments of inputs, one matrix for the experts of a layer; of down matrices squares only",
        "moments, one matrix for the gate and up of a layer's experts",
        "moments of every expert",
    };
    static const char *const dense[CALIB_N_LEVELS] = { "mean squares only",
                                                       "moments, of down matrices squares only",
                                                       "all moments", "all moments" };
    for (uint32_t i = 0, end; i < c->hp->n_layers; i = end) {
        const bool is_moe = ern_layer_is_moe(c->hp, i);
        for (end = i + 1; end < c->hp->n_layers; end++)
            if (c->levels[end] != c->levels[i] || ern_layer_is_moe(c->hp, end) != is_moe) break;
        const char *what = (is_moe ? moe : dense)[c->levels[i]];
        const char *why = c->levels[i] < calib_level_max(c) ? " (memory allows no more)" : "";
        if (end == i + 1)
            ern_log_write(&c->options.log, ERNIE_LOG_INFO, "layer %u: %s%s", i, what, why);
        else
            ern_log_write(&c->options.log, ERNIE_LOG_INFO, "layers %u to %u: %s%s", i, end - 1,
                          what, why);
    }
}

/* ---- Memory ---------------------------------------------------------------------------------- */

ERN_FN uint32_t calib_widest(const calib *c)
{
    uint32_t widest = 0;
    for (size_t i = 0; i < c->out.head.n_entries; i++)
        if (c->out.entries[i].n_cols > widest) widest = c->out.entries[i].n_cols;
    return widest;
}

/* What is needed before a matrix of moments is thought of; *error when that is too much already. */
static ernie_status calib_fixed_bytes(calib *c, uint64_t *fixed, ernie_error *error)
{
    const size_t row = c->hp->hidden_size * sizeof *c->stream;
    uint64_t kv = 0, scratch = 0;
    ERN_FAIL_IF(!ern_mul_size(&c->stream_bytes, c->n_tokens, row), error, ERNIE_NO_MEMORY,
                "%zu tokens of %zu bytes cannot be addressed", c->n_tokens, row);
    const ernie_status status =
        c->model->ops->state_plan(c->model->backend, &c->state_options, &kv, &scratch, error);
    if (status != ERNIE_OK) return status;
    const unsigned n_threads = c->state_options.n_threads;
    *fixed = conv_gram_team_bytes(n_threads, calib_widest(c));
    ERN_FAIL_IF(!ern_add_u64(fixed, *fixed, kv) || !ern_add_u64(fixed, *fixed, scratch)
                    || !ern_add_u64(fixed, *fixed, c->stream_bytes),
                error, ERNIE_NO_MEMORY, "%zu tokens need more memory than can be addressed",
                c->n_tokens);
    return ERNIE_OK;
}

ERN_FN ernie_status calib_plan(calib *c, ernie_error *error)
{
    const uint64_t free_bytes = ern_memory_available();
    const uint64_t most = c->options.memory_max ? c->options.memory_max : free_bytes / 2;
    uint64_t fixed = 0;
    c->levels = ern_alloc_zero(&c->allocator, c->hp->n_layers + (size_t)1);
    for (uint32_t i = 0; i <= c->hp->n_layers; i++)
        c->grams_max = ern_max_size(c->grams_max, calib_n_entries(c, i));
    c->grams = ern_alloc_zero(&c->allocator, c->grams_max * sizeof *c->grams);
    ERN_FAIL_IF(!c->levels || !c->grams, error, ERNIE_NO_MEMORY,
                "no memory for the plan of %u layers", c->hp->n_layers);
    const ernie_status status = calib_fixed_bytes(c, &fixed, error);
    if (status != ERNIE_OK) return status;
    /* Squares are small and always kept; they are counted with the sums. */
    ERN_FAIL_IF(c->options.memory_max && fixed > most, error, ERNIE_NO_MEMORY,
                "%.1f MiB are allowed, but %zu tokens need %.1f MiB before any statistics: fewer "
                "documents need less",
                (double)most / CALIB_MIB, c->n_tokens, (double)fixed / CALIB_MIB);
    calib_choose(c, most > fixed ? most - fixed : 0);
    c->square_bytes = calib_widest(c) * sizeof(float);
    return ERNIE_OK;
}
