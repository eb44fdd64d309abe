// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Processes that confine themselves: seccomp filters that end them for any system call but those that they make, and
 * children that have changed their root and user, so that they reach nobody.
 */
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/syscall.h>

#include "tests/posix/process.h"

#define NOBODY 65534

enum how { BY_PRCTL, BY_SYSCALL, BY_STRICT, BY_NOTHING };
enum before { NOT_BEFORE, UNREACHABLE };

static char buf[1000];

static void poll_say(const char *who, int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	int n = poll(&p, 1, 3000);

	tell(n, "%s: poll %s", who, event_names((uint32_t)p.revents));
}

/* Only @calls (which end with -1) from here on. */
static void confine(enum how how, const int *calls)
{
	struct sock_filter f[80] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
	struct sock_fprog prog = {.len = 1, .filter = f};
	long ret;

	if (how == BY_NOTHING)
		return;
	for (; *calls >= 0; calls++) {
		f[prog.len++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)*calls, 0, 1);
		f[prog.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	}
	f[prog.len++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
	tell(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)");
	if (how == BY_PRCTL)
		ret = prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog);
	else if (how == BY_SYSCALL)
		ret = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog);
	else
		ret = prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
	tell(ret, "confined");
}

/* As privileged servers do before they confine a child: it can open nothing, and is nobody. */
static void make_unreachable(void)
{
	struct rlimit one = {1, 1};

	if (chroot("/proc/self") || chdir("/") || setresgid(NOBODY, NOBODY, NOBODY) ||
	    setresuid(NOBODY, NOBODY, NOBODY) || setrlimit(RLIMIT_NOFILE, &one))
		fatal("changing root and user: %s", strerror(errno));
}

static void child_exit(enum how how, int status)
{
	if (how == BY_STRICT) /* exit_group() is not allowed */
		syscall(SYS_exit, status);
	_exit(status);
}

/* The child of a monitor: it talks for a while, then its parent goes on. */
static void inherited(void)
{
	static const int calls[] = {SYS_read, SYS_write, SYS_poll, SYS_exit_group, -1};
	enum how how = (enum how)this_case->a;
	struct conn *c = conn_open();
	int64_t first, second; /* said later: two processes would speak at once */
	pid_t pid;

	peer_text(c, "one");
	pid = child_new();
	if (!pid) {
		if (this_case->b == UNREACHABLE)
			make_unreachable();
		confine(how, calls);
		process_read("child", c->fd);
		process_write("child", c->fd, "first");
		if (how != BY_STRICT)
			poll_say("child", c->fd);
		process_read("child", c->fd);
		process_write("child", c->fd, "second");
		child_exit(how, 3);
	}
	first = peer(PEER_RECV, c, 5, 0);
	peer_text(c, "two");
	second = peer(PEER_RECV, c, 6, 0);
	child_end(pid);
	say("peer got %d and %d", (int)first, (int)second);
	peer_text(c, "three");
	process_read("parent", c->fd);
	process_write("parent", c->fd, "third");
	peer_recv_say(c, 5);
	c->fast = false;
	conn_warm(c); /* it is accelerated again */
	peer_text(c, "four");
	process_read("parent", c->fd);
}

/* While the child lives, and waits in the kernel, its parent may use the connection, but not have it adopted. */
static void both(void)
{
	static const int calls[] = {SYS_read, SYS_write, SYS_exit_group, -1};
	struct conn *c = conn_open();
	int go[2];
	pid_t pid;

	if (pipe(go))
		fatal("pipe: %s", strerror(errno));
	pid = child_new();
	if (!pid) {
		confine((enum how)this_case->a, calls);
		if (write(go[1], "ready", 5) == 5)
			process_read("child", c->fd);
		_exit(0);
	}
	process_read("parent", go[0]);
	pause_ms(20); /* it sleeps in its read */
	for (int i = 0; i < 60; i++)
		if (write(c->fd, "0123456789", 10) != 10)
			say("parent: write: %s", err_name(errno));
	peer_recv_say(c, 600);
	peer_text(c, "for the child");
	child_end(pid);
	peer_text(c, "for the parent");
	process_read("parent", c->fd);
}

/* ---- everything that a confined program may do with its own connections ---- */

static const int own_calls[] = {SYS_read,       SYS_write,        SYS_readv,         SYS_writev,
				SYS_recvfrom,   SYS_sendto,       SYS_recvmsg,       SYS_sendmsg,
				SYS_poll,       SYS_ppoll,        SYS_select,        SYS_pselect6,
				SYS_epoll_wait, SYS_epoll_ctl,    SYS_epoll_pwait,   SYS_getsockopt,
				SYS_setsockopt, SYS_shutdown,     SYS_dup,           SYS_close,
				SYS_accept,     SYS_rt_sigreturn, SYS_rt_sigaction,  SYS_exit_group,
				SYS_brk,        SYS_ioctl,        SYS_clock_gettime, -1};

/* What the program has registered; each comes once, with its own data. */
static void epoll_say(int epfd)
{
	struct epoll_event ev[8];
	int n = epoll_wait(epfd, ev, 8, 2000);

	tell(n, "epoll_wait");
	for (int i = 0; i < n; i++)
		say("  %s of %llu", event_names(ev[i].events), (unsigned long long)ev[i].data.u64);
}

static void own_reads(struct conn *c, int epfd)
{
	struct epoll_event again = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 6};
	struct timeval limit = {.tv_sec = 2};
	struct iovec v = {buf, sizeof(buf)};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
	fd_set set;

	poll_say("own", c->fd);
	FD_ZERO(&set);
	FD_SET(c->fd, &set);
	tell(select(c->fd + 1, &set, NULL, NULL, &limit), "select");
	epoll_say(epfd);
	tell(epoll_ctl(epfd, EPOLL_CTL_MOD, c->fd, &again), "epoll_ctl(MOD)");
	epoll_say(epfd);
	tell_data(recv(c->fd, buf, 3, MSG_PEEK), buf, "recv(MSG_PEEK)");
	tell_data(recvmsg(c->fd, &m, 0), buf, "recvmsg");
}

static void own_writes(struct conn *c)
{
	struct iovec v = {(void *)(uintptr_t) "five", 4};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
	int error = 0, copy = dup(c->fd);
	socklen_t len = sizeof(error);

	tell(send(c->fd, "six-", 4, MSG_NOSIGNAL), "send");
	tell(sendmsg(copy, &m, 0), "sendmsg, a duplicate");
	tell(close(copy), "close");
	tell(getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len), "SO_ERROR %d", error);
	tell(shutdown(c->fd, SHUT_WR), "shutdown");
}

static void own_accept(int l)
{
	int fd = accept(l, NULL, NULL);

	tell(fd >= 0 ? 0 : -1, "accept");
	tell(write(fd, "hello", 5), "write");
	tell(close(fd), "close");
}

/* Its own connection, in an epoll instance: with EPOLLONESHOT, armed (b: 0) or fired before it confines itself (1). */
static void own_child(void)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 5};
	int epfd = epoll_create1(0), l = listener_open(4, 0), id = next_id();
	struct conn *c = conn_open();

	tell(epoll_ctl(epfd, EPOLL_CTL_ADD, c->fd, &ev), "epoll_ctl(ADD)");
	if (this_case->b) {
		peer_text(c, "once");
		epoll_say(epfd);
		process_read("own", c->fd);
	}
	peer_id(PEER_CONNECT, id, listener_port(l), 0);
	peer_text(c, "text");
	say("accelerated until now: %s", conn_is_fast(c) || !c->fast ? "yes" : "no");
	confine((enum how)this_case->a, own_calls);
	if (this_case->b) {
		tell(epoll_wait(epfd, &ev, 1, 20), "epoll_wait before MOD");
		ev = (struct epoll_event){.events = EPOLLIN | EPOLLONESHOT, .data.u64 = 7};
		tell(epoll_ctl(epfd, EPOLL_CTL_MOD, c->fd, &ev), "epoll_ctl(MOD)");
	}
	own_reads(c, epfd);
	own_accept(l);
	own_writes(c);
	peer_drain_say(c);
	_exit(4);
}

static void own(void)
{
	struct conn *c = conn_open(); /* for the proof that connections are accelerated here; the child closes it */
	pid_t pid = child_new();

	if (!pid) {
		close(c->fd);
		own_child();
	}
	child_end(pid);
	peer_text(c, "end");
	process_read("parent", c->fd);
}

/* A question whether the kernel knows filters is none. */
static void asks(void)
{
	struct conn *c = conn_open();

	tell(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, NULL), "prctl(PR_SET_SECCOMP) without a filter");
	tell(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, NULL), "seccomp() without a filter");
	peer_text(c, "text");
	process_read("own", c->fd);
}

#define HELD_WHY "a confined process holds it"

const struct test_case cases_sandbox[] = {
	{.name = "sandbox/child",
	 .text = "a child with a filter of system calls serves, its parent goes on",
	 .run = inherited},
	{.name = "sandbox/child-syscall", .text = "the same by syscall()", .run = inherited, .a = BY_SYSCALL},
	{.name = "sandbox/child-strict", .text = "the same in strict mode", .run = inherited, .a = BY_STRICT},
	{.name = "sandbox/child-unreachable",
	 .text = "the same, with another root and user, and no descriptor to open",
	 .run = inherited,
	 .b = UNREACHABLE},
	{.name = "fork/child-unreachable",
	 .text = "a child with another root and user, and no descriptor to open, serves",
	 .run = inherited,
	 .a = BY_NOTHING,
	 .b = UNREACHABLE},
	CASE_RETURNS("sandbox/both", "parent and confined child use it at once", both, HELD_WHY),
	CASE("sandbox/own", "a process confines itself, and goes on with all it has", own),
	{.name = "sandbox/own-fired", .text = "the same, an EPOLLONESHOT member has fired", .run = own, .b = 1},
	{.name = "sandbox/own-syscall", .text = "the same by syscall()", .run = own, .a = BY_SYSCALL, .b = 1},
	CASE("sandbox/asks", "asking for filters confines nobody", asks),
	{.name = NULL},
};
