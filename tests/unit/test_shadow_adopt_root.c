/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The shadow of real connections: the queues' copies, the filter, the heartbeat and what Linux
 * says in each state, roll-back, ICMP errors. Skipped unless root.
 */
/* links: shadow/tap.c shadow/address.c service/base/netlink.c service/base/closer.c shadow/sock.c shadow/repair.c shadow/diag.c shadow/segment.c service/loop/loop.c service/loop/watch.c service/loop/io.c */
/* links: service/wire/build.c service/wire/parse.c service/wire/options.c service/wire/csum.c */
/* links: service/base/addr.c service/base/log.c */
/* libs: -lmnl -luring */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "tests/unit/shadow_lab.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "service/tcp/seq.h"
#include "service/wire/csum.h"

/* ---- asking ---- */

static struct shadow_seq seq_of(const struct sock_state *st)
{
	struct shadow_seq s = {.key = st->key, .rcv_nxt = st->rcv_nxt, .snd_nxt = st->snd_una, .vary = 7};

	memcpy(s.nic_mac, lab.mac, 6);
	memcpy(s.peer_mac, lab.peer_mac, 6);
	return s;
}

/* The next TCP frame for @key from the TAP, or false. */
struct wanted {
	const struct flow_key *key;
	struct segment *seg;
	unsigned next;
};

static bool segment_there(void *ctx)
{
	struct wanted *w = ctx;

	while (w->next < lab.frames) {
		unsigned i = w->next++;

		if (wire_parse(lab.frame[i].data, lab.frame[i].len, true, w->seg) == WIRE_TCP &&
		    flow_key_equal(&w->seg->key, w->key)) {
			assert_true(segment_csum_ok(w->seg, true));
			return true;
		}
	}
	return false;
}

static bool hear(const struct flow_key *key, struct segment *seg, unsigned ms)
{
	struct wanted w = {key, seg, 0};

	return lab_run(segment_there, &w, ms);
}

static bool ask(struct shadow_seq *s, struct segment *answer)
{
	uint8_t buf[128];
	uint32_t len = shadow_heartbeat(s, buf);

	lab_forget();
	assert_int_equal(tap_write(lab.tap, buf, len), 0);
	return hear(&s->key, answer, 300);
}

static void tell(const uint8_t *buf, uint32_t len)
{
	assert_int_equal(tap_write(lab.tap, buf, len), 0);
	lab_wait(20);
}

static int readable(int fd)
{
	int n = -1;

	ioctl(fd, FIONREAD, &n);
	return n;
}

static int unacked(int fd)
{
	int n = -1;

	ioctl(fd, SIOCOUTQ, &n);
	return n;
}

/* Steps of an adoption up to the first heartbeat, frames already redirected. */
static struct sock_state adopt(struct pair *p)
{
	struct sock_state st = {0};

	assert_int_equal(sock_examine(p->fd, &st), 0);
	lab_redirect(p->v6, p->port, true);
	assert_int_equal(sock_filter_attach_closed(p->fd), 0);
	assert_int_equal(sock_state_read(p->fd, &st), 0);
	assert_int_equal(sock_filter_attach(p->fd, st.rcv_nxt), 0);
	return st;
}

/* ---- adoption ---- */

static void pattern(uint8_t *buf, uint32_t len, uint8_t first)
{
	for (uint32_t i = 0; i < len; i++)
		buf[i] = (uint8_t)(first + i * 7 + (i >> 8));
}

/* Queues in both directions, copied, heartbeat answered, then acknowledged. */
static void adoption(bool v6, const char *listen_on, uint16_t port)
{
	static uint8_t rx[8192], tx[8192], in[3000], out[5000];
	struct pair p = lab_connect(listen_on, v6, port);
	struct wire_template t = {0};
	struct shadow_seq s;
	struct sock_state st;
	struct segment seg;
	uint8_t buf[128];

	pattern(in, sizeof in, 1);
	pattern(out, sizeof out, 2);
	assert_int_equal(send(p.peer, in, sizeof in, 0), sizeof in);
	lab_wait(30);
	lab_redirect(v6, port, true);
	assert_int_equal(send(p.fd, out, sizeof out, 0), sizeof out); /* goes into the TAP: stays unacknowledged */
	lab_wait(10);
	lab_redirect(v6, port, false);
	st = adopt(&p);
	assert_int_equal(st.rcv_queued, sizeof in);
	assert_int_equal(st.write_seq - st.snd_una, sizeof out);
	assert_int_equal(sock_peek_received(p.fd, rx, 1024, st.rcv_queued), -ENOBUFS);
	assert_int_equal(sock_peek_received(p.fd, rx, sizeof rx, st.rcv_queued), 0);
	assert_memory_equal(rx, in, sizeof in);
	assert_int_equal(sock_peek_received(p.fd, rx, sizeof rx, st.rcv_queued + 1), -EAGAIN);
	assert_int_equal(sock_peek_unacked(p.fd, tx, sizeof tx, sizeof out), 0);
	assert_memory_equal(tx, out, sizeof out);
	assert_int_equal(sock_peek_unacked(p.fd, tx, sizeof tx, sizeof out + 1), -EAGAIN);
	assert_int_equal(repair(p.fd), 0);

	s = seq_of(&st);
	for (int tries = 0; tries < 5; tries++) { /* Linux may repeat its unacknowledged data meanwhile */
		assert_true(ask(&s, &seg));
		if (!seg.len)
			break;
	}
	s.snd_nxt = seg.seq; /* it may not have sent all of its queue */
	assert_true(seq_geq(seg.seq, st.snd_una) && seq_leq(seg.seq, st.write_seq));
	assert_int_equal(shadow_classify(&s, &seg), SHADOW_ACK);
	shadow_template(&seg, &t);
	assert_memory_equal(t.dst_mac, lab.peer_mac, 6);
	assert_memory_equal(t.src_mac, lab.mac, 6);
	assert_int_equal(t.ttl, 64);
	assert_true(t.dont_fragment);

	assert_int_equal(sock_discard_received(p.fd, st.rcv_queued), 0);
	assert_int_equal(readable(p.fd), 0);
	s.snd_nxt = st.write_seq;
	lab_wait(10);
	tell(buf, shadow_ack(&s, buf, st.write_seq - 100)); /* in the middle of a segment */
	assert_int_equal(unacked(p.fd), 100);
	assert_int_equal(sock_peek_unacked(p.fd, tx, sizeof tx, 100), 0);
	assert_memory_equal(tx, out + sizeof out - 100, 100);
	tell(buf, shadow_ack(&s, buf, st.write_seq));
	assert_int_equal(unacked(p.fd), 0);
	assert_true(ask(&s, &seg));
	assert_int_equal(shadow_classify(&s, &seg), SHADOW_ACK);
	lab_redirect(v6, port, false);
	pair_close(&p);
}

static void test_adoption(void **state)
{
	(void)state;
	adoption(false, "0.0.0.0", 7020);
	adoption(true, "::", 7021);
	adoption(false, "::", 7022);
}

/* Wire bytes stay out while the filter is there, and after roll-back nothing is missing. */
static void test_filter_and_rollback(void **state)
{
	struct pair p = lab_connect("0.0.0.0", false, 7030);
	struct sock_state st = adopt(&p), again = st;
	struct shadow_seq s = seq_of(&st);
	struct segment seg;
	char buf[4000];

	(void)state;
	memset(buf, 'w', sizeof buf);
	assert_int_equal(send(p.peer, buf, sizeof buf, 0), sizeof buf);
	assert_int_equal(send(p.peer, "x", 1, 0), 1);
	lab_wait(50);
	assert_int_equal(readable(p.fd), 0);
	assert_true(ask(&s, &seg));
	assert_int_equal(shadow_classify(&s, &seg), SHADOW_ACK);
	assert_int_equal(sock_state_read(p.fd, &again), 0);
	assert_int_equal(again.rcv_nxt, st.rcv_nxt);
	/* back to Linux */
	assert_int_equal(sock_filter_detach(p.fd), 0);
	assert_int_equal(sock_filter_detach(p.fd), 0); /* none there: nothing to do */
	lab_redirect(false, 7030, false);
	assert_int_equal(recv(p.fd, buf, sizeof buf, MSG_WAITALL), sizeof buf);
	assert_int_equal(recv(p.fd, buf, 1, 0), 1);
	assert_int_equal(buf[0], 'x');
	assert_int_equal(send(p.fd, "back", 4, 0), 4);
	assert_int_equal(recv(p.peer, buf, 4, MSG_WAITALL), 4);
	pair_close(&p);
}

/* A byte that came in between reading and filtering shows in the heartbeat's answer. */
static void test_moved(void **state)
{
	struct pair p = lab_connect("0.0.0.0", false, 7031);
	struct sock_state st = {0};
	struct shadow_seq s;
	struct segment seg;

	(void)state;
	assert_int_equal(sock_examine(p.fd, &st), 0);
	assert_int_equal(sock_state_read(p.fd, &st), 0);
	assert_int_equal(send(p.peer, "late", 4, 0), 4);
	lab_wait(20);
	lab_redirect(false, 7031, true);
	assert_int_equal(sock_filter_attach(p.fd, st.rcv_nxt), 0);
	s = seq_of(&st);
	assert_true(ask(&s, &seg));
	assert_int_equal(shadow_classify(&s, &seg), SHADOW_MOVED);
	lab_redirect(false, 7031, false);
	pair_close(&p);
}

static void test_fin_and_stray(void **state)
{
	struct pair p = lab_connect("0.0.0.0", false, 7032);
	struct sock_state st = adopt(&p);
	struct shadow_seq s = seq_of(&st), after;
	struct segment seg;
	uint8_t buf[128];
	char c;

	(void)state;
	lab_forget();
	tell(buf, shadow_fin(&s, buf));
	assert_int_equal(recv(p.fd, &c, 1, 0), 0);
	after = s;
	after.rcv_nxt++;
	assert_true(ask(&s, &seg)); /* the old byte is still where it was */
	assert_int_equal(seg.ack, st.rcv_nxt + 1);
	assert_int_equal(shadow_classify(&after, &seg), SHADOW_ACK);
	lab_forget();
	assert_int_equal(send(p.fd, "stray", 5, 0), 5);
	assert_true(hear(&st.key, &seg, 300));
	assert_int_equal(shadow_classify(&after, &seg), SHADOW_STRAY);
	tell(buf, shadow_ack(&after, buf, st.write_seq + 5));
	assert_int_equal(unacked(p.fd), 0);
	after.snd_nxt = st.write_seq + 5;
	lab_forget();
	shutdown(p.fd, SHUT_WR);
	assert_true(hear(&st.key, &seg, 300));
	assert_int_equal(shadow_classify(&after, &seg), SHADOW_FIN);
	lab_redirect(false, 7032, false);
	pair_close(&p);
}

static void test_rst(void **state)
{
	struct pair p = lab_connect("0.0.0.0", false, 7033);
	struct sock_state st = adopt(&p);
	struct shadow_seq s = seq_of(&st);
	struct segment seg;
	uint8_t buf[128];
	char c;

	(void)state;
	tell(buf, shadow_rst(&s, buf, 100)); /* not exact: stays out */
	assert_true(ask(&s, &seg));
	assert_int_equal(shadow_classify(&s, &seg), SHADOW_ACK);
	tell(buf, shadow_rst(&s, buf, 0));
	assert_int_equal(recv(p.fd, &c, 1, 0), -1);
	assert_int_equal(errno, ECONNRESET);
	assert_true(ask(&s, &seg));
	assert_int_equal(shadow_classify(&s, &seg), SHADOW_RST);
	lab_redirect(false, 7033, false);
	pair_close(&p);
}

/* Rules decide: silence when they drop, RST when they reject; speaking helps after a conntrack flush. */
static void test_verdicts(void **state)
{
	struct pair p = lab_connect("0.0.0.0", false, 7034);
	struct sock_state st = adopt(&p);
	struct shadow_seq s = seq_of(&st);
	struct segment seg;

	(void)state;
	if (sh("nft -f - <<X\ntable inet shd { chain i { type filter hook input priority 0; tcp dport 7034 drop; }\n "
	       "}\nX"))
		skip();
	assert_false(ask(&s, &seg));
	sh_ok("nft flush chain inet shd i");
	assert_true(ask(&s, &seg));
	assert_int_equal(shadow_classify(&s, &seg), SHADOW_ACK);
	sh_ok("nft add rule inet shd i iifname shd0 tcp dport 7034 reject with tcp reset");
	assert_true(ask(&s, &seg));
	assert_int_equal(shadow_classify(&s, &seg), SHADOW_RST);
	sh_ok("nft delete table inet shd");
	lab_forget();
	assert_int_equal(sock_make_speak(p.fd), 0);
	assert_true(hear(&st.key, &seg, 300));
	assert_int_equal(seg.len, 0);
	assert_int_equal(shadow_classify(&s, &seg), SHADOW_DATA); /* a question, not a verdict */
	assert_int_equal(repair(p.fd), 0);
	lab_redirect(false, 7034, false);
	pair_close(&p);
}

/* ---- ICMP ---- */

/* "Fragmentation needed" about the flow, quoting @seq of the wire. */
static uint32_t icmp_frame(uint8_t *f, const struct sock_state *st, uint32_t seq, uint16_t mtu)
{
	static const uint8_t head[] = {0x45, 0, 0, 56, 0, 1, 0, 0, 64, IPPROTO_ICMP, 0, 0};
	static const uint8_t inner[] = {0x45, 0, 5, 0xdc, 0, 2, 0x40, 0, 64, IPPROTO_TCP, 0, 0};
	uint16_t sum, be = htons(mtu);

	memset(f, 0, 70);
	memcpy(f, lab.mac, 6);
	memcpy(f + 6, lab.peer_mac, 6);
	f[12] = 8;
	memcpy(f + 14, head, sizeof head);
	memcpy(f + 26, &st->key.remote.w[3], 4);
	memcpy(f + 30, &st->key.local.w[3], 4);
	sum = (uint16_t)~csum_fold(csum_add(0, f + 14, 20));
	memcpy(f + 24, &sum, 2);
	f[34] = 3;
	f[35] = 4;
	memcpy(f + 40, &be, 2);
	memcpy(f + 42, inner, sizeof inner);
	memcpy(f + 54, &st->key.local.w[3], 4);
	memcpy(f + 58, &st->key.remote.w[3], 4);
	sum = (uint16_t)~csum_fold(csum_add(0, f + 42, 20));
	memcpy(f + 52, &sum, 2);
	memcpy(f + 62, &st->key.local_port, 2);
	memcpy(f + 64, &st->key.remote_port, 2);
	seq = htonl(seq);
	memcpy(f + 66, &seq, 4);
	sum = (uint16_t)~csum_fold(csum_add(0, f + 34, 36));
	memcpy(f + 36, &sum, 2);
	return 70;
}

static void test_icmp(void **state)
{
	struct pair p = lab_connect("0.0.0.0", false, 7040);
	uint32_t wire_una = 0x12345678, n, quoted;
	struct sock_state st = adopt(&p);
	struct shadow_seq s = seq_of(&st);
	uint8_t frame[128], buf[128];
	struct tcp_info info = {0};
	socklen_t len = sizeof info;

	(void)state;
	n = icmp_frame(frame, &st, wire_una + 3000, 1200);
	assert_int_equal(shadow_icmp(&s, buf, 32, frame, n, wire_una), 0);
	assert_int_equal(shadow_icmp(&s, buf, sizeof buf, frame, 60, wire_una), 0);
	assert_int_equal(shadow_icmp(&s, buf, sizeof buf, frame, n, wire_una + 4000), n);
	memcpy(&quoted, buf + 66, 4);
	assert_int_equal(ntohl(quoted), st.snd_una - 1000); /* stale stays stale */
	assert_int_equal(shadow_icmp(&s, buf, sizeof buf, frame, n, wire_una), n);
	memcpy(&quoted, buf + 66, 4);
	assert_int_equal(ntohl(quoted), st.snd_una);
	assert_int_equal(csum_fold(csum_add(0, buf + 34, 36)), 0xffff);
	tell(buf, n);
	assert_int_equal(getsockopt(p.fd, IPPROTO_TCP, TCP_INFO, &info, &len), 0);
	assert_int_equal(info.tcpi_pmtu, 1200);
	lab_redirect(false, 7040, false);
	pair_close(&p);
}

/* ---- how long ---- */

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void test_times(void **state)
{
	enum { N = 50 };
	struct pair p = lab_connect("0.0.0.0", false, 7070);
	struct sock_state st = adopt(&p);
	struct shadow_seq s = seq_of(&st);
	uint64_t examine[N], rd[N], hb[N], dg[N], t;
	struct segment seg;
	unsigned answered = 0;

	(void)state;
	sock_filter_detach(p.fd);
	for (unsigned i = 0; i < N; i++) {
		t = clock_now_ns();
		assert_int_equal(sock_examine(p.fd, &st), 0);
		examine[i] = clock_now_ns() - t;
		t = clock_now_ns();
		assert_int_equal(sock_state_read(p.fd, &st), 0);
		rd[i] = clock_now_ns() - t;
		t = clock_now_ns();
		assert_int_equal(sock_is_orphan(&st.key), 0);
		dg[i] = clock_now_ns() - t;
	}
	assert_int_equal(sock_filter_attach(p.fd, st.rcv_nxt), 0);
	for (unsigned i = 0; i < N; i++) {
		t = clock_now_ns();
		answered += ask(&s, &seg) && shadow_classify(&s, &seg) == SHADOW_ACK;
		hb[i] = clock_now_ns() - t;
	}
	assert_int_equal(answered, N);
	qsort(examine, N, sizeof t, by_value);
	qsort(rd, N, sizeof t, by_value);
	qsort(dg, N, sizeof t, by_value);
	qsort(hb, N, sizeof t, by_value);
	print_message("median us: examine %.1f, state %.1f, orphan query %.1f, heartbeat round trip %.1f (p90 %.1f)\n",
		      (double)examine[N / 2] / 1e3, (double)rd[N / 2] / 1e3, (double)dg[N / 2] / 1e3,
		      (double)hb[N / 2] / 1e3, (double)hb[N * 9 / 10] / 1e3);
	lab_redirect(false, 7070, false);
	pair_close(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_adoption), cmocka_unit_test(test_filter_and_rollback),
		cmocka_unit_test(test_moved),    cmocka_unit_test(test_fin_and_stray),
		cmocka_unit_test(test_rst),      cmocka_unit_test(test_verdicts),
		cmocka_unit_test(test_icmp),     cmocka_unit_test(test_times),
	};

	if (geteuid()) {
		puts("skipped: needs root");
		return 0;
	}
	return cmocka_run_group_tests(tests, lab_setup, lab_teardown);
}
