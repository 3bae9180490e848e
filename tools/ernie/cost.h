/* What a decoded token costs where experts come from disk: arithmetic, no measuring. The model and
 * where its numbers come from are described in docs/STREAMING.md.
 *
 * The idea: memory and disk are each passed by a known number of bytes a token at a rate that can
 * be measured; what then remains is to know how many of the experts are in memory. */
#ifndef ERNIE_COST_H
#define ERNIE_COST_H

typedef struct cost_model {
    double memory_bytes; /* that a token reads from memory: weights it uses, keys and values */
    double memory_rate;  /* bytes a second */
    double disk_rate;    /* bytes a second; not looked at while nothing is read */
    double n_layers;
} cost_model;

/* Tokens a second when each reads disk_bytes of experts; 0 when a rate that matters is not
 * known. */
double cost_tokens_per_second(const cost_model *cost, double disk_bytes);

/* The part of experts asked for that memory holds when it has room for `share` (0 .. 1) of all: if
 * every expert were as likely as any other, and for a model whose tokens choose much as the ones
 * before. */
double cost_hits_low(double share);
double cost_hits_high(double share);

#endif
