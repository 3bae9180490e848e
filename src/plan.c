/* Who gets which memory (plan.h). */
#include "plan.h"

#include "kv.h"

#define PLAN_CTX_DEFAULT   4096u
#define PLAN_BATCH_DEFAULT 512u
#define PLAN_RESERVE_MIN   ((uint64_t)512 << 20) /* left to the machine by default, */
#define PLAN_RESERVE_PART  16                    /* or this part of what is available */
#define PLAN_TOKEN_BYTES   72u  /* tables of the tokenizer, logits and what samples from them */
#define PLAN_LAYER_BYTES   2048u
#define PLAN_THREAD_BYTES  ((uint64_t)256 << 10)

ERN_FN uint64_t ern_plan_n_experts(const ern_header *h)
{
    return (uint64_t)ern_n_moe_layers(&h->hparams) * h->hparams.n_experts;
}

ERN_FN uint64_t ern_plan_slots_min(const ern_header *h)
{
    const uint64_t all = ern_plan_n_experts(h), wanted = 2 * (uint64_t)h->hparams.moe_k;
    return wanted < all ? wanted : all;
}

/* Experts behind everything else in the file, as every writer here lays it out: then all but them
 * is the file's beginning. Numbers that overflow or leave the file are no such layout. */
static bool plan_experts_last(const ern_header *h, uint64_t n_bytes)
{
    const ern_section *experts = &h->section[ERN_SECTION_EXPERTS];
    if (h->hparams.n_experts == 0 || h->expert_bytes == 0) return false;
    if (experts->offset < ERN_HEADER_BYTES || experts->offset > n_bytes) return false;
    for (unsigned i = 0; i < ERN_SECTION_EXPERTS; i++) {
        const ern_section *s = &h->section[i];
        if (s->n_bytes > experts->offset || s->offset > experts->offset - s->n_bytes) return false;
    }
    return h->file_bytes == n_bytes && experts->n_bytes == n_bytes - experts->offset
           && h->expert_bytes <= experts->n_bytes;
}

static bool plan_is_header(const ern_header *h)
{
    return memcmp(h->magic, ERN_MAGIC, sizeof h->magic) == 0
           && ern_hparams_check(&h->hparams, NULL) == ERNIE_OK;
}

/* What a session takes and the model's tables, never too little: what is planned to be in memory
 * must find room there. Keys and values exactly; activations by the widths of what a layer
 * computes. The backend's own plan decides when the session is created. */
static uint64_t plan_session_bytes(const ern_hparams *hp, const ern_plan_session *session)
{
    const uint64_t limit = hp->context_max;
    const uint64_t wanted = session->n_ctx ? session->n_ctx : PLAN_CTX_DEFAULT;
    const uint64_t n_ctx = wanted < limit ? wanted : limit;
    const uint64_t batch = session->n_batch ? session->n_batch : PLAN_BATCH_DEFAULT;
    const uint64_t n_batch = batch < n_ctx ? batch : n_ctx;
    const ern_kv kv = ern_kv_of(session->kv_type);
    const uint64_t row = ern_kv_key_bytes(kv, hp->head_dim) + ern_kv_value_bytes(kv, hp->head_dim);
    const uint64_t width = 3 * (uint64_t)hp->hidden_size + hp->intermediate_size
                           + hp->shared_intermediate_size
                           + (uint64_t)hp->head_dim * (3 * hp->n_heads + 2 * hp->n_kv_heads)
                           + hp->moe_k * ((uint64_t)hp->hidden_size + hp->moe_intermediate_size);
    const uint64_t n_threads = session->n_threads ? session->n_threads : ern_cpu_count();
    return n_ctx * (hp->n_layers * (hp->n_kv_heads * row) + hp->n_heads * hp->head_dim / 32 + 8)
           + 6 * n_batch * width + PLAN_TOKEN_BYTES * (uint64_t)hp->vocab_size
           + PLAN_LAYER_BYTES * (uint64_t)hp->n_layers + PLAN_THREAD_BYTES * (n_threads + 1);
}

/* What the machine has to give, less a reserve; no ceiling when it does not tell. */
static uint64_t plan_default_ceiling(uint64_t available)
{
    const uint64_t part = available / PLAN_RESERVE_PART;
    const uint64_t reserve = part > PLAN_RESERVE_MIN ? part : PLAN_RESERVE_MIN;
    if (available == 0) return ERN_PLAN_UNLIMITED;
    return available > reserve ? available - reserve : 0;
}

/* Even without a session it cannot work; how much one takes is known exactly when it is created, so
 * what would do is a little more than the least. */
static ernie_status plan_refuse(const ern_plan *plan, uint64_t held, const char *why,
                                ernie_error *error)
{
    uint64_t enough = UINT64_MAX;
    if (!ern_add_u64(&enough, held, plan->session_bytes)) enough = UINT64_MAX;
    return ern_error_set(error, ERNIE_NO_MEMORY,
                         "a ceiling of %s is too low: %s take %s, and a session some more; %s "
                         "would do; a model of fewer bits needs less",
                         ern_bytes(plan->ceiling).text, why, ern_bytes(held).text,
                         ern_bytes_up(enough).text);
}

/* What a streamed model takes at least, sessions not counted. */
static uint64_t plan_held(const ern_header *h, unsigned n_readers)
{
    const ern_format format = { .header = h };
    uint64_t bytes = ern_experts_fixed_bytes(&format, n_readers);
    if (!ern_add_u64(&bytes, bytes, ern_experts_slot_bytes(&format, ern_plan_slots_min(h)))
        || !ern_add_u64(&bytes, bytes, h->section[ERN_SECTION_EXPERTS].offset + ERN_PLAN_SPARE))
        return UINT64_MAX;
    return bytes;
}

ERN_FN ernie_status ern_plan_make(ern_plan *plan, const ern_header *h, uint64_t n_bytes,
                                  uint64_t memory, const ern_plan_session *session,
                                  unsigned n_readers, ernie_error *error)
{
    char why[96];
    *plan = (ern_plan){ .resident_bytes = n_bytes,
                        .ceiling = memory ? memory : ERN_PLAN_UNLIMITED };
    if (!plan_is_header(h) || memory == ERN_PLAN_UNLIMITED) return ERNIE_OK;
    plan->session_bytes = plan_session_bytes(&h->hparams, session);
    const uint64_t ceiling = memory ? memory : plan_default_ceiling(ern_memory_available());
    if (n_bytes <= ceiling && plan->session_bytes <= ceiling - n_bytes) return ERNIE_OK;
    if (!plan_experts_last(h, n_bytes)) {
        if (!memory || n_bytes <= ceiling) return ERNIE_OK; /* by default the system has its way */
        return plan_refuse(plan, n_bytes, "the weights, with no experts to leave on disk,", error);
    }
    plan->resident_bytes = h->section[ERN_SECTION_EXPERTS].offset;
    const uint64_t held = plan_held(h, n_readers);
    plan->ceiling = ceiling;
    plan->streams = true;
    if (held <= ceiling) return ERNIE_OK;
    snprintf(why, sizeof why, "%s of resident weights and %llu experts of %s",
             ern_bytes(plan->resident_bytes).text, (unsigned long long)ern_plan_slots_min(h),
             ern_bytes(h->expert_bytes).text);
    return plan_refuse(plan, held, why, error);
}

#undef PLAN_CTX_DEFAULT
#undef PLAN_BATCH_DEFAULT
#undef PLAN_RESERVE_MIN
#undef PLAN_RESERVE_PART
#undef PLAN_TOKEN_BYTES
#undef PLAN_LAYER_BYTES
#undef PLAN_THREAD_BYTES
