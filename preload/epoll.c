/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Waiting on epoll instances that hold adopted sockets. Place in the packet's way: the fast
 * thread has rung a context's bell; here the news becomes events. Any thread.
 *
 * The bell is taken, the items of each socket with news go to the ready list of their
 * instance, and the list is turned into events: level-triggered items stay on it while their
 * condition holds, edge-triggered ones leave it until there is news, ONESHOT ones until MOD.
 * The kernel's own set is merged in. Before sleeping, every context is armed, a full fence is
 * issued, and bell and list are looked at once more; the wake-up comes through the context's
 * eventfd in the kernel's set, edge-triggered and never read.
 *
 * Invariant: whoever leaves with events while others still sleep on the same instance arms
 * the contexts again and passes on what is left, so no news waits for a thread that is busy.
 */
#define _GNU_SOURCE 1
#include "preload/epoll.h"

#include <errno.h>
#include <string.h>

#include "service/base/clock.h"

#define TAKE 64 /* members of a bell taken at once */
#define SETTLE 32
#define MERGE_EVERY 8 /* while there are adopted sockets' events, the kernel is asked every so many calls */

/* ---- the ready list ---- */

void item_unqueue(struct item *it)
{
	struct item_list *l = &it->ep->ready;

	if (!it->queued)
		return;
	if (it->ready_prev)
		it->ready_prev->ready_next = it->ready_next;
	else
		l->head = it->ready_next;
	if (it->ready_next)
		it->ready_next->ready_prev = it->ready_prev;
	else
		l->tail = it->ready_prev;
	it->ready_prev = it->ready_next = NULL;
	it->queued = false;
	atomic_fetch_sub_explicit(&it->ep->nready, 1, memory_order_seq_cst);
}

static void item_append(struct item *it)
{
	struct item_list *l = &it->ep->ready;

	it->ready_prev = l->tail;
	it->ready_next = NULL;
	if (l->tail)
		l->tail->ready_next = it;
	else
		l->head = it;
	l->tail = it;
	it->queued = true;
	/* full fence: pairs with sleepers in ep_wait() */
	atomic_fetch_add_explicit(&it->ep->nready, 1, memory_order_seq_cst);
}

void ep_wake(struct ep *ep)
{
	struct core *c = atomic_load_explicit(&ep->core, memory_order_acquire);
	uint64_t mask = atomic_load_explicit(&ep->contexts, memory_order_acquire);

	if (c && mask)
		core_context_wake(c, (uint32_t)__builtin_ctzll(mask));
}

void item_queue(struct item *it, struct ep *self)
{
	struct ep *ep = it->ep;

	if (!lock_take(&ep->lock))
		return;
	if (!it->queued && !it->disabled)
		item_append(it);
	lock_drop(&ep->lock);
	if (ep != self && atomic_load_explicit(&ep->sleepers, memory_order_seq_cst))
		ep_wake(ep);
}

bool ep_listen(struct ep *ep, struct core *c, uint32_t context)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.u64 = EP_MARK};
	struct core *old = atomic_load_explicit(&ep->core, memory_order_acquire);
	uint64_t bit = 1ull << context;

	if (old == c && (atomic_load_explicit(&ep->contexts, memory_order_acquire) & bit))
		return true;
	if (old != c) { /* another start of the service: what is left of the old one has failed */
		atomic_store_explicit(&ep->contexts, 0, memory_order_release);
		atomic_store_explicit(&ep->core, c, memory_order_release);
		ev.events = EPOLLRDHUP | EPOLLET;
		libc()->epoll_ctl(ep->epfd, EPOLL_CTL_ADD, c->sock, &ev);
		ev.events = EPOLLIN | EPOLLET;
	}
	if (libc()->epoll_ctl(ep->epfd, EPOLL_CTL_ADD, core_context_fd(c, context), &ev) && errno != EEXIST)
		return false;
	core_context_ref(c, context);
	atomic_fetch_or_explicit(&ep->contexts, bit, memory_order_release);
	return true;
}

/* ---- news ---- */

void ep_news(struct core *c, uint32_t slot, struct ep *self)
{
	struct sock *s = slot < IPC_SLOTS ? atomic_load_explicit(&c->owner[slot], memory_order_acquire) : NULL;

	if (!s)
		return;
	if (sock_is_open(s))
		sock_settle(s);
	if (!lock_take(&s->lock)) {
		bell_ring(&c->shm->context[s->context].bell, slot); /* a signal handler: later */
		return;
	}
	/* memory of sockets keeps its type: is it still this slot's? */
	if (s->slot == slot && s->core == c)
		ep_items_mark(s, self);
	lock_drop(&s->lock);
}

void ep_drain(struct core *c, uint32_t context, struct ep *self)
{
	struct bell *b = &c->shm->context[context].bell;
	uint32_t slots[TAKE], cursor = 0;

	for (int round = 0; round < IPC_SLOTS / TAKE && bell_any(b); round++) {
		uint32_t n = bell_take(b, slots, TAKE, &cursor);

		for (uint32_t i = 0; i < n; i++)
			ep_news(c, slots[i], self);
		if (n < TAKE)
			break;
	}
}

static void ep_take(struct ep *ep)
{
	struct core *c = atomic_load_explicit(&ep->core, memory_order_acquire);

	if (!c)
		return;
	for (uint64_t mask = atomic_load_explicit(&ep->contexts, memory_order_acquire); mask; mask &= mask - 1)
		ep_drain(c, (uint32_t)__builtin_ctzll(mask), ep);
}

/* The service has gone: every adopted socket of this instance has failed. */
static void ep_all_failed(struct ep *ep)
{
	if (!lock_take(&ep->lock))
		return;
	for (struct item *it = ep->all; it; it = it->all_next)
		if (it->where == ITEM_USER && !it->queued && !it->disabled)
			item_append(it);
	lock_drop(&ep->lock);
}

/* ---- events ---- */

/* Turn ready items into events. */
static int ep_collect(struct ep *ep, struct epoll_event *events, int max)
{
	uint32_t left = atomic_load_explicit(&ep->nready, memory_order_seq_cst), nopen = 0;
	struct sock *open[SETTLE];
	int n = 0;

	if (!left || !lock_take(&ep->lock))
		return 0;
	while (n < max && left-- && ep->ready.head) {
		struct item *it = ep->ready.head;
		uint32_t ev;

		item_unqueue(it);
		if (it->disabled || it->where != ITEM_USER)
			continue;
		if (unlikely(sock_state(it->sock) != SOCK_FAST || sock_is_open(it->sock))) {
			/* its answer marks it again; if the service died without one, it goes back to Linux here */
			if (nopen < SETTLE)
				open[nopen++] = it->sock;
			else
				item_append(it);
			continue;
		}
		ev = sock_events(it->sock, it->events) & ((it->events & ~EP_FLAGS) | EPOLLERR | EPOLLHUP);
		if (!ev)
			continue;
		events[n].events = ev;
		events[n++].data.u64 = it->data;
		if (it->events & EPOLLONESHOT)
			it->disabled = true;
		else if (!(it->events & EPOLLET))
			item_append(it);
	}
	lock_drop(&ep->lock);
	while (nopen) /* memory of sockets keeps its type: one that has gone meanwhile has nothing to settle */
		sock_settle(open[--nopen]);
	return n;
}

/* Take our own marks out of the kernel's events and put the application's data back. */
static int ep_filter(struct epoll_event *events, int n, bool *marked)
{
	int out = 0;

	for (int i = 0; i < n; i++) {
		uint64_t data = events[i].data.u64;

		if (data == EP_MARK) {
			*marked = true;
			continue;
		}
		events[out] = events[i];
		if (unlikely((data & EP_TAG_MASK) == EP_TAG) &&
		    atomic_load_explicit(&ep_tags_used, memory_order_relaxed)) {
			struct item *it = (struct item *)(uintptr_t)(data & ~EP_TAG_MASK);

			it->disabled = true;
			events[out].data.u64 = it->data;
		}
		out++;
	}
	return out;
}

/* ---- waiting ---- */

struct ep_call {
	int epfd, max;
	struct epoll_event *events;
	uint64_t deadline; /* WAIT_FOREVER, or monotonic; 0: do not wait */
	const sigset_t *mask;
	bool precise; /* epoll_pwait2: nanoseconds */
};

static int kernel_wait(const struct ep_call *call, struct epoll_event *events, int max, bool sleep)
{
	uint64_t now, left = 0;

	if (sleep && call->deadline == WAIT_FOREVER) {
		return libc()->epoll_pwait(call->epfd, events, max, -1, call->mask);
	} else if (sleep && call->deadline) {
		now = clock_now_ns();
		left = call->deadline > now ? call->deadline - now : 0;
	}
	if (call->precise && libc()->epoll_pwait2) {
		struct timespec t = {.tv_sec = (time_t)(left / NS_PER_S), .tv_nsec = (long)(left % NS_PER_S)};

		return libc()->epoll_pwait2(call->epfd, events, max, &t, call->mask);
	}
	left = (left + NS_PER_MS - 1) / NS_PER_MS;
	return libc()->epoll_pwait(call->epfd, events, max, left > INT32_MAX ? INT32_MAX : (int)left, call->mask);
}

/* Leaving with events while others sleep on the same instance: see the invariant above. */
static void ep_hand_on(struct ep *ep, struct core *c)
{
	bool work = atomic_load_explicit(&ep->nready, memory_order_seq_cst) != 0;

	if (!c || !atomic_load_explicit(&ep->sleepers, memory_order_seq_cst))
		return;
	for (uint64_t mask = ep->contexts; mask; mask &= mask - 1) {
		uint32_t i = (uint32_t)__builtin_ctzll(mask);

		core_context_arm(c, i);
		work |= bell_any(&c->shm->context[i].bell);
	}
	if (work)
		ep_wake(ep);
}

/* Arm every context. Returns true if there is work already. */
static bool ep_arm(struct ep *ep, struct core *c)
{
	for (uint64_t mask = ep->contexts; mask; mask &= mask - 1) {
		uint32_t i = (uint32_t)__builtin_ctzll(mask);

		core_context_arm(c, i);
		if (bell_any(&c->shm->context[i].bell))
			return true;
	}
	return atomic_load_explicit(&ep->nready, memory_order_seq_cst) != 0;
}

/* Now and then the kernel's set goes first, so that busy adopted sockets do not starve it. */
static int ep_look(struct ep *ep, const struct ep_call *call)
{
	bool marked = false, kernel_first;
	int n = 0, k = 0;

	ep_take(ep);
	kernel_first = atomic_load_explicit(&ep->nready, memory_order_relaxed) &&
		       atomic_fetch_add_explicit(&ep->turns, 1, memory_order_relaxed) % MERGE_EVERY == 0;
	if (kernel_first) {
		k = kernel_wait(call, call->events, call->max, false);
		n = k > 0 ? ep_filter(call->events, k, &marked) : 0;
	}
	n += ep_collect(ep, call->events + n, call->max - n);
	if (!n && kernel_first && k < 0)
		return k; /* a signal */
	if (n || kernel_first || call->deadline)
		return n; /* the sleeping call asks the kernel */
	k = kernel_wait(call, call->events, call->max, false);
	return k > 0 ? ep_filter(call->events, k, &marked) : k;
}

static int ep_wait(struct ep *ep, const struct ep_call *call)
{
	for (;;) {
		struct core *c = atomic_load_explicit(&ep->core, memory_order_acquire);
		bool marked = false;
		int n = c ? ep_look(ep, call) : 0;

		if (n || (c && !call->deadline)) {
			if (n > 0)
				ep_hand_on(ep, c);
			return n;
		}
		if (c)
			/* full fence: pairs with the append in item_queue() */
			atomic_fetch_add_explicit(&ep->sleepers, 1, memory_order_seq_cst);
		n = c && ep_arm(ep, c) ? 0 : kernel_wait(call, call->events, call->max, true);
		if (c)
			atomic_fetch_sub_explicit(&ep->sleepers, 1, memory_order_seq_cst);
		if (n < 0)
			return n;
		if (n > 0) {
			n = ep_filter(call->events, n, &marked);
			c = atomic_load_explicit(&ep->core, memory_order_acquire);
		}
		if (marked && c && core_check(c))
			ep_all_failed(ep);
		if (n > 0) {
			if (c && n < call->max) {
				ep_take(ep);
				n += ep_collect(ep, call->events + n, call->max - n);
			}
			ep_hand_on(ep, c);
			return n;
		}
		if (!marked && !(c && ep->nready) && call->deadline != WAIT_FOREVER &&
		    clock_now_ns() >= call->deadline) {
			n = c ? ep_look(ep, call) : 0;
			return n > 0 ? n : 0;
		}
	}
}

/* An instance we do not know: inherited, perhaps with tags of the parent's. */
static int foreign_wait(const struct ep_call *call)
{
	bool marked;
	int n;

	do {
		marked = false;
		n = kernel_wait(call, call->events, call->max, true);
		if (n > 0)
			n = ep_filter(call->events, n, &marked);
	} while (!n && marked);
	return n;
}

static int ep_call(struct ep_call *call)
{
	struct file *f = file_get(call->epfd);
	int n;

	if (f && f->type == FILE_EPOLL && call->max > 0 && call->events)
		n = ep_wait(container_of(f, struct ep, file), call);
	else
		n = foreign_wait(call);
	if (f) {
		int saved = errno;

		file_put(f);
		errno = saved;
	}
	return n;
}

static uint64_t deadline_ms(int timeout)
{
	if (timeout < 0)
		return WAIT_FOREVER;
	return timeout ? clock_now_ns() + (uint64_t)timeout * NS_PER_MS : 0;
}

PUBLIC int epoll_pwait(int epfd, struct epoll_event *events, int max, int timeout, const sigset_t *mask)
{
	struct ep_call call = {.epfd = epfd, .max = max, .events = events, .mask = mask};

	if (!file_get_any(epfd) && !atomic_load_explicit(&ep_tags_used, memory_order_relaxed))
		return libc()->epoll_pwait(epfd, events, max, timeout, mask);
	call.deadline = deadline_ms(timeout);
	return ep_call(&call);
}

PUBLIC int epoll_wait(int epfd, struct epoll_event *events, int max, int timeout)
{
	return epoll_pwait(epfd, events, max, timeout, NULL);
}

PUBLIC int epoll_pwait2(int epfd, struct epoll_event *events, int max, const struct timespec *timeout,
			const sigset_t *mask)
{
	struct ep_call call = {.epfd = epfd, .max = max, .events = events, .mask = mask, .precise = true};
	uint64_t ns;

	if (!libc()->epoll_pwait2) {
		errno = ENOSYS;
		return -1;
	}
	if (!file_get_any(epfd) || (timeout && (timeout->tv_sec < 0 || (uint64_t)timeout->tv_nsec >= NS_PER_S)))
		return libc()->epoll_pwait2(epfd, events, max, timeout, mask);
	ns = timeout ? (uint64_t)timeout->tv_sec * NS_PER_S + (uint64_t)timeout->tv_nsec : 0;
	call.deadline = !timeout ? WAIT_FOREVER : ns ? clock_now_ns() + ns : 0;
	return ep_call(&call);
}

uint32_t ep_poll(struct file *f, struct core **core, uint64_t *mask)
{
	struct ep *ep = container_of(f, struct ep, file);
	struct core *c = atomic_load_explicit(&ep->core, memory_order_acquire);
	uint32_t ready = 0;

	if (!c || !atomic_load_explicit(&ep->users, memory_order_relaxed) || (*core && *core != c))
		return 0;
	*core = c;
	*mask |= ep->contexts;
	ep_take(ep);
	if (!lock_take(&ep->lock))
		return 0;
	for (struct item *it = ep->ready.head; it && !ready; it = it->ready_next)
		if (!it->disabled)
			ready = sock_events(it->sock, it->events) & ((it->events & ~EP_FLAGS) | EPOLLERR | EPOLLHUP);
	lock_drop(&ep->lock);
	return ready ? POLLIN | POLLRDNORM : 0;
}
