/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The one gate for frames: whatever comes from AF_XDP or the TAP is bytes until
 * wire_parse() has said what it is. Lengths are checked once, here; what it returns
 * cannot point outside the frame. Pure; any thread.
 */
#ifndef SERVICE_WIRE_PARSE_H
#define SERVICE_WIRE_PARSE_H

#include <stdbool.h>
#include <stdint.h>

#include "service/base/flow_key.h"

enum wire_kind {
	WIRE_TCP,        /* whole, unfragmented TCP over IPv4 without options or IPv6 without extension headers */
	WIRE_ICMP_ERROR, /* ICMP or ICMPv6 error about a TCP segment: `key` is the flow it talks about */
	WIRE_OTHER,      /* well-formed or not: not for the fast path; Linux's */
	WIRE_BAD,        /* claims to be TCP over IP but lengths or data offset are impossible */
};

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_PSH 0x08
#define TCP_ACK 0x10
#define TCP_URG 0x20
#define TCP_ECE 0x40
#define TCP_CWR 0x80

#define WIRE_SACK_BLOCKS 4

/* TCP options of one segment. */
struct tcp_options {
	bool has_ts, has_mss, has_wscale, sack_permitted, malformed,
		unknown; /* unknown: a kind we don't name (MD5, AO, MPTCP, TFO...) */
	uint8_t wscale;  /* as received; the user clamps at 14 */
	uint8_t sack_count;
	uint16_t mss;
	uint32_t tsval, tsecr;
	struct {
		uint32_t start, end;
	} sack[WIRE_SACK_BLOCKS];
};

/* A parsed segment; the receiver is `key.local`. Numbers in host order. */
struct segment {
	struct flow_key key;
	uint32_t seq, ack;
	uint32_t len;           /* payload bytes (SYN and FIN not counted) */
	const uint8_t *payload; /* within the frame */
	const uint8_t *tcp;     /* TCP header within the frame */
	uint16_t tcp_len;       /* header + payload: what the checksum covers */
	uint8_t flags;
	uint8_t ecn;         /* the IP header's two ECN bits; 3 = CE */
	uint8_t tos;         /* whole TOS or traffic class */
	uint8_t ttl;         /* or hop limit */
	uint32_t flow_label; /* IPv6 */
	uint16_t window;     /* not scaled */
	uint16_t urgent;
	uint16_t hdr_len;   /* Ethernet + IP + TCP header bytes */
	const uint8_t *eth; /* destination, source MAC */
	struct tcp_options opt;
	/* WIRE_ICMP_ERROR: the segment it quotes is (key, seq); */
	uint8_t icmp_type, icmp_code;
	uint32_t icmp_mtu; /* next-hop MTU of "fragmentation needed" or "packet too big", else 0 */
};

/*
 * @from_us: false for a frame from the wire (its destination is our local end), true for
 * one that Linux sent (its source is). IPv4 header checksum is verified; TCP's is not:
 * see segment_csum_ok() and csum_copy().
 */
enum wire_kind wire_parse(const uint8_t *frame, uint32_t len, bool from_us, struct segment *out);

/* Is the TCP checksum right? Reads the whole segment. @from_us as above. */
bool segment_csum_ok(const struct segment *s, bool from_us);
/* Partial sum of pseudo-header and TCP header only, for callers that sum the payload while they copy it. */
uint64_t segment_csum_head(const struct segment *s, bool from_us);

/* Parse the option bytes of a TCP header: never reads past @len, always ends. */
void tcp_options_parse(const uint8_t *opt, uint32_t len, struct tcp_options *out);

#endif
