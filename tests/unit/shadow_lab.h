/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A small world for the tests of shadow/: this process in a network namespace of its own with
 * the NIC (a veth, 10.55.0.2, fd55::2), its peer 10.55.0.1, fd55::1 in another, and the TAP in
 * shared mode, whose frames tc redirects to the NIC's ingress. Both namespaces vanish with
 * the process: a socket stays in the namespace it was made in.
 */
#ifndef TESTS_UNIT_SHADOW_LAB_H
#define TESTS_UNIT_SHADOW_LAB_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "service/base/addr.h"
#include "service/base/clock.h"
#include "service/loop/loop.h"
#include "shadow/shadow.h"

#define LAB_SELF "10.55.0.2"
#define LAB_PEER "10.55.0.1"
#define LAB_SELF6 "fd55::2"
#define LAB_PEER6 "fd55::1"
#define LAB_FRAMES 64

struct lab {
	int ns, peer_ns;
	uint8_t mac[6], peer_mac[6];
	struct loop *loop;
	struct tap *tap;
	/* frames read from the TAP: all since lab_forget() */
	struct {
		uint8_t data[2048];
		uint32_t len;
	} frame[LAB_FRAMES];
	unsigned frames;
};
static struct lab lab;

static inline int sh(const char *cmd)
{
	char line[512];

	snprintf(line, sizeof line, "{ %s\n} >/dev/null 2>&1", cmd);
	return system(line);
}

static inline void sh_ok(const char *cmd)
{
	if (sh(cmd))
		fail_msg("failed: %s", cmd);
}

static inline void lab_mac(const char *ifname, uint8_t mac[6])
{
	char path[120];
	unsigned b[6];
	FILE *f;

	snprintf(path, sizeof path, "ip -o link show %s | grep -o 'link/ether [^ ]*' | cut -c12-", ifname);
	f = popen(path, "r");
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%x:%x:%x:%x:%x:%x", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5]), 6);
	pclose(f);
	for (unsigned i = 0; i < 6; i++)
		mac[i] = (uint8_t)b[i];
}

static inline int lab_ns(void)
{
	int fd;

	if (unshare(CLONE_NEWNET))
		return -1;
	fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	return fd;
}

static inline void lab_frame(void *ctx, const uint8_t *frame, uint32_t len)
{
	struct lab *l = ctx;

	if (l->frames < LAB_FRAMES && len <= sizeof l->frame[0].data) {
		memcpy(l->frame[l->frames].data, frame, len);
		l->frame[l->frames++].len = len;
	}
	loop_stop(l->loop);
}

static inline void lab_forget(void)
{
	lab.frames = 0;
}

static inline void lab_time_up(void *ctx, uint64_t now_ns)
{
	(void)now_ns;
	*(bool *)ctx = true;
	loop_stop(lab.loop);
}

/* Run the loop until @cond says so. False: time is up. */
static inline bool lab_run(bool (*cond)(void *), void *ctx, unsigned ms)
{
	bool up = false;
	int timer = loop_timer(lab.loop, ms * NS_PER_MS, 0, lab_time_up, &up);
	bool met;

	while (!(met = cond && cond(ctx)) && !up)
		assert_int_equal(loop_run(lab.loop), 0);
	if (!up)
		loop_timer_cancel(lab.loop, timer);
	return met;
}

static inline bool lab_never(void *ctx)
{
	(void)ctx;
	return false;
}

static inline void lab_wait(unsigned ms)
{
	lab_run(lab_never, NULL, ms);
}

/* The namespaces and the veth pair; the caller is then in the first one. */
static inline void lab_world(void)
{
	char cmd[200];

	lab.peer_ns = lab_ns();
	lab.ns = lab_ns();
	assert_true(lab.ns >= 0 && lab.peer_ns >= 0);
	snprintf(cmd, sizeof cmd, "ip link add shd0 type veth peer name shd1 netns /proc/%d/fd/%d", (int)getpid(),
		 lab.peer_ns);
	sh_ok(cmd);
	sh_ok("ip link set lo up; ip addr add " LAB_SELF "/24 dev shd0; ip link set shd0 up;"
	      "ip addr add " LAB_SELF6 "/64 dev shd0 nodad");
	lab_mac("shd0", lab.mac);
	assert_int_equal(setns(lab.peer_ns, CLONE_NEWNET), 0);
	sh_ok("ip link set lo up; ip addr add " LAB_PEER "/24 dev shd1; ip link set shd1 up;"
	      "ip addr add " LAB_PEER6 "/64 dev shd1 nodad; ethtool -K shd1 tx off");
	lab_mac("shd1", lab.peer_mac);
	assert_int_equal(setns(lab.ns, CLONE_NEWNET), 0);
	assert_int_equal(loop_open(64, &lab.loop), 0);
}

static inline void lab_tap(void)
{
	struct tap_config cfg = {.name = "shdtap", .mtu = 1500};
	char why[200] = "";

	memcpy(cfg.mac, lab.mac, 6);
	if (tap_open(&cfg, lab.loop, lab_frame, &lab, &lab.tap, why, sizeof why))
		fail_msg("tap_open: %s", why);
	assert_int_equal(tap_start(lab.tap), 0);
	sh_ok("tc qdisc add dev shdtap clsact; tc qdisc add dev shd0 clsact;"
	      "tc filter add dev shdtap ingress protocol all u32 match u32 0 0 action mirred ingress redirect dev "
	      "shd0");
}

/* What Linux sends for local port @port goes into the TAP from now on, or no more. */
static inline void lab_redirect(bool v6, uint16_t port, bool on)
{
	char cmd[300];

	if (on)
		snprintf(cmd, sizeof cmd,
			 "tc filter add dev shd0 egress pref %d protocol %s u32 match %s sport %u 0xffff "
			 "action mirred egress redirect dev shdtap",
			 v6 ? 6 : 4, v6 ? "ipv6" : "ip", v6 ? "ip6" : "ip", port);
	else
		snprintf(cmd, sizeof cmd, "tc filter del dev shd0 egress pref %d", v6 ? 6 : 4);
	sh_ok(cmd);
}

/* A connection to ourselves: @fd is ours (the passive side, at @port), @peer the peer's end. */
struct pair {
	int fd, peer;
	bool v6;
	uint16_t port;
};

static inline void lab_address(struct sockaddr_storage *ss, socklen_t *len, const char *text, uint16_t port)
{
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)ss;
	struct sockaddr_in *four = (struct sockaddr_in *)ss;

	memset(ss, 0, sizeof *ss);
	if (strchr(text, ':')) {
		six->sin6_family = AF_INET6;
		six->sin6_port = htons(port);
		assert_int_equal(inet_pton(AF_INET6, text, &six->sin6_addr), 1);
		*len = sizeof *six;
	} else {
		four->sin_family = AF_INET;
		four->sin_port = htons(port);
		assert_int_equal(inet_pton(AF_INET, text, &four->sin_addr), 1);
		*len = sizeof *four;
	}
}

static inline int lab_listen(const char *text, uint16_t port)
{
	struct sockaddr_storage ss;
	socklen_t len;
	int one = 1, fd;

	lab_address(&ss, &len, text, port);
	fd = socket(ss.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	assert_int_equal(bind(fd, (struct sockaddr *)&ss, len), 0);
	assert_int_equal(listen(fd, 8), 0);
	return fd;
}

static inline int lab_peer_socket(bool v6)
{
	int fd;

	assert_int_equal(setns(lab.peer_ns, CLONE_NEWNET), 0);
	fd = socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(setns(lab.ns, CLONE_NEWNET), 0);
	assert_true(fd >= 0);
	return fd;
}

/* @listen_on: "0.0.0.0", "::" (with @v6 false: an IPv6 socket with mapped addresses) ... The listener is closed again. */
static inline struct pair lab_connect(const char *listen_on, bool v6, uint16_t port)
{
	struct pair p = {.v6 = v6, .port = port};
	struct timeval tv = {.tv_sec = 2};
	int l = lab_listen(listen_on, port);
	struct sockaddr_storage ss;
	socklen_t len;

	p.peer = lab_peer_socket(v6);
	setsockopt(p.peer, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
	setsockopt(p.peer, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
	lab_address(&ss, &len, v6 ? LAB_SELF6 : LAB_SELF, port);
	if (connect(p.peer, (struct sockaddr *)&ss, len))
		fail_msg("connect: %s", strerror(errno));
	p.fd = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	assert_true(p.fd >= 0);
	setsockopt(p.fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
	close(l);
	return p;
}

static inline void pair_close(struct pair *p)
{
	struct linger reset = {1, 0};

	if (p->fd >= 0) {
		sock_filter_detach(p->fd);
		setsockopt(p->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
		close(p->fd);
	}
	setsockopt(p->peer, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
	close(p->peer);
}

/* Is the socket in repair mode? */
static inline int repair(int fd)
{
	socklen_t len = sizeof(int);
	int v = -1;

	getsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &v, &len);
	return v;
}

/* ---- a group of tests, with a TAP ---- */

static inline int lab_setup(void **state)
{
	(void)state;
	if (geteuid())
		return 0;
	lab_world();
	lab_tap();
	return 0;
}

static inline int lab_teardown(void **state)
{
	(void)state;
	if (geteuid())
		return 0;
	if (!lab.tap)
		return 0;
	assert_int_equal(tap_write_failures(lab.tap), 0);
	loop_close(lab.loop);
	tap_close(lab.tap);
	return 0;
}

#endif
