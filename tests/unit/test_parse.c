/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The gate for frames: lengths that lie, IP that is not for the fast path, every cut of every
 * frame, ICMP errors. Frames are made by hand here, so that the gate is not tested against
 * the service's own builder. Each frame lies in memory of just its size, so that a sanitizer
 * sees a read beyond.
 */
/* links: service/wire/parse.c service/wire/options.c service/wire/csum.c service/base/addr.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <string.h>

#include "service/base/addr.h"
#include "service/base/compiler.h"
#include "service/wire/csum.h"
#include "service/wire/parse.h"

enum { IP = 14, TCP4 = 34, TCP6 = 54 };

struct frame {
	uint8_t b[512];
	uint32_t len;
};

static void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v);
}

static void ip4_csum(uint8_t *ip)
{
	uint16_t sum;

	put16(ip + 10, 0);
	sum = (uint16_t)~csum_fold(csum_add(0, ip, (ip[0] & 15u) * 4));
	memcpy(ip + 10, &sum, 2);
}

/* 10.0.0.2:4000 > 10.0.0.1:80, seq 0x01020304, "hello" */
static const uint8_t tcp_bytes[25] = {0x0f, 0xa0, 0x00, 0x50, 1, 2, 3,   4,   5,   6,   7,  8, 0x50, TCP_ACK | TCP_PSH,
				      0x12, 0x34, 0,    0,    0, 9, 'h', 'e', 'l', 'l', 'o'};

static void eth(struct frame *f, uint32_t type)
{
	static const uint8_t mac[12] = {2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2};

	memset(f, 0, sizeof *f);
	memcpy(f->b, mac, sizeof mac);
	put16(f->b + 12, type);
}

static void ip4(struct frame *f, uint8_t proto, const void *payload, uint32_t len)
{
	static const uint8_t addrs[8] = {10, 0, 0, 2, 10, 0, 0, 1};
	uint8_t *ip = f->b + IP;

	eth(f, 0x0800);
	ip[0] = 0x45;
	ip[1] = 0xb9; /* DSCP 46, ECT(1) */
	put16(ip + 2, 20 + len);
	put16(ip + 6, 0x4000);
	ip[8] = 61;
	ip[9] = proto;
	memcpy(ip + 12, addrs, sizeof addrs);
	ip4_csum(ip);
	memcpy(f->b + TCP4, payload, len);
	f->len = TCP4 + len;
}

static void ip6(struct frame *f, uint8_t proto, const void *payload, uint32_t len)
{
	uint8_t *ip = f->b + IP;

	eth(f, 0x86dd);
	put32(ip, 6u << 28 | 0xb9u << 20 | 0xabcde);
	put16(ip + 4, len);
	ip[6] = proto;
	ip[7] = 62;
	inet_pton(AF_INET6, "2001:db8::2", ip + 8);
	inet_pton(AF_INET6, "2001:db8::1", ip + 24);
	memcpy(f->b + TCP6, payload, len);
	f->len = TCP6 + len;
}

static void ip(struct frame *f, bool v6, uint8_t proto, const void *payload, uint32_t len)
{
	if (v6)
		ip6(f, proto, payload, len);
	else
		ip4(f, proto, payload, len);
}

static enum wire_kind parse(const struct frame *f, bool from_us, struct segment *s)
{
	static uint8_t *exact;
	enum wire_kind kind;

	free(exact);
	exact = malloc(f->len ? f->len : 1);
	assert_non_null(exact);
	memcpy(exact, f->b, f->len);
	kind = wire_parse(exact, f->len, from_us, s);
	if (kind == WIRE_TCP) {
		assert_true(s->tcp >= exact && s->payload >= s->tcp + 20);
		assert_true(s->payload + s->len <= exact + f->len && s->tcp + s->tcp_len == s->payload + s->len);
		assert_true(s->payload == exact + s->hdr_len && s->eth == exact);
	}
	return kind;
}

static enum wire_kind kind_of(const struct frame *f)
{
	struct segment s;

	return parse(f, false, &s);
}

static struct ip_addr addr(const char *text)
{
	struct ip_addr a;

	assert_int_equal(ip_addr_parse(text, &a), 0);
	return a;
}

/* ---- what is accepted ---- */

static void check_fields(const struct segment *s)
{
	assert_int_equal(s->seq, 0x01020304);
	assert_int_equal(s->ack, 0x05060708);
	assert_int_equal(s->flags, TCP_ACK | TCP_PSH);
	assert_int_equal(s->window, 0x1234);
	assert_int_equal(s->urgent, 9);
	assert_int_equal(s->len, 5);
	assert_int_equal(s->tcp_len, 25);
	assert_int_equal(s->tos, 0xb9);
	assert_int_equal(s->ecn, 1);
	assert_memory_equal(s->payload, "hello", 5);
}

static void ipv4_segment(void **state)
{
	struct flow_key want = {addr("10.0.0.1"), addr("10.0.0.2"), htons(80), htons(4000)};
	struct segment s;
	struct frame f;

	(void)state;
	ip4(&f, 6, tcp_bytes, sizeof tcp_bytes);
	assert_int_equal(parse(&f, false, &s), WIRE_TCP);
	check_fields(&s);
	assert_true(flow_key_equal(&s.key, &want));
	assert_int_equal(s.ttl, 61);
	assert_int_equal(s.hdr_len, 54);
	/* the same frame, had we sent it */
	want = (struct flow_key){addr("10.0.0.2"), addr("10.0.0.1"), htons(4000), htons(80)};
	assert_int_equal(parse(&f, true, &s), WIRE_TCP);
	assert_true(flow_key_equal(&s.key, &want));
}

static void ipv6_segment(void **state)
{
	struct flow_key want = {addr("2001:db8::1"), addr("2001:db8::2"), htons(80), htons(4000)};
	struct segment s;
	struct frame f;

	(void)state;
	ip6(&f, 6, tcp_bytes, sizeof tcp_bytes);
	assert_int_equal(parse(&f, false, &s), WIRE_TCP);
	check_fields(&s);
	assert_true(flow_key_equal(&s.key, &want));
	assert_int_equal(s.ttl, 62);
	assert_int_equal(s.flow_label, 0xabcde);
	assert_int_equal(s.hdr_len, 74);
}

static void padding_is_not_payload(void **state)
{
	struct segment s;
	struct frame f;

	(void)state;
	ip4(&f, 6, tcp_bytes, 20);
	f.len = 60;
	assert_int_equal(parse(&f, false, &s), WIRE_TCP);
	assert_int_equal(s.len, 0);
	ip6(&f, 6, tcp_bytes, 22);
	f.len += 100;
	assert_int_equal(parse(&f, false, &s), WIRE_TCP);
	assert_int_equal(s.len, 2);
}

static void tcp_checksum(void **state)
{
	for (int v6 = 0; v6 < 2; v6++)
		for (uint32_t len = 20; len <= sizeof tcp_bytes; len++) {
			struct segment s;
			struct frame f;
			uint16_t sum;

			(void)state;
			ip(&f, v6, 6, tcp_bytes, len);
			assert_int_equal(parse(&f, false, &s), WIRE_TCP);
			assert_false(segment_csum_ok(&s, false));
			sum = (uint16_t)~csum_fold(csum_add(segment_csum_head(&s, false), s.payload, s.len));
			memcpy(f.b + (v6 ? TCP6 : TCP4) + 16, &sum, 2);
			assert_int_equal(parse(&f, false, &s), WIRE_TCP);
			assert_true(segment_csum_ok(&s, false));
			assert_int_equal(csum_fold(csum_add(segment_csum_head(&s, false), s.payload, s.len)), 0xffff);
			assert_int_equal(parse(&f, true, &s), WIRE_TCP);
			assert_true(segment_csum_ok(&s, true));
			f.b[f.len - 1] ^= 0x40;
			assert_int_equal(parse(&f, false, &s), WIRE_TCP);
			assert_false(segment_csum_ok(&s, false));
		}
}

/* ---- lengths ---- */

static void every_data_offset(void **state)
{
	(void)state;
	for (int v6 = 0; v6 < 2; v6++)
		for (uint32_t len = 0; len <= 80; len++)
			for (uint32_t doff = 0; doff < 16; doff++) {
				uint8_t tcp[80] = {0};
				struct segment s;
				struct frame f;
				bool good = len >= 20 && doff >= 5 && doff * 4 <= len;

				tcp[12] = (uint8_t)(doff << 4 | 0xf);
				ip(&f, v6, 6, tcp, len);
				assert_int_equal(parse(&f, false, &s), good ? WIRE_TCP : WIRE_BAD);
				if (good)
					assert_int_equal(s.len, len - doff * 4);
				f.len += 40; /* what lies beyond the packet does not help */
				assert_int_equal(parse(&f, false, &s), good ? WIRE_TCP : WIRE_BAD);
			}
}

static void every_ip_length(void **state)
{
	struct segment s;
	struct frame f;

	(void)state;
	for (uint32_t total = 0; total <= 0xffff; total++) {
		bool good = total >= 40 && total <= 45;

		ip4(&f, 6, tcp_bytes, sizeof tcp_bytes);
		put16(f.b + IP + 2, total);
		ip4_csum(f.b + IP);
		assert_int_equal(parse(&f, false, &s), good ? WIRE_TCP : WIRE_BAD);
		if (good)
			assert_int_equal(s.len, total - 40);
		ip6(&f, 6, tcp_bytes, sizeof tcp_bytes);
		put16(f.b + IP + 4, total);
		good = total >= 20 && total <= 25;
		assert_int_equal(parse(&f, false, &s), good ? WIRE_TCP : WIRE_BAD);
	}
}

static void every_cut(void **state)
{
	struct frame f;

	(void)state;
	ip4(&f, 6, tcp_bytes, sizeof tcp_bytes);
	while (f.len--)
		assert_int_not_equal(kind_of(&f), WIRE_TCP);
	ip6(&f, 6, tcp_bytes, sizeof tcp_bytes);
	while (f.len--)
		assert_int_not_equal(kind_of(&f), WIRE_TCP);
}

static void largest_frame(void **state)
{
	uint32_t len = 14 + 65535;
	uint8_t *b = calloc(1, len);
	struct segment s;
	struct frame f;

	(void)state;
	assert_non_null(b);
	ip4(&f, 6, tcp_bytes, sizeof tcp_bytes);
	put16(f.b + IP + 2, 65535);
	ip4_csum(f.b + IP);
	memcpy(b, f.b, f.len);
	assert_int_equal(wire_parse(b, len, false, &s), WIRE_TCP);
	assert_int_equal(s.len, 65535 - 40);
	ip6(&f, 6, tcp_bytes, sizeof tcp_bytes);
	put16(f.b + IP + 4, 65535);
	memcpy(b, f.b, f.len);
	assert_int_equal(wire_parse(b, len, false, &s), WIRE_BAD); /* 40 bytes short */
	free(b);
}

/* ---- flags are told as they are ---- */

static void every_flag(void **state)
{
	struct segment s;
	struct frame f;

	(void)state;
	for (uint32_t flags = 0; flags < 256; flags++) {
		ip4(&f, 6, tcp_bytes, sizeof tcp_bytes);
		f.b[TCP4 + 13] = (uint8_t)flags;
		assert_int_equal(parse(&f, false, &s), WIRE_TCP);
		assert_int_equal(s.flags, flags);
	}
}

/* ---- IP that is Linux's ---- */

static void ipv4_not_for_the_fast_path(void **state)
{
	static const struct {
		uint8_t at, mask, value;
		enum wire_kind want;
	} table[] = {
		{IP, 0xf0, 0x50, WIRE_OTHER},                                       /* version 5 */
		{IP, 0xf0, 0x60, WIRE_OTHER},                                       /* version 6 in an IPv4 frame */
		{IP, 0x0f, 4, WIRE_OTHER},                                          /* header too short */
		{IP, 0x0f, 0, WIRE_OTHER},        {IP, 0x0f, 6, WIRE_OTHER},        /* options */
		{IP, 0x0f, 15, WIRE_OTHER},       {IP + 6, 0x20, 0x20, WIRE_OTHER}, /* more fragments */
		{IP + 6, 0x1f, 0x01, WIRE_OTHER},                                   /* an offset */
		{IP + 7, 0xff, 0x01, WIRE_OTHER},                                   /* the smallest offset */
		{IP + 6, 0x40, 0x00, WIRE_TCP},                                     /* DF or not */
		{IP + 9, 0xff, 17, WIRE_OTHER},                                     /* UDP */
		{IP + 9, 0xff, 4, WIRE_OTHER},                                      /* IP in IP */
		{IP + 9, 0xff, 47, WIRE_OTHER},   {IP + 8, 0xff, 0, WIRE_TCP},
		{12, 0xff, 0x81, WIRE_OTHER}, /* VLAN tag: 0x8100 */
		{0, 0x01, 0x01, WIRE_OTHER},  /* a group address */
	};
	struct frame f;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		ip4(&f, 6, tcp_bytes, sizeof tcp_bytes);
		f.b[table[i].at] = (uint8_t)((f.b[table[i].at] & ~table[i].mask) | table[i].value);
		if (f.b[IP] == 0x45)
			ip4_csum(f.b + IP);
		assert_int_equal(kind_of(&f), table[i].want);
	}
}

static void ipv4_header_checksum(void **state)
{
	struct frame f;

	(void)state;
	for (uint32_t bit = 0; bit < 160; bit++) {
		ip4(&f, 6, tcp_bytes, sizeof tcp_bytes);
		f.b[IP + bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_not_equal(kind_of(&f), WIRE_TCP);
	}
}

static void ipv6_not_for_the_fast_path(void **state)
{
	static const uint8_t headers[] = {0, 43, 44, 50, 51, 59, 60, 135, 139, 140, 253, 254, 17, 41, 1};
	struct frame f;

	(void)state;
	for (size_t i = 0; i < sizeof headers; i++) {
		ip6(&f, headers[i], tcp_bytes, sizeof tcp_bytes);
		assert_int_equal(kind_of(&f), WIRE_OTHER);
	}
	ip6(&f, 6, tcp_bytes, sizeof tcp_bytes);
	f.b[IP] = 0x4b;
	assert_int_equal(kind_of(&f), WIRE_OTHER);
	ip6(&f, 6, tcp_bytes, sizeof tcp_bytes);
	f.b[0] = 0x33;
	assert_int_equal(kind_of(&f), WIRE_OTHER);
}

/* IPv6 on the wire with IPv4-mapped addresses must not be taken for the IPv4 flow. */
static void mapped_addresses_on_the_wire(void **state)
{
	static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
	struct frame f;

	(void)state;
	for (int which = 1; which < 4; which++) {
		ip6(&f, 6, tcp_bytes, sizeof tcp_bytes);
		if (which & 1)
			memcpy(f.b + IP + 8, mapped, sizeof mapped);
		if (which & 2)
			memcpy(f.b + IP + 24, mapped, sizeof mapped);
		assert_int_equal(kind_of(&f), WIRE_OTHER);
	}
}

static void other_ethertypes(void **state)
{
	struct frame f;

	(void)state;
	for (uint32_t type = 0; type <= 0xffff; type++) {
		ip4(&f, 6, tcp_bytes, sizeof tcp_bytes);
		put16(f.b + 12, type);
		assert_int_equal(kind_of(&f), type == 0x0800 ? WIRE_TCP : WIRE_OTHER);
	}
}

/* ---- ICMP ---- */

/* An error about 10.0.0.1:80 > 10.0.0.2:4000 (or its IPv6 like), seq 0x01020304; @quoted bytes of TCP. */
static void icmp_error(struct frame *f, bool v6, uint8_t type, uint8_t code, uint32_t rest, uint32_t quoted)
{
	static const uint8_t tcp[20] = {0x00, 0x50, 0x0f, 0xa0, 1, 2, 3, 4};
	uint8_t icmp[100] = {type, code};
	uint32_t ip_len = v6 ? 40 : 20, len = 8 + ip_len + quoted;
	uint8_t *q = icmp + 8;
	uint64_t sum;
	uint16_t folded;

	put32(icmp + 4, rest);
	if (v6) {
		q[0] = 0x60;
		q[6] = 6;
		inet_pton(AF_INET6, "2001:db8::1", q + 8);
		inet_pton(AF_INET6, "2001:db8::2", q + 24);
	} else {
		static const uint8_t addrs[8] = {10, 0, 0, 1, 10, 0, 0, 2};

		q[0] = 0x45;
		q[9] = 6;
		memcpy(q + 12, addrs, sizeof addrs);
	}
	memcpy(q + ip_len, tcp, quoted);
	ip(f, v6, v6 ? 58 : 1, icmp, len);
	sum = v6 ? csum_add((uint64_t)htonl(len) + htonl(58), f->b + IP + 8, 32) : 0;
	folded = (uint16_t)~csum_fold(csum_add(sum, f->b + (v6 ? TCP6 : TCP4), len));
	memcpy(f->b + (v6 ? TCP6 : TCP4) + 2, &folded, 2);
}

static void icmp_kinds(void **state)
{
	struct flow_key want4 = {addr("10.0.0.1"), addr("10.0.0.2"), htons(80), htons(4000)};
	struct flow_key want6 = {addr("2001:db8::1"), addr("2001:db8::2"), htons(80), htons(4000)};

	(void)state;
	for (int v6 = 0; v6 < 2; v6++)
		for (uint32_t type = 0; type < 256; type++) {
			bool error = v6 ? type >= 1 && type <= 4
					: type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
			struct segment s;
			struct frame f;

			icmp_error(&f, v6, (uint8_t)type, 2, 0, 8);
			assert_int_equal(parse(&f, false, &s), error ? WIRE_ICMP_ERROR : WIRE_OTHER);
			if (!error)
				continue;
			assert_true(flow_key_equal(&s.key, v6 ? &want6 : &want4));
			assert_int_equal(s.seq, 0x01020304);
			assert_int_equal(s.icmp_type, type);
			assert_int_equal(s.icmp_code, 2);
			assert_int_equal(s.icmp_mtu, 0);
		}
}

static void icmp_mtu(void **state)
{
	struct segment s;
	struct frame f;

	(void)state;
	icmp_error(&f, false, 3, 4, 1400, 20);
	assert_int_equal(parse(&f, false, &s), WIRE_ICMP_ERROR);
	assert_int_equal(s.icmp_mtu, 1400);
	icmp_error(&f, false, 3, 4, 0xffff0000, 8); /* the unused half is not MTU; 0: an old router */
	assert_int_equal(parse(&f, false, &s), WIRE_ICMP_ERROR);
	assert_int_equal(s.icmp_mtu, 0);
	icmp_error(&f, false, 3, 1, 1400, 8); /* only "fragmentation needed" names one */
	assert_int_equal(parse(&f, false, &s), WIRE_ICMP_ERROR);
	assert_int_equal(s.icmp_mtu, 0);
	icmp_error(&f, true, 2, 0, 1280, 20);
	assert_int_equal(parse(&f, false, &s), WIRE_ICMP_ERROR);
	assert_int_equal(s.icmp_mtu, 1280);
	icmp_error(&f, true, 3, 0, 1280, 20);
	assert_int_equal(parse(&f, false, &s), WIRE_ICMP_ERROR);
	assert_int_equal(s.icmp_mtu, 0);
}

static void icmp_hostile(void **state)
{
	struct segment s;
	struct frame f;

	(void)state;
	for (int v6 = 0; v6 < 2; v6++) {
		uint32_t at = v6 ? TCP6 : TCP4;

		for (uint32_t quoted = 0; quoted <= 20; quoted++) {
			icmp_error(&f, v6, v6 ? 1 : 3, 0, 0, quoted);
			assert_int_equal(parse(&f, false, &s), quoted >= 8 ? WIRE_ICMP_ERROR : WIRE_OTHER);
		}
		while (f.len--) /* cut by the link */
			assert_int_not_equal(kind_of(&f), WIRE_ICMP_ERROR);
		for (uint32_t bit = 0; bit < (8 + 20 + 8) * 8; bit++) { /* a checksum that is wrong */
			icmp_error(&f, v6, v6 ? 1 : 3, 0, 0, 8);
			f.b[at + bit / 8] ^= (uint8_t)(1 << bit % 8);
			assert_int_equal(kind_of(&f), WIRE_OTHER);
		}
	}
}

/* The quoted packet is not one of a TCP flow. The bytes changed sum to the same, so that only the quote is wrong. */
static void icmp_quotes_something_else(void **state)
{
	static const struct {
		bool v6;
		uint8_t at;
		uint32_t from, to; /* a 16-bit word of the quoted IP header */
	} table[] = {
		{false, 0, 0x4500, 0x5500}, {false, 0, 0x4500, 0x4400}, {false, 0, 0x4500, 0x4f00},
		{false, 6, 0x0000, 0x0001}, {false, 8, 0x0006, 0x0011}, {true, 0, 0x6000, 0x4000},
		{true, 6, 0x0600, 0x2c00},
	};
	struct frame f;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		uint32_t icmp = table[i].v6 ? TCP6 : TCP4, diff = table[i].from + 0xffff - table[i].to;

		icmp_error(&f, table[i].v6, table[i].v6 ? 1 : 3, 0, diff % 0xffff, 8);
		assert_int_equal(kind_of(&f), WIRE_ICMP_ERROR);
		icmp_error(&f, table[i].v6, table[i].v6 ? 1 : 3, 0, 0, 8);
		put16(f.b + icmp + 8 + table[i].at, table[i].to);
		put32(f.b + icmp + 4, diff % 0xffff);
		assert_int_equal(kind_of(&f), WIRE_OTHER);
	}
	icmp_error(&f, true, 1, 0, 0, 8); /* mapped addresses in the quote; the parts removed had the same sum */
	memset(f.b + TCP6 + 8 + 8, 0, 10);
	put16(f.b + TCP6 + 8 + 8 + 10, 0xffff);
	put32(f.b + TCP6 + 4, (0x2001 + 0x0db8) % 0xffff);
	assert_int_equal(kind_of(&f), WIRE_OTHER);
}

static void icmp_quote_with_options(void **state)
{
	uint8_t icmp[8 + 24 + 8] = {3, 1};
	uint16_t sum;
	struct segment s;
	struct frame f;

	(void)state;
	icmp[8] = 0x46;
	icmp[8 + 9] = 6;
	put16(icmp + 8 + 24, 80);
	put16(icmp + 8 + 26, 4000);
	put32(icmp + 8 + 28, 77);
	sum = (uint16_t)~csum_fold(csum_add(0, icmp, sizeof icmp));
	memcpy(icmp + 2, &sum, 2);
	ip4(&f, 1, icmp, sizeof icmp);
	assert_int_equal(parse(&f, false, &s), WIRE_ICMP_ERROR);
	assert_int_equal(s.seq, 77);
	assert_int_equal(ntohs(s.key.local_port), 80);
	/* options that leave fewer than eight bytes of TCP; seven hold no sequence number */
	icmp[8] = 0x47;
	for (uint32_t len = 8 + 24; len <= sizeof icmp; len++) {
		icmp[2] = icmp[3] = 0;
		sum = (uint16_t)~csum_fold(csum_add(0, icmp, len));
		memcpy(icmp + 2, &sum, 2);
		ip4(&f, 1, icmp, len);
		assert_int_equal(kind_of(&f), WIRE_OTHER);
	}
	icmp[8] = 0x46;
	icmp[2] = icmp[3] = 0;
	sum = (uint16_t)~csum_fold(csum_add(0, icmp, sizeof icmp - 1));
	memcpy(icmp + 2, &sum, 2);
	ip4(&f, 1, icmp, sizeof icmp - 1);
	assert_int_equal(kind_of(&f), WIRE_OTHER);
}

/* ---- the rest ---- */

static void options_in_a_segment(void **state)
{
	uint8_t tcp[60] = {0};
	struct segment s;
	struct frame f;

	(void)state;
	tcp[12] = 0xf0;
	memset(tcp + 20, 1, 40);
	memcpy(tcp + 20 + 36, (const uint8_t[]){2, 4, 2, 0}, 4);
	ip4(&f, 6, tcp, sizeof tcp);
	assert_int_equal(parse(&f, false, &s), WIRE_TCP);
	assert_true(s.opt.has_mss && s.opt.mss == 512 && !s.opt.malformed);
	/* the option may not reach into the payload */
	tcp[12] = 0xe0;
	ip4(&f, 6, tcp, sizeof tcp);
	f.b[TCP4 + 20 + 34] = 8;
	f.b[TCP4 + 20 + 35] = 10;
	assert_int_equal(parse(&f, false, &s), WIRE_TCP);
	assert_true(s.opt.malformed && !s.opt.has_ts && s.len == 4);
}

static void random_frames(void **state)
{
	(void)state;
	srand(11);
	for (int i = 0; i < 200000; i++) {
		struct segment s;
		struct frame f;

		ip(&f, i & 1, i & 2 ? 6 : i & 1 ? 58 : 1, tcp_bytes, sizeof tcp_bytes);
		for (int k = rand() % 6; k >= 0; k--)
			f.b[(uint32_t)rand() % f.len] = (uint8_t)rand();
		if (!(i & 1) && f.b[IP] == 0x45)
			ip4_csum(f.b + IP);
		f.len -= (uint32_t)rand() % 3;
		parse(&f, i & 4, &s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ipv4_segment),
		cmocka_unit_test(ipv6_segment),
		cmocka_unit_test(padding_is_not_payload),
		cmocka_unit_test(tcp_checksum),
		cmocka_unit_test(every_data_offset),
		cmocka_unit_test(every_ip_length),
		cmocka_unit_test(every_cut),
		cmocka_unit_test(largest_frame),
		cmocka_unit_test(every_flag),
		cmocka_unit_test(ipv4_not_for_the_fast_path),
		cmocka_unit_test(ipv4_header_checksum),
		cmocka_unit_test(ipv6_not_for_the_fast_path),
		cmocka_unit_test(mapped_addresses_on_the_wire),
		cmocka_unit_test(other_ethertypes),
		cmocka_unit_test(icmp_kinds),
		cmocka_unit_test(icmp_mtu),
		cmocka_unit_test(icmp_hostile),
		cmocka_unit_test(icmp_quotes_something_else),
		cmocka_unit_test(icmp_quote_with_options),
		cmocka_unit_test(options_in_a_segment),
		cmocka_unit_test(random_frames),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
