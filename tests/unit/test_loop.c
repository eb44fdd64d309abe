/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The io_uring loop: watches, streams of reads, writes, timers, signals, and that nothing runs after its end. */
/* links: service/loop/loop.c service/loop/watch.c service/loop/io.c */
/* libs: -luring */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "service/base/clock.h"
#include "service/loop/loop.h"

struct env {
	struct loop *l;
	int fd, other_fd, handle, calls, turns, revents, signo;
	uint64_t failed, last_ns;
	char got[64][2100];
	int got_len[64], n;
};

static void guard(void *ctx, uint64_t now)
{
	(void)now;
	(void)ctx;
	fail_msg("the loop did not end in time");
}

static struct env *setup(void)
{
	static struct env e;

	memset(&e, 0, sizeof e);
	assert_int_equal(loop_open(64, &e.l), 0);
	assert_true(loop_timer(e.l, 3 * NS_PER_S, 0, guard, NULL) >= 0);
	return &e;
}

static void stop_timer(void *ctx, uint64_t now)
{
	struct env *e = ctx;

	e->last_ns = now;
	loop_stop(e->l);
}

static void on_event(void *ctx, int revents)
{
	struct env *e = ctx;
	uint64_t v;

	e->revents = revents;
	while (read(e->fd, &v, sizeof v) > 0)
		e->calls++;
	if (e->calls < 5) {
		v = 1;
		assert_int_equal(write(e->fd, &v, sizeof v), sizeof v);
	} else {
		loop_stop(e->l);
	}
}

static void test_watch_again_and_again(void **state)
{
	struct env *e = setup();
	uint64_t v = 1;

	(void)state;
	e->fd = eventfd(0, EFD_NONBLOCK);
	assert_true(loop_watch(e->l, e->fd, on_event, e) >= 0);
	assert_int_equal(write(e->fd, &v, sizeof v), sizeof v);
	assert_int_equal(loop_run(e->l), 0);
	assert_int_equal(e->calls, 5);
	assert_true(e->revents & POLLIN);
	loop_close(e->l);
	close(e->fd);
}

static void on_event_unwatch(void *ctx, int revents)
{
	struct env *e = ctx;
	uint64_t v = 1;

	(void)revents;
	e->calls++;
	assert_int_equal(write(e->fd, &v, sizeof v), sizeof v);
	loop_unwatch(e->l, e->handle);
	assert_int_equal(write(e->fd, &v, sizeof v), sizeof v);
}

static void test_unwatch_in_callback(void **state)
{
	struct env *e = setup();
	uint64_t v = 1;

	(void)state;
	e->fd = eventfd(0, EFD_NONBLOCK);
	e->handle = loop_watch(e->l, e->fd, on_event_unwatch, e);
	assert_true(e->handle >= 0);
	assert_int_equal(write(e->fd, &v, sizeof v), sizeof v);
	assert_true(loop_timer(e->l, 30 * NS_PER_MS, 0, stop_timer, e) >= 0);
	assert_int_equal(loop_run(e->l), 0);
	assert_int_equal(e->calls, 1);
	loop_unwatch(e->l, e->handle); /* stale: no effect */
	loop_close(e->l);
	close(e->fd);
}

static void on_two(void *ctx, int revents)
{
	struct env *e = ctx;

	(void)revents;
	e->calls++;
	loop_unwatch(e->l, e->handle);
	loop_unwatch(e->l, e->other_fd); /* the other watch's handle: its completion is already there */
}

static void test_unwatch_other_with_completion_pending(void **state)
{
	struct env *e = setup();
	int a = eventfd(1, EFD_NONBLOCK), b = eventfd(1, EFD_NONBLOCK);

	(void)state;
	e->handle = loop_watch(e->l, a, on_two, e);
	e->other_fd = loop_watch(e->l, b, on_two, e);
	assert_true(loop_timer(e->l, 30 * NS_PER_MS, 0, stop_timer, e) >= 0);
	assert_int_equal(loop_run(e->l), 0);
	assert_int_equal(e->calls, 1);
	loop_close(e->l);
	close(a);
	close(b);
}

static void never_poll(void *ctx, int revents)
{
	(void)ctx;
	(void)revents;
	fail_msg("called");
}

/* Slots come back: many more watches than the table holds, one after the other; too many at once are refused. */
static void test_slots_are_reused(void **state)
{
	struct env *e = setup();
	int fd = eventfd(0, EFD_NONBLOCK), h[64];

	(void)state;
	for (int i = 0; i < 1000; i++) {
		int handle = loop_watch(e->l, fd, never_poll, e);

		assert_true(handle >= 0);
		loop_unwatch(e->l, handle);
	}
	for (int i = 0; i < 64; i++) {
		h[i] = loop_watch(e->l, fd, never_poll, e);
		assert_true(h[i] >= 0);
	}
	assert_int_equal(loop_watch(e->l, fd, never_poll, e), -ENOBUFS);
	for (int i = 0; i < 64; i++)
		loop_unwatch(e->l, h[i]);
	loop_close(e->l);
	close(fd);
}

/* The peer sees the close when the turn ends, though a poll held the file. */
static void test_close_after_unwatch_is_seen(void **state)
{
	struct env *e = setup();
	int sv[2], handle;
	char c;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sv), 0);
	handle = loop_watch(e->l, sv[0], never_poll, e);
	assert_true(loop_timer(e->l, NS_PER_MS, 0, stop_timer, e) >= 0);
	assert_int_equal(loop_run(e->l), 0);
	loop_unwatch(e->l, handle);
	close(sv[0]);
	assert_true(loop_timer(e->l, NS_PER_MS, 0, stop_timer, e) >= 0);
	assert_int_equal(loop_run(e->l), 0);
	assert_int_equal(recv(sv[1], &c, 1, 0), 0);
	close(sv[1]);
	loop_close(e->l);
}

static void on_read(void *ctx, const uint8_t *data, int res)
{
	struct env *e = ctx;

	assert_true(res > 0 && e->n < 64);
	memcpy(e->got[e->n], data, (size_t)res);
	e->got_len[e->n++] = res;
	if (e->n == 60)
		loop_stop(e->l);
}

static void on_turn(void *ctx)
{
	struct env *e = ctx;

	e->turns++;
}

/* More frames than buffers, in order, through writes of the loop's own. */
static void stream_and_writes(bool nonblock)
{
	struct env *e = setup();
	char frame[2000];
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | (nonblock ? SOCK_NONBLOCK : 0), 0, sv), 0);
	loop_each_turn(e->l, on_turn, e);
	assert_int_equal(loop_stream_reads(e->l, sv[0], 4, 2048, on_read, e), 0);
	for (int i = 0; i < 60; i++) {
		memset(frame, i, sizeof frame);
		assert_int_equal(loop_write(e->l, sv[1], frame, 100 + (size_t)i, &e->failed), 0);
	}
	assert_int_equal(loop_run(e->l), 0);
	for (int i = 0; i < 60; i++) {
		assert_int_equal(e->got_len[i], 100 + i);
		assert_int_equal(e->got[i][0], i);
	}
	assert_int_equal(e->failed, 0);
	assert_true(e->turns > 0);
	loop_close(e->l);
	close(sv[0]);
	close(sv[1]);
}

static void test_stream_nonblocking(void **state)
{
	(void)state;
	stream_and_writes(true);
}

static void test_stream_blocking(void **state)
{
	(void)state;
	stream_and_writes(false);
}

static void test_writes_fail_and_run_out(void **state)
{
	struct env *e = setup();
	char big[70000] = {0}, c[16] = {0};
	int sv[2], queued = 0, rc = 0;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, sv), 0);
	assert_int_equal(loop_write(e->l, sv[1], big, sizeof big, NULL), -EMSGSIZE);
	assert_int_equal(loop_write(e->l, sv[1], big, 60000, NULL), 0);
	assert_int_equal(recv(sv[0], big, sizeof big, 0), 60000);
	close(sv[0]);
	while (queued < 2000 && !(rc = loop_write(e->l, sv[1], c, sizeof c, &e->failed)))
		queued++;
	assert_int_equal(queued, 512); /* the next one went directly, and failed at once */
	assert_true(rc < 0);
	assert_true(loop_timer(e->l, NS_PER_MS, 0, stop_timer, e) >= 0);
	assert_int_equal(loop_run(e->l), 0);
	assert_int_equal(e->failed, queued);
	assert_int_equal(loop_write(e->l, sv[1], c, sizeof c, &e->failed), 0); /* buffers came back */
	loop_close(e->l);
	close(sv[1]);
}

static void tick(void *ctx, uint64_t now)
{
	struct env *e = ctx;

	assert_true(now >= e->last_ns && now == loop_now_ns(e->l));
	e->last_ns = now;
	if (++e->calls == 5)
		loop_timer_cancel(e->l, e->handle); /* within its own callback */
}

static void never_timer(void *ctx, uint64_t now)
{
	(void)now;
	(void)ctx;
	fail_msg("cancelled timer ran");
}

static void cancel_other(void *ctx, uint64_t now)
{
	struct env *e = ctx;

	(void)now;
	loop_timer_cancel(e->l, e->other_fd);
}

static void test_timers(void **state)
{
	struct env *e = setup();
	uint64_t start = clock_now_ns();
	int h;

	(void)state;
	e->handle = loop_timer(e->l, 2 * NS_PER_MS, 2 * NS_PER_MS, tick, e);
	h = loop_timer(e->l, NS_PER_MS, 0, never_timer, e);
	loop_timer_cancel(e->l, h);
	assert_true(loop_timer(e->l, 5 * NS_PER_MS, 0, cancel_other, e) >= 0);
	e->other_fd = loop_timer(e->l, 5 * NS_PER_MS, 0, never_timer, e);
	usleep(6000); /* both are due in the same turn */
	assert_true(loop_timer(e->l, 60 * NS_PER_MS, 0, stop_timer, e) >= 0);
	loop_timer_cancel(e->l, h); /* stale */
	assert_int_equal(loop_run(e->l), 0);
	assert_int_equal(e->calls, 5);
	assert_true(clock_now_ns() - start >= 60 * NS_PER_MS);
	loop_close(e->l);
}

static void on_signal(void *ctx, int signo)
{
	struct env *e = ctx;

	e->signo = signo;
	loop_stop(e->l);
}

static void raise_usr1(void *ctx, uint64_t now)
{
	(void)ctx;
	(void)now;
	kill(getpid(), SIGUSR1);
}

static void test_signals(void **state)
{
	struct env *e = setup();
	sigset_t mask;

	(void)state;
	sigemptyset(&mask);
	sigaddset(&mask, SIGUSR1);
	assert_int_equal(pthread_sigmask(SIG_BLOCK, &mask, NULL), 0);
	assert_int_equal(loop_signals(e->l, &mask, on_signal, e), 0);
	assert_true(loop_timer(e->l, NS_PER_MS, 0, raise_usr1, e) >= 0);
	assert_int_equal(loop_run(e->l), 0);
	assert_int_equal(e->signo, SIGUSR1);
	loop_close(e->l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_watch_again_and_again),
		cmocka_unit_test(test_unwatch_in_callback),
		cmocka_unit_test(test_unwatch_other_with_completion_pending),
		cmocka_unit_test(test_slots_are_reused),
		cmocka_unit_test(test_close_after_unwatch_is_seen),
		cmocka_unit_test(test_stream_nonblocking),
		cmocka_unit_test(test_stream_blocking),
		cmocka_unit_test(test_writes_fail_and_run_out),
		cmocka_unit_test(test_timers),
		cmocka_unit_test(test_signals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
