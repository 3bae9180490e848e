/* The forward step once more, written down from docs/FORMAT.md section 6 in double and without a
 * thought of speed, for f32 models: what each linear reads is handed to a function. */
#ifndef SLOW_MODEL_H
#define SLOW_MODEL_H

#include "../../src/weights.h"

/* The input x [n] of one linear, for one token; scale: of an expert its weight, else 1. */
typedef void (*slow_fn)(void *user, unsigned kind, unsigned layer, unsigned expert, bool second,
                        const double *x, uint32_t n, double scale);

typedef struct slow_model {
    const ern_weights *weights;
    slow_fn fn;
    void *user;
} slow_model;

static inline double *slow_alloc(size_t n)
{
    double *x = calloc(n ? n : 1, sizeof *x);
    if (!x) abort();
    return x;
}

static inline double slow_weight(const ern_matrix *w, uint32_t row, uint32_t col)
{
    float value;
    if (w->type != ERN_F32) abort();
    memcpy(&value, w->data + row * ern_row_bytes(ERN_F32, w->n_cols) + 4 * (size_t)col, 4);
    return (double)value;
}

static inline void slow_product(const ern_matrix *w, const double *x, double *y)
{
    for (uint32_t r = 0; r < w->n_rows; r++) {
        y[r] = 0;
        for (uint32_t c = 0; c < w->n_cols; c++) y[r] += slow_weight(w, r, c) * x[c];
    }
}

static inline void slow_norm(const ern_hparams *hp, const float *weight, const double *x, double *y)
{
    double sum = 0;
    for (uint32_t i = 0; i < hp->hidden_size; i++) sum += x[i] * x[i];
    const double factor = 1 / sqrt(sum / hp->hidden_size + (double)hp->rms_norm_eps);
    for (uint32_t i = 0; i < hp->hidden_size; i++) y[i] = x[i] * factor * (double)weight[i];
}

static inline void slow_rotate(const ern_hparams *hp, double *x, size_t position)
{
    for (uint32_t j = 0; j < hp->head_dim / 2; j++) {
        const double angle = (double)position * pow(hp->rope_theta, -2.0 * j / hp->head_dim);
        const double a = x[2 * j], b = x[2 * j + 1];
        x[2 * j] = a * cos(angle) - b * sin(angle);
        x[2 * j + 1] = b * cos(angle) + a * sin(angle);
    }
}

static inline void slow_attend(const ern_hparams *hp, const double *qkv, size_t width, size_t t,
                               uint32_t head, double *out)
{
    const uint32_t d = hp->head_dim, kv_head = head / (hp->n_heads / hp->n_kv_heads);
    const double *q = qkv + t * width + head * d;
    double sum = 0;
    memset(out, 0, d * sizeof *out);
    for (size_t p = 0; p <= t; p++) {
        const double *k = qkv + p * width + (hp->n_heads + kv_head) * d;
        const double *v = k + hp->n_kv_heads * d;
        double score = 0;
        for (uint32_t j = 0; j < d; j++) score += q[j] * k[j];
        const double e = exp(score / sqrt(d));
        sum += e;
        for (uint32_t j = 0; j < d; j++) out[j] += e * v[j];
    }
    for (uint32_t j = 0; j < d; j++) out[j] /= sum;
}

/* x [n][h] += attention */
static inline void slow_attention(const slow_model *m, uint32_t i, double *x, size_t n)
{
    const ern_hparams *hp = m->weights->hparams;
    const ern_layer *layer = &m->weights->layers[i];
    const size_t h = hp->hidden_size, d = hp->head_dim, width = layer->qkv.n_rows;
    double *qkv = slow_alloc(n * width), *normed = slow_alloc(h), *sum = slow_alloc(h);
    double *out = slow_alloc(hp->n_heads * d);
    for (size_t t = 0; t < n; t++) {
        slow_norm(hp, layer->attn_norm, x + t * h, normed);
        m->fn(m->user, ERN_QKV, i, 0, false, normed, (uint32_t)h, 1);
        slow_product(&layer->qkv, normed, qkv + t * width);
        for (size_t j = 0; j < hp->n_heads + hp->n_kv_heads; j++)
            slow_rotate(hp, qkv + t * width + j * d, t);
    }
    for (size_t t = 0; t < n; t++) {
        for (uint32_t j = 0; j < hp->n_heads; j++) slow_attend(hp, qkv, width, t, j, out + j * d);
        m->fn(m->user, ERN_ATTN_OUT, i, 0, false, out, (uint32_t)(hp->n_heads * d), 1);
        slow_product(&layer->attn_out, out, sum);
        for (size_t j = 0; j < h; j++) x[t * h + j] += sum[j];
    }
    free(qkv);
    free(normed);
    free(sum);
    free(out);
}

/* x += scale * down(swiglu(gate_up m)); the hidden state goes to (kind, expert, second). */
static inline void slow_ffn(const slow_model *m, const ern_matrix *gate_up, const ern_matrix *down,
                            const double *normed, double scale, double *x, unsigned kind,
                            uint32_t i, unsigned expert)
{
    double *both = slow_alloc(gate_up->n_rows), *hidden = slow_alloc(down->n_cols);
    double *sum = slow_alloc(down->n_rows);
    slow_product(gate_up, normed, both);
    for (uint32_t j = 0; j < down->n_cols; j++) {
        const double gate = both[32 * (j / 16) + j % 16], up = both[32 * (j / 16) + 16 + j % 16];
        hidden[j] = gate / (1 + exp(-gate)) * up;
    }
    m->fn(m->user, kind, i, expert, kind == ERN_EXPERT, hidden, down->n_cols, scale);
    slow_product(down, hidden, sum);
    for (uint32_t j = 0; j < down->n_rows; j++) x[j] += scale * sum[j];
    free(both);
    free(hidden);
    free(sum);
}

/* The k experts of largest P + bias and their weights. */
static inline void slow_route(const ern_hparams *hp, const ern_layer *layer, const double *normed,
                              uint32_t *chosen, double *weight)
{
    double *p = slow_alloc(hp->n_experts), all = 0, total = 0;
    slow_product(&layer->router, normed, p);
    for (uint32_t e = 0; e < hp->n_experts; e++) all += p[e] = exp(p[e]);
    for (uint32_t e = 0; e < hp->n_experts; e++) p[e] /= all;
    for (uint32_t k = 0; k < hp->moe_k; k++) {
        double best = -INFINITY;
        for (uint32_t e = 0; e < hp->n_experts; e++) {
            const double score = p[e] + (layer->router_bias ? (double)layer->router_bias[e] : 0);
            bool taken = false;
            for (uint32_t j = 0; j < k; j++) taken = taken || chosen[j] == e;
            if (taken || score <= best) continue;
            best = score;
            chosen[k] = e;
        }
        total += weight[k] = p[chosen[k]];
    }
    for (uint32_t k = 0; k < hp->moe_k; k++) weight[k] /= total;
    free(p);
}

static inline void slow_moe(const slow_model *m, uint32_t i, const double *normed, double *x)
{
    const ern_hparams *hp = m->weights->hparams;
    const ern_layer *layer = &m->weights->layers[i];
    uint32_t chosen[64];
    double weight[64];
    if (hp->moe_k > 64) abort();
    m->fn(m->user, ERN_ROUTER, i, 0, false, normed, hp->hidden_size, 1);
    slow_route(hp, layer, normed, chosen, weight);
    for (uint32_t k = 0; k < hp->moe_k; k++) {
        const ern_expert e = ern_weights_expert(layer, chosen[k]);
        m->fn(m->user, ERN_EXPERT, i, chosen[k], false, normed, hp->hidden_size, weight[k]);
        slow_ffn(m, &e.gate_up, &e.down, normed, weight[k], x, ERN_EXPERT, i, chosen[k]);
    }
    if (!layer->shared_gate_up.data) return;
    m->fn(m->user, ERN_SHARED_GATE_UP, i, 0, false, normed, hp->hidden_size, 1);
    slow_ffn(m, &layer->shared_gate_up, &layer->shared_down, normed, 1, x, ERN_SHARED_DOWN, i, 0);
}

/* One document from an empty cache. */
static inline void slow_run(const slow_model *m, const int32_t *ids, size_t n)
{
    const ern_weights *w = m->weights;
    const size_t h = w->hparams->hidden_size;
    double *x = slow_alloc(n * h), *normed = slow_alloc(h);
    for (size_t t = 0; t < n; t++)
        for (size_t j = 0; j < h; j++)
            x[t * h + j] = slow_weight(&w->embed, (uint32_t)ids[t], (uint32_t)j);
    for (uint32_t i = 0; i < w->hparams->n_layers; i++) {
        const ern_layer *layer = &w->layers[i];
        slow_attention(m, i, x, n);
        for (size_t t = 0; t < n; t++) {
            slow_norm(w->hparams, layer->ffn_norm, x + t * h, normed);
            if (layer->moe) {
                slow_moe(m, i, normed, x + t * h);
                continue;
            }
            m->fn(m->user, ERN_FFN_GATE_UP, i, 0, false, normed, (uint32_t)h, 1);
            slow_ffn(m, &layer->gate_up, &layer->down, normed, 1, x + t * h, ERN_FFN_DOWN, i, 0);
        }
    }
    for (size_t t = 0; t < n; t++) {
        slow_norm(w->hparams, w->final_norm, x + t * h, normed);
        m->fn(m->user, ERN_HEAD, ERN_NO_LAYER, 0, false, normed, (uint32_t)h, 1);
    }
    free(x);
    free(normed);
}

#endif
