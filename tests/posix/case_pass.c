// SPDX-License-Identifier: GPL-2.0-or-later
/* Descriptors that are passed on: in messages, by pidfd_getfd(), by /proc. */
#include <sys/syscall.h>

#include "tests/posix/process.h"

static char buf[70000];

static void give(int to, int fd)
{
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr h;
	} u = {.h = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
	struct iovec v = {"f", 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof(u)};

	memcpy(CMSG_DATA(&u.h), &fd, sizeof(fd));
	if (sendmsg(to, &m, 0) != 1)
		fatal("sendmsg: %s", strerror(errno));
}

static int take(int from)
{
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr h;
	} u;
	struct iovec v = {buf, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof(u)};
	int fd = -1;

	if (recvmsg(from, &m, 0) == 1 && CMSG_FIRSTHDR(&m))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
	return fd;
}

static void pair_open(int pair[2])
{
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		fatal("socketpair");
}

/* A child that takes from pair[1] what its parent gives to pair[0]. */
static pid_t child_paired(int pair[2])
{
	pair_open(pair);
	return child_new();
}

static void pass_to_child(void)
{
	int pair[2], fd;
	struct conn *c;
	pid_t pid;

	pid = child_paired(pair);
	if (!pid) {
		fd = take(pair[1]);
		process_read("child", fd);
		process_write("child", fd, "response");
		_exit(0);
	}
	c = conn_open();
	peer_text(c, "request");
	if (this_case->a)
		await_in(c->fd, 7);
	give(pair[0], c->fd);
	close(c->fd);
	child_end(pid);
	peer_drain_say(c);
}

static void pass_without_library(void)
{
	int pair[2];
	struct conn *c;
	pid_t pid;

	/* a program without the library, which takes the descriptor as its own number 30 */
	pid = child_paired(pair);
	if (!pid) {
		char from[12];

		snprintf(from, sizeof(from), "%d", pair[1]);
		unsetenv("LD_PRELOAD");
		execl(image_path(this_case->a), "posix_image", from, "p", "r7", "wresponse", NULL);
		_exit(9);
	}
	c = conn_open();
	peer_text(c, "request");
	give(pair[0], c->fd);
	close(c->fd);
	child_end(pid);
	peer_drain_say(c);
}

static void pass_to_self(void)
{
	struct conn *c = conn_open();
	int pair[2], fd;

	pair_open(pair);
	give(pair[0], c->fd);
	fd = take(pair[1]);
	close(c->fd);
	peer_text(c, "to the copy");
	await_in(fd, 11);
	process_read("same process", fd);
	process_write("same process", fd, "from the copy");
	close(fd);
	peer_drain_say(c);
}

static void pass_and_keep(void)
{
	int pair[2];
	struct conn *c;
	pid_t pid;

	pid = child_paired(pair);
	if (!pid) {
		int fd = take(pair[1]);

		process_write("child", fd, "second ");
		_exit(0);
	}
	c = conn_open();
	process_write("parent", c->fd, "first ");
	give(pair[0], c->fd);
	child_end(pid);
	process_write("parent", c->fd, "third");
	close(c->fd);
	peer_drain_say(c);
}

static void pidfd_copy(void)
{
	struct conn *c = conn_open();
	int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0), fd;

	fd = (int)syscall(SYS_pidfd_getfd, pidfd, c->fd, 0);
	say("copied: %s", fd >= 0 ? "yes" : "no");
	process_write("copy", fd, "by the copy");
	peer_recv_say(c, 11);
}

static void proc_fd_open(void)
{
	struct conn *c = conn_open();
	char path[60];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", c->fd);
	tell(open(path, O_RDWR), "open /proc/self/fd");
	process_write("parent", c->fd, "fine");
	peer_recv_say(c, 4);
}

const struct test_case cases_pass[] = {
	CASE_RETURNS("pass/child", "SCM_RIGHTS to a process with the library", pass_to_child, SHARED_WHY),
	CASE_WITH("pass/child-unread", "the same while data wait", pass_to_child, SHARED_WHY, 1),
	CASE_RETURNS("pass/without", "SCM_RIGHTS to a process without the library", pass_without_library, TAKEN_WHY),
	CASE_WITH("pass/static", "SCM_RIGHTS to a static program", pass_without_library, TAKEN_WHY, 1),
	CASE_RETURNS("pass/self", "SCM_RIGHTS to itself", pass_to_self, SHARED_WHY),
	CASE_RETURNS("pass/keep", "passed and used by both", pass_and_keep, SHARED_WHY),
	CASE_RETURNS("pass/pidfd", "a copy by pidfd_getfd", pidfd_copy, SHARED_WHY),
	CASE("pass/proc", "open(/proc/self/fd/N)", proc_fd_open),
	{.name = NULL},
};
