/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The runs: connections in phases, and the raw ones. */
#include <arpa/inet.h>
#include <linux/if_xdp.h>
#include <math.h>
#include <stdio.h>

#include "tests/bench/xload/xload.h"

static void flush_acks(void)
{
	for (uint32_t n = ackq.len; n--;) {
		struct conn *c = &conns[pop(&ackq)];
		bool later = C.delack && c->unacked < 2 && now < c->ack_due;
		c->in_ackq = false;
		if (c->state == ESTAB && c->unacked && (later || !tcp_tx(c, ACK, c->smax, 0))) {
			c->in_ackq = true;
			push(&ackq, c->id);
		}
	}
}

static double arrival(void)
{
	return (C.poisson ? -log(1 - rnd1()) : 1) / C.rate;
}

/* ---- connections: one round of everything that waits ---- */

static void open_some(void)
{
	for (uint32_t k = 0; openq.len && synsent < C.ramp && !stopping && k < 64; k++) {
		uint32_t id = pop(&openq);

		if (!conn_open(&conns[id])) {
			push(&openq, id);
			return;
		}
	}
}

static void start_some(void)
{
	for (uint32_t k = 0; startq.len && k < 16; k++) {
		struct conn *c = &conns[pop(&startq)];

		if (c->state == ESTAB)
			app_start(c);
	}
}

/* Open loop: issue the requests that are due on connections that have room. */
static void issue_due(double *next)
{
	for (uint32_t k = 0; (double)now >= *next && avail.len && k < 64; k++) {
		struct conn *c = &conns[pop(&avail)];

		c->in_avail = false;
		if (c->state != ESTAB || c->want_fin)
			continue;
		issue(c, (uint64_t)*next);
		*next += arrival() * 1e9 / tsc_ns;
		if (c->out < C.pipe) {
			c->in_avail = true;
			push(&avail, c->id);
		}
		conn_output(c);
	}
}

static void output_all(void)
{
	for (uint32_t k = outq.len; k--;) {
		struct conn *c = &conns[pop(&outq)];

		c->in_outq = false;
		if (c->state == ESTAB)
			conn_output(c);
	}
}

static void timers(uint32_t *tick)
{
	if (ms - *tick < 5)
		return;
	*tick = ms;
	for (uint32_t i = 0; i < C.conns; i++)
		if (rto_at[i] && (int32_t)(ms - rto_at[i]) >= 0)
			conn_timeout(&conns[i]);
}

/* ---- a run over TCP, in phases ---- */

struct tcp_run {
	enum { CONNECT, WARM, MEASURE, CLOSE, DONE } phase;
	uint64_t t_next, t_start; /* when the phase ends; when measuring began */
	double next;              /* open loop: the next arrival */
	double secs, behind;
	int ncpu;
};

static void run_round(struct tcp_run *r, uint32_t *tick)
{
	uint64_t t0 = now, sleep = 1000000;
	uint32_t work;

	if (C.rate > 0 && r->phase != CONNECT)
		sleep = r->next > (double)now ? ns_of((uint64_t)r->next - now) : 0;
	work = io_round(outq.len || openq.len || startq.len ? 0 : sleep);
	open_some();
	start_some();
	if (C.rate > 0 && running && !stopping)
		issue_due(&r->next);
	output_all();
	flush_acks();
	timers(tick);
	S.loops++;
	if (!work && tx.p == tx.c)
		hist_add(&h_idle, ns_of(now - t0));
}

static void phase_warm(struct tcp_run *r)
{
	failed += openq.len + synsent;
	running = true;
	for (uint32_t i = 0; i < C.conns; i++)
		if (conns[i].state == ESTAB)
			push(&startq, i);
	r->next = (double)now;
	r->t_next = now + ticks(C.warm);
	r->phase = WARM;
}

static void phase_measure(struct tcp_run *r)
{
	measure_start();
	now = __rdtsc();
	r->next = (double)now;
	r->t_start = now;
	r->t_next = now + ticks(C.secs);
	r->phase = MEASURE;
}

static void phase_close(struct tcp_run *r)
{
	if (r->phase != MEASURE) { /* interrupted early */
		measure_start();
		r->t_start = now - 1;
	}
	r->secs = (double)(now - r->t_start) * tsc_ns / 1e9;
	if (C.rate > 0 && (double)now > r->next)
		r->behind = ((double)now - r->next) * tsc_ns / 1e9 * C.rate;
	r->ncpu = measure_end();
	stopping = true;
	for (uint32_t i = 0; i < C.conns; i++)
		if (conns[i].state == ESTAB)
			conn_close(&conns[i]);
	now = __rdtsc();
	r->t_next = now + ticks(2);
	r->phase = CLOSE;
}

static void phase_done(struct tcp_run *r)
{
	for (uint32_t i = 0; i < C.conns; i++)
		if (conns[i].state != CLOSED)
			tcp_tx(&conns[i], RST | ACK, conns[i].smax, 0);
	io_round(0);
	r->phase = DONE;
}

static void phase_next(struct tcp_run *r)
{
	bool over;

	if (r->phase == CONNECT && ((!openq.len && !synsent) || now >= r->t_next))
		phase_warm(r);
	if (r->phase == WARM && now >= r->t_next)
		phase_measure(r);
	over = intr || (r->phase >= WARM && !live && !openq.len) ||
	       (r->phase == MEASURE && (now >= r->t_next || (C.total && S.reqs >= C.total)));
	if (r->phase < CLOSE && over)
		phase_close(r);
	if (r->phase == CLOSE && (!live || now >= r->t_next))
		phase_done(r);
}

void run_tcp(void)
{
	struct tcp_run r = {.phase = CONNECT};
	uint32_t tick = ms;

	now = __rdtsc();
	r.t_start = now;
	r.t_next = now + ticks(10 + C.conns / 1000.0);
	running = C.per_conn != 0;
	if (running) {
		r.phase = WARM;
		r.t_next = now + ticks(C.warm);
	}
	while (r.phase != DONE) {
		run_round(&r, &tick);
		phase_next(&r);
	}
	if (r.behind >= 1)
		fprintf(stderr, "xload: %.0f arrivals were due but not yet sent at the end (rate not reached)\n",
			r.behind);
	report(r.secs, r.ncpu);
}

/* ---- runs without connections ---- */

/* SYNs at a bounded rate and number, none is completed: a test of our own server only. */
void run_syn(void)
{
	double next;
	uint64_t sent = 0, end, t0;
	measure_start();
	now = t0 = __rdtsc();
	next = (double)now;
	end = now + ticks(C.secs);
	while (!intr && now < end && sent < C.total) {
		io_round(100000);
		for (int k = 0; k < 64 && (double)now >= next && sent < C.total; k++) {
			struct conn c = {.iss = (uint32_t)rnd(), .ip = (uint8_t)(sent % nips)};
			c.lport = (uint16_t)(C.plo + sent / nips % (C.phi - C.plo + 1));
			if (!tcp_tx(&c, SYN, 0, 0))
				break;
			sent++;
			next += arrival() * 1e9 / tsc_ns;
		}
	}
	S.opened = sent;
	int n = measure_end();
	double secs = (double)(now - t0) * tsc_ns / 1e9;
	for (end = now + ticks(0.2); now < end;)
		io_round(100000);
	R.reqs = S.reqs;
	report(secs, n);
	fprintf(stderr, "xload: %lu SYNs sent, %lu SYN-ACKs and %lu RSTs received\n", sent, S.reqs, S.refused);
}

/* Send every received frame of RAWTYPE back: the packet ceiling of this machine. */
void run_reflect(void)
{
	uint64_t end;
	measure_start();
	now = __rdtsc();
	end = now + ticks(C.secs);
	uint64_t t0 = now;
	while (!intr && now < end) {
		uint64_t t = now;
		io_round(1000000);
		uint32_t p = __atomic_load_n(rx.prod, __ATOMIC_ACQUIRE), n = MIN(p - rx.c, C.ring - (tx.p - tx.c));
		for (uint32_t i = 0; i < n; i++) {
			struct xdp_desc d = ((struct xdp_desc *)rx.desc)[rx.c++ & rx.mask];
			uint8_t *f = umem + d.addr;
			memcpy(f, f + 6, 6);
			memcpy(f + 6, mymac, 6);
			d.options = 0;
			((struct xdp_desc *)tx.desc)[tx.p++ & tx.mask] = d;
			S.rxp++;
			S.txp++;
			S.rxb += d.len;
		}
		__atomic_store_n(rx.cons, rx.c, __ATOMIC_RELEASE);
		if (!n)
			hist_add(&h_idle, ns_of(now - t));
	}
	int n = measure_end();
	report((double)(now - t0) * tsc_ns / 1e9, n);
}

/* Keep conns * pipe raw frames in flight against a reflector (pipe 0: just send). */
void run_blast(void)
{
	uint64_t win = C.pipe ? (uint64_t)C.conns * C.pipe : UINT64_MAX, flying = 0, last, end, t0, sent = 0;
	uint32_t len = MAX(C.req, 60u);
	measure_start();
	now = t0 = last = __rdtsc();
	end = now + ticks(C.secs);
	while (!intr && now < end) {
		uint64_t t = now;
		uint32_t n = io_round(1000000), k = 0;
		flying -= MIN((uint64_t)n, flying);
		if (n)
			last = now;
		else if (C.pipe && flying && now - last > ticks(0.02)) { /* lost frames: start again */
			S.lost += flying;
			flying = 0;
			last = now;
		}
		for (; flying < win && k < 64; k++) {
			uint8_t *f = tx_frame();
			uint16_t et = htons(RAWTYPE);
			uint64_t ts = __rdtsc();
			if (!f)
				break;
			memcpy(f, dstmac, 6);
			memcpy(f + 6, mymac, 6);
			memcpy(f + 12, &et, 2);
			memcpy(f + 16, &ts, 8);
			tx_commit(len);
			flying++;
			sent++;
		}
		if (!n && !k)
			hist_add(&h_idle, ns_of(now - t));
	}
	int n = measure_end();
	report((double)(now - t0) * tsc_ns / 1e9, n);
}
