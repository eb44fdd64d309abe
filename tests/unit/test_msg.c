/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Control messages over a real socket: descriptors, truncation, and what hostile peers may send. */
/* links: service/ipc/msg.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "service/base/compiler.h"
#include "service/ipc/abi.h"
#include "service/ipc/msg.h"

static int pair[2];

static int open_fds(void)
{
	int n = 0;

	for (int fd = 0; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static int setup(void **state)
{
	(void)state;
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair);
}

static int teardown(void **state)
{
	(void)state;
	close(pair[0]);
	close(pair[1]);
	return 0;
}

/* What a peer that doesn't use ipc_msg_send() can send. */
static ssize_t send_raw(const void *data, size_t len, int nfds)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(32 * sizeof(int))];
	} control = {.buf = {0}};
	struct iovec v = {(void *)(uintptr_t)data, len};
	struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1};

	if (nfds) {
		struct cmsghdr *c;

		h.msg_control = control.buf;
		h.msg_controllen = CMSG_SPACE((size_t)nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&h);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN((size_t)nfds * sizeof(int));
		memset(CMSG_DATA(c), 0, (size_t)nfds * sizeof(int)); /* descriptor 0, again and again */
	}
	return sendmsg(pair[0], &h, MSG_NOSIGNAL);
}

static struct ipc_msg message(uint16_t type)
{
	struct ipc_msg m = {.magic = IPC_MAGIC, .type = type};

	return m;
}

static void sent_is_received(void **state)
{
	struct ipc_msg m = message(IPC_MSG_HELLO), got;
	int fds[IPC_MSG_FDS], nfds = -1;

	(void)state;
	m.arg[0] = IPC_ABI_VERSION;
	m.arg[7] = UINT64_MAX;
	strcpy(m.text, "redis-server");
	assert_int_equal(ipc_msg_send(pair[0], &m, NULL, 0), 0);
	assert_int_equal(ipc_msg_recv(pair[1], &got, fds, &nfds, 0), sizeof got);
	assert_int_equal(nfds, 0);
	assert_memory_equal(&got, &m, sizeof m);
	assert_int_equal(ipc_msg_check(&got, sizeof got, nfds, true), 0);
	assert_int_equal(ipc_msg_recv(pair[1], &got, fds, &nfds, MSG_DONTWAIT), -EAGAIN);
	assert_int_equal(nfds, 0);
}

static void descriptors_travel(void **state)
{
	struct ipc_msg m = message(IPC_MSG_WELCOME), got;
	int fds[IPC_MSG_FDS], send[IPC_MSG_FDS], nfds, before = open_fds();

	(void)state;
	for (int n = 1; n <= IPC_MSG_FDS; n++) {
		for (int i = 0; i < n; i++)
			assert_true((send[i] = open("/dev/null", O_RDONLY)) >= 0);
		assert_int_equal(ipc_msg_send(pair[0], &m, send, n), 0);
		assert_int_equal(ipc_msg_recv(pair[1], &got, fds, &nfds, 0), sizeof got);
		assert_int_equal(nfds, n);
		for (int i = 0; i < n; i++) {
			struct stat a, b;

			assert_true(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
			assert_int_equal(fstat(fds[i], &a) | fstat(send[i], &b), 0);
			assert_true(a.st_rdev == b.st_rdev && a.st_ino == b.st_ino);
			close(fds[i]);
			close(send[i]);
		}
	}
	assert_int_equal(ipc_msg_send(pair[0], &m, send, IPC_MSG_FDS + 1), -EINVAL);
	assert_int_equal(ipc_msg_send(pair[0], &m, send, -1), -EINVAL);
	assert_int_equal(open_fds(), before);
}

static void end_and_errors(void **state)
{
	struct ipc_msg m = message(IPC_MSG_HELLO), got;
	int fds[IPC_MSG_FDS], nfds, bad = -1;

	(void)state;
	assert_int_equal(ipc_msg_send(pair[0], &m, &bad, 1), -EBADF);
	close(pair[1]);
	assert_int_equal(ipc_msg_recv(pair[0], &got, fds, &nfds, 0), 0);
	assert_int_equal(ipc_msg_send(pair[0], &m, NULL, 0), -EPIPE); /* no SIGPIPE */
	pair[1] = open("/dev/null", O_RDONLY);
	assert_int_equal(ipc_msg_recv(pair[1], &got, fds, &nfds, 0), -ENOTSOCK);
	assert_int_equal(nfds, 0);
}

/* A sender that shouts gets -EAGAIN, not a wait. */
static void full_socket_does_not_block(void **state)
{
	struct ipc_msg m = message(IPC_MSG_UNLISTEN);
	int rc = 0;

	(void)state;
	for (int i = 0; i < 100000 && !rc; i++)
		rc = ipc_msg_send(pair[0], &m, NULL, 0);
	assert_int_equal(rc, -EAGAIN);
}

static void truncated_messages(void **state)
{
	uint8_t big[sizeof(struct ipc_msg) + 64] = {0};
	struct ipc_msg m = message(IPC_MSG_ADOPT), got;
	int fds[IPC_MSG_FDS], nfds, before = open_fds();

	(void)state;
	memcpy(big, &m, sizeof m);
	/* too long: closed with all its descriptors */
	assert_int_equal(send_raw(big, sizeof big, 1), sizeof big);
	assert_int_equal(ipc_msg_recv(pair[1], &got, fds, &nfds, 0), -EPROTO);
	assert_int_equal(nfds, 0);
	/* too many descriptors */
	assert_int_equal(send_raw(&m, sizeof m, IPC_MSG_FDS + 1), sizeof m);
	assert_int_equal(ipc_msg_recv(pair[1], &got, fds, &nfds, 0), -EPROTO);
	assert_int_equal(nfds, 0);
	assert_int_equal(send_raw(&m, sizeof m, 32), sizeof m);
	assert_int_equal(ipc_msg_recv(pair[1], &got, fds, &nfds, 0), -EPROTO);
	/* too short: received, but the check refuses it */
	for (size_t len = 1; len < sizeof m; len += 13) {
		assert_int_equal(send_raw(&m, len, 0), len);
		assert_int_equal(ipc_msg_recv(pair[1], &got, fds, &nfds, 0), len);
		assert_int_equal(ipc_msg_check(&got, len, nfds, true), -EPROTO);
	}
	/* empty, with descriptors: like the end, and nothing leaks */
	assert_int_equal(send_raw(&m, 0, 3), 0);
	assert_int_equal(ipc_msg_recv(pair[1], &got, fds, &nfds, 0), 0);
	assert_int_equal(nfds, 0);
	assert_int_equal(open_fds(), before);
}

static void types_and_descriptors_are_checked(void **state)
{
	/* descriptors that each type brings, -1: that side does not send it */
	static const struct {
		int type, app, service;
	} table[] = {
		{0, -1, -1},
		{IPC_MSG_HELLO, 0, -1},
		{IPC_MSG_WELCOME, -1, 5},
		{IPC_MSG_REFUSED, -1, 0},
		{IPC_MSG_CONTEXT, 0, 1},
		{IPC_MSG_ADOPT, 1, -1},
		{IPC_MSG_LISTEN, 1, 0},
		{IPC_MSG_RETURN, 1, -1},
		{IPC_MSG_UNLISTEN, 0, -1},
		{IPC_MSG_PREPARE, 0, -1},
		{IPC_MSG_LOOK, 0, -1},
		{IPC_MSG_REGION, 0, 1},
		{IPC_MSG_ADMIN, 0, 1},
		{IPC_MSG_CAPTURE, 0, 0},
		{IPC_MSG_TYPES, -1, -1},
		{UINT16_MAX, -1, -1},
	};

	(void)state;
	assert_int_equal(ARRAY_SIZE(table), IPC_MSG_TYPES + 2);
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct ipc_msg m = message((uint16_t)table[i].type);

		for (int nfds = -1; nfds <= IPC_MSG_FDS; nfds++) {
			int app = table[i].app >= 0 && nfds == table[i].app ? 0 : -EPROTO;
			int service = table[i].service >= 0 && nfds == table[i].service ? 0 : -EPROTO;

			assert_int_equal(ipc_msg_check(&m, sizeof m, nfds, true), app);
			assert_int_equal(ipc_msg_check(&m, sizeof m, nfds, false), service);
		}
	}
}

static void fields_are_checked(void **state)
{
	struct ipc_msg good = message(IPC_MSG_HELLO), m;

	(void)state;
	assert_int_equal(ipc_msg_check(&good, sizeof good, 0, true), 0);
	assert_int_equal(ipc_msg_check(&good, sizeof good + 1, 0, true), -EPROTO);
	assert_int_equal(ipc_msg_check(&good, sizeof good - 1, 0, true), -EPROTO);
	assert_int_equal(ipc_msg_check(&good, 0, 0, true), -EPROTO);
	m = good;
	m.magic ^= 1;
	assert_int_equal(ipc_msg_check(&m, sizeof m, 0, true), -EPROTO);
	m = good;
	m.flags = 0x8000;
	assert_int_equal(ipc_msg_check(&m, sizeof m, 0, true), -EPROTO);
	m = good;
	memset(m.text, 'x', sizeof m.text);
	assert_int_equal(ipc_msg_check(&m, sizeof m, 0, true), -EPROTO);
	m.text[sizeof m.text - 1] = 0;
	assert_int_equal(ipc_msg_check(&m, sizeof m, 0, true), 0);
}

static void connecting(void **state)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	char dir[] = "/tmp/test_msg.XXXXXX", longer[200];
	int s, c;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(sa.sun_path, sizeof sa.sun_path, "%s/s", dir);
	memset(longer, 'a', sizeof longer - 1);
	longer[sizeof longer - 1] = 0;
	assert_int_equal(ipc_connect(longer), -ENAMETOOLONG);
	assert_int_equal(ipc_connect(sa.sun_path), -ENOENT);
	s = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_true(s >= 0);
	assert_int_equal(bind(s, (struct sockaddr *)&sa, sizeof sa), 0);
	assert_int_equal(ipc_connect(sa.sun_path), -ECONNREFUSED);
	assert_int_equal(listen(s, 4), 0);
	c = ipc_connect(sa.sun_path);
	assert_true(c >= 0);
	assert_true(fcntl(c, F_GETFD) & FD_CLOEXEC);
	close(c);
	close(s);
	unlink(sa.sun_path);
	rmdir(dir);
}

#define WITH_PAIR(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_PAIR(sent_is_received),
		WITH_PAIR(descriptors_travel),
		WITH_PAIR(end_and_errors),
		WITH_PAIR(full_socket_does_not_block),
		WITH_PAIR(truncated_messages),
		cmocka_unit_test(types_and_descriptors_are_checked),
		cmocka_unit_test(fields_are_checked),
		cmocka_unit_test(connecting),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
