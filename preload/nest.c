/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Epoll instances that somebody else looks at: another epoll instance they are a member of, or
 * poll() and select(). Not in a packet's way, but when such an instance is waited for. Any thread.
 *
 * Who looks at an instance sees its kernel set alone. So a watched instance is `mixed`: its set
 * holds an eventfd of its own, the kick, that is readable while the user-level ready list holds
 * something, and the eventfds of contexts are no longer in it, as they would make it readable
 * when nothing is. The kernel then does the rest: levels, edges, ONESHOT, instances within
 * instances within instances. Somebody must turn bells into kicks: whoever waits for a mixed
 * instance, or for one it is below of, listens to the contexts of all of them (wait_fd()),
 * and brings the lists up to date first (nest_refresh()).
 *
 * Invariants: an instance that was mixed stays so. `kicked` says whether the eventfd is
 * readable; it is cleared only when the ready list is empty and nobody sleeps in the set in the
 * belief that contexts ring there (plain).
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>

#include "preload/epoll.h"

#define DEPTH 6 /* Linux allows five levels */
#define ROUND 16

/* @inner is a member of @outer, as descriptor @fd. */
struct link {
	struct link *next;
	struct ep *outer, *inner;
	int fd;
	void *pool_link;
};

static struct lock nest_lock;
static struct link *links;      /* nest_lock */
static _Atomic uint32_t nlinks; /* so that those without pay nothing */
static struct pool link_pool = {.size = sizeof(struct link)};

void nest_child(void)
{
	nest_lock.owner = 0;
	link_pool.lock.owner = 0;
	links = NULL;
	atomic_store(&nlinks, 0);
}

/* ---- the kick ---- */

void ep_kick(struct ep *ep)
{
	uint64_t one = 1;

	if (!atomic_load_explicit(&ep->mixed, memory_order_relaxed))
		return;
	/* each time: it is an edge for who watches with EPOLLET */
	ep->kicked = true;
	(void)!syscall(SYS_write, ep->kick, &one, sizeof(one));
}

void ep_unkick(struct ep *ep)
{
	uint64_t count;

	if (!ep->kicked || ep->ready.head || atomic_load_explicit(&ep->plain, memory_order_seq_cst))
		return;
	ep->kicked = false;
	(void)!syscall(SYS_read, ep->kick, &count, sizeof(count));
}

static int kick_open(void)
{
	int fd = (int)syscall(SYS_eventfd2, 0, EFD_CLOEXEC | EFD_NONBLOCK), high;

	if (fd < 0)
		return -1;
	high = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 500L);
	if (high >= 0) {
		syscall(SYS_close, fd);
		fd = high;
	}
	fd_set_file(fd, NULL);
	return fd;
}

/* ep->lock held. */
static bool mix_locked(struct ep *ep)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = EP_MARK};
	struct core *c = atomic_load_explicit(&ep->core, memory_order_acquire);
	int epfd = ep_fd(ep), fd = kick_open();

	if (fd < 0)
		return false;
	if (libc()->epoll_ctl(epfd, EPOLL_CTL_ADD, fd, &ev)) {
		fd_forget(fd);
		syscall(SYS_close, fd);
		return false;
	}
	ep->kick = fd;
	/* pairs with the look at it in ep_sleep(), after plain was raised */
	atomic_store_explicit(&ep->mixed, true, memory_order_seq_cst);
	for (uint64_t m = atomic_load_explicit(&ep->contexts, memory_order_acquire); c && m; m &= m - 1)
		libc()->epoll_ctl(epfd, EPOLL_CTL_DEL, core_context_fd(c, (uint32_t)__builtin_ctzll(m)), &ev);
	if (c) {
		libc()->epoll_ctl(epfd, EPOLL_CTL_DEL, c->sock, &ev);
		libc()->epoll_ctl(epfd, EPOLL_CTL_DEL, c->news, &ev);
	}
	ep_kick(ep); /* sleepers look again */
	return true;
}

bool ep_mix(struct ep *ep)
{
	int saved = errno;
	bool ok = true;

	if (atomic_load_explicit(&ep->mixed, memory_order_acquire) ||
	    !atomic_load_explicit(&ep->watched, memory_order_seq_cst))
		return true;
	if (!lock_take(&ep->lock))
		return false;
	if (!atomic_load_explicit(&ep->mixed, memory_order_relaxed))
		ok = mix_locked(ep);
	lock_drop(&ep->lock);
	if (!ok)
		atomic_store_explicit(&ep->alone, true, memory_order_relaxed);
	errno = saved;
	return ok;
}

void ep_watch(struct ep *ep)
{
	/* full fence: either ep_listen() sees it, or the core is seen here */
	if (!atomic_load_explicit(&ep->watched, memory_order_relaxed))
		atomic_store_explicit(&ep->watched, true, memory_order_seq_cst);
	if (atomic_load_explicit(&ep->core, memory_order_seq_cst))
		ep_mix(ep);
}

/* ---- who is inside whom ---- */

bool nest_any(const struct ep *ep)
{
	return atomic_load_explicit(&ep->mixed, memory_order_acquire) ||
	       (atomic_load_explicit(&nlinks, memory_order_relaxed) &&
		atomic_load_explicit(&ep->watched, memory_order_relaxed));
}

bool nest_add(struct ep *outer, struct ep *inner, int fd)
{
	struct link *l = pool_get(&link_pool);

	if (!l)
		return false;
	if (!lock_take(&nest_lock)) {
		pool_put(&link_pool, l);
		return false;
	}
	*l = (struct link){.next = links, .outer = outer, .inner = inner, .fd = fd};
	links = l;
	atomic_fetch_add_explicit(&nlinks, 1, memory_order_relaxed);
	lock_drop(&nest_lock);
	ep_watch(inner);
	ep_watch(outer);
	return true;
}

/* Remove links for which @outer, @inner and @fd (unless NULL, NULL, -1) are these. */
static void links_drop(const struct ep *outer, const struct ep *inner, int fd)
{
	struct link **p = &links;

	if (!atomic_load_explicit(&nlinks, memory_order_relaxed) || !lock_take(&nest_lock))
		return;
	while (*p) {
		struct link *l = *p;

		if ((outer && l->outer != outer) || (inner && l->inner != inner) || (fd >= 0 && l->fd != fd)) {
			p = &l->next;
			continue;
		}
		*p = l->next;
		atomic_fetch_sub_explicit(&nlinks, 1, memory_order_relaxed);
		pool_put(&link_pool, l);
	}
	lock_drop(&nest_lock);
}

void nest_remove(struct ep *outer, struct ep *inner, int fd)
{
	links_drop(outer, inner, fd);
}

void nest_closed(struct ep *ep)
{
	links_drop(ep, NULL, -1);
	links_drop(NULL, ep, -1);
}

/* Up to ROUND members of @outer from the @from-th on, with a reference each. */
static uint32_t nest_members(const struct ep *outer, uint32_t from, struct ep **out)
{
	uint32_t n = 0, i = 0;

	if (!lock_take(&nest_lock))
		return 0;
	for (struct link *l = links; l && n < ROUND; l = l->next)
		if (l->outer == outer && i++ >= from && file_hold(&l->inner->file))
			out[n++] = l->inner;
	lock_drop(&nest_lock);
	return n;
}

static void refresh(struct ep *ep, bool self, struct core **core, uint64_t *contexts, int depth)
{
	struct core *c = atomic_load_explicit(&ep->core, memory_order_acquire);
	struct ep *inner[ROUND];
	uint32_t n = ROUND;

	if (self && c) {
		ep_take(ep);
		ep_refresh(ep);
	}
	/* one service at a time: the sockets of one that has gone have failed, and are ready */
	if (c && !core_is_dead(c) && (!*core || *core == c)) {
		*core = c;
		*contexts |= atomic_load_explicit(&ep->contexts, memory_order_acquire);
	}
	if (!atomic_load_explicit(&nlinks, memory_order_relaxed) || depth == DEPTH)
		return;
	for (uint32_t from = 0; n == ROUND; from += ROUND) {
		n = nest_members(ep, from, inner);
		for (uint32_t i = 0; i < n; i++) {
			refresh(inner[i], true, core, contexts, depth + 1);
			file_put(&inner[i]->file);
		}
	}
}

void nest_refresh(struct ep *ep, bool self, struct core **core, uint64_t *contexts)
{
	refresh(ep, self, core, contexts, 0);
}
