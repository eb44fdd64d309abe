// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The bytes of the streams: eight at a time from a mixing function of the stream's key and the
 * place, so that a byte that is lost, doubled, or another stream's is seen where it is read.
 */
#include "tests/local/ops.h"

#include <string.h>

uint64_t mix64(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

void pattern_make(void *buf, size_t n, uint64_t key, uint64_t pos)
{
	uint8_t *p = buf;

	while (n) {
		uint64_t word = mix64(key + pos / 8);
		size_t skip = pos % 8, len = 8 - skip < n ? 8 - skip : n;

		memcpy(p, (uint8_t *)&word + skip, len);
		p += len;
		pos += len;
		n -= len;
	}
}

size_t pattern_check(const void *buf, size_t n, uint64_t key, uint64_t pos)
{
	const uint8_t *p = buf;
	size_t done = 0;

	while (done < n) {
		uint64_t word = mix64(key + (pos + done) / 8);
		size_t skip = (pos + done) % 8, len = 8 - skip < n - done ? 8 - skip : n - done;

		if (memcmp(p + done, (uint8_t *)&word + skip, len)) {
			while (p[done] == ((uint8_t *)&word)[skip]) {
				done++;
				skip++;
			}
			return done;
		}
		done += len;
	}
	return n;
}

uint32_t pattern_hash(uint32_t hash, const void *buf, size_t n)
{
	const uint8_t *p = buf;

	while (n--)
		hash = (hash ^ *p++) * 16777619u;
	return hash;
}
