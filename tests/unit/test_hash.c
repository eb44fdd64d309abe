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
		0x726fdb47dd0e0e31ull, 0x74f839c593dc67fdull, 0x0d6c8009d9a94f5aull, 0x85676696d7fb7e2dull,
		0xcf2794e0277187b7ull, 0x18765564cd99a68dull, 0xcbc9466e58fee3ceull, 0xab0200f58b01d137ull,
		0x93f5f5799a932462ull, 0x9e0082df0ba9e4b0ull, 0x7a5dbbc594ddb9f3ull, 0xf4b32f46226bada7ull,
		0x751e8fbc860ee5fbull, 0x14ea5627c0843d90ull, 0xf723ca908e7af2eeull, 0xa129ca6149be45e5ull,
		0x3f2acc7f57c29bdbull, 0x699ae9f52cbe4794ull, 0x4bc1b3f0968dd39cull, 0xbb6dc91da77961bdull,
		0xbed65cf21aa2ee98ull, 0xd0f2cbb02e3b67c7ull, 0x93536795e3a33e88ull, 0xa80c038ccd5ccec8ull,
		0xb8ad50c6f649af94ull, 0xbce192de8a85b8eaull, 0x17d835b85bbb15f3ull, 0x2f2e6163076bcfadull,
		0xde4daaaca71dc9a5ull, 0xa6a2506687956571ull, 0xad87a3535c49ef28ull, 0x32d892fad841c342ull,
		0x7127512f72f27cceull, 0xa7f32346f95978e3ull, 0x12e0b01abb051238ull, 0x15e034d40fa197aeull,
		0x314dffbe0815a3b4ull, 0x027990f029623981ull, 0xcadcd4e59ef40c4dull, 0x9abfd8766a33735cull,
		0x0e3ea96b5304a7d0ull, 0xad0c42d6fc585992ull, 0x187306c89bc215a9ull, 0xd4a60abcf3792b95ull,
		0xf935451de4f21df2ull, 0xa9538f0419755787ull, 0xdb9acddff56ca510ull, 0xd06c98cd5c0975ebull,
		0xe612a3cb9ecba951ull, 0xc766e62cfcadaf96ull, 0xee64435a9752fe72ull, 0xa192d576b245165aull,
		0x0a8787bf8ecb74b2ull, 0x81b3e73d20b49b6full, 0x7fa8220ba3b2eceaull, 0x245731c13ca42499ull,
		0xb78dbfaf3a8d83bdull, 0xea1ad565322a1a0bull, 0x60e61c23a3795013ull, 0x6606d7e446282b93ull,
		0x6ca4ecb15c5f91e1ull, 0x9f626da15c9625f3ull, 0xe51b38608ef25f57ull, 0x958a324ceb064572ull,
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
