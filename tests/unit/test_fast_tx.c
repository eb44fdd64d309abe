/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What leaves: segmentation, Nagle, cork, windows, pacing, persist, time-outs, close, reset, the boundary. */
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

static uint32_t drain(uint32_t *bytes)
{
	struct segment s;
	uint32_t n = 0;

	for (*bytes = 0; lab_sent(h, &s); n++)
		*bytes += s.len;
	return n;
}

static void start(uint32_t opts, uint32_t snd_wnd, uint64_t rate)
{
	struct flow_init i = lab_init(1, 2, 0xffffff00u, 0x7fffff00u);

	i.opts = opts;
	i.snd_wnd = snd_wnd;
	i.rate_bps = rate;
	h = lab_open();
	now = 5000 * LAB_MS;
	lab_install(h, &i, now);
}

static int setup(void **state)
{
	(void)state;
	start(IPC_OPT_NODELAY, 65536, 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	lab_close(h);
	return 0;
}

static void restart(uint32_t opts, uint32_t snd_wnd, uint64_t rate)
{
	lab_close(h);
	start(opts, snd_wnd, rate);
}

static void segments_are_full_and_the_last_pushed(void **state)
{
	struct segment s;

	(void)state;
	lab_write(h, 1, 2500);
	turn(1);
	for (uint32_t at = 0; at < 2500; at += LAB_MSS) {
		assert_true(lab_sent(h, &s));
		assert_int_equal(s.seq, at);
		assert_int_equal(s.len, at == 2000 ? 500 : LAB_MSS);
		assert_int_equal((s.flags & TCP_PSH) != 0, at == 2000);
		assert_true(s.opt.has_ts && s.opt.tsecr == 5000);
		for (uint32_t i = 0; i < s.len; i++)
			assert_int_equal(s.payload[i], lab_byte(1, at + i));
	}
	assert_false(lab_sent(h, &s));
}

static void burst_and_cwnd_limit(void **state)
{
	uint32_t bytes;

	(void)state;
	lab_write(h, 1, 30000);
	turn(1);
	assert_int_equal(drain(&bytes), FAST_TX_BURST);
	turn(1);
	assert_int_equal(drain(&bytes), 10 - FAST_TX_BURST);
	turn(1);
	assert_int_equal(drain(&bytes), 0);
	assert_int_equal(atomic_load(&fast_stats(h->fast, LAB_FLOW)->limited_ns), now - LAB_US);
}

static void limits_are_taken_over(void **state)
{
	struct flow_limits *l = fast_limits(h->fast, LAB_FLOW);
	uint32_t bytes;

	(void)state;
	l->cwnd_bytes = 3 * LAB_MSS;
	l->gen = 7;
	lab_write(h, 1, 30000);
	turn(1);
	assert_int_equal(drain(&bytes), 3);
}

static void nagle_holds_the_second_small_one(void **state)
{
	uint32_t bytes;

	(void)state;
	restart(0, 65536, 0);
	lab_write(h, 1, 100);
	turn(1);
	assert_int_equal(drain(&bytes), 1);
	lab_write(h, 1, 100);
	turn(1);
	assert_int_equal(drain(&bytes), 0);
	lab_send(h, (struct lab_seg){.ack = 100, .window = 512});
	turn(1);
	assert_int_equal(drain(&bytes), 1);
	lab_write(h, 1, 50);
	turn(1);
	atomic_store(&h->slot->opts, IPC_OPT_NODELAY);
	bell_ring(&h->shm->dirty[0], LAB_SLOT);
	turn(1);
	assert_int_equal(drain(&bytes), 1);
}

/* As on Linux: only what is small and unacknowledged itself holds the next small one. */
static void nagle_lets_the_end_of_a_longer_write_go(void **state)
{
	uint32_t bytes;

	(void)state;
	restart(0, 65536, 0);
	lab_write(h, 1, 1300);
	turn(1);
	assert_int_equal(drain(&bytes), 2);
	assert_int_equal(bytes, 1300);
	lab_write(h, 1, 1100); /* behind the 300, which are not acknowledged: the full segment goes, the 100 wait */
	turn(1);
	assert_int_equal(drain(&bytes), 1);
	assert_int_equal(bytes, 1000);
	lab_send(h, (struct lab_seg){.ack = 1300, .window = 512});
	turn(1);
	assert_int_equal(drain(&bytes), 1);
	assert_int_equal(bytes, 100);
}

static void cork_holds_for_200_ms(void **state)
{
	uint32_t bytes;

	(void)state;
	restart(IPC_OPT_CORK, 65536, 0);
	lab_write(h, 1, 1100);
	turn(1);
	assert_int_equal(drain(&bytes), 1);
	assert_int_equal(bytes, 1000);
	lab_send(h, (struct lab_seg){.ack = 1000, .window = 512});
	turn(190000);
	assert_int_equal(drain(&bytes), 0);
	turn(11000);
	drain(&bytes);
	assert_int_equal(bytes, 100);
	lab_write(h, 1, 10);
	turn(1);
	assert_int_equal(drain(&bytes), 0); /* corked again */
}

static void silly_window_is_not_used(void **state)
{
	uint32_t bytes;

	(void)state;
	restart(IPC_OPT_NODELAY, 4500, 0);
	lab_write(h, 1, 10000);
	turn(1);
	assert_int_equal(drain(&bytes), 4);
	assert_int_equal(bytes, 4000);
}

static void rate_is_kept(void **state)
{
	uint32_t bytes, total = 0;

	(void)state;
	restart(IPC_OPT_NODELAY, 65536, 1000000);
	lab_flow(h)->cwnd = 100000;
	lab_write(h, 1, 60000);
	for (int i = 0; i < 200; i++) { /* 20 ms */
		turn(100);
		drain(&bytes);
		total += bytes;
	}
	assert_in_range(total, 19000, 24000);
	assert_true(thread_next_ns(h->t) <= now + 2 * LAB_MS);
}

static void closed_window_is_probed_ever_more_rarely(void **state)
{
	uint64_t last = 0, gap = 0;
	uint32_t probes = 0;
	struct segment s;

	(void)state;
	restart(IPC_OPT_NODELAY, 0, 0);
	lab_write(h, 1, 3000);
	for (int i = 0; i < 40000; i++) { /* 400 s */
		turn(10000);
		while (lab_sent(h, &s)) {
			assert_int_equal(s.seq, 0);
			assert_int_equal(s.len, 1);
			probes++;
			if (last)
				assert_true(now - last + 20 * LAB_MS >= gap && now - last <= 61 * NS_PER_S);
			gap = last ? now - last : 0;
			last = now;
			lab_send(h, (struct lab_seg){.ack = 0, .window = 0});
		}
	}
	assert_in_range(probes, 10, 20);
	assert_int_equal(lab_counter(h, CNT_REXMIT_FAST), 0);
	lab_send(h, (struct lab_seg){.ack = 0, .window = 512});
	turn(1);
	for (uint32_t at = 0; at < 3000; at += 1000)
		assert_true(lab_sent(h, &s) && s.seq == at && s.len == 1000);
}

static void timeouts_double_and_give_up(void **state)
{
	uint64_t last, gap = 0;
	uint32_t n = 0, type;
	struct up_flow u;
	struct segment s;

	(void)state;
	lab_write(h, 1, 3000);
	turn(1);
	while (lab_sent(h, &s))
		;
	last = now;
	for (int i = 0; i < 200000 && !(atomic_load(&h->slot->status) & IPC_ST_ERROR); i++) {
		turn(10000);
		while (lab_sent(h, &s)) {
			assert_int_equal(s.seq, 0);
			assert_int_equal(s.len, 1000);
			assert_true(now - last + 20 * LAB_MS >= MIN(2 * gap, 119 * NS_PER_S));
			gap = now - last;
			last = now;
			n++;
		}
	}
	assert_int_equal(n, 15);
	assert_int_equal(atomic_load(&h->slot->error), ETIMEDOUT);
	type = (uint32_t)lab_up(h, &u, sizeof u);
	assert_int_equal(type, UP_FAILED);
	assert_int_equal(u.error, ETIMEDOUT);
}

static void data_in_flight_at_adoption_is_sent_again(void **state)
{
	struct flow_init i = lab_init(1, 2, 1000, 2000);
	struct segment s;

	(void)state;
	lab_close(h);
	h = lab_open();
	now = 5000 * LAB_MS;
	for (uint32_t k = 0; k < 1500; k++)
		h->buf[i.tx_off + k] = lab_byte(1, k);
	i.snd_nxt = i.snd_end = 1500;
	lab_install(h, &i, now);
	assert_false(lab_sent(h, &s));
	turn(250000);
	assert_true(lab_sent(h, &s) && s.seq == 0 && s.len == 1000);
	lab_send(h, (struct lab_seg){.ack = 1500, .window = 512});
	turn(1);
	assert_int_equal(atomic_load(&h->slot->snd_acked), 1500);
}

static void fin_goes_with_the_last_data_and_again(void **state)
{
	struct segment s;
	struct up_flow u;

	(void)state;
	lab_write(h, 1, 1500);
	lab_flow_command(h, CMD_CLOSE, 0, 0);
	turn(1);
	assert_true(lab_sent(h, &s) && !(s.flags & TCP_FIN));
	assert_true(lab_sent(h, &s) && s.flags & TCP_FIN && s.len == 500);
	assert_true(atomic_load(&h->slot->status) & IPC_ST_CLOSED_TX);
	lab_send(h, (struct lab_seg){.ack = 1000, .window = 512});
	turn(1);
	turn(250000);
	assert_true(lab_sent(h, &s) && s.seq == 1000 && s.len == 500 && s.flags & TCP_FIN);
	lab_send(h, (struct lab_seg){.ack = 1500, .window = 512});
	turn(1);
	turn(250000);
	assert_true(lab_sent(h, &s) && s.seq == 1500 && s.len == 0 && s.flags & TCP_FIN);
	lab_send(h, (struct lab_seg){.ack = 1501, .window = 512});
	turn(1);
	assert_int_equal(lab_up(h, &u, sizeof u), UP_FIN_ACKED);
	assert_int_equal(atomic_load(&h->slot->snd_acked), 1500);
	lab_write(h, 1, 10); /* too late: ignored, not punished */
	turn(300000);
	assert_false(lab_sent(h, &s));
	assert_int_equal(lab_up(h, NULL, 0), -1);
}

static void over_when_both_fins_are_acknowledged(void **state)
{
	uint64_t rings;

	(void)state;
	lab_send(h, (struct lab_seg){.window = 512, .flags = TCP_ACK | TCP_FIN});
	lab_flow_command(h, CMD_CLOSE, 0, 0);
	turn(1);
	assert_int_equal(atomic_load(&h->slot->status), IPC_FAST | IPC_ST_FIN | IPC_ST_CLOSED_TX);
	atomic_store(&h->shm->context[0].armed, 1);
	(void)!read(h->context_fd, &rings, sizeof rings);
	lab_send(h, (struct lab_seg){.seq = 1, .ack = 1, .window = 512});
	turn(1);
	assert_int_equal(atomic_load(&h->slot->status), IPC_FAST | IPC_ST_FIN | IPC_ST_CLOSED_TX | IPC_ST_OVER);
	assert_int_equal(atomic_load(&h->shm->context[0].armed), 1); /* nobody is woken for it */
}

/* Exactly one segment went out, without data, at @seq (relative). */
static void expect_empty(uint32_t seq)
{
	struct segment s;

	assert_true(lab_sent(h, &s) && s.len == 0 && s.seq == seq && s.flags == TCP_ACK);
	assert_false(lab_sent(h, &s));
}

static void keepalive_asks_when_idle_and_gives_up(void **state)
{
	struct segment s;

	(void)state;
	turn(3000000);
	assert_false(lab_sent(h, &s));
	atomic_store(&h->slot->keep_idle_s, 10);
	atomic_store(&h->slot->keep_intvl_s, 2);
	atomic_store(&h->slot->keep_cnt, 3);
	atomic_store(&h->slot->opts, IPC_OPT_NODELAY | IPC_OPT_KEEPALIVE);
	bell_ring(&h->shm->dirty[0], LAB_SLOT);
	for (int i = 0; i < 60; i++)
		turn(100000);
	assert_false(lab_sent(h, &s));
	for (int i = 0; i < 11; i++) /* idle since the installation */
		turn(100000);
	expect_empty(UINT32_MAX);
	lab_send(h, (struct lab_seg){.window = 512}); /* the answer */
	for (int i = 0; i < 99; i++)
		turn(100000);
	assert_false(lab_sent(h, &s));
	for (int i = 0; i < 3; i++) {
		for (int k = 0; k < 20; k++)
			turn(100000);
		expect_empty(UINT32_MAX);
	}
	assert_int_equal(lab_up(h, NULL, 0), -1);
	for (int k = 0; k < 21; k++)
		turn(100000);
	assert_true(lab_sent(h, &s) && s.flags & TCP_RST);
	assert_int_equal(atomic_load(&h->slot->error), ETIMEDOUT);
	assert_int_equal(lab_up(h, NULL, 0), UP_FAILED);
}

static void keepalive_with_new_numbers_or_none(void **state)
{
	struct segment s;

	(void)state;
	atomic_store(&h->slot->keep_idle_s, 7200);
	atomic_store(&h->slot->keep_cnt, 3);
	atomic_store(&h->slot->opts, IPC_OPT_NODELAY | IPC_OPT_KEEPALIVE);
	bell_ring(&h->shm->dirty[0], LAB_SLOT);
	turn(1000000);
	atomic_store(&h->slot->keep_idle_s, 2);
	atomic_store(&h->slot->opts, IPC_OPT_NODELAY | IPC_OPT_KEEPALIVE | IPC_OPT_CHANGE);
	bell_ring(&h->shm->dirty[0], LAB_SLOT);
	turn(1);
	for (int i = 0; i < 12; i++)
		turn(100000);
	expect_empty(UINT32_MAX);
	atomic_store(&h->slot->opts, IPC_OPT_NODELAY | IPC_OPT_CHANGE);
	bell_ring(&h->shm->dirty[0], LAB_SLOT);
	for (int i = 0; i < 100; i++)
		turn(100000);
	assert_false(lab_sent(h, &s));
}

static void user_timeout_is_what_counts(void **state)
{
	struct segment s;
	int sent = 0;

	(void)state;
	atomic_store(&h->slot->user_timeout_ms, 3000);
	lab_write(h, 1, 100);
	for (int i = 0; i < 30; i++) { /* until 3 s after the first time-out, at 200 ms or so */
		turn(100000);
		while (lab_sent(h, &s))
			sent++;
		assert_int_equal(atomic_load(&h->slot->status), IPC_FAST);
	}
	assert_in_range(sent, 3, 6);
	for (int i = 0; i < 5; i++)
		turn(100000);
	assert_true(atomic_load(&h->slot->status) & IPC_ST_ERROR);
	assert_int_equal(atomic_load(&h->slot->error), ETIMEDOUT);
}

static void orphan_with_unread_data_is_reset(void **state)
{
	struct segment s;

	(void)state;
	lab_send(h, (struct lab_seg){.len = 10, .window = 512});
	turn(1);
	lab_flow_command(h, CMD_ORPHAN, 0, 0);
	turn(1);
	assert_true(lab_sent(h, &s) && s.flags == (TCP_RST | TCP_ACK) && s.seq == 0);
	assert_int_equal(lab_up(h, NULL, 0), UP_FAILED);
	lab_send(h, (struct lab_seg){.seq = 10, .len = 10, .window = 512});
	turn(1);
	assert_false(lab_sent(h, &s));
}

static void data_for_an_orphan_is_reset(void **state)
{
	struct segment s;

	(void)state;
	lab_write(h, 1, 100);
	lab_flow_command(h, CMD_ORPHAN, 0, 0);
	turn(1);
	assert_true(lab_sent(h, &s) && s.len == 100 && s.flags & TCP_FIN);
	lab_send(h, (struct lab_seg){.ack = 101, .window = 512});
	turn(1);
	assert_int_equal(lab_up(h, NULL, 0), UP_FIN_ACKED);
	lab_send(h, (struct lab_seg){.ack = 101, .len = 1, .window = 512});
	turn(1);
	assert_true(lab_sent(h, &s) && s.flags & TCP_RST && s.seq == 101);
	assert_int_equal(lab_up(h, NULL, 0), UP_FAILED);
}

static void abort_and_dead(void **state)
{
	struct segment s;

	(void)state;
	lab_flow_command(h, CMD_ABORT, ECONNABORTED, 0);
	turn(1);
	assert_true(lab_sent(h, &s) && s.flags == (TCP_RST | TCP_ACK));
	assert_int_equal(atomic_load(&h->slot->error), ECONNABORTED);
	assert_true(atomic_load(&h->slot->status) & IPC_ST_ERROR);
	restart(IPC_OPT_NODELAY, 65536, 0);
	lab_flow_command(h, CMD_DEAD, ECONNRESET, 0);
	turn(1);
	assert_false(lab_sent(h, &s));
	assert_int_equal(atomic_load(&h->slot->error), ECONNRESET);
}

static void full_ring_only_delays(void **state)
{
	uint32_t bytes, total = 0;

	(void)state;
	h->nic.port.tx_room = 1;
	lab_write(h, 1, 5000);
	lab_send(h, (struct lab_seg){.seq = 2000, .len = 100, .window = 512});
	for (int i = 0; i < 10; i++) {
		turn(1);
		drain(&bytes);
		total += bytes;
	}
	assert_int_equal(total, 5000);
	assert_true(lab_counter(h, CNT_DROP_TX_FULL) > 0);
}

static void remove_and_install_again(void **state)
{
	struct flow_init i = h->init;
	struct segment s;

	(void)state;
	lab_write(h, 1, 3000);
	turn(1);
	lab_flow_command(h, CMD_REMOVE, 0, 0);
	turn(1);
	assert_int_equal(lab_up(h, NULL, 0), UP_REMOVED);
	while (lab_sent(h, &s))
		;
	lab_send(h, (struct lab_seg){.len = 10, .window = 512});
	turn(1);
	assert_int_equal(lab_up(h, NULL, 0), UP_NO_FLOW);
	lab_write(h, 1, 100); /* the bell of a slot without a flow */
	turn(1);
	turn(400000);
	assert_false(lab_sent(h, &s));
	lab_install(h, &i, now);
	lab_write(h, 1, 100);
	turn(1);
	assert_true(lab_sent(h, &s) && s.seq == 0 && s.len == 100);
}

static void a_hostile_record_ends_the_dealings(void **state)
{
	struct up_flow u;
	struct segment s;

	(void)state;
	atomic_store(&h->slot->snd_end, 1 << 20); /* more than the buffer holds */
	bell_ring(&h->shm->dirty[0], LAB_SLOT);
	turn(1);
	assert_int_equal(lab_up(h, &u, sizeof u), UP_APP_BAD);
	assert_int_equal(u.flow_id, LAB_APP);
	assert_false(lab_sent(h, &s));
	atomic_store(&h->slot->snd_end, 100);
	bell_ring(&h->shm->dirty[0], LAB_SLOT);
	turn(1);
	assert_false(lab_sent(h, &s));
	assert_int_equal(lab_up(h, NULL, 0), -1);
	assert_int_equal(lab_counter(h, CNT_APP_BAD_RECORD), 1);
}

static void capture_sees_both_directions(void **state)
{
	struct up_frame u;
	struct segment s;

	(void)state;
	lab_flow_command(h, CMD_CAPTURE, 0, 1);
	lab_write(h, 1, 100);
	lab_send(h, (struct lab_seg){.len = 10, .window = 512});
	turn(1);
	assert_int_equal(lab_up(h, &u, sizeof u), UP_CAPTURE);
	assert_int_equal(u.outgoing, 0);
	assert_int_equal(lab_up(h, &u, sizeof u), UP_CAPTURE);
	assert_int_equal(u.outgoing, 1);
	assert_int_equal(u.len, 14 + 20 + 32 + 100);
	assert_true(lab_sent(h, &s));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(segments_are_full_and_the_last_pushed),
		T(burst_and_cwnd_limit),
		T(limits_are_taken_over),
		T(nagle_holds_the_second_small_one),
		T(nagle_lets_the_end_of_a_longer_write_go),
		T(cork_holds_for_200_ms),
		T(silly_window_is_not_used),
		T(rate_is_kept),
		T(closed_window_is_probed_ever_more_rarely),
		T(timeouts_double_and_give_up),
		T(data_in_flight_at_adoption_is_sent_again),
		T(fin_goes_with_the_last_data_and_again),
		T(over_when_both_fins_are_acknowledged),
		T(keepalive_asks_when_idle_and_gives_up),
		T(keepalive_with_new_numbers_or_none),
		T(user_timeout_is_what_counts),
		T(orphan_with_unread_data_is_reset),
		T(data_for_an_orphan_is_reset),
		T(abort_and_dead),
		T(full_ring_only_delays),
		T(remove_and_install_again),
		T(a_hostile_record_ends_the_dealings),
		T(capture_sees_both_directions),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
