/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the waiting calls share: time, signals, and what a thread holds while it sleeps. */
#ifndef PRELOAD_WAIT_H
#define PRELOAD_WAIT_H

#include <time.h>

#include "preload/sock.h"

/* ---- time: deadlines are monotonic ns, 0: do not wait, or WAIT_FOREVER ---- */

/* Nanoseconds left, 0 if it has passed; WAIT_FOREVER for itself. */
uint64_t wait_left(uint64_t deadline);
uint64_t wait_until_ms(int timeout);
/* Deadline of a time-out; NULL: for ever. False if Linux would refuse it, or it cannot be read. */
bool wait_until(const struct timespec *timeout, uint64_t *deadline);
uint64_t wait_until_ns(uint64_t sec, uint64_t ns);

/* ppoll() until @deadline. A cancellation point. */
int wait_ppoll(struct pollfd *p, nfds_t n, uint64_t deadline, const sigset_t *mask);

/* ---- signals ---- */

/*
 * A call that sleeps more than once must not lose a signal that comes between two sleeps: it
 * would have interrupted the one call that the application made. So before the second sleep
 * signals are blocked, and each sleep lets them in with the mask of the thread (or the call).
 * One that comes in the few instructions after the first sleep is taken as if it had come
 * before the call, which Linux cannot exclude either.
 */
struct wait_signals {
	bool held;
	sigset_t saved;
};
void wait_signals_hold(struct wait_signals *w); /* once; again does nothing */
void wait_signals_release(struct wait_signals *w);
/* A signal ended a sleep of recv() or send(): does Linux begin again? */
bool wait_may_restart(uint64_t deadline, const struct wait_signals *w);
/* The mask for the next sleep: @mask if the caller gave one; or NULL. */
static inline const sigset_t *wait_signals_mask(const struct wait_signals *w, const sigset_t *mask)
{
	return mask ? mask : w->held ? &w->saved : NULL;
}

/* ---- what is held while asleep ---- */

/*
 * A sleeping thread may leave by longjmp from a signal handler, or be cancelled. What it held is
 * then given back by the next held_reap() of the thread in a frame that is not below @frame,
 * or when the thread ends.
 */
struct held {
	void *frame;
	struct file *file;       /* a reference to it, or NULL */
	uint64_t refs;           /* how much of it: FILE_REF, FILE_REF + FILE_CALL */
	_Atomic uint32_t *count; /* and one of *count, or NULL */
	void (*undo)(void *arg); /* and this, or NULL */
	void *arg;
};
/* Returns the place for held_pop(). */
uint32_t held_push(const struct held *h);
void held_pop(uint32_t place);
/* The latest one of @f whose frame is not above @frame, where calls are that this one has interrupted. */
void held_pop_file(const struct file *f, const void *frame);
void held_reap_slow(void *frame);
void held_child(void);
extern __thread uint32_t held_count __attribute__((tls_model("initial-exec")));
static inline __attribute__((always_inline)) void held_reap(void)
{
	if (unlikely(held_count))
		held_reap_slow(__builtin_frame_address(0));
}

#endif
