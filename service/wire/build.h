/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Builders for the frames tapas sends: to the wire (from a flow's template) and to Linux
 * through the TAP. Pure; any thread.
 */
#ifndef SERVICE_WIRE_BUILD_H
#define SERVICE_WIRE_BUILD_H

#include <stdbool.h>
#include <stdint.h>

#include "service/base/flow_key.h"

#define WIRE_HDR_MAX (14 + 40 + 60) /* Ethernet, IPv6, TCP with options */

/* What does not change from segment to segment. Copied from a frame that Linux sent (the frame is the template). */
struct wire_template {
	struct flow_key key; /* local = sender of what is built */
	uint8_t dst_mac[6], src_mac[6];
	uint8_t tos; /* without the ECN bits */
	uint8_t ttl;
	bool dont_fragment;
	uint32_t flow_label;
};

struct wire_segment {
	uint32_t seq, ack;
	uint8_t flags;
	uint8_t ecn;     /* 2 = ECT(0), 0 = not ECT */
	uint16_t window; /* as it goes on the wire: already shifted */
	bool has_ts;
	bool pad; /* four options that say nothing */
	uint32_t tsval, tsecr;
	uint8_t sack_count; /* at most 3 with timestamps */
	struct {
		uint32_t start, end;
	} sack[4];
	uint16_t ip_id; /* IPv4 */
};

/* Header bytes that wire_build() will write for @s. */
uint32_t wire_header_len(const struct wire_template *t, const struct wire_segment *s);

/*
 * Write Ethernet, IP and TCP headers for a segment of @len payload bytes whose partial sum
 * is @payload_sum (csum_copy; 0 if len is 0) in front of the payload: @frame has
 * wire_header_len() bytes for them. Checksums are complete. Returns the header's length.
 */
uint32_t wire_build(uint8_t *frame, const struct wire_template *t, const struct wire_segment *s, uint32_t len,
		    uint64_t payload_sum);

#endif
