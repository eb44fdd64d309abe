/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The ring between two threads: order, contents, full and empty, the end of the memory. */
/* links: service/ipc/recring.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "service/ipc/recring.h"

static void put(struct recring *r, uint32_t type, uint32_t len, uint8_t fill)
{
	uint8_t *p = recring_reserve(r, type, len);

	assert_non_null(p);
	assert_int_equal((uintptr_t)p % 8, 0);
	memset(p, fill, len);
	recring_commit(r);
}

static void get(struct recring *r, uint32_t type, uint32_t len, uint8_t fill)
{
	uint32_t t, l;
	uint8_t *p = recring_peek(r, &t, &l);

	assert_non_null(p);
	assert_int_equal(t, type);
	assert_int_equal(l, len);
	for (uint32_t i = 0; i < len; i++)
		assert_int_equal(p[i], fill);
	recring_consume(r);
}

static void sizes_are_checked(void **state)
{
	struct recring r;

	(void)state;
	assert_int_equal(recring_open(&r, 0), -EINVAL);
	assert_int_equal(recring_open(&r, 2048), -EINVAL);
	assert_int_equal(recring_open(&r, 5000), -EINVAL);
	assert_int_equal(recring_open(&r, 4096), 0);
	assert_null(recring_reserve(&r, 1, 4096 / 4 + 1));
	assert_null(recring_reserve(&r, 1, UINT32_MAX));
	assert_non_null(recring_reserve(&r, 1, 4096 / 4));
	recring_close(&r);
	recring_close(&r); /* twice is harmless */
}

static void empty_and_in_order(void **state)
{
	struct recring r;
	uint32_t t, l;

	(void)state;
	assert_int_equal(recring_open(&r, 4096), 0);
	assert_true(recring_empty(&r));
	assert_null(recring_peek(&r, &t, &l));
	put(&r, 1, 0, 0);
	put(&r, 2, 1, 0xaa);
	put(&r, 3, 9, 0xbb);
	assert_false(recring_empty(&r));
	get(&r, 1, 0, 0);
	get(&r, 2, 1, 0xaa);
	get(&r, 3, 9, 0xbb);
	assert_true(recring_empty(&r));
	recring_close(&r);
}

static void nothing_is_visible_before_commit(void **state)
{
	struct recring r;
	uint32_t t, l;

	(void)state;
	assert_int_equal(recring_open(&r, 4096), 0);
	assert_non_null(recring_reserve(&r, 1, 100));
	assert_true(recring_empty(&r));
	assert_null(recring_peek(&r, &t, &l));
	put(&r, 2, 10, 7); /* reserved again: the first was given up */
	get(&r, 2, 10, 7);
	assert_null(recring_peek(&r, &t, &l));
	recring_close(&r);
}

static void peek_does_not_consume(void **state)
{
	struct recring r;
	uint32_t t, l;
	void *p;

	(void)state;
	assert_int_equal(recring_open(&r, 4096), 0);
	put(&r, 5, 16, 3);
	p = recring_peek(&r, &t, &l);
	assert_ptr_equal(recring_peek(&r, &t, &l), p);
	get(&r, 5, 16, 3);
	recring_close(&r);
}

/* Every length at every place, never empty: records are contiguous and whole across the end of the memory. */
static void wraps_with_every_length(void **state)
{
	struct recring r;
	uint8_t fill = 0;

	(void)state;
	assert_int_equal(recring_open(&r, 4096), 0);
	put(&r, 1, 0, 0);
	for (uint32_t len = 0; len <= 1024; len++) {
		put(&r, len, len, ++fill);
		get(&r, 1, len ? (len - 1) / 2 : 0, (uint8_t)(fill - 1)); /* what the last round left */
		put(&r, 1, len / 2, fill);
		get(&r, len, len, fill);
		assert_false(recring_empty(&r));
	}
	recring_close(&r);
}

/* What goes round without ever being many uses the start of the memory alone, and a burst all of it as ever. */
static void empty_rings_begin_anew(void **state)
{
	const uint32_t size = 1 << 20;
	struct recring r;
	uint32_t n, t, l, bursts = 0;

	(void)state;
	assert_int_equal(recring_open(&r, size), 0);
	for (uint32_t i = 0; i < 20000; i++) {
		uint32_t len = i * 2654435761u >> 24;

		for (uint32_t k = 0; k < 3; k++) {
			uint8_t *p = recring_reserve(&r, i, len + k);

			assert_non_null(p);
			assert_true(bursts || p + len + k <= r.data + size / 8);
			memset(p, (int)(i + k), len + k);
			recring_commit(&r);
		}
		for (uint32_t k = 0; k < 3; k++)
			get(&r, i, len + k, (uint8_t)(i + k));
		if (i % 1000 != 999 || i < 10000)
			continue;
		for (n = 0; recring_reserve(&r, n, 56); n++)
			recring_commit(&r);
		assert_true(n >= size / 64 - 1);
		for (uint32_t k = 0; k < n; k++, recring_consume(&r)) {
			assert_non_null(recring_peek(&r, &t, &l));
			assert_int_equal(t, k);
		}
		bursts++;
	}
	assert_int_equal(bursts, 10);
	recring_close(&r);
}

static void full_then_room_again(void **state)
{
	struct recring r;
	uint32_t in = 0, gone = 0;

	(void)state;
	assert_int_equal(recring_open(&r, 4096), 0);
	for (int round = 0; round < 50; round++) {
		while (recring_reserve(&r, in, 200)) {
			recring_commit(&r);
			in++;
		}
		assert_true(in - gone >= 4096 / 208 - 2); /* at most a filler is lost */
		for (uint32_t k = 0; k < 7; k++, gone++) {
			uint32_t t, l;

			assert_non_null(recring_peek(&r, &t, &l));
			assert_int_equal(t, gone);
			assert_int_equal(l, 200);
			recring_consume(&r);
		}
	}
	recring_close(&r);
}

/* ---- two threads ---- */

enum { RECORDS = 200000 };

static uint32_t stress_len(uint32_t i)
{
	return i * 2654435761u >> 23; /* 0 .. 511 */
}

static void *producer(void *arg)
{
	struct recring *r = arg;

	for (uint32_t i = 0; i < RECORDS; i++) {
		uint32_t len = stress_len(i);
		uint8_t *p;

		while (!(p = recring_reserve(r, i, len)))
			sched_yield();
		memset(p, (int)(i & 0xff), len);
		recring_commit(r);
	}
	return NULL;
}

static void threads_agree(void **state)
{
	struct recring r;
	pthread_t thread;

	(void)state;
	assert_int_equal(recring_open(&r, 8192), 0);
	assert_int_equal(pthread_create(&thread, NULL, producer, &r), 0);
	for (uint32_t i = 0; i < RECORDS; i++) {
		uint32_t t, l;
		uint8_t *p;

		while (!(p = recring_peek(&r, &t, &l)))
			sched_yield();
		assert_int_equal(t, i);
		assert_int_equal(l, stress_len(i));
		if (l)
			assert_true(p[0] == (i & 0xff) && p[l / 2] == (i & 0xff) && p[l - 1] == (i & 0xff));
		recring_consume(&r);
	}
	pthread_join(thread, NULL);
	assert_true(recring_empty(&r));
	recring_close(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_checked),
		cmocka_unit_test(empty_and_in_order),
		cmocka_unit_test(nothing_is_visible_before_commit),
		cmocka_unit_test(peek_does_not_consume),
		cmocka_unit_test(wraps_with_every_length),
		cmocka_unit_test(empty_rings_begin_anew),
		cmocka_unit_test(full_then_room_again),
		cmocka_unit_test(threads_agree),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
