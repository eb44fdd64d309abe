/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * epoll_wait() in one thread: levels and edges, many descriptors, instances in instances, and
 * instances that a child or another process uses.
 */
#define _GNU_SOURCE 1
#include "tests/unit/waiting/lab.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>

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
