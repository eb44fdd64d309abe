// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The two streams of a connection: what is sent next, what must arrive, how long a direction
 * stands still; and the results of all connections. One thread, or, where threads block in
 * recv and send, one for each direction; result_lock guards what they share.
 */
#include "tests/net/talk/talk.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK 65536
#define SERVER_SHIFT 7777

struct conn *conns;
_Atomic int live, top;
int paused;
enum wait how;
bool turns;
uint64_t stall_ns;

static uint64_t ok, bad, bytes, odd, stalls;
static _Atomic uint64_t longest_ns;
static uint8_t pat[PERIOD + CHUNK];
static _Thread_local uint8_t buf[CHUNK];
static char first_error[160], first_odd[160];
static pthread_mutex_t result_lock = PTHREAD_MUTEX_INITIALIZER; /* the sums and the first errors */

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t next_random(uint64_t *s) /* splitmix64 */
{
	uint64_t z = (*s += 0x9e3779b97f4a7c15ull);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

void die(const char *what)
{
	fprintf(stderr, "talk: %s: %s\n", what, strerror(errno));
	exit(2);
}

uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* ---- results ---- */

static void failed(const struct conn *c, const char *error)
{
	bad++;
	if (!first_error[0])
		snprintf(first_error, sizeof first_error, "%s (errno %d, received %llu of %llu, sent %llu of %llu)",
			 error, errno, (unsigned long long)c->rx.n, (unsigned long long)c->rx.len,
			 (unsigned long long)c->tx.n, (unsigned long long)c->tx.len);
}

void is_odd(const struct conn *c, const char *what, uint32_t events)
{
	pthread_mutex_lock(&result_lock);
	odd++;
	if (!first_odd[0])
		snprintf(first_odd, sizeof first_odd, "%s (events %#x, received %llu of %llu, sent %llu of %llu)", what,
			 events, (unsigned long long)c->rx.n, (unsigned long long)c->rx.len,
			 (unsigned long long)c->tx.n, (unsigned long long)c->tx.len);
	pthread_mutex_unlock(&result_lock);
}

void finish(struct conn *c, const char *error)
{
	int fd = c->fd;

	pthread_mutex_lock(&result_lock);
	if (error)
		failed(c, error);
	else
		ok++;
	bytes += c->rx.n;
	pthread_mutex_unlock(&result_lock);
	paused -= !!c->tx.resume_ns + !!c->rx.resume_ns;
	memset(c, 0, sizeof *c);
	close(fd);
	live--;
}

bool tx_due(const struct conn *c)
{
	return !c->connecting && (c->client || c->got_header) && !c->shut &&
	       (c->tx.n < c->tx_limit || c->tx.n == c->tx.len || (c->client && c->header_bytes < sizeof c->h));
}

static bool rx_due(const struct conn *c)
{
	return !c->connecting && !c->eof && (!c->turns || c->rx.n == c->rx.len || c->tx.n >= c->tx_limit);
}

void clock_set(struct way *w, bool moved, bool due)
{
	uint64_t now = now_ns(), since = w->since_ns, longest = longest_ns;

	if (since && (moved || !due))
		while (now - since > longest && !atomic_compare_exchange_weak(&longest_ns, &longest, now - since))
			;
	if (moved || !due || !since)
		w->since_ns = due ? now : 0;
}

void clocks_set(struct conn *c, bool moved_tx, bool moved_rx)
{
	clock_set(&c->tx, moved_tx, !c->tx.resume_ns && tx_due(c));
	clock_set(&c->rx, moved_rx, !c->rx.resume_ns && rx_due(c));
}

void stall_look(void)
{
	static uint64_t next_ns;
	uint64_t now = now_ns(), since;
	struct sockaddr_in a = {0}, b = {0};
	socklen_t la = sizeof a, lb = sizeof b;

	if (!stall_ns || now < next_ns)
		return;
	next_ns = now + 100000000;
	for (int fd = 0; fd <= top; fd++) {
		struct conn *c = &conns[fd];

		for (int tx = 0; tx < 2 && c->fd; tx++) {
			since = tx ? c->tx.since_ns : c->rx.since_ns;
			if (!since || since > now || now - since < stall_ns || c->told)
				continue;
			c->told = true;
			stalls++;
			getsockname(fd, (void *)&a, &la);
			getpeername(fd, (void *)&b, &lb);
			printf("{\"stall\": \"%s\", \"ms\": %llu, \"port\": %d, \"peer\": %d, \"received\": %llu, "
			       "\"of\": %llu, \"sent\": %llu, \"limit\": %llu}\n",
			       tx ? "tx" : "rx", (unsigned long long)(now - since) / 1000000, ntohs(a.sin_port),
			       ntohs(b.sin_port), (unsigned long long)c->rx.n, (unsigned long long)c->rx.len,
			       (unsigned long long)c->tx.n, (unsigned long long)c->tx_limit);
			fflush(stdout);
		}
	}
}

bool report(bool complete, uint64_t *done)
{
	pthread_mutex_lock(&result_lock);
	for (int fd = 0; complete && fd <= top; fd++)
		if (conns[fd].fd) {
			errno = 0;
			failed(&conns[fd], "not finished in time");
		}
	printf("{\"ok\": %llu, \"bad\": %llu, \"live\": %d, \"bytes\": %llu, \"longest_ms\": %llu, \"stalls\": %llu, "
	       "\"odd\": %llu, \"error\": \"%s\", \"first_odd\": \"%s\"}\n",
	       (unsigned long long)ok, (unsigned long long)bad, (int)live, (unsigned long long)bytes,
	       (unsigned long long)longest_ns / 1000000, (unsigned long long)stalls, (unsigned long long)odd,
	       first_error, first_odd);
	fflush(stdout);
	*done = ok;
	return !bad;
}

/* ---- the two streams ---- */

void streams_open(void)
{
	uint64_t seed = 0x123456789;

	conns = calloc(MAXFD, sizeof *conns);
	if (!conns)
		die("memory");
	for (uint32_t i = 0; i < sizeof pat; i++)
		pat[i] = i < PERIOD ? (uint8_t)(next_random(&seed) >> 56) : pat[i - PERIOD];
}

static void pause_maybe(struct way *w)
{
	uint64_t r = next_random(&w->rnd), ns = (r >> 32) % 3000000; /* up to 3 ms */

	if (r % 24)
		return;
	if (how >= WAIT_ONESHOT) {
		w->since_ns = 0;
		nanosleep(&(struct timespec){.tv_nsec = (long)ns}, NULL);
		return;
	}
	w->resume_ns = now_ns() + ns;
	paused++;
}

static uint32_t piece(struct way *w)
{
	uint64_t r = next_random(&w->rnd);

	return 1 + (uint32_t)(r >> 32) % (r % 4 ? 1500 : r % 16 ? 9000 : CHUNK - 1);
}

static uint64_t turn_size(const struct conn *c, uint64_t turn, bool of_client)
{
	uint64_t s = c->h.seed + 2 * turn + of_client, r = next_random(&s);

	return 1 + (r >> 32) % (r % 8 ? 700 : 20000);
}

/* Conversations in turns: more to send whenever the peer's turn has come completely. */
static void turns_go_on(struct conn *c)
{
	while (c->rx.n >= least(c->rx_mark, c->rx.len) && c->tx_limit < c->tx.len) {
		c->tx_limit = least(c->tx_limit + turn_size(c, c->turn, c->client), c->tx.len);
		c->rx_mark += turn_size(c, c->turn + !c->client, !c->client);
		c->turn++;
	}
}

void lengths_known(struct conn *c)
{
	c->turns = c->h.seed & HEADER_TURNS;
	c->h.seed &= ~HEADER_TURNS;
	c->tx.len = c->client ? c->h.to_server : c->h.to_client;
	c->rx.len = c->client ? c->h.to_client : c->h.to_server;
	c->tx.rnd = c->client ? c->h.seed : ~c->h.seed;
	c->rx.rnd = c->tx.rnd + 12345;
	c->tx_limit = c->turns ? 0 : c->tx.len;
	c->rx_mark = c->client ? 0 : turn_size(c, 0, true);
	if (c->turns)
		turns_go_on(c);
}

static int take_header(struct conn *c)
{
	ssize_t n = recv(c->fd, (char *)&c->h + c->header_bytes, sizeof c->h - c->header_bytes, 0);

	if (n <= 0) {
		c->rx.ready = false;
		return n < 0 && errno == EAGAIN && how != WAIT_RECV ? 0 : -1;
	}
	c->header_bytes += (uint32_t)n;
	if (c->header_bytes == sizeof c->h) {
		c->got_header = true;
		lengths_known(c);
	}
	return 0;
}

const char *take(struct conn *c)
{
	uint64_t shift = c->h.seed + (c->client ? SERVER_SHIFT : 0);
	uint32_t want = piece(&c->rx);
	ssize_t n;

	if (!c->client && !c->got_header)
		return take_header(c) ? "header" : NULL;
	n = recv(c->fd, buf, want, 0);
	if (n < 0) {
		c->rx.ready = false;
		if (errno == EAGAIN && c->hangup)
			is_odd(c, "EPOLLRDHUP, then EAGAIN instead of the end", 0);
		return errno == EAGAIN && how != WAIT_RECV ? NULL : "recv";
	}
	if (!n) {
		c->eof = true;
		return c->rx.n == c->rx.len ? NULL : "end of file too early";
	}
	if (c->rx.n + (uint64_t)n > c->rx.len)
		return "more bytes than promised";
	if (memcmp(buf, pat + (shift + c->rx.n) % PERIOD, (size_t)n))
		return "wrong bytes";
	c->rx.n += (uint64_t)n;
	/* a short read says as much as EAGAIN does: the next bytes are a new edge (epoll(7)) */
	if (how == WAIT_ET && n < want && !c->hangup && n % 2)
		c->rx.ready = false;
	if (c->turns)
		turns_go_on(c);
	pause_maybe(&c->rx);
	return NULL;
}

const char *give_header(struct conn *c)
{
	struct header h = c->h;
	ssize_t n;

	h.seed |= turns ? HEADER_TURNS : 0;
	n = send(c->fd, (char *)&h + c->header_bytes, sizeof h - c->header_bytes, MSG_NOSIGNAL);
	if (n < 0) {
		c->tx.ready = false;
		return errno == EAGAIN && how != WAIT_RECV ? NULL : "send";
	}
	c->header_bytes += (uint32_t)n;
	return NULL;
}

const char *give(struct conn *c)
{
	uint64_t shift = c->h.seed + (c->client ? 0 : SERVER_SHIFT), left = c->tx_limit - c->tx.n;
	uint32_t want;
	ssize_t n;

	if (c->client && c->header_bytes < sizeof c->h)
		return give_header(c);
	if (left) {
		want = (uint32_t)least(piece(&c->tx), left);
		n = send(c->fd, pat + (shift + c->tx.n) % PERIOD, want, MSG_NOSIGNAL);
		if (n < 0) {
			c->tx.ready = false;
			return errno == EAGAIN && how != WAIT_RECV ? NULL : "send";
		}
		c->tx.n += (uint64_t)n;
		if (how == WAIT_ET && n < want && n % 2)
			c->tx.ready = false;
		pause_maybe(&c->tx);
	}
	if (c->tx.n == c->tx.len && !c->shut) {
		if (shutdown(c->fd, SHUT_WR))
			return "shutdown";
		c->shut = true;
	}
	return NULL;
}
