/* A mixture layer whose experts come from disk: what has landed is computed while the rest is read.
 *
 * The layer's segments are planned in the order of their sum, experts by number and the shared ones
 * last, exactly as when all are in memory. They then run in waves, each wave as a layer of its own:
 *
 *     a single token: first the shared experts and those in memory, then each as it lands; when that
 *         breaks the order, products are kept apart and added at the end, in order
 *     a batch: in order, as far as they have landed; each wave adds to the residual stream
 *
 * Either way every number is added in the same order as without waves, so results are the same to
 * the last bit. Worker 0 alone talks to the experts; the others meet it in the barriers.
 *
 * Waiting for a slot never blocks another session for good: whoever waits holds nothing that has
 * landed and is not yet computed, but for a batch's experts behind the one it waits for, which it
 * pins in order only. */
#include "../../src/os.h"
#include "cpu.h"

#define STREAM_WINDOW       16u  /* experts that a batch pins ahead of the one it computes */
#define STREAM_RECENT       32u  /* last tokens of a prompt whose experts are worth keeping */
#define STREAM_WAIT_SECONDS 5e-3 /* between two looks at the cancel flag */
#define STREAM_PHASE        1u   /* tile counters from here on begin anew with each wave */

/* ---- The plan ------------------------------------------------------------------------------ */

/* Is one of the last tokens of a prompt, or of a short batch, among the expert's? */
static bool stream_is_recent(const ern_backend_state *s, uint32_t last_token)
{
    const uint32_t n = s->batch.n_tokens;
    return s->batch.n_logits > 0 && last_token + STREAM_RECENT >= n;
}

ERN_FN void cpu_stream_plan(const cpu_run *run)
{
    ern_backend_state *s = run->state;
    cpu_stream *st = s->stream;
    const ern_layer *layer = run->op->layer;
    st->one = s->batch.n_tokens == 1;
    st->n_planned = st->n_pinned = st->n_done = st->n_wave = 0;
    st->parts_used = false;
    for (uint32_t e = 0; e < s->hp->n_experts; e++) {
        const uint32_t begin = s->expert_begin[e], n = s->expert_begin[e + 1] - begin;
        if (n == 0) continue;
        const ern_expert shape = ern_weights_expert_at(layer, e, NULL);
        st->arrivals[st->n_planned] = (cpu_arrival){
            .expert = e,
            .recent = stream_is_recent(s, (uint32_t)s->entry_token[begin + n - 1]),
        };
        st->planned[st->n_planned++] = (cpu_segment){ .gate_up = shape.gate_up,
                                                      .down = shape.down,
                                                      .in = st->one ? &s->normed : &s->gathered,
                                                      .hidden = &s->expert,
                                                      .n_rows = n,
                                                      .token = s->entry_token + begin,
                                                      .weight = s->entry_weight + begin };
    }
    if (!layer->shared_gate_up.data) return;
    st->arrivals[st->n_planned] = (cpu_arrival){ .expert = s->hp->n_experts };
    st->planned[st->n_planned++] = (cpu_segment){ .gate_up = layer->shared_gate_up,
                                                  .down = layer->shared_down,
                                                  .in = &s->normed,
                                                  .hidden = &s->shared,
                                                  .n_rows = s->batch.n_tokens };
}

static bool stream_is_shared(const ern_backend_state *s, size_t i)
{
    return s->stream->arrivals[i].expert == s->hp->n_experts;
}

/* ---- Pins ---------------------------------------------------------------------------------- */

static void stream_unpin(const ern_backend_state *s, size_t i, bool recent)
{
    cpu_arrival *arrival = &s->stream->arrivals[i];
    if (arrival->pinned) ern_experts_unpin(s->backend->experts, arrival->slot, recent);
    arrival->pinned = false;
}

/* Pin in order as far as slots and the window allow. */
static void stream_pin(const ern_backend_state *s, uint32_t i_layer)
{
    cpu_stream *st = s->stream;
    const size_t end = st->one ? st->n_planned
                               : ern_min_size(st->n_planned, st->n_done + STREAM_WINDOW);
    for (; st->n_pinned < end; st->n_pinned++) {
        cpu_arrival *arrival = &st->arrivals[st->n_pinned];
        if (stream_is_shared(s, st->n_pinned)) continue;
        if (ern_experts_pin(s->backend->experts, i_layer, arrival->expert, &st->stats,
                            &arrival->slot)
            == ERN_PIN_FULL)
            return;
        arrival->pinned = true;
    }
}

/* Is segment i there? Places its matrices. A failure ends the step. */
static bool stream_landed(ern_backend_state *s, const ern_layer *layer, size_t i)
{
    cpu_stream *st = s->stream;
    const unsigned char *data;
    if (i >= st->n_pinned || st->arrivals[i].done) return false;
    if (stream_is_shared(s, i)) return true;
    const ernie_status status =
        ern_experts_get(s->backend->experts, st->arrivals[i].slot, &data, &s->failure);
    if (status == ERNIE_FULL) return false;
    if (status != ERNIE_OK) {
        s->failure.code = status;
        atomic_store_explicit(&s->failed, true, memory_order_relaxed);
        return false;
    }
    const ern_expert expert = ern_weights_expert_at(layer, st->arrivals[i].expert, data);
    st->planned[i].gate_up = expert.gate_up;
    st->planned[i].down = expert.down;
    return true;
}

/* ---- Reading ahead ------------------------------------------------------------------------- */

/* The operation of the next mixture layer of this step, NULL when there is none. */
static const cpu_op *stream_next_moe(const cpu_run *run)
{
    const ern_backend_state *s = run->state;
    for (const cpu_op *op = run->op + 1; op < s->ops + s->n_ops; op++)
        if (op->kind == CPU_MOE) return op;
    return NULL;
}

/* A batch that touches nearly every expert will need those of the next layer, too. */
static void stream_ahead_batch(const cpu_run *run)
{
    const ern_backend_state *s = run->state;
    const cpu_op *next = stream_next_moe(run);
    const size_t n_experts = s->hp->n_experts;
    if (!next || s->stream->n_planned < n_experts / 4 * 3) return;
    const uint32_t room = ern_experts_n_slots(s->backend->experts) / 4;
    for (uint32_t e = 0; e < n_experts && e < room; e++)
        ern_experts_ahead(s->backend->experts, next->i_layer, e, &s->stream->stats);
}

/* The next layer's router, given this layer's input for lack of its own: it often guesses right. */
static void stream_ahead_token(const cpu_run *run)
{
    ern_backend_state *s = run->state;
    cpu_stream *st = s->stream;
    const cpu_op *next = stream_next_moe(run);
    if (!next) return;
    const ern_layer *layer = next->layer;
    s->k->rmsnorm(s->x, layer->ffn_norm, s->hp->hidden_size, s->hp->rms_norm_eps,
                  st->ahead_normed);
    const ern_act in = { .x = st->ahead_normed, .x_stride = s->x_stride, .n_tokens = 1 };
    s->k->matmul[layer->router.type](&layer->router, 0, ern_n_groups(layer->router.n_rows), &in,
                                     st->ahead_router, s->router_stride);
    cpu_moe_choose(s, layer, st->ahead_router, st->ahead_chosen, st->ahead_weight);
    for (uint32_t i = 0; i < s->hp->moe_k; i++)
        ern_experts_ahead(s->backend->experts, next->i_layer, (uint32_t)st->ahead_chosen[i],
                          &st->stats);
}

static void stream_ahead(const cpu_run *run)
{
    if (!run->state->stream->one) stream_ahead_batch(run);
    else if (run->state->backend->look_ahead) stream_ahead_token(run);
}

/* ---- Waves --------------------------------------------------------------------------------- */

/* Rows of a wave lie one behind the other; a token alone has its row in `normed`. */
static void stream_add(ern_backend_state *s, size_t i, size_t *row)
{
    cpu_stream *st = s->stream;
    cpu_segment *seg = &st->planned[i];
    st->wave[st->n_wave++] = (uint32_t)i;
    st->arrivals[i].done = true;
    if (stream_is_shared(s, i)) return;
    seg->hidden_row = *row;
    seg->in_row = st->one ? 0 : *row;
    *row += seg->n_rows;
}

/* What can run now: for a batch the next in order, for a token all that is there. */
static void stream_collect(ern_backend_state *s, const ern_layer *layer)
{
    cpu_stream *st = s->stream;
    size_t row = 0;
    for (size_t i = st->one ? 0 : st->n_done; i < st->n_planned; i++) {
        const bool fits = stream_is_shared(s, i) || row + st->planned[i].n_rows <= st->rows_max;
        if (fits && stream_landed(s, layer, i)) stream_add(s, i, &row);
        else if (!st->one) break;
    }
    st->n_done += st->n_wave;
}

static void stream_let_go(ern_backend_state *s)
{
    cpu_stream *st = s->stream;
    for (size_t i = 0; i < st->n_wave; i++)
        stream_unpin(s, st->wave[i], st->arrivals[st->wave[i]].recent);
    st->n_wave = 0;
}

static void stream_abandon(ern_backend_state *s)
{
    for (size_t i = 0; i < s->stream->n_pinned; i++) stream_unpin(s, i, false);
}

/* Products of a token's waves are kept apart unless one wave holds them all, and so their order. */
static void stream_keep_parts(ern_backend_state *s)
{
    cpu_stream *st = s->stream;
    if (st->one && st->n_wave && st->n_wave < st->n_planned) st->parts_used = true;
    for (size_t i = 0; i < st->n_planned && st->parts_used; i++)
        st->planned[i].part = st->parts + i * s->x_stride;
}

/* The wave becomes the state's segments, with fresh tile counters. */
static void stream_begin(const cpu_run *run)
{
    ern_backend_state *s = run->state;
    cpu_stream *st = s->stream;
    stream_keep_parts(s);
    for (size_t i = 0; i < st->n_wave; i++) s->segments[i] = st->planned[st->wave[i]];
    s->n_segments = st->n_wave;
    cpu_segments_begin(s);
    for (unsigned i = STREAM_PHASE; i < CPU_COUNTERS; i++)
        atomic_store_explicit(&run->op->next[i], 0, memory_order_relaxed);
}

/* Worker 0: the next wave, empty when all have run, one failed or the step is cancelled. */
static void stream_next(const cpu_run *run)
{
    ern_backend_state *s = run->state;
    cpu_stream *st = s->stream;
    const bool first = st->n_done == 0;
    stream_let_go(s);
    while (!cpu_stopped(s) && st->n_done < st->n_planned) {
        const unsigned events = ern_experts_events(s->backend->experts);
        stream_pin(s, run->op->i_layer);
        stream_collect(s, run->op->layer);
        if (st->n_wave || cpu_stopped(s)) break;
        const double since = ern_seconds();
        ern_experts_wait(s->backend->experts, events, STREAM_WAIT_SECONDS);
        st->stats.wait_seconds += ern_seconds() - since;
    }
    if (cpu_stopped(s)) {
        st->n_wave = 0;
        stream_abandon(s);
    } else if (first || (!st->one && st->n_pinned == st->n_planned)) {
        stream_ahead(run);
    }
    stream_begin(run);
}

/* Add what the waves of a token have left, in the order of the plan. */
static void stream_sum(const cpu_run *run)
{
    ern_backend_state *s = run->state;
    size_t begin, end;
    if (cpu_stopped(s)) return;
    ern_worker_share(run->worker, s->hp->hidden_size, 16, &begin, &end);
    for (size_t i = 0; i < s->stream->n_planned && begin < end; i++) {
        const cpu_segment *seg = &s->stream->planned[i];
        const float *part = seg->part + begin;
        if (seg->weight) s->k->add_scaled(s->x + begin, part, seg->weight[0], end - begin);
        else s->k->add(s->x + begin, part, end - begin);
    }
}

/* Rows of the wave's experts, side by side. */
static void stream_gather(const cpu_run *run)
{
    ern_backend_state *s = run->state;
    for (size_t i = 0; i < s->n_segments; i++) {
        const cpu_segment *seg = &s->segments[i];
        size_t begin, end;
        if (seg->in != &s->gathered) continue;
        cpu_share(run, seg->n_rows, &begin, &end);
        for (size_t r = begin; r < end; r++)
            cpu_moe_gather_row(s, seg->in_row + r, (size_t)seg->token[r]);
    }
}

ERN_FN void cpu_stream_run(const cpu_run *run)
{
    const ern_backend_state *s = run->state;
    const cpu_stream *st = s->stream;
    for (;;) {
        if (run->worker->index == 0) stream_next(run);
        cpu_phase_end(run, CPU_PHASE_LOAD);
        if (s->n_segments == 0) break;
        if (!st->one) {
            stream_gather(run);
            cpu_phase_end(run, CPU_PHASE_GATHER);
        }
        cpu_segments_gate_up(run, STREAM_PHASE);
        cpu_phase_end(run, CPU_PHASE_GATE_UP);
        cpu_segments_down(run, STREAM_PHASE + 1);
        cpu_phase_end(run, CPU_PHASE_DOWN);
    }
    if (!st->parts_used) return;
    stream_sum(run);
    cpu_phase_end(run, CPU_PHASE_DOWN);
}

#undef STREAM_WINDOW
#undef STREAM_RECENT
#undef STREAM_WAIT_SECONDS
#undef STREAM_PHASE
