/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * sendfile and splice with an adopted connection at one end. Place in the packet's way: between
 * the circular buffers and a file or pipe, in place of the application's memory. Any thread.
 * tee and vmsplice know pipes alone and need nothing.
 *
 * Invariants: nothing is taken out of a pipe or file that cannot be sent, and nothing out of
 * the receive buffer that the pipe has not accepted. No lock is held while a file is read.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>

#include "preload/io.h"
#include "preload/local.h"
#include "preload/user.h"
#include "preload/wait.h"

#define BOUNCE 16384 /* bytes moved at once towards the connection */
#define SPLICE_FLAGS (SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT)

static int fail(int err)
{
	errno = err;
	return -1;
}

static bool is_fast(const struct sock *s, uint32_t dir)
{
	return sock_state(s) == SOCK_FAST && stream_has(&s->st, dir);
}

/* Would a send fail at once? */
static bool is_broken(const struct sock *s)
{
	uint32_t status = stream_status(&s->st);

	return s->shut_wr || sock_failed(s) || (status & IPC_ST_CLOSED_TX) || IPC_STATE(status) == IPC_DEAD;
}

/* Bytes that the kernel takes now, of a local connection that still uses it: where poll() says so, a page at least. */
static size_t room_kernel(const struct sock *s)
{
	struct pollfd p = {.fd = s->fd, .events = POLLOUT};

	return libc()->poll(&p, 1, 0) ? PIPE_BUF : 0;
}

/* Bytes that can be sent now, after waiting for them unless @dontwait. 0: none, and errno is set. */
static size_t room_wait(struct sock *s, bool dontwait)
{
	struct iovec none = {NULL, 0};
	uint64_t deadline = wait_deadline(s->sndtimeo_ns);

	for (;;) {
		bool mixed = s->tx_kernel;
		size_t room = mixed ? room_kernel(s) : stream_room(&s->st);
		int err;

		if (is_broken(s)) {
			io_send(s, &none, 1, 0); /* sets errno, raises SIGPIPE */
			return 0;
		}
		/* told when there is room again, also after a partial transfer, as Linux does */
		if (room || (!mixed && stream_want_space(&s->st)) || !is_fast(s, IO_OUT))
			return room ? room : 1;
		err = dontwait ? -EAGAIN : mixed ? local_wait_room(s, deadline) : wait_sock(s, EPOLLOUT, deadline);
		if (err) {
			errno = -err;
			return 0;
		}
	}
}

/*
 * Send all of what has been taken out of its source already, whoever else has filled the buffer
 * meanwhile. Returns bytes; fewer only if the connection broke.
 */
static ssize_t send_all(struct sock *s, char *buf, size_t n, int flags)
{
	size_t done = 0;

	while (done < n) {
		struct iovec v = {buf + done, n - done};
		ssize_t sent = io_send(s, &v, 1, flags);

		if (sent >= 0)
			done += (size_t)sent;
		else if (errno != EAGAIN || !is_fast(s, IO_OUT))
			return done ? (ssize_t)done : -1;
		else
			wait_sock(s, EPOLLOUT, WAIT_FOREVER);
	}
	return (ssize_t)done;
}

/* ---- sendfile ---- */

/* What Linux refuses before it looks at the file's bytes. */
static int sendfile_check(int in, const off_t *off, size_t len)
{
	int mode;

	if (off && (!user_readable(off, sizeof(*off)) || !user_writable(off, sizeof(*off))))
		return -EFAULT;
	mode = libc()->fcntl(in, F_GETFL);
	if (mode < 0 || (mode & O_ACCMODE) == O_WRONLY || (mode & O_PATH))
		return -EBADF;
	if (lseek(in, 0, SEEK_CUR) < 0)
		return off ? -ESPIPE : -EINVAL;
	return off && (*off < 0 || (ssize_t)len < 0) ? -EINVAL : 0;
}

/* How much of the file may be tried now. What is not sent is not taken out of it, so the kernel may take less. */
static size_t sendfile_room(struct sock *s)
{
	size_t n = is_fast(s, IO_OUT) ? room_wait(s, s->nonblock) : BOUNCE;

	return n && s->tx_kernel ? BOUNCE : n;
}

/*
 * At most *@n bytes of the file, at most BOUNCE; *@n: how many it had. @more follow, unless it ends. Returns how many of
 * them were sent: the file's position, or *@off, is behind those.
 */
static ssize_t sendfile_piece(struct sock *s, int in, off_t *off, size_t *n, bool *more)
{
	char buf[BOUNCE];
	ssize_t got = off ? pread(in, buf, *n, *off) : libc()->read(in, buf, *n), sent;
	struct iovec v = {buf, (size_t)got};

	if (got <= 0)
		return got;
	*more = *more && (size_t)got == *n;
	*n = (size_t)got;
	sent = io_send(s, &v, 1, *more ? MSG_MORE : 0);
	if (off)
		*off += MAX(sent, 0);
	else if (sent < got)
		lseek(in, MAX(sent, 0) - got, SEEK_CUR);
	return sent;
}

/* File to adopted connection. */
static ssize_t fast_sendfile(struct sock *s, int in, off_t *off, size_t len)
{
	int err = sendfile_check(in, off, len);
	size_t done = 0;
	bool more = false;

	if (err)
		return fail(-err);
	len = MIN(len, (size_t)IO_MAX);
	while (done < len) {
		size_t n = MIN(MIN(sendfile_room(s), (size_t)BOUNCE), len - done);
		bool follow = done + n < len;
		ssize_t sent = n ? sendfile_piece(s, in, off, &n, &follow) : -1;

		if (sent < 0 && !done)
			return -1;
		if (sent <= 0)
			break;
		more = follow;
		done += (size_t)sent;
		if ((size_t)sent < n)
			break;
	}
	if (more && is_fast(s, IO_OUT) && !s->st.corked) /* fewer than asked for: what was held back goes */
		stream_opts_set(&s->st, 0, IPC_OPT_CORK);
	return (ssize_t)done;
}

PUBLIC ssize_t sendfile(int out, int in, off_t *off, size_t len)
{
	if (unlikely(file_get_any(in)) && !off) /* a connection is no source, but for a pipe */
		return splice(in, NULL, out, NULL, len, 0);
	return IO_CALL(out, IO_OUT, false, libc()->sendfile(out, in, off, len), fast_sendfile(s, in, off, len));
}

PUBLIC ssize_t sendfile64(int out, int in, off64_t *off, size_t len)
{
	return sendfile(out, in, off, len);
}

/* ---- splice ---- */

/*
 * As Linux looks at the arguments. @pipe: the other end, which is to be read or written (@write).
 * Returns the pipe's file flags or -errno.
 */
static int splice_check(int pipe, bool write, const off_t *pipe_off, const off_t *sock_off, unsigned flags)
{
	int mode = libc()->fcntl(pipe, F_GETFL);
	bool is_pipe;

	if (flags & ~(unsigned)SPLICE_FLAGS)
		return -EINVAL;
	if (mode < 0)
		return -EBADF;
	is_pipe = libc()->fcntl(pipe, F_GETPIPE_SZ) >= 0;
	if (is_pipe && pipe_off)
		return -ESPIPE;
	if ((pipe_off && !user_readable(pipe_off, sizeof(*pipe_off))) ||
	    (sock_off && !user_readable(sock_off, sizeof(*sock_off))))
		return -EFAULT;
	if ((mode & O_ACCMODE) == (write ? O_RDONLY : O_WRONLY))
		return -EBADF;
	return is_pipe && !sock_off ? mode : -EINVAL;
}

/*
 * Straight from the receive buffer into a pipe that has room. @dontwait: or -EAGAIN; else block
 * for a page, as the kernel knows how to go on after a signal. Returns bytes or -1.
 */
static ssize_t pipe_fill(struct sock *s, int out, size_t len, bool nonblock, bool dontwait)
{
	struct iovec v[2];
	int cnt = stream_unread_iov(&s->st, v, len);
	ssize_t n;

	if (!cnt)
		return fail(EAGAIN);
	n = nonblock ? libc()->writev(out, v, cnt) : libc()->pwritev2(out, v, cnt, -1, RWF_NOWAIT);
	if (n >= 0 || (errno != EOPNOTSUPP && (errno != EAGAIN || dontwait)))
		return n;
	if (dontwait) { /* a kernel whose pipes cannot be asked: where poll() says so, a page has room */
		struct pollfd p = {.fd = out, .events = POLLOUT};

		if (libc()->poll(&p, 1, 0) != 1)
			return fail(EAGAIN);
	}
	return libc()->write(out, v[0].iov_base, MIN(v[0].iov_len, (size_t)PIPE_BUF));
}

/* Is a write to it going to block? Without readers it is not. */
static bool pipe_is_full(int out)
{
	struct pollfd p = {.fd = out, .events = POLLOUT};

	return libc()->poll(&p, 1, 0) == 0;
}

/* Adopted connection to pipe. */
static ssize_t fast_splice_in(struct sock *s, int in, int out, size_t len, unsigned flags, const off_t *offs[2])
{
	struct held h = {.frame = __builtin_frame_address(0), .file = &s->file, .refs = FILE_REF + FILE_CALL};
	int mode = splice_check(out, true, offs[1], offs[0], flags);
	bool dontwait = (flags & SPLICE_F_NONBLOCK) || (mode > 0 && (mode & O_NONBLOCK));
	char first;
	struct iovec v = {&first, 1};
	uint32_t place;
	ssize_t n;

	if (!len || mode < 0)
		return len ? fail(-mode) : 0;
	if (dontwait && pipe_is_full(out))
		return fail(EAGAIN);
	do {
		/* SPLICE_F_NONBLOCK is about the pipe: the connection blocks unless it is non-blocking itself */
		n = io_recv(s, &v, 1, MSG_PEEK);
		if (n <= 0)
			return n;
		if (!is_fast(s, IO_IN) && sock_reenter(s, dontwait, IO_IN) == IO_LINUX)
			return libc()->splice(in, NULL, out, NULL, len, flags);
		if (s->rx_kernel && local_queued(s, IO_IN)) /* it does not wait for more than there is */
			return libc()->splice(in, NULL, out, NULL, MIN(len, (size_t)local_queued(s, IO_IN)), flags);
		place = held_push(&h);
		n = pipe_fill(s, out, MIN(len, (size_t)IO_MAX), mode & O_NONBLOCK, dontwait);
		held_pop(place);
	} while (n < 0 && errno == EAGAIN && !dontwait);
	if (n > 0) {
		v = (struct iovec){NULL, (size_t)n};
		io_recv(s, &v, 1, MSG_DONTWAIT | MSG_TRUNC);
	}
	return n;
}

/* Bytes in a pipe, 0: end, or -1: none yet. */
static int pipe_unread(int in)
{
	struct pollfd p = {.fd = in, .events = POLLIN};
	int n = 0;

	if (!libc()->ioctl(in, FIONREAD, &n) && n > 0)
		return n;
	return libc()->poll(&p, 1, 0) == 1 && !(p.revents & POLLIN) ? 0 : -1;
}

/* Pipe to adopted connection: as long as there is something in the pipe. */
static ssize_t fast_splice_out(struct sock *s, int in, int out, size_t len, unsigned flags, const off_t *offs[2])
{
	struct held h = {.frame = __builtin_frame_address(0), .file = &s->file, .refs = FILE_REF + FILE_CALL};
	int mode = splice_check(in, false, offs[0], offs[1], flags);
	bool dontwait = (flags & SPLICE_F_NONBLOCK) || (mode > 0 && (mode & O_NONBLOCK));
	size_t done = 0;
	char buf[BOUNCE];

	if (!len || mode < 0)
		return len ? fail(-mode) : 0;
	while (done < MIN(len, (size_t)IO_MAX)) {
		int there = pipe_unread(in);
		uint32_t place;
		size_t room;
		ssize_t n;

		if (!there || (there < 0 && (done || dontwait)))
			return done || !there ? (ssize_t)done : fail(EAGAIN);
		if (!is_fast(s, IO_OUT) && sock_reenter(s, dontwait, IO_OUT) == IO_LINUX)
			return done ? (ssize_t)done : libc()->splice(in, NULL, out, NULL, len, flags);
		room = room_wait(s, dontwait || s->nonblock);
		if (!room)
			return done ? (ssize_t)done : -1;
		place = held_push(&h);
		n = libc()->read(in, buf, MIN(MIN(len - done, sizeof(buf)), room));
		held_pop(place);
		if (n > 0)
			n = send_all(s, buf, (size_t)n, flags & SPLICE_F_MORE ? MSG_MORE : 0);
		if (n <= 0)
			return done ? (ssize_t)done : n;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

PUBLIC ssize_t splice(int in, off64_t *in_off, int out, off64_t *out_off, size_t len, unsigned flags)
{
	const off_t *offs[2] = {in_off, out_off};
	bool dontwait = flags & SPLICE_F_NONBLOCK;

	if (file_get_any(in))
		return IO_CALL(in, IO_IN, dontwait, libc()->splice(in, in_off, out, out_off, len, flags),
			       fast_splice_in(s, in, out, len, flags, offs));
	return IO_CALL(out, IO_OUT, dontwait, libc()->splice(in, in_off, out, out_off, len, flags),
		       fast_splice_out(s, in, out, len, flags, offs));
}
