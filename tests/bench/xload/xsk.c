/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The AF_XDP socket: umem, rings, the XDP program (assembled by hand), NAPI busy polling. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <errno.h>
#include <linux/if_link.h>
#include <linux/if_xdp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/xload/xload.h"

#ifndef SO_PREFER_BUSY_POLL
#define SO_PREFER_BUSY_POLL 69
#define SO_BUSY_POLL_BUDGET 70
#endif
#define XL_MAX_TX_SKB_BUDGET 9 /* SOL_XDP option of Linux >= 6.17, ignored where absent */
#define XL_UMEM_TX_METADATA_LEN (1 << 2)
#define XL_TX_METADATA (1 << 1) /* xdp_desc.options */

/* The XDP program, assembled by hand: TCP over IPv4 to one of our addresses, ARP for
 * one of our addresses and frames of RAWTYPE go to the socket, all else to the kernel. */
static void xdp_attach(void)
{
#define I(c, d, s, o, i)                                                                 \
	{                                                                                \
		.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (int)(i) \
	}
	bool raw = C.mode == M_REFLECT || C.mode == M_BLAST;
	uint32_t lo = raw ? UINT32_MAX : C.src_lo, span = raw ? 0 : C.src_hi - C.src_lo;
	int map = bpf_map_create(BPF_MAP_TYPE_XSKMAP, "xload", 4, 4, 64, NULL), prog, link = -1;
	uint32_t key = (uint32_t)C.queue;
	static char log[8192];
	if (map < 0)
		die("xskmap: %s", strerror(errno));
	struct bpf_insn in[] = {
		I(BPF_ALU64 | BPF_MOV | BPF_X, 6, 1, 0, 0),
		I(BPF_LDX | BPF_W | BPF_MEM, 2, 1, 0, 0), /* r2 = data */
		I(BPF_LDX | BPF_W | BPF_MEM, 3, 1, 4, 0), /* r3 = data_end */
		I(BPF_ALU64 | BPF_MOV | BPF_X, 4, 2, 0, 0),
		I(BPF_ALU64 | BPF_ADD | BPF_K, 4, 0, 0, 42),
		I(BPF_JMP | BPF_JGT | BPF_X, 4, 3, 18, 0), /* shorter than 42: pass */
		I(BPF_LDX | BPF_H | BPF_MEM, 5, 2, 12, 0), /* r5 = ethertype */
		I(BPF_JMP | BPF_JEQ | BPF_K, 5, 0, 10, htons(RAWTYPE)),
		I(BPF_JMP | BPF_JEQ | BPF_K, 5, 0, 5, htons(0x0806)),
		I(BPF_JMP | BPF_JNE | BPF_K, 5, 0, 14, htons(0x0800)),
		I(BPF_LDX | BPF_B | BPF_MEM, 4, 2, 23, 0), /* IP protocol */
		I(BPF_JMP | BPF_JNE | BPF_K, 4, 0, 12, 6),
		I(BPF_LDX | BPF_W | BPF_MEM, 4, 2, 30, 0), /* IP destination */
		I(BPF_JMP | BPF_JA, 0, 0, 1, 0),
		I(BPF_LDX | BPF_W | BPF_MEM, 4, 2, 38, 0), /* ARP target address */
		I(BPF_ALU | BPF_END | BPF_TO_BE, 4, 0, 0, 32),
		I(BPF_ALU | BPF_SUB | BPF_K, 4, 0, 0, lo),
		I(BPF_JMP32 | BPF_JGT | BPF_K, 4, 0, 6, span),
		I(BPF_LDX | BPF_W | BPF_MEM, 2, 6, 16, 0), /* rx_queue_index */
		I(BPF_LD | BPF_DW | BPF_IMM, 1, BPF_PSEUDO_MAP_FD, 0, map),
		I(0, 0, 0, 0, 0),
		I(BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, XDP_PASS),
		I(BPF_JMP | BPF_CALL, 0, 0, 0, BPF_FUNC_redirect_map),
		I(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
		I(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, XDP_PASS),
		I(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
	};
	LIBBPF_OPTS(bpf_prog_load_opts, po, .log_buf = log, .log_size = sizeof log, .log_level = 1);
	prog = bpf_prog_load(BPF_PROG_TYPE_XDP, "xload", "GPL", in, sizeof in / sizeof *in, &po);
	if (prog < 0)
		die("XDP program: %s\n%s", strerror(errno), log);
	for (int skb = C.skb; skb < 2 && link < 0; skb++) {
		LIBBPF_OPTS(bpf_link_create_opts, lo_, .flags = skb ? XDP_FLAGS_SKB_MODE : XDP_FLAGS_DRV_MODE);
		link = bpf_link_create(prog, ifindex, BPF_XDP, &lo_); /* detaches itself at exit */
		strcpy(xdpmode, skb ? "generic" : "native");
	}
	if (link < 0)
		die("attach XDP to %s: %s", C.ifname, strerror(errno));
	if (bpf_map_update_elem(map, &key, &xfd, 0))
		die("xskmap update: %s", strerror(errno));
#undef I
}

static void ring_map(struct ring *r, const struct xdp_ring_offset *o, size_t esz, uint64_t pgoff)
{
	r->len = o->desc + C.ring * esz;
	r->map = mmap(NULL, r->len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, xfd, (off_t)pgoff);
	if (r->map == MAP_FAILED)
		die("mmap ring: %s", strerror(errno));
	r->prod = (void *)((char *)r->map + o->producer);
	r->cons = (void *)((char *)r->map + o->consumer);
	r->flags = (void *)((char *)r->map + o->flags);
	r->desc = (char *)r->map + o->desc;
	r->mask = C.ring - 1;
	r->p = *r->prod;
	r->c = *r->cons;
}

/* NAPI busy polling: the receive work for our interface is then done in our own system
 * calls (on our core) and not in softirq on the core of the sender. */
static int sysfs(const char *name, const char *val, char *old)
{
	char path[128];
	FILE *f;
	snprintf(path, sizeof path, "/sys/class/net/%s/%s", C.ifname, name);
	if (old && (!(f = fopen(path, "r")) || !fgets(old, 32, f) || fclose(f)))
		return -1;
	if (!(f = fopen(path, "w")))
		return -1;
	fputs(val, f);
	return fclose(f);
}
static void sys_restore(void)
{
	if (sysset) {
		sysfs("napi_defer_hard_irqs", sysold[0], NULL);
		sysfs("gro_flush_timeout", sysold[1], NULL);
	}
}
/* AF_XDP busy polling finds its NAPI through the queue-to-NAPI map, which veth does not fill
 * in (Linux 6.13 and later). But any socket that got a packet through that NAPI can poll it, so
 * one idle kernel TCP connection to the server (helper) serves as the handle. */
static void napi_setup(void)
{
	int one = 1, us = 20, budget = (int)C.budget, id = 0;
	socklen_t l = sizeof id;
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)C.helper_port)};
	struct pollfd pf = {.events = POLLOUT};
	if (!C.helper)
		return;
	a.sin_addr.s_addr = htonl(C.helper);
	pf.fd = hfd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(hfd, SOL_SOCKET, SO_BINDTODEVICE, C.ifname, (socklen_t)strlen(C.ifname));
	setsockopt(hfd, SOL_SOCKET, SO_RCVBUF, &one, sizeof one);
	connect(hfd, (void *)&a, sizeof a);
	if (poll(&pf, 1, 1000) == 1 && !getsockopt(hfd, SOL_SOCKET, SO_INCOMING_NAPI_ID, &id, &l) && id > 0 &&
	    !setsockopt(hfd, SOL_SOCKET, SO_PREFER_BUSY_POLL, &one, sizeof one) &&
	    !setsockopt(hfd, SOL_SOCKET, SO_BUSY_POLL, &us, sizeof us) &&
	    !setsockopt(hfd, SOL_SOCKET, SO_BUSY_POLL_BUDGET, &budget, sizeof budget) &&
	    !sysfs("napi_defer_hard_irqs", "1000", sysold[0]) && !sysfs("gro_flush_timeout", "100000000", sysold[1])) {
		sysset = true;
		atexit(sys_restore);
		return;
	}
	close(hfd);
	hfd = -1;
	fprintf(stderr,
		"xload: no NAPI busy polling (no kernel connection through %s): receive work stays on the sender's "
		"core\n",
		C.ifname);
}

void xsk_open(void)
{
	uint32_t nfr = 2 * C.ring, n = C.ring;
	int b = (int)C.ring;
	struct xdp_mmap_offsets off;
	socklen_t ol = sizeof off;
	struct sockaddr_xdp sa = {.sxdp_family = AF_XDP,
				  .sxdp_ifindex = (uint32_t)ifindex,
				  .sxdp_queue_id = (uint32_t)C.queue};
	struct { /* xdp_umem_reg of Linux >= 6.8; older kernels take the shorter prefix */
		uint64_t addr, len;
		uint32_t chunk, headroom, flags, mdlen;
	} ur = {0};

	if (C.csum_off)
		mdlen = 24;
	if ((uint32_t)mtu + 14 + 256 + mdlen > fsz)
		fsz = 4096;
	if ((uint32_t)mtu + 14 + 256 + mdlen > fsz)
		die("MTU %d is too large (at most %u)", mtu, fsz - 270 - mdlen);
	umem = mmap(NULL, (size_t)nfr * fsz, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (umem == MAP_FAILED || (xfd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0)) < 0)
		die("AF_XDP socket: %s", strerror(errno));
	ur.addr = (uint64_t)umem;
	ur.len = (uint64_t)nfr * fsz;
	ur.chunk = fsz;
	ur.mdlen = mdlen;
	ur.flags = mdlen ? XL_UMEM_TX_METADATA_LEN : 0;
	if (setsockopt(xfd, SOL_XDP, XDP_UMEM_REG, &ur, mdlen ? sizeof ur : sizeof(struct xdp_umem_reg)) ||
	    setsockopt(xfd, SOL_XDP, XDP_UMEM_FILL_RING, &n, sizeof n) ||
	    setsockopt(xfd, SOL_XDP, XDP_UMEM_COMPLETION_RING, &n, sizeof n) ||
	    setsockopt(xfd, SOL_XDP, XDP_RX_RING, &n, sizeof n) ||
	    setsockopt(xfd, SOL_XDP, XDP_TX_RING, &n, sizeof n) ||
	    getsockopt(xfd, SOL_XDP, XDP_MMAP_OFFSETS, &off, &ol))
		die("AF_XDP setup: %s", strerror(errno));
	setsockopt(xfd, SOL_XDP, XL_MAX_TX_SKB_BUDGET, &b, sizeof b);
	ring_map(&rx, &off.rx, sizeof(struct xdp_desc), XDP_PGOFF_RX_RING);
	ring_map(&tx, &off.tx, sizeof(struct xdp_desc), XDP_PGOFF_TX_RING);
	ring_map(&fq, &off.fr, sizeof(uint64_t), XDP_UMEM_PGOFF_FILL_RING);
	ring_map(&cq, &off.cr, sizeof(uint64_t), XDP_UMEM_PGOFF_COMPLETION_RING);
	txfree = zalloc(n * sizeof *txfree);
	for (uint32_t i = 0; i < n; i++) {
		((uint64_t *)fq.desc)[i] = (uint64_t)i * fsz;
		txfree[ntxfree++] = (uint64_t)(nfr - 1 - i) * fsz;
	}
	fq.p = n;
	__atomic_store_n(fq.prod, fq.p, __ATOMIC_RELEASE);
	sa.sxdp_flags = XDP_USE_NEED_WAKEUP | (C.zc ? XDP_ZEROCOPY : XDP_COPY);
	if (bind(xfd, (void *)&sa, sizeof sa)) {
		sa.sxdp_flags = XDP_USE_NEED_WAKEUP | XDP_COPY;
		if (!C.zc || bind(xfd, (void *)&sa, sizeof sa))
			die("bind AF_XDP to %s queue %d: %s", C.ifname, C.queue, strerror(errno));
		C.zc = false;
		fprintf(stderr, "xload: no zero copy on %s, using copy mode\n", C.ifname);
	}
	xdp_attach();
	if (C.napi && !C.block)
		napi_setup();
	C.napi = hfd >= 0;
}

static inline void reap(void)
{
	uint32_t p = __atomic_load_n(cq.prod, __ATOMIC_ACQUIRE);
	while (cq.c != p) {
		uint64_t a = ((uint64_t *)cq.desc)[cq.c++ & cq.mask] & ~(uint64_t)(fsz - 1);
		if (C.mode == M_REFLECT) /* a received frame was sent: receive into it again */
			((uint64_t *)fq.desc)[fq.p++ & fq.mask] = a;
		else
			txfree[ntxfree++] = a;
	}
	if (C.mode == M_REFLECT)
		__atomic_store_n(fq.prod, fq.p, __ATOMIC_RELEASE);
	__atomic_store_n(cq.cons, cq.c, __ATOMIC_RELEASE);
}

/* Hand the filled TX descriptors to the kernel. In copy mode the frames go through the
 * driver within sendto(); EAGAIN means that its batch limit or a full peer stopped it. */
static void kick(void)
{
	__atomic_store_n(tx.prod, tx.p, __ATOMIC_RELEASE);
	for (int i = 0; i < 64; i++) {
		uint32_t before = __atomic_load_n(tx.cons, __ATOMIC_ACQUIRE);
		if (before == tx.p || !(__atomic_load_n(tx.flags, __ATOMIC_RELAXED) & XDP_RING_NEED_WAKEUP))
			break;
		S.kicks++;
		if (sendto(xfd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 && errno != EAGAIN) {
			S.txfail++;
			if (errno != EBUSY && errno != ENOBUFS)
				die("sendto: %s", strerror(errno));
			break;
		}
		if (__atomic_load_n(tx.cons, __ATOMIC_ACQUIRE) == before)
			break; /* peer is full: try again later */
	}
	tx.c = __atomic_load_n(tx.cons, __ATOMIC_ACQUIRE);
	reap();
}

uint8_t *tx_frame(void)
{
	if (unlikely(!ntxfree)) {
		kick();
		if (!ntxfree) {
			S.nobuf++;
			return NULL;
		}
	}
	return umem + txfree[ntxfree - 1] + mdlen;
}

void tx_commit(uint32_t len)
{
	struct xdp_desc *d = (struct xdp_desc *)tx.desc + (tx.p & tx.mask);
	if (unlikely(C.drop_tx > 0) && rnd1() * 100 < C.drop_tx) {
		S.dropped++; /* the frame stays on the free stack */
		return;
	}
	S.txp++;
	S.txb += len;
	d->addr = txfree[--ntxfree] + mdlen;
	d->len = len;
	d->options = mdlen ? XL_TX_METADATA : 0;
	tx.p++;
}

static uint32_t rx_batch(void)
{
	uint32_t p = __atomic_load_n(rx.prod, __ATOMIC_ACQUIRE), n = MIN(p - rx.c, 256u);
	for (uint32_t i = 0; i < n; i++) {
		struct xdp_desc *d = (struct xdp_desc *)rx.desc + (rx.c++ & rx.mask);
		if (i + 1 < n)
			__builtin_prefetch(umem + ((struct xdp_desc *)rx.desc)[rx.c & rx.mask].addr);
		S.rxp++;
		S.rxb += d->len;
		if (unlikely(C.drop_rx > 0) && rnd1() * 100 < C.drop_rx)
			S.dropped++;
		else
			handle(umem + d->addr, d->len);
		((uint64_t *)fq.desc)[fq.p++ & fq.mask] = d->addr & ~(uint64_t)(fsz - 1);
	}
	if (n) {
		__atomic_store_n(rx.cons, rx.c, __ATOMIC_RELEASE);
		__atomic_store_n(fq.prod, fq.p, __ATOMIC_RELEASE);
	}
	return n;
}

/* One round of I/O: send what is queued, and else let the kernel poll our NAPI, or sleep. */
uint32_t io_round(uint64_t sleep_ns)
{
	static char junk[64];
	if (tx.p != tx.c)
		kick();
	if (C.napi) {
		if (__atomic_load_n(rx.prod, __ATOMIC_ACQUIRE) == rx.c) {
			S.polls++;
			recv(hfd, junk, sizeof junk, MSG_DONTWAIT); /* polls our NAPI once */
		}
	} else if (C.block && sleep_ns && __atomic_load_n(rx.prod, __ATOMIC_ACQUIRE) == rx.c) {
		struct pollfd pf = {.fd = xfd, .events = POLLIN};
		struct timespec ts = {.tv_nsec = (long)MIN(sleep_ns, 100000000u)};
		S.polls++;
		ppoll(&pf, 1, &ts, NULL);
	}
	now = __rdtsc();
	ms = (uint32_t)((epoch + ns_of(now - tsc0)) / 1000000);
	return C.mode == M_REFLECT ? 0 : rx_batch();
}
