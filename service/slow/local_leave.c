/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A local connection goes back to Linux: its two flows are frozen, and what either application has written and the other
 * one has not read is written to the writer's kernel socket, in order. They were connected all the time, so nothing else
 * has to be made. What the sockets cannot take at once follows as they drain (LEAVE_DRAIN); until then the writer's calls
 * wait, as its bytes come after.
 *
 * Where an end has closed, its socket takes nothing any more, and one that is shut down both ways refuses what comes. If
 * bytes are still unread then, both sockets are made anew (local_anew.c). A service without the privilege for that can
 * only let the connection stay, with both flows installed as they were, and leave when they have been read. If somebody
 * waits for it, that does not go on for ever: both ends are reset, as an end of the stream that comes too early would be
 * worse. Main thread.
 */
#include "service/slow/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "service/base/clock.h"
#include "service/base/closer.h"
#include "service/base/log.h"

#define LOCAL_AGAIN_NS (100 * NS_PER_MS) /* between two attempts to leave */
#define LOCAL_HIDDEN_NS NS_PER_S         /* so long a socket may be out of reach */
#define LOCAL_STAY_NS NS_PER_S           /* so long another process waits for what cannot leave */

static bool local_is_held(const struct conn *c)
{
	return c && c->state == CONN_FAST && !c->failed && !c->orphan;
}

/*
 * The socket of @p cannot be had: no process has it, or only one out of reach. That may be so for a moment; but whoever
 * hides his socket must not keep the other end from going, where a call or a rule may wait for that.
 */
static void local_hidden(struct slow *s, struct conn *c, struct conn *p, uint32_t reason)
{
	if (!p->hidden_ns)
		p->hidden_ns = s->now_ns;
	if (s->now_ns - p->hidden_ns > LOCAL_HIDDEN_NS) {
		log_info("pid %d, descriptor %d: out of reach, so it cannot be given back to Linux: reset",
			 (int)p->app->pid, p->app_fd);
		conn_abort(s, p, ECONNABORTED);
		return;
	}
	c->again = true;
	c->leave_reason = reason;
	c->leave_again_ns = s->now_ns + LOCAL_AGAIN_NS;
}

/* @p, the other end of @c, or NULL, comes along. Returns false if it cannot now. */
static bool local_freeze_other(struct slow *s, struct conn *c, struct conn *p, uint32_t reason)
{
	int fd = -1;

	if (local_is_held(p)) {
		fd = leave_fetch(p);
		if (fd < 0 && sock_is_orphan(&p->key) != 1) {
			local_hidden(s, c, p, reason);
			return false;
		}
		p->hidden_ns = 0;
	}
	if (p && p->state == CONN_FAST && !p->failed) {
		p->fd = fd;
		leave_freeze(s, p, reason);
	}
	return true;
}

/* Both at once. @fd: of @c, or -1. */
int local_leave(struct slow *s, struct conn *c, int fd, uint32_t reason)
{
	struct conn *p = local_other(s, c);

	/* or the other end is on its way to another process: after that */
	if (s->now_ns < c->leave_again_ns || (p && p->state == CONN_LEAVING)) {
		c->again = true;
		c->leave_reason = reason;
		closer_close(fd);
		return 0;
	}
	if (fd < 0 && local_is_held(c))
		fd = leave_fetch(c);
	if (fd < 0 && local_is_held(c))
		return fd;
	if (!local_freeze_other(s, c, p, reason)) {
		closer_close(fd);
		return 0;
	}
	c->fd = fd;
	c->again = false;
	leave_freeze(s, c, reason);
	return 0;
}

/* ---- frozen ---- */

static struct iovec *local_range(struct iovec *v, uint8_t *buf, uint32_t size, uint64_t start, uint64_t end)
{
	uint32_t at = (uint32_t)start & (size - 1), len = (uint32_t)(end - start), first = MIN(len, size - at);

	if (first)
		*v++ = (struct iovec){buf + at, first};
	if (len > first)
		*v++ = (struct iovec){buf, len - first};
	return v;
}

int local_unread(const struct conn *c, const struct conn *p, struct iovec *v)
{
	struct iovec *from = v;

	if (p)
		v = local_range(v, conn_rx_buf(p), p->rx_size, p->frozen.rcv_read, p->frozen.rcv_end);
	if (c)
		v = local_range(v, conn_tx_buf(c), c->tx_size, c->frozen.snd_una, c->frozen.snd_end);
	return (int)(v - from);
}

size_t local_sum(const struct iovec *v, int n)
{
	size_t sum = 0;

	for (int i = 0; i < n; i++)
		sum += v[i].iov_len;
	return sum;
}

/* Would its kernel socket take more? */
static bool local_can_write(const struct conn *c)
{
	int state = c && c->fd >= 0 && !c->orphan ? sock_tcp_state(c->fd) : TCP_STATE_CLOSE;

	return state == TCP_STATE_ESTABLISHED || state == TCP_STATE_CLOSE_WAIT;
}

/* Shut down both ways its kernel socket answers bytes with a reset, also those that were sent before. */
static bool local_refuses(const struct conn *p)
{
	int state = p && p->fd >= 0 && !p->orphan ? sock_tcp_state(p->fd) : TCP_STATE_CLOSE;

	return state != TCP_STATE_ESTABLISHED && sock_local_is_shut_rd(p ? p->fd : -1, state);
}

/* Is something left that cannot go by the kernel sockets as they are? */
static bool local_must_stay(const struct conn *c, const struct conn *p)
{
	struct iovec v[LOCAL_PIECES];

	return local_unread(c, p, v) && (!local_can_write(c) || local_refuses(p));
}

/* The rest of what @c has written, after @done bytes, is kept here. Returns 0 or -ENOMEM. */
static int local_keep(struct conn *c, const struct iovec *v, int n, size_t done)
{
	size_t sum = local_sum(v, n), at = 0;

	if (done == sum)
		return 0;
	c->out = malloc(sum - done);
	if (!c->out)
		return -ENOMEM;
	for (int i = 0; i < n; i++) {
		size_t skip = MIN(done, v[i].iov_len);

		memcpy(c->out + at, (uint8_t *)v[i].iov_base + skip, v[i].iov_len - skip);
		at += v[i].iov_len - skip;
		done -= skip;
	}
	c->out_len = at;
	c->out_done = 0;
	return 0;
}

/* @c's outgoing direction becomes Linux's. Returns 0 or -errno: bytes are lost. */
static int local_write_back(struct conn *c, struct conn *p)
{
	struct iovec v[LOCAL_PIECES];
	uint8_t *strays = NULL;
	int n = local_unread(c, p, v), got = 0, rc;
	ssize_t done;

	if (!n)
		return 0;
	if (p && p->fd >= 0 && local_is_drained(p)) { /* written past the library, after all this; else from before */
		got = sock_local_strays(p->fd, &strays);
		if (got > 0)
			v[n++] = (struct iovec){strays, (size_t)got};
	}
	done = got < 0 ? got : sock_local_write_all(c->fd, v, n);
	rc = done < 0 ? (int)done : local_keep(c, v, n, (size_t)done);
	free(strays);
	return rc;
}

/* True when its kernel socket has all of it. */
static bool local_drain(struct conn *c)
{
	struct iovec v = {c->out + c->out_done, c->out_len - c->out_done};
	ssize_t n;

	if (!c->out)
		return true;
	n = sock_local_write(c->fd, &v, 1);
	c->out_done += n > 0 ? (size_t)n : 0;
	if (n >= 0 && c->out_done < c->out_len)
		return false;
	free(c->out); /* or the connection is no more */
	c->out = NULL;
	return true;
}

static void local_finish(struct slow *s, struct conn *c)
{
	if (!local_drain(c)) {
		restore_settle(s, c, LEAVE_DRAIN);
		return;
	}
	if (c->fd >= 0)
		sock_filter_detach(c->fd);
	restore_finish(s, c, true);
}

/* As it was; and once more later, if somebody asked for it. */
static void local_stay(struct slow *s, struct conn *c)
{
	c->settle = LEAVE_NOT;
	c->again = true;
	c->leave_again_ns = s->now_ns + LOCAL_AGAIN_NS;
	leave_answer(s, c, &c->mover, IPC_REFUSED, IPC_REASON_RETRY);
	leave_install(s, c, &c->frozen);
	conn_progress(s, c);
}

/* Does somebody wait for @c to be in Linux? Of its own program only if that has closed, and the other one is to read. */
static bool local_is_awaited(const struct conn *c, const struct conn *p)
{
	return c && (c->asker.app || (c->asked && local_must_stay(c, p)));
}

static void local_give_up(struct slow *s, struct conn *c)
{
	int fd = c->fd;

	c->fd = -1;
	local_stay(s, c);
	leave_answer(s, c, &c->asker, IPC_RETURNED, IPC_REASON_STATE);
	conn_abort(s, c, ECONNRESET);
	if (fd >= 0) { /* whoever uses it without the library */
		sock_local_reset(fd);
		sock_filter_detach(fd);
	}
	closer_close(fd);
}

/* They cannot leave now. */
static void local_stay_both(struct slow *s, struct conn *c, struct conn *p)
{
	if (!local_is_awaited(c, p) && !local_is_awaited(p, c))
		c->stay_ns = 0;
	else if (!c->stay_ns)
		c->stay_ns = s->now_ns;
	if (p)
		p->stay_ns = c->stay_ns;
	if (c->stay_ns && s->now_ns - c->stay_ns > LOCAL_STAY_NS) {
		log_warn("pid %d, descriptor %d: what is unread could not be given back to Linux: reset",
			 (int)c->app->pid, c->app_fd);
		local_give_up(s, c);
		if (p)
			local_give_up(s, p);
		return;
	}
	local_stay(s, c);
	if (p)
		local_stay(s, p);
	local_look(s, c);
}

/* Each writes what the other one has not read to its own socket. Returns 0 or -errno: bytes are lost. */
static int local_write_both(struct conn *c, struct conn *p)
{
	int rc = local_write_back(c, p);

	return rc || !p ? rc : local_write_back(p, c);
}

/* Returns false: not yet, unless it is @late. Else nothing of the memory is needed any more. */
static bool local_restore(struct slow *s, struct conn *c, struct conn *p, bool late)
{
	bool anew = local_must_stay(c, p) || local_must_stay(p, c);
	int rc = anew ? local_anew(c, p) : local_write_both(c, p);

	if (anew && rc == -EAGAIN && !late)
		return false;
	if (anew && rc && rc != -ECONNRESET) {
		local_stay_both(s, c, p);
		return true;
	}
	if (rc) { /* the connection has ended meanwhile, or there is no memory: as the kernel socket says */
		log_warn("pid %d, descriptor %d: bytes could not be given back to Linux: %s", (int)c->app->pid,
			 c->app_fd, strerror(-rc));
	}
	if (p)
		local_finish(s, p);
	local_finish(s, c);
	return true;
}

void local_frozen(struct slow *s, struct conn *c)
{
	struct conn *p = local_other(s, c);

	c->settle = LEAVE_PAIR;
	if (p && p->state == CONN_LEAVING && p->settle != LEAVE_PAIR)
		return; /* its turn will come */
	if (p && p->state != CONN_LEAVING) {
		/* this one was to move to another process, and now both go; or that has failed, or is being removed */
		if (p->state != CONN_FAST || p->failed || !local_freeze_other(s, c, p, c->leave_reason))
			local_stay(s, c);
		return;
	}
	if (!restore_is_busy(c) && (!p || !restore_is_busy(p)) && local_restore(s, c, p, false))
		return;
	restore_settle(s, c, LEAVE_PAIR);
	if (p) /* the same time for both: who looks first decides */
		restore_settle(s, p, LEAVE_PAIR);
}

/* It goes on as a flow, and hears there that the other end has failed. */
void local_failed(struct slow *s, struct conn *c)
{
	struct conn *p = local_other(s, c);

	if (p && p->state == CONN_LEAVING && p->settle == LEAVE_PAIR)
		local_stay(s, p);
}

bool local_settle(struct slow *s, struct conn *c, bool late)
{
	struct conn *p = local_other(s, c);

	if (c->settle == LEAVE_DRAIN) {
		local_finish(s, c);
		return false;
	}
	if (p && p->state == CONN_LEAVING && p->settle != LEAVE_PAIR)
		return false;
	if (!late && (restore_is_busy(c) || (p && restore_is_busy(p))))
		return false;
	return local_restore(s, c, p, late);
}
