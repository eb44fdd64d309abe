/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An echo server whose processes come and go, or stay: churn MODE PORT. Each connection is first
 * told the process that serves it ("%10d\n"), so that what that process holds can be looked at.
 *
 *   keep    one process serves all connections, by epoll
 *   fork    a child for each connection
 *   exec    the same, and the child executes this program, which serves the connection as its standard input
 *   chain   one connection is served at a time; after it the process answers one block of the first of all, which
 *           stays, and goes on as its own child
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static void die(const char *what)
{
	perror(what);
	exit(2);
}

static int listener(int port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 1024))
		die("listen");
	return fd;
}

static void greet(int fd)
{
	char text[16];
	int n = snprintf(text, sizeof text, "%10d\n", (int)getpid()), one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (write(fd, text, (size_t)n) != n)
		die("write");
}

/* False: the peer has ended the connection, or reset it. Blocks are small enough to be written whole. */
static bool echo(int fd)
{
	char buf[4096];
	ssize_t n = read(fd, buf, sizeof buf);

	if (n > 0 && write(fd, buf, (size_t)n) == n)
		return true;
	if (n > 0 || (n < 0 && errno != ECONNRESET && errno != EPIPE))
		die("echo");
	close(fd);
	return false;
}

static void serve(int fd)
{
	greet(fd);
	while (echo(fd))
		;
}

static void keep(int lis)
{
	int ep = epoll_create1(EPOLL_CLOEXEC);
	struct epoll_event e = {.events = EPOLLIN, .data.fd = lis}, ready[16];

	if (ep < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, lis, &e))
		die("epoll");
	for (;;) {
		int n = epoll_wait(ep, ready, 16, -1);

		for (int i = 0; i < n; i++) {
			if (ready[i].data.fd != lis) {
				echo(ready[i].data.fd);
				continue;
			}
			e.data.fd = accept(lis, NULL, NULL);
			if (e.data.fd < 0 || epoll_ctl(ep, EPOLL_CTL_ADD, e.data.fd, &e))
				die("accept");
			greet(e.data.fd);
		}
	}
}

static void children(int lis, char *self)
{
	signal(SIGCHLD, SIG_IGN);
	for (;;) {
		int fd = accept(lis, NULL, NULL);
		pid_t pid = fd < 0 ? -1 : fork();

		if (pid < 0)
			die("accept or fork");
		if (!pid && self) {
			if (dup2(fd, 0) < 0 || close(fd))
				die("dup2");
			execl(self, self, "serve", NULL);
			die(self);
		}
		if (!pid) {
			serve(fd);
			exit(0);
		}
		close(fd);
	}
}

static void chain(int lis)
{
	int first = accept(lis, NULL, NULL);

	if (first < 0)
		die("accept");
	greet(first);
	for (;;) {
		int fd = accept(lis, NULL, NULL);
		pid_t pid;

		if (fd < 0)
			die("accept");
		serve(fd);
		if (!echo(first))
			return;
		pid = fork();
		if (pid < 0)
			die("fork");
		if (pid)
			_exit(0);
		setsid(); /* nobody waits for it, and it ends with the namespace */
	}
}

int main(int argc, char **argv)
{
	const char *mode = argc > 1 ? argv[1] : "";
	int lis;

	if (argc == 2 && !strcmp(mode, "serve")) {
		serve(0);
		return 0;
	}
	lis = argc == 3 ? listener(atoi(argv[2])) : -1;
	if (lis >= 0 && !strcmp(mode, "keep"))
		keep(lis);
	else if (lis >= 0 && !strcmp(mode, "fork"))
		children(lis, NULL);
	else if (lis >= 0 && !strcmp(mode, "exec"))
		children(lis, argv[0]);
	else if (lis >= 0 && !strcmp(mode, "chain"))
		chain(lis);
	if (lis >= 0)
		return 0;
	fprintf(stderr, "usage: churn keep|fork|exec|chain PORT\n");
	return 1;
}
