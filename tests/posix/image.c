// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * posix_image FD TALK...
 *
 * The program that cases exec with an inherited connection: dynamic, so that the library may be
 * loaded into it, and the same as a static image. For each TALK: "r N" reads N bytes and says
 * them, "w TEXT" writes, "c" closes, "e" reads the end of the stream, "p" takes a descriptor
 * passed over FD, to go on with. Says what it does on the
 * transcript's descriptor, which is inherited.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define OUT_FD 201

static void say(const char *what, long ret, const char *data)
{
	char line[200];
	int n;

	if (ret < 0)
		n = snprintf(line, sizeof(line), "image: %s = -1 %s\n", what, strerrorname_np(errno));
	else if (data && ret)
		n = snprintf(line, sizeof(line), "image: %s = %ld \"%.*s\"\n", what, ret, (int)ret, data);
	else
		n = snprintf(line, sizeof(line), "image: %s = %ld\n", what, ret);
	if (write(OUT_FD, line, (size_t)n) != n)
		_exit(3);
}

/* The descriptor that comes over the unix socket @from. */
static int take(int from)
{
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr h;
	} u;
	char byte;
	struct iovec v = {&byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &u, .msg_controllen = sizeof(u)};
	int fd = -1;

	if (recvmsg(from, &m, 0) == 1 && CMSG_FIRSTHDR(&m))
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(fd));
	return fd;
}

int main(int argc, char **argv)
{
	int fd = argc > 1 ? atoi(argv[1]) : -1;
	char buf[100];

	alarm(10);
	for (int i = 2; i < argc; i++) {
		if (argv[i][0] == 'r')
			say("recv", recv(fd, buf, (size_t)atoi(argv[i] + 1) % sizeof(buf), MSG_WAITALL), buf);
		else if (argv[i][0] == 'e')
			say("read", read(fd, buf, sizeof(buf)), buf);
		else if (argv[i][0] == 'w')
			say("write", write(fd, argv[i] + 1, strlen(argv[i] + 1)), NULL);
		else if (argv[i][0] == 'p')
			fd = take(fd);
		else if (argv[i][0] == 'c')
			say("close", close(fd), NULL);
	}
	return 7;
}
