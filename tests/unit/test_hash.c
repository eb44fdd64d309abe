/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SipHash-2-4 against the vectors of its authors (key 00 01 .. 0f, message 00 01 ..). */
/* links: service/base/hash.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "service/base/compiler.h"
#include "service/base/hash.h"

static const struct hash_key author_key = {0x0706050403020100ull, 0x0f0e0d0c0b0a0908ull};

/* The authors' vectors as numbers, by length of the message. */
static void vectors(void **state)
{
	static const uint64_t want[] = {
VECTORS
	};
	uint8_t m[64];

	(void)state;
	for (size_t i = 0; i < sizeof m; i++)
		m[i] = (uint8_t)i;
	for (size_t i = 0; i < ARRAY_SIZE(want); i++)
		assert_true(hash_bytes(&author_key, m, i) == want[i]);
}

static void alignment_does_not_matter(void **state)
{
	uint8_t m[64 + 8];
	uint64_t first = 0;

	(void)state;
	for (size_t off = 0; off < 8; off++) {
		uint64_t h;

		for (size_t i = 0; i < 36; i++)
			m[off + i] = (uint8_t)(i * 7);
		h = hash_bytes(&author_key, m + off, 36);
		if (!off)
			first = h;
		assert_true(h == first);
	}
}

static void every_bit_matters(void **state)
{
	uint8_t m[36] = {0};
	uint64_t h = hash_bytes(&author_key, m, sizeof m);

	(void)state;
	for (size_t bit = 0; bit < sizeof m * 8; bit++) {
		m[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_true(hash_bytes(&author_key, m, sizeof m) != h);
		m[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	assert_true(hash_bytes(&author_key, m, 35) != h);
}

static void random_keys_differ(void **state)
{
	struct hash_key a = {0, 0}, b = {0, 0};

	(void)state;
	assert_int_equal(hash_key_random(&a), 0);
	assert_int_equal(hash_key_random(&b), 0);
	assert_true(a.k0 != b.k0 || a.k1 != b.k1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vectors),
		cmocka_unit_test(alignment_does_not_matter),
		cmocka_unit_test(every_bit_matters),
		cmocka_unit_test(random_keys_differ),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
