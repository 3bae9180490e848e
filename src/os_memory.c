/* How much memory there is to have, and on which pages it lies. Only Linux has huge pages for the
 * asking; elsewhere nothing is asked for and nothing is said to be better than it is. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN 1
#endif
#ifndef NOMINMAX
#define NOMINMAX 1
#endif
#include <windows.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "os.h"

#define MEMORY_HUGE_PAGE ((size_t)2 << 20)
#define MEMORY_PROBES    16u /* pages touched before the system is asked what they are */

/* ---- Linux --------------------------------------------------------------------------------- */

#ifdef __linux__

static void memory_want_huge(void *data, size_t n)
{
    madvise(data, n, MADV_HUGEPAGE); /* a hint: without it everything works as well */
}

/* The value of a line such as "MemAvailable:   15638180 kB"; false for any other name. */
static bool memory_field(const char *line, const char *name, uint64_t *bytes)
{
    const size_t n = strlen(name);
    if (strncmp(line, name, n) != 0 || line[n] != ':') return false;
    *bytes = 1024 * (uint64_t)strtoull(line + n + 1, NULL, 10);
    return true;
}

static uint64_t memory_available(void)
{
    char line[256];
    uint64_t bytes = 0;
    FILE *file = fopen("/proc/meminfo", "re");
    if (!file) return 0;
    while (fgets(line, sizeof line, file) && !memory_field(line, "MemAvailable", &bytes)) continue;
    fclose(file);
    return bytes;
}

ERN_FN bool ern_huge_pages_offered(void)
{
    char line[128];
    return ern_read_line("/sys/kernel/mm/transparent_hugepage/enabled", line, sizeof line)
           && !strstr(line, "[never]");
}

/* Does a line of /proc/self/smaps begin the mapping that holds `at`? Sets *begins for any that
 * begins a mapping. */
static bool memory_mapping_has(const char *line, uintptr_t at, bool *begins)
{
    char *end;
    const unsigned long long first = strtoull(line, &end, 16);
    *begins = end != line && *end == '-';
    return *begins && first <= at && at < strtoull(end + 1, NULL, 16);
}

ERN_FN bool ern_on_huge_pages(const void *data, size_t n)
{
    char line[512];
    const volatile unsigned char *bytes = data;
    uint64_t resident = 0, huge = 0, more;
    bool inside = false, begins;
    for (size_t i = 0; i < MEMORY_PROBES; i++) (void)bytes[n / MEMORY_PROBES * i];
    FILE *file = fopen("/proc/self/smaps", "re");
    if (!file) return false;
    while (fgets(line, sizeof line, file)) {
        const bool has = memory_mapping_has(line, (uintptr_t)data, &begins);
        if (begins && inside) break;
        if (begins) inside = has;
        if (!inside) continue;
        if (memory_field(line, "Rss", &more)) resident = more;
        if (memory_field(line, "FilePmdMapped", &more)) huge += more;
        if (memory_field(line, "AnonHugePages", &more)) huge += more;
    }
    fclose(file);
    return huge > resident / 2;
}

ERN_FN void ern_forget_pages(const void *data, size_t n)
{
    madvise((void *)data, n, MADV_DONTNEED);
}

#else

static void memory_want_huge(void *data, size_t n)
{
    (void)data;
    (void)n;
}

static uint64_t memory_available(void)
{
#ifdef _WIN32
    MEMORYSTATUSEX status;
    status.dwLength = sizeof status;
    return GlobalMemoryStatusEx(&status) ? status.ullAvailPhys : 0;
#else
    return 0;
#endif
}

ERN_FN bool ern_huge_pages_offered(void)
{
    return false;
}

ERN_FN bool ern_on_huge_pages(const void *data, size_t n)
{
    (void)data;
    (void)n;
    return false;
}

ERN_FN void ern_forget_pages(const void *data, size_t n)
{
    (void)data;
    (void)n;
}

#endif

/* ---- Everywhere ---------------------------------------------------------------------------- */

ERN_FN uint64_t ern_memory_available(void)
{
    const uint64_t machine = memory_available(), group = ern_group_memory();
    return machine < group ? machine : group;
}

/* The whole huge pages inside a block that is surely a mapping of its own, not a part of the
 * heap. */
ERN_FN void *ern_alloc_filled(const ernie_allocator *allocator, size_t size)
{
    unsigned char *data = ern_alloc_aligned(allocator, size);
    if (!data || !ern_allocator_is_default(allocator)
        || size < 32 * MEMORY_HUGE_PAGE)
        return data;
    const size_t before = (size_t)(-(uintptr_t)data % MEMORY_HUGE_PAGE);
    memory_want_huge(data + before, (size - before) / MEMORY_HUGE_PAGE * MEMORY_HUGE_PAGE);
    return data;
}

#undef MEMORY_HUGE_PAGE
#undef MEMORY_PROBES
