/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Receiving and sending on an adopted socket, with the meaning of recv() and send(). */
#ifndef PRELOAD_IO_H
#define PRELOAD_IO_H

#include "preload/brief.h"

#define IO_MAX 0x7ffff000u /* bytes that Linux moves in one call */
#define IOV_REST 64        /* pieces of one call that go on in the kernel; a longer call ends short */

/*
 * Return bytes, or -1 with errno. Block as the socket and @flags say. The array @iov has been checked; what it
 * points to need not be.
 */
ssize_t io_recv(struct sock *s, const struct iovec *iov, int cnt, int flags);
ssize_t io_send(struct sock *s, const struct iovec *iov, int cnt, int flags);
/* A pipe's or a connection's reader has gone: SIGPIPE for this thread, unless MSG_NOSIGNAL is in @flags. */
void io_sigpipe(int flags);

/* As the kernel looks at an array of pieces. Returns its bytes, at most IO_MAX, -EINVAL or -EFAULT. */
ssize_t iov_check(const struct iovec *iov, size_t cnt);
/* @iov without its first @skip bytes, at most IOV_REST pieces of it, in @rest. Returns how many. */
int iov_rest(const struct iovec *iov, int cnt, size_t skip, struct iovec rest[IOV_REST]);

static inline size_t iov_total(const struct iovec *iov, int cnt)
{
	size_t n = 0;

	for (int i = 0; i < cnt; i++)
		n += iov[i].iov_len;
	return n;
}

/*
 * A call on @fd: enter it, do it in Linux (@linux_call) or in the buffers (@fast_call, uses s), leave. @dontwait: the
 * call's own flags forbid blocking.
 */
#define IO_CALL(fd, dir, dontwait, linux_call, fast_call)        \
	({                                                       \
		uint64_t brief_ = brief_enter(fd);               \
		struct sock *s = NULL;                           \
		enum io io_ = IO_LINUX;                          \
		ssize_t n_ = -1;                                 \
                                                                 \
		if (!brief_)                                     \
			io_ = sock_enter(fd, dontwait, dir, &s); \
		if (io_ == IO_LINUX)                             \
			n_ = linux_call;                         \
		else if (io_ == IO_FAST)                         \
			n_ = fast_call;                          \
		if (brief_)                                      \
			brief_leave(fd, brief_, dir, n_);        \
		else if (s)                                      \
			sock_end(s, fd, io_, dir, n_);           \
		n_;                                              \
	})

#endif
