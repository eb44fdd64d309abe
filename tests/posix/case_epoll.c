// SPDX-License-Identifier: GPL-2.0-or-later
/* epoll on an accelerated connection: triggers, flags, MOD and DEL, errors. */
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "tests/posix/set.h"

/* ---- triggers ---- */

static void lt(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	set_wait(ep, 0);
	peer_text(c, "level");
	set_wait(ep, 2000);
	set_wait(ep, 0);
	await_in(c->fd, 5);
	set_read(c->fd, 2);
	set_wait(ep, 0);
	set_read(c->fd, 10);
	set_wait(ep, 0);
}

static void et(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLET, 1);
	set_wait(ep, 0);
	peer_text(c, "edge");
	set_wait(ep, 2000);
	set_wait(ep, 0);
	await_in(c->fd, 4);
	set_read(c->fd, 2);
	set_wait(ep, 0);
	peer_text(c, "more");
	set_wait(ep, 2000);
	await_in(c->fd, 6);
	set_read(c->fd, 100);
	set_read(c->fd, 100);
	set_wait(ep, 0);
}

/* All that was sent is acknowledged: what follows is not a race with the last acknowledgement. */
static void await_acked(int fd)
{
	int unacked = 1;

	for (int i = 0; i < 2000 && !ioctl(fd, TIOCOUTQ, &unacked) && unacked; i++)
		pause_ms(1);
}

static void et_out(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();
	int64_t total;

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLOUT | EPOLLET, 1);
	set_wait(ep, 0);
	set_wait(ep, 0);
	total = fill_up(c->fd);
	set_wait(ep, 0);
	peer(PEER_RECV, c, total, 0);
	await_acked(c->fd);
	set_wait(ep, 2000);
	set_wait(ep, 0);
}

static void et_add_ready(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	peer_text(c, "before");
	await_in(c->fd, 6);
	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLET, 1);
	set_wait(ep, 0);
	set_wait(ep, 0);
	set_ctl(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN | EPOLLET, 2);
	set_wait(ep, 0);
	set_wait(ep, 0);
}

static void lt_out(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();
	int64_t total;

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLOUT, 1);
	set_wait(ep, 0);
	set_wait(ep, 0);
	total = fill_up(c->fd);
	set_wait(ep, 0);
	peer_later(40, PEER_RECV, c, total, 0);
	set_wait(ep, 2000);
	peer_wait();
}

static void oneshot(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLONESHOT, 1);
	peer_text(c, "one");
	set_wait(ep, 2000);
	set_feed(c, "two");
	set_wait(ep, 0);
	set_ctl(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN | EPOLLONESHOT, 2);
	set_wait(ep, 0);
	set_wait(ep, 0);
	await_in(c->fd, 6);
	set_read(c->fd, 100);
	set_ctl(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN | EPOLLONESHOT, 3);
	set_wait(ep, 0);
	peer_text(c, "three");
	set_wait(ep, 2000);
	set_ctl(ep, EPOLL_CTL_DEL, c->fd, 0, 0);
	set_wait(ep, 0);
}

static void oneshot_et(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLOUT | EPOLLET | EPOLLONESHOT, 1);
	set_wait(ep, 0);
	set_feed(c, "x");
	set_wait(ep, 0);
	set_ctl(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN | EPOLLOUT | EPOLLET | EPOLLONESHOT, 1);
	await_in(c->fd, 1);
	set_wait(ep, 0);
	set_wait(ep, 0);
}

static void exclusive(void)
{
	struct conn *c = conn_nonblock();
	int a = set_new(), b = set_new();

	set_ctl(a, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLEXCLUSIVE, 1);
	set_ctl(b, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLEXCLUSIVE, 2);
	set_ctl(a, EPOLL_CTL_MOD, c->fd, EPOLLIN, 1);
	peer_text(c, "x");
	await_in(c->fd, 1);
	set_wait(a, 1000);
	set_wait(b, 0);
	set_ctl(a, EPOLL_CTL_DEL, c->fd, 0, 0);
	set_ctl(a, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLRDHUP | EPOLLEXCLUSIVE, 1);
	set_ctl(a, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLONESHOT | EPOLLEXCLUSIVE, 1);
}

static void rdhup(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLRDHUP, 1);
	set_feed(c, "data");
	set_wait(ep, 0);
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	set_wait(ep, 2000);
	set_ctl(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN, 1);
	set_wait(ep, 0);
	set_read(c->fd, 100);
	set_wait(ep, 0);
	set_ctl(ep, EPOLL_CTL_MOD, c->fd, EPOLLOUT, 1);
	set_wait(ep, 0);
}

static void hup(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, 0, 1);
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	await_poll(c->fd, POLLRDHUP);
	set_wait(ep, 0);
	shutdown(c->fd, SHUT_WR);
	set_wait(ep, 2000);
}

static void err(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new(), e = 0;
	socklen_t len = sizeof(e);

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP, 1);
	peer(PEER_RESET, c, 0, 0);
	await_reset(c->fd);
	set_wait(ep, 0);
	getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &e, &len);
	say("SO_ERROR %s", err_name(e));
	set_wait(ep, 0);
}

static void err_et(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLET, 1);
	peer(PEER_RESET, c, 0, 0);
	set_wait(ep, 2000);
	set_wait(ep, 0);
	set_read(c->fd, 10);
	set_wait(ep, 0);
}

static void fin_et(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, 1);
	set_wait(ep, 0);
	peer(PEER_SHUTDOWN, c, SHUT_WR, 0);
	set_wait(ep, 2000);
	set_wait(ep, 0);
	shutdown(c->fd, SHUT_WR);
	set_wait(ep, 2000);
	set_wait(ep, 0);
}

static void pri(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLPRI, 1);
	set_feed(c, "no");
	set_wait(ep, 0);
	peer_text_flags(c, "U", MSG_OOB);
	set_wait(ep, 2000);
}

static void norm(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLRDNORM | EPOLLWRNORM | EPOLLRDBAND | EPOLLWRBAND, 1);
	set_wait(ep, 0);
	peer_text(c, "x");
	await_in(c->fd, 1);
	set_wait(ep, 0);
}

/* ---- MOD, DEL ---- */

static void mod_rearm(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	peer_text(c, "data");
	await_in(c->fd, 4);
	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLOUT | EPOLLET, 1);
	set_wait(ep, 0);
	set_wait(ep, 0);
	set_ctl(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN | EPOLLET, 7);
	set_wait(ep, 0);
	set_wait(ep, 0);
	set_ctl(ep, EPOLL_CTL_MOD, c->fd, 0, 8);
	set_wait(ep, 0);
	set_ctl(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN, 9);
	set_wait(ep, 0);
}

static void del(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new();

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	peer_text(c, "x");
	await_in(c->fd, 1);
	set_ctl(ep, EPOLL_CTL_DEL, c->fd, 0, 0);
	set_wait(ep, 0);
	tell(epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, NULL), "DEL again");
	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 2);
	set_wait(ep, 0);
	tell(epoll_ctl(ep, EPOLL_CTL_DEL, c->fd, NULL), "DEL with NULL");
	set_wait(ep, 0);
}

static void ctl_errors(void)
{
	struct conn *c = conn_nonblock();
	int ep = set_new(), file = open("/proc/self/exe", O_RDONLY);

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	set_ctl(ep, EPOLL_CTL_DEL, c->fd, 0, 0);
	set_ctl(ep, EPOLL_CTL_MOD, c->fd, EPOLLIN, 1);
	set_ctl(ep, EPOLL_CTL_DEL, c->fd, 0, 0);
	set_ctl(ep, EPOLL_CTL_ADD, 190, EPOLLIN, 1);
	set_ctl(190, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	set_ctl(c->fd, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	set_ctl(file, EPOLL_CTL_ADD, c->fd, EPOLLIN, 1);
	set_ctl(ep, EPOLL_CTL_ADD, file, EPOLLIN, 1);
	set_ctl(ep, EPOLL_CTL_ADD, ep, EPOLLIN, 1);
	tell(epoll_ctl(ep, 9, c->fd, &(struct epoll_event){0}), "epoll_ctl(9)");
	tell(epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, NULL), "ADD with NULL");
	tell(epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, (struct epoll_event *)16), "ADD with a bad address");
	set_wait(ep, 0);
}

static void wait_errors(void)
{
	struct conn *c = conn_nonblock();
	struct epoll_event e[2];
	int ep = set_new();

	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLOUT, 1);
	tell(epoll_wait(ep, e, 0, 0), "epoll_wait(maxevents 0)");
	tell(epoll_wait(ep, e, -1, 0), "epoll_wait(maxevents -1)");
	tell(epoll_wait(ep, NULL, 1, 0), "epoll_wait(NULL)");
	tell(epoll_wait(ep, (struct epoll_event *)16, 1, 0), "epoll_wait(bad address)");
	tell(epoll_wait(190, e, 1, 0), "epoll_wait(no descriptor)");
	tell(epoll_wait(c->fd, e, 1, 0), "epoll_wait(not an epoll)");
	tell(epoll_create(0), "epoll_create(0)");
	tell(epoll_create1(1), "epoll_create1(1)");
	set_wait(ep, 0);
}

static void pwait_errors(void)
{
	struct conn *c = conn_nonblock();
	struct epoll_event e[2];
	struct timespec bad = {.tv_nsec = -1}, none = {0};
	sigset_t set;
	int ep = set_new();

	sigemptyset(&set);
	set_ctl(ep, EPOLL_CTL_ADD, c->fd, EPOLLOUT, 1);
	tell(epoll_pwait2(ep, e, 2, &bad, NULL), "epoll_pwait2(bad time)");
	tell(epoll_pwait2(ep, e, 2, &none, &set), "epoll_pwait2");
	tell(epoll_pwait(ep, e, 2, 0, &set), "epoll_pwait");
	tell(epoll_pwait(ep, e, 2, 0, (sigset_t *)16), "epoll_pwait(bad mask)");
	tell(epoll_pwait(ep, e, 0, 0, (sigset_t *)16), "epoll_pwait(no room, bad mask)");
	tell(epoll_pwait(ep, e, 0, 0, &set), "epoll_pwait(no room)");
	tell(epoll_pwait2(ep, e, 2, &none, (sigset_t *)16), "epoll_pwait2(bad mask)");
	tell(epoll_pwait2(ep, e, 2, &bad, (sigset_t *)16), "epoll_pwait2(bad time, bad mask)");
	tell(syscall(SYS_epoll_pwait, ep, e, 2, 0, &set, 7), "syscall(SYS_epoll_pwait, size of mask 7)");
	tell(syscall(SYS_epoll_pwait, ep, e, 2, 0, NULL, 7), "syscall(SYS_epoll_pwait, no mask, 7)");
}

const struct test_case cases_epoll[] = {
	CASE("epoll/lt", "level-triggered: as long as there are bytes", lt),
	CASE("epoll/et", "edge-triggered: once for each arrival", et),
	CASE("epoll/et-out", "edge-triggered room to write", et_out),
	CASE("epoll/et-add-ready", "ADD and MOD of what is ready make an edge", et_add_ready),
	CASE("epoll/lt-out", "level-triggered room to write, full, drained", lt_out),
	CASE("epoll/oneshot", "EPOLLONESHOT and its re-arming", oneshot),
	CASE("epoll/oneshot-et", "EPOLLONESHOT with EPOLLET", oneshot_et),
	CASE("epoll/exclusive", "EPOLLEXCLUSIVE and what it may not be combined with", exclusive),
	CASE("epoll/rdhup", "EPOLLRDHUP alone, and what others see of a FIN", rdhup),
	CASE("epoll/hup", "EPOLLHUP needs no interest", hup),
	CASE("epoll/err", "EPOLLERR after a reset, until SO_ERROR is read", err),
	CASE("epoll/err-et", "an edge for a reset", err_et),
	CASE("epoll/fin-et", "an edge for each FIN", fin_et),
	CASE_RETURNS("epoll/pri", "EPOLLPRI for urgent data", pri, "urgent data are Linux's"),
	CASE("epoll/norm", "EPOLLRDNORM, EPOLLWRNORM, the bands", norm),
	CASE("epoll/mod", "MOD changes interest and data, and re-arms", mod_rearm),
	CASE("epoll/del", "DEL, and ADD again", del),
	CASE_RETURNS("epoll/ctl-errors", "errors of epoll_ctl", ctl_errors, "a set that cannot be seen"),
	CASE("epoll/wait-errors", "errors of epoll_wait", wait_errors),
	CASE("epoll/pwait-errors", "errors of epoll_pwait and epoll_pwait2", pwait_errors),
	{.name = NULL},
};
