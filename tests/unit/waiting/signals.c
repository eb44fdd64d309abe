/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What interrupts a wait: signals, longjmp() out of a handler, cancellation; and that who waits is idle. */
#define _GNU_SOURCE 1
#include "tests/asleep.h"
#include "tests/unit/waiting/lab.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/time.h>
#include <sys/wait.h>

/* ---- signals ---- */

static _Atomic int hits; /* of signals */
static int hit_fd;

static void on_signal(int sig)
{
	(void)sig;
	hits++;
}

static void on_signal_send(int sig)
{
	(void)sig;
	if (++hits == 2 && send(hit_fd, "x", 1, 0) != 1)
		_exit(3);
}

static void handler(int sig, void (*fn)(int), int flags)
{
	struct sigaction sa = {.sa_handler = fn, .sa_flags = flags};

	sigaction(sig, &sa, NULL);
}

static void alarm_every(int ms)
{
	struct itimerval t = {{ms / 1000, ms % 1000 * 1000}, {ms / 1000, ms % 1000 * 1000}};

	setitimer(ITIMER_REAL, &t, NULL);
}

static pid_t asleep_tid;
static _Atomic bool interrupting, interrupts_over;

/* SIGALRM to a thread whenever it sleeps in a call that is to be interrupted, and its last one has been handled. */
static void *act_interrupt(void *thread)
{
	while (!interrupts_over) {
		int before = hits;

		if (!interrupting || !is_asleep(asleep_tid)) {
			pause_ms(1);
			continue;
		}
		pthread_kill(*(pthread_t *)thread, SIGALRM);
		while (hits == before && !interrupts_over)
			pause_ms(1);
	}
	return NULL;
}

#define INTERRUPT(call)               \
	({                            \
		int ret_;             \
		interrupting = true;  \
		ret_ = (int)(call);   \
		interrupting = false; \
		result(ret_);         \
	})

static ssize_t send_until_full(int fd)
{
	char b[4096] = {0};
	ssize_t n;

	do
		n = send(fd, b, sizeof(b), 0);
	while (n > 0);
	return n;
}

CASE(interrupts)
{
	struct timeval limit = {LONG / 1000, 0};
	struct pair p = pair_new(), q = pair_new(), full = pair_new();
	int ep = epoll_create1(0);
	struct pollfd f = {.fd = p.s, .events = POLLIN};
	pthread_t own = pthread_self(), other;
	struct epoll_event e;
	char b[1];
	fd_set r;

	asleep_tid = gettid();
	CHECK(!pthread_create(&other, NULL, act_interrupt, &own));
	CHECK(!add(ep, p.s, EPOLLIN, 1));
	setsockopt(q.s, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	for (int restart = 0; restart < 2; restart++) {
		handler(SIGALRM, on_signal, restart ? SA_RESTART : 0);
		printf("epoll %s", INTERRUPT(epoll_wait(ep, &e, 1, -1)));
		printf(" poll %s", INTERRUPT(poll(&f, 1, -1)));
		printf(" %x", f.revents);
		FD_ZERO(&r);
		FD_SET(p.s, &r);
		printf(" select %s", INTERRUPT(select(p.s + 1, &r, NULL, NULL, NULL)));
		printf(" recv with limit %s", INTERRUPT(recv(q.s, b, 1, 0)));
		hits = 0;
		hit_fd = p.c;
		if (restart) /* it goes on, and what the second signal's handler sends ends it */
			handler(SIGALRM, on_signal_send, SA_RESTART);
		printf(" recv %s", INTERRUPT(recv(p.s, b, 1, 0)));
		if (!restart) {
			printf(" %s", INTERRUPT(recv(p.s, b, 1, 0)));
			printf(" send %s", INTERRUPT(send_until_full(full.c)));
		}
		printf(" hits %d\n", hits >= 2);
	}
	interrupts_over = true;
	pthread_join(other, NULL);
}

/* A blocked signal is let in by the call's mask alone: none is lost between the mask and the sleep. */
CASE(masks)
{
	struct pair p = pair_new();
	int ep = epoll_create1(0), lost = 0;
	struct pollfd f = {.fd = p.s, .events = POLLIN};
	struct epoll_event e;
	sigset_t block, open, now;
	fd_set r;

	signal(SIGCHLD, SIG_IGN);
	handler(SIGUSR1, on_signal, 0);
	sigemptyset(&block);
	sigaddset(&block, SIGUSR1);
	sigprocmask(SIG_BLOCK, &block, &open);
	CHECK(!add(ep, p.s, EPOLLIN, 1));
	for (int i = 0; i < 400; i++) {
		hits = 0;
		if (i % 8 < 4) {
			kill(getpid(), SIGUSR1);
		} else if (!fork()) {
			for (int k = 0; k < i * 37 % 5000; k++)
				atomic_signal_fence(memory_order_seq_cst);
			kill(getppid(), SIGUSR1);
			_exit(0);
		}
		errno = 0;
		FD_ZERO(&r);
		FD_SET(p.s, &r);
		if (i % 4 == 0)
			lost += epoll_pwait(ep, &e, 1, LONG, &open) != -1;
		else if (i % 4 == 1)
			lost += ppoll(&f, 1, NULL, &open) != -1;
		else if (i % 4 == 2)
			lost += pselect(p.s + 1, &r, NULL, NULL, NULL, &open) != -1;
		else
			lost += epoll_pwait2(ep, &e, 1, NULL, &open) != -1;
		lost += errno != EINTR || hits != 1;
		sigprocmask(SIG_BLOCK, NULL, &now);
		lost += !sigismember(&now, SIGUSR1);
	}
	printf("lost %d\n", lost);
	kill(getpid(), SIGUSR1);
	hits = 0;
	put(p.c, "x");
	printf("events go first: %s", result(epoll_pwait(ep, &e, 1, LONG, &open)));
	printf(" %s hits %d\n", result(ppoll(&f, 1, NULL, &open)), (int)hits);
	sigprocmask(SIG_SETMASK, &open, NULL);
	printf("hits %d\n", (int)hits);
}

/* Signals that come while other wake-ups come and go. */
CASE(signals_among_wakes)
{
	struct pair p = pair_new();
	int ep = epoll_create1(0), quiet = epoll_create1(0), other = 0;
	struct epoll_event e;
	struct later l[40];

	/* `quiet` hears of every segment, but waits for what never comes */
	CHECK(!add(ep, p.s, EPOLLIN, 1) && !add(quiet, p.s, EPOLLPRI, 2));
	handler(SIGALRM, on_signal, 0);
	alarm_every(35);
	for (int i = 0; i < 40; i++) {
		later(&l[i], act_send, p.c);
		l[i].ms = i * 25;
	}
	for (int i = 0; i < 20; i++)
		other += epoll_wait(quiet, &e, 1, LONG) != -1 || errno != EINTR;
	for (int i = 0; i < 40; i++)
		joined(&l[i]);
	alarm_every(0);
	printf("other %d\n", other);
	look("data", ep, 4, 0);
}

static sigjmp_buf out;

static void on_jump(int sig)
{
	(void)sig;
	siglongjmp(out, 1);
}

static int jump_call(int how, struct pair p, int ep, int linux_fd)
{
	struct pollfd f[2] = {{.fd = p.s, .events = POLLIN}, {.fd = linux_fd, .events = POLLIN}};
	struct epoll_event e;
	char b[8];
	fd_set r;

	FD_ZERO(&r);
	FD_SET(p.s, &r);
	if (sigsetjmp(out, 1))
		return 1;
	alarm_every(3);
	if (how == 0)
		return (int)recv(p.s, b, 1, 0);
	if (how == 1)
		return epoll_wait(ep, &e, 1, -1);
	if (how == 2)
		return poll(f, 2, -1);
	if (how == 3)
		return select(p.s + 1, &r, NULL, NULL, NULL);
	return (int)recv(linux_fd, b, 1, 0);
}

CASE(longjmp)
{
	handler(SIGALRM, on_jump, 0);
	/* more sockets than there are places, if each left something behind */
	for (int round = 0; round < 6; round++) {
		struct pair p = pair_new(), cold = pair_cold();
		int ep = epoll_create1(0), n = 0;

		CHECK(!add(ep, p.s, EPOLLIN, 1));
		for (int i = 0; i < 40; i++)
			n += jump_call(i % 5, p, ep, cold.s);
		alarm_every(0);
		warm(p);
		warm(cold); /* no thread counts as being inside for ever: it is adopted */
		put(p.c, "y");
		put(cold.c, "z");
		printf("%d\n", n);
		look("works", ep, 4, 0);
		drain(p.s);
		look("works", ep, 4, 0);
		close(p.c);
		look("fin", ep, 4, LONG);
		close(p.s);
		close(ep);
		close(cold.c);
		close(cold.s);
	}
}

/* Left at any instruction of send() and recv(), the library's sections included. */
CASE(longjmp_busy)
{
	struct pair p = pair_new();
	static char b[30000];

	handler(SIGALRM, on_jump, 0);
	for (volatile int i = 0; i < 300; i++) {
		struct itimerval t = {.it_value = {0, 200 + i * 7 % 900}};

		if (sigsetjmp(out, 1))
			continue;
		setitimer(ITIMER_REAL, &t, NULL);
		for (;;) {
			(void)!send(p.c, b, sizeof(b), MSG_DONTWAIT);
			(void)!recv(p.s, b, sizeof(b), MSG_DONTWAIT);
		}
	}
	alarm_every(0);
	for (int quiet = 0; quiet < 10; quiet++) {
		while (recv(p.s, b, sizeof(b), MSG_DONTWAIT) > 0)
			quiet = 0;
		pause_ms(10);
	}
	printf("send %s", result((int)send(p.c, "x", 1, 0)));
	printf(" recv %s\n", result((int)recv(p.s, b, 1, 0)));
	printf("send %s", result((int)send(p.s, "x", 1, 0)));
	printf(" recv %s\n", result((int)recv(p.c, b, 1, 0)));
}

/* ---- cancellation ---- */

struct victim {
	int how, fd, ep;
	_Atomic int cleaned;
};

static void clean(void *arg)
{
	((struct victim *)arg)->cleaned++;
}

static void *victim_main(void *arg)
{
	struct victim *v = arg;
	struct pollfd f = {.fd = v->fd, .events = POLLIN};
	struct epoll_event e;
	char b[65536] = {0};
	fd_set r;

	FD_ZERO(&r);
	FD_SET(v->fd, &r);
	pthread_cleanup_push(clean, v);
	if (v->how == 0)
		(void)!recv(v->fd, b, 1, 0);
	else if (v->how == 1)
		(void)!epoll_wait(v->ep, &e, 1, -1);
	else if (v->how == 2)
		(void)!poll(&f, 1, -1);
	else if (v->how == 3)
		(void)!select(v->fd + 1, &r, NULL, NULL, NULL);
	else if (v->how == 4)
		while (write(v->fd, b, sizeof(b)) > 0)
			;
	else
		while (recv(v->fd, b, 1, MSG_PEEK) == 1) /* never blocks */
			;
	pthread_cleanup_pop(0);
	return NULL;
}

CASE(cancel)
{
	for (int how = 0; how < 6; how++) {
		struct pair p = pair_new();
		struct victim v = {.how = how, .fd = p.s, .ep = epoll_create1(0)};
		pthread_t t;
		void *ret;

		CHECK(!add(v.ep, p.s, EPOLLIN, 1));
		if (how == 5)
			put(p.c, "a");
		pthread_create(&t, NULL, victim_main, &v);
		pause_ms(PAUSE);
		pthread_cancel(t);
		pthread_join(t, &ret);
		printf("%d %d\n", ret == PTHREAD_CANCELED, (int)v.cleaned);
		put(p.c, "b");
		look("works", v.ep, 4, LONG);
		close(p.s);
		close(p.c);
	}
}

/* ---- idleness ---- */

CASE(idle)
{
	struct pair p[4];
	int ep = epoll_create1(0), outer = epoll_create1(0);
	struct timespec a, b;
	struct later l;

	for (int i = 0; i < 4; i++) {
		p[i] = pair_new();
		CHECK(!add(ep, p[i].s, EPOLLIN | (i % 2 ? EPOLLET : 0), (uint64_t)i));
	}
	for (int round = 0; round < 3; round++) {
		struct pollfd f[2] = {{.fd = ep, .events = POLLIN}, {.fd = p[0].s, .events = POLLIN}};
		struct epoll_event e;

		later(&l, act_send, p[0].c);
		l.ms = 2000;
		if (round == 2)
			CHECK(!add(outer, ep, EPOLLIN, 1));
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
		if (round == 1)
			CHECK(poll(f, 2, -1) == 2);
		else
			CHECK(epoll_wait(round ? outer : ep, &e, 1, -1) == 1);
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
		joined(&l);
		drain(p[0].s);
		printf("idle %d\n", (b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000 < 50);
	}
}
