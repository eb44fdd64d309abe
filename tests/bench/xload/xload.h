/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * xload: a TCP load generator that speaks TCP itself over one AF_XDP socket, so that a server
 * is loaded with as few client cycles as possible. One thread, one queue, no allocation on
 * the data path. See tests/bench/README.md.
 *
 *   main.c     command line, set-up, globals
 *   xsk.c      umem and rings: xsk_open, tx_frame, tx_commit, io_round
 *   tcp_out.c  tcp_tx builds every segment; connections open, close and time out
 *   tcp_in.c   handle() takes every frame: TCP input, ARP
 *   app.c      requests and responses: issue, app_data, complete
 *   run.c      the runs (TCP, SYNs, raw frames) and the report
 *
 * The byte stream of a connection is a fixed pattern with a prime period, so that nothing is
 * buffered: retransmission and verification both recompute it. All state is global: this is
 * one program with one job.
 */
#ifndef TESTS_BENCH_XLOAD_XLOAD_H
#define TESTS_BENCH_XLOAD_XLOAD_H

#include <net/if.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <x86intrin.h>

#include "tests/bench/hist.h"

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define RAWTYPE 0x88b5 /* local experimental ethertype: reflect and blast */
#define PERIOD 16381   /* prime, so that a server's power-of-two ring bug shows */
#define HBUF 8192      /* longest HTTP response header */
#define INF (UINT64_MAX / 2)
#define XL_TXMD_CHECKSUM (1 << 1) /* xsk_tx_metadata.flags */

enum { FIN = 1, SYN = 2, RST = 4, PSH = 8, ACK = 16 };
enum { CLOSED, SYNSENT, ESTAB };
enum { M_ECHO, M_CONN, M_HTTP, M_RX, M_TX, M_SYN, M_REFLECT, M_BLAST };
enum { CL_CLIENT, CL_SERVER, CL_RST };

struct pkt { /* Ethernet + IPv4 without options + TCP */
	uint8_t dmac[6], smac[6];
	uint16_t etype;
	uint8_t vihl, tos;
	uint16_t iplen, id, frag;
	uint8_t ttl, proto;
	uint16_t ipsum;
	uint32_t src, dst;
	uint16_t sport, dport;
	uint32_t seq, ack;
	uint8_t doff, flags;
	uint16_t win, sum, urg;
	uint8_t opt[];
} __attribute__((packed));

struct arp {
	uint8_t dmac[6], smac[6];
	uint16_t etype, htype, ptype;
	uint8_t hlen, plen;
	uint16_t op;
	uint8_t sha[6];
	uint32_t spa;
	uint8_t tha[6];
	uint32_t tpa;
} __attribute__((packed));

struct conn {
	uint64_t una, nxt, smax, lim; /* send stream offsets; smax: highest ever sent */
	uint64_t rxoff;               /* received stream offset */
	uint32_t iss, rcv_nxt, ts_recent, wnd, cwnd, ssthresh;
	uint32_t left, out, head; /* bytes left of this response; requests in flight; ring */
	uint32_t shift, reqs, id;
	uint64_t recover; /* end of loss recovery (fast retransmit) */
	uint64_t t_syn, ack_due;
	uint16_t mss, lport;
	uint8_t ip, state, wscale, mysc, dup, retries, unacked, ts; /* wscale: peer's shift, mysc: ours */
	bool want_fin, fin_rcvd, in_ackq, in_outq, in_avail, in_hdr, till_eof;
	char *hbuf;
	uint32_t hlen;
};

/* command line */
struct config {
	char *ifname;
	int queue, port, mode, cpu, mss, wscale, acks, retries, closeby;
	uint32_t src_lo, src_hi, dst, conns, req, resp, pipe, per_conn, window, rto, ring, maxfail;
	uint32_t ramp, cwnd_max, plo, phi, delack, budget, helper, helper_port;
	uint64_t total;
	double secs, warm, rate, drop_rx, drop_tx;
	bool have_mac, verify_all, noverify, block, zc, skb, ts, sack, poisson, json, napi, hclose;
	bool reconnect, csum_off;
	char *path, *host, *hdr;
	uint64_t seed;
};
extern struct config C;

struct stats {
	uint64_t reqs, opened, closed, txp, rxp, txb, rxb, rxbytes, txbytes;
	uint64_t rexmt, rtos, frexmt, resets, timeouts, refused, peerclose, ooo, dupacks, badcsum;
	uint64_t partcsum, okcsum, verified, mismatch, unexpected, httperr, zerowin, dropped, stray;
	uint64_t nobuf, txfail, lost, loops, polls, kicks, issued;
};
extern struct stats S, R; /* S counts, R is the copy at the end of the measured time */

extern uint64_t failed, mismatched;            /* over the whole run: exit status */
extern struct hist h_lat, h_hs, h_txn, h_idle; /* h_idle: duration of loops without work */
/* rings and frames */
struct ring {
	uint32_t *prod, *cons, *flags, mask, p, c;
	void *desc;
	void *map;
	size_t len;
};
extern struct ring rx, tx, fq, cq;
extern int xfd, hfd;
extern uint8_t *umem;
extern uint32_t fsz, mdlen, ntxfree;
extern uint64_t *txfree;
extern int ifindex, mtu;
extern uint8_t mymac[6], dstmac[6];
extern char xdpmode[16], sysold[2][32];
extern bool sysset;
/* connections */
extern struct conn *conns;
extern uint32_t *pmap, nips, *rto_at; /* pmap: (ip, port) -> conn + 1; rto_at: ms, 0 = off */
extern uint64_t *tsq;                 /* send times of the outstanding requests */
struct fifo {
	uint32_t *v, n, head, len;
};
extern struct fifo openq, outq, ackq, avail, startq;
extern uint32_t cur_ip, cur_port, synsent, live;
extern uint64_t serial;
extern uint8_t pat[PERIOD + 16384];
extern uint32_t pre[PERIOD + 16384 + 1];
extern char *httpreq;
extern uint32_t *hpre;
extern bool running, stopping;
extern volatile sig_atomic_t intr;
extern uint64_t now, tsc0, epoch; /* TSC now and at the start; CLOCK_MONOTONIC ns at the start */
extern uint32_t ms;               /* coarse clock: timers and TCP timestamps */
extern double tsc_ns;

#define MODES 8
extern const char *const modes[MODES];

static inline uint64_t ticks(double s)
{
	return (uint64_t)(s * 1e9 / tsc_ns);
}

static inline uint64_t ns_of(uint64_t t)
{
	return (uint64_t)((double)(int64_t)t * tsc_ns);
}

static inline uint64_t rnd(void) /* xorshift64* */
{
	C.seed ^= C.seed >> 12;
	C.seed ^= C.seed << 25;
	C.seed ^= C.seed >> 27;
	return C.seed * 0x2545f4914f6cdd1dULL;
}

static inline double rnd1(void)
{
	return (double)(rnd() >> 11) / 9007199254740992.0;
}

static inline void push(struct fifo *q, uint32_t v)
{
	uint32_t i = q->head + q->len++;
	q->v[i >= q->n ? i - q->n : i] = v;
}

static inline uint32_t pop(struct fifo *q)
{
	uint32_t v = q->v[q->head];
	q->head = q->head + 1 == q->n ? 0 : q->head + 1;
	q->len--;
	return v;
}

static inline uint16_t fold(uint64_t s)
{
	s = (s & 0xffffffff) + (s >> 32);
	s = (s & 0xffff) + (s >> 16 & 0xffff) + (s >> 32);
	s = (s & 0xffff) + (s >> 16);
	return (uint16_t)((s & 0xffff) + (s >> 16));
}

static inline uint64_t sum(const void *p, uint32_t n)
{
	const uint8_t *b = p;
	uint64_t s = 0;
	uint32_t w;
	for (; n >= 4; n -= 4, b += 4) {
		memcpy(&w, b, 4);
		s += w;
	}
	w = 0;
	memcpy(&w, b, n);
	return s + w;
}

static inline uint16_t presum_of(const uint32_t *p, uint32_t a, uint32_t n)
{
	uint16_t s = fold(p[a + n] - p[a]);
	return a & 1 ? __builtin_bswap16(s) : s;
}

/* xsk.c */
void xsk_open(void);
uint8_t *tx_frame(void);
void tx_commit(uint32_t len);
uint32_t io_round(uint64_t sleep_ns);
/* tcp_out.c */
void tmpl_init(void);
uint16_t tcp_pseudo(const struct pkt *p, uint32_t tcplen);
bool tcp_tx(struct conn *c, uint8_t flags, uint64_t off, uint32_t n);
void tcp_tx_stray(const struct pkt *in, uint8_t flags, uint32_t seq, uint32_t ack);
void rto_arm(struct conn *c);
void want_ack(struct conn *c);
void ack_now(struct conn *c);
void conn_output(struct conn *c);
void conn_fail(struct conn *c, uint64_t *why);
void conn_done(struct conn *c);
bool conn_open(struct conn *c);
void conn_close(struct conn *c);
void conn_timeout(struct conn *c);
/* tcp_in.c */
void handle(uint8_t *f, uint32_t len);
void arp_resolve(void);
/* app.c */
void issue(struct conn *c, uint64_t t);
void app_start(struct conn *c);
void app_established(struct conn *c);
bool complete(struct conn *c);
bool app_data(struct conn *c, const uint8_t *d, uint32_t n, bool check);
/* args.c */
void args(int argc, char **argv);
/* report.c */
void measure_start(void);
int measure_end(void); /* returns the number of cores */
void report(double secs, int ncpu);
/* run.c */
void run_tcp(void);
void run_syn(void);
void run_reflect(void);
void run_blast(void);
/* main.c */
__attribute__((noreturn, format(printf, 1, 2))) void die(const char *f, ...);
void *zalloc(size_t n);
/* Prefix sums give the checksum of any piece of a fixed text in constant time. */
void presum(uint32_t *out, const void *text, uint32_t n);

#endif
