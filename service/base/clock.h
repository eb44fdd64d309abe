/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Time is read in one place per loop and passed on as an argument, so that protocol
 * code can be tested with a clock of the test's own. Monotonic, in nanoseconds.
 */
#ifndef SERVICE_BASE_CLOCK_H
#define SERVICE_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

#define NS_PER_US 1000ull
#define NS_PER_MS 1000000ull
#define NS_PER_S 1000000000ull

static inline uint64_t clock_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

#endif
