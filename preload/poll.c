/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * poll, ppoll, select and pselect over adopted sockets and everything else at once. Any
 * thread. Without an adopted socket in the set the call goes to libc as it is.
 *
 * Adopted sockets are looked at here; the rest sleeps in one ppoll() together with this
 * thread's descriptor of wait.c, in which the sockets' contexts ring. Sockets that are still
 * Linux's count the thread as being inside the kernel (FILE_CALL), so they are not adopted
 * under it.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>

#include "preload/sock.h"
#include "service/base/clock.h"

#define ON_STACK 128 /* descriptors without a mapping of their own */

struct set {
	struct pollfd *app;    /* the caller's */
	struct pollfd *kernel; /* copy for the kernel, one more at the end */
	struct file **file;    /* with a reference each, or NULL */
	nfds_t n;
	uint32_t adopted; /* entries that are not Linux's alone */
	struct core *core;
	uint64_t contexts;
	void *map;
	size_t map_len;
};

/* Any tracked descriptor at all? */
static bool set_is_ours(const struct pollfd *fds, nfds_t n)
{
	for (nfds_t i = 0; fds && i < n; i++)
		if (fds[i].fd >= 0 && file_get_any(fds[i].fd))
			return true;
	return false;
}

/* Hold each tracked socket: Linux's ones are not adopted meanwhile. */
static void set_open(struct set *set)
{
	for (nfds_t i = 0; i < set->n; i++) {
		struct file *f = set->app[i].fd >= 0 ? file_get_more(set->app[i].fd, FILE_REF + FILE_CALL) : NULL;

		set->file[i] = NULL;
		set->kernel[i] = set->app[i];
		if (!f)
			continue;
		if (f->type == FILE_OWN) {
			file_put_more(f, FILE_REF + FILE_CALL);
			continue;
		}
		set->file[i] = f;
	}
}

static void set_close(struct set *set)
{
	int saved = errno;

	for (nfds_t i = 0; i < set->n; i++)
		if (set->file[i])
			file_put_more(set->file[i], FILE_REF + FILE_CALL);
	if (set->map)
		munmap(set->map, set->map_len);
	errno = saved;
}

/* Look at the adopted ones: fill their revents, take them out of the kernel's copy. Returns how many are ready. */
static int set_look(struct set *set)
{
	int ready = 0;

	set->adopted = 0;
	for (nfds_t i = 0; i < set->n; i++) {
		struct file *f = set->file[i];
		uint32_t ev = 0, interest = (uint16_t)set->app[i].events;

		if (!f)
			continue;
		if (f->type == FILE_EPOLL) {
			ev = ep_poll(f, &set->core, &set->contexts) & interest;
			set->adopted += set->core != NULL;
		} else {
			struct sock *s = container_of(f, struct sock, file);

			if (sock_is_open(s))
				sock_settle(s);
			if (sock_state(s) == SOCK_LINUX) {
				set->kernel[i].fd = set->app[i].fd;
				continue;
			}
			set->kernel[i].fd = -1;
			set->adopted++;
			set->core = s->core;
			set->contexts |= 1ull << s->context;
			ev = sock_events(s, interest) & (interest | POLLERR | POLLHUP);
		}
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
		bool ours = set->file[i] && set->kernel[i].fd < 0;

		if (!ours && set->file[i] && set->file[i]->type == FILE_EPOLL)
			set->app[i].revents |= set->kernel[i].revents;
		else if (!ours)
			set->app[i].revents = set->kernel[i].revents;
		ready += set->app[i].revents != 0;
	}
	return ready;
}

static void set_arm(struct set *set)
{
	for (uint64_t m = set->contexts; m; m &= m - 1)
		core_context_arm(set->core, (uint32_t)__builtin_ctzll(m));
}

static int kernel_poll(struct set *set, nfds_t n, uint64_t deadline, const sigset_t *mask)
{
	struct timespec left = {0};

	if (deadline != WAIT_FOREVER && deadline) {
		uint64_t now = clock_now_ns(), ns = deadline > now ? deadline - now : 0;

		left.tv_sec = (time_t)(ns / NS_PER_S);
		left.tv_nsec = (long)(ns % NS_PER_S);
	}
	return libc()->ppoll(set->kernel, n, deadline == WAIT_FOREVER ? NULL : &left, mask);
}

static int set_wait(struct set *set, uint64_t deadline, const sigset_t *mask)
{
	for (;;) {
		nfds_t n = set->n;
		int ready = set_look(set), r, epfd = -1;
		bool sleep = !ready && deadline;

		if (sleep && set->adopted) {
			set_arm(set); /* full fences; then a second look */
			epfd = wait_fd(set->core, set->contexts);
			if (epfd < 0) {
				errno = ENOMEM;
				return -1;
			}
			ready = set_look(set);
			sleep = !ready;
			set->kernel[n++] = (struct pollfd){.fd = epfd, .events = POLLIN};
		}
		r = kernel_poll(set, n, sleep ? deadline : 0, mask);
		if (r < 0 && !ready)
			return -1;
		if (r < 0)
			for (nfds_t i = 0; i < set->n; i++)
				set->kernel[i].revents = 0;
		if (epfd >= 0 && set->kernel[set->n].revents)
			wait_clear(epfd);
		if (sleep)
			set_look(set);
		ready = set_merge(set);
		if (ready || !deadline || (deadline != WAIT_FOREVER && clock_now_ns() >= deadline))
			return ready;
	}
}

static int poll_call(struct pollfd *fds, nfds_t n, uint64_t deadline, const sigset_t *mask)
{
	struct pollfd kernel[ON_STACK + 1];
	struct file *file[ON_STACK];
	struct set set = {.app = fds, .n = n, .kernel = kernel, .file = file};
	int ret;

	if (n > ON_STACK) {
		set.map_len = n * sizeof(struct file *) + (n + 1) * sizeof(struct pollfd);
		set.map = mmap(NULL, set.map_len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (set.map == MAP_FAILED) {
			errno = ENOMEM;
			return -1;
		}
		set.file = set.map;
		set.kernel = (struct pollfd *)(set.file + n);
	}
	set_open(&set);
	ret = set_wait(&set, deadline, mask);
	set_close(&set);
	return ret;
}

static uint64_t deadline_of(const struct timespec *t)
{
	uint64_t ns;

	if (!t)
		return WAIT_FOREVER;
	ns = (uint64_t)t->tv_sec * NS_PER_S + (uint64_t)t->tv_nsec;
	return ns ? clock_now_ns() + ns : 0;
}

/* <poll.h> promises the compiler that the array is only written, and not NULL; applications do otherwise. */
static struct pollfd *hidden(struct pollfd *p)
{
	__asm__("" : "+r"(p));
	return p;
}

PUBLIC int poll(struct pollfd *array, nfds_t n, int timeout)
{
	struct pollfd *fds = hidden(array);

	if (n > FD_MAX || !set_is_ours(fds, n))
		return libc()->poll(fds, n, timeout);
	return poll_call(fds, n,
			 timeout < 0 ? WAIT_FOREVER
			 : timeout   ? clock_now_ns() + (uint64_t)timeout * NS_PER_MS
				     : 0,
			 NULL);
}

PUBLIC int ppoll(struct pollfd *array, nfds_t n, const struct timespec *timeout, const sigset_t *mask)
{
	struct pollfd *fds = hidden(array);

	if (n > FD_MAX || (timeout && (timeout->tv_sec < 0 || (uint64_t)timeout->tv_nsec >= NS_PER_S)) ||
	    !set_is_ours(fds, n))
		return libc()->ppoll(fds, n, timeout, mask);
	return poll_call(fds, n, deadline_of(timeout), mask);
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

/* ---- select ---- */

#define LONG_BITS (8 * (int)sizeof(long))

static bool bit_get(const fd_set *set, int fd)
{
	return set && (((const unsigned long *)set)[fd / LONG_BITS] >> (fd % LONG_BITS) & 1);
}

static void bit_put(fd_set *set, int fd, bool on)
{
	unsigned long bit = 1ul << (fd % LONG_BITS);
	unsigned long *word = set ? &((unsigned long *)set)[fd / LONG_BITS] : NULL;

	if (word)
		*word = on ? *word | bit : *word & ~bit;
}

static bool select_is_ours(int n, const fd_set *rd, const fd_set *wr, const fd_set *ex)
{
	for (int i = 0; i < n; i++)
		if ((bit_get(rd, i) || bit_get(wr, i) || bit_get(ex, i)) && file_get_any(i))
			return true;
	return false;
}

/* The sets as a poll array, and back. Returns how many entries. */
static nfds_t select_to_poll(int n, const fd_set *rd, const fd_set *wr, const fd_set *ex, struct pollfd *p)
{
	nfds_t k = 0;

	for (int i = 0; i < n; i++) {
		short ev = (short)((bit_get(rd, i) ? POLLIN | POLLRDNORM | POLLRDBAND : 0) |
				   (bit_get(wr, i) ? POLLOUT | POLLWRNORM | POLLWRBAND : 0) |
				   (bit_get(ex, i) ? POLLPRI : 0));

		if (ev)
			p[k++] = (struct pollfd){.fd = i, .events = ev};
	}
	return k;
}

static int select_from_poll(const struct pollfd *p, nfds_t k, fd_set *rd, fd_set *wr, fd_set *ex)
{
	int total = 0;

	for (nfds_t i = 0; i < k; i++) {
		short want = p[i].events, got = p[i].revents;
		bool in = (want & POLLIN) && (got & (POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR));
		bool out = (want & POLLOUT) && (got & (POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR));
		bool pri = (want & POLLPRI) && (got & POLLPRI);

		if (got & POLLNVAL) {
			errno = EBADF;
			return -1;
		}
		if (want & POLLIN)
			bit_put(rd, p[i].fd, in);
		if (want & POLLOUT)
			bit_put(wr, p[i].fd, out);
		if (want & POLLPRI)
			bit_put(ex, p[i].fd, pri);
		total += in + out + pri;
	}
	return total;
}

static int select_call(int n, fd_set *rd, fd_set *wr, fd_set *ex, uint64_t deadline, const sigset_t *mask)
{
	size_t len = ((size_t)n + 1) * sizeof(struct pollfd);
	struct pollfd *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	nfds_t k;
	int ret;

	if (p == MAP_FAILED) {
		errno = ENOMEM;
		return -1;
	}
	k = select_to_poll(n, rd, wr, ex, p);
	ret = poll_call(p, k, deadline, mask);
	if (ret >= 0)
		ret = select_from_poll(p, k, rd, wr, ex);
	munmap(p, len);
	return ret;
}

PUBLIC int select(int n, fd_set *rd, fd_set *wr, fd_set *ex, struct timeval *timeout)
{
	uint64_t deadline = WAIT_FOREVER, now;
	int ret;

	if (n <= 0 || n > FD_MAX || (timeout && (timeout->tv_sec < 0 || timeout->tv_usec < 0)) ||
	    !select_is_ours(n, rd, wr, ex))
		return libc()->select(n, rd, wr, ex, timeout);
	if (timeout) {
		uint64_t ns = (uint64_t)timeout->tv_sec * NS_PER_S + (uint64_t)timeout->tv_usec * NS_PER_US;

		deadline = ns ? clock_now_ns() + ns : 0;
	}
	ret = select_call(n, rd, wr, ex, deadline, NULL);
	if (timeout && deadline) { /* Linux tells how much time was left */
		now = clock_now_ns();
		now = deadline > now ? deadline - now : 0;
		timeout->tv_sec = (time_t)(now / NS_PER_S);
		timeout->tv_usec = (suseconds_t)(now % NS_PER_S / NS_PER_US);
	}
	return ret;
}

PUBLIC int pselect(int n, fd_set *rd, fd_set *wr, fd_set *ex, const struct timespec *timeout, const sigset_t *mask)
{
	if (n <= 0 || n > FD_MAX || (timeout && (timeout->tv_sec < 0 || (uint64_t)timeout->tv_nsec >= NS_PER_S)) ||
	    !select_is_ours(n, rd, wr, ex))
		return libc()->pselect(n, rd, wr, ex, timeout, mask);
	return select_call(n, rd, wr, ex, deadline_of(timeout), mask);
}
