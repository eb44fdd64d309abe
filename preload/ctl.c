/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * epoll_ctl(). The kernel's set is changed, and judges, as long as a socket is Linux's. Not in a packet's way. Any
 * thread.
 *
 * Invariant: what the application's call did to the kernel's set and what the item says of it change under
 * s->lock; a brief connection has no item (brief.c).
 */
#define _GNU_SOURCE 1
#include <errno.h>

#include "preload/brief.h"
#include "preload/epoll.h"
#include "preload/share.h"
#include "preload/user.h"
#include "service/base/clock.h"

/* What Linux permits beside EPOLLEXCLUSIVE. */
#define EXCLUSIVE_OK ((uint32_t)(EPOLLIN | EPOLLOUT | EPOLLERR | EPOLLHUP | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE))

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
