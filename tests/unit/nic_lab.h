/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A small world for the tests of service/nic/: this process in a network namespace of its own
 * with the NIC (nica, an end of a veth pair, two queues), its peer nicb and a TAP; frames that
 * are told apart by a tag in their TTL, and packet sockets on both ends to see who got which.
 */
#ifndef TESTS_UNIT_NIC_LAB_H
#define TESTS_UNIT_NIC_LAB_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cmocka.h>

#include "service/nic/nic.h"

#define FIN 0x01
#define RST 0x04
#define ACK 0x10
#define FLOWS 64
#define WORD_FIN (1ull << 32)

static const uint8_t mac_a[6] = {2, 0, 0, 0, 0x71, 1}, mac_b[6] = {2, 0, 0, 0, 0x71, 2};
static int tap_fd = -1, tap_ifindex, nica_ifindex;
static int sock_a = -1, sock_b = -1; /* packet sockets: what Linux gets and sends on nica; the peer */
static char why[256];

static inline void sh(const char *cmd)
{
	if (system(cmd))
		fail_msg("failed: %s", cmd);
}

static inline int packet_socket(const char *ifname)
{
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK, htons(ETH_P_ALL)), size = 4 << 20;
	struct sockaddr_ll sll = {.sll_family = AF_PACKET,
				  .sll_protocol = htons(ETH_P_ALL),
				  .sll_ifindex = (int)if_nametoindex(ifname)};

	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
	assert_int_equal(bind(fd, (struct sockaddr *)&sll, sizeof sll), 0);
	return fd;
}

static inline int lab_setup(void **state)
{
	struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI};

	(void)state;
	if (geteuid())
		return 0;
	assert_int_equal(unshare(CLONE_NEWNET), 0);
	sh("sysctl -qw net.ipv6.conf.default.disable_ipv6=1 2>/dev/null || true");
	sh("ip link add nica numrxqueues 2 numtxqueues 2 address 02:00:00:00:71:01 type veth "
	   "peer name nicb address 02:00:00:00:71:02 numrxqueues 1 numtxqueues 1");
	sh("ip link set nica up && ip link set nicb up && ip link set nica arp off && ip link set nicb arp off");
	strcpy(ifr.ifr_name, "nictap");
	tap_fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	assert_int_equal(ioctl(tap_fd, TUNSETIFF, &ifr), 0);
	sh("ip link set nictap address 02:00:00:00:71:01 arp off up");
	tap_ifindex = (int)if_nametoindex("nictap");
	nica_ifindex = (int)if_nametoindex("nica");
	sock_a = packet_socket("nica");
	sock_b = packet_socket("nicb");
	return 0;
}

/* ---- frames ---- */

struct spec {
	bool v6, icmp, vlan, fragment, options;
	uint16_t src, dst;
	uint8_t flags;
	uint16_t payload;
	uint8_t tag; /* found again in the TTL */
	bool from_a; /* nica sends */
};

static inline void ends(const struct spec *s, uint8_t *src, uint8_t *dst)
{
	uint8_t a = s->from_a ? 1 : 2, b = s->from_a ? 2 : 1;

	if (s->v6) {
		memset(src, 0, 16);
		memset(dst, 0, 16);
		src[0] = dst[0] = 0xfd;
		src[15] = a;
		dst[15] = b;
	} else {
		memcpy(src, (uint8_t[]){10, 71, 0, a}, 4);
		memcpy(dst, (uint8_t[]){10, 71, 0, b}, 4);
	}
}

static inline size_t put_ip(uint8_t *p, const struct spec *s, uint8_t proto, size_t len, bool reverse)
{
	uint8_t src[16], dst[16];
	size_t hl = s->v6 ? 40 : s->options ? 24 : 20, al = s->v6 ? 16 : 4;

	ends(s, reverse ? dst : src, reverse ? src : dst);
	memset(p, 0, hl);
	if (s->v6) {
		p[0] = 0x60;
		p[4] = (uint8_t)(len >> 8);
		p[5] = (uint8_t)len;
		p[6] = proto;
		p[7] = s->tag;
	} else {
		p[0] = (uint8_t)(0x40 | hl / 4);
		p[2] = (uint8_t)((hl + len) >> 8);
		p[3] = (uint8_t)(hl + len);
		p[6] = s->fragment ? 0x20 : 0x40;
		p[8] = s->tag;
		p[9] = proto;
		if (s->options)
			memset(p + 20, 1, 4);
	}
	memcpy(p + (s->v6 ? 8 : 12), src, al);
	memcpy(p + (s->v6 ? 8 : 12) + al, dst, al);
	return hl;
}

static inline size_t put_tcp(uint8_t *p, uint16_t src, uint16_t dst, uint8_t flags, uint16_t payload)
{
	memset(p, 0, 20u + payload);
	p[0] = (uint8_t)(src >> 8);
	p[1] = (uint8_t)src;
	p[2] = (uint8_t)(dst >> 8);
	p[3] = (uint8_t)dst;
	p[12] = 0x50;
	p[13] = flags;
	return 20u + payload;
}

static inline size_t build(uint8_t *f, const struct spec *s)
{
	size_t n = 12, inner;

	memcpy(f, s->from_a ? mac_b : mac_a, 6);
	memcpy(f + 6, s->from_a ? mac_a : mac_b, 6);
	if (s->vlan) {
		memcpy(f + n, (uint8_t[]){0x81, 0, 0, 7}, 4);
		n += 4;
	}
	memcpy(f + n, s->v6 ? (uint8_t[]){0x86, 0xdd} : (uint8_t[]){8, 0}, 2);
	n += 2;
	if (!s->icmp) {
		n += put_ip(f + n, s, 6, 20u + s->payload, false);
		return n + put_tcp(f + n, s->src, s->dst, s->flags, s->payload);
	}
	/* an error from the peer about a segment that we (dst) sent to it (src) */
	inner = 8 + (s->v6 ? 40 : 20) + 20;
	n += put_ip(f + n, s, s->v6 ? 58 : 1, inner, false);
	memset(f + n, 0, 8);
	f[n] = s->v6 ? 2 : 3;
	n += 8;
	n += put_ip(f + n, s, 6, 20, true);
	return n + put_tcp(f + n, s->dst, s->src, 0x10, 0);
}

static inline struct flow_key key_of(bool v6, uint16_t local_port, uint16_t remote_port)
{
	struct spec s = {.v6 = v6, .from_a = true};
	struct flow_key k = {.local_port = htons(local_port), .remote_port = htons(remote_port)};
	uint8_t src[16], dst[16];

	ends(&s, src, dst);
	if (v6) {
		memcpy(k.local.b, src, 16);
		memcpy(k.remote.b, dst, 16);
	} else {
		k.local.w[2] = k.remote.w[2] = htonl(0xffff);
		memcpy(&k.local.w[3], src, 4);
		memcpy(&k.remote.w[3], dst, 4);
	}
	return k;
}

static inline void send_on(int fd, const struct spec *s)
{
	uint8_t f[2048] = {0};
	size_t n = build(f, s);

	assert_int_equal(send(fd, f, n, 0), n);
}

static inline uint8_t tag_of(const uint8_t *f, size_t len)
{
	size_t at = f[12] == 0x81 ? 18 : 14;

	return len > at + 8 ? f[at - 2] == 0x86 ? f[at + 7] : f[at + 8] : 0;
}

/* Was the frame with @tag received from outside on a packet socket, or read from the TAP, within 200 ms? */
static inline bool arrived(int fd, uint8_t tag)
{
	struct sockaddr_ll from;
	struct pollfd pfd = {.fd = fd, .events = POLLIN};
	uint8_t f[2048];

	for (int i = 0; i < 200; i++) {
		socklen_t len = sizeof from;
		ssize_t n;

		from.sll_pkttype = PACKET_HOST;
		n = fd == tap_fd ? read(fd, f, sizeof f) : recvfrom(fd, f, sizeof f, 0, (struct sockaddr *)&from, &len);
		if (n > 0 && from.sll_pkttype != PACKET_OUTGOING && tag_of(f, (size_t)n) == tag)
			return true;
		if (n < 0 && poll(&pfd, 1, 200) == 0)
			return false;
	}
	return false;
}

static inline bool port_gets(struct nic *n, uint8_t tag)
{
	for (int i = 0; i < 50; i++) {
		for (uint32_t q = 0; q < nic_get_info(n)->queues; q++) {
			struct port *p = nic_port(n, q);
			struct frame f[8];
			bool ready = port_rx_ready(p), hit = false;
			uint32_t got = port_rx(p, f, 8);

			assert_int_equal(ready, got > 0);
			for (uint32_t k = 0; k < got; k++)
				hit |= tag_of(f[k].data, f[k].len) == tag;
			port_rx_release(p, got);
			if (hit)
				return true;
		}
		usleep(2000);
	}
	return false;
}

static inline void drain(int fd)
{
	uint8_t f[2048];

	usleep(2000);
	for (int i = 0; i < 5000 && read(fd, f, sizeof f) > 0; i++)
		;
}

static inline struct nic *open_nic(enum nic_mode mode, bool clsact)
{
	struct nic_config cfg = {.ifname = "nica",
				 .mode = mode,
				 .tap_ifindex = tap_ifindex,
				 .max_flows = FLOWS,
				 .frames = 1024,
				 .force_clsact = clsact};
	struct nic *n = NULL;

	why[0] = 0;
	if (nic_open(&cfg, &n, why, sizeof why))
		fail_msg("nic_open: %s", why);
	drain(sock_a);
	drain(sock_b);
	drain(tap_fd);
	return n;
}

static inline uint32_t attached(int ifindex, int type)
{
	uint32_t ids[8], n = 8;

	return bpf_prog_query(ifindex, (enum bpf_attach_type)type, 0, NULL, ids, &n) ? 0 : n;
}

/* Nothing of ours is attached. */
static inline bool clean(void)
{
	uint32_t id = 0;

	assert_int_equal(bpf_xdp_query_id(nica_ifindex, 0, &id), 0);
	return !id && !attached(nica_ifindex, 47) && !attached(tap_ifindex, 46) && !attached(tap_ifindex, 47) &&
	       !system("test -z \"$(tc filter show dev nica egress)$(tc filter show dev nictap ingress)$(tc filter "
		       "show dev nictap egress)\"");
}

#define ROOT_ONLY()             \
	do {                    \
		(void)state;    \
		if (geteuid())  \
			skip(); \
	} while (0)

#endif
