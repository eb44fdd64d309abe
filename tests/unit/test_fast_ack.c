/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The ACK field: validity, duplicate ACKs and recovery, window updates, RTT, congestion echo. */
/* links: service/fast/fast.c service/fast/thread.c service/fast/command.c service/fast/input.c service/fast/local.c service/fast/rx.c service/fast/ack.c service/fast/tx.c service/fast/pacer.c service/fast/timer.c service/fast/wheel.c service/fast/app.c service/fast/up.c service/fast/flow.c service/fast/flow_table.c service/tcp/rtt.c service/tcp/reasm.c service/base/hash.c service/ipc/recring.c service/ipc/record.c service/ipc/wake.c service/wire/parse.c service/wire/options.c service/wire/csum.c service/wire/build.c */
/* libs: -lpthread */
#include "fast_lab.h"

static struct lab_host *h;
static uint64_t now;

static void turn(uint64_t us)
{
	now += us * LAB_US;
	thread_turn(h->t, now);
}

static uint32_t drain(void)
{
	struct segment s;
	uint32_t n = 0;

	while (lab_sent(h, &s))
		n++;
	return n;
}

static uint64_t acked(void)
{
	return atomic_load(&h->slot->snd_acked);
}

/* A flow with @bytes in flight. */
static void start(uint32_t bytes, bool sack, bool ecn)
{
	struct flow_init i = lab_init(1, 2, 0xffffff00u, 0x7fffff00u);

	i.sack = sack;
	i.ecn = i.ect = ecn;
	h = lab_open();
	now = 5000 * LAB_MS;
	lab_install(h, &i, now);
	lab_write(h, 1, bytes);
	turn(1);
	turn(1);
	assert_int_equal(drain(), (bytes + LAB_MSS - 1) / LAB_MSS);
}

static int setup(void **state)
{
	(void)state;
	start(10000, false, false);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	lab_close(h);
	return 0;
}

static void ack_moves_una_and_opens_the_way(void **state)
{
	(void)state;
	lab_send(h, (struct lab_seg){.ack = 2500, .window = 512, .tsecr = 5000});
	turn(1000);
	assert_int_equal(acked(), 2500);
	lab_send(h, (struct lab_seg){.ack = 10000, .window = 512});
	turn(1);
	assert_int_equal(acked(), 10000);
	assert_int_equal(lab_counter(h, CNT_ACKED_BYTES), 10000);
	assert_int_equal(lab_flow(h)->rto_ns, 0);
}

static void ack_of_the_unsent_is_challenged(void **state)
{
	struct segment s;

	(void)state;
	lab_send(h, (struct lab_seg){.ack = 10001, .window = 512, .len = 10});
	lab_send(h, (struct lab_seg){.ack = 10000 + (1u << 31), .window = 512});
	turn(1);
	assert_int_equal(acked(), 0);
	assert_int_equal(atomic_load(&h->slot->rcv_end), 0);
	assert_int_equal(lab_counter(h, CNT_DROP_ACK), 2);
	assert_true(lab_sent(h, &s) && s.ack == 0);
	assert_false(lab_sent(h, &s));
}

static void old_acks_do_nothing_ancient_ones_drop(void **state)
{
	(void)state;
	lab_send(h, (struct lab_seg){.ack = 5000, .window = 512});
	turn(1);
	drain();
	lab_send(h, (struct lab_seg){.ack = 4000, .window = 1, .len = 10});
	turn(1);
	assert_int_equal(acked(), 5000);
	assert_int_equal(lab_flow(h)->snd_wnd, 65536);
	assert_int_equal(atomic_load(&h->slot->rcv_end), 10);
	lab_send(h, (struct lab_seg){.seq = 10, .ack = 5000u - 70000, .window = 512, .len = 10});
	turn(1);
	assert_int_equal(atomic_load(&h->slot->rcv_end), 10);
}

static void three_duplicates_send_the_first_again(void **state)
{
	struct segment s;

	(void)state;
	for (int i = 0; i < 2; i++)
		lab_send(h, (struct lab_seg){.ack = 0, .window = 512});
	turn(1);
	assert_int_equal(drain(), 0);
	lab_send(h, (struct lab_seg){.ack = 0, .window = 512});
	turn(1);
	assert_true(lab_sent(h, &s));
	assert_int_equal(s.seq, 0);
	assert_int_equal(s.len, LAB_MSS);
	assert_int_equal(lab_counter(h, CNT_REXMIT_FAST), 1);
	assert_int_equal(lab_flow(h)->cwnd, 5000);
	lab_send(h, (struct lab_seg){.ack = 3000, .window = 512}); /* partial: the next hole */
	turn(1);
	assert_true(lab_sent(h, &s));
	assert_int_equal(s.seq, 3000);
	lab_send(h, (struct lab_seg){.ack = 10000, .window = 512});
	turn(1);
	assert_int_equal(lab_flow(h)->flags & FLOW_RECOVERY, 0);
	assert_int_equal(lab_counter(h, CNT_REXMIT_FAST), 1);
	assert_int_equal(lab_counter(h, CNT_REXMIT_SEGMENTS), 2);
}

static void what_is_no_duplicate_does_not_count(void **state)
{
	(void)state;
	for (uint16_t i = 0; i < 4; i++) {
		lab_send(h, (struct lab_seg){.ack = 0, .window = (uint16_t)(300 + i)}); /* window update */
		lab_send(h, (struct lab_seg){.seq = i * 10u, .ack = 0, .window = (uint16_t)(300 + i), .len = 10});
	}
	turn(1);
	assert_int_equal(lab_counter(h, CNT_REXMIT_FAST), 0);
}

static void forged_duplicates_do_not_inflate(void **state)
{
	uint32_t sent = 0;

	(void)state;
	lab_write(h, 1, 50000);
	for (int i = 0; i < 200; i++)
		lab_send(h, (struct lab_seg){.ack = 0, .window = 512});
	for (int i = 0; i < 50; i++) {
		turn(1);
		sent += drain();
	}
	assert_true(sent <= 15);
}

static void window_updates_by_wl1(void **state)
{
	(void)state;
	lab_send(h, (struct lab_seg){.seq = 0, .ack = 0, .window = 600, .len = 10});
	lab_send(h, (struct lab_seg){.seq = 10, .ack = 0, .window = 100, .len = 10});
	turn(1);
	assert_int_equal(lab_flow(h)->snd_wnd, 100 << 7);
	lab_send(h, (struct lab_seg){.seq = 5, .ack = 0, .window = 50, .len = 30}); /* older segment */
	turn(1);
	assert_int_equal(lab_flow(h)->snd_wnd, 100 << 7);
}

static void rtt_is_measured_once_per_flight(void **state)
{
	(void)state;
	lab_send(h, (struct lab_seg){.ack = 10000, .window = 512});
	turn(3000);
	assert_in_range(lab_flow(h)->rtt.min_us, 1000, 3010);
	assert_in_range(lab_flow(h)->rtt.srtt_us, 1200, 1300); /* 1000 + (3001 - 1000) / 8 */
}

static void after_a_timeout_only_timestamps_measure(void **state)
{
	uint32_t srtt = lab_flow(h)->rtt.srtt_us, ts = flow_ts_now(lab_flow(h), now);

	(void)state;
	turn(400000);
	assert_int_equal(lab_counter(h, CNT_REXMIT_TIMEOUT), 1);
	assert_int_equal(drain(), 1);
	lab_send(h, (struct lab_seg){.ack = 1000, .window = 512, .tsecr = ts});
	turn(1);
	assert_true(lab_flow(h)->rtt.srtt_us > srtt + 40000); /* the first copy was acknowledged */
}

static void congestion_echo_is_counted_and_answered(void **state)
{
	struct segment s;

	(void)state;
	teardown(NULL);
	start(5000, false, true);
	lab_send(h, (struct lab_seg){.ack = 2000, .window = 512, .flags = TCP_ACK | TCP_ECE});
	lab_send(h, (struct lab_seg){.ack = 3000, .window = 512, .flags = TCP_ACK | TCP_ECE});
	lab_send(h, (struct lab_seg){.ack = 4000, .window = 512});
	turn(1);
	assert_int_equal(atomic_load(&fast_stats(h->fast, LAB_FLOW)->ecn_bytes), 3000);
	lab_write(h, 1, 2000);
	turn(1);
	assert_true(lab_sent(h, &s) && s.flags & TCP_CWR && s.ecn == 2);
	assert_true(lab_sent(h, &s) && !(s.flags & TCP_CWR));
}

static void space_is_told_once(void **state)
{
	uint64_t news;

	(void)state;
	lab_write(h, 1, 60000);
	turn(1);
	atomic_store(&h->slot->want, IPC_WANT_SPACE);
	atomic_store(&h->shm->context[0].armed, 1);
	lab_send(h, (struct lab_seg){.ack = 5000, .window = 512});
	turn(1);
	assert_true(read(h->context_fd, &news, sizeof news) < 0); /* less than a third is free */
	for (uint32_t to = 10000; to <= 65536 / 2; to += 5000) {
		for (int i = 0; i < 3; i++)
			turn(1);
		lab_send(h, (struct lab_seg){.ack = to > lab_flow(h)->snd_max ? (uint32_t)lab_flow(h)->snd_max : to,
					     .window = 512});
		turn(1);
		drain();
	}
	assert_true(read(h->context_fd, &news, sizeof news) == sizeof news && news == 1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(ack_moves_una_and_opens_the_way),
		T(ack_of_the_unsent_is_challenged),
		T(old_acks_do_nothing_ancient_ones_drop),
		T(three_duplicates_send_the_first_again),
		T(what_is_no_duplicate_does_not_count),
		T(forged_duplicates_do_not_inflate),
		T(window_updates_by_wl1),
		T(rtt_is_measured_once_per_flight),
		T(after_a_timeout_only_timestamps_measure),
		T(congestion_echo_is_counted_and_answered),
		T(space_is_told_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
