/* Feature bits of the processor (feat.h).
 *
 * On x86 a set counts only when the operating system also saves its registers, which XGETBV tells.
 * On Arm the system tells: Linux in its HWCAP words, macOS by name (every Apple processor with a
 * 64-bit Arm core that runs a supported system has dotprod), Windows by number. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include "feat.h"

#if defined(__x86_64__) || defined(_M_X64)

#ifdef _MSC_VER
#include <intrin.h>

static void feat_cpuid(unsigned leaf, unsigned subleaf, unsigned reg[4])
{
    int out[4];
    __cpuidex(out, (int)leaf, (int)subleaf);
    for (int i = 0; i < 4; i++) reg[i] = (unsigned)out[i];
}

static uint64_t feat_xgetbv(void) { return _xgetbv(0); }
#else
#include <cpuid.h>

static void feat_cpuid(unsigned leaf, unsigned subleaf, unsigned reg[4])
{
    __cpuid_count(leaf, subleaf, reg[0], reg[1], reg[2], reg[3]);
}

/* The instruction by its bytes' mnemonic: the intrinsic would need a target attribute. */
static uint64_t feat_xgetbv(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}
#endif

static bool feat_has(unsigned reg, unsigned bits) { return (reg & bits) == bits; }

/* Register numbers: 0 eax, 1 ebx, 2 ecx, 3 edx. Bits: Intel's manual volume 2, CPUID. */
ERN_FN unsigned ern_cpu_features(void)
{
    const unsigned fma_osxsave_avx_f16c = 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29;
    const unsigned avx2 = 1u << 5, avxvnni = 1u << 4, avx512vnni = 1u << 11;
    const unsigned avx512_vbmi_vbmi2 = 1u << 1 | 1u << 6;
    const unsigned avx512_f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    const unsigned ymm_state = 0x06, zmm_state = 0xe6, tile_state = 3u << 17;
    const unsigned amx_tile_int8 = 1u << 24 | 1u << 25;
    unsigned leaf0[4], leaf1[4], leaf7[4], leaf7_1[4] = { 0 };

    feat_cpuid(0, 0, leaf0);
    if (leaf0[0] < 7) return 0;
    feat_cpuid(1, 0, leaf1);
    if (!feat_has(leaf1[2], fma_osxsave_avx_f16c)) return 0;
    const unsigned saved = (unsigned)feat_xgetbv();
    feat_cpuid(7, 0, leaf7);
    if (leaf7[0] >= 1) feat_cpuid(7, 1, leaf7_1);

    unsigned features = 0;
    if (!feat_has(saved, ymm_state) || !feat_has(leaf7[1], avx2)) return 0;
    features |= ERN_CPU_AVX2;
    if (feat_has(leaf7_1[0], avxvnni)) features |= ERN_CPU_AVXVNNI;
    if (feat_has(saved, zmm_state) && feat_has(leaf7[1], avx512_f_dq_bw_vl)
        && feat_has(leaf7[2], avx512vnni))
        features |= ERN_CPU_AVX512;
    if ((features & ERN_CPU_AVX512) && feat_has(leaf7[2], avx512_vbmi_vbmi2))
        features |= ERN_CPU_AVX512VBMI;
    if (feat_has(saved, tile_state) && feat_has(leaf7[3], amx_tile_int8)) features |= ERN_CPU_AMX;
    return features;
}

#elif defined(__aarch64__) && defined(__APPLE__)

#include <sys/sysctl.h>

ERN_FN unsigned ern_cpu_features(void)
{
    int i8mm = 0;
    size_t size = sizeof i8mm;
    if (sysctlbyname("hw.optional.arm.FEAT_I8MM", &i8mm, &size, NULL, 0) != 0) i8mm = 0;
    return ERN_CPU_DOTPROD | (i8mm ? ERN_CPU_I8MM : 0u);
}

#elif defined(__aarch64__) && defined(__linux__)

#include <sys/auxv.h>

#define FEAT_HWCAP_ASIMDDP (1ul << 20)
#define FEAT_HWCAP2_I8MM (1ul << 13)

ERN_FN unsigned ern_cpu_features(void)
{
    return (getauxval(AT_HWCAP) & FEAT_HWCAP_ASIMDDP ? ERN_CPU_DOTPROD : 0u)
           | (getauxval(AT_HWCAP2) & FEAT_HWCAP2_I8MM ? ERN_CPU_I8MM : 0u);
}

#undef FEAT_HWCAP_ASIMDDP
#undef FEAT_HWCAP2_I8MM

#elif defined(__aarch64__) && defined(_WIN32)

#include <windows.h>

/* PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE and PF_ARM_V82_I8MM_INSTRUCTIONS_AVAILABLE; older headers
 * lack the names, and older systems answer no to numbers that they do not know. */
enum { FEAT_WINDOWS_DOTPROD = 43, FEAT_WINDOWS_I8MM = 66 };

ERN_FN unsigned ern_cpu_features(void)
{
    return (IsProcessorFeaturePresent(FEAT_WINDOWS_DOTPROD) ? ERN_CPU_DOTPROD : 0u)
           | (IsProcessorFeaturePresent(FEAT_WINDOWS_I8MM) ? ERN_CPU_I8MM : 0u);
}

#else

ERN_FN unsigned ern_cpu_features(void) { return 0; }

#endif

#if defined(__x86_64__) && defined(__linux__)

#include <sys/syscall.h>
#include <unistd.h>

/* From asm/prctl.h, and the number of a tile's contents among the states that XSAVE saves. */
enum { FEAT_ARCH_REQ_XCOMP_PERM = 0x1023, FEAT_XTILEDATA = 18 };

ERN_FN bool ern_cpu_amx_permit(void)
{
    return syscall(SYS_arch_prctl, FEAT_ARCH_REQ_XCOMP_PERM, FEAT_XTILEDATA) == 0;
}

#else

ERN_FN bool ern_cpu_amx_permit(void) { return false; }

#endif
