/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Within shadow/: the set of this host's own addresses, each with its interface. Main thread. */
#ifndef SHADOW_ADDRESSES_H
#define SHADOW_ADDRESSES_H

#include <stdbool.h>
#include <stddef.h>

#include "service/base/flow_key.h"

struct address {
	struct ip_addr addr;
	int ifindex;
};

/* Sorted by address, then interface: the same address may be on several. */
struct addresses {
	struct address *v;
	size_t n, room;
};

/* Returns 1 if it is new, 0 if it was there, -ENOMEM. */
int addresses_add(struct addresses *s, const struct ip_addr *addr, int ifindex);
/* Returns whether it was there. */
bool addresses_remove(struct addresses *s, const struct ip_addr *addr, int ifindex);
bool addresses_have(const struct addresses *s, const struct ip_addr *addr);
void addresses_free(struct addresses *s);

#endif
