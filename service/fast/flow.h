/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The state of a FAST flow. One writer, its fast thread; indices and offsets, never
 * pointers, in memory from a memfd. An in-order data segment and its ACK touch the first
 * two cache lines, a timer or a paced transmission the third, everything else lies behind.
 *
 * Positions are 64-bit stream offsets (0 at adoption); the wire's number of offset o is
 * base + (uint32_t)o. A FIN counts as the byte after the last: our FIN lies at snd_end, the
 * peer's, once received, at rcv_end. RFC 9293's variables:
 *
 *   SND.UNA = snd_base + snd_una      RCV.NXT = rcv_base + rcv_end (+ 1 with FLOW_FIN_RCVD)
 *   SND.NXT = snd_base + snd_max      RCV.WND = rcv_edge - rcv_end
 *
 * snd_nxt is what is sent next: it falls back to snd_una at a time-out, snd_max never does.
 *   snd_una <= snd_nxt <= snd_max <= snd_end + 1 <= snd_una + size of transmit buffer + 1
 *   rcv_read <= rcv_end <= rcv_edge
 */
#ifndef SERVICE_FAST_FLOW_H
#define SERVICE_FAST_FLOW_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "service/base/compiler.h"
#include "service/fast/fast.h"
#include "service/tcp/reasm.h"
#include "service/tcp/rtt.h"

enum flow_flag {
	/* what it is */
	FLOW_USED = 1u << 0,
	FLOW_TS = 1u << 1,   /* timestamps negotiated */
	FLOW_SACK = 1u << 2, /* SACK negotiated: our ACKs carry out-of-order intervals */
	FLOW_ECN = 1u << 3,  /* ECN negotiated */
	FLOW_ECT = 1u << 4,  /* send ECN-capable data; echo every CE exactly (DCTCP) */
	/* state */
	FLOW_MUTED = 1u << 5,       /* Linux lets nothing pass */
	FLOW_DEAD = 1u << 6,        /* failed or reset: everything is ignored until CMD_REMOVE */
	FLOW_FIN_RCVD = 1u << 7,    /* peer's FIN arrived in order */
	FLOW_CLOSING = 1u << 8,     /* our FIN follows snd_end */
	FLOW_FIN_ACKED = 1u << 9,   /* and was acknowledged */
	FLOW_ORPHAN = 1u << 10,     /* nobody will read: new data draws RST */
	FLOW_RECOVERY = 1u << 11,   /* fast recovery (RFC 6582), until snd_una reaches recover */
	FLOW_LOSS = 1u << 12,       /* after a time-out, until snd_una reaches recover */
	FLOW_PERSIST = 1u << 13,    /* the timer is the persist timer: peer's window is closed */
	FLOW_ECE = 1u << 14,        /* ACKs echo congestion */
	FLOW_DELACK = 1u << 15,     /* an ACK is owed, delayed */
	FLOW_SLOW_START = 1u << 16, /* limits allow cwnd to grow */
	FLOW_CORK_OVER = 1u << 17,  /* corked for 200 ms: the partial segment goes */
	FLOW_URGENT = 1u << 18,     /* urgent data came: this and later frames go up, the slow path gives it back */
	FLOW_TIMED = 1u << 19,      /* a segment is being timed for RTT */
	FLOW_KEEPALIVE = 1u << 20,  /* a keep-alive probe is unanswered */
	FLOW_SPLIT = 1u << 21,      /* one application receives (app, slot), another one sends (tx_app, tx_slot) */
	FLOW_LOCAL = 1u << 22,      /* the other end is flow `peer`: see local.c */
	FLOW_DIRECT = 1u << 23,     /* and its transmit buffer is in a region of both: tx_free counts */
	/* to be sent at the next turn of the transmitter */
	FLOW_ACK_NOW = 1u << 24,
	FLOW_REXMIT_NOW = 1u << 25, /* the segment at snd_una */
	FLOW_PROBE_NOW = 1u << 26,
	FLOW_RST_NOW = 1u << 27,
	FLOW_CWR_NOW = 1u << 28, /* with the next new data */
	FLOW_KEEP_NOW = 1u << 29,
};
#define FLOW_SEND_NOW (FLOW_ACK_NOW | FLOW_REXMIT_NOW | FLOW_PROBE_NOW | FLOW_RST_NOW | FLOW_KEEP_NOW)

#define FLOW_TIMER_OFF 0ull

struct flow {
	/* receive */
	cacheline_aligned uint64_t rcv_end;
	uint64_t rcv_read; /* the application has taken so much */
	uint64_t rcv_edge; /* right edge of the advertised window; never moves left */
	uint64_t rx_off;   /* receive buffer in the application's memory */
	uint32_t rcv_base;
	uint32_t rcv_acked; /* wire: Last.ACK.sent (RFC 7323 4.3) */
	uint32_t ts_recent;
	struct reasm ooo; /* its intervals: ooo_piece */
	uint32_t flags;
	uint16_t app, slot;
	uint16_t rcv_mss; /* largest payload seen: the peer's full-sized segment */
	uint8_t rx_shift, rcv_wscale;

	/* transmit */
	cacheline_aligned uint64_t snd_una;
	uint64_t snd_nxt;
	uint64_t snd_max;
	uint64_t snd_end; /* the application has written so much */
	uint64_t tx_off;  /* transmit buffer in the application's memory */
	uint32_t snd_base;
	uint32_t snd_wnd; /* bytes from snd_una on */
	uint32_t snd_wl1; /* wire sequence of the segment that set snd_wnd */
	uint32_t cwnd;
	uint16_t mss;
	uint8_t tx_shift, snd_wscale;
	uint8_t dupacks;
	uint8_t retries; /* time-outs in a row, or unanswered probes */
	uint16_t opts;   /* IPC_OPT_* */

	/* clocks: FLOW_TIMER_OFF or the time in ns */
	cacheline_aligned uint64_t rto_ns; /* retransmission or persist */
	uint64_t delack_ns;
	uint64_t send_ns;   /* cork or pacing: look again */
	uint64_t timed_ns;  /* when the timed segment left */
	uint32_t timed_end; /* low half of the offset that ends it */
	uint32_t recover;   /* low half of an offset (RFC 6582) */
	uint32_t ssthresh;  /* after a time-out, cwnd grows by itself to here */
	uint32_t ts_offset; /* TSval = milliseconds + this */
	struct rtt rtt;

	/* pacer */
	cacheline_aligned uint64_t rate_bps; /* bytes per second, 0: not paced */
	uint64_t token_ns;                   /* when tokens were last counted */
	int64_t tokens;                      /* bytes; may be negative by less than a segment */
	uint64_t wheel_tick;                 /* registered in the wheel at, 0: not */
	uint64_t active_ns;                  /* last told the slow path that it is active */
	uint32_t limits_gen;
	uint32_t max_wnd;     /* largest snd_wnd (RFC 5961 5) */
	uint32_t last_acked;  /* bytes by which snd_una moved last (RFC 6582 4.1) */
	uint32_t cwr_end;     /* low half: ECE is old news until this is acknowledged */
	uint32_t ts_recent_s; /* seconds: when ts_recent was set */
	uint32_t id;
	uint16_t ip_id;
	uint16_t up_pending; /* events that wait for room in the ring: bits 1 << enum fast_up */

	/* cold */
	uint64_t challenge_ns; /* last challenge ACK */
	uint64_t urgent_ns;    /* last told the slow path of urgent data */
	uint64_t silent_ns;    /* first time-out in a row, or probe of a closed window; 0: none */
	uint64_t keep_ns;      /* keep-alive: FLOW_TIMER_OFF or when to look */
	uint64_t heard_ns;     /* last answer to a keep-alive probe; else active_ns counts */
	uint8_t keep_probes;   /* unanswered */
	uint64_t rexmit_bytes; /* see tcp_counts */
	uint64_t cork_ns;      /* a partial segment has been held since */
	uint32_t error, context, tx_context;
	uint16_t tx_app, tx_slot;      /* valid with FLOW_SPLIT; see flow_tx_app() */
	uint32_t want;                 /* IPC_WANT_* */
	uint32_t peer;                 /* valid with FLOW_LOCAL */
	uint16_t rx_region, tx_region; /* FLOW_LOCAL: 0 or index + 1 in thread.regions */
	uint64_t tx_free;              /* FLOW_DIRECT: offset: what lies before may be overwritten */
	uint32_t rexmit_base;          /* segments sent again before it was installed */
	uint32_t small_end;            /* low half: end of the last segment that was shorter than mss */
	struct wire_template tmpl;
	struct reasm_piece ooo_piece[REASM_PIECES]; /* low halves of offsets */
};

static_assert(offsetof(struct flow, snd_una) == 64, "receive: one cache line");
static_assert(offsetof(struct flow, rto_ns) == 128, "transmit: one cache line");
static_assert(offsetof(struct flow, rate_bps) == 192, "clocks: one cache line");
static_assert(sizeof(struct flow) <= 512, "eight cache lines");

static inline uint32_t flow_rcv_nxt(const struct flow *f)
{
	return f->rcv_base + (uint32_t)f->rcv_end + ((f->flags & FLOW_FIN_RCVD) != 0);
}

/* Whose memory has the transmit buffer. */
static inline uint16_t flow_tx_app(const struct flow *f)
{
	return unlikely(f->flags & FLOW_SPLIT) ? f->tx_app : f->app;
}
static inline uint16_t flow_tx_slot(const struct flow *f)
{
	return unlikely(f->flags & FLOW_SPLIT) ? f->tx_slot : f->slot;
}

/* Offset: what of the transmit buffer lies before it the application may overwrite. */
static inline uint64_t flow_tx_free(const struct flow *f)
{
	uint64_t acked = f->snd_una < f->snd_end ? f->snd_una : f->snd_end;

	return unlikely(f->flags & FLOW_DIRECT) ? f->tx_free : acked;
}

static inline uint32_t flow_snd_una(const struct flow *f)
{
	return f->snd_base + (uint32_t)f->snd_una;
}
static inline uint32_t flow_snd_nxt(const struct flow *f)
{
	return f->snd_base + (uint32_t)f->snd_max;
}
static inline uint32_t flow_rx_size(const struct flow *f)
{
	return 1u << f->rx_shift;
}
static inline uint32_t flow_tx_size(const struct flow *f)
{
	return 1u << f->tx_shift;
}
static inline uint32_t flow_rx_room(const struct flow *f)
{
	return flow_rx_size(f) - (uint32_t)(f->rcv_end - f->rcv_read);
}
static inline uint32_t flow_in_flight(const struct flow *f)
{
	return (uint32_t)(f->snd_max - f->snd_una);
}
static inline uint32_t flow_ts_now(const struct flow *f, uint64_t now_ns)
{
	return (uint32_t)(now_ns / 1000000) + f->ts_offset;
}
/* Granularity of the window field, minus one: what rounding it up may add. */
static inline uint32_t flow_wnd_grain(const struct flow *f)
{
	return (1u << f->rcv_wscale) - 1;
}
/* Both FINs are done: the flow stays to acknowledge retransmitted FINs. */
static inline bool flow_time_wait(const struct flow *f)
{
	return (f->flags & (FLOW_FIN_RCVD | FLOW_FIN_ACKED)) == (FLOW_FIN_RCVD | FLOW_FIN_ACKED);
}

/*
 * Fill @f from @init. Returns 0, or -EINVAL if @init is impossible (sizes, offsets).
 * @frame_size: the port's, an upper bound for segments.
 */
int flow_init(struct flow *f, const struct flow_init *init, uint32_t frame_size, uint32_t min_rto_us, uint64_t now_ns);

#endif
