/* Mixture of experts on the CPU (spec: softmax over all experts, the correction bias added for the
 * choice only, weights renormalised over the chosen): route, sort the (token, expert) pairs by
 * expert, run every touched expert over its rows as one segment, the shared experts as the last. */
#include "cpu.h"

/* Probabilities of one token in place of its router logits; its k experts and their weights.
 * The k largest of P + bias, lowest index first among equals; weights are the plain P over their
 * sum, which is held above norm_min. */
ERN_FN void cpu_moe_choose(const ern_backend_state *s, const ern_layer *layer, float *p,
                           int32_t *chosen, float *weight)
{
    const ern_hparams *hp = s->hp;
    float total = 0.0f;
    const float sum = s->k->exp_sum(p, hp->n_experts, s->k->max(p, hp->n_experts));
    s->k->scale(p, 1.0f / sum, hp->n_experts);
    for (uint32_t i = 0; i < hp->moe_k; i++) {
        int32_t best = -1;
        float best_score = 0.0f;
        for (uint32_t e = 0; e < hp->n_experts; e++) {
            const float score = p[e] + (layer->router_bias ? layer->router_bias[e] : 0.0f);
            bool taken = false;
            for (uint32_t j = 0; j < i; j++) taken |= chosen[j] == (int32_t)e;
            if (!taken && (best < 0 || score > best_score)) {
                best = (int32_t)e;
                best_score = score;
            }
        }
        chosen[i] = best;
        weight[i] = p[best];
        total += p[best];
    }
    if (!(total > hp->moe_norm_min)) total = hp->moe_norm_min > 0.0f ? hp->moe_norm_min : 1e-12f;
    for (uint32_t i = 0; i < hp->moe_k; i++) weight[i] /= total;
}

/* Counting sort of the pairs by expert; within an expert by token. */
static void moe_sort(ern_backend_state *s)
{
    const ern_hparams *hp = s->hp;
    const size_t n = (size_t)s->batch.n_tokens * hp->moe_k;
    uint32_t *begin = s->expert_begin;
    memset(begin, 0, ((size_t)hp->n_experts + 1) * sizeof *begin);
    for (size_t i = 0; i < n; i++) begin[s->chosen[i] + 1]++;
    for (uint32_t e = 0; e < hp->n_experts; e++) begin[e + 1] += begin[e];
    for (size_t i = 0; i < n; i++) {
        const uint32_t to = begin[s->chosen[i]]++;
        s->entry_token[to] = (int32_t)(i / hp->moe_k);
        s->entry_weight[to] = s->chosen_weight[i];
    }
    /* Each begin[e] now is the end of e: shift back. */
    for (uint32_t e = hp->n_experts; e > 0; e--) begin[e] = begin[e - 1];
    begin[0] = 0;
}

/* One segment per touched expert, then the shared experts. A single token needs no gathering: its
 * row serves every expert. */
static void moe_plan(ern_backend_state *s, const ern_layer *layer)
{
    const ern_hparams *hp = s->hp;
    const bool one = s->batch.n_tokens == 1;
    s->n_segments = 0;
    for (uint32_t e = 0; e < hp->n_experts; e++) {
        const uint32_t begin = s->expert_begin[e], n = s->expert_begin[e + 1] - begin;
        if (n == 0) continue;
        const ern_expert w = ern_weights_expert(layer, e);
        s->segments[s->n_segments++] = (cpu_segment){ .gate_up = w.gate_up,
                                                      .down = w.down,
                                                      .in = one ? &s->normed : &s->gathered,
                                                      .in_row = one ? 0 : begin,
                                                      .hidden = &s->expert,
                                                      .hidden_row = begin,
                                                      .n_rows = n,
                                                      .token = s->entry_token + begin,
                                                      .weight = s->entry_weight + begin };
    }
    if (layer->shared_gate_up.data)
        s->segments[s->n_segments++] = (cpu_segment){ .gate_up = layer->shared_gate_up,
                                                      .down = layer->shared_down,
                                                      .in = &s->normed,
                                                      .hidden = &s->shared,
                                                      .n_rows = s->batch.n_tokens };
    cpu_segments_begin(s);
}

ERN_FN void cpu_moe_gather_row(ern_backend_state *s, size_t to, size_t from)
{
    const cpu_rows *in = &s->normed;
    cpu_rows *out = &s->gathered;
    if (out->x)
        memcpy(out->x + to * out->x_stride, in->x + from * in->x_stride,
               in->x_stride * sizeof *in->x);
    if (out->q) {
        memcpy(out->q + to * out->q_stride, in->q + from * in->q_stride, in->q_stride);
        memcpy(out->q_scale + to * out->s_stride, in->q_scale + from * in->s_stride,
               in->s_stride * sizeof *in->q_scale);
        memcpy(out->q_sum + to * out->s_stride, in->q_sum + from * in->s_stride,
               in->s_stride * sizeof *in->q_sum);
    }
}

static void moe_route(const cpu_run *run)
{
    ern_backend_state *s = run->state;
    size_t begin, end;
    cpu_share(run, s->batch.n_tokens, &begin, &end);
    for (size_t t = begin; t < end; t++)
        cpu_moe_choose(s, run->op->layer, s->router + t * s->router_stride,
                       s->chosen + t * s->hp->moe_k, s->chosen_weight + t * s->hp->moe_k);
    if (s->batch.n_tokens > 1) cpu_phase_end(run, CPU_PHASE_ROUTER);
    if (run->worker->index == 0) {
        moe_sort(s);
        if (s->stream) cpu_stream_plan(run);
        else moe_plan(s, run->op->layer);
        if (s->options.route && !cpu_stopped(s))
            s->options.route(run->op->i_layer, s->batch.n_tokens, s->hp->moe_k, s->chosen,
                             s->chosen_weight, s->options.route_user);
    }
    cpu_phase_end(run, CPU_PHASE_ROUTER);
}

ERN_FN void cpu_run_moe(const cpu_run *run)
{
    ern_backend_state *s = run->state;
    const ern_layer *layer = run->op->layer;
    const size_t n = s->batch.n_tokens;
    cpu_norm(run, layer->ffn_norm, 0);
    cpu_phase_end(run, CPU_PHASE_NORM);
    const ern_act in = cpu_act(&s->normed, 0, n);
    cpu_product(run, 0, &layer->router, &in, s->router, s->router_stride, false);
    cpu_phase_end(run, CPU_PHASE_ROUTER);
    moe_route(run);
    if (s->stream) {
        cpu_stream_run(run);
        return;
    }
    if (n > 1) {
        size_t begin, end;
        cpu_share(run, n * s->hp->moe_k, &begin, &end);
        for (size_t i = begin; i < end; i++) cpu_moe_gather_row(s, i, (size_t)s->entry_token[i]);
        cpu_phase_end(run, CPU_PHASE_GATHER);
    }
    cpu_segments_gate_up(run, 1);
    cpu_phase_end(run, CPU_PHASE_GATE_UP);
    cpu_segments_down(run, 2);
    cpu_phase_end(run, CPU_PHASE_DOWN);
}
