/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the builder writes, the gate reads back: every field, every mix of options, both IP versions. */
/* links: service/wire/build.c service/wire/parse.c service/wire/options.c service/wire/csum.c service/base/addr.c */
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
#include "service/wire/build.h"
#include "service/wire/csum.h"
#include "service/wire/parse.h"

static struct wire_template template(bool v6)
{
	struct wire_template t = {
		.key = {.local_port = htons(80), .remote_port = htons(40000)},
		.dst_mac = {2, 0, 0, 0, 0, 9},
		.src_mac = {2, 0, 0, 0, 0, 1},
		.tos = 0xb8,
		.ttl = 63,
		.dont_fragment = true,
		.flow_label = 0x12345,
	};

	assert_int_equal(ip_addr_parse(v6 ? "2001:db8::1" : "192.0.2.1", &t.key.local), 0);
	assert_int_equal(ip_addr_parse(v6 ? "2001:db8::2" : "192.0.2.2", &t.key.remote), 0);
	return t;
}

static struct wire_segment segment(bool ts, uint8_t blocks)
{
	struct wire_segment s = {
		.seq = 0xfffffff0,
		.ack = 0x80000001,
		.flags = TCP_ACK | TCP_PSH,
		.ecn = 2,
		.window = 0xfffe,
		.has_ts = ts,
		.tsval = 0xdeadbeef,
		.tsecr = 0x01020304,
		.sack_count = blocks,
		.ip_id = 0xabcd,
	};

	for (uint32_t i = 0; i < 4; i++) {
		s.sack[i].start = 0xffffff00 + i * 1000;
		s.sack[i].end = 0xffffff00 + i * 1000 + 500;
	}
	return s;
}

static void check_options(const struct tcp_options *o, const struct wire_segment *s, uint32_t blocks)
{
	assert_int_equal(o->has_ts, s->has_ts);
	if (s->has_ts)
		assert_true(o->tsval == s->tsval && o->tsecr == s->tsecr);
	assert_int_equal(o->sack_count, blocks);
	for (uint32_t i = 0; i < blocks; i++)
		assert_true(o->sack[i].start == s->sack[i].start && o->sack[i].end == s->sack[i].end);
	assert_false(o->malformed || o->unknown || o->has_mss || o->has_wscale || o->sack_permitted);
}

static void check(const uint8_t *frame, uint32_t size, const struct wire_template *t, const struct wire_segment *s,
		  uint32_t len)
{
	bool v4 = ip_addr_is_v4(&t->key.local);
	uint32_t blocks = MIN((uint32_t)s->sack_count, s->has_ts ? 3u : 4u);
	struct segment got;

	assert_int_equal(wire_parse(frame, size, true, &got), WIRE_TCP);
	assert_true(segment_csum_ok(&got, true));
	assert_true(flow_key_equal(&got.key, &t->key));
	assert_memory_equal(got.eth, t->dst_mac, 6);
	assert_memory_equal(got.eth + 6, t->src_mac, 6);
	assert_int_equal(got.seq, s->seq);
	assert_int_equal(got.ack, s->ack);
	assert_int_equal(got.flags, s->flags);
	assert_int_equal(got.window, s->window);
	assert_int_equal(got.urgent, 0);
	assert_int_equal(got.tos, (t->tos & 0xfc) | s->ecn);
	assert_int_equal(got.ecn, s->ecn);
	assert_int_equal(got.ttl, t->ttl);
	assert_int_equal(got.flow_label, v4 ? 0 : t->flow_label);
	assert_int_equal(got.len, len);
	assert_int_equal(got.hdr_len, wire_header_len(t, s));
	check_options(&got.opt, s, blocks);
}

static void round_trip(void **state)
{
	static const uint32_t lens[] = {0, 1, 2, 3, 63, 64, 536, 1447, 1448};
	uint8_t payload[1500];

	(void)state;
	for (size_t i = 0; i < sizeof payload; i++)
		payload[i] = (uint8_t)rand();
	for (int v6 = 0; v6 < 2; v6++)
		for (int ts = 0; ts < 2; ts++)
			for (uint8_t blocks = 0; blocks <= 5; blocks++)
				for (size_t l = 0; l < ARRAY_SIZE(lens); l++) {
					struct wire_template t = template(v6);
					struct wire_segment s = segment(ts, blocks);
					uint8_t frame[WIRE_HDR_MAX + 1500];
					uint32_t hdr = wire_header_len(&t, &s);
					uint64_t sum;

					assert_true(hdr <= WIRE_HDR_MAX && hdr % 4 == 2);
					memset(frame, 0xee, sizeof frame); /* what was there before does not show */
					sum = csum_copy(0, frame + hdr, payload, lens[l]);
					assert_int_equal(wire_build(frame, &t, &s, lens[l], sum), hdr);
					assert_memory_equal(frame + hdr, payload, lens[l]);
					check(frame, hdr + lens[l], &t, &s, lens[l]);
				}
}

static void writes_the_header_only(void **state)
{
	(void)state;
	for (int v6 = 0; v6 < 2; v6++) {
		struct wire_template t = template(v6);
		struct wire_segment s = segment(true, 3);
		uint8_t frame[WIRE_HDR_MAX + 32];
		uint32_t hdr;

		memset(frame, 0xee, sizeof frame);
		hdr = wire_build(frame + 16, &t, &s, 0, 0);
		for (int i = 0; i < 16; i++) {
			assert_int_equal(frame[i], 0xee);
			assert_int_equal(frame[16 + hdr + i], 0xee);
		}
	}
}

/* Bytes as they must be, checksums computed by another program. */
static void known_bytes(void **state)
{
	static const uint8_t want4[] = {
		0x02, 0x00, 0x00, 0x00, 0x00, 0x09, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x08, 0x00, 0x45, 0xba, 0x00,
		0x45, 0xab, 0xcd, 0x40, 0x00, 0x3f, 0x06, 0x0b, 0x28, 0xc0, 0x00, 0x02, 0x01, 0xc0, 0x00, 0x02, 0x02,
		0x00, 0x50, 0x9c, 0x40, 0xff, 0xff, 0xff, 0xf0, 0x80, 0x00, 0x00, 0x01, 0xb0, 0x18, 0xff, 0xfe, 0xa6,
		0xb7, 0x00, 0x00, 0x01, 0x01, 0x08, 0x0a, 0xde, 0xad, 0xbe, 0xef, 0x01, 0x02, 0x03, 0x04, 0x01, 0x01,
		0x05, 0x0a, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xf4, 0x74, 0x61, 0x70, 0x61, 0x73,
	};
	static const uint8_t want6[] = {
		0x02, 0x00, 0x00, 0x00, 0x00, 0x09, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x86, 0xdd, 0x6b,
		0xa1, 0x23, 0x45, 0x00, 0x31, 0x06, 0x3f, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00, 0x00,
		0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x01, 0x20, 0x01, 0x0d, 0xb8, 0x00, 0x00, 0x00,
		0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x00, 0x50, 0x9c, 0x40, 0xff, 0xff,
		0xff, 0xf0, 0x80, 0x00, 0x00, 0x01, 0xb0, 0x18, 0xff, 0xfe, 0xcf, 0x46, 0x00, 0x00, 0x01,
		0x01, 0x08, 0x0a, 0xde, 0xad, 0xbe, 0xef, 0x01, 0x02, 0x03, 0x04, 0x01, 0x01, 0x05, 0x0a,
		0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xf4, 0x74, 0x61, 0x70, 0x61, 0x73,
	};
	uint8_t frame[WIRE_HDR_MAX + 8];

	(void)state;
	for (int v6 = 0; v6 < 2; v6++) {
		struct wire_template t = template(v6);
		struct wire_segment s = segment(true, 1);
		uint32_t hdr = wire_header_len(&t, &s);
		uint64_t sum = csum_copy(0, frame + hdr, "tapas", 5);

		assert_int_equal(wire_build(frame, &t, &s, 5, sum) + 5, v6 ? sizeof want6 : sizeof want4);
		assert_memory_equal(frame, v6 ? want6 : want4, hdr + 5);
	}
}

static void fragments_and_ecn(void **state)
{
	struct wire_template t = template(false);
	struct wire_segment s = segment(false, 0);
	uint8_t frame[WIRE_HDR_MAX];
	struct segment got;

	(void)state;
	wire_build(frame, &t, &s, 0, 0);
	assert_int_equal(frame[14 + 6], 0x40);
	assert_int_equal(frame[14 + 4] << 8 | frame[14 + 5], s.ip_id);
	t.dont_fragment = false;
	t.tos = 0xff; /* only the DSCP is the template's */
	s.ecn = 0;
	wire_build(frame, &t, &s, 0, 0);
	assert_int_equal(frame[14 + 6], 0);
	assert_int_equal(wire_parse(frame, wire_header_len(&t, &s), true, &got), WIRE_TCP);
	assert_int_equal(got.tos, 0xfc);
	assert_true(segment_csum_ok(&got, true));
}

static void random_segments(void **state)
{
	(void)state;
	srand(3);
	for (int i = 0; i < 50000; i++) {
		struct wire_template t = template(rand() & 1);
		struct wire_segment s = segment(rand() & 1, (uint8_t)(rand() % 5));
		uint8_t frame[WIRE_HDR_MAX + 256];
		uint32_t len = (uint32_t)rand() % 256, hdr;
		uint64_t sum;

		for (size_t k = 12; k < 16; k++) {
			t.key.local.b[k] = (uint8_t)rand();
			t.key.remote.b[k] = (uint8_t)rand();
		}
		t.key.local_port = (uint16_t)rand();
		t.ttl = (uint8_t)rand();
		t.flow_label = (uint32_t)rand() & 0xfffff;
		s.seq = (uint32_t)rand() << 1;
		s.ack = (uint32_t)rand() << 1;
		s.flags = (uint8_t)rand();
		s.window = (uint16_t)rand();
		s.ecn = rand() & 3;
		hdr = wire_header_len(&t, &s);
		for (uint32_t k = 0; k < len; k++)
			frame[hdr + k] = (uint8_t)rand();
		sum = csum_add(0, frame + hdr, len);
		assert_int_equal(wire_build(frame, &t, &s, len, sum), hdr);
		check(frame, hdr + len, &t, &s, len);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(round_trip),      cmocka_unit_test(writes_the_header_only),
		cmocka_unit_test(known_bytes),     cmocka_unit_test(fragments_and_ecn),
		cmocka_unit_test(random_segments),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
