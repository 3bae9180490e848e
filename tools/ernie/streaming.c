/* Differences of a session's counters, and how they read (streaming.h). */
#include "streaming.h"
#include "output.h"
#include "progress.h"

#include <string.h>

/* ---- Phases -------------------------------------------------------------------------------- */

static ernie_stream_stats streaming_stats(const ernie_session *session)
{
    ernie_stream_stats stats = { .size = (uint32_t)sizeof stats };
    ernie_session_stream_stats(session, &stats);
    return stats;
}

streaming_phase streaming_now(const ernie_session *session)
{
    return (streaming_phase){ .stats = streaming_stats(session),
                              .seconds = progress_clock(),
                              .n_tokens = ernie_session_length(session) };
}

void streaming_add(streaming_phase *phase, const ernie_session *session,
                   const streaming_phase *since)
{
    const streaming_phase now = streaming_now(session);
    ernie_stream_stats *sum = &phase->stats;
    const ernie_stream_stats *a = &since->stats, *b = &now.stats;
    sum->n_slots = b->n_slots;
    sum->n_used += b->n_used - a->n_used;
    sum->n_hits += b->n_hits - a->n_hits;
    sum->n_joined += b->n_joined - a->n_joined;
    sum->n_misses += b->n_misses - a->n_misses;
    sum->n_ahead += b->n_ahead - a->n_ahead;
    sum->n_ahead_used += b->n_ahead_used - a->n_ahead_used;
    sum->bytes_read += b->bytes_read - a->bytes_read;
    sum->wait_seconds += b->wait_seconds - a->wait_seconds;
    sum->disk_seconds += b->disk_seconds - a->disk_seconds;
    phase->seconds += now.seconds - since->seconds;
    phase->n_tokens += now.n_tokens > since->n_tokens ? now.n_tokens - since->n_tokens : 0;
}

static double streaming_ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

double streaming_hit_rate(const streaming_phase *phase)
{
    return streaming_ratio((double)phase->stats.n_hits, (double)phase->stats.n_used);
}

double streaming_bytes_per_token(const streaming_phase *phase)
{
    return streaming_ratio((double)phase->stats.bytes_read, (double)phase->n_tokens);
}

static double streaming_disk_rate(const streaming_phase *phase)
{
    return streaming_ratio((double)phase->stats.bytes_read, phase->stats.disk_seconds);
}

static double streaming_wait_share(const streaming_phase *phase)
{
    return streaming_ratio(phase->stats.wait_seconds, phase->seconds);
}

const char *streaming_bytes_text(double bytes, char text[STREAMING_BYTES_MAX])
{
    const bool many = bytes >= 1e8;
    snprintf(text, STREAMING_BYTES_MAX, "%.2f %s", (many ? 1e-9 : 1e-6) * bytes,
             many ? "GB" : "MB");
    return text;
}

void streaming_phase_text(const streaming_phase *phase, char text[STREAMING_TEXT_MAX])
{
    const ernie_stream_stats *stats = &phase->stats;
    char bytes[STREAMING_BYTES_MAX];
    snprintf(text, STREAMING_TEXT_MAX,
             "experts %.1f%% in memory, %.1f read a token, %s a token at %.2f GB/s, waited %.0f%%",
             100 * streaming_hit_rate(phase),
             streaming_ratio((double)(stats->n_misses + stats->n_ahead), (double)phase->n_tokens),
             streaming_bytes_text(streaming_bytes_per_token(phase), bytes),
             1e-9 * streaming_disk_rate(phase), 100 * streaming_wait_share(phase));
}

json_t *streaming_phase_json(const streaming_phase *phase)
{
    const ernie_stream_stats *stats = &phase->stats;
    json_t *root = json_object();
    json_object_set_new(root, "tokens", output_count(phase->n_tokens));
    json_object_set_new(root, "seconds", output_number(phase->seconds));
    json_object_set_new(root, "used", output_count(stats->n_used));
    json_object_set_new(root, "hits", output_count(stats->n_hits));
    json_object_set_new(root, "joined", output_count(stats->n_joined));
    json_object_set_new(root, "misses", output_count(stats->n_misses));
    json_object_set_new(root, "ahead", output_count(stats->n_ahead));
    json_object_set_new(root, "ahead_used", output_count(stats->n_ahead_used));
    json_object_set_new(root, "bytes_read", output_count(stats->bytes_read));
    json_object_set_new(root, "wait_seconds", output_number(stats->wait_seconds));
    json_object_set_new(root, "disk_seconds", output_number(stats->disk_seconds));
    json_object_set_new(root, "hit_rate", output_number(streaming_hit_rate(phase)));
    json_object_set_new(root, "bytes_read_per_token",
                        output_number(streaming_bytes_per_token(phase)));
    json_object_set_new(root, "disk_gbps", output_number(1e-9 * streaming_disk_rate(phase)));
    json_object_set_new(root, "wait_share", output_number(streaming_wait_share(phase)));
    return root;
}

/* ---- A turn -------------------------------------------------------------------------------- */

void streaming_begin(streaming *s, const ernie_model *model, const ernie_session *session)
{
    ernie_model_info info = { .size = (uint32_t)sizeof info };
    *s = (streaming){ .session = NULL };
    if (ernie_model_get_info(model, &info) != ERNIE_OK || !info.streams) return;
    *s = (streaming){ .session = session,
                      .n_layers = info.n_moe_layers,
                      .n_experts = info.n_experts,
                      .expert_bytes = info.expert_bytes,
                      .since = streaming_now(session) };
}

void streaming_token(streaming *s)
{
    if (!s->session || s->decodes) return;
    streaming_add(&s->prompt, s->session, &s->since);
    s->since = streaming_now(s->session);
    s->decodes = true;
}

void streaming_end(streaming *s)
{
    if (!s->session) return;
    streaming_add(s->decodes ? &s->decode : &s->prompt, s->session, &s->since);
    s->decode.stats.n_slots = s->prompt.stats.n_slots = streaming_stats(s->session).n_slots;
}

static double streaming_slots_per_layer(const streaming *s)
{
    return streaming_ratio(s->prompt.stats.n_slots, s->n_layers);
}

void streaming_turn_text(const streaming *s, char text[STREAMING_TEXT_MAX])
{
    char phase[STREAMING_TEXT_MAX];
    text[0] = 0;
    if (!s->session) return;
    streaming_phase_text(s->decodes ? &s->decode : &s->prompt, phase);
    snprintf(text, STREAMING_TEXT_MAX, " | %.140s | %.1f of %u experts a layer kept", phase,
             streaming_slots_per_layer(s), s->n_experts);
}

json_t *streaming_turn_json(const streaming *s)
{
    json_t *root = json_object();
    json_object_set_new(root, "slots", output_count(s->prompt.stats.n_slots));
    json_object_set_new(root, "slots_per_layer", output_number(streaming_slots_per_layer(s)));
    json_object_set_new(root, "experts_per_layer", output_count(s->n_experts));
    json_object_set_new(root, "expert_bytes", output_count(s->expert_bytes));
    json_object_set_new(root, "prompt", streaming_phase_json(&s->prompt));
    json_object_set_new(root, "decode", streaming_phase_json(&s->decode));
    return root;
}
