/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The watch in a namespace of its own: each kind of change is told, what is no change is not,
 * lost notifications are told as such, and the set of local addresses stays right. Skipped
 * unless root.
 */
/* links: shadow/watch.c shadow/addresses.c service/base/netlink.c service/base/closer.c shadow/sock.c shadow/diag.c shadow/tap.c shadow/address.c */
/* links: service/loop/loop.c service/loop/watch.c service/loop/io.c service/base/addr.c service/base/log.c */
/* libs: -lmnl -luring */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "tests/unit/shadow_lab.h"

#include <sys/wait.h>

#include "shadow/addresses.h"

static struct watch *watch;
static struct {
	unsigned n[WATCH_OVERFLOW + 1];
	struct watch_event last[WATCH_OVERFLOW + 1];
} seen;

static void on_event(void *ctx, const struct watch_event *e)
{
	assert_ptr_equal(ctx, &seen);
	seen.n[e->what]++;
	seen.last[e->what] = *e;
	loop_stop(lab.loop);
}

static bool happened(void *ctx)
{
	return seen.n[*(enum watch_what *)ctx] > 0;
}

/* Run @cmd; was @what told? */
static bool told(const char *cmd, enum watch_what what)
{
	lab_wait(20);
	memset(&seen, 0, sizeof seen);
	sh_ok(cmd);
	return lab_run(happened, &what, 3000);
}

static struct ip_addr addr(const char *text)
{
	struct ip_addr a;

	assert_int_equal(ip_addr_parse(text, &a), 0);
	return a;
}

static bool is_local(const char *text)
{
	struct ip_addr a = addr(text);

	return watch_is_local(watch, &a);
}

static void test_addresses_set(void **state)
{
	struct addresses s = {0};
	struct ip_addr a;

	(void)state;
	for (int i = 0; i < 100; i++) {
		a = ip_addr_v4(htonl(0x0a000000u + (uint32_t)(i * 37 % 100)));
		assert_int_equal(addresses_add(&s, &a, 1 + i % 2), 1);
		assert_int_equal(addresses_add(&s, &a, 1 + i % 2), 0);
	}
	for (uint32_t i = 0; i < 100; i++) {
		a = ip_addr_v4(htonl(0x0a000000u + i));
		assert_true(addresses_have(&s, &a));
	}
	a = ip_addr_v4(htonl(0x0a000000u + 100));
	assert_false(addresses_have(&s, &a));
	a = ip_addr_v4(htonl(0x0a000000u));
	assert_int_equal(addresses_add(&s, &a, 7), 1);
	assert_true(addresses_remove(&s, &a, 1));
	assert_true(addresses_have(&s, &a)); /* still on the other interface */
	assert_true(addresses_remove(&s, &a, 7));
	assert_false(addresses_remove(&s, &a, 7));
	assert_false(addresses_have(&s, &a));
	assert_int_equal(s.n, 99);
	addresses_free(&s);
}

static void test_addresses(void **state)
{
	(void)state;
	assert_true(is_local("127.0.0.1"));
	assert_true(is_local(LAB_SELF));
	assert_true(is_local(LAB_SELF6));
	assert_false(is_local(LAB_PEER));
	assert_false(is_local("10.55.0.77"));
	assert_true(told("ip addr add 10.55.0.77/24 dev shd0", WATCH_ADDRESS));
	assert_int_equal(seen.last[WATCH_ADDRESS].ifindex, if_nametoindex("shd0"));
	assert_true(is_local("10.55.0.77"));
	assert_true(told("ip addr add 10.66.0.1 peer 10.66.0.2 dev shd0", WATCH_ADDRESS));
	assert_true(is_local("10.66.0.1"));
	assert_false(is_local("10.66.0.2"));
	assert_true(told("ip addr del 10.55.0.77/24 dev shd0", WATCH_ADDRESS));
	assert_false(is_local("10.55.0.77"));
	assert_true(told("ip addr add fd55::77/64 dev shd0 nodad", WATCH_ADDRESS));
	assert_true(is_local("fd55::77"));
}

static void test_route_link_neighbour(void **state)
{
	static const uint8_t mac[6] = {2, 0, 0, 0, 0, 0x66}, zero[6];
	struct ip_addr a = addr("10.55.0.66");
	const struct watch_event *e = &seen.last[WATCH_NEIGHBOUR];

	(void)state;
	assert_true(told("ip route add 10.99.0.0/16 via " LAB_PEER, WATCH_ROUTE));
	assert_true(told("ip route del 10.99.0.0/16", WATCH_ROUTE));
	assert_true(told("ip -6 route add fd99::/64 via " LAB_PEER6, WATCH_ROUTE));
	assert_true(told("ip rule add from 10.98.0.0/16 table 99", WATCH_ROUTE));
	assert_true(told("ip link set shd0 mtu 1400", WATCH_LINK));
	assert_int_equal(seen.last[WATCH_LINK].ifindex, if_nametoindex("shd0"));
	assert_true(told("ip neigh replace 10.55.0.66 lladdr 02:00:00:00:00:66 dev shd0", WATCH_NEIGHBOUR));
	assert_true(ip_addr_equal(&e->addr, &a));
	assert_memory_equal(e->mac, mac, 6);
	assert_int_equal(e->ifindex, if_nametoindex("shd0"));
	assert_true(told("ip neigh del 10.55.0.66 dev shd0", WATCH_NEIGHBOUR));
	assert_true(ip_addr_equal(&e->addr, &a));
	assert_memory_equal(e->mac, zero, 6);
}

static void test_rules(void **state)
{
	(void)state;
	if (sh("nft list ruleset"))
		skip();
	assert_true(told("nft add table inet shd", WATCH_RULES));
	assert_int_equal(seen.n[WATCH_RULES], 1); /* one per commit */
	assert_true(told("nft add set inet shd s '{ type ipv4_addr; }'", WATCH_RULES));
	assert_true(told("nft add element inet shd s '{ 10.1.1.1 }'", WATCH_RULES));
	assert_false(told("nft list ruleset", WATCH_RULES));
	assert_true(told("nft delete table inet shd", WATCH_RULES));
}

static void test_conntrack(void **state)
{
	const struct watch_event *e = &seen.last[WATCH_CONNTRACK];
	struct ip_addr self = addr(LAB_SELF), peer = addr(LAB_PEER);
	struct pair p;

	(void)state;
	if (sh("nft add table inet shd; nft add chain inet shd i '{ type filter hook input priority 0; }';"
	       "nft add rule inet shd i ct state established accept; conntrack -L"))
		skip();
	p = lab_connect("0.0.0.0", false, 7101); /* they opened it */
	assert_true(told("conntrack -D -p tcp --dport 7101", WATCH_CONNTRACK));
	assert_true(ip_addr_equal(&e->key.local, &self));
	assert_true(ip_addr_equal(&e->key.remote, &peer));
	assert_int_equal(e->key.local_port, htons(7101));
	pair_close(&p);
	sh_ok("nft delete table inet shd");
}

/* Until no more is told. */
static void drain(void)
{
	for (unsigned i = 0, before = 0; i < 100; i++, before = seen.n[WATCH_NEIGHBOUR]) {
		lab_wait(50);
		if (seen.n[WATCH_NEIGHBOUR] == before)
			return;
	}
}

/* More notifications than any buffer holds, none read meanwhile: told once, and the addresses are right after. */
static void test_overflow(void **state)
{
	enum watch_what what = WATCH_OVERFLOW;
	FILE *f;

	(void)state;
	lab_wait(20);
	memset(&seen, 0, sizeof seen);
	f = popen("ip -batch - >/dev/null 2>&1", "w");
	assert_non_null(f);
	for (unsigned i = 0; i < 24000; i++)
		fprintf(f, "neigh replace 10.55.%u.%u lladdr 02:00:00:00:00:66 nud permanent dev shd0\n", 1 + i / 250,
			1 + i % 250);
	fprintf(f, "addr add 10.55.0.88/24 dev shd0\n");
	assert_int_equal(pclose(f), 0);
	assert_true(lab_run(happened, &what, 2000));
	drain();
	assert_int_equal(seen.n[WATCH_OVERFLOW], 1);
	assert_true(seen.n[WATCH_NEIGHBOUR] > 1000);
	assert_true(is_local("10.55.0.88"));
	assert_false(is_local("10.55.0.77"));
	/* and it goes on */
	assert_true(told("ip addr del 10.55.0.88/24 dev shd0", WATCH_ADDRESS));
	assert_false(is_local("10.55.0.88"));
}

/* What connections within the host need, as root and as somebody who may not see rules. Returns what it has found. */
static unsigned local_watch(void)
{
	struct watch *w = NULL;
	struct loop *loop;
	struct ip_addr a;
	unsigned found;

	if (loop_open(64, &loop) || watch_open_local(loop, on_event, &seen, &w) || ip_addr_parse(LAB_SELF, &a))
		return 0;
	found = 1 | (watch_is_local(w, &a) ? 2 : 0) | (watch_sees_rules(w) ? 4 : 0);
	watch_close(w);
	loop_close(loop);
	return found;
}

static void test_local(void **state)
{
	int status;
	pid_t pid;

	(void)state;
	assert_int_equal(local_watch(), 7);
	pid = fork();
	if (!pid)
		_exit(setresgid(65534, 65534, 65534) || setresuid(65534, 65534, 65534) ? 99 : (int)local_watch());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 3);
}

static int setup(void **state)
{
	(void)state;
	lab_world();
	return watch_open(lab.loop, on_event, &seen, &watch);
}

static int teardown(void **state)
{
	(void)state;
	watch_close(watch);
	loop_close(lab.loop);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_addresses_set),
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_route_link_neighbour),
		cmocka_unit_test(test_rules),
		cmocka_unit_test(test_conntrack),
		cmocka_unit_test(test_overflow),
		cmocka_unit_test(test_local),
	};

	if (geteuid()) {
		puts("skipped: needs root");
		return 0;
	}
	return cmocka_run_group_tests(tests, setup, teardown);
}
