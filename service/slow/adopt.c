/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Adopt: a transaction that ends with the connection in the fast path, or with Linux exactly
 * as it was.
 *
 *   1  tuple into `flows`         frames come to us and are held; Linux hears nothing new
 *   2  filter that takes nothing  a frame already on its way into the socket stays outside
 *   3  exact state read           under TCP_REPAIR, left without a probe
 *   4  queues copied, filter      both kernel queues stay as they are: only copied
 *   5  first heartbeat            its answer is the template and the proof that the loop works
 *   6  commit                     received bytes dropped from the kernel's queue, flow
 *                                 installed, held frames given to it, unacknowledged bytes
 *                                 acknowledged to the shadow, so that the kernel forgets them
 *
 * Before 1 it may have to wait until XDP is attached (demand.c). 1 to 5 are here, the answer and 6 in commit.c.
 *
 * Until 6 nothing has changed in the socket but its filter, so roll-back is: filter off, held
 * frames into Linux, tuple out of `flows`. An answer that acknowledges another byte than the
 * one read in 3 means that a frame slipped in between 1 and 2: the state is read again.
 */
#include "service/slow/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "service/base/addr.h"
#include "service/base/clock.h"
#include "service/base/closer.h"
#include "service/base/log.h"

#define ADOPT_RX_MAX (4u << 20)
#define ADOPT_TX_MAX (8u << 20)
#define ADOPT_ASKED_MIN (16u << 10) /* SO_SNDBUF, SO_RCVBUF: what the configuration permits, too */
#define ADOPT_ASKED_MAX (4u << 20)
#define ADOPT_AMPLE (256u << 10) /* to send, unless the program has asked for less, while memory is ample */
#define ADOPT_STEPS 6
#define ADOPT_RETRY_NS (10 * NS_PER_MS)
#define ADOPT_WAIT_NS NS_PER_S /* for XDP */

static void adopt_refuse(struct slow *s, struct app *a, uint32_t slot, const struct flow_key *key, uint32_t reason)
{
	char text[FLOW_KEY_TEXT_MAX];

	counter_add(&s->counters, CNT_ADOPT_REFUSED, 1);
	if (!a->dying) /* else forgotten already */
		s->left[s->left_next++ % SLOW_LEFT] = (struct left){.app = a, .slot = slot, .key = *key};
	log_debug("%s stays with Linux: %s", flow_key_text(key, text, sizeof text), ipc_reason_name(reason));
	app_slot_finish(s, a, slot, IPC_REFUSED, reason);
}

bool adopt_fails(const struct slow *s, uint32_t step)
{
	uint32_t every = s->cfg->fail_adopt_every, which = s->cfg->fail_adopt_step;

	if (!every || s->adoptions % every)
		return false;
	return step == (which ? which : 1 + s->adoptions / every % ADOPT_STEPS);
}

static uint32_t adopt_policy(struct slow *s, const struct app *a, const struct sock_state *st, bool local)
{
	uint16_t port = ntohs(st->key.local_port);

	if (s->stopping)
		return IPC_REASON_STOPPING;
	if (a->dying)
		return IPC_REASON_ERROR;
	for (unsigned i = 0; i < s->cfg->ports; i++)
		if (s->cfg->port[i].port == port && !s->cfg->port[i].accelerate)
			return IPC_REASON_DISABLED;
	if (local)
		return s->cfg->local ? IPC_REASON_NONE : IPC_REASON_LOCAL;
	if (s->cfg->local_only || !watch_is_local(s->watch, &st->key.local))
		return IPC_REASON_NOT_OURS;
	return IPC_REASON_NONE;
}

/* Smallest power of two that holds @need bytes, at least @least. */
static uint32_t adopt_size(uint32_t need, uint32_t least)
{
	uint32_t size = least;

	while (size < need)
		size *= 2;
	return size;
}

/* What the program has asked for, within limits; else the configured size. */
static uint32_t adopt_least(uint32_t asked, uint32_t usual)
{
	return asked ? adopt_size(MIN(asked, ADOPT_ASKED_MAX), ADOPT_ASKED_MIN) : usual;
}

/* A buffer that holds @need bytes, and @least if there is memory, unless an earlier attempt has got one. */
static bool adopt_buffer(struct app *a, uint32_t need, uint32_t least, uint32_t usual, uint32_t *size, uint64_t *off)
{
	uint32_t sizes[] = {adopt_size(need, least), adopt_size(need, MIN(least, usual))};

	if (*size && *size < need) {
		app_buffers_put(a, *size, *off);
		*size = 0;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(sizes) && !*size; i++)
		if (app_buffers_get(a, sizes[i], off))
			*size = sizes[i];
	return *size != 0;
}

uint32_t adopt_ample(const struct app *a)
{
	return app_buffers_ample(a, ADOPT_AMPLE) ? ADOPT_AMPLE : 0;
}

bool adopt_room(struct slow *s, struct conn *c, uint32_t rx_need, uint32_t rx_usual, uint32_t tx_need)
{
	const struct sock_state *st = &c->sock;
	/*
	 * Linux's own tuning lets a program write some hundred kilobytes at once, and some rely on that: they close
	 * without having waited for room. The second half of the memory is for the connections that are still to come.
	 */
	uint32_t least = adopt_least(st->sndbuf, MAX(s->cfg->tx_buffer, adopt_ample(c->app)));

	return adopt_buffer(c->app, rx_need, adopt_least(st->rcvbuf, rx_usual), s->cfg->rx_buffer, &c->rx_size,
			    &c->rx_off) &&
	       adopt_buffer(c->app, tx_need, least, s->cfg->tx_buffer, &c->tx_size, &c->tx_off);
}

static uint32_t adopt_buffers(struct slow *s, struct conn *c)
{
	const struct sock_state *st = &c->sock;
	uint32_t window = st->rcv_wup + st->rcv_wnd - st->rcv_nxt;
	uint32_t unacked = st->write_seq - st->snd_una;

	if ((int32_t)window < 0)
		window = 0;
	if (st->rcv_queued > ADOPT_RX_MAX || unacked > ADOPT_TX_MAX)
		return IPC_REASON_BUSY;
	window = MIN(window + st->rcv_queued, ADOPT_RX_MAX);
	if (!adopt_room(s, c, window, s->cfg->rx_buffer, unacked))
		return IPC_REASON_MEMORY;
	return IPC_REASON_NONE;
}

void adopt_heartbeat(struct slow *s, struct conn *c)
{
	uint8_t frame[128];
	struct shadow_seq q = linux_seq(s, c);

	if (adopt_fails(s, 5))
		return;
	c->hb_sent_ns = s->now_ns;
	counter_add(&s->counters, CNT_HEARTBEAT_SENT, 1);
	linux_inject(s, frame, shadow_heartbeat(&q, frame));
}

uint32_t adopt_read(struct slow *s, struct conn *c)
{
	struct sock_state *st = &c->sock;
	uint32_t reason;
	int rc;

	c->attempts++;
	if (adopt_fails(s, 1))
		return IPC_REASON_FAULT;
	if (sock_filter_attach_closed(c->fd))
		return IPC_REASON_ERROR;
	/* the filter is seen by whoever says it later: see preload/share.c */
	if (sock_is_used(c->fd))
		return IPC_REASON_USED;
	if (adopt_fails(s, 2))
		return IPC_REASON_FAULT;
	rc = sock_state_read(c->fd, st);
	if (rc)
		return rc > 0 ? (uint32_t)rc : IPC_REASON_STATE;
	if (adopt_fails(s, 3))
		return IPC_REASON_FAULT;
	reason = adopt_buffers(s, c);
	if (reason)
		return reason;
	if (sock_filter_attach(c->fd, st->rcv_nxt) ||
	    sock_peek_received(c->fd, c->app->buf + c->rx_off, c->rx_size, st->rcv_queued) ||
	    sock_peek_unacked(c->fd, c->app->buf + c->tx_off, c->tx_size, st->write_seq - st->snd_una))
		return IPC_REASON_STATE;
	if (adopt_fails(s, 4))
		return IPC_REASON_FAULT;
	c->sh_rcv_nxt = st->rcv_nxt;
	c->sh_snd_nxt = st->write_seq;
	c->sh_acked = st->snd_una;
	adopt_heartbeat(s, c);
	return IPC_REASON_NONE;
}

/* Why it has come to nothing. */
static uint32_t adopt_late(const struct slow *s, const struct conn *c)
{
	if (c->waiting)
		return IPC_REASON_BUSY;
	return adopt_fails(s, 5) ? IPC_REASON_FAULT : IPC_REASON_SILENT;
}

static void adopt_tick(void *ctx, uint64_t now_ns)
{
	struct slow *s = ctx;
	uint32_t next;

	s->now_ns = now_ns;
	for (uint32_t i = s->list_head; i != SLOW_NONE && s->count[CONN_ADOPTING]; i = next) {
		struct conn *c = &s->conns[i];

		next = c->list_next;
		if (c->state != CONN_ADOPTING)
			continue;
		if (now_ns >= c->deadline_ns)
			adopt_cancel(s, c, adopt_late(s, c));
		else if (!c->waiting && now_ns - c->hb_sent_ns >= ADOPT_RETRY_NS)
			adopt_heartbeat(s, c);
	}
	if (!s->count[CONN_ADOPTING]) {
		loop_timer_cancel(s->env.loop, s->adopt_timer);
		s->adopt_timer = -1;
	}
}

/* The tuple may be in TIME_WAIT here although Linux has let a new connection have it: then Linux is right. */
static struct conn *adopt_conn(struct slow *s, const struct flow_key *key)
{
	struct conn *old = conn_find(s, key);

	if (old && old->state != CONN_TIME_WAIT)
		return NULL;
	if (old) {
		nic_flow_del(s->env.nic, key);
		conn_free(s, old);
	}
	return conn_new(s, key);
}

/* The connection of this very socket, if another slot already has it. */
static struct conn *adopt_taken(struct slow *s, int fd)
{
	struct sockaddr_storage local, remote;
	socklen_t len = sizeof local, rlen = sizeof remote;
	struct flow_key key = {0};
	uint64_t cookie = sock_cookie(fd);
	struct conn *c;

	if (!cookie || getsockname(fd, (struct sockaddr *)&local, &len))
		return NULL;
	if (getpeername(fd, (struct sockaddr *)&remote, &rlen)) /* both FINs are done: it has forgotten its peer */
		return conn_find_cookie(s, cookie);
	if (ip_addr_from_sockaddr(&local, &key.local, &key.local_port) ||
	    ip_addr_from_sockaddr(&remote, &key.remote, &key.remote_port))
		return NULL;
	c = conn_find(s, &key);
	return c && c->cookie == cookie && c->state != CONN_TIME_WAIT ? c : NULL;
}

/* XDP is attached: the transaction proper. */
static void adopt_go(struct slow *s, struct conn *c)
{
	uint32_t reason;

	c->deadline_ns = s->now_ns + s->cfg->adopt_timeout_ms * NS_PER_MS;
	nic_word_clear(s->env.nic, c->id);
	reason = nic_flow_add(s->env.nic, &c->key, c->id) ? IPC_REASON_FULL : adopt_read(s, c);
	if (reason)
		adopt_cancel(s, c, reason);
}

void adopt_mistaken(struct slow *s, const struct leave_for *to, int fd)
{
	closer_close(fd);
	counter_add(&s->counters, CNT_ADOPT_REFUSED, 1);
	app_slot_finish(s, to->app, to->slot, IPC_REFUSED, IPC_REASON_RACE);
}

void adopt_begin(struct slow *s, const struct leave_for *to, int fd)
{
	struct app *a = to->app;
	uint32_t slot = to->slot;
	struct conn *c = adopt_taken(s, fd);
	struct sock_state st = {0};
	uint32_t reason;
	int examined;
	bool local;

	app_unpark(s, a, slot);
	atomic_store_explicit(&a->shm->slot[slot].context, to->context, memory_order_relaxed);
	if (c) {
		leave_move(s, c, to, fd);
		return;
	}
	if (to->halves & IPC_HALF_BACK) { /* it is Linux's by now */
		leave_dead(fd);
		closer_close(fd);
		app_slot_finish(s, a, slot, IPC_RETURNED, IPC_REASON_HANDED_BACK);
		return;
	}
	examined = sock_examine(fd, &st);
	local = !examined && local_is(s, &st);
	reason = examined > 0 ? (uint32_t)examined : examined < 0 ? IPC_REASON_ERROR : adopt_policy(s, a, &st, local);
	s->adoptions++;
	if (!reason) {
		c = adopt_conn(s, &st.key);
		if (!c)
			reason = conn_find(s, &st.key) ? IPC_REASON_STATE : IPC_REASON_FULL;
	}
	if (!c) {
		closer_close(fd);
		adopt_refuse(s, a, slot, &st.key, reason);
		return;
	}
	c->app = a;
	a->conns++;
	a->slot_conn[slot] = c->id;
	c->slot = slot;
	c->context = to->context;
	c->opts = to->opts;
	c->app_fd = to->app_fd;
	c->fd = fd;
	c->cookie = st.cookie;
	c->sock = st;
	c->local = local;
	c->waiting = !local && !demand_ready(s);
	c->deadline_ns = s->now_ns + ADOPT_WAIT_NS;
	if (s->adopt_timer < 0)
		s->adopt_timer = loop_timer(s->env.loop, 5 * NS_PER_MS, 5 * NS_PER_MS, adopt_tick, s);
	if (local)
		local_offer(s, c);
	else if (!c->waiting)
		adopt_go(s, c);
}

void adopt_attached(struct slow *s, int rc)
{
	uint32_t next;

	for (uint32_t i = s->list_head; i != SLOW_NONE; i = next) {
		struct conn *c = &s->conns[i];

		next = c->list_next;
		if (c->state != CONN_ADOPTING || !c->waiting)
			continue;
		c->waiting = false;
		if (rc)
			adopt_cancel(s, c, IPC_REASON_BUSY);
		else
			adopt_go(s, c);
	}
}

void adopt_hold(struct slow *s, struct conn *c, uint32_t thread, const uint8_t *frame, uint32_t len)
{
	struct held_frame *h = c->held_count < SLOW_HELD ? malloc(sizeof *h + len) : NULL;

	if (!h) {
		counter_add(&s->counters, CNT_DROP_UP_FULL, 1);
		return;
	}
	h->next = NULL;
	h->thread = thread;
	h->len = len;
	memcpy(h->data, frame, len);
	*c->held_tail = h;
	c->held_tail = &h->next;
	c->held_count++;
}

/* Roll back: Linux goes on as if nothing had been. */
void adopt_cancel(struct slow *s, struct conn *c, uint32_t reason)
{
	struct app *a = c->app;
	struct flow_key key = c->key;
	uint32_t slot = c->slot;

	counter_add(&s->counters, CNT_ADOPT_ROLLED_BACK, 1);
	sock_filter_detach(c->fd);
	if (!c->local)
		nic_flow_del(s->env.nic, &c->key);
	for (struct held_frame *h = c->held; h; h = h->next)
		linux_inject(s, h->data, h->len);
	conn_release_buffers(s, c);
	a->slot_conn[slot] = SLOW_NONE;
	a->conns--;
	c->app = NULL;
	conn_free(s, c);
	adopt_refuse(s, a, slot, &key, reason);
	app_release(s, a);
}
