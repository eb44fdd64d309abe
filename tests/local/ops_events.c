// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Orders about events: what poll, select and epoll say at once, what a thread that sleeps in
 * them is woken with, and the settling, which waits until an end has seen what it must see.
 * Each process has one epoll instance for the script; a sleeping thread makes its own.
 */
#include "tests/local/ops.h"

#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <unistd.h>

#define SETTLE_MS 3000
#define LATE_US 300 /* before a second look at what may be late; doubled each time */
#define LATE_LOOKS 5
#define ALL_EVENTS (POLLIN | POLLOUT | POLLRDHUP)

static int ep = -1;

void events_forget(void)
{
	if (ep >= 0)
		close(ep);
	ep = -1;
}

static void say_end(struct answer *a, unsigned int end, uint32_t events)
{
	static const struct {
		uint32_t bit;
		const char *name;
	} names[] = {{POLLIN, "IN"},   {POLLPRI, "PRI"}, {POLLOUT, "OUT"},
		     {POLLERR, "ERR"}, {POLLHUP, "HUP"}, {POLLRDHUP, "RDHUP"}};
	const char *between = ":";

	say(a, " %u%c", end / 2, end & 1 ? 's' : 'c');
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (events & names[i].bit) {
			say(a, "%s%s", between, names[i].name);
			between = "|";
		}
}

/* ---- settling ---- */

static uint32_t events_now(int fd)
{
	struct pollfd p = {.fd = fd, .events = ALL_EVENTS};

	return poll(&p, 1, 0) < 0 ? 0 : (uint32_t)p.revents;
}

static bool is_closed(int fd)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof sa;

	return getpeername(fd, (struct sockaddr *)&sa, &len) < 0 && errno == ENOTCONN;
}

static bool has_settled(const struct want *w, int *unread, uint32_t *events)
{
	int fd = actor_fds[w->end][w->copy];

	*events = events_now(fd);
	*unread = -1;
	ioctl(fd, FIONREAD, unread);
	return (*events & w->events) == w->events && *unread >= (int)w->unread && (!w->closed || is_closed(fd));
}

/* Nothing is said of an end that settles: it is not an operation. */
static void order_settle(const struct order *o, struct answer *a)
{
	int64_t start = clock_us(), waited;
	uint32_t events;
	int unread;

	for (unsigned int i = 0; i < o->wants; i++) {
		const struct want *w = &o->want[i];

		while (!has_settled(w, &unread, &events)) {
			waited = clock_us() - start;
			if (waited > SETTLE_MS * 1000) {
				a->r = -1;
				say(a, "unsettled, %d of %lu bytes%s", unread, w->unread,
				    w->closed ? ", to be closed" : "");
				say_end(a, w->end, events);
				say(a, " instead of");
				say_end(a, w->end, w->events);
				return;
			}
			usleep(waited < 200 ? 20 : waited < 5000 ? 200 : 2000);
		}
	}
}

/* ---- poll and select, at once ---- */

static int order_poll(const struct order *o, struct answer *a)
{
	struct pollfd p[ENDS];
	unsigned int ends[ENDS];
	nfds_t n = 0;
	int r;

	for (unsigned int e = 0; e < ENDS; e++)
		for (int k = 0; k < COPIES && o->mask & 1u << e; k++)
			if (actor_fds[e][k] >= 0) {
				p[n] = (struct pollfd){.fd = actor_fds[e][k], .events = POLLIN | POLLRDHUP | POLLPRI};
				p[n].events |= o->mask2 & 1u << e ? POLLOUT : 0;
				ends[n++] = e;
				break;
			}
	r = poll(p, n, 0);
	say(a, "poll");
	say_result(a, r);
	for (nfds_t i = 0; i < n; i++)
		if (p[i].revents)
			say_end(a, ends[i], (uint32_t)p[i].revents);
	return r;
}

static int order_select(const struct order *o, struct answer *a)
{
	fd_set in, out, ex;
	struct timeval now = {0};
	int fd[ENDS], top = -1, r;

	FD_ZERO(&in);
	FD_ZERO(&out);
	FD_ZERO(&ex);
	for (unsigned int e = 0; e < ENDS; e++) {
		fd[e] = -1;
		for (int k = 0; k < COPIES && fd[e] < 0 && o->mask & 1u << e; k++)
			fd[e] = actor_fds[e][k];
		if (fd[e] < 0)
			continue;
		FD_SET(fd[e], &in);
		FD_SET(fd[e], &ex);
		if (o->mask2 & 1u << e)
			FD_SET(fd[e], &out);
		top = fd[e] > top ? fd[e] : top;
	}
	r = select(top + 1, &in, &out, &ex, &now);
	say(a, "select");
	say_result(a, r);
	for (unsigned int e = 0; e < ENDS && r > 0; e++)
		if (fd[e] >= 0 && (FD_ISSET(fd[e], &in) || FD_ISSET(fd[e], &out) || FD_ISSET(fd[e], &ex)))
			say_end(a, e,
				(FD_ISSET(fd[e], &in) ? POLLIN : 0) | (FD_ISSET(fd[e], &out) ? POLLOUT : 0) |
					(FD_ISSET(fd[e], &ex) ? POLLPRI : 0));
	return r;
}

/* For what a look without sleep may miss see order_epoll_wait(): here it is not taken away by the look. */
static void order_look(const struct order *o, struct answer *a)
{
	struct answer last;

	for (int looks = 0; looks <= LATE_LOOKS; looks++) {
		last = *a;
		*a = (struct answer){0};
		a->r = o->how == 2 ? order_select(o, a) : order_poll(o, a);
		if (!o->some || (looks && !strcmp(a->text, last.text)))
			return;
		usleep(LATE_US << looks);
	}
}

/* ---- one end, with a time-out ---- */

static int wait_select(int fd, uint32_t events, int ms, uint32_t *got)
{
	struct timeval tv = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};
	fd_set in, out;
	int r;

	FD_ZERO(&in);
	FD_ZERO(&out);
	if (events & POLLIN)
		FD_SET(fd, &in);
	if (events & POLLOUT)
		FD_SET(fd, &out);
	r = select(fd + 1, &in, &out, NULL, &tv);
	if (r > 0)
		*got = (FD_ISSET(fd, &in) ? POLLIN : 0) | (FD_ISSET(fd, &out) ? POLLOUT : 0);
	return r;
}

static int wait_epoll(int fd, uint32_t events, int ms, uint32_t *got)
{
	struct epoll_event e = {.events = events};
	int own = epoll_create1(EPOLL_CLOEXEC), r, error;

	if (own < 0 || epoll_ctl(own, EPOLL_CTL_ADD, fd, &e))
		return -1;
	r = epoll_wait(own, &e, 1, ms);
	error = errno;
	if (r > 0)
		*got = e.events;
	close(own);
	errno = error;
	return r;
}

static void order_wait(const struct order *o, struct answer *a)
{
	static const char *const names[] = {"poll", "ppoll", "select", "epoll", "epoll ET", "epoll ONESHOT"};
	int fd = actor_fds[o->end][o->copy], ms = (int)o->n, r;
	struct pollfd p = {.fd = fd, .events = (short)o->arg};
	struct timespec ts = timespec_ms(ms);
	uint32_t events = (uint32_t)o->arg, got = 0;

	if (o->how == WAIT_POLL || o->how == WAIT_PPOLL) {
		r = o->how == WAIT_POLL ? poll(&p, 1, ms) : ppoll(&p, 1, &ts, NULL);
		got = (uint32_t)p.revents;
	} else if (o->how == WAIT_SELECT) {
		r = wait_select(fd, events, ms, &got);
	} else {
		events |= o->how == WAIT_EPOLL_ET ? EPOLLET : o->how == WAIT_EPOLL_ONESHOT ? EPOLLONESHOT : 0;
		r = wait_epoll(fd, events, ms, &got);
	}
	say(a, "%s", names[o->how]);
	say_end(a, o->end, events);
	say_result(a, r);
	if (r > 0)
		say_end(a, o->end, got);
}

/* ---- the process's epoll instance ---- */

static void order_epoll_ctl(const struct order *o, struct answer *a)
{
	static const char *const names[] = {"", "ADD", "DEL", "MOD"};
	struct epoll_event e = {.events = (uint32_t)o->flags, .data.u32 = o->end};
	int r;

	if (ep < 0)
		ep = epoll_create1(EPOLL_CLOEXEC);
	r = epoll_ctl(ep, o->arg, actor_fds[o->end][o->copy], &e);
	say(a, "epoll_ctl %s", names[o->arg]);
	say_end(a, o->end, e.events);
	say(a, "%s%s", o->flags & (int)EPOLLET ? " ET" : "", o->flags & (int)EPOLLONESHOT ? " ONESHOT" : "");
	say_result(a, r);
}

/* One look without sleep. What must not be there at a later one is said at once. */
static int epoll_look(const struct order *o, struct answer *a, uint32_t got[ENDS], bool late)
{
	struct epoll_event e[ENDS];
	int r = epoll_wait(ep, e, ENDS, 0);

	for (int i = 0; i < r; i++) {
		unsigned int end = e[i].data.u32 % ENDS;
		uint32_t bit = 1u << end;

		if (late && (got[end] ? o->mask2 : ~o->mask) & bit) {
			say(a, got[end] ? "again" : "late");
			say_end(a, end, e[i].events);
			say(a, ", ");
		}
		if (!got[end])
			got[end] = e[i].events;
	}
	return r;
}

/*
 * Events are shown by end: in which order the ready list has them is nobody's business.
 *
 * While a connection is being adopted, or comes back from it, a look without sleep may miss what
 * there is for some hundred microseconds. So if one of the ends in mask has said nothing, there
 * are a few looks more, for these ends alone. "/ET" marks what may be said once more, for the
 * comparison (compare_ops.py).
 */
static void order_epoll_wait(const struct order *o, struct answer *a)
{
	uint32_t got[ENDS] = {0}, missing = o->mask;
	int r, n = 0;

	if (ep < 0)
		ep = epoll_create1(EPOLL_CLOEXEC);
	r = epoll_look(o, a, got, false);
	for (int looks = 0; looks < LATE_LOOKS && missing && r >= 0; looks++) {
		for (unsigned int end = 0; end < ENDS; end++)
			missing &= ~(got[end] ? 1u << end : 0);
		if (missing)
			usleep(LATE_US << looks);
		if (missing && epoll_look(o, a, got, true) < 0)
			r = -1;
	}
	for (unsigned int end = 0; end < ENDS; end++)
		n += got[end] != 0;
	say(a, "epoll_wait");
	say_result(a, r < 0 ? r : n);
	for (unsigned int end = 0; end < ENDS; end++)
		if (got[end]) {
			say_end(a, end, got[end]);
			say(a, "%s", o->flags & 1 << end ? "/ET" : "");
		}
}

bool events_order(const struct order *o, struct answer *a)
{
	switch (o->op) {
	case DO_SETTLE:
		order_settle(o, a);
		return true;
	case DO_POLL:
		order_look(o, a);
		return true;
	case DO_WAIT:
		order_wait(o, a);
		return true;
	case DO_EPOLL_CTL:
		order_epoll_ctl(o, a);
		return true;
	case DO_EPOLL_WAIT:
		order_epoll_wait(o, a);
		return true;
	}
	return false;
}
