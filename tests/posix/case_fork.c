// SPDX-License-Identifier: GPL-2.0-or-later
/* Connections and forks: children that serve, share, close, shut down and die; daemons; vfork. */
#include <sys/epoll.h>
#include <sys/wait.h>

#include "tests/posix/process.h"

static char buf[70000];

static void child_serves(void)
{
	struct conn *c = conn_open();
	pid_t pid;

	peer_text(c, "request");
	pid = child_new();
	if (!pid) {
		process_read("child", c->fd);
		process_write("child", c->fd, "response");
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
		process_read("child", fd);
		process_write("child", fd, "world");
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
		process_read("child", fd);
		process_write("child", fd, "world");
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
		process_write("child", c->fd, "second ");
		_exit(0);
	}
	process_write("parent", c->fd, "first ");
	if (write(go[1], "g", 1) != 1)
		fatal("go");
	child_end(pid);
	process_write("parent", c->fd, "third");
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
		process_write("child", c->fd, "after what the parent wrote");
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
	process_write("parent", c->fd, "not disturbed");
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
	process_write("parent", c->fd, "x");
	peer_drain_say(c);
}

static void child_killed(void)
{
	struct conn *c = conn_open();
	pid_t pid;

	peer_text(c, "x");
	pid = child_new();
	if (!pid) {
		process_read("child", c->fd);
		process_write("child", c->fd, "last words");
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
		process_read("grandchild", c->fd);
		process_write("grandchild", c->fd, "served");
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
		process_read("daemon", c->fd);
		process_write("daemon", c->fd, "served");
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
		process_read("child", c->fd);
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
	process_read("parent", c->fd);
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
	process_read("parent", c->fd);
}

static void many_children(void)
{
	struct conn *c = conn_open();

	for (int i = 0; i < 5; i++) {
		char text[8] = {'n', (char)('0' + i), ' ', 0};
		pid_t pid = child_new();

		if (!pid) {
			process_write("child", c->fd, text);
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
	process_write("parent", c->fd, "has it still");
	peer_recv_say(c, 12);
}

static void own_connection_in_child(void)
{
	struct conn *c = conn_open();
	pid_t pid = child_new();

	if (!pid) {
		struct conn *mine = conn_open();

		process_write("child", mine->fd, "own");
		peer_recv_say(mine, 3);
		conn_report_end();
		_exit(0);
	}
	child_end(pid);
	process_write("parent", c->fd, "parent's");
	peer_recv_say(c, 8);
}

const struct test_case cases_fork[] = {
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
	{.name = NULL},
};
