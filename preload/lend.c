/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Epoll instances that somebody uses whom we cannot see: a child that inherited it, a process
 * it was passed to, an instance that is not ours. What they see is the kernel's set, so all
 * sockets in it must be Linux's. Not in a packet's way. Any thread.
 *
 * A child that never uses what it inherited, as most do, changes nothing. One that does has the
 * members of the fork given back to Linux, and says so in memory that it shares with its parent,
 * which it wakes by the eventfd of one of the instance's contexts: the parent does the same for
 * later members in its next epoll call, and adopts nothing into this instance any more.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>

#include "preload/epoll.h"
#include "preload/share.h"
#include "preload/user.h"

#define ROUND 64
#define SHARES 1024 /* instances; further ones are lent at the fork */

enum share { SHARE_NONE, SHARE_USED, SHARE_ANSWERED };

/* In the child: what it inherited. */
struct lent {
	struct file file;
	struct ep *ep;  /* as it was at the fork */
	uint32_t share; /* index + 1 */
	int wake;       /* eventfd, or -1: nothing is adopted there */
	void *pool_link;
};

/* An instance at the time of a fork. */
struct heir {
	int fd, wake;
	struct ep *ep;
	uint32_t share;
};

static _Atomic uint32_t *shares; /* enum share; shared with children */
static _Atomic uint32_t shares_used;
static struct pool lent_pool = {.size = sizeof(struct lent)};
/* Only between the two sides of a fork. */
static struct heir *heirs;
static uint32_t nheirs;
static size_t heirs_len;

void ep_leave(struct sock *s)
{
	s->keep_linux = true;
	s->try_at = NEVER;
	sock_return(s, s->fd, true);
}

/* Up to @max adopted sockets of @ep from the @from-th on, with a reference each. */
static uint32_t ep_members(struct ep *ep, uint32_t from, struct sock **out, uint32_t max)
{
	uint32_t n = 0, i = 0;

	if (!lock_take(&ep->lock))
		return 0;
	for (struct item *it = ep->all; it && n < max; it = it->all_next)
		if (it->where == ITEM_USER && i++ >= from && file_hold(&it->sock->file))
			out[n++] = it->sock;
	lock_drop(&ep->lock);
	return n;
}

void ep_lend(struct ep *ep)
{
	struct sock *socks[ROUND];
	uint32_t n = ROUND;

	/* nothing is adopted into it from here on; pairs with the look in item_can_leave() */
	if (atomic_exchange_explicit(&ep->lent, true, memory_order_seq_cst))
		return;
	ep_watch(ep); /* the eventfds of contexts leave the set: they would wake the others in our stead */
	for (uint32_t from = 0; n == ROUND; from += ROUND) {
		n = ep_members(ep, from, socks, ROUND);
		for (uint32_t i = 0; i < n; i++) {
			ep_leave(socks[i]);
			sock_put(socks[i]);
		}
	}
}

/* ---- the parent's side ---- */

static uint32_t share_take(void)
{
	uint32_t n = atomic_fetch_add_explicit(&shares_used, 1, memory_order_relaxed);

	if (n < SHARES)
		return n + 1;
	atomic_store_explicit(&shares_used, SHARES, memory_order_relaxed);
	return 0;
}

void lend_check_slow(struct ep *ep)
{
	_Atomic uint32_t *share = &shares[ep->share - 1];

	/* pairs with the store in lend_use() */
	if (atomic_load_explicit(share, memory_order_acquire) != SHARE_USED)
		return;
	ep_lend(ep);
	atomic_store_explicit(share, SHARE_ANSWERED, memory_order_release);
}

static void heir_add(int fd, struct ep *ep)
{
	struct core *c = atomic_load_explicit(&ep->core, memory_order_acquire);
	uint64_t contexts = atomic_load_explicit(&ep->contexts, memory_order_acquire);

	if (!ep->share)
		ep->share = share_take();
	if (!ep->share)
		ep_lend(ep);
	else
		heirs[nheirs++] = (struct heir){
			.fd = fd,
			.ep = ep,
			.share = ep->share,
			.wake = c && contexts ? core_context_fd(c, (uint32_t)__builtin_ctzll(contexts)) : -1,
		};
}

static void fork_prepare(void)
{
	int top = fd_top(), saved = errno;

	nheirs = 0;
	heirs = NULL;
	if (user_is_confined())
		return;
	if (!shares) {
		void *p =
			mmap(NULL, SHARES * sizeof(*shares), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

		shares = p == MAP_FAILED ? NULL : p;
	}
	heirs_len = ((size_t)top + 1) * sizeof(struct heir);
	heirs = mmap(NULL, heirs_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (heirs == MAP_FAILED)
		heirs = NULL;
	for (int i = 0; i <= top && shares && heirs; i++) {
		struct file *f = file_get(i);

		if (f && f->type == FILE_EPOLL)
			heir_add(i, container_of(f, struct ep, file));
		if (f)
			file_put(f);
	}
	errno = saved;
}

static void heirs_free(void)
{
	if (heirs)
		munmap(heirs, heirs_len);
	heirs = NULL;
	nheirs = 0;
}

static void start(void)
{
	pthread_atfork(fork_prepare, heirs_free, NULL);
}

void lend_start(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, start);
}

/* ---- the child's side ---- */

void lend_child(void)
{
	lent_pool = (struct pool){.size = sizeof(struct lent)};
	for (uint32_t i = 0; i < nheirs; i++) {
		struct lent *l = pool_get(&lent_pool);

		if (!l)
			break;
		l->file.type = FILE_LENT;
		l->ep = heirs[i].ep;
		l->share = heirs[i].share;
		l->wake = heirs[i].wake;
		atomic_store_explicit(&l->file.fds, 0, memory_order_relaxed);
		atomic_store_explicit(&l->file.refs, 1, memory_order_release);
		fd_set_file(heirs[i].fd, &l->file);
		file_put(&l->file);
		fd_forget(l->wake); /* ours from here on; the others of the parent are closed */
	}
	heirs_free();
}

/*
 * What was adopted at the fork goes back to Linux, and into the kernel's set, which both see:
 * the parent may be blocked in something else. What was Linux's stays there.
 */
static void lend_members(struct lent *l, int epfd)
{
	struct ep *ep = l->ep;

	l->ep = NULL;
	for (struct item *it = ep ? ep->all : NULL; it; it = it->all_next) {
		struct epoll_event ev = {.events = it->events, .data.u64 = it->data};
		struct sock *s = sock_get(it->fd);

		if (!s)
			continue;
		if (s == it->sock && !sock_return(s, it->fd, true) && it->where == ITEM_USER && !it->disabled)
			libc()->epoll_ctl(epfd, EPOLL_CTL_ADD, it->fd, &ev); /* EEXIST: the parent was faster */
		sock_put(s);
	}
}

void lend_use(struct file *f, int epfd)
{
	struct lent *l = container_of(f, struct lent, file);
	_Atomic uint32_t *share = &shares[l->share - 1];
	uint64_t one = 1;
	uint32_t none = SHARE_NONE;

	lend_members(l, epfd);
	if (atomic_load_explicit(share, memory_order_acquire) == SHARE_ANSWERED)
		return;
	/* pairs with the load in lend_check_slow() */
	atomic_compare_exchange_strong_explicit(share, &none, SHARE_USED, memory_order_acq_rel, memory_order_acquire);
	if (l->wake < 0)
		return;
	(void)!syscall(SYS_write, l->wake, &one, sizeof(one));
}

/* ---- descriptors in messages ---- */

/* The receiver may not have the library, or keep the message for long: here it stays with Linux. */
static void lend_sock(struct sock *s, int fd)
{
	if (!s->listener)
		share_note(s);
	s->passed = true;
	sock_return(s, fd, true);
}

void lend_message(int sock, const struct msghdr *m)
{
	if (fd_is_own(sock) || !user_readable(m, sizeof(*m)) || m->msg_controllen < CMSG_LEN(sizeof(int)) ||
	    !user_readable(m->msg_control, m->msg_controllen))
		return;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR((struct msghdr *)(uintptr_t)m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS || c->cmsg_len < CMSG_LEN(sizeof(int)))
			continue;
		for (size_t i = 0; i < (c->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) {
			struct file *f;
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
			f = file_get(fd);
			if (f && f->type == FILE_EPOLL)
				ep_lend(container_of(f, struct ep, file));
			else if (f && f->type == FILE_SOCK)
				lend_sock(container_of(f, struct sock, file), fd);
			if (f)
				file_put(f);
		}
	}
}
