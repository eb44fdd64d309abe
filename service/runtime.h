/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where the control socket is when nobody has said it, and the directory for it. Main thread. */
#ifndef SERVICE_RUNTIME_H
#define SERVICE_RUNTIME_H

#include "service/config.h"

/* Into c->socket: the usual place, or in a user's own service that of the user. Returns 0, or -errno with one line in @why. */
int runtime_socket(struct config *c, char *why, unsigned why_size);
/* A user's own service: make its directory, or see that what is there is the user's alone. As above. */
int runtime_open(const struct config *c, char *why, unsigned why_size);
/* After a runtime_open() that has succeeded; the socket is gone: so is its directory. */
void runtime_close(const struct config *c);

#endif
