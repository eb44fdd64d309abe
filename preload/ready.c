/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ready lists of epoll instances: bells become ready items, ready items become events.
 * Place in a packet's way: between the fast thread's bell and epoll_wait(). Any thread.
 *
 * The bell is taken, the items of each socket with news go to the ready list of their
 * instance, and the list is turned into events: level-triggered items stay on it (at its end,
 * so that all have their turn) while their condition holds, edge-triggered ones leave it until
 * there is news, ONESHOT ones until MOD. Of EXCLUSIVE items only those up to the first whose
 * instance has a sleeper hear of news, as in Linux's wait queues.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <sys/syscall.h>
#include <time.h>

#include "preload/epoll.h"
#include "preload/user.h"
#include "service/base/clock.h"

#define TAKE 64 /* members of a bell taken at once */
#define SETTLE 32

/* ---- the list ---- */

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

void item_append(struct item *it)
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
	/* full fence: pairs with sleepers in ep_sleep() */
	atomic_fetch_add_explicit(&it->ep->nready, 1, memory_order_seq_cst);
}

void ep_wake(struct ep *ep)
{
	struct core *c = atomic_load_explicit(&ep->core, memory_order_acquire);
	uint64_t mask = atomic_load_explicit(&ep->contexts, memory_order_acquire);

	if (c && mask)
		core_context_wake(c, (uint32_t)__builtin_ctzll(mask));
}

bool item_queue(struct item *it, struct ep *self)
{
	struct ep *ep = it->ep;
	bool waits;

	if (!lock_take(&ep->lock))
		return false;
	if (!it->queued && !it->disabled)
		item_append(it);
	if (it->queued)
		ep_kick(ep);
	lock_drop(&ep->lock);
	waits = ep_has_sleepers(ep);
	if (ep != self && waits)
		ep_wake(ep);
	return waits || ep == self;
}

void ep_items_mark(struct sock *s, struct ep *self)
{
	/* the end of a connection is told to everybody, as Linux does */
	bool taken = false, all = sock_state(s) != SOCK_FAST || sock_failed(s) ||
				  (stream_status(&s->st) & (IPC_ST_FIN | IPC_ST_CLOSED_TX));

	for (struct item *it = s->items; it; it = it->sock_next) {
		bool exclusive = (it->events & EPOLLEXCLUSIVE) && !all;

		if (it->where == ITEM_USER && !(exclusive && taken) && item_queue(it, self))
			taken |= exclusive;
	}
}

void ep_all_failed(struct ep *ep)
{
	if (!lock_take(&ep->lock))
		return;
	for (struct item *it = ep->all; it; it = it->all_next)
		if (it->where == ITEM_USER && !it->queued && !it->disabled)
			item_append(it);
	ep_kick(ep);
	lock_drop(&ep->lock);
}

/* ---- news ---- */

void ep_news(struct core *c, uint32_t slot, struct ep *self)
{
	/* pairs with the release store in core_slot_take() */
	struct sock *s = slot < IPC_SLOTS ? atomic_load_explicit(&c->owner[slot], memory_order_acquire) : NULL;

	if (!s || !file_hold(&s->file))
		return;
	/* one that moved away is claimed back by whoever uses it, or waits for it here */
	if (sock_state(s) != SOCK_AWAY || s->items)
		sock_settle(s);
	if (!lock_take(&s->lock)) {
		bell_ring(&c->shm->context[s->context].bell, slot); /* a signal handler: later */
	} else {
		/* is it still this slot's? */
		if (s->slot == slot && s->core == c)
			ep_items_mark(s, self);
		lock_drop(&s->lock);
	}
	sock_put(s);
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

void ep_take(struct ep *ep)
{
	struct core *c = atomic_load_explicit(&ep->core, memory_order_acquire);

	if (!c)
		return;
	for (uint64_t mask = atomic_load_explicit(&ep->contexts, memory_order_acquire); mask; mask &= mask - 1)
		ep_drain(c, (uint32_t)__builtin_ctzll(mask), ep);
}

/* ---- events ---- */

/* Sockets whose answer from the service is outstanding; it marks them again, unless the service died without one. */
struct open {
	struct sock *sock[SETTLE];
	uint32_t interest[SETTLE];
	uint32_t n;
};

/* What holds of what @it asked for. ep->lock held. */
static uint32_t item_events(struct item *it, struct open *open)
{
	if (it->disabled || it->where != ITEM_USER)
		return 0;
	if (unlikely(sock_state(it->sock) != SOCK_FAST || sock_is_open(it->sock))) {
		if (open->n < SETTLE && file_hold(&it->sock->file)) {
			open->interest[open->n] = it->events;
			open->sock[open->n++] = it->sock;
		}
		return 0;
	}
	return sock_events(it->sock, it->events) & ((it->events & ~EP_FLAGS) | EPOLLERR | EPOLLHUP);
}

static void mark_again(struct sock *s, struct ep *self)
{
	if (!lock_take(&s->lock))
		return;
	ep_items_mark(s, self);
	lock_drop(&s->lock);
}

/*
 * ep->lock not held. Where the service could not be asked, or is to be asked later, nobody will mark the socket: it goes
 * on the list again. *@late (unless @late is NULL): one for which it is worth to wait, with a reference, or NULL.
 */
static void settle_all(struct open *open, struct ep *self, struct sock **late)
{
	bool slept = false;

	while (open->n) {
		struct sock *s = open->sock[--open->n];
		bool settled = sock_settle(s);

		if (!settled && sock_state(s) == SOCK_AWAY) {
			if (!slept)
				syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
			slept = true;
			mark_again(s, self);
		} else if (!settled && late && sock_may_be_ready(s, open->interest[open->n])) {
			mark_again(s, self);
			if (!*late) {
				*late = s;
				continue;
			}
		}
		sock_put(s);
	}
}

int ep_collect(struct ep *ep, struct epoll_event *events, int max, struct sock **late)
{
	uint32_t left = atomic_load_explicit(&ep->nready, memory_order_seq_cst);
	struct open open = {.n = 0};
	int n = 0;

	if (!left || max <= 0)
		return 0;
	if (!user_writable(events, MIN(left, (uint32_t)max) * sizeof(*events)))
		return -EFAULT;
	if (!lock_take(&ep->lock))
		return 0;
	max = (int)MIN((uint32_t)max, left);
	while (n < max && left-- && ep->ready.head) {
		struct item *it = ep->ready.head;
		uint32_t ev;

		item_unqueue(it);
		if (unlikely(open.n == SETTLE)) { /* the rest in the next call */
			item_append(it);
			break;
		}
		ev = item_events(it, &open);
		if (!ev)
			continue;
		events[n].events = ev;
		events[n++].data.u64 = it->data;
		if (it->events & EPOLLONESHOT)
			it->disabled = true;
		else if (!(it->events & EPOLLET))
			item_append(it);
	}
	ep_unkick(ep);
	lock_drop(&ep->lock);
	settle_all(&open, ep, n ? NULL : late);
	return n;
}

void ep_refresh(struct ep *ep)
{
	struct core *c = atomic_load_explicit(&ep->core, memory_order_acquire);
	struct open open = {.n = 0};

	if (c && core_is_dead(c))
		ep_all_failed(ep);
	if (!lock_take(&ep->lock))
		return;
	while (ep->ready.head && open.n < SETTLE && !item_events(ep->ready.head, &open))
		item_unqueue(ep->ready.head);
	ep_unkick(ep);
	lock_drop(&ep->lock);
	settle_all(&open, ep, NULL);
}
