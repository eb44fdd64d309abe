/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The boundary with applications: their records come in (bell, one read, the check), our
 * positions and status go out (slot, bell, eventfd). First and last step of a turn. Fast
 * thread. Invariants: no word of shared memory is read twice for one decision; a slot counts
 * only if a flow of this thread is installed for it; a record that fails the check ends the
 * dealings with that application.
 */
#include <stdatomic.h>

#include "service/base/clock.h"
#include "service/fast/thread.h"

static void app_state(struct fast_thread *t, struct flow *f, enum ipc_state state);

/* The application took bytes: tell the peer, if the window was small and opens by enough to matter. */
static void app_window_opened(struct fast_thread *t, struct flow *f)
{
	uint32_t size = flow_rx_size(f), advertised = (uint32_t)(f->rcv_edge - f->rcv_end);

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
	if (read)
		app_window_opened(t, f);
}

/* Read the record, for the last time if @last, check it and act on it. */
static void app_read(struct fast_thread *t, struct flow *f, bool last)
{
	struct app_view *a = &t->apps[f->app];
	uint64_t acked = MIN(f->snd_una, f->snd_end);
	struct ipc_bounds cur = {
		.snd_end = f->snd_end,
		.rcv_read = f->rcv_read,
		.snd_acked = acked,
		.rcv_end = f->rcv_end,
		.tx_size = flow_tx_size(f),
		.tx_closed = f->flags & FLOW_CLOSING,
	};
	struct ipc_record rec;

	if (a->bad || f->flags & FLOW_DEAD)
		return;
	if (last)
		ipc_record_freeze(thread_slot(t, f), &rec);
	else
		ipc_record_read(thread_slot(t, f), &rec);
	/* A send() that ran while another thread closed is late, not hostile. */
	if (f->flags & FLOW_CLOSING && rec.snd_end > f->snd_end)
		rec.snd_end = f->snd_end;
	if (likely(ipc_record_check(&rec, &cur) == 0)) {
		app_take_over(t, f, &rec);
		return;
	}
	a->bad = true;
	thread_count(t, CNT_APP_BAD_RECORD, 1);
	up_app(t, a, UP_APP_BAD);
}

void app_refresh(struct fast_thread *t, struct flow *f)
{
	app_read(t, f, false);
}

bool app_freeze(struct fast_thread *t, struct flow *f)
{
	app_read(t, f, true);
	app_state(t, f, IPC_PAUSED);
	return !t->apps[f->app].bad;
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

/* Ring the slot's present context; its waiter is woken at the end of the turn. */
static void app_ring(struct fast_thread *t, struct flow *f)
{
	struct app_view *a = &t->apps[f->app];
	uint32_t context;

	/*
	 * Pairs with the fence of a thread that moves the slot to its own context and then looks
	 * at the slot again: it sees what was stored before, or we see its context.
	 */
	atomic_thread_fence(memory_order_seq_cst);
	context = atomic_load_explicit(&thread_slot(t, f)->context, memory_order_relaxed);
	f->context = context < IPC_CONTEXTS ? context : f->context;
	bell_ring(&a->a.shm->context[f->context].bell, f->slot);
	a->wakes |= 1ull << f->context;
	t->wakes[f->app / 64] |= 1ull << (f->app % 64);
}

static void app_state_store(struct fast_thread *t, struct flow *f, enum ipc_state state)
{
	struct ipc_slot *s = thread_slot(t, f);
	uint32_t status = state | (f->flags & FLOW_FIN_RCVD ? IPC_ST_FIN : 0) |
			  (f->flags & FLOW_DEAD ? IPC_ST_ERROR : 0) | (f->flags & FLOW_MUTED ? IPC_ST_MUTED : 0) |
			  (f->flags & FLOW_CLOSING ? IPC_ST_CLOSED_TX : 0) | (flow_time_wait(f) ? IPC_ST_OVER : 0);

	if (f->flags & FLOW_DEAD)
		atomic_store_explicit(&s->error, f->error, memory_order_relaxed);
	/* pairs with the application's acquire load: positions and error were stored before */
	atomic_store_explicit(&s->status, status, memory_order_release);
}

static void app_state(struct fast_thread *t, struct flow *f, enum ipc_state state)
{
	app_state_store(t, f, state);
	app_ring(t, f);
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
	app_ring(t, f);
}

void app_acked(struct fast_thread *t, struct flow *f)
{
	struct ipc_slot *s = thread_slot(t, f);
	uint64_t acked = MIN(f->snd_una, f->snd_end);
	uint32_t free = flow_tx_size(f) - (uint32_t)(f->snd_end - acked);

	/* pairs with the application's acquire load: the bytes have been read for the last time */
	atomic_store_explicit(&s->snd_acked, acked, memory_order_release);
	if (free < flow_tx_size(f) / 3)
		return;
	/* pairs with the fence between the application's store of `want` and its look at snd_acked */
	atomic_thread_fence(memory_order_seq_cst);
	if (!(atomic_load_explicit(&s->want, memory_order_relaxed) & IPC_WANT_SPACE))
		return;
	/* The application takes `want` back when it has seen the room; no memory of our own could know that in time. */
	app_ring(t, f);
}

void app_sent(struct fast_thread *t, struct flow *f)
{
	struct ipc_slot *s = thread_slot(t, f);
	uint64_t unsent = f->snd_end - MIN(f->snd_max, f->snd_end);

	if (2 * unsent >= atomic_load_explicit(&s->notsent_lowat, memory_order_relaxed))
		return;
	/* as in app_acked(): before it snd_sent was stored */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&s->want, memory_order_relaxed) & IPC_WANT_SPACE)
		app_ring(t, f);
}

void app_info(struct fast_thread *t, struct flow *f)
{
	struct ipc_slot *s = thread_slot(t, f);

	STATS_SET(s->srtt_us, f->rtt.srtt_us);
	STATS_SET(s->rttvar_us, f->rtt.rttvar_us);
	STATS_SET(s->rto_us, f->rtt.rto_us);
	STATS_SET(s->mss, f->mss);
	STATS_SET(s->cwnd_bytes, f->cwnd);
	STATS_SET(s->rate_kbps, (uint32_t)(f->rate_bps / 125));
	app_counts(t, f);
}

void app_counts(struct fast_thread *t, const struct flow *f)
{
	struct ipc_slot *s = thread_slot(t, f);
	const struct flow_stats *st = &t->stats[f->id];

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

void app_heard(struct fast_thread *t, const struct flow *f, bool data)
{
	struct ipc_slot *s = thread_slot(t, f);
	uint32_t now_ms = (uint32_t)(t->now_ns / NS_PER_MS);

	STATS_SET(s->heard_ms, now_ms);
	if (data)
		STATS_SET(s->received_ms, now_ms);
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
