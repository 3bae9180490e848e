/* ernie.c - the whole library in one translation unit: cc app.c ernie.c -lm
 *
 * Settings first, then the rooms in reading order: each may use what stands above it, never what
 * stands below. There is no logic here. docs/ARCHITECTURE.md is the map of the rooms.
 *
 * The parts are found beside this file, so it may be compiled from any directory. The one header
 * that is neither ours nor the C library's is xxhash.h (package libxxhash-dev). Compile with -O2 or
 * -O3; no other flag is needed. */

/* ---- Settings ------------------------------------------------------------------------------ */

#define ERNIE_UNITY 1

/* Before the first system header: POSIX and Linux names, files beyond 2 GiB on 32-bit systems. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#ifndef _FILE_OFFSET_BITS
#define _FILE_OFFSET_BITS 64
#endif
#ifdef _WIN32
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN 1
#endif
#ifndef _CRT_SECURE_NO_WARNINGS
#define _CRT_SECURE_NO_WARNINGS 1
#endif
#endif

/* ---- Base: errors, memory, the system, threads ---------------------------------------------- */

#include "src/ern.h"

#include "src/error.c"
#include "src/mem.c"
#include "src/os_group.c"
#include "src/os_memory.c"
#include "src/os.c"
#include "src/os_file.c"
#include "src/os_disk.c"
#include "src/pool.c"

/* ---- Checksums; the file becomes checked tables; text becomes ids --------------------------------------- */

#include "src/hash.c"
#include "src/format.c"
#include "src/format_read.c"
#include "src/weights.c"
#include "src/kv.c"
#include "src/huge.c"
#include "src/policy.c"
#include "src/experts.c"
#include "src/experts_memory.c"
#include "src/experts_read.c"
#include "src/experts_warm.c"
#include "src/plan.c"
#include "src/unicode.c"
#include "src/token.c"
#include "src/token_normal.c"
#include "src/token_merge.c"
#include "src/token_build.c"
#include "src/token_decode.c"
#include "src/chat.c"
#include "src/chat_template.c"
#include "src/search.c"

/* ---- The processor --------------------------------------------------------------------------- */

#include "backends/cpu/feat.c"
#include "backends/cpu/kernels.c"
#include "backends/cpu/cpu_state.c"
#include "backends/cpu/cpu_attention.c"
#include "backends/cpu/cpu_ffn.c"
#include "backends/cpu/cpu_stream.c"
#include "backends/cpu/cpu_moe.c"
#include "backends/cpu/cpu.c"

/* ---- Models, sessions, generation ------------------------------------------------------------ */

#include "src/model.c"
#include "src/session.c"
#include "src/session_file.c"
#include "src/sample.c"
#include "src/generate.c"

/* ---- Every function of ernie.h --------------------------------------------------------------- */

#include "src/api.c"
