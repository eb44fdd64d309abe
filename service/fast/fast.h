/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The fast path as the slow path sees it: threads, the commands that go down to them, the
 * frames and events that come up, and the three small structures they share per flow.
 *
 * A flow's TCP state (fast/flow.h) has one writer, its fast thread. The slow path installs
 * a flow by value, reads its statistics, writes its congestion limits, and asks for the
 * rest by command. Frames the fast path does not handle go up with a reason.
 */
#ifndef SERVICE_FAST_FAST_H
#define SERVICE_FAST_FAST_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "service/base/counters.h"
#include "service/base/hash.h"
#include "service/ipc/abi.h"
#include "service/ipc/recring.h"
#include "service/nic/nic.h"
#include "service/tcp/counts.h"
#include "service/tcp/reasm.h"
#include "service/wire/build.h"

/* ---- what is shared per flow ---- */

/* Written by the fast thread, read by the slow path: relaxed, for control and display. */
struct flow_stats {
	_Alignas(64) _Atomic uint64_t rx_bytes;
	_Atomic uint64_t tx_bytes, acked_bytes, ecn_bytes;
	_Atomic uint64_t last_rx_ns;
	_Atomic uint32_t fast_rexmits, timeouts, rexmit_segments;
	_Atomic uint32_t srtt_us, rttvar_us, min_rtt_us;
	_Alignas(64) _Atomic uint32_t in_flight;
	_Atomic uint32_t cwnd_bytes, snd_wnd, rcv_wnd;
	_Atomic uint32_t unsent; /* bytes the application has written that were not sent yet */
	_Atomic uint32_t muted;
	_Atomic uint32_t snd_una, snd_nxt, rcv_nxt;                      /* wire sequence numbers */
	_Atomic uint32_t segs_in, segs_out, data_segs_in, data_segs_out; /* see tcp_counts */
	_Atomic uint64_t limited_ns; /* when the network (cwnd, rate) last held back data; 0: never */
};

/* Written by the slow path, read by the fast thread when `gen` has changed. */
struct flow_limits {
	_Alignas(64) _Atomic uint32_t gen; /* stored last, release; pairs with the acquire load in the pacer */
	_Atomic uint32_t cwnd_bytes;
	_Atomic uint64_t rate_bps; /* bytes per second, 0: not paced */
	_Atomic uint32_t slow_start;
};

/* Everything the fast path needs to carry a flow (CMD_INSTALL). Copied. */
struct flow_init {
	uint32_t flow_id;
	uint32_t app, slot, context; /* context: initial; follows the slot's afterwards */
	bool split;                  /* these receive only; what is sent comes from */
	uint32_t tx_app, tx_slot, tx_context;
	bool local; /* the other end is flow @peer, installed in the same thread, too */
	uint32_t peer;
	/* of the buffers: 0: the applications' own memory, else index + 1 of CMD_REGION */
	uint32_t rx_region, tx_region;
	uint64_t tx_free;          /* with tx_region: as in struct flow */
	struct wire_template tmpl; /* key.local = us */
	/* sender: stream offset 0 is snd_base on the wire */
	uint32_t snd_base;
	uint64_t snd_una;          /* offset: the oldest unacknowledged byte; 0 at adoption */
	uint64_t snd_nxt;          /* offset: bytes [snd_una, snd_nxt) are in flight */
	uint64_t snd_end;          /* offset: bytes already in the transmit buffer */
	uint32_t snd_wnd, snd_wl1; /* bytes; wire sequence */
	uint32_t cwnd_bytes;
	uint64_t rate_bps;
	/* receiver: stream offset 0 is rcv_base on the wire */
	uint32_t rcv_base;
	uint64_t rcv_read;       /* offset: the application has taken the bytes before it; 0 at adoption */
	uint64_t rcv_end;        /* offset: bytes [rcv_read, rcv_end) are in the receive buffer */
	uint32_t rcv_edge;       /* wire: right edge of the window that was advertised */
	uint64_t rx_off, tx_off; /* in its application's buffer memfd, or the region */
	uint32_t rx_size, tx_size;
	uint16_t mss; /* payload bytes per segment, options deducted */
	uint8_t snd_wscale, rcv_wscale;
	bool ts, sack, ecn; /* negotiated by Linux */
	bool ect;           /* congestion control wants ECN-capable transport */
	bool fin_rcvd;      /* the peer's FIN follows rcv_end and was acknowledged */
	bool closing;       /* our FIN follows snd_end */
	bool fin_acked;     /* and was acknowledged */
	struct reasm ooo;   /* and out-of-order data beyond rcv_end, as in struct flow */
	struct reasm_piece ooo_piece[REASM_PIECES];
	uint32_t ts_recent; /* the peer's latest TSval */
	uint32_t ts_ms;     /* our TSval now: continues the socket's clock in milliseconds */
	uint32_t srtt_us, rttvar_us;
	uint32_t opts; /* IPC_OPT_* */
	struct tcp_counts counts;
};

/* An application's memory as mapped by the service. */
struct fast_app {
	uint32_t app; /* index */
	struct ipc_app *shm;
	uint8_t *buf;
	uint64_t buf_size;
	int context_fd[IPC_CONTEXTS]; /* eventfds; -1: none. Filled by CMD_CONTEXT */
	int doorbell_fd;              /* rung by the application: added to the thread's sleep set */
};

#define FAST_APPS 256
#define FAST_REGIONS 256

/* Memory of two applications, for local flows between them. */
struct fast_region {
	uint32_t index;
	uint8_t *buf;
	uint64_t size;
};

/* ---- down: slow path -> fast thread ---- */

enum fast_cmd {
	CMD_INSTALL,  /* struct flow_init */
	CMD_REMOVE,   /* struct cmd_flow: forget it; answered by UP_REMOVED after the last use of its memory */
	CMD_FREEZE,   /* struct cmd_flow: close the application's record and forget the flow; answered by UP_FROZEN,
			 or, if it is or thereby gets dead, by UP_FAILED alone */
	CMD_RX_FRAME, /* a frame that was held: process as if it had just arrived */
	CMD_TX_FRAME, /* a whole frame for the wire, as it is */
	CMD_MUTE,
	CMD_UNMUTE, /* struct cmd_flow: Linux's verdict. Muted: nothing in, nothing out, timers keep running */
	CMD_CLOSE,  /* struct cmd_flow: Linux closed the sending side: FIN after what the application has written */
	CMD_ORPHAN, /* struct cmd_flow: last close: as CMD_CLOSE, and unread or new data draws RST; slot is dead */
	CMD_ABORT,  /* struct cmd_flow, error: send RST on the wire, tell the application `error` */
	CMD_DEAD,   /* struct cmd_flow, error: tell the application, send nothing */
	CMD_ACK,    /* struct cmd_flow: send an ACK now (challenge) */
	CMD_STAY,   /* struct cmd_flow: after UP_URGENT: it cannot be given back now, its frames are the flow's again */
	CMD_TEMPLATE, /* struct cmd_template */
	CMD_PEER,     /* struct cmd_flow, value: the other end of a local flow, installed before */
	CMD_MSS,      /* struct cmd_flow, value: payload bytes per segment from now on */
	CMD_APP_ADD,  /* struct fast_app */
	CMD_APP_DEL,  /* struct cmd_app: no flow refers to it any more; answered by UP_APP_GONE */
	CMD_REGION,   /* struct fast_region: in place of an older one that no flow refers to */
	CMD_CONTEXT,  /* struct cmd_app: index, fd of a new context */
	CMD_CAPTURE,  /* struct cmd_flow, value: 1 on, 0 off */
};

struct cmd_flow {
	uint32_t flow_id, error, value;
};
struct cmd_app {
	uint32_t app, index;
	int fd;
};
struct cmd_template {
	uint32_t flow_id;
	struct wire_template tmpl;
};

/* ---- up: fast thread -> slow path ---- */

enum fast_up {
	UP_NO_FLOW, /* struct up_frame: not in the flow table: held (adopting), Linux's, or relayed */
	UP_RARE,    /* struct up_frame: of an installed flow, for Linux to judge: SYN, RST, ICMP error */
	UP_URGENT, /* struct up_frame: with urgent data, not acknowledged. It and the flow's later frames, which follow as
			 UP_NO_FLOW, are Linux's; answered by CMD_FREEZE or CMD_STAY */
	UP_CAPTURE,   /* struct up_frame */
	UP_FIN_RCVD,  /* struct up_flow: peer's FIN arrived in order and was acknowledged */
	UP_FIN_ACKED, /* struct up_flow: peer acknowledged our FIN */
	UP_FAILED,    /* struct up_flow, error: gave up (ETIMEDOUT) or RST was sent on our own account (ECONNRESET) */
	UP_REMOVED,   /* struct up_flow */
	UP_APP_GONE,  /* struct up_flow: `flow_id` is the app */
	UP_APP_BAD,   /* struct up_flow: `flow_id` is the app: record failed the check; disconnect it */
	UP_FROZEN,    /* struct up_frozen: what CMD_FREEZE asked for; the flow's memory is the slow path's */
};

struct up_frame {
	uint64_t time_ns;
	uint32_t flow_id; /* UINT32_MAX: none */
	uint32_t outgoing;
	uint32_t rcv_nxt, snd_una, snd_nxt; /* wire, at that moment: for translation into the shadow's space */
	uint32_t len;
	uint8_t data[]; /* the frame */
};
struct up_flow {
	uint32_t flow_id;
	uint32_t error;
	uint32_t rcv_nxt, snd_nxt;
};

/*
 * A flow as it stood when it was frozen. Offsets are of its streams; snd_una and snd_nxt do
 * not count our FIN. Bytes [rcv_read, rcv_end) are in the receive buffer, [snd_una, snd_end)
 * in the transmit buffer, of which those before snd_nxt were sent.
 */
struct up_frozen {
	uint32_t flow_id;
	bool fin_rcvd, closing, fin_sent, fin_acked;
	uint64_t snd_una, snd_nxt, snd_end, tx_free;
	uint64_t rcv_read, rcv_end;
	uint32_t snd_base, rcv_base; /* wire numbers of offset 0 */
	uint32_t rcv_wnd;            /* bytes from rcv_end on that the peer may send */
	uint32_t snd_wnd, max_wnd, snd_wl1;
	struct reasm ooo; /* out-of-order data, in the receive buffer, too */
	struct reasm_piece ooo_piece[REASM_PIECES];
	uint32_t ts_recent, ts_now, srtt_us, rttvar_us, cwnd_bytes, opts;
	uint64_t rate_bps;
	uint16_t mss;
	struct tcp_counts counts;
};

/* ---- threads ---- */

struct fast_config {
	uint32_t max_flows;
	uint32_t spin_us; /* look again for this long, yielding the core, before sleeping; 0: sleep at once */
	uint32_t min_rto_ms, delack_ms;
	uint32_t max_retries; /* retransmissions before ETIMEDOUT (tcp_retries2) */
	struct hash_key hash;
};

struct fast; /* all threads and the flow arrays */

/* @page: writable mapping of the service's page. One thread per port of @nic. Returns 0 or -errno. */
int fast_open(const struct fast_config *cfg, struct nic *nic, struct ipc_page *page, struct fast **out);
int fast_start(struct fast *f); /* starts the threads, all signals blocked */
void fast_stop(struct fast *f); /* stops and joins */
void fast_close(struct fast *f);

uint32_t fast_threads(const struct fast *f);
struct recring *fast_down(struct fast *f, uint32_t thread); /* slow path produces */
struct recring *fast_up(struct fast *f, uint32_t thread);   /* slow path consumes */
/* After recring_commit() on `down`: wake the thread if it sleeps. */
void fast_kick(struct fast *f, uint32_t thread);
/*
 * eventfd written by fast threads when there is something in `up` or a flow became active
 * and the slow path sleeps. fast_slow_sleeps() arms it: returns false if there is work already.
 */
int fast_up_fd(const struct fast *f);
bool fast_slow_sleeps(struct fast *f);
void fast_slow_awake(struct fast *f);
/* Bell of flows that had traffic since it was last taken: what the control loop looks at. */
struct bell *fast_active(struct fast *f);

struct flow_stats *fast_stats(struct fast *f, uint32_t flow_id);
struct flow_limits *fast_limits(struct fast *f, uint32_t flow_id);
const struct counters *fast_counters(const struct fast *f, uint32_t thread);
/* Monotonic time of the thread's last turn: a stuck thread stops the watchdog. */
uint64_t fast_last_turn_ns(const struct fast *f, uint32_t thread);
bool fast_is_asleep(const struct fast *f, uint32_t thread);

#endif
