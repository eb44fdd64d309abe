/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Within shadow/: what sock_diag says about one connection. Main thread. */
#ifndef SHADOW_SOCK_H
#define SHADOW_SOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "service/base/flow_key.h"

struct sock_diag {
	uint64_t cookie;
	uint32_t inode;  /* 0: no process holds it */
	uint8_t state;   /* TCP_ESTABLISHED... */
	bool md5;        /* has TCP-MD5 keys */
	uint32_t unread; /* bytes in its receive queue */
};

/*
 * Exact lookup of a connection in this network namespace. @ifindex: the device its socket is
 * bound to, or 0. Returns 0, -ENOENT or another -errno.
 */
int sock_diag_find(const struct flow_key *key, int ifindex, struct sock_diag *out);
/* The same, whichever device that was seen before it is bound to. */
int sock_diag_any(const struct flow_key *key, struct sock_diag *out);

#endif
