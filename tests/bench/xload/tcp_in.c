/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What arrives: TCP segments, ARP. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <time.h>

#include "tests/bench/xload/xload.h"

/* ---- TCP input ---- */

static void on_ack(struct conn *c, uint32_t ack, uint32_t wnd, bool pure)
{
	uint64_t adv = (uint32_t)(ack - (c->iss + 1) - (uint32_t)c->una);
	if (adv && adv <= c->smax - c->una) {
		c->una += adv;
		c->nxt = MAX(c->nxt, c->una);
		c->retries = 0;
		c->dup = 0;
		if (C.mode == M_TX)
			S.reqs += adv;     /* tx mode counts acknowledged bytes */
		if (c->una < c->recover) { /* partial ACK: the next hole */
			uint32_t n = (uint32_t)MIN(c->lim - c->una, (uint64_t)c->mss);
			S.rexmt++;
			if (c->una < c->lim)
				tcp_tx(c, ACK, c->una, n);
		} else
			c->cwnd = MIN(c->cwnd + (c->cwnd < c->ssthresh ? (uint32_t)adv
								       : MAX(c->mss * c->mss / c->cwnd, 1u)),
				      C.cwnd_max);
		rto_at[c->id] = 0;
		if (c->una != c->smax)
			rto_arm(c);
	} else if (!adv && pure && c->una != c->smax && wnd == c->wnd) {
		S.dupacks++;
		if (++c->dup == 3 && c->una >= c->recover && c->una < c->lim) {
			S.frexmt++;
			S.rexmt++;
			c->recover = c->smax;
			c->ssthresh = c->cwnd = MAX((uint32_t)(c->smax - c->una) / 2, 2u * c->mss);
			tcp_tx(c, ACK, c->una, (uint32_t)MIN(c->lim - c->una, (uint64_t)c->mss));
			rto_arm(c);
		}
	}
	c->wnd = wnd;
}

struct opts {
	bool ts;
	uint32_t val, ecr;
	int ws, mss;
};

static inline void parse_options(const uint8_t *o, uint32_t n, struct opts *x)
{
	uint32_t w;
	*x = (struct opts){.ws = -1, .mss = 536};
	if (n == 12 && (memcpy(&w, o, 4), w == htonl(0x0101080a))) {
		memcpy(&w, o + 4, 4);
		x->val = ntohl(w);
		x->ts = true;
		return;
	}
	for (uint32_t i = 0; i < n && o[i];) {
		if (o[i] == 1) {
			i++;
			continue;
		}
		if (i + 1 >= n || o[i + 1] < 2 || i + o[i + 1] > n)
			return;
		if (o[i] == 2 && o[i + 1] == 4)
			x->mss = o[i + 2] << 8 | o[i + 3];
		else if (o[i] == 3 && o[i + 1] == 3)
			x->ws = MIN(o[i + 2], 14);
		else if (o[i] == 8 && o[i + 1] == 10) {
			memcpy(&w, o + i + 2, 4);
			x->val = ntohl(w);
			x->ts = true;
		}
		i += o[i + 1];
	}
}

/* Checksum of a received segment: full, or (a veth neighbour with checksum offload) only
 * the sum of the pseudo header. */
static bool csum_ok(const struct pkt *p, uint32_t tl)
{
	uint16_t ph = tcp_pseudo(p, tl);
	if (p->sum == ph) {
		S.partcsum++;
		return true;
	}
	if (fold(sum(&p->sport, tl) + ph) == 0xffff) {
		S.okcsum++;
		return true;
	}
	return false;
}

/* A segment of ours that has been looked at. */
struct seg {
	struct pkt *p;
	uint32_t seq, ack, n; /* bytes of data */
	const uint8_t *d;
	bool check; /* its bytes are compared */
	struct opts o;
};

/* Of no connection. */
static void input_stray(const struct seg *s)
{
	S.stray++;
	if (s->p->flags & FIN) /* our last ACK was lost: as TIME_WAIT would do */
		tcp_tx_stray(s->p, ACK, s->ack, s->seq + s->n + 1);
	else if (!(s->p->flags & RST) && s->n)
		tcp_tx_stray(s->p, RST, s->ack, 0);
}

static void input_synsent(struct conn *c, const struct seg *s)
{
	const struct pkt *p = s->p;

	if ((p->flags & ACK) && s->ack != c->iss + 1) {
		if (!(p->flags & RST)) { /* remains of an older connection: reset it, try again */
			tcp_tx_stray(p, RST, s->ack, 0);
			rto_at[c->id] = ms;
		}
	} else if (p->flags & RST) {
		conn_fail(c, &S.refused);
	} else if ((p->flags & (SYN | ACK)) == (SYN | ACK)) {
		c->rcv_nxt = s->seq + 1;
		c->ts = s->o.ts && C.ts;
		c->ts_recent = s->o.val;
		c->wscale = (uint8_t)(s->o.ws < 0 || C.wscale < 0 ? 0 : s->o.ws);
		c->mysc = (uint8_t)(s->o.ws < 0 || C.wscale < 0 ? 0 : C.wscale);
		c->mss = (uint16_t)(MIN(s->o.mss, C.mss) - (c->ts ? 12 : 0));
		c->wnd = ntohs(p->win);
		c->state = ESTAB;
		c->retries = 0;
		rto_at[c->id] = 0;
		synsent--;
		app_established(c);
	}
}

/* RST, SYN, PAWS; false: that was all. @ahead: bytes that are missing before it. */
static bool input_acceptable(struct conn *c, const struct seg *s, int32_t ahead)
{
	if (unlikely(s->p->flags & RST)) {
		if (ahead >= 0 && (uint32_t)ahead <= C.window)
			conn_fail(c, &S.resets);
		return false;
	}
	if (unlikely(s->p->flags & SYN)) { /* our ACK of the SYN-ACK was lost */
		ack_now(c);
		return false;
	}
	if (s->o.ts && c->ts) {
		if (unlikely((int32_t)(s->o.val - c->ts_recent) < 0)) { /* PAWS */
			ack_now(c);
			return false;
		}
		if (ahead <= 0)
			c->ts_recent = s->o.val;
	}
	return true;
}

/* It begins with @cut bytes that we have; false: nothing of it is new but the ACK. */
static bool input_cut(struct conn *c, struct seg *s, uint32_t cut)
{
	ack_now(c);
	if (cut > s->n || (cut == s->n && !(s->p->flags & FIN))) {
		if (s->p->flags & ACK)
			on_ack(c, s->ack, (uint32_t)ntohs(s->p->win) << c->wscale, false);
		return false;
	}
	s->d += cut;
	s->n -= cut;
	return true;
}

static void input_fin(struct conn *c)
{
	c->rcv_nxt++;
	c->fin_rcvd = true;
	if (c->till_eof) { /* HTTP body that ends with the connection */
		c->till_eof = false;
		complete(c);
	}
	if (!c->want_fin) {
		if (!(C.per_conn && c->reqs >= C.per_conn) && !stopping) {
			S.peerclose++; /* the server closed and we did not expect it */
			failed++;
		}
		c->lim = MIN(c->lim, c->smax);
		c->want_fin = true;
		conn_output(c);
	}
	ack_now(c);
}

/* What comes next in order; false: the connection has ended. */
static bool input_in_order(struct conn *c, const struct seg *s)
{
	if (likely(s->p->flags & ACK))
		on_ack(c, s->ack, (uint32_t)ntohs(s->p->win) << c->wscale, !s->n && !(s->p->flags & FIN));
	if (s->n) {
		bool alive;

		c->rcv_nxt += s->n;
		if (c->unacked < 254)
			c->unacked++;
		want_ack(c);
		alive = app_data(c, s->d, s->n, s->check);
		c->rxoff += s->n;
		if (!alive)
			return false;
		if (C.acks && c->unacked >= C.acks && c->unacked < 255)
			tcp_tx(c, ACK, c->smax, 0);
	}
	if (unlikely(s->p->flags & FIN))
		input_fin(c);
	return true;
}

static void input_conn(struct conn *c, struct seg *s)
{
	int32_t ahead = (int32_t)(s->seq - c->rcv_nxt);

	if (!input_acceptable(c, s, ahead))
		return;
	if (unlikely(ahead > 0)) { /* a hole before it: drop, duplicate ACK */
		S.ooo++;
		tcp_tx(c, ACK, c->smax, 0);
		return;
	}
	if ((likely(!ahead) || input_cut(c, s, (uint32_t)-ahead)) && !input_in_order(c, s))
		return;
	if (unlikely(c->fin_rcvd && c->una > c->lim)) { /* both directions are done */
		if (c->unacked)
			tcp_tx(c, ACK, c->smax, 0);
		conn_done(c);
	} else if (c->nxt < c->lim || (c->want_fin && c->nxt == c->lim)) {
		conn_output(c);
	}
}

static void tcp_input(struct pkt *p, uint32_t len)
{
	uint32_t iplen = ntohs(p->iplen), hl = (uint32_t)(p->doff >> 4) * 4, ipi = ntohl(p->dst) - C.src_lo, idx;
	struct seg s = {.p = p, .check = C.verify_all || !(S.rxp & 15)};

	if (unlikely(p->vihl != 0x45 || p->proto != 6 || iplen + 14 > len || iplen < 20 + hl || hl < 20 ||
		     ipi >= nips || p->src != htonl(C.dst) || p->sport != htons((uint16_t)C.port)))
		return;
	if (s.check && !csum_ok(p, iplen - 20)) {
		S.badcsum++;
		mismatched++;
		return;
	}
	s.n = iplen - 20 - hl;
	s.seq = ntohl(p->seq);
	s.ack = ntohl(p->ack);
	s.d = (uint8_t *)&p->sport + hl;
	idx = pmap[ipi << 16 | ntohs(p->dport)];
	if (unlikely(C.mode == M_SYN)) {
		S.reqs += (p->flags & (SYN | ACK)) == (SYN | ACK);
		S.refused += (p->flags & RST) != 0;
		return;
	}
	if (unlikely(!idx)) {
		input_stray(&s);
		return;
	}
	parse_options(p->opt, hl - 20, &s.o);
	if (unlikely(conns[idx - 1].state == SYNSENT))
		input_synsent(&conns[idx - 1], &s);
	else
		input_conn(&conns[idx - 1], &s);
}

/* ---- frames: ARP and dispatch ---- */

static void arp_tx(uint16_t op, const uint8_t *to, uint32_t spa, uint32_t tpa)
{
	struct arp *a = (struct arp *)tx_frame();
	if (!a)
		return;
	if (mdlen)
		memset((uint8_t *)a - mdlen, 0, mdlen);
	memset(a->dmac, 0xff, 6);
	memset(a->tha, 0, 6);
	if (to) {
		memcpy(a->dmac, to, 6);
		memcpy(a->tha, to, 6);
	}
	memcpy(a->smac, mymac, 6);
	memcpy(a->sha, mymac, 6);
	a->etype = htons(0x0806);
	a->htype = htons(1);
	a->ptype = htons(0x0800);
	a->hlen = 6;
	a->plen = 4;
	a->op = htons(op);
	a->spa = htonl(spa);
	a->tpa = htonl(tpa);
	tx_commit(sizeof *a);
}

void handle(uint8_t *f, uint32_t len)
{
	struct pkt *p = (struct pkt *)f;
	struct arp *a = (struct arp *)f;
	now = __rdtsc();
	if (C.mode == M_BLAST) {
		uint64_t t;
		memcpy(&t, f + 16, 8);
		hist_add(&h_lat, now > t ? ns_of(now - t) : 0);
		S.reqs++;
	} else if (likely(p->etype == htons(0x0800) && len >= sizeof *p)) {
		tcp_input(p, len);
	} else if (p->etype == htons(0x0806) && len >= sizeof *a && ntohl(a->tpa) - C.src_lo < nips) {
		if (a->op == htons(1)) /* who has one of our addresses? */
			arp_tx(2, a->sha, ntohl(a->tpa), ntohl(a->spa));
		else if (a->op == htons(2) && ntohl(a->spa) == C.dst && !C.have_mac) {
			memcpy(dstmac, a->sha, 6);
			C.have_mac = true;
		}
	}
}

void arp_resolve(void)
{
	for (int i = 0; i < 20 && !C.have_mac && !intr; i++) {
		arp_tx(1, NULL, C.src_lo, C.dst);
		for (uint64_t end = __rdtsc() + ticks(0.1); !C.have_mac && __rdtsc() < end;)
			io_round(10000000);
	}
	if (!C.have_mac)
		die("no ARP reply for the server's address");
}
