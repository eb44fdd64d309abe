/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A flow's state from what Linux had at its adoption, or from what it was before it moved
 * (struct flow_init). Fast thread, once per flow; pure. Invariants: see flow.h; all hold when this returns 0.
 */
#include "service/fast/flow.h"

#include <errno.h>
#include <string.h>

#include "service/base/clock.h"
#include "service/tcp/seq.h"

#define FLOW_WSCALE_MAX 14 /* RFC 7323 2.3 */
#define FLOW_MSS_MIN 64

static bool flow_size_ok(uint32_t size)
{
	return size >= 4096 && size <= 1u << 30 && (size & (size - 1)) == 0;
}

static bool flow_init_ok(const struct flow_init *i)
{
	return flow_size_ok(i->rx_size) && flow_size_ok(i->tx_size) && i->snd_una <= i->snd_nxt &&
	       i->snd_nxt <= i->snd_end && i->snd_end - i->snd_una <= i->tx_size && i->rcv_read <= i->rcv_end &&
	       i->rcv_end - i->rcv_read <= i->rx_size && i->mss && i->slot < IPC_SLOTS && i->app < FAST_APPS &&
	       (!i->split || (i->tx_slot < IPC_SLOTS && i->tx_app < FAST_APPS)) && i->snd_wscale <= FLOW_WSCALE_MAX &&
	       i->rcv_wscale <= FLOW_WSCALE_MAX && i->tx_free <= i->snd_una &&
	       (i->local || !(i->rx_region | i->tx_region));
}

static void flow_init_receive(struct flow *f, const struct flow_init *i)
{
	uint32_t room;
	int32_t wnd;

	f->rx_off = i->rx_off;
	f->rx_shift = (uint8_t)__builtin_ctz(i->rx_size);
	f->rcv_wscale = i->rcv_wscale;
	f->rcv_base = i->rcv_base;
	f->rcv_read = i->rcv_read;
	f->rcv_end = i->rcv_end;
	if (i->fin_rcvd)
		f->flags |= FLOW_FIN_RCVD;
	f->rcv_acked = flow_rcv_nxt(f);
	/*
	 * Linux's buffer may have been larger than ours. A promise that cannot be kept would only
	 * cost the peer its segments: the edge is cut once, here, and never moves left again. (Room is
	 * left for rounding up the window field.)
	 */
	wnd = (int32_t)(i->rcv_edge - f->rcv_acked);
	room = flow_rx_room(f) > flow_wnd_grain(f) ? flow_rx_room(f) - flow_wnd_grain(f) : 0;
	f->rcv_edge = f->rcv_end + MIN((uint32_t)MAX(wnd, 0), room);
	f->rcv_mss = 536;
	f->ooo = i->ooo;
	memcpy(f->ooo_piece, i->ooo_piece, sizeof f->ooo_piece);
	f->ts_recent = i->ts_recent;
}

static void flow_init_transmit(struct flow *f, const struct flow_init *i, uint32_t frame_size, uint32_t min_rto_us,
			       uint64_t now_ns)
{
	f->tx_off = i->tx_off;
	f->tx_shift = (uint8_t)__builtin_ctz(i->tx_size);
	f->snd_wscale = i->snd_wscale;
	f->snd_base = i->snd_base;
	f->snd_una = i->snd_una;
	f->snd_nxt = f->snd_max = i->snd_nxt;
	f->snd_end = i->snd_end;
	f->small_end = (uint32_t)i->snd_una;
	f->snd_wnd = f->max_wnd = i->snd_wnd;
	f->snd_wl1 = i->snd_wl1;
	f->mss = (uint16_t)MAX(MIN((uint32_t)i->mss, frame_size - WIRE_HDR_MAX), (uint32_t)FLOW_MSS_MIN);
	if (i->local) /* it is in no frame */
		f->mss = i->mss;
	f->cwnd = MAX(i->cwnd_bytes, (uint32_t)f->mss);
	f->ssthresh = UINT32_MAX;
	f->rate_bps = i->rate_bps;
	f->token_ns = now_ns;
	f->tokens = 2 * f->mss;
	f->opts = (uint16_t)i->opts;
	rtt_init(&f->rtt, i->srtt_us, i->rttvar_us, min_rto_us);
	if (i->closing)
		f->flags |= FLOW_CLOSING;
	if (i->fin_acked) {
		f->flags |= FLOW_FIN_ACKED;
		f->snd_una = f->snd_nxt = f->snd_max = i->snd_end + 1;
	}
	if (flow_in_flight(f))
		f->rto_ns = now_ns + f->rtt.rto_us * NS_PER_US;
}

int flow_init(struct flow *f, const struct flow_init *i, uint32_t frame_size, uint32_t min_rto_us, uint64_t now_ns)
{
	if (!flow_init_ok(i))
		return -EINVAL;
	memset(f, 0, sizeof *f);
	f->id = i->flow_id;
	f->app = (uint16_t)i->app;
	f->slot = (uint16_t)i->slot;
	f->context = i->context % IPC_CONTEXTS;
	f->tx_app = (uint16_t)i->tx_app;
	f->tx_slot = (uint16_t)i->tx_slot;
	f->tx_context = i->tx_context % IPC_CONTEXTS;
	f->tmpl = i->tmpl;
	f->flags = FLOW_USED | (i->ts ? FLOW_TS : 0) | (i->sack ? FLOW_SACK : 0) | (i->ecn ? FLOW_ECN : 0) |
		   (i->ecn && i->ect ? FLOW_ECT : 0) | (i->split ? FLOW_SPLIT : 0) | (i->local ? FLOW_LOCAL : 0) |
		   (i->local && i->tx_region ? FLOW_DIRECT : 0);
	f->peer = i->peer;
	f->rx_region = (uint16_t)i->rx_region;
	f->tx_region = (uint16_t)i->tx_region;
	f->tx_free = i->tx_free;
	f->ts_offset = i->ts_ms - (uint32_t)(now_ns / NS_PER_MS);
	f->ts_recent_s = (uint32_t)(now_ns / NS_PER_S);
	f->heard_ns = now_ns;
	f->rexmit_bytes = i->counts.bytes_retrans;
	f->rexmit_base = i->counts.retransmits;
	flow_init_receive(f, i);
	flow_init_transmit(f, i, frame_size, min_rto_us, now_ns);
	return 0;
}
