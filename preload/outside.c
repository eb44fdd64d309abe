/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Blocking receives on connections that are Linux's. A thread that sleeps inside the kernel's
 * socket keeps the connection there: nobody may adopt it, be it another thread that sends all the
 * time, or a forked child that does. So, where there may be such another one, a thread waits
 * outside: in ppoll() on the socket and on a context of its own, without FILE_CALL and without
 * the mark of share.c, and enters the kernel's socket when that has something to say. Not in a packet's way. Any thread.
 *
 * Invariants: the service wakes the contexts of processes that have watchers whenever a
 * connection has become FAST. A watcher counts itself, arms its context and then looks whether the
 * connection is still Linux's, so one of the two sees the other. The descriptor may be closed
 * meanwhile: the call goes on with the socket it began with, as it would inside the kernel (linger() in close.c).
 */
#define _GNU_SOURCE 1
#include "preload/outside.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/syscall.h>

#include "preload/share.h"
#include "preload/user.h"
#include "preload/wait.h"

/*
 * Might another thread or process adopt it meanwhile? Another thread goes by the same counts, and not before the policy
 * says so; another process has its own. A connection that has only just begun may well end soon, and does not pay for it.
 */
static bool is_worth(const struct sock *s)
{
	struct core_policy policy;

	return sock_policy(s, &policy) && policy.accelerate && s->exchanges &&
	       (share_is(s) || s->exchanges >= policy.exchanges) && s->try_at != NEVER && !s->keep_linux &&
	       !s->nonblock && !s->listener && !atomic_load_explicit(&sock_stay, memory_order_relaxed);
}

/* No cancellation point. */
static bool is_ready(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	struct timespec now = {0};

	return syscall(SYS_ppoll, &p, 1, &now, NULL, 0) != 0;
}

/*
 * Does the call sleep until something comes, and begins again after a signal? The flags and the options may be of
 * another process's making. With SO_RCVLOWAT poll() says later than a call for less that there is enough.
 */
static bool is_patient(int fd)
{
	struct wait_signals none = {.held = false};
	struct timeval t = {0};
	socklen_t len = sizeof(t), llen = sizeof(int);
	int flags = (int)syscall(SYS_fcntl, fd, F_GETFL), low = 0;

	return flags >= 0 && !(flags & O_NONBLOCK) && !libc()->getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, &len) &&
	       !t.tv_sec && !t.tv_usec && !libc()->getsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &low, &llen) && low <= 1 &&
	       wait_may_restart(WAIT_FOREVER, &none);
}

static bool is_over(const struct sock *s, const struct core *c, int fd)
{
	return sock_state(s) != SOCK_LINUX || core_is_dead(c) || (share_is(s) && inherit_is_taken(fd));
}

/* One sleep. Returns 1: it is over, or cannot be slept here, 0: look, or -EINTR. */
static int sleep_once(int fd, int epfd, const struct wait_signals *signals)
{
	struct pollfd p[] = {{.fd = fd, .events = POLLIN}, {.fd = epfd, .events = POLLIN}};
	int n = wait_ppoll(p, ARRAY_SIZE(p), WAIT_FOREVER, wait_signals_mask(signals, NULL)), err = errno;

	if (n < 0 && err != EINTR) /* RLIMIT_NOFILE, for one */
		return 1;
	if (n < 0)
		return wait_may_restart(WAIT_FOREVER, signals) ? 0 : -EINTR;
	if (p[1].revents)
		wait_clear(epfd);
	return p[0].revents != 0;
}

/* Also of a thread that never comes back. */
static void watch_end(void *arg)
{
	struct core *c = arg;

	atomic_fetch_sub_explicit(&c->shm->watchers, 1, memory_order_relaxed);
}

/* Its descriptor: @fd, unless that was closed meanwhile. */
static int fd_of(const struct sock *s, int fd)
{
	int other = s->fd; /* -1: there is none */

	return other < 0 || atomic_load_explicit(&fd_table[fd], memory_order_relaxed) == &s->file ? fd : other;
}

/*
 * Returns 0: the call will not sleep, or is carried elsewhere; or -EINTR. The caller has a reference, without FILE_CALL.
 * *@forked: a handler has forked, and this is the child.
 */
static int watch(struct sock *s, int fd, struct core *c, uint32_t context, int epfd, bool *forked)
{
	long me = syscall(SYS_getpid);
	struct wait_signals signals = {.held = false};
	int err = 0;

	while (!err && !*forked) {
		core_context_arm(c, context); /* a full fence; then the look */
		share_rest(s);
		if (is_over(s, c, fd_of(s, fd)))
			break;
		err = sleep_once(fd_of(s, fd), epfd, &signals);
		*forked = syscall(SYS_getpid) != me;
		wait_signals_hold(&signals);
	}
	wait_signals_release(&signals);
	return MIN(err, 0);
}

/* Out of the kernel's socket, wait, and back in as far as FILE_CALL goes. */
static int leave_and_watch(struct sock *s, int fd, struct core *c, uint32_t context, int epfd)
{
	struct held h = {.frame = __builtin_frame_address(0),
			 .file = &s->file,
			 .refs = FILE_REF,
			 .count = &s->outside,
			 .undo = watch_end,
			 .arg = c};
	bool forked = false;
	uint32_t place;
	int err;

	atomic_fetch_add_explicit(&s->outside, 1, memory_order_seq_cst);
	/* pairs with the service's look, after it has made a connection FAST */
	atomic_fetch_add_explicit(&c->shm->watchers, 1, memory_order_seq_cst);
	held_pop_file(&s->file, (void *)UINTPTR_MAX); /* of sock_begin(): it is the last one */
	place = held_push(&h);
	atomic_fetch_sub_explicit(&s->file.refs, FILE_CALL, memory_order_seq_cst);
	err = watch(s, fd, c, context, epfd, &forked);
	if (forked) { /* nothing here is counted any more, and the memory shared with the service is not there */
		atomic_fetch_add_explicit(&s->file.refs, FILE_REF + FILE_CALL, memory_order_seq_cst);
		return err;
	}
	atomic_fetch_add_explicit(&s->file.refs, FILE_CALL, memory_order_seq_cst);
	held_pop(place);
	watch_end(c);
	atomic_fetch_sub_explicit(&s->outside, 1, memory_order_seq_cst);
	return err;
}

enum io outside_wait_slow(struct sock *s, int *fd, int flags)
{
	struct core *c = atomic_load_explicit(&sock_core, memory_order_acquire);
	int context, epfd, err, saved = errno;

	if (!is_worth(s) || (flags & MSG_DONTWAIT) || !c || core_is_dead(c) || fd_maybe_vfork() || is_ready(*fd) ||
	    !is_patient(*fd))
		return IO_LINUX;
	context = wait_context(c);
	if (context < 0)
		return IO_LINUX;
	core_context_put(c, (uint32_t)context); /* the thread itself holds it */
	epfd = wait_fd(c, 1ull << context);
	if (epfd < 0)
		return IO_LINUX;
	err = leave_and_watch(s, *fd, c, (uint32_t)context, epfd);
	errno = -err;
	if (err)
		return IO_FAIL;
	errno = saved;
	*fd = fd_of(s, *fd);
	return sock_reenter(s, false, IO_IN);
}
