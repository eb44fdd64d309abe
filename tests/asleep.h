// SPDX-License-Identifier: GPL-2.0-or-later
/* What a thread or a process is doing, as the kernel says: for tests that wait until it sleeps, or has stopped. */
#ifndef TESTS_ASLEEP_H
#define TESTS_ASLEEP_H

#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

/* The letter in the stat file at @path ('S' sleeps, 'T' is stopped); 0: there is none. */
static inline char stat_state(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[256] = "", *paren;

	if (fd < 0)
		return 0;
	if (read(fd, text, sizeof(text) - 1) < 0)
		text[0] = 0;
	close(fd);
	paren = strrchr(text, ')');
	return (char)(paren && paren[1] ? paren[2] : 0);
}

/* A thread of this process. */
static inline bool is_asleep(pid_t tid)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)tid);
	return stat_state(path) == 'S';
}

#endif
