/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Segments in the shadow's space: what is built parses back, and what Linux says is read right. */
/* links: shadow/segment.c service/wire/build.c service/wire/parse.c service/wire/options.c service/wire/csum.c */
/* links: service/base/addr.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "service/base/addr.h"
#include "shadow/shadow.h"

#define RCV 0x00000000u /* wraps below */
#define SND 0xfffffff0u

static struct shadow_seq seq_make(const char *local, const char *remote)
{
	struct shadow_seq s = {.nic_mac = {2, 1}, .peer_mac = {2, 2}, .rcv_nxt = RCV, .snd_nxt = SND, .vary = 0x7fff};

	assert_int_equal(ip_addr_parse(local, &s.key.local), 0);
	assert_int_equal(ip_addr_parse(remote, &s.key.remote), 0);
	s.key.local_port = htons(80);
	s.key.remote_port = htons(40000);
	return s;
}

static struct segment parse(const uint8_t *buf, uint32_t len)
{
	struct segment seg;

	assert_true(len <= 128);
	assert_int_equal(wire_parse(buf, len, false, &seg), WIRE_TCP);
	assert_true(segment_csum_ok(&seg, false));
	assert_false(seg.opt.has_ts);
	return seg;
}

static void build_family(const char *local, const char *remote)
{
	struct shadow_seq s = seq_make(local, remote);
	uint8_t buf[128];
	uint16_t window;
	struct segment g;
	uint32_t beat;

	memset(buf, 0xee, sizeof buf);
	beat = shadow_heartbeat(&s, buf);
	g = parse(buf, beat);
	assert_true(flow_key_equal(&g.key, &s.key));
	assert_memory_equal(g.eth, s.nic_mac, 6);
	assert_memory_equal(g.eth + 6, s.peer_mac, 6);
	assert_int_equal(g.len, 1);
	assert_int_equal(g.seq, RCV - 1);
	assert_int_equal(g.ack, SND);
	assert_int_equal(g.flags, TCP_ACK);
	window = g.window;
	assert_true(window >= 0x8000);
	g = parse(buf, shadow_heartbeat(&s, buf));
	assert_int_not_equal(g.window, window);
	assert_true(g.window >= 0x8000);
	g = parse(buf, shadow_ack(&s, buf, SND + 32));
	assert_int_equal(g.seq, RCV);
	assert_int_equal(g.ack, SND + 32);
	assert_int_equal(g.len, 0);
	g = parse(buf, shadow_fin(&s, buf));
	assert_true(g.payload - buf > beat - 1); /* with headers of one length Linux might join the two */
	assert_int_equal(g.flags, TCP_FIN | TCP_ACK);
	assert_int_equal(g.seq, RCV);
	g = parse(buf, shadow_rst(&s, buf, -5));
	assert_true(g.flags & TCP_RST);
	assert_int_equal(g.seq, RCV - 5);
}

static void test_build(void **state)
{
	(void)state;
	build_family("10.0.0.1", "10.0.0.2");
	build_family("fd00::1", "fd00::2");
}

static enum shadow_says says(uint8_t flags, uint32_t seq, uint32_t ack, uint32_t len)
{
	struct shadow_seq s = seq_make("10.0.0.1", "10.0.0.2");
	struct segment g = {.flags = flags, .seq = seq, .ack = ack, .len = len};

	return shadow_classify(&s, &g);
}

static void test_classify(void **state)
{
	(void)state;
	assert_int_equal(says(TCP_ACK, SND, RCV, 0), SHADOW_ACK);
	assert_int_equal(says(TCP_ACK | TCP_ECE, SND, RCV, 0), SHADOW_ACK);
	assert_int_equal(says(TCP_ACK, SND, RCV + 1, 0), SHADOW_MOVED);
	assert_int_equal(says(TCP_ACK, SND, RCV - 1, 0), SHADOW_MOVED);
	assert_int_equal(says(TCP_ACK, SND - 1, RCV, 0), SHADOW_DATA); /* keepalive or window probe */
	assert_int_equal(says(TCP_ACK, SND - 2, RCV, 0), SHADOW_OTHER);
	assert_int_equal(says(TCP_ACK, SND + 1, RCV, 0), SHADOW_OTHER);
	assert_int_equal(says(TCP_RST, 0, 0, 0), SHADOW_RST);
	assert_int_equal(says(TCP_RST | TCP_ACK, SND, RCV, 0), SHADOW_RST);
	assert_int_equal(says(TCP_FIN | TCP_ACK, SND, RCV, 0), SHADOW_FIN);
	assert_int_equal(says(TCP_FIN, SND, 0, 0), SHADOW_FIN);
	assert_int_equal(says(TCP_FIN | TCP_ACK, SND - 10, RCV, 10), SHADOW_FIN);
	assert_int_equal(says(TCP_FIN | TCP_ACK, SND, RCV, 10), SHADOW_STRAY);
	assert_int_equal(says(TCP_ACK | TCP_PSH, SND - 10, RCV, 10), SHADOW_DATA);
	assert_int_equal(says(TCP_ACK | TCP_PSH, SND - 10, RCV, 11), SHADOW_STRAY);
	assert_int_equal(says(TCP_ACK | TCP_PSH, SND, RCV, 100), SHADOW_STRAY); /* over the wrap */
	assert_int_equal(says(TCP_SYN, SND, 0, 0), SHADOW_OTHER);
	assert_int_equal(says(TCP_SYN | TCP_ACK, SND, RCV, 0), SHADOW_OTHER);
	assert_int_equal(says(0, SND, RCV, 0), SHADOW_OTHER);
}

static void test_template(void **state)
{
	struct shadow_seq s = seq_make("10.0.0.1", "10.0.0.2");
	struct wire_template t = {0};
	struct segment g;
	uint8_t buf[128];

	(void)state;
	g = parse(buf, shadow_ack(&s, buf, SND));
	g.tos = 0xb9; /* DSCP EF, ECT(1) */
	g.ttl = 42;
	shadow_template(&g, &t);
	assert_int_equal(t.tos, 0xb8);
	assert_int_equal(t.ttl, 42);
	assert_true(t.dont_fragment);
	assert_memory_equal(t.dst_mac, s.nic_mac, 6);
	assert_memory_equal(t.src_mac, s.peer_mac, 6);
	buf[20] = 0;
	shadow_template(&g, &t);
	assert_false(t.dont_fragment);
}

/* Frames cut short or of another kind are refused at every length. */
static void test_icmp_short(void **state)
{
	struct shadow_seq s = seq_make("10.0.0.1", "10.0.0.2");
	uint8_t f[70] = {0}, out[128];

	(void)state;
	f[12] = 8;
	f[14] = 0x45;
	f[23] = IPPROTO_ICMP;
	f[42] = 0x45;
	f[51] = IPPROTO_TCP;
	assert_int_equal(shadow_icmp(&s, out, sizeof out, f, sizeof f, 0), sizeof f);
	for (uint32_t len = 0; len < sizeof f; len++)
		assert_int_equal(shadow_icmp(&s, out, sizeof out, f, len, 0), 0);
	f[42] = 0x4f; /* a quoted header that reaches beyond the frame */
	assert_int_equal(shadow_icmp(&s, out, sizeof out, f, sizeof f, 0), 0);
	f[42] = 0x45;
	f[51] = IPPROTO_UDP;
	assert_int_equal(shadow_icmp(&s, out, sizeof out, f, sizeof f, 0), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_build),
		cmocka_unit_test(test_classify),
		cmocka_unit_test(test_template),
		cmocka_unit_test(test_icmp_short),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
