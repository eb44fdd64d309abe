/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Brief connections: accepted, not blocking, and not older than the exchanges after which they
 * might be adopted. Many live no longer, so they cost no more than one word: it takes the place of
 * the pointer in the descriptor table, and calls count themselves in and out of it. One that lives
 * on, or of which anything else is asked, becomes a tracked socket (brief_grow()), for good.
 */
#ifndef PRELOAD_BRIEF_H
#define PRELOAD_BRIEF_H

#include "preload/sock.h"

/* The number of @policy (NULL: none is known) for brief_begin(), or 0: there are too many. Once for each listener. */
uint8_t brief_policy(const struct core_policy *policy);
/* Enter @fd, just accepted. False: it must be tracked as others are. */
bool brief_begin(int fd, uint8_t policy);

/* A call on @fd begins: it is counted, so the connection is not adopted under it. Returns a token, or 0: it is none. */
uint64_t brief_enter_slow(int fd);
static inline uint64_t brief_enter(int fd)
{
	if ((unsigned)fd >= FD_MAX || !fd_is_brief(atomic_load_explicit(&fd_table[fd], memory_order_relaxed)))
		return 0;
	return brief_enter_slow(fd);
}
/* It is over, with result @n; an adoption may follow. @dir: IO_IN, IO_OUT or 0. Keeps errno. */
void brief_leave(int fd, uint64_t token, int dir, ssize_t n);

/* Which brief connection @fd is, or 0: none. */
uint64_t brief_id(int fd);
/* epoll_ctl(): true: done, with its result in *@ret. */
bool brief_ctl(int epfd, int op, int fd, struct epoll_event *ev, int *ret);
/* close() is about to be called: all is done (in a vfork child: nothing). False: @fd is none, or threads are inside. */
bool brief_close(int fd);

/* The entry of @fd is none any more: a tracked socket, or nothing where that cannot be. */
void brief_grow(int fd);
/* @old was replaced in the table at @fd. */
void brief_lost(int fd, const struct file *old);
/* In a forked child: those of the parent's, up to descriptor @top, are tracked sockets now. */
void brief_child(int top);

#endif
