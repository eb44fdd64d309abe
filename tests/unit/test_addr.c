/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Addresses and 4-tuples: text both ways, socket addresses, what is never a peer. */
/* links: service/base/addr.c */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>

#include "service/base/addr.h"
#include "service/base/compiler.h"

static struct ip_addr addr(const char *text)
{
	struct ip_addr a;

	assert_int_equal(ip_addr_parse(text, &a), 0);
	return a;
}

static void text_both_ways(void **state)
{
	static const struct {
		const char *in, *out;
	} table[] = {
		{"10.0.0.1", "10.0.0.1"},
		{"0.0.0.0", "0.0.0.0"},
		{"255.255.255.255", "255.255.255.255"},
		{"::1", "::1"},
		{"::", "::"},
		{"fe80::1", "fe80::1"},
		{"2001:db8:0:0:0:0:0:5", "2001:db8::5"},
		{"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"::ffff:192.0.2.7", "192.0.2.7"}, /* one address, however it is written */
	};
	char buf[FLOW_KEY_TEXT_MAX];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		struct ip_addr a = addr(table[i].in);

		assert_string_equal(ip_addr_text(&a, buf, sizeof buf), table[i].out);
	}
}

static void bad_text_is_refused(void **state)
{
	static const char *const table[] = {"",     "10.0.0", "10.0.0.256", "10.0.0.1 ", "1.2.3.4.5",
					    "host", ":::",    "::g",        "1:2",       "fe80::1%eth0"};
	struct ip_addr a;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		assert_int_equal(ip_addr_parse(table[i], &a), -EINVAL);
}

static void special_addresses(void **state)
{
	static const char *const special[] = {"127.0.0.1", "127.255.255.255", "0.0.0.0",         "0.1.2.3", "224.0.0.1",
					      "239.1.1.1", "240.0.0.1",       "255.255.255.255", "::",      "::1",
					      "ff02::1",   "::ffff:127.0.0.1"};
	static const char *const ordinary[] = {
		"1.0.0.0",     "10.0.0.1", "126.255.255.255", "128.0.0.1", "223.255.255.255", "192.168.0.1", "fe80::1",
		"2001:db8::1", "::2",      "fc00::1",         "1::"};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(special); i++) {
		struct ip_addr a = addr(special[i]);

		assert_true(ip_addr_is_special(&a));
	}
	for (size_t i = 0; i < ARRAY_SIZE(ordinary); i++) {
		struct ip_addr a = addr(ordinary[i]);

		assert_false(ip_addr_is_special(&a));
	}
}

static void socket_addresses(void **state)
{
	struct sockaddr_storage ss = {0};
	struct sockaddr_in *in = (struct sockaddr_in *)&ss;
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&ss;
	struct ip_addr a, want = addr("192.0.2.9");
	uint16_t port;

	(void)state;
	in->sin_family = AF_INET;
	in->sin_port = htons(443);
	inet_pton(AF_INET, "192.0.2.9", &in->sin_addr);
	assert_int_equal(ip_addr_from_sockaddr(&ss, &a, &port), 0);
	assert_true(ip_addr_equal(&a, &want));
	assert_int_equal(ntohs(port), 443);

	/* an IPv4 connection of an AF_INET6 socket has the same key */
	memset(&ss, 0, sizeof ss);
	in6->sin6_family = AF_INET6;
	in6->sin6_port = htons(80);
	inet_pton(AF_INET6, "::ffff:192.0.2.9", &in6->sin6_addr);
	assert_int_equal(ip_addr_from_sockaddr(&ss, &a, &port), 0);
	assert_true(ip_addr_equal(&a, &want) && ip_addr_is_v4(&a));
	assert_int_equal(ntohs(port), 80);

	ss.ss_family = AF_UNIX;
	assert_int_equal(ip_addr_from_sockaddr(&ss, &a, &port), -EAFNOSUPPORT);
}

static void key_text_fits_and_is_cut(void **state)
{
	struct flow_key k4 = {addr("10.0.0.1"), addr("10.0.0.2"), htons(80), htons(40000)};
	struct flow_key k6 = {addr("1111:2222:3333:4444:5555:6666:7777:8888"),
			      addr("aaaa:bbbb:cccc:dddd:eeee:ffff:1111:2222"), htons(65535), htons(65535)};
	char buf[FLOW_KEY_TEXT_MAX], small[8];

	(void)state;
	assert_string_equal(flow_key_text(&k4, buf, sizeof buf), "10.0.0.1:80 > 10.0.0.2:40000");
	assert_string_equal(
		flow_key_text(&k6, buf, sizeof buf),
		"[1111:2222:3333:4444:5555:6666:7777:8888]:65535 > [aaaa:bbbb:cccc:dddd:eeee:ffff:1111:2222]:65535");
	assert_string_equal(flow_key_text(&k4, small, sizeof small), "10.0.0.");
	assert_string_equal(ip_addr_text(&k6.local, small, sizeof small), "");
}

static void keys_compare(void **state)
{
	struct flow_key a = {addr("10.0.0.1"), addr("10.0.0.2"), htons(80), htons(40000)}, b = a;

	(void)state;
	assert_true(flow_key_equal(&a, &b));
	b.remote_port++;
	assert_false(flow_key_equal(&a, &b));
	assert_int_equal(sizeof a, 36); /* hashed as bytes: no padding */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_both_ways),           cmocka_unit_test(bad_text_is_refused),
		cmocka_unit_test(special_addresses),        cmocka_unit_test(socket_addresses),
		cmocka_unit_test(key_text_fits_and_is_cut), cmocka_unit_test(keys_compare),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
