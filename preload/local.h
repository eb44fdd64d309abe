/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Local connections, both ends of which are on this host: the bytes go from memory to memory, but closing, resetting and
 * killing is done by the two kernel sockets, which are connected with each other all the time. What one of them hears
 * becomes readable in one epoll descriptor of the process (core->news), which everybody who sleeps sleeps on as well, and
 * the service is told to look (core_look()); it asks Linux what has happened.
 *
 * Each end becomes FAST by itself, and each direction changes over by itself. Until the slot says IPC_ST_PAIRED all goes
 * through the kernel. Then its writer writes to the memory as soon as the kernel has nothing of it left that the peer
 * has not acknowledged (sock.tx_kernel ends), so what is in the memory comes after all that is in the kernel. Its reader
 * reads in the kernel first, until it has seen that the memory holds something, or the end, and after that found nothing
 * in the kernel (sock.rx_kernel ends). Any thread.
 */
#ifndef PRELOAD_LOCAL_H
#define PRELOAD_LOCAL_H

#include "preload/sock.h"

/* It has become FAST: from here on what its kernel socket hears is told. s->lock held. */
void local_watch(struct sock *s);
/* It is Linux's again, or another process's. s->lock held. */
void local_unwatch(struct sock *s);
/* There is news in core->news: for sockets that still use the kernel, and for the service. */
void local_check(struct core *c);
/* It is FAST, and local: the program has closed its last descriptor, or shut it down. */
void local_tell(struct sock *s);
/* A descriptor of it is about to be closed: if its service has died, what it has written goes to the kernel before that. */
void local_closing(struct sock *s);
/* A local one of @c was looked at in vain. Now and then the kernel is asked: nobody may ever sleep here. */
void local_idle(struct core *c);
/* Do the addresses of @fd alone say that both ends are here? */
bool local_is_same_host(int fd);

/* rx_kernel: what recvmsg() gives at once, with @flags of MSG_PEEK and MSG_TRUNC; -EAGAIN: now see the memory. */
ssize_t local_recv(struct sock *s, const struct iovec *iov, int cnt, size_t skip, int flags);
/* tx_kernel: the same for sendmsg(), with @flags of MSG_MORE; 0: no room now; -ESTALE: write to the memory. tx_lock held. */
ssize_t local_send(struct sock *s, const struct iovec *iov, int cnt, size_t skip, int flags);
/* tx_kernel: wait for room in the kernel, or for a moment to change over. Returns 0: look, or -errno. */
int local_wait_room(struct sock *s, uint64_t deadline);
/* tx_kernel, and paired: is it time to change over? If not, wait a little for that, and less so if @dontwait. */
void local_change_over(struct sock *s, bool dontwait);
/* EPOLL* that hold of the kernel socket, as far as the kernel is used. */
uint32_t local_events(const struct sock *s);
/* Bytes that lie in the kernel's receive queue, or in its send queue. */
uint32_t local_queued(const struct sock *s, int dir);
/* The kernel socket's pending error has been taken from it, and @told: to the program. FAST and local. */
void local_error_note(struct sock *s, bool told);
/* The kernel socket's pending error, once; 0 if none. */
int local_error_take(struct sock *s);
/* Has the connection ended although the other end never came? Then only Linux knows. */
bool local_ended(const struct sock *s);

/* ---- survive.c ---- */

/*
 * Its service has died. True: it goes on, in Linux, or, if there are unread bytes (s->survivor), FAST until they have
 * been read; false: bytes are lost. s->lock held.
 */
bool survive_start(struct sock *s);
/* Bytes are lost: both ends hear of a reset, which Linux might tell as an end in order. False: no memory. s->lock held. */
bool survive_lost(struct sock *s);
/* After a read: Linux's, if all has been read. Returns whether it is over. s->lock not held. */
bool survive_end(struct sock *s);
void survive_free(struct sock *s);

static inline bool sock_is_local(const struct sock *s)
{
	return s->slot != SLOT_NONE && sock_state(s) == SOCK_FAST && s->st.local;
}

/* Is the kernel still used in one of these directions (IO_IN, IO_OUT)? */
static inline bool local_is_mixed(const struct sock *s, int dirs)
{
	return ((dirs & IO_IN) && s->rx_kernel) || ((dirs & IO_OUT) && s->tx_kernel);
}

#endif
