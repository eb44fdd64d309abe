/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Closing in threads of its own: three lanes, so that what is known to be slow waits only for
 * its like: ordinary sockets, sockets with SO_LINGER, and everything that is no socket. The
 * choice is a hint: an application may set SO_LINGER a moment later. So a timer interrupts
 * each close that takes longer than CLOSER_LIMIT_NS, which ends the wait of a lingering socket:
 * its owner has closed it before us and does not wait for anything. Nothing interrupts a file
 * system; that lane may stand still.
 */
#include "service/base/closer.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CLOSER_LIMIT_NS 2000000
#define CLOSER_SIGNAL (SIGRTMIN + 3)

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid
#endif

enum lane_kind { LANE_SOCKET, LANE_LINGER, LANE_FILE, LANES };

static struct lane {
	pthread_mutex_t lock;
	pthread_cond_t news;
	int *fds; /* what waits: count from first on, in a ring of room (a power of two) */
	uint32_t first, count, room;
} lanes[LANES];
static bool running;

static void closer_interrupt(int signo)
{
	(void)signo;
}

static int lane_take(struct lane *l)
{
	int fd;

	pthread_mutex_lock(&l->lock);
	while (!l->count)
		pthread_cond_wait(&l->news, &l->lock);
	fd = l->fds[l->first++ & (l->room - 1)];
	l->count--;
	pthread_mutex_unlock(&l->lock);
	return fd;
}

static void *lane_run(void *arg)
{
	/* again and again, as the first one may come just before the sleep */
	const struct itimerspec limit = {.it_value = {.tv_nsec = CLOSER_LIMIT_NS},
					 .it_interval = {.tv_nsec = CLOSER_LIMIT_NS}},
				off = {0};
	struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = CLOSER_SIGNAL};
	bool timed;
	timer_t timer;

	ev.sigev_notify_thread_id = (pid_t)syscall(SYS_gettid);
	timed = timer_create(CLOCK_MONOTONIC, &ev, &timer) == 0;
	for (;;) {
		int fd = lane_take(arg);

		if (timed)
			timer_settime(timer, 0, &limit, NULL);
		close(fd);
		if (timed)
			timer_settime(timer, 0, &off, NULL);
	}
	return NULL;
}

static int lane_open(struct lane *l)
{
	pthread_attr_t attr;
	pthread_t thread;
	int rc;

	pthread_mutex_init(&l->lock, NULL);
	pthread_cond_init(&l->news, NULL);
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	rc = pthread_create(&thread, &attr, lane_run, l);
	pthread_attr_destroy(&attr);
	return -rc;
}

int closer_open(void)
{
	struct sigaction sa = {.sa_handler = closer_interrupt};
	int rc = sigaction(CLOSER_SIGNAL, &sa, NULL) ? -errno : 0;

	for (int i = 0; i < LANES && !rc; i++)
		rc = lane_open(&lanes[i]);
	running = !rc;
	return rc;
}

/* The lane's lock held. False: no memory. */
static bool lane_room(struct lane *l)
{
	uint32_t room = l->room ? l->room * 2 : 64;
	int *fds;

	if (l->count < l->room)
		return true;
	fds = malloc(room * sizeof *fds);
	if (!fds)
		return false;
	for (uint32_t i = 0; i < l->count; i++)
		fds[i] = l->fds[(l->first + i) & (l->room - 1)];
	free(l->fds);
	l->fds = fds;
	l->first = 0;
	l->room = room;
	return true;
}

static enum lane_kind closer_lane(int fd)
{
	struct linger linger = {0};
	socklen_t len = sizeof linger;

	if (getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &len))
		return errno == ENOTSOCK ? LANE_FILE : LANE_SOCKET;
	return linger.l_onoff && linger.l_linger ? LANE_LINGER : LANE_SOCKET;
}

void closer_close(int fd)
{
	struct lane *l;
	bool queued;

	if (fd < 0)
		return;
	if (!running) {
		close(fd);
		return;
	}
	l = &lanes[closer_lane(fd)];
	pthread_mutex_lock(&l->lock);
	queued = lane_room(l);
	if (queued)
		l->fds[(l->first + l->count++) & (l->room - 1)] = fd;
	pthread_cond_signal(&l->news);
	pthread_mutex_unlock(&l->lock);
	if (!queued)
		close(fd);
}

uint32_t closer_backlog(void)
{
	uint32_t n = 0;

	for (int i = 0; running && i < LANE_FILE; i++) {
		pthread_mutex_lock(&lanes[i].lock);
		n += lanes[i].count;
		pthread_mutex_unlock(&lanes[i].lock);
	}
	return n;
}
