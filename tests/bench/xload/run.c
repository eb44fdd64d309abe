/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The runs and their reports. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/if_xdp.h>
#include <math.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "tests/bench/xload/xload.h"

/* ---- reports ---- */

static struct cpu {
	uint64_t user, sys, irq, softirq, steal, idle;
} cpu0[8], cpu1[8];
static struct rusage ru0, ru1;

static int cpu_read(struct cpu *c)
{
	FILE *f = fopen("/proc/stat", "r");
	char line[256];
	int i, n = 0;
	while (f && fgets(line, sizeof line, f)) {
		unsigned long long v[8];
		if (sscanf(line, "cpu%d %llu %llu %llu %llu %llu %llu %llu %llu", &i, v, v + 1, v + 2, v + 3, v + 4,
			   v + 5, v + 6, v + 7) == 9 &&
		    i >= 0 && i < 8) {
			c[i] = (struct cpu){v[0] + v[1], v[2], v[5], v[6], v[7], v[3] + v[4]};
			n = MAX(n, i + 1);
		}
	}
	if (f)
		fclose(f);
	return n;
}

static void print_hist(const char *name, const struct hist *h)
{
	static const double q[] = {50, 90, 99, 99.9};
	static const char *const qn[] = {"p50", "p90", "p99", "p99.9"};
	if (C.json)
		printf(",\"%s\":{\"count\":%lu,\"mean\":%.3f", name, h->n, h->n ? h->sum / (double)h->n / 1e3 : 0);
	else if (h->n)
		printf("  %-12s us  mean %.1f", name, h->sum / (double)h->n / 1e3);
	else
		return;
	for (int i = 0; i < 4; i++)
		printf(C.json ? ",\"%s\":%.3f" : "  %s %.1f", qn[i], hist_q(h, q[i]) / 1e3);
	printf(C.json ? ",\"max\":%.3f}" : "  max %.1f\n", (double)h->max / 1e3);
}

static double tv(struct timeval a, struct timeval b)
{
	return (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_usec - a.tv_usec) / 1e6;
}

static void report(double secs, int ncpu)
{
	struct xdp_statistics xs = {0};
	socklen_t xl = sizeof xs;
	secs = MAX(secs, 0.001); /* interrupted before the measured time */
	/* CPU time less that of the empty loops; their median excludes those that were preempted */
	double cpu = tv(ru0.ru_utime, ru1.ru_utime) + tv(ru0.ru_stime, ru1.ru_stime);
	double useful = MAX(cpu - (double)h_idle.n * hist_q(&h_idle, 50) / 1e9, 0.0);
	double units = (double)MAX(MAX(R.reqs, R.closed), 1u);
	double rps = C.mode == M_TX || C.mode == M_RX ? 0 : (double)R.reqs / secs;
	double rxB = (double)R.rxbytes / secs, txB = (double)(C.mode == M_TX ? R.reqs : R.txbytes) / secs;
	getsockopt(xfd, SOL_XDP, XDP_STATISTICS, &xs, &xl);
	if (C.mode == M_TX)
		R.reqs = 0;
#define F(v)            \
	{               \
#v, R.v \
	}
	const struct {
		const char *n;
		uint64_t v;
	} cnt[] = {F(rexmt),
		   F(rtos),
		   F(frexmt),
		   F(resets),
		   F(refused),
		   F(timeouts),
		   F(peerclose),
		   F(mismatch),
		   F(unexpected),
		   F(httperr),
		   F(badcsum),
		   F(okcsum),
		   F(partcsum),
		   F(verified),
		   F(ooo),
		   F(dupacks),
		   F(zerowin),
		   F(stray),
		   F(dropped),
		   F(nobuf),
		   F(txfail),
		   F(lost),
		   F(kicks),
		   F(polls),
		   F(loops),
		   {"rx_dropped", xs.rx_dropped},
		   {"rx_ring_full", xs.rx_ring_full},
		   {"fill_empty", xs.rx_fill_ring_empty_descs}};
#undef F
	if (C.json) {
		printf("{\"mode\":\"%s\",\"conns\":%u,\"pipeline\":%u,\"req\":%u,\"resp\":%u,\"rate\":%.0f,\"seconds\":"
		       "%.3f,\"xdp\":\"%s\",\"napi_poll\":%d",
		       modes[C.mode], C.conns, C.pipe, C.req, C.resp, C.rate, secs, xdpmode, C.napi);
		printf(",\"requests\":%lu,\"rps\":%.1f,\"cps\":%.1f,\"rx_bytes_s\":%.0f,\"tx_bytes_s\":%.0f,\"rx_pps\":"
		       "%.0f,\"tx_pps\":%.0f",
		       R.reqs, rps, (double)R.closed / secs, rxB, txB, (double)R.rxp / secs, (double)R.txp / secs);
		printf(",\"client_cpu_pct\":%.2f,\"client_useful_pct\":%.2f,\"client_us_per_req\":%.3f,\"client_user_"
		       "s\":%.3f,\"client_sys_s\":%.3f"
		       ",\"failed\":%lu,\"mismatched\":%lu",
		       cpu / secs * 100, useful / secs * 100, useful / units * 1e6, tv(ru0.ru_utime, ru1.ru_utime),
		       tv(ru0.ru_stime, ru1.ru_stime), failed, mismatched);
		for (size_t i = 0; i < sizeof cnt / sizeof *cnt; i++)
			printf(",\"%s\":%lu", cnt[i].n, cnt[i].v);
	} else {
		printf("xload %s: %u connections, pipeline %u, request %u, response %u, %.2f s, XDP %s%s, %s\n",
		       modes[C.mode], C.conns, C.pipe, C.req, C.mode == M_HTTP ? 0 : C.resp, secs, xdpmode,
		       C.zc ? " zero-copy" : " copy",
		       C.napi    ? "NAPI busy poll"
		       : C.block ? "blocking poll"
				 : "ring spin");
		printf("  requests/s   %.0f   connections/s %.0f   received %.1f MB/s   sent %.1f MB/s\n", rps,
		       (double)R.closed / secs, rxB / 1e6, txB / 1e6);
		printf("  packets/s    rx %.0f  tx %.0f   (frames rx %lu tx %lu)\n", (double)R.rxp / secs,
		       (double)R.txp / secs, R.rxp, R.txp);
	}
	print_hist("latency", &h_lat);
	print_hist("handshake", &h_hs);
	print_hist("transaction", &h_txn);
	if (C.json)
		printf(",\"cpu\":[");
	else {
		printf("  client       %.1f %% of a core, useful (without empty polls) %.1f %%, %.2f us per request\n",
		       cpu / secs * 100, useful / secs * 100,
		       C.mode == M_TX || C.mode == M_RX ? 0 : useful / units * 1e6);
		printf("  counters    ");
		for (size_t i = 0; i < sizeof cnt / sizeof *cnt; i++)
			if (cnt[i].v)
				printf(" %s %lu", cnt[i].n, cnt[i].v);
		printf("\n");
	}
	for (int i = 0; i < ncpu; i++) {
		struct cpu d = {cpu1[i].user - cpu0[i].user,   cpu1[i].sys - cpu0[i].sys,
				cpu1[i].irq - cpu0[i].irq,     cpu1[i].softirq - cpu0[i].softirq,
				cpu1[i].steal - cpu0[i].steal, cpu1[i].idle - cpu0[i].idle};
		double t = (double)(d.user + d.sys + d.irq + d.softirq + d.steal + d.idle) / 100;
		t = t > 0 ? t : 1;
		if (C.json)
			printf("%s{\"user\":%.1f,\"sys\":%.1f,\"irq\":%.1f,\"softirq\":%.1f,\"steal\":%.1f,\"idle\":%."
			       "1f}",
			       i ? "," : "", (double)d.user / t, (double)d.sys / t, (double)d.irq / t,
			       (double)d.softirq / t, (double)d.steal / t, (double)d.idle / t);
		else
			printf("  core %d       user %.1f  sys %.1f  irq %.1f  softirq %.1f  steal %.1f  idle %.1f "
			       "%%\n",
			       i, (double)d.user / t, (double)d.sys / t, (double)d.irq / t, (double)d.softirq / t,
			       (double)d.steal / t, (double)d.idle / t);
	}
	if (C.json)
		printf("],\"ok\":%s}\n", failed || mismatched ? "false" : "true");
	else if (failed || mismatched)
		printf("  FAILED: %lu connection or protocol failures, %lu data mismatches\n", failed, mismatched);
}

/* ---- runs ---- */

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

static void measure_start(void)
{
	memset(&S, 0, sizeof S);
	memset(&h_lat, 0, sizeof h_lat);
	memset(&h_txn, 0, sizeof h_txn);
	memset(&h_idle, 0, sizeof h_idle);
	if (C.per_conn)
		memset(&h_hs, 0, sizeof h_hs);
	cpu_read(cpu0);
	getrusage(RUSAGE_SELF, &ru0);
}

static int measure_end(void)
{
	R = S;
	getrusage(RUSAGE_SELF, &ru1);
	return cpu_read(cpu1);
}

void run_tcp(void)
{
	enum { CONNECT, WARM, MEASURE, CLOSE } phase = CONNECT;
	uint64_t t_next, t_start, behind, t0;
	uint32_t tick = ms, k;
	int ncpu = 0;
	double next = 0, secs = 0, peak = 0;

	now = __rdtsc();
	t_next = now + ticks(10 + C.conns / 1000.0);
	t_start = now;
	running = C.per_conn != 0;
	if (running) {
		phase = WARM;
		t_next = now + ticks(C.warm);
	}
	for (;;) {
		t0 = now;
		uint64_t sleep = C.rate > 0 && phase != CONNECT ? (next > (double)now ? ns_of((uint64_t)next - now) : 0)
								: 1000000;
		uint32_t work = io_round(outq.len || openq.len || startq.len ? 0 : sleep);
		for (k = 0; openq.len && synsent < C.ramp && !stopping && k < 64; k++) {
			uint32_t id = pop(&openq);
			if (!conn_open(&conns[id])) {
				push(&openq, id);
				break;
			}
		}
		for (k = 0; startq.len && k < 16; k++) {
			struct conn *c = &conns[pop(&startq)];
			if (c->state == ESTAB)
				app_start(c);
		}
		if (C.rate > 0 && running && !stopping)
			for (k = 0; (double)now >= next && avail.len && k < 64; k++) {
				struct conn *c = &conns[pop(&avail)];
				c->in_avail = false;
				if (c->state != ESTAB || c->want_fin)
					continue;
				issue(c, (uint64_t)next);
				next += arrival() * 1e9 / tsc_ns;
				if (c->out < C.pipe) {
					c->in_avail = true;
					push(&avail, c->id);
				}
				conn_output(c);
			}
		for (k = outq.len; k--;) {
			struct conn *c = &conns[pop(&outq)];
			c->in_outq = false;
			if (c->state == ESTAB)
				conn_output(c);
		}
		flush_acks();
		if (ms - tick >= 5) { /* timers */
			tick = ms;
			for (uint32_t i = 0; i < C.conns; i++)
				if (rto_at[i] && (int32_t)(ms - rto_at[i]) >= 0)
					conn_timeout(&conns[i]);
		}
		S.loops++;
		if (!work && tx.p == tx.c)
			hist_add(&h_idle, ns_of(now - t0));

		if (phase == CONNECT && ((!openq.len && !synsent) || now >= t_next)) {
			if (openq.len || synsent)
				failed += openq.len + synsent;
			running = true;
			for (uint32_t i = 0; i < C.conns; i++)
				if (conns[i].state == ESTAB)
					push(&startq, i);
			next = (double)now;
			t_next = now + ticks(C.warm);
			phase = WARM;
		}
		if (phase == WARM && now >= t_next) {
			measure_start();
			now = __rdtsc();
			next = (double)now;
			t_start = now;
			t_next = now + ticks(C.secs);
			phase = MEASURE;
		}
		bool over = intr || (phase >= WARM && !live && !openq.len);
		if (phase < CLOSE &&
		    (over || (phase == MEASURE && (now >= t_next || (C.total && S.reqs >= C.total))))) {
			if (phase != MEASURE) /* interrupted early */
				measure_start(), t_start = now - 1;
			secs = (double)(now - t_start) * tsc_ns / 1e9;
			behind = C.rate > 0 && (double)now > next
					 ? (uint64_t)(((double)now - next) * tsc_ns / 1e9 * C.rate)
					 : 0;
			peak = (double)behind;
			ncpu = measure_end();
			stopping = true;
			phase = CLOSE;
			for (uint32_t i = 0; i < C.conns; i++)
				if (conns[i].state == ESTAB)
					conn_close(&conns[i]);
			now = __rdtsc();
			t_next = now + ticks(2);
		}
		if (phase == CLOSE && (!live || now >= t_next)) {
			for (uint32_t i = 0; i < C.conns; i++)
				if (conns[i].state != CLOSED)
					tcp_tx(&conns[i], RST | ACK, conns[i].smax, 0);
			io_round(0);
			break;
		}
	}
	if (peak > 0)
		fprintf(stderr, "xload: %.0f arrivals were due but not yet sent at the end (rate not reached)\n", peak);
	report(secs, ncpu);
}

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
