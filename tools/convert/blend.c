/* A sample is one row, of an expert weighted by its share in the layer's output. S below is a mean
 * over samples of x_i x_j, n the number of samples, c the mean of S's diagonal, I the identity:
 *
 *     all but experts       (n S + c I) / (n + 1)
 *     expert, gate and up   (n S + prior P) / (n + prior)     P: all experts' together, as above
 *     expert, down          (n S + prior c I) / (n + prior)   c of the layer where it has none
 *
 * Experts share their input's channels but not those of their hidden state: for down only the size
 * of things can be taken from elsewhere. With a prior that is a multiple of the identity, or full
 * of rank itself, no matrix is singular. */
#include "blend.h"

#include <float.h>

/* What an entry is made of. */
typedef struct blend_weights {
    double own;              /* factor of its own sums */
    double pool;             /* of the pool's sums */
    double identity;         /* added to the diagonal */
    const conv_gram *pooled; /* NULL: none */
} blend_weights;

static double blend_level(const conv_gram *gram)
{
    double sum = 0;
    for (uint32_t j = 0; j < gram->n_cols; j++) sum += gram->square[j];
    return gram->weight > 0 ? sum / gram->weight / gram->n_cols : 0;
}

/* Where nothing but zeros came, any size will do. */
static double blend_level_or(double level, double otherwise)
{
    return level > 0 ? level : otherwise > 0 ? otherwise : 1;
}

/* (n S + c I) / (n + 1) as factors of the sums. */
static blend_weights blend_plain(const conv_gram *gram, double n)
{
    const double level = blend_level_or(blend_level(gram), 0);
    return (blend_weights){ .own = gram->weight > 0 ? n / gram->weight / (n + 1) : 0,
                            .identity = level / (n + 1) };
}

/* Samples of an expert: its weight in units of the layer's average. */
static double blend_samples(const conv_gram *gram, const conv_gram *pool)
{
    return pool->weight > 0 ? gram->weight * (double)pool->n_rows / pool->weight : 0;
}

static blend_weights blend_gate_up(const conv_gram *gram, const conv_gram *pool, double n,
                                   double prior)
{
    const blend_weights p = blend_plain(pool, (double)pool->n_rows);
    const double share = prior / (n + prior);
    return (blend_weights){ .own = gram->weight > 0 ? n / gram->weight / (n + prior) : 0,
                            .pool = share * p.own,
                            .identity = share * p.identity,
                            .pooled = pool };
}

static blend_weights blend_down(const conv_gram *gram, const conv_gram *pool, double n,
                                double prior)
{
    const double level = blend_level_or(blend_level(gram), blend_level(pool));
    return (blend_weights){ .own = gram->weight > 0 ? n / gram->weight / (n + prior) : 0,
                            .identity = level * prior / (n + prior) };
}

static ernie_status blend_squares(const conv_blend *b, size_t i, const blend_weights *w,
                                  ernie_error *error)
{
    const conv_gram *gram = &b->grams[i];
    char name[64];
    conv_entry_name(&b->out->entries[b->first + i], name);
    for (uint32_t j = 0; j < gram->n_cols; j++) {
        double value = w->own * gram->square[j] + w->identity;
        if (w->pooled) value += w->pool * w->pooled->square[j];
        ERN_FAIL_IF(!(value < FLT_MAX), error, ERNIE_FORMAT,
                    "%s: column %u of its input is no finite number: the weights are damaged", name,
                    j);
        b->square[j] = (float)(value > FLT_MIN ? value : FLT_MIN);
    }
    return ERNIE_OK;
}

/* Off the diagonal there is no identity; on it stand the squares, which were added up in double. */
static void blend_triangle(const conv_blend *b, size_t i, const blend_weights *w)
{
    const conv_gram *gram = &b->grams[i];
    float *row = b->triangle;
    for (uint32_t r = 0; r < gram->n_cols; r++) {
        const size_t n = gram->n_cols - r;
        conv_gram_row(gram, r, (float)w->own, row);
        if (w->pooled) conv_gram_row_add(w->pooled, r, (float)w->pool, row);
        row[0] = b->square[r];
        row += n;
    }
}

static ernie_status blend_put(const conv_blend *b, size_t i, double n, const blend_weights *w,
                              ernie_error *error)
{
    const ernie_status status = blend_squares(b, i, w, error);
    if (status != ERNIE_OK) return status;
    const bool own = b->out->entries[b->first + i].moment == CONV_MOMENT_OWN;
    if (own) blend_triangle(b, i, w);
    return conv_imatrix_out_put(b->out, b->first + i, n, b->square, own ? b->triangle : NULL, NULL,
                                error);
}

static void blend_pool(const conv_blend *b)
{
    conv_gram_clear(&b->pool[0]);
    conv_gram_clear(&b->pool[1]);
    for (size_t i = 0; i < b->n; i++) {
        const conv_imatrix_entry *e = &b->out->entries[b->first + i];
        if (e->kind == ERN_EXPERT) conv_gram_merge(&b->pool[e->second], &b->grams[i]);
    }
}

ERN_FN ernie_status conv_blend_put(const conv_blend *b, ernie_error *error)
{
    ernie_status status = ERNIE_OK;
    if (b->pool) blend_pool(b);
    for (size_t i = 0; status == ERNIE_OK && i < b->n; i++) {
        const conv_imatrix_entry *e = &b->out->entries[b->first + i];
        const conv_gram *gram = &b->grams[i];
        double n = (double)gram->n_rows;
        blend_weights w;
        if (e->kind == ERN_EXPERT) {
            const conv_gram *pool = &b->pool[e->second];
            n = blend_samples(gram, pool);
            w = e->second ? blend_down(gram, pool, n, b->prior)
                          : blend_gate_up(gram, pool, n, b->prior);
        } else {
            w = blend_plain(gram, n);
        }
        status = blend_put(b, i, n, &w, error);
    }
    return status;
}
