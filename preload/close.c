/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The end and the doubling of descriptors: close, close_range, closefrom, dup. The kernel's
 * close tells the service (its FIN or RST passes the TAP); here only the table follows. Any
 * thread.
 *
 * Invariants: the entry goes before the real close, as the number may be given out again the
 * moment it is free. The library's own descriptors survive every loop that closes "all".
 * A vfork child works in its parent's memory: it leaves the table alone.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>

#include "preload/brief.h"
#include "preload/local.h"
#include "preload/share.h"
#include "preload/user.h"
#include "preload/wait.h"

static int fail(int err)
{
	errno = err;
	return -1;
}

/*
 * The last descriptor of an adopted connection goes while other threads are inside a call on it. Linux keeps a
 * connection until such calls have returned; so a descriptor of our own stays until then.
 */
static void linger(struct sock *s, int last)
{
	bool inside =
		sock_state(s) != SOCK_LINUX && atomic_load_explicit(&s->file.refs, memory_order_relaxed) >= FILE_CALL;
	int fd;

	/* or wait outside of it: pairs with the count, which is raised before the look into the table */
	if ((!inside && !atomic_load_explicit(&s->outside, memory_order_seq_cst)) || s->late_fd)
		return;
	fd = (int)syscall(SYS_fcntl, last, F_DUPFD_CLOEXEC, 500L);
	if (fd < 0)
		return;
	fd_set_file(fd, NULL);
	s->late_fd = fd;
	s->fd = fd;
}

static bool is_light(int fd)
{
	const struct sock *s = sock_peek_linux(fd);

	return s && !atomic_load_explicit(&s->tagged, memory_order_relaxed);
}

/*
 * @fd, which is in the table, is about to be closed. In a vfork child, nothing. A child from a raw clone(CLONE_VM) is
 * told from its parent by a system call only, which is spared where a mistake costs nothing:
 * a socket that is Linux's, and of which the kernel has no pointer of ours, would stay Linux's.
 * Returns a socket that must be told when it has been closed (close_end()), as its mark (share.c) goes with it, or it is
 * the last descriptor of a local connection; or NULL.
 */
struct sock *close_begin(int fd)
{
	struct file *f;
	struct sock *s;

	/* a child with memory of its own that no fork handler has seen: not in its parent's any more, as the id would say */
	if (unlikely(!atomic_load_explicit(fd_here, memory_order_relaxed)))
		sock_child(false);
	if (brief_close(fd))
		return NULL;
	if (is_light(fd) ? fd_maybe_vfork() : fd_in_vfork())
		return NULL;
	f = fd_take(fd);
	if (!f)
		return NULL;
	s = f->type == FILE_SOCK ? container_of(f, struct sock, file) : NULL;
	if (s)
		local_closing(s);
	if (file_lose_one(f)) {
		if (s)
			linger(s, fd);
		file_closed(f);
		if (s && sock_is_local(s)) /* nobody else would tell at once */
			return s;
	} else if (s) {
		/* another descriptor of it lives on: the one we use for the kernel socket must be alive */
		if (s->fd == fd)
			s->fd = fd_find(f);
		if (unlikely(atomic_load_explicit(&s->marked, memory_order_relaxed)))
			return s;
	}
	file_put(f);
	return NULL;
}

void close_end(struct sock *s)
{
	int saved;

	if (!s)
		return;
	saved = errno;
	if (!atomic_load_explicit(&s->file.fds, memory_order_relaxed))
		local_tell(s);
	else
		share_lost(s);
	sock_put(s);
	errno = saved;
}

PUBLIC int close(int fd)
{
	struct sock *s = NULL;
	int ret;

	if (file_get_any(fd)) {
		held_reap(); /* calls that this thread has left by longjmp do not count */
		if (fd_is_own(fd))
			return fail(EBADF);
		s = close_begin(fd);
	}
	if (!s)
		return libc()->close(fd);
	ret = libc()->close(fd);
	close_end(s);
	return ret;
}

/* Marks of sockets that live on went with some of their descriptors. */
static void range_closed(void)
{
	struct sock *s;

	for (int fd = -1; (s = sock_next(&fd)); sock_put(s))
		if (atomic_load_explicit(&s->marked, memory_order_relaxed))
			share_lost(s);
}

/* Close [first, last] but for the library's own. */
static int range(unsigned first, unsigned last, int flags)
{
	bool keep, lost = false;
	unsigned from = first;
	int ret = 0;

	if (user_is_confined() || first > last || (flags & ~(CLOSE_RANGE_CLOEXEC | CLOSE_RANGE_UNSHARE)))
		return libc()->close_range(first, last, flags); /* refused */
	keep = (flags & CLOSE_RANGE_CLOEXEC) || fd_in_vfork();
	for (unsigned i = first; i <= last && i < FD_MAX && !ret; i++) {
		struct sock *s;

		if (!file_get_any((int)i))
			continue;
		if (fd_is_own((int)i)) {
			if (i > from)
				ret = libc()->close_range(from, i - 1, flags);
			from = i + 1;
		} else if (!keep) {
			s = close_begin((int)i);
			lost |= s != NULL;
			if (s)
				sock_put(s);
		}
	}
	if (!ret && from <= last)
		ret = libc()->close_range(from, last, flags);
	if (lost)
		range_closed();
	return ret;
}

PUBLIC int close_range(unsigned first, unsigned last, int flags)
{
	if (!libc()->close_range)
		return fail(ENOSYS);
	return range(first, last, flags);
}

PUBLIC void closefrom(int first)
{
	if (libc()->close_range)
		range(first < 0 ? 0 : (unsigned)first, UINT_MAX, 0);
}

PUBLIC int dup(int fd)
{
	return fd_is_own(fd) ? fail(EBADF) : sock_dup(fd, libc()->dup(fd));
}

/* Will the kernel refuse to make @to a duplicate of @from? */
static bool is_refused(int from, int flags)
{
	return libc()->fcntl(from, F_GETFD) < 0 || (flags & ~O_CLOEXEC);
}

/* @to is about to be replaced. Returns false if it is one of ours and could not be moved. *@gone: for close_end(). */
static bool make_room(int to, struct sock **gone)
{
	struct core *c = atomic_load_explicit(&sock_core, memory_order_acquire);

	if (fd_is_own(to))
		return c && core_fd_move(c, to);
	if (file_get_any(to))
		*gone = close_begin(to);
	return true;
}

PUBLIC int dup2(int from, int to)
{
	struct sock *gone = NULL;

	if (from == to)
		return libc()->dup2(from, to);
	if (fd_is_own(from))
		return fail(EBADF);
	if (file_get_any(to) && !is_refused(from, 0) && !make_room(to, &gone))
		return fail(EBUSY);
	to = sock_dup(from, libc()->dup2(from, to));
	close_end(gone);
	return to;
}

PUBLIC int dup3(int from, int to, int flags)
{
	struct sock *gone = NULL;

	if (fd_is_own(from))
		return fail(EBADF);
	if (from != to && file_get_any(to) && !is_refused(from, flags) && !make_room(to, &gone))
		return fail(EBUSY);
	to = sock_dup(from, libc()->dup3(from, to, flags));
	close_end(gone);
	return to;
}
