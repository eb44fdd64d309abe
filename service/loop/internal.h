/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of service/loop/ share. Nobody else includes this. */
#ifndef SERVICE_LOOP_INTERNAL_H
#define SERVICE_LOOP_INTERNAL_H

#include <liburing.h>

#include "service/base/clock.h"
#include "service/base/compiler.h"
#include "service/loop/loop.h"

#define CQ_ENTRIES_MIN 4096
#define TIMERS_MAX 256
#define TURN_FNS_MAX 8
#define STREAMS_MAX 4
#define STREAM_RETRY_NS (100 * NS_PER_MS) /* after a read error: the device may come back */
#define WRITE_BUFS 512
#define WRITE_BUF_SIZE 4096
#define GEN_MASK 0xffffffu
#define HANDLE_GEN_MASK 0x7fffu

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

static inline uint64_t request_data(enum request_kind kind, uint32_t gen, uint32_t index)
{
	return (uint64_t)kind << 56 | (uint64_t)(gen & GEN_MASK) << 32 | index;
}

static inline int handle_make(uint32_t gen, uint32_t index)
{
	return (int)((gen & HANDLE_GEN_MASK) << 16 | index);
}

/* loop.c: a submission entry; a full queue is submitted first. NULL: the kernel takes nothing now. */
struct io_uring_sqe *loop_sqe(struct loop *l);

/* watch.c: watches, timers, signals */
void loop_watch_arm(struct loop *l, uint32_t index);
void loop_watch_complete(struct loop *l, uint32_t gen, uint32_t index, int res, uint32_t flags);
uint64_t loop_timers_next(const struct loop *l); /* when the nearest is due; UINT64_MAX: none */
void loop_timers_run(struct loop *l);

/* io.c: streams of reads, writes */
void loop_stream_arm(struct loop *l, uint32_t index);
void loop_stream_complete(struct loop *l, uint32_t index, int res, uint32_t flags);
void loop_streams_close(struct loop *l); /* after the ring is closed */
void loop_write_complete(struct loop *l, uint32_t index, int res);

#endif
