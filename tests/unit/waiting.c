/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a program sees of epoll, poll, select and signals. Run by test_waiting.py on plain Linux
 * and under the interposition library, with the case's name; both must print the same. No test
 * depends on how long anything takes: what must not happen is looked for after PAUSE.
 */
#define _GNU_SOURCE 1
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAUSE 60 /* ms */
#define LONG 20000
#define MAX 64

struct pair {
	int c, s; /* connected to each other */
};

static void check(bool ok, int line)
{
	if (ok)
		return;
	printf("line %d: %s\n", line, strerror(errno));
	exit(1);
}
#define CHECK(x) check(x, __LINE__)

static void pause_ms(int ms)
{
	struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

	while (nanosleep(&t, &t))
		;
}

static struct pair pair_cold(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	int l = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	struct pair p = {.c = socket(AF_INET, SOCK_STREAM, 0)};

	CHECK(!bind(l, (struct sockaddr *)&a, len) && !listen(l, 8) && !getsockname(l, (struct sockaddr *)&a, &len));
	CHECK(!connect(p.c, (struct sockaddr *)&a, len));
	p.s = accept(l, NULL, NULL);
	CHECK(p.s >= 0 && !close(l));
	setsockopt(p.c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(p.s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return p;
}

/* Exchange enough for both ends to be adopted. */
static void warm(struct pair p)
{
	char b;

	for (int i = 0; i < 3; i++)
		CHECK(send(p.c, "w", 1, 0) == 1 && recv(p.s, &b, 1, 0) == 1 && send(p.s, "w", 1, 0) == 1 &&
		      recv(p.c, &b, 1, 0) == 1);
	pause_ms(40);
}

static struct pair pair_new(void)
{
	struct pair p = pair_cold();

	warm(p);
	return p;
}

static void put(int fd, const char *text)
{
	CHECK(send(fd, text, strlen(text), 0) == (ssize_t)strlen(text));
	pause_ms(20);
}

static void drain(int fd)
{
	char b[4096];

	while (recv(fd, b, sizeof(b), MSG_DONTWAIT) > 0)
		;
}

static const char *result(int n)
{
	static char text[4][64];
	static int i;
	char *t = text[i++ % 4];

	if (n < 0)
		snprintf(t, 64, "%s", strerrorname_np(errno));
	else
		snprintf(t, 64, "%d", n);
	return t;
}

static int add(int ep, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event e = {.events = events, .data.u64 = data};

	return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
}

static int mod(int ep, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event e = {.events = events, .data.u64 = data};

	return epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e);
}

static int compare(const void *a, const void *b)
{
	const struct epoll_event *x = a, *y = b;

	return x->data.u64 < y->data.u64 ? -1 : x->data.u64 > y->data.u64;
}

/* Wait and print what came, in order of data. */
static int look(const char *what, int ep, int max, int ms)
{
	struct epoll_event e[MAX];
	int n = epoll_wait(ep, e, max, ms);

	printf("%s: %s", what, result(n));
	qsort(e, n > 0 ? (size_t)n : 0, sizeof(*e), compare);
	for (int i = 0; i < n; i++)
		printf(" %llu=%x", (unsigned long long)e[i].data.u64, e[i].events);
	printf("\n");
	return n;
}

/* As look(), in as many calls as it takes: adopted and other sockets need not come together. */
static void gather(const char *what, int ep, int want)
{
	uint64_t sum = 0;
	uint32_t all = 0;
	int n = 0;

	while (n < want) {
		struct epoll_event e;

		CHECK(epoll_wait(ep, &e, 1, LONG) == 1);
		sum += e.data.u64;
		all |= e.events;
		n++;
	}
	printf("%s: %d, data %llu, %x\n", what, n, (unsigned long long)sum, all);
}

static void look_poll(const char *what, struct pollfd *p, nfds_t n, int ms)
{
	printf("%s: %s", what, result(poll(p, n, ms)));
	for (nfds_t i = 0; i < n; i++)
		printf(" %x", p[i].revents);
	printf("\n");
}

/* Something that happens while the caller sleeps. */
struct later {
	pthread_t thread;
	int fd, ms;
	void (*act)(int fd);
};

static void act_send(int fd)
{
	CHECK(send(fd, "x", 1, 0) == 1);
}
static void act_close(int fd)
{
	close(fd);
}
static void act_shutdown(int fd)
{
	shutdown(fd, SHUT_WR);
}
static void act_drain(int fd)
{
	drain(fd);
}

static void *later_main(void *arg)
{
	struct later *l = arg;

	pause_ms(l->ms);
	l->act(l->fd);
	return NULL;
}

static void later(struct later *l, void (*act)(int), int fd)
{
	*l = (struct later){.fd = fd, .ms = PAUSE, .act = act};
	CHECK(!pthread_create(&l->thread, NULL, later_main, l));
}

static void joined(struct later *l)
{
	pthread_join(l->thread, NULL);
}

#define CASE(name) static void case_##name(void)

/* ---- epoll ---- */

CASE(levels)
{
	static const uint32_t how[] = {0, EPOLLET, EPOLLONESHOT, EPOLLET | EPOLLONESHOT};

	for (int i = 0; i < 8; i++) {
		uint32_t f = how[i / 2];
		struct pair p = pair_cold();
		int ep = epoll_create1(EPOLL_CLOEXEC);
		struct later l;

		if (i % 2) /* adopted before, or while a member */
			warm(p);
		CHECK(!add(ep, p.s, EPOLLIN | EPOLLRDHUP | f, 7));
		if (!(i % 2))
			warm(p);
		look("after", ep, 4, 0);
		mod(ep, p.s, EPOLLIN | EPOLLRDHUP | f, 7);
		look("none", ep, 4, 0);
		put(p.c, "ab");
		look("data", ep, 4, LONG);
		look("again", ep, 4, 0);
		put(p.c, "c");
		look("more", ep, 4, 0);
		CHECK(!mod(ep, p.s, EPOLLIN | EPOLLOUT | EPOLLRDHUP | f, 8));
		look("both", ep, 4, LONG);
		look("both again", ep, 4, 0);
		drain(p.s);
		CHECK(!mod(ep, p.s, EPOLLIN | EPOLLRDHUP | f, 9));
		later(&l, act_send, p.c);
		look("asleep", ep, 4, LONG);
		joined(&l);
		drain(p.s);
		mod(ep, p.s, EPOLLIN | EPOLLRDHUP | f, 9);
		later(&l, act_shutdown, p.c);
		look("fin", ep, 4, LONG);
		joined(&l);
		mod(ep, p.s, EPOLLIN | f, 9);
		look("fin without rdhup", ep, 4, 0);
		shutdown(p.s, SHUT_WR);
		pause_ms(20);
		mod(ep, p.s, f, 9);
		look("hup alone", ep, 4, LONG);
		close(p.c);
		close(p.s);
		look("closed", ep, 4, 0);
		close(ep);
	}
}

CASE(reset)
{
	struct linger hard = {.l_onoff = 1};

	for (int i = 0; i < 2; i++) {
		struct pair p = pair_new();
		int ep = epoll_create1(0), err = 0;
		socklen_t len = sizeof(err);
		struct pollfd q = {.fd = p.s, .events = POLLIN | POLLOUT | POLLRDHUP | POLLPRI};

		CHECK(!add(ep, p.s, i ? 0 : EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI, 3));
		setsockopt(p.c, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
		close(p.c);
		pause_ms(40);
		look("reset", ep, 4, LONG);
		look_poll("reset", &q, 1, 0);
		getsockopt(p.s, SOL_SOCKET, SO_ERROR, &err, &len);
		printf("%s\n", strerrorname_np(err));
		look("taken", ep, 4, LONG);
		look_poll("taken", &q, 1, 0);
		close(p.s);
		close(ep);
	}
}

CASE(write_space)
{
	struct pair p = pair_new();
	int ep = epoll_create1(0);
	struct later l;
	char b[4096] = {0};

	CHECK(!add(ep, p.c, EPOLLOUT | EPOLLET, 1));
	look("room", ep, 4, LONG);
	for (int round = 0; round < 2; round++) {
		while (send(p.c, b, sizeof(b), MSG_DONTWAIT) > 0 || errno != EAGAIN)
			;
		pause_ms(PAUSE);
		while (send(p.c, b, sizeof(b), MSG_DONTWAIT) > 0)
			;
		look("full", ep, 4, 0);
		later(&l, act_drain, p.s);
		printf("%d\n", look("room again", ep, 4, LONG));
		joined(&l);
		pause_ms(PAUSE);
		drain(p.s);
		pause_ms(PAUSE);
		drain(p.s);
	}
}

CASE(oneshot)
{
	struct pair p = pair_cold(), q = pair_new();
	int ep = epoll_create1(0);

	CHECK(!add(ep, p.s, EPOLLIN | EPOLLONESHOT, 1) && !add(ep, q.s, EPOLLIN | EPOLLONESHOT, 2));
	put(p.c, "a");
	put(q.c, "a");
	gather("first", ep, 2);
	drain(p.s);
	warm(p); /* adopted while disabled */
	put(p.c, "b");
	put(q.c, "b");
	look("disabled", ep, 8, 0);
	printf("%s\n", result(add(ep, p.s, EPOLLIN, 5)));
	CHECK(!mod(ep, p.s, EPOLLIN | EPOLLONESHOT, 3) && !mod(ep, q.s, EPOLLIN | EPOLLONESHOT, 4));
	gather("armed", ep, 2);
	look("disabled", ep, 8, 0);
	close(p.c);
	close(q.c);
	pause_ms(20);
	look("hup is disabled too", ep, 8, 0);
	CHECK(!mod(ep, p.s, EPOLLONESHOT | EPOLLRDHUP, 3));
	look("armed", ep, 8, LONG);
}

CASE(errors)
{
	struct pair p = pair_new();
	int ep = epoll_create1(0), ep2 = epoll_create1(0), file = open("/proc/self/exe", O_RDONLY), other = dup(p.s);
	struct epoll_event e = {.events = EPOLLIN}, *bad = (void *)(uintptr_t)8;
	void *ro = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	void *none = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (int op = 0; op < 5; op++)
		printf("op %d: %s\n", op, result(epoll_ctl(ep, op, p.s, &e)));
	CHECK(!add(ep, p.s, EPOLLIN, 1));
	printf("twice %s, dup %s\n", result(add(ep, p.s, EPOLLIN, 1)), result(add(ep, other, EPOLLIN, 2)));
	for (int op = 1; op < 4; op++) {
		printf("bad pointer %d: %s %s %s\n", op, result(epoll_ctl(ep, op, p.s, bad)),
		       result(epoll_ctl(ep, op, other, none)), result(epoll_ctl(ep, op, p.s, NULL)));
		if (op == 2)
			CHECK(!add(ep, p.s, EPOLLIN, 1) && !add(ep, other, EPOLLIN, 2));
	}
	printf("exclusive %s %s %s\n", result(mod(ep, p.s, EPOLLIN | EPOLLEXCLUSIVE, 1)),
	       result(add(ep2, p.s, EPOLLIN | EPOLLRDHUP | EPOLLEXCLUSIVE, 1)),
	       result(add(ep2, p.s, EPOLLIN | EPOLLONESHOT | EPOLLEXCLUSIVE, 1)));
	printf("exclusive %s", result(add(ep2, p.s, EPOLLIN | EPOLLET | EPOLLEXCLUSIVE, 1)));
	printf(" %s\n", result(mod(ep2, p.s, EPOLLIN, 1)));
	printf("file %s, itself %s, bad %s", result(add(ep, file, EPOLLIN, 1)), result(add(ep, ep, EPOLLIN, 1)),
	       result(add(ep, 900, EPOLLIN, 1)));
	printf(" %s, no epoll %s", result(add(901, p.s, EPOLLIN, 1)), result(add(p.c, p.s, EPOLLIN, 1)));
	printf(" %s\n", result(add(file, p.s, EPOLLIN, 1)));
	CHECK(!add(ep, ep2, EPOLLIN, 9));
	printf("loop %s\n", result(add(ep2, ep, EPOLLIN, 1)));
	put(p.c, "a");
	printf("wait %s %s %s", result(epoll_wait(ep, &e, 0, 0)), result(epoll_wait(ep, &e, -1, 0)),
	       result(epoll_wait(ep, (void *)-8l, 1, 0)));
	printf(" %s %s", result(epoll_wait(ep, ro, 1, 0)), result(epoll_wait(ep, none, 1, LONG)));
	printf(" %s %s\n", result(epoll_wait(p.s, &e, 1, 0)), result(epoll_wait(902, &e, 1, 0)));
	printf("huge %s\n", result(epoll_wait(ep, &e, 1 << 30, 0)));
	look("not lost", ep, 8, 0);
	CHECK(!close(p.s));
	printf("closed %s\n", result(mod(ep, p.s, EPOLLIN, 1)));
	CHECK(!close(ep));
	printf("closed %s %s\n", result(epoll_wait(ep, &e, 1, 0)), result(mod(ep, other, EPOLLIN, 1)));
}

CASE(dup)
{
	struct pair p = pair_new();
	int ep = epoll_create1(0), d = dup(p.s), e2;

	CHECK(!add(ep, p.s, EPOLLIN, 1) && !add(ep, d, EPOLLIN | EPOLLET, 2));
	put(p.c, "a");
	look("both", ep, 8, LONG);
	look("one", ep, 8, 0);
	close(p.s);
	look("closed, but alive", ep, 8, 0);
	put(p.c, "b");
	look("both", ep, 8, 0);
	printf("%s\n", result(mod(ep, p.s, EPOLLIN, 3)));
	e2 = dup(ep);
	close(ep);
	put(p.c, "c");
	look("epoll's dup", e2, 8, 0);
	CHECK(!mod(e2, d, EPOLLIN, 5));
	look("mod", e2, 8, 0);
	close(d);
	look("gone", e2, 8, PAUSE);
}

CASE(many)
{
	struct pair p[12];
	int ep[3], seen[12] = {0}, turns = 0;

	for (int i = 0; i < 3; i++)
		ep[i] = epoll_create1(0);
	for (int i = 0; i < 12; i++) {
		p[i] = pair_new();
		for (int k = 0; k < 3; k++)
			CHECK(!add(ep[k], p[i].s, EPOLLIN, (uint64_t)i));
	}
	for (int i = 0; i < 12; i++)
		CHECK(send(p[i].c, "x", 1, 0) == 1);
	pause_ms(PAUSE);
	look("all", ep[0], MAX, 0);
	look("all", ep[1], MAX, 0);
	/* every one has its turn */
	for (int i = 0; i < 6; i++) {
		struct epoll_event e[2];

		CHECK(epoll_wait(ep[2], e, 2, 0) == 2);
		seen[e[0].data.u64]++;
		seen[e[1].data.u64]++;
	}
	for (int i = 0; i < 12; i++)
		turns += seen[i] == 1;
	printf("had one turn each: %d\n", turns);
}

CASE(starve)
{
	/* two busy connections and a pipe: with room for one event, all are reported again and again */
	struct pair p = pair_new(), q = pair_new();
	int ep = epoll_create1(0), fd[2], seen[3] = {0};

	CHECK(!pipe(fd) && write(fd[1], "x", 1) == 1);
	CHECK(!add(ep, p.s, EPOLLIN, 0) && !add(ep, q.s, EPOLLIN, 1) && !add(ep, fd[0], EPOLLIN, 2));
	put(p.c, "a");
	put(q.c, "a");
	for (int i = 0; i < 90; i++) {
		struct epoll_event e;

		CHECK(epoll_wait(ep, &e, 1, 0) == 1);
		seen[e.data.u64]++;
	}
	printf("%d %d %d\n", seen[0] > 8, seen[1] > 8, seen[2] > 8);
	drain(p.s);
	drain(q.s);
	look("pipe", ep, 8, 0);
}

/* ---- instances in instances ---- */

CASE(nested)
{
	static const uint32_t how[] = {0, EPOLLET, EPOLLONESHOT};

	for (int i = 0; i < 12; i++) {
		struct pair p = pair_cold();
		int in = epoll_create1(0), mid = epoll_create1(0), out = epoll_create1(0);
		uint32_t f = how[i % 3];
		struct later l;

		if (i & 1)
			warm(p);
		CHECK(!add(mid, in, EPOLLIN, 2));
		if (i < 6) {
			CHECK(!add(in, p.s, EPOLLIN, 1) && !add(out, mid, EPOLLIN | f, 3));
		} else {
			CHECK(!add(out, mid, EPOLLIN | f, 3) && !add(in, p.s, EPOLLIN | EPOLLET, 1));
		}
		if (!(i & 1))
			warm(p);
		look("out after", out, 4, 0);
		look("in after", in, 4, 0);
		mod(out, mid, EPOLLIN | f, 3);
		look("none", out, 4, 0);
		later(&l, act_send, p.c);
		look("asleep", out, 4, LONG);
		joined(&l);
		look("again", out, 4, 0);
		look("mid", mid, 4, 0);
		look("in", in, 4, 0);
		look("in again", in, 4, 0);
		look("out", out, 4, 0);
		drain(p.s);
		look("drained out", out, 4, 0);
		look("drained mid", mid, 4, 0);
		mod(out, mid, EPOLLIN | f, 3);
		put(p.c, "y");
		look("new", out, 4, LONG);
		drain(p.s);
		close(in);
		look("closed", out, 4, 0);
		close(mid);
		close(out);
		close(p.c);
		close(p.s);
	}
}

CASE(nested_poll)
{
	struct pair p = pair_new();
	int in = epoll_create1(0), out = epoll_create1(0);
	struct pollfd q = {.fd = out, .events = POLLIN | POLLOUT};
	struct later l;
	fd_set r;

	CHECK(!add(in, p.s, EPOLLIN, 1));
	q.fd = in;
	look_poll("none", &q, 1, 0);
	look_poll("none", &q, 1, PAUSE);
	later(&l, act_send, p.c);
	look_poll("poll", &q, 1, LONG);
	joined(&l);
	CHECK(!add(out, in, EPOLLIN, 1));
	q.fd = out;
	look_poll("outer", &q, 1, 0);
	drain(p.s);
	look_poll("drained", &q, 1, PAUSE);
	FD_ZERO(&r);
	FD_SET(out, &r);
	later(&l, act_send, p.c);
	printf("select %s\n", result(select(out + 1, &r, NULL, NULL, NULL)));
	joined(&l);
	look("in", in, 4, 0);
	drain(p.s);
	FD_SET(in, &r);
	printf("select %s\n", result(select(out + 1, &r, NULL, NULL, &(struct timeval){0})));
	later(&l, act_close, p.c);
	look_poll("fin", &q, 1, LONG);
	joined(&l);
}

/* ---- instances that others use ---- */

static void finish(pid_t pid)
{
	fflush(stdout);
	CHECK(waitpid(pid, NULL, 0) == pid);
}

/* A child waits in the instance that it inherited, and sees what its parent has put there. */
CASE(inherited)
{
	for (int i = 0; i < 4; i++) {
		struct pair p = pair_new(), q;
		int ep = epoll_create1(0), pp[2];
		struct pollfd f = {.fd = ep, .events = POLLIN};
		pid_t pid;

		CHECK(!pipe(pp) && !add(ep, pp[0], EPOLLIN, 1) && !add(ep, p.s, EPOLLIN | (i & 1 ? EPOLLET : 0), 2));
		fflush(stdout);
		pid = fork();
		if (!pid) {
			pause_ms(PAUSE);
			if (i & 2)
				look_poll("child polls", &f, 1, LONG);
			look("child", ep, 4, LONG);
			fflush(stdout);
			_exit(0);
		}
		look("parent", ep, 4, 2 * PAUSE); /* where it learns of it */
		put(p.c, "a");
		finish(pid);
		drain(p.s);
		look("parent", ep, 4, 0);
		put(p.c, "b");
		look("parent", ep, 4, LONG);
		drain(p.s);
		q = pair_cold();
		CHECK(!add(ep, q.s, EPOLLIN, 3));
		warm(q);
		put(q.c, "c");
		look("later", ep, 4, LONG);
		close(p.c);
		close(p.s);
		close(q.c);
		close(q.s);
		close(ep);
	}
}

/* A child that does not use it changes nothing. */
CASE(inherited_unused)
{
	struct pair p = pair_new();
	int ep = epoll_create1(0);
	pid_t pid;

	CHECK(!add(ep, p.s, EPOLLIN, 1));
	fflush(stdout);
	pid = fork();
	if (!pid) {
		close(ep);
		_exit(0);
	}
	finish(pid);
	put(p.c, "a");
	look("parent", ep, 4, LONG);
}

/* An instance is passed to a process that does not know it. */
CASE(passed)
{
	struct pair p = pair_new();
	int ep = epoll_create1(0), un[2], copy, pp[2];
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} u = {.buf = {0}};
	char b;
	struct iovec v = {&b, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = u.buf, .msg_controllen = sizeof(u.buf)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	CHECK(!socketpair(AF_UNIX, SOCK_STREAM, 0, un) && !pipe(pp) && !add(ep, p.s, EPOLLIN, 1));
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(c), &ep, sizeof(ep));
	CHECK(sendmsg(un[0], &m, 0) == 1 && recvmsg(un[1], &m, 0) == 1);
	memcpy(&copy, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(copy));
	look("none", copy, 4, 0);
	put(p.c, "a");
	look("passed", copy, 4, LONG);
	look("own", ep, 4, LONG);
	drain(p.s);
	look("none", copy, 4, 0);
}

/* ---- threads ---- */

static _Atomic int woken, woken_events;
static int shared_ep;
static _Atomic bool stop_waiters;

static void *waiter_main(void *arg)
{
	(void)arg;
	while (!stop_waiters) {
		struct epoll_event e[4];
		int n = epoll_wait(shared_ep, e, 4, LONG);

		if (stop_waiters)
			break;
		woken++;
		woken_events += n;
		pause_ms(2 * PAUSE); /* busy, so others must take what comes */
	}
	return NULL;
}

static void waiters(int n, void (*body)(struct pair), struct pair p)
{
	pthread_t t[8];
	int wake = eventfd(0, 0);

	stop_waiters = false;
	woken = woken_events = 0;
	for (int i = 0; i < n; i++)
		pthread_create(&t[i], NULL, waiter_main, NULL);
	pause_ms(PAUSE);
	body(p);
	stop_waiters = true;
	CHECK(!add(shared_ep, wake, EPOLLIN, 99) && write(wake, &(uint64_t){1}, 8) == 8);
	for (int i = 0; i < n; i++)
		pthread_join(t[i], NULL);
	CHECK(!epoll_ctl(shared_ep, EPOLL_CTL_DEL, wake, NULL));
	close(wake);
}

static void one_event(struct pair p)
{
	put(p.c, "a");
	pause_ms(PAUSE);
	printf("woken %d\n", (int)woken);
}

static void three_events(struct pair p)
{
	for (int i = 0; i < 3; i++) {
		put(p.c, "a");
		pause_ms(PAUSE / 2);
	}
	printf("woken %d\n", (int)woken);
}

static void one_level(struct pair p)
{
	put(p.c, "a");
	pause_ms(PAUSE);
	printf("all woken %d\n", woken >= 4);
	drain(p.s);
	pause_ms(3 * PAUSE);
	woken = 0;
	pause_ms(3 * PAUSE);
	printf("quiet %d\n", (int)woken);
}

CASE(threads)
{
	static const uint32_t how[] = {EPOLLET, EPOLLET | EPOLLONESHOT};
	struct pair p;

	for (int i = 0; i < 2; i++) {
		p = pair_new();
		shared_ep = epoll_create1(0);
		CHECK(!add(shared_ep, p.s, EPOLLIN | how[i], 1));
		waiters(4, one_event, p);
		mod(shared_ep, p.s, EPOLLIN | how[i], 1);
		pause_ms(PAUSE);
		look("left", shared_ep, 4, 0);
		mod(shared_ep, p.s, EPOLLIN | how[i], 1);
		look("left", shared_ep, 4, LONG);
	}
	p = pair_new();
	shared_ep = epoll_create1(0);
	CHECK(!add(shared_ep, p.s, EPOLLIN | EPOLLET, 1));
	waiters(4, three_events, p);
	shared_ep = epoll_create1(0);
	CHECK(!add(shared_ep, p.s, EPOLLIN, 1));
	drain(p.s);
	waiters(4, one_level, p);
}

static int excl_ep[4];

static void *excl_main(void *arg)
{
	struct epoll_event e;

	if (epoll_wait(excl_ep[(intptr_t)arg], &e, 1, 4 * PAUSE) == 1)
		woken++;
	return NULL;
}

CASE(exclusive)
{
	static const uint32_t how[] = {EPOLLEXCLUSIVE, EPOLLEXCLUSIVE | EPOLLET, EPOLLET};

	for (int k = 0; k < 3; k++) {
		struct pair p = pair_new();
		pthread_t t[4];

		woken = 0;
		for (intptr_t i = 0; i < 4; i++) {
			excl_ep[i] = epoll_create1(0);
			CHECK(!add(excl_ep[i], p.s, EPOLLIN | how[k], 1));
			pthread_create(&t[i], NULL, excl_main, (void *)i);
		}
		pause_ms(PAUSE);
		put(p.c, "a");
		for (int i = 0; i < 4; i++)
			pthread_join(t[i], NULL);
		printf("woken %d\n", (int)woken);
	}
}

static void *close_wait_main(void *arg)
{
	struct epoll_event e;

	return (void *)(intptr_t)epoll_wait((int)(intptr_t)arg, &e, 1, LONG);
}

CASE(closed_while_waiting)
{
	for (int i = 0; i < 2; i++) {
		struct pair p = pair_new();
		int ep = epoll_create1(0), again;
		pthread_t t;
		void *ret;

		CHECK(!add(ep, p.s, EPOLLIN | (i ? EPOLLET : 0), 1));
		pthread_create(&t, NULL, close_wait_main, (void *)(intptr_t)ep);
		pause_ms(PAUSE);
		close(ep);
		again = epoll_create1(0);
		printf("same number %d\n", again == ep);
		pause_ms(PAUSE);
		put(p.c, "a");
		pthread_join(t, &ret);
		printf("%d\n", (int)(intptr_t)ret);
		close(again);
	}
}

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

/* ---- signals ---- */

static volatile sig_atomic_t hits;
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

CASE(interrupts)
{
	struct timeval limit = {LONG / 1000, 0};
	struct pair p = pair_new(), q = pair_new(), full = pair_new();
	int ep = epoll_create1(0);
	struct pollfd f = {.fd = p.s, .events = POLLIN};
	struct epoll_event e;
	char b[4096] = {0};
	fd_set r;

	CHECK(!add(ep, p.s, EPOLLIN, 1));
	setsockopt(q.s, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	for (int quiet = 0; quiet < 30; quiet++) {
		while (send(full.c, b, sizeof(b), MSG_DONTWAIT) > 0)
			quiet = 0;
		pause_ms(10);
	}
	for (int restart = 0; restart < 2; restart++) {
		handler(SIGALRM, on_signal, restart ? SA_RESTART : 0);
		alarm_every(PAUSE);
		printf("epoll %s", result(epoll_wait(ep, &e, 1, -1)));
		printf(" poll %s %x", result(poll(&f, 1, -1)), f.revents);
		FD_ZERO(&r);
		FD_SET(p.s, &r);
		printf(" select %s", result(select(p.s + 1, &r, NULL, NULL, NULL)));
		printf(" recv with limit %s", result((int)recv(q.s, b, 1, 0)));
		alarm_every(0);
		hits = 0;
		hit_fd = p.c;
		handler(SIGALRM, on_signal_send, restart ? SA_RESTART : 0);
		alarm_every(PAUSE);
		printf(" recv %s", result((int)recv(p.s, b, 1, 0)));
		if (!restart) {
			printf(" %s", result((int)recv(p.s, b, 1, 0)));
			printf(" send %s", result((int)send(full.c, b, sizeof(b), 0)));
		}
		alarm_every(0);
		pause_ms(PAUSE);
		drain(p.s);
		printf(" hits %d\n", hits >= 2);
	}
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

/* ---- main ---- */

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} all[] = {
		{"levels", case_levels},
		{"reset", case_reset},
		{"write_space", case_write_space},
		{"oneshot", case_oneshot},
		{"errors", case_errors},
		{"dup", case_dup},
		{"many", case_many},
		{"starve", case_starve},
		{"nested", case_nested},
		{"nested_poll", case_nested_poll},
		{"inherited", case_inherited},
		{"inherited_unused", case_inherited_unused},
		{"passed", case_passed},
		{"threads", case_threads},
		{"exclusive", case_exclusive},
		{"closed_while_waiting", case_closed_while_waiting},
		{"mixed", case_mixed},
		{"poll_many", case_poll_many},
		{"select_all", case_select_all},
		{"select_big", case_select_big},
		{"select_except", case_select_except},
		{"timeouts", case_timeouts},
		{"interrupts", case_interrupts},
		{"masks", case_masks},
		{"signals_among_wakes", case_signals_among_wakes},
		{"longjmp", case_longjmp},
		{"longjmp_busy", case_longjmp_busy},
		{"cancel", case_cancel},
		{"idle", case_idle},
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(0);
	for (size_t i = 0; argc > 1 && i < sizeof(all) / sizeof(*all); i++) {
		if (!strcmp(argv[1], all[i].name)) {
			setvbuf(stdout, NULL, _IOFBF, 1 << 16);
			all[i].run();
			return 0;
		}
	}
	return 2;
}
