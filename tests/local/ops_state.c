// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Orders about what a socket is rather than about its bytes: made, named, set, shut, closed,
 * copied.
 */
#include "tests/local/ops.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <linux/sockios.h>
#include <unistd.h>

#define OUTQ_MS 1000
#define INQ_US 5000
#define READ_ONLY      \
	{              \
		-1, -1 \
	}

const char *net_to = "127.0.0.1", *net_from;
static int listener = -1;

const struct option_row option_rows[] = {
	{"TCP_NODELAY", IPPROTO_TCP, TCP_NODELAY, {1, 1}, false},
	{"TCP_USER_TIMEOUT", IPPROTO_TCP, TCP_USER_TIMEOUT, {20000, 60000}, false},
	{"TCP_KEEPIDLE", IPPROTO_TCP, TCP_KEEPIDLE, {100, 7200}, false},
	{"TCP_KEEPINTVL", IPPROTO_TCP, TCP_KEEPINTVL, {10, 75}, false},
	{"TCP_KEEPCNT", IPPROTO_TCP, TCP_KEEPCNT, {3, 9}, false},
	{"TCP_LINGER2", IPPROTO_TCP, TCP_LINGER2, {30, 60}, false},
	{"SO_KEEPALIVE", SOL_SOCKET, SO_KEEPALIVE, {0, 1}, false},
	{"SO_REUSEADDR", SOL_SOCKET, SO_REUSEADDR, {0, 1}, false},
	{"SO_PRIORITY", SOL_SOCKET, SO_PRIORITY, {0, 5}, false},
	{"SO_RCVBUF", SOL_SOCKET, SO_RCVBUF, {100000, 200000}, true},
	{"SO_SNDBUF", SOL_SOCKET, SO_SNDBUF, {200000, 212992}, true},
	{"SO_ERROR", SOL_SOCKET, SO_ERROR, READ_ONLY, false},
	{"SO_TYPE", SOL_SOCKET, SO_TYPE, READ_ONLY, false},
	{"SO_PROTOCOL", SOL_SOCKET, SO_PROTOCOL, READ_ONLY, false},
	{"SO_ACCEPTCONN", SOL_SOCKET, SO_ACCEPTCONN, READ_ONLY, false},
	{"SO_RCVLOWAT", SOL_SOCKET, SO_RCVLOWAT, READ_ONLY, false},
	{"SO_OOBINLINE", SOL_SOCKET, SO_OOBINLINE, READ_ONLY, false},
};
const int option_count = sizeof option_rows / sizeof *option_rows;

/* ---- addresses ---- */

static socklen_t address(const char *text, int port, struct sockaddr_storage *sa)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)sa;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)sa;

	memset(sa, 0, sizeof *sa);
	if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)port);
		return sizeof *v4;
	}
	inet_pton(AF_INET6, text, &v6->sin6_addr);
	v6->sin6_family = AF_INET6;
	v6->sin6_port = htons((uint16_t)port);
	return sizeof *v6;
}

static int port_of(int fd, bool peer)
{
	struct sockaddr_in sa = {0}; /* an IPv6 address has its port at the same place */
	struct sockaddr_storage all = {0};
	socklen_t len = sizeof all;

	if ((peer ? getpeername : getsockname)(fd, (struct sockaddr *)&all, &len))
		return -1;
	memcpy(&sa, &all, sizeof sa);
	return ntohs(sa.sin_port);
}

static void order_listen(struct answer *a)
{
	struct sockaddr_storage sa;
	socklen_t len = address(net_to, 0, &sa);

	listener = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(listener, (struct sockaddr *)&sa, len) || listen(listener, CONNS))
		say(a, "listen: errno %d", errno);
	a->r = port_of(listener, false);
}

static void order_connect(const struct order *o, struct answer *a)
{
	struct sockaddr_storage sa;
	socklen_t len;
	int fd, r, error = 0, flags = o->how == CONNECT_NONBLOCK ? SOCK_NONBLOCK : 0;
	struct pollfd p = {.events = POLLOUT};

	len = address(net_from ? net_from : net_to, 0, &sa);
	fd = socket(sa.ss_family, SOCK_STREAM | flags, 0);
	if (net_from && bind(fd, (struct sockaddr *)&sa, len))
		say(a, "bind: errno %d ", errno);
	len = address(net_to, o->arg, &sa);
	r = connect(fd, (struct sockaddr *)&sa, len);
	say(a, "connect%s", flags ? " NONBLOCK" : "");
	say_result(a, r);
	if (r < 0 && errno == EINPROGRESS) {
		p.fd = fd;
		r = poll(&p, 1, 2000);
		len = sizeof error;
		getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len);
		say(a, ", poll %d events %x, SO_ERROR %d", r, (unsigned int)p.revents, error);
	}
	if (flags)
		fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	actor_fds[o->end][0] = fd;
	a->r = port_of(fd, false);
}

static void order_accept(const struct order *o, struct answer *a)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof sa;
	int fd = o->how ? accept4(listener, (struct sockaddr *)&sa, &len, 0)
			: accept(listener, (struct sockaddr *)&sa, &len);

	say(a, "accept%s", o->how ? "4" : "");
	say_result(a, fd < 0 ? -1 : 0);
	say(a, ", address of %u bytes", len);
	actor_fds[o->end][0] = fd;
}

static const char *port_name(int port, const struct order *o)
{
	return port == o->arg ? "client" : port == (int)o->n ? "server" : port < 0 ? "none" : "WRONG";
}

static void order_names(const struct order *o, struct answer *a, int fd)
{
	int own = port_of(fd, false), peer, error;

	errno = 0;
	peer = port_of(fd, true);
	error = errno;
	say(a, "names: own %s, peer %s, errno %d", port_name(own, o), port_name(peer, o), error);
}

/* ---- options ---- */

static void order_option(const struct order *o, struct answer *a, int fd)
{
	const struct option_row *row = &option_rows[o->arg];
	int value = (int)o->n;
	socklen_t len = sizeof value;

	if (o->how) {
		say(a, "set %s %d", row->name, value);
		say_result(a, setsockopt(fd, row->level, row->option, &value, len));
		return;
	}
	say(a, "get %s", row->name);
	say_result(a, getsockopt(fd, row->level, row->option, &value, &len));
	say(a, " value %d length %u", value, len);
}

static void order_nonblock(const struct order *o, struct answer *a, int fd)
{
	int on = o->arg, r, flags = fcntl(fd, F_GETFL);

	r = o->how ? ioctl(fd, FIONBIO, &on) : fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
	say(a, "%s %s", o->how ? "FIONBIO" : "O_NONBLOCK", on ? "on" : "off");
	say_result(a, r);
	say(a, ", now %s", fcntl(fd, F_GETFL) & O_NONBLOCK ? "on" : "off");
}

/* A call on an end that has nothing to read. */
static void order_timeout(const struct order *o, struct answer *a, int fd)
{
	struct timeval tv = {.tv_usec = o->arg * 1000}, off = {0};
	char c;

	say(a, "SO_RCVTIMEO %d ms", o->arg);
	say_result(a, setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv));
	say(a, ", recv");
	say_result(a, recv(fd, &c, 1, 0));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &off, sizeof off);
}

static void order_inq(const struct order *o, struct answer *a, int fd)
{
	int n = -1, r = ioctl(fd, FIONREAD, &n);

	if (o->some && !n) { /* a connection that is just being adopted: see order_epoll_wait() */
		usleep(INQ_US);
		r = ioctl(fd, FIONREAD, &n);
	}
	say(a, "FIONREAD %d", n);
	say_result(a, r);
}

/* All has been read by the other end, so nothing remains once its last acknowledgement is there. */
static void order_outq(struct answer *a, int fd)
{
	int64_t end = clock_us() + OUTQ_MS * 1000;
	int n = -1, r;

	while ((r = ioctl(fd, SIOCOUTQ, &n)) == 0 && n && clock_us() < end)
		usleep(500);
	say(a, "SIOCOUTQ %d", n);
	say_result(a, r);
}

/* ---- the end ---- */

static void order_shutdown(const struct order *o, struct answer *a, int fd)
{
	static const char *const names[] = {"RD", "WR", "RDWR"};

	say(a, "shutdown %s", names[o->arg]);
	say_result(a, shutdown(fd, o->arg));
}

static void order_close(const struct order *o, struct answer *a, int *fd)
{
	static const char *const names[] = {"close", "dup2, close", "linger 0, close"};
	struct linger l = {.l_onoff = 1};
	int null;

	if (o->how == CLOSE_LINGER)
		setsockopt(*fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
	if (o->how == CLOSE_DUP2) {
		null = open("/dev/null", O_RDWR | O_CLOEXEC);
		dup2(null, *fd);
		close(null);
	}
	say(a, "%s", names[o->how]);
	say_result(a, close(*fd));
	*fd = -1;
}

static void order_dup(const struct order *o, struct answer *a, int fd)
{
	static const char *const names[] = {"dup", "dup2", "F_DUPFD", "dup3"};
	int spare, new_fd;

	if (o->how == DUP_DUP) {
		new_fd = dup(fd);
	} else if (o->how == DUP_FCNTL) {
		new_fd = fcntl(fd, F_DUPFD, 100);
	} else {
		spare = open("/dev/null", O_RDWR);
		new_fd = o->how == DUP_DUP2 ? dup2(fd, spare) : dup3(fd, spare, 0);
	}
	say(a, "%s", names[o->how]);
	say_result(a, new_fd < 0 ? -1 : 0);
	actor_fds[o->end][o->arg] = new_fd;
}

bool state_order(const struct order *o, struct answer *a)
{
	int *fd = &actor_fds[o->end][o->copy];

	switch (o->op) {
	case DO_LISTEN:
		order_listen(a);
		return true;
	case DO_CONNECT:
		order_connect(o, a);
		return true;
	case DO_ACCEPT:
		order_accept(o, a);
		return true;
	case DO_OPTION:
		order_option(o, a, *fd);
		return true;
	case DO_NAMES:
		order_names(o, a, *fd);
		return true;
	case DO_INQ:
		order_inq(o, a, *fd);
		return true;
	case DO_OUTQ:
		order_outq(a, *fd);
		return true;
	case DO_NONBLOCK:
		order_nonblock(o, a, *fd);
		return true;
	case DO_TIMEOUT:
		order_timeout(o, a, *fd);
		return true;
	case DO_SHUTDOWN:
		order_shutdown(o, a, *fd);
		return true;
	case DO_CLOSE:
		order_close(o, a, fd);
		return true;
	case DO_DUP:
		order_dup(o, a, *fd);
		return true;
	}
	return false;
}
