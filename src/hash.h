/* XXH3 checksums of model files, session files and caches. Only hash.c sees xxHash itself. */
#ifndef ERN_HASH_H
#define ERN_HASH_H

#include "ern.h"

ERN_FN uint64_t ern_hash64(const void *data, size_t n);
/* The canonical (big-endian) form, as it lies in files. */
ERN_FN void ern_hash128(const void *data, size_t n, uint8_t out[16]);

/* As ern_hash64, in pieces of a few MiB; false when *cancel (may be NULL) was set on the way. */
ERN_FN bool ern_hash64_unless(const void *data, uint64_t n, const ernie_cancel *cancel,
                              uint64_t *out);

/* The same hashes of bytes that come one after the other. */
typedef struct ern_hash {
    alignas(64) uint64_t state[80];
} ern_hash;

ERN_FN void ern_hash_begin(ern_hash *hash);
ERN_FN void ern_hash_add(ern_hash *hash, const void *data, size_t n);
ERN_FN uint64_t ern_hash_end64(const ern_hash *hash);
ERN_FN void ern_hash_end128(const ern_hash *hash, uint8_t out[16]);

#endif
