/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connections both ends of which are on this host: two flows of this thread, each the other's peer. What one application
 * writes is copied from its transmit buffer to the receive buffer of the other one, unless they are the same memory
 * (slow/ring.h); there are no segments, and nothing is lost or repeated. Place in a packet's way: instead of tx.c, the
 * wire and rx.c. Fast thread.
 *
 * Invariants: of a local flow snd_una = snd_nxt = snd_max, as a byte is acknowledged when it is in the peer's buffer. A
 * byte is copied once, and counted in both flows in the same turn. A FIN follows the last byte; a reset what the peer has
 * room for. While the peer is not installed (it is on its way to another process) everything waits.
 */
#include <errno.h>
#include <string.h>

#include "service/fast/thread.h"

#define LOCAL_TURN (256u << 10) /* bytes per flow and turn */

struct flow *local_peer(struct fast_thread *t, const struct flow *f)
{
	struct flow *p = f->peer < t->cfg->max_flows ? &t->flows[f->peer] : NULL;

	return p && flowset_has(&t->owned, f->peer) && p->flags & FLOW_LOCAL && p->peer == f->id ? p : NULL;
}

static uint8_t *local_tx(struct fast_thread *t, const struct flow *f)
{
	return (f->tx_region ? t->regions[f->tx_region - 1].buf : t->apps[flow_tx_app(f)].a.buf) + f->tx_off;
}

static uint8_t *local_rx(struct fast_thread *t, const struct flow *f)
{
	return (f->rx_region ? t->regions[f->rx_region - 1].buf : t->apps[f->app].a.buf) + f->rx_off;
}

/* Does @f write where @p reads? Offsets are the same on both sides then. */
static bool local_shares(struct fast_thread *t, const struct flow *f, const struct flow *p)
{
	return f->flags & FLOW_DIRECT && local_tx(t, f) == local_rx(t, p);
}

/* @n bytes from @f's transmit buffer to where they go in the receive buffer of @p. Both may be changed under us. */
static void local_copy(struct fast_thread *t, const struct flow *f, const struct flow *p, uint32_t n)
{
	const uint8_t *from = local_tx(t, f);
	uint8_t *to = local_rx(t, p);
	uint32_t tx_size = flow_tx_size(f), rx_size = flow_rx_size(p);

	for (uint32_t done = 0, k; done < n; done += k) {
		uint32_t at = (uint32_t)(f->snd_una + done) & (tx_size - 1);
		uint32_t there = (uint32_t)(p->rcv_end + done) & (rx_size - 1);

		k = MIN(n - done, MIN(tx_size - at, rx_size - there));
		memcpy(to + there, from + at, k);
	}
}

static void local_count(struct fast_thread *t, struct flow *f, struct flow *p, uint32_t n)
{
	struct flow_stats *out = &t->stats[f->id], *in = &t->stats[p->id];

	STATS_ADD(out->tx_bytes, n);
	STATS_ADD(out->acked_bytes, n);
	STATS_ADD(out->data_segs_out, 1);
	STATS_ADD(out->segs_out, 1);
	STATS_ADD(in->rx_bytes, n);
	STATS_ADD(in->data_segs_in, 1);
	STATS_ADD(in->segs_in, 1);
	STATS_SET(in->last_rx_ns, t->now_ns);
	thread_count(t, CNT_LOCAL_BYTES, n);
}

static void local_data(struct fast_thread *t, struct flow *f, struct flow *p, uint32_t n)
{
	if (!local_shares(t, f, p))
		local_copy(t, f, p, n);
	/* release: pairs with survive_start() in the library; what it says is final */
	atomic_store_explicit(&t->page->moved[f->id], f->snd_una + n, memory_order_release);
	local_count(t, f, p, n);
	p->rcv_end += n;
	p->rcv_edge = p->rcv_read + flow_rx_size(p);
	f->snd_una += n;
	f->snd_nxt = f->snd_max = f->snd_una;
	app_heard(t, p, true);
	app_spoke(t, f);
	app_delivered(t, p);
	if (!(f->flags & FLOW_DIRECT))
		app_acked(t, f);
	thread_stats(t, p);
}

/* A buffer of both is free when the other end has read, one of its own when the bytes are there. */
static void local_freed(struct fast_thread *t, struct flow *f, const struct flow *p)
{
	uint64_t free = local_shares(t, f, p) ? p->rcv_read : MIN(f->snd_una, f->snd_end);

	if (free <= f->tx_free)
		return;
	f->tx_free = free;
	app_acked(t, f);
}

static void local_fin(struct fast_thread *t, struct flow *f, struct flow *p)
{
	f->flags |= FLOW_FIN_ACKED;
	f->snd_una = f->snd_nxt = f->snd_max = f->snd_end + 1;
	p->flags |= FLOW_FIN_RCVD;
	app_status(t, p);
	app_fin_acked(t, f);
	up_flow(t, p, UP_FIN_RCVD);
	up_flow(t, f, UP_FIN_ACKED);
}

/* What @p may get now. Of a buffer of both ends it never gets more than half: the rest is what is still to be sent. */
static uint32_t local_room(struct fast_thread *t, const struct flow *f, const struct flow *p)
{
	uint32_t unread = (uint32_t)(p->rcv_end - p->rcv_read), half = flow_rx_size(p) / 2;

	return local_shares(t, f, p) ? half - MIN(unread, half) : flow_rx_room(p);
}

/* How much of @have may go now: TCP_CORK and MSG_MORE hold back a partial segment, at most 200 ms. */
static uint64_t local_uncorked(struct fast_thread *t, struct flow *f, uint64_t have)
{
	uint64_t part = have % f->mss;

	if (likely(!(f->opts & IPC_OPT_CORK)) || !part || f->flags & (FLOW_CLOSING | FLOW_CORK_OVER)) {
		f->cork_ns = f->send_ns = 0;
		f->flags &= ~FLOW_CORK_OVER;
		return have;
	}
	if (!f->cork_ns)
		f->cork_ns = t->now_ns;
	f->send_ns = f->cork_ns + FAST_CORK_NS; /* timer_arm() follows */
	return have - part;
}

/*
 * Does @p refuse bytes? Nobody will read them (RFC 9293 3.10.7.4); or it is shut down both ways, where Linux answers with
 * a reset, too (but takes them while it may still send).
 */
static bool local_refuses(const struct flow *p)
{
	return p->flags & FLOW_ORPHAN || (p->flags & FLOW_CLOSING && p->opts & IPC_OPT_SHUT_RD);
}

/* Linux sends at once what there is room for: the peer has it before the reset, and reads it. */
static void local_reset(struct fast_thread *t, struct flow *f, struct flow *p)
{
	uint64_t have = f->snd_end - MIN(f->snd_una, f->snd_end);
	uint32_t n = (uint32_t)MIN(have, (uint64_t)local_room(t, f, p));

	if (n && !(p->flags & (FLOW_DEAD | FLOW_ORPHAN)))
		local_data(t, f, p, n);
	flow_fail(t, p, ECONNRESET, false, true);
}

bool local_run(struct fast_thread *t, struct flow *f)
{
	struct flow *p = local_peer(t, f);
	uint64_t have = f->snd_end - MIN(f->snd_una, f->snd_end), may;
	uint32_t n, room;

	if (!p)
		return false;
	if (f->flags & FLOW_RST_NOW)
		local_reset(t, f, p);
	f->flags &= ~FLOW_SEND_NOW;
	if (f->flags & (FLOW_DEAD | FLOW_FIN_ACKED) || p->flags & FLOW_DEAD)
		return false;
	if (have && local_refuses(p)) {
		flow_fail(t, p, ECONNRESET, false, true);
		local_reset(t, p, f);
		return false;
	}
	may = local_uncorked(t, f, have);
	room = local_room(t, f, p);
	n = (uint32_t)MIN(MIN(may, (uint64_t)room), (uint64_t)LOCAL_TURN);
	if (n)
		local_data(t, f, p, n);
	if (f->flags & FLOW_DIRECT)
		local_freed(t, f, p);
	if (n || f->snd_wnd != room - n) {
		f->snd_wnd = room - n; /* for TCP_INFO */
		thread_stats(t, f);
	}
	if (unlikely(f->opts & IPC_OPT_LOWAT))
		app_sent(t, f);
	if (n < have)
		return n && n < may && n < room;
	if (f->flags & FLOW_CLOSING)
		local_fin(t, f, p);
	return false;
}
