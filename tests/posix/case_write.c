// SPDX-License-Identifier: GPL-2.0-or-later
/* Every way to write, in every state of the connection: one case for each pair. */
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>

#include "tests/posix/posix.h"

#define LARGE (6 << 20) /* more than both ends' buffers hold */

static ssize_t op_write(int fd, const void *buf, size_t n, int flags)
{
	(void)flags;
	return write(fd, buf, n);
}

static int pieces(struct iovec *v, const void *buf, size_t n)
{
	size_t k = n / 3;

	v[0] = (struct iovec){(void *)(uintptr_t)buf, k};
	v[1] = (struct iovec){NULL, 0};
	v[2] = (struct iovec){(char *)(uintptr_t)buf + k, n - k};
	return 3;
}

static ssize_t op_writev(int fd, const void *buf, size_t n, int flags)
{
	struct iovec v[3];

	(void)flags;
	return writev(fd, v, pieces(v, buf, n));
}

static ssize_t op_pwritev2(int fd, const void *buf, size_t n, int flags)
{
	struct iovec v[3];

	(void)flags;
	return pwritev2(fd, v, pieces(v, buf, n), -1, 0);
}

static ssize_t op_send(int fd, const void *buf, size_t n, int flags)
{
	return send(fd, buf, n, flags);
}

static ssize_t op_sendto(int fd, const void *buf, size_t n, int flags)
{
	return sendto(fd, buf, n, flags, NULL, 0);
}

static ssize_t op_sendmsg(int fd, const void *buf, size_t n, int flags)
{
	struct iovec v[3];
	struct msghdr m = {.msg_iov = v, .msg_iovlen = (size_t)pieces(v, buf, n)};

	return sendmsg(fd, &m, flags);
}

static ssize_t op_sendmmsg(int fd, const void *buf, size_t n, int flags)
{
	struct iovec v[3];
	struct mmsghdr m = {.msg_hdr = {.msg_iov = v, .msg_iovlen = (size_t)pieces(v, buf, n)}};
	int ret = sendmmsg(fd, &m, 1, flags);

	return ret == 1 ? (ssize_t)m.msg_len : ret;
}

static ssize_t op_sys_write(int fd, const void *buf, size_t n, int flags)
{
	(void)flags;
	return syscall(SYS_write, fd, buf, n);
}

static ssize_t op_sys_sendto(int fd, const void *buf, size_t n, int flags)
{
	return syscall(SYS_sendto, fd, buf, n, flags, NULL, 0);
}

static ssize_t op_sendfile(int fd, const void *buf, size_t n, int flags)
{
	off_t off = 0;
	int file = memfd_create("source", 0), saved;
	ssize_t ret;

	(void)flags;
	if (file < 0 || write(file, buf, n) != (ssize_t)n)
		fatal("memfd: %s", strerror(errno));
	ret = sendfile(fd, file, &off, n);
	saved = errno;
	if (ret >= 0 && off != ret)
		say("sendfile: offset %ld after %zd", (long)off, ret);
	close(file);
	errno = saved;
	return ret;
}

static ssize_t op_splice(int fd, const void *buf, size_t n, int flags)
{
	int p[2], saved;
	ssize_t ret;

	if (pipe(p))
		fatal("pipe: %s", strerror(errno));
	n = n < 60000 ? n : 60000;
	if (write(p[1], buf, n) != (ssize_t)n)
		fatal("pipe: %s", strerror(errno));
	close(p[1]);
	ret = splice(p[0], NULL, fd, NULL, n, flags & MSG_DONTWAIT ? SPLICE_F_NONBLOCK : 0);
	saved = errno;
	close(p[0]);
	errno = saved;
	return ret;
}

enum { HAS_FLAGS = 1, HAS_MEMORY = 2, HAS_WHOLE = 4 }; /* WHOLE: a blocking call writes all */
static const struct op {
	const char *name;
	ssize_t (*fn)(int fd, const void *buf, size_t n, int flags);
	unsigned can;
} ops[] = {
	{"write", op_write, HAS_MEMORY | HAS_WHOLE},
	{"writev", op_writev, HAS_MEMORY | HAS_WHOLE},
	{"pwritev2", op_pwritev2, HAS_MEMORY | HAS_WHOLE},
	{"send", op_send, HAS_FLAGS | HAS_MEMORY | HAS_WHOLE},
	{"sendto", op_sendto, HAS_FLAGS | HAS_MEMORY | HAS_WHOLE},
	{"sendmsg", op_sendmsg, HAS_FLAGS | HAS_MEMORY | HAS_WHOLE},
	{"sendmmsg", op_sendmmsg, HAS_FLAGS | HAS_MEMORY | HAS_WHOLE},
	{"syscall-write", op_sys_write, HAS_MEMORY | HAS_WHOLE},
	{"syscall-sendto", op_sys_sendto, HAS_FLAGS | HAS_MEMORY | HAS_WHOLE},
	{"sendfile", op_sendfile, HAS_WHOLE},
	{"splice-out", op_splice, 0},
};
#define OPS (sizeof(ops) / sizeof(ops[0]))

static const struct op *op;
static char block[65536];

static long do_op(const struct conn *c, const char *text, int flags)
{
	signals_seen = 0;
	tell(op->fn(c->fd, text, strlen(text), flags), "%s(%zu%s)", op->name, strlen(text),
	     flags & MSG_NOSIGNAL ? ", NOSIGNAL" : "");
	if (signals_seen)
		say("SIGPIPE %d", signals_seen);
	return 0;
}

/* Non-blocking writes until there is no room. Returns how many bytes went. */
static int64_t fill(const struct conn *c, int flags)
{
	int64_t total = 0;

	for (;;) {
		ssize_t n;

		pattern_fill(block, sizeof(block), 3, (uint64_t)total);
		n = op->fn(c->fd, block, sizeof(block), flags);
		if (n <= 0) {
			say("full: %zd %s, something was written: %s", n, err_name(n < 0 ? errno : 0),
			    total > 0 ? "yes" : "no");
			return total;
		}
		total += n;
	}
}

static void peer_check(const struct conn *c, int64_t total, const char *what)
{
	struct peer_answer a;

	peer_later(0, PEER_RECV, c, total, 0);
	a = peer_wait();
	say("%s: %s", what,
	    a.ret == total && a.hash == pattern_stream_hash(3, (uint64_t)total) ? "all of it, and right"
	    : a.ret == total                                                    ? "wrong bytes"
										: "too few bytes");
}

/* ---- states ---- */

static void st_room(struct conn *c)
{
	do_op(c, "hello, ", 0);
	do_op(c, "peer", 0);
	peer_recv_say(c, 11);
}

static void st_peer_fin(struct conn *c)
{
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	await_poll(c->fd, POLLRDHUP);
	do_op(c, "half-open", 0);
	peer_recv_say(c, 9);
}

static void st_peer_closed(struct conn *c)
{
	peer(PEER_CLOSE, c, 0, 0);
	await_poll(c->fd, POLLRDHUP);
	do_op(c, "first", 0);
	await_reset(c->fd);
	do_op(c, "second", 0);
	do_op(c, "third", 0);
}

static void st_reset(struct conn *c)
{
	peer(PEER_RESET, c, 0, 0);
	await_reset(c->fd);
	do_op(c, "one", 0);
	do_op(c, "two", 0);
}

static void st_shut_wr(struct conn *c)
{
	tell(shutdown(c->fd, SHUT_WR), "shutdown(WR)");
	do_op(c, "no", 0);
	peer_drain_say(c);
}

static void st_shut_rd(struct conn *c)
{
	tell(shutdown(c->fd, SHUT_RD), "shutdown(RD)");
	do_op(c, "yes", 0);
	peer_recv_say(c, 3);
}

static void st_nosignal(struct conn *c)
{
	tell(shutdown(c->fd, SHUT_WR), "shutdown(WR)");
	do_op(c, "no", MSG_NOSIGNAL);
}

static void st_full(struct conn *c)
{
	int64_t total;

	fcntl(c->fd, F_SETFL, O_NONBLOCK);
	total = fill(c, 0);
	peer_check(c, total, "peer reads");
	await_poll(c->fd, POLLOUT);
	do_op(c, "room again", 0);
	peer_recv_say(c, 10);
}

static void st_dontwait(struct conn *c)
{
	peer_check(c, fill(c, MSG_DONTWAIT), "peer reads");
}

static void st_whole(struct conn *c)
{
	char *large = malloc(LARGE);
	struct peer_answer a;

	pattern_fill(large, LARGE, 3, 0);
	peer_later(60, PEER_RECV, c, LARGE, 0);
	tell(op->fn(c->fd, large, LARGE, 0), "%s(%d)", op->name, LARGE);
	a = peer_wait();
	say("peer got %lld, %s", (long long)a.ret, a.hash == pattern_stream_hash(3, LARGE) ? "right" : "wrong");
	free(large);
}

static void st_zero(struct conn *c)
{
	do_op(c, "", 0);
	do_op(c, "x", 0);
	peer_recv_say(c, 1);
}

static void st_fault(struct conn *c)
{
	tell(op->fn(c->fd, (void *)16, 4, 0), "%s from a bad address", op->name);
	do_op(c, "fine", 0);
	peer_recv_say(c, 4);
}

static void st_fault_half(struct conn *c)
{
	char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	munmap(page + 4096, 4096);
	memset(page, 'p', 4096);
	tell(op->fn(c->fd, page + 4096 - 8, 24, 0), "%s that runs into a bad address", op->name);
	do_op(c, "fine", 0);
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	shutdown(c->fd, SHUT_WR);
	peer_drain_say(c);
}

static void st_timeout(struct conn *c)
{
	struct timeval t = {.tv_usec = 40000};
	int64_t total;

	tell(setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t)), "SO_SNDTIMEO");
	total = fill(c, 0);
	peer_check(c, total, "peer reads");
}

/* Blocked with nothing written yet, so that the signal cannot be answered with a count. */
static void st_interrupted(struct conn *c)
{
	fill_up(c->fd);
	alarm_start(0);
	tell(op->fn(c->fd, "stuck", 5, 0), "%s(5)", op->name);
	alarm_stop();
}

static void st_closed(struct conn *c)
{
	close(c->fd);
	do_op(c, "gone", 0);
}

static const struct state {
	const char *name, *text;
	void (*fn)(struct conn *c);
	unsigned needs;
} states[] = {
	{"room", "two writes arrive in order", st_room, 0},
	{"peer-fin", "the peer has shut its side down", st_peer_fin, 0},
	{"peer-closed", "the peer has closed: success, then EPIPE and SIGPIPE", st_peer_closed, 0},
	{"reset", "the peer has reset: ECONNRESET, then EPIPE and SIGPIPE", st_reset, 0},
	{"shut-wr", "after shutdown(SHUT_WR): EPIPE and SIGPIPE", st_shut_wr, 0},
	{"shut-rd", "after shutdown(SHUT_RD) writing goes on", st_shut_rd, 0},
	{"nosignal", "MSG_NOSIGNAL: EPIPE without SIGPIPE", st_nosignal, HAS_FLAGS},
	{"full", "O_NONBLOCK until EAGAIN; the peer reads all; room again", st_full, 0},
	{"dontwait", "MSG_DONTWAIT on a blocking socket until EAGAIN", st_dontwait, HAS_FLAGS},
	{"whole", "a blocking call writes 6 MB while the peer reads", st_whole, HAS_WHOLE},
	{"zero", "length 0", st_zero, 0},
	{"fault", "a bad address: EFAULT, and the connection goes on", st_fault, HAS_MEMORY},
	{"fault-half", "an area of which only the beginning can be read", st_fault_half, HAS_MEMORY},
	{"timeout", "SO_SNDTIMEO with a peer that does not read", st_timeout, HAS_WHOLE},
	{"eintr", "blocked for room and interrupted by a signal", st_interrupted, 0},
	{"closed", "EBADF after close", st_closed, 0},
};
#define STATES (sizeof(states) / sizeof(states[0]))

static void run_pair(void)
{
	op = &ops[this_case->a];
	signal_count(SIGPIPE, 0);
	states[this_case->b].fn(conn_open());
}

const struct test_case *matrix_write(void)
{
	static struct test_case list[OPS * STATES + 1];
	static char names[OPS * STATES][40], texts[OPS * STATES][100];
	size_t n = 0;

	if (list[0].name)
		return list;
	for (size_t i = 0; i < OPS; i++)
		for (size_t k = 0; k < STATES; k++) {
			if (states[k].needs & ~ops[i].can)
				continue;
			snprintf(names[n], sizeof(names[n]), "%s/%s", ops[i].name, states[k].name);
			snprintf(texts[n], sizeof(texts[n]), "%s: %s", ops[i].name, states[k].text);
			list[n] = (struct test_case){.name = names[n],
						     .text = texts[n],
						     .run = run_pair,
						     .a = (long)i,
						     .b = (long)k,
						     .returns =
							     strncmp(ops[i].name, "syscall-", 8) ? NULL : PAST_LIBRARY};
			n++;
		}
	return list;
}
