/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The boundary with applications: their records come in (bell, one read, the check), our
 * positions and status go out (slot, bell, eventfd). First and last step of a turn. Fast
 * thread. Invariants: no word of shared memory is read twice for one decision; a slot counts
 * only if a flow of this thread is installed for it; a record that fails the check ends the
 * dealings with that application. A flow that is split has two slots, in two applications or
 * one: of the record of each only its own half counts, and each is told of the other's.
 */
#include <stdatomic.h>

#include "service/base/clock.h"
#include "service/fast/thread.h"

static void app_state(struct fast_thread *t, struct flow *f, enum ipc_state state);

/* Of a split flow: the half that a slot does not have stays closed, and says how far the other process is. */
static void app_tell_other(struct fast_thread *t, const struct flow *f)
{
	atomic_store_explicit(&thread_slot(t, f)->snd_end, f->snd_end | IPC_FROZEN, memory_order_relaxed);
	atomic_store_explicit(&thread_tx_slot(t, f)->rcv_read, f->rcv_read | IPC_FROZEN, memory_order_relaxed);
}

/* The application took bytes: tell the peer, if the window was small and opens by enough to matter. */
static void app_window_opened(struct fast_thread *t, struct flow *f)
{
	uint32_t size = flow_rx_size(f), advertised = (uint32_t)(f->rcv_edge - f->rcv_end);

	if (f->flags & FLOW_LOCAL) {
		if (local_peer(t, f))
			flowset_add(&t->ready, f->peer);
		return;
	}
	if (f->flags & FLOW_FIN_RCVD || advertised > size / 2)
		return;
	if (flow_rx_room(f) < advertised + MIN(2u * f->rcv_mss, size / 2) + flow_wnd_grain(f))
		return;
	f->flags |= FLOW_ACK_NOW;
	flowset_add(&t->ready, f->id);
}

static void app_take_over(struct fast_thread *t, struct flow *f, const struct ipc_record *rec)
{
	bool read = rec->rcv_read != f->rcv_read;
	uint32_t changed;

	if (rec->snd_end != f->snd_end || rec->opts != f->opts) {
		f->snd_end = rec->snd_end;
		if (rec->opts & IPC_OPT_QUICKACK && f->flags & FLOW_DELACK)
			f->flags |= FLOW_ACK_NOW;
		changed = f->opts ^ rec->opts;
		f->opts = (uint16_t)rec->opts;
		flowset_add(&t->ready, f->id); /* where its clocks are set anew */
		if (unlikely(changed & (IPC_OPT_KEEPALIVE | IPC_OPT_CHANGES)))
			timer_keepalive(t, f);
	}
	f->rcv_read = rec->rcv_read;
	f->context = rec->context;
	f->want = rec->want;
	if (unlikely(f->flags & FLOW_SPLIT))
		app_tell_other(t, f);
	if (read)
		app_window_opened(t, f);
}

/* The application broke the protocol: false. */
static bool app_check(struct fast_thread *t, uint32_t app, const struct ipc_record *rec, const struct ipc_bounds *cur)
{
	struct app_view *a = &t->apps[app];

	if (likely(ipc_record_check(rec, cur) == 0))
		return true;
	a->bad = true;
	thread_count(t, CNT_APP_BAD_RECORD, 1);
	up_app(t, a, UP_APP_BAD);
	return false;
}

static void app_record(struct ipc_slot *s, struct ipc_record *rec, bool last)
{
	if (last)
		ipc_record_freeze(s, rec);
	else
		ipc_record_read(s, rec);
}

static bool app_is_bad(const struct fast_thread *t, const struct flow *f)
{
	return t->apps[f->app].bad || t->apps[flow_tx_app(f)].bad;
}

/* Read the record, for the last time if @last, check it and act on it. */
static void app_read(struct fast_thread *t, struct flow *f, bool last)
{
	uint64_t acked = MIN(f->snd_una, f->snd_end);
	struct ipc_bounds cur = {
		.snd_end = f->snd_end,
		.rcv_read = f->rcv_read,
		.snd_acked = acked,
		.rcv_end = f->rcv_end,
		.tx_size = flow_tx_size(f),
		.tx_closed = f->flags & FLOW_CLOSING,
	};
	struct ipc_record rec, rx;

	if (app_is_bad(t, f) || f->flags & FLOW_DEAD)
		return;
	app_record(thread_tx_slot(t, f), &rec, last);
	if (unlikely(f->flags & FLOW_SPLIT)) { /* of each record the half that is its own */
		app_record(thread_slot(t, f), &rx, last);
		rx = (struct ipc_record){f->snd_end, rx.rcv_read, 0, 0, rx.context};
		if (!app_check(t, f->app, &rx, &cur))
			return;
		f->tx_context = rec.context % IPC_CONTEXTS;
		rec.rcv_read = f->rcv_read;
	}
	/* A send() that ran while another thread closed is late, not hostile. */
	if (f->flags & FLOW_CLOSING && rec.snd_end > f->snd_end)
		rec.snd_end = f->snd_end;
	if (unlikely(!app_check(t, flow_tx_app(f), &rec, &cur)))
		return;
	if (unlikely(f->flags & FLOW_SPLIT)) {
		rec.rcv_read = rx.rcv_read;
		rec.context = rx.context;
	}
	app_take_over(t, f, &rec);
}

void app_refresh(struct fast_thread *t, struct flow *f)
{
	app_read(t, f, false);
}

bool app_freeze(struct fast_thread *t, struct flow *f)
{
	app_read(t, f, true);
	app_state(t, f, IPC_PAUSED);
	return !app_is_bad(t, f);
}

bool app_dirty_run(struct fast_thread *t)
{
	uint32_t slots[FAST_DIRTY_BATCH], total = 0, n;

	for (uint32_t k = 0; k < t->napps; k++) {
		struct app_view *a = &t->apps[t->app_list[k]];
		struct bell *dirty = &a->a.shm->dirty[t->index];

		if (a->bad || !bell_any(dirty))
			continue;
		n = bell_take(dirty, slots, FAST_DIRTY_BATCH, &a->dirty_cursor);
		total += n;
		for (uint32_t i = 0; i < n && !a->bad; i++) {
			uint32_t id = a->slot_flow[slots[i]];

			if (id)
				app_refresh(t, &t->flows[id - 1]);
		}
	}
	return total != 0;
}

/*
 * Ring the slot's present context, or @last if it names none that there is. Returns it. Its waiter is woken at the end
 * of the turn.
 */
static uint32_t app_ring_slot(struct fast_thread *t, uint32_t app, uint32_t slot, uint32_t last)
{
	struct app_view *a = &t->apps[app];
	uint32_t context;

	/*
	 * Pairs with the fence of a thread that moves the slot to its own context and then looks
	 * at the slot again: it sees what was stored before, or we see its context.
	 */
	atomic_thread_fence(memory_order_seq_cst);
	context = atomic_load_explicit(&a->a.shm->slot[slot].context, memory_order_relaxed);
	context = context < IPC_CONTEXTS ? context : last;
	bell_ring(&a->a.shm->context[context].bell, slot);
	a->wakes |= 1ull << context;
	t->wakes[app / 64] |= 1ull << (app % 64);
	return context;
}

static void app_ring(struct fast_thread *t, struct flow *f)
{
	f->context = app_ring_slot(t, f->app, f->slot, f->context);
}

/* The one that sends. */
static void app_ring_tx(struct fast_thread *t, struct flow *f)
{
	if (likely(!(f->flags & FLOW_SPLIT)))
		app_ring(t, f);
	else
		f->tx_context = app_ring_slot(t, f->tx_app, f->tx_slot, f->tx_context);
}

static void app_state_slot(struct ipc_slot *s, const struct flow *f, uint32_t status)
{
	if (f->flags & FLOW_DEAD)
		atomic_store_explicit(&s->error, f->error, memory_order_relaxed);
	/* pairs with the application's acquire load: positions and error were stored before */
	atomic_store_explicit(&s->status, status, memory_order_release);
}

static void app_state_store(struct fast_thread *t, struct flow *f, enum ipc_state state)
{
	uint32_t status = state | (f->flags & FLOW_FIN_RCVD ? IPC_ST_FIN : 0) |
			  (f->flags & FLOW_DEAD ? IPC_ST_ERROR : 0) | (f->flags & FLOW_MUTED ? IPC_ST_MUTED : 0) |
			  (f->flags & FLOW_CLOSING ? IPC_ST_CLOSED_TX : 0) | (flow_time_wait(f) ? IPC_ST_OVER : 0) |
			  (f->flags & FLOW_LOCAL && f->peer != FLOW_NONE ? IPC_ST_PAIRED : 0);

	if (likely(!(f->flags & FLOW_SPLIT))) {
		app_state_slot(thread_slot(t, f), f, status);
		return;
	}
	app_state_slot(thread_slot(t, f), f, status | IPC_ST_TX_AWAY);
	app_state_slot(thread_tx_slot(t, f), f, status | IPC_ST_RX_AWAY);
}

static void app_state(struct fast_thread *t, struct flow *f, enum ipc_state state)
{
	app_state_store(t, f, state);
	app_ring(t, f);
	if (unlikely(f->flags & FLOW_SPLIT))
		app_ring_tx(t, f);
}

void app_status(struct fast_thread *t, struct flow *f)
{
	app_state(t, f, IPC_FAST);
}

void app_fin_acked(struct fast_thread *t, struct flow *f)
{
	app_state_store(t, f, IPC_FAST);
}

void app_delivered(struct fast_thread *t, struct flow *f)
{
	/* pairs with the application's acquire load: the payload was stored before */
	atomic_store_explicit(&thread_slot(t, f)->rcv_end, f->rcv_end, memory_order_release);
	if (unlikely(f->flags & FLOW_SPLIT)) /* for its TCP_INFO */
		atomic_store_explicit(&thread_tx_slot(t, f)->rcv_end, f->rcv_end, memory_order_relaxed);
	app_ring(t, f);
}

void app_acked(struct fast_thread *t, struct flow *f)
{
	struct ipc_slot *s = thread_tx_slot(t, f);
	uint64_t acked = flow_tx_free(f);
	uint32_t free = flow_tx_size(f) - (uint32_t)(f->snd_end - acked);

	/* pairs with the application's acquire load: the bytes have been read for the last time */
	atomic_store_explicit(&s->snd_acked, acked, memory_order_release);
	if (unlikely(f->flags & FLOW_SPLIT)) /* for its TCP_INFO */
		atomic_store_explicit(&thread_slot(t, f)->snd_acked, acked, memory_order_relaxed);
	if (free < flow_tx_size(f) / 3)
		return;
	/* pairs with the fence between the application's store of `want` and its look at snd_acked */
	atomic_thread_fence(memory_order_seq_cst);
	if (!(atomic_load_explicit(&s->want, memory_order_relaxed) & IPC_WANT_SPACE))
		return;
	/* The application takes `want` back when it has seen the room; no memory of our own could know that in time. */
	app_ring_tx(t, f);
}

void app_sent(struct fast_thread *t, struct flow *f)
{
	struct ipc_slot *s = thread_tx_slot(t, f);
	uint64_t unsent = f->snd_end - MIN(f->snd_max, f->snd_end);

	if (2 * unsent >= atomic_load_explicit(&s->notsent_lowat, memory_order_relaxed))
		return;
	/* as in app_acked(): before it snd_sent was stored */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&s->want, memory_order_relaxed) & IPC_WANT_SPACE)
		app_ring_tx(t, f);
}

static void app_info_slot(struct ipc_slot *s, const struct flow *f)
{
	STATS_SET(s->srtt_us, f->rtt.srtt_us);
	STATS_SET(s->rttvar_us, f->rtt.rttvar_us);
	STATS_SET(s->rto_us, f->rtt.rto_us);
	STATS_SET(s->mss, f->mss);
	STATS_SET(s->cwnd_bytes, f->cwnd);
	STATS_SET(s->rate_kbps, (uint32_t)(f->rate_bps / 125));
}

void app_info(struct fast_thread *t, struct flow *f)
{
	app_info_slot(thread_slot(t, f), f);
	if (unlikely(f->flags & FLOW_SPLIT))
		app_info_slot(thread_tx_slot(t, f), f);
	app_counts(t, f);
}

static void app_counts_slot(struct ipc_slot *s, const struct flow *f, const struct flow_stats *st)
{
	STATS_SET(s->segs_in, atomic_load_explicit(&st->segs_in, memory_order_relaxed));
	STATS_SET(s->segs_out, atomic_load_explicit(&st->segs_out, memory_order_relaxed));
	STATS_SET(s->data_segs_in, atomic_load_explicit(&st->data_segs_in, memory_order_relaxed));
	STATS_SET(s->data_segs_out, atomic_load_explicit(&st->data_segs_out, memory_order_relaxed));
	STATS_SET(s->snd_sent, MIN(f->snd_max, f->snd_end));
	STATS_SET(s->peer_wnd, f->snd_wnd);
	STATS_SET(s->timeouts, f->retries | (f->flags & FLOW_PERSIST ? IPC_PROBES : 0));
	if (unlikely(f->rexmit_bytes)) {
		uint32_t sent = atomic_load_explicit(&st->rexmit_segments, memory_order_relaxed);

		STATS_SET(s->retransmits, f->rexmit_base + sent);
		STATS_SET(s->bytes_retrans, f->rexmit_bytes);
	}
}

void app_counts(struct fast_thread *t, const struct flow *f)
{
	app_counts_slot(thread_slot(t, f), f, &t->stats[f->id]);
	if (unlikely(f->flags & FLOW_SPLIT))
		app_counts_slot(thread_tx_slot(t, f), f, &t->stats[f->id]);
}

static void app_heard_slot(struct ipc_slot *s, uint32_t now_ms, bool data)
{
	STATS_SET(s->heard_ms, now_ms);
	if (data)
		STATS_SET(s->received_ms, now_ms);
}

void app_heard(struct fast_thread *t, const struct flow *f, bool data)
{
	uint32_t now_ms = (uint32_t)(t->now_ns / NS_PER_MS);

	app_heard_slot(thread_slot(t, f), now_ms, data);
	if (unlikely(f->flags & FLOW_SPLIT))
		app_heard_slot(thread_tx_slot(t, f), now_ms, data);
}

void app_spoke(struct fast_thread *t, const struct flow *f)
{
	uint32_t now_ms = (uint32_t)(t->now_ns / NS_PER_MS);

	STATS_SET(thread_slot(t, f)->sent_ms, now_ms);
	if (unlikely(f->flags & FLOW_SPLIT))
		STATS_SET(thread_tx_slot(t, f)->sent_ms, now_ms);
}

/* What the slot does not have (IPC_ST_*_AWAY in @away) stays frozen at every moment: a thread may still try its luck. */
static void app_install_slot(struct ipc_slot *s, const struct flow *f, const struct tcp_counts *n, uint32_t away)
{
	uint64_t snd = away & IPC_ST_TX_AWAY ? IPC_FROZEN : 0, rcv = away & IPC_ST_RX_AWAY ? IPC_FROZEN : 0;

	atomic_store_explicit(&s->snd_end, f->snd_end | snd, memory_order_relaxed);
	atomic_store_explicit(&s->rcv_read, f->rcv_read | rcv, memory_order_relaxed);
	atomic_store_explicit(&s->rcv_end, f->rcv_end, memory_order_relaxed);
	atomic_store_explicit(&s->snd_acked, flow_tx_free(f), memory_order_relaxed);
	atomic_store_explicit(&s->error, 0, memory_order_relaxed);
	STATS_SET(s->peer, f->flags & FLOW_LOCAL ? f->peer : IPC_SLOT_NONE);
	STATS_SET(s->retransmits, n->retransmits);
	STATS_SET(s->bytes_retrans, n->bytes_retrans);
	STATS_SET(s->sent_ms, n->sent_ms);
	STATS_SET(s->received_ms, n->received_ms);
	STATS_SET(s->heard_ms, n->heard_ms);
}

void app_install(struct fast_thread *t, struct flow *f, const struct tcp_counts *n)
{
	uint32_t split = f->flags & FLOW_SPLIT;

	app_install_slot(thread_slot(t, f), f, n, split ? IPC_ST_TX_AWAY : 0);
	if (split)
		app_install_slot(thread_tx_slot(t, f), f, n, IPC_ST_RX_AWAY);
	app_info(t, f);
	app_status(t, f);
}

static void app_wake_one(struct fast_thread *t, struct app_view *a)
{
	while (a->wakes) {
		uint32_t c = (uint32_t)__builtin_ctzll(a->wakes);
		_Atomic uint32_t *armed = &a->a.shm->context[c].armed;

		a->wakes &= a->wakes - 1;
		/* pairs with the waiter's store, fence and look at the bell; bell_ring() came before */
		if (!atomic_load_explicit(armed, memory_order_seq_cst) || a->a.context_fd[c] < 0)
			continue;
		if (!atomic_exchange_explicit(armed, 0, memory_order_seq_cst))
			continue;
		waker_wake(&t->waker, a->a.context_fd[c]);
		thread_count(t, CNT_APP_WAKE, 1);
	}
}

void app_wake(struct fast_thread *t)
{
	for (uint32_t k = 0; k < FAST_APPS / 64; k++) {
		while (t->wakes[k]) {
			uint32_t i = k * 64 + (uint32_t)__builtin_ctzll(t->wakes[k]);

			t->wakes[k] &= t->wakes[k] - 1;
			if (t->apps[i].used)
				app_wake_one(t, &t->apps[i]);
		}
	}
}
