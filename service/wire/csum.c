/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The Internet checksum: every payload byte of the data path goes through csum_copy() once.
 * Sums run over 32-bit words into 64-bit accumulators, which can take 2^32 of them without
 * losing a carry. Pure; any thread.
 */
#include "service/wire/csum.h"

#include <arpa/inet.h>
#include <string.h>

#include "service/base/addr.h"

/* 16 bytes in a register; gcc and clang make SSE2 or NEON of it, or two words where there is neither */
typedef uint64_t vec __attribute__((vector_size(16)));

/*
 * The value is in a register from here on: the compiler may not read the source a second
 * time, which may be memory that an application writes to meanwhile.
 */
#if defined(__x86_64__)
#define PIN_VEC(v) __asm__("" : "+x"(v))
#elif defined(__aarch64__)
#define PIN_VEC(v) __asm__("" : "+w"(v))
#else
#define PIN_VEC(v) __asm__("" : "+m"(v))
#endif
#define PIN_WORD(w) __asm__("" : "+r"(w))

static inline vec vec_load(const uint8_t *p)
{
	vec v;

	memcpy(&v, p, sizeof v);
	return v;
}

/* Both 32-bit halves of both words. */
static inline vec vec_halves(vec v)
{
	return (v & 0xffffffffu) + (v >> 32);
}

static inline uint32_t load32(const uint8_t *p)
{
	uint32_t w;

	memcpy(&w, p, sizeof w);
	return w;
}

/* To 33 bits, so that the sums of many pieces can be added. */
static inline uint64_t carry_in(uint64_t sum)
{
	return (sum & 0xffffffff) + (sum >> 32);
}

uint64_t csum_add(uint64_t sum, const void *data, size_t len)
{
	const uint8_t *p = data;
	vec a = {0, 0}, b = {0, 0};
	uint64_t rest = 0;

	for (; len >= 32; len -= 32, p += 32) {
		a += vec_halves(vec_load(p));
		b += vec_halves(vec_load(p + 16));
	}
	for (; len >= 4; len -= 4, p += 4)
		rest += load32(p);
	if (len) { /* fewer than four bytes, as they lie in memory and followed by zeros */
		uint32_t w = 0;

		memcpy(&w, p, len);
		rest += w;
	}
	a += b;
	return carry_in(carry_in(sum) + a[0] + a[1] + rest);
}

uint64_t csum_copy(uint64_t sum, void *dst, const void *src, size_t len)
{
	const uint8_t *p = src;
	uint8_t *q = dst;
	vec a = {0, 0}, b = {0, 0};
	uint64_t rest = 0;

	for (; len >= 32; len -= 32, p += 32, q += 32) {
		vec v = vec_load(p), w = vec_load(p + 16);

		PIN_VEC(v);
		PIN_VEC(w);
		memcpy(q, &v, sizeof v);
		memcpy(q + 16, &w, sizeof w);
		a += vec_halves(v);
		b += vec_halves(w);
	}
	for (; len >= 4; len -= 4, p += 4, q += 4) {
		uint32_t w = load32(p);

		PIN_WORD(w);
		memcpy(q, &w, sizeof w);
		rest += w;
	}
	if (len) {
		uint32_t w = 0;

		memcpy(&w, p, len);
		PIN_WORD(w);
		memcpy(q, &w, len);
		rest += w;
	}
	a += b;
	return carry_in(carry_in(sum) + a[0] + a[1] + rest);
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
