/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A lock that knows its owner. A signal handler that runs on top of a section of its own
 * thread finds the lock taken by itself: lock_take() then says no instead of waiting for
 * ever, and the caller takes its fallback. Held for short sections only, never across
 * application code. After fork the child resets every lock it can reach.
 *
 * A handler may also leave by longjmp and so abandon a section of its thread. The next
 * lock_take() of that thread, in a frame that is not below the abandoned one, takes the lock
 * over. A handler's frames are always below, but on an alternate stack, where it is not done.
 */
#ifndef PRELOAD_LOCK_H
#define PRELOAD_LOCK_H

#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "service/base/compiler.h"

struct lock {
	_Atomic uint32_t owner; /* thread id, 0: free */
	void *frame;            /* the owner's; read by itself only */
};

/* in static TLS: a load, no call */
extern __thread uint32_t lock_tid __attribute__((tls_model("initial-exec"))); /* this thread's id, 0: not asked yet */

static inline uint32_t lock_self(void)
{
	if (unlikely(!lock_tid))
		lock_tid = (uint32_t)syscall(SYS_gettid);
	return lock_tid;
}

/* The lock is this thread's: has its section been abandoned? */
static inline bool lock_is_left(const struct lock *l, void *frame)
{
	stack_t stack;

	return (char *)frame >= (char *)l->frame && !sigaltstack(NULL, &stack) && !(stack.ss_flags & SS_ONSTACK);
}

/* Returns false if this thread holds it already. */
static inline __attribute__((always_inline)) bool lock_take(struct lock *l)
{
	uint32_t self = lock_self(), spins = 0;

	for (;;) {
		uint32_t free = 0;

		/* pairs with the release in lock_drop() */
		if (atomic_compare_exchange_strong_explicit(&l->owner, &free, self, memory_order_acquire,
							    memory_order_relaxed) ||
		    (free == self && lock_is_left(l, __builtin_frame_address(0)))) {
			l->frame = __builtin_frame_address(0);
			return true;
		}
		if (free == self)
			return false;
		if (++spins > 64)
			sched_yield();
	}
}

/* As lock_take(), but does not wait for another thread. */
static inline __attribute__((always_inline)) bool lock_try(struct lock *l)
{
	uint32_t free = 0;

	if (!atomic_compare_exchange_strong_explicit(&l->owner, &free, lock_self(), memory_order_acquire,
						     memory_order_relaxed))
		return false;
	l->frame = __builtin_frame_address(0);
	return true;
}

static inline void lock_drop(struct lock *l)
{
	/* pairs with the acquire in lock_take() */
	atomic_store_explicit(&l->owner, 0, memory_order_release);
}

#endif
