/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What only Linux can do: the connection goes back to it first. */
#ifndef PRELOAD_HANDBACK_H
#define PRELOAD_HANDBACK_H

#include "preload/sock.h"

/*
 * The connection of @fd, if it is one, is Linux's from here on and stays so. Not from inside a call (sock_enter()). Blocks
 * for some hundred microseconds if it is carried by the service. If the service does not give it
 * back it stays as it is. Keeps errno.
 */
void handback(int fd);
/* The same if sending with MSG_OOB or MSG_ZEROCOPY in @flags needs it. */
void handback_send(int fd, int flags);
/* The program makes I/O that cannot be seen (io_uring): all connections, also those to come. */
void handback_all(void);

#endif
