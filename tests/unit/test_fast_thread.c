/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A running fast thread: it sleeps when idle, and every kind of news wakes it; none is lost. */
/* links: service/fast/fast.c service/fast/thread.c service/fast/command.c service/fast/input.c service/fast/local.c service/fast/rx.c service/fast/ack.c service/fast/tx.c service/fast/pacer.c service/fast/timer.c service/fast/wheel.c service/fast/app.c service/fast/up.c service/fast/flow.c service/fast/flow_table.c service/tcp/rtt.c service/tcp/reasm.c service/base/hash.c service/ipc/recring.c service/ipc/record.c service/ipc/wake.c service/wire/parse.c service/wire/options.c service/wire/csum.c service/wire/build.c */
/* libs: -lpthread */
#include "fast_lab.h"

#include <poll.h>

static struct lab_host *h;
static int doorbell;

/* Wait, for at most two seconds, until @cond holds. */
#define wait_for(cond)                                         \
	do {                                                   \
		uint64_t end_ = clock_now_ns() + 2 * NS_PER_S; \
		while (!(cond) && clock_now_ns() < end_)       \
			usleep(50);                            \
		assert_true(cond);                             \
	} while (0)

static bool readable(int fd)
{
	struct pollfd p = {fd, POLLIN, 0};
	uint64_t n;

	if (poll(&p, 1, 2000) != 1)
		return false;
	return read(fd, &n, sizeof n) == sizeof n;
}

/* What the library does after it has stored a record. */
static void ring(void)
{
	uint64_t one = 1;

	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load(&h->page->thread[0].armed))
		assert_int_equal(write(doorbell, &one, sizeof one), sizeof one);
}

static void arrive(struct lab_seg g)
{
	uint8_t frame[LAB_FRAME];
	uint32_t len = lab_build(h, g, frame);

	lab_command(h, CMD_RX_FRAME, frame, len);
	fast_kick(h->fast, 0);
}

static uint64_t sent(void)
{
	return counter_get(fast_counters(h->fast, 0), CNT_TX_BYTES);
}

static int setup(void **state)
{
	struct flow_init i = lab_init(1, 2, 1000, 2000);
	struct fast_app add = {.app = LAB_APP, .buf_size = 1 << 21};
	struct cmd_app gone = {.app = LAB_APP};

	(void)state;
	h = lab_open();
	doorbell = eventfd(0, EFD_NONBLOCK);
	h->init = i;
	h->nic.port.tx_room = LAB_RING;
	atomic_store(&h->slot->opts, i.opts);
	assert_int_equal(fast_start(h->fast), 0);
	/* the application again, this time with a doorbell */
	lab_command(h, CMD_APP_DEL, &gone, sizeof gone);
	add.shm = h->shm;
	add.buf = h->buf;
	add.doorbell_fd = doorbell;
	for (int k = 0; k < IPC_CONTEXTS; k++)
		add.context_fd[k] = k ? -1 : h->context_fd;
	lab_command(h, CMD_APP_ADD, &add, sizeof add);
	lab_command(h, CMD_INSTALL, &i, sizeof i);
	fast_kick(h->fast, 0);
	wait_for(IPC_STATE(atomic_load(&h->slot->status)) == IPC_FAST);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	fast_stop(h->fast);
	close(doorbell);
	lab_close(h);
	return 0;
}

static void idle_means_asleep(void **state)
{
	uint64_t before;

	(void)state;
	wait_for(fast_is_asleep(h->fast, 0));
	before = counter_get(fast_counters(h->fast, 0), CNT_FAST_SLEEP);
	usleep(300000);
	assert_true(counter_get(fast_counters(h->fast, 0), CNT_FAST_SLEEP) - before < 5);
	assert_true(clock_now_ns() - fast_last_turn_ns(h->fast, 0) < 2 * NS_PER_S);
}

static void the_application_wakes_it(void **state)
{
	(void)state;
	wait_for(fast_is_asleep(h->fast, 0));
	lab_write(h, 1, 100);
	ring();
	wait_for(sent() == 100);
}

static void it_wakes_the_application(void **state)
{
	(void)state;
	wait_for(fast_is_asleep(h->fast, 0)); /* it has told of the installation */
	atomic_store(&h->shm->context[0].armed, 1);
	arrive((struct lab_seg){.len = 50, .window = 512});
	assert_true(readable(h->context_fd));
	assert_int_equal(lab_read(h, 0, 100), 50);
}

static void it_wakes_the_slow_path(void **state)
{
	(void)state;
	wait_for(fast_is_asleep(h->fast, 0));
	while (lab_up(h, NULL, 0) >= 0)
		; /* UP_APP_GONE of the set-up */
	assert_true(fast_slow_sleeps(h->fast));
	arrive((struct lab_seg){.window = 512, .flags = TCP_ACK | TCP_FIN});
	assert_true(readable(fast_up_fd(h->fast)));
	wait_for(!recring_empty(fast_up(h->fast, 0)));
	assert_int_equal(lab_up(h, NULL, 0), UP_FIN_RCVD);
}

static void timers_wake_it(void **state)
{
	(void)state;
	lab_write(h, 1, 10);
	ring();
	wait_for(counter_get(fast_counters(h->fast, 0), CNT_REXMIT_TIMEOUT) == 1);
}

static void no_wake_up_is_lost(void **state)
{
	(void)state;
	srand(11);
	for (uint32_t i = 0; i < 1000; i++) {
		if (rand() % 2)
			usleep((useconds_t)rand() % 200);
		assert_int_equal(lab_write(h, 1, 1), 1);
		ring();
		wait_for(sent() == i + 1);
		arrive((struct lab_seg){.seq = i, .ack = i + 1, .len = 1, .window = 512});
		wait_for(atomic_load(&h->slot->snd_acked) == i + 1);
		assert_int_equal(lab_read(h, 0, 10), 1);
		if (i % 100 == 99) { /* make room in the port, which nobody empties */
			fast_stop(h->fast);
			h->nic.port.tx_n = 0;
			atomic_store(&h->fast->stop, 0);
			assert_int_equal(fast_start(h->fast), 0);
		}
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(idle_means_asleep),      T(the_application_wakes_it), T(it_wakes_the_application),
		T(it_wakes_the_slow_path), T(timers_wake_it),           T(no_wake_up_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
