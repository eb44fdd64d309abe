/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Set-up and the globals of xload. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/xload/xload.h"

struct stats S, R;
uint64_t failed, mismatched;
struct hist h_lat, h_hs, h_txn, h_idle;
struct ring rx, tx, fq, cq;
int xfd = -1, hfd = -1;
uint8_t *umem;
uint32_t fsz = 2048, mdlen, ntxfree;
uint64_t *txfree;
int ifindex, mtu;
uint8_t mymac[6], dstmac[6];
char xdpmode[16], sysold[2][32];
bool sysset;
struct conn *conns;
uint32_t *pmap, nips, *rto_at;
uint64_t *tsq;
struct fifo openq, outq, ackq, avail, startq;
uint32_t cur_ip, cur_port, synsent, live;
uint64_t serial;
uint8_t pat[PERIOD + 16384];
uint32_t pre[PERIOD + 16384 + 1];
char *httpreq;
uint32_t *hpre;
bool running, stopping;
volatile sig_atomic_t intr;
uint64_t now, tsc0, epoch;
uint32_t ms;
double tsc_ns;

void die(const char *f, ...)
{
	va_list ap;
	va_start(ap, f);
	fprintf(stderr, "xload: ");
	vfprintf(stderr, f, ap);
	fprintf(stderr, "\n");
	exit(2);
}

void *zalloc(size_t n)
{
	void *p = calloc(1, n ? n : 1);
	if (!p)
		die("out of memory");
	return p;
}

static void tsc_calibrate(void)
{
	struct timespec a, b;
	uint64_t t0, t1;
	clock_gettime(CLOCK_MONOTONIC, &a);
	t0 = __rdtsc();
	usleep(50000);
	clock_gettime(CLOCK_MONOTONIC, &b);
	t1 = __rdtsc();
	tsc_ns = ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / (double)(t1 - t0);
	now = tsc0 = t1;
	epoch = (uint64_t)b.tv_sec * 1000000000u + (uint64_t)b.tv_nsec;
	ms = (uint32_t)(epoch / 1000000);
}

static void fifo_init(struct fifo *q, uint32_t n)
{
	q->v = zalloc(n * sizeof *q->v);
	q->n = n;
}

void presum(uint32_t *out, const void *text, uint32_t n)
{
	const uint8_t *t = text;
	out[0] = 0;
	for (uint32_t i = 0; i < n; i++)
		out[i + 1] = out[i] + ((uint32_t)t[i] << (i & 1 ? 8 : 0));
}

static void on_signal(int sig)
{
	(void)sig;
	intr = 1;
}

static void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	if (sched_setaffinity(0, sizeof set, &set))
		die("core %d: %s", cpu, strerror(errno));
}

static void interface_read(void)
{
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	struct ifreq ifr = {0};

	snprintf(ifr.ifr_name, sizeof ifr.ifr_name, "%s", C.ifname);
	ifindex = (int)if_nametoindex(C.ifname);
	if (!ifindex || ioctl(s, SIOCGIFHWADDR, &ifr))
		die("interface %s: %s", C.ifname, strerror(errno));
	memcpy(mymac, ifr.ifr_hwaddr.sa_data, 6);
	if (ioctl(s, SIOCGIFMTU, &ifr))
		die("MTU of %s: %s", C.ifname, strerror(errno));
	mtu = ifr.ifr_mtu;
	close(s);
	C.mss = C.mss ? MIN(C.mss, mtu - 40) : mtu - 40;
}

/* The pattern does not depend on --seed. */
static void pattern_init(void)
{
	uint64_t seed = C.seed;

	C.seed = 0x9e3779b97f4a7c15ULL;
	for (uint32_t i = 0; i < sizeof pat; i++)
		pat[i] = i < PERIOD ? (uint8_t)(rnd() >> 56) : pat[i - PERIOD];
	C.seed = seed * 0x9e3779b97f4a7c15ULL + 1;
	presum(pre, pat, sizeof pat);
}

static void conns_init(void)
{
	if (C.conns > (uint64_t)(C.phi - C.plo + 1) * nips)
		die("more connections than (source address, port) pairs: give a range with -s");
	conns = zalloc(C.conns * sizeof *conns);
	rto_at = zalloc(C.conns * sizeof *rto_at);
	tsq = zalloc((size_t)C.conns * C.pipe * sizeof *tsq);
	fifo_init(&openq, C.conns);
	fifo_init(&outq, C.conns);
	fifo_init(&ackq, C.conns);
	fifo_init(&avail, C.conns);
	fifo_init(&startq, C.conns);
	for (uint32_t i = 0; i < C.conns; i++) {
		conns[i].id = i;
		push(&openq, i);
	}
}

static int run_raw(void)
{
	if (C.mode == M_REFLECT) {
		run_reflect();
		return 0;
	}
	if (!C.have_mac)
		memset(dstmac, 0xff, 6);
	run_blast();
	return S.reqs || !C.pipe ? 0 : 1;
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = on_signal};

	args(argc, argv);
	if (C.cpu >= 0)
		pin(C.cpu);
	interface_read();
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	tsc_calibrate();
	nips = C.src_hi - C.src_lo + 1;
	pattern_init();
	xsk_open();
	if (C.mode == M_REFLECT || C.mode == M_BLAST)
		return run_raw();
	arp_resolve();
	tmpl_init();
	cur_port = (uint32_t)(epoch / 1000 % (C.phi - C.plo + 1));
	pmap = zalloc((size_t)nips * 65536 * sizeof *pmap);
	if (C.mode == M_SYN) {
		run_syn();
		return 0;
	}
	conns_init();
	run_tcp();
	return failed || mismatched ? 1 : 0;
}
