/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What happens at the kernel sockets of local connections: see local.h. Not in a byte's way.
 *
 * Invariant: an edge of core->news that was taken has been told to the service, or is raised again.
 */
#define _GNU_SOURCE 1
#include "preload/local.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#define NEWS 32
#define IDLE_LOOKS 64 /* looks in vain between two questions to the kernel */

static int news_ctl(struct core *c, int op, int fd, uint32_t slot)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.u64 = slot};
	int news = atomic_load_explicit(&c->news, memory_order_relaxed);

	return news < 0 ? -1 : (int)syscall(SYS_epoll_ctl, news, op, fd, &ev);
}

void local_watch(struct sock *s)
{
	if (news_ctl(s->core, EPOLL_CTL_ADD, s->fd, s->slot) && errno == EEXIST)
		news_ctl(s->core, EPOLL_CTL_MOD, s->fd, s->slot);
}

void local_unwatch(struct sock *s)
{
	if (s->st.local)
		news_ctl(s->core, EPOLL_CTL_DEL, s->fd, s->slot);
}

/* The service is behind: once more, when somebody looks again. */
static void raise_again(struct core *c, uint32_t slot)
{
	struct sock *s = atomic_load_explicit(&c->owner[slot], memory_order_acquire);

	if (s)
		news_ctl(c, EPOLL_CTL_MOD, s->fd, slot);
}

void local_check(struct core *c)
{
	struct epoll_event ev[NEWS];
	int news = atomic_load_explicit(&c->news, memory_order_relaxed), saved = errno;
	long n;

	if (news < 0 || core_is_dead(c))
		return;
	do {
		n = syscall(SYS_epoll_pwait, news, ev, NEWS, 0, NULL, 0); /* no cancellation point */
		for (long i = 0; i < n; i++) {
			uint32_t slot = (uint32_t)ev[i].data.u64 % IPC_SLOTS;

			if (core_look(c, slot) == -EAGAIN)
				raise_again(c, slot);
		}
	} while (n == NEWS);
	errno = saved;
}

void local_tell(struct sock *s)
{
	int saved = errno;

	if (sock_is_local(s))
		core_look(s->core, s->slot);
	errno = saved;
}

void local_idle(struct sock *s)
{
	static _Thread_local uint32_t looks __attribute__((tls_model("initial-exec")));

	if (s->st.local && ++looks % IDLE_LOOKS == 0)
		local_check(s->core);
}

static bool same_address(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	const struct sockaddr_in6 *a6 = (const void *)a, *b6 = (const void *)b;
	const struct sockaddr_in *a4 = (const void *)a, *b4 = (const void *)b;

	if (a->ss_family == AF_INET)
		return a4->sin_addr.s_addr == b4->sin_addr.s_addr || ntohl(a4->sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
	return a->ss_family == AF_INET6 && !memcmp(&a6->sin6_addr, &b6->sin6_addr, sizeof(a6->sin6_addr));
}

bool local_is_same_host(int fd)
{
	struct sockaddr_storage a = {0}, b = {0};
	socklen_t alen = sizeof(a), blen = sizeof(b);

	return !syscall(SYS_getsockname, fd, &a, &alen) && !syscall(SYS_getpeername, fd, &b, &blen) &&
	       a.ss_family == b.ss_family && same_address(&a, &b);
}
