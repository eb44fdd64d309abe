// SPDX-License-Identifier: GPL-2.0-or-later
/* epoll on accelerated connections: triggers, flags, nesting, several sets, errors. */
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#include "tests/posix/posix.h"

static char buf[70000];

static int set_new(void)
{
	int ep = epoll_create1(EPOLL_CLOEXEC);

	if (ep < 0)
		fatal("epoll_create1: %s", strerror(errno));
	return ep;
}

static long ctl(int ep, int op, int fd, uint32_t events, uint64_t data)
{
	static const char *const names[] = {"", "ADD", "DEL", "MOD"};
	struct epoll_event e = {.events = events, .data.u64 = data};

	return tell(epoll_ctl(ep, op, fd, &e), "epoll_ctl(%s, %s)", names[op & 3], event_names(events & 0xffff));
}

static int by_data(const void *a, const void *b)
{
	const struct epoll_event *x = a, *y = b;

	return x->data.u64 < y->data.u64 ? -1 : x->data.u64 > y->data.u64;
}

/* The events, by their data, in one line. */
static int wait_say(int ep, int ms)
{
	struct epoll_event e[8];
	char line[300] = "";
	int n = epoll_wait(ep, e, 8, ms), at = 0;

	if (n > 0)
		qsort(e, (size_t)n, sizeof(e[0]), by_data);
	for (int i = 0; i < n; i++)
		at += snprintf(line + at, sizeof(line) - (size_t)at, " %llu:%s", (unsigned long long)e[i].data.u64,
			       event_names(e[i].events));
	if (n < 0)
		tell(n, "epoll_wait");
	else
		say("epoll_wait = %d%s", n, line);
	return n;
}

static void read_say(int fd, size_t n)
{
	tell_data(read(fd, buf, n), buf, "read(%zu)", n);
}

static void give(const struct conn *c, const char *text)
{
	peer_text(c, text);
	pause_ms(3);
}

/* ---- triggers ---- */

static void lt(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	wait_say(ep, 0);
	peer_text(c, "level");
	wait_say(ep, 2000);
	wait_say(ep, 0);
	await_in(c->fd, 5);
	read_say(c->fd, 2);
	wait_say(ep, 0);
	read_say(c->fd, 10);
	wait_say(ep, 0);
}

static void et(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLET, 1);
	wait_say(ep, 0);
	peer_text(c, "edge");
	wait_say(ep, 2000);
	wait_say(ep, 0);
	await_in(c->fd, 4);
	read_say(c->fd, 2);
	wait_say(ep, 0);
	peer_text(c, "more");
	wait_say(ep, 2000);
	await_in(c->fd, 6);
	read_say(c->fd, 100);
	read_say(c->fd, 100);
	wait_say(ep, 0);
}

static void et_out(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();
	int64_t total;

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLOUT | EPOLLET, 1);
	wait_say(ep, 0);
	wait_say(ep, 0);
	total = fill_up(c->fd);
	wait_say(ep, 0);
	peer(PEER_RECV, c, total, 0);
	wait_say(ep, 2000);
	wait_say(ep, 0);
}

static void et_add_ready(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	peer_text(c, "before");
	await_in(c->fd, 6);
	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLET, 1);
	wait_say(ep, 0);
	wait_say(ep, 0);
	ctl(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN | EPOLLET, 2);
	wait_say(ep, 0);
	wait_say(ep, 0);
}

static void lt_out(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();
	int64_t total;

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLOUT, 1);
	wait_say(ep, 0);
	wait_say(ep, 0);
	total = fill_up(c->fd);
	wait_say(ep, 0);
	peer_later(40, PEER_RECV, c, total, 0);
	wait_say(ep, 2000);
	peer_wait();
}

static void oneshot(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLONESHOT, 1);
	peer_text(c, "one");
	wait_say(ep, 2000);
	give(c, "two");
	wait_say(ep, 0);
	ctl(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN | EPOLLONESHOT, 2);
	wait_say(ep, 0);
	wait_say(ep, 0);
	await_in(c->fd, 6);
	read_say(c->fd, 100);
	ctl(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN | EPOLLONESHOT, 3);
	wait_say(ep, 0);
	peer_text(c, "three");
	wait_say(ep, 2000);
	ctl(ep, EPOLL_CTL_DEL, c->fd, 0, 0);
	wait_say(ep, 0);
}

static void oneshot_et(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLOUT | EPOLLET | EPOLLONESHOT, 1);
	wait_say(ep, 0);
	give(c, "x");
	wait_say(ep, 0);
	ctl(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN | EPOLLOUT | EPOLLET | EPOLLONESHOT, 1);
	await_in(c->fd, 1);
	wait_say(ep, 0);
	wait_say(ep, 0);
}

static void exclusive(void)
{
	struct conn *c = conn_nonblock();
	int a = set_new(), b = set_new();

	ctl(a, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLEXCLUSIVE, 1);
	ctl(b, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLEXCLUSIVE, 2);
	ctl(a, EPOLL_CTL_MOD, c->fd, EPOLLIN, 1);
	peer_text(c, "x");
	await_in(c->fd, 1);
	wait_say(a, 1000);
	wait_say(b, 0);
	ctl(a, EPOLL_CTL_DEL, c->fd, 0, 0);
	ctl(a, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLRDHUP | EPOLLEXCLUSIVE, 1);
	ctl(a, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLONESHOT | EPOLLEXCLUSIVE, 1);
}

static void rdhup(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLRDHUP, 1);
	give(c, "data");
	wait_say(ep, 0);
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	wait_say(ep, 2000);
	ctl(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN, 1);
	wait_say(ep, 0);
	read_say(c->fd, 100);
	wait_say(ep, 0);
	ctl(ep, EPOLL_CTL_MOD, c->fd, EPOLLOUT, 1);
	wait_say(ep, 0);
}

static void hup(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	ctl(ep, EPOLL_CTL_ADD, c->fd, 0, 1);
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	await_poll(c->fd, POLLRDHUP);
	wait_say(ep, 0);
	shutdown(c->fd, SHUT_WR);
	wait_say(ep, 2000);
}

static void err(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new(), e = 0;
	socklen_t len = sizeof(e);

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP, 1);
	peer(PEER_RESET, c, 0, 0);
	await_reset(c->fd);
	wait_say(ep, 0);
	getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &len);
	say("SO_ERROR %s", err_name(e));
	wait_say(ep, 0);
}

static void err_et(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLET, 1);
	peer(PEER_RESET, c, 0, 0);
	wait_say(ep, 2000);
	wait_say(ep, 0);
	read_say(c->fd, 10);
	wait_say(ep, 0);
}

static void fin_et(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, 1);
	wait_say(ep, 0);
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	wait_say(ep, 2000);
	wait_say(ep, 0);
	shutdown(c->fd, SHUT_WR);
	wait_say(ep, 2000);
	wait_say(ep, 0);
}

static void pri(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLPRI, 1);
	give(c, "no");
	wait_say(ep, 0);
	peer_text_flags(c, "U", MSG_OOB);
	wait_say(ep, 2000);
}

static void norm(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLRDNORM | EPOLLWRNORM | EPOLLRDBAND | EPOLLWRBAND, 1);
	wait_say(ep, 0);
	peer_text(c, "x");
	await_in(c->fd, 1);
	wait_say(ep, 0);
}

/* ---- MOD, DEL ---- */

static void mod_rearm(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	peer_text(c, "data");
	await_in(c->fd, 4);
	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLOUT | EPOLLET, 1);
	wait_say(ep, 0);
	wait_say(ep, 0);
	ctl(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN | EPOLLET, 7);
	wait_say(ep, 0);
	wait_say(ep, 0);
	ctl(ep, EPOLL_CTL_MOD, c->fd, 0, 8);
	wait_say(ep, 0);
	ctl(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN, 9);
	wait_say(ep, 0);
}

static void del(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	peer_text(c, "x");
	await_in(c->fd, 1);
	ctl(ep, EPOLL_CTL_DEL, c->fd, 0, 0);
	wait_say(ep, 0);
	tell(epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, NULL), "DEL again");
	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 2);
	wait_say(ep, 0);
	tell(epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, NULL), "DEL with NULL");
	wait_say(ep, 0);
}

static void ctl_errors(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new(), file = open("/proc/self/exe", O_RDONLY);

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	ctl(ep, EPOLL_CTL_DEL, c->fd, 0, 0);
	ctl(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN, 1);
	ctl(ep, EPOLL_CTL_DEL, c->fd, 0, 0);
	ctl(ep, EPOLL_CTL_ADD, 190, EPOLLIN, 1);
	ctl(190, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	ctl(c->fd, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	ctl(file, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	ctl(ep, EPOLL_CTL_ADD, file, EPOLLIN, 1);
	ctl(ep, EPOLL_CTL_ADD, ep, EPOLLIN, 1);
	tell(epoll_ctl(ep, 9, c->fd, &(struct epoll_event){0}), "epoll_ctl(9)");
	tell(epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, NULL), "ADD with NULL");
	tell(epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, (struct epoll_event *)16), "ADD with a bad address");
	wait_say(ep, 0);
}

static void wait_errors(void)
{
	struct conn *c = conn_nonblock();
	struct epoll_event e[2];
	int ep = set_new();

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLOUT, 1);
	tell(epoll_wait(ep, e, 0, 0), "epoll_wait(maxevents 0)");
	tell(epoll_wait(ep, e, -1, 0), "epoll_wait(maxevents -1)");
	tell(epoll_wait(ep, NULL, 1, 0), "epoll_wait(NULL)");
	tell(epoll_wait(ep, (struct epoll_event *)16, 1, 0), "epoll_wait(bad address)");
	tell(epoll_wait(190, e, 1, 0), "epoll_wait(no descriptor)");
	tell(epoll_wait(c->fd, e, 1, 0), "epoll_wait(not an epoll)");
	tell(epoll_create(0), "epoll_create(0)");
	tell(epoll_create1(1), "epoll_create1(1)");
	wait_say(ep, 0);
}

static void pwait_errors(void)
{
	struct conn *c = conn_nonblock();
	struct epoll_event e[2];
	struct timespec bad = {.tv_nsec = -1}, none = {0};
	sigset_t set;
	int ep = set_new();

	sigemptyset(&set);
	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLOUT, 1);
	tell(epoll_pwait2(ep, e, 2, &bad, NULL), "epoll_pwait2(bad time)");
	tell(epoll_pwait2(ep, e, 2, &none, &set), "epoll_pwait2");
	tell(epoll_pwait(ep, e, 2, 0, &set), "epoll_pwait");
	tell(epoll_pwait(ep, e, 2, 0, (sigset_t *)16), "epoll_pwait(bad mask)");
	tell(epoll_pwait(ep, e, 0, 0, (sigset_t *)16), "epoll_pwait(no room, bad mask)");
	tell(epoll_pwait(ep, e, 0, 0, &set), "epoll_pwait(no room)");
	tell(epoll_pwait2(ep, e, 2, &none, (sigset_t *)16), "epoll_pwait2(bad mask)");
	tell(epoll_pwait2(ep, e, 2, &bad, (sigset_t *)16), "epoll_pwait2(bad time, bad mask)");
	tell(syscall(SYS_epoll_pwait, ep, e, 2, 0, &set, 7), "syscall(SYS_epoll_pwait, size of mask 7)");
	tell(syscall(SYS_epoll_pwait, ep, e, 2, 0, NULL, 7), "syscall(SYS_epoll_pwait, no mask, 7)");
}

/* ---- several ---- */

static void many_conns(void)
{
	struct conn *c[4];
	int ep = set_new();

	for (int i = 0; i < 4; i++) {
		c[i] = conn_nonblock();
		ctl(ep, EPOLL_CTL_ADD, c[i]->fd, EPOLLIN, (uint64_t)i);
	}
	wait_say(ep, 0);
	peer_text(c[2], "x");
	wait_say(ep, 2000);
	peer_text(c[0], "x");
	await_in(c[0]->fd, 1);
	wait_say(ep, 2000);
	peer(PEER_CLOSE, c[3], 0, 0);
	await_poll(c[3]->fd, POLLRDHUP);
	wait_say(ep, 0);
	close(c[2]->fd);
	wait_say(ep, 0);
}

static void fairness(void)
{
	struct conn *c[3];
	struct epoll_event e;
	int ep = set_new(), seen = 0;

	for (int i = 0; i < 3; i++) {
		c[i] = conn_nonblock();
		ctl(ep, EPOLL_CTL_ADD, c[i]->fd, EPOLLIN, (uint64_t)i);
		peer_text(c[i], "x");
		await_in(c[i]->fd, 1);
	}
	/* level-triggered, one at a time: all three get their turn */
	for (int i = 0; i < 3; i++)
		if (epoll_wait(ep, &e, 1, 1000) == 1)
			seen |= 1 << e.data.u64;
	say("seen %x", (unsigned)seen);
}

static void two_sets(void)
{
	struct conn *c = conn_nonblock();
	int a = set_new(), b = set_new();

	ctl(a, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	ctl(b, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLET, 2);
	peer_text(c, "both");
	wait_say(a, 2000);
	wait_say(b, 2000);
	wait_say(a, 0);
	wait_say(b, 0);
	await_in(c->fd, 4);
	read_say(c->fd, 100);
	wait_say(a, 0);
	wait_say(b, 0);
}

static void set_closed(void)
{
	struct conn *c = conn_nonblock();
	int a = set_new(), b = set_new();

	ctl(a, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	ctl(b, EPOLL_CTL_ADD, c->fd, EPOLLIN, 2);
	close(a);
	peer_text(c, "x");
	wait_say(b, 2000);
	tell(epoll_wait(a, &(struct epoll_event){0}, 1, 0), "epoll_wait(closed set)");
}

static void nested(void)
{
	struct conn *c = conn_nonblock();
	int inner = set_new(), outer = set_new();
	struct pollfd p = {.fd = inner, .events = POLLIN};

	ctl(inner, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	ctl(outer, EPOLL_CTL_ADD, inner, EPOLLIN, 2);
	wait_say(outer, 0);
	tell(poll(&p, 1, 0), "poll(inner)");
	peer_text(c, "deep");
	wait_say(outer, 2000);
	wait_say(inner, 0);
	tell(poll(&p, 1, 0), "poll(inner)");
	await_in(c->fd, 4);
	read_say(c->fd, 100);
	wait_say(outer, 0);
	tell(poll(&p, 1, 0), "poll(inner)");
}

static void nested_et(void)
{
	struct conn *c = conn_nonblock();
	int inner = set_new(), outer = set_new();

	ctl(inner, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	ctl(outer, EPOLL_CTL_ADD, inner, EPOLLIN | EPOLLET, 2);
	peer_text(c, "one");
	wait_say(outer, 2000);
	wait_say(outer, 0);
	wait_say(inner, 0);
	await_in(c->fd, 3);
	read_say(c->fd, 100);
	peer_text(c, "two");
	wait_say(outer, 2000);
	wait_say(inner, 0);
}

static void nested_loop(void)
{
	struct conn *c = conn_nonblock();
	int a = set_new(), b = set_new();

	ctl(a, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	ctl(a, EPOLL_CTL_ADD, b, EPOLLIN, 2);
	ctl(b, EPOLL_CTL_ADD, a, EPOLLIN, 3);
}

static void dup_item(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new(), d = dup(c->fd);

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	ctl(ep, EPOLL_CTL_ADD, d, EPOLLIN, 2);
	peer_text(c, "x");
	await_in(c->fd, 1);
	wait_say(ep, 2000);
	ctl(ep, EPOLL_CTL_DEL, d, 0, 0);
	wait_say(ep, 0);
}

/* The entry lives as long as the open file does: the classic surprise. */
static void dup_closed(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new(), fd = c->fd, d = dup(fd);

	ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, 42);
	close(fd);
	peer_text(c, "ghost");
	wait_say(ep, 2000);
	ctl(ep, EPOLL_CTL_DEL, fd, 0, 0);
	wait_say(ep, 0);
	await_in(d, 5);
	read_say(d, 100);
	wait_say(ep, 0);
	close(d);
	wait_say(ep, 0);
	c->fd = d;
}

static void dup_of_set(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new(), d = dup(ep);

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	peer_text(c, "x");
	wait_say(d, 2000);
	close(ep);
	wait_say(d, 0);
	ctl(d, EPOLL_CTL_MOD, c->fd, EPOLLOUT, 2);
	wait_say(d, 0);
}

static void closed_item(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new(), fd = c->fd, p[2];

	ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1);
	peer_text(c, "x");
	await_in(fd, 1);
	close(fd);
	wait_say(ep, 0);
	tell(pipe(p), "pipe");
	ctl(ep, EPOLL_CTL_ADD, p[0], EPOLLIN, 2);
	tell(write(p[1], "y", 1), "write");
	wait_say(ep, 0);
}

/* ---- with others ---- */

static void mixed(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new(), p[2], ev = eventfd(0, EFD_NONBLOCK), tf = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	struct itimerspec t = {.it_value.tv_nsec = 30000000};

	tell(pipe(p), "pipe");
	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	ctl(ep, EPOLL_CTL_ADD, p[0], EPOLLIN, 2);
	ctl(ep, EPOLL_CTL_ADD, ev, EPOLLIN, 3);
	ctl(ep, EPOLL_CTL_ADD, tf, EPOLLIN, 4);
	wait_say(ep, 0);
	tell(timerfd_settime(tf, 0, &t, NULL), "timerfd");
	wait_say(ep, 2000);
	peer_text(c, "x");
	await_in(c->fd, 1);
	wait_say(ep, 0);
	tell(write(p[1], "y", 1), "write(pipe)");
	wait_say(ep, 0);
	tell(eventfd_write(ev, 1), "eventfd_write");
	wait_say(ep, 0);
}

static void woken_by_pipe(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new(), p[2];
	pid_t child;

	tell(pipe(p), "pipe");
	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	ctl(ep, EPOLL_CTL_ADD, p[0], EPOLLIN, 2);
	child = fork();
	if (!child) {
		pause_ms(40);
		_exit(write(p[1], "y", 1) != 1);
	}
	wait_say(ep, 2000);
}

static void listener_too(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new(), l = listener_open(8, SOCK_NONBLOCK), fd, id = next_id();

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	ctl(ep, EPOLL_CTL_ADD, l, EPOLLIN, 2);
	wait_say(ep, 0);
	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	wait_say(ep, 2000);
	fd = accept4(l, NULL, NULL, SOCK_NONBLOCK);
	say("accepted: %s", fd >= 0 ? "yes" : "no");
	ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, 3);
	wait_say(ep, 0);
	peer_text(c, "old");
	await_in(c->fd, 3);
	peer_later(0, PEER_TEXT, &(struct conn){.id = id}, 0, 0);
	peer_wait();
	wait_say(ep, 0);
}

/* ---- signals and threads ---- */

static void signal_wait(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	alarm_start(this_case->a ? SA_RESTART : 0);
	wait_say(ep, 3000);
	alarm_stop();
	peer_text(c, "x");
	wait_say(ep, 2000);
}

static void pwait_mask(void)
{
	struct conn *c = conn_nonblock();
	struct epoll_event e;
	sigset_t block, none;
	int ep = set_new();

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	signal_count(SIGUSR1, 0);
	sigemptyset(&none);
	sigemptyset(&block);
	sigaddset(&block, SIGUSR1);
	sigprocmask(SIG_BLOCK, &block, NULL);
	raise(SIGUSR1);
	tell(epoll_wait(ep, &e, 1, 20), "epoll_wait, signal blocked");
	say("signals %d", signals_seen);
	tell(epoll_pwait(ep, &e, 1, 2000, &none), "epoll_pwait, mask lets it in");
	say("signals %d", signals_seen);
	raise(SIGUSR1);
	peer_text(c, "x");
	await_in(c->fd, 1);
	tell(epoll_pwait(ep, &e, 1, 2000, &block), "epoll_pwait, data");
	say("signals %d", signals_seen);
}

static void timeouts(void)
{
	struct conn *c = conn_nonblock();
	struct epoll_event e;
	struct timespec t = {.tv_nsec = 30000000};
	int ep = set_new();
	double start;

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	start = seconds();
	tell(epoll_wait(ep, &e, 1, 30), "epoll_wait(30)");
	say("waited: %s", seconds() - start >= 0.028 ? "yes" : "no");
	start = seconds();
	tell(epoll_pwait2(ep, &e, 1, &t, NULL), "epoll_pwait2(30 ms)");
	say("waited: %s", seconds() - start >= 0.028 ? "yes" : "no");
	peer_text_later(30, c, "x");
	tell(epoll_wait(ep, &e, 1, -1), "epoll_wait(-1)");
	peer_wait();
}

static void wait_syscall(void)
{
	struct conn *c = conn_nonblock();
	struct epoll_event e;
	int ep = set_new();

	ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	peer_text(c, "x");
	await_in(c->fd, 1);
	tell(syscall(SYS_epoll_pwait, ep, &e, 1, 300, NULL, 8), "syscall(SYS_epoll_pwait)");
}

struct helper {
	int ep, fd;
	struct conn *c;
};

static void *add_later(void *arg)
{
	struct helper *h = arg;
	struct epoll_event e = {.events = EPOLLOUT, .data.u64 = 5};

	pause_ms(40);
	epoll_ctl(h->ep, EPOLL_CTL_ADD, h->c->fd, &e);
	return NULL;
}

static void added_by_thread(void)
{
	struct conn *c = conn_nonblock();
	struct helper h = {.ep = set_new(), .c = c};
	pthread_t t;

	pthread_create(&t, NULL, add_later, &h);
	wait_say(h.ep, 2000);
	pthread_join(t, NULL);
}

static void *mod_later(void *arg)
{
	struct helper *h = arg;
	struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.u64 = 6};

	pause_ms(40);
	epoll_ctl(h->ep, EPOLL_CTL_MOD, h->c->fd, &e);
	return NULL;
}

static void modified_by_thread(void)
{
	struct conn *c = conn_nonblock();
	struct helper h = {.ep = set_new(), .c = c};
	pthread_t t;

	ctl(h.ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	pthread_create(&t, NULL, mod_later, &h);
	wait_say(h.ep, 2000);
	pthread_join(t, NULL);
}

static _Atomic int woken;

static void *waiter(void *arg)
{
	struct helper *h = arg;
	struct epoll_event e;
	int n = epoll_wait(h->ep, &e, 1, 400);

	if (n > 0)
		woken++;
	return NULL;
}

static void two_waiters(void)
{
	struct conn *c = conn_nonblock();
	struct helper h = {.ep = set_new()};
	pthread_t t[3];

	ctl(h.ep, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLET, 1);
	for (int i = 0; i < 3; i++)
		pthread_create(&t[i], NULL, waiter, &h);
	pause_ms(60);
	peer_text(c, "x");
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	say("threads woken by one edge: %d", woken);
}

/* Made by the case itself while the set already has it: adoption happens under epoll. */
static void adopted_inside(void)
{
	int ep = set_new(), l = listener_open(8, 0), id = next_id(), fd;
	struct conn *c;

	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	fd = accept(l, NULL, NULL);
	ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN | (uint32_t)this_case->a, 1);
	wait_say(ep, 0);
	c = conn_adopt(fd, id);
	wait_say(ep, 0);
	peer_text(c, "x");
	wait_say(ep, 2000);
	await_in(fd, 1);
	read_say(fd, 10);
	wait_say(ep, 0);
	peer_text(c, "y");
	wait_say(ep, 2000);
}

static void disabled_inside(void)
{
	int ep = set_new(), l = listener_open(8, 0), id = next_id(), fd;
	struct conn *c;

	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	fd = accept(l, NULL, NULL);
	ctl(ep, EPOLL_CTL_ADD, fd, EPOLLOUT | EPOLLONESHOT, 1);
	wait_say(ep, 0);
	c = conn_adopt(fd, id);
	wait_say(ep, 0);
	peer_text(c, "x");
	await_in(fd, 1);
	wait_say(ep, 0);
	ctl(ep, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLONESHOT, 2);
	wait_say(ep, 0);
}

const struct test_case cases_epoll[] = {
	CASE("epoll/lt", "level-triggered: as long as there are bytes", lt),
	CASE("epoll/et", "edge-triggered: once for each arrival", et),
	CASE("epoll/et-out", "edge-triggered room to write", et_out),
	CASE("epoll/et-add-ready", "ADD and MOD of what is ready make an edge", et_add_ready),
	CASE("epoll/lt-out", "level-triggered room to write, full, drained", lt_out),
	CASE("epoll/oneshot", "EPOLLONESHOT and its re-arming", oneshot),
	CASE("epoll/oneshot-et", "EPOLLONESHOT with EPOLLET", oneshot_et),
	CASE("epoll/exclusive", "EPOLLEXCLUSIVE and what it may not be combined with", exclusive),
	CASE("epoll/rdhup", "EPOLLRDHUP alone, and what others see of a FIN", rdhup),
	CASE("epoll/hup", "EPOLLHUP needs no interest", hup),
	CASE("epoll/err", "EPOLLERR after a reset, until SO_ERROR is read", err),
	CASE("epoll/err-et", "an edge for a reset", err_et),
	CASE("epoll/fin-et", "an edge for each FIN", fin_et),
	CASE_RETURNS("epoll/pri", "EPOLLPRI for urgent data", pri, "urgent data are Linux's"),
	CASE("epoll/norm", "EPOLLRDNORM, EPOLLWRNORM, the bands", norm),
	CASE("epoll/mod", "MOD changes interest and data, and re-arms", mod_rearm),
	CASE("epoll/del", "DEL, and ADD again", del),
	CASE_RETURNS("epoll/ctl-errors", "errors of epoll_ctl", ctl_errors, "a set that cannot be seen"),
	CASE("epoll/wait-errors", "errors of epoll_wait", wait_errors),
	CASE("epoll/pwait-errors", "errors of epoll_pwait and epoll_pwait2", pwait_errors),
	CASE("epoll/many", "four connections in one set", many_conns),
	CASE("epoll/fairness", "one event at a time reaches all that are ready", fairness),
	CASE("epoll/two-sets", "one connection in two sets", two_sets),
	CASE("epoll/set-closed", "one of two sets is closed", set_closed),
	CASE("epoll/nested", "a set in a set, and in poll", nested),
	CASE("epoll/nested-et", "a set in a set, edge-triggered", nested_et),
	CASE("epoll/nested-loop", "ELOOP", nested_loop),
	CASE("epoll/dup", "a descriptor and its duplicate in one set", dup_item),
	CASE("epoll/dup-closed", "the entry outlives its descriptor while a duplicate lives", dup_closed),
	CASE("epoll/dup-of-set", "the set's own duplicate", dup_of_set),
	CASE("epoll/closed", "close takes the entry out; the number is used again", closed_item),
	CASE("epoll/mixed", "with a pipe, an eventfd and a timer", mixed),
	CASE("epoll/woken-by-pipe", "sleeps on a connection, woken by a pipe", woken_by_pipe),
	CASE_RETURNS("epoll/listener", "with a listener; accept into the set", listener_too,
		     "the accepted connection is new"),
	CASE("epoll/eintr", "interrupted by a signal", signal_wait),
	{.name = "epoll/eintr-restart", .text = "SA_RESTART makes no difference", .run = signal_wait, .a = 1},
	CASE("epoll/pwait-mask", "epoll_pwait's mask", pwait_mask),
	CASE("epoll/timeouts", "times of epoll_wait and epoll_pwait2", timeouts),
	CASE_RETURNS("epoll/syscall", "syscall(SYS_epoll_pwait)", wait_syscall, PAST_LIBRARY),
	CASE("epoll/added-by-thread", "another thread adds while one waits", added_by_thread),
	CASE("epoll/modified-by-thread", "another thread modifies while one waits", modified_by_thread),
	CASE("epoll/two-waiters", "three threads wait, one edge wakes one", two_waiters),
	CASE("epoll/adopted-inside", "adopted while in a set, level-triggered", adopted_inside),
	{.name = "epoll/adopted-inside-et",
	 .text = "adopted while in a set, edge-triggered",
	 .run = adopted_inside,
	 .a = (long)EPOLLET},
	CASE("epoll/disabled-inside", "adopted while its EPOLLONESHOT entry is disabled", disabled_inside),
	{.name = NULL},
};
