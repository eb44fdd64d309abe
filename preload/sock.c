/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a tracked TCP socket (track.c) goes through: counting exchanges, adoption, the service's
 * answer, readiness. Place in a packet's way: every call on a tracked socket enters and
 * leaves here. Any thread.
 *
 * Invariants: `state` changes under s->lock. A thread enters the kernel on a socket only
 * after raising FILE_CALL and seeing LINUX; adoption sets ADOPTING and then looks at
 * that count (full fences on both sides), so no thread blocks in the kernel on an adopted
 * socket. A slot stays bound to the socket from ADOPT until its last descriptor is closed.
 */
#define _GNU_SOURCE 1
#include "preload/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/single_threaded.h>

#include "preload/wait.h"
#include "preload/share.h"
#include "service/base/clock.h"

#define RETURN_NS (20 * NS_PER_MS) /* a non-blocking receive waits so long for a connection on its way */
#define SEND_NS NS_PER_S           /* a non-blocking send, or a receive that has something to read */
#define RETURN_LIMIT_NS (5 * NS_PER_S)
#define NO_SERVICE_EXCHANGES 4 /* until the next look for it: perhaps another thread is just connecting */
#define BULK_BYTES 32768       /* so much at once is a one-way transfer */
#define CLAIM_NS NS_PER_MS     /* between two requests for a connection that is in the middle of something */
#define RETRY_BYTES 262144     /* a one-way transfer is tried again after so much */
#define FIRST_LOOK_BYTES 4096  /* connect to the service not before a connection has moved this */

/* ---- adoption ---- */

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
	s->cookie = core_cookie(fd);
	option_load(s, fd);
	/* a full fence: pairs with file_try() and sock_begin(): the count is raised before state is looked at */
	atomic_store_explicit(&s->state, SOCK_ADOPTING, memory_order_seq_cst);
	atomic_thread_fence(memory_order_seq_cst);
	busy = atomic_load_explicit(&s->file.refs, memory_order_seq_cst) >= FILE_CALL || !ep_items_to_user(s);
	if (!busy)
		share_unmark(s);
	if (busy || core_adopt(c, s->slot, fd, fd, s->opts, s->context, 0) < 0) {
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
		err = core_adopt(s->core, s->slot, s->fd, s->fd, s->opts, s->context,
				 need | (back ? IPC_HALF_BACK : 0));
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

static void adopt_try(struct sock *s, int fd)
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
		if (!core_prepare(c) || !lock_try(&s->lock)) {
			errno = saved;
			return;
		}
		try_later(s); /* when this attempt comes to nothing */
		s->tries++;
		if (sock_state(s) == SOCK_LINUX && is_established(fd) && !share_is_read_by_stdio(s))
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
	       reason == IPC_REASON_USED || reason == IPC_REASON_HANDED_BACK; /* to another process */
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
		int none = 0;

		libc()->setsockopt(s->fd, SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof(none));
	} else if (given_back) {
		if (s->try_at != NEVER)
			try_later(s);
	} else if (!is_refused_once(reason)) {
		s->try_at = NEVER;
	}
	verbose(s, died ? "stays with Linux: the service has gone" : "stays with Linux", died ? 0 : reason);
	atomic_store_explicit(&s->state, SOCK_LINUX, memory_order_release);
	ep_items_to_kernel(s);
	settle_watched(s);
}

static void settle_fast(struct sock *s)
{
	struct ipc_slot *slot = core_slot(s->core, s->slot);

	if (stream_open(&s->st, s->core, s->slot) < 0) {
		core_kill(s->core); /* not a service to talk to */
		settle_linux(s, true);
		return;
	}
	for (uint32_t left = slot->discard; left;) {
		/* not a cancellation point: the lock is held */
		ssize_t n = syscall(SYS_recvfrom, s->fd, NULL, (size_t)left, MSG_TRUNC | MSG_DONTWAIT, NULL, NULL);

		if (n <= 0)
			break;
		left -= MIN(left, (uint32_t)n);
	}
	s->word = core_word(s->core, s->st.flow_id);
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

/* The service died between freezing and giving back: nobody knows the stream any more. s->lock held. */
static void settle_lost(struct sock *s)
{
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
			settle_lost(s);
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

/* ---- calls ---- */

/* The kernel socket said FIN or RST: was the descriptor closed where we could not see it? */
static bool is_still_ours(struct sock *s, int fd, uint64_t word)
{
	if (core_cookie(fd) != s->cookie) {
		fd_forget(fd);
		return false;
	}
	s->word = word;
	return true;
}

/*
 * Was something written to the kernel socket past the library, by stdio for one? It comes before what is written from
 * here on, so the connection, which the service is about to give back, goes first. The caller is inside the call.
 */
static bool is_bypassed(struct sock *s, int fd, uint64_t word)
{
	struct held h = {.frame = __builtin_frame_address(0), .file = &s->file, .refs = FILE_REF + FILE_CALL};
	uint32_t place;
	int err;

	if (IPC_WORD_STRAY(word) == IPC_WORD_STRAY(s->word))
		return false;
	place = held_push(&h);
	err = sock_return(s, fd, false);
	held_pop(place);
	return !err;
}

/*
 * A connection on its way: is there something to read, and perhaps an event that has said so? In an adoption, whose
 * bytes are still the kernel's, only that socket knows.
 */
static bool is_readable(const struct sock *s)
{
	int queued = 0;

	if (sock_state(s) == SOCK_ADOPTING && !s->claiming)
		return !syscall(SYS_ioctl, s->fd, FIONREAD, &queued) && queued > 0;
	if (sock_state(s) != SOCK_FAST)
		return false;
	/* a cursor whose record is closed carries a mark */
	return stream_status(&s->st) & IPC_ST_FIN ||
	       (atomic_load_explicit(&s->st.slot->rcv_read, memory_order_relaxed) & ~IPC_FROZEN) !=
		       atomic_load_explicit(&s->st.slot->rcv_end, memory_order_relaxed);
}

/*
 * Until when a call waits for a connection on its way. A program may know that a call will not
 * block: an event said that there is something to read, or its first bytes fit into the send
 * queue (PostgreSQL's answer to SSLRequest), and may take EAGAIN for the end. So a non-blocking
 * send waits, and a receive that has something to read, unless the service hangs. Else a receive
 * waits for the way back to Linux, which is short, as long as a page fault may take; for an
 * adoption it does not wait.
 */
static uint64_t sock_hold_until(const struct sock *s, bool dontwait, int dir)
{
	if (!dontwait)
		return wait_deadline(dir == IO_OUT ? s->sndtimeo_ns : s->rcvtimeo_ns);
	if (dir == IO_OUT || is_readable(s))
		return clock_now_ns() + SEND_NS;
	return sock_state(s) == SOCK_ADOPTING && !s->claiming ? 0 : clock_now_ns() + RETURN_NS;
}

void sock_need(struct sock *s, uint32_t halves)
{
	uint32_t slot = s->slot;
	int err = -EAGAIN;

	if (!(IPC_AWAY(stream_status(&s->st)) & halves) || slot == SLOT_NONE || sock_failed(s) ||
	    atomic_exchange_explicit(&s->asked, true, memory_order_relaxed))
		return;
	for (int i = 0; i < 100 && err == -EAGAIN; i++) { /* the service reads as fast as it can */
		err = core_return(s->core, slot, s->fd, s->fd, true);
		if (err == -EAGAIN)
			syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
	}
	if (err)
		s->asked = false;
}

void sock_whole(struct sock *s, int fd, uint32_t halves)
{
	if (sock_state(s) == SOCK_FAST && (IPC_AWAY(stream_status(&s->st)) & halves))
		sock_return(s, fd, false);
}

/* Asks for a half that is elsewhere. Returns 0: look, or -errno. */
static int half_wait(struct sock *s, int dir, uint64_t until)
{
	sock_need(s, (uint32_t)dir);
	if (!s->asked) /* it could not be sent, or the answer is there */
		return clock_now_ns() < until ? 0 : -EAGAIN;
	return until ? wait_sock(s, WAIT_LEFT, until) : -EAGAIN;
}

/* Until the state is certain. The caller has raised FILE_CALL; IO_FAIL has set errno. */
static enum io sock_certain(struct sock *s, bool dontwait, int dir)
{
	struct held h = {.frame = __builtin_frame_address(0), .file = &s->file, .refs = FILE_REF + FILE_CALL};
	bool nowait = dontwait || s->nonblock;
	uint64_t until = 0;

	held_reap();
	for (;;) {
		uint32_t place;
		/* after FILE_CALL was raised: pairs with adopt_locked(), which stores state and then looks at the count */
		uint32_t state = atomic_load_explicit(&s->state, memory_order_seq_cst);
		bool is_half;
		int err = 0;

		if (likely(state == SOCK_LINUX)) {
			if (share_enter(s))
				continue;
			/* what does not sleep is left by a longjmp() of a handler at most, which costs an adoption */
			if (!nowait || !__libc_single_threaded)
				held_push(&h);
			return IO_LINUX;
		}
		if (state == SOCK_FAST && likely(stream_has(&s->st, (uint32_t)dir)))
			return IO_FAST;
		is_half = state == SOCK_FAST && stream_is_open(&s->st);
		if (is_half && sock_failed(s))
			return IO_FAST; /* it says so */
		if (!is_half)           /* it may turn out that it is AWAY */
			atomic_fetch_or_explicit(&s->need, (uint8_t)dir, memory_order_relaxed);
		if (!is_half && sock_settle(s))
			continue;
		if (!until)
			until = sock_hold_until(s, nowait, dir);
		place = held_push(&h);
		if (is_half)
			err = half_wait(s, dir, until);
		else
			err = until ? wait_sock(s, 0, until) : -EAGAIN;
		held_pop(place);
		if (!err || (err == -EINTR && nowait))
			continue;
		errno = -err;
		return IO_FAIL;
	}
}

enum io sock_begin(struct sock *s, int fd, bool dontwait, int dir, struct sock **out)
{
	enum io io = sock_certain(s, dontwait, dir);
	uint64_t word;

	*out = s;
	if (io == IO_FAST) {
		word = core_word(s->core, s->st.flow_id);
		if (likely(word == s->word))
			return IO_FAST;
		if (is_bypassed(s, fd, word))
			io = sock_certain(s, dontwait, dir);
		else if (!is_still_ours(s, fd, word))
			*out = NULL;
	}
	if (io == IO_FAIL)
		*out = NULL;
	if (*out)
		return io;
	file_put_more(&s->file, FILE_REF + FILE_CALL);
	return io == IO_FAIL ? IO_FAIL : IO_LINUX;
}

enum io sock_reenter(struct sock *s, bool dontwait, int dir)
{
	return sock_certain(s, dontwait, dir);
}

static int return_ask(struct sock *s, int fd)
{
	struct core *c = s->core;
	int err = core_return(c, s->slot, fd, s->fd, true);

	return err == -EPIPE || err == -ECONNRESET || core_is_dead(c) ? -ECONNRESET : err;
}

int sock_return(struct sock *s, int fd, bool keep)
{
	uint64_t deadline = clock_now_ns() + RETURN_LIMIT_NS;
	bool asked = false;
	int err = 0;

	if (keep)
		s->keep_linux = true;
	if (lock_take(&s->lock)) {
		if (sock_state(s) == SOCK_AWAY)
			s->claim = CLAIM_RETURN;
		lock_drop(&s->lock);
	}
	while (!err && sock_state(s) != SOCK_LINUX) {
		if (sock_state(s) == SOCK_FAST && stream_is_open(&s->st)) {
			if (sock_failed(s) || IPC_STATE(stream_status(&s->st)) == IPC_DEAD)
				return -ECONNRESET;
			if (!asked)
				err = return_ask(s, fd);
			asked = true;
			if (!err)
				err = wait_sock(s, WAIT_LEFT, deadline);
		} else if (!sock_settle(s)) {
			err = wait_sock(s, 0, deadline);
		}
		if (err == -EINTR)
			err = 0;
	}
	if (keep && !err)
		s->try_at = NEVER;
	return err;
}

static void count(struct sock *s, int dir, ssize_t n)
{
	uint8_t first = atomic_load_explicit(&s->first_dir, memory_order_relaxed);
	uint8_t last = atomic_load_explicit(&s->last_dir, memory_order_relaxed);

	if (!first)
		atomic_store_explicit(&s->first_dir, (uint8_t)dir, memory_order_relaxed);
	else if (dir != last && dir != first)
		atomic_store_explicit(&s->exchanges, s->exchanges + 1, memory_order_relaxed);
	if (dir != last)
		atomic_store_explicit(&s->last_dir, (uint8_t)dir, memory_order_relaxed);
	atomic_store_explicit(&s->bytes, s->bytes + (uint64_t)n, memory_order_relaxed);
}

/*
 * Is this a moment to adopt? A blocking socket: any end of a call, as later calls simply wait.
 * A non-blocking one: where EAGAIN comes next anyway, or surprises nobody: after a send,
 * after a receive that would have blocked, or in the middle of a one-way transfer.
 */
static bool is_moment(const struct sock *s, int dir, ssize_t n)
{
	struct core_policy policy;

	if (s->exchanges < s->try_at && (s->try_at == NEVER || s->bytes < s->try_bytes))
		return false;
	if (sock_policy(s, &policy) ? s->exchanges <= policy.exchanges && s->bytes <= policy.bytes
				    : !s->exchanges && s->bytes < FIRST_LOOK_BYTES)
		return false;
	if (dir == IO_OUT)
		return n > 0;
	if (n < 0)
		return errno == EAGAIN;
	return n > 0 && (!s->nonblock || !s->exchanges || n >= BULK_BYTES);
}

void sock_end(struct sock *s, int fd, enum io io, int dir, ssize_t n)
{
	uint64_t held = FILE_REF + FILE_CALL;

	if (!s)
		return;
	if (held_count)
		held_pop_file(&s->file);
	if (io == IO_LINUX && dir) {
		if (n > 0)
			count(s, dir, n);
		if (unlikely(is_moment(s, dir, n))) {
			atomic_fetch_sub_explicit(&s->file.refs, FILE_CALL, memory_order_seq_cst);
			held = FILE_REF;
			adopt_try(s, fd);
		}
	}
	if (unlikely(atomic_load_explicit(&s->file.refs, memory_order_relaxed) == held)) {
		int saved = errno;

		file_put_more(&s->file, held);
		errno = saved;
		return;
	}
	file_put_more(&s->file, held);
}

/* ---- readiness ---- */

bool sock_failed(const struct sock *s)
{
	return (stream_status(&s->st) & IPC_ST_ERROR) || core_is_dead(s->core);
}

int sock_error_take(struct sock *s)
{
	uint32_t error;

	if (!sock_failed(s) || atomic_exchange_explicit(&s->err_taken, true, memory_order_relaxed))
		return 0;
	error = atomic_load_explicit(&s->st.slot->error, memory_order_relaxed);
	/* as tcp_reset() of Linux: in CLOSE_WAIT */
	if (error == ECONNRESET && !s->shut_wr && (stream_status(&s->st) & IPC_ST_FIN))
		return EPIPE;
	return stream_status(&s->st) & IPC_ST_ERROR && error ? (int)error : ECONNRESET;
}

uint32_t sock_events(struct sock *s, uint32_t interest)
{
	uint32_t status, away, ev = 0;
	bool fin, shut;

	if (sock_state(s) != SOCK_FAST || !stream_is_open(&s->st))
		return 0; /* whoever waits settles it first */
	status = stream_status(&s->st);
	if (status & IPC_ST_ERROR || core_is_dead(s->core))
		return EPOLLIN | EPOLLRDNORM | EPOLLOUT | EPOLLWRNORM | EPOLLRDHUP | EPOLLHUP |
		       (s->err_taken ? 0 : EPOLLERR);
	away = IPC_AWAY(status);
	if (unlikely(away))
		sock_need(s, io_of_events(interest));
	fin = (status & IPC_ST_FIN) || IPC_STATE(status) == IPC_DEAD || s->shut_rd;
	shut = s->shut_wr || (status & IPC_ST_CLOSED_TX);
	if (fin)
		ev |= EPOLLIN | EPOLLRDNORM | EPOLLRDHUP;
	else if (stream_unread(&s->st) >= MIN(MAX(s->rcvlowat, 1u), s->st.rx_size / 2))
		ev |= EPOLLIN | EPOLLRDNORM;
	if (fin && shut)
		ev |= EPOLLHUP;
	if (shut || (!(away & IO_OUT) &&
		     (stream_writable(&s->st) || ((interest & (EPOLLOUT | EPOLLWRNORM)) && stream_want_space(&s->st)))))
		ev |= EPOLLOUT | EPOLLWRNORM;
	return ev;
}
