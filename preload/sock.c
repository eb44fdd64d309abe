/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calls on a tracked TCP socket (track.c), counting its exchanges, its return to Linux, readiness.
 * Place in a packet's way: every call enters and leaves here. Any thread.
 *
 * Invariant: a thread enters the kernel on a socket only after raising FILE_CALL and seeing LINUX;
 * adoption (adopt.c) sets ADOPTING and then looks at that count (full fences on both sides), so no thread
 * blocks in the kernel on an adopted socket.
 */
#define _GNU_SOURCE 1
#include "preload/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/single_threaded.h>

#include "preload/local.h"
#include "preload/wait.h"
#include "preload/share.h"
#include "service/base/clock.h"

#define SEND_NS NS_PER_S /* a non-blocking send, or a receive that has something to read */
#define CALL_BYTES 512   /* sock_begin() and sock_end() of one call are no farther apart; a signal's frame is larger */
#define RETURN_LIMIT_NS (40 * NS_PER_S) /* its watchdog ends a service that hangs before; to go on would lose bytes */
#define STAY_NS (200 * NS_PER_MS)       /* a service that can give it back has done so by then */
#define SURE_BYTES 4096                 /* less than two thirds of any send buffer */
#define INVITATIONS 8                   /* that are followed without success */
#define BULK_BYTES 32768                /* so much at once is a one-way transfer */

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
		return (!syscall(SYS_ioctl, s->fd, FIONREAD, &queued) && queued > 0) || sock_kernel_ended(s);
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
	if (sock_state(s) == SOCK_FAST && s->st.local &&
	    dir == IO_OUT) /* what was written before may wait for the peer */
		return clock_now_ns() + SOCK_RETURN_NS;
	if (dir == IO_OUT || is_readable(s))
		return clock_now_ns() + SEND_NS;
	return sock_state(s) == SOCK_ADOPTING && !s->claiming ? 0 : clock_now_ns() + SOCK_RETURN_NS;
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
	if (s->asked)
		return until ? wait_sock(s, WAIT_LEFT, until) : -EAGAIN;
	if (clock_now_ns() >= until)
		return -EAGAIN;
	if (IPC_AWAY(stream_status(&s->st)) & (uint32_t)dir) /* it could not be sent */
		syscall(SYS_nanosleep, &(struct timespec){.tv_nsec = NS_PER_MS}, NULL);
	return 0;
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
		if (is_half && sock_is_lost(s))
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

/* The other end of a local connection has closed: only a service with privilege can put what is unread elsewhere. */
static bool must_stay(const struct sock *s)
{
	return s->st.local && stream_status(&s->st) & IPC_ST_FIN && stream_unread(&s->st);
}

int sock_return(struct sock *s, int fd, bool keep)
{
	uint64_t now = clock_now_ns(), deadline = now + RETURN_LIMIT_NS, stays = now + STAY_NS;
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
			if (sock_is_lost(s))
				return -ECONNRESET;
			if (!asked)
				err = return_ask(s, fd);
			asked = true;
			if (!err)
				err = wait_sock(s, WAIT_LEFT, must_stay(s) ? MIN(deadline, stays) : deadline);
			if (err == -EAGAIN && must_stay(s))
				return -EBUSY;
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

/* A local connection of which only this end has asked: does the other one ask now? */
static bool is_invited(const struct sock *s)
{
	struct ipc_slot *offer = atomic_load_explicit(&s->offer, memory_order_acquire); /* its memory stays mapped */

	return offer && s->tries < INVITATIONS && s->try_at != NEVER &&
	       atomic_load_explicit(&offer->invited, memory_order_relaxed);
}

/* Of a local connection both ends must ask at about the same time: each when it has answered the other one. */
static bool is_answered(struct sock *s)
{
	if (!s->same_host)
		s->same_host = local_is_same_host(s->fd);
	return !s->same_host;
}

/*
 * Is this a moment to adopt? A blocking socket: any end of a call, as later calls simply wait.
 * A non-blocking one: where EAGAIN comes next anyway, or surprises nobody: after a send,
 * after a receive that would have blocked, or in the middle of a one-way transfer.
 */
static bool is_moment(struct sock *s, int dir, ssize_t n)
{
	struct core_policy policy;

	if (unlikely(is_invited(s)))
		return n > 0 || errno == EAGAIN;
	if (s->exchanges < s->try_at && (s->try_at == NEVER || s->bytes < s->try_bytes))
		return false;
	if (sock_policy(s, &policy) ? s->exchanges <= policy.exchanges && s->bytes <= policy.bytes
				    : !s->exchanges && s->bytes < FIRST_LOOK_BYTES)
		return false;
	if (dir == IO_OUT)
		return n > 0;
	if (n < 0)
		return errno == EAGAIN;
	return n > 0 && (n >= BULK_BYTES || !s->exchanges || (!s->nonblock && is_answered(s)));
}

void sock_moment(struct sock *s, int fd, int dir, ssize_t n)
{
	if (n > 0)
		count(s, dir, n);
	if (sock_state(s) == SOCK_LINUX && is_moment(s, dir, n))
		sock_adopt_try(s, fd);
}

void sock_end(struct sock *s, int fd, enum io io, int dir, ssize_t n)
{
	uint64_t held = FILE_REF + FILE_CALL;

	if (!s)
		return;
	if (held_count)
		held_pop_file(&s->file, (char *)__builtin_frame_address(0) + CALL_BYTES);
	if (io == IO_LINUX && dir) {
		if (n > 0)
			count(s, dir, n);
		if (unlikely(is_moment(s, dir, n))) {
			atomic_fetch_sub_explicit(&s->file.refs, FILE_CALL, memory_order_seq_cst);
			held = FILE_REF;
			sock_adopt_try(s, fd);
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
	return (stream_status(&s->st) & IPC_ST_ERROR) || (core_is_dead(s->core) && !s->survivor);
}

bool sock_is_lost(const struct sock *s)
{
	return sock_failed(s) || IPC_STATE(stream_status(&s->st)) == IPC_DEAD;
}

/* A reset is told once for each socket: has another process taken it? The kernel's socket has had it, too, and says so. */
void sock_error_look(struct sock *s)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);
	struct pollfd p = {.fd = s->fd};
	struct timespec none = {0};

	if (!sock_failed(s) || s->err_taken || !s->st.local || !share_is(s) || core_is_dead(s->core))
		return;
	if (syscall(SYS_getsockopt, s->fd, IPPROTO_TCP, TCP_INFO, &info, &len) || info.tcpi_state != TCP_CLOSE)
		return; /* it has not had it yet */
	if (atomic_load_explicit(&s->st.slot->opts, memory_order_relaxed) & IPC_OPT_BROKEN)
		return; /* it was taken here, and could not be told yet */
	if (syscall(SYS_ppoll, &p, 1, &none, NULL, 0) >= 0 && !(p.revents & POLLERR))
		s->err_taken = true;
}

int sock_error_take(struct sock *s)
{
	sock_error_look(s);
	return sock_error_get(s);
}

int sock_error_get(struct sock *s)
{
	uint32_t error, own;
	socklen_t len = sizeof(own);

	if (!sock_failed(s) || atomic_exchange_explicit(&s->err_taken, true, memory_order_relaxed))
		return 0;
	s->untold = 0;
	/* the shadow has had the same one, and says it to whoever uses it without the library */
	if (libc()->getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &own, &len))
		own = 0;
	error = atomic_load_explicit(&s->st.slot->error, memory_order_relaxed);
	if (s->st.local && own && error != ECONNRESET) /* it knows which end was killed; a reset is memory's */
		return (int)own;
	/* as tcp_reset() of Linux: in CLOSE_WAIT */
	if (error == ECONNRESET && !s->shut_wr && (stream_status(&s->st) & IPC_ST_FIN))
		return EPIPE;
	return stream_status(&s->st) & IPC_ST_ERROR && error ? (int)error : ECONNRESET;
}

static uint32_t events_kernel(const struct sock *s)
{
	struct pollfd p = {.fd = s->fd, .events = POLLIN | POLLRDNORM | POLLOUT | POLLWRNORM | POLLPRI | POLLRDHUP};
	struct timespec none = {0};

	return syscall(SYS_ppoll, &p, 1, &none, NULL, 0) <= 0 ? 0 : (uint16_t)p.revents;
}

/*
 * On its way. In an adoption what holds is the kernel's to say: the bytes are still there. But room for more is certain
 * only if few are unacknowledged: the service's buffer may be smaller. On the way back they lie in the buffers, and
 * whether there is room is not known. Of what another process has nothing is known.
 */
static uint32_t events_open(const struct sock *s)
{
	uint32_t ev;
	int unacked = 0;

	if (sock_state(s) == SOCK_FAST)
		return is_readable(s) ? EPOLLIN | EPOLLRDNORM : 0;
	if (sock_state(s) != SOCK_ADOPTING || s->claiming)
		return 0;
	ev = events_kernel(s);
	/* of a local one the kernel's buffer is used on */
	if (ev & EPOLLOUT && !s->same_host && (syscall(SYS_ioctl, s->fd, TIOCOUTQ, &unacked) || unacked > SURE_BYTES))
		ev &= ~(uint32_t)(EPOLLOUT | EPOLLWRNORM);
	return ev;
}

bool sock_may_be_ready(const struct sock *s, uint32_t interest)
{
	if (sock_is_unknown(s))
		return true;
	if (sock_state(s) == SOCK_ADOPTING)
		return events_kernel(s) & (interest | EPOLLERR | EPOLLHUP);
	return sock_state(s) == SOCK_FAST && (interest & (EPOLLOUT | EPOLLWRNORM) || is_readable(s));
}

uint32_t sock_events(struct sock *s, uint32_t interest)
{
	uint32_t status, away, ev = 0;
	bool fin, shut;

	if (unlikely(sock_state(s) != SOCK_FAST || !stream_is_open(&s->st)))
		return events_open(s); /* whoever waits settles it first */
	status = stream_status(&s->st);
	if (sock_failed(s)) {
		sock_error_look(s);
		return EPOLLIN | EPOLLRDNORM | EPOLLOUT | EPOLLWRNORM | EPOLLRDHUP | EPOLLHUP |
		       (s->err_taken ? 0 : EPOLLERR);
	}
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
	if (unlikely(local_is_mixed(s, IO_IN | IO_OUT)))
		ev |= local_events(s);
	if (unlikely(s->tx_kernel))
		return shut ? ev | EPOLLOUT | EPOLLWRNORM : ev;
	if (shut || (!(away & IO_OUT) &&
		     (stream_writable(&s->st) || ((interest & (EPOLLOUT | EPOLLWRNORM)) && stream_want_space(&s->st)))))
		ev |= EPOLLOUT | EPOLLWRNORM;
	return ev;
}
