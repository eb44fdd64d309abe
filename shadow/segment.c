/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Segments in the shadow's sequence space: the frames that ask Linux (through the TAP, as if
 * they came from the peer) and the reading of what it answers. Main thread; pure.
 *
 * Nothing here carries a sequence number of the wire: conntrack and the socket know only the
 * space that stood still at adoption. No segment carries a timestamp option but the one that
 * tells a rebuilt socket the peer's last: Linux takes segments without one in every state, and a
 * made-up value would spoil PAWS after a return.
 */
#include "shadow/shadow.h"

#include <string.h>

#include "service/base/addr.h"
#include "service/tcp/seq.h"
#include "service/wire/csum.h"

#define ETH_LEN 14
#define IP6_LEN 40
#define ICMP_LEN 8       /* both versions: type, code, checksum, four bytes more */
#define TCP_QUOTED_MIN 8 /* ports and sequence number */
#define IPPROTO_OFF4 9
#define IPPROTO_OFF6 6
#define SHADOW_TTL 64

/* ---- building ---- */

static struct wire_template shadow_from_peer(const struct shadow_seq *s)
{
	struct wire_template t = {
		.key = {.local = s->key.remote,
			.remote = s->key.local,
			.local_port = s->key.remote_port,
			.remote_port = s->key.local_port},
		.ttl = SHADOW_TTL,
		.dont_fragment = true,
	};

	memcpy(t.dst_mac, s->nic_mac, sizeof t.dst_mac);
	memcpy(t.src_mac, s->peer_mac, sizeof t.src_mac);
	return t;
}

/*
 * One segment of @len payload bytes, all zero if @payload is NULL. While the adoption may still be rolled back the
 * window is the peer's real one; afterwards it is never small (a real write of Linux's must get out to be seen) and
 * differs from one call to the next, or conntrack takes unanswered segments for retransmissions and shortens the
 * connection's timeout.
 * A FIN's header is longer than a heartbeat's: Linux joins segments with headers of one length that wait for a busy
 * socket, and kernels before 6.18 would take the old byte in front of the FIN for unread data when the socket is closed,
 * and reset the connection.
 */
static uint32_t shadow_build(struct shadow_seq *s, uint8_t *buf, uint32_t seq, uint32_t ack, uint8_t flags,
			     const uint8_t *payload, uint32_t len)
{
	struct wire_template t = shadow_from_peer(s);
	struct wire_segment seg = {
		.seq = seq,
		.ack = ack,
		.flags = flags,
		.window = s->has_window ? s->window : (uint16_t)(0x8000 | (s->vary & 0x7fff)),
		.has_ts = s->has_ts,
		.pad = (flags & TCP_FIN) != 0,
		.tsval = s->tsval,
		.tsecr = s->tsecr,
		.ip_id = s->vary,
	};
	uint32_t hdr = wire_header_len(&t, &seg);

	s->vary++;
	if (!payload) { /* whose sum is zero */
		memset(buf + hdr, 0, len);
		return wire_build(buf, &t, &seg, len, 0) + len;
	}
	memcpy(buf + hdr, payload, len);
	return wire_build(buf, &t, &seg, len, csum_add(0, buf + hdr, len)) + len;
}

uint32_t shadow_heartbeat(struct shadow_seq *s, uint8_t *buf)
{
	return shadow_build(s, buf, s->rcv_nxt - 1, s->snd_nxt, TCP_ACK, NULL, 1);
}

uint32_t shadow_ack(struct shadow_seq *s, uint8_t *buf, uint32_t ack)
{
	return shadow_build(s, buf, s->rcv_nxt, ack, TCP_ACK, NULL, 0);
}

uint32_t shadow_fin(struct shadow_seq *s, uint8_t *buf)
{
	return shadow_build(s, buf, s->rcv_nxt, s->snd_nxt, TCP_FIN | TCP_ACK, NULL, 0);
}

uint32_t shadow_data(struct shadow_seq *s, uint8_t *buf, uint32_t offset, const uint8_t *payload, uint32_t len)
{
	return shadow_build(s, buf, s->rcv_nxt + offset, s->snd_nxt, TCP_ACK, payload, len);
}

uint32_t shadow_rst(struct shadow_seq *s, uint8_t *buf, int32_t offset)
{
	return shadow_build(s, buf, s->rcv_nxt + (uint32_t)offset, s->snd_nxt, TCP_RST | TCP_ACK, NULL, 0);
}

/* ---- ICMP errors ---- */

/* Offset of the quoted TCP header and of the ICMP header; 0 if the frame is not an ICMP error that quotes one. */
static uint32_t icmp_quoted_tcp(const uint8_t *f, uint32_t len, uint32_t *icmp)
{
	uint32_t off, ip4;

	if (len < ETH_LEN + 20)
		return 0;
	ip4 = f[12] == 0x08 && f[13] == 0x00;
	if (!ip4 && !(f[12] == 0x86 && f[13] == 0xdd))
		return 0;
	*icmp = ETH_LEN + (ip4 ? (f[ETH_LEN] & 15u) * 4 : IP6_LEN);
	off = *icmp + ICMP_LEN;
	if (off + (ip4 ? 20 : IP6_LEN) > len)
		return 0;
	if (ip4 ? f[ETH_LEN + IPPROTO_OFF4] != IPPROTO_ICMP : f[ETH_LEN + IPPROTO_OFF6] != IPPROTO_ICMPV6)
		return 0;
	if (f[off + (ip4 ? IPPROTO_OFF4 : IPPROTO_OFF6)] != IPPROTO_TCP)
		return 0;
	off += ip4 ? (f[off] & 15u) * 4 : IP6_LEN;
	return off + TCP_QUOTED_MIN > len ? 0 : off;
}

/* RFC 1624: the checksum at @field after the 32-bit word at @word (both even offsets) became @to. */
static void icmp_csum_update(uint8_t *field, uint8_t *word, uint32_t to_be)
{
	uint16_t old[2], now[2], sum;
	uint64_t acc;

	memcpy(&sum, field, 2);
	memcpy(old, word, 4);
	memcpy(now, &to_be, 4);
	acc = (uint64_t)(uint16_t)~sum + (uint16_t)~old[0] + (uint16_t)~old[1] + now[0] + now[1];
	sum = (uint16_t)~csum_fold(acc);
	memcpy(field, &sum, 2);
	memcpy(word, &to_be, 4);
}

/*
 * Bytes in flight on the wire are, in the shadow's space, all at snd_nxt: that is the only
 * number Linux takes there. A number from before snd_una stays one, and Linux ignores it.
 */
uint32_t shadow_icmp(struct shadow_seq *s, uint8_t *buf, uint32_t size, const uint8_t *frame, uint32_t len,
		     uint32_t wire_una)
{
	uint32_t icmp, tcp = icmp_quoted_tcp(frame, len, &icmp), seq;
	int32_t ahead;

	if (!tcp || len > size)
		return 0;
	memcpy(buf, frame, len);
	memcpy(buf, s->nic_mac, 6);
	memcpy(&seq, buf + tcp + 4, 4);
	ahead = (int32_t)(ntohl(seq) - wire_una);
	seq = ahead < 0 ? s->snd_nxt + (uint32_t)ahead : s->snd_nxt;
	icmp_csum_update(buf + icmp + 2, buf + tcp + 4, htonl(seq));
	return len;
}

/* ---- reading ---- */

enum shadow_says shadow_classify(const struct shadow_seq *s, const struct segment *seg)
{
	if (seg->flags & TCP_RST)
		return SHADOW_RST;
	if (seg->flags & TCP_SYN)
		return SHADOW_OTHER;
	if (seg->len && seq_gt(seg->seq + seg->len, s->snd_nxt))
		return SHADOW_STRAY;
	if (seg->flags & TCP_FIN)
		return SHADOW_FIN;
	if (seg->len)
		return SHADOW_DATA;
	if (!(seg->flags & TCP_ACK))
		return SHADOW_OTHER;
	if (seg->ack != s->rcv_nxt)
		return SHADOW_MOVED;
	if (seg->seq == s->snd_nxt)
		return SHADOW_ACK;
	/* keepalive or window probe: Linux asks, which says nothing about what it lets in */
	return seg->seq == s->snd_nxt - 1 ? SHADOW_DATA : SHADOW_OTHER;
}

void shadow_template(const struct segment *seg, struct wire_template *t)
{
	t->key = seg->key;
	memcpy(t->dst_mac, seg->eth, 6);
	memcpy(t->src_mac, seg->eth + 6, 6);
	t->tos = seg->tos & 0xfc;
	t->ttl = seg->ttl;
	t->dont_fragment = !ip_addr_is_v4(&seg->key.local) || (seg->eth[ETH_LEN + 6] & 0x40);
	t->flow_label = seg->flow_label;
}
