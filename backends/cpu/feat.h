/* What the processor this runs on can do. One word of bits, asked from the processor each time:
 * a few microseconds, once for every model that is opened, and nothing to cache or to race on. */
#ifndef ERN_FEAT_H
#define ERN_FEAT_H

#include "../../src/ern.h"

enum {
    ERN_CPU_AVX2 = 1u << 0,    /* AVX2, FMA and F16C, and the system saves ymm registers */
    ERN_CPU_AVXVNNI = 1u << 1, /* AVX2 and vpdpbusd on ymm in the VEX encoding */
    ERN_CPU_AVX512 = 1u << 2,  /* F, BW, VL, DQ and VNNI, and the system saves zmm registers */
    ERN_CPU_DOTPROD = 1u << 3, /* sdot of Armv8.2 */
    ERN_CPU_I8MM = 1u << 4,    /* smmla of Armv8.6 */
    ERN_CPU_AMX = 1u << 5,     /* AMX-TILE and AMX-INT8; the system has still to be asked for them */
    ERN_CPU_AVX512VBMI = 1u << 6 /* AVX512, and its VBMI and VBMI2 */
};

ERN_FN unsigned ern_cpu_features(void);

/* Ask the system for AMX's tiles, which it saves only for those who ask; false when it refuses.
 *
 * On Linux the permission is the whole process', cannot be given back and passes to its children.
 * What others in the process may see of it: an alternate signal stack must hold the larger frame
 * (AT_MINSIGSTKSZ bytes, about 11 KiB), so sigaltstack refuses smaller ones from then on. The
 * system in its turn refuses where a thread has such a stack already. That is little enough for a
 * library to ask for, but not for nothing: ask only when AMX is what will be used. */
ERN_FN bool ern_cpu_amx_permit(void);

#endif
