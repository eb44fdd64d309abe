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
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
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
#define ONESHOT_THREADS 4
#define DRAIN_S 15
#define HEADER_TURNS (1ull << 63) /* in the seed */

enum wait { WAIT_LT, WAIT_ET, WAIT_ONESHOT, WAIT_RECV };

struct header {
	uint64_t seed, to_server, to_client;
};

/* One direction. With threads that block, each direction has its own. */
struct way {
	uint64_t rnd, resume_ns; /* end of a pause; 0: none */
	uint64_t n, len;
	bool ready;                /* the last event or call said so */
	_Atomic uint64_t since_ns; /* waits since then; 0: does not. Read by stall_look() */
};

struct conn {
	_Atomic int fd; /* 0: unused entry. Read by stall_look() */
	bool client, shut, eof, got_header, connecting, turns, hangup;
	struct header h;
	uint32_t header_bytes; /* sent or received so far */
	struct way tx, rx;
	uint64_t tx_limit, rx_mark, turn; /* in turns: may send so much; more when so much has come */
	uint32_t events;
	_Atomic bool armed; /* EPOLLONESHOT: between the owner's epoll_ctl() and the next owner's event */
	_Atomic bool told;
};

static struct conn *conns;
static enum wait how;
static bool client, turns;
static int ep, listener = -1, paused;
static _Atomic int live, top;
static uint64_t ok, bad, bytes, odd, stalls, stall_ns, mean, serial_rnd = 1;
static _Atomic uint64_t longest_ns;
static uint8_t pat[PERIOD + CHUNK];
static _Thread_local uint8_t buf[CHUNK];
static struct sockaddr_in to = {.sin_family = AF_INET};
static volatile sig_atomic_t stop;
static char first_error[160], first_odd[160];
static pthread_mutex_t result_lock = PTHREAD_MUTEX_INITIALIZER; /* the sums and the first errors */

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

static uint64_t least(uint64_t a, uint64_t b)
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

static void is_odd(const struct conn *c, const char *what, uint32_t events)
{
	pthread_mutex_lock(&result_lock);
	odd++;
	if (!first_odd[0])
		snprintf(first_odd, sizeof first_odd, "%s (events %#x, received %llu of %llu, sent %llu of %llu)", what,
			 events, (unsigned long long)c->rx.n, (unsigned long long)c->rx.len,
			 (unsigned long long)c->tx.n, (unsigned long long)c->tx.len);
	pthread_mutex_unlock(&result_lock);
}

static void finish(struct conn *c, const char *error)
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

static bool tx_due(const struct conn *c)
{
	return !c->connecting && (c->client || c->got_header) && !c->shut &&
	       (c->tx.n < c->tx_limit || c->tx.n == c->tx.len || (c->client && c->header_bytes < sizeof c->h));
}

static bool rx_due(const struct conn *c)
{
	return !c->connecting && !c->eof && (!c->turns || c->rx.n == c->rx.len || c->tx.n >= c->tx_limit);
}

/* After a call, or a pause: has the direction moved, and does it wait from now on? */
static void clock_set(struct way *w, bool moved, bool due)
{
	uint64_t now = now_ns(), since = w->since_ns, longest = longest_ns;

	if (since && (moved || !due))
		while (now - since > longest && !atomic_compare_exchange_weak(&longest_ns, &longest, now - since))
			;
	if (moved || !due || !since)
		w->since_ns = due ? now : 0;
}

static void clocks_set(struct conn *c, bool moved_tx, bool moved_rx)
{
	clock_set(&c->tx, moved_tx, !c->tx.resume_ns && tx_due(c));
	clock_set(&c->rx, moved_rx, !c->rx.resume_ns && rx_due(c));
}

static void stall_look(void)
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

/* ---- the two streams ---- */

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

static void lengths_known(struct conn *c)
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

/* 0 or an error's text */
static const char *take(struct conn *c)
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

static const char *give_header(struct conn *c)
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

static const char *give(struct conn *c)
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
	uint64_t end, total = 0, at_once = 0, started = 0, seed = 0x123456789;
	bool draining = false;
	pthread_t t;

	argc = options(argc, argv);
	client = argc >= 8 && !strcmp(argv[1], "client");
	if (!client && (argc < 3 || strcmp(argv[1], "server")))
		usage();
	setrlimit(RLIMIT_NOFILE, &rl);
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	conns = calloc(MAXFD, sizeof *conns);
	ep = epoll_create1(0);
	if (!conns || ep < 0)
		die("memory");
	for (uint32_t i = 0; i < sizeof pat; i++)
		pat[i] = i < PERIOD ? (uint8_t)(next_random(&seed) >> 56) : pat[i - PERIOD];
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
	pthread_mutex_lock(&result_lock);
	for (int fd = 0; (client || draining) && fd <= top; fd++)
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
	_exit(bad || (client && ok != (total ? total : started)));
}
