// SPDX-License-Identifier: GPL-2.0-or-later
/* epoll sets: what the calls say, with the events in the order of their data. */
#include "tests/posix/set.h"

static char buf[70000];

int set_new(void)
{
	int ep = epoll_create1(EPOLL_CLOEXEC);

	if (ep < 0)
		fatal("epoll_create1: %s", strerror(errno));
	return ep;
}

long set_ctl(int ep, int op, int fd, uint32_t events, uint64_t data)
{
	static const char *const names[] = {"", "ADD", "DEL", "MOD"};
	struct epoll_event e = {.events = events, .data.u64 = data};

	return tell(epoll_ctl(ep, op, fd, &e), "epoll_ctl(%s, %s)", names[op & 3], event_names(events & 0xffff));
}

static int by_data(const void *a, const void *b)
{
	const struct epoll_event *x = a, *y = b;

	return x->data.u64 < y->data.u64 ? -1 : x->data.u64 > y->data.u64;
}

int set_wait(int ep, int ms)
{
	struct epoll_event e[8];
	char line[300] = "";
	int n = epoll_wait(ep, e, 8, ms), at = 0;

	if (n > 0)
		qsort(e, (size_t)n, sizeof(e[0]), by_data);
	for (int i = 0; i < n; i++)
		at += snprintf(line + at, sizeof(line) - (size_t)at, " %llu:%s", (unsigned long long)e[i].data.u64,
			       event_names(e[i].events));
	if (n < 0)
		tell(n, "epoll_wait");
	else
		say("epoll_wait = %d%s", n, line);
	return n;
}

void set_read(int fd, size_t n)
{
	tell_data(read(fd, buf, n), buf, "read(%zu)", n);
}

void set_feed(const struct conn *c, const char *text)
{
	peer_text(c, text);
	pause_ms(3);
}
