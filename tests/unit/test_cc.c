/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Congestion controls: what each does on success, loss, marks, time-out and idleness. */
/* links: service/tcp/cc.c service/tcp/cc_dctcp.c service/tcp/cc_cubic.c service/tcp/cc_reno.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "service/tcp/cc.h"

#define MSS 1448

static struct cc_config cfg;
static struct cc_sample sample(uint64_t ms, uint64_t acked)
{
	return (struct cc_sample){.now_ns = ms * 1000000,
				  .interval_ns = 1000000,
				  .acked_bytes = acked,
				  .srtt_us = 500,
				  .min_rtt_us = 500,
				  .mss = MSS};
}

static void names_are_found(void **state)
{
	(void)state;
	assert_ptr_equal(cc_find("dctcp"), &cc_dctcp);
	assert_ptr_equal(cc_find("reno"), &cc_reno);
	assert_ptr_equal(cc_find("bbr"), &cc_cubic);
	assert_ptr_equal(cc_find(NULL), &cc_cubic);
}

static void dctcp_doubles_then_follows_the_marks(void **state)
{
	struct cc_state s;
	struct cc_sample m = sample(1, 100000);
	uint64_t rate;

	(void)state;
	cc_dctcp.init(&s, &cfg, MSS, 10 * MSS);
	cc_dctcp.update(&s, &cfg, &m);
	assert_int_equal(s.lim.rate_bps, 2 * cfg.init_rate_bps);
	for (int i = 0; i < 20; i++)
		cc_dctcp.update(&s, &cfg, &m);
	assert_true(s.lim.rate_bps <= 2 * 120000000ull); /* 1.2 times delivered, doubled once */
	rate = s.lim.rate_bps;
	m.ecn_bytes = m.acked_bytes;
	cc_dctcp.update(&s, &cfg, &m);
	assert_false(s.slow_start);
	assert_true(s.lim.rate_bps <= rate / 2);
	m.ecn_bytes = 0;
	rate = s.lim.rate_bps;
	cc_dctcp.update(&s, &cfg, &m);
	assert_int_equal(s.lim.rate_bps, rate + cfg.additive_bps);
	m.app_limited = true;
	cc_dctcp.update(&s, &cfg, &m);
	assert_int_equal(s.lim.rate_bps, rate + cfg.additive_bps);
	m.timeouts = 1;
	for (int i = 0; i < 40; i++)
		cc_dctcp.update(&s, &cfg, &m);
	assert_int_equal(s.lim.rate_bps, cfg.min_rate_bps);
}

static void window_based(const struct cc_ops *ops, uint32_t after_loss_percent)
{
	struct cc_state s;
	struct cc_sample m = sample(1, 0);
	uint32_t before;

	ops->init(&s, &cfg, MSS, 0);
	assert_int_equal(s.lim.cwnd_bytes, 10 * MSS);
	assert_true(s.lim.slow_start);
	for (uint64_t ms = 1; ms < 8; ms++) {
		m = sample(ms, s.lim.cwnd_bytes);
		before = s.lim.cwnd_bytes;
		ops->update(&s, &cfg, &m);
		assert_int_equal(s.lim.cwnd_bytes, 2 * before);
	}
	before = s.lim.cwnd_bytes;
	m = sample(8, before);
	m.app_limited = true;
	ops->update(&s, &cfg, &m);
	assert_int_equal(s.lim.cwnd_bytes, before);
	m = sample(9, before);
	m.fast_rexmits = 1;
	ops->update(&s, &cfg, &m);
	assert_true(s.lim.cwnd_bytes >= before / 100 * after_loss_percent - MSS &&
		    s.lim.cwnd_bytes <= before / 100 * (after_loss_percent + 1));
	assert_false(s.lim.slow_start);
	before = s.lim.cwnd_bytes;
	for (uint64_t ms = 10; ms < 2000; ms++) {
		uint32_t last = s.lim.cwnd_bytes;

		m = sample(ms, last);
		ops->update(&s, &cfg, &m);
		assert_true(s.lim.cwnd_bytes >= last);
	}
	assert_true(s.lim.cwnd_bytes > before);
	m.timeouts = 1;
	ops->update(&s, &cfg, &m);
	assert_int_equal(s.lim.cwnd_bytes, MSS);
	assert_true(s.lim.slow_start);
	assert_int_equal(s.lim.rate_bps, 0);
}

static void reno_halves(void **state)
{
	(void)state;
	window_based(&cc_reno, 50);
}

static void cubic_takes_seven_tenths(void **state)
{
	(void)state;
	window_based(&cc_cubic, 70);
}

/* The plateau: W_max is reached again after about K seconds (RFC 9438 4.2). */
static void cubic_comes_back_to_w_max(void **state)
{
	struct cc_state s;
	struct cc_sample m = sample(1, 0);
	uint32_t w_max = 1000 * MSS, at_k = 0;

	(void)state;
	cc_cubic.init(&s, &cfg, MSS, w_max);
	m.fast_rexmits = 1;
	cc_cubic.update(&s, &cfg, &m);
	m.fast_rexmits = 0;
	/* K = cbrt(1000 * 0.3 / 0.4) = 9.1 s; a long RTT keeps the Reno estimate below */
	for (uint64_t ms = 2; ms < 9100; ms += 100) {
		m = sample(ms, s.lim.cwnd_bytes);
		m.srtt_us = 100000;
		cc_cubic.update(&s, &cfg, &m);
		at_k = s.lim.cwnd_bytes;
	}
	assert_true(at_k > w_max / 100 * 97 && at_k < w_max / 100 * 104);
}

static int setup(void **state)
{
	(void)state;
	cc_config_default(&cfg);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_are_found),
		cmocka_unit_test(dctcp_doubles_then_follows_the_marks),
		cmocka_unit_test(reno_halves),
		cmocka_unit_test(cubic_takes_seven_tenths),
		cmocka_unit_test(cubic_comes_back_to_w_max),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
