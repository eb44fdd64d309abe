// SPDX-License-Identifier: GPL-2.0-or-later
/* The end of connections: shutdown, close, resets, lingering, and what each side sees of it. */
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "tests/posix/posix.h"

static char buf[70000];

static void read_say(int fd)
{
	tell_data(read(fd, buf, 100), buf, "read");
}

static void write_say(int fd, const char *text)
{
	signals_seen = 0;
	tell(write(fd, text, strlen(text)), "write(%zu)", strlen(text));
	if (signals_seen)
		say("SIGPIPE %d", signals_seen);
}

static int so_error(int fd)
{
	int err = -1;
	socklen_t len = sizeof(err);

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len))
		err = -1;
	say("SO_ERROR %s", err_name(err));
	return err;
}

static void poll_say(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT | POLLPRI | POLLRDHUP};
	int n = poll(&p, 1, 0);

	tell(n, "poll");
	say("%s", event_names((uint32_t)p.revents));
}

/* The socket's state, once it is @wanted or a second has passed. */
static void tcp_state_say(int fd, int wanted)
{
	struct tcp_info info = {0};
	double end = seconds() + 1;

	do {
		socklen_t len = sizeof(info);

		if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len))
			break;
		if (info.tcpi_state != wanted)
			pause_ms(2);
	} while (info.tcpi_state != wanted && seconds() < end);
	say("TCP state %d", info.tcpi_state);
}

/* ---- close ---- */

static void close_plain(void)
{
	struct conn *c = conn_open();

	write_say(c->fd, "goodbye");
	tell(close(c->fd), "close");
	peer_drain_say(c);
}

static void close_twice(void)
{
	struct conn *c = conn_open();

	tell(close(c->fd), "close");
	tell(close(c->fd), "close");
	tell(shutdown(c->fd, SHUT_WR), "shutdown");
	peer_drain_say(c);
}

static void close_much(void)
{
	struct conn *c = conn_open();
	struct peer_answer a;
	int64_t total = 0;

	fcntl(c->fd, F_SETFL, O_NONBLOCK);
	for (ssize_t n;; total += n) {
		pattern_fill(buf, 60001, 3, (uint64_t)total);
		n = write(c->fd, buf, 60001);
		if (n <= 0)
			break;
	}
	tell(close(c->fd), "close with much unsent");
	peer_later(30, PEER_DRAIN, c, 0, 0);
	a = peer_wait();
	say("all arrived: %s, then %s",
	    a.ret == total && a.hash == pattern_stream_hash(3, (uint64_t)total) ? "yes" : "no", err_name(a.err));
}

static void close_unread(void)
{
	struct conn *c = conn_open();

	peer_text(c, "not read");
	await_in(c->fd, 8);
	tell(close(c->fd), "close with unread data");
	peer_drain_say(c);
}

static void close_unread_sent(void)
{
	struct conn *c = conn_open();

	write_say(c->fd, "sent before");
	peer_recv_say(c, 11);
	peer_text(c, "not read");
	await_in(c->fd, 8);
	tell(close(c->fd), "close with unread data");
	peer_drain_say(c);
}

static void close_then_data(void)
{
	struct conn *c = conn_open();
	struct peer_answer a;

	tell(close(c->fd), "close");
	peer_drain_say(c);
	peer_text(c, "to nobody");
	peer_later(30, PEER_DRAIN, c, 0, 0);
	a = peer_wait();
	say("peer then: %s", err_name(a.err));
}

static void close_linger_zero(void)
{
	struct conn *c = conn_open();
	struct linger l = {1, 0};

	tell(setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), "SO_LINGER 0");
	tell(close(c->fd), "close");
	peer_drain_say(c);
}

static void close_linger_zero_unsent(void)
{
	struct conn *c = conn_open();
	struct linger l = {1, 0};
	struct peer_answer a;

	memset(buf, 'l', sizeof(buf));
	fcntl(c->fd, F_SETFL, O_NONBLOCK);
	while (write(c->fd, buf, sizeof(buf)) > 0)
		continue;
	tell(setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), "SO_LINGER 0");
	tell(close(c->fd), "close");
	peer_later(30, PEER_DRAIN, c, 0, 0);
	a = peer_wait();
	say("peer: %s", err_name(a.err));
}

static void close_linger(void)
{
	struct conn *c = conn_open();
	struct linger l = {1, 3};

	tell(setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), "SO_LINGER 3");
	write_say(c->fd, "lingering");
	peer_later(0, PEER_DRAIN, c, 0, 0);
	tell(close(c->fd), "close");
	say("peer got %lld", (long long)peer_wait().ret);
}

static void close_corked(void)
{
	struct conn *c = conn_open();
	int one = 1;

	tell(setsockopt(c->fd, IPPROTO_TCP, TCP_CORK, &one, sizeof(one)), "TCP_CORK");
	write_say(c->fd, "corked");
	tell(close(c->fd), "close");
	peer_drain_say(c);
}

static void close_syscall(void)
{
	struct conn *c = conn_open();
	int fd = c->fd;

	tell(syscall(SYS_close, fd), "syscall(SYS_close)");
	peer_drain_say(c);
	tell(read(fd, buf, 1), "read");
}

static void number_reused(void)
{
	struct conn *c = conn_open();
	int p[2], fd = c->fd;

	close(fd);
	tell(pipe(p), "pipe");
	say("same number: %s", p[0] == fd || p[1] == fd ? "yes" : "no");
	tell(write(p[1], "pipe", 4), "write");
	tell_data(read(p[0], buf, 10), buf, "read");
	peer_drain_say(c);
}

static void number_reused_unseen(void)
{
	struct conn *c = conn_open();
	int p[2], fd = c->fd;

	syscall(SYS_close, fd);
	tell(pipe(p), "pipe");
	tell(write(p[1], "pipe", 4), "write");
	tell_data(read(p[0], buf, 10), buf, "read");
	peer_drain_say(c);
}

static void exit_plain(void)
{
	struct conn *c = conn_open();
	pid_t child;

	/* the connection is the parent's; the child exits without touching it */
	child = fork();
	if (!child)
		_exit(0);
	pause_ms(30);
	write_say(c->fd, "child has gone");
	peer_recv_say(c, 14);
	tell(kill(child, 0), "the child is not waited for yet");
}

/* ---- shutdown ---- */

static void half_close(void)
{
	struct conn *c = conn_open();

	write_say(c->fd, "request");
	tell(shutdown(c->fd, SHUT_WR), "shutdown(WR)");
	peer_drain_say(c);
	poll_say(c->fd);
	peer_text(c, "response");
	peer(PEER_CLOSE, c, 0, 0);
	await_in(c->fd, 8);
	read_say(c->fd);
	read_say(c->fd);
	await_poll(c->fd, POLLHUP);
	poll_say(c->fd);
	so_error(c->fd);
}

static void half_close_peer(void)
{
	struct conn *c = conn_open();

	peer_text(c, "request");
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	await_poll(c->fd, POLLRDHUP);
	poll_say(c->fd);
	read_say(c->fd);
	read_say(c->fd);
	write_say(c->fd, "response");
	tell(close(c->fd), "close");
	peer_drain_say(c);
}

static void half_close_large(void)
{
	struct conn *c = conn_open();
	int64_t got = 0;
	uint64_t hash = HASH_START;

	tell(shutdown(c->fd, SHUT_WR), "shutdown(WR)");
	peer_later(0, PEER_SEND, c, 1000003, 6);
	for (ssize_t n; got < 1000003 && (n = read(c->fd, buf, sizeof(buf))) > 0; got += n)
		hash = pattern_hash(hash, buf, (size_t)n);
	say("got %lld, %s", (long long)got, hash == pattern_stream_hash(6, 1000003) ? "right" : "wrong");
	peer_wait();
}

static void shutdown_twice(void)
{
	struct conn *c = conn_open();

	tell(shutdown(c->fd, SHUT_WR), "shutdown(WR)");
	tell(shutdown(c->fd, SHUT_WR), "shutdown(WR)");
	tell(shutdown(c->fd, SHUT_RD), "shutdown(RD)");
	peer_drain_say(c);
	peer(PEER_CLOSE, c, 0, 0);
	pause_ms(20);
	tell(shutdown(c->fd, SHUT_RDWR), "shutdown(RDWR) after both FINs");
}

static void shutdown_wrong(void)
{
	struct conn *c = conn_open();

	tell(shutdown(c->fd, 3), "shutdown(3)");
	tell(shutdown(c->fd, -1), "shutdown(-1)");
	write_say(c->fd, "still fine");
	peer_recv_say(c, 10);
}

static void shutdown_rd_events(void)
{
	struct conn *c = conn_open();

	tell(shutdown(c->fd, SHUT_RD), "shutdown(RD)");
	poll_say(c->fd);
	read_say(c->fd);
	write_say(c->fd, "out");
	peer_recv_say(c, 3);
}

static void shutdown_wr_events(void)
{
	struct conn *c = conn_open();

	tell(shutdown(c->fd, SHUT_WR), "shutdown(WR)");
	poll_say(c->fd);
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	await_poll(c->fd, POLLHUP);
	poll_say(c->fd);
}

static void shutdown_both_events(void)
{
	struct conn *c = conn_open();

	tell(shutdown(c->fd, SHUT_RDWR), "shutdown(RDWR)");
	poll_say(c->fd);
	peer_drain_say(c);
	so_error(c->fd);
}

static void shutdown_reset_write(void)
{
	struct conn *c = conn_open();

	peer(PEER_RESET, c, 0, 0);
	await_reset(c->fd);
	tell(shutdown(c->fd, SHUT_WR), "shutdown(WR) after reset");
	so_error(c->fd);
}

static void simultaneous(void)
{
	struct conn *c = conn_open();

	peer_later(20, PEER_SHUTDOWN, c, SHUT_WR, 0);
	pause_ms(20);
	tell(shutdown(c->fd, SHUT_WR), "shutdown(WR)");
	peer_wait();
	await_poll(c->fd, POLLHUP);
	poll_say(c->fd);
	read_say(c->fd);
	peer_drain_say(c);
}

static void simultaneous_data(void)
{
	struct conn *c = conn_open();

	peer_text_later(20, c, "from there");
	pause_ms(20);
	write_say(c->fd, "from here");
	tell(shutdown(c->fd, SHUT_WR), "shutdown(WR)");
	peer_wait();
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	await_in(c->fd, 10);
	read_say(c->fd);
	read_say(c->fd);
	peer_drain_say(c);
}

/* ---- errors ---- */

static void so_error_once(void)
{
	struct conn *c = conn_open();

	so_error(c->fd);
	peer(PEER_RESET, c, 0, 0);
	await_reset(c->fd);
	so_error(c->fd);
	so_error(c->fd);
	read_say(c->fd);
	signal_count(SIGPIPE, 0);
	write_say(c->fd, "x");
}

static void error_read_once(void)
{
	struct conn *c = conn_open();

	peer(PEER_RESET, c, 0, 0);
	await_reset(c->fd);
	read_say(c->fd);
	so_error(c->fd);
	read_say(c->fd);
	poll_say(c->fd);
}

static void reset_events(void)
{
	struct conn *c = conn_open();

	peer_text(c, "unread");
	await_in(c->fd, 6);
	peer(PEER_RESET, c, 0, 0);
	await_reset(c->fd);
	poll_say(c->fd);
	tcp_state_say(c->fd, TCP_CLOSE);
	tell(getpeername(c->fd, (struct sockaddr *)buf, &(socklen_t){sizeof(buf)}), "getpeername");
	so_error(c->fd);
	poll_say(c->fd);
}

static void reset_after_write(void)
{
	struct conn *c = conn_open();

	signal_count(SIGPIPE, 0);
	peer_text(c, "data");
	await_in(c->fd, 4);
	peer(PEER_CLOSE, c, 0, 0);
	await_poll(c->fd, POLLRDHUP);
	write_say(c->fd, "draws a reset");
	await_reset(c->fd);
	poll_say(c->fd);
	read_say(c->fd);
	read_say(c->fd);
	so_error(c->fd);
}

static void states(void)
{
	struct conn *c = conn_open();

	tcp_state_say(c->fd, TCP_ESTABLISHED);
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	await_poll(c->fd, POLLRDHUP);
	tcp_state_say(c->fd, TCP_CLOSE_WAIT);
	shutdown(c->fd, SHUT_WR);
	peer_drain_say(c);
	await_poll(c->fd, POLLHUP);
	tcp_state_say(c->fd, TCP_CLOSE);
}

static void states_active(void)
{
	struct conn *c = conn_open();

	shutdown(c->fd, SHUT_WR);
	peer_drain_say(c);
	tcp_state_say(c->fd, TCP_FIN_WAIT2);
	peer(PEER_CLOSE, c, 0, 0);
	await_poll(c->fd, POLLHUP);
	tcp_state_say(c->fd, TCP_CLOSE);
}

static void disconnect(void)
{
	struct conn *c = conn_open();
	struct sockaddr un = {.sa_family = AF_UNSPEC};

	tell(connect(c->fd, &un, sizeof(un)), "connect(AF_UNSPEC)");
	peer_drain_say(c);
	read_say(c->fd);
	signal_count(SIGPIPE, 0);
	write_say(c->fd, "x");
	tell(getpeername(c->fd, (struct sockaddr *)buf, &(socklen_t){sizeof(buf)}), "getpeername");
}

static void reconnect(void)
{
	struct conn *c = conn_connect();
	struct sockaddr un = {.sa_family = AF_UNSPEC};
	struct sockaddr_storage to;
	int id = next_id();

	tell(connect(c->fd, &un, sizeof(un)), "connect(AF_UNSPEC)");
	peer_address(&to, peer_listener());
	tell(connect(c->fd, (struct sockaddr *)&to, sizeof(struct sockaddr_in)), "connect again");
	tell(peer_id(PEER_ACCEPT, id, 0, 0), "peer accepts");
	tell(write(c->fd, "anew", 4), "write");
	c->id = id;
	peer_recv_say(c, 4);
	c->fast = false;
}

const struct test_case cases_close[] = {
	CASE("close/plain", "data, then FIN", close_plain),
	CASE("close/twice", "EBADF the second time", close_twice),
	CASE("close/much", "what is unsent at close still arrives, then FIN", close_much),
	CASE("close/unread", "close with unread data resets", close_unread),
	CASE("close/unread-sent", "the same after data were sent", close_unread_sent),
	CASE("close/then-data", "data for a closed socket draw a reset", close_then_data),
	CASE("close/linger-zero", "SO_LINGER of 0 resets", close_linger_zero),
	CASE("close/linger-zero-unsent", "SO_LINGER of 0 drops what is unsent", close_linger_zero_unsent),
	CASE("close/linger", "SO_LINGER waits for the data to go", close_linger),
	CASE("close/corked", "close pushes what TCP_CORK held", close_corked),
	CASE_RETURNS("close/syscall", "syscall(SYS_close)", close_syscall, PAST_LIBRARY),
	CASE("close/number-reused", "the number becomes a pipe", number_reused),
	CASE_RETURNS("close/number-reused-unseen", "the same when the close was a system call", number_reused_unseen,
		     PAST_LIBRARY),
	CASE("close/child-exits", "a child that exits does not end its parent's connection", exit_plain),
	CASE("shutdown/half-close", "request, FIN, response, end; events", half_close),
	CASE("shutdown/half-close-peer", "the peer half-closes", half_close_peer),
	CASE("shutdown/half-close-large", "1 MB arrives after our FIN", half_close_large),
	CASE("shutdown/twice", "shutdown again and after both FINs", shutdown_twice),
	CASE("shutdown/wrong", "EINVAL, and nothing happens", shutdown_wrong),
	CASE("shutdown/rd-events", "events after SHUT_RD", shutdown_rd_events),
	CASE("shutdown/wr-events", "events after SHUT_WR, and after the peer's FIN", shutdown_wr_events),
	CASE("shutdown/both-events", "events after SHUT_RDWR", shutdown_both_events),
	CASE("shutdown/reset", "shutdown after a reset", shutdown_reset_write),
	CASE("shutdown/simultaneous", "both ends at once", simultaneous),
	CASE("shutdown/simultaneous-data", "both ends at once, with data", simultaneous_data),
	CASE("error/so-error-once", "SO_ERROR tells a reset once, to nobody else", so_error_once),
	CASE("error/read-once", "read takes the error from SO_ERROR", error_read_once),
	CASE("error/reset-events", "events, state, name after a reset", reset_events),
	CASE("error/reset-after-write", "writing to a peer that has closed", reset_after_write),
	CASE("error/states", "TCP states of a passive close", states),
	CASE("error/states-active", "TCP states of an active close", states_active),
	CASE_RETURNS("error/disconnect", "connect(AF_UNSPEC) resets", disconnect, "there is no connection any more"),
	CASE_RETURNS("error/reconnect", "connect(AF_UNSPEC), then a new connection on the descriptor", reconnect,
		     "the second connection is new"),
	{.name = NULL},
};
