/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The bell: nothing rung is lost, nobody starves, any content is harmless. */
/* links: */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <pthread.h>
#include <string.h>

#include "service/base/compiler.h"
#include "service/ipc/bell.h"

static struct bell bell;
static uint32_t out[BELL_MAX];

static void rung_once_taken_once(void **state)
{
	static const uint32_t members[] = {0, 1, 63, 64, 4095, 4096, 8191, BELL_MAX - 1};
	uint32_t cursor = 0;

	(void)state;
	memset(&bell, 0, sizeof bell);
	assert_false(bell_any(&bell));
	for (int twice = 0; twice < 2; twice++)
		for (size_t i = 0; i < ARRAY_SIZE(members); i++)
			bell_ring(&bell, members[i]);
	assert_true(bell_any(&bell));
	assert_int_equal(bell_take(&bell, out, BELL_MAX, &cursor), ARRAY_SIZE(members));
	for (size_t i = 0; i < ARRAY_SIZE(members); i++)
		assert_int_equal(out[i], members[i]);
	assert_false(bell_any(&bell));
	assert_int_equal(bell_take(&bell, out, BELL_MAX, &cursor), 0);
}

static void out_of_range_stays_inside(void **state)
{
	uint32_t cursor = UINT32_MAX;

	(void)state;
	memset(&bell, 0, sizeof bell);
	bell_ring(&bell, UINT32_MAX);
	bell_ring(&bell, BELL_MAX);
	assert_int_equal(bell_take(&bell, out, BELL_MAX, &cursor), 2);
	for (int i = 0; i < 2; i++)
		assert_true(out[i] == 0 || out[i] == BELL_MAX - 1);
}

static void what_does_not_fit_stays(void **state)
{
	uint32_t cursor = 0, total = 0, n;
	uint8_t seen[BELL_MAX] = {0};

	(void)state;
	memset(&bell, 0, sizeof bell);
	for (uint32_t i = 0; i < BELL_MAX; i += 3)
		bell_ring(&bell, i);
	while ((n = bell_take(&bell, out, 10, &cursor))) {
		assert_true(n <= 10);
		for (uint32_t i = 0; i < n; i++)
			seen[out[i]]++;
		total += n;
	}
	assert_int_equal(total, (BELL_MAX + 2) / 3);
	for (uint32_t i = 0; i < BELL_MAX; i++)
		assert_int_equal(seen[i], i % 3 == 0);
	assert_int_equal(bell_take(&bell, out, 0, &cursor), 0);
}

/* Low members that ring all the time do not keep a high one, of the same summary word or another, waiting. */
static void low_members_do_not_starve_high_ones(void **state)
{
	static const uint32_t high[] = {200, 300, 4000, 4096, BELL_MAX - 1};

	(void)state;
	for (size_t h = 0; h < ARRAY_SIZE(high); h++) {
		uint32_t cursor = 0, takes = 0;
		bool found = false;

		memset(&bell, 0, sizeof bell);
		bell_ring(&bell, high[h]);
		for (; !found && takes < 10; takes++) {
			uint32_t n;

			for (uint32_t i = 0; i < 128; i++)
				bell_ring(&bell, i);
			n = bell_take(&bell, out, 64, &cursor);
			for (uint32_t i = 0; i < n; i++)
				found |= out[i] == high[h];
		}
		assert_true(found);
		assert_true(takes <= 4);
	}
}

/* A ringer that died between the word and the summary: the next ring of the word finds both. */
static void half_a_ring_is_found_late(void **state)
{
	uint32_t cursor = 0;

	(void)state;
	memset(&bell, 0, sizeof bell);
	atomic_fetch_or(&bell.word[2], 1ull << 5);
	assert_int_equal(bell_take(&bell, out, BELL_MAX, &cursor), 0);
	bell_ring(&bell, 2 * 64 + 9);
	assert_int_equal(bell_take(&bell, out, BELL_MAX, &cursor), 2);
	assert_int_equal(out[0], 2 * 64 + 5);
	assert_int_equal(out[1], 2 * 64 + 9);
}

static void any_content_is_harmless(void **state)
{
	uint32_t cursor = 12345, n;

	(void)state;
	memset(&bell, 0xff, sizeof bell);
	n = bell_take(&bell, out, BELL_MAX, &cursor);
	assert_int_equal(n, BELL_MAX);
	for (uint32_t i = 0; i < n; i++)
		assert_true(out[i] < BELL_MAX);
	srand(7);
	for (int round = 0; round < 200; round++) {
		for (size_t i = 0; i < sizeof bell; i++)
			((uint8_t *)&bell)[i] = (uint8_t)rand();
		cursor = (uint32_t)rand();
		n = bell_take(&bell, out, 100, &cursor);
		assert_true(n <= 100);
		for (uint32_t i = 0; i < n; i++)
			assert_true(out[i] < BELL_MAX);
	}
}

/* ---- threads ---- */

enum { RINGERS = 3, RINGS = 100000, STRESS_MEMBERS = 700 };
static _Atomic uint32_t news[RINGERS][STRESS_MEMBERS];
static uint32_t last_seen[RINGERS][STRESS_MEMBERS];
static _Atomic uint32_t running;

static void *ringer(void *arg)
{
	uint32_t me = (uint32_t)(uintptr_t)arg, x = me + 1;

	for (uint32_t i = 1; i <= RINGS; i++) {
		x = x * 1664525u + 1013904223u;
		uint32_t m = (x >> 8) % STRESS_MEMBERS;

		atomic_store_explicit(&news[me][m], i, memory_order_release);
		bell_ring(&bell, m);
	}
	atomic_fetch_sub(&running, 1);
	return NULL;
}

static void take_all(uint32_t *cursor)
{
	uint32_t n;

	while ((n = bell_take(&bell, out, 64, cursor)))
		for (uint32_t i = 0; i < n; i++)
			for (uint32_t r = 0; r < RINGERS; r++)
				last_seen[r][out[i]] = atomic_load_explicit(&news[r][out[i]], memory_order_acquire);
}

static void threads_lose_nothing(void **state)
{
	pthread_t thread[RINGERS];
	uint32_t cursor = 0;

	(void)state;
	memset(&bell, 0, sizeof bell);
	atomic_store(&running, RINGERS);
	for (uintptr_t i = 0; i < RINGERS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, ringer, (void *)i), 0);
	while (atomic_load(&running))
		take_all(&cursor);
	for (int i = 0; i < RINGERS; i++)
		pthread_join(thread[i], NULL);
	take_all(&cursor);
	for (uint32_t r = 0; r < RINGERS; r++)
		for (uint32_t m = 0; m < STRESS_MEMBERS; m++)
			assert_int_equal(last_seen[r][m], atomic_load(&news[r][m]));
	assert_false(bell_any(&bell));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rung_once_taken_once),      cmocka_unit_test(out_of_range_stays_inside),
		cmocka_unit_test(what_does_not_fit_stays),   cmocka_unit_test(low_members_do_not_starve_high_ones),
		cmocka_unit_test(half_a_ring_is_found_late), cmocka_unit_test(any_content_is_harmless),
		cmocka_unit_test(threads_lose_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
