// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Orders that move bytes. What is sent is made from key and place; what is read is checked
 * against them, and its length and hash are shown. A call that ends short or fails says so.
 */
#include "tests/local/ops.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <unistd.h>

#define STABLE_MS 10
#define STABLE_TIMES 2
#define LITTLE 65536
#define FILL_MOST (64u << 20)

static const char *const send_names[] = {"send",     "write",    "writev",    "sendmsg", "sendto",
					 "sendmmsg", "sendfile", "send MORE", "CORK"};
static const char *const recv_names[] = {"recv", "read", "readv", "recvmsg", "recvfrom", "recvmmsg"};

static void say_flags(struct answer *a, int flags)
{
	static const struct {
		int bit;
		const char *name;
	} names[] = {{MSG_DONTWAIT, "DONTWAIT"}, {MSG_NOSIGNAL, "NOSIGNAL"}, {MSG_PEEK, "PEEK"},
		     {MSG_WAITALL, "WAITALL"},   {MSG_TRUNC, "TRUNC"},       {MSG_MORE, "MORE"}};

	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (flags & names[i].bit)
			say(a, " %s", names[i].name);
}

/* Three pieces, one of them empty. */
static int pieces(struct iovec *v, uint8_t *p, size_t n)
{
	v[0] = (struct iovec){p, n / 3};
	v[1] = (struct iovec){p + n / 3, 0};
	v[2] = (struct iovec){p + n / 3, n - n / 3};
	return 3;
}

static ssize_t send_file(int fd, const void *buf, size_t n)
{
	int file = memfd_create("ops", MFD_CLOEXEC);
	off_t at = 0;
	ssize_t r;
	int error;

	if (file < 0 || pwrite(file, buf, n, 0) != (ssize_t)n)
		return -1;
	r = sendfile(fd, file, &at, n);
	error = errno;
	close(file);
	errno = error;
	return r;
}

/* Two calls of which the first one's bytes may wait for the second one's. */
static ssize_t send_two(int fd, uint8_t *buf, size_t n, int flags, bool cork)
{
	int on = 1, off = 0, error;
	size_t first = (n + 1) / 2;
	ssize_t r, r2 = 0;

	if (cork)
		setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof on);
	r = send(fd, buf, first, flags | (cork || n == 1 ? 0 : MSG_MORE));
	if (r == (ssize_t)first && n > first)
		r2 = send(fd, buf + first, n - first, flags);
	error = errno;
	if (cork)
		setsockopt(fd, IPPROTO_TCP, TCP_CORK, &off, sizeof off);
	errno = error;
	return r < 0 || r2 < 0 ? -1 : r + r2;
}

static ssize_t send_one(int how, int fd, uint8_t *buf, size_t n, int flags)
{
	struct iovec v[3];
	struct msghdr m = {.msg_iov = v, .msg_iovlen = (size_t)pieces(v, buf, n)};
	struct mmsghdr mm = {.msg_hdr = m};

	switch (how) {
	case SEND_WRITE:
		return write(fd, buf, n);
	case SEND_WRITEV:
		return writev(fd, v, 3);
	case SEND_SENDMSG:
		return sendmsg(fd, &m, flags);
	case SEND_SENDTO:
		return sendto(fd, buf, n, flags, NULL, 0);
	case SEND_SENDMMSG:
		return sendmmsg(fd, &mm, 1, flags) == 1 ? (ssize_t)mm.msg_len : -1;
	case SEND_SENDFILE:
		return send_file(fd, buf, n);
	case SEND_MORE:
	case SEND_CORK:
		return send_two(fd, buf, n, flags, how == SEND_CORK);
	}
	return send(fd, buf, n, flags);
}

static ssize_t recv_one(int how, int fd, uint8_t *buf, size_t n, int flags)
{
	struct iovec v[3];
	struct msghdr m = {.msg_iov = v, .msg_iovlen = (size_t)pieces(v, buf, n)};
	struct mmsghdr mm = {.msg_hdr = m};

	switch (how) {
	case RECV_READ:
		return read(fd, buf, n);
	case RECV_READV:
		return readv(fd, v, 3);
	case RECV_RECVMSG:
		return recvmsg(fd, &m, flags);
	case RECV_RECVFROM:
		return recvfrom(fd, buf, n, flags, NULL, NULL);
	case RECV_RECVMMSG:
		return recvmmsg(fd, &mm, 1, flags, NULL) == 1 ? (ssize_t)mm.msg_len : -1;
	}
	return recv(fd, buf, n, flags);
}

static bool until(int fd, short events, int ms)
{
	struct pollfd p = {.fd = fd, .events = events};

	return poll(&p, 1, ms) > 0;
}

/* All n bytes, whatever a single call takes; returns what was sent, the error in errno. */
static uint64_t push(int fd, uint64_t n, size_t piece, uint64_t key, uint64_t pos, int how)
{
	uint8_t *buf = actor_room();
	uint64_t done = 0;

	errno = 0;
	while (done < n) {
		size_t len = n - done < piece ? n - done : piece;
		ssize_t r;

		pattern_make(buf, len, key, pos + done);
		r = send_one(how, fd, buf, len, 0);
		if (r > 0)
			done += (uint64_t)r;
		else if (errno != EAGAIN || !until(fd, POLLOUT, ANSWER_MS / 2))
			break;
	}
	return done;
}

static void order_push(const struct order *o, struct answer *a, int fd)
{
	uint64_t done = push(fd, o->n, (size_t)o->arg, o->key, o->pos, o->how);

	say(a, "%s all of %lu", send_names[o->how], o->n);
	say_result(a, done == o->n ? (int64_t)done : -1);
}

static void order_send(const struct order *o, struct answer *a, int fd)
{
	uint8_t *buf = actor_room();
	ssize_t r;

	pattern_make(buf, o->n, o->key, o->pos);
	say(a, "%s %lu", send_names[o->how], o->n);
	say_flags(a, o->flags);
	r = send_one(o->how, fd, buf, o->n, o->flags);
	if (o->some && (r > 0 || errno == EAGAIN)) {
		a->r = r;
		say(a, ": some, or EAGAIN");
	} else {
		say_result(a, r);
	}
}

/* Nothing was taken for a while, and for another one. */
static bool is_full(int fd)
{
	for (int i = 0; i < STABLE_TIMES; i++)
		if (until(fd, POLLOUT, STABLE_MS))
			return false;
	return true;
}

/* How much is taken differs from run to run. */
static void order_fill(const struct order *o, struct answer *a, int fd)
{
	uint8_t *buf = actor_room();
	uint64_t done = 0;
	ssize_t r;

	do {
		pattern_make(buf, (size_t)o->arg, o->key, o->pos + done);
		r = send(fd, buf, (size_t)o->arg, MSG_DONTWAIT);
		if (r > 0)
			done += (uint64_t)r;
	} while (done < FILL_MOST && (r > 0 || (errno == EAGAIN && !is_full(fd))));
	say(a, "fill by %d%s, then", o->arg, o->some ? "" : done > LITTLE ? ": some" : ": little");
	say_result(a, r);
	a->r = (int64_t)done;
}

static void say_bytes(struct answer *a, const struct order *o, const uint8_t *buf, size_t n)
{
	size_t right = pattern_check(buf, n, o->key, o->pos);

	say(a, " %08x", pattern_hash(2166136261u, buf, n));
	if (right < n)
		say(a, " WRONG from byte %zu", right);
}

static void order_recv(const struct order *o, struct answer *a, int fd)
{
	uint8_t *buf = actor_room();
	ssize_t r;

	say(a, "%s %lu", recv_names[o->how], o->n);
	say_flags(a, o->flags);
	r = recv_one(o->how, fd, buf, o->n, o->flags);
	say_result(a, r);
	if (r > 0 && !(o->flags & MSG_TRUNC))
		say_bytes(a, o, buf, (size_t)r);
}

/* Exactly n bytes; a length that differs from run to run is not shown, nor its hash. */
static void order_take(const struct order *o, struct answer *a, int fd)
{
	uint8_t *buf = actor_room();
	uint32_t hash = 2166136261u;
	uint64_t done = 0;
	bool right = true;

	errno = 0;
	while (done < o->n && right) {
		size_t len = o->n - done < (uint64_t)o->arg ? o->n - done : (uint64_t)o->arg;
		ssize_t r = recv_one(o->how, fd, buf, len, o->flags);

		if (r > 0) {
			right = pattern_check(buf, (size_t)r, o->key, o->pos + done) == (size_t)r;
			hash = pattern_hash(hash, buf, (size_t)r);
			done += (uint64_t)r;
		} else if (!r || errno != EAGAIN || !until(fd, POLLIN, ANSWER_MS / 2)) {
			break;
		}
	}
	a->r = (int64_t)done;
	if (o->some)
		say(a, "%s all", recv_names[o->how]);
	else
		say(a, "%s all of %lu %08x", recv_names[o->how], o->n, hash);
	say_flags(a, o->flags);
	if (!right)
		say(a, " WRONG before byte %lu", done);
	else if (done < o->n)
		say(a, " ended after %lu of %lu, errno %d", done, o->n, errno);
}

/* One thread has both ends: it sends what is taken, and reads what has come, in turn. */
static void order_pump(const struct order *o, struct answer *a)
{
	int out = actor_fds[o->end][o->copy], in = actor_fds[o->end ^ 1][o->mask];
	uint8_t *buf = actor_room();
	uint64_t sent = 0, got = 0, unread = o->pos - o->pos2;
	int64_t end = clock_us() + ANSWER_MS * 500;
	bool right = true;

	while (got < o->n + unread && right && clock_us() < end) {
		size_t len = o->n - sent < (uint64_t)o->arg ? o->n - sent : (uint64_t)o->arg;
		ssize_t r;

		pattern_make(buf, len, o->key, o->pos + sent);
		r = len ? send(out, buf, len, MSG_DONTWAIT) : 0;
		sent += r > 0 ? (uint64_t)r : 0;
		r = recv(in, buf, LONGEST, MSG_DONTWAIT);
		if (r > 0)
			right = pattern_check(buf, (size_t)r, o->key, o->pos2 + got) == (size_t)r;
		else if (!r || errno != EAGAIN || !until(in, POLLIN, 1000))
			break;
		got += r > 0 ? (uint64_t)r : 0;
	}
	a->r = (int64_t)sent;
	say(a, "pump %lu = %s", o->n, sent == o->n && got == o->n + unread && right ? "all right" : "WRONG");
}

bool io_order(const struct order *o, struct answer *a)
{
	int fd = actor_fds[o->end][o->copy];

	switch (o->op) {
	case DO_SEND:
		order_send(o, a, fd);
		return true;
	case DO_PUSH:
		order_push(o, a, fd);
		return true;
	case DO_FILL:
		order_fill(o, a, fd);
		return true;
	case DO_RECV:
		order_recv(o, a, fd);
		return true;
	case DO_TAKE:
		order_take(o, a, fd);
		return true;
	case DO_PUMP:
		order_pump(o, a);
		return true;
	}
	return false;
}
