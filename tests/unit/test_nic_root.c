/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The NIC on a veth pair in a network namespace of its own: which frames come to the port,
 * which stay Linux's, what tc egress redirects and counts, what the TAP injects, and that a
 * killed process leaves nothing attached. Skipped unless root.
 */
/* links: service/nic/nic.c service/nic/port.c service/nic/links.c service/nic/attach.c service/nic/probe.c service/base/log.c */
/* libs: -lxdp -lbpf */
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
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
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

static void sh(const char *cmd)
{
	if (system(cmd))
		fail_msg("failed: %s", cmd);
}

static int packet_socket(const char *ifname)
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

static int lab_setup(void **state)
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

static void ends(const struct spec *s, uint8_t *src, uint8_t *dst)
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

static size_t put_ip(uint8_t *p, const struct spec *s, uint8_t proto, size_t len, bool reverse)
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

static size_t put_tcp(uint8_t *p, uint16_t src, uint16_t dst, uint8_t flags, uint16_t payload)
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

static size_t build(uint8_t *f, const struct spec *s)
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

static struct flow_key key_of(bool v6, uint16_t local_port, uint16_t remote_port)
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

static void send_on(int fd, const struct spec *s)
{
	uint8_t f[2048] = {0};
	size_t n = build(f, s);

	assert_int_equal(send(fd, f, n, 0), n);
}

static uint8_t tag_of(const uint8_t *f, size_t len)
{
	size_t at = f[12] == 0x81 ? 18 : 14;

	return len > at + 8 ? f[at - 2] == 0x86 ? f[at + 7] : f[at + 8] : 0;
}

/* Was the frame with @tag received from outside on a packet socket, or read from the TAP, within 200 ms? */
static bool arrived(int fd, uint8_t tag)
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

static bool port_gets(struct nic *n, uint8_t tag)
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

static void drain(int fd)
{
	uint8_t f[2048];

	usleep(2000);
	for (int i = 0; i < 5000 && read(fd, f, sizeof f) > 0; i++)
		;
}

static struct nic *open_nic(enum nic_mode mode, bool clsact)
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

static uint32_t attached(int ifindex, int type)
{
	uint32_t ids[8], n = 8;

	return bpf_prog_query(ifindex, (enum bpf_attach_type)type, 0, NULL, ids, &n) ? 0 : n;
}

static bool clean(void)
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

/* ---- tests ---- */

static void test_probe(void **state)
{
	struct nic_info info;

	ROOT_ONLY();
	assert_int_equal(nic_probe("nica", &info), 0);
	assert_int_equal(info.queues, 2);
	assert_int_equal(info.mtu, 1500);
	assert_true(info.up);
	assert_memory_equal(info.mac, mac_a, 6);
	assert_string_equal(info.driver, "veth");
	assert_int_equal(nic_probe("nic-none", &info), -ENODEV);
	assert_int_equal(nic_probe("lo", &info), -EAFNOSUPPORT);
}

static void test_refused_without_privileges(void **state)
{
	struct nic_config cfg = {.ifname = "nica", .tap_ifindex = tap_ifindex, .max_flows = FLOWS};
	struct nic *n = NULL;
	int status, rc;
	pid_t pid;

	ROOT_ONLY();
	pid = fork();
	if (!pid) {
		rc = setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534);
		rc = rc ? rc : nic_open(&cfg, &n, why, sizeof why);
		print_message("%s\n", why);
		_exit(rc != -EPERM);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void test_refusals(void **state)
{
	struct nic_config cfg = {.ifname = "nic-none", .tap_ifindex = tap_ifindex, .max_flows = FLOWS, .frames = 1024};
	struct nic *n = NULL, *other;

	ROOT_ONLY();
	assert_int_equal(nic_open(&cfg, &n, why, sizeof why), -ENODEV);
	print_message("%s\n", why);
	cfg.ifname = "lo";
	assert_int_equal(nic_open(&cfg, &n, why, sizeof why), -EAFNOSUPPORT);
	print_message("%s\n", why);
	cfg.ifname = "nica";
	cfg.frames = 1000;
	assert_int_equal(nic_open(&cfg, &n, why, sizeof why), -EINVAL);
	print_message("%s\n", why);
	assert_true(clean());
	cfg.frames = 1024;
	other = open_nic(NIC_SHARED, false);
	assert_int_equal(nic_open(&cfg, &n, why, sizeof why), -EBUSY);
	print_message("%s\n", why);
	nic_close(other);
	assert_true(clean());
	sh("ip link set nica mtu 3900");
	assert_int_equal(nic_open(&cfg, &n, why, sizeof why), -EMSGSIZE);
	print_message("%s\n", why);
	sh("ip link set nica mtu 1500 && ip link set nicb mtu 9000");
	assert_true(nic_open(&cfg, &n, why, sizeof why) < 0);
	print_message("%s\n", why);
	assert_null(n);
	/* generic XDP does in exclusive mode, if allowed */
	cfg.mode = NIC_EXCLUSIVE;
	cfg.allow_generic = true;
	assert_int_equal(nic_open(&cfg, &n, why, sizeof why), 0);
	assert_false(nic_get_info(n)->native);
	send_on(sock_b, &(struct spec){.src = 1, .dst = 2, .flags = ACK, .tag = 60});
	assert_true(port_gets(n, 60));
	nic_close(n);
	sh("ip link set nicb mtu 1500");
	assert_true(clean());
}

static void test_shared_receive(void **state)
{
	struct nic *n;
	struct flow_key k4 = key_of(false, 80, 4000), k6 = key_of(true, 80, 4000);
	const struct {
		struct spec s;
		bool ours;
	} cases[] = {
		{{.src = 4000, .dst = 80, .flags = ACK, .payload = 10}, true},
		{{.src = 4000, .dst = 80, .flags = RST}, true},
		{{.src = 4001, .dst = 80, .flags = ACK}, false},
		{{.src = 80, .dst = 4000, .flags = ACK}, false},
		{{.src = 4000, .dst = 80, .flags = ACK, .v6 = true, .payload = 1000}, true},
		{{.src = 4001, .dst = 80, .flags = ACK, .v6 = true}, false},
		{{.src = 4000, .dst = 80, .flags = ACK, .vlan = true}, false},
		{{.src = 4000, .dst = 80, .flags = ACK, .fragment = true}, false},
		{{.src = 4000, .dst = 80, .flags = ACK, .options = true}, false},
		{{.src = 4000, .dst = 80, .icmp = true}, true},
		{{.src = 4001, .dst = 80, .icmp = true}, false},
		{{.src = 4000, .dst = 80, .icmp = true, .v6 = true}, true},
		{{.src = 4001, .dst = 80, .icmp = true, .v6 = true}, false},
	};

	ROOT_ONLY();
	n = open_nic(NIC_SHARED, false);
	assert_true(nic_get_info(n)->native && nic_get_info(n)->tcx);
	assert_int_equal(nic_flow_add(n, &k4, 3), 0);
	assert_int_equal(nic_flow_add(n, &k4, 3), -EEXIST);
	assert_int_equal(nic_flow_add(n, &k6, 4), 0);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		struct spec s = cases[i].s;

		s.tag = (uint8_t)(100 + i);
		send_on(sock_b, &s);
		if (cases[i].ours) {
			if (!port_gets(n, s.tag))
				fail_msg("case %zu did not come to the port", i);
		} else if (!arrived(sock_a, s.tag)) {
			fail_msg("case %zu did not come to Linux", i);
		}
	}
	assert_int_equal(nic_flow_del(n, &k4), 0);
	assert_int_equal(nic_flow_del(n, &k4), -ENOENT);
	send_on(sock_b, &(struct spec){.src = 4000, .dst = 80, .flags = ACK, .tag = 90});
	assert_true(arrived(sock_a, 90));
	nic_close(n);
	assert_true(clean());
}

/* Far more frames than the fill ring: every one is recycled. */
static void test_receive_many(void **state)
{
	struct flow_key k = key_of(false, 80, 4000);
	uint32_t got = 0;
	struct nic *n;

	ROOT_ONLY();
	n = open_nic(NIC_SHARED, false);
	assert_int_equal(nic_flow_add(n, &k, 0), 0);
	for (int i = 0; i < 100; i++) {
		for (int j = 0; j < 50; j++)
			send_on(sock_b, &(struct spec){.src = 4000, .dst = 80, .flags = ACK, .payload = 1400});
		for (int tries = 0; tries < 100 && got < 50u * (uint32_t)(i + 1); tries++) {
			struct frame f[16];
			uint32_t q = (uint32_t)tries % 2, r = port_rx(nic_port(n, q), f, 16),
				 r2 = port_rx(nic_port(n, q), f, 3);

			for (uint32_t x = 0; x < r2; x++)
				assert_int_equal(f[x].len, 1454);
			port_rx_release(nic_port(n, q), r);
			port_rx_release(nic_port(n, q), r2);
			got += r + r2;
			if (!r)
				usleep(100);
		}
	}
	assert_int_equal(got, 5000);
	nic_close(n);
}

static void test_transmit(void **state)
{
	struct spec s = {.src = 80, .dst = 4000, .flags = ACK, .payload = 100, .tag = 77, .from_a = true};
	uint32_t sent = 0, got = 0;
	uint8_t f[2048];
	struct port *p;
	struct nic *n;
	uint8_t *buf;

	ROOT_ONLY();
	n = open_nic(NIC_SHARED, false);
	p = nic_port(n, 0);
	assert_int_equal(port_tx_room(p), 512);
	for (int round = 0; round < 20; round++) {
		while ((buf = port_tx_begin(p)) && sent < 400u * (uint32_t)(round + 1)) {
			assert_ptr_equal(buf, port_tx_begin(p));
			port_tx_commit(p, (uint32_t)build(buf, &s));
			sent++;
		}
		for (int i = 0; i < 100 && (i < 1 || port_tx_pending(p)); i++) {
			port_flush(p);
			while (recv(sock_b, f, sizeof f, 0) > 0)
				got += tag_of(f, sizeof f) == 77;
		}
		assert_false(port_tx_pending(p));
	}
	usleep(20000);
	while (recv(sock_b, f, sizeof f, 0) > 0)
		got += tag_of(f, sizeof f) == 77;
	port_flush(p);
	assert_int_equal(sent, 8000);
	assert_int_equal(got, sent);
	assert_int_equal(port_tx_room(p), 512);
	nic_close(n);
}

/* The ring is full when nobody flushes; interface down: nothing is lost but room. */
static void test_transmit_full_and_down(void **state)
{
	struct spec s = {.src = 80, .dst = 4000, .flags = ACK, .tag = 78, .from_a = true};
	uint32_t sent = 0;
	struct port *p;
	struct nic *n;
	uint8_t *buf;

	ROOT_ONLY();
	n = open_nic(NIC_SHARED, false);
	p = nic_port(n, 1);
	sh("ip link set nica down");
	while ((buf = port_tx_begin(p)) && sent < 2000) {
		port_tx_commit(p, (uint32_t)build(buf, &s));
		sent++;
	}
	assert_int_equal(sent, 512);
	assert_int_equal(port_tx_room(p), 0);
	port_flush(p);
	assert_true(port_tx_pending(p));
	sh("ip link set nica up");
	drain(sock_b);
	for (int i = 0; i < 200 && port_tx_pending(p); i++)
		port_flush(p);
	assert_false(port_tx_pending(p));
	assert_int_equal(port_tx_room(p), 512);
	nic_close(n);
}

static bool on_nica(void)
{
	uint32_t id = 0;

	assert_int_equal(bpf_xdp_query_id(nica_ifindex, 0, &id), 0);
	return id;
}

static int wait_change(struct nic *n)
{
	struct pollfd pfd = {.fd = nic_attach_fd(n), .events = POLLIN};
	int rc = poll(&pfd, 1, 5000);

	assert_int_equal(rc, 1);
	return nic_attach_finish(n);
}

/* Detached, every frame is Linux's, both ways; attached again, the flow's come to the same port. */
static void test_on_demand(void **state)
{
	struct spec in = {.src = 4000, .dst = 80, .flags = ACK}, out = {.src = 80, .dst = 4000, .from_a = true};
	struct flow_key k = key_of(false, 80, 4000);
	struct nic *n;

	ROOT_ONLY();
	n = open_nic(NIC_SHARED, false);
	assert_true(nic_get_info(n)->on_demand && !nic_get_info(n)->zerocopy);
	assert_int_equal(nic_attachment(n), NIC_ATTACHED);
	assert_int_equal(nic_attach(n), -EALREADY);
	assert_int_equal(nic_attach_finish(n), -EINPROGRESS);
	for (uint8_t i = 0; i < 10; i++) {
		assert_int_equal(nic_detach(n), 0);
		assert_int_equal(nic_attachment(n), NIC_DETACHING);
		assert_int_equal(nic_attach(n), -EALREADY);
		assert_int_equal(wait_change(n), 0);
		assert_int_equal(nic_attachment(n), NIC_DETACHED);
		assert_false(on_nica());
		in.tag = out.tag = (uint8_t)(100 + 2 * i);
		send_on(sock_b, &in);
		assert_true(arrived(sock_a, in.tag));
		send_on(sock_a, &out);
		assert_true(arrived(sock_b, out.tag));
		assert_int_equal(nic_attach(n), 0);
		assert_int_equal(nic_attachment(n), NIC_ATTACHING);
		assert_int_equal(wait_change(n), 0);
		assert_true(on_nica());
		assert_int_equal(nic_flow_add(n, &k, 3), 0);
		in.tag = out.tag = (uint8_t)(101 + 2 * i);
		send_on(sock_b, &in);
		assert_true(port_gets(n, in.tag));
		send_on(sock_a, &out);
		assert_true(arrived(tap_fd, out.tag));
		assert_int_equal(nic_flow_del(n, &k), 0);
	}
	/* closed in the middle of a change */
	assert_int_equal(nic_detach(n), 0);
	assert_int_equal(wait_change(n), 0);
	assert_int_equal(nic_attach(n), 0);
	nic_close(n);
	assert_true(clean());
}

static void test_always(void **state)
{
	struct nic_config cfg = {.ifname = "nica", .tap_ifindex = tap_ifindex, .max_flows = FLOWS, .frames = 1024};
	struct nic *n;

	ROOT_ONLY();
	cfg.attach = NIC_ATTACH_ALWAYS;
	assert_int_equal(nic_open(&cfg, &n, why, sizeof why), 0);
	assert_false(nic_get_info(n)->on_demand);
	assert_int_equal(nic_detach(n), -EOPNOTSUPP);
	nic_close(n);
	cfg.attach = NIC_ATTACH_DEMAND;
	cfg.mode = NIC_EXCLUSIVE;
	assert_int_equal(nic_open(&cfg, &n, why, sizeof why), 0);
	assert_false(nic_get_info(n)->on_demand);
	nic_close(n);
}

static void egress_and_inject(bool clsact)
{
	struct nic *n = open_nic(NIC_SHARED, clsact);
	struct flow_key k4 = key_of(false, 80, 4000), k6 = key_of(true, 80, 4000);
	struct spec s = {.src = 80, .dst = 4000, .from_a = true};
	uint8_t f[2048] = {0};
	uint64_t expect = 0;
	size_t len;
	const struct {
		uint8_t flags;
		uint16_t payload;
		uint64_t add;
		bool options;
	} cases[] = {
		{ACK, 0, 0, false},
		{ACK, 1, 1, false},
		{ACK | FIN, 0, WORD_FIN, false},
		{ACK | FIN, 5, WORD_FIN + 1, false},
		{RST, 0, WORD_FIN, false},
		{FIN | ACK, 0, WORD_FIN, true},
	};

	assert_int_equal(nic_get_info(n)->tcx, !clsact);
	assert_int_equal(nic_flow_add(n, &k4, 5), 0);
	assert_int_equal(nic_flow_add(n, &k6, 6), 0);
	assert_int_equal(nic_flow_add(n, &k6, FLOWS), -EINVAL);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		s.flags = cases[i].flags;
		s.payload = cases[i].payload;
		s.tag = (uint8_t)(10 + i);
		s.options = cases[i].options;
		send_on(sock_a, &s);
		expect += cases[i].add;
		assert_int_equal(nic_word_read(n, 5), expect);
		if (!arrived(tap_fd, s.tag))
			fail_msg("egress case %zu did not come to the TAP", i);
	}
	nic_word_clear(n, 5);
	assert_int_equal(nic_word_read(n, 5), 0);
	s = (struct spec){
		.v6 = true, .src = 80, .dst = 4000, .from_a = true, .flags = FIN | ACK, .payload = 3, .tag = 20};
	send_on(sock_a, &s);
	assert_int_equal(nic_word_read(n, 6), WORD_FIN + 1);
	assert_true(arrived(tap_fd, 20));
	assert_false(arrived(sock_b, 20));
	/* not in the map: on the wire */
	s = (struct spec){.src = 81, .dst = 4000, .from_a = true, .flags = FIN | ACK, .tag = 21};
	send_on(sock_a, &s);
	assert_true(arrived(sock_b, 21));
	/* what we write to the TAP arrives on the NIC, even if its flow is in the map */
	s = (struct spec){.src = 4000, .dst = 80, .flags = ACK, .tag = 22};
	len = build(f, &s);
	assert_int_equal(write(tap_fd, f, len), len);
	assert_true(arrived(sock_a, 22));
	assert_false(port_gets(n, 22));
	nic_close(n);
	sh("tc qdisc del dev nica clsact 2>/dev/null || true");
}

static void test_egress_tcx(void **state)
{
	ROOT_ONLY();
	egress_and_inject(false);
	assert_true(clean());
}

static void test_egress_clsact(void **state)
{
	ROOT_ONLY();
	egress_and_inject(true);
	assert_true(clean());
}

static void test_exclusive(void **state)
{
	struct flow_key k = key_of(false, 80, 4000);
	struct spec s = {.src = 4001, .dst = 80, .flags = ACK, .tag = 30};
	struct nic *n;
	int sock_tap;

	ROOT_ONLY();
	n = open_nic(NIC_EXCLUSIVE, false);
	send_on(sock_b, &s);
	assert_true(port_gets(n, 30));
	s.vlan = true;
	s.tag = 31;
	send_on(sock_b, &s);
	assert_true(port_gets(n, 31));
	assert_false(arrived(sock_a, 31));
	/* what Linux sends through the TAP comes to us, and counts */
	assert_int_equal(nic_flow_add(n, &k, 9), 0);
	sock_tap = packet_socket("nictap");
	s = (struct spec){.src = 80, .dst = 4000, .from_a = true, .flags = FIN | ACK, .tag = 32};
	send_on(sock_tap, &s);
	assert_int_equal(nic_word_read(n, 9), WORD_FIN);
	assert_true(arrived(tap_fd, 32));
	close(sock_tap);
	nic_close(n);
	assert_true(clean());
}

/*
 * An unprivileged process reads the words through the descriptor it was given, and can do
 * nothing else with it. The service without privileges can still do its work.
 */
static int words_child(struct nic *n)
{
	struct flow_key k = key_of(true, 1, 2);
	int fd = nic_words_fd(n);
	uint64_t v = 1;
	uint32_t i = 2;
	const uint64_t *w;

	if (setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534))
		return 1;
	w = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	if (w == MAP_FAILED)
		return 2;
	if (w[2] != WORD_FIN)
		return 3;
	if (mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) != MAP_FAILED)
		return 4;
	if (!mprotect((void *)w, 4096, PROT_READ | PROT_WRITE))
		return 5;
	if (!bpf_map_update_elem(fd, &i, &v, BPF_ANY))
		return 6;
	nic_word_clear(n, 2);
	if (w[2])
		return 7;
	return nic_flow_add(n, &k, 1) || nic_flow_del(n, &k) ? 8 : 0;
}

static void test_words_descriptor(void **state)
{
	struct flow_key k = key_of(false, 80, 4000);
	struct nic *n;
	int status;
	pid_t pid;

	ROOT_ONLY();
	n = open_nic(NIC_SHARED, false);
	assert_int_equal(nic_flow_add(n, &k, 2), 0);
	send_on(sock_a, &(struct spec){.src = 80, .dst = 4000, .from_a = true, .flags = FIN, .tag = 40});
	pid = fork();
	if (!pid)
		_exit(words_child(n));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 0);
	nic_close(n);
}

static void run_and_kill(bool clsact)
{
	int ready[2], status;
	pid_t pid;
	char c;

	assert_int_equal(pipe(ready), 0);
	pid = fork();
	if (!pid) {
		struct nic *n = open_nic(NIC_SHARED, clsact);

		if (n && write(ready[1], "x", 1) == 1)
			sleep(10);
		_exit(0);
	}
	assert_int_equal(read(ready[0], &c, 1), 1);
	assert_false(clean());
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	close(ready[0]);
	close(ready[1]);
}

static void test_killed(void **state)
{
	bool is_clean = false;

	ROOT_ONLY();
	run_and_kill(false);
	for (int i = 0; i < 100 && !is_clean; i++) { /* links are released by RCU and work queues */
		usleep(10000);
		is_clean = clean();
	}
	assert_true(is_clean);
	/* without TCX a filter stays, harmless, and the next start removes it */
	run_and_kill(true);
	usleep(50000);
	assert_false(clean());
	nic_close(open_nic(NIC_SHARED, false));
	assert_true(clean());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_probe),
		cmocka_unit_test(test_refusals),
		cmocka_unit_test(test_refused_without_privileges),
		cmocka_unit_test(test_shared_receive),
		cmocka_unit_test(test_receive_many),
		cmocka_unit_test(test_transmit),
		cmocka_unit_test(test_transmit_full_and_down),
		cmocka_unit_test(test_on_demand),
		cmocka_unit_test(test_always),
		cmocka_unit_test(test_egress_tcx),
		cmocka_unit_test(test_egress_clsact),
		cmocka_unit_test(test_exclusive),
		cmocka_unit_test(test_words_descriptor),
		cmocka_unit_test(test_killed),
	};

	return cmocka_run_group_tests(tests, lab_setup, NULL);
}
