/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * recv() and send() on an adopted socket. Place in the packet's way: between the circular
 * buffers and the application's calls (sock_io.c). Any thread.
 *
 * Invariants: bytes that arrived before an error or FIN are delivered before it is told; an
 * error is told once (err_taken), then 0 or EPIPE. tx_lock is held for one copy at a time,
 * never while blocked; a signal handler that meets it gets EAGAIN.
 */
#define _GNU_SOURCE 1
#include "preload/io.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <sys/syscall.h>

#include "preload/local.h"
#include "preload/outside.h"
#include "preload/user.h"
#include "service/base/clock.h"

static ssize_t fail(int err)
{
	errno = err;
	return -1;
}

ssize_t iov_check(const struct iovec *iov, size_t cnt)
{
	size_t total = 0;

	if (cnt > IOV_MAX)
		return -EINVAL;
	if (!user_readable(iov, cnt * sizeof(*iov)))
		return -EFAULT;
	for (size_t i = 0; i < cnt; i++)
		if ((ssize_t)iov[i].iov_len < 0)
			return -EINVAL;
	for (size_t i = 0; i < cnt; i++) {
		size_t len = cnt == 1 ? MIN(iov[i].iov_len, (size_t)IO_MAX) : iov[i].iov_len;

		if (!user_in_range(iov[i].iov_base, len))
			return -EFAULT;
		total += MIN(len, IO_MAX - total);
	}
	return (ssize_t)total;
}

/* ---- receive ---- */

/* Will nothing more arrive? */
static bool recv_over(const struct sock *s)
{
	uint32_t status = stream_status(&s->st);

	return (status & (IPC_ST_FIN | IPC_ST_ERROR)) || IPC_STATE(status) == IPC_DEAD || s->shut_rd ||
	       (core_is_dead(s->core) && !s->survivor) || local_ended(s);
}

/* The receiving half is with another process and the connection has failed, so that it will not come here. */
static bool recv_is_nowhere(const struct sock *s)
{
	return stream_is_open(&s->st) && (sock_failed(s) || IPC_STATE(stream_status(&s->st)) == IPC_DEAD);
}

/* Nothing to read now, and nothing was: 1 end of stream, 0 not yet, or -errno. */
static int recv_ended(struct sock *s)
{
	bool over = recv_over(s);
	int err;

	if (!over || stream_unread(&s->st))
		return 0; /* arrived just before the status */
	if (!(stream_status(&s->st) & IPC_ST_FIN) && sock_failed(s)) {
		err = sock_error_take(s);
		return err ? -err : 1;
	}
	return 1; /* after the peer's FIN also if an error followed, which SO_ERROR tells */
}

int iov_rest(const struct iovec *iov, int cnt, size_t skip, struct iovec rest[IOV_REST])
{
	int n = 0;

	for (int i = 0; i < cnt && n < IOV_REST; i++) {
		if (skip >= iov[i].iov_len) {
			skip -= iov[i].iov_len;
			continue;
		}
		rest[n++] = (struct iovec){(char *)iov[i].iov_base + skip, iov[i].iov_len - skip};
		skip = 0;
	}
	return n;
}

/*
 * The connection left the fast path in the middle of a call, of which @done bytes are done: go
 * on where it is now. Returns what the whole call returns.
 */
static ssize_t io_elsewhere(struct sock *s, const struct iovec *iov, int cnt, size_t done, int flags, int dir)
{
	struct iovec rest[IOV_REST];
	struct msghdr m = {.msg_iov = rest};
	enum io io;
	ssize_t n = -1;
	int fd;

	if (done && (flags & MSG_PEEK))
		return (ssize_t)done;
	io = sock_reenter(s, flags & MSG_DONTWAIT, dir);
	fd = s->fd;
	if (io == IO_LINUX && dir == IO_IN && !done)
		io = outside_wait(s, &fd, flags);
	m.msg_iovlen = (size_t)iov_rest(iov, cnt, done, rest);
	if (io == IO_FAST) {
		n = dir == IO_IN ? io_recv(s, rest, (int)m.msg_iovlen, flags)
				 : io_send(s, rest, (int)m.msg_iovlen, flags);
	} else if (io == IO_LINUX) {
		n = dir == IO_IN ? libc()->recvmsg(fd, &m, flags) : libc()->sendmsg(fd, &m, flags);
	}
	return n < 0 ? (done ? (ssize_t)done : n) : n + (ssize_t)done;
}

/* So many bytes end the call before @want are there. */
static size_t recv_target(const struct sock *s, size_t want, int flags)
{
	uint32_t low = atomic_load_explicit(&s->rcvlowat, memory_order_relaxed);

	return flags & MSG_WAITALL ? want : MAX(MIN((size_t)low, want), (size_t)1);
}

static ssize_t recv_once(struct sock *s, const struct iovec *iov, int cnt, size_t done, int flags)
{
	uint32_t how = (flags & MSG_PEEK ? STREAM_PEEK : 0) | (flags & MSG_TRUNC ? STREAM_DISCARD : 0);
	ssize_t n;

	if (unlikely(s->rx_kernel)) {
		n = local_recv(s, iov, cnt, done, flags);
		if (n != -EAGAIN)
			return n;
	}
	if (unlikely(s->survivor) && survive_end(s))
		return -ESTALE;
	return stream_read(&s->st, iov, cnt, done, how);
}

ssize_t io_recv(struct sock *s, const struct iovec *iov, int cnt, int flags)
{
	size_t want = MIN(iov_total(iov, cnt), (size_t)IO_MAX), done = 0, target = recv_target(s, want, flags);
	bool dontwait = (flags & MSG_DONTWAIT) || s->nonblock;
	uint64_t deadline = 0;

	for (;;) {
		bool kernel = s->rx_kernel;
		ssize_t n = recv_once(s, iov, cnt, done, flags);
		int err;

		if (n == -ESTALE && !recv_is_nowhere(s))
			return io_elsewhere(s, iov, cnt, done, flags, IO_IN);
		n = n == -ESTALE ? 0 : n;
		if (n < 0)
			return done ? (ssize_t)done : fail((int)-n);
		done += (size_t)n;
		/* a call that returns less than was asked for says that nothing is left: in neither place */
		if (unlikely(kernel) && n && done < want && !(flags & MSG_PEEK))
			continue;
		if (done >= target || (!want && stream_unread(&s->st)) || (n && kernel && (flags & MSG_PEEK)))
			return (ssize_t)done; /* of two places one is peeked at */
		if (n)
			continue;
		err = done ? 0 : recv_ended(s);
		if (err || (done && recv_over(s)))
			return err < 0 ? fail(-err) : (ssize_t)done;
		if (dontwait) {
			if (s->st.local)
				local_idle(s->core);
			return done ? (ssize_t)done : fail(EAGAIN);
		}
		if (!deadline)
			deadline = wait_deadline(s->rcvtimeo_ns);
		err = wait_unread(s, flags & MSG_PEEK ? done : 0, deadline);
		if (err < 0)
			return done ? (ssize_t)done : fail(-err);
	}
}

/* ---- send ---- */

/* As the kernel sends it: to this thread, in its own name. */
void io_sigpipe(int flags)
{
	siginfo_t info = {.si_signo = SIGPIPE, .si_code = SI_USER};

	if (flags & MSG_NOSIGNAL)
		return;
	info.si_pid = getpid();
	info.si_uid = getuid();
	syscall(SYS_rt_tgsigqueueinfo, info.si_pid, (pid_t)lock_self(), SIGPIPE, &info);
}

static ssize_t broken(struct sock *s, int flags)
{
	int err = sock_error_take(s);

	if (!err && unlikely(local_is_mixed(s, IO_IN | IO_OUT)))
		err = local_error_take(s);
	if (err && err != EPIPE)
		return fail(err);
	io_sigpipe(flags);
	return fail(EPIPE);
}

static ssize_t write_once(struct sock *s, const struct iovec *iov, int cnt, size_t skip, int flags)
{
	ssize_t n;

	if (unlikely(s->tx_kernel)) {
		n = local_send(s, iov, cnt, skip, flags);
		if (n != -ESTALE)
			return n;
	}
	return stream_write(&s->st, iov, cnt, skip, flags & MSG_MORE);
}

/* One copy under the lock. Returns bytes, 0: no room, or -errno. */
static ssize_t send_once(struct sock *s, const struct iovec *iov, int cnt, size_t skip, int flags)
{
	ssize_t n;

	if (!lock_take(&s->tx_lock))
		return -EAGAIN; /* a signal handler on top of a send of its own thread */
	if (!stream_is_open(&s->st))
		n = -ESTALE;
	else if (s->shut_wr || sock_failed(s) || (stream_status(&s->st) & IPC_ST_CLOSED_TX) ||
		 IPC_STATE(stream_status(&s->st)) == IPC_DEAD)
		n = -EPIPE;
	else
		n = write_once(s, iov, cnt, skip, flags);
	lock_drop(&s->tx_lock);
	return n;
}

ssize_t io_send(struct sock *s, const struct iovec *iov, int cnt, int flags)
{
	size_t want = MIN(iov_total(iov, cnt), (size_t)IO_MAX), done = 0;
	bool dontwait = (flags & MSG_DONTWAIT) || s->nonblock;
	uint64_t deadline = 0;

	if (flags & MSG_FASTOPEN)
		return fail(EISCONN);
	if (unlikely(s->tx_kernel))
		local_change_over(s, dontwait);
	for (;;) {
		ssize_t n = send_once(s, iov, cnt, done, flags);
		int err;

		if (n == -ESTALE)
			return io_elsewhere(s, iov, cnt, done, flags, IO_OUT);
		if (n == -EPIPE)
			return done ? (ssize_t)done : broken(s, flags);
		if (n < 0)
			return done ? (ssize_t)done : fail((int)-n);
		done += (size_t)n;
		if (done >= want)
			return (ssize_t)done;
		if (unlikely(s->tx_kernel)) {
			if (n)
				continue;
			if (dontwait)
				return done ? (ssize_t)done : fail(EAGAIN);
			if (!deadline)
				deadline = wait_deadline(s->sndtimeo_ns);
			err = local_wait_room(s, deadline);
			if (err)
				return done ? (ssize_t)done : fail(-err);
			continue;
		}
		/* no room: ask to be told, and look once more, as the bytes may have been acknowledged meanwhile */
		if (stream_want_space(&s->st) || (!n && stream_room(&s->st)))
			continue;
		if (dontwait)
			return done ? (ssize_t)done : fail(EAGAIN);
		if (!deadline)
			deadline = wait_deadline(s->sndtimeo_ns);
		err = wait_sock(s, EPOLLOUT, deadline);
		if (err < 0)
			return done ? (ssize_t)done : fail(-err);
	}
}
