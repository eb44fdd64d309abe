// SPDX-License-Identifier: GPL-2.0-or-later
/* The lists of cases; those of every read and every write call are made in case_read.c and case_write.c. */
#include "tests/posix/posix.h"

const struct test_case *const case_lists[] = {
	NULL,
};
