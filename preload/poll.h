/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* poll() with a deadline, for select(). */
#ifndef PRELOAD_POLL_H
#define PRELOAD_POLL_H

#include <poll.h>

#include "preload/wait.h"

/* As poll(); @mask as for ppoll(), may be NULL. Returns entries ready, or -1 with errno. */
int poll_until(struct pollfd *fds, nfds_t n, uint64_t deadline, const sigset_t *mask);
/* The thread ends. */
void poll_thread_exit(void);

#endif
