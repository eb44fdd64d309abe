/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The checksum against RFC 1071's own words, for every alignment and length that matters. */
/* links: service/wire/csum.c service/base/addr.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <string.h>

#include "service/base/addr.h"
#include "service/wire/csum.h"

enum { ALIGN = 16, MAX = 1600 };

static uint8_t src[ALIGN + MAX], dst[ALIGN + MAX + 64];

/* 16-bit words in network order, carries folded at once. */
static uint16_t reference(uint32_t sum, const uint8_t *p, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		sum += i % 2 ? p[i] : (uint32_t)p[i] << 8;
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return (uint16_t)sum;
}

/* 0 and 0xffff are the same number in one's complement; only all-zero data gives 0. */
static void same(uint16_t folded, uint16_t want)
{
	assert_int_equal(ntohs(folded) % 0xffff, want % 0xffff);
}

static void fill(int how)
{
	for (size_t i = 0; i < sizeof src; i++)
		src[i] = how == 0 ? (uint8_t)rand() : how == 1 ? 0xff : 0;
}

static void rfc1071_example(void **state)
{
	static const uint8_t data[] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};

	(void)state;
	assert_int_equal(csum_fold(csum_add(0, data, sizeof data)), htons(0xddf2));
	assert_int_equal(csum_fold(csum_add(0, data, 0)), 0);
}

static void every_alignment_and_length(void **state)
{
	(void)state;
	for (int how = 0; how < 3; how++) {
		fill(how);
		for (size_t off = 0; off < ALIGN; off++)
			for (size_t len = 0; len <= 300; len++)
				same(csum_fold(csum_add(0, src + off, len)), reference(0, src + off, len));
		for (size_t len = 301; len <= MAX; len++)
			same(csum_fold(csum_add(0, src + len % ALIGN, len)), reference(0, src + len % ALIGN, len));
	}
}

/* Copies exactly, sums the same, writes not a byte beyond. */
static void copy_one(size_t from, size_t to, size_t len)
{
	memset(dst, 0x5a, sizeof dst);
	same(csum_fold(csum_copy(0, dst + 16 + to, src + from, len)), reference(0, src + from, len));
	assert_memory_equal(dst + 16 + to, src + from, len);
	for (size_t i = 0; i < 16; i++) {
		assert_int_equal(dst[to + i], 0x5a);
		assert_int_equal(dst[16 + to + len + i], 0x5a);
	}
}

static void copy_every_alignment(void **state)
{
	(void)state;
	for (int how = 0; how < 3; how++) {
		fill(how);
		for (size_t from = 0; from < ALIGN; from++)
			for (size_t to = 0; to < ALIGN; to++)
				for (size_t len = 0; len <= 80; len++)
					copy_one(from, to, len);
		for (size_t len = 81; len <= MAX; len++)
			copy_one(len % ALIGN, len / 3 % ALIGN, len);
	}
}

/* The sum of pieces is the sum of the whole, if all but the last are even. */
static void pieces_add_up(void **state)
{
	(void)state;
	fill(0);
	for (int i = 0; i < 20000; i++) {
		size_t len = (size_t)rand() % MAX, cut = len ? (size_t)rand() % len & ~1ul : 0;
		uint64_t whole = csum_add(0, src, len), sum;

		sum = csum_add(csum_add(0, src, cut), src + cut, len - cut);
		assert_int_equal(csum_fold(sum), csum_fold(whole));
		sum = csum_add(0, src, cut) + csum_add(0, src + cut, len - cut);
		assert_int_equal(csum_fold(sum), csum_fold(whole));
		sum = csum_copy(csum_copy(0, dst, src, cut), dst + cut, src + cut, len - cut);
		assert_int_equal(csum_fold(sum), csum_fold(whole));
	}
}

/* No carry is lost, however large the sum that was handed in. */
static void carries(void **state)
{
	static const uint64_t start[] = {0, 1, 0xffff, 0xffffffff, 0x100000000, 0xfffffffffffffffe, UINT64_MAX};

	(void)state;
	fill(1);
	for (size_t i = 0; i < sizeof start / sizeof start[0]; i++)
		for (size_t len = 0; len <= MAX; len += 1 + len / 7) {
			uint16_t want = (uint16_t)((start[i] % 0xffff + csum_fold(csum_add(0, src, len))) % 0xffff);

			assert_int_equal(csum_fold(csum_add(start[i], src, len)) % 0xffff, want);
			assert_int_equal(csum_fold(csum_copy(start[i], dst, src, len)) % 0xffff, want);
		}
	for (int i = 0; i < 100000; i++) {
		uint64_t s = (uint64_t)rand() << 40 ^ (uint64_t)rand() << 20 ^ (uint64_t)rand();

		assert_int_equal(csum_fold(s) % 0xffff, s % 0xffff);
	}
}

static void pseudo_headers(void **state)
{
	struct ip_addr a4, b4, a6, b6;
	uint8_t v4[12] = {10, 0, 0, 1, 192, 168, 7, 255, 0, 6, 0x12, 0x34};
	uint8_t v6[40] = {0};

	(void)state;
	assert_int_equal(ip_addr_parse("10.0.0.1", &a4), 0);
	assert_int_equal(ip_addr_parse("192.168.7.255", &b4), 0);
	same(csum_fold(csum_pseudo(&a4, &b4, 0x1234)), reference(0, v4, sizeof v4));
	same(csum_fold(csum_pseudo(&b4, &a4, 0x1234)), reference(0, v4, sizeof v4));

	assert_int_equal(ip_addr_parse("2001:db8:ffff:fffe:1:2:3:4", &a6), 0);
	assert_int_equal(ip_addr_parse("fe80::ffff:1", &b6), 0);
	memcpy(v6, a6.b, 16);
	memcpy(v6 + 16, b6.b, 16);
	v6[34] = 0xab;
	v6[35] = 0xcd;
	v6[39] = 6;
	same(csum_fold(csum_pseudo(&a6, &b6, 0xabcd)), reference(0, v6, sizeof v6));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rfc1071_example),
		cmocka_unit_test(every_alignment_and_length),
		cmocka_unit_test(copy_every_alignment),
		cmocka_unit_test(pieces_add_up),
		cmocka_unit_test(carries),
		cmocka_unit_test(pseudo_headers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
