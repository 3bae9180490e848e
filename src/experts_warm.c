/* Which experts were in memory, on disk: a header, the experts with how long ago each was used, the
 * latest first, and an XXH3-64 of all of it. A list is a hint: it is read ahead into empty slots,
 * never delays anything and never takes a slot away; what cannot be read is left for its first use
 * to name. */
#include "experts_inner.h"

#define WARM_MAGIC   "ERNWARM\x1a"
#define WARM_VERSION 1u
#define WARM_AGE_MAX 0xfffffffeu /* this or more, and what no use has counted for */

typedef struct warm_head {
    char magic[8];
    uint32_t version;
    uint32_t n; /* entries */
    uint8_t weights_id[16];
} warm_head;

typedef struct warm_entry {
    uint16_t layer, expert;
    uint32_t age; /* tokens since its last use, WARM_AGE_MAX: the old end */
} warm_entry;

_Static_assert(sizeof(warm_head) == 32 && sizeof(warm_entry) == 8, "warm file");

static warm_head warm_head_of(const ern_experts *e, uint32_t n)
{
    warm_head head = { .version = WARM_VERSION, .n = n };
    memcpy(head.magic, WARM_MAGIC, sizeof head.magic);
    memcpy(head.weights_id, e->format->header->weights_id, sizeof head.weights_id);
    return head;
}

/* ---- Save ---------------------------------------------------------------------------------- */

static uint32_t warm_age(uint64_t clock, uint64_t used_at)
{
    const uint64_t age = clock > used_at ? clock - used_at : 0;
    return used_at == 0 || age > WARM_AGE_MAX ? WARM_AGE_MAX : (uint32_t)age;
}

/* READY experts in the order of the slots. */
static uint32_t warm_collect(ern_experts *e, warm_entry *entries)
{
    uint32_t n = 0;
    ern_experts_lock(e);
    for (uint32_t i = 0; i < e->n_usable; i++) {
        const ern_experts_slot *slot = &e->slots[i];
        if (slot->state != ERN_EXPERTS_READY || !slot->linked) continue;
        const ern_record *r = &e->records[slot->job.expert];
        entries[n++] = (warm_entry){ r->layer, r->expert, warm_age(e->clock, e->ranks[i].used_at) };
    }
    ern_experts_unlock(e);
    return n;
}

static bool warm_after(const warm_entry *a, const warm_entry *b)
{
    if (a->age != b->age) return a->age > b->age;
    return a->layer != b->layer ? a->layer > b->layer : a->expert > b->expert;
}

/* Shell's sort: no memory, and a few thousand entries at most. */
static void warm_sort(warm_entry *entries, uint32_t n)
{
    uint32_t gap = 1;
    while (gap < n / 3) gap = 3 * gap + 1;
    for (; gap; gap /= 3) {
        for (uint32_t i = gap; i < n; i++) {
            const warm_entry entry = entries[i];
            uint32_t k = i;
            for (; k >= gap && warm_after(&entries[k - gap], &entry); k -= gap)
                entries[k] = entries[k - gap];
            entries[k] = entry;
        }
    }
}

static ernie_status warm_write(const ern_experts *e, ern_file_out *file, const warm_entry *entries,
                               uint32_t n, ernie_error *error)
{
    const warm_head head = warm_head_of(e, n);
    ern_hash hash;
    ern_hash_begin(&hash);
    ern_hash_add(&hash, &head, sizeof head);
    ern_hash_add(&hash, entries, n * sizeof *entries);
    const uint64_t checksum = ern_hash_end64(&hash);
    ernie_status status = ern_file_out_write(file, &head, sizeof head, error);
    if (status == ERNIE_OK) status = ern_file_out_write(file, entries, n * sizeof *entries, error);
    if (status == ERNIE_OK) status = ern_file_out_write(file, &checksum, sizeof checksum, error);
    return status;
}

static warm_entry *warm_alloc(const ern_experts *e, ernie_error *error)
{
    warm_entry *entries = ern_alloc(e->allocator, e->n_experts * sizeof *entries);
    if (!entries)
        ern_error_set(error, ERNIE_NO_MEMORY, "no memory for a list of %u experts",
                      (unsigned)e->n_experts);
    return entries;
}

ERN_FN ernie_status ern_experts_save(ern_experts *e, const char *path, ernie_error *error)
{
    ern_file_out *file = NULL;
    warm_entry *entries = warm_alloc(e, error);
    if (!entries) return ERNIE_NO_MEMORY;
    const uint32_t n = warm_collect(e, entries);
    warm_sort(entries, n);
    ernie_status status = ern_file_out_open(&file, path, e->allocator, error);
    if (status == ERNIE_OK) {
        status = warm_write(e, file, entries, n, error);
        if (status == ERNIE_OK)
            status = ern_file_out_commit(file, error);
        else
            ern_file_out_abandon(file);
    }
    ern_free(e->allocator, entries, e->n_experts * sizeof *entries);
    return status;
}

/* ---- Load ---------------------------------------------------------------------------------- */

static ernie_status warm_check_head(const ern_experts *e, const char *path, const warm_head *head,
                                    uint64_t n_bytes, ernie_error *error)
{
    const warm_head own = warm_head_of(e, head->n);
    ERN_FAIL_IF(memcmp(head->magic, own.magic, sizeof own.magic) != 0, error, ERNIE_FORMAT,
                "\"%s\" is not a list of experts", path);
    ERN_FAIL_IF(head->version != WARM_VERSION, error, ERNIE_FORMAT,
                "\"%s\" has version %u; this library reads lists of experts of version %u", path,
                (unsigned)head->version, WARM_VERSION);
    ERN_FAIL_IF(memcmp(head->weights_id, own.weights_id, sizeof own.weights_id) != 0, error,
                ERNIE_MISMATCH, "\"%s\" lists the experts of another model", path);
    ERN_FAIL_IF(head->n > e->n_experts, error, ERNIE_FORMAT,
                "\"%s\" lists %u experts, the model has %u", path, (unsigned)head->n,
                (unsigned)e->n_experts);
    const uint64_t expected = sizeof *head + head->n * sizeof(warm_entry) + sizeof(uint64_t);
    ERN_FAIL_IF(n_bytes != expected, error, ERNIE_FORMAT,
                "\"%s\" has %llu bytes, a list of %u experts has %llu", path,
                (unsigned long long)n_bytes, (unsigned)head->n, (unsigned long long)expected);
    return ERNIE_OK;
}

/* The number of a listed expert among all; ERN_EXPERTS_NONE when the model has none such. */
static uint32_t warm_number(const ern_experts *e, const warm_entry *entry)
{
    const ern_hparams *hp = &e->format->header->hparams;
    if (entry->layer >= hp->n_layers || entry->expert >= hp->n_experts
        || e->layer_index[entry->layer] >= e->n_layers)
        return ERN_EXPERTS_NONE;
    return e->layer_index[entry->layer] * hp->n_experts + entry->expert;
}

/* Every expert exists, none comes twice, the latest used come first. seen: [n_experts], zeroed. */
static ernie_status warm_check(const ern_experts *e, const char *path, const warm_entry *entries,
                               uint32_t n, unsigned char *seen, ernie_error *error)
{
    for (uint32_t i = 0; i < n; i++) {
        const warm_entry *entry = &entries[i];
        const uint32_t number = warm_number(e, entry);
        ERN_FAIL_IF(number == ERN_EXPERTS_NONE, error, ERNIE_FORMAT,
                    "\"%s\": entry %u, layer %u expert %u, is not in the model", path, (unsigned)i,
                    (unsigned)entry->layer, (unsigned)entry->expert);
        ERN_FAIL_IF(seen[number], error, ERNIE_FORMAT,
                    "\"%s\": entry %u, layer %u expert %u, is there twice", path, (unsigned)i,
                    (unsigned)entry->layer, (unsigned)entry->expert);
        ERN_FAIL_IF(i && entry->age < entries[i - 1].age, error, ERNIE_FORMAT,
                    "\"%s\": entry %u, used %u tokens ago, comes after one of %u", path,
                    (unsigned)i, (unsigned)entry->age, (unsigned)entries[i - 1].age);
        seen[number] = 1;
    }
    return ERNIE_OK;
}

static ernie_status warm_read(const ern_experts *e, const char *path, ern_file_in *file,
                              uint64_t n_bytes, warm_entry *entries, uint32_t *n,
                              ernie_error *error)
{
    warm_head head;
    uint64_t checksum = 0;
    ern_hash hash;
    ernie_status status = ern_file_in_read(file, &head, sizeof head, error);
    if (status == ERNIE_OK) status = warm_check_head(e, ern_path_end(path), &head, n_bytes, error);
    if (status == ERNIE_OK)
        status = ern_file_in_read(file, entries, head.n * sizeof *entries, error);
    if (status == ERNIE_OK) status = ern_file_in_read(file, &checksum, sizeof checksum, error);
    if (status != ERNIE_OK) return status;
    ern_hash_begin(&hash);
    ern_hash_add(&hash, &head, sizeof head);
    ern_hash_add(&hash, entries, head.n * sizeof *entries);
    ERN_FAIL_IF(ern_hash_end64(&hash) != checksum, error, ERNIE_CORRUPT,
                "\"%s\" is damaged: its checksum does not match", ern_path_end(path));
    *n = head.n;
    return ERNIE_OK;
}

/* The list becomes the readers' to walk. The clock moves on, so that what is listed can have been
 * used before now. */
static void warm_take_over(ern_experts *e, const warm_entry *entries, uint32_t n)
{
    uint32_t n_empty = 0, oldest = 0;
    ern_experts_lock(e);
    for (uint32_t i = 0; i < e->n_usable; i++) n_empty += e->ranks[i].empty;
    memset(e->warm, 0, e->n_experts * sizeof *e->warm);
    for (uint32_t i = 0; i < n && n_empty; i++) {
        const uint32_t number = warm_number(e, &entries[i]);
        if (e->table[number] != ERN_EXPERTS_NONE) continue;
        n_empty--;
        e->warm[number] = 1 + (entries[i].age > WARM_AGE_MAX ? WARM_AGE_MAX : entries[i].age);
        if (entries[i].age < WARM_AGE_MAX) oldest = entries[i].age;
    }
    e->clock += oldest;
    e->warm_clock = e->clock;
    e->warm_at = 0;
    e->has_work = true;
    ern_experts_unlock(e);
}

ERN_FN ernie_status ern_experts_load(ern_experts *e, const char *path, ernie_error *error)
{
    ern_file_in *file = NULL;
    uint64_t n_bytes = 0;
    uint32_t n = 0;
    ernie_status status = ern_file_in_open(&file, path, e->allocator, &n_bytes, error);
    if (status != ERNIE_OK) return status;
    warm_entry *entries = warm_alloc(e, error);
    unsigned char *seen = entries ? ern_alloc_zero(e->allocator, e->n_experts) : NULL;
    status = seen ? ERNIE_OK
                  : ern_error_set(error, ERNIE_NO_MEMORY, "no memory for a list of %u experts",
                                  (unsigned)e->n_experts);
    if (status == ERNIE_OK) status = warm_read(e, path, file, n_bytes, entries, &n, error);
    if (status == ERNIE_OK) status = warm_check(e, ern_path_end(path), entries, n, seen, error);
    if (status == ERNIE_OK) warm_take_over(e, entries, n);
    ern_free(e->allocator, seen, e->n_experts);
    ern_free(e->allocator, entries, e->n_experts * sizeof *entries);
    ern_file_in_close(file);
    return status;
}

/* ---- The readers' walk --------------------------------------------------------------------- */

static uint32_t warm_empty_slot(const ern_experts *e)
{
    for (uint32_t i = 0; i < e->n_usable; i++)
        if (e->ranks[i].empty) return i;
    return ERN_EXPERTS_NONE;
}

/* With the lock held. In the order of numbers, which is the file's. */
ERN_FN bool ern_experts_warm_next(ern_experts *e)
{
    for (; e->warm_at < e->n_experts; e->warm_at++) {
        const uint32_t number = e->warm_at, listed = e->warm[number];
        if (!listed || e->table[number] != ERN_EXPERTS_NONE) continue;
        const uint32_t i = warm_empty_slot(e);
        if (i == ERN_EXPERTS_NONE) break;
        const uint32_t age = listed - 1;
        ern_experts_fill(e, i, number, false);
        if (age < WARM_AGE_MAX && age < e->warm_clock)
            e->ranks[i].used_at = e->ranks[i].weighed_at = e->warm_clock - age;
        e->warm_at++;
        return true;
    }
    e->warm_at = e->n_experts; /* the rest is dropped */
    return false;
}

#undef WARM_MAGIC
#undef WARM_VERSION
#undef WARM_AGE_MAX
