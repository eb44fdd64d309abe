/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a program sees of epoll, poll, select and signals. Run by test_waiting.py on plain Linux
 * and under the interposition library, with the name of a case; both must print the same.
 */
#define _GNU_SOURCE 1
#include "tests/unit/waiting/lab.h"

#include <signal.h>

/* clang-format off */
#define CASES(X) \
	X(levels) X(reset) X(write_space) X(oneshot) X(errors) \
	X(dup) X(many) X(starve) X(nested) X(nested_poll) \
	X(inherited) X(inherited_unused) X(passed) X(threads) X(exclusive) \
	X(closed_while_waiting) X(mixed) X(poll_many) X(select_all) X(select_big) \
	X(select_except) X(timeouts) X(interrupts) X(masks) X(signals_among_wakes) \
	X(longjmp) X(longjmp_busy) X(cancel) X(idle)
/* clang-format on */

#define CASE_DECLARE(name) CASE(name);
CASES(CASE_DECLARE)

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(void);
	} all[] = {
#define CASE_ENTRY(name) {#name, case_##name},
		CASES(CASE_ENTRY)
#undef CASE_ENTRY
	};

	signal(SIGPIPE, SIG_IGN);
	alarm(0);
	for (size_t i = 0; argc > 1 && i < sizeof(all) / sizeof(*all); i++) {
		if (!strcmp(argv[1], all[i].name)) {
			setvbuf(stdout, NULL, _IOFBF, 1 << 16);
			all[i].run();
			return 0;
		}
	}
	return 2;
}
