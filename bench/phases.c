/* bench/phases.c - where does a step's time go?
 *
 * Runs steps of a model on the CPU backend with a profile of its phases: for each phase the share of
 * all workers' time that it computes, and that workers wait at its end for the slower ones. What is
 * missing to 100 % passes between the steps and while the team wakes.
 *
 *   phases MODEL [THREADS [STEP...]]     p512 d0 d4096 without steps; 0 threads: one per core
 *
 * A step pN is a prompt of N tokens; dN is decoding 16 tokens, one by one, after N others.
 */
#include <time.h>

#include "../backends/cpu/cpu.h"
#include "../src/session.h"

enum { DECODED = 16, STEPS_MAX = 8, CONTEXT_MAX = 1 << 20 };

typedef struct step {
    bool decodes;
    size_t n; /* tokens of the prompt, or before those decoded */
    double seconds;
    double work[CPU_PHASES], wait[CPU_PHASES]; /* shares of n_threads * seconds */
} step;

typedef struct bench {
    ernie_session *session;
    cpu_profile *profile; /* [n_threads] */
    size_t n_threads;
    int32_t *ids; /* [all tokens of the longest step] */
} bench;

static _Noreturn void die(const char *what, const char *why)
{
    fprintf(stderr, "phases: %s: %s\n", what, why);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    timespec_get(&t, TIME_UTC);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static size_t number(const char *text, size_t min, size_t max)
{
    char *end;
    const unsigned long long n = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || n < min || n > max)
        die(text, "not a number in range");
    return (size_t)n;
}

static step step_parse(const char *text)
{
    if (*text != 'p' && *text != 'd') die(text, "not a step such as p512 or d4096");
    const bool decodes = *text == 'd';
    return (step){ .decodes = decodes, .n = number(text + 1, !decodes, CONTEXT_MAX) };
}

static void feed(const bench *b, size_t first, size_t n)
{
    ernie_error error;
    if (n && ernie_session_feed(b->session, b->ids + first, n, &error) != ERNIE_OK)
        die("feeding", error.message);
}

/* The step itself, from position `first` on. */
static void step_pass(const bench *b, const step *s, size_t first)
{
    ernie_error error;
    if (ernie_session_rewind(b->session, first, &error) != ERNIE_OK)
        die("rewinding", error.message);
    if (!s->decodes) feed(b, 0, s->n);
    for (size_t i = 0; s->decodes && i < DECODED; i++) feed(b, first + i, 1);
}

/* Once to warm up, once measured. */
static void step_run(const bench *b, step *s)
{
    ernie_error error;
    const size_t first = s->decodes ? s->n : 0;
    if (ernie_session_rewind(b->session, 0, &error) != ERNIE_OK) die("rewinding", error.message);
    feed(b, 0, first);
    step_pass(b, s, first);
    memset(b->profile, 0, b->n_threads * sizeof *b->profile);
    const double start = now();
    step_pass(b, s, first);
    s->seconds = now() - start;
    for (size_t i = 0; i < b->n_threads; i++)
        for (size_t p = 0; p < CPU_PHASES; p++) {
            s->work[p] += b->profile[i].work[p] / s->seconds / (double)b->n_threads;
            s->wait[p] += b->profile[i].wait[p] / s->seconds / (double)b->n_threads;
        }
}

/* ---- Table ----------------------------------------------------------------------------------- */

static void row(const char *name, const step *steps, size_t n_steps, size_t phase)
{
    printf("%-24s", name);
    for (size_t i = 0; i < n_steps; i++)
        printf("  %7.1f %7.1f", 100 * steps[i].work[phase], 100 * steps[i].wait[phase]);
    printf("\n");
}

static void table(const step *steps, size_t n_steps)
{
#define PHASE_NAME(id, text) text,
    static const char *const names[] = { CPU_PHASE_MAP(PHASE_NAME) };
#undef PHASE_NAME
    printf("%-24s", "% of the time");
    for (size_t i = 0; i < n_steps; i++) {
        char title[32];
        snprintf(title, sizeof title, "%s %zu", steps[i].decodes ? "decode at" : "prefill",
                 steps[i].n);
        printf("  %15s", title);
    }
    printf("\n%-24s", "");
    for (size_t i = 0; i < n_steps; i++) printf("  %7s %7s", "works", "waits");
    printf("\n");
    for (size_t p = 0; p < CPU_PHASES; p++) row(names[p], steps, n_steps, p);
    printf("%-24s", "all phases");
    for (size_t i = 0; i < n_steps; i++) {
        double work = 0, wait = 0;
        for (size_t p = 0; p < CPU_PHASES; p++) work += steps[i].work[p], wait += steps[i].wait[p];
        printf("  %7.1f %7.1f", 100 * work, 100 * wait);
    }
    printf("\n%-24s", "tokens/s");
    for (size_t i = 0; i < n_steps; i++)
        printf("  %15.1f", (double)(steps[i].decodes ? DECODED : steps[i].n) / steps[i].seconds);
    printf("\n");
}

/* ---- Main ------------------------------------------------------------------------------------ */

/* The same random tokens every time: other experts at every step, as in real text. */
static void bench_open(bench *b, const ernie_model *model, size_t n_threads, size_t n_tokens)
{
    ernie_session_options options = ERNIE_SESSION_OPTIONS_INIT;
    ernie_model_info info = { .size = (uint32_t)sizeof info };
    ernie_error error;
    uint64_t state = 1;
    ernie_model_get_info(model, &info);
    options.n_ctx = (uint32_t)n_tokens;
    options.n_threads = (uint32_t)n_threads;
    if (ernie_session_create(&b->session, model, &options, &error) != ERNIE_OK)
        die("session", error.message);
    b->n_threads = b->session->state_options.n_threads;
    b->profile = calloc(b->n_threads, sizeof *b->profile);
    b->ids = calloc(n_tokens, sizeof *b->ids);
    if (!b->profile || !b->ids) die("memory", "none left");
    for (size_t i = 0; i < n_tokens; i++) {
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        b->ids[i] = (int32_t)((state >> 33) % (info.n_tokens ? info.n_tokens : 1));
    }
    b->session->state->profile = b->profile;
    printf("%s, %s, %zu threads\n", info.cpu, info.types, b->n_threads);
}

int main(int argc, char **argv)
{
    step steps[STEPS_MAX] = { { .n = 512 },
                              { true, 0, 0, { 0 }, { 0 } },
                              { true, 4096, 0, { 0 }, { 0 } } };
    size_t n_steps = 3, n_tokens = 1;
    bench b = { 0 };
    ernie_model *model;
    ernie_error error;
    if (argc < 2 || argc > 3 + STEPS_MAX) die("usage", "phases MODEL [THREADS [STEP...]]");
    for (int i = 3; i < argc; i++) steps[n_steps = (size_t)i - 3] = step_parse(argv[i]);
    if (argc > 3) n_steps++;
    for (size_t i = 0; i < n_steps; i++)
        n_tokens = ern_max_size(n_tokens, steps[i].n + (steps[i].decodes ? DECODED : 0));
    if (ernie_model_open(&model, argv[1], NULL, &error) != ERNIE_OK) die(argv[1], error.message);
    bench_open(&b, model, argc > 2 ? number(argv[2], 0, 1024) : 0, n_tokens);
    for (size_t i = 0; i < n_steps; i++) step_run(&b, &steps[i]);
    table(steps, n_steps);
    ernie_session_free(b.session);
    ernie_model_close(model);
    free(b.profile);
    free(b.ids);
    return 0;
}
