// SPDX-License-Identifier: GPL-2.0-or-later
/* poll, ppoll, select, pselect on accelerated connections, alone and with everything else. */
#include <netinet/in.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#include "tests/posix/posix.h"

int __poll_chk(struct pollfd *p, nfds_t n, int ms, size_t size);
int __ppoll_chk(struct pollfd *p, nfds_t n, const struct timespec *t, const sigset_t *m, size_t size);

static char buf[70000];

static void poll_say(struct pollfd *p, nfds_t n, int ms)
{
	char line[200] = "";
	int at = 0, ret;

	for (nfds_t i = 0; i < n; i++)
		p[i].revents = 0x7fff;
	ret = poll(p, n, ms);
	for (nfds_t i = 0; i < n && ret >= 0; i++)
		at += snprintf(line + at, sizeof(line) - (size_t)at, " %s", event_names((uint32_t)p[i].revents));
	if (ret < 0)
		tell(ret, "poll");
	else
		say("poll = %d%s", ret, line);
}

/* What poll says of a connection in its life. */
static void life(void)
{
	struct conn *c = conn_nonblock();
	struct pollfd p = {.fd = c->fd, .events = POLLIN | POLLOUT | POLLPRI | POLLRDHUP | POLLRDNORM | POLLWRNORM};

	poll_say(&p, 1, 0);
	peer_text(c, "x");
	await_in(c->fd, 1);
	poll_say(&p, 1, 0);
	fill_up(c->fd);
	poll_say(&p, 1, 0);
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	await_poll(c->fd, POLLRDHUP);
	poll_say(&p, 1, 0);
	peer(PEER_RESET, c, 0, 0);
	await_reset(c->fd);
	poll_say(&p, 1, 0);
	p.events = 0;
	poll_say(&p, 1, 0);
}

static void blocks(void)
{
	struct conn *c = conn_open();
	struct pollfd p = {.fd = c->fd, .events = POLLIN};

	peer_text_later(40, c, "x");
	poll_say(&p, 1, 2000);
	peer_wait();
	peer_later(40, PEER_SHUTDOWN, c, SHUT_WR, 0);
	p.events = POLLRDHUP;
	poll_say(&p, 1, 2000);
	peer_wait();
}

static void blocks_out(void)
{
	struct conn *c = conn_nonblock();
	struct pollfd p = {.fd = c->fd, .events = POLLOUT};
	int64_t total;

	total = fill_up(c->fd);
	poll_say(&p, 1, 0);
	peer_later(40, PEER_RECV, c, total, 0);
	poll_say(&p, 1, 3000);
	peer_wait();
}

static void hup_wakes(void)
{
	struct conn *c = conn_open();
	struct pollfd p = {.fd = c->fd, .events = 0};

	peer_later(40, PEER_RESET, c, 0, 0);
	poll_say(&p, 1, 2000);
	peer_wait();
}

static void several(void)
{
	struct conn *a = conn_open(), *b = conn_open();
	struct pollfd p[4] = {{.fd = a->fd, .events = POLLIN},
			      {.fd = -1, .events = POLLIN},
			      {.fd = b->fd, .events = POLLIN | POLLOUT},
			      {.fd = 190, .events = POLLIN}};

	poll_say(p, 4, 0);
	poll_say(p, 3, 0);
	p[2].events = POLLIN;
	peer_text_later(40, b, "x");
	poll_say(p, 3, 2000);
	peer_wait();
}

static void same_twice(void)
{
	struct conn *c = conn_open();
	struct pollfd p[2] = {{.fd = c->fd, .events = POLLIN}, {.fd = c->fd, .events = POLLOUT}};

	peer_text(c, "x");
	await_in(c->fd, 1);
	poll_say(p, 2, 0);
}

static void wrong(void)
{
	struct conn *c = conn_open();
	struct timespec bad = {.tv_nsec = 1000000000};
	struct pollfd p = {.fd = c->fd, .events = POLLIN};

	tell(poll(NULL, 1, 0), "poll(NULL, 1)");
	tell(poll((struct pollfd *)16, 1, 0), "poll(bad address)");
	tell(poll(NULL, 0, 0), "poll(NULL, 0)");
	tell(poll(&p, (nfds_t)-1, 0), "poll(-1)");
	tell(ppoll(&p, 1, &bad, NULL), "ppoll(bad time)");
}

static void bad_mask(void)
{
	struct conn *c = conn_open();
	struct timespec none = {0}, bad = {.tv_nsec = -1};
	struct pollfd p = {.fd = c->fd, .events = POLLOUT};
	sigset_t *mask = (sigset_t *)16;
	fd_set w;

	FD_ZERO(&w);
	FD_SET(c->fd, &w);
	tell(ppoll(&p, 1, &none, mask), "ppoll(bad mask)");
	tell(ppoll(&p, 1, &bad, mask), "ppoll(bad time, bad mask)");
	tell(pselect(c->fd + 1, NULL, &w, NULL, &none, mask), "pselect(bad mask)");
	tell(pselect(c->fd + 1, NULL, &w, NULL, &bad, mask), "pselect(bad time, bad mask)");
	say("set kept: %s", FD_ISSET(c->fd, &w) ? "yes" : "no");
}

static void mixed(void)
{
	struct conn *c = conn_open();
	int pi[2], ev = eventfd(0, 0), tf = timerfd_create(CLOCK_MONOTONIC, 0), udp = socket(AF_INET, SOCK_DGRAM, 0),
		   sf;
	struct itimerspec t = {.it_value.tv_nsec = 40000000};
	struct pollfd p[6];
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sf = signalfd(-1, &set, 0);
	tell(pipe(pi), "pipe");
	p[0] = (struct pollfd){.fd = c->fd, .events = POLLIN};
	p[1] = (struct pollfd){.fd = pi[0], .events = POLLIN};
	p[2] = (struct pollfd){.fd = ev, .events = POLLIN};
	p[3] = (struct pollfd){.fd = tf, .events = POLLIN};
	p[4] = (struct pollfd){.fd = udp, .events = POLLIN | POLLOUT};
	p[5] = (struct pollfd){.fd = sf, .events = POLLIN};
	poll_say(p, 6, 0);
	p[4].events = POLLIN;
	tell(timerfd_settime(tf, 0, &t, NULL), "timerfd");
	poll_say(p, 6, 2000);
	tell(kill(getpid(), SIGUSR2), "kill");
	poll_say(p, 6, 0);
	tell(eventfd_write(ev, 1), "eventfd");
	tell(write(pi[1], "x", 1), "pipe");
	peer_text(c, "x");
	await_in(c->fd, 1);
	poll_say(p, 6, 0);
}

static void woken_by(void)
{
	struct conn *c = conn_open();
	int pi[2];
	struct pollfd p[2];
	pid_t child;

	tell(pipe(pi), "pipe");
	p[0] = (struct pollfd){.fd = c->fd, .events = POLLIN};
	p[1] = (struct pollfd){.fd = pi[0], .events = POLLIN};
	child = fork();
	if (!child) {
		pause_ms(40);
		_exit(write(pi[1], "y", 1) != 1);
	}
	poll_say(p, 2, 2000);
}

static void chk(void)
{
	struct conn *c = conn_open();
	struct pollfd p = {.fd = c->fd, .events = POLLIN};
	struct timespec t = {.tv_sec = 1};

	peer_text(c, "x");
	tell(__poll_chk(&p, 1, 1000, sizeof(p)), "__poll_chk");
	tell(__ppoll_chk(&p, 1, &t, NULL, sizeof(p)), "__ppoll_chk");
}

static void by_syscall(void)
{
	struct conn *c = conn_open();
	struct pollfd p = {.fd = c->fd, .events = POLLIN};
	struct timespec t = {.tv_nsec = 300000000};

	peer_text(c, "x");
	await_in(c->fd, 1);
	tell(syscall(SYS_ppoll, &p, 1, &t, NULL, 8), "syscall(SYS_ppoll)");
}

static void interrupted(void)
{
	struct conn *c = conn_open();
	struct pollfd p = {.fd = c->fd, .events = POLLIN};

	alarm_start(this_case->a ? SA_RESTART : 0);
	poll_say(&p, 1, 2000);
	alarm_stop();
}

static void ppoll_mask(void)
{
	struct conn *c = conn_open();
	struct pollfd p = {.fd = c->fd, .events = POLLIN};
	struct timespec t = {.tv_nsec = 20000000}, longer = {.tv_sec = 2};
	sigset_t block, none;

	signal_pending(&block, &none);
	tell(ppoll(&p, 1, &t, NULL), "ppoll, signal blocked");
	tell(ppoll(&p, 1, &longer, &none), "ppoll, mask lets it in");
	say("signals %d", signals_seen);
	sigprocmask(SIG_BLOCK, NULL, &none);
	say("blocked again: %d", sigismember(&none, SIGUSR1));
}

static void time_left(void)
{
	struct conn *c = conn_open();
	struct pollfd p = {.fd = c->fd, .events = POLLIN};
	struct timespec t = {.tv_nsec = 30000000};
	double start = seconds();

	tell(ppoll(&p, 1, &t, NULL), "ppoll(30 ms)");
	say("waited: %s", seconds() - start >= 0.028 ? "yes" : "no");
	say("time untouched: %s", t.tv_nsec == 30000000 ? "yes" : "no");
}

/* ---- select ---- */

static void select_say(int fd, int extra, struct timeval *t)
{
	fd_set r, w, x;
	int n;

	FD_ZERO(&r);
	FD_ZERO(&w);
	FD_ZERO(&x);
	FD_SET(fd, &r);
	FD_SET(fd, &w);
	FD_SET(fd, &x);
	if (extra >= 0)
		FD_SET(extra, &r);
	n = select((fd > extra ? fd : extra) + 1, &r, &w, &x, t);
	if (n < 0)
		tell(n, "select");
	else
		say("select = %d%s%s%s%s", n, FD_ISSET(fd, &r) ? " r" : "", FD_ISSET(fd, &w) ? " w" : "",
		    FD_ISSET(fd, &x) ? " x" : "", extra >= 0 && FD_ISSET(extra, &r) ? " extra" : "");
}

static void select_life(void)
{
	struct conn *c = conn_nonblock();
	struct timeval t = {0};

	select_say(c->fd, -1, &t);
	peer_text(c, "x");
	await_in(c->fd, 1);
	select_say(c->fd, -1, &t);
	fill_up(c->fd);
	select_say(c->fd, -1, &t);
	tell_data(read(c->fd, buf, 10), buf, "read");
	select_say(c->fd, -1, &t);
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	await_poll(c->fd, POLLRDHUP);
	select_say(c->fd, -1, &t);
	peer(PEER_RESET, c, 0, 0);
	await_reset(c->fd);
	select_say(c->fd, -1, &t);
}

static void select_blocks(void)
{
	struct conn *c = conn_open();
	struct timeval t = {.tv_sec = 3};
	fd_set r;

	FD_ZERO(&r);
	FD_SET(c->fd, &r);
	peer_text_later(40, c, "x");
	tell(select(c->fd + 1, &r, NULL, NULL, &t), "select");
	say("time left is told: %s", t.tv_sec == 2 ? "yes" : "no");
	peer_wait();
	peer_text_later(40, c, "y");
	FD_ZERO(&r);
	tell_data(read(c->fd, buf, 1), buf, "read");
	FD_SET(c->fd, &r);
	tell(select(c->fd + 1, &r, NULL, NULL, NULL), "select");
	peer_wait();
}

static void select_timeout(void)
{
	struct conn *c = conn_open();
	struct timeval t = {.tv_usec = 30000};
	double start = seconds();
	fd_set r;

	FD_ZERO(&r);
	FD_SET(c->fd, &r);
	tell(select(c->fd + 1, &r, NULL, NULL, &t), "select(30 ms)");
	say("waited: %s; set cleared: %s; time left %ld", seconds() - start >= 0.028 ? "yes" : "no",
	    FD_ISSET(c->fd, &r) ? "no" : "yes", (long)(t.tv_sec * 1000000 + t.tv_usec));
}

static void select_mixed(void)
{
	struct conn *c = conn_open();
	struct timeval t = {.tv_sec = 1};
	int p[2];

	fill_up(c->fd);
	tell(pipe(p), "pipe");
	tell(write(p[1], "x", 1), "write");
	select_say(c->fd, p[0], &t);
}

static void select_wrong(void)
{
	struct conn *c = conn_open();
	struct timeval bad = {.tv_sec = -1}, none = {0};
	fd_set r;

	FD_ZERO(&r);
	FD_SET(190, &r);
	tell(select(191, &r, NULL, NULL, &none), "select(not open)");
	FD_ZERO(&r);
	FD_SET(c->fd, &r);
	tell(select(-1, &r, NULL, NULL, &none), "select(-1)");
	tell(select(c->fd + 1, &r, NULL, NULL, &bad), "select(bad time)");
	tell(select(c->fd + 1, (fd_set *)16, NULL, NULL, &none), "select(bad address)");
	FD_SET(c->fd, &r);
	tell(select(c->fd, &r, NULL, NULL, &none), "select(too few)");
	say("beyond the count: %s", FD_ISSET(c->fd, &r) ? "untouched" : "cleared");
}

static void pselect_mask(void)
{
	struct conn *c = conn_open();
	struct timespec longer = {.tv_sec = 2};
	sigset_t block, none;
	fd_set r;

	signal_pending(&block, &none);
	FD_ZERO(&r);
	FD_SET(c->fd, &r);
	tell(pselect(c->fd + 1, &r, NULL, NULL, &longer, &none), "pselect, mask lets it in");
	say("signals %d, time untouched: %s, set kept: %s", signals_seen, longer.tv_sec == 2 ? "yes" : "no",
	    FD_ISSET(c->fd, &r) ? "yes" : "no");
}

static void select_interrupted(void)
{
	struct conn *c = conn_open();
	struct timeval t = {.tv_sec = 2};
	fd_set r;

	FD_ZERO(&r);
	FD_SET(c->fd, &r);
	alarm_start(this_case->a ? SA_RESTART : 0);
	tell(select(c->fd + 1, &r, NULL, NULL, &t), "select");
	alarm_stop();
	say("set kept: %s", FD_ISSET(c->fd, &r) ? "yes" : "no");
}

/* The threshold of POLLOUT: not for every byte that the peer takes. */
static void out_threshold(void)
{
	struct conn *c = conn_nonblock();
	struct pollfd p = {.fd = c->fd, .events = POLLOUT};
	int64_t total;
	ssize_t n;

	total = fill_up(c->fd);
	peer(PEER_RECV, c, total, 0);
	await_poll(c->fd, POLLOUT);
	poll_say(&p, 1, 0);
	n = write(c->fd, buf, 8000);
	say("one more write: %s", n == 8000 ? "whole" : n > 0 ? "part" : "nothing");
}

static void rcvlowat(void)
{
	struct conn *c = conn_open();
	struct pollfd p = {.fd = c->fd, .events = POLLIN};
	int low = 10;

	tell(setsockopt(c->fd, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof(low)), "SO_RCVLOWAT 10");
	peer_text(c, "12345");
	await_in(c->fd, 5);
	poll_say(&p, 1, 0);
	peer_text(c, "67890");
	await_in(c->fd, 10);
	poll_say(&p, 1, 0);
	tell_data(read(c->fd, buf, 100), buf, "read");
}

static void rcvlowat_read(void)
{
	struct conn *c = conn_open();
	int low = 10;

	tell(setsockopt(c->fd, SOL_SOCKET, SO_RCVLOWAT, &low, sizeof(low)), "SO_RCVLOWAT 10");
	peer_text_later(20, c, "12345");
	peer_text_later(40, c, "67890");
	tell_data(read(c->fd, buf, 100), buf, "read");
	peer_wait();
	peer_wait();
}

const struct test_case cases_poll[] = {
	CASE("poll/life", "data, full, FIN, reset", life),
	CASE("poll/blocks", "sleeps until data, until FIN", blocks),
	CASE("poll/blocks-out", "sleeps until there is room", blocks_out),
	CASE("poll/hup-wakes", "no interest, woken by a reset", hup_wakes),
	CASE("poll/several", "two connections, -1, one that is not open", several),
	CASE("poll/same-twice", "the same descriptor twice", same_twice),
	CASE("poll/wrong", "wrong arguments", wrong),
	CASE("poll/mixed", "with pipe, eventfd, timerfd, UDP, signalfd", mixed),
	CASE("poll/woken-by-pipe", "sleeps, woken by a pipe", woken_by),
	CASE("poll/chk", "the fortified forms", chk),
	CASE_RETURNS("poll/syscall", "syscall(SYS_ppoll)", by_syscall, PAST_LIBRARY),
	CASE("poll/eintr", "interrupted by a signal", interrupted),
	{.name = "poll/eintr-restart", .text = "SA_RESTART makes no difference", .run = interrupted, .a = 1},
	CASE("poll/bad-mask", "a bad signal mask, with events ready", bad_mask),
	CASE("poll/ppoll-mask", "ppoll's mask", ppoll_mask),
	CASE("poll/time", "time-out, and the time is left alone", time_left),
	CASE("poll/out-threshold", "room enough when POLLOUT says so", out_threshold),
	CASE("poll/rcvlowat", "SO_RCVLOWAT and POLLIN", rcvlowat),
	CASE("poll/rcvlowat-read", "SO_RCVLOWAT and read", rcvlowat_read),
	CASE("select/life", "data, full, FIN, reset", select_life),
	CASE("select/blocks", "sleeps until data; the time left", select_blocks),
	CASE("select/timeout", "time-out", select_timeout),
	CASE("select/mixed", "with a pipe", select_mixed),
	CASE("select/wrong", "wrong arguments", select_wrong),
	CASE("select/pselect-mask", "pselect's mask", pselect_mask),
	CASE("select/eintr", "interrupted by a signal", select_interrupted),
	{.name = "select/eintr-restart", .text = "SA_RESTART makes no difference", .run = select_interrupted, .a = 1},
	{.name = NULL},
};
