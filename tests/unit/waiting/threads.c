/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Several threads that wait for the same sockets, and closing under them. */
#define _GNU_SOURCE 1
#include "tests/unit/waiting/lab.h"

#include <sys/eventfd.h>

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
