/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Membership of TCP sockets in epoll instances: epoll_ctl, and the moves between the
 * kernel's set and the user-level one at adoption. Not in a packet's way. Any thread.
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

#include "preload/brief.h"
#include "preload/epoll.h"
#include "service/base/clock.h"
#include "preload/share.h"
#include "preload/user.h"

#define ITEMS (1u << 20) /* a tag is an item's number and 12 bits of generation: 6 lives, 6 registrations */
#define TAG_LIFE (1u << 26)
#define TAG_REG (1u << 20)
/* What Linux permits beside EPOLLEXCLUSIVE. */
#define EXCLUSIVE_OK ((uint32_t)(EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE))

_Atomic bool ep_tags_used;

static struct pool item_pool = {.size = sizeof(struct item)};
static _Atomic(struct item *) items[ITEMS]; /* by number; an item keeps its number for ever */
static _Atomic uint32_t items_next = 1;
static uint32_t items_inherited; /* in a forked child: numbers below are the parent's */

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

/* A new item, with ep->lock held; or NULL, without. */
static struct item *item_add(struct sock *s, struct ep *ep, int fd, const struct epoll_event *ev)
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

/* Register it in the kernel's set. ep->lock and s->lock held. */
static int item_kernel(struct item *it, int op)
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

/* What the kernel's set has of @s is not known for certain: nobody may take it from there. */
static void item_doubt(struct sock *s)
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

/* ---- epoll_ctl ---- */

static int fail(int err)
{
	errno = err;
	return -1;
}

/* Remove @it, keep errno. */
static int item_undo(struct item *it, int err)
{
	item_remove(it);
	return fail(err);
}

/* Register @it with @ev in the kernel's set; if Linux refuses, it stays as it was. s->lock and ep->lock held. */
static int ctl_register(struct item *it, int op, const struct epoll_event *ev)
{
	uint32_t events = it->events, tag = it->tag;
	uint64_t data = it->data;
	int ret;

	it->events = ev->events;
	it->data = ev->data.u64;
	ret = item_kernel(it, op);
	if (ret) {
		it->events = events;
		it->data = data;
		it->tag = tag;
	} else {
		atomic_store_explicit(&it->disabled, false, memory_order_relaxed);
	}
	return ret;
}

/* The same with s->lock alone. */
static int ctl_kernel(struct item *it, int op, const struct epoll_event *ev)
{
	int ret;

	if (!lock_take(&it->ep->lock))
		return fail(ENOMEM);
	ret = ctl_register(it, op, ev);
	lock_drop(&it->ep->lock);
	return ret;
}

static int ctl_add(struct ep *ep, struct sock *s, int fd, const struct epoll_event *ev)
{
	struct item *it = item_find(s, ep, fd);
	bool is_linux;
	int ret = 0;

	if ((ev->events & EPOLLEXCLUSIVE) && (ev->events & ~EXCLUSIVE_OK))
		return fail(EINVAL);
	if (it && it->where == ITEM_KERNEL) /* EEXIST, unless it went with a close that we did not see */
		return ctl_kernel(it, EPOLL_CTL_ADD, ev);
	if (it)
		return fail(EEXIST);
	it = item_add(s, ep, fd, ev);
	if (!it)
		return fail(ENOMEM);
	is_linux = sock_state(s) == SOCK_LINUX;
	if (is_linux)
		ret = ctl_register(it, EPOLL_CTL_ADD, ev);
	lock_drop(&ep->lock);
	if (is_linux)
		return ret ? item_undo(it, errno) : 0;
	/* AWAY, and no service heard yet: the list asks again, and the claim makes the instance listen */
	if (ep->alone || ep->lent || (s->core && !ep_listen(ep, s->core, s->context)) || !lock_take(&ep->lock))
		return item_undo(it, ENOMEM);
	it->where = ITEM_USER;
	atomic_fetch_add_explicit(&ep->users, 1, memory_order_relaxed);
	lock_drop(&ep->lock);
	item_queue(it, NULL);
	return 0;
}

/*
 * The kernel's set may have @s without an item: another thread's call on what was a brief connection then is about to
 * return, and to note what it has done, which is not the latest.
 */
static int ctl_unknown(struct ep *ep, struct sock *s, int op, int fd, struct epoll_event *ev)
{
	int ret;

	if (sock_state(s) != SOCK_LINUX)
		return fail(ENOENT);
	ret = libc()->epoll_ctl(ep_fd(ep), op, fd, ev);
	if (!ret)
		item_doubt(s);
	return ret;
}

static int ctl_mod(struct ep *ep, struct sock *s, int fd, const struct epoll_event *ev)
{
	struct item *it = item_find(s, ep, fd);

	if (ev->events & EPOLLEXCLUSIVE)
		return fail(EINVAL);
	if (!it)
		return ctl_unknown(ep, s, EPOLL_CTL_MOD, fd, (struct epoll_event *)(uintptr_t)ev);
	if (it->events & EPOLLEXCLUSIVE)
		return fail(EINVAL);
	if (it->where != ITEM_USER)
		return ctl_kernel(it, it->where == ITEM_KERNEL ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, ev);
	if (!lock_take(&ep->lock))
		return fail(ENOMEM);
	it->events = ev->events;
	it->data = ev->data.u64;
	it->disabled = false;
	lock_drop(&ep->lock);
	item_queue(it, NULL);
	return 0;
}

static int ctl_del(struct ep *ep, struct sock *s, int fd)
{
	struct item *it = item_find(s, ep, fd);
	struct epoll_event none = {0};
	int ret = 0;

	if (!it)
		return ctl_unknown(ep, s, EPOLL_CTL_DEL, fd, &none);
	if (it->where == ITEM_KERNEL)
		ret = libc()->epoll_ctl(ep_fd(ep), EPOLL_CTL_DEL, fd, &none);
	item_remove(it);
	return ret;
}

static int ctl_sock(struct ep *ep, struct sock *s, int op, int fd, const struct epoll_event *ev)
{
	if (op == EPOLL_CTL_ADD)
		return ctl_add(ep, s, fd, ev);
	if (op == EPOLL_CTL_MOD)
		return ctl_mod(ep, s, fd, ev);
	return op == EPOLL_CTL_DEL ? ctl_del(ep, s, fd) : fail(EINVAL);
}

/* An epoll instance @in was put into, or taken out of, @outer (NULL: one that we cannot see). */
static void ctl_nest(struct ep *outer, struct ep *in, int op, int fd)
{
	if (outer && op == EPOLL_CTL_DEL)
		nest_remove(outer, in, fd);
	else if (outer && !nest_add(outer, in, fd))
		atomic_store_explicit(&in->alone, true, memory_order_relaxed);
	else if (!outer && op == EPOLL_CTL_ADD)
		ep_lend(in);
}

static void ctl_count(struct ep *ep, int op)
{
	uint32_t n = atomic_load_explicit(&ep->others, memory_order_relaxed);

	if (op == EPOLL_CTL_ADD)
		atomic_fetch_add_explicit(&ep->others, 1, memory_order_relaxed);
	while (op == EPOLL_CTL_DEL && n && /* it need not be one that was counted */
	       !atomic_compare_exchange_weak_explicit(&ep->others, &n, n - 1, memory_order_relaxed,
						      memory_order_relaxed))
		;
}

/* A file that is not a tracked socket: the kernel's alone, but we must know which instances are in which. */
static int ctl_other(int epfd, int op, int fd, struct epoll_event *ev)
{
	struct file *f = file_get(fd), *outer = file_get(epfd);
	struct ep *out = outer && outer->type == FILE_EPOLL ? container_of(outer, struct ep, file) : NULL;
	int ret;

	if (outer && outer->type == FILE_LENT)
		lend_use(outer, epfd);
	if (f && f->type == FILE_LENT)
		lend_use(f, fd);
	if (f && f->type != FILE_LENT && f->type != FILE_EPOLL)
		ret = fail(EBADF); /* one of our own */
	else
		ret = libc()->epoll_ctl(epfd, op, fd, ev);
	if (!ret && out)
		ctl_count(out, op);
	if (!ret && f && f->type == FILE_EPOLL && op != EPOLL_CTL_MOD)
		ctl_nest(out, container_of(f, struct ep, file), op, fd);
	if (outer)
		file_put(outer);
	if (f)
		file_put(f);
	return ret;
}

/* Can adopted sockets be members of @f, the epoll instance of a call? */
static bool can_be_seen(struct file *f)
{
	struct ep *ep = container_of(f, struct ep, file);

	if (!f || f->type != FILE_EPOLL)
		return false;
	lend_check(ep);
	return !ep->alone && !ep->lent;
}

PUBLIC int epoll_ctl(int epfd, int op, int fd, struct epoll_event *ev)
{
	struct sock *s;
	struct file *f;
	int ret, saved = errno;

	if (brief_id(fd) && brief_ctl(epfd, op, fd, ev, &ret))
		return ret;
	s = sock_get(fd);
	if (!s)
		return ctl_other(epfd, op, fd, ev);
	f = file_get(epfd);
	if (f && f->type == FILE_LENT)
		lend_use(f, epfd);
	if (op != EPOLL_CTL_DEL && sock_state(s) == SOCK_LINUX)
		share_enter(s);
	if (op != EPOLL_CTL_DEL && sock_is_open(s) && user_readable(ev, sizeof(*ev)))
		atomic_fetch_or_explicit(&s->need, (uint8_t)io_of_events(ev->events), memory_order_relaxed);
	for (uint64_t until = 0; sock_state(s) == SOCK_AWAY;) { /* certain, or under way */
		until = until ? until : clock_now_ns() + NS_PER_S;
		if (wait_sock(s, 0, until) == -EAGAIN)
			break;
	}
	if (op == EPOLL_CTL_ADD && !can_be_seen(f))
		ep_leave(s); /* in a set that we cannot see */
	if (!f || f->type != FILE_EPOLL) {
		ret = libc()->epoll_ctl(epfd, op, fd, ev);
	} else if (op != EPOLL_CTL_DEL && !user_readable(ev, sizeof(*ev))) {
		ret = fail(EFAULT);
	} else if (!lock_take(&s->lock)) {
		ret = fail(ENOMEM); /* a handler on top of a call on this very socket */
	} else {
		ret = ctl_sock(container_of(f, struct ep, file), s, op, fd, ev);
		lock_drop(&s->lock);
	}
	if (f)
		file_put(f);
	sock_put(s);
	if (!ret)
		errno = saved;
	return ret;
}
