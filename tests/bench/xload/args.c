/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Command line of xload: one table of options, those that are more than a value, and what only makes sense together. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/bench/xload/xload.h"

const char *const modes[MODES] = {"echo", "conn", "http", "rx", "tx", "syn", "reflect", "blast"};
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

enum kind { ON, OFF, INT, U32, U64, REAL, TEXT };

struct opt {
	const char *name; /* one letter: a short option */
	enum kind kind;
	void *to;
	double lo, hi;
};

static const struct opt opts[] = {
	{"i", TEXT, &C.ifname, 0, 0},
	{"q", INT, &C.queue, 0, 63},
	{"p", INT, &C.port, 1, 65535},
	{"c", U32, &C.conns, 1, 4e6},
	{"t", REAL, &C.secs, 0.01, 86400},
	{"W", REAL, &C.warm, 0, 3600},
	{"r", U32, &C.req, 0, 1e9},
	{"R", U32, &C.resp, 1, 4e9},
	{"P", U32, &C.pipe, 0, 65536},
	{"n", U32, &C.per_conn, 0, 4e9},
	{"N", U64, &C.total, 1, 1e15},
	{"Q", REAL, &C.rate, 1, 1e8},
	{"u", TEXT, &C.path, 0, 0},
	{"V", ON, &C.verify_all, 0, 0},
	{"b", ON, &C.block, 0, 0},
	{"g", ON, &C.skb, 0, 0},
	{"z", ON, &C.zc, 0, 0},
	{"C", INT, &C.cpu, 0, 1023},
	{"A", INT, &C.acks, 0, 200},
	{"D", U32, &C.delack, 0, 500},
	{"fixed", OFF, &C.poisson, 0, 0},
	{"host", TEXT, &C.host, 0, 0},
	{"header", TEXT, &C.hdr, 0, 0},
	{"http-close", ON, &C.hclose, 0, 0},
	{"no-verify", ON, &C.noverify, 0, 0},
	{"no-napi", OFF, &C.napi, 0, 0},
	{"ring", U32, &C.ring, 64, 32768},
	{"mss", INT, &C.mss, 64, 9000},
	{"wscale", INT, &C.wscale, -1, 14},
	{"no-ts", OFF, &C.ts, 0, 0},
	{"no-sack", OFF, &C.sack, 0, 0},
	{"window", U32, &C.window, 128, 1 << 29},
	{"cwnd", U32, &C.cwnd_max, 1000, 1 << 29},
	{"rto", U32, &C.rto, 5, 60000},
	{"retries", INT, &C.retries, 1, 50},
	{"ramp", U32, &C.ramp, 1, 1e6},
	{"reconnect", ON, &C.reconnect, 0, 0},
	{"max-fail", U32, &C.maxfail, 1, 4e9},
	{"csum-offload", ON, &C.csum_off, 0, 0},
	{"budget", U32, &C.budget, 1, 512},
	{"drop-rx", REAL, &C.drop_rx, 0, 90},
	{"drop-tx", REAL, &C.drop_tx, 0, 90},
	{"seed", U64, &C.seed, 1, 1e15},
	{"json", ON, &C.json, 0, 0},
};

#define OPTS (sizeof opts / sizeof *opts)

/* Options that are more than a value: letters, or numbers from here on. */
enum { O_CLOSE = 256, O_PORTS, O_HELPER, O_TABLE };

static const struct option others[] = {{"close", 1, 0, O_CLOSE},
				       {"ports", 1, 0, O_PORTS},
				       {"helper", 1, 0, O_HELPER},
				       {"help", 0, 0, 'h'}};

#define OTHERS (sizeof others / sizeof *others)

static void store(const struct opt *o, char *text)
{
	switch (o->kind) {
	case ON:
	case OFF:
		*(bool *)o->to = o->kind == ON;
		return;
	case INT:
		*(int *)o->to = (int)num(text, o->lo, o->hi);
		return;
	case U32:
		*(uint32_t *)o->to = (uint32_t)num(text, o->lo, o->hi);
		return;
	case U64:
		*(uint64_t *)o->to = (uint64_t)num(text, o->lo, o->hi);
		return;
	case REAL:
		*(double *)o->to = num(text, o->lo, o->hi);
		return;
	case TEXT:
		*(char **)o->to = text;
		return;
	}
}

static void helper_arg(char *text)
{
	char *colon = strchr(text, ':');

	if (colon)
		*colon++ = 0;
	C.helper = ip_arg(text);
	C.helper_port = colon ? port_arg(colon) : 0;
}

static void mac_arg(const char *text)
{
	unsigned m[6];

	if (sscanf(text, "%x:%x:%x:%x:%x:%x", &m[0], &m[1], &m[2], &m[3], &m[4], &m[5]) != 6)
		die("bad MAC address");
	for (int i = 0; i < 6; i++)
		dstmac[i] = (uint8_t)m[i];
	C.have_mac = true;
}

static void other_arg(int o)
{
	switch (o) {
	case 's':
		range(optarg, &C.src_lo, &C.src_hi, ip_arg);
		return;
	case 'd':
		C.dst = ip_arg(optarg);
		return;
	case 'm':
		mac_arg(optarg);
		return;
	case 'M':
		C.mode = pick(optarg, modes, MODES);
		return;
	case O_CLOSE:
		C.closeby = pick(optarg, closes, 3);
		return;
	case O_PORTS:
		range(optarg, &C.plo, &C.phi, port_arg);
		return;
	case O_HELPER:
		helper_arg(optarg);
		return;
	case 'h':
		usage();
		return;
	default:
		exit(2);
	}
}

/* Find @o, what getopt returned, in the table. */
static const struct opt *table_find(int o)
{
	if (o >= O_TABLE)
		return &opts[o - O_TABLE];
	for (size_t i = 0; i < OPTS; i++)
		if (opts[i].name[0] == o && !opts[i].name[1])
			return &opts[i];
	return NULL;
}

static void parse(int argc, char **argv)
{
	struct option longs[OPTS + OTHERS + 1] = {0};
	char shorts[2 * OPTS + 16] = "s:d:m:M:h", *s = shorts + strlen(shorts);
	size_t n = 0;
	int o;

	for (size_t i = 0; i < OPTS; i++) {
		bool value = opts[i].kind != ON && opts[i].kind != OFF;

		if (opts[i].name[1]) {
			longs[n++] = (struct option){opts[i].name, value, 0, O_TABLE + (int)i};
			continue;
		}
		*s++ = opts[i].name[0];
		if (value)
			*s++ = ':';
	}
	memcpy(longs + n, others, sizeof others);
	while ((o = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
		const struct opt *t = table_find(o);

		if (t)
			store(t, optarg);
		else
			other_arg(o);
	}
}

static void syn_args(void)
{
	uint32_t d = C.dst;

	if (C.rate <= 0)
		die("syn needs -Q RATE");
	if (d >> 24 != 10 && d >> 20 != 0xac1 && d >> 16 != 0xc0a8 && d >> 17 != 0xc612 >> 1)
		die("syn: only for a test host with a private or benchmark (198.18/15) address");
	C.total = C.total ? MIN(C.total, 10000000u) : 100000;
}

static void http_args(void)
{
	struct in_addr a = {htonl(C.dst)};
	char ip[16];

	snprintf(ip, sizeof ip, "%s", inet_ntoa(a));
	if (asprintf(&httpreq, "GET %s HTTP/1.1\r\nHost: %s\r\n%s%s%s\r\n", C.path, C.host ? C.host : ip, C.hdr,
		     *C.hdr ? "\r\n" : "", C.hclose ? "Connection: close\r\n" : "") < 0)
		die("out of memory");
	C.req = (uint32_t)strlen(httpreq);
	hpre = zalloc((C.req + 1) * sizeof *hpre);
	presum(hpre, httpreq, C.req);
}

/* What was not said follows from the rest. */
static void defaults(bool raw)
{
	if (!C.helper)
		C.helper = C.dst;
	if (!C.helper_port)
		C.helper_port = (uint32_t)C.port;
	if (!C.ring) /* room for one response of every request in flight, within reason */
		for (C.ring = 1024; C.ring < 16384 && C.ring < (uint64_t)C.conns * C.pipe && !raw; C.ring *= 2)
			;
	if ((C.mode == M_CONN && !C.per_conn) || (C.mode == M_HTTP && C.hclose))
		C.per_conn = 1;
	if (C.mode == M_RX || C.mode == M_TX)
		C.per_conn = 0;
	if (C.closeby < 0)
		C.closeby = C.mode == M_HTTP && C.hclose ? CL_SERVER : CL_CLIENT;
}

void args(int argc, char **argv)
{
	bool raw;

	C.closeby = -1;
	parse(argc, argv);
	raw = C.mode == M_REFLECT || C.mode == M_BLAST;
	if (optind != argc || !C.ifname || (!raw && (!C.dst || !C.src_lo)))
		die("needs -i, -s and -d (see -h)");
	if (C.src_hi - C.src_lo > 255)
		die("at most 256 source addresses");
	defaults(raw);
	if (C.ring & (C.ring - 1))
		die("--ring must be a power of two");
	if (!raw && !C.pipe)
		die("-P must be at least 1");
	if (C.rate > 0 && ((C.mode != M_ECHO && C.mode != M_HTTP && C.mode != M_SYN) || C.per_conn))
		die("-Q is for echo and http on lasting connections, and syn");
	if ((C.mode == M_ECHO || C.mode == M_CONN) && !C.req)
		die("-r must be at least 1");
	if (C.mode == M_SYN)
		syn_args();
	if (C.mode == M_HTTP)
		http_args();
	if (!C.resp)
		C.resp = C.req ? C.req : 1;
	while (C.wscale > 0 && C.window >> C.wscale > 65535 && C.wscale < 14)
		C.wscale++;
}
