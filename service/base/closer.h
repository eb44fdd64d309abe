/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Closing descriptors that came from applications. The close of the last descriptor of a file
 * may sleep for as long as its owner likes (SO_LINGER; a file system served by a program), so
 * it is done by threads of its own. Main thread only, but for what those threads do.
 */
#ifndef SERVICE_BASE_CLOSER_H
#define SERVICE_BASE_CLOSER_H

#include <stdint.h>

/* Start the threads; once. Returns 0 or -errno. Before, and without it, closer_close() closes at once. */
int closer_open(void);
/* Close @fd soon. Never sleeps. Negative: nothing. */
void closer_close(int fd);
/* Descriptors that wait to be closed: who brings more of them should wait, too. */
uint32_t closer_backlog(void);

#endif
