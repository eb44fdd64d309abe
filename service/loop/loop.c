/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The main thread's io_uring loop: control socket, TAP, netlink, timers, signals.
 *
 * One turn: submit what the last turn queued and sleep; take every completion; run the
 * timers that are due; call the end-of-turn callbacks. The queued writes of a turn thus
 * leave with one system call, in order.
 *
 * A completion carries the kind, the index and the generation of its request in user_data.
 * Ending a watch changes its generation, so that completions still on their way find
 * nobody: no callback runs after its unwatch or cancel. Main thread only; after
 * loop_open() nothing is allocated but the buffers of loop_stream_reads().
 */
#include "service/loop/loop.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "service/loop/internal.h"

#define SQ_ENTRIES 256
#define REQUESTS_MAX 65535

/* A submission entry; when the queue is full what is queued is submitted first. NULL: the kernel takes nothing now. */
struct io_uring_sqe *loop_sqe(struct loop *l)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&l->ring);

	if (!sqe && io_uring_submit(&l->ring) >= 0)
		sqe = io_uring_get_sqe(&l->ring);
	return sqe;
}

/* ---- opening ---- */

static int loop_ring_open(struct io_uring *ring, unsigned requests)
{
	/* newest first: completions run only in our wait; no interrupts for them; plain */
	static const unsigned flags[] = {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
					 IORING_SETUP_COOP_TASKRUN, 0};
	struct io_uring_params p;
	int rc = -EINVAL;

	for (unsigned i = 0; i < ARRAY_SIZE(flags) && rc == -EINVAL; i++) {
		memset(&p, 0, sizeof p);
		p.flags = flags[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
		p.cq_entries = MAX(requests * 2, (unsigned)CQ_ENTRIES_MIN);
		rc = io_uring_queue_init_params(SQ_ENTRIES, ring, &p);
	}
	if (rc)
		return rc;
	if (!(p.features & IORING_FEAT_EXT_ARG) || !(p.features & IORING_FEAT_NODROP)) {
		io_uring_queue_exit(ring);
		return -ENOSYS;
	}
	io_uring_ring_dontfork(ring);
	return 0;
}

static void loop_tables_init(struct loop *l, unsigned requests)
{
	l->watches = requests;
	for (uint32_t i = 0; i < requests; i++)
		l->watch[i].next_free = i + 1 < requests ? i + 1 : NONE;
	l->watch_free_tail = requests - 1;
	for (uint32_t i = 0; i < WRITE_BUFS; i++)
		l->write[i].next_free = i + 1 < WRITE_BUFS ? i + 1 : NONE;
	l->signal_fd = -1;
	l->now_ns = clock_now_ns();
}

int loop_open(unsigned requests, struct loop **out)
{
	struct loop *l;
	int rc;

	if (!requests || requests > REQUESTS_MAX)
		return -EINVAL;
	l = calloc(1, sizeof *l);
	if (!l)
		return -ENOMEM;
	l->watch = calloc(requests, sizeof *l->watch);
	l->write_mem = mmap(NULL, (size_t)WRITE_BUFS * WRITE_BUF_SIZE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	rc = l->watch && l->write_mem != MAP_FAILED ? loop_ring_open(&l->ring, requests) : -ENOMEM;
	if (rc) {
		if (l->write_mem != MAP_FAILED)
			munmap(l->write_mem, (size_t)WRITE_BUFS * WRITE_BUF_SIZE);
		free(l->watch);
		free(l);
		return rc;
	}
	loop_tables_init(l, requests);
	*out = l;
	return 0;
}

void loop_close(struct loop *l)
{
	if (!l)
		return;
	/* first the ring: the kernel lets go of the buffers */
	io_uring_queue_exit(&l->ring);
	loop_streams_close(l);
	if (l->signal_fd >= 0)
		close(l->signal_fd);
	munmap(l->write_mem, (size_t)WRITE_BUFS * WRITE_BUF_SIZE);
	free(l->watch);
	free(l);
}

/* ---- the turn ---- */

void loop_each_turn(struct loop *l, loop_idle_fn *cb, void *ctx)
{
	if (l->turns < TURN_FNS_MAX)
		l->turn[l->turns++] = (struct turn_fn){.cb = cb, .ctx = ctx};
}

uint64_t loop_now_ns(const struct loop *l)
{
	return l->now_ns;
}

void loop_stop(struct loop *l)
{
	l->stopped = true;
}

static void loop_complete(struct loop *l, const struct io_uring_cqe *cqe)
{
	uint64_t data = cqe->user_data;
	uint32_t index = (uint32_t)data, gen = (uint32_t)(data >> 32) & GEN_MASK;

	switch ((enum request_kind)(data >> 56)) {
	case REQ_WATCH:
		loop_watch_complete(l, gen, index, cqe->res, cqe->flags);
		break;
	case REQ_STREAM:
		loop_stream_complete(l, index, cqe->res, cqe->flags);
		break;
	case REQ_WRITE:
		loop_write_complete(l, index, cqe->res);
		break;
	case REQ_IGNORE:
		break;
	}
}

/* Everything there is, but not for ever: the end-of-turn callbacks have to run. */
static void loop_completions(struct loop *l)
{
	struct io_uring_cqe *cqe, copy;

	for (uint32_t n = 0; n < CQ_ENTRIES_MIN && !io_uring_peek_cqe(&l->ring, &cqe); n++) {
		copy = *cqe;
		io_uring_cqe_seen(&l->ring, cqe);
		loop_complete(l, &copy);
	}
}

static void loop_rearm(struct loop *l)
{
	if (!l->unarmed)
		return;
	l->unarmed = 0;
	for (uint32_t i = 0; i < STREAMS_MAX; i++)
		if (l->stream[i].cb && !l->stream[i].armed)
			loop_stream_arm(l, i);
	for (uint32_t i = 0; i < l->watches; i++)
		if (l->watch[i].cb && !l->watch[i].armed)
			loop_watch_arm(l, i);
}

/* Submit and sleep until something completes or a timer is due. */
static int loop_wait(struct loop *l)
{
	uint64_t next = loop_timers_next(l), now = clock_now_ns(), ns;
	struct __kernel_timespec ts;
	struct io_uring_cqe *cqe;
	int rc;

	if (l->unarmed)
		next = MIN(next, now + STREAM_RETRY_NS / 10);
	ns = next > now ? next - now : 0;
	ts.tv_sec = (long long)(ns / NS_PER_S);
	ts.tv_nsec = (long long)(ns % NS_PER_S);
	rc = io_uring_submit_and_wait_timeout(&l->ring, &cqe, 1, next == UINT64_MAX ? NULL : &ts, NULL);
	l->now_ns = clock_now_ns();
	return rc >= 0 || rc == -ETIME || rc == -EINTR || rc == -EAGAIN || rc == -EBUSY ? 0 : rc;
}

int loop_run(struct loop *l)
{
	int rc;

	l->stopped = false;
	while (!l->stopped) {
		rc = loop_wait(l);
		if (rc)
			return rc;
		loop_completions(l);
		loop_timers_run(l);
		loop_rearm(l);
		for (uint32_t i = 0; i < l->turns; i++)
			l->turn[i].cb(l->turn[i].ctx);
	}
	/* what the last turn queued still leaves */
	io_uring_submit(&l->ring);
	return 0;
}
