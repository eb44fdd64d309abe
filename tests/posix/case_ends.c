// SPDX-License-Identifier: GPL-2.0-or-later
/* The end of a stream, or of a connection, where another process, or the time before the adoption, had a part in it. */
#include "tests/posix/process.h"

/* Shut down for reading while it is Linux's. */
static void shut_before(void)
{
	int l = listener_open(8, 0), id = next_id(), fd;
	struct pollfd p = {.events = POLLIN | POLLRDHUP};
	struct conn *c;

	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	fd = accept(l, NULL, NULL);
	tell(shutdown(fd, SHUT_RD), "shutdown(RD)");
	c = conn_adopt_shut(fd, id);
	p.fd = fd;
	tell(poll(&p, 1, 2000), "poll");
	say("%s", event_names((uint32_t)p.revents));
	process_read("nothing there", fd);
	peer_text(c, "more");
	await_in(fd, 4);
	process_read("something there", fd);
	process_read("nothing there", fd);
	process_write("after it", fd, "still sends");
	peer_recv_say(c, 11);
}

/* A pipe that the child reads from before it goes on. */
static int go[2];

static void wait_to_go(void)
{
	char c;

	if (read(go[0], &c, 1) != 1)
		_exit(9);
}

static pid_t child_waits(void)
{
	pid_t pid;

	if (pipe(go))
		fatal("pipe");
	pid = child_new();
	if (!pid)
		wait_to_go();
	return pid;
}

static void child_goes(void)
{
	if (write(go[1], "g", 1) != 1)
		fatal("pipe");
}

static void reads_until_the_end(const char *who, int fd)
{
	process_read(who, fd);
	process_read(who, fd);
	process_write(who, fd, "x");
}

/* The error of a connection is told once, whoever asks first; and nobody waits for a connection that is dead. */
static void reset_then_child(void)
{
	struct conn *c = conn_open();
	pid_t pid;

	signal(SIGPIPE, SIG_IGN);
	pid = child_waits();
	if (!pid) {
		reads_until_the_end("child", c->fd);
		_exit(0);
	}
	peer(PEER_RESET, c, 0, 0);
	await_reset(c->fd);
	reads_until_the_end("parent", c->fd);
	child_goes();
	child_end(pid);
	process_read("parent", c->fd);
}

/* The error was told here: a program without the library, which has the descriptor too, does not hear of it again. */
static void reset_then_image(void)
{
	struct conn *c = conn_open();
	char fd[12];
	pid_t pid;

	fcntl(c->fd, F_SETFD, 0);
	snprintf(fd, sizeof(fd), "%d", c->fd);
	pid = child_waits();
	if (!pid) {
		execl(image_path(true), "image", fd, "e", "wx", NULL);
		_exit(8);
	}
	peer(PEER_RESET, c, 0, 0);
	await_reset(c->fd);
	process_read("parent", c->fd);
	child_goes();
	child_end(pid);
}

/* The child has taken the connection over, when the parent shuts it down for reading. */
static void shut_while_away(void)
{
	struct conn *c = conn_open();
	struct pollfd p = {.fd = c->fd, .events = POLLIN};
	pid_t pid = child_waits();

	if (!pid) {
		process_read("child", c->fd);
		if (write(c->fd, "thanks", 6) != 6)
			_exit(8);
		wait_to_go();
		await_poll(c->fd, POLLRDHUP);
		process_read("child", c->fd);
		process_write("child", c->fd, "still sends");
		_exit(0);
	}
	peer_text(c, "for the child");
	child_goes();
	peer_recv_say(c, 6);
	tell(poll(&p, 1, 0), "parent: poll");
	tell(shutdown(c->fd, SHUT_RD), "parent: shutdown(RD)");
	child_goes();
	child_end(pid);
	peer_recv_say(c, 11);
}

const struct test_case cases_ends[] = {
	CASE("ends/shut-before", "shutdown(SHUT_RD) before the connection is accelerated", shut_before),
	CASE_RETURNS("ends/reset-then-child", "reset; the parent hears of it, then the child looks", reset_then_child,
		     SHARED_WHY),
	CASE_RETURNS("ends/reset-then-image", "reset; the parent hears of it, then a program without the library looks",
		     reset_then_image, SHARED_WHY),
	CASE_RETURNS("ends/shut-while-away", "the parent's SHUT_RD while the child has the connection", shut_while_away,
		     SHARED_WHY),
	{.name = NULL},
};
