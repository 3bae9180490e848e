/* What the control groups around this process leave it: Linux, versions 1 and 2. Containers set
 * them.
 *
 * A limit may stand anywhere on the way from our own group up to the root, so the least one counts.
 * Folders that a container does not show have no files and set no limit. */
#include "os.h"

#ifdef __linux__

#define GROUP_NONE     UINT64_MAX
#define GROUP_PATH_MAX 1200

typedef uint64_t (*group_limit)(const char *folder); /* GROUP_NONE: no limit here */

ERN_FN bool ern_read_line(const char *path, char *line, size_t size)
{
    FILE *file = fopen(path, "re");
    if (!file) return false;
    const bool ok = fgets(line, (int)size, file) != NULL && strchr(line, '\n') != NULL;
    fclose(file);
    return ok;
}

/* ---- Where the groups are ------------------------------------------------------------------ */

static uint64_t group_walk(const char *root, const char *group, group_limit limit)
{
    char folder[GROUP_PATH_MAX - 100];
    uint64_t least = GROUP_NONE;
    const int n = snprintf(folder, sizeof folder, "%s%s", root, group);
    if (n < 0 || n >= (int)sizeof folder) return GROUP_NONE;
    for (;;) {
        const uint64_t here = limit(folder);
        if (here < least) least = here;
        char *slash = strrchr(folder, '/');
        if (!slash || (size_t)(slash - folder) < strlen(root)) return least;
        *slash = '\0';
    }
}

static bool group_list_has(const char *list, const char *word)
{
    const size_t n = strlen(word);
    for (;;) {
        const size_t here = strcspn(list, ",");
        if (here == n && memcmp(list, word, n) == 0) return true;
        if (!list[here]) return false;
        list += here + 1;
    }
}

/* One line of /proc/self/cgroup: "0::/group" (version 2) or "4:cpu,cpuacct:/group". */
static uint64_t group_of_line(char *line, const char *controller, group_limit v2, group_limit v1)
{
    char root[64];
    char *controllers = strchr(line, ':');
    char *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) return GROUP_NONE;
    *group++ = '\0';
    group[strcspn(group, "\n")] = '\0';
    controllers++;
    if (!*controllers) return group_walk("/sys/fs/cgroup", group, v2);
    if (!group_list_has(controllers, controller)) return GROUP_NONE;
    snprintf(root, sizeof root, "/sys/fs/cgroup/%s", controller);
    return group_walk(root, group, v1);
}

static uint64_t group_least(const char *controller, group_limit v2, group_limit v1)
{
    char line[1024];
    uint64_t least = GROUP_NONE;
    FILE *file = fopen("/proc/self/cgroup", "re");
    if (!file) return GROUP_NONE;
    while (fgets(line, sizeof line, file)) {
        const uint64_t here = group_of_line(line, controller, v2, v1);
        if (here < least) least = here;
    }
    fclose(file);
    return least;
}

/* The number that a file of the group begins with, such as "-1" or "max" none. */
static bool group_number(const char *folder, const char *name, uint64_t *value)
{
    char path[GROUP_PATH_MAX], line[64], *end;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (!ern_read_line(path, line, sizeof line) || line[0] < '0' || line[0] > '9') return false;
    *value = strtoull(line, &end, 10);
    return true;
}

/* ---- Processors ---------------------------------------------------------------------------- */

/* Those that `quota` of every `period` microseconds amounts to, rounded up. */
static uint64_t group_cpus(uint64_t quota, uint64_t period)
{
    return quota && period ? quota / period + (quota % period != 0) : GROUP_NONE;
}

/* One line: "150000 100000", or "max 100000" without a limit. */
static uint64_t group_cpus_v2(const char *folder)
{
    char path[GROUP_PATH_MAX], line[64], *period;
    snprintf(path, sizeof path, "%s/cpu.max", folder);
    if (!ern_read_line(path, line, sizeof line)) return GROUP_NONE;
    const uint64_t quota = strtoull(line, &period, 10);
    return group_cpus(quota, strtoull(period, NULL, 10));
}

static uint64_t group_cpus_v1(const char *folder)
{
    uint64_t quota, period;
    if (!group_number(folder, "cpu.cfs_quota_us", &quota)
        || !group_number(folder, "cpu.cfs_period_us", &period))
        return GROUP_NONE;
    return group_cpus(quota, period);
}

ERN_FN unsigned ern_group_cpus(void)
{
    const uint64_t n = group_least("cpu", group_cpus_v2, group_cpus_v1);
    return n < UINT32_MAX ? (unsigned)n : 0;
}

/* ---- Memory -------------------------------------------------------------------------------- */

/* Files' pages in the group: the system takes them back when memory is wanted. */
static uint64_t group_cached(const char *folder, const char *const names[2])
{
    char path[GROUP_PATH_MAX], line[128];
    uint64_t sum = 0;
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    while (fgets(line, sizeof line, file))
        for (size_t i = 0; i < 2; i++) {
            const size_t n = strlen(names[i]);
            if (strncmp(line, names[i], n) == 0 && line[n] == ' ')
                sum += strtoull(line + n, NULL, 10);
        }
    fclose(file);
    return sum;
}

static uint64_t group_left(uint64_t limit, uint64_t used, uint64_t cached)
{
    used -= cached < used ? cached : used;
    return limit > used ? limit - used : 0;
}

static uint64_t group_memory_v2(const char *folder)
{
    static const char *const cached[2] = { "inactive_file", "active_file" };
    uint64_t limit, used;
    if (!group_number(folder, "memory.max", &limit)
        || !group_number(folder, "memory.current", &used))
        return GROUP_NONE;
    return group_left(limit, used, group_cached(folder, cached));
}

/* No limit is written as the largest number of whole pages. */
static uint64_t group_memory_v1(const char *folder)
{
    static const char *const cached[2] = { "total_inactive_file", "total_active_file" };
    uint64_t limit, used;
    if (!group_number(folder, "memory.limit_in_bytes", &limit) || limit >= UINT64_MAX / 4
        || !group_number(folder, "memory.usage_in_bytes", &used))
        return GROUP_NONE;
    return group_left(limit, used, group_cached(folder, cached));
}

ERN_FN uint64_t ern_group_memory(void)
{
    return group_least("memory", group_memory_v2, group_memory_v1);
}

#undef GROUP_NONE
#undef GROUP_PATH_MAX

#else

ERN_FN unsigned ern_group_cpus(void)
{
    return 0;
}

ERN_FN uint64_t ern_group_memory(void)
{
    return UINT64_MAX;
}

#endif
