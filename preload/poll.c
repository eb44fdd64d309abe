/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * poll and ppoll over adopted sockets and everything else at once (select.c stands on it). Any
 * thread. Without one of our descriptors in the set the call goes to libc as it is.
 *
 * Adopted sockets are looked at here; the rest sleeps in one ppoll() together with this
 * thread's descriptor of wait.c, in which the sockets' contexts ring. Sockets that are still
 * Linux's count the thread as being inside the kernel (FILE_CALL), so they are not adopted
 * under it. Epoll instances are looked at by the kernel; nest.c sees to it that they are true.
 *
 * Invariant: what is held (references and FILE_CALL) lies in memory of its own, recorded in held.c.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "preload/epoll.h"
#include "preload/local.h"
#include "preload/poll.h"
#include "preload/share.h"
#include "preload/user.h"
#include "service/base/clock.h"

#define PAGE 4096u

/* The mapping that holds the rest of a set; a page of it is kept by each thread. */
struct set_mem {
	size_t len;
	nfds_t n;
	bool is_kept;
	struct file *file[]; /* with a reference each, or NULL; behind them pollfds */
};

struct set {
	struct pollfd *app;    /* the caller's */
	struct pollfd *kernel; /* copy for the kernel, one more at the end */
	struct file **file;
	nfds_t n, hole;   /* hole: an entry that the kernel's copy does not use, or n */
	uint32_t adopted; /* entries that are not Linux's alone */
	bool eps;         /* some are epoll instances */
	bool local;       /* some are local connections */
	bool away;        /* of some the service could not be asked at once: soon again */
	struct core *core;
	uint64_t contexts;
	struct set_mem *mem;
};

/* ---- memory ---- */

static __thread struct set_mem *kept __attribute__((tls_model("initial-exec")));

static size_t mem_len(nfds_t n)
{
	size_t len = sizeof(struct set_mem) + n * sizeof(struct file *) + (n + 1) * sizeof(struct pollfd);

	return (len + PAGE - 1) / PAGE * PAGE;
}

static bool set_memory(struct set *set)
{
	size_t len = mem_len(set->n);

	set->mem = len == PAGE ? kept : NULL;
	kept = set->mem ? NULL : kept;
	if (!set->mem) {
		void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (p == MAP_FAILED)
			return false;
		set->mem = p;
		set->mem->len = len;
	}
	set->mem->n = 0;
	set->file = set->mem->file;
	set->kernel = (struct pollfd *)(set->file + set->n);
	return true;
}

/* Give everything back: the end of the call, also one that was left by longjmp. */
static void set_undo(void *arg)
{
	struct set_mem *m = arg;

	for (nfds_t i = 0; i < m->n; i++) {
		struct file *f = m->file[i];

		if (f)
			file_put_more(f, FILE_REF + FILE_CALL);
	}
	m->n = 0;
	if (m->len == PAGE && !kept)
		kept = m;
	else
		munmap(m, m->len);
}

void poll_thread_exit(void)
{
	if (kept && !user_is_confined())
		munmap(kept, kept->len);
	kept = NULL;
}

/* ---- the set ---- */

/* Any tracked descriptor at all? */
static bool set_is_ours(const struct pollfd *fds, nfds_t n)
{
	for (nfds_t i = 0; i < n; i++)
		if (fds[i].fd >= 0 && file_get_any(fds[i].fd))
			return true;
	return false;
}

/* Hold each tracked socket: Linux's ones are not adopted meanwhile. */
static void set_open(struct set *set)
{
	for (nfds_t i = 0; i < set->n; i++) {
		struct file *f = set->app[i].fd >= 0 ? file_get_more(set->app[i].fd, FILE_REF + FILE_CALL) : NULL;

		set->kernel[i] = (struct pollfd){.fd = set->app[i].fd, .events = set->app[i].events};
		if (f && f->type == FILE_OWN) { /* the application has no such descriptor */
			file_put_more(f, FILE_REF + FILE_CALL);
			f = NULL;
			set->kernel[i].fd = FD_MAX + 1;
		}
		if (f && f->type == FILE_EPOLL)
			ep_watch(container_of(f, struct ep, file));
		if (f && f->type == FILE_LENT)
			lend_use(f, set->app[i].fd);
		set->file[i] = f;
		set->mem->n = i + 1;
	}
}

/* Another process had it: has it come back at once? */
static bool is_back(struct sock *s)
{
	return sock_settle(s) && sock_state(s) == SOCK_LINUX;
}

/* Look at the adopted ones: fill their revents, take them out of the kernel's copy. Returns how many are ready. */
static int set_look(struct set *set)
{
	int ready = 0;

	set->adopted = 0;
	set->hole = set->n;
	for (nfds_t i = 0; i < set->n; i++) {
		struct file *f = set->file[i];
		uint32_t interest = (uint16_t)set->app[i].events, ev;
		struct sock *s;

		if (f && f->type == FILE_EPOLL) {
			nest_refresh(container_of(f, struct ep, file), true, &set->core, &set->contexts);
			set->adopted += set->core != NULL;
			set->eps = true;
		}
		if (!f || f->type != FILE_SOCK)
			continue;
		s = container_of(f, struct sock, file);
		if (sock_is_open(s))
			atomic_fetch_or_explicit(&s->need, (uint8_t)io_of_events(interest), memory_order_relaxed);
		if (sock_settle(s) && sock_state(s) == SOCK_LINUX && (!share_enter(s) || is_back(s))) {
			set->kernel[i].fd = set->app[i].fd;
			set->kernel[i].events = set->app[i].events;
			continue;
		}
		set->kernel[i] = (struct pollfd){.fd = -1};
		set->hole = i;
		set->adopted++;
		if (sock_state(s) == SOCK_AWAY) {
			set->away = true; /* nobody to be woken by yet */
		} else if (!core_is_dead(s->core)) {
			set->core = s->core;
			set->contexts |= 1ull << s->context;
		}
		set->local |= s->st.local;
		ev = sock_events(s, interest) & (interest | POLLERR | POLLHUP);
		set->app[i].revents = (short)ev;
		ready += ev != 0;
	}
	return ready;
}

/* Put the kernel's answers beside ours. Returns how many are ready in all. */
static int set_merge(struct set *set)
{
	int ready = 0;

	for (nfds_t i = 0; i < set->n; i++) {
		if (!(set->file[i] && set->file[i]->type == FILE_SOCK && set->kernel[i].fd < 0))
			set->app[i].revents = set->kernel[i].revents;
		ready += set->app[i].revents != 0;
	}
	return ready;
}

/* Arm every context (full fences), and find where to listen. Returns a descriptor, or -1. */
static int set_arm(struct set *set)
{
	for (uint64_t m = set->contexts; set->core && m; m &= m - 1)
		core_context_arm(set->core, (uint32_t)__builtin_ctzll(m));
	return set->core ? wait_fd(set->core, set->contexts) : -1;
}

/* Has another process the half that is asked about? Then it comes, or the connection goes back to Linux. */
static bool is_half_away(const struct sock *s, uint32_t interest)
{
	return sock_state(s) == SOCK_FAST && stream_is_open(&s->st) && !sock_is_lost(s) && s->asked &&
	       IPC_AWAY(stream_status(&s->st)) & io_of_events(interest);
}

static void learn(struct sock *s, uint32_t interest, uint64_t until)
{
	bool half = false;
	int err = 0;

	while (!err && clock_now_ns() < until) {
		if (is_half_away(s, interest)) {
			half = true;
			err = wait_sock(s, WAIT_LEFT, until);
		} else if (sock_is_unknown(s) || (half && sock_is_open(s))) {
			err = wait_sock(s, 0, until);
		} else {
			return;
		}
		sock_settle(s);
	}
}

/*
 * A look that is not to wait, while nothing is known of a connection as it is on its way: it waits for that, as a receive
 * does, no longer than a thread may have to wait for its processor.
 */
static void set_learn(struct set *set)
{
	uint64_t until = clock_now_ns() + SOCK_RETURN_NS;

	for (nfds_t i = 0; i < set->n; i++)
		if (set->file[i] && set->file[i]->type == FILE_SOCK)
			learn(container_of(set->file[i], struct sock, file), (uint16_t)set->app[i].events, until);
}

/* One look, and one sleep if nothing is ready. Returns how many are ready, 0, or -1. */
static int set_turn(struct set *set, uint64_t deadline, const sigset_t *mask)
{
	nfds_t n = set->n, at = n;
	int ready, r, epfd = -1;

	set->away = false;
	ready = set_look(set);
	if (set->local && set->core && (ready || !deadline))
		local_idle(set->core); /* nobody will sleep on the news */
	if (!deadline && set->adopted) {
		set_learn(set);
		ready = set_look(set);
	}
	if (!ready && deadline && set->adopted) {
		epfd = set_arm(set);
		if (epfd < 0 && set->core) {
			errno = ENOMEM;
			return -1;
		}
		ready = set_look(set);
		at = set->hole; /* no more entries than the caller may have, see RLIMIT_NOFILE */
		n += at == n;
		set->kernel[at] = (struct pollfd){.fd = epfd, .events = POLLIN};
	}
	if (set->away && deadline)
		deadline = MIN(deadline, clock_now_ns() + NS_PER_MS);
	r = wait_ppoll(set->kernel, n, ready ? 0 : deadline, mask);
	if (r < 0)
		for (nfds_t i = 0; i < set->n; i++)
			set->kernel[i].revents = 0;
	if (epfd >= 0) {
		if (set->kernel[at].revents)
			wait_clear(epfd);
		set->kernel[at] = (struct pollfd){.fd = -1};
	}
	if (r >= 0 && !ready && deadline) {
		set_look(set);
		/* bells may have made instances ready: the kernel says which */
		if (set->eps && wait_ppoll(set->kernel, set->n, 0, NULL) < 0)
			return -1;
	}
	ready = set_merge(set);
	return r < 0 && !ready ? -1 : ready;
}

int poll_until(struct pollfd *fds, nfds_t n, uint64_t deadline, const sigset_t *mask)
{
	struct set set = {.app = fds, .n = n};
	struct wait_signals signals = {.held = false};
	struct held h = {.frame = __builtin_frame_address(0), .undo = set_undo};
	uint32_t place;
	int ret, saved;

	if (!set_memory(&set)) {
		errno = ENOMEM;
		return -1;
	}
	h.arg = set.mem;
	place = held_push(&h);
	set_open(&set);
	for (;;) {
		ret = set_turn(&set, deadline, wait_signals_mask(&signals, mask));
		if (ret || !wait_left(deadline))
			break;
		wait_signals_hold(&signals);
	}
	saved = errno;
	held_pop(place);
	set_undo(set.mem);
	wait_signals_release(&signals);
	errno = saved;
	return ret;
}

/* ---- calls ---- */

/* <poll.h> promises the compiler that the array is only written, and not NULL; applications do otherwise. */
static struct pollfd *hidden(struct pollfd *p)
{
	__asm__("" : "+r"(p));
	return p;
}

/* Is it a call that we must see? What Linux would refuse is left to it. */
static bool is_ours(const struct pollfd *fds, nfds_t n)
{
	pthread_testcancel();
	held_reap();
	return n <= FD_MAX && user_writable(fds, n * sizeof(*fds)) && set_is_ours(fds, n);
}

PUBLIC int poll(struct pollfd *array, nfds_t n, int timeout)
{
	struct pollfd *fds = hidden(array);

	if (!is_ours(fds, n))
		return libc()->poll(fds, n, timeout);
	return poll_until(fds, n, wait_until_ms(timeout), NULL);
}

PUBLIC int ppoll(struct pollfd *array, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
	struct pollfd *fds = hidden(array);
	uint64_t deadline;

	if (!is_ours(fds, n) || !wait_until(timeout, &deadline) || !user_mask_ok(mask))
		return libc()->ppoll(fds, n, timeout, mask);
	return poll_until(fds, n, deadline, mask);
}

PUBLIC int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t len);
PUBLIC int __poll_chk(struct pollfd *fds, nfds_t n, int timeout, size_t len)
{
	if (len / sizeof(*fds) < n)
		abort(); /* as libc's own: the caller's buffer is too small */
	return poll(fds, n, timeout);
}

PUBLIC int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask, size_t len);
PUBLIC int __ppoll_chk(struct pollfd *fds, nfds_t n, const struct timespec *timeout, const sigset_t *mask, size_t len)
{
	if (len / sizeof(*fds) < n)
		abort();
	return ppoll(fds, n, timeout, mask);
}
