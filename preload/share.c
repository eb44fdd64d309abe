/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connections that another process may hold too: inherited, passed in a message, older than a
 * fork. Not in a packet's way. Any thread.
 *
 * A process that uses such a connection in the kernel, or waits for it there, must not lose it
 * to another one's adoption: it would sleep there for ever. So it says that it uses it before it
 * does, by a mark that lasts until it closes its descriptor or ends: a record lock (POSIX, so
 * that it is the process's own and survives exec) on one byte of the socket. Then it looks for
 * the shadow's filter: if that is there, another process has the connection, and it must be
 * given back first. The service attaches the filter and then looks for marks, and refuses: one of
 * the two sees the other. The process that asks for an adoption takes its own mark off before.
 *
 * One socket is one struct sock, however many descriptors came in from outside: sockets that
 * may come again are found by their cookies.
 */
#define _GNU_SOURCE 1
#include "preload/share.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <string.h>

#include "preload/epoll.h"
#include "preload/standard.h"
#include "preload/user.h"

#define BUCKETS 1024u

static struct sock *buckets[BUCKETS]; /* index_lock */
static struct lock index_lock;
static uint32_t indexed; /* generation up to which what is older than a fork is in the index; index_lock */

/* ---- the mark ---- */

/* Returns false if the lock could not be taken or dropped. No cancellation point. */
static bool mark_set(int fd, short type)
{
	struct flock l = {.l_type = type, .l_whence = SEEK_SET, .l_start = IPC_USED_BYTE, .l_len = 1};

	return !syscall(SYS_fcntl, fd, F_SETLK, &l);
}

void share_mark_open(struct sock *s)
{
	struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = IPC_USED_BYTE, .l_len = 1};

	syscall(SYS_fcntl, s->fd, F_OFD_SETLK, &l);
}

bool share_is_whole(int fd)
{
	struct flock l = {.l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = IPC_RESTORED_BYTE, .l_len = 1};

	/* in this order: the lock is there before the filter goes */
	return !inherit_is_taken(fd) && !syscall(SYS_fcntl, fd, F_GETLK, &l) && l.l_type == F_UNLCK;
}

bool share_mark(struct sock *s)
{
	bool ok = mark_set(s->fd, F_RDLCK);

	/* in a vfork child it is the child's, and the table is the parent's */
	if (ok && !fd_maybe_vfork())
		atomic_store_explicit(&s->marked, true, memory_order_relaxed);
	return !inherit_is_taken(s->fd);
}

void share_mark_fd(int fd)
{
	mark_set(fd, F_RDLCK);
}

void share_unmark(struct sock *s)
{
	if (!share_is(s))
		return;
	mark_set(s->fd, F_UNLCK);
	atomic_store_explicit(&s->marked, false, memory_order_relaxed);
}

bool share_enter_slow(struct sock *s)
{
	int saved = errno;
	bool away = false;

	if (lock_take(&s->lock)) {
		away = !share_mark(s) && sock_state(s) == SOCK_LINUX;
		if (away) {
			s->claim = CLAIM_RETURN;
			atomic_store_explicit(&s->state, SOCK_AWAY, memory_order_release);
		}
		lock_drop(&s->lock);
	} else { /* a handler, on top of share_rest() for one: it marks for itself alone */
		mark_set(s->fd, F_RDLCK);
	}
	errno = saved;
	return away;
}

/* Is a thread of ours in the kernel on it, or waits there? Then it could not say so later. */
static bool is_inside(const struct sock *s)
{
	return sock_state(s) == SOCK_LINUX && (s->items || sock_is_inside(s));
}

/*
 * Whoever enters from the store on finds no mark, and waits for the lock; whoever has found one before has been counted,
 * and is inside.
 */
void share_rest(struct sock *s)
{
	if (!share_is(s) || !lock_take(&s->lock))
		return;
	if (atomic_exchange_explicit(&s->marked, false, memory_order_seq_cst)) {
		if (is_inside(s))
			atomic_store_explicit(&s->marked, true, memory_order_relaxed);
		else
			mark_set(s->fd, F_UNLCK);
	}
	lock_drop(&s->lock);
}

void share_lost(struct sock *s)
{
	bool locked = lock_take(&s->lock); /* who is on the way out rests after that, and not before */

	atomic_store_explicit(&s->marked, false, memory_order_seq_cst);
	if (is_inside(s))
		share_mark(s);
	if (locked)
		lock_drop(&s->lock);
}

/* ---- by cookie ---- */

/* index_lock held. */
static void index_add(struct sock *s)
{
	struct sock **bucket;

	if (s->index_cookie)
		return;
	s->index_cookie = core_cookie(s->fd);
	if (!s->index_cookie)
		return;
	bucket = &buckets[s->index_cookie % BUCKETS];
	s->index_next = *bucket;
	*bucket = s;
}

bool share_forget(struct sock *s)
{
	if (!s->index_cookie)
		return true;
	if (!lock_take(&index_lock))
		return false;
	for (struct sock **p = &buckets[s->index_cookie % BUCKETS]; *p; p = &(*p)->index_next)
		if (*p == s) {
			*p = s->index_next;
			break;
		}
	s->index_cookie = 0;
	lock_drop(&index_lock);
	return true;
}

void share_note(struct sock *s)
{
	int saved = errno;

	/* pairs with the look at it by a thread that has raised FILE_CALL */
	atomic_store_explicit(&s->shared, true, memory_order_seq_cst);
	if (!s->index_cookie && lock_take(&index_lock)) {
		index_add(s);
		lock_drop(&index_lock);
	}
	if (is_inside(s))
		share_mark(s);
	errno = saved;
}

/* What is older than a fork may come back in a message. index_lock held. */
static void index_older(void)
{
	struct sock *s;

	if (indexed == inherit_generation)
		return;
	for (int fd = -1; (s = sock_next(&fd)); sock_put(s))
		if (s->generation != inherit_generation)
			index_add(s);
	indexed = inherit_generation;
}

/* One more descriptor, unless it has none any more. */
static bool fds_hold(struct file *f)
{
	uint32_t n = atomic_load_explicit(&f->fds, memory_order_relaxed);

	while (n &&
	       !atomic_compare_exchange_weak_explicit(&f->fds, &n, n + 1, memory_order_relaxed, memory_order_relaxed))
		;
	return n != 0;
}

/* The socket of @cookie gets @fd as one more descriptor. With a reference, or NULL. index_lock held. */
static struct sock *share_find(int fd, uint64_t cookie)
{
	for (struct sock *s = buckets[cookie % BUCKETS]; s; s = s->index_next) {
		if (s->index_cookie != cookie || !file_hold(&s->file))
			continue;
		if (fds_hold(&s->file)) {
			fd_set_file(fd, &s->file);
			atomic_fetch_sub_explicit(&s->file.fds, 1, memory_order_relaxed);
			return s;
		}
		file_put(&s->file);
		return NULL;
	}
	return NULL;
}

struct sock *share_track(int fd, uint64_t cookie)
{
	struct sock *s;

	if (!cookie || !lock_take(&index_lock))
		return NULL;
	index_older();
	s = share_find(fd, cookie);
	lock_drop(&index_lock);
	if (s)
		return s;
	s = sock_track(fd, (libc()->fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
	if (s)
		share_note(s);
	return s;
}

/* ---- descriptors in messages ---- */

static bool is_connection(int fd)
{
	int protocol = 0, listens = 0;
	socklen_t len = sizeof(protocol);

	return !libc()->getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) && protocol == IPPROTO_TCP &&
	       !libc()->getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) && !listens;
}

void share_received(const struct msghdr *m)
{
	int saved = errno, fd;
	struct sock *s;

	if (user_is_confined() || !m->msg_control || m->msg_controllen < CMSG_LEN(sizeof(int)))
		return;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR((struct msghdr *)(uintptr_t)m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		for (size_t at = CMSG_LEN(0); at + sizeof(fd) <= c->cmsg_len; at += sizeof(fd)) {
			memcpy(&fd, (char *)c + at, sizeof(fd));
			/* a listener becomes known with the first connection from it */
			if ((unsigned)fd >= FD_MAX || !is_connection(fd))
				continue;
			s = share_track(fd, core_cookie(fd));
			if (s)
				sock_put(s);
		}
	}
	errno = saved;
}

/* ---- standard streams ---- */

/*
 * Unless the stream is ours (standard.c), libc's stdio reads and writes them unseen. What it writes is noticed
 * (sock_begin()), but a read of it would find nothing for ever. A stream without a buffer has not been used yet, and a
 * program that reads its input by read() will not begin to use it.
 */
bool share_is_read_by_stdio(const struct sock *s)
{
	bool is_read = s->first_dir == IO_IN || s->exchanges;

	return !standard_is_taken(0) && atomic_load_explicit(&fd_table[0], memory_order_relaxed) == &s->file &&
	       (!is_read || !stdin || __fbufsize(stdin));
}

/* ---- fork ---- */

void share_fork(void)
{
	struct sock *s;

	for (int fd = -1; (s = sock_next(&fd)); sock_put(s))
		if (atomic_load_explicit(&s->marked, memory_order_relaxed))
			share_rest(s);
		else if (is_inside(s))
			share_mark(s);
}

void share_child(void)
{
	index_lock.owner = 0;
}
