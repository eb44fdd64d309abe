/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reassembly: the cases of intervals, and random segments whose bytes tell which copy was kept. */
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

struct rig {
	struct reasm r;
	struct reasm_piece piece[REASM_PIECES];
	struct reasm_result a;
};

static void rig_segment(struct rig *g, uint32_t next, uint32_t start, uint32_t end)
{
	reasm_segment(&g->r, g->piece, next, start, end, &g->a);
}

static void assert_piece(const struct reasm_piece *p, uint32_t start, uint32_t end)
{
	assert_int_equal(p->start, start);
	assert_int_equal(p->end, end);
}

static void in_order_is_stored_whole(void **state)
{
	struct rig g = {0};

	(void)state;
	rig_segment(&g, 100, 100, 200);
	assert_int_equal(g.a.stores, 1);
	assert_piece(&g.a.store[0], 100, 200);
	assert_int_equal(g.a.next, 200);
	assert_false(g.a.ooo || g.a.filled || g.a.refused);
}

static void a_gap_is_kept_then_filled(void **state)
{
	struct rig g = {0};

	(void)state;
	rig_segment(&g, 100, 200, 300);
	assert_true(g.a.ooo && g.a.stores == 1 && g.a.next == 100);
	rig_segment(&g, 100, 100, 200);
	assert_true(g.a.filled && g.a.stores == 1 && g.a.next == 300);
	assert_true(reasm_empty(&g.r));
}

static void one_segment_may_cover_an_interval_on_both_sides(void **state)
{
	struct rig g = {0};

	(void)state;
	rig_segment(&g, 100, 200, 300);
	rig_segment(&g, 100, 50, 400);
	assert_int_equal(g.a.stores, 2);
	assert_piece(&g.a.store[0], 100, 200);
	assert_piece(&g.a.store[1], 300, 400);
	assert_int_equal(g.a.next, 400);
	assert_true(reasm_empty(&g.r));
}

static void an_interval_grows_at_both_ends(void **state)
{
	struct rig g = {0};

	(void)state;
	rig_segment(&g, 0, 200, 300);
	rig_segment(&g, 0, 300, 400);
	rig_segment(&g, 0, 150, 250);
	assert_int_equal(g.r.count, 1);
	assert_piece(&g.piece[0], 150, 400);
	assert_int_equal(g.a.stores, 1);
	assert_piece(&g.a.store[0], 150, 200);
	rig_segment(&g, 0, 160, 390);
	assert_true(g.a.stores == 0 && !g.a.ooo);
}

static void intervals_apart_are_kept_up_to_a_limit_then_joined(void **state)
{
	struct rig g = {0};

	(void)state;
	for (uint32_t i = REASM_PIECES; i > 0; i--) {
		rig_segment(&g, 0, i * 100, i * 100 + 50);
		assert_true(g.a.ooo && !g.a.refused);
	}
	assert_int_equal(g.r.count, REASM_PIECES);
	rig_segment(&g, 0, 5000, 5010);
	assert_true(g.a.refused && g.a.stores == 0 && g.r.count == REASM_PIECES);
	rig_segment(&g, 0, 150, 200); /* between the first two */
	assert_true(g.a.ooo && g.a.stores == 1 && g.r.count == REASM_PIECES - 1);
	assert_piece(&g.piece[0], 100, 250);
	rig_segment(&g, 0, 0, 100);
	assert_true(g.a.filled && g.a.next == 250 && g.r.count == REASM_PIECES - 2);
	assert_piece(&g.piece[0], 300, 350);
}

static void a_segment_that_fills_too_many_gaps_is_cut(void **state)
{
	struct rig g = {0};

	(void)state;
	for (uint32_t i = 1; i <= REASM_STORES + 1; i++)
		rig_segment(&g, 0, i * 100, i * 100 + 50);
	rig_segment(&g, 0, 0, 10000);
	assert_int_equal(g.a.stores, REASM_STORES);
	assert_int_equal(g.a.next, REASM_STORES * 100 + 50);
	assert_int_equal(g.r.count, 1);
	assert_piece(&g.piece[0], (REASM_STORES + 1) * 100, (REASM_STORES + 1) * 100 + 50);
}

static void the_latest_is_reported_first(void **state)
{
	struct rig g = {0};
	struct reasm_piece out[3];

	(void)state;
	assert_int_equal(reasm_sack(&g.r, g.piece, out, 3), 0);
	for (uint32_t i = 1; i <= 4; i++)
		rig_segment(&g, 0, i * 100, i * 100 + 50);
	rig_segment(&g, 0, 250, 260);
	assert_int_equal(reasm_sack(&g.r, g.piece, out, 3), 3);
	assert_piece(&out[0], 200, 260);
	assert_piece(&out[1], 400, 450);
	assert_piece(&out[2], 300, 350);
	rig_segment(&g, 0, 0, 100); /* the first goes */
	assert_int_equal(reasm_sack(&g.r, g.piece, out, 3), 3);
	assert_piece(&out[0], 200, 260);
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
		struct rig g = {0};
		uint32_t next = 0, copy = 0;

		memset(first, 0, sizeof first);
		while (next < SPAN && copy < 60000) {
			uint32_t start = (uint32_t)rand() % SPAN, len = 1 + (uint32_t)rand() % 300, end, lo;

			start = start > next + 600 ? next : start;
			end = start + len > SPAN ? SPAN : start + len;
			copy++;
			if (end <= next)
				continue;
			rig_segment(&g, base + next, base + start, base + end);
			for (unsigned i = 0; i < g.a.stores; i++) {
				lo = g.a.store[i].start - base;
				assert_true(lo >= start && lo >= next && g.a.store[i].end - base <= end);
				for (uint32_t o = lo; o < g.a.store[i].end - base; o++) {
					assert_int_equal(first[o], 0);
					first[o] = buf[o] = (uint16_t)copy;
				}
			}
			next = g.a.next - base;
			for (uint32_t o = 0; o < next; o++)
				assert_true(first[o] != 0);
			for (uint32_t i = 0, after = base + next; i < g.r.count; after = g.piece[i++].end)
				assert_true(seq_gt(g.piece[i].start, after) &&
					    seq_gt(g.piece[i].end, g.piece[i].start));
			assert_true(g.r.count <= REASM_PIECES && g.r.latest <= g.r.count);
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
		cmocka_unit_test(one_segment_may_cover_an_interval_on_both_sides),
		cmocka_unit_test(an_interval_grows_at_both_ends),
		cmocka_unit_test(intervals_apart_are_kept_up_to_a_limit_then_joined),
		cmocka_unit_test(a_segment_that_fills_too_many_gaps_is_cut),
		cmocka_unit_test(the_latest_is_reported_first),
		cmocka_unit_test(first_received_byte_is_stable),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
