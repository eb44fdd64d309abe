// SPDX-License-Identifier: GPL-2.0-or-later
/* Every way to read, in every state of the connection: one case for each pair. */
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>

#include "tests/posix/posix.h"

ssize_t __read_chk(int fd, void *buf, size_t n, size_t size);
ssize_t __recv_chk(int fd, void *buf, size_t n, size_t size, int flags);
ssize_t __recvfrom_chk(int fd, void *buf, size_t n, size_t size, int flags, struct sockaddr *a, socklen_t *len);

static int splice_pipe[2]; /* of op_splice */

static ssize_t op_read(int fd, void *buf, size_t n, int flags)
{
	(void)flags;
	return read(fd, buf, n);
}

/* In three pieces, the middle one empty. */
static int pieces(struct iovec *v, void *buf, size_t n)
{
	size_t k = n / 3;

	v[0] = (struct iovec){buf, k};
	v[1] = (struct iovec){NULL, 0};
	v[2] = (struct iovec){(char *)buf + k, n - k};
	return 3;
}

static ssize_t op_readv(int fd, void *buf, size_t n, int flags)
{
	struct iovec v[3];

	(void)flags;
	return readv(fd, v, pieces(v, buf, n));
}

static ssize_t op_preadv2(int fd, void *buf, size_t n, int flags)
{
	struct iovec v[3];

	(void)flags;
	return preadv2(fd, v, pieces(v, buf, n), -1, 0);
}

static ssize_t op_recv(int fd, void *buf, size_t n, int flags)
{
	return recv(fd, buf, n, flags);
}

static ssize_t op_recvfrom(int fd, void *buf, size_t n, int flags)
{
	struct sockaddr_storage from;
	socklen_t len = sizeof(from);
	ssize_t ret = recvfrom(fd, buf, n, flags, (struct sockaddr *)&from, &len);

	if (ret > 0)
		say("address length %d", (int)len);
	return ret;
}

static ssize_t op_recvmsg(int fd, void *buf, size_t n, int flags)
{
	char control[64];
	struct sockaddr_storage from;
	struct iovec v[3];
	struct msghdr m = {.msg_name = &from,
			   .msg_namelen = sizeof(from),
			   .msg_iov = v,
			   .msg_iovlen = (size_t)pieces(v, buf, n),
			   .msg_control = control,
			   .msg_controllen = sizeof(control)};
	ssize_t ret = recvmsg(fd, &m, flags);

	if (ret > 0)
		say("name %d control %zu flags %x", (int)m.msg_namelen, m.msg_controllen, (unsigned)m.msg_flags);
	return ret;
}

static ssize_t op_recvmmsg(int fd, void *buf, size_t n, int flags)
{
	struct iovec v[3];
	struct mmsghdr m = {.msg_hdr = {.msg_iov = v, .msg_iovlen = (size_t)pieces(v, buf, n)}};
	int ret = recvmmsg(fd, &m, 1, flags, NULL);

	return ret == 1 ? (ssize_t)m.msg_len : ret;
}

static ssize_t op_sys_read(int fd, void *buf, size_t n, int flags)
{
	(void)flags;
	return syscall(SYS_read, fd, buf, n);
}

static ssize_t op_sys_recvfrom(int fd, void *buf, size_t n, int flags)
{
	return syscall(SYS_recvfrom, fd, buf, n, flags, NULL, NULL);
}

static ssize_t op_read_chk(int fd, void *buf, size_t n, int flags)
{
	(void)flags;
	return __read_chk(fd, buf, n, (size_t)-1);
}

static ssize_t op_recv_chk(int fd, void *buf, size_t n, int flags)
{
	return __recv_chk(fd, buf, n, (size_t)-1, flags);
}

static ssize_t op_recvfrom_chk(int fd, void *buf, size_t n, int flags)
{
	return __recvfrom_chk(fd, buf, n, (size_t)-1, flags, NULL, NULL);
}

static ssize_t op_splice(int fd, void *buf, size_t n, int flags)
{
	ssize_t ret;

	if (!splice_pipe[0] && pipe(splice_pipe))
		fatal("pipe: %s", strerror(errno));
	(void)flags;
	ret = splice(fd, NULL, splice_pipe[1], NULL, n, 0);
	return ret > 0 ? read(splice_pipe[0], buf, (size_t)ret) : ret;
}

enum { HAS_FLAGS = 1, HAS_MEMORY = 2 };
static const struct op {
	const char *name;
	ssize_t (*fn)(int fd, void *buf, size_t n, int flags);
	unsigned can;
} ops[] = {
	{"read", op_read, HAS_MEMORY},
	{"readv", op_readv, HAS_MEMORY},
	{"preadv2", op_preadv2, HAS_MEMORY},
	{"recv", op_recv, HAS_FLAGS | HAS_MEMORY},
	{"recvfrom", op_recvfrom, HAS_FLAGS | HAS_MEMORY},
	{"recvmsg", op_recvmsg, HAS_FLAGS | HAS_MEMORY},
	{"recvmmsg", op_recvmmsg, HAS_FLAGS | HAS_MEMORY},
	{"syscall-read", op_sys_read, HAS_MEMORY},
	{"syscall-recvfrom", op_sys_recvfrom, HAS_FLAGS | HAS_MEMORY},
	{"read_chk", op_read_chk, HAS_MEMORY},
	{"recv_chk", op_recv_chk, HAS_FLAGS | HAS_MEMORY},
	{"recvfrom_chk", op_recvfrom_chk, HAS_FLAGS | HAS_MEMORY},
	{"splice-in", op_splice, 0},
};
#define OPS (sizeof(ops) / sizeof(ops[0]))

static const struct op *op;

static long do_op_flags(int fd, size_t n, int flags)
{
	char buf[4096] = "";

	return tell_data(op->fn(fd, buf, n, flags), buf, "%s(%zu)", op->name, n);
}

static long do_op(const struct conn *c, size_t n)
{
	return do_op_flags(c->fd, n, 0);
}

/* ---- states ---- */

static void st_data(struct conn *c)
{
	peer_text(c, "0123456789");
	await_in(c->fd, 10);
	do_op(c, 4);
	do_op(c, 100);
}

static void st_nonblock(struct conn *c)
{
	fcntl(c->fd, F_SETFL, O_NONBLOCK);
	do_op(c, 10);
	peer_text(c, "hello");
	await_in(c->fd, 5);
	do_op(c, 10);
	do_op(c, 10);
}

static void st_blocks(struct conn *c)
{
	peer_text_later(40, c, "late");
	do_op(c, 10);
	peer_wait();
}

static void st_eof(struct conn *c)
{
	peer_text(c, "last");
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	await_poll(c->fd, POLLRDHUP);
	do_op(c, 10);
	do_op(c, 10);
	do_op(c, 10);
	say("peer can still be written to: %zd", send(c->fd, "x", 1, 0));
	peer_recv_say(c, 1);
}

static void st_eof_later(struct conn *c)
{
	peer_later(40, PEER_SHUTDOWN, c, SHUT_WR, 0);
	do_op(c, 10);
	peer_wait();
	do_op(c, 10);
}

static void st_reset(struct conn *c)
{
	peer_text(c, "unread");
	await_in(c->fd, 6);
	peer(PEER_RESET, c, 0, 0);
	await_reset(c->fd);
	do_op(c, 10);
	do_op(c, 10);
	do_op(c, 10);
}

static void st_reset_later(struct conn *c)
{
	peer_later(40, PEER_RESET, c, 0, 0);
	do_op(c, 10);
	peer_wait();
	do_op(c, 10);
}

static void st_shut_rd(struct conn *c)
{
	peer_text(c, "there");
	await_in(c->fd, 5);
	tell(shutdown(c->fd, SHUT_RD), "shutdown(RD)");
	do_op(c, 10);
	do_op(c, 10);
	peer_text(c, "more");
	await_in(c->fd, 4);
	do_op(c, 10);
	do_op(c, 10);
}

static void st_shut_wr(struct conn *c)
{
	tell(shutdown(c->fd, SHUT_WR), "shutdown(WR)");
	peer_drain_say(c);
	peer_text(c, "half");
	await_in(c->fd, 4);
	do_op(c, 10);
	peer(PEER_CLOSE, c, 0, 0);
	do_op(c, 10);
}

static void st_shut_both(struct conn *c)
{
	peer_text(c, "there");
	await_in(c->fd, 5);
	tell(shutdown(c->fd, SHUT_RDWR), "shutdown(RDWR)");
	peer_drain_say(c);
	do_op(c, 10);
	do_op(c, 10);
}

static void st_zero(struct conn *c)
{
	fcntl(c->fd, F_SETFL, O_NONBLOCK);
	do_op(c, 0);
	peer_text(c, "abc");
	await_in(c->fd, 3);
	do_op(c, 0);
	do_op(c, 10);
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	await_poll(c->fd, POLLRDHUP);
	do_op(c, 0);
}

static void st_timeout(struct conn *c)
{
	struct timeval t = {.tv_usec = 40000};
	double start;

	tell(setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)), "SO_RCVTIMEO");
	start = seconds();
	do_op(c, 10);
	say("waited: %s", seconds() - start >= 0.035 ? "yes" : "no");
	peer_text(c, "then");
	await_in(c->fd, 4);
	do_op(c, 10);
}

static void st_fault(struct conn *c)
{
	peer_text(c, "safe");
	await_in(c->fd, 4);
	tell(op->fn(c->fd, (void *)16, 4, 0), "%s at a bad address", op->name);
	do_op(c, 10);
}

static void st_dontwait(struct conn *c)
{
	do_op_flags(c->fd, 10, MSG_DONTWAIT);
	peer_text(c, "now");
	await_in(c->fd, 3);
	do_op_flags(c->fd, 10, MSG_DONTWAIT);
}

static void st_interrupted(struct conn *c)
{
	alarm_start(0);
	do_op(c, 10);
	alarm_stop();
	peer_text(c, "after");
	await_in(c->fd, 5);
	do_op(c, 10);
}

static void st_restarted(struct conn *c)
{
	alarm_start(SA_RESTART);
	peer_text_later(120, c, "after all");
	do_op(c, 10);
	alarm_stop();
	peer_wait();
	say("signals: %s", signals_seen ? "some" : "none");
}

static void st_closed(struct conn *c)
{
	int fd = c->fd;

	close(fd);
	do_op_flags(fd, 10, 0);
}

static const struct state {
	const char *name, *text;
	void (*fn)(struct conn *c);
	unsigned needs;
} states[] = {
	{"data", "bytes are there: part of them, then the rest", st_data, 0},
	{"nonblock", "O_NONBLOCK: nothing, data, nothing", st_nonblock, 0},
	{"blocks", "blocks until the peer sends", st_blocks, 0},
	{"eof", "data, then the end of the stream twice", st_eof, 0},
	{"eof-later", "blocks until the peer's FIN", st_eof_later, 0},
	{"reset", "unread data, then the peer's reset", st_reset, 0},
	{"reset-later", "blocks until the peer's reset", st_reset_later, 0},
	{"shut-rd", "after shutdown(SHUT_RD), with data before and after it", st_shut_rd, 0},
	{"shut-wr", "after shutdown(SHUT_WR) the other direction goes on", st_shut_wr, 0},
	{"shut-both", "after shutdown(SHUT_RDWR) with data unread", st_shut_both, 0},
	{"zero", "length 0 with and without data and at the end", st_zero, 0},
	{"timeout", "SO_RCVTIMEO", st_timeout, 0},
	{"fault", "a bad address: EFAULT, and the data stay", st_fault, HAS_MEMORY},
	{"dontwait", "MSG_DONTWAIT on a blocking socket", st_dontwait, HAS_FLAGS},
	{"eintr", "interrupted by a signal", st_interrupted, 0},
	{"restart", "goes on after a signal with SA_RESTART", st_restarted, 0},
	{"closed", "EBADF after close", st_closed, 0},
};
#define STATES (sizeof(states) / sizeof(states[0]))

static void run_pair(void)
{
	op = &ops[this_case->a];
	states[this_case->b].fn(conn_open());
}

const struct test_case *matrix_read(void)
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
