/* Reading a trace: the file into memory, then every number of it checked. */
#include "trace.h"
#include "file.h"
#include "../../src/format.h"
#include "../../src/hash.h"
#include "../../src/os.h"

#define TRACE_BYTES_MAX    (UINT64_C(16) << 30)
#define TRACE_POSITION_MAX (UINT64_C(1) << 31)

/* What reading goes through. */
typedef struct trace_reader {
    ern_trace *trace;
    char name[256]; /* the path's end, for messages */
    size_t at;      /* the next byte */
} trace_reader;

/* ---- The head ------------------------------------------------------------------------------ */

static ernie_status trace_check_versions(const trace_reader *r, ernie_error *error)
{
    const ern_trace_head *head = &r->trace->head;
    ERN_FAIL_IF(memcmp(head->magic, ERN_TRACE_MAGIC, sizeof head->magic) != 0, error, ERNIE_FORMAT,
                "%s: is not a trace of ernie --trace", r->name);
    ERN_FAIL_IF(head->version_min > ERN_TRACE_VERSION, error, ERNIE_UNSUPPORTED,
                "%s: needs a reader of version %u, this one knows %u", r->name, head->version_min,
                ERN_TRACE_VERSION);
    ERN_FAIL_IF(ern_hash64(head, offsetof(ern_trace_head, checksum)) != head->checksum, error,
                ERNIE_CORRUPT, "%s: the head's checksum is wrong: the file is damaged", r->name);
    ERN_FAIL_IF(head->version_min == 0 || head->version < head->version_min, error, ERNIE_FORMAT,
                "%s: version %u, at least version %u is needed: that cannot be", r->name,
                head->version, head->version_min);
    return ERNIE_OK;
}

static ernie_status trace_check_numbers(const trace_reader *r, ernie_error *error)
{
    const ern_trace_head *head = &r->trace->head;
    ERN_FAIL_IF(head->name[sizeof head->name - 1] != 0, error, ERNIE_FORMAT,
                "%s: the model's name has no end", r->name);
    ERN_FAIL_IF(head->n_model_layers > ERN_LAYERS_MAX || head->n_layers == 0
                    || head->n_layers > head->n_model_layers,
                error, ERNIE_FORMAT, "%s: %u layers with experts of %u (at most %u) cannot be",
                r->name, head->n_layers, head->n_model_layers, ERN_LAYERS_MAX);
    ERN_FAIL_IF(head->n_experts > ERN_EXPERTS_MAX || head->moe_k == 0
                    || head->moe_k > head->n_experts,
                error, ERNIE_FORMAT, "%s: %u experts chosen of %u (at most %u) cannot be", r->name,
                head->moe_k, head->n_experts, ERN_EXPERTS_MAX);
    return ERNIE_OK;
}

static ernie_status trace_read_head(trace_reader *r, ernie_error *error)
{
    ern_trace *trace = r->trace;
    ERN_FAIL_IF(trace->n_bytes < sizeof trace->head, error, ERNIE_FORMAT,
                "%s: has %zu bytes, a trace at least %zu", r->name, trace->n_bytes,
                sizeof trace->head);
    memcpy(&trace->head, trace->bytes, sizeof trace->head);
    ernie_status status = trace_check_versions(r, error);
    if (status == ERNIE_OK) status = trace_check_numbers(r, error);
    if (status != ERNIE_OK) return status;
    conv_text_clean(trace->head.name);
    const size_t n = trace->head.n_layers;
    r->at = sizeof trace->head;
    ERN_FAIL_IF(n * sizeof(uint16_t) > trace->n_bytes - r->at, error, ERNIE_FORMAT,
                "%s: ends at byte %zu, within the numbers of its %zu layers: it was cut off",
                r->name, trace->n_bytes, n);
    trace->layers = (const uint16_t *)(const void *)(trace->bytes + r->at);
    for (size_t i = 0; i < n; i++)
        ERN_FAIL_IF(trace->layers[i] >= trace->head.n_model_layers
                        || (i && trace->layers[i] <= trace->layers[i - 1]),
                    error, ERNIE_FORMAT,
                    "%s: layer number %u at place %zu: ascending ones below %u were expected",
                    r->name, trace->layers[i], i, trace->head.n_model_layers);
    r->at += n * sizeof(uint16_t);
    return ERNIE_OK;
}

/* ---- Batches ------------------------------------------------------------------------------- */

static ernie_status trace_check_choices(const trace_reader *r, const ern_trace_batch *batch,
                                        ernie_error *error)
{
    const ern_trace *trace = r->trace;
    const size_t k = trace->head.moe_k, n = (size_t)trace->head.n_layers * batch->n_tokens;
    for (size_t i = 0; i < n; i++) {
        const uint16_t *chosen = batch->experts + i * k;
        for (size_t j = 0; j < k; j++) {
            ERN_FAIL_IF(chosen[j] >= trace->head.n_experts, error, ERNIE_FORMAT,
                        "%s: batch %zu, layer %u: expert %u of %u", r->name, trace->n_batches,
                        trace->layers[i / batch->n_tokens], chosen[j], trace->head.n_experts);
            for (size_t m = 0; m < j; m++)
                ERN_FAIL_IF(chosen[m] == chosen[j], error, ERNIE_FORMAT,
                            "%s: batch %zu, layer %u: a token chose expert %u twice", r->name,
                            trace->n_batches, trace->layers[i / batch->n_tokens], chosen[j]);
        }
    }
    return ERNIE_OK;
}

static ernie_status trace_add_batch(trace_reader *r, const ern_trace_batch *batch,
                                    ernie_error *error)
{
    ern_trace *trace = r->trace;
    if (trace->n_batches == trace->n_room) {
        const size_t room = trace->n_room ? 2 * trace->n_room : 256, each = sizeof *batch;
        ern_trace_batch *grown =
            ern_resize(&trace->allocator, trace->batches, trace->n_room * each, room * each);
        ERN_FAIL_IF(!grown, error, ERNIE_NO_MEMORY, "%s: no memory for %zu batches", r->name, room);
        trace->batches = grown;
        trace->n_room = room;
    }
    trace->batches[trace->n_batches++] = *batch;
    *(batch->decoded ? &trace->n_decoded : &trace->n_prompt) += batch->n_tokens;
    return ERNIE_OK;
}

static ernie_status trace_read_batch(trace_reader *r, const ern_trace_mark *mark,
                                     ernie_error *error)
{
    ern_trace *trace = r->trace;
    const size_t rest = trace->n_bytes - r->at, n = trace->n_batches;
    const size_t each = (size_t)trace->head.n_layers * trace->head.moe_k * sizeof(uint16_t);
    ERN_FAIL_IF(mark->kind != ERN_TRACE_PROMPT && mark->kind != ERN_TRACE_DECODED, error,
                ERNIE_FORMAT, "%s: batch %zu at byte %zu is of kind %u", r->name, n,
                r->at - sizeof *mark, mark->kind);
    ERN_FAIL_IF(mark->n_tokens == 0 || mark->n_tokens > TRACE_POSITION_MAX
                    || mark->position + mark->n_tokens > TRACE_POSITION_MAX,
                error, ERNIE_FORMAT, "%s: batch %zu has %llu tokens from position %u on", r->name,
                n, (unsigned long long)mark->n_tokens, mark->position);
    ERN_FAIL_IF(mark->kind == ERN_TRACE_DECODED && mark->n_tokens != 1, error, ERNIE_FORMAT,
                "%s: batch %zu has %llu decoded tokens, they come one by one", r->name, n,
                (unsigned long long)mark->n_tokens);
    ERN_FAIL_IF(mark->n_tokens > rest / each, error, ERNIE_FORMAT,
                "%s: ends at byte %zu, within batch %zu of %llu tokens: it was cut off", r->name,
                trace->n_bytes, n, (unsigned long long)mark->n_tokens);
    const ern_trace_batch batch = {
        .position = mark->position,
        .n_tokens = (uint32_t)mark->n_tokens,
        .decoded = mark->kind == ERN_TRACE_DECODED,
        .experts = (const uint16_t *)(const void *)(trace->bytes + r->at),
    };
    const ernie_status status = trace_check_choices(r, &batch, error);
    r->at += (size_t)mark->n_tokens * each;
    return status == ERNIE_OK ? trace_add_batch(r, &batch, error) : status;
}

/* ---- The end ------------------------------------------------------------------------------- */

static ernie_status trace_read_end(trace_reader *r, const ern_trace_mark *mark, ernie_error *error)
{
    const ern_trace *trace = r->trace;
    const size_t n_before = r->at - sizeof *mark;
    const uint64_t n_tokens = trace->n_prompt + trace->n_decoded;
    uint64_t tail[2];
    ERN_FAIL_IF(trace->n_bytes - r->at < sizeof tail, error, ERNIE_FORMAT,
                "%s: ends at byte %zu, within its end: it was cut off", r->name, trace->n_bytes);
    memcpy(tail, trace->bytes + r->at, sizeof tail);
    r->at += sizeof tail;
    ERN_FAIL_IF(trace->n_bytes != r->at, error, ERNIE_FORMAT,
                "%s: %zu bytes follow its end at byte %zu", r->name, trace->n_bytes - r->at, r->at);
    ERN_FAIL_IF(tail[0] != trace->n_batches || mark->n_tokens != n_tokens || mark->position, error,
                ERNIE_FORMAT, "%s: holds %zu batches of %llu tokens, its end says %llu of %llu",
                r->name, trace->n_batches, (unsigned long long)n_tokens,
                (unsigned long long)tail[0], (unsigned long long)mark->n_tokens);
    ERN_FAIL_IF(ern_hash64(trace->bytes, n_before) != tail[1], error, ERNIE_CORRUPT,
                "%s: its checksum is wrong: the file is damaged", r->name);
    return ERNIE_OK;
}

static ernie_status trace_read(trace_reader *r, ernie_error *error)
{
    const ern_trace *trace = r->trace;
    ernie_status status = trace_read_head(r, error);
    while (status == ERNIE_OK) {
        ern_trace_mark mark;
        ERN_FAIL_IF(trace->n_bytes - r->at < sizeof mark, error, ERNIE_FORMAT,
                    "%s: ends at byte %zu, after %zu batches, without its end: it was cut off",
                    r->name, trace->n_bytes, trace->n_batches);
        memcpy(&mark, trace->bytes + r->at, sizeof mark);
        r->at += sizeof mark;
        if (mark.kind == ERN_TRACE_END) return trace_read_end(r, &mark, error);
        status = trace_read_batch(r, &mark, error);
    }
    return status;
}

ERN_FN ernie_status ern_trace_open(ern_trace *trace, const char *path,
                                   const ernie_allocator *allocator, ernie_error *error)
{
    memset(trace, 0, sizeof *trace);
    trace->allocator = allocator ? *allocator : *ern_allocator_default();
    trace_reader reader = { .trace = trace };
    conv_bytes bytes = { .allocator = &trace->allocator };
    snprintf(reader.name, sizeof reader.name, "%s", ern_path_end(path));
    ernie_status status = conv_file_load(&bytes, path, TRACE_BYTES_MAX, error);
    if (status == ERNIE_OK) {
        trace->bytes = bytes.data;
        trace->n_bytes = bytes.n;
        trace->bytes_capacity = bytes.capacity;
        status = trace_read(&reader, error);
        if (status != ERNIE_OK) ern_trace_close(trace);
    } else {
        conv_bytes_free(&bytes);
    }
    return status;
}

ERN_FN void ern_trace_close(ern_trace *trace)
{
    if (trace->bytes) ern_free(&trace->allocator, trace->bytes, trace->bytes_capacity);
    if (trace->batches)
        ern_free(&trace->allocator, trace->batches, trace->n_room * sizeof *trace->batches);
    memset(trace, 0, sizeof *trace);
}

#undef TRACE_BYTES_MAX
#undef TRACE_POSITION_MAX
