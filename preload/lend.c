/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Epoll instances that somebody uses whom we cannot see: a child that inherited it, a process
 * it was passed to, an instance that is not ours. What they see is the kernel's set, so all
 * sockets in it must be Linux's. Not in a packet's way. Any thread.
 */
#define _GNU_SOURCE 1
#include "preload/epoll.h"

#define ROUND 64

void ep_leave(struct sock *s)
{
	s->try_at = NEVER;
}

/* Up to @max adopted sockets of @ep from the @from-th on, with a reference each. */
static uint32_t ep_members(struct ep *ep, uint32_t from, struct sock **out, uint32_t max)
{
	uint32_t n = 0, i = 0;

	if (!lock_take(&ep->lock))
		return 0;
	for (struct item *it = ep->all; it && n < max; it = it->all_next)
		if (it->where == ITEM_USER && i++ >= from && file_hold(&it->sock->file))
			out[n++] = it->sock;
	lock_drop(&ep->lock);
	return n;
}

void ep_lend(struct ep *ep)
{
	struct sock *socks[ROUND];
	uint32_t n = ROUND;

	/* nothing is adopted into it from here on; pairs with the look in item_can_leave() */
	atomic_store_explicit(&ep->lent, true, memory_order_seq_cst);
	for (uint32_t from = 0; n == ROUND; from += ROUND) {
		n = ep_members(ep, from, socks, ROUND);
		for (uint32_t i = 0; i < n; i++) {
			ep_leave(socks[i]);
			sock_put(socks[i]);
		}
	}
}
