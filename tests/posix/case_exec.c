// SPDX-License-Identifier: GPL-2.0-or-later
/* Connections and new images: exec, posix_spawn, system(), popen(), with and without the library. */
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "tests/posix/process.h"

extern char **environ;
static char buf[70000];

enum { WITH_LIBRARY, WITHOUT_LIBRARY, STATIC_IMAGE };

static void exec_image(const struct conn *c, int kind)
{
	char fd[12];

	snprintf(fd, sizeof(fd), "%d", c->fd);
	if (kind == WITHOUT_LIBRARY)
		unsetenv("LD_PRELOAD");
	execl(image_path(kind == STATIC_IMAGE), "posix_image", fd, "r7", "wresponse", "c", NULL);
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
		execl(image_path(false), "posix_image", fd, "r7", NULL);
		_exit(9);
	}
	child_end(pid);
	process_write("parent", c->fd, "mine");
	peer_recv_say(c, 4);
}

static void vfork_exec(void)
{
	struct conn *c = conn_open();
	const char *path = image_path(this_case->a == STATIC_IMAGE);
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
	err = posix_spawn(&pid, image_path(false), NULL, NULL, argv, environ);
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
	err = posix_spawn(&pid, image_path(false), &fa, NULL, argv, environ);
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

	err = posix_spawn(&pid, image_path(false), NULL, NULL, argv, environ);
	child_end(pid);
	say("posix_spawn: %s", err_name(err));
	process_write("parent", c->fd, "not disturbed");
	peer_recv_say(c, 13);
}

static void system_call(void)
{
	struct conn *c = conn_open();

	tell(system("exit 3") >> 8, "system");
	process_write("parent", c->fd, "not disturbed");
	peer_recv_say(c, 13);
}

static void popen_call(void)
{
	struct conn *c = conn_open();
	FILE *f = popen("echo from a shell", "r");

	tell_data((long)fread(buf, 1, 12, f), buf, "fread");
	tell(pclose(f), "pclose");
	process_write("parent", c->fd, "not disturbed");
	peer_recv_say(c, 13);
}

/* The shell becomes a program that uses the connection. */
static void system_uses(void)
{
	struct conn *c = conn_open();
	char line[400];

	snprintf(line, sizeof(line), "exec %s %d r7 wresponse", image_path(this_case->a == STATIC_IMAGE), c->fd);
	peer_text(c, "request");
	tell(system(line) >> 8, "system");
	process_write("parent", c->fd, " and more");
	close(c->fd);
	peer_drain_say(c);
}

static void popen_uses(void)
{
	struct conn *c = conn_open();
	char line[400];
	FILE *f;
	long n;

	snprintf(line, sizeof(line), "exec %s %d r7 wresponse", image_path(this_case->a == STATIC_IMAGE), c->fd);
	f = popen(line, "re");
	say("popen: %s", f ? "yes" : err_name(errno));
	if (!f)
		return;
	peer_text(c, "request");
	while ((n = (long)fread(buf, 1, sizeof(buf), f)) > 0)
		tell_data(n, buf, "fread");
	tell(pclose(f) >> 8, "pclose");
	process_write("parent", c->fd, " and more");
	close(c->fd);
	peer_drain_say(c);
}

/* Standard input and output of a vfork child's image. */
static void vfork_dup(void)
{
	struct conn *c = conn_open();
	const char *path = image_path(this_case->a == STATIC_IMAGE);
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
	process_write("parent", c->fd, " and more");
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
	process_write("parent", c->fd, "not disturbed");
	peer_recv_say(c, 13);
}

const struct test_case cases_exec[] = {
	CASE_WITH("exec/child", "fork and exec of an image with the library", exec_child, SHARED_WHY, WITH_LIBRARY),
	CASE_WITH("exec/child-without", "exec of an image without the library", exec_child, TAKEN_WHY, WITHOUT_LIBRARY),
	CASE_WITH("exec/child-static", "exec of a static image", exec_child, TAKEN_WHY, STATIC_IMAGE),
	CASE_WITH("exec/unread", "exec while data wait", exec_unread, SHARED_WHY, WITH_LIBRARY),
	CASE_WITH("exec/unread-without", "exec without the library while data wait", exec_unread, TAKEN_WHY,
		  WITHOUT_LIBRARY),
	CASE_WITH("exec/unread-static", "exec of a static image while data wait", exec_unread, TAKEN_WHY, STATIC_IMAGE),
	CASE_WITH("exec/self", "the process becomes the image", exec_self, SHARED_WHY, WITH_LIBRARY),
	CASE_WITH("exec/self-without", "the process becomes an image without the library", exec_self, TAKEN_WHY,
		  WITHOUT_LIBRARY),
	CASE_WITH("exec/self-static", "the process becomes a static image", exec_self, TAKEN_WHY, STATIC_IMAGE),
	CASE("exec/cloexec", "FD_CLOEXEC: the image has no connection, the parent keeps it", exec_cloexec),
	CASE_WITH("exec/vfork", "vfork and exec", vfork_exec, SHARED_WHY, WITH_LIBRARY),
	CASE_WITH("exec/vfork-static", "vfork and exec of a static image", vfork_exec, TAKEN_WHY, STATIC_IMAGE),
	CASE_RETURNS("exec/spawn", "posix_spawn", spawn, SHARED_WHY),
	CASE_RETURNS("exec/spawn-actions", "posix_spawn with file actions: standard input", spawn_actions, SHARED_WHY),
	CASE("exec/spawn-other", "posix_spawn of a program that does not touch it", spawn_other),
	CASE("exec/system", "system()", system_call),
	CASE("exec/popen", "popen()", popen_call),
	CASE("exec/system-end", "system(): what it returns", system_end),
	CASE_RETURNS("exec/system-uses", "what system() starts uses the connection", system_uses, SHARED_WHY),
	CASE_RETURNS("exec/popen-uses", "what popen() starts uses the connection", popen_uses, SHARED_WHY),
	CASE_WITH("exec/system-static", "the same, a static program", system_uses, TAKEN_WHY, STATIC_IMAGE),
	CASE_WITH("exec/popen-static", "the same by popen(), a static program", popen_uses, TAKEN_WHY, STATIC_IMAGE),
	CASE_RETURNS("exec/vfork-dup", "vfork, dup2 and exec", vfork_dup, SHARED_WHY),
	CASE_WITH("exec/vfork-dup-static", "the same, a static program", vfork_dup, TAKEN_WHY, STATIC_IMAGE),
	{.name = NULL},
};
