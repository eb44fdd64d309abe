/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Local connections, both ends of which are on this host: the bytes go from memory to memory, but closing, resetting and
 * killing is done by the two kernel sockets, which are connected with each other all the time. What one of them hears
 * becomes readable in one epoll descriptor of the process (core->news), which everybody who sleeps sleeps on as well, and
 * the service is told to look (core_look()); it asks Linux what has happened. Any thread.
 */
#ifndef PRELOAD_LOCAL_H
#define PRELOAD_LOCAL_H

#include "preload/sock.h"

/* It has become FAST: from here on what its kernel socket hears is told. s->lock held. */
void local_watch(struct sock *s);
/* It is Linux's again, or another process's. s->lock held. */
void local_unwatch(struct sock *s);
/* There is news in core->news: tell the service. */
void local_check(struct core *c);
/* It is FAST, and local: the program has closed its last descriptor, or shut it down. */
void local_tell(struct sock *s);
/* It was looked at in vain. Now and then the kernel is asked: nobody may ever sleep here. */
void local_idle(struct sock *s);
/* Do the addresses of @fd alone say that both ends are here? */
bool local_is_same_host(int fd);

static inline bool sock_is_local(const struct sock *s)
{
	return s->slot != SLOT_NONE && sock_state(s) == SOCK_FAST && s->st.local;
}

#endif
