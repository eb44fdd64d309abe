// SPDX-License-Identifier: GPL-2.0-or-later
/* SO_SNDBUF and SO_RCVBUF: how much a connection takes before somebody waits, whenever they are set. */
#include "tests/posix/posix.h"

#define TOTAL 3000000
#define SMALL 10000 /* what is asked for; less than what a connection takes without */
#define LARGE 200000
#define PEER_WINDOW 65536 /* what the peer takes before it is read, in the tests about sending */
/* what is taken, whoever counts it how; the usual buffer of 64 KB is neither */
#define SMALL_MOST 50000
#define LARGE_LEAST 100000

static char buf[100000];

enum when { LISTENER, ADOPTED };

static void buffer_set(int fd, int name, int size)
{
	tell(setsockopt(fd, SOL_SOCKET, name, &size, sizeof(size)), "%s %d", name == SO_SNDBUF ? "SNDBUF" : "RCVBUF",
	     size);
}

static void buffer_say(int fd, int name)
{
	socklen_t len = sizeof(int);
	int size = -1;

	tell(getsockopt(fd, SOL_SOCKET, name, &size, &len), "the size");
	say("%d", size);
}

/* A connection with a buffer of @size; (case's b) set on its listener, or when it was accelerated. */
static struct conn *conn_sized(int name, int size)
{
	int l = listener_open(8, 0);
	struct conn *c;

	if (this_case->b == LISTENER)
		buffer_set(l, name, size);
	c = conn_accept_by(l);
	if (this_case->b == ADOPTED) {
		buffer_set(c->fd, name, size);
		c->fast = false;
		conn_warm(c); /* it is accelerated again */
	}
	buffer_say(c->fd, name);
	return c;
}

static void taken_say(int64_t n)
{
	if (this_case->a == SMALL)
		say("little is taken: %s", n < SMALL_MOST ? "yes" : "no");
	else
		say("much is taken: %s", n >= LARGE_LEAST ? "yes" : "no");
}

static void snd(void)
{
	struct conn *c = conn_sized(SO_SNDBUF, (int)this_case->a);
	int64_t total;

	peer(PEER_OPTION, c, (int64_t)SOL_SOCKET << 32 | SO_RCVBUF, SMALL);
	total = fill_up(c->fd);
	taken_say(total - PEER_WINDOW);
	say("all came: %s", peer(PEER_RECV, c, total, 0) == total ? "yes" : "no");
	buffer_say(c->fd, SO_SNDBUF);
}

static void rcv(void)
{
	struct conn *c = conn_sized(SO_RCVBUF, (int)this_case->a);
	int64_t total = 0;
	ssize_t n;

	peer_later(0, PEER_SEND, c, TOTAL, 1);
	pause_ms(300);
	taken_say(recv(c->fd, NULL, TOTAL, MSG_TRUNC | MSG_PEEK | MSG_DONTWAIT));
	while (total < TOTAL && (n = recv(c->fd, buf, sizeof(buf), 0)) > 0)
		total += n;
	say("all came: %s", total == TOTAL ? "yes" : "no");
	peer_wait();
	buffer_say(c->fd, SO_RCVBUF);
}

#define AGAIN "adopted again with another buffer"

#define SIZED(n, t, f, size, when_set)                                              \
	{                                                                           \
		.name = "buffer/" n, .text = t, .run = f, .a = size, .b = when_set, \
		.returns = when_set == ADOPTED ? AGAIN : NULL                       \
	}

const struct test_case cases_buffer[] = {
	SIZED("snd-small", "a small SO_SNDBUF of the listener's", snd, SMALL, LISTENER),
	SIZED("snd-large", "a large SO_SNDBUF of the listener's", snd, LARGE, LISTENER),
	SIZED("rcv-small", "a small SO_RCVBUF of the listener's", rcv, SMALL, LISTENER),
	SIZED("rcv-large", "a large SO_RCVBUF of the listener's", rcv, LARGE, LISTENER),
	SIZED("snd-small-later", "a small SO_SNDBUF of a connection that is in use", snd, SMALL, ADOPTED),
	SIZED("snd-large-later", "a large SO_SNDBUF of a connection that is in use", snd, LARGE, ADOPTED),
	SIZED("rcv-large-later", "a large SO_RCVBUF of a connection that is in use", rcv, LARGE, ADOPTED),
	{.name = NULL},
};
