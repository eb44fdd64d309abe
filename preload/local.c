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
#include <sys/ioctl.h>

#include "preload/epoll.h"
#include "preload/io.h"
#include "preload/wait.h"
#include "service/base/clock.h"

#define NEWS 32
#define IDLE_LOOKS 64 /* looks in vain between two questions to the kernel */
#define TELLS 8
#define ROOM_NS (5 * NS_PER_MS)
#define CHANGE_NS (NS_PER_MS / 10)
#define CHANGE_LOOKS 500    /* of a call that may block, once for each connection */
#define CHANGE_LOOKS_FEW 10 /* of one that may not, ... */
#define CHANGE_SENDS 16     /* ... every so many calls */

static int news_ctl(struct core *c, int op, int fd, uint32_t slot)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = slot};
	int news = atomic_load_explicit(&c->news, memory_order_relaxed);

	return news < 0 ? -1 : (int)syscall(SYS_epoll_ctl, news, op, fd, &ev);
}

void local_watch(struct sock *s)
{
	s->rx_kernel = s->tx_kernel = true;
	s->tx_waits = s->untold = 0;
	if (news_ctl(s->core, EPOLL_CTL_ADD, s->fd, s->slot) && errno == EEXIST)
		news_ctl(s->core, EPOLL_CTL_MOD, s->fd, s->slot);
}

void local_unwatch(struct sock *s)
{
	if (s->st.local)
		news_ctl(s->core, EPOLL_CTL_DEL, s->fd, s->slot);
}

/* The kernel socket of @slot says @events. */
static void news_of(struct core *c, uint32_t slot, uint32_t events)
{
	struct sock *s = atomic_load_explicit(&c->owner[slot], memory_order_acquire);
	bool mixed;

	if (!s || !file_hold(&s->file))
		return;
	mixed = local_is_mixed(s, IO_IN | IO_OUT);
	if (mixed) {
		ep_news(c, slot, NULL);
		core_context_wake(c, s->context); /* threads that are blocked on it */
	}
	if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR) || (!mixed && events & EPOLLIN)) &&
	    core_look(c, slot) == -EAGAIN) /* the service is behind: once more, when somebody looks again */
		news_ctl(c, EPOLL_CTL_MOD, s->fd, slot);
	sock_put(s);
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
		for (long i = 0; i < n; i++)
			news_of(c, (uint32_t)ev[i].data.u64 % IPC_SLOTS, ev[i].events);
	} while (n == NEWS);
	errno = saved;
}

/* ---- what still goes through the kernel ---- */

uint32_t local_queued(const struct sock *s, int dir)
{
	int n = 0;

	return syscall(SYS_ioctl, s->fd, dir == IO_IN ? FIONREAD : TIOCOUTQ, &n) || n < 0 ? 0 : (uint32_t)n;
}

static bool is_paired(const struct sock *s)
{
	return stream_status(&s->st) & IPC_ST_PAIRED;
}

bool local_ended(const struct sock *s)
{
	/* in this order: bytes in the queue, or the pairing that has them come by memory, are there before the FIN is */
	return s->st.local && s->rx_kernel && sock_kernel_ended(s) && !local_queued(s, IO_IN) && !is_paired(s);
}

void local_error_note(struct sock *s, bool told)
{
	stream_opts_set(&s->st, IPC_OPT_BROKEN, 0);
	if (told) /* and not once more when the service has heard of it */
		s->err_taken = true;
}

int local_error_take(struct sock *s)
{
	int err = 0, saved = errno;
	socklen_t len = sizeof(err);

	if (libc()->getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &err, &len))
		err = 0;
	if (!err)
		err = (int)atomic_exchange_explicit(&s->untold, 0, memory_order_relaxed);
	if (err && sock_is_local(s))
		local_error_note(s, true);
	errno = saved;
	return err;
}

uint32_t local_events(const struct sock *s)
{
	struct pollfd p = {.fd = s->fd, .events = POLLOUT | POLLRDHUP};
	struct timespec none = {0};
	uint32_t ev = 0;

	if (s->rx_kernel && local_queued(s, IO_IN))
		ev |= EPOLLIN | EPOLLRDNORM;
	if (syscall(SYS_ppoll, &p, 1, &none, NULL, 0) <= 0)
		return ev;
	if (s->tx_kernel && p.revents & POLLOUT)
		ev |= EPOLLOUT | EPOLLWRNORM;
	if (s->rx_kernel && !is_paired(s)) { /* nobody else could say it */
		if (p.revents & (POLLRDHUP | POLLHUP))
			ev |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP;
		ev |= (uint32_t)p.revents & (EPOLLHUP | EPOLLERR);
	}
	return ev;
}

/* Nothing more comes by the kernel. */
static void rx_is_over(struct sock *s)
{
	s->rx_kernel = false;
	stream_opts_set(&s->st, IPC_OPT_DRAINED, 0);
}

ssize_t local_recv(struct sock *s, const struct iovec *iov, int cnt, size_t skip, int flags)
{
	uint32_t over = IPC_ST_FIN | IPC_ST_ERROR;
	/* looked at before the kernel: if there is something, all that was sent before is in the kernel's queue */
	bool memory = stream_unread(&s->st) || stream_status(&s->st) & over;
	struct iovec rest[IOV_REST];
	struct msghdr m = {.msg_iov = rest, .msg_iovlen = (size_t)iov_rest(iov, cnt, skip, rest)};
	int saved = errno, err;
	bool tells;
	ssize_t n;

	if (!m.msg_iovlen)
		return -EAGAIN;
	do
		n = syscall(SYS_recvmsg, s->fd, &m, (flags & (MSG_PEEK | MSG_TRUNC)) | MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	err = n < 0 ? errno : 0;
	errno = saved; /* a call that succeeds leaves it alone */
	if (n > 0 || err == EFAULT)
		return n > 0 ? n : -EFAULT;
	tells = err && !memory && !is_paired(s);
	if (err && err != EAGAIN)
		local_error_note(s, tells);
	if (memory || (err != EAGAIN && is_paired(s)))
		rx_is_over(s); /* how it has ended the slot will say */
	return tells ? -err : -EAGAIN;
}

ssize_t local_send(struct sock *s, const struct iovec *iov, int cnt, size_t skip, int flags)
{
	struct iovec rest[IOV_REST];
	struct msghdr m = {.msg_iov = rest, .msg_iovlen = (size_t)iov_rest(iov, cnt, skip, rest)};
	int saved = errno, err;
	ssize_t n;

	if (is_paired(s) && !local_queued(s, IO_OUT)) {
		s->tx_kernel = false;
		return -ESTALE;
	}
	if (!m.msg_iovlen)
		return 0;
	do
		n = syscall(SYS_sendmsg, s->fd, &m, (flags & MSG_MORE) | MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	err = n < 0 ? errno : 0;
	errno = saved;
	if (err && err != EAGAIN && err != EFAULT && !(err == EPIPE && s->shut_wr)) {
		local_error_note(s, !skip);
		if (skip) /* the call tells of bytes, the next one of this */
			atomic_store_explicit(&s->untold, (uint32_t)err, memory_order_relaxed);
	}
	return n >= 0 ? n : err == EAGAIN ? 0 : -err;
}

int local_wait_room(struct sock *s, uint64_t deadline)
{
	uint64_t left = MIN(wait_left(deadline), ROOM_NS);
	struct pollfd p = {.fd = s->fd, .events = POLLOUT};
	struct timespec t = {.tv_nsec = (long)left};

	if (!left)
		return -EAGAIN;
	return libc()->ppoll(&p, 1, &t, NULL) < 0 && errno == EINTR ? -EINTR : 0;
}

void local_change_over(struct sock *s, bool dontwait)
{
	uint32_t looks = dontwait ? CHANGE_LOOKS_FEW : CHANGE_LOOKS;

	if (!is_paired(s) || s->tx_waits++ % CHANGE_SENDS)
		return;
	/* of a dialogue mostly nothing is left; a one-way transfer must stop for once */
	for (uint32_t i = 0; i < looks && local_queued(s, IO_OUT); i++)
		syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = CHANGE_NS}, NULL);
}

/* ---- what the calls say ---- */

void local_tell(struct sock *s)
{
	int saved = errno;

	if (sock_is_local(s))
		for (int i = 0; i < TELLS && core_look(s->core, s->slot) == -EAGAIN; i++)
			sched_yield(); /* at worst the service sees it within a second */
	errno = saved;
}

void local_closing(struct sock *s)
{
	int saved = errno;

	if (sock_state(s) == SOCK_FAST && s->st.local && stream_is_open(&s->st) && stream_unacked(&s->st))
		core_check(s->core);
	if (sock_state(s) == SOCK_FAST && s->st.local && core_is_dead(s->core))
		sock_settle(s);
	errno = saved;
}

void local_idle(struct core *c)
{
	static _Thread_local uint32_t looks __attribute__((tls_model("initial-exec")));

	if (++looks % IDLE_LOOKS == 0)
		local_check(c);
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
