// SPDX-License-Identifier: GPL-2.0-or-later
/* Streams whose every byte is known, and their hashes: for the cases and for their peer. */
#include "tests/posix/posix.h"

#define PERIOD 16381 /* prime: a ring of a power of two that wraps wrongly shows */

void pattern_fill(void *buf, size_t n, uint64_t seed, uint64_t at)
{
	uint8_t *p = buf;

	for (size_t i = 0; i < n; i++) {
		uint32_t x = (uint32_t)((at + i) % PERIOD) * 2654435761u + (uint32_t)seed * 40503u;

		p[i] = (uint8_t)(x >> 24);
	}
}

uint64_t pattern_hash(uint64_t hash, const void *buf, size_t n)
{
	const uint8_t *p = buf;

	for (size_t i = 0; i < n; i++)
		hash = (hash ^ p[i]) * 0x100000001b3ull;
	return hash;
}

uint64_t pattern_stream_hash(uint64_t seed, uint64_t n)
{
	uint64_t hash = HASH_START;
	uint8_t buf[4096];

	for (uint64_t at = 0; at < n;) {
		size_t k = n - at < sizeof(buf) ? (size_t)(n - at) : sizeof(buf);

		pattern_fill(buf, k, seed, at);
		hash = pattern_hash(hash, buf, k);
		at += k;
	}
	return hash;
}
