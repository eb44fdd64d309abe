/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sequence-number arithmetic: order modulo 2^32. */
/* links: */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "service/tcp/seq.h"

static void order_holds_across_the_wrap(void **state)
{
	static const uint32_t base[] = {0, 1, 0x7fffffff, 0x80000000u, 0xfffffff0u, 0xffffffffu};
	static const uint32_t ahead[] = {1, 2, 0x100, 0x7fffffff};

	(void)state;
	for (size_t i = 0; i < sizeof base / sizeof *base; i++) {
		assert_true(seq_leq(base[i], base[i]) && seq_geq(base[i], base[i]));
		assert_false(seq_lt(base[i], base[i]) || seq_gt(base[i], base[i]));
		for (size_t k = 0; k < sizeof ahead / sizeof *ahead; k++) {
			assert_true(seq_lt(base[i], base[i] + ahead[k]));
			assert_true(seq_gt(base[i] + ahead[k], base[i]));
			assert_false(seq_geq(base[i], base[i] + ahead[k]));
			assert_false(seq_leq(base[i] + ahead[k], base[i]));
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(order_holds_across_the_wrap)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
