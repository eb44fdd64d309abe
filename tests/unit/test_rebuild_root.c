/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A connection is built anew in its own socket (shadow/rebuild.c) and goes on with its peer: with
 * bytes unread, bytes never sent, and when somebody shuts it down before it is let go. Skipped
 * unless root.
 */
/* links: shadow/tap.c shadow/address.c service/base/netlink.c service/base/closer.c shadow/sock.c shadow/repair.c shadow/rebuild.c shadow/diag.c shadow/segment.c service/loop/loop.c service/loop/watch.c service/loop/io.c */
/* links: service/wire/build.c service/wire/parse.c service/wire/options.c service/wire/csum.c */
/* links: service/base/addr.c service/base/log.c */
/* libs: -lmnl -luring */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "tests/unit/shadow_lab.h"

#include <linux/tcp.h>

#define UNREAD 1000u
#define UNSENT 5000u
#define BUFFER 8192u

static uint8_t unread[BUFFER], unsent[BUFFER];

static int option(int fd, int level, int name)
{
	socklen_t len = sizeof(int);
	int v = -1;

	getsockopt(fd, level, name, &v, &len);
	return v;
}

/* The connection as the wire knows it, with bytes that only we have. */
static struct sock_rebuild describe(const struct sock_state *st)
{
	for (unsigned i = 0; i < BUFFER; i++) {
		unread[i] = (uint8_t)(i * 7);
		unsent[i] = (uint8_t)(i * 13 + 1);
	}
	return (struct sock_rebuild){
		.key = st->key,
		.v6 = st->v6,
		.snd_una = st->snd_una,
		.rcv_nxt = st->rcv_nxt, /* what is unread lies before that */
		.rcv_wnd = 30000,
		.snd_wnd = st->snd_wnd,
		.max_wnd = st->max_window,
		.snd_wl1 = st->rcv_nxt,
		.snd_wscale = st->snd_wscale,
		.rcv_wscale = st->rcv_wscale,
		.wscale = st->wscale,
		.ts = st->ts,
		.sack = st->sack,
		.ts_now = st->ts_now + 1,
		.unread = {.buf = unread, .off = 0, .size = BUFFER, .len = UNREAD},
		.unsent = {.buf = unsent, .off = BUFFER - 500, .size = BUFFER, .len = UNSENT}, /* over the edge */
	};
}

/* What can be read from @fd within half a second, and whether the end follows. */
static unsigned read_all(int fd, uint8_t *buf, unsigned size, bool *end)
{
	unsigned n = 0;

	*end = false;
	for (unsigned tries = 0; tries < 50 && n < size; tries++) {
		ssize_t got = recv(fd, buf + n, size - n, MSG_DONTWAIT);

		if (got > 0)
			n += (unsigned)got;
		*end = !got;
		if (!got)
			break;
		if (got < 0)
			lab_wait(10);
	}
	return n;
}

/* A connection whose socket hears nothing. */
static struct pair stand_still(bool v6, uint16_t port, struct sock_state *st)
{
	struct pair p = lab_connect(v6 ? "::" : "0.0.0.0", v6, port);

	assert_int_equal(sock_examine(p.fd, st), 0);
	assert_int_equal(sock_state_read(p.fd, st), 0);
	assert_int_equal(sock_filter_attach(p.fd, st->rcv_nxt), 0);
	return p;
}

static void go_on(bool v6, uint16_t port, bool closing, bool shut_late)
{
	struct sock_state st = {0};
	struct pair p = stand_still(v6, port, &st);
	struct sock_rebuild r = describe(&st);
	int reuse = option(p.fd, SOL_SOCKET, SO_REUSEADDR);
	uint8_t got[BUFFER];
	bool end;

	r.closing = closing;
	sock_filter_detach(p.fd);
	lab_redirect(v6, port, true); /* as in the service: what it sends in repair mode does not leave the host */
	assert_int_equal(sock_rebuild(p.fd, &r), 0);
	assert_int_equal(option(p.fd, IPPROTO_TCP, TCP_REPAIR), 1);
	if (shut_late) {
		assert_int_equal(shutdown(p.fd, SHUT_WR), 0);
		assert_int_equal(sock_tcp_state(p.fd), 4); /* FIN_WAIT1: before the bytes that were never sent */
		r.closing = true;
		assert_int_equal(sock_rebuild(p.fd, &r), 0);
	}
	assert_int_equal(sock_tcp_state(p.fd), 1);
	lab_redirect(v6, port, false);
	assert_int_equal(sock_resume(p.fd, &r), 0);
	assert_int_equal(option(p.fd, IPPROTO_TCP, TCP_REPAIR), 0);
	assert_int_equal(option(p.fd, SOL_SOCKET, SO_REUSEADDR), reuse);
	assert_int_equal(read_all(p.fd, got, UNREAD, &end), UNREAD);
	assert_memory_equal(got, unread, UNREAD);
	assert_int_equal(read_all(p.peer, got, UNSENT, &end), UNSENT);
	assert_memory_equal(got, unsent + BUFFER - 500, 500);
	assert_memory_equal(got + 500, unsent, UNSENT - 500);
	assert_int_equal(read_all(p.peer, got, 1, &end), 0);
	assert_true(end == (closing || shut_late));
	assert_int_equal(send(p.peer, "answer", 6, MSG_NOSIGNAL), 6);
	assert_int_equal(read_all(p.fd, got, 6, &end), 6);
	assert_memory_equal(got, "answer", 6);
	pair_close(&p);
}

static void test_goes_on(void **state)
{
	(void)state;
	go_on(false, 7100, false, false);
	go_on(true, 7101, false, false);
}

static void test_closing(void **state)
{
	(void)state;
	go_on(false, 7110, true, false);
}

/* shutdown() by a program that knows nothing of it, while the socket is in repair mode. */
static void test_shut_meanwhile(void **state)
{
	(void)state;
	go_on(false, 7120, false, true);
	go_on(true, 7121, false, true);
	go_on(false, 7122, true, true);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_goes_on),
		cmocka_unit_test(test_closing),
		cmocka_unit_test(test_shut_meanwhile),
	};

	if (geteuid()) {
		puts("skipped: needs root");
		return 0;
	}
	return cmocka_run_group_tests(tests, lab_setup, lab_teardown);
}
