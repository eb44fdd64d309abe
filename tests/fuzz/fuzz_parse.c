/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Any bytes as a frame. First byte: direction. The gate may say what it likes of them, but
 * what it accepts must lie within the frame, and reading all of it must be safe.
 */
/* links: service/wire/parse.c service/wire/options.c service/wire/csum.c service/base/addr.c */
#include <stdlib.h>
#include <string.h>

#include "service/base/addr.h"
#include "service/wire/csum.h"
#include "service/wire/parse.h"

#define REQUIRE(x)                        \
	do {                              \
		if (!(x))                 \
			__builtin_trap(); \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void accepted(const uint8_t *frame, uint32_t len, bool from_us, const struct segment *s)
{
	static uint8_t copy[65536 + 16];
	uint64_t sum;

	REQUIRE(s->tcp >= frame + 34 && s->payload >= s->tcp + 20 && s->payload <= s->tcp + 60);
	REQUIRE(s->payload + s->len <= frame + len);
	REQUIRE(s->payload + s->len == s->tcp + s->tcp_len);
	REQUIRE(s->payload == frame + s->hdr_len && s->eth == frame);
	REQUIRE(s->opt.sack_count <= WIRE_SACK_BLOCKS && s->ecn < 4 && s->flow_label < 1u << 20);
	REQUIRE(ip_addr_is_v4(&s->key.local) == ip_addr_is_v4(&s->key.remote));
	/* the two ways to check a checksum agree, and the copy is one */
	sum = csum_copy(segment_csum_head(s, from_us), copy, s->payload, s->len);
	REQUIRE((csum_fold(sum) == 0xffff) == segment_csum_ok(s, from_us));
	REQUIRE(memcmp(copy, s->payload, s->len) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tcp_options opt;
	struct segment s;
	enum wire_kind kind;
	uint8_t *frame;
	bool from_us;
	uint32_t len;

	if (!size)
		return 0;
	from_us = data[0] & 1;
	len = (uint32_t)size - 1;
	frame = malloc(len ? len : 1);
	if (!frame)
		return 0;
	memcpy(frame, data + 1, len);
	kind = wire_parse(frame, len, from_us, &s);
	if (kind == WIRE_TCP)
		accepted(frame, len, from_us, &s);
	if (kind == WIRE_ICMP_ERROR)
		REQUIRE(s.tcp >= frame + 14 + 20 + 8 + 20 && s.tcp + 8 <= frame + len);
	tcp_options_parse(frame, len, &opt);
	REQUIRE(opt.sack_count <= WIRE_SACK_BLOCKS);
	free(frame);
	return 0;
}
