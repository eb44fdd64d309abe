/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Waiting on epoll instances that hold adopted sockets. Place in the packet's way: the fast
 * thread has rung a context's bell; ready.c makes events of it, here the caller gets them. Any
 * thread.
 *
 * The kernel's own set is merged in. Before sleeping, every context is armed, a full fence is
 * issued, and bell and list are looked at once more; the wake-up comes through the context's
 * eventfd in the kernel's set, edge-triggered and never read. An instance that is mixed, or has
 * such below it (nest.c), sleeps in ppoll() on its descriptor and on this thread's of wait.c.
 *
 * Invariants: whoever leaves, with events or none, while others still sleep on the same instance arms
 * the contexts again and passes on what is left, so no news waits for a thread that is busy.
 * From the second sleep of a call on, signals are blocked but inside the kernel's wait: one
 * that comes between two sleeps interrupts the next.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <limits.h>
#include <pthread.h>

#include "preload/epoll.h"
#include "preload/local.h"
#include "preload/user.h"
#include "preload/wait.h"
#include "service/base/clock.h"

#define MERGE_EVERY 8 /* while there are adopted sockets' events, the kernel is asked first every so many calls */
#define MAX_EVENTS ((int)(INT_MAX / sizeof(struct epoll_event))) /* as Linux */

struct ep_call {
	int epfd, max;
	struct epoll_event *events;
	uint64_t deadline; /* WAIT_FOREVER, or monotonic; 0: do not wait */
	const sigset_t *mask;
	bool precise; /* epoll_pwait2: nanoseconds */
	struct wait_signals signals;
};

/* What the instance and those below it listen to. */
struct ep_tree {
	bool wide; /* mixed, or with members that are instances */
	struct core *core;
	uint64_t contexts;
};

static int kernel_wait(const struct ep_call *call, int epfd, struct epoll_event *events, int max, bool sleep)
{
	const sigset_t *mask = wait_signals_mask(&call->signals, call->mask);
	uint64_t left = sleep ? wait_left(call->deadline) : 0;

	if (left == WAIT_FOREVER)
		return mask ? libc()->epoll_pwait(epfd, events, max, -1, mask)
			    : libc()->epoll_wait(epfd, events, max, -1);
	if (call->precise && libc()->epoll_pwait2) {
		struct timespec t = {.tv_sec = (time_t)(left / NS_PER_S), .tv_nsec = (long)(left % NS_PER_S)};

		return libc()->epoll_pwait2(epfd, events, max, &t, mask);
	}
	left = MIN((left + NS_PER_MS - 1) / NS_PER_MS, (uint64_t)INT_MAX);
	return mask ? libc()->epoll_pwait(epfd, events, max, (int)left, mask)
		    : libc()->epoll_wait(epfd, events, max, (int)left);
}

/* Take our own marks out of the kernel's events and put the application's data back. @ep may be NULL. */
static int ep_filter(struct ep *ep, struct epoll_event *events, int n, bool *marked)
{
	bool lost = false, news = false;
	int out = 0;

	for (int i = 0; i < n; i++) {
		uint64_t data = events[i].data.u64;

		if (data == EP_MARK || data == EP_MARK_SOCK || data == EP_MARK_NEWS) {
			*marked = true;
			lost |= data == EP_MARK_SOCK;
			news |= data == EP_MARK_NEWS;
			continue;
		}
		if (unlikely((data & EP_TAG_MASK) == EP_TAG) &&
		    atomic_load_explicit(&ep_tags_used, memory_order_relaxed) && !item_fired(ep, (uint32_t)data, &data))
			continue;
		events[out].events = events[i].events;
		events[out++].data.u64 = data;
	}
	if (*marked && ep) {
		struct core *c = atomic_load_explicit(&ep->core, memory_order_acquire);

		if (c && (lost ? core_check(c) : core_is_dead(c)))
			ep_all_failed(ep);
		else if (c && news)
			local_check(c);
	}
	return out;
}

/* Without sleeping. Marks do not count, so they do not take the place of an event. */
static int kernel_look(struct ep *ep, const struct ep_call *call, struct epoll_event *events, int max)
{
	int n = 0;

	if (max <= 0)
		return 0;
	atomic_fetch_add_explicit(&ep->inside, 1, memory_order_seq_cst);
	for (int tries = 0; !n && tries < IPC_CONTEXTS + 2; tries++) {
		bool marked = false;
		int k = kernel_wait(call, ep_fd(ep), events, max, false);

		n = k > 0 ? ep_filter(ep, events, k, &marked) : k;
		if (k < max)
			break;
	}
	atomic_fetch_sub_explicit(&ep->inside, 1, memory_order_seq_cst);
	return n;
}

/* Leaving while others sleep on the same instance: see the invariant above. */
static void ep_hand_on(struct ep *ep)
{
	struct core *c = atomic_load_explicit(&ep->core, memory_order_acquire);
	bool work = atomic_load_explicit(&ep->nready, memory_order_seq_cst) != 0;

	if (!c || !ep_has_sleepers(ep))
		return;
	for (uint64_t mask = atomic_load_explicit(&ep->contexts, memory_order_acquire); mask; mask &= mask - 1) {
		uint32_t i = (uint32_t)__builtin_ctzll(mask);

		core_context_arm(c, i);
		work |= bell_any(&c->shm->context[i].bell);
	}
	if (work)
		ep_wake(ep);
}

/* Arm every context of @c (NULL: there is none). Returns true if there is work already. */
static bool arm(struct ep *ep, struct core *c, uint64_t contexts)
{
	for (uint64_t mask = c ? contexts : 0; mask; mask &= mask - 1) {
		uint32_t i = (uint32_t)__builtin_ctzll(mask);

		core_context_arm(c, i);
		if (bell_any(&c->shm->context[i].bell))
			return true;
	}
	return atomic_load_explicit(&ep->nready, memory_order_seq_cst) != 0;
}

static void ep_learn(struct ep *ep, struct sock *s, uint64_t until)
{
	struct held of_ep = {.frame = __builtin_frame_address(0), .file = &ep->file, .refs = FILE_REF};
	struct held of_sock = {.frame = __builtin_frame_address(0), .file = &s->file, .refs = FILE_REF};
	uint32_t outer = held_push(&of_ep), inner = held_push(&of_sock);

	wait_sock(s, 0, until);
	held_pop(inner);
	held_pop(outer);
	sock_settle(s);
}

/*
 * The adopted sockets. A look that is not to wait, and finds nothing, waits for what is on its way if there may be
 * something (*@waited), as poll() does, no longer than a thread may have to wait for its processor.
 */
static int ep_collect_all(struct ep *ep, const struct ep_call *call, int have, bool patient, bool *waited)
{
	uint64_t until = 0;

	for (;;) {
		struct sock *late = NULL;
		int k = ep_collect(ep, call->events + have, call->max - have, patient ? &late : NULL);

		if (!late)
			return k;
		until = until ? until : clock_now_ns() + SOCK_RETURN_NS;
		patient = clock_now_ns() < until;
		if (patient)
			ep_learn(ep, late, until);
		sock_put(late);
		*waited = true;
		ep_take(ep);
	}
}

/*
 * What there is now: adopted sockets, then, if there is room, what the kernel's set holds. Now
 * and then the kernel's set goes first, so that busy adopted sockets do not starve it, nor it them.
 */
static int ep_look(struct ep *ep, const struct ep_call *call, struct ep_tree *tree)
{
	uint32_t turn = atomic_load_explicit(&ep->turns, memory_order_relaxed);
	bool first, later, waited = false;
	int n = 0, k;

	atomic_store_explicit(&ep->turns, turn + 1, memory_order_relaxed); /* one lost does no harm */
	lend_check(ep);
	*tree = (struct ep_tree){.wide = nest_any(ep)};
	if (tree->wide)
		nest_refresh(ep, true, &tree->core, &tree->contexts);
	else
		ep_take(ep);
	if (atomic_load_explicit(&ep->nready, memory_order_relaxed)) {
		first = turn % (tree->wide ? 2 : MERGE_EVERY) == 0;
		later = !first && (tree->wide || ep_has_kernel(ep));
	} else {
		first = tree->wide || !call->deadline; /* the sleeping call asks the kernel */
		later = false;
	}
	if (first) {
		n = kernel_look(ep, call, call->events, call->max);
		if (n < 0 && errno != EINTR)
			return n;
	}
	k = ep_collect_all(ep, call, MAX(n, 0), !call->deadline && !tree->wide && n <= 0, &waited);
	if (k == -EFAULT && n <= 0) {
		errno = EFAULT;
		return -1;
	}
	if (k > 0)
		n = MAX(n, 0) + k;
	later |= !n && (!first || waited) && !call->deadline; /* what was on the list is not ready, or Linux's again */
	if (later && n < call->max) {
		k = kernel_look(ep, call, call->events + n, call->max - n);
		n = n ? n + MAX(k, 0) : k;
	}
	return n;
}

/* Sleep in the kernel's set. Returns events, 0: look again, or -1. */
static int sleep_plain(struct ep *ep, struct ep_call *call)
{
	struct core *c = atomic_load_explicit(&ep->core, memory_order_acquire);
	struct held h = {.frame = __builtin_frame_address(0), .file = &ep->file, .refs = FILE_REF, .count = &ep->plain};
	bool marked = false;
	uint32_t place;
	int n = 0, k;

	/* full fence: pairs with the append in ready.c */
	atomic_fetch_add_explicit(&ep->plain, 1, memory_order_seq_cst);
	place = held_push(&h);
	atomic_fetch_add_explicit(&ep->inside, 1, memory_order_seq_cst);
	/* pairs with the store in mix_locked(): it sees plain, or we see mixed */
	if (!atomic_load_explicit(&ep->mixed, memory_order_seq_cst) &&
	    !arm(ep, c, atomic_load_explicit(&ep->contexts, memory_order_acquire)))
		n = kernel_wait(call, ep_fd(ep), call->events, call->max, true);
	if (n > 0)
		n = ep_filter(ep, call->events, n, &marked);
	atomic_fetch_sub_explicit(&ep->inside, 1, memory_order_seq_cst);
	held_pop(place);
	atomic_fetch_sub_explicit(&ep->plain, 1, memory_order_seq_cst);
	if (n <= 0 || n == call->max)
		return n;
	ep_take(ep);
	k = ep_collect(ep, call->events + n, call->max - n, NULL);
	return k > 0 ? n + k : n;
}

/* Sleep beside it. Returns 0: look again, or -1. */
static int sleep_apart(struct ep *ep, struct ep_call *call, const struct ep_tree *tree)
{
	struct held h = {.frame = __builtin_frame_address(0), .file = &ep->file, .refs = FILE_REF, .count = &ep->apart};
	struct pollfd p[2] = {{.fd = ep_fd(ep), .events = POLLIN}, {.fd = -1, .events = POLLIN}};
	uint32_t place;
	int n = 0;

	if (tree->core) {
		p[1].fd = wait_fd(tree->core, tree->contexts);
		if (p[1].fd < 0) {
			errno = ENOMEM;
			return -1;
		}
	}
	atomic_fetch_add_explicit(&ep->apart, 1, memory_order_seq_cst);
	place = held_push(&h);
	if (!arm(ep, tree->core, tree->contexts))
		n = wait_ppoll(p, 2, call->deadline, wait_signals_mask(&call->signals, call->mask));
	held_pop(place);
	atomic_fetch_sub_explicit(&ep->apart, 1, memory_order_seq_cst);
	if (n > 0 && p[1].revents)
		wait_clear(p[1].fd);
	return MIN(n, 0);
}

static int ep_wait(struct ep *ep, struct ep_call *call)
{
	for (bool again = false;; again = true) {
		struct ep_tree tree;
		int n = ep_look(ep, call, &tree);

		if (!n && call->deadline && !(again && !wait_left(call->deadline))) {
			if (again)
				wait_signals_hold(&call->signals);
			n = tree.wide ? sleep_apart(ep, call, &tree) : sleep_plain(ep, call);
			if (!n)
				continue;
		}
		if (n >= 0) /* with none too: it may have taken the edge that was to wake a sleeper */
			ep_hand_on(ep);
		return n;
	}
}

/* An instance we do not know: inherited, perhaps with tags and marks of the parent's. */
static int foreign_wait(struct ep_call *call)
{
	for (;;) {
		bool marked = false;
		int n = kernel_wait(call, call->epfd, call->events, call->max, true);

		if (n <= 0)
			return n;
		n = ep_filter(NULL, call->events, n, &marked);
		if (n || !marked || (call->deadline != WAIT_FOREVER && !wait_left(call->deadline)))
			return n;
		wait_signals_hold(&call->signals);
		/* the mark may be one that stays until the parent has been in its call */
		syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
	}
}

static int ep_call(struct ep_call *call)
{
	struct file *f;
	int n, saved;

	pthread_testcancel();
	held_reap();
	f = file_get(call->epfd);
	if (f && f->type == FILE_LENT)
		lend_use(f, call->epfd);
	if (f && f->type == FILE_EPOLL && call->max > 0 && call->max <= MAX_EVENTS && user_mask_ok(call->mask))
		n = ep_wait(container_of(f, struct ep, file), call);
	else
		n = foreign_wait(call);
	saved = errno;
	if (f)
		file_put(f);
	wait_signals_release(&call->signals);
	errno = saved;
	return n;
}

/* Is it none of ours, and has nothing of ours in it? */
static bool is_kernels(int epfd)
{
	return !file_get_any(epfd) &&
	       (!atomic_load_explicit(&ep_tags_used, memory_order_relaxed) || user_is_confined());
}

PUBLIC int epoll_pwait(int epfd, struct epoll_event *events, int max, int timeout, const sigset_t *mask)
{
	struct ep_call call = {.epfd = epfd, .max = max, .events = events, .mask = mask};

	if (is_kernels(epfd))
		return libc()->epoll_pwait(epfd, events, max, timeout, mask);
	call.deadline = wait_until_ms(timeout);
	return ep_call(&call);
}

PUBLIC int epoll_wait(int epfd, struct epoll_event *events, int max, int timeout)
{
	struct ep_call call = {.epfd = epfd, .max = max, .events = events};

	if (is_kernels(epfd))
		return libc()->epoll_wait(epfd, events, max, timeout);
	call.deadline = wait_until_ms(timeout);
	return ep_call(&call);
}

PUBLIC int epoll_pwait2(int epfd, struct epoll_event *events, int max, const struct timespec *timeout,
			const sigset_t *mask)
{
	struct ep_call call = {.epfd = epfd, .max = max, .events = events, .mask = mask, .precise = true};

	if (!libc()->epoll_pwait2) {
		errno = ENOSYS;
		return -1;
	}
	if (is_kernels(epfd) || !wait_until(timeout, &call.deadline))
		return libc()->epoll_pwait2(epfd, events, max, timeout, mask);
	return ep_call(&call);
}
