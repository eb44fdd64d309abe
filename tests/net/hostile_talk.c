// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * hostile_talk SOCKET IP PORT MODE [SECONDS [SEED]]
 *
 * An application that misuses the control socket and what it passes over it:
 *   talk   messages that are wrong, or right and too many, each from a new application
 *   odd    descriptors of all kinds, to be adopted and given back
 *   stuck  eventfds and sockets prepared so that whoever writes to or closes them sleeps
 */
#define _GNU_SOURCE
#include <linux/filter.h>
#include <linux/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/wait.h>

#include "tests/net/hostile.h"

/* ---- talk ---- */

enum talk {
	HELLO_TWICE,
	HELLO_VERSION,
	ADOPT_TWICE,
	ADOPT_USED,
	ADOPT_OTHER_SLOT,
	SLOT_RANGE,
	SLOT_MAX,
	CONTEXT_RANGE,
	NUMBER_RANGE,
	NOTE_RANGE,
	RETURN_RANGE,
	RETURN_OTHER,
	RETURN_TWICE,
	LISTEN_MANY,
	LISTEN_PIPE,
	UNLISTEN_MANY,
	ADMIN_UNREAD,
	CONTEXT_UNREAD,
	CAPTURE_UNREAD,
	ADMIN_UNKNOWN,
	ADMIN_UNENDED,
	SHORT,
	EMPTY_FDS,
	LONG,
	MAGIC,
	FLAGS,
	TYPE_ZERO,
	TYPE_HIGH,
	TYPE_ANSWER,
	FD_UNWANTED,
	FDS_TOO_MANY,
	FDS_253,
	FD_MISSING,
	TALKS
};
static const char *const talk_names[TALKS] = {
	"hello-twice",    "hello-version", "adopt-twice",   "adopt-used",    "adopt-other-slot", "slot-range",
	"slot-max",       "context-range", "number-range",  "note-range",    "return-range",     "return-other",
	"return-twice",   "listen-many",   "listen-pipe",   "unlisten-many", "admin-unread",     "context-unread",
	"capture-unread", "admin-unknown", "admin-unended", "short",         "empty-fds",        "long",
	"magic",          "flags",         "type-zero",     "type-high",     "type-answer",      "fd-unwanted",
	"fds-too-many",   "fds-253",       "fd-missing",
};

static void talk_many(struct app *a, uint16_t type, int n, int fd, bool read)
{
	for (int i = 0; i < n; i++) {
		struct ipc_msg m =
			message(type, type == IPC_MSG_CONTEXT ? (uint64_t)i % IPC_CONTEXTS : (uint64_t)i, 0, 0, 0);
		int fds[IPC_MSG_FDS], got;

		if (type == IPC_MSG_ADMIN)
			strcpy(m.text, "stats");
		if (!ctl_send(a->ctl, &m, sizeof m, &fd, fd >= 0) || (read && ctl_recv(a->ctl, &m, fds, &got) <= 0))
			return;
	}
}

/* Valid requests at a wrong time. */
static void talk_adopt(enum talk t, struct app *a, const struct conn *c)
{
	int fresh = tcp_connect(0);

	if (t == ADOPT_TWICE) {
		request(a->ctl, IPC_MSG_ADOPT, 100, 0, 0, (uint64_t)fresh, fresh);
		request(a->ctl, IPC_MSG_ADOPT, 100, 0, 0, (uint64_t)fresh, fresh);
	} else if (t == ADOPT_USED) {
		request(a->ctl, IPC_MSG_ADOPT, c[0].slot, 0, 0, (uint64_t)fresh, fresh);
	} else if (t == ADOPT_OTHER_SLOT) { /* the same socket again and again: it moves */
		for (uint32_t i = 0; i < 200; i++)
			request(a->ctl, IPC_MSG_ADOPT, 200 + i, 0, 0, (uint64_t)c[0].fd, c[0].fd);
	} else if (t == RETURN_OTHER) { /* the slot of one connection, the socket of another */
		for (int i = 0; i < 20; i++) {
			request(a->ctl, IPC_MSG_RETURN, c[0].slot, (uint64_t)c[1].fd, 0, 0, c[1].fd);
			request(a->ctl, IPC_MSG_ADOPT, c[0].slot, 0, 0, (uint64_t)fresh, fresh);
			usleep(2000);
		}
	} else if (t == RETURN_TWICE) {
		for (uint32_t i = 0; i < 200; i++)
			request(a->ctl, IPC_MSG_RETURN, 300 + i, (uint64_t)c[0].fd, 0, 0, c[0].fd);
	} else {
		struct ipc_msg m =
			message(IPC_MSG_ADOPT,
				t == SLOT_RANGE ? IPC_SLOTS
				: t == SLOT_MAX ? UINT64_MAX
						: 5,
				0, t == CONTEXT_RANGE ? IPC_CONTEXTS : 0, t == NUMBER_RANGE ? 1ull << 31 : 7);

		ctl_send(a->ctl, &m, sizeof m, &fresh, 1);
	}
	close(fresh);
}

/* Messages that are none. */
static void talk_wrong(enum talk t, struct app *a)
{
	struct ipc_msg m[2] = {message(IPC_MSG_UNLISTEN, 1, 0, 0, 0)};
	size_t len = sizeof m[0];
	int fds[253], nfds = 0;

	for (int i = 0; i < 253; i++)
		fds[i] = a->fds[4];
	if (t == SHORT)
		len = 20;
	else if (t == EMPTY_FDS)
		len = 0, nfds = 8;
	else if (t == LONG)
		len = sizeof m[0] + 1;
	else if (t == MAGIC)
		m[0].magic ^= 1;
	else if (t == FLAGS)
		m[0].flags = 1;
	else if (t == TYPE_ZERO || t == TYPE_HIGH)
		m[0].type = t == TYPE_ZERO ? 0 : 0xffff;
	else if (t == TYPE_ANSWER)
		m[0].type = IPC_MSG_WELCOME, nfds = 5;
	else if (t == FD_UNWANTED)
		nfds = 1;
	else if (t == FDS_TOO_MANY)
		m[0].type = IPC_MSG_ADOPT, nfds = 2;
	else if (t == FDS_253)
		m[0].type = IPC_MSG_ADOPT, nfds = 253;
	else if (t == FD_MISSING)
		m[0].type = IPC_MSG_ADOPT;
	else if (t == HELLO_TWICE || t == HELLO_VERSION)
		m[0] = message(IPC_MSG_HELLO, t == HELLO_TWICE ? IPC_ABI_VERSION : 99, 0, 0, 0);
	else if (t == ADMIN_UNKNOWN || t == ADMIN_UNENDED)
		m[0].type = IPC_MSG_ADMIN;
	if (t == ADMIN_UNKNOWN || t == ADMIN_UNENDED)
		memset(m[0].text, 'x', sizeof m[0].text - (t == ADMIN_UNKNOWN));
	ctl_send(a->ctl, m, len, fds, nfds);
}

static void talk_one(enum talk t, struct app *a, const struct conn *c)
{
	int p[2];

	switch (t) {
	case ADOPT_TWICE:
	case ADOPT_USED:
	case ADOPT_OTHER_SLOT:
	case SLOT_RANGE:
	case SLOT_MAX:
	case CONTEXT_RANGE:
	case NUMBER_RANGE:
	case RETURN_OTHER:
	case RETURN_TWICE:
		talk_adopt(t, a, c);
		return;
	case NOTE_RANGE:
		request(a->ctl, IPC_MSG_CONTEXT, IPC_CONTEXTS, 0, 0, 0, -1);
		return;
	case RETURN_RANGE:
		request(a->ctl, IPC_MSG_RETURN, IPC_SLOTS, 0, 0, 0, c[0].fd);
		return;
	case LISTEN_MANY:
		talk_many(a, IPC_MSG_LISTEN, 3000, c[0].fd, true);
		return;
	case LISTEN_PIPE:
		if (pipe2(p, O_CLOEXEC))
			die("pipe");
		request(a->ctl, IPC_MSG_LISTEN, 1, 0, 0, 0, p[0]);
		close(p[0]);
		close(p[1]);
		return;
	case UNLISTEN_MANY:
		talk_many(a, IPC_MSG_UNLISTEN, 3000, -1, false);
		return;
	case ADMIN_UNREAD:
		talk_many(a, IPC_MSG_ADMIN, 2000, -1, false);
		return;
	case CONTEXT_UNREAD:
		talk_many(a, IPC_MSG_CONTEXT, 5000, -1, false);
		return;
	case CAPTURE_UNREAD:
		talk_many(a, IPC_MSG_CAPTURE, 1, -1, false);
		carry(a, (struct conn *)(uintptr_t)c, 2, 0.3);
		return;
	default:
		talk_wrong(t, a);
	}
}

static void mode_talk(void)
{
	for (int t = 0; t < TALKS; t++) {
		struct app a;
		struct conn c[2];

		app_start(&a, c, 2);
		talk_one(t, &a, c);
		/* a question that is always answered shows whether the service still listens to this one */
		say(talk_names[t],
		    ctl_closed(a.ctl, 30) || !request(a.ctl, IPC_MSG_CONTEXT, 0, 0, 0, 0, -1) ? "closed" : "open");
		close(c[0].fd);
		close(c[1].fd);
		app_close(&a);
	}
}

/* ---- odd ---- */

static int odd_tcp(const char *name)
{
	struct sockaddr_in nobody = server;
	int fd, on = 1;

	if (!strcmp(name, "close-wait")) {
		struct pollfd p = {.fd = tcp_connect(1), .events = POLLIN};

		poll(&p, 1, 1000);
		return p.fd;
	}
	if (!strcmp(name, "filter") || !strcmp(name, "repair") || !strcmp(name, "peek-off")) {
		struct sock_filter insn = BPF_STMT(BPF_RET | BPF_K, UINT32_MAX);
		struct sock_fprog prog = {.len = 1, .filter = &insn};

		fd = tcp_connect(0);
		if (!strcmp(name, "filter") && setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof prog))
			die("filter");
		if (!strcmp(name, "repair") && setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &on, sizeof on))
			die("repair");
		on = 0;
		if (!strcmp(name, "peek-off") && setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &on, sizeof on))
			die("peek-off");
		return fd;
	}
	if (!strcmp(name, "another"))
		return tcp_connect(0);
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (!strcmp(name, "listening") && listen(fd, 1))
		die("listen");
	nobody.sin_addr.s_addr = (nobody.sin_addr.s_addr & htonl(0xffffff00)) | htonl(222);
	if (!strcmp(name, "syn-sent") && connect(fd, (struct sockaddr *)&nobody, sizeof nobody) && errno != EINPROGRESS)
		die("connect");
	return fd; /* else: closed */
}

/* A connection of this host with itself, over IPv6 or IPv4; both ends stay open. */
static int odd_local(int family)
{
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_storage room;
	} sa = {.room.ss_family = (sa_family_t)family};
	socklen_t len = family == AF_INET ? sizeof sa.in : sizeof sa.in6;
	int l = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0), fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (family == AF_INET)
		sa.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	else
		sa.in6.sin6_addr = in6addr_loopback;
	if (bind(l, &sa.any, len) || listen(l, 4) || getsockname(l, &sa.any, &len) || connect(fd, &sa.any, len) ||
	    accept4(l, NULL, NULL, SOCK_CLOEXEC) < 0)
		return socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0); /* no IPv6 here: an unconnected one */
	close(l);
	return fd;
}

static int odd_make(const char *name, const struct app *a)
{
	int p[2] = {-1, -1};

	if (!strcmp(name, "pipe"))
		return pipe2(p, O_CLOEXEC) ? -1 : p[0];
	if (!strcmp(name, "file"))
		return open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	if (!strcmp(name, "directory"))
		return open("/", O_PATH | O_CLOEXEC);
	if (!strcmp(name, "dev-null"))
		return open("/dev/null", O_RDWR | O_CLOEXEC);
	if (!strcmp(name, "udp"))
		return socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (!strcmp(name, "unix"))
		return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, p) ? -1 : p[0];
	if (!strcmp(name, "netlink"))
		return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (!strcmp(name, "packet"))
		return socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (!strcmp(name, "raw-tcp"))
		return socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_TCP);
	if (!strcmp(name, "epoll"))
		return epoll_create1(EPOLL_CLOEXEC);
	if (!strcmp(name, "eventfd"))
		return eventfd(0, EFD_CLOEXEC);
	if (!strcmp(name, "memfd"))
		return memfd_create("odd", MFD_CLOEXEC);
	if (!strcmp(name, "control-socket"))
		return dup(a->ctl);
	if (!strcmp(name, "own-memory"))
		return dup(a->fds[0]);
	if (!strcmp(name, "ipv6"))
		return odd_local(AF_INET6);
	if (!strcmp(name, "loopback"))
		return odd_local(AF_INET);
	return odd_tcp(name);
}

/* A real connection that changes while it is adopted; whatever the service answers is right, if it does. */
static void odd_race(struct app *a, const char *name, uint32_t slot)
{
	int fd = tcp_connect(0);

	for (int i = 0; i < 20; i++) {
		if (!adopt_ask(a, slot, fd))
			die("adopt");
		usleep((useconds_t)(random64(&rnd) % 400));
		if (!strcmp(name, "shut-write"))
			shutdown(fd, SHUT_WR);
		else if (!strcmp(name, "shut-both"))
			shutdown(fd, SHUT_RDWR);
		else if (!strcmp(name, "written") && write(fd, "x", 1) < 0)
			break;
		else if (!strcmp(name, "unnamed"))
			atomic_store(&a->shm->slot[slot].fd_plus1, 0x80000000u); /* no such number */
		if (!strcmp(name, "unnamed"))
			request(a->ctl, IPC_MSG_RETURN, slot, (uint64_t)fd, 0, 0, fd);
		close(fd);
		atomic_store(&a->shm->slot[slot].fd_plus1, 0);
		slot_wait(a, slot, ANY, 2);
		fd = tcp_connect(0);
		slot++;
	}
	close(fd);
	say(name, "done");
}

static void mode_odd(void)
{
	static const char *const names[] = {"pipe",           "file",       "directory", "dev-null", "udp",
					    "unix",           "netlink",    "packet",    "raw-tcp",  "epoll",
					    "eventfd",        "memfd",      "ipv6",      "loopback", "own-memory",
					    "control-socket", "listening",  "closed",    "syn-sent", "repair",
					    "filter",         "close-wait", "peek-off",  "another"};
	static const char *const races[] = {"shut-write", "shut-both", "written", "closed-at-once", "unnamed"};
	struct app a;
	uint32_t slot = 10;

	app_open(&a);
	for (size_t i = 0; i < sizeof names / sizeof *names; i++, slot++) {
		int fd = odd_make(names[i], &a);
		uint32_t state, back;

		if (fd < 0)
			die(names[i]);
		/* "another": its number was closed and given out again before the request was made */
		adopt_ask_for(&a, slot, fd, strcmp(names[i], "another") != 0 ? 0 : 1);
		state = slot_wait(&a, slot, ANY, 2);
		request(a.ctl, IPC_MSG_RETURN, slot + 1000, (uint64_t)fd, 0, 0, fd);
		back = slot_wait(&a, slot + 1000, IPC_RETURNED, 1);
		say(names[i], "%u %u %u", state, atomic_load(&a.shm->slot[slot].reason), back);
		close(fd);
	}
	for (size_t i = 0; i < sizeof races / sizeof *races; i++)
		odd_race(&a, races[i], 2000 + 100 * (uint32_t)i);
	say("odd", ctl_closed(a.ctl, 50) ? "closed" : "open");
}

/* ---- stuck ---- */

/* The context's eventfd made blocking and full: a plain write() to it would never come back. */
static void stuck_eventfd(struct app *a, struct conn *c)
{
	uint64_t most = UINT64_MAX - 1, none;
	double end = now() + seconds;

	if (fcntl(a->context_fd, F_SETFL, fcntl(a->context_fd, F_GETFL) | O_NONBLOCK) < 0)
		die("fcntl");
	if (read(a->context_fd, &none, sizeof none) < 0 && errno != EAGAIN)
		die("read");
	if (fcntl(a->context_fd, F_SETFL, fcntl(a->context_fd, F_GETFL) & ~O_NONBLOCK) < 0)
		die("fcntl");
	if (write(a->context_fd, &most, sizeof most) < 0)
		die("fill");
	while (now() < end) {
		atomic_store(&a->shm->context[0].armed, 1);
		for (int i = 0; i < 2; i++)
			conn_carry(a, &c[i]);
	}
	say("stuck-eventfd", "done");
}

/*
 * SO_LINGER, bytes that the peer does not take, and the service's descriptor is the last one: a
 * plain close() of it waits. The process that made the socket ends, which never waits.
 */
static void linger_one(struct app *a, uint16_t type, uint32_t slot)
{
	struct linger l = {.l_onoff = 1, .l_linger = 600};
	static char bytes[65536];
	int fd = tcp_connect(2);

	fcntl(fd, F_SETFL, O_NONBLOCK);
	for (int i = 0; i < 3; i++, usleep(30000))
		while (write(fd, bytes, sizeof bytes) > 0)
			;
	if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l))
		die("linger");
	if (type == IPC_MSG_TYPES) { /* in a message that is never read */
		int ctl = ctl_open();

		request(ctl, type, 0, 0, 0, 0, -1);
		request(ctl, IPC_MSG_ADOPT, 0, 0, 0, 0, fd);
		_exit(0);
	}
	request(a->ctl, type, slot, type == IPC_MSG_ADOPT ? 0 : (uint64_t)fd, 0, (uint64_t)fd, fd);
	_exit(0);
}

static void stuck_linger(struct app *a)
{
	static const uint16_t types[] = {IPC_MSG_TYPES, IPC_MSG_ADOPT, IPC_MSG_RETURN, IPC_MSG_LISTEN};

	for (uint32_t i = 0; i < 4; i++) {
		pid_t pid = fork();

		if (pid == 0)
			linger_one(a, types[i], 500 + i);
		waitpid(pid, NULL, 0);
	}
	say("stuck-linger", "done");
}

static void mode_stuck(void)
{
	struct app a;
	struct conn c[2];

	app_start(&a, c, 2);
	stuck_eventfd(&a, c);
	stuck_linger(&a);
	usleep((useconds_t)(seconds * 1e6));
	say("stuck", ctl_closed(a.ctl, 50) ? "closed" : "open");
}

int main(int argc, char **argv)
{
	static const struct mode modes[] = {{"talk", mode_talk}, {"odd", mode_odd}, {"stuck", mode_stuck}};

	return hostile_main(argc, argv, modes, sizeof modes / sizeof *modes);
}
