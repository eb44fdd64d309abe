// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * posix_peer SOCKET ADDRESS
 *
 * The other end of the cases' connections, on plain Linux. Each process of a case connects to
 * the unix socket SOCKET and sends commands (posix.h); a child of this program carries them
 * out, one after another, and answers. ADDRESS is where PEER_CONNECT connects to.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>

#include "tests/posix/posix.h"

#define LIFE_S 30 /* a case lives shorter */
#define CHUNK 65536

static int conns[PEER_CONNS], listener = -1;
static const char *address;
static char buf[CHUNK];

static void tune(int fd)
{
	struct timeval t = {.tv_sec = 5};
	int one = 1;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static void do_listen(struct peer_answer *a)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
	socklen_t len = sizeof(in);

	if (listener >= 0)
		close(listener);
	listener = socket(AF_INET, SOCK_STREAM, 0);
	if (bind(listener, (struct sockaddr *)&in, sizeof(in)) || listen(listener, 16) ||
	    getsockname(listener, (struct sockaddr *)&in, &len)) {
		a->ret = -1;
		a->err = errno;
		return;
	}
	a->ret = ntohs(in.sin_port);
}

static void do_connect(const struct peer_cmd *c, struct peer_answer *a)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)c->a)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	inet_pton(AF_INET, address, &to.sin_addr);
	tune(fd);
	a->ret = connect(fd, (struct sockaddr *)&to, sizeof(to));
	a->err = a->ret ? errno : 0;
	if (a->ret)
		close(fd);
	else
		conns[c->conn] = fd;
}

static void do_accept(const struct peer_cmd *c, struct peer_answer *a)
{
	struct pollfd p = {.fd = listener, .events = POLLIN};
	int fd = poll(&p, 1, 5000) == 1 ? accept(listener, NULL, NULL) : -1;

	a->ret = fd < 0 ? -1 : 0;
	a->err = fd < 0 ? errno : 0;
	if (fd >= 0) {
		tune(fd);
		conns[c->conn] = fd;
	}
}

static void do_echo(int fd, struct peer_answer *a)
{
	char unit[ECHO_UNIT];

	do {
		a->ret = recv(fd, unit, sizeof(unit), MSG_WAITALL);
		if (a->ret == sizeof(unit))
			a->ret = send(fd, unit, sizeof(unit), MSG_NOSIGNAL);
	} while (a->ret == sizeof(unit) && unit[0] != 'E');
	a->err = a->ret < 0 ? errno : 0;
}

static void do_send(int fd, const struct peer_cmd *c, struct peer_answer *a)
{
	while (a->ret < c->a) {
		size_t n = c->a - a->ret < CHUNK ? (size_t)(c->a - a->ret) : CHUNK;
		ssize_t sent;

		pattern_fill(buf, n, (uint64_t)c->b, (uint64_t)a->ret);
		sent = send(fd, buf, n, MSG_NOSIGNAL);
		if (sent < 0) {
			a->err = errno;
			return;
		}
		a->ret += sent;
	}
}

static void note(struct peer_answer *a, size_t n)
{
	size_t room = sizeof(a->data) - a->len, k = n < room ? n : room;

	memcpy(a->data + a->len, buf, k);
	a->len += (uint32_t)k;
	a->hash = pattern_hash(a->hash, buf, n);
	a->ret += (int64_t)n;
}

/* At most @limit bytes; a->err is 0 at the end of the stream. */
static void do_recv(int fd, int64_t limit, struct peer_answer *a)
{
	a->hash = HASH_START;
	while (a->ret < limit) {
		ssize_t n = recv(fd, buf, limit - a->ret < CHUNK ? (size_t)(limit - a->ret) : CHUNK, 0);

		if (n <= 0) {
			a->err = n < 0 ? errno : 0;
			return;
		}
		note(a, (size_t)n);
	}
}

static void do_pump(int fd, const struct peer_cmd *c, struct peer_answer *a)
{
	int64_t sent = 0;

	a->hash = HASH_START;
	while (sent < c->a || a->ret < c->b) {
		struct pollfd p = {.fd = fd,
				   .events = (short)((a->ret < c->b ? POLLIN : 0) | (sent < c->a ? POLLOUT : 0))};
		ssize_t n = 0;

		if (poll(&p, 1, 5000) != 1) {
			a->err = ETIMEDOUT;
			return;
		}
		if (p.revents & POLLOUT) {
			size_t k = c->a - sent < 30011 ? (size_t)(c->a - sent) : 30011;

			pattern_fill(buf, k, 1, (uint64_t)sent);
			n = send(fd, buf, k, MSG_NOSIGNAL | MSG_DONTWAIT);
			sent += n > 0 ? n : 0;
		}
		if (p.revents & ~POLLOUT) {
			n = recv(fd, buf, c->b - a->ret < CHUNK ? (size_t)(c->b - a->ret) : CHUNK, MSG_DONTWAIT);
			if (n > 0)
				note(a, (size_t)n);
			else if (!n)
				errno = ENODATA;
		}
		if (n <= 0 && errno != EAGAIN) {
			a->err = errno;
			return;
		}
	}
}

static void do_reset(int fd)
{
	struct linger l = {.l_onoff = 1};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	close(fd);
}

static void obey(const struct peer_cmd *c, struct peer_answer *a)
{
	int fd = conns[c->conn], value = (int)c->b;

	usleep(c->delay_ms * 1000);
	switch (c->cmd) {
	case PEER_LISTEN:
		return do_listen(a);
	case PEER_ACCEPT:
		return do_accept(c, a);
	case PEER_CONNECT:
		return do_connect(c, a);
	case PEER_ECHO:
		return do_echo(fd, a);
	case PEER_SEND:
		return do_send(fd, c, a);
	case PEER_TEXT:
		a->ret = send(fd, c->data, c->len, (int)c->a | MSG_NOSIGNAL);
		break;
	case PEER_RECV:
		return do_recv(fd, c->a, a);
	case PEER_DRAIN:
		return do_recv(fd, INT64_MAX, a);
	case PEER_PUMP:
		return do_pump(fd, c, a);
	case PEER_SHUTDOWN:
		a->ret = shutdown(fd, (int)c->a);
		break;
	case PEER_CLOSE:
		a->ret = close(fd);
		conns[c->conn] = -1;
		break;
	case PEER_RESET:
		do_reset(fd);
		conns[c->conn] = -1;
		break;
	case PEER_OPTION:
		a->ret = setsockopt(fd, (int)(c->a >> 32), (int)c->a, &value, sizeof(value));
		break;
	case PEER_PAUSE:
		usleep((useconds_t)c->a * 1000);
		break;
	default:
		a->ret = -1;
		errno = ENOSYS;
	}
	a->err = a->ret < 0 ? errno : 0;
}

static void serve(int ctl)
{
	struct peer_cmd c;

	alarm(LIFE_S);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (int i = 0; i < PEER_CONNS; i++)
		conns[i] = -1;
	while (recv(ctl, &c, sizeof(c), 0) == sizeof(c)) {
		struct peer_answer a = {0};

		c.conn %= PEER_CONNS;
		c.len = c.len < sizeof(c.data) ? c.len : sizeof(c.data);
		obey(&c, &a);
		if (send(ctl, &a, sizeof(a), MSG_NOSIGNAL) != sizeof(a))
			break;
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	int l = socket(AF_UNIX, SOCK_SEQPACKET, 0);

	if (argc != 3 || strlen(argv[1]) >= sizeof(un.sun_path)) {
		fprintf(stderr, "usage: posix_peer SOCKET ADDRESS\n");
		return 2;
	}
	address = argv[2];
	strcpy(un.sun_path, argv[1]);
	unlink(un.sun_path);
	signal(SIGCHLD, SIG_IGN);
	if (bind(l, (struct sockaddr *)&un, sizeof(un)) || listen(l, 64)) {
		perror("posix_peer");
		return 1;
	}
	puts("ready");
	fflush(stdout);
	for (;;) {
		int ctl = accept(l, NULL, NULL);
		pid_t child = ctl < 0 ? -1 : fork();

		if (!child) {
			close(l);
			serve(ctl);
		}
		if (ctl >= 0)
			close(ctl);
	}
}
