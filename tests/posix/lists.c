// SPDX-License-Identifier: GPL-2.0-or-later
/* The lists of cases; those of every read and every write call are made in case_read.c and case_write.c. */
#include "tests/posix/posix.h"

extern const struct test_case cases_flags[], cases_close[], cases_epoll[], cases_poll[];

const struct test_case *const case_lists[] = {
	cases_flags, cases_close, cases_epoll, cases_poll, NULL,
};
