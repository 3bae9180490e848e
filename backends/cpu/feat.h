/* What the processor this runs on can do. One word of bits, asked from the processor each time:
 * a few microseconds, once for every model that is opened, and nothing to cache or to race on. */
#ifndef ERN_FEAT_H
#define ERN_FEAT_H

#include "../../src/ern.h"

enum {
    ERN_CPU_AVX2 = 1u << 0,    /* AVX2, FMA and F16C, and the system saves ymm registers */
    ERN_CPU_AVXVNNI = 1u << 1, /* AVX2 and vpdpbusd on ymm in the VEX encoding */
    ERN_CPU_AVX512 = 1u << 2,  /* F, BW, VL, DQ and VNNI, and the system saves zmm registers */
    ERN_CPU_DOTPROD = 1u << 3  /* sdot of Armv8.2 */
};

ERN_FN unsigned ern_cpu_features(void);

#endif
