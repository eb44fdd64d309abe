/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Asking Linux about real connections: the TAP, what may be adopted, the exact state, whose
 * socket it is. Skipped unless root.
 */
/* links: shadow/tap.c shadow/address.c service/base/netlink.c service/base/closer.c shadow/sock.c shadow/repair.c shadow/diag.c shadow/segment.c service/loop/loop.c service/loop/watch.c service/loop/io.c */
/* links: service/wire/build.c service/wire/parse.c service/wire/options.c service/wire/csum.c */
/* links: service/base/addr.c service/base/log.c */
/* libs: -lmnl -luring */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "tests/unit/shadow_lab.h"

#include <linux/filter.h>

#include "service/ipc/abi.h"

static int reuse(int fd)
{
	socklen_t len = sizeof(int);
	int v = -1;

	getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &v, &len);
	return v;
}

/* ---- the TAP ---- */

static void test_tap(void **state)
{
	struct tap_config cfg = {.name = "shdtap", .mtu = 1400};
	struct tap *t = NULL;
	char why[200] = "";

	(void)state;
	assert_int_equal(tap_ifindex(lab.tap), if_nametoindex("shdtap"));
	assert_int_equal(sh("ip link show shdtap | grep -q NOARP.*UP"), 0);
	assert_int_equal(sh("grep -q 1 /proc/sys/net/ipv6/conf/shdtap/disable_ipv6"), 0);
	assert_int_not_equal(tap_open(&cfg, lab.loop, lab_frame, &lab, &t, why, sizeof why), 0);
	assert_non_null(strstr(why, "exists already"));
	cfg.name = "a-name-that-is-far-too-long";
	assert_int_equal(tap_open(&cfg, lab.loop, lab_frame, &lab, &t, why, sizeof why), -EINVAL);
}

static void test_tap_exclusive(void **state)
{
	const char *addresses[] = {"10.77.0.1/24", "fd77::1/64", NULL}, *bad[] = {"10.77.0.1", NULL};
	struct tap_config cfg = {.name = "shdx",
				 .mtu = 1400,
				 .mac = {2, 0, 0, 0, 0, 9},
				 .exclusive = true,
				 .addresses = addresses,
				 .gateway = "10.77.0.254"};
	char why[200] = "";
	struct tap *t;

	(void)state;
	if (tap_open(&cfg, lab.loop, lab_frame, &lab, &t, why, sizeof why))
		fail_msg("%s", why);
	assert_int_equal(sh("ip -4 addr show dev shdx | grep -q 'inet 10.77.0.1/24'"), 0);
	assert_int_equal(sh("ip -6 addr show dev shdx | grep -q 'inet6 fd77::1/64'"), 0);
	assert_int_equal(sh("ip route show default | grep -q 'via 10.77.0.254 dev shdx'"), 0);
	assert_int_equal(sh("ip link show shdx | grep -q 'mtu 1400'"), 0);
	assert_int_equal(sh("ip link show shdx | grep -q 02:00:00:00:00:09"), 0);
	assert_int_not_equal(sh("ip link show shdx | grep -q NOARP"), 0);
	tap_close(t);
	assert_int_equal(if_nametoindex("shdx"), 0);
	cfg.addresses = bad;
	assert_int_equal(tap_open(&cfg, lab.loop, lab_frame, &lab, &t, why, sizeof why), -EINVAL);
	assert_non_null(strstr(why, "10.77.0.1"));
	assert_int_equal(if_nametoindex("shdx"), 0);
}

/* ---- what may be adopted ---- */

static void test_examine(void **state)
{
	struct pair p = lab_connect("0.0.0.0", false, 7001);
	struct sock_filter all[] = {BPF_STMT(BPF_RET | BPF_K, UINT32_MAX)};
	struct sock_fprog prog = {1, all};
	struct sock_state st = {0};
	int fd, off = 0;

	(void)state;
	assert_int_equal(sock_examine(p.fd, &st), 0);
	assert_int_equal(st.key.local_port, htons(7001));
	assert_true(ip_addr_is_v4(&st.key.local) && !st.v6);
	assert_true(st.cookie != 0);
	assert_int_equal(st.uid, 0);
	/* a socket of another namespace */
	assert_int_equal(sock_examine(p.peer, &st), IPC_REASON_NOT_OURS);
	setsockopt(p.fd, SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof prog);
	assert_int_equal(sock_examine(p.fd, &st), IPC_REASON_OPTIONS);
	sock_filter_detach(p.fd);
	setsockopt(p.fd, SOL_SOCKET, SO_PEEK_OFF, &off, sizeof off);
	assert_int_equal(sock_examine(p.fd, &st), IPC_REASON_OPTIONS);
	pair_close(&p);

	fd = socket(AF_INET, SOCK_DGRAM, 0);
	assert_int_equal(sock_examine(fd, &st), IPC_REASON_NOT_TCP);
	close(fd);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(sock_examine(fd, &st), IPC_REASON_FAMILY);
	close(fd);
	fd = socket(AF_INET, SOCK_STREAM, 262);
	if (fd >= 0) {
		assert_int_equal(sock_examine(fd, &st), IPC_REASON_OPTIONS);
		close(fd);
	}
	fd = lab_listen("0.0.0.0", 7001);
	assert_int_equal(sock_examine(fd, &st), IPC_REASON_NOT_TCP);
	close(fd);
	assert_int_equal(sock_examine(0x7fff, &st), IPC_REASON_NOT_TCP);
}

static void test_examine_loopback(void **state)
{
	int l = lab_listen("127.0.0.1", 7002), fd = socket(AF_INET, SOCK_STREAM, 0), a;
	struct sockaddr_storage ss;
	struct sock_state st;
	socklen_t len;

	(void)state;
	lab_address(&ss, &len, "127.0.0.1", 7002);
	assert_int_equal(connect(fd, (struct sockaddr *)&ss, len), 0);
	a = accept(l, NULL, NULL);
	assert_int_equal(sock_examine(a, &st), 0);
	assert_true(st.same_host);
	close(a);
	close(fd);
	close(l);
}

static void md5_key(int fd, const char *addr)
{
	struct tcp_md5sig sig = {.tcpm_keylen = 4, .tcpm_key = "key"};
	socklen_t len;

	lab_address((struct sockaddr_storage *)&sig.tcpm_addr, &len, addr, 0);
	if (setsockopt(fd, IPPROTO_TCP, TCP_MD5SIG, &sig, sizeof sig))
		skip();
}

static void test_examine_md5(void **state)
{
	int l = lab_listen("0.0.0.0", 7003), peer = lab_peer_socket(false), fd;
	struct sockaddr_storage ss;
	struct sock_state st;
	socklen_t len;

	(void)state;
	md5_key(l, LAB_PEER);
	md5_key(peer, LAB_SELF);
	lab_address(&ss, &len, LAB_SELF, 7003);
	assert_int_equal(connect(peer, (struct sockaddr *)&ss, len), 0);
	fd = accept(l, NULL, NULL);
	assert_int_equal(sock_examine(fd, &st), IPC_REASON_OPTIONS);
	close(fd);
	close(peer);
	close(l);
}

/* ---- state ---- */

/* Both ends' states, read at rest, describe the same connection. */
static void state_agrees(bool v6, const char *listen_on, uint16_t port)
{
	struct pair p = lab_connect(listen_on, v6, port);
	struct sock_state a = {0}, b = {0};
	char buf[5000] = "", cc[16] = "";
	socklen_t len = sizeof cc;
	int one = 1;

	setsockopt(p.fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	assert_int_equal(send(p.peer, buf, 3000, 0), 3000);
	assert_int_equal(recv(p.fd, buf, 1000, MSG_WAITALL), 1000);
	assert_int_equal(send(p.fd, buf, 500, 0), 500);
	lab_wait(60);
	assert_int_equal(sock_examine(p.fd, &a), 0);
	assert_int_equal(sock_state_read(p.fd, &a), 0);
	assert_int_equal(sock_state_read(p.peer, &b), 0);
	assert_int_equal(a.v6, listen_on[0] == ':' || v6);
	assert_int_equal(ip_addr_is_v4(&a.key.local), !v6);
	assert_int_equal(a.rcv_nxt, b.snd_nxt);
	assert_int_equal(b.rcv_nxt, a.snd_nxt);
	assert_int_equal(a.snd_una, a.write_seq);
	assert_int_equal(a.snd_una, a.snd_nxt);
	assert_int_equal(a.rcv_queued, 2000);
	assert_int_equal(b.rcv_queued, 500);
	assert_int_equal(a.snd_wscale, b.rcv_wscale);
	assert_int_equal(a.rcv_wup + a.rcv_wnd, b.snd_una + b.snd_wnd);
	assert_true(a.ts && a.sack);
	assert_int_equal(a.mss, v6 ? 1428 : 1448);
	assert_true(a.srtt_us > 0);
	assert_int_equal(getsockopt(p.fd, IPPROTO_TCP, TCP_CONGESTION, cc, &len), 0);
	assert_string_equal(a.congestion, cc);
	assert_int_equal(reuse(p.fd), 1);
	assert_int_equal(repair(p.fd), 0);
	assert_int_equal(reuse(p.peer), 0);
	pair_close(&p);
}

static void test_state(void **state)
{
	(void)state;
	state_agrees(false, "0.0.0.0", 7010);
	state_agrees(true, "::", 7011);
	state_agrees(false, "::", 7012);
}

static void test_state_errors(void **state)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0);
	struct pair p = lab_connect("0.0.0.0", false, 7013);
	struct sock_state st = {0};

	(void)state;
	assert_int_not_equal(sock_state_read(fd, &st), 0);
	assert_int_equal(repair(fd), 0);
	assert_true(sock_state_read(udp, &st) < 0);
	shutdown(p.peer, SHUT_WR);
	lab_wait(20);
	assert_int_equal(sock_state_read(p.fd, &st), IPC_REASON_STATE);
	assert_int_equal(repair(p.fd), 0);
	pair_close(&p);
	close(fd);
	close(udp);
}

/* ---- whose socket ---- */

static void orphan(bool v6, const char *listen_on, uint16_t port)
{
	struct pair p = lab_connect(listen_on, v6, port);
	struct sock_state st = {0};
	int l = lab_listen(listen_on, port), dup_fd = dup(p.fd);

	assert_int_equal(sock_examine(p.fd, &st), 0);
	assert_int_equal(sock_is_orphan(&st.key), 0);
	lab_redirect(v6, port, true); /* its FIN is not answered */
	close(p.fd);
	assert_int_equal(sock_is_orphan(&st.key), 0);
	close(dup_fd);
	assert_int_equal(sock_is_orphan(&st.key), 1);
	lab_redirect(v6, port, false);
	p.fd = -1;
	pair_close(&p);
	lab_wait(300);
	assert_int_equal(sock_is_orphan(&st.key), 1); /* gone; the listener is another */
	close(l);
}

static void test_orphan(void **state)
{
	struct pair p;
	struct sock_state st = {0};

	(void)state;
	orphan(false, "0.0.0.0", 7050);
	orphan(true, "::", 7051);
	orphan(false, "::", 7052);
	/* bound to a device: found only if that is named */
	p = lab_connect("0.0.0.0", false, 7053);
	assert_int_equal(setsockopt(p.fd, SOL_SOCKET, SO_BINDTODEVICE, "shd0", 5), 0);
	assert_int_equal(sock_examine(p.fd, &st), 0);
	assert_int_equal(sock_is_orphan(&st.key), 0);
	pair_close(&p);
}

static void test_fetch(void **state)
{
	struct pair p = lab_connect("0.0.0.0", false, 7060);
	struct sock_state st = {0};
	int fd;

	(void)state;
	assert_int_equal(sock_examine(p.fd, &st), 0);
	fd = sock_fetch(getpid(), p.fd, st.cookie);
	assert_true(fd >= 0 && fd != p.fd);
	close(fd);
	assert_int_equal(sock_fetch(getpid(), p.fd, st.cookie + 1), -ESTALE);
	assert_int_equal(sock_fetch(getpid(), p.peer, st.cookie), -ESTALE);
	assert_int_equal(sock_fetch(getpid(), 0x7fff, st.cookie), -EBADF);
	pair_close(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tap),          cmocka_unit_test(test_tap_exclusive),
		cmocka_unit_test(test_examine),      cmocka_unit_test(test_examine_loopback),
		cmocka_unit_test(test_examine_md5),  cmocka_unit_test(test_state),
		cmocka_unit_test(test_state_errors), cmocka_unit_test(test_orphan),
		cmocka_unit_test(test_fetch),
	};

	if (geteuid()) {
		puts("skipped: needs root");
		return 0;
	}
	return cmocka_run_group_tests(tests, lab_setup, lab_teardown);
}
