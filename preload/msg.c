/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * recvmsg, sendmsg and their kin for several messages: headers, control messages, time-outs.
 * Place in a packet's way: as sock_io.c. Any thread.
 *
 * Invariant: the application's header is copied once, checked as the kernel checks it, and
 * written only where the kernel writes it.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <limits.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>

#include "preload/handback.h"
#include "preload/io.h"
#include "preload/local.h"
#include "preload/share.h"
#include "preload/user.h"
#include "preload/wait.h"
#include "service/base/clock.h"

static int fail(int err)
{
	errno = err;
	return -1;
}

/* Copy the header and check what it points to. Returns the bytes of its pieces, or -errno. */
static ssize_t msg_open(const struct msghdr *m, struct msghdr *h, bool send)
{
	if (!user_readable(m, sizeof(*m)))
		return -EFAULT;
	*h = *m;
	if (!h->msg_name)
		h->msg_namelen = 0;
	if ((int)h->msg_namelen < 0)
		return -EINVAL;
	h->msg_namelen = MIN(h->msg_namelen, (socklen_t)sizeof(struct sockaddr_storage));
	if (send && !user_readable(h->msg_name, h->msg_namelen))
		return -EFAULT;
	return h->msg_iovlen > IOV_MAX ? -EMSGSIZE : iov_check(h->msg_iov, h->msg_iovlen);
}

/* ---- receive ---- */

/* The one control message there may be: TCP_INQ's. Returns its length; *@flags gets MSG_CTRUNC if it did not fit. */
static ssize_t put_inq(struct sock *s, const struct msghdr *h, int *flags)
{
	uint64_t unread = stream_unread(&s->st) + (s->rx_kernel ? local_queued(s, IO_IN) : 0);
	int left = (int)MIN(unread, (uint64_t)INT_MAX);
	struct cmsghdr c = {.cmsg_len = CMSG_LEN(sizeof(left)), .cmsg_level = IPPROTO_TCP, .cmsg_type = TCP_CM_INQ};

	if (!h->msg_control || h->msg_controllen < c.cmsg_len) {
		*flags |= MSG_CTRUNC;
		return 0;
	}
	if (!user_writable(h->msg_control, c.cmsg_len))
		return 0; /* as the kernel's put_cmsg(): nobody is told */
	memcpy(h->msg_control, &c, sizeof(c));
	memcpy((char *)h->msg_control + CMSG_LEN(0), &left, sizeof(left));
	return (ssize_t)MIN(CMSG_SPACE(sizeof(left)), h->msg_controllen);
}

static ssize_t fast_recvmsg(struct sock *s, struct msghdr *m, int flags)
{
	struct msghdr h;
	ssize_t n = msg_open(m, &h, false);
	int out = flags & MSG_CMSG_CLOEXEC;

	if (n < 0)
		return fail((int)-n);
	if (flags & MSG_OOB)
		return fail(EINVAL);
	n = io_recv(s, h.msg_iov, (int)h.msg_iovlen, flags & ~MSG_CMSG_CLOEXEC);
	if (n < 0)
		return n;
	if (!user_writable(m, sizeof(*m)))
		return fail(EFAULT);
	m->msg_controllen = s->inq ? (size_t)put_inq(s, &h, &out) : 0;
	m->msg_flags = out;
	if (h.msg_name)
		m->msg_namelen = 0;
	return n;
}

/* After a call that succeeded: the header was readable. */
static size_t msg_total(const struct msghdr *m)
{
	return iov_total(m->msg_iov, (int)m->msg_iovlen);
}

PUBLIC ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
	ssize_t n;

	if (flags & MSG_ERRQUEUE)
		return libc()->recvmsg(fd, m, flags);
	if (unlikely(flags & MSG_OOB))
		handback(fd);
	n = IO_CALL(fd, IO_IN, flags & MSG_DONTWAIT, libc()->recvmsg(fd, m, flags), fast_recvmsg(s, m, flags));
	if (n >= 0 && !file_get_any(fd))
		share_received(m);
	return n;
}

/* The time is looked at between messages only, as in Linux. */
static ssize_t fast_recvmmsg(struct sock *s, struct mmsghdr *v, unsigned n, int flags, struct timespec *timeout)
{
	uint64_t deadline = WAIT_FOREVER, left = WAIT_FOREVER;
	unsigned i;
	int err;

	if (!user_readable(timeout, timeout ? sizeof(*timeout) : 0))
		return fail(EFAULT);
	if (!wait_until(timeout, &deadline))
		return fail(EINVAL);
	err = sock_error_take(s);
	if (err)
		return fail(err);
	for (i = 0; i < n && left; i++) {
		ssize_t r = fast_recvmsg(s, &v[i].msg_hdr, flags & ~MSG_WAITFORONE);

		if (r < 0)
			break;
		v[i].msg_len = (unsigned)r;
		if (flags & MSG_WAITFORONE)
			flags |= MSG_DONTWAIT;
		left = wait_left(deadline);
	}
	if (!i)
		return n ? -1 : 0;
	if (timeout && user_writable(timeout, sizeof(*timeout)))
		*timeout = (struct timespec){.tv_sec = (time_t)(left / NS_PER_S), .tv_nsec = (long)(left % NS_PER_S)};
	return (ssize_t)i;
}

PUBLIC int recvmmsg(int fd, struct mmsghdr *v, unsigned n, int flags, struct timespec *timeout)
{
	int got;

	if (flags & MSG_ERRQUEUE)
		return libc()->recvmmsg(fd, v, n, flags, timeout);
	if (unlikely(flags & MSG_OOB))
		handback(fd);
	got = (int)IO_CALL(fd, IO_IN, flags & MSG_DONTWAIT, libc()->recvmmsg(fd, v, n, flags, timeout),
			   fast_recvmmsg(s, v, n, flags, timeout));
	for (int i = 0; i < got && !file_get_any(fd); i++)
		share_received(&v[i].msg_hdr);
	return got;
}

/* ---- send ---- */

enum control { CONTROL_NONE, CONTROL_LINUX, CONTROL_BAD };

/* What the control messages of a message ask for: nothing that TCP heeds, something that Linux must do, or nonsense. */
static enum control control_kind(const struct msghdr *h)
{
	size_t len = h->msg_controllen;
	struct cmsghdr c;

	for (size_t at = 0; at <= len && len - at >= sizeof(c); at += CMSG_ALIGN(c.cmsg_len)) {
		memcpy(&c, (char *)h->msg_control + at, sizeof(c));
		if (c.cmsg_len < sizeof(c) || c.cmsg_len > len - at)
			return CONTROL_BAD;
		if (c.cmsg_level != SOL_SOCKET || c.cmsg_type == SCM_RIGHTS || c.cmsg_type == SCM_CREDENTIALS)
			continue;
		if (c.cmsg_type == SO_MARK || c.cmsg_type == SO_TIMESTAMPING || c.cmsg_type == SCM_TXTIME)
			return CONTROL_LINUX; /* marks and times of single segments */
		return CONTROL_BAD;
	}
	return CONTROL_NONE;
}

static void prepare(int fd, const struct msghdr *m, int flags)
{
	struct msghdr h;

	lend_message(fd, m);
	if (!file_get_any(fd))
		return;
	if (flags & (MSG_OOB | MSG_ZEROCOPY))
		handback_send(fd, flags);
	if (!user_readable(m, sizeof(*m)) || !m->msg_controllen)
		return;
	h = *m;
	if (h.msg_controllen <= INT_MAX && user_readable(h.msg_control, h.msg_controllen) &&
	    control_kind(&h) == CONTROL_LINUX)
		handback(fd);
}

static ssize_t fast_sendmsg(struct sock *s, const struct msghdr *m, int flags)
{
	struct msghdr h;
	ssize_t n = msg_open(m, &h, true);

	if (n < 0)
		return fail((int)-n);
	if (h.msg_controllen > INT_MAX)
		return fail(ENOBUFS);
	if (!user_readable(h.msg_control, h.msg_controllen))
		return fail(EFAULT);
	if (h.msg_controllen && control_kind(&h) == CONTROL_BAD)
		return fail(EINVAL);
	return io_send(s, h.msg_iov, (int)h.msg_iovlen, flags);
}

PUBLIC ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
	prepare(fd, m, flags);
	return IO_CALL(fd, IO_OUT, flags & MSG_DONTWAIT, libc()->sendmsg(fd, m, flags), fast_sendmsg(s, m, flags));
}

static ssize_t fast_sendmmsg(struct sock *s, struct mmsghdr *v, unsigned n, int flags)
{
	unsigned i;

	for (i = 0; i < n; i++) {
		ssize_t r = fast_sendmsg(s, &v[i].msg_hdr, flags);

		if (r < 0)
			return i ? (ssize_t)i : -1;
		if (!user_writable(&v[i].msg_len, sizeof(v[i].msg_len)))
			return i ? (ssize_t)i : fail(EFAULT);
		v[i].msg_len = (unsigned)r;
		if ((size_t)r < msg_total(&v[i].msg_hdr))
			return (ssize_t)i + 1;
	}
	return (ssize_t)i;
}

PUBLIC int sendmmsg(int fd, struct mmsghdr *v, unsigned n, int flags)
{
	n = MIN(n, (unsigned)IOV_MAX);
	for (unsigned i = 0; i < n && user_readable(&v[i], sizeof(*v)); i++)
		prepare(fd, &v[i].msg_hdr, flags);
	return (int)IO_CALL(fd, IO_OUT, flags & MSG_DONTWAIT, libc()->sendmmsg(fd, v, n, flags),
			    fast_sendmmsg(s, v, n, flags));
}
