// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * talk server PORT [SECONDS]
 * talk client IP PORT TOTAL AT_ONCE BYTES SEED [SECONDS]
 *
 * Conversations whose every byte is known. A client's connection starts with a header (seed
 * and both lengths); then both ends send their streams at the same time, in pieces of random
 * size, with random pauses of writing and of reading, and compare each byte that arrives with
 * the one that must arrive there. Each end shuts its side down when it has sent all, and wants
 * exactly the promised length before the peer's end of file. BYTES is the mean length each way.
 * Both print one line of JSON at the end (the server at SIGTERM) and exit 1 if a byte, a length
 * or a connection was wrong.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PERIOD 16381 /* prime: a ring of a power of two that wraps wrongly shows */
#define CHUNK 65536
#define MAXFD 65536
#define SERVER_SHIFT 7777

struct header {
	uint64_t seed, to_server, to_client;
};

struct conn {
	int fd; /* 0: unused entry */
	bool client, shut, eof, got_header, connecting;
	uint64_t rnd;
	struct header h;
	uint32_t header_bytes; /* sent or received so far */
	uint64_t tx, tx_len, rx, rx_len;
	uint64_t resume_tx_ns, resume_rx_ns; /* pauses; 0: none */
	uint32_t events;
};

static struct conn *conns;
static int ep, paused, live, top;
static uint64_t ok, bad, bytes, serial_rnd = 1;
static uint8_t pat[PERIOD + CHUNK], buf[CHUNK];
static volatile sig_atomic_t stop;
static char first_error[160];

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t next_random(uint64_t *s) /* splitmix64 */
{
	uint64_t z = (*s += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static void die(const char *what)
{
	fprintf(stderr, "talk: %s: %s\n", what, strerror(errno));
	exit(2);
}

static void on_signal(int sig)
{
	(void)sig;
	stop = 1;
}

static void finish(struct conn *c, const char *error)
{
	if (error) {
		bad++;
		if (!first_error[0])
			snprintf(first_error, sizeof first_error,
				 "%s (errno %d, received %llu of %llu, sent %llu of %llu)", error, errno,
				 (unsigned long long)c->rx, (unsigned long long)c->rx_len, (unsigned long long)c->tx,
				 (unsigned long long)c->tx_len);
	} else {
		ok++;
	}
	bytes += c->rx;
	paused -= !!c->resume_tx_ns + !!c->resume_rx_ns;
	close(c->fd);
	memset(c, 0, sizeof *c);
	live--;
}

static void watch(struct conn *c)
{
	struct epoll_event e = {.data.fd = c->fd};

	if (!c->eof && !c->resume_rx_ns && !c->connecting)
		e.events |= EPOLLIN;
	if (c->connecting || (!c->shut && !c->resume_tx_ns && (c->client || c->got_header)))
		e.events |= EPOLLOUT;
	if (e.events != c->events && epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e))
		die("epoll_ctl");
	c->events = e.events;
}

static struct conn *conn_new(int fd, bool client)
{
	struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
	struct conn *c = &conns[fd];
	int one = 1;

	if (fd >= MAXFD)
		die("too many connections");
	memset(c, 0, sizeof *c);
	c->fd = fd;
	c->client = client;
	c->events = EPOLLIN;
	top = fd > top ? fd : top;
	live++;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e))
		die("epoll_ctl");
	return c;
}

static void pause_maybe(struct conn *c, uint64_t *resume)
{
	uint64_t r = next_random(&c->rnd);

	if (r % 24)
		return;
	*resume = now_ns() + (r >> 32) % 3000000; /* up to 3 ms */
	paused++;
}

static uint32_t piece(struct conn *c)
{
	uint64_t r = next_random(&c->rnd);

	return 1 + (uint32_t)(r >> 32) % (r % 4 ? 1500 : r % 16 ? 9000 : CHUNK - 1);
}

static int take_header(struct conn *c)
{
	ssize_t n = recv(c->fd, (char *)&c->h + c->header_bytes, sizeof c->h - c->header_bytes, 0);

	if (n <= 0)
		return n < 0 && errno == EAGAIN ? 0 : -1;
	c->header_bytes += (uint32_t)n;
	if (c->header_bytes == sizeof c->h) {
		c->got_header = true;
		c->rnd = ~c->h.seed;
		c->tx_len = c->h.to_client;
		c->rx_len = c->h.to_server;
	}
	return 0;
}

/* 0 or an error's text */
static const char *take(struct conn *c)
{
	uint64_t shift = c->h.seed + (c->client ? SERVER_SHIFT : 0);
	ssize_t n;

	if (!c->client && !c->got_header)
		return take_header(c) ? "header" : NULL;
	n = recv(c->fd, buf, piece(c), 0);
	if (n < 0)
		return errno == EAGAIN ? NULL : "recv";
	if (!n) {
		c->eof = true;
		return c->rx == c->rx_len ? NULL : "end of file too early";
	}
	if (c->rx + (uint64_t)n > c->rx_len)
		return "more bytes than promised";
	if (memcmp(buf, pat + (shift + c->rx) % PERIOD, (size_t)n))
		return "wrong bytes";
	c->rx += (uint64_t)n;
	pause_maybe(c, &c->resume_rx_ns);
	return NULL;
}

static const char *give(struct conn *c)
{
	uint64_t shift = c->h.seed + (c->client ? 0 : SERVER_SHIFT), left = c->tx_len - c->tx;
	uint32_t want;
	ssize_t n;

	if (c->client && c->header_bytes < sizeof c->h) {
		n = send(c->fd, (char *)&c->h + c->header_bytes, sizeof c->h - c->header_bytes, MSG_NOSIGNAL);
		if (n > 0)
			c->header_bytes += (uint32_t)n;
		return n < 0 && errno != EAGAIN ? "send" : NULL;
	}
	if (left) {
		want = piece(c);
		n = send(c->fd, pat + (shift + c->tx) % PERIOD, want < left ? want : left, MSG_NOSIGNAL);
		if (n < 0)
			return errno == EAGAIN ? NULL : "send";
		c->tx += (uint64_t)n;
		pause_maybe(c, &c->resume_tx_ns);
	}
	if (c->tx == c->tx_len && !c->shut) {
		if (shutdown(c->fd, SHUT_WR))
			return "shutdown";
		c->shut = true;
	}
	return NULL;
}

static void serve(struct conn *c, uint32_t events)
{
	const char *error = NULL;

	if (c->connecting) {
		int e = 0;
		socklen_t l = sizeof e;

		getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &l);
		errno = e;
		c->connecting = false;
		error = e ? "connect" : NULL;
	}
	if (!error && (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) && !c->eof && !c->resume_rx_ns)
		error = take(c);
	if (!error && (events & EPOLLOUT) && !c->resume_tx_ns && (c->client || c->got_header))
		error = give(c);
	if (!error && (events & (EPOLLERR | EPOLLHUP)) == EPOLLERR && c->eof)
		error = "error event";
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

		if (!c->fd || (!c->resume_tx_ns && !c->resume_rx_ns))
			continue;
		if (c->resume_tx_ns && c->resume_tx_ns <= now) {
			c->resume_tx_ns = 0;
			paused--;
		}
		if (c->resume_rx_ns && c->resume_rx_ns <= now) {
			c->resume_rx_ns = 0;
			paused--;
		}
		watch(c);
	}
}

static void accept_all(int l)
{
	int fd;

	for (int i = 0; i < 64 && (fd = accept4(l, NULL, NULL, SOCK_NONBLOCK)) >= 0; i++)
		conn_new(fd, false);
}

static void dial(const struct sockaddr_in *to, uint64_t mean)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct conn *c;

	if (fd < 0)
		die("socket");
	if (connect(fd, (const void *)to, sizeof *to) && errno != EINPROGRESS)
		die("connect");
	c = conn_new(fd, true);
	c->connecting = true;
	c->h.seed = next_random(&serial_rnd) % PERIOD;
	c->rnd = next_random(&serial_rnd);
	c->tx_len = c->h.to_server = next_random(&serial_rnd) % (2 * mean);
	c->rx_len = c->h.to_client = next_random(&serial_rnd) % (2 * mean);
	watch(c);
}

static void turn(int listener)
{
	struct epoll_event ev[128];
	int n = epoll_wait(ep, ev, 128, paused ? 1 : 50);

	for (int i = 0; i < n; i++) {
		if (ev[i].data.fd == listener)
			accept_all(listener);
		else if (conns[ev[i].data.fd].fd)
			serve(&conns[ev[i].data.fd], ev[i].events);
	}
	if (paused)
		resume();
}

static int listener_open(int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int one = 1, l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct epoll_event e = {.events = EPOLLIN, .data.fd = l};

	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(l, (void *)&a, sizeof a) || listen(l, 4096) || epoll_ctl(ep, EPOLL_CTL_ADD, l, &e))
		die("listen");
	return l;
}

int main(int argc, char **argv)
{
	bool server = argc >= 3 && !strcmp(argv[1], "server"), client = argc >= 8 && !strcmp(argv[1], "client");
	struct rlimit rl = {MAXFD, MAXFD};
	struct sockaddr_in to = {.sin_family = AF_INET};
	int listener = -1, total = 0, at_once = 0, started = 0;
	uint64_t mean = 0, end, seed = 0x123456789;

	if (!server && !client) {
		fprintf(stderr,
			"usage: talk server PORT [SECONDS] | talk client IP PORT TOTAL AT_ONCE BYTES SEED [SECONDS]\n");
		return 2;
	}
	setrlimit(RLIMIT_NOFILE, &rl);
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	conns = calloc(MAXFD, sizeof *conns);
	ep = epoll_create1(0);
	if (!conns || ep < 0)
		die("memory");
	for (uint32_t i = 0; i < sizeof pat; i++)
		pat[i] = i < PERIOD ? (uint8_t)(next_random(&seed) >> 56) : pat[i - PERIOD];
	if (server) {
		listener = listener_open(atoi(argv[2]));
		end = now_ns() + 1000000000ull * (uint64_t)(argc > 3 ? atoi(argv[3]) : 600);
		puts("ready");
		fflush(stdout);
	} else {
		inet_aton(argv[2], &to.sin_addr);
		to.sin_port = htons((uint16_t)atoi(argv[3]));
		total = atoi(argv[4]);
		at_once = atoi(argv[5]);
		mean = strtoull(argv[6], NULL, 10);
		serial_rnd = strtoull(argv[7], NULL, 10);
		end = now_ns() + 1000000000ull * (uint64_t)(argc > 8 ? atoi(argv[8]) : 60);
	}
	while (!stop && now_ns() < end) {
		for (; client && started < total && live < at_once; started++)
			dial(&to, mean ? mean : 1);
		if (client && !live)
			break;
		turn(listener);
	}
	if (client)
		for (int fd = 0; fd <= top; fd++)
			if (conns[fd].fd) {
				errno = 0;
				finish(&conns[fd], "not finished in time");
			}
	printf("{\"ok\": %llu, \"bad\": %llu, \"live\": %d, \"bytes\": %llu, \"error\": \"%s\"}\n",
	       (unsigned long long)ok, (unsigned long long)bad, live, (unsigned long long)bytes, first_error);
	return bad || (client && ok != (uint64_t)total);
}
