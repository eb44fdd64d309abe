/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What was measured, for people or as JSON. */
#include <linux/if_xdp.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "tests/bench/xload/xload.h"

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

void measure_start(void)
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

int measure_end(void)
{
	R = S;
	getrusage(RUSAGE_SELF, &ru1);
	return cpu_read(cpu1);
}

/* CPU time of this process in the measured time, in seconds. */
static double cpu_user(void)
{
	return tv(ru0.ru_utime, ru1.ru_utime);
}

static double cpu_sys(void)
{
	return tv(ru0.ru_stime, ru1.ru_stime);
}

/* Less that of the empty loops; their median excludes those that were preempted. */
static double cpu_useful(void)
{
	return MAX(cpu_user() + cpu_sys() - (double)h_idle.n * hist_q(&h_idle, 50) / 1e9, 0.0);
}

static double units(void)
{
	return (double)MAX(MAX(R.reqs, R.closed), 1u);
}

/* Counters: all as JSON, for people those that are not zero. */
static void print_counters(void)
{
	struct xdp_statistics xs = {0};
	socklen_t xl = sizeof xs;

	getsockopt(xfd, SOL_XDP, XDP_STATISTICS, &xs, &xl);
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
	for (size_t i = 0; i < sizeof cnt / sizeof *cnt; i++)
		if (C.json)
			printf(",\"%s\":%lu", cnt[i].n, cnt[i].v);
		else if (cnt[i].v)
			printf(" %s %lu", cnt[i].n, cnt[i].v);
}

static void head_json(double secs, double rx_bytes, double tx_bytes)
{
	double rps = C.mode == M_TX || C.mode == M_RX ? 0 : (double)R.reqs / secs;

	printf("{\"mode\":\"%s\",\"conns\":%u,\"pipeline\":%u,\"req\":%u,\"resp\":%u,\"rate\":%.0f,\"seconds\":%.3f",
	       modes[C.mode], C.conns, C.pipe, C.req, C.resp, C.rate, secs);
	printf(",\"xdp\":\"%s\",\"napi_poll\":%d,\"requests\":%lu,\"rps\":%.1f,\"cps\":%.1f", xdpmode, C.napi, R.reqs,
	       rps, (double)R.closed / secs);
	printf(",\"rx_bytes_s\":%.0f,\"tx_bytes_s\":%.0f,\"rx_pps\":%.0f,\"tx_pps\":%.0f", rx_bytes / secs,
	       tx_bytes / secs, (double)R.rxp / secs, (double)R.txp / secs);
	printf(",\"client_cpu_pct\":%.2f,\"client_useful_pct\":%.2f,\"client_us_per_req\":%.3f",
	       (cpu_user() + cpu_sys()) / secs * 100, cpu_useful() / secs * 100, cpu_useful() / units() * 1e6);
	printf(",\"client_user_s\":%.3f,\"client_sys_s\":%.3f,\"failed\":%lu,\"mismatched\":%lu", cpu_user(), cpu_sys(),
	       failed, mismatched);
	print_counters();
}

static void head_text(double secs, double rx_bytes, double tx_bytes)
{
	double rps = C.mode == M_TX || C.mode == M_RX ? 0 : (double)R.reqs / secs;

	printf("xload %s: %u connections, pipeline %u, request %u, response %u, %.2f s, XDP %s%s, %s\n", modes[C.mode],
	       C.conns, C.pipe, C.req, C.mode == M_HTTP ? 0 : C.resp, secs, xdpmode, C.zc ? " zero-copy" : " copy",
	       C.napi    ? "NAPI busy poll"
	       : C.block ? "blocking poll"
			 : "ring spin");
	printf("  requests/s   %.0f   connections/s %.0f   received %.1f MB/s   sent %.1f MB/s\n", rps,
	       (double)R.closed / secs, rx_bytes / secs / 1e6, tx_bytes / secs / 1e6);
	printf("  packets/s    rx %.0f  tx %.0f   (frames rx %lu tx %lu)\n", (double)R.rxp / secs, (double)R.txp / secs,
	       R.rxp, R.txp);
}

static void client_text(double secs)
{
	printf("  client       %.1f %% of a core, useful (without empty polls) %.1f %%, %.2f us per request\n",
	       (cpu_user() + cpu_sys()) / secs * 100, cpu_useful() / secs * 100,
	       C.mode == M_TX || C.mode == M_RX ? 0 : cpu_useful() / units() * 1e6);
	printf("  counters    ");
	print_counters();
	printf("\n");
}

static void print_core(int i)
{
	struct cpu d = {cpu1[i].user - cpu0[i].user,       cpu1[i].sys - cpu0[i].sys,     cpu1[i].irq - cpu0[i].irq,
			cpu1[i].softirq - cpu0[i].softirq, cpu1[i].steal - cpu0[i].steal, cpu1[i].idle - cpu0[i].idle};
	double t = (double)(d.user + d.sys + d.irq + d.softirq + d.steal + d.idle) / 100;

	t = t > 0 ? t : 1;
	if (C.json)
		printf("%s{", i ? "," : "");
	else
		printf("  core %d      ", i);
	printf(C.json ? "\"user\":%.1f,\"sys\":%.1f,\"irq\":%.1f" : " user %.1f  sys %.1f  irq %.1f",
	       (double)d.user / t, (double)d.sys / t, (double)d.irq / t);
	printf(C.json ? ",\"softirq\":%.1f,\"steal\":%.1f,\"idle\":%.1f}"
		      : "  softirq %.1f  steal %.1f  idle %.1f %%\n",
	       (double)d.softirq / t, (double)d.steal / t, (double)d.idle / t);
}

void report(double secs, int ncpu)
{
	double tx_bytes = (double)(C.mode == M_TX ? R.reqs : R.txbytes);

	secs = MAX(secs, 0.001); /* interrupted before the measured time */
	if (C.mode == M_TX)
		R.reqs = 0;
	(C.json ? head_json : head_text)(secs, (double)R.rxbytes, tx_bytes);
	print_hist("latency", &h_lat);
	print_hist("handshake", &h_hs);
	print_hist("transaction", &h_txn);
	if (C.json)
		printf(",\"cpu\":[");
	else
		client_text(secs);
	for (int i = 0; i < ncpu; i++)
		print_core(i);
	if (C.json)
		printf("],\"ok\":%s}\n", failed || mismatched ? "false" : "true");
	else if (failed || mismatched)
		printf("  FAILED: %lu connection or protocol failures, %lu data mismatches\n", failed, mismatched);
}
