/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A service without a NIC: what the slow and the fast path find in its place. Needs no privilege. */
/* links: service/base/netlink.c service/nic/nic.c service/nic/port.c service/nic/links.c service/nic/attach.c service/nic/probe.c service/base/log.c */
/* libs: -lxdp -lbpf -lmnl */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "service/nic/nic.h"

static void nothing_comes_or_goes(void **state)
{
	struct frame frames[8];
	struct nic *n = NULL;
	struct port *p;

	(void)state;
	assert_int_equal(nic_open_none(&n), 0);
	assert_int_equal(nic_get_info(n)->queues, 1);
	p = nic_port(n, 0);
	assert_non_null(p);
	assert_null(nic_port(n, 1));
	for (int turn = 0; turn < 3; turn++) {
		assert_int_equal(port_rx(p, frames, 8), 0);
		assert_false(port_rx_ready(p));
		port_rx_release(p, 0);
		assert_true(port_tx_room(p) > 0); /* flows that need no frames never wait for it */
		assert_null(port_tx_begin(p));
		port_tx_commit(p, 64);
		port_flush(p);
		assert_false(port_tx_pending(p));
	}
	assert_int_equal(port_fd(p), -1);
	nic_close(n);
}

static void no_flows_and_no_words(void **state)
{
	struct flow_key key;
	struct nic *n = NULL;

	(void)state;
	memset(&key, 0, sizeof key);
	assert_int_equal(nic_open_none(&n), 0);
	assert_false(nic_get_info(n)->on_demand);
	assert_int_equal(nic_attachment(n), NIC_ATTACHED);
	assert_int_equal(nic_attach(n), -EOPNOTSUPP);
	assert_int_equal(nic_detach(n), -EOPNOTSUPP);
	assert_int_equal(nic_strip(n), -EOPNOTSUPP);
	assert_true(nic_flow_add(n, &key, 0) < 0);
	assert_int_equal(nic_flow_del(n, &key), -ENOENT);
	assert_int_equal(nic_words_fd(n), -1);
	assert_true(nic_word_read(n, 0) == 0);
	nic_word_clear(n, 0);
	nic_close(n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_comes_or_goes),
		cmocka_unit_test(no_flows_and_no_words),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
