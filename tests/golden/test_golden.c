/* Does a converted checkpoint give the reference's numbers? Reads golden.json beside the checkpoint:
 * all logits, the experts of every token, the greedy tokens; for a trained model its greedy texts and
 * the likelihood of held-out documents.
 *
 *   test_golden logits CHECKPOINT           f32: logits within 2e-3, same experts, same greedy ids
 *   test_golden shapes FOLDER               the same for each checkpoint that FOLDER/golden.json lists,
 *                                           and its other weight types on every instruction set
 *   test_golden texts CHECKPOINT TYPE       greedy ids of golden.json's cases while the margin is clear
 *   test_golden nll CHECKPOINT TYPE MARGIN DOCUMENTS.jsonl   nats per token against golden.json
 *
 * Exit 0 when it holds, 1 when not, 77 when the checkpoint is not there. */
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ernie.h"
#include "src/os.h"
#include "tools/convert/convert.h"

#define SKIPPED 77
#define LOGIT_TOLERANCE 2e-3
#define PROMPT_MAX 512u
#define STEP_TOKENS 7u
#define CLEAR_MARGIN 0.02
#define DOCUMENT_TOKENS 1024u

#define CHECK(condition, ...)                                                                      \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                        \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static ernie_error error;

static char *file_beside(const char *folder, const char *name, char path[1024])
{
    CHECK(snprintf(path, 1024, "%s/%s", folder, name) < 1024, "path too long");
    return path;
}

/* The checkpoint as a file of this run; the caller removes it. */
static void convert_to(const char *checkpoint, const char *type, char path[64])
{
    ern_convert_options options = { .type = type };
    snprintf(path, 64, "golden-%ld-%s.ernie", (long)(ern_entropy() & 0xffffff), type);
    CHECK(ern_convert(checkpoint, path, &options, &error) == ERNIE_OK, "%s: %s", checkpoint,
          error.message);
}

/* NULL when this processor lacks the instruction set. */
static ernie_model *open_on(const char *path, const char *cpu)
{
    ernie_model_options open = ERNIE_MODEL_OPTIONS_INIT;
    ernie_model *model = NULL;
    open.no_mmap = true;
    open.verify = true;
    open.cpu = cpu;
    const ernie_status status = ernie_model_open(&model, path, &open, &error);
    CHECK(status == ERNIE_OK || (cpu && status == ERNIE_UNSUPPORTED), "%s", error.message);
    return model;
}

static ernie_model *converted(const char *checkpoint, const char *type)
{
    char path[64];
    convert_to(checkpoint, type, path);
    ernie_model *model = open_on(path, NULL);
    remove(path);
    return model;
}

static const char *const cpu_sets[] = { "base",       "avx2", "avxvnni", "avx512",
                                        "avx512vbmi", "amx",  "neon",    "i8mm" };
#define N_CPU_SETS (sizeof cpu_sets / sizeof *cpu_sets)

static ernie_session *session_on(const ernie_model *model, ernie_session_options *options)
{
    ernie_session *session = NULL;
    CHECK(ernie_session_create(&session, model, options, &error) == ERNIE_OK, "%s", error.message);
    return session;
}

static size_t ids_of(const json_t *list, int32_t *ids, size_t capacity)
{
    const size_t n = json_array_size(list);
    CHECK(n > 0 && n <= capacity, "%zu ids", n);
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    return n;
}

/* ---- Logits, experts, greedy tokens -------------------------------------------------------- */

typedef struct routes {
    const json_t *golden; /* one entry a MoE layer */
    size_t i_layer;       /* next entry of the golden list */
    size_t n_wrong, n_checked;
} routes;

static void check_route(uint32_t layer, uint32_t n_tokens, uint32_t k, const int32_t *experts,
                        const float *weights, void *user)
{
    routes *r = user;
    (void)layer;
    (void)weights;
    const json_t *rows = json_object_get(json_array_get(r->golden, r->i_layer++), "experts");
    CHECK(json_array_size(rows) == n_tokens, "golden routing has %zu rows", json_array_size(rows));
    for (uint32_t t = 0; t < n_tokens; t++) {
        size_t n_found = 0;
        for (uint32_t i = 0; i < k; i++)
            for (uint32_t j = 0; j < k; j++)
                n_found += json_integer_value(json_array_get(json_array_get(rows, t), i))
                           == experts[t * k + j];
        r->n_wrong += n_found != k;
        r->n_checked++;
    }
}

static double worst_logit(const json_t *golden, const float *logits, size_t n, size_t vocab)
{
    double worst = 0.0;
    CHECK(json_array_size(golden) == n, "golden has %zu rows of logits", json_array_size(golden));
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < vocab; i++) {
            const double want = json_number_value(json_array_get(json_array_get(golden, t), i));
            const double off = fabs((double)logits[t * vocab + i] - want);
            if (!(off <= worst)) worst = off;
        }
    return worst;
}

static void check_greedy(ernie_session *session, const json_t *golden, const char *what)
{
    ernie_sampling params = ERNIE_SAMPLING_INIT;
    const size_t n = json_array_size(golden), before = ernie_session_length(session);
    params.greedy = params.ignore_eos = true;
    params.n_max = (uint32_t)n;
    CHECK(ernie_session_generate(session, &params, NULL, NULL, NULL, &error) == ERNIE_OK, "%s",
          error.message);
    for (size_t i = 0; i < n; i++)
        CHECK(ernie_session_tokens(session)[before + i] == json_integer_value(json_array_get(golden, i)),
              "%s: greedy token %zu is %d, golden %d", what, i,
              (int)ernie_session_tokens(session)[before + i],
              (int)json_integer_value(json_array_get(golden, i)));
}

static double relative_difference(const float *got, const float *want, size_t n)
{
    double sum = 0.0, square = 0.0;
    for (size_t i = 0; i < n; i++) {
        const double off = (double)got[i] - (double)want[i];
        sum += off * off;
        square += (double)want[i] * (double)want[i];
    }
    return sqrt(sum / square);
}

/* All logits of the prompt, in steps of a few tokens. */
static void feed_in_steps(const ernie_model *model, ernie_kv_type kv_type, const int32_t *ids, size_t n,
                          float *logits)
{
    ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
    options.n_threads = 1;
    options.n_batch = STEP_TOKENS;
    options.kv_type = kv_type;
    ernie_session *session = session_on(model, &options);
    CHECK(ernie_session_feed_logits(session, ids, n, logits, &error) == ERNIE_OK, "%s",
          error.message);
    ernie_session_free(session);
}

/* Caches that round, against the logits of an f32 cache, root mean squares in units of these. Seen: f16
 * up to 0.0006; q8 up to 0.015, and 0.06 where other experts of a random model are chosen; q4 up to 0.14
 * and 0.29. */
typedef struct apart_limits {
    double q8, q4;
} apart_limits;

static const apart_limits apart_trained = { 0.04, 0.35 }, apart_random = { 0.25, 0.7 };

static void check_caches(const char *checkpoint, const char *cpu, const ernie_model *model,
                         const int32_t *ids, size_t n, size_t vocab, const float *exact,
                         const apart_limits *limits)
{
    const struct {
        const char *name;
        ernie_kv_type type;
        double apart_max;
    } caches[] = { { "f16", ERNIE_KV_F16, 0.003 },
                   { "q8", ERNIE_KV_Q8, limits->q8 },
                   { "q4", ERNIE_KV_Q4, limits->q4 } };
    float *got = malloc(n * vocab * sizeof *got);
    CHECK(got, "no memory");
    for (size_t i = 0; i < sizeof caches / sizeof *caches; i++) {
        feed_in_steps(model, caches[i].type, ids, n, got);
        const double apart = relative_difference(got, exact, n * vocab);
        printf("%s %s: %s cache, %.2g of the f32 cache's logits\n", checkpoint, cpu, caches[i].name,
               apart);
        CHECK(apart > 0.0 && apart <= caches[i].apart_max, "differs too much or not at all");
    }
    free(got);
}

/* A whole prompt at once, and token by token, must both give the golden logits. */
static void check_logits_on(const char *checkpoint, const ernie_model *model, const json_t *golden,
                            const char *cpu, const apart_limits *limits)
{
    ernie_model_info info = { .size = sizeof info };
    routes r = { .golden = json_object_get(golden, "routing") };
    ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
    int32_t ids[PROMPT_MAX];
    const size_t n = ids_of(json_object_get(golden, "input_ids"), ids, PROMPT_MAX);
    ernie_model_get_info(model, &info);
    float *logits = malloc(n * info.vocab_size * sizeof *logits);
    CHECK(logits, "no memory");
    options.kv_type = ERNIE_KV_F32;
    options.n_threads = 2;
    options.route = check_route;
    options.route_user = &r;
    ernie_session *session = session_on(model, &options);
    CHECK(ernie_session_feed_logits(session, ids, n, logits, &error) == ERNIE_OK, "%s", error.message);
    double worst = worst_logit(json_object_get(golden, "logits"), logits, n, info.vocab_size);
    printf("%s %s: prompt at once, largest logit difference %.2g, %zu routes, %zu differ\n", checkpoint,
           cpu, worst, r.n_checked, r.n_wrong);
    CHECK(worst <= LOGIT_TOLERANCE && r.n_wrong == 0, "differs from the reference");
    CHECK(r.i_layer == json_array_size(r.golden), "%zu layers routed", r.i_layer);
    ernie_session_free(session);
    options.route = NULL;
    session = session_on(model, &options);
    for (size_t t = 0; t < n; t++) {
        CHECK(ernie_session_feed(session, ids + t, 1, &error) == ERNIE_OK, "%s", error.message);
        memcpy(logits + t * info.vocab_size, ernie_session_logits(session),
               info.vocab_size * sizeof *logits);
    }
    worst = worst_logit(json_object_get(golden, "logits"), logits, n, info.vocab_size);
    printf("%s %s: token by token, largest logit difference %.2g\n", checkpoint, cpu, worst);
    CHECK(worst <= LOGIT_TOLERANCE, "differs from the reference");
    check_greedy(session, json_object_get(golden, "greedy"), checkpoint);
    ernie_session_free(session);
    check_caches(checkpoint, cpu, model, ids, n, info.vocab_size, logits, limits);
    free(logits);
}

/* Models below this may fit resident into less than streaming them takes. */
#define SMALL_BYTES (4u << 20)

/* Planned for a session so large that the model would not fit beside it. */
static ernie_status open_streamed(ernie_model **model, const char *path, uint64_t memory)
{
    ernie_model_options open = ERNIE_MODEL_OPTIONS_INIT;
    ernie_session_options large = ERNIE_SESSION_OPTIONS_INIT;
    large.n_ctx = large.n_batch = 1u << 20;
    open.memory = memory;
    open.session = &large;
    return ernie_model_open(model, path, &open, &error);
}

/* Is there room for one session under the ceiling? */
static bool has_room(const char *path, uint64_t memory)
{
    ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
    ernie_memory plan = { .size = sizeof plan };
    ernie_model *model = NULL;
    options.n_threads = 1;
    options.n_batch = STEP_TOKENS;
    if (open_streamed(&model, path, memory) != ERNIE_OK) return false;
    CHECK(ernie_session_plan(model, &options, &plan, &error) == ERNIE_OK, "%s", error.message);
    ernie_model_close(model);
    return plan.n_slots >= plan.n_slots_min;
}

static uint64_t least_memory(const char *path, uint64_t enough)
{
    uint64_t low = 1, high = enough;
    CHECK(has_room(path, enough), "%s", error.message);
    while (low < high) {
        const uint64_t middle = low + (high - low) / 2;
        if (has_room(path, middle)) high = middle;
        else low = middle + 1;
    }
    return low;
}

/* The same with experts from disk: with the least memory, with more, with nearly enough. */
static void check_streamed(const char *checkpoint, const char *path, const json_t *golden)
{
    ernie_model_info info = { .size = sizeof info };
    int32_t ids[PROMPT_MAX];
    const size_t n = ids_of(json_object_get(golden, "input_ids"), ids, PROMPT_MAX);
    ernie_model *model = open_on(path, NULL);
    ernie_model_get_info(model, &info);
    const size_t n_logits = n * info.vocab_size;
    float *want = malloc(n_logits * sizeof *want), *got = malloc(n_logits * sizeof *got);
    CHECK(want && got, "no memory");
    feed_in_steps(model, ERNIE_KV_DEFAULT, ids, n, want);
    ernie_model_close(model);
    const uint64_t enough = info.n_bytes + (16u << 20);
    const uint64_t least = info.n_experts ? least_memory(path, enough) : 0;
    unsigned n_streamed = 0;
    for (unsigned i = 0; i < 4 && least; i++) {
        const uint64_t memory = least + i * (info.n_bytes / 4);
        CHECK(open_streamed(&model, path, memory) == ERNIE_OK, "%s", error.message);
        ernie_model_get_info(model, &info);
        if (!info.streams) { /* a small model fits before its experts are worth leaving out */
            ernie_model_close(model);
            continue;
        }
        n_streamed++;
        feed_in_steps(model, ERNIE_KV_DEFAULT, ids, n, got);
        printf("%s: streamed with %llu bytes of memory\n", checkpoint, (unsigned long long)memory);
        CHECK(memcmp(got, want, n_logits * sizeof *got) == 0, "other logits than in memory");
        ernie_model_close(model);
    }
    CHECK(!least || n_streamed > 0 || info.n_bytes < SMALL_BYTES, "was never streamed");
    free(want);
    free(got);
}

static void check_logits(const char *checkpoint, const json_t *golden, const apart_limits *limits)
{
    char path[64];
    convert_to(checkpoint, "f32", path);
    check_streamed(checkpoint, path, golden);
    for (size_t i = 0; i < N_CPU_SETS; i++) {
        ernie_model *model = open_on(path, cpu_sets[i]);
        if (model) check_logits_on(checkpoint, model, golden, cpu_sets[i], limits);
        ernie_model_close(model);
    }
    remove(path);
}

/* ---- Shapes -------------------------------------------------------------------------------- */

static float *golden_floats(const json_t *rows, size_t n, size_t vocab)
{
    float *values = malloc(n * vocab * sizeof *values);
    CHECK(values, "no memory");
    for (size_t i = 0; i < n * vocab; i++)
        values[i] = (float)json_number_value(
            json_array_get(json_array_get(rows, i / vocab), i % vocab));
    return values;
}

/* Root mean squares of the difference, in units of the golden logits' own. Rounded weights change
 * which experts are chosen, so they may go far in random models, but unrelated logits are 1.4 away. */
typedef struct rounded_type {
    const char *name;
    double golden_max;
} rounded_type;

static const rounded_type rounded_types[] = {
    { "f16", 0.01 }, { "bf16", 0.03 }, { "w8", 0.4 }, { "w4", 0.9 }
};
#define SETS_APART_MAX 0.01

/* The types that round: not far from the golden logits, and every set where the base set is. */
static void check_rounded(const char *checkpoint, const json_t *golden, const rounded_type *type)
{
    char path[64];
    int32_t ids[PROMPT_MAX];
    const size_t n = ids_of(json_object_get(golden, "input_ids"), ids, PROMPT_MAX);
    const json_t *rows = json_object_get(golden, "logits");
    const size_t vocab = json_array_size(json_array_get(rows, 0));
    float *want = golden_floats(rows, n, vocab), *base = NULL;
    convert_to(checkpoint, type->name, path);
    for (size_t i = 0; i < N_CPU_SETS; i++) {
        ernie_model *model = open_on(path, cpu_sets[i]);
        if (!model) continue;
        float *got = malloc(n * vocab * sizeof *got);
        CHECK(got, "no memory");
        feed_in_steps(model, ERNIE_KV_DEFAULT, ids, n, got);
        const double off = relative_difference(got, want, n * vocab);
        const double apart = base ? relative_difference(got, base, n * vocab) : 0.0;
        printf("%s %s %s: %.2g of the golden logits, %.2g of the base set's\n", checkpoint,
               type->name, cpu_sets[i], off, apart);
        CHECK(off <= type->golden_max && apart <= SETS_APART_MAX, "differs too much");
        ernie_model_close(model);
        if (base) free(got);
        else base = got;
    }
    remove(path);
    free(base);
    free(want);
}

static void check_shapes(const char *folder, const json_t *list)
{
    size_t i;
    json_t *name;
    json_array_foreach(json_object_get(list, "shapes"), i, name) {
        char checkpoint[1024], path[1024];
        file_beside(folder, json_string_value(name), checkpoint);
        json_t *golden = json_load_file(file_beside(checkpoint, "golden.json", path), 0, NULL);
        CHECK(golden, "%s is not there", path);
        check_logits(checkpoint, golden, &apart_random);
        for (size_t t = 0; t < sizeof rounded_types / sizeof *rounded_types; t++)
            check_rounded(checkpoint, golden, &rounded_types[t]);
        json_decref(golden);
    }
    CHECK(i > 0, "no shapes in %s", folder);
}

/* ---- A trained model ----------------------------------------------------------------------- */

/* Follow the golden greedy ids; where the model's best differs, the golden margin must be small. */
static void check_texts(const char *checkpoint, const json_t *golden, const char *type)
{
    ernie_model *model = converted(checkpoint, type);
    ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
    ernie_model_info info = { .size = sizeof info };
    size_t i, n_same = 0, n_close = 0;
    json_t *one;
    options.n_ctx = 1024;
    ernie_model_get_info(model, &info);
    ernie_session *session = session_on(model, &options);
    json_array_foreach(json_object_get(golden, "cases"), i, one) {
        int32_t ids[512];
        const size_t n = ids_of(json_object_get(one, "input_ids"), ids, 512);
        const json_t *greedy = json_object_get(one, "greedy"), *margin = json_object_get(one, "greedy_margin");
        const char *prompt = json_string_value(json_object_get(one, "prompt"));
        int32_t own[512];
        size_t n_own = 0;
        CHECK(ernie_tokenize(model, prompt, strlen(prompt), ERNIE_TOKENIZE_SPECIAL, own, 512, &n_own,
                             &error) == ERNIE_OK, "%s", error.message);
        CHECK(n_own == n && memcmp(own, ids, n * sizeof *ids) == 0, "case %zu: prompt ids differ", i);
        CHECK(ernie_session_sync(session, ids, n, &error) == ERNIE_OK, "%s", error.message);
        for (size_t t = 0; t < json_array_size(greedy); t++) {
            const float *logits = ernie_session_logits(session);
            const int32_t want = (int32_t)json_integer_value(json_array_get(greedy, t));
            int32_t best = 0;
            for (uint32_t v = 1; v < info.vocab_size; v++)
                if (logits[v] > logits[best]) best = (int32_t)v;
            const double gap = (double)(logits[best] - logits[want]);
            const double clear = margin ? json_number_value(json_array_get(margin, t)) : gap;
            CHECK(best == want || clear <= CLEAR_MARGIN, "case %zu token %zu: %d, golden %d (margin %g)",
                  i, t, (int)best, (int)want, clear);
            n_same += best == want;
            n_close += best != want;
            CHECK(ernie_session_feed(session, &want, 1, &error) == ERNIE_OK, "%s", error.message);
        }
    }
    printf("%s %s: %zu greedy tokens as golden, %zu within the margin\n", checkpoint, type, n_same,
           n_close);
    CHECK(n_same > 100, "too few tokens were compared");
    ernie_session_free(session);
    ernie_model_close(model);
}

/* Sum of -log p of ids[1..n-1]; each document alone. */
static double document_nll(ernie_session *session, const int32_t *ids, size_t n, float *logits,
                           uint32_t vocab)
{
    double sum = 0.0;
    CHECK(ernie_session_rewind(session, 0, &error) == ERNIE_OK, "%s", error.message);
    CHECK(ernie_session_feed_logits(session, ids, n - 1, logits, &error) == ERNIE_OK, "%s",
          error.message);
    for (size_t t = 0; t + 1 < n; t++) {
        const float *row = logits + t * vocab;
        double total = 0.0, max = -INFINITY;
        for (uint32_t i = 0; i < vocab; i++)
            if ((double)row[i] > max) max = (double)row[i];
        for (uint32_t i = 0; i < vocab; i++) total += exp((double)row[i] - max);
        sum += max + log(total) - (double)row[ids[t + 1]];
    }
    return sum;
}

static void check_nll(const char *checkpoint, const json_t *golden, const char *type, double allowed,
                      const char *documents)
{
    const json_t *eval = json_object_get(golden, "eval");
    const size_t limit = (size_t)json_integer_value(json_object_get(eval, "documents"));
    ernie_model *model = converted(checkpoint, type);
    ernie_model_info info = { .size = sizeof info };
    ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
    static char line[1 << 16];
    double sum = 0.0;
    size_t n_tokens = 0, n_documents = 0;
    ernie_model_get_info(model, &info);
    float *logits = malloc((size_t)DOCUMENT_TOKENS * info.vocab_size * sizeof *logits);
    FILE *file = fopen(documents, "rb");
    CHECK(logits && file, "%s cannot be read", documents);
    options.n_ctx = DOCUMENT_TOKENS;
    ernie_session *session = session_on(model, &options);
    while (n_documents < limit && fgets(line, sizeof line, file)) {
        json_t *one = json_loads(line, 0, NULL);
        const char *text = json_string_value(json_object_get(one, "text"));
        static int32_t ids[1 << 16];
        size_t n = 0;
        CHECK(text && ernie_tokenize(model, text, strlen(text), ERNIE_TOKENIZE_SPECIAL, ids,
                                     sizeof ids / sizeof *ids, &n, &error) == ERNIE_OK,
              "%s", error.message);
        if (n > DOCUMENT_TOKENS) n = DOCUMENT_TOKENS;
        sum += document_nll(session, ids, n, logits, info.vocab_size);
        n_tokens += n - 1;
        n_documents++;
        json_decref(one);
    }
    fclose(file);
    const double want = json_number_value(json_object_get(eval, "nll_per_token"));
    const double got = sum / (double)n_tokens;
    printf("%s %s: %zu tokens, %.5f nats a token, reference %.5f, %+.5f\n", checkpoint, type, n_tokens,
           got, want, got - want);
    CHECK(n_tokens == (size_t)json_integer_value(json_object_get(eval, "tokens")), "token count");
    CHECK(got - want <= allowed && got - want >= -allowed, "more than %g from the reference", allowed);
    free(logits);
    ernie_session_free(session);
    ernie_model_close(model);
}

int main(int argc, char **argv)
{
    char path[1024];
    if (argc < 3) return 2;
    json_t *golden = json_load_file(file_beside(argv[2], "golden.json", path), 0, NULL);
    if (!golden) {
        printf("skipped: %s is not there\n", path);
        return SKIPPED;
    }
    if (strcmp(argv[1], "logits") == 0) check_logits(argv[2], golden, &apart_trained);
    else if (strcmp(argv[1], "shapes") == 0) check_shapes(argv[2], golden);
    else if (strcmp(argv[1], "texts") == 0 && argc == 4) check_texts(argv[2], golden, argv[3]);
    else if (strcmp(argv[1], "nll") == 0 && argc == 6)
        check_nll(argv[2], golden, argv[3], atof(argv[4]), argv[5]);
    else return 2;
    json_decref(golden);
    return 0;
}
