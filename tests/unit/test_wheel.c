/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The wheel against a table of deadlines: nothing early, nothing lost, also when the clock jumps. */
/* links: service/fast/wheel.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "service/fast/wheel.h"

#define FLOWS 5000

static void take_all(struct wheel *w, uint64_t now, uint64_t *due, uint64_t *registered)
{
	uint32_t ids[16], n;

	do {
		n = wheel_take(w, now, ids, 16);
		for (uint32_t i = 0; i < n; i++) {
			uint32_t f = ids[i];

			if (registered[f] <= now)
				registered[f] = 0;
			if (due[f] && due[f] <= now)
				due[f] = 0;
			else if (due[f] && !registered[f])
				registered[f] = wheel_set(w, f, due[f]);
		}
	} while (n == 16);
}

static void nothing_is_lost(void **state)
{
	static uint64_t due[FLOWS], registered[FLOWS];
	uint64_t now = 1000;
	struct wheel w;

	(void)state;
	assert_int_equal(wheel_open(&w, FLOWS, now), 0);
	srand(5);
	for (int step = 0; step < 5000; step++) {
		for (int k = 0; k < 20; k++) {
			uint32_t f = (uint32_t)rand() % FLOWS;

			due[f] = now + 1 + (uint64_t)rand() % 2000;
			if (!registered[f] || due[f] < registered[f])
				registered[f] = wheel_set(&w, f, due[f]);
		}
		now += rand() % 50 ? (uint64_t)rand() % 4 : (uint64_t)rand() % 1500;
		take_all(&w, now, due, registered);
		for (uint32_t f = 0; f < FLOWS; f++)
			assert_true(!due[f] || due[f] > now);
	}
	wheel_close(&w);
}

static void next_is_the_earliest(void **state)
{
	struct wheel w;
	uint32_t id;

	(void)state;
	assert_int_equal(wheel_open(&w, 100, 0), 0);
	assert_true(wheel_next(&w) == WHEEL_NEVER);
	assert_int_equal(wheel_take(&w, 123456, &id, 1), 0);
	assert_int_equal(wheel_set(&w, 7, 123556), 123556);
	assert_int_equal(wheel_set(&w, 8, 999999), 123457 + WHEEL_SLOTS - 1);
	assert_int_equal(wheel_next(&w), 123556);
	assert_int_equal(wheel_take(&w, 123555, &id, 1), 0);
	assert_int_equal(wheel_take(&w, 123556, &id, 1), 1);
	assert_int_equal(id, 7);
	assert_int_equal(wheel_next(&w), 123457 + WHEEL_SLOTS - 1);
	wheel_close(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_is_lost), cmocka_unit_test(next_is_the_earliest)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
