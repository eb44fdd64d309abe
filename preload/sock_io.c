/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The read, write, recv and send families. Each is the same three lines: enter the call,
 * do it in Linux or in the buffers, leave (which counts exchanges and may start the
 * adoption). Any thread.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "preload/io.h"
#include "preload/user.h"

#define BOUNCE 16384 /* bytes moved at once by sendfile() and splice() on adopted sockets */

/*
 * @linux: the call when the socket is Linux's; @fast: when it is adopted (uses s).
 * @wait: false if the call's own flags forbid blocking.
 */
#define IO_CALL(fd, dir, dontwait, want, linux_call, fast_call)  \
	({                                                       \
		struct sock *s;                                  \
		enum io io_ = sock_enter(fd, dontwait, dir, &s); \
		ssize_t n_ = -1;                                 \
                                                                 \
		if (io_ == IO_LINUX)                             \
			n_ = linux_call;                         \
		else if (io_ == IO_FAST)                         \
			n_ = fast_call;                          \
		if (s)                                           \
			sock_end(s, fd, io_, dir, n_, want);     \
		n_;                                              \
	})

static int fail(int err)
{
	errno = err;
	return -1;
}

/* ---- receive ---- */

PUBLIC ssize_t read(int fd, void *buf, size_t len)
{
	struct iovec v = {buf, len};

	return IO_CALL(fd, IO_IN, false, len, libc()->read(fd, buf, len), io_recv(s, &v, 1, 0));
}

PUBLIC ssize_t readv(int fd, const struct iovec *iov, int cnt)
{
	if (!iov || cnt <= 0)
		return libc()->readv(fd, iov, cnt);
	return IO_CALL(fd, IO_IN, false, iov_total(iov, cnt), libc()->readv(fd, iov, cnt), io_recv(s, iov, cnt, 0));
}

PUBLIC ssize_t recv(int fd, void *buf, size_t len, int flags)
{
	struct iovec v = {buf, len};

	if (flags & MSG_ERRQUEUE)
		return libc()->recv(fd, buf, len, flags);
	return IO_CALL(fd, IO_IN, flags & MSG_DONTWAIT, len, libc()->recv(fd, buf, len, flags),
		       io_recv(s, &v, 1, flags));
}

PUBLIC ssize_t recvfrom(int fd, void *buf, size_t len, int flags, struct sockaddr *addr, socklen_t *alen)
{
	struct iovec v = {buf, len};

	if (flags & MSG_ERRQUEUE)
		return libc()->recvfrom(fd, buf, len, flags, addr, alen);
	/* TCP leaves the address alone and says that it has length 0 */
	return IO_CALL(fd, IO_IN, flags & MSG_DONTWAIT, len, libc()->recvfrom(fd, buf, len, flags, addr, alen),
		       (addr && alen ? (void)(*alen = 0) : (void)0, io_recv(s, &v, 1, flags)));
}

static ssize_t fast_recvmsg(struct sock *s, struct msghdr *m, int flags)
{
	ssize_t n = io_recv(s, m->msg_iov, (int)m->msg_iovlen, flags);

	if (n >= 0) {
		m->msg_controllen = 0;
		m->msg_namelen = 0;
		m->msg_flags = 0;
	}
	return n;
}

static size_t msg_total(const struct msghdr *m)
{
	return m && m->msg_iov ? iov_total(m->msg_iov, (int)m->msg_iovlen) : 0;
}

PUBLIC ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
	if (!m || (flags & MSG_ERRQUEUE) || !file_get_any(fd))
		return libc()->recvmsg(fd, m, flags);
	return IO_CALL(fd, IO_IN, flags & MSG_DONTWAIT, msg_total(m), libc()->recvmsg(fd, m, flags),
		       fast_recvmsg(s, m, flags));
}

static ssize_t fast_recvmmsg(struct sock *s, struct mmsghdr *v, unsigned n, int flags)
{
	unsigned i;

	for (i = 0; i < n; i++) {
		ssize_t r = fast_recvmsg(s, &v[i].msg_hdr, flags & ~MSG_WAITFORONE);

		if (r < 0)
			return i ? (ssize_t)i : -1;
		v[i].msg_len = (unsigned)r;
		if (!r)
			return (ssize_t)i + 1;
		if (flags & MSG_WAITFORONE)
			flags |= MSG_DONTWAIT;
	}
	return (ssize_t)i;
}

PUBLIC int recvmmsg(int fd, struct mmsghdr *v, unsigned n, int flags, struct timespec *timeout)
{
	return (int)IO_CALL(fd, IO_IN, flags & MSG_DONTWAIT, 0, libc()->recvmmsg(fd, v, n, flags, timeout),
			    fast_recvmmsg(s, v, n, flags));
}

PUBLIC ssize_t preadv2(int fd, const struct iovec *iov, int cnt, off_t off, int flags)
{
	if (off != -1 || !file_get_any(fd))
		return libc()->preadv2(fd, iov, cnt, off, flags);
	return IO_CALL(fd, IO_IN, flags & RWF_NOWAIT, iov_total(iov, cnt), libc()->preadv2(fd, iov, cnt, off, flags),
		       io_recv(s, iov, cnt, flags & RWF_NOWAIT ? MSG_DONTWAIT : 0));
}

PUBLIC ssize_t preadv64v2(int fd, const struct iovec *iov, int cnt, off_t off, int flags)
{
	return preadv2(fd, iov, cnt, off, flags);
}

PUBLIC ssize_t __read_chk(int fd, void *buf, size_t len, size_t room);
PUBLIC ssize_t __read_chk(int fd, void *buf, size_t len, size_t room)
{
	if (len > room)
		abort(); /* as libc's own: the caller's buffer is too small */
	return read(fd, buf, len);
}

PUBLIC ssize_t __recv_chk(int fd, void *buf, size_t len, size_t room, int flags);
PUBLIC ssize_t __recv_chk(int fd, void *buf, size_t len, size_t room, int flags)
{
	if (len > room)
		abort();
	return recv(fd, buf, len, flags);
}

PUBLIC ssize_t __recvfrom_chk(int fd, void *buf, size_t len, size_t room, int flags, struct sockaddr *a, socklen_t *al);
PUBLIC ssize_t __recvfrom_chk(int fd, void *buf, size_t len, size_t room, int flags, struct sockaddr *a, socklen_t *al)
{
	if (len > room)
		abort();
	return recvfrom(fd, buf, len, flags, a, al);
}

/* ---- send ---- */

PUBLIC ssize_t write(int fd, const void *buf, size_t len)
{
	struct iovec v = {(void *)(uintptr_t)buf, len};

	return IO_CALL(fd, IO_OUT, false, len, libc()->write(fd, buf, len), io_send(s, &v, 1, 0));
}

PUBLIC ssize_t writev(int fd, const struct iovec *iov, int cnt)
{
	if (!iov || cnt <= 0)
		return libc()->writev(fd, iov, cnt);
	return IO_CALL(fd, IO_OUT, false, iov_total(iov, cnt), libc()->writev(fd, iov, cnt), io_send(s, iov, cnt, 0));
}

PUBLIC ssize_t send(int fd, const void *buf, size_t len, int flags)
{
	struct iovec v = {(void *)(uintptr_t)buf, len};

	return IO_CALL(fd, IO_OUT, flags & MSG_DONTWAIT, len, libc()->send(fd, buf, len, flags),
		       io_send(s, &v, 1, flags));
}

PUBLIC ssize_t sendto(int fd, const void *buf, size_t len, int flags, const struct sockaddr *addr, socklen_t alen)
{
	struct iovec v = {(void *)(uintptr_t)buf, len};

	return IO_CALL(fd, IO_OUT, flags & MSG_DONTWAIT, len, libc()->sendto(fd, buf, len, flags, addr, alen),
		       io_send(s, &v, 1, flags));
}

PUBLIC ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
	lend_message(fd, m);
	if (!m || !file_get_any(fd))
		return libc()->sendmsg(fd, m, flags);
	return IO_CALL(fd, IO_OUT, flags & MSG_DONTWAIT, msg_total(m), libc()->sendmsg(fd, m, flags),
		       io_send(s, m->msg_iov, (int)m->msg_iovlen, flags));
}

static ssize_t fast_sendmmsg(struct sock *s, struct mmsghdr *v, unsigned n, int flags)
{
	unsigned i;

	for (i = 0; i < n; i++) {
		ssize_t r = io_send(s, v[i].msg_hdr.msg_iov, (int)v[i].msg_hdr.msg_iovlen, flags);

		if (r < 0)
			return i ? (ssize_t)i : -1;
		v[i].msg_len = (unsigned)r;
		if ((size_t)r < msg_total(&v[i].msg_hdr))
			return (ssize_t)i + 1;
	}
	return (ssize_t)i;
}

PUBLIC int sendmmsg(int fd, struct mmsghdr *v, unsigned n, int flags)
{
	for (unsigned i = 0; i < n && user_readable(&v[i], sizeof(*v)); i++)
		lend_message(fd, &v[i].msg_hdr);
	return (int)IO_CALL(fd, IO_OUT, flags & MSG_DONTWAIT, 0, libc()->sendmmsg(fd, v, n, flags),
			    fast_sendmmsg(s, v, n, flags));
}

PUBLIC ssize_t pwritev2(int fd, const struct iovec *iov, int cnt, off_t off, int flags)
{
	if (off != -1 || !file_get_any(fd))
		return libc()->pwritev2(fd, iov, cnt, off, flags);
	return IO_CALL(fd, IO_OUT, flags & RWF_NOWAIT, iov_total(iov, cnt), libc()->pwritev2(fd, iov, cnt, off, flags),
		       io_send(s, iov, cnt, flags & RWF_NOWAIT ? MSG_DONTWAIT : 0));
}

PUBLIC ssize_t pwritev64v2(int fd, const struct iovec *iov, int cnt, off_t off, int flags)
{
	return pwritev2(fd, iov, cnt, off, flags);
}

/* ---- sendfile and splice ---- */

/* File to adopted socket. Reads no more than what there is room for, so nothing read is lost. */
static ssize_t fast_sendfile(struct sock *s, int in, off_t *off, size_t len)
{
	char buf[BOUNCE];
	size_t done = 0;

	while (done < len) {
		size_t room = stream_room(&s->st), n;
		struct iovec v = {buf, 0};
		ssize_t got, sent;

		/* told when there is room again, also after a partial transfer, as Linux does */
		if (!room && s->nonblock && !stream_want_space(&s->st) && !sock_failed(s) && !s->shut_wr)
			return done ? (ssize_t)done : fail(EAGAIN);
		n = MIN(MIN(len - done, sizeof(buf)), room ? room : 1);
		got = off ? pread(in, buf, n, *off) : libc()->read(in, buf, n);
		if (got <= 0) {
			if (got < 0 && !done)
				return -1;
			break;
		}
		v.iov_len = (size_t)got;
		sent = io_send(s, &v, 1, 0);
		if (sent < got && !off) /* the file's position follows what was sent */
			lseek(in, (off_t)(sent > 0 ? sent - got : -got), SEEK_CUR);
		if (sent < 0)
			return done ? (ssize_t)done : -1;
		if (off)
			*off += sent;
		done += (size_t)sent;
		if (sent < got)
			break;
	}
	return (ssize_t)done;
}

PUBLIC ssize_t sendfile(int out, int in, off_t *off, size_t len)
{
	return IO_CALL(out, IO_OUT, false, len, libc()->sendfile(out, in, off, len), fast_sendfile(s, in, off, len));
}

PUBLIC ssize_t sendfile64(int out, int in, off64_t *off, size_t len)
{
	return sendfile(out, in, off, len);
}

/* Adopted socket to pipe. Looks first, takes what the pipe accepted. */
static ssize_t fast_splice_in(struct sock *s, int out, size_t len, unsigned flags)
{
	char buf[BOUNCE];
	struct iovec v = {buf, MIN(len, sizeof(buf))};
	int how = flags & SPLICE_F_NONBLOCK ? MSG_DONTWAIT : 0;
	ssize_t n = io_recv(s, &v, 1, how | MSG_PEEK);

	if (n <= 0)
		return n;
	if ((flags & SPLICE_F_NONBLOCK) && !(libc()->fcntl(out, F_GETFL) & O_NONBLOCK)) {
		struct pollfd p = {.fd = out, .events = POLLOUT};

		if (libc()->poll(&p, 1, 0) != 1)
			return fail(EAGAIN);
		n = MIN(n, (ssize_t)PIPE_BUF);
	}
	n = libc()->write(out, buf, (size_t)n);
	if (n > 0) {
		v.iov_len = (size_t)n;
		io_recv(s, &v, 1, MSG_DONTWAIT | MSG_TRUNC);
	}
	return n;
}

/* Pipe to adopted socket. Takes from the pipe only what there is room for. */
static ssize_t fast_splice_out(struct sock *s, int in, size_t len, unsigned flags)
{
	char buf[BOUNCE];
	size_t room = stream_room(&s->st);
	struct iovec v = {buf, 0};
	ssize_t n;

	if (!room && ((flags & SPLICE_F_NONBLOCK) || s->nonblock) && !stream_want_space(&s->st) && !sock_failed(s) &&
	    !s->shut_wr)
		return fail(EAGAIN);
	if ((flags & SPLICE_F_NONBLOCK) && !(libc()->fcntl(in, F_GETFL) & O_NONBLOCK)) {
		struct pollfd p = {.fd = in, .events = POLLIN};

		if (libc()->poll(&p, 1, 0) != 1)
			return fail(EAGAIN);
	}
	n = libc()->read(in, buf, MIN(MIN(len, sizeof(buf)), room ? room : 1));
	if (n <= 0)
		return n;
	v.iov_len = (size_t)n;
	return io_send(s, &v, 1, flags & SPLICE_F_MORE ? MSG_MORE : 0);
}

PUBLIC ssize_t splice(int in, off64_t *in_off, int out, off64_t *out_off, size_t len, unsigned flags)
{
	if (file_get_any(in))
		return IO_CALL(in, IO_IN, flags & SPLICE_F_NONBLOCK, len,
			       libc()->splice(in, in_off, out, out_off, len, flags),
			       fast_splice_in(s, out, len, flags));
	return IO_CALL(out, IO_OUT, flags & SPLICE_F_NONBLOCK, len,
		       libc()->splice(in, in_off, out, out_off, len, flags), fast_splice_out(s, in, len, flags));
}
