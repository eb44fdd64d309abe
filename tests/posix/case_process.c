// SPDX-License-Identifier: GPL-2.0-or-later
/* Connections and processes: fork, exec, spawn, daemons, descriptors that are passed on. */
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/posix/posix.h"

extern char **environ;
static char buf[70000];

static void read_say(const char *who, int fd)
{
	tell_data(read(fd, buf, 100), buf, "%s: read", who);
}

static void write_say(const char *who, int fd, const char *text)
{
	tell(write(fd, text, strlen(text)), "%s: write(%zu)", who, strlen(text));
}

static pid_t child_new(void)
{
	pid_t pid = fork();

	if (pid < 0)
		fatal("fork: %s", strerror(errno));
	if (!pid)
		alarm(10);
	return pid;
}

static void child_end(pid_t pid)
{
	int status = -1;

	if (waitpid(pid, &status, 0) != pid)
		say("waitpid: %s", err_name(errno));
	else if (WIFSIGNALED(status))
		say("child ended by SIG%s", sigabbrev_np(WTERMSIG(status)));
	else
		say("child ended with %d", WEXITSTATUS(status));
}

/* ---- fork ---- */

static void child_serves(void)
{
	struct conn *c = conn_open();
	pid_t pid;

	peer_text(c, "request");
	pid = child_new();
	if (!pid) {
		read_say("child", c->fd);
		write_say("child", c->fd, "response");
		_exit(0);
	}
	close(c->fd);
	child_end(pid);
	peer_drain_say(c);
}

/* Fresh connection, not yet accelerated, served by a child: it warms up there. */
static void child_adopts(void)
{
	int l = listener_open(8, 0), id = next_id(), fd;
	pid_t pid;

	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	fd = accept(l, NULL, NULL);
	pid = child_new();
	if (!pid) {
		struct conn *c;

		close(l);
		c = conn_adopt(fd, id);
		peer_text(c, "hello");
		read_say("child", fd);
		write_say("child", fd, "world");
		conn_report_end();
		_exit(0);
	}
	close(fd);
	child_end(pid);
	peer_drain_say(&(struct conn){.id = id});
}

static void prefork(void)
{
	int l = listener_open(8, 0), id = next_id();
	pid_t pid;

	peer_id(PEER_PAUSE, id, 0, 0); /* one control connection for both */
	pid = child_new();
	if (!pid) {
		int fd = accept(l, NULL, NULL);
		struct conn *c = conn_adopt(fd, id);

		peer_text(c, "hello");
		read_say("child", fd);
		write_say("child", fd, "world");
		conn_report_end();
		_exit(0);
	}
	/* the child uses the control connection only after its accept() */
	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	child_end(pid);
	peer_drain_say(&(struct conn){.id = id});
}

static void in_turn(void)
{
	struct conn *c = conn_open();
	int go[2];
	pid_t pid;

	if (pipe(go))
		fatal("pipe");
	pid = child_new();
	if (!pid) {
		tell_data(read(go[0], buf, 1), buf, "child: go");
		write_say("child", c->fd, "second ");
		_exit(0);
	}
	write_say("parent", c->fd, "first ");
	tell(write(go[1], "g", 1), "go");
	child_end(pid);
	write_say("parent", c->fd, "third");
	close(c->fd);
	peer_drain_say(c);
}

static void in_turn_reading(void)
{
	struct conn *c = conn_open();
	pid_t pid;

	peer_text(c, "abcdefgh");
	await_in(c->fd, 8);
	tell_data(read(c->fd, buf, 2), buf, "parent: read");
	pid = child_new();
	if (!pid) {
		tell_data(read(c->fd, buf, 2), buf, "child: read");
		_exit(0);
	}
	child_end(pid);
	tell_data(read(c->fd, buf, 2), buf, "parent: read");
	pid = child_new();
	if (!pid) {
		tell_data(read(c->fd, buf, 100), buf, "child: read");
		_exit(0);
	}
	child_end(pid);
}

static void child_unsent(void)
{
	struct conn *c = conn_open();
	int64_t total = fill_up(c->fd);
	struct peer_answer a;
	pid_t pid = child_new();

	if (!pid) {
		write_say("child", c->fd, "after what the parent wrote");
		_exit(0);
	}
	peer_later(30, PEER_RECV, c, total + 27, 0);
	child_end(pid);
	a = peer_wait();
	say("all arrived: %s", a.ret == total + 27 ? "yes" : "no");
}

static void child_closes(void)
{
	struct conn *c = conn_open();
	pid_t pid = child_new();

	if (!pid) {
		tell(close(c->fd), "child: close");
		_exit(0);
	}
	child_end(pid);
	write_say("parent", c->fd, "not disturbed");
	peer_recv_say(c, 13);
}

static void child_shuts_down(void)
{
	struct conn *c = conn_open();
	pid_t pid = child_new();

	if (!pid) {
		tell(shutdown(c->fd, SHUT_WR), "child: shutdown(WR)");
		_exit(0);
	}
	child_end(pid);
	signal_count(SIGPIPE, 0);
	write_say("parent", c->fd, "x");
	peer_drain_say(c);
}

static void child_killed(void)
{
	struct conn *c = conn_open();
	pid_t pid;

	peer_text(c, "x");
	pid = child_new();
	if (!pid) {
		read_say("child", c->fd);
		write_say("child", c->fd, "last words");
		raise(SIGKILL);
	}
	close(c->fd);
	child_end(pid);
	peer_drain_say(c);
}

static void parent_exits(void)
{
	struct conn *c = conn_open();
	pid_t pid = child_new();

	if (!pid) {
		pid_t grandchild = fork();

		if (grandchild)
			_exit(0);
		setsid();
		pause_ms(30);
		read_say("grandchild", c->fd);
		write_say("grandchild", c->fd, "served");
		_exit(0);
	}
	child_end(pid);
	close(c->fd);
	peer_text(c, "to the grandchild");
	peer_drain_say(c);
}

static void as_daemon(void)
{
	struct conn *c = conn_open();
	pid_t pid = child_new();

	if (!pid) {
		if (daemon(1, 1))
			say("daemon: %s", err_name(errno));
		read_say("daemon", c->fd);
		write_say("daemon", c->fd, "served");
		_exit(0);
	}
	close(c->fd);
	child_end(pid);
	peer_text(c, "to the daemon");
	peer_drain_say(c);
}

static void child_epoll(void)
{
	struct conn *c = conn_nonblock();
	pid_t pid = child_new();

	if (!pid) {
		struct epoll_event e = {.events = EPOLLIN, .data.u64 = 3};
		int ep = epoll_create1(0);

		tell(epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e), "child: epoll_ctl");
		peer_text(c, "x");
		tell(epoll_wait(ep, &e, 1, 2000), "child: epoll_wait");
		say("%llu:%s", (unsigned long long)e.data.u64, event_names(e.events));
		read_say("child", c->fd);
		_exit(0);
	}
	child_end(pid);
}

static void inherited_epoll(void)
{
	struct conn *c = conn_nonblock();
	struct epoll_event e = {.events = EPOLLIN, .data.u64 = 3};
	int ep = epoll_create1(0);
	pid_t pid;

	tell(epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e), "epoll_ctl");
	pid = child_new();
	if (!pid) {
		peer_text(c, "x");
		tell(epoll_wait(ep, &e, 1, 2000), "child: epoll_wait");
		_exit(0);
	}
	child_end(pid);
	await_in(c->fd, 1);
	tell(epoll_wait(ep, &e, 1, 2000), "parent: epoll_wait");
	read_say("parent", c->fd);
}

static void child_polls(void)
{
	struct conn *c = conn_open();
	pid_t pid = child_new();

	if (!pid) {
		struct pollfd p = {.fd = c->fd, .events = POLLIN};

		peer_text(c, "x");
		tell(poll(&p, 1, 2000), "child: poll");
		say("%s", event_names((uint32_t)p.revents));
		_exit(0);
	}
	child_end(pid);
	read_say("parent", c->fd);
}

static void many_children(void)
{
	struct conn *c = conn_open();

	for (int i = 0; i < 5; i++) {
		char text[8] = {'n', (char)('0' + i), ' ', 0};
		pid_t pid = child_new();

		if (!pid) {
			write_say("child", c->fd, text);
			_exit(0);
		}
		child_end(pid);
	}
	close(c->fd);
	peer_drain_say(c);
}

static void vfork_child(void)
{
	struct conn *c = conn_open();
	int status;
	pid_t pid = vfork();

	if (!pid) {
		close(c->fd);
		_exit(5);
	}
	waitpid(pid, &status, 0);
	tell(WEXITSTATUS(status), "vfork child");
	write_say("parent", c->fd, "has it still");
	peer_recv_say(c, 12);
}

static void own_connection_in_child(void)
{
	struct conn *c = conn_open();
	pid_t pid = child_new();

	if (!pid) {
		struct conn *mine = conn_open();

		write_say("child", mine->fd, "own");
		peer_recv_say(mine, 3);
		conn_report_end();
		_exit(0);
	}
	child_end(pid);
	write_say("parent", c->fd, "parent's");
	peer_recv_say(c, 8);
}

/* ---- exec ---- */

static const char *image(bool is_static)
{
	static char path[300];
	const char *dir = getenv("POSIX_BUILD");

	snprintf(path, sizeof(path), "%s/posix_image%s", dir ? dir : ".", is_static ? "_static" : "");
	return path;
}

enum { WITH_LIBRARY, WITHOUT_LIBRARY, STATIC_IMAGE };

static void exec_image(const struct conn *c, int kind)
{
	char fd[12];

	snprintf(fd, sizeof(fd), "%d", c->fd);
	if (kind == WITHOUT_LIBRARY)
		unsetenv("LD_PRELOAD");
	execl(image(kind == STATIC_IMAGE), "posix_image", fd, "r7", "wresponse", "c", NULL);
	say("exec: %s", err_name(errno));
	_exit(9);
}

static void exec_child(void)
{
	struct conn *c = conn_open();
	pid_t pid = child_new();

	if (!pid)
		exec_image(c, (int)this_case->a);
	close(c->fd);
	peer_text(c, "request");
	child_end(pid);
	peer_drain_say(c);
}

static void exec_unread(void)
{
	struct conn *c = conn_open();
	pid_t pid;

	peer_text(c, "request");
	await_in(c->fd, 7);
	pid = child_new();
	if (!pid)
		exec_image(c, (int)this_case->a);
	close(c->fd);
	child_end(pid);
	peer_drain_say(c);
}

/* The process itself becomes the image. */
static void exec_self(void)
{
	struct conn *c = conn_open();

	peer_text_later(30, c, "request");
	exec_image(c, (int)this_case->a);
}

static void exec_cloexec(void)
{
	struct conn *c = conn_open();
	char fd[12];
	pid_t pid;

	tell(fcntl(c->fd, F_SETFD, FD_CLOEXEC), "FD_CLOEXEC");
	pid = child_new();
	snprintf(fd, sizeof(fd), "%d", c->fd);
	if (!pid) {
		execl(image(false), "posix_image", fd, "r7", NULL);
		_exit(9);
	}
	child_end(pid);
	write_say("parent", c->fd, "mine");
	peer_recv_say(c, 4);
}

static void vfork_exec(void)
{
	struct conn *c = conn_open();
	const char *path = image(this_case->a == STATIC_IMAGE);
	char fd[12];
	pid_t pid;

	snprintf(fd, sizeof(fd), "%d", c->fd);
	pid = vfork();
	if (!pid) {
		execl(path, "posix_image", fd, "r7", "wresponse", NULL);
		_exit(9);
	}
	close(c->fd);
	peer_text(c, "request");
	child_end(pid);
	peer_drain_say(c);
}

static void spawn(void)
{
	struct conn *c = conn_open();
	char fd[12], *argv[] = {"posix_image", fd, "r7", "wresponse", NULL};
	pid_t pid;
	int err;

	snprintf(fd, sizeof(fd), "%d", c->fd);
	err = posix_spawn(&pid, image(false), NULL, NULL, argv, environ);
	close(c->fd);
	say("posix_spawn: %s", err_name(err));
	peer_text(c, "request");
	child_end(pid);
	peer_drain_say(c);
}

static void spawn_actions(void)
{
	struct conn *c = conn_open();
	char *argv[] = {"posix_image", "0", "r7", "wresponse", NULL};
	posix_spawn_file_actions_t fa;
	pid_t pid;
	int err;

	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, c->fd, 0);
	posix_spawn_file_actions_addclose(&fa, c->fd);
	err = posix_spawn(&pid, image(false), &fa, NULL, argv, environ);
	close(c->fd);
	say("posix_spawn: %s", err_name(err));
	peer_text(c, "request");
	child_end(pid);
	peer_drain_say(c);
}

static void spawn_other(void)
{
	struct conn *c = conn_open();
	char *argv[] = {"posix_image", "190", "r7", NULL};
	pid_t pid;
	int err;

	err = posix_spawn(&pid, image(false), NULL, NULL, argv, environ);
	child_end(pid);
	say("posix_spawn: %s", err_name(err));
	write_say("parent", c->fd, "not disturbed");
	peer_recv_say(c, 13);
}

static void system_call(void)
{
	struct conn *c = conn_open();

	tell(system("exit 3") >> 8, "system");
	write_say("parent", c->fd, "not disturbed");
	peer_recv_say(c, 13);
}

static void popen_call(void)
{
	struct conn *c = conn_open();
	FILE *f = popen("echo from a shell", "r");

	tell_data((long)fread(buf, 1, 12, f), buf, "fread");
	tell(pclose(f), "pclose");
	write_say("parent", c->fd, "not disturbed");
	peer_recv_say(c, 13);
}

/* The shell becomes a program that uses the connection. */
static void system_uses(void)
{
	struct conn *c = conn_open();
	char line[400];

	snprintf(line, sizeof(line), "exec %s %d r7 wresponse", image(this_case->a == STATIC_IMAGE), c->fd);
	peer_text(c, "request");
	tell(system(line) >> 8, "system");
	write_say("parent", c->fd, " and more");
	close(c->fd);
	peer_drain_say(c);
}

static void popen_uses(void)
{
	struct conn *c = conn_open();
	char line[400];
	FILE *f;
	long n;

	snprintf(line, sizeof(line), "exec %s %d r7 wresponse", image(this_case->a == STATIC_IMAGE), c->fd);
	f = popen(line, "re");
	say("popen: %s", f ? "yes" : err_name(errno));
	if (!f)
		return;
	peer_text(c, "request");
	while ((n = (long)fread(buf, 1, sizeof(buf), f)) > 0)
		tell_data(n, buf, "fread");
	tell(pclose(f) >> 8, "pclose");
	write_say("parent", c->fd, " and more");
	close(c->fd);
	peer_drain_say(c);
}

/* Standard input and output of a vfork child's image. */
static void vfork_dup(void)
{
	struct conn *c = conn_open();
	const char *path = image(this_case->a == STATIC_IMAGE);
	pid_t pid;

	pid = vfork();
	if (!pid) {
		dup2(c->fd, 0);
		close(c->fd);
		execl(path, "posix_image", "0", "r7", "wresponse", NULL);
		_exit(9);
	}
	peer_text(c, "request");
	child_end(pid);
	write_say("parent", c->fd, " and more");
	close(c->fd);
	peer_drain_say(c);
}

static void system_end(void)
{
	struct conn *c = conn_open();

	tell(system(NULL) != 0, "is there a shell");
	tell(system("exit 3") >> 8, "system");
	tell(system("kill -TERM $$") & 0x7f, "signal");
	errno = 0;
	say("popen: %s", popen("true", "x") ? "yes" : err_name(errno));
	write_say("parent", c->fd, "not disturbed");
	peer_recv_say(c, 13);
}

/* ---- passing ---- */

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

static void pass_to_child(void)
{
	int pair[2], fd;
	struct conn *c;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		fatal("socketpair");
	pid = child_new();
	if (!pid) {
		fd = take(pair[1]);
		read_say("child", fd);
		write_say("child", fd, "response");
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
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		fatal("socketpair");
	pid = child_new();
	if (!pid) {
		char from[12];

		snprintf(from, sizeof(from), "%d", pair[1]);
		unsetenv("LD_PRELOAD");
		execl(image(this_case->a), "posix_image", from, "p", "r7", "wresponse", NULL);
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

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		fatal("socketpair");
	give(pair[0], c->fd);
	fd = take(pair[1]);
	close(c->fd);
	peer_text(c, "to the copy");
	await_in(fd, 11);
	read_say("same process", fd);
	write_say("same process", fd, "from the copy");
	close(fd);
	peer_drain_say(c);
}

static void pass_and_keep(void)
{
	int pair[2];
	struct conn *c;
	pid_t pid;

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
		fatal("socketpair");
	pid = child_new();
	if (!pid) {
		int fd = take(pair[1]);

		write_say("child", fd, "second ");
		_exit(0);
	}
	c = conn_open();
	write_say("parent", c->fd, "first ");
	give(pair[0], c->fd);
	child_end(pid);
	write_say("parent", c->fd, "third");
	close(c->fd);
	peer_drain_say(c);
}

static void pidfd_copy(void)
{
	struct conn *c = conn_open();
	int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0), fd;

	fd = (int)syscall(SYS_pidfd_getfd, pidfd, c->fd, 0);
	say("copied: %s", fd >= 0 ? "yes" : "no");
	write_say("copy", fd, "by the copy");
	peer_recv_say(c, 11);
}

static void proc_fd_open(void)
{
	struct conn *c = conn_open();
	char path[60];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", c->fd);
	tell(open(path, O_RDWR), "open /proc/self/fd");
	write_say("parent", c->fd, "fine");
	peer_recv_say(c, 4);
}

#define SHARED_WHY "the connection is shared between processes"
#define TAKEN_WHY "a program without the library takes it"

const struct test_case cases_process[] = {
	CASE_RETURNS("fork/child-serves", "fork after accept: the child serves, the parent closes", child_serves,
		     SHARED_WHY),
	CASE("fork/child-adopts", "fork after accept, accelerated in the child", child_adopts),
	CASE("fork/prefork", "the child accepts on an inherited listener", prefork),
	CASE_RETURNS("fork/in-turn", "parent and child write in turn", in_turn, SHARED_WHY),
	CASE_RETURNS("fork/in-turn-reading", "parent and children read in turn", in_turn_reading, SHARED_WHY),
	CASE_RETURNS("fork/child-unsent", "the child writes after much that is unsent", child_unsent, SHARED_WHY),
	CASE("fork/child-closes", "the child closes its copy", child_closes),
	CASE_RETURNS("fork/child-shuts-down", "the child shuts down for both", child_shuts_down, SHARED_WHY),
	CASE_RETURNS("fork/child-killed", "the child writes and is killed", child_killed, SHARED_WHY),
	CASE_RETURNS("fork/double", "double fork and setsid", parent_exits, SHARED_WHY),
	CASE_RETURNS("fork/daemon", "daemon()", as_daemon, SHARED_WHY),
	CASE_RETURNS("fork/child-epoll", "the child's own epoll", child_epoll, SHARED_WHY),
	CASE_RETURNS("fork/inherited-epoll", "an epoll of before the fork, in both", inherited_epoll, SHARED_WHY),
	CASE_RETURNS("fork/child-polls", "the child polls, the parent reads", child_polls, SHARED_WHY),
	CASE_RETURNS("fork/many", "five children, one after another", many_children, SHARED_WHY),
	CASE("fork/vfork", "vfork, close and _exit", vfork_child),
	CASE("fork/own", "the child has a connection of its own", own_connection_in_child),
	{.name = "exec/child",
	 .text = "fork and exec of an image with the library",
	 .run = exec_child,
	 .returns = SHARED_WHY,
	 .a = WITH_LIBRARY},
	{.name = "exec/child-without",
	 .text = "exec of an image without the library",
	 .run = exec_child,
	 .returns = TAKEN_WHY,
	 .a = WITHOUT_LIBRARY},
	{.name = "exec/child-static",
	 .text = "exec of a static image",
	 .run = exec_child,
	 .returns = TAKEN_WHY,
	 .a = STATIC_IMAGE},
	{.name = "exec/unread",
	 .text = "exec while data wait",
	 .run = exec_unread,
	 .returns = SHARED_WHY,
	 .a = WITH_LIBRARY},
	{.name = "exec/unread-without",
	 .text = "exec without the library while data wait",
	 .run = exec_unread,
	 .returns = TAKEN_WHY,
	 .a = WITHOUT_LIBRARY},
	{.name = "exec/unread-static",
	 .text = "exec of a static image while data wait",
	 .run = exec_unread,
	 .returns = TAKEN_WHY,
	 .a = STATIC_IMAGE},
	{.name = "exec/self",
	 .text = "the process becomes the image",
	 .run = exec_self,
	 .returns = SHARED_WHY,
	 .a = WITH_LIBRARY},
	{.name = "exec/self-without",
	 .text = "the process becomes an image without the library",
	 .run = exec_self,
	 .returns = TAKEN_WHY,
	 .a = WITHOUT_LIBRARY},
	{.name = "exec/self-static",
	 .text = "the process becomes a static image",
	 .run = exec_self,
	 .returns = TAKEN_WHY,
	 .a = STATIC_IMAGE},
	CASE("exec/cloexec", "FD_CLOEXEC: the image has no connection, the parent keeps it", exec_cloexec),
	{.name = "exec/vfork", .text = "vfork and exec", .run = vfork_exec, .returns = SHARED_WHY, .a = WITH_LIBRARY},
	{.name = "exec/vfork-static",
	 .text = "vfork and exec of a static image",
	 .run = vfork_exec,
	 .returns = TAKEN_WHY,
	 .a = STATIC_IMAGE},
	CASE_RETURNS("exec/spawn", "posix_spawn", spawn, SHARED_WHY),
	CASE_RETURNS("exec/spawn-actions", "posix_spawn with file actions: standard input", spawn_actions, SHARED_WHY),
	CASE("exec/spawn-other", "posix_spawn of a program that does not touch it", spawn_other),
	CASE("exec/system", "system()", system_call),
	CASE("exec/popen", "popen()", popen_call),
	CASE("exec/system-end", "system(): what it returns", system_end),
	CASE_RETURNS("exec/system-uses", "what system() starts uses the connection", system_uses, SHARED_WHY),
	CASE_RETURNS("exec/popen-uses", "what popen() starts uses the connection", popen_uses, SHARED_WHY),
	{.name = "exec/system-static",
	 .text = "the same, a static program",
	 .run = system_uses,
	 .returns = TAKEN_WHY,
	 .a = STATIC_IMAGE},
	{.name = "exec/popen-static",
	 .text = "the same by popen(), a static program",
	 .run = popen_uses,
	 .returns = TAKEN_WHY,
	 .a = STATIC_IMAGE},
	CASE_RETURNS("exec/vfork-dup", "vfork, dup2 and exec", vfork_dup, SHARED_WHY),
	{.name = "exec/vfork-dup-static",
	 .text = "the same, a static program",
	 .run = vfork_dup,
	 .returns = TAKEN_WHY,
	 .a = STATIC_IMAGE},
	CASE_RETURNS("pass/child", "SCM_RIGHTS to a process with the library", pass_to_child, SHARED_WHY),
	{.name = "pass/child-unread",
	 .text = "the same while data wait",
	 .run = pass_to_child,
	 .returns = SHARED_WHY,
	 .a = 1},
	CASE_RETURNS("pass/without", "SCM_RIGHTS to a process without the library", pass_without_library, TAKEN_WHY),
	{.name = "pass/static",
	 .text = "SCM_RIGHTS to a static program",
	 .run = pass_without_library,
	 .returns = TAKEN_WHY,
	 .a = 1},
	CASE_RETURNS("pass/self", "SCM_RIGHTS to itself", pass_to_self, SHARED_WHY),
	CASE_RETURNS("pass/keep", "passed and used by both", pass_and_keep, SHARED_WHY),
	CASE_RETURNS("pass/pidfd", "a copy by pidfd_getfd", pidfd_copy, SHARED_WHY),
	CASE("pass/proc", "open(/proc/self/fd/N)", proc_fd_open),
	{.name = NULL},
};
