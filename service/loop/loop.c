/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The main thread's io_uring loop: control socket, TAP, netlink, timers, signals.
 *
 * One turn: submit what the last turn queued and sleep; take every completion; run the
 * timers that are due; call the end-of-turn callbacks. The queued writes of a turn thus
 * leave with one system call, in order.
 *
 * The TAP is read by one multishot read with a ring of provided buffers (kernel 6.7 on):
 * frames complete in order, and a frame wakes one request instead of every read in flight.
 * On older kernels one read at a time is kept in flight through the same code.
 * Timers are a small table looked through once per turn; the nearest one bounds the sleep.
 *
 * A completion carries the kind, the index and the generation of its request in user_data.
 * Ending a watch changes its generation, so that completions still on their way find
 * nobody: no callback runs after its unwatch or cancel. Main thread only; after
 * loop_open() nothing is allocated but the buffers of loop_stream_reads().
 */
#include "service/loop/loop.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "service/base/clock.h"
#include "service/base/compiler.h"

#define SQ_ENTRIES 256
#define CQ_ENTRIES_MIN 4096
#define REQUESTS_MAX 65535
#define TIMERS_MAX 256
#define TURN_FNS_MAX 8
#define STREAMS_MAX 4
#define STREAM_DEPTH_MAX 4096
#define STREAM_RETRY_NS (100 * NS_PER_MS) /* after a read error: the device may come back */
#define WRITE_BUFS 512
#define WRITE_BUF_SIZE 4096
#define WRITE_MAX 65536 /* beyond a buffer's size: written directly, what is queued leaves first */
#define GEN_MASK 0xffffffu
#define HANDLE_GEN_MASK 0x7fffu

#define OP_READ_MULTISHOT 49 /* IORING_OP_READ_MULTISHOT, newer than liburing 2.3 */

enum request_kind { REQ_IGNORE, REQ_WATCH, REQ_STREAM, REQ_WRITE };

struct watch {
	loop_poll_fn *cb; /* NULL: free */
	void *ctx;
	int fd;
	uint32_t gen;
	uint32_t next_free;
	bool armed; /* the kernel has, or will get with the next submit, a poll for it */
};

struct timer {
	loop_timer_fn *cb; /* NULL: free */
	void *ctx;
	uint64_t due_ns, period_ns;
	uint32_t gen;
};

struct stream {
	loop_read_fn *cb; /* NULL: unused */
	void *ctx;
	int fd;
	int opcode;
	struct io_uring_buf_ring *ring;
	uint8_t *mem;
	size_t mem_size, buf_size;
	uint32_t depth;    /* power of two */
	uint64_t retry_ns; /* not before this time */
	bool armed;
};

struct write_buf {
	uint64_t *failed;
	size_t len;
	uint32_t next_free;
};

struct turn_fn {
	loop_idle_fn *cb;
	void *ctx;
};

struct loop {
	struct io_uring ring;
	uint64_t now_ns;
	bool stopped;
	uint32_t unarmed; /* watches and streams that found no room in the submission queue, or wait to be retried */

	uint32_t watches, watch_free, watch_free_tail;
	struct watch *watch;
	struct timer timer[TIMERS_MAX];
	uint32_t timers; /* highest used + 1 */
	struct stream stream[STREAMS_MAX];
	struct write_buf write[WRITE_BUFS];
	uint32_t write_free;
	uint8_t *write_mem;
	struct turn_fn turn[TURN_FNS_MAX];
	uint32_t turns;

	int signal_fd;
	loop_signal_fn *signal_cb;
	void *signal_ctx;
};

#define NONE UINT32_MAX

static uint64_t request_data(enum request_kind kind, uint32_t gen, uint32_t index)
{
	return (uint64_t)kind << 56 | (uint64_t)(gen & GEN_MASK) << 32 | index;
}

static int handle_make(uint32_t gen, uint32_t index)
{
	return (int)((gen & HANDLE_GEN_MASK) << 16 | index);
}

/* A submission entry; when the queue is full what is queued is submitted first. NULL: the kernel takes nothing now. */
static struct io_uring_sqe *loop_sqe(struct loop *l)
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

static size_t stream_ring_size(uint32_t depth)
{
	return depth * sizeof(struct io_uring_buf);
}

void loop_close(struct loop *l)
{
	if (!l)
		return;
	/* first the ring: the kernel lets go of the buffers */
	io_uring_queue_exit(&l->ring);
	for (uint32_t i = 0; i < STREAMS_MAX; i++) {
		if (!l->stream[i].cb)
			continue;
		munmap(l->stream[i].mem, l->stream[i].mem_size);
		munmap(l->stream[i].ring, stream_ring_size(l->stream[i].depth));
	}
	if (l->signal_fd >= 0)
		close(l->signal_fd);
	munmap(l->write_mem, (size_t)WRITE_BUFS * WRITE_BUF_SIZE);
	free(l->watch);
	free(l);
}

/* ---- watches ---- */

static void watch_arm(struct loop *l, uint32_t index)
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
	watch_arm(l, index);
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
			io_uring_prep_poll_remove(sqe, request_data(REQ_WATCH, w->gen, index));
			io_uring_sqe_set_data64(sqe, request_data(REQ_IGNORE, 0, 0));
		}
	}
	watch_free(l, index);
}

static void watch_complete(struct loop *l, uint32_t gen, uint32_t index, int res, uint32_t flags)
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
		watch_arm(l, index);
}

/* ---- streams of reads ---- */

static uint8_t *stream_buf(const struct stream *st, uint32_t bid)
{
	return st->mem + (size_t)bid * st->buf_size;
}

static void stream_buf_give(struct stream *st, uint32_t bid)
{
	io_uring_buf_ring_add(st->ring, stream_buf(st, bid), (unsigned)st->buf_size, (unsigned short)bid,
			      io_uring_buf_ring_mask(st->depth), 0);
	io_uring_buf_ring_advance(st->ring, 1);
}

static void stream_arm(struct loop *l, uint32_t index)
{
	struct stream *st = &l->stream[index];
	struct io_uring_sqe *sqe = st->retry_ns > l->now_ns ? NULL : loop_sqe(l);

	st->armed = sqe != NULL;
	if (!sqe) {
		l->unarmed++;
		return;
	}
	/* A multishot read takes its length from the buffer it selects and must say 0 itself. */
	io_uring_prep_rw(st->opcode, sqe, st->fd, NULL, st->opcode == OP_READ_MULTISHOT ? 0 : (unsigned)st->buf_size,
			 (uint64_t)-1);
	sqe->flags |= IOSQE_BUFFER_SELECT;
	sqe->buf_group = (uint16_t)index;
	io_uring_sqe_set_data64(sqe, request_data(REQ_STREAM, 0, index));
}

static int stream_buffers_open(struct loop *l, struct stream *st, uint32_t index)
{
	struct io_uring_buf_reg reg = {.ring_entries = st->depth, .bgid = (uint16_t)index};
	void *ring =
		mmap(NULL, stream_ring_size(st->depth), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int rc;

	if (ring == MAP_FAILED)
		return -ENOMEM;
	st->mem_size = st->depth * st->buf_size;
	st->mem = mmap(NULL, st->mem_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (st->mem == MAP_FAILED) {
		munmap(ring, stream_ring_size(st->depth));
		return -ENOMEM;
	}
	reg.ring_addr = (uint64_t)(uintptr_t)ring;
	rc = io_uring_register_buf_ring(&l->ring, &reg, 0);
	if (rc) {
		munmap(st->mem, st->mem_size);
		munmap(ring, stream_ring_size(st->depth));
		return rc;
	}
	st->ring = ring;
	io_uring_buf_ring_init(st->ring);
	for (uint32_t i = 0; i < st->depth; i++)
		stream_buf_give(st, i);
	return 0;
}

int loop_stream_reads(struct loop *l, int fd, unsigned depth, size_t size, loop_read_fn *cb, void *ctx)
{
	struct stream *st = NULL;
	uint32_t index;
	int rc;

	if (fd < 0 || !cb || !depth || depth > STREAM_DEPTH_MAX || !size || size > WRITE_MAX)
		return -EINVAL;
	for (index = 0; index < STREAMS_MAX && l->stream[index].cb; index++)
		;
	if (index == STREAMS_MAX)
		return -ENOBUFS;
	st = &l->stream[index];
	st->depth = 1;
	while (st->depth < depth)
		st->depth *= 2;
	st->buf_size = (size + CACHELINE - 1) & ~(size_t)(CACHELINE - 1);
	rc = stream_buffers_open(l, st, index);
	if (rc)
		return rc;
	st->fd = fd;
	st->cb = cb;
	st->ctx = ctx;
	st->opcode = OP_READ_MULTISHOT;
	stream_arm(l, index);
	return 0;
}

/* A kernel without multishot reads gets single ones; other errors are told to the callback and tried again later. */
static void stream_failed(struct loop *l, struct stream *st, int res)
{
	if (res == -ENOBUFS || res == -EAGAIN || res == -EINTR)
		return;
	if (st->opcode == OP_READ_MULTISHOT && (res == -EINVAL || res == -EOPNOTSUPP)) {
		st->opcode = IORING_OP_READ;
		return;
	}
	st->retry_ns = l->now_ns + STREAM_RETRY_NS;
	st->cb(st->ctx, NULL, res);
}

static void stream_complete(struct loop *l, uint32_t index, int res, uint32_t flags)
{
	struct stream *st;

	if (index >= STREAMS_MAX || !l->stream[index].cb)
		return;
	st = &l->stream[index];
	if (flags & IORING_CQE_F_BUFFER) {
		uint32_t bid = flags >> IORING_CQE_BUFFER_SHIFT;

		if (res > 0)
			st->cb(st->ctx, stream_buf(st, bid), res);
		stream_buf_give(st, bid);
	}
	if (res < 0)
		stream_failed(l, st, res);
	else if (res == 0) /* end of file: look again later */
		st->retry_ns = l->now_ns + STREAM_RETRY_NS;
	if (!(flags & IORING_CQE_F_MORE))
		stream_arm(l, index);
}

/* ---- writes ---- */

static int write_direct(struct loop *l, int fd, const void *data, size_t len)
{
	if (len > WRITE_MAX)
		return -EMSGSIZE;
	if (io_uring_sq_ready(&l->ring))
		io_uring_submit(&l->ring);
	if (write(fd, data, len) >= 0)
		return 0;
	return errno == EAGAIN || errno == ENOMEM ? -ENOBUFS : -errno;
}

int loop_write(struct loop *l, int fd, const void *data, size_t len, uint64_t *failed)
{
	uint32_t index = l->write_free;
	struct io_uring_sqe *sqe;
	struct write_buf *wb;

	/* too long for a buffer, or a burst that took them all: what is queued leaves first, then this */
	if (len > WRITE_BUF_SIZE || index == NONE)
		return write_direct(l, fd, data, len);
	sqe = loop_sqe(l);
	if (!sqe)
		return -ENOBUFS;
	wb = &l->write[index];
	l->write_free = wb->next_free;
	wb->failed = failed;
	wb->len = len;
	memcpy(l->write_mem + (size_t)index * WRITE_BUF_SIZE, data, len);
	io_uring_prep_write(sqe, fd, l->write_mem + (size_t)index * WRITE_BUF_SIZE, (unsigned)len, (uint64_t)-1);
	io_uring_sqe_set_data64(sqe, request_data(REQ_WRITE, 0, index));
	return 0;
}

static void write_complete(struct loop *l, uint32_t index, int res)
{
	struct write_buf *wb;

	if (index >= WRITE_BUFS)
		return;
	wb = &l->write[index];
	if ((res < 0 || (size_t)res != wb->len) && wb->failed)
		(*wb->failed)++;
	wb->next_free = l->write_free;
	l->write_free = index;
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

static void timers_run(struct loop *l)
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
static uint64_t timers_next(const struct loop *l)
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
		watch_complete(l, gen, index, cqe->res, cqe->flags);
		break;
	case REQ_STREAM:
		stream_complete(l, index, cqe->res, cqe->flags);
		break;
	case REQ_WRITE:
		write_complete(l, index, cqe->res);
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
			stream_arm(l, i);
	for (uint32_t i = 0; i < l->watches; i++)
		if (l->watch[i].cb && !l->watch[i].armed)
			watch_arm(l, i);
}

/* Submit and sleep until something completes or a timer is due. */
static int loop_wait(struct loop *l)
{
	uint64_t next = timers_next(l), now = clock_now_ns(), ns;
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
		timers_run(l);
		loop_rearm(l);
		for (uint32_t i = 0; i < l->turns; i++)
			l->turn[i].cb(l->turn[i].ctx);
	}
	/* what the last turn queued still leaves */
	io_uring_submit(&l->ring);
	return 0;
}
