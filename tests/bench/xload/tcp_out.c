/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Building and sending segments, and the life of a connection but for what arrives. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>

#include "tests/bench/xload/xload.h"

/* ---- TCP output ---- */

static uint32_t csum_base; /* one's complement sum of the constant IP header words */
static struct pkt tmpl;

void tmpl_init(void)
{
	memcpy(tmpl.dmac, dstmac, 6);
	memcpy(tmpl.smac, mymac, 6);
	tmpl.etype = htons(0x0800);
	tmpl.vihl = 0x45;
	tmpl.frag = htons(0x4000);
	tmpl.ttl = 64;
	tmpl.proto = 6;
	tmpl.dst = htonl(C.dst);
	tmpl.dport = htons((uint16_t)C.port);
	csum_base = fold(sum(&tmpl.vihl, 20));
}

uint16_t tcp_pseudo(const struct pkt *p, uint32_t tcplen)
{
	return fold((uint64_t)p->src + p->dst + htons(6) + htons((uint16_t)tcplen));
}

/* Finish and queue the frame at p: optlen bytes of options, n bytes of payload with sum ps. */
static inline void tcp_finish(struct pkt *p, uint32_t optlen, uint32_t n, uint16_t ps)
{
	uint32_t tl = 20 + optlen + n;
	uint16_t pseudo;
	p->iplen = htons((uint16_t)(20 + tl));
	p->ipsum = (uint16_t)~fold((uint64_t)csum_base + p->iplen + p->src);
	p->doff = (uint8_t)((20 + optlen) << 2);
	pseudo = tcp_pseudo(p, tl);
	if (C.csum_off) { /* the kernel hands the frame on with CHECKSUM_PARTIAL, as from a NIC with offload */
		uint64_t *m = (uint64_t *)((uint8_t *)p - mdlen);
		m[0] = XL_TXMD_CHECKSUM;
		m[1] = 34 | 16 << 16; /* csum_start, csum_offset */
		p->sum = pseudo;
	} else {
		p->sum = 0;
		p->sum = (uint16_t)~fold((uint64_t)pseudo + sum(&p->sport, 20 + optlen) + ps);
	}
	tx_commit(14 + 20 + tl);
}

static inline uint32_t put_ts(uint8_t *o, uint32_t tsecr)
{
	uint32_t v[3] = {htonl(0x0101080a), htonl(ms), htonl(tsecr)};
	memcpy(o, v, 12);
	return 12;
}

static uint32_t syn_options(uint8_t *o)
{
	uint32_t n = 4;
	uint16_t mss = htons((uint16_t)C.mss);
	o[0] = 2;
	o[1] = 4;
	memcpy(o + 2, &mss, 2);
	if (C.ts) { /* [SACK-permitted or NOP NOP] timestamps */
		put_ts(o + 4, 0);
		if (C.sack) {
			o[4] = 4;
			o[5] = 2;
		}
		n = 16;
	} else if (C.sack) {
		memcpy(o + 4, "\1\1\4\2", 4);
		n = 8;
	}
	if (C.wscale >= 0) {
		o[n++] = 1;
		o[n++] = 3;
		o[n++] = 3;
		o[n++] = (uint8_t)C.wscale;
	}
	return n;
}

/* Copy stream bytes [off, off + n) of c to d; returns their checksum. */
static inline uint16_t payload(struct conn *c, uint64_t off, uint32_t n, uint8_t *d)
{
	if (C.mode == M_HTTP) { /* the request text again and again */
		uint32_t a = (uint32_t)(off % C.req), done = 0;
		while (done < n) {
			uint32_t k = MIN(n - done, C.req - a);
			memcpy(d + done, httpreq + a, k);
			done += k;
			a = 0;
		}
		return n && !(off % C.req) && n == C.req ? presum_of(hpre, 0, n) : fold(sum(d, n));
	}
	uint32_t a = (uint32_t)((off + c->shift) % PERIOD);
	memcpy(d, pat + a, n);
	return presum_of(pre, a, n);
}

/* Send one segment of c starting at stream offset off. False: no free frame. */
bool tcp_tx(struct conn *c, uint8_t flags, uint64_t off, uint32_t n)
{
	struct pkt *p = (struct pkt *)tx_frame();
	uint32_t ol = 0, wnd = C.window >> c->mysc;
	uint16_t ps = 0;
	if (unlikely(!p))
		return false;
	memcpy(p, &tmpl, sizeof tmpl);
	p->src = htonl(C.src_lo + c->ip);
	p->sport = htons(c->lport);
	p->seq = htonl(flags & SYN ? c->iss : c->iss + 1 + (uint32_t)off);
	p->ack = flags & ACK ? htonl(c->rcv_nxt) : 0;
	p->flags = flags;
	p->win = htons((uint16_t)MIN(wnd, 65535u));
	if (flags & SYN)
		ol = syn_options(p->opt);
	else if (c->ts)
		ol = put_ts(p->opt, c->ts_recent);
	if (n) {
		ps = payload(c, off, n, p->opt + ol);
		S.txbytes += n;
	}
	c->unacked = 0;
	tcp_finish(p, ol, n, ps);
	return true;
}

/* A segment that belongs to no connection: RST, or ACK of a retransmitted FIN. */
void tcp_tx_stray(const struct pkt *in, uint8_t flags, uint32_t seq, uint32_t ack)
{
	struct pkt *p = (struct pkt *)tx_frame();
	if (!p)
		return;
	memcpy(p, &tmpl, sizeof tmpl);
	p->src = in->dst;
	p->sport = in->dport;
	p->seq = htonl(seq);
	p->ack = htonl(ack);
	p->flags = flags;
	tcp_finish(p, 0, 0, 0);
}

void rto_arm(struct conn *c)
{
	uint32_t base = c->state == SYNSENT ? MAX(C.rto, 1000u) : C.rto;
	rto_at[c->id] = ms + (base << MIN(c->retries, 4));
}

void want_ack(struct conn *c)
{
	if (!c->in_ackq) {
		c->in_ackq = true;
		push(&ackq, c->id);
		c->ack_due = now + ticks(C.delack / 1e3);
	}
}
void ack_now(struct conn *c)
{
	c->unacked = 255;
	want_ack(c);
}

/* Send what window and application allow, then FIN if wanted. */
void conn_output(struct conn *c)
{
	while (c->nxt <= c->lim) {
		uint32_t win = MIN(c->wnd, c->cwnd), fly = (uint32_t)(c->nxt - c->una);
		uint64_t todo = c->lim - c->nxt;
		uint32_t n = (uint32_t)MIN(todo, (uint64_t)c->mss), room = win > fly ? win - fly : 0;
		if (n > room) {
			if (fly && room < c->mss) /* no silly small pieces while an ACK is due */
				break;
			n = room;
		}
		bool fin = c->want_fin && n == todo;
		if (!n && !fin)
			break;
		if (!tcp_tx(c, (uint8_t)(ACK | (n && n == todo ? PSH : 0) | (fin ? FIN : 0)), c->nxt, n)) {
			if (!c->in_outq) {
				c->in_outq = true;
				push(&outq, c->id);
			}
			break;
		}
		if (c->nxt < c->smax)
			S.rexmt++;
		c->nxt += n + fin;
		c->smax = MAX(c->smax, c->nxt);
	}
	if (!rto_at[c->id] && (c->una != c->smax || c->nxt < c->lim))
		rto_arm(c);
}

/* ---- connections ---- */

static void conn_release(struct conn *c)
{
	pmap[(uint32_t)c->ip << 16 | c->lport] = 0;
	if (c->state == SYNSENT)
		synsent--;
	c->state = CLOSED;
	rto_at[c->id] = 0;
	live--;
	if ((C.per_conn || C.reconnect) && !stopping)
		push(&openq, c->id);
}

void conn_fail(struct conn *c, uint64_t *why)
{
	(*why)++;
	if (!stopping)
		failed++;
	if (failed >= C.maxfail)
		intr = 1;
	conn_release(c);
}

void conn_done(struct conn *c)
{
	if (C.per_conn) {
		S.closed++;
		hist_add(&h_txn, ns_of(now - c->t_syn));
	}
	conn_release(c);
}

bool conn_open(struct conn *c)
{
	uint32_t slot, tries = 0, np = C.phi - C.plo + 1;
	do { /* next free (address, port) */
		if (tries++ > np * nips)
			return false;
		if (++cur_ip >= nips) {
			cur_ip = 0;
			if (++cur_port >= np)
				cur_port = 0;
		}
		slot = cur_ip << 16 | (C.plo + cur_port);
	} while (pmap[slot]);
	uint32_t id = c->id;
	bool aq = c->in_ackq, oq = c->in_outq, av = c->in_avail;
	char *hb = c->hbuf;
	memset(c, 0, sizeof *c);
	*c = (struct conn){.id = id, .in_ackq = aq, .in_outq = oq, .in_avail = av, .hbuf = hb};
	c->ip = (uint8_t)cur_ip;
	c->lport = (uint16_t)(C.plo + cur_port);
	c->iss = (uint32_t)((epoch + ns_of(now - tsc0)) >> 8); /* grows with time, across runs too */
	c->shift = (uint32_t)(serial++ * 977 % PERIOD);
	c->mss = 536;
	c->cwnd = 10 * (uint32_t)C.mss;
	c->ssthresh = C.cwnd_max;
	c->in_hdr = C.mode == M_HTTP;
	c->left = C.resp;
	c->t_syn = now;
	c->state = SYNSENT;
	synsent++;
	live++;
	S.opened++;
	pmap[slot] = id + 1;
	tcp_tx(c, SYN, 0, 0); /* if there is no frame the timer sends it */
	rto_arm(c);
	return true;
}

void conn_close(struct conn *c)
{
	if (c->want_fin)
		return;
	if (C.closeby == CL_RST || C.mode == M_RX) {
		tcp_tx(c, RST | ACK, c->smax, 0);
		conn_done(c);
		return;
	}
	c->lim = MAX(MIN(c->lim, c->smax), c->una);
	c->want_fin = true;
	conn_output(c);
}

void conn_timeout(struct conn *c)
{
	if (++c->retries > C.retries) {
		if (c->state == ESTAB)
			tcp_tx(c, RST | ACK, c->smax, 0);
		conn_fail(c, &S.timeouts);
		return;
	}
	if (c->state == SYNSENT) {
		S.rexmt++;
		S.rtos++;
		tcp_tx(c, SYN, 0, 0);
	} else if (c->una < c->smax) { /* go back to the first unacknowledged byte */
		S.rtos++;
		c->ssthresh = MAX((uint32_t)(c->smax - c->una) / 2, 2u * c->mss);
		c->cwnd = c->mss;
		c->nxt = c->una;
		c->dup = 0;
		c->recover = 0;
		conn_output(c);
	} else if (c->lim > c->nxt) { /* zero window: probe below the window, makes the peer answer */
		S.zerowin++;
		c->retries = MIN(c->retries, 5);
		tcp_tx(c, ACK, c->una - 1, 0);
	} else {
		rto_at[c->id] = 0;
		c->retries = 0;
		return;
	}
	rto_arm(c);
}
