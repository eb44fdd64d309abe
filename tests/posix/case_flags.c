// SPDX-License-Identifier: GPL-2.0-or-later
/* Flags of recv() and send(), and what calls say to wrong arguments. */
#include <limits.h>
#include <time.h>
#include <linux/errqueue.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "tests/posix/posix.h"

static char buf[70000];

static long recv_say(const struct conn *c, size_t n, int flags, const char *names)
{
	memset(buf, 0, n < sizeof(buf) ? n : sizeof(buf));
	return tell_data(recv(c->fd, buf, n, flags), buf, "recv(%zu, %s)", n, names);
}

/* ---- flags of recv() ---- */

static void peek(void)
{
	struct conn *c = conn_open();

	peer_text(c, "peekaboo");
	await_in(c->fd, 8);
	recv_say(c, 4, MSG_PEEK, "PEEK");
	recv_say(c, 100, MSG_PEEK, "PEEK");
	recv_say(c, 4, 0, "0");
	recv_say(c, 100, MSG_PEEK, "PEEK");
	recv_say(c, 100, 0, "0");
	recv_say(c, 100, MSG_PEEK | MSG_DONTWAIT, "PEEK|DONTWAIT");
}

static void peek_blocks(void)
{
	struct conn *c = conn_open();

	peer_text_later(40, c, "here");
	recv_say(c, 10, MSG_PEEK, "PEEK");
	peer_wait();
	recv_say(c, 10, 0, "0");
}

static void peek_eof(void)
{
	struct conn *c = conn_open();

	peer_text(c, "z");
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	await_poll(c->fd, POLLRDHUP);
	recv_say(c, 10, MSG_PEEK, "PEEK");
	recv_say(c, 10, 0, "0");
	recv_say(c, 10, MSG_PEEK, "PEEK");
}

static void peek_msg(void)
{
	struct conn *c = conn_open();
	char a[3] = "", b[10] = "";
	struct iovec v[2] = {{a, 3}, {b, 10}};
	struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};

	peer_text(c, "abcdef");
	await_in(c->fd, 6);
	tell(recvmsg(c->fd, &m, MSG_PEEK), "recvmsg(PEEK)");
	say("%.3s %.3s flags %x", a, b, (unsigned)m.msg_flags);
	recv_say(c, 10, 0, "0");
}

static void waitall(void)
{
	struct conn *c = conn_open();

	peer_text(c, "first");
	await_in(c->fd, 5);
	peer_text_later(40, c, "second");
	recv_say(c, 11, MSG_WAITALL, "WAITALL");
	peer_wait();
}

static void waitall_iov(void)
{
	struct conn *c = conn_open();
	char a[4] = "", b[7] = "";
	struct iovec v[2] = {{a, 4}, {b, 7}};
	struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};

	peer_text(c, "first");
	await_in(c->fd, 5);
	peer_text_later(40, c, "second");
	tell(recvmsg(c->fd, &m, MSG_WAITALL), "recvmsg(WAITALL)");
	say("%.4s %.7s", a, b);
	peer_wait();
}

static void waitall_eof(void)
{
	struct conn *c = conn_open();

	peer_text(c, "short");
	peer_later(40, PEER_SHUTDOWN, c, SHUT_WR, 0);
	recv_say(c, 11, MSG_WAITALL, "WAITALL");
	peer_wait();
}

static void waitall_nonblock(void)
{
	struct conn *c = conn_nonblock();

	peer_text(c, "short");
	await_in(c->fd, 5);
	recv_say(c, 11, MSG_WAITALL, "WAITALL");
	recv_say(c, 11, MSG_WAITALL, "WAITALL");
}

static void waitall_signal(void)
{
	struct conn *c = conn_open();

	peer_text(c, "part");
	await_in(c->fd, 4);
	alarm_start(0);
	recv_say(c, 11, MSG_WAITALL, "WAITALL");
	alarm_stop();
}

static void waitall_peek(void)
{
	struct conn *c = conn_open();

	peer_text(c, "first");
	await_in(c->fd, 5);
	peer_text_later(40, c, "second");
	recv_say(c, 11, MSG_WAITALL | MSG_PEEK, "WAITALL|PEEK");
	peer_wait();
}

static void waitall_large(void)
{
	struct conn *c = conn_open();
	size_t n = 3000001;
	char *big = malloc(n);

	peer_later(0, PEER_SEND, c, (int64_t)n, 5);
	tell(recv(c->fd, big, n, MSG_WAITALL), "recv(%zu, WAITALL)", n);
	say("right: %s", pattern_hash(HASH_START, big, n) == pattern_stream_hash(5, n) ? "yes" : "no");
	peer_wait();
	free(big);
}

static void trunc_discards(void)
{
	struct conn *c = conn_open();

	peer_text(c, "discarded, kept");
	await_in(c->fd, 15);
	tell(recv(c->fd, buf, 11, MSG_TRUNC), "recv(11, TRUNC)");
	recv_say(c, 20, 0, "0");
}

static void trunc_null(void)
{
	struct conn *c = conn_open();

	peer_text(c, "discarded, kept");
	await_in(c->fd, 15);
	tell(recv(c->fd, NULL, 11, MSG_TRUNC), "recv(NULL, 11, TRUNC)");
	recv_say(c, 20, 0, "0");
}

static void errqueue(void)
{
	struct conn *c = conn_open();
	char control[200];
	struct iovec v = {buf, 10};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};

	tell(recvmsg(c->fd, &m, MSG_ERRQUEUE), "recvmsg(ERRQUEUE)");
	recv_say(c, 10, MSG_ERRQUEUE, "ERRQUEUE");
}

static void recv_oob_none(void)
{
	struct conn *c = conn_open();

	recv_say(c, 1, MSG_OOB, "OOB");
}

static void recvmmsg_many(void)
{
	struct conn *c = conn_open();
	char part[3][4] = {"", "", ""};
	struct iovec v[3];
	struct mmsghdr m[3];

	memset(m, 0, sizeof(m));
	for (int i = 0; i < 3; i++) {
		v[i] = (struct iovec){part[i], 4};
		m[i].msg_hdr = (struct msghdr){.msg_iov = &v[i], .msg_iovlen = 1};
	}
	peer_text(c, "onetwothree");
	await_in(c->fd, 11);
	tell(recvmmsg(c->fd, m, 3, 0, NULL), "recvmmsg(3)");
	for (int i = 0; i < 3; i++)
		say("%u \"%.4s\" %x", m[i].msg_len, part[i], (unsigned)m[i].msg_hdr.msg_flags);
}

static void recvmmsg_waitforone(void)
{
	struct conn *c = conn_open();
	char part[3][4] = {"", "", ""};
	struct iovec v[3];
	struct mmsghdr m[3];

	memset(m, 0, sizeof(m));
	for (int i = 0; i < 3; i++) {
		v[i] = (struct iovec){part[i], 4};
		m[i].msg_hdr = (struct msghdr){.msg_iov = &v[i], .msg_iovlen = 1};
	}
	peer_text(c, "seven77");
	await_in(c->fd, 7);
	tell(recvmmsg(c->fd, m, 3, MSG_WAITFORONE, NULL), "recvmmsg(3, WAITFORONE)");
	say("%u %u", m[0].msg_len, m[1].msg_len);
}

static void recvmmsg_timeout(void)
{
	struct conn *c = conn_open();
	char part[2][4] = {"", ""};
	struct iovec v[2];
	struct mmsghdr m[2];
	struct timespec t = {.tv_nsec = 1000000};

	memset(m, 0, sizeof(m));
	for (int i = 0; i < 2; i++) {
		v[i] = (struct iovec){part[i], 4};
		m[i].msg_hdr = (struct msghdr){.msg_iov = &v[i], .msg_iovlen = 1};
	}
	peer_text(c, "abcd");
	await_in(c->fd, 4);
	peer_text_later(60, c, "efgh");
	/* the time is looked at between messages only */
	tell(recvmmsg(c->fd, m, 2, 0, &t), "recvmmsg(2, 1 ms)");
	say("time left: %s", t.tv_sec || t.tv_nsec ? "some" : "none");
	t.tv_nsec = -1;
	tell(recvmmsg(c->fd, m, 2, MSG_DONTWAIT, &t), "recvmmsg(bad time)");
	peer_wait();
}

static void recvmmsg_zero(void)
{
	struct conn *c = conn_open();

	tell(recvmmsg(c->fd, NULL, 0, 0, NULL), "recvmmsg(0)");
	tell(sendmmsg(c->fd, NULL, 0, 0), "sendmmsg(0)");
}

/* ---- flags of send() ---- */

static void more(void)
{
	struct conn *c = conn_open();

	tell(send(c->fd, "head ", 5, MSG_MORE), "send(MORE)");
	tell(send(c->fd, "tail", 4, 0), "send(0)");
	peer_recv_say(c, 9);
}

static void more_alone(void)
{
	struct conn *c = conn_open();

	tell(send(c->fd, "alone", 5, MSG_MORE), "send(MORE)");
	peer_recv_say(c, 5);
}

static void more_shutdown(void)
{
	struct conn *c = conn_open();

	tell(send(c->fd, "pushed by FIN", 13, MSG_MORE), "send(MORE)");
	tell(shutdown(c->fd, SHUT_WR), "shutdown(WR)");
	peer_drain_say(c);
}

static void eor(void)
{
	struct conn *c = conn_open();

	tell(send(c->fd, "record", 6, MSG_EOR), "send(EOR)");
	tell(send(c->fd, "confirmed", 9, MSG_CONFIRM | MSG_DONTROUTE), "send(CONFIRM|DONTROUTE)");
	peer_recv_say(c, 15);
}

static void unknown_flags(void)
{
	struct conn *c = conn_open();

	tell(send(c->fd, "x", 1, 0x08000000), "send(unknown flag)");
	peer_text(c, "y");
	await_in(c->fd, 1);
	recv_say(c, 1, 0x08000000, "unknown flag");
	peer_recv_say(c, 1);
}

static void zerocopy_off(void)
{
	struct conn *c = conn_open();

	tell(send(c->fd, "plain", 5, MSG_ZEROCOPY), "send(ZEROCOPY) without SO_ZEROCOPY");
	peer_recv_say(c, 5);
}

static void zerocopy(void)
{
	struct conn *c = conn_open();
	int one = 1;
	char control[200];
	struct msghdr m = {.msg_control = control, .msg_controllen = sizeof(control)};

	tell(setsockopt(c->fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)), "SO_ZEROCOPY");
	memset(buf, 'z', sizeof(buf));
	tell(send(c->fd, buf, 20000, MSG_ZEROCOPY), "send(ZEROCOPY)");
	peer_recv_say(c, 20000);
	await_poll(c->fd, POLLERR);
	if (tell(recvmsg(c->fd, &m, MSG_ERRQUEUE), "recvmsg(ERRQUEUE)") == 0) {
		struct cmsghdr *h = CMSG_FIRSTHDR(&m);

		say("notified: %s", h && h->cmsg_level == SOL_IP && h->cmsg_type == IP_RECVERR ? "yes" : "no");
	}
}

static void sendto_address(void)
{
	struct conn *c = conn_open();
	struct sockaddr_storage to;

	peer_address(&to, 9);
	tell(sendto(c->fd, "addressed", 9, 0, (struct sockaddr *)&to, sizeof(struct sockaddr_in)), "sendto(address)");
	peer_recv_say(c, 9);
}

static void sendmsg_name(void)
{
	struct conn *c = conn_open();
	struct sockaddr_storage to;
	struct iovec v = {"named", 5};
	struct msghdr m = {.msg_name = &to, .msg_namelen = sizeof(struct sockaddr_in), .msg_iov = &v, .msg_iovlen = 1};

	peer_address(&to, 9);
	tell(sendmsg(c->fd, &m, 0), "sendmsg(name)");
	peer_recv_say(c, 5);
}

static void sendmsg_control(void)
{
	struct conn *c = conn_open();
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr h;
	} u = {.h = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
	struct iovec v = {"control", 7};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof(u)};

	tell(sendmsg(c->fd, &m, 0), "sendmsg(SCM_RIGHTS)");
	u.h.cmsg_type = 99;
	tell(sendmsg(c->fd, &m, 0), "sendmsg(unknown control)");
	u.h.cmsg_level = SOL_TCP;
	tell(sendmsg(c->fd, &m, 0), "sendmsg(other level)");
	tell(send(c->fd, "end", 3, 0), "send");
	shutdown(c->fd, SHUT_WR);
	peer_drain_say(c);
}

static void sendmmsg_many(void)
{
	struct conn *c = conn_open();
	struct iovec v[3] = {{"one ", 4}, {"two ", 4}, {"three", 5}};
	struct mmsghdr m[3];

	memset(m, 0, sizeof(m));
	for (int i = 0; i < 3; i++)
		m[i].msg_hdr = (struct msghdr){.msg_iov = &v[i], .msg_iovlen = 1};
	tell(sendmmsg(c->fd, m, 3, 0), "sendmmsg(3)");
	say("%u %u %u", m[0].msg_len, m[1].msg_len, m[2].msg_len);
	peer_recv_say(c, 13);
}

static void sendmmsg_fault(void)
{
	struct conn *c = conn_open();
	struct iovec v[2] = {{"good", 4}, {(void *)16, 4}};
	struct mmsghdr m[2];

	memset(m, 0, sizeof(m));
	for (int i = 0; i < 2; i++)
		m[i].msg_hdr = (struct msghdr){.msg_iov = &v[i], .msg_iovlen = 1};
	tell(sendmmsg(c->fd, m, 2, 0), "sendmmsg(good, bad)");
	tell(sendmmsg(c->fd, m + 1, 1, 0), "sendmmsg(bad)");
	peer_recv_say(c, 4);
}

/* ---- urgent data ---- */

static void oob_receive(void)
{
	struct conn *c = conn_open();
	int mark = -1;

	peer_text_flags(c, "abU", MSG_OOB);
	await_poll(c->fd, POLLPRI);
	tell(sockatmark(c->fd), "sockatmark");
	recv_say(c, 1, MSG_OOB, "OOB");
	recv_say(c, 1, MSG_OOB, "OOB");
	await_in(c->fd, 2);
	recv_say(c, 10, 0, "0");
	mark = sockatmark(c->fd);
	tell(mark, "sockatmark");
	peer_text(c, "cd");
	recv_say(c, 10, 0, "0");
}

static void oob_inline(void)
{
	struct conn *c = conn_open();
	int one = 1;

	tell(setsockopt(c->fd, SOL_SOCKET, SO_OOBINLINE, &one, sizeof(one)), "SO_OOBINLINE");
	peer_text_flags(c, "abU", MSG_OOB);
	await_poll(c->fd, POLLPRI);
	await_in(c->fd, 2);
	recv_say(c, 10, 0, "0");
	tell(sockatmark(c->fd), "sockatmark");
	recv_say(c, 10, 0, "0");
	recv_say(c, 1, MSG_OOB, "OOB");
}

static void oob_send(void)
{
	struct conn *c = conn_open();
	int one = 1;

	peer(PEER_OPTION, c, (int64_t)SOL_SOCKET << 32 | SO_OOBINLINE, one);
	tell(send(c->fd, "abU", 3, MSG_OOB), "send(OOB)");
	tell(send(c->fd, "cd", 2, 0), "send");
	peer_recv_say(c, 5);
}

static void oob_sigurg(void)
{
	struct conn *c = conn_open();

	signal_count(SIGURG, 0);
	tell(fcntl(c->fd, F_SETOWN, getpid()), "F_SETOWN");
	peer_text_flags(c, "U", MSG_OOB);
	await_poll(c->fd, POLLPRI);
	say("SIGURG %d", signals_seen);
	recv_say(c, 1, MSG_OOB, "OOB");
}

/* ---- wrong arguments ---- */

static void iov_counts(void)
{
	static struct iovec many[IOV_MAX + 1];
	struct conn *c = conn_nonblock();
	struct msghdr m = {.msg_iov = many, .msg_iovlen = IOV_MAX + 1};

	peer_text(c, "data");
	await_in(c->fd, 4);
	tell(readv(c->fd, many, 0), "readv(0)");
	tell(readv(c->fd, many, -1), "readv(-1)");
	tell(readv(c->fd, many, IOV_MAX + 1), "readv(1025)");
	tell(readv(c->fd, many, IOV_MAX), "readv(1024 empty)");
	tell(writev(c->fd, many, 0), "writev(0)");
	tell(writev(c->fd, many, -1), "writev(-1)");
	tell(writev(c->fd, many, IOV_MAX + 1), "writev(1025)");
	tell(recvmsg(c->fd, &m, 0), "recvmsg(1025)");
	tell(sendmsg(c->fd, &m, 0), "sendmsg(1025)");
	tell(preadv2(c->fd, many, IOV_MAX + 1, -1, 0), "preadv2(1025)");
	tell(pwritev2(c->fd, many, IOV_MAX + 1, -1, 0), "pwritev2(1025)");
	m.msg_iovlen = 0;
	tell(recvmsg(c->fd, &m, 0), "recvmsg(0)");
	tell(sendmsg(c->fd, &m, 0), "sendmsg(0)");
	recv_say(c, 10, 0, "0");
}

static void iov_lengths(void)
{
	struct conn *c = conn_nonblock();
	char a[4] = "", b[4] = "";
	struct iovec negative[2] = {{a, 2}, {b, (size_t)-1}};
	struct iovec sum[2] = {{a, 2}, {b, SSIZE_MAX}};

	peer_text(c, "data");
	await_in(c->fd, 4);
	tell(readv(c->fd, negative, 2), "readv(length -1)");
	tell(writev(c->fd, negative, 2), "writev(length -1)");
	/* the kernel cuts a sum that is too large; the bytes that are there fit in the first piece and b */
	tell(readv(c->fd, sum, 2), "readv(sum too large)");
	recv_say(c, 10, 0, "0");
}

static void iov_full(void)
{
	static struct iovec v[IOV_MAX];
	struct conn *c = conn_open();

	memset(buf, 'v', sizeof(buf));
	for (int i = 0; i < IOV_MAX; i++)
		v[i] = (struct iovec){buf + i, 3};
	tell(writev(c->fd, v, IOV_MAX), "writev(1024 * 3)");
	peer_recv_say(c, IOV_MAX * 3);
	peer_later(0, PEER_SEND, c, IOV_MAX * 3, 4);
	await_in(c->fd, IOV_MAX * 3);
	for (int i = 0; i < IOV_MAX; i++)
		v[i] = (struct iovec){buf + i * 3, 3};
	tell_data(readv(c->fd, v, IOV_MAX), buf, "readv(1024 * 3)");
	peer_wait();
}

static void iov_null(void)
{
	struct conn *c = conn_nonblock();

	peer_text(c, "data");
	await_in(c->fd, 4);
	tell(readv(c->fd, NULL, 1), "readv(NULL, 1)");
	tell(readv(c->fd, (struct iovec *)16, 1), "readv(bad, 1)");
	tell(writev(c->fd, NULL, 1), "writev(NULL, 1)");
	tell(writev(c->fd, (struct iovec *)16, 1), "writev(bad, 1)");
	recv_say(c, 10, 0, "0");
}

static void iov_bad_second(void)
{
	struct conn *c = conn_nonblock();
	char a[4] = "";
	struct iovec v[2] = {{a, 4}, {(void *)16, 4}};

	peer_text(c, "goodbad!");
	await_in(c->fd, 8);
	tell(readv(c->fd, v, 2), "readv(good, bad)");
	say("\"%.4s\"", a);
	recv_say(c, 10, 0, "0");
	tell(writev(c->fd, v, 2), "writev(good, bad)");
	shutdown(c->fd, SHUT_WR);
	peer_drain_say(c);
}

static void msg_null(void)
{
	struct conn *c = conn_nonblock();

	tell(recvmsg(c->fd, NULL, 0), "recvmsg(NULL)");
	tell(sendmsg(c->fd, NULL, 0), "sendmsg(NULL)");
	tell(recvmsg(c->fd, (struct msghdr *)16, 0), "recvmsg(bad)");
	tell(sendmsg(c->fd, (struct msghdr *)16, 0), "sendmsg(bad)");
	tell(recvmmsg(c->fd, NULL, 1, 0, NULL), "recvmmsg(NULL)");
	tell(recvmmsg(c->fd, (struct mmsghdr *)16, 1, 0, NULL), "recvmmsg(bad)");
	tell(sendmmsg(c->fd, NULL, 1, 0), "sendmmsg(NULL)");
	tell(sendmmsg(c->fd, (struct mmsghdr *)16, 1, 0), "sendmmsg(bad)");
}

static void null_buffer(void)
{
	struct conn *c = conn_nonblock();

	tell(read(c->fd, NULL, 4), "read(NULL, 4) without data");
	peer_text(c, "data");
	await_in(c->fd, 4);
	tell(read(c->fd, NULL, 0), "read(NULL, 0)");
	tell(read(c->fd, NULL, 4), "read(NULL, 4)");
	tell(recv(c->fd, NULL, 4, MSG_PEEK), "recv(NULL, 4, PEEK)");
	tell(write(c->fd, NULL, 0), "write(NULL, 0)");
	tell(write(c->fd, NULL, 4), "write(NULL, 4)");
	tell(send(c->fd, NULL, 4, 0), "send(NULL, 4)");
	recv_say(c, 10, 0, "0");
}

static void huge_length(void)
{
	struct conn *c = conn_nonblock();

	peer_text(c, "data");
	await_in(c->fd, 4);
	tell_data(read(c->fd, buf, SSIZE_MAX), buf, "read(SSIZE_MAX)");
	tell(read(c->fd, buf, (size_t)-1), "read(-1)");
	tell(recv(c->fd, buf, (size_t)-1, 0), "recv(-1)");
	tell(send(c->fd, buf, (size_t)-1, 0) > 0 ? 1 : -1, "send(-1)");
}

static void recvfrom_addr_bad(void)
{
	struct conn *c = conn_nonblock();
	struct sockaddr_storage a;
	socklen_t len = (socklen_t)-1;

	peer_text(c, "data");
	await_in(c->fd, 4);
	tell_data(recvfrom(c->fd, buf, 1, 0, (struct sockaddr *)&a, NULL), buf, "recvfrom(addr, NULL)");
	tell_data(recvfrom(c->fd, buf, 1, 0, (struct sockaddr *)&a, (socklen_t *)16), buf, "recvfrom(addr, bad)");
	tell_data(recvfrom(c->fd, buf, 1, 0, (struct sockaddr *)&a, &len), buf, "recvfrom(addr, -1)");
	len = sizeof(a);
	tell_data(recvfrom(c->fd, buf, 1, 0, (struct sockaddr *)16, &len), buf, "recvfrom(bad, len)");
	say("length %d", (int)len);
	recv_say(c, 10, 0, "0");
}

static void pread_offsets(void)
{
	struct conn *c = conn_nonblock();
	struct iovec v = {buf, 4};

	peer_text(c, "data");
	await_in(c->fd, 4);
	tell(pread(c->fd, buf, 4, 0), "pread");
	tell(pwrite(c->fd, buf, 4, 0), "pwrite");
	tell(preadv(c->fd, &v, 1, 0), "preadv");
	tell(preadv2(c->fd, &v, 1, 0, 0), "preadv2(offset 0)");
	tell(preadv2(c->fd, &v, 1, -1, 0x40000000), "preadv2(unknown flag)");
	tell(lseek(c->fd, 0, SEEK_CUR), "lseek");
	tell(ftruncate(c->fd, 0), "ftruncate");
	tell(fsync(c->fd), "fsync");
	tell_data(preadv2(c->fd, &v, 1, -1, 0), buf, "preadv2(offset -1)");
}

static void rwf_nowait(void)
{
	struct conn *c = conn_open();
	struct iovec v = {buf, 10};

	tell(preadv2(c->fd, &v, 1, -1, RWF_NOWAIT), "preadv2(NOWAIT)");
	peer_text(c, "quick");
	await_in(c->fd, 5);
	tell_data(preadv2(c->fd, &v, 1, -1, RWF_NOWAIT), buf, "preadv2(NOWAIT)");
	v = (struct iovec){"out", 3};
	tell(pwritev2(c->fd, &v, 1, -1, RWF_NOWAIT), "pwritev2(NOWAIT)");
	shutdown(c->fd, SHUT_WR);
	peer_drain_say(c);
}

const struct test_case cases_flags[] = {
	CASE("flags/peek", "MSG_PEEK leaves the bytes", peek),
	CASE("flags/peek-blocks", "MSG_PEEK blocks until there are bytes", peek_blocks),
	CASE("flags/peek-eof", "MSG_PEEK before and at the end of the stream", peek_eof),
	CASE("flags/peek-msg", "MSG_PEEK into two pieces", peek_msg),
	CASE("flags/waitall", "MSG_WAITALL waits for the second part", waitall),
	CASE("flags/waitall-iov", "MSG_WAITALL into two pieces", waitall_iov),
	CASE("flags/waitall-eof", "MSG_WAITALL ends early at the end of the stream", waitall_eof),
	CASE("flags/waitall-nonblock", "MSG_WAITALL with O_NONBLOCK gives what there is", waitall_nonblock),
	CASE("flags/waitall-signal", "MSG_WAITALL interrupted after some bytes", waitall_signal),
	CASE("flags/waitall-peek", "MSG_WAITALL with MSG_PEEK", waitall_peek),
	CASE("flags/waitall-large", "MSG_WAITALL for 3 MB", waitall_large),
	CASE("flags/trunc", "MSG_TRUNC discards", trunc_discards),
	CASE("flags/trunc-null", "MSG_TRUNC without a buffer", trunc_null),
	CASE("flags/errqueue", "MSG_ERRQUEUE with nothing there", errqueue),
	CASE_RETURNS("flags/oob-none", "MSG_OOB with nothing there", recv_oob_none, "urgent data are Linux's"),
	CASE("flags/recvmmsg", "recvmmsg fills three messages", recvmmsg_many),
	CASE("flags/recvmmsg-waitforone", "recvmmsg with MSG_WAITFORONE", recvmmsg_waitforone),
	CASE("flags/recvmmsg-timeout", "recvmmsg looks at its time between messages", recvmmsg_timeout),
	CASE("flags/mmsg-zero", "recvmmsg and sendmmsg of no message", recvmmsg_zero),
	CASE("flags/more", "MSG_MORE, then the rest", more),
	CASE("flags/more-alone", "MSG_MORE alone goes out in the end", more_alone),
	CASE("flags/more-shutdown", "MSG_MORE, then shutdown", more_shutdown),
	CASE("flags/eor", "MSG_EOR, MSG_CONFIRM, MSG_DONTROUTE", eor),
	CASE("flags/unknown", "a flag that does not exist", unknown_flags),
	CASE("flags/zerocopy-off", "MSG_ZEROCOPY without the option", zerocopy_off),
	CASE_RETURNS("flags/zerocopy", "MSG_ZEROCOPY and its notification", zerocopy,
		     "zero copy needs the kernel's queue"),
	CASE("flags/sendto-address", "sendto with an address", sendto_address),
	CASE("flags/sendmsg-name", "sendmsg with a name", sendmsg_name),
	CASE("flags/sendmsg-control", "sendmsg with control messages", sendmsg_control),
	CASE("flags/sendmmsg", "sendmmsg of three messages", sendmmsg_many),
	CASE("flags/sendmmsg-fault", "sendmmsg whose second message is bad", sendmmsg_fault),
	CASE_RETURNS("oob/receive", "urgent byte received with MSG_OOB", oob_receive, "urgent data are Linux's"),
	CASE_RETURNS("oob/inline", "urgent byte in the stream, and its mark", oob_inline, "urgent data are Linux's"),
	CASE_RETURNS("oob/send", "urgent byte sent", oob_send, "urgent data are Linux's"),
	CASE_RETURNS("oob/sigurg", "SIGURG when an urgent byte arrives", oob_sigurg, "urgent data are Linux's"),
	CASE("args/iov-counts", "numbers of pieces: 0, -1, 1024, 1025", iov_counts),
	CASE("args/iov-lengths", "lengths of pieces: negative, sum too large", iov_lengths),
	CASE("args/iov-full", "1024 pieces of 3 bytes, both ways", iov_full),
	CASE("args/iov-null", "array of pieces at a bad address", iov_null),
	CASE("args/iov-bad-second", "the second piece at a bad address", iov_bad_second),
	CASE("args/msg-null", "message headers at bad addresses", msg_null),
	CASE("args/null-buffer", "NULL as the buffer", null_buffer),
	CASE("args/huge-length", "lengths beyond SSIZE_MAX", huge_length),
	CASE("args/recvfrom-address", "recvfrom's address at bad addresses", recvfrom_addr_bad),
	CASE("args/pread", "calls with an offset: ESPIPE and friends", pread_offsets),
	CASE("args/rwf-nowait", "preadv2 and pwritev2 with RWF_NOWAIT", rwf_nowait),
	{.name = NULL},
};
