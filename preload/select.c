/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * select and pselect: the sets become a poll array, and its answers sets again. Any thread.
 *
 * Invariants: the sets are read and written only as far as Linux would; they are as they were
 * after an error. Without one of our descriptors in them the call goes to libc as it is.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>

#include "preload/poll.h"
#include "preload/user.h"
#include "service/base/clock.h"

#define FEW 64 /* descriptors that need no memory of their own */

#define LONG_BITS (8 * (int)sizeof(long))

static bool bit_get(const fd_set *set, int fd)
{
	return set && (((const unsigned long *)set)[fd / LONG_BITS] >> (fd % LONG_BITS) & 1);
}

static void bit_set(fd_set *set, int fd)
{
	((unsigned long *)set)[fd / LONG_BITS] |= 1ul << (fd % LONG_BITS);
}

static bool sets_have_ours(int n, const fd_set *rd, const fd_set *wr, const fd_set *ex)
{
	for (int i = 0; i < n; i++)
		if ((bit_get(rd, i) || bit_get(wr, i) || bit_get(ex, i)) && file_get_any(i))
			return true;
	return false;
}

/* Linux looks at no more than the process's table can hold; beyond that there may be no memory. */
static int table_size(void)
{
	char buf[2048];
	const char *at;
	long fd = syscall(SYS_openat, AT_FDCWD, "/proc/self/status", O_RDONLY | O_CLOEXEC), len;

	if (fd < 0)
		return FD_SETSIZE;
	len = syscall(SYS_read, fd, buf, sizeof(buf) - 1);
	syscall(SYS_close, fd);
	buf[MAX(len, 0L)] = 0;
	at = strstr(buf, "FDSize:");
	return at ? atoi(at + 7) : FD_SETSIZE;
}

static size_t set_bytes(int n)
{
	return (size_t)(n + LONG_BITS - 1) / LONG_BITS * sizeof(long);
}

static bool set_ok(const fd_set *set, int n)
{
	return !set || user_writable(set, set_bytes(n));
}

/* Is it a call that we must see? What Linux would refuse is left to it. */
static bool select_is_ours(int *n, const fd_set *rd, const fd_set *wr, const fd_set *ex)
{
	pthread_testcancel();
	held_reap();
	if (*n > FD_SETSIZE)
		*n = MIN(*n, MIN(table_size(), FD_MAX));
	return *n > 0 && set_ok(rd, *n) && set_ok(wr, *n) && set_ok(ex, *n) && sets_have_ours(*n, rd, wr, ex);
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

/* Which of the three sets an entry's answer puts it into: bits 0 to 2. */
static int answer(const struct pollfd *p)
{
	short want = p->events, got = p->revents;
	bool in = (want & POLLIN) && (got & (POLLIN | POLLRDNORM | POLLRDBAND | POLLHUP | POLLERR));
	bool out = (want & POLLOUT) && (got & (POLLOUT | POLLWRNORM | POLLWRBAND | POLLERR));
	bool pri = (want & POLLPRI) && (got & POLLPRI);

	return in | out << 1 | pri << 2;
}

static int select_from_poll(const struct pollfd *p, nfds_t k, int n, fd_set *rd, fd_set *wr, fd_set *ex)
{
	fd_set *set[] = {rd, wr, ex};
	int total = 0;

	for (int j = 0; j < 3; j++)
		if (set[j])
			memset(set[j], 0, set_bytes(n));
	for (nfds_t i = 0; i < k; i++) {
		int to = p[i].fd < 0 ? 0 : answer(&p[i]);

		for (int j = 0; j < 3; j++)
			if (to >> j & 1)
				bit_set(set[j], p[i].fd);
		total += __builtin_popcount((unsigned)to);
	}
	return total;
}

/*
 * Entries that poll() reports but select() would not (HUP of one that is only watched for
 * exceptions) are left out of the next turn. Returns 1: there are answers, 0: only such, -1.
 */
static int judge(struct pollfd *p, nfds_t k)
{
	int any = 0;

	for (nfds_t i = 0; i < k; i++) {
		if (p[i].fd >= 0 && (p[i].revents & POLLNVAL)) {
			errno = EBADF;
			return -1;
		}
		any |= p[i].fd >= 0 && answer(&p[i]);
	}
	for (nfds_t i = 0; i < k && !any; i++)
		if (p[i].fd >= 0 && p[i].revents)
			p[i].fd = -1;
	return any;
}

/* @p: room for n entries. */
static int select_by_poll(int n, fd_set *rd, fd_set *wr, fd_set *ex, uint64_t deadline, const sigset_t *mask,
			  struct pollfd *p)
{
	nfds_t k = select_to_poll(n, rd, wr, ex, p);
	int ret;

	do {
		ret = poll_until(p, k, deadline, mask);
		if (ret > 0)
			ret = judge(p, k);
		else if (!ret)
			break;
	} while (!ret);
	return ret < 0 ? ret : select_from_poll(p, k, n, rd, wr, ex);
}

static int select_call(int n, fd_set *rd, fd_set *wr, fd_set *ex, uint64_t deadline, const sigset_t *mask)
{
	struct pollfd few[FEW], *many;
	size_t len = (size_t)n * sizeof(*many);
	int ret;

	if (n <= FEW)
		return select_by_poll(n, rd, wr, ex, deadline, mask, few);
	many = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (many == MAP_FAILED) {
		errno = ENOMEM;
		return -1;
	}
	ret = select_by_poll(n, rd, wr, ex, deadline, mask, many);
	munmap(many, len);
	return ret;
}

PUBLIC int select(int n, fd_set *rd, fd_set *wr, fd_set *ex, struct timeval *timeout)
{
	uint64_t deadline = WAIT_FOREVER, left;
	int ret, saved, size = n;

	if (n <= 0 || !select_is_ours(&size, rd, wr, ex) ||
	    (timeout && (!user_writable(timeout, sizeof(*timeout)) || timeout->tv_sec < 0 || timeout->tv_usec < 0)))
		return libc()->select(n, rd, wr, ex, timeout);
	if (timeout)
		deadline = wait_until_ns((uint64_t)timeout->tv_sec, (uint64_t)timeout->tv_usec * NS_PER_US);
	ret = select_call(size, rd, wr, ex, deadline, NULL);
	saved = errno;
	if (timeout && deadline) { /* Linux tells how much time was left */
		left = wait_left(deadline);
		timeout->tv_sec = (time_t)(left / NS_PER_S);
		timeout->tv_usec = (suseconds_t)(left % NS_PER_S / NS_PER_US);
	}
	errno = saved;
	return ret;
}

PUBLIC int pselect(int n, fd_set *rd, fd_set *wr, fd_set *ex, const struct timespec *timeout, const sigset_t *mask)
{
	uint64_t deadline;
	int size = n;

	if (n <= 0 || !select_is_ours(&size, rd, wr, ex) || !wait_until(timeout, &deadline) || !user_mask_ok(mask))
		return libc()->pselect(n, rd, wr, ex, timeout, mask);
	return select_call(size, rd, wr, ex, deadline, mask);
}
