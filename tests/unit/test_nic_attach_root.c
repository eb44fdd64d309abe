/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The NIC's programs on a veth pair: XDP that comes and goes, what tc egress redirects and
 * counts, what the TAP injects, the array of words, and that a killed process leaves nothing
 * attached. Skipped unless root.
 */
/* links: service/base/netlink.c service/nic/nic.c service/nic/port.c service/nic/links.c service/nic/attach.c service/nic/probe.c service/base/log.c */
/* libs: -lxdp -lbpf -lmnl */
#include "tests/unit/nic_lab.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "service/base/log.h"

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

#define TCX_EGRESS 47 /* BPF_TCX_EGRESS */

/* Of a kernel with TCX: is anything looking at what leaves the NIC? */
static bool on_egress(void)
{
	LIBBPF_OPTS(bpf_prog_query_opts, q);

	assert_int_equal(bpf_prog_query_opts(nica_ifindex, TCX_EGRESS, &q), 0);
	return q.prog_cnt;
}

/* The step below: in half of the cases. */
static void strip(struct nic *n, bool wanted)
{
	if (!nic_get_info(n)->tcx) {
		assert_int_equal(nic_strip(n), -EOPNOTSUPP);
		return;
	}
	assert_true(on_egress());
	if (!wanted)
		return;
	assert_int_equal(nic_strip(n), 0);
	assert_int_equal(nic_attachment(n), NIC_DETACHING);
	assert_int_equal(wait_change(n), 0);
	assert_int_equal(nic_attachment(n), NIC_BARE);
	assert_int_equal(nic_strip(n), -EALREADY);
	assert_int_equal(nic_detach(n), -EALREADY);
	assert_false(on_egress());
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
		assert_int_equal(nic_strip(n), nic_get_info(n)->tcx ? -EALREADY : -EOPNOTSUPP);
		assert_int_equal(nic_detach(n), 0);
		assert_int_equal(nic_attachment(n), NIC_DETACHING);
		assert_int_equal(nic_attach(n), -EALREADY);
		assert_int_equal(wait_change(n), 0);
		assert_int_equal(nic_attachment(n), NIC_DETACHED);
		assert_false(on_nica());
		strip(n, i % 2);
		in.tag = out.tag = (uint8_t)(100 + 2 * i);
		send_on(sock_b, &in);
		assert_true(arrived(sock_a, in.tag));
		send_on(sock_a, &out);
		assert_true(arrived(sock_b, out.tag));
		assert_int_equal(nic_attach(n), 0);
		assert_int_equal(nic_attachment(n), NIC_ATTACHING);
		assert_int_equal(wait_change(n), 0);
		assert_true(on_nica());
		assert_true(!nic_get_info(n)->tcx || on_egress());
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

/* Start and stop, on an interface that has no clsact qdisc and on one that has: libbpf has no warning to give. */
static void test_silent(void **state)
{
	int saved, fd;
	off_t said;

	ROOT_ONLY();
	fd = memfd_create("stderr", MFD_CLOEXEC);
	saved = dup(2);
	assert_true(fd >= 0 && saved >= 0 && dup2(fd, 2) == 2);
	log_open("test", LOG_LEVEL_DEBUG);
	nic_close(open_nic(NIC_SHARED, false));
	nic_close(open_nic(NIC_SHARED, true));
	nic_close(open_nic(NIC_SHARED, true));
	nic_close(open_nic(NIC_SHARED, false));
	sh("tc qdisc del dev nica clsact");
	said = lseek(fd, 0, SEEK_END);
	log_open("test", LOG_LEVEL_INFO);
	dup2(saved, 2);
	close(saved);
	close(fd);
	assert_int_equal(said, 0);
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
		cmocka_unit_test(test_on_demand),        cmocka_unit_test(test_always),
		cmocka_unit_test(test_egress_tcx),       cmocka_unit_test(test_egress_clsact),
		cmocka_unit_test(test_silent),           cmocka_unit_test(test_exclusive),
		cmocka_unit_test(test_words_descriptor), cmocka_unit_test(test_killed),
	};

	return cmocka_run_group_tests(tests, lab_setup, NULL);
}
