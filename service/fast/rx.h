/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a received segment means for a flow (RFC 9293 3.10.7.4, RFC 5961, RFC 7323): a
 * decision over the flow's state and the segment, with time as an argument. It changes the
 * flow and returns what is to be done; the thread does it. Nothing here touches payload,
 * shared memory or the NIC.
 */
#ifndef SERVICE_FAST_RX_H
#define SERVICE_FAST_RX_H

#include "service/base/counters.h"
#include "service/fast/flow.h"
#include "service/wire/parse.h"

enum rx_action {
	RX_STORE = 1u << 0,       /* copy store[] of the payload into the receive buffer */
	RX_ACK = 1u << 1,         /* acknowledge in this turn */
	RX_ACK_DUP = 1u << 2,     /* acknowledge this very segment, before the next is looked at */
	RX_CHALLENGE = 1u << 3,   /* acknowledge, but at most every 500 ms */
	RX_NOTIFY = 1u << 4,      /* the application has something to read: data or end of stream */
	RX_ACKED = 1u << 5,       /* snd_una has moved */
	RX_SEND = 1u << 6,        /* the transmitter may be able to go on */
	RX_FAST_REXMIT = 1u << 7, /* the segment at snd_una was lost */
	RX_UP_RARE = 1u << 8,     /* Linux judges this frame */
	RX_FIN_RCVD = 1u << 9,
	RX_FIN_ACKED = 1u << 10,
	RX_RESET = 1u << 11,  /* data for nobody: send RST, the flow is over */
	RX_URGENT = 1u << 12, /* urgent data: not taken, the connection goes back to Linux */
};

struct rx_store {
	uint64_t offset;    /* stream offset */
	uint32_t skip, len; /* part of the payload */
};

struct rx_result {
	uint32_t action;
	enum counter_id counter; /* what to count beside: a drop, a duplicate...; CNT_COUNT: nothing */
	uint32_t stores;
	struct rx_store store[REASM_STORES];
	uint32_t delivered; /* bytes by which rcv_end moved */
	uint32_t acked;     /* payload bytes by which snd_una moved */
	bool recovered;     /* the fast retransmit is the first of its loss event, for the counter */
	bool ece;           /* acked bytes echo congestion */
	bool rtt;           /* there is a new RTT estimate */
};

struct rx_env {
	uint64_t now_ns;
	uint32_t min_rto_us;
	uint64_t delack_ns;
};

/*
 * Process segment @s of flow @f, whose checksum is right. The flow is neither muted nor dead.
 */
void fast_rx(struct flow *f, const struct segment *s, const struct rx_env *env, struct rx_result *r);

/* The ACK field and the window (fifth step). Returns false if the segment must be dropped. */
bool fast_rx_ack(struct flow *f, const struct segment *s, const struct rx_env *env, struct rx_result *r);

/*
 * May the payload be copied to rcv_end while it is summed, before anything else is known?
 * Nothing that is stored already lies there, and it fits.
 */
static inline bool fast_rx_in_order(const struct flow *f, const struct segment *s)
{
	return s->len && s->seq == flow_rcv_nxt(f) && reasm_empty(&f->ooo) && s->len <= flow_rx_room(f) &&
	       !(f->flags & (FLOW_FIN_RCVD | FLOW_ORPHAN));
}

/* With exact echo (RFC 8257 3.2): must the ACK that is owed leave first, with the old ECE? */
static inline bool fast_rx_ce_changes(const struct flow *f, const struct segment *s)
{
	return (f->flags & (FLOW_ECT | FLOW_DELACK)) == (FLOW_ECT | FLOW_DELACK) && s->len &&
	       (s->ecn == 3) != ((f->flags & FLOW_ECE) != 0);
}

/* Is a challenge ACK due (RFC 5961 7, a limit per flow)? Counts as sent if true. */
bool fast_challenge_ok(struct flow *f, uint64_t now_ns);

#endif
