/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A frame from the wire: parse, find the flow, verify the checksum, let fast_rx() decide,
 * and do what it says. Fast thread; frames that were held come here by command and take the
 * same way. Invariants: nothing changes before the checksum is known to be right; payload
 * beyond rcv_end is not the application's until rcv_end is published.
 *
 * An in-order segment is copied into the receive buffer and summed in one pass, before it is
 * checked: what it may overwrite is free space that nothing refers to.
 */
#include <errno.h>
#include <string.h>

#include "service/base/clock.h"
#include "service/fast/thread.h"
#include "service/wire/csum.h"

#define INPUT_CHUNK 16 /* frames parsed and looked up before the first is processed */

struct input {
	const struct frame *frame;
	struct segment s;
	enum wire_kind kind;
	uint32_t flow;
};

static uint8_t *input_buffer(struct fast_thread *t, const struct flow *f)
{
	return t->apps[f->app].a.buf + f->rx_off;
}

/* Copy all of @s to rcv_end and tell whether its checksum is right. */
static bool input_copy_sum(struct fast_thread *t, struct flow *f, const struct segment *s)
{
	uint8_t *buf = input_buffer(t, f);
	uint32_t at = (uint32_t)f->rcv_end & (flow_rx_size(f) - 1), first = MIN(s->len, flow_rx_size(f) - at);
	uint64_t sum = segment_csum_head(s, false);

	if (likely(first == s->len))
		return csum_fold(csum_copy(sum, buf + at, s->payload, s->len)) == 0xffff;
	if (!segment_csum_ok(s, false))
		return false;
	memcpy(buf + at, s->payload, first);
	memcpy(buf, s->payload + first, s->len - first);
	return true;
}

static void input_store(struct fast_thread *t, struct flow *f, const struct segment *s, const struct rx_store *p)
{
	uint8_t *buf = input_buffer(t, f);
	uint32_t at = (uint32_t)p->offset & (flow_rx_size(f) - 1), first = MIN(p->len, flow_rx_size(f) - at);

	memcpy(buf + at, s->payload + p->skip, first);
	memcpy(buf, s->payload + p->skip + first, p->len - first);
}

/* Statistics of what the segment brought. */
static void input_count(struct fast_thread *t, struct flow *f, const struct rx_result *r)
{
	struct flow_stats *st = &t->stats[f->id];

	if (r->counter != CNT_COUNT)
		thread_count(t, r->counter, 1);
	if (r->delivered) {
		thread_count(t, CNT_RX_BYTES, r->delivered);
		STATS_ADD(st->rx_bytes, r->delivered);
	}
	if (r->acked) {
		thread_count(t, CNT_ACKED_BYTES, r->acked);
		STATS_ADD(st->acked_bytes, r->acked);
		if (r->ece)
			STATS_ADD(st->ecn_bytes, r->acked);
	}
	if (r->recovered) {
		thread_count(t, CNT_REXMIT_FAST, 1);
		STATS_ADD(st->fast_rexmits, 1);
	}
	if (r->rtt) {
		STATS_SET(st->srtt_us, f->rtt.srtt_us);
		STATS_SET(st->rttvar_us, f->rtt.rttvar_us);
		STATS_SET(st->min_rtt_us, f->rtt.min_us);
	}
}

/* Urgent data are Linux's, and what follows them: nothing of it is acknowledged here. */
static void input_urgent(struct fast_thread *t, struct flow *f, const struct frame *frame)
{
	if (f->urgent_ns && t->now_ns - f->urgent_ns < FAST_URGENT_NS) {
		thread_count(t, CNT_DROP_URGENT, 1);
		return;
	}
	if (!up_frame(t, UP_URGENT, f, frame->data, frame->len, false))
		return; /* the peer sends it again */
	thread_count(t, CNT_RX_URG, 1);
	f->urgent_ns = t->now_ns;
	f->flags |= FLOW_URGENT;
}

/* What goes to the slow path: frames that Linux judges, FINs. */
static void input_up(struct fast_thread *t, struct flow *f, const struct frame *frame, uint32_t action)
{
	if (action & RX_URGENT)
		input_urgent(t, f, frame);
	if (action & RX_UP_RARE)
		up_frame(t, UP_RARE, f, frame->data, frame->len, false);
	if (action & RX_FIN_RCVD)
		up_flow(t, f, UP_FIN_RCVD);
	if (action & RX_FIN_ACKED)
		up_flow(t, f, UP_FIN_ACKED);
	if (action & RX_RESET)
		flow_fail(t, f, ECONNRESET, true, true);
}

/* Do what fast_rx() decided. @stored: the payload lies in the buffer already. */
static void input_perform(struct fast_thread *t, struct flow *f, const struct input *in, const struct rx_result *r,
			  bool stored)
{
	if (r->action & RX_STORE && !stored)
		for (uint32_t i = 0; i < r->stores; i++)
			input_store(t, f, &in->s, &r->store[i]);
	input_count(t, f, r);
	if (r->action & RX_ACKED)
		app_acked(t, f);
	if (r->delivered)
		app_delivered(t, f);
	if (r->action & RX_FIN_RCVD)
		app_status(t, f);
	else if (r->action & RX_FIN_ACKED)
		app_fin_acked(t, f);
	if (r->action & RX_CHALLENGE && fast_challenge_ok(f, t->now_ns)) {
		thread_count(t, CNT_ACK_CHALLENGE, 1);
		tx_ack(t, f);
	}
	if (r->action & RX_ACK_DUP)
		tx_ack(t, f);
	else if (r->action & RX_ACK)
		f->flags |= FLOW_ACK_NOW;
	if (r->action & RX_FAST_REXMIT)
		f->flags |= FLOW_REXMIT_NOW;
	if (r->action & RX_SEND || f->flags & FLOW_SEND_NOW)
		flowset_add(&t->ready, f->id);
	input_up(t, f, in->frame, r->action);
}

static void input_segment(struct fast_thread *t, struct flow *f, const struct input *in)
{
	struct rx_env env = {t->now_ns, t->cfg->min_rto_ms * 1000, t->cfg->delack_ms * NS_PER_MS};
	const struct segment *s = &in->s;
	struct rx_result r;
	bool in_order;

	/* The application rings only when it matters: look at what it has read when room gets small. */
	if (s->len && flow_rx_room(f) < flow_rx_size(f) / 4 * 3)
		app_refresh(t, f);
	in_order = fast_rx_in_order(f, s);
	if (unlikely(in_order ? !input_copy_sum(t, f, s) : !segment_csum_ok(s, false))) {
		thread_count(t, CNT_DROP_CSUM, 1);
		return;
	}
	STATS_ADD(t->stats[f->id].segs_in, 1);
	STATS_ADD(t->stats[f->id].data_segs_in, s->len != 0);
	app_heard(t, f, s->len != 0);
	if (unlikely(f->flags & FLOW_KEEPALIVE)) {
		f->flags &= ~FLOW_KEEPALIVE;
		f->keep_probes = 0;
		f->heard_ns = t->now_ns;
	}
	if (unlikely(s->ecn == 3))
		thread_count(t, CNT_ECN_CE, 1);
	if (unlikely(fast_rx_ce_changes(f, s)) && s->seq == flow_rcv_nxt(f))
		tx_ack(t, f);
	fast_rx(f, s, &env, &r);
	input_perform(t, f, in, &r, in_order);
	if (s->len || r.acked)
		up_active(t, f);
	thread_stats(t, f);
	timer_arm(t, f);
}

static void input_one(struct fast_thread *t, const struct input *in)
{
	struct flow *f;

	if (in->kind == WIRE_BAD) {
		thread_count(t, CNT_DROP_PARSE, 1);
		return;
	}
	if (in->flow == FLOW_NONE) {
		up_frame(t, UP_NO_FLOW, NULL, in->frame->data, in->frame->len, false);
		return;
	}
	f = &t->flows[in->flow];
	/* what Linux sends from is what it would take; a switch may flood what is another host's */
	if (unlikely(memcmp(in->frame->data, f->tmpl.src_mac, sizeof f->tmpl.src_mac) != 0)) {
		thread_count(t, CNT_DROP_MAC, 1);
		return;
	}
	if (unlikely(t->capture))
		up_frame(t, UP_CAPTURE, f, in->frame->data, in->frame->len, false);
	if (f->flags & FLOW_DEAD)
		return;
	if (f->flags & FLOW_MUTED)
		thread_count(t, CNT_DROP_MUTED, 1);
	else if (unlikely(f->flags & FLOW_URGENT))
		up_frame(t, UP_NO_FLOW, NULL, in->frame->data, in->frame->len, false);
	else if (in->kind == WIRE_ICMP_ERROR)
		up_frame(t, UP_RARE, f, in->frame->data, in->frame->len, false);
	else
		input_segment(t, f, in);
}

static void input_look_up(struct fast_thread *t, const struct frame *frame, struct input *in)
{
	in->frame = frame;
	in->flow = FLOW_NONE;
	in->kind = wire_parse(frame->data, frame->len, false, &in->s);
	if (in->kind != WIRE_TCP && in->kind != WIRE_ICMP_ERROR)
		return;
	in->flow = flow_table_find(&t->table, &in->s.key);
	if (in->flow != FLOW_NONE) {
		__builtin_prefetch(&t->flows[in->flow].rcv_end, 1);
		__builtin_prefetch(&t->flows[in->flow].snd_una, 1);
		__builtin_prefetch(t->flows[in->flow].tmpl.src_mac);
	}
}

void input_frames(struct fast_thread *t, const struct frame *frames, uint32_t n)
{
	struct input in[INPUT_CHUNK];

	for (uint32_t base = 0; base < n; base += INPUT_CHUNK) {
		uint32_t chunk = MIN(n - base, (uint32_t)INPUT_CHUNK);

		for (uint32_t i = 0; i < chunk; i++)
			input_look_up(t, &frames[base + i], &in[i]);
		for (uint32_t i = 0; i < chunk; i++)
			input_one(t, &in[i]);
	}
}
