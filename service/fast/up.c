/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a fast thread tells the slow path: frames, which may be lost (and are counted) when
 * the slow path is behind, and events, which may not: an event that does not fit the ring
 * stays as a bit in its flow or application and is tried again each turn. Fast thread.
 */
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "service/base/clock.h"
#include "service/fast/thread.h"

bool up_frame(struct fast_thread *t, enum fast_up type, const struct flow *f, const uint8_t *data, uint32_t len,
	      bool outgoing)
{
	struct up_frame *u = recring_reserve(&t->up, type, (uint32_t)sizeof *u + len);

	if (!u) {
		thread_count(t, type == UP_CAPTURE ? CNT_CAPTURE_LOST : CNT_DROP_UP_FULL, 1);
		return false;
	}
	*u = (struct up_frame){.time_ns = t->now_ns, .flow_id = FLOW_NONE, .outgoing = outgoing, .len = len};
	if (f) {
		u->flow_id = f->id;
		u->rcv_nxt = flow_rcv_nxt(f);
		u->snd_una = flow_snd_una(f);
		u->snd_nxt = flow_snd_nxt(f);
	}
	memcpy(u->data, data, len);
	recring_commit(&t->up);
	t->up_news = true;
	return true;
}

static bool up_event(struct fast_thread *t, enum fast_up type, const void *e, uint32_t len)
{
	void *u = recring_reserve(&t->up, type, len);

	if (!u)
		return false;
	memcpy(u, e, len);
	recring_commit(&t->up);
	t->up_news = true;
	return true;
}

static struct tcp_counts up_counts(struct fast_thread *t, const struct flow *f)
{
	const struct flow_stats *st = &t->stats[f->id];
	uint32_t now_ms = (uint32_t)(t->now_ns / NS_PER_MS);

	return (struct tcp_counts){
		.bytes_retrans = f->rexmit_bytes,
		.segs_in = atomic_load_explicit(&st->segs_in, memory_order_relaxed),
		.segs_out = atomic_load_explicit(&st->segs_out, memory_order_relaxed),
		.data_segs_in = atomic_load_explicit(&st->data_segs_in, memory_order_relaxed),
		.data_segs_out = atomic_load_explicit(&st->data_segs_out, memory_order_relaxed),
		.retransmits = f->rexmit_base + atomic_load_explicit(&st->rexmit_segments, memory_order_relaxed),
		.sent_ms = now_ms,
		.received_ms = now_ms,
		.heard_ms = now_ms,
	};
}

static bool up_frozen(struct fast_thread *t, const struct flow *f)
{
	struct up_frozen z = {
		.flow_id = f->id,
		.fin_rcvd = f->flags & FLOW_FIN_RCVD,
		.closing = f->flags & FLOW_CLOSING,
		.fin_sent = f->snd_max > f->snd_end,
		.fin_acked = f->flags & FLOW_FIN_ACKED,
		.snd_una = MIN(f->snd_una, f->snd_end),
		.snd_nxt = MIN(f->snd_max, f->snd_end),
		.snd_end = f->snd_end,
		.tx_free = f->tx_free,
		.rcv_read = f->rcv_read,
		.rcv_end = f->rcv_end,
		.snd_base = f->snd_base,
		.rcv_base = f->rcv_base,
		.rcv_wnd = (uint32_t)(f->rcv_edge - f->rcv_end),
		.snd_wnd = f->snd_wnd,
		.max_wnd = f->max_wnd,
		.snd_wl1 = f->snd_wl1,
		.ts_recent = f->ts_recent,
		.ts_now = flow_ts_now(f, t->now_ns),
		.srtt_us = f->rtt.srtt_us,
		.rttvar_us = f->rtt.rttvar_us,
		.cwnd_bytes = f->cwnd,
		.opts = f->opts,
		.rate_bps = f->rate_bps,
		.mss = f->mss,
		.counts = up_counts(t, f),
		.ooo = f->ooo,
	};

	memcpy(z.ooo_piece, f->ooo_piece, sizeof z.ooo_piece);
	return up_event(t, UP_FROZEN, &z, sizeof z);
}

/* Events go up in the order of their numbers: FIN_RCVD, FIN_ACKED, FAILED, and last REMOVED or FROZEN. */
static bool up_flow_flush(struct fast_thread *t, struct flow *f)
{
	struct up_flow e = {f->id, f->error, flow_rcv_nxt(f), flow_snd_nxt(f)};

	while (f->up_pending) {
		uint32_t type = (uint32_t)__builtin_ctz(f->up_pending);
		bool last = type == UP_REMOVED || type == UP_FROZEN;

		f->up_pending &= (uint16_t) ~(1u << type);
		/* After its last event the flow's memory is the slow path's again. */
		if (last)
			flowset_del(&t->up_wait, f->id);
		if (!(type == UP_FROZEN ? up_frozen(t, f) : up_event(t, type, &e, sizeof e))) {
			f->up_pending |= (uint16_t)(1u << type);
			flowset_add(&t->up_wait, f->id);
			return false;
		}
		if (last)
			return true;
	}
	return true;
}

void up_flow(struct fast_thread *t, struct flow *f, enum fast_up type)
{
	f->up_pending |= (uint16_t)(1u << type);
	up_flow_flush(t, f);
}

static bool up_app_flush(struct fast_thread *t, struct app_view *a)
{
	struct up_flow e = {.flow_id = a->a.app};

	while (a->up_pending) {
		uint32_t type = (uint32_t)__builtin_ctz(a->up_pending);

		if (type == UP_APP_GONE && a->up_pending & 1u << UP_APP_BAD) {
			a->up_pending &= (uint16_t) ~(1u << UP_APP_BAD); /* too late to matter */
			continue;
		}
		if (!up_event(t, type, &e, sizeof e))
			return false;
		a->up_pending &= (uint16_t) ~(1u << type);
	}
	return true;
}

void up_app(struct fast_thread *t, struct app_view *a, enum fast_up type)
{
	a->up_pending |= (uint16_t)(1u << type);
	if (!up_app_flush(t, a))
		t->apps_up_wait = true;
}

void up_retry(struct fast_thread *t)
{
	for (uint32_t i = 0; (i = flowset_next(&t->up_wait, i)) != FLOWSET_NONE; i++) {
		if (!up_flow_flush(t, &t->flows[i]))
			return;
		flowset_del(&t->up_wait, i);
	}
	if (!t->apps_up_wait)
		return;
	t->apps_up_wait = false;
	for (uint32_t i = 0; i < FAST_APPS; i++)
		if (t->apps[i].up_pending && !up_app_flush(t, &t->apps[i]))
			t->apps_up_wait = true;
}

void up_active(struct fast_thread *t, struct flow *f)
{
	if (likely(f->active_ns && t->now_ns - f->active_ns < FAST_ACTIVE_NS))
		return;
	f->active_ns = t->now_ns;
	bell_ring(t->active, f->id);
	t->active_news = true;
	STATS_SET(t->stats[f->id].last_rx_ns, t->now_ns);
	app_info(t, f);
}

void up_wake(struct fast_thread *t, bool last)
{
	uint64_t one = 1;

	if (t->active_news && (last || t->now_ns - t->active_wake_ns >= FAST_ACTIVE_NS)) {
		t->active_news = false;
		t->active_wake_ns = t->now_ns;
		t->up_news = true;
	}
	if (!t->up_news)
		return;
	t->up_news = false;
	/* pairs with the fence in fast_slow_sleeps(): the records were committed before */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&t->fast->slow_armed, memory_order_relaxed) &&
	    atomic_exchange_explicit(&t->fast->slow_armed, 0, memory_order_acq_rel))
		(void)!write(t->fast->up_fd, &one, sizeof one);
}
