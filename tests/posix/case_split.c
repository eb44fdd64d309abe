// SPDX-License-Identifier: GPL-2.0-or-later
/* One connection, two processes at the same time: one receives while the other one sends. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#include "tests/posix/process.h"

#define BIG 3000017
#define PIECE 30011
#define SEED_IN 1 /* what PEER_PUMP sends */
#define SEED_OUT 2

static char buf[PIECE];

static bool has_taken;
static uint64_t taken;
static int take_err;

/* Read from offset @from of what the peer pumps to @to. */
static void take(int fd, uint64_t from, uint64_t to)
{
	static char want[PIECE];
	uint64_t at = from;
	bool right = true;
	ssize_t n = 0;

	while (at < to && (n = read(fd, buf, to - at < PIECE ? to - at : PIECE)) > 0) {
		pattern_fill(want, (size_t)n, SEED_IN, at);
		right = right && !memcmp(buf, want, (size_t)n);
		at += (uint64_t)n;
	}
	has_taken = right;
	taken = at - from;
	take_err = n < 0 ? errno : 0;
}

/* Was all of it right? */
static void taken_say(const char *who)
{
	say("%s: read %llu: %s%s", who, (unsigned long long)taken, has_taken ? "right" : "wrong",
	    take_err ? err_name(take_err) : "");
}

/* Write what the peer expects, from offset @from to @to; says so if that fails. */
static void give(const char *who, int fd, uint64_t from, uint64_t to)
{
	for (uint64_t at = from; at < to;) {
		size_t n = to - at < PIECE ? to - at : PIECE;
		ssize_t done;

		pattern_fill(buf, n, SEED_OUT, at);
		done = write(fd, buf, n);
		if (done <= 0) {
			say("%s: write at %llu: %s", who, (unsigned long long)at, err_name(errno));
			return;
		}
		at += (uint64_t)done;
	}
}

static void pumped_say(uint64_t bytes)
{
	struct peer_answer a = peer_wait();

	say("peer got %lld, %s", (long long)a.ret, a.hash == pattern_stream_hash(SEED_OUT, bytes) ? "right" : "wrong");
}

/* One says something after the other one: pipes from the parent to the child, and back. */
static int go[2], done[2];

static void pipes_open(void)
{
	if (pipe(go) || pipe(done))
		fatal("pipe");
}

static void give_byte(const int p[2])
{
	if (write(p[1], "g", 1) != 1)
		fatal("pipe");
}

static void await_byte(const int p[2])
{
	if (read(p[0], buf, 1) != 1)
		fatal("pipe");
}

/* A connection whose peer sends @in bytes and receives @out at once, and a child. */
static pid_t begin(struct conn **c, int64_t in, int64_t out)
{
	*c = conn_open();
	pipes_open();
	signal_count(SIGPIPE, 0);
	peer_later(0, PEER_PUMP, *c, in, out);
	return child_new();
}

/* The child reads all, and says so when the parent lets it. */
static void child_takes(int fd, uint64_t bytes)
{
	take(fd, 0, bytes);
	await_byte(go);
	taken_say("child");
}

/* The parent writes all meanwhile. */
static void parent_gives(int fd, uint64_t from, uint64_t bytes)
{
	give("parent", fd, from, bytes);
	pumped_say(bytes);
	give_byte(go);
}

/* ---- both directions at once ---- */

static void child_reads(void)
{
	struct conn *c;
	pid_t pid = begin(&c, BIG, BIG);

	if (!pid) {
		child_takes(c->fd, BIG);
		_exit(0);
	}
	parent_gives(c->fd, 0, BIG);
	child_end(pid);
	if (!this_case->a)
		return;
	/* what the child held comes back */
	peer_text(c, "for the parent");
	process_read("parent", c->fd);
	process_write("parent", c->fd, "answer");
	peer_recv_say(c, 6);
}

static void child_writes(void)
{
	struct conn *c;
	pid_t pid = begin(&c, BIG, BIG);

	if (!pid) {
		give("child", c->fd, 0, BIG);
		_exit(0);
	}
	take(c->fd, 0, BIG);
	taken_say("parent");
	pumped_say(BIG);
	child_end(pid);
	if (!this_case->a)
		return;
	process_write("parent", c->fd, "from the parent");
	peer_recv_say(c, 15);
	peer_text(c, "answer");
	process_read("parent", c->fd);
}

/* The first to move after the fork is the parent, so that the child need not take what it does not use. */
static void parent_first(void)
{
	struct conn *c;
	pid_t pid = begin(&c, BIG, BIG);

	if (!pid) {
		await_byte(go);
		child_takes(c->fd, BIG);
		_exit(0);
	}
	give("parent", c->fd, 0, 5000);
	give_byte(go);
	parent_gives(c->fd, 5000, BIG);
	child_end(pid);
}

static void set_nonblock(int fd)
{
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static void wait_events(int fd, int epfd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};
	struct epoll_event ev;

	if ((epfd < 0 ? poll(&p, 1, 5000) : epoll_wait(epfd, &ev, 1, 5000)) != 1)
		fatal("no event");
}

static int epoll_of(int fd, uint32_t events)
{
	struct epoll_event ev = {.events = events};
	int epfd = epoll_create1(0);

	if (epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev))
		fatal("epoll_ctl: %s", err_name(errno));
	return epfd;
}

/* Without blocking: each waits for its own direction, with poll or (case's a) with an instance of its own. */
static void child_watches(int fd)
{
	int epfd = this_case->a ? epoll_of(fd, EPOLLIN) : -1;
	uint64_t at = 0;

	while (at < BIG) {
		take(fd, at, BIG);
		at += taken;
		if (!has_taken || (at < BIG && take_err != EAGAIN))
			fatal("after %llu: %s", (unsigned long long)at, err_name(take_err));
		if (at < BIG)
			wait_events(fd, epfd, POLLIN);
	}
	await_byte(go);
	say("child: read all");
}

static void events(void)
{
	struct conn *c;
	pid_t pid = begin(&c, BIG, BIG);
	uint64_t at = 0;
	int epfd;

	set_nonblock(c->fd);
	if (!pid) {
		child_watches(c->fd);
		_exit(0);
	}
	epfd = this_case->a ? epoll_of(c->fd, EPOLLOUT) : -1;
	while (at < BIG) {
		size_t n = BIG - at < PIECE ? BIG - at : PIECE;
		ssize_t put;

		pattern_fill(buf, n, SEED_OUT, at);
		put = write(c->fd, buf, n);
		if (put < 0 && errno != EAGAIN)
			fatal("write: %s", err_name(errno));
		if (put < 0)
			wait_events(c->fd, epfd, POLLOUT);
		else
			at += (uint64_t)put;
	}
	parent_gives(c->fd, BIG, BIG);
	child_end(pid);
}

/* ---- they change places, or get in each other's way ---- */

static void swap(void)
{
	struct conn *c;
	pid_t pid = begin(&c, BIG, BIG);

	if (!pid) {
		child_takes(c->fd, BIG);
		give("child", c->fd, 0, BIG);
		_exit(0);
	}
	parent_gives(c->fd, 0, BIG);
	peer_later(0, PEER_PUMP, c, BIG, BIG);
	take(c->fd, 0, BIG);
	pumped_say(BIG);
	child_end(pid);
	taken_say("parent");
}

/* Four processes: nobody knows who gets what, but all of it is there. */
static void crowd(void)
{
	struct conn *c = conn_open();
	struct peer_answer a;
	int count[2];
	pid_t pids[4];
	int64_t got = 0, n;

	if (pipe(count))
		fatal("pipe");
	peer_later(0, PEER_PUMP, c, 2000000, 2000000);
	for (int i = 0; i < 4; i++) {
		pids[i] = child_new();
		if (pids[i])
			continue;
		for (int k = 0; k < 100; k++) {
			memset(buf, 'a' + i, 5000);
			if (write(c->fd, buf, 5000) != 5000)
				fatal("write: %s", err_name(errno));
			n = recv(c->fd, buf, 5000, MSG_WAITALL);
			if (n != 5000 || write(count[1], &n, sizeof(n)) != sizeof(n))
				fatal("read: %s", err_name(errno));
		}
		_exit(0);
	}
	close(count[1]);
	while (read(count[0], &n, sizeof(n)) == sizeof(n))
		got += n;
	for (int i = 0; i < 4; i++)
		child_end(pids[i]);
	a = peer_wait();
	say("all read: %lld, peer: %lld %s", (long long)got, (long long)a.ret, a.err ? err_name(a.err) : "");
}

/* Questions about the direction that the other process has. */
static void asks(void)
{
	int n = -1, on = 1;
	struct conn *c;
	pid_t pid = begin(&c, 1000003, 1000003);

	if (!pid) {
		child_takes(c->fd, 1000003);
		await_byte(go);
		tell(ioctl(c->fd, FIONREAD, &n), "child: ioctl(FIONREAD)");
		tell(setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)), "child: setsockopt(NODELAY)");
		process_read("child", c->fd);
		_exit(0);
	}
	parent_gives(c->fd, 0, 1000003);
	peer_text(c, "twelve bytes");
	pause_ms(20);
	tell(ioctl(c->fd, FIONREAD, &n), "parent: ioctl(FIONREAD)");
	say("%d", n);
	give_byte(go);
	child_end(pid);
	process_write("parent", c->fd, "x");
	peer_recv_say(c, 1);
}

/* ---- ends ---- */

/* The reader is killed while bytes wait, or while it waits for more. */
static void reader_killed(void)
{
	uint64_t part = this_case->a ? (uint64_t)this_case->a : BIG;
	struct conn *c;
	pid_t pid = begin(&c, BIG, BIG);

	if (!pid) {
		take(c->fd, 0, part);
		taken_say("child");
		give_byte(done);
		while (part == BIG)
			(void)!read(c->fd, buf, 1);
		for (;;)
			pause();
	}
	give("parent", c->fd, 0, BIG / 2);
	await_byte(done);
	pause_ms(20);
	kill(pid, SIGKILL);
	give("parent", c->fd, BIG / 2, BIG);
	child_end(pid);
	take(c->fd, part, BIG);
	taken_say("parent");
	pumped_say(BIG);
	peer_text(c, "more");
	process_read("parent", c->fd);
}

/* The writer is killed in the middle: what its write() has returned arrives, and nothing else. */
static void writer_killed(void)
{
	struct peer_answer a;
	struct conn *c;
	pid_t pid = begin(&c, BIG, 0);

	if (!pid)
		for (uint64_t at = 0;; at += PIECE)
			give("child", c->fd, at, at + PIECE);
	take(c->fd, 0, BIG);
	taken_say("parent");
	peer_wait();
	pause_ms(this_case->a);
	kill(pid, SIGKILL);
	child_end(pid);
	tell(shutdown(c->fd, SHUT_WR), "parent: shutdown(WR)");
	peer_later(0, PEER_DRAIN, c, 0, 0);
	a = peer_wait();
	say("the peer's %s", a.hash == pattern_stream_hash(SEED_OUT, (uint64_t)a.ret) ? "are right" : "are wrong");
}

/* Who closes first does not end the connection for the other one. */
static void reader_closes(void)
{
	struct conn *c;
	pid_t pid = begin(&c, BIG, BIG);

	if (!pid) {
		child_takes(c->fd, BIG);
		tell(close(c->fd), "child: close");
		_exit(0);
	}
	parent_gives(c->fd, 0, BIG);
	child_end(pid);
	give("parent", c->fd, BIG, BIG + 100000);
	peer_recv_say(c, 100000);
	tell(close(c->fd), "parent: close");
	peer_drain_say(c);
}

static void writer_closes(void)
{
	struct conn *c;
	pid_t pid = begin(&c, BIG, BIG);

	if (!pid) {
		child_takes(c->fd, BIG);
		give_byte(done);
		await_byte(go);
		process_read("child", c->fd);
		tell(read(c->fd, buf, 10), "child: read");
		tell(close(c->fd), "child: close");
		_exit(0);
	}
	parent_gives(c->fd, 0, BIG);
	await_byte(done);
	tell(close(c->fd), "parent: close");
	peer_text(c, "still open");
	give_byte(go);
	pause_ms(50);
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	child_end(pid);
	peer_drain_say(c);
}

/* The writer, or (case's a) the reader, ends the sending direction for both. */
static void shuts_down(void)
{
	struct conn *c;
	pid_t pid = begin(&c, BIG, BIG);

	if (!pid) {
		child_takes(c->fd, BIG);
		if (this_case->a)
			tell(shutdown(c->fd, SHUT_WR), "child: shutdown(WR)");
		give_byte(done);
		process_read("child", c->fd);
		tell(write(c->fd, "x", 1), "child: write");
		_exit(0);
	}
	parent_gives(c->fd, 0, BIG);
	await_byte(done);
	if (!this_case->a)
		tell(shutdown(c->fd, SHUT_WR), "parent: shutdown(WR)");
	peer_drain_say(c);
	peer_text(c, "after the end");
	child_end(pid);
	tell(write(c->fd, "x", 1), "parent: write");
}

static void reads_shut_down(void)
{
	struct conn *c;
	pid_t pid = begin(&c, BIG, BIG);
	int ret;

	if (!pid) {
		child_takes(c->fd, BIG);
		tell(read(c->fd, buf, 1), "child: read");
		_exit(0);
	}
	parent_gives(c->fd, 0, BIG);
	pause_ms(20);
	ret = shutdown(c->fd, SHUT_RD);
	child_end(pid);
	tell(ret, "parent: shutdown(RD)");
	tell(write(c->fd, "x", 1), "parent: write");
	peer_recv_say(c, 1);
	tell(read(c->fd, buf, 1), "parent: read");
}

/* The peer's end, and its reset, reach both. */
static void peer_ends(void)
{
	struct conn *c;
	pid_t pid = begin(&c, BIG, BIG);

	if (!pid) {
		child_takes(c->fd, BIG);
		give_byte(done);
		tell(read(c->fd, buf, 1), "child: read");
		_exit(0);
	}
	parent_gives(c->fd, 0, BIG);
	await_byte(done); /* a reset takes with it what was not read */
	if (this_case->a) {
		peer(PEER_RESET, c, 0, 0);
		child_end(pid);
		return;
	}
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	child_end(pid);
	give("parent", c->fd, BIG, BIG + 5000);
	peer_recv_say(c, 5000);
	tell(read(c->fd, buf, 1), "parent: read");
}

#define CASE_A(n, t, f, why, v)                                                  \
	{                                                                        \
		.name = (n), .text = (t), .run = (f), .returns = (why), .a = (v) \
	}

const struct test_case cases_split[] = {
	CASE("split/child-reads", "the child reads, the parent writes", child_reads),
	CASE("split/child-writes", "the child writes, the parent reads", child_writes),
	CASE("split/parent-first", "the parent writes before the child reads", parent_first),
	CASE_A("split/child-reads-then", "the child has read, the parent does both", child_reads, SHARED_WHY, 1),
	CASE_A("split/child-writes-then", "the child has written, the parent does both", child_writes, SHARED_WHY, 1),
	CASE("split/poll", "poll() for one direction each", events),
	CASE_A("split/epoll", "an epoll instance for each direction", events, NULL, 1),
	CASE_A("split/swap", "they change places", swap, SHARED_WHY, 0),
	CASE_A("split/crowd", "four processes that read and write", crowd, SHARED_WHY, 0),
	CASE_A("split/asks", "FIONREAD and an option on the other's direction", asks, SHARED_WHY, 0),
	CASE_A("split/reader-killed", "the reader is killed while bytes wait", reader_killed, SHARED_WHY, 1000003),
	CASE_A("split/reader-killed-waiting", "the reader is killed while it waits", reader_killed, SHARED_WHY, 0),
	CASE_A("split/writer-killed", "the writer is killed while it writes", writer_killed, SHARED_WHY, 0),
	CASE_A("split/writer-killed-waiting", "the writer is killed while it waits", writer_killed, SHARED_WHY, 200),
	CASE("split/reader-closes", "the reader closes, the writer goes on", reader_closes),
	CASE("split/writer-closes", "the writer closes, the reader goes on", writer_closes),
	CASE_A("split/writer-shuts-down", "the writer shuts down, the reader goes on", shuts_down, SHARED_WHY, 0),
	CASE_A("split/reader-shuts-down", "the reader shuts the other's direction down", shuts_down, SHARED_WHY, 1),
	CASE_A("split/shuts-down-reads", "the writer shuts the reader's direction down", reads_shut_down, SHARED_WHY,
	       0),
	CASE_A("split/peer-ends", "the peer's FIN", peer_ends, SHARED_WHY, 0),
	CASE_A("split/peer-resets", "the peer's RST", peer_ends, SHARED_WHY, 1),
	{.name = NULL},
};
