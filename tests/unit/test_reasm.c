/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reassembly: the interval's cases, and random segments whose bytes tell which copy was kept. */
/* links: service/tcp/reasm.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "service/tcp/reasm.h"
#include "service/tcp/seq.h"

static void in_order_is_stored_whole(void **state)
{
	struct reasm r = {0, 0};
	struct reasm_result a;

	(void)state;
	reasm_segment(&r, 100, 100, 200, &a);
	assert_int_equal(a.stores, 1);
	assert_int_equal(a.store[0].start, 100);
	assert_int_equal(a.next, 200);
	assert_false(a.ooo || a.filled || a.refused);
}

static void a_gap_is_kept_then_filled(void **state)
{
	struct reasm r = {0, 0};
	struct reasm_result a;

	(void)state;
	reasm_segment(&r, 100, 200, 300, &a);
	assert_true(a.ooo && a.stores == 1 && a.next == 100);
	reasm_segment(&r, 100, 100, 200, &a);
	assert_true(a.filled && a.stores == 1 && a.next == 300);
	assert_true(reasm_empty(&r));
}

static void one_segment_may_cover_the_interval_on_both_sides(void **state)
{
	struct reasm r = {0, 0};
	struct reasm_result a;

	(void)state;
	reasm_segment(&r, 100, 200, 300, &a);
	reasm_segment(&r, 100, 50, 400, &a);
	assert_int_equal(a.stores, 2);
	assert_true(a.store[0].start == 100 && a.store[0].end == 200);
	assert_true(a.store[1].start == 300 && a.store[1].end == 400);
	assert_int_equal(a.next, 400);
}

static void the_interval_grows_at_both_ends_and_refuses_others(void **state)
{
	struct reasm r = {0, 0};
	struct reasm_result a;

	(void)state;
	reasm_segment(&r, 0, 200, 300, &a);
	reasm_segment(&r, 0, 300, 400, &a);
	reasm_segment(&r, 0, 150, 250, &a);
	assert_true(r.start == 150 && r.end == 400);
	assert_true(a.stores == 1 && a.store[0].start == 150 && a.store[0].end == 200);
	reasm_segment(&r, 0, 500, 600, &a);
	assert_true(a.refused && a.stores == 0);
	reasm_segment(&r, 0, 160, 390, &a);
	assert_true(a.stores == 0 && !a.ooo);
}

/* Every copy of a byte has its own value; the first one that was stored must be the one delivered. */
static void first_received_byte_is_stable(void **state)
{
	enum { SPAN = 4000 };
	static uint16_t first[SPAN], buf[SPAN];
	const uint32_t base = 0xfffffc00u; /* wraps inside */

	(void)state;
	srand(7);
	for (int round = 0; round < 200; round++) {
		struct reasm r = {0, 0};
		struct reasm_result a;
		uint32_t next = 0, copy = 0;

		memset(first, 0, sizeof first);
		while (next < SPAN && copy < 60000) {
			uint32_t start = (uint32_t)rand() % SPAN, len = 1 + (uint32_t)rand() % 300, end, lo;

			start = start > next + 600 ? next : start;
			end = start + len > SPAN ? SPAN : start + len;
			copy++;
			if (end <= next)
				continue;
			reasm_segment(&r, base + next, base + start, base + end, &a);
			for (unsigned i = 0; i < a.stores; i++) {
				lo = a.store[i].start - base;
				assert_true(lo >= start && lo >= next && a.store[i].end - base <= end);
				for (uint32_t o = lo; o < a.store[i].end - base; o++) {
					assert_int_equal(first[o], 0);
					first[o] = buf[o] = (uint16_t)copy;
				}
			}
			next = a.next - base;
			for (uint32_t o = 0; o < next; o++)
				assert_true(first[o] != 0);
			if (!reasm_empty(&r))
				assert_true(seq_gt(r.start, base + next) && seq_gt(r.end, r.start));
		}
		assert_int_equal(next, SPAN);
		assert_memory_equal(first, buf, sizeof buf);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(in_order_is_stored_whole),
		cmocka_unit_test(a_gap_is_kept_then_filled),
		cmocka_unit_test(one_segment_may_cover_the_interval_on_both_sides),
		cmocka_unit_test(the_interval_grows_at_both_ends_and_refuses_others),
		cmocka_unit_test(first_received_byte_is_stable),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
