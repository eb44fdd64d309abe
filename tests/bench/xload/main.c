/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Command line, set-up and the globals of xload. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
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

const char *const modes[] = {"echo", "conn", "http", "rx", "tx", "syn", "reflect", "blast"};
static const char *const closes[] = {"client", "server", "rst"};

struct config C = {.queue = 0,
		   .port = 7,
		   .cpu = -1,
		   .wscale = 7,
		   .acks = 2,
		   .retries = 8,
		   .conns = 1,
		   .req = 64,
		   .pipe = 1,
		   .window = 256 << 10,
		   .rto = 200,
		   .maxfail = 1000,
		   .ramp = 256,
		   .cwnd_max = 256 << 10,
		   .plo = 10000,
		   .phi = 65000,
		   .budget = 64,
		   .secs = 5,
		   .warm = 0.5,
		   .ts = true,
		   .sack = true,
		   .poisson = true,
		   .napi = true,
		   .path = "/",
		   .hdr = "",
		   .seed = 1};

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

static void usage(void)
{
	printf("usage: xload -i IF -s SRC_IP[-SRC_IP] -d DST_IP -p PORT [-m MAC] [-M MODE] ...\n"
	       "  -M MODE      echo conn http rx tx syn reflect blast (echo)\n"
	       "  -c N         connections (1)            -t S  seconds measured (5)   -W S  warm-up (0.5)\n"
	       "  -r N         request bytes (64)         -R N  response bytes (as -r)\n"
	       "  -P N         requests in flight per connection (1)\n"
	       "  -n N         requests per connection, then close and reopen (conn: 1, else 0 = no limit)\n"
	       "  -N N         stop after N requests (syn: SYNs, 100000)\n"
	       "  -Q RATE      open loop: requests/s in total (echo, http), SYNs/s (syn)   --fixed  even arrivals\n"
	       "  --close W    who closes: client, server, rst (client)\n"
	       "  -u PATH --host H --header 'X: y' --http-close   HTTP request; --http-close: Connection: close\n"
	       "  -V           verify all echoed bytes (else 1 segment of 16)   --no-verify\n"
	       "  -b           block in poll() instead of spinning     --no-napi  no NAPI busy polling\n"
	       "  --helper IP[:PORT]  kernel TCP listener behind IF used for NAPI polling (DST_IP:PORT)\n"
	       "  -q Q -g -z   queue, generic XDP, try zero copy       -C CPU  pin to a core   --ring N (1024 or "
	       "more)\n"
	       "  -A N         ACK every N segments, 0: per batch (2)  -D MS  delayed ACK (0)\n"
	       "  --mss N --wscale N (-1: none) --no-ts --no-sack --window BYTES --cwnd BYTES\n"
	       "  --rto MS (200) --retries N (8) --ramp N handshakes at a time (256) --ports LO-HI\n"
	       "  --reconnect  --max-fail N (1000)  --csum-offload  --budget N (64)\n"
	       "  --drop-rx PCT --drop-tx PCT --seed N   lose packets on purpose\n"
	       "  --json\n");
	exit(0);
}

static uint32_t ip_arg(const char *s)
{
	struct in_addr a;
	if (!inet_aton(s, &a))
		die("bad address %s", s);
	return ntohl(a.s_addr);
}

static double num(const char *s, double lo, double hi)
{
	char *e;
	double v = strtod(s, &e);
	if (e == s || *e || v < lo || v > hi)
		die("bad number '%s' (%.0f to %.0f)", s, lo, hi);
	return v;
}

static int pick(const char *s, const char *const *v, int n)
{
	for (int i = 0; i < n; i++)
		if (!strcmp(s, v[i]))
			return i;
	die("unknown word '%s'", s);
	return 0;
}

static void range(char *s, uint32_t *lo, uint32_t *hi, uint32_t (*f)(const char *))
{
	char *d = strchr(s, '-');
	if (d)
		*d++ = 0;
	*lo = f(s);
	*hi = d ? f(d) : *lo;
	if (*hi < *lo)
		die("bad range");
}
static uint32_t port_arg(const char *s)
{
	return (uint32_t)num(s, 1, 65535);
}

static void on_signal(int sig)
{
	(void)sig;
	intr = 1;
}

static void args(int argc, char **argv)
{
	enum {
		O_FIXED = 256,
		O_CLOSE,
		O_HOST,
		O_HEADER,
		O_HCLOSE,
		O_NOVERIFY,
		O_NONAPI,
		O_RING,
		O_MSS,
		O_WSCALE,
		O_NOTS,
		O_NOSACK,
		O_WINDOW,
		O_CWND,
		O_RTO,
		O_RETRIES,
		O_RAMP,
		O_PORTS,
		O_RECONNECT,
		O_MAXFAIL,
		O_CSUM,
		O_BUDGET,
		O_DROPRX,
		O_DROPTX,
		O_SEED,
		O_JSON,
		O_HELPER
	};
	static const struct option lo[] = {{"fixed", 0, 0, O_FIXED},
					   {"close", 1, 0, O_CLOSE},
					   {"host", 1, 0, O_HOST},
					   {"header", 1, 0, O_HEADER},
					   {"http-close", 0, 0, O_HCLOSE},
					   {"no-verify", 0, 0, O_NOVERIFY},
					   {"no-napi", 0, 0, O_NONAPI},
					   {"ring", 1, 0, O_RING},
					   {"mss", 1, 0, O_MSS},
					   {"wscale", 1, 0, O_WSCALE},
					   {"no-ts", 0, 0, O_NOTS},
					   {"no-sack", 0, 0, O_NOSACK},
					   {"window", 1, 0, O_WINDOW},
					   {"cwnd", 1, 0, O_CWND},
					   {"rto", 1, 0, O_RTO},
					   {"retries", 1, 0, O_RETRIES},
					   {"ramp", 1, 0, O_RAMP},
					   {"ports", 1, 0, O_PORTS},
					   {"reconnect", 0, 0, O_RECONNECT},
					   {"max-fail", 1, 0, O_MAXFAIL},
					   {"csum-offload", 0, 0, O_CSUM},
					   {"budget", 1, 0, O_BUDGET},
					   {"drop-rx", 1, 0, O_DROPRX},
					   {"drop-tx", 1, 0, O_DROPTX},
					   {"seed", 1, 0, O_SEED},
					   {"json", 0, 0, O_JSON},
					   {"helper", 1, 0, O_HELPER},
					   {"help", 0, 0, 'h'},
					   {0, 0, 0, 0}};
	int o, closeby = -1;
	while ((o = getopt_long(argc, argv, "i:q:s:d:m:p:c:t:W:r:R:P:M:n:N:Q:u:VbgzC:A:D:h", lo, NULL)) != -1)
		switch (o) {
		case 'i':
			C.ifname = optarg;
			break;
		case 'q':
			C.queue = (int)num(optarg, 0, 63);
			break;
		case 's':
			range(optarg, &C.src_lo, &C.src_hi, ip_arg);
			break;
		case 'd':
			C.dst = ip_arg(optarg);
			break;
		case 'm':
			if (sscanf(optarg, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", dstmac, dstmac + 1, dstmac + 2, dstmac + 3,
				   dstmac + 4, dstmac + 5) != 6)
				die("bad MAC address");
			C.have_mac = true;
			break;
		case 'p':
			C.port = (int)port_arg(optarg);
			break;
		case 'c':
			C.conns = (uint32_t)num(optarg, 1, 4e6);
			break;
		case 't':
			C.secs = num(optarg, 0.01, 86400);
			break;
		case 'W':
			C.warm = num(optarg, 0, 3600);
			break;
		case 'r':
			C.req = (uint32_t)num(optarg, 0, 1e9);
			break;
		case 'R':
			C.resp = (uint32_t)num(optarg, 1, 4e9);
			break;
		case 'P':
			C.pipe = (uint32_t)num(optarg, 0, 65536);
			break;
		case 'M':
			C.mode = pick(optarg, modes, sizeof modes / sizeof *modes);
			break;
		case 'n':
			C.per_conn = (uint32_t)num(optarg, 0, 4e9);
			break;
		case 'N':
			C.total = (uint64_t)num(optarg, 1, 1e15);
			break;
		case 'Q':
			C.rate = num(optarg, 1, 1e8);
			break;
		case 'u':
			C.path = optarg;
			break;
		case 'V':
			C.verify_all = true;
			break;
		case 'b':
			C.block = true;
			break;
		case 'g':
			C.skb = true;
			break;
		case 'z':
			C.zc = true;
			break;
		case 'C':
			C.cpu = (int)num(optarg, 0, 1023);
			break;
		case 'A':
			C.acks = (int)num(optarg, 0, 200);
			break;
		case 'D':
			C.delack = (uint32_t)num(optarg, 0, 500);
			break;
		case O_FIXED:
			C.poisson = false;
			break;
		case O_CLOSE:
			closeby = pick(optarg, closes, 3);
			break;
		case O_HOST:
			C.host = optarg;
			break;
		case O_HEADER:
			C.hdr = optarg;
			break;
		case O_HCLOSE:
			C.hclose = true;
			break;
		case O_NOVERIFY:
			C.noverify = true;
			break;
		case O_NONAPI:
			C.napi = false;
			break;
		case O_RING:
			C.ring = (uint32_t)num(optarg, 64, 32768);
			break;
		case O_MSS:
			C.mss = (int)num(optarg, 64, 9000);
			break;
		case O_WSCALE:
			C.wscale = (int)num(optarg, -1, 14);
			break;
		case O_NOTS:
			C.ts = false;
			break;
		case O_NOSACK:
			C.sack = false;
			break;
		case O_WINDOW:
			C.window = (uint32_t)num(optarg, 128, 1 << 29);
			break;
		case O_CWND:
			C.cwnd_max = (uint32_t)num(optarg, 1000, 1 << 29);
			break;
		case O_RTO:
			C.rto = (uint32_t)num(optarg, 5, 60000);
			break;
		case O_RETRIES:
			C.retries = (uint32_t)num(optarg, 1, 50);
			break;
		case O_RAMP:
			C.ramp = (uint32_t)num(optarg, 1, 1e6);
			break;
		case O_PORTS:
			range(optarg, &C.plo, &C.phi, port_arg);
			break;
		case O_RECONNECT:
			C.reconnect = true;
			break;
		case O_MAXFAIL:
			C.maxfail = (uint32_t)num(optarg, 1, 4e9);
			break;
		case O_CSUM:
			C.csum_off = true;
			break;
		case O_BUDGET:
			C.budget = (uint32_t)num(optarg, 1, 512);
			break;
		case O_DROPRX:
			C.drop_rx = num(optarg, 0, 90);
			break;
		case O_DROPTX:
			C.drop_tx = num(optarg, 0, 90);
			break;
		case O_SEED:
			C.seed = (uint64_t)num(optarg, 1, 1e15);
			break;
		case O_JSON:
			C.json = true;
			break;
		case O_HELPER: {
			char *colon = strchr(optarg, ':');
			if (colon)
				*colon++ = 0;
			C.helper = ip_arg(optarg);
			C.helper_port = colon ? port_arg(colon) : 0;
			break;
		}
		case 'h':
			usage();
			break;
		default:
			exit(2);
		}
	bool raw = C.mode == M_REFLECT || C.mode == M_BLAST;
	if (optind != argc || !C.ifname || (!raw && (!C.dst || !C.src_lo)))
		die("needs -i, -s and -d (see -h)");
	if (!C.helper)
		C.helper = C.dst;
	if (!C.helper_port)
		C.helper_port = (uint32_t)C.port;
	if (C.src_hi - C.src_lo > 255)
		die("at most 256 source addresses");
	if (!C.ring) /* room for one response of every request in flight, within reason */
		for (C.ring = 1024; C.ring < 16384 && C.ring < (uint64_t)C.conns * C.pipe && !raw; C.ring *= 2)
			;
	if (C.ring & (C.ring - 1))
		die("--ring must be a power of two");
	if (C.mode == M_CONN && !C.per_conn)
		C.per_conn = 1;
	if (C.mode == M_HTTP && C.hclose)
		C.per_conn = 1;
	if (C.mode == M_RX || C.mode == M_TX)
		C.per_conn = 0;
	C.closeby = closeby >= 0 ? closeby : C.mode == M_HTTP && C.hclose ? CL_SERVER : CL_CLIENT;
	if (!raw && !C.pipe)
		die("-P must be at least 1");
	if (C.rate > 0 && ((C.mode != M_ECHO && C.mode != M_HTTP && C.mode != M_SYN) || C.per_conn))
		die("-Q is for echo and http on lasting connections, and syn");
	if ((C.mode == M_ECHO || C.mode == M_CONN) && !C.req)
		die("-r must be at least 1");
	if (C.mode == M_SYN) {
		uint32_t d = C.dst;
		if (C.rate <= 0)
			die("syn needs -Q RATE");
		if (d >> 24 != 10 && d >> 20 != 0xac1 && d >> 16 != 0xc0a8 && d >> 17 != 0xc612 >> 1)
			die("syn: only for a test host with a private or benchmark (198.18/15) address");
		C.total = C.total ? MIN(C.total, 10000000u) : 100000;
	}
	if (C.mode == M_HTTP) {
		char ip[16];
		struct in_addr a = {htonl(C.dst)};
		snprintf(ip, sizeof ip, "%s", inet_ntoa(a));
		if (asprintf(&httpreq, "GET %s HTTP/1.1\r\nHost: %s\r\n%s%s%s\r\n", C.path, C.host ? C.host : ip, C.hdr,
			     *C.hdr ? "\r\n" : "", C.hclose ? "Connection: close\r\n" : "") < 0)
			die("out of memory");
		C.req = (uint32_t)strlen(httpreq);
		hpre = zalloc((C.req + 1) * sizeof *hpre);
		presum(hpre, httpreq, C.req);
	}
	if (!C.resp)
		C.resp = C.req ? C.req : 1;
	while (C.wscale > 0 && C.window >> C.wscale > 65535 && C.wscale < 14)
		C.wscale++;
}

int main(int argc, char **argv)
{
	struct ifreq ifr = {0};
	struct sigaction sa = {.sa_handler = on_signal};
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	args(argc, argv);
	if (C.cpu >= 0) {
		cpu_set_t set;
		CPU_ZERO(&set);
		CPU_SET((size_t)C.cpu, &set);
		if (sched_setaffinity(0, sizeof set, &set))
			die("core %d: %s", C.cpu, strerror(errno));
	}
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
	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	tsc_calibrate();
	nips = C.src_hi - C.src_lo + 1;
	uint64_t seed = C.seed; /* the pattern does not depend on --seed */
	C.seed = 0x9e3779b97f4a7c15ULL;
	for (uint32_t i = 0; i < sizeof pat; i++)
		pat[i] = i < PERIOD ? (uint8_t)(rnd() >> 56) : pat[i - PERIOD];
	C.seed = seed * 0x9e3779b97f4a7c15ULL + 1;
	presum(pre, pat, sizeof pat);
	xsk_open();
	if (C.mode == M_REFLECT) {
		run_reflect();
		return 0;
	}
	if (C.mode == M_BLAST) {
		if (!C.have_mac)
			memset(dstmac, 0xff, 6);
		run_blast();
		return S.reqs || !C.pipe ? 0 : 1;
	}
	arp_resolve();
	tmpl_init();
	cur_port = (uint32_t)(epoch / 1000 % (C.phi - C.plo + 1));
	pmap = zalloc((size_t)nips * 65536 * sizeof *pmap);
	if (C.mode == M_SYN) {
		run_syn();
		return 0;
	}
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
	run_tcp();
	return failed || mismatched ? 1 : 0;
}
