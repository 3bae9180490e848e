/* The two fits: a factor for each channel of a norm, by least squares, and one scale for all
 * logits, by the divergence. Sums run over tokens in order, so they are the same for any number of
 * threads. */
#include "tune_inner.h"

#define FIT_TILE ((size_t)16) /* channels that a worker sums at once: a cache line of floats */

/* ---- A norm ---------------------------------------------------------------------------------- */

typedef struct fit_task {
    tune *t;
    const float *weight[2];
} fit_task;

static void fit_roots(ern_worker *worker, const tune *t)
{
    const size_t h = t->hp->hidden_size;
    size_t begin, end;
    ern_worker_share(worker, t->n_tokens, FIT_TILE, &begin, &end);
    for (unsigned i = 0; i < 2; i++) {
        const tune_side *side = &t->side[i];
        const double eps = (double)side->model->format.header->hparams.rms_norm_eps;
        for (size_t token = begin; token < end; token++) {
            const float *x = side->stream + token * h;
            double sum = 0;
            for (size_t j = 0; j < h; j++) sum += (double)x[j] * (double)x[j];
            side->inverse[token] = 1 / sqrt(sum / (double)h + eps);
        }
    }
}

static void fit_work(ern_worker *worker, void *arg)
{
    const fit_task *task = arg;
    const tune *t = task->t;
    const size_t h = t->hp->hidden_size;
    const tune_side *model = &t->side[TUNE_MODEL], *base = &t->side[TUNE_BASE];
    double *cross = t->sums, *square = t->sums + h;
    size_t begin, end;
    fit_roots(worker, t);
    ern_pool_barrier(worker);
    ern_worker_share(worker, h, FIT_TILE, &begin, &end);
    for (size_t j = begin; j < end; j++) cross[j] = square[j] = 0;
    for (size_t token = 0; token < t->n_tokens; token++) {
        const float *x = model->stream + token * h, *y = base->stream + token * h;
        for (size_t j = begin; j < end; j++) {
            const double a = (double)x[j] * model->inverse[token] * (double)task->weight[0][j];
            const double b = (double)y[j] * base->inverse[token] * (double)task->weight[1][j];
            cross[j] += a * b;
            square[j] += a * a;
        }
    }
}

static double fit_factor(tune *t, size_t j)
{
    const double cross = t->sums[j], square = t->sums[t->hp->hidden_size + j];
    if (!(square > 0)) return 1;
    const double f = cross / square;
    if (f >= TUNE_FACTOR_MIN && f <= TUNE_FACTOR_MAX) return f;
    t->report.n_clamped++;
    return f < TUNE_FACTOR_MIN ? TUNE_FACTOR_MIN : TUNE_FACTOR_MAX;
}

static void fit_name(const tune *t, size_t i, char name[64])
{
    const uint32_t n_layers = t->hp->n_layers;
    const ern_record record = { .kind = i == 2 * (size_t)n_layers ? ERN_FINAL_NORM
                                        : i % 2                   ? ERN_FFN_NORM
                                                                  : ERN_ATTN_NORM,
                                .layer = (uint16_t)(i / 2) };
    ern_record_name(&record, n_layers, name);
}

ERN_FN ernie_status tune_fit(tune *t, size_t i, const float *weight, const float *base_weight,
                             ernie_error *error)
{
    const size_t h = t->hp->hidden_size;
    fit_task task = { .t = t, .weight = { weight, base_weight } };
    ern_pool_run(t->pool, fit_work, &task);
    for (size_t j = 0; j < h; j++) {
        if (!isfinite(t->sums[j]) || !isfinite(t->sums[h + j])) {
            char name[64];
            fit_name(t, i, name);
            return ern_error_set(error, ERNIE_FORMAT, "%s: channel %zu is no finite number", name,
                                 j);
        }
        const double f = fit_factor(t, j);
        tune_norm(t, i)[j] = (float)((double)weight[j] * f);
        t->factor_sum += f;
        t->report.factor_min = t->report.n_factors ? fmin(t->report.factor_min, f) : f;
        t->report.factor_max = t->report.n_factors ? fmax(t->report.factor_max, f) : f;
        t->report.n_factors++;
    }
    t->report.n_norms++;
    return ERNIE_OK;
}

/* ---- The scale -------------------------------------------------------------------------------
 *
 * With p of the base and q_s in proportion to exp(s z) of the model's logits z,
 *
 *     KL(s) = sum p log p - s sum p z + log sum exp(s z),    KL'(s) = sum q_s z - sum p z,
 *
 * which is convex in s: the derivative changes its sign once, between two neighbours of the list,
 * and where is found on the line between them. So a model that is its own base gets exactly 1. */

static const double fit_scales[TUNE_N_SCALES] = { 0.7, 0.8, 0.85, 0.9, 0.95, 1, 1.05, 1.1, 1.2 };
enum { FIT_ONE = 5 };

static float fit_largest(const float *x, size_t n)
{
    float largest = x[0];
    for (size_t i = 1; i < n; i++)
        if (x[i] > largest) largest = x[i];
    return largest;
}

/* KL and KL' of one token at every scale. */
static void fit_token(const float *z, const float *base, size_t n, double *kl, double *slope)
{
    const float top = fit_largest(z, n), base_top = fit_largest(base, n);
    double sum = 0, sum_y = 0, sum_z = 0;
    for (size_t i = 0; i < n; i++) {
        const double e = (double)expf(base[i] - base_top);
        sum += e;
        sum_y += e * ((double)base[i] - (double)base_top);
        sum_z += e * ((double)z[i] - (double)top);
    }
    const double negentropy = sum_y / sum - log(sum), mean_z = sum_z / sum;
    for (unsigned k = 0; k < TUNE_N_SCALES; k++) {
        const float s = (float)fit_scales[k];
        double all = 0, all_z = 0;
        for (size_t i = 0; i < n; i++) {
            const double e = (double)expf(s * (z[i] - top));
            all += e;
            all_z += e * ((double)z[i] - (double)top);
        }
        kl[k] = negentropy - (double)s * mean_z + log(all);
        slope[k] = all_z / all - mean_z;
    }
}

typedef struct fit_rows {
    const tune *t;
    size_t n;
} fit_rows;

static void fit_rows_work(ern_worker *worker, void *arg)
{
    const fit_rows *rows = arg;
    const tune *t = rows->t;
    const size_t vocab = t->hp->vocab_size;
    const size_t n_ids = ern_model_n_tokens(t->side[TUNE_MODEL].model);
    size_t begin, end;
    ern_worker_share(worker, rows->n, 1, &begin, &end);
    for (size_t r = begin; r < end; r++) {
        double *sums = t->sums + r * TUNE_N_SUMS;
        fit_token(t->side[TUNE_MODEL].logits + r * vocab, t->side[TUNE_BASE].logits + r * vocab,
                  n_ids, sums, sums + TUNE_N_SCALES);
    }
}

/* The logits of n tokens from the first-th that serves; the stream is theirs no more. */
static ernie_status fit_logits(tune *t, unsigned i, size_t first, size_t n, ernie_error *error)
{
    tune_side *side = &t->side[i];
    const ern_backend_ops *ops = side->model->ops;
    const ern_weights *w = ern_model_weights(side->model);
    const size_t h = t->hp->hidden_size;
    const ern_batch batch = { .tokens = t->documents->ids,
                              .n_tokens = (uint32_t)n,
                              .logits = side->logits,
                              .n_logits = (uint32_t)n };
    ern_inputs in;
    ops->inputs(side->state, &in);
    for (size_t r = 0; r < n; r++)
        memcpy(in.stream + r * in.stream_stride, side->stream + (first + r) * t->stride * h,
               h * sizeof *side->stream);
    ops->begin(side->state, &batch);
    ops->head(side->state,
              i == TUNE_MODEL ? tune_norm(t, 2 * (size_t)t->hp->n_layers) : w->final_norm,
              &w->head);
    const ernie_status status = ops->submit(side->state, error);
    return status == ERNIE_OK ? tune_advance(t, n, error) : status;
}

/* Where the slope is 0, and what is lost there. */
static void fit_choose(tune *t, const double *kl, const double *slope)
{
    unsigned k = 0;
    t->report.kl_norms = kl[FIT_ONE];
    while (k < TUNE_N_SCALES && slope[k] < 0) k++;
    if (k == 0 || k == TUNE_N_SCALES) {
        const unsigned end = k ? k - 1 : 0;
        t->report.scale = fit_scales[end];
        t->report.kl_expected = kl[end];
        return;
    }
    const double part = slope[k - 1] / (slope[k - 1] - slope[k]);
    const double step = part * (fit_scales[k] - fit_scales[k - 1]);
    t->report.scale = fit_scales[k - 1] + step;
    t->report.kl_expected = kl[k - 1] + slope[k - 1] * step / 2;
}

ERN_FN ernie_status tune_fit_scale(tune *t, ernie_error *error)
{
    double total[TUNE_N_SUMS] = { 0 };
    for (size_t first = 0; first < t->n_scaled; first += t->n_rows) {
        const size_t n = ern_min_size(t->n_scaled - first, t->n_rows);
        for (unsigned i = 0; i < 2; i++) {
            const ernie_status status = fit_logits(t, i, first, n, error);
            if (status != ERNIE_OK) return status;
        }
        fit_rows rows = { t, n };
        ern_pool_run(t->pool, fit_rows_work, &rows);
        for (size_t r = 0; r < n; r++)
            for (unsigned k = 0; k < TUNE_N_SUMS; k++) total[k] += t->sums[r * TUNE_N_SUMS + k];
    }
    for (unsigned k = 0; k < TUNE_N_SUMS; k++) {
        total[k] /= (double)t->n_scaled;
        ERN_FAIL_IF(!isfinite(total[k]), error, ERNIE_FORMAT, "logits are no finite numbers");
    }
    fit_choose(t, total, total + TUNE_N_SCALES);
    float *final = tune_norm(t, 2 * (size_t)t->hp->n_layers);
    for (size_t j = 0; j < t->hp->hidden_size; j++)
        final[j] = (float)((double) final[j] * t->report.scale);
    return ERNIE_OK;
}
