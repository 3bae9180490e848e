/* Time, chance, processors and threads of Linux, macOS and Windows. Files are in os_file.c.
 *
 * Nothing here fails loudly: what the system does not tell is answered with a safe guess, because a
 * wrong number of threads costs speed and nothing else. */
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
#else
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#endif
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

#include "os.h"

#define OS_CPUS_MAX 8192u

/* ---- Time and chance ----------------------------------------------------------------------- */

#ifdef _WIN32

static uint64_t os_ticks(void)
{
    LARGE_INTEGER now;
    QueryPerformanceCounter(&now);
    return (uint64_t)now.QuadPart;
}

ERN_FN double ern_seconds(void)
{
    LARGE_INTEGER frequency;
    QueryPerformanceFrequency(&frequency);
    return (double)os_ticks() / (double)frequency.QuadPart;
}

static uint64_t os_wall_ticks(void)
{
    FILETIME now;
    GetSystemTimeAsFileTime(&now);
    return (uint64_t)now.dwHighDateTime << 32 | now.dwLowDateTime;
}

static uint64_t os_process_id(void)
{
    return GetCurrentProcessId();
}

#else

static uint64_t os_nanoseconds(clockid_t clock)
{
    struct timespec now = { 0, 0 };
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t os_ticks(void)
{
    return os_nanoseconds(CLOCK_MONOTONIC);
}

ERN_FN double ern_seconds(void)
{
    return (double)os_ticks() * 1e-9;
}

static uint64_t os_wall_ticks(void)
{
    return os_nanoseconds(CLOCK_REALTIME);
}

static uint64_t os_process_id(void)
{
    return (uint64_t)getpid();
}

#endif

/* The finaliser of SplitMix64: every input bit reaches every output bit. */
static uint64_t os_mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Clocks differ from call to call, process and stack address from caller to caller. */
ERN_FN uint64_t ern_entropy(void)
{
    uint64_t x = os_mix(os_wall_ticks() + 0x9e3779b97f4a7c15u);
    x = os_mix(x ^ os_ticks());
    x = os_mix(x ^ os_process_id() << 32);
    return os_mix(x ^ (uint64_t)(uintptr_t)&x);
}

/* ---- Processors ---------------------------------------------------------------------------- */

#ifdef __linux__

typedef struct os_cpu_set {
    unsigned char bits[OS_CPUS_MAX / 8]; /* the kernel's order on little-endian machines */
} os_cpu_set;

static bool os_cpu_has(const os_cpu_set *set, unsigned cpu)
{
    return cpu < OS_CPUS_MAX && set->bits[cpu / 8] >> cpu % 8 & 1;
}

/* Does a list such as "0,64" or "4-7" name an allowed processor below `cpu`? */
static bool os_list_has_below(const char *list, unsigned cpu, const os_cpu_set *allowed)
{
    while (*list) {
        char *end;
        unsigned long first = strtoul(list, &end, 10);
        if (end == list) return false;
        unsigned long last = first;
        if (*end == '-') last = strtoul(end + 1, &end, 10);
        for (; first <= last && first < cpu; first++)
            if (os_cpu_has(allowed, (unsigned)first)) return true;
        if (*end != ',') return false;
        list = end + 1;
    }
    return false;
}

/* Is this the first of its core's processors that we may use? Yes when the system does not say. */
static bool os_cpu_leads_core(unsigned cpu, const os_cpu_set *allowed)
{
    char path[96], line[256];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list", cpu);
    return !ern_read_line(path, line, sizeof line) || !os_list_has_below(line, cpu, allowed);
}

static unsigned os_count_allowed(bool cores)
{
    os_cpu_set allowed;
    unsigned n = 0;
    memset(&allowed, 0, sizeof allowed);
    if (syscall(SYS_sched_getaffinity, 0, sizeof allowed, &allowed) <= 0) {
        const long online = sysconf(_SC_NPROCESSORS_ONLN);
        return online > 0 ? (unsigned)online : 1;
    }
    for (unsigned cpu = 0; cpu < OS_CPUS_MAX; cpu++)
        if (os_cpu_has(&allowed, cpu) && (!cores || os_cpu_leads_core(cpu, &allowed))) n++;
    return n;
}

#elif defined(_WIN32)

static unsigned os_count_bits(ULONG_PTR mask)
{
    unsigned n = 0;
    for (; mask; mask &= mask - 1) n++;
    return n;
}

static unsigned os_count_allowed(bool cores)
{
    SYSTEM_LOGICAL_PROCESSOR_INFORMATION info[256];
    DWORD bytes = sizeof info;
    DWORD_PTR allowed = 0, system = 0;
    unsigned n = 0;
    if (!GetProcessAffinityMask(GetCurrentProcess(), &allowed, &system) || !allowed) return 1;
    if (!cores || !GetLogicalProcessorInformation(info, &bytes)) return os_count_bits(allowed);
    for (size_t i = 0; i < bytes / sizeof info[0]; i++)
        n += info[i].Relationship == RelationProcessorCore && (info[i].ProcessorMask & allowed);
    return n;
}

#else

static unsigned os_count_allowed(bool cores)
{
#ifdef __APPLE__
    int n = 0;
    size_t size = sizeof n;
    if (sysctlbyname(cores ? "hw.physicalcpu" : "hw.logicalcpu", &n, &size, NULL, 0) == 0 && n > 0)
        return (unsigned)n;
#else
    (void)cores;
#endif
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (unsigned)online : 1;
}

#endif

static unsigned os_count(bool cores)
{
    unsigned n = os_count_allowed(cores);
    const unsigned quota = ern_group_cpus();
    if (quota && quota < n) n = quota;
    return n ? n : 1;
}

ERN_FN unsigned ern_cpu_count(void)
{
    return os_count(true);
}

ERN_FN unsigned ern_cpu_threads(void)
{
    return os_count(false);
}

/* ---- Threads ------------------------------------------------------------------------------- */

#ifdef _WIN32

static DWORD WINAPI os_thread_main(void *arg)
{
    ern_thread *thread = arg;
    thread->fn(thread->arg);
    return 0;
}

ERN_FN bool ern_thread_start(ern_thread *thread, void (*fn)(void *arg), void *arg)
{
    *thread = (ern_thread){ .fn = fn, .arg = arg };
    thread->handle[0] = CreateThread(NULL, 0, os_thread_main, thread, 0, NULL);
    return thread->handle[0] != NULL;
}

ERN_FN void ern_thread_join(ern_thread *thread)
{
    WaitForSingleObject(thread->handle[0], INFINITE);
    CloseHandle(thread->handle[0]);
}

ERN_FN void ern_thread_yield(void)
{
    SwitchToThread();
}

ERN_FN void ern_sleep(double seconds)
{
    Sleep((DWORD)(seconds * 1e3) + 1);
}

#else

_Static_assert(sizeof(pthread_t) <= sizeof((ern_thread *)0)->handle, "room for a pthread_t");

static void *os_thread_main(void *arg)
{
    ern_thread *thread = arg;
    thread->fn(thread->arg);
    return NULL;
}

/* All but those that a thread causes itself: blocked, they could not reach any handler. */
static void os_asynchronous_signals(sigset_t *set)
{
    static const int own[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT };
    sigfillset(set);
    for (size_t i = 0; i < ERN_COUNT(own); i++) sigdelset(set, own[i]);
}

ERN_FN bool ern_thread_start(ern_thread *thread, void (*fn)(void *arg), void *arg)
{
    sigset_t blocked, before;
    pthread_t handle;
    *thread = (ern_thread){ .fn = fn, .arg = arg };
    os_asynchronous_signals(&blocked);
    pthread_sigmask(SIG_BLOCK, &blocked, &before); /* inherited by the new thread */
    const bool ok = pthread_create(&handle, NULL, os_thread_main, thread) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (ok) memcpy(thread->handle, &handle, sizeof handle);
    return ok;
}

ERN_FN void ern_thread_join(ern_thread *thread)
{
    pthread_t handle;
    memcpy(&handle, thread->handle, sizeof handle);
    pthread_join(handle, NULL);
}

ERN_FN void ern_thread_yield(void)
{
    sched_yield();
}

ERN_FN void ern_sleep(double seconds)
{
    const time_t whole = (time_t)seconds;
    const struct timespec time = { whole, (long)((seconds - (double)whole) * 1e9) };
    nanosleep(&time, NULL);
}

#endif

ERN_FN void ern_cpu_relax(void)
{
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__i386__))
    __builtin_ia32_pause();
#elif defined(__GNUC__) && (defined(__aarch64__) || defined(__arm__))
    __asm__ __volatile__("yield");
#elif defined(_WIN32)
    YieldProcessor();
#endif
}

/* ---- Waiting on a word --------------------------------------------------------------------- */

/* Within what every clock can count, NaN included; ten days and more end as a spurious return. */
static double os_wait_seconds(double seconds)
{
    const double longest = 1e6;
    return seconds > 0 ? (seconds < longest ? seconds : longest) : 0;
}

#if defined(__linux__) && !defined(OS_NO_FUTEX) /* a test has it without */

_Static_assert(sizeof(atomic_uint) == 4, "a futex is 32 bits wide");

ERN_FN void ern_wait(atomic_uint *word, unsigned expected)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, NULL, NULL, 0);
}

ERN_FN void ern_wait_for(atomic_uint *word, unsigned expected, double seconds)
{
    seconds = os_wait_seconds(seconds);
    const time_t whole = (time_t)seconds;
    const struct timespec limit = { whole, (long)(1e9 * (seconds - (double)whole)) };
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected, &limit, NULL, 0);
}

ERN_FN void ern_wake_all(atomic_uint *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

#else

/* One bed for all sleepers. It carries no state from call to call: a waker of another word causes
 * only spurious returns. Taking the lock between the change of the word and the wake is what keeps
 * a sleeper from missing it. */
#ifdef _WIN32
static SRWLOCK os_bed_lock = SRWLOCK_INIT;
static CONDITION_VARIABLE os_bed = CONDITION_VARIABLE_INIT;
static void os_bed_enter(void)
{
    AcquireSRWLockExclusive(&os_bed_lock);
}
static void os_bed_leave(void)
{
    ReleaseSRWLockExclusive(&os_bed_lock);
}
static void os_bed_sleep(void)
{
    SleepConditionVariableSRW(&os_bed, &os_bed_lock, INFINITE, 0);
}
static void os_bed_sleep_for(double seconds)
{
    SleepConditionVariableSRW(&os_bed, &os_bed_lock, (DWORD)(seconds * 1e3) + 1, 0);
}
static void os_bed_wake(void)
{
    WakeAllConditionVariable(&os_bed);
}
#else
static pthread_mutex_t os_bed_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t os_bed = PTHREAD_COND_INITIALIZER;
static void os_bed_enter(void)
{
    pthread_mutex_lock(&os_bed_lock);
}
static void os_bed_leave(void)
{
    pthread_mutex_unlock(&os_bed_lock);
}
static void os_bed_sleep(void)
{
    pthread_cond_wait(&os_bed, &os_bed_lock);
}
#ifdef __APPLE__
static void os_bed_sleep_for(double seconds)
{
    const time_t whole = (time_t)seconds;
    const struct timespec limit = { whole, (long)(1e9 * (seconds - (double)whole)) };
    pthread_cond_timedwait_relative_np(&os_bed, &os_bed_lock, &limit);
}
#else
/* A condition that needs no function to make it goes by the wall clock: setting that back makes one
 * sleep longer. */
static void os_bed_sleep_for(double seconds)
{
    const uint64_t end = os_nanoseconds(CLOCK_REALTIME) + (uint64_t)(1e9 * seconds);
    const struct timespec limit = { (time_t)(end / 1000000000u), (long)(end % 1000000000u) };
    pthread_cond_timedwait(&os_bed, &os_bed_lock, &limit);
}
#endif
static void os_bed_wake(void)
{
    pthread_cond_broadcast(&os_bed);
}
#endif

ERN_FN void ern_wait(atomic_uint *word, unsigned expected)
{
    os_bed_enter();
    if (atomic_load(word) == expected) os_bed_sleep();
    os_bed_leave();
}

ERN_FN void ern_wait_for(atomic_uint *word, unsigned expected, double seconds)
{
    os_bed_enter();
    if (atomic_load(word) == expected) os_bed_sleep_for(os_wait_seconds(seconds));
    os_bed_leave();
}

ERN_FN void ern_wake_all(atomic_uint *word)
{
    (void)word;
    os_bed_enter();
    os_bed_leave();
    os_bed_wake();
}

#endif

/* Whoever has to sleep leaves 2 behind, so that the holder knows to wake. */
ERN_FN void ern_mutex_lock(ern_mutex *mutex)
{
    unsigned seen = 0;
    if (atomic_compare_exchange_strong_explicit(&mutex->state, &seen, 1, memory_order_acquire,
                                                memory_order_relaxed))
        return;
    while (atomic_exchange_explicit(&mutex->state, 2, memory_order_acquire) != 0)
        ern_wait(&mutex->state, 2);
}

ERN_FN void ern_mutex_unlock(ern_mutex *mutex)
{
    if (atomic_exchange_explicit(&mutex->state, 0, memory_order_release) == 2)
        ern_wake_all(&mutex->state);
}

#undef OS_CPUS_MAX
