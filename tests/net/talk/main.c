// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * talk server PORT [SECONDS] [OPTION=VALUE ...]
 * talk client IP PORT TOTAL AT_ONCE BYTES SEED [SECONDS] [OPTION=VALUE ...]
 *
 * Conversations whose every byte is known. A client's connection starts with a header (seed
 * and both lengths); then both ends send their streams at the same time, in pieces of random
 * size, with random pauses of writing and of reading, and compare each byte that arrives with
 * the one that must arrive there. Each end shuts its side down when it has sent all, and wants
 * exactly the promised length before the peer's end of file. BYTES is the mean length each way.
 * TOTAL 0: one after another until SIGTERM, at which both ends finish what they have begun (a
 * server for DRAIN_S at most: its client may have got all it wants long before).
 *
 *   wait=lt|et|oneshot|recv   how this end waits: epoll in one thread, level or edge triggered;
 *                             EPOLLONESHOT in four threads; threads that block in recv and send
 *   turns=1                   client: the ends speak in turn, a piece each, instead of both at once
 *   stall=MS                  one line of JSON for each connection that has waited for longer
 *
 * Both print one line of JSON at the end (the server at SIGTERM) and exit 1 if a byte, a length
 * or a connection was wrong. longest_ms in it is the longest that one direction of a connection
 * stood still while this end did not pause and the other had something to give or to take. odd
 * counts what Linux does not say: an event after which the call would block, EPOLLERR, EPOLLHUP
 * of a direction that is open, a second event of a EPOLLONESHOT entry.
 */
#include "tests/net/talk/talk.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>

#define ONESHOT_THREADS 4
#define DRAIN_S 60 /* a peer whose SYN was lost begins with a time-out of 3 s, and doubles it */

static bool client;
static int ep, listener = -1;
static uint64_t mean, serial_rnd = 1;
static struct sockaddr_in to = {.sin_family = AF_INET};
static volatile sig_atomic_t stop;

static void on_signal(int sig)
{
	(void)sig;
	stop = 1;
}

/* ---- waiting with epoll ---- */

static void watch(struct conn *c)
{
	struct epoll_event e = {.data.fd = c->fd};

	if (how == WAIT_ET)
		return;
	if (!c->eof && !c->rx.resume_ns && !c->connecting)
		e.events |= EPOLLIN | EPOLLRDHUP;
	if (c->connecting || (!c->tx.resume_ns && tx_due(c)))
		e.events |= EPOLLOUT;
	if (how == WAIT_ONESHOT) {
		e.events |= EPOLLONESHOT;
		c->armed = true;
	}
	if ((e.events != c->events || how == WAIT_ONESHOT) &&
	    (c->events = e.events, epoll_ctl(ep, EPOLL_CTL_MOD, e.data.fd, &e)))
		die("epoll_ctl");
}

static const char *connected(struct conn *c)
{
	int e = 0;
	socklen_t l = sizeof e;

	getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &l);
	errno = e;
	c->connecting = false;
	return e ? "connect" : NULL;
}

/* One call in each direction that is ready; false: there was none. */
static bool step(struct conn *c, const char **error)
{
	uint64_t tx = c->tx.n, rx = c->rx.n;
	bool eof = c->eof, any = false;

	if (c->rx.ready && !c->eof && !c->rx.resume_ns) {
		any = true;
		*error = take(c);
	}
	if (!*error && c->tx.ready && !c->tx.resume_ns && tx_due(c)) {
		any = true;
		*error = give(c);
	}
	clocks_set(c, c->tx.n > tx, c->rx.n > rx || c->eof > eof);
	return any;
}

static void serve(struct conn *c, uint32_t events)
{
	const char *error = NULL;

	if (how == WAIT_ONESHOT && !atomic_exchange(&c->armed, false))
		is_odd(c, "a second event of EPOLLONESHOT", events);
	if (c->connecting)
		error = connected(c);
	else if ((events & EPOLLERR) || ((events & EPOLLHUP) && !c->shut))
		is_odd(c, "EPOLLERR, or EPOLLHUP of an open connection", events);
	c->hangup |= events & EPOLLRDHUP;
	c->rx.ready |= !!(events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR));
	c->tx.ready |= !!(events & (EPOLLOUT | EPOLLERR));
	if (how == WAIT_ET) {
		while (!error && step(c, &error) && !(c->eof && c->shut))
			;
	} else {
		if (!error)
			step(c, &error);
		if (!error && (((events & EPOLLIN) && !c->rx.ready) || ((events & EPOLLOUT) && !c->tx.ready)))
			is_odd(c, "an event, then EAGAIN", events);
		c->rx.ready = c->tx.ready = false;
	}
	if (error || (c->eof && c->shut))
		finish(c, error);
	else
		watch(c);
}

static void resume(void)
{
	uint64_t now = now_ns();

	for (int fd = 0; fd <= top && paused; fd++) {
		struct conn *c = &conns[fd];
		int before = paused;

		if (!c->fd || (!c->tx.resume_ns && !c->rx.resume_ns))
			continue;
		if (c->tx.resume_ns && c->tx.resume_ns <= now) {
			c->tx.resume_ns = 0;
			paused--;
		}
		if (c->rx.resume_ns && c->rx.resume_ns <= now) {
			c->rx.resume_ns = 0;
			paused--;
		}
		if (paused == before)
			continue;
		clocks_set(c, false, false);
		if (how == WAIT_ET)
			serve(c, 0);
		else
			watch(c);
	}
}

/* ---- waiting in recv and send ---- */

static void *body_send(void *arg)
{
	struct conn *c = arg;
	const char *error = NULL;

	while (!error && !c->shut) {
		uint64_t n = c->tx.n;

		clock_set(&c->tx, false, true);
		error = give(c);
		clock_set(&c->tx, c->tx.n > n, true);
	}
	c->tx.since_ns = 0;
	return (void *)error;
}

static const char *both_at_once(struct conn *c)
{
	const char *error = NULL;
	pthread_t t;
	void *other;

	if (pthread_create(&t, NULL, body_send, c))
		die("pthread_create");
	while (!error && !c->eof) {
		clock_set(&c->rx, false, true);
		error = take(c);
		clock_set(&c->rx, true, !c->eof);
	}
	if (error) /* the other thread may wait for a peer that waits for us */
		shutdown(c->fd, SHUT_RDWR);
	pthread_join(t, &other);
	return error ? error : other;
}

static const char *in_turn(struct conn *c)
{
	const char *error = NULL;

	while (!error && !(c->eof && c->shut)) {
		bool sends = tx_due(c);
		struct way *w = sends ? &c->tx : &c->rx;

		clock_set(w, false, true);
		error = sends ? give(c) : take(c);
		clock_set(w, true, false);
	}
	return error;
}

static void *body_conn(void *arg)
{
	struct conn *c = arg;
	const char *error = c->connecting && connect(c->fd, (const void *)&to, sizeof to) ? "connect" : NULL;

	c->connecting = false;
	while (!error && c->header_bytes < sizeof c->h)
		error = c->client ? give_header(c) : take(c);
	if (!error)
		error = c->turns ? in_turn(c) : both_at_once(c);
	finish(c, error);
	return NULL;
}

/* ---- connections come ---- */

static struct conn *conn_new(int fd, bool connecting)
{
	struct conn *c = &conns[fd];
	int one = 1, highest = top;

	if (fd < 0 || fd >= MAXFD)
		die("socket");
	memset(c, 0, sizeof *c);
	c->client = c->connecting = connecting;
	while (fd > highest && !atomic_compare_exchange_weak(&top, &highest, fd))
		;
	live++;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return c;
}

static void conn_start(struct conn *c, int fd)
{
	struct epoll_event e = {.data.fd = fd};
	pthread_attr_t a;
	pthread_t t;

	c->fd = fd;
	if (how == WAIT_RECV) {
		pthread_attr_init(&a);
		pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
		pthread_attr_setstacksize(&a, 1 << 18);
		if (pthread_create(&t, &a, body_conn, c))
			die("pthread_create");
		pthread_attr_destroy(&a);
		return;
	}
	e.events = c->connecting ? EPOLLOUT : EPOLLIN | EPOLLRDHUP;
	if (how == WAIT_ET)
		e.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET;
	if (how == WAIT_ONESHOT)
		e.events |= EPOLLONESHOT;
	c->armed = true;
	c->events = e.events;
	if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e))
		die("epoll_ctl");
}

static void accept_all(void)
{
	int fd;

	for (int i = 0; i < 64 && (fd = accept4(listener, NULL, NULL, how == WAIT_RECV ? 0 : SOCK_NONBLOCK)) >= 0; i++)
		conn_start(conn_new(fd, false), fd);
}

static void dial(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | (how == WAIT_RECV ? 0 : SOCK_NONBLOCK), 0);
	struct conn *c = conn_new(fd, true);

	c->h.seed = next_random(&serial_rnd) % PERIOD;
	c->h.to_server = next_random(&serial_rnd) % (2 * mean);
	c->h.to_client = next_random(&serial_rnd) % (2 * mean);
	c->h.seed |= turns ? HEADER_TURNS : 0;
	lengths_known(c);
	if (how != WAIT_RECV && connect(fd, (const void *)&to, sizeof to) && errno != EINPROGRESS)
		die("connect");
	conn_start(c, fd);
}

static void turn(void)
{
	struct epoll_event ev[128];
	int n = epoll_wait(ep, ev, how == WAIT_ONESHOT ? 4 : 128, paused ? 1 : 50);

	for (int i = 0; i < n; i++) {
		if (ev[i].data.fd == listener)
			accept_all();
		else if (conns[ev[i].data.fd].fd)
			serve(&conns[ev[i].data.fd], ev[i].events);
	}
	if (paused)
		resume();
}

static void *body_turns(void *arg)
{
	for (;;)
		turn();
	return arg;
}

static void listener_open(int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	struct epoll_event e = {.events = EPOLLIN};
	int one = 1;

	e.data.fd = listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(listener, (void *)&a, sizeof a) || listen(listener, 4096) ||
	    epoll_ctl(ep, EPOLL_CTL_ADD, listener, &e))
		die("listen");
}

/* A server has been told to end: has it nothing to finish? */
static bool is_idle(void)
{
	struct pollfd p = {.fd = listener, .events = POLLIN};

	return !live && poll(&p, 1, 0) == 0;
}

static void usage(void)
{
	fprintf(stderr, "usage: talk server PORT [SECONDS] [OPTION=VALUE ...]\n"
			"       talk client IP PORT TOTAL AT_ONCE BYTES SEED [SECONDS] [OPTION=VALUE ...]\n"
			"options: wait=lt|et|oneshot|recv turns=1 stall=MS\n");
	exit(2);
}

/* Takes the options off the end; returns how many words are left. */
static int options(int argc, char **argv)
{
	static const char *const names[] = {"lt", "et", "oneshot", "recv"};
	int known;

	for (; argc && strchr(argv[argc - 1], '='); argc--) {
		char *o = argv[argc - 1];

		known = 0;
		for (int i = 0; !strncmp(o, "wait=", 5) && i < 4; i++)
			if (!strcmp(o + 5, names[i])) {
				how = (enum wait)i;
				known = 1;
			}
		if (!strncmp(o, "stall=", 6))
			known = (stall_ns = strtoull(o + 6, NULL, 10) * 1000000) > 0;
		if (!strcmp(o, "turns=1"))
			known = turns = true;
		if (!known)
			usage();
	}
	return argc;
}

int main(int argc, char **argv)
{
	struct rlimit rl = {MAXFD, MAXFD};
	uint64_t end, total = 0, at_once = 0, started = 0, done;
	bool draining = false, well;
	pthread_t t;

	argc = options(argc, argv);
	client = argc >= 8 && !strcmp(argv[1], "client");
	if (!client && (argc < 3 || strcmp(argv[1], "server")))
		usage();
	setrlimit(RLIMIT_NOFILE, &rl);
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	streams_open();
	ep = epoll_create1(0);
	if (ep < 0)
		die("epoll_create1");
	if (!client) {
		listener_open(atoi(argv[2]));
		end = now_ns() + 1000000000ull * (uint64_t)(argc > 3 ? atoi(argv[3]) : 600);
		puts("ready");
		fflush(stdout);
	} else {
		inet_aton(argv[2], &to.sin_addr);
		to.sin_port = htons((uint16_t)atoi(argv[3]));
		total = strtoull(argv[4], NULL, 10);
		at_once = strtoull(argv[5], NULL, 10);
		mean = strtoull(argv[6], NULL, 10);
		mean += !mean;
		serial_rnd = strtoull(argv[7], NULL, 10);
		end = now_ns() + 1000000000ull * (uint64_t)(argc > 8 ? atoi(argv[8]) : 60);
	}
	for (int i = 0; how == WAIT_ONESHOT && i < ONESHOT_THREADS; i++)
		if (pthread_create(&t, NULL, body_turns, NULL))
			die("pthread_create");
	while (now_ns() < end) {
		if (!client && stop && !draining) {
			draining = true;
			end = least(end, now_ns() + DRAIN_S * 1000000000ull);
		}
		if (draining && is_idle())
			break;
		for (; client && !stop && (!total || started < total) && (uint64_t)live < at_once; started++)
			dial();
		if (client && !live)
			break;
		if (how == WAIT_ONESHOT)
			nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
		else
			turn();
		stall_look();
	}
	well = report(client || draining, &done);
	_exit(!well || (client && done != (total ? total : started)));
}
