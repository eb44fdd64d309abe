/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Epoll instances: what epoll.c (waiting) and interest.c (membership) share. */
#ifndef PRELOAD_EPOLL_H
#define PRELOAD_EPOLL_H

#include "preload/sock.h"

struct item_list {
	struct item *head, *tail;
};

struct ep {
	struct file file;
	int epfd;
	struct lock lock; /* the lists below */
	struct item_list ready;
	struct item *all;
	_Atomic uint32_t nready, sleepers, users; /* users: items in USER */
	_Atomic uint32_t turns;
	_Atomic bool nested;         /* watched by another epoll: its sockets stay in Linux */
	_Atomic(struct core *) core; /* whose contexts it listens to */
	_Atomic uint64_t contexts;   /* bits */
	void *pool_link;
};

#define EP_MARK 0xf7a95a5a00000001ull /* data of our own registrations */
#define EP_TAG 0xf7a9000000000000ull  /* | item pointer */
#define EP_TAG_MASK 0xffff000000000000ull
#define EP_FLAGS ((uint32_t)(EPOLLET | EPOLLONESHOT | EPOLLEXCLUSIVE | EPOLLWAKEUP))

extern _Atomic bool ep_tags_used;

/* Listen to a context of @c in the kernel's set as well. */
bool ep_listen(struct ep *ep, struct core *c, uint32_t context);
void ep_wake(struct ep *ep);
/* Append to the ready list if it is not there; wake sleepers unless @ep is @self. */
void item_queue(struct item *it, struct ep *self);
/* ep->lock held. */
void item_unqueue(struct item *it);

#endif
