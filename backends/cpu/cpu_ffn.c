/* Feed-forward networks on the CPU: gate+up with SwiGLU in one phase, down in the next, over a flat
 * list of segments, so that a dense layer and all experts of a MoE layer are the same code.
 *
 * A gate_up tile is 4 groups: 32 columns of the hidden state, exactly one int8 block, so the tile
 * that makes them also quantizes them. A down tile is 64 rows of the residual stream and walks the
 * segments in order: the sum over experts has one order whatever the threads do. */
#include "cpu.h"

static uint32_t ffn_gate_up_tiles(const ern_matrix *gate_up)
{
    return (ern_n_groups(gate_up->n_rows) + CPU_TILE_GROUPS - 1) / CPU_TILE_GROUPS;
}

ERN_FN void cpu_segments_begin(ern_backend_state *s)
{
    s->n_gate_up_tiles = 0;
    for (size_t i = 0; i < s->n_segments; i++) {
        s->segments[i].tile_begin = s->n_gate_up_tiles;
        s->n_gate_up_tiles += ffn_gate_up_tiles(&s->segments[i].gate_up);
    }
}

/* SwiGLU of one tile's row into the hidden state's columns, quantized when down wants it; floats
 * are kept beside that when someone wants to see them. */
static void ffn_store(const ern_backend_state *s, const cpu_segment *seg, size_t row,
                      uint32_t column, uint32_t n_pairs, const float *tile)
{
    cpu_rows *h = seg->hidden;
    float out[16 * CPU_TILE_GROUPS / 2];
    s->k->swiglu(tile, n_pairs, out);
    const size_t n = ern_min_size(16 * (size_t)n_pairs, seg->down.n_cols - column);
    const bool quantized = cpu_quantized(&seg->down);
    if (!quantized || s->options.keep_inputs)
        memcpy(h->x + row * h->x_stride + column, out, n * sizeof *out);
    if (!quantized) return;
    const size_t block = column / ERN_BLOCK_COLS;
    s->k->quantize(out, n, h->q + row * h->q_stride + column,
                   h->q_scale + row * h->s_stride + block, h->q_sum + row * h->s_stride + block);
}

static void ffn_gate_up_tile(const cpu_run *run, const cpu_segment *seg, uint32_t i_tile)
{
    const ern_backend_state *s = run->state;
    const uint32_t begin = i_tile * CPU_TILE_GROUPS, all = ern_n_groups(seg->gate_up.n_rows);
    const uint32_t end = begin + CPU_TILE_GROUPS < all ? begin + CPU_TILE_GROUPS : all;
    const size_t stride = 16 * (size_t)CPU_TILE_GROUPS;
    float *tile = run->scratch->tile;
    for (size_t r = 0; r < seg->n_rows && !cpu_stopped(s); r += CPU_TILE_ROWS) {
        const size_t n = ern_min_size(CPU_TILE_ROWS, seg->n_rows - r);
        const ern_act a = cpu_act(seg->in, seg->in_row + r, n);
        s->k->matmul[seg->gate_up.type](&seg->gate_up, begin, end, &a, tile, stride);
        for (size_t i = 0; i < n; i++)
            ffn_store(s, seg, seg->hidden_row + r + i, begin * 8, (end - begin) / 2,
                      tile + i * stride);
    }
}

ERN_FN void cpu_segments_gate_up(const cpu_run *run, unsigned phase)
{
    const ern_backend_state *s = run->state;
    size_t i, i_seg = 0;
    while (cpu_tile_next(run, phase, s->n_gate_up_tiles, &i)) {
        while (i_seg + 1 < s->n_segments && s->segments[i_seg + 1].tile_begin <= i) i_seg++;
        ffn_gate_up_tile(run, &s->segments[i_seg], (uint32_t)(i - s->segments[i_seg].tile_begin));
    }
}

/* Add one segment's share of 64 residual rows. */
static void ffn_down_part(const cpu_run *run, const cpu_segment *seg, uint32_t begin, uint32_t end)
{
    const ern_backend_state *s = run->state;
    const size_t stride = 16 * (size_t)CPU_TILE_GROUPS;
    const size_t width = ern_min_size(16 * (size_t)(end - begin), seg->down.n_rows - 16 * begin);
    float *tile = run->scratch->tile;
    for (size_t r = 0; r < seg->n_rows && !cpu_stopped(s); r += CPU_TILE_ROWS) {
        const size_t n = ern_min_size(CPU_TILE_ROWS, seg->n_rows - r);
        const ern_act a = cpu_act(seg->hidden, seg->hidden_row + r, n);
        s->k->matmul[seg->down.type](&seg->down, begin, end, &a, tile, stride);
        for (size_t i = 0; i < n; i++) {
            const size_t token = seg->token ? (size_t)seg->token[r + i] : r + i;
            float *x = s->x + token * s->x_stride + 16 * (size_t)begin;
            if (seg->part) {
                memcpy(seg->part + 16 * (size_t)begin, tile + i * stride, width * sizeof *x);
                continue;
            }
            if (seg->weight) s->k->add_scaled(x, tile + i * stride, seg->weight[r + i], width);
            else s->k->add(x, tile + i * stride, width);
        }
    }
}

ERN_FN void cpu_segments_down(const cpu_run *run, unsigned phase)
{
    const ern_backend_state *s = run->state;
    const uint32_t groups = ern_n_groups(s->hp->hidden_size);
    size_t i;
    while (cpu_tile_next(run, phase, (groups + CPU_TILE_GROUPS - 1) / CPU_TILE_GROUPS, &i)) {
        const uint32_t begin = (uint32_t)i * CPU_TILE_GROUPS;
        const uint32_t end = begin + CPU_TILE_GROUPS < groups ? begin + CPU_TILE_GROUPS : groups;
        for (size_t j = 0; j < s->n_segments; j++) ffn_down_part(run, &s->segments[j], begin, end);
    }
}

ERN_FN void cpu_run_ffn(const cpu_run *run)
{
    ern_backend_state *s = run->state;
    const ern_layer *layer = run->op->layer;
    cpu_norm(run, layer->ffn_norm, 0);
    if (run->worker->index == 0) {
        s->segments[0] = (cpu_segment){ .gate_up = layer->gate_up,
                                        .down = layer->down,
                                        .in = &s->normed,
                                        .hidden = &s->dense,
                                        .n_rows = s->batch.n_tokens };
        s->n_segments = 1;
        cpu_segments_begin(s);
    }
    cpu_phase_end(run, CPU_PHASE_NORM);
    cpu_segments_gate_up(run, 0);
    cpu_phase_end(run, CPU_PHASE_GATE_UP);
    cpu_segments_down(run, 1);
    cpu_phase_end(run, CPU_PHASE_DOWN);
}
