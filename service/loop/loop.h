/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The main thread's loop: one io_uring drives every descriptor of the slow path. No
 * callback may block. All functions are called on the loop's thread.
 *
 * Requests live in a table of fixed size made at start; a callback gets its own context
 * and the result (bytes or -errno).
 */
#ifndef SERVICE_LOOP_LOOP_H
#define SERVICE_LOOP_LOOP_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct loop;

/* @requests: how many operations may be in flight. Returns 0 or -errno (-ENOSYS: no io_uring: the caller says so). */
int loop_open(unsigned requests, struct loop **out);
void loop_close(struct loop *l);

/* Serve until loop_stop(). Returns 0 or -errno. */
int loop_run(struct loop *l);
void loop_stop(struct loop *l);
/* Monotonic time read once per turn of the loop. */
uint64_t loop_now_ns(const struct loop *l);

/*
 * Watch @fd for readability: @cb is called each time there is something to read, until
 * loop_unwatch() (multishot poll). The callback reads until EAGAIN, and gets the poll's
 * revents. Returns a handle >= 0 or -errno.
 */
typedef void loop_poll_fn(void *ctx, int revents);
int loop_watch(struct loop *l, int fd, loop_poll_fn *cb, void *ctx);
/* May be called from within its own callback, which is never called again after. */
void loop_unwatch(struct loop *l, int handle);

/*
 * Keep reading @fd (the TAP) into @depth buffers of up to @size bytes; @cb gets each frame, in
 * the order of arrival, and the buffer is read into again when it returns. An error comes as
 * @data NULL and @res -errno, and reading goes on 100 ms later.
 */
typedef void loop_read_fn(void *ctx, const uint8_t *data, int res);
int loop_stream_reads(struct loop *l, int fd, unsigned depth, size_t size, loop_read_fn *cb, void *ctx);
/*
 * Queue a write of @len bytes (copied into a buffer of the loop's). Writes queued during one
 * turn are submitted together, in order of queuing; more than 4096 bytes are written at once,
 * after what was queued before. Returns 0, -ENOBUFS when the kernel takes nothing now, -EMSGSIZE
 * beyond 64 KiB. @failed, if not NULL, is increased by each write that fails later.
 */
int loop_write(struct loop *l, int fd, const void *data, size_t len, uint64_t *failed);
/* What was queued is written now, not at the end of the turn. */
void loop_flush(struct loop *l);

/* A periodic or one-shot timer. @period_ns 0: one-shot. Returns a handle or -errno. */
typedef void loop_timer_fn(void *ctx, uint64_t now_ns);
int loop_timer(struct loop *l, uint64_t first_ns_from_now, uint64_t period_ns, loop_timer_fn *cb, void *ctx);
void loop_timer_cancel(struct loop *l, int handle);

/* Signals in @mask (blocked by the caller in all threads) are delivered to @cb through a signalfd. */
typedef void loop_signal_fn(void *ctx, int signo);
int loop_signals(struct loop *l, const sigset_t *mask, loop_signal_fn *cb, void *ctx);

/* Call @cb at the end of every turn, after all completions and before sleeping (e.g. to flush batches). */
typedef void loop_idle_fn(void *ctx);
void loop_each_turn(struct loop *l, loop_idle_fn *cb, void *ctx);

#endif
