/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two of our own flows talk over a link that loses, delays, duplicates and corrupts, under a
 * seeded random generator and a clock of the test's own. Every byte of both streams is compared.
 */
/* links: service/fast/fast.c service/fast/thread.c service/fast/command.c service/fast/input.c service/fast/local.c service/fast/rx.c service/fast/ack.c service/fast/tx.c service/fast/pacer.c service/fast/timer.c service/fast/wheel.c service/fast/app.c service/fast/up.c service/fast/flow.c service/fast/flow_table.c service/tcp/rtt.c service/tcp/reasm.c service/base/hash.c service/ipc/recring.c service/ipc/record.c service/ipc/wake.c service/wire/parse.c service/wire/options.c service/wire/csum.c service/wire/build.c */
/* libs: -lpthread */
#include "fast_lab.h"

#define LINK_MAX 4096

struct link_case {
	const char *name;
	uint32_t loss, reorder, dup, corrupt; /* per mille */
	uint32_t bytes[2];
	bool no_ts, no_sack, slow_reader, ecn;
	uint64_t rate_bps;
	uint32_t seed;
};

struct in_air {
	uint64_t at;
	uint32_t len, to;
	uint8_t data[LAB_FRAME];
};

struct link {
	const struct link_case *c;
	struct lab_host *h[2];
	struct in_air *air;
	uint32_t n, rng;
	uint64_t now;
	uint64_t written[2], read[2];
	uint64_t sent, lost;
};

static uint32_t link_random(struct link *l)
{
	l->rng ^= l->rng << 13;
	l->rng ^= l->rng >> 17;
	l->rng ^= l->rng << 5;
	return l->rng;
}

static bool link_chance(struct link *l, uint32_t per_mille)
{
	return link_random(l) % 1000 < per_mille;
}

static void link_launch(struct link *l, uint32_t to, const uint8_t *data, uint32_t len)
{
	struct in_air *a;

	l->sent++;
	if (l->n == LINK_MAX || link_chance(l, l->c->loss)) {
		l->lost++;
		return;
	}
	a = &l->air[l->n++];
	*a = (struct in_air){.at = l->now + 100 * LAB_US, .len = len, .to = to};
	if (link_chance(l, l->c->reorder))
		a->at += link_random(l) % 2000 * LAB_US;
	memcpy(a->data, data, len);
	if (link_chance(l, l->c->corrupt))
		a->data[14 + link_random(l) % (len - 14)] ^= (uint8_t)(1 + link_random(l) % 255);
}

static void link_collect(struct link *l, uint32_t from)
{
	struct port *p = &l->h[from]->nic.port;

	for (uint32_t i = 0; i < p->tx_n; i++)
		for (int copies = link_chance(l, l->c->dup) ? 2 : 1; copies; copies--)
			link_launch(l, !from, p->tx[i], p->tx_len[i]);
	p->tx_n = 0;
}

/* Frames that are due arrive in the order of their times. */
static void link_deliver(struct link *l)
{
	for (;;) {
		uint32_t best = UINT32_MAX;

		for (uint32_t i = 0; i < l->n; i++)
			if (l->air[i].at <= l->now && (best == UINT32_MAX || l->air[i].at < l->air[best].at))
				best = i;
		if (best == UINT32_MAX)
			return;
		lab_arrive(&l->h[l->air[best].to]->nic.port, l->air[best].data, l->air[best].len);
		memmove(&l->air[best], &l->air[best + 1], (--l->n - best) * sizeof l->air[0]);
	}
}

static void link_apps(struct link *l)
{
	for (uint32_t i = 0; i < 2; i++) {
		uint32_t left = (uint32_t)(l->c->bytes[i] - l->written[i]), want = 1 + link_random(l) % 20000;

		if (left && link_chance(l, 500))
			l->written[i] += lab_write(l->h[i], i, left < want ? left : want);
		if (link_chance(l, l->c->slow_reader ? 5 : 500))
			l->read[!i] += lab_read(l->h[i], !i, l->c->slow_reader ? 65536 : 1 + link_random(l) % 30000);
	}
}

static uint64_t link_next(struct link *l)
{
	uint64_t next = l->now + 100 * LAB_US;

	if (l->written[0] == l->c->bytes[0] && l->written[1] == l->c->bytes[1] && l->read[0] == l->c->bytes[0] &&
	    l->read[1] == l->c->bytes[1])
		next = l->now + 5 * LAB_MS;
	return next;
}

static bool link_done(struct link *l)
{
	for (uint32_t i = 0; i < 2; i++)
		if (l->read[i] != l->c->bytes[i] || atomic_load(&l->h[i]->slot->snd_acked) != l->c->bytes[i])
			return false;
	return true;
}

static void link_step(struct link *l)
{
	l->now = link_next(l);
	link_deliver(l);
	link_apps(l);
	for (uint32_t i = 0; i < 2; i++) {
		thread_turn(l->h[i]->t, l->now);
		link_collect(l, i);
	}
}

static void link_open(struct link *l, const struct link_case *c)
{
	*l = (struct link){.c = c, .rng = c->seed, .now = 1000 * LAB_MS};
	l->air = calloc(LINK_MAX, sizeof *l->air);
	assert_non_null(l->air);
	for (uint32_t i = 0; i < 2; i++) {
		uint32_t base[2] = {0xffff0000u, 0x7fffff00u};
		struct flow_init init = lab_init((uint8_t)(1 + i), (uint8_t)(2 - i), base[i], base[!i]);
		struct flow_limits *lim;

		init.ts = !c->no_ts;
		init.sack = !c->no_sack;
		init.ecn = init.ect = c->ecn;
		l->h[i] = lab_open();
		lab_install(l->h[i], &init, l->now);
		lim = fast_limits(l->h[i]->fast, LAB_FLOW);
		lim->cwnd_bytes = 20 * LAB_MSS;
		lim->slow_start = c->loss < 50;
		lim->rate_bps = c->rate_bps;
		lim->gen = 1;
	}
}

/* Both sides close; each must see the other's FIN, and both must be acknowledged. */
static void link_shut(struct link *l)
{
	bool seen[2][2] = {{false}};

	for (uint32_t i = 0; i < 2; i++)
		lab_flow_command(l->h[i], CMD_CLOSE, 0, 0);
	for (int step = 0; step < 200000; step++) {
		link_step(l);
		for (uint32_t i = 0; i < 2; i++)
			for (int type; (type = lab_up(l->h[i], NULL, 0)) >= 0;) {
				seen[i][0] |= type == UP_FIN_RCVD;
				seen[i][1] |= type == UP_FIN_ACKED;
				assert_int_not_equal(type, UP_FAILED);
			}
		if (seen[0][0] && seen[0][1] && seen[1][0] && seen[1][1])
			break;
	}
	for (uint32_t i = 0; i < 2; i++) {
		assert_true(seen[i][0] && seen[i][1]);
		assert_true(atomic_load(&l->h[i]->slot->status) & IPC_ST_FIN);
		assert_true(flow_time_wait(lab_flow(l->h[i])));
	}
}

static void link_run(const struct link_case *c)
{
	struct link l;
	int steps = 0;

	link_open(&l, c);
	while (!link_done(&l) && steps++ < 3000000)
		link_step(&l);
	print_message("%-28s %7.3f s, %lu frames, %lu lost, fast %lu, timeouts %lu\n", c->name,
		      (double)(l.now - 1000 * LAB_MS) / 1e9, l.sent, l.lost,
		      lab_counter(l.h[0], CNT_REXMIT_FAST) + lab_counter(l.h[1], CNT_REXMIT_FAST),
		      lab_counter(l.h[0], CNT_REXMIT_TIMEOUT) + lab_counter(l.h[1], CNT_REXMIT_TIMEOUT));
	assert_true(link_done(&l));
	link_shut(&l);
	for (uint32_t i = 0; i < 2; i++) {
		assert_int_equal(lab_counter(l.h[i], CNT_APP_BAD_RECORD), 0);
		assert_int_equal(lab_counter(l.h[i], CNT_RX_BYTES), c->bytes[!i]);
		assert_int_equal(lab_counter(l.h[i], CNT_TX_BYTES), c->bytes[i]);
		lab_close(l.h[i]);
	}
	free(l.air);
}

static void bytes_arrive_whatever_the_link_does(void **state)
{
	static const struct link_case cases[] = {
		{.name = "clean", .bytes = {3000000, 2000000}, .seed = 1},
		{.name = "clean, no options", .bytes = {1000000, 1000000}, .no_ts = true, .no_sack = true, .seed = 2},
		{.name = "slow readers", .bytes = {500000, 500000}, .slow_reader = true, .seed = 3},
		{.name = "paced 2 MB/s", .bytes = {1000000, 0}, .rate_bps = 2000000, .seed = 4},
		{.name = "loss 1 %", .loss = 10, .bytes = {2000000, 1000000}, .seed = 5},
		{.name = "loss 5 %", .loss = 50, .bytes = {500000, 500000}, .seed = 6},
		{.name = "loss 20 %", .loss = 200, .bytes = {100000, 100000}, .seed = 7},
		{.name = "reordering 30 %", .reorder = 300, .bytes = {1000000, 1000000}, .seed = 8},
		{.name = "duplication 20 %", .dup = 200, .bytes = {1000000, 1000000}, .seed = 9},
		{.name = "corruption 5 %", .corrupt = 50, .bytes = {300000, 300000}, .seed = 10},
		{.name = "everything",
		 .loss = 30,
		 .reorder = 100,
		 .dup = 100,
		 .corrupt = 20,
		 .bytes = {300000, 300000},
		 .seed = 11},
		{.name = "everything, no options",
		 .loss = 30,
		 .reorder = 100,
		 .dup = 100,
		 .no_ts = true,
		 .no_sack = true,
		 .bytes = {200000, 200000},
		 .seed = 12},
		{.name = "everything, slow readers",
		 .loss = 50,
		 .reorder = 100,
		 .dup = 100,
		 .slow_reader = true,
		 .bytes = {200000, 200000},
		 .ecn = true,
		 .seed = 13},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		link_run(&cases[i]);
}

static void many_seeds(void **state)
{
	(void)state;
	for (uint32_t seed = 100; seed < 130; seed++) {
		struct link_case c = {.name = "seeded",
				      .loss = seed % 7 * 20,
				      .reorder = seed % 5 * 60,
				      .dup = seed % 3 * 50,
				      .corrupt = seed % 2 * 20,
				      .bytes = {60000, 90000},
				      .no_ts = seed % 4 == 0,
				      .no_sack = seed % 8 < 4,
				      .slow_reader = seed % 6 == 0,
				      .seed = seed};

		link_run(&c);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_arrive_whatever_the_link_does),
		cmocka_unit_test(many_seeds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
