/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The adoption of a tracked socket, and the service's answers: to an adoption, to a claim of a connection that another
 * process has, and that the connection is Linux's again. Not in a packet's way. Any thread.
 *
 * Invariants: `state` changes under s->lock. Adoption sets ADOPTING and then looks at the count of calls that are
 * inside the kernel (full fences on both sides, see sock.c), so no thread blocks in the kernel on an adopted
 * socket. A slot stays bound to the socket from ADOPT until its last descriptor is closed.
 */
#define _GNU_SOURCE 1
#include "preload/sock.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>

#include "preload/inherit.h"
#include "preload/local.h"
#include "preload/share.h"
#include "service/base/clock.h"

#define NO_SERVICE_EXCHANGES 4 /* until the next look for it: perhaps another thread is just connecting */
#define CLAIM_NS NS_PER_MS     /* between two requests for a connection that is in the middle of something */
#define RETRY_BYTES 262144     /* a one-way transfer is tried again after so much */

static void verbose(const struct sock *s, const char *what, uint32_t reason)
{
	char line[160];
	int n;

	if (!sock_verbose || file_get_any(2)) /* not into a connection */
		return;
	n = snprintf(line, sizeof(line), "tapas: descriptor %d %s%s%s\n", s->fd, what, reason ? ": " : "",
		     reason ? ipc_reason_name(reason) : "");
	/* not a cancellation point: locks are held */
	(void)!syscall(SYS_write, 2, line, (size_t)MIN(n, (int)sizeof(line) - 1));
}

static bool is_established(int fd)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);

	return !libc()->getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) && info.tcpi_state == TCP_ESTABLISHED;
}

/* Where the answer and the data will be announced: its epoll's context, else this thread's. s->lock held. */
static int adopt_context(struct sock *s, struct core *c)
{
	int context = ep_context(s, c);

	return context >= 0 ? context : wait_context(c);
}

/* Threads inside a call on it. Those outside have a reference longer than they are counted. */
static uint32_t sock_threads(const struct sock *s)
{
	return (uint32_t)atomic_load_explicit(&s->file.refs, memory_order_acquire) -
	       atomic_load_explicit(&s->outside, memory_order_relaxed) -
	       atomic_load_explicit(&s->file.fds, memory_order_relaxed);
}

/* Undo a start that did not reach the service. s->lock held. */
static void adopt_undo(struct sock *s)
{
	ep_items_to_kernel(s);
	slot_release(s);
	atomic_store_explicit(&s->state, SOCK_LINUX, memory_order_release);
}

static void adopt_locked(struct sock *s, int fd, struct core *c)
{
	int slot, context;
	bool busy;

	/* a thread that met the closed record may still be looking at the old buffers */
	if (s->slot != SLOT_NONE && sock_threads(s) > 1)
		return;
	slot_release(s); /* of an earlier refusal or return */
	context = adopt_context(s, c);
	if (context < 0)
		return;
	slot = core_slot_take(c, s);
	if (slot < 0) {
		core_context_put(c, (uint32_t)context);
		return;
	}
	s->core = c;
	s->slot = (uint32_t)slot;
	s->context = (uint32_t)context;
	s->fd = fd;
	s->unfit = false;
	s->cookie = core_cookie(fd);
	option_load(s, fd);
	/* a full fence: pairs with file_try() and sock_begin(): the count is raised before state is looked at */
	atomic_store_explicit(&s->state, SOCK_ADOPTING, memory_order_seq_cst);
	atomic_thread_fence(memory_order_seq_cst);
	/* that it is still this socket's number says that the cookie is this socket's */
	busy = sock_is_inside(s) || atomic_load_explicit(&fd_table[fd], memory_order_seq_cst) != &s->file ||
	       !ep_items_to_user(s);
	if (!busy)
		share_unmark(s);
	if (busy || core_adopt(c, s->slot, fd, s->cookie, s->opts, s->context, 0) < 0) {
		adopt_undo(s);
		return;
	}
	/* somebody may sleep already, without having armed this context */
	core_context_arm(c, s->context);
}

/* What the call that starts a claim uses, and who watches it. 0: not known. s->lock held. */
static uint32_t claim_need(struct sock *s)
{
	uint32_t need = atomic_exchange_explicit(&s->need, 0, memory_order_relaxed);

	for (struct item *it = s->items; it; it = it->sock_next)
		need |= io_of_events(it->events);
	return need;
}

void sock_claim_start(struct sock *s)
{
	uint32_t need = claim_need(s);
	/* a half may come back if nobody here looks at the old buffers */
	bool back = s->claim == CLAIM_RETURN && need && sock_threads(s) <= 1;
	int err;

	s->cookie = core_cookie(s->fd);
	s->unfit = false;
	option_load(s, s->fd);
	if (s->claim == CLAIM_RETURN && !back) /* its old answer is no answer to this */
		atomic_store_explicit(&core_slot(s->core, s->slot)->status, IPC_ADOPTING, memory_order_relaxed);
	s->claiming = true;
	atomic_store_explicit(&s->state, SOCK_ADOPTING, memory_order_seq_cst);
	atomic_thread_fence(memory_order_seq_cst);
	if (!ep_items_to_user(s)) {
		err = -EAGAIN;
	} else if (s->claim == CLAIM_TAKE || back) {
		share_unmark(s);
		err = core_adopt(s->core, s->slot, s->fd, 0, s->opts, s->context, need | (back ? IPC_HALF_BACK : 0));
	} else {
		if (s->items) /* watched from then on; who calls says so when it is Linux's */
			share_mark(s);
		err = core_return(s->core, s->slot, s->fd, s->fd, false);
	}
	if (err < 0) {
		s->claiming = false;
		atomic_store_explicit(&s->state, SOCK_AWAY, memory_order_release);
		return;
	}
	core_context_arm(s->core, s->context);
}

/* The next attempt not before the connection has lived on for a while. */
static void try_after(struct sock *s, uint32_t exchanges, uint64_t bytes)
{
	s->try_at = s->exchanges + exchanges;
	s->try_bytes = s->bytes + bytes;
}

/* The longer the more have failed. */
static void try_later(struct sock *s)
{
	uint32_t doubled = MIN(s->tries, 12u);

	try_after(s, 16u << doubled, (uint64_t)RETRY_BYTES << doubled);
}

void sock_adopt_try(struct sock *s, int fd)
{
	int saved = errno;
	struct core_policy policy;
	struct core *c;

	if (atomic_load_explicit(&sock_stay, memory_order_seq_cst)) {
		s->try_at = NEVER;
		return;
	}
	c = sock_service();
	if (c && !sock_policy(s, &policy))
		sock_set_policy(s, &c->policy);
	if (!sock_policy(s, &policy)) {
		if (!c)
			try_after(s, NO_SERVICE_EXCHANGES, RETRY_BYTES);
		errno = saved;
		return;
	}
	if (c && policy.accelerate && (s->exchanges > policy.exchanges || s->bytes > policy.bytes)) {
		if (!s->same_host)
			s->same_host = local_is_same_host(fd);
		if ((!s->same_host && !core_prepare(c)) || !lock_try(&s->lock)) {
			errno = saved;
			return;
		}
		try_later(s); /* when this attempt comes to nothing */
		s->tries++;
		/* another thread may have closed it during the call, and its number be another connection's */
		if (sock_state(s) == SOCK_LINUX && !s->keep_linux &&
		    atomic_load_explicit(&fd_table[fd], memory_order_relaxed) == &s->file && is_established(fd) &&
		    !share_is_read_by_stdio(s))
			adopt_locked(s, fd, c);
		lock_drop(&s->lock);
	} else if (!c || !policy.accelerate) {
		try_after(s, c ? 64 : NO_SERVICE_EXCHANGES, RETRY_BYTES);
	}
	errno = saved;
}

/*
 * It is watched in the kernel again, and another process may hold it: it says so, and if that one has had it adopted
 * meanwhile it is given back. s->lock held.
 */
static void settle_watched(struct sock *s)
{
	if (!s->items || !share_is(s) || share_mark(s))
		return;
	s->claim = CLAIM_RETURN;
	atomic_store_explicit(&s->state, SOCK_AWAY, memory_order_release);
	inherit_claim(s);
}

/* Worth another try one day? */
static bool is_refused_once(uint32_t reason)
{
	return reason == IPC_REASON_RACE || reason == IPC_REASON_BUSY || reason == IPC_REASON_FULL ||
	       reason == IPC_REASON_MEMORY || reason == IPC_REASON_SILENT || reason == IPC_REASON_STATE ||
	       reason == IPC_REASON_GAPS || reason == IPC_REASON_USED || reason == IPC_REASON_PEER ||
	       reason == IPC_REASON_HANDED_BACK; /* to another process */
}

/* Refused, or the service died before it answered. s->lock held. */
static void settle_linux(struct sock *s, bool died)
{
	bool given_back = s->claiming && s->claim == CLAIM_RETURN;
	uint32_t reason = atomic_load_explicit(&core_slot(s->core, s->slot)->reason, memory_order_relaxed);

	if (!died && reason == IPC_REASON_RETRY) { /* in the middle of something, elsewhere */
		s->claim = given_back ? CLAIM_RETURN : CLAIM_TAKE;
		s->claim_ns = clock_now_ns() + CLAIM_NS;
		atomic_store_explicit(&s->state, SOCK_AWAY, memory_order_release);
		return;
	}
	if (died) {
		inherit_let_go(s->fd);
	} else if (given_back) {
		if (s->try_at != NEVER)
			try_later(s);
	} else if (!is_refused_once(reason)) {
		s->try_at = NEVER;
	}
	if (!died && reason == IPC_REASON_PEER) {
		s->same_host = true;
		atomic_store_explicit(&s->offer, core_slot(s->core, s->slot), memory_order_release);
	}
	verbose(s, died ? "stays with Linux: the service has gone" : "stays with Linux", died ? 0 : reason);
	atomic_store_explicit(&s->state, SOCK_LINUX, memory_order_release);
	ep_items_to_kernel(s);
	settle_watched(s);
}

bool sock_kernel_ended(const struct sock *s)
{
	struct pollfd p = {.fd = s->fd, .events = POLLRDHUP};
	struct timespec none = {0};

	/* not a cancellation point: a lock may be held */
	return syscall(SYS_ppoll, &p, 1, &none, NULL, 0) > 0 && p.revents & POLLRDHUP;
}

/*
 * Has a process shut it down for reading, before the adoption or elsewhere? Only the socket knows. The peer's FIN, which
 * poll() does not tell from that, may be ahead of its bytes if the connection is local; else it is all the same.
 */
static bool is_shut_for_reading(const struct sock *s)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);

	if (!sock_kernel_ended(s))
		return false;
	return !s->st.local || (!syscall(SYS_getsockopt, s->fd, IPPROTO_TCP, TCP_INFO, &info, &len) &&
				(info.tcpi_state == TCP_ESTABLISHED || info.tcpi_state == TCP_FIN_WAIT1 ||
				 info.tcpi_state == TCP_FIN_WAIT2));
}

/* Its buffers are in memory that cannot be had: it goes back. It stays ADOPTING until the service says that it has. */
static void settle_unfit(struct sock *s)
{
	if (s->unfit)
		return;
	s->unfit = !core_return(s->core, s->slot, s->fd, s->fd, true);
	if (!s->unfit)
		core_context_wake(s->core, s->context); /* once more */
}

static void settle_fast(struct sock *s)
{
	int err = stream_open(&s->st, s->core, s->slot);

	if (err == -EPROTO) {
		core_kill(s->core); /* not a service to talk to */
		settle_linux(s, true);
		return;
	}
	if (err) {
		if (err != -EDEADLK)
			settle_unfit(s);
		return;
	}
	s->word = core_word(s->core, s->st.flow_id);
	if (is_shut_for_reading(s))
		s->shut_rd = true;
	if (s->st.local)
		local_watch(s);
	if (s->shut_rd)
		stream_opts_set(&s->st, IPC_OPT_SHUT_RD, 0);
	s->tries = 0;
	s->asked = false;
	verbose(s, "is accelerated", 0);
	atomic_store_explicit(&s->state, SOCK_FAST, memory_order_release);
}

/* The service gave it back: the kernel socket is the connection again. s->lock held. */
static void settle_returned(struct sock *s)
{
	uint32_t reason = atomic_load_explicit(&core_slot(s->core, s->slot)->reason, memory_order_relaxed);

	s->asked = false;
	local_unwatch(s);
	s->rx_kernel = s->tx_kernel = false;
	if (reason == IPC_REASON_STRAY && s->strays < 6)
		s->strays++;
	if (s->keep_linux || reason == IPC_REASON_URGENT)
		s->try_at = NEVER;
	else
		try_after(s, 16u << 2 * s->strays, (uint64_t)RETRY_BYTES << s->strays);
	if (reason != IPC_REASON_MOVED)
		option_returned(s);
	if (s->shut_rd) /* which the socket forgot when it was rebuilt */
		libc()->shutdown(s->fd, SHUT_RD);
	if (reason == IPC_REASON_MOVED) {
		verbose(s, "is taken over by another process", 0);
		s->claim = CLAIM_RETURN;
		atomic_store_explicit(&s->state, SOCK_AWAY, memory_order_release);
		return;
	}
	verbose(s, "is given back to Linux", reason);
	atomic_store_explicit(&s->state, SOCK_LINUX, memory_order_release);
	ep_items_to_kernel(s);
	settle_watched(s);
}

/* The service died. A local connection goes on; else it was between freezing and giving back. s->lock held. */
static void settle_died(struct sock *s)
{
	if (s->st.local && survive_start(s)) {
		local_unwatch(s);
		verbose(s, "is Linux's: the service has gone", 0);
		if (s->survivor) {
			ep_items_mark(s, NULL);
			return;
		}
		s->rx_kernel = s->tx_kernel = false;
		if (s->try_at != NEVER)
			try_after(s, 16, RETRY_BYTES);
		atomic_store_explicit(&s->state, SOCK_LINUX, memory_order_release);
		ep_items_to_kernel(s);
		settle_watched(s);
		return;
	}
	/* nobody knows the stream any more */
	if (s->st.local && survive_lost(s)) {
		local_unwatch(s);
		ep_items_mark(s, NULL);
		return;
	}
	libc()->shutdown(s->fd, SHUT_RDWR);
	settle_linux(s, true);
	s->try_at = NEVER;
}

bool sock_settle(struct sock *s)
{
	int saved = errno;
	uint32_t state;

	if (!sock_is_open(s))
		return true;
	if (!lock_take(&s->lock))
		return false;
	if (sock_state(s) == SOCK_AWAY && (!s->claim_ns || clock_now_ns() >= s->claim_ns)) {
		s->claim_ns = 0;
		inherit_claim(s);
	}
	if (sock_state(s) == SOCK_FAST) {
		state = IPC_STATE(stream_status(&s->st));
		if (state == IPC_RETURNED)
			settle_returned(s);
		else if (state == IPC_PAUSED && core_is_dead(s->core))
			settle_died(s);
	}
	if (sock_state(s) == SOCK_ADOPTING) {
		/* pairs with the service's release store of its answer */
		state = IPC_STATE(atomic_load_explicit(&core_slot(s->core, s->slot)->status, memory_order_acquire));
		if (state == IPC_FAST || state == IPC_DEAD)
			settle_fast(s);
		else if (state == IPC_REFUSED || state == IPC_RETURNED || state == IPC_FREE)
			settle_linux(s, false);
		else if (core_is_dead(s->core))
			settle_linux(s, true);
		if (sock_state(s) == SOCK_FAST)
			ep_items_mark(s, NULL);
		if (sock_state(s) != SOCK_ADOPTING)
			s->claiming = false;
	}
	if (!sock_is_open(s))
		s->need = 0;
	lock_drop(&s->lock);
	errno = saved;
	return !sock_is_open(s);
}
