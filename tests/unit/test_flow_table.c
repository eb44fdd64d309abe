/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The flow table against a plain array, with random adding and deleting. */
/* links: service/fast/flow_table.c service/base/hash.c */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "service/fast/flow_table.h"

#define FLOWS 500

static struct flow_key key_of(uint32_t i)
{
	struct flow_key k;

	memset(&k, 0, sizeof k);
	k.local.w[3] = 0x0100000a;
	k.remote.w[3] = 0x0200000a + (i % 7 << 24);
	k.local_port = (uint16_t)(i / 7);
	k.remote_port = 6379;
	return k;
}

static void random_use_matches_an_array(void **state)
{
	const struct hash_key hash = {1, 2};
	bool present[2 * FLOWS] = {false};
	struct flow_table t;
	uint32_t count = 0;

	(void)state;
	assert_int_equal(flow_table_open(&t, FLOWS, &hash), 0);
	srand(3);
	for (int step = 0; step < 40000; step++) {
		uint32_t i = (uint32_t)rand() % (2 * FLOWS), probe = (uint32_t)rand() % (2 * FLOWS);
		struct flow_key k = key_of(i), p = key_of(probe);

		if (rand() % 2) {
			int want = present[i] ? -EEXIST : count == FLOWS ? -ENOSPC : 0;

			assert_int_equal(flow_table_add(&t, &k, i), want);
			count += want == 0;
			present[i] |= want == 0;
		} else {
			assert_int_equal(flow_table_del(&t, &k), present[i] ? 0 : -ENOENT);
			count -= present[i];
			present[i] = false;
		}
		assert_int_equal(flow_table_find(&t, &p), present[probe] ? probe : FLOW_NONE);
	}
	for (uint32_t i = 0; i < 2 * FLOWS; i++) {
		struct flow_key k = key_of(i);

		assert_int_equal(flow_table_find(&t, &k), present[i] ? i : FLOW_NONE);
	}
	flow_table_close(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(random_use_matches_an_array)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
