/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What wakes the loop without bytes of its own: descriptors that become readable (multishot
 * polls), timers, signals. Main thread.
 *
 * Ending a watch changes its generation, so that no callback runs after its unwatch. Timers are
 * a small table looked through once per turn; the nearest one bounds the sleep.
 */
#include <errno.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "service/loop/internal.h"

/* ---- watches ---- */

void loop_watch_arm(struct loop *l, uint32_t index)
{
	struct watch *w = &l->watch[index];
	struct io_uring_sqe *sqe = loop_sqe(l);

	w->armed = sqe != NULL;
	if (!sqe) {
		l->unarmed++;
		return;
	}
	io_uring_prep_poll_multishot(sqe, w->fd, POLLIN);
	io_uring_sqe_set_data64(sqe, request_data(REQ_WATCH, w->gen, index));
}

int loop_watch(struct loop *l, int fd, loop_poll_fn *cb, void *ctx)
{
	uint32_t index = l->watch_free;
	struct watch *w;

	if (fd < 0 || !cb)
		return -EINVAL;
	if (index == NONE)
		return -ENOBUFS;
	w = &l->watch[index];
	l->watch_free = w->next_free;
	w->cb = cb;
	w->ctx = ctx;
	w->fd = fd;
	loop_watch_arm(l, index);
	return handle_make(w->gen, index);
}

/* The oldest free slot is used first, so that a stale handle or completion meets a new generation late. */
static void watch_free(struct loop *l, uint32_t index)
{
	struct watch *w = &l->watch[index];

	w->cb = NULL;
	w->gen = (w->gen + 1) & GEN_MASK;
	w->next_free = NONE;
	if (l->watch_free == NONE)
		l->watch_free = index;
	else
		l->watch[l->watch_free_tail].next_free = index;
	l->watch_free_tail = index;
}

void loop_unwatch(struct loop *l, int handle)
{
	uint32_t index = (uint32_t)handle & 0xffff;
	struct io_uring_sqe *sqe;
	struct watch *w;

	if (handle < 0 || index >= l->watches)
		return;
	w = &l->watch[index];
	if (!w->cb || handle != handle_make(w->gen, index))
		return;
	if (w->armed) {
		/* The poll holds the file: a descriptor closed now is closed for its peer when the turn ends. */
		sqe = loop_sqe(l);
		if (sqe) {
			/* not a poll removal: that one fails, and the poll stays for good, while an event is on its way */
			io_uring_prep_cancel64(sqe, request_data(REQ_WATCH, w->gen, index), 0);
			io_uring_sqe_set_data64(sqe, request_data(REQ_IGNORE, 0, 0));
		}
	}
	watch_free(l, index);
}

void loop_watch_complete(struct loop *l, uint32_t gen, uint32_t index, int res, uint32_t flags)
{
	struct watch *w;

	if (index >= l->watches)
		return;
	w = &l->watch[index];
	if (!w->cb || w->gen != gen)
		return;
	if (!(flags & IORING_CQE_F_MORE))
		w->armed = false;
	if (res == -ECANCELED || res == -EINTR)
		res = 0;
	if (res)
		w->cb(w->ctx, res < 0 ? POLLERR | POLLNVAL : res);
	/* the poll ended by itself (full completion queue): arm it again, unless the callback ended the watch */
	if (w->cb && w->gen == gen && !w->armed && res >= 0)
		loop_watch_arm(l, index);
}

/* ---- timers ---- */

int loop_timer(struct loop *l, uint64_t first_ns_from_now, uint64_t period_ns, loop_timer_fn *cb, void *ctx)
{
	uint32_t i = 0;

	if (!cb)
		return -EINVAL;
	while (i < l->timers && l->timer[i].cb)
		i++;
	if (i == TIMERS_MAX)
		return -ENOBUFS;
	if (i == l->timers)
		l->timers++;
	l->timer[i].cb = cb;
	l->timer[i].ctx = ctx;
	l->timer[i].due_ns = clock_now_ns() + first_ns_from_now;
	l->timer[i].period_ns = period_ns;
	return handle_make(l->timer[i].gen, i);
}

static void timer_free(struct timer *t)
{
	t->cb = NULL;
	t->gen++;
}

void loop_timer_cancel(struct loop *l, int handle)
{
	uint32_t i = (uint32_t)handle & 0xffff;

	if (handle >= 0 && i < l->timers && l->timer[i].cb && handle == handle_make(l->timer[i].gen, i))
		timer_free(&l->timer[i]);
}

void loop_timers_run(struct loop *l)
{
	uint64_t now = l->now_ns;

	for (uint32_t i = 0; i < l->timers; i++) {
		struct timer *t = &l->timer[i];
		loop_timer_fn *cb = t->cb;
		void *ctx = t->ctx;

		if (!cb || t->due_ns > now)
			continue;
		if (t->period_ns) {
			t->due_ns += t->period_ns;
			if (t->due_ns <= now) /* late by more than a period: ticks are lost, not stored up */
				t->due_ns = now + t->period_ns;
		} else {
			timer_free(t);
		}
		cb(ctx, now);
	}
	while (l->timers && !l->timer[l->timers - 1].cb)
		l->timers--;
}

/* When must the loop wake up at the latest? UINT64_MAX: no timer. */
uint64_t loop_timers_next(const struct loop *l)
{
	uint64_t next = UINT64_MAX;

	for (uint32_t i = 0; i < l->timers; i++)
		if (l->timer[i].cb && l->timer[i].due_ns < next)
			next = l->timer[i].due_ns;
	return next;
}

/* ---- signals ---- */

static void signals_readable(void *ctx, int revents)
{
	struct signalfd_siginfo si;
	struct loop *l = ctx;

	(void)revents;
	while (read(l->signal_fd, &si, sizeof si) == (ssize_t)sizeof si)
		l->signal_cb(l->signal_ctx, (int)si.ssi_signo);
}

int loop_signals(struct loop *l, const sigset_t *mask, loop_signal_fn *cb, void *ctx)
{
	int rc;

	if (l->signal_fd >= 0)
		return -EBUSY;
	l->signal_fd = signalfd(-1, mask, SFD_NONBLOCK | SFD_CLOEXEC);
	if (l->signal_fd < 0)
		return -errno;
	l->signal_cb = cb;
	l->signal_ctx = ctx;
	rc = loop_watch(l, l->signal_fd, signals_readable, l);
	if (rc < 0) {
		close(l->signal_fd);
		l->signal_fd = -1;
		return rc;
	}
	return 0;
}
