/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Membership of TCP sockets in epoll instances: items, and their moves between the kernel's set
 * and the user-level one at adoption. Not in a packet's way. Any thread.
 *
 * Invariants: an item belongs to one socket's list (s->lock) and one instance's list
 * (ep->lock, taken inside). While its socket is ADOPTING or FAST an item is not in the
 * kernel's set, so nobody sees the kernel socket's readiness. ONESHOT items are registered
 * with a tag in place of the application's data, so that we learn when the kernel disables
 * them.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <string.h>

#include "preload/epoll.h"

#define ITEMS (1u << 20) /* a tag is an item's number and 12 bits of generation: 6 lives, 6 registrations */
#define TAG_LIFE (1u << 26)
#define TAG_REG (1u << 20)

_Atomic bool ep_tags_used;

static struct pool item_pool = {.size = sizeof(struct item)};
static _Atomic(struct item *) items[ITEMS]; /* by number; an item keeps its number for ever */
static _Atomic uint32_t items_next = 1;
static uint32_t items_inherited; /* in a forked child: numbers below are the parent's */

/* ---- items ---- */

struct item *item_find(const struct sock *s, const struct ep *ep, int fd)
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

/* Give @it a number for tags. ep->lock and s->lock held. */
static bool item_number(struct item *it)
{
	uint32_t id = it->id ? it->id : atomic_fetch_add_explicit(&items_next, 1, memory_order_relaxed);

	if (id >= ITEMS) {
		atomic_store_explicit(&items_next, ITEMS, memory_order_relaxed);
		return false;
	}
	if (!it->id) {
		it->id = id;
		atomic_store_explicit(&items[id], it, memory_order_release);
	}
	it->tag = (it->tag & ~(ITEMS - 1)) | id;
	return true;
}

/* The socket's list: EXCLUSIVE ones at the end, first come first served, as in Linux's wait queues. */
static void item_link(struct sock *s, struct item *it, bool exclusive)
{
	struct item **p = &s->items;

	while (exclusive && *p)
		p = &(*p)->sock_next;
	it->sock_next = *p;
	*p = it;
}

/* ep->lock held. */
static void items_count(struct ep *ep, uint32_t more)
{
	uint32_t n = atomic_load_explicit(&ep->items, memory_order_relaxed);

	atomic_store_explicit(&ep->items, n + more, memory_order_relaxed);
}

struct item *item_add(struct sock *s, struct ep *ep, int fd, const struct epoll_event *ev)
{
	struct item *it = s->first.ep ? pool_get(&item_pool) : &s->first; /* mostly it is the only one */

	if (!it)
		return NULL;
	it->sock = s;
	if (!lock_take(&ep->lock)) {
		item_put(it);
		return NULL;
	}
	it->ep = ep;
	it->fd = fd;
	it->events = ev->events;
	it->data = ev->data.u64;
	it->where = ITEM_NONE;
	it->queued = false;
	atomic_store_explicit(&it->disabled, false, memory_order_relaxed);
	it->all_prev = NULL;
	it->all_next = ep->all;
	if (ep->all)
		ep->all->all_prev = it;
	ep->all = it;
	items_count(ep, 1);
	atomic_store_explicit(&it->owner, ep, memory_order_release);
	item_link(s, it, ev->events & EPOLLEXCLUSIVE);
	return it;
}

void item_remove(struct item *it)
{
	struct ep *ep = it->ep;
	struct item **p = &it->sock->items;

	if (!lock_take(&ep->lock))
		return; /* cannot be: no application code runs under ep->lock but signal handlers, see lock.h */
	while (*p && *p != it)
		p = &(*p)->sock_next;
	if (*p)
		*p = it->sock_next;
	item_unqueue(it);
	if (it->all_prev)
		it->all_prev->all_next = it->all_next;
	else
		ep->all = it->all_next;
	if (it->all_next)
		it->all_next->all_prev = it->all_prev;
	if (it->where == ITEM_USER)
		atomic_fetch_sub_explicit(&ep->users, 1, memory_order_relaxed);
	items_count(ep, -1u);
	it->where = ITEM_NONE;
	it->tag = (it->tag + TAG_LIFE) & ~((TAG_LIFE - 1) ^ (TAG_REG - 1));
	atomic_store_explicit(&it->owner, NULL, memory_order_release);
	ep_unkick(ep);
	lock_drop(&ep->lock);
	item_put(it);
}

int item_kernel(struct item *it, int op)
{
	struct epoll_event ev = {.events = it->events, .data.u64 = it->data};
	int ret, fd = it->fd;

	if (atomic_load_explicit(&fd_table[fd], memory_order_relaxed) != &it->sock->file)
		fd = it->sock->fd; /* closed, while a duplicate lives */
	if (it->events & EPOLLONESHOT) {
		if (!item_number(it)) {
			errno = ENOMEM;
			return -1;
		}
		it->tag = (it->tag & ~((TAG_LIFE - 1) ^ (TAG_REG - 1))) | ((it->tag + TAG_REG) & (TAG_LIFE - 1));
		ev.data.u64 = EP_TAG | it->tag;
		atomic_store_explicit(&it->sock->tagged, true, memory_order_relaxed);
		atomic_store_explicit(&ep_tags_used, true, memory_order_relaxed);
	}
	ret = libc()->epoll_ctl(ep_fd(it->ep), op, fd, &ev);
	if (!ret)
		it->where = ITEM_KERNEL;
	return ret;
}

bool item_fired(struct ep *ep, uint32_t tag, uint64_t *data)
{
	struct item *it = atomic_load_explicit(&items[tag % ITEMS], memory_order_acquire);
	bool ours, is_child = !ep && it && tag % ITEMS < items_inherited;

	if (it && !ep) /* a number that is being closed, or reused, in another thread */
		ep = atomic_load_explicit(&it->owner, memory_order_acquire);
	if (!it || !ep || (!is_child && atomic_load_explicit(&it->owner, memory_order_acquire) != ep))
		return false;
	if (is_child) { /* its parent's instance: our copy is of the time of the fork, and nobody changes it */
		*data = it->data;
		return !((it->tag ^ tag) & ~(TAG_LIFE - 1));
	}
	if (!lock_take(&ep->lock))
		return false;
	/* another life: it was removed meanwhile. Another registration: armed again meanwhile. */
	ours = atomic_load_explicit(&it->owner, memory_order_relaxed) == ep && !((it->tag ^ tag) & ~(TAG_LIFE - 1));
	if (ours) {
		*data = it->data;
		if (it->tag == tag)
			it->disabled = true;
	}
	lock_drop(&ep->lock);
	return ours;
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

/* Can @it leave the kernel's set now? */
static bool item_can_leave(const struct item *it)
{
	struct ep *ep = it->ep;

	if (ep->alone || ep->lent)
		return false;
	if (it->where != ITEM_KERNEL)
		return true;
	/* registered under a number that is closed: Linux cannot remove it either */
	if (atomic_load_explicit(&fd_table[it->fd], memory_order_relaxed) != &it->sock->file)
		return false;
	/* it may have fired in a thread that has not told us yet */
	return !(it->events & EPOLLONESHOT) || it->disabled || !atomic_load_explicit(&ep->inside, memory_order_seq_cst);
}

bool ep_items_to_user(struct sock *s)
{
	for (struct item *it = s->items; it; it = it->sock_next)
		if (!item_can_leave(it) || !ep_listen(it->ep, s->core, s->context))
			return false;
	for (struct item *it = s->items; it; it = it->sock_next) {
		struct epoll_event none = {0};

		if (it->where == ITEM_USER || !lock_take(&it->ep->lock))
			continue;
		if (it->where == ITEM_KERNEL)
			libc()->epoll_ctl(ep_fd(it->ep), EPOLL_CTL_DEL, it->fd, &none);
		it->where = ITEM_USER;
		atomic_fetch_add_explicit(&it->ep->users, 1, memory_order_relaxed);
		if (!it->queued && !it->disabled) /* looks that do not wait must know that it is on its way */
			item_append(it);
		lock_drop(&it->ep->lock);
	}
	return true;
}

void ep_items_to_kernel(struct sock *s)
{
	for (struct item *it = s->items; it; it = it->sock_next) {
		if (it->where != ITEM_USER || !lock_take(&it->ep->lock))
			continue;
		item_unqueue(it);
		atomic_fetch_sub_explicit(&it->ep->users, 1, memory_order_relaxed);
		it->where = ITEM_PARKED;
		if (!it->disabled && item_kernel(it, EPOLL_CTL_ADD))
			item_kernel(it, EPOLL_CTL_MOD);
		ep_unkick(it->ep);
		lock_drop(&it->ep->lock);
	}
}

void ep_items_plain(struct sock *s)
{
	for (struct item *it = s->items; it; it = it->sock_next) {
		struct epoll_event ev = {.events = it->events, .data.u64 = it->data};

		if (!(it->events & EPOLLONESHOT) || !lock_take(&it->ep->lock))
			continue;
		if (it->where == ITEM_PARKED) { /* it has fired: the application's MOD must find it */
			ev.events &= EP_FLAGS;
			libc()->epoll_ctl(ep_fd(it->ep), EPOLL_CTL_ADD, it->fd, &ev);
		} else if (!it->disabled) {
			libc()->epoll_ctl(ep_fd(it->ep), EPOLL_CTL_MOD, it->fd, &ev);
		}
		lock_drop(&it->ep->lock);
	}
}

void ep_items_remove(struct sock *s)
{
	struct item *last = NULL;

	while (s->items && s->items != last) {
		last = s->items;
		item_remove(last);
	}
}

void ep_items_forget(struct sock *s)
{
	for (struct item *it = s->items; it; it = it->sock_next) {
		struct epoll_event none = {0};

		if (it->where != ITEM_KERNEL || it->fd != s->fd || !lock_take(&it->ep->lock))
			continue;
		libc()->epoll_ctl(ep_fd(it->ep), EPOLL_CTL_DEL, it->fd, &none);
		lock_drop(&it->ep->lock);
	}
}

void item_doubt(struct sock *s)
{
	s->keep_linux = true;
	s->try_at = NEVER;
}

void ep_item_note_locked(struct sock *s, struct ep *ep, int fd, const struct epoll_event *ev)
{
	struct item *it = item_find(s, ep, fd);

	if (it || !ev) { /* another thread has been here meanwhile, and which was the first is not known */
		if (it && !ev)
			item_remove(it);
		item_doubt(s);
		return;
	}
	it = item_add(s, ep, fd, ev);
	if (it) {
		it->where = ITEM_KERNEL;
		lock_drop(&ep->lock);
	} else { /* no memory, or a handler on top of a call on the instance */
		item_doubt(s);
	}
}

void ep_item_note(struct sock *s, struct ep *ep, int fd, const struct epoll_event *ev)
{
	if (lock_take(&s->lock)) {
		ep_item_note_locked(s, ep, fd, ev);
		lock_drop(&s->lock);
	} else { /* a handler, on top of a call on it */
		item_doubt(s);
	}
}

void item_child(void)
{
	/* what is inherited is left as it is, for the tags of an instance that we share with the parent */
	item_pool = (struct pool){.size = sizeof(struct item)};
	items_inherited = atomic_load(&items_next);
}
