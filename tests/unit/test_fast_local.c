/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Two flows of one thread, each the other's peer: bytes, ends and resets from one application's memory to another's. */
/* links: service/fast/fast.c service/fast/thread.c service/fast/command.c service/fast/input.c service/fast/local.c service/fast/rx.c service/fast/ack.c service/fast/tx.c service/fast/pacer.c service/fast/timer.c service/fast/wheel.c service/fast/app.c service/fast/up.c service/fast/flow.c service/fast/flow_table.c service/tcp/rtt.c service/tcp/reasm.c service/base/hash.c service/ipc/recring.c service/ipc/record.c service/ipc/wake.c service/wire/parse.c service/wire/options.c service/wire/csum.c service/wire/build.c */
/* libs: -lpthread */
#include "fast_pair.h"

/* ---- bytes ---- */

/* Whoever writes before both are there, and in whatever order they come to be: nothing is lost, nothing goes astray. */
static void installed_in_any_order(void **state)
{
	for (int order = 0; order < 4; order++) {
		struct end *first = order & 1 ? &b : &a, *second = order & 1 ? &a : &b;

		again(state);
		install(first, FLOW_NONE);
		turns();
		assert_int_equal(status(first), IPC_FAST); /* alone */
		put(first, 100);
		turns();
		assert_int_equal(atomic_load(&tx_slot(first)->snd_acked), 0);
		if (order & 2) { /* it hears of its peer before there is one */
			command(first, CMD_PEER, 0, second->init.flow_id);
			turns();
			assert_int_equal(delivered(second), 0);
		}
		install(second, first->init.flow_id);
		turns();
		put(second, 200);
		turns();
		if (!(order & 2)) { /* one-sided: not its peer yet */
			assert_int_equal(delivered(first), 0);
			assert_int_equal(delivered(second), 0);
			command(first, CMD_PEER, 0, second->init.flow_id);
			turns();
		}
		assert_int_equal(take(second, 1000), 100);
		assert_int_equal(take(first, 1000), 200);
		assert_int_equal(status(first), IPC_FAST | IPC_ST_PAIRED);
	}
}

static void bytes_wrap_in_unequal_rings(void **state)
{
	uint64_t sent[2];

	(void)state;
	pair();
	converse(7, 9000, sent);
	assert_int_equal(atomic_load(&tx_slot(&a)->snd_acked), sent[0]);
	assert_int_equal(atomic_load(&h->page->moved[a.init.flow_id]), sent[0]); /* for those who outlive the service */
	assert_int_equal(atomic_load(&h->page->moved[b.init.flow_id]), sent[1]);
	assert_int_equal(lab_counter(h, CNT_LOCAL_BYTES), sent[0] + sent[1]);
	assert_int_equal(atomic_load(&h->t->stats[a.init.flow_id].tx_bytes), sent[0]);
	assert_int_equal(atomic_load(&h->t->stats[a.init.flow_id].rx_bytes), sent[1]);
	/* beside the rings nothing was touched */
	assert_int_equal(a.rx->buf[a.init.rx_size], MARK);
	assert_int_equal(b.rx->buf[b.init.rx_size], MARK);
	assert_int_equal(lab_counter(h, CNT_APP_BAD_RECORD), 0);
}

static void a_full_receiver_holds_the_sender(void **state)
{
	(void)state;
	pair();
	assert_int_equal(put(&a, 1 << 20), 16384);
	turns();
	assert_int_equal(delivered(&b), 8192);
	assert_int_equal(atomic_load(&tx_slot(&a)->snd_acked), 8192);
	assert_int_equal(put(&a, 1 << 20), 8192);
	turns();
	assert_false(turn()); /* it need not be looked at before there is room */
	assert_int_equal(delivered(&b), 8192);
	take(&b, 100);
	turns();
	assert_int_equal(delivered(&b), 8292);
	for (uint32_t got = 100; got < 24576; turns())
		got += take(&b, 1000);
	assert_int_equal(delivered(&b), 24576);
}

static void who_waits_is_woken_and_nobody_else(void **state)
{
	(void)state;
	pair();
	arm();
	put(&a, 16384);
	atomic_store(&tx_slot(&a)->want, IPC_WANT_SPACE);
	turn();
	assert_true(is_woken(b.rx)); /* there is something */
	assert_true(is_woken(a.tx)); /* and half of the ring is free */
	put(&a, 8192);
	turns();
	arm();
	assert_false(turn());
	assert_false(is_woken(a.tx) || is_woken(b.rx));
	take(&b, 6000);
	turn();
	assert_true(is_woken(a.tx) && is_woken(b.rx));
	assert_false(is_woken(&prog[2]));
}

/* However much one has to say, others come to their turn. */
static void a_turn_is_bounded(void **state)
{
	uint32_t n;

	(void)state;
	b.init.rx_size = a.init.tx_size = 1u << 20;
	pair();
	assert_int_equal(put(&a, 600000), 600000);
	turn();
	n = (uint32_t)delivered(&b);
	assert_true(n >= 65536 && n <= 262144);
	assert_true(thread_has_work(h->t)); /* the rest is not forgotten */
	turns();
	assert_int_equal(take(&b, 1 << 20), 600000);
}

/* ---- ends ---- */

static void the_fin_follows_the_last_byte(void **state)
{
	(void)state;
	pair();
	put(&a, 10000);
	command(&a, CMD_CLOSE, 0, 0);
	turns();
	assert_int_equal(delivered(&b), 8192);
	assert_false(status(&b) & IPC_ST_FIN);
	assert_true(status(&a) & IPC_ST_CLOSED_TX);
	assert_int_equal(lab_up(h, NULL, 0), -1);
	take(&b, 5000);
	turns();
	assert_int_equal(delivered(&b), 10000);
	assert_true(status(&b) & IPC_ST_FIN);
	expect_up(UP_FIN_RCVD, b.init.flow_id, 0);
	expect_up(UP_FIN_ACKED, a.init.flow_id, 0);
	assert_int_equal(take(&b, 1 << 20), 5000);
	turns();
	assert_int_equal(lab_up(h, NULL, 0), -1); /* once */
}

static void half_a_close_is_half_a_close(void **state)
{
	(void)state;
	pair();
	command(&a, CMD_CLOSE, 0, 0);
	turns();
	put(&b, 3000);
	turns();
	assert_int_equal(take(&a, 5000), 3000);
	assert_false(status(&a) & (IPC_ST_FIN | IPC_ST_OVER));
	assert_false(status(&b) & IPC_ST_OVER);
	quiet();
	put(&b, 50);
	command(&b, CMD_CLOSE, 0, 0);
	turns();
	assert_int_equal(take(&a, 5000), 50);
	assert_true(status(&a) & status(&b) & IPC_ST_FIN);
	assert_true(status(&a) & status(&b) & IPC_ST_OVER);
	assert_int_equal(error(&a) | error(&b), 0);
	expect_up(UP_FIN_RCVD, a.init.flow_id, 0);
	expect_up(UP_FIN_ACKED, b.init.flow_id, 0);
	assert_int_equal(lab_up(h, NULL, 0), -1); /* once */
}

static void what_is_written_after_the_close_is_nobodys(void **state)
{
	(void)state;
	pair();
	put(&a, 100);
	command(&a, CMD_CLOSE, 0, 0);
	turns();
	put(&a, 100);
	turns();
	assert_int_equal(delivered(&b), 100);
	assert_int_equal(lab_counter(h, CNT_APP_BAD_RECORD), 0);
}

static void unread_bytes_at_the_last_close_reset_the_other(void **state)
{
	(void)state;
	pair();
	put(&a, 100);
	put(&b, 50);
	turns();
	put(&b, 30);
	command(&b, CMD_ORPHAN, 0, 0);
	turns();
	assert_int_equal(error(&a), ECONNRESET);
	expect_up(UP_FAILED, b.init.flow_id, ECONNRESET);
	expect_up(UP_FAILED, a.init.flow_id, ECONNRESET);
	assert_int_equal(take(&a, 100), 80); /* what came before is there */
}

static void bytes_for_an_orphan_reset_their_writer(void **state)
{
	(void)state;
	pair();
	put(&b, 50);
	command(&b, CMD_ORPHAN, 0, 0);
	turns();
	assert_int_equal(error(&a), 0); /* an orderly end as yet */
	assert_int_equal(take(&a, 100), 50);
	assert_true(status(&a) & IPC_ST_FIN);
	quiet();
	put(&a, 1);
	turns();
	assert_int_equal(error(&a), ECONNRESET);
	assert_int_equal(delivered(&b), 0);
	expect_up(UP_FAILED, b.init.flow_id, ECONNRESET);
	expect_up(UP_FAILED, a.init.flow_id, ECONNRESET);
}

static void bytes_for_an_end_that_is_shut_down_reset_both(void **state)
{
	(void)state;
	pair();
	atomic_fetch_or(&tx_slot(&b)->opts, IPC_OPT_SHUT_RD);
	put(&b, 5); /* the record is read with it */
	put(&a, 10);
	turns();
	assert_int_equal(delivered(&b), 10); /* it may send as yet */
	command(&b, CMD_CLOSE, 0, 0);
	turns();
	quiet();
	put(&a, 1);
	turns();
	assert_int_equal(delivered(&b), 10);
	assert_int_equal(error(&a), ECONNRESET);
	assert_int_equal(error(&b), ECONNRESET);
	expect_up(UP_FAILED, b.init.flow_id, ECONNRESET);
	expect_up(UP_FAILED, a.init.flow_id, ECONNRESET);
}

static void a_reset_follows_what_there_is_room_for(void **state)
{
	(void)state;
	pair();
	put(&a, 16384);
	turns();
	take(&b, 1000); /* room for more */
	command(&a, CMD_ABORT, ECONNABORTED, 0);
	turns();
	assert_int_equal(error(&a), ECONNABORTED);
	assert_int_equal(error(&b), ECONNRESET);
	assert_int_equal(delivered(&b), 8192 + 1000);
	expect_up(UP_FAILED, b.init.flow_id, ECONNRESET); /* of the other one it knows */
	assert_int_equal(lab_up(h, NULL, 0), -1);
}

/* ---- one end is elsewhere ---- */

/* @e as it was frozen, in the memory of @to. */
static void move(struct end *e, const struct up_frozen *z, struct prog *to, uint32_t slot)
{
	const uint8_t *from = e->rx->buf;

	for (uint64_t o = z->rcv_read; o < z->rcv_end; o++)
		to->buf[e->init.rx_off + (o & (e->init.rx_size - 1))] =
			from[e->init.rx_off + (o & (e->init.rx_size - 1))];
	for (uint64_t o = z->snd_una; o < z->snd_end; o++)
		to->buf[e->init.tx_off + (o & (e->init.tx_size - 1))] =
			from[e->init.tx_off + (o & (e->init.tx_size - 1))];
	e->rx = e->tx = to;
	e->init.app = to->id;
	e->init.slot = slot;
	e->init.snd_una = e->init.snd_nxt = z->snd_una;
	e->init.snd_end = z->snd_end;
	e->init.rcv_read = z->rcv_read;
	e->init.rcv_end = z->rcv_end;
}

static void a_moving_end_is_waited_for(void **state)
{
	struct up_frozen z;

	(void)state;
	pair();
	put(&a, 5000);
	turns();
	take(&b, 1000);
	put(&b, 300);
	command(&b, CMD_FREEZE, 0, 0);
	turns();
	assert_int_equal(lab_up(h, &z, sizeof z), UP_FROZEN);
	assert_int_equal(z.rcv_read, 1000);
	assert_int_equal(z.rcv_end, 5000);
	assert_int_equal(z.snd_una, 0);
	assert_int_equal(z.snd_end, 300);
	memset(b.rx->buf + (5000 & 8191), MARK, 3000);
	put(&a, 3000);
	command(&a, CMD_CLOSE, 0, 0);
	turns();
	assert_int_equal(atomic_load(&tx_slot(&a)->snd_acked), 5000);
	assert_int_equal(b.rx->buf[5000], MARK);
	move(&b, &z, &prog[2], 77);
	install(&b, a.init.flow_id);
	turns();
	assert_int_equal(take(&b, 1 << 20), 7000);
	assert_true(status(&b) & IPC_ST_FIN);
	assert_int_equal(take(&a, 1000), 300);
	assert_int_equal(prog[1].buf[5000], MARK); /* what it had before is not its any more */
	assert_int_equal(atomic_load(&h->page->moved[a.init.flow_id]), 8000);
	assert_int_equal(atomic_load(&h->page->moved[b.init.flow_id]), 300);
}

static void a_reset_waits_for_a_moving_end(void **state)
{
	struct up_frozen z;

	(void)state;
	pair();
	command(&b, CMD_FREEZE, 0, 0);
	turns();
	assert_int_equal(lab_up(h, &z, sizeof z), UP_FROZEN);
	command(&a, CMD_ABORT, ECONNABORTED, 0);
	turns();
	move(&b, &z, &prog[2], 77);
	install(&b, a.init.flow_id);
	turns();
	assert_int_equal(error(&b), ECONNRESET);
}

/* The number of a flow that was removed is another's one day: that one has nothing to do with us. */
static void a_removed_peer_is_nobody(void **state)
{
	struct end other;

	(void)state;
	pair();
	command(&b, CMD_REMOVE, 0, 0);
	turns();
	expect_up(UP_REMOVED, b.init.flow_id, 0);
	put(&a, 100);
	turns();
	assert_int_equal(atomic_load(&tx_slot(&a)->snd_acked), 0);
	end_init(&other, &prog[2], b.init.flow_id, 6, 4, 5);
	install(&other, b.init.flow_id + 1);
	turns();
	put(&a, 100);
	command(&a, CMD_CLOSE, 0, 0);
	turns();
	assert_int_equal(delivered(&other), 0);
	assert_int_equal(status(&other), IPC_FAST | IPC_ST_PAIRED);
	command(&a, CMD_ABORT, ECONNABORTED, 0);
	turns();
	assert_int_equal(error(&other), 0);
	command(&a, CMD_REMOVE, 0, 0);
	turns();
	expect_up(UP_REMOVED, a.init.flow_id, ECONNABORTED);
	assert_int_equal(lab_up(h, NULL, 0), -1);
}

/* ---- halves ---- */

/* Of one end another application sends: each byte comes from, and goes to, whose it is. */
static void a_split_end(void **state)
{
	(void)state;
	b.init.split = true;
	b.init.tx_app = prog[2].id;
	b.init.tx_slot = 8;
	b.init.tx_off = 65536;
	b.tx = &prog[2];
	install(&a, FLOW_NONE);
	install(&b, a.init.flow_id);
	command(&a, CMD_PEER, 0, b.init.flow_id);
	turns();
	assert_int_equal(status(&b), IPC_FAST | IPC_ST_PAIRED | IPC_ST_TX_AWAY);
	assert_int_equal(atomic_load(&tx_slot(&b)->status), IPC_FAST | IPC_ST_PAIRED | IPC_ST_RX_AWAY);
	for (int i = 0; i < 40; i++) {
		assert_int_equal(put(&a, 3000), 3000);
		put(&b, 2500);
		arm();
		turn();
		assert_true(is_woken(&prog[0]) && is_woken(&prog[1]) && !is_woken(&prog[2]));
		assert_int_equal(take(&b, 5000), 3000);
		assert_int_equal(take(&a, 5000), 2500);
	}
	assert_int_equal(prog[2].buf[b.init.rx_off], MARK);
	command(&a, CMD_ABORT, ECONNABORTED, 0);
	turns();
	assert_int_equal(error(&b), ECONNRESET);
	assert_int_equal(atomic_load(&tx_slot(&b)->error), ECONNRESET);
}

/* ---- hostility ---- */

enum forgery { SEND_BACK, SEND_TOO_MUCH, SEND_FAR, READ_BACK, READ_AHEAD, CONTEXT, OPTS, WANT, FORGERIES };

static void forge(struct end *e, enum forgery what)
{
	struct ipc_slot *s = rx_slot(e);

	if (what == SEND_BACK)
		atomic_fetch_sub(&s->snd_end, 1);
	else if (what == SEND_TOO_MUCH)
		atomic_store(&s->snd_end, atomic_load(&s->snd_acked) + e->init.tx_size + 1);
	else if (what == SEND_FAR)
		atomic_store(&s->snd_end, UINT64_MAX);
	else if (what == READ_BACK)
		atomic_fetch_sub(&s->rcv_read, 1);
	else if (what == READ_AHEAD)
		atomic_store(&s->rcv_read, atomic_load(&s->rcv_end) + 1);
	else if (what == CONTEXT)
		atomic_store(&s->context, IPC_CONTEXTS);
	else if (what == OPTS)
		atomic_store(&s->opts, 1u << 31);
	else
		atomic_store(&s->want, ~0u);
	ring(e->rx, e->init.slot);
}

/* What one end writes into its record can end its own application's dealings; the other one sees at most a reset. */
static void a_forged_record_is_its_owners_affair(void **state)
{
	for (enum forgery what = 0; what < FORGERIES; what++) {
		again(state);
		pair();
		put(&a, 500);
		put(&b, 700);
		turns();
		take(&b, 100);
		take(&a, 100);
		turns();
		forge(&b, what);
		turns();
		expect_up(UP_APP_BAD, b.rx->id, 0);
		assert_int_equal(lab_up(h, NULL, 0), -1);
		assert_int_equal(delivered(&a), 700);
		assert_int_equal(status(&a), IPC_FAST | IPC_ST_PAIRED);
		put(&b, 100); /* nothing is heard of it any more */
		turns();
		assert_int_equal(delivered(&a), 700);
		put(&a, 100); /* the other one may go on until it is told */
		turns();
		assert_int_equal(atomic_load(&tx_slot(&a)->snd_acked), 600);
		command(&b, CMD_ABORT, ECONNABORTED, 0);
		turns();
		assert_int_equal(error(&a), ECONNRESET);
		assert_int_equal(take(&a, 1000), 600);
		assert_int_equal(lab_counter(h, CNT_APP_BAD_RECORD), 1);
	}
}

/* Its own slot is all that counts of an application's words: not what they say of the service's part. */
static void the_services_words_are_not_read_back(void **state)
{
	(void)state;
	pair();
	put(&b, 100);
	turns();
	atomic_store(&rx_slot(&b)->rcv_end, UINT64_MAX / 2);
	atomic_store(&rx_slot(&b)->snd_acked, UINT64_MAX / 2);
	rx_slot(&b)->rx_off = rx_slot(&b)->tx_off = UINT64_MAX / 2;
	rx_slot(&b)->rx_size = rx_slot(&b)->tx_size = UINT32_MAX;
	rx_slot(&b)->flow_id = a.init.flow_id;
	atomic_store(&rx_slot(&b)->status, IPC_DEAD);
	put(&a, 300);
	turns();
	assert_int_equal(take(&a, 1000), 100);
	assert_int_equal(delivered(&b), 300);
	assert_int_equal(take(&b, 1000), 300);
	assert_int_equal(lab_counter(h, CNT_APP_BAD_RECORD), 0);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(installed_in_any_order),
		T(bytes_wrap_in_unequal_rings),
		T(a_full_receiver_holds_the_sender),
		T(who_waits_is_woken_and_nobody_else),
		T(a_turn_is_bounded),
		T(the_fin_follows_the_last_byte),
		T(half_a_close_is_half_a_close),
		T(what_is_written_after_the_close_is_nobodys),
		T(unread_bytes_at_the_last_close_reset_the_other),
		T(bytes_for_an_orphan_reset_their_writer),
		T(bytes_for_an_end_that_is_shut_down_reset_both),
		T(a_reset_follows_what_there_is_room_for),
		T(a_moving_end_is_waited_for),
		T(a_reset_waits_for_a_moving_end),
		T(a_removed_peer_is_nobody),
		T(a_split_end),
		T(a_forged_record_is_its_owners_affair),
		T(the_services_words_are_not_read_back),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
