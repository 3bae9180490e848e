/* Replaying a trace. The trace becomes one list of experts asked for, in groups: the choices of one
 * decoded token, or of one batch of a prompt, in one layer. LRU and LFRU walk it with the rules of
 * the engine; OPT walks it backwards first, to learn when each expert is asked for next. */
#include "replay.h"
#include "../../src/policy.h"

#define REPLAY_NONE   UINT32_MAX
#define REPLAY_LOOK   4096u /* experts asked for between two looks at progress */
#define REPLAY_WINDOW 8u
#define REPLAY_FAR    4096u /* reuse distances from here on count alike */

/* One expert asked for. */
typedef struct replay_pin {
    uint32_t expert; /* of the whole model: layer's place * n_experts + number */
    bool recent;     /* the use counts */
} replay_pin;

typedef struct replay_group {
    uint32_t begin; /* first of its pins; they end where the next group's begin */
    uint16_t layer; /* place among those with experts */
    bool decoded;
    bool ends_batch; /* a token, or a batch of them, is done: the clock goes on */
} replay_group;

struct ern_replay {
    ernie_allocator allocator;
    uint32_t n_layers, n_experts, moe_k; /* of the trace; n_experts of a layer */
    replay_pin *pins;                    /* [n_pins of pin_room] */
    replay_group *groups;                /* [n_groups + 1], the last one empty */
    size_t n_pins, pin_room, n_groups;
};

/* ---- From a trace to what is asked for ------------------------------------------------------ */

/* Where the prompt ends to which each of its batches belongs. */
static uint64_t replay_prompt_end(const ern_trace *trace, size_t i_batch)
{
    for (;; i_batch++) {
        const ern_trace_batch *batch = &trace->batches[i_batch];
        const uint64_t end = (uint64_t)batch->position + batch->n_tokens;
        if (i_batch + 1 == trace->n_batches || batch[1].decoded || batch[1].position != end)
            return end;
    }
}

/* Each expert once, in the order of their numbers, as the engine asks for them. `of` [n_experts]: 1
 * chosen, 2 by one of the prompt's last tokens or a decoded one. */
static void replay_add_batch(ern_replay *r, const ern_trace_batch *batch, size_t layer, size_t k,
                             uint64_t prompt_end, unsigned char *of)
{
    const uint16_t *chosen = batch->experts + layer * batch->n_tokens * k;
    memset(of, 0, r->n_experts);
    for (size_t t = 0; t < batch->n_tokens; t++) {
        const bool recent = batch->decoded || batch->position + t + ERN_REPLAY_RECENT >= prompt_end;
        for (size_t i = 0; i < k; i++)
            if (of[chosen[t * k + i]] < 1 + recent)
                of[chosen[t * k + i]] = (unsigned char)(1 + recent);
    }
    for (uint32_t e = 0; e < r->n_experts; e++)
        if (of[e])
            r->pins[r->n_pins++] =
                (replay_pin){ .expert = (uint32_t)layer * r->n_experts + e, .recent = of[e] == 2 };
}

static void replay_fill(ern_replay *r, const ern_trace *trace, unsigned char *of)
{
    const size_t k = trace->head.moe_k;
    uint64_t prompt_end = 0, next = UINT64_MAX; /* next: the position that would go on with it */
    for (size_t b = 0; b < trace->n_batches; b++) {
        const ern_trace_batch *batch = &trace->batches[b];
        if (!batch->decoded && batch->position != next) prompt_end = replay_prompt_end(trace, b);
        next = batch->decoded ? UINT64_MAX : (uint64_t)batch->position + batch->n_tokens;
        for (uint32_t layer = 0; layer < r->n_layers; layer++) {
            r->groups[r->n_groups++] = (replay_group){ .begin = (uint32_t)r->n_pins,
                                                       .layer = (uint16_t)layer,
                                                       .decoded = batch->decoded,
                                                       .ends_batch = layer + 1 == r->n_layers };
            replay_add_batch(r, batch, layer, k, prompt_end, of);
        }
    }
    r->groups[r->n_groups] = (replay_group){ .begin = (uint32_t)r->n_pins };
}

/* The most that a batch can ask of a layer. */
static uint64_t replay_pins_max(const ern_trace *trace)
{
    uint64_t n = 0;
    for (size_t b = 0; b < trace->n_batches; b++) {
        const uint64_t chosen = (uint64_t)trace->batches[b].n_tokens * trace->head.moe_k;
        n += trace->head.n_layers
             * (chosen < trace->head.n_experts ? chosen : trace->head.n_experts);
    }
    return n;
}

ERN_FN ernie_status ern_replay_open(ern_replay **out, const ern_trace *trace, ernie_error *error)
{
    const ernie_allocator *allocator = &trace->allocator;
    const uint64_t n_pins = replay_pins_max(trace);
    *out = NULL;
    ERN_FAIL_IF(trace->n_batches == 0, error, ERNIE_INVALID,
                "the trace holds no tokens: there is nothing to replay");
    ERN_FAIL_IF(n_pins >= REPLAY_NONE / 2, error, ERNIE_INVALID,
                "the trace asks for experts %llu times, at most %u can be replayed",
                (unsigned long long)n_pins, REPLAY_NONE / 2 - 1);
    ern_replay *r = ern_alloc_zero(allocator, sizeof *r);
    unsigned char *of = ern_alloc(allocator, trace->head.n_experts);
    const size_t n_groups = trace->n_batches * trace->head.n_layers;
    if (r) {
        r->allocator = *allocator;
        r->n_layers = trace->head.n_layers;
        r->n_experts = trace->head.n_experts;
        r->moe_k = trace->head.moe_k;
        r->pin_room = (size_t)n_pins;
        r->pins = ern_alloc(allocator, r->pin_room * sizeof *r->pins);
        r->groups = ern_alloc(allocator, (n_groups + 1) * sizeof *r->groups);
    }
    const bool fine = of && r && r->pins && r->groups;
    if (fine) replay_fill(r, trace, of);
    if (of) ern_free(allocator, of, trace->head.n_experts);
    if (fine) {
        *out = r;
        return ERNIE_OK;
    }
    if (r) r->n_groups = n_groups;
    ern_replay_close(r);
    return ern_error_set(error, ERNIE_NO_MEMORY, "no memory to replay %zu batches",
                         trace->n_batches);
}

ERN_FN void ern_replay_close(ern_replay *r)
{
    if (!r) return;
    const ernie_allocator allocator = r->allocator;
    if (r->pins) ern_free(&allocator, r->pins, r->pin_room * sizeof *r->pins);
    if (r->groups) ern_free(&allocator, r->groups, (r->n_groups + 1) * sizeof *r->groups);
    ern_free(&allocator, r, sizeof *r);
}

/* ---- The engine's rules --------------------------------------------------------------------- */

typedef struct replay_cache {
    const ern_replay *replay;
    ern_policy policy;
    ern_policy_slot *slots; /* [n_slots] */
    uint32_t *holds;        /* [n_slots] the expert in each */
    uint32_t *slot_of;      /* [n_layers * n_experts] or REPLAY_NONE */
    uint32_t *count;        /* [n_layers] experts held of each */
    uint32_t n_slots, floor;
    uint64_t clock;
} replay_cache;

/* What is done with in a layer may go. */
static void replay_release(replay_cache *c, const replay_pin *pins, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        ern_policy_slot *slot = &c->slots[c->slot_of[pins[i].expert]];
        if (!slot->held) continue;
        slot->held = false;
        if (pins[i].recent) ern_policy_use(slot, c->clock);
    }
}

/* The floor is a wish: a layer that needs more at once than the others leave takes it from them. */
static size_t replay_victim(const replay_cache *c, uint16_t layer)
{
    const size_t victim =
        ern_policy_victim(c->policy, c->slots, c->n_slots, c->clock, layer, c->count, c->floor);
    if (victim != ERN_POLICY_NONE || c->floor == 0) return victim;
    return ern_policy_victim(c->policy, c->slots, c->n_slots, c->clock, layer, c->count, 0);
}

/* Bring in the expert that pins[i] asks for; those before it in the group are still in use, unless
 * the cache is too small for all at once: then the first ones have been computed. */
static void replay_load(replay_cache *c, const replay_pin *pins, size_t i, size_t *n_done,
                        uint16_t layer)
{
    size_t victim = replay_victim(c, layer);
    if (victim == ERN_POLICY_NONE) {
        replay_release(c, pins + *n_done, i - *n_done);
        *n_done = i;
        victim = replay_victim(c, layer);
    }
    ERN_ASSERT(victim != ERN_POLICY_NONE);
    ern_policy_slot *slot = &c->slots[victim];
    if (!slot->empty) {
        c->slot_of[c->holds[victim]] = REPLAY_NONE;
        c->count[slot->layer]--;
    }
    *slot = (ern_policy_slot){ .layer = layer };
    c->count[layer]++;
    c->holds[victim] = pins[i].expert;
    c->slot_of[pins[i].expert] = (uint32_t)victim;
}

static void replay_group_step(replay_cache *c, const replay_group *group, ern_replay_count *count)
{
    const replay_pin *pins = c->replay->pins + group->begin;
    const size_t n = group[1].begin - group->begin;
    size_t n_done = 0;
    for (size_t i = 0; i < n; i++) {
        const bool hit = c->slot_of[pins[i].expert] != REPLAY_NONE;
        if (!hit) replay_load(c, pins, i, &n_done, group->layer);
        c->slots[c->slot_of[pins[i].expert]].held = true;
        count->n_pins++;
        count->n_hits += hit;
        if (group->decoded) continue;
        replay_release(c, pins + i, 1); /* a prompt's experts come one after the other */
        n_done = i + 1;
    }
    replay_release(c, pins + n_done, n - n_done);
    if (group->ends_batch) c->clock++;
}

static bool replay_cache_open(replay_cache *c)
{
    const ern_replay *r = c->replay;
    const ernie_allocator *allocator = &r->allocator;
    const size_t n_experts = (size_t)r->n_layers * r->n_experts;
    c->slots = ern_alloc_zero(allocator, c->n_slots * sizeof *c->slots);
    c->holds = ern_alloc_zero(allocator, c->n_slots * sizeof *c->holds);
    c->slot_of = ern_alloc(allocator, n_experts * sizeof *c->slot_of);
    c->count = ern_alloc_zero(allocator, r->n_layers * sizeof *c->count);
    if (!c->slots || !c->holds || !c->slot_of || !c->count) return false;
    for (size_t i = 0; i < c->n_slots; i++) c->slots[i].empty = true;
    for (size_t i = 0; i < n_experts; i++) c->slot_of[i] = REPLAY_NONE;
    return true;
}

static void replay_cache_close(replay_cache *c)
{
    const ern_replay *r = c->replay;
    const ernie_allocator *allocator = &r->allocator;
    const size_t n_experts = (size_t)r->n_layers * r->n_experts;
    if (c->slots) ern_free(allocator, c->slots, c->n_slots * sizeof *c->slots);
    if (c->holds) ern_free(allocator, c->holds, c->n_slots * sizeof *c->holds);
    if (c->slot_of) ern_free(allocator, c->slot_of, n_experts * sizeof *c->slot_of);
    if (c->count) ern_free(allocator, c->count, r->n_layers * sizeof *c->count);
}

/* ---- Knowing the future --------------------------------------------------------------------- */

/* Belady's rule: what is asked for latest gives way. Counted are the pins of one kind, decoded or
 * not; an expert whose next pin is of the other kind may as well go: bringing it in then costs
 * nothing. So each kind has a bound of its own. There is no floor, and nothing is held. */
typedef struct replay_future {
    const ern_replay *replay;
    uint32_t *next;        /* [n_pins] the pin that asks for the same expert next, if it counts */
    uint32_t *slot_of;     /* [n_layers * n_experts] or REPLAY_NONE; first: the next pin */
    uint32_t *holds, *due; /* [n_slots] expert; when it is asked for next */
    uint32_t n_slots, n_used;
} replay_future;

static void replay_foresee(replay_future *f, bool decoded)
{
    const ern_replay *r = f->replay;
    const size_t n_experts = (size_t)r->n_layers * r->n_experts;
    for (size_t i = 0; i < n_experts; i++) f->slot_of[i] = REPLAY_NONE;
    for (size_t g = r->n_groups; g-- > 0;)
        for (uint32_t i = r->groups[g + 1].begin; i-- > r->groups[g].begin;) {
            uint32_t *asked = &f->slot_of[r->pins[i].expert];
            f->next[i] = *asked;
            *asked = r->groups[g].decoded == decoded ? i : REPLAY_NONE;
        }
    for (size_t i = 0; i < n_experts; i++) f->slot_of[i] = REPLAY_NONE;
    f->n_used = 0;
}

static uint32_t replay_latest(const replay_future *f)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < f->n_slots; i++)
        if (f->due[i] > f->due[best]) best = i;
    return best;
}

static bool replay_future_pin(replay_future *f, uint32_t i_pin)
{
    const uint32_t expert = f->replay->pins[i_pin].expert;
    uint32_t slot = f->slot_of[expert];
    const bool hit = slot != REPLAY_NONE;
    if (!hit) {
        const bool full = f->n_used == f->n_slots;
        slot = full ? replay_latest(f) : f->n_used++;
        if (full) f->slot_of[f->holds[slot]] = REPLAY_NONE;
        f->holds[slot] = expert;
        f->slot_of[expert] = slot;
    }
    f->due[slot] = f->next[i_pin];
    return hit;
}

static bool replay_future_open(replay_future *f)
{
    const ern_replay *r = f->replay;
    const ernie_allocator *allocator = &r->allocator;
    f->next = ern_alloc(allocator, r->n_pins * sizeof *f->next);
    f->slot_of = ern_alloc(allocator, (size_t)r->n_layers * r->n_experts * sizeof *f->slot_of);
    f->holds = ern_alloc(allocator, f->n_slots * sizeof *f->holds);
    f->due = ern_alloc(allocator, f->n_slots * sizeof *f->due);
    return f->next && f->slot_of && f->holds && f->due;
}

static void replay_future_close(replay_future *f)
{
    const ern_replay *r = f->replay;
    const ernie_allocator *allocator = &r->allocator;
    if (f->next) ern_free(allocator, f->next, r->n_pins * sizeof *f->next);
    if (f->slot_of)
        ern_free(allocator, f->slot_of, (size_t)r->n_layers * r->n_experts * sizeof *f->slot_of);
    if (f->holds) ern_free(allocator, f->holds, f->n_slots * sizeof *f->holds);
    if (f->due) ern_free(allocator, f->due, f->n_slots * sizeof *f->due);
}

/* ---- Running -------------------------------------------------------------------------------- */

typedef struct replay_watch {
    ernie_progress_fn progress;
    void *user;
    uint64_t done, total, next;
} replay_watch;

/* False: stop. */
static bool replay_go_on(replay_watch *watch, const replay_group *group)
{
    watch->done += group[1].begin - group->begin;
    if (!watch->progress || (watch->done < watch->next && watch->done < watch->total)) return true;
    watch->next = watch->done + REPLAY_LOOK;
    return watch->progress("replaying", watch->done, watch->total, watch->user) == 0;
}

/* Where the second half of the decoded tokens begins. */
static const replay_group *replay_halfway(const ern_replay *r)
{
    size_t n_decoded = 0, seen = 0;
    const replay_group *g = r->groups;
    for (size_t i = 0; i < r->n_groups; i++) n_decoded += g[i].decoded;
    while (seen < n_decoded / 2) seen += g++->decoded;
    return g;
}

static bool replay_walk_rules(replay_cache *c, replay_watch *watch, ern_replay_result *result)
{
    const ern_replay *r = c->replay;
    const replay_group *halfway = replay_halfway(r);
    for (const replay_group *g = r->groups; g < r->groups + r->n_groups; g++) {
        const ern_replay_count before = result->decoded;
        replay_group_step(c, g, g->decoded ? &result->decoded : &result->prompt);
        if (g >= halfway) {
            result->later.n_pins += result->decoded.n_pins - before.n_pins;
            result->later.n_hits += result->decoded.n_hits - before.n_hits;
        }
        if (!replay_go_on(watch, g)) return false;
    }
    return true;
}

static bool replay_walk_future(replay_future *f, bool decoded, replay_watch *watch,
                               ern_replay_count *count)
{
    const ern_replay *r = f->replay;
    replay_foresee(f, decoded);
    for (const replay_group *g = r->groups; g < r->groups + r->n_groups; g++) {
        for (uint32_t i = g->begin; i < g[1].begin; i++) {
            const bool hit = replay_future_pin(f, i);
            count->n_pins += g->decoded == decoded;
            count->n_hits += g->decoded == decoded && hit;
        }
        if (!replay_go_on(watch, g)) return false;
    }
    return true;
}

static ernie_status replay_status(bool opened, bool ended, uint32_t n_slots, ernie_error *error)
{
    ERN_FAIL_IF(!opened, error, ERNIE_NO_MEMORY, "no memory to replay with %u slots", n_slots);
    ERN_FAIL_IF(!ended, error, ERNIE_CANCELLED, "cancelled while replaying with %u slots", n_slots);
    return ERNIE_OK;
}

ERN_FN ernie_status ern_replay_run(const ern_replay *replay, ern_replay_policy policy,
                                   uint32_t n_slots, ernie_progress_fn progress, void *user,
                                   ern_replay_result *result, ernie_error *error)
{
    ERN_ASSERT(n_slots > 0);
    bool opened, ended = false;
    replay_watch watch = { progress, user, 0, replay->n_pins, 0 };
    memset(result, 0, sizeof *result);
    if (policy == ERN_REPLAY_OPT) {
        replay_future f = { .replay = replay, .n_slots = n_slots };
        watch.total *= 2;
        opened = replay_future_open(&f);
        if (opened)
            ended = replay_walk_future(&f, true, &watch, &result->decoded)
                    && replay_walk_future(&f, false, &watch, &result->prompt);
        replay_future_close(&f);
    } else {
        replay_cache c = { .replay = replay,
                           .policy = policy == ERN_REPLAY_LRU ? ERN_POLICY_LRU : ERN_POLICY_LFRU,
                           .n_slots = n_slots,
                           .floor = n_slots / replay->n_layers,
                           .clock = 1 };
        if (c.floor > replay->moe_k + 2) c.floor = replay->moe_k + 2;
        opened = replay_cache_open(&c);
        if (opened) ended = replay_walk_rules(&c, &watch, result);
        replay_cache_close(&c);
    }
    return replay_status(opened, ended, n_slots, error);
}

/* ---- How tokens choose ---------------------------------------------------------------------- */

typedef struct replay_look {
    const ern_trace *trace;
    uint64_t *last;      /* [n_layers * n_experts] the token that chose it last, from 1; 0: none */
    uint64_t *far_of;    /* [REPLAY_FAR + 1] how often each reuse distance came */
    uint64_t token, run; /* the present one, the first of its run */
    uint64_t n_pairs, n_same; /* choices with a token before them; which that one made, too */
    uint64_t n_reuses;
    uint64_t n_windows, n_distinct,
        n_pending; /* full ones of layers; experts; of one not yet full */
} replay_look;

/* One token's choices in one layer. */
static void replay_look_layer(replay_look *look, size_t layer, const uint16_t *chosen)
{
    const ern_trace_head *head = &look->trace->head;
    const uint64_t n_run = look->token - look->run; /* tokens of the run before this one */
    const uint64_t window = look->token - n_run % REPLAY_WINDOW; /* its first token */
    if (n_run) look->n_pairs += head->moe_k;
    for (size_t i = 0; i < head->moe_k; i++) {
        uint64_t *last = &look->last[layer * head->n_experts + chosen[i]];
        look->n_pending += *last < window;
        if (*last >= look->run) {
            const uint64_t distance = look->token - *last;
            look->far_of[distance < REPLAY_FAR ? distance : REPLAY_FAR]++;
            look->n_reuses++;
            look->n_same += distance == 1;
        }
        *last = look->token;
    }
}

static void replay_look_token(replay_look *look, const ern_trace_batch *batch, size_t i_token)
{
    const size_t k = look->trace->head.moe_k, n_layers = look->trace->head.n_layers;
    look->token++;
    for (size_t layer = 0; layer < n_layers; layer++)
        replay_look_layer(look, layer, batch->experts + (layer * batch->n_tokens + i_token) * k);
    if ((look->token - look->run + 1) % REPLAY_WINDOW) return;
    look->n_windows += n_layers;
    look->n_distinct += look->n_pending;
    look->n_pending = 0;
}

static void replay_look_all(replay_look *look, bool decoded)
{
    const ern_trace *trace = look->trace;
    uint64_t next = UINT64_MAX; /* the position that goes on with the run */
    for (size_t b = 0; b < trace->n_batches; b++) {
        const ern_trace_batch *batch = &trace->batches[b];
        const bool counts = batch->decoded == decoded;
        if (counts && batch->position != next) {
            look->run = look->token + 1;
            look->n_pending = 0;
        }
        next = counts ? (uint64_t)batch->position + batch->n_tokens : UINT64_MAX;
        for (size_t t = 0; t < batch->n_tokens && counts; t++) replay_look_token(look, batch, t);
    }
}

static double replay_median_distance(const replay_look *look)
{
    uint64_t below = 0;
    size_t distance = 0;
    if (!look->n_reuses) return -1;
    while ((below += look->far_of[distance]) * 2 < look->n_reuses) distance++;
    return (double)distance;
}

ERN_FN ernie_status ern_replay_look(const ern_trace *trace, bool decoded,
                                    ern_replay_choices *choices, ernie_error *error)
{
    const ernie_allocator *allocator = &trace->allocator;
    const size_t n = (size_t)trace->head.n_layers * trace->head.n_experts, n_far = REPLAY_FAR + 1;
    replay_look look = { .trace = trace };
    look.last = ern_alloc_zero(allocator, n * sizeof *look.last);
    look.far_of = ern_alloc_zero(allocator, n_far * sizeof *look.far_of);
    const bool fine = look.last && look.far_of;
    if (fine) {
        replay_look_all(&look, decoded);
        choices->overlap = look.n_pairs ? (double)look.n_same / (double)look.n_pairs : -1;
        choices->reuse_distance = replay_median_distance(&look);
        choices->distinct = look.n_windows ? (double)look.n_distinct / (double)look.n_windows : -1;
    }
    if (look.last) ern_free(allocator, look.last, n * sizeof *look.last);
    if (look.far_of) ern_free(allocator, look.far_of, n_far * sizeof *look.far_of);
    return fine ? ERNIE_OK
                : ern_error_set(error, ERNIE_NO_MEMORY, "no memory to look at the trace");
}

#undef REPLAY_NONE
#undef REPLAY_LOOK
#undef REPLAY_WINDOW
#undef REPLAY_FAR
