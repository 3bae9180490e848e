/* XXH3 behind our own names, so that no other room includes xxhash.h. */
#include "hash.h"

#ifndef XXH_INLINE_ALL
#define XXH_INLINE_ALL
#endif
#include <xxhash.h>

#define HASH_PIECE_BYTES ((size_t)4 << 20) /* under 10 ms even where memory is slow */

_Static_assert(sizeof(XXH3_state_t) <= sizeof(ern_hash), "room for the state");

ERN_FN uint64_t ern_hash64(const void *data, size_t n)
{
    return XXH3_64bits(data, n);
}

static void hash_canonical(XXH128_hash_t value, uint8_t out[16])
{
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, value);
    memcpy(out, canonical.digest, 16);
}

ERN_FN void ern_hash128(const void *data, size_t n, uint8_t out[16])
{
    hash_canonical(XXH3_128bits(data, n), out);
}

ERN_FN void ern_hash_begin(ern_hash *hash)
{
    memset(hash, 0, sizeof *hash);
    XXH3_64bits_reset((XXH3_state_t *)(void *)hash->state);
}

ERN_FN void ern_hash_add(ern_hash *hash, const void *data, size_t n)
{
    XXH3_64bits_update((XXH3_state_t *)(void *)hash->state, data, n);
}

ERN_FN uint64_t ern_hash_end64(const ern_hash *hash)
{
    return XXH3_64bits_digest((const XXH3_state_t *)(const void *)hash->state);
}

/* Both widths share one state: xxHash resets and updates it the same way. */
ERN_FN void ern_hash_end128(const ern_hash *hash, uint8_t out[16])
{
    hash_canonical(XXH3_128bits_digest((const XXH3_state_t *)(const void *)hash->state), out);
}

ERN_FN bool ern_hash64_unless(const void *data, uint64_t n, const ernie_cancel *cancel,
                              uint64_t *out)
{
    const unsigned char *bytes = data;
    ern_hash hash;
    ern_hash_begin(&hash);
    for (uint64_t done = 0; done < n;) {
        if (ern_cancelled(cancel)) return false;
        const size_t piece = n - done < HASH_PIECE_BYTES ? (size_t)(n - done) : HASH_PIECE_BYTES;
        ern_hash_add(&hash, bytes + done, piece);
        done += piece;
    }
    *out = ern_hash_end64(&hash);
    return true;
}

#undef HASH_PIECE_BYTES
