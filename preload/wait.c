/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Blocking of one thread on adopted sockets. Place in the packet's way: where a blocked
 * recv() or send() sleeps until the fast thread writes the context's eventfd. Any thread,
 * each with a kernel epoll descriptor of its own in which it listens to contexts.
 *
 * Invariants: a thread waits on the context that the slot names, whichever it is, and looks
 * at the slot itself (never at the bell, which belongs to the epoll instances) after arming.
 * The eventfds are edge-triggered and never read, so one write wakes every thread that
 * listens.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>

#include "preload/local.h"
#include "preload/user.h"
#include "preload/wait.h"
#include "service/base/clock.h"

#define WAITER_SOCK 1u /* data of the service's socket; others have 0 */
#define WAITER_NEWS 2u /* of core->news */

struct waiter {
	struct core *core;
	uint64_t listens; /* contexts in the epoll descriptor */
	int epfd;         /* -1: none */
	int context;      /* its own, -1: none */
	void *pool_link;
};

static __thread struct waiter *waiter __attribute__((tls_model("initial-exec")));
static struct pool waiter_pool = {.size = sizeof(struct waiter)};
static pthread_key_t waiter_key;
static pthread_once_t waiter_once = PTHREAD_ONCE_INIT;

static void waiter_reset(struct waiter *w)
{
	if (w->epfd >= 0) {
		fd_forget(w->epfd);
		syscall(SYS_close, w->epfd);
	}
	if (w->context >= 0)
		core_context_put(w->core, (uint32_t)w->context);
	w->core = NULL;
	w->listens = 0;
	w->epfd = w->context = -1;
}

static void waiter_exit(void *arg)
{
	if (user_is_confined()) /* its descriptor may be the program's by now */
		return;
	waiter_reset(arg);
	pool_put(&waiter_pool, arg);
	waiter = NULL;
}

static void waiter_init(void)
{
	pthread_key_create(&waiter_key, waiter_exit);
}

static struct waiter *waiter_get(struct core *c)
{
	struct waiter *w = waiter;

	if (!w) {
		pthread_once(&waiter_once, waiter_init);
		w = pool_get(&waiter_pool);
		if (!w)
			return NULL;
		*w = (struct waiter){.epfd = -1, .context = -1};
		waiter = w;
		pthread_setspecific(waiter_key, w);
	}
	if (w->core != c) {
		waiter_reset(w);
		w->core = c;
	}
	return w;
}

void wait_child(void)
{
	/* its descriptor goes with the parent's others; the parent's contexts are the parent's */
	waiter_pool.lock.owner = 0;
	if (waiter) {
		pthread_setspecific(waiter_key, NULL);
		pool_put(&waiter_pool, waiter);
	}
	waiter = NULL;
	held_child();
}

int wait_context(struct core *c)
{
	struct waiter *w = waiter_get(c);

	if (!w)
		return -ENOMEM;
	if (w->context < 0) {
		int context = core_context_get(c);

		if (context < 0)
			return context;
		w->context = context;
	}
	core_context_ref(c, (uint32_t)w->context);
	return w->context;
}

static bool waiter_open(struct waiter *w)
{
	struct epoll_event ev = {.events = EPOLLRDHUP | EPOLLET, .data.u64 = WAITER_SOCK};
	int epfd = (int)syscall(SYS_epoll_create1, EPOLL_CLOEXEC), high;

	if (epfd < 0)
		return false;
	high = (int)syscall(SYS_fcntl, epfd, F_DUPFD_CLOEXEC, 500L);
	if (high >= 0) {
		syscall(SYS_close, epfd);
		epfd = high;
	}
	fd_set_file(epfd, NULL);
	libc()->epoll_ctl(epfd, EPOLL_CTL_ADD, w->core->sock, &ev);
	ev = (struct epoll_event){.events = EPOLLIN | EPOLLET, .data.u64 = WAITER_NEWS};
	libc()->epoll_ctl(epfd, EPOLL_CTL_ADD, w->core->news, &ev);
	w->epfd = epfd;
	return true;
}

int wait_fd(struct core *c, uint64_t mask)
{
	struct waiter *w = waiter_get(c);

	if (!w || (w->epfd < 0 && !waiter_open(w)))
		return -1;
	for (mask &= ~w->listens; mask; mask &= mask - 1) {
		struct epoll_event ev = {.events = EPOLLIN | EPOLLET};
		uint32_t i = (uint32_t)__builtin_ctzll(mask);

		if (libc()->epoll_ctl(w->epfd, EPOLL_CTL_ADD, core_context_fd(c, i), &ev) && errno != EEXIST)
			return -1;
		w->listens |= 1ull << i;
	}
	return w->epfd;
}

static void woken(struct core *c, uint64_t data)
{
	if (data == WAITER_SOCK)
		core_check(c);
	else if (data == WAITER_NEWS)
		local_check(c);
}

void wait_clear(int epfd)
{
	struct epoll_event ev[8];
	long n = syscall(SYS_epoll_pwait, epfd, ev, 8, 0, NULL, 0); /* no cancellation point */

	for (long i = 0; i < n; i++)
		if (waiter && waiter->core)
			woken(waiter->core, ev[i].data.u64);
}

/* ---- time ---- */

uint64_t wait_deadline(uint64_t timeout_ns)
{
	return timeout_ns ? wait_until_ns(0, timeout_ns) : WAIT_FOREVER;
}

uint64_t wait_left(uint64_t deadline)
{
	uint64_t now;

	if (deadline == WAIT_FOREVER || !deadline)
		return deadline;
	now = clock_now_ns();
	return deadline > now ? deadline - now : 0;
}

uint64_t wait_until_ns(uint64_t sec, uint64_t ns)
{
	if (sec > UINT64_MAX / NS_PER_S / 4)
		return WAIT_FOREVER - 1; /* centuries */
	ns += sec * NS_PER_S;
	return ns ? clock_now_ns() + ns : 0;
}

uint64_t wait_until_ms(int timeout)
{
	return timeout < 0 ? WAIT_FOREVER : wait_until_ns(0, (uint64_t)timeout * NS_PER_MS);
}

bool wait_until(const struct timespec *timeout, uint64_t *deadline)
{
	*deadline = WAIT_FOREVER;
	if (!timeout)
		return true;
	if (!user_readable(timeout, sizeof(*timeout)) || timeout->tv_sec < 0 || (uint64_t)timeout->tv_nsec >= NS_PER_S)
		return false;
	*deadline = wait_until_ns((uint64_t)timeout->tv_sec, (uint64_t)timeout->tv_nsec);
	return true;
}

int wait_ppoll(struct pollfd *p, nfds_t n, uint64_t deadline, const sigset_t *mask)
{
	uint64_t left = wait_left(deadline);
	struct timespec t = {.tv_sec = (time_t)(left / NS_PER_S), .tv_nsec = (long)(left % NS_PER_S)};

	return libc()->ppoll(p, n, deadline == WAIT_FOREVER ? NULL : &t, mask);
}

/* ---- signals ---- */

/* The thread's own doing, not what ends a sleep. */
static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS};

static bool is_fault(int sig)
{
	for (uint32_t i = 0; i < ARRAY_SIZE(faults); i++)
		if (faults[i] == sig)
			return true;
	return false;
}

void wait_signals_hold(struct wait_signals *w)
{
	sigset_t all;

	if (w->held)
		return;
	sigfillset(&all);
	for (uint32_t i = 0; i < ARRAY_SIZE(faults); i++)
		sigdelset(&all, faults[i]);
	w->held = !pthread_sigmask(SIG_BLOCK, &all, &w->saved);
}

void wait_signals_release(struct wait_signals *w)
{
	if (w->held)
		pthread_sigmask(SIG_SETMASK, &w->saved, NULL);
	w->held = false;
}

/*
 * A signal ended the sleep. Linux would restart recv() or send() if the handler was
 * installed with SA_RESTART and no timeout is set. We cannot know which signal it was: restart if
 * every handler of a signal that this thread lets in has SA_RESTART.
 */
bool wait_may_restart(uint64_t deadline, const struct wait_signals *w)
{
	struct sigaction sa;
	sigset_t mask;

	if (deadline != WAIT_FOREVER)
		return false;
	if (w->held)
		mask = w->saved;
	else
		pthread_sigmask(SIG_BLOCK, NULL, &mask);
	for (int i = 1; i < NSIG; i++)
		if (!is_fault(i) && !sigismember(&mask, i) && !sigaction(i, NULL, &sa) && sa.sa_handler != SIG_DFL &&
		    sa.sa_handler != SIG_IGN && !(sa.sa_flags & SA_RESTART))
			return false;
	return true;
}

/* ---- one socket ---- */

#define ANY_UNREAD UINT64_MAX

/* @more: until more than so many bytes are unread, or no more will come; ANY_UNREAD: @events alone count. */
static bool is_over(struct sock *s, uint32_t events, uint64_t more)
{
	if (!events)
		return sock_settle(s);
	if (sock_is_open(s) || sock_state(s) != SOCK_FAST)
		return true;
	if (events == WAIT_LEFT)
		return sock_is_lost(s);
	if (unlikely(IPC_AWAY(stream_status(&s->st)) & io_of_events(events)))
		return true; /* another process has that half */
	if (more != ANY_UNREAD)
		return stream_unread(&s->st) > more || (s->rx_kernel && local_events(s) & EPOLLIN) || s->shut_rd ||
		       sock_failed(s) || (stream_status(&s->st) & IPC_ST_FIN) ||
		       IPC_STATE(stream_status(&s->st)) == IPC_DEAD;
	return sock_events(s, events) & (events | EPOLLERR | EPOLLHUP);
}

/* One sleep. Returns 0: look, or -errno. */
static int sleep_once(struct core *c, int epfd, uint64_t deadline, const struct wait_signals *w)
{
	struct epoll_event ev[4];
	uint64_t left = wait_left(deadline);
	int n, timeout = -1;

	if (!left)
		return -EAGAIN;
	if (left != WAIT_FOREVER)
		timeout = (int)MIN((left + NS_PER_MS - 1) / NS_PER_MS, (uint64_t)INT32_MAX);
	n = w->held ? libc()->epoll_pwait(epfd, ev, 4, timeout, &w->saved) : libc()->epoll_wait(epfd, ev, 4, timeout);
	if (n < 0)
		return -errno;
	for (int i = 0; i < n; i++)
		woken(c, ev[i].data.u64);
	return 0;
}

static int wait_for(struct sock *s, uint32_t events, uint64_t more, uint64_t deadline)
{
	/* callers with other events hold what they hold by themselves */
	bool io = events && events != WAIT_LEFT;
	struct held h = {.frame = __builtin_frame_address(0),
			 .file = io ? &s->file : NULL,
			 .refs = FILE_REF + FILE_CALL};
	struct wait_signals signals = {.held = false};
	struct core *c;
	uint32_t context, place;
	int epfd, err = 0;

	if (is_over(s, events, more))
		return 0;
	if (sock_state(s) == SOCK_AWAY) { /* nobody to be woken by yet: the service could not be asked at once */
		syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
		return clock_now_ns() < deadline ? 0 : -EAGAIN;
	}
	if (fd_maybe_vfork()) { /* what it opened would be in its parent's memory, but not among its descriptors */
		while (!is_over(s, events, more)) {
			if (clock_now_ns() >= deadline)
				return -EAGAIN;
			syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = NS_PER_MS / 5}, NULL);
		}
		return 0;
	}
	c = s->core;
	context = s->context;
	epfd = wait_fd(c, 1ull << context);
	if (epfd < 0)
		return -ENOMEM;
	place = held_push(&h);
	for (;;) {
		core_context_arm(c, context); /* a full fence; then a second look */
		/* the look itself may have taken an answer that leaves nothing to be woken by, or has a new slot */
		if (is_over(s, events, more) || sock_state(s) == SOCK_AWAY || s->core != c || s->context != context)
			break;
		err = sleep_once(c, epfd, deadline, &signals);
		if (err == -EINTR && wait_may_restart(deadline, &signals))
			err = 0;
		if (is_over(s, events, more)) {
			err = 0; /* as Linux: what is there goes before the signal */
			break;
		}
		if (err)
			break;
		wait_signals_hold(&signals);
	}
	held_pop(place);
	wait_signals_release(&signals);
	return err;
}

int wait_sock(struct sock *s, uint32_t events, uint64_t deadline)
{
	return wait_for(s, events, ANY_UNREAD, deadline);
}

int wait_unread(struct sock *s, uint64_t more, uint64_t deadline)
{
	return wait_for(s, EPOLLIN, more, deadline);
}
