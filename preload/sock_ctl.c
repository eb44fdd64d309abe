/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Everything about sockets but their bytes and options: making, connecting, accepting, shutting down,
 * fcntl and ioctl. Always done on the kernel socket, which is the truth; what the buffers must
 * know is noted beside it. Any thread.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>

#include "preload/brief.h"
#include "preload/handback.h"
#include "preload/inherit.h"
#include "preload/io.h"
#include "preload/local.h"
#include "preload/user.h"
#include "service/base/clock.h"

#define BIND_TRIES 10
#define SHUTDOWN_NS (8 * NS_PER_S) /* a shutdown() waits so long for a connection on its way, then Linux has it */

static int fail(int err)
{
	errno = err;
	return -1;
}

/* ---- making ---- */

PUBLIC int socket(int domain, int type, int protocol)
{
	int fd = libc()->socket(domain, type, protocol), saved = errno;
	struct sock *s;

	if (fd < 0 || (domain != AF_INET && domain != AF_INET6) ||
	    (type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC)) != SOCK_STREAM || (protocol && protocol != IPPROTO_TCP))
		return fd;
	s = sock_track(fd, type & SOCK_NONBLOCK);
	if (s)
		sock_put(s);
	errno = saved;
	return fd;
}

static bool is_tcp(int fd)
{
	int protocol = 0;
	socklen_t len = sizeof(protocol);

	return !libc()->getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &len) && protocol == IPPROTO_TCP;
}

/* The listener of @fd; one that was inherited becomes known here. With a reference, or NULL. */
static struct sock *listener_get(int fd)
{
	struct sock *s;

	if (file_get_any(fd))
		return sock_get(fd);
	if (user_is_confined() || !is_tcp(fd))
		return NULL;
	s = sock_track(fd, (libc()->fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
	if (s)
		s->listener = true;
	return s;
}

/* A connection that goes by @policy, if that is known. */
static void track_accepted(int fd, bool nonblock, const struct core_policy *policy)
{
	struct sock *s = sock_new(fd, nonblock);

	if (!s)
		return;
	if (policy) {
		sock_set_policy(s, policy);
		atomic_store_explicit(&s->try_at, policy->accelerate ? 0 : NEVER, memory_order_relaxed);
	}
	fd_set_new(fd, &s->file, 0);
}

/* @fd came out of accept() on @listen_fd. */
static void accepted(int listen_fd, int fd, bool nonblock)
{
	const struct sock *known = file_get_any(listen_fd) ? sock_peek_linux(listen_fd) : NULL;
	struct core_policy policy;
	struct sock *l;
	bool is_known;
	int saved;

	if (likely(known && sock_is_asked(known) && sock_policy(known, &policy))) {
		if (!nonblock || !brief_begin(fd, known->brief))
			track_accepted(fd, nonblock, &policy);
		return;
	}
	saved = errno;
	l = listener_get(listen_fd);
	if (l) {
		sock_listen(l, listen_fd);
		is_known = sock_policy(l, &policy);
		if (!nonblock || !brief_begin(fd, is_known ? l->brief : brief_policy(NULL)))
			track_accepted(fd, nonblock, is_known ? &policy : NULL);
		sock_put(l);
	}
	errno = saved;
}

PUBLIC int accept(int fd, struct sockaddr *addr, socklen_t *len)
{
	int conn = libc()->accept(fd, addr, len);

	if (conn >= 0)
		accepted(fd, conn, false);
	return conn;
}

PUBLIC int accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	int conn = libc()->accept4(fd, addr, len, flags);

	if (conn >= 0)
		accepted(fd, conn, flags & SOCK_NONBLOCK);
	return conn;
}

/* ---- listening ---- */

static bool is_any_adopted(void)
{
	bool found = false;
	struct sock *s;

	for (int fd = -1; !found && (s = sock_next(&fd)); sock_put(s))
		found = sock_state(s) != SOCK_LINUX;
	return found;
}

/*
 * While the service reads or rebuilds the state of a connection (TCP_REPAIR) its socket is, for some microseconds, one
 * without SO_REUSEADDR, and who makes a listener anew beside it learns that the address is in use. So that is asked
 * a few times. Returns true: again.
 */
static bool is_in_use(int ret, int *tries)
{
	if (likely(!ret) || errno != EADDRINUSE || ++*tries > BIND_TRIES || !is_any_adopted())
		return false;
	syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
	return true;
}

PUBLIC int bind(int fd, const struct sockaddr *addr, socklen_t len)
{
	int ret, tries = 0;

	do
		ret = libc()->bind(fd, addr, len);
	while (is_in_use(ret, &tries));
	return ret;
}

PUBLIC int listen(int fd, int backlog)
{
	struct sock *s = NULL;
	int ret, tries = 0;

	do
		ret = libc()->listen(fd, backlog);
	while (is_in_use(ret, &tries));
	if (!ret)
		s = listener_get(fd);
	if (s) {
		s->listener = true;
		sock_listen(s, fd);
		sock_put(s);
	}
	return ret;
}

/* ---- connect ---- */

/* AF_UNSPEC ends a connection, and the descriptor may be connected anew: both with what only Linux knows. */
static bool is_disconnect(const struct sockaddr *addr, socklen_t len)
{
	return len >= sizeof(addr->sa_family) && user_readable(addr, sizeof(addr->sa_family)) &&
	       addr->sa_family == AF_UNSPEC;
}

PUBLIC int connect(int fd, const struct sockaddr *addr, socklen_t len)
{
	struct sock *s = sock_get(fd);
	int ret, saved;

	if (!s)
		return libc()->connect(fd, addr, len);
	if (is_disconnect(addr, len) && sock_state(s) != SOCK_LINUX)
		sock_return(s, fd, false);
	ret = libc()->connect(fd, addr, len);
	saved = errno;
	if (!ret && is_disconnect(addr, len)) {
		s->try_bytes = 0;
		s->exchanges = s->try_at = s->tries = 0;
		s->first_dir = s->last_dir = 0;
		s->bytes = 0;
		s->past = (struct past){0};
		s->shut_rd = s->shut_wr = s->err_taken = false;
	}
	sock_put(s);
	errno = saved;
	return ret;
}

/* ---- shutdown ---- */

/*
 * Is it FAST? Then the slot says that we are about to shut the kernel socket down, until the
 * caller takes that back: while it is rebuilt it must be left alone.
 */
static bool shutdown_begin(struct sock *s)
{
	uint64_t deadline = clock_now_ns() + SHUTDOWN_NS;

	while (clock_now_ns() < deadline) {
		if (sock_is_open(s) && !sock_settle(s)) /* the answer comes within the service's time limit */
			wait_sock(s, 0, deadline);
		if (sock_state(s) == SOCK_AWAY) /* it may be in the middle of being rebuilt */
			continue;
		if (sock_state(s) != SOCK_FAST)
			return false;
		atomic_fetch_add_explicit(&core_slot(s->core, s->slot)->busy, 1, memory_order_seq_cst);
		/* full fence: see leave_is_busy() in the service */
		atomic_thread_fence(memory_order_seq_cst);
		if (!sock_is_open(s) && sock_state(s) == SOCK_FAST)
			return true;
		atomic_fetch_sub_explicit(&core_slot(s->core, s->slot)->busy, 1, memory_order_relaxed);
	}
	return false;
}

PUBLIC int shutdown(int fd, int how)
{
	struct sock *s = sock_get(fd);
	bool fast, over;
	int ret;

	if (!s)
		return libc()->shutdown(fd, how);
	if (how != SHUT_WR && sock_state(s) == SOCK_AWAY) /* who has it would not hear of that */
		sock_return(s, fd, false);
	sock_whole(s, fd, how == SHUT_WR ? IPC_HALF_TX : IPC_HALVES);
	fast = shutdown_begin(s);
	if (fast && !sock_failed(s) && lock_take(&s->tx_lock)) { /* a connection that has failed is shut already */
		/* what was sent is published; nothing more is from here on */
		if (how == SHUT_WR || how == SHUT_RDWR)
			s->shut_wr = true;
		if (how == SHUT_RD || how == SHUT_RDWR)
			s->shut_rd = true;
		if (s->shut_rd) { /* another process must not get the receiving half back: only Linux would tell it */
			stream_mark_used(&s->st);
			stream_opts_set(&s->st, IPC_OPT_SHUT_RD, 0);
		}
		lock_drop(&s->tx_lock);
	}
	over = fast && (stream_status(&s->st) & IPC_ST_OVER);
	ret = libc()->shutdown(fd, how);
	if (over && !ret) { /* the kernel's socket is just being told */
		errno = ENOTCONN;
		ret = -1;
	}
	if (fast) {
		/* release: the shutdown is done; pairs with the look of the service before it rebuilds */
		atomic_fetch_sub_explicit(&core_slot(s->core, s->slot)->busy, 1, memory_order_release);
	}
	if (fast && sock_state(s) == SOCK_FAST) {
		int saved = errno;

		s->word = core_word(s->core, s->st.flow_id); /* our own FIN */
		local_tell(s);
		if (lock_take(&s->lock)) {
			ep_items_mark(s, NULL);
			lock_drop(&s->lock);
		}
		core_context_wake(s->core, s->context); /* other threads blocked on it */
		errno = saved;
	}
	sock_put(s);
	return ret;
}

/* ---- fcntl and ioctl ---- */

int sock_dup(int from, int to)
{
	struct file *f = to >= 0 ? file_get(from) : NULL;

	if (!f)
		return to;
	if (f->type == FILE_SOCK && fd_in_vfork()) { /* the table is its parent's */
		inherit_dup(container_of(f, struct sock, file), from, to, NULL);
	} else if (f->type != FILE_OWN && !fd_in_vfork()) {
		fd_set_file(to, f);
		if (to <= 2)
			handback(to); /* the standard streams are read and written inside libc */
	}
	file_put(f);
	return to;
}

/* Signals about a connection, SIGIO and SIGURG, come from the kernel's socket. */
static bool fcntl_is_linux(int cmd, uintptr_t arg)
{
	return (cmd == F_SETFL && (arg & O_ASYNC)) || ((cmd == F_SETOWN || cmd == F_SETSIG) && arg) ||
	       cmd == F_SETOWN_EX;
}

static int do_fcntl(int (*real)(int, int, ...), int fd, int cmd, void *arg)
{
	struct sock *s;
	int ret;

	if (likely(!file_get_any(fd)))
		return real(fd, cmd, arg);
	if (fd_is_own(fd))
		return fail(EBADF);
	if (fcntl_is_linux(cmd, (uintptr_t)arg))
		handback(fd);
	ret = real(fd, cmd, arg);
	if (ret < 0)
		return ret;
	if (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC)
		return sock_dup(fd, ret);
	if (cmd == F_SETFL) {
		s = sock_get(fd);
		if (s) {
			s->nonblock = ((uintptr_t)arg & O_NONBLOCK) != 0;
			sock_put(s);
		}
	}
	return ret;
}

PUBLIC int fcntl(int fd, int cmd, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, cmd);
	arg = va_arg(ap, void *);
	va_end(ap);
	return do_fcntl(libc()->fcntl, fd, cmd, arg);
}

PUBLIC int fcntl64(int fd, int cmd, ...)
{
	va_list ap;
	void *arg;

	va_start(ap, cmd);
	arg = va_arg(ap, void *);
	va_end(ap);
	return do_fcntl(libc()->fcntl64, fd, cmd, arg);
}

static int int_at(const void *arg)
{
	int n = 0;

	if (user_readable(arg, sizeof(n)))
		memcpy(&n, arg, sizeof(n));
	return n;
}

/* ioctls about bytes. Returns true if answered, in *@ret. */
static bool fast_ioctl(struct sock *s, int fd, unsigned long req, void *arg, int *ret)
{
	int n;

	if (req != FIONREAD && req != SIOCOUTQ && req != SIOCOUTQNSD)
		return false;
	if (sock_is_open(s))
		sock_settle(s);
	sock_whole(s, fd, req == FIONREAD ? IPC_HALF_RX : IPC_HALF_TX);
	if (sock_state(s) != SOCK_FAST || !stream_is_open(&s->st))
		return false;
	if (req == FIONREAD)
		n = (int)stream_unread(&s->st) + (s->rx_kernel ? (int)local_queued(s, IO_IN) : 0);
	else if (req == SIOCOUTQ)
		n = (int)stream_unacked(&s->st) + (s->tx_kernel ? (int)local_queued(s, IO_OUT) : 0);
	else
		n = (int)stream_unsent(&s->st);
	*ret = user_writable(arg, sizeof(n)) ? 0 : fail(EFAULT);
	if (!*ret)
		memcpy(arg, &n, sizeof(n)); /* the application's pointer need not be aligned */
	return true;
}

PUBLIC int ioctl(int fd, unsigned long req, ...)
{
	struct sock *s;
	va_list ap;
	void *arg;
	int ret;

	va_start(ap, req);
	arg = va_arg(ap, void *);
	va_end(ap);
	s = sock_get(fd);
	if (!s)
		return libc()->ioctl(fd, req, arg);
	if ((req == FIOASYNC || req == FIOSETOWN || req == SIOCSPGRP) && int_at(arg))
		handback(fd);
	if (!fast_ioctl(s, fd, req, arg, &ret)) {
		ret = libc()->ioctl(fd, req, arg);
		if (!ret && req == FIONBIO)
			s->nonblock = int_at(arg) != 0;
	}
	sock_put(s);
	return ret;
}
