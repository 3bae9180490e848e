/* Can the bytes of a list of experts hurt its reader? Half of the inputs get this model's
 * identity and a right checksum first, so that the fuzzer reaches what lies behind them. What a
 * list that is taken brings into memory is what the file holds; a list that is refused changes
 * nothing. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <sys/mman.h>
#include <unistd.h>

#include "../../src/experts_inner.h"
#include "../unit/test_model_bytes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { FUZZ_SLOTS = 5, FUZZ_HEAD = 32, FUZZ_ID = 16 };

/* Three layers of eight experts. */
static struct fuzz_warm_model {
    unsigned char *image;
    size_t n_bytes;
    ern_format format;
} fuzz_warm_model;

static int fuzz_warm_read(void *user, uint64_t offset, void *buffer, size_t n)
{
    const struct fuzz_warm_model *m = user;
    if (offset > m->n_bytes || n > m->n_bytes - offset) return 1;
    memcpy(buffer, m->image + offset, n);
    return 0;
}

static void fuzz_warm_begin(struct fuzz_warm_model *m)
{
    test_model_spec spec = { .moe = true, .no_sections = true, .type_expert = ERN_W4,
                             .type_expert_down = ERN_W4 };
    ern_hparams h = test_hparams(&spec);
    if (m->image) return;
    h.n_layers = 4;
    h.n_experts = 8;
    h.moe_layer_end = 3;
    spec.hparams = &h;
    m->image = test_model_build(&spec, &m->n_bytes);
    if (ern_format_read(&m->format, m->image, m->n_bytes, NULL) != ERNIE_OK) abort();
}

/* The identity and the checksum that a list of this model would have. */
static void fuzz_warm_seal(unsigned char *list, size_t n)
{
    if (n < FUZZ_HEAD + 8) return;
    memcpy(list + FUZZ_ID, fuzz_warm_model.format.header->weights_id, 16);
    const uint64_t sum = ern_hash64(list, n - 8);
    memcpy(list + n - 8, &sum, 8);
}

/* Until the readers have walked the list. */
static void fuzz_warm_settle(ern_experts *e)
{
    for (bool busy = true; busy;) {
        const unsigned events = ern_experts_events(e);
        ern_experts_lock(e);
        busy = e->warm_at < e->n_experts || e->ahead.first != NULL;
        for (uint32_t i = 0; i < FUZZ_SLOTS; i++)
            busy = busy || e->slots[i].state == ERN_EXPERTS_LOADING;
        ern_experts_unlock(e);
        if (busy) ern_experts_wait(e, events, 1e-3);
    }
}

/* How many experts there are, each of them whole. */
static uint32_t fuzz_warm_count(ern_experts *e)
{
    uint32_t n = 0;
    ern_experts_lock(e);
    for (uint32_t i = 0; i < FUZZ_SLOTS; i++) {
        const ern_experts_slot *slot = &e->slots[i];
        if (slot->state == ERN_EXPERTS_EMPTY) continue;
        const ern_record *r = &e->records[slot->job.expert];
        if (slot->state != ERN_EXPERTS_READY || e->ranks[i].used_at > e->clock) abort();
        if (memcmp(slot->job.data, fuzz_warm_model.image + r->offset, (size_t)r->n_bytes)) abort();
        n++;
    }
    ern_experts_unlock(e);
    return n;
}

static void fuzz_warm_load(const char *path, const unsigned char *list)
{
    static const ern_log no_log;
    const ernie_source source = { fuzz_warm_read, fuzz_warm_model.n_bytes, &fuzz_warm_model };
    const ern_experts_options options = { .source = &source,
                                          .format = &fuzz_warm_model.format,
                                          .allocator = ern_allocator_default(),
                                          .log = &no_log,
                                          .n_readers = 1 };
    ernie_error error = { ERNIE_OK, "" };
    ern_experts *e;
    uint32_t listed = 0;
    if (ern_experts_open(&e, &options, NULL) != ERNIE_OK) abort();
    if (ern_experts_resize(e, ern_experts_slot_bytes(options.format, FUZZ_SLOTS), NULL) != ERNIE_OK)
        abort();
    const ernie_status status = ern_experts_load(e, path, &error);
    if ((status == ERNIE_OK) != (error.message[0] == '\0') || status != error.code) abort();
    fuzz_warm_settle(e);
    if (status == ERNIE_OK) memcpy(&listed, list + 12, sizeof listed);
    if (fuzz_warm_count(e) != (listed < FUZZ_SLOTS ? listed : FUZZ_SLOTS)) abort();
    ern_experts_close(e);
}

/* The last byte of an input, which no valid file needs, chooses. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    if (n == 0) return 0;
    const unsigned choice = data[--n];
    unsigned char *list = malloc(n ? n : 1);
    const int fd = memfd_create("warm", MFD_CLOEXEC);
    if (!list || fd < 0) abort();
    fuzz_warm_begin(&fuzz_warm_model);
    memcpy(list, data, n);
    if (choice & 1) fuzz_warm_seal(list, n);
    if (write(fd, list, n) != (ssize_t)n) abort();
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    fuzz_warm_load(path, list);
    close(fd);
    free(list);
    return 0;
}
