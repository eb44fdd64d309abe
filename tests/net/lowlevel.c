// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * lowlevel echo PORT                       an echo server on libtapas, until SIGTERM
 * lowlevel load IP PORT CONNS BYTES        that many connections on libtapas, each sends BYTES of a pattern to an
 *                                          echo server and compares what comes back; moves each to a second context
 *                                          half way
 * Exit status 1 if a byte or a connection was wrong. Prints how many connections were FAST.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "preload/tapas.h"

#define PERIOD 16381
#define BATCH 64

static volatile sig_atomic_t stop;

static void on_signal(int signo)
{
	(void)signo;
	stop = 1;
}

static int die(const char *what, long rc)
{
	fprintf(stderr, "lowlevel: %s: %s\n", what, strerror((int)-rc));
	exit(1);
}

/* ---- echo: what did not fit into the transmit buffer stays in the receive buffer ---- */

struct echo {
	struct tapas_connection *conn;
	struct {
		uint8_t *buf;
		size_t len;
	} held[8];
	int helds, closed;
};

static void echo_push(struct echo *e)
{
	while (e->helds) {
		void *a, *b;
		size_t alen;
		long got = tapas_tx_alloc(e->conn, e->held[0].len, &a, &alen, &b);

		if (got <= 0)
			return;
		memcpy(a, e->held[0].buf, alen);
		memcpy(b, e->held[0].buf + alen, (size_t)got - alen);
		if (tapas_tx_send(e->conn, (size_t)got) || tapas_rx_free(e->conn, (size_t)got))
			return;
		e->held[0].buf += got;
		e->held[0].len -= (size_t)got;
		if (e->held[0].len)
			return;
		memmove(&e->held[0], &e->held[1], sizeof e->held[0] * (size_t)--e->helds);
	}
	if (e->closed) {
		tapas_close(e->conn);
		free(e);
	}
}

static void echo_event(struct tapas_context *ctx, const struct tapas_event *ev, int *fast)
{
	struct echo *e = ev->opaque;

	switch (ev->type) {
	case TAPAS_LISTEN_NEW:
		e = calloc(1, sizeof *e);
		if (tapas_accept(ctx, ev->listener, e, &e->conn))
			free(e);
		return;
	case TAPAS_CONN_RECEIVED:
		if (e->helds == 8)
			die("too many pieces", -ENOBUFS);
		e->held[e->helds].buf = ev->buf;
		e->held[e->helds++].len = ev->len;
		echo_push(e);
		return;
	case TAPAS_CONN_SENDBUF:
		echo_push(e);
		return;
	case TAPAS_CONN_CLOSED:
		*fast += tapas_is_fast(e->conn);
		e->closed = 1;
		if (ev->status)
			e->helds = 0;
		echo_push(e);
		return;
	case TAPAS_CONN_OPEN:
	case TAPAS_CONN_MOVED:
		return;
	}
}

static int echo(int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	struct tapas_context *ctx;
	struct tapas_listener *l;
	struct tapas_event ev[BATCH];
	int rc, fast = 0;

	if ((rc = tapas_context_create(&ctx)))
		die("context", rc);
	if ((rc = tapas_listen(ctx, (struct sockaddr *)&a, sizeof a, 128, NULL, &l)))
		die("listen", rc);
	puts("ready");
	fflush(stdout);
	while (!stop) {
		int n = tapas_context_poll(ctx, BATCH, ev, 200);

		for (int i = 0; i < n; i++)
			echo_event(ctx, &ev[i], &fast);
	}
	printf("%d fast\n", fast);
	tapas_listener_close(l);
	tapas_context_destroy(ctx);
	return 0;
}

/* ---- load ---- */

struct load {
	struct tapas_connection *conn;
	size_t sent, got, total;
	uint32_t shift;
	int moved, done;
};

static uint8_t pattern(const struct load *c, size_t at)
{
	return (uint8_t)((at + c->shift) % PERIOD * 31 >> 3);
}

static void load_send(struct load *c)
{
	while (c->sent < c->total) {
		void *a, *b;
		size_t alen;
		long n = tapas_tx_alloc(c->conn, c->total - c->sent, &a, &alen, &b);

		if (n <= 0)
			return;
		for (size_t i = 0; i < (size_t)n; i++)
			*(i < alen ? (uint8_t *)a + i : (uint8_t *)b + (i - alen)) = pattern(c, c->sent + i);
		if (tapas_tx_send(c->conn, (size_t)n))
			die("send", -EIO);
		c->sent += (size_t)n;
	}
}

static void load_received(struct load *c, const struct tapas_event *ev, struct tapas_context *other)
{
	const uint8_t *p = ev->buf;

	for (size_t i = 0; i < ev->len; i++)
		if (p[i] != pattern(c, c->got + i))
			die("wrong byte", -EBADMSG);
	c->got += ev->len;
	if (tapas_rx_free(c->conn, ev->len))
		die("free", -EINVAL);
	if (!c->moved && c->got > c->total / 2) {
		c->moved = 1;
		if (tapas_move(c->conn, other))
			die("move", -EINVAL);
	}
}

static int load(char **argv)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
	int conns = atoi(argv[2]), left = conns, fast = 0, rc;
	struct load *all = calloc((size_t)conns, sizeof *all);
	struct tapas_context *ctx[2];
	struct tapas_event ev[BATCH];

	inet_aton(argv[0], &a.sin_addr);
	if ((rc = tapas_context_create(&ctx[0])) || (rc = tapas_context_create(&ctx[1])))
		die("context", rc);
	for (int i = 0; i < conns; i++) {
		all[i] = (struct load){.total = (size_t)atol(argv[3]), .shift = (uint32_t)i * 97};
		if ((rc = tapas_connect(ctx[0], (struct sockaddr *)&a, sizeof a, &all[i], &all[i].conn)))
			die("connect", rc);
	}
	for (int turn = 0; left && turn < 400000; turn++) {
		struct tapas_context *here = ctx[turn & 1];
		int n = tapas_context_poll(here, BATCH, ev, 1);

		for (int i = 0; i < n; i++) {
			struct load *c = ev[i].opaque;

			if (c->done)
				continue;
			if ((ev[i].type == TAPAS_CONN_OPEN || ev[i].type == TAPAS_CONN_CLOSED) && ev[i].status)
				die("connection", ev[i].status);
			if (ev[i].type == TAPAS_CONN_CLOSED)
				die("closed early", -EPIPE);
			if (ev[i].type == TAPAS_CONN_RECEIVED)
				load_received(c, &ev[i], ctx[!(turn & 1)]);
			load_send(c);
			if (c->got == c->total) {
				fast += tapas_is_fast(c->conn);
				c->done = 1;
				left--;
				tapas_close(c->conn); /* further events of this batch find it done */
			}
		}
	}
	printf("%d fast\n", fast);
	tapas_context_destroy(ctx[0]);
	tapas_context_destroy(ctx[1]);
	return left ? 1 : 0;
}

int main(int argc, char **argv)
{
	signal(SIGTERM, on_signal);
	if (argc == 3 && !strcmp(argv[1], "echo"))
		return echo(atoi(argv[2]));
	if (argc == 6 && !strcmp(argv[1], "load"))
		return load(argv + 2);
	fprintf(stderr, "usage: see the head of lowlevel.c\n");
	return 2;
}
