/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The read, write, recv and send families. Each is the same three lines: enter the call,
 * do it in Linux or in the buffers, leave (which counts exchanges and may start the
 * adoption). Any thread. Calls with message headers are in msg.c.
 *
 * Invariant: an argument is looked at only where the connection is carried here; else the
 * kernel judges it. What is refused, and in which order, is what the kernel does.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>

#include "preload/handback.h"
#include "preload/io.h"
#include "preload/outside.h"
#include "preload/user.h"

/* of preadv2() and pwritev2(): what has no meaning for a socket, and what has; newer than some headers */
#define RWF_IGNORED (RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_APPEND | 0x20)
#define RWF_QUIET 0x100 /* RWF_NOSIGNAL */

/* as libc's own: the caller's buffer is too small */
extern void __chk_fail(void) __attribute__((noreturn));

static int fail(int err)
{
	errno = err;
	return -1;
}

/* ---- receive ---- */

static ssize_t fast_read(struct sock *s, void *buf, size_t len)
{
	struct iovec v = {buf, len};

	if (!user_in_range(buf, len))
		return fail(EFAULT);
	return len ? io_recv(s, &v, 1, 0) : 0;
}

static ssize_t linux_read(struct sock *s, int fd, void *buf, size_t len)
{
	enum io io = s && len ? outside_wait(s, &fd, 0) : IO_LINUX;

	if (io == IO_LINUX)
		return libc()->read(fd, buf, len);
	return io == IO_FAST ? fast_read(s, buf, len) : -1;
}

PUBLIC ssize_t read(int fd, void *buf, size_t len)
{
	return IO_CALL(fd, IO_IN, false, linux_read(s, fd, buf, len), fast_read(s, buf, len));
}

static ssize_t fast_readv(struct sock *s, const struct iovec *iov, int cnt, int flags)
{
	ssize_t n = iov_check(iov, (size_t)cnt);

	if (n <= 0)
		return n ? fail((int)-n) : 0;
	return io_recv(s, iov, cnt, flags);
}

PUBLIC ssize_t readv(int fd, const struct iovec *iov, int cnt)
{
	return IO_CALL(fd, IO_IN, false, libc()->readv(fd, iov, cnt), fast_readv(s, iov, cnt, 0));
}

static ssize_t fast_recv(struct sock *s, void *buf, size_t len, int flags)
{
	struct iovec v = {buf, MIN(len, (size_t)IO_MAX)};

	if (!user_in_range(buf, v.iov_len))
		return fail(EFAULT);
	if (flags & MSG_OOB) /* it could not be handed back */
		return fail(EINVAL);
	return io_recv(s, &v, 1, flags);
}

static ssize_t linux_recv(struct sock *s, int fd, void *buf, size_t len, int flags)
{
	enum io io = s && len ? outside_wait(s, &fd, flags) : IO_LINUX;

	if (io == IO_LINUX)
		return libc()->recv(fd, buf, len, flags);
	return io == IO_FAST ? fast_recv(s, buf, len, flags) : -1;
}

PUBLIC ssize_t recv(int fd, void *buf, size_t len, int flags)
{
	if (flags & MSG_ERRQUEUE)
		return libc()->recv(fd, buf, len, flags);
	if (unlikely(flags & MSG_OOB))
		handback(fd);
	return IO_CALL(fd, IO_IN, flags & MSG_DONTWAIT, linux_recv(s, fd, buf, len, flags),
		       fast_recv(s, buf, len, flags));
}

/* TCP leaves the address alone and says that it has length 0; what was received is gone if that fails. */
static ssize_t fast_recvfrom(struct sock *s, void *buf, size_t len, int flags, struct sockaddr *addr, socklen_t *alen)
{
	ssize_t n = fast_recv(s, buf, len, flags);

	if (n < 0 || !addr)
		return n;
	if (!user_writable(alen, sizeof(*alen)))
		return fail(EFAULT);
	if ((int)*alen < 0)
		return fail(EINVAL);
	*alen = 0;
	return n;
}

PUBLIC ssize_t recvfrom(int fd, void *buf, size_t len, int flags, struct sockaddr *addr, socklen_t *alen)
{
	if (flags & MSG_ERRQUEUE)
		return libc()->recvfrom(fd, buf, len, flags, addr, alen);
	if (unlikely(flags & MSG_OOB))
		handback(fd);
	return IO_CALL(fd, IO_IN, flags & MSG_DONTWAIT, libc()->recvfrom(fd, buf, len, flags, addr, alen),
		       fast_recvfrom(s, buf, len, flags, addr, alen));
}

static ssize_t fast_preadv2(struct sock *s, const struct iovec *iov, int cnt, int flags)
{
	if (flags & ~(RWF_IGNORED | RWF_NOWAIT | RWF_QUIET))
		return fail(EOPNOTSUPP);
	return fast_readv(s, iov, cnt, flags & RWF_NOWAIT ? MSG_DONTWAIT : 0);
}

PUBLIC ssize_t preadv2(int fd, const struct iovec *iov, int cnt, off_t off, int flags)
{
	if (off != -1)
		return libc()->preadv2(fd, iov, cnt, off, flags);
	return IO_CALL(fd, IO_IN, flags & RWF_NOWAIT, libc()->preadv2(fd, iov, cnt, off, flags),
		       fast_preadv2(s, iov, cnt, flags));
}

PUBLIC ssize_t preadv64v2(int fd, const struct iovec *iov, int cnt, off_t off, int flags)
{
	return preadv2(fd, iov, cnt, off, flags);
}

PUBLIC ssize_t __read_chk(int fd, void *buf, size_t len, size_t room);
PUBLIC ssize_t __read_chk(int fd, void *buf, size_t len, size_t room)
{
	if (len > room)
		__chk_fail();
	return read(fd, buf, len);
}

PUBLIC ssize_t __recv_chk(int fd, void *buf, size_t len, size_t room, int flags);
PUBLIC ssize_t __recv_chk(int fd, void *buf, size_t len, size_t room, int flags)
{
	if (len > room)
		__chk_fail();
	return recv(fd, buf, len, flags);
}

PUBLIC ssize_t __recvfrom_chk(int fd, void *buf, size_t len, size_t room, int flags, struct sockaddr *a, socklen_t *al);
PUBLIC ssize_t __recvfrom_chk(int fd, void *buf, size_t len, size_t room, int flags, struct sockaddr *a, socklen_t *al)
{
	if (len > room)
		__chk_fail();
	return recvfrom(fd, buf, len, flags, a, al);
}

/* ---- send ---- */

static ssize_t fast_write(struct sock *s, const void *buf, size_t len)
{
	struct iovec v = {(void *)(uintptr_t)buf, len};

	if (!user_in_range(buf, len))
		return fail(EFAULT);
	return io_send(s, &v, 1, 0);
}

PUBLIC ssize_t write(int fd, const void *buf, size_t len)
{
	return IO_CALL(fd, IO_OUT, false, libc()->write(fd, buf, len), fast_write(s, buf, len));
}

static ssize_t fast_writev(struct sock *s, const struct iovec *iov, int cnt, int flags)
{
	ssize_t n = iov_check(iov, (size_t)cnt);

	if (n <= 0)
		return n ? fail((int)-n) : 0;
	return io_send(s, iov, cnt, flags);
}

PUBLIC ssize_t writev(int fd, const struct iovec *iov, int cnt)
{
	return IO_CALL(fd, IO_OUT, false, libc()->writev(fd, iov, cnt), fast_writev(s, iov, cnt, 0));
}

static ssize_t fast_send(struct sock *s, const void *buf, size_t len, int flags)
{
	struct iovec v = {(void *)(uintptr_t)buf, MIN(len, (size_t)IO_MAX)};

	if (!user_in_range(buf, v.iov_len))
		return fail(EFAULT);
	return io_send(s, &v, 1, flags);
}

PUBLIC ssize_t send(int fd, const void *buf, size_t len, int flags)
{
	if (unlikely(flags & (MSG_OOB | MSG_ZEROCOPY)))
		handback_send(fd, flags);
	return IO_CALL(fd, IO_OUT, flags & MSG_DONTWAIT, libc()->send(fd, buf, len, flags),
		       fast_send(s, buf, len, flags));
}

/* A connected TCP socket has no use for the address, but the kernel has copied it by then. */
static ssize_t fast_sendto(struct sock *s, const void *buf, size_t len, int flags, const struct sockaddr *addr,
			   socklen_t alen)
{
	if (addr && alen > sizeof(struct sockaddr_storage))
		return fail(EINVAL);
	if (addr && !user_readable(addr, alen))
		return fail(EFAULT);
	return fast_send(s, buf, len, flags);
}

PUBLIC ssize_t sendto(int fd, const void *buf, size_t len, int flags, const struct sockaddr *addr, socklen_t alen)
{
	if (unlikely(flags & (MSG_OOB | MSG_ZEROCOPY)))
		handback_send(fd, flags);
	return IO_CALL(fd, IO_OUT, flags & MSG_DONTWAIT, libc()->sendto(fd, buf, len, flags, addr, alen),
		       fast_sendto(s, buf, len, flags, addr, alen));
}

static ssize_t fast_pwritev2(struct sock *s, const struct iovec *iov, int cnt, int flags)
{
	if (flags & ~(RWF_IGNORED | RWF_NOWAIT | RWF_QUIET))
		return fail(EOPNOTSUPP);
	return fast_writev(s, iov, cnt,
			   (flags & RWF_NOWAIT ? MSG_DONTWAIT : 0) | (flags & RWF_QUIET ? MSG_NOSIGNAL : 0));
}

PUBLIC ssize_t pwritev2(int fd, const struct iovec *iov, int cnt, off_t off, int flags)
{
	if (off != -1)
		return libc()->pwritev2(fd, iov, cnt, off, flags);
	return IO_CALL(fd, IO_OUT, flags & RWF_NOWAIT, libc()->pwritev2(fd, iov, cnt, off, flags),
		       fast_pwritev2(s, iov, cnt, flags));
}

PUBLIC ssize_t pwritev64v2(int fd, const struct iovec *iov, int cnt, off_t off, int flags)
{
	return pwritev2(fd, iov, cnt, off, flags);
}
