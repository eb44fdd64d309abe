/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Two flows of one thread that share the memory of both directions: cursors move, bytes do not. */
/* links: service/fast/fast.c service/fast/thread.c service/fast/command.c service/fast/input.c service/fast/local.c service/fast/rx.c service/fast/ack.c service/fast/tx.c service/fast/pacer.c service/fast/timer.c service/fast/wheel.c service/fast/app.c service/fast/up.c service/fast/flow.c service/fast/flow_table.c service/tcp/rtt.c service/tcp/reasm.c service/base/hash.c service/ipc/recring.c service/ipc/record.c service/ipc/wake.c service/wire/parse.c service/wire/options.c service/wire/csum.c service/wire/build.c */
/* libs: -lpthread */
#include "fast_pair.h"

/* The transmit buffer of each is the receive buffer of the other one. */
static int direct(void **state)
{
	setup(state);
	memset(region, MARK, sizeof region);
	for (uint32_t i = 0; i < 2; i++) {
		struct fast_region r = {.index = i, .buf = region[i], .size = REGION_SIZE};

		lab_command(h, CMD_REGION, &r, sizeof r);
	}
	a.init.rx_size = a.init.tx_size = b.init.rx_size = b.init.tx_size = REGION_SIZE;
	a.init.rx_off = a.init.tx_off = b.init.rx_off = b.init.tx_off = 0;
	a.init.tx_region = b.init.rx_region = 1;
	b.init.tx_region = a.init.rx_region = 2;
	return 0;
}

static uint64_t free_before(const struct end *e)
{
	return atomic_load(&tx_slot(e)->snd_acked);
}

static void bytes_arrive_where_they_were_written(void **state)
{
	uint64_t sent[2];

	(void)state;
	pair();
	converse(11, 20000, sent);
	assert_int_equal(free_before(&a), sent[0]);
	assert_int_equal(lab_counter(h, CNT_LOCAL_BYTES), sent[0] + sent[1]);
	assert_int_equal(a.tx->buf[0], MARK); /* their own memory is not used */
	assert_int_equal(b.rx->buf[0], MARK);
	assert_int_equal(lab_counter(h, CNT_APP_BAD_RECORD), 0);
}

/* What was not read may not be overwritten, and half of it is not even shown. */
static void the_writer_waits_for_the_reader(void **state)
{
	(void)state;
	pair();
	assert_int_equal(put(&a, 1 << 20), REGION_SIZE);
	turns();
	assert_int_equal(delivered(&b), REGION_SIZE / 2);
	assert_int_equal(free_before(&a), 0);
	assert_false(turn()); /* it need not be looked at */
	assert_int_equal(take(&b, 1000), 1000);
	turns();
	assert_int_equal(free_before(&a), 1000);
	assert_int_equal(delivered(&b), REGION_SIZE / 2 + 1000);
	assert_int_equal(atomic_load(&h->page->moved[a.init.flow_id]), REGION_SIZE / 2 + 1000);
	for (uint32_t got = 1000; got < REGION_SIZE; turns())
		got += take(&b, 5000);
	assert_int_equal(free_before(&a), REGION_SIZE);
}

static void who_waits_for_room_is_woken_by_the_reader(void **state)
{
	(void)state;
	pair();
	put(&a, REGION_SIZE);
	atomic_store(&tx_slot(&a)->want, IPC_WANT_SPACE);
	arm();
	turns();
	assert_true(is_woken(b.rx));
	assert_false(is_woken(a.tx)); /* moved, but not read */
	arm();
	take(&b, 16000);
	turns();
	assert_true(is_woken(a.tx));
}

static void the_end_comes_after_all_bytes(void **state)
{
	(void)state;
	pair();
	put(&a, 20000);
	command(&a, CMD_CLOSE, 0, 0);
	turns();
	assert_false(status(&b) & IPC_ST_FIN);
	assert_int_equal(take(&b, 1 << 20), 16384);
	turns();
	assert_true(status(&b) & IPC_ST_FIN);
	assert_int_equal(take(&b, 1 << 20), 20000 - 16384);
}

/* What was unread stays so when the flow stands still for a while. */
static void frozen_and_installed_again(void **state)
{
	struct up_frozen z;

	(void)state;
	pair();
	put(&a, 5000);
	turns();
	take(&b, 1000);
	turns();
	command(&a, CMD_FREEZE, 0, 0);
	turns();
	assert_int_equal(lab_up(h, &z, sizeof z), UP_FROZEN);
	assert_int_equal(z.snd_una, 5000);
	assert_int_equal(z.tx_free, 1000);
	take(&b, 500);
	turns();
	a.init.snd_una = a.init.snd_nxt = a.init.snd_end = z.snd_end;
	a.init.tx_free = z.tx_free;
	install(&a, b.init.flow_id);
	assert_int_equal(free_before(&a), 1000);
	turns();
	assert_int_equal(free_before(&a), 1500);
	assert_int_equal(put(&a, 100), 100);
	turns();
	assert_int_equal(take(&b, 1 << 20), 3600);
}

/* The receiving half has gone to another process: from the common memory to a buffer of its own. */
static void a_reader_of_its_own(void **state)
{
	(void)state;
	b.init.rx_region = 0;
	b.init.rx_size = 8192;
	pair();
	assert_int_equal(put(&a, 10000), 10000);
	turns();
	assert_int_equal(delivered(&b), 8192);
	assert_int_equal(free_before(&a), 8192); /* copied is enough */
	assert_int_equal(take(&b, 1 << 20), 8192);
	turns();
	assert_int_equal(take(&b, 1 << 20), 1808);
	assert_int_equal(free_before(&a), 10000);
	assert_int_equal(put(&b, 300), 300); /* the other direction is as it was */
	turns();
	assert_int_equal(free_before(&b), 0);
	assert_int_equal(take(&a, 1000), 300);
	turns();
	assert_int_equal(free_before(&b), 300);
}

/* Nobody can name memory that does not exist, or go beyond its end. */
static void a_region_is_bounded(void **state)
{
	static const struct {
		uint32_t region;
		uint64_t off;
	} bad[] = {{3, 0}, {FAST_REGIONS + 1, 0}, {1, 1}, {1, UINT64_MAX - 100}};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		teardown(state);
		direct(state);
		a.init.tx_region = bad[i].region;
		a.init.tx_off = bad[i].off;
		install(&a, FLOW_NONE);
		turns();
		expect_up(UP_FAILED, a.init.flow_id, EINVAL);
	}
}

#define T(name) cmocka_unit_test_setup_teardown(name, direct, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(bytes_arrive_where_they_were_written),
		T(the_writer_waits_for_the_reader),
		T(who_waits_for_room_is_woken_by_the_reader),
		T(the_end_comes_after_all_bytes),
		T(frozen_and_installed_again),
		T(a_reader_of_its_own),
		T(a_region_is_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
