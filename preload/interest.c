/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Membership of TCP sockets in epoll instances: epoll_create, epoll_ctl, and the moves between
 * the kernel's set and the user-level one at adoption. Not in a packet's way. Any thread.
 *
 * Invariants: an item belongs to one socket's list (s->lock) and one instance's list
 * (ep->lock, taken inside). While its socket is ADOPTING or FAST an item is not in the
 * kernel's set, so nobody sees the kernel socket's readiness. ONESHOT items are registered
 * with a tag in place of the application's data, so that we learn when the kernel disables them.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <string.h>

#include "preload/epoll.h"

_Atomic bool ep_tags_used;

static struct pool item_pool = {.size = sizeof(struct item)};
static struct pool ep_pool = {.size = sizeof(struct ep)};

static void ep_track(int epfd)
{
	struct ep *ep;

	if ((unsigned)epfd >= FD_MAX)
		return;
	fd_start();
	ep = pool_get(&ep_pool);
	if (!ep)
		return;
	memset((char *)ep + sizeof(ep->file), 0, sizeof(*ep) - sizeof(ep->file));
	ep->file.type = FILE_EPOLL;
	ep->epfd = epfd;
	atomic_store_explicit(&ep->file.fds, 0, memory_order_relaxed);
	atomic_store_explicit(&ep->file.refs, 1, memory_order_release);
	fd_set_file(epfd, &ep->file);
	file_put(&ep->file);
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

/* ---- items ---- */

static struct item *item_find(const struct sock *s, const struct ep *ep, int fd)
{
	for (struct item *it = s->items; it; it = it->sock_next)
		if (it->ep == ep && it->fd == fd)
			return it;
	return NULL;
}

static void item_put(struct item *it)
{
	if (it == &it->sock->first)
		it->ep = NULL;
	else
		pool_put(&item_pool, it);
}

static struct item *item_add(struct sock *s, struct ep *ep, int fd)
{
	struct item *it = s->first.ep ? pool_get(&item_pool) : &s->first; /* mostly it is the only one */

	if (!it)
		return NULL;
	memset(it, 0, sizeof(*it));
	it->ep = ep;
	it->sock = s;
	it->fd = fd;
	if (!lock_take(&ep->lock)) {
		item_put(it);
		return NULL;
	}
	it->all_next = ep->all;
	if (ep->all)
		ep->all->all_prev = it;
	ep->all = it;
	lock_drop(&ep->lock);
	it->sock_next = s->items;
	s->items = it;
	return it;
}

/* s->lock held. Takes it out of both lists. */
static void item_remove(struct item *it)
{
	struct ep *ep = it->ep;
	struct item **p = &it->sock->items;

	while (*p && *p != it)
		p = &(*p)->sock_next;
	if (*p)
		*p = it->sock_next;
	if (!lock_take(&ep->lock))
		return; /* cannot be: no application code runs under ep->lock but signal handlers, see lock.h */
	item_unqueue(it);
	if (it->all_prev)
		it->all_prev->all_next = it->all_next;
	else
		ep->all = it->all_next;
	if (it->all_next)
		it->all_next->all_prev = it->all_prev;
	lock_drop(&ep->lock);
	if (it->where == ITEM_USER)
		atomic_fetch_sub_explicit(&ep->users, 1, memory_order_relaxed);
	item_put(it);
}

static int item_kernel(struct item *it, int op)
{
	struct epoll_event ev = {.events = it->events, .data.u64 = it->data};
	int ret;

	it->tagged = it->events & EPOLLONESHOT;
	if (it->tagged) {
		ev.data.u64 = EP_TAG | (uint64_t)(uintptr_t)it;
		atomic_store_explicit(&it->sock->tagged, true, memory_order_relaxed);
		atomic_store_explicit(&ep_tags_used, true, memory_order_relaxed);
	}
	ret = libc()->epoll_ctl(it->ep->epfd, op, it->fd, &ev);
	if (!ret)
		it->where = ITEM_KERNEL;
	return ret;
}

static void item_to_user(struct item *it)
{
	it->where = ITEM_USER;
	atomic_fetch_add_explicit(&it->ep->users, 1, memory_order_relaxed);
}

/* ---- what adoption asks for; s->lock held ---- */

int ep_context(const struct sock *s, struct core *c)
{
	struct ep *ep = s->items ? s->items->ep : NULL;
	uint64_t mask;
	int context;

	if (!ep)
		return -1;
	mask = atomic_load_explicit(&ep->core, memory_order_acquire) == c
		       ? atomic_load_explicit(&ep->contexts, memory_order_acquire)
		       : 0;
	if (mask) {
		context = __builtin_ctzll(mask);
		core_context_ref(c, (uint32_t)context);
		return context;
	}
	return core_context_get(c);
}

bool ep_items_to_user(struct sock *s)
{
	for (struct item *it = s->items; it; it = it->sock_next)
		if (it->ep->nested || !ep_listen(it->ep, s->core, s->context))
			return false;
	for (struct item *it = s->items; it; it = it->sock_next) {
		struct epoll_event none = {0};

		if (it->where == ITEM_KERNEL)
			libc()->epoll_ctl(it->ep->epfd, EPOLL_CTL_DEL, it->fd, &none);
		item_to_user(it);
	}
	return true;
}

void ep_items_to_kernel(struct sock *s)
{
	for (struct item *it = s->items; it; it = it->sock_next) {
		if (it->where != ITEM_USER)
			continue;
		atomic_fetch_sub_explicit(&it->ep->users, 1, memory_order_relaxed);
		if (it->disabled)
			it->where = ITEM_PARKED;
		else if (item_kernel(it, EPOLL_CTL_ADD))
			item_kernel(it, EPOLL_CTL_MOD);
		if (lock_take(&it->ep->lock)) {
			item_unqueue(it);
			lock_drop(&it->ep->lock);
		}
	}
}

void ep_items_mark(struct sock *s, struct ep *self)
{
	for (struct item *it = s->items; it; it = it->sock_next)
		if (it->where == ITEM_USER)
			item_queue(it, self);
}

void ep_items_remove(struct sock *s)
{
	while (s->items)
		item_remove(s->items);
}

/* The instance has no descriptor any more: its items go. Their sockets live on. */
void ep_closed(struct file *f)
{
	struct ep *ep = container_of(f, struct ep, file);

	for (;;) {
		struct item *it;
		struct sock *s;

		if (!lock_take(&ep->lock))
			return;
		it = ep->all;
		s = it ? it->sock : NULL;
		lock_drop(&ep->lock);
		if (!s)
			break;
		if (!lock_take(&s->lock))
			return;
		for (it = s->items; it && it->ep != ep; it = it->sock_next)
			;
		if (it)
			item_remove(it);
		lock_drop(&s->lock);
	}
	for (uint64_t mask = atomic_exchange(&ep->contexts, 0); mask; mask &= mask - 1)
		core_context_put(atomic_load(&ep->core), (uint32_t)__builtin_ctzll(mask));
}

void ep_free(struct file *f)
{
	pool_put(&ep_pool, container_of(f, struct ep, file));
}

void ep_child(void)
{
	ep_pool.lock.owner = 0;
	item_pool.lock.owner = 0;
}

/* ---- epoll_ctl ---- */

static int fail(int err)
{
	errno = err;
	return -1;
}

static int ctl_add(struct ep *ep, struct sock *s, int fd, const struct epoll_event *ev)
{
	struct item *it = item_find(s, ep, fd);
	bool was_known = it;

	if (!ev)
		return fail(EFAULT);
	if (sock_state(s) != SOCK_LINUX && it)
		return fail(EEXIST);
	if (!it)
		it = item_add(s, ep, fd);
	if (!it)
		return fail(ENOMEM);
	if (sock_state(s) == SOCK_LINUX) {
		struct item old = *it;

		it->events = ev->events;
		it->data = ev->data.u64;
		if (!item_kernel(it, EPOLL_CTL_ADD)) {
			it->disabled = false;
			return 0;
		}
		if (was_known) {
			it->events = old.events;
			it->data = old.data;
			it->tagged = old.tagged;
		} else {
			int err = errno;

			item_remove(it);
			errno = err;
		}
		return -1;
	}
	if (!ep_listen(ep, s->core, s->context)) {
		item_remove(it);
		return fail(ENOMEM);
	}
	it->events = ev->events;
	it->data = ev->data.u64;
	item_to_user(it);
	item_queue(it, NULL);
	return 0;
}

static int ctl_mod(struct ep *ep, struct sock *s, int fd, const struct epoll_event *ev)
{
	struct item *it = item_find(s, ep, fd);

	if (!it)
		return sock_state(s) == SOCK_LINUX
			       ? libc()->epoll_ctl(ep->epfd, EPOLL_CTL_MOD, fd, (struct epoll_event *)(uintptr_t)ev)
			       : fail(ENOENT);
	if (!ev)
		return fail(EFAULT);
	if (it->where == ITEM_USER && ((it->events | ev->events) & EPOLLEXCLUSIVE))
		return fail(EINVAL);
	if (lock_take(&ep->lock)) {
		it->events = ev->events;
		it->data = ev->data.u64;
		it->disabled = false;
		lock_drop(&ep->lock);
	}
	if (it->where == ITEM_USER) {
		item_queue(it, NULL);
		return 0;
	}
	return item_kernel(it, it->where == ITEM_PARKED ? EPOLL_CTL_ADD : EPOLL_CTL_MOD);
}

static int ctl_del(struct ep *ep, struct sock *s, int fd)
{
	struct item *it = item_find(s, ep, fd);
	struct epoll_event none = {0};
	int ret = 0;

	if (!it)
		return sock_state(s) == SOCK_LINUX ? libc()->epoll_ctl(ep->epfd, EPOLL_CTL_DEL, fd, &none)
						   : fail(ENOENT);
	if (it->where == ITEM_KERNEL)
		ret = libc()->epoll_ctl(ep->epfd, EPOLL_CTL_DEL, fd, &none);
	item_remove(it);
	return ret;
}

/* A file that is not a tracked socket: the kernel's alone. */
static int ctl_other(int epfd, int op, int fd, struct epoll_event *ev)
{
	struct file *f = file_get(fd);

	if (f) {
		enum file_type type = f->type;

		if (type == FILE_EPOLL && op == EPOLL_CTL_ADD)
			atomic_store(&container_of(f, struct ep, file)->nested, true);
		file_put(f);
		if (type == FILE_OWN)
			return fail(EBADF);
	}
	return libc()->epoll_ctl(epfd, op, fd, ev);
}

PUBLIC int epoll_ctl(int epfd, int op, int fd, struct epoll_event *ev)
{
	struct sock *s = sock_get(fd);
	struct file *f;
	int ret, saved = errno;

	if (!s)
		return ctl_other(epfd, op, fd, ev);
	f = file_get(epfd);
	if (!f || f->type != FILE_EPOLL || !lock_take(&s->lock)) {
		s->try_at = NEVER; /* in a set that we cannot see */
		ret = libc()->epoll_ctl(epfd, op, fd, ev);
	} else {
		struct ep *ep = container_of(f, struct ep, file);

		ep->epfd = epfd;
		if (op == EPOLL_CTL_ADD)
			ret = ctl_add(ep, s, fd, ev);
		else if (op == EPOLL_CTL_MOD)
			ret = ctl_mod(ep, s, fd, ev);
		else if (op == EPOLL_CTL_DEL)
			ret = ctl_del(ep, s, fd);
		else
			ret = fail(EINVAL);
		lock_drop(&s->lock);
	}
	if (f)
		file_put(f);
	sock_put(s);
	if (!ret)
		errno = saved;
	return ret;
}
