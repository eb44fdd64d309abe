/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The Internet checksum. Sums run over 32-bit words into 64-bit accumulators, which can take
 * 2^32 of them without a carry being lost; the compiler vectorises the inner loops.
 */
#include "service/wire/csum.h"

#include <arpa/inet.h>
#include <string.h>

#include "service/base/addr.h"

static inline uint64_t load32(const uint8_t *p)
{
	uint32_t w;

	memcpy(&w, p, sizeof w);
	return w;
}

/* The last bytes, fewer than four, as they lie in memory and followed by zeros. */
static inline uint64_t tail_sum(const uint8_t *p, size_t len)
{
	uint32_t w = 0;

	for (size_t i = 0; i < len; i++)
		((uint8_t *)&w)[i] = p[i];
	return w;
}

uint64_t csum_add(uint64_t sum, const void *data, size_t len)
{
	const uint8_t *p = data;
	uint64_t a = 0, b = 0, c = 0, d = 0;

	for (; len >= 16; len -= 16, p += 16) {
		a += load32(p);
		b += load32(p + 4);
		c += load32(p + 8);
		d += load32(p + 12);
	}
	for (; len >= 4; len -= 4, p += 4)
		a += load32(p);
	sum += a + b + c + d + tail_sum(p, len);
	return (sum & 0xffffffff) + (sum >> 32);
}

/*
 * Each word is read once, into a register, and that register is both stored and summed: the
 * source may be memory that an application writes to meanwhile.
 */
uint64_t csum_copy(uint64_t sum, void *dst, const void *src, size_t len)
{
	const uint8_t *p = src;
	uint8_t *q = dst;
	uint64_t a = 0, b = 0;

	for (; len >= 64; len -= 64, p += 64, q += 64) {
		uint64_t w[8];

		memcpy(w, p, 64);
		/* the copy in registers or on our own stack is what counts from here on */
		__asm__ volatile("" : "+m"(w));
		memcpy(q, w, 64);
		for (int i = 0; i < 8; i++) {
			a += w[i] & 0xffffffff;
			b += w[i] >> 32;
		}
	}
	for (; len >= 4; len -= 4, p += 4, q += 4) {
		uint32_t w;

		memcpy(&w, p, 4);
		__asm__ volatile("" : "+r"(w));
		memcpy(q, &w, 4);
		a += w;
	}
	if (len) {
		uint8_t t[4] = {0};

		memcpy(t, p, len);
		__asm__ volatile("" : "+m"(t));
		memcpy(q, t, len);
		a += load32(t);
	}
	sum += a + b;
	return (sum & 0xffffffff) + (sum >> 32);
}

uint64_t csum_pseudo(const struct ip_addr *src, const struct ip_addr *dst, uint32_t tcp_len)
{
	uint64_t sum = htonl(tcp_len);

	sum += htonl(6);
	if (ip_addr_is_v4(src) && ip_addr_is_v4(dst))
		return sum + src->w[3] + dst->w[3];
	for (int i = 0; i < 4; i++)
		sum += (uint64_t)src->w[i] + dst->w[i];
	return sum;
}
