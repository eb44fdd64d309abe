/* SPDX-License-Identifier: GPL-2.0-or-later */
/* poll() and select(), and how long all of them wait. */
#define _GNU_SOURCE 1
#include "tests/unit/waiting/lab.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

/* ---- poll and select ---- */

CASE(mixed)
{
	struct pair p = pair_new(), q = pair_new();
	sigset_t usr;
	int pp[2], un[2], udp = socket(AF_INET, SOCK_DGRAM, 0), ino = inotify_init(), efd = eventfd(0, 0);
	int tfd = timerfd_create(CLOCK_MONOTONIC, 0), sfd, file = open("/proc/self/exe", O_RDONLY),
	    ep = epoll_create1(0);
	struct itimerspec soon = {.it_value.tv_nsec = PAUSE * 1000000L};
	struct pollfd f[16];
	nfds_t n = 0;
	struct later l;

	sigemptyset(&usr);
	sigaddset(&usr, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &usr, NULL);
	sfd = signalfd(-1, &usr, 0);
	CHECK(!pipe(pp) && !socketpair(AF_UNIX, SOCK_STREAM, 0, un));
	int fds[] = {p.s, pp[0], un[0], udp, ino, efd, tfd, sfd, q.s, 1000, -1};

	for (size_t i = 0; i < sizeof(fds) / sizeof(*fds); i++)
		f[n++] = (struct pollfd){.fd = fds[i], .events = POLLIN};
	look_poll("bad number", f, n, LONG);
	n--;
	f[n - 1].fd = -7;
	look_poll("none", f, n, 0);
	look_poll("none", f, n, PAUSE);
	later(&l, act_send, p.c);
	look_poll("socket", f, n, LONG);
	joined(&l);
	drain(p.s);
	CHECK(!timerfd_settime(tfd, 0, &soon, NULL));
	look_poll("timer", f, n, LONG);
	f[6].fd = -1;
	kill(getpid(), SIGUSR1);
	look_poll("signal", f, n, LONG);
	f[7].fd = -1;
	CHECK(write(pp[1], "x", 1) == 1 && write(efd, &(uint64_t){1}, 8) == 8);
	put(q.c, "x");
	look_poll("pipe, eventfd, socket", f, n, LONG);
	close(un[1]);
	f[n++] = (struct pollfd){.fd = file, .events = POLLIN | POLLOUT};
	f[n++] = (struct pollfd){.fd = p.s, .events = 0};
	f[n++] = (struct pollfd){.fd = p.s, .events = POLLOUT | POLLWRNORM | POLLRDNORM};
	look_poll("more", f, n, LONG);
	for (nfds_t i = 0; i < n; i++)
		if (f[i].fd >= 0 && f[i].fd != file && !(f[i].fd == p.s && i != 0))
			CHECK(!add(ep, f[i].fd, EPOLLIN, i));
	/* the library may leave the kernel's out for some calls while adopted ones are ready */
	drain(q.s);
	look("epoll", ep, MAX, LONG);
	shutdown(p.c, SHUT_WR);
	shutdown(p.s, SHUT_WR);
	pause_ms(40);
	look_poll("hup", f, n, LONG);
}

CASE(poll_many)
{
	struct pair p = pair_new();
	struct rlimit lim = {.rlim_cur = 3000, .rlim_max = 4096};
	static struct pollfd f[4000];
	struct later l;
	int bad = 0, fd = dup(0);

	setrlimit(RLIMIT_NOFILE, &lim);
	for (int i = 0; i < 4000; i++)
		f[i] = (struct pollfd){.fd = i == 2500 ? p.s : -1, .events = POLLIN};
	printf("limit %s\n", result(poll(f, 4000, 0)));
	printf("none %s\n", result(poll(f, 3000, 0)));
	later(&l, act_send, p.c);
	printf("%s %x\n", result(poll(f, 3000, LONG)), f[2500].revents);
	joined(&l);
	for (int i = 0; i < 3000; i++)
		f[i].fd = i == 2500 ? p.s : fd + 1000 + i;
	printf("%s %x\n", result(poll(f, 3000, LONG)), f[2500].revents);
	for (int i = 0; i < 3000; i++)
		bad += f[i].revents == POLLNVAL;
	printf("bad %d\n", bad);
	printf("pointer %s %s\n", result(poll((void *)8, 1, 0)), result(poll(NULL, 1, 0)));
	printf("time %s %s\n", result(ppoll(f, 1, &(struct timespec){-1, 0}, NULL)),
	       result(ppoll(f, 1, &(struct timespec){0, 1000000000}, NULL)));
}

static void show_sets(const char *what, int n, fd_set *r, fd_set *w, fd_set *x, const int *fds, int nfds)
{
	printf("%s: %s", what, result(n));
	for (int i = 0; i < nfds; i++)
		printf(" %d%d%d", !!FD_ISSET(fds[i], r), !!FD_ISSET(fds[i], w), !!FD_ISSET(fds[i], x));
	printf("\n");
}

CASE(select_all)
{
	struct pair p = pair_new();
	int pp[2], fds[3];
	struct timeval t;
	fd_set r, w, x;
	struct later l;

	CHECK(!pipe(pp));
	fds[0] = p.s;
	fds[1] = pp[0];
	fds[2] = p.c;
	for (int round = 0; round < 6; round++) {
		int n;

		FD_ZERO(&r);
		FD_ZERO(&w);
		FD_ZERO(&x);
		FD_SET(p.s, &r);
		FD_SET(pp[0], &r);
		if (round == 1)
			FD_SET(p.c, &w);
		FD_SET(p.s, &x);
		if (round == 2)
			later(&l, act_send, p.c);
		if (round == 4)
			later(&l, act_close, pp[1]);
		if (round == 5) {
			close(pp[0]);
			t = (struct timeval){LONG / 1000, 0};
		} else if (round == 3) {
			drain(p.s);
			t = (struct timeval){0, PAUSE * 1000};
		} else {
			t = (struct timeval){round ? LONG / 1000 : 0, round ? 1500000 : 0};
		}
		n = select(FD_SETSIZE, &r, &w, &x, &t);
		show_sets("select", n, &r, &w, &x, fds, 3);
		printf("left %d\n", t.tv_sec >= LONG / 1000 - 10 ? 2 : t.tv_sec || t.tv_usec ? 1 : 0);
		if (round == 2 || round == 4)
			joined(&l);
	}
	FD_ZERO(&r);
	FD_SET(p.s, &r);
	t = (struct timeval){-1, 0};
	printf("time %s %s %s\n", result(select(p.s + 1, &r, NULL, NULL, &t)), result(select(-1, &r, NULL, NULL, NULL)),
	       result(pselect(p.s + 1, &r, NULL, NULL, &(struct timespec){0, 1000000000}, NULL)));
	printf("pointer %s\n", result(select(p.s + 1, &r, (void *)8, NULL, NULL)));
	printf("no sets %s\n", result(select(0, NULL, NULL, NULL, &(struct timeval){0, 1000})));
}

CASE(select_big)
{
	struct pair p = pair_new();
	struct rlimit lim = {.rlim_cur = 8192, .rlim_max = 8192};
	size_t bytes = 8192 / 8, page = 4096;
	uint8_t *m = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *set;
	int fd, n;

	setrlimit(RLIMIT_NOFILE, &lim);
	fd = fcntl(p.s, F_DUPFD, 5000);
	CHECK(fd == 5000 && m != MAP_FAILED);
	set = m + page - bytes;
	mprotect(m + page, page, PROT_NONE);
	set[fd / 8] |= (uint8_t)(1u << (fd % 8));
	put(p.c, "a");
	n = select(8192, (fd_set *)set, NULL, NULL, NULL);
	printf("%s %d\n", result(n), set[fd / 8] >> (fd % 8) & 1);
	n = select(1 << 20, (fd_set *)set, NULL, NULL, NULL); /* more than the table: Linux looks no further */
	printf("%s %d\n", result(n), set[fd / 8] >> (fd % 8) & 1);
}

/* HUP of what is only watched for exceptions does not end select(). */
CASE(select_except)
{
	struct pair p = pair_new(), q = pair_new();
	struct later l;
	fd_set r, x;

	close(p.c);
	shutdown(p.s, SHUT_RDWR);
	pause_ms(20);
	FD_ZERO(&x);
	FD_SET(p.s, &x);
	printf("%s\n", result(select(p.s + 1, NULL, NULL, &x, &(struct timeval){0, PAUSE * 1000})));
	FD_ZERO(&r);
	FD_SET(q.s, &r);
	FD_SET(p.s, &x);
	later(&l, act_send, q.c);
	printf("%s %d\n", result(select(FD_SETSIZE, &r, NULL, &x, NULL)), FD_ISSET(q.s, &r));
	joined(&l);
}

/* ---- time ---- */

CASE(timeouts)
{
	struct pair p = pair_new();
	int ep = epoll_create1(0), early = 0;
	struct pollfd f = {.fd = p.s, .events = POLLIN};
	struct epoll_event e;
	fd_set r;

	CHECK(!add(ep, p.s, EPOLLIN, 1));
	for (int i = 0; i < 12; i++) {
		struct timespec a, b, t = {0, 1500000 + i * 300000};
		struct timeval tv = {0, t.tv_nsec / 1000};
		int64_t ns = t.tv_nsec;

		FD_ZERO(&r);
		FD_SET(p.s, &r);
		clock_gettime(CLOCK_MONOTONIC, &a);
		if (i % 5 == 0) {
			CHECK(!epoll_wait(ep, &e, 1, 2));
			ns = 2000000;
		} else if (i % 5 == 1) {
			CHECK(!epoll_pwait2(ep, &e, 1, &t, NULL));
		} else if (i % 5 == 2) {
			CHECK(!ppoll(&f, 1, &t, NULL));
		} else if (i % 5 == 3) {
			CHECK(!select(p.s + 1, &r, NULL, NULL, &tv) && !tv.tv_sec && !tv.tv_usec);
		} else {
			CHECK(!pselect(p.s + 1, &r, NULL, NULL, &t, NULL));
		}
		clock_gettime(CLOCK_MONOTONIC, &b);
		early += (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec < ns;
	}
	printf("early %d\n", early);
	put(p.c, "x");
	printf("%s\n", result(epoll_pwait2(ep, &e, 1, &(struct timespec){.tv_sec = INT64_MAX}, NULL)));
	printf("%s\n", result(epoll_pwait2(ep, &e, 1, &(struct timespec){.tv_nsec = 1000000000}, NULL)));
	printf("%s\n", result(epoll_pwait2(ep, &e, 1, (void *)8, NULL)));
	printf("%s\n", result(ppoll(&f, 1, &(struct timespec){.tv_sec = INT64_MAX}, NULL)));
}
