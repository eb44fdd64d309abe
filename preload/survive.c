/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Local connections (local.h) whose service has died: they go on in Linux, without a byte lost. Not in a byte's way until
 * then. Any thread.
 *
 * The kernel sockets are connected with each other as before, and each program has the bytes: what it has written lies
 * in its transmit buffer, what it has not read in its receive buffer. How many of the one have become the other is a
 * single number (ipc_page.moved), which both ends look at: it was stored after the copy and before anything else.
 *
 *   1  core_kill() closes the records of such slots: nothing is written or read there any more
 *   2  what had not been moved is written to the kernel socket: survive_start()
 *   3  what had been moved and is unread is kept here, and read first: the socket stays FAST, on a slot of its own, which
 *      only says that, and writes to the kernel. When it has been read the socket is Linux's: survive_end()
 *
 * Bytes are lost where an end has sent its FIN in the kernel before the service had moved all that was before it: then
 * both ends see a reset, never an end that comes too early.
 *
 * Invariant: nothing is read in the kernel before 3 is over, as what the other end writes in 2 comes after.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>

#include "preload/inherit.h"
#include "preload/local.h"
#include "preload/wait.h"
#include "service/base/clock.h"

#define TAKE_NS (5 * NS_PER_S) /* for the kernel to take what was written: mostly at once */

struct survivor {
	struct ipc_slot slot;
	uint8_t rx[];
};

/* Bytes [@start, @end) of a circular buffer. */
static int range(struct iovec v[2], uint8_t *buf, uint32_t size, uint64_t start, uint64_t end)
{
	size_t n = (size_t)(end - start), at = start & (size - 1), first = MIN(n, size - at);

	v[0] = (struct iovec){buf + at, first};
	v[1] = (struct iovec){buf, n - first};
	return n > first ? 2 : n ? 1 : 0;
}

/* All of it into the kernel socket. */
static bool give(int fd, struct iovec *v, int cnt)
{
	uint64_t until = clock_now_ns() + TAKE_NS;

	while (cnt) {
		struct msghdr m = {.msg_iov = v, .msg_iovlen = (size_t)cnt};
		struct pollfd p = {.fd = fd, .events = POLLOUT};
		struct timespec t = {.tv_nsec = 10 * NS_PER_MS};
		ssize_t n = syscall(SYS_sendmsg, fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return false; /* the other end has gone, as it will say */
		if (n < 0 && clock_now_ns() >= until)
			return false;
		if (n < 0)
			syscall(SYS_ppoll, &p, 1, &t, NULL, 0);
		for (size_t left = n > 0 ? (size_t)n : 0, k; cnt && (left || !v->iov_len); left -= k) {
			k = MIN(left, v->iov_len);
			*v = (struct iovec){(char *)v->iov_base + k, v->iov_len - k};
			if (!v->iov_len) {
				v++;
				cnt--;
			}
		}
	}
	return true;
}

/*
 * A place for the unread bytes, and a slot that says that they are there, and, with @error, that all is over: else the
 * writer, who may be in a call, writes to the kernel from here on.
 */
static bool keep(struct sock *s, const struct iovec *v, int cnt, uint32_t error)
{
	size_t n = (cnt ? v[0].iov_len : 0) + (cnt > 1 ? v[1].iov_len : 0), size = 4096, at = 0;
	struct survivor *k;

	while (size < n)
		size *= 2;
	k = mmap(NULL, sizeof(*k) + size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (k == MAP_FAILED)
		return false;
	for (int i = 0; i < cnt; at += v[i++].iov_len)
		memcpy(k->rx + at, v[i].iov_base, v[i].iov_len);
	k->slot.rcv_end = n;
	s->survivor_size = sizeof(*k) + size;
	s->survivor = k;
	s->st.rx = k->rx;
	s->st.rx_size = (uint32_t)size;
	s->rx_kernel = false;
	s->tx_kernel = !error;
	atomic_store_explicit(&k->slot.error, error, memory_order_relaxed);
	/* last: the status is what others look at first */
	atomic_store_explicit(&k->slot.status, IPC_FAST | (error ? IPC_ST_ERROR : 0), memory_order_release);
	s->st.slot = &k->slot;
	return true;
}

bool survive_start(struct sock *s)
{
	struct ipc_slot *slot = core_slot(s->core, s->slot);
	uint32_t own = slot->flow_id % IPC_FLOWS, peer = atomic_load_explicit(&slot->peer, memory_order_relaxed);
	/* pairs with the release store in local_data() of the service */
	uint64_t acked = atomic_load_explicit(&s->core->page->moved[own], memory_order_acquire), got = 0;
	uint64_t end = atomic_load_explicit(&slot->snd_end, memory_order_acquire) & ~IPC_FROZEN;
	uint64_t read = atomic_load_explicit(&slot->rcv_read, memory_order_acquire) & ~IPC_FROZEN;
	uint32_t status = atomic_load_explicit(&slot->status, memory_order_relaxed);
	struct iovec v[2];
	int cnt;

	/* the other end has sent its FIN in the kernel; were all of its bytes moved? */
	if (!(status & IPC_ST_FIN) && !s->shut_rd && sock_kernel_ended(s))
		return false;
	if (peer < IPC_FLOWS)
		got = atomic_load_explicit(&s->core->page->moved[peer], memory_order_acquire);
	if (s->survivor || end - acked > s->st.tx_size || got - MIN(read, got) > s->st.rx_size || got < read)
		return false;
	if (got > read && s->rx_kernel && local_queued(s, IO_IN))
		return false; /* what of it comes before nobody can tell */
	inherit_let_go(s->fd);
	cnt = range(v, s->st.tx, s->st.tx_size, acked, end);
	if (!give(s->fd, v, cnt))
		return false;
	cnt = range(v, s->st.rx, s->st.rx_size, read, got);
	return !cnt || keep(s, v, cnt, 0);
}

void survive_free(struct sock *s)
{
	if (s->survivor)
		munmap(s->survivor, s->survivor_size);
	s->survivor = NULL;
}

bool survive_lost(struct sock *s)
{
	/* the other end, if it does not know it yet */
	syscall(SYS_connect, s->fd, &(struct sockaddr){.sa_family = AF_UNSPEC}, sizeof(struct sockaddr));
	return !s->survivor && keep(s, NULL, 0, ECONNRESET);
}

bool survive_end(struct sock *s)
{
	if (!s->survivor || sock_failed(s) || stream_unread(&s->st) || !lock_take(&s->lock))
		return false;
	if (sock_state(s) == SOCK_FAST && !stream_unread(&s->st)) {
		s->tx_kernel = false;
		atomic_store_explicit(&s->state, SOCK_LINUX, memory_order_release);
		ep_items_to_kernel(s);
	}
	lock_drop(&s->lock);
	return true;
}
