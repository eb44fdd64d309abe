/* SPDX-License-Identifier: GPL-2.0-or-later */
/* RFC 6298: first sample, smoothing, bounds, backoff. */
/* links: service/tcp/rtt.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "service/tcp/rtt.h"

static void no_sample_means_one_second(void **state)
{
	struct rtt r;

	(void)state;
	rtt_init(&r, 0, 0, 200000);
	assert_int_equal(r.rto_us, 1000000);
	assert_int_equal(r.srtt_us, 0);
}

static void first_sample_sets_half_as_variance(void **state)
{
	struct rtt r;

	(void)state;
	rtt_init(&r, 0, 0, 1000);
	rtt_sample(&r, 100000, 1000);
	assert_int_equal(r.srtt_us, 100000);
	assert_int_equal(r.rttvar_us, 50000);
	assert_int_equal(r.rto_us, 300000);
	assert_int_equal(r.min_us, 100000);
}

static void second_sample_uses_the_gains(void **state)
{
	struct rtt r;

	(void)state;
	rtt_init(&r, 0, 0, 1000);
	rtt_sample(&r, 100000, 1000);
	rtt_sample(&r, 180000, 1000);
	assert_int_equal(r.rttvar_us, (3 * 50000 + 80000) / 4);
	assert_int_equal(r.srtt_us, 110000);
}

static void minimum_is_a_floor(void **state)
{
	struct rtt r;

	(void)state;
	rtt_init(&r, 50, 10, 200000);
	assert_true(r.rto_us >= 200000 && r.rto_us < 201000);
	for (int i = 0; i < 100; i++)
		rtt_sample(&r, 50, 200000);
	assert_true(r.rto_us >= 200000 && r.rto_us < 201000);
}

static void backoff_doubles_to_the_bound_and_ends(void **state)
{
	struct rtt r;
	uint32_t before;

	(void)state;
	rtt_init(&r, 1000, 500, 200000);
	before = r.rto_us;
	rtt_backoff(&r);
	assert_int_equal(r.rto_us, 2 * before);
	for (int i = 0; i < 40; i++)
		rtt_backoff(&r);
	assert_int_equal(r.rto_us, RTO_MAX_US);
	rtt_reset(&r, 200000);
	assert_int_equal(r.rto_us, before);
}

static void any_samples_keep_the_bounds(void **state)
{
	struct rtt r;

	(void)state;
	srand(1);
	rtt_init(&r, 0, 0, 200000);
	for (int i = 0; i < 10000; i++) {
		rtt_sample(&r, (uint32_t)rand() * (uint32_t)rand(), 200000);
		assert_true(r.rto_us >= 200000 && r.rto_us <= RTO_MAX_US && r.srtt_us >= 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(no_sample_means_one_second),
		cmocka_unit_test(first_sample_sets_half_as_variance),
		cmocka_unit_test(second_sample_uses_the_gains),
		cmocka_unit_test(minimum_is_a_floor),
		cmocka_unit_test(backoff_doubles_to_the_bound_and_ends),
		cmocka_unit_test(any_samples_keep_the_bounds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
