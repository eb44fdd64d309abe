/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TCP options of every shape: what peers send, what they should not, and lengths that lie. The
 * bytes lie in memory of just their size, so that a sanitizer sees a read beyond.
 */
/* links: service/wire/options.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <string.h>

#include "service/base/compiler.h"
#include "service/wire/parse.h"

struct options_case {
	const char *name;
	uint8_t len, opt[40];
	struct tcp_options want;
};

static const struct options_case options_table[] = {
	{"none", 0, {0}, {0}},
	{"nops", 4, {1, 1, 1, 1}, {0}},
	{"end first, the rest is not read", 12, {0, 2, 4, 5, 180}, {0}},
	{"mss", 4, {2, 4, 5, 180}, {.has_mss = true, .mss = 1460}},
	{"mss of 0", 4, {2, 4, 0, 0}, {.has_mss = true}},
	{"timestamps, the usual way",
	 12,
	 {1, 1, 8, 10, 0, 0, 1, 2, 0xff, 0, 0, 9},
	 {.has_ts = true, .tsval = 258, .tsecr = 0xff000009}},
	{"timestamps unaligned",
	 11,
	 {1, 8, 10, 0, 0, 1, 2, 0xff, 0, 0, 9},
	 {.has_ts = true, .tsval = 258, .tsecr = 0xff000009}},
	{"nearly the usual way: end", 12, {1, 0, 8, 10, 0, 0, 1, 2, 0, 0, 0, 9}, {0}},
	{"nearly the usual way: length", 12, {1, 1, 8, 9, 0, 0, 1, 2, 0, 0, 9, 0}, {0}},
	{"timestamps, then end",
	 12,
	 {8, 10, 0, 0, 1, 2, 0xff, 0, 0, 9, 0, 1},
	 {.has_ts = true, .tsval = 258, .tsecr = 0xff000009}},
	{"a whole SYN",
	 20,
	 {2, 4, 5, 180, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7},
	 {.has_mss = true,
	  .mss = 1460,
	  .sack_permitted = true,
	  .has_ts = true,
	  .tsval = 1,
	  .has_wscale = true,
	  .wscale = 7}},
	{"shift of 200 as received", 3, {3, 3, 200}, {.has_wscale = true, .wscale = 200}},
	{"one block", 12, {1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2}, {.sack_count = 1, .sack = {{1, 2}}}},
	{"three blocks and timestamps",
	 40,
	 {1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1, 5, 26, 0, 0, 0, 1,
	  0, 0, 0, 2,  0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5,  0, 0, 0, 6},
	 {.has_ts = true, .tsval = 1, .tsecr = 2, .sack_count = 3, .sack = {{1, 2}, {3, 4}, {5, 6}}}},
	{"four blocks",
	 34,
	 {5, 34, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0, 8},
	 {.sack_count = 4, .sack = {{1, 2}, {3, 4}, {5, 6}, {7, 8}}}},
	{"half a block", 8, {5, 6, 0, 0, 0, 1, 1, 1}, {0}},
	{"a block and a half", 14, {5, 14, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3}, {0}},
	{"no block", 2, {5, 2}, {0}},
	{"two options of blocks: no more than fit",
	 40,
	 {5, 18, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 5, 18, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 7, 0, 0, 0, 8},
	 {.sack_count = 4, .sack = {{1, 2}, {3, 4}, {5, 6}, {7, 8}}}},
	{"length 0", 4, {2, 0, 5, 180}, {.malformed = true}},
	{"length 1", 4, {8, 1, 1, 1}, {.malformed = true}},
	{"length 0 of a kind unknown", 4, {99, 0, 1, 1}, {.malformed = true}},
	{"beyond the end", 4, {8, 10, 0, 0}, {.malformed = true}},
	{"beyond the end by one", 4, {99, 5, 0, 0}, {.malformed = true}},
	{"length 255", 4, {2, 255, 0, 0}, {.malformed = true}},
	{"kind without a length", 1, {8}, {.malformed = true}},
	{"kind without a length at the end", 4, {1, 1, 1, 2}, {.malformed = true}},
	{"good, then bad: what was good stays",
	 8,
	 {2, 4, 5, 180, 3, 0, 0, 0},
	 {.has_mss = true, .mss = 1460, .malformed = true}},
	{"mss of wrong length is skipped", 8, {2, 3, 5, 1, 3, 3, 2, 1}, {.has_wscale = true, .wscale = 2}},
	{"timestamps of wrong length are skipped",
	 12,
	 {8, 9, 1, 2, 3, 4, 5, 6, 7, 3, 3, 2},
	 {.has_wscale = true, .wscale = 2}},
	{"permitted of wrong length", 4, {4, 3, 0, 1}, {0}},
	{"scale of wrong length", 4, {3, 4, 7, 7}, {0}},
	{"MD5 signature", 18, {19, 18}, {.unknown = true}},
	{"MPTCP, then mss", 8, {30, 4, 0, 0, 2, 4, 5, 180}, {.unknown = true, .has_mss = true, .mss = 1460}},
	{"fast open", 4, {34, 2, 1, 1}, {.unknown = true}},
	{"an experiment of 40 bytes", 40, {254, 40}, {.unknown = true}},
};

static void options_cases(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(options_table); i++) {
		const struct options_case *c = &options_table[i];
		uint8_t *exact = malloc(c->len ? c->len : 1);
		struct tcp_options got;

		assert_non_null(exact);
		memcpy(exact, c->opt, c->len);
		memset(&got, 0xff, sizeof got);
		tcp_options_parse(exact, c->len, &got);
		free(exact);
		if (memcmp(&got, &c->want, sizeof got))
			fail_msg("%s", c->name);
	}
}

/* Every kind with every length at the end of the space: ends, reads nothing beyond, and says what it is. */
static void options_kind_by_length(void **state)
{
	(void)state;
	for (uint32_t room = 1; room <= 40; room++)
		for (uint32_t kind = 0; kind < 256; kind++)
			for (uint32_t len = 0; len < 256; len += len < 44 ? 1 : 53) {
				uint8_t *exact = malloc(room);
				struct tcp_options got;

				assert_non_null(exact);
				memset(exact, 1, room);
				exact[0] = (uint8_t)kind;
				if (room > 1)
					exact[1] = (uint8_t)len;
				tcp_options_parse(exact, room, &got);
				free(exact);
				assert_true(got.sack_count <= WIRE_SACK_BLOCKS);
				if (kind > 1)
					assert_int_equal(got.malformed, room < 2 || len < 2 || len > room);
			}
}

static void random_bytes(void **state)
{
	(void)state;
	srand(5);
	for (int i = 0; i < 100000; i++) {
		uint32_t len = (uint32_t)rand() % 41;
		uint8_t *exact = malloc(len ? len : 1);
		struct tcp_options got;

		assert_non_null(exact);
		for (uint32_t k = 0; k < len; k++)
			exact[k] = (uint8_t)(rand() % (i & 1 ? 12 : 256));
		tcp_options_parse(exact, len, &got);
		assert_true(got.sack_count <= WIRE_SACK_BLOCKS);
		free(exact);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(options_cases),
		cmocka_unit_test(options_kind_by_length),
		cmocka_unit_test(random_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
