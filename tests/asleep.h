// SPDX-License-Identifier: GPL-2.0-or-later
/* Whether a thread of this process sleeps, for tests that wait until it does. */
#ifndef TESTS_ASLEEP_H
#define TESTS_ASLEEP_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static inline bool is_asleep(pid_t tid)
{
	char path[64], text[256] = "", *state;
	int fd, n;

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)tid);
	fd = open(path, O_RDONLY);
	n = fd >= 0 ? (int)read(fd, text, sizeof(text) - 1) : 0;
	close(fd);
	state = n > 0 ? strrchr(text, ')') : NULL;
	return state && state[1] && state[2] == 'S';
}

#endif
