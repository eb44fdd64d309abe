/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A local connection goes back to Linux (local_leave.c) although an end has closed, whose socket takes no bytes any more,
 * and the other one has not read all of them (or itself was shut down before it has). So both kernel sockets are made
 * anew under TCP_REPAIR, as the two ends of one connection with nothing on its way, each with what its program has not
 * read in its receive queue; then they are shut down as they were. In the place of an end that nobody holds there is a
 * socket of our own, which is closed at once. Main thread.
 *
 * Invariant: nothing has changed as long as local_anew() says that it is not possible, or not yet.
 */
#include "service/slow/internal.h"

#include <errno.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "service/base/clock.h"
#include "service/base/closer.h"

#define ANEW_WINDOW 65536u
#define ANEW_TS_OPTION 12u

struct anew_end {
	const struct conn *c; /* NULL: it has gone */
	int fd;               /* -1: nobody holds it */
	bool own;             /* fd is ours, and nobody else's */
	bool shut;            /* it sends no more */
	bool shut_rd;         /* its program does not want to read */
	int state;
	uint8_t *unread;
	struct sock_rebuild r;
};

static struct anew_end anew_examine(const struct conn *c)
{
	struct anew_end e = {.c = c, .fd = c && !c->orphan ? c->fd : -1};

	e.state = e.fd >= 0 ? sock_tcp_state(e.fd) : TCP_STATE_CLOSE;
	e.shut = e.state != TCP_STATE_ESTABLISHED && e.state != TCP_STATE_CLOSE_WAIT;
	e.shut_rd = e.fd >= 0 && sock_local_is_shut_rd(e.fd, e.state);
	return e;
}

/* Is all that the kernel socket of @from has sent at the one of @to, the FIN included? */
static bool anew_has_arrived(const struct anew_end *from, const struct anew_end *to)
{
	int unacked = 0;

	if (to->fd < 0)
		return true;
	if (!from->shut)
		return !ioctl(from->fd, SIOCOUTQ, &unacked) && !unacked;
	if (to->state == TCP_STATE_CLOSE) /* after both FINs; or after a reset, which is another story */
		return to->c->frozen.closing && (!from->c || from->c->frozen.closing);
	return to->state != TCP_STATE_ESTABLISHED && to->state != TCP_STATE_FIN_WAIT1 &&
	       to->state != TCP_STATE_FIN_WAIT2;
}

static uint8_t *anew_append(uint8_t *at, const struct iovec *v, int n)
{
	for (int i = 0; i < n; at += v[i++].iov_len)
		memcpy(at, v[i].iov_base, v[i].iov_len);
	return at;
}

/*
 * What @to has not read: in its kernel socket, in its buffer, and in the other end's. What the kernel has comes first;
 * but when the program has drained it once, it was written past the library, and comes last.
 */
static int anew_collect(const struct anew_end *from, struct anew_end *to)
{
	struct iovec v[LOCAL_PIECES], kernel;
	int n = local_unread(from->c, to->c, v), got;
	uint8_t *strays, *at;
	bool last;

	if (to->fd < 0)
		return 0;
	got = sock_local_strays(to->fd, &strays);
	if (got < 0)
		return got;
	kernel = (struct iovec){strays, (size_t)got};
	last = local_is_drained(to->c);
	to->r.unread = (struct byte_range){.size = 1u << 31, .len = (uint32_t)(local_sum(v, n) + (size_t)got)};
	to->unread = malloc(MAX(to->r.unread.len, 1u));
	to->r.unread.buf = to->unread;
	at = to->unread;
	if (at) {
		at = anew_append(at, &kernel, last ? 0 : 1);
		at = anew_append(at, v, n);
		anew_append(at, &kernel, last ? 1 : 0);
	}
	free(strays);
	return at ? 0 : -ENOMEM;
}

/* As it was negotiated; of an end that has gone the other one, @o, knows. */
static void anew_describe(struct anew_end *e, const struct anew_end *o, uint32_t snd, uint32_t rcv)
{
	const struct sock_state *st = e->c ? &e->c->sock : &o->c->sock;

	e->r.key = e->c ? e->c->key : local_other_key(&o->c->key);
	e->r.v6 = st->v6;
	e->r.snd_una = snd;
	e->r.rcv_nxt = e->r.snd_wl1 = rcv;
	e->r.rcv_wnd = e->r.snd_wnd = e->r.max_wnd = ANEW_WINDOW;
	e->r.snd_wscale = e->c ? st->snd_wscale : st->rcv_wscale;
	e->r.rcv_wscale = e->c ? st->rcv_wscale : st->snd_wscale;
	e->r.wscale = st->wscale;
	e->r.ts = st->ts;
	e->r.sack = st->sack;
	e->r.ts_now = (uint32_t)(clock_now_ns() / NS_PER_MS);
	if (e->fd < 0)
		e->r.mss_clamp = st->mss + (st->ts ? ANEW_TS_OPTION : 0);
}

/* What is left of its kernel socket where that does not have the addresses any more; and one for an end without. */
static int anew_socket(struct anew_end *e)
{
	if (e->fd >= 0) {
		if (e->state == TCP_STATE_CLOSE) /* TIME_WAIT */
			sock_reset(&e->r.key, e->c->cookie);
		return sock_filter_attach_closed(e->fd);
	}
	if (sock_is_orphan(&e->r.key) != 1)
		return -EADDRINUSE;
	sock_destroy(&e->r.key);
	e->fd = socket(e->r.v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	e->own = e->fd >= 0;
	return e->own ? 0 : -errno;
}

/* Both are silent until the first sock_resume(). */
static int anew_make(struct anew_end *e, struct anew_end *o)
{
	uint32_t a = (uint32_t)clock_now_ns(), b = ~a;
	int rc;

	anew_describe(e, o, a, b);
	anew_describe(o, e, b, a);
	conntrack_liberal(&e->r.key);
	/* the filters first: what is dropped by one may send a reset to the other */
	rc = e->fd >= 0 ? anew_socket(e) : 0;
	if (!rc)
		rc = anew_socket(o);
	if (!rc && e->fd < 0)
		rc = anew_socket(e);
	if (!rc)
		rc = sock_rebuild(e->fd, &e->r);
	if (!rc)
		rc = sock_rebuild(o->fd, &o->r);
	if (rc)
		return rc;
	sock_filter_attach_open(e->fd);
	sock_filter_attach_open(o->fd);
	rc = sock_resume(e->fd, &e->r);
	return rc ? rc : sock_resume(o->fd, &o->r);
}

static void anew_shut(const struct anew_end *e)
{
	if (e->shut)
		shutdown(e->fd, SHUT_WR);
	if (e->shut_rd)
		shutdown(e->fd, SHUT_RD);
}

static void anew_free(struct anew_end *e)
{
	free(e->unread);
	if (e->own)
		closer_close(e->fd);
}

int local_anew(struct conn *c, struct conn *p)
{
	struct anew_end e[2] = {anew_examine(c), anew_examine(p)};
	bool first = p && (!c->local_fin || (c->peer_fin && c->peer_fin_first)); /* to close was @p */
	int rc;

	if (e[0].fd < 0 && e[1].fd < 0)
		return -ENOENT;
	if (!anew_has_arrived(&e[0], &e[1]) || !anew_has_arrived(&e[1], &e[0]))
		return -EAGAIN;
	if (!sock_may_rebuild(e[0].fd >= 0 ? e[0].fd : e[1].fd))
		return -EPERM;
	rc = anew_collect(&e[0], &e[1]);
	if (!rc)
		rc = anew_collect(&e[1], &e[0]);
	if (!rc)
		rc = anew_make(&e[0], &e[1]);
	if (!rc) {
		anew_shut(&e[first]);
		anew_shut(&e[!first]);
	}
	anew_free(&e[0]);
	anew_free(&e[1]);
	return rc ? -ECONNRESET : 0;
}
