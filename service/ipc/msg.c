/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Control messages: sending, receiving with descriptors, and the gate that every received
 * message passes before a field of it is used. Any thread; libc only, as it is also part of
 * the library.
 */
#include "service/ipc/msg.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "service/ipc/abi.h"

/* How many descriptors a message of a type carries, from an application and from the service; -1: not sent by that side. */
static const struct {
	int8_t app, service;
} msg_fds[IPC_MSG_TYPES] = {
	[0] = {-1, -1},
	[IPC_MSG_HELLO] = {0, -1},
	[IPC_MSG_WELCOME] = {-1, 5},
	[IPC_MSG_REFUSED] = {-1, 0},
	[IPC_MSG_CONTEXT] = {0, 1},
	[IPC_MSG_ADOPT] = {1, -1},
	[IPC_MSG_LISTEN] = {1, 0},
	[IPC_MSG_RETURN] = {1, -1},
	[IPC_MSG_UNLISTEN] = {0, -1},
	[IPC_MSG_PREPARE] = {0, -1},
	[IPC_MSG_LOOK] = {0, -1},
	[IPC_MSG_REGION] = {0, 1},
	[IPC_MSG_ADMIN] = {0, 1},
	[IPC_MSG_CAPTURE] = {0, 0},
};

int ipc_msg_check(const struct ipc_msg *m, size_t len, int nfds, bool from_app)
{
	int want;

	if (len != sizeof *m || m->magic != IPC_MAGIC || m->flags || m->type >= IPC_MSG_TYPES)
		return -EPROTO;
	want = from_app ? msg_fds[m->type].app : msg_fds[m->type].service;
	if (want < 0 || nfds != want)
		return -EPROTO;
	return memchr(m->text, 0, sizeof m->text) ? 0 : -EPROTO;
}

int ipc_msg_send(int sock, const struct ipc_msg *m, const int *fds, int nfds)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(IPC_MSG_FDS * sizeof(int))];
	} control;
	struct iovec v = {(void *)(uintptr_t)m, sizeof *m};
	struct msghdr h = {.msg_iov = &v, .msg_iovlen = 1};
	ssize_t n;

	if (nfds < 0 || nfds > IPC_MSG_FDS)
		return -EINVAL;
	if (nfds) {
		struct cmsghdr *c;

		memset(&control, 0, sizeof control);
		h.msg_control = control.buf;
		h.msg_controllen = CMSG_SPACE((size_t)nfds * sizeof(int));
		c = CMSG_FIRSTHDR(&h);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN((size_t)nfds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, (size_t)nfds * sizeof(int));
	}
	do
		n = sendmsg(sock, &h, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n == (ssize_t)sizeof *m ? 0 : -EIO;
}

int ipc_msg_recv(int sock, struct ipc_msg *m, int *fds, int *nfds, int flags)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(IPC_MSG_FDS * sizeof(int))];
	} control;
	struct iovec v = {m, sizeof *m};
	struct msghdr h = {.msg_iov = &v,
			   .msg_iovlen = 1,
			   .msg_control = control.buf,
			   .msg_controllen = sizeof control.buf};
	ssize_t n = recvmsg(sock, &h, flags | MSG_CMSG_CLOEXEC);

	*nfds = 0;
	if (n < 0)
		return -errno;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&h); c; c = CMSG_NXTHDR(&h, c)) {
		size_t got;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		got = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < got; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
			if (*nfds < IPC_MSG_FDS)
				fds[(*nfds)++] = fd;
			else
				close(fd);
		}
	}
	/* an empty message looks like the end of file, but may bring descriptors */
	if (n > 0 && !(h.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
		return (int)n;
	while (*nfds > 0)
		close(fds[--*nfds]);
	return n ? -EPROTO : 0;
}

int ipc_connect(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	size_t len = strlen(path);
	int fd, err;

	if (len >= sizeof sa.sun_path)
		return -ENAMETOOLONG;
	memcpy(sa.sun_path, path, len);
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&sa, sizeof sa) == 0)
		return fd;
	err = errno;
	close(fd);
	return -err;
}
