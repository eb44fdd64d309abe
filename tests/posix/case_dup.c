// SPDX-License-Identifier: GPL-2.0-or-later
/* Duplicates of descriptors, and calls that close many. */
#include <linux/close_range.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "tests/posix/posix.h"

static char buf[256];

static void read_say(int fd)
{
	tell_data(read(fd, buf, 100), buf, "read");
}

static void write_say(int fd, const char *text)
{
	tell(write(fd, text, strlen(text)), "write(%zu)", strlen(text));
}

/* Both descriptors work; the connection ends with the second. */
static void both_work(struct conn *c, int d)
{
	int fd = c->fd;

	write_say(fd, "one ");
	write_say(d, "two");
	peer_recv_say(c, 7);
	peer_text(c, "ab");
	await_in(fd, 2);
	tell_data(read(fd, buf, 1), buf, "read");
	tell_data(read(d, buf, 1), buf, "read(dup)");
	tell(close(fd), "close");
	write_say(d, "still here");
	peer_recv_say(c, 10);
	tell(close(d), "close(dup)");
	peer_drain_say(c);
}

static void dup_plain(void)
{
	struct conn *c = conn_open();

	both_work(c, dup(c->fd));
}

static void dup2_new(void)
{
	struct conn *c = conn_open();

	tell(dup2(c->fd, 50), "dup2(50)");
	both_work(c, 50);
}

static void dup3_cloexec(void)
{
	struct conn *c = conn_open();

	tell(dup3(c->fd, 50, O_CLOEXEC), "dup3(50)");
	tell(fcntl(50, F_GETFD), "F_GETFD");
	both_work(c, 50);
}

static void f_dupfd(void)
{
	struct conn *c = conn_open();
	int d = fcntl(c->fd, F_DUPFD, 60);

	tell(d, "F_DUPFD");
	tell(fcntl(d, F_GETFD), "F_GETFD");
	both_work(c, d);
}

static void f_dupfd_cloexec(void)
{
	struct conn *c = conn_open();
	int d = fcntl(c->fd, F_DUPFD_CLOEXEC, 60);

	tell(d, "F_DUPFD_CLOEXEC");
	tell(fcntl(d, F_GETFD), "F_GETFD");
	both_work(c, d);
}

static void dup_syscall(void)
{
	struct conn *c = conn_open();

	both_work(c, (int)syscall(SYS_dup, c->fd));
}

static void dup_before(void)
{
	int l = listener_open(8, 0), id = next_id(), fd, d;
	struct conn *c;

	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	fd = accept(l, NULL, NULL);
	d = dup(fd);
	c = conn_adopt(fd, id);
	both_work(c, d);
}

static void dup2_over(void)
{
	struct conn *a = conn_open(), *b = conn_open();
	int fd = b->fd;

	tell(dup2(a->fd, fd) == fd, "dup2 over the other");
	b->fd = -1; /* the number is the other connection's */
	peer_drain_say(b);
	write_say(fd, "by the other number");
	peer_recv_say(a, 19);
}

static void dup2_pipe_over(void)
{
	struct conn *c = conn_open();
	int p[2];

	tell(pipe(p), "pipe");
	tell(dup2(p[0], c->fd) == c->fd, "dup2 of a pipe over it");
	peer_drain_say(c);
	tell(write(p[1], "pipe", 4), "write");
	read_say(c->fd);
}

static void dup2_self(void)
{
	struct conn *c = conn_open();

	tell(dup2(c->fd, c->fd) == c->fd, "dup2 of itself");
	tell(dup3(c->fd, c->fd, 0), "dup3 of itself");
	write_say(c->fd, "fine");
	peer_recv_say(c, 4);
}

static void dup_errors(void)
{
	struct conn *c = conn_open();

	tell(dup(190), "dup(not open)");
	tell(dup2(190, c->fd), "dup2(not open)");
	tell(dup2(c->fd, -1), "dup2(-1)");
	tell(dup3(c->fd, 50, 7), "dup3(bad flags)");
	tell(dup2(c->fd, 1 << 30), "dup2(too large)");
	tell(fcntl(c->fd, F_DUPFD, -1), "F_DUPFD(-1)");
	write_say(c->fd, "fine");
	peer_recv_say(c, 4);
}

static void stdio_numbers(void)
{
	struct conn *c = conn_open();

	/* as inetd does */
	tell(dup2(c->fd, 0), "dup2(0)");
	tell(dup2(c->fd, 1), "dup2(1)");
	close(c->fd);
	c->fd = 0;
	write_say(1, "to standard output");
	peer_recv_say(c, 18);
	peer_text(c, "from standard input");
	await_in(0, 19);
	read_say(0);
}

static void flags_shared(void)
{
	struct conn *c = conn_open();
	int d = dup(c->fd);

	tell(fcntl(d, F_SETFL, O_NONBLOCK), "F_SETFL on the duplicate");
	tell(fcntl(c->fd, F_GETFL) & O_NONBLOCK ? 1 : 0, "O_NONBLOCK");
	read_say(c->fd);
	tell(fcntl(c->fd, F_SETFD, FD_CLOEXEC), "F_SETFD");
	tell(fcntl(d, F_GETFD), "F_GETFD of the duplicate");
}

static void shutdown_shared(void)
{
	struct conn *c = conn_open();
	int d = dup(c->fd);

	tell(shutdown(d, SHUT_WR), "shutdown(dup, WR)");
	peer_drain_say(c);
	signal(SIGPIPE, SIG_IGN);
	write_say(c->fd, "x");
	peer_text(c, "y");
	await_in(c->fd, 1);
	read_say(d);
}

/* ---- closing many ---- */

static void close_range_all(void)
{
	struct conn *a = conn_open(), *b = conn_open();

	tell(close_range((unsigned)a->fd, 150, 0), "close_range");
	peer_drain_say(a);
	peer_drain_say(b);
	read_say(a->fd);
}

static void close_range_one(void)
{
	struct conn *a = conn_open(), *b = conn_open();

	tell(close_range((unsigned)a->fd, (unsigned)a->fd, 0), "close_range");
	peer_drain_say(a);
	write_say(b->fd, "the other lives");
	peer_recv_say(b, 15);
}

static void close_range_cloexec(void)
{
	struct conn *c = conn_open();

	tell(close_range(3, 150, CLOSE_RANGE_CLOEXEC), "close_range(CLOEXEC)");
	tell(fcntl(c->fd, F_GETFD), "F_GETFD");
	write_say(c->fd, "open");
	peer_recv_say(c, 4);
	tell(close_range(10, 5, 0), "close_range(10, 5)");
	tell(close_range(3, 150, 0x80), "close_range(bad flags)");
	write_say(c->fd, "open");
	peer_recv_say(c, 4);
}

static void close_range_max(void)
{
	struct conn *a = conn_open(), *b = conn_open();

	dup2(b->fd, 40);
	close(b->fd);
	b->fd = 40;
	/* keep what this program needs: those above 199 */
	tell(close_range((unsigned)a->fd, 39, 0), "close_range");
	peer_drain_say(a);
	write_say(40, "kept");
	peer_recv_say(b, 4);
	tell(close_range(203, ~0u, 0), "close_range(203, max)");
	write_say(40, "and after");
	peer_recv_say(b, 9);
}

static void closefrom_high(void)
{
	struct conn *c = conn_open();

	closefrom(203);
	say("closefrom");
	write_say(c->fd, "still served");
	peer_recv_say(c, 12);
	peer_text(c, "both ways");
	await_in(c->fd, 9);
	read_say(c->fd);
}

static void close_loop(void)
{
	struct conn *c = conn_open();
	int errors = 0;

	/* as daemons do: everything that is not needed */
	for (int fd = 203; fd < 2000; fd++)
		errors += close(fd) == 0;
	say("closed %d", errors);
	write_say(c->fd, "still served");
	peer_recv_say(c, 12);
	peer_text(c, "both ways");
	await_in(c->fd, 9);
	read_say(c->fd);
}

static void dup2_high(void)
{
	struct conn *c = conn_open();

	/* onto numbers where a library may have its own descriptors */
	for (int fd = 1000; fd < 1010; fd++)
		if (dup2(c->fd, fd) != fd)
			tell(-1, "dup2(%d)", fd);
	write_say(1005, "high");
	peer_recv_say(c, 4);
	peer_text(c, "low");
	await_in(c->fd, 3);
	read_say(1009);
}

/* ---- fcntl and ioctl ---- */

static void nonblock_ways(void)
{
	struct conn *c = conn_open();
	int on = 1, off = 0;

	tell(ioctl(c->fd, FIONBIO, &on), "FIONBIO 1");
	tell((fcntl(c->fd, F_GETFL) & O_NONBLOCK) != 0, "O_NONBLOCK");
	read_say(c->fd);
	tell(ioctl(c->fd, FIONBIO, &off), "FIONBIO 0");
	tell((fcntl(c->fd, F_GETFL) & O_NONBLOCK) != 0, "O_NONBLOCK");
	peer_text_later(30, c, "waited for");
	read_say(c->fd);
	peer_wait();
	tell(fcntl(c->fd, F_SETFL, fcntl(c->fd, F_GETFL) | O_NONBLOCK), "F_SETFL");
	read_say(c->fd);
}

static void nonblock_syscall(void)
{
	struct conn *c = conn_open();

	tell(syscall(SYS_fcntl, c->fd, F_SETFL, O_NONBLOCK), "syscall(SYS_fcntl)");
	read_say(c->fd);
}

static void fionread(void)
{
	struct conn *c = conn_open();
	int n = -1;

	tell(ioctl(c->fd, FIONREAD, &n), "FIONREAD");
	say("%d", n);
	peer_text(c, "seven77");
	await_in(c->fd, 7);
	tell_data(read(c->fd, buf, 3), buf, "read");
	ioctl(c->fd, FIONREAD, &n);
	say("%d", n);
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	await_poll(c->fd, POLLRDHUP);
	ioctl(c->fd, FIONREAD, &n);
	say("%d at the end", n);
	tell(ioctl(c->fd, FIONREAD, NULL), "FIONREAD(NULL)");
	tell(ioctl(c->fd, FIONREAD, (void *)16), "FIONREAD(bad address)");
}

static void siocoutq(void)
{
	struct conn *c = conn_open();
	int n = -1;

	tell(ioctl(c->fd, TIOCOUTQ, &n), "SIOCOUTQ");
	say("%d", n);
	fill_up(c->fd);
	tell(ioctl(c->fd, TIOCOUTQ, &n), "SIOCOUTQ");
	say("%s", n > 0 ? "much" : "none");
	tell(ioctl(c->fd, TIOCOUTQ, (void *)16), "SIOCOUTQ(bad address)");
}

static void ioctl_errors(void)
{
	struct conn *c = conn_open();

	tell(ioctl(c->fd, 0x1234, NULL), "ioctl(unknown)");
	tell(ioctl(c->fd, FIONBIO, NULL), "FIONBIO(NULL)");
	tell(ioctl(c->fd, FIONBIO, (void *)16), "FIONBIO(bad address)");
	tell(ioctl(190, FIONREAD, NULL), "ioctl(not open)");
	tell(fcntl(c->fd, 9999), "fcntl(unknown)");
	tell(fcntl(190, F_GETFL), "fcntl(not open)");
	tell(isatty(c->fd), "isatty");
	tell(fcntl(c->fd, F_GETFL) == O_RDWR, "F_GETFL is O_RDWR");
}

static void fioasync(void)
{
	struct conn *c = conn_open();
	int on = 1;

	signal_count(SIGIO, 0);
	tell(fcntl(c->fd, F_SETOWN, getpid()), "F_SETOWN");
	tell(ioctl(c->fd, FIOASYNC, &on), "FIOASYNC");
	peer_text(c, "x");
	await_in(c->fd, 1);
	pause_ms(20);
	say("SIGIO: %s", signals_seen ? "yes" : "no");
	tell(fcntl(c->fd, F_GETOWN) == getpid(), "F_GETOWN is this process");
}

const struct test_case cases_dup[] = {
	CASE("dup/dup", "dup: both work, the second close ends it", dup_plain),
	CASE("dup/dup2", "dup2 to a free number", dup2_new),
	CASE("dup/dup3", "dup3 with O_CLOEXEC", dup3_cloexec),
	CASE("dup/dupfd", "F_DUPFD", f_dupfd),
	CASE("dup/dupfd-cloexec", "F_DUPFD_CLOEXEC", f_dupfd_cloexec),
	CASE_RETURNS("dup/syscall", "syscall(SYS_dup)", dup_syscall, PAST_LIBRARY),
	CASE("dup/before", "duplicated before the adoption", dup_before),
	CASE("dup/dup2-over", "dup2 over another connection closes that", dup2_over),
	CASE("dup/dup2-pipe-over", "dup2 of a pipe over a connection", dup2_pipe_over),
	CASE("dup/dup2-self", "dup2 and dup3 of itself", dup2_self),
	CASE("dup/errors", "wrong numbers", dup_errors),
	CASE_RETURNS("dup/stdio-numbers", "as standard input and output", stdio_numbers, "stdio uses these numbers"),
	CASE("dup/flags", "O_NONBLOCK is shared, FD_CLOEXEC is not", flags_shared),
	CASE("dup/shutdown", "shutdown of the duplicate", shutdown_shared),
	CASE("dup/close-range", "close_range of two connections", close_range_all),
	CASE("dup/close-range-one", "close_range of one of two", close_range_one),
	CASE("dup/close-range-cloexec", "close_range with CLOEXEC, and its errors", close_range_cloexec),
	CASE("dup/close-range-max", "close_range to the end of the table", close_range_max),
	CASE("dup/closefrom", "closefrom above the connection", closefrom_high),
	CASE("dup/close-loop", "a loop that closes all it does not know", close_loop),
	CASE("dup/dup2-high", "dup2 to high numbers", dup2_high),
	CASE("control/nonblock", "FIONBIO and F_SETFL", nonblock_ways),
	CASE_RETURNS("control/nonblock-syscall", "F_SETFL by syscall()", nonblock_syscall, PAST_LIBRARY),
	CASE("control/fionread", "FIONREAD", fionread),
	CASE("control/siocoutq", "SIOCOUTQ", siocoutq),
	CASE("control/errors", "errors of fcntl and ioctl", ioctl_errors),
	CASE_RETURNS("control/fioasync", "FIOASYNC: SIGIO for data", fioasync, "SIGIO comes from the kernel's socket"),
	{.name = NULL},
};
