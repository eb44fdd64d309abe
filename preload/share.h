/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Connections that other processes may hold as well: who uses them in the kernel (share.c). */
#ifndef PRELOAD_SHARE_H
#define PRELOAD_SHARE_H

#include "preload/inherit.h"

/* May another process hold it? */
static inline bool share_is(const struct sock *s)
{
	return atomic_load_explicit(&s->shared, memory_order_relaxed) ||
	       s->generation != atomic_load_explicit(&inherit_generation, memory_order_seq_cst);
}

/*
 * @s (SOCK_LINUX) is about to be used in the kernel, or watched there: says so, once. True: another process has had it
 * adopted; it is AWAY now. The caller has raised FILE_CALL, or holds no lock of @s.
 */
bool share_enter_slow(struct sock *s);
static inline bool share_enter(struct sock *s)
{
	/* after FILE_CALL was raised: pairs with share_rest() */
	return unlikely(share_is(s)) && !atomic_load_explicit(&s->marked, memory_order_seq_cst) && share_enter_slow(s);
}

/* Other processes may hold it from now on. Keeps errno. */
void share_note(struct sock *s);
/* This process uses it in the kernel. False: another one has had it adopted (or there is a filter of the program's). */
bool share_mark(struct sock *s);
void share_mark_fd(int fd); /* the same for a socket that is not ours */
/* The same for good: neither closing nor forking changes it. */
void share_mark_open(struct sock *s);
/* Is the socket of @fd the connection: no shadow, and not about to be made it again? Ask after share_mark(). */
bool share_is_whole(int fd);
/* About to be adopted: this process does not use it in the kernel. s->lock held. */
void share_unmark(struct sock *s);
/* The mark goes, if no thread of this process is inside the kernel's socket: it waits outside, or leaves it to a child. */
void share_rest(struct sock *s);
/* A descriptor of @s was closed, and with it the mark. */
void share_lost(struct sock *s);
/* @fd was inherited or received: a tracked socket, with a reference; one that is known here under another number is the
 * same. NULL: no memory, or it is not to be tracked. */
struct sock *share_track(int fd, uint64_t cookie);
/* A message was received: are there connections in it? */
void share_received(const struct msghdr *m);
/* Is it the standard input of this process, and read by stdio, or perhaps soon? */
bool share_is_read_by_stdio(const struct sock *s);

bool share_forget(struct sock *s); /* its last reference is gone; false: its memory must stay */
void share_fork(void);             /* about to fork: what is in use says so, and what is not no more */
void share_child(void);

#endif
