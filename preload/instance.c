/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The life of epoll instances, and which contexts they listen to. Not in a packet's way. Any
 * thread.
 *
 * Invariant: an instance lives until its last descriptor is closed and the last waiter has left.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "preload/epoll.h"
#include "preload/user.h"

static struct pool ep_pool = {.size = sizeof(struct ep)};

static void ep_track(int epfd)
{
	struct ep *ep;

	if ((unsigned)epfd >= FD_MAX || user_is_confined())
		return;
	fd_start();
	lend_start();
	ep = pool_get(&ep_pool);
	if (!ep)
		return;
	memset((char *)ep + offsetof(struct ep, epfd), 0, sizeof(*ep) - offsetof(struct ep, epfd));
	/* what a look without a reference may see */
	atomic_fetch_add_explicit(&ep->life, 1, memory_order_relaxed);
	atomic_store_explicit(&ep->briefs, 0, memory_order_relaxed);
	atomic_store_explicit(&ep->share, 0, memory_order_relaxed);
	atomic_store_explicit(&ep->alone, false, memory_order_relaxed);
	atomic_store_explicit(&ep->lent, false, memory_order_relaxed);
	if (ep->file.type != FILE_EPOLL) /* its memory is new */
		ep->file.type = FILE_EPOLL;
	ep->epfd = epfd;
	ep->spare = ep->kick = -1;
	atomic_store_explicit(&ep->file.fds, 0, memory_order_relaxed);
	atomic_store_explicit(&ep->file.refs, 1, memory_order_release);
	fd_set_file(epfd, &ep->file);
	file_put(&ep->file);
}

int ep_fd(struct ep *ep)
{
	int fd = atomic_load_explicit(&ep->spare, memory_order_acquire);

	if (fd >= 0)
		return fd;
	fd = atomic_load_explicit(&ep->epfd, memory_order_relaxed);
	if (likely(atomic_load_explicit(&fd_table[fd], memory_order_relaxed) == &ep->file))
		return fd;
	fd = fd_find(&ep->file);
	if (fd < 0) /* it is being closed */
		return atomic_load_explicit(&ep->epfd, memory_order_relaxed);
	atomic_store_explicit(&ep->epfd, fd, memory_order_relaxed);
	return fd;
}

bool ep_listen(struct ep *ep, struct core *c, uint32_t context)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.u64 = EP_MARK};
	uint64_t bit = 1ull << context;
	struct core *old;
	bool ok = true;

	if (atomic_load_explicit(&ep->core, memory_order_acquire) == c &&
	    (atomic_load_explicit(&ep->contexts, memory_order_acquire) & bit))
		return true;
	if (!lock_take(&ep->lock))
		return false;
	old = atomic_load_explicit(&ep->core, memory_order_relaxed);
	if (old != c) { /* another start of the service: what is left of the old one has failed */
		atomic_store_explicit(&ep->contexts, 0, memory_order_release);
		/* full fence: pairs with the store of watched in ep_watch() */
		atomic_store_explicit(&ep->core, c, memory_order_seq_cst);
		ev.events = EPOLLRDHUP | EPOLLET;
		ev.data.u64 = EP_MARK_SOCK;
		if (!ep->mixed)
			libc()->epoll_ctl(ep_fd(ep), EPOLL_CTL_ADD, c->sock, &ev);
		ev.events = EPOLLIN | EPOLLET;
		ev.data.u64 = EP_MARK_NEWS;
		if (!ep->mixed)
			libc()->epoll_ctl(ep_fd(ep), EPOLL_CTL_ADD, c->news, &ev);
		ev.data.u64 = EP_MARK;
	}
	if (!(atomic_load_explicit(&ep->contexts, memory_order_relaxed) & bit)) {
		if (!ep->mixed)
			ok = !libc()->epoll_ctl(ep_fd(ep), EPOLL_CTL_ADD, core_context_fd(c, context), &ev) ||
			     errno == EEXIST;
		if (ok) {
			core_context_ref(c, context);
			atomic_fetch_or_explicit(&ep->contexts, bit, memory_order_release);
			ep_kick(ep); /* who watches it learns of the context */
		}
	}
	lock_drop(&ep->lock);
	if (old && old != c)
		ep_all_failed(ep);
	return ep_mix(ep) && ok;
}

void ep_plain(struct ep *ep)
{
	struct core *c = atomic_load_explicit(&ep->core, memory_order_acquire);
	struct epoll_event none = {0};
	int epfd = ep_fd(ep);

	if (!lock_take(&ep->lock))
		return;
	if (ep->mixed)
		libc()->epoll_ctl(epfd, EPOLL_CTL_DEL, ep->kick, &none);
	for (uint64_t m = atomic_load_explicit(&ep->contexts, memory_order_acquire); c && !ep->mixed && m; m &= m - 1)
		libc()->epoll_ctl(epfd, EPOLL_CTL_DEL, core_context_fd(c, (uint32_t)__builtin_ctzll(m)), &none);
	if (c && !ep->mixed) {
		libc()->epoll_ctl(epfd, EPOLL_CTL_DEL, c->sock, &none);
		libc()->epoll_ctl(epfd, EPOLL_CTL_DEL, c->news, &none);
	}
	lock_drop(&ep->lock);
}

PUBLIC int epoll_create(int size)
{
	int epfd = libc()->epoll_create(size);

	if (epfd >= 0)
		ep_track(epfd);
	return epfd;
}

PUBLIC int epoll_create1(int flags)
{
	int epfd = libc()->epoll_create1(flags);

	if (epfd >= 0)
		ep_track(epfd);
	return epfd;
}

/* ---- the end of an instance ---- */

/*
 * It has no descriptor any more; the number is about to be closed. Threads that sleep in it go on
 * doing so until they have an event, as in Linux: they need a number.
 */
void ep_closed(struct file *f)
{
	struct ep *ep = container_of(f, struct ep, file);
	int fd, saved = errno;

	if (ep_has_sleepers(ep)) {
		fd = (int)syscall(SYS_fcntl, ep->epfd, F_DUPFD_CLOEXEC, 500L);
		if (fd >= 0)
			fd_set_file(fd, NULL);
		atomic_store_explicit(&ep->spare, fd, memory_order_release);
	}
	nest_closed(ep);
	errno = saved;
}

static void own_close(int fd)
{
	if (fd < 0)
		return;
	fd_forget(fd);
	syscall(SYS_close, fd);
}

/* Its items go; their sockets live on. False: a signal handler cannot. */
static bool ep_empty(struct ep *ep)
{
	for (;;) {
		struct sock *s = NULL;
		struct item *it;

		if (!lock_take(&ep->lock))
			return false;
		for (it = ep->all; it && !s; it = it->all_next)
			s = file_hold(&it->sock->file) ? it->sock : NULL;
		it = ep->all;
		lock_drop(&ep->lock);
		if (!it)
			return true;
		if (!s) {
			sched_yield(); /* its socket is on its way out, and takes the item along */
			continue;
		}
		if (!lock_take(&s->lock))
			return false;
		for (it = s->items; it && it->ep != ep; it = it->sock_next)
			;
		if (it)
			item_remove(it);
		lock_drop(&s->lock);
		sock_put(s);
	}
}

void ep_free(struct file *f)
{
	struct ep *ep = container_of(f, struct ep, file);
	int saved = errno;

	if (!ep_empty(ep))
		return;
	for (uint64_t mask = atomic_exchange(&ep->contexts, 0); mask; mask &= mask - 1)
		core_context_put(atomic_load(&ep->core), (uint32_t)__builtin_ctzll(mask));
	own_close(ep->kick);
	own_close(ep->spare);
	ep->kick = -1;
	ep->spare = -1;
	pool_put(&ep_pool, ep);
	errno = saved;
}

void ep_child(void)
{
	/* what is inherited is left as it is */
	ep_pool = (struct pool){.size = sizeof(struct ep)};
	item_child();
	nest_child();
	lend_child();
}
