// SPDX-License-Identifier: GPL-2.0-or-later
/* epoll on accelerated connections: several of them, several sets, with other descriptors, signals, threads. */
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

#include "tests/posix/set.h"

/* ---- several ---- */

static void many_conns(void)
{
	struct conn *c[4];
	int ep = set_new();

	for (int i = 0; i < 4; i++) {
		c[i] = conn_nonblock();
		set_ctl(ep, EPOLL_CTL_ADD, c[i]->fd, EPOLLIN, (uint64_t)i);
	}
	set_wait(ep, 0);
	peer_text(c[2], "x");
	set_wait(ep, 2000);
	peer_text(c[0], "x");
	await_in(c[0]->fd, 1);
	set_wait(ep, 2000);
	peer(PEER_CLOSE, c[3], 0, 0);
	await_poll(c[3]->fd, POLLRDHUP);
	set_wait(ep, 0);
	close(c[2]->fd);
	set_wait(ep, 0);
}

static void fairness(void)
{
	struct conn *c[3];
	struct epoll_event e;
	int ep = set_new(), seen = 0;

	for (int i = 0; i < 3; i++) {
		c[i] = conn_nonblock();
		set_ctl(ep, EPOLL_CTL_ADD, c[i]->fd, EPOLLIN, (uint64_t)i);
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

	set_ctl(a, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	set_ctl(b, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLET, 2);
	peer_text(c, "both");
	set_wait(a, 2000);
	set_wait(b, 2000);
	set_wait(a, 0);
	set_wait(b, 0);
	await_in(c->fd, 4);
	set_read(c->fd, 100);
	set_wait(a, 0);
	set_wait(b, 0);
}

static void set_closed(void)
{
	struct conn *c = conn_nonblock();
	int a = set_new(), b = set_new();

	set_ctl(a, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	set_ctl(b, EPOLL_CTL_ADD, c->fd, EPOLLIN, 2);
	close(a);
	peer_text(c, "x");
	set_wait(b, 2000);
	tell(epoll_wait(a, &(struct epoll_event){0}, 1, 0), "epoll_wait(closed set)");
}

static void nested(void)
{
	struct conn *c = conn_nonblock();
	int inner = set_new(), outer = set_new();
	struct pollfd p = {.fd = inner, .events = POLLIN};

	set_ctl(inner, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	set_ctl(outer, EPOLL_CTL_ADD, inner, EPOLLIN, 2);
	set_wait(outer, 0);
	tell(poll(&p, 1, 0), "poll(inner)");
	peer_text(c, "deep");
	set_wait(outer, 2000);
	set_wait(inner, 0);
	tell(poll(&p, 1, 0), "poll(inner)");
	await_in(c->fd, 4);
	set_read(c->fd, 100);
	set_wait(outer, 0);
	tell(poll(&p, 1, 0), "poll(inner)");
}

static void nested_et(void)
{
	struct conn *c = conn_nonblock();
	int inner = set_new(), outer = set_new();

	set_ctl(inner, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	set_ctl(outer, EPOLL_CTL_ADD, inner, EPOLLIN | EPOLLET, 2);
	peer_text(c, "one");
	set_wait(outer, 2000);
	set_wait(outer, 0);
	set_wait(inner, 0);
	await_in(c->fd, 3);
	set_read(c->fd, 100);
	peer_text(c, "two");
	set_wait(outer, 2000);
	set_wait(inner, 0);
}

static void nested_loop(void)
{
	struct conn *c = conn_nonblock();
	int a = set_new(), b = set_new();

	set_ctl(a, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	set_ctl(a, EPOLL_CTL_ADD, b, EPOLLIN, 2);
	set_ctl(b, EPOLL_CTL_ADD, a, EPOLLIN, 3);
}

static void dup_item(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new(), d = dup(c->fd);

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	set_ctl(ep, EPOLL_CTL_ADD, d, EPOLLIN, 2);
	peer_text(c, "x");
	await_in(c->fd, 1);
	set_wait(ep, 2000);
	set_ctl(ep, EPOLL_CTL_DEL, d, 0, 0);
	set_wait(ep, 0);
}

/* The entry lives as long as the open file does: the classic surprise. */
static void dup_closed(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new(), fd = c->fd, d = dup(fd);

	set_ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, 42);
	close(fd);
	peer_text(c, "ghost");
	set_wait(ep, 2000);
	set_ctl(ep, EPOLL_CTL_DEL, fd, 0, 0);
	set_wait(ep, 0);
	await_in(d, 5);
	set_read(d, 100);
	set_wait(ep, 0);
	close(d);
	set_wait(ep, 0);
	c->fd = d;
}

static void dup_of_set(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new(), d = dup(ep);

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	peer_text(c, "x");
	set_wait(d, 2000);
	close(ep);
	set_wait(d, 0);
	set_ctl(d, EPOLL_CTL_MOD, c->fd, EPOLLOUT, 2);
	set_wait(d, 0);
}

static void closed_item(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new(), fd = c->fd, p[2];

	set_ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, 1);
	peer_text(c, "x");
	await_in(fd, 1);
	close(fd);
	set_wait(ep, 0);
	tell(pipe(p), "pipe");
	set_ctl(ep, EPOLL_CTL_ADD, p[0], EPOLLIN, 2);
	tell(write(p[1], "y", 1), "write");
	set_wait(ep, 0);
}

/* ---- with others ---- */

static void mixed(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new(), p[2], ev = eventfd(0, EFD_NONBLOCK), tf = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
	struct itimerspec t = {.it_value.tv_nsec = 30000000};

	tell(pipe(p), "pipe");
	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	set_ctl(ep, EPOLL_CTL_ADD, p[0], EPOLLIN, 2);
	set_ctl(ep, EPOLL_CTL_ADD, ev, EPOLLIN, 3);
	set_ctl(ep, EPOLL_CTL_ADD, tf, EPOLLIN, 4);
	set_wait(ep, 0);
	tell(timerfd_settime(tf, 0, &t, NULL), "timerfd");
	set_wait(ep, 2000);
	peer_text(c, "x");
	await_in(c->fd, 1);
	set_wait(ep, 0);
	tell(write(p[1], "y", 1), "write(pipe)");
	set_wait(ep, 0);
	tell(eventfd_write(ev, 1), "eventfd_write");
	set_wait(ep, 0);
}

static void woken_by_pipe(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new(), p[2];
	pid_t child;

	tell(pipe(p), "pipe");
	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	set_ctl(ep, EPOLL_CTL_ADD, p[0], EPOLLIN, 2);
	child = fork();
	if (!child) {
		pause_ms(40);
		_exit(write(p[1], "y", 1) != 1);
	}
	set_wait(ep, 2000);
}

static void listener_too(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new(), l = listener_open(8, SOCK_NONBLOCK), fd, id = next_id();

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	set_ctl(ep, EPOLL_CTL_ADD, l, EPOLLIN, 2);
	set_wait(ep, 0);
	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	set_wait(ep, 2000);
	fd = accept4(l, NULL, NULL, SOCK_NONBLOCK);
	say("accepted: %s", fd >= 0 ? "yes" : "no");
	set_ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN, 3);
	set_wait(ep, 0);
	peer_text(c, "old");
	await_in(c->fd, 3);
	peer_later(0, PEER_TEXT, &(struct conn){.id = id}, 0, 0);
	peer_wait();
	set_wait(ep, 0);
}

/* ---- signals and threads ---- */

static void signal_wait(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	alarm_start(this_case->a ? SA_RESTART : 0);
	set_wait(ep, 3000);
	alarm_stop();
	peer_text(c, "x");
	set_wait(ep, 2000);
}

static void pwait_mask(void)
{
	struct conn *c = conn_nonblock();
	struct epoll_event e;
	sigset_t block, none;
	int ep = set_new();

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	signal_pending(&block, &none);
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

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
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

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
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
	set_wait(h.ep, 2000);
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

	set_ctl(h.ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	pthread_create(&t, NULL, mod_later, &h);
	set_wait(h.ep, 2000);
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

	set_ctl(h.ep, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLET, 1);
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
	set_ctl(ep, EPOLL_CTL_ADD, fd, EPOLLIN | (uint32_t)this_case->a, 1);
	set_wait(ep, 0);
	c = conn_adopt(fd, id);
	set_wait(ep, 0);
	peer_text(c, "x");
	set_wait(ep, 2000);
	await_in(fd, 1);
	set_read(fd, 10);
	set_wait(ep, 0);
	peer_text(c, "y");
	set_wait(ep, 2000);
}

static void disabled_inside(void)
{
	int ep = set_new(), l = listener_open(8, 0), id = next_id(), fd;
	struct conn *c;

	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	fd = accept(l, NULL, NULL);
	set_ctl(ep, EPOLL_CTL_ADD, fd, EPOLLOUT | EPOLLONESHOT, 1);
	set_wait(ep, 0);
	c = conn_adopt(fd, id);
	set_wait(ep, 0);
	peer_text(c, "x");
	await_in(fd, 1);
	set_wait(ep, 0);
	set_ctl(ep, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLONESHOT, 2);
	set_wait(ep, 0);
}

const struct test_case cases_epoll_sets[] = {
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
	CASE_WITH("epoll/eintr-restart", "SA_RESTART makes no difference", signal_wait, NULL, 1),
	CASE("epoll/pwait-mask", "epoll_pwait's mask", pwait_mask),
	CASE("epoll/timeouts", "times of epoll_wait and epoll_pwait2", timeouts),
	CASE_RETURNS("epoll/syscall", "syscall(SYS_epoll_pwait)", wait_syscall, PAST_LIBRARY),
	CASE("epoll/added-by-thread", "another thread adds while one waits", added_by_thread),
	CASE("epoll/modified-by-thread", "another thread modifies while one waits", modified_by_thread),
	CASE("epoll/two-waiters", "three threads wait, one edge wakes one", two_waiters),
	CASE("epoll/adopted-inside", "adopted while in a set, level-triggered", adopted_inside),
	CASE_WITH("epoll/adopted-inside-et", "adopted while in a set, edge-triggered", adopted_inside, NULL,
		  (long)EPOLLET),
	CASE("epoll/disabled-inside", "adopted while its EPOLLONESHOT entry is disabled", disabled_inside),
	{.name = NULL},
};
