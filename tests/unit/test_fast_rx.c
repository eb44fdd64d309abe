/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What arrives: acceptability, PAWS, RST and SYN, order, window, ECN, FIN; each segment by hand. */
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

static void drain(void)
{
	struct segment s;

	while (lab_sent(h, &s))
		;
	while (lab_up(h, NULL, 0) >= 0)
		;
}

static uint64_t delivered(void)
{
	return atomic_load(&h->slot->rcv_end);
}

static void start(bool ecn, bool ect)
{
	struct flow_init i = lab_init(1, 2, 0xffffff00u, 0xfffffe00u);

	i.ecn = ecn;
	i.ect = ect;
	h = lab_open();
	now = 5000 * LAB_MS;
	lab_install(h, &i, now);
	drain();
}

static int setup(void **state)
{
	(void)state;
	start(false, false);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	lab_close(h);
	return 0;
}

/* Exactly one ACK went out: at @ack. */
static void expect_ack(uint32_t ack)
{
	struct segment s;

	assert_true(lab_sent(h, &s));
	assert_int_equal(s.ack, ack);
	assert_int_equal(s.len, 0);
	assert_int_equal(s.flags & (TCP_SYN | TCP_RST | TCP_FIN), 0);
	assert_false(lab_sent(h, &s));
}

static void expect_silence(void)
{
	struct segment s;

	assert_false(lab_sent(h, &s));
}

static void in_order_data_is_delivered_and_acked_late(void **state)
{
	uint64_t news;

	(void)state;
	atomic_store(&h->shm->context[0].armed, 1);
	lab_send(h, (struct lab_seg){.len = 100, .window = 512});
	turn(1);
	assert_int_equal(delivered(), 100);
	assert_int_equal(read(h->context_fd, &news, sizeof news), sizeof news);
	assert_int_equal(atomic_load(&h->shm->context[0].armed), 0);
	assert_true(bell_any(&h->shm->context[0].bell));
	expect_silence();
	turn(10000);
	expect_silence();
	turn(11000);
	expect_ack(100);
	assert_int_equal(lab_read(h, 0, 1000), 100);
}

static void second_full_segment_is_acked_at_once(void **state)
{
	(void)state;
	lab_send(h, (struct lab_seg){.len = 1000, .window = 512});
	turn(1);
	expect_silence();
	lab_send(h, (struct lab_seg){.seq = 1000, .len = 1000, .window = 512});
	turn(1);
	expect_ack(2000);
}

static void quickack_is_quick(void **state)
{
	(void)state;
	atomic_store(&h->slot->opts, IPC_OPT_QUICKACK);
	bell_ring(&h->shm->dirty[0], LAB_SLOT);
	turn(1);
	lab_send(h, (struct lab_seg){.len = 10, .window = 512});
	turn(1);
	expect_ack(10);
}

static void bad_checksum_changes_nothing(void **state)
{
	(void)state;
	lab_send(h, (struct lab_seg){.len = 100, .window = 512, .bad_sum = true});
	lab_send(h, (struct lab_seg){.len = 0, .ack = 0, .window = 512, .flags = TCP_RST, .bad_sum = true});
	turn(1);
	assert_int_equal(delivered(), 0);
	assert_int_equal(lab_counter(h, CNT_DROP_CSUM), 2);
	expect_silence();
	assert_int_equal(lab_up(h, NULL, 0), -1);
}

/* One ACK went out, at @ack, with @count blocks, the first of which is [start, end). */
static void expect_sack(uint32_t ack, uint32_t count, uint32_t start, uint32_t end)
{
	struct segment s;

	assert_true(lab_sent(h, &s));
	assert_int_equal(s.ack, ack);
	assert_int_equal(s.opt.sack_count, count);
	assert_int_equal(s.opt.sack[0].start - h->init.rcv_base, start);
	assert_int_equal(s.opt.sack[0].end - h->init.rcv_base, end);
}

static void out_of_order_is_acked_at_once_with_sack(void **state)
{
	(void)state;
	lab_send(h, (struct lab_seg){.seq = 1000, .len = 500, .window = 512});
	lab_send(h, (struct lab_seg){.seq = 1500, .len = 500, .window = 512});
	lab_send(h, (struct lab_seg){.seq = 1000, .len = 500, .window = 512}); /* once more */
	turn(1);
	expect_sack(0, 1, 1000, 1500);
	expect_sack(0, 1, 1000, 2000);
	expect_sack(0, 1, 1000, 2000);
	lab_send(h, (struct lab_seg){.len = 1000, .window = 512});
	turn(1);
	expect_ack(2000);
	assert_int_equal(lab_read(h, 0, 5000), 2000);
}

static void several_gaps_are_kept_up_to_a_limit(void **state)
{
	uint32_t i;

	(void)state;
	for (i = 1; i <= REASM_PIECES; i++) {
		lab_send(h, (struct lab_seg){.seq = 200 * i, .len = 100, .window = 512});
		turn(1);
		expect_sack(0, MIN(i, 3u), 200 * i, 200 * i + 100);
	}
	lab_send(h, (struct lab_seg){.seq = 200 * i, .len = 100, .window = 512});
	turn(1);
	expect_sack(0, 3, 200 * (i - 1), 200 * (i - 1) + 100);
	assert_int_equal(lab_counter(h, CNT_DROP_OOO), 1);
	for (i = 0; i <= REASM_PIECES; i++) {
		lab_send(h, (struct lab_seg){.seq = 200 * i, .len = i ? 100 : 200, .window = 512});
		lab_send(h, (struct lab_seg){.seq = 200 * i + 100, .len = 100, .window = 512});
		turn(1);
		while (lab_sent(h, &(struct segment){0}))
			;
	}
	lab_send(h, (struct lab_seg){.seq = 200 * i, .len = 100, .window = 512});
	turn(50000);
	expect_ack(200 * i + 100);
	assert_int_equal(lab_read(h, 0, 5000), 200 * i + 100);
}

/* The ACK of a segment that comes again, as its first one was lost, has its timestamp: see rx_sequence(). */
static void a_repeated_segment_has_its_timestamp_echoed(void **state)
{
	struct segment s;

	(void)state;
	lab_send(h, (struct lab_seg){.len = 1000, .window = 512, .tsval = 6000});
	lab_send(h, (struct lab_seg){.seq = 1000, .len = 1000, .window = 512, .tsval = 6000});
	turn(1);
	assert_true(lab_sent(h, &s));
	assert_int_equal(s.opt.tsecr, 6000);
	lab_send(h, (struct lab_seg){.len = 1000, .window = 512, .tsval = 7000});
	turn(1);
	assert_true(lab_sent(h, &s));
	assert_int_equal(s.ack, 2000);
	assert_int_equal(s.opt.tsecr, 7000);
	lab_send(h, (struct lab_seg){.len = 1000, .window = 512, .tsval = 6500}); /* an old duplicate */
	turn(1);
	assert_true(lab_sent(h, &s));
	assert_int_equal(s.opt.tsecr, 7000);
}

static void overlap_keeps_the_byte_received_first(void **state)
{
	(void)state;
	lab_send(h, (struct lab_seg){.seq = 100, .len = 100, .window = 512});
	lab_send(h, (struct lab_seg){.seq = 50, .len = 200, .window = 512, .stream = 1}); /* other bytes */
	lab_send(h, (struct lab_seg){.seq = 0, .len = 300, .window = 512, .stream = 2});
	turn(1);
	assert_int_equal(delivered(), 300);
	for (uint32_t i = 0; i < 300; i++) {
		uint32_t stream = i >= 100 && i < 200 ? 0 : i >= 50 && i < 250 ? 1 : 2;

		assert_int_equal(h->buf[h->init.rx_off + i], lab_byte(stream, i));
	}
}

static void old_data_is_acked_and_dropped(void **state)
{
	(void)state;
	lab_send(h, (struct lab_seg){.len = 1000, .window = 512});
	turn(30000);
	turn(30000);
	drain();
	lab_send(h, (struct lab_seg){.len = 1000, .window = 512});
	turn(1);
	expect_ack(1000);
	lab_send(h, (struct lab_seg){.seq = (uint32_t)-1, .len = 1, .window = 512}); /* keep-alive with a byte */
	turn(1);
	expect_ack(1000);
	assert_int_equal(lab_counter(h, CNT_RX_DUP), 2);
	assert_int_equal(delivered(), 1000);
}

static void beyond_the_window_is_refused(void **state)
{
	(void)state;
	lab_send(h, (struct lab_seg){.seq = 70000, .len = 100, .window = 512});
	turn(1);
	expect_ack(0);
	lab_send(h, (struct lab_seg){.seq = 70000, .window = 512});
	lab_send(h, (struct lab_seg){.seq = 70000, .window = 512});
	turn(1);
	expect_ack(0); /* empty: limited */
	assert_int_equal(lab_counter(h, CNT_DROP_WINDOW), 3);
}

/* Linux forgot the peer's timestamp when it rebuilt the socket: then any of them is right, also one in the upper half. */
static void paws_without_timestamp(void **state)
{
	struct flow_init i = lab_init(1, 2, 0xffffff00u, 0xfffffe00u);

	(void)state;
	i.ts_recent = 0;
	lab_close(h);
	h = lab_open();
	lab_install(h, &i, now);
	lab_send(h, (struct lab_seg){.len = 10, .window = 512, .tsval = 0x9f900000u});
	turn(1);
	assert_int_equal(delivered(), 10);
	assert_int_equal(lab_counter(h, CNT_DROP_PAWS), 0);
	/* from here on it is known */
	lab_send(h, (struct lab_seg){.seq = 10, .len = 10, .window = 512, .tsval = 0x9f8fffffu});
	turn(1);
	assert_int_equal(delivered(), 10);
	assert_int_equal(lab_counter(h, CNT_DROP_PAWS), 1);
	drain();
}

static void paws_drops_old_timestamps(void **state)
{
	(void)state;
	lab_send(h, (struct lab_seg){.len = 10, .window = 512, .tsval = 6000});
	turn(1);
	lab_send(h, (struct lab_seg){.seq = 10, .len = 10, .window = 512, .tsval = 5999});
	turn(1);
	assert_int_equal(delivered(), 10);
	assert_int_equal(lab_counter(h, CNT_DROP_PAWS), 1);
	lab_send(h, (struct lab_seg){.seq = 10, .len = 10, .window = 512, .no_ts = true});
	turn(1);
	assert_int_equal(delivered(), 10);
	drain();
	lab_send(h, (struct lab_seg){.seq = 10, .flags = TCP_RST, .no_ts = true}); /* exempt */
	turn(1);
	assert_int_equal(lab_up(h, NULL, 0), UP_RARE);
	now += 25ull * 24 * 3600 * NS_PER_S; /* TS.Recent is void after 24 days */
	lab_send(h, (struct lab_seg){.seq = 10, .len = 10, .window = 512, .tsval = 5999});
	turn(1);
	assert_int_equal(delivered(), 20);
}

static void exact_rst_goes_to_linux_others_draw_a_challenge(void **state)
{
	static _Alignas(8) uint8_t room[512];
	struct up_frame *u = (struct up_frame *)room;

	(void)state;
	lab_send(h, (struct lab_seg){.seq = 5, .flags = TCP_RST | TCP_ACK});
	turn(1);
	expect_ack(0);
	assert_int_equal(lab_up(h, NULL, 0), -1);
	lab_send(h, (struct lab_seg){.seq = 80000, .flags = TCP_RST});
	lab_send(h, (struct lab_seg){.seq = 7, .flags = TCP_RST});
	turn(1);
	expect_silence(); /* outside; inside, but within 500 ms */
	lab_send(h, (struct lab_seg){.seq = 0, .flags = TCP_RST});
	turn(1);
	expect_silence();
	assert_int_equal(lab_up(h, u, sizeof room), UP_RARE);
	assert_int_equal(u->flow_id, LAB_FLOW);
	assert_int_equal(u->rcv_nxt, h->init.rcv_base);
	turn(500000);
	lab_send(h, (struct lab_seg){.seq = 9, .flags = TCP_RST});
	turn(1);
	expect_ack(0);
	assert_int_equal(lab_counter(h, CNT_ACK_CHALLENGE), 2);
}

static void syn_draws_a_challenge(void **state)
{
	(void)state;
	lab_send(h, (struct lab_seg){.seq = 5, .flags = TCP_SYN});
	turn(1);
	expect_ack(0);
	turn(500000);
	lab_send(h, (struct lab_seg){.seq = 900000, .flags = TCP_SYN});
	turn(1);
	expect_ack(0);
	assert_int_equal(lab_up(h, NULL, 0), -1);
}

static void fin_waits_for_what_is_before_it(void **state)
{
	(void)state;
	lab_send(h, (struct lab_seg){.seq = 100, .len = 100, .window = 512, .flags = TCP_ACK | TCP_FIN});
	turn(1);
	assert_false(atomic_load(&h->slot->status) & IPC_ST_FIN);
	drain();
	lab_send(h, (struct lab_seg){.seq = 0, .len = 100, .window = 512});
	turn(1);
	assert_false(atomic_load(&h->slot->status) & IPC_ST_FIN);
	drain();
	lab_send(h, (struct lab_seg){.seq = 100, .len = 100, .window = 512, .flags = TCP_ACK | TCP_FIN});
	turn(1);
	assert_true(atomic_load(&h->slot->status) & IPC_ST_FIN);
	expect_ack(201);
	assert_int_equal(lab_up(h, NULL, 0), UP_FIN_RCVD);
	lab_send(h, (struct lab_seg){.seq = 200, .window = 512, .flags = TCP_ACK | TCP_FIN}); /* again */
	lab_send(h, (struct lab_seg){.seq = 201, .len = 50, .window = 512});                  /* data after the end */
	turn(1);
	assert_int_equal(delivered(), 200);
	assert_int_equal(lab_up(h, NULL, 0), -1);
}

static void the_window_closes_and_opens(void **state)
{
	struct segment s, last = {0};
	uint32_t edge = 0;

	(void)state;
	for (uint32_t at = 0; at < 67000; at += 1000) {
		lab_send(h, (struct lab_seg){.seq = at, .len = 1000, .window = 512});
		turn(at >= 65000 ? 21000 : 1);
		while (lab_sent(h, &s)) {
			uint32_t e = s.ack + ((uint32_t)s.window << 7);

			assert_true(e + 127 >= edge && e <= 65536 + 127);
			edge = e > edge ? e : edge;
			last = s;
		}
	}
	assert_in_range(delivered(), 64500, 65536);
	assert_in_range(last.window << 7, 0, 1100);
	drain();
	assert_int_equal(lab_read(h, 0, 500), 500);
	turn(1);
	expect_silence(); /* too little to tell */
	lab_read(h, 0, 30000);
	turn(1);
	assert_true(lab_sent(h, &s));
	assert_true((uint32_t)s.window << 7 >= 29000);
}

static void classic_ecn_echoes_until_cwr(void **state)
{
	struct segment s;

	(void)state;
	teardown(NULL);
	start(true, false);
	lab_send(h, (struct lab_seg){.len = 10, .window = 512, .ecn = 3});
	turn(1);
	assert_true(lab_sent(h, &s) && s.flags & TCP_ECE);
	lab_send(h, (struct lab_seg){.seq = 10, .len = 10, .window = 512, .ecn = 2});
	turn(1);
	turn(21000);
	assert_true(lab_sent(h, &s) && s.flags & TCP_ECE);
	lab_send(h, (struct lab_seg){.seq = 20, .len = 10, .window = 512, .ecn = 2, .flags = TCP_ACK | TCP_CWR});
	turn(1);
	turn(21000);
	assert_true(lab_sent(h, &s) && !(s.flags & TCP_ECE));
}

static void dctcp_echo_follows_each_segment(void **state)
{
	struct segment s;

	(void)state;
	teardown(NULL);
	start(true, true);
	lab_send(h, (struct lab_seg){.len = 10, .window = 512, .ecn = 2});
	lab_send(h, (struct lab_seg){.seq = 10, .len = 10, .window = 512, .ecn = 3});
	turn(1);
	assert_true(lab_sent(h, &s) && s.ack == 10 && !(s.flags & TCP_ECE));
	assert_true(lab_sent(h, &s) && s.ack == 20 && s.flags & TCP_ECE);
	lab_send(h, (struct lab_seg){.seq = 20, .len = 10, .window = 512, .ecn = 2});
	turn(1);
	assert_true(lab_sent(h, &s) && s.ack == 30 && !(s.flags & TCP_ECE));
	assert_int_equal(lab_counter(h, CNT_ECN_CE), 1);
}

static void muted_is_deaf_and_dumb(void **state)
{
	struct segment s;

	(void)state;
	lab_flow_command(h, CMD_MUTE, 0, 0);
	turn(1);
	assert_true(atomic_load(&h->slot->status) & IPC_ST_MUTED);
	lab_send(h, (struct lab_seg){.len = 10, .window = 512});
	lab_write(h, 1, 100);
	turn(1);
	turn(300000);
	expect_silence();
	assert_int_equal(delivered(), 0);
	assert_int_equal(lab_counter(h, CNT_DROP_MUTED), 1);
	lab_flow_command(h, CMD_UNMUTE, 0, 0);
	turn(1);
	assert_true(lab_sent(h, &s) && s.len == 100);
	assert_false(atomic_load(&h->slot->status) & IPC_ST_MUTED);
}

static void strangers_go_up(void **state)
{
	static _Alignas(8) uint8_t room[2048];
	struct up_frame *u = (struct up_frame *)room;

	(void)state;
	h->init.tmpl.key.remote_port++;
	lab_send(h, (struct lab_seg){.len = 10, .window = 512});
	turn(1);
	assert_int_equal(lab_up(h, u, sizeof room), UP_NO_FLOW);
	assert_int_equal(u->flow_id, UINT32_MAX);
	assert_int_equal(u->len, 14 + 20 + 32 + 10);
	h->init.tmpl.key.remote_port--;
	lab_command(h, CMD_RX_FRAME, h->nic.port.rx[0], 76); /* the slot still holds the frame's bytes */
	turn(1);
	assert_int_equal(lab_up(h, NULL, 0), UP_NO_FLOW);
}

static void expect_up(int type, uint32_t payload)
{
	static _Alignas(8) uint8_t room[2048];
	struct up_frame *u = (struct up_frame *)room;

	assert_int_equal(lab_up(h, u, sizeof room), type);
	if (payload)
		assert_int_equal(u->len, 14 + 20 + 32 + payload);
}

static void urgent_data_go_up_and_all_that_follows(void **state)
{
	(void)state;
	lab_write(h, 1, 50);
	turn(1);
	drain();
	lab_send(h, (struct lab_seg){.len = 10, .ack = 50, .window = 512, .flags = TCP_ACK | TCP_URG});
	lab_send(h, (struct lab_seg){.seq = 10, .ack = 50, .len = 20, .window = 512});
	turn(1);
	assert_int_equal(delivered(), 0);
	assert_int_equal(atomic_load(&h->slot->snd_acked), 50); /* what it acknowledges is */
	assert_int_equal(lab_counter(h, CNT_RX_URG), 1);
	expect_up(UP_URGENT, 10);
	expect_up(UP_NO_FLOW, 20);
	turn(100000);
	expect_silence();
	/* it could not be given back: as it was, but for urgent data, of which it is told again later */
	lab_flow_command(h, CMD_STAY, 0, 0);
	turn(1);
	lab_send(h, (struct lab_seg){.len = 10, .ack = 50, .window = 512, .flags = TCP_ACK | TCP_URG});
	turn(1);
	assert_int_equal(lab_counter(h, CNT_DROP_URGENT), 1);
	expect_up(-1, 0);
	lab_send(h, (struct lab_seg){.len = 5, .ack = 50, .window = 512});
	turn(100000);
	assert_int_equal(delivered(), 5);
	lab_send(h, (struct lab_seg){.len = 10, .ack = 50, .window = 512, .flags = TCP_ACK | TCP_URG});
	turn(1);
	assert_int_equal(delivered(), 10); /* points to a byte that came before */
	lab_send(h, (struct lab_seg){.seq = 10, .ack = 50, .window = 512, .flags = TCP_ACK | TCP_URG});
	turn(1);
	expect_up(UP_URGENT, 0);
	lab_flow_command(h, CMD_FREEZE, 0, 0);
	turn(1);
	expect_up(UP_FROZEN, 0);
}

static void urgent_segments_that_are_not_acceptable_stay(void **state)
{
	(void)state;
	lab_send(h, (struct lab_seg){.len = 10, .window = 512});
	turn(1);
	lab_send(h, (struct lab_seg){.len = 10, .window = 512, .flags = TCP_ACK | TCP_URG});
	lab_send(h, (struct lab_seg){.seq = 90000, .len = 10, .window = 512, .flags = TCP_ACK | TCP_URG});
	lab_send(h, (struct lab_seg){.seq = 10, .len = 10, .window = 512, .flags = TCP_URG});
	lab_send(h, (struct lab_seg){.seq = 10, .ack = 77777, .len = 10, .window = 512, .flags = TCP_ACK | TCP_URG});
	lab_send(h, (struct lab_seg){.seq = 10, .len = 10, .window = 512, .flags = TCP_ACK | TCP_URG, .bad_sum = true});
	turn(1);
	expect_up(-1, 0);
	lab_send(h, (struct lab_seg){.seq = 10, .window = 512, .flags = TCP_ACK | TCP_FIN});
	lab_send(h, (struct lab_seg){.seq = 11, .window = 512, .flags = TCP_ACK | TCP_URG});
	turn(1);
	expect_up(UP_FIN_RCVD, 0);
	expect_up(-1, 0);
	assert_int_equal(lab_counter(h, CNT_RX_URG), 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(in_order_data_is_delivered_and_acked_late),
		T(second_full_segment_is_acked_at_once),
		T(quickack_is_quick),
		T(bad_checksum_changes_nothing),
		T(out_of_order_is_acked_at_once_with_sack),
		T(several_gaps_are_kept_up_to_a_limit),
		T(a_repeated_segment_has_its_timestamp_echoed),
		T(overlap_keeps_the_byte_received_first),
		T(old_data_is_acked_and_dropped),
		T(beyond_the_window_is_refused),
		T(paws_drops_old_timestamps),
		T(paws_without_timestamp),
		T(exact_rst_goes_to_linux_others_draw_a_challenge),
		T(syn_draws_a_challenge),
		T(fin_waits_for_what_is_before_it),
		T(the_window_closes_and_opens),
		T(classic_ecn_echoes_until_cwr),
		T(dctcp_echo_follows_each_segment),
		T(muted_is_deaf_and_dumb),
		T(strangers_go_up),
		T(urgent_data_go_up_and_all_that_follows),
		T(urgent_segments_that_are_not_acceptable_stay),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
