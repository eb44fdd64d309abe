/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Headers of segments, from a template and what changes. Pure; any thread. */
#include "service/wire/build.h"

#include <arpa/inet.h>
#include <string.h>

#include "service/base/addr.h"
#include "service/base/compiler.h"
#include "service/wire/csum.h"

enum { ETH_LEN = 14, IP4_LEN = 20, IP6_LEN = 40, TCP_LEN = 20, PAD_LEN = 4, TS_LEN = 12 };

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

static uint32_t sack_blocks(const struct wire_segment *s)
{
	return MIN((uint32_t)s->sack_count, s->has_ts ? 3u : 4u);
}

static uint32_t options_len(const struct wire_segment *s)
{
	uint32_t blocks = sack_blocks(s);

	return (s->pad ? PAD_LEN : 0) + (s->has_ts ? TS_LEN : 0) + (blocks ? 4 + 8 * blocks : 0);
}

uint32_t wire_header_len(const struct wire_template *t, const struct wire_segment *s)
{
	return ETH_LEN + (ip_addr_is_v4(&t->key.local) ? IP4_LEN : IP6_LEN) + TCP_LEN + options_len(s);
}

static void build_options(uint8_t *o, const struct wire_segment *s)
{
	uint32_t blocks = sack_blocks(s);

	if (s->pad) {
		put32(o, 0x01010101);
		o += PAD_LEN;
	}
	if (s->has_ts) {
		put32(o, 0x0101080a);
		put32(o + 4, s->tsval);
		put32(o + 8, s->tsecr);
		o += TS_LEN;
	}
	if (blocks) {
		put32(o, 0x01010500 | (2 + 8 * blocks));
		for (uint32_t i = 0; i < blocks; i++) {
			put32(o + 4 + 8 * i, s->sack[i].start);
			put32(o + 8 + 8 * i, s->sack[i].end);
		}
	}
}

static void build_ip4(uint8_t *ip, const struct wire_template *t, const struct wire_segment *s, uint32_t tcp_len)
{
	uint16_t sum;

	ip[0] = 0x45;
	ip[1] = (uint8_t)((t->tos & 0xfc) | (s->ecn & 3));
	put16(ip + 2, IP4_LEN + tcp_len);
	put16(ip + 4, s->ip_id);
	put16(ip + 6, t->dont_fragment ? 0x4000 : 0);
	ip[8] = t->ttl;
	ip[9] = 6;
	put16(ip + 10, 0);
	memcpy(ip + 12, &t->key.local.w[3], 4);
	memcpy(ip + 16, &t->key.remote.w[3], 4);
	sum = (uint16_t)~csum_fold(csum_add(0, ip, IP4_LEN));
	memcpy(ip + 10, &sum, 2);
}

static void build_ip6(uint8_t *ip, const struct wire_template *t, const struct wire_segment *s, uint32_t tcp_len)
{
	uint32_t tos = (uint32_t)(t->tos & 0xfc) | (s->ecn & 3);

	put32(ip, 6u << 28 | tos << 20 | (t->flow_label & 0xfffff));
	put16(ip + 4, tcp_len);
	ip[6] = 6;
	ip[7] = t->ttl;
	memcpy(ip + 8, t->key.local.b, 16);
	memcpy(ip + 24, t->key.remote.b, 16);
}

uint32_t wire_build(uint8_t *frame, const struct wire_template *t, const struct wire_segment *s, uint32_t len,
		    uint64_t payload_sum)
{
	bool v4 = ip_addr_is_v4(&t->key.local);
	uint32_t tcp_hdr = TCP_LEN + options_len(s), ip_len = v4 ? IP4_LEN : IP6_LEN;
	uint8_t *ip = frame + ETH_LEN, *tcp = ip + ip_len;
	uint16_t sum;

	memcpy(frame, t->dst_mac, 6);
	memcpy(frame + 6, t->src_mac, 6);
	put16(frame + 12, v4 ? 0x0800 : 0x86dd);
	if (v4)
		build_ip4(ip, t, s, tcp_hdr + len);
	else
		build_ip6(ip, t, s, tcp_hdr + len);
	memcpy(tcp, &t->key.local_port, 2);
	memcpy(tcp + 2, &t->key.remote_port, 2);
	put32(tcp + 4, s->seq);
	put32(tcp + 8, s->ack);
	tcp[12] = (uint8_t)(tcp_hdr / 4 << 4);
	tcp[13] = s->flags;
	put16(tcp + 14, s->window);
	put32(tcp + 16, 0);
	build_options(tcp + TCP_LEN, s);
	sum = (uint16_t)~csum_fold(
		csum_add(csum_pseudo(&t->key.local, &t->key.remote, tcp_hdr + len) + payload_sum, tcp, tcp_hdr));
	memcpy(tcp + 16, &sum, 2);
	return ETH_LEN + ip_len + tcp_hdr;
}
