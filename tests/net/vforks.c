/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vforks PORT: an echo server whose every block is answered after two children, which work in
 * its memory, have closed all its descriptors: one of vfork(), one of a raw clone() with the
 * same flags and a stack of its own. Its own descriptors, and what it knows of them, must not
 * suffer. A last child executes a program, as popen() of many runtimes does.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int ep, last_fd;
static char stack[65536] __attribute__((aligned(16)));

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static void close_all(void)
{
	for (int fd = 3; fd <= last_fd; fd++)
		close(fd);
}

static int child(void *arg)
{
	(void)arg;
	close_all();
	_exit(7);
}

static void reap(pid_t pid)
{
	int status;

	if (pid < 0)
		die("vfork");
	if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status) || WEXITSTATUS(status) != 7)
		die("waitpid");
}

static void children(void)
{
	pid_t pid = vfork();

	if (!pid) {
		close_all();
		_exit(7);
	}
	reap(pid);
	reap(clone(child, stack + sizeof stack, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL));
	pid = vfork();
	if (!pid) {
		close_range(3, ~0u, 0);
		execl("/bin/sh", "sh", "-c", "exit 7", (char *)NULL);
		_exit(127);
	}
	reap(pid);
}

static void watch(int fd)
{
	struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};

	if (epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e))
		die("epoll_ctl");
	if (fd > last_fd)
		last_fd = fd;
}

static void serve(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	char buf[4096];
	ssize_t n = recv(fd, buf, sizeof buf, 0);

	if (n < 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		close(fd);
		return;
	}
	children();
	if (poll(&p, 1, 5000) != 1 || send(fd, buf, (size_t)n, MSG_NOSIGNAL) != n)
		die("send");
}

int main(int argc, char **argv)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argc > 1 ? argv[1] : "7"))};
	int one = 1, l = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct epoll_event ev[16];

	ep = epoll_create1(0);
	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(l, (void *)&a, sizeof a) || listen(l, 64))
		die("listen");
	watch(l);
	for (;;) {
		int n = epoll_wait(ep, ev, 16, -1);

		for (int i = 0; i < n; i++) {
			int fd = ev[i].data.fd;

			if (fd != l) {
				serve(fd);
				continue;
			}
			fd = accept4(l, NULL, NULL, SOCK_NONBLOCK);
			if (fd >= 0)
				watch(fd);
		}
	}
}
