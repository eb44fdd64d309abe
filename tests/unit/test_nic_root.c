/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The NIC on a veth pair: what it refuses and why, which frames come to the port and which
 * stay Linux's, and sending. Skipped unless root.
 */
/* links: service/base/netlink.c service/nic/nic.c service/nic/port.c service/nic/links.c service/nic/attach.c service/nic/probe.c service/base/log.c */
/* libs: -lxdp -lbpf -lmnl */
#include "tests/unit/nic_lab.h"

#include <sys/wait.h>

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
	};

	return cmocka_run_group_tests(tests, lab_setup, NULL);
}
