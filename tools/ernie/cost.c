/* The cost model's formula, and what to expect of a cache (cost.h). */
#include "cost.h"

#include <stddef.h>

/* Of a layer's time: what its barriers take, however small the layer. */
static const double COST_LAYER_SECONDS = 10e-6;

/* The part of reading that hides behind computing. 0 makes the model a bound from below for an
 * engine that overlaps nothing; ours computes what it has while it reads, so it may be a little
 * faster. */
static const double COST_HIDDEN = 0.0;

typedef struct cost_point {
    double share, hits;
} cost_point;

/* Least recently used experts give way; simulated decoding with 64 experts, 6 for a token,
 * popularity by Zipf's law: independent choices, and 53 % of a token's experts chosen by the token
 * before. */
static const cost_point COST_UNIFORM[] = {
    { 0, 0 },           { 8 / 64.0, .11 },  { 12 / 64.0, .20 },
    { 16 / 64.0, .27 }, { 24 / 64.0, .42 }, { 32 / 64.0, .57 },
    { 40 / 64.0, .70 }, { 48 / 64.0, .82 }, { 1, 1 },
};
static const cost_point COST_ALIKE[] = {
    { 0, 0 },           { 8 / 64.0, .53 },  { 12 / 64.0, .62 },
    { 16 / 64.0, .68 }, { 24 / 64.0, .77 }, { 32 / 64.0, .84 },
    { 40 / 64.0, .89 }, { 48 / 64.0, .94 }, { 1, 1 },
};

static double cost_between(const cost_point *points, size_t n, double share)
{
    size_t i = 1;
    if (share <= 0) return 0;
    if (share >= 1) return 1;
    while (i + 1 < n && share > points[i].share) i++;
    const cost_point *a = &points[i - 1], *b = &points[i];
    return a->hits + (b->hits - a->hits) * (share - a->share) / (b->share - a->share);
}

double cost_hits_low(double share)
{
    return cost_between(COST_UNIFORM, sizeof COST_UNIFORM / sizeof COST_UNIFORM[0], share);
}

double cost_hits_high(double share)
{
    return cost_between(COST_ALIKE, sizeof COST_ALIKE / sizeof COST_ALIKE[0], share);
}

/* What is read from disk is written to memory first and read from there afterwards. */
double cost_tokens_per_second(const cost_model *cost, double disk_bytes)
{
    if (cost->memory_rate <= 0 || (disk_bytes > 0 && cost->disk_rate <= 0)) return 0;
    const double memory = (cost->memory_bytes + disk_bytes) / cost->memory_rate;
    const double layers = cost->n_layers * COST_LAYER_SECONDS;
    const double disk = disk_bytes > 0 ? (1 - COST_HIDDEN) * disk_bytes / cost->disk_rate : 0;
    return 1 / (memory + layers + disk);
}
