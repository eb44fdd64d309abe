/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The gate for frames. First thing that happens to bytes from the wire (fast thread, main
 * thread) and from the TAP (main thread). What it accepts as WIRE_TCP is whole: every pointer
 * and length in the result lies within the frame.
 */
#include "service/wire/parse.h"

#include <arpa/inet.h>
#include <string.h>

#include "service/base/addr.h"
#include "service/wire/csum.h"

enum { ETH_LEN = 14, IP4_LEN = 20, IP6_LEN = 40, TCP_LEN = 20, ICMP_LEN = 8 };
enum { PROTO_ICMP = 1, PROTO_TCP = 6, PROTO_ICMP6 = 58 };

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Fill the key; @ports: the two ports in the order of the header. */
static void parse_key(struct segment *s, const struct ip_addr *src, const struct ip_addr *dst, const uint8_t *ports,
		      bool from_us)
{
	uint16_t sport, dport;

	memcpy(&sport, ports, 2);
	memcpy(&dport, ports + 2, 2);
	s->key.local = from_us ? *src : *dst;
	s->key.remote = from_us ? *dst : *src;
	s->key.local_port = from_us ? sport : dport;
	s->key.remote_port = from_us ? dport : sport;
}

static struct ip_addr parse_v4(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return ip_addr_v4(v);
}

/* Both addresses of an IPv6 header. Mapped ones would pass for an IPv4 flow's: false, Linux refuses them too. */
static bool parse_v6(const uint8_t *ip, struct ip_addr *src, struct ip_addr *dst)
{
	memcpy(src->b, ip + 8, 16);
	memcpy(dst->b, ip + 24, 16);
	return !ip_addr_is_v4(src) && !ip_addr_is_v4(dst);
}

static enum wire_kind parse_tcp(const uint8_t *frame, const uint8_t *tcp, uint32_t len, const struct ip_addr *src,
				const struct ip_addr *dst, bool from_us, struct segment *s)
{
	uint32_t doff;

	if (len < TCP_LEN)
		return WIRE_BAD;
	doff = (uint32_t)(tcp[12] >> 4) * 4;
	if (doff < TCP_LEN || doff > len)
		return WIRE_BAD;
	parse_key(s, src, dst, tcp, from_us);
	s->tcp = tcp;
	s->tcp_len = (uint16_t)len;
	s->seq = get32(tcp + 4);
	s->ack = get32(tcp + 8);
	s->flags = tcp[13];
	s->window = get16(tcp + 14);
	s->urgent = get16(tcp + 18);
	s->len = len - doff;
	s->payload = tcp + doff;
	s->hdr_len = (uint16_t)(tcp + doff - frame);
	tcp_options_parse(tcp + TCP_LEN, doff - TCP_LEN, &s->opt);
	return WIRE_TCP;
}

/* The start of a packet of ours that an error quotes: addresses, ports and sequence number. */
static enum wire_kind parse_quoted(const uint8_t *ip, uint32_t len, bool v6, struct segment *s)
{
	struct ip_addr src, dst;
	const uint8_t *tcp;

	if (v6) {
		if (len < IP6_LEN + 8 || ip[0] >> 4 != 6 || ip[6] != PROTO_TCP || !parse_v6(ip, &src, &dst))
			return WIRE_OTHER;
		tcp = ip + IP6_LEN;
	} else {
		uint32_t ihl = (ip[0] & 15u) * 4u;

		if (len < IP4_LEN + 8 || ip[0] >> 4 != 4 || ihl < IP4_LEN || len < ihl + 8 || ip[9] != PROTO_TCP ||
		    (get16(ip + 6) & 0x1fff))
			return WIRE_OTHER;
		src = parse_v4(ip + 12);
		dst = parse_v4(ip + 16);
		tcp = ip + ihl;
	}
	parse_key(s, &src, &dst, tcp, true);
	s->tcp = tcp;
	s->seq = get32(tcp + 4);
	return WIRE_ICMP_ERROR;
}

static bool icmp_is_error(uint8_t type, bool v6)
{
	return v6 ? type >= 1 && type <= 4 : type == 3 || type == 4 || type == 5 || type == 11 || type == 12;
}

/* @pseudo: partial sum of the pseudo-header of ICMPv6. A wrong checksum is for Linux to count. */
static enum wire_kind parse_icmp(const uint8_t *icmp, uint32_t len, bool v6, uint64_t pseudo, struct segment *s)
{
	if (len < ICMP_LEN + 1 || !icmp_is_error(icmp[0], v6) || csum_fold(csum_add(pseudo, icmp, len)) != 0xffff)
		return WIRE_OTHER;
	s->icmp_type = icmp[0];
	s->icmp_code = icmp[1];
	if (v6 && icmp[0] == 2)
		s->icmp_mtu = get32(icmp + 4);
	else if (!v6 && icmp[0] == 3 && icmp[1] == 4)
		s->icmp_mtu = get16(icmp + 6);
	return parse_quoted(icmp + ICMP_LEN, len - ICMP_LEN, v6, s);
}

static enum wire_kind parse_ip4(const uint8_t *frame, uint32_t len, bool from_us, struct segment *s)
{
	const uint8_t *ip = frame + ETH_LEN;
	uint32_t room = len - ETH_LEN, total;
	struct ip_addr src, dst;

	if (room < IP4_LEN)
		return WIRE_OTHER;
	/* options and fragments are Linux's */
	if (ip[0] != 0x45 || (get16(ip + 6) & 0x3fff) || (ip[9] != PROTO_TCP && ip[9] != PROTO_ICMP))
		return WIRE_OTHER;
	total = get16(ip + 2);
	if (total < IP4_LEN || total > room || csum_fold(csum_add(0, ip, IP4_LEN)) != 0xffff)
		return WIRE_BAD;
	src = parse_v4(ip + 12);
	dst = parse_v4(ip + 16);
	s->tos = ip[1];
	s->ecn = ip[1] & 3;
	s->ttl = ip[8];
	if (ip[9] == PROTO_ICMP)
		return parse_icmp(ip + IP4_LEN, total - IP4_LEN, false, 0, s);
	return parse_tcp(frame, ip + IP4_LEN, total - IP4_LEN, &src, &dst, from_us, s);
}

static enum wire_kind parse_ip6(const uint8_t *frame, uint32_t len, bool from_us, struct segment *s)
{
	const uint8_t *ip = frame + ETH_LEN;
	uint32_t room = len - ETH_LEN, payload;
	struct ip_addr src, dst;

	if (room < IP6_LEN)
		return WIRE_OTHER;
	if (ip[0] >> 4 != 6 || (ip[6] != PROTO_TCP && ip[6] != PROTO_ICMP6))
		return WIRE_OTHER;
	payload = get16(ip + 4);
	if (!parse_v6(ip, &src, &dst))
		return WIRE_OTHER;
	if (payload > room - IP6_LEN)
		return WIRE_BAD;
	s->tos = (uint8_t)(ip[0] << 4 | ip[1] >> 4);
	s->ecn = s->tos & 3;
	s->ttl = ip[7];
	s->flow_label = get32(ip) & 0xfffff;
	if (ip[6] == PROTO_ICMP6) {
		uint64_t pseudo = csum_add((uint64_t)htonl(payload) + htonl(PROTO_ICMP6), ip + 8, 32);

		return parse_icmp(ip + IP6_LEN, payload, true, pseudo, s);
	}
	return parse_tcp(frame, ip + IP6_LEN, payload, &src, &dst, from_us, s);
}

enum wire_kind wire_parse(const uint8_t *frame, uint32_t len, bool from_us, struct segment *out)
{
	memset(out, 0, sizeof *out);
	/* what comes to a group address is never a flow's */
	if (len < ETH_LEN || (!from_us && (frame[0] & 1)))
		return WIRE_OTHER;
	out->eth = frame;
	switch (get16(frame + 12)) {
	case 0x0800:
		return parse_ip4(frame, len, from_us, out);
	case 0x86dd:
		return parse_ip6(frame, len, from_us, out);
	default:
		return WIRE_OTHER;
	}
}

static uint64_t segment_pseudo(const struct segment *s, bool from_us)
{
	return from_us ? csum_pseudo(&s->key.local, &s->key.remote, s->tcp_len)
		       : csum_pseudo(&s->key.remote, &s->key.local, s->tcp_len);
}

uint64_t segment_csum_head(const struct segment *s, bool from_us)
{
	return csum_add(segment_pseudo(s, from_us), s->tcp, (size_t)(s->payload - s->tcp));
}

bool segment_csum_ok(const struct segment *s, bool from_us)
{
	return csum_fold(csum_add(segment_pseudo(s, from_us), s->tcp, s->tcp_len)) == 0xffff;
}
