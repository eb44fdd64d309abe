/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the cases share, see lab.h. No test depends on how long anything takes: what must not
 * happen is looked for after PAUSE.
 */
#define _GNU_SOURCE 1
#include "tests/unit/waiting/lab.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>

void check(bool ok, const char *file, int line)
{
	if (ok)
		return;
	printf("%s:%d: %s\n", file, line, strerror(errno));
	exit(1);
}

void pause_ms(int ms)
{
	struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

	while (nanosleep(&t, &t))
		;
}

struct pair pair_cold(void)
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

void warm(struct pair p)
{
	char b;

	for (int i = 0; i < 3; i++)
		CHECK(send(p.c, "w", 1, 0) == 1 && recv(p.s, &b, 1, 0) == 1 && send(p.s, "w", 1, 0) == 1 &&
		      recv(p.c, &b, 1, 0) == 1);
	pause_ms(40);
}

struct pair pair_new(void)
{
	struct pair p = pair_cold();

	warm(p);
	return p;
}

void put(int fd, const char *text)
{
	CHECK(send(fd, text, strlen(text), 0) == (ssize_t)strlen(text));
	pause_ms(20);
}

void drain(int fd)
{
	char b[4096];

	while (recv(fd, b, sizeof(b), MSG_DONTWAIT) > 0)
		;
}

const char *result(int n)
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

int add(int ep, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event e = {.events = events, .data.u64 = data};

	return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
}

int mod(int ep, int fd, uint32_t events, uint64_t data)
{
	struct epoll_event e = {.events = events, .data.u64 = data};

	return epoll_ctl(ep, EPOLL_CTL_MOD, fd, &e);
}

static int compare(const void *a, const void *b)
{
	const struct epoll_event *x = a, *y = b;

	return x->data.u64 < y->data.u64 ? -1 : x->data.u64 > y->data.u64;
}

int look(const char *what, int ep, int max, int ms)
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

void gather(const char *what, int ep, int want)
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

void look_poll(const char *what, struct pollfd *p, nfds_t n, int ms)
{
	printf("%s: %s", what, result(poll(p, n, ms)));
	for (nfds_t i = 0; i < n; i++)
		printf(" %x", p[i].revents);
	printf("\n");
}

void act_send(int fd)
{
	CHECK(send(fd, "x", 1, 0) == 1);
}
void act_close(int fd)
{
	close(fd);
}
void act_shutdown(int fd)
{
	shutdown(fd, SHUT_WR);
}
void act_drain(int fd)
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

void later(struct later *l, void (*act)(int), int fd)
{
	*l = (struct later){.fd = fd, .ms = PAUSE, .act = act};
	CHECK(!pthread_create(&l->thread, NULL, later_main, l));
}

void joined(struct later *l)
{
	pthread_join(l->thread, NULL);
}
