// SPDX-License-Identifier: GPL-2.0-or-later
/* Listeners, accept, connect, names: on sockets of every state. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>

#include "tests/posix/posix.h"

static char buf[200];

#define TO(a) (struct sockaddr *)&(a), sizeof(struct sockaddr_in)

static void so_error_say(int fd)
{
	int err = -1;
	socklen_t len = sizeof(err);

	getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
	say("SO_ERROR %s", err_name(err));
}

static void poll_say(int fd, int ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT | POLLRDHUP};

	tell(poll(&p, 1, ms), "poll");
	say("%s", event_names((uint32_t)p.revents));
}

static void works(const struct conn *c)
{
	tell(send(c->fd, "out", 3, 0), "send");
	peer_recv_say(c, 3);
	peer_text(c, "in");
	await_in(c->fd, 2);
	tell_data(recv(c->fd, buf, 10, 0), buf, "recv");
}

static int refused_port(void)
{
	/* a listener that is gone */
	int port = peer_listener();

	peer_listener();
	return port;
}

/* ---- connect ---- */

static void refused(void)
{
	struct sockaddr_storage to;
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	peer_address(&to, refused_port());
	tell(connect(fd, TO(to)), "connect");
	so_error_say(fd);
	poll_say(fd, 0);
	signal(SIGPIPE, SIG_IGN);
	tell(send(fd, "x", 1, 0), "send");
	tell(recv(fd, buf, 1, 0), "recv");
}

static void refused_nonblock(void)
{
	struct sockaddr_storage to;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	peer_address(&to, refused_port());
	tell(connect(fd, TO(to)), "connect");
	await_poll(fd, POLLOUT);
	poll_say(fd, 0);
	so_error_say(fd);
	so_error_say(fd);
	tell(connect(fd, TO(to)), "connect again");
}

static void nonblock(void)
{
	struct sockaddr_storage to;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), id = next_id();
	struct conn *c;

	peer_address(&to, peer_listener());
	tell(connect(fd, TO(to)), "connect");
	poll_say(fd, 2000);
	so_error_say(fd);
	tell(connect(fd, TO(to)), "connect again");
	tell(connect(fd, TO(to)), "and again");
	peer_id(PEER_ACCEPT, id, 0, 0);
	fcntl(fd, F_SETFL, 0);
	c = conn_adopt(fd, id);
	works(c);
	tell(connect(fd, TO(to)), "connect when accelerated");
	works(c);
}

static void already(void)
{
	struct sockaddr_storage to;
	struct sockaddr_in *in = (struct sockaddr_in *)&to;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	/* a neighbour that does not exist */
	peer_address(&to, 9);
	in->sin_addr.s_addr = (in->sin_addr.s_addr & htonl(0xffffff00)) | htonl(99);
	tell(connect(fd, TO(to)), "connect");
	tell(connect(fd, TO(to)), "connect again");
	poll_say(fd, 0);
	tell(send(fd, "x", 1, MSG_NOSIGNAL), "send");
	tell(recv(fd, buf, 1, 0), "recv");
	tell(getpeername(fd, (struct sockaddr *)&to, &(socklen_t){sizeof(to)}), "getpeername");
	tell(shutdown(fd, SHUT_RDWR), "shutdown");
	tell(close(fd), "close");
}

static void connect_wrong(void)
{
	struct conn *c = conn_open();
	struct sockaddr_storage to;
	int fd = socket(AF_INET, SOCK_STREAM, 0), l = listener_open(1, 0);

	peer_address(&to, 9);
	tell(connect(c->fd, TO(to)), "connect when connected");
	tell(connect(190, TO(to)), "not open");
	tell(connect(fd, (struct sockaddr *)&to, 4), "too short");
	tell(connect(fd, (struct sockaddr *)16, sizeof(struct sockaddr_in)), "bad address");
	to.ss_family = AF_INET6;
	tell(connect(fd, TO(to)), "wrong family");
	to.ss_family = AF_INET;
	tell(connect(l, TO(to)), "a listener");
	tell(bind(c->fd, TO(to)), "bind when connected");
	tell(listen(c->fd, 5), "listen when connected");
	tell(accept(c->fd, NULL, NULL), "accept when connected");
	works(c);
}

static void unconnected(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_storage a;
	socklen_t len = sizeof(a);

	signal_count(SIGPIPE, 0);
	tell(send(fd, "x", 1, 0), "send");
	say("SIGPIPE %d", signals_seen);
	tell(recv(fd, buf, 1, 0), "recv");
	tell(read(fd, buf, 1), "read");
	tell(shutdown(fd, SHUT_WR), "shutdown");
	tell(getpeername(fd, (struct sockaddr *)&a, &len), "getpeername");
	tell(accept(fd, NULL, NULL), "accept");
	poll_say(fd, 0);
	tell(listen(fd, 1), "listen without bind");
	tell(send(fd, "x", 1, MSG_NOSIGNAL), "send on a listener");
	tell(recv(fd, buf, 1, 0), "recv on a listener");
	tell(listen(fd, 5), "listen again");
}

static void bound_client(void)
{
	struct sockaddr_storage to;
	struct sockaddr_in own = {.sin_family = AF_INET};
	int fd = socket(AF_INET, SOCK_STREAM, 0), id = next_id();

	inet_pton(AF_INET, getenv("POSIX_ADDR"), &own.sin_addr);
	tell(bind(fd, TO(own)), "bind");
	peer_address(&to, peer_listener());
	tell(connect(fd, TO(to)), "connect");
	peer_id(PEER_ACCEPT, id, 0, 0);
	works(conn_adopt(fd, id));
}

static void v4_mapped(void)
{
	struct sockaddr_in6 to = {.sin6_family = AF_INET6}, name;
	socklen_t len = sizeof(name);
	int fd = socket(AF_INET6, SOCK_STREAM, 0), id = next_id();
	char text[60];

	snprintf(text, sizeof(text), "::ffff:%s", getenv("POSIX_PEER_ADDR"));
	inet_pton(AF_INET6, text, &to.sin6_addr);
	to.sin6_port = htons((uint16_t)peer_listener());
	tell(connect(fd, (struct sockaddr *)&to, sizeof(to)), "connect");
	peer_id(PEER_ACCEPT, id, 0, 0);
	works(conn_adopt(fd, id));
	tell(getpeername(fd, (struct sockaddr *)&name, &len), "getpeername");
	say("family %d, mapped: %s", name.sin6_family, IN6_IS_ADDR_V4MAPPED(&name.sin6_addr) ? "yes" : "no");
}

static void v6_listener(void)
{
	struct sockaddr_in6 any = {.sin6_family = AF_INET6}, name;
	int l = socket(AF_INET6, SOCK_STREAM, 0), id = next_id(), fd;
	socklen_t len = sizeof(name);

	tell(bind(l, (struct sockaddr *)&any, sizeof(any)), "bind");
	tell(listen(l, 5), "listen");
	getsockname(l, (struct sockaddr *)&name, &len);
	peer_id(PEER_CONNECT, id, ntohs(name.sin6_port), 0);
	len = sizeof(name);
	fd = accept(l, (struct sockaddr *)&name, &len);
	say("accepted: %s, length %d, mapped: %s", fd >= 0 ? "yes" : "no", (int)len,
	    IN6_IS_ADDR_V4MAPPED(&name.sin6_addr) ? "yes" : "no");
	works(conn_adopt(fd, id));
}

static void interrupted(void)
{
	int l = listener_open(5, 0), fd, id = next_id();

	alarm_start(this_case->a ? SA_RESTART : 0);
	if (this_case->a)
		peer_later(100, PEER_CONNECT, &(struct conn){.id = id}, listener_port(l), 0);
	fd = accept(l, NULL, NULL);
	alarm_stop();
	if (fd < 0)
		tell(fd, "accept");
	else
		say("accept = descriptor");
	if (this_case->a)
		peer_wait();
}

static void accept_timeout(void)
{
	int l = listener_open(5, 0);
	struct timeval t = {.tv_usec = 40000};

	tell(setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t)), "SO_RCVTIMEO");
	tell(accept(l, NULL, NULL), "accept");
}

/* ---- accept ---- */

static void accept_flags(void)
{
	int l = listener_open(5, SOCK_NONBLOCK), fd, id = next_id();

	tell(accept(l, NULL, NULL), "accept with none there");
	tell(accept4(l, NULL, NULL, 1), "accept4(bad flags)");
	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	await_poll(l, POLLIN);
	fd = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	tell(fcntl(fd, F_GETFD), "F_GETFD");
	tell((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0, "O_NONBLOCK");
	tell(recv(fd, buf, 1, 0), "recv");
	fcntl(fd, F_SETFL, 0);
	works(conn_adopt(fd, id));
}

static void accept_plain_flags(void)
{
	int l = listener_open(5, SOCK_NONBLOCK | SOCK_CLOEXEC), fd, id = next_id();

	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	await_poll(l, POLLIN);
	fd = accept(l, NULL, NULL);
	tell(fcntl(fd, F_GETFD), "F_GETFD");
	tell((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0, "O_NONBLOCK");
	works(conn_adopt(fd, id));
}

static void accept_address(void)
{
	int l = listener_open(5, 0), fd, id = next_id();
	struct sockaddr_in a = {0};
	socklen_t len = 4;
	char text[60] = "";

	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	fd = accept(l, (struct sockaddr *)&a, &len);
	say("length %d, family %d, rest untouched: %s", (int)len, a.sin_family, a.sin_addr.s_addr ? "no" : "yes");
	len = sizeof(a);
	tell(getpeername(fd, (struct sockaddr *)&a, &len), "getpeername");
	inet_ntop(AF_INET, &a.sin_addr, text, sizeof(text));
	say("the peer's address: %s", !strcmp(text, getenv("POSIX_PEER_ADDR")) ? "yes" : "no");
	works(conn_adopt(fd, id));
}

static void accept_bad_address(void)
{
	int l = listener_open(5, 0), id = next_id();
	struct sockaddr_in a;
	socklen_t len = (socklen_t)-1;

	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	tell(accept(l, (struct sockaddr *)&a, &len), "accept with length -1");
	tell(accept(190, NULL, NULL), "not open");
	tell(accept(0, NULL, NULL), "not a socket");
}

static void accept_syscall(void)
{
	int l = listener_open(5, 0), id = next_id(), fd;

	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	fd = (int)syscall(SYS_accept4, l, NULL, NULL, 0);
	peer_id(PEER_TEXT, id, 0, 0);
	peer_later(0, PEER_ECHO, &(struct conn){.id = id}, 0, 0);
	tell(send(fd, "E23456789abcdef0", 16, 0), "send");
	tell_data(recv(fd, buf, 16, MSG_WAITALL), buf, "recv");
	peer_wait();
	close(fd);
}

static void accept_inherits(void)
{
	int l = listener_open(5, 0), id = next_id(), fd, one = 1, v = 0;
	socklen_t len = sizeof(v);

	tell(setsockopt(l, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)), "TCP_NODELAY");
	tell(setsockopt(l, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one)), "SO_KEEPALIVE");
	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	fd = accept(l, NULL, NULL);
	getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &v, &len);
	say("TCP_NODELAY %d", v);
	getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &v, &len);
	say("SO_KEEPALIVE %d", v);
	works(conn_adopt(fd, id));
}

static void accept_reset(void)
{
	int l = listener_open(5, 0), id = next_id(), fd;

	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	peer_id(PEER_RESET, id, 0, 0);
	pause_ms(20);
	fd = accept(l, NULL, NULL);
	say("accepted all the same: %s", fd >= 0 ? "yes" : "no");
	tell(recv(fd, buf, 1, 0), "recv");
}

static void listener_closed(void)
{
	int l = listener_open(5, 0), id = next_id();

	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	tell(close(l), "close with a connection waiting");
	peer_drain_say(&(struct conn){.id = id});
}

static void listener_shutdown(void)
{
	int l = listener_open(5, 0);

	tell(shutdown(l, SHUT_RD), "shutdown");
	tell(accept(l, NULL, NULL), "accept");
	poll_say(l, 0);
}

static void listener_shared_port(void)
{
	struct sockaddr_in a;
	socklen_t len = sizeof(a);
	int l = listener_open(5, 0), other = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	getsockname(l, (struct sockaddr *)&a, &len);
	tell(bind(other, TO(a)), "bind to the same port");
	tell(setsockopt(other, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)), "SO_REUSEPORT");
	tell(bind(other, TO(a)), "bind with SO_REUSEPORT on one side");
	tell(listen(l, -1), "listen(-1)");
	tell(listen(l, 1 << 30), "listen(huge)");
	tell(listen(190, 1), "listen(not open)");
	tell(listen(0, 1), "listen(not a socket)");
}

static void data_before_accept(void)
{
	int l = listener_open(5, 0), id = next_id(), fd;

	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	peer_id(PEER_SEND, id, 10, 1);
	fd = accept(l, NULL, NULL);
	await_in(fd, 10);
	say("right: %s", recv(fd, buf, 100, 0) == 10 && pattern_hash(HASH_START, buf, 10) == pattern_stream_hash(1, 10)
				 ? "yes"
				 : "no");
	works(conn_adopt(fd, id));
}

static void deferred(void)
{
	int l = listener_open(5, SOCK_NONBLOCK), id = next_id(), fd, wait = 2;

	tell(setsockopt(l, IPPROTO_TCP, TCP_DEFER_ACCEPT, &wait, sizeof(wait)), "TCP_DEFER_ACCEPT");
	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	tell(accept(l, NULL, NULL), "accept before data");
	peer_id(PEER_SEND, id, 10, 1);
	await_poll(l, POLLIN);
	fd = accept(l, NULL, NULL);
	await_in(fd, 10);
	tell(recv(fd, NULL, 100, MSG_TRUNC), "recv");
	works(conn_adopt(fd, id));
}

/* ---- names ---- */

static void names(void)
{
	struct conn *c = conn_open();
	struct sockaddr_in own, other;
	socklen_t len = sizeof(own);
	char text[60] = "";

	tell(getsockname(c->fd, (struct sockaddr *)&own, &len), "getsockname");
	inet_ntop(AF_INET, &own.sin_addr, text, sizeof(text));
	say("length %d, own address: %s", (int)len, !strcmp(text, getenv("POSIX_ADDR")) ? "yes" : "no");
	tell(getpeername(c->fd, (struct sockaddr *)&other, &len), "getpeername");
	inet_ntop(AF_INET, &other.sin_addr, text, sizeof(text));
	say("length %d, peer's address: %s", (int)len, !strcmp(text, getenv("POSIX_PEER_ADDR")) ? "yes" : "no");
	len = 2;
	tell(getpeername(c->fd, (struct sockaddr *)&other, &len), "getpeername into 2 bytes");
	say("length %d", (int)len);
	len = (socklen_t)-1;
	tell(getpeername(c->fd, (struct sockaddr *)&other, &len), "getpeername with length -1");
	len = sizeof(other);
	tell(getpeername(c->fd, (struct sockaddr *)16, &len), "getpeername into a bad address");
	tell(getpeername(c->fd, (struct sockaddr *)&other, NULL), "getpeername without length");
	tell(getsockname(190, (struct sockaddr *)&other, &len), "not open");
	tell(getsockname(0, (struct sockaddr *)&other, &len), "not a socket");
}

static void names_closed(void)
{
	struct conn *c = conn_open();
	struct sockaddr_in a;
	socklen_t len = sizeof(a);

	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	await_poll(c->fd, POLLRDHUP);
	tell(getpeername(c->fd, (struct sockaddr *)&a, &len), "getpeername after the peer's FIN");
	shutdown(c->fd, SHUT_WR);
	peer_drain_say(c);
	pause_ms(30);
	tell(getpeername(c->fd, (struct sockaddr *)&a, &len), "getpeername after both FINs");
	tell(getsockname(c->fd, (struct sockaddr *)&a, &len), "getsockname");
}

static void others(void)
{
	struct conn *c = conn_open();
	int pair[2], udp = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in a = {.sin_family = AF_INET};

	tell(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "socketpair");
	tell(send(pair[0], "unix", 4, 0), "send");
	tell_data(recv(pair[1], buf, 10, 0), buf, "recv");
	inet_pton(AF_INET, "127.0.0.1", &a.sin_addr);
	tell(bind(udp, TO(a)), "bind udp");
	getsockname(udp, (struct sockaddr *)&a, &(socklen_t){sizeof(a)});
	tell(sendto(udp, "dgram", 5, 0, TO(a)), "sendto");
	tell_data(recv(udp, buf, 3, MSG_TRUNC), buf, "recv(TRUNC)");
	tell(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP), "socket of a wrong protocol");
	tell(socket(AF_INET, 77, 0), "socket of a wrong type");
	tell(socket(9999, SOCK_STREAM, 0), "socket of a wrong family");
	works(c);
}

/* Both ends on this host: not the service's. */
static void local(void)
{
	struct sockaddr_in a;
	socklen_t len = sizeof(a);
	int l = listener_open(5, 0), c = socket(AF_INET, SOCK_STREAM, 0), s;

	getsockname(l, (struct sockaddr *)&a, &len);
	tell(connect(c, TO(a)), "connect");
	s = accept(l, NULL, NULL);
	for (int i = 0; i < 30; i++) {
		if (send(c, "ping", 4, 0) != 4 || recv(s, buf, 4, MSG_WAITALL) != 4 || send(s, "pong", 4, 0) != 4 ||
		    recv(c, buf, 4, MSG_WAITALL) != 4)
			tell(-1, "exchange %d", i);
	}
	tell(close(c), "close");
	tell(recv(s, buf, 4, 0), "recv");
}

static void unix_stream(void)
{
	int pair[2];

	tell(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), "socketpair");
	for (int i = 0; i < 30; i++)
		if (send(pair[0], "ping", 4, 0) != 4 || recv(pair[1], buf, 4, 0) != 4 ||
		    send(pair[1], "pong", 4, 0) != 4 || recv(pair[0], buf, 4, 0) != 4)
			tell(-1, "exchange %d", i);
	close(pair[0]);
	tell(recv(pair[1], buf, 4, 0), "recv");
}

#define NONE "no connection is made"

const struct test_case cases_connect[] = {
	CASE_STAYS("connect/refused", "ECONNREFUSED, and what follows", refused, NONE),
	CASE_STAYS("connect/refused-nonblock", "EINPROGRESS, then ECONNREFUSED", refused_nonblock, NONE),
	CASE("connect/nonblock", "EINPROGRESS, SO_ERROR 0, EISCONN", nonblock),
	CASE_STAYS("connect/already", "EALREADY", already, NONE),
	CASE("connect/wrong", "wrong arguments, wrong states", connect_wrong),
	CASE_STAYS("connect/unconnected", "calls on a socket without a connection", unconnected, NONE),
	CASE("connect/bound", "a client bound to an address", bound_client),
	CASE("connect/v4-mapped", "an IPv6 socket to an IPv4 address", v4_mapped),
	CASE("accept/v6-listener", "an IPv6 listener gets an IPv4 client", v6_listener),
	CASE_STAYS("accept/eintr", "accept interrupted", interrupted, NONE),
	{.name = "accept/restart",
	 .text = "accept goes on after a signal with SA_RESTART",
	 .run = interrupted,
	 .stays = "nothing is exchanged",
	 .a = 1},
	CASE_STAYS("accept/timeout", "SO_RCVTIMEO of a listener", accept_timeout, NONE),
	CASE("accept/flags", "accept4 with SOCK_NONBLOCK and SOCK_CLOEXEC", accept_flags),
	CASE("accept/plain-flags", "accept inherits no flags", accept_plain_flags),
	CASE("accept/address", "the peer's address, cut", accept_address),
	CASE_STAYS("accept/bad-address", "wrong arguments", accept_bad_address, NONE),
	CASE_STAYS("accept/syscall", "syscall(SYS_accept4)", accept_syscall, "the library did not see the accept"),
	CASE("accept/inherits", "options of the listener", accept_inherits),
	CASE_STAYS("accept/reset", "a connection that is reset before accept", accept_reset,
		   "reset before the first byte"),
	CASE_STAYS("accept/listener-closed", "close of a listener resets what waits", listener_closed, NONE),
	CASE_STAYS("accept/listener-shutdown", "shutdown of a listener", listener_shutdown, NONE),
	CASE_STAYS("accept/shared-port", "EADDRINUSE, listen again", listener_shared_port, NONE),
	CASE("accept/data-before", "data that came before accept", data_before_accept),
	CASE("accept/deferred", "TCP_DEFER_ACCEPT", deferred),
	CASE("names/both", "getsockname and getpeername, and their errors", names),
	CASE("names/closed", "names after FINs", names_closed),
	CASE("names/others", "unix and UDP sockets beside a connection", others),
	CASE_STAYS("names/local", "both ends on this host", local, "both ends are on this host"),
	CASE_STAYS("names/unix", "a pair of unix sockets", unix_stream, "not TCP"),
	{.name = NULL},
};
